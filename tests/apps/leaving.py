"""Streams and requests that a leaving worker meets: some watch for it, some are told, some ignore it."""

import asyncio
import contextlib
import sys
import time

import raw

EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]


def say(text):
    print(text, file=sys.stderr, flush=True)


async def begin(send, headers=EVENT_STREAM):
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})


async def watching(scope, receive, send):
    """Ends by itself, with a last event."""
    await begin(send)
    await scope["state"]["ringcorn"].draining.wait()
    await send({"type": "http.response.body", "body": b"data: last\n\n"})


async def told(scope, receive, send):
    """As most libraries have it: ends, without an end of the answer, when receive() says that the client has gone."""
    await begin(send)
    while (message := await receive())["type"] != "http.disconnect":
        pass
    say(f"told {message['type']}, draining {scope['state']['ringcorn'].draining.is_set()}")


async def ignoring(scope, receive, send):
    await begin(send)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    say("cancelled at last")
    raise asyncio.CancelledError


async def download(scope, receive, send):
    """No event stream: it may finish, though it watches for the client's end."""
    await begin(send, [(b"content-type", b"application/x-ndjson")])
    watch = asyncio.ensure_future(gone(receive))
    await asyncio.sleep(3)
    say(f"gone: {watch.done()}")
    watch.cancel()
    await send({"type": "http.response.body", "body": b"whole"})


async def gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def thread(scope, receive, send):
    """Watches from a thread."""
    flag = scope["state"]["ringcorn"].draining_sync
    seen = await asyncio.to_thread(flag.wait, 30)
    await raw.answer(send, f"seen {seen}")


ROUTES = {"/" + f.__name__: f for f in (watching, told, ignoring, download, thread)}


async def app(scope, receive, send):
    await ROUTES.get(scope.get("path"), raw.app)(scope, receive, send)


# ------------------------------------------------------------------ WSGI


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/watching":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return wsgi_watching(environ["ringcorn.worker"].draining_sync)
    if path == "/told":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return wsgi_ticks()
    if path == "/stubborn":
        stubborn()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def wsgi_watching(draining):
    yield b"data: first\n\n"
    draining.wait(30)
    yield b"data: last\n\n"


def wsgi_ticks():
    try:
        while True:
            yield b"data: tick\n\n"
            time.sleep(0.1)
    finally:
        say("closed")


def stubborn():
    time.sleep(5)
