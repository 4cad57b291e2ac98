"""A FastAPI application that shows on which threads the parts of a request run, and whose data they find there."""

import asyncio
import gc
import hashlib
import os
import socket
import sqlite3
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware

local = threading.local()  # as a scoped_session: what a thread was left with
mark = ContextVar("mark", default="none")
records = {}  # request number -> Record
events = []
lock = threading.Lock()
DATABASE = os.path.join(tempfile.gettempdir(), f"ringcorn-threads-{os.getpid()}.sqlite")


class Record:
    def __init__(self):
        self.threads = []  # of dependencies and endpoint
        self.exits, self.background, self.errors = [], [], []
        self.user_seen = None
        self.ended = 0


@asynccontextmanager
async def lifespan(app):
    with sqlite3.connect(DATABASE) as connection:
        connection.execute("create table if not exists t (x)")
    # A call without a request.
    assert await anyio.to_thread.run_sync(threading.get_ident) != threading.get_ident()
    yield
    for suffix in ("", "-journal"):
        if os.path.exists(DATABASE + suffix):
            os.unlink(DATABASE + suffix)


app = FastAPI(lifespan=lifespan)


def record(n: int):
    with lock:
        one = records.setdefault(n, Record())
    one.threads.append(threading.get_ident())
    return one


def session(n: int, one: Record = Depends(record)):
    """What a scoped_session does: the thread's object, made where there is none."""
    one.threads.append(threading.get_ident())
    local.user = n
    time.sleep(0.001)  # so that requests meet
    return n


def database(one: Record = Depends(record)):
    """sqlite3 refuses a connection on any thread but its own."""
    try:
        connection = sqlite3.connect(DATABASE, timeout=20)
        here = threading.get_ident()
        one.threads.append(here)
        yield connection
    finally:
        one.exits.append(threading.get_ident())
        try:
            connection.close()
        except sqlite3.ProgrammingError as e:
            one.errors.append(str(e))
        one.ended += 1


def afterwards(one):
    one.background.append(threading.get_ident())
    one.ended += 1


class Found(BaseModel):
    n: int
    rows: int
    user: int | None


@app.get("/work/{n}")
def work(n: int, background: BackgroundTasks, user=Depends(session), connection=Depends(database), one: Record = Depends(record)) -> Found:
    one.threads.append(threading.get_ident())
    time.sleep(0.001)
    one.user_seen = getattr(local, "user", None)
    try:
        rows = connection.execute("select count(*) from t").fetchone()[0]
    except sqlite3.ProgrammingError as e:
        one.errors.append(str(e))
        rows = -1
    background.add_task(afterwards, one)
    return Found(n=n, rows=rows, user=one.user_seen)


@app.get("/report")
async def report():
    """The four counts, and on how many threads all that was; the next report begins anew."""
    with lock:
        done = {n: one for n, one in records.items() if one.ended == 2}
        if len(done) == len(records):
            records.clear()
        else:
            return {"pending": len(records) - len(done)}
    return {
        "pending": 0,
        "requests": len(done),
        "split": sum(len(set(one.threads)) > 1 for one in done.values()),
        "exits_elsewhere": sum(not set(one.exits) <= set(one.threads[:1]) for one in done.values()),
        "background_elsewhere": sum(not set(one.background) <= set(one.threads[:1]) for one in done.values()),
        "sqlite_errors": sum(bool(one.errors) for one in done.values()),
        "wrong_user": sum(one.user_seen != n for n, one in done.items()),
        "threads": len({ident for one in done.values() for ident in one.threads + one.exits + one.background}),
    }


@app.get("/names")
def names():
    return {"thread": threading.current_thread().name}


@app.get("/limiter")
async def limiter():
    return {"tokens": anyio.to_thread.current_default_thread_limiter().total_tokens}


# ------------------------------------------------------------------ from_thread, nesting, contexts


async def on_loop(x):
    await anyio.sleep(0.001)
    return [x, threading.get_ident(), mark.get()]


@app.get("/from_thread")
def from_thread(x: int):
    mark.set("endpoint")
    there = anyio.from_thread.run(on_loop, x)
    return {
        "there": there, "loop": anyio.from_thread.run_sync(threading.get_ident), "here": threading.get_ident(),
        "mark": mark.get(), "nested": anyio.from_thread.run(nested, 3),
    }  # fmt: skip


async def nested(depth):
    """Down to the ground: each level waits in a thread for the next."""
    return [depth, *(await anyio.to_thread.run_sync(below, depth - 1))] if depth else [0]


def below(depth):
    return anyio.from_thread.run(nested, depth)


@app.get("/portal")
def portal():
    with anyio.from_thread.start_blocking_portal() as there:
        return {"there": there.call(on_loop, 1), "here": threading.get_ident()}


@app.get("/contexts")
async def contexts():
    mark.set("request")

    def seen():
        before = mark.get()
        mark.set("thread")
        return before

    return {"seen": await anyio.to_thread.run_sync(seen), "after": mark.get()}


@app.get("/parallel")
async def parallel(n: int = 5):
    """Calls of one request that wait for each other."""
    barrier = threading.Barrier(n)
    await asyncio.gather(*(anyio.to_thread.run_sync(barrier.wait, 20) for _ in range(n)))
    return {"ok": True}


meetings = {}


@app.get("/meet/{name}")
def meet(name: str, n: int) -> dict[str, int]:
    """Ends when n requests are here; each waits in its thread for the loop."""

    async def wait():
        event, here = meetings.setdefault(name, (asyncio.Event(), []))
        here.append(1)
        if len(here) == n:
            event.set()
        await event.wait()

    anyio.from_thread.run(wait)
    return {"n": n}


# ------------------------------------------------------------------ executors, side by side


executors = {}


@app.get("/own/{how}")
async def own(how: str, n: int):
    """n calls that wait for each other, by a limiter or an executor of the application's own."""
    barrier, limiter, executor = executors.setdefault(how, (threading.Barrier(n), anyio.CapacityLimiter(n), ThreadPoolExecutor(n)))
    if how == "limiter":
        await anyio.to_thread.run_sync(barrier.wait, 20, limiter=limiter)
    else:
        await asyncio.get_running_loop().run_in_executor(executor, barrier.wait, 20)
    return {"ok": True}


@app.get("/reads")
async def reads(how: str, n: int = 20, seconds: float = 0.05):
    """n reads that wait, gathered or in sequence."""

    def read():
        a, b = socket.socketpair()
        with a, b:
            a.settimeout(seconds)
            try:
                a.recv(1)
            except TimeoutError:
                pass
        return threading.current_thread().name

    began = time.monotonic()
    if how == "gathered":
        found = await asyncio.gather(*(asyncio.to_thread(read) for _ in range(n)))
    else:
        found = [await asyncio.to_thread(read) for _ in range(n)]
    return {"seconds": time.monotonic() - began, "threads": sorted(set(found))}


@app.get("/wait")
def wait(seconds: float = 1.0) -> Found:
    """Waits on a socket, as for a slow service."""
    a, b = socket.socketpair()
    with a, b:
        a.settimeout(seconds)
        try:
            a.recv(1)
        except TimeoutError:
            pass
    return Found(n=1, rows=0, user=None)


# ------------------------------------------------------------------ streams, uploads, clients that leave


def here():
    return threading.get_ident()


def pieces(n, size, seen=None):
    try:
        for i in range(n):
            if seen is not None:
                seen.append(threading.get_ident())
            yield bytes([i % 256]) * size
    finally:
        events.append(f"stream ended on {threading.get_ident()}")


@app.get("/stream")
def stream(n: int, size: int, one: int = Depends(here)):
    seen = [one, threading.get_ident()]
    events.append(seen)
    return StreamingResponse(pieces(n, size, seen), media_type="application/octet-stream")


@app.get("/last_stream")
async def last_stream():
    seen = [e for e in events if isinstance(e, list)][-1]
    return {"pulled": len(seen) - 2, "threads": len(set(seen))}


class InGroup(Response):
    """Sends from a task group, which wraps what send() raises."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.pieces, send)
        finally:
            events.append("group ended")

    async def pieces(self, send):
        while True:
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
            await asyncio.sleep(0.01)


@app.get("/group")
async def group():
    return InGroup()


@app.get("/news")
async def news(one: int = Depends(here)):
    """A stream of events, as for a browser: it ends when the client leaves."""

    async def lines():
        try:
            yield b"first\n"
            while True:
                await asyncio.sleep(0.05)
                yield b"next\n"
        finally:
            events.append("news ended")

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.post("/upload")
def upload(file: UploadFile):
    digest, size = hashlib.sha256(), 0
    while data := file.file.read(65536):
        digest.update(data)
        size += len(data)
    return {"size": size, "sha256": digest.hexdigest()}


@app.post("/aupload")
async def aupload(file: UploadFile):
    """UploadFile's own reads: in a thread once the file is on disk."""
    digest, size = hashlib.sha256(), 0
    while data := await file.read(65536):
        digest.update(data)
        size += len(data)
    return {"size": size, "sha256": digest.hexdigest()}


gates = {}


@app.get("/gate/{name}")
async def gate(name: str, request: Request):
    """Runs a call that ends when /open says so; a client that leaves cancels its scope."""
    may_end = gates.setdefault(name, threading.Event())
    events.append(f"{name} came")

    def run():
        events.append(f"{name} began")
        assert may_end.wait(30)
        events.append(f"{name} ended")

    async with anyio.create_task_group() as group:

        async def watch():
            while (await request.receive())["type"] != "http.disconnect":
                pass
            events.append(f"{name} left")
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            await anyio.to_thread.run_sync(run)
            events.append(f"{name} returned")
            await anyio.lowlevel.checkpoint()
        except BaseException as e:
            events.append(f"{name} {type(e).__name__}")
            raise
        group.cancel_scope.cancel()
    return {"ok": True}


@app.get("/open/{name}")
async def open_gate(name: str):
    gates.setdefault(name, threading.Event()).set()
    return {"ok": True}


@app.get("/events")
async def all_events():
    gc.collect()  # older Starlette leaves iterators to the collector
    return {"events": "\n".join(str(e) for e in events)}


class Limited(BaseModel):
    now: int


counts = {"now": 0, "most": 0}


@app.get("/counted")
def counted() -> Limited:
    with lock:
        counts["now"] += 1
        counts["most"] = max(counts["most"], counts["now"])
    time.sleep(0.002)
    with lock:
        counts["now"] -= 1
    return Limited(now=counts["most"])


@app.get("/most")
async def most():
    return counts


# ------------------------------------------------------------------ the same behind a middleware of Starlette's, which brings scopes


async def pass_on(request, call_next):
    return await call_next(request)


behind = FastAPI(lifespan=lifespan)
behind.router.routes.extend(app.router.routes)
behind.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
