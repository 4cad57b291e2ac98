"""50 ms of sleep on one of eight threads: 160 requests a second, whatever the server."""

import asyncio
import concurrent.futures
import time

SLEEP = 0.05
THREADS = 8
POOL = concurrent.futures.ThreadPoolExecutor(THREADS)
BODY = b"slept"


def wsgi(environ, start_response):
    time.sleep(SLEEP)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await asyncio.get_running_loop().run_in_executor(POOL, time.sleep, SLEEP)
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})
