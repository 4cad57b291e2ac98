"""Legal, but unlike what most frameworks do: each path does one such thing."""

import asyncio
import gc
import json
import threading
import time

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


async def tasks(receive, send):
    """create_task() of what receive() and send() return, as of coroutines; one task is cancelled in the middle."""
    given_up = asyncio.create_task(receive())
    await asyncio.sleep(0.01)
    given_up.cancel()
    await asyncio.wait({given_up})
    data, more = b"", True
    while more:
        message = await asyncio.create_task(receive())
        data, more = data + message["body"], message["more_body"]
    await asyncio.create_task(send({"type": "http.response.start", "status": 200}))
    last = f"{given_up.cancelled()} ".encode() + data
    await asyncio.create_task(send({"type": "http.response.body", "body": last}))


async def thread(receive, send):
    """A thread receives and sends by way of the loop; what it awaits in a loop of its own is refused."""
    loop = asyncio.get_running_loop()

    async def here():
        await send({"type": "http.response.start", "status": 500})

    def job():
        def on_loop(coroutine):
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

        try:
            asyncio.run(here())
            refused = "not refused"
        except RuntimeError as e:
            refused = str(e)
        data, more = b"", True
        while more:
            message = on_loop(receive())
            data, more = data + message["body"], message["more_body"]
        on_loop(send({"type": "http.response.start", "status": 200}))
        for _ in range(CHUNKS):
            on_loop(send({"type": "http.response.body", "body": data * 1000, "more_body": True}))
        on_loop(send({"type": "http.response.body", "body": refused.encode()}))

    await loop.run_in_executor(None, job)


LATE = {}


async def late_receive(receive, send):
    """A task that outlives its request asks for more."""

    async def later():
        await asyncio.sleep(0.05)
        LATE["after return"] = (await receive())["type"]

    late_receive.task = asyncio.create_task(later())
    await answer(send, b"")


async def early_answer(receive, send):
    """Answers without reading the body, then asks for it."""
    await answer(send, b"early")
    LATE["after answer"] = (await receive())["type"]


async def caused_by_itself(receive, send):
    """Fails when its client has gone, with a ring of causes."""
    while (await receive())["type"] != "http.disconnect":
        pass
    try:
        raise ValueError("caused by itself")
    except ValueError as e:
        raise e from e


async def late(receive, send):
    await answer(send, json.dumps(LATE).encode())


async def lost(receive, send):
    """Waits for what nobody refers to: only the collector can end this."""
    await asyncio.get_running_loop().create_future()


async def collector(receive, send):
    """The collector runs in a thread while the loop sleeps."""

    def collect():
        for _ in range(10):
            time.sleep(0.1)
            gc.collect()

    collector.thread = threading.Thread(target=collect)
    collector.thread.start()
    await answer(send, b"")


PATHS = {
    "/" + f.__name__.replace("_", "-"): f
    for f in (
        refilled, readonly_view, list_pairs, headers_change, headers_start, event_changes, tasks, thread, late_receive,
        early_answer, late, caused_by_itself, lost, collector,
    )
}  # fmt: skip


class Awaitable:
    """Not `async def`, but `await Awaitable(scope, receive, send)` is an ASGI application, as Starlette's HTTPEndpoint is."""

    def __init__(self, scope, receive, send):
        self.send = send

    def __await__(self):
        return answer(self.send, b"awaited").__await__()


def future(scope, receive, send):
    return asyncio.ensure_future(answer(send, b"from a future"))


async def app(scope, receive, send):
    await PATHS[scope["path"]](receive, send)
