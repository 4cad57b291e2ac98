"""services: functions that run beside the site."""

import json
import os
import signal
import time

import pytest

import harness
import wire
from test_control import Control, ctl


@pytest.fixture
def beside(server, tmp_path):
    """beside(services, *options) -> (server, notes, control's path); services: as in YAML."""
    file, socket = tmp_path / "notes", tmp_path / "control.sock"

    def start(services, *options, more="", **kwargs):
        config = f"app: beside:app\ncontrol: {{socket: {socket}}}\nservices: {json.dumps(services)}\n{more}"
        return server(None, *options, config=config, env={"BESIDE": str(file)}, **kwargs), notes, socket

    def notes(name=None):
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [(what, pid) for who, what, pid in lines if name in (None, who)]

    return start


def _told(path, name):
    """What workers tell of a service: {worker: row}."""
    with Control(path) as c:
        return {part["worker"]: row for part in c.ask("services") for row in part.get("services", []) if row["service"] == name}


def _wait(what, why):
    return wire.eventually(what, 20 * harness.SLOW, why)


@pytest.mark.parametrize("function", ["coroutine", "thread"])
def test_one_over_all_workers(beside, function):
    s, notes, path = beside({"bot": f"beside:{function}"}, "--workers", "3")
    s.wait_workers(3)
    _wait(lambda: [row["state"] for row in _told(path, "bot").values()] == ["ready"], "the service")
    [(_, pid)] = notes()
    assert pid in s.workers()
    [(worker, row)] = _told(path, "bot").items()
    assert (row["scope"], row["restarts"], row["last_error"]) == ("one", 0, None)
    with Control(path) as c:
        [told] = c.ask("status")["services"]
    assert told == {"service": "bot", "run": f"beside:{function}", "scope": "one", "worker": worker, "state": "given"}
    assert "bot" in ctl(path, "services").stdout
    s.stop()
    assert notes() == [("begin", pid), ("end", pid)]


@pytest.mark.parametrize("function", ["coroutine", "thread"])
def test_one_in_each_worker(beside, function):
    s, notes, path = beside({"cache": {"run": f"beside:{function}", "scope": "worker"}}, "--workers", "2")
    s.wait_workers(2)
    _wait(lambda: len(notes()) == 2, "both")
    assert sorted(pid for _, pid in notes()) == s.workers()
    assert sorted(_told(path, "cache")) == [0, 1]
    s.stop()
    assert sorted(what for what, _ in notes()) == ["begin", "begin", "end", "end"]


def _alternates(notes):
    """Each instance ended before the next began; returns their processes."""
    pids = [pid for what, pid in notes if what == "begin"]
    assert [what for what, _ in notes] == ["begin", "end"] * (len(notes) // 2) + ["begin"] * (len(notes) % 2)
    assert [pid for what, pid in notes if what == "end"] == pids[: len(notes) // 2]
    return pids


@pytest.mark.parametrize("function", ["coroutine", "thread", "deaf"])
def test_reload_hands_it_on(beside, function):
    s, notes, _ = beside({"deaf" if function == "deaf" else "bot": f"beside:{function}"}, "--workers", "2")
    s.wait_workers(2)
    _wait(notes, "the service")
    for n in range(1, 4):
        since = len(s.err.lines)
        s.send_signal(signal.SIGHUP)
        s.wait_log("reloaded in", since=since)
        _wait(lambda: len(notes()) == 2 * n + 1, "the next instance")
    assert len(set(_alternates(notes()))) == 4


@pytest.mark.parametrize("function", ["coroutine", "thread"])
def test_beside_wsgi(server, tmp_path, function):
    notes = tmp_path / "notes"
    s = server("wsgi_raw:app", "--service", f"bot=beside:{function}", env={"BESIDE": str(notes)})
    _wait(notes.exists, "the service")
    assert s.get("/slow?s=0").status == 200
    s.stop()
    assert [json.loads(line)[1] for line in notes.read_text().splitlines()] == ["begin", "end"]


def test_scaling_down_hands_it_on(beside):
    s, notes, path = beside({"bot": "beside:coroutine", "other": "beside:coroutine"}, "--workers", "2")
    s.wait_workers(2)
    _wait(lambda: len(notes()) == 2, "both")
    [first] = [pid for what, pid in notes("bot")]
    ctl(path, "scale", "1")
    ctl(path, "scale", "0")
    _wait(lambda: not s.workers(), "no workers")
    with Control(path) as c:
        assert [row["state"] for row in c.ask("status")["services"]] == ["waits for a worker"] * 2
    ctl(path, "scale", "1")
    _wait(lambda: notes("bot")[-1][0] == "begin" and notes("other")[-1][0] == "begin", "both again")
    assert _alternates(notes("bot"))[0] == first
    _alternates(notes("other"))


def test_kill_hands_it_on(beside):
    s, notes, _ = beside({"bot": "beside:coroutine"}, "--workers", "2")
    s.expect_errors(r"died: signal 9")
    s.wait_workers(2)
    _wait(notes, "the service")
    for n in range(1, 4):
        holder = notes()[-1][1]
        os.kill(holder, signal.SIGKILL)
        _wait(lambda: len(notes()) == n + 1, "the next instance")
        assert notes()[-1][1] != holder


def test_upgrade_hands_it_on(beside):
    """The next program's workers begin it when this one's have ended, all of them."""
    s, notes, _ = beside({"bot": "beside:coroutine"}, "--workers", "2")
    s.wait_workers(2)
    _wait(notes, "the service")
    s.upgrade()
    _wait(lambda: len(notes()) == 3, "the next instance")
    _alternates(notes())


@pytest.mark.parametrize("function", ["fails", "thread_fails", "leaves"])
def test_failures_are_said_and_it_starts_again(beside, function):
    s, notes, path = beside({"bot": f"beside:{function}"})
    error = "SystemExit: 5" if function == "leaves" else "ValueError: it rains"
    s.expect_errors("service bot: failed")
    _wait(lambda: len(notes()) >= 4, "restarts")
    assert "service bot: failed; it starts again in 0.1 s" in s.log
    assert "service bot: failed; it starts again in 0.4 s" in s.log
    assert "beside.py" in s.log
    row = _told(path, "bot")[0]
    assert row["restarts"] >= 3 and row["last_error"] == error
    assert s.get("/").status == 200


def test_one_that_keeps_failing_has_the_worker_replaced_under_raise(beside):
    s, notes, path = beside({"bot": "beside:fails"}, "--guard-mode", "raise")
    s.expect_errors("service bot: failed")
    s.wait_log("service bot is dead, and guard.mode: raise has the worker replaced")
    _wait(lambda: len({pid for _, pid in notes()}) >= 2, "another worker's")
    assert [pid for _, pid in notes()].count(notes()[0][1]) == 4
    assert s.get("/").status == 200
    s.baseline()


@pytest.mark.parametrize(
    ("function", "restart", "runs"), [("returns", "always", 3), ("returns", "on-failure", 1), ("returns", "never", 1), ("fails", "never", 1), ("fails", "on-failure", 3)]
)
def test_restart(beside, function, restart, runs):
    s, notes, path = beside({"bot": {"run": f"beside:{function}", "restart": restart}})
    if function == "fails":
        s.expect_errors("service bot: failed")
    _wait(lambda: len(notes()) >= runs, "the runs")
    if runs > 1:
        return
    _wait(lambda: _told(path, "bot")[0]["state"] in ("ended", "failed"), "its end")
    with Control(path) as c:
        assert c.ask("status")["services"][0]["state"] == "over"
        c.ask("reload")
        _wait(lambda: len(notes()) == 2, "another in the next generation")
        time.sleep(0.5)
    assert len(notes()) == 2


def test_cancelled_at_graceful(beside):
    s, notes, _ = beside({"stubborn": "beside:stubborn"}, more="timeouts: {graceful: 500ms}\n")
    _wait(notes, "the service")
    s.stop()
    assert [what for what, _ in notes()] == ["begin", "end"]
    assert "service stubborn: has not ended, cancelled" in s.log


@pytest.mark.parametrize("function", ["stubborn_thread", "deaf_thread"])
def test_thread_that_stays_is_named(beside, function):
    s, notes, _ = beside({"late": f"beside:{function}"}, more="timeouts: {graceful: 500ms}\n")
    _wait(notes, "the service")
    s.stop()
    assert "service late: its thread did not end, it is left behind, and is here:" in s.log
    assert "beside.py" in s.log and "time.sleep(3600)" in s.log


def test_requests_go_on_while_it_leaves(beside):
    """What serves requests is not ended before they are answered."""
    s, notes, _ = beside({"bot": "beside:coroutine"})
    _wait(notes, "the service")
    with s.connect() as client:
        client.send(b"GET /slow?s=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        s.send_signal(signal.SIGHUP)
        assert client.response().status == 200
    _wait(lambda: len(notes()) == 3, "the next")
    _alternates(notes())


@pytest.mark.parametrize(
    ("services", "code", "text"),
    [
        ({"bot": "beside:corutine"}, 4, "services: bot: beside:corutine: module 'beside' has no attribute 'corutine'; did you mean 'coroutine'?"),
        ({"bot": "besides:coroutine"}, 4, "services: bot: besides:coroutine: module 'besides' was not found"),
        ({"bot": "beside:takes_too_much"}, 3, "services: bot: beside:takes_too_much is to be called with the service, or without an argument"),
        ({"bot": {"run": "beside:coroutine", "scope": "two"}}, 2, "ringcorn.yaml:3: services: scope: 'two' is wrong; expected one or worker"),
        ({"bot": {"scope": "one"}}, 2, "services: bot: needs a function to run"),
        ({"bot": {"run": "beside"}}, 2, "services: run: 'beside' is not of the form module:function"),
        ({"bot": {"ruin": "beside:coroutine"}}, 2, "services: ruin: no such key; did you mean run?"),
        ({"my bot": "beside:coroutine"}, 2, "services: 'my bot' is no name"),
        ([{"name": "a", "run": "beside:thread"}, "a=beside:thread"], 2, "services: a is there twice"),
        ([{"run": "beside:thread"}], 2, "services: an entry needs a name"),
        (["beside:thread"], 2, "services: 'beside:thread' is wrong; write NAME=MODULE:FUNCTION"),
    ],
)
def test_bad_entries(tmp_path, services, code, text):
    (tmp_path / "ringcorn.yaml").write_text(f"app: beside:app\napp_dir: {harness.APPS}\nservices: {json.dumps(services)}\n")
    for option in ("--bind=127.0.0.1:0", "--check-config"):
        r = harness.run(option, cwd=tmp_path)
        assert r.returncode == code and text in r.stderr, r.stderr


def test_check_config_names_them(tmp_path):
    r = harness.run(
        "beside:app", "--app-dir", harness.APPS, "--service", "bot=beside:coroutine", "--service", "q=beside:thread", "--check-config", cwd=tmp_path
    )
    assert r.returncode == 0
    assert "ringcorn: service bot: beside:coroutine, on the loop of one worker, restart: always" in r.stdout
    assert "ringcorn: service q: beside:thread, on a thread of one worker, restart: always" in r.stdout


def test_bot_answers_everything_once(server, redis_server, tmp_path):
    """tests/apps/bot.py: no message is lost or answered twice, and no two bots run, over kill -9 of its worker and three reloads."""
    for name in redis_server.keys():
        if name.startswith("bot:"):
            redis_server.ask("DEL", name)
    s = server(
        None, "--workers", "2",
        config=f"app: bot:app\ncontrol: {{socket: {tmp_path}/control.sock}}\nservices: {{bot: 'bot:main'}}\n",
        env={"REDIS_URL": redis_server.url},
    )  # fmt: skip
    s.expect_errors("died: signal 9")
    s.wait_workers(2)

    def holder():
        with Control(tmp_path / "control.sock") as c:
            worker = c.ask("status")["services"][0]["worker"]
            return next((w["pid"] for w in c.ask("workers") if w["worker"] == worker and w["state"] == "ready"), None)

    said = 0

    def talk(n):
        nonlocal said
        for _ in range(n):
            assert s.post("/say", f"m{said}".encode()).status == 200
            said += 1

    killed = set()
    for _ in range(3):
        talk(20)
        since = len(s.err.lines)
        s.send_signal(signal.SIGHUP)
        talk(20)
        s.wait_log("reloaded in", since=since)
        talk(20)
        if not killed:
            victim = _wait(holder, "a bot")
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
            redis_server.ask("LPUSH", "bot:said", "while nobody listens")  # past the site, of which a worker is dead
            _wait(lambda: holder() not in (None, victim), "the next bot")
    wanted = {f"m{i}, m{i}!" for i in range(said)} | {"while nobody listens, while nobody listens!"}
    _wait(lambda: set(s.get("/answers").body.decode().splitlines()) >= wanted, "the answers")
    given = s.get("/answers").body.decode().splitlines()
    assert sorted(given) == sorted(wanted)
    assert redis_server.ask("LRANGE", "bot:twice", "0", "-1") == "*0\r\n"
    assert redis_server.ask("LLEN", "bot:in-hand") == ":0\r\n"
