"""WSGI: clients that go away or are slow, full queues, the drain, and what the loop does while Python is busy."""

import re
import select
import signal
import socket
import threading
import time

import pytest

import wire

ONE = ("--sync-threads", "1", "--sync-threads-max", "1")
FOUR = ("--sync-threads", "4", "--sync-threads-max", "4")


@pytest.fixture
def one(server):
    """One thread: what it holds up waits in the queue."""
    return server("wsgi_raw:app", *ONE, shared=True)


@pytest.fixture
def s(server):
    return server("wsgi_raw:app", *FOUR, shared=True)


def begin(server, target, method="GET", headers=(), body=b""):
    """Sends a request; the answer is read later."""
    c = server.connect()
    c.send(wire.request(method, target, headers, body))
    return c


def in_hand(server):
    return server.live(server.workers()[0])["cycles"]


def wait_in_hand(server, n):
    wire.eventually(lambda: in_hand(server) == n, 10, f"{n} requests in hand")


# --- gone


@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_while_queued(one, how):
    """It never runs."""
    slow = begin(one, "/slow?s=1")
    wait_in_hand(one, 1)
    queued = begin(one, f"/hold?name=queued-{how}")
    wait_in_hand(one, 2)
    getattr(queued, how)()
    wait_in_hand(one, 1)
    with slow:
        assert slow.response().body == b"slow"
    assert f"queued-{how}" not in one.events()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_before_a_short_body_was_there(s, how):
    c = begin(s, f"/count?name=short-{how}", "POST", {"Content-Length": "1000"})
    c.send(b"x" * 10)
    wait_in_hand(s, 1)
    getattr(c, how)()
    wait_in_hand(s, 0)
    assert f"short-{how}" not in s.events()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_gone_in_the_middle_of_a_long_body(s, how, framing):
    """An OSError where it is read; no line in the log, as it is the client's doing."""
    name = f"long-{how}-{framing}"
    if framing == "length":
        c = begin(s, f"/count?name={name}", "POST", {"Content-Length": "1000000"})
        c.send(b"x" * 5000)
    else:
        c = begin(s, f"/count?name={name}", "POST", {"Transfer-Encoding": "chunked"})
        c.send(b"1388\r\n" + b"x" * 5000 + b"\r\n")
    s.wait_event(f"{name}-got", "^5000$")
    getattr(c, how)()
    s.wait_event(name, "^ClientDisconnected after 5000$")


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("closing", ["", "&closing=1"])
@pytest.mark.parametrize("size,delay", [(1000, 0), (1000, 0.02), (50_000, 0)])
def test_gone_in_the_middle_of_a_stream(s, how, closing, size, delay):
    """The iteration stops, and the result is closed, once, on its thread."""
    name = f"stream-{how}{closing}-{size}-{delay}".replace("&", "").replace("=", "")
    c = begin(s, f"/endless?name={name}&size={size}&delay={delay}{closing}")
    c.exactly(5000)
    getattr(c, how)()
    if closing:
        s.wait_event(f"{name}-closed", "^1$")
        assert s.events()[f"{name}-closed-same"] == "1"
    else:
        s.wait_event(name, "^GeneratorExit$")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_while_writing(s, how):
    name = f"write-{how}"
    c = begin(s, f"/endless?name={name}&write=1&size=10000")
    c.exactly(5000)
    getattr(c, how)()
    s.wait_event(name, "^ClientDisconnected$")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_while_the_application_computes(s, how):
    """The view ends, its answer is dropped, its thread serves the next."""
    name = f"computes-{how}"
    c = begin(s, f"/hold?name={name}")
    s.wait_event(name, "^holding$")
    getattr(c, how)()
    s.get(f"/release?name={name}")
    s.wait_event(name, "^released$")
    wait_in_hand(s, 0)


@pytest.mark.parametrize("kind", ["file", "bytesio", "gzip"])
def test_gone_in_the_middle_of_a_file(s, kind):
    s.get("/files-closed?clear=1")
    c = begin(s, f"/file?kind={kind}&size=30000000")
    c.exactly(5000)
    c.reset()
    wire.eventually(lambda: s.get("/files-closed").json() == [True], 10, "the file is closed")


def test_gone_at_random(s):
    """Many clients that leave in every state; nothing is left of them."""
    import random

    dice = random.Random(11)
    targets = ["/hello", "/slow?s=0.02", "/stream?n=50&size=2000&delay=0.001", "/large?size=300000", "/endless?name=random&size=3000"]
    for _ in range(150):
        raw = wire.request("GET", dice.choice(targets))
        if dice.random() < 0.4:
            raw = wire.request("POST", "/digest?how=read", (), b"x" * dice.choice((10, 5000, 300_000)))
        c = s.connect()
        c.send(raw[: dice.randrange(1, len(raw) + 1)])
        if dice.random() < 0.5:
            time.sleep(dice.random() * 0.01)
        dice.choice((c.close, c.reset))()
    wait_in_hand(s, 0)
    assert s.get("/hello").status == 200


def test_a_client_that_only_sends_no_more_gets_its_answer(s):
    for target in ("/slow?s=0.2", "/stream?n=20&delay=0.01", "/hello"):
        with begin(s, target) as c:
            assert c.fin().response().status == 200


def test_http_1_0_and_pipelines(s):
    with s.connect() as c:
        c.send(b"".join(wire.request("GET", f"/stream?n={i}&size=3") for i in range(30)))
        for i in range(30):
            assert c.response().body == b"".join(bytes([97 + k % 26]) * 3 for k in range(i))
        c.send(wire.request("POST", "/echo", (), b"first") + wire.request("POST", "/echo", (), b"second") + wire.request("GET", "/hello"))
        assert [c.response().body for _ in range(3)] == [b"first", b"second", b"Hello, World!"]


# --- slow


def test_a_client_that_does_not_read_holds_up_its_own_stream_alone(server):
    """What waits for it stays bounded, and its slot serves others meanwhile."""
    s = server("wsgi_raw:app", "--sync-threads", "1", "--sync-threads-max", "2")
    with s.connect(rcvbuf=4096) as c:
        c.send(wire.request("GET", "/endless?name=lag&size=20000"))
        c.exactly(1000)
        wire.eventually(lambda: s.get("/hello").status == 200)

        def settled():
            before = s.events()["lag-sent"]
            time.sleep(0.3)
            return s.events()["lag-sent"] == before

        wire.eventually(settled, 10, "the stream waits")
        sent = int(s.events()["lag-sent"])
        assert sent < 16_000_000
        c.exactly(sent)
        wire.eventually(lambda: int(s.events()["lag-sent"]) > sent)


def test_an_upload_that_stalls_holds_no_slot(server):
    s = server("wsgi_raw:app", "--sync-threads", "1", "--sync-threads-max", "2")
    with begin(s, "/count?name=stalls", "POST", {"Content-Length": "100000"}) as c:
        c.send(b"x" * 100)
        wait_in_hand(s, 1)
        s.wait_event("stalls", "^reading$")
        c.send(b"x" * 99_900)
        assert c.response().body == b"100000"


def test_a_short_upload_that_stalls_holds_no_thread(one):
    with begin(one, "/echo", "POST", {"Content-Length": "60000"}) as c:
        for _ in range(6):
            wait_in_hand(one, 1)
            assert one.get("/hello").status == 200
            c.send(b"x" * 10_000)
        assert c.response().body == b"x" * 60_000


def test_a_reader_in_small_steps_gets_all(s):
    with s.connect(rcvbuf=8192, timeout=60) as c:
        c.send(wire.request("GET", "/stream?n=100&size=50000&length=1"))
        c.head()
        for i in range(100):
            assert c.exactly(50_000) == bytes([97 + i % 26]) * 50_000
            if i % 10 == 0:
                time.sleep(0.02)
        assert c.get("/hello").status == 200


def test_send_timeout(server):
    """A client that takes nothing for too long is left; the thread and its slot are free again."""
    s = server("wsgi_raw:app", *FOUR, "--timeouts-send", "500ms")
    with s.connect(rcvbuf=4096) as c:
        c.send(wire.request("GET", "/endless?name=stuck&size=20000&closing=1"))
        c.exactly(1000)
        s.wait_event("stuck-closed", "^1$")


# --- more than there are threads


def test_full_queue(server):
    """503 with Retry-After for who comes too late; who waits gets an answer."""
    s = server("wsgi_raw:app", *ONE, "--sync-queue", "2")
    clients = [begin(s, "/slow?s=1")]
    wait_in_hand(s, 1)
    for n in (2, 3):
        clients.append(begin(s, "/hello"))
        wait_in_hand(s, n)
    with s.connect() as c:
        for _ in range(3):
            r = c.get("/hello")
            assert r.status == 503 and int(r.get("retry-after")) > 0, r
        clients[0].response()
        wire.eventually(lambda: c.get("/hello").status == 200)
    for client in clients[1:]:
        assert client.response().status == 200
        client.close()
    clients[0].close()
    s.wait_log(r"warning: GET /hello: 503, sync\.queue is full")


def test_queue_timeout(server):
    """503 with Retry-After, and a line that says who holds the threads."""
    s = server("wsgi_raw:app", *ONE, "--sync-queue-timeout", "300ms")
    slow = begin(s, "/slow?s=2")
    wait_in_hand(s, 1)
    with begin(s, "/hello?late") as c:
        r = c.response()
        assert r.status == 503 and int(r.get("retry-after")) > 0
        s.wait_log(r"GET /hello .*sync\.queue_timeout.*GET /slow")
        with slow:
            assert slow.response().status == 200
        assert c.get("/hello").status == 200


def test_threads_run_side_by_side(s):
    """Four that wait, on four threads, at once."""
    clients = [begin(s, f"/hold?name=side-{i}") for i in range(3)]
    for i in range(3):
        s.wait_event(f"side-{i}", "holding")
    for i in range(3):
        s.get(f"/release?name=side-{i}")
    for c in clients:
        with c:
            assert c.response().body == b"released"


def test_first_come_first_served(one):
    names = [f"turn-{i}" for i in range(8, 0, -1)]
    for name in names:
        one.get(f"/release?name={name}")  # so that none of them is held
    # Its body has the thread wait for as long as this test takes.
    clients = [begin(one, "/count?name=before", "POST", {"Content-Length": "1000000"}, b"x" * 5000)]
    wait_in_hand(one, 1)
    for name in names:
        clients.append(begin(one, f"/hold?name={name}"))
        wait_in_hand(one, len(clients))
    clients[0].send(b"x" * 995_000)
    for c in clients:
        with c:
            assert c.response().status == 200
    assert [name for name in one.events() if name in names] == names  # in the order in which they came to the application


def test_mixed_load(s):
    """Many connections with all kinds of requests at once: every answer is the right one."""
    problems = []

    def client(number):
        try:
            with s.connect(timeout=30) as c:
                for i in range(40):
                    kind = (number + i) % 5
                    if kind == 0:
                        assert c.get("/hello").body == b"Hello, World!"
                    elif kind == 1:
                        body = bytes([65 + number]) * (100 + i * 2500)
                        assert c.request("POST", "/echo", (), body).body == body
                    elif kind == 2:
                        assert len(c.get(f"/stream?n={i}&size=700").body) == i * 700
                    elif kind == 3:
                        assert c.get(f"/large?size={i * 1000}").body == b"x" * (i * 1000)
                    else:
                        assert c.get("/slow?s=0.001").body == b"slow"
        except Exception as e:
            problems.append(repr(e))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems


# --- after the answer, and the end


def test_work_after_the_answer_does_not_keep_the_client(s):
    """close() runs when the answer is on its way; the connection takes the next request meanwhile."""
    for length in ("", "&length=1"):
        name = f"after{length.strip('&=1')}"
        with begin(s, f"/after?name={name}{length}") as c:
            assert c.response().body == b"answer"
            assert c.get("/hello").status == 200
            assert s.events()[name] == "closing"
            s.get(f"/release?name={name}")
            s.wait_event(name, "^closed$")


def test_drain(server):
    """SIGTERM: what runs, waits, uploads, streams and tidies up comes to its end."""
    s = server("wsgi_raw:app", *FOUR)
    clients = {
        "slow": begin(s, "/slow?s=1"),
        "stream": begin(s, "/stream?n=20&size=1000&delay=0.05"),
        "upload": begin(s, "/digest?how=read", "POST", {"Content-Length": "200000"}),
        "after": begin(s, "/after-slowly?s=1"),
        "queued": begin(s, "/slow?s=0.2"),
        "short": begin(s, "/echo", "POST", {"Content-Length": "100"}),
    }
    clients["upload"].send(b"x" * 70_000)
    clients["short"].send(b"x" * 50)
    assert clients["after"].response().body == b"answer"
    wait_in_hand(s, 5)
    s.send_signal(signal.SIGTERM)
    s.wait_log("SIGTERM: stopping")
    clients["upload"].send(b"x" * 130_000)
    clients["short"].send(b"x" * 50)
    assert clients["slow"].response().body == b"slow"
    assert clients["queued"].response().body == b"slow"
    assert len(clients["stream"].response().body) == 20_000
    assert clients["upload"].response().json()["size"] == 200_000
    assert clients["short"].response().body == b"x" * 100
    for c in clients.values():
        c.close()
    assert s.wait_exit(20) == 0
    assert "the work after the answer is done" in s.log


def test_quick_end(server):
    """SIGINT: those who wait for clients, or for a thread, are let go; a thread that computes is named and left behind."""
    s = server("wsgi_raw:app", *FOUR)
    clients = [
        begin(s, "/endless?name=x&size=50000"),
        begin(s, "/count?name=y", "POST", {"Content-Length": "100000"}),
        begin(s, "/slow?s=60"),
        begin(s, "/slow?s=60"),
        begin(s, "/hello?queued"),
        begin(s, "/echo", "POST", {"Content-Length": "100"}),
    ]
    wait_in_hand(s, 6)
    began = time.monotonic()
    assert s.stop(signal.SIGINT, timeout=20) == 0
    assert time.monotonic() - began < 30
    for c in clients:
        c.close()
    assert re.search(r"GET /slow: still in hand", s.log) and re.search("thread ringcorn-sync-\\d did not end.*slow", s.log), s.log
    assert re.search(r"GET /slow: left behind, its thread did not end", s.log)


def test_graceful_timeout(server):
    """timeouts.graceful is what requests get; then they are let go."""
    s = server("wsgi_raw:app", *FOUR, "--timeouts-graceful", "500ms")
    c = begin(s, "/endless?name=x&size=50000")
    wait_in_hand(s, 1)
    assert s.stop(signal.SIGTERM, timeout=20) == 0
    c.close()


def test_reload_under_load(server):
    """SIGHUP replaces the worker; no request fails."""
    s = server("wsgi_raw:app", *FOUR)
    problems, done, answered = [], threading.Event(), []

    def client():
        try:
            while not done.is_set():
                with s.connect(timeout=30) as c:
                    for _ in range(50):
                        r = c.request("POST", "/echo", (), b"y" * 500)
                        assert r.status == 200 and r.body == b"y" * 500
                        answered.append(1)
                        if r.get("connection") == "close":
                            break
        except Exception as e:
            problems.append(repr(e))

    threads = [threading.Thread(target=client) for _ in range(6)]
    for t in threads:
        t.start()
    for n in range(2):
        first = s.workers()
        s.send_signal(signal.SIGHUP)
        wire.eventually(lambda: len(s.workers()) == 1 and s.workers() != first, 20, "a new worker alone")
    done.set()
    for t in threads:
        t.join()
    assert not problems and len(answered) > 100
    s.baseline()


# --- reports and logs


def test_report_names_the_requests_in_hand(server):
    s = server("wsgi_raw:app", *ONE)
    clients = [begin(s, "/slow?s=2"), begin(s, "/hello?waits"), begin(s, "/echo", "POST", {"Content-Length": "10"})]
    wait_in_hand(s, 3)
    since = len(s.err.lines)
    s.send_signal(signal.SIGUSR2, s.workers()[0])
    for label in ("GET /slow", "GET /hello", "POST /echo"):
        s.wait_log(rf"in hand for \d+ s: {label}$", since=since)
    clients[2].send(b"x" * 10)
    for c in clients:
        with c:
            assert c.response().status == 200


def test_access_log(server):
    s = server("wsgi_raw:app", *ONE, "--access-log")
    assert s.get("/hello?a=b").status == 200
    assert s.out.wait(r'127\.0\.0\.1 - - \[.*\] "GET /hello\?a=b HTTP/1\.1" 200 13 ', 5)
    s.get("/stream?n=5&size=100")
    assert s.out.wait(r'"GET /stream\?n=5&size=100 HTTP/1\.1" 200 500 ', 5)
    s.expect_errors("GET /boom: exception")
    s.get("/boom?where=before")
    assert s.out.wait(r'"GET /boom\?where=before HTTP/1\.1" 500 ', 5)
    slow = begin(s, "/slow?s=1")
    wait_in_hand(s, 1)
    gone = begin(s, "/hello?gone")
    wait_in_hand(s, 2)
    gone.close()
    assert s.out.wait(r'"GET /hello\?gone HTTP/1\.1" 499 0 ', 5)
    with slow:
        slow.response()


# --- the loop needs no GIL


def test_the_loop_serves_while_the_gil_is_held(server):
    """A thread keeps the GIL in C. Meanwhile connections are accepted, requests read, bodies received, requests refused, and large
    answers sent."""
    s = server("wsgi_raw:app", "--sync-threads", "2", "--sync-threads-max", "2", "--sync-queue", "1")
    size = 30_000_000
    with s.connect(rcvbuf=4096) as large, s.connect() as gil:
        large.send(wire.request("GET", f"/large?size={size}"))
        large.head()
        # It is all handed over, and its thread free.
        wire.eventually(lambda: (live := s.live(s.workers()[0]))["held"] == 1 and live["cycles"] == 0, 10, "the answer is the loop's")
        gil.send(wire.request("GET", "/hold-gil?s=5"))
        s.wait_log("the GIL is held")
        # From here on nothing is asked of the worker but by connections: a signal is Python's affair too.
        body = begin(s, "/echo", "POST", {"Content-Length": "50000"})
        body.send(b"x" * 25_000)
        crowd = [begin(s, f"/hello?{i}") for i in range(4)]
        # One has the second thread, one waits.
        refused = wire.eventually(lambda: len(ready := [c for c in crowd if select.select([c.sock], [], [], 0)[0]]) == 2 and ready, 4)
        large.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert large.exactly(size) == b"x" * size
        assert not select.select([gil.sock], [], [], 0)[0], "all that was while the GIL was held"
        for c in refused:
            r = c.response()
            assert r.status == 503 and r.get("retry-after")
        assert gil.response().body == b"held"
        body.send(b"x" * 25_000)
        assert body.response().body == b"x" * 50_000
        for c in crowd:
            if c not in refused:
                assert c.response().status == 200
        for c in (body, *crowd):
            c.close()
