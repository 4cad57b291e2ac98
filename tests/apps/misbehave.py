"""An application that breaks the rules of ASGI in every way we could think of; the path says which."""

import asyncio
import json

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
SEEN = {}  # path -> what send() raised, read by /seen


def start(*headers, status=200):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data=b"body", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


# Messages sent in this order; what raises is noted and raised on.
SEQUENCES = {
    "/body-first": [body()],
    "/start-twice": [START, START],
    "/body-after-end": [START, body(), body()],
    "/start-after-end": [START, body(), START],
    "/not-a-dict": ["text"],
    "/none": [None],
    "/no-type": [{"status": 200}],
    "/type-not-str": [{"type": 5}],
    "/unknown-type": [{"type": "http.response.nonsense"}],
    "/websocket-type": [{"type": "websocket.accept"}],
    "/no-status": [{"type": "http.response.start", "headers": []}],
    "/status-str": [{"type": "http.response.start", "status": "200", "headers": []}],
    "/status-0": [start(status=0)],
    "/status-99": [start(status=99)],
    "/status-1000": [start(status=1000)],
    "/status-100": [start(status=100)],
    "/status-huge": [start(status=2**70)],
    "/header-crlf": [start((b"x-a", b"1\r\nx-b: 2"))],
    "/header-lf": [start((b"x-a", b"1\n2"))],
    "/header-nul": [start((b"x-a", b"1\x002"))],
    "/header-name-space": [start((b"x a", b"1"))],
    "/header-name-empty": [start((b"", b"1"))],
    "/header-name-colon": [start((b"x:a", b"1"))],
    "/header-name-crlf": [start((b"x\r\na", b"1"))],
    "/header-str": [start(("x-a", "1"))],
    "/header-value-int": [start((b"x-a", 1))],
    "/header-triple": [start((b"x-a", b"1", b"2"))],
    "/header-int": [start(5)],
    "/headers-int": [{"type": "http.response.start", "status": 200, "headers": 5}],
    "/length-twice": [start((b"content-length", b"4"), (b"content-length", b"5")), body()],
    "/length-repeated": [start((b"content-length", b"4"), (b"content-length", b"4")), body()],
    "/length-word": [start((b"content-length", b"four")), body()],
    "/length-negative": [start((b"content-length", b"-4")), body()],
    "/length-short": [start((b"content-length", b"10")), body(b"12345")],
    "/length-short-stream": [start((b"content-length", b"10")), body(b"12345", True), body(b"")],
    "/length-long": [start((b"content-length", b"3")), body(b"12345")],
    "/length-long-stream": [start((b"content-length", b"3")), body(b"123", True), body(b"45")],
    "/body-str": [START, body("text")],
    "/body-int": [START, body(5)],
    "/body-none": [START, body(None)],
    "/more-body-odd": [START, {"type": "http.response.body", "body": b"x", "more_body": "yes"}, body(b"y")],
    "/start-only": [START],
    "/start-and-part": [START, body(b"part", True)],
    "/nothing": [],
}


class Unusual(BaseException):
    pass


async def raise_before(receive, send):
    raise RuntimeError("raised before the head")


async def raise_after_start(receive, send):
    await send(START)
    raise RuntimeError("raised after the head")


async def raise_in_body(receive, send):
    await send(START)
    await send(body(b"part", True))
    await asyncio.sleep(0.01)
    raise RuntimeError("raised in the body")


async def raise_after_end(receive, send):
    await send(START)
    await send(body())
    raise RuntimeError("raised after the end")


async def raise_base(receive, send):
    raise Unusual("not an Exception")


async def cancel_self(receive, send):
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


async def cancelled_error(receive, send):
    raise asyncio.CancelledError("by itself")


async def exit_request(receive, send):
    raise SystemExit(7)


async def keyboard_interrupt(receive, send):
    raise KeyboardInterrupt


async def catch_all(receive, send):
    """Goes on after its mistake: the answer is still a good one."""
    try:
        await send({"type": "http.response.nonsense"})
    except Exception as e:
        text = f"{type(e).__name__}: {e}".encode()
    await send(START)
    await send(body(text))


async def send_not_awaited(receive, send):
    await send(START)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        send(body(b"lost?", True))
    await send(body(b"end"))


async def concurrent_send(receive, send):
    await send(START)
    await asyncio.gather(*(send(body(b"0123456789" * 20000, True)) for _ in range(8)))
    await send(body(b""))


async def concurrent_receive(receive, send):
    """Two receive() at once, both awaiting: neither may hang when the body comes."""
    got = await asyncio.wait_for(asyncio.gather(receive(), receive(), return_exceptions=True), 10)
    await send(START)
    await send(body(json.dumps([g["type"] if isinstance(g, dict) else type(g).__name__ for g in got]).encode()))


async def cancelled_receive(receive, send):
    """A receive() given up by a timeout loses no message."""
    try:
        await asyncio.wait_for(receive(), 0.05)
        first = "message"
    except TimeoutError:
        first = "timeout"
    data = b""
    while True:
        message = await asyncio.wait_for(receive(), 10)
        data += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send(START)
    await send(body(first.encode() + b" " + data))


async def receive_after_end(receive, send):
    """After the body, receive() waits for the disconnect; after the answer it says so at once."""
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send(body())
    SEEN["/receive-after-end"] = (await asyncio.wait_for(receive(), 10))["type"]


async def late_send(receive, send):
    """A task of its own sends after the request has ended."""

    async def later():
        await asyncio.sleep(0.05)
        try:
            await send(body(b"late"))
            SEEN["/late-send"] = "none"
        except Exception as e:
            SEEN["/late-send"] = type(e).__name__

    await send(START)
    await send(body())
    late_send.task = asyncio.ensure_future(later())


async def hang(receive, send):
    await asyncio.Event().wait()


async def swallow_cancel(receive, send):
    """Refuses to be cancelled, for a while."""
    until = asyncio.get_running_loop().time() + 3
    while asyncio.get_running_loop().time() < until:
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            pass


async def loop_forever(receive, send):
    while True:
        pass


async def head_endless(receive, send):
    """An endless stream whose awaitables are all satisfied, as for HEAD: must let others run."""
    await send(START)
    while True:
        await send(body(b"x", True))


async def seen(receive, send):
    await send(START)
    await send(body(json.dumps(SEEN).encode()))


async def no_coroutine(receive, send):
    raise AssertionError("never called")


COROUTINES = {
    "/" + f.__name__.replace("_", "-"): f
    for f in (
        raise_before, raise_after_start, raise_in_body, raise_after_end, raise_base, cancel_self, cancelled_error,
        exit_request, keyboard_interrupt, catch_all, send_not_awaited, concurrent_send, concurrent_receive,
        cancelled_receive, receive_after_end, late_send, hang, swallow_cancel, loop_forever, head_endless, seen,
    )
}  # fmt: skip


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only http")
    path = scope["path"]
    if path in SEQUENCES:
        for message in SEQUENCES[path]:
            try:
                await send(message)
            except BaseException as e:
                SEEN[path] = f"{type(e).__name__}: {e}"
                raise
        return
    await COROUTINES[path](receive, send)


def not_async(scope, receive, send):
    """Returns something that is not awaitable."""
    return 5


class OldStyle:
    """ASGI 2, two callables: not ours, must be an error and not a hang."""

    def __init__(self, scope):
        pass

    async def __call__(self, receive, send):
        pass
