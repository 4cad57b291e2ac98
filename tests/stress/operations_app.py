"""What operations.py serves beside Django: FastAPI with endpoints on the loop and on threads, uploads, streams, events, a WebSocket, memory that
is never given back, and lines in the log."""

import asyncio
import hashlib
import logging
import time

from fastapi import BackgroundTasks, FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

app = FastAPI()
log = logging.getLogger("ringcorn.error")
kept = []


@app.get("/plain")
async def plain(id: str):
    return {"id": id}


@app.get("/later")
async def later(id: str, s: float):
    await asyncio.sleep(s)
    return {"id": id}


@app.get("/thread")
def thread(id: str, s: float):
    time.sleep(s)
    return {"id": id}


@app.get("/logged")
async def logged(id: str):
    log.info("logged: %s.", id)
    return {"id": id}


@app.get("/behind")
async def behind(id: str, s: float, tasks: BackgroundTasks):
    """Something is done behind the answer."""
    tasks.add_task(asyncio.sleep, s)
    return {"id": id}


@app.get("/leak")
async def leak(id: str):
    kept.append(bytearray(b"x" * (2 << 20)))
    return {"id": id}


@app.post("/upload")
async def upload(request: Request, id: str):
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return {"id": id, "size": size, "sha256": digest.hexdigest()}


@app.get("/stream")
def stream(id: str, n: int):
    return StreamingResponse((f"{id} {i} 0 {'x' * 3000}\n" for i in range(n)), media_type="text/plain")


@app.get("/events")
async def events(id: str, n: int):
    async def tell():
        for i in range(n):
            yield f"id: {i}\ndata: {id}\n\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(tell(), media_type="text/event-stream")


@app.websocket("/echo")
async def echo(websocket: WebSocket, id: str):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass
