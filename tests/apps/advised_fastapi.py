"""advised.py's views on FastAPI."""

import advised
import sqlalchemy
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

app = FastAPI()

for name in ("report", "report_async", "export", "feed", "feed_def", "fast"):
    app.get("/" + name.replace("_", "-"))(getattr(advised, name))


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
