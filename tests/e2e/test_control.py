"""The control socket, and what ringcornctl asks over it."""

import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import harness
import pytest
import wire
from lone_master import master, program  # noqa: F401 (fixtures)

CTL = harness.BIN.with_name("ringcornctl")


class Control:
    """A connection that speaks the protocol itself."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30 * harness.SLOW)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rb")

    def line(self, text):
        self.sock.sendall(text if isinstance(text, bytes) else text.encode() + b"\n")
        return json.loads(self.file.readline())

    def ask(self, command, **arguments):
        answer = self.line(json.dumps({"version": 1, "command": command, "arguments": arguments}))
        assert answer["version"] == 1
        assert answer["ok"], answer
        return answer["result"]

    def refused(self, command, **arguments):
        answer = self.line(json.dumps({"version": 1, "command": command, "arguments": arguments}))
        assert not answer["ok"], answer
        return answer["error"]

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


@pytest.fixture
def controlled(server, tmp_path):
    """server(app, *options) -> (server, path of the socket)"""

    def start(app="raw:app", *options, **kwargs):
        path = tmp_path / "control.sock"
        return server(app, "--control-socket", path, *options, **kwargs), path

    return start


def ctl(path, *args, timeout=60):
    env = {**harness.environment(), "RINGCORN_CONTROL_SOCKET": str(path)}
    return subprocess.run([str(CTL), *map(str, args)], capture_output=True, text=True, timeout=timeout * harness.SLOW, env=env)


def test_status(controlled):
    s, path = controlled("raw:app", "--workers", "2")
    s.wait_workers(2)
    with Control(path) as c:
        status = c.ask("status")
        assert (status["state"], status["pid"], status["app"]) == ("serving", s.pid, "raw:app")
        assert status["binds"] == [f"127.0.0.1:{s.port}"]
        assert (status["workers_wanted"], status["workers_ready"]) == (2, 2)
        workers = c.ask("workers")
    assert [w["worker"] for w in workers] == [0, 1]
    assert sorted(w["pid"] for w in workers) == s.workers()
    assert all(w["state"] == "ready" and w["rss_bytes"] > 5 << 20 and w["cpu_s"] > 0 for w in workers)


def test_socket_is_its_owners(controlled):
    s, path = controlled()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    s.stop()
    assert not path.exists()


def test_mode(controlled):
    _, path = controlled("raw:app", "--control-mode", "0660")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_requests_in_hand(controlled):
    s, path = controlled()
    with Control(path) as c, s.connect() as client:
        client.send(b"GET /slow?s=2 HTTP/1.1\r\nHost: a\r\n\r\n")
        found = wire.eventually(lambda: c.ask("requests")[0]["requests"], 10 * harness.SLOW, "the request")
        assert [r["request"] for r in found] == ["GET /slow"]
        assert found[0]["state"] == "in the application"
        assert found[0]["kind"] == "async"
        [request] = [r for r in c.ask("tasks")[0]["tasks"] if r["request"] == "GET /slow"]
        [task] = request["tasks"]
        assert any(re.search(r"raw\.py:\d+ ", line) for line in task["stack"])
        assert client.response().status == 200


def test_requests_on_threads(controlled):
    """Django-like work of WSGI: the request, its thread, and what that does."""
    s, path = controlled("wsgi_raw:app", "--threads", "1")
    with Control(path) as c:
        clients = [s.connect() for _ in range(2)]
        for client in clients:
            client.send(b"GET /slow?s=3 HTTP/1.1\r\nHost: a\r\n\r\n")
        found = wire.eventually(lambda: len(r := c.ask("requests")[0]["requests"]) == 2 and r, 10 * harness.SLOW, "the requests")
        assert sorted(r["state"] for r in found) == ["on a thread", "waits for a thread"]
        assert {r["kind"] for r in found} == {"sync"}
        [ident] = {r["thread"] for r in found if r["state"] == "on a thread"}
        [thread] = [t for t in c.ask("threads", worker=0)[0]["threads"] if t["thread"] == ident]
        assert thread["name"].startswith("ringcorn-sync")
        assert any("wsgi_raw.py" in line for line in thread["stack"])
        for client in clients:
            assert client.response().status == 200
            client.close()


def test_answers_while_the_loop_stands(controlled):
    """A worker whose loop is blocked names the request, the task and the line."""
    s, path = controlled()
    with Control(path) as c, s.connect() as client:
        client.send(b"GET /spin?s=4 HTTP/1.1\r\nHost: a\r\n\r\n")
        found = wire.eventually(lambda: c.ask("requests")[0].get("requests"), 3 * harness.SLOW, "the request")
        assert found[0]["request"] == "GET /spin"
        loop = next(t for t in c.ask("threads")[0]["threads"] if t["loop"])
        assert "raw.py" in loop["stack"][0]
        task = next(t for r in c.ask("tasks")[0]["tasks"] for t in r["tasks"] if t["state"] == "running")
        assert "raw.py" in task["stack"][-1]
        assert client.response().status == 200


def test_worker_that_is_stopped_is_said_to_be_silent(controlled):
    s, path = controlled("raw:app", "--workers", "2")
    s.wait_workers(2)
    with Control(path) as c:
        pid = next(w["pid"] for w in c.ask("workers") if w["worker"] == 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            answers = c.ask("requests")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert answers[0]["error"] == "no answer in time: it is stopped (SIGSTOP, or a debugger)"
        assert answers[1]["requests"] == []
        # Its late answers are nobody's.
        assert wire.eventually(lambda: c.ask("requests")[0].get("requests") == [], 10 * harness.SLOW, "an answer")


def test_scale(controlled):
    s, path = controlled()
    with Control(path) as c:
        assert c.ask("scale", workers=3) == {"workers_wanted": 3}
        wire.eventually(lambda: c.ask("status")["workers_ready"] == 3, 20 * harness.SLOW, "three workers")
        c.ask("scale", workers=1)
        wire.eventually(lambda: len(c.ask("workers")) == 1, 20 * harness.SLOW, "one worker")
        assert "not supported" in c.refused("scale", workers=5000)
        assert "how many" in c.refused("scale", workers="many")
        assert "how many" in c.refused("scale", workers=-1)
        assert "how many" in c.refused("scale")
    s.wait_log("ringcornctl: 3 workers")
    s.baseline()


def test_reload_answers_when_it_is_over(controlled):
    s, path = controlled()
    before = s.workers()
    with Control(path) as c:
        assert c.ask("reload") == {"generation": 2, "workers_ready": 1}
        [worker] = [w for w in c.ask("workers") if w["state"] == "ready"]
        assert worker["generation"] == 2
        assert worker["pid"] not in before
    wire.eventually(lambda: len(s.workers()) == 1, 20 * harness.SLOW, "the old worker's end")
    s.baseline()


def test_reload_that_fails_says_so(controlled, tmp_path):
    (tmp_path / "changing.py").write_text("from raw import app\n")
    s, path = controlled("changing:app", "--python-path", tmp_path)
    (tmp_path / "changing.py").write_text("raise RuntimeError('broken edit')\n")
    before = s.workers()
    r = ctl(path, "reload")
    assert (r.returncode, r.stdout) == (1, "")
    assert r.stderr == "ringcorn: reload: the reload failed, and the old workers go on; the error log says why\n"
    assert s.workers() == before
    s.expect_errors("broken edit", "reload", "Traceback", "worker")


def test_reload_is_not_answered_for_an_earlier_one(server, tmp_path):
    """What SIGHUP has begun has read the old configuration: the answer is about the one that was asked for."""
    app, path = tmp_path / "changing.py", tmp_path / "control.sock"
    app.write_text("from raw import app\n")
    s = server("changing:app", "--python-path", tmp_path, config=f"control:\n  socket: {path}\n")
    app.write_text("import time\ntime.sleep(1.5)\nfrom raw import app\n")
    s.send_signal(signal.SIGHUP)
    wire.eventually(lambda: len(s.workers()) > 1, 5 * harness.SLOW, "a worker by the configuration that was read")
    (s.cwd / "ringcorn.yaml").write_text("workers: many\n")
    with Control(path) as c:
        assert "the reload failed" in c.refused("reload")
        assert c.ask("status")["generation"] == 2
    s.wait_log("reloaded in")
    s.expect_errors("the new configuration cannot be used")
    wire.eventually(lambda: len(s.workers()) == 1, 20 * harness.SLOW, "the old worker's end")
    s.baseline()


def test_log_level(controlled):
    s, path = controlled("raw:app", "--workers", "1")
    with Control(path) as c:
        c.ask("log-level", level="debug")
        c.ask("scale", workers=2)
        s.wait_log("debug: worker 1 .* started")
        assert "debug, info" in c.refused("log-level", level="loud")
        c.ask("scale", workers=1)
        wire.eventually(lambda: len(c.ask("workers")) == 1, 20 * harness.SLOW, "one worker")
    s.baseline()


def test_config(controlled):
    s, path = controlled("raw:app", "--keep-alive", "7s")
    r = ctl(path, "config")
    assert r.returncode == 0
    assert "keep_alive: 7s" in r.stdout
    with Control(path) as c:
        assert c.ask("config")["yaml"] == r.stdout


def test_stop(controlled):
    s, path = controlled()
    assert ctl(path, "stop").returncode == 0
    assert s.wait_exit() == 0


def test_tables_for_people(controlled):
    s, path = controlled()
    r = ctl(path, "workers")
    head, row = r.stdout.splitlines()
    assert head.split()[:3] == ["worker", "pid", "state"]
    assert row.split()[:3] == ["0", str(s.workers()[0]), "ready"]
    assert "workers ready: 1" in ctl(path, "status").stdout
    assert json.loads(ctl(path, "workers", "--json").stdout)["result"][0]["worker"] == 0
    assert "MainThread" in ctl(path, "threads", "0").stdout


def test_what_is_no_question_is_said_to_be_none(controlled):
    _, path = controlled()
    with Control(path) as c:
        assert "not JSON" in c.line("{")["error"]
        assert "version" in c.line("[]")["error"]
        assert "version" in c.line('{"command":"status"}')["error"]
        assert "version" in c.line('{"version":2,"command":"status"}')["error"]
        assert "command" in c.line('{"version":1}')["error"]
        assert "no such command" in c.line('{"version":1,"command":"dance"}')["error"]
        assert "workers are 0 to 0" in c.refused("threads", worker=7)
        assert "workers are 0 to 0" in c.refused("threads", worker="x")
        assert c.ask("status")["state"] == "serving"  # and the connection is as good as new
        names = [h["command"] for h in c.ask("help")]
        usage = ctl(path, "--help").stdout
        assert all(f"  {name}" in usage for name in names if name != "help")


def test_many_questions_at_once_are_answered_in_order(controlled):
    _, path = controlled()
    with Control(path) as c:
        questions = [{"version": 1, "command": "status" if i % 2 else "requests"} for i in range(50)]
        c.sock.sendall(b"".join(json.dumps(q).encode() + b"\n" for q in questions))
        for i in range(50):
            assert isinstance(json.loads(c.file.readline())["result"], dict if i % 2 else list)


def test_line_without_end(controlled):
    s, path = controlled()
    with Control(path) as c:
        try:
            c.sock.sendall(b"x" * (1 << 20))
        except OSError:
            pass
        assert "too long" in json.loads(c.file.readline())["error"]
        try:
            assert c.file.read() == b""
        except ConnectionResetError:  # what it had not read was more
            pass
    with Control(path) as c:
        assert c.ask("status")["pid"] == s.pid


def test_clients_that_leave(controlled):
    """Before their answers, in the middle of a line, and one that does not read: nothing is left of them."""
    s, path = controlled()
    before = harness.descriptors(s.pid)
    for text in (b"", b"{", b'{"version":1,"command":"reload"}\n', b'{"version":1,"command":"threads"}\n' * 20):
        c = Control(path)
        c.sock.sendall(text)
        c.close()
    with Control(path) as deaf:
        deaf.sock.settimeout(1)
        try:
            while True:
                deaf.sock.sendall(b'{"version":1,"command":"config"}\n' * 100)
        except TimeoutError:
            pass
        with Control(path) as c:
            assert c.ask("status")["pid"] == s.pid
    with Control(path) as c:
        wire.eventually(lambda: c.ask("status")["state"] == "serving" and len(c.ask("workers")) == 1, 30 * harness.SLOW, "rest")
    wire.eventually(lambda: harness.descriptors(s.pid) == before, 10 * harness.SLOW, "no descriptor more")
    s.baseline()


def test_asked_all_the_time_under_load_and_reloads(controlled):
    """Answers are whole JSON whatever happens, and no request fails."""
    s, path = controlled("raw:app", "--workers", "2")
    s.wait_workers(2)
    over, failures = time.monotonic() + 6, []

    def load():
        try:
            while time.monotonic() < over:
                assert s.get("/").status == 200
        except Exception as e:
            failures.append(e)

    def ask(command):
        try:
            with Control(path) as c:
                while time.monotonic() < over:
                    c.ask(command)
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=load) for _ in range(2)]
    threads += [threading.Thread(target=ask, args=(name,)) for name in ("requests", "tasks", "threads", "status")]
    for thread in threads:
        thread.start()
    with Control(path) as c:
        c.ask("reload")
    for thread in threads:
        thread.join()
    assert failures == []
    wire.eventually(lambda: len(s.workers()) == 2, 20 * harness.SLOW, "two workers")
    s.baseline()


def test_reload_takes_the_socket_away_and_brings_it(server, tmp_path):
    conf, path = tmp_path / "ringcorn.yaml", tmp_path / "c.sock"
    conf.write_text("app: raw:app\n")
    s = server(None, "-c", conf)
    assert not path.exists()
    conf.write_text(f"app: raw:app\ncontrol: {{socket: {path}}}\n")
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in")
    with Control(path) as c:
        wire.eventually(lambda: c.ask("requests")[-1].get("requests") == [], 10 * harness.SLOW, "the new worker's answer")
        conf.write_text("app: raw:app\n")
        assert c.line('{"version":1,"command":"status"}')["ok"]
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", since=s.err.lines.index(next(line for line in s.err.lines if "reloaded in" in line)) + 1)
    assert not path.exists()
    wire.eventually(lambda: len(s.workers()) == 1, 20 * harness.SLOW, "one worker")
    s.baseline()


def test_nobody_there(tmp_path):
    r = ctl(tmp_path / "none.sock", "status")
    assert r.returncode == 1
    assert r.stderr.startswith(f"ringcorn: {tmp_path}/none.sock: No such file")
    r = subprocess.run([str(CTL), "status"], capture_output=True, text=True, timeout=30, env=harness.environment(), cwd=tmp_path)
    assert (r.returncode, r.stdout) == (1, "")
    assert "control.socket is not set" in r.stderr


def test_socket_of_the_application_is_refused(tmp_path):
    options = ["--uds", tmp_path / "a.sock", "--control-socket", tmp_path / "a.sock"]
    r = subprocess.run([harness.BIN, *options, "raw:app"], capture_output=True, text=True, timeout=30, env=harness.environment())
    assert (r.returncode, r.stdout) == (2, "")
    assert r.stderr.startswith("ringcorn: --control-socket: ")
    assert "is an address of the application" in r.stderr


# ------------------------------------------------------------------ clients that are not kind


def memory_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(harness.SANITIZED, reason="a sanitizer keeps freed memory for long")
def test_answers_that_are_taken_slowly_are_not_kept(controlled):
    """A client that is always a few answers behind: what it has read is gone from the master's memory."""
    s, path = controlled()
    question = b'{"version":1,"command":"config"}\n'
    with Control(path) as c:
        size = len(json.dumps(c.ask("config")))
        c.sock.sendall(question * 100)
        before, taken = memory_kib(s.pid), 0
        while taken < 48 << 20:
            c.sock.sendall(question)
            taken += len(c.file.readline())
        assert memory_kib(s.pid) - before < 16 << 10, f"{taken} bytes of answers of {size}"
        for _ in range(100):
            c.file.readline()


def test_a_client_that_reads_nothing_is_sent_away(master, tmp_path):
    path = tmp_path / "control.sock"
    m = master("-b", "127.0.0.1:0", "--control-socket", path).ready(1)
    question = b'{"version":1,"command":"config"}\n'
    with Control(path) as c, Control(path) as other:
        c.sock.settimeout(60)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                c.sock.sendall(question * 1000)  # until its questions are not taken any more
        m.wait_log("a client has not read its answers for 10 s, and is sent away")
        assert other.ask("status")["workers_ready"] == 1


def test_without_descriptors_nobody_spins(controlled):
    s, path = controlled()
    with Control(path) as c:
        c.ask("status")
        soft, hard = resource.prlimit(s.pid, resource.RLIMIT_NOFILE)
        held = {int(name) for name in os.listdir(f"/proc/{s.pid}/fd")}
        resource.prlimit(s.pid, resource.RLIMIT_NOFILE, (min(set(range(len(held) + 1)) - held), hard))
        try:
            with Control(path) as late:
                late.sock.sendall(b'{"version":1,"command":"status"}\n')
                cpu, began = cpu_seconds(s.pid), time.monotonic()
                time.sleep(1)
                assert cpu_seconds(s.pid) - cpu < 0.1 * (time.monotonic() - began)
                assert c.ask("status")["state"] == "serving"
                resource.prlimit(s.pid, resource.RLIMIT_NOFILE, (soft, hard))
                assert json.loads(late.file.readline())["ok"]
        finally:
            resource.prlimit(s.pid, resource.RLIMIT_NOFILE, (soft, hard))
