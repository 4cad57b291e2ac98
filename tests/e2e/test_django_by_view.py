"""Django's handler served by what the URL leads to, against Django's own in another process: same status, headers, body, same events in the
same order, with the same context variables, on the loop or on a thread alike."""

import base64
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading

import django
import pytest

import harness
import wire

PROJECT = harness.APPS / "django_views"
sys.path.insert(0, str(PROJECT))
import requests_table  # noqa: E402

APP = "views_project.asgi:application"
OF_THE_SERVER = {"date", "server", "transfer-encoding", "connection"}
AUTO, OFF = ("--django-one-hop", "auto"), ("--django-one-hop", "off")
ONE_TRIP = r"sync views run in one trip to a thread, async views on the loop"


def environment(middleware, **settings):
    return {"DJANGO_SETTINGS_MODULE": "views_project.settings", "VIEWS_MIDDLEWARE": middleware, **{f"VIEWS_{k.upper()}": v for k, v in settings.items()}}


@functools.cache
def expected(table, env):
    """What Django's own handler answers, in a loop of asyncio's."""
    out = subprocess.run(
        [sys.executable, "-W", "ignore", PROJECT / "drive.py", table], capture_output=True, text=True, timeout=200 * harness.SLOW,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}, **dict(env), "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-5000:]
    return json.loads(out.stdout)


def plain(headers):
    """What is random, or a time, in cookies is left out."""
    return sorted((k.lower(), re.sub(r"^(sessionid|csrftoken)=[^;]+;.*", r"\1=", v)) for k, v in headers)


def events(trace):
    # A stream's pieces are joined where the client is slower than their iterator.
    return [(what, where == "loop", value) for what, where, value in trace if not what.startswith("http.response.body")]


def start(server, middleware, *options, **settings):
    s = server(APP, "--threads", "2", *options, app_dir=PROJECT, env=environment(middleware, **settings))
    s.allow_descriptors(10)  # threads keep SQLite's
    return s


def fetch_trace(c, at_least):
    """The events of the request before; request_finished may come after the answer."""
    trace = []

    def is_whole():
        trace.extend(c.get("/_trace").json())
        return len(events(trace)) >= at_least

    wire.eventually(is_whole, 5 * harness.SLOW, f"{at_least} events") if at_least else is_whole()
    return trace


def without_counts(headers):
    """What the project's middleware says of how often it was called."""
    return [(k, re.sub(r"^\d+ ", "", v) if k.startswith("x-") else v) for k, v in headers]


def compare(s, table, env, bodies=True, is_first=True):
    """Sends the requests of a table, one after the other. Returns the events of each. is_first: the server has had no others."""
    traces = []
    differences = []

    def known(headers):
        return plain(headers) if is_first else without_counts(plain(headers))

    wanted = expected(table, tuple(env.items()))  # Django alone takes a while: longer, perhaps, than a connection may wait for its first request
    with s.connect(30) as c:
        for request, (status, headers, body, trace) in zip(getattr(requests_table, table), wanted):
            method, target, request_headers, request_body = request
            fails = not isinstance(status, int)  # the exception that came out of the application
            if fails:
                s.expect_errors(re.escape(f"{method} {target.partition('?')[0]}: exception"))
            r = c.request(method, target, {"Host": "testserver", **request_headers}, request_body)
            got = fetch_trace(c, len(events(trace)))
            traces.append(got)
            if status in (204, 304):  # the server sends no length of a body that it does not send
                headers = [(k, v) for k, v in headers if k != "content-length"]
            names = {k for k, _ in headers}
            seen = [(k, v) for k, v in r.headers if k.lower() not in OF_THE_SERVER and (k.lower() != "content-length" or k.lower() in names)]
            same = [
                ("status", 500 if fails else status, r.status),
                ("headers", [] if fails else known(headers), [] if fails else known(seen)),
                ("events", events(trace), events(got)),
            ]
            if bodies and method != "HEAD" and not fails and r.status not in (204, 304):
                same.append(("body", base64.b64decode(body), r.body))
            differences += [f"{method} {target}: {what}: {a!r} != {b!r}" for what, a, b in same if a != b]
    assert not differences, "\n".join(differences[:10]) + f"\n{len(differences)} in all"
    return traces


CASES = [
    ("VIEWS", "none", {}),
    ("VIEWS", "default", {}),
    ("VIEWS", "four", {"receivers": "1", "wrapped": "1"}),
    ("HOOKS", "hooks", {"receivers": "1", "wrapped": "1"}),
    ("LOCALE", "locale", {"receivers": "1"}),
    ("SOME", "hooks", {"receivers": "async"}),
    ("SOME", "both", {"receivers": "1", "wrapped": "1"}),
    ("SOME", "sync_only", {"receivers": "1"}),
    ("SOME", "async_only", {"receivers": "1"}),
    ("SOME", "async_view_hook", {}),
    ("SOME", "unused", {}),
    ("SOME", "four", {"patched": "1", "receivers": "1"}),
    ("SOME", "default", {"atomic": "1"}),
    ("SCRIPT", "four", {"script_name": "/under"}),
    ("SCRIPT", "none", {"static": "1"}),
]


@pytest.mark.parametrize("options", [AUTO, OFF, (*AUTO, "--django-start-hop", "stock")], ids=["auto", "off", "stock_start"])
@pytest.mark.parametrize("table, middleware, settings", CASES, ids=[f"{t}-{m}-{''.join(s)}" for t, m, s in CASES])
def test_as_django_alone(server, table, middleware, settings, options):
    s = start(server, middleware, *options, **settings)
    traces = compare(s, table, environment(middleware, **settings))
    if "off" not in options and "patched" not in settings:
        for request, trace in zip(getattr(requests_table, table), traces):
            threads = {where for _, where, _ in trace} - {"loop"}
            # (Middleware that takes Django's own way has its error pages made elsewhere.)
            assert len(threads) <= 1 or middleware == "sync_only", (request, trace)


DIRECT_CASES = [
    ("VIEWS", "default", {}),
    ("HOOKS", "hooks", {"receivers": "1"}),
    ("LOCALE", "locale", {"receivers": "1"}),
    ("SOME", "both", {"receivers": "async"}),
    ("SOME", "sync_only", {"receivers": "1"}),
    ("SCRIPT", "four", {"script_name": "/under"}),
]


@pytest.mark.parametrize("table, middleware, settings", DIRECT_CASES, ids=[f"{t}-{m}-{''.join(s)}" for t, m, s in DIRECT_CASES])
def test_as_django_alone_again(server, table, middleware, settings):
    """By then the server knows which requests need no task on the loop (test_django_direct.py)."""
    s = start(server, middleware, *AUTO, **settings)
    for i in range(3):
        compare(s, table, environment(middleware, **settings), is_first=i == 0)


def test_debug_pages(server):
    """Their text tells of frames and addresses; the rest is the same."""
    s = start(server, "hooks", *AUTO, debug="1")
    env = environment("hooks", debug="1")
    differences = []
    wanted = expected("HOOKS", tuple(env.items()))
    with s.connect(30) as c:
        for target in ("/sync/", "/raises/value/", "/async/raises/value/", "/raises/404/", "/async/raises/404/", "/async/raises/400/", "/nowhere/"):
            index = [r[1] for r in requests_table.HOOKS].index(target)
            status = wanted[index][0]
            r = c.get(target)
            if r.status != status:
                differences.append((target, r.status, status))
            assert b"ringcorn" not in r.body.lower() or b"segment.py" not in r.body
    assert not differences


@pytest.mark.parametrize(
    "middleware, settings, line",
    [
        ("default", {}, ONE_TRIP),
        ("default", {"wrapped": "1", "static": "1"}, ONE_TRIP),
        ("both", {}, ONE_TRIP),
        ("async_only", {}, ONE_TRIP),
        ("sync_only", {}, r"sync views run in one trip to a thread; async views take Django's own path, as views_project\.middleware\.SyncOnly is sync-only"),
        ("default", {"patched": "1"}, r"its own path is taken for every request, as ASGIHandler\.__call__ has been replaced \(by views_project\.asgi\)"),
    ],
)
def test_a_line_says_which_way(server, middleware, settings, line):
    s = start(server, middleware, *AUTO, **settings)
    assert re.search("Django: " + line, s.log), s.report


def test_off_says_nothing(server):
    s = start(server, "default", *OFF)
    assert "one trip" not in s.log


def test_static_files_beside_views(server):
    s = start(server, "default", *AUTO, static="1")
    assert s.get("/static/plain.css").body == (PROJECT / "views_project/static/plain.css").read_bytes()
    assert s.get("/static/none.css").status == 404
    assert s.get("/sync/").status == 200 and s.get("/async/").status == 200


# ------------------------------------------------------------------ clients that leave, or do not read


def state(s, go_on=False):
    return s.get("/slow/state/" + ("?go_on=1" if go_on else "")).json()


def wait_state(s, wanted):
    wire.eventually(lambda: state(s)["state"] == wanted, 10 * harness.SLOW, wanted)


@pytest.mark.parametrize("middleware", ["four", "hooks", "both"])
def test_client_leaves_an_async_view(server, middleware):
    s = start(server, middleware, *AUTO, receivers="1")
    c = s.connect()
    c.send(wire.request("GET", "/async/slow/"))
    wait_state(s, "running")
    s.get("/_trace")
    c.close()
    wait_state(s, "cancelled")
    assert "request_finished by ASGIHandler" in [what for what, _, _ in s.get("/_trace").json()]


def test_client_leaves_a_sync_view(server):
    """It runs to its end; then its thread serves others."""
    s = start(server, "default", *AUTO, receivers="1")
    c = s.connect()
    c.send(wire.request("GET", "/slow/"))
    wait_state(s, "running")
    s.get("/_trace")
    c.close()
    assert state(s)["state"] == "running"
    state(s, go_on=True)
    wait_state(s, "ended")
    assert s.get("/sync/").status == 200
    names = [what for what, _, _ in s.get("/_trace").json()]
    assert names.index("request_finished by ASGIHandler") < names.index("sync view")


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django looks for a client's leaving from 5.0 on")
def test_client_leaves_while_queued(server):
    """Its view never runs."""
    s = start(server, "none", *AUTO, "--sync-threads", "1")
    busy, gone, waits = s.connect(), s.connect(), s.connect()
    busy.send(wire.request("GET", "/slow/"))
    wait_state(s, "running")
    gone.send(wire.request("GET", "/raises/value/"))
    waits.send(wire.request("GET", "/sync/"))
    # Both are at the server when a request behind them has been answered; async views need no thread.
    state(s)
    s.get("/_trace")
    gone.close()
    wire.eventually(lambda: s.live(s.workers()[0])["cycles"] == 2, 10 * harness.SLOW, "the server has seen it leave")
    state(s, go_on=True)
    assert busy.response().status == 200 and waits.response().status == 200
    names = [what for what, _, _ in s.get("/_trace").json()]
    assert "sync view" in names and "raising" not in names
    busy.close()
    waits.close()


def test_stream_waits_for_its_client(server):
    s = start(server, "default", *AUTO)
    c = s.connect(rcvbuf=4096)
    c.send(wire.request("GET", "/stream/endless/"))
    c.exactly(10_000)
    seen = []

    def stands_still():
        seen.append(state(s)["pieces"])
        return len(seen) > 20 and seen[-1] == seen[-20]

    wire.eventually(stands_still, 20 * harness.SLOW, "the iterator waits")
    assert seen[-1] * 10_000 < 20_000_000
    c.exactly(seen[-1] * 10_000)  # what it was ahead goes to the client, and more is made
    wire.eventually(lambda: state(s)["pieces"] > seen[-1], 10 * harness.SLOW)
    c.close()
    wait_state(s, "ended")


def test_answer_is_closed_though_others_have_all_slots(server):
    """What follows an answer has no client that could come again, so it does not wait for a slot as calls do: for sync.queue_timeout."""
    s = start(server, "default", *AUTO, "--threads", "1", "--sync-threads-max", "3", "--sync-queue-timeout", "200ms")
    stream, busy = s.connect(rcvbuf=4096), s.connect()
    stream.send(wire.request("GET", "/stream/endless/"))
    stream.exactly(10_000)
    busy.send(wire.request("GET", "/slow/"))  # begins when the stream waits for its client
    wire.eventually(lambda: state(s)["begun"] == 1, 20 * harness.SLOW)
    stream.close()
    wire.eventually(lambda: state(s)["closed"] == 1, 5 * harness.SLOW)
    assert state(s, go_on=True)["state"] == "ended"
    assert busy.response().status == 200
    busy.close()


@pytest.mark.parametrize("size", [0, 10])
def test_stream_of_small_pieces_ends_when_its_client_leaves(server, size):
    """Events that come one by one, or nothing at all for now: the thread is free at the next piece."""
    s = start(server, "default", *AUTO)
    for _ in range(3):  # the first from the loop, others from their thread at once
        c = s.connect()
        c.send(wire.request("GET", f"/stream/endless/?size={size}&pause=0.01"))
        wait_state(s, "running")
        c.close()
        wait_state(s, "ended")


@pytest.mark.parametrize("graceful", ["30s", "100ms"])
def test_worker_that_leaves_waits_for_what_follows_an_answer(server, graceful):
    """Nobody waits for close() and request_finished but the worker's end, within the time that requests in hand have."""
    s = start(server, "default", *AUTO, "--timeouts-graceful", graceful)
    assert s.get("/closes/late/?seconds=3").body == b"closes late"
    s.send_signal(signal.SIGTERM)
    assert s.wait_exit() == 0
    is_closed = "closed at last" in s.log
    assert is_closed is (graceful == "30s") and is_closed is not ("did not end, it is left behind" in s.log)


def test_stream_that_fails(server):
    """The client sees that the answer is not whole; what is to be closed is closed."""
    s = start(server, "default", *AUTO, receivers="1")
    s.expect_errors("ValueError: in the middle|/stream/fails/")
    c = s.connect()
    c.send(wire.request("GET", "/stream/fails/"))
    with pytest.raises(wire.Closed):
        c.response()
    wire.eventually(lambda: "request_finished by ASGIHandler" in [what for what, _, _ in s.get("/_trace").json()], 10 * harness.SLOW)


# ------------------------------------------------------------------ many at once


def test_many_at_once(server):
    """Each request has its own context variables, and its own thread."""
    s = start(server, "hooks", *AUTO, "--sync-threads", "3")
    errors = []

    def client(n):
        try:
            with s.connect(60) as c:
                for turn in range(20):
                    kind = ("sync", "async", "async/bridges", "template", "raises/404", "async/waits")[(n + turn) % 6]
                    r = c.get(f"/{kind}/?n={n}")
                    if kind in ("sync", "async"):
                        body = r.json()
                        assert body["value"] == "/Ore/Mre/Ire/Ovi/Mvi/Ivi/view" and body["get"] == {"n": [str(n)]}, body
                    assert r.status == (404 if "404" in kind else 200), (kind, r)
                    assert kind != "async/bridges" or r.json() == {"same thread": True, "on loop": False}
        except Exception as e:  # noqa: BLE001
            errors.append(e)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(24)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(100 * harness.SLOW)
    assert not errors, errors[0]
