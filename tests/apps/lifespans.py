"""Lifespan in its variants: supported, absent, failing, ignored."""

import asyncio
import contextvars
import json
import os
import sys
import threading
import time

LIFESPAN_VAR = contextvars.ContextVar("lifespan_var", default="unset")


async def answer(send, body):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def full(scope, receive, send):
    """State and context set at start are there in every request, as a copy."""
    if scope["type"] == "lifespan":
        assert scope["asgi"]["version"] == "3.0"
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["shared"] = {"hits": 0}
        scope["state"]["number"] = 1
        LIFESPAN_VAR.set("from lifespan")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        print("shutdown seen", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    state = scope["state"]
    state["shared"]["hits"] += 1
    state["number"] += 1
    await answer(
        send,
        json.dumps(
            {"hits": state["shared"]["hits"], "number": state["number"], "var": LIFESPAN_VAR.get()}
        ).encode(),
    )
    LIFESPAN_VAR.set("from request")


async def absent(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await answer(send, json.dumps({"has_state": "state" in scope}).encode())


async def ignored(scope, receive, send):
    """Returns at once, without a word."""
    if scope["type"] == "http":
        await answer(send, b"served")


async def startup_failed(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is not there"})


async def startup_raises(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        raise ValueError("startup went wrong")
    await answer(send, b"served")


async def startup_hangs(scope, receive, send):
    if scope["type"] == "lifespan":
        await asyncio.sleep(3600)


async def shutdown_failed(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "could not flush"})
        return
    await answer(send, b"served")


async def shutdown_raises(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ValueError("shutdown went wrong")
    await answer(send, b"served")


async def dies(scope, receive, send):
    """Ends in the middle of its life, with an exception, while requests go on."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await asyncio.sleep(0.2)
        if (once := os.environ.get("DIES_ONCE")) is None or not os.path.exists(once):
            open(once or os.devnull, "w").close()
            raise ValueError("lifespan died")
        await receive()
    await answer(send, b"served")


async def background(scope, receive, send):
    """A task made at start lives as long as the worker."""
    if scope["type"] == "lifespan":
        await receive()
        ticks = scope["state"]["ticks"] = [0]

        async def tick():
            while True:
                await asyncio.sleep(0.01)
                ticks[0] += 1

        task = asyncio.create_task(tick())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        print("ticker ended", file=sys.stderr, flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await answer(send, str(scope["state"]["ticks"][0]).encode())


async def never_returns(scope, receive, send):
    """Confirms whatever comes, and waits for the next message for ever."""
    if scope["type"] == "http":
        return await answer(send, b"served")
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})


async def failed_never_returns(scope, receive, send):
    while True:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is not there"})


async def failed_and_raises(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is not there"})
    raise ValueError("a reason of its own")


async def exits(scope, receive, send):
    await receive()
    sys.exit("no configuration")


async def task_exits(scope, receive, send):
    """A task that was made at start ends the process before the start is complete."""

    async def task():
        sys.exit("no configuration")

    asyncio.create_task(task())
    await asyncio.sleep(60)


async def cancelled(scope, receive, send):
    if scope["type"] == "http":
        return await answer(send, b"served")
    raise asyncio.CancelledError


async def request_exits(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    if scope["path"] == "/wait":
        await asyncio.sleep(1)
        return await answer(send, b"waited")
    sys.exit(5)


def call_exits(scope, receive, send):
    """Exits before there is a coroutine."""
    sys.exit(5)


async def long_request(scope, receive, send):
    """A request that ends only when it is cancelled, and a shutdown that takes its time."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(0.5)
        print("shutdown seen", flush=True)
        return await send({"type": "lifespan.shutdown.complete"})
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.1)
        print("request cleaned up", flush=True)


_mailers = []


async def thread_that_stays(scope, receive, send):
    """Starts a thread that is no daemon and ends by itself, later than its worker would."""
    if scope["type"] != "http":
        raise RuntimeError("only http")
    _mailers.append(threading.Thread(target=time.sleep, args=(1.5,), name="mailer"))
    _mailers[-1].start()
    await answer(send, b"started")


async def fails_when_stopped(scope, receive, send):
    """Starts for long; told to stop meanwhile, it fails in its own way."""
    if scope["type"] == "lifespan":
        print("starting", flush=True)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            raise ValueError("stopped while it started") from None
    await answer(send, b"served")


async def slow_start(scope, receive, send):
    """A second to start, a second to answer."""
    if scope["type"] == "lifespan":
        await receive()
        await asyncio.sleep(1)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.sleep(1)
    await answer(send, b"late")
