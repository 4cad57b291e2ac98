"""Properties, by Hypothesis: a request means the same however its bytes are cut into writes; an application's messages, in whatever
order, are answered or refused, and never leave a client hanging."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wire

QUICK = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
names = st.text(TOKEN, min_size=1, max_size=20).map(lambda s: "x-" + s)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=40).map(
    lambda s: "".join(c for c in s if not 0x7F <= ord(c) <= 0x9F).strip(" \t\xa0\x85")
)
segments = st.text("abcXYZ019-._~!$&'()*+,;=:@", max_size=12) | st.binary(min_size=1, max_size=4).map(
    lambda b: "".join(f"%{x:02X}" for x in b)
)
paths = st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(parts))
queries = st.text("abc=&%20+?/:@", max_size=30)
bodies = st.binary(max_size=3000)


@st.composite
def requests(draw):
    """(bytes of one request, what the application must see)."""
    method = draw(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]))
    path, query = draw(paths), draw(queries)
    headers = draw(st.lists(st.tuples(names, values), max_size=8))
    target = path + ("?" + query if query else "")
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    for name, value in headers:
        space = draw(st.sampled_from(["", " ", "\t", "  "]))
        lines.append(f"{name}:{space}{value}{draw(st.sampled_from(['', ' ', chr(9)]))}")
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    body = b"" if framing == "none" else draw(bodies)
    coded = body
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)])]
        trailers = draw(st.sampled_from([(), (b"X-Trailer: 1",), (b"A: b", b"C:")]))
        coded = wire.chunked(*pieces, trailers=trailers)
    data = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + coded
    expected = {"method": method, "raw_path": path, "query": query, "headers": headers, "body": body}
    return data, expected


def pair(header):
    header = header["tuple"] if isinstance(header, dict) else header
    return header[0]["bytes"], header[1]["bytes"]


def check(response, expected):
    assert response.status == 200, response
    seen = response.json()
    assert seen["method"] == expected["method"]
    assert seen["raw_path"]["bytes"] == expected["raw_path"]
    assert seen["query_string"]["bytes"] == expected["query"]
    assert seen["_body"] == expected["body"].decode("latin-1")
    ours = [pair(h) for h in seen["headers"] if pair(h)[0].startswith("x-")]
    assert ours == [(n.lower(), v) for n, v in expected["headers"]]


@QUICK
@given(st.data())
def test_any_split_means_the_same(server, data):
    s = server("scope_only:app", shared=True)
    raw, expected = data.draw(requests())
    cuts = data.draw(st.lists(st.integers(1, max(1, len(raw) - 1)), max_size=12))
    with s.connect() as c:
        c.send_slowly(raw, cuts)
        check(c.response(), expected)


@QUICK
@given(st.data())
def test_any_split_of_a_pipeline_means_the_same(server, data):
    s = server("scope_only:app", shared=True)
    several = data.draw(st.lists(requests(), min_size=2, max_size=5))
    raw = b"".join(r for r, _ in several)
    cuts = data.draw(st.lists(st.integers(1, len(raw) - 1), max_size=20))
    with s.connect() as c:
        c.send_slowly(raw, cuts)
        for _, expected in several:
            check(c.response(), expected)
        assert c.is_open(0.01)


def test_byte_by_byte(server):
    s = server("scope_only:app", shared=True)
    raw = b"POST /a%20b?q=1 HTTP/1.1\r\nHost: x\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3;e=f\r\nabc\r\n0\r\nT: u\r\n\r\n"
    with s.connect() as c:
        for _ in range(2):
            c.send_slowly(raw, range(1, len(raw)), delay=0.0005)
            check(c.response(), {"method": "POST", "raw_path": "/a%20b", "query": "q=1", "headers": [("x-a", "b")], "body": b"abc"})


@QUICK
@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_answered_or_closed(server, data, after_a_request):
    """Whatever bytes come: one answer each or a close, within the time limit; the worker goes on."""
    s = server("scope_only:app", shared=True)
    with s.connect() as c:
        if after_a_request:
            c.get("/")
        try:
            c.send(data).fin()
            everything = c.rest()
        except ConnectionError:
            everything = b""
        assert everything == b"" or everything.startswith(b"HTTP/1.1 ")
    assert s.get("/").status == 200


@QUICK
@given(st.data())
def test_mutated_request_is_answered_or_closed(server, data):
    """A good request with a few bytes changed, dropped or doubled."""
    s = server("scope_only:app", shared=True)
    raw = bytearray(data.draw(requests())[0])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["change", "drop", "double", "crlf"]))
        if kind == "change":
            raw[at] = data.draw(st.integers(0, 255))
        elif kind == "drop" and len(raw) > 1:
            del raw[at]
        elif kind == "double":
            raw[at:at] = raw[at : at + 1]
        else:
            raw[at:at] = b"\r\n"
    with s.connect() as c:
        try:
            c.send(bytes(raw)).fin()
            everything = c.rest()
        except ConnectionError:
            everything = b""
        assert everything == b"" or everything.startswith(b"HTTP/1.1 ")


# --- messages of the application

head = st.fixed_dictionaries(
    {"type": st.just("http.response.start"), "status": st.sampled_from([200, 204, 304, 404, 500, 99, 0])},
    optional={"headers": st.sampled_from([[], [["x-a", "b"]], [["content-length", "3"]], [["content-length", "0"]], [["bad name", "x"]]])},
)
piece = st.fixed_dictionaries(
    {"type": st.just("http.response.body")}, optional={"body": st.sampled_from([0, 3, 70000]), "more_body": st.booleans()}
)
odd = st.sampled_from([{"type": "http.response.trailers"}, {"type": ""}, {}, {"type": "http.disconnect"}, {"wait": 0.001}, {"receive": True}])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@QUICK
@given(st.lists(head | piece | odd, max_size=6), st.sampled_from(["stop", "go on"]))
def test_any_order_of_messages_is_answered_or_refused(server, method, messages, on_error):
    s = server("scripted:app", shared=True)
    s.expect_errors("")  # what it refuses, it logs
    script = json.dumps({"messages": messages, "on_error": on_error})
    with s.connect() as c:
        c.send(wire.request(method, "/", [("X-Script", script), ("Connection", "close")], b"body" if method == "POST" else b""))
        try:
            r = c.response(method)
            assert r.status in (200, 204, 304, 404, 500)
            assert c.is_closed()
        except wire.Closed as closed:
            # Cut off: only after a head that promised more than came.
            assert closed.got == b"" or b"HTTP/1.1 " not in closed.got
