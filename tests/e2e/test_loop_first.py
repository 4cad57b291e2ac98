"""sync.loop_first: how the loop asks threads that compute for the GIL. How long it then waits is no matter of a test, but of the
case `gil` of `make bench`."""

import contextlib

import harness
import pytest
import wire

USUAL = 0.007  # what the application has set: tests/apps/computing.py
THREADS = 8


@contextlib.contextmanager
def spinning(running, n=THREADS):
    """n requests whose threads compute; all of them have begun. Yields a list: in the end, the switch intervals that each has seen."""
    seen = []
    clients = [running.connect(timeout=60) for _ in range(n)]
    try:
        for client in clients:
            client.send(wire.request("GET", "/spin"))
        # All of them: none is kept waiting for good because others compute.
        wire.eventually(lambda: running.get("/running", timeout=30).body == b"%d" % n, 30 * harness.SLOW, "every thread computes")
        yield seen
        assert running.get("/stop", timeout=30).status == 200
        for client in clients:
            response = client.response()
            assert response.status == 200
            seen.append({float(word) for word in response.body.split()})
    finally:
        for client in clients:
            client.close()


def ask(running, n):
    with running.connect(timeout=60) as client:
        for _ in range(n):
            assert client.get("/").status == 200


def start(server, *args):
    return server("computing:app", "--sync-executor-threads", THREADS, *args)


def test_the_switch_interval_is_low_only_while_the_loop_waits(server):
    running = start(server)
    with spinning(running) as seen:
        ask(running, 25)
        for _ in range(5):  # on the loop: it has the GIL
            assert float(running.get("/interval").body) == pytest.approx(USUAL)
    every = set().union(*seen)
    assert max(every) == pytest.approx(USUAL)
    assert min(every) < 0.002, every
    assert float(running.get("/interval").body) == pytest.approx(USUAL)


def test_off_leaves_the_switch_interval_alone(server):
    running = start(server, "--sync-loop-first", "off")
    with spinning(running) as seen:
        ask(running, 5)
    assert [list(one) for one in seen] == [[pytest.approx(USUAL)]] * THREADS


def test_a_child_of_a_fork_has_the_usual_switch_interval(server):
    """The loop may be waiting for the GIL, with an interval of its own, when a thread forks."""
    running = start(server)
    with spinning(running, THREADS - 2):
        ask(running, 10)
        with running.connect(timeout=60) as forking, running.connect(timeout=60) as other:
            for _ in range(10):
                forking.send(wire.request("GET", "/fork"))
                other.send(wire.request("GET", "/"))  # makes the loop want the GIL
                assert float(forking.response().body) == pytest.approx(USUAL)
                assert other.response().status == 200


def test_this_python_lets_the_loop_go_first(server):
    """Where CPython keeps its interval is known for every version that we build with."""
    running = start(server, "--log-level", "info")
    assert running.get("/").status == 200
    assert "out of reach" not in running.log, running.report
