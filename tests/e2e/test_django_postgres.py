"""Django's synchronous code on leased threads, seen from PostgreSQL: who connects, how often, and how it ends.

The project is tests/apps/pg_project. Each server has an application_name of its own, by which pg_stat_activity and PostgreSQL's log
tell its connections; whatever a test does, at its end every connection of its server must have been ended by the message
Terminate. RINGCORN_TEST_FULL=1 runs the loads at full length (10,000 and 5,000 requests); `make test-all` does so.
"""

import collections
import itertools
import os
import resource
import signal
import subprocess
import sys
import time

import django
import pytest

import harness
import wire
from crowd import crowd

PROJECT = harness.APPS / "pg_project"
FULL = os.environ.get("RINGCORN_TEST_FULL") == "1"
THREADS = 8
PATIENCE = 60 * harness.SLOW * (5 if FULL else 1)
numbers = itertools.count(1)

pytestmark = [pytest.mark.timeout(600)] if FULL else []


def requests(full, short=500):
    return full if FULL else short


def environment(pg, name, **settings):
    return {"DJANGO_SETTINGS_MODULE": "project.settings", "PG_PORT": pg.port, "PG_APP": name, **settings}


@pytest.fixture(scope="session")
def tables(pg):
    subprocess.run(
        [sys.executable, "tables.py"], cwd=PROJECT, env={**os.environ, **{k: str(v) for k, v in environment(pg, "tables").items()}}, check=True
    )
    return pg


def ended_well(pg, name):
    """Every connection of the application is over, and its client has said so; those of the second alias too."""
    if not name.endswith(" second"):
        ended_well(pg, name + " second")
    wire.eventually(lambda: not pg.pids(name), 5 * harness.SLOW, f"the connections of {name} end: {pg.connections(name)}")

    def balanced():
        states = collections.Counter(what for what, _ in pg.history(name))
        return states["opened"] == states["closed"]

    wire.eventually(balanced, 5 * harness.SLOW, "PostgreSQL logs the end of every connection")
    assert pg.unclean(name) == []


@pytest.fixture(scope="module")
def shared(tables):
    """Servers that several tests use, by their options."""
    servers = {}
    yield servers
    problems = []
    for one in servers.values():
        try:
            one.finish()
            ended_well(tables, one.name)
        except AssertionError as e:
            problems.append(str(e))
        finally:
            one.kill()
    assert not problems, "\n".join(problems)


@pytest.fixture
def project(usable_io, tables, shared, tmp_path):
    """project(*args, NAME=value...) -> a server of the project: options of the program, and the project's environment.

    With share=True other tests use it too. At a server's end each of its connections must have been ended by its client; after each
    test, as with the fixture `server`, nothing may be left of its requests."""
    pg, own, used = tables, [], []

    def start(*args, app="project.asgi:application", threads=THREADS, share=False, **settings):
        key = (usable_io, app, args, threads, tuple(sorted(settings.items())))
        if share and key in shared:
            used.append(key)
            return shared[key]
        name = f"django {next(numbers)}"
        one = harness.Server(
            app, "--threads", threads, *args, io=usable_io, app_dir=PROJECT, cwd=tmp_path,
            env=environment(pg, name, **{"PG_MAX_AGE": 600, **settings}),
        )  # fmt: skip
        one.allow_descriptors(200)  # each thread keeps its connection
        one.name, one.pg = name, pg
        if share:
            shared[key] = one
            used.append(key)
        else:
            own.append(one)
        return one

    yield start
    problems = []
    for key in used:
        try:
            shared[key].check_returned()
            shared[key].check_log()
        except AssertionError as e:
            problems.append(str(e))
            shared.pop(key).kill()
    for one in own:
        try:
            one.finish()
            ended_well(pg, one.name)
        except AssertionError as e:
            problems.append(str(e))
        finally:
            one.kill()
    assert not problems, "\n".join(problems)


@pytest.fixture
def figure(request):
    """figure(name, value): for the report."""

    def keep(name, value):
        request.node.user_properties.append((name, value))
        print(f"{name}: {value}")

    return keep


def sync_threads(s):
    return [name for name in s.get("/threads/").json()["names"] if name.startswith("ringcorn-sync")]


def state(s, name):
    return s.get(f"/state/?of={name}").json()["state"]


def all_good(answers):
    bad = [a for a in answers if a.status != 200]
    assert not bad, f"{len(bad)} of {len(answers)}: {bad[:3]}"


def settles_at(s, most):
    """Within a second there are no more connections than that."""
    wire.eventually(
        lambda: len(s.pg.pids(s.name)) <= most, 1 * harness.SLOW, f"at most {most} connections again, there are {len(s.pg.pids(s.name))}"
    )


# ------------------------------------------------------------------ the tool itself


def test_a_lost_client_is_seen(tables):
    """What the other tests rely on: PostgreSQL's log tells a connection that ended well from one that was lost."""
    import psycopg

    pg, name = tables, f"tool {next(numbers)}"
    with psycopg.connect(**pg.parts, application_name=name):
        assert pg.opened(name) == 1 and len(pg.pids(name)) == 1
    ended_well(pg, name)
    lost = psycopg.connect(**pg.parts, application_name=name, autocommit=True)
    os.close(lost.fileno())
    wire.eventually(lambda: pg.unclean(name), 5, "the lost connection in PostgreSQL's log")
    assert pg.opened(name) == 2 and pg.peak(name) == 1


# ------------------------------------------------------------------ as many connections as threads


@pytest.mark.parametrize("app", ["project.asgi:application", "project.wsgi:application"])
def test_load_opens_as_many_connections_as_threads(project, app, figure):
    s = project(app=app, MIDDLEWARE_SET="seven")
    with s.pg.watching(s.name) as watch:
        answers = crowd(s.address, ["/query/"] * requests(10_000, 1_000), 128, PATIENCE)
    all_good(answers)
    threads = {a.json()["thread"] for a in answers}
    assert len(threads) <= THREADS
    assert {a.json()["price"] for a in answers} == {7}
    # A thread never changes its connection.
    assert len({(a.json()["thread"], a.json()["pid"]) for a in answers}) == len(threads)
    assert 1 <= watch.peak <= THREADS and watch.samples > 3
    assert s.pg.opened(s.name) == len(threads)
    figure("connections", s.pg.opened(s.name))


def test_async_views_without_queries_add_no_connections(project, figure):
    s = project(MIDDLEWARE_SET="seven", share=True)
    targets = itertools.islice(itertools.cycle(["/query/", "/aplain/?s=0.01", "/aplain/"]), requests(10_000))
    before = s.pg.opened(s.name)
    with s.pg.watching(s.name) as watch:
        answers = crowd(s.address, targets, 128, PATIENCE)
    all_good(answers)
    assert watch.peak <= THREADS and s.pg.opened(s.name) - before <= THREADS
    assert len(sync_threads(s)) <= 64
    figure("threads", len(sync_threads(s)))


def test_async_views_with_queries_stay_below_threads_max(project, figure):
    """A request that awaits something keeps its thread and connection, up to threads_max; then the number is back."""
    s = project("--sync-threads-max", 24, MIDDLEWARE_SET="seven")
    targets = itertools.islice(itertools.cycle(["/query/", "/aplain/?s=0.01", "/aquery/?s=0.05&n=3"]), requests(10_000))
    with s.pg.watching(s.name) as watch:
        answers = crowd(s.address, targets, 128, PATIENCE)
        settles_at(s, THREADS)
    all_good(answers)
    assert watch.peak <= 24 and s.pg.peak(s.name) <= 24
    for answer in answers:
        if answer.target.startswith("/aquery/"):
            assert len(set(answer.json()["pids"])) == 1, answer
    assert len(sync_threads(s)) <= 24
    figure("peak_connections", s.pg.peak(s.name))


def test_a_limit_of_connections_is_kept(project, tables, figure):
    """A role that may have ten connections, which the same load on a server with a thread for each request exceeds at once."""
    role = tables.create_role(f"limited{next(numbers)}", 10)
    s = project(MIDDLEWARE_SET="seven", PG_USER=role, PG_MAX_AGE="none")
    all_good(crowd(s.address, ["/query5/"] * requests(5_000), 128, PATIENCE))
    assert s.pg.opened(s.name) <= THREADS and s.pg.fatal(s.name) == []
    figure("connections", s.pg.opened(s.name))


def test_projects_with_conn_max_age_0_can_keep_connections(project):
    s = project("--django-conn-max-age", 600, threads=4, PG_MAX_AGE=0)
    all_good(crowd(s.address, ["/query/"] * 200, 16, PATIENCE))
    assert s.pg.opened(s.name) <= 4


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django knows psycopg's pool from 5.1 on")
def test_the_pool_of_psycopg(project):
    """Its connections are its own affair, and conn_max_age is not for them: Django refuses the two together. A thread that waits for one
    gives way to requests that have one, and wait for a thread."""
    s = project("--django-conn-max-age", 600, PG_MAX_AGE=0, PG_POOL=1)
    all_good(crowd(s.address, ["/query/", "/aquery/"] * 100, 32, PATIENCE))
    assert s.pg.peak(s.name) <= 8  # max_size of the pool


def test_two_databases(project):
    """Each alias has a connection of each thread."""
    s = project(threads=4, PG_SECOND=1, MIDDLEWARE_EXTRA="Local", share=True)
    all_good(crowd(s.address, ["/second/"] * 200, 16, PATIENCE))
    assert len(s.pg.pids(s.name)) <= 4 and 1 <= s.pg.opened(s.name + " second") <= 4


def test_a_connection_is_replaced_at_its_age(project):
    s = project(threads=1, PG_MAX_AGE=2)
    first = s.get("/query/").json()["pid"]
    assert s.get("/query/").json()["pid"] == first
    wire.eventually(lambda: s.get("/query/").json()["pid"] != first, 10 * harness.SLOW, "a younger connection")
    assert s.pg.opened(s.name) == 2
    settles_at(s, 1)


# ------------------------------------------------------------------ transactions


def one_transaction(answer):
    """Its process id and transaction id, which must be the same for every statement."""
    seen = {tuple(pair) for pair in answer.json()["seen"]}
    assert len(seen) == 1, answer
    return seen.pop()


@pytest.mark.parametrize("view", ["atomic", "aatomic"])
def test_a_transaction_stays_on_its_connection(project, view):
    s = project(MIDDLEWARE_SET="seven", share=True)
    n, before = requests(2_000), s.pg.opened(s.name)
    answers = crowd(s.address, [f"/{view}/?id={s.name[7:]}-{view}-{i}&" + ("fail" if i % 5 == 0 else "") for i in range(n)], 64, PATIENCE)
    failed = [a for a in answers if "fail" in a.target]
    good = [a for a in answers if "fail" not in a.target]
    assert len(failed) == n // 5 and all(a.status == 500 for a in failed)
    s.expect_errors("")  # Django's 500s
    all_good(good)
    assert len({one_transaction(a)[1] for a in good}) == len(good), "a transaction each"
    assert s.get(f"/count/?of={s.name[7:]}-{view}-").json()["count"] == len(good), "what failed has left no row"
    if view == "atomic":
        assert s.pg.opened(s.name) - before <= THREADS
    settles_at(s, THREADS)


def test_atomic_requests(project):
    s = project("--cancel-methods", "none", PG_ATOMIC=1, MIDDLEWARE_SET="seven")
    prefix = s.name[7:]
    answers = crowd(s.address, [f"/write/?id={prefix}-{i}" for i in range(60)], 60, PATIENCE)
    all_good(answers)
    assert len({one_transaction(a)[1] for a in answers}) == 60
    assert s.get(f"/write/?id={prefix}-fail&fail").status == 500
    s.expect_errors("after the write")
    assert s.get(f"/count/?of={prefix}-").json()["count"] == 60
    # Clients that leave in the middle: their views end, and their transactions with them.
    gone = [s.connect() for _ in range(6)]
    for i, c in enumerate(gone):
        c.send(wire.request("GET", f"/write/?id=gone{prefix}-{i}&s=0.3"))
    for i in range(6):
        wire.eventually(lambda i=i: state(s, f"gone{prefix}-{i}") == "running", 10 * harness.SLOW, "the view runs")
    for c in gone:
        c.reset()
    wire.eventually(lambda: s.get(f"/count/?of=gone{prefix}-").json()["count"] == 6, 10 * harness.SLOW, "the views end")
    wire.eventually(lambda: not any(row[2] for row in s.pg.connections(s.name)), 5 * harness.SLOW, "no transaction is left open")


# ------------------------------------------------------------------ one thread, one connection, over every hop of a request

SYNC_HOPS = {"request_started", "old.process_request", "old.process_view", "old.process_response", "mixin.process_request", "mixin.process_response", "request_finished"}  # fmt: skip
HOPS = {
    "hop": {"view", "nested 3", "nested async 3", "nested 2", "nested 0", "view's end"},
    "ahop": {"async view", "sync_to_async", "in a task", "gathered", "nested 3", "nested async 1", "nested 0"},
    "hop_raise": {"view", "old.process_exception"},
    "ahop_raise": {"sync_to_async", "old.process_exception"},
    "hop_template": {"view", "old.process_template_response", "template"},
    "hop_stream": {"view", "piece 0", "piece 4", "pieces' end"},
    "ahop_stream": {"piece 0", "piece 4"},
}


def check_hops(s, view, name, more):
    expected = SYNC_HOPS | HOPS[view] | more
    found = wire.eventually(
        lambda: (hops := s.get(f"/hops_of/?of={name}").json()["hops"]) and {h["where"] for h in hops} >= expected and hops,
        5 * harness.SLOW, f"every hop of {name}: {s.get(f'/hops_of/?of={name}').json()}",
    )  # fmt: skip
    on_threads = [h for h in found if h["backend"] is not None]
    assert len({h["thread"] for h in on_threads}) == 1, found
    assert len({h["backend"] for h in on_threads}) == 1, found
    on_loop = {h["thread"] for h in found if h["backend"] is None}
    assert len(on_loop) <= 1 and not on_loop & {h["thread"] for h in on_threads}, found
    wheres = [h["where"] for h in found]
    assert wheres[0] == "request_started" and wheres[-1] == "request_finished", wheres
    assert all(wheres.count(where) == 1 for where in ("request_started", "request_finished", "old.process_request", "mixin.process_response"))
    return on_loop


@pytest.mark.parametrize(
    "options, extra, more",
    [
        ((), "HopOld,HopMixin", set()),
        (("--django-one-hop", "off"), "HopOld,HopMixin", set()),
        ((), "HopOld,hop_sync,HopMixin", {"sync.in", "sync.out"}),
    ],
    ids=["one hop", "one hop off", "behind sync-only middleware"],
)
def test_every_hop_is_on_one_thread_and_connection(project, options, extra, more):
    s = project(*options, "--django-start-hop", "move", MIDDLEWARE_SET="seven", MIDDLEWARE_EXTRA=extra)
    names = [(view, f"{s.name[7:]}-{view}-{i}") for i in range(8) for view in HOPS]
    answers = crowd(s.address, [f"/{view}/?id={name}" for view, name in names], 24, PATIENCE)
    for answer in answers:
        assert answer.status == (418 if "raise" in answer.target else 200), answer
    s.expect_errors("")  # Django logs the 418s
    loops = set()
    for view, name in names:
        loops |= check_hops(s, view, name, more)
    assert len(loops) == 1, "all coroutines run on the worker's loop, async_to_sync's too"
    settles_at(s, THREADS)


# ------------------------------------------------------------------ waiting


@pytest.mark.parametrize("extra", ["", "plain_sync"], ids=["plain", "behind sync-only middleware"])
def test_waiting_views_do_not_keep_others_from_threads(project, extra):
    """Two threads; six views have one and wait for what a seventh does."""
    s = project(threads=2, MIDDLEWARE_SET="seven", MIDDLEWARE_EXTRA=extra, share=True)
    waiting = [s.connect(30) for _ in range(6)]
    for c in waiting:
        c.send(wire.request("GET", "/gate/?of=all"))
    wire.eventually(lambda: state(s, "all") == 6, 10 * harness.SLOW, "six views wait")
    assert s.get("/open_gate/?of=all").status == 200
    for c in waiting:
        r = c.response()
        assert r.status == 200 and len(set(r.json()["pids"])) == 1
        c.close()
    settles_at(s, 2)


def test_thread_locals_stay_with_requests_that_wait(project, figure):
    """Four threads, sixty views that wait for two seconds between two queries: side by side, each finds its own thread-local."""
    s = project(threads=4, PG_SECOND=1, MIDDLEWARE_EXTRA="Local", share=True)
    began = time.monotonic()
    answers = crowd(s.address, [f"/aquery/?id=name{i}&s=2&n=2" for i in range(60)], 60, PATIENCE)
    took = time.monotonic() - began
    all_good(answers)
    assert took < 10 * harness.SLOW, "four at a time would take thirty seconds"
    for answer in answers:
        assert answer.header("x-local") == answer.target.split("=")[1].split("&")[0]
        assert len(set(answer.json()["pids"])) == 1
    settles_at(s, 4)
    assert s.pg.peak(s.name) <= 64
    figure("seconds", round(took, 1))
    figure("peak_connections", s.pg.peak(s.name))


def test_cursors_survive_the_waits_between_their_pieces(project):
    """aiterator() reads from a server-side cursor, which lives as long as its connection is the request's own."""
    s = project("--sync-park-close-db", "50ms", threads=2)
    answers = crowd(s.address, ["/cursor/?s=0.1", "/query/", "/query/"] * 12, 24, PATIENCE)
    all_good(answers)
    read = [a.json()["names"] for a in answers if a.target.startswith("/cursor/")]
    assert len(read) == 12 and all(names == [f"item {i}" for i in range(200)] for names in read)
    settles_at(s, 2)


def test_a_task_that_outlives_its_request_uses_the_orm(project):
    s = project(threads=2, MIDDLEWARE_SET="seven", MIDDLEWARE_EXTRA="", share=True)
    assert s.get("/outlive/?id=late").status == 200
    all_good(crowd(s.address, ["/query/"] * 50, 8, PATIENCE))  # its thread is another's by now
    assert s.get("/go/?of=late").status == 200
    result = wire.eventually(lambda: state(s, "late"), 10 * harness.SLOW, "the task's end")
    assert result.get("price") == 7, result
    all_good(crowd(s.address, ["/slow/"] * 8, 8, PATIENCE))
    settles_at(s, 2)


def test_reads_side_by_side_leave_no_connection(project):
    """sync_to_async(thread_sensitive=False) runs on the second set of threads; its connections end with the calls."""
    s = project(threads=2, MIDDLEWARE_SET="seven", MIDDLEWARE_EXTRA="", share=True)
    one_by_one = s.get("/reads/?n=20&s=0.05", timeout=30).json()
    together = s.get("/reads/?n=20&s=0.05&gather", timeout=30).json()
    assert one_by_one["seconds"] >= 20 * 0.05
    assert together["seconds"] < one_by_one["seconds"] / 2, (together["seconds"], one_by_one["seconds"])
    assert s.get("/query/").status == 200
    settles_at(s, 2)


# ------------------------------------------------------------------ clients that leave, threads that are busy


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django looks for a client's leaving from 5.0 on")
def test_a_client_that_leaves_while_queued_costs_nothing(project):
    s = project(threads=1, MIDDLEWARE_SET="seven", share=True)
    prefix = f"{s.name[7:]}-queued"
    with s.connect(30) as busy, s.connect() as other:
        busy.send(wire.request("GET", "/slow/?id=busy&s=1"))
        wire.eventually(lambda: state(s, "busy") == "running", 10 * harness.SLOW, "the thread is busy")
        gone = s.connect()
        gone.send(wire.request("GET", f"/write/?id={prefix}-gone"))
        other.send(wire.request("GET", f"/write/?id={prefix}-stays"))
        assert state(s, "busy") == "running"  # answered by the loop, which has read both by then
        gone.close()
        assert busy.response().status == 200 and other.response().status == 200
    assert state(s, f"{prefix}-gone") is None
    assert s.get(f"/count/?of={prefix}-").json()["count"] == 1
    assert s.pg.opened(s.name) == 1


def test_a_client_that_leaves_while_its_view_runs(project):
    """The view ends by itself, and then its thread is another's. (Its queries are let be: test_cancel.py has how they are not.)"""
    s = project("--cancel-methods", "none", threads=1, MIDDLEWARE_SET="seven")
    prefix = f"{s.name[7:]}-runs"
    before = s.get("/query/").json()
    gone = s.connect()
    gone.send(wire.request("GET", f"/write/?id={prefix}-gone&s=0.5"))
    wire.eventually(lambda: state(s, f"{prefix}-gone") == "running", 10 * harness.SLOW, "the view runs")
    gone.reset()
    assert s.get(f"/count/?of={prefix}-").json()["count"] == 1, "the next request waited for the view's end"
    after = s.get("/query/").json()
    assert (after["thread"], after["pid"]) == (before["thread"], before["pid"])
    assert s.pg.opened(s.name) == 1


def test_no_thread_in_time_is_503_and_the_holder_is_named(project):
    s = project("--sync-queue-timeout", "300ms", threads=1, MIDDLEWARE_SET="seven")
    with s.connect(30) as busy:
        busy.send(wire.request("GET", "/slow/?id=holder&s=1"))
        wire.eventually(lambda: state(s, "holder") == "running", 10 * harness.SLOW, "the thread is busy")
        since = len(s.err.lines)
        r = s.get("/query/")
        assert r.status == 503 and int(r.get("retry-after")) >= 1
        s.wait_log(r"GET /slow/", since=since)
        assert busy.response().status == 200
    assert s.get("/query/").status == 200
    s.expect_errors("")


@pytest.mark.skipif(harness.SANITIZED, reason="a sanitizer needs address space of its own")
def test_no_more_threads_can_be_started(project):
    """Where the system refuses a thread, those that there are do the work."""
    s = project(MIDDLEWARE_SET="seven")
    assert s.get("/query/").status == 200
    (worker,) = s.workers()
    size = int(open(f"/proc/{worker}/statm").read().split()[0]) * resource.getpagesize()
    hard = resource.prlimit(worker, resource.RLIMIT_AS)[1]
    resource.prlimit(worker, resource.RLIMIT_AS, (size + (6 << 20), hard))  # no room for a stack of 8 MiB
    try:
        answers = crowd(s.address, ["/query/"] * 300, 32, PATIENCE)
    finally:
        resource.prlimit(worker, resource.RLIMIT_AS, (hard, hard))
    all_good(answers)
    assert len({a.json()["thread"] for a in answers}) < THREADS, "the limit has bitten"
    all_good(crowd(s.address, ["/slow/"] * 64, 32, PATIENCE))


# ------------------------------------------------------------------ connections that are killed, servers that end


@pytest.mark.parametrize("health", [0, 1], ids=["without health checks", "with health checks"])
def test_killed_connections_fail_no_more_than_what_is_in_flight(project, health, figure):
    s = project(MIDDLEWARE_SET="seven", PG_HEALTH=health)
    n, kills = requests(10_000, 1_000), []

    def kill():
        at = time.monotonic()
        pids = s.pg.terminate_backends(s.name)
        kills.append((at, time.monotonic(), pids))

    answers = crowd(s.address, ["/query/"] * n, 64, PATIENCE, after={n // 4: kill, n // 2: kill, 3 * n // 4: kill})
    s.expect_errors("")  # Django's 500s
    assert len(kills) == 3 and all(pids for _, _, pids in kills)
    killed = sum(len(pids) for _, _, pids in kills)
    failed = [a for a in answers if a.status != 200]
    assert all(a.status == 500 for a in failed), failed[:3]
    assert len(failed) <= killed
    # Without health checks Django finds out by the next query of a thread, and a thread may have had none for a moment.
    for answer in failed if health else ():
        assert any(answer.begun < at and answer.ended > till for at, till, _ in kills), f"{answer} was not in flight: {kills}"
    assert s.pg.opened(s.name) <= THREADS + killed
    figure("failed", len(failed))
    # At rest: with health checks nobody notices.
    killed_at_rest = len(s.pg.terminate_backends(s.name))
    assert killed_at_rest
    answers = crowd(s.address, ["/query/"] * 64, 8, PATIENCE)
    if health:
        all_good(answers)
    else:
        assert sum(a.status != 200 for a in answers) <= killed_at_rest


def test_reload_ends_connections_well(project):
    s = project(MIDDLEWARE_SET="seven")
    n = requests(5_000)
    before = s.workers()
    answers = crowd(s.address, ["/query/", "/aquery/"] * (n // 2), 32, PATIENCE, after={n // 2: lambda: s.send_signal(signal.SIGHUP)})
    all_good(answers)
    wire.eventually(lambda: len(s.workers()) == 1 and s.workers() != before, 30 * harness.SLOW, "the new worker alone")
    s.baseline()
    all_good(crowd(s.address, ["/query/"] * 50, 16, PATIENCE))
    settles_at(s, THREADS)
    assert s.pg.unclean(s.name) == []


def test_idle_threads_end_with_their_connections(project):
    """A burst takes ten threads; what is beyond two loses its connection at once, and ends after idle_timeout."""
    s = project("--sync-threads-max", 10, "--sync-idle-timeout", "1s", threads=2)
    waiting = [s.connect(30) for _ in range(9)]
    for c in waiting:
        c.send(wire.request("GET", "/gate/?of=all"))
    wire.eventually(lambda: state(s, "all") == 9, 10 * harness.SLOW, "nine views wait")
    assert len(s.pg.pids(s.name)) == 9 and len(sync_threads(s)) >= 9
    assert s.get("/open_gate/?of=all").status == 200
    for c in waiting:
        assert c.response().status == 200
        c.close()
    settles_at(s, 2)
    wire.eventually(lambda: len(sync_threads(s)) <= 2, 10 * harness.SLOW, "the threads end")
    assert s.pg.unclean(s.name) == []
    all_good(crowd(s.address, ["/query/"] * 20, 4, PATIENCE))
