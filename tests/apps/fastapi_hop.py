"""FastAPI with def endpoints whose results are validated: /hops tells how often a request has gone to a thread."""

import threading
import time
from contextvars import ContextVar

import anyio.to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, field_validator
from starlette.background import BackgroundTask

app = FastAPI()
hops_var = ContextVar("hops")
mark_var = ContextVar("mark", default="as the loop has it")
in_background = []

stock = anyio.to_thread.run_sync


async def counted(*args, **kwargs):
    if (hops := hops_var.get(None)) is not None:
        hops.append(1)
    return await stock(*args, **kwargs)


anyio.to_thread.run_sync = counted


@app.middleware("http")
async def tell_hops(request, call_next):
    hops = []
    hops_var.set(hops)
    response = await call_next(request)
    if "again" in request.query_params:
        # Another call of the request, after its endpoint's.
        n = int(request.url.path.rpartition("/")[2])
        response.headers["x-again"] = str(await anyio.to_thread.run_sync(lambda: local.mark == n))
    response.headers["x-hops"] = str(len(hops))
    return response


class Item(BaseModel):
    n: int
    seen: str = ""

    @field_validator("seen")
    @classmethod
    def see(cls, value):
        """Where it runs, and what it finds in a context variable that the endpoint has changed."""
        return f"{value} {threading.get_ident()} {mark_var.get()}"


class Row:
    """As of an ORM: its attributes are read by the validation."""

    def __init__(self, n):
        self.n = n

    @property
    def seen(self):
        return f"row on {threading.get_ident()}"


class FromRow(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    n: int
    seen: str


class Doubled(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def double(cls, value):
        return 2 * value


class Refused(Exception):
    pass


class Moody(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def check(cls, value):
        if value == 3:
            raise ArithmeticError("three is not to be had")
        if value == 4:
            raise ValueError("nor is four")
        if value == 8:
            raise Refused(8)
        return value


@app.exception_handler(ArithmeticError)
async def arithmetic(request, e):
    return PlainTextResponse(f"handled: {e}", 418)


@app.get("/item/{n}")
def item(n: int) -> Item:
    mark_var.set("changed by the endpoint")
    return {"n": n, "seen": f"{threading.get_ident()}"}


@app.get("/row/{n}")
def row(n: int) -> FromRow:
    return Row(n)


@app.get("/moody/{n}")
def moody(n: int) -> Moody:
    if n == 5:
        raise HTTPException(409, "five")
    return {"n": n}


@app.get("/either/{n}")
def either(n: int) -> Item:
    return PlainTextResponse("odd") if n % 2 else {"n": n}


@app.get("/free/{n}")
def free(n: int):
    return {"n": n}


@app.get("/async/{n}")
async def asynchronous(n: int) -> Item:
    return {"n": n}


def number(n: int):
    yield n


@app.get("/whole/{n}")
def whole(background: BackgroundTasks, n: int = Depends(number)) -> Item:
    background.add_task(in_background.append, threading.get_ident())
    return {"n": n, "seen": f"{threading.get_ident()}"}


# --- routes whose endpoint may be all that goes to a thread


class Local(threading.local):
    """What a request leaves on its thread."""

    mark = None


local = Local()


inside = []  # endpoints that wait


@app.exception_handler(Refused)
def refused(request, e):
    """On a thread: the one where the endpoint has left its mark."""
    return PlainTextResponse(f"{local.mark == e.args[0]}", 409)


@app.get("/alone/{n}")
def alone(n: int, how: str = ""):
    local.mark = n
    if how == "raise":
        raise Refused(n)
    if how == "background":
        return PlainTextResponse("later", background=BackgroundTask(lambda: in_background.append(local.mark == n)))
    at_once = 0
    if how == "sleep":
        inside.append(n)
        time.sleep(0.2)
        at_once = len(inside)
        inside.remove(n)
    return {"n": n, "at once": at_once}


@app.get("/alone/validated/{n}")
def alone_validated(n: int, how: str = "") -> Moody:
    local.mark = n
    if how == "background":
        return PlainTextResponse("later", background=BackgroundTask(lambda: in_background.append(local.mark == n)))
    return {"n": n}


@app.get("/background")
async def background():
    return in_background


class Scene:
    """Of an ORM, say: a field that cannot be read any more, and whose name is also one of a response's."""

    def __init__(self, n):
        self.n = n

    @property
    def background(self):
        raise LookupError("detached")

    def __iter__(self):
        return iter([("n", self.n)])


@app.get("/scene/{n}")
def scene(n: int):
    return Scene(n)


def twofold(n: int):
    return {"n": n}


app.get("/once/{n}", response_model=Item)(twofold)
app.get("/twice/{n}", response_model=Doubled)(twofold)

router = APIRouter(prefix="/below")
router.get("/once/{n}", response_model=Item)(twofold)
app.include_router(router)
app.include_router(router, prefix="/other")
