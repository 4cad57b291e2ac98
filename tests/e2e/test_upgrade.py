"""SIGUSR2: another program takes the place of the running one. With workers that have no Python, and with real ones under load."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import threading
import time

import pytest

import certs
import harness
from lone_master import ask, connect, eventually, failures, get, load, master, program, refused  # noqa: F401 (fixtures)
from ports import free_port


@pytest.mark.parametrize("bind", ["tcp", "unix", "shared", "slots"])
def test_upgrade_under_load_loses_nothing(master, tmp_path, bind):
    args = {
        "tcp": ["--bind", "127.0.0.1:0"],
        "unix": ["--bind", f"unix:{tmp_path}/app.sock"],
        "shared": ["--bind", "127.0.0.1:0", "--no-reuse-port"],
        "slots": ["--bind", f"unix:{tmp_path}/app-{{slot}}.sock"],
    }[bind]
    m = master(*args, "-w", 2).ready(2)
    path = tmp_path / ("app.sock" if bind == "unix" else "app-1.sock")
    address = path if bind in ("unix", "slots") else m.address
    with load(address) as threads:
        for n in range(3):
            time.sleep(0.2)
            old = m.workers()
            m.tag(f"program{n}")
            m.upgrade()
            assert len(m.workers()) == 2 and not set(old) & set(m.workers())
            assert get(address).tag == f"program{n}"
    assert failures(threads) == []
    m.stop()
    assert refused(address)
    assert not path.exists()


def test_long_requests_are_answered_by_the_old_workers(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    m.tag("two")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(m.address)) for _ in range(10)]
        for s in clients:
            s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        m.send(signal.SIGUSR2)
        for s in clients:
            assert s.recv(4096).endswith(b" one")
        m.process.wait(10)
        assert get(m.address).tag == "two"
    m.process.returncode = None
    adopt(m)


def adopt(m):
    m.pid = int(re.findall(r"process (\d+) has taken over", m.log)[-1])
    m.process = harness.Adopted(m.pid)


@pytest.mark.parametrize("how", ["exit=3", "exit=4", "kill=11", "hang", "configuration", "program", "killed"])
def test_upgrade_that_fails_leaves_all_as_it_was(master, program, tmp_path, how):
    own = tmp_path / "bin"
    own.mkdir()
    shutil.copy(program, own / "fake_ringcorn")
    startup = ["--timeout-startup", "1"] if how == "hang" else []
    m = master("-b", "127.0.0.1:0", "-b", f"unix:{tmp_path}/app.sock", "-w", 2, *startup, program=own / "fake_ringcorn").ready(2)
    before = m.workers()
    with load(m.address) as threads:
        if how == "configuration":
            m.config.write_text("workers: none\n")
        elif how == "program":
            (own / "fake_ringcorn").unlink()
        elif how == "killed":
            m.modes(all="boot_ms=5000")
        else:
            m.modes(_1=how)
        m.send(signal.SIGUSR2)
        if how == "killed":
            pid = eventually(lambda: set(m.workers()) - set(before)).pop()
            os.kill(pid, signal.SIGKILL)
        m.wait_log(r"SIGUSR2: the next program \(pid \d+\).*; this one goes on", timeout=30)
        m.modes()
        time.sleep(0.2)
    assert failures(threads) == []
    assert m.workers() == before
    assert get(tmp_path / "app.sock").tag == "one" and get(m.address).tag == "one"
    if how == "exit=3":  # and what was wrong can be put right
        m.tag("right")
        m.upgrade()
        assert get(m.address).tag == "right"


def test_another_program_at_the_same_path(master, program, tmp_path):
    """Also behind a link: what it points to now is what is executed."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        shutil.copy(program, tmp_path / version / "fake_ringcorn")
    link = tmp_path / "current"
    link.symlink_to("one")
    m = master("-b", "127.0.0.1:0", program=link / "fake_ringcorn").ready(1)
    link.unlink()
    link.symlink_to("two")
    shutil.rmtree(tmp_path / "one")
    m.upgrade()
    assert os.readlink(f"/proc/{m.pid}/exe") == str(tmp_path / "two" / "fake_ringcorn")
    assert get(m.address)


def test_configuration_of_the_next_program(master, tmp_path):
    """Addresses come, go and stay; the old master serves what goes until it is relieved."""
    a, b, path = free_port(), free_port(), tmp_path / "app.sock"
    m = master(config=f"bind: ['127.0.0.1:{a}', 'unix:{path}']\nworkers: 2\n").ready(2)
    m.config.write_text(f"bind: ['127.0.0.1:{a}', '127.0.0.1:{b}']\nworkers: 3\n")
    m.modes(_1="exit=3")
    m.send(signal.SIGUSR2)
    m.wait_log("this one goes on")
    assert get(path).tag == "one" and get(("127.0.0.1", a)).tag == "one" and refused(("127.0.0.1", b))
    m.modes()
    m.tag("two")
    m.upgrade()
    eventually(lambda: not path.exists())
    assert {get(("127.0.0.1", port)).tag for port in (a, b)} == {"two"}
    assert len(m.workers()) == 3


def test_workers_of_ttin_are_there_after_an_upgrade(master):
    m = master("-b", "127.0.0.1:0", "-w", 1).ready(1)
    m.send(signal.SIGTTIN)
    m.ready(2)
    m.upgrade()
    assert len(m.workers()) == 2
    eventually(lambda: {get(m.address).slot for _ in range(60)} == {0, 1})


def test_signals_meanwhile(master):
    m = master("-b", "127.0.0.1:0", "-w", 2).ready(2)
    m.modes(all="boot_ms=700")
    m.send(signal.SIGUSR2)
    m.wait_log("SIGUSR2: starting")
    m.send(signal.SIGUSR2)
    m.wait_log("SIGUSR2: not now: the next program is on its way already")
    m.send(signal.SIGHUP)
    m.send(signal.SIGTTIN)
    pid = int(m.wait_log(r"process (\d+) has taken over")[0])
    adopt(m)
    assert m.log.count("SIGUSR2: starting") == 1
    assert m.pid == pid and len(m.workers()) == 2
    assert "reloading" not in m.log


def test_the_next_program_refuses_to_be_replaced_before_it_serves(master):
    m = master("-b", "127.0.0.1:0").ready(1)
    before = m.workers()
    m.modes(all="boot_ms=500")
    m.send(signal.SIGUSR2)
    pid = eventually(lambda: set(m.workers()) - set(before)).pop()
    eventually(lambda: harness.children(pid))
    os.kill(pid, signal.SIGUSR2)
    m.wait_log("SIGUSR2: not now: this program is about to take over itself")
    m.wait_log("has taken over")
    adopt(m)


def test_term_meanwhile_ends_both(master):
    m = master("-b", "127.0.0.1:0", "-w", 2).ready(2)
    m.modes(all="boot_ms=1000")
    before = m.workers()
    m.send(signal.SIGUSR2)
    pid = eventually(lambda: set(m.workers()) - set(before)).pop()
    eventually(lambda: harness.children(pid))
    assert m.stop() == 0
    eventually(lambda: harness.stat_fields(pid) is None or harness.stat_fields(pid)[0] == "Z")
    assert refused(m.address)


def test_term_to_all_while_the_old_one_drains_is_graceful(master):
    m = master("-b", "127.0.0.1:0").ready(1)
    with connect(m.address) as s:
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.05)
        m.send(signal.SIGUSR2)
        m.wait_log("has taken over")
        os.killpg(m.pid, signal.SIGTERM)
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    assert m.wait() == 0
    eventually(lambda: refused(m.address))


def test_the_next_program_goes_on_when_the_old_master_is_killed(master, tmp_path):
    path = tmp_path / "app.sock"
    m = master("-b", f"unix:{path}", "-w", 1).ready(1)
    before = m.workers()
    m.modes(all="boot_ms=500")
    m.tag("two")
    m.send(signal.SIGUSR2)
    pid = eventually(lambda: set(m.workers()) - set(before)).pop()
    eventually(lambda: harness.children(pid))
    m.process.kill()
    m.process.wait()
    m.pid, m.process = pid, harness.Adopted(pid)
    m.wait_log("has ended meanwhile")
    m.ready(2)
    eventually(lambda: get(path).tag == "two")
    m.stop()
    assert not path.exists()


def test_pid_files(master, tmp_path):
    pid_file = tmp_path / "pid"
    m = master("-b", "127.0.0.1:0", "--pid", pid_file).ready(1)
    old = m.pid
    with connect(m.address) as s:
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.05)
        m.send(signal.SIGUSR2)
        m.wait_log("took over")
        assert int(pid_file.read_text()) != old
        assert int((tmp_path / "pid.oldbin").read_text()) == old
        s.recv(4096)
    m.process.wait(10)
    adopt(m)
    assert int(pid_file.read_text()) == m.pid and not (tmp_path / "pid.oldbin").exists()
    m.stop()
    assert not pid_file.exists()


def test_inherited_and_systemd_sockets(master, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        m = master("-b", f"fd://{listener.fileno()}", "-w", 2, pass_fds=(listener.fileno(),)).ready(2)
        address = listener.getsockname()
        m.upgrade()
        m.upgrade()
        assert get(address).tag == "one"
        assert m.stop() == 0


def test_service_manager_hears_who_is_in_charge(master, tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        heard = []

        def hear(pattern):
            while not heard or not re.search(pattern, heard[-1]):
                heard.append(manager.recv(4096).decode())

        m = master("-b", "127.0.0.1:0", env={"NOTIFY_SOCKET": str(path)}).ready(1)
        hear("READY=1")
        m.upgrade()
        hear(rf"READY=1\nMAINPID={m.pid}")
        told = [line for text in heard for line in text.splitlines() if not line.startswith(("STATUS", "MONOTONIC"))]
        assert told[-4:] == ["RELOADING=1", f"MAINPID={m.pid}", "READY=1", f"MAINPID={m.pid}"], heard
        m.stop()
        hear("STOPPING=1")


def test_health_address_is_handed_over(master, tmp_path):
    port = free_port()
    m = master("-b", "127.0.0.1:0", "--health-bind", f"127.0.0.1:{port}", "--health-ready", "/ready").ready(1)
    m.upgrade()
    m.upgrade()
    m.wait_log("took over", 2)
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert s.makefile("rb").read(12) == b"HTTP/1.1 503"  # fake workers answer no ping


def test_of_two_masters_one_says_what_is_wanted(master):
    """As long as both live, and at the change once."""
    port = free_port()
    m = master("-b", "127.0.0.1:0", "--metrics-bind", f"127.0.0.1:{port}", config="workers: 1\n").ready(1)
    for n in (1, 2):
        m.send(signal.SIGHUP)
        m.wait_log("reloaded in", n)
    m.config.write_text("workers: 2\n")
    m.modes(all="boot_ms=300")
    seen, is_over = [], threading.Event()

    def look():
        while not is_over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as s:
                s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                found = re.findall(rb"^ringcorn_(?:workers_wanted|config_generation) (\d+)", s.makefile("rb").read(), re.M)
                if len(found) == 2 and seen[-1:] != [found]:
                    seen.append(found)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with connect(m.address) as slow:  # keeps the old one for a moment
            slow.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            m.upgrade()
        m.wait_log("took over")
        eventually(lambda: len(seen) > 1)
    finally:
        is_over.set()
        watcher.join()
    assert len(seen) == 2 and sorted(seen[0]) == [b"1", b"3"] and sorted(seen[1]) == [b"1", b"2"], seen


def test_control_socket_is_handed_over(master, tmp_path):
    path = tmp_path / "control"

    def status():
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(str(path))
            s.sendall(b'{"version":1,"command":"config"}\n')
            return s.recv(1 << 16)

    m = master("-b", "127.0.0.1:0", "--control-socket", path).ready(1)
    for _ in range(2):
        m.upgrade()
        m.wait_log("took over")
        assert b'"ok":true' in status()
    m.stop()
    assert not path.exists()


def test_nothing_is_left_open(master):
    m = master("-b", "127.0.0.1:0", "-w", 2).ready(2)

    def descriptors(pid):
        return sorted(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))

    before = descriptors(m.pid)
    for _ in range(3):
        m.upgrade()
        m.wait_log("took over")
    eventually(lambda: descriptors(m.pid) == before)


# ------------------------------------------------------------------ real workers


def test_real_workers_with_other_code(server, tmp_path):
    """And TLS sessions that began before are resumed: the keys of tickets are handed over."""
    app = 'async def app(scope, receive, send):\n    if scope["type"] != "http":\n        raise RuntimeError\n'
    app += '    await send({{"type": "http.response.start", "status": 200, "headers": []}})\n'
    app += '    await send({{"type": "http.response.body", "body": b"{}"}})\n'
    (tmp_path / "changing.py").write_text(app.format("one"))
    authority = certs.Authority()
    cert, key = authority.issue("localhost").write(tmp_path, "server")
    s = server("changing:app", "--certfile", cert, "--keyfile", key, "-w", 2, "--app-dir", tmp_path, app_dir=None)
    context = certs.client(authority, ssl.TLSVersion.TLSv1_2)
    with socket.create_connection(s.address) as raw, context.wrap_socket(raw, server_hostname="localhost") as tls:
        session = tls.session
    (tmp_path / "changing.py").write_text(app.format("number two"))
    s.upgrade()
    with socket.create_connection(s.address) as raw, context.wrap_socket(raw, server_hostname="localhost", session=session) as tls:
        assert tls.session_reused
        tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"number two" in tls.makefile("rb").read()
    s.baseline()
