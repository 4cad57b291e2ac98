"""What `make bench` serves: the same applications for every server. Frameworks are imported only where their case runs."""

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

    api = FastAPI()

    @api.get("/")
    async def index():
        return {"hello": "world"}

    @api.get("/sync")
    def index_sync():
        return {"hello": "world"}

    return api


def __getattr__(name):
    if name == "starlette":
        globals()[name] = make_starlette()
    elif name == "fastapi":
        globals()[name] = make_fastapi()
    else:
        raise AttributeError(name)
    return globals()[name]
