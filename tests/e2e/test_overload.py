"""limits.concurrency and its queue, timeouts.request, descriptors that run out, pipelines: who gets what when there is too much."""

import contextlib
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import harness
import pytest
import wire
from frames import Socket

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stress"))

from common import cpu_seconds  # noqa: E402

KINDS = {"asgi": "overloaded:app", "wsgi": "overloaded:wsgi"}
HEAD = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n"


@pytest.fixture(params=KINDS)
def limited(server, request):
    def start(*args):
        return server(KINDS[request.param], *args)

    return start


def in_hand(s):
    """A connection whose request the application has, until the rest of its body comes."""
    connection = s.connect()
    connection.send(HEAD + b"on")
    return connection


def answered(connection):
    connection.send(b"ce")
    assert connection.response().text == "once"


def asked(s, path="/hello"):
    connection = s.connect()
    connection.send(wire.request("GET", path))
    return connection


def is_refused(response):
    return response.status == 503 and response.get("retry-after") == "1"


def test_more_than_the_limit_wait_and_more_than_the_queue_are_refused(limited):
    s = limited("--limit-concurrency", 1, "--limit-queue", 1, "--limits-queue-timeout", "60s")
    idle = [s.connect() for _ in range(5)]  # connections are no requests
    assert idle[0].get("/hello").status == 200
    first = in_hand(s)
    second = asked(s)
    assert second.is_open()
    third = s.connect()
    assert is_refused(third.get("/hello"))
    assert is_refused(third.get("/hello"))  # its connection is kept
    answered(first)
    assert second.response().status == 200
    assert third.get("/hello").status == 200
    assert idle[1].get("/hello").status == 200
    s.wait_log(r"warning: GET /hello: 503, limits.concurrency \(1\) requests are in hand and limits.queue \(1\) of them wait")


def test_without_a_queue_the_answer_is_503_at_once(limited):
    s = limited("--limit-concurrency", 2, "--limit-queue", 0)
    both = [in_hand(s), in_hand(s)]
    assert is_refused(s.connect().get("/hello"))
    for connection in both:
        answered(connection)
    assert s.connect().get("/hello").status == 200


def test_who_waits_for_too_long_is_refused(limited):
    s = limited("--limit-concurrency", 1, "--limits-queue-timeout", "300ms")
    first = in_hand(s)
    assert is_refused(s.connect().get("/hello"))
    s.wait_log(r"it has waited for limits.queue_timeout \(0.3 s\)")
    answered(first)


def test_they_come_in_their_order(limited):
    s = limited("--limit-concurrency", 1, "--limits-queue-timeout", "60s")
    first = in_hand(s)
    (pid,) = s.workers()
    wire.eventually(lambda: s.live(pid)["cycles"] == 1, 10, "the application has the first")
    waiting = []
    for _ in range(5):
        before = s.live(pid)["read_blocks"]
        waiting.append(s.connect())
        waiting[-1].send(HEAD)
        wire.eventually(lambda before=before: s.live(pid)["read_blocks"] > before, 10, "it has been read, and waits")
    answered(first)
    for i, connection in enumerate(waiting):
        assert all(later.is_open(0.02) for later in waiting[i + 1 :])
        connection.send(b"once")
        assert connection.response().text == "once"


def test_who_leaves_the_queue_makes_room(limited):
    s = limited("--limit-concurrency", 1, "--limit-queue", 1, "--limits-queue-timeout", "60s")
    first = in_hand(s)
    for leaves in (wire.Connection.close, wire.Connection.reset):
        leaves(asked(s))
        wire.eventually(lambda: s.live(s.workers()[0])["conns"] == 1, 5, "it is gone")
    last = asked(s)
    assert last.is_open()
    answered(first)
    assert last.response().status == 200


def test_a_body_that_is_too_large_is_refused_while_it_waits(limited):
    s = limited("--limit-concurrency", 1, "--limit-body", 10, "--limits-queue-timeout", "60s")
    first = in_hand(s)
    second = s.connect()
    second.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert second.is_open()
    second.send(wire.chunked(b"x" * 20))
    assert second.response().status == 413
    answered(first)


def test_websockets_count_until_they_are_accepted(server):
    s = server(KINDS["asgi"], "--limit-concurrency", 1, "--limit-queue", 0)
    talking = [Socket(s.connect(), "/") for _ in range(3)]
    for one in talking:
        one.text("still").expect_text("still")
    first = in_hand(s)
    refused = s.connect()
    refused.send(wire.request("GET", "/", [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
                                           ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]))  # fmt: skip
    assert is_refused(refused.response())
    for one in talking:
        one.text("even now").expect_text("even now")
    answered(first)
    for one in talking:
        one.close(1000).expect_close(1000)


def test_at_the_drain_those_who_wait_are_answered(limited):
    s = limited("--limit-concurrency", 1, "--limits-queue-timeout", "60s")
    first = in_hand(s)
    second = asked(s)
    assert second.is_open()
    s.send_signal(signal.SIGTERM)
    s.wait_log("SIGTERM: stopping")
    time.sleep(0.6)
    answered(first)
    assert second.response().status == 200
    assert s.wait_exit(10) == 0


def test_a_quick_end_refuses_those_who_wait(limited):
    s = limited("--limit-concurrency", 1, "--limits-queue-timeout", "60s")
    first = in_hand(s)
    second = asked(s)
    assert second.is_open()
    s.send_signal(signal.SIGINT)
    assert second.response().status == 503
    first.close()
    assert s.wait_exit(10) == 0


# ------------------------------------------------------------------ timeouts.request


def test_an_async_request_that_takes_too_long_is_cancelled(server):
    s = server(KINDS["asgi"], "--timeout-request", "300ms")
    connection = s.connect()
    response = connection.get("/async")
    assert (response.status, response.get("connection")) == (504, "close")
    assert connection.is_closed()
    assert s.get("/seen").text == "cancelled"
    s.wait_log(
        r"warning: GET /async: no whole answer after 0.[3-9] s \(timeouts.request\), the answer is 504 and it is cancelled; "
        r"it was in .*app \(.*overloaded.py:\d+\), in inner \(.*overloaded.py:\d+\), in sleep \("
    )


def test_an_answer_that_has_begun_is_cut_off(server):
    s = server(KINDS["asgi"], "--timeout-request", "300ms")
    connection = s.connect()
    connection.send(wire.request("GET", "/begun"))
    assert b"0\r\n\r\n" not in connection.rest().partition(b"\r\n\r\n")[2]
    assert s.get("/seen").text == "cancelled"
    s.wait_log(r"GET /begun: no whole answer after .*, its connection was closed and it is cancelled")


def test_a_thread_goes_on_and_counts_until_it_is_done(server):
    s = server(KINDS["wsgi"], "--timeout-request", "300ms", "--limit-concurrency", 1, "--limit-queue", 0)
    assert s.get("/nap").status == 504
    assert is_refused(s.get("/seen"))
    wire.eventually(lambda: s.get("/seen").text == "slept", 10, "the thread is done")
    s.wait_log(r"GET /nap: no whole answer after .*, the answer is 504 and its thread goes on; it was in .*sync_nap \(.*overloaded.py:\d+\)")


def test_a_request_that_no_thread_has_time_for_is_overdue_too(server):
    s = server(KINDS["wsgi"], "--timeout-request", "400ms", "--threads", 1, "--sync-threads-max", 1)
    asked(s, "/nap")
    assert s.get("/hello").status == 504
    s.wait_log("GET /hello: 504, no thread had time for it within timeouts.request")
    wire.eventually(lambda: s.get("/seen").text == "slept", 10, "the thread is done")


def test_who_waits_in_the_queue_for_all_its_time_is_told_so(server):
    s = server(KINDS["wsgi"], "--timeout-request", "300ms", "--limit-concurrency", 1, "--limits-queue-timeout", "60s")
    nap = asked(s, "/nap")
    assert is_refused(s.get("/hello"))
    s.wait_log(r"warning: GET /hello: 503, .* it has waited for timeouts.request \(0.3 s\)")
    assert nap.response().status == 504
    wire.eventually(lambda: s.get("/seen").text == "slept", 10, "the thread is done")


def test_a_body_that_does_not_come_is_408(limited):
    s = limited("--timeout-request", "300ms")
    assert in_hand(s).response().status == 408


def test_what_is_done_behind_the_answer_takes_its_time(server):
    s = server(KINDS["asgi"], "--timeout-request", "300ms")
    assert s.get("/behind").text == "all of it"
    wire.eventually(lambda: s.get("/seen").text == "done behind it", 10, "it is done")


def test_quick_requests_know_nothing_of_it(limited):
    s = limited("--timeout-request", "500ms")
    with s.connect() as connection:
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            assert connection.get("/hello").status == 200


# ------------------------------------------------------------------ fairness


def test_a_pipeline_does_not_starve_others(limited):
    """While one client's pipeline never ends, another that asks one request after the other is served between its requests."""
    s = limited()
    pipeline = s.connect()
    end, served = threading.Event(), 0

    def push():
        requests = wire.request("GET", "/hello") * 100
        with contextlib.suppress(OSError):
            while not end.is_set():
                pipeline.send(requests)

    def pull():
        nonlocal served
        with contextlib.suppress(OSError):
            while not end.is_set():
                served += pipeline.sock.recv(65536).count(b"HTTP/1.1 200")

    pullers = [threading.Thread(target=push), threading.Thread(target=pull)]
    for one in pullers:
        one.start()
    try:
        with s.connect() as other:
            for _ in range(10):
                other.get("/hello")
            served, asked_n, until = 0, 0, time.monotonic() + 1
            while time.monotonic() < until:
                assert other.get("/hello").status == 200
                asked_n += 1
            share = asked_n / served
    finally:
        end.set()
        pipeline.sock.shutdown(socket.SHUT_RDWR)
        for one in pullers:
            one.join()
        pipeline.close()
    print(f"{asked_n} beside {served}")
    assert share > 0.002, f"{asked_n} beside {served}"


# ------------------------------------------------------------------ descriptors


def test_without_a_descriptor_nothing_spins_and_nobody_is_lost(server):
    """The application has taken every descriptor: who connects meanwhile waits, and is served when they are given back."""
    s = server("overloaded:app", prefix=["prlimit", "--nofile=200:200"])
    s.expect_errors(r"cannot accept connections: Too many open files")
    (pid,) = s.workers()
    kept = s.connect()
    kept.send(b"POST /eat HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n\r\n")
    wire.eventually(lambda: sum(harness.descriptors(pid).values()) >= 199, 10, "there is none left")
    late = [asked(s) for _ in range(5)]
    spent = cpu_seconds(pid)
    assert late[0].is_open(1)
    spent = cpu_seconds(pid) - spent
    assert spent < 0.5, f"{spent} s of CPU in one"
    assert len([line for line in s.err.lines if "cannot accept connections" in line]) == 1
    kept.send(b"x")
    assert kept.response().status == 200
    for connection in late:
        assert connection.response().status == 200
