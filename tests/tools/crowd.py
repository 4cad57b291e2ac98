"""Many kept connections that work through a list of requests; every answer is kept, with when it began and ended.

    answers = crowd(server.address, [f"/query/?id={i}" for i in range(10000)], at_once=128)
    answers = crowd(server.address, targets, at_once=64, after={500: backends_die})

A connection that the server closes after an answer is opened again; a request that gets no whole answer has an `error` and no
status. The thread that calls runs it all; `after` names functions that are called when so many answers have come, between two
events of this client: what is in flight then is known exactly (`begun` before, `ended` after).
"""

import collections
import json
import re
import selectors
import socket
import time

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.I)
CLOSE = re.compile(rb"\r\nconnection: *close", re.I)


class Answer:
    __slots__ = ("target", "begun", "ended", "status", "head", "body", "error")

    def __init__(self, target):
        self.target, self.begun = target, time.monotonic()
        self.ended = self.status = self.error = None
        self.head = self.body = b""

    def __repr__(self):
        return f"<{self.target}: {self.status or self.error} {self.body[:200]!r}>"

    def json(self):
        return json.loads(self.body)

    def header(self, name):
        match = re.search(rb"\r\n" + re.escape(name.encode()) + rb": *([^\r]*)", self.head, re.I)
        return match[1].decode() if match else None


class _Client:
    """One connection."""

    def __init__(self, crowd):
        self.crowd, self.sock, self.answer, self.data, self.served = crowd, None, None, b"", 0

    def begin(self):
        """The next request; false when there is none."""
        if not self.crowd.targets:
            self.close()
            return False
        self.answer = Answer(self.crowd.targets.popleft())
        self.ask()
        return True

    def ask(self):
        if self.sock is None:
            self.sock = socket.create_connection(self.crowd.address, 10)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setblocking(False)
            self.crowd.selector.register(self.sock, selectors.EVENT_READ, self)
            self.served = 0
        self.data = b""
        try:
            self.sock.send(f"GET {self.answer.target} HTTP/1.1\r\nHost: crowd\r\n\r\n".encode())
        except OSError as e:
            self.lost(repr(e))

    def close(self):
        if self.sock is not None:
            self.crowd.selector.unregister(self.sock)
            self.sock.close()
            self.sock = None

    def lost(self, why):
        """A kept connection that ends before a byte of the answer may have ended before it was asked: once more, on a fresh one."""
        self.close()
        if not self.data and self.served:
            self.ask()
        else:
            self.answer.error = why
            self.done()

    def on_readable(self):
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as e:
            return self.lost(repr(e))
        if not data:
            return self.lost("closed" + (" inside the answer" if self.data else ""))
        self.data += data
        head, mark, body = self.data.partition(b"\r\n\r\n")
        if not mark:
            return
        if length := LENGTH.search(head):
            if len(body) < int(length[1]):
                return
        elif CHUNKED.search(head):
            if not body.endswith(b"0\r\n\r\n"):
                return
            body = b"".join(_chunks(body))
        self.answer.status, self.answer.head, self.answer.body = int(head[9:12]), head, body
        self.served += 1
        if CLOSE.search(head):
            self.close()
        self.done()

    def done(self):
        self.answer.ended = time.monotonic()
        self.crowd.on_answer(self.answer)
        self.answer = None
        if not self.begin():
            self.crowd.busy.discard(self)


def _chunks(body):
    while body:
        size, _, rest = body.partition(b"\r\n")
        yield rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]


class _Crowd:
    def __init__(self, address, targets, at_once, after):
        self.address, self.targets = tuple(address), collections.deque(targets)
        self.selector, self.answers = selectors.DefaultSelector(), []
        self.after = dict(after or {})
        self.busy = {_Client(self) for _ in range(min(at_once, len(self.targets)))}

    def on_answer(self, answer):
        self.answers.append(answer)
        if call := self.after.pop(len(self.answers), None):
            call()

    def run(self, timeout):
        deadline = time.monotonic() + timeout
        try:
            for client in list(self.busy):
                if not client.begin():
                    self.busy.discard(client)
            while self.busy:
                if time.monotonic() > deadline:
                    waiting = [c.answer for c in self.busy]
                    raise AssertionError(f"not answered within {timeout} s: {waiting[:5]}, {len(waiting)} in all, {len(self.answers)} were")
                for key, _ in self.selector.select(1):
                    key.data.on_readable()
        finally:
            for client in self.busy:
                client.close()
            self.selector.close()
        return self.answers


def crowd(address, targets, at_once, timeout=60, after=None):
    """The answers, in the order they came. AssertionError when some request is not answered in time."""
    return _Crowd(address, targets, at_once, after).run(timeout)
