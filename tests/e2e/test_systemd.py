"""What the master says to a service manager (sd_notify) and takes from it (sockets), with this test in systemd's place."""

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import harness
import pytest
import wire

ROOT = Path(__file__).resolve().parents[2]


class Manager:
    """Listens on NOTIFY_SOCKET and keeps what it is told."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.told = []

    def read(self, seconds):
        self.socket.settimeout(seconds)
        try:
            self.told.append(self.socket.recv(4096).decode())
        except TimeoutError:
            return False
        return True

    def wait(self, pattern, since=0, within=15):
        """The first message from number `since` on that matches."""

        def found():
            while not any(re.search(pattern, text) for text in self.told[since:]):
                if not self.read(0.05):
                    return False
            return True

        wire.eventually(found, within * harness.SLOW, f"{pattern} in {self.told}")
        return next(text for text in self.told[since:] if re.search(pattern, text))

    def close(self):
        self.socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"\0ringcorn-test-{os.getpid()}"
    m = Manager(address)
    m.name = address.replace("\0", "@")
    yield m
    m.close()


def test_ready_reloading_stopping(server, manager):
    s = server("raw:app", "-w", "2", env={"NOTIFY_SOCKET": manager.name})
    assert manager.wait("READY=1").splitlines() == ["READY=1", f"MAINPID={s.pid}"]
    manager.wait("STATUS=2 of 2 workers ready$")
    assert not any("WATCHDOG" in text for text in manager.told)
    since = len(manager.told)
    s.send_signal(signal.SIGHUP)
    reloading = manager.wait("RELOADING=1", since)
    assert re.search(r"\nMONOTONIC_USEC=\d{6,}$", reloading)
    manager.wait("READY=1", since)
    assert manager.told.index(reloading, since) < next(i for i, t in enumerate(manager.told) if i >= since and "READY=1" in t)
    manager.wait("STATUS=2 of 2 workers ready$", since)
    since = len(manager.told)
    with s.connect() as c:  # somebody is still being served: else a stop is over before there is a status
        c.send(wire.request("GET", "/slow?s=1"))
        s.send_signal(signal.SIGTERM)
        manager.wait("^STOPPING=1$", since)
        manager.wait(r"STATUS=stopping: 0 of 2 workers ready, [12] leaving", since)
        assert c.response().status == 200
    assert s.wait_exit(10) == 0


def test_not_ready_before_the_application_is(server, manager):
    s = server("lifespans:slow_start", env={"NOTIFY_SOCKET": manager.name}, wait=False)
    manager.wait("STATUS=0 of 1 workers ready, 1 starting")
    assert not any("READY=1" in text for text in manager.told)
    manager.wait("READY=1")
    s.wait_listening()


def test_a_reload_that_fails_is_over_too(server, manager):
    s = server("raw:app", config="workers: 1\n", env={"NOTIFY_SOCKET": manager.name})
    manager.wait("READY=1")
    (s.cwd / "ringcorn.yaml").write_text("worker: 1\n")
    s.expect_errors("the new configuration cannot be used")
    since = len(manager.told)
    s.send_signal(signal.SIGHUP)
    manager.wait("RELOADING=1", since)
    manager.wait("READY=1", since)


def test_watchdog_while_a_loop_turns(server, manager):
    s = server("raw:app", env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "600000"})
    manager.wait("WATCHDOG=1")
    for _ in range(2):
        manager.wait("WATCHDOG=1", since=len(manager.told))
    worker = s.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        # It goes on for ten seconds, the time a loop may be silent, then stops.
        wire.eventually(lambda: manager.read(2.0) is False, 20, "silence")
    finally:
        os.kill(worker, signal.SIGCONT)
    manager.wait("WATCHDOG=1", since=len(manager.told))


def test_watchdog_of_another_process_is_none_of_ours(server, manager):
    server("raw:app", env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"})
    manager.wait("STATUS=1 of 1")
    manager.read(0.6)
    assert not any("WATCHDOG" in text for text in manager.told)


def test_variables_are_not_the_application_s(server, tmp_path):
    m = Manager(str(tmp_path / "notify"))
    s = server("raw:app", env={"NOTIFY_SOCKET": tmp_path / "notify", "WATCHDOG_USEC": "9000000"})
    m.wait("READY=1")
    environ = Path(f"/proc/{s.workers()[0]}/fd")
    assert not any("notify" in os.readlink(fd) for fd in environ.iterdir())
    names = s.get("/environ").text
    assert "NOTIFY_SOCKET" not in names and "WATCHDOG" not in names and "PATH" in names
    m.close()


def test_a_socket_that_is_not_there_is_a_warning(server):
    s = server("raw:app", env={"NOTIFY_SOCKET": "/nowhere/notify"})
    s.wait_log("warning: the service manager cannot be told anything: NOTIFY_SOCKET /nowhere/notify: No such file")
    assert s.get("/").status == 200


def test_socket_activation(server, tmp_path):
    """As systemd does it: descriptors from 3 on, LISTEN_PID is the process that becomes the server."""
    path = str(tmp_path / "app.sock")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        os.dup2(tcp.fileno(), 203)
        os.dup2(unix.fileno(), 204)
        play = (
            "import os, sys\nos.dup2(203, 3), os.dup2(204, 4), os.closerange(5, 300)\n"
            "os.environ |= dict(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')\nos.execv(sys.argv[1], sys.argv[1:])\n"
        )
        try:
            s = server("raw:app", bind="systemd", pass_fds=(203, 204), prefix=(sys.executable, "-c", play), wait=False)
        finally:
            os.close(203)
            os.close(204)
        s.wait_log("worker 0 is ready")
        s.baseline()
        for address in (tcp.getsockname(), path):
            assert s.get("/", address=address).status == 200
        assert "LISTEN_" not in s.get("/environ", address=path).text
        assert s.stop() == 0


def test_sockets_of_another_process_are_refused(tmp_path):
    told = harness.run("--app-dir", harness.APPS, "--bind", "systemd", "raw:app", env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert told.returncode == 1 and "systemd passed no socket" in told.stderr


# ------------------------------------------------------------------ the units


def unit(name):
    parsed = configparser.ConfigParser(interpolation=None, strict=True)
    parsed.optionxform = str
    parsed.read(ROOT / "docker" / name)
    return parsed


def test_the_unit_fits_the_defaults():
    service = unit("ringcorn.service")["Service"]
    defaults = harness.run("--print-config", "raw:app").stdout

    def seconds(key):
        return int(re.search(rf"^  {key}: (\d+)s$", defaults, re.M)[1])

    assert int(service["TimeoutStopSec"]) > seconds("graceful") + 3
    assert int(service["TimeoutStartSec"]) > seconds("startup")
    assert int(service["WatchdogSec"]) > 10  # what a loop may be silent
    assert service["Type"] == "notify" and service["KillMode"] == "mixed"
    options = service["ExecStart"].split()[1:]
    assert options[-2:] == ["--bind", "systemd"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not there")
def test_systemd_reads_the_units(tmp_path):
    for name in ("ringcorn.service", "ringcorn.socket"):
        text = (ROOT / "docker" / name).read_text()
        text = text.replace("/srv/mysite/.venv/bin/ringcorn", str(harness.BIN)).replace("=mysite", "=root").replace("=www-data", "=root")
        (tmp_path / name).write_text(text)
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "ringcorn.service"), str(tmp_path / "ringcorn.socket")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    ours = [line for line in (told.stdout + told.stderr).splitlines() if str(tmp_path) in line or line.startswith("ringcorn.")]
    assert not ours, ours
