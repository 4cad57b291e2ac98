"""The access log: off by default, one line a request, where it is told to go."""

import re

import wire

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
    import signal

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
