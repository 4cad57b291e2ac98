"""Settings of an application that defeat persistent connections: one line each, with what to change; and silence where all is well."""

import re

import django
import pytest

import harness

needs_pool = pytest.mark.skipif(django.VERSION < (5, 1), reason='Django 5.1 brought OPTIONS["pool"]')

URLS = """
from django.db import transaction
from django.http import HttpResponse
from django.urls import include, path
from django.views import View

def sync_view(request):
    return HttpResponse("sync")

async def async_view(request):
    return HttpResponse("async")

@transaction.non_atomic_requests
async def excused(request):
    return HttpResponse("async")

class Page(View):
    async def get(self, request):
        return HttpResponse("async")
"""
ASYNC = URLS + 'urlpatterns = [path("a/", async_view), path("more/", include([path("b/", Page.as_view())])), path("s/", sync_view)]\n'
SYNC = URLS + 'urlpatterns = [path("s/", sync_view)]\n'
EXCUSED = URLS + 'urlpatterns = [path("e/", excused)]\n'
POSTGRES = '"ENGINE": "django.db.backends.postgresql", "NAME": "shop", "HOST": "127.0.0.1", "PORT": "1"'
GOOD = f'{{"default": {{{POSTGRES}, "CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}}}}'
MIDDLEWARE = """
class SyncOnly:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)
"""


def write_django(folder, databases=GOOD, urls=SYNC, more=""):
    """A project whose settings are in two modules."""
    (folder / "conf").mkdir()
    (folder / "conf" / "__init__.py").touch()
    (folder / "conf" / "base.py").write_text(
        f"SECRET_KEY = 'x'\nROOT_URLCONF = 'urls'\nDATABASES = {databases}\nALLOWED_HOSTS = ['*']\n{more}\n"
    )
    (folder / "conf" / "live.py").write_text("from .base import *\nDEBUG = False\n")
    (folder / "urls.py").write_text(urls)
    (folder / "middleware.py").write_text(MIDDLEWARE)
    for kind in ("asgi", "wsgi"):
        (folder / f"{kind}.py").write_text(
            "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'conf.live'\n"
            f"from django.core.{kind} import get_{kind}_application\napplication = get_{kind}_application()\n"
        )


def hints(folder, *args, app="asgi:application"):
    """What --check-config warns of."""
    r = harness.run("--check-config", "--app-dir", folder, app, *args)
    assert r.returncode == 0 and r.stderr == "", r.stderr
    return re.findall(r"^ringcorn: warning: (.*)$", r.stdout, re.M)


# --- Django


def test_a_good_project_is_left_alone(tmp_path):
    write_django(tmp_path, urls=ASYNC, more='MIDDLEWARE = ["django.middleware.security.SecurityMiddleware"]')
    assert hints(tmp_path) == []


def test_conn_max_age_0(tmp_path):
    write_django(tmp_path, f'{{"default": {{{POSTGRES}}}, "lite": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}')
    (line,) = hints(tmp_path)
    assert line.startswith(f"DATABASES['default'] ({tmp_path}/conf/base.py:3): CONN_MAX_AGE is 0, so every request opens a connection")
    assert '"CONN_MAX_AGE": 600' in line and "django.conn_max_age: 600" in line
    # Whoever has set the key has been told.
    for value in ("none", "600", "0"):
        assert hints(tmp_path, "--django-conn-max-age", value) == []


def test_connections_without_health_checks(tmp_path):
    write_django(tmp_path, f'{{"default": {{{POSTGRES}, "CONN_MAX_AGE": None}}}}')
    (line,) = hints(tmp_path)
    assert "without CONN_HEALTH_CHECKS" in line and 'write "CONN_HEALTH_CHECKS": True' in line
    assert hints(tmp_path, "--django-conn-max-age", "none") == []


@needs_pool
@pytest.mark.parametrize(
    "pool, threads, expected",
    [
        ("True", 8, "at most 4 connections for 8 threads"),  # psycopg_pool's own default
        ('{"min_size": 2}', 8, "at most 2 connections for 8 threads"),
        ('{"min_size": 2, "max_size": 7}', 8, "at most 7 connections for 8 threads"),
        ('{"min_size": 1, "max_size": 1}', 2, "at most 1 connection for 2 threads"),
        ("True", 4, None),
        ('{"max_size": 8}', 8, None),
    ],
)
def test_a_pool_smaller_than_the_threads(tmp_path, pool, threads, expected):
    write_django(tmp_path, f'{{"default": {{{POSTGRES}, "OPTIONS": {{"pool": {pool}}}}}}}')
    found = hints(tmp_path, "--threads", threads)
    assert len(found) == (expected is not None)
    assert expected is None or (expected in found[0] and f'"max_size": {threads}' in found[0])


@needs_pool
def test_a_pool_with_conn_max_age(tmp_path):
    write_django(tmp_path, f'{{"default": {{{POSTGRES}, "CONN_MAX_AGE": 60, "OPTIONS": {{"pool": {{"max_size": 20}}}}}}}}')
    (line,) = hints(tmp_path)
    assert 'Django refuses OPTIONS["pool"] with CONN_MAX_AGE' in line


def test_atomic_requests_with_async_views(tmp_path):
    atomic = GOOD.replace("True", 'True, "ATOMIC_REQUESTS": True')
    write_django(tmp_path, atomic, ASYNC)
    (line,) = hints(tmp_path)
    assert "Django refuses ATOMIC_REQUESTS with asynchronous views: urls.async_view, urls.Page; decorate them" in line
    for urls in (SYNC, EXCUSED):
        (tmp_path / "urls.py").write_text(urls)
        assert hints(tmp_path) == []


def test_synchronous_middleware_above_async_views(tmp_path):
    write_django(tmp_path, urls=ASYNC, more='MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "middleware.SyncOnly"]')
    (line,) = hints(tmp_path)
    assert line.startswith(f"MIDDLEWARE ({tmp_path}/conf/base.py:5): middleware.SyncOnly is synchronous only")
    assert "urls.async_view, urls.Page" in line
    (tmp_path / "urls.py").write_text(SYNC)
    assert hints(tmp_path) == []


def test_a_urlconf_that_cannot_be_imported(tmp_path):
    write_django(tmp_path, urls="import nothing_of_that_name\n", more='MIDDLEWARE = ["middleware.SyncOnly"]')
    (line,) = hints(tmp_path)
    assert line.startswith("ROOT_URLCONF 'urls' cannot be imported, so every request will fail: ModuleNotFoundError")


def test_settings_without_a_file(tmp_path):
    (tmp_path / "app.py").write_text(
        "from django.conf import settings\n"
        f"settings.configure(SECRET_KEY='x', ROOT_URLCONF=__name__, DATABASES={{'default': {{{POSTGRES}}}}})\n"
        "from django.core.asgi import get_asgi_application\nurlpatterns = []\napplication = get_asgi_application()\n"
    )
    (line,) = hints(tmp_path, app="app:application")
    assert line.startswith("DATABASES['default'] (settings.configure()): CONN_MAX_AGE is 0")


def test_another_framework_that_uses_the_orm(tmp_path):
    """Nobody looks at CONN_MAX_AGE there."""
    (tmp_path / "app.py").write_text(
        "from django.conf import settings\n"
        f"settings.configure(SECRET_KEY='x', DATABASES={{'default': {{{POSTGRES}}}}})\n"
        "import django\ndjango.setup()\n"
        "async def app(scope, receive, send): ...\n"
    )
    assert hints(tmp_path, app="app:app") == []


# --- SQLAlchemy

ENGINES = """
from sqlalchemy import NullPool, StaticPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

{code}

async def app(scope, receive, send):
    raise AssertionError("not served")
"""
URL = '"postgresql+psycopg://me:secret@127.0.0.1:1/shop"'


@pytest.mark.parametrize(
    "code, expected",
    [
        (f"engine = create_engine({URL})", "at most 15 connections (pool_size 5 + max_overflow 10) for 40 threads"),
        (f"engine = create_engine({URL}, pool_size=30)", None),  # 40 in all, but ten of them for one use each
        (f"engine = create_engine({URL}, pool_size=40)", None),
        (f"engine = create_engine({URL}, pool_size=50, max_overflow=0)", None),
        (f"engine = create_engine({URL}, pool_size=0)", None),
        (f"engine = create_engine({URL}, pool_size=40, max_overflow=-1)", None),
        (f"engine = create_engine({URL}, poolclass=NullPool)", "NullPool opens a connection for each use"),
        (f"engine = create_engine({URL}, poolclass=StaticPool)", "StaticPool is one connection for 40 threads"),
        ('engine = create_engine("sqlite://")', None),
        ('engine = create_engine("sqlite://", poolclass=NullPool)', None),
        (f"engine = create_async_engine({URL})", None),  # runs on the loop, not in threads
        (f"engine = create_async_engine({URL}, poolclass=NullPool)", "NullPool opens a connection for each use"),
        ("engine = None", None),
    ],
)
def test_engines(tmp_path, code, expected):
    (tmp_path / "app.py").write_text(ENGINES.format(code=code))
    found = hints(tmp_path, app="app:app")
    if "pool_size=30" in code:
        expected = "pool_size 30 for 40 threads: connections above it are closed after each use"
    assert len(found) == (expected is not None), found
    if expected is not None:
        assert found[0].startswith("SQLAlchemy engine app.engine (postgresql+psycopg://me:***@127.0.0.1:1/shop): ")
        assert expected in found[0]


def test_an_engine_is_named_once_and_without_its_secrets(tmp_path):
    code = f"""
class Held:
    engine = create_engine("postgresql+psycopg://127.0.0.1:1/shop?user=me&password=hidden")
    same = engine.execution_options(isolation_level="AUTOCOMMIT")

other = create_engine({URL}, pool_size=3, max_overflow=0, pool_timeout=7)
"""
    (tmp_path / "app.py").write_text(ENGINES.format(code=code))
    other, held = hints(tmp_path, "--threads", "6", app="app:app")
    assert other.startswith("SQLAlchemy engine app.other (") and "pool_timeout (7 s)" in other
    assert "write pool_size=6, or sync.threads: 3" in other
    assert held.startswith("SQLAlchemy engine postgresql+psycopg://127.0.0.1:1/shop: pool_size 5 for 6 threads") and "hidden" not in held


# --- at start


def test_at_start_the_first_worker_speaks_for_all(server, tmp_path):
    write_django(tmp_path, f'{{"default": {{{POSTGRES}}}}}', ASYNC)
    s = server("asgi:application", "--workers", 2, app_dir=tmp_path)
    harness.wire.eventually(lambda: len(re.findall("is ready", s.log)) == 2, 30 * harness.SLOW, "two workers")
    s.settle()
    assert s.get("/s/").status == 200
    assert len(re.findall(r"warning: DATABASES\['default'\] .*CONN_MAX_AGE is 0", s.log)) == 1


def test_at_start_engines_made_in_lifespan_are_seen(server, tmp_path):
    (tmp_path / "app.py").write_text(
        "from sqlalchemy import create_engine\n"
        "async def app(scope, receive, send):\n"
        "    global engine\n"
        "    if scope['type'] == 'lifespan':\n"
        "        await receive()\n"
        f"        engine = create_engine({URL})\n"
        "        await send({'type': 'lifespan.startup.complete'})\n"
        "        await receive()\n"
        "        await send({'type': 'lifespan.shutdown.complete'})\n"
    )
    s = server("app:app", app_dir=tmp_path)
    assert len(re.findall(r"warning: SQLAlchemy engine app.engine .*at most 15 connections", s.log)) == 1


def test_at_start_a_good_application_is_left_alone(server, tmp_path):
    write_django(tmp_path, urls=ASYNC)
    s = server("asgi:application", app_dir=tmp_path)
    assert "warning:" not in s.log
