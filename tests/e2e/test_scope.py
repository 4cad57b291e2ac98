"""The HTTP connection scope: every key and type of the ASGI specification (HTTP 2.5)."""

import json
import socket

import pytest

import wire


def show(server, target="/scope", headers=(), address=None, **kwargs):
    with server.connect(address=address) as c:
        r = c.request(kwargs.pop("method", "GET"), target, headers, **kwargs)
        assert r.status == 200, r
        return r.json(), c.sock.getsockname()


@pytest.fixture
def s(server):
    return server("raw:app", shared=True)


def test_every_key(s):
    scope, client = show(s, "/scope?a=b%20c&d=%C3%A9", [("Host", "example.org"), ("X-Thing", "Value")])
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["http_version"] == "1.1"
    assert scope["method"] == "GET"
    assert scope["scheme"] == "http"
    assert scope["path"] == "/scope"
    assert scope["raw_path"] == {"bytes": "/scope"}
    assert scope["query_string"] == {"bytes": "a=b%20c&d=%C3%A9"}
    assert scope["root_path"] == ""
    # Lists or tuples are both iterables of two; shown by plain() as either.
    headers = [h["tuple"] if isinstance(h, dict) else h for h in scope["headers"]]
    assert headers == [[{"bytes": "host"}, {"bytes": "example.org"}], [{"bytes": "x-thing"}, {"bytes": "Value"}]]
    assert _pair(scope["client"]) == [client[0], client[1]]
    assert _pair(scope["server"]) == [s.address[0], s.port]
    assert isinstance(_pair(scope["client"])[1], int) and isinstance(_pair(scope["server"])[1], int)
    assert scope["state"] == {"ringcorn": {"object": "Presence"}}
    assert isinstance(scope.get("extensions", {}), dict)


def _pair(value):
    return value["tuple"] if isinstance(value, dict) else value


@pytest.mark.parametrize(
    "target, path, raw",
    [
        ("/scope", "/scope", "/scope"),
        ("/sc%6Fpe", "/scope", "/sc%6Fpe"),
        ("/%73cope?x=%73", "/scope", "/%73cope"),
    ],
)
def test_percent_decoding_of_the_path(s, target, path, raw):
    scope, _ = show(s, target)
    assert (scope["path"], scope["raw_path"]["bytes"]) == (path, raw)


@pytest.mark.parametrize(
    "target, path",
    [
        ("/caf%C3%A9", "/café"),
        ("/a%2Fb", "/a/b"),
        ("/a%2fb%25", "/a/b%"),
        ("/%E2%98%83", "/☃"),
        ("/%F0%9F%8D%95", "/🍕"),
        ("/a+b", "/a+b"),
        ("/a;b=c", "/a;b=c"),
        ("//double//slash", "//double//slash"),
        ("/a/../b/./c", "/a/../b/./c"),
        ("/%00", "/\0"),
        ("/%zz", "/%zz"),
        ("/%", "/%"),
        ("/%4", "/%4"),
    ],
)
def test_paths(server, target, path):
    s = server("scope_only:app", shared=True)
    scope, _ = show(s, target)
    assert scope["path"] == path
    assert scope["raw_path"] == {"bytes": target}


def test_path_that_is_not_utf8(server):
    s = server("scope_only:app", shared=True)
    scope, _ = show(s, "/%ff%fe")
    assert isinstance(scope["path"], str) and scope["raw_path"] == {"bytes": "/%ff%fe"}


def test_absolute_form(s):
    scope, _ = show(s, "http://example.org/scope?q")
    assert (scope["path"], scope["query_string"]) == ("/scope", {"bytes": "q"})


def test_options_asterisk(server):
    s = server("scope_only:app", shared=True)
    scope, _ = show(s, "*", method="OPTIONS")
    assert scope["method"] == "OPTIONS" and scope["path"] in ("*", "")


def test_empty_query_and_question_mark_alone(s):
    assert show(s, "/scope")[0]["query_string"] == {"bytes": ""}
    assert show(s, "/scope?")[0]["query_string"] == {"bytes": ""}
    assert show(s, "/scope??")[0]["query_string"] == {"bytes": "?"}


def test_http_10(s):
    scope, _ = show(s, version="1.0")
    assert scope["http_version"] == "1.0"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "REPORT"])
def test_methods(s, method):
    assert show(s, method=method)[0]["method"] == method


def test_root_path(server):
    """Under root_path the path keeps the prefix (specification 2.5: path includes root_path)."""
    s = server("scope_only:app", "--root-path", "/prefix", shared=True)
    scope, _ = show(s, "/page")
    assert scope["root_path"] == "/prefix" and scope["path"] == "/prefix/page"
    assert scope["raw_path"] == {"bytes": "/prefix/page"}


def test_ipv6(server):
    s = server("raw:app", bind="[::1]:0")
    scope, client = show(s)
    assert _pair(scope["client"]) == ["::1", client[1]] and _pair(scope["server"]) == ["::1", s.port]


def test_clients_that_alternate(s):
    """The last client's address is kept for the next connection: each scope has its own for all that."""
    for host in ["127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.12", "127.0.0.1", "127.0.0.1"]:
        with socket.create_connection(s.address, 10, source_address=(host, 0)) as sock:
            port = sock.getsockname()[1]
            sock.sendall(b"GET /scope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert _pair(json.loads(answer.partition(b"\r\n\r\n")[2])["client"]) == [host, port]


def test_unix_socket(server, tmp_path):
    path = str(tmp_path / "s.sock")
    s = server("raw:app", bind="unix:" + path)
    scope, _ = show(s, address=path)
    assert scope["client"] is None and _pair(scope["server"]) == [path, None]


def test_two_binds(server, tmp_path):
    path = str(tmp_path / "s.sock")
    s = server("raw:app", bind=["127.0.0.1:0", "unix:" + path])
    tcp = next(a for a in s.addresses if not isinstance(a, str))
    assert s.get("/hello", address=tcp).status == 200
    with wire.Connection(path) as c:
        assert c.get("/hello").status == 200


def test_scopes_are_independent(server):
    """What a request does to its scope is not seen by the next."""
    s = server("scope_only:vandal", shared=True)
    first = s.get("/").json()
    assert s.get("/").json() == first
    with s.connect() as c:
        assert [c.get("/").json() for _ in range(5)] == [first] * 5
