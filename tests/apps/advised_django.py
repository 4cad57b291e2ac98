"""advised.py's views on Django: application over ASGI, and wsgi_application with the synchronous ones."""

import asyncio

import advised
import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import JsonResponse
from django.urls import path

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "CONN_MAX_AGE": None}},
    DEBUG=False,
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="advised",
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)


def view(fn):
    if asyncio.iscoroutinefunction(fn):

        async def of_loop(request):
            return JsonResponse(await fn())

        return of_loop

    def of_thread(request):
        return JsonResponse(fn())

    return of_thread


async def lookups(request):
    for _ in range(10):
        await sync_to_async(advised.look_up)("a")
    return JsonResponse({})


def orders(request):
    with connection.cursor() as cursor:
        cursor.execute(advised.ORDERS)
        return JsonResponse({"rows": cursor.fetchone()[0]})


def lookups_def(request):
    """As advised."""
    for _ in range(10):
        advised.look_up("a")
    return JsonResponse({})


urlpatterns = [
    *(path(name.replace("_", "-"), view(getattr(advised, name))) for name in ("report", "report_async", "export", "feed", "feed_def", "fast")),
    path("orders", orders),
    path("large-def", view(advised.feed_def)),
    path("lookups", lookups),
    path("lookups-def", lookups_def),
]
django.setup()
app = get_asgi_application()
wsgi_app = get_wsgi_application()
