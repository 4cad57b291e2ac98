"""`static`: files that the server answers itself."""

import email.utils
import gzip
import os
import re
import resource
import signal
import time

import certs
import harness
import pytest
import wire

BIG = 3 * 1024 * 1024 + 17
CSS = b"body { color: black }\n" * 300
AUTHORITY = certs.Authority()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("static")
    files = base / "files"
    (files / "sub" / "deep").mkdir(parents=True)
    (files / "a.txt").write_bytes(b"0123456789")
    (files / "empty").write_bytes(b"")
    (files / "site.css").write_bytes(CSS)
    (files / "site.css.gz").write_bytes(gzip.compress(CSS))
    (files / "site.css.br").write_bytes(b"as if by brotli")
    (files / "photo.JPG").write_bytes(b"\xff\xd8")
    (files / "photo.JPG.gz").write_bytes(b"never")
    (files / "name with ä.txt").write_bytes(b"umlaut")
    (files / "big").write_bytes(os.urandom(BIG))
    (files / "sub" / "index.html").write_bytes(b"<p>index")
    (files / "sub" / "deep" / "x.js").write_bytes(b"x()")
    (files / ".secret").write_bytes(b"secret")
    (files / ".git").mkdir()
    (files / ".git" / "config").write_bytes(b"secret")
    (files / "back\\slash").write_bytes(b"secret")
    os.mkfifo(files / "fifo")
    (base / "outside.txt").write_bytes(b"secret")
    (base / "files-other").mkdir()
    (base / "files-other" / "x").write_bytes(b"secret")
    (files / "inner").symlink_to("sub/deep")
    (files / "link.txt").symlink_to("a.txt")
    (files / "outer.txt").symlink_to("../outside.txt")
    (files / "absolute").symlink_to("/etc")
    (files / "up").symlink_to("..")
    if os.getuid() != 0:
        (files / "unreadable").write_bytes(b"secret")
        (files / "unreadable").chmod(0)
    return files


def config(folder, **keys):
    entry = {"route": "/static", "dir": str(folder), **keys}
    return f"app: files:app\nstatic: [{{{', '.join(f'{k}: {v}' for k, v in entry.items())}}}]\n"


@pytest.fixture
def s(server, folder):
    return server("files:app", "--static", f"/static={folder}", shared=True)


# --------------------------------------------------------------- the answer


def test_a_file(s):
    with s.connect() as c:
        answer = c.get("/static/a.txt?v=1")
        assert (answer.status, answer.body) == (200, b"0123456789")
        assert answer.get("content-type") == "text/plain; charset=utf-8"
        assert answer.get("content-length") == "10" and answer.get("accept-ranges") == "bytes"
        assert email.utils.parsedate_to_datetime(answer.get("last-modified"))
        assert re.fullmatch(r'"[^"]+"', answer.get("etag"))
        assert answer.get("cache-control") is None
        head = c.request("HEAD", "/static/a.txt")
        assert head.status == 200 and head.body == b""
        assert [h for h in head.headers if h[0] != "date"] == [h for h in answer.headers if h[0] != "date"]
        assert c.get("/static/empty").body == b""
        assert c.get("/static/empty").get("content-type") == "application/octet-stream"
        assert c.get("/static/photo.JPG").get("content-type") == "image/jpeg"
        assert c.get("/static/name%20with%20%C3%A4.txt").body == b"umlaut"
        assert c.get("/%73tatic/a.txt").status == 200  # the same path
        assert c.get("/staticx/a.txt").body == b"the application" == c.get("/").body


def test_a_big_file(s, folder):
    content = (folder / "big").read_bytes()
    with s.connect() as c:
        assert c.get("/static/big").body == content
        assert c.get("/static/a.txt").body == b"0123456789"  # the connection lives
        c.send(b"GET /static/big HTTP/1.1\r\nHost: a\r\n\r\nGET /static/a.txt HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [c.response().body for _ in range(3)] == [content, b"0123456789", b"the application"]


def test_to_http_1_0(s, folder):
    with s.connect() as c:
        c.send(b"GET /static/big HTTP/1.0\r\n\r\n")
        head, body = c.rest().split(b"\r\n\r\n", 1)
        assert b"content-length: %d" % BIG in head and body == (folder / "big").read_bytes()


def test_over_tls(server, folder, tmp_path):
    cert, key = AUTHORITY.issue("localhost").write(tmp_path, "server")
    one = server("files:app", "--static", f"/static={folder}", "--certfile", cert, "--keyfile", key)
    one.tls = certs.client(AUTHORITY)
    with one.connect() as c:
        assert c.get("/static/big").body == (folder / "big").read_bytes()
        assert c.get("/static/big", [("Range", "bytes=1000000-1099999")]).body == (folder / "big").read_bytes()[1000000:1100000]
        assert c.get("/static/a.txt").body == b"0123456789"
        parts = c.get("/static/big", [("Range", "bytes=0-99999, 200000-299999")])
        assert parts.status == 206 and (folder / "big").read_bytes()[200000:300000] in parts.body


def test_other_methods(s):
    with s.connect() as c:
        answer = c.request("POST", "/static/a.txt", [("Content-Length", "2")], b"hi")
        assert answer.status == 405 and answer.get("allow") == "GET, HEAD"
        assert c.request("OPTIONS", "/static/a.txt").status == 405
        assert c.request("GET", "/static/big", [("Content-Length", "2")], b"hi").status == 200
        assert c.get("/static/a.txt").status == 200


def test_index_and_folders(server, folder):
    s = server(None, config=config(folder, index="index.html"))
    with s.connect() as c:
        assert c.get("/static/sub/").body == b"<p>index"
        answer = c.get("/static/sub?a=b")
        assert (answer.status, answer.get("location")) == (301, "/static/sub/?a=b")
        assert c.get("/static").get("location") == "/static/"
        assert c.get("/static/sub/deep/").status == 404 and c.get("/static/").status == 404
        assert c.get("/static/a.txt/").status == 404


def test_folders_without_index(s):
    assert [s.get(path).status for path in ("/static", "/static/", "/static/sub", "/static/sub/")] == [404] * 4


def test_fallthrough_hands_what_is_not_there_to_the_application(server, folder):
    s = server(None, config=config(folder, route="/", fallthrough="true"))
    with s.connect() as c:
        assert c.get("/a.txt").body == b"0123456789"
        for path in ("/nothing", "/.secret", "/sub/", "/%2e%2e/outside.txt"):
            assert c.get(path).body == b"the application"
        assert c.request("POST", "/a.txt", [("Content-Length", "2")], b"hi").body == b"the application"
        assert c.get("/extensions").status == 200


def test_the_longest_route_wins(server, folder):
    s = server("files:app", "--static", f"/={folder}", "--static", f"/a={folder}/sub/deep", "--static", f"/a/b={folder}/sub")
    assert s.get("/a/x.js").body == b"x()"
    assert s.get("/a/b/index.html").body == b"<p>index"
    assert s.get("/a.txt").body == b"0123456789"
    assert s.get("/a/a.txt").status == 404


def test_expires(server, folder):
    s = server(None, config=config(folder, expires="1h"))
    first = s.get("/static/a.txt")
    assert first.get("cache-control") == "max-age=3600"
    assert s.get("/static/a.txt", [("If-None-Match", first.get("etag"))]).get("cache-control") == "max-age=3600"


def test_access_log(server, folder):
    s = server("files:app", "--static", f"/static={folder}", "--access-log")
    s.get("/static/a.txt"), s.get("/static/big"), s.get("/static/none")
    s.stop()
    text = "\n".join(s.out.lines)
    assert '"GET /static/a.txt HTTP/1.1" 200 10 ' in text
    assert f'"GET /static/big HTTP/1.1" 200 {BIG} ' in text
    assert '"GET /static/none HTTP/1.1" 404 ' in text


# --------------------------------------------------------------- precompressed


def test_precompressed(s):
    with s.connect() as c:
        for accepts, coding, body in (
            ("gzip, deflate, br, zstd", "br", b"as if by brotli"),
            ("gzip", "gzip", gzip.compress(CSS)),
            ("GZIP;q=0.5, br;q=0", "gzip", gzip.compress(CSS)),
            ("*", "br", b"as if by brotli"),
            ("*;q=0, identity", None, CSS),
            ("br;q=0.000, gzip;q=0", None, CSS),
            ("identity", None, CSS),
        ):
            answer = c.get("/static/site.css", [("Accept-Encoding", accepts)])
            assert answer.get("content-encoding") == coding, accepts
            assert answer.get("vary") == "accept-encoding" and answer.get("content-type") == "text/css; charset=utf-8"
            if coding == "gzip":
                assert gzip.decompress(answer.body) == CSS
            else:
                assert answer.body == body
        assert c.get("/static/photo.JPG", [("Accept-Encoding", "gzip")]).body == b"\xff\xd8"
        tags = {c.get("/static/site.css", [("Accept-Encoding", a)]).get("etag") for a in ("br", "gzip", "identity")}
        assert len(tags) == 3


def test_precompressed_off(server, folder):
    s = server(None, config=config(folder, precompressed="false"))
    answer = s.get("/static/site.css", [("Accept-Encoding", "gzip, br")])
    assert answer.body == CSS and answer.get("vary") is None


# --------------------------------------------------------------- preconditions, ranges


def test_preconditions(s, folder):
    with s.connect() as c:
        first = c.get("/static/a.txt")
        tag, modified = first.get("etag"), first.get("last-modified")
        when = email.utils.parsedate_to_datetime(modified)
        before = email.utils.format_datetime(when.replace(year=when.year - 1), usegmt=True)
        after = email.utils.format_datetime(when.replace(year=when.year + 1), usegmt=True)
        rfc850 = when.strftime("%A, %d-%b-%y %H:%M:%S GMT")
        asctime = when.strftime("%a %b %e %H:%M:%S %Y")
        for headers, status in (
            ([("If-None-Match", tag)], 304),
            ([("If-None-Match", f'"x", W/{tag}')], 304),
            ([("If-None-Match", "*")], 304),
            ([("If-None-Match", '"x"'), ("If-None-Match", tag)], 304),
            ([("If-None-Match", '"x,y"')], 200),
            ([("If-None-Match", "junk")], 200),
            ([("If-None-Match", '"')], 200),
            ([("If-None-Match", '"x"'), ("If-Modified-Since", after)], 200),
            ([("If-Modified-Since", modified)], 304),
            ([("If-Modified-Since", after)], 304),
            ([("If-Modified-Since", rfc850)], 304),
            ([("If-Modified-Since", asctime)], 304),
            ([("If-Modified-Since", before)], 200),
            ([("If-Modified-Since", "yesterday")], 200),
            ([("If-Match", tag)], 200),
            ([("If-Match", "*")], 200),
            ([("If-Match", f"W/{tag}")], 412),
            ([("If-Match", '"x"')], 412),
            ([("If-Unmodified-Since", before)], 412),
            ([("If-Unmodified-Since", after)], 200),
        ):
            answer = c.get("/static/a.txt", headers)
            assert answer.status == status, headers
            if status == 304:
                assert answer.body == b"" and answer.get("etag") == tag and answer.get("content-type") is None


def test_ranges(s, folder):
    content = (folder / "a.txt").read_bytes()
    with s.connect() as c:
        first = c.get("/static/a.txt")
        for value, status, body in (
            ("bytes=0-3", 206, b"0123"),
            ("bytes=8-", 206, b"89"),
            ("bytes=-3", 206, b"789"),
            ("bytes=-100", 206, content),
            ("bytes=0-100", 206, content),
            ("Bytes=0-0", 206, b"0"),
            ("bytes=10-", 416, None),
            ("bytes=-0", 416, None),
            ("bytes=99999999999999999999999-", 416, None),
            ("bytes=5-2", 200, content),
            ("bytes=", 200, content),
            ("bytes=,", 200, content),
            ("bytes=a-b", 200, content),
            ("bytes=1-2x", 200, content),
            ("bytes=--1", 200, content),
            ("items=0-3", 200, content),
            ("bytes=0-9,0-9,0-9", 200, content),  # more than the file
            ("bytes=" + ",".join(["0-0"] * 17), 200, content),
            ("bytes=4-5, 99-", 206, b"45"),
        ):
            answer = c.get("/static/a.txt", [("Range", value)])
            assert answer.status == status, value
            if status == 206:
                at = content.index(body)
                assert answer.body == body and answer.get("content-range") == f"bytes {at}-{at + len(body) - 1}/10", value
            elif status == 416:
                assert answer.get("content-range") == "bytes */10"
            else:
                assert answer.body == content
        assert c.get("/static/empty", [("Range", "bytes=0-")]).status == 416
        head = c.request("HEAD", "/static/a.txt", [("Range", "bytes=0-3")])
        assert (head.status, head.get("content-length")) == (200, "10")
        for value, status in ((first.get("etag"), 206), (first.get("last-modified"), 206), ('"x"', 200), ("W/" + first.get("etag"), 200), ("junk", 200)):
            assert c.get("/static/a.txt", [("Range", "bytes=0-3"), ("If-Range", value)]).status == status, value


def test_several_ranges(s, folder):
    content = (folder / "big").read_bytes()
    with s.connect() as c:
        for value, expected in (("bytes=0-9, 100-109", [(0, 10), (100, 10)]), ("bytes=5-200004,-300000,1000000-1000000", [(5, 200000), (BIG - 300000, 300000), (1000000, 1)])):
            answer = c.get("/static/big", [("Range", value)])
            boundary = re.fullmatch(r"multipart/byteranges; boundary=(\w+)", answer.get("content-type"))[1].encode()
            parts = answer.body.split(b"\r\n--" + boundary)
            assert answer.status == 206 and parts[0] == b"" and parts[-1] == b"--\r\n"
            for part, (at, n) in zip(parts[1:-1], expected, strict=True):
                head, body = part.split(b"\r\n\r\n", 1)
                assert body == content[at : at + n] and b"content-range: bytes %d-%d/%d" % (at, at + n - 1, BIG) in head
        assert c.get("/static/a.txt").status == 200


# --------------------------------------------------------------- what must not be seen

HOSTILE = """
/static/../outside.txt /static/..%2foutside.txt /static/%2e%2e/outside.txt /static/%2e%2e%2foutside.txt /static/.%2e/outside.txt
/static/..%5coutside.txt /static/..\\outside.txt /static/sub/../../outside.txt /static/sub/%2e%2e/%2e%2e/outside.txt
/static/..%c0%afoutside.txt /static/..%252foutside.txt /static/%252e%252e/outside.txt /static//etc/passwd /static///etc/passwd
/static/%2fetc/passwd /static/%2Fetc%2Fpasswd /static/./a.txt /static/%2e/a.txt /static/sub/./index.html /static//a.txt
/static/a.txt%00 /static/a.txt%00.html /static/%00 /static/.secret /static/%2esecret /static/.git/config /static/sub%2findex.html
/static/back%5cslash /static/a.txt/ /static/a.txt/x /static/fifo /static/outer.txt /static/absolute/passwd /static/up/outside.txt
/static/up/files-other/x /static-other/x /static/a%0d%0atxt /static/a.txt%0a /static/... /static/.. /static/. /static/%2e%2e
/static/../static/a.txt /static/sub/..;/outside.txt /static/..;/outside.txt /static/%u002e%u002e/outside.txt
""".split()


def test_hostile_paths(s):
    with s.connect() as c:
        seen = {path: (answer.status, answer.body) for path in HOSTILE for answer in [c.get(path)]}
    assert {path for path, answer in seen.items() if answer != (404, b"Not Found\n")} == {"/static-other/x"}
    assert seen["/static-other/x"] == (404, b"the application")


def test_hostile_lengths(s):
    with s.connect() as c:
        for path in ("/static/" + "a" * 300, "/static/" + "a/" * 2500, "/static/" + "%61" * 2000, "/static/" + "x" * 5000):
            assert c.get(path).status == 404


def test_absolute_form(s):
    assert s.get("http://example.org/static/a.txt").body == b"0123456789"
    assert s.get("http://example.org/static/../outside.txt").status == 404


def test_redirects_stay_here(server, folder, tmp_path):
    (tmp_path / "site" / "evil.example").mkdir(parents=True)
    s = server(None, config=config(tmp_path / "site", route="/", index="index.html"))
    for path in ("//evil.example", "/%2fevil.example", "/\\evil.example", "///evil.example"):
        answer = s.get(path)
        assert answer.status == 404 and answer.get("location") is None
    assert s.get("/evil.example").get("location") == "/evil.example/"


@pytest.mark.parametrize("symlinks, inner, outer", [("off", 404, 404), ("inside", 200, 404), ("on", 200, 200)])
def test_symlinks(server, folder, symlinks, inner, outer):
    s = server(None, config=config(folder, symlinks=symlinks))
    assert [s.get(f"/static/{path}").status for path in ("link.txt", "inner/x.js")] == [inner] * 2
    assert [s.get(f"/static/{path}").status for path in ("outer.txt", "absolute/passwd")] == [outer] * 2
    assert s.get("/static/sub/deep/x.js").status == 200


def test_dotfiles(server, folder):
    s = server(None, config=config(folder, dotfiles="true"))
    assert s.get("/static/.secret").body == b"secret" and s.get("/static/.git/config").status == 200
    assert s.get("/static/../outside.txt").status == 404 and s.get("/static/%2e/a.txt").status == 404


# --------------------------------------------------------------- what happens meanwhile


def test_a_file_that_shrinks_closes_the_connection(server, tmp_path):
    (tmp_path / "f").write_bytes(bytes(64 << 20))
    s = server("files:app", "--static", f"/static={tmp_path}")
    s.expect_errors("GET /static/f: a file became shorter while it was sent")
    with s.connect(rcvbuf=65536) as c:
        c.send(b"GET /static/f HTTP/1.1\r\nHost: a\r\n\r\n")
        assert c.exactly(1000).startswith(b"HTTP/1.1 200")
        os.truncate(tmp_path / "f", 1 << 20)
        assert len(c.rest()) < 64 << 20
    assert s.get("/static/f").get("content-length") == str(1 << 20)


def test_a_replaced_file_is_seen_at_once(server, tmp_path):
    (tmp_path / "f.txt").write_bytes(b"old")
    s = server("files:app", "--static", f"/static={tmp_path}")
    old = s.get("/static/f.txt")
    (tmp_path / "g").write_bytes(b"newer")
    os.replace(tmp_path / "g", tmp_path / "f.txt")
    new = s.get("/static/f.txt", [("If-None-Match", old.get("etag"))])
    assert (new.status, new.body) == (200, b"newer")


def test_a_folder_that_is_turned_to_the_next_release(server, tmp_path):
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "f.txt").write_text(release)
    (tmp_path / "current").symlink_to("1")
    s = server("files:app", "--static", f"/static={tmp_path}/current")
    assert s.get("/static/f.txt").body == b"1"
    (tmp_path / "next").symlink_to("2")
    os.replace(tmp_path / "next", tmp_path / "current")
    wire.eventually(lambda: s.get("/static/f.txt").body == b"2", 10, "the next release")


def test_clients_that_vanish_leave_nothing(server, tmp_path):
    with open(tmp_path / "f", "wb") as f:
        f.truncate(1 << 30)
    s = server("files:app", "--static", f"/static={tmp_path}")
    for how in ("reset", "close"):
        for n in (1, 1000, 300_000):
            c = s.connect()
            c.send(b"GET /static/f HTTP/1.1\r\nHost: a\r\n\r\n")
            c.exactly(n)
            getattr(c, how)()
    s.check_returned()


def test_a_client_that_stops_reading_is_given_up(server, tmp_path):
    with open(tmp_path / "f", "wb") as f:
        f.truncate(256 << 20)
    s = server("files:app", "--static", f"/static={tmp_path}", "--timeout-send", "1s")
    with s.connect(rcvbuf=65536) as c:
        c.send(b"GET /static/f HTTP/1.1\r\nHost: a\r\n\r\n")
        c.exactly(1000)
        wire.eventually(lambda: s.live(s.workers()[0]).get("conns") == 0, 15, "the connection is given up")


def test_a_half_closed_client_gets_all(s, folder):
    with s.connect() as c:
        c.send(b"GET /static/big HTTP/1.1\r\nHost: a\r\n\r\n")
        c.fin()
        assert c.response().body == (folder / "big").read_bytes()


def test_a_download_survives_the_drain(server, tmp_path):
    (tmp_path / "f").write_bytes(bytes(32 << 20))
    s = server("files:app", "--static", f"/static={tmp_path}")
    with s.connect(rcvbuf=65536) as c:
        c.send(b"GET /static/f HTTP/1.1\r\nHost: a\r\n\r\n")
        c.exactly(1000)
        s.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert len(c.rest()) > (32 << 20) - 2000
    assert s.wait_exit() == 0


def test_no_descriptors_is_503(server, folder):
    s = server("files:app", "--static", f"/static={folder}")
    s.expect_errors("a file cannot be opened: Too many open files")
    pid = s.workers()[0]
    with s.connect() as c:
        assert c.get("/static/a.txt").status == 200
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        try:
            answer = c.get("/static/a.txt")
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert answer.status == 503 and answer.get("retry-after")
        assert c.get("/static/a.txt").status == 200


def test_without_the_page_cache(server, tmp_path):
    """Pages that were dropped are read by a thread, and the answer is whole."""
    content = os.urandom(8 << 20)
    path = tmp_path / "f"
    path.write_bytes(content)
    s = server("files:app", "--static", f"/static={tmp_path}")
    for _ in range(3):
        with open(path, "rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert s.get("/static/f").body == content


# --------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    "entry, said",
    [
        ("{route: /s, dir: /nonexistent}", "/s: /nonexistent: No such file or directory"),
        ("{route: /s, dir: /etc/passwd}", "/s: /etc/passwd is not a folder"),
        ("{route: s, dir: /tmp}", "route: 's' is wrong; expected the beginning of paths"),
        ("{route: /a/../b, dir: /tmp}", "route: '/a/../b' is wrong"),
        ("{route: /s, dir: /tmp, expire: 1h}", "expire: no such key; did you mean expires?"),
        ("{route: /s, dir: /tmp, expires: soon}", "expires: 'soon' is wrong"),
        ("{route: /s, dir: /tmp, symlinks: sometimes}", "symlinks: 'sometimes' is wrong; expected off, inside or on"),
        ("{route: /s, dir: /tmp, index: a/b}", "index: 'a/b' is wrong"),
        ("{route: /s}", "an entry needs a route and a dir"),
        ("{route: /s, route: /t, dir: /tmp}", "route is there twice"),
        ("/tmp", "'/tmp' is wrong; write ROUTE=DIR"),
    ],
)
def test_wrong_entries(tmp_path, entry, said):
    (tmp_path / "ringcorn.yaml").write_text(f"app: files:app\nstatic:\n  - {entry}\n")
    done = harness.run("--check-config", cwd=tmp_path)
    assert done.returncode == 2 and "ringcorn.yaml:3: static: " in done.stderr and said in done.stderr, done.stderr


def test_a_route_twice(tmp_path):
    done = harness.run("--check-config", "--static", f"/s={tmp_path}", "--static", f"/s/={tmp_path}", "files:app", cwd=tmp_path)
    assert done.returncode == 2 and "the route /s is there twice" in done.stderr


def test_printed_and_read_again(tmp_path):
    text = f'static: [{{route: /s, dir: "{tmp_path}", expires: 90s, index: index.html, symlinks: "off", fallthrough: yes}}, "/t={tmp_path}"]\n'
    (tmp_path / "ringcorn.yaml").write_text(text)
    first = harness.run("--print-config", "files:app", cwd=tmp_path)
    (tmp_path / "ringcorn.yaml").write_text(first.stdout)
    second = harness.run("--print-config", "files:app", cwd=tmp_path)
    assert first.returncode == 0 and first.stdout == second.stdout
    assert "  - {route: /s, dir: " in first.stdout and "expires: 90s, symlinks: off" in first.stdout
