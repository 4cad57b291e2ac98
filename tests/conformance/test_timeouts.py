"""Clients that are too slow: 408 where a request was begun, a plain close where none was; and what must not time out."""

import time

import pytest

import wire

OPTIONS = (
    "--timeout-header", "700ms", "--timeout-body", "700ms", "--timeouts-body-rate", "off", "--timeout-send", "1s",
    "--timeout-keep-alive", "700ms",
)  # fmt: skip


@pytest.fixture
def s(server):
    return server("raw:app", *OPTIONS, shared=True)


def closed_after(c, least, most=4.0):
    began = time.monotonic()
    assert c.is_closed(most)
    assert time.monotonic() - began >= least


def test_silent_connection_is_closed_without_a_word(s):
    with s.connect() as c:
        closed_after(c, 0.4)


def test_idle_connection_is_closed_after_keep_alive(s):
    with s.connect() as c:
        c.get("/hello")
        closed_after(c, 0.4)


def test_keep_alive_begins_anew_with_each_request(s):
    with s.connect() as c:
        for _ in range(4):
            assert c.get("/hello").status == 200
            time.sleep(0.4)


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: b"])
def test_head_that_does_not_end_is_408(s, data):
    with s.connect() as c:
        c.send(data)
        assert c.response().status == 408
        assert c.is_closed()


def test_head_that_trickles_is_408(s):
    """The time is for the head as a whole: a byte now and then does not prolong it."""
    with s.connect() as c:
        began = time.monotonic()
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 1000:
                c.send(bytes([byte]))
                time.sleep(0.05)
                if time.monotonic() - began > 4:
                    break
        except ConnectionError:
            pass
        assert time.monotonic() - began < 4


def test_head_of_a_second_request_has_its_own_time(s):
    with s.connect() as c:
        assert c.get("/hello").status == 200
        c.send(b"GET / HTTP/1.1\r\n")
        assert c.response().status == 408


def test_time_does_not_begin_before_the_connection(s):
    """A server that has slept counts from when it was woken, not from when it went to sleep."""
    time.sleep(1.5)
    with s.connect() as c:
        time.sleep(0.2)
        c.send(b"GET /hello HTTP/1.1\r\n")
        time.sleep(0.2)
        c.send(b"Host: x\r\n\r\n")
        assert c.response().status == 200


def test_body_that_stops_is_408(s):
    with s.connect() as c:
        c.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome")
        everything = c.rest()
        assert everything.startswith(b"HTTP/1.1 408")
    s.wait_event("count", "disconnect after 4")


def test_body_that_trickles_goes_on(s):
    """Each byte begins the idle time anew (the rate is off here)."""
    with s.connect() as c:
        c.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n")
        for byte in b"trickles":
            c.send(bytes([byte]))
            time.sleep(0.2)
        assert c.response().body == b"trickles"


@pytest.mark.slow
def test_body_below_the_least_rate_is_408(server):
    """Many small pieces never reach the idle time; after ten seconds of waiting the average counts."""
    s = server("raw:app", "--timeout-body", "5s", "--timeouts-body-rate", "1000")
    with s.connect(30) as c:
        c.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        c.sock.settimeout(0.1)
        began, got = time.monotonic(), b""
        while time.monotonic() - began < 25 and not got:
            try:
                c.send(b"x" * 10)
                got = c.sock.recv(100)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert got.startswith(b"HTTP/1.1 408") and 9 < time.monotonic() - began < 20


def test_application_may_take_its_time(s):
    """None of these limits is the application's: neither before its answer nor between its pieces."""
    with s.connect() as c:
        assert c.get("/slow?s=1.5").body == b"slow"
        assert c.get("/stream?n=2&size=3&delay=1.2").body == b"aaabbb"


def test_application_that_reads_late_is_no_slow_client(s):
    """The body's time runs only while the application waits for it."""
    with s.connect() as c:
        c.send(b"POST /slow?s=1.5 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        assert c.response().body == b"slow"


def test_application_that_has_given_up_waiting_is_not_interrupted(s):
    with s.connect() as c:
        c.send(b"POST /impatient?s=1.5 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        assert c.response().body == b"impatient"


def test_client_that_takes_nothing_is_cut(s):
    with s.connect(rcvbuf=4096) as c:
        c.send(wire.request("GET", "/endless?name=untaken&size=65536"))
        c.exactly(1000)
        s.wait_event("untaken", "OSError", timeout=8)


def test_client_that_takes_slowly_is_not_cut(s):
    with s.connect(rcvbuf=4096, timeout=30) as c:
        c.send(wire.request("GET", "/stream?n=200&size=65536&length=1"))
        c.head()
        for _ in range(12):
            c.exactly(1_048_576)
            time.sleep(0.3)
        c.exactly(200 * 65536 - 12 * 1_048_576)
