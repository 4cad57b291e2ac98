"""WSGI (PEP 3333): environ, wsgi.input, start_response(), every kind of result, what goes wrong, which callable is what."""

import hashlib
import json
import random
import re

import pytest

import wire

THREADS = ("--sync-threads", "4")


@pytest.fixture
def s(server):
    return server("wsgi_raw:app", *THREADS, shared=True)


def environ(server, target, headers=(), method="GET", body=b"", version="1.1", address=None):
    with server.connect(address=address) as c:
        r = c.request(method, target, headers, body, version)
    assert r.status == 200, r
    return r.json()


# --- environ


def test_environ_of_a_plain_request(s):
    with s.connect() as c:
        client = c.sock.getsockname()
        e = c.get("/environ?a=b&c=%20", {"Host": "example.org:8080", "User-Agent": "tester/1.0"}).json()
    assert e.pop("type") == "dict"
    assert e == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "a=b&c=%20",
        "RAW_URI": "/environ?a=b&c=%20",
        "REQUEST_URI": "/environ?a=b&c=%20",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(s.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": e["SERVER_SOFTWARE"],
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "HTTP_HOST": "example.org:8080",
        "HTTP_USER_AGENT": "tester/1.0",
        "wsgi.version": "<tuple>",
        "wsgi.url_scheme": "http",
        "wsgi.input": "<_Input>",
        "wsgi.input_terminated": True,
        "wsgi.errors": "<TextIOWrapper>",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": "<type>",
        "ringcorn.worker": "<Presence>",
    }
    assert re.fullmatch(r"ringcorn/\d+\.\d+\.\d+", e["SERVER_SOFTWARE"])


PATHS = [
    ("/environ", "/environ", ""),
    ("/environ?", "/environ", ""),
    ("/environ?a=%41&b", "/environ", "a=%41&b"),
    ("/environ?x?y", "/environ", "x?y"),
    ("/%65nviron", "/environ", ""),
    ("/environ%2fa", "/environ/a", ""),
    ("/environ/%C3%A9", "/environ/\xc3\xa9", ""),
    ("/environ/%ff%00", "/environ/\xff\0", ""),
    ("/environ/%zz%4", "/environ/%zz%4", ""),
    ("/environ//a/../b/", "/environ//a/../b/", ""),
    ("http://other.example/environ?q", "/environ", "q"),
    ("http://other.example", "/", ""),
]


@pytest.fixture
def any_path(server):
    """Answers every path with its environ."""
    return server("wsgi_raw:environ_", *THREADS, shared=True)


@pytest.mark.parametrize("target,path,query", PATHS)
def test_paths(any_path, target, path, query):
    e = environ(any_path, target)
    assert (e["PATH_INFO"], e["QUERY_STRING"], e["SCRIPT_NAME"]) == (path, query, "")
    assert e["RAW_URI"] == e["REQUEST_URI"] == target


def test_options_of_the_server(any_path):
    e = environ(any_path, "*", method="OPTIONS")
    assert (e["PATH_INFO"], e["SCRIPT_NAME"], e["REQUEST_METHOD"], e["RAW_URI"]) == ("", "", "OPTIONS", "*")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH"])
def test_methods(any_path, method):
    assert environ(any_path, "/", method=method)["REQUEST_METHOD"] == method


@pytest.mark.parametrize("told,script_name", [("/app", "/app"), ("/app/", "/app"), ("/", ""), ("/\u00e9", "/\xc3\xa9")])
def test_root_path(server, told, script_name):
    s = server("wsgi_raw:environ_", "--root-path", told)
    e = environ(s, "/x")
    assert (e["SCRIPT_NAME"], e["PATH_INFO"]) == (script_name, "/x")


def test_http_1_0(any_path):
    e = environ(any_path, "/", version="1.0")
    assert e["SERVER_PROTOCOL"] == "HTTP/1.0" and "HTTP_HOST" not in e


HEADERS = [
    ([("Content-Type", "text/x")], {"CONTENT_TYPE": "text/x", "HTTP_CONTENT_TYPE": None}),
    ([("Content-Length", "0")], {"CONTENT_LENGTH": "0", "HTTP_CONTENT_LENGTH": None}),
    ([], {"CONTENT_TYPE": None, "CONTENT_LENGTH": None}),
    ([("X-A", "1"), ("x-a", "2"), ("X-a", "3")], {"HTTP_X_A": "1,2,3"}),
    ([("Accept", "a"), ("Accept", "b")], {"HTTP_ACCEPT": "a,b"}),
    ([("X-Same", "a"), ("X-Same", "a")], {"HTTP_X_SAME": "a,a"}),
    ([("Cookie", "a=1"), ("Cookie", "b=2")], {"HTTP_COOKIE": "a=1; b=2"}),
    ([("X_Spoofed", "evil")], {"HTTP_X_SPOOFED": None}),
    ([("X_Spoofed", "evil"), ("X-Spoofed", "right")], {"HTTP_X_SPOOFED": "right"}),
    ([("X-Spoofed", "right"), ("X_Spoofed", "evil")], {"HTTP_X_SPOOFED": "right"}),
    ([("X-Latin", "\xe9\xff")], {"HTTP_X_LATIN": "\xe9\xff"}),
    ([("X-Empty", "")], {"HTTP_X_EMPTY": ""}),
    ([("X-Space", "  a b  ")], {"HTTP_X_SPACE": "a b"}),
    ([("X-" + "long-" * 20 + "name", "v" * 3000)], {"HTTP_X_" + "LONG_" * 20 + "NAME": "v" * 3000}),
    ([("X1.$", "odd")], {"HTTP_X1.$": "odd"}),
    ([("Authorization", "Basic eA==")], {"HTTP_AUTHORIZATION": "Basic eA=="}),
]  # fmt: skip


@pytest.mark.parametrize("headers,expected", HEADERS, ids=range(len(HEADERS)))
def test_headers(any_path, headers, expected):
    for _ in range(2):  # the second time from the caches
        e = environ(any_path, "/", headers)
        assert {name: e.get(name) for name in expected} == expected


def test_many_headers_of_many_clients(any_path):
    """Caches of fixed size: what collides in them is told apart."""
    dice = random.Random(5)
    with any_path.connect() as c:
        for _ in range(60):
            headers = {f"X-H{dice.randrange(500)}": f"value {dice.randrange(5000)}" for _ in range(90)}
            e = c.get("/", headers).json()
            for name, value in headers.items():
                assert e["HTTP_" + name.upper().replace("-", "_")] == value


def test_unix_socket(server, tmp_path):
    """It has no name of its own: what Host says, or localhost."""
    s = server("wsgi_raw:environ_", bind=f"unix:{tmp_path}/s.sock")
    for host, name, port in [("example.org:81", "example.org", "81"), ("example.org", "example.org", "80"), ("[::1]:82", "[::1]", "82")]:
        e = environ(s, "/", {"Host": host})
        assert (e["SERVER_NAME"], e["SERVER_PORT"], e["REMOTE_ADDR"]) == (name, port, "") and "REMOTE_PORT" not in e
    e = environ(s, "/", version="1.0")
    assert (e["SERVER_NAME"], e["SERVER_PORT"]) == ("localhost", "80")


def test_ipv6(server):
    s = server("wsgi_raw:environ_", bind="[::1]:0")
    e = environ(s, "/")
    assert (e["SERVER_NAME"], e["REMOTE_ADDR"], e["SERVER_PORT"]) == ("::1", "::1", str(s.port))


def test_addresses_are_each_connection_s_own(any_path):
    with any_path.connect() as a, any_path.connect() as b:
        for c in (a, b, a, b):
            assert c.get("/").json()["REMOTE_PORT"] == str(c.sock.getsockname()[1])


def test_several_workers_are_told(server):
    s = server("wsgi_raw:environ_", "--workers", "2")
    s.wait_log("worker 0 is ready")
    s.wait_log("worker 1 is ready")
    s.settle()
    assert environ(s, "/")["wsgi.multiprocess"] is True


# --- the body

WAYS = ["read", "readn", "read1", "readline", "readlinen", "readlines", "readlineshint", "iterate", "readinto", "buffered", "text"]
SIZES = [1, 400, 5000, 70_000, 1_500_000]


def lines(size):
    """A body with lines of all lengths."""
    dice, text = random.Random(size), b""
    while len(text) < size:
        text += b"x" * dice.choice((0, 1, 10, 100, 30_000)) + dice.choice((b"\n", b"\n", b"\r\n", b"\r"))
    return text[:size]


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", WAYS)
def test_ways_to_read(s, how, framing):
    with s.connect() as c:
        for size in SIZES:
            data = lines(size)
            if framing == "length":
                c.send(wire.request("POST", f"/digest?how={how}&n=777", (), data))
            else:
                pieces = [data[i : i + 50_001] for i in range(0, size, 50_001)]
                c.send(wire.request("POST", f"/digest?how={how}&n=777", [("Transfer-Encoding", "chunked")]) + wire.chunked(*pieces))
            got = c.response().json()
            assert (got["size"], got["sha256"]) == (size, hashlib.sha256(data).hexdigest())
            assert got["after"], "beyond the end there is nothing"
            if how in ("readn", "read1", "readlinen", "readinto"):
                assert got["longest"] <= 777
            if how == "readn":
                assert set(got["sizes"][:-1]) <= {777} or len(got["sizes"]) == 100
            if how in ("readline", "readlines", "iterate"):
                assert got["lines"] and got["sizes"] == [len(line) for line in data.splitlines(True) if line][:100] or b"\r" in data


def test_a_body_in_small_steps(s):
    """The thread waits for each piece; short ones are gathered for it."""
    for size, framing in ((300, "length"), (90_000, "length"), (300, "chunked")):
        data = lines(size)
        raw = wire.request("POST", "/digest?how=readline", (), data)
        if framing == "chunked":
            raw = wire.request("POST", "/digest?how=readline", [("Transfer-Encoding", "chunked")]) + wire.chunked(*(data[i : i + 7] for i in range(0, size, 7)))
        with s.connect() as c:
            step = max(1, len(raw) // 40)
            c.send_slowly(raw, range(step, len(raw), step), 0.002)
            assert c.response().json()["sha256"] == hashlib.sha256(data).hexdigest()
            assert c.get("/hello").status == 200


def test_no_body(s):
    for method, headers in (("GET", ()), ("POST", {"Content-Length": "0"}), ("DELETE", ())):
        with s.connect() as c:
            got = c.request(method, "/digest?how=read", headers).json()
            assert got["size"] == 0 and got["after"]


@pytest.mark.parametrize("size", [10, 10_000, 60_000, 1_000_000])
def test_a_body_that_nobody_reads(s, size):
    """The connection serves the next request, or closes, but never mistakes the rest for one."""
    with s.connect() as c:
        c.send(wire.request("POST", "/hello", (), b"x" * size))
        r = c.response()
        assert r.status == 200
        if r.get("connection") != "close":
            assert c.get("/hello").body == b"Hello, World!"


def test_expect_100_continue(s):
    with s.connect() as c:
        c.send(wire.request("POST", "/echo", {"Content-Length": "5", "Expect": "100-continue"}))
        assert c.response(informational=True).status == 100
        c.send(b"hello")
        assert c.response().body == b"hello"
    with s.connect() as c:  # who does not read does not ask for it either
        c.send(wire.request("POST", "/hello", {"Content-Length": "5", "Expect": "100-continue"}))
        assert c.response(informational=True).status == 200


def test_input_refuses(s):
    said = s.post("/input-misuse", b"all of it").json()
    assert said == ["TypeError", "TypeError", "TypeError", "OverflowError", True, False, False, False, "", "all of it"]


def test_what_is_kept_beyond_the_request_is_dead(s):
    assert s.get("/keep").body == b"kept"
    assert s.get("/kept").json() == ["ValueError", "RuntimeError", "RuntimeError"]


def test_body_limit(server):
    s = server("wsgi_raw:app", "--limits-body", "100000")
    assert s.post("/echo", b"x" * 100_000).status == 200
    assert s.post("/echo", b"x" * 100_001).status == 413
    with s.connect() as c:
        c.send(wire.request("POST", "/count?name=limit", [("Transfer-Encoding", "chunked")]))
        for _ in range(21):
            c.send(b"1388\r\n" + b"x" * 5000 + b"\r\n")
        assert c.response().status == 413
    s.wait_event("limit", "^ClientDisconnected after ")


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_body_timeout(server, size):
    """A short body is awaited without a thread, a long one in the thread; who stops sending gets 408 either way."""
    s = server("wsgi_raw:app", "--timeouts-body", "300ms")
    with s.connect() as c:
        c.send(wire.request("POST", "/count?name=stuck", {"Content-Length": str(size)}) + b"x" * 50)
        assert c.response().status == 408
    assert s.events().get("stuck", "") == ("" if size == 100 else "ClientDisconnected after 0")


def test_read_and_written_by_another_thread(s):
    data = lines(200_000)
    r = s.post("/foreign-thread", data)
    assert r.body == data * 20 + b"[200000]"


# --- start_response()

BAD = {
    "status-int": "TypeError", "status-bytes": "TypeError", "status-short": "ValueError", "status-word": "ValueError", "status-100": "ValueError",
    "status-dash": "ValueError", "status-newline": "ValueError", "status-wide": "ValueError", "headers-tuple": "TypeError",
    "headers-none": "TypeError", "headers-dict": "TypeError", "header-list": "TypeError", "header-three": "TypeError",
    "header-bytes": "TypeError", "header-int": "TypeError", "name-empty": "ValueError", "name-space": "ValueError",
    "name-colon": "ValueError", "name-wide": "ValueError", "value-newline": "ValueError", "value-nul": "ValueError",
    "value-wide": "ValueError", "length-word": "ValueError", "length-twice": "ValueError",
    **{f"hop-{n}": "ValueError" for n in (
        "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer", "Trailers", "Transfer-Encoding", "UPGRADE")},
    "exc-info-word": "TypeError", "exc-info-short": "TypeError", "no-arguments": "TypeError", "one-argument": "TypeError",
    "four-arguments": "TypeError",
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_start_response_refuses(s, what):
    """While the application can still hear of it; nothing of it is sent, and it can start anew."""
    r = s.get(f"/bad-start?what={what}")
    assert r.status == 200 and r.text.startswith(f"{BAD[what]}: "), r
    assert r.get("x-evil") is None
    if what.startswith("hop-"):
        assert "hop-by-hop" in r.text


GOOD = {
    "no-phrase": "HTTP/1.1 404 Not Found",
    "own-phrase": "HTTP/1.1 200 Very Well",
    "latin-1": "HTTP/1.1 200 \xe9",
    "exc-info-none": "HTTP/1.1 200 OK",
    "exc-info-keyword": "HTTP/1.1 200 OK",
    "many-headers": "HTTP/1.1 200 OK",
    "cookies": "HTTP/1.1 200 OK",
    "subclasses": "HTTP/1.1 200 OK",
}


@pytest.mark.parametrize("what", GOOD)
def test_start_response_takes(s, what):
    with s.connect() as c:
        c.send(wire.request("GET", f"/good-start?what={what}"))
        raw = c.until(b"\r\n\r\n").decode("latin-1")
        assert raw.split("\r\n")[0] == GOOD[what]
        c.exactly(len(what))
    if what == "latin-1":
        assert "X-Latin: \xe9\xff\r\n" in raw
    if what == "many-headers":
        assert all(f"X-{i}: {'v' * 50}\r\n" in raw for i in range(200))
    if what == "cookies":
        assert "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in raw


# --- results

SHAPES = ["list", "tuple", "iter", "sized", "old", "sub", "closing"]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("size", [5, 20_000, 300_000])
def test_shapes_of_results(s, kind, size):
    expected = b"onetwo" + b"x" * size
    with s.connect() as c:
        for length in ("", "&length=1"):
            r = c.get(f"/shapes?kind={kind}&size={size}&name=shape-{kind}{length}")
            assert r.status == 200 and r.body == expected
            if length or kind in ("list", "tuple"):
                assert r.framing == "length"
        assert c.get("/hello").status == 200


@pytest.mark.parametrize("kind", ["list", "tuple", "sized", "sub", "set"])
def test_one_piece_has_a_length(s, kind):
    r = s.get(f"/shapes?kind={kind}&single=1")
    assert r.framing == "length" and r.body == b"one"


BODILESS = [("HEAD", "200 OK"), ("HEAD", "204 No Content"), ("GET", "204 No Content"), ("HEAD", "304 Not Modified"), ("GET", "304 Not Modified")]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method,status", BODILESS)
def test_answers_without_a_body(s, kind, version, status, method):
    """HEAD, 204 and 304: whatever the application returns, no byte of it is sent, and the connection goes on."""
    target = f"/shapes?kind={kind}&status={status.replace(' ', '%20')}&name=no-body"
    with s.connect() as c:
        for _ in range(2):
            r = c.request(method, target, {"Connection": "keep-alive"}, version=version)
            assert r.status == int(status[:3]) and r.body == b""
            assert not (r.status == 204 and r.get("content-length")) and not r.get("transfer-encoding")
        if kind in ("list", "tuple") and status == "200 OK":
            assert r.get("content-length") in (None, "11")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("n,size", [(0, 1), (1, 10), (5, 10), (200, 1), (40, 20_000), (3, 400_000)])
@pytest.mark.parametrize("length", ["", "&length=1"])
def test_streams(s, n, size, length, version):
    with s.connect() as c:
        r = c.request("GET", f"/stream?n={n}&size={size}{length}", version=version)
        assert r.body == b"".join(bytes([97 + i % 26]) * size for i in range(n))
        if length:
            assert r.framing == "length"


def test_a_piece_leaves_before_the_next_is_made(s):
    """PEP 3333, "Buffering and Streaming": no block of the body waits for another."""
    with s.connect() as c:
        c.send(wire.request("GET", "/stream?n=3&size=4&gate=between"))
        assert c.until(b"\r\n\r\n") and c.until(b"aaaa")
        s.get("/release?name=between")
        assert c.until(b"cccc")


def test_empty_pieces_do_not_send_the_head(s):
    r = s.get("/empties")
    assert (r.status, r.body) == (202, b"ab")


def test_start_response_in_the_first_step_of_a_generator(s):
    r = s.get("/late-start")
    assert (r.status, r.body) == (201, b"late")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("query,body", [("", b"onetwo"), ("?more=1", b"onetwoend"), ("?length=1", b"onetwoend")])
def test_write(s, query, body, version):
    with s.connect() as c:
        r = c.request("GET", f"/write{query}", version=version)
        assert r.body == body and ("length" not in query or r.framing == "length")


def test_write_refuses(s):
    r = s.get("/write-misuse")
    assert json.loads(r.body) == ["TypeError"] * 4


def test_large_answers(s):
    with s.connect() as c:
        for size in (0, 1, 16_383, 16_384, 16_385, 70_000, 20_000_000):
            assert c.get(f"/large?size={size}").body == b"x" * size


def test_bodies_both_ways_at_once(s):
    data = lines(3_000_000)
    with s.connect(timeout=30) as c:
        c.send(wire.request("POST", "/two-ways", {"Content-Length": str(len(data))}))
        sent, got = 0, b""
        c.send(data[:200_000])
        head = c.until(b"\r\n\r\n")
        assert b"chunked" in head
        sent = 200_000
        chunks = []
        while True:
            size = int(c.until(b"\r\n"), 16)
            if size == 0:
                break
            chunks.append(c.exactly(size))
            c.exactly(2)
            got = sum(map(len, chunks))
            while sent < len(data) and sent - got < 200_000:
                c.send(data[sent : sent + 50_000])
                sent += 50_000
        assert b"".join(chunks) == data.upper()


# --- wsgi.file_wrapper

DATA = (b"0123456789abcdef" * 20_000)[:200_000]
FILES = {
    "kind=file": DATA,
    "kind=raw": DATA,
    "kind=random": DATA,
    "kind=bytesio": DATA,
    "kind=gzip": DATA,  # its descriptor is of something else
    "kind=named": DATA,
    "kind=file&at=1000": DATA[1000:],
    "kind=raw&at=1000": DATA[1000:],
    "kind=bytesio&at=1000": DATA[1000:],
    "kind=gzip&at=1000": DATA[1000:],
    "kind=file&peek=10": DATA[10:],  # what is read ahead is not lost
    "kind=file&length=5000": DATA[:5000],
    "kind=file&at=100&length=50": DATA[100:150],
    "kind=file&size=0": b"",
    "kind=file&size=1": b"0",
    "kind=file&at=200000": b"",
    "kind=file&at=300000": b"",
    "kind=file&write=1": b"first;" + DATA,
    "kind=file&iterate=1": DATA,
}


@pytest.mark.parametrize("query", FILES)
def test_file_wrapper(s, query):
    s.get("/files-closed?clear=1")
    with s.connect() as c:
        for method, version in (("GET", "1.1"), ("HEAD", "1.1"), ("GET", "1.0")):
            r = c.request(method, f"/file?{query}", {"Connection": "keep-alive"}, version=version)
            assert r.status == 200
            if method == "GET":
                assert r.body == FILES[query]
            if r.framing == "close":
                break
    if "iterate" not in query:  # else it is not the wrapper that the server has
        wire.eventually(lambda: (closed := s.get("/files-closed").json()) and all(closed), 5, "the wrapper closes its file")


def test_a_real_file_has_its_length(s):
    r = s.get("/file?kind=file&at=1000")
    assert r.framing == "length" and r.get("content-length") == "199000"


def test_file_wrapper_around_anything_with_read(s):
    assert s.get("/only-read").body == b"onetwo"


@pytest.mark.parametrize("query,line", [("kind=text", "the body must be bytes, not str"), ("kind=closed", "closed file")])
def test_files_that_cannot_be_sent(s, query, line):
    s.expect_errors("GET /file: exception", line)
    assert s.get(f"/file?{query}").status == 500


def test_a_file_shorter_than_its_content_length(s):
    s.expect_errors("GET /file: the application sent less body than its Content-Length")
    with s.connect() as c:
        c.send(wire.request("GET", "/file?kind=file&size=1000&length=2000"))
        c.head()
        assert c.rest().endswith(DATA[:1000])


# --- what goes wrong

BOOMS = {
    "before": (500, "RuntimeError: boom before"),
    "exit": (500, "SystemExit: 3"),
    "no-start": (500, "sent a body without calling start_response"),
    "no-start-empty": (500, "returned without calling start_response"),
    "none": (500, "'NoneType' object is not iterable"),
    "bytes": (500, "returned bytes, not an iterable of bytes"),
    "str": (500, "the body must be bytes, not str"),
    "twice": (500, "called a second time, without exc_info"),
    "after-start": (500, "boom after-start"),
    "cause": (500, "KeyError: 'the cause'"),
    "first": (500, "boom first"),
}


@pytest.mark.parametrize("where", BOOMS)
def test_exceptions_before_the_head(s, where):
    """500, one entry with the traceback, and the connection goes on."""
    status, text = BOOMS[where]
    since = len(s.err.lines)
    s.expect_errors("GET /boom: exception", re.escape(text))
    with s.connect() as c:
        r = c.get(f"/boom?where={where}")
        assert (r.status, r.body) == (status, b"Internal Server Error\n")
        assert c.get("/hello").status == 200
    s.wait_log(re.escape(text), since=since)
    assert sum("error: GET /boom" in line for line in s.err.lines[since:]) == 1
    if where == "first":
        assert s.events()["boom-first-closed"] == s.events()["boom-first-closed-same"]


@pytest.mark.parametrize("where", ["middle", "middle-str", "middle-length", "exc-info-late"])
def test_exceptions_after_the_head(s, where):
    """The answer is cut off so that the client sees it; the result is closed."""
    since = len(s.err.lines)
    before = int(s.events().get(f"boom-{where}-closed", 0))
    s.expect_errors("GET /boom: exception after the response had begun")
    with s.connect() as c:
        c.send(wire.request("GET", f"/boom?where={where}"))
        with pytest.raises(wire.Closed):
            r = c.response()
            assert False, r
    s.wait_event(f"boom-{where}-closed", f"^{before + 1}$")
    s.wait_log("boom|must be bytes", since=since)


def test_error_page_in_place_of_what_was_started(s):
    r = s.get("/exc-info")
    assert (r.status, r.reason, r.body) == (500, "Own Error", b"own error page")
    assert r.get("x-second") == "2" and r.get("x-first") is None and r.get("content-length") == "14"


def test_exception_in_close(s):
    s.expect_errors("GET /boom-close: exception in close\\(\\)", "boom in close")
    with s.connect() as c:
        assert c.get("/boom-close").body == b"fine"
        s.wait_log("boom in close")
        assert c.get("/hello").status == 200


LENGTHS = [
    ("length=10&sizes=4,4", "less", b"xxxxxxxx"),
    ("length=10&sizes=", "less", b""),
    ("length=10&sizes=4,8", "more", b"x" * 10),
    ("length=10&sizes=11", "more", b"x" * 10),
    ("length=10&sizes=10,1", "more", b"x" * 10),
    ("length=100&sizes=4,4&iterate=1", "less", b"x" * 8),
    ("length=10&sizes=4,8&iterate=1", "more", b"x" * 10),
    ("length=10&sizes=10,1,1&iterate=1", "more", b"x" * 10),
    ("length=30000&sizes=20000,20000&iterate=1", "more", b"x" * 30000),
    ("length=10&sizes=4,8&write=1", "more", b"x" * 10),
    ("length=10&sizes=4,4&write=1", "less", b"x" * 8),
]


@pytest.mark.parametrize("query,what,body", LENGTHS)
def test_wrong_content_length(s, query, what, body):
    """Never a byte more than was told; less closes the connection. A line names the request."""
    s.expect_errors(
        "GET /wrong-length: exception", r"more body than its Content-Length"
    ) if what == "more" else s.expect_errors("GET /wrong-length: the application sent less body")
    since = len(s.err.lines)
    with s.connect() as c:
        c.send(wire.request("GET", f"/wrong-length?{query}"))
        head = c.head()
        assert head.get("content-length") == re.search(r"length=(\d+)", query)[1]
        if what == "less":
            assert c.rest() == body
        else:
            assert c.exactly(len(body)) == body
            assert c.get("/hello").body == b"Hello, World!"
    s.wait_log("more body than|less body than", since=since)


def test_a_body_where_content_length_says_none(s):
    s.expect_errors("GET /wrong-length: exception", "more body than its Content-Length, which is 0")
    assert s.get("/wrong-length?length=0&sizes=1").status == 500


# --- errors, threads, contexts


def test_errors_stream(s):
    since = len(s.err.lines)
    assert s.get("/errors?text=said-by-the-application").status == 200
    s.wait_log("^said-by-the-application$", since=since)
    s.wait_log("^a line$", since=since)
    s.wait_log("^printed$", since=since)


def test_errors_stream_goes_to_the_log_file(server, tmp_path):
    s = server("wsgi_raw:app", "--log-file", tmp_path / "error.log", wait=False)
    wire.eventually(lambda: "listening" in (tmp_path / "error.log").read_text() if (tmp_path / "error.log").exists() else False, 10)
    port = int(re.search(r"http://127.0.0.1:(\d+)", (tmp_path / "error.log").read_text())[1])
    s.addresses.append(("127.0.0.1", port))
    s.settle()
    assert s.get("/errors?text=into-the-file").status == 200
    wire.eventually(lambda: "into-the-file\na line\nprinted\n" in (tmp_path / "error.log").read_text())


def test_each_request_has_a_context_of_its_own(s):
    seen = [s.get("/where").json() for _ in range(20)]
    assert {one["var"] for one in seen} == {"unset"}
    assert {one["thread"] for one in seen} <= {f"ringcorn-sync-{i}" for i in range(4)}


def test_threads_default_to_eight(server):
    s = server("wsgi_raw:app")
    s.wait_log(r"1 worker x 8 threads")


# --- the standard library's validator


WATCHED = [(method, path) for method in ("GET", "POST", "PUT", "OPTIONS") for path in
           ("/", "/stream", "/write", "/empty", "/read", "/iterate", "/lines", "/%C3%A9?a=b")] + [("HEAD", "/"), ("HEAD", "/empty")]  # fmt: skip


@pytest.mark.parametrize("method,path", WATCHED)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_validator_finds_nothing(server, method, path, version):
    s = server("wsgi_raw:validated", shared=True, env={"PYTHONWARNINGS": "error::wsgiref.validate.WSGIWarning"})
    for body in (b"", b"a\nb\nc" if method in ("POST", "PUT") else b""):
        with s.connect() as c:
            r = c.request(method, path, {"Content-Type": "text/plain", "X-A": "b"}, body, version)
            assert r.status == (204 if path == "/empty" else 200), r


# --- which callable is what

WSGI = [
    "hello", "instance", "bound", "WithCall.static", "ByClass", "middleware", "in_partial", "closure", "wrapped", "partial",
    "with_default", "odd_names", "with_kwargs", "validated", "factory()",
]  # fmt: skip
ASGI = ["asgi", "asgi_plain", "asgi_middleware", "asgi_partial", "asgi_anything"]


@pytest.mark.parametrize("name", WSGI + ASGI)
def test_detection(server, name):
    s = server(f"wsgi_raw:{name}")
    assert s.get("/hello").status == 200
    how = s.wait_log(r"1 worker x (8|40) threads")[1]
    assert how == ("8" if name in WSGI else "40")


@pytest.mark.parametrize("name,interface", [("anything", "wsgi"), ("three_or_two", "wsgi"), ("asgi_anything", "asgi"), ("hello", "wsgi"), ("asgi", "asgi")])
def test_interface_is_forced(server, name, interface):
    s = server(f"wsgi_raw:{name}", "--interface", interface)
    assert s.get("/hello").body == b"Hello, World!"


REFUSED = [
    ("number", (), 3, "is not callable but 'int'"),
    ("anything", (), 3, "does not tell whether it is a WSGI or an ASGI application: add --interface wsgi or --interface asgi"),
    ("asgi2", (), 3, "looks like an ASGI 2 application"),
    ("Asgi2", (), 3, "looks like an ASGI 2 application"),
    ("asgi2", ("--interface", "asgi"), 3, "guarantee_single_callable"),
    ("hello", ("--interface", "asgi"), 3, r"looks like a WSGI application: add --interface wsgi"),
    ("asgi", ("--interface", "wsgi"), 3, r"looks like an ASGI application: add --interface asgi"),
    ("asgi_anything", ("--interface", "wsgi"), 3, "cannot be called as --interface wsgi says"),
    ("factory", (), 3, "looks like a factory"),
    ("WithCall", (), 3, "looks like a factory"),
    ("hello", ("--lifespan", "on"), 2, "WSGI, which has no lifespan"),
]


@pytest.mark.parametrize("name,options,code,text", REFUSED)
def test_what_is_no_application(server, name, options, code, text):
    s = server(f"wsgi_raw:{name}", *options, wait=False)
    s.expect_errors("worker 0 .*died")
    assert s.wait_exit() == code
    assert re.search(text, s.log), s.log
