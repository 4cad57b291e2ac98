"""A Django project in one file, whose views leave things behind on their thread's database connections.

PG_PORT, PG_APP: the server, and the application_name; PG_MAX_AGE: CONN_MAX_AGE; LITE: the file of a second database, SQLite;
IMPORT_QUERY=1: asks the database while it is imported.
"""

import asyncio
import os
import threading

from django.conf import settings

env = os.environ.get

settings.configure(
    SECRET_KEY="a test's key, of no value",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": env("PG_PORT"),
            "USER": "postgres",
            "NAME": "postgres",
            "CONN_MAX_AGE": None if env("PG_MAX_AGE") == "none" else int(env("PG_MAX_AGE", "0")),
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {"application_name": env("PG_APP")},
        },
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": env("LITE", "lite.sqlite3"), "CONN_MAX_AGE": None},
    },
)

from asgiref.sync import sync_to_async  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.db import connection, connections, transaction  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

application = get_asgi_application()

gates = {}
states = {}


def one(sql, *args):
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchone()[0] if cursor.description else None


def backend():
    return one("SELECT pg_backend_pid()")


if env("IMPORT_QUERY"):
    backend()


def pid(request):
    return JsonResponse({"pid": backend(), "thread": threading.get_ident()})


def rows(request):
    one("CREATE TABLE IF NOT EXISTS left_behind (name text)")
    return JsonResponse({"rows": one("SELECT count(*) FROM left_behind WHERE name = %s", request.GET["of"])})


async def state(request):
    return JsonResponse({"state": states.get(request.GET["of"])})


async def open_gate(request):
    gates.setdefault(request.GET["of"], asyncio.Event()).set()
    return JsonResponse({})


# --- what a request may have open while it waits: (begin, end); end's answer is what the test looks at


def _named_cursor():
    cursor = connection.chunked_cursor()
    cursor.execute("SELECT generate_series(1, 100)")
    return cursor, cursor.fetchmany(10)


def _lite_cursor():
    cursor = connections["lite"].cursor()
    cursor.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT i FROM n")
    return cursor, cursor.fetchmany(10)


def _rest(held):
    cursor, first = held
    with cursor:
        return len(first) + len(cursor.fetchall())


def _atomic():
    block = transaction.atomic()
    block.__enter__()
    return block


KINDS = {
    "clean": (lambda: None, lambda held: 100),
    "begin": (lambda: one("BEGIN"), lambda held: one("COMMIT") or 100),
    "autocommit": (lambda: transaction.set_autocommit(False), lambda held: transaction.set_autocommit(True) or 100),
    "atomic": (_atomic, lambda block: block.__exit__(None, None, None) or 100),
    "named": (_named_cursor, _rest),
    "lite": (_lite_cursor, _rest),
}


async def wait(request):
    """Asks the database, has something open (or nothing), waits until its gate opens, asks again."""
    name, (begin, end) = request.GET["id"], KINDS[request.GET["kind"]]
    gate = gates.setdefault(name, asyncio.Event())
    before = await sync_to_async(backend)(), await sync_to_async(threading.get_ident)()
    held = await sync_to_async(begin)()
    states[name] = "waits"
    await asyncio.wait_for(gate.wait(), 30)
    n = await sync_to_async(end)(held)
    held = None
    after = await sync_to_async(backend)(), await sync_to_async(threading.get_ident)()
    return JsonResponse({"pids": [before[0], after[0]], "threads": [before[1], after[1]], "n": n})


async def enter(request):
    """Enters a transaction and never leaves it."""

    def work():
        one("CREATE TABLE IF NOT EXISTS left_behind (name text)")
        _atomic()
        one("INSERT INTO left_behind VALUES (%s)", request.GET["id"])

    await sync_to_async(work)()
    return JsonResponse({"pid": await sync_to_async(backend)()})


# --- the other threads


def _executor_job(kind):
    found = backend()
    if kind == "raise":
        raise ValueError("after the query")
    if kind == "atomic":
        _atomic()
    return found


async def executor(request):
    kind = request.GET.get("kind", "plain")
    loop = asyncio.get_running_loop()
    calls = [
        sync_to_async(_executor_job, thread_sensitive=False)(kind),
        asyncio.to_thread(_executor_job, kind),
        loop.run_in_executor(None, _executor_job, kind),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    return JsonResponse({"pids": [r if isinstance(r, int) else repr(r) for r in results]})


def not_found(request, exception):
    return JsonResponse({"pid": backend()}, status=404)


handler404 = not_found
urlpatterns = [path(f"{view.__name__}/", view) for view in (pid, rows, state, open_gate, wait, enter, executor)]
