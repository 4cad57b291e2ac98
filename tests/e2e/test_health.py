"""health.live and health.ready, on the application's addresses and on one of their own; ringcorn --healthcheck."""

import os
import re
import signal
import time

import certs
import harness
import pytest
import wire

PATHS = ("--health-live", "/health/live", "--health-ready", "/health/ready")


def health_address(server):
    host, port = server.wait_log(r"health: .* on http://([\d.]+):(\d+)").groups()
    return host, int(port)


def test_paths_are_the_applications_by_default(server):
    s = server("raw:app", shared=True)
    assert s.get("/health/live").status == 404


def test_answered_without_the_application_and_its_log(server):
    s = server("raw:app", "--access-log", *PATHS)
    with s.connect() as c:
        for path in ("/health/live", "/health/ready", "/health/ready?verbose=1"):
            answer = c.request("GET", path)
            assert (answer.status, answer.body) == (200, b"OK\n")
        answer = c.request("HEAD", "/health/live")
        assert (answer.status, answer.body) == (200, b"")
        assert c.request("POST", "/health/live", [("Content-Length", "2")], b"hi").status == 404
        assert c.request("GET", "/health/live", [("Content-Length", "2")], b"hi").status == 200
        assert c.request("GET", "/health").status == 404
        assert c.request("GET", "/").status == 200
    s.stop()
    text = "\n".join(s.out.lines)
    assert '"GET / HTTP/1.1" 200' in text and '"POST /health/live' in text and '"GET /health/live' not in text


def test_answered_in_a_pipeline_in_order(server):
    s = server("raw:app", *PATHS, shared=True)
    with s.connect() as c:
        one = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
        c.send(one % b"/health/live" + one % b"/nothing" + one % b"/health/ready")
        assert [c.response().status for _ in range(3)] == [200, 404, 200]


def test_ready_ends_with_the_drain(server):
    s = server("raw:app", *PATHS, "--graceful-timeout", "5s")
    with s.connect() as c, s.connect() as slow:
        assert c.request("GET", "/health/ready").status == 200
        slow.send(b"GET /slow?s=1.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        c.send(b"GET /health/ready HT")  # half of a request keeps the connection when the others are closed
        s.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        c.send(b"TP/1.1\r\nHost: a\r\n\r\n")
        answer = c.response()
        assert (answer.status, answer.get("connection")) == (503, "close")
        assert slow.response().status == 200
    assert s.wait_exit() == 0


def test_own_address_serves_nothing_else(server):
    s = server("raw:app", *PATHS, "--health-bind", "127.0.0.1:0", "--workers", "2")
    s.wait_workers(2)
    at = health_address(s)
    live, ready = s.get("/health/live", address=at), s.get("/health/ready", address=at)
    assert (live.status, ready.status) == (200, 200)
    assert live.body.startswith(b"live\nworker ") and ready.body.startswith(b"ready\nworker ")
    assert s.get("/", address=at).status == 404
    assert s.request("HEAD", "/health/ready", address=at).status == 200
    assert s.get("/health/live").status == 404


def test_own_address_answers_while_the_application_starts_and_drains(server):
    s = server("lifespans:slow_start", *PATHS, "--health-bind", "127.0.0.1:0", "--graceful-timeout", "5s", wait=False)
    at = health_address(s)
    ready = s.get("/health/ready", address=at)
    assert ready.status == 503 and b"worker 0" in ready.body and b"boots" in ready.body
    assert s.get("/health/live", address=at).status == 200
    s.wait_listening()
    assert s.get("/health/ready", address=at).status == 200
    with s.connect() as c:
        c.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        s.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        ready = s.get("/health/ready", address=at)
        assert (ready.status, ready.body.splitlines()[0]) == (503, b"not ready: the server stops")
        assert s.get("/health/live", address=at).status == 200
        assert c.response().status == 200
    assert s.wait_exit() == 0


@pytest.mark.slow
def test_a_worker_that_hangs_is_told_and_spares_the_others(server):
    s = server("raw:app", *PATHS, "--health-bind", "127.0.0.1:0", "--workers", "2")
    at = health_address(s)
    s.wait_log("worker 1 is ready")
    s.settle()
    first, second = s.workers()
    try:
        os.kill(first, signal.SIGSTOP)
        assert s.get("/health/ready", address=at).status == 200
        os.kill(second, signal.SIGSTOP)
        ready = s.get("/health/ready", address=at)
        assert ready.status == 503 and ready.body.count(b"has not turned for") == 2
        assert s.get("/health/live", address=at).status == 200  # not for long enough yet
        time.sleep(10.5)
        live = s.get("/health/live", address=at)
        assert live.status == 503 and live.body.startswith(b"not live\n")
        os.kill(second, signal.SIGCONT)
        assert wire.eventually(lambda: s.get("/health/live", address=at).status == 200, 5, "one loop that turns")
    finally:
        os.kill(first, signal.SIGCONT)
        os.kill(second, signal.SIGCONT)
    assert wire.eventually(lambda: s.get("/health/ready", address=at).status == 200, 5, "readiness")


def test_reload_moves_the_address(server, tmp_path):
    config = "health:\n  live: /live\n  bind: 127.0.0.1:0\n"
    s = server("raw:app", config=config)
    at = health_address(s)
    assert s.get("/live", address=at).status == 200
    (s.cwd / "ringcorn.yaml").write_text("health:\n  live: /alive\n  bind: unix:health.sock\n")
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", since=since)
    assert s.get("/alive", address=str(s.cwd / "health.sock")).status == 200
    assert s.get("/live", address=str(s.cwd / "health.sock")).status == 404
    (s.cwd / "ringcorn.yaml").write_text("")
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", since=since)
    assert not (s.cwd / "health.sock").exists()
    wire.eventually(lambda: len(s.workers()) == 1, 5 * harness.SLOW, "the end of the old worker")
    s.settle()


def check(*args, **kwargs):
    return harness.run("--healthcheck", *args, **kwargs)


def test_healthcheck_says_how_it_is(server):
    s = server("raw:app", *PATHS, "--health-bind", "127.0.0.1:0")
    host, port = health_address(s)
    told = check(*PATHS, "--health-bind", f"{host}:{port}")
    assert told.returncode == 0 and re.match(rf"{host}:{port}/health/ready: 200\nready\nworker 0 ", told.stdout)
    told = check("--health-live", "/health/live", env={"RINGCORN_HEALTH_BIND": f"{host}:{port}"})
    assert told.returncode == 0 and "/health/live: 200\nlive\n" in told.stdout
    told = check("--health-ready", "/nothing", "--health-bind", f"{host}:{port}")
    assert told.returncode == 1 and "/nothing: 404" in told.stdout
    worker = s.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    told = check(*PATHS, "--health-bind", f"{host}:{port}")
    os.kill(worker, signal.SIGCONT)
    assert told.returncode == 1 and "not ready\nworker 0" in told.stdout and "has not turned" in told.stdout


def test_healthcheck_asks_the_application_s_address_where_there_is_no_other(server, tmp_path):
    s = server("raw:app", *PATHS)
    told = check(*PATHS, "--bind", f"0.0.0.0:{s.port}")
    assert (told.returncode, told.stdout) == (0, f"0.0.0.0:{s.port}/health/ready: 200\nOK\n")
    path = tmp_path / "app.sock"
    server("raw:app", *PATHS, bind=f"unix:{path}")
    assert check(*PATHS, "--uds", path).returncode == 0


def test_healthcheck_says_why_it_cannot_ask(tmp_path):
    for args, why in (
        ((), "health.ready and health.live are off"),
        ((*PATHS, "--bind", "127.0.0.1:0"), "cannot be asked; set health.bind"),
        ((*PATHS, "--bind", "systemd"), "cannot be asked; set health.bind"),
        ((*PATHS, "--bind", "127.0.0.1:1"), "127.0.0.1:1: Connection refused"),
        ((*PATHS, "--uds", tmp_path / "none.sock"), "No such file"),
    ):
        told = check(*args, cwd=tmp_path)
        assert told.returncode == 1 and why in told.stderr, (args, told)
    told = check("--health-bind", "127.0.0.1:1", cwd=tmp_path)
    assert told.returncode == 2 and "answers nothing" in told.stderr


@pytest.mark.parametrize("proxy", [False, True], ids=["TLS", "PROXY protocol"])
def test_healthcheck_where_connections_begin_with_something_else(server, tmp_path, proxy):
    """A handshake, or a proxy's header: it says what to do, and works with an address of its own, or a plain one."""
    cert, key = certs.Authority().issue("localhost").write(tmp_path, "server")
    options = ("--proxy-protocol", "auto") if proxy else ("--certfile", cert, "--keyfile", key)
    s = server("raw:app", *PATHS, *options, bind=["127.0.0.1:0", "http://127.0.0.1:0"])
    s.tls, s.check_live = None if proxy else certs.client(), not proxy  # at the end it is asked without a header
    told = check(*PATHS, *options, "--bind", f"127.0.0.1:{s.port}")
    why = "as connections begin with a header of the PROXY protocol" if proxy else "as it speaks TLS"
    assert told.returncode == 1 and f"127.0.0.1:{s.port} cannot be asked, {why}; set health.bind" in told.stderr
    plain = f"127.0.0.1:{s.addresses[1][1]}"
    told = check(*PATHS, *options, "--bind", f"127.0.0.1:{s.port}", "--bind", f"http://{plain}")
    if proxy:
        assert told.returncode == 1 and "cannot be asked" in told.stderr, told
    else:
        assert told.returncode == 0 and "/health/ready: 200\nOK\n" in told.stdout, told
    s = server("raw:app", *PATHS, *options, "--health-bind", "127.0.0.1:0")
    s.tls, s.check_live = None if proxy else certs.client(), not proxy
    host, port = health_address(s)
    told = check(*PATHS, *options, "--bind", f"127.0.0.1:{s.port}", "--health-bind", f"{host}:{port}")
    assert told.returncode == 0 and "/health/ready: 200\nready\n" in told.stdout


def test_healthcheck_gives_up_in_time(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        at = f"127.0.0.1:{silent.getsockname()[1]}"
        told = check(*PATHS, "--bind", at, "--health-timeout", "300ms")
    assert told.returncode == 1 and "no answer within 300 ms" in told.stderr


def test_defaults_of_an_image_are_below_everything(tmp_path):
    (tmp_path / "image.yaml").write_text("bind: 0.0.0.0:8000\nworkers: 7\nhealth:\n  live: /live\nheaders:\n  X-A: image\n")
    env = {"RINGCORN_DEFAULTS": tmp_path / "image.yaml"}

    def printed(*args, **more):
        told = harness.run("--print-config", *args, cwd=tmp_path, env={**env, **more})
        assert told.returncode == 0, told.stderr
        return told.stdout

    assert 'bind: ["0.0.0.0:8000"]' in printed() and "workers: 7" in printed()
    assert "workers: 3" in printed(WEB_CONCURRENCY=3) and "workers: 4" in printed("-w", "4")
    assert 'bind: ["0.0.0.0:9000"]' in printed(PORT=9000)
    (tmp_path / "ringcorn.yaml").write_text("workers: 2\nbind: 127.0.0.1:1234\nheaders:\n  X-B: mine\nhealth:\n  live: off\n")
    text = printed()
    assert "workers: 2" in text and 'bind: ["127.0.0.1:1234"]' in text and "X-A" not in text and "live: null" in text
    told = harness.run("--print-config", env={"RINGCORN_DEFAULTS": tmp_path / "none.yaml"})
    assert told.returncode == 1 and "RINGCORN_DEFAULTS: cannot read" in told.stderr
