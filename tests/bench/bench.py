"""CPU per request of the server, beside its peers, on the same machine in the same minutes.

    make bench                                        all cases, all servers
    make bench BENCH='--cases plain,headers --rounds 7 --seconds 3'
    make bench BENCH='--servers ringcorn,uvicorn'

What is measured: user and system time of the server's whole process tree, divided by the requests it answered, while wrk keeps 64 connections busy; one worker each. Every round runs every server once,
in turn, so that a busy minute of the machine hits all alike; the figure is the median over the rounds. Requests per second are
printed too, but on a machine that also runs wrk they say less. The cases of WebSockets are measured likewise, per message, under
tests/tools/ws_load.c: 64 connections that each wait for an echo before they send the next message; every echo is compared with
what was sent, and must be compressed where that was agreed on. Others differ: `crossing` (crossing.py), `gil` (gil.py), and
`handshakes` (tls.py), where full TLS handshakes are made and counted, `file` (files.py): CPU per GiB of one download at a time, and
`memory` (memory.py): bytes of the server for each of 4,000 idle connections.

    cases.py       what is measured, and the ratios that must hold      servers.py     how each server is started
    processes.py   processes, their CPU time and memory                 apps.py        what is served; Django: tests/apps/pg_project
    instructions.py  not part of this: instructions per request, by callgrind

Results: build/bench/<time>.json (with every round) and .svg, and build/bench/latest.*.
"""

import argparse
import contextlib
import html
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OUT = ROOT / "build" / "bench"
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import files  # noqa: E402
import gil  # noqa: E402
import memory  # noqa: E402
import tls  # noqa: E402
import ws_load  # noqa: E402
from cases import CASES, OURS  # noqa: E402
from ports import free_port  # noqa: E402
from postgres import Postgres  # noqa: E402
from processes import Running, cpu_seconds, rss_kib  # noqa: E402
from servers import SERVERS  # noqa: E402

CONNECTIONS = 64
CROSSING_US = 8.0  # an empty job of ours costs at most so much, one at a time or many
CROSSING_ROUNDS_MIN = 3


# ------------------------------------------------------------------ starting


def environment(args, case, extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RINGCORN_", "PYTHON", "PG"))}
    env["VIRTUAL_ENV"] = str(args.venv.absolute())
    env["PYTHONPATH"] = str(case.folder)
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if case.needs_files:
        env["BENCH_FILES"] = str(files.files())
    return {**env, **case.env, **extra}


@contextlib.contextmanager
def database(args, case):
    """A PostgreSQL with the project's tables, where the case needs one; its variables of the environment."""
    if not case.needs_postgres:
        yield {}
        return
    with Postgres(max_connections=500, log_min_messages="warning", log_connections="off", log_disconnections="off") as pg:
        variables = {"PG_PORT": str(pg.port)}
        subprocess.run([args.bin / "python", "tables.py"], cwd=case.folder, env=environment(args, case, variables), check=True)
        yield variables


@contextlib.contextmanager
def serving(name, args):
    """{server: Running} of a case; those that do not come up are left out, and said."""
    case, running = CASES[name], {}
    servers = [s for s in case.servers if not args.servers or s in args.servers]
    with database(args, case) as variables:
        try:
            for server in servers:
                interface, command = SERVERS[server]
                port = free_port()
                env = environment(args, case, {**variables, **case.env_of.get(server, {}), **({"PG_APP": server} if variables else {})})
                try:
                    running[server] = Running(
                        server, [*args.on_server_cpu, *command(args, case, port)], port, case.path_of.get(server, case.path), env, case.folder,
                        tls.anybody() if case.tls else None,
                    )  # fmt: skip
                except (RuntimeError, OSError) as e:
                    print(f"  {server}: left out: {e}", file=sys.stderr)
            yield running
        finally:
            for one in running.values():
                one.stop()


def in_turn(running, rounds):
    """Every server once a round, each round beginning with another."""
    order = list(running)
    for i in range(rounds):
        for server in order[i % len(order) :] + order[: i % len(order)]:
            yield server, running[server]


# ------------------------------------------------------------------ load


def load(port, case, seconds, args):
    """One run of the client; returns (requests or messages, seconds, answers that were no 2xx or 3xx, socket errors)."""
    if case.kind == "handshakes":
        return tls.handshakes(port, seconds), seconds, 0, 0
    if case.kind == "ws":
        try:
            run = ws_load.echo(("127.0.0.1", port), case.path, CONNECTIONS, case.message, case.deflate, seconds)
        except ws_load.Failed as e:
            raise RuntimeError(e) from None
        return run["messages"], run["seconds"], 0, 0
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--timeout", "10s"]
    for name, value in case.headers.items():
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run([*command, f"{'https' if case.tls else 'http'}://127.0.0.1:{port}{case.path}"], capture_output=True, text=True, timeout=seconds + 30)
    match = re.search(r"(\d+) requests in ([\d.]+)(ms|s)", done.stdout)
    if not match:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout)
    return int(match[1]), float(match[2]) / (1000 if match[3] == "ms" else 1), int(bad[1]) if bad else 0, sum(map(int, errors.groups())) if errors else 0


def run_load(name, args):
    case, result = CASES[name], {}
    with serving(name, args) as running:
        for server, one in list(running.items()):
            try:
                load(one.port, case, 1, args)  # warm
            except RuntimeError as e:
                print(f"  {server}: left out: {e}\n{one.output()}", file=sys.stderr)
                running.pop(server).stop()
        rounds = {server: [] for server in running}
        for server, one in in_turn(running, args.rounds):
            before = cpu_seconds(one.process.pid)
            try:
                requests, seconds, bad, errors = load(one.port, case, args.seconds, args)
            except RuntimeError as e:
                sys.exit(f"{server} stopped answering: {e}\n{one.output()}")
            cpu = cpu_seconds(one.process.pid) - before
            rounds[server].append({"us": cpu / requests * 1e6, "rps": requests / seconds, "cpu_share": cpu / seconds, "bad": bad, "errors": errors})
        memory = {server: rss_kib(one.process.pid) for server, one in running.items()}
    for server, runs in rounds.items():
        us = [r["us"] for r in runs]
        result[server] = {
            "us": statistics.median(us), "us_min": min(us), "us_max": max(us),
            "rps": statistics.median(r["rps"] for r in runs), "pss_kib": memory[server],
            "bad": sum(r["bad"] for r in runs), "errors": sum(r["errors"] for r in runs), "rounds": runs,
        }  # fmt: skip
    return result


def run_files(name, args):
    """CPU of one download after the other, for 1 GiB each."""
    case = CASES[name]
    with serving(name, args) as running:
        rounds = {server: [] for server in running}
        for server, one in running.items():
            files.download(one.port, case.path_of.get(server, case.path))  # warm
        for server, one in in_turn(running, args.rounds):
            before = cpu_seconds(one.process.pid)
            n, seconds = files.download(one.port, case.path_of.get(server, case.path))
            cpu = cpu_seconds(one.process.pid) - before
            rounds[server].append({"ms_per_gib": cpu * 1e3 * (1 << 30) / n, "mib_per_s": n / seconds / (1 << 20)})
    result = {}
    for server, runs in rounds.items():
        each = [r["ms_per_gib"] for r in runs]
        result[server] = {
            "ms_per_gib": statistics.median(each), "ms_per_gib_min": min(each), "ms_per_gib_max": max(each),
            "mib_per_s": statistics.median(r["mib_per_s"] for r in runs), "rounds": runs,
        }  # fmt: skip
    return result


def run_crossing(name, args):
    """In a process of its own; the figures have the form of the others."""
    env = environment(args, CASES[name], {"PYTHONPATH": str(args.program.parent / "python")})
    rounds = max(args.rounds, CROSSING_ROUNDS_MIN)
    command = [*args.on_server_cpu, args.bin / "python", HERE / "crossing.py", str(rounds)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"  left out: {done.stderr[-2000:]}", file=sys.stderr)
        return {}
    return {
        what: {"us": statistics.median(us), "us_min": min(us), "us_max": max(us), "rounds": us} for what, us in json.loads(done.stdout).items()
    }


def run_gil(name, args):
    with serving(name, args) as running:
        rounds = {server: [] for server in running}
        for server, one in in_turn(running, args.rounds):
            times, burnt = gil.measure(one.port, args.seconds)
            rounds[server].append({"times_ms": [round(t, 3) for t in times], "p99_ms": gil.share(times, 0.99), "burnt_per_s": burnt})
    result = {}
    for server, runs in rounds.items():
        times, each = [t for r in runs for t in r["times_ms"]], [r["p99_ms"] for r in runs]
        result[server] = {
            "p99_ms": gil.share(times, 0.99), "p99_ms_min": min(each), "p99_ms_max": max(each), "p50_ms": gil.share(times, 0.5),
            "max_ms": max(times), "answers": len(times), "burnt_per_s": statistics.median(r["burnt_per_s"] for r in runs), "rounds": runs,
        }  # fmt: skip
    return result


def run_memory(name, args):
    """Each server once, started afresh: what it has grown to it does not give back."""
    result = {}
    for server in CASES[name].servers:
        if args.servers and server not in args.servers:
            continue
        with serving(name, argparse.Namespace(**{**vars(args), "servers": [server]})) as running:
            for one in running.values():
                try:
                    result[server] = {"bytes_each": memory.measure(one.port, one.process.pid, bool(CASES[name].message))}
                except (OSError, RuntimeError) as e:  # granian 2 accepts no more than its backlog, 1024
                    print(f"  {server}: left out: {e}", file=sys.stderr)
    return result


RUN = {"file": run_files, "load": run_load, "handshakes": run_load, "ws": run_load, "crossing": run_crossing, "gil": run_gil, "memory": run_memory}
FIGURE = {"file": "ms_per_gib", "load": "us", "handshakes": "us", "ws": "us", "crossing": "us", "gil": "p99_ms", "memory": "bytes_each"}


# ------------------------------------------------------------------ results


def verdicts(name, result):
    """[(what, figure, limit)] for what the case must hold. A ratio without its peers is no ratio: nothing is said then."""
    case = CASES[name]
    if case.kind == "crossing":
        return [(f"{what}, us", r["us"], CROSSING_US) for what, r in result.items() if what.endswith(("io_uring", "epoll"))]
    if case.kind == "memory":
        return [(f"{what}, bytes", result[what]["bytes_each"], case.most) for what in OURS if what in result]
    found, figure = [], FIGURE[case.kind]
    for limit in case.limits:
        peers = [p for p in limit.peers if p in result]
        if peers and limit.ours in result:
            best = min(result[p][figure] for p in peers)
            found.append((limit.label(peers), result[limit.ours][figure] / best, limit.most))
    return found


def table(name, result):
    kind = CASES[name].kind
    ours = result.get("ringcorn", result.get("ringcorn-wsgi", {})).get(FIGURE[kind])
    if kind in ("load", "ws", "handshakes"):
        what, each = {"load": ("us/request", "req/s"), "ws": ("us/message", "msg/s"), "handshakes": ("us each", "a second")}[kind]
        print(f"  {'server':20} {what:>10} {'(min..max)':>18} {'ratio':>7} {each:>9} {'MiB':>6}")
    elif kind == "file":
        print(f"  {'server':22} {'ms/GiB':>10} {'(min..max)':>18} {'MiB/s':>8}")
    elif kind == "memory":
        print(f"  {'server':20} {'bytes each':>10} {'ratio':>7}")
    elif kind == "gil":
        print(f"  {'server':20} {'p99, ms':>10} {'(min..max)':>18} {'ratio':>7} {'p50':>7} {'max':>7} {'answers':>8} {'burnt/s':>8}")
    else:
        print(f"  {'what':26} {'us/job':>8} {'(min..max)':>18}")
    for server, r in sorted(result.items(), key=lambda item: item[1][FIGURE[kind]]):
        figure = r[FIGURE[kind]]
        ratio = f"{ours / figure:.2f}" if ours else ""
        if kind == "memory":
            print(f"  {server:20} {figure:10.0f} {ratio:>7}")
            continue
        spread = f"({r[FIGURE[kind] + '_min']:.1f}..{r[FIGURE[kind] + '_max']:.1f})"
        if kind in ("load", "ws", "handshakes"):
            notes = "".join(f"  {r[k]} {k}!" for k in ("bad", "errors") if r[k])
            print(f"  {server:20} {figure:10.2f} {spread:>18} {ratio:>7} {r['rps']:9.0f} {r['pss_kib'] / 1024:6.1f}{notes}")
        elif kind == "file":
            print(f"  {server:22} {figure:10.1f} {spread:>18} {r['mib_per_s']:8.0f}")
        elif kind == "gil":
            rest = f"{r['p50_ms']:7.1f} {r['max_ms']:7.1f} {r['answers']:8} {r['burnt_per_s']:8.1f}"
            print(f"  {server:20} {figure:10.2f} {spread:>18} {ratio:>7} {rest}")
        else:
            print(f"  {server:26} {figure:8.2f} {spread:>18}")
    for what, value, limit in verdicts(name, result):
        print(f"  {what}: {value:.3f} (at most {limit}) {'ok' if value <= limit else 'MISSED'}")
    for limit in CASES[name].limits:
        if missing := [server for server in (limit.ours, *limit.peers) if server not in result]:
            print(f"  {limit.label(limit.peers)}: without {', '.join(missing)}, which was not measured")
    sys.stdout.flush()


COLORS = {
    "ringcorn": "#c2410c", "ringcorn-epoll": "#fb923c", "ringcorn-auto": "#ea580c", "ringcorn-wsgi": "#9a3412", "ringcorn-wsgi-epoll": "#f97316",
    "uvicorn": "#64748b", "uvicorn-websockets": "#64748b", "uvicorn-sansio": "#7d8ca1", "uvicorn-wsproto": "#a8b4c4", "granian": "#94a3b8", "fastpysgi": "#b6c2d1", "hypercorn": "#d5dce5",
}  # fmt: skip


def picture(results, machine):
    """Bars, one group a case, scaled to the dearest server of the case."""
    width, bar, gap, left, right = 760, 18, 6, 150, 90
    parts, y = [], 46
    for case, result in results.items():
        if CASES[case].kind not in ("load", "ws", "handshakes") or not result:
            continue
        parts.append(f'<text x="16" y="{y}" class="t">{html.escape(CASES[case].title)}</text>')
        y += 10
        most = max((r["us"] for r in result.values()), default=1)
        for server, r in sorted(result.items(), key=lambda item: item[1]["us"]):
            w = max(1, (width - left - right) * r["us"] / most)
            color = COLORS.get(server, "#999")
            parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{html.escape(server)}</text>')
            parts.append(f'<rect x="{left}" y="{y}" width="{w:.1f}" height="{bar}" fill="{color}" rx="2"/>')
            parts.append(f'<text x="{left + w + 6:.1f}" y="{y + 14}">{r["us"]:.1f} µs</text>')
            y += bar + gap
        y += 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}">'
        "<style>text{font:13px sans-serif;fill:#222}.t{font-weight:bold}.s{font-size:11px;fill:#666}</style>"
        f'<rect width="{width}" height="{y}" fill="#fff"/>'
        '<text x="16" y="22" class="t">CPU time of the server for one request (shorter is better)</text>'
        + "".join(parts)
        + f'<text x="16" y="{y - 8}" class="s">{html.escape(machine)}</text></svg>\n'
    )


VERSIONS = {
    "uvicorn", "uvloop", "httptools", "granian", "fastpysgi", "hypercorn", "gunicorn", "uwsgi", "websockets", "wsproto",
    "starlette", "fastapi", "pydantic", "anyio", "django", "asgiref", "psycopg",
}  # fmt: skip


def versions(args):
    found = {}
    for path in importlib.metadata.distributions():
        name = (path.metadata["Name"] or "").lower()
        if name in VERSIONS:
            found[name] = path.version
    out = subprocess.run([args.program, "--version"], capture_output=True, text=True).stdout
    found["ringcorn"] = out.strip().splitlines()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "ringcorn")
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "bench-venv")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--servers", default="", help=f"of {','.join(SERVERS)}; a case leaves out what is not for it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each run of the client")
    parser.add_argument("--pin", default="", help="SERVER_CPU,CLIENT_CPU: each server on the one, the clients and databases on the other (none by default)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a ratio is missed")
    args = parser.parse_args()
    args.program = args.program.absolute()
    args.bin = args.venv.absolute() / "bin"
    args.here = HERE
    args.on_server_cpu = []
    if args.pin:
        server_cpu, client_cpu = args.pin.split(",")
        args.on_server_cpu = ["taskset", "-c", server_cpu]
        os.sched_setaffinity(0, {int(client_cpu)})  # and what is started from here
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    cases, args.servers = args.cases.split(","), list(filter(None, args.servers.split(",")))
    for kind, names, known in (("case", cases, CASES), ("server", args.servers, SERVERS)):
        for name in names:
            if name not in known:
                sys.exit(f"no {kind} {name}; there are {', '.join(known)}")

    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*:\s*(.+)", f.read())
    machine = f"{model[1] if model else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
    load_at_start = os.getloadavg()
    print(f"{machine}\nload average at the start: {' '.join(f'{one:.2f}' for one in load_at_start)} (1, 5, 15 minutes)")
    where = f", each server on CPU {server_cpu}, all else on CPU {client_cpu}" if args.pin else ""
    print(f"{args.rounds} rounds of {args.seconds} s, {CONNECTIONS} connections, one worker each{where}")
    results, missed = {}, 0
    for case in cases:
        print(f"\n{case}: {CASES[case].title}", flush=True)
        results[case] = RUN[CASES[case].kind](case, args)
        table(case, results[case])
        missed += sum(ratio > limit for _, ratio, limit in verdicts(case, results[case]))

    OUT.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine, "versions": versions(args),
            "connections": CONNECTIONS, "rounds": args.rounds, "seconds": args.seconds, "pin": args.pin,
            "load_at_start": load_at_start, "load_at_end": os.getloadavg(),
            "cases": {c: {"title": CASES[c].title, "servers": r, "ratios": [{"what": w, "ratio": x, "at_most": m} for w, x, m in verdicts(c, r)]} for c, r in results.items()},
        },
        indent=1,
    )  # fmt: skip
    svg = picture(results, machine)
    for name in (stamp, "latest"):
        (OUT / f"{name}.json").write_text(text)
        (OUT / f"{name}.svg").write_text(svg)
    print(f"\nbuild/bench/{stamp}.json, build/bench/{stamp}.svg")
    return 1 if missed and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
