"""ringcornctl advise: a verdict for each route, with its figures."""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import harness
import pytest
import wire
from slow_server import SlowServer

CTL = harness.BIN.with_name("ringcornctl")
GUILTY = next(n for n, line in enumerate((harness.APPS / "advised.py").read_text().splitlines(), 1) if "guilty: feed" in line)
VIEWS = ("report", "export", "feed", "fast", "orders", "lookups")
APPS = {"fastapi": "advised_fastapi:app", "django": "advised_django:app"}


@pytest.fixture
def slow():
    with SlowServer() as one:
        yield one.address


@pytest.fixture
def advised(server, slow, tmp_path):
    def start(app, *args):
        control = tmp_path / "ctl.sock"
        s = server(app, "--control-socket", control, "--sync-threads", 4, *args, env={"SLOW": slow, "WAIT_MS": "40", "BLOCK_MS": "30"})
        s.control = control
        return s

    return start


def ctl(s, *args):
    command = [str(CTL), "advise", *map(str, args), "--control-socket", str(s.control)]
    r = subprocess.run(command, capture_output=True, text=True, timeout=60, env=harness.environment())
    assert r.returncode == 0, r
    return r.stdout


def advice(s, *args):
    told = json.loads(ctl(s, "--json", *args))["result"]
    return told, {r["route"].lstrip("/"): r for r in told["routes"]}


def place_of(s, path):
    """One step a moment is looked at, and on a busy machine that may come too late."""

    def look():
        ask(s, path, 1)
        return advice(s)[1][path]["place"]

    return wire.eventually(look, 20 * harness.SLOW, "a step was looked at")


def ask(s, path, n, at_once=1):
    """n requests; it is known of all of them when this returns."""
    had = advice(s)[1].get(path, {"requests": 0})["requests"]

    def one(_):
        r = s.get("/" + path, timeout=60)
        assert r.status == 200, r

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(n)))
    wire.eventually(lambda: advice(s)[1].get(path, {}).get("requests") == had + n, 10 * harness.SLOW, "all are counted")


@pytest.mark.parametrize("app", APPS)
def test_six_views(advised, app):
    s = advised(APPS[app])
    for path in VIEWS:
        ask(s, path, 30, 1 if path in ("feed", "lookups") else 3)
    place = place_of(s, "feed")
    # It is a load at which computing hurts: others wait for it.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        later = pool.submit(advice, s, "--seconds", 4)
        while not later.done():
            list(pool.map(s.get, ["/export"] * 3))
    busy = later.result()[1]["export"]
    told, routes = advice(s)
    routes["export"] = busy
    assert {name: routes[name]["verdict"] for name in VIEWS} == {
        "report": "async", "export": "process", "feed": "def", "fast": "keep", "orders": "database", "lookups": "crossings",
    }, json.dumps(told, indent=1)  # fmt: skip
    report, export, feed, fast, orders, lookups = (routes[name] for name in VIEWS)
    assert 0.04 <= report["thread_s"] <= report["request_s"] and report["network_s"] > 0.6 * report["thread_s"]
    assert re.fullmatch(r"/report waits \d+ % of \d+ ms on sockets: make it async, frees [\d.]+ of 4 threads", report["text"]), report
    assert report["gain_of"] == "threads freed" and 0 < report["gain"] <= report["busy_threads"] + 1e-5
    assert 0.02 < export["thread_cpu_s"] < 0.05
    assert re.match(r"/export burns \d+ % CPU, \d+ ms a request: keep it sync, give it a process; ", export["text"]), export
    assert export["gain"] == pytest.approx(1 / export["thread_cpu_s"], rel=0.01)
    # Where others want the CPU a step that blocks nothing is long now and then, too.
    assert feed["requests"] <= feed["long_steps"] < 1.5 * feed["requests"] and 0.03 <= feed["long_step_s"] <= feed["longest_step_s"]
    assert place.endswith(f"advised.py:{GUILTY}")
    assert re.fullmatch(rf"/feed blocks the loop for \d+ ms at \S*advised\.py:{GUILTY}: make it def, .*", feed["text"]), feed
    assert feed["loop_cpu_s"] < 0.3 * feed["loop_s"] and feed["crossings"] == 0
    assert fast["awaits_s"] > 0.001 and fast["loop_s"] < 0.01 and fast["gain"] is None
    assert orders["database_s"] > 0.6 * orders["thread_s"] and orders["text"].startswith("/orders waits ")
    assert lookups["crossings"] in (10, 11) and lookups["gain"] == lookups["crossings"] - 1  # Django's own is the eleventh
    assert [r["route"] for r in told["routes"]] and told["threads"]["slots"] == 4 and told["workers"] == 1
    text = ctl(s)
    for r in told["routes"]:
        assert r["text"].split(":")[0].split(" ")[0] in text
    assert "threads" in text.splitlines()[0]


def test_parts_add_up_to_the_request(advised):
    s = advised(APPS["fastapi"])
    for path in ("report", "fast", "export"):
        ask(s, path, 20, 4)
    for r in advice(s)[1].values():
        on_thread = ("thread_cpu_s", "gil_s", "network_s", "sleep_s", "other_s", "unknown_s")
        assert sum(r[name] for name in on_thread) == pytest.approx(r["thread_s"], rel=0.01, abs=1e-5), r
        parts = sum(r[name] for name in ("queue_s", "thread_s", "loop_s", "loop_gil_s", "awaits_s"))
        assert parts <= r["request_s"] * 1.1 + 0.001, r  # nothing is counted twice


def test_wait_for_a_thread(advised):
    s = advised(APPS["fastapi"], "--sync-threads-max", 4)
    ask(s, "report", 48, 12)
    told, routes = advice(s)
    assert routes["report"]["queue_s"] > 0.02  # eight of twelve wait for others
    assert routes["report"]["crossings"] == pytest.approx(2 if routes["report"]["crossings"] > 1.5 else 1, abs=0.1)  # its result is validated there
    assert 0 < told["threads"]["busy"] <= 4


def test_of_the_seconds_to_come(advised):
    s = advised(APPS["fastapi"])
    ask(s, "report", 25, 4)
    ask(s, "fast", 25)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        told = pool.submit(advice, s, "--seconds", 3)
        while not told.done():
            assert s.get("/fast").status == 200
            time.sleep(0.4)
        told, routes = told.result()
    assert set(routes) == {"fast"} and 0 < routes["fast"]["requests"] < 20 and 3 <= told["seconds"] < 3 + 5 * harness.SLOW
    assert routes["fast"]["verdict"] == "wait" and "not enough seen yet" in routes["fast"]["text"]
    r = subprocess.run([CTL, "advise", "0", "--control-socket", s.control], capture_output=True, text=True, env=harness.environment())
    assert r.returncode == 1 and r.stderr == 'ringcorn: advise: "seconds": from 1 to 3600\n'


def test_nobody_waits_for_it_when_the_server_stops(advised):
    s = advised(APPS["fastapi"])
    command = [str(CTL), "advise", "--seconds", "60", "--control-socket", str(s.control)]
    asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=harness.environment())
    wire.eventually(lambda: "workers" in ctl(s, "--json"), 5, "it answers others meanwhile")
    assert asking.poll() is None
    s.stop()
    out, err = asking.communicate(timeout=20)
    assert asking.returncode == 1 and out == "" and "did not answer" in err


def test_it_survives_its_worker(advised):
    s = advised(APPS["django"])
    ask(s, "feed", 20)
    before = advice(s)[1]["feed"]
    s.expect_errors(r"worker 0 \(pid \d+\) died: signal 9")
    since = len(s.err.lines)
    os.kill(s.workers()[0], signal.SIGKILL)
    s.wait_log(r"worker 0 is ready", since=since, timeout=30)
    assert advice(s)[1]["feed"] == {**before, "busy_cpus": pytest.approx(before["busy_cpus"], abs=1)}
    ask(s, "feed", 1)
    assert advice(s)[1]["feed"]["long_steps"] == before["long_steps"] + 1
    s.baseline()


def test_a_reload_begins_anew(advised):
    """What was advised before may be followed by now."""
    s = advised(APPS["fastapi"])
    ask(s, "feed", 20)
    assert advice(s)[1]["feed"]["verdict"] == "def"
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log(r"reloaded in", since=since, timeout=60)
    wire.eventually(lambda: not advice(s)[0]["routes"], 10 * harness.SLOW, "nothing is known yet")
    ask(s, "fast", 1)
    told, routes = advice(s)
    assert set(routes) == {"fast"} and told["seconds"] < 60
    s.baseline()


@pytest.mark.parametrize("app", APPS)
def test_what_is_def_is_not_to_be_made_def(advised, app):
    """Its answer is what takes the loop, or its dependencies."""
    s = advised(APPS[app])
    ask(s, "large-def", 20)
    row = advice(s)[1]["large-def"]
    assert row["verdict"] != "def", row


def test_two_workers_are_one(advised):
    s = advised(APPS["fastapi"], "-w", 2)
    s.wait_workers(2)
    ask(s, "fast", 30, 4)
    told, routes = advice(s)
    assert (told["workers"], told["threads"]["slots"], routes["fast"]["requests"]) == (2, 8, 30)


@pytest.mark.parametrize(
    "app, path, route",
    [
        ("advised_django:wsgi_app", "/report", "report"), ("flask_app:flask", "/cookies", "/cookies"), ("flask_app:flask", "/nowhere", "other"),
        ("wsgi_raw:app", "/", "other"), ("raw:app", "/", "other"),
    ],
)  # fmt: skip
def test_routes_of_all_kinds(advised, app, path, route):
    s = advised(app, "--interface", "asgi" if app == "raw:app" else "wsgi")
    assert s.get(path).status in (200, 404)
    wire.eventually(lambda: advice(s)[0]["routes"], 10 * harness.SLOW, "it is counted")
    [row] = advice(s)[0]["routes"]
    assert row["route"] == route and row["requests"] == 1 and row["request_s"] > 0 and (row["crossings"] == 1) == (app != "raw:app"), row


def test_a_file_name_is_short(advised):
    s = advised(APPS["django"])
    assert not Path(place_of(s, "feed")).is_absolute()
