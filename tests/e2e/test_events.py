"""events.command and events.webhook: each kind that can be made to happen, and what the master does when nobody listens."""

import http.server
import json
import os
import re
import signal
import socket
import ssl
import threading
import time

import certs
import harness
import pytest
import wire
from certs import DAY

APP = """
import ctypes, os, threading, time

keep_the_gil = ctypes.PyDLL(None).usleep

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    what, _, n = scope["path"][1:].partition("/")
    if what == "block":
        time.sleep(float(n))
    elif what == "gil":
        threading.Timer(0.3, keep_the_gil, [int(float(n) * 1e6)]).start()
    elif what == "wait":
        await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""

SLOW_APP = """
import time

def app(environ, start_response):
    time.sleep(1)
    start_response("200 OK", [])
    return [b"late"]
"""


@pytest.fixture
def told(tmp_path):
    """What the command was told, as it is now."""

    def read():
        path = tmp_path / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture
def program(tmp_path):
    """program(*lines): a script that keeps what it is told in order, beside what the lines do. Its path."""

    def write(*lines, name="alert"):
        path = tmp_path / name
        path.write_text("\n".join(["#!/bin/sh", *lines, f"cat >>{tmp_path}/told", ""]))
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def serve(server, tmp_path):
    (tmp_path / "eventful.py").write_text(APP)

    def start(*args, app="eventful:app", **options):
        s = server(app, "--app-dir", tmp_path, *args, app_dir=None, **options)
        s.check_live = False
        return s

    return start


def wait_told(told, kind, n=1):
    """The events of a kind, once there are n."""

    def found():
        events = [event for event in told() if event["kind"] == kind]
        return events if len(events) >= n else None

    return wire.eventually(found, 20 * harness.SLOW, f"{n} of {kind}: {told()}")


def kill_a_worker(s):
    since, pid = len(s.err.lines), int(re.findall(r"worker 0 is ready \(pid (\d+)", s.log)[-1])  # its siblings may be commands
    s.expect_errors("died: signal 9")
    os.kill(pid, signal.SIGKILL)
    s.wait_log("worker 0 is ready", since=since)
    return pid


# ------------------------------------------------------------------ kinds


def test_a_worker_that_died(serve, program, told):
    s = serve("--events-command", program(), "--name", "mysite")
    pid = kill_a_worker(s)
    (event,) = wait_told(told, "worker_died")
    assert event.pop("time").endswith("Z") and event.pop("details").pop("lived_ms") > 0
    assert event.pop("what").startswith("worker 0 died: signal 9 (KILL)")
    assert event == {
        "kind": "worker_died", "host": socket.gethostname(), "name": "mysite", "server_pid": s.pid, "worker": 0, "pid": pid, "suppressed": 0,
    }  # fmt: skip


def test_a_hung_worker(serve, program, told):
    s = serve("--events-command", program(), "--timeout-worker", "1s")
    s.expect_errors("hangs: its loop has not turned")
    with s.connect() as c:
        c.send(b"GET /block/60 HTTP/1.1\r\nHost: x\r\n\r\n")
        (event,) = wait_told(told, "worker_hung")
    assert event["details"]["stood_ms"] >= 1000 and "application code blocks it" in event["what"]
    wire.eventually(lambda: s.log.count("worker 0 is ready") == 2, 20 * harness.SLOW, "another worker")
    assert not [e for e in told() if e["kind"] == "worker_died"]


def test_a_blocked_loop(serve, program, told, tmp_path):
    """For a second; what is shorter is for the log alone."""
    s = serve("--events-command", program(), "--events-interval", "off")
    assert s.get("/block/0.3").status == 200
    assert s.get("/block/1.1").status == 200
    (event,) = wait_told(told, "loop_blocked")
    line = next(n for n, text in enumerate(APP.splitlines(), 1) if "time.sleep" in text)
    place = f"{tmp_path}/eventful.py:{line} in app"
    assert event["worker"] == 0 and event["pid"] == s.workers()[0] and event["details"].pop("blocked_ms") >= 1000
    assert event["details"].pop("cure") == "use await asyncio.sleep()"
    assert event["details"] == {"request": "GET /block/1.1", "place": place}
    assert re.search(rf"worker 0 is blocked for 1\.\d s, .*: GET /block/1\.1 at {place}: time\.sleep", event["what"])
    # Not the loop's own code, and with no stack while it lasts: it is told at the end.
    assert s.get("/gil/1.8").status == 200
    time.sleep(0.6)
    assert s.get("/").status == 200
    event = wait_told(told, "loop_blocked", 2)[1]
    assert "keeps the GIL" in event["what"] and event["details"]["blocked_ms"] >= 1000


def test_a_crash_loop_is_told_before_the_server_ends(serve, program, told, tmp_path):
    s = serve("--events-command", program("sleep 1"), "--events-kinds", "crash_loop")
    (tmp_path / "eventful.py").write_text("raise SystemError")
    s.expect_errors("died: ", "Traceback", "SystemError")
    os.kill(s.workers()[0], signal.SIGKILL)
    assert s.wait_exit(60) == 3
    (event,) = told()
    assert event["kind"] == "crash_loop" and event["details"]["times"] == 5


def test_a_failed_reload(serve, program, told, tmp_path):
    s = serve("--events-command", program(), "--events-kinds", "reload_failed", "--events-interval", "off")
    (tmp_path / "eventful.py").write_text("raise SystemError")
    s.expect_errors("the new worker did not start", "Traceback", "SystemError", "died: ")
    s.send_signal(signal.SIGHUP)
    (event,) = wait_told(told, "reload_failed")
    assert event["details"] == {"asked_by": "SIGHUP", "worker": 0} and "the old workers" in event["what"]
    assert s.get("/").status == 200


def test_a_configuration_that_cannot_be_used(serve, program, told, tmp_path):
    alert = program()
    s = serve(config=f"events:\n  command: {alert}\n")
    (s.cwd / "ringcorn.yaml").write_text("workers: many\n")
    s.expect_errors("the new configuration cannot be used")
    s.send_signal(signal.SIGHUP)
    (event,) = wait_told(told, "reload_failed")
    assert "the new configuration cannot be used" in event["what"]


def test_no_thread_is_free(serve, program, told, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_APP)
    s = serve("--events-command", program(), "--threads", 1, "--sync-queue", 1, "--sync-threads-max", 1, app="slow:app")
    connections = [s.connect() for _ in range(4)]
    for c in connections:
        c.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    statuses = sorted(c.response().status for c in connections)
    for c in connections:
        c.close()
    (event,) = wait_told(told, "pool_exhausted")
    assert statuses.count(503) >= 1 and event["details"]["refused"] == statuses.count(503)


def test_too_many_in_hand(serve, program, told):
    s = serve("--events-command", program(), "--limits-concurrency", 1, "--limits-queue", 1, "--limits-queue-timeout", "100ms")
    with s.connect() as c, s.connect() as d, s.connect() as e:
        c.send(b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
        time.sleep(0.2)
        d.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        e.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert d.response().status == e.response().status == 503
        (event,) = wait_told(told, "pool_exhausted")
        c.send(b"ok")
        assert c.response().status == 200
    assert 1 <= event["details"]["refused"] <= 2


def test_a_certificate_that_ends_soon(serve, program, told, tmp_path):
    authority = certs.Authority()
    cert, key = authority.issue("localhost", ends=2.5 * DAY).write(tmp_path, "soon")
    late, late_key = authority.issue("example.org", ends=300 * DAY).write(tmp_path, "late")
    args = ["--certfile", late, "--keyfile", late_key, "--certfile", cert, "--keyfile", key, "--tls-watch", "100ms"]
    s = serve("--events-command", program(), "--events-interval", "off", *args)
    s.tls = certs.client(authority)
    (event,) = wait_told(told, "certificate_expires")
    assert event["details"]["file"] == str(cert) and event["details"]["days_left"] == 2 and event["details"]["certificates"] == 1
    s.wait_log(r"warning: tls.cert: the certificate in \S+soon.pem ends on \S+, in 2 days: renew it")
    authority.issue("localhost", ends=-DAY / 2).write(tmp_path, "soon")
    event = wait_told(told, "certificate_expires", 2)[1]
    assert event["details"]["days_left"] == 0 and "has ended" in event["what"]
    authority.issue("localhost", ends=30 * DAY).write(tmp_path, "soon")
    s.wait_log("tls: files have changed", since=len(s.err.lines))
    assert len(told()) == 2


# ------------------------------------------------------------------ how often


def test_what_is_held_back_is_counted(serve, program, told):
    s = serve("--events-command", program(), "--events-kinds", "worker_died", "--events-interval", "5s")
    for _ in range(3):
        kill_a_worker(s)
    assert len(wait_told(told, "worker_died")) == 1
    time.sleep(5)
    kill_a_worker(s)
    assert [event["suppressed"] for event in wait_told(told, "worker_died", 2)] == [0, 2]


def test_only_what_was_asked_for(serve, program, told):
    s = serve("--events-command", program(), "--events-kinds", "reload_failed,crash_loop")
    kill_a_worker(s)
    time.sleep(0.5)
    assert told() == []


# ------------------------------------------------------------------ commands


def test_arguments_standard_streams_and_descriptors(serve, program, told, tmp_path):
    alert = program('echo "alert: $1|$2" >&2', "echo said", f"readlink /proc/$$/fd/* >{tmp_path}/fds")
    s = serve(config=f"events:\n  command: [{alert}, '--to', 'a b; $HOME']\nworkers: 2\n")
    s.wait_workers(2)
    kill_a_worker(s)
    wait_told(told, "worker_died")
    s.wait_log(r"^alert: --to\|a b; \$HOME$")
    s.wait_log("^said$")
    assert not s.out.lines
    # Two pipes, the event and standard error; the rest are files that the shell itself has open.
    assert len({name for name in (tmp_path / "fds").read_text().splitlines() if not name.startswith("/")}) == 2


@pytest.mark.parametrize(
    ("lines", "why"),
    [(["exit 7"], "it ended with exit code 7"), (["kill -11 $$"], "it was ended by signal 11")],
)
def test_a_command_that_fails_is_logged_once(serve, program, lines, why):
    s = serve("--events-command", program(*lines), "--events-interval", "1h")
    kill_a_worker(s)
    s.wait_log(rf"warning: events.command: an event \(worker_died\) was not told: {why}")


def test_a_command_that_is_not_there(serve):
    s = serve("--events-command", "no-such-program-at-all")
    kill_a_worker(s)
    s.wait_log("was not told: cannot execute no-such-program-at-all: No such file or directory")


def test_a_command_that_hangs_is_ended_with_the_server(serve, program, told):
    """And with what it has started; until then everything goes on."""
    s = serve("--events-command", program("sleep 1000 & echo $! >&2; wait"))
    kill_a_worker(s)
    child = int(s.wait_log(r"^(\d+)$")[1])
    assert s.get("/").status == 200
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", since=since)
    assert s.stop(timeout=20) == 0
    wire.eventually(lambda: not os.path.exists(f"/proc/{child}"), 5 * harness.SLOW, "the end of what it started")


# ------------------------------------------------------------------ the webhook


class Hook:
    """A server that keeps what is posted to it, and answers with a status; 0 = not at all."""

    def __init__(self, status=204, context=None):
        self.posts, self.status, self.ended = [], status, threading.Event()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append((self.path, dict(self.headers), json.loads(body)))
                if hook.status == 0:
                    hook.ended.wait(60)
                else:
                    self.send_response(hook.status)
                    self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.ended.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_posts(serve, program, told):
    with Hook() as hook:
        s = serve("--events-webhook", f"http://127.0.0.1:{hook.port}/hooks/1?key=a", "--events-command", program())
        kill_a_worker(s)
        wire.eventually(lambda: hook.posts, 10 * harness.SLOW)
        ((path, headers, event),) = hook.posts
        assert path == "/hooks/1?key=a" and headers["Content-Type"] == "application/json" and headers["Host"] == f"127.0.0.1:{hook.port}"
        assert wait_told(told, "worker_died") == [event]


@pytest.mark.parametrize("is_trusted", [True, False])
def test_posts_over_tls(serve, tmp_path, is_trusted):
    authority = certs.Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost").write(tmp_path, "hook"))
    with Hook(context=context) as hook:
        env = {"SSL_CERT_FILE": authority.write(tmp_path)} if is_trusted else {}
        s = serve("--events-webhook", f"https://localhost:{hook.port}/", env=env)
        kill_a_worker(s)
        if is_trusted:
            wire.eventually(lambda: hook.posts, 10 * harness.SLOW)
        else:
            s.wait_log("events.webhook: an event .worker_died. was not told: no TLS connection: ")
        assert len(hook.posts) == is_trusted


def test_a_certificate_for_somebody_else(serve, tmp_path):
    authority = certs.Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("example.org").write(tmp_path, "hook"))
    with Hook(context=context) as hook:
        s = serve("--events-webhook", f"https://localhost:{hook.port}/", env={"SSL_CERT_FILE": authority.write(tmp_path)})
        kill_a_worker(s)
        s.wait_log("was not told: no TLS connection: hostname mismatch")
        assert not hook.posts


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_answer_that_is_no(serve, status):
    with Hook(status) as hook:
        s = serve("--events-webhook", f"http://127.0.0.1:{hook.port}/")
        kill_a_worker(s)
        s.wait_log(rf"events.webhook: an event \(worker_died\) was not told: it answered: {status} ")


def test_nobody_is_there(serve):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    s = serve("--events-webhook", f"http://127.0.0.1:{port}/")
    kill_a_worker(s)
    s.wait_log("was not told: no connection: Connection refused")


def test_a_webhook_that_does_not_answer(serve):
    """The master goes on meanwhile: it replaces workers, and reloads."""
    with Hook(status=0) as hook:
        s = serve("--events-webhook", f"http://127.0.0.1:{hook.port}/", "--events-interval", "off", "--events-kinds", "worker_died")
        for _ in range(6):  # more than are told at a time
            kill_a_worker(s)
        since = len(s.err.lines)
        s.send_signal(signal.SIGHUP)
        s.wait_log("reloaded in", since=since)
        assert s.get("/").status == 200
        wire.eventually(lambda: len(hook.posts) == 4, 10 * harness.SLOW, "four at a time")
        s.wait_log("events.webhook: an event .worker_died. was not told: it took more than 10 s, and was ended", 30)
        assert [event["kind"] for _, _, event in hook.posts].count("worker_died") >= 4


# ------------------------------------------------------------------ the configuration


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://x/", "is not a URL such as"),
        ("https://", "has no host"),
        ("http://x:0/", "has a port that is not 1 to 65535"),
        ("http://x:99999/", "has a port that is not 1 to 65535"),
        ("http://[::1", "has a '[' without its ']'"),
        ("http://[::1]x/", "has neither a port nor a path"),
        ("http://me:secret@x/", "has a user's name in it"),
        ("http://x/#y", "has a fragment"),
        ("http://x?y", "has no path before its '?'"),
        ("http://x/a b", "has a byte that a URL writes as %XX"),
    ],
)
def test_wrong_urls(url, why):
    done = harness.run("--check-config", "--events-webhook", url)
    assert done.returncode == 2 and why in done.stderr


def test_wrong_commands(tmp_path):
    script = tmp_path / "alert"
    done = harness.run("--check-config", "--events-command", script)
    assert done.returncode == 2 and "No such file" in done.stderr
    script.write_text("#!/bin/sh\n")
    done = harness.run("--check-config", "--events-command", script)
    assert done.returncode == 2 and "cannot be executed" in done.stderr
