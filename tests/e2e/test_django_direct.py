"""Django's sync views behind its ASGI entry: from the second request on a thread has them at once, without a task on the loop."""

import hashlib
import json
import os
import random
import select
import signal
import socket
import threading

import harness
import pytest

import wire

THREADS = ("--sync-threads", "4")
ONE = ("--sync-threads", "1", "--sync-threads-max", "1")
PLAIN = {"TEST_PLAIN": "1"}  # async views need no thread


@pytest.fixture
def s(server):
    return server("direct_django:application", *THREADS, shared=True)


def way(server, target, *args, **kwargs):
    r = server.get(target, *args, **kwargs)
    assert r.status == 200, r
    return r.json()["way"]


def state_of(server, name):
    return server.get("/state").json().get(name)


def learn(server, *targets):
    """Asks until each of them goes directly."""
    for target in targets:
        assert server.get(target).status in (200, 299, 204, 304)
    return targets[0]


# --- which way


def test_a_sync_path_is_learned(s):
    assert way(s, "/sync") in ("loop", "direct")
    for _ in range(5):
        assert way(s, "/sync") == "direct"
        assert way(s, "/sync?with=query") == "direct"


def test_numbers_in_a_path_are_alike(s):
    way(s, "/item/1/")
    assert [way(s, f"/item/{n}/") for n in (2, 33, 444)] == ["direct"] * 3
    assert s.get("/item/77/").json()["kwargs"] == {"n": 77}


def test_titles_are_alike_after_some(s):
    ways = [way(s, f"/blog/title-{chr(97 + i)}/") for i in range(12)]
    assert ways[0] == "loop" and set(ways[8:]) == {"direct"}


def test_titles_are_not_alike_where_one_is_asynchronous(server):
    s = server("direct_django:application", *THREADS)
    assert s.get("/mixed/a").json()["on_loop"]
    assert {way(s, f"/mixed/title-{chr(97 + i)}") for i in range(12)} == {"loop"}
    assert way(s, "/mixed/title-a") == "direct"  # it is known by itself


def test_async_views_stay_on_the_loop(s):
    for _ in range(5):
        got = s.get("/async").json()
        assert got["on_loop"] and got["thread"] == "MainThread" and got["way"] == "loop"


def test_async_views_need_no_thread(server):
    """Also those that nobody has asked for before, while every thread is busy."""
    s = server("direct_django:application", *ONE, env=PLAIN)
    with s.connect() as held, s.connect() as waits:
        held.send(wire.request("GET", "/hold/all"))
        wire.eventually(lambda: s.get("/state").json().get("all") == "holding")
        waits.send(wire.request("GET", "/sync"))
        assert s.get("/async").json()["on_loop"]
        s.get("/release/all")
        assert held.response().body == b"released" and waits.response().status == 200


def test_it_can_be_turned_off(server):
    s = server("direct_django:application", *THREADS, "--django-one-hop", "off")
    assert {way(s, "/sync") for _ in range(5)} == {"loop"}


def test_other_applications_are_left_alone(server):
    """Django inside of something else: by the loop, as its scope may be another."""
    s = server("direct_wrapped:application", *THREADS)
    assert {way(s, "/sync") for _ in range(5)} == {"loop"}


def test_channels_router_is_looked_through(server):
    s = server("direct_channels:application", *THREADS)
    assert [way(s, "/sync") for _ in range(5)][1:] == ["direct"] * 4
    assert s.get("/async").json()["on_loop"]


# --- what arrives


def bodies():
    dice = random.Random(3)
    return [b"", b"x", dice.randbytes(5000), dice.randbytes(60_000), dice.randbytes(1_000_000)]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_the_request_arrives_whole(s, framing):
    learn(s, "/sync")
    for body in bodies():
        with s.connect() as c:
            if framing == "length":
                c.send(wire.request("POST", "/sync?a=b%20c", {"X-Mark": "mine", "Host": "example.org"}, body))
            else:
                head = wire.request("POST", "/sync?a=b%20c", {"X-Mark": "mine", "Host": "example.org", "Transfer-Encoding": "chunked"})
                c.send(head + wire.chunked(*(body[i : i + 30_001] for i in range(0, len(body), 30_001))))
            got = c.response().json()
            # What is long, or does not say how long it is, is taken in by the loop: no thread waits for it.
            expected = {
                "way": "direct" if framing == "length" and len(body) <= 65536 else "loop", "on_loop": False, "mark": "mine", "before": "unset", "method": "POST", "path": "/sync", "query": "a=b%20c",
                "host": "example.org", "client": "127.0.0.1", "server": ["127.0.0.1", str(s.port)],
                "size": len(body), "sha256": hashlib.sha256(body).hexdigest(),
            }  # fmt: skip
            assert {k: got[k] for k in expected} == expected
            assert got["thread"].startswith("ringcorn-sync")
            assert c.get("/sync").json()["before"] == "unset"


def test_root_path(server):
    s = server("direct_django:application", *THREADS, "--root-path", "/app")
    assert [way(s, "/sync") for _ in range(3)] == ["loop", "direct", "direct"]
    assert s.get("/sync").json()["path"] == "/app/sync"


def test_both_ways_say_the_same(s):
    """Every header of the answer and every byte, for all kinds of views: the first request by the loop, the others directly."""
    for target in ("/odd?kind=204", "/odd?kind=304", "/odd?kind=cookies", "/odd?kind=text", "/stream?n=5", "/file", "/large?size=100000", "/nope"):
        for method in ("GET", "HEAD"):
            answers = []
            for i in range(3):
                with s.connect() as c:
                    # Paths that only differ in a number are alike; the very first of each kind goes by the loop.
                    r = c.request(method, target)
                    headers = sorted((n.lower(), v) for n, v in r.headers if n.lower() not in ("date", "transfer-encoding", "content-length"))
                    answers.append((r.status, headers, r.body))
                    assert c.get("/sync").status == 200
            assert answers[0] == answers[1] == answers[2]


def test_uploads(s):
    learn(s, "/sync")
    for size in (10, 50_000, 3_000_000):
        data = os.urandom(size)
        body = b'--a-line-between\r\nContent-Disposition: form-data; name="note"\r\n\r\na note\r\n'
        body += b'--a-line-between\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + data + b"\r\n--a-line-between--\r\n"
        for _ in range(2):
            r = s.post("/upload", body, {"Content-Type": "multipart/form-data; boundary=a-line-between"}, timeout=30)
            got = r.json()
            assert (got["size"], got["sha256"], got["note"]) == (size, hashlib.sha256(data).hexdigest(), "a note")
        assert (got["way"] == "_Input") == (len(body) <= 65536)


def test_a_slow_upload(s):
    learn(s, "/sync")
    data = os.urandom(65_000)
    with s.connect() as c:
        raw = wire.request("POST", "/sync", (), data)
        c.send_slowly(raw, range(5000, len(raw), 5000), 0.005)
        got = c.response().json()
        assert (got["way"], got["sha256"]) == ("direct", hashlib.sha256(data).hexdigest())


# --- wrong guesses


@pytest.fixture
def misled(server):
    """A server that has learned that everything below /pages/ is synchronous. It is not."""
    s = server("direct_django:application", *THREADS)
    for i in range(10):
        s.get(f"/pages/title-{chr(97 + i)}")
    assert way(s, "/pages/never-seen") == "direct"
    return s


@pytest.mark.parametrize("size", [0, 100, 60_000])
def test_given_back_untouched(misled, size):
    """The thread finds that the view is asynchronous: the request goes on on the loop, with all of its body."""
    body = os.urandom(size)
    with misled.connect() as c:
        got = c.request("POST", "/pages/async", {"X-Mark": "m"}, body).json()
        assert got["on_loop"] and (got["size"], got["sha256"], got["mark"]) == (size, hashlib.sha256(body).hexdigest(), "m")
        for _ in range(3):  # and is remembered
            assert c.get("/pages/async").json()["on_loop"]
        assert c.get("/pages/title-a").json()["way"] == "direct"


def test_given_back_after_a_slow_body(misled):
    body = os.urandom(65_000)
    raw = wire.request("POST", "/pages/async", (), body)
    with misled.connect() as c:
        c.send_slowly(raw, range(10_000, len(raw), 10_000), 0.005)
        assert c.response().json()["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_when_given_back(misled, how):
    for _ in range(20):
        c = misled.connect()
        c.send(wire.request("GET", "/pages/async"))
        getattr(c, how)()
    assert misled.get("/pages/async").json()["on_loop"]


@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("size", [0, 100, 60_000])
def test_given_back_half_way(server, size, read_first):
    """Middleware has other URLs, by which the view is asynchronous: what has run does not run again, and the rest does on the loop."""
    s = server("direct_django:application", *THREADS, shared=True)
    target = f"/wrong/{'read' if read_first else 'unread'}-{''.join(chr(97 + int(d)) for d in str(size))}"
    assert [way(s, target) for _ in range(2)][1] == "direct"
    started = s.get("/state").json()["signals"]
    body = os.urandom(size)
    headers = {"X-Async": "1", "X-Mark": "half", **({"X-Read-First": "1"} if read_first else {})}
    with s.connect() as c:
        got = c.request("POST", target, headers, body).json()
        assert got["on_loop"] and got["mark"] == "half" and got["before"] == "unset"
        assert (got["size"], got["sha256"]) == (size, hashlib.sha256(body).hexdigest())
        got = c.request("POST", target, headers, body).json()  # by the loop, from here on
        assert got["on_loop"] and got["sha256"] == hashlib.sha256(body).hexdigest()
    signals = s.get("/state").json()["signals"][len(started) :]
    assert signals.count("started") == 3, signals


# --- one thread for all of a request


def test_all_of_a_request_is_on_one_thread(s):
    """Below async_to_sync(), and what a task of its own asks for while the view runs."""
    learn(s, "/threads/first")
    for i in range(8):
        got = s.get(f"/threads/name-{chr(97 + i)}").json()
    assert got["way"] == "direct" and got["inner"] == got["thread"] and got["loop"] == "MainThread"
    for i in range(20):
        name = f"late-{chr(97 + i)}"
        got = s.get(f"/threads/{name}").json()
        late = wire.eventually(lambda name=name: state_of(s, name))
        assert late["beside"] == got["thread"] == state_of(s, f"finished {name}")
        assert late["after"].startswith("ringcorn-sync")


def test_given_back_half_way_on_one_thread(server):
    s = server("direct_django:application", *THREADS)
    learn(s, "/wrong/thread")
    for path in ("wrong/thread", *(f"wrong/thread-{chr(97 + i)}" for i in range(12))):
        with s.connect() as c:
            got = c.get(f"/{path}", {"X-Async": "1"}).json()
            assert got["on_loop"]
            assert got["first"].startswith("ringcorn-sync") and got["first"] == got["sync_thread"]
        assert wire.eventually(lambda path=path: state_of(s, f"finished /{path}")) == got["first"]


def test_a_stream_that_is_asynchronous(s):
    """Its view is not: the request comes back for its body, and to its thread for its end."""
    for i in range(4):
        with s.connect() as c:
            assert c.get("/astream?n=3").body == b"".join(bytes([97 + k]) * 10 for k in range(3))
            assert c.get("/sync").status == 200


@pytest.mark.parametrize("affinity", ["request", "transaction", "call"])
def test_affinities(server, affinity):
    s = server("direct_django:application", *THREADS, "--sync-affinity", affinity)
    learn(s, "/sync", "/threads/first")
    for i in range(12):
        assert way(s, "/sync") == "direct"
        assert s.get(f"/threads/late-{chr(97 + i)}").json()["loop"] == "MainThread"
        got = s.get(f"/wrong/{affinity}-{chr(97 + i)}", {"X-Async": "1"}).json()
        assert got["on_loop"] and got["sync_thread"].startswith("ringcorn-sync")


# --- clients


def test_pipelined(s):
    learn(s, "/sync", "/async", "/item/1/")
    targets = ["/sync", "/async", "/item/2/", "/sync", "/nope", "/stream?n=3", "/async", "/item/3/"] * 3
    with s.connect() as c:
        c.send(b"".join(wire.request("GET", t, {"X-Mark": str(i)}) for i, t in enumerate(targets)))
        for i, target in enumerate(targets):
            r = c.response()
            if target == "/nope":
                assert r.status == 404
            elif target.startswith("/stream"):
                assert len(r.body) == 30
            else:
                assert r.json()["mark"] == str(i)


def test_100_continue(s):
    learn(s, "/sync")
    with s.connect() as c:
        c.send(wire.request("POST", "/sync", {"Expect": "100-continue", "Content-Length": "5"}))
        assert c.head().status == 100
        c.send(b"hello")
        assert c.response().json()["size"] == 5
        assert c.get("/sync").json()["way"] == "direct"


def test_many_paths(server):
    """More than are remembered: those that are asked for again are learned again."""
    s = server("direct_django:application", *THREADS)
    learn(s, "/sync")
    dice = random.Random(7)
    with s.connect() as c:
        for _ in range(6000):
            c.send(wire.request("GET", "/" + "".join(dice.choice("abcdef/") for _ in range(12))))
            assert c.response().status == 404
        c.get("/sync"), c.get("/async")
        assert c.get("/sync").json()["way"] == "direct"
        assert c.get("/async").json()["on_loop"]


def cycles_are(s, n):
    """A request whose answer has been read may be one for a moment still."""
    wire.eventually(lambda: s.live(s.workers()[0])["cycles"] == n, 5 * harness.SLOW, f"{n} requests")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_while_queued(server, how):
    s = server("direct_django:application", *ONE, shared=True, env=PLAIN)
    name = f"queued-{how}"
    s.get(f"/release/first-{how}"), learn(s, f"/hold/first-{how}")
    s.get(f"/release/{name}x"), learn(s, f"/hold/{name}x")
    for i in range(8):  # so that each name below /hold/ is known to be synchronous
        s.get(f"/release/known-{chr(97 + i)}"), learn(s, f"/hold/known-{chr(97 + i)}")
    with s.connect() as held:
        held.send(wire.request("GET", f"/hold/busy-{how}"))
        wire.eventually(lambda: s.get("/state").json().get(f"busy-{how}") == "holding")
        cycles_are(s, 1)
        gone = s.connect()
        gone.send(wire.request("GET", f"/hold/{name}"))
        cycles_are(s, 2)
        getattr(gone, how)()
        cycles_are(s, 1)
        s.get(f"/release/busy-{how}")
        assert held.response().body == b"released"
    assert name not in s.get("/state").json()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("size", [60_000, 1_000_000])
def test_gone_in_the_middle_of_a_body(s, how, size):
    """Its view is not called."""
    name = f"body-{how}-{'short' if size < 65536 else 'long'}"
    for i in range(9):
        s.post(f"/count/known-{chr(97 + i)}", b"abc")
    cycles_are(s, 0)
    c = s.connect()
    c.send(wire.request("POST", f"/count/{name}", {"Content-Length": str(size)}) + b"x" * 5000)
    cycles_are(s, 1)
    getattr(c, how)()
    cycles_are(s, 0)
    assert s.post(f"/count/other-{how}", b"abc").body == b"3"
    assert state_of(s, name) is None


@pytest.mark.parametrize("how", ["close", "reset"])
def test_gone_in_the_middle_of_a_stream(s, how):
    name = f"stream-{how}"
    for i in range(9):
        with s.connect() as c:
            c.send(wire.request("GET", f"/endless/known-{chr(97 + i)}"))
            c.exactly(5000)
    c = s.connect()
    c.send(wire.request("GET", f"/endless/{name}"))
    c.exactly(50_000)
    getattr(c, how)()
    wire.eventually(lambda: s.get("/state").json().get(name) == "GeneratorExit", 10)


def test_a_client_that_does_not_read(server):
    """Its stream waits, and its slot is another's."""
    s = server("direct_django:application", "--sync-threads", "1", "--sync-threads-max", "2")
    for i in range(9):
        with s.connect() as c:
            c.send(wire.request("GET", f"/endless/known-{chr(97 + i)}"))
            c.exactly(5000)
        wire.eventually(lambda i=i: s.get("/state").json().get(f"known-{chr(97 + i)}") == "GeneratorExit", 10)
    with s.connect(rcvbuf=4096) as c:
        c.send(wire.request("GET", "/endless/lag"))
        c.exactly(1000)
        wire.eventually(lambda: s.get("/sync").status == 200)
        sent = wire.eventually(lambda: (a := s.get("/state").json()["lag-sent"]) == s.get("/state").json()["lag-sent"] and a)
        assert sent < 16_000_000


def test_signals_are_balanced(s):
    for _ in range(10):
        s.get("/sync")
    wire.eventually(lambda: (found := s.get("/state").json()["signals"]).count("started") == found.count("finished") + 1)


def test_exceptions_are_django_s(s):
    s.expect_errors("boom from django")
    with s.connect() as c:
        for _ in range(3):
            assert c.get("/boom").status == 500
        assert c.get("/sync").status == 200


def test_less_than_content_length(s):
    learn(s, "/odd?kind=text")
    for _ in range(2):
        since = len(s.err.lines)
        s.expect_errors("GET /odd: the application sent less body than its Content-Length")
        with s.connect() as c:
            c.send(wire.request("GET", "/odd?kind=short"))
            c.head()
            assert c.rest() == b"short"
        s.wait_log("GET /odd: the application sent less body", since=since)
        s.check_log()


def test_full_queue(server):
    s = server("direct_django:application", *ONE, "--sync-queue", "1", env=PLAIN)
    learn(s, "/slow?s=0", "/sync")
    with s.connect() as held, s.connect() as waits, s.connect() as late:
        held.send(wire.request("GET", "/slow?s=1"))
        cycles_are(s, 1)
        waits.send(wire.request("GET", "/sync"))
        cycles_are(s, 2)
        r = late.get("/sync")
        assert r.status == 503 and int(r.get("retry-after")) > 0
        assert held.response().body == b"slow" and waits.response().json()["way"] == "direct"


def test_queue_timeout(server):
    s = server("direct_django:application", *ONE, "--sync-queue-timeout", "300ms", env=PLAIN)
    learn(s, "/slow?s=0", "/sync")
    with s.connect() as held, s.connect() as late:
        held.send(wire.request("GET", "/slow?s=2"))
        cycles_are(s, 1)
        r = late.get("/sync")
        assert r.status == 503 and int(r.get("retry-after")) > 0
        s.wait_log(r"GET /sync .*sync\.queue_timeout.*GET /slow")
        assert held.response().body == b"slow"
        assert late.get("/sync").json()["way"] == "direct"


def test_the_loop_needs_no_gil(server):
    """A thread keeps the GIL in C. Meanwhile a large answer is sent, and requests are read, handed over and refused."""
    s = server("direct_django:application", "--sync-threads", "2", "--sync-threads-max", "2", env=PLAIN)
    size = 30_000_000
    learn(s, "/large?size=1", "/hold-gil?s=0", "/sync")
    with s.connect() as one, s.connect() as other:  # so that both threads are there
        for name, c in (("one", one), ("other", other)):
            c.send(wire.request("GET", f"/hold/{name}"))
            wire.eventually(lambda name=name: state_of(s, name) == "holding")
        for name, c in (("one", one), ("other", other)):
            s.get(f"/release/{name}")
            assert c.response().body == b"released"
    with s.connect(rcvbuf=4096) as large, s.connect() as gil:
        large.send(wire.request("GET", f"/large?size={size}"))
        large.head()
        wire.eventually(lambda: (live := s.live(s.workers()[0]))["held"] == 1 and live["cycles"] == 0, 10, "the answer is the loop's")
        since = len(s.err.lines)
        gil.send(wire.request("GET", "/hold-gil?s=5"))
        s.wait_log("the GIL is held", since=since)
        with s.connect() as waits, s.connect() as wrong:
            waits.send(wire.request("GET", "/sync"))
            wrong.send(b"GET /sync HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            assert wrong.response().status == 400
            large.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            assert large.exactly(size) == b"x" * size
            assert not select.select([gil.sock, waits.sock], [], [], 0)[0], "all that was while the GIL was held"
            assert waits.response().json()["way"] == "direct"
        assert gil.response().body == b"held"


def test_drain(server):
    s = server("direct_django:application", *ONE, env=PLAIN)
    learn(s, "/slow?s=0", "/sync")
    with s.connect() as held, s.connect() as waits:
        held.send(wire.request("GET", "/slow?s=1"))
        cycles_are(s, 1)
        waits.send(wire.request("GET", "/sync"))
        cycles_are(s, 2)
        since = len(s.err.lines)
        s.send_signal(signal.SIGUSR2, s.workers()[0])
        s.wait_log(r"in hand for \d+ s: GET /slow$", since=since)
        s.wait_log(r"in hand for \d+ s: GET /sync$", since=since)
        s.send_signal(signal.SIGTERM)
        assert held.response().body == b"slow" and waits.response().json()["way"] == "direct"
    assert s.wait_exit(20) == 0


def test_quick_end(server):
    s = server("direct_django:application", *ONE, env=PLAIN)
    learn(s, "/slow?s=0", "/sync")
    with s.connect() as held, s.connect() as waits:
        held.send(wire.request("GET", "/slow?s=60"))
        cycles_are(s, 1)
        waits.send(wire.request("GET", "/sync"))
        cycles_are(s, 2)
        assert s.stop(signal.SIGINT, timeout=20) == 0
    assert "GET /slow: left behind, its thread did not end" in s.log


def test_many_at_once(s):
    """All kinds of requests on many connections: each has its own answer."""
    problems = []

    def client(number):
        dice = random.Random(number)
        try:
            with s.connect(timeout=30) as c:
                for i in range(60):
                    kind = dice.randrange(6)
                    if kind == 0:
                        assert c.get("/async", {"X-Mark": f"{number}-{i}"}).json()["mark"] == f"{number}-{i}"
                    elif kind == 1:
                        body = bytes([65 + number]) * dice.choice((10, 3000, 100_000))
                        got = c.request("POST", f"/item/{i}/", {"X-Mark": f"{number}-{i}"}, body).json()
                        assert got["sha256"] == hashlib.sha256(body).hexdigest() and got["mark"] == f"{number}-{i}" and got["kwargs"] == {"n": i}
                    elif kind == 2:
                        assert c.get(f"/stream?n={i}&size=100").body == b"".join(bytes([97 + k % 26]) * 100 for k in range(i))
                    elif kind == 3:
                        assert c.get("/nope").status == 404
                    elif kind == 4:
                        got = c.request("POST", f"/wrong/many-{chr(97 + i % 26)}", {"X-Async": "1", "X-Mark": f"{number}"}, b"abc").json()
                        assert got["on_loop"] and got["mark"] == str(number) and got["size"] == 3
                    else:
                        assert json.loads(c.get("/sync").body)["before"] == "unset"
        except Exception as e:
            problems.append(repr(e))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems
