"""advised.py's views on FastAPI."""

import time

import advised
import sqlalchemy
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool

app = FastAPI()

for name in ("report", "report_async", "export", "feed", "feed_def", "fast"):
    app.get("/" + name.replace("_", "-"))(getattr(advised, name))


class Slowly(Response):
    """Which the loop does for a view, whatever that is."""

    async def __call__(self, scope, receive, send):
        time.sleep(advised.BLOCK_MS / 1000)
        await super().__call__(scope, receive, send)


@app.get("/large-def")
def large_def():
    return Slowly(b"large")


engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.pool.SingletonThreadPool)


@app.get("/orders")
def orders():
    with engine.connect() as connection:
        return {"rows": connection.execute(sqlalchemy.text(advised.ORDERS)).scalar()}


@app.get("/lookups")
async def lookups():
    for _ in range(10):
        await run_in_threadpool(advised.look_up, "a")
    return {}


@app.get("/lookups-def")
def lookups_def():
    """As advised."""
    for _ in range(10):
        advised.look_up("a")
    return {}
