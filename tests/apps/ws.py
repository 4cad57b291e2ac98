"""WebSockets in raw ASGI: one small coroutine per behaviour under test, found by the path. Plain HTTP: /events tells what sockets saw."""

import asyncio
import json
import os

EVENTS = {}  # name -> what happened last; /events answers it
WAITERS = {}  # name -> asyncio.Event


async def accept(receive, send, **more):
    message = await receive()
    assert message == {"type": "websocket.connect"}, message
    await send({"type": "websocket.accept", **more})


async def echo(scope, receive, send):
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        if "text" in message:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
    note(scope, message)


def note(scope, message):
    EVENTS[name_of(scope)] = json.dumps(message)


def name_of(scope):
    return scope["query_string"].decode() or "last"


async def scope_text(scope, receive, send):
    await accept(receive, send)
    shown = {**scope, "state": {k: type(v).__name__ for k, v in scope["state"].items()}}
    text = {k: repr(v) for k, v in shown.items()}
    await send({"type": "websocket.send", "text": json.dumps(text)})
    note(scope, await receive())


async def protocols(scope, receive, send):
    await accept(receive, send, subprotocol=scope["subprotocols"][-1], headers=[(b"x-own", b"yes"), (b"Server", b"mine")])
    note(scope, await receive())


async def refuse(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.close", "code": 4001, "reason": "no"})
    note(scope, await receive())


async def deny(scope, receive, send):
    assert "websocket.http.response" in scope["extensions"]
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.http.response.start", "status": 451, "headers": [(b"x-why", b"law")]})
    await send({"type": "websocket.http.response.body", "body": b"not ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"here"})
    note(scope, await receive())


async def denials(scope, receive, send):
    """Denies in the way that the query names; then tells what is said to it, and what is left to say."""
    assert (await receive())["type"] == "websocket.connect"
    start = {"type": "websocket.http.response.start", "headers": [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]}
    body = {"type": "websocket.http.response.body"}
    if name_of(scope) == "empty":
        await send({**start, "status": 401})
        await send(body)
    elif name_of(scope) == "bare":
        await send({**start, "status": 204})
        await send(body)
    else:
        await send({**start, "status": 503})
        for i in range(50):
            await send({**body, "body": b"%02d" % i * 5000, "more_body": True})
            await asyncio.sleep(0)
        await send({**body, "body": b""})
    said = [await receive()]
    for call, *args in ((receive,), (send, body), (send, {"type": "websocket.accept"}), (send, {"type": "websocket.close"})):
        try:
            said.append(await call(*args))
        except Exception as e:
            said.append(type(e).__name__)
    note(scope, said)


async def wrong_accepts(scope, receive, send):
    """What cannot be accepted, and the errors; then what can."""
    await receive()
    said = []
    own = {"headers": [(b"Sec-WebSocket-Protocol", b"one")]}
    for more in ({"subprotocol": "three"}, {"subprotocol": ""}, {"subprotocol": "one, two"}, own, {"subprotocol": "one", **own}):
        try:
            await send({"type": "websocket.accept", **more})
        except Exception as e:
            said.append(type(e).__name__)
    await send({"type": "websocket.accept", "subprotocol": "two", "headers": [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]})
    await send({"type": "websocket.send", "text": json.dumps(said)})
    note(scope, await receive())


async def two_receivers(scope, receive, send):
    """Two tasks wait for the next message."""
    await accept(receive, send)
    first, second = await asyncio.gather(receive(), receive(), return_exceptions=True)
    note(scope, [one if isinstance(one, dict) else type(one).__name__ for one in (first, second)])


class EndsItsRequest:
    """A buffer whose making tells the server that the application has returned."""

    def __buffer__(self, flags):
        task = asyncio.current_task()
        for callback, _ in task._callbacks:
            callback(task)
        return memoryview(b"too late")


async def ends_in_a_buffer(scope, receive, send):
    await accept(receive, send)
    await asyncio.sleep(0)  # it has a done callback from now on
    try:
        await send({"type": "websocket.send", "bytes": EndsItsRequest()})
    except RuntimeError as e:
        EVENTS[name_of(scope)] = str(e)


async def late(scope, receive, send):
    """Answers each message after as many seconds as it says."""
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await asyncio.sleep(float(message["text"]))
        await send({"type": "websocket.send", "text": message["text"]})
    note(scope, message)


async def silent(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"


async def fails_early(scope, receive, send):
    raise LookupError("before the handshake")


async def fails_late(scope, receive, send):
    await accept(receive, send)
    raise LookupError("after the handshake")


async def returns(scope, receive, send):
    await accept(receive, send)


async def closes(scope, receive, send):
    """Closes with the code and reason that the client's first message names; then tells what came back."""
    await accept(receive, send)
    wanted = json.loads((await receive())["text"])
    await send({"type": "websocket.close", **wanted})
    note(scope, await receive())


async def slow(scope, receive, send):
    """Takes nothing until /go/NAME says so, then tells how much came."""
    await accept(receive, send)
    await WAITERS.setdefault(name_of(scope), asyncio.Event()).wait()
    count = 0
    while (message := await receive())["type"] == "websocket.receive":
        count += 1
        if message.get("text") == "end":
            await send({"type": "websocket.send", "text": str(count)})
    note(scope, message)


async def pours(scope, receive, send):
    """Sends without end; tells how far it got and how that ended."""
    await accept(receive, send)
    n = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 65536})
            n += 1
            EVENTS[name_of(scope) + ".sent"] = str(n)
    except OSError as e:
        EVENTS[name_of(scope)] = type(e).__name__
    note_after = await receive()
    EVENTS[name_of(scope) + ".disconnect"] = json.dumps(note_after)


async def order(scope, receive, send):
    """What an application must not send, and what becomes of it."""
    said = []

    async def tries(message):
        try:
            await send(message)
            said.append("sent")
        except Exception as e:
            said.append(f"{type(e).__name__}: {e}")

    await tries({"type": "websocket.send", "text": "early"})
    await tries({"type": "http.response.start", "status": 200})
    await accept(receive, send)
    await tries({"type": "websocket.accept"})
    await tries({"type": "websocket.send"})
    await tries({"type": "websocket.send", "text": "a", "bytes": b"b"})
    await tries({"type": "websocket.send", "text": b"bytes"})
    await tries({"type": "websocket.send", "bytes": "str"})
    await tries({"type": "websocket.send", "text": "\ud800"})
    await tries({"type": "websocket.send", "bytes": bytearray(b"array"), "text": None})
    await tries({"type": "websocket.close", "code": 1005})
    await tries({"type": "websocket.http.response.start", "status": 200})
    await send({"type": "websocket.send", "text": json.dumps(said)})
    said.clear()
    assert (await receive())["type"] == "websocket.disconnect"
    await tries({"type": "websocket.send", "text": "late"})
    await tries({"type": "websocket.close"})
    try:
        await receive()
    except RuntimeError as e:
        said.append(f"{type(e).__name__}: {e}")
    EVENTS[name_of(scope)] = json.dumps(said)


ROUTES = {
    f.__name__: f
    for f in (
        echo, scope_text, protocols, refuse, deny, denials, wrong_accepts, two_receivers, ends_in_a_buffer, late, silent, fails_early, fails_late, returns,
        closes, slow, pours, order,
    )  # fmt: skip
}


async def http(scope, receive, send):
    path = scope["path"]
    body = json.dumps(EVENTS) if path == "/events" else str(os.getpid())
    if path.startswith("/go/"):
        WAITERS.setdefault(path[4:], asyncio.Event()).set()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await ROUTES[scope["path"].strip("/")](scope, receive, send)
    elif scope["type"] == "http":
        await http(scope, receive, send)
    else:
        raise RuntimeError("no lifespan")
