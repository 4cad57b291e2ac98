"""The PROXY protocol (HAProxy's proxy-protocol.txt): who the client is, and who may say so."""

import json
import socket
import struct
import time

import certs
import pytest
import wire
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

GET = b"GET /scope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
V1 = b"PROXY TCP4 203.0.113.7 198.51.100.2 4711 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REFUSED = r"PROXY protocol: \d+ connections? refused, the last from {}: {}"


def v2(block=b"", command=1, family=0x11):
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(block)) + block


def inet(client="203.0.113.7", server="198.51.100.2", ports=(4711, 443)):
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    return socket.inet_pton(family, client) + socket.inet_pton(family, server) + struct.pack("!HH", *ports)


def tlv(kind, value):
    return bytes([kind]) + struct.pack("!H", len(value)) + value


TLS = tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x23, b"TLS_AES_128_GCM_SHA256"))


def ends(scope):
    return tuple(scope["client"]["tuple"]) if scope["client"] else None, tuple(scope["server"]["tuple"])


def ask(s, header, address=None):
    with s.connect(address=address) as c:
        c.send(header + GET)
        r = c.response()
        assert r.status == 200, r
        return r.json(), c.sock.getsockname()


def is_refused(s, data, address=None):
    """Closed without an answer."""
    with s.connect(address=address) as c:
        try:
            c.send(data)
            return c.rest() == b""
        except (ConnectionResetError, BrokenPipeError):
            return True


@pytest.mark.parametrize(
    "mode, header, client, asked, scheme",
    [
        ("v1", V1, ("203.0.113.7", 4711), ("198.51.100.2", 443), "http"),
        ("auto", V1, ("203.0.113.7", 4711), ("198.51.100.2", 443), "http"),
        ("auto", b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", ("2001:db8::1", 1), ("::1", 2), "http"),
        ("v1", b"PROXY UNKNOWN\r\n", None, None, "http"),
        ("v2", v2(inet()), ("203.0.113.7", 4711), ("198.51.100.2", 443), "http"),
        ("auto", v2(inet("2001:db8::1", "::1"), family=0x21), ("2001:db8::1", 4711), ("::1", 443), "http"),
        ("auto", v2(inet() + tlv(4, bytes(3000))), ("203.0.113.7", 4711), ("198.51.100.2", 443), "http"),
        ("auto", v2(inet() + TLS), ("203.0.113.7", 4711), ("198.51.100.2", 443), "https"),
        ("v2", v2(command=0, family=0), None, None, "http"),
        ("v2", v2(bytes(50), command=0), None, None, "http"),
    ],
    ids=["v1", "v1 by auto", "v1 IPv6", "v1 UNKNOWN", "v2", "v2 IPv6 by auto", "v2 TLVs", "v2 TLS", "v2 LOCAL", "v2 LOCAL with a block"],
)
def test_told(server, mode, header, client, asked, scheme):
    s = server("raw:app", "--proxy-protocol", mode, shared=True)
    scope, peer = ask(s, header)
    assert ends(scope) == (client or peer, asked or s.address)
    assert scope["scheme"] == scheme


def ssl_tlv(*inner, client=1, verify=0):
    return tlv(0x20, bytes([client]) + struct.pack("!I", verify) + b"".join(inner))


CLIENTS = certs.Authority("clients", number=102)
ZOE = CLIENTS.issue("zoe", client=True, number=3, subject=certs.name_of("Zo\u00eb, <x>", x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A+B")))
DER = ZOE.x509.public_bytes(serialization.Encoding.DER)
PEM = ZOE.x509.public_bytes(serialization.Encoding.PEM).decode()
NOTHING = {"server_cert": None, "client_cert_chain": [], "client_cert_name": None, "client_cert_error": None, "tls_version": None, "cipher_suite": None}
# As HAProxy 2.6 sends them (`send-proxy-v2-ssl-cn`, `proxy-v2-options ssl-cipher,cert-sig,cert-key,crc32c`): a client without a
# certificate, one with, one by TLS 1.2, one whose certificate has expired (`crt-ignore-err all`).
HAPROXY = [
    bytes.fromhex("0d0a0d0a000d0a515549540a" + rest)
    for rest in (
        "2111005a7f0000017f00000187d2ab73030004d48fc6e02000440100000000210007544c5376312e33250005454332353624001165636473612d776974"
        "682d534841323536230016544c535f4145535f3235365f47434d5f534841333834",
        "211100677f0000017f00000187e2ab73030004cf61b1a02000510700000000210007544c5376312e3322000a416c6963652c203c783e25000545433235"
        "3624001165636473612d776974682d534841323536230016544c535f4145535f3235365f47434d5f534841333834",
        "211100697f0000017f00000187e4ab730300048625917a2000530700000000210007544c5376312e32220005616c696365250005454332353624001165"
        "636473612d776974682d53484132353623001d45434448452d45434453412d4145533235362d47434d2d534841333834",
        "211100607f0000017f00000187e8ab73030004017a956620004a070000000a210007544c5376312e332200036f6c642500054543323536240011656364"
        "73612d776974682d534841323536230016544c535f4145535f3235365f47434d5f534841333834",
    )
]


@pytest.mark.parametrize(
    "header, told",
    [
        (v2(inet() + ssl_tlv()), {}),
        (v2(inet() + TLS), {"tls_version": 0x0304, "cipher_suite": 0x1301}),
        (v2(inet() + ssl_tlv(tlv(0x21, b"TLSv1.2"), tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256"))), {"tls_version": 0x0303, "cipher_suite": 0xC02F}),
        (v2(inet() + ssl_tlv(tlv(0x21, b"TLS 1.3"), tlv(0x23, b"TLS_RSA_WITH_AES_128_CBC_SHA"))), {"tls_version": 0x0304, "cipher_suite": 0x002F}),
        (v2(inet() + ssl_tlv(tlv(0x21, b"TLSv1"), tlv(0x23, b"NONE-SUCH"))), {"tls_version": 0x0301}),
        (v2(inet() + ssl_tlv(tlv(0x21, b"TLSv9.9"), tlv(0x23, b""))), {}),
        (HAPROXY[0], {"tls_version": 0x0304, "cipher_suite": 0x1302}),
        (HAPROXY[1], {"tls_version": 0x0304, "cipher_suite": 0x1302, "client_cert_name": r"CN=Alice\, \<x\>"}),
        (HAPROXY[2], {"tls_version": 0x0303, "cipher_suite": 0xC02C, "client_cert_name": "CN=alice"}),
        (HAPROXY[3], {"tls_version": 0x0304, "cipher_suite": 0x1302, "client_cert_name": "CN=old", "client_cert_error": "10: certificate has expired"}),
        (v2(inet() + ssl_tlv(tlv(0x22, "Zo\u00eb".encode()), client=5)), {"client_cert_name": "CN=Zo\u00eb"}),
        (v2(inet() + ssl_tlv(tlv(0x22, b"\xff\xfe"), client=3)), {}),
        (v2(inet() + ssl_tlv(tlv(0x22, b"bob"), client=3, verify=10)), {"client_cert_name": "CN=bob", "client_cert_error": "10: certificate has expired"}),
        (v2(inet() + ssl_tlv(tlv(0x22, b"nobody"), client=1, verify=7)), {}),
        (v2(inet() + ssl_tlv(tlv(0x22, b"no matter"), tlv(0x28, DER), client=3)),
         {"client_cert_chain": [PEM], "client_cert_name": ZOE.x509.subject.rfc4514_string()}),
        (v2(inet() + ssl_tlv(tlv(0x28, b"0\x82 no certificate"), tlv(0x22, b"carol"), client=3)), {"client_cert_name": "CN=carol"}),
    ],
    ids=["nothing more", "1.3", "1.2, OpenSSL's name", "the standard's name", "1.0, no such cipher", "no such version", "HAProxy", "HAProxy, certificate", "HAProxy, 1.2", "HAProxy, expired",
         "a name in UTF-8", "a name in none", "not verified", "no certificate", "the certificate", "what is none"],
)  # fmt: skip
def test_tls_of_the_client(server, header, told):
    """What the proxy says of TLS, by ASGI's extension: as much of it as there is."""
    s = server("raw:app", "--proxy-protocol", "auto", shared=True)
    scope, _ = ask(s, header)
    assert scope["scheme"] == "https"
    assert scope["extensions"]["tls"] == NOTHING | told


def test_no_tls_no_extension(server):
    s = server("raw:app", "--proxy-protocol", "auto", shared=True)
    for header in (V1, v2(inet()), v2(inet() + ssl_tlv(tlv(0x21, b"TLSv1.3"), client=0)), v2(TLS, command=0, family=0)):
        scope, _ = ask(s, header)
        assert scope["scheme"] == "http" and "tls" not in scope["extensions"]


def test_tls_of_the_client_goes_before_that_of_the_proxy(server, tmp_path):
    """A proxy that ends the client's TLS and speaks its own to us."""
    authority = certs.Authority()
    cert, key = authority.issue("localhost").write(tmp_path, "server")
    s = server("raw:app", "--proxy-protocol", "v2", "--certfile", cert, "--keyfile", key)
    s.tls = certs.client(authority)
    with socket.create_connection(s.address, 10) as bare:
        bare.sendall(v2(inet() + ssl_tlv(tlv(0x21, b"TLSv1.2"), tlv(0x22, b"dave"), client=3)))
        with s.tls.wrap_socket(bare, server_hostname="localhost") as tls:
            tls.sendall(GET)
            answer = b"".join(iter(lambda: tls.recv(65536), b""))
    scope = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert scope["extensions"]["tls"] == NOTHING | {"tls_version": 0x0303, "client_cert_name": "CN=dave"}


def test_wsgi(server):
    s = server("wsgi_raw:app", "--proxy-protocol", "auto", "--interface", "wsgi")
    with s.connect() as c:
        c.send(v2(inet() + TLS) + GET.replace(b"/scope", b"/environ"))
        environ = c.response().json()
    told = {k: environ[k] for k in ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme")}
    assert told == {
        "REMOTE_ADDR": "203.0.113.7", "REMOTE_PORT": "4711", "SERVER_NAME": "198.51.100.2", "SERVER_PORT": "443", "wsgi.url_scheme": "https",
    }  # fmt: skip


def test_told_for_all_requests_of_a_connection_and_in_the_access_log(server, tmp_path):
    log = tmp_path / "access.log"
    s = server("raw:app", "--proxy-protocol", "auto", "--access-logfile", log)
    with s.connect() as c:
        c.send(V1)
        for _ in range(3):
            scope = c.request("GET", "/scope", [("Host", "x")]).json()
            assert ends(scope)[0] == ("203.0.113.7", 4711)
    wire.eventually(lambda: log.read_text().count("203.0.113.7 - - [") == 3, what="three lines")


@pytest.mark.parametrize("header", [V1, v2(inet() + tlv(4, b"x"))], ids=["v1", "v2"])
def test_byte_by_byte(server, header):
    s = server("raw:app", "--proxy-protocol", "auto", shared=True)
    with s.connect() as c:
        for byte in header + GET:
            c.send(bytes([byte]))
            time.sleep(0.001)
        assert ends(c.response().json())[0] == ("203.0.113.7", 4711)


def test_half_of_it_is_waited_for_as_long_as_for_a_head(server):
    s = server("raw:app", "--proxy-protocol", "auto", "--timeouts-header", "500ms", shared=True)
    for half in (b"", V1[:20], v2(inet())[:20]):
        with s.connect() as c:
            began = time.monotonic()
            c.send(half)
            assert c.rest() == b""
            assert time.monotonic() - began > 0.4


@pytest.mark.parametrize(
    "mode, data, why",
    [
        ("auto", GET, "there is none"),
        ("v1", v2(inet()), "it is of the version"),
        ("v2", V1, "it is of the version"),
        ("auto", b"PROXY TCP4 x y 1 2\r\n", "its line is not"),
        ("auto", b"PROXY UNKNOWN " + b"x" * 100, "its line does not end"),
        ("auto", v2(inet()[:8]), "its addresses or TLVs"),
        ("auto", v2(inet() + tlv(3, bytes(4))), "its checksum"),
        ("auto", v2(command=7), "its version, command or family"),
        ("auto", V1 + V1, None),
    ],
    ids=["no header", "v2 for v1", "v1 for v2", "v1 garbage", "v1 too long", "v2 too short", "v2 checksum", "v2 command", "twice"],
)
def test_refused(server, mode, data, why):
    s = server("raw:app", "--proxy-protocol", mode)
    if why is None:  # what follows is not HTTP
        with s.connect() as c:
            c.send(data)
            assert c.response().status == 501
        return
    assert is_refused(s, data)
    s.wait_log(REFUSED.format("127.0.0.1", why))
    scope, _ = ask(s, V1 if mode != "v2" else v2(inet()))
    assert ends(scope)[0][0] == "203.0.113.7"


def test_those_who_are_not_trusted_are_refused_with_one_line(server):
    s = server("raw:app", "--proxy-protocol", "auto", "--forwarded-allow-ips", "10.0.0.0/8")
    assert is_refused(s, V1 + GET)
    s.wait_log(REFUSED.format("127.0.0.1", "its peer is none of proxy.trusted"))
    assert all([is_refused(s, V1 + GET) for _ in range(20)])
    lines = [line for line in s.err.lines if "PROXY protocol" in line]
    assert len(lines) <= 5, "a line for each would let anybody fill the log"


def test_a_check_that_connects_and_closes_is_silent(server):
    s = server("raw:app", "--proxy-protocol", "auto", "--access-log")
    for _ in range(3):
        s.connect().close()
    with s.connect() as c:  # reset
        c.reset()
    with s.connect() as c:
        c.send(v2(command=0, family=0))
    ask(s, V1)
    assert not [line for line in s.err.lines if "PROXY" in line], s.report


def test_over_a_unix_socket(server, tmp_path):
    s = server("raw:app", "--proxy-protocol", "auto", bind=f"unix:{tmp_path}/s")
    scope, _ = ask(s, v2(inet()))
    assert ends(scope) == (("203.0.113.7", 4711), ("198.51.100.2", 443))
    scope, _ = ask(s, v2(bytes(216), family=0x31))
    assert ends(scope) == (None, (f"{tmp_path}/s", None))


def test_headers_are_believed_of_the_client_that_it_names(server):
    """A proxy of bytes in front of one of requests: the second is the client of the first."""
    s = server("raw:app", "--proxy-protocol", "auto", "--forwarded-allow-ips", "127.0.0.1,203.0.113.0/24")
    said = GET.replace(b"Host: x\r\n", b"Host: x\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n")
    for header, client, scheme in [(V1, "192.0.2.1", "https"), (V1.replace(b"203.0.113.7", b"198.51.100.9"), "198.51.100.9", "http")]:
        with s.connect() as c:
            c.send(header + said)
            scope = c.response().json()
            assert (ends(scope)[0][0], scope["scheme"]) == (client, scheme)
