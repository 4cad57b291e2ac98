"""What proxies say in headers, where the vectors (conformance/test_forwarded.py) do not reach: unix sockets, WebSockets, the access
log, Django's direct way, uvicorn's and gunicorn's names."""

import json

import pytest

import wire

SAID = [("Host", "x.test"), ("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "https")]


def scope_of(s, headers=SAID, target="/scope", **kwargs):
    with s.connect(**kwargs) as c:
        r = c.request("GET", target, headers)
        assert r.status == 200, r
        return r.json()


def client(scope):
    return scope["client"] and tuple(scope["client"]["tuple"])


def test_peers_on_unix_sockets_are_believed(server, tmp_path):
    s = server("raw:app", bind=f"unix:{tmp_path}/s")
    scope = scope_of(s)
    assert (client(scope), scope["scheme"], scope["server"]["tuple"]) == (("203.0.113.7", 0), "https", [f"{tmp_path}/s", None])
    assert client(scope_of(s, [("Host", "x")])) is None


def test_peers_on_unix_sockets_are_not_believed(server, tmp_path):
    s = server("raw:app", bind=f"unix:{tmp_path}/s", env={"FORWARDED_ALLOW_IPS": "127.0.0.1"})
    scope = scope_of(s)
    assert (client(scope), scope["scheme"]) == (None, "http")


def test_wsgi_over_a_unix_socket(server, tmp_path):
    s = server("wsgi_raw:app", "--interface", "wsgi", bind=f"unix:{tmp_path}/s")
    environ = scope_of(s, target="/environ")
    told = {k: environ.get(k) for k in ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme")}
    assert told == {"REMOTE_ADDR": "203.0.113.7", "REMOTE_PORT": None, "SERVER_NAME": "x.test", "SERVER_PORT": "443", "wsgi.url_scheme": "https"}


@pytest.mark.parametrize("trusted, seen", [("127.0.0.1", "203.0.113.7"), ("10.0.0.1", "127.0.0.1")])
def test_access_log_shows_the_client(server, tmp_path, trusted, seen):
    log = tmp_path / "access.log"
    s = server("raw:app", "--access-logfile", log, "--forwarded-allow-ips", trusted)
    scope_of(s)
    wire.eventually(lambda: log.read_text().startswith(f"{seen} - - ["), what=f"a line of {seen}")


@pytest.mark.parametrize("proto, scheme", [("https", "wss"), ("wss", "wss"), ("http", "ws"), ("ws", "ws")])
def test_websocket(server, proto, scheme):
    s = server("ws:app", shared=True)
    headers = [
        ("Host", "x"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", proto),
    ]  # fmt: skip
    with s.connect() as c:
        c.send(wire.request("GET", "/scope_text", headers))
        assert b" 101 " in c.until(b"\r\n\r\n")
        head = c.exactly(4)
        assert head[:2] == b"\x81\x7e"
        scope = json.loads(c.exactly(int.from_bytes(head[2:], "big")))
        assert (scope["scheme"], scope["client"]) == (repr(scheme), "('203.0.113.7', 0)")


def test_each_request_of_a_connection_has_its_own_client(server):
    """A proxy's connection carries the requests of many."""
    s = server("raw:app", shared=True)
    with s.connect() as c:
        for n in (1, 2, 0, 3):
            headers = [("Host", "x")] + ([("X-Forwarded-For", f"203.0.113.{n}")] if n else [])
            expected = (f"203.0.113.{n}", 0) if n else c.sock.getsockname()
            assert client(c.request("GET", "/scope", headers).json()) == expected


def test_a_prefix_replaces_root_path(server):
    s = server("scope_only:app", "--root-path", "/conf", "--proxy-headers=X-Forwarded-Prefix", shared=True)
    for headers, root in [([], "/conf"), ([("X-Forwarded-Prefix", "/api")], "/api"), ([("X-Forwarded-Prefix", "/")], "")]:
        scope = scope_of(s, [("Host", "x"), *headers], "/a%20b")
        assert (scope["root_path"], scope["path"], scope["raw_path"]["bytes"]) == (root, f"{root}/a b", f"{root}/a%20b")


@pytest.mark.parametrize("prefix, ways", [("/api", ["loop", "direct", "direct"]), ("/a%20b", ["loop"] * 3)])
def test_direct_way_of_django(server, prefix, ways):
    """From the second request on a thread answers at once: it sees the same."""
    chosen = "X-Forwarded-For,X-Forwarded-Proto,X-Forwarded-Host,X-Forwarded-Prefix"
    s = server("direct_django:application", "--sync-threads", "4", f"--proxy-headers={chosen}")
    headers = [*SAID, ("X-Forwarded-Host", "example.org"), ("X-Forwarded-Prefix", prefix)]
    for way in ways:
        seen = scope_of(s, headers, "/sync")
        told = {k: seen[k] for k in ("way", "client", "host", "server", "path")}
        assert told == {
            "way": way, "client": "203.0.113.7", "host": "example.org", "server": ["example.org", "443"],
            "path": f"{prefix.replace('%20', ' ')}/sync",
        }  # fmt: skip
