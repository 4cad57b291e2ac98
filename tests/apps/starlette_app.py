"""The same for bare Starlette."""

import asyncio
import hashlib
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"


async def index(request):
    return PlainTextResponse("Hello, World!")


async def cookies(request):
    response = JSONResponse(dict(request.cookies))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


async def upload(request):
    async with request.form() as form:
        file = form["file"]
        data = await file.read()
        return JSONResponse(
            {"name": file.filename, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "note": form.get("note")}
        )


async def body(request):
    digest, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        digest.update(chunk)
        size += len(chunk)
    return JSONResponse({"size": size, "sha256": digest.hexdigest()})


async def stream(request):
    async def pieces():
        for i in range(int(request.query_params.get("n", 5))):
            yield f"piece {i}\n"
            await asyncio.sleep(float(request.query_params.get("delay", 0)))

    return StreamingResponse(pieces(), media_type="text/plain")


STATE = {"endless": "none"}


async def endless(request):
    async def pieces():
        STATE["endless"] = "sending"
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            STATE["endless"] = "ended"

    return StreamingResponse(pieces())


async def state(request):
    return JSONResponse(STATE)


async def wait_disconnect(request):
    STATE["poll"] = "waiting"
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    STATE["poll"] = "disconnected"
    return PlainTextResponse("late")


async def large(request):
    return PlainTextResponse("x" * int(request.query_params["size"]))


async def file(request):
    return FileResponse(STATIC / "style.css")


async def boom(request):
    raise RuntimeError("boom from starlette")


def threaded(request):
    import threading

    return PlainTextResponse(threading.current_thread().name)


routes = [
    Route("/", index),
    Route("/cookies", cookies),
    Route("/upload", upload, methods=["POST"]),
    Route("/body", body, methods=["POST"]),
    Route("/stream", stream),
    Route("/endless", endless),
    Route("/state", state),
    Route("/wait-disconnect", wait_disconnect),
    Route("/large", large),
    Route("/file", file),
    Route("/boom", boom),
    Route("/threaded", threaded),
    Mount("/static", StaticFiles(directory=STATIC)),
]
app = Starlette(routes=routes)
gzip_app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)])
