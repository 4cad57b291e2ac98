"""Files that an application has sent: ASGI's pathsend and zerocopysend, wsgi.file_wrapper; 103, trailers, debug."""

import os
import signal

import certs
import pytest
import wire

BIG = 3 * 1024 * 1024 + 17
AUTHORITY = certs.Authority()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    files = tmp_path_factory.mktemp("files")
    (files / "a").write_bytes(b"0123456789")
    (files / "empty").write_bytes(b"")
    (files / "big").write_bytes(os.urandom(BIG))
    with open(files / "huge", "wb") as f:
        f.truncate(1 << 30)
    return files


@pytest.fixture
def s(server, folder):
    return server("files:app", env={"FILES_DIR": str(folder)}, shared=True)


@pytest.fixture
def w(server, folder):
    return server("files:wsgi", "--interface", "wsgi", "--threads", "1", env={"FILES_DIR": str(folder)}, shared=True)


# --------------------------------------------------------------- pathsend


def test_what_is_announced(server, s, folder):
    always = ["http.response.pathsend", "http.response.zerocopysend"]
    assert s.get("/extensions").json() == ["http.response.early_hint", *always]
    assert s.get("/extensions", [("TE", "trailers")]).json() == ["http.response.early_hint", always[0], "http.response.trailers", always[1]]
    with s.connect() as c:
        c.send(b"GET /extensions HTTP/1.0\r\nTE: trailers\r\n\r\n")
        assert c.response().json() == always


def test_path_send(s, folder):
    content = (folder / "big").read_bytes()
    with s.connect() as c:
        answer = c.get("/path_send?file=big")
        assert answer.body == content and answer.get("content-length") == str(BIG) and answer.get("transfer-encoding") is None
        assert c.get("/path_send?file=a").body == b"0123456789"
        assert c.get("/path_send?file=empty").body == b""
        assert c.get("/path_send?file=big&length=100").body == content[:100]  # a range of the application's
        head = c.request("HEAD", "/path_send?file=big")
        assert (head.body, head.get("content-length")) == (b"", str(BIG))
        assert c.get("/path_send?file=a").body == b"0123456789"


def test_path_send_to_http_1_0(s, folder):
    with s.connect() as c:
        c.send(b"GET /path_send?file=big HTTP/1.0\r\n\r\n")
        assert c.rest().split(b"\r\n\r\n", 1)[1] == (folder / "big").read_bytes()


def test_path_send_over_tls(server, folder, tmp_path):
    cert, key = AUTHORITY.issue("localhost").write(tmp_path, "server")
    s = server("files:app", "--certfile", cert, "--keyfile", key, env={"FILES_DIR": str(folder)})
    s.tls = certs.client(AUTHORITY)
    with s.connect() as c:
        assert c.get("/path_send?file=big").body == (folder / "big").read_bytes()
        assert c.get("/zero_copy?file=big&offset=5").body == b"<" + (folder / "big").read_bytes()[5:] + b">"


def test_a_file_that_is_deleted_behind_its_send(server, folder):
    (folder / "gone").write_bytes(os.urandom(BIG))
    content = (folder / "gone").read_bytes()
    s = server("files:app", env={"FILES_DIR": str(folder)})
    assert s.get("/path_then_delete?file=gone").body == content
    assert not (folder / "gone").exists()


@pytest.mark.parametrize(
    "query, said",
    [
        ("file=nothing", r"FileNotFoundError: .*nothing"),
        ("path=relative", "ValueError: http.response.pathsend: the path must be absolute"),
        ("path=/dev", "ValueError: http.response.pathsend: '/dev' is not a regular file"),
        ("file=a&length=100", "RuntimeError: http.response.pathsend: the file is shorter than the Content-Length"),
    ],
)
def test_path_send_errors(s, query, said):
    s.expect_errors("GET /path_send")
    with s.connect() as c:
        c.send(f"GET /path_send?{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        got = c.rest()
    assert got.startswith(b"HTTP/1.1 500") or "length" in query
    s.wait_log(said)


def test_a_path_that_empties_its_message(s):
    """While it is asked where it is: message and path are kept until the answer."""
    s.expect_errors("GET /path_that")
    for _ in range(20):
        assert s.get("/path_that_empties_its_message").status == 500
    s.wait_log("ValueError: http.response.pathsend: the path must be absolute, not <a path that has emptied its message>")


# --------------------------------------------------------------- zerocopysend


def test_zero_copy(s, folder):
    content = (folder / "big").read_bytes()
    with s.connect() as c:
        for query, body in (
            ("", content),
            ("&offset=10", content[10:]),
            ("&offset=10&count=200000", content[10:200010]),
            ("&offset=10&count=5", content[10:15]),
            ("&count=0", b""),
            (f"&offset={BIG}", b""),
            ("&seek=7", content[7:]),
            ("&seek=7&raw=1", content[7:]),
            ("&seek=7&raw=1&number=1", content[7:]),
            ("&count=100000&twice=1", content[:200000]),
            ("&count=100000&twice=1&raw=1&number=1", content[:200000]),
        ):
            answer = c.get("/zero_copy?file=big" + query)
            assert answer.body == b"<" + body + b">", query
            assert answer.get("transfer-encoding") == "chunked"
        answer = c.get("/zero_copy_last?file=big")
        assert answer.body == content and answer.get("content-length") == str(BIG)
        assert c.request("HEAD", "/zero_copy?file=big").body == b""
        assert c.get("/path_send?file=a").body == b"0123456789"


def test_zero_copy_of_a_pipe_is_refused(s):
    s.expect_errors("GET /zero_copy_pipe")
    assert s.get("/zero_copy_pipe").status == 500
    s.wait_log("ValueError: http.response.zerocopysend: .* is not a regular file")


# --------------------------------------------------------------- vanishing


@pytest.mark.parametrize("path", ["/path_send", "/zero_copy", "/zero_copy_last"])
def test_clients_that_vanish_leave_nothing(s, path):
    for how in ("reset", "close"):
        for n in (1, 300_000):
            c = s.connect()
            c.send(f"GET {path}?file=huge HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            c.exactly(n)
            getattr(c, how)()
    s.check_returned()


def test_clients_of_a_file_wrapper_that_vanish_leave_nothing(w):
    for how in ("reset", "close"):
        for n in (1, 300_000):
            c = w.connect()
            c.send(b"GET /?file=huge HTTP/1.1\r\nHost: a\r\n\r\n")
            c.exactly(n)
            getattr(c, how)()
    w.check_returned()


# --------------------------------------------------------------- wsgi.file_wrapper


def test_file_wrapper(w, folder):
    content = (folder / "big").read_bytes()
    with w.connect() as c:
        assert c.get("/?file=big").body == content
        assert c.get("/?file=big&at=5").body == content[5:]
        assert c.get("/?file=empty").body == b""
        assert c.request("HEAD", "/?file=big").body == b""
        assert c.get("/?file=a").body == b"0123456789"


def test_a_slow_client_holds_no_thread(w):
    """The only thread serves others while a file is on its way."""
    with w.connect(rcvbuf=65536) as slow:
        slow.send(b"GET /?file=huge HTTP/1.1\r\nHost: a\r\n\r\n")
        slow.exactly(1000)
        assert w.get("/?file=a").body == b"0123456789"
        slow.reset()


def test_a_download_survives_the_drain(server, folder):
    s = server("files:wsgi", "--interface", "wsgi", env={"FILES_DIR": str(folder)})
    with s.connect(rcvbuf=65536) as c:
        c.send(b"GET /?file=big HTTP/1.1\r\nHost: a\r\n\r\n")
        c.exactly(1000)
        s.send_signal(signal.SIGTERM)
        assert c.rest().endswith((folder / "big").read_bytes()[-1000:])
    assert s.wait_exit() == 0


# --------------------------------------------------------------- early hints


def interim(c):
    """The links of the next answer, which is a 103."""
    head = c.response(informational=True)
    assert head.status == 103
    return head.all("link")


def test_early_hints(s):
    with s.connect() as c:
        for path, before in (("/hints", 2), ("/hints?after=1", 1)):
            c.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert interim(c) == ["</a.css>; rel=preload; as=style", "</b.js>; rel=preload"]
            if before == 2:
                assert interim(c) == ["</c.png>; rel=preload"]
            answer = c.response()
            assert (answer.status, answer.body, answer.get("x-answer")) == (200, b"first last", "1")
            assert answer.get("link") is None


def test_early_hints_are_not_for_http_1_0(s):
    with s.connect() as c:
        c.send(b"GET /hints HTTP/1.0\r\n\r\n")
        got = c.rest()
        assert got.startswith(b"HTTP/1.1 200") and b" 103 " not in got and got.endswith(b"first last")


def test_a_hint_that_would_split_the_answer(s):
    s.expect_errors("GET /bad_hint")
    assert s.get("/bad_hint").status == 500
    s.wait_log("ValueError: http.response.early_hint: CR, LF and NUL")


# --------------------------------------------------------------- trailers


TE = "TE: trailers\r\n"


def raw(s, target, headers=TE, method="GET"):
    with s.connect() as c:
        c.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n{headers}Connection: close\r\n\r\n".encode())
        return c.rest().split(b"\r\n\r\n", 1)


def test_trailers(s, folder):
    head, body = raw(s, "/trailers")
    assert b"transfer-encoding: chunked" in head
    assert body == b"2\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 42\r\nx-more: 1\r\n\r\n"
    head, body = raw(s, "/trailers?file=a")
    assert body == b"a\r\n0123456789\r\n0\r\nx-sum: 42\r\nx-more: 1\r\n\r\n"
    head, body = raw(s, "/trailers?file=big")
    assert body == b"%x\r\n" % BIG + (folder / "big").read_bytes() + b"\r\n0\r\nx-sum: 42\r\nx-more: 1\r\n\r\n"
    with s.connect() as c:
        assert c.get("/trailers", [("TE", "gzip, trailers")]).body == b"hello"
        assert c.get("/extensions").status == 200


def test_trailers_that_nobody_wants_are_dropped(s):
    assert raw(s, "/trailers", headers="")[1] == b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    assert raw(s, "/trailers?length=1")[1] == b"hello"
    assert raw(s, "/trailers", method="HEAD")[1] == b""
    with s.connect() as c:
        c.send(b"GET /trailers HTTP/1.0\r\nTE: trailers\r\n\r\n")
        assert c.rest().endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "bad name", "Host"])
def test_trailers_that_may_not_be(s, name):
    s.expect_errors("GET /trailers")
    body = raw(s, f"/trailers?name={name.replace(' ', '%20')}")[1]
    assert b"42" not in body and not body.endswith(b"0\r\n\r\n")
    s.wait_log("ValueError: http.response.trailers: ")


# --------------------------------------------------------------- debug


def test_debug_is_for_development(server, s, folder):
    s.expect_errors("GET /debug")
    assert s.get("/debug").status == 500
    verbose = server("files:app", "--log-level", "debug", env={"FILES_DIR": str(folder)})
    assert "http.response.debug" in verbose.get("/extensions").json()
    assert verbose.get("/debug").body == b"ok"
    verbose.wait_log("GET /debug: {'template': 'index.html'}")


# --------------------------------------------------------------- frameworks


STARLETTE = """
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

SENT = []

async def file(request):
    return FileResponse({path!r})

async def hinted(request):
    await request.send_early_hints("</a.css>; rel=preload")
    return FileResponse({small!r})

inner = Starlette(routes=[Route("/file", file), Route("/hinted", hinted), Mount("/static", StaticFiles(directory={folder!r}))])
inner.add_middleware(GZipMiddleware)

async def app(scope, receive, send):
    async def noting(message):
        SENT.append(message["type"])
        await send(message)
    await inner(scope, receive, noting)
    if scope["type"] == "http":
        print(SENT[-1], flush=True)
"""


def test_starlette_sends_paths(server, folder, tmp_path):
    content = (folder / "big").read_bytes()
    (tmp_path / "starlette_files.py").write_text(STARLETTE.format(path=str(folder / "big"), small=str(folder / "a"), folder=str(folder)))
    s = server("starlette_files:app", app_dir=tmp_path)
    with s.connect() as c:
        assert c.get("/file").body == content
        assert c.get("/static/big").body == content
        assert c.get("/file", [("Range", "bytes=5-99")]).body == content[5:100]
        assert c.request("HEAD", "/file").get("content-length") == str(BIG)
        c.send(b"GET /hinted HTTP/1.1\r\nHost: a\r\n\r\n")
        assert interim(c) == ["</a.css>; rel=preload"]
        assert c.response().body == b"0123456789"
    wire.eventually(lambda: list(s.out.lines).count("http.response.pathsend") >= 3, 5, "pathsend was used")


DJANGO = """
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", MIDDLEWARE=[])
import django
django.setup()
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse
from django.urls import path

def file(request):
    return FileResponse(open({path!r}, "rb"))

urlpatterns = [path("file", file)]
application = get_wsgi_application()
"""


def test_django_file_response(server, folder, tmp_path):
    (tmp_path / "django_files.py").write_text(DJANGO.format(path=str(folder / "big")))
    s = server("django_files:application", "--interface", "wsgi", app_dir=tmp_path)
    answer = s.get("/file")
    assert answer.body == (folder / "big").read_bytes() and answer.get("content-length") == str(BIG)
