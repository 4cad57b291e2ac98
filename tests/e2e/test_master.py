"""The master alone: the real one, with workers that have no Python and fail as told (fake_worker.c).

The same promises with real workers are in test_reload.py and tests/stress; here every way to fail can be had at will.
"""

import contextlib
import ctypes
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import harness
import wire
from lone_master import alive, ask, connect, eventually, failures, get, load, master, program, refused  # noqa: F401 (fixtures)
from ports import free_port

HERE = Path(__file__).parent
IS_ROOT = os.geteuid() == 0
NOBODY = pwd.getpwnam("nobody").pw_uid


# ------------------------------------------------------------------ start and end


def test_serves_and_stops(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    assert get(m.address).tag == "one"
    assert len(m.workers()) == 2
    assert m.stop() == 0
    assert m.log.rstrip().endswith("stopped")
    assert refused(m.address)


def test_every_slot_serves(master):
    m = master("--bind", "127.0.0.1:0", "-w", 3).ready(3)
    assert {get(m.address).slot for _ in range(200)} == {0, 1, 2}


def test_one_shared_socket_without_reuse_port(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2, "--no-reuse-port").ready(2)
    for _ in range(20):
        get(m.address)
    inodes = [line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[1].endswith(f":{m.address[1]:04X}") and line.split()[3] == "0A"]
    assert len(inodes) == 1


def test_all_addresses_of_a_name_share_port_zero(master):
    m = master("--bind", "localhost:0").ready(1)
    ports = {int(p) for p in re.findall(r"listening on http://\S+:(\d+)", m.log)}
    assert len(ports) == 1


def test_ipv6_and_ipv4_are_two_addresses(master):
    port = free_port()
    m = master("--bind", f"[::]:{port}", "--bind", f"0.0.0.0:{port}", "-w", 2).ready(2)
    assert get(("::1", port)) and get(("127.0.0.1", port))
    assert m.stop() == 0


def test_all_addresses(master):
    m = master("--bind", ":0").ready(1)
    port = int(re.search(r"http://0.0.0.0:(\d+)", m.log)[1])
    assert get(("127.0.0.1", port)) and get(("::1", port))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_ends_by_signal(master, signum):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    began = time.monotonic()
    assert m.stop(signum) == 0
    assert time.monotonic() - began < 1


def test_term_answers_what_is_in_hand_and_in_the_queue(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(m.address)) for _ in range(30)]
        for s in clients:
            s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        m.send(signal.SIGTERM)
        for s in clients:
            assert s.recv(4096).startswith(b"HTTP/1.1 200")
    assert m.wait() == 0


def test_term_to_the_whole_group_is_as_graceful(master):
    """As systemd (KillMode=control-group) and many scripts do."""
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(m.address)) for _ in range(30)]
        for s in clients:
            s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        os.killpg(m.pid, signal.SIGTERM)
        for s in clients:
            assert s.recv(4096).startswith(b"HTTP/1.1 200")
    assert m.wait() == 0
    assert m.log.count("is ready") == 2, "no successor for a worker that is told to go with everybody"


@pytest.mark.alone
def test_int_cancels_requests(master):
    m = master("--bind", "127.0.0.1:0")
    with connect(m.address) as s:
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.05)
        began = time.monotonic()
        assert m.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 0.4


def test_a_worker_that_ignores_drain_is_killed_with_its_stacks_in_the_log(master):
    m = master("--bind", "127.0.0.1:0", "--graceful-timeout", "1", modes={"all": "ignore_drain"})
    began = time.monotonic()
    assert m.stop() == 0
    assert 4 <= time.monotonic() - began < 6  # a second for requests, three for the worker's own end
    assert "fake: stacks of this worker" in m.log
    assert re.search(r"worker 0 .*timeouts.graceful", m.log)


@pytest.mark.alone
def test_second_int_ends_at_once_and_shows_what_workers_do(master):
    m = master("--bind", "127.0.0.1:0", modes={"all": "ignore_drain"})
    m.send(signal.SIGINT)
    m.wait_log("worker 0 .*still busy")
    assert "stacks" not in m.log
    began = time.monotonic()
    assert m.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 0.6
    assert "fake: stacks of this worker" in m.log


def test_the_same_ctrl_c_twice_within_a_moment_is_one(master):
    m = master("--bind", "127.0.0.1:0")
    with connect(m.address) as s:
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.05)
        m.send(signal.SIGTERM)
        m.send(signal.SIGTERM)
        time.sleep(0.02)
        m.send(signal.SIGTERM)
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    assert m.wait() == 0


def test_term_while_booting(master):
    m = master("--bind", "127.0.0.1:0", modes={"all": "hang"}, wait=False)
    eventually(lambda: len(m.workers()) == 1)
    time.sleep(0.1)
    assert m.stop(timeout=3) == 0


def test_workers_drain_when_the_master_is_killed(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    workers = m.workers()
    with connect(m.address) as s:
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.05)
        m.process.kill()
        m.process.wait()
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    eventually(lambda: not any(map(alive, workers)), 5)


# ------------------------------------------------------------------ errors at the start


def fails(m, code, pattern):
    assert m.wait() == code, m.log
    lines = [line for line in m.log.splitlines() if line.startswith("ringcorn: ")]
    assert len(lines) == 1 and re.search(pattern, lines[0]), m.log


@pytest.mark.parametrize("reuse", [True, False])
def test_port_in_use(master, reuse):
    with socket.create_server(("127.0.0.1", 0)) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        m = master("--bind", "127.0.0.1:%d" % s.getsockname()[1], "--reuse-port" if reuse else "--no-reuse-port", wait=False)
        fails(m, 1, r"127\.0\.0\.1:\d+: the port is in use; .*--bind")


def test_port_in_use_by_a_second_ringcorn(master):
    a = master("--bind", "127.0.0.1:0")
    fails(master("--bind", "127.0.0.1:%d" % a.address[1], wait=False), 1, "the port is in use")
    fails(master("--bind", "0.0.0.0:%d" % a.address[1], wait=False), 1, "the port is in use")
    assert get(a.address)


def test_port_taken_while_we_boot(master):
    """Two that boot at once: neither listens yet, so both can bind; the second to be ready gives up."""
    port = free_port()
    slow = master("--bind", f"127.0.0.1:{port}", modes={"all": "boot_ms=3000"}, wait=False)
    eventually(lambda: len(slow.workers()) == 1)  # it has bound
    quick = master("--bind", f"127.0.0.1:{port}")
    fails(slow, 1, "another server began to listen")
    assert get(quick.address).tag == "one"


def test_time_wait_is_no_reason(master):
    port = free_port()
    a = master("--bind", f"127.0.0.1:{port}")
    for _ in range(5):
        get(a.address)  # the server closes first: TIME_WAIT on its side
    assert a.stop() == 0
    assert get(master("--bind", f"127.0.0.1:{port}").address)


def test_no_such_address(master):
    fails(master("--bind", "192.0.2.1:8000", wait=False), 1, "no such address")


def test_no_such_name(master):
    fails(master("--bind", "no-such-host.invalid:8000", wait=False), 1, "does not resolve")


def test_no_permission_for_a_low_port(master):
    if not IS_ROOT:
        pytest.skip("needs root to become somebody else")
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("low ports are for everybody here")

    def drop():  # PR_CAPBSET_DROP: root without CAP_NET_BIND_SERVICE, who can still read the configuration
        if libc.prctl(24, 10, 0, 0, 0) < 0:
            raise OSError("prctl")

    libc = ctypes.CDLL(None)
    fails(master("--bind", "127.0.0.1:80", wait=False, preexec_fn=drop), 1, "127.0.0.1:80: no permission")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_file_in_place_of_a_socket(master, tmp_path, kind):
    path = tmp_path / "app.sock"
    path.mkdir() if kind == "folder" else path.write_text("precious")
    fails(master("--bind", f"unix:{path}", wait=False), 1, "app.sock: there is a (file|folder)")
    assert path.exists()


def test_folder_of_the_socket_is_missing(master, tmp_path):
    fails(master("--bind", f"unix:{tmp_path}/nowhere/app.sock", wait=False), 1, "make its folder first")


def test_live_unix_server_is_left_alone(master, tmp_path):
    path = tmp_path / "app.sock"
    a = master("--bind", f"unix:{path}")
    fails(master("--bind", f"unix:{path}", wait=False), 1, "another server answers there")
    assert get(path)
    assert a.stop() == 0


# ------------------------------------------------------------------ a unix socket for each slot


def of_slots(tmp_path, n):
    return [tmp_path / f"app-{slot}.sock" for slot in range(n)]


def per_slot(master, tmp_path, *args, **kwargs):
    return master("--bind", f"unix:{tmp_path}/app-{{slot}}.sock", *args, **kwargs)


def answering(paths, times=3):
    return [{get(path, timeout=2).slot for _ in range(times)} for path in paths]


def test_path_of_a_slot_is_its_own_workers(master, tmp_path):
    m = per_slot(master, tmp_path, "-w", 3).ready(3)
    paths = of_slots(tmp_path, 3)
    eventually(lambda: answering(paths) == [{0}, {1}, {2}])
    assert stat.S_IMODE(paths[2].stat().st_mode) == 0o666
    assert m.stop() == 0
    assert not [path for path in paths if path.exists()]


def test_path_of_a_slot_without_its_worker_is_served_by_siblings(master, tmp_path):
    m = per_slot(master, tmp_path, "-w", 2, modes={"_1": "hang"}).ready(1)
    paths = of_slots(tmp_path, 2)
    assert answering(paths, 20) == [{0}, {0}]  # from the start: nobody is refused


def test_killed_worker_gives_its_path_to_siblings_and_gets_it_back(master, tmp_path):
    m = per_slot(master, tmp_path, "-w", 2).ready(2)
    paths = of_slots(tmp_path, 2)
    eventually(lambda: answering(paths) == [{0}, {1}])
    inode = paths[1].stat().st_ino
    m.modes(all="hang")
    os.kill(get(paths[1]).pid, signal.SIGKILL)
    m.wait_log("died: signal 9")
    assert answering(paths, 20) == [{0}, {0}]
    m.modes()
    m.send(signal.SIGHUP)
    eventually(lambda: answering(paths) == [{0}, {1}], 15)
    assert paths[1].stat().st_ino == inode


def test_paths_of_slots_over_a_reload(master, tmp_path):
    m = per_slot(master, tmp_path, "-w", 2).ready(2)
    paths = of_slots(tmp_path, 2)
    inodes = [path.stat().st_ino for path in paths]
    before = {get(path).pid for path in paths}
    m.send(signal.SIGHUP)
    while any(alive(pid) for pid in before):
        assert all(get(path, timeout=5) for path in paths)
    eventually(lambda: answering(paths) == [{0}, {1}])
    assert [path.stat().st_ino for path in paths] == inodes


def test_paths_of_slots_when_workers_are_added_and_removed(master, tmp_path):
    m = per_slot(master, tmp_path, "-w", 1).ready(1)
    paths = of_slots(tmp_path, 3)
    m.send(signal.SIGTTIN)
    m.ready(2)
    eventually(lambda: paths[1].exists() and answering(paths[:2]) == [{0}, {1}])
    m.send(signal.SIGTTOU)
    eventually(lambda: len(m.workers()) == 1)
    assert answering(paths[:2], 10) == [{0}, {0}]  # a proxy may still ask there
    assert m.stop() == 0
    assert not [path for path in paths if path.exists()]


def test_path_of_a_slot_that_was_removed_is_made_again(master, tmp_path):
    m = per_slot(master, tmp_path, "-w", 2).ready(2)
    paths = of_slots(tmp_path, 2)
    paths[1].unlink()
    m.send(signal.SIGHUP)
    eventually(lambda: paths[1].exists() and not refused(paths[1]) and answering(paths) == [{0}, {1}], 15)


def test_more_workers_by_a_reload_get_paths(master, tmp_path):
    m = master(config=f"bind: ['unix:{tmp_path}/app-{{slot}}.sock']\nworkers: 1\n").ready(1)
    paths = of_slots(tmp_path, 3)
    m.config.write_text(m.config.read_text().replace("workers: 1", "workers: 3"))
    m.send(signal.SIGHUP)
    eventually(lambda: paths[2].exists() and not any(map(refused, paths)) and answering(paths) == [{0}, {1}, {2}], 15)


@pytest.mark.parametrize("what", ["closed", "file", "bound", "datagram"])
def test_inherited_descriptor_of_the_wrong_kind(master, tmp_path, what):
    with contextlib.ExitStack() as stack:
        if what == "file":
            f = stack.enter_context(open(tmp_path / "x", "w"))
        elif what == "datagram":
            f = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        else:
            f = stack.enter_context(socket.socket())
            f.bind(("127.0.0.1", 0))
        fd = 999 if what == "closed" else f.fileno()
        m = master("--bind", f"fd://{fd}", wait=False, pass_fds=() if what == "closed" else (fd,))
        fails(m, 1, {"closed": "no such descriptor", "file": "not a socket", "bound": "does not listen", "datagram": "not a stream"}[what])


def test_systemd_without_sockets(master):
    fails(master("--bind", "systemd", wait=False), 1, "systemd passed no socket")


def test_unknown_user(master):
    fails(master("--bind", "127.0.0.1:0", "--user", "no-such-user", wait=False), 1, "no user no-such-user")


def test_user_without_an_entry_needs_a_group(master):
    if not IS_ROOT:
        pytest.skip("needs root")
    fails(master("--bind", "127.0.0.1:0", "--user", "54321", wait=False), 1, "set `group` too")
    m = master("--bind", "127.0.0.1:0", "--user", "54321", "--group", "54322")
    assert get(m.address).uid == 54321
    status = Path(f"/proc/{m.workers()[0]}/status").read_text()
    assert re.search(r"^Groups:\s+54322\s*$", status, re.M)


def test_log_file_that_cannot_be_opened(master, tmp_path):
    fails(master("--bind", "127.0.0.1:0", "--log-file", f"{tmp_path}/nowhere/log", wait=False), 1, "log.file: cannot open .*nowhere/log")


@pytest.mark.parametrize("code", [1, 3, 4])
def test_boot_error_ends_with_its_code_at_the_first_try(master, code):
    m = master("--bind", "127.0.0.1:0", "-w", 4, modes={"all": f"exit={code}"}, wait=False)
    fails(m, code, rf"worker 0 could not start \(exit code {code}\)")
    assert m.log.count("fake: Traceback") == 1


def test_crash_loop_ends_with_3_and_the_reason(master):
    m = master("--bind", "127.0.0.1:0", modes={"all": "kill=11"}, wait=False)
    began = time.monotonic()
    fails(m, 3, r"worker 0 died 5 times in a row before it was ready \(signal 11 \(SEGV\)\)")
    assert m.log.count("died: signal 11 (SEGV)") == 5
    assert [int(ms) for ms in re.findall(r"next try in (\d+) ms", m.log)] == [100, 200, 400, 800]
    assert time.monotonic() - began >= 1.5


def test_crash_loop_of_one_slot_ends_the_others_in_order(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2, modes={"_1": "kill=6"}).ready(1)
    with connect(m.address) as s:
        ask(s)
        m.wait_log("4 of 5")
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        m.wait_log("giving up")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    assert m.wait() == 3


def test_startup_timeout(master):
    m = master("--bind", "127.0.0.1:0", "--timeout-startup", "0.3", modes={"all": "hang"}, wait=False)
    m.wait_log(r"worker 0 .* is not ready after 0\.3 s \(timeouts\.startup\)")
    m.wait_log("fake: stacks of this worker")
    m.modes()
    m.wait_log("listening on")
    assert get(m.address)


def test_ready_without_accepting_is_not_enough_for_a_reload(master):
    m = master("--bind", "127.0.0.1:0").ready(1)
    old = get(m.address).pid
    m.modes(all="no_accept")
    m.send(signal.SIGHUP)
    m.ready(2)
    time.sleep(0.3)
    assert alive(old) and len(m.workers()) == 2


# ------------------------------------------------------------------ sockets


def test_unix_socket_mode_and_removal(master, tmp_path):
    path = tmp_path / "app.sock"
    m = master("--bind", f"unix:{path}", "--uds-mode", "0640", "-w", 2).ready(2)
    st = path.stat()
    assert stat.S_ISSOCK(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o640
    assert {get(path).slot for _ in range(50)} <= {0, 1}
    assert m.stop() == 0
    assert not path.exists()


def test_unix_socket_owner(master, tmp_path):
    if not IS_ROOT:
        pytest.skip("needs root")
    path = tmp_path / "app.sock"
    master("--bind", f"unix:{path}", config="uds:\n  owner: nobody:root\n")
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, 0)


def test_stale_unix_socket_is_replaced(master, tmp_path):
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen()
    assert path.exists()
    master("--bind", f"unix:{path}")
    assert get(path)


def test_unix_socket_of_somebody_else_is_not_removed(master, tmp_path):
    path = tmp_path / "app.sock"
    m = master("--bind", f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        assert m.stop() == 0
        assert path.exists()


def test_inherited_listener(master):
    with socket.create_server(("127.0.0.1", 0)) as s:
        m = master("--bind", f"fd://{s.fileno()}", "-w", 2, pass_fds=(s.fileno(),)).ready(2)
        assert get(s.getsockname())
        m.tag("two")
        m.send(signal.SIGHUP)
        m.wait_log("reloaded")
        assert get(s.getsockname()).tag == "two"
        assert m.stop() == 0
        assert not refused(s.getsockname()), "the socket is still the one who passed it's"


def test_systemd_sockets(master, program, tmp_path):
    # As systemd does: descriptors from 3 on, LISTEN_PID the process that becomes the server.
    wrapper = tmp_path / "systemd"
    wrapper.write_text(
        f"#!{sys.executable}\nimport os, sys\nos.dup2(203, 3), os.dup2(204, 4), os.closerange(5, 300)\n"
        f"os.environ |= dict(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')\nos.execv({str(program)!r}, sys.argv)\n"
    )
    wrapper.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        os.dup2(a.fileno(), 203)
        os.dup2(b.fileno(), 204)
        try:
            m = master("--bind", "systemd", pass_fds=(203, 204), program=wrapper).ready(1)
        finally:
            os.close(203)
            os.close(204)
        for s in (a, b):
            assert get(s.getsockname())
        m.tag("two")
        m.send(signal.SIGHUP)
        m.wait_log("reloaded")
        for s in (a, b):
            assert get(s.getsockname()).tag == "two"
        assert m.stop() == 0


def test_a_worker_holds_nothing_of_the_master(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    old = set(m.workers())
    m.send(signal.SIGHUP)
    m.wait_log("reloaded")
    wire.eventually(lambda: len(m.workers()) == 2 and not old & set(m.workers()), 10, "the old workers have ended")

    def sockets(pid):
        return [t for fd in os.listdir(f"/proc/{pid}/fd") if (t := os.readlink(f"/proc/{pid}/fd/{fd}")).startswith(("socket:", "anon_inode:[signalfd"))]

    for pid in m.workers():
        eventually(lambda: len(sockets(pid)) == 2)  # its control socket and its listener


# ------------------------------------------------------------------ deaths


@pytest.mark.alone
def test_killed_worker_is_replaced_at_once(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    victim = m.workers()[0]
    time.sleep(1.1)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    m.ready(3)
    assert time.monotonic() - began < 0.5
    m.wait_log(rf"worker \d \(pid {victim}\) died: signal 9 \(KILL\)")


def test_siblings_serve_the_slot_of_a_dead_worker(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    m.modes(all="hang")
    victim = get(m.address)
    os.kill(victim.pid, signal.SIGKILL)
    m.wait_log("died: signal 9")
    answers = [get(m.address, timeout=2) for _ in range(100)]
    assert {a.slot for a in answers} == {1 - victim.slot}


def test_siblings_give_the_slot_back(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    os.kill(m.workers()[0], signal.SIGKILL)
    m.ready(3)

    def listeners(pid):
        return sum(os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:") for fd in os.listdir(f"/proc/{pid}/fd"))

    eventually(lambda: [listeners(pid) for pid in m.workers()] == [2, 2])


@pytest.mark.alone
def test_siblings_leave_a_slot_to_a_worker_that_is_about_to_accept(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2, modes={"_1": "no_accept"}).ready(2)
    first = int(m.wait_log(r"worker 0 is ready \(pid (\d+)")[0])
    time.sleep(0.3)
    assert harness.descriptors(first)["socket:[N]"] == 2, "the control socket, and its own slot's"


def test_killing_a_worker_now_and_then_loses_only_its_requests(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    kills = []
    with load(m.address, keep=0, close=3) as threads:
        for n in range(4):
            time.sleep(1.1)
            kills.append(time.time())
            os.kill(m.workers()[n % 2], signal.SIGKILL)
        time.sleep(0.5)
    for when, what in failures(threads):
        assert any(-0.01 <= when - kill < 0.2 for kill in kills), (when, what)
        assert "refused" not in what.lower() and "timed out" not in what.lower(), what
    assert len(failures(threads)) <= 3 * len(kills)


def test_a_worker_that_dies_soon_after_ready_is_slowed_down(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2, modes={"_1": "drain_ms=1"}).ready(1)
    time.sleep(1.5)
    assert m.log.count("is ready") < 12
    assert m.process.poll() is None and get(m.address)


def test_term_to_one_worker_replaces_it_without_a_gap(master):
    m = master("--bind", "127.0.0.1:0").ready(1)
    with load(m.address) as threads:
        time.sleep(0.2)
        os.kill(m.workers()[0], signal.SIGTERM)
        m.ready(2)
        time.sleep(0.3)
    assert failures(threads) == []
    assert len({a.pid for t in threads for a in t.answers}) == 2
    assert len(m.workers()) == 1


def test_a_worker_that_drains_by_itself_is_replaced(master):
    m = master("--bind", "127.0.0.1:0", modes={"all": "goes_by_itself"}).ready(1)
    os.kill(m.workers()[0], signal.SIGTERM)
    m.ready(2)
    assert get(m.address)


def test_a_worker_that_goes_deaf_is_replaced(master):
    m = master("--bind", "127.0.0.1:0", modes={"all": "mute"})
    m.modes()
    m.wait_log("does not speak to the master", timeout=5)
    m.ready(2)
    assert get(m.address)


def test_strangers_are_buried(master):
    """Children that a shell left us by exec (or process 1 inherits) do not end the server, nor stay as zombies."""

    def fork_first():
        if os.fork() == 0:
            time.sleep(0.5)
            os._exit(7)

    m = master("--bind", "127.0.0.1:0", preexec_fn=fork_first).ready(1)
    time.sleep(1)
    assert get(m.address)
    assert not [pid for pid, state, parent, *_ in harness.processes() if state == "Z" and parent == m.pid]


# ------------------------------------------------------------------ more and less


def test_ttin_and_ttou(master):
    m = master("--bind", "127.0.0.1:0").ready(1)
    m.send(signal.SIGTTIN)
    m.ready(2)
    m.send(signal.SIGTTIN)
    m.ready(3)
    assert len(m.workers()) == 3
    eventually(lambda: {get(m.address).slot for _ in range(100)} == {0, 1, 2})
    with load(m.address) as threads:
        m.send(signal.SIGTTOU)
        m.wait_log("SIGTTOU: 2 workers")  # two at once are one signal to the kernel
        m.send(signal.SIGTTOU)
        eventually(lambda: len(m.workers()) == 1)
        time.sleep(0.3)
        m.send(signal.SIGTTOU)  # the last one stays
        time.sleep(0.2)
    assert failures(threads) == []
    assert len(m.workers()) == 1
    assert {get(m.address, timeout=2).slot for _ in range(60)} == {0}
    m.send(signal.SIGTTIN)
    m.ready(4)
    eventually(lambda: {get(m.address).slot for _ in range(100)} == {0, 1})


def test_ttou_answers_what_is_in_hand(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(m.address)) for _ in range(20)]
        for s in clients:
            s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        m.send(signal.SIGTTOU)
        for s in clients:
            assert s.recv(4096).startswith(b"HTTP/1.1 200")
    eventually(lambda: len(m.workers()) == 1)


def test_ttin_outlives_a_reload_that_leaves_workers_as_they_are(master):
    m = master("--bind", "127.0.0.1:0", config="workers: 1\n").ready(1)
    m.send(signal.SIGTTIN)
    m.ready(2)
    m.send(signal.SIGHUP)
    m.wait_log("reloaded")
    eventually(lambda: len(m.workers()) == 2)
    m.config.write_text("workers: 3\n")
    m.send(signal.SIGHUP)
    m.wait_log("reloaded", 2)
    eventually(lambda: len(m.workers()) == 3)


@pytest.mark.parametrize("back", [signal.SIGHUP, signal.SIGTTIN])
def test_winch_sends_the_workers_away_and_they_come_back(master, back):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    with connect(m.address) as s:
        s.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.1)
        m.send(signal.SIGWINCH)
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    eventually(lambda: not m.workers())
    m.send(signal.SIGTTOU)
    with connect(m.address) as s:  # waits for whoever comes
        m.send(back)
        m.ready(3)
        assert ask(s, close=True)[0].tag == "one"
    eventually(lambda: len(m.workers()) == (2 if back == signal.SIGHUP else 1))
    assert m.stop() == 0


def test_winch_during_a_reload(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    m.modes(all="boot_ms=300")
    m.send(signal.SIGHUP)
    m.wait_log("reloading")
    m.send(signal.SIGWINCH)
    eventually(lambda: not m.workers())
    m.send(signal.SIGHUP)
    m.wait_log("reloaded")
    assert len(m.workers()) == 2


def test_term_to_a_worker_that_boots_is_no_crash(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2, modes={"_1": "exit=0"})
    m.wait_log(r"warning: worker 1 \(pid \d+\) was told to end \(SIGTERM\) before it was ready: exit code 0")
    m.modes()
    m.ready(2)
    assert "error:" not in m.log


def test_a_kill_that_is_not_ours_is_said(master):
    m = master("--bind", "127.0.0.1:0").ready(1)
    os.kill(m.workers()[0], signal.SIGKILL)
    m.wait_log(r"died: signal 9 \(KILL\); (not by the master|the kernel has just killed)")
    m.ready(2)


# ------------------------------------------------------------------ reload


@pytest.mark.parametrize("bind", ["tcp", "unix", "shared"])
def test_reload_under_load_loses_nothing(master, tmp_path, bind):
    path = tmp_path / "app.sock"
    args = ["--bind", f"unix:{path}"] if bind == "unix" else ["--bind", "127.0.0.1:0"]
    m = master(*args, "-w", 2, *(["--no-reuse-port"] if bind == "shared" else [])).ready(2)
    with load(path if bind == "unix" else m.address, keep=3, close=3) as threads:
        for n in range(4):
            m.tag(f"tag{n}")
            m.send(signal.SIGHUP)
            time.sleep(0.5)
        m.wait_log("reloaded", 4)
        time.sleep(0.2)
    assert failures(threads) == []
    assert {a.tag for t in threads for a in t.answers} >= {"one", "tag0", "tag1", "tag2", "tag3"}
    assert len(m.workers()) == 2


def test_signals_during_a_reload_make_one_more(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2, modes={"all": "boot_ms=300"}).ready(2)
    m.send(signal.SIGHUP)
    m.wait_log("reloading")
    for _ in range(5):
        time.sleep(0.05)
        m.send(signal.SIGHUP)
    m.wait_log("reloaded", 2)
    time.sleep(0.5)
    assert m.log.count("SIGHUP: reloading") == 2
    assert m.log.count("is ready") == 6


def test_new_is_ready_before_old_leaves(master):
    m = master("--bind", "127.0.0.1:0").ready(1)
    old = m.workers()[0]
    m.modes(all="boot_ms=500")
    m.send(signal.SIGHUP)
    m.wait_log("reloading")
    time.sleep(0.3)
    assert get(m.address).pid == old
    m.wait_log("reloaded")
    assert get(m.address).pid != old


@pytest.mark.parametrize("how", ["exit=3", "kill=11"])
def test_reload_that_fails_keeps_the_old(master, how):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    old = set(m.workers())
    m.modes(all=how)
    m.send(signal.SIGHUP)
    m.wait_log("reload: the new worker did not start .* the old workers and their configuration stay")
    wire.eventually(lambda: set(m.workers()) == old, 5, "the new worker is buried, the old ones stay")
    assert get(m.address).tag == "one"
    m.modes()
    m.tag("two")
    m.send(signal.SIGHUP)
    m.wait_log("reloaded")
    assert {get(m.address).tag for _ in range(20)} == {"two"}


def test_reload_whose_second_worker_fails(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    m.modes(_1="exit=3")
    m.tag("two")
    m.send(signal.SIGHUP)
    m.wait_log("the new worker 1 did not start .* the old one stays")
    assert eventually(lambda: {get(m.address).tag for _ in range(60)} == {"one", "two"})
    m.modes()
    m.send(signal.SIGHUP)
    m.wait_log("reloaded")
    assert eventually(lambda: {get(m.address).tag for _ in range(60)} == {"two"})


def test_bad_configuration_keeps_the_old(master):
    m = master("--bind", "127.0.0.1:0").ready(1)
    old = m.workers()
    m.config.write_text("workerz: 2\n")
    m.send(signal.SIGHUP)
    m.wait_log("reload: the new configuration cannot be used")
    assert "workerz" in m.log and m.workers() == old and get(m.address)


def full_pipe():
    """(reader, writer): a pipe that takes nothing more."""
    reader, writer = os.pipe()
    fill(writer)
    return reader, writer


def fill(writer):
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 65536)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)


def test_bad_configuration_while_nobody_reads_standard_error(master):
    """What a reload finds wrong waits for a reader; the master does not."""
    reader, writer = os.pipe()
    m = master(config="workers: 1", wait=False, preexec_fn=lambda: os.dup2(writer, 2))
    try:
        with open(reader, "rb", closefd=False, buffering=0) as said:
            text = b""
            while b"worker 0 is ready" not in text:
                text += said.read(4096)
        fill(writer)
        m.config.write_text("workers: many\n")
        for _ in range(3):
            m.send(signal.SIGHUP)
            time.sleep(0.05)
        m.send(signal.SIGTTIN)
        eventually(lambda: len(m.workers()) == 2)
        # Whoever reads late reads all of it.
        os.set_blocking(reader, False)
        text = b""

        def read():
            nonlocal text
            with contextlib.suppress(BlockingIOError):
                while more := os.read(reader, 65536):
                    text += more
            return text.count(b"the new configuration cannot be used") >= 1 and b"SIGTTIN: " in text

        eventually(read)
        assert re.search(rb"ringcorn: \S*ringcorn.yaml:1: workers", text), text[-2000:]
        fill(writer)
        assert m.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_a_start_that_fails_while_nobody_reads_the_terminal(master, tmp_path):
    reader, writer = full_pipe()
    try:
        m = master("--log-file", tmp_path / "log", modes={"all": "exit=3"}, wait=False, preexec_fn=lambda: os.dup2(writer, 2))
        assert m.wait(15) == 3
        assert "could not start" in (tmp_path / "log").read_text()
    finally:
        os.close(reader)
        os.close(writer)


def test_reload_changes_the_number_of_workers(master):
    m = master("--bind", "127.0.0.1:0", config="workers: 1\n").ready(1)
    m.config.write_text("workers: 3\n")
    m.send(signal.SIGHUP)
    m.ready(4)
    assert len(eventually(lambda: len(m.workers()) == 3 and m.workers())) == 3
    eventually(lambda: {get(m.address).slot for _ in range(100)} == {0, 1, 2})
    m.config.write_text("workers: 1\n")
    m.send(signal.SIGHUP)
    m.wait_log("reloaded", 2)
    eventually(lambda: len(m.workers()) == 1)
    assert {get(m.address, timeout=2).slot for _ in range(60)} == {0}


def test_reload_changes_binds(master, tmp_path):
    a, b, path = free_port(), free_port(), tmp_path / "app.sock"
    m = master("-w", "2", config=f"bind: ['127.0.0.1:{a}', 'unix:{path}']\n").ready(2)
    m.config.write_text(f"bind: ['127.0.0.1:{a}', '127.0.0.1:{b}']\n")
    with load(("127.0.0.1", a)) as threads:
        m.send(signal.SIGHUP)
        m.wait_log("reloaded")
        m.wait_log(f"no longer listening on unix:{path}")
        time.sleep(0.2)
    assert failures(threads) == []
    assert get(("127.0.0.1", b)) and not path.exists()
    m.config.write_text(f"bind: ['127.0.0.1:{b}']\n")
    m.send(signal.SIGHUP)
    m.wait_log(f"no longer listening on 127.0.0.1:{a}")
    eventually(lambda: refused(("127.0.0.1", a)))
    assert {get(("127.0.0.1", b), timeout=2).slot for _ in range(60)} == {0, 1}


def test_connections_to_a_bind_that_goes_are_answered(master):
    """What is in the queue of an address when it leaves the configuration is served, not reset."""
    a, b = free_port(), free_port()
    m = master("-w", "2", config=f"bind: ['127.0.0.1:{a}']\n").ready(2)
    m.config.write_text(f"bind: ['127.0.0.1:{b}']\n")
    results, over = [], threading.Event()

    def client():
        while not over.is_set():
            try:
                s = connect(("127.0.0.1", a), timeout=8)
            except ConnectionRefusedError:
                results.append("refused")
                return
            with s:
                try:
                    ask(s, close=True)
                    results.append("answered")
                except Exception as e:
                    results.append(repr(e))
                    return

    threads = [threading.Thread(target=client) for _ in range(6)]
    for t in threads:
        t.start()
    time.sleep(0.2)
    m.send(signal.SIGHUP)
    for t in threads:
        t.join(20)
    over.set()
    assert set(results) == {"answered", "refused"} and results.count("refused") == 6, set(results)


def test_reload_from_one_address_to_all(master):
    port = free_port()
    m = master(config=f"bind: ['127.0.0.1:{port}']\n").ready(1)
    m.config.write_text(f"bind: ['0.0.0.0:{port}']\n")
    m.send(signal.SIGHUP)
    m.wait_log("no longer listening on 127.0.0.1")
    assert get(("127.0.0.1", port)) and get(("127.0.0.2", port))


@pytest.mark.parametrize("first", [True, False])
def test_reuse_port_of_an_address_stays_until_the_next_start(master, first):
    port = free_port()
    text = "bind: ['127.0.0.1:%d']\nworkers: 2\nreuse_port: %s\n"
    m = master(config=text % (port, str(first).lower())).ready(2)
    m.config.write_text(text % (port, str(not first).lower()))
    with load(("127.0.0.1", port)) as threads:
        m.send(signal.SIGHUP)
        m.wait_log("reuse_port: 127.0.0.1:.* until the next start")
        m.wait_log("reloaded")
        time.sleep(0.2)
    assert failures(threads) == []
    assert {get(("127.0.0.1", port), timeout=2).slot for _ in range(200)} == {0, 1}


def test_reload_to_a_port_in_use_keeps_the_old(master):
    port = free_port()
    m = master(config=f"bind: ['127.0.0.1:{port}']\n").ready(1)
    with socket.create_server(("127.0.0.1", 0)) as s:
        m.config.write_text(f"bind: ['127.0.0.1:{s.getsockname()[1]}']\n")
        m.send(signal.SIGHUP)
        m.wait_log("the port is in use")
        m.wait_log("the old one and its workers stay")
    assert get(("127.0.0.1", port))


def test_reload_that_fails_opens_nothing(master):
    a, b = free_port(), free_port()
    m = master(config=f"bind: ['127.0.0.1:{a}']\n").ready(1)
    m.modes(all="exit=3")
    m.config.write_text(f"bind: ['127.0.0.1:{b}']\n")
    m.send(signal.SIGHUP)
    m.wait_log("the old workers and their configuration stay")
    assert get(("127.0.0.1", a)) and refused(("127.0.0.1", b))


def test_unix_file_that_was_removed_is_made_again(master, tmp_path):
    path = tmp_path / "app.sock"
    m = master("--bind", f"unix:{path}").ready(1)
    path.unlink()
    m.send(signal.SIGHUP)
    m.wait_log("reloaded")
    assert get(path)
    m.wait_log("no longer listening")
    assert get(path) and path.exists()


def test_worker_killed_during_a_reload(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    m.modes(all="boot_ms=300")
    m.tag("two")
    m.send(signal.SIGHUP)
    m.wait_log("reloading")
    for pid in m.workers()[:2]:
        os.kill(pid, signal.SIGKILL)
    m.wait_log("reloaded")
    eventually(lambda: {get(m.address).tag for _ in range(40)} == {"two"} and len(m.workers()) == 2)


def test_term_during_a_reload(master):
    m = master("--bind", "127.0.0.1:0", "-w", 2).ready(2)
    m.modes(all="hang")
    m.send(signal.SIGHUP)
    m.wait_log("reloading")
    time.sleep(0.1)
    assert m.stop(timeout=3) == 0


# ------------------------------------------------------------------ pid file, logs, user, limits


def test_pid_file(master, tmp_path):
    path = tmp_path / "pid"
    m = master("--bind", "127.0.0.1:0", "--pid", path)
    assert path.read_text() == f"{m.pid}\n"
    fails(master("--bind", "127.0.0.1:0", "--pid", path, wait=False), 1, rf"pid_file .*: process {m.pid}, which it names, is running")
    assert path.read_text() == f"{m.pid}\n"
    assert m.stop() == 0
    assert not path.exists()


def test_stale_pid_file_is_replaced(master, tmp_path):
    path = tmp_path / "pid"
    gone = subprocess.Popen(["true"])
    gone.wait()
    path.write_text(f"{gone.pid}\n")
    m = master("--bind", "127.0.0.1:0", "--pid", path)
    assert path.read_text() == f"{m.pid}\n"


def test_pid_file_moves_on_reload(master, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    m = master("--bind", "127.0.0.1:0", config=f"pid_file: {a}\n").ready(1)
    m.config.write_text(f"pid_file: {b}\n")
    m.send(signal.SIGHUP)
    m.wait_log("reloaded")
    assert not a.exists() and b.read_text() == f"{m.pid}\n"


def test_workers_drop_to_a_user(master, tmp_path):
    if not IS_ROOT:
        pytest.skip("needs root")
    (tmp_path / "log").mkdir(mode=0o700)  # only root gets in: the files are opened before
    log, access = tmp_path / "log" / "error", tmp_path / "log" / "access"
    m = master("--bind", "127.0.0.1:0", "--user", "nobody", "--log-file", log, "--access-log", "--access-logfile", access, wait=False)
    eventually(lambda: log.exists() and "listening on" in log.read_text())
    address = ("127.0.0.1", int(re.search(r"http://127.0.0.1:(\d+)", log.read_text())[1]))
    assert get(address).uid == NOBODY
    status = Path(f"/proc/{m.workers()[0]}/status").read_text()
    assert re.search(rf"^Uid:(\s+{NOBODY}){{4}}$", status, re.M)
    assert re.search(r"^Gid:\s+(\d+)(\s+\1){3}$", status, re.M)
    assert "0" not in re.search(r"^Groups:(.*)$", status, re.M)[1].split()
    assert eventually(lambda: "access" in access.read_text())
    assert os.stat(f"/proc/{m.pid}").st_uid == 0


def test_logs_are_reopened(master, tmp_path):
    log, access = tmp_path / "error.log", tmp_path / "access.log"
    m = master("--bind", "127.0.0.1:0", "-w", 2, "--log-file", log, "--access-log", "--access-logfile", access, wait=False)
    eventually(lambda: log.exists() and log.read_text().count("is ready") == 2)
    address = ("127.0.0.1", int(re.search(r"http://127.0.0.1:(\d+)", log.read_text())[1]))
    get(address)
    eventually(lambda: access.read_text())
    log.rename(tmp_path / "error.log.1")
    access.rename(tmp_path / "access.log.1")
    m.send(signal.SIGUSR1)
    eventually(lambda: log.exists() and "reopened" in log.read_text())

    def both_write():
        get(address)
        return access.exists() and len(set(access.read_text().split()[1::2])) == 2

    eventually(both_write)
    for pid in m.workers():
        os.kill(pid, signal.SIGUSR2)
    eventually(lambda: log.read_text().count("fake: stacks") == 2)
    old = (tmp_path / "access.log.1").read_text()
    get(address)
    assert (tmp_path / "access.log.1").read_text() == old


def test_boot_error_reaches_the_terminal_and_the_log_file(master, tmp_path):
    log = tmp_path / "error.log"
    m = master("--bind", "127.0.0.1:0", "--log-file", log, modes={"all": "exit=3"}, wait=False)
    fails(m, 3, "worker 0 could not start")
    assert "fake: Traceback" in log.read_text() and "could not start" in log.read_text()


def test_connections_are_lowered_to_the_descriptors(master):
    import resource

    m = master("--bind", "127.0.0.1:0", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024)))
    m.wait_log(r"limits.connections: 10000 do not fit into 1024 descriptors, 768 are allowed")
    assert "Max open files            1024                 1024" in Path(f"/proc/{m.workers()[0]}/limits").read_text()


def test_hang_up_of_the_terminal_does_not_kill_workers(master):
    m = master("--bind", "127.0.0.1:0", modes={"all": "boot_ms=100"}).ready(1)
    m.modes()
    for pid in m.workers():
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGUSR1)
    time.sleep(0.2)
    assert "died" not in m.log and get(m.address)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_signals_and_deaths(master, tmp_path, seed):
    """Whatever comes in between, in the end the right number of workers serves every address, and TERM ends it."""
    import random

    rng = random.Random(seed)
    ports = [free_port(), free_port()]
    path = tmp_path / "app.sock"

    def config():
        binds = [f"127.0.0.1:{ports[0]}", *rng.sample([f"127.0.0.1:{ports[1]}", f"unix:{path}"], rng.randrange(3))]
        return f"bind: {binds!r}\nworkers: {rng.randrange(1, 4)}\nreuse_port: {rng.choice(['true', 'true', 'false'])}\n"

    m = master(config=config())
    with load(("127.0.0.1", ports[0]), keep=1, close=1) as threads:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            what = rng.choice(["hup", "hup", "ttin", "ttou", "kill", "term", "usr1", "mode"])
            if what == "hup":
                m.config.write_text(config())
                m.send(signal.SIGHUP)
            elif what == "mode":
                m.modes(**rng.choice([{}, {}, {"_1": "exit=3"}, {"all": "boot_ms=200"}, {"_0": "drain_ms=100"}]))
            elif what in ("kill", "term"):
                for pid in rng.sample(workers := m.workers(), min(1, len(workers))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            else:
                m.send(getattr(signal, f"SIG{what.upper()}"))
            time.sleep(rng.random() * 0.15)
            if m.process.poll() is not None:
                break
        m.modes()
        if m.process.poll() is None:
            m.config.write_text(f"bind: ['127.0.0.1:{ports[0]}', 'unix:{path}']\nworkers: 2\n")
            m.send(signal.SIGHUP)
            eventually(lambda: path.exists() and m.log.rstrip().splitlines() and len(m.workers()) == 2, 20)
            time.sleep(0.5)
    if m.process.poll() is not None:  # five boots of slot 1 in a row failed: a crash loop, and said so
        assert m.process.returncode == 3 and "giving up" in m.log
        return
    eventually(lambda: len(m.workers()) == 2 and {get(("127.0.0.1", ports[0]), timeout=2).slot for _ in range(40)} == {0, 1}, 30)
    assert get(path)
    assert not [f for f in failures(threads) if "timed out" in f[1]]
    assert m.stop() == 0
