"""debug: tracebacks for clients, of exceptions that reach the server; without it none."""

import harness
import pytest
import wire

APP = '''
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    if scope["path"] == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
    if scope["path"] == "/file":
        open("/not-there")
    if scope["path"] != "/":
        raise KeyError("<b>no</b>")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise KeyError("<b>no</b>")
    start_response("200 OK", [])
    return pieces() if path == "/first" else begun() if path == "/begun" else [b"fine"]

def pieces():
    raise KeyError("<b>no</b>")
    yield b""

def begun():
    yield b"part"
    raise KeyError("<b>no</b>")
'''
KINDS = {"asgi": "raising:app", "wsgi": "raising:wsgi"}
BROWSER = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")]


@pytest.fixture
def serve(server, tmp_path):
    (tmp_path / "raising.py").write_text(APP)
    return lambda kind, *args: server(KINDS[kind], "--app-dir", tmp_path, *args, app_dir=None)


@pytest.mark.parametrize(("kind", "path"), [("asgi", "/raise"), ("wsgi", "/raise"), ("wsgi", "/first")])
def test_pages(serve, kind, path):
    s = serve(kind, "--debug")
    s.wait_log("warning: debug: clients are shown the tracebacks")
    s.expect_errors(f"GET {path}: exception", f"HEAD {path}: exception")
    with s.connect() as c:
        page = c.request("GET", path, BROWSER)
        assert page.status == 500 and page.get("content-type") == "text/html; charset=utf-8"
        assert "raising.py" in page.text and "KeyError" in page.text and "&lt;b&gt;no&lt;/b&gt;" in page.text and "<b>" not in page.text
        assert "default-src 'none'" in page.get("content-security-policy")
        text = c.request("GET", path)
        assert text.status == 500 and text.get("content-type") == "text/plain; charset=utf-8"
        assert text.text.startswith("Traceback") and "KeyError: '<b>no</b>'" in text.text and "debug.py" not in text.text
        assert c.request("HEAD", path).body == b""
        assert c.request("GET", "/").text == "fine"
    wire.eventually(lambda: s.log.count(f"GET {path}: exception") == 2, 5 * harness.SLOW, "a line for each")


def test_errors_of_the_system_are_no_disconnects(serve):
    s = serve("asgi", "--debug")
    s.expect_errors("GET /file: exception")
    assert "FileNotFoundError: [Errno 2]" in s.get("/file").text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("args", [[], ["--reload"]])
def test_none_without_it(serve, kind, args):
    s = serve(kind, *args)
    s.expect_errors("GET /raise: exception")
    page = s.get("/raise", BROWSER)
    assert page.status == 500 and "KeyError" not in page.text and "Traceback" not in page.text


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_has_begun_is_cut_off(serve, kind):
    s = serve(kind, "--debug")
    s.expect_errors("GET /begun: exception after the response had begun")
    with s.connect() as c:
        c.send(b"GET /begun HTTP/1.1\r\nHost: x\r\n\r\n")
        c.sock.settimeout(10 * harness.SLOW)
        received = b""
        while piece := c.sock.recv(65536):
            received += piece
    assert b"part" in received and b"KeyError" not in received and not received.endswith(b"0\r\n\r\n")
