"""The lifespan protocol: on, off, auto; supported, absent, failing; state and context handed to requests."""

import json

import pytest

import harness
import wire


def test_state_and_context_reach_every_request(server):
    """The top level of state is copied for each request, what hangs below is shared; the context is the lifespan's, copied."""
    s = server("lifespans:full")
    got = [json.loads(s.get("/").body) for _ in range(3)]
    assert [g["hits"] for g in got] == [1, 2, 3]
    assert [g["number"] for g in got] == [2, 2, 2]
    assert [g["var"] for g in got] == ["from lifespan"] * 3
    s.check_returned()
    assert s.stop() == 0
    assert "shutdown seen" in s.out.lines


def test_requests_of_one_connection_have_contexts_of_their_own(server):
    s = server("raw:app", shared=True)
    with s.connect() as c:
        assert [c.get(f"/context?set={i}").body for i in range(4)] == [b"unset %d" % i for i in range(4)]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_absent_is_fine(server, mode):
    s = server("lifespans:absent", "--lifespan", mode)
    assert s.get("/").status == 200


def test_absent_with_on_does_not_start():
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--lifespan", "on", "lifespans:absent")
    assert r.returncode == 3
    assert "NotImplementedError" in r.stderr


def test_ignored_is_taken_for_absent(server):
    s = server("lifespans:ignored")
    assert s.get("/").body == b"served"


def test_off_never_calls_it(server):
    s = server("lifespans:startup_failed", "--lifespan", "off")
    s.expect_errors("GET /")
    assert s.get("/").status == 500  # it only knows lifespan, and answers nothing


def test_startup_failed_ends_with_3_and_its_message():
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "lifespans:startup_failed")
    assert r.returncode == 3
    assert "the database is not there" in r.stderr


def test_startup_that_raises_with_on_ends_with_3_and_the_traceback():
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--lifespan", "on", "lifespans:startup_raises")
    assert r.returncode == 3
    assert "ValueError: startup went wrong" in r.stderr and "lifespans.py" in r.stderr


def test_startup_that_takes_too_long():
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--timeout-startup", "1s", "lifespans:startup_hangs", timeout=60)
    assert r.returncode == 3
    assert "startup" in r.stderr


def test_shutdown_failed_is_said(server):
    s = server("lifespans:shutdown_failed")
    assert s.get("/").status == 200
    s.expect_errors("could not flush")
    s.stop()


def test_shutdown_that_raises_is_said(server):
    s = server("lifespans:shutdown_raises")
    assert s.get("/").status == 200
    s.expect_errors("(?i)lifespan")
    s.stop()
    assert "shutdown went wrong" in s.log


def test_lifespan_that_dies_is_said_and_requests_go_on(server):
    s = server("lifespans:dies")
    s.expect_errors("(?i)lifespan")
    s.wait_log("lifespan died")
    assert s.get("/").body == b"served"


def test_lifespan_that_dies_has_the_worker_replaced_under_raise(server, tmp_path):
    s = server("lifespans:dies", "--guard-mode", "raise", env={"DIES_ONCE": str(tmp_path / "died")})
    s.expect_errors("(?i)lifespan")
    [first] = s.workers()
    s.wait_log("the lifespan is dead, and guard.mode: raise has the worker replaced")
    wire.eventually(lambda: s.workers() and first not in s.workers(), 20 * harness.SLOW, "another worker")
    assert s.get("/").body == b"served"
    s.baseline()


def test_task_made_at_start_runs_between_requests(server):
    s = server("lifespans:background")
    first = int(s.get("/").body)
    harness.time.sleep(0.3)
    assert int(s.get("/").body) > first + 3
    assert s.stop() == 0
    assert "ticker ended" in s.log


def test_every_worker_has_its_lifespan(server):
    s = server("lifespans:full", "--workers", "3")
    for slot in range(3):
        s.wait_log(rf"worker {slot} is ready")
    assert s.stop() == 0
    assert "".join(s.out.lines).count("shutdown seen") == 3


def test_shutdown_is_over_when_it_says_so(server):
    """Although the application goes on to wait for a message that never comes."""
    s = server("lifespans:never_returns")
    assert s.get("/").body == b"served"
    begun = harness.time.monotonic()
    assert s.stop() == 0
    assert harness.time.monotonic() - begun < 5 * harness.SLOW
    assert "busy" not in s.log and "Traceback" not in s.log


@pytest.mark.parametrize(
    "app, texts",
    [
        ("failed_never_returns", ["the database is not there"]),
        ("failed_and_raises", ["the database is not there", "ValueError: a reason of its own"]),
        ("exits", ["sys.exit('no configuration')"]),
        ("task_exits", ["sys.exit('no configuration')"]),
    ],
)
def test_start_that_fails_ends_with_3_at_once(app, texts):
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, f"lifespans:{app}", timeout=10)
    assert r.returncode == 3
    for text in texts:
        assert text in r.stderr
    if app != "task_exits":
        assert "never retrieved" not in r.stderr


def test_cancelled_is_taken_for_absent(server):
    assert server("lifespans:cancelled").get("/").body == b"served"


def test_cancelled_with_on_does_not_start():
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--lifespan", "on", "lifespans:cancelled")
    assert r.returncode == 3 and "Traceback" not in r.stderr
    assert "cancelled" in r.stderr


def test_request_that_exits_fails_alone(server):
    """sys.exit() leaves a task and the loop; those beside it, and the worker, do not notice."""
    s = server("lifespans:request_exits")
    s.expect_errors("GET /exit: exception", "SystemExit\\(5\\) left a task")
    first = s.workers()
    with s.connect() as waiting:
        waiting.send(harness.wire.request("GET", "/wait"))
        harness.time.sleep(0.2)
        for _ in range(3):
            assert s.get("/exit").status == 500
        assert waiting.response().body == b"waited"
    assert s.workers() == first
    assert "nobody asked" not in s.log


def test_call_that_exits_shows_its_traceback(server):
    s = server("lifespans:call_exits", "--lifespan", "off")
    s.expect_errors("GET /: exception", "SystemExit\\(5\\) left a task")
    assert s.get("/").status == 500
    s.wait_log("^SystemExit: 5")


def test_requests_beyond_the_graceful_timeout_are_cancelled_and_shutdown_follows(server):
    s = server("lifespans:long_request", "--graceful-timeout", "1")
    s.check_live = False
    with s.connect() as c:
        c.send(harness.wire.request("GET", "/"))
        harness.time.sleep(0.2)
        assert s.stop() == 0
    assert s.out.lines == ["request cleaned up", "shutdown seen"]
    assert "killed" not in s.log


def test_thread_that_holds_up_the_end_is_named(server):
    s = server("lifespans:thread_that_stays")
    assert s.get("/").body == b"started"
    assert s.stop() == 0
    assert "the worker's end waits for thread 'mailer'" in s.log


def test_told_to_stop_while_it_starts(server):
    """What the application then raises is of no interest, and no loose end either."""
    s = server("lifespans:fails_when_stopped", wait=False)
    assert s.out.wait("starting", 30 * harness.SLOW)
    assert s.stop() == 0
    assert "never retrieved" not in s.log
