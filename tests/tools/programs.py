"""Other programs that tests need beside ours: each in a temporary folder, on a free port of the loopback, ended with us.

    with Redis() as redis:     # redis_server.py; nginx.py and chromium.py are others
        redis.port

A subclass says what it is called, which package it comes from, how it is started and when it is ready.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from ports import free_port

PR_SET_PDEATHSIG = 1
TRIES = 5  # a port may still be taken between its choice and its use


def end_with_parent(signum):
    """For preexec_fn: in the new process. Should we be killed, it gets that signal."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signum)


class Program:
    name = package = None  # of the program, and the Debian package that has it
    stop_signal = signal.SIGTERM
    port_is_taken = "Address already in use"  # what its log says then

    def __init__(self, port=None):
        """On that port, if it is free."""
        self.wanted = port
        self.folder = self.port = self.process = None

    def command(self):
        """Its command line, after the program's path; self.folder and self.port are there."""
        raise NotImplementedError

    def environment(self):
        return {**os.environ, "HOME": str(self.folder)}

    def is_ready(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def find(self):
        path = shutil.which(self.name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if path is None:
            raise FileNotFoundError(f"{self.name} is not installed: apt-get install {self.package}")
        return path

    # -- its life

    def __enter__(self):
        path = self.find()
        self.folder = Path(tempfile.mkdtemp(prefix=f"ringcorn-{self.name}-"))
        try:
            for _ in range(TRIES):
                self.port, self.wanted = self.wanted or free_port(), None
                if self.start(path):
                    return self
                if self.port_is_taken not in self.log():
                    break
            raise RuntimeError(f"{self.name} does not start:\n{self.log()[-3000:]}")
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exc):
        self.stop()

    def start(self, path):
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [path, *map(str, self.command())], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env=self.environment(), start_new_session=True, preexec_fn=end_with_parent(self.stop_signal),
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            if self.is_ready():
                return True
            time.sleep(0.02)
        self.end()
        return False

    def end(self):
        if self.process.poll() is not None:
            return
        pid = self.process.pid
        self.process.send_signal(self.stop_signal)
        deadline = time.monotonic() + 10
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)  # what it left behind: until we have waited for it the group is surely its own
        self.process.wait(10)

    def stop(self):
        if self.process is not None:
            self.end()
            self.process = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def log(self):
        try:
            return (self.folder / "log").read_text(errors="replace")
        except (FileNotFoundError, TypeError):
            return ""
