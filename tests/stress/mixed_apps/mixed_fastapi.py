"""FastAPI's part of the mixed load (tests/stress/mixed.py): `def` endpoints, yield dependencies, background tasks, from_thread, streams.

It runs with pydantic 1 too, which has no C of its own and so loads into a debug Python.
"""

import asyncio
import contextvars
import hashlib
import threading

import anyio
import anyio.from_thread
import anyio.to_thread
import census
import database
from anyio._backends._asyncio import WorkerThread
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

# AnyIO starts threads of its own for calls in calls, and lets the idle ones go when another is used. At rest there are always as many then.
WorkerThread.MAX_IDLE_TIME = 0.2

app = FastAPI()
mark = contextvars.ContextVar("mark", default=None)
local = threading.local()
lock = threading.Lock()
counts = {"exits": 0, "entries": 0, "elsewhere": 0, "cancelled": 0}


class OnPurpose(Exception):
    pass


def count(name, n=1):
    with lock:
        counts[name] += n


class Session:
    """What a dependency gives: this thread's connection inside a transaction."""

    def __init__(self, connection):
        self.connection, self.thread = connection, threading.get_ident()


def session():
    count("entries")
    try:
        with database.transaction() as connection:
            one = Session(connection)
            yield one
    finally:
        count("exits")


def here():
    return threading.get_ident()


class Found(BaseModel):
    id: str
    seen: list[list[int]]
    found: list[str]
    threads: int


def afterwards(thread):
    if threading.get_ident() != thread:
        count("elsewhere")


@app.get("/work")
def work(id: str, background: BackgroundTasks, one: Session = Depends(session), first: int = Depends(here), fail: str = None) -> Found:
    local.id = id
    threads = {one.thread, first, threading.get_ident()}
    written = database.write(one.connection, local.id)
    if fail is not None:
        raise OnPurpose(id)
    background.add_task(afterwards, threading.get_ident())
    return Found(id=local.id, threads=len(threads), **written)


@app.get("/plain")
def plain(id: str) -> dict:
    return {"id": id}


@app.get("/aplain")
async def aplain(id: str, s: float = 0.0):
    mark.set(id)
    await asyncio.sleep(s)
    return {"id": mark.get()}


@app.get("/hold")
def hold(id: str, s: float, one: Session = Depends(session)):
    one.connection.execute("SELECT pg_sleep(%s)", (s,))
    return {"id": id}


@app.get("/boom")
def boom(id: str, one: Session = Depends(session)):
    raise OnPurpose(id)


@app.get("/aboom")
async def aboom(id: str, first: int = Depends(here)):
    raise OnPurpose(id)


async def on_loop(id):
    await anyio.sleep(0.001)
    return mark.get() if mark.get() == id else [id, mark.get()]


@app.get("/from_thread")
def from_thread(id: str):
    mark.set(id)
    return {"id": anyio.from_thread.run(on_loop, id), "depth": anyio.from_thread.run(down, 2)}


async def down(depth):
    return 1 + await anyio.to_thread.run_sync(below, depth - 1) if depth else 0


def below(depth):
    return anyio.from_thread.run(down, depth)


@app.get("/to_thread")
async def to_thread(id: str):
    mark.set(id)
    inside = await anyio.to_thread.run_sync(mark.get)
    return {"id": inside, "second": await asyncio.to_thread(mark.get)}


@app.get("/group")
async def group(id: str, s: float = 0.02):
    """Calls side by side in a task group, one of which is cancelled."""
    found = []

    async def one(i):
        found.append(await anyio.to_thread.run_sync(lambda: i))

    async with anyio.create_task_group() as tasks:
        for i in range(4):
            tasks.start_soon(one, i)
    with anyio.move_on_after(0.001):
        await anyio.sleep(s)
    return {"id": id, "found": sorted(found)}


@app.get("/stream")
def stream(id: str, n: int = 8, first: int = Depends(here)):
    def pieces():
        for i in range(n):
            yield f"{id} {i} 0 {'x' * 3000}\n"

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/astream")
async def astream(id: str, n: int = 8):
    async def pieces():
        for i in range(n):
            await asyncio.sleep(0.005)
            yield f"{id} {i} 0 {'x' * 3000}\n"

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/watch")
async def watch(id: str, request: Request, s: float = 0.2):
    """Ends early where the client leaves, as an endpoint that asks for it does."""
    async with anyio.create_task_group() as tasks:

        async def listen():
            while (await request.receive())["type"] != "http.disconnect":
                pass
            count("cancelled")
            tasks.cancel_scope.cancel()

        tasks.start_soon(listen)
        await anyio.sleep(s)
        tasks.cancel_scope.cancel()
    return {"id": id}


@app.post("/upload")
async def upload(id: str, request: Request):
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
        await anyio.to_thread.run_sync(here)
    return {"id": id, "size": size, "sha256": digest.hexdigest()}


async def body_of(request: Request):
    return await request.body()


@app.post("/upload_whole")
def upload_whole(id: str, data: bytes = Depends(body_of)):
    return {"id": id, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# ------------------------------------------------------------------ at rest


class Meeting:
    barrier = None


def forget_meeting():
    Meeting.barrier = None


@app.get("/meet")
def meet(id: str, n: int):
    """As in the Django project: all n are on threads of their own at once."""
    database.connection().execute("SELECT 1")
    with lock:
        if Meeting.barrier is None:
            Meeting.barrier = threading.Barrier(n, action=forget_meeting)
        barrier = Meeting.barrier
    barrier.wait(30)
    return {"id": id}


@app.get("/meet_executor")
async def meet_executor(id: str, n: int):
    barrier = threading.Barrier(n)
    await asyncio.gather(*(asyncio.to_thread(barrier.wait, 30) for _ in range(n)))
    return {"id": id}


@app.get("/census_light")
async def census_light():
    return {**census.light(), "counts": counts}


@app.get("/census_take")
async def census_take():
    return census.take()


@app.get("/census_describe")
async def census_describe(name: str):
    return census.describe(name)
