"""Does following `ringcornctl advise` bring what it promised? Each advice is asked for under load, followed, and what has come of it measured.

    build/venv/bin/python tests/bench/advice.py [--io epoll] [--app django] [--only async,def,threads,process] [--seconds 10]

The views are those of tests/apps/advised.py. An advice holds where what was gained is within --within (30 %) of the promise; exit code 1 where one
does not.

    async     make it async: threads that are freed, at the same load
    def       make it def: by how much the longest step of the event loop becomes shorter
    threads   so many would do: what is answered with those, in parts of what all of them answer
    more      more threads would end the wait: what is left of it with those
    process   give it a process: what a second worker answers more
    crossings make it def: crossings a request
"""

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import harness  # noqa: E402
from slow_server import SlowServer  # noqa: E402

APPS = {"fastapi": "advised_fastapi:app", "django": "advised_django:app"}


class Load:
    """Connections that ask again and again, each after a pause: [(path, connections, pause in seconds)]."""

    def __init__(self, server, asked):
        self.server, self.is_over, self.answered = server, False, {path: 0 for path, _, _ in asked}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(path, pause)) for path, n, pause in asked for _ in range(n)]
        for n, thread in enumerate(self.threads):
            thread.start()
            time.sleep(0.3 / len(self.threads))

    def run(self, path, pause):
        connection = http.client.HTTPConnection(*self.server.address, timeout=60)
        while not self.is_over:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                print(f"{path}: {answer.status}", file=sys.stderr)
                return
            with self.lock:
                self.answered[path] += 1
            if pause:
                time.sleep(pause)
        connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.is_over = True
        for thread in self.threads:
            thread.join()


class Bench:
    def __init__(self, args, slow):
        self.args, self.slow, self.failed = args, slow, 0

    @contextlib.contextmanager
    def server(self, *options, **env):
        with tempfile.TemporaryDirectory(prefix="ringcorn-advice-") as folder:
            control = Path(folder) / "ctl.sock"
            s = harness.Server(
                APPS[self.args.app], "--control-socket", control, *options, io=self.args.io, cwd=folder, env={"SLOW": self.slow, **env}
            )
            s.control = control
            try:
                yield s
            finally:
                s.stop()
                s.kill()

    def advise(self, s, asked, seconds=None):
        """(what it says under this load, requests answered meanwhile by path and second)."""
        seconds = seconds or self.args.seconds
        with Load(s, asked) as load:
            time.sleep(2)  # connections, caches, threads
            had, began = dict(load.answered), time.monotonic()
            command = [harness.BIN.with_name("ringcornctl"), "advise", "--seconds", seconds, "--json", "--control-socket", s.control]
            told = json.loads(subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout)["result"]
            took = time.monotonic() - began
            rates = {path: (load.answered[path] - had[path]) / took for path in had}
        told["by"] = {r["route"].lstrip("/"): r for r in told["routes"]}
        return told, rates

    def holds(self, what, promised, got, unit):
        ratio = got / promised if promised else float("inf")
        is_right = abs(ratio - 1) <= self.args.within
        self.failed += not is_right
        print(f"  {what}: promised {promised:.4g} {unit}, got {got:.4g}: {ratio:.2f}  {'ok' if is_right else 'NOT within bounds'}", flush=True)

    def expect(self, route, verdict):
        print(f"  {route['text']}")
        if route["verdict"] != verdict:
            self.failed += 1
            print(f"  NOT what was expected: {verdict}")

    # --- the advices

    def do_async(self):
        with self.server("--sync-threads", 8, WAIT_MS="100") as s:
            told, _ = self.advise(s, [("/report", 6, 0.01)])
            self.expect(told["by"]["report"], "async")
            after, _ = self.advise(s, [("/report-async", 6, 0.01)])
            self.holds("threads freed", told["by"]["report"]["gain"], told["threads"]["busy"] - after["threads"]["busy"], "threads")

    def do_def(self):
        with self.server("--sync-threads", 8, BLOCK_MS="60") as s:
            told, _ = self.advise(s, [("/feed", 1, 0.1), ("/fast", 1, 0.02)])
            route = told["by"]["feed"]
            self.expect(route, "def")
            after, _ = self.advise(s, [("/feed-def", 1, 0.1), ("/fast", 1, 0.02)])
            longest = max(r["long_step_s"] or r["loop_s"] for r in after["routes"])
            self.holds("the longest steps are shorter by", route["gain"] * 1e3, (route["long_step_s"] - longest) * 1e3, "ms")

    def do_threads(self):
        asked = [("/report", 4, 0.15), ("/orders", 1, 0.05)]
        with self.server("--sync-threads", 16, WAIT_MS="50") as s:
            told, rates = self.advise(s, asked)
        threads = told["threads"]
        self.expect(threads, "fewer")
        with self.server("--sync-threads", threads["needed"], "--sync-threads-max", threads["needed"], WAIT_MS="50") as s:
            after, fewer = self.advise(s, asked)
        self.holds(f"requests a second with {threads['needed']} of 16", sum(rates.values()), sum(fewer.values()), "")
        print(f"  wait for a thread: {threads['wait_s'] * 1e3:.2f} ms before, {after['threads']['wait_s'] * 1e3:.2f} ms after")

    def do_more(self):
        asked = [("/report", 12, 0.0)]
        with self.server("--sync-threads", 4, "--sync-threads-max", 4, WAIT_MS="100") as s:
            told, before = self.advise(s, asked)
        threads = told["threads"]
        self.expect(threads, "more")
        with self.server("--sync-threads", threads["needed"], "--sync-threads-max", threads["needed"], WAIT_MS="100") as s:
            after, rates = self.advise(s, asked)
        self.holds("wait cut", threads["gain"] * 1e3, (threads["wait_s"] - after["threads"]["wait_s"]) * 1e3, "ms")
        print(f"  requests a second: {before['/report']:.1f} before, {rates['/report']:.1f} after")

    def do_process(self):
        """The best of some rounds: a machine that is busy otherwise has no CPU for a second worker."""
        asked, promised, one, two = [("/export", 8, 0.0)], [], [], []
        for _ in range(self.args.rounds):
            for rates, workers in ((one, 1), (two, 2)):
                with self.server("--sync-threads", 4, "-w", workers) as s:
                    s.wait_workers(workers)
                    told, rate = self.advise(s, asked)
                route = told["by"]["export"]
                rates.append(rate["/export"])
                if workers == 1:
                    promised.append(route["gain"] or 0)
                print(f"  {workers} worker{'s' if workers > 1 else ''}: {rate['/export']:.1f} a second, with {route['busy_cpus']:.2f} CPUs")
        self.expect(route, "process")
        self.holds("requests a second more with a second worker", max(promised), max(two) - max(one), "")

    def do_crossings(self):
        with self.server("--sync-threads", 4) as s:
            told, _ = self.advise(s, [("/lookups", 2, 0.005)])
            route = told["by"]["lookups"]
            self.expect(route, "crossings")
            after, _ = self.advise(s, [("/lookups-def", 2, 0.005)])
            self.holds("crossings saved", route["gain"], route["crossings"] - after["by"]["lookups-def"]["crossings"], "")
            print(f"  a request takes {route['request_s'] * 1e3:.2f} ms before, {after['by']['lookups-def']['request_s'] * 1e3:.2f} ms after")


def main():
    names = [name[3:] for name in vars(Bench) if name.startswith("do_")]
    parser = argparse.ArgumentParser(description="Does following an advice bring what it promised?")
    parser.add_argument("--io", default="epoll", choices=["epoll", "io_uring"])
    parser.add_argument("--app", default="fastapi", choices=APPS)
    parser.add_argument("--only", default=",".join(names))
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="of process")
    parser.add_argument("--within", type=float, default=0.3)
    args = parser.parse_args()
    with SlowServer() as slow:
        bench = Bench(args, slow.address)
        for name in args.only.split(","):
            print(f"{name}, {args.app}, {args.io}", flush=True)
            getattr(bench, "do_" + name)()
    print(f"{bench.failed} failed")
    sys.exit(bench.failed > 0)


if __name__ == "__main__":
    main()
