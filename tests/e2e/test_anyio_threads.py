"""FastAPI and Starlette through AnyIO on the pool's threads: what runs where, what is seen there, and what stays as it was."""

import collections
import hashlib
import os
import queue
import socket
import threading
import time

import pytest

import wire
from harness import APPS

APP = "fastapi_threads:app"
BEHIND = "fastapi_threads:behind"  # BaseHTTPMiddleware brings cancel scopes and tasks of its own
SLACK = 4  # temporary files, the database


@pytest.fixture
def start(server):
    def start(app, *args, **options):
        s = server(app, *args, shared=True, **options)
        s.allow_descriptors(SLACK)
        return s

    return start


def drive(s, targets, clients, timeout=60):
    """Every target once, by so many clients at once on connections they keep; {status: n} and the answers by target."""
    todo = queue.SimpleQueue()
    for target in targets:
        todo.put(target)
    statuses, answers, problems = collections.Counter(), {}, []

    def client():
        try:
            with s.connect(timeout) as c:
                while True:
                    try:
                        target = todo.get_nowait()
                    except queue.Empty:
                        return
                    answers[target] = r = c.get(target)
                    statuses[r.status] += 1
        except Exception as e:
            problems.append(e)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    return dict(statuses), answers


def report(s, path="/report"):
    """Once background tasks and ends of dependencies have run."""
    return wire.eventually(lambda: (found := s.get(path).json()) and not found["pending"] and found, 20, "the ends of all requests")


# ------------------------------------------------------------------ one request, one thread


@pytest.mark.parametrize("app", [APP, BEHIND])
def test_a_request_has_one_thread(start, app):
    s = start(app)
    statuses, answers = drive(s, [f"/work/{n}" for n in range(300)], 32)
    assert statuses == {200: 300}
    assert all(r.json() == {"n": int(target[6:]), "rows": 0, "user": int(target[6:])} for target, r in answers.items())
    found = report(s)
    threads = found.pop("threads")
    assert found == {
        "pending": 0, "requests": 300, "split": 0, "exits_elsewhere": 0, "background_elsewhere": 0, "sqlite_errors": 0, "wrong_user": 0,
    }  # fmt: skip
    assert threads <= 40


def test_few_threads_are_enough(start):
    """As many as configured, and not one more, though more requests come at once."""
    s = start(APP, "--sync-threads", 5)
    assert s.get("/limiter").json() == {"tokens": 5}
    statuses, _ = drive(s, [f"/work/{n}" for n in range(200)], 32)
    assert statuses == {200: 200}
    found = report(s)
    assert found["threads"] <= 5, found
    assert found["split"] == found["exits_elsewhere"] == found["background_elsewhere"] == found["sqlite_errors"] == found["wrong_user"] == 0


def test_threads_are_named(start):
    assert start(APP).get("/names").json()["thread"].startswith("ringcorn-sync")
    assert start(APP, "--anyio-threads", "stock").get("/names").json()["thread"] == "AnyIO worker thread"


def test_stock_honours_the_limiter(start):
    s = start(APP, "--anyio-threads", "stock", "--sync-threads", 3)
    assert s.get("/limiter").json() == {"tokens": 3}
    statuses, _ = drive(s, [f"/counted?{n}" for n in range(120)], 16)
    assert statuses == {200: 120}
    assert s.get("/most").json()["most"] in (3, 4)  # AnyIO's before 4.5 lets one too many through now and then


def test_the_number_of_threads_is_the_limit(start):
    s = start(APP, "--sync-threads", 3)
    statuses, _ = drive(s, [f"/counted?{n}" for n in range(120)], 16)
    assert statuses == {200: 120} and s.get("/most").json() == {"now": 0, "most": 3}


# ------------------------------------------------------------------ as ever


@pytest.fixture(params=["auto", "stock"])
def either(request, start):
    return start(APP, "--anyio-threads", request.param, "--sync-threads", 8)


def test_from_thread(either):
    r = either.get("/from_thread?x=5").json()
    assert r["there"] == [5, r["loop"], "endpoint"] and r["here"] != r["loop"] and r["mark"] == "endpoint"
    assert r["nested"] == [3, 2, 1, 0]
    r = either.get("/portal").json()
    assert r["there"][0] == 1 and r["there"][1] not in (r["here"], None)


def test_many_nested_calls_at_once(start):
    """More requests than threads, each waiting in a thread for calls in threads."""
    s = start(APP, "--sync-threads", 8)
    statuses, answers = drive(s, [f"/from_thread?x={n}" for n in range(60)], 30)
    assert statuses == {200: 60}
    assert all(r.json()["nested"] == [3, 2, 1, 0] for r in answers.values())


def test_calls_that_wait_for_the_loop_keep_no_slot(start):
    """Three slots, and ten requests that each wait for the others."""
    s = start(APP, "--sync-threads", 3)
    assert drive(s, [f"/meet/all?n=10&{n}" for n in range(10)], 10)[0] == {200: 10}
    assert drive(s, [f"/counted?{n}" for n in range(30)], 10)[0] == {200: 30}
    assert s.get("/most").json()["most"] <= 3


@pytest.mark.parametrize("how", ["limiter", "executor"])
def test_limiters_and_executors_of_the_application_are_its_own(either, how):
    """More calls at once than threads of ours."""
    assert drive(either, [f"/own/{how}?n=12&{n}" for n in range(12)], 12)[0] == {200: 12}


def test_contexts(either):
    assert either.get("/contexts").json() == {"seen": "request", "after": "request"}


def test_parallel_calls_of_a_request(either):
    assert either.get("/parallel?n=6").json() == {"ok": True}


@pytest.mark.parametrize("size", [1, 60_000])
def test_a_stream_from_a_sync_iterator(either, size):
    r = either.get(f"/stream?n=200&size={size}", timeout=30)
    assert r.status == 200 and r.body == b"".join(bytes([i]) * size for i in range(200))


def test_a_stream_is_pulled_on_the_thread_of_its_request(start):
    s = start(APP)
    for _ in range(5):
        assert len(s.get("/stream?n=50&size=100").body) == 5000
        assert s.get("/last_stream").json() == {"pulled": 50, "threads": 1}


def test_a_stream_nobody_reads_ends(either):
    before = either.events()["events"].count("stream ended")
    with either.connect() as c:
        c.send(wire.request("GET", "/stream?n=100000&size=60000"))
        assert c.sock.recv(1000)

    def has_ended():
        either.get("/names")  # AnyIO's older threads keep their last call until the next one
        return either.events()["events"].count("stream ended") > before

    wire.eventually(has_ended, 20, "the stream's end")


def test_a_client_that_leaves_a_task_group_is_no_error(server):
    s = server(APP)
    s.allow_descriptors(SLACK)
    with s.connect() as c:
        c.send(wire.request("GET", "/group"))
        assert c.sock.recv(1000)
    s.wait_event("events", "group ended")


@pytest.mark.parametrize("path", ["/upload", "/aupload"])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_uploads(either, path, size):
    data = os.urandom(size)
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + data + b"\r\n--b--\r\n"
    r = either.post(path, body, {"Content-Type": "multipart/form-data; boundary=b"}, timeout=30)
    assert r.status == 200, r
    assert r.json() == {"size": size, "sha256": hashlib.sha256(data).hexdigest()}


# ------------------------------------------------------------------ clients that leave


@pytest.mark.parametrize("threads", ["auto", "stock"])
def test_a_client_that_leaves_a_running_call(server, threads):
    s = server(APP, "--anyio-threads", threads, "--sync-threads", 2)
    s.allow_descriptors(SLACK)
    with s.connect() as c:
        c.send(wire.request("GET", "/gate/one"))
        s.wait_event("events", "one began")
    s.wait_event("events", "one left")
    assert "one returned" not in s.events()["events"], "it is shielded"
    s.get("/open/one")
    s.wait_event("events", "one CancelledError")
    assert s.events()["events"].split("\n") == ["one came", "one began", "one left", "one ended", "one returned", "one CancelledError"]


@pytest.mark.parametrize("threads", ["auto", "stock"])
def test_a_client_that_leaves_the_queue(server, threads):
    """Its call is never made, and the others go on."""
    s = server(APP, "--anyio-threads", threads, "--sync-threads", 2)
    s.allow_descriptors(SLACK)
    with s.connect() as a, s.connect() as b:
        for c, name in ((a, "a"), (b, "b")):
            c.send(wire.request("GET", f"/gate/{name}"))
            s.wait_event("events", f"{name} began")
        with s.connect() as c:
            c.send(wire.request("GET", "/gate/late"))
            s.wait_event("events", "late came")
        s.wait_event("events", "late CancelledError")
        s.get("/open/a"), s.get("/open/b")
        assert a.response().json() == b.response().json() == {"ok": True}
    assert drive(s, [f"/counted?{n}" for n in range(20)], 5)[0] == {200: 20}
    assert "late began" not in s.events()["events"]


@pytest.mark.parametrize("threads", ["auto", "stock"])
def test_streams_that_do_not_end_starve_nobody(server, threads):
    """Each has had a thread for its dependency, and there are more of them than there may be threads."""
    s = server(APP, "--anyio-threads", threads, "--sync-threads", 2, "--sync-threads-max", 6)
    s.allow_descriptors(SLACK)
    clients = [s.connect() for _ in range(20)]
    try:
        for c in clients:
            c.send(wire.request("GET", "/news"))
        for c in clients:
            wire.eventually(lambda: b"first" in c.sock.recv(1000, socket.MSG_PEEK), 20, "the first piece")
        for _ in range(5):
            assert s.get("/names").status == 200
        assert drive(s, [f"/counted?{n}" for n in range(30)], 10)[0] == {200: 30}
    finally:
        for c in clients:
            c.close()
    s.wait_event("events", "(?s)" + "news ended.*" * 20)


def test_too_many_requests(server):
    """No slot for too long: 503, and the server goes on."""
    s = server(APP, "--sync-threads", 2, "--sync-queue-timeout", "0.3s")
    s.allow_descriptors(SLACK)
    s.expect_errors("no thread was free, the answer is 503")
    with s.connect() as a, s.connect() as b:
        for c, name in ((a, "a"), (b, "b")):
            c.send(wire.request("GET", f"/gate/{name}"))
            s.wait_event("events", f"{name} began")
        r = s.get("/names")
        assert r.status == 503 and r.get("Retry-After")
        s.get("/open/a"), s.get("/open/b")
        assert a.response().status == b.response().status == 200
    assert s.get("/names").status == 200


# ------------------------------------------------------------------ side by side


@pytest.mark.alone
def test_reads_of_the_second_set_run_side_by_side(start):
    s = start(APP, "--sync-threads", 2)
    gathered, one_by_one = (s.get(f"/reads?n=20&seconds=0.05&how={how}", timeout=30).json() for how in ("gathered", "sequence"))
    assert all(name.startswith("ringcorn-executor") for name in gathered["threads"])
    assert len(gathered["threads"]) > 4 and one_by_one["threads"]
    assert gathered["seconds"] < one_by_one["seconds"] / 4


@pytest.mark.alone
def test_forty_clients_that_wait(start):
    """The default: forty calls at once, as AnyIO has it."""
    s = start(APP)
    s.get("/wait?seconds=0.01")
    seconds = {}
    for clients in (1, 40):
        began = time.monotonic()
        assert drive(s, [f"/wait?seconds=1&{n}" for n in range(clients)], clients)[0] == {200: clients}
        seconds[clients] = time.monotonic() - began
    assert seconds[40] < 3 * seconds[1]


# ------------------------------------------------------------------ what does not count as a call


LAZY = '''
import sys, threading

assert "anyio" not in sys.modules

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    import anyio.to_thread
    names = [await anyio.to_thread.run_sync(lambda: threading.current_thread().name) for _ in range(2)]
    tokens = anyio.to_thread.current_default_thread_limiter().total_tokens
    body = f"{names[0]},{names[1]},{tokens}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
'''


@pytest.mark.parametrize("threads", ["auto", "stock"])
def test_anyio_imported_by_a_request(server, tmp_path, threads):
    """The request that imports it is served by AnyIO's own threads, the next ones by ours."""
    (tmp_path / "lazy_anyio.py").write_text(LAZY)
    s = server("lazy_anyio:app", "--anyio-threads", threads, "--sync-threads", 6, app_dir=tmp_path)
    assert s.get("/").status == 200
    name = "ringcorn-sync" if threads == "auto" else "AnyIO worker thread"

    def adapted():
        first, second, tokens = s.get("/").text.split(",")
        return first == second and first.startswith(name) and tokens == "6"

    wire.eventually(adapted, 10, "AnyIO on our threads")


LIMITS = '''
from contextlib import asynccontextmanager
import anyio.to_thread
from fastapi_threads import app

@asynccontextmanager
async def lifespan(app):
    anyio.to_thread.current_default_thread_limiter().total_tokens = {tokens}
    yield

app.router.lifespan_context = lifespan
'''


@pytest.mark.parametrize("tokens", [2, 20, 70])
def test_a_limit_that_the_application_sets(server, tmp_path, tokens):
    (tmp_path / "limits.py").write_text(LIMITS.replace("{tokens}", str(tokens)))
    s = server("limits:app", "--sync-threads", 4, "--python-path", APPS, app_dir=tmp_path)
    s.allow_descriptors(SLACK)
    assert drive(s, [f"/counted?{n}" for n in range(120)], 32)[0] == {200: 120}
    most = s.get("/most").json()["most"]
    assert most <= tokens and (tokens == 2 or most > 4)
    assert ("sync.threads is 2 from now on" in s.log) == (tokens == 2)
    assert ("sync.threads is 20 from now on" in s.log) == (tokens == 20)
    assert ("threads to 70, above sync.threads_max (64)" in s.log) == (tokens == 70)
    assert s.get("/names").json()["thread"].startswith("ringcorn-sync" if tokens < 64 else "AnyIO")
