"""Signals and real workers: new code, logs, one worker more or less. test_master.py has every way to fail; tests/stress the load."""

import contextlib
import os
import signal
import socket
import time

import harness
import pytest
import wire
from ports import free_port

APP = """
import os, sys
VERSION = {version!r}
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    if scope["path"] == "/print":
        print("printed to stderr", file=sys.stderr)
    body = f"{{VERSION}} {{os.getpid()}} {{scope['server'][0]}}".encode()
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}})
    await send({{"type": "http.response.body", "body": body}})
"""


def write_app(folder, version, text=None):
    # Another size each time: the cached byte code knows a source by its second and its size.
    (folder / "changing.py").write_text((text or APP.format(version=version)) + "#" * len(version) + "\n")


def serve(server, tmp_path, *args, **options):
    write_app(tmp_path, "v1")
    started = server("changing:app", "-w", 2, "--app-dir", tmp_path, *args, app_dir=None, **options)
    for slot in range(2):
        started.wait_log(rf"worker {slot} is ready")
    started.baseline()
    return started


def version(s, **kwargs):
    return s.get("/", **kwargs).text.split()[0]


@contextlib.contextmanager
def reloading(s):
    """Inside, the old workers may be there still: told to drain, they may take what has just arrived."""
    since, old = len(s.err.lines), s.workers()
    s.send_signal(signal.SIGHUP)
    s.wait_log(r"reloaded in", since=since)
    yield
    wire.eventually(lambda: len(s.workers()) == len(old) and not set(old) & set(s.workers()), 5 * harness.SLOW, "new workers only")


def reload(s):
    with reloading(s):
        pass


def test_reload_brings_new_code(server, tmp_path):
    s = serve(server, tmp_path)
    write_app(tmp_path, "version2")
    reload(s)
    assert {version(s) for _ in range(20)} == {"version2"}
    s.baseline()


@pytest.mark.parametrize("how", ["reload", "upgrade"])
def test_an_old_worker_whose_loop_is_blocked_keeps_no_connection(server, tmp_path, how):
    """Its accept may still be armed in the ring, where the kernel wakes one of those that wait at a socket."""
    begun, end = tmp_path / "begun", tmp_path / "end"
    blocks = f"""    if scope["path"] == "/block":
        import time
        open({str(begun)!r}, "w").close()
        while not os.path.exists({str(end)!r}):
            time.sleep(0.01)
"""
    write_app(tmp_path, "v1", APP.format(version="v1").replace("    body =", blocks + "    body ="))
    s = server("changing:app", "--app-dir", tmp_path, app_dir=None)
    s.baseline()
    with s.connect() as held:
        held.send(b"GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
        wire.eventually(begun.exists, 5 * harness.SLOW, "a blocked loop")
        write_app(tmp_path, "version2")
        with s.upgrading() if how == "upgrade" else reloading(s):
            assert [version(s) for _ in range(5)] == ["version2"] * 5
            end.touch()
            assert held.response().text.split()[0] == "v1"


def test_reload_of_broken_code_keeps_the_old(server, tmp_path):
    s = serve(server, tmp_path)
    old = s.workers()
    write_app(tmp_path, "broken", "import no_such_module_anywhere")
    s.send_signal(signal.SIGHUP)
    s.wait_log("reload: the new worker did not start .*stay")
    s.expect_errors("reload: the new worker did not start", "died: exit code 3")
    assert "no_such_module_anywhere" in s.log
    assert s.workers() == old and version(s) == "v1"
    write_app(tmp_path, "repaired")
    reload(s)
    assert {version(s) for _ in range(20)} == {"repaired"}
    s.baseline()


def test_term_to_one_worker_replaces_it(server, tmp_path):
    s = serve(server, tmp_path)
    old = s.workers()
    s.send_signal(signal.SIGTERM, old[0])
    s.wait_log("wants to go; another takes its place")
    wire.eventually(lambda: len(s.workers()) == 2 and old[0] not in s.workers(), 10, "another worker")
    assert version(s) == "v1"
    s.baseline()


def test_more_and_fewer_workers(server, tmp_path):
    s = serve(server, tmp_path)
    s.send_signal(signal.SIGTTIN)
    s.wait_log("worker 2 is ready")
    s.send_signal(signal.SIGTTOU)
    s.wait_log("SIGTTOU: 2 workers")
    s.send_signal(signal.SIGTTOU)
    wire.eventually(lambda: len(s.workers()) == 1, 10, "one worker")
    pids = {s.get("/").text.split()[1] for _ in range(60)}
    assert pids == {str(s.workers()[0])}
    s.allow_descriptors(2)  # the one that is left accepts from the sockets of the others


def test_logs_are_reopened(server, tmp_path):
    log, access = tmp_path / "error.log", tmp_path / "access.log"
    write_app(tmp_path, "v1")
    address = ("127.0.0.1", free_port())
    s = server(
        "changing:app", "--app-dir", tmp_path, "--log-file", log, "--access-log", "--access-logfile", access,
        app_dir=None, bind="%s:%d" % address, wait=False,
    )  # fmt: skip
    wire.eventually(lambda: log.exists() and "listening on" in log.read_text(), 20, "a start")
    s.addresses, s.held, s.live_before, s.check_live = [address], {}, {}, False
    s.get("/before")
    wire.eventually(lambda: "/before" in access.read_text(), 5, "a line in the access log")
    log.rename(tmp_path / "error.log.1")
    access.rename(tmp_path / "access.log.1")
    s.send_signal(signal.SIGUSR1)
    wire.eventually(lambda: log.exists() and "reopened" in log.read_text(), 5, "a new log")

    def arrives():
        s.get("/print")
        return access.exists() and "/print" in access.read_text() and "printed to stderr" in log.read_text()

    wire.eventually(arrives, 5, "lines of the worker in the new files")
    assert s.stop() == 0
    assert "stopped" in log.read_text()


def test_passed_descriptor_and_unix_socket(server, tmp_path):
    path = tmp_path / "app.sock"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        s = serve(server, tmp_path, bind=[f"fd://{listener.fileno()}", f"unix:{path}"], pass_fds=(listener.fileno(),))
        s.addresses = [listener.getsockname(), str(path)]
        assert version(s) == "v1"
        assert s.get("/", address=str(path)).text.split()[2] == str(path)
        reload(s)
        assert version(s) == "v1" and version(s, address=str(path)) == "v1"
        s.baseline()
    s.stop()
    assert not path.exists()


def test_workers_leave_when_the_master_is_killed(server, tmp_path):
    s = serve(server, tmp_path)
    workers = s.workers()
    s.process.kill()
    s.process.wait()
    wire.eventually(lambda: not any(harness.stat_fields(pid) for pid in workers), 5 * harness.SLOW, "no worker is left")
    s.stopped = 0


def test_term_to_the_whole_group(server, tmp_path):
    """As service managers send it; workers neither drain before the master says so, nor are they replaced."""
    s = serve(server, tmp_path)
    os.killpg(s.pid, signal.SIGTERM)
    assert s.wait_exit() == 0
    assert s.log.count("is ready") == 2


def test_term_while_the_application_is_imported(server, tmp_path):
    write_app(tmp_path, "slow", "import time; time.sleep(30)")
    s = server("changing:app", "--app-dir", tmp_path, app_dir=None, wait=False)
    wire.eventually(lambda: s.workers(), 5, "a worker")
    time.sleep(0.3)
    began = time.monotonic()
    assert s.stop() == 0
    assert time.monotonic() - began < 3 * harness.SLOW
