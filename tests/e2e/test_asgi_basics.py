"""An application is served: the plainest requests, bodies and streams, without a framework."""

import os

import pytest


def test_hello(server):
    s = server("raw:app")
    r = s.get("/hello")
    assert (r.status, r.body, r.framing) == (200, b"Hello, World!", "length")
    assert r.get("content-type") == "text/plain"


def test_keep_alive_serves_many_on_one_connection(server):
    s = server("raw:app", shared=True)
    with s.connect() as c:
        for i in range(50):
            r = c.request("POST", "/echo", body=b"%d" % i)
            assert r.body == b"%d" % i


@pytest.mark.parametrize("size", [0, 1, 100, 65535, 65536, 65537, 1_000_000, 20_000_000])
def test_echo_of_any_size(server, size):
    s = server("raw:app", shared=True)
    data = os.urandom(size)
    with s.connect(60) as c:
        assert c.request("POST", "/echo", body=data).body == data
        assert c.get("/hello").status == 200


@pytest.mark.parametrize("size", [1, 1000, 100_000, 3_000_000])
def test_streamed_echo(server, size):
    s = server("raw:app", shared=True)
    data = os.urandom(size)
    r = s.post("/echo-stream", data)
    assert r.body == data and r.framing == "chunked"


def test_stream_without_length_is_chunked(server):
    s = server("raw:app", shared=True)
    r = s.get("/stream?n=3&size=4")
    assert (r.framing, r.chunks) == ("chunked", [b"aaaa", b"bbbb", b"cccc"])


def test_stream_with_length_is_not_chunked(server):
    s = server("raw:app", shared=True)
    r = s.get("/stream?n=3&size=4&length=1")
    assert (r.framing, r.body) == ("length", b"aaaabbbbcccc")


def test_pieces_of_a_stream_arrive_when_sent(server):
    s = server("raw:app", shared=True)
    with s.connect() as c:
        c.send("GET /stream?n=3&size=4&delay=0.3 HTTP/1.1\r\nHost: x\r\n\r\n")
        c.head()
        assert c.until(b"aaaa\r\n")
        assert b"bbbb" not in c.buffer and b"cccc" not in c.buffer
        assert c.until(b"0\r\n\r\n").count(b"cccc") == 1


def test_body_may_be_bytes_bytearray_memoryview(server):
    s = server("raw:app", shared=True)
    assert s.get("/types").body == b"bytes,bytearray,memoryview"
    assert s.get("/types").all("x-list") == ["yes"]


def test_unread_body_does_not_harm_the_next_request(server):
    s = server("raw:app", shared=True)
    with s.connect() as c:
        assert c.request("POST", "/ignore-body", body=b"x" * 3000).body == b"ignored"
        assert c.get("/hello").status == 200


def test_many_connections_at_once(server):
    s = server("raw:app", shared=True)
    connections = [s.connect() for _ in range(200)]
    for c in connections:
        c.send("GET /slow?s=0.05 HTTP/1.1\r\nHost: x\r\n\r\n")
    for c in connections:
        assert c.response().body == b"slow"
        c.close()
