"""What Django projects do wrong with the ORM in asynchronous code, on a real PostgreSQL, named in PGHOST and its like.

tests/e2e/test_guard_databases.py finds the guilty lines by their comments, "# guilty: NAME"."""

import asyncio
import contextlib
import os

from asgiref.sync import sync_to_async
from django.conf import settings

settings.configure(
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="gallery",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"], "USER": os.environ["PGUSER"], "CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True,
        }
    },
)  # fmt: skip

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.exceptions import SynchronousOnlyOperation  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402

app = get_asgi_application()
wsgi = get_wsgi_application()

from django.contrib.auth.models import User  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

import ringcorn.guard  # noqa: E402

events = []
ringcorn.guard.on(events.append)


def query():
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        return cursor.fetchone()


async def asks(request):
    return HttpResponse(str(User.objects.count()))  # guilty: asks


async def asks_and_swallows(request):
    with contextlib.suppress(SynchronousOnlyOperation):
        list(User.objects.filter(is_active=True))  # guilty: asks_and_swallows
    return HttpResponse("nothing")


def write_log():
    with connection.cursor() as cursor:
        cursor.execute("select 2")  # guilty: splits


def begin():
    transaction.set_autocommit(False)
    query()


def end():
    transaction.rollback()
    transaction.set_autocommit(True)


async def splits(request):
    atomic = transaction.atomic()
    await sync_to_async(atomic.__enter__)()
    try:
        await sync_to_async(query)()
        await sync_to_async(write_log, thread_sensitive=False)()
    finally:
        await sync_to_async(atomic.__exit__)(None, None, None)
    return HttpResponse("split")


def count_elsewhere():
    with connection.cursor() as cursor:
        cursor.execute("select 3")  # guilty: uses_two


async def uses_two(request):
    await asyncio.to_thread(count_elsewhere)
    await sync_to_async(query)()
    return HttpResponse("two")


def leaves_off(request):
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("select 4")  # guilty: leaves_off
    return HttpResponse("off")


async def leaves_atomic(request):
    def enter():
        transaction.atomic().__enter__()
        with connection.cursor() as cursor:
            cursor.execute("select 5")  # guilty: leaves_atomic

    await sync_to_async(enter)()
    return HttpResponse("inside")


async def sound(request):
    await User.objects.filter(is_active=True).aexists() if request.GET else None
    await sync_to_async(atomically)()
    await sync_to_async(query)()
    return HttpResponse("sound")


@transaction.atomic
def atomically():
    query()
    with transaction.atomic():
        query()


def sound_sync(request):
    atomically()
    begin()
    end()
    return HttpResponse("sound")


async def sound_elsewhere(request):
    """One connection for each of two threads, and none for the request's own."""
    await asyncio.to_thread(query)
    return HttpResponse("sound")


async def knows_better(request):
    with ringcorn.guard.allow("sync", "transaction"), contextlib.suppress(SynchronousOnlyOperation):
        await uses_two(request)
        User.objects.count()
    return HttpResponse("sound")


async def told(request):
    return JsonResponse([{"kind": e.kind, "request": e.request, "file": e.file, "line": e.line} for e in events], safe=False)


VIEWS = (asks, asks_and_swallows, splits, uses_two, leaves_off, leaves_atomic, sound, sound_sync, sound_elsewhere, knows_better)
urlpatterns = [path(view.__name__, view) for view in VIEWS] + [path("events", told)]


def fastapi():
    """The ORM behind FastAPI: a transaction that a dependency keeps open, and a view that leaves its thread."""
    from fastapi import Depends, FastAPI

    api = FastAPI()

    def in_a_transaction():
        with transaction.atomic():
            query()
            yield

    async def asks_in_fastapi():
        with contextlib.suppress(SynchronousOnlyOperation):
            list(User.objects.filter(is_staff=True))  # guilty: asks_in_fastapi

    async def splits_in_fastapi(nothing: None = Depends(in_a_transaction)):
        await asyncio.to_thread(write_log)

    api.get("/asks")(asks_in_fastapi)
    api.get("/splits")(splits_in_fastapi)
    return api
