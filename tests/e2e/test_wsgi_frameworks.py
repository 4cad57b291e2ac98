"""Flask, Bottle and Django behind their WSGI entries."""

import hashlib
import os
import threading

import pytest

import wire

APPS = {"flask": "flask_app:flask", "bottle": "bottle_app:app", "django": "wsgi_django:application"}
SLACK = 4  # what a framework keeps open once used
INDEX = {"flask": "/", "bottle": "/", "django": "/hello"}


@pytest.fixture
def start(server):
    def start(name, *args, **options):
        s = server(APPS[name], "--sync-threads", "4", *args, shared=True, **options)
        s.allow_descriptors(SLACK)
        return s

    return start


def multipart(fields, file, name="up.bin"):
    boundary = "ringcornboundary"
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode() + file + b"\r\n"
    )
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize("name", APPS)
def test_index(start, name):
    s = start(name)
    with s.connect() as c:
        for method in ("GET", "HEAD", "GET"):
            r = c.request(method, INDEX[name])
            assert r.status == 200 and r.get("content-length") == "13"
        assert r.body == b"Hello, World!"


@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("size", [0, 10, 200_000, 3_000_000])
def test_upload(start, name, size):
    s = start(name)
    data = os.urandom(size)
    body, headers = multipart({"note": "a note"}, data)
    got = s.post("/upload", body, headers, timeout=60).json()
    assert (got["size"], got["sha256"], got["note"]) == (size, hashlib.sha256(data).hexdigest(), "a note")


@pytest.mark.parametrize("name,framing", [("flask", "length"), ("flask", "chunked"), ("bottle", "length"), ("django", "length")])
def test_body(start, name, framing):
    """Werkzeug reads a chunked body because the server promises its end; Django reads none without a length, and Bottle wants to
    decode the chunks itself."""
    s = start(name)
    data = os.urandom(2_000_000)
    with s.connect(60) as c:
        if framing == "length":
            c.send(wire.request("POST", "/body", (), data))
        else:
            pieces = [data[i : i + 70_001] for i in range(0, len(data), 70_001)]
            c.send(wire.request("POST", "/body", [("Transfer-Encoding", "chunked")]) + wire.chunked(*pieces))
        assert c.response().json() == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert c.get(INDEX[name]).status == 200


@pytest.mark.parametrize("name", APPS)
def test_stream(start, name):
    r = start(name).get("/stream?n=200")
    assert r.text == "".join(f"piece {i}\n" for i in range(200))


@pytest.mark.parametrize("name", ["flask", "bottle"])
def test_cookies(start, name):
    r = start(name).get("/cookies", {"Cookie": "x=1; y=2"})
    assert r.json() == {"x": "1", "y": "2"} and sorted(c.split(";")[0] for c in r.all("set-cookie")) == ["a=1", "b=2"]


@pytest.mark.parametrize("name", ["flask", "bottle"])
def test_large(start, name):
    assert start(name).get("/large?size=5000000", timeout=60).body == b"x" * 5_000_000


@pytest.mark.parametrize("name,target", [("bottle", "/file"), ("django", "/file?real=1"), ("django", "/file?memory=1"), ("flask", "/static/style.css")])
def test_file(start, name, target):
    s = start(name)
    with s.connect() as c:
        r = c.get(target)
        assert r.status == 200 and len(r.body) == int(r.get("content-length"))
        assert c.request("HEAD", target).get("content-length") == r.get("content-length")
        assert c.get(INDEX[name]).status == 200


@pytest.mark.parametrize("name", APPS)
def test_exception(start, name):
    """The framework answers with its own error page, and logs by its own logger: nothing of it is ours."""
    s = start(name)
    s.expect_errors(f"boom from {name}")
    with s.connect() as c:
        r = c.get("/boom")
        assert r.status == 500 and b"Internal Server Error" in r.body + r.reason.encode() or b"Server Error" in r.body
        assert c.get(INDEX[name]).status == 200


@pytest.mark.parametrize("name", APPS)
def test_gone_in_the_middle(start, name):
    s = start(name)
    for target in ("/stream?n=100000", INDEX[name]):
        c = s.connect()
        c.send(wire.request("GET", target))
        c.fill()
        c.reset()
    assert s.get(INDEX[name]).status == 200


@pytest.mark.parametrize("name", APPS)
def test_validator_finds_nothing(server, name):
    """The framework between the server and the standard library's checks on either side."""
    s = server(f"wsgi_validated:{name}", shared=True)
    s.allow_descriptors(SLACK)
    with s.connect() as c:
        assert c.get(INDEX[name]).body == b"Hello, World!"
        assert c.get("/stream?n=3").body == b"piece 0\npiece 1\npiece 2\n"
        if name != "flask":  # Werkzeug calls read() without a size, which the validator does not like
            assert c.request("POST", "/body", (), b"abc").json()["size"] == 3


# --- Django


def test_async_views_run_on_the_worker_s_loop(start):
    """Not on a loop, and in a thread, of each request's own; their sync calls come back to the request's thread."""
    s = start("django")
    before = s.get("/nested").json()
    seen = [s.get(target).json() for _ in range(10) for target in ("/async-view", "/nested")]
    assert {(one["loop"], one["type"], one["thread"]) for one in seen} == {(before["loop"], "ringcorn.loop.Loop", before["thread"])}
    assert all(one["back"] == one["mine"] for one in seen if "mine" in one)
    assert all(one["back"] != one["thread"] for one in seen)
    names = {name for one in seen for name in one["threads"]}
    assert all(name == "MainThread" or name.startswith("ringcorn-") for name in names), names


def test_async_views_wait_side_by_side(start):
    """Four threads, each of which waits for its view on the one loop."""
    s = start("django")
    clients = [s.connect() for _ in range(4)]
    for c in clients:
        c.send(wire.request("GET", "/async-sleep?s=0.5"))
    for c in clients:
        with c:
            assert c.response().body == b"slept"


def test_signals_are_balanced(start):
    s = start("django")
    for _ in range(5):
        s.get("/hello")
    wire.eventually(lambda: (found := s.get("/signals").json()) and found.count("started") == found.count("finished") + 1, 5, "each has finished")


@pytest.mark.parametrize("root_path", ["/app", "/app/"])
def test_script_name(server, root_path):
    s = server(APPS["django"], "--root-path", root_path)
    assert s.get("/info").json()["path"] == "/app/info"


def test_requests_side_by_side(start):
    s, problems = start("django"), []

    def client():
        try:
            with s.connect(30) as c:
                for i in range(40):
                    assert c.get("/hello").body == b"Hello, World!"
                    assert c.get("/async-view").json()["type"] == "ringcorn.loop.Loop"
                    assert c.get(f"/stream?n={i}").text.count("piece") == i
        except Exception as e:
            problems.append(repr(e))

    threads = [threading.Thread(target=client) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems
