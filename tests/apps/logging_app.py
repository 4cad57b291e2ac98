"""Says things to Python's logging: on the loop, on a thread, and by an exception."""

import asyncio
import logging
import os

log = logging.getLogger("app")


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    path, query = scope["path"], scope["query_string"].decode()
    if path == "/fail":
        raise RuntimeError(f"failed {query}")
    if path == "/fail-long":
        raise RuntimeError("x" * 500000 + "the end")
    if path == "/say":
        log.warning("said %s", query)
    if path == "/thread":
        await asyncio.to_thread(log.warning, "said on a thread %s", query)
    if path == "/fork":
        pid = os.fork()
        if pid == 0:
            log.warning("said by a child %s", query)
            os._exit(0)
        os.waitpid(pid, 0)
    body = str(scope["state"].get("request_id")).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode()), (b"x-of-app", b"yes")]})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("failed")
    log.warning("said %s", environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(environ.get("ringcorn.request_id")).encode()]
