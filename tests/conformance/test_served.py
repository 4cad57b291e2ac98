"""Requests that must be served, and exactly what the application sees and the client gets."""

import re
import time

import pytest

import wire

H = b"Host: x\r\n"


@pytest.fixture
def s(server):
    return server("raw:app", shared=True)


def scope_of(s, data):
    with s.connect() as c:
        c.send(data)
        r = c.response()
        assert r.status == 200, r
        return r.json()


# --- heads


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHOST: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost:x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \t x \t\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x:8000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a-b.c_d.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA!#$%&'*+-.^_`|~1: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \xc3\xa9\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\tc\r\n\r\n",
        b"GET /?a=b&c=%20&d=/?x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PATCH / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 005\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:  chunked \r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
    ],
    ids=lambda data: data[:60].decode("latin-1").encode("unicode_escape").decode(),
)
def test_served(s, data):
    with s.connect() as c:
        c.send(data)
        assert c.response().status == 200


def test_header_values_without_surrounding_space(s):
    scope = scope_of(s, b"GET /scope HTTP/1.1\r\nHost: x\r\nA: \t b  c \t \r\n\r\n")
    assert {"tuple": [{"bytes": "a"}, {"bytes": "b  c"}]} in scope["headers"] or [{"bytes": "a"}, {"bytes": "b  c"}] in scope["headers"]


def test_header_order_and_duplicates_are_kept(s):
    scope = scope_of(s, b"GET /scope HTTP/1.1\r\nHost: x\r\nB: 1\r\nA: 2\r\nb: 3\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n")
    names = [(h.get("tuple", h) if isinstance(h, dict) else h) for h in scope["headers"]]
    assert [(n["bytes"], v["bytes"]) for n, v in names] == [
        ("host", "x"), ("b", "1"), ("a", "2"), ("b", "3"), ("cookie", "a=1"), ("cookie", "b=2"),
    ]  # fmt: skip


# --- bodies and trailers


@pytest.mark.parametrize(
    "body, expected",
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
        (b'5;a="b c"\r\nhello\r\n0\r\n\r\n', b"hello"),
        (b"A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", b"0123456789abcdefghij"),
        (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"1\r\na\r\n" * 500 + b"0\r\n\r\n", b"a" * 500),
        (b"5\r\nhello\r\n0\r\nX-Trailer: value\r\nY: z\r\n\r\n", b"hello"),
    ],
)
def test_chunked_body(s, body, expected):
    with s.connect() as c:
        c.send(b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert c.response().body == expected
        assert c.get("/hello").status == 200  # the framing was right to the byte


def test_trailers_do_not_become_headers(s):
    data = b"POST /scope HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: value\r\nHost: evil\r\n\r\n"
    scope = scope_of(s, data)
    assert "x-trailer" not in str(scope) and "evil" not in str(scope)


TRAILERS = b"X-Digest: sha-256=:YWJj:\r\nempty:\r\nX-Digest:  more \r\nHost: evil\r\nContent-Length: 7\r\nCookie: a=b\r\n"


@pytest.mark.parametrize("at_once", [True, False])
def test_trailers_are_passed_on(server, at_once):
    """In the last message, for whoever asked for them; never those that say how a message is framed, to whom it goes, or who sends it."""
    s = server("raw:app", "--http-trailers", "pass")
    data = b"POST /messages HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + TRAILERS + b"\r\n"
    with s.connect() as c:
        for piece in [data] if at_once else (data[i : i + 7] for i in range(0, len(data), 7)):
            c.send(piece)
            if not at_once:
                time.sleep(0.001)
        *before, last = c.response().json()
        pairs = [("x-digest", "sha-256=:YWJj:"), ("empty", ""), ("x-digest", "more")]
        assert last["trailers"] == [{"tuple": [{"bytes": text} for text in pair]} for pair in pairs]
        assert not last["more_body"] and "".join(m["body"]["bytes"] for m in [*before, last]) == "hello"
        assert not any("trailers" in m for m in before)
        # The next request of the connection has none, nor has one without any.
        for _ in range(2):
            c.send(b"POST /messages HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
            assert not any("trailers" in m for m in c.response().json())


def test_body_arrives_in_messages_that_add_up(s):
    r = s.post("/messages", b"x" * 200_000)
    seen = r.json()
    assert sum(len(m["body"]["bytes"]) for m in seen) == 200_000
    assert all(m["type"] == "http.request" for m in seen)
    assert [m["more_body"] for m in seen] == [True] * (len(seen) - 1) + [False]


def test_request_without_body_is_one_empty_message(s):
    assert s.get("/messages").json() == [{"type": "http.request", "body": {"bytes": ""}, "more_body": False}]


# --- pipelining


def test_pipelined_requests_are_answered_in_order(s):
    paths = ["/slow?s=0.1", "/hello", "/stream?n=2&size=3", "/slow?s=0.01", "/hello"]
    with s.connect() as c:
        c.send(b"".join(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % p.encode() for p in paths))
        assert [c.response().body for _ in paths] == [b"slow", b"Hello, World!", b"aaabbb", b"slow", b"Hello, World!"]


def test_pipelined_bodies_are_kept_apart(s):
    with s.connect() as c:
        data = b""
        for i in range(100):
            body = b"%d-" % i * (i % 7)
            if i % 2:
                data += b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(body) + body
            else:
                data += b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + wire.chunked(body)
        c.send(data)
        for i in range(100):
            assert c.response().body == b"%d-" % i * (i % 7)


def test_request_after_an_unread_body(s):
    with s.connect() as c:
        c.send(b"POST /ignore-body HTTP/1.1\r\n" + H + b"Content-Length: 31\r\n\r\n" + b"GET /evil HTTP/1.1\r\nHost: x\r\n" + b"\r\n")
        assert c.response().body == b"ignored"
        assert c.get("/hello").body == b"Hello, World!"


def test_large_unread_body_ends_the_connection_cleanly(s):
    """The answer reaches the client though the body was not read: either all is swallowed or a lingering close follows."""
    with s.connect() as c:
        c.send(b"POST /ignore-body HTTP/1.1\r\n" + H + b"Content-Length: 3000000\r\n\r\n")
        try:
            c.send(b"x" * 3_000_000)
        except ConnectionError:
            pass
        assert c.response().body == b"ignored"


# --- connection


def test_connection_close_is_honoured(s):
    with s.connect() as c:
        r = c.request("GET", "/hello", [("Connection", "close")])
        assert r.get("connection") == "close" and c.is_closed()


@pytest.mark.parametrize("value", ["Close", "keep-alive, close", "close, x", "x,close"])
def test_connection_close_in_a_list(s, value):
    with s.connect() as c:
        c.request("GET", "/hello", [("Connection", value)])
        assert c.is_closed()


def test_http_11_is_kept(s):
    with s.connect() as c:
        r = c.get("/hello")
        assert (r.get("connection") or "keep-alive").lower() == "keep-alive" and c.is_open()


def test_http_10_closes(s):
    with s.connect() as c:
        r = c.request("GET", "/hello", version="1.0")
        assert r.body == b"Hello, World!" and c.is_closed()


def test_http_10_keep_alive_is_honoured_when_the_length_is_known(s):
    with s.connect() as c:
        r = c.request("GET", "/hello", [("Connection", "keep-alive")], version="1.0")
        assert r.get("connection", "").lower() == "keep-alive"
        assert c.request("GET", "/hello", [("Connection", "keep-alive")], version="1.0").status == 200


def test_http_10_stream_is_delimited_by_close(s):
    with s.connect() as c:
        r = c.request("GET", "/stream?n=3&size=4", [("Connection", "keep-alive")], version="1.0")
        assert r.framing == "close" and r.body == b"aaaabbbbcccc"
        assert "keep-alive" not in (r.get("connection") or "").lower()


def test_application_may_close(s):
    with s.connect() as c:
        r = c.request("GET", "/reply-headers", [("X-Reply-Connection", "close")])
        assert r.all("connection") == ["close"] and c.is_closed()


def test_half_closed_client_is_answered(s):
    """A client that has sent its FIN (nc -N, some proxies) still gets the answer."""
    with s.connect() as c:
        c.send(b"GET /slow?s=0.1 HTTP/1.1\r\n" + H + b"\r\n").fin()
        assert c.response().body == b"slow" and c.is_closed()


# --- HEAD, 204, 304


def test_head(s):
    with s.connect() as c:
        r = c.request("HEAD", "/hello")
        assert (r.status, r.body, r.get("content-length")) == (200, b"", "13")
        assert c.get("/hello").body == b"Hello, World!"


def test_head_of_a_stream(s):
    with s.connect() as c:
        r = c.request("HEAD", "/stream?n=3&size=4")
        assert r.body == b"" and c.get("/hello").status == 200


@pytest.mark.parametrize("code", [204, 304])
@pytest.mark.parametrize("empty", ["", "&empty=1"])
def test_status_without_body(s, code, empty):
    with s.connect() as c:
        r = c.request("GET", f"/status?code={code}{empty}")
        assert r.status == code and r.body == b""
        assert not r.all("transfer-encoding")
        if code == 204:
            assert not r.all("content-length")
        assert c.get("/hello").status == 200


@pytest.mark.parametrize("code", [200, 201, 206, 299, 301, 404, 418, 451, 499, 500, 503, 599])
def test_status_line(s, code):
    r = s.get(f"/status?code={code}")
    assert r.status == code and r.body == b"body"
    assert re.match(rb"HTTP/1\.1 %d [^\r]*\r\n" % code, r.raw)


# --- 100-continue


def test_continue_only_when_the_application_reads(s):
    with s.connect() as c:
        c.send(b"POST /echo HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert c.response(informational=True).status == 100
        c.send(b"hello")
        assert c.response().body == b"hello"
        assert c.get("/hello").status == 200


def test_no_continue_when_the_application_does_not_read(s):
    with s.connect() as c:
        c.send(b"POST /ignore-body HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        r = c.response(informational=True)
        assert r.status == 200 and r.body == b"ignored"


def test_no_continue_when_the_body_is_already_there(s):
    with s.connect() as c:
        c.send(b"POST /echo HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        r = c.response(informational=True)
        if r.status == 100:  # allowed, RFC 9110 section 10.1.1 says MAY omit
            r = c.response()
        assert r.body == b"hello"


def test_no_continue_for_http_10(s):
    with s.connect() as c:
        c.send(b"POST /echo HTTP/1.0\r\n" + H + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        assert c.response(informational=True).body == b"hello"


def test_continue_with_chunked(s):
    with s.connect() as c:
        c.send(b"POST /echo HTTP/1.1\r\n" + H + b"Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert c.response(informational=True).status == 100
        c.send(wire.chunked(b"abc", b"def"))
        assert c.response().body == b"abcdef"


# --- headers of the answer


def test_date_and_server(s):
    r = s.get("/hello")
    assert len(r.all("date")) == 1 and r.get("server").lower().startswith("ringcorn")
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", r.get("date"))
    sent = time.mktime(time.strptime(r.get("date"), "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
    assert abs(sent - time.time()) < 3


def test_applications_own_date_and_server_win(s):
    r = s.get("/reply-headers", [("X-Reply-Server", "mine"), ("X-Reply-Date", "Thu, 01 Jan 1970 00:00:00 GMT")])
    assert r.all("server") == ["mine"] and r.all("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]


def test_date_and_server_can_be_left_out(server):
    s = server("raw:app", "--no-server-header", "--no-date-header", shared=True)
    assert not s.get("/hello").all("server") and not s.get("/hello").all("date")


def test_applications_headers_arrive_as_sent(s):
    r = s.get("/reply-headers", [("X-Reply-Set-Cookie", "a=1"), ("X-Reply-set-cookie", "b=2"), ("X-Reply-X-Latin", "caf\xe9")])
    assert r.all("set-cookie") == ["a=1", "b=2"] and r.all("x-latin") == ["caf\xe9"]


def test_transfer_encoding_of_the_application_does_not_reach_the_wire_twice(s):
    r = s.get("/reply-headers", [("X-Reply-Transfer-Encoding", "chunked")])
    assert r.body == b"headers" or r.status == 500
