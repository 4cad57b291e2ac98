"""A FastAPI application of the usual kind: models, dependencies, uploads, streaming, background tasks, cookies, static files."""

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, File, HTTPException, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app):
    yield {"started": time.time(), "items": {}, "done": []}


app = FastAPI(title="Ringcorn's FastAPI example", lifespan=lifespan)
app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")


class Item(BaseModel):
    name: str
    price: float = 0


@app.get("/")
async def index():
    return {"hello": "world"}


@app.get("/sync")
def sync_index():
    return {"hello": "thread"}


def current_user(user: Annotated[str | None, Cookie()] = None):
    return user or "nobody"


@app.get("/me")
async def me(user: Annotated[str, Depends(current_user)]):
    return {"user": user}


@app.post("/login/{user}")
async def login(user: str, response: Response):
    response.set_cookie("user", user, httponly=True)
    response.set_cookie("second", "cookie")
    return {"ok": True}


@app.post("/items/{item_id}", status_code=201)
async def put_item(item_id: int, item: Item, request: Request, background: BackgroundTasks):
    request.state.items[item_id] = item
    background.add_task(request.state.done.append, item_id)
    return {"id": item_id, "item": item}


@app.get("/items/{item_id}")
def get_item(item_id: int, request: Request, q: str | None = None):
    if item_id not in request.state.items:
        raise HTTPException(404, "no such item")
    return {"id": item_id, "item": request.state.items[item_id], "q": q, "done": request.state.done}


@app.post("/upload")
async def upload(file: Annotated[UploadFile, File()]):
    digest, size = hashlib.sha256(), 0
    while chunk := await file.read(65536):
        digest.update(chunk)
        size += len(chunk)
    return {"name": file.filename, "size": size, "sha256": digest.hexdigest()}


@app.post("/upload-sync")
def upload_sync(file: Annotated[UploadFile, File()]):
    data = file.file.read()
    return {"name": file.filename, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@app.post("/body")
async def body(request: Request):
    data = await request.body()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@app.get("/stream")
async def stream(n: int = 5, delay: float = 0.0):
    async def pieces():
        for i in range(n):
            yield f"piece {i}\n"
            await asyncio.sleep(delay)

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/stream-sync")
def stream_sync(n: int = 5):
    return StreamingResponse((f"piece {i}\n" for i in range(n)), media_type="text/plain")


ENDLESS = {"state": "none"}


@app.get("/endless")
async def endless():
    async def pieces():
        ENDLESS["state"] = "sending"
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            ENDLESS["state"] = "ended"

    return StreamingResponse(pieces(), media_type="text/plain")


@app.get("/endless-state")
async def endless_state():
    return ENDLESS


@app.get("/large")
async def large(size: int):
    return Response(b"x" * size, media_type="application/octet-stream")


@app.get("/boom")
async def boom():
    raise RuntimeError("boom from fastapi")
