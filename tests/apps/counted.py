"""Steps of the loop that take long, by route, and connections to databases (files of SQLite in the folder DATABASES)."""

import asyncio
import os
import threading
import time

import django
import fastapi
import sqlalchemy
from django.conf import settings

FOLDER = os.environ.get("DATABASES", ".")
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{FOLDER}/django.db"}})
django.setup()

from django.db import connection  # noqa: E402

engine = sqlalchemy.create_engine(f"sqlite:///{FOLDER}/sqlalchemy.db", pool_size=2, max_overflow=5)
held = []
app = fastapi.FastAPI()


@app.get("/quick")
async def quick():
    return {}


@app.get("/first/{ms}")
async def first(ms: int):
    time.sleep(ms / 1000)
    return {}


@app.get("/later/{ms}")
async def later(ms: int):
    await asyncio.sleep(0.001)
    time.sleep(ms / 1000)
    await asyncio.sleep(0.001)
    return {}


@app.get("/child/{ms}")
async def child(ms: int):
    async def work():
        await asyncio.sleep(0)
        time.sleep(ms / 1000)

    await asyncio.gather(work(), work())
    return {}


@app.get("/django")
def by_django():
    connection.cursor().execute("SELECT 1")
    return {"thread": threading.current_thread().name}


@app.get("/django/close")
def close():
    connection.close()
    return {}


@app.get("/sqlalchemy/{n}")
async def by_sqlalchemy(n: int):
    held.extend(engine.connect() for _ in range(n))
    return {"pool": engine.pool.checkedin() + engine.pool.checkedout()}


@app.get("/release")
async def release():
    while held:
        held.pop().close()
    return {"pool": engine.pool.checkedin() + engine.pool.checkedout()}
