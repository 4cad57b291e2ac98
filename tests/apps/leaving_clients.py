"""What an application does when its clients leave: each endpoint says at /said how it ended, under its own name.

With MIDDLEWARE=1 two BaseHTTPMiddlewares of Starlette are around everything."""

import asyncio
import contextlib
import os
import time

import anyio
from fastapi import BackgroundTasks, Depends, FastAPI, Request, WebSocket
from starlette.middleware.base import BaseHTTPMiddleware

import ringcorn.guard

app = FastAPI()
said = {}
LONG = float(os.environ.get("LONG", 1.2))


@contextlib.asynccontextmanager
async def ending(name):
    """Says how its body ended, after a while that a second cancellation would cut off."""
    how = "went on"
    try:
        yield
    except BaseException as e:
        how = type(e).__name__
        print(name, "cleans up", flush=True)
        raise
    finally:
        try:
            for _ in range(4):
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            how += ", and its cleanup was cut off"
            raise
        finally:
            said[name] = how
            print(name, "ended:", how, flush=True)


@app.get("/waits")
async def waits():
    async with ending("waits"):
        await asyncio.sleep(LONG)


async def dependency():
    async with ending("depends"):
        yield


@app.get("/depends")
async def depends(_=Depends(dependency)):
    await asyncio.sleep(LONG)


@app.get("/reads")
async def reads(request: Request):
    async with ending("reads"):
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)
        await asyncio.sleep(LONG)


@app.get("/allowed")
@ringcorn.guard.allow("disconnect")
async def allowed():
    async with ending("allowed"):
        await asyncio.sleep(LONG)


@app.get("/answers")
async def answers(background: BackgroundTasks):
    async def later():
        async with ending("answers"):
            await asyncio.sleep(LONG)

    background.add_task(later)
    return "answered"


@app.get("/thread")
def thread():
    time.sleep(LONG)
    said["thread"] = "went on"


@app.get("/on_thread")
async def on_thread():
    try:
        await anyio.to_thread.run_sync(time.sleep, LONG)
        said["on_thread"] = "went on"
    finally:
        said.setdefault("on_thread", "left its thread")


@app.get("/tree")
async def tree():
    async def branch(name):
        async with ending(name):
            await asyncio.sleep(LONG)

    asyncio.create_task(branch("branch"))
    ringcorn.guard.outlives(asyncio.create_task(branch("outlives")))
    async with ending("tree"), asyncio.TaskGroup() as group:
        group.create_task(branch("group"))
        await asyncio.gather(branch("gathered"), asyncio.sleep(LONG))


@app.get("/said")
async def tell():
    return said


@app.websocket("/ws")
async def socket(websocket: WebSocket):
    async with ending("ws"):
        await websocket.accept()
        await asyncio.sleep(LONG)


class Middleware(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


if os.environ.get("MIDDLEWARE"):
    app.add_middleware(Middleware)
    app.add_middleware(Middleware)
