"""CPU per request of the server, beside its peers, on the same machine in the same minutes.

    make bench                                        all cases, all servers
    make bench BENCH='--cases plain,headers --rounds 7 --seconds 3'
    make bench BENCH='--servers ringcorn,uvicorn'

What is measured: user and system time of the server's whole process tree, divided by the requests it answered, while wrk keeps 64 connections busy; one worker each. Every round runs every server once,
in turn, so that a busy minute of the machine hits all alike; the figure is the median over the rounds. Requests per second are
printed too, but on a machine that also runs wrk they say less.

Results: build/bench/<time>.json (with every round) and .svg, and build/bench/latest.*.
"""

import argparse
import html
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OUT = ROOT / "build" / "bench"
CONNECTIONS = 64

# As a browser sends them; with Host eleven headers (wrk adds Host by itself).
HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Connection": "keep-alive",
    "Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345; csrftoken=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "X-Forwarded-For": "203.0.113.7",
}

# case: title, application, path, headers, {peer or "best": ratio that must hold}
# "best" is the cheaper of uvicorn and granian.
CASES = {
    "plain": ("plaintext, bare application, only Host", "apps:plain", "/", {}, {"best": 0.45, "fastpysgi": 0.6}),
    "headers": ("plaintext with receive(), 11 headers", "apps:plain_receive", "/", HEADERS, {"best": 0.3}),
    "starlette": ("Starlette route", "apps:starlette", "/", HEADERS, {"best": 0.6}),
    "fastapi": ("FastAPI async endpoint", "apps:fastapi", "/", HEADERS, {"best": 0.85}),
    "fastapi-sync": ("FastAPI sync endpoint", "apps:fastapi", "/sync", HEADERS, {}),
}
EXTRA = {"fastapi-sync"}  # only when asked for


# ------------------------------------------------------------------ servers


def ringcorn(io):
    def command(args, app, port):
        return [args.program, "--bind", f"127.0.0.1:{port}", "--workers", "1", "--io", io, "--no-access-log", "--app-dir", HERE, app]

    return command


def uvicorn(args, app, port):
    return [
        args.bin / "uvicorn", app, "--app-dir", HERE, "--port", port, "--loop", "uvloop", "--http", "httptools",
        "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip


def granian(args, app, port):
    return [
        args.bin / "granian", "--interface", "asgi", "--port", port, "--workers", "1", "--no-access-log", "--log-level", "warning",
        "--working-dir", HERE, app,
    ]  # fmt: skip


def fastpysgi(args, app, port):
    return [args.bin / "python", HERE / "run_fastpysgi.py", app, port]


def hypercorn(args, app, port):
    return [args.bin / "hypercorn", "--bind", f"127.0.0.1:{port}", "--workers", "1", "-k", "uvloop", app]


SERVERS = {
    "ringcorn": ringcorn("io_uring"),
    "ringcorn-epoll": ringcorn("epoll"),
    "uvicorn": uvicorn,
    "granian": granian,
    "fastpysgi": fastpysgi,
    "hypercorn": hypercorn,
}
DEFAULT_SERVERS = ["ringcorn", "ringcorn-epoll", "uvicorn", "granian", "fastpysgi"]
PEERS = ["uvicorn", "granian"]


# ------------------------------------------------------------------ processes


def tree(pid):
    """A process and all its descendants."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, queue = [], [pid]
    while queue:
        one = queue.pop()
        found.append(one)
        queue += parents.get(one, [])
    return found


def cpu_seconds(pid):
    """CPU time of the tree, to the nanosecond: the processes' CPU clocks (clock_getcpuclockid(3)). They count every thread, ended
    ones and the kernel's helpers of io_uring too."""
    total = 0.0
    for one in tree(pid):
        try:
            total += time.clock_gettime(~one << 3 | 2)
        except OSError:
            pass  # it ended meanwhile
    return total


def rss_kib(pid):
    total = 0
    for one in tree(pid):
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)[1])
        except (OSError, TypeError):
            pass
    return total


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as s:
            # Keep-alive, and all of the answer is read: fastpysgi 0.6 ends when a client that asked for a close goes first.
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            s.settimeout(5)
            return s.recv(65536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


class Running:
    def __init__(self, name, args, app, path):
        self.name, self.port = name, free_port()
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RINGCORN_", "PYTHON"))}
        env["VIRTUAL_ENV"] = str(args.venv.absolute())
        env["PYTHONPATH"] = str(HERE)
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        self.log = tempfile.TemporaryFile()
        command = [str(part) for part in SERVERS[name](args, app, self.port)]
        if args.pin:
            command = ["taskset", "-c", args.pin.split(",")[0], *command]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 20
        while not answers(self.port, path):
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.output()
                self.stop()
                raise RuntimeError(f"{name} does not answer: {' '.join(command)}\n{text}")
            time.sleep(0.05)

    def output(self):
        self.log.seek(0)
        return self.log.read()[-2000:].decode(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in tree(self.process.pid):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.process.wait()
        self.log.close()


# ------------------------------------------------------------------ load


def load(port, path, headers, seconds, args):
    """One run of wrk; returns (requests, seconds)."""
    command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--timeout", "10s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    if args.pin:
        command = ["taskset", "-c", args.pin.split(",")[-1], *command]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, timeout=seconds + 30)
    match = re.search(r"(\d+) requests in ([\d.]+)(ms|s)", done.stdout)
    if not match:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout)
    return int(match[1]), float(match[2]) / (1000 if match[3] == "ms" else 1), int(bad[1]) if bad else 0, sum(map(int, errors.groups())) if errors else 0


def run_case(name, servers, args):
    title, app, path, headers, _ = CASES[name]
    print(f"\n{title}", flush=True)
    running, rounds = {}, {s: [] for s in servers}
    try:
        for server in servers:
            try:
                running[server] = Running(server, args, app, path)
            except (RuntimeError, OSError) as e:
                print(f"  {server}: left out: {e}", file=sys.stderr)
        for server, one in list(running.items()):
            try:
                load(one.port, path, headers, 1, args)  # warm
            except RuntimeError as e:
                print(f"  {server}: left out: {e}\n{one.output()}", file=sys.stderr)
                running.pop(server).stop()
        order = list(running)
        for i in range(args.rounds):
            for server in order[i % len(order) :] + order[: i % len(order)]:
                one = running[server]
                before = cpu_seconds(one.process.pid)
                try:
                    requests, seconds, bad, errors = load(one.port, path, headers, args.seconds, args)
                except RuntimeError as e:
                    sys.exit(f"{server} stopped answering: {e}\n{one.output()}")
                cpu = cpu_seconds(one.process.pid) - before
                rounds[server].append(
                    {"us": cpu / requests * 1e6, "rps": requests / seconds, "cpu_share": cpu / seconds, "bad": bad, "errors": errors}
                )
        memory = {server: rss_kib(one.process.pid) for server, one in running.items()}
    finally:
        for one in running.values():
            one.stop()
    result = {}
    for server, runs in rounds.items():
        if runs:
            us = [r["us"] for r in runs]
            result[server] = {
                "us": statistics.median(us), "us_min": min(us), "us_max": max(us),
                "rps": statistics.median(r["rps"] for r in runs), "pss_kib": memory[server],
                "bad": sum(r["bad"] for r in runs), "errors": sum(r["errors"] for r in runs), "rounds": runs,
            }  # fmt: skip
    return result


# ------------------------------------------------------------------ results


def verdicts(case, result):
    """[(what, ratio, limit)] for the ratios that the case must hold."""
    limits = CASES[case][4]
    ours = result.get("ringcorn")
    found = []
    if ours:
        for peer, limit in limits.items():
            if peer == "best":
                best = min((result[p]["us"] for p in PEERS if p in result), default=None)
                label = "the better of uvicorn and granian"
            else:
                best, label = result.get(peer, {}).get("us"), peer
            if best:
                found.append((f"ringcorn / {label}", ours["us"] / best, limit))
        if "ringcorn-epoll" in result:
            found.append(("epoll / io_uring", result["ringcorn-epoll"]["us"] / ours["us"], 1.15))
    return found


def table(case, result):
    ours = result.get("ringcorn", {}).get("us")
    print(f"  {'server':16} {'us/request':>10} {'(min..max)':>16} {'ratio':>7} {'req/s':>9} {'MiB':>6}")
    for server, r in sorted(result.items(), key=lambda item: item[1]["us"]):
        ratio = f"{ours / r['us']:.2f}" if ours else ""
        notes = "".join(f"  {r[k]} {k}!" for k in ("bad", "errors") if r[k])
        spread = f"({r['us_min']:.1f}..{r['us_max']:.1f})"
        print(f"  {server:16} {r['us']:10.2f} {spread:>16} {ratio:>7} {r['rps']:9.0f} {r['pss_kib'] / 1024:6.1f}{notes}")
    for what, ratio, limit in verdicts(case, result):
        print(f"  {what}: {ratio:.2f} (at most {limit}) {'ok' if ratio <= limit else 'MISSED'}")
    sys.stdout.flush()


COLORS = {"ringcorn": "#c2410c", "ringcorn-epoll": "#fb923c", "uvicorn": "#64748b", "granian": "#94a3b8", "fastpysgi": "#b6c2d1", "hypercorn": "#d5dce5"}


def picture(results, machine):
    """Bars, one group a case, scaled to the dearest server of the case."""
    width, bar, gap, left, right = 760, 18, 6, 130, 90
    parts, y = [], 46
    for case, result in results.items():
        parts.append(f'<text x="16" y="{y}" class="t">{html.escape(CASES[case][0])}</text>')
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


def versions(args):
    found = {}
    for path in importlib.metadata.distributions():
        name = (path.metadata["Name"] or "").lower()
        if name in ("uvicorn", "uvloop", "httptools", "granian", "fastpysgi", "hypercorn", "starlette", "fastapi", "pydantic"):
            found[name] = path.version
    out = subprocess.run([args.program, "--version"], capture_output=True, text=True).stdout
    found["ringcorn"] = out.strip().splitlines()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "ringcorn")
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "bench-venv")
    parser.add_argument("--cases", default=",".join(c for c in CASES if c not in EXTRA), help=f"of {','.join(CASES)}")
    parser.add_argument("--servers", default=",".join(DEFAULT_SERVERS), help=f"of {','.join(SERVERS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each run of wrk")
    parser.add_argument("--pin", default="", help="SERVER_CPU,WRK_CPU: taskset for both (none by default)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a ratio is missed")
    args = parser.parse_args()
    args.program = args.program.absolute()
    args.bin = args.venv.absolute() / "bin"
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt-get install wrk")
    cases, servers = args.cases.split(","), args.servers.split(",")
    for kind, names, known in (("case", cases, CASES), ("server", servers, SERVERS)):
        for name in names:
            if name not in known:
                sys.exit(f"no {kind} {name}; there are {', '.join(known)}")

    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*:\s*(.+)", f.read())
    machine = f"{model[1] if model else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}"
    print(f"{machine}\n{args.rounds} rounds of {args.seconds} s, {CONNECTIONS} connections, one worker each")
    results, missed = {}, 0
    for case in cases:
        results[case] = run_case(case, servers, args)
        table(case, results[case])
        missed += sum(ratio > limit for _, ratio, limit in verdicts(case, results[case]))

    OUT.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = json.dumps(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine, "versions": versions(args),
            "connections": CONNECTIONS, "rounds": args.rounds, "seconds": args.seconds, "load": os.getloadavg(),
            "cases": {c: {"title": CASES[c][0], "servers": r, "ratios": [{"what": w, "ratio": x, "at_most": m} for w, x, m in verdicts(c, r)]} for c, r in results.items()},
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
