"""What open WebSockets get when their worker leaves: 1012, spread over websocket.drain."""

import json
import signal
import time

import wire
from frames import CLOSE, FIN, PING, PONG, TEXT, Socket, close_payload, frame, opening

RESTART = close_payload(1012)


def opened(s, n, path="/echo"):
    return [Socket(s.connect(30), path) for _ in range(n)]


def leave(sockets):
    """Each gets its Close, answers it, and sees the end. Returns when each came."""
    times = []
    for one in sockets:
        assert one.read() == (FIN | CLOSE, RESTART)
        times.append(time.monotonic())
        one.send(FIN | CLOSE, RESTART)
        assert one.wire.is_closed(10)
    return times


def test_term_closes_with_1012_spread_over_the_drain(server):
    s = server("ws:app", "--websocket-drain", "2s")
    sockets = opened(s, 10)
    sockets[-1].text("before").expect_text("before")
    begun = time.monotonic()
    s.send_signal(signal.SIGTERM)
    times = leave(sockets)
    assert times == sorted(times) and times[-1] - times[0] > 1  # nine tenths of two seconds, by a clock of coarse ticks
    assert s.wait_exit(20) == 0
    assert time.monotonic() - begun < 15


def test_working_until_it_is_its_turn(server):
    s = server("ws:app", "--websocket-drain", "2s", "--websocket-drain-code", "4100")
    first, last = opened(s, 2)
    s.send_signal(signal.SIGTERM)
    assert first.read() == (FIN | CLOSE, close_payload(4100))
    last.text("still").expect_text("still")
    last.close(1000).expect_close(1000)
    first.send(FIN | CLOSE, close_payload(4100))
    assert s.wait_exit(20) == 0


def test_what_is_in_hand_is_answered_before_the_close(server):
    s = server("ws:app", "--websocket-drain", "0s")
    busy, queueing, in_pieces, idle = opened(s, 4, "/late")
    busy.text("1")
    queueing.text("0.5").text("0.2").text("0.1")
    in_pieces.wire.send(frame(FIN | TEXT, b"0.1")[:7])
    for one in (busy, queueing):
        one.send(FIN | PING).expect(FIN | PONG)
    s.get("/pid")  # by now the half of a frame has been read, too
    s.send_signal(signal.SIGTERM)
    idle.expect(FIN | CLOSE, RESTART)
    in_pieces.wire.send(frame(FIN | TEXT, b"0.1")[7:])
    busy.expect_text("1")
    queueing.expect_text("0.5").expect_text("0.2").expect_text("0.1")
    in_pieces.expect_text("0.1")
    leave([busy, queueing, in_pieces])
    idle.send(FIN | CLOSE, RESTART)
    assert s.wait_exit(20) == 0


def test_application_that_takes_too_long_is_cut_off_and_no_error(server):
    """The application's send() raises, and it lets that through; the client says nothing until then."""
    s = server("ws:app", "--websocket-drain", "0s", "--graceful-timeout", "8s")
    (late,) = opened(s, 1, "/late")
    late.text("3").send(FIN | PING).expect(FIN | PONG)
    s.send_signal(signal.SIGTERM)
    late.expect_close(1012)
    assert s.wait_exit(20) == 0
    s.check_log()


def test_reload_moves_clients_to_the_successor(server):
    s = server("ws:app", "--websocket-drain", "500ms")
    old = json.loads(s.get("/pid").body)
    sockets = opened(s, 5)
    s.send_signal(signal.SIGHUP)
    leave(sockets)
    back = opened(s, 5)
    for i, one in enumerate(back):
        one.text(str(i)).expect_text(str(i))
        one.close().expect_close(1000)
    assert json.loads(s.get("/pid").body) != old
    wire.eventually(lambda: s.workers() != [] and old not in s.workers(), 20, "the old worker's end")
    s.baseline()


def test_peer_that_does_not_answer_holds_nobody_up(server):
    s = server("ws:app", "--websocket-drain", "0s", "--graceful-timeout", "2s")
    (silent,) = opened(s, 1)
    s.send_signal(signal.SIGTERM)
    assert silent.read() == (FIN | CLOSE, RESTART)
    assert s.wait_exit(20) == 0


def test_quick_end(server):
    s = server("ws:app")
    sockets = opened(s, 3)
    s.send_signal(signal.SIGINT)
    for one in sockets:
        assert one.read() == (FIN | CLOSE, RESTART)
        one.wire.close()
    assert s.wait_exit(20) == 0


def test_opened_during_the_drain(server):
    """A handshake that was on its way when the drain began is answered, and closed at once."""
    s = server("ws:app", "--websocket-drain", "1s")
    keeps = opened(s, 2)
    with s.connect(20) as c:
        request = opening("/echo")
        c.send(request[:30])
        s.get("/pid")  # by now the worker has read it
        s.send_signal(signal.SIGTERM)
        keeps[0].expect(FIN | CLOSE, RESTART)
        c.send(request[30:])
        assert c.response().status == 101
        late = Socket.__new__(Socket)
        late.wire = c
        assert late.read() == (FIN | CLOSE, RESTART)
    assert keeps[1].read() == (FIN | CLOSE, RESTART)
    for one in keeps:
        one.wire.close()
    assert s.wait_exit(20) == 0
