"""The clients of the mixed load: requests one after the other at a given rate, each of them judged, some of them left by their client.

Everything is written by hand over asyncio's streams, so that a client can leave at any moment: with half a head sent, half a body, while it
waits, or with half an answer read. One process, one thread.
"""

import asyncio
import collections
import hashlib
import itertools
import json
import random
import socket
import struct
import time
from urllib.parse import urlencode

numbers = itertools.count(1)


class Cut(Exception):
    """The connection ended before the answer did; `got` says how much of it had come."""

    def __init__(self, why, got):
        super().__init__(f"{why} after {got} bytes")
        self.got = got


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Left(Exception):
    """The client has gone, as it was told to."""


class Client:
    """One connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.served = reader, writer, 0

    @classmethod
    async def open(cls, address):
        reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
        return cls(reader, writer)

    def close(self, by_reset=False):
        sock = self.writer.get_extra_info("socket")
        if by_reset and sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort() if by_reset else self.writer.close()

    async def ask(self, method, target, headers, body, leave, counted):
        """leave: None, or (moment, a number between 0 and 1) when to raise Left."""
        moment, fraction = leave or (None, 0)
        lines = [f"{method} {target} HTTP/1.1", "Host: stress", *(f"{k}: {v}" for k, v in headers.items())]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if moment == "head":
            self.writer.write(head[: 1 + int(fraction * (len(head) - 4))])
            await self.writer.drain()
            await asyncio.sleep(fraction * 0.05)
            raise Left
        self.writer.write(head)
        if body is not None:
            upto = int(fraction * len(body)) if moment == "upload" else len(body)
            for start in range(0, upto, 32768):
                self.writer.write(body[start : min(start + 32768, upto)])
                await self.writer.drain()
            if moment == "upload":
                await asyncio.sleep(fraction * 0.1)
                raise Left
        if moment == "wait":
            await asyncio.sleep(fraction * 0.3)
            raise Left
        answer = await self.read(counted, moment == "answer", fraction)
        self.served += 1
        return answer

    async def _some(self, reading, counted):
        try:
            data = await reading
        except asyncio.IncompleteReadError as e:
            raise Cut("closed", counted[0] + len(e.partial)) from None
        except (ConnectionError, OSError) as e:
            raise Cut(type(e).__name__, counted[0]) from None
        counted[0] += len(data)
        return data

    async def read(self, counted, leaves, fraction):
        head = await self._some(self.reader.readuntil(b"\r\n\r\n"), counted)
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if leaves:
            if headers.get("content-length") != "0":
                await self._some(self.reader.readexactly(1), counted)
            await asyncio.sleep(fraction * 0.05)
            raise Left
        if "content-length" in headers:
            body = await self._some(self.reader.readexactly(int(headers["content-length"])), counted)
        elif headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(await self._some(self.reader.readuntil(b"\r\n"), counted), 16):
                pieces.append((await self._some(self.reader.readexactly(size + 2), counted))[:-2])
            await self._some(self.reader.readexactly(2), counted)
            body = b"".join(pieces)
        else:
            body = await self._some(self.reader.read(-1), counted)
        return Answer(status, headers, body)


# ------------------------------------------------------------------ what is asked, and what is right


class Case:
    """One kind of request. query: name -> value or function; check(answer, query, body) asserts; fails: 500 is the right answer."""

    def __init__(self, path, check=None, weight=2, fails=False, body=None, method=None, cuts=False, leaves=None, then=None, **query):
        self.path, self.check, self.weight, self.fails, self.query = path, check, weight, fails, query
        self.body, self.method, self.then = body, method or ("POST" if body else "GET"), then
        self.cuts = cuts  # the answer is cut off: it failed when its head had gone already
        self.leaves = leaves if leaves is not None else ("head", "wait", "answer", *(("upload",) if body else ()))


def is_own(answer, query, body):
    found = answer.json()
    assert found["id"] == query["id"], f"another's answer: {found}"
    assert len(set(found.get("pids", [0]))) == 1, f"more connections than one: {found}"
    if "seen" in found:
        assert len(found["seen"]) == 3 and len({tuple(one) for one in found["seen"]}) == 1, f"more than one transaction: {found}"
        assert found["found"] == [query["id"]], f"others' rows: {found}"
    assert found.get("threads", 1) == 1, f"more threads than one: {found}"


def is_price(answer, query, body):
    is_own(answer, query, body)
    assert answer.json()["price"] == int(query.get("n", 7)), answer.body


def has(**values):
    def check(answer, query, body):
        is_own(answer, query, body)
        found = answer.json()
        assert all(found[name] == value for name, value in values.items()), found

    return check


def is_twice_own(answer, query, body):
    is_own(answer, query, body)
    assert answer.json()["second"] == query["id"], answer.body


def is_page(answer, query, body):
    assert answer.body.decode() == f"{query['id']} 7", answer.body


def is_stream(answer, query, body):
    lines = answer.body.decode().splitlines()
    assert len(lines) == int(query["n"]), f"{len(lines)} of {query['n']} pieces"
    pids = set()
    for i, line in enumerate(lines):
        name, number, pid, filling = line.split()
        assert name == query["id"] and int(number) == i and len(filling) == 3000, line[:60]
        pids.add(pid)
    assert len(pids) == 1, f"more connections than one: {pids}"


def is_digest(answer, query, body):
    is_own(answer, query, body)
    found = answer.json()
    assert found["size"] == len(body) and found["sha256"] == hashlib.sha256(body).hexdigest(), found


def is_form_digest(answer, query, body):
    is_digest(answer, query, body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0])


def is_echo(answer, query, body):
    assert answer.body == body, f"{len(answer.body)} of {len(body)} bytes came back"


def some_bytes(chance):
    return chance.randbytes(chance.choice((0, 10, 5000, 70_000, 300_000)))


def some_form(chance):
    size = chance.choice((10, 5000, 300_000, 3_000_000))
    return b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + chance.randbytes(size) + b"\r\n--frontier--\r\n"


def pieces(chance):
    return chance.choice((1, 5, 20))


def short(chance):
    return round(chance.uniform(0, 0.05), 3)


def nothing_left(name):
    """Of a transaction that failed."""
    return Case("/left/", has(count=0), of=name, leaves=())


DJANGO = [
    Case("/query/", is_price, 6, n=lambda c: c.randrange(200)),
    Case("/atomic/", is_own, 5), Case("/atomic/", fails=True, fail=1, then=nothing_left),
    Case("/hold/", is_own, 3, s=short), Case("/page/", is_page), Case("/stream/", is_stream, 3, n=pieces),
    Case("/upload/", is_form_digest, 3, body=some_form), Case("/boom/", fails=True), Case("/nested/", is_own, 3),
    Case("/aplain/", is_own, 3, s=short), Case("/aorm/", is_price, 4, s=short), Case("/aatomic/", is_own, 3),
    Case("/aatomic/", fails=True, fail=1, then=nothing_left), Case("/agather/", has(found=[5, 6, 7])), Case("/aboom/", fails=True),
    Case("/astream/", is_stream, 3, n=pieces), Case("/await_long/", is_own, 3, s=lambda c: round(c.uniform(0, 0.4), 3)),
    Case("/outlive/", is_own),
]  # fmt: skip

FASTAPI = [
    Case("/work", is_own, 6), Case("/work", fails=True, fail=1), Case("/plain", is_own, 4), Case("/aplain", is_own, 3, s=short),
    Case("/hold", is_own, 3, s=short), Case("/boom", fails=True), Case("/aboom", fails=True), Case("/from_thread", has(depth=2), 3),
    Case("/to_thread", is_twice_own, 3), Case("/group", has(found=[0, 1, 2, 3]), 3), Case("/stream", is_stream, 3, n=pieces),
    Case("/astream", is_stream, 3, n=pieces), Case("/watch", is_own, 3, s=lambda c: round(c.uniform(0, 0.4), 3)),
    Case("/upload", is_digest, 3, body=some_bytes), Case("/upload_whole", is_digest, 3, body=some_bytes),
]  # fmt: skip

WSGI = [
    Case("/work", is_own, 6), Case("/work", fails=True, fail=1), Case("/plain", is_own, 4), Case("/hold", is_own, 3, s=short),
    Case("/boom", fails=True), Case("/boom_late", cuts=True), Case("/stream", is_stream, 3, n=pieces), Case("/write", is_stream, 3, n=pieces),
    Case("/upload", is_digest, 3, body=some_bytes), Case("/echo", is_echo, 3, body=some_bytes),
]  # fmt: skip

BURST = {"django": "/hold/", "fastapi": "/hold", "wsgi": "/hold"}


# ------------------------------------------------------------------ the load on one server


class Failure:
    def __init__(self, case, begun, why, status=None, is_cut=False):
        self.case, self.begun, self.ended, self.why, self.status, self.is_cut = case, begun, time.monotonic(), why, status, is_cut

    def __repr__(self):
        return f"<{self.case.path} {self.status or ''} {self.why}>"


class Load:
    """Requests of one server's cases. Counts and failures are kept until they are taken."""

    AT_ONCE_MAX = 60
    IDLE_MAX = 12

    def __init__(self, address, cases, burst, rate, seed, timeout, leaving=0.12):
        self.address, self.cases, self.rate, self.timeout, self.leaving = address, cases, rate, timeout, leaving
        self.chance = random.Random(seed)
        self.weights = [case.weight for case in cases]
        self.burst_case = Case(burst, is_own, s=lambda c: 0.25, leaves=("wait",))
        self.idle, self.tasks = [], set()
        self.counts = collections.Counter()
        self.failures = []
        self.refused_at = collections.deque(maxlen=10_000)
        self.tallest = 0

    async def run(self, seconds, burst_every=7.0):
        """For so many seconds, then until the last answer."""
        end = time.monotonic() + seconds
        next_burst = time.monotonic() + min(burst_every, seconds) * self.chance.uniform(0.3, 0.6)
        due = time.monotonic()
        while (now := time.monotonic()) < end:
            if now >= next_burst:
                next_burst += burst_every
                self.counts["bursts"] += 1
                for _ in range(44):
                    self.start(self.burst_case, self.leaving * 3)
            due = max(due + self.chance.expovariate(self.rate), now - 0.5)
            if len(self.tasks) < self.AT_ONCE_MAX:
                self.start(self.chance.choices(self.cases, self.weights)[0], self.leaving)
            else:
                self.counts["held back"] += 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await self.settle()

    async def settle(self):
        while self.tasks:
            await asyncio.wait(set(self.tasks))
        while self.idle:
            self.idle.pop().close()

    def start(self, case, leaving):
        self.tallest = max(self.tallest, len(self.tasks) + 1)
        task = asyncio.ensure_future(self.one(case, leaving))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def fail(self, *args, **more):
        self.counts["failed"] += 1
        if len(self.failures) < 1000:
            self.failures.append(Failure(*args, **more))

    async def one(self, case, leaving):
        query = {"id": f"r{next(numbers)}"}
        query |= {name: value(self.chance) if callable(value) else value for name, value in case.query.items()}
        body = case.body(self.chance) if case.body else None
        leave = None
        if case.leaves and self.chance.random() < leaving:
            leave = self.chance.choice(case.leaves), self.chance.random()
        by_reset = self.chance.random() < 0.5
        begun = time.monotonic()
        self.counts["sent"] += 1
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self.on_connection(case, query, body, leave, by_reset)
        except Left:
            self.counts["left"] += 1
            self.counts[f"left: {leave[0]}"] += 1
            return
        except TimeoutError:
            return self.fail(case, begun, f"no answer in {self.timeout} s ({len(body or b'')} bytes sent, leaves: {leave})")
        except Cut as e:
            if leave is not None and leave[0] == "answer":  # it was about to leave anyway, or the answer had no body
                self.counts["left"] += 1
            elif case.cuts and e.got:
                self.counts["exceptions"] += 1
                self.counts["answered"] += 1
            elif case.method == "POST" and self.refused_lately():
                self.counts["refused"] += 1  # a 503 before the body was read: the rest of the body met a closed connection
            else:
                self.fail(case, begun, str(e), is_cut=True)
            return
        except OSError as e:
            return self.fail(case, begun, f"{type(e).__name__}: {e}", is_cut=True)
        self.judge(case, query, body, answer, begun)
        if case.then is not None and answer.status == 500:
            await self.one(case.then(query["id"]), 0)

    def refused_lately(self):
        return bool(self.refused_at) and time.monotonic() - self.refused_at[-1] < 2

    def judge(self, case, query, body, answer, begun):
        if answer.status == 503:
            self.counts["refused"] += 1
            self.refused_at.append(time.monotonic())
            if "retry-after" not in answer.headers:
                self.fail(case, begun, "503 without Retry-After", 503)
            return
        wanted = 500 if case.fails else 200
        if answer.status != wanted:
            return self.fail(case, begun, f"{answer.status} in place of {wanted}: {answer.body[:100]!r}", answer.status)
        self.counts["answered"] += 1
        if case.fails:
            self.counts["exceptions"] += 1
        elif case.cuts:
            self.fail(case, begun, "was to be cut off")
        else:
            try:
                case.check(answer, query, body)
            except AssertionError as e:
                self.fail(case, begun, f"WRONG: {e}")
            except Exception as e:
                self.fail(case, begun, f"WRONG: {e!r} in {answer.body[:100]!r}")

    async def on_connection(self, case, query, body, leave, by_reset):
        headers = {}
        if case.path == "/upload/":
            headers["Content-Type"] = "multipart/form-data; boundary=frontier"
        keeps = self.chance.random() < 0.7
        if not keeps:
            headers["Connection"] = "close"
        target = f"{case.path}?{urlencode(query)}"
        for attempt in range(2):
            kept = self.idle.pop() if self.idle and attempt == 0 else None
            client = kept or await Client.open(self.address)
            counted = [0]
            try:
                answer = await client.ask(case.method, target, headers, body, leave, counted)
            except (Cut, ConnectionError) as e:
                client.close()
                # A kept connection that was closed meanwhile: as a proxy would, once more on a fresh one.
                if kept is not None and counted[0] == 0 and getattr(e, "got", 0) == 0:
                    self.counts["retried"] += 1
                    continue
                raise
            except BaseException:
                client.close(by_reset)
                raise
            if keeps and answer.headers.get("connection") != "close" and len(self.idle) < self.IDLE_MAX:
                self.idle.append(client)
            else:
                client.close()
            return answer

    async def ask(self, target, timeout=60):
        """A question of ours, on a connection of its own."""
        async with asyncio.timeout(timeout):
            client = await Client.open(self.address)
            try:
                answer = await client.ask("GET", target, {"Connection": "close"}, None, None, [0])
            finally:
                client.close()
        assert answer.status == 200, f"{target}: {answer.status} {answer.body[:300]!r}"
        return answer.json()
