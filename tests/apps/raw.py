"""Raw ASGI applications, no framework: one small coroutine per behaviour under test, found by the request's path.

`hello` and `hello_receive` are also what `make bench` measures.
"""

import asyncio
import contextvars
import json
import os
import sys
import threading
from urllib.parse import parse_qs

PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
HELLO = b"Hello, World!"
HELLO_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"13")]


async def hello(scope, receive, send):
    """The least an application can do: never looks at the request."""
    await send({"type": "http.response.start", "status": 200, "headers": HELLO_HEADERS})
    await send({"type": "http.response.body", "body": HELLO})


async def hello_receive(scope, receive, send):
    """As frameworks do it: reads the body first."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": HELLO_HEADERS})
    await send({"type": "http.response.body", "body": HELLO})


# --------------------------------------------------------------------- helpers

EVENTS = {}  # what happened to requests whose client is gone: name -> text; read by /events
WAITERS = set()
REQUEST_VAR = contextvars.ContextVar("request_var", default="unset")


def query(scope):
    return {k: v[-1] for k, v in parse_qs(scope["query_string"].decode(), keep_blank_values=True).items()}


async def body_of(receive):
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message["body"])
        if not message["more_body"]:
            return b"".join(chunks)


async def answer(send, body, status=200, headers=PLAIN):
    if isinstance(body, str):
        body = body.encode()
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def plain(value):
    """A scope as JSON that shows the types of its values."""
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [plain(v) for v in value]}
    if value is None or isinstance(value, (str, int, float)):
        return value
    return {"object": type(value).__name__}


# --------------------------------------------------------------------- behaviours

ROUTES = {}


def route(path):
    def register(function):
        ROUTES[path] = function
        return function

    return register


ROUTES["/"] = hello
ROUTES["/hello"] = hello
ROUTES["/hello-receive"] = hello_receive


@route("/echo")
async def echo(scope, receive, send):
    body = await body_of(receive)
    if body is not None:
        await answer(send, body)


@route("/echo-stream")
async def echo_stream(scope, receive, send):
    """Each piece goes back as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": PLAIN})
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        if not message["more_body"]:
            break
    await send({"type": "http.response.body", "body": b""})


@route("/count")
async def count(scope, receive, send):
    """How many bytes came, in how many messages, without keeping them."""
    size = messages = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            EVENTS["count"] = f"disconnect after {size}"
            return
        size += len(message["body"])
        messages += 1
        if not message["more_body"]:
            break
    await answer(send, json.dumps({"size": size, "messages": messages}))


@route("/scope")
async def show_scope(scope, receive, send):
    body = await body_of(receive)
    shown = plain(scope)
    shown["_body"] = body.decode("latin-1") if body is not None else None
    await answer(send, json.dumps(shown), headers=[(b"content-type", b"application/json")])


@route("/messages")
async def messages(scope, receive, send):
    """Every message that receive() gives, exactly."""
    seen = []
    while True:
        message = await receive()
        seen.append(plain(message))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    await answer(send, json.dumps(seen))


@route("/ignore-body")
async def ignore_body(scope, receive, send):
    await answer(send, "ignored")


@route("/stream")
async def stream(scope, receive, send):
    """n pieces of `size` bytes, `delay` seconds apart; length=1 declares the length."""
    q = query(scope)
    n, size, delay = int(q.get("n", 3)), int(q.get("size", 10)), float(q.get("delay", 0))
    headers = list(PLAIN)
    if q.get("length"):
        headers.append((b"content-length", str(n * size).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for i in range(n):
        await send({"type": "http.response.body", "body": bytes([97 + i % 26]) * size, "more_body": True})
        if delay:
            await asyncio.sleep(delay)
    await send({"type": "http.response.body"})


@route("/types")
async def types(scope, receive, send):
    """A body may be bytes, bytearray or memoryview."""
    await send({"type": "http.response.start", "status": 200, "headers": [[b"x-list", b"yes"]]})
    await send({"type": "http.response.body", "body": b"bytes,", "more_body": True})
    array = bytearray(b"bytearray,")
    await send({"type": "http.response.body", "body": array, "more_body": True})
    await send({"type": "http.response.body", "body": memoryview(b"--memoryview--")[2:-2], "more_body": False})


@route("/slow")
async def slow(scope, receive, send):
    await asyncio.sleep(float(query(scope).get("s", 0.2)))
    await answer(send, "slow")


ROUTES["/<img/src=x/onerror=hurt=1>"] = slow  # a name for those who show what is in hand


@route("/impatient")
async def impatient(scope, receive, send):
    """Waits for the body for a moment, then does something else for s seconds, and answers."""
    try:
        await asyncio.wait_for(receive(), 0.2)
    except asyncio.TimeoutError:
        await asyncio.sleep(float(query(scope)["s"]))
    await answer(send, "impatient")


@route("/spin")
async def spin(scope, receive, send):
    """Pure computation: blocks the loop."""
    until = asyncio.get_running_loop().time() + float(query(scope).get("s", 0.2))
    while asyncio.get_running_loop().time() < until:
        pass
    await answer(send, "spun")


@route("/status")
async def status(scope, receive, send):
    q = query(scope)
    code = int(q["code"])
    await send({"type": "http.response.start", "status": code, "headers": PLAIN})
    await send({"type": "http.response.body", "body": b"" if q.get("empty") else b"body"})


@route("/reply-headers")
async def reply_headers(scope, receive, send):
    """Answers with the request's x-reply-* headers, prefix removed."""
    headers = [(name[8:], value) for name, value in scope["headers"] if name.startswith(b"x-reply-")]
    await answer(send, "headers", headers=headers)


@route("/wait-disconnect")
async def wait_disconnect(scope, receive, send):
    name = query(scope).get("name", "wait")
    EVENTS[name] = "waiting"
    while (await receive())["type"] != "http.disconnect":
        pass
    again = await receive()  # it keeps saying so
    try:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})
        error = "none"
    except OSError as e:
        error = f"OSError:{type(e).__name__}"
    EVENTS[name] = f"{again['type']} {error}"


@route("/endless")
async def endless(scope, receive, send):
    """Sends until the client is gone, and never reads."""
    q = query(scope)
    name, size, delay = q.get("name", "endless"), int(q.get("size", 1000)), float(q.get("delay", 0))
    EVENTS[name] = "sending"
    sent = 0
    try:
        await send({"type": "http.response.start", "status": 200, "headers": PLAIN})
        while True:
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
            sent += 1
            EVENTS[name + "-sent"] = str(sent * size)
            if delay:
                await asyncio.sleep(delay)
    except OSError:
        EVENTS[name] = "OSError"
        raise
    except asyncio.CancelledError:
        EVENTS[name] = "cancelled"
        raise


@route("/events")
async def events(scope, receive, send):
    await answer(send, json.dumps(EVENTS))


@route("/context")
async def context(scope, receive, send):
    """Each request runs in a context of its own."""
    before = REQUEST_VAR.get()
    REQUEST_VAR.set(query(scope).get("set", "x"))
    await asyncio.sleep(0)
    await answer(send, f"{before} {REQUEST_VAR.get()}")


@route("/task")
async def task(scope, receive, send):
    """What asyncio says of the request's task."""
    current = asyncio.current_task()
    shown = {
        "is_task": isinstance(current, asyncio.Task),
        "in_all_tasks": current in asyncio.all_tasks(),
        "loop": type(asyncio.get_running_loop()).__module__,
        "thread": threading.current_thread() is threading.main_thread(),
    }
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(5)
    except TimeoutError:
        shown["timeout"] = True
    await answer(send, json.dumps(shown))


@route("/process")
async def process(scope, receive, send):
    await answer(
        send,
        json.dumps(
            {
                "pid": os.getpid(),
                "ppid": os.getppid(),
                "executable": sys.executable,
                "prefix": sys.prefix,
                "base_prefix": sys.base_prefix,
                "argv": sys.argv,
                "main": getattr(sys.modules["__main__"], "__name__", None),
                "flags": {"optimize": sys.flags.optimize, "dev_mode": sys.flags.dev_mode, "utf8": sys.flags.utf8_mode},
                "stdout_encoding": sys.stdout.encoding,
                "path": sys.path,
                "threads": threading.active_count(),
                "debug": asyncio.get_running_loop().get_debug(),
                "import_first": "import_first_probe" in sys.modules,
            }
        ),
    )


@route("/environ")
async def environ(scope, receive, send):
    """The names of the worker's variables."""
    await answer(send, "\n".join(sorted(os.environ)))


@route("/print")
async def print_(scope, receive, send):
    """Standard output and the root logger, seen at once by whoever reads the pipe."""
    import logging

    text = query(scope).get("text", "printed")
    print(text)
    logging.getLogger("raw").warning("logged %s", text)
    sys.stderr.write(f"stderr {text}\n")
    await answer(send, "printed")


@route("/to-thread")
async def to_thread(scope, receive, send):
    names = await asyncio.gather(*(asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(4)))
    await answer(send, json.dumps(names))


@route("/wait-event")
async def wait_event(scope, receive, send):
    """Long poll: answered by /set-event."""
    future = asyncio.get_running_loop().create_future()
    WAITERS.add(future)
    try:
        await asyncio.wait_for(future, 60)
    finally:
        WAITERS.discard(future)
    await answer(send, "event")


@route("/set-event")
async def set_event(scope, receive, send):
    waiting = len(WAITERS)
    for future in WAITERS:
        if not future.done():
            future.set_result(None)
    await answer(send, str(waiting))


@route("/waiting")
async def waiting(scope, receive, send):
    await answer(send, str(len(WAITERS)))


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    handler = ROUTES.get(scope["path"])
    if handler is None:
        await answer(send, "not found", status=404)
    else:
        await handler(scope, receive, send)
