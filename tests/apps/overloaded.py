"""Requests that take as long as the test wants, and a look at what has become of them."""

import asyncio
import os
import time

import raw
import wsgi_raw

SEEN = []  # what happened, in order: read by /seen, which no limit may hold up


def note(text):
    SEEN.append(text)


async def inner(seconds):
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("cancelled")
        raise


def sync_nap(seconds):
    time.sleep(seconds)
    note("slept")


async def eat(receive):
    """Every descriptor that there is, until the body has come."""
    eaten = []
    try:
        while True:
            eaten.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        await receive()
    finally:
        for fd in eaten:
            os.close(fd)


async def app(scope, receive, send):
    if scope["type"] != "http":
        return await raw.app(scope, receive, send) if scope["type"] == "lifespan" else await websocket(scope, receive, send)
    path = scope["path"]
    if path == "/async":
        await inner(30)
    elif path == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await inner(30)
    elif path == "/thread":
        await asyncio.to_thread(sync_nap, 1)
    elif path == "/behind":
        await raw.answer(send, "all of it")
        await asyncio.sleep(1)
        note("done behind it")
    elif path == "/eat":
        await eat(receive)
        await raw.answer(send, "given back")
    elif path == "/seen":
        await raw.answer(send, "|".join(SEEN))
    else:
        await raw.app(scope, receive, send)


async def websocket(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/nap":
        sync_nap(1)
        return wsgi_raw.answer(start_response, b"late")
    if environ["PATH_INFO"] == "/seen":
        return wsgi_raw.answer(start_response, "|".join(SEEN).encode())
    return wsgi_raw.app(environ, start_response)
