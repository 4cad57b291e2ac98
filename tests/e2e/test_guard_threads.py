"""Requests that find no thread: one line says who waits, for how long, and who has the threads."""

import pytest

import harness

FASTAPI = harness.APPS / "gallery_fastapi.py"


def ask(s, *paths):
    connections = [s.connect() for _ in paths]
    for c, path in zip(connections, paths):
        c.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    for c in connections:
        assert c.response().status == 200
        c.close()


def test_the_threads_of_requests(server):
    s = server("gallery_fastapi:app", "--threads", 1, "--sync-threads-max", 1, "--guard-threads", "200ms", "--metrics")
    ask(s, "/slow", "/slow", "/slow", "/slow")
    s.wait_log(
        r"warning: GET /slow: [23] wait for a thread, 0\.[2-9] s at most \(GET /slow x [23]\); the 1 of sync.threads are held by: "
        rf"GET /slow \(\d\.\d s, slow \({FASTAPI}:\d+\)\); more sync.threads"
    )
    assert len([line for line in s.err.lines if "wait for a thread" in line]) == 1
    assert 'ringcorn_guard_events_total{worker="0",kind="threads"} 1' in s.get("/metrics").body.decode()


def test_the_executor(server):
    s = server("gallery_fastapi:app", "--sync-executor-threads", 1, "--guard-threads", "200ms")
    ask(s, "/elsewhere", "/elsewhere", "/elsewhere")
    s.wait_log(r"[12] wait for a thread, 0\.[2-9] s at most .*; the 1 of sync.executor_threads are held by: .*; more sync.executor_threads")


def test_the_limiter_of_anyio(server):
    s = server("gallery_fastapi:app", "--threads", 1, "--anyio-threads", "stock", "--guard-threads", "500ms")
    ask(s, *["/slow"] * 7)
    s.wait_log(r"GET /slow: \d wait for a thread, \d.\d s at most \(GET /slow x \d\); the 1 threads of AnyIO are held by: GET /slow; more tokens")


@pytest.mark.parametrize("option", ["1s", "off"])
def test_silent_where_nobody_waits_for_long(server, option):
    s = server("gallery_fastapi:app", "--threads", 1, "--sync-threads-max", 1, "--guard-threads", option)
    ask(s, "/slow", *(["/slow"] if option == "1s" else ["/slow"] * 3))
    s.wait_quiet(0.1)
    assert not [line for line in s.err.lines if "wait for a thread" in line]
