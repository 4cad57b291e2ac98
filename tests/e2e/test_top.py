"""ringcornctl top, on a terminal of its own."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import harness
import pytest
import wire

CTL = harness.BIN.with_name("ringcornctl")
SECONDS = 20 * harness.SLOW


def environment(path):
    return {**harness.environment(), "RINGCORN_CONTROL_SOCKET": str(path), "TERM": "xterm"}


class Terminal:
    """A pty, the program on it, and what its screen shows: as much of a terminal as top makes use of."""

    def __init__(self, path, *args, rows=24, columns=120):
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            [str(CTL), "top", *args], stdin=slave, stdout=slave, stderr=slave, env=environment(path), start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self.is_other, self.is_cursor, self.unread = False, True, ""

    def resize(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.lines, self.row, self.column = [""] * rows, 0, 0
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds=0.1):
        """Takes what has come. Whether something has."""
        if has_come := bool(select.select([self.master], [], [], seconds)[0]):
            self.unread += os.read(self.master, 65536).decode()
            whole = len(re.sub(r"(\x1b[^A-Za-z]*|\r)$", "", self.unread))  # the rest comes with the next
            self.take(self.unread[:whole])
            self.unread = self.unread[whole:]
        return has_come

    def take(self, text):
        for piece in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|\r\n|[^\x1b\r]+|[\x1b\r]", text):
            if piece == "\r\n":
                self.row, self.column = self.row + 1, 0
                assert self.row < self.rows, "the screen has scrolled"
            elif piece == "\r":
                self.column = 0
            elif not piece.startswith("\x1b"):
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + piece + line[self.column + len(piece) :]
                self.column += len(piece)
                assert self.column <= self.columns, "a line is too long"
            elif piece == "\x1b[H":
                self.row = self.column = 0
            elif piece == "\x1b[K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif piece in ("\x1b[J", "\x1b[2J"):
                self.lines[self.row + 1 :] = [""] * (self.rows - self.row - 1)
            elif piece in ("\x1b[?1049h", "\x1b[?1049l"):
                self.is_other = piece.endswith("h")
            elif piece in ("\x1b[?25l", "\x1b[?25h"):
                self.is_cursor = piece.endswith("h")
            else:
                assert piece.endswith("m"), repr(piece)

    def wait(self, pattern):
        """Until the screen shows it: the match."""
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            assert time.monotonic() < deadline, f"{pattern!r} is not on the screen:\n{self.text}"
            self.read()
        return found

    @property
    def text(self):
        return "\n".join(self.lines)

    def type(self, keys):
        os.write(self.master, keys)

    def wait_exit(self):
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        code = self.process.wait(1)
        self.read(0)
        return code

    def is_as_before(self):
        return not self.is_other and self.is_cursor and termios.tcgetattr(self.slave) == self.before

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    with contextlib.ExitStack() as stack:

        def start(*args, **kwargs):
            one = Terminal(*args, **kwargs)
            stack.callback(one.close)
            return one

        yield start


@pytest.fixture
def controlled(server, tmp_path):
    path = tmp_path / "control.sock"

    def start(*args):
        return server("raw:app", "--control-socket", path, *args)

    start.path = path
    return start


def test_what_is_on_the_screen(controlled, terminal):
    s = controlled("-w", 2)
    s.wait_workers(2)
    t = terminal(controlled.path, "--interval", "200ms")
    t.wait(rf"raw:app  serving .* pid {s.process.pid} .* 2 of 2 workers ready")
    assert t.is_other and not t.is_cursor
    for pid in s.workers():
        t.wait(rf"^ +\d +{pid} ready ")
    with s.connect() as slow, s.connect() as c:
        slow.send(b"GET /slow?s=4 HTTP/1.1\r\nHost: a\r\n\r\n")
        t.wait(r"^ +\d+\.\d s +\d in the application +GET /slow$")
        deadline = time.monotonic() + SECONDS
        while not re.search(r"requests/s [1-9][\d.]* .* p50 <?[\d.]+ ms", t.text):
            assert time.monotonic() < deadline, t.text
            c.get("/")
            t.read(0)
        t.wait("in hand 1 ")
        assert slow.response().status == 200
    t.wait("in hand 0 ")
    wire.eventually(lambda: (t.read(), "GET /slow" not in t.text)[1], SECONDS, "its end")


def test_other_sizes(controlled, terminal):
    controlled("-w", 2).wait_workers(2)
    t = terminal(controlled.path, "--interval", "10s")
    t.wait("REQUEST IN HAND")
    # At once, not with the next answer; no line is too long and nothing scrolls: the terminal here would say so.
    while t.read(0.5):
        pass  # what is drawn for the old size
    for rows, columns in ((6, 40), (2, 20), (30, 140)):
        t.resize(rows, columns)
        t.wait("^ringcorn")
        shown = r"MEMORY" if columns == 140 else "requests/s"
        t.wait(shown)
    t.wait("REQUEST IN HAND")


@pytest.mark.parametrize("how", ["q", "ctrl-c", "sigterm"])
def test_the_terminal_is_as_it_was(controlled, terminal, how):
    controlled()
    t = terminal(controlled.path)
    t.wait("serving")
    assert not t.is_as_before()
    if how == "sigterm":
        t.process.send_signal(signal.SIGTERM)
    else:
        t.type({"q": b"q", "ctrl-c": b"\x03"}[how])
    assert t.wait_exit() == 0
    assert t.is_as_before()


def test_ctrl_z(controlled, terminal):
    controlled()
    t = terminal(controlled.path)
    t.wait("serving")
    t.type(b"\x1a")
    wire.eventually(lambda: (t.read(), t.is_as_before())[1], SECONDS, "the terminal as it was")
    wire.eventually(lambda: harness.stat_fields(t.process.pid)[0] == "T", SECONDS, "the stop")
    t.lines = [""] * t.rows
    t.process.send_signal(signal.SIGCONT)
    t.wait("serving")
    assert t.is_other


def test_reload_and_restart(controlled, terminal):
    s = controlled()
    t = terminal(controlled.path, "--interval", "200ms")
    [old] = s.workers()
    t.wait(rf" {old} ready ")
    s.send_signal(signal.SIGHUP)
    t.wait("configuration 2 ")
    wire.eventually(lambda: (t.read(), " ready " in t.text and f" {old} " not in t.text)[1], SECONDS, "the new worker")
    assert "no news" not in t.text
    s.stop()
    t.wait(r"^no news for \d+ s, asking again: ")
    assert t.process.poll() is None
    s = controlled()
    t.wait(rf" pid {s.process.pid} ")
    wire.eventually(lambda: (t.read(), "no news" not in t.text)[1], SECONDS, "the end of the trouble")
    t.wait(rf" {s.workers()[0]} ready ")


def test_a_server_that_stands_still(controlled, terminal):
    s = controlled()
    t = terminal(controlled.path, "--interval", "200ms")
    t.wait("serving")
    os.kill(s.process.pid, signal.SIGSTOP)
    try:
        t.wait(r"^no answer for \d+ s; waiting$")
        t.type(b"q")
        assert t.wait_exit() == 0 and t.is_as_before()
    finally:
        os.kill(s.process.pid, signal.SIGCONT)


def test_without_a_terminal(controlled):
    s = controlled()
    p = subprocess.Popen([str(CTL), "top", "--interval=200ms"], stdout=subprocess.PIPE, text=True, env=environment(controlled.path))
    heads = []
    for line in p.stdout:
        assert "\x1b" not in line
        heads += [line] if line.startswith("ringcorn ") else []
        if len(heads) == 3:
            break
    p.stdout.close()  # a pipe that nobody reads ends it
    p.wait(SECONDS)
    assert all(f"pid {s.process.pid} " in line for line in heads)


def test_one_frame(controlled):
    s = controlled()
    r = subprocess.run(
        [str(CTL), "top", "--once", "--interval", "0.2"], capture_output=True, text=True, timeout=60 * harness.SLOW, env=environment(controlled.path)
    )
    assert (r.returncode, r.stderr) == (0, "")
    assert "\x1b" not in r.stdout and re.search(r"requests/s 0 ", r.stdout) and f" {s.workers()[0]} ready " in r.stdout


def test_mistakes(tmp_path):
    def top(*args):
        env = environment(tmp_path / "none.sock")
        return subprocess.run([str(CTL), "top", *args], capture_output=True, text=True, timeout=60 * harness.SLOW, env=env)

    r = top("--once")
    assert (r.returncode, r.stdout) == (1, "") and "does a server with this control.socket run?" in r.stderr
    for wrong in ("0", "soon", "1h", ""):
        r = top("--interval", wrong)
        assert r.returncode == 2 and "is not a time from 100ms to 3600s" in r.stderr
