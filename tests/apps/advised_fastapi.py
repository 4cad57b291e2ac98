"""advised.py's views on FastAPI."""

import advised
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

app = FastAPI()

for name in ("report", "report_async", "export", "feed", "feed_def", "fast", "orders"):
    app.get("/" + name.replace("_", "-"))(getattr(advised, name))


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
