"""A real Django project: SQLite, the admin with static files, sessions, forms, sync and async views, streaming."""

import hashlib
import os
import re
import subprocess
import sys
import time

import pytest

import harness
import wire
from test_frameworks import multipart

PROJECT = harness.APPS / "django_project"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("django")
    env = {**os.environ, "GUESTBOOK_DATA": str(folder)}

    def manage(*args):
        subprocess.run([sys.executable, "manage.py", *args], cwd=PROJECT, env=env, check=True, capture_output=True)

    manage("migrate", "--verbosity", "0")
    manage("collectstatic", "--noinput", "--verbosity", "0")
    manage("shell", "-c", "from django.contrib.auth.models import User; User.objects.create_superuser('admin', '', 'admin')")
    return folder


@pytest.fixture
def s(server, data):
    s = server(
        "project.asgi:http", "--threads", "4", shared=True, app_dir=PROJECT,
        env={"GUESTBOOK_DATA": data, "DJANGO_SETTINGS_MODULE": "project.settings"},
    )  # fmt: skip
    # Each thread keeps its database connection: SQLite holds the file, its log and its shared memory.
    s.allow_descriptors(40)
    s.expect_errors("")  # Django logs 4xx and 5xx by itself; each test looks at what it means
    return s


@pytest.mark.parametrize("path", ["/hello/", "/async/"])
def test_plain_views(s, path):
    with s.connect() as c:
        for _ in range(10):
            r = c.get(path)
            assert (r.status, r.body) == (200, b"Hello, World!")
            assert r.get("x-frame-options") == "DENY"


def test_page_with_the_orm_and_csrf(s):
    r = s.get("/")
    assert r.status == 200 and b"Guest book" in r.body and b"csrfmiddlewaretoken" in r.body


def test_form_with_a_file(s):
    page = s.get("/")
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    cookie = page.get("set-cookie").split(";")[0]
    body, headers = multipart({"csrfmiddlewaretoken": token, "name": "Ringo", "text": "was here"}, b"picture")
    body = body.replace(b'name="file"', b'name="picture"')
    r = s.post("/sign/", body, {**headers, "Cookie": cookie})
    assert r.status == 302 and r.get("location") == "/"
    assert b"Ringo" in s.get("/").body
    assert "Ringo" in s.get("/entries/").json()["names"] and "Ringo" in s.get("/async/entries/").json()["names"]


def test_csrf_is_enforced(s):
    assert s.post("/sign/", b"name=x", {"Content-Type": "application/x-www-form-urlencoded"}).status == 403


def test_async_orm(s):
    assert "async one" in s.get("/async/entries/?add=async%20one").json()["names"]


def test_session(s):
    r = s.get("/session/")
    cookie = r.get("set-cookie").split(";")[0]
    assert r.json() == {"visits": 1}
    assert s.get("/session/", {"Cookie": cookie}).json() == {"visits": 2}


def test_admin(s):
    """Log in, add an entry, see it listed: as a browser does it."""
    page = s.get("/admin/login/?next=/admin/")
    assert page.status == 200 and b"Django administration" in page.body
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    cookie = page.get("set-cookie").split(";")[0]
    form = f"csrfmiddlewaretoken={token}&username=admin&password=admin&next=/admin/".encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    r = s.post("/admin/login/?next=/admin/", form, {**kind, "Cookie": cookie})
    assert r.status == 302, r
    cookie = "; ".join(c.split(";")[0] for c in r.all("set-cookie"))
    add = s.get("/admin/guestbook/entry/add/", {"Cookie": cookie})
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', add.text)[1]
    body, headers = multipart({"csrfmiddlewaretoken": token, "name": "From the admin", "text": ""}, b"")
    body = body.replace(b'name="file"; filename="up.bin"', b'name="picture"; filename=""')
    assert s.post("/admin/guestbook/entry/add/", body, {**headers, "Cookie": cookie}).status == 302
    assert b"From the admin" in s.get("/admin/guestbook/entry/", {"Cookie": cookie}).body


def test_static_files_of_the_admin(s):
    with s.connect() as c:
        r = c.get("/static/admin/css/base.css")
        assert r.status == 200 and "text/css" in r.get("content-type") and len(r.body) > 5000
        assert c.request("GET", "/static/admin/css/base.css", {"If-None-Match": r.get("etag")}).status == 304
        assert c.request("HEAD", "/static/admin/css/base.css").body == b""
        assert c.get("/static/guestbook/style.css").status == 200
        assert c.get("/static/none.css").status == 404


def test_cookies(s):
    r = s.get("/cookies/", {"Cookie": "one=1; two=2"})
    assert r.json() == {"one": "1", "two": "2"}
    assert [c.split(";")[0] for c in r.all("set-cookie")] == ["a=1", "b=2"]


@pytest.mark.parametrize("size", [0, 1000, 3_000_000])
def test_upload(s, size):
    data = os.urandom(size)
    body, headers = multipart({"note": "n"}, data)
    r = s.post("/upload/", body, headers, timeout=60)
    if size == 0:
        assert r.status == 200 and r.json()["size"] == 0
    else:
        assert r.json() == {"name": "up.bin", "size": size, "sha256": hashlib.sha256(data).hexdigest(), "note": "n"}


def test_large_body_and_answer(s):
    data = os.urandom(8_000_000)
    assert s.post("/body/", data, timeout=60).json() == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert s.get("/large/?size=10000000", timeout=60).body == b"x" * 10_000_000


@pytest.mark.parametrize("path", ["/stream/", "/async/stream/"])
def test_streams(s, path):
    assert s.get(path + "?n=50").text == "".join(f"piece {i}\n" for i in range(50))


def test_file_response(s):
    assert s.get("/file/").body == (PROJECT / "guestbook/static/guestbook/style.css").read_bytes()


def test_client_leaves_an_async_stream(s):
    c = s.connect()
    c.send(wire.request("GET", "/async/endless/"))
    c.exactly(5000)
    c.close()
    wire.eventually(lambda: s.get("/state/").json()["endless"] == "ended", 10 * harness.SLOW)


def test_client_leaves_an_async_view(s):
    """Django cancels the view when receive() says http.disconnect."""
    c = s.connect()
    c.send(wire.request("GET", "/async/long/"))
    wire.eventually(lambda: s.get("/state/").json()["long"] == "waiting")
    c.close()
    wire.eventually(lambda: s.get("/state/").json()["long"] == "cancelled", 10 * harness.SLOW)


def test_client_leaves_an_upload(s):
    body, headers = multipart({}, b"x" * 500_000)
    for _ in range(3):
        c = s.connect()
        c.send(wire.request("POST", "/upload/", headers, body)[:100_000])
        time.sleep(0.05)
        c.reset()
    assert s.get("/hello/").status == 200


@pytest.mark.parametrize("path", ["/boom/", "/async/boom/"])
def test_exception_is_500_and_logged(s, path):
    since = len(s.err.lines)
    assert s.get(path).status == 500
    s.wait_log("RuntimeError: boom from", since=since)


def test_atomic_rolls_back(s):
    assert s.post("/atomic/", b"").status == 500
    assert "never" not in s.get("/entries/").json()["names"]


def test_not_found(s):
    assert s.get("/none/").status == 404


def test_sync_and_async_views_under_load(s):
    """Mixed, from many connections at once; every answer is the right one."""
    connections = [s.connect(60) for _ in range(30)]
    paths = ["/hello/", "/async/", "/async/slow/?s=0.05", "/entries/"]
    for turn in range(4):
        for i, c in enumerate(connections):
            c.send(wire.request("GET", paths[(i + turn) % 4]))
        for c in connections:
            assert c.response().status == 200
    for c in connections:
        c.close()
