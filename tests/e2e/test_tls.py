"""TLS: what is negotiated, as `openssl s_client` and Python's ssl see it, and HTTP over it: bodies, ends, what is cut off, what is no TLS."""

import hashlib
import select
import socket
import ssl
import struct
import subprocess
import time

import certs
import frames
import pytest
import wire

AUTHORITY = certs.Authority()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    AUTHORITY.write(folder)
    return folder, *AUTHORITY.issue("localhost", "*.example.org").write(folder, "server")


@pytest.fixture
def s(server, files):
    return tls_server(server, files)


def tls_server(server, files, app="raw:app", *options, **kwargs):
    _, cert, key = files
    one = server(app, "--certfile", cert, "--keyfile", key, *options, shared=True, **kwargs)
    one.tls = certs.client(AUTHORITY)
    return one


def s_client(s, *options, send=b"", timeout=20):
    """What `openssl s_client` says."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{s.port}", "-servername", "localhost", *options]
    done = subprocess.run(command, input=send, capture_output=True, timeout=timeout)
    return (done.stdout + done.stderr).decode("utf-8", "replace")


class Pieces:
    """A client whose records pass through our hands: `cut` says in which pieces they are sent."""

    def __init__(self, s, context, cut=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.sock, self.cut = socket.create_connection(s.address, 10), cut
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.do(self.tls.do_handshake)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def flush(self):
        data = self.outgoing.read()
        step = self.cut or len(data) or 1
        for at in range(0, len(data), step):
            self.sock.sendall(data[at : at + step])

    def do(self, what, *args):
        """what(), with the records it wants; those it leaves last are sent with the next."""
        while True:
            try:
                return what(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()

    def readable(self):
        """What can be read of the records that are here."""
        got = b""
        try:
            while piece := self.tls.read(262144):
                got += piece
        except ssl.SSLWantReadError:
            pass
        return got

    def read(self, end):
        got = b""
        while not got.endswith(end):
            piece = self.do(self.tls.read, 65536)
            assert piece, got
            got += piece
        return got


# ------------------------------------------------------------------ what is negotiated


def test_listens_as_https(s):
    assert f"listening on https://127.0.0.1:{s.port}" in s.log


@pytest.mark.parametrize("option, name", [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")])
def test_protocols_spoken(s, option, name):
    assert f"New, {name}, Cipher is" in s_client(s, option)


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_protocols_refused(s, option):
    said = s_client(s, option, "-cipher", "DEFAULT@SECLEVEL=0")
    assert "Cipher is (NONE)" in said and "alert protocol version" in said, said


def test_only_1_3(server, files):
    s = tls_server(server, files, "raw:app", "--tls-min-version", "1.3")
    assert "New, TLSv1.3" in s_client(s)
    assert "alert protocol version" in s_client(s, "-tls1_2")


# Anonymous, without encryption, RC4, 3DES, without forward secrecy, CBC: what testssl calls weak.
@pytest.mark.parametrize("cipher", ["aNULL", "eNULL", "3DES", "AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA"])
def test_weak_ciphers_are_refused(s, cipher):
    said = s_client(s, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "alert handshake failure" in said or "no cipher match" in said, said


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"])
def test_ciphers_of_1_2(s, cipher):
    assert f"Cipher is {cipher}" in s_client(s, "-tls1_2", "-cipher", cipher)


@pytest.mark.parametrize("cipher", ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"])
def test_ciphers_of_1_3(s, cipher):
    assert f"Cipher is {cipher}" in s_client(s, "-tls1_3", "-ciphersuites", cipher)


def test_ciphers_configured(server, files):
    s = tls_server(server, files, "raw:app", "--tls-ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384:TLS_AES_128_GCM_SHA256")
    assert "Cipher is TLS_AES_128_GCM_SHA256" in s_client(s)
    assert "Cipher is ECDHE-ECDSA-AES256-GCM-SHA384" in s_client(s, "-tls1_2")
    assert "alert handshake failure" in s_client(s, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256")
    assert "alert handshake failure" in s_client(s, "-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384")


def test_no_compression_and_secure_renegotiation(s):
    said = s_client(s, "-tls1_2", "-comp")
    assert "Compression: NONE" in said
    assert "Secure Renegotiation IS supported" in said  # RFC 5746: what protects clients; none is ever done


def test_renegotiation_is_refused(s):
    """"R" on a line of its own asks for one; what follows is answered on the old keys or not at all."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{s.port}", "-tls1_2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        process.stdin.write(b"R\n")
        process.stdin.flush()
        said = process.communicate(timeout=20)[0].decode()
    assert "RENEGOTIATING" in said and "no renegotiation" in said, said
    assert s.get("/hello").status == 200


def test_key_update(s):
    """TLS 1.3 changes keys in place: "K" asks for both directions."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{s.port}", "-tls1_3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        lines = []

        def until(begins):
            while line := process.stdout.readline():
                lines.append(line)
                if line.startswith(begins):
                    return

        process.stdin.write(b"K\n")
        process.stdin.flush()
        until(b"KEYUPDATE")  # s_client takes a letter for a command only where it is read alone
        process.stdin.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        process.stdin.flush()
        until(b"HTTP/1.1 ")
        process.stdin.close()
        process.stdout.read()
    assert lines[-1].startswith(b"HTTP/1.1 200"), lines


@pytest.mark.parametrize(
    "offered, got", [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), (["http/1.0"], "http/1.0"), (None, None)]
)
def test_alpn(s, offered, got):
    with s.connect(tls=certs.client(AUTHORITY, alpn=offered)) as c:
        assert c.sock.selected_alpn_protocol() == got
        assert c.get("/hello").status == 200


def test_alpn_that_nobody_speaks(s):
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        s.connect(tls=certs.client(AUTHORITY, alpn=["h2", "spdy/3"]))


# ------------------------------------------------------------------ HTTP over it


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def context(request):
    return certs.client(AUTHORITY, request.param)


def test_keep_alive(s, context):
    with s.connect(tls=context) as c:
        for i in range(20):
            assert c.request("POST", "/echo", body=b"x" * i).body == b"x" * i


def test_pipelining(s, context):
    with s.connect(tls=context) as c:
        c.send(b"".join(wire.request("POST", "/echo", body=b"%d" % i) for i in range(50)))
        assert [c.response().body for _ in range(50)] == [b"%d" % i for i in range(50)]


def test_request_and_finished_in_one_segment(s, context):
    """The request arrives together with the end of the handshake."""
    with Pieces(s, context) as p:
        p.tls.write(wire.request("GET", "/hello"))
        assert p.read(b"Hello, World!").startswith(b"HTTP/1.1 200")


def test_a_finished_is_acknowledged_at_once(s, context):
    """A client without TCP_NODELAY keeps its request back until then, and the kernel would take 40 ms. The best of many: the machine may be busy."""

    def once():
        with socket.create_connection(s.address, 10) as bare, context.wrap_socket(bare, server_hostname="localhost") as tls:
            begun = time.monotonic()
            tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert tls.recv(65536).startswith(b"HTTP/1.1 200")
            return time.monotonic() - begun

    assert min(once() for _ in range(20)) < 0.035


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 65536, 1 << 20, 30_000_000])
def test_uploads(s, context, size):
    with s.connect(tls=context) as c:
        assert c.request("POST", "/count", body=b"x" * size).json()["size"] == size
        assert c.get("/hello").status == 200


def test_upload_chunked(s, context):
    pieces = [b"a" * 100_000, b"b", b"c" * 16_000]
    with s.connect(tls=context) as c:
        r = c.request("POST", "/echo", [("Transfer-Encoding", "chunked")], wire.chunked(*pieces))
        assert r.body == b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, 16000, 16384, 100_000, 20_000_000])
def test_downloads(s, context, size):
    body = hashlib.sha256(b"seed").digest() * (size // 32 + 1)
    with s.connect(tls=context, timeout=30) as c:
        assert c.request("POST", "/echo", body=body[:size]).body == body[:size]


def test_both_ways_at_once(s, context):
    """A body goes up while it comes back. One thread does both: an SSL object of OpenSSL's is not for two."""
    body = b"0123456789" * 400_000
    with Pieces(s, context) as p:
        p.tls.write(wire.request("POST", "/echo-stream", [("Content-Length", str(len(body)))]))
        answer, sent, records = b"", 0, b""
        p.sock.setblocking(False)
        deadline = time.monotonic() + 60
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            assert time.monotonic() < deadline, (sent, len(answer))
            if not records and sent < len(body):
                sent += p.tls.write(body[sent : sent + 60_000])
            records += p.outgoing.read()
            readable, writable, _ = select.select([p.sock], [p.sock] if records else [], [], 10)
            if writable:
                records = records[p.sock.send(records) :]
            if readable:
                data = p.sock.recv(262144)
                assert data, (sent, len(answer))
                p.incoming.write(data)
                answer += p.readable()
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    echoed = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        echoed.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert b"".join(echoed) == body


def test_slow_reader_is_not_buffered_for(s):
    """Back-pressure is that of plain connections: memory does not grow with an endless answer."""
    with s.connect(rcvbuf=65536) as c:
        c.send(wire.request("GET", "/endless?slow"))
        time.sleep(0.5)
        live = s.live(s.workers()[0])
        assert live["chunks"] <= 12, live


def test_bytes_one_by_one(s, context):
    """Records, too, may come in any pieces."""
    with Pieces(s, context, cut=1) as p:
        p.tls.write(wire.request("POST", "/echo", body=b"slowly"))
        assert p.read(b"slowly").startswith(b"HTTP/1.1 200")


def test_records_in_odd_pieces(s, context):
    body = bytes(range(256)) * 1000
    with Pieces(s, context, cut=5000) as p:
        p.tls.write(wire.request("POST", "/echo", body=body))
        assert p.read(body[-1000:]).endswith(body)


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_close_is_announced(s, context, version):
    """An answer that ends with the connection has a close_notify behind it, or it may be cut."""
    with s.connect(tls=context) as c:
        c.send(wire.request("GET", "/stream?n=3", [("Connection", "close")], version=version))
        r = c.response()
        assert r.status == 200 and r.framing == ("close" if version == "1.0" else "chunked")
        assert c.is_closed() and not c.cut


def test_client_half_closes(s, context):
    """close_notify says that no more will be asked: what is in hand is answered, then ours comes."""
    with Pieces(s, context) as p:
        p.tls.write(wire.request("GET", "/slow?s=0.2"))
        with pytest.raises(ssl.SSLWantReadError):
            p.tls.unwrap()
        assert p.read(b"slow").startswith(b"HTTP/1.1 200")
        with pytest.raises(ssl.SSLZeroReturnError):  # without a close_notify it would be SSLEOFError
            p.do(p.tls.read, 1)


def test_clean_close_while_idle(s, context):
    with s.connect(tls=context) as c:
        assert c.get("/hello").status == 200
        bare = c.sock.unwrap()  # returns once the server's close_notify is there
        bare.settimeout(5)
        assert bare.recv(1) == b""
        bare.close()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_truncated_body_is_no_end(s, context, framing):
    """FIN without close_notify, in the middle of a body: the application hears of a disconnect, never of an end."""
    head = [("Content-Length", "1000")] if framing == "length" else [("Transfer-Encoding", "chunked")]
    with s.connect(tls=context) as c:
        c.send(wire.request("POST", "/count", head) + (b"x" * 500 if framing == "length" else b"1f4\r\n" + b"x" * 500 + b"\r\n"))
        time.sleep(0.1)
        fd = c.sock.detach()
        with socket.socket(fileno=fd) as bare:
            bare.shutdown(socket.SHUT_WR)
            s.wait_event("count", "^disconnect after 500$")


def test_close_notify_in_a_body_is_no_end(s):
    with s.connect(tls=certs.client(AUTHORITY, ssl.TLSVersion.TLSv1_2)) as c:
        c.send(wire.request("POST", "/count", [("Content-Length", "1000")]) + b"y" * 321)
        time.sleep(0.1)
        c.sock.unwrap().close()
        s.wait_event("count", "^disconnect after 321$")


def test_answer_cut_off_is_not_announced(server, files, context):
    """The application fails in the middle of an answer that ends with the connection: no close_notify says it was whole."""
    s = tls_server(server, files, "misbehave:app")
    s.expect_errors("exception after the response had begun")
    with s.connect(tls=context) as c:
        c.send(wire.request("GET", "/raise-in-body", version="1.0"))
        assert c.head().status == 200
        ended = []
        try:
            while c.sock.recv(65536):
                pass
            ended.append("announced")
        except (ssl.SSLEOFError, ConnectionResetError):
            pass
        assert not ended


# ------------------------------------------------------------------ what is no TLS, or comes slowly


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "DELETE", "PATCH"])
def test_plain_http_is_told_so(s, method):
    with s.connect(tls=None) as c:
        r = c.request(method, "/hello")
        assert r.status == 400 and b"HTTPS" in r.body and r.get("connection") == "close"
        assert c.is_closed()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100, b"\xff" * 3000, b"\x16\x03\x01\xff\xff" + b"a" * 70000, b"\x80\x2e\x01\0\x02\0\x15\0\0\0\x10", b"hello\r\n\r\n",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x15\x03\x01\x00\x02\x02\x28", b"\x17\x03\x03\x00\x05hello",
    ],
)  # fmt: skip
def test_garbage(s, garbage):
    with s.connect(tls=None) as c:
        try:
            c.send(garbage)
            c.fin()
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass
        assert b"HTTP" not in c.rest()
    assert s.get("/hello").status == 200


def test_garbage_inside_the_stream(s, context):
    """A record that is not what was sealed ends the connection; the request it was in goes nowhere."""
    with s.connect(tls=context) as c:
        assert c.get("/hello").status == 200
        with socket.socket(fileno=c.sock.detach()) as bare:
            bare.settimeout(10)
            bare.sendall(b"\x17\x03\x03\x00\x40" + b"z" * 64)
            rest = b""
            try:
                while data := bare.recv(4096):
                    rest += data
            except ConnectionResetError:
                pass
    assert s.get("/hello").status == 200


def test_slow_handshake_is_ended(server, files):
    s = tls_server(server, files, "raw:app", "--timeouts-handshake", "500ms")
    quiet, begun = s.connect(tls=None), s.connect(tls=None)
    begun.send(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello that never goes on
    for c in (quiet, begun):
        with c:
            assert c.is_closed(10)


def test_handshakes_are_bounded(server, files):
    """More than so many at once wait to be accepted, and the crowd gets two seconds: nobody can hold the door for a minute."""
    s = tls_server(server, files, "raw:app", "--limits-handshakes", "4", "--timeouts-handshake", "110s")
    crowd = [s.connect(tls=None) for _ in range(8)]
    assert s.get("/hello", timeout=60).status == 200
    for c in crowd:
        c.close()


def test_drain_with_handshakes_under_way(server, files):
    s = server("raw:app", "--certfile", files[1], "--keyfile", files[2])
    s.tls = certs.client(AUTHORITY)
    with s.connect(tls=None), s.connect() as served:
        served.send(wire.request("GET", "/slow?s=0.3"))
        time.sleep(0.1)
        s.send_signal(15)
        assert served.response().status == 200
        s.wait_exit(15)


def test_reset_in_a_handshake(s):
    for sent in (b"", b"\x16\x03\x01"):
        c = s.connect(tls=None)
        c.send(sent)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()


# ------------------------------------------------------------------ what applications see


def test_asgi_scope(s, context, files):
    with s.connect(tls=context) as c:
        scope = c.get("/scope").json()
        cipher = c.sock.cipher()
        leaf = ssl.DER_cert_to_PEM_cert(c.sock.getpeercert(True))
    assert scope["scheme"] == "https"
    tls = scope["extensions"]["tls"]
    assert set(tls) == {"server_cert", "client_cert_chain", "client_cert_name", "client_cert_error", "tls_version", "cipher_suite"}
    assert tls["tls_version"] == context.minimum_version
    expected = {"TLS_AES_128_GCM_SHA256": 0x1301, "ECDHE-ECDSA-AES128-GCM-SHA256": 0xC02B}
    assert tls["cipher_suite"] == expected[cipher[0]]
    assert tls["server_cert"].split() == leaf.split()
    assert tls["client_cert_chain"] == [] and tls["client_cert_name"] is None and tls["client_cert_error"] is None


def test_plain_scope_has_no_tls(server, files):
    s = server("raw:app", shared=True)
    scope = s.get("/scope").json()
    assert scope["scheme"] == "http" and "tls" not in scope["extensions"]


def test_extension_is_the_requests_own(s):
    with s.connect() as c:
        first, second = c.get("/scope").json(), c.get("/scope").json()
    assert first["extensions"] == second["extensions"]


def test_requests_that_go_to_a_thread_at_once(server, files):
    """Django's synchronous views from their second request on: the scope is made on the thread."""
    s = tls_server(server, files, "direct_django:application", "--sync-threads", "4")
    with s.connect() as c:
        first, second = c.get("/sync").json(), c.get("/sync").json()
    assert (first["way"], second["way"]) == ("loop", "direct")
    assert first["scheme"] == second["scheme"] == "https"
    assert first["tls"] == second["tls"] and first["tls"]["tls_version"] == 0x0304


def test_wsgi_scheme(server, files):
    s = tls_server(server, files, "wsgi_raw:app", "--interface", "wsgi")
    with s.connect() as c:
        assert c.get("/environ").json()["wsgi.url_scheme"] == "https"
        body = b"w" * 300_000
        assert c.request("POST", "/echo", body=body).body == body


def test_websocket(server, files):
    s = tls_server(server, files, "ws:app")
    with frames.Socket(s.connect(20), "/echo") as ws:
        for size in (0, 5, 70_000):
            ws.text("t" * size).expect_text("t" * size)
        ws.close().expect_close(1000)
        assert not ws.wire.cut
    with frames.Socket(s.connect(20), "/scope_text") as ws:
        assert b"'wss'" in ws.read()[1]


# ------------------------------------------------------------------ addresses


def test_one_address_without(server, files):
    s = server("raw:app", "--certfile", files[1], "--keyfile", files[2], bind=["127.0.0.1:0", "http://127.0.0.1:0"])
    s.tls = certs.client(AUTHORITY)
    assert s.get("/scope").json()["scheme"] == "https"
    with wire.Connection(s.addresses[1]) as c:
        assert c.get("/scope").json()["scheme"] == "http"


def test_unix_sockets_stay_plain(server, files, tmp_path):
    path = tmp_path / "app.sock"
    s = server("raw:app", "--certfile", files[1], "--keyfile", files[2], bind=["https://127.0.0.1:0", f"unix:{path}"])
    with wire.Connection(str(path)) as c:
        assert c.get("/scope").json()["scheme"] == "http"
    with s.connect(tls=certs.client(AUTHORITY)) as c:
        assert c.get("/scope").json()["scheme"] == "https"


def test_inherited_tcp_socket(server, files):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        s = server("raw:app", "--certfile", files[1], "--keyfile", files[2], bind=f"fd://{listening.fileno()}", pass_fds=[listening.fileno()], wait=False)
        s.wait_log("worker 0 is ready")
        s.addresses = [listening.getsockname()]
        s.tls = certs.client(AUTHORITY)
        s.settle()
        assert s.get("/scope").json()["scheme"] == "https"


# ------------------------------------------------------------------ proxies


def test_proxy_protocol_in_front_of_the_handshake(server, files):
    """In clear, perhaps in pieces, perhaps in one segment with the ClientHello."""
    s = server("raw:app", "--certfile", files[1], "--keyfile", files[2], "--proxy-protocol", "v1")
    s.tls = certs.client(AUTHORITY)
    header = b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n"
    for pieces in ([header], [header[:9], header[9:]]):
        bare = socket.create_connection(s.address, 10)
        for piece in pieces:
            bare.sendall(piece)
            time.sleep(0.05)
        with s.tls.wrap_socket(bare, server_hostname="localhost") as tls:
            tls.sendall(wire.request("GET", "/scope", [("Connection", "close")]))
            answer = b""
            while data := tls.recv(65536):
                answer += data
        assert b'"192.0.2.7"' in answer and b'"https"' in answer and b'"tls_version"' in answer
    with socket.create_connection(s.address, 10) as bare, pytest.raises((ssl.SSLError, ConnectionResetError)):
        s.tls.wrap_socket(bare, server_hostname="localhost")
    s.wait_log("PROXY protocol: 1 connection refused")


def test_forwarded_scheme_is_believed(server, files):
    """What a trusted proxy says of its client beats what the connection to it is."""
    s = tls_server(server, files)
    assert s.get("/scope", [("X-Forwarded-Proto", "http")]).json()["scheme"] == "http"
    assert s.get("/scope").json()["scheme"] == "https"
