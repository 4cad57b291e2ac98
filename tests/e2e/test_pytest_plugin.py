"""The plugin of pytest: suites of their own, in processes of their own, in which tests fail because of guardrails and for no other reason."""

import re
import subprocess
import sys

import pytest

import harness

pytestmark = pytest.mark.skipif(harness.SANITIZED, reason="a Python of its own loads the extension")

APP = '''
import asyncio, sqlite3, time
from fastapi import FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

app = FastAPI()
engine = create_engine("sqlite://", poolclass=NullPool)
left = []

async def mail():
    pass

async def charge():
    raise ValueError("no card")

@app.get("/sleeps")
async def sleeps():
    time.sleep(0.4)  # guilty: sleeps

@app.get("/forgets")
async def forgets():
    mail()  # guilty: forgets

@app.get("/loses")
async def loses():
    asyncio.create_task(charge())
    await asyncio.sleep(0.05)

@app.get("/leaves")
async def leaves():
    session = Session(engine)
    left.append(session)
    session.execute(text("create table if not exists t (n integer)"))  # guilty: leaves
    session.execute(text("insert into t values (1)"))

@app.get("/good")
async def good():
    await asyncio.sleep(0.3)
    with Session(engine) as session, session.begin():
        session.execute(text("select 1"))
    await mail()
'''
FAIL = ("sleeps", "forgets", "loses", "leaves")
PATHS = [*FAIL, "good"]

INSIDE = f'''
import httpx, pytest
from starlette.testclient import TestClient
import app as module
from app import app

paths = pytest.mark.parametrize("path", {PATHS})

@pytest.fixture
def anyio_backend():
    return "asyncio"

async def get(path):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.get("/" + path)).status_code == 200

@pytest.mark.asyncio
@paths
async def test_asyncio(path):
    await get(path)

@pytest.mark.anyio
@paths
async def test_anyio(path):
    if path == "loses":
        pytest.xfail("AnyIO's plugin raises it by itself")
    await get(path)

@paths
def test_client(path):
    with TestClient(app) as client:
        assert client.get("/" + path).status_code == 200

@pytest.mark.ringcorn_allow("block", "lost")
@pytest.mark.parametrize("path", ["loses", "forgets"])
def test_some(path):
    with TestClient(app) as client:
        assert client.get("/" + path).status_code == 200

@pytest.mark.ringcorn_allow
@pytest.mark.parametrize("path", ["forgets", "leaves"])
def test_all(path):
    with TestClient(app) as client:
        assert client.get("/" + path).status_code == 200

def test_where_it_is_allowed():
    import ringcorn.guard
    with ringcorn.guard.allow("unawaited"):
        module.mail()

def test_a_test_of_its_own_may_sleep():
    module.time.sleep(0.2)
'''

DJANGO = '''
import asyncio, contextlib
import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings

settings.configure(
    ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"], INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "TEST": {"NAME": "test.sqlite3"}}},
)
import django
django.setup()
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import AsyncClient, Client, TestCase, TransactionTestCase
from django.urls import path

def query():
    with connection.cursor() as cursor:
        cursor.execute("select 1")

async def swallows(request):
    with contextlib.suppress(SynchronousOnlyOperation):
        User.objects.count()
    return HttpResponse("x")

async def uses_two(request):
    await sync_to_async(query)()
    await asyncio.to_thread(query)
    return HttpResponse("x")

def leaves(request):
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("create table t (n integer)")
        cursor.execute("insert into t values (1)")
    return HttpResponse("x")

async def good(request):
    await User.objects.acount()
    await sync_to_async(transaction.atomic(query))()
    return HttpResponse("x")

urlpatterns = [path(view.__name__, view) for view in (swallows, uses_two, leaves, good)]

@pytest.fixture(scope="session", autouse=True)
def database():
    from django.test.utils import setup_databases, teardown_databases
    old = setup_databases(0, False)
    yield
    teardown_databases(old, 0)

class TestInside(TestCase):
    async def test_swallows(self):
        assert (await AsyncClient().get("/swallows")).status_code == 200
    async def test_good(self):
        assert (await AsyncClient().get("/good")).status_code == 200
    def test_good_sync(self):
        assert Client().get("/good").status_code == 200

class TestOutside(TransactionTestCase):
    async def test_uses_two(self):
        assert (await AsyncClient().get("/uses_two")).status_code == 200
    def test_leaves(self):
        assert Client().get("/leaves").status_code == 200
        transaction.rollback()
        transaction.set_autocommit(True)

@pytest.mark.asyncio
async def test_communicator():
    scope = {"type": "http", "method": "GET", "path": "/swallows", "headers": [], "query_string": b""}
    communicator = ApplicationCommunicator(get_asgi_application(), scope)
    await communicator.send_input({"type": "http.request"})
    assert (await communicator.receive_output())["status"] == 200
    await communicator.receive_output()
    await communicator.wait()
'''

LIVE = f'''
import urllib.request
import pytest

def status(url):
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        return e.code

def test_live(ringcorn_server):
    print("PID", ringcorn_server.pid)
    assert status(ringcorn_server + "/good") == 200

def test_live_blocks(ringcorn_server):
    assert status(ringcorn_server + "/sleeps") == 200

def test_live_raises(ringcorn_server):
    assert status(ringcorn_server + "/forgets") == 500

@pytest.mark.ringcorn_allow("unawaited")
def test_live_allowed(ringcorn_server):
    assert status(ringcorn_server + "/forgets") == 200

@pytest.mark.ringcorn_app("app:nothing")
def test_live_broken(ringcorn_server):
    pass
'''


def run(folder, text, *options):
    """{name of a test: (outcome, what is told of it)} of a suite."""
    (folder / "app.py").write_text(APP)
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text('[pytest]\nringcorn_app = app:app\nringcorn_options = --io epoll\naddopts = --strict-markers -p no:cacheprovider\n')
    env = harness.environment({"PYTHONPATH": harness.BIN.parent / "python"})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "ringcorn.pytest", *options], cwd=folder, env=env, capture_output=True, text=True, timeout=100
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR|XFAIL) test_it\.py::(\S+)(?: - (.*))?$", done.stdout, re.M)
    return {name.rpartition("::")[2]: outcome for outcome, name, _ in outcomes}, done.stdout + done.stderr


def line_of(name):
    [line] = [n for n, text in enumerate(APP.splitlines(), 1) if text.endswith(f"# guilty: {name}")]
    return line


def test_applications_that_tests_drive(tmp_path):
    outcomes, out = run(tmp_path, INSIDE)
    for driver in ("asyncio", "anyio", "client"):
        for path in FAIL:
            wanted = "XFAIL" if (driver, path) == ("anyio", "loses") else "FAILED"
            assert outcomes.pop(f"test_{driver}[{path}]") == wanted, (driver, path, out)
    assert outcomes.pop("test_some[forgets]") == "FAILED"
    assert set(outcomes.values()) == {"PASSED"}, out
    assert re.search(rf"GET /sleeps: blocks the event loop for 0\.\d s at {tmp_path}/app.py:{line_of('sleeps')} in sleeps", out)
    assert f"GET /forgets: coroutine mail was never awaited, so it never ran; it is defined at {tmp_path}/app.py:" in out
    assert f"made at {tmp_path}/app.py:{line_of('forgets')} in forgets" in out
    assert f"GET /leaves: a transaction was left open on a connection of SQLAlchemy (sqlite3), begun at {tmp_path}/app.py:{line_of('leaves')}" in out


def test_django(tmp_path):
    outcomes, out = run(tmp_path, DJANGO)
    failed = {name for name, outcome in outcomes.items() if outcome == "FAILED"}
    assert failed == {"test_swallows", "test_uses_two", "test_leaves", "test_communicator"}, out
    assert set(outcomes) - failed == {"test_good", "test_good_sync"}
    assert out.count("GET /swallows: the ORM is used on the event loop") >= 2
    assert "GET /uses_two: database 'default' is used on thread" in out
    assert "GET /leaves: a transaction was left open on database 'default' by set_autocommit(False), begun at" in out


def test_the_live_server(tmp_path):
    outcomes, out = run(tmp_path, LIVE)
    failed = {name for name, outcome in outcomes.items() if outcome == "FAILED"}
    assert failed == {"test_live_blocks", "test_live_raises"}, out
    assert outcomes["test_live_broken"] == "ERROR" and "exit code is 4" in out
    assert outcomes["test_live"] == outcomes["test_live_allowed"] == "PASSED"
    assert re.search(rf"GET /sleeps: blocks the event loop for 0\.\d s at {tmp_path}/app.py:{line_of('sleeps')} in sleeps", out)
    assert harness.stat_fields(int(re.search(r"PID (\d+)", out)[1])) is None


SMALL = '''
import asyncio, httpx, pytest, time

async def app(scope, receive, send):
    time.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

async def get():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        await client.get("/")

MARK
def test_it():
    asyncio.run(get())
'''


@pytest.mark.parametrize(
    "mark, option, outcome, told",
    [
        ("", "ringcorn_guard=true", "FAILED", "GET /: blocks the event loop for"),
        ("", "ringcorn_guard=false", "PASSED", "1 passed"),
        ("", "ringcorn_loop_block=3s", "PASSED", "1 passed"),
        ("@pytest.mark.ringcorn_allow('blocks')", "ringcorn_guard=true", "FAILED", "'blocks' is no guardrail; there are 'block', 'unawaited'"),
        ("", "ringcorn_loop_block=soon", None, "ringcorn_loop_block: 'soon' is not a time such as 100ms or 1s, nor off"),
    ],
)
def test_options(tmp_path, mark, option, outcome, told):
    outcomes, out = run(tmp_path, SMALL.replace("MARK", mark), "-o", option)
    assert outcomes.get("test_it") == outcome and told in out, out
