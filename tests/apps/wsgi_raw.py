"""Bare WSGI applications: one small function per behaviour under test, found by the request's path."""

import contextvars
import ctypes
import functools
import gzip
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from urllib.parse import parse_qs
from wsgiref.validate import validator

PLAIN = [("Content-Type", "text/plain; charset=utf-8")]

EVENTS = {}  # what happened to requests whose client is gone: name -> text; read by /events
LOCK = threading.Lock()
GATES = {}  # name -> threading.Event
VAR = contextvars.ContextVar("var", default="unset")


def note(name, text):
    with LOCK:
        EVENTS[name] = text


def add(name, n=1):
    with LOCK:
        EVENTS[name] = str(int(EVENTS.get(name, "0")) + n)


def gate(name):
    with LOCK:
        return GATES.setdefault(name, threading.Event())


def query(environ):
    return {k: v[-1] for k, v in parse_qs(environ["QUERY_STRING"], keep_blank_values=True).items()}


def answer(start_response, body, status="200 OK", headers=PLAIN):
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


def as_json(start_response, value):
    return answer(start_response, json.dumps(value).encode(), headers=[("Content-Type", "application/json")])


class Closing:
    """An iterable that notes how often it is closed, and where."""

    def __init__(self, name, pieces):
        self.name, self.pieces, self.thread = name, iter(pieces), threading.get_ident()

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.pieces)

    def close(self):
        where = "same" if threading.get_ident() == self.thread else "other"
        add(f"{self.name}-closed-{where}")
        add(f"{self.name}-closed")


# --------------------------------------------------------------------- the request


def environ_(environ, start_response):
    plain = {k: v if isinstance(v, (str, bool, list)) or v is None else f"<{type(v).__name__}>" for k, v in environ.items()}
    plain["type"] = type(environ).__name__
    return as_json(start_response, plain)


def echo(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read())


def digest(environ, start_response):
    """Reads the body as ?how= says; answers what it got, piece by piece."""
    q, source = query(environ), environ["wsgi.input"]
    n = int(q.get("n", 1000))
    how = q["how"]
    if how == "read":
        pieces = [source.read()]
    elif how == "readn":
        pieces = list(iter(lambda: source.read(n), b""))
    elif how == "read1":
        pieces = list(iter(lambda: source.read1(n), b""))
    elif how == "readline":
        pieces = list(iter(source.readline, b""))
    elif how == "readlinen":
        pieces = list(iter(lambda: source.readline(n), b""))
    elif how == "readlines":
        pieces = source.readlines()
    elif how == "readlineshint":
        pieces = source.readlines(n)
        pieces += source.readlines()
    elif how == "iterate":
        pieces = list(source)
    elif how == "readinto":
        pieces, buffer = [], bytearray(n)
        while got := source.readinto(buffer):
            pieces.append(bytes(buffer[:got]))
    elif how == "buffered":
        pieces = [io.BufferedReader(source).read()]
    elif how == "text":
        pieces = [line.encode("latin-1") for line in io.TextIOWrapper(source, encoding="latin-1", newline="")]
    elif how == "none":
        pieces = []
    after = [source.read(), source.read(10), source.readline(), source.readlines(), list(source)] if how != "none" else []
    data = b"".join(pieces)
    return as_json(
        start_response,
        {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "sizes": [len(p) for p in pieces][:100],
            "longest": max(map(len, pieces), default=0),
            "lines": all(p.endswith(b"\n") for p in pieces[:-1]),
            "after": not any(after),
        },
    )


def count(environ, start_response):
    """Reads a body bit by bit and notes how it ended."""
    name, got = query(environ)["name"], 0
    note(name, "reading")
    try:
        while data := environ["wsgi.input"].read(1000):
            got += len(data)
            note(f"{name}-got", str(got))
    except OSError as e:
        note(name, f"{type(e).__name__} after {got}")
        raise
    note(name, f"end after {got}")
    return answer(start_response, str(got).encode())


def input_misuse(environ, start_response):
    """Everything that wsgi.input refuses, and what it is besides."""
    source, said = environ["wsgi.input"], []
    for call in (lambda: source.read("1"), lambda: source.read(1, 2), lambda: source.readinto(b"read-only"), lambda: source.read(1 << 70)):
        try:
            call()
            said.append("fine")
        except Exception as e:
            said.append(type(e).__name__)
    said += [source.readable(), source.writable(), source.seekable(), source.closed, source.read(0).decode(), source.read(-5).decode()]
    return as_json(start_response, said)


KEPT = {}


def keep(environ, start_response):
    """Keeps what belongs to the request beyond its end; /kept looks at it."""
    KEPT.update(input=environ["wsgi.input"], start=start_response, write=start_response("200 OK", PLAIN))
    return [b"kept"]


def kept(environ, start_response):
    said = []
    for call in (lambda: KEPT["input"].read(), lambda: KEPT["start"]("200 OK", []), lambda: KEPT["write"](b"x")):
        try:
            said.append(repr(call()))
        except Exception as e:
            said.append(type(e).__name__)
    return as_json(start_response, said)


# --------------------------------------------------------------------- the answer


def stream(environ, start_response):
    q = query(environ)
    n, size = int(q.get("n", 5)), int(q.get("size", 10))
    headers = list(PLAIN)
    if "length" in q:
        headers.append(("Content-Length", str(n * size)))
    start_response("200 OK", headers)

    def pieces():
        for i in range(n):
            if "delay" in q:
                time.sleep(float(q["delay"]))
            if "gate" in q and i == 1:
                gate(q["gate"]).wait(10)
            yield bytes([97 + i % 26]) * size

    return pieces()


def empties(environ, start_response):
    """Empty pieces send nothing, not even the head."""
    start_response("200 OK", PLAIN)
    yield b""
    yield b""
    try:
        raise ValueError
    except ValueError:
        start_response("202 Accepted", PLAIN, sys.exc_info())
    yield b"a"
    yield b""
    yield b"b"


def late_start(environ, start_response):
    """A generator calls start_response() when it is first asked."""
    start_response("201 Created", PLAIN)
    yield b"late"


def shapes(environ, start_response):
    """The same answer as every kind of iterable."""
    q = query(environ)
    pieces = [b"one"] if "single" in q else [b"one", b"", b"two", b"x" * int(q.get("size", 5))]

    class One:
        """len() is 1, and it is no list."""

        def __len__(self):
            return len(pieces)

        def __iter__(self):
            return iter(pieces)

    class Old:
        def __getitem__(self, i):
            return pieces[i]

    headers = [*PLAIN, ("Content-Length", str(len(b"".join(pieces))))] if "length" in q else PLAIN
    start_response(q.get("status", "200 OK"), headers)
    kind = q["kind"]
    made = {
        "list": lambda: list(pieces), "tuple": lambda: tuple(pieces), "iter": lambda: iter(pieces), "sized": One, "old": Old,
        "closing": lambda: Closing(q["name"], pieces), "sub": lambda: type("L", (list,), {})(pieces), "set": lambda: {b"one"},
    }  # fmt: skip
    return made[kind]()


def write(environ, start_response):
    q = query(environ)
    headers = [*PLAIN, ("Content-Length", "9")] if "length" in q else PLAIN
    write = start_response("200 OK", headers)
    write(b"one")
    write(b"")
    write(b"two")
    return [b"end"] if "more" in q else ([] if "length" not in q else (write(b"end"), [])[1])


def write_misuse(environ, start_response):
    write, said = start_response("200 OK", PLAIN), []
    for call in (lambda: write("text"), lambda: write(), lambda: write(b"a", b"b"), lambda: write(bytearray(b"a"))):
        try:
            call()
            said.append("fine")
        except Exception as e:
            said.append(type(e).__name__)
    return [json.dumps(said).encode()]


def file(environ, start_response):
    """?kind= of a file behind wsgi.file_wrapper, ?at= its position."""
    q = query(environ)
    kind, at, size = q["kind"], int(q.get("at", 0)), int(q.get("size", 200_000))
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    path = os.path.join(tempfile.gettempdir(), f"ringcorn-test-{os.getpid()}-{threading.get_ident()}")
    with open(path, "wb") as f:
        f.write(gzip.compress(data) if kind == "gzip" else data)
    if kind == "gzip":
        source = gzip.open(path)
    elif kind == "raw":
        source = open(path, "rb", buffering=0)
    elif kind == "bytesio":
        source = io.BytesIO(data)
    elif kind == "text":
        source = open(path)
    elif kind == "random":
        source = open(path, "r+b")
    elif kind == "closed":
        source = open(path, "rb")
    elif kind == "named":
        source = tempfile.NamedTemporaryFile()
        source.write(data)
        source.seek(0)
    else:
        source = open(path, "rb")
    os.unlink(path)
    if at:
        source.seek(at)
    if "peek" in q:
        source.read(int(q["peek"]))
    headers = [*PLAIN, ("Content-Length", q["length"])] if "length" in q else PLAIN
    write = start_response(q.get("status", "200 OK"), headers)
    if "write" in q:
        write(b"first;")
    if kind == "closed":
        source.close()

    wrapper = environ["wsgi.file_wrapper"](source, 4096)
    FILES.append(source)
    if "iterate" in q:
        return iter(wrapper)
    return wrapper


FILES = []


def files_closed(environ, start_response):
    closed = [f.closed for f in FILES]
    if "clear" in query(environ):
        FILES.clear()
    return as_json(start_response, closed)


def only_read(environ, start_response):
    """An object with nothing but read()."""

    class Source:
        pieces = [b"one", b"two"]

        def read(self, n):
            return self.pieces.pop(0) if self.pieces else b""

    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](Source())


BAD_STARTS = {
    "status-int": (200, []),
    "status-bytes": (b"200 OK", []),
    "status-short": ("20", []),
    "status-word": ("OK", []),
    "status-100": ("100 Continue", []),
    "status-dash": ("200-OK", []),
    "status-newline": ("200 OK\r\nX-Evil: 1", []),
    "status-wide": ("200 \u20ac", []),
    "headers-tuple": ("200 OK", ()),
    "headers-none": ("200 OK", None),
    "headers-dict": ("200 OK", {"a": "b"}),
    "header-list": ("200 OK", [["a", "b"]]),
    "header-three": ("200 OK", [("a", "b", "c")]),
    "header-bytes": ("200 OK", [(b"a", b"b")]),
    "header-int": ("200 OK", [("Content-Length", 5)]),
    "name-empty": ("200 OK", [("", "b")]),
    "name-space": ("200 OK", [("a b", "c")]),
    "name-colon": ("200 OK", [("a:", "c")]),
    "name-wide": ("200 OK", [("\u20ac", "c")]),
    "value-newline": ("200 OK", [("a", "b\r\nX-Evil: 1")]),
    "value-nul": ("200 OK", [("a", "b\0")]),
    "value-wide": ("200 OK", [("a", "\u20ac")]),
    "length-word": ("200 OK", [("Content-Length", "x")]),
    "length-twice": ("200 OK", [("Content-Length", "1"), ("content-length", "1")]),
    **{
        f"hop-{name}": ("200 OK", [(name, "x")])
        for name in (
            "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer", "Trailers", "Transfer-Encoding", "UPGRADE",
        )
    },
    "exc-info-word": ("200 OK", [], "x"),
    "exc-info-short": ("200 OK", [], (1, 2)),
    "no-arguments": (),
    "one-argument": ("200 OK",),
    "four-arguments": ("200 OK", [], None, None),
}  # fmt: skip


def bad_start(environ, start_response):
    """What is refused can be said anew."""
    try:
        start_response(*BAD_STARTS[query(environ)["what"]])
        said = "nothing"
    except Exception as e:
        said = f"{type(e).__name__}: {e}"
    return answer(start_response, said.encode("utf-8", "replace"))


def good_start(environ, start_response):
    what = query(environ)["what"]
    if what == "no-phrase":
        start_response("404", [])
    elif what == "own-phrase":
        start_response("200 Very Well", [])
    elif what == "latin-1":
        start_response("200 \xe9", [("X-Latin", "\xe9\xff")])
    elif what == "exc-info-none":
        start_response("200 OK", [], None)
    elif what == "exc-info-keyword":
        start_response("200 OK", [], exc_info=None)
    elif what == "many-headers":
        start_response("200 OK", [(f"X-{i}", "v" * 50) for i in range(200)])
    elif what == "cookies":
        start_response("200 OK", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    elif what == "subclasses":
        text = type("Text", (str,), {})
        start_response(text("200 OK"), type("L", (list,), {})([type("T", (tuple,), {})((text("X-A"), text("b")))]))
    return [what.encode()]


# --------------------------------------------------------------------- what goes wrong


def boom(environ, start_response):
    where = query(environ)["where"]
    if where == "before":
        raise RuntimeError("boom before")
    if where == "exit":
        sys.exit(3)
    if where == "no-start":
        return [b"body"]
    if where == "no-start-empty":
        return []
    if where == "none":
        start_response("200 OK", PLAIN)
        return None
    if where == "bytes":
        start_response("200 OK", PLAIN)
        return b"bytes"
    if where == "str":
        start_response("200 OK", PLAIN)
        return ["text"]
    if where == "twice":
        start_response("200 OK", PLAIN)
        start_response("200 OK", PLAIN)
    if where == "after-start":
        start_response("200 OK", PLAIN)
        raise RuntimeError("boom after-start")
    if where == "cause":
        try:
            raise KeyError("the cause")
        except KeyError as e:
            raise RuntimeError("boom cause") from e

    def pieces():
        if where == "first":
            raise RuntimeError("boom first")
        yield b"begun"
        if where == "exc-info-late":
            try:
                raise KeyError("boom exc-info-late")
            except KeyError:
                start_response("500 Oops", PLAIN, sys.exc_info())
        if where == "middle-str":
            yield "text"
        raise RuntimeError(f"boom {where}")

    length = [("Content-Length", "100")] if where == "middle-length" else []
    start_response("200 OK", [*PLAIN, *length])
    return Closing(f"boom-{where}", pieces())


def exc_info(environ, start_response):
    """An error page in place of what was started."""
    start_response("200 OK", [("X-First", "1"), ("Content-Length", "1000")])
    try:
        raise ValueError("not sent")
    except ValueError:
        start_response("500 Own Error", [("X-Second", "2")], sys.exc_info())
    return [b"own error page"]


def boom_close(environ, start_response):
    class Result(Closing):
        def close(self):
            super().close()
            raise RuntimeError("boom in close")

    start_response("200 OK", [*PLAIN, ("Content-Length", "4")])
    return Result("boom-close", [b"fine"])


def wrong_length(environ, start_response):
    """?length= is told, ?pieces= sizes are sent."""
    q = query(environ)
    sizes = [int(n) for n in q["sizes"].split(",") if n]
    write = start_response("200 OK", [*PLAIN, ("Content-Length", q["length"])])
    if "write" in q:
        for n in sizes:
            write(b"x" * n)
        return []
    pieces = (b"x" * n for n in sizes)
    return Closing("wrong-length", pieces) if "iterate" in q else list(pieces)


# --------------------------------------------------------------------- clients that wait, or go


def hold(environ, start_response):
    """Until /release?name=..."""
    name = query(environ)["name"]
    note(name, "holding")
    released = gate(name).wait(20)
    note(name, "released" if released else "given up")
    return answer(start_response, b"released")


def release(environ, start_response):
    gate(query(environ)["name"]).set()
    return answer(start_response, b"")


def slow(environ, start_response):
    time.sleep(float(query(environ)["s"]))
    return answer(start_response, b"slow")


def endless(environ, start_response):
    """Sends until its client is gone, or for as long as it reads."""
    q = query(environ)
    name, size, delay = q["name"], int(q.get("size", 1000)), float(q.get("delay", 0))

    def pieces():
        try:
            while True:
                yield b"x" * size
                add(f"{name}-sent", size)
                if delay:
                    time.sleep(delay)
        except GeneratorExit:
            note(name, "GeneratorExit")
            raise

    start_response("200 OK", PLAIN)
    if "write" in q:
        write = start_response("200 OK", PLAIN, (None, ValueError(), None))
        try:
            for piece in pieces():
                write(piece)
        except OSError as e:
            note(name, type(e).__name__)
            raise
    return Closing(name, pieces()) if "closing" in q else pieces()


def after(environ, start_response):
    """Work after the answer: its client need not wait for it."""
    name = query(environ)["name"]

    class Result:
        def __iter__(self):
            return iter([b"answer"])

        def close(self):
            note(name, "closing")
            note(name, "closed" if gate(name).wait(20) else "given up")

    start_response("200 OK", [*PLAIN, ("Content-Length", "6")] if "length" in query(environ) else PLAIN)
    return Result()


def after_slowly(environ, start_response):
    """As /after, and says in the log when it is done."""
    log = environ["wsgi.errors"]

    class Result:
        def __iter__(self):
            return iter([b"answer"])

        def close(self):
            time.sleep(float(query(environ)["s"]))
            print("the work after the answer is done", file=log, flush=True)

    start_response("200 OK", [*PLAIN, ("Content-Length", "6")])
    return Result()


def hold_gil(environ, start_response):
    """A C function that does not give the GIL away."""
    print("the GIL is held", file=environ["wsgi.errors"], flush=True)
    ctypes.PyDLL(None).usleep(int(float(query(environ)["s"]) * 1e6))
    return answer(start_response, b"held")


def large(environ, start_response):
    size = int(query(environ)["size"])
    return answer(start_response, b"x" * size)


def two_ways(environ, start_response):
    """Answers each piece of the body as it comes."""
    start_response("200 OK", PLAIN)
    source = environ["wsgi.input"]
    return iter(lambda: source.read1(65536).upper(), b"")


def foreign_thread(environ, start_response):
    """The body read, and the answer written, by a thread of the application's own."""
    write, result = start_response("200 OK", PLAIN), []

    def work():
        data = environ["wsgi.input"].read()
        result.append(len(data))
        for _ in range(20):
            write(data)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return [str(result).encode()]


# --------------------------------------------------------------------- where it runs


def where(environ, start_response):
    before = VAR.get()
    VAR.set("set")
    return as_json(start_response, {"thread": threading.current_thread().name, "ident": threading.get_ident(), "var": before})


def errors(environ, start_response):
    stream = environ["wsgi.errors"]
    stream.write(query(environ)["text"] + "\n")
    stream.writelines(["a line\n"])
    stream.flush()
    print("printed", file=stream)
    return answer(start_response, b"ok")


def events(environ, start_response):
    with LOCK:
        return as_json(start_response, dict(EVENTS))


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, World!"]


ROUTES = {
    f"/{name.strip('_').replace('_', '-')}": fn
    for name, fn in list(globals().items())
    if callable(fn) and getattr(fn, "__code__", None) and fn.__code__.co_varnames[:2] == ("environ", "start_response")
}


def app(environ, start_response):
    route = ROUTES.get(environ["PATH_INFO"])
    if route is None:
        return answer(start_response, b"not found", "404 Not Found")
    return route(environ, start_response)


# --------------------------------------------------------------------- the same, watched by the standard library


def clean(environ, start_response):
    """Does nothing that wsgiref.validate forbids an application."""
    source, path = environ["wsgi.input"], environ["PATH_INFO"]
    data = source.read(int(environ.get("CONTENT_LENGTH") or 0)) if path == "/read" else b"".join(source) if path == "/iterate" else b""
    lines = source.readlines() if path == "/lines" else []
    environ["wsgi.errors"].flush()
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"%d" % i for i in range(5))
    if path == "/write":
        start_response("200 OK", [("Content-Type", "text/plain")])(b"written")
        return [b" returned"]
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    body = json.dumps([path, len(data), len(lines)]).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body] if environ["REQUEST_METHOD"] != "HEAD" else []


validated = validator(clean)


# --------------------------------------------------------------------- ways to be an application


class WithCall:
    def __call__(self, environ, start_response):
        return hello(environ, start_response)

    def method(self, environ, start_response):
        return hello(environ, start_response)

    @staticmethod
    def static(environ, start_response):
        return hello(environ, start_response)


class ByClass:
    """Calling the class is calling the application."""

    def __init__(self, environ, start_response):
        self.start_response = start_response

    def __iter__(self):
        self.start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
        yield b"Hello, World!"


class Middleware:
    def __init__(self, app):
        self.app = app

    def __call__(self, *args, **kwargs):
        return self.app(*args, **kwargs)


def with_default(environ, start_response, extra=None):
    return hello(environ, start_response)


def odd_names(request, begin):
    return hello(request, begin)


def with_kwargs(environ, start_response, **kwargs):
    return hello(environ, start_response)


def closing_over(inner):
    def wrapper(*args):
        return inner(*args)

    return wrapper


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


instance = WithCall()
bound = instance.method
partial = functools.partial(lambda setting, environ, start_response: hello(environ, start_response), "setting")
in_partial = functools.partial(Middleware(instance))
middleware = Middleware(Middleware(instance))
closure = closing_over(instance)
wrapped = decorated(hello)
anything = lambda *args: hello(*args)  # noqa: E731 - says nothing of itself


async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
        await send({"type": "http.response.body", "body": b"Hello, World!"})
    elif scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


asgi_middleware = Middleware(asgi)
asgi_partial = functools.partial(asgi)


async def asgi_anything(*args):
    await asgi(*args)


def asgi_plain(scope, receive, send):
    return asgi(scope, receive, send)


def asgi2(scope):
    async def call(receive, send):
        await asgi(scope, receive, send)

    return call


class Asgi2:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await asgi(self.scope, receive, send)


def factory():
    return instance


def three_or_two(a, b, c=None):
    return hello(a, b)


number = 5
