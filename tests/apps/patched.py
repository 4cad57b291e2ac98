"""Applications that gevent or eventlet has patched, as PATCHED says: "gevent", "gevent thread=False", "eventlet", ..."""

import os

library, _, without_threads = os.environ["PATCHED"].partition(" ")
options = {"thread": False} if without_threads else {}
if library == "gevent":
    from gevent import monkey, spawn

    monkey.patch_all(**options)

    def in_greenlet(function):
        return spawn(function).get()

else:
    import warnings

    warnings.simplefilter("ignore")  # eventlet says that it is deprecated
    import eventlet

    eventlet.monkey_patch(**options)

    def in_greenlet(function):
        return eventlet.spawn(function).wait()


import asyncio
import time


def wait():
    time.sleep(0.01)
    return "waited"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    said = [await asyncio.to_thread(wait) for _ in range(2)]
    said += await asyncio.gather(*[asyncio.to_thread(in_greenlet, wait) for _ in range(4)])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": " ".join(said).encode()})


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{wait()} {in_greenlet(wait)}".encode()]
