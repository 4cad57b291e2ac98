"""The clients of operations.py, one process for all: each request has an id of its own in its query, and what became of it is a line of the
file that is named, so that every answer can be looked for in the access log.

    operations_client.py '{"address": [...], "cases": "django", "clients": 12, "sockets": 0, ...}'   until standard input ends

A line: what happened, and who was it, separated by tabs; see Attempt. The last line is `end`, with sums of all.
"""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import random
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import mixed_client  # noqa: E402
from frames import CLOSE, FIN, PING, PONG, TEXT, close_payload, frame, opening  # noqa: E402
from mixed_client import Case, Cut, is_digest, is_own, is_stream, short, some_bytes  # noqa: E402

ANSWER_SECONDS = 60
KEPT_SECONDS = 0.3  # a connection that was idle for longer is not used again: who drains closes it after half a second
PAUSE = 0.15

WORDS = ("ok", "stale", "failed")  # stale: a kept connection was closed before a byte of the answer; the client asks once more


@dataclasses.dataclass
class Attempt:
    what: str
    id: str
    kind: str  # the path; "websocket"
    method: str
    status: int = 0
    begun_at: float = 0.0
    ended_at: float = 0.0
    client: tuple = None  # (address, port), once there was a connection
    reason: str = ""

    def line(self):
        address, port = self.client or ("-", 0)
        fields = (self.what, self.id, self.kind, self.method, self.status, f"{self.begun_at:.6f}", f"{self.ended_at:.6f}", address, port, self.reason)
        return "\t".join(map(str, fields)) + "\n"

    @classmethod
    def of(cls, line):
        what, id, kind, method, status, begun, ended, address, port, reason = line.rstrip("\n").split("\t")
        client = (address, int(port)) if address != "-" else None
        return cls(what, id, kind, method, int(status), float(begun), float(ended), client, reason)


def is_events(answer, query, body):
    """All of them, or, where the worker leaves, the first ones."""
    events = answer.body.decode().split("\n\n")
    assert events.pop() == "" and len(events) <= int(query["n"]), answer.body[-200:]
    assert events == [f"id: {i}\ndata: {query['id']}" for i in range(len(events))], answer.body[:200]


CASES = {
    "django": [case for case in mixed_client.DJANGO if not case.fails],
    "fastapi": [
        Case("/plain", is_own, 6), Case("/later", is_own, 3, s=short), Case("/thread", is_own, 6, s=short), Case("/logged", is_own, 4),
        Case("/behind", is_own, 4, s=lambda c: round(c.uniform(0, 0.3), 3)), Case("/leak", is_own, 6), Case("/upload", is_digest, 4, body=some_bytes),
        Case("/stream", is_stream, 3, n=mixed_client.pieces), Case("/events", is_events, 3, n=lambda c: c.randrange(1, 30)),
    ],
}  # fmt: skip


class Clients:
    def __init__(self, plan, out):
        self.address, self.plan, self.out = tuple(plan["address"]), plan, out
        self.cases = CASES[plan["cases"]]
        self.weights = [case.weight for case in self.cases]
        self.chance = random.Random(plan["seed"])
        self.sources = itertools.cycle(plan["sources"])
        self.numbers = itertools.count(1)
        self.sums = collections.Counter()
        self.stopping = asyncio.Event()

    def note(self, attempt, what, reason="", status=0):
        attempt.what, attempt.reason, attempt.status, attempt.ended_at = what, reason.replace("\t", " ").replace("\n", " ")[:300], status, time.monotonic()
        self.out.write(attempt.line())
        self.sums[what] += 1

    async def open(self, attempt):
        reader, writer = await asyncio.open_connection(*self.address, limit=1 << 20, local_addr=(next(self.sources), 0))
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sums["connections"] += 1
        attempt.client = writer.get_extra_info("sockname")
        return reader, writer

    def id(self, number):
        return f"{self.plan['cases']}-{number}-{next(self.numbers)}"

    # -- requests

    async def ask(self, number):
        """Requests, one after the other, on kept connections mostly."""
        kept, kept_at = None, 0.0
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), self.chance.uniform(0, 2 * PAUSE))
            case = self.chance.choices(self.cases, self.weights)[0]
            if kept is not None and (time.monotonic() - kept_at > KEPT_SECONDS or case.method == "POST"):
                kept.close()
                kept = None
            for _ in range(2):
                kept, is_stale = await self.once(number, case, kept)
                kept_at = time.monotonic()
                if not is_stale:
                    break
        if kept is not None:
            kept.close()

    async def once(self, number, case, connection):
        """The connection, if it goes on; whether it was closed before it was asked."""
        query = {"id": self.id(number)}
        query |= {name: value(self.chance) if callable(value) else value for name, value in case.query.items()}
        body = case.body(self.chance) if case.body else None
        attempt = Attempt("", query["id"], case.path, case.method, begun_at=time.monotonic())
        headers = {"Content-Type": "multipart/form-data; boundary=frontier"} if case.path == "/upload/" else {}
        if self.chance.random() < 0.3:
            headers["Connection"] = "close"
        counted, is_kept, answer = [0], connection is not None, None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if connection is None:
                    connection = mixed_client.Client(*await self.open(attempt))
                attempt.client = connection.writer.get_extra_info("sockname")
                answer = await connection.ask(case.method, f"{case.path}?{urlencode(query)}", headers, body, None, counted)
            assert answer.status == 200, f"status {answer.status}: {answer.body[:100]!r}"
            case.check(answer, query, body)
        except TimeoutError:
            self.note(attempt, "failed", f"timeout: no answer in {ANSWER_SECONDS} s, {counted[0]} bytes came")
        except (Cut, OSError) as e:
            is_stale = is_kept and counted[0] == 0 and getattr(e, "got", 0) == 0
            self.note(attempt, "stale" if is_stale else "failed", f"{type(e).__name__}: {e}")
            if connection is not None:
                connection.close(by_reset=True)
            return None, is_stale
        except Exception as e:
            self.note(attempt, "failed", f"answer: {type(e).__name__}: {e}", answer.status if answer else 0)
        else:
            self.note(attempt, "ok", status=200)
            if headers.get("Connection") != "close" and answer.headers.get("connection") != "close":
                return connection, False
        if connection is not None:
            connection.close()
        return None, False

    # -- WebSockets

    async def echo(self, number):
        """Sends messages and waits for the echo of each; comes back when it is told to go."""
        while not self.stopping.is_set():
            attempt = Attempt("", self.id(number), "websocket", "GET", begun_at=time.monotonic())
            writer, is_open = None, False
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    reader, writer = await self.open(attempt)
                    writer.write(opening(f"/echo?id={attempt.id}"))
                    head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 101 "), f"{head[:60]!r}"
                is_open = True
                self.sums["websockets"] += 1
                await self.talk(attempt, reader, writer)
            except TimeoutError:
                self.note(attempt, "failed", "timeout", 101 if is_open else 0)
            except (OSError, asyncio.IncompleteReadError) as e:
                self.note(attempt, "failed", f"{type(e).__name__}: {e}", 101 if is_open else 0)
            except AssertionError as e:
                self.note(attempt, "failed", f"answer: {e}", 101 if is_open else 0)
            else:
                self.note(attempt, "ok", status=101)
            if writer is not None:
                writer.close()

    async def talk(self, attempt, reader, writer):
        for i in itertools.count():
            async with asyncio.timeout(ANSWER_SECONDS):
                if self.stopping.is_set() or i == 200:
                    writer.write(frame(FIN | CLOSE, close_payload(1000)))
                    while (got := await self.read(reader, writer))[0] != FIN | CLOSE:
                        pass
                    assert got[1] in (close_payload(1000), close_payload(1012)), got
                    return
                text = f"{attempt.id} {i} {'x' * self.chance.randrange(200)}".encode()
                writer.write(frame(FIN | TEXT, text))
                self.sums["messages sent"] += 1
                got = await self.read(reader, writer)
                if got == (FIN | CLOSE, close_payload(1012)):
                    writer.write(frame(FIN | CLOSE, close_payload(1012)))
                    self.sums["told to come back"] += 1
                    return
                assert got == (FIN | TEXT, text), got
                self.sums["messages echoed"] += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), self.chance.uniform(0, 0.4))

    async def read(self, reader, writer):
        """The next frame; pings are answered besides."""
        while True:
            first, n = await reader.readexactly(2)
            if n == 126:
                n = int.from_bytes(await reader.readexactly(2))
            payload = await reader.readexactly(n)
            if first != FIN | PING:
                return first, payload
            writer.write(frame(FIN | PONG, payload))

    async def run(self):
        loop = asyncio.get_running_loop()
        loop.add_reader(0, lambda: (loop.remove_reader(0), self.stopping.set()))
        async with asyncio.TaskGroup() as group:
            for number in range(self.plan["clients"]):
                group.create_task(self.ask(number))
            for number in range(self.plan["sockets"]):
                group.create_task(self.echo(1000 + number))
        print("end", json.dumps(self.sums), file=self.out)


def main():
    plan = json.loads(sys.argv[1])
    with open(plan["file"], "w") as out:
        asyncio.run(Clients(plan, out).run())


if __name__ == "__main__":
    main()
