"""What is asked through a proxy: who asks, streams, uploads, and files that the proxy is to send."""

import asyncio
import hashlib
import json
import os

GO_ON = asyncio.Event()  # set by /go-on: the second event, the second half of an upload


async def answer(send, body, headers=(), status=200):
    headers = [(b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def who(scope, receive, send):
    told = {k: scope[k] for k in ("client", "scheme", "server", "path")}
    told["host"] = dict(scope["headers"]).get(b"host", b"").decode()
    told["forwarded"] = [v.decode() for k, v in scope["headers"] if k == b"x-forwarded-for"]
    await answer(send, json.dumps(told | {"pid": os.getpid()}).encode())


async def events(scope, receive, send):
    """One event, and another when somebody has asked for /go-on."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    GO_ON.clear()
    await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
    await GO_ON.wait()
    await send({"type": "http.response.body", "body": b"data: second\n\n"})


async def go_on(scope, receive, send):
    GO_ON.set()
    await answer(send, b"")


async def upload(scope, receive, send):
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message["body"])
        size, more = size + len(message["body"]), message["more_body"]
        UPLOADS["size"] = size
    await answer(send, json.dumps({"size": size, "sha256": digest.hexdigest()}).encode())


async def uploads(scope, receive, send):
    """How much of the last upload has come to the application."""
    await answer(send, json.dumps(UPLOADS).encode())


async def download(scope, receive, send):
    name = scope["query_string"]
    await answer(send, b"", [(b"x-accel-redirect", b"/protected/" + name), (b"content-type", b"application/pdf"), (b"x-own", b"yes")])


async def health(scope, receive, send):
    await answer(send, b"ok")


async def stuck(scope, receive, send):
    """Until its client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


UPLOADS = {"size": 0}
ROUTES = {
    "/": who, "/events": events, "/go-on": go_on, "/slow": upload, "/upload": upload, "/uploads": uploads, "/download": download,
    "/health": health,
}  # fmt: skip


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("HTTP alone")
    if scope["path"] in ROUTES:
        await ROUTES[scope["path"]](scope, receive, send)
    else:
        await answer(send, b"", status=404)


async def app_that_hangs(scope, receive, send):
    await (stuck if scope["type"] == "http" else app)(scope, receive, send)
