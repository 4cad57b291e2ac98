"""FastAPI with all that a disconnect can leave half done: a dependency with yield, BaseHTTPMiddlewares, a SQLAlchemy AsyncSession, asyncpg's pool.

DATABASE_URL names the database, APPLICATION_NAME the connections. Queries take `seconds` in the database; /pools says what the pools have."""

import contextlib
import os

import asyncpg
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware

POOL = 12
URL = os.environ.get("DATABASE_URL", "")
SETTINGS = {"application_name": os.environ.get("APPLICATION_NAME", "disconnects")}

engine = create_async_engine(
    URL.replace("postgresql:", "postgresql+asyncpg:", 1) or "postgresql+asyncpg://", pool_size=POOL, max_overflow=0, pool_timeout=60,
    connect_args={"server_settings": SETTINGS},
)  # fmt: skip
sessions = async_sessionmaker(engine)
tallies = {"begun": 0, "ended": 0}


@contextlib.asynccontextmanager
async def lifespan(app):
    async with asyncpg.create_pool(URL, min_size=POOL, max_size=POOL, server_settings=SETTINGS) as app.state.pool:
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def session():
    async with sessions() as one:
        yield one


async def session_closed_by_hand():
    one = AsyncSession(engine)
    try:
        yield one
        await one.commit()
    except BaseException:
        await one.rollback()
        raise
    finally:
        await one.close()


async def connection():
    async with app.state.pool.acquire() as one, one.transaction():
        yield one


async def tallied():
    tallies["begun"] += 1
    try:
        yield
    finally:
        tallies["ended"] += 1


SLEEP = "select pg_sleep(:seconds)"


@app.get("/session", dependencies=[Depends(tallied)])
async def with_session(seconds: float, one: AsyncSession = Depends(session)):
    await one.execute(text(SLEEP), {"seconds": seconds})


@app.get("/by-hand", dependencies=[Depends(tallied)])
async def with_session_closed_by_hand(seconds: float, one: AsyncSession = Depends(session_closed_by_hand)):
    await one.execute(text(SLEEP), {"seconds": seconds})


@app.get("/asyncpg", dependencies=[Depends(tallied)])
async def with_connection(seconds: float, one=Depends(connection)):
    await one.execute(f"select pg_sleep({seconds})")


@app.get("/pools")
async def pools():
    pool = app.state.pool
    return {
        "sessions_out": engine.pool.checkedout(),
        "connections_out": pool.get_size() - pool.get_idle_size(),
        "connections": pool.get_size(),
        "in_hand": tallies["begun"] - tallies["ended"],
        "begun": tallies["begun"],
    }


class Middleware(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


app.add_middleware(Middleware)
app.add_middleware(Middleware)
