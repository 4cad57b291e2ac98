"""What the stress scenarios serve: raw ASGI, one coroutine per behaviour, found by the path.

Answers carry the process id in `x-pid` and the request's query as their body, so that the load client (tests/tools/load.py)
sees which process answered, and that the answer is the one to its request.
"""

import asyncio
import gc
import json
import os
import time
from urllib.parse import parse_qsl

PID = (b"x-pid", str(os.getpid()).encode())
ROUTES = {}


def route(function):
    ROUTES["/" + function.__name__.replace("_", "-")] = function
    return function


async def answer(send, body):
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length, PID]})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send, value):
    await answer(send, json.dumps(value).encode())


def number(scope, name, default):
    return float(dict(parse_qsl(scope["query_string"].decode())).get(name, default))


@route
async def instant(scope, receive, send):
    await answer(send, scope["query_string"])


@route
async def late(scope, receive, send):
    """The head at once, the body 20 ms later."""
    body = scope["query_string"]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length, PID]})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    await asyncio.sleep(0.02)
    await send({"type": "http.response.body", "body": body})


# ------------------------------------------------------------------ long polls


class Polls:
    """The requests that wait for one event."""

    event = asyncio.Event()
    waiting = answered = 0
    set_at = last_at = None


@route
async def poll(scope, receive, send):
    Polls.waiting += 1
    try:
        async with asyncio.timeout(60):
            await Polls.event.wait()
    finally:
        Polls.waiting -= 1
    await answer(send, scope["query_string"])
    Polls.answered += 1
    Polls.last_at = time.monotonic()


@route
async def polls(scope, receive, send):
    shown = {k: getattr(Polls, k) for k in ("waiting", "answered", "set_at", "last_at")}
    await answer_json(send, shown)


@route
async def release_polls(scope, receive, send):
    Polls.set_at = time.monotonic()
    Polls.event.set()
    await answer_json(send, {"waiting": Polls.waiting})


# ------------------------------------------------------------------ descriptors

EATEN = []


@route
async def eat_descriptors(scope, receive, send):
    """Opens files until there is no descriptor left, and keeps them for `s` seconds after the answer."""
    try:
        while True:
            EATEN.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as e:
        reason = e.strerror
    await answer_json(send, {"eaten": len(EATEN), "reason": reason})
    asyncio.get_running_loop().call_later(number(scope, "s", 3), give_back)


def give_back():
    while EATEN:
        os.close(EATEN.pop())


# ------------------------------------------------------------------ what does not end


@route
async def endless(scope, receive, send):
    """A stream without an end: `size` bytes every `delay` seconds."""
    size, delay = int(number(scope, "size", 100)), number(scope, "delay", 0.05)
    await send({"type": "http.response.start", "status": 200, "headers": [PID]})
    while True:
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        await asyncio.sleep(delay)


@route
async def megabytes(scope, receive, send):
    """`n` MiB in one answer: more than the sockets take, so send() waits for the client."""
    n = int(number(scope, "n", 8))
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(n << 20).encode())]})
    for _ in range(n):
        await send({"type": "http.response.body", "body": b"m" * (1 << 20), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@route
async def late_body(scope, receive, send):
    """Waits in receive(), and nothing but the server knows of it."""
    await asyncio.sleep(0)
    message = await receive()
    await answer(send, message["body"])


@route
async def give_up_receive(scope, receive, send):
    """Asks for the disconnect and loses patience, five times."""
    await receive()
    lost = 0
    for _ in range(5):
        try:
            await asyncio.wait_for(receive(), 0.01)
        except TimeoutError:
            lost += 1
    await answer(send, b"%d" % lost)


@route
async def spin_forever(scope, receive, send):
    while True:
        pass


STUCK = []


def read_an_empty_pipe():
    reader, writer = os.pipe()
    STUCK.append(writer)
    os.read(reader, 1)  # the writer stays open: this never returns


@route
async def stuck(scope, receive, send):
    await answer_json(send, len(STUCK))


@route
async def stuck_thread(scope, receive, send):
    await asyncio.to_thread(read_an_empty_pipe)


@route
async def collect(scope, receive, send):
    await answer_json(send, gc.collect())


async def websocket_echo(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "headers": [PID]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        return await websocket_echo(receive, send)
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await ROUTES[scope["path"]](scope, receive, send)
