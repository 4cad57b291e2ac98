"""Clients that go away, or stop reading, in the middle."""

import time

import pytest

import wire


@pytest.fixture
def s(server):
    return server("raw:app", shared=True)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_waiting_application_is_told(s, how):
    name = f"told-{how}"
    c = s.connect()
    c.send(wire.request("GET", f"/wait-disconnect?name={name}"))
    s.wait_event(name, "waiting")
    getattr(c, how)()
    s.wait_event(name, "^http.disconnect ")


def test_send_after_a_reset_raises_oserror(s):
    c = s.connect()
    c.send(wire.request("GET", "/wait-disconnect?name=oserror"))
    s.wait_event("oserror", "waiting")
    c.reset()
    s.wait_event("oserror", "^http.disconnect OSError")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_endless_stream_ends_with_oserror(s, how):
    name = f"endless-{how}"
    c = s.connect()
    c.send(wire.request("GET", f"/endless?name={name}"))
    c.exactly(5000)
    getattr(c, how)()
    s.wait_event(name, "OSError")


def test_endless_stream_with_pauses_ends_too(s):
    c = s.connect()
    c.send(wire.request("GET", "/endless?name=pauses&delay=0.02"))
    c.exactly(3000)
    c.close()
    s.wait_event("pauses", "OSError")


def test_client_gone_in_the_middle_of_its_body(s):
    c = s.connect()
    c.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 5000)
    time.sleep(0.1)
    c.close()
    s.wait_event("count", "disconnect after 5000")


def test_client_gone_in_the_middle_of_its_head(s):
    for data in (b"GET", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nA: "):
        c = s.connect()
        c.send(data)
        time.sleep(0.02)
        c.close()
    assert s.get("/hello").status == 200


def test_client_gone_at_once(s):
    for _ in range(100):
        s.connect().close()
    for _ in range(100):
        s.connect().reset()
    assert s.get("/hello").status == 200


def test_many_clients_gone_while_waiting(s):
    connections = [s.connect() for _ in range(100)]
    for c in connections:
        c.send(wire.request("GET", "/slow?s=0.5"))
    time.sleep(0.1)
    for i, c in enumerate(connections):
        c.reset() if i % 2 else c.close()
    time.sleep(0.6)
    assert s.get("/hello").status == 200


def test_sender_waits_for_a_client_that_does_not_read(s):
    """Back-pressure: what an endless stream has sent stays bounded while its client reads nothing."""
    with s.connect(rcvbuf=4096) as c:
        c.send(wire.request("GET", "/endless?name=lag&size=65536"))
        c.exactly(1000)
        time.sleep(0.5)
        first = int(s.events()["lag-sent"])
        time.sleep(0.5)
        second = int(s.events()["lag-sent"])
        assert second == first, "it went on sending into memory"
        assert first < 16_000_000
        # It goes on when the client does.
        c.exactly(first)
        wire.eventually(lambda: int(s.events()["lag-sent"]) > first)


def test_reading_stops_while_the_application_does_not_read(s):
    """Back-pressure on uploads: a client cannot fill the server's memory."""
    with s.connect() as c:
        c.send(b"POST /slow?s=3 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        c.sock.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100_000_000:
                sent += c.sock.send(b"x" * 65536)
        assert sent < 20_000_000


def test_large_answer_to_a_slow_reader(s):
    with s.connect(rcvbuf=8192, timeout=60) as c:
        c.send(wire.request("GET", "/stream?n=100&size=50000&length=1"))
        c.head()
        got = 0
        while got < 5_000_000:
            n = min(250_000, 5_000_000 - got)
            c.exactly(n)
            got += n
            time.sleep(0.01)
        assert c.get("/hello").status == 200
