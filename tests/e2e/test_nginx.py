"""The samples of conf/nginx/ in a real nginx, word for word but for ports and paths."""

import hashlib
import os
import signal
import subprocess
import time

import harness
import nginx
import pytest
import wire

SOCK = "unix:/run/mysite.sock"


@pytest.fixture
def front(tmp_path):
    """front(sample, replaced, **options) -> an nginx; ended before the server is looked at: it keeps connections to it."""
    running = []

    def start(*args, **kwargs):
        running.append(nginx.Nginx(*args, **kwargs).__enter__())
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def behind(server, front, tmp_path):
    """behind(sample, app) -> the server on a unix socket, and nginx in front."""

    def start(sample, app="fronted:app", *args, replaced=(), **options):
        path = tmp_path / "mysite.sock"
        s = server(app, *args, bind=f"unix:{path}", **options)
        return s, front(sample, {SOCK: f"unix:{path}", **dict(replaced)})

    return start


def through(one, timeout=20):
    return wire.Connection(("127.0.0.1", one.port), timeout)


def ask(one, target="/", headers=(), method="GET", body=b""):
    with through(one) as c:
        return c.request(method, target, [("Host", f"127.0.0.1:{one.port}"), *headers], body)


def check_who(one):
    for headers, client, lies in [((), "127.0.0.1", []), ([("X-Forwarded-For", "192.0.2.1")], "127.0.0.1", ["192.0.2.1, 127.0.0.1"])]:
        told = ask(one, "/", [*headers, ("X-Forwarded-Proto", "https")]).json()
        # nginx adds whom it saw; what its client said stands to the left of that.
        assert (told["client"], told["scheme"], told["host"]) == ([client, 0], "http", f"127.0.0.1:{one.port}")
        assert told["forwarded"] == (lies or ["127.0.0.1"])


def test_tcp(server, front):
    s = server("fronted:app", "--forwarded-allow-ips", "127.0.0.1/32")
    one = front("tcp.conf", {"127.0.0.1:8000": f"127.0.0.1:{s.port}"})
    # The client is at 127.0.0.1 too: it is trusted, and so is what it says.
    assert ask(one, "/", [("X-Forwarded-For", "192.0.2.1")]).json()["client"] == ["192.0.2.1", 0]
    assert ask(one).json()["client"] == ["127.0.0.1", 0]


def test_unix(behind):
    s, one = behind("unix.conf", "fronted:app", "--forwarded-allow-ips", "unix")
    check_who(one)


def test_connections_are_kept(behind):
    s, one = behind("unix.conf")
    (worker,) = s.workers()
    before = sum(harness.descriptors(worker).values())
    for _ in range(50):
        assert ask(one).status == 200
    assert sum(harness.descriptors(worker).values()) - before <= 2, "nginx opened a connection for each request"


def test_slots(server, front, tmp_path):
    """Every worker gets its share, whichever connection of a client is used."""
    s = server("fronted:app", "--workers", 2, "--forwarded-allow-ips", "unix", bind=f"unix:{tmp_path}/mysite-{{slot}}.sock")
    wire.eventually(lambda: len(s.workers()) == 2 and s.log.count("is ready") == 2, 20, "two workers")
    s.settle()
    one = front("slots.conf", {f"unix:/run/mysite-{slot}.sock": f"unix:{tmp_path}/mysite-{slot}.sock" for slot in (0, 1)})
    check_who(one)
    seen = [ask(one).json()["pid"] for _ in range(40)]
    assert sorted(seen.count(pid) for pid in s.workers()) == [20, 20]
    # One dies: its sibling has its socket at once, and no request fails.
    pid = s.workers()[0]
    os.kill(pid, signal.SIGKILL)
    s.expect_errors(rf"pid {pid}\) died: signal 9")
    assert [ask(one).status for _ in range(40)] == [200] * 40
    wire.eventually(lambda: s.log.count("is ready") == 3, 20, "its successor")
    s.settle()


def test_what_came_by_a_siblings_socket_is_not_kept(server, tmp_path):
    """While a worker is away its sibling serves its socket, and keeps connections. Once it is back they end after an answer, or by
    themselves: nginx takes them for that worker's, and would try the sibling twice, were it to die next."""
    path = [tmp_path / f"mysite-{slot}.sock" for slot in (0, 1)]
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        f"while os.path.exists({str(tmp_path / 'wait')!r}): time.sleep(0.05)\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'x-pid', b'%d' % os.getpid())]})\n"
        "        await send({'type': 'http.response.body'})\n"
    )
    s = server("slow:app", "--workers", 2, "--lifespan", "off", bind=f"unix:{tmp_path}/mysite-{{slot}}.sock", app_dir=tmp_path)
    wire.eventually(lambda: s.log.count("is ready") == 2, 20, "two workers")
    s.settle()

    def pid_of(c):
        answer = c.get("/")
        return int(answer.get("x-pid")), answer.get("connection")

    with wire.Connection(str(path[0])) as own, wire.Connection(str(path[1])) as other:
        victim, sibling = pid_of(own)[0], pid_of(other)[0]
        (tmp_path / "wait").touch()
        s.expect_errors(rf"pid {victim}\) died: signal 9")
        os.kill(victim, signal.SIGKILL)
        s.wait_log("died: signal 9")
        with wire.Connection(str(path[0])) as idle, wire.Connection(str(path[0])) as used:
            assert pid_of(idle) == pid_of(used) == (sibling, None)
            (tmp_path / "wait").unlink()
            wire.eventually(lambda: s.log.count("is ready") == 3, 20, "its successor")
            wire.eventually(lambda: new_pid(path[0], pid_of) not in (victim, sibling), 10, "its socket")
            try:
                assert pid_of(used) == (sibling, "close")
            except (wire.Closed, BrokenPipeError, ConnectionResetError):  # on a slow machine it has ended already, as the other does
                pass
            assert idle.is_closed(10)
        assert pid_of(other) == (sibling, None), "what came by its own is kept"
    s.settle()


def new_pid(path, pid_of):
    with wire.Connection(str(path)) as c:
        return pid_of(c)[0]


def test_upstream_block_of_ringcornctl(server, front, tmp_path):
    """What the sample has in its upstream block is what ringcornctl prints, and nginx takes it."""
    bind = f"unix:{tmp_path}/mysite-{{slot}}.sock"
    server("fronted:app", bind=bind)
    ctl = harness.BIN.with_name("ringcornctl")
    block = subprocess.run([ctl, "nginx-upstream", "--bind", bind], capture_output=True, text=True, check=True, env=harness.environment()).stdout
    text = (nginx.SAMPLES / "slots.conf").read_text()
    begin, end = text.index("upstream ringcorn {"), text.index("server {")
    one = front("slots.conf", {text[begin:end]: block + "\n"})
    assert ask(one).status == 200


def test_events_are_not_buffered(behind):
    s, one = behind("streaming.conf")
    with through(one) as c:
        c.send(wire.request("GET", "/events", [("Host", "x")]))
        assert b"data: first\n\n" in c.until(b"data: first\n\n")
        assert ask(one, "/go-on").status == 200  # only now is there more
        assert b"data: second\n\n" in c.until(b"data: second\n\n")


@pytest.mark.parametrize("target, is_buffered", [("/slow", True), ("/upload", False)])
def test_uploads(behind, target, is_buffered):
    s, one = behind("streaming.conf")
    body = os.urandom(8 * 1024 * 1024)
    told = ask(one, target, method="POST", body=body).json()
    assert told == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    with through(one) as c:  # the first half, and then a pause
        c.send(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n".encode() + bytes(1_000_000))
        if is_buffered:
            time.sleep(0.3)
            assert ask(one, "/uploads").json()["size"] == len(body), "nothing of it has come to the application"
        else:
            wire.eventually(lambda: ask(one, "/uploads").json()["size"] == 1_000_000, 10, "the first half is with the application")
        c.send(bytes(1_000_000))
        assert c.response().json()["size"] == 2_000_000


def test_files(behind, tmp_path):
    for name in ("static", "protected"):
        (tmp_path / name).mkdir()
    (tmp_path / "static" / "style.css").write_text("body {}")
    (tmp_path / "protected" / "bill.pdf").write_bytes(b"%PDF" * 1000)
    s, one = behind("files.conf", replaced={"/srv/mysite/": f"{tmp_path}/"})
    style = ask(one, "/static/style.css")
    assert (style.body, style.get("cache-control")) == (b"body {}", "max-age=3600")
    assert ask(one, "/static/none").status == 404
    bill = ask(one, "/download?bill.pdf")
    assert (bill.status, bill.body) == (200, b"%PDF" * 1000)
    assert (bill.get("content-type"), bill.get("x-accel-redirect")) == ("application/pdf", None)
    assert ask(one, "/protected/bill.pdf").status == 404, "clients may not ask there"
    assert ask(one, "/health").body == b"ok"


def test_health_of_an_application_that_hangs(behind):
    s, one = behind("files.conf", "fronted:app_that_hangs")
    began = time.monotonic()
    assert ask(one, "/health").status == 504
    assert time.monotonic() - began > 1.5


def test_health_without_a_server(front, tmp_path):
    one = front("files.conf", {SOCK: f"unix:{tmp_path}/none.sock"})
    assert ask(one, "/health").status == 502


def test_proxy_protocol(server, front):
    """nginx's stream module passes bytes on: the client's own port is told, and keep-alive is the client's."""
    s = server("fronted:app", "--proxy-protocol", "v1")
    one = front("proxy-protocol.conf", {"server 127.0.0.1:8000": f"server 127.0.0.1:{s.port}"}, block="stream")
    with through(one) as c:
        for _ in range(3):
            told = c.request("GET", "/", [("Host", "x")]).json()
            assert (tuple(told["client"]), tuple(told["server"])) == (c.sock.getsockname(), ("127.0.0.1", one.port))
    assert not [line for line in s.err.lines if "PROXY" in line], "nginx's own look whether it is there is no fault"
