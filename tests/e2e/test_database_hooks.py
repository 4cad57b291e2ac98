"""What becomes of Django's database connections: on threads that end, on those that are too many, in requests that wait, in jobs of
the executor, and in transactions that nobody ends. tests/apps/db_hooks_app.py, on a real PostgreSQL."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

import harness
import wire

numbers = itertools.count(1)
NOT_CLEAN = ["begin", "autocommit", "atomic", "named"]


@pytest.fixture
def start(server, pg):
    """start(*args, NAME=value...) -> a server, with `name`, by which PostgreSQL knows its connections."""
    started = []

    def start(*args, app="db_hooks_app:application", app_dir=harness.APPS, **env):
        name = f"hooks {next(numbers)}"
        s = server(app, *args, app_dir=app_dir, env={"PG_PORT": pg.port, "PG_APP": name, "PG_MAX_AGE": "none", **env})
        s.allow_descriptors(40)  # connections that are kept
        s.name = name
        started.append(s)
        return s

    yield start
    for s in started:
        s.finish()
        wire.eventually(lambda: pg.pids(s.name) == [], 5 * harness.SLOW, "no connection is left")
        assert pg.unclean(s.name) == []


@pytest.fixture
def waiting(start):
    """waiting(server, kind) -> a request of that kind that waits; open() lets it go on and returns its answer."""
    clients = ThreadPoolExecutor(16)

    class Waiting:
        def __init__(self, s, kind):
            self.s, self.id = s, f"{kind} {next(numbers)}".replace(" ", "-")
            self.answer = clients.submit(s.get, f"/wait/?kind={kind}&id={self.id}", timeout=30)
            wire.eventually(lambda: s.get(f"/state/?of={self.id}").json()["state"] == "waits" or self.answer.done(), 10 * harness.SLOW)
            assert not self.answer.done(), self.answer.result().body

        def open(self):
            self.s.get(f"/open_gate/?of={self.id}")
            answer = self.answer.result()
            assert answer.status == 200, answer.body
            assert answer.json()["n"] == 100
            return answer.json()

    yield Waiting
    clients.shutdown()


def gone(pg, s, pids):
    wire.eventually(lambda: pids.isdisjoint(pg.pids(s.name)), 10 * harness.SLOW, f"the connections {pids} end")


# --- the executor's threads


@pytest.mark.parametrize("kind", ["plain", "raise", "atomic"])
def test_connections_of_executor_jobs_end_with_them(start, pg, kind):
    s = start()
    for _ in range(3):
        answer = s.get(f"/executor/?kind={kind}")
        assert answer.status == 200
        pids = answer.json()["pids"]
        assert len(pids) == 3 and all(isinstance(pid, int) != (kind == "raise") for pid in pids), pids
    wire.eventually(lambda: pg.pids(s.name) == [], 5 * harness.SLOW, "no connection is left")
    assert pg.opened(s.name) == 9


def test_an_error_page_that_asks_the_database_leaves_no_connection(start, pg):
    """Django makes it in the default executor, where no signal of its own ever comes by."""
    s = start("--django-one-hop", "off")
    kept = s.get("/pid/").json()["pid"]
    for _ in range(6):
        assert s.get("/nowhere/").status == 404
    wire.eventually(lambda: set(pg.pids(s.name)) <= {kept}, 5 * harness.SLOW, "only the thread's own is left")


# --- the settings


def test_conn_max_age_of_ours_keeps_connections(start, pg):
    s = start("--threads", 2, "--django-conn-max-age", "none", PG_MAX_AGE=0)
    pids = {s.get("/pid/").json()["pid"] for _ in range(20)}
    assert len(pids) <= 2 and pg.opened(s.name) == len(pids)
    # With health checks: a connection that the server has ended is replaced before it is used.
    assert set(pg.terminate_backends(s.name)) == pids
    gone(pg, s, pids)
    assert all(s.get("/pid/").status == 200 for _ in range(4))


def test_conn_max_age_in_seconds_is_the_age(start, pg):
    s = start("--threads", 1, "--django-conn-max-age", "0", PG_MAX_AGE="none")
    assert len({s.get("/pid/").json()["pid"] for _ in range(3)}) == 3


def test_a_connection_of_the_import_is_closed(start, pg):
    s = start("--threads", 1, IMPORT_QUERY=1)
    assert pg.opened(s.name) == 1
    wire.eventually(lambda: pg.pids(s.name) == [], 5 * harness.SLOW, "the loop's thread holds none")
    assert s.get("/pid/").json()["pid"] == s.get("/pid/").json()["pid"]
    assert pg.opened(s.name) == 2


# --- threads that end, or are too many


def test_threads_that_end_close_theirs(start, pg):
    # -X dev: psycopg says which connections were dropped rather than closed.
    s = start("--threads", 1, "--sync-threads-max", 4, "--sync-idle-timeout", "0.2s", "--python-options", "dev")
    waiting = [s.connect() for _ in range(4)]
    for i, c in enumerate(waiting):
        c.send(f"GET /wait/?kind=clean&id=end{i} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    wire.eventually(lambda: len(pg.pids(s.name)) == 4, 10 * harness.SLOW, "four threads, four connections")
    for i, c in enumerate(waiting):
        wire.eventually(lambda i=i: s.get(f"/state/?of=end{i}").json()["state"] == "waits", 10 * harness.SLOW)
        s.get(f"/open_gate/?of=end{i}")
        assert c.response().status == 200
        c.close()
    wire.eventually(lambda: len(pg.pids(s.name)) == 1, 10 * harness.SLOW, "one connection for one thread")
    s.finish()
    assert "ResourceWarning" not in s.log, s.report


ORM_ALONE = """
import os
from django.conf import settings
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": os.environ["PG_PORT"], "USER": "postgres", "NAME": "postgres",
    "OPTIONS": {"application_name": os.environ["PG_APP"]},
}})
import asyncio, threading
from django.db import connection
from fastapi import FastAPI
app = FastAPI()

def ask():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return {"pid": cursor.fetchone()[0], "thread": threading.get_ident()}

app.get("/pid")(ask)

@app.get("/executor")
async def executor():
    return await asyncio.to_thread(ask)
"""


def test_another_framework_that_uses_the_orm(start, pg, tmp_path):
    """Nobody sends Django's signals there, so a thread's connection stays, whatever CONN_MAX_AGE says; it ends with the thread."""
    (tmp_path / "orm_alone.py").write_text(ORM_ALONE)
    s = start("--threads", 1, "--python-options", "dev", app="orm_alone:app", app_dir=tmp_path)
    first = s.get("/pid").json()
    assert [s.get("/pid").json() for _ in range(3)] == [first] * 3
    other = s.get("/executor").json()["pid"]
    gone(pg, s, {other})
    assert pg.pids(s.name) == [first["pid"]]
    s.finish()
    assert "ResourceWarning" not in s.log, s.report


# --- transactions that nobody ends


def test_a_transaction_left_open_is_not_the_next_requests(start, pg):
    s = start("--threads", 1)
    assert s.get("/rows/?of=x").json()["rows"] == 0
    first = s.get("/enter/?id=x").json()["pid"]
    for _ in range(2):
        assert s.get("/rows/?of=x").json()["rows"] == 0
    s.wait_log(r"warning: GET /enter/: a transaction was left open on database 'default' by transaction.atomic\(\)")
    gone(pg, s, {first})
    (connection,) = pg.connections(s.name)
    assert not connection[2], "a transaction is open"


# --- sync.affinity: transaction


def test_a_clean_thread_is_given_back_while_its_request_waits(start, waiting):
    s = start("--threads", 1, "--sync-threads-max", 1, "--sync-affinity", "transaction")
    request = waiting(s, "clean")
    other = s.get("/pid/").json()
    assert [other["pid"], other["thread"]] == [v[0] for v in map(request.open().get, ("pids", "threads"))]


@pytest.mark.parametrize("kind", [*NOT_CLEAN, "lite"])
def test_a_thread_that_is_not_clean_stays_with_its_request(start, waiting, kind):
    s = start("--threads", 1, "--sync-threads-max", 4, "--sync-affinity", "transaction")
    request = waiting(s, kind)
    other = s.get("/pid/").json()
    answer = request.open()
    assert len(set(answer["threads"])) == 1 and other["thread"] not in answer["threads"]
    assert len(set(answer["pids"])) == 1 and other["pid"] not in answer["pids"]


# --- sync.park_close_db


@pytest.mark.parametrize("kind", NOT_CLEAN)
def test_the_clean_connection_of_a_waiting_request_is_closed(start, waiting, pg, kind):
    s = start("--threads", 4, "--sync-park-close-db", "100ms")
    busy, clean = waiting(s, kind), waiting(s, "clean")
    # The clean one waits for less long, so when its connection is gone the other's would be.
    wire.eventually(lambda: len(pg.pids(s.name)) == 1, 10 * harness.SLOW, "one connection is closed")
    answer = busy.open()
    assert len(set(answer["pids"])) == 1, "the other is the same to its end"
    before, after = clean.open()["pids"]
    assert before != after


def test_a_cursor_of_another_database_that_is_read_keeps_its_connections(start, waiting, pg):
    s = start("--threads", 4, "--sync-park-close-db", "100ms")
    reading, clean = waiting(s, "lite"), waiting(s, "clean")
    wire.eventually(lambda: len(pg.pids(s.name)) == 1, 10 * harness.SLOW, "one connection is closed")
    assert len(set(reading.open()["pids"])) == 1
    clean.open()


def test_connections_stay_where_park_close_db_is_off(start, waiting, pg):
    s = start("--threads", 1, "--sync-threads-max", 2)
    first, second = waiting(s, "clean"), waiting(s, "clean")
    assert len(pg.pids(s.name)) == 2
    for request in (first, second):
        before, after = request.open()["pids"]
        assert before == after
