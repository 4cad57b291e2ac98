#!/usr/bin/env python3
"""Mixed load on synchronous code: nothing may be left behind. make stress STRESS=mixed, or, alone and for longer:

    tests/stress/mixed.py [--minutes 30] [--io io_uring,epoll] [--program build/asan/ringcorn] [--venv DIR] [--rate 30]

Three servers of one worker each, side by side, over one PostgreSQL of their own: a Django project (tests/apps/pg_project), a FastAPI and
a WSGI application (mixed_apps/). Clients (mixed_client.py) ask for views, transactions, streams and uploads, run into exceptions and full
queues, and leave at any moment; backends of PostgreSQL are ended under way. The run is made of rounds, whose servers take the I/O
backends in turn. In a round there are several stretches of load with a rest after each, then a storm of reloads and workers told to go, with
a last rest. What must hold:

 - each answer is right: its own data, one connection (and thread) for a request, one transaction; 503 only with Retry-After
 - reloads fail no request, and an ended backend only those in flight
 - connections to PostgreSQL never exceed sync.threads_max (and the second set's), and are sync.threads at rest
 - at rest: no request, job, lease; the worker's threads, descriptors, and objects that belong to requests as at the rest before
 - the number of objects does not grow with the requests, nor, on a debug Python (make stress-debug), the sum of all reference counts
 - exit code 0, no unexpected line in a log; AddressSanitizer and LeakSanitizer find nothing of ours
"""

import argparse
import asyncio
import collections
import itertools
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tools")]

if __name__ == "__main__" and "--program" in sys.argv:  # before harness looks
    os.environ["RINGCORN_BIN"] = sys.argv[sys.argv.index("--program") + 1]

import harness  # noqa: E402
import mixed_client  # noqa: E402
import postgres  # noqa: E402

THREADS, THREADS_MAX, EXECUTOR = 4, 10, 4
IDLE_SECONDS = 1
RETAKES = 5
# What may be more than at a worker's first rest: what is made when it is first needed (ctypes' types, compiled expressions, caches).
SLACK = {"references": 300, "objects": 100}
# Growth for each 1000 requests in the second half of a worker's rests: a leak in one of 1000 requests is more.
PER_1000 = {"references": 2, "objects": 1}
# How far two rests without any growth may lie apart: 14 references and 2 objects were measured, of weak references and locks that come and
# go. (A Site.swing is a factor to these.)
SWING = {"references": 18, "objects": 4}
RESTS_LEAST = 6  # of a worker, to tell growth from that

KILLED = r"AdminShutdown|terminating connection|server closed the connection|connection is lost|the connection is closed|consuming input failed"
EXPECTED = re.compile(
    rf"OnPurpose|{KILLED}|no thread was free|QueueTimeout|QueueFull"
    r"|Internal Server Error: /|Service Unavailable: /|Exception in ASGI application|: exception( in the application| after the response had begun)?$|UnreadablePostError|ClientDisconnect"
)


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


class Site:
    """One of the three servers, over its restarts."""

    def __init__(self, name, app, folder, cases, paths, options, run):
        self.name, self.app, self.folder, self.cases, self.paths, self.options, self.run = name, app, folder, cases, paths, options, run
        self.server = self.load = None
        self.total = collections.Counter()
        self.kills = []  # (begun, ended) of backends' ends
        self.quits = []
        self.rests = {}  # (application, worker) -> [rest, ...]

    def path(self, name):
        return self.paths.format(name)

    def start(self, io, number):
        self.application = f"{self.name} {number}"
        pg = self.run.pg
        self.log_path = self.run.folder / f"san-{self.name}-{number}"
        # Leaks are told apart by us (see leaks()); the exit code stays the worker's own.
        sanitizer = {"ASAN_OPTIONS": f"detect_leaks=1:abort_on_error=1:exitcode=0:log_path={self.log_path}"} if harness.SANITIZED else {}
        self.cwd = self.run.folder / f"cwd-{self.name}-{number}"
        self.cwd.mkdir()
        self.server = harness.Server(
            self.app, "--workers", 1, "--threads", THREADS, "--sync-threads-max", THREADS_MAX, "--sync-executor-threads", EXECUTOR,
            "--sync-queue", 24, "--sync-queue-timeout", "1s", "--sync-idle-timeout", f"{IDLE_SECONDS}s", *self.options,
            io=io, app_dir=self.folder, cwd=self.cwd,
            env={
                "PG_HOST": pg.host, "PG_PORT": pg.port, "PG_USER": pg.user, "PG_NAME": pg.dbname, "PG_APP": self.application,
                "PG_MAX_AGE": 600, "PG_HEALTH": 1, "PG_URLS": "project.mixed_urls", "MIDDLEWARE_SET": "four",
                "DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONPATH": HERE / "mixed_apps",
                "VIRTUAL_ENV": os.path.abspath(self.run.options.venv or sys.prefix), **sanitizer,
            },
        )  # fmt: skip
        self.load = mixed_client.Load(
            self.server.address, self.cases, mixed_client.BURST[self.name], self.run.options.rate, self.run.chance.random(), 20 * harness.SLOW
        )

    # -- what is taken for right

    def judge(self):
        """Raises for what has no excuse; counts the rest."""
        unexcused = []
        for failure in self.load.failures:
            if excuse := self.excuse_of(failure):
                self.total[f"excused: {excuse}"] += 1
            else:
                unexcused.append(failure)
        self.load.failures.clear()
        if unexcused:
            raise AssertionError(f"{self.name}: {len(unexcused)} failed: {unexcused[:5]}\n{self.server.report}")

    def excuse_of(self, failure):
        if failure.why.startswith("WRONG"):
            return None
        if (failure.status == 500 or failure.is_cut) and any(
            begun <= failure.ended and failure.begun <= ended for begun, ended in self.kills
        ):
            return "its backend was ended"
        # A call of an asynchronous view found no thread when the head of its answer had gone.
        if failure.is_cut and "astream" in failure.case.path and any(failure.begun - 2 <= at <= failure.ended + 2 for at in self.load.refused_at):
            return "no thread in mid-answer"
        return None

    # -- trouble

    async def end_backends(self):
        """One or all of its connections, from PostgreSQL's side."""
        begun = time.monotonic()
        query = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        if self.run.chance.random() < 0.7:
            query += " LIMIT 1"
        ended = await asyncio.to_thread(self.run.pg.execute, query, self.application)
        # The signal is on its way when the function returns; what it ends may be told a little later.
        self.kills.append((begun, time.monotonic() + 0.5 * harness.SLOW))
        self.total["backends ended"] += len(ended)

    async def trouble(self, seconds):
        end = time.monotonic() + seconds
        while (wait := self.run.chance.uniform(2, 6)) < end - time.monotonic():
            await asyncio.sleep(wait)
            await self.end_backends()

    async def storm(self, seconds):
        """Reloads, two at once now and then, and workers that are told to go; each replaced before the next."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            since = len(self.server.err.lines)
            workers = self.server.workers()
            if len(workers) == 1 and self.run.chance.random() < 0.3:
                self.server.send_signal(signal.SIGTERM, workers[0])
                self.total["workers told to go"] += 1
                await self.until(lambda: self.logged(r"worker 0 is ready", since), 30, "a new worker")
                await self.until(lambda: set(self.server.workers()).isdisjoint(workers), 60, "the old worker's end")
            else:
                for _ in range(self.run.chance.choice((1, 1, 2))):
                    self.server.send_signal(signal.SIGHUP)
                    self.total["reloads"] += 1
                    await asyncio.sleep(self.run.chance.uniform(0, 0.3))
                await self.until(lambda: self.logged(r"reloaded in", since), 30, "a reload")
            await asyncio.sleep(self.run.chance.uniform(0.1, 1.5))

    def logged(self, pattern, since):
        return any(re.search(pattern, line) for line in self.server.err.lines[since:])

    async def settled(self):
        """One worker for a while: no reload that was asked for is outstanding."""
        since = time.monotonic()
        deadline = since + 60 * harness.SLOW
        while time.monotonic() - since < 1:
            assert time.monotonic() < deadline, f"{self.name}: reloads do not end\n{self.server.report}"
            if len(self.server.workers()) != 1 or self.logged("SIGHUP: reloading", -1):
                since = time.monotonic()
            await asyncio.sleep(0.05)

    async def until(self, condition, seconds, what):
        deadline = time.monotonic() + seconds * harness.SLOW
        while not (value := condition()):
            assert self.server.process.poll() is None, f"{self.name} has ended\n{self.server.report}"
            assert time.monotonic() < deadline, f"{self.name}: {what}: not within {seconds * harness.SLOW} s\n{self.server.report}"
            await asyncio.sleep(0.05)
        return value

    async def watch(self, stop):
        """How many connections and threads there are, again and again."""
        # A reload has two workers for a while.
        while not stop.is_set():
            pids = await asyncio.to_thread(self.run.pg.pids, self.application)
            workers = len(self.server.workers())
            self.total["most connections"] = max(self.total["most connections"], len(pids))
            bound = (THREADS_MAX + EXECUTOR) * max(workers, self.last_workers)
            assert len(pids) <= bound, f"{self.name}: {len(pids)} connections, {workers} workers"
            self.last_workers = workers
            for pid in self.server.workers():
                n = threads_of(pid)
                self.total["most threads"] = max(self.total["most threads"], n)
                assert n <= THREADS_MAX + EXECUTOR + 8 + self.others, f"{self.name}: {n} threads"
            await asyncio.sleep(0.2)

    last_workers = 1
    others = 0  # threads that are not of the pools
    swing = 1

    # -- rest

    async def at_rest(self):
        """Waits until nothing is going on; what is there then, as a dict."""
        own = 1 if self.name == "wsgi" else 0  # the question itself is on a thread
        deadline = time.monotonic() + 20 * harness.SLOW

        async def quiet():
            while True:
                now = await self.load.ask(self.path("census_light"))
                sync, executor = now["pools"]["ringcorn-sync"], now["pools"]["ringcorn-executor"]
                counts = now.get("counts", {})
                if (
                    counts.get("entries") == counts.get("exits") and counts.get("begun") == counts.get("closed") and not counts.get("elsewhere")
                    and sync["running"] <= THREADS and sync["leased"] == own and sync["queued"] == sync["parked"] == executor["queued"] == 0
                    and not now.get("tasks") and executor["idle"] == executor["running"] and not now["cancelling"]
                ):  # fmt: skip
                    return now
                assert time.monotonic() < deadline, f"{self.name} does not come to rest: {now}\n{self.server.report}"
                await asyncio.sleep(0.1)

        for _ in range(2):
            await quiet()
            # Every thread is used once more, so that each has what it keeps between requests.
            await asyncio.gather(*(self.load.ask(f"{self.path('meet')}?id=m&n={THREADS}") for _ in range(THREADS)))
            if self.name != "wsgi":
                await self.load.ask(f"{self.path('meet_executor')}?id=m&n={EXECUTOR}")
            if self.name == "fastapi":
                await asyncio.sleep(0.4)
                await self.load.ask(f"{self.path('from_thread')}?id=m")
        await quiet()
        # A request may have its answer and not have ended: the census is to meet none but its own.
        await self.counters((await self.load.ask(self.path("census_take")))["pid"])
        census = await self.load.ask(self.path("census_take"))
        pid = census["pid"]
        live = await self.counters(pid)
        # As objects of requests are: of the timers that a request has cancelled some stay for a while, and may be fewer later.
        handles = live.pop("handles") - census["alarms"]
        assert census["pools"]["ringcorn-sync"]["leased"] == own, census["pools"]
        await self.until(lambda: len(self.run.pg.pids(self.application)) == THREADS, 5, f"{THREADS} connections")
        return {
            "pid": pid, "requests": self.load.counts["sent"], "references": census["references"], "blocks": census["blocks"],
            "objects": census["objects"], "types": census["types"], "handles": census["handles"],
            "same": {
                "objects of requests": {**census["of_requests"], "live handles": handles}, "threads of Python": census["names"], "threads": threads_of(pid),
                "objects of threads": {name: census["types"].get(name, 0) for name in ("Thread", "WorkerThread")},
                "descriptors": {name: n for name, n in harness.descriptors(pid).items() if "log" not in name}, "live": live,
                "pool": {name: census["pools"]["ringcorn-sync"][name] for name in ("running", "leased", "idle")},
            },
        }  # fmt: skip

    async def counters(self, pid):
        """The live counters of the C side; those that must be zero are."""
        deadline = time.monotonic() + 5 * harness.SLOW
        while True:
            live = await asyncio.to_thread(self.server.live, pid)
            assert live is not None, f"{self.name}: worker {pid} does not report what is alive\n{self.server.report}"
            if not any(live[name] for name in harness.LIVE_ZERO):
                return {name: live[name] for name in live}
            assert time.monotonic() < deadline, f"{self.name}: still alive: {live}"
            await asyncio.sleep(0.1)

    async def describe(self, name):
        found = await self.load.ask(f"{self.path('census_describe')}?name={name}")
        return "\n".join(found["found"] if isinstance(found, dict) else found)

    @staticmethod
    def more_objects(rests, rest):
        """[(type, how many, the least of the rests before)] of those that belong to requests and are more now."""
        found = []
        for name, value in rest["same"]["objects of requests"].items():
            least = min((one["same"]["objects of requests"].get(name, 0) for one in rests), default=value)
            if value > least:
                found.append((name, value, least))
        return found

    async def compare(self, rest):
        """With the rest before, of the same worker."""
        rests = self.rests.setdefault((self.application, rest["pid"]), [])
        # What is left behind stays; what belongs to a request that has its answer and is just being put away does not.
        for _ in range(RETAKES):
            if not (more := self.more_objects(rests, rest)):
                break
            await asyncio.sleep(1)
            rest = await self.at_rest()
        else:
            described = [f"{name}:\n{await self.describe(name)}" for name in (more[0][0].split()[-1], "exceptions")]
            handles = f"handles: {rest['handles']}, before {rests[-1]['handles']}"
            raise AssertionError("\n".join([f"{self.name}: more at rest than once before: {more}", handles, *described]))
        rests.append(rest)
        self.total["rests"] += 1
        first, before = rests[0], rests[-2] if len(rests) > 1 else rest
        for name, value in rest["same"].items():
            if name != "objects of requests":
                assert value == before["same"][name], f"{self.name}: {name} at rest: {value}\nbefore: {before['same'][name]}"
        grown = {k: n - first["types"].get(k, 0) for k, n in rest["types"].items() if n != first["types"].get(k, 0)}
        text = f"{self.name:8} rest {len(rests)} of {rest['pid']}: {rest['requests']} requests, {rest['objects']} objects"
        if len(rests) > 1:
            text += f" ({rest['objects'] - first['objects']:+d}), blocks {rest['blocks'] - first['blocks']:+d}"
            if rest["references"] is not None:
                text += f", references {rest['references'] - first['references']:+d}"
            if grown:
                text += f"; {dict(sorted(grown.items(), key=lambda item: -abs(item[1]))[:6])}"
        say(text)
        for name, slack in SLACK.items():
            if rest[name] is not None:
                assert rest[name] - first[name] <= slack, f"{self.name}: {rest[name] - first[name]} {name} more: {grown}"

    def growth(self, name):
        """Of references or objects in 1000 requests, of each worker with enough rests: (what it is, what is allowed). It is the median of the
        slopes between any two rests of the second half (Theil and Sen), which what comes once, or comes and goes, hardly moves."""
        found = []
        for rests in self.rests.values():
            if len(rests) >= RESTS_LEAST and rests[0][name] is not None:
                half = rests[len(rests) // 2 :]
                slopes = [1000 * (b[name] - a[name]) / (b["requests"] - a["requests"]) for a, b in itertools.combinations(half, 2)]
                allowed = PER_1000[name] + 1000 * self.swing * SWING[name] / (half[-1]["requests"] - half[0]["requests"])
                found.append((round(statistics.median(slopes), 2), round(allowed, 2)))
        return found

    # -- the end

    def stop(self):
        server, log = self.server, self.server.err
        try:
            code = server.stop(timeout=60)
            assert code == 0, f"{self.name}: exit code {code}\n{server.report}"
            assert not harness.of_session(server.pid), f"{self.name}: processes left\n{server.report}"
        finally:
            server.kill()
            (self.run.folder / f"{self.application}.log").write_text("\n".join(log.lines))
        self.take_counts()
        unexpected = unexpected_lines(log.lines)
        assert not unexpected, f"{self.name}: unexpected in the log: {unexpected[:10]}"
        found = list(leaks(self.log_path.parent.glob(self.log_path.name + "*")))
        assert not found, f"{self.name}: {len(found)} reports of a sanitizer:\n" + "\n\n".join(found[:5])
        self.run.pg.execute("SELECT 1")
        deadline = time.monotonic() + 5 * harness.SLOW
        while left := self.run.pg.pids(self.application):
            assert time.monotonic() < deadline, f"{self.name}: connections left: {left}"
            time.sleep(0.05)
        unclean = self.run.pg.unclean(self.application)
        assert not unclean, f"{self.name}: {len(unclean)} connections ended without a word: {unclean[:5]}"

    def take_counts(self):
        if self.load is not None:
            self.total.update(self.load.counts)
            self.load.counts.clear()


def threads_of(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


# ------------------------------------------------------------------ logs and reports

EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Timeout|Full|Shutdown|Purpose|Disconnect\w*|Group|Exit|Interrupt|Cancelled\w*|Warning|Abort\w*)\b")
UNEXPECTED = re.compile(r"Fatal Python error|never awaited|was destroyed but|left behind|\bResourceWarning: ")


def unexpected_lines(lines):
    """Lines at level error, the last lines of tracebacks, and reports of other kinds, that none of the troubles explains.

    A debug Python shows every ResourceWarning: what is dropped while open."""
    found = []
    for line in lines:
        if harness.ERROR_LINE.search(line) or EXCEPTION.match(line) or UNEXPECTED.search(line):
            if not EXPECTED.search(line):
                found.append(line)
    return found


# Functions that only pass memory on: whose it is, the frame above them says.
PASSING = re.compile(
    r"^(__interceptor_\w+|malloc|calloc|realloc|strdup|_?Py(Mem|Object)_\w*(Malloc|Calloc|Realloc)\w*|_PyMem_\w+"
    r"|(_?PyObject_GC_\w+|PyType_Generic\w+|_PyObject_New\w*|PyType_FromSpec\w*|PyType_FromModuleAndSpec|PyModule_\w+))$"
)


def leaks(files):
    """Each report of AddressSanitizer; of LeakSanitizer, what our own code allocated: CPython and its extensions leave much to exit()."""
    for file in files:
        text = file.read_text(errors="replace")
        if "ERROR: LeakSanitizer" not in text:
            if text.strip():
                yield text[:6000]
            continue
        for block in text.split("\n\n"):
            frames = re.findall(r"^\s+#\d+ \S+ in (\S+) (.*)$", block, re.M)
            owner = next(((name, where) for name, where in frames if not PASSING.match(name)), ("", ""))
            if "/server/" in owner[1] or owner[1].startswith("server/"):
                yield block


# ------------------------------------------------------------------ the run


class Run:
    def __init__(self, options):
        self.options = options
        self.seed = options.seed if options.seed is not None else random.randrange(1 << 30)
        self.chance = random.Random(self.seed)
        self.folder = Path(tempfile.mkdtemp(prefix="ringcorn-mixed-"))
        apps = HERE / "mixed_apps"
        self.sites = [
            Site("django", "project.asgi:application", HERE.parent / "apps" / "pg_project", mixed_client.DJANGO, "/{}/", (), self),
            Site("fastapi", "mixed_fastapi:app", apps, mixed_client.FASTAPI, "/{}", (), self),
            Site("wsgi", "mixed_wsgi:app", apps, mixed_client.WSGI, "/{}", ("--interface", "wsgi"), self),
        ]
        # Up to 30 references come and go there, with dictionaries, lists and weak references.
        self.sites[0].swing = 2
        # AnyIO's own, for calls that a request makes beside its thread's: one for each request under way, at worst.
        self.sites[1].others = 40

    def prepare(self):
        env = {"DJANGO_SETTINGS_MODULE": "project.settings", "PG_PORT": str(self.pg.port), "PG_APP": "tables"}
        subprocess.run([sys.executable, "tables.py"], cwd=HERE.parent / "apps/pg_project", env={**os.environ, **env}, check=True)
        self.pg.execute("CREATE TABLE stress (name text)")

    async def stretch(self, seconds, action):
        """Load on every site for so long, with some trouble; then every answer is judged."""
        stop = asyncio.Event()
        watching = [asyncio.ensure_future(site.watch(stop)) for site in self.sites]
        work = [site.load.run(seconds) for site in self.sites]
        work += [getattr(site, action)(seconds) for site in self.sites]
        try:
            await gather(*work, *watching, until=len(work), stop=stop)
        finally:
            for site in self.sites:
                site.judge()

    async def round(self, io, seconds, stretches):
        """Servers with this backend; a warm-up, stretches with a rest after each, a storm."""
        for number, site in enumerate(self.sites):
            site.start(io[number % len(io)], self.number)
        each = seconds / (stretches + 2)
        for n in range(stretches + 1):
            await self.stretch(each, "trouble")
            await self.rest()
        await self.stretch(each, "storm")
        for site in self.sites:
            await site.settled()
        await self.rest()
        self.number += 1

    async def rest(self):
        for site in self.sites:
            await site.compare(await site.at_rest())

    def main(self):
        io = self.options.io.split(",")
        if harness.io_uring_refused() and "io_uring" in io:
            say(f"io_uring is refused here ({harness.io_uring_refused()}): epoll alone")
            io = ["epoll"]
        seconds = self.options.minutes * 60
        rounds = max(len(io), round(seconds / 600))
        stretches = 2 if seconds / rounds < 120 else 8
        say(f"{harness.BIN}: {rounds} rounds of {seconds / rounds:.0f} s, {stretches} rests each, io {','.join(io)}, seed {self.seed}")
        began = time.monotonic()
        self.number = 1
        try:
            with postgres.Postgres() as self.pg:
                self.prepare()
                for n in range(rounds):
                    turned = [io[(n + i) % len(io)] for i in range(len(io))]
                    try:
                        asyncio.run(self.round(turned, seconds / rounds, stretches))
                        say(f"round {n + 1} of {rounds} done")
                    except BaseException:
                        self.keep()
                        raise
                    for site in self.sites:
                        site.stop()
        finally:
            for site in self.sites:
                if site.server is not None:
                    site.server.kill()
            if self.options.keep:
                say(f"logs: {self.folder}")
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
        figures = {site.name: dict(sorted(site.total.items())) for site in self.sites}
        figures["seconds"] = round(time.monotonic() - began)
        for site in self.sites:
            for name in PER_1000:
                if growth := site.growth(name):
                    figures[site.name][f"{name} in 1000 requests, and allowed"] = growth
        self.check(figures)
        return figures

    def keep(self):
        """After a failure: the logs."""
        self.options.keep = True
        for site in self.sites:
            if site.server is not None:
                for pid in site.server.workers():
                    site.server.live(pid)  # with it come the stacks of its threads, and its requests in hand
                (self.folder / f"{site.application}.log").write_text(site.server.log)

    def check(self, figures):
        """The run has shown what it is for."""
        for site in self.sites:
            total = site.total
            for name in ("answered", "exceptions", "left", "refused", "backends ended", "bursts", "rests"):
                assert total[name] > 0, f"{site.name}: no {name}: {figures}"
            assert total["reloads"] + total["workers told to go"] > 0, f"{site.name}: no reload: {figures}"
            assert total["answered"] > total["sent"] / 2, f"{site.name}: hardly anything was answered: {figures}"
            for name in PER_1000:
                for grown, allowed in site.growth(name):
                    assert grown <= allowed, f"{site.name}: {grown} {name} more in 1000 requests, allowed are {allowed}: {figures}"


async def gather(*work, until, stop):
    """The first `until` are waited for, then the others are told to stop; the first exception ends all."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        main = asyncio.gather(*tasks[:until])
        others = asyncio.gather(*tasks[until:])
        await asyncio.wait({main, others}, return_when=asyncio.FIRST_COMPLETED)
        if others.done():
            await others
        await main
        stop.set()
        await others
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def scenario(io, minutes=1.0, **options):
    """As one of the scenarios of run.py: one backend, one round."""
    return Run(arguments(["--io", io, "--minutes", str(minutes)])).main()


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of load, all in all (default 1)")
    parser.add_argument("--io", default="io_uring,epoll", help="I/O backends; the servers take them in turn")
    parser.add_argument("--program", default=str(harness.BIN), help="the program (RINGCORN_BIN, build/ringcorn by default)")
    parser.add_argument("--venv", help="the servers' virtual environment (by default that of the Python that runs this)")
    parser.add_argument("--rate", type=float, default=30, help="requests a second, on each of the three servers (default 30)")
    parser.add_argument("--seed", type=int, help="of all that is left to chance")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    return parser.parse_args(argv)


def main():
    try:
        figures = Run(arguments(sys.argv[1:])).main()
    except AssertionError as e:
        print(f"FAILED {e}")
        print("0 passed, 1 failed")
        return 1
    except Exception:
        traceback.print_exc()
        print("0 passed, 1 failed")
        return 1
    print(json.dumps(figures, indent=1))
    print("1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
