"""A load client that accounts for every request: answered, retried once as a proxy would, or failed and why.

    with Load(address, [group("keep", 16, ["/instant"]), group("close", 8, ["/instant", "/late"])]) as load:
        ...                       # signals to the server
        tally = load.stop()       # requests in flight are finished first
        assert not tally.failures

What a failure is. A kept connection that is found closed (or reset) before one byte of the answer is no failure: the
client cannot know that the server closed it while the request was on its way, so the request is sent once more on a fresh
connection (RFC 9110 section 9.2.2) and counted as retried. Everything else is a failure: on a fresh connection a refusal,
reset or close; an answer that ends early; a status other than 200; a body that is not what this very request asked for;
anything that takes longer than `timeout` seconds; a connection that stays open after `Connection: close`.

Every request has a number of its own in its query, and the application answers with its query as the body (see
tests/stress/apps.py), so an answer that belongs to another request is seen. An `x-pid` header says which process answered.

The client runs in processes of its own, so neither Python's lock nor the descriptor limit of the caller's matters.
One process is one thread over epoll. Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

import collections
import errno
import heapq
import itertools
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time

IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: a source address without taking a port of all destinations
FAILURES_KEPT = 500
SWEEP = 0.25  # seconds between two looks at the deadlines

# kind: keep   one connection for as long as the server lets it          close   a fresh connection for each request
#       hold   one request, then the connection is held open              poll    one request whose answer may take long
KINDS = ("keep", "close", "hold", "poll")


def group(kind, n, paths, pause=0.0, jitter=0.0, timeout=5.0, sources=("127.0.0.1",), opening=100):
    """n clients of one kind.

    pause     seconds between an answer and the next request (keep, close)
    jitter    up to so many seconds more, at random
    timeout   seconds for each request, its connection included
    opening   how many connections of a hold or poll group may be in the making at a time"""
    assert kind in KINDS
    return {
        "kind": kind, "n": n, "paths": list(paths), "pause": pause, "jitter": jitter, "timeout": timeout,
        "sources": list(sources), "opening": opening,
    }  # fmt: skip


# ------------------------------------------------------------------ answers


class Bad(Exception):
    """The answer is not HTTP as this client expects it."""


class Answer:
    """Parses one answer from bytes as they come."""

    __slots__ = ("head", "buffer", "body", "left", "pid", "closes")

    def __init__(self):
        self.head = self.left = self.pid = None
        self.buffer, self.body, self.closes = b"", b"", False

    def feed(self, data):
        """True when the answer is complete."""
        self.buffer += data
        if self.head is None:
            head, mark, rest = self.buffer.partition(b"\r\n\r\n")
            if not mark:
                return False
            self.begin(head)
            self.buffer = rest
        if self.left is not None:
            if len(self.buffer) > self.left:
                raise Bad("bytes after the answer")
            if len(self.buffer) < self.left:
                return False
            self.body = self.buffer
            return True
        return self.chunks()

    def begin(self, head):
        self.head = head
        lines = head.split(b"\r\n")
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip()
        if not lines[0].startswith(b"HTTP/1.1 200"):
            raise Bad(f"status {lines[0][:60]!r}")
        self.closes = b"close" in fields.get(b"connection", b"").lower()
        self.pid = int(fields[b"x-pid"]) if b"x-pid" in fields else None
        if b"content-length" in fields:
            self.left = int(fields[b"content-length"])
        elif fields.get(b"transfer-encoding", b"").lower() != b"chunked":
            raise Bad("neither a length nor chunks")

    def chunks(self):
        while True:
            line, mark, rest = self.buffer.partition(b"\r\n")
            if not mark:
                return False
            size = int(line, 16)
            if len(rest) < size + 2:
                return False
            if rest[size : size + 2] != b"\r\n":
                raise Bad("a chunk without its end")
            self.body += rest[:size]
            self.buffer = rest[size + 2 :]
            if size == 0:
                if self.buffer:
                    raise Bad("bytes after the answer")
                return True


# ------------------------------------------------------------------ accounting


class Tally:
    """What became of the requests. Tallies of several processes add up."""

    def __init__(self):
        self.ok = self.connections = self.told_to_close = self.closed_idle = self.failed = 0
        self.retried = collections.Counter()  # "closed", "reset" -> requests sent once more
        self.pids = collections.Counter()  # process -> answers
        self.failures = []  # the first FAILURES_KEPT, as dicts
        self.latencies = []
        self.last_at = self.first_at = None

    def as_json(self):
        return {**self.__dict__, "retried": dict(self.retried), "pids": dict(self.pids)}

    def add(self, other):
        for name in ("ok", "connections", "told_to_close", "closed_idle", "failed"):
            setattr(self, name, getattr(self, name) + other[name])
        self.retried.update(other["retried"])
        self.pids.update({int(pid): n for pid, n in other["pids"].items()})
        self.failures += other["failures"]
        self.latencies += other["latencies"]
        times = [t for t in (self.last_at, other["last_at"]) if t is not None]
        self.last_at = max(times, default=None)
        times = [t for t in (self.first_at, other["first_at"]) if t is not None]
        self.first_at = min(times, default=None)

    def latency_ms(self, share):
        """The latency below which this share of the answered requests lies (1 = the slowest)."""
        ordered = sorted(self.latencies)
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None

    def reasons(self):
        return dict(collections.Counter(f["reason"] for f in self.failures))

    def figures(self):
        return {
            "ok": self.ok,
            "retried": sum(self.retried.values()),
            "failed": self.failed,
            "connections": self.connections,
            "p50_ms": self.latency_ms(0.5),
            "p99_ms": self.latency_ms(0.99),
            "max_ms": self.latency_ms(1),
        }


# ------------------------------------------------------------------ one client


class Client:
    """One virtual client: at most one connection and one request at a time.

    waiting -> connecting -> asking -> (ending, when it was told to close) -> waiting | held | done"""

    __slots__ = (
        "load", "group", "sock", "state", "served", "answer", "request", "expected", "begun_at", "connected_at",
        "deadline", "is_retry", "peer_name", "due",
    )  # fmt: skip

    def __init__(self, load, group):
        self.load, self.group = load, group
        self.sock = self.answer = self.request = self.peer_name = None
        self.state, self.served, self.is_retry, self.deadline = "waiting", 0, False, None
        self.begun_at = self.connected_at = self.due = 0.0

    # -- a request begins

    def begin(self):
        number = next(self.load.numbers)
        path = self.group["paths"][number % len(self.group["paths"])]
        self.expected = b"%d.%d" % (os.getpid(), number)
        connection = b"Connection: close\r\n" if self.group["kind"] == "close" else b""
        self.request = b"GET %s?%s HTTP/1.1\r\nHost: stress\r\n%s\r\n" % (path.encode(), self.expected, connection)
        self.is_retry = False
        self.attempt()

    def attempt(self):
        self.answer = Answer()
        self.begun_at = time.monotonic()
        self.deadline = self.begun_at + self.group["timeout"]
        if self.sock is None:
            self.connect()
        else:
            self.ask()

    def connect(self):
        load = self.load
        family = socket.AF_UNIX if isinstance(load.address, str) else socket.AF_INET
        self.sock = sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.served, self.peer_name, self.state, self.connected_at = 0, None, "connecting", None
        load.tally.connections += 1
        try:
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if (source := next(load.sources[id(self.group)])) != "127.0.0.1":
                    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                    sock.bind((source, 0))
            error = sock.connect_ex(load.address)
        except OSError as e:
            error = e.errno
        if error not in (0, errno.EINPROGRESS):
            self.fail(f"connect: {errno.errorcode.get(error, error)}")
            return
        load.clients[sock.fileno()] = self
        load.epoll.register(sock.fileno(), select.EPOLLOUT)

    def on_connected(self):
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.fail(f"connect: {errno.errorcode.get(error, error)}")
            return
        self.connected_at = time.monotonic()
        if self.sock.family == socket.AF_INET:
            self.peer_name = self.sock.getsockname()
        self.load.epoll.modify(self.sock.fileno(), select.EPOLLIN)
        self.ask()

    def ask(self):
        self.state = "asking"
        try:
            if self.sock.send(self.request) != len(self.request):
                self.fail("the request does not fit into an empty socket")
                return
        except OSError as e:
            self.lost("reset" if e.errno in (errno.ECONNRESET, errno.EPIPE) else errno.errorcode.get(e.errno))
            return
        if self.group["kind"] == "poll":
            self.load.is_opened(self)

    # -- bytes, or the end of them

    def on_event(self):
        if self.state == "connecting":
            self.on_connected()
            return
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as e:
            self.lost("reset" if e.errno == errno.ECONNRESET else errno.errorcode.get(e.errno, str(e)))
            return
        if not data:
            self.lost("closed")
            return
        if self.state != "asking":
            self.fail(f"bytes that nobody asked for: {data[:60]!r}")
            return
        try:
            if not self.answer.feed(data):
                return
        except (Bad, ValueError) as e:
            self.fail(f"answer: {e}")
            return
        self.on_answer()

    def lost(self, how):
        """The server (or the kernel on its behalf) ended the connection."""
        if self.state == "asking":
            if self.answer.head is not None:
                self.fail(f"{how} inside the body")
            elif self.answer.buffer:
                self.fail(f"{how} inside the head")
            elif self.served > 0 and not self.is_retry:
                self.load.tally.retried[how] += 1
                self.is_retry = True
                self.disconnect()
                self.attempt()
            else:
                self.fail(f"{how} before a byte of the answer, " + ("retried" if self.is_retry else "fresh connection"))
        elif self.state == "ending":
            self.disconnect()
            self.next()
        elif self.state == "held":
            self.fail(f"{how} while held")
        else:  # a kept connection between two requests
            self.load.tally.closed_idle += 1
            self.disconnect()

    def on_answer(self):
        answer, tally = self.answer, self.load.tally
        if answer.body != self.expected:
            self.fail(f"body {answer.body[:60]!r} instead of {self.expected!r}")
            return
        now = time.monotonic()
        self.served += 1
        tally.ok += 1
        tally.latencies.append(round(now - self.begun_at, 6))
        tally.last_at = now
        tally.first_at = tally.first_at or now
        if answer.pid:
            tally.pids[answer.pid] += 1
        kind = self.group["kind"]
        if kind in ("hold", "poll"):
            self.state, self.deadline = "held", None
            if kind == "hold":
                self.load.is_opened(self)
            self.load.is_answered()
        elif kind == "close" or answer.closes:
            tally.told_to_close += kind != "close"
            self.state = "ending"  # the deadline of the request still counts
        else:
            self.next()

    # -- and then

    def next(self):
        self.state, self.deadline = "waiting", None
        pause = self.group["pause"] + random.uniform(0, self.group["jitter"])
        if pause > 0:
            self.load.later(pause, self)
        else:
            self.load.ready.append(self)

    def fail(self, reason):
        tally = self.load.tally
        tally.failed += 1
        if len(tally.failures) < FAILURES_KEPT:
            tally.failures.append(
                {
                    "reason": reason,
                    "kind": self.group["kind"],
                    "request": self.request.split(b" ", 2)[1].decode(),
                    "begun_at": self.begun_at,
                    "connected_at": self.connected_at,
                    "failed_at": time.monotonic(),
                    "client": self.peer_name,
                    "pid": self.answer.pid,
                    "served": self.served,
                }
            )
        was_held = self.state == "held"
        self.disconnect()
        if self.group["kind"] in ("hold", "poll"):
            self.state, self.deadline = "done", None
            if not was_held:
                self.load.is_opened(self)
                self.load.is_answered()
        else:
            self.state = "waiting"
            self.deadline = None
            self.load.later(max(self.group["pause"], 0.01), self)

    def disconnect(self):
        if self.sock is not None:
            self.load.clients.pop(self.sock.fileno(), None)
            self.sock.close()  # and out of the epoll set with it
            self.sock = None


# ------------------------------------------------------------------ one process of clients


class Engine:
    def __init__(self, address, groups):
        self.address = address if isinstance(address, str) else tuple(address)
        self.epoll = select.epoll()
        self.clients, self.tally, self.numbers = {}, Tally(), itertools.count(1)
        self.ready, self.timers, self.tick = collections.deque(), [], itertools.count()
        self.sources = {id(g): itertools.cycle(g["sources"]) for g in groups}
        self.all = [Client(self, g) for g in groups for _ in range(g["n"])]
        self.to_open = collections.deque(c for c in self.all if c.group["kind"] in ("hold", "poll"))
        self.opening = 0
        self.to_answer = len(self.to_open)
        self.is_stopping = False
        for i, client in enumerate(c for c in self.all if c.group["kind"] in ("keep", "close")):
            self.later(i * 0.001, client)

    def later(self, seconds, client):
        client.due = time.monotonic() + seconds
        heapq.heappush(self.timers, (client.due, next(self.tick), client))

    def say(self, **message):
        print(json.dumps(message), flush=True)

    def is_opened(self, client):
        """A client of a hold or poll group has its connection and is no longer in the making."""
        self.opening -= 1
        if self.opening == 0 and not self.to_open:
            self.say(event="opened", failed=self.tally.failed)

    def is_answered(self):
        self.to_answer -= 1
        if self.to_answer == 0:
            self.say(event="answered", at=time.monotonic(), failed=self.tally.failed)

    def open_more(self):
        while self.to_open and self.opening < self.to_open[0].group["opening"]:
            self.opening += 1
            self.to_open.popleft().begin()

    def is_busy(self):
        return any(c.state in ("connecting", "asking", "ending") for c in self.all)

    def run(self):
        """Until standard input has a line or ends; then until nothing is in flight."""
        self.epoll.register(0, select.EPOLLIN)
        sweep_at = 0.0
        while True:
            self.open_more()
            for _ in range(len(self.ready)):
                client = self.ready.popleft()
                if not self.is_stopping:
                    client.begin()
            now = time.monotonic()
            while self.timers and self.timers[0][0] <= now:
                client = heapq.heappop(self.timers)[2]
                if not self.is_stopping:
                    client.begin()
            if now >= sweep_at:
                sweep_at = now + SWEEP
                for client in self.all:
                    if client.deadline is not None and client.deadline < now:
                        client.fail(f"timeout while {client.state}")
            if self.is_stopping and not self.is_busy():
                return
            wait = 0 if self.ready else SWEEP
            if self.timers:
                wait = min(wait, max(0.0, self.timers[0][0] - now))
            for fd, _ in self.epoll.poll(wait, 512):
                if fd == 0:
                    self.epoll.unregister(0)
                    self.is_stopping = True
                    self.to_open.clear()
                elif (client := self.clients.get(fd)) is not None:
                    client.on_event()


def main():
    plan = json.loads(sys.argv[1])
    engine = Engine(plan["address"], plan["groups"])
    engine.run()
    engine.say(event="tally", tally=engine.tally.as_json())


# ------------------------------------------------------------------ the caller's side


class Load:
    """The processes of a load, from the caller's side. Ends them in any case when the `with` block ends."""

    def __init__(self, address, groups, processes=1):
        self.condition, self.events, self.processes = threading.Condition(), [], []
        self.tally = None
        for i in range(processes):
            mine = [{**g, "n": g["n"] // processes + (i < g["n"] % processes)} for g in groups]
            plan = json.dumps({"address": address, "groups": mine})
            process = subprocess.Popen(
                [sys.executable, "-S", __file__, plan], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self.processes.append(process)
            threading.Thread(target=self.listen, args=(process,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def listen(self, process):
        for line in process.stdout:
            with self.condition:
                self.events.append(json.loads(line))
                self.condition.notify_all()
        with self.condition:
            self.events.append({"event": "end"})
            self.condition.notify_all()

    def named(self, name):
        return [e for e in self.events if e["event"] == name]

    def wait(self, name, timeout):
        """The events of this name, one of each process."""
        with self.condition:
            came = self.condition.wait_for(
                lambda: len(self.named(name)) >= len(self.processes) or (name != "end" and self.named("end")), timeout
            )
            found = self.named(name)
        assert came and len(found) >= len(self.processes), f"the load client does not say {name!r} within {timeout} s"
        return found

    def stop(self, timeout=15):
        """Finishes what is in flight; returns the tally. Held connections stay open until close() or here: they end."""
        for process in self.processes:
            process.stdin.close()
        self.wait("tally", timeout)
        self.tally = Tally()
        for event in self.named("tally"):
            self.tally.add(event["tally"])
        self.close()
        return self.tally

    def close(self):
        for process in self.processes:
            if process.poll() is None and self.tally is None:
                process.kill()
            process.wait(10)
            if not process.stdin.closed:
                process.stdin.close()


if __name__ == "__main__":
    main()
