"""What WebSocket clients can do to a server: vanish, stall in the middle of everything, flood. Memory stays within bounds, the
connection ends in time, and the log has no error (the fixture looks, and for anything that is left behind)."""

import json
import time

import frames
import harness
import netns
import pytest
import wire
from frames import BINARY, CLOSE, FIN, PING, PONG, RSV1, TEXT, Deflate, Socket, opening

LIVELY = ["--websocket-ping-interval", "300ms", "--websocket-ping-timeout", "500ms"]
SIZE_MAX = 64 * 1024  # websocket.max_size of the floods
GROWTH_MAX = 8 << 20  # bytes, of a worker: some messages of SIZE_MAX, buffers, and what the allocators keep
MANY = 50


@pytest.fixture
def measured(server):
    """measured(*options) -> a server whose worker must not have grown by more than GROWTH_MAX at the test's end."""
    started = []

    def start(*options, **more):
        s = server("ws:app", *options, **more)
        Socket(s.connect(), "/echo").close().expect_close(1000)
        (worker,) = s.workers()
        started.append((s, worker, rss(worker)))
        return s

    yield start
    for s, worker, before in started:
        assert s.workers() == [worker]
        if not harness.SANITIZED:  # it keeps freed memory for long
            grown = rss(worker) - before
            print(f"grown by {grown >> 10} KiB")
            assert grown < GROWTH_MAX, f"grown by {grown} bytes"
        assert s.get("/pid").status == 200


def rss(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * 4096


def disconnects(s, name, n, within=30.0):
    """The n disconnects that /echo?NAME0 and so on have seen: as code and reason."""

    def seen():
        events = json.loads(s.get("/events").body)
        found = [events.get(f"{name}{i}") for i in range(n)]
        return None not in found and [json.loads(one) for one in found]

    found = wire.eventually(seen, within * harness.SLOW, f"{n} disconnects")
    assert {one["type"] for one in found} == {"websocket.disconnect"}
    return [(one["code"], one["reason"]) for one in found]


def until_refused(c, data, within=30.0):
    """Sends the same again and again until the server has closed."""
    deadline = time.monotonic() + within * harness.SLOW
    while time.monotonic() < deadline:
        try:
            c.send(data)
        except (BrokenPipeError, ConnectionResetError):
            return
        time.sleep(0.01)
    raise AssertionError(f"it takes what is sent for {within} s")


# ------------------------------------------------------------------ clients that vanish


@pytest.fixture
def network():
    try:
        one = netns.Network()
    except netns.Refused as e:
        pytest.skip(f"no network namespaces here: {e}")
    with one:
        yield one


def test_clients_that_vanish_without_a_fin(network, measured):
    """Idle ones, some with half a frame or a fragment on the way: found out by their silence."""
    s = measured(*LIVELY, bind=f"{network.address}:0")
    clients = [network.run(lambda i=i: Socket(s.connect(), f"/echo?v{i}")) for i in range(MANY)]
    try:
        for i, one in enumerate(clients):
            one.wire.send([b"", frames.frame(FIN | BINARY, b"x" * 70000)[:60000], frames.frame(TEXT, b"part")][i % 3])
        network.cut()
        assert disconnects(s, "v", MANY) == [(1006, "")] * MANY
        s.check_returned()  # while the clients still believe in their connections
    finally:
        for one in clients:
            one.wire.close()


def test_client_that_vanishes_while_its_messages_wait(network, measured):
    """Nothing is read of it, so its silence tells nothing; that nothing arrives does."""
    options = ["--websocket-queue", "1", "--websocket-ping-interval", "300ms", "--websocket-ping-timeout", "2s"]
    s = measured(*options, bind=f"{network.address}:0")
    waits, vanished = s.connect(60), network.run(lambda: Socket(s.connect(), "/slow?w1"))
    with Socket(waits, "/slow?w0") as waits, vanished.wire:
        for one, last in ((waits, "end"), (vanished, "three")):
            one.text("one").text("two").text(last).expect(FIN | PING)
        (worker,) = s.workers()
        sockets = harness.descriptors(worker)["socket:[N]"]
        network.cut()
        wire.eventually(lambda: harness.descriptors(worker)["socket:[N]"] == sockets - 1, 30 * harness.SLOW, "the end of the one that vanished")
        for i in (0, 1):
            s.get(f"/go/w{i}")
        while (got := waits.read()) == (FIN | PING, b""):
            waits.send(FIN | PONG)
        assert got == (FIN | TEXT, b"3")
        waits.close(1000)
        assert disconnects(s, "w", 2) == [(1000, ""), (1006, "")]


def test_clients_that_vanish_while_they_are_sent_to(network, measured):
    s = measured("--timeouts-send", "1s", bind=f"{network.address}:0")
    clients = [network.run(lambda i=i: Socket(s.connect(), f"/pours?p{i}")) for i in range(10)]
    try:
        for one in clients:
            assert one.read()[0] == FIN | BINARY
        network.cut()
        ends = {f"p{i}": "ClientDisconnected" for i in range(10)}
        wire.eventually(lambda: ends.items() <= json.loads(s.get("/events").body).items(), 30 * harness.SLOW, "their ends")
        s.check_returned()
    finally:
        for one in clients:
            one.wire.close()


# ------------------------------------------------------------------ clients that stall


@pytest.mark.parametrize(
    "sent",
    [
        frames.frame(FIN | BINARY, b"x" * 300)[:1],
        frames.frame(FIN | BINARY, b"x" * 300)[:3],
        frames.frame(FIN | BINARY, b"x" * 300)[:6],
        frames.frame(FIN | BINARY, b"x" * 300)[:100],
        frames.frame(FIN | PING, b"x" * 100)[:50],
        frames.frame(TEXT, b"one ") + frames.frame(0, b"two "),
        frames.frame(TEXT, b"one ") + frames.frame(FIN | 0, b"two")[:7],
    ],
    ids=["first-byte", "length", "mask", "payload", "ping", "fragment", "half-fragment"],
)
def test_half_of_something_and_silence(server, sent):
    s = server("ws:app", *LIVELY)
    with Socket(s.connect(), "/echo?h0") as c:
        c.wire.send(sent)
        while (got := c.read()) == (FIN | PING, b""):
            pass
        assert got == (FIN | CLOSE, frames.close_payload(1011, "no answer to a ping"))
        assert c.wire.is_closed(10)
        assert disconnects(s, "h", 1) == [(1006, "")]


def test_promises_cost_nothing(measured):
    """Clients that announce the largest message that may come, and send a byte of it."""
    s = measured()
    head = frames.frame(FIN | BINARY, b"x" * (16 << 20))[:15]
    clients = [Socket(s.connect(), f"/echo?b{i}") for i in range(MANY)]
    for one in clients:
        one.wire.send(head)
    s.get("/pid")
    (worker,) = s.workers()
    wire.eventually(lambda: s.live(worker)["conns"] == MANY, 5 * harness.SLOW, "that request's connection is gone")
    for one in clients:
        one.wire.close()
    assert disconnects(s, "b", MANY) == [(1006, "")] * MANY


def test_slow_handshake(server):
    s = server("ws:app", "--timeouts-header", "1s")
    request = opening("/echo")
    with s.connect(30) as c:
        for i in range(len(request) - 1):  # which takes longer, if it is let
            try:
                c.send(request[i : i + 1])
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.02)
        assert c.response().status == 408
        assert c.rest() == b""


# ------------------------------------------------------------------ floods


def test_flood_of_empty_fragments(measured):
    s = measured("--websocket-max-size", SIZE_MAX)
    with Socket(s.connect(60), "/echo") as c:
        c.send(TEXT, b"a")
        for _ in range(20):
            c.wire.send(frames.frame(0) * 10000)
        c.send(FIN | 0, b"z").expect_text("az")
        c.close().expect_close(1000)


@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])
def test_flood_of_tiny_fragments(measured, deflate):
    s = measured("--websocket-max-size", SIZE_MAX)
    with Socket(s.connect(60), "/echo?f0", extra=[("Sec-WebSocket-Extensions", "permessage-deflate")] if deflate else []) as c:
        if deflate:  # each byte of them is worth a thousand
            bomb = Deflate().squeeze(b"\0" * (SIZE_MAX + 1))
            c.send(RSV1 | BINARY, bomb[:1])
            c.wire.send(b"".join(frames.frame(0, bomb[i : i + 1]) for i in range(1, len(bomb))))
        else:
            c.send(BINARY, b"x")
            c.wire.send(frames.frame(0, b"x") * SIZE_MAX)
        c.expect_close(1009)
        assert disconnects(s, "f", 1) == [(1006, "")]


def test_flood_of_pings_that_are_answered(measured):
    """A client that reads gets the answers, of which one may stand for several, and its message in time."""
    s = measured()
    with Socket(s.connect(60), "/echo") as c:
        for i in range(20):
            c.wire.send(frames.frame(FIN | PING, b"p" * 125) * 100 + frames.frame(FIN | TEXT, b"%d" % i))
            while (got := c.read()) == (FIN | PONG, b"p" * 125):
                pass
            assert got == (FIN | TEXT, b"%d" % i)


def test_flood_of_compressed_bombs(measured):
    """Of many clients at once: each message is as large as may be."""
    s = measured("--websocket-max-size", SIZE_MAX)
    bomb = Deflate().squeeze(b"\0" * SIZE_MAX)
    too_much = Deflate().squeeze(b"\0" * (100 * SIZE_MAX))
    clients = [Socket(s.connect(60), f"/echo?c{i}", extra=[("Sec-WebSocket-Extensions", "permessage-deflate")]) for i in range(MANY)]
    for one in clients:
        one.send(FIN | RSV1 | BINARY, bomb)
    for one in clients:
        first, payload = one.read()
        assert first == FIN | RSV1 | BINARY and Deflate().inflate(payload) == b"\0" * SIZE_MAX
        one.send(FIN | RSV1 | BINARY, too_much)
    for one in clients:
        one.expect_close(1009)
        one.wire.close()


# ------------------------------------------------------------------ clients that do not end


def test_close_and_goes_on_sending(measured):
    s = measured()
    with Socket(s.connect(60), "/echo?g0") as c:
        c.close(1000).expect(FIN | CLOSE, frames.close_payload(1000))
        until_refused(c.wire, frames.frame(FIN | BINARY, b"x" * 60000))
        assert disconnects(s, "g", 1) == [(1000, "")]


def test_is_closed_and_goes_on_sending(measured):
    """It has no answer for the server's Close: it gets the time for one, and no more."""
    s = measured()
    with Socket(s.connect(60), "/closes?k0") as c:
        c.text("{}").expect(FIN | CLOSE, frames.close_payload(1000))
        until_refused(c.wire, frames.frame(FIN | BINARY, b"x" * 60000))
        assert disconnects(s, "k", 1) == [(1006, "")]
