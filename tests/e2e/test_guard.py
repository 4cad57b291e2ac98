"""The gallery: each failure is named while it happens, with its request, its file, its line and its cure; and sound applications are not."""

import http.server
import json
import re
import threading
import time

import harness
import pytest

FAILURES = harness.APPS / "gallery_failures.py"
FASTAPI = harness.APPS / "gallery_fastapi.py"
FRAMEWORKS = ("gallery_fastapi:app", "gallery_django:app")
ALARM = r"blocks the event loop|keeps the GIL|never awaited|nobody asked for"
LEFT = r"nobody has seen|outlives its request|was left open|swallows"


def line_of(name, file=FAILURES, word="guilty"):
    [line] = [n for n, text in enumerate(file.read_text().splitlines(), 1) if text.endswith(f"# {word}: {name}")]
    return line


def alarms(server):
    return [line for line in server.err.lines if re.search(f"{ALARM}|{LEFT}", line)]


@pytest.fixture(scope="module")
def slow_site():
    """A site that takes half a second."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(0.5)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}/"
        site.shutdown()
        thread.join()


BLOCKS = {
    "sleeps": (r"in sleeps: time\.sleep\(0\.5\)", r"asyncio\.sleep"),
    "asks_http": (r"in asks_http: requests\.get\(url, timeout=10\)", r"httpx\.AsyncClient"),
    "asks_database": (r"in count_slowly: connection\.execute\(.*\)", r"sync_to_async\(\) or await asyncio\.to_thread"),
    "computes": (r"in computes: .*", r"process"),
}


@pytest.mark.parametrize("app", FRAMEWORKS)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_is_named_while_it_lasts(server, slow_site, app, name):
    s = server(app)
    what, cure = BLOCKS[name]
    query = f"?url={slow_site}" if name == "asks_http" else ""
    line = r"\d+" if name == "computes" else line_of(name)
    with s.connect() as c:
        c.send(f"GET /{name}{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        told = s.wait_log(rf"GET /{name}: blocks the event loop for \d\.\d s at {FAILURES}:({line}) {what}; .*{cure}")
        assert abs(int(told[1]) - line_of(name)) <= 1
        assert c.response().status == 200
    # The same again is counted.
    assert s.get(f"/{name}{query}").status == 200
    assert len(alarms(s)) == 1


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_never_awaited(server, app):
    s = server(app)
    assert s.get("/forgets").status == 200
    s.wait_log(rf"GET /forgets: coroutine send_mail was never awaited.* defined at {FAILURES}:{line_of('forgets')}; write await")
    # From then on it is known who made it.
    since = len(s.err.lines)
    assert s.get("/forgets").status == 200
    s.wait_log(rf"GET /forgets: coroutine send_mail .*, made at {FAILURES}:{line_of('forgets', word='made')} in forgets", since=since)


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_lost_exception(server, app):
    s = server(app)
    s.expected.append("no card to charge")  # a traceback is meant to be there
    assert s.get("/loses").status == 200
    where = rf"{FAILURES}:{line_of('loses')} in charge, made at {FAILURES}:\d+ in loses"
    s.wait_log(rf"GET /loses: task 'charge' \(charge\) ended with ValueError\('no card to charge'\) at {where}, and nobody asked")
    s.wait_log("KeyError: 'card'")  # the whole chain
    s.wait_log("ValueError: no card to charge$")
    assert len(alarms(s)) == 1


# name -> what the line says, after the request
LEFTOVERS = {
    "leaves_behind": r"task 'Task-\d+' \(goes_on\), made at {place} in leaves_behind, outlives its request, as the gather\(\) at {place} in leaves_behind "
    r"had failed with ValueError\('no such card'\); it waits at {file}:\d+ in goes_on; .*ringcorn\.guard\.outlives",
    "fires_and_forgets": r"task 'mail' \(goes_on\), made at {place} in fires_and_forgets, outlives its request; it waits at",
    "fails_twice": r"task 'Task-\d+' \(fails_later\) ended with KeyError\('too late'\) at {file}:{raised} in fails_later after the gather\(\) at {place} "
    r"in fails_twice had failed with ValueError\('no such card'\), and nobody has seen it; use asyncio\.TaskGroup",
    "ignores": r"1 of the 2 results of gather\(\) at {place} in ignores is an exception: ValueError\('no card to charge'\) at .* and nobody has seen it",
    "leaves_open": r"asynchronous generator rows was left open at {place} in leaves_open; it stands at {file}:{stands}, .*contextlib\.aclosing",
    "calls_back": r"callback explode\(\) at .* raised ValueError\('in a callback'\) at {place} in explode",
}


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_what_a_request_leaves_behind(server, app):
    s = server(app)
    s.expected += ["no card to charge", "too late", "in a callback"]
    words = {"file": FAILURES, "raised": line_of("fails_twice", word="raised"), "stands": line_of("leaves_open", word="stands")}
    for name in LEFTOVERS:
        assert s.get(f"/{name}").status == 200
    for name, what in LEFTOVERS.items():
        s.wait_log(f"GET /{name}: {what.format(place=f'{FAILURES}:{line_of(name)}', **words)}")
    # The same again is not said, but hooks are told.
    for name in LEFTOVERS:
        if name != "calls_back":
            assert s.get(f"/{name}").status == 200
    s.wait_log("GET /calls_back")
    assert len([line for line in alarms(s) if re.search(LEFT, line)]) == len(LEFTOVERS) - 1  # what a callback raises is none of these words


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_swallowed_cancellation(server, app):
    s = server(app, "--guard-disconnect-grace", "100ms")
    with s.connect() as c:
        c.send(b"GET /swallows HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
    place = f"{FAILURES}:{line_of('swallows')}"
    s.wait_log(rf"GET /swallows: task '/swallows' \(.*\) swallows CancelledError at {place} in swallows and goes on at line \d+; raise CancelledError")


def test_orphans_are_cancelled_where_that_is_wanted(server):
    s = server("gallery_fastapi:app", "--guard-orphans", "cancel")
    assert s.get("/fires_and_forgets").status == 200
    s.wait_log(r"task 'mail' \(goes_on\), made at .* outlives its request; it waits at .*; it is cancelled; ")
    events = json.loads(s.get("/events").body)
    assert [(e["kind"], e["request"], e["line"]) for e in events] == [("orphan", "GET /fires_and_forgets", line_of("fires_and_forgets"))]


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_raise_answers_500(server, app):
    s = server(app, "--guard-mode", "raise")
    s.expected.append("exception|GuardError|Internal Server Error")  # the framework's traceback, and ours
    assert s.get("/forgets").status == 500
    assert s.get("/loses").status == 500
    assert s.get("/sleeps").status == 200
    s.wait_log("GET /sleeps: blocks the event loop")
    assert s.get("/waits_well").status == 200
    assert s.get("/leaves_a_thread").status == s.get("/leaves_a_file").status == 200
    s.wait_log(rf"GET /leaves_a_file: unclosed file .* at {FAILURES}:{line_of('leaves_a_file')}; close it")
    s.wait_log(rf"GET /leaves_a_thread: thread 'counter', made at {FAILURES}:{line_of('leaves_a_thread')} in leaves_a_thread, outlives its request")


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_what_the_collector_finds_is_not_of_the_request_that_runs(server, app):
    s = server(app, "--guard-mode", "raise")
    assert s.get("/forgets_in_a_ring").status == s.get("/collects").status == 200
    s.wait_log(rf"unknown request: coroutine send_mail was never awaited, .* defined at {FAILURES}:")
    assert len(alarms(s)) == 1


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_off_says_nothing(server, app):
    s = server(app, "--guard-mode", "off")
    assert s.get("/sleeps").status == 200
    assert s.get("/forgets").status == 200
    assert not alarms(s) or "RuntimeWarning" in alarms(s)[0]


@pytest.mark.parametrize("app", FRAMEWORKS)
def test_no_alarm_for_sound_code_and_where_the_author_knows_better(server, app):
    s = server(app)
    for name in ("fetches_all", "starts_a_worker", "waits_well", "knows_better", "knows_better_inside"):
        assert s.get(f"/{name}").status == 200
    assert [line for line in alarms(s) if "RuntimeWarning" not in line] == []


def test_hook_tells_the_same(server):
    s = server("gallery_fastapi:app")
    s.expected.append("no card to charge")
    for name in ("sleeps", "forgets", "loses"):
        s.get(f"/{name}")
    events = json.loads(s.get("/events").body)
    assert [(e["kind"], e["request"]) for e in events] == [
        ("block", "GET /sleeps"), ("unawaited", "GET /forgets"), ("lost", "GET /loses"),
    ]  # fmt: skip
    assert events[0]["line"] == line_of("sleeps")
    assert all(any(e["message"] in line for line in s.err.lines) for e in events)


def test_json_has_the_parts(server):
    s = server("gallery_fastapi:app", "--log-format", "json", "--request-id")
    assert s.get("/sleeps").status == s.get("/forgets").status == 200
    s.wait_log("send_mail was never awaited")
    lines = [json.loads(line) for line in s.err.lines if '"guard":' in line]
    block, unawaited = (line["guard"] for line in lines)
    assert 0.1 <= block.pop("seconds") < 5
    assert block == {
        "kind": "block", "request": "GET /sleeps", "file": str(FAILURES), "line": line_of("sleeps"), "function": "sleeps",
        "cure": "use await asyncio.sleep()",
    }  # fmt: skip
    assert (unawaited["kind"], unawaited["request"], unawaited["file"]) == ("unawaited", "GET /forgets", str(FAILURES))
    assert all(line["request_id"] and line["level"] == "warning" for line in lines)


def test_a_raw_request_in_its_first_step_and_later(server):
    s = server("gallery_fastapi:hidden")
    s.get("/first")
    s.wait_log(rf"GET /first: blocks the event loop for 0\.\d s at {FASTAPI}:{line_of('raw', FASTAPI)} in hidden: time\.sleep")
    s2 = server("gallery_fastapi:hidden")
    s2.get("/later")
    s2.wait_log(r"GET /later: blocks the event loop")


def test_timer_and_lifespan(server):
    s = server("gallery_fastapi:app", env={"GALLERY_START": "1"})
    s.wait_log(rf"lifespan: blocks the event loop for 1\.\d s at {FASTAPI}:{line_of('lifespan', FASTAPI)}|lifespan: still blocks")
    s.get("/timer")
    s.wait_log(rf"GET /timer: blocks the event loop for 0\.\d s at {FASTAPI}:{line_of('timer', FASTAPI)} in ")


def test_c_code_that_keeps_the_gil(server):
    s = server("gallery_fastapi:app")
    assert s.get("/extension").status == 200
    s.wait_log(r"the event loop is blocked for 1\.\d s by C code that keeps the GIL")
    s.wait_log(rf"GET /extension: blocks the event loop for 1\.\d s at {FASTAPI}:{line_of('extension', FASTAPI)} in extension: KEEPS_GIL")


def test_a_thread_that_keeps_the_gil_is_named(server):
    s = server("gallery_fastapi:app")
    assert s.get("/cruncher").status == 200
    s.wait_log(r"thread 'cruncher' keeps the GIL, and the event loop has waited for it for \d\.\d s")


def test_blocks_by_culprit(server, tmp_path):
    control = tmp_path / "control.sock"
    s = server("gallery_fastapi:app", "--control-socket", control, "--metrics")
    for _ in range(3):
        s.get("/sleeps")
    s.get("/computes")
    out = harness.subprocess.run(
        [harness.BIN.with_name("ringcornctl"), "blocks", "--json", "--control-socket", control],
        capture_output=True, text=True, timeout=60, env=harness.environment(),
    )  # fmt: skip
    [worker] = json.loads(out.stdout)["result"]
    assert [row["total_s"] for row in worker["blocks"]] == sorted((row["total_s"] for row in worker["blocks"]), reverse=True)
    [first] = [row for row in worker["blocks"] if row["place"] == f"{FAILURES}:{line_of('sleeps')}"]
    assert (first["count"], first["last_request"]) == (3, "GET /sleeps")
    assert 1.4 < first["total_s"] < 30 and 0.4 < first["longest_s"]
    metrics = s.get("/metrics").body.decode()
    assert float(re.search(r'ringcorn_guard_events_total{worker="0",kind="block"} (\S+)', metrics)[1]) >= 3
    assert float(re.search(r'ringcorn_loop_block_max_seconds{worker="0"} (\S+)', metrics)[1]) > 0.4


def test_stopped_process_is_no_block(server):
    s = server("gallery_fastapi:app")
    [worker] = s.workers()
    with s.connect() as c:
        for _ in range(3):
            s.send_signal(harness.signal.SIGSTOP, worker)
            time.sleep(0.4)
            s.send_signal(harness.signal.SIGCONT, worker)
            assert c.request("GET", "/events").status == 200
    assert not alarms(s)


def test_reload_raises_unless_told_otherwise():
    for options, mode in ([], "warn"), (["--reload"], "raise"), (["--reload", "--guard-mode", "warn"], "warn"):
        shown = harness.run(*options, "--print-config", "raw:app").stdout
        assert f"guard:\n  mode: {mode}\n" in shown
