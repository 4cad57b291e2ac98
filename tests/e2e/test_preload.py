"""preload: a process imports the application once and forks the workers, which are the master's as ever."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import certs
import pytest

import harness
import wire
from load import Load, group

STRESS = Path(__file__).resolve().parents[1] / "stress"
STAYS = r"preload: process \d+, which forks workers, died: signal 9 \(KILL\); the workers go on, and another imports it"


@pytest.fixture
def preloaded(server, tmp_path):
    """preloaded(*options, workers=n) -> (server, imports): imports() are the pids of those who have imported the application."""
    file = tmp_path / "imported"

    def start(*args, workers=2, app="preloaded:app", leaves="", mib=1, preload=True, **options):
        env = {"IMPORTED": str(file), "LEAVES": leaves, "BALLAST_MIB": mib, **options.pop("env", {})}
        args = (*(("--preload",) if preload else ()), "-w", workers, *args)
        s = server(app, *args, env=env, **options)
        if options.get("wait", True):
            s.wait_workers(workers)
        return s, lambda: [int(pid) for pid in file.read_text().split()] if file.exists() else []

    return start


def all_of(s, n):
    """What each of n workers answers, by its pid."""
    found = {}

    def ask():
        answer = s.get("/").json()
        found[answer["pid"]] = answer
        return len(found) == n and found

    return wire.eventually(ask, 20 * harness.SLOW, f"answers of {n} workers")


def reload(s, n=2):
    since, old = len(s.err.lines), s.workers()
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", 30, since)
    wire.eventually(lambda: len(s.workers()) == n and not set(old) & set(s.workers()), 10 * harness.SLOW, "new workers only")
    wire.eventually(lambda: len(s.preloads()) == 1, 10 * harness.SLOW, "the old process is gone")


def test_imported_once_and_shared(preloaded):
    """Two workers have 32 MiB of the application between them; without preload each has its own."""
    s, imports = preloaded(mib=32)
    [importer] = s.preloads()
    answers = all_of(s, 2)
    assert imports() == [importer]
    for pid, answer in answers.items():
        assert pid in s.workers() and answer["parent"] == s.pid and answer["imported_by"] == importer
        assert answer["forks"][-2:] == ["before", "child"] and answer["main"] is True and answer["thread"].startswith("ringcorn-executor")
    assert len({answer["random"] for answer in answers.values()}) == 2
    line = s.wait_log(r"preload: this worker shares ([\d.]+) MiB of memory .*, and has ([\d.]+) MiB of its own")
    assert float(line[1]) > 32
    s.stop()
    alone, _ = preloaded(mib=32, preload=False)
    assert alone.preloads() == []
    own = min(answer["memory"]["Private_Dirty"] for answer in all_of(alone, 2).values())
    most = max(answer["memory"]["Private_Dirty"] for answer in answers.values())
    assert most + 30 * 1024 < own
    assert max(a["memory"]["Pss"] for a in answers.values()) + 15 * 1024 < min(a["memory"]["Pss"] for a in all_of(alone, 2).values())


def test_reload_imports_anew_and_a_broken_edit_keeps_the_old(preloaded, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    source = (harness.APPS / "preloaded.py").read_text()
    (site / "edited.py").write_text(source)
    s, imports = preloaded(app="edited:app", app_dir=site)
    old, first = s.workers(), s.preloads()
    (site / "edited.py").write_text("import no_such_module_anywhere\n" + source)
    s.expect_errors("preload: process .* died: exit code 3", "reload: the new worker did not start")
    s.send_signal(signal.SIGHUP)
    s.wait_log(r"reload: the new worker did not start \(exit code 3\); the old workers and their configuration stay")
    assert "No module named 'no_such_module_anywhere'" in s.log
    assert s.workers() == old and s.preloads() == first and imports() == first
    (site / "edited.py").write_text("# repaired\n" + source)
    reload(s)
    assert len(imports()) == 2 and s.preloads() == imports()[1:]
    assert {answer["imported_by"] for answer in all_of(s, 2).values()} == set(s.preloads())
    s.settle()


def test_deaths(preloaded):
    """A worker that is killed comes back without an import; the process that forks them is made anew, and they do not notice."""
    s, imports = preloaded()
    [importer], old = s.preloads(), s.workers()
    s.expect_errors(r"worker \d \(pid \d+\) died: signal 9 \(KILL\); not by the master", STAYS)
    os.kill(old[0], signal.SIGKILL)
    wire.eventually(lambda: len(s.workers()) == 2 and old[0] not in s.workers(), 10 * harness.SLOW, "another worker")
    all_of(s, 2)
    assert imports() == [importer]
    workers = s.workers()
    os.kill(importer, signal.SIGKILL)
    s.wait_log(STAYS)
    wire.eventually(lambda: len(imports()) == 2 and s.preloads() == imports()[1:], 20 * harness.SLOW, "another import")
    assert s.workers() == workers
    os.kill(workers[0], signal.SIGTERM)
    wire.eventually(lambda: len(s.workers()) == 2 and workers[0] not in s.workers(), 10 * harness.SLOW, "its successor")
    wire.eventually(lambda: {a["imported_by"] for a in all_of(s, 2).values()} == set(imports()), 10 * harness.SLOW, "one of each")
    assert len(imports()) == 2
    s.settle()


def test_a_worker_that_is_ready_before_it_is_known(preloaded, tmp_path):
    """The master is so late that it hears of a worker's pid and of its readiness at once."""
    s, _ = preloaded(leaves="slow-fork", workers=1)
    forks, [old], ready = tmp_path / "imported.forks", s.workers(), s.log.count("worker 0 is ready")
    forks.unlink()
    os.kill(old, signal.SIGTERM)
    wire.eventually(forks.exists, 10 * harness.SLOW, "an order to fork")
    s.send_signal(signal.SIGSTOP)
    try:
        wire.eventually(lambda: len(s.workers()) == 2, 10 * harness.SLOW, "its successor")
        [new] = set(s.workers()) - {old}
        time.sleep(1)  # it is ready in less
    finally:
        s.send_signal(signal.SIGCONT)
    wire.eventually(lambda: s.workers() == [new], 10 * harness.SLOW, "the successor alone")
    assert s.log.count("worker 0 is ready") == ready + 1 and s.get("/").json()["pid"] == new
    s.settle()


def test_a_crash_is_reported_as_ever(preloaded):
    if harness.SANITIZED:
        pytest.skip("the sanitizer's report takes its place")
    s, _ = preloaded(workers=1)
    s.expect_errors("died: signal 11", "Fatal Python error")
    with s.connect() as c, pytest.raises((ConnectionError, wire.Closed, AssertionError)):
        c.request("GET", "/crash")
    s.wait_log(r"worker 0 crashes by signal 11 \(SEGV\) in thread")
    wire.eventually(lambda: re.search(r"in hand for \d+ s: GET /crash", s.log), 5 * harness.SLOW, "the request")
    assert "preloaded.py" in s.log
    wire.eventually(lambda: s.log.count("worker 0 is ready") == 2, 10 * harness.SLOW, "another worker")
    assert s.get("/").status == 200
    s.settle()


def test_upgrade(preloaded):
    s, imports = preloaded()
    old = s.workers()
    s.upgrade()
    wire.eventually(lambda: not set(old) & set(s.workers()) and len(s.workers()) == 2, 10 * harness.SLOW, "new workers")
    assert len(imports()) == 2 and s.preloads() == imports()[1:]
    assert all(answer["parent"] == s.pid for answer in all_of(s, 2).values())
    s.settle()


def test_recycling_fails_no_request(preloaded):
    s, imports = preloaded("--max-requests", 20, "--import-first", "preloaded", app="apps:app", app_dir=STRESS, env={"PYTHONPATH": harness.APPS})
    with Load(s.address, [group("keep", 4, ["/instant"], pause=0.01), group("close", 2, ["/instant"], pause=0.01)]) as load:
        wire.eventually(lambda: s.log.count("(recycle.max_requests); another takes its place") >= 3, 60 * harness.SLOW, "workers of a short life")
        tally = load.stop()
    assert tally.failed == 0, f"{tally.reasons()}\n{tally.failures[:5]}\n{s.log}"
    assert len(imports()) == 1
    s.held = {}


def test_scaling(preloaded):
    s, imports = preloaded(workers=1)
    for n in (2, 3):
        s.send_signal(signal.SIGTTIN)
        s.wait_log(f"worker {n - 1} is ready")
    s.send_signal(signal.SIGTTOU)
    wire.eventually(lambda: len(s.workers()) == 2, 10 * harness.SLOW, "one worker less")
    assert len(imports()) == 1
    s.allow_descriptors(10)


def test_hooks_services_and_ringcornctl(preloaded, tmp_path):
    control = tmp_path / "ctl.sock"
    s, imports = preloaded("--hooks-post-fork=preloaded:post_fork", "--service", "bot=preloaded:beside", "--control-socket", control)
    lines = [line.split() for line in (tmp_path / "imported.hooks").read_text().splitlines()]
    assert sorted(line[:2] for line in lines) == [["post_fork", "0"], ["post_fork", "1"]]
    assert {int(line[2]) for line in lines} == {int(line[3]) for line in lines} == set(s.workers())
    assert {line[4] for line in lines} == {"1"} and imports() == s.preloads()

    def ask(command):
        r = subprocess.run(
            [harness.BIN.with_name("ringcornctl"), command, "--json", "--control-socket", control],
            capture_output=True, text=True, env=harness.environment(),
        )  # fmt: skip
        return json.loads(r.stdout)["result"]

    status = ask("status")
    assert status["preload"]["pid"] == imports()[0] and status["preload"]["state"] == "ready"
    assert sorted(worker["pid"] for worker in status["workers"]) == s.workers()
    wire.eventually(lambda: "ready" in json.dumps(ask("services")), 10 * harness.SLOW, "the service")
    s.allow_descriptors(2)


def test_wsgi(preloaded):
    s, imports = preloaded(app="preloaded:wsgi", workers=1)
    assert s.get("/").text.split() == [str(s.workers()[0]), str(imports()[0])]


def test_django(server):
    """The handler is found though it is frozen."""
    s = server("direct_django:application", "--preload")
    assert s.get("/").status < 500
    assert "Django: sync views run in one trip to a thread" in s.log


LEFT = {
    "thread": r"has started thread 'early-bird' while it was imported",
    "socket": r"has left a connection to 127\.0\.0\.1:\d+ open while it was imported",
    "loop": r"has asked for an event loop while it was imported",
    "epoll": r"has left an epoll open while it was imported",
    "django": r"has connected to database 'default' while it was imported .*: that connection was closed",
    "sqlalchemy": r"SQLAlchemy engine preloaded\.engine \(sqlite:.*\): 1 connections that the import has opened were closed",
}


def test_check_config_says_what_an_import_leaves_open(tmp_path):
    """All at once, but for the event loop, whose epoll would be one more."""
    for leaves in ("thread socket epoll django sqlalchemy", "loop"):
        env = {"IMPORTED": str(tmp_path / "checked"), "LEAVES": leaves}
        r = harness.run("preloaded:app", "--app-dir", harness.APPS, "--preload", "--check-config", env=env)
        assert r.returncode == 0 and "preload: it is imported once for all workers" in r.stdout, r.stdout + r.stderr
        said = [line for line in r.stdout.splitlines() if line.startswith("ringcorn: warning: preload: ")]
        assert len(said) == len(leaves.split()), said
        for name in leaves.split():
            assert sum(re.search(LEFT[name], line) is not None for line in said) == 1, (name, said)


def test_what_an_import_leaves_open_is_said(preloaded):
    s, _ = preloaded(leaves="thread django sqlalchemy")
    for name in ("thread", "django", "sqlalchemy"):
        assert len(re.findall("warning: preload: .*" + LEFT[name], s.log)) == 1
    all_of(s, 2)


def test_nothing_is_said_without_need(preloaded):
    s, _ = preloaded(workers=1)
    assert "warning: preload" not in s.log


def test_an_import_that_fails(preloaded):
    s, _ = preloaded(leaves="fail", wait=False)
    s.expect_errors("preload: process .*, which imports the application, died: exit code 3")
    assert s.wait_exit() == 3
    assert "RuntimeError: not today" in s.log and "worker 0 could not start (exit code 3); its error is above" in s.log
    r = harness.run("preloaded:nope", "--app-dir", harness.APPS, "--preload", "--bind", "127.0.0.1:0", env={"IMPORTED": os.devnull})
    assert r.returncode == 4 and "has no attribute 'nope'" in r.stderr


def test_an_import_that_hangs(preloaded):
    s, _ = preloaded("--timeouts-startup", "1", leaves="hang", workers=1, wait=False)
    s.expect_errors("has not imported the application after", "died: signal 9")
    s.wait_log(r"preload: process \d+ has not imported the application after 1\.\d s \(timeouts\.startup\): it is killed; its stacks follow")
    wire.eventually(lambda: "preloaded.py" in s.log, 5 * harness.SLOW, "its stack")
    s.wait_log(r"worker 0 died before it was ready \(1 of 5\): next try in \d+ ms")
    assert s.stop() == 0


def test_stopped_while_it_imports(preloaded):
    s, imports = preloaded(leaves="hang", wait=False)
    wire.eventually(imports, 10 * harness.SLOW, "an import")
    began = time.monotonic()
    assert s.stop() == 0
    assert time.monotonic() - began < 5 * harness.SLOW


def test_term_and_interrupt_to_the_whole_group(preloaded):
    """The process that forks may see SIGTERM before the master does; it is not replaced."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        s, imports = preloaded()
        n = len(imports())
        os.killpg(s.pid, signum)
        assert s.wait_exit() == 0
        assert len(imports()) == n
        s.mark = len(s.err.lines)


def test_master_killed(preloaded):
    s, _ = preloaded()
    pids = s.workers() + s.preloads()
    s.process.kill()
    s.process.wait()
    wire.eventually(lambda: not any(harness.stat_fields(pid) for pid in pids), 10 * harness.SLOW, "nobody is left")
    s.stopped = 0


def test_log_files_are_reopened(preloaded, tmp_path):
    """Also for workers that are forked later."""
    log = tmp_path / "error.log"
    s, _ = preloaded("--log-file", log, workers=1, wait=False)
    wire.eventually(lambda: log.exists() and "listening on" in log.read_text(), 20 * harness.SLOW, "a start")
    log.rename(tmp_path / "before.log")
    s.send_signal(signal.SIGUSR1)
    wire.eventually(lambda: log.exists() and "reopened" in log.read_text(), 5 * harness.SLOW, "another file")
    [worker] = s.workers()
    os.kill(worker, signal.SIGTERM)
    wire.eventually(lambda: s.workers() not in ([worker], []) and len(s.workers()) == 1, 10 * harness.SLOW, "another worker")
    [worker] = s.workers()
    assert os.readlink(f"/proc/{worker}/fd/2") == str(log)
    assert s.stop() == 0


def test_an_access_log_that_a_reload_brings_is_reopened(preloaded, tmp_path):
    """It has another number in the process that opens it for the import than in the master: in no worker it takes the place of something else."""
    log = tmp_path / "access.log"
    s, _ = preloaded(config="access_log:\n  enabled: true\n")
    Path(s.cwd, "ringcorn.yaml").write_text(f"access_log:\n  enabled: true\n  file: {log}\n")
    reload(s)
    logs = lambda: [n for pid in s.workers() for name, n in harness.descriptors(pid).items() if name.endswith(log.name)]  # noqa: E731
    assert logs() == [1, 1]
    s.send_signal(signal.SIGUSR1)
    s.wait_log("log files reopened")
    assert s.get("/").status == 200
    wire.eventually(lambda: "GET /" in log.read_text(), 5 * harness.SLOW, "a line")
    time.sleep(0.2)  # both have heard
    assert logs() == [1, 1]
    s.settle()


def test_renewed_certificates(preloaded, tmp_path):
    """A worker that is forked later has them, though the process that forks it has read older ones."""
    authority = certs.Authority()

    def issue(name):
        return [str(path) for path in authority.issue("localhost", name).write(tmp_path, "one")]

    def names(s):
        context = certs.client(authority)
        with s.connect(tls=context, server_name="localhost") as c:
            return [name for kind, name in c.sock.getpeercert()["subjectAltName"] if kind == "DNS"]

    cert, key = issue("first.test")
    s, _ = preloaded("--certfile", cert, "--keyfile", key, "--tls-watch", "200ms", workers=1)
    s.tls = certs.client(authority)
    assert "first.test" in names(s)
    issue("second.test")
    s.wait_log("files have changed; new connections get")
    [worker] = s.workers()
    os.kill(worker, signal.SIGTERM)
    wire.eventually(lambda: s.workers() not in ([worker], []) and len(s.workers()) == 1, 10 * harness.SLOW, "another worker")
    assert "second.test" in names(s)
    s.settle()


def test_names(preloaded):
    s, _ = preloaded("--name", "mysite", workers=1)
    names = {pid: open(f"/proc/{pid}/comm").read().strip() for pid in s.workers() + s.preloads()}
    assert [names[pid] for pid in s.workers()] == ["mysite:w0"] and [names[pid] for pid in s.preloads()] == ["mysite:import"]
