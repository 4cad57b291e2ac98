"""Sends what the request's X-Script header says, in that order. A body is given by its size."""

import asyncio
import json


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    script = json.loads(dict(scope["headers"])[b"x-script"])
    for message in script["messages"]:
        if "wait" in message:
            await asyncio.sleep(message["wait"])
            continue
        if "receive" in message:
            await asyncio.wait_for(receive(), 5) if scope["method"] == "POST" else None
            continue
        message = dict(message)
        if "body" in message:
            message["body"] = b"x" * message["body"]
        if "headers" in message:
            message["headers"] = [(n.encode(), v.encode()) for n, v in message["headers"]]
        try:
            await send(message)
        except Exception:
            if script["on_error"] == "stop":
                raise
