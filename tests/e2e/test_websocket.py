"""WebSockets over raw frames: the handshake, messages, closes, limits, what vanishing and hostile clients get."""

import json
import sys
import threading
import time

import frames
import pytest
import wire
from frames import BINARY, CLOSE, FIN, PING, PONG, RSV1, TEXT, Deflate, Socket, opening

OFFER = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]


@pytest.fixture
def ws(server):
    """ws(path) -> an open Socket on the module's server."""
    s = server("ws:app", shared=True)
    opened = []

    def connect(path, *args, **kwargs):
        opened.append(Socket(s.connect(20), path, *args, **kwargs))
        return opened[-1]

    connect.server = s
    yield connect
    for one in opened:
        one.wire.close()


def event(s, name, within=10.0):
    return wire.eventually(lambda: json.loads(s.get("/events").body).get(name), within, f"event {name}")


def disconnect(s, name):
    message = json.loads(event(s, name))
    assert message.pop("type") == "websocket.disconnect"
    return message


# ------------------------------------------------------------------ the handshake


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (opening("/echo", without=["Sec-WebSocket-Key"]), 400),
        (opening("/echo", Sec_WebSocket_Key="short=="), 400),
        (opening("/echo", extra=[("Sec-WebSocket-Key", frames.KEY)]), 400),
        (opening("/echo", Connection="keep-alive"), 400),
        (opening("/echo").replace(b"GET", b"POST"), 400),
        (opening("/echo").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
        (opening("/echo", extra=[("Content-Length", "3")]) + b"abc", 400),
        (opening("/echo", Sec_WebSocket_Version="8"), 426),
        (opening("/echo", Sec_WebSocket_Version="13, 8"), 426),
        (opening("/echo", without=["Sec-WebSocket-Version"]), 426),
        (opening("/echo", Connection="x, upgrade ,y", Upgrade="WebSocket"), 101),
        (opening("/echo", Upgrade="h2c, websocket"), 101),
        (opening("/pid", Upgrade="h2c"), 200),
        (opening("/pid", without=["Sec-WebSocket-Key", "Sec-WebSocket-Version"], Connection="close"), 200),
    ],
    ids=lambda v: v if isinstance(v, int) else None,
)
def test_handshake_is_checked(ws, request_bytes, status):
    with ws.server.connect() as c:
        c.send(request_bytes)
        response = c.response()
        assert response.status == status
        if status == 426:
            assert response.all("sec-websocket-version") == ["13"]
            assert response.all("upgrade") == ["websocket"]
        if status == 101:
            assert response.all("upgrade") == ["websocket"] and response.all("connection") == ["Upgrade"]


def scope_of(socket):
    return {k: eval(v) for k, v in json.loads(socket.read()[1]).items()}  # noqa: S307 - our own repr()


def test_scope(ws):
    s = ws("/scope_text?a=b%20c", extra=[("Origin", "http://x"), ("Sec-WebSocket-Protocol", "one, two"), ("Sec-WebSocket-Protocol", "three")])
    scope = scope_of(s)
    assert scope["type"] == "websocket" and scope["scheme"] == "ws" and scope["http_version"] == "1.1"
    assert scope["path"] == "/scope_text" and scope["raw_path"] == b"/scope_text" and scope["query_string"] == b"a=b%20c"
    assert scope["subprotocols"] == ["one", "two", "three"]
    assert (b"origin", b"http://x") in scope["headers"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["server"][1] == ws.server.port and scope["client"][0] == "127.0.0.1"
    assert scope["state"] == {"ringcorn": "Presence"}
    assert "method" not in scope
    s.close().expect_close(1000)


def test_accept_with_protocol_and_headers(ws):
    s = ws("/protocols", extra=[("Sec-WebSocket-Protocol", "a, b")])
    assert s.answer.all("sec-websocket-protocol") == ["b"]
    assert s.answer.all("x-own") == ["yes"] and s.answer.all("server") == ["mine"]
    s.close().expect_close(1000)


def test_what_may_be_accepted(ws):
    s = ws("/wrong_accepts", extra=[("Sec-WebSocket-Protocol", "one,two")])
    assert s.answer.all("sec-websocket-protocol") == ["two"]
    assert [one for one in s.answer.headers if one[0].startswith("x-")] == [("x-a", "1"), ("x-b", "2"), ("x-a", "3")]
    assert json.loads(s.read()[1]) == ["ValueError"] * 5
    s.close().expect_close(1000)


def test_subprotocol_that_was_not_offered(server):
    s = server("ws:app")
    s.expect_errors("WS /wrong_accepts: exception", r"ValueError: websocket.accept: 'subprotocol' must be one of those that the client offers")
    with s.connect() as c:
        c.send(opening("/wrong_accepts"))
        assert c.response().status == 500


STREAM = b"".join(b"%02d" % i * 5000 for i in range(50))


@pytest.mark.parametrize("how, status, body", [("empty", 401, b""), ("bare", 204, b""), ("stream", 503, STREAM)], ids=["empty", "bare", "stream"])
def test_denials(ws, how, status, body):
    with ws.server.connect() as c:
        for _ in range(2):  # the connection goes on
            c.send(opening(f"/denials?{how}"))
            response = c.response()
            assert (response.status, response.body) == (status, body)
            assert [one for one in response.headers if one[0].startswith("x-")] == [("x-a", "1"), ("x-b", "2"), ("x-a", "3")]
    gone = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
    assert json.loads(event(ws.server, how)) == [gone] + ["RuntimeError"] * 4


def test_disconnect_is_told_once(ws):
    ws("/two_receivers?two").close(4000, "bye").expect_close(4000, "bye")
    assert json.loads(event(ws.server, "two")) == [{"type": "websocket.disconnect", "code": 4000, "reason": "bye"}, "RuntimeError"]


def test_refused_and_denied(ws):
    with ws.server.connect() as c:
        c.send(opening("/refuse?refused"))
        assert c.response().status == 403
        c.send(opening("/deny?denied"))  # the connection goes on
        response = c.response()
        assert (response.status, response.body, response.all("x-why")) == (451, b"not here", ["law"])
        s = Socket(c, "/scope_text")  # and the next request still knows whose it is
        scope = scope_of(s)
        assert scope["client"] == c.sock.getsockname() and scope["server"] == c.sock.getpeername()
        s.close().expect_close(1000)
    assert disconnect(ws.server, "refused") == {"code": 1006, "reason": ""}
    assert disconnect(ws.server, "denied") == {"code": 1006, "reason": ""}


def test_silent_and_failing_applications(server):
    s = server("ws:app")
    s.expect_errors(r"WS /silent: the application returned without a response", r"WS /fails_early: exception", r"WS /fails_late: exception")
    for path in ("/silent", "/fails_early"):
        with s.connect() as c:
            c.send(opening(path))
            assert c.response().status == 500
    Socket(s.connect(), "/fails_late").expect_close(1011)
    Socket(s.connect(), "/returns").expect_close(1000)


def test_disabled(server):
    s = server("ws:app", "--no-websocket-enabled")
    with s.connect() as c:
        c.send(opening("/pid"))
        assert c.response().status == 200


# ------------------------------------------------------------------ messages


def test_messages_and_fragments(ws):
    s = ws("/echo", early=frames.frame(FIN | TEXT, b"early"))
    s.expect_text("early")
    s.text("hällo").expect_text("hällo")
    s.bytes(b"\0\xff").expect(FIN | BINARY, b"\0\xff")
    s.text("").expect_text("")
    s.send(TEXT, b"h").send(0, b"").send(FIN | PING, b"now").send(FIN | 0, "ällo".encode())
    s.expect(FIN | PONG, b"now").expect_text("hällo")
    s.send(FIN | PONG, b"unasked")
    for n in (125, 126, 65535, 65536, 300000):
        s.bytes(b"x" * n).expect(FIN | BINARY, b"x" * n)
    s.wire.send_slowly(frames.frame(FIN | TEXT, b"a byte at a time"), range(1, 23))
    s.expect_text("a byte at a time")
    s.close(4000, "bye").expect_close(4000, "bye")
    assert disconnect(ws.server, "last") == {"code": 4000, "reason": "bye"}


@pytest.mark.parametrize(
    "sent, code",
    [
        ([(FIN | TEXT, b"x", {"mask": None})], 1002),
        ([(FIN | RSV1 | TEXT, b"x", {})], 1002),
        ([(FIN | 3, b"", {})], 1002),
        ([(FIN | PING, b"x" * 126, {})], 1002),
        ([(PING, b"", {})], 1002),
        ([(FIN | 0, b"", {})], 1002),
        ([(TEXT, b"", {}), (FIN | TEXT, b"", {})], 1002),
        ([(FIN | CLOSE, b"\x03", {})], 1002),
        ([(FIN | CLOSE, b"\x03\xed", {})], 1002),
        ([(FIN | CLOSE, b"\x03\xe8\xff", {})], 1007),
        ([(FIN | TEXT, b"\xff", {})], 1007),
        ([(TEXT, b"\xed\xa0", {})], 1007),
    ],
)
def test_violations(ws, sent, code):
    s = ws("/echo?violation")
    for first, payload, more in sent:
        s.send(first, payload, **more)
    s.expect_close(code)
    assert disconnect(ws.server, "violation") == {"code": 1006, "reason": ""}


def test_what_came_before_the_end_is_answered_before_it(ws):
    s = ws("/echo?before")
    s.wire.send(frames.frame(FIN | TEXT, b"one") + frames.frame(FIN | TEXT, b"two") + frames.frame(FIN | CLOSE, frames.close_payload(4000, "bye")))
    s.expect_text("one").expect_text("two").expect_close(4000, "bye")
    assert disconnect(ws.server, "before") == {"code": 4000, "reason": "bye"}
    s = ws("/echo?fault")
    s.wire.send(frames.frame(FIN | TEXT, b"one") + frames.frame(FIN | 3))
    s.expect_text("one").expect_close(1002)
    assert disconnect(ws.server, "fault") == {"code": 1006, "reason": ""}


def test_close_without_code_and_without_close(ws):
    ws("/echo?none").send(FIN | CLOSE).expect_close()
    assert disconnect(ws.server, "none") == {"code": 1005, "reason": ""}
    ws("/echo?fin").wire.fin()
    assert disconnect(ws.server, "fin") == {"code": 1006, "reason": ""}
    ws("/echo?reset").wire.reset()
    assert disconnect(ws.server, "reset") == {"code": 1006, "reason": ""}


def test_application_closes(ws):
    for name, message, code, reason in [("plain", {}, 1000, ""), ("own", {"code": 4321, "reason": "wäre"}, 4321, "wäre")]:
        s = ws(f"/closes?{name}").text(json.dumps(message))
        s.expect(FIN | CLOSE, frames.close_payload(code, reason))
        s.text("too late").send(FIN | CLOSE, frames.close_payload(4444, "mine"))
        assert s.wire.is_closed(10)
        assert disconnect(ws.server, name) == {"code": 4444, "reason": "mine"}


def test_order_of_what_is_sent(ws):
    s = ws("/order?order")
    assert s.read() == (FIN | BINARY, b"array")
    said = json.loads(s.read()[1])
    kinds = [one.split(":")[0] for one in said]
    assert kinds == [
        "RuntimeError", "RuntimeError", "RuntimeError", "ValueError", "ValueError", "TypeError", "TypeError", "UnicodeEncodeError",
        "sent", "ValueError", "RuntimeError",
    ]  # fmt: skip
    s.close(1001).expect_close(1001)
    late = json.loads(event(ws.server, "order"))
    assert [one.split(":")[0] for one in late] == ["ClientDisconnected", "ClientDisconnected", "RuntimeError"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ is of Python 3.12")
def test_buffer_that_runs_python(server):
    s = server("ws:app")
    s.expect_errors("WS /ends_in_a_buffer")
    Socket(s.connect(), "/ends_in_a_buffer?ends").wire.rest()
    assert "the application has returned" in event(s, "ends")


# ------------------------------------------------------------------ limits


def test_max_size_to_the_byte(server):
    s = server("ws:app")
    size = 16 * 1024 * 1024
    data = b"x" * size
    with Socket(s.connect(60), "/echo") as c:
        c.bytes(data).expect(FIN | BINARY, data)
        c.send(BINARY, data[: size // 2]).send(FIN | 0, data[size // 2 :]).expect(FIN | BINARY, data)
        c.wire.send(frames.frame(FIN | BINARY, b"x" * (size + 1))[:1000])  # said by its head
        c.expect_close(1009)
    with Socket(s.connect(60), "/echo") as c:
        c.send(BINARY, data)
        c.send(FIN | 0, b"y")
        c.expect_close(1009)


def test_deflate(ws):
    s = ws("/echo?deflate", extra=OFFER)
    assert s.answer.all("sec-websocket-extensions") == ["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"]
    z = Deflate()
    for _ in range(3):
        s.send(FIN | RSV1 | TEXT, z.squeeze("hällo ".encode() * 50))
        first, payload = s.read()
        assert first == FIN | RSV1 | TEXT and len(payload) < 60
        assert z.inflate(payload) == "hällo ".encode() * 50
    s.send(FIN | RSV1 | TEXT, z.squeeze(b"small")).expect_text("small")
    s.text("as it is").expect_text("as it is")
    squeezed = z.squeeze(b"in pieces")
    s.send(RSV1 | TEXT, squeezed[:3]).send(FIN | PING).send(FIN | 0, squeezed[3:]).expect(FIN | PONG).expect_text("in pieces")
    s.send(FIN | RSV1 | TEXT, z.squeeze(b"\xff")).expect_close(1007)


def test_zip_bomb(server):
    s = server("ws:app", "--websocket-max-size", "1MiB")
    (worker,) = s.workers()
    with Socket(s.connect(60), "/echo?bomb", extra=OFFER) as c:
        exact = Deflate().squeeze(b"\0" * (1 << 20))
        before = memory(worker)
        bomb = Deflate().squeeze(b"\0" * (100 << 20))
        c.send(FIN | RSV1 | BINARY, bomb)
        c.expect_close(1009)
        assert memory(worker) < before + (16 << 20)
    with Socket(s.connect(60), "/echo", extra=OFFER) as c:
        c.send(FIN | RSV1 | BINARY, exact)
        first, payload = c.read()
        assert first == FIN | RSV1 | BINARY and Deflate().inflate(payload) == b"\0" * (1 << 20)


def memory(pid):
    """Resident bytes."""
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * 4096


# ------------------------------------------------------------------ back-pressure and clients that misbehave


def test_queue_is_bounded_and_nothing_is_lost(ws):
    s = ws("/slow?slow")
    (worker,) = ws.server.workers()
    before = memory(worker)
    data, n = b"x" * 60000, 1500
    sender = threading.Thread(target=lambda: [s.bytes(data) for _ in range(n)] and s.text("end"))
    sender.start()
    # It stands still when the socket's buffers are full: 90 MB do not fit in them.
    wire.eventually(lambda: stands_still(s.wire.sock), 20, "a sender that waits")
    assert sender.is_alive()
    assert memory(worker) < before + (8 << 20)
    ws.server.get("/go/slow")
    s.expect_text(str(n + 1))
    sender.join()
    s.close().expect_close(1000)


def stands_still(sock, looks=5):
    """Are as many bytes unsent at several looks, and some?"""
    import fcntl
    import struct
    import termios

    seen = set()
    for _ in range(looks):
        seen.add(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
        time.sleep(0.02)
    return len(seen) == 1 and seen != {0}


def test_peer_that_never_reads(server):
    s = server("ws:app", "--timeouts-send", "1s")
    (worker,) = s.workers()
    before = memory(worker)
    with Socket(s.connect(), "/pours?pours"):
        assert event(s, "pours", 20) == "ClientDisconnected"
        assert disconnect(s, "pours.disconnect") == {"code": 1006, "reason": ""}
        assert memory(worker) < before + (8 << 20)


def test_peer_that_vanishes(server):
    s = server("ws:app", "--websocket-ping-interval", "300ms", "--websocket-ping-timeout", "500ms")
    with Socket(s.connect(), "/echo?lively") as lively, Socket(s.connect(), "/echo?gone") as vanished:
        for _ in range(4):  # answers pings and lives longer than the other
            assert lively.read() == (FIN | PING, b"")
            lively.send(FIN | PONG)
        assert disconnect(s, "gone") == {"code": 1006, "reason": ""}
        frames_read = []
        while (got := vanished.read())[0] != FIN | CLOSE:
            frames_read.append(got)
        assert frames_read and set(frames_read) == {(FIN | PING, b"")} and got[1][:2] == (1011).to_bytes(2, "big")
        assert vanished.wire.is_closed(5)
        lively.text("still here")
        while (got := lively.read()) == (FIN | PING, b""):
            lively.send(FIN | PONG)
        assert got == (FIN | TEXT, b"still here")


def test_half_a_frame_and_away(ws):
    s = ws("/echo?half")
    s.wire.send(frames.frame(FIN | BINARY, b"x" * 100000)[:50000])
    s.wire.reset()
    assert disconnect(ws.server, "half") == {"code": 1006, "reason": ""}


def test_flood_of_pings(server):
    s = server("ws:app")
    (worker,) = s.workers()
    before = memory(worker)
    with Socket(s.connect(60), "/echo?flood") as c:
        many = frames.frame(FIN | PING, b"x" * 125) * 2000
        for _ in range(40):  # 10 MB, whose answers nobody reads
            c.wire.send(many)
        assert memory(worker) < before + (8 << 20)
        c.wire.reset()
    assert s.get("/pid").status == 200
