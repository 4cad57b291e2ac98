"""Both logs: no line is lost, nobody waits for who reads them, one order, every form that they have."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import harness
import pytest
import wire

ID = re.compile(r"[0-9a-f]{32}")


class Load:
    """Clients that ask for /hello?<number>, each number once, and note which were answered."""

    def __init__(self, server, clients=4):
        self.server, self.answered, self.ends, self.lock, self.next = server, set(), False, threading.Lock(), 0
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def number(self):
        with self.lock:
            self.next += 1
            return self.next

    def run(self):
        while not self.ends:
            try:
                with self.server.connect() as c:
                    while not self.ends:
                        n = self.number()
                        if c.get(f"/hello?n={n}").status == 200:
                            self.answered.add(n)
            except (OSError, wire.Closed):
                time.sleep(0.005)  # its worker was killed

    def stop(self):
        self.ends = True
        for thread in self.threads:
            thread.join(30)


def numbers(*paths):
    return [int(n) for path in paths for n in re.findall(r"/hello\?n=(\d+) ", path.read_text())]


def test_a_killed_worker_loses_no_line(server, tmp_path):
    path = tmp_path / "access.log"
    s = server("raw:app", "--workers", "2", "--access-logfile", path)
    s.check_live = False
    load = Load(s)
    for _ in range(6):
        time.sleep(0.4)
        os.kill(s.workers()[0], signal.SIGKILL)
        s.expect_errors(r"died: signal 9")
        wire.eventually(lambda: len(s.workers()) == 2, within=20)
    load.stop()
    s.stop()
    logged = numbers(path)
    assert len(load.answered) > 100
    assert not load.answered - set(logged), "answered, and without a line"
    assert len(logged) == len(set(logged)), "lines that came twice"


def test_files_that_rotate_lose_no_line(server, tmp_path):
    path, old = tmp_path / "access.log", []
    s = server("raw:app", "--workers", "2", "--access-logfile", path)
    load = Load(s)
    for i in range(8):
        time.sleep(0.15)
        old.append(tmp_path / f"access.log.{i}")
        path.rename(old[-1])
        s.send_signal(signal.SIGUSR1)
        wire.eventually(path.exists)
    load.stop()
    s.stop()
    logged = numbers(path, *old)
    assert len(load.answered) > 100 and sorted(load.answered) == sorted(n for n in logged if n in load.answered)


def test_a_reader_that_does_not_read_stops_nobody(server, tmp_path):
    """What waits is bounded, the rest is counted: lines read and lines lost are all the requests."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        s = server("raw:app", "--access-logfile", fifo)
        asked = 0
        with s.connect() as c:
            for asked in range(1, 1501):
                assert c.get(f"/hello?n={asked}&" + "x" * 6000).status == 200
        got, deadline = b"", time.monotonic() + 30
        lost = 0
        while time.monotonic() < deadline and got.count(b"\n") + lost < asked:
            try:
                got += os.read(reader, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)
            lost = sum(int(n) for n in re.findall(r"the access log was not read fast enough: (\d+) lines lost", s.log))
        lines = [int(n) for n in re.findall(rb"/hello\?n=(\d+)&", got)]
        assert lost > 0 and len(lines) + lost == asked
        assert lines == sorted(lines) and lines[0] == 1
        s.stop()
    finally:
        os.close(reader)


def test_lines_of_c_and_python_are_in_one_order(server, tmp_path):
    """Both logs in one place: what a request says stands before its own line, and after that of the request before."""
    config = tmp_path / "logging.json"
    config.write_text(json.dumps(ROOT_TO_US))
    s = server("logging_app:app", "--access-logfile", "/dev/stderr", "--log-config", config)
    with s.connect() as c:
        for n in range(300):
            assert c.get(f"/say?n={n}").status == 200
    s.stop()
    found = re.findall(r"(said|/say\?)\s?n=(\d+)", s.log)
    assert found == [(kind, str(n)) for n in range(300) for kind in ("said", "/say?")]


def test_when_the_master_dies_lines_are_written_all_the_same(server, tmp_path):
    path = tmp_path / "access.log"
    s = server("raw:app", "--access-logfile", path)
    s.check_live = False
    with s.connect() as c:
        c.get("/hello?n=1")
        wire.eventually(lambda: 1 in numbers(path))
        c.send(b"GET /slow?s=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        s.process.kill()
        assert c.response().status == 200
    s.wait_exit()
    assert s.err.wait("the master is gone", 10)
    wire.eventually(lambda: "/slow?s=1" in path.read_text())
    wire.eventually(lambda: not harness.of_session(s.pid), within=20)


# ------------------------------------------------------------------ forms

HOSTILE = [b"/\"\\\x01\x1f", b"/\xff\xfe\xc3(", "/gr\u00fc\u00df/\u20ac".encode(), b"/%00%22%0a%ff", b"/{}[],:"]


def test_json_always_parses(server):
    s = server("raw:app", "--access-log", "--access-logformat", "json", "--log-format", "json", "--request-id")
    for path in HOSTILE:
        for header in (b"plain", b"\"}\\", b"\xff\xfe\xc3(", "gr\u00fc\u00df".encode()):
            with s.connect() as c:
                c.send(b"GET " + path + b"?q=1 HTTP/1.1\r\nHost: h\r\nUser-Agent: " + header + b"\r\nReferer: " + header + b"\r\n\r\n")
                c.response()
    s.get("/hello?last")
    assert s.out.wait('"query":"last"', 5)
    s.stop()
    access = [json.loads(line) for line in s.out.lines]
    assert len(access) == 4 * len(HOSTILE) + 1
    for one in access:
        assert {"time", "pid", "client", "status", "bytes", "duration"} < set(one)
    last = access[-1]
    assert (last["method"], last["path"], last["protocol"], last["status"], last["bytes"]) == ("GET", "/hello", "HTTP/1.1", 200, 13)
    assert ID.fullmatch(last["request_id"]) and last["referer"] is None
    assert "gr\u00fc\u00df" in {one["user_agent"] for one in access}
    errors = [json.loads(line) for line in s.err.lines if line.startswith("{")]
    assert errors and all({"time", "level", "pid", "logger", "message"} <= set(one) for one in errors)
    assert all("live: " in line for line in s.err.lines if not line.startswith("{"))  # what a signal asked for


def test_a_line_has_a_longest_length(server):
    """Beyond it the message is cut, and of a traceback the end is kept."""
    s = server("logging_app:app", "--log-format", "json")
    s.expect_errors(r"exception")
    with s.connect() as c:
        c.send(b"GET /fail-long HTTP/1.1\r\nHost: a\r\n\r\n")
        assert c.response().status == 500
    match = s.err.wait(r'^(\{.*"exception":.*\})$', 10)
    one = json.loads(match[1])
    assert 60000 < len(one["exception"]) < 100000 and one["exception"].endswith("the end")


def test_json_of_errors_has_the_exception(server):
    s = server("logging_app:app", "--log-format", "json", "--request-id")
    s.expect_errors(r"exception")
    assert s.get("/fail?a=b", {"X-Request-ID": "mine-1"}).status == 500
    match = s.err.wait(r'^(\{.*"exception":.*\})$', 5)
    one = json.loads(match[1])
    assert one["level"] == "error" and one["worker"] == 0 and one["message"] == "GET /fail: exception" and one["request_id"] == "mine-1"
    assert one["exception"].startswith("Traceback") and one["exception"].endswith("RuntimeError: failed a=b")


ATOMS = {
    "%(h)s %(l)s %(u)s": r"127\.0\.0\.1 - joe",
    "%(t)s": r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]",
    "%(r)s|%(s)s|%(m)s|%(U)s|%(q)s|%(H)s": r"GET /say/x%20y\?n=1 HTTP/1\.1\|200\|GET\|/say/x y\|n=1\|HTTP/1\.1",
    "%(b)s %(B)s": r"4 4",
    "%(f)s %(a)s": r"http://from/ me/1",
    "%(T)s %(M)s %(D)s %(L)s": r"0 \d+ \d+ 0\.\d{6}",
    "%(p)s": r"<\d+>",
    "%({x-one}i)s %({X-None}i)s": r"1 -",
    "%({Content-Type}o)s": r"text/plain",
    "%({request_method}e)s %({HTTP_X_ONE}e)s %({wsgi.url_scheme}e)s %({SERVER_PROTOCOL}e)s": r"GET 1 http HTTP/1\.1",
}  # fmt: skip
FORMAT = " ~ ".join(ATOMS)
ASK = {"Authorization": "Basic am9lOnB3", "Referer": "http://from/", "User-Agent": "me/1", "X-One": "1", "Connection": "close"}


def test_atoms_are_gunicorns(server, tmp_path):
    """The same format, the same request, both servers: each atom reads alike."""
    s = server("logging_app:wsgi", "--access-log", "--access-logformat", FORMAT)
    s.get("/say/x%20y?n=1", ASK)
    ours = s.out.wait(r"^(.* ~ .*)$", 5)[1]
    for (atom, pattern), text in zip(ATOMS.items(), ours.split(" ~ "), strict=True):
        assert re.fullmatch(pattern, text), (atom, text)
    gunicorn = Path(harness.ROOT / "build" / "bench-venv" / "bin" / "gunicorn")
    if not gunicorn.exists():
        pytest.skip("gunicorn is not there: make bench installs it")
    from ports import free_port

    port = free_port()
    process = subprocess.Popen(
        [gunicorn, "--bind", f"127.0.0.1:{port}", "--chdir", harness.APPS, "--access-logfile", "-", "--access-logformat", FORMAT, "logging_app:wsgi"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=harness.environment({"VIRTUAL_ENV": None}),
    )  # fmt: skip
    try:
        out = harness.Collector(process.stdout)
        request = f"GET /say/x%20y?n=1 HTTP/1.1\r\nHost: a\r\n{''.join(f'{k}: {v}{chr(13)}{chr(10)}' for k, v in ASK.items())}\r\n".encode()
        wire.eventually(lambda: answered(port, request), within=20)
        theirs = out.wait(r"^(.* ~ .*)$", 10)[1]
    finally:
        process.terminate()
        process.wait(20)
    for (atom, pattern), text in zip(ATOMS.items(), theirs.split(" ~ "), strict=True):
        assert re.fullmatch(pattern, text), (atom, text)


def answered(port, request):
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            s.sendall(request)
            return s.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@pytest.mark.parametrize(
    "options, says",
    [
        (("--access-logformat", "%(x)s"), r"access-logformat.*has %\(x\)s, which is no atom"),
        (("--access-logformat", "50%"), r"has a % that begins no %\(atom\)s"),
        (("--access-logformat", "%({foo}e)s"), r"variable foo, which the server does not know"),
        (("--access-log-sample", "2"), r"is no part of a whole"),
        (("--request-id-header", "a b"), r"is not the name of a header"),
        (("--log-config", "/none.json"), r"log-config.*cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said(options, says):
    run = harness.run("--check-config", *options)
    assert run.returncode in (1, 2) and re.search(says, run.stderr), run.stderr


def test_what_is_not_logged(server):
    s = server("raw:app", "--access-log", "--access-log-exclude", "/hello", "--access-log-exclude", "/static/", "--access-log-sample", "0")
    for path in ("/hello", "/static/x", "/none", "/hello?last"):
        s.get(path)
    assert s.out.wait("/none", 5)
    s.stop()
    assert len(s.out.lines) == 1


# ------------------------------------------------------------------ what a request is called


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_request_ids(server, interface):
    app = "logging_app:app" if interface == "asgi" else "logging_app:wsgi"
    s = server(app, "--access-log", "--access-logformat", "%(U)s %(id)s", "--request-id", "--request-id-respond")
    made = {s.get("/say").get("x-request-id") for _ in range(20)}
    assert len(made) == 20 and all(ID.fullmatch(one) for one in made)
    answer = s.get("/say", {"X-Request-ID": "from-the-proxy.1"})
    assert answer.body == b"from-the-proxy.1" and answer.get("x-request-id") == "from-the-proxy.1"
    assert s.out.wait("^/say from-the-proxy.1$", 5)
    for wrong in ("a b", "x" * 65, '"', "\u00e4"):
        body = s.get("/say", {"X-Request-ID": wrong}).body.decode()
        assert ID.fullmatch(body), wrong
    s.expect_errors("exception")
    s.get("/fail", {"X-Request-ID": "it-fails"})
    s.wait_log(r"GET /fail: exception \[request it-fails\]$")


def test_an_id_of_a_stranger_is_not_taken(server):
    s = server("logging_app:app", "--request-id", "--proxy-trusted", "10.1.1.1", "--request-id-header", "X-Trace")
    assert ID.fullmatch(s.get("/", {"X-Trace": "mine"}).body.decode())
    s = server("logging_app:app", "--request-id", "--request-id-header", "X-Trace")
    assert s.get("/", {"X-Trace": "mine"}).body == b"mine"


def test_no_ids_unless_wanted(server):
    s = server("logging_app:app")
    answer = s.get("/", {"X-Request-ID": "x"})
    assert answer.body == b"None" and answer.get("x-request-id") is None


# ------------------------------------------------------------------ Python's logging

ROOT_TO_US = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"us": {"class": "ringcorn.log.Handler"}},
    "root": {"level": "INFO", "handlers": ["us"]},
}
TO_FILE = {
    "version": 1,
    "filters": {"id": {"()": "ringcorn.log.RequestIdFilter"}},
    "formatters": {"line": {"format": "PY %(name)s %(request_id)s %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "py.log", "formatter": "line", "filters": ["id"]}},
    "loggers": {"ringcorn.access": {"level": "INFO", "handlers": ["file"]}, "ringcorn.error": {"handlers": ["file"]}},
    "root": {"level": "INFO", "handlers": ["file"]},
}


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_log_config(server, tmp_path, kind):
    config = tmp_path / f"logging.{kind}"
    config.write_text(json.dumps(TO_FILE))  # which is YAML too
    s = server("logging_app:app", "--log-config", config, "--request-id", cwd=tmp_path)
    s.get("/say?1", {"X-Request-ID": "one"})
    s.get("/thread?2", {"X-Request-ID": "two"})
    path = tmp_path / "py.log"
    wire.eventually(lambda: "GET /thread" in path.read_text())
    text = path.read_text()
    assert "PY app one said 1\n" in text and "PY app two said on a thread 2\n" in text
    assert re.search(r'^PY ringcorn\.access - 127\.0\.0\.1 .*"GET /say\?1 HTTP/1\.1" 200 ', text, re.M)
    assert "PY ringcorn.error - ringcorn " in text  # what the worker says of itself
    assert not s.out.lines


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_log_config_as_ini(server, tmp_path, interface):
    config = tmp_path / "logging.ini"
    config.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=us\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=INFO\nhandlers=us\n[handler_us]\nclass=ringcorn.log.Handler\nargs=()\n"
    )
    s = server("logging_app:app" if interface == "asgi" else "logging_app:wsgi", "--log-config", config, "--request-id")
    s.get("/say?1", {"X-Request-ID": "one"})
    s.wait_log(r"\] warning: said 1 \[request one\]$")
    if interface == "wsgi":
        return
    s.get("/fork?2", {"X-Request-ID": "two"})
    s.wait_log(r"\] warning: said by a child 2 \[request two\]$")


@pytest.mark.parametrize("text, says", [("{", "Expecting"), ('{"version": 7}', "Unsupported version"), ('{"version": 1, "handlers": {"x": {"class": "no.such"}}, "root": {"handlers": ["x"]}}', "x")])
def test_a_log_config_that_is_wrong(tmp_path, text, says):
    config = tmp_path / "logging.json"
    config.write_text(text)
    run = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--log-config", config, "raw:app")
    assert run.returncode == 2 and re.search(rf"^ringcorn: log\.config: {config}: .*{says}", run.stderr, re.M), run.stderr


# ------------------------------------------------------------------ for people


@pytest.mark.parametrize("no_color", [None, "1"])
def test_colours_on_a_terminal(no_color, tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [harness.BIN, "--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "raw:app"],
        stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, cwd=tmp_path, start_new_session=True,
        env=harness.environment({"TERM": "xterm", "NO_COLOR": no_color}),
    )  # fmt: skip
    os.close(slave)
    text = b""
    try:
        while b"listening on" not in text:
            text += os.read(master, 4096)
    finally:
        process.terminate()
        process.wait(20)
        os.close(master)
    assert (b"\x1b[32minfo\x1b[0m: " in text) == (no_color is None)
    assert (b"\x1b" in text) == (no_color is None)


def test_what_is_served_is_said(server):
    s = server("starlette_app:app")
    s.wait_log(r"info: ringcorn \S+ serves starlette_app:app \(ASGI, Starlette [\d.]+\) with CPython 3\.\d+\.\d+, I/O by (io_uring|epoll)$")
    s.wait_log(r"listening on http://127\.0\.0\.1:\d+ with 1 worker")


# An allocator (or a sanitizer) whose lock a thread holds while it begins, and a child wants: what is held at a fork stays so in the child.
HELD_BY_A_NEW_THREAD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *(*first)(void *);

static void *
begin(void *arg)
{
    poll(NULL, 0, 500);
    pthread_mutex_unlock(&lock);
    return first(arg);
}

int
pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
    if (first != NULL)
        return real(out, attr, run, arg);
    first = run;
    pthread_mutex_lock(&lock); /* for the new thread, which is about to come to it */
    return real(out, attr, begin, arg);
}

pid_t
fork(void)
{
    pid_t (*real)(void) = dlsym(RTLD_NEXT, "fork"), pid = real();
    if (pid == 0 && pthread_mutex_trylock(&lock) != 0) {
        (void)!write(2, "held at the fork\\n", 17);
        _exit(1); /* a real one would wait, for ever */
    }
    return pid;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None or harness.SANITIZED, reason="takes a C compiler, and the place of a sanitizer")
def test_no_worker_is_forked_while_the_thread_of_the_logs_begins(server, tmp_path):
    (tmp_path / "held.c").write_text(HELD_BY_A_NEW_THREAD)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "held.so", tmp_path / "held.c"], check=True)
    s = server("raw:app", env={"LD_PRELOAD": tmp_path / "held.so"})
    assert s.get("/hello").status == 200
    assert "held at the fork" not in s.log
