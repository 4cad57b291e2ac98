"""Servers as processes: started on a free port, their CPU time and memory read, ended by their ids."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def tree(pid):
    """A process and all its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, queue = [], [pid]
    while queue:
        one = queue.pop()
        found.append(one)
        queue += parents.get(one, [])
    return found


def cpu_seconds(pid):
    """CPU time of the tree, to the nanosecond: the processes' CPU clocks (clock_getcpuclockid(3)). They count every thread, ended
    ones and the kernel's helpers of io_uring too."""
    total = 0.0
    for one in tree(pid):
        try:
            total += time.clock_gettime(~one << 3 | 2)
        except OSError:
            pass  # it ended meanwhile
    return total


def rss_kib(pid):
    total = 0
    for one in tree(pid):
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)[1])
        except (OSError, TypeError):
            pass
    return total


def answers(port, path, tls):
    try:
        bare = socket.create_connection(("127.0.0.1", port), 1)
        with tls.wrap_socket(bare) if tls else bare as s:
            # Keep-alive, and all of the answer is read: fastpysgi 0.6 ends when a client that asked for a close goes first.
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            s.settimeout(5)
            return s.recv(65536).startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
    except OSError:
        return False


class Running:
    """A server that answers `path` with 200. RuntimeError with the end of its output where it does not come up."""

    def __init__(self, name, command, port, path, env, cwd, tls=None, patience=20):
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()
        command = [str(part) for part in command]
        self.process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        deadline = time.monotonic() + patience
        while not answers(self.port, path, tls):
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.output()
                self.stop()
                raise RuntimeError(f"{name} does not answer: {' '.join(command)}\n{text}")
            time.sleep(0.05)

    def output(self):
        self.log.seek(0)
        return self.log.read()[-2000:].decode(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in tree(self.process.pid):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.process.wait()
        self.log.close()
