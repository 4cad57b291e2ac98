"""Vectors: what proxies say in headers, and what the application is told, by ASGI and by WSGI alike.

A row: its name; proxy.trusted and proxy.headers (None: the defaults); the headers of the request; what differs from a
request that says nothing. The peer is 127.0.0.1."""

import pytest

F, P, HOST, PORT, PREFIX = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix"
REAL, FWD = "X-Real-IP", "Forwarded"
ALL = f"{F},{P},{HOST},{PORT},{PREFIX}"
CHAIN = "127.0.0.1,10.0.0.0/8,2001:db8:1::/48"

VECTORS = [
    # --- who is believed
    ("nothing said", None, None, [], {}),
    ("the default believes the loopback", None, None, [(F, "203.0.113.7"), (P, "https")], {"client": ("203.0.113.7", 0), "scheme": "https"}),
    ("not trusted", "10.0.0.0/8", ALL, [(F, "203.0.113.7"), (P, "https"), (HOST, "e"), (PORT, "1"), (PREFIX, "/p")], {}),
    ("nobody is trusted", "unix", None, [(F, "203.0.113.7"), (P, "https")], {}),
    ("by network", "127.0.0.0/8", None, [(F, "203.0.113.7")], {"client": ("203.0.113.7", 0)}),
    ("by mapped network", "::ffff:127.0.0.0/104", None, [(F, "203.0.113.7")], {"client": ("203.0.113.7", 0)}),
    ("::/0 is IPv6 alone", "::/0", None, [(F, "203.0.113.7")], {}),
    ("0.0.0.0/0 is IPv4 alone", "0.0.0.0/0", None, [(F, "2001:db8::1, 10.0.0.1")], {"client": ("2001:db8::1", 0)}),
    ("everybody: the leftmost", "*", None, [(F, "203.0.113.7, 198.51.100.1, 10.1.2.3")], {"client": ("203.0.113.7", 0)}),
    ("everybody: the last before garbage", "*", None, [(F, "x, 198.51.100.1, 10.1.2.3")], {"client": ("198.51.100.1", 0)}),
    ("headers that are not chosen", None, P, [(F, "203.0.113.7"), (P, "https"), (HOST, "e"), (REAL, "1.2.3.4")], {"scheme": "https"}),
    ("none chosen", None, "none", [(F, "203.0.113.7"), (P, "https")], {}),
    # --- X-Forwarded-For
    ("a chain", CHAIN, None, [(F, "203.0.113.7, 10.0.0.2, 10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    ("a chain with a lie in front", CHAIN, None, [(F, "1.1.1.1, 203.0.113.7, 10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    ("all are trusted", CHAIN, None, [(F, "10.0.0.3, 10.0.0.2")], {"client": ("10.0.0.3", 0)}),
    ("several headers are one list", CHAIN, None, [(F, "1.1.1.1"), (F, "203.0.113.7, 10.0.0.2"), ("A", "b"), (F, "10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    ("IPv6 hops", CHAIN, None, [(F, "203.0.113.7, 2001:db8:1::5")], {"client": ("203.0.113.7", 0)}),
    ("IPv6 hop outside", CHAIN, None, [(F, "203.0.113.7, 2001:db8:2::5")], {"client": ("2001:db8:2::5", 0)}),
    ("mapped hop", CHAIN, None, [(F, "203.0.113.7, ::ffff:10.0.0.9")], {"client": ("203.0.113.7", 0)}),
    ("mapped client", None, None, [(F, "::ffff:203.0.113.7")], {"client": ("203.0.113.7", 0)}),
    ("IPv6 is told in one form", None, None, [(F, "2001:DB8:0:0:0:0:0:1")], {"client": ("2001:db8::1", 0)}),
    ("port", None, None, [(F, "203.0.113.7:4711")], {"client": ("203.0.113.7", 4711)}),
    ("port of IPv6", None, None, [(F, "[2001:db8::1]:4711")], {"client": ("2001:db8::1", 4711)}),
    ("brackets without a port", None, None, [(F, "[2001:db8::1]")], {"client": ("2001:db8::1", 0)}),
    ("ports of hops", CHAIN, None, [(F, "203.0.113.7:1, 10.0.0.1:2, [2001:db8:1::1]:3")], {"client": ("203.0.113.7", 1)}),
    ("empty elements", CHAIN, None, [(F, ", 203.0.113.7, , 10.0.0.1 ,,")], {"client": ("203.0.113.7", 0)}),
    ("no spaces", CHAIN, None, [(F, "1.1.1.1,203.0.113.7,10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    ("tabs", CHAIN, None, [(F, "203.0.113.7\t,\t10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    ("empty", None, None, [(F, "")], {}),
    ("commas", None, None, [(F, ",,, ,")], {}),
    ("garbage", None, None, [(F, "<script>")], {}),
    ("unknown", None, None, [(F, "unknown")], {}),
    ("a name", None, None, [(F, "localhost")], {}),
    ("garbage behind a trusted hop", CHAIN, None, [(F, "203.0.113.7, unknown, 10.0.0.1")], {"client": ("10.0.0.1", 0)}),
    ("port out of range", None, None, [(F, "203.0.113.7:65536")], {}),
    ("port that is none", None, None, [(F, "203.0.113.7:http")], {}),
    ("three numbers", None, None, [(F, "203.0.113")], {}),
    ("octal", None, None, [(F, "0203.0.113.7")], {}),
    ("too large", None, None, [(F, "203.0.113.256")], {}),
    ("open bracket", None, None, [(F, "[2001:db8::1")], {}),
    ("zone", None, None, [(F, "fe80::1%eth0")], {}),
    ("quotes are no part of it", None, None, [(F, '"203.0.113.7"')], {}),
    ("long", None, None, [(F, "1" * 300)], {}),
    ("long list", CHAIN, None, [(F, "1.1.1.1, " * 400 + "203.0.113.7, 10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    # --- X-Real-IP
    ("real ip", None, REAL, [(REAL, "203.0.113.7")], {"client": ("203.0.113.7", 0)}),
    ("real ip: the last", None, REAL, [(REAL, "1.1.1.1"), (REAL, "203.0.113.7")], {"client": ("203.0.113.7", 0)}),
    ("real ip behind the list", None, f"{REAL},{F}", [(REAL, "1.1.1.1"), (F, "203.0.113.7")], {"client": ("203.0.113.7", 0)}),
    ("real ip where the list says nothing", None, f"{REAL},{F}", [(REAL, "203.0.113.7"), (F, "unknown")], {"client": ("203.0.113.7", 0)}),
    ("real ip: garbage", None, REAL, [(REAL, "x")], {}),
    # --- X-Forwarded-Proto
    ("https", None, None, [(P, "https")], {"scheme": "https"}),
    ("HTTPS", None, None, [(P, "HTTPS")], {"scheme": "https"}),
    ("http", None, None, [(P, "http")], {}),
    ("wss", None, None, [(P, "wss")], {"scheme": "https"}),
    ("proto: the nearest proxy's", None, None, [(P, "https, http")], {}),
    ("proto: the nearest proxy's, over headers", None, None, [(P, "http"), (P, "https")], {"scheme": "https"}),
    ("proto: garbage", None, None, [(P, "javascript")], {}),
    ("proto: empty", None, None, [(P, "")], {}),
    # --- X-Forwarded-Host, -Port
    ("host", None, ALL, [(HOST, "example.org")], {"host": "example.org", "server": ("example.org", 80)}),
    ("host under https", None, ALL, [(HOST, "example.org"), (P, "https")], {"host": "example.org", "server": ("example.org", 443), "scheme": "https"}),
    ("host and port", None, ALL, [(HOST, "example.org:8443")], {"host": "example.org:8443", "server": ("example.org", 8443)}),
    ("host, and its port apart", None, ALL, [(HOST, "example.org"), (PORT, "8443")], {"host": "example.org:8443", "server": ("example.org", 8443)}),
    ("the usual port is left out", None, ALL, [(HOST, "example.org:80"), (PORT, "443"), (P, "https")], {"host": "example.org", "server": ("example.org", 443), "scheme": "https"}),
    ("port alone", None, ALL, [(PORT, "8443")], {"host": "x.test:8443", "port": 8443}),
    ("port alone, the usual", None, ALL, [(PORT, "80")], {"port": 80}),
    ("host: IPv6", None, ALL, [(HOST, "[2001:db8::1]:81")], {"host": "[2001:db8::1]:81", "server": ("[2001:db8::1]", 81)}),
    ("host: the nearest proxy's", None, ALL, [(HOST, "evil.example, example.org")], {"host": "example.org", "server": ("example.org", 80)}),
    ("host: garbage", None, ALL, [(HOST, "a b/c")], {}),
    ("host: a user", None, ALL, [(HOST, "user@example.org")], {}),
    ("host: a port alone", None, ALL, [(HOST, ":80")], {}),
    ("host is not believed by default", None, None, [(HOST, "evil.example"), (PORT, "1"), (PREFIX, "/p")], {}),
    ("port: garbage", None, ALL, [(PORT, "0")], {}),
    ("port: too large", None, ALL, [(PORT, "65536")], {}),
    ("port: sign", None, ALL, [(PORT, "+80")], {}),
    # --- X-Forwarded-Prefix
    ("prefix", None, ALL, [(PREFIX, "/api")], {"root": "/api"}),
    ("prefix with slashes behind", None, ALL, [(PREFIX, "/api//")], {"root": "/api"}),
    ("prefix with escapes", None, ALL, [(PREFIX, "/a%20b")], {"root": "/a b"}),
    ("prefix: the root", None, ALL, [(PREFIX, "/")], {}),
    ("prefix: another host's", None, ALL, [(PREFIX, "//evil.example")], {}),
    ("prefix: no path", None, ALL, [(PREFIX, "api")], {}),
    ("prefix: a query", None, ALL, [(PREFIX, "/a?b")], {}),
    ("prefix: spaces", None, ALL, [(PREFIX, "/a b")], {}),
    # --- Forwarded
    ("for", None, FWD, [(FWD, "for=203.0.113.7")], {"client": ("203.0.113.7", 0)}),
    ("for: case and others", None, FWD, [(FWD, "By=10.0.0.1;FOR=203.0.113.7;proto=https;secret=x")], {"client": ("203.0.113.7", 0), "scheme": "https"}),
    ("for: quoted IPv6", None, FWD, [(FWD, 'for="[2001:db8::1]:4711"')], {"client": ("2001:db8::1", 4711)}),
    ("for: quoted IPv4", None, FWD, [(FWD, 'for="203.0.113.7:80"')], {"client": ("203.0.113.7", 80)}),
    ("for: a hidden port", None, FWD, [(FWD, 'for="203.0.113.7:_x"')], {"client": ("203.0.113.7", 0)}),
    ("for: a chain", CHAIN, FWD, [(FWD, 'for=1.1.1.1, for=203.0.113.7;proto=https;host=example.org, for=10.0.0.1;proto=http')], {"client": ("203.0.113.7", 0), "scheme": "https", "host": "example.org", "server": ("example.org", 443)}),
    ("for: the lie's proto and host do not count", CHAIN, FWD, [(FWD, "for=1.1.1.1;proto=https;host=evil.example, for=203.0.113.7, for=10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    ("for: several headers", CHAIN, FWD, [(FWD, "for=203.0.113.7"), (FWD, "for=10.0.0.1")], {"client": ("203.0.113.7", 0)}),
    ("for: unknown, proto is said", None, FWD, [(FWD, "for=unknown;proto=https")], {"scheme": "https"}),
    ("for: hidden", CHAIN, FWD, [(FWD, "for=203.0.113.7, for=_hidden, for=10.0.0.1")], {"client": ("10.0.0.1", 0)}),
    ("for: an open quote to the left", None, FWD, [(FWD, 'for="1.1.1.1, for=203.0.113.7')], {"client": ("203.0.113.7", 0)}),
    ("for: quotes to the left", None, FWD, [(FWD, 'for=1.1.1.1;x=", for=203.0.113.7')], {"client": ("203.0.113.7", 0)}),
    ("for: a comma in quotes", None, FWD, [(FWD, 'x="a,for=1.1.1.1";for=203.0.113.7')], {"client": ("203.0.113.7", 0)}),
    ("for: a semicolon in quotes", None, FWD, [(FWD, 'x="a;for=1.1.1.1";for=203.0.113.7')], {"client": ("203.0.113.7", 0)}),
    ("for: twice in one", None, FWD, [(FWD, "for=203.0.113.7;for=1.1.1.1")], {}),
    ("for: no pair", None, FWD, [(FWD, "203.0.113.7")], {}),
    ("for: behind a quote", None, FWD, [(FWD, 'for="203.0.113.7"x')], {}),
    ("for: an escape", None, FWD, [(FWD, 'for="203\\.0.113.7"')], {}),
    ("for: an open quote", None, FWD, [(FWD, 'for="203.0.113.7')], {}),
    ("for: empty", None, FWD, [(FWD, "for=")], {}),
    ("for: spaces", None, FWD, [(FWD, 'for=203.0.113.7 ; proto=https')], {"client": ("203.0.113.7", 0), "scheme": "https"}),
    ("for: its host is judged", None, FWD, [(FWD, 'for=203.0.113.7;host="a b"')], {"client": ("203.0.113.7", 0)}),
    ("for: host with a port", None, FWD, [(FWD, 'for=203.0.113.7;host="example.org:81"')], {"client": ("203.0.113.7", 0), "host": "example.org:81", "server": ("example.org", 81)}),
    ("forwarded before the others", None, f"{FWD},{F},{P}", [(F, "1.1.1.1"), (P, "http"), (FWD, "for=203.0.113.7;proto=https")], {"client": ("203.0.113.7", 0), "scheme": "https"}),
]  # fmt: skip


def by_asgi(s, headers):
    with s.connect() as c:
        r = c.request("GET", "/environ", [("Host", "x.test"), *headers])
        assert r.status == 200, r
        scope, peer = r.json(), c.sock.getsockname()
    seen = [[part["bytes"] for part in pair["tuple"]] for pair in scope["headers"]]
    assert scope["path"] == scope["root_path"] + "/environ"
    assert scope["raw_path"]["bytes"].endswith("/environ")
    client, server = scope["client"]["tuple"], scope["server"]["tuple"]
    assert all(isinstance(port, int) for _, port in (client, server))
    return peer, {
        "client": tuple(client), "scheme": scope["scheme"], "server": tuple(server), "root": scope["root_path"],
        "host": dict(seen)["host"],
    }, [(name, value) for name, value in seen if name != "host"]  # fmt: skip


def by_wsgi(s, headers):
    with s.connect() as c:
        r = c.request("GET", "/environ", [("Host", "x.test"), *headers])
        assert r.status == 200, r
        environ, peer = r.json(), c.sock.getsockname()
    assert environ["PATH_INFO"] == "/environ"
    return peer, {
        "client": (environ["REMOTE_ADDR"], int(environ.get("REMOTE_PORT", 0))), "scheme": environ["wsgi.url_scheme"],
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])), "root": environ["SCRIPT_NAME"], "host": environ["HTTP_HOST"],
    }, None  # fmt: skip


@pytest.mark.parametrize("app, ask", [("scope_only:app", by_asgi), ("wsgi_raw:app", by_wsgi)], ids=["asgi", "wsgi"])
@pytest.mark.parametrize("trusted, chosen, headers, differs", [row[1:] for row in VECTORS], ids=[row[0] for row in VECTORS])
def test_vector(server, app, ask, trusted, chosen, headers, differs):
    args = []
    if trusted is not None:
        args += ["--forwarded-allow-ips", trusted]
    if chosen is not None:
        args.append(f"--proxy-headers={chosen}")
    if app.startswith("wsgi"):
        args += ["--interface", "wsgi"]
    s = server(app, *args, shared=True)
    peer, told, seen = ask(s, headers)
    expected = {"client": peer, "scheme": "http", "host": "x.test", "server": s.address, "root": ""}
    if "port" in differs:
        expected["server"] = (s.address[0], differs["port"])
    expected |= {k: v for k, v in differs.items() if k != "port"}
    assert told == expected
    if seen is not None:
        assert seen == [(name.lower(), value.strip()) for name, value in headers], "the application gets the headers as they came"
