"""Legal, but unlike what most frameworks do: each path does one such thing."""

import gc

CHUNK = 65536
CHUNKS = 100


async def start(send, headers=()):
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def answer(send, body):
    await start(send)
    await send({"type": "http.response.body", "body": body})


async def refilled(receive, send):
    """One buffer for the whole of a stream, filled anew for every piece, as readinto() does."""
    buffer = bytearray(CHUNK)
    await start(send)
    for i in range(CHUNKS):
        buffer[:] = bytes([i]) * CHUNK
        await send({"type": "http.response.body", "body": buffer, "more_body": True})
    await send({"type": "http.response.body"})


async def readonly_view(receive, send):
    await answer(send, memoryview(bytes(range(256)) * 4096))


async def list_pairs(receive, send):
    await start(send, [[b"x-list", b"1"], (b"x-tuple", b"2"), iter((b"x-iterator", b"3"))])
    await send({"type": "http.response.body", "body": b"ok"})


async def headers_change(receive, send):
    """Reading one pair empties the list and forgets the pairs before it."""

    class Pair:
        def __iter__(self):
            headers.clear()
            gc.collect()
            self.litter = [(b"litter" * 20, bytes(500)) for _ in range(200)]
            return iter((b"x-last", b"1"))

    headers = [(b"x-" + b"a" * int("100"), b"b" * int("500")), [b"x-" + b"c" * int("100"), b"d" * int("500")], Pair()]
    await start(send, headers)
    await send({"type": "http.response.body", "body": b"ok"})


async def headers_start(receive, send):
    """Reading the headers sends another start."""

    def headers():
        send({"type": "http.response.start", "status": 201, "headers": [(b"x-inner", b"1")]})
        yield (b"x-outer", b"1")

    try:
        await start(send, headers())
    except RuntimeError as e:
        await send({"type": "http.response.body", "body": str(e).encode()})


async def event_changes(receive, send):
    """Whether there is more empties the message."""

    class More:
        def __bool__(self):
            event.clear()
            gc.collect()
            return False

    event = {"type": "http.response.body", "body": b"z" * int("12000"), "more_body": More()}
    await start(send)
    await send(event)


PATHS = {
    "/" + f.__name__.replace("_", "-"): f
    for f in (refilled, readonly_view, list_pairs, headers_change, headers_start, event_changes)
}


async def app(scope, receive, send):
    await PATHS[scope["path"]](receive, send)
