"""gallery_failures on FastAPI; what ringcorn.guard.on() tells is at /events."""

import asyncio
import contextlib
import ctypes
import os
import threading
import time

import gallery_failures
from fastapi import FastAPI

import ringcorn.guard

EVENTS = []
ringcorn.guard.on(EVENTS.append)


@contextlib.asynccontextmanager
async def lifespan(app):
    if os.environ.get("GALLERY_START"):
        time.sleep(1.5)  # guilty: lifespan
    yield


app = FastAPI(lifespan=lifespan)

for name in gallery_failures.NAMES:
    app.get(f"/{name}")(getattr(gallery_failures, name))


@app.get("/asks_http")
async def asks_http(url: str):
    return await gallery_failures.asks_http(url)


@app.get("/slow")
def slow():
    time.sleep(0.5)  # on a thread: the loop turns
    return "slow"


@app.get("/elsewhere")
async def elsewhere():
    await asyncio.to_thread(time.sleep, 0.5)


@app.get("/timer")
async def timer():
    asyncio.get_running_loop().call_later(0.01, lambda: time.sleep(0.3))  # guilty: timer
    await asyncio.sleep(0.1)


KEEPS_GIL = ctypes.PyDLL(None)  # unlike CDLL it does not let go of the GIL


@app.get("/extension")
async def extension():
    KEEPS_GIL.usleep(1_600_000)  # guilty: extension


@app.get("/cruncher")
async def cruncher():
    thread = threading.Thread(target=lambda: (time.sleep(0.05), KEEPS_GIL.usleep(1_500_000), time.sleep(1)), name="cruncher")
    thread.start()
    await asyncio.sleep(0.1)


@app.get("/events")
async def events():
    return [{"kind": e.kind, "request": e.request, "line": e.line, "message": e.message} for e in EVENTS]


async def hidden(scope, receive, send):
    """Raw ASGI: no framework that has a thread for the request."""
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    if scope["path"] == "/later":
        await asyncio.sleep(0)
    if scope["path"] != "/well":
        time.sleep(0.3)  # guilty: raw
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
