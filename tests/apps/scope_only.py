"""Shows the scope for any path, and changes it for the worse."""

import json

import raw


async def app(scope, receive, send):
    await raw.show_scope(scope, receive, send)


async def vandal(scope, receive, send):
    """Writes into everything that could be shared between requests."""
    seen = json.dumps({"asgi": scope["asgi"], "state": scope.get("state"), "extensions": scope.get("extensions", {}), "keys": sorted(scope)}, default=str)
    scope["asgi"]["version"] = "9"
    scope.get("state", {})["dirt"] = 1
    scope["dirt"] = 1
    scope["headers"].append((b"dirt", b"1"))
    scope.get("extensions", {})["dirt"] = 1
    message = await receive()
    message["body"] = b"dirt"
    message["more_body"] = True
    await raw.answer(send, seen)
