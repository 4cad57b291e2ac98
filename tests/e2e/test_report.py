"""What a worker says of itself on SIGUSR2, and when it crashes."""

import os
import re
import signal
import threading
import time

import harness
import pytest

CRASHING = """
import asyncio, ctypes, os

def crash():
    ctypes.string_at(0)

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    if scope["path"] == "/wait":
        await asyncio.sleep(60)
    elif scope["path"] == "/segv":
        crash()
    elif scope["path"] == "/segv-in-thread":
        await asyncio.to_thread(crash)
    elif scope["path"] == "/abort":
        os.abort()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})
"""


def test_report_harms_no_worker_whose_threads_run(server):
    """Sent while threads run Python at every depth, hundreds of times."""
    s = server("flask_app:app")
    first = s.workers()
    over = time.monotonic() + 3

    def load():
        with s.connect() as c:
            while time.monotonic() < over:
                assert c.get("/").status == 200

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    while time.monotonic() < over:
        os.kill(first[0], signal.SIGUSR2)
        time.sleep(0.005)
    for client in clients:
        client.join()
    assert s.workers() == first


def test_report_names_the_requests_in_hand(server):
    s = server("raw:app")
    with s.connect() as c:
        c.send(b"GET /slow?s=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        os.kill(s.workers()[0], signal.SIGUSR2)
        s.wait_log(r"in hand for \d+ s: GET /slow")
        assert c.response().status == 200


@pytest.mark.skipif(harness.SANITIZED, reason="the sanitizer's report takes its place")
@pytest.mark.parametrize("path, name", [("/segv", "SEGV"), ("/segv-in-thread", "SEGV"), ("/abort", "ABRT")])
def test_a_crash_shows_the_requests_and_both_stacks(server, tmp_path, path, name):
    (tmp_path / "crashing.py").write_text(CRASHING)
    s = server("crashing:app", "--app-dir", tmp_path, app_dir=None, prefix=["prlimit", "--core=0"])
    s.held, s.check_live = {}, False
    with s.connect() as waiting, s.connect() as c:
        waiting.send(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        c.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        s.wait_log(rf"died: signal \d+ \({name}\)$")
    s.expect_errors("died: signal", "Fatal Python error")
    s.wait_log("worker 0 is ready", since=len(s.err.lines) - 1)
    assert re.search(r'crashing.py", line \d+ in (app|crash)', s.log), "the Python stack"
    assert re.search(rf"worker 0 crashes by signal \d+ \({name}\) in thread \d+ \(.+\); its C stack:\n\S+\(\S*\+0x", s.log)
    assert re.search(r"in hand for \d+ s: GET /wait", s.log) and re.search(rf"in hand for \d+ s: GET {path}", s.log)
    assert s.get("/").status == 200
