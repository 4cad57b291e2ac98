"""FastAPI, Starlette, Quart and Flask (through asgiref): uploads, streams, cookies, large bodies, static files, clients that leave."""

import hashlib
import os
import time

import pytest

import harness
import wire

APPS = {"fastapi": "fastapi_app:app", "starlette": "starlette_app:app", "quart": "quart_app:app", "flask": "flask_app:app"}
ASYNC = [name for name in APPS if name != "flask"]
SLACK = 4  # what a framework keeps open once used: its thread pool, temporary files


@pytest.fixture
def start(server):
    def start(name, *args):
        s = server(APPS.get(name, name), *args, shared=True)
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
        for _ in range(5):
            r = c.get("/")
            assert r.status == 200 and b"ello" in r.body


@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("size", [0, 10, 200_000, 3_000_000])
def test_upload(start, name, size):
    s = start(name)
    data = os.urandom(size)
    body, headers = multipart({"note": "a note"}, data)
    r = s.post("/upload", body, headers, timeout=60)
    assert r.status == 200, r
    assert r.json()["size"] == size and r.json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert r.json().get("note", "a note") == "a note"


@pytest.mark.parametrize("name", APPS)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_body(start, name, framing):
    if (name, framing) == ("flask", "chunked"):
        pytest.skip("Werkzeug reads no body without a length unless the server promises its end, which asgiref's wrapper does not")
    s = start(name)
    data = os.urandom(8_000_000)
    with s.connect(60) as c:
        if framing == "length":
            c.send(wire.request("POST", "/body", (), data))
        else:
            pieces = [data[i : i + 70_001] for i in range(0, len(data), 70_001)]
            c.send(wire.request("POST", "/body", [("Transfer-Encoding", "chunked")]) + wire.chunked(*pieces))
        r = c.response()
        assert r.json() == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert c.get("/").status == 200


@pytest.mark.parametrize("name", APPS)
def test_large_answer(start, name):
    s = start(name)
    r = s.get("/large?size=20000000", timeout=60)
    assert r.status == 200 and r.body == b"x" * 20_000_000


@pytest.mark.parametrize("name", APPS)
def test_stream(start, name):
    s = start(name)
    with s.connect() as c:
        r = c.get("/stream?n=100")
        assert r.text == "".join(f"piece {i}\n" for i in range(100))
        assert c.get("/").status == 200


@pytest.mark.parametrize("name", ["starlette", "quart", "flask"])
def test_cookies(start, name):
    s = start(name)
    r = s.get("/cookies", {"Cookie": "one=1; two=2"})
    assert r.json() == {"one": "1", "two": "2"}
    assert [c.split(";")[0] for c in r.all("set-cookie")] == ["a=1", "b=2"]


def test_fastapi_cookies(start):
    s = start("fastapi")
    r = s.post("/login/anna", b"")
    assert [c.split(";")[0] for c in r.all("set-cookie")] == ["user=anna", "second=cookie"]
    assert s.get("/me", {"Cookie": "user=anna"}).json() == {"user": "anna"}
    assert s.get("/me").json() == {"user": "nobody"}


@pytest.mark.parametrize("name", APPS)
def test_static_file(start, name):
    s = start(name)
    expected = (harness.APPS / "static/style.css").read_bytes()
    with s.connect() as c:
        r = c.get("/static/style.css")
        assert (r.status, r.body) == (200, expected) and "text/css" in r.get("content-type")
        assert c.request("HEAD", "/static/style.css").get("content-length") == str(len(expected))
        assert c.request("GET", "/static/style.css", {"If-None-Match": r.get("etag")}).status == 304
        assert c.get("/static/none.css").status == 404


@pytest.mark.parametrize("name", APPS)
def test_exception_is_500(start, name):
    s = start(name)
    s.expect_errors("boom from quart|Exception on|Error Exception" if name in ("quart", "flask") else "GET /boom")
    r = s.get("/boom")
    s.wait_log(f"RuntimeError: boom from {name}")
    assert r.status == 500
    assert s.get("/").status == 200


@pytest.mark.parametrize("name", ASYNC)
def test_client_leaves_a_stream(start, name):
    s = start(name)
    state, key = {"fastapi": ("/endless-state", "state"), "starlette": ("/state", "endless"), "quart": ("/state", "endless")}[name]
    c = s.connect()
    c.send(wire.request("GET", "/endless"))
    c.exactly(5000)
    assert s.get(state).json()[key] == "sending"
    c.close()
    wire.eventually(lambda: s.get(state).json()[key] == "ended", 10 * harness.SLOW)


def test_starlette_is_disconnected(start):
    s = start("starlette")
    c = s.connect()
    c.send(wire.request("GET", "/wait-disconnect"))
    wire.eventually(lambda: s.get("/state").json().get("poll") == "waiting")
    c.close()
    wire.eventually(lambda: s.get("/state").json()["poll"] == "disconnected")


@pytest.mark.parametrize("name", APPS)
def test_client_leaves_an_upload(start, name):
    s = start(name)
    if name == "quart":
        s.expect_errors("")  # Quart may log the disconnect
    body, headers = multipart({}, b"x" * 500_000)
    for _ in range(3):
        c = s.connect()
        c.send(wire.request("POST", "/upload", headers, body)[:100_000])
        time.sleep(0.05)
        c.reset()
    assert s.get("/").status == 200
    time.sleep(0.1)
    s.expect_errors("")  # some frameworks raise ClientDisconnect through us


def test_gzip_middleware(start):
    s = start("starlette_app:gzip_app")
    r = s.get("/large?size=100000", {"Accept-Encoding": "gzip"})
    import gzip

    assert r.get("content-encoding") == "gzip" and gzip.decompress(r.body) == b"x" * 100_000


def test_file_response(start):
    s = start("starlette")
    assert s.get("/file").body == (harness.APPS / "static/style.css").read_bytes()
    assert s.get("/file", {"Range": "bytes=0-3"}).body == b"body"


def test_fastapi_sync_endpoints(start):
    s = start("fastapi")
    assert s.get("/sync").json() == {"hello": "thread"}
    data = os.urandom(100_000)
    body, headers = multipart({}, data)
    assert s.post("/upload-sync", body, headers).json()["sha256"] == hashlib.sha256(data).hexdigest()
    assert s.get("/stream-sync?n=50").text.count("piece") == 50


def test_fastapi_models_errors_and_background_tasks(start):
    s = start("fastapi")
    r = s.post("/items/7", b'{"name": "seven", "price": 7.5}', {"Content-Type": "application/json"})
    assert r.status == 201 and r.json() == {"id": 7, "item": {"name": "seven", "price": 7.5}}
    wire.eventually(lambda: s.get("/items/7?q=x").json()["done"] == [7])
    assert s.get("/items/8").status == 404
    assert s.post("/items/x", b"{}", {"Content-Type": "application/json"}).status == 422
    assert s.get("/openapi.json").json()["info"]["title"].startswith("Ringcorn")


def test_sync_endpoints_run_in_parallel_on_persistent_threads(start):
    s = start("starlette")
    names = set()
    for _ in range(3):
        connections = [s.connect() for _ in range(10)]
        for c in connections:
            c.send(wire.request("GET", "/threaded"))
        for c in connections:
            names.add(c.response().text)
            c.close()
    assert 1 <= len(names) <= 40


def test_flask_environ(start):
    s = start("flask")
    e = s.get("/environ?x=1").json()
    assert e["PATH_INFO"] == "/environ" and e["QUERY_STRING"] == "x=1" and e["SERVER_PORT"] == str(s.port)
    assert e["REMOTE_ADDR"] == "127.0.0.1" and e["wsgi.url_scheme"] == "http"


def test_keep_alive_under_many_requests(start):
    s = start("fastapi")
    with s.connect() as c:
        for _ in range(300):
            assert c.get("/").status == 200
