"""Requests at a fixed rate, whether the answers come or not: python overload_client.py '{"address": ..., "phases": [[rate, seconds], ...]}'

A user who comes does not wait until others have been served. Each request has its time, and its latency counts from there. It takes a
connection that is free, or opens one more. Prints {"phases": [{"came", "answered", "refused", "failed", "latencies", "late"}], "connections"}:
latencies are (time in the phase, seconds) of answers with 200.
"""

import collections
import errno
import json
import select
import socket
import sys
import time

REQUEST = b"GET / HTTP/1.1\r\nHost: stress\r\n\r\n"
CONNECTIONS = 500  # open before the first request, as a proxy's are
CONNECTIONS_MAX = 3000
TIMEOUT = 10.0


class Client:
    def __init__(self, plan):
        self.address = tuple(plan["address"])
        self.epoll = select.epoll()
        self.free, self.busy, self.n = collections.deque(), {}, 0  # busy: fd -> [sock, phase, due, buffer]
        self.phases = [
            {"came": 0, "answered": 0, "refused": 0, "failed": collections.Counter(), "latencies": [], "begun": 0.0} for _ in plan["phases"]
        ]
        self.plan = plan["phases"]

    def ask(self, phase, due):
        phase["came"] += 1
        while self.free:
            sock = self.free.popleft()
            try:
                sock.send(REQUEST)
            except OSError:
                self.drop(sock)
                continue
            self.epoll.modify(sock, select.EPOLLIN)
            self.busy[sock.fileno()] = [sock, phase, due, b""]
            return
        if self.n >= CONNECTIONS_MAX:
            phase["failed"]["no connection left"] += 1
            return
        sock = socket.socket()
        sock.setblocking(False)
        self.n += 1
        if sock.connect_ex(self.address) not in (0, errno.EINPROGRESS):
            self.drop(sock)
            phase["failed"]["connect"] += 1
            return
        self.epoll.register(sock, select.EPOLLOUT)
        self.busy[sock.fileno()] = [sock, phase, due, None]

    def drop(self, sock):
        self.n -= 1
        sock.close()

    def lost(self, entry, why):
        entry[1]["failed"][why] += 1
        del self.busy[entry[0].fileno()]
        self.drop(entry[0])

    def on_event(self, fd):
        entry = self.busy.get(fd)
        if entry is None:  # a free one that the server has closed
            for sock in list(self.free):
                if sock.fileno() == fd:
                    self.free.remove(sock)
                    self.drop(sock)
            return
        sock, phase, due, buffer = entry
        try:
            if buffer is None:
                sock.send(REQUEST)
                entry[3] = b""
                self.epoll.modify(sock, select.EPOLLIN)
                return
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as e:
            self.lost(entry, errno.errorcode.get(e.errno, "error"))
            return
        if not data:
            self.lost(entry, "closed")
            return
        entry[3] = buffer = buffer + data
        head, mark, body = buffer.partition(b"\r\n\r\n")
        low = head.lower()
        chunked = b"transfer-encoding: chunked" in low
        length = 0 if b"content-length: " not in low else int(low.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        if not mark or (chunked and not body.endswith(b"0\r\n\r\n")) or len(body) < length:
            return
        now = time.monotonic()
        if buffer.startswith(b"HTTP/1.1 200"):
            phase["answered"] += 1
            phase["latencies"].append((due - phase["begun"], now - due))
        elif buffer.startswith(b"HTTP/1.1 503"):
            phase["refused"] += 1
        else:
            phase["failed"][buffer[:16].decode("latin-1")] += 1
        del self.busy[fd]
        if b"connection: close" in low:
            self.drop(sock)
        else:
            self.free.append(sock)

    def wait(self, until):
        for fd, _ in self.epoll.poll(max(0.0, min(0.05, until - time.monotonic()))):
            self.on_event(fd)
        old = time.monotonic() - TIMEOUT
        for entry in [e for e in self.busy.values() if e[2] < old]:
            self.lost(entry, "timeout")

    def run(self):
        for _ in range(CONNECTIONS):
            self.free.append(socket.create_connection(self.address))
            self.free[-1].setblocking(False)
            self.epoll.register(self.free[-1], select.EPOLLIN)
            self.n += 1
        for phase, (rate, seconds) in zip(self.phases, self.plan):
            begun = phase["begun"] = time.monotonic()
            print(json.dumps({"event": "phase"}), flush=True)
            sent, n = 0, int(rate * seconds)
            while sent < n:
                now = time.monotonic()
                while sent < n and begun + sent / rate <= now:
                    self.ask(phase, begun + sent / rate)
                    sent += 1
                self.wait(begun + sent / rate)
        print(json.dumps({"event": "phase"}), flush=True)
        while self.busy:
            self.wait(time.monotonic() + 0.05)
        for phase in self.phases:
            del phase["begun"]
        print(json.dumps({"event": "end", "phases": self.phases, "connections": self.n}), flush=True)


if __name__ == "__main__":
    Client(json.loads(sys.argv[1])).run()
