"""An application that is imported once, for `preload`: a line in the file IMPORTED for each import; what it leaves open is named in LEAVES."""

import asyncio
import ctypes
import json
import os
import random
import re
import socket
import threading
import time

BALLAST = os.urandom(1 << 20) * int(os.environ.get("BALLAST_MIB", "1"))
IMPORTED_BY = os.getpid()
LEAVES = os.environ.get("LEAVES", "").split()
FORKS = []

with open(os.environ["IMPORTED"], "a") as _file:
    _file.write(f"{IMPORTED_BY}\n")
if "hang" in LEAVES:
    time.sleep(60)
if "fail" in LEAVES:
    raise RuntimeError("not today")
if "slow-fork" in LEAVES:
    os.register_at_fork(before=lambda: (open(os.environ["IMPORTED"] + ".forks", "a").close(), time.sleep(0.5)))
os.register_at_fork(
    before=lambda: FORKS.append("before"), after_in_parent=lambda: FORKS.append("parent"), after_in_child=lambda: FORKS.append("child")
)
if "thread" in LEAVES:
    threading.Thread(target=threading.Event().wait, name="early-bird", daemon=True).start()
if "socket" in LEAVES:
    _listener = socket.create_server(("127.0.0.1", 0))
    _connection = socket.create_connection(_listener.getsockname())
if "loop" in LEAVES:
    asyncio.set_event_loop(asyncio.new_event_loop())
if "epoll" in LEAVES:
    import select

    _epoll = select.epoll()
if "django" in LEAVES:
    import django
    from django.conf import settings

    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["IMPORTED"] + ".db"}})
    django.setup()
    from django.db import connection

    connection.cursor().execute("SELECT 1")
if "sqlalchemy" in LEAVES:
    import sqlalchemy

    engine = sqlalchemy.create_engine("sqlite:///" + os.environ["IMPORTED"] + ".sqlalchemy")
    with engine.connect() as _it:
        _it.execute(sqlalchemy.text("SELECT 1"))


def memory():
    with open("/proc/self/smaps_rollup") as f:
        return {name: int(kib) for name, kib in re.findall(r"(\w+):\s+(\d+) kB", f.read())}


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    if scope["path"] == "/crash":
        ctypes.string_at(0)
    body = json.dumps({
        "pid": os.getpid(), "imported_by": IMPORTED_BY, "parent": os.getppid(), "forks": FORKS, "random": random.random(), "memory": memory(),
        "thread": await asyncio.to_thread(lambda: threading.current_thread().name), "main": threading.current_thread() is threading.main_thread(),
    }).encode()  # fmt: skip
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


def post_fork(worker):
    with open(os.environ["IMPORTED"] + ".hooks", "a") as f:
        f.write(f"{worker.hook} {worker.slot} {worker.pid} {os.getpid()} {worker.generation}\n")


async def beside(service):
    service.ready()
    await service.draining.wait()


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {IMPORTED_BY}".encode()]
