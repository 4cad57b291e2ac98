"""The status page: metrics.page, as a browser sees it, and the JSON that it draws."""

import json
import os
import re
import signal
import socket
import threading
import time

import harness
import pytest
import wire
from ports import free_port
from scrape import address
from slow_server import SlowServer

PAGE = ("--metrics-bind", "127.0.0.1:0", "--metrics-page")
LOCAL = {"Host": "localhost"}
HOSTILE = "/<img/src=x/onerror=hurt=1>"


class Load(threading.Thread):
    """Asks without a pause to speak of, until it is told to end."""

    def __init__(self, server, target="/"):
        super().__init__(daemon=True)
        self.server, self.target, self.is_over = server, target, False
        self.start()

    def run(self):
        while not self.is_over:
            try:
                with self.server.connect() as c:
                    while not self.is_over:
                        c.get(self.target)
                        time.sleep(0.01)
            except (OSError, wire.Closed):
                pass

    def stop(self):
        self.is_over = True
        self.join(30)


def at(server):
    host, port = address(server)
    return f"http://{host}:{port}/"


def ask(server, path, where=None):
    answer = server.get(path, LOCAL, address=where or address(server))
    assert answer.status == 200, answer
    assert (answer.get("content-type"), answer.get("cache-control")) == ("application/json", "no-store")
    return json.loads(answer.text)


def test_plots_move_under_load(server, page):
    s = server("raw:app", *PAGE, "-w", 2)
    s.wait_workers(2)
    page.open(at(s))
    page.wait("points.length > 1")
    assert page.evaluate("points[points.length - 1].rate") == 0
    picture = "plots[0].canvas.toDataURL()"
    before = page.evaluate(picture)
    load = Load(s)
    page.wait("points[points.length - 1].r2 > 5")
    load.stop()
    assert page.evaluate(picture) != before
    assert page.evaluate("points.some(p => p.p50 > 0 && p.p99 >= p.p50 && p.cpu >= 0 && p.rss > 10e6 && p.sent > 0)")
    assert page.evaluate("document.getElementById('state').textContent") == "serving"
    rows = page.evaluate("Array.from(document.querySelectorAll('#workers tr'), r => Array.from(r.cells, c => c.textContent))")
    assert sorted(int(row[1]) for row in rows[1:]) == s.workers()
    # A page that is opened later has the past.
    page.open(at(s))
    page.wait("points.some(p => p.r2 > 5)")


def test_what_clients_send_is_text(server, page):
    s = server("raw:app", *PAGE)
    page.open(at(s))
    with s.connect() as c:
        c.send(f"GET {HOSTILE}?s=3 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        cell = "document.querySelector('#requests td.wide')?.textContent"
        assert page.wait(cell) == f"GET {HOSTILE}"
        for what, known in (("tasks", "waits for asyncio.sleep()"), ("threads", "MainThread")):
            page.evaluate(f"document.getElementById('{what}').click()")
            page.wait(f"document.getElementById('detail').textContent.includes('{known}')")
        assert c.response().status == 200
    assert page.evaluate("document.images.length") == 0 and page.evaluate("window.hurt === undefined")
    # Were it not, the policy would keep it from running.
    page.evaluate("""document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='hurt = 1'>")""")
    page.wait("document.images.length == 1 && document.images[0].complete")
    assert page.evaluate("window.hurt === undefined")
    assert page.problems and all("Content Security Policy" in p for p in page.problems), page.problems
    page.problems.clear()


def test_blocks_by_stack(server, page):
    s = server("gallery_fastapi:app", *PAGE)
    page.open(at(s))
    page.wait("points.length > 1")
    assert page.evaluate("document.getElementById('blocks').hidden")
    for name in ("sleeps", "sleeps", "asks_database"):
        assert s.get(f"/{name}").status == 200
    labels = "Array.from(document.querySelectorAll('#flame span'), e => e.textContent).join(' | ')"
    page.wait(f"{labels}.includes('sleeps: time.sleep(0.5)') && {labels}.includes('count_slowly: connection.execute')")
    assert " | count_slowly" in page.evaluate(labels) and "asks_database" in page.evaluate(labels)
    widths = "Array.from(document.querySelectorAll('#flame > div'), e => e.offsetWidth)"
    assert page.evaluate(widths)[0] > page.evaluate(widths)[1] > 0
    rows = page.evaluate("Array.from(document.querySelectorAll('#culprits tr'), r => Array.from(r.cells, c => c.textContent))")
    assert [(row[2], row[5]) for row in rows[1:]] == [("2", "GET /sleeps"), ("1", "GET /asks_database")]


def test_what_would_be_better(server, page):
    with SlowServer() as slow:
        s = server("advised_fastapi:app", *PAGE, "--sync-threads", 4, env={"SLOW": slow.address, "WAIT_MS": "100", "BLOCK_MS": "60"})
        page.open(at(s))
        page.wait("points.length > 1")
        assert page.evaluate("document.getElementById('advised').hidden")
        for path in ("/report", "/feed", "/fast"):
            for _ in range(20):
                assert s.get(path).status == 200
    cells = "Array.from(document.querySelectorAll('#advice tr'), r => Array.from(r.cells, c => c.textContent))"
    page.wait(f"{cells}.length == 4 && {cells}.slice(1).every(c => c[4] == '20')")
    rows = {row[0]: row for row in page.evaluate(cells)[1:]}
    assert [rows[path][1] for path in ("/report", "/feed", "/fast")] == ["async", "def", "keep"], rows
    assert "/feed blocks the loop for " in rows["/feed"][2] and "make it async" in rows["/report"][2]
    assert "threads" in page.evaluate("document.getElementById('threads-say').textContent")

    def sort(head):
        page.evaluate(f"Array.from(document.querySelectorAll('#advice th button')).find(b => b.textContent.startsWith('{head}')).click()")
        return [row[0] for row in page.evaluate(cells)[1:]]

    assert sort("route") == ["/fast", "/feed", "/report"]
    assert sort("route") == ["/report", "/feed", "/fast"]
    assert sort("longest step")[0] == "/feed" and sort("longest step")[-1] == "/feed"
    assert page.evaluate("document.querySelectorAll('#advice th[aria-sort=ascending]').length") == 1
    page.evaluate("new Promise(done => setTimeout(done, 2500))")  # it has asked again, and is sorted as before
    assert page.evaluate(cells)[-1][0] == "/feed"
    # Pictures: the parts of each request make it up, each with its name; of all slots as much is filled as threads are busy.
    pictures = page.evaluate("Array.from(document.querySelectorAll('#advice svg'), s => Array.from(s.children, r => [+r.getAttribute('width'), r.textContent]))")
    assert len(pictures) == 3 and all(sum(width for width, _ in parts) == pytest.approx(100, abs=0.1) for parts in pictures), pictures
    widest = {max(parts)[1].split(":")[0] for parts in pictures}
    assert widest == {"network", "blocks the loop", "awaits"}, pictures
    assert page.evaluate("document.querySelectorAll('#slots svg line').length") == 4  # between four slots, and what would do
    assert page.evaluate("document.querySelector('#slots svg').clientWidth") > 100


def test_it_goes_on_over_a_reload(server, page):
    s = server("raw:app", *PAGE)
    page.open(at(s))
    old = page.wait("workersBefore.size == 1 && points.length > 1 && Array.from(workersBefore.keys())[0]")
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log(r"reloaded in", since=since, timeout=60)
    page.wait(f"workersBefore.size == 1 && !workersBefore.has({old})")
    page.wait("document.getElementById('about').textContent.includes('configuration 2')")
    assert page.evaluate("document.getElementById('trouble').hidden")
    assert "reload 1" in page.evaluate("document.getElementById('restarts').textContent")


def test_it_says_that_the_server_is_gone_and_sees_it_again(server, page):
    where = f"127.0.0.1:{free_port()}"
    s = server("raw:app", "--metrics-bind", where, "--metrics-page")
    page.open(f"http://{where}/status")
    page.wait("points.length > 1")
    s.stop()
    page.wait("!document.getElementById('trouble').hidden")
    assert page.evaluate("document.getElementById('trouble').textContent").startswith("No news since ")
    page.wait("document.getElementById('state').textContent == 'silent'")
    s = server("raw:app", "--metrics-bind", where, "--metrics-page")
    page.wait(f"document.getElementById('about').textContent.includes('pid {s.process.pid}') && document.getElementById('trouble').hidden")
    page.evaluate("new Promise(done => setTimeout(done, 1500))")  # what it asked for before may fail yet
    assert all("ERR_CONNECTION" in p or "ERR_EMPTY" in p for p in page.problems), page.problems
    page.problems.clear()


def test_its_json(server):
    s = server("raw:app", *PAGE, "-w", 2)
    s.wait_workers(2)
    for _ in range(5):
        assert s.get("/").status == 200
    assert s.get("/nowhere").status == 404
    told = ask(s, "/status.json")
    assert (told["state"], told["pid"], told["workers_ready"]) == ("serving", s.process.pid, 2)
    assert sorted(w["pid"] for w in told["workers"]) == s.workers()
    total = told["total"]
    assert (total["requests"]["2xx"], total["requests"]["4xx"]) == (5, 1)
    assert sum(total["durations"]["buckets"]) == 6 and len(total["durations"]["buckets"]) == len(told["bounds_s"]) + 1
    for name in ("2xx", "4xx"):
        assert sum(w["figures"]["requests"][name] for w in told["workers"]) == total["requests"][name]
    wire.eventually(lambda: len(ask(s, "/status/history.json")["samples"]) > 2, 20 * harness.SLOW, "three samples")
    ages = [sample["at_s"] for sample in ask(s, "/status/history.json")["samples"]]
    assert ages == sorted(ages)
    # Those that stay when a worker is killed: counters.
    s.expect_errors(r"worker \d \(pid \d+\) died: signal 9")
    since = len(s.err.lines)
    os.kill(s.workers()[0], signal.SIGKILL)
    s.wait_log(r"worker \d is ready", since=since, timeout=30)
    after = ask(s, "/status.json")
    assert after["total"]["requests"] == total["requests"] and after["total"]["cpu_s"] >= total["cpu_s"]
    assert after["restarts"]["crash"] == 1


def test_it_is_read_only_and_says_how_to_be_read(server):
    s = server("raw:app", *PAGE)
    where = address(s)
    answer = s.get("/", LOCAL, address=where)
    assert answer.status == 200 and answer.get("content-type") == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.get("content-security-policy")
    assert "script-src 'sha256-" in answer.get("content-security-policy")
    assert answer.get("x-content-type-options") == "nosniff"
    assert "http:" not in answer.text and "https:" not in answer.text  # nothing from elsewhere
    for path in ("/", "/status", "/status.json", "/status/threads.json", "/status/advise.json"):
        answer = s.request("POST", path, LOCAL, address=where)
        assert (answer.status, answer.get("allow")) == (405, "GET, HEAD")
    for path in ("/status/stop.json", "/status/reload.json", "/status/", "/statusx"):
        assert s.get(path, LOCAL, address=where).status == 404
    # Never where the application is.
    assert s.get("/status.json").status == 404 and "script" not in s.get("/").text


def test_by_the_loopback_it_has_no_foreign_name(server):
    """Whoever's DNS says 127.0.0.1 would read it with his visitors' browsers. Prometheus may call the metrics what it likes."""
    s = server("raw:app", *PAGE)
    where = address(s)

    def status(path, host):
        with s.connect(address=where) as c:
            c.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return c.response().status

    own = ["localhost", "LocalHost", "page.localhost", "127.0.0.1", "10.1.2.3", "[::1]", socket.gethostname()]
    for path in ("/", "/status.json", "/status/threads.json"):
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", ""):
            assert status(path, host) == 403, (path, host)
            assert status(path, f"{host}:{where[1]}") in (400, 403), (path, host)
            assert status("/metrics", host) == 200
        for host in own:
            assert status(path, host) == status(path, f"{host}:{where[1]}") == 200, (path, host)
    with s.connect(address=where) as c:
        c.send(b"GET /status.json HTTP/1.0\r\n\r\n")
        assert c.response().status == 200


def test_not_on_the_address_of_health(server):
    health, metrics = free_port(), free_port()
    s = server(
        "raw:app", "--health-bind", f"127.0.0.1:{health}", "--health-live", "/live", "--metrics-bind", f"127.0.0.1:{metrics}", "--metrics-page"
    )
    assert s.get("/live", address=("127.0.0.1", health)).status == 200
    assert s.get("/status.json", LOCAL, address=("127.0.0.1", metrics)).status == 200
    for path in ("/", "/status", "/status.json"):
        assert s.get(path, LOCAL, address=("127.0.0.1", health)).status == 404


def test_off_by_default_and_on_by_a_reload(server, tmp_path):
    conf = tmp_path / "page.yaml"
    port = free_port()
    text = f"metrics:\n  bind: 127.0.0.1:{port}\n"
    conf.write_text(text)
    s = server("raw:app", "-c", conf)
    where = ("127.0.0.1", port)
    assert s.get("/status.json", LOCAL, address=where).status == 404
    for page, status in (("true", 200), ("false", 404)):
        conf.write_text(f"{text}  page: {page}\n")
        since = len(s.err.lines)
        s.send_signal(signal.SIGHUP)
        s.wait_log(r"reloaded in", since=since, timeout=60)
        assert s.get("/status.json", LOCAL, address=where).status == status
        if status == 200:
            assert any("requests" in part for part in ask(s, "/status/requests.json", where))


@pytest.mark.parametrize(
    "args, message",
    [
        (("--metrics-page",), r"metrics.page.*needs an address of its own: set metrics.bind"),
        (("--metrics-page", "--metrics-bind", "127.0.0.1:1", "--no-metrics"), r"metrics.page.*needs metrics.enabled"),
        (
            ("--metrics-page", "--metrics-bind", "127.0.0.1:1", "--health-bind", "0.0.0.0:1", "--health-live", "/l"),
            r"metrics.page.*is not for health.bind, which has the port of metrics.bind",
        ),
    ],
)
def test_what_it_needs(args, message):
    result = harness.run("--print-config", "raw:app", *args)
    assert result.returncode == 2 and re.search(message, result.stderr), result.stderr
