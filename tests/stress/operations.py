"""Ten minutes of everything that an operator does, all along, under mixed load: nothing is lost, and everything adds up.

Two servers side by side: a Django project on PostgreSQL, with synchronous and asynchronous views and uploads, and a FastAPI application
with endpoints on the loop and on threads, uploads, streams, events and WebSockets (operations_app.py). Of each, at random: SIGHUP with a changed
configuration, TTIN, TTOU, USR1 behind renamed logs, USR2, `kill -9` and SIGTERM of a worker; recycle.max_requests and max_rss replace
workers besides. What must hold:

 - no request fails, but those in flight in a worker that was killed: each connection of it was known when it was
 - each answered request has one line in the access log, over all files; one that failed has one or none
 - each line that the application has logged is in the error log, once
 - the metrics are the client's own counts: requests by method and class of status, WebSockets, messages, connections; each at most by as
   many more as there were failures
"""

import collections
import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import HERE, SOURCES, serving, wait_workers
from kill import kill

import harness
import postgres
import scrape
from operations_client import Attempt

WORKERS, MOST = 2, 4
SOON = 10 * harness.SLOW  # seconds in which a client has heard of a death
KEPT_MIB = 32  # recycle.max_rss, above what a worker has at first
ALLOWED = [
    r"worker \d+ \(pid \d+\) died: signal 9",
    r"the new worker( \d+)? did not start",
]


class Operator(threading.Thread):
    """Does one thing after the other to a server, each as often as the others."""

    def __init__(self, server, configuration, access_log, seed):
        super().__init__(daemon=True)
        self.server, self.configuration, self.access_log, self.chance = server, configuration, access_log, random.Random(seed)
        self.wanted, self.kills, self.done, self.error = WORKERS, [], collections.Counter(), None
        self.files = itertools.count(1)
        self.until = 0

    def begin(self, seconds):
        self.until = time.monotonic() + seconds
        self.start()

    def run(self):
        try:
            while time.monotonic() < self.until:
                names = ["hup", "usr1", "ttin", "ttou", "usr2", "term", "kill"]
                self.chance.shuffle(names)
                for name in names:
                    if time.monotonic() < self.until:
                        getattr(self, name)()
                        time.sleep(self.chance.uniform(0, 3))
        except BaseException as e:
            self.error = e

    def end(self, timeout):
        self.join(timeout)
        assert not self.is_alive(), f"an operation does not end: {self.done}\n{self.server.report}"
        if self.error:
            raise self.error

    def signal(self, signum, pattern):
        since = len(self.server.err.lines)
        self.server.send_signal(signum)
        return self.server.wait_log(pattern, 60, since)

    def hup(self):
        Path(self.server.cwd, "ringcorn.yaml").write_text(self.configuration(self.chance))
        self.signal(signal.SIGHUP, "SIGHUP: reloading")
        self.done["HUP"] += 1

    def usr1(self):
        self.access_log.rename(f"{self.access_log}.{next(self.files)}")
        self.signal(signal.SIGUSR1, "reopened")
        self.done["USR1"] += 1

    def ttin(self):
        if self.wanted < MOST and self.signal(signal.SIGTTIN, "SIGTTIN: |more workers: not while")[0].startswith("SIGTTIN"):
            self.wanted += 1
            self.done["TTIN"] += 1

    def ttou(self):
        if self.wanted > 1:
            self.signal(signal.SIGTTOU, "SIGTTOU: ")
            self.wanted -= 1
            self.done["TTOU"] += 1

    def usr2(self):
        self.server.upgrade(timeout=120)
        self.done["USR2"] += 1

    def term(self):
        with contextlib.suppress(ProcessLookupError, IndexError):
            self.server.send_signal(signal.SIGTERM, self.chance.choice(self.server.workers()))
            self.done["TERM of a worker"] += 1

    def kill(self):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):  # it has gone by itself
            self.kills.append(kill(self.chance.choice(self.server.workers()), self.server.port, with_look=True))
            self.done["kill -9"] += 1


class Site:
    """A server, its operator, its clients, and what became of their requests."""

    def __init__(self, name, server, operator, folder, clients, sockets, seed):
        self.name, self.server, self.operator, self.access_log = name, server, operator, operator.access_log
        self.file = folder / f"{name}.attempts"
        plan = {"address": server.address, "cases": name, "clients": clients, "sockets": sockets, "seed": seed, "sources": SOURCES}
        command = [sys.executable, HERE / "operations_client.py", json.dumps({**plan, "file": str(self.file)})]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def stop_clients(self):
        self.process.stdin.close()
        code = self.process.wait(120 * harness.SLOW)
        assert code == 0, f"{self.name}: the clients have ended with {code}"
        *lines, last = self.file.read_text().splitlines()
        self.attempts = [Attempt.of(line) for line in lines]
        self.sums = json.loads(last.removeprefix("end "))

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    # -- what must hold

    def is_excused(self, attempt):
        """Was it on a connection that a killed worker held when it was killed?"""
        return any(
            attempt.client in killed["clients"] and attempt.begun_at <= killed["dead_at"] and killed["at"] <= attempt.ended_at <= killed["dead_at"] + SOON
            for killed in self.operator.kills
        )

    def check_attempts(self):
        failed = [one for one in self.attempts if one.what == "failed"]
        self.excused = {one.id for one in self.attempts if one.what != "ok" and self.is_excused(one)}
        unexcused = [one for one in failed if one.id not in self.excused or one.reason.startswith(("answer", "timeout"))]
        assert not unexcused, f"{self.name}: {len(unexcused)} of {len(self.attempts)} failed: {unexcused[:5]}\n{self.operator.kills[-3:]}\n{self.server.report}"
        self.failed = len(failed)

    def check_access_log(self):
        """As configuration() has its lines."""
        lines, pids, strange = collections.Counter(), set(), []
        for path in self.access_log.parent.glob(f"{self.access_log.name}*"):
            for line in path.read_text().splitlines():
                if match := re.fullmatch(r"<(\d+)> (\d+) (\w+) (?:\S*&)?id=([\w-]+)(?:&\S*)?", line):
                    pid, status, method, id = match.groups()
                    lines[id, status, method] += 1
                    pids.add(pid)
                else:
                    strange.append(line)
        assert not strange, f"{self.name}: {strange[:5]}"
        wrong, self.late = [], 0
        for one in self.attempts:
            n = lines.pop((one.id, str(one.status), one.method), 0) if one.what == "ok" else 0
            if one.what != "ok":  # what came of it in the server is unknown
                n = sum(lines.pop((one.id, status, one.method), 0) for status in ("101", "200", "499"))
            if n != 1 if one.what == "ok" else n > (one.id in self.excused):
                wrong.append((n, one))
            self.late += one.what != "ok" and n > 0
        assert not wrong, f"{self.name}: {len(wrong)} with another number of lines in the access log: {wrong[:5]}\n{self.server.report}"
        assert not lines, f"{self.name}: lines in the access log that nobody asked for: {list(lines.items())[:5]}"
        self.workers = len(pids)

    def check_error_log(self):
        found = collections.Counter(re.findall(r"info: logged: (\S+)\.$", self.server.log, re.M))
        wrong = []
        for one in self.attempts:
            n = found.pop(one.id, 0) if one.kind == "/logged" else 0
            if one.kind == "/logged" and (n != 1 if one.what == "ok" else n > (one.id in self.excused)):
                wrong.append((n, one))
        assert not wrong and not found, f"{self.name}: lines of the application: {wrong[:5]} {list(found.items())[:5]}"
        assert "lines lost" not in self.server.log and "bytes lost" not in self.server.log, self.server.report

    def check_metrics(self):
        """Each number is the client's, or larger by what may have come of the attempts that failed on killed workers."""
        metrics = scrape.scrape(self.server, self.metrics_address)
        unknown = [one for one in self.attempts if one.id in self.excused]
        counted = {}

        def check(what, number, least, most):
            counted[what] = int(number)
            assert least <= number <= most, f"{self.name}: {what}: {number}, the client has counted {least} to {most}\n{self.sums}\n{self.server.report}"

        ok = collections.Counter((one.method, f"{one.status // 100}xx") for one in self.attempts if one.what == "ok")
        met = collections.Counter()
        for (name, labels), value in metrics.samples.items():
            if name == "ringcorn_requests_total":
                met[dict(labels)["method"], dict(labels)["status"]] += value
        for key in sorted({*ok, *(k for k, v in met.items() if v)}):
            more = sum(one.method == key[0] for one in unknown)
            least = ok[key] + sum(one.status == 101 and key == ("GET", "1xx") for one in unknown)
            check(" ".join(key), met[key], least, ok[key] + more)
        killed = sum(one.kind == "websocket" for one in unknown)
        opened, sent, echoed = (self.sums.get(name, 0) for name in ("websockets", "messages sent", "messages echoed"))
        check("WebSockets", metrics.sum("websockets_accepted_total"), opened, opened + killed)
        for direction in ("in", "out"):
            # The last message of one that is told to go may cross its Close.
            check(f"messages {direction}", metrics.sum("websocket_messages_total", direction=direction), echoed, sent)
        # A worker that is killed may not have counted what the kernel has accepted for it.
        opened = self.sums["connections"]
        check("connections", metrics.sum("connections_accepted_total"), opened - len(unknown), opened)
        return counted

    def figures(self):
        what = collections.Counter(one.what for one in self.attempts)
        killed = sum(one.what == "stale" and one.id in self.excused for one in self.attempts)
        log = self.server.log
        return {
            "requests": len(self.attempts), "answered": what["ok"], "closed_before_asked": what["stale"] - killed, "closed_by_death": killed, "in_flight_failed": self.failed, "failed": 0,
            "lines": what["ok"] + self.late, **self.check_metrics(), **self.operator.done, "max_requests": log.count("(recycle.max_requests)"),
            "max_rss": log.count("(recycle.max_rss)"), "processes_that_answered": self.workers,
        }  # fmt: skip


def configuration(access_log, max_rss=None):
    """What SIGHUP finds: some of it is another each time."""

    def text(chance):
        return "\n".join([
            f"access_log: {{enabled: true, file: {access_log}, format: '%(p)s %(s)s %(m)s %(q)s'}}",
            f"sync: {{threads: {chance.randint(3, 4)}, threads_max: 6, executor_threads: 2}}",
            f"timeouts: {{graceful: 20s, keep_alive: {chance.randint(5, 75)}s}}",
            f"limits: {{connections: {chance.randint(500, 1000)}}}",
            "websocket: {drain: 500ms}",
            *([f"recycle: {{max_rss: {max_rss}MiB}}"] if max_rss else []),
        ])  # fmt: skip

    return text


def memory_mib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) >> 10


@contextlib.contextmanager
def site(name, io, folder, clients, sockets, max_requests, seed, **options):
    access_log = folder / f"{name}.log"
    chance = random.Random(seed)
    text = configuration(access_log)
    args = ["--workers", WORKERS, "--max-requests", max_requests, "--max-requests-jitter", max_requests, "--metrics-bind", "127.0.0.1:0"]
    with serving(io, *args, config=text(chance), allow_errors=ALLOWED, **options) as server:
        server.allow_descriptors(40)  # connections to the database; sockets of slots that were given up
        text = configuration(access_log, memory_mib(server.workers()[0]) + KEPT_MIB)
        one = Site(name, server, Operator(server, text, access_log, seed), folder, clients, sockets, seed)
        one.metrics_address = scrape.address(server)
        try:
            yield one
        finally:
            one.close()


def check(one):
    one.stop_clients()
    operator = one.operator
    while operator.wanted > WORKERS:
        operator.ttou()
    while operator.wanted < WORKERS:
        operator.ttin()
        time.sleep(0.2)
    wait_workers(one.server, WORKERS, settled=1.0, within=120)
    one.check_attempts()
    one.check_access_log()
    one.check_error_log()
    return one.figures()


def scenario(io, seconds=600, seed=None):
    seed = seed if seed is not None else random.randrange(1 << 30)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringcorn-operations-")))
        pg = stack.enter_context(postgres.Postgres())
        project = HERE.parent / "apps" / "pg_project"
        env = {
            "PG_HOST": pg.host, "PG_PORT": pg.port, "PG_USER": pg.user, "PG_NAME": pg.dbname, "PG_APP": "operations", "PG_MAX_AGE": 600,
            "PG_HEALTH": 1, "PG_URLS": "project.mixed_urls", "MIDDLEWARE_SET": "four", "DJANGO_SETTINGS_MODULE": "project.settings",
            "PYTHONPATH": HERE / "mixed_apps",
        }  # fmt: skip
        subprocess.run([sys.executable, "tables.py"], cwd=project, env={**os.environ, **{k: str(v) for k, v in env.items()}}, check=True)
        django = {"app": "project.asgi:application", "app_dir": project, "env": env}
        sites = [
            stack.enter_context(site("django", io, folder, 12, 0, 60, seed, **django)),
            stack.enter_context(site("fastapi", io, folder, 16, 10, 60, seed + 1, app="operations_app:app")),
        ]
        for one in sites:
            one.operator.begin(seconds)
        for one in sites:
            one.operator.end(seconds + 180)
        with ThreadPoolExecutor() as both:
            figures = {"seed": seed, **dict(zip((one.name for one in sites), both.map(check, sites)))}
        for name in ("HUP", "USR1", "TTIN", "TTOU", "USR2", "TERM of a worker", "kill -9"):
            assert all(figures[one.name].get(name, 0) >= seconds // 60 for one in sites), f"{name} was not done often: {figures}"
        assert seconds < 300 or (figures["fastapi"]["max_rss"] > 0 and figures["django"]["max_requests"] > 0), figures
    return figures
