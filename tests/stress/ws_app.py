"""What the scenario of WebSockets serves, to Ringcorn and to uvicorn: one raw ASGI coroutine a socket, which echoes.

/echo only echoes. /listen hears broadcasts too: GET /broadcast?N sends "B <number> <when>" to all of them, once a second, N times;
GET /state tells how many listen and how many broadcasts are done.
"""

import asyncio
import json
import time

LISTENERS = {}  # send of each, in the order in which they came
STATE = {"broadcasts": 0, "sending_s": 0.0, "failed": []}
TASKS = []


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        await http(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/listen":
        LISTENERS[send] = None
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    LISTENERS.pop(send, None)


async def broadcast(n):
    began = time.monotonic()
    for i in range(n):
        await asyncio.sleep(began + i - time.monotonic())
        now = time.monotonic()
        message = {"type": "websocket.send", "text": f"B {i} {int(now * 1e9)}"}
        for send in list(LISTENERS):
            await send(message)
        STATE["sending_s"] = max(STATE["sending_s"], time.monotonic() - now)
        STATE["broadcasts"] += 1


def done(task):
    if not task.cancelled() and task.exception() is not None:
        STATE["failed"].append(repr(task.exception()))


async def http(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/broadcast":
        task = asyncio.create_task(broadcast(int(scope["query_string"])))
        task.add_done_callback(done)
        TASKS.append(task)
    body = json.dumps({**STATE, "listeners": len(LISTENERS)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
