"""The master alone: the real one under ASan and UBSan, with workers that have no Python and fail as told (tests/e2e/fake_worker.c).

`from lone_master import master, program` gives a test module its fixtures."""

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import harness

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build" / "asan" / "fake_ringcorn"


@pytest.fixture(scope="session")
def program():
    """The master with fake workers, under ASan and UBSan."""
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    with open(PROGRAM.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that run tests, one builds it
        subprocess.run(["make", "-s", "VARIANT=asan", str(PROGRAM.relative_to(ROOT))], cwd=ROOT, check=True)
    return PROGRAM


def alive(pid):
    fields = harness.stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def eventually(what, timeout=10.0):
    timeout *= harness.SLOW
    deadline = time.monotonic() + timeout
    while True:
        if result := what():
            return result
        assert time.monotonic() < deadline, f"did not happen within {timeout} s"
        time.sleep(0.005)


class Master:
    """A running program. Its configuration is a file, so that SIGHUP finds another one."""

    def __init__(self, program, folder, args=(), config="", modes=None, tag="one", env=None, wait=True, pass_fds=(), preexec_fn=None):
        self.folder, self.fake = folder, folder / "fake"
        self.fake.mkdir(exist_ok=True)
        self.fake.chmod(0o755)
        self.modes(**(modes or {}))
        self.tag(tag)
        self.log_path = folder / "stderr"
        self.config = folder / "ringcorn.yaml"
        self.config.write_text(config)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RINGCORN_", "LISTEN_")) and k not in ("PORT", "WEB_CONCURRENCY")}
        environment |= {"FAKE": str(self.fake), "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99", **(env or {})}
        self.process = subprocess.Popen(
            [str(program), "-c", str(self.config), *map(str, args), "app:app"],
            stdin=subprocess.DEVNULL, stdout=open(folder / "stdout", "wb"), stderr=open(self.log_path, "ab"),
            cwd=folder, env=environment, start_new_session=True, pass_fds=pass_fds, preexec_fn=preexec_fn,
        )  # fmt: skip
        self.pid = self.process.pid
        if wait:
            self.wait_log(r"listening on ")

    def modes(self, **modes):
        """modes(all="exit=3") or modes(_1="hang"): what workers that start from now on do."""
        for path in self.fake.glob("mode*"):
            path.unlink()
        for name, text in modes.items():
            (self.fake / ("mode" if name == "all" else f"mode.{name[1:]}")).write_text(text)

    def tag(self, text):
        (self.fake / "tag").write_text(text)

    @property
    def log(self):
        return self.log_path.read_text()

    def wait_log(self, pattern, count=1, timeout=10):
        def look():
            found = re.findall(pattern, self.log)
            if len(found) < count and self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}, without {pattern!r}:\n{self.log}")
            return found if len(found) >= count else None

        deadline = time.monotonic() + timeout
        while not (found := look()):
            assert time.monotonic() < deadline, f"not logged {count} times within {timeout} s: {pattern}\n{self.log}"
            time.sleep(0.005)
        return found

    def ready(self, n, timeout=10):
        self.wait_log(r"worker \d+ is ready", n, timeout)
        return self

    @property
    def address(self):
        host, port = re.search(r"listening on http://(\S+):(\d+)", self.log).groups()
        return host.strip("[]"), int(port)

    def workers(self):
        return harness.children(self.pid)

    def send(self, signum):
        os.kill(self.pid, signum)

    def wait(self, timeout=10):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {timeout} s:\n{self.log}") from None

    def upgrade(self, timeout=10):
        """SIGUSR2, until the next program has taken over and the one before has ended."""
        count = self.log.count("has taken over") + 1
        self.send(signal.SIGUSR2)
        pid = int(self.wait_log(r"process (\d+) has taken over", count, timeout)[-1])
        adopted = harness.Adopted(pid)
        assert self.wait(timeout) == 0
        self.process, self.pid = adopted, pid

    def stop(self, signum=signal.SIGTERM, timeout=10):
        self.send(signum)
        return self.wait(timeout)

    def finish(self):
        left = self.workers()
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"SIGTERM did not end it:\n{self.log}") from None
        eventually(lambda: not any(map(alive, left)), 5)
        assert not re.search(r"Sanitizer|runtime error", self.log), self.log


@pytest.fixture
def master(program, tmp_path):
    running = []
    tmp_path.chmod(0o755)

    def start(*args, **kwargs):
        folder = tmp_path / str(len(running)) if running else tmp_path
        folder.mkdir(exist_ok=True)
        m = Master(kwargs.pop("program", program), folder, args, **kwargs)
        running.append(m)
        return m

    yield start
    for m in running:
        m.finish()


class Answer:
    def __init__(self, text):
        self.slot, self.pid, self.uid, self.tag = text.split()
        self.slot, self.pid, self.uid = int(self.slot), int(self.pid), int(self.uid)


def connect(address, timeout=5.0):
    family = socket.AF_UNIX if isinstance(address, (str, Path)) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(timeout)
    try:
        s.connect(str(address) if family == socket.AF_UNIX else address)
    except BaseException:
        s.close()
        raise
    return s


def ask(s, path="/", close=False):
    """One request. Returns the answer and whether the connection goes on; EOFError when not a byte came."""
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data or len(data) < data.index(b"\r\n\r\n") + 4 + int(re.search(rb"Length: (\d+)", data)[1]):
        more = s.recv(4096)
        if not more:
            if data:
                raise ConnectionError(f"cut off: {data!r}")
            raise EOFError
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    return Answer(body.decode()), b"Connection: close" not in head


def get(address, path="/", timeout=5.0):
    with connect(address, timeout) as s:
        return ask(s, path, close=True)[0]


def refused(address):
    try:
        connect(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


class Load(threading.Thread):
    """Closing clients, or one kept connection (a connection found closed before a byte of the answer is retried once)."""

    def __init__(self, address, keep):
        super().__init__(daemon=True)
        self.address, self.keep = address, keep
        self.over = threading.Event()
        self.failed, self.answers = [], []
        self.start()

    def run(self):
        s = None
        while not self.over.is_set():
            try:
                if not self.keep:
                    self.answers.append(get(self.address))
                    continue
                is_old = s is not None
                s = s or connect(self.address)
                try:
                    answer, goes_on = ask(s)
                except (EOFError, ConnectionResetError, BrokenPipeError):
                    s.close()
                    s = None
                    if not is_old:
                        raise
                    continue
                self.answers.append(answer)
                if not goes_on:
                    s.close()
                    s = None
            except Exception as e:
                self.failed.append((time.time(), repr(e)))
                s = None
        if s:
            s.close()


@contextlib.contextmanager
def load(address, keep=2, close=2):
    threads = [Load(address, True) for _ in range(keep)] + [Load(address, False) for _ in range(close)]
    try:
        yield threads
    finally:
        for t in threads:
            t.over.set()
        for t in threads:
            t.join(10)
    assert all(t.answers for t in threads)


def failures(threads):
    return [f for t in threads for f in t.failed]
