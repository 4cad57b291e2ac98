"""Leased threads: synchronous code of a request stays on one thread, of which there are few, and nothing waits for ever."""

import asyncio
import signal
import threading
import time

import pytest

import nesting
import wire

ONE = ("--sync-threads", "1", "--sync-threads-max", "1")
FOUR = ("--sync-threads", "4")


def begin(server, target):
    """Sends a request; the answer is read later."""
    c = server.connect()
    c.send(wire.request("GET", target))
    return c


def state(server):
    return server.get("/state").json()


def wait_state(server, condition, what):
    return wire.eventually(lambda: (s := state(server)) and condition(s) and s, 10, what)


def wait_started(server, name):
    wait_state(server, lambda s: name in s["started"], f"{name} has begun")


def wait_queued(server, n):
    wait_state(server, lambda s: s["pool"]["queued"] == n, f"{n} wait")


def open_gate(server, gate):
    assert server.get(f"/open-gate?gate={gate}").status == 200


def assert_rests(server):
    """No lease is left, no thread belongs to anybody."""
    wait_state(server, lambda s: s["pool"]["leased"] == s["pool"]["parked"] == s["pool"]["queued"] == 0, "every thread is back")


# --- which thread


def test_kinds_of_calls_and_their_threads(server):
    s = server("leases:app", *FOUR, shared=True)
    names = s.get("/threads").json()
    assert names["sensitive"].startswith("ringcorn-sync") and names["again"] == names["sensitive"]
    for kind in ("insensitive", "to_thread", "executor"):
        assert names[kind].startswith("ringcorn-executor"), kind


@pytest.mark.parametrize("options", [ONE, FOUR], ids=["one thread", "four threads"])
def test_a_request_stays_on_one_thread(server, options):
    """As many threads as sync.threads serve any number of requests with any number of hops."""
    s = server("leases:app", *options, shared=True)
    answers = []

    def client():
        with s.connect() as c:
            for _ in range(25):
                answers.append(c.get("/chain?hops=16").json())

    clients = [threading.Thread(target=client) for _ in range(12)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert len(answers) == 300
    assert {a["threads"] for a in answers} == {1}
    assert all(a["steps"] == list(range(16)) for a in answers)
    assert len({a["ident"] for a in answers}) <= int(options[1])
    assert state(s)["pool"]["peak"] <= int(options[1])
    assert_rests(s)


@pytest.mark.parametrize("options", [ONE, FOUR], ids=["one thread", "four threads"])
@pytest.mark.parametrize("case", nesting.CASES)
def test_nesting_is_as_stock(server, case, options):
    """Alone and eight at once: no deadlock, and the same parts share a thread and a loop as with a thread for each request."""
    expected = nesting.pattern(asyncio.run(asyncio.wait_for(nesting.stock(case), 10)))
    s = server("leases:app", *options, shared=True)
    assert nesting.pattern(s.get(f"/case/{case}").json()) == expected
    connections = [begin(s, f"/case/{case}") for _ in range(8)]
    for c in connections:
        assert nesting.pattern(c.response().json()) == expected
        c.close()
    assert_rests(s)


def test_async_to_sync_runs_on_the_workers_loop(server):
    """On a new thread, and on one that a loop of the application's own has called."""
    s = server("leases:app", *ONE)
    assert s.get("/without-asgiref").json() is True
    assert s.get("/case/run_in_another_thread").status == 200
    assert s.get("/without-asgiref").json() is True
    assert_rests(s)


# --- slots: who waits, and for how long


def test_arrival_decides(server):
    s = server("leases:app", *ONE)
    first = begin(s, "/blocking?name=a&gate=g")
    wait_started(s, "a")
    others = []
    for i, name in enumerate("bcdef"):
        others.append(begin(s, f"/blocking?name={name}&gate=g"))
        wait_queued(s, i + 1)
    open_gate(s, "g")
    for c in [first, *others]:
        assert c.response().status == 200
        c.close()
    assert state(s)["started"] == list("abcdef")
    assert_rests(s)


@pytest.mark.parametrize("path", ["blocking", "like-a-framework", "in-a-group"])
@pytest.mark.parametrize("options", [("--sync-queue", "2"), ("--sync-queue-timeout", "300ms")], ids=["full", "timeout"])
def test_no_thread_is_503(server, path, options):
    """Whether the exception leaves the application or the application makes a 500 of it."""
    s = server("leases:app", *ONE, *options)
    s.expect_errors(r"GET /\S+: no thread was free, the answer is 503.*1 of 1 threads run; GET /blocking: block \(.*leases\.py:\d+\), in ")
    holder = begin(s, "/blocking?name=holder&gate=g")
    wait_started(s, "holder")
    waiting = []
    if "--sync-queue" in options:
        for i in range(2):
            waiting.append(begin(s, f"/blocking?name=waiting{i}&gate=g"))
            wait_queued(s, i + 1)
    with s.connect() as c:
        for _ in range(2):  # the connection lives on
            answer = c.get(f"/{path}?name=refused&gate=g")
            assert answer.status == 503
            assert answer.get("retry-after") == "1"
            assert answer.get("x-framework") is None
            assert answer.body == b"Service Unavailable\n"
    open_gate(s, "g")
    for c in [holder, *waiting]:
        assert c.response().status == 200
        c.close()
    assert "refused" not in state(s)["started"]
    assert_rests(s)


def test_refused_call_that_the_application_does_without(server):
    s = server("leases:app", *ONE, "--sync-queue-timeout", "200ms")
    s.expect_errors(r"GET /forgiving: no thread was free; 1 of 1 threads run")
    holder = begin(s, "/blocking?name=holder&gate=g")
    wait_started(s, "holder")
    answer = s.get("/forgiving?name=refused&gate=g")
    assert (answer.status, answer.json()) == (200, "without: QueueTimeout")
    open_gate(s, "g")
    holder.response()
    holder.close()


def test_bug_behind_a_refused_call_is_told(server):
    s = server("leases:app", *ONE, "--sync-queue-timeout", "200ms")
    s.expect_errors("no thread was free", r"GET /other-bug: exception")
    holder = begin(s, "/blocking?name=holder&gate=g")
    wait_started(s, "holder")
    assert s.get("/other-bug?name=refused&gate=g").status == 500
    s.wait_log("KeyError: \"of the application's own\"")
    open_gate(s, "g")
    holder.response()
    holder.close()


# --- clients that leave


def test_client_gone_while_queued_never_runs(server):
    s = server("leases:app", *ONE)
    holder = begin(s, "/blocking?name=holder&gate=g")
    wait_started(s, "holder")
    gone = begin(s, "/cancellable?name=gone&gate=g")
    wait_queued(s, 1)
    gone.close()
    wait_state(s, lambda now: now["events"]["gone"] == "cancelled", "the work is cancelled")
    behind = begin(s, "/blocking?name=behind&gate=g")
    wait_queued(s, 1)
    open_gate(s, "g")
    for c in (holder, behind):
        assert c.response().status == 200
        c.close()
    assert state(s)["started"] == ["holder", "behind"]
    assert_rests(s)


def test_client_gone_while_running_ends_and_its_thread_goes_on(server):
    s = server("leases:app", *ONE)
    gone = begin(s, "/cancellable?name=gone&gate=g")
    wait_started(s, "gone")
    gone.close()
    wait_state(s, lambda now: now["events"]["gone"] == "cancelled", "the work is cancelled")
    behind = begin(s, "/blocking?name=behind&gate=open")
    wait_queued(s, 1)  # the thread is still the other's
    open_gate(s, "open")
    assert state(s)["started"] == ["gone"]
    open_gate(s, "g")
    assert behind.response().json() == "ringcorn-sync-0"
    behind.close()
    assert_rests(s)


# --- waiting for something else


@pytest.mark.parametrize("below", [0, 1], ids=["async", "below async_to_sync"])
def test_six_that_wait_for_a_seventh(server, below):
    """They outnumber the slots, and give theirs up while they wait."""
    s = server("leases:app", "--sync-threads", "2")
    waiting = [begin(s, f"/meeting?name=m&n=7&below={below or ''}") for _ in range(6)]
    wait_state(s, lambda now: now["pool"]["leased"] == 6, "six have their threads")
    with s.connect() as c:
        seventh = c.get(f"/meeting?name=m&n=7&below={below or ''}")
    for answer in [seventh, *(c.response() for c in waiting)]:
        assert answer.json() == {"same_thread": True, "local_is_mine": True}
    for c in waiting:
        c.close()
    assert_rests(s)


def test_call_below_async_to_sync_keeps_its_slot(server):
    """Its thread is inside async_to_sync(), but computes."""
    s = server("leases:app", "--sync-threads", "1", "--sync-threads-max", "4")
    first = begin(s, "/blocking-below?name=first&gate=g")
    wait_started(s, "first")
    second = begin(s, "/blocking?name=second&gate=g")
    wait_queued(s, 1)
    for _ in range(30):  # far longer than it takes to find a thread that waits for the loop
        time.sleep(0.01)
        now = state(s)
        assert (now["started"], now["pool"]["queued"], now["pool"]["parked"]) == (["first"], 1, 0)
    open_gate(s, "g")
    for c in (first, second):
        assert c.response().json() == "ringcorn-sync-0"
        c.close()
    assert_rests(s)


def test_sixty_wait_on_four_slots(server):
    s = server("leases:app", *FOUR, "--sync-threads-max", "64", "--sync-idle-timeout", "500ms")
    waiting = [begin(s, "/meeting?name=m&n=60") for _ in range(60)]
    for c in waiting:
        assert c.response().json() == {"same_thread": True, "local_is_mine": True}
        c.close()
    assert 60 <= state(s)["pool"]["peak"] <= 64
    assert_rests(s)
    wait_state(s, lambda now: now["pool"]["running"] <= 4, "threads above sync.threads end")


def test_threads_max_is_a_bound(server):
    """Those who wait keep their threads, so the next waits until one of them is done; nobody starves."""
    s = server("leases:app", "--sync-threads", "2", "--sync-threads-max", "4")
    waiting = [begin(s, "/meeting?name=m&n=5") for _ in range(4)]
    wait_state(s, lambda now: now["pool"]["leased"] == 4, "four have their threads")
    fifth = begin(s, "/chain")
    wait_queued(s, 1)
    assert state(s)["pool"]["running"] == 4
    open_gate(s, "unused")  # what needs no thread is served
    with s.connect() as c:
        c.send(wire.request("GET", "/arrive?name=m&n=5"))
        assert c.response().status == 200
    for c in waiting:
        assert c.response().json() == {"same_thread": True, "local_is_mine": True}
        c.close()
    assert fifth.response().json()["threads"] == 1
    fifth.close()
    assert state(s)["pool"]["peak"] == 4
    assert_rests(s)


# --- affinity


@pytest.mark.parametrize("affinity", ["call", "transaction"])
def test_other_affinities_serve(server, affinity):
    s = server("leases:app", *FOUR, "--sync-affinity", affinity, "--sync-threads-max", "4")
    waiting = [begin(s, "/meeting?name=m&n=12") for _ in range(12)]
    for c in waiting:
        assert c.response().status == 200  # threads_max would hold eight of them back, were a thread theirs
        c.close()
    assert state(s)["pool"]["peak"] <= 4
    assert_rests(s)


# --- beyond the request, and the worker's end


def test_task_that_outlives_its_request(server):
    s = server("leases:app", *ONE)
    assert s.get("/outliving?name=late&gate=g").json() == "ringcorn-sync-0"
    assert_rests(s)
    open_gate(s, "g")
    wait_state(s, lambda now: now["events"]["late"] == "ringcorn-sync-0", "the late call has run")
    assert_rests(s)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_running_call_is_finished(server, signum):
    """The worker's end and its reload wait for synchronous code as for anything else of a request."""
    s = server("leases:app", *ONE)
    running = begin(s, "/blocking?name=running&gate=g")
    wait_started(s, "running")
    queued = begin(s, "/blocking?name=queued&gate=g")
    wait_queued(s, 1)
    opener = s.connect()
    opener.send(b"GET /open-gate?gate=g HTTP/1.1\r\nHost: a\r\n")  # its connection is there before the worker stops listening
    old = s.workers()
    s.send_signal(signum)
    if signum == signal.SIGHUP:
        wire.eventually(lambda: s.workers() and not set(s.workers()) & set(old) or len(s.workers()) > 1, 10, "the successor")
    opener.send(b"\r\n")
    assert opener.response().status == 200
    opener.close()
    for c in (running, queued):
        assert c.response().status == 200
        c.close()
    if signum == signal.SIGTERM:
        assert s.wait_exit() == 0
    else:
        wire.eventually(lambda: not set(s.workers()) & set(old), 10, "the old worker ends")
        s.settle()


def test_thread_that_will_not_end_is_named(server):
    s = server("leases:app", *ONE, "--timeouts-graceful", "300ms")
    s.check_live = False
    c = begin(s, "/never?name=never")
    wait_started(s, "never")
    s.send_signal(signal.SIGTERM)
    assert s.wait_exit() == 0
    assert "thread ringcorn-sync-0 did not end, it is left behind in never.<locals>.endless" in s.log
    c.close()


# --- which asgiref, and when


def test_asgiref_imported_by_a_request(server):
    s = server("leases:app", *FOUR, env={"ASGIREF": "lazy"})
    s.get("/threads")  # imports it, and is stock itself
    names = wire.eventually(
        lambda: (n := s.get("/threads").json())["sensitive"].startswith("ringcorn-sync") and n, 10, "requests are on leased threads"
    )
    assert names["again"] == names["sensitive"]


def asgiref_version():
    import asgiref

    return tuple(map(int, asgiref.__version__.split(".")[:2]))


def test_asgiref_that_is_not_understood(server):
    """From 3.13 on its public executor= does; before, all is as with any server, and said."""
    s = server("leases:app", *FOUR, env={"ASGIREF": "renamed"})
    names = s.get("/threads").json()
    if asgiref_version() >= (3, 13):
        s.wait_log(r"warning: asgiref \S+ is not understood .*: its public executor= leads requests to their threads")
        assert names["sensitive"].startswith("ringcorn-sync") and names["again"] == names["sensitive"]
        assert s.get("/chain").json()["threads"] == 1
        assert_rests(s)
    else:
        s.expect_errors(r"asgiref \S+ is not understood .*its synchronous calls stay as they are")
        assert not names["sensitive"].startswith("ringcorn")


def test_asgiref_that_is_too_old(server):
    """Left as it is, with advice: create_task() below async_to_sync could hang."""
    s = server("leases:app", *FOUR, env={"ASGIREF": "old"})
    s.wait_log(r"warning: asgiref 3\.7\.2 makes a thread and a database connection for each request: .*; upgrade it")
    assert not s.get("/threads").json()["sensitive"].startswith("ringcorn")


def test_threads_are_counted_at_start(server):
    s = server("leases:app", "--workers", "2", "--sync-threads", "3", "--sync-threads-max", "5")
    s.wait_log(r"2 workers x 3 threads = 6 .*at worst 2 x 5 = 10")
    s.wait_log("worker 1 is ready")
    s.settle()
    s = server("leases:app", "--sync-threads", "7", "--sync-threads-max", "5")
    s.wait_log(r"1 worker x 7 threads = 7 .*at worst 1 x 7 = 7")
    s = server("leases:app")
    s.wait_log(r"1 worker x 40 threads = 40 .*at worst 1 x 64 = 64")
