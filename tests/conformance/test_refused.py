"""Requests that must be refused: what is sent, the status that comes back, and that the connection then closes.

Each row is one raw request; an application that saw it would have answered 200.
"""

import pytest

import wire

BIG = 100_000
H = b"Host: x\r\n"

# name: (bytes, statuses that are right)
REFUSED = {
    # --- request line (RFC 9112 section 3)
    "empty method": (b" / HTTP/1.1\r\n" + H + b"\r\n", {400, 501}),
    "method with a control character": (b"G\x01T / HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "lower case method": (b"get / HTTP/1.1\r\n" + H + b"\r\n", {400, 501}),
    "unknown method": (b"FROBNICATE / HTTP/1.1\r\n" + H + b"\r\n", {400, 501}),
    "no target": (b"GET HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "space in the target": (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "tab as separator": (b"GET\t/\tHTTP/1.1\r\n" + H + b"\r\n", {400}),
    "control character in the target": (b"GET /a\x01 HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "NUL in the target": (b"GET /a\x00b HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "raw non-ASCII in the target": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "target without a slash": (b"GET hello HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "asterisk without OPTIONS": (b"GET * HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "fragment in the target": (b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", {400}),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\n" + H + b"\r\n", {400, 405, 501}),
    "HTTP/0.9": (b"GET /\r\n\r\n", {400, 505}),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + H + b"\r\n", {400, 505}),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + H + b"\r\n", {400, 505}),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\n" + H + b"\r\n", {400, 505}),
    "http/1.1 in lower case": (b"GET / http/1.1\r\n" + H + b"\r\n", {400}),
    "HTP/1.1": (b"GET / HTP/1.1\r\n" + H + b"\r\n", {400}),
    "garbage after the version": (b"GET / HTTP/1.1x\r\n" + H + b"\r\n", {400}),
    "RTSP": (b"DESCRIBE / RTSP/1.0\r\n\r\n", {400, 501, 505}),
    "ICE": (b"SOURCE / ICE/1.0\r\n\r\n", {400, 501, 505}),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 40, {400}),
    "binary": (bytes(range(128, 250)), {400}),
    # --- line ends
    "request line ends with LF": (b"GET / HTTP/1.1\n" + H + b"\r\n", {400}),
    "header ends with LF": (b"GET / HTTP/1.1\r\nHost: x\n\r\n", {400}),
    "head ends with LF LF": (b"GET / HTTP/1.1\r\nHost: x\n\n", {400}),
    "empty line is a bare LF": (b"GET / HTTP/1.1\r\n" + H + b"\n", {400}),
    "bare CR in a header value": (b"GET / HTTP/1.1\r\n" + H + b"A: b\rc\r\n\r\n", {400}),
    "bare CR as line end": (b"GET / HTTP/1.1\r" + H + b"\r\n", {400}),
    # --- headers (RFC 9112 section 5)
    "space before the colon": (b"GET / HTTP/1.1\r\n" + H + b"A : b\r\n\r\n", {400}),
    "tab before the colon": (b"GET / HTTP/1.1\r\n" + H + b"A\t: b\r\n\r\n", {400}),
    "no colon": (b"GET / HTTP/1.1\r\n" + H + b"nonsense\r\n\r\n", {400}),
    "empty name": (b"GET / HTTP/1.1\r\n" + H + b": b\r\n\r\n", {400}),
    "space in a name": (b"GET / HTTP/1.1\r\n" + H + b"A B: c\r\n\r\n", {400}),
    "leading space on the first header": (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", {400}),
    "obs-fold with a space": (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n c\r\n\r\n", {400}),
    "obs-fold with a tab": (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n\tc\r\n\r\n", {400}),
    "NUL in a value": (b"GET / HTTP/1.1\r\n" + H + b"A: b\x00c\r\n\r\n", {400}),
    "control character in a value": (b"GET / HTTP/1.1\r\n" + H + b"A: b\x01c\r\n\r\n", {400}),
    "DEL in a value": (b"GET / HTTP/1.1\r\n" + H + b"A: b\x7fc\r\n\r\n", {400}),
    "NUL in a name": (b"GET / HTTP/1.1\r\n" + H + b"A\x00: c\r\n\r\n", {400}),
    "non-ASCII in a name": (b"GET / HTTP/1.1\r\n" + H + b"\xc3\xa9: c\r\n\r\n", {400}),
    "bracket in a name": (b"GET / HTTP/1.1\r\n" + H + b"a[b]: c\r\n\r\n", {400}),
    # --- Host (RFC 9112 section 3.2)
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", {400}),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", {400}),
    "two equal Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", {400}),
    "Host list": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", {400}),
    "Host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", {400}),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", {400}),
    "Host with user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", {400}),
    "Host with a bad port": (b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", {400}),
    "Host with an open bracket": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", {400}),
    # --- smuggling: two framings, or one that two parsers read differently (RFC 9112 section 6)
    "both framings": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "both framings, other order": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", {400}),
    "both framings, length 0": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", {400}),
    "two lengths": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", {400}),
    "two equal lengths": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", {400}),
    "length list": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 5, 5\r\n\r\nhello", {400}),
    "length with a plus": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: +5\r\n\r\nhello", {400}),
    "negative length": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: -5\r\n\r\nhello", {400}),
    "hex length": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 0x5\r\n\r\nhello", {400}),
    "length with a space inside": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 5 5\r\n\r\nhello", {400}),
    "length with underscore": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 1_0\r\n\r\nhellohello", {400}),
    "empty length": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\n", {400}),
    "length word": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: five\r\n\r\nhello", {400}),
    "length above 2^64": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: 18446744073709551621\r\n\r\nhello", {400, 413}),
    "length with a thousand digits": (b"POST /echo HTTP/1.1\r\n" + H + b"Content-Length: " + b"9" * 1000 + b"\r\n\r\nhello", {400, 413}),
    "unknown coding": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip\r\n\r\n", {400, 501}),
    "gzip, chunked": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "chunked not last": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", {400, 501}),
    "chunked twice": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "chunked in two headers": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "chunked and identity": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", {400, 501}),
    "identity": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n", {400, 501}),
    "xchunked": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "chunked with a parameter": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", {400, 501}),
    "chunked in quotes": (b"POST /echo HTTP/1.1\r\n" + H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', {400, 501}),
    "chunked with a vertical tab": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", {400, 501}),
    "empty coding": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", {400, 501}),
    "coding in HTTP/1.0": (b"POST /echo HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "space before the colon of a coding": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", {400}),
    "folded coding": (b"POST /echo HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", {400}),
    # --- limits
    "long request line": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n", {414}),
    "endless request line": (b"GET /" + b"a" * BIG, {414}),
    "endless query": (b"GET /?" + b"a" * BIG, {414}),
    "long header": (b"GET / HTTP/1.1\r\n" + H + b"A: " + b"a" * 70_000 + b"\r\n\r\n", {431}),
    "endless header value": (b"GET / HTTP/1.1\r\n" + H + b"A: " + b"a" * BIG, {431}),
    "endless header name": (b"GET / HTTP/1.1\r\n" + H + b"A" * BIG, {431}),
    "101 headers": (b"GET / HTTP/1.1\r\n" + H + b"".join(b"A%d: b\r\n" % i for i in range(100)) + b"\r\n", {431}),
    "endless small headers": (b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n" * 20_000, {431}),
    "endless method": (b"G" * BIG, {400, 414, 501}),
    # --- expectations
    "unknown expectation": (b"POST /echo HTTP/1.1\r\n" + H + b"Expect: cookies\r\nContent-Length: 1\r\n\r\nx", {417, 200}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(server, name):
    s = server("raw:app", shared=True)
    data, statuses = REFUSED[name]
    with s.connect() as c:
        try:
            c.send(data)
        except ConnectionError:
            pass  # refused before the end of it was written
        r = c.response()
        assert r.status in statuses, r
        if r.status >= 400:
            assert r.get("connection") == "close"
            assert c.is_closed()


@pytest.mark.parametrize("name", [n for n, (data, _) in REFUSED.items() if len(data) < 300])
def test_refused_when_sent_byte_by_byte(server, name):
    """The answer does not depend on how the bytes were cut."""
    s = server("raw:app", shared=True)
    data, statuses = REFUSED[name]
    with s.connect() as c:
        try:
            for i in range(len(data)):
                c.send(data[i : i + 1])
        except ConnectionError:
            pass
        try:
            assert c.response().status in statuses
        except wire.Closed as closed:
            # Bytes written after the refusal may turn the close into a reset that eats the answer.
            assert closed.got == b""


@pytest.mark.parametrize("name", ["both framings", "two lengths", "chunked in two headers", "space before the colon of a coding"])
def test_nothing_behind_a_refused_request_is_served(server, name):
    """What follows on the connection is never read as a request: that would be the smuggled one."""
    s = server("raw:app", shared=True)
    data, _ = REFUSED[name]
    with s.connect() as c:
        c.send(data + b"GET /status?code=299 HTTP/1.1\r\nHost: x\r\n\r\n")
        everything = c.rest()
        assert everything.startswith(b"HTTP/1.1 400") and b" 299" not in everything
        assert everything.count(b"HTTP/1.1 ") == 1


# --- bodies

BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "size word": b"five\r\nhello\r\n0\r\n\r\n",
    "negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "plus size": b"+5\r\nhello\r\n0\r\n\r\n",
    "0x size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "underscore in the size": b"1_0\r\nhellohellohello!\r\n0\r\n\r\n",
    "size above 2^64": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size of 100 digits": b"0" * 99 + b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n",
    "LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "CR alone after the size": b"5\rhello\r\n0\r\n\r\n",
    "no CRLF after the data": b"5\r\nhello0\r\n\r\n",
    "LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "data longer than the size": b"5\r\nhello world\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    "endless extension": b"5;" + b"a" * 50_000 + b"\r\nhello\r\n0\r\n\r\n",
    "endless zeros": b"0" * 50_000 + b"5\r\nhello\r\n0\r\n\r\n",
    "trailer without a colon": b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
    "trailer with a space before the colon": b"5\r\nhello\r\n0\r\nA : b\r\n\r\n",
    "trailer folded": b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
    "trailer ends with LF": b"5\r\nhello\r\n0\r\nA: b\n\r\n",
    "endless trailer": b"5\r\nhello\r\n0\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
    "endless trailers": b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunk(server, name):
    """The application never sees such a body as complete; the connection is closed, with 4xx where nothing was answered yet."""
    s = server("raw:app", shared=True)
    with s.connect() as c:
        try:
            c.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + BAD_CHUNKS[name])
        except ConnectionError:
            pass
        everything = c.rest()
        assert b" 200 " not in everything
        assert everything == b"" or everything.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.1 431"))
        assert everything.count(b"HTTP/1.1 ") <= 1


def test_body_limit(server):
    """413 before reading: by the declared length, or when a chunked body grows beyond it."""
    s = server("raw:app", "--limit-body", "1000", shared=True)
    assert s.post("/count", b"x" * 1000).status == 200
    with s.connect() as c:
        c.send("POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        assert c.response().status == 413
        assert c.is_closed()
    with s.connect() as c:
        c.send(b"POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + wire.chunked(b"x" * 600, b"x" * 600))
        everything = c.rest()
        assert everything.startswith(b"HTTP/1.1 413") and everything.count(b"HTTP/1.1") == 1
    with s.connect() as c:
        c.send("POST /count HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
        assert c.response().status == 413


def test_limits_are_settings(server):
    s = server("raw:app", "--limit-request-line", "100", "--limit-headers", "5", "--limit-header-size", "1000", shared=True)
    line = b"GET /%s HTTP/1.1\r\nHost: x\r\n"
    for extra, status in (
        (line % (b"a" * 50), 404),
        (line % (b"a" * 200), 414),
        (line % b"" + b"A: b\r\n" * 4, 200),
        (line % b"" + b"A: b\r\n" * 5, 431),
        (line % b"" + b"A: " + b"b" * 1200 + b"\r\n", 431),
    ):
        with s.connect() as c:
            c.send(extra + b"\r\n")
            assert c.response().status == status, extra


def test_100_headers_are_served(server):
    s = server("raw:app", shared=True)
    assert s.get("/", [(f"A{i}", "b") for i in range(98)]).status == 200


def test_just_below_the_limits_is_served(server):
    s = server("raw:app", shared=True)
    assert s.get("/?" + "a" * 8000).status == 200
    assert s.get("/", [(f"A{i}", "b" * 6000) for i in range(10)]).status == 200
