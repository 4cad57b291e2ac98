"""Metrics for Prometheus: what they say is what clients have counted, whoever dies and whoever is replaced."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import harness
import pytest
import wire
import yaml
from frames import Socket, opening
from ports import free_port
from scrape import Metrics, address, scrape

BIND = ("--metrics-bind", "127.0.0.1:0")
THREADS = ("--sync-threads", 2)


class Crowd:
    """Clients that ask without a pause, each on its connection, and count what they get."""

    def __init__(self, server, target="/", n=4):
        self.server, self.target = server, target
        self.answered, self.failed, self.is_over = 0, 0, False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(n)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.is_over:
            try:
                with self.server.connect() as c:
                    while not self.is_over:
                        self.note(c.get(self.target).status == 200)
            except (OSError, wire.Closed):
                self.note(False)

    def note(self, is_answered):
        with self.lock:
            self.answered += is_answered
            self.failed += not is_answered

    def go_on(self, n=50):
        """Until so many more were answered."""
        until = self.answered + n
        wire.eventually(lambda: self.answered >= until, 30 * harness.SLOW, f"{n} more answers")

    def stop(self):
        self.is_over = True
        for thread in self.threads:
            thread.join(30)


class Watch:
    """Asks for the metrics all the time: counters never fall."""

    def __init__(self, server, at):
        self.server, self.at, self.is_over, self.fallen, self.n = server, at, False, [], 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        last = {}
        while not self.is_over:
            now = scrape(self.server, self.at).counters()
            self.fallen += [(k, v, now.get(k)) for k, v in last.items() if now.get(k, -1) < v]
            last, self.n = now, self.n + 1
            time.sleep(0.02)

    def stop(self):
        self.is_over = True
        self.thread.join(30)
        assert self.n > 2 and not self.fallen, self.fallen[:5]


def all_requests(metrics):
    return metrics.sum("requests_total")


@pytest.mark.parametrize(
    "app, target, args",
    [
        ("raw:app", "/", ()),
        ("wsgi_raw:app", "/hello", THREADS),
        ("direct_django:application", "/item/7/", THREADS),
    ],
    ids=["asgi", "wsgi", "django"],
)
def test_they_add_up_over_kill_and_reload(server, app, target, args):
    s = server(app, *BIND, "-w", 2, *args)
    s.wait_workers(2)
    at = address(s)
    with s.connect() as c:
        first = c.get(target)
    assert first.status == 200
    crowd, watch = Crowd(s, target), Watch(s, at)
    crowd.go_on()
    s.expect_errors(r"worker \d \(pid \d+\) died: signal 9")
    killed, since = s.workers()[0], len(s.err.lines)
    os.kill(killed, signal.SIGKILL)
    s.wait_log(r"worker \d is ready", since=since, timeout=30)
    crowd.go_on()
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log(r"reloaded in", since=since, timeout=60)
    crowd.go_on()
    crowd.stop()
    watch.stop()
    metrics = scrape(s, at)
    counted, answered = all_requests(metrics), crowd.answered + 1
    # A request of the killed worker may have counted although its answer got no further than the kernel.
    assert answered <= counted <= answered + crowd.failed
    assert metrics.sum("requests_total", method="GET", status="2xx") == counted
    assert metrics.sum("request_duration_seconds_count") == counted
    assert metrics.sum("application_duration_seconds_count") == counted
    assert metrics.sum("worker_restarts_total", reason="crash") == 1
    assert metrics.sum("worker_restarts_total", reason="reload") == 2
    assert metrics.sum("reloads_total", result="done") == 1
    assert metrics.sum("config_generation") == 2
    if args:
        assert counted - metrics.sum("thread_jobs_total", pool="requests") <= crowd.failed
        wire.eventually(lambda: scrape(s, at).sum("thread_slots", pool="requests") == 4, 20 * harness.SLOW, "the old workers are gone")
    s.baseline()


def test_they_go_on_in_the_next_program(server):
    """SIGUSR2, twice: no counter falls, and all of them add up. What the master that goes has counted is there."""
    s = server("raw:app", *BIND, "-w", 2)
    s.wait_workers(2)
    at = address(s)
    with s.connect() as c:
        assert c.get("/").status == 200
    crowd, before = Crowd(s), {}
    for _ in range(2):
        crowd.go_on()
        s.upgrade()
        now = scrape(s, at).counters()
        assert not [(k, v, now.get(k)) for k, v in before.items() if now.get(k, -1) < v]
        before = now
    crowd.go_on()
    crowd.stop()  # what has failed came too late on a connection that had been told to close
    metrics = scrape(s, at)
    assert all_requests(metrics) == crowd.answered + 1
    assert metrics.sum("workers", state="ready") == 2
    assert metrics.sum("workers") == 2
    s.baseline()


def test_methods_statuses_and_bytes(server):
    s = server("raw:app", *BIND)
    at = address(s)
    empty = scrape(s, at)
    asked = [("GET", "/", 200), ("HEAD", "/", 200), ("POST", "/echo", 200), ("GET", "/nothing", 404), ("GET", "/status?code=503", 503),
             ("PUT", "/status?code=304", 304), ("PROPFIND", "/", 200), ("DELETE", "/", 200), ("PATCH", "/", 200), ("OPTIONS", "/", 200)]  # fmt: skip
    received = 0
    with s.connect() as c:
        for method, target, status in asked:
            body = b"x" * 1000 if method == "POST" else b""
            answer = c.request(method, target, [("Content-Length", str(len(body)))] if body else [], body)
            assert answer.status == status
            received += len(answer.raw)
    metrics = scrape(s, at)
    for method, _, status in asked:
        label = method if method != "PROPFIND" else "other"
        wanted = sum(1 for m, _, st in asked if m == method and st // 100 == status // 100)
        assert metrics.sum("requests_total", method=label, status=f"{status // 100}xx") == wanted
    assert all_requests(metrics) == len(asked)
    assert metrics.sum("received_bytes_total") > 1000
    assert metrics.sum("connections_accepted_total") - empty.sum("connections_accepted_total") == 1
    wire.eventually(lambda: scrape(s, at).sum("sent_bytes_total") >= received, 5, "what was received was sent")


def test_refused_and_broken_requests_count(server):
    s = server("raw:app", *BIND)
    at = address(s)
    with s.connect() as c:
        c.send(b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n")
        assert c.response().status == 400
    with s.connect() as c:
        c.send(b"GET /slow?s=0.3 HTTP/1.1\r\nHost: a\r\n\r\n")
        wire.eventually(lambda: scrape(s, at).sum("connections", state="request") == 1, 5, "one in hand")
        c.reset()
    wire.eventually(lambda: all_requests(scrape(s, at)) == 2, 5, "both")
    metrics = scrape(s, at)
    assert metrics.sum("requests_total", status="4xx") == 1
    assert metrics.sum("requests_total", method="GET", status="none") == 1
    assert metrics.sum("connections", state="request") == 0


def test_connections_by_state(server):
    s = server("ws:app", *BIND)
    at = address(s)

    def states():
        metrics = scrape(s, at)
        return {state: int(metrics.sum("connections", state=state)) for state in ("idle", "request", "websocket", "closing")}

    with s.connect() as idle, s.connect() as socket:
        idle.get("/events")
        socket.send(opening("/echo"))
        assert socket.head()
        wire.eventually(lambda: states() == {"idle": 1, "request": 0, "websocket": 1, "closing": 0}, 5, "one idle, one WebSocket")
    wire.eventually(lambda: not any(states().values()), 5, "none")


def test_websockets(server):
    s = server("ws:app", *BIND)
    at = address(s)
    with Socket(s.connect(20), "/echo") as one:
        for text in ("a", "bc", "def"):
            one.text(text)
            assert one.read()[1] == text.encode()
        one.close()
        one.expect_close(1000)
    wire.eventually(lambda: scrape(s, at).sum("websockets_closed_total") == 1, 5, "it is closed")
    metrics = scrape(s, at)
    assert metrics.sum("websockets_accepted_total") == 1
    assert metrics.sum("websockets_closed_total", code="1000") == 1
    assert metrics.sum("websocket_messages_total", direction="in") == 3
    assert metrics.sum("websocket_messages_total", direction="out") == 3
    assert metrics.sum("websocket_bytes_total", direction="in") == 6
    assert metrics.sum("requests_total", method="GET", status="1xx") == 1
    assert metrics.sum("request_duration_seconds_count") == 0


def test_threads_and_their_queue(server):
    s = server("wsgi_raw:app", *BIND, "--sync-threads", 1, "--sync-threads-max", 1, "--sync-queue", 1)
    at = address(s)
    metrics = scrape(s, at)
    assert metrics.sum("thread_slots", pool="requests") == 1 and metrics.sum("thread_slots", pool="executor") == 32
    assert metrics.sum("thread_queue") == 0 and metrics.sum("thread_slots_busy", pool="requests") == 0
    with s.connect() as c:
        for _ in range(5):
            assert c.get("/hello").status == 200
    assert scrape(s, at).sum("thread_jobs_total", pool="requests") - metrics.sum("thread_jobs_total", pool="requests") == 5
    assert scrape(s, at).sum("thread_wait_seconds_count") - metrics.sum("thread_wait_seconds_count") == 5


def test_refusals_for_want_of_a_thread(server):
    s = server("wsgi_raw:app", *BIND, "--sync-threads", 1, "--sync-threads-max", 1, "--sync-queue", 1, "--sync-queue-timeout", "30s")
    at = address(s)
    before = scrape(s, at)
    asked = [s.connect() for _ in range(6)]
    for c in asked:
        c.send(b"GET /slow?s=0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.02)
    busy = scrape(s, at)
    assert busy.sum("thread_slots_busy", pool="requests") == 1 and busy.sum("threads_leased", pool="requests") == 1
    assert busy.sum("thread_queue", pool="requests") == 1
    statuses = [c.response().status for c in asked]
    for c in asked:
        c.close()
    refused = statuses.count(503)
    assert refused == 4 and statuses.count(200) == 2
    metrics = scrape(s, at)
    assert metrics.sum("thread_refusals_total", reason="full") == refused
    assert metrics.sum("requests_total", status="5xx") == refused and metrics.sum("requests_total", status="2xx") == 2
    assert metrics.sum("thread_wait_seconds_count") - before.sum("thread_wait_seconds_count") == 2
    assert metrics.sum("thread_wait_seconds_sum") > 0.2


@pytest.mark.parametrize("is_open", [False, True], ids=["text", "openmetrics"])
def test_format(server, is_open):
    s = server("raw:app", *BIND, "-w", 2)
    s.wait_workers(2)
    assert s.get("/").status == 200
    metrics = scrape(s, is_open=is_open)
    assert metrics.text.endswith("# EOF\n") == is_open
    for family in metrics.families.values():
        assert family.name.startswith("ringcorn_") and family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram", "info"), family
        for s in family.samples if family.type == "histogram" else ():
            if s.name.endswith("_count"):
                assert s.value == metrics.samples[(f"{family.name}_bucket", tuple(sorted({**s.labels, "le": "+Inf"}.items())))]
    assert metrics.sum("workers", state="ready") == 2
    assert metrics.sum("worker_resident_memory_bytes") > 1 << 20
    assert metrics.sum("worker_cpu_seconds_total") > 0
    assert abs(metrics.sum("start_time_seconds") - time.time()) < 600
    promtool = shutil.which("promtool")
    if promtool and not is_open:
        checked = subprocess.run([promtool, "check", "metrics"], input=metrics.text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_on_the_applications_addresses(server):
    s = server("raw:app", "--metrics", "--metrics-path", "/internal/metrics", "-w", 2, "--access-log")
    s.wait_workers(2)
    at = s.address
    with s.connect() as c:
        assert c.get("/").status == 200
        assert c.get("/metrics").status == 404
        answer = c.get("/internal/metrics")
        assert answer.status == 200 and all_requests(Metrics(answer.text)) == 2
        head = c.request("HEAD", "/internal/metrics")
        assert head.status == 200 and head.body == b"" and int(head.get("content-length")) > 1000
        assert c.request("POST", "/internal/metrics").status == 404
    metrics = scrape(s, at, path="/internal/metrics")
    assert all_requests(metrics) == 3
    s.stop()
    assert "GET /internal/metrics" not in "\n".join(s.out.lines)


def test_off_by_default(server):
    s = server("raw:app", shared=True)
    assert s.get("/metrics").status == 404


def test_beside_health_on_one_address(server):
    port = free_port()
    s = server("raw:app", "--metrics-bind", f"127.0.0.1:{port}", "--health-bind", f"127.0.0.1:{port}", "--health-live", "/live")
    at = ("127.0.0.1", port)
    assert s.get("/live", address=at).status == 200
    assert all_requests(scrape(s, at)) == 0
    assert s.get("/other", address=at).status == 404


def test_reload_opens_and_closes_the_address(server, tmp_path):
    port = free_port()
    config = "app: raw:app\nmetrics:\n  bind: 127.0.0.1:%d\n"
    s = server(None, config=config % port, cwd=tmp_path, app_dir=harness.APPS)
    assert all_requests(scrape(s, ("127.0.0.1", port))) == 0
    assert s.get("/").status == 200
    (tmp_path / "ringcorn.yaml").write_text(config % port + "  path: /m\n")
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log(r"reloaded in", since=since, timeout=30)
    assert all_requests(scrape(s, ("127.0.0.1", port), path="/m")) == 1
    assert s.get("/metrics", address=("127.0.0.1", port)).status == 404
    s.baseline()


@pytest.mark.parametrize(
    "args, message",
    [
        (("--metrics", "--metrics-path", "metrics"), r"metrics.path.*is not a path like /metrics"),
        (("--metrics", "--metrics-path", "/x", "--health-live", "/x"), r"metrics.path.*is the path of health.live too"),
        (("--metrics-bind", "fd://3"), r"metrics.bind.*is not one that can be asked in plain HTTP"),
        (("--metrics-bind", "127.0.0.1:1", "--bind", "127.0.0.1:1"), r"metrics.bind.*is the application's address"),
    ],
    ids=["path", "same-path", "fd", "same-address"],
)
def test_mistakes_are_told(args, message):
    result = harness.run("--print-config", *args, "raw:app")
    assert result.returncode == 2 and re.search(message, result.stderr), result.stderr


def routed(s, at, route):
    """Requests of a route; it is counted a moment after its answer."""
    metrics = scrape(s, at)
    return metrics.sum("route_requests_total", route=route) if "ringcorn_route_requests_total" in metrics.text else 0


@pytest.mark.parametrize(
    "app, targets, route",
    [
        ("direct_django:application", [f"/item/{n}/" for n in range(4)], "item/<int:n>/"),
        ("direct_django:application", ["/async"] * 4, "async"),
        ("fastapi_app:app", [f"/items/{n}" for n in range(4)], "/items/{item_id}"),
    ],
    ids=["django-sync", "django-async", "fastapi"],
)
def test_routes(server, app, targets, route):
    s = server(app, *BIND, *THREADS)
    at = address(s)
    with s.connect() as c:
        for target in targets:
            assert c.get(target).status in (200, 404), target
    wire.eventually(lambda: routed(s, at, route) == 4, 5, "all four")
    metrics = scrape(s, at)
    assert metrics.sum("route_errors_total", route=route) == 0
    assert metrics.sum("route_duration_seconds_total", route=route) > 0
    assert metrics.sum("route_thread_seconds_total", route=route) > 0 or route == "async"


def test_routes_survive_their_worker(server):
    s = server("direct_django:application", *BIND, *THREADS)
    at = address(s)

    def counted(n):  # a route is counted a moment after its answer
        wire.eventually(lambda: routed(s, at, "item/<int:n>/") == n, 10 * harness.SLOW, f"{n} requests")

    assert s.get("/item/1/").status == 200
    counted(1)
    s.expect_errors(r"worker 0 \(pid \d+\) died: signal 9")
    since = len(s.err.lines)
    os.kill(s.workers()[0], signal.SIGKILL)
    s.wait_log(r"worker 0 is ready", since=since, timeout=30)
    assert s.get("/item/2/").status == 200
    counted(2)
    s.baseline()


# ------------------------------------------------------------------ the samples in conf/

CONF = harness.ROOT / "conf"


def test_samples_use_metrics_that_there_are(server):
    s = server("direct_django:application", *BIND, *THREADS)
    assert s.get("/item/1/").status == 200
    known = {name for name, _ in scrape(s).samples}
    dashboard = json.loads((CONF / "grafana" / "ringcorn.json").read_text())
    asked = [t["expr"] for p in dashboard["panels"] for t in p.get("targets", [])]
    rules = yaml.safe_load((CONF / "prometheus" / "adapter.yaml").read_text())["rules"]
    asked += [rule[key] for rule in rules for key in ("seriesQuery", "metricsQuery")]
    used = {name for text in asked for name in re.findall(r"\bringcorn_\w+", text)}
    assert used - known == set()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    assert families - {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} == set(), "the dashboard has no panel for these"
    assert len({p["id"] for p in dashboard["panels"]}) == len(dashboard["panels"])


def test_autoscaler_scales_by_what_the_adapter_tells():
    rules = yaml.safe_load((CONF / "prometheus" / "adapter.yaml").read_text())["rules"]
    scaler = yaml.safe_load((CONF / "prometheus" / "autoscaler.yaml").read_text())
    deployment = next(yaml.safe_load_all((harness.ROOT / "docker" / "kubernetes.yaml").read_text()))
    assert {m["pods"]["metric"]["name"] for m in scaler["spec"]["metrics"]} == {rule["name"]["as"] for rule in rules}
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_the_longest_step_is_its_routes(server, tmp_path):
    """Whether the request blocks the loop in its first step, in a later one, or in a task that it has made."""
    s = server("counted:app", *BIND, *THREADS, "--guard-mode", "off", env={"DATABASES": tmp_path})
    at = address(s)
    for path in ("/quick", "/first/60", "/later/70", "/later/5", "/child/80"):
        assert s.get(path).status == 200
    routes = ("/quick", "/first/{ms}", "/later/{ms}", "/child/{ms}")
    wire.eventually(lambda: sum(routed(s, at, route) for route in routes) == 5, 5 * harness.SLOW, "all five")
    metrics = scrape(s, at)
    steps = {route: metrics.sum("route_step_max_seconds", route=route) for route in routes}
    assert steps["/first/{ms}"] >= 0.06 and steps["/later/{ms}"] >= 0.07 and steps["/child/{ms}"] >= 0.08, steps
    # Those who waited meanwhile are not to blame.
    assert 0 < steps["/quick"] < steps["/first/{ms}"], steps
    [worker] = s.workers()
    os.kill(worker, signal.SIGTERM)
    wire.eventually(lambda: worker not in s.workers() and s.workers(), 10 * harness.SLOW, "another worker")
    assert scrape(s, at).sum("route_step_max_seconds", route="/first/{ms}") == steps["/first/{ms}"]
    s.held = {}


def test_database_connections(server, tmp_path):
    """Of Django and of SQLAlchemy, as they are opened and closed; the largest number stays."""
    control = tmp_path / "ctl.sock"
    s = server("counted:app", *BIND, "--sync-threads", 1, "--sync-threads-max", 1, "--control-socket", control, env={"DATABASES": tmp_path})
    at = address(s)
    s.allow_descriptors(10)

    def now():
        metrics = scrape(s, at)
        return metrics.sum("database_connections"), metrics.sum("database_connections_max")

    assert now() == (0, 0)
    assert s.get("/django").status == 200
    assert now() == (1, 1)
    assert s.get("/sqlalchemy/4").json() == {"pool": 4}
    assert now() == (5, 5)
    command = [harness.BIN.with_name("ringcornctl"), "workers", "--json", "--control-socket", control]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=harness.environment()).stdout
    assert [worker["database_connections"] for worker in json.loads(answer)["result"]] == [5]
    assert s.get("/release").json() == {"pool": 2}  # as many as the pool keeps
    assert now() == (3, 5)
    assert s.get("/django/close").status == 200
    wire.eventually(lambda: now() == (2, 5), 10 * harness.SLOW, "the closed one is noticed")
    assert s.get("/django").status == 200
    assert now() == (3, 5)
