"""Three small FastAPI projects with a race each, and the same without it: what ringcorn.shake has to find, and must not find."""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool


def counter(mended):
    """Reads, awaits, writes. The journal's lock is free as long as nobody exports the journal, so the await between does not suspend in most tests."""
    app = FastAPI()
    app.state.value, app.state.journal = 0, []
    journal, counting = asyncio.Lock(), asyncio.Lock()

    async def write(line):
        async with journal:
            app.state.journal.append(line)

    async def count():
        value = app.state.value
        await write(f"was {value}")
        app.state.value = value + 1

    @app.post("/add")
    async def add():
        if mended:
            async with counting:
                await count()
        else:
            await count()

    @app.get("/journal")
    async def export():
        async with journal:
            return await asyncio.to_thread("\n".join, app.state.journal)

    @app.get("/")
    async def value():
        return {"value": app.state.value}

    return app


def sign_up(mended):
    """Looks whether a name is free, and takes it. Only a constraint of the database does both at once."""
    app = FastAPI()
    folder = tempfile.TemporaryDirectory(prefix="races-")
    file = str(Path(folder.name) / "accounts.db")
    app.state.folder = folder

    def execute(statement, *values):
        with closing(sqlite3.connect(file)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    execute(f"create table account (name text{' unique' if mended else ''})")

    @app.post("/sign-up/{name}", status_code=201)
    async def create(name: str):
        if await run_in_threadpool(execute, "select 1 from account where name = ?", name):
            raise HTTPException(409)
        try:
            await run_in_threadpool(execute, "insert into account values (?)", name)
        except sqlite3.IntegrityError:
            raise HTTPException(409) from None

    @app.get("/accounts")
    def accounts():  # the stock of a thread's work: FastAPI calls it in one
        return [name for (name,) in execute("select name from account")]

    return app


def mail(mended):
    """Makes an account, and sends a mail behind the answer: which it does not, when the answer cannot be sent. An outbox is written with the account."""
    app = FastAPI()
    app.state.accounts, app.state.outbox, app.state.mails = [], [], []

    async def send(name):
        await asyncio.sleep(0.1)
        app.state.mails.append(name)

    @app.post("/sign-up/{name}", status_code=201)
    async def create(name: str, background: BackgroundTasks):
        await asyncio.sleep(0.01)
        app.state.accounts.append(name)
        if mended:
            app.state.outbox.append(name)
        else:
            background.add_task(send, name)

    @app.post("/deliver")
    async def deliver():  # what a service does from time to time
        while app.state.outbox:
            await send(app.state.outbox[0])
            del app.state.outbox[0]

    @app.get("/lost")
    async def lost():
        return sorted(set(app.state.accounts) - set(app.state.mails))

    return app
