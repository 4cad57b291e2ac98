"""What applications do wrong with sessions and transactions without any error, on FastAPI with a real PostgreSQL, named in DATABASE_URL (postgresql://).

tests/e2e/test_guard_databases.py finds the guilty lines by their comments, "# guilty: NAME"."""

import asyncio
import contextlib
import os

import asyncpg
import psycopg
import psycopg_pool
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import ringcorn.guard

URL = os.environ["DATABASE_URL"]
QUERY = text("select 1")
PAUSE = text("select pg_sleep(0.05)")
events = []
ringcorn.guard.on(events.append)

engine = create_engine(URL.replace("postgresql:", "postgresql+psycopg:"))
on_asyncpg = create_async_engine(URL.replace("postgresql:", "postgresql+asyncpg:"))
on_psycopg = create_async_engine(URL.replace("postgresql:", "postgresql+psycopg:"))
left = []  # nobody closes them, and they are not garbage


@contextlib.asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(URL) as app.state.asyncpg, psycopg_pool.AsyncConnectionPool(URL) as app.state.psycopg:
        yield
    while left:
        done = left.pop().close()
        if done is not None:
            await done
    engine.dispose()
    await on_asyncpg.dispose()
    await on_psycopg.dispose()


app = FastAPI(lifespan=lifespan)


@app.get("/left_sync")
def left_sync():
    session = Session(engine)
    left.append(session)
    session.execute(QUERY)  # guilty: left_sync


@app.get("/left_asyncpg_engine")
async def left_asyncpg_engine():
    session = AsyncSession(on_asyncpg)
    left.append(session)
    await session.execute(QUERY)  # guilty: left_asyncpg_engine


@app.get("/left_psycopg_engine")
async def left_psycopg_engine():
    connection = on_psycopg.connect()
    left.append(connection)
    await connection.start()  # guilty: left_psycopg_engine
    await connection.execute(QUERY)


@app.get("/left_psycopg")
async def left_psycopg():
    connection = await psycopg.AsyncConnection.connect(URL)
    left.append(connection)
    await connection.execute("select 1")  # guilty: left_psycopg


@app.get("/left_asyncpg")
async def left_asyncpg():
    connection = await asyncpg.connect(URL)
    left.append(connection)
    await connection.transaction().start()  # guilty: left_asyncpg


@app.get("/left_by_begin")
async def left_by_begin():
    connection = await asyncpg.connect(URL)
    left.append(connection)
    await connection.execute("BEGIN")  # guilty: left_by_begin


@app.get("/gathers")
async def gathers():
    async with AsyncSession(on_asyncpg) as session:
        with contextlib.suppress(Exception):
            found = await asyncio.gather(session.execute(PAUSE), session.execute(PAUSE), return_exceptions=True)  # guilty: gathers
            return sum(isinstance(one, Exception) for one in found)


async def count(session):
    with contextlib.suppress(Exception):
        await session.scalar(PAUSE)  # guilty: shares


@app.get("/shares")
async def shares():
    async with AsyncSession(on_psycopg) as session:
        with contextlib.suppress(Exception):
            async with asyncio.TaskGroup() as group:
                group.create_task(count(session), name="first")
                group.create_task(count(session), name="second")


# --- sound ones


async def get_session():
    async with AsyncSession(on_asyncpg) as session:
        yield session


@app.get("/sound")
async def sound(session: AsyncSession = Depends(get_session)):
    await session.execute(QUERY)
    async with on_psycopg.begin() as connection:
        await connection.execute(QUERY)
    async with app.state.psycopg.connection() as connection, connection.transaction():
        await connection.execute("select 1")
    async with app.state.asyncpg.acquire() as connection, connection.transaction():
        await connection.execute("select 1")
    with Session(engine) as sync_session:
        sync_session.execute(QUERY)
    return "sound"


@app.get("/sound_in_turn")
async def sound_in_turn():
    async with AsyncSession(on_asyncpg) as session:
        for _ in range(2):
            await asyncio.create_task(count(session))
    return "sound"


@app.get("/sound_sync")
def sound_sync():
    with Session(engine) as session, session.begin():
        session.execute(QUERY)
    return "sound"


async def goes_on():
    async with AsyncSession(on_asyncpg) as session:
        await session.execute(QUERY)
        await asyncio.sleep(0.3)


@app.get("/sound_beside")
async def sound_beside():
    task = asyncio.create_task(goes_on())
    left_running.add(task)
    task.add_done_callback(left_running.discard)
    await asyncio.sleep(0.1)
    return "sound"


left_running = set()


@app.get("/knows_better")
async def knows_better():
    with ringcorn.guard.allow("transaction", "session"):
        await left_asyncpg()
        await gathers()
    return "sound"


@app.get("/events")
async def told():
    return [{"kind": e.kind, "request": e.request, "file": e.file, "line": e.line, "message": e.message} for e in events]


async def raw(scope, receive, send):
    """Neither AnyIO nor asgiref is told of."""
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    connection = await asyncpg.connect(URL)
    left.append(connection)
    await connection.transaction().start()  # guilty: raw
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/left":
        session = Session(engine)
        left.append(session)
        session.execute(QUERY)  # guilty: wsgi
    else:
        left_sync_soundly()
    start_response("200 OK", [("Content-Length", "0")])
    return []


def left_sync_soundly():
    with Session(engine) as session:
        session.execute(QUERY)
