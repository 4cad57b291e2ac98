"""SQLAlchemy and SQLModel behind FastAPI, as projects have them: a scoped_session, a session per request, a pool of N connections.

DATABASE_URL names the database, POOL the connections, SYNC "0" leaves the tables alone.
"""

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlmodel import Field, Session, SQLModel

POOL = int(os.environ.get("POOL", "5"))
engine = create_engine(
    os.environ["DATABASE_URL"], pool_size=POOL, max_overflow=0, pool_timeout=float(os.environ.get("POOL_TIMEOUT", "10")),
    connect_args={"application_name": os.environ.get("APPLICATION_NAME", "sqlalchemy_app")},
)  # fmt: skip
Scoped = scoped_session(sessionmaker(engine))


class Item(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(index=True)


class Made(SQLModel):
    id: int
    name: str


@asynccontextmanager
async def lifespan(app):
    SQLModel.metadata.create_all(engine)
    yield
    engine.dispose()


app = FastAPI(lifespan=lifespan)
lock = threading.Lock()
requests = {}  # number -> what its parts saw
timeouts = []


@app.exception_handler(PoolTimeout)
async def on_timeout(request, exc):
    timeouts.append(str(request.url))
    raise HTTPException(500, "no connection")


# ------------------------------------------------------------------ scoped_session


def login(n: int):
    """Leaves its user in the thread's session."""
    session = Scoped()
    session.info["user"] = n
    time.sleep(0.001)
    return n


def end_of_session(n: int):
    try:
        yield
    finally:
        with lock:
            requests[n].update(at_exit=Scoped().info.get("user"), exit=threading.get_ident())
        Scoped.remove()


def afterwards(n):
    with lock:
        requests[n]["background"] = threading.get_ident()


@app.get("/scoped/{n}")
def scoped(n: int, background: BackgroundTasks, end=Depends(end_of_session), user: int = Depends(login)) -> dict[str, int]:
    session = Scoped()
    with lock:
        requests[n] = one = {"user": session.info.get("user"), "thread": threading.get_ident()}
    session.add(Item(name=f"scoped {n}"))
    session.flush()
    first = session.execute(text("select pg_backend_pid()")).scalar()
    time.sleep(0.001)
    one["pids"] = [first, Scoped().execute(text("select pg_backend_pid()")).scalar()]
    session.commit()
    background.add_task(afterwards, n)
    return {"n": n}


@app.get("/seen")
async def seen():
    with lock:
        if any("background" not in one or "exit" not in one for one in requests.values()):
            return {"pending": True}
        found = dict(requests)
        requests.clear()
    return {
        "pending": False,
        "requests": len(found),
        "others_session": sum(one["user"] not in (None, n) or one.get("at_exit") not in (None, n) for n, one in found.items()),
        "no_session": sum(one["user"] is None or one.get("at_exit") is None for one in found.values()),
        "split": sum(len({one["thread"], one["exit"], one["background"]}) > 1 for one in found.values()),
        "two_backends": sum(len(set(one["pids"])) > 1 for one in found.values()),
        "backends": len({pid for one in found.values() for pid in one["pids"]}),
    }


@app.get("/items")
async def items(name: str):
    with engine.connect() as connection:
        return {"n": connection.execute(text("select count(*) from item where name like :name"), {"name": name}).scalar()}


# ------------------------------------------------------------------ SQLModel, a session per request


def get_session():
    with Session(engine) as session:
        yield session


@app.post("/items", status_code=201)
def create(item: Item, session: Session = Depends(get_session)) -> Made:
    session.add(item)
    session.commit()
    session.refresh(item)
    return Made(id=item.id, name=item.name)


@app.get("/items/{item_id}")
def read(item_id: int, session: Session = Depends(get_session)) -> Made:
    item = session.get(Item, item_id)
    if item is None:
        raise HTTPException(404)
    return Made(id=item.id, name=item.name)


@app.post("/fail")
def fail(name: str, session: Session = Depends(get_session)):
    """What was written goes with the exception."""
    session.add(Item(name=name))
    session.flush()
    raise HTTPException(409, "no")


@app.get("/export")
def export(name: str, session: Session = Depends(get_session)):
    """Rows are fetched while the answer is on its way."""

    def rows():
        for item in session.scalars(select(Item).where(Item.name == name).execution_options(yield_per=10)):
            yield f"{item.id}\n"

    return StreamingResponse(rows(), media_type="text/plain")


# ------------------------------------------------------------------ the pool under load


@app.get("/slow")
def slow(seconds: float = 0.02, session: Session = Depends(get_session)) -> dict[str, int]:
    session.execute(text("select pg_sleep(:seconds)"), {"seconds": seconds})
    return {"pid": session.execute(text("select pg_backend_pid()")).scalar()}


def with_connection(session: Session = Depends(get_session)):
    session.execute(text("select 1"))
    return session


@app.get("/hold")
async def hold(seconds: float, session: Session = Depends(with_connection)):
    """Has a connection while it awaits something, and then wants its thread again."""
    await asyncio.sleep(seconds)
    return {"n": await run_in_threadpool(lambda: session.execute(text("select 7")).scalar())}


@app.get("/pool")
async def pool():
    return {"out": engine.pool.checkedout(), "in": engine.pool.checkedin(), "timeouts": len(timeouts)}
