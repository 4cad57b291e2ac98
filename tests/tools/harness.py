"""Runs the real program for a test, and checks what it leaves behind.

Environment: RINGCORN_BIN is the program under test (build/ringcorn by default). What guardrails say is appended to the file that TEST_ALARMS
names, each line behind its test: whoever changes them sees what they say in all tests, which are the most applications that we have.
"""

import contextlib
import ctypes
import errno
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import peers
import wire

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "apps"
BIN = Path(os.environ.get("RINGCORN_BIN", ROOT / "build" / "ringcorn")).absolute()
SANITIZED = any(word in BIN.parent.name for word in ("asan", "tsan"))
SLOW = 5 if SANITIZED else 1  # patience, as a factor

LISTENING = re.compile(r"listening (?:on|at) (?:https?://)?(unix:\S+|\[[0-9a-fA-F:.]+\]:\d+|[^\s:]+:\d+)")
ERROR_LINE = re.compile(r"\] (error|critical): |AddressSanitizer|runtime error:|ThreadSanitizer|assertion", re.I)
ALARM = re.compile(
    r"blocks the event loop|keeps the GIL, and|was never awaited|outlives its request|nobody (has seen|asked)|by two tasks at once|wait for a thread, "
    r"|generator \S+ was left open|transaction was left open|the ORM is used|database '\w+' is used|raise CancelledError again"
)
TRACEBACK = "Traceback (most recent call last)"
LIVE_LINE = re.compile(r"\[(\d+)\].*?\blive: (.+)$")
# Counters that must be 0 once every client is gone; the others go back to where they were.
LIVE_ZERO = ("conns", "cycles", "chunks", "held", "read_blocks", "file_ops", "jobs", "leases")
LIVE_SAME = ("polls",)


def io_uring_refused():
    """Why this machine gives no ring, or None. EFAULT is the answer to our NULL pointer where it would."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(425, 1, None) < 0 and ctypes.get_errno() != errno.EFAULT:
        return os.strerror(ctypes.get_errno())
    return None


# ------------------------------------------------------------------ processes, read from /proc


def stat_fields(pid):
    """state, ppid, pgrp, session of a process, or None. Every look for children asks it of all processes: it has to be quick."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as f:
            text = f.read(4096)
    except OSError:
        return None
    state, ppid, pgrp, session = text.rpartition(b")")[2].split(None, 4)[:4]
    return state.decode(), int(ppid), int(pgrp), int(session)


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(name)
            if fields:
                yield int(name), *fields


def of_session(session):
    """Living processes of a session, zombies left out."""
    return [pid for pid, state, _, _, sid in processes() if sid == session and state not in "ZX"]


def children(pid):
    return sorted(child for child, state, ppid, _, _ in processes() if ppid == pid and state not in "ZX")


def is_preload(pid):
    """Whether a child of the master imports the application for the workers."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().endswith(":import\n")
    except OSError:
        return False


def descriptors(pid):
    """What a process holds open: target -> count."""
    found = {}
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for name in names:
        try:
            target = re.sub(r"\d+", "N", os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
        found[target] = found.get(target, 0) + 1
    return found


def catches(pid, signum):
    try:
        mask = int(re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[1], 16)
    except (OSError, TypeError):
        return False
    return bool(mask >> (signum - 1) & 1)


def environment(extra=None):
    """For the program: this test run's virtual environment, no settings of whoever runs the tests."""
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("RINGCORN_", "PYTEST_", "PYTHON")) and k not in ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")
    }
    env.pop("VIRTUAL_ENV", None)
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    if SANITIZED:
        env["PYTHONMALLOC"] = "malloc"
        env["ASAN_OPTIONS"] = "detect_leaks=0:abort_on_error=1"
        env["UBSAN_OPTIONS"] = "print_stacktrace=1"
        env["TSAN_OPTIONS"] = "die_after_fork=0"  # the master forks beside the thread that writes its logs
    for key, value in (extra or {}).items():
        if value is None:
            env.pop(key, None)
        else:
            env[key] = str(value)
    return env


def run(*args, timeout=30, env=None, cwd=None, **kwargs):
    """Runs the program to its end. The result has stdout and stderr as text."""
    return subprocess.run(
        [str(BIN), *map(str, args)], capture_output=True, text=True, timeout=timeout * SLOW, env=environment(env), cwd=cwd, **kwargs
    )


class Collector(threading.Thread):
    """Reads a pipe, line by line, into a list."""

    def __init__(self, pipe):
        super().__init__(daemon=True)
        self.pipe, self.lines, self.changed = pipe, [], threading.Condition()
        self.start()

    def run(self):
        for line in self.pipe:
            with self.changed:
                self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                self.changed.notify_all()
        self.pipe.close()

    def wait(self, pattern, timeout, since=0):
        """The first match in a line from number `since` on, or None."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                for line in self.lines[since:]:
                    if match := re.search(pattern, line):
                        return match
                since = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    return None


class Adopted:
    """A process that is no child of ours, with the methods of Popen; its exit code cannot be known."""

    def __init__(self, pid):
        self.pid, self.returncode = pid, None
        self.pidfd = os.pidfd_open(pid)

    def poll(self):
        if self.returncode is None and select.select([self.pidfd], [], [], 0)[0]:
            os.close(self.pidfd)
            self.returncode = 0
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None and not select.select([self.pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.poll()

    def kill(self):
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Server:
    """A running program. Made by the `server` fixture, which also checks and stops it."""

    def __init__(self, app, *args, io, bind="127.0.0.1:0", config=None, env=None, cwd=None, app_dir=APPS, wait=True, pass_fds=(), prefix=()):
        self.workers_awaited = 0
        command = [*prefix, str(BIN)]
        if config is not None:
            Path(cwd, "ringcorn.yaml").write_text(config)
            command += ["-c", "ringcorn.yaml"]
        if app_dir:
            command += ["--app-dir", str(app_dir)]
        if io:
            command += ["--io", io]
        for one in [bind] if isinstance(bind, str) else bind or []:
            command += ["--bind", one]
        command += [str(arg) for arg in args]
        if app:
            command.append(app)
        self.io, self.cwd, self.command = io, cwd, command
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=cwd, env=environment(env), start_new_session=True, pass_fds=pass_fds,
        )  # fmt: skip
        self.pid = self.session = self.process.pid
        self.out, self.err = Collector(self.process.stdout), Collector(self.process.stderr)
        self.tls = None  # an ssl.SSLContext: how the test's own questions are asked
        self.expected, self.slack, self.check_live, self.stopped = [], 0, True, None
        self.mark = 0
        self.addresses = []
        if wait:
            self.wait_listening()

    # -- its life

    def wait_listening(self, timeout=30):
        """Until it has said where it listens and a worker is there."""
        deadline = time.monotonic() + timeout * SLOW
        while time.monotonic() < deadline:
            found = [m[1] for line in self.err.lines if (m := LISTENING.search(line))]
            if found:
                break
            if self.process.poll() is not None:
                self.err.join(5)
                raise AssertionError(f"ended with {self.process.returncode} before it listened:\n{self.report}")
            time.sleep(0.005)
        else:
            self.kill()
            raise AssertionError(f"does not listen:\n{self.report}")
        for text in dict.fromkeys(found):
            if text.startswith("unix:"):
                self.addresses.append(text[5:])
            else:
                host, port = text.rsplit(":", 1)
                self.addresses.append((host.strip("[]"), int(port)))
        wire.eventually(lambda: self.workers() or self.process.poll() is not None, 10 * SLOW, "a worker")
        self.settle()

    def wait_workers(self, n):
        """Until n of them are ready: it says that it listens when the first one is."""
        if self.workers_awaited < n:
            self.workers_awaited = n
            for slot in range(n):
                self.wait_log(rf"worker {slot} is ready", 30)
            self.settle()

    def settle(self):
        """The baseline, once every worker has got its sockets: on a busy machine that may be a good moment after the line in the log."""
        before = None
        deadline = time.monotonic() + 2 * SLOW
        while time.monotonic() < deadline:
            now = {pid: descriptors(pid) for pid in self.workers()}
            if now == before and peers.all_listen(now):
                break
            before = now
            time.sleep(0.02)
        self.baseline()

    def baseline(self):
        self.held = {pid: descriptors(pid) for pid in self.workers()}
        self.live_before = {pid: live for pid in self.held if (live := self.live(pid)) is not None}

    @property
    def address(self):
        return self.addresses[0]

    @property
    def port(self):
        return self.address[1]

    @property
    def base(self):
        return f"http://{self.address[0]}:{self.port}"

    @property
    def log(self):
        return "\n".join(self.err.lines)

    @property
    def report(self):
        """The log for a failure's message: without the stacks that our questions for live counters print."""
        noise = re.compile(r"^(Current thread|Thread) 0x|^  File .*, line \d+ in |\blive: |^in hand|^$|^  \.\.\.")
        kept = [line for line in self.err.lines if not noise.search(line)]
        return "\n".join(kept[-80:])

    def workers(self):
        return [pid for pid in children(self.pid) if not is_preload(pid)]

    def preloads(self):
        """Processes that import the application for the workers."""
        return [pid for pid in children(self.pid) if is_preload(pid)]

    def send_signal(self, signum, pid=None):
        os.kill(pid or self.pid, signum)

    def wait_log(self, pattern, timeout=10, since=0):
        match = self.err.wait(pattern, timeout * SLOW, since)
        assert match, f"not logged within {timeout} s: {pattern}\n{self.report}"
        return match

    def wait_exit(self, timeout=10):
        try:
            self.stopped = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {timeout * SLOW} s:\n{self.report}") from None
        self.err.join(5)
        self.out.join(5)
        return self.stopped

    @contextlib.contextmanager
    def upgrading(self, timeout=20):
        """SIGUSR2; inside, the next program has taken over and the one before may be there still."""
        since = len(self.err.lines)
        self.send_signal(signal.SIGUSR2)
        adopted = Adopted(int(self.wait_log(r"process (\d+) has taken over", timeout, since)[1]))
        yield
        try:
            code = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the old master is still there after {timeout * SLOW} s:\n{self.report}") from None
        self.process, self.pid = adopted, adopted.pid
        assert code == 0, f"the old master ended with {code}\n{self.report}"

    def upgrade(self, timeout=20):
        with self.upgrading(timeout):
            pass

    def stop(self, signum=signal.SIGTERM, timeout=10):
        if self.process.poll() is None:
            self.send_signal(signum)
        return self.wait_exit(timeout)

    def kill(self):
        """Ends whatever is left of the session, by pid."""
        left = of_session(self.session)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        return left

    # -- talking to it

    def connect(self, timeout=10.0, address=None, **kwargs):
        kwargs.setdefault("tls", self.tls)
        return wire.Connection(address or self.address, timeout * SLOW, **kwargs)

    def request(self, method, target, headers=(), body=b"", timeout=10.0, address=None):
        """One request on a connection of its own."""
        with self.connect(timeout, address) as c:
            return c.request(method, target, [*(headers.items() if isinstance(headers, dict) else headers), ("Connection", "close")], body)

    def get(self, target, headers=(), **kwargs):
        return self.request("GET", target, headers, **kwargs)

    def post(self, target, body, headers=(), **kwargs):
        return self.request("POST", target, headers, body, **kwargs)

    def client(self, timeout=30):
        """http.client, for tests that are not about bytes."""
        return http.client.HTTPConnection(self.address[0], self.port, timeout=timeout * SLOW)

    def events(self):
        return json.loads(self.get("/events").body)

    def wait_event(self, name, pattern, timeout=10):
        return wire.eventually(
            lambda: re.search(pattern, self.events().get(name, "")), timeout * SLOW, f"event {name} ~ {pattern}"
        )

    # -- what a test declares

    def expect_errors(self, *patterns):
        """Error lines that belong to the test; with any, tracebacks are no surprise either."""
        self.expected += patterns

    def allow_descriptors(self, n):
        """The application keeps up to n more open than at the start (database files, pools)."""
        self.slack = n

    # -- checks

    def live(self, pid, timeout=2.0):
        """The live counters a worker reports on SIGUSR2, or None where it has no such report."""
        if not catches(pid, signal.SIGUSR2):
            return None
        since = len(self.err.lines)
        try:
            os.kill(pid, signal.SIGUSR2)
        except ProcessLookupError:
            return None
        match = self.err.wait(rf"\[{pid}\].*?\blive: (.+)$", timeout * SLOW, since)
        if match is None:
            return None
        return {name: int(value) for name, value in re.findall(r"(\w+)=(-?\d+)", match[1])}

    def leftovers(self):
        """What the workers still hold that they did not hold at the start; empty when all is given back."""
        problems = []
        for pid in self.workers():
            if pid not in self.held:
                continue
            live = self.live(pid) if self.check_live else None
            if live is not None:
                before = self.live_before.get(pid, {})
                problems += [f"worker {pid}: {k}={live[k]}" for k in LIVE_ZERO if live.get(k)]
                problems += [
                    f"worker {pid}: {k}={live[k]}, was {before[k]}" for k in LIVE_SAME if k in before and live.get(k, 0) > before[k] + self.slack
                ]
            now, then = descriptors(pid), self.held[pid]
            if sum(now.values()) > sum(then.values()) + self.slack:
                gained = {k: n - then.get(k, 0) for k, n in now.items() if n > then.get(k, 0)}
                problems.append(f"worker {pid} gained descriptors: {gained}")
        return problems

    def check_returned(self, within=5.0):
        """After the clients have gone: connections, requests, buffers and descriptors are back."""
        deadline = time.monotonic() + within * SLOW
        delay = 0.01
        while problems := self.leftovers():
            if time.monotonic() > deadline:
                raise AssertionError("; ".join(problems + peers.of_processes(self.workers())) + "\n" + self.report)
            time.sleep(delay)
            delay = min(delay * 2, 0.2)

    def wait_quiet(self, seconds=0.05):
        """Lines come by the master: one that belongs to the test may be on its way."""
        deadline = time.monotonic() + 2 * SLOW
        n = -1
        while n != len(self.err.lines) and time.monotonic() < deadline:
            n = len(self.err.lines)
            time.sleep(seconds)

    def check_log(self):
        """No error that the test did not declare since the last check, and every declared one was there."""
        if self.expected:
            self.wait_quiet()
        lines, self.mark = self.err.lines[self.mark :], len(self.err.lines)
        expected, self.expected = self.expected, []
        unexpected = []
        for line in lines:
            if ERROR_LINE.search(line) or (TRACEBACK in line and not expected):
                if not any(re.search(pattern, line) for pattern in expected):
                    unexpected.append(line)
        assert not unexpected, f"unexpected in the log: {unexpected}\n{self.report}"
        text = "\n".join(lines)
        for pattern in expected:
            assert re.search(pattern, text), f"expected in the log, and not there: {pattern}\n{self.report}"

    def note_alarms(self):
        if path := os.environ.get("TEST_ALARMS"):
            test = os.environ.get("PYTEST_CURRENT_TEST", "")
            with open(path, "a") as f:
                f.writelines(f"{test}: {line}\n" for line in self.err.lines if ALARM.search(line))

    def finish(self):
        """The end of a test's own server."""
        self.note_alarms()
        problem = None
        if self.process.poll() is None:
            try:
                self.check_returned()
            except AssertionError as e:
                problem = e
            code = self.stop()
            if code != 0:
                problem = problem or AssertionError(f"exit code {code} after SIGTERM\n{self.report}")
        elif self.stopped is None:
            problem = AssertionError(f"died by itself: {self.process.returncode}\n{self.report}")
        time.sleep(0)
        left = of_session(self.session)
        if left and problem is None:
            deadline = time.monotonic() + 2 * SLOW
            while left and time.monotonic() < deadline:
                time.sleep(0.02)
                left = of_session(self.session)
            if left:
                names = [Path(f"/proc/{p}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200] for p in left if os.path.exists(f"/proc/{p}")]
                problem = AssertionError(f"processes left behind: {left} {names}\n{self.report}")
        if problem:
            raise problem
        self.check_log()
