"""Long queries behind FastAPI, by SQLAlchemy: on PostgreSQL (DATABASE_URL) and sqlite3, in `def` endpoints, in threads of coroutines.

FOREIGN=1 makes an engine whose driver nobody knows: a module of DB-API around sqlite3.
"""

import asyncio
import os
import sqlite3
import sys
import threading
import types

import ringcorn
from asgiref.sync import sync_to_async
from fastapi import FastAPI, WebSocket
from sqlalchemy import create_engine, text
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

app = FastAPI()
DATABASE_URL = os.environ["DATABASE_URL"]
connect_args = {"application_name": os.environ.get("APPLICATION_NAME", "cancel")}
if DATABASE_URL.startswith("postgresql+psycopg:"):
    connect_args["prepare_threshold"] = None  # what is prepared belongs to one connection, and PgBouncer has others
engine = create_engine(DATABASE_URL, pool_size=8, max_overflow=0, connect_args=connect_args)
local = create_engine("sqlite://", connect_args={"check_same_thread": False})
state = {}
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT max(i) FROM n"


def foreign_engine():
    module = types.ModuleType("strangedb")
    module.__dict__.update({name: value for name, value in vars(sqlite3).items() if not name.startswith("__")})

    class Dialect(SQLiteDialect_pysqlite):
        name, driver = "sqlite", "strangedb"

        @classmethod
        def import_dbapi(cls):
            return module

    sys.modules["strangedb"] = module
    from sqlalchemy.dialects import registry

    registry.register("sqlite.strangedb", __name__, "Dialect")
    globals()["Dialect"] = Dialect
    return create_engine("sqlite+strangedb://")


if os.environ.get("FOREIGN"):
    strange = foreign_engine()


def sleep(seconds, id):
    with engine.begin() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        state[id] = "running"
        try:
            connection.execute(text("SELECT pg_sleep(:s)"), {"s": seconds})
        except Exception as e:
            state[id] = type(e).__name__
            raise
    state[id] = "done"
    return {"pid": pid, "thread": threading.get_ident()}


@app.get("/slow")
def slow(s: float, id: str = ""):
    return sleep(s, id)


@app.post("/slow")
def slow_post(s: float, id: str = ""):
    return sleep(s, id)


@app.get("/thread")
async def in_thread(s: float, id: str = ""):
    return await asyncio.to_thread(sleep, s, id)


@app.websocket("/ws")
async def websocket(websocket: WebSocket):
    """Each message is a query's seconds."""
    await websocket.accept()
    while True:
        await websocket.send_json(await sync_to_async(sleep)(float(await websocket.receive_text()), "ws"))


@app.get("/many")
def many(s: float, id: str = "", pipeline: bool = False):
    """executemany() waits where it leaves its pipeline; in a pipeline of the application's nothing is cancelled."""
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        cursor = raw.cursor()
        state[id] = "running"
        try:
            if pipeline:
                with raw.pipeline():
                    cursor.execute("SELECT pg_sleep(%s)", (s,))
            else:
                cursor.executemany("SELECT pg_sleep(%s)", [(s,)] * 2)
        except Exception as e:
            state[id] = type(e).__name__
            raise
        state[id] = "done"
        return {"pid": raw.info.backend_pid}


@app.get("/limited")
@ringcorn.timeout(0.5)
def limited(s: float, id: str = ""):
    return sleep(s, id)


@app.get("/alimited")
@ringcorn.timeout(0.5)
async def alimited(s: float, id: str = ""):
    return await asyncio.to_thread(sleep, s, id)


@app.get("/unlimited")
@ringcorn.timeout(None)
def unlimited(s: float, id: str = ""):
    return sleep(s, id)


@app.get("/sqlite")
def sqlite(n: int, id: str = ""):
    with local.connect() as connection:
        state[id] = "running"
        try:
            found = connection.execute(text(COUNT.format(n))).scalar_one()
        except Exception as e:
            state[id] = type(e).__name__
            raise
        state[id] = "done"
        return {"found": found}


@app.get("/strange")
def strangely():
    with strange.connect() as connection:
        return {"found": connection.execute(text(COUNT.format(10))).scalar_one()}


@app.get("/state")
async def state_of(of: str):
    return {"state": state.get(of)}
