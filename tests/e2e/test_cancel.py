"""Requests that are given up in the middle of a query: it ends in the database too, the connection stays, and nobody else's is touched.

Django on PostgreSQL (tests/apps/pg_project, by ASGI and WSGI), FastAPI with SQLAlchemy on psycopg, psycopg2, sqlite3 (tests/apps/cancel_fastapi.py).
"""

import itertools
import re
import signal
import time

import pytest

import harness
import wire
from frames import Socket
from test_django_postgres import project, shared, state, tables  # noqa: F401 (fixtures)

LONG = 30.0  # seconds of a query that nobody will see the end of
SOON = 10 * harness.SLOW
CANCELLED = r"GET {}: its query was cancelled after \d+\.\d s, as its client has gone: SELECT"
numbers = itertools.count(1)
ENTRIES = {"asgi": "project.asgi:application", "wsgi": "project.wsgi:application"}


def is_idle(pg, name):
    return pg.connections(name) and all(state == "idle" and not is_open for _, state, is_open, _ in pg.connections(name))


def begin(s, target, method="GET"):
    """A client in the middle of a query that sleeps."""
    client = s.connect()
    client.send(wire.request(method, target, body=b"" if method == "GET" else b"x"))
    wire.eventually(lambda: any("pg_sleep" in query and state == "active" for _, state, _, query in s.pg.connections(s.name)), SOON, "it sleeps")
    return client


def leave(s, client, how="close"):
    """The client goes; how long its query lives then."""
    began = time.monotonic()
    client.close() if how == "close" else client.reset()
    wire.eventually(lambda: is_idle(s.pg, s.name), SOON, "the query has ended")
    return time.monotonic() - began


def warm(s, target, n=3):
    """A URL is served without the loop from its second request on."""
    return [s.get(target).json() for _ in range(n)]


@pytest.fixture
def took(request):
    def keep(seconds):
        request.node.user_properties.append(("until_idle_ms", round(seconds * 1000)))
        print(f"until idle: {seconds * 1000:.0f} ms")

    return keep


# ------------------------------------------------------------------ the client has gone


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_query_of_a_django_view_ends_with_its_client(project, entry, is_warm, how, took):  # noqa: F811
    s = project(app=ENTRIES[entry], threads=1)
    before = warm(s, "/slow/?s=0&id=0") if is_warm else []
    took(leave(s, begin(s, f"/slow/?s={LONG}&id=1"), how))
    after = s.get("/slow/?s=0&id=2").json()
    pids = {(a["pid"], a["thread"]) for a in [*before, after]}
    assert len(pids) == 1 and s.pg.opened(s.name) == 1  # the thread and its connection are what they were
    assert state(s, "1") == "running" and state(s, "2") == "done"
    s.wait_log(CANCELLED.format("/slow/") + re.escape(" pg_backend_pid(), pg_sleep(%s)"))
    assert "Traceback" not in s.log and "Internal Server Error" not in s.log


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_transaction_is_rolled_back(project, entry):  # noqa: F811
    s = project(app=ENTRIES[entry], threads=1)
    name = f"rolled back {s.name}".replace(" ", "-")
    pid = s.get("/query/").json()["pid"]
    leave(s, begin(s, f"/write_then_wait/?s={LONG}&id={name}"))
    assert s.get("/query/").json()["pid"] == pid
    assert s.pg.execute("SELECT count(*) FROM shop_item WHERE name = %s", name) == [(0,)]


def test_a_view_of_many_short_queries_ends(project):  # noqa: F811
    s = project(threads=1)
    with s.connect() as client:
        client.send(wire.request("GET", "/many/?n=100000&id=many"))
        wire.eventually(lambda: (state(s, "many") or 0) > 5, SOON, "some of its queries")
    pid = wire.eventually(lambda: s.get("/query/").json()["pid"], SOON, "the only thread is free")
    assert state(s, "many") < 90_000 and s.pg.pids(s.name) == [pid]


def test_the_orm_of_a_coroutine(project, took):  # noqa: F811
    s = project(threads=1)
    before = s.get("/aslow/?s=0&id=0").json()
    took(leave(s, begin(s, f"/aslow/?s={LONG}&id=1")))
    assert s.get("/aslow/?s=0&id=2").json() == before
    s.wait_log(CANCELLED.format("/aslow/"))
    assert state(s, "1") in ("CancelledError", "OperationalError")  # the task has ended; its thread's error is nobody's


def test_other_methods_are_left_alone(project):  # noqa: F811
    s = project(threads=1)
    begin(s, "/slow/?s=1.5&id=post", "POST").close()
    wire.eventually(lambda: state(s, "post") == "done", SOON, "the whole of the query")
    assert "cancelled" not in s.log


def test_other_methods_by_setting(project):  # noqa: F811
    s = project("--cancel-methods", "POST,DELETE", threads=1)
    leave(s, begin(s, f"/slow/?s={LONG}&id=1", "POST"))
    begin(s, "/slow/?s=1.5&id=get").close()
    wire.eventually(lambda: state(s, "get") == "done", SOON, "the whole of the query")
    assert s.log.count("its query was cancelled") == 1


def test_off(project):  # noqa: F811
    s = project("--no-cancel-queries", threads=1)
    begin(s, "/slow/?s=1.5&id=1").close()
    wire.eventually(lambda: state(s, "1") == "done", SOON, "the whole of the query")


# ------------------------------------------------------------------ FastAPI


@pytest.fixture(params=["psycopg", "psycopg2"])
def fast(request, server, pg):
    def start(*args, threads=2, **env):
        name = f"cancel {next(numbers)}"
        s = server(
            "cancel_fastapi:app", "--threads", threads, *args,
            env={"DATABASE_URL": f"postgresql+{request.param}://{pg.user}@{pg.host}:{pg.port}/{pg.dbname}", "APPLICATION_NAME": name, **env},
        )  # fmt: skip
        s.allow_descriptors(20)
        s.name, s.pg = name, pg
        return s

    return start


def fast_state(s, of):
    return s.get(f"/state?of={of}").json()["state"]


@pytest.mark.parametrize("path", ["/slow", "/thread"])
def test_the_query_of_an_endpoint_ends_with_its_client(fast, path, took):
    s = fast(threads=1)
    before = warm(s, f"{path}?s=0", 12)  # enough for its thread to go from one request to the next
    took(leave(s, begin(s, f"{path}?s={LONG}&id=1")))
    wire.eventually(lambda: fast_state(s, "1") == "OperationalError", SOON, "the endpoint's error")
    after = s.get(f"{path}?s=0&id=2").json()
    assert {a["pid"] for a in before} == {after["pid"]} and s.pg.opened(s.name) == 1
    s.wait_log(CANCELLED.format(path))
    assert "Traceback" not in s.log


@pytest.mark.parametrize("fast", ["psycopg"], indirect=True)
def test_executemany_and_pipelines(fast):
    s = fast(threads=1)
    pid = s.get("/many?s=0&id=0").json()["pid"]
    leave(s, begin(s, f"/many?s={LONG}&id=1"))
    wire.eventually(lambda: fast_state(s, "1") == "QueryCanceled", SOON, "the endpoint's error")
    begin(s, "/many?s=1.5&id=2&pipeline=1").close()
    wire.eventually(lambda: fast_state(s, "2") == "done", SOON, "the whole of the pipeline")
    assert s.get("/many?s=0&id=3").json() == {"pid": pid}
    s.wait_log(r"GET /many: its query was cancelled after \d+\.\d s")
    assert s.log.count("its query was cancelled") == 1


def test_sqlite(fast, took):
    s = fast()
    client = s.connect()
    client.send(wire.request("GET", "/sqlite?n=2000000000&id=1"))
    wire.eventually(lambda: fast_state(s, "1") == "running", SOON, "it counts")
    began = time.monotonic()
    client.close()
    wire.eventually(lambda: fast_state(s, "1") == "OperationalError", SOON, "interrupted")
    took(time.monotonic() - began)
    assert s.get("/sqlite?n=10&id=2").json() == {"found": 10}


def test_a_driver_that_cannot_be_cancelled_is_named_once(fast):
    s = fast(FOREIGN="1")
    for _ in range(3):
        assert s.get("/strange").json() == {"found": 10}
    s.wait_log(r"queries by strangedb cannot be cancelled, they go on when their client has gone: only those by psycopg, psycopg2, sqlite3 can")
    assert s.log.count("queries by strangedb") == 1


# ------------------------------------------------------------------ timeouts


OVERDUE = r"{}: no whole answer after \d\.\d s \({}\), the answer is 504 .*; its query runs for \d\.\d s: SELECT"


@pytest.mark.parametrize("entry", ENTRIES)
def test_timeouts_request(project, entry):  # noqa: F811
    s = project("--timeouts-request", "700ms", app=ENTRIES[entry], threads=1)
    pid = s.get("/query/").json()["pid"]
    for target in ("/slow/", "/slow/", "/aslow/"):
        assert s.get(f"{target}?s={LONG}&id=1").status == 504
        wire.eventually(lambda: is_idle(s.pg, s.name), SOON, "the query has ended")
    s.wait_log(OVERDUE.format("GET /slow/", "timeouts.request"))
    s.wait_log(r"GET /slow/: its query was cancelled after \d\.\d s, as it takes longer than")
    assert s.get("/query/").json()["pid"] == pid


@pytest.mark.parametrize("entry", ENTRIES)
def test_timeouts_by_route(project, tmp_path, entry):  # noqa: F811
    conf = tmp_path / "ringcorn.yaml"
    conf.write_text("timeouts:\n  request: 30s\n  routes:\n    /slow/: 500ms\n    '*/a?low/': 600ms\n    /query/: off\n")
    s = project("-c", conf, app=ENTRIES[entry], threads=1)
    assert s.get(f"/slow/?s={LONG}&id=1", timeout=20).status == 504
    s.wait_log(OVERDUE.format("GET /slow/", "timeouts.routes"))
    assert s.get(f"/aslow/?s={LONG}&id=1", timeout=20).status == 504
    assert s.get("/slow/?s=0&id=1").status == 200
    wire.eventually(lambda: is_idle(s.pg, s.name), SOON, "no query goes on")


@pytest.mark.parametrize(
    "entry, target", [("asgi", "/limited/"), ("asgi", "/alimited/"), ("asgi", "/limited_class/"), ("wsgi", "/limited/"), ("wsgi", "/limited_class/")]
)
def test_timeouts_by_decorator(project, entry, target):  # noqa: F811
    s = project(app=ENTRIES[entry], threads=1, PG_URLS="project.limited_urls")
    for _ in range(3):
        assert s.get(f"{target}?s=0&id=0").status == 200
        assert s.get(f"{target}?s={LONG}&id=1", timeout=20).status == 504
        wire.eventually(lambda: is_idle(s.pg, s.name), SOON, "the query has ended")
    s.wait_log(OVERDUE.format(f"GET {target}", r"ringcorn\.timeout\(\)"))
    assert s.get("/slow/?s=0.8&id=2").status == 200  # whoever comes next has no limit
    assert s.pg.opened(s.name) == 1


@pytest.mark.parametrize("path", ["/limited", "/alimited"])
def test_timeouts_by_decorator_of_an_endpoint(fast, path):
    s = fast()
    for _ in range(3):
        assert s.get(f"{path}?s={LONG}&id=1", timeout=20).status == 504
        wire.eventually(lambda: is_idle(s.pg, s.name), SOON, "the query has ended")
    s.wait_log(OVERDUE.format(f"GET {path}", r"ringcorn\.timeout\(\)"))
    assert s.get(f"{path}?s=0").status == 200


def test_a_decorator_outweighs_the_configuration(fast):
    s = fast("--timeouts-request", "500ms")
    assert s.get("/unlimited?s=1.2", timeout=20).status == 200
    assert s.get("/slow?s=5", timeout=20).status == 504


# ------------------------------------------------------------------ the worker leaves


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("target", ["/slow/", "/aslow/"])
def test_the_end_of_the_drain(project, entry, target):  # noqa: F811
    s = project("--timeouts-graceful", "1s", app=ENTRIES[entry], threads=1)
    warm(s, "/slow/?s=0&id=0")
    client = begin(s, f"{target}?s={LONG}&id=1")
    s.send_signal(signal.SIGTERM)
    assert client.response().status == 503
    client.close()
    s.wait_log(rf"GET {target}: its query was cancelled after \d\.\d s, as the worker leaves: SELECT")
    assert s.wait_exit(SOON) == 0
    assert "left behind" not in s.log


def test_the_calls_of_a_websocket_end_with_the_drain(fast):
    s = fast("--timeouts-graceful", "1s", "--websocket-drain", "off", threads=1)
    client = Socket(s.connect(), "/ws")
    assert b"pid" in client.text("0").read()[1]
    client.text(str(LONG))
    wire.eventually(lambda: not is_idle(s.pg, s.name), SOON, "it sleeps")
    s.send_signal(signal.SIGTERM)
    s.wait_log(r": its query was cancelled after \d+\.\d s, as the worker leaves: SELECT")
    assert s.wait_exit(SOON) == 0
    client.wire.close()
    assert "left behind" not in s.log and "Traceback" not in s.log


# ------------------------------------------------------------------ the keys


@pytest.mark.parametrize(
    "entry, said",
    [
        ("/report/", "has no time; write PATH=TIME"),
        ("report=5s", "begins with a slash"),
        ("/report/=soon", "has no right time"),
        ("/report/=25h", "has no right time"),
    ],
)
def test_wrong_times_by_route(entry, said):
    done = harness.run("--timeouts-routes", entry, "--check-config", "raw:app")
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_times_by_route_are_printed_as_they_can_be_read(tmp_path):
    conf = tmp_path / "ringcorn.yaml"
    conf.write_text("app: raw:app\ntimeouts:\n  routes:\n    /a=b/: 500ms\n    '*.csv': off\ncancel:\n  methods: none\n")
    first = harness.run("-c", conf, "--print-config")
    assert first.returncode == 0 and 'routes: ["/a=b/=500ms", "*.csv=off"]' in first.stdout and "  methods: []" in first.stdout, first
    conf.write_text(first.stdout)
    assert harness.run("-c", conf, "--print-config").stdout == first.stdout
