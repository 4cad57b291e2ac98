"""Django views that write, wait in the database, and write again: in one transaction, by one long query or many short ones.

PG_PORT, PG_APP: the server, and the name of our connections; DRIVER: psycopg or psycopg2. A statement bears the mark of its request, so that the
database's log tells whose was cancelled."""

import os
import sys

if os.environ.get("DRIVER") == "psycopg2":  # Django takes psycopg 3 where it is there
    sys.modules["psycopg"] = None

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="a test's key, of no value",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": os.environ.get("PG_PORT", "5432"),
            "USER": "postgres",
            "NAME": "postgres",
            "CONN_MAX_AGE": None,
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {"application_name": os.environ.get("PG_APP", "cancel")},
        }
    },
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


def _write(cursor, mark, id, part):
    cursor.execute(f"INSERT INTO cancel_rows VALUES (%s, %s) /* {mark} */", (id, part))


def work(request):
    id, mark = int(request.GET["id"]), request.GET["mark"]
    seconds, steps = float(request.GET["s"]), int(request.GET["steps"])
    with transaction.atomic(), connection.cursor() as cursor:
        _write(cursor, mark, id, 1)
        with transaction.atomic():  # a savepoint
            for _ in range(steps):
                cursor.execute(f"SELECT pg_sleep(%s) /* {mark} */", (seconds / steps,))
        _write(cursor, mark, id, 2)
    return HttpResponse(str(id), content_type="text/plain", headers={"Content-Length": len(str(id))})


urlpatterns = [path("work", work)]
asgi = get_asgi_application()
wsgi = get_wsgi_application()
