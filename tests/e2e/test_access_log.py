"""The access log: off by default, one line a request, where it is told to go."""

import re
import signal

import pytest
import wire
from frames import CLOSE, FIN, Socket, close_payload

LINE = re.compile(r'127\.0\.0\.1\b.*"GET /hello\?a=b HTTP/1\.1" 200 13\b')


def test_off_by_default(server):
    s = server("raw:app")
    s.get("/hello?a=b")
    s.check_returned()
    s.stop()
    assert not s.out.lines and "/hello" not in s.log


def test_on_standard_output(server):
    s = server("raw:app", "--access-log")
    s.get("/hello?a=b", {"User-Agent": "tester/1.0"})
    assert s.out.wait(LINE, 5)
    s.get("/none")
    assert s.out.wait(r'"GET /none HTTP/1\.1" 404 ', 5)


def test_in_a_file_that_is_opened_again(server, tmp_path):
    """USR1 as logrotate sends it: the old file was moved, the new one fills."""
    path = tmp_path / "access.log"
    s = server("raw:app", "--access-logfile", path)
    s.get("/hello?a=b")
    wire.eventually(lambda: LINE.search(path.read_text()))
    path.rename(tmp_path / "access.log.1")
    s.send_signal(signal.SIGUSR1)
    wire.eventually(path.exists)
    wire.eventually(lambda: s.get("/hello?a=b").status == 200 and LINE.search(path.read_text()))


def test_a_line_cannot_be_forged(server):
    """What a client sends never starts a line of its own, nor ends the quoted field."""
    s = server("raw:app", "--access-log")
    s.get('/x%0a127.0.0.1%20forged?"quoted"', {"User-Agent": 'a" "b'})
    assert s.out.wait("forged", 5)
    line = next(line for line in s.out.lines if "forged" in line)
    assert line.startswith("127.0.0.1") and '"quoted"' not in line.replace('\\"', "'")


def test_pipelined_and_refused_requests_are_logged(server):
    s = server("raw:app", "--access-log")
    with s.connect() as c:
        c.send(b"GET /hello?1 HTTP/1.1\r\nHost: x\r\n\r\nGET /hello?2 HTTP/1.1\r\nHost: x\r\n\r\n")
        c.response(), c.response()
    for n in "12":
        assert s.out.wait(rf'"GET /hello\?{n} ', 5)
    with s.connect() as c:
        c.send(b"GET / HTTP/1.1\r\n\r\n")
        assert c.response().status == 400
    assert s.out.wait(r" 400 ", 5)


BEHIND = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    size = int(scope["query_string"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]})
    await send({"type": "http.response.body", "body": b"x" * size})
    await asyncio.sleep(0 if size == 6 else 60)
"""


@pytest.mark.parametrize("size", [5, 2 << 20])
def test_an_answer_has_its_line_though_the_application_goes_on(server, tmp_path, size):
    """And then the worker is killed: what the client has is in the log, once."""
    (tmp_path / "behind.py").write_text(BEHIND)
    s = server("behind:app", "--access-log", app_dir=tmp_path)
    s.expect_errors("died: signal 9")
    with s.connect() as c:
        assert len(c.get(f"/?{size}").body) == size
        since = len(s.err.lines)
        s.send_signal(signal.SIGKILL, s.workers()[0])
        s.wait_log("worker 0 is ready", since=since)
    assert s.get("/?6", timeout=30).status == 200
    assert s.out.wait(r'"GET /\?6 HTTP/1.1" 200 6 ', 5)
    assert len([line for line in s.out.lines if f'"GET /?{size} HTTP/1.1" 200 {size} ' in line]) == 1


AFTER_THE_END = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "websocket":
        raise RuntimeError
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/closes":
        await send({"type": "websocket.close", "code": 4000})
    while (await receive())["type"] != "websocket.disconnect":
        pass
    await asyncio.sleep(60)
"""


@pytest.mark.parametrize("path, code", [("/waits", 1000), ("/closes", 4000)])
def test_a_websocket_that_is_over_has_its_line_though_the_application_goes_on(server, tmp_path, path, code):
    """And then the worker is killed: once, with what was closed by either side."""
    (tmp_path / "after.py").write_text(AFTER_THE_END)
    s = server("after:app", "--access-log", app_dir=tmp_path)
    s.expect_errors("died: signal 9")
    with s.connect() as c:
        socket = Socket(c, path)
        if path == "/waits":
            socket.close(code)
        socket.expect(FIN | CLOSE, close_payload(code))
        since = len(s.err.lines)
        s.send_signal(signal.SIGKILL, s.workers()[0])
        s.wait_log("worker 0 is ready", since=since)
    assert s.out.wait(rf'"GET {path} HTTP/1.1" 101 ', 5)
    assert len([line for line in s.out.lines if f'"GET {path} ' in line]) == 1
