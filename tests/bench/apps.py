"""What `make bench` serves: the same applications for every server. Frameworks are imported only where their case runs."""

import os

BODY = b"Hello, World!"
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")]}
END = {"type": "http.response.body", "body": BODY}


async def plain(scope, receive, send):
    """Bare: never calls receive()."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send(START)
    await send(END)


async def plain_receive(scope, receive, send):
    """As frameworks do: reads the (empty) body first."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    await send(START)
    await send(END)


def plain_wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]


async def ws_echo(scope, receive, send):
    if scope["type"] != "websocket":
        return await plain(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def path_send(scope, receive, send):
    """The file in BENCH_FILES that the path names behind /app/."""
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    path = os.path.join(os.environ["BENCH_FILES"], scope["path"].removeprefix("/app/"))
    length = str(os.stat(path).st_size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.pathsend", "path": path})


def file_wrapper(environ, start_response):
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](open(os.path.join(os.environ["BENCH_FILES"], environ["PATH_INFO"].removeprefix("/app/")), "rb"))


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def make_starlette():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def index(request):
        return PlainTextResponse("Hello, World!")

    return Starlette(routes=[Route("/", index)])


def make_fastapi():
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Item(BaseModel):
        name: str
        price: float
        tags: list[str]

    api = FastAPI()

    @api.get("/")
    async def index():
        return {"hello": "world"}

    @api.get("/sync", response_model=Item)
    def index_sync():
        return {"name": "item", "price": 12.5, "tags": ["a", "b"]}

    return api


def make_burning():
    """For the GIL: an endpoint that computes in Python on a thread, and one on the loop that does next to nothing."""
    import time

    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def burn(request):
        end = time.thread_time() + 0.05
        n = 0
        while time.thread_time() < end:
            n += sum(range(100))
        return PlainTextResponse("burnt")

    async def index(request):
        return PlainTextResponse("Hello, World!")

    return Starlette(routes=[Route("/", index), Route("/burn", burn)])


MAKERS = {"starlette": make_starlette, "fastapi": make_fastapi, "burning": make_burning}


def __getattr__(name):
    if name not in MAKERS:
        raise AttributeError(name)
    globals()[name] = MAKERS[name]()
    return globals()[name]
