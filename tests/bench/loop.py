"""The event loop alone beside uvloop and asyncio's own: CPU per operation, on the same machine in the same minutes.

    make bench-loop                                                  all rows, all loops
    make bench-loop BENCH='--rows "udp|sleep" --rounds 7 --seconds 1'
    make bench-loop BENCH='--loops ring,uvloop'

`ring` and `epoll` are ringcorn.loop. What is measured: user and system time of the loop's process, divided by what it did. A process of its own sends the load
(tests/tools/echo_load.c, the same for all; connections and handshakes are made before the clock is read), or the loop is given work that needs none
(loop_server.py). Every round runs each loop once, in turn, so that a busy minute of the machine hits all alike; a ratio is the median of those of the rounds.
What a subprocess itself takes is not counted (it is in the raw results).

`lateness` is no CPU: by how much asyncio.sleep() of 0.3 to 5 ms misses the time that was asked for, and how often it ends before it. On a machine that is busy with
other work its 99th percentile says how busy that is.

One round may be twice another on a machine that is not alone. So a row of the ring that comes out above 1.0 is measured again at the end, with --again rounds, and that
figure takes the place of the first, whatever it is.

What must hold, as ratio to uvloop: the geometric mean of all rows at most 0.8 for the ring and 1.0 for epoll, no row of the ring above 1.0, no sleep of ours too short.

Results: build/bench/loop-<time>.json (with every round), and build/bench/loop-latest.json.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OUT = ROOT / "build" / "bench"
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import echo_load  # noqa: E402
import tls  # noqa: E402
from loop_server import WORK  # noqa: E402
from processes import cpu_seconds  # noqa: E402

LOOPS = ("ring", "epoll", "uvloop", "asyncio")
PEER = "uvloop"
MEAN_MAX = {"ring": 0.8, "epoll": 1.0}  # of the ratios to uvloop
ROW_MAX = {"ring": 1.0}  # of each of them
SIZES = {"1K": 1 << 10, "8K": 1 << 13, "10K": 10 << 10, "100K": 100 << 10}


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    mode: str = ""  # of echo_load; "" = work, or lateness
    endpoint: str = ""
    size: int = 0
    connections: int = 0


def echoes(mode, endpoint, sizes, connections):
    return [Row(f"{endpoint} {size} x{n}", mode, endpoint, SIZES[size], n) for size in sizes for n in connections]


ROWS = [
    *echoes("tcp", "protocol", ("1K", "10K", "100K"), (1, 10, 100)),
    *echoes("tcp", "streams", ("1K", "10K", "100K"), (1, 10, 100)),
    *echoes("tcp", "buffered", ("10K", "100K"), (10,)),
    *echoes("tcp", "sock", ("1K", "100K"), (1, 10)),
    *echoes("tls", "tls-protocol", ("1K", "10K", "100K"), (10,)),
    *echoes("tls", "tls-streams", ("1K", "10K", "100K"), (10,)),
    *echoes("udp", "udp", ("1K",), (1, 10, 100)),
    *echoes("udp", "udp", ("8K",), (1, 10)),  # a hundred at once do not fit into the socket's buffer
    *(Row(name) for name in WORK),
    Row("lateness"),
]


class Process:
    """loop_server.py with one loop: "serve" or "work"."""

    def __init__(self, name, args, *arguments):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RINGCORN_", "PYTHON", "UVLOOP"))}
        env |= {"PYTHONPATH": str(args.package), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [args.venv / "bin" / "python", HERE / "loop_server.py", name, *arguments]
        self.name = name
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has ended: exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.line()

    def stop(self):
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Loops:
    """The processes of the loops, started when a row wants them."""

    def __init__(self, args):
        self.args, self.serving, self.working = args, {}, {}

    def server(self, name):
        if name not in self.serving:
            process = Process(name, self.args, "serve", *map(str, tls.certificate("ec")))
            self.serving[name] = process, process.line()
        return self.serving[name]

    def worker(self, name):
        if name not in self.working:
            self.working[name] = Process(name, self.args, "work")
        return self.working[name]

    def run(self, row, name, seconds):
        if not row.mode:
            return self.worker(name).ask(f"{row.name} {seconds}")
        process, ports = self.server(name)
        pid = process.process.pid
        got, cpu = echo_load.echo(row.mode, ports[row.endpoint], row.connections, row.size, seconds, lambda: cpu_seconds(pid))
        return {"us": cpu / got["messages"] * 1e6, "operations": got["messages"], "per_s": got["messages"] / got["seconds"], "lost": got["lost"]}

    def stop(self):
        for process in [*(process for process, _ in self.serving.values()), *self.working.values()]:
            process.stop()


def measure(row, loops, args, n):
    """{loop: [the figures of each of n rounds]}, each round beginning with another loop."""
    names, rounds = args.loops, {name: [] for name in args.loops}
    for name in names:
        loops.run(row, name, min(0.2, args.seconds))  # warm
    for i in range(n):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            rounds[name].append(loops.run(row, name, args.seconds))
    return rounds


def percentile(ordered, part):
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def summary(row, rounds):
    """{loop: {"us", "us_min", "us_max", "ratio" to uvloop where there is one, "rounds"}}."""
    result = {}
    for name, runs in rounds.items():
        if row.name == "lateness":
            late = [us for run in runs for us in run["late_us"]]
            off = sorted(map(abs, late))
            result[name] = {
                "us": percentile(off, 0.5), "p99_us": percentile(off, 0.99), "earliest_us": min(late), "sleeps": len(late),
                "early": sum(us < 0 for us in late), "rounds": [[round(us, 1) for us in run["late_us"]] for run in runs],
            }  # fmt: skip
        else:
            us = [run["us"] for run in runs]
            result[name] = {"us": statistics.median(us), "us_min": min(us), "us_max": max(us), "rounds": runs}
    if PEER in result:
        for name, one in result.items():
            if row.name == "lateness":
                one["ratio"] = one["us"] / result[PEER]["us"]
            else:
                one["ratio"] = statistics.median(a["us"] / b["us"] for a, b in zip(one["rounds"], result[PEER]["rounds"]))
    return result


def above(result, loops):
    """The loops whose ratio is above what a row of theirs may have."""
    return [name for name in loops if result[name].get("ratio", 0) > ROW_MAX.get(name, float("inf"))]


def show(row, result, loops):
    cells = "".join(f"{result[name]['us']:11.2f}" for name in loops)
    ratios = "".join(f"{result[name].get('ratio', float('nan')):8.2f}" for name in loops if name in MEAN_MAX)
    notes = "".join(f"  {name} > {ROW_MAX[name]}" for name in above(result, loops))
    if row.mode == "udp" and (lost := sum(run["lost"] for one in result.values() for run in one["rounds"])):
        notes += f"  {lost} lost"
    print(f"{row.name:24}{cells}{ratios}{notes}", flush=True)
    if row.name == "lateness":
        print(f"{'  p99':24}" + "".join(f"{result[name]['p99_us']:11.2f}" for name in loops))
        print(f"{'  too short, of all':24}" + "".join(f"{'{early} of {sleeps}'.format(**result[name]):>11}" for name in loops))


def verdicts(results, loops):
    """[(what, figure, limit)]; lateness is no CPU and has no part in the mean."""
    found = []
    for name in (name for name in loops if name in MEAN_MAX):
        ratios = {row: result[name]["ratio"] for row, result in results.items() if row != "lateness" and "ratio" in result[name]}
        if ratios:
            found.append((f"{name}: geometric mean of {len(ratios)} rows", statistics.geometric_mean(ratios.values()), MEAN_MAX[name]))
            if name in ROW_MAX:
                worst = max(ratios, key=ratios.get)
                found.append((f"{name}: the worst row ({worst})", ratios[worst], ROW_MAX[name]))
        if "lateness" in results:
            found.append((f"{name}: sleeps that were too short", results["lateness"][name]["early"], 0))
            if "ratio" in results["lateness"][name]:
                found.append((f"{name}: lateness, median", results["lateness"][name]["ratio"], 1.0))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "build" / "python", help="the folder of our extension and package")
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "bench-venv")
    parser.add_argument("--rows", default="", help="a regular expression; those in whose name it is found")
    parser.add_argument("--loops", default=",".join(LOOPS), help=f"of {','.join(LOOPS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    parser.add_argument("--again", type=int, default=15, help="rounds of the second measurement of a row above its limit; 0 = none")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when something is missed")
    args = parser.parse_args()
    rows = [row for row in ROWS if re.search(args.rows, row.name)]
    if args.list:
        print("\n".join(row.name for row in rows))
        return 0
    args.package, args.venv, args.loops = args.package.absolute(), args.venv.absolute(), args.loops.split(",")
    for name in args.loops:
        if name not in LOOPS:
            sys.exit(f"no loop {name}; there are {', '.join(LOOPS)}")
    if not rows:
        sys.exit(f"no row has {args.rows} in its name; --list names them")

    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*:\s*(.+)", f.read())
    python = subprocess.run([args.venv / "bin" / "python", "-V"], check=True, capture_output=True, text=True).stdout.split()[-1]
    peer = next(
        (d.version for d in importlib.metadata.distributions(path=map(str, args.venv.glob("lib/python*/site-packages"))) if d.name == PEER), "not there"
    )
    machine = f"{model[1] if model else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {python}, {PEER} {peer}"
    load_at_start = os.getloadavg()
    print(f"{machine}\nload average at the start: {' '.join(f'{one:.2f}' for one in load_at_start)} (1, 5, 15 minutes)")
    print(f"{args.rounds} rounds of {args.seconds} s; us of CPU for one operation (lateness: us); ratios to {PEER}\n")
    ours = [name for name in args.loops if name in MEAN_MAX]
    print(f"{'':24}" + "".join(f"{name:>11}" for name in args.loops) + "".join(f"{name:>8}" for name in ours))
    results, loops = {}, Loops(args)
    try:
        for row in rows:
            results[row.name] = summary(row, measure(row, loops, args, args.rounds))
            show(row, results[row.name], args.loops)
        doubtful = [row for row in rows if args.again and row.name != "lateness" and above(results[row.name], args.loops)]
        if doubtful:
            print(f"\nagain, {args.again} rounds, which count instead:")
        for row in doubtful:
            results[row.name] = summary(row, measure(row, loops, args, args.again))
            show(row, results[row.name], args.loops)
    finally:
        loops.stop()
    print()
    missed = 0
    for what, figure, limit in verdicts(results, args.loops):
        missed += figure > limit
        print(f"{what}: {figure:.3g} (at most {limit}) {'met' if figure <= limit else 'MISSED'}")

    OUT.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine, "rounds": args.rounds, "seconds": args.seconds,
            "load_at_start": load_at_start, "load_at_end": os.getloadavg(), "rows": results,
            "verdicts": [{"what": w, "figure": f, "at_most": m} for w, f, m in verdicts(results, args.loops)],
        },
        indent=1,
    )  # fmt: skip
    for name in (stamp, "latest"):
        (OUT / f"loop-{name}.json").write_text(text)
    print(f"\nbuild/bench/loop-{stamp}.json")
    return 1 if missed and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
