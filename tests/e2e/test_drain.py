"""A worker that leaves: who is told, in which order, and what each loses (nothing) or keeps."""

import signal
import threading
import time

import wire

ENDED = b"0\r\n\r\n"


def streaming(s, path):
    connection = s.connect(30)
    connection.send(wire.request("GET", path))
    connection.until(b"data: ")
    return connection


def test_a_stream_that_watches_ends_by_itself(server):
    s = server("leaving:app")
    stream, waiting = streaming(s, "/watching"), s.connect(30)
    waiting.send(wire.request("GET", "/thread"))
    s.get("/hello")
    s.send_signal(signal.SIGTERM)
    rest = stream.rest()
    assert b"data: last" in rest and rest.endswith(ENDED)
    assert waiting.response().text == "seen True"
    assert s.wait_exit(10) == 0
    s.wait_log(r"info: leaving: 2 requests are in hand: .*GET /watching")


def test_an_event_stream_is_told_and_ends_whole(server):
    s = server("leaving:app", "--websocket-drain", "0")
    stream = streaming(s, "/told")
    s.send_signal(signal.SIGTERM)
    assert stream.rest().endswith(ENDED)
    assert s.wait_exit(10) == 0
    s.wait_log("told http.disconnect, draining True")


def test_event_streams_are_told_one_after_the_other(server):
    s = server("leaving:app", "--websocket-drain", "2s")
    streams, ends = [streaming(s, "/told") for _ in range(5)], []
    s.send_signal(signal.SIGTERM)
    readers = [threading.Thread(target=lambda one=one: ends.append((one.rest().endswith(ENDED), time.monotonic()))) for one in streams]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert all(whole for whole, _ in ends) and ends[-1][1] - ends[0][1] > 1
    assert s.wait_exit(10) == 0


def test_other_answers_have_their_time(server):
    s = server("leaving:app", "--websocket-drain", "0")
    stream = streaming(s, "/download")
    s.send_signal(signal.SIGTERM)
    rest = stream.rest()
    assert b"whole" in rest and rest.endswith(ENDED)
    assert s.wait_exit(10) == 0
    s.wait_log("gone: False")


def test_a_stream_that_ignores_it_is_cancelled_at_last(server):
    s = server("leaving:app", "--graceful-timeout", "1.5s")
    stream = streaming(s, "/ignoring")
    s.send_signal(signal.SIGTERM)
    stream.rest()
    assert s.wait_exit(15) == 0
    s.wait_log("info: GET /ignoring: still in hand, cancelled")
    s.wait_log("cancelled at last")


def test_wsgi_streams_watch_or_are_closed(server):
    s = server("leaving:wsgi", "--websocket-drain", "0")
    watching, told = streaming(s, "/watching"), streaming(s, "/told")
    s.send_signal(signal.SIGTERM)
    rest = watching.rest()
    assert b"data: last" in rest and rest.endswith(ENDED)
    assert told.rest().endswith(ENDED)
    assert s.wait_exit(10) == 0
    s.wait_log("closed")


def test_a_thread_that_goes_on_is_named_with_its_stack(server):
    s = server("leaving:wsgi", "--graceful-timeout", "1s")
    connection = s.connect(30)
    connection.send(wire.request("GET", "/stubborn"))
    s.get("/hello")
    s.send_signal(signal.SIGTERM)
    s.wait_log("warning: GET /stubborn: still in hand, cancelled; its thread cannot be, and is here:")
    s.wait_log(r'leaving.py", line \d+, in stubborn')
    connection.rest()
    s.wait_exit(20)


def test_an_idle_connection_does_not_hold_the_end_up(server):
    """Silent for a while: closed at once. The end takes much less than the half second that a busy one is waited for, and the two of lingering."""
    s = server("leaving:app")
    idle = s.connect()
    assert idle.get("/hello").status == 200
    time.sleep(1)
    s.send_signal(signal.SIGTERM)
    s.wait_log("SIGTERM: stopping")
    begun = time.monotonic()
    assert idle.is_closed(10)
    idle_took = time.monotonic() - begun
    assert s.wait_exit(20) == 0
    assert time.monotonic() - begun < 2
    print(f"closed after {idle_took:.3f} s, ended after {time.monotonic() - begun:.3f} s")


def test_a_connection_in_use_is_answered_once_more(server):
    """Clients that ask again and again on kept connections while the server stops: every request is answered, the last with Connection: close."""
    s = server("leaving:app")
    connections = [s.connect() for _ in range(10)]
    for connection in connections:
        assert connection.get("/hello").status == 200
    s.send_signal(signal.SIGTERM)
    s.wait_log("SIGTERM: stopping")
    time.sleep(0.1)
    for connection in connections:
        response = connection.get("/hello")
        while response.get("connection") != "close":
            response = connection.get("/hello")
        assert response.status == 200 and connection.is_closed()
    assert s.wait_exit(10) == 0


def test_readiness_goes_first(server):
    s = server("leaving:app", "--timeouts-drain-delay", "1500ms", "--health-ready", "/ready")
    kept = s.connect()
    assert kept.get("/ready").status == 200
    s.send_signal(signal.SIGTERM)
    s.wait_log(r"not ready from now on, and still serving for 1.5 s \(timeouts.drain_delay\)")
    wire.eventually(lambda: kept.get("/ready").status == 503, 1, "it says so")
    for connection in (kept, s.connect()):
        response = connection.get("/hello")
        assert (response.status, response.get("connection")) == (200, None)
    assert kept.is_closed(10)
    assert s.wait_exit(10) == 0


def test_a_second_signal_does_not_wait(server):
    s = server("leaving:app", "--timeouts-drain-delay", "60s")
    s.send_signal(signal.SIGTERM)
    s.wait_log("still serving for 60.0 s")
    s.send_signal(signal.SIGINT)
    s.wait_exit(10)
