"""Workers that are replaced before their time: too many requests, too old, too large, hung. Real ones, some under load."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

import harness
import wire
from load import Load, group

STRESS = Path(__file__).resolve().parents[1] / "stress"

APP = '''
import asyncio, ctypes, os, sys, threading, time
kept = []

def compute(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    what, _, n = scope["path"][1:].partition("/")
    if what == "block_the_loop":
        time.sleep(float(n))
    elif what == "thread":
        await asyncio.to_thread(time.sleep, float(n))
    elif what == "compute":
        await asyncio.gather(*(asyncio.to_thread(compute, float(n)) for _ in range(3)))
    elif what == "keep_the_gil":
        threading.Thread(target=ctypes.PyDLL(None).sleep, args=(int(n),), daemon=True).start()
    elif what == "grow":
        kept.append(b"x" * (int(n) << 20))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
'''


@pytest.fixture
def serve(server, tmp_path):
    (tmp_path / "trying.py").write_text(APP)

    def start(*args, workers=1):
        s = server("trying:app", "-w", workers, "--app-dir", tmp_path, *args, app_dir=None)
        s.wait_workers(workers)
        s.check_live = False
        return s

    return start


# ------------------------------------------------------------------ recycling


@pytest.mark.alone
def test_max_requests_under_load_fails_no_request(server):
    s = server("apps:app", "-w", 2, "--max-requests", 20, "--max-requests-jitter", 20, app_dir=STRESS)
    s.wait_workers(2)
    groups = [group("keep", 8, ["/instant", "/late"], pause=0.005), group("close", 4, ["/instant"], pause=0.005)]
    with Load(s.address, groups) as load:
        wire.eventually(lambda: s.log.count("(recycle.max_requests); another takes its place") >= 4, 60 * harness.SLOW, "workers of a short life")
        tally = load.stop()
    assert tally.failed == 0, f"{tally.reasons()}\n{tally.failures[:5]}\n{s.log}"
    assert len(tally.pids) >= 4 and "died" not in s.log
    assert all(int(n) >= 20 for n in re.findall(r"has served (\d+) requests", s.log))
    # One at a time: who takes a place is ready before the next one is begun.
    events = re.findall(r"another takes its place|is ready", s.log)[2:]
    assert "another takes its place another takes its place" not in " ".join(events)
    s.held = {}


def test_max_age(serve):
    s = serve("--recycle-max-age", "1s", workers=2)
    old = s.workers()
    s.wait_log(r"is \d s old \(recycle.max_age\); another takes its place")
    wire.eventually(lambda: not set(old) & set(s.workers()), 20 * harness.SLOW, "other workers")
    assert s.get("/").status == 200


def test_max_rss(serve):
    s = serve("--max-rss", "150MiB")
    old = int(s.get("/").body)
    s.get("/grow/200")
    s.wait_log(r"has \d+ MiB in memory \(recycle.max_rss\); another takes its place")
    wire.eventually(lambda: s.workers() and old not in s.workers(), 20 * harness.SLOW, "another worker")
    assert int(s.get("/").body) != old


def test_a_successor_that_does_not_start_leaves_the_old_one(serve, tmp_path):
    s = serve("--max-requests", 1)
    old = s.workers()
    (tmp_path / "trying.py").write_text("import no_such_module_anywhere #\n")
    s.get("/")
    s.wait_log("died: exit code 3")
    s.expect_errors("died: exit code 3", "Traceback")
    assert s.workers() == old and int(s.get("/").body) == old[0]


def test_a_long_request_is_finished_by_the_worker_that_has_it(serve):
    s = serve("--max-requests", 2)
    with s.connect() as c:
        c.send(b"GET /thread/2 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        first = int(s.get("/").body)
        s.wait_log("has served 2 requests")
        s.wait_log("worker 0 is ready", since=len(s.err.lines) - 1)
        assert int(c.response().body) == first


# ------------------------------------------------------------------ hung workers


def test_a_blocked_loop_is_killed_with_its_request_and_stacks_in_the_log(serve):
    s = serve("--timeout-worker", "1s")
    old = s.workers()
    with s.connect() as c:
        c.send(b"GET /block_the_loop/60 HTTP/1.1\r\nHost: x\r\n\r\n")
        s.wait_log(r"error: worker 0 \(pid \d+\) hangs: its loop has not turned for \d\.\d s \(timeouts.worker\), application code blocks it", 20)
        s.expect_errors("hangs: its loop has not turned")
        s.wait_log("worker 0 is ready", since=len(s.err.lines) - 1)
    assert re.search(r"in hand.*GET /block_the_loop/60", s.log) and re.search(r"trying.py.* in app", s.log)
    assert int(s.get("/").body) not in old


def test_the_gil_that_is_not_given_back(serve):
    s = serve("--timeout-worker", "1s")
    with s.connect() as c:
        c.send(b"GET /keep_the_gil/60 HTTP/1.1\r\nHost: x\r\n\r\n")
        s.wait_log(r"hangs: its loop has not turned for ", 20)
    s.expect_errors("hangs: its loop has not turned")
    s.wait_log("worker 0 is ready", since=len(s.err.lines) - 1)


@pytest.mark.parametrize("path", ["/thread/3", "/compute/3"])
def test_a_busy_worker_is_left_alone(serve, path):
    s = serve("--timeout-worker", "1s")
    old = s.workers()
    assert int(s.get(path, timeout=30).body) == old[0]
    assert s.workers() == old


def test_a_stopped_worker_is_left_alone(serve):
    s = serve("--timeout-worker", "2s")
    old = s.workers()
    with s.connect() as c:
        c.send(b"GET /block_the_loop/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        os.kill(old[0], signal.SIGSTOP)
        try:
            s.wait_log("is stopped .SIGSTOP, or a debugger.: timeouts.worker waits", 20)
        finally:
            os.kill(old[0], signal.SIGCONT)
        assert int(c.response().body) == old[0]
    assert s.workers() == old


def test_siblings_serve_while_one_hangs(serve):
    s = serve("--timeout-worker", "1s", workers=2)
    with s.connect() as c:
        c.send(b"GET /block_the_loop/60 HTTP/1.1\r\nHost: x\r\n\r\n")
        s.wait_log("hangs: its loop has not turned", 20)
        s.expect_errors("hangs: its loop has not turned")
        for _ in range(40):
            assert s.get("/").status == 200
