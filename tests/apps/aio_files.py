"""Reads and writes files by ringcorn.aio, on the server's own loop, and by AnyIO and Starlette on top of it."""

import asyncio
import json
from urllib.parse import parse_qs

import anyio

from ringcorn import aio

aio.install_anyio()


async def body_of(receive):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def read(path, receive):
    return await aio.read_bytes(path)


async def lines(path, receive):
    async with aio.open(path, encoding="utf-8") as file:
        return json.dumps([line async for line in file]).encode()


async def write(path, receive):
    async with aio.open(path, "wb") as file:
        n = await file.write(await body_of(receive))
        await file.fsync()
    return b"%d" % n


async def by_anyio(path, receive):
    async with await anyio.open_file(path, "rb") as file:
        return type(file.wrapped).__name__.encode() + b" " + await file.read()


async def wait(path, receive):
    """For what somebody writes to a FIFO; until the client leaves."""
    reading = asyncio.ensure_future(aio.read_bytes(path))
    gone = asyncio.ensure_future(receive_disconnect(receive))
    try:
        await asyncio.wait((reading, gone), return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else b""
    finally:
        for task in (reading, gone):
            task.cancel()
        await asyncio.gather(reading, gone, return_exceptions=True)


async def receive_disconnect(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    handler = {"/read": read, "/lines": lines, "/write": write, "/anyio": by_anyio, "/wait": wait}[scope["path"]]
    path = parse_qs(scope["query_string"].decode())["path"][0]
    try:
        body, status = await handler(path, receive), 200
    except OSError as exc:
        body, status = f"{type(exc).__name__} {exc.filename}".encode(), 404
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
