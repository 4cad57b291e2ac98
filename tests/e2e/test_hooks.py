"""hooks.*: functions of the project at turns of a worker's life."""

import json
import os
import signal
import subprocess
import sys

import pytest

import harness
import sink
import wire

ALL = ("post_fork", "when_ready", "on_reload", "worker_exit")


@pytest.fixture
def hooked(server, tmp_path):
    """hooked(*options, hooks=names, fails=name) -> (server, lines): lines() is what the hooks have noted."""
    file = tmp_path / "hooked"

    def start(*options, hooks=ALL, module="hooked", fails="", **kwargs):
        args = [f"--hooks-{name.replace('_', '-')}={module}:{name}" for name in hooks]
        env = {"HOOKED": str(file), "HOOKED_FAILS": fails, **kwargs.pop("env", {})}
        return server("raw:app", *args, *options, env=env, **kwargs), lines

    def lines():
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return start, lines


def _names(lines):
    return [line["hook"] for line in lines]


def test_in_order(hooked):
    """Before the application is imported, before the first request, last."""
    start, lines = hooked
    s, _ = start()
    assert s.get("/").status == 200
    [worker] = s.workers()
    before = {"slot": 0, "pid": worker, "generation": 1, "reason": None}
    assert lines() == [{"hook": "post_fork", **before, "app": False}, {"hook": "when_ready", **before, "app": True}]
    s.stop()
    assert lines()[2:] == [{"hook": "worker_exit", **before, "reason": "stop"}]


def test_reload(hooked):
    """The old worker hears of it, and leaves with the reason."""
    start, lines = hooked
    s, _ = start()
    [old] = s.workers()
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", since=since)
    wire.eventually(lambda: "worker_exit" in _names(lines()), 10 * harness.SLOW, "the old worker's exit")
    of_old = [(line["hook"], line["reason"]) for line in lines() if line["pid"] == old]
    assert of_old == [("post_fork", None), ("when_ready", None), ("on_reload", "reload"), ("worker_exit", "reload")]
    of_new = [(line["hook"], line["generation"]) for line in lines() if line["pid"] != old]
    assert of_new == [("post_fork", 2), ("when_ready", 2)]


def test_reasons(hooked):
    start, lines = hooked
    s, _ = start("--workers", "2", hooks=("worker_exit",))
    s.wait_workers(2)
    s.send_signal(signal.SIGTTOU)
    [worker] = wire.eventually(lambda: len(lines()) == 1 and len(w := s.workers()) == 1 and w, 10 * harness.SLOW, "one worker less")
    os.kill(worker, signal.SIGTERM)
    wire.eventually(lambda: len(lines()) == 2 and worker not in s.workers(), 10 * harness.SLOW, "another in its place")
    s.stop()
    assert [line["reason"] for line in lines()] == ["scale", "recycle", "stop"]


def test_several_functions(hooked, server, tmp_path):
    _, lines = hooked
    server(
        config="app: raw:app\nhooks:\n  when_ready: ['hooked:when_ready', 'hooked:second']\n",
        app=None,
        env={"HOOKED": str(tmp_path / "hooked")},
    )
    assert [line.get("second", False) for line in lines()] == [False, True]


@pytest.mark.parametrize("name", ["post_fork", "when_ready"])
def test_failure_ends_the_start(hooked, name):
    start, lines = hooked
    s, _ = start(fails=name, wait=False)
    s.expect_errors("Traceback", "died: exit code 3")
    assert s.wait_exit() == 3
    assert f"the application did not start: hooks.{name}: hooked:{name} failed: RuntimeError: {name} is not in the mood" in s.log
    assert "Traceback (most recent call last)" in s.log and "hooked.py" in s.log
    # Where the functions were found, the worker leaves as any other.
    assert [(line["hook"], line["reason"]) for line in lines()][-1] == (("post_fork", None) if name == "post_fork" else ("worker_exit", "failed"))


def test_failure_later_is_logged(hooked):
    start, lines = hooked
    s, _ = start(fails="on_reload")
    s.expect_errors("hooks.on_reload: hooked:on_reload: failed")
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log("hooks.on_reload: hooked:on_reload: failed", since=since)
    s.wait_log("reloaded in", since=since)
    wire.eventually(lambda: "RuntimeError: on_reload is not in the mood" in s.log, 10 * harness.SLOW, "the traceback")
    assert s.get("/").status == 200


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ("hooked:when_raedy", 4, "hooks.when_ready: hooked:when_raedy: module 'hooked' has no attribute 'when_raedy'; did you mean 'when_ready'?"),
        ("hoked:when_ready", 4, "hooks.when_ready: hoked:when_ready: module 'hoked' was not found"),
        ("hooked:not_a_function", 3, "hooks.when_ready: hooked:not_a_function is not callable but 'int'"),
        ("broken_import:x", 3, "hooks.when_ready: broken_import:x: importing 'broken_import' failed"),
        ("hooked", 2, "'hooked' is not of the form module:function"),
    ],
)
def test_what_is_not_there(server, spec, code, text):
    s = server("raw:app", f"--hooks-when-ready={spec}", wait=False)
    if code != 2:
        s.expect_errors(f"died: exit code {code}")
    assert s.wait_exit() == code
    assert text in s.log
    r = harness.run("raw:app", "--app-dir", harness.APPS, f"--hooks-when-ready={spec}", "--check-config")
    assert r.returncode == code and text in r.stderr


def test_check_config_names_them():
    r = harness.run("raw:app", "--app-dir", harness.APPS, "--hooks-post-fork=hooked:post_fork", "--check-config")
    assert r.returncode == 0
    assert "ringcorn: hooks.post_fork: hooked:post_fork" in r.stdout.splitlines()


def test_sentry(server):
    """Set up in post_fork, it sees the application's errors; worker_exit sends what is still to be sent."""
    with sink.Sink() as sentry:
        s = server(
            "sentry_app:app", "--hooks-post-fork=sentry_app:start", "--hooks-worker-exit=sentry_app:end",
            env={"SENTRY_DSN": f"http://key@127.0.0.1:{sentry.port}/1"},
        )  # fmt: skip
        s.expect_errors("GET /fail: ")
        assert s.get("/fail").status == 500
        s.stop()
        events = [json.loads(line) for body in sentry.bodies for line in body.splitlines() if b'"exception"' in line]
    [event] = events
    assert event["exception"]["values"][-1]["type"] == "ZeroDivisionError"
    assert event["tags"]["worker"] == "0"


def test_prometheus_multiprocess(server, tmp_path):
    """Gauges of workers that have left do not count any more."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    s = server(
        "prometheus_app:app", "--workers", "2", "--lifespan", "off", "--hooks-worker-exit=prometheus_app:worker_exit",
        env={"PROMETHEUS_MULTIPROC_DIR": str(folder)},
    )  # fmt: skip
    s.wait_workers(2)
    old = s.workers()
    assert s.get("/").status == 200

    def told():
        code = "from prometheus_client import CollectorRegistry, generate_latest, multiprocess as m\n"
        code += "r = CollectorRegistry(); m.MultiProcessCollector(r); print(generate_latest(r).decode())"
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
        text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")

    def alive():
        return sorted(int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db"))

    assert alive() == sorted(old)
    assert float(told()["app_workers"]) == 2
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", since=since)
    wire.eventually(lambda: set(s.workers()).isdisjoint(old) and alive() == sorted(s.workers()), 20 * harness.SLOW, "the old workers' end")
    assert float(told()["app_workers"]) == 2
    assert float(told()["app_requests_total"]) == 1
