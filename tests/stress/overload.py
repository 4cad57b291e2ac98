"""Ten times as many requests as the application can answer: what is answered, how late, what a refusal costs, and how soon all is well again.

The application sleeps for 50 ms on one of eight threads (overload_app.py), so 160 requests a second is all there is. Asked for are, one
after the other: that, ten times that, and half of it (overload_client.py). Beside the peers of `make bench`, each with the bound that it has.

What a refusal costs depends on how often it has to wake the process for it: the same loads go to an nginx that refuses all there is.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import harness
import nginx
import wire
from common import HERE, serving
from ports import free_port

APPS = ("asgi", "wsgi")
CAPACITY = 160
QUEUE, IN_HAND = 60, 10
DEADLINE = 0.5 + 0.25  # seconds: limits.queue_timeout and the request itself, on a machine that does other things too
OPTIONS = ["--limit-concurrency", IN_HAND, "--limit-queue", QUEUE, "--limits-queue-timeout", "500ms", "--threads", 8]
REFUSAL_US = 10.0  # or what nginx takes, where the machine makes it more


def cpu_ns(pid):
    """Of a process and all below it."""
    total = 0
    for one in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError):
            total += sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{one}/task").glob("*/schedstat"))
    return total


def descendants(pid):
    found = list(harness.children(pid))
    return found + [below for one in found for below in descendants(one)]


def measure(address, pid, seconds):
    """Offers the three loads; returns the phases, each with the CPU time that went by in it."""
    phases = [[CAPACITY, seconds], [10 * CAPACITY, seconds], [CAPACITY / 2, 5]]
    plan = json.dumps({"address": address, "phases": phases})
    client = subprocess.Popen([sys.executable, "-S", HERE / "overload_client.py", plan], stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(3 * seconds + 60, client.kill)
    killer.start()
    cpu = []
    try:
        for line in client.stdout:
            cpu.append(cpu_ns(pid))
            if (message := json.loads(line))["event"] == "end":
                break
        else:
            raise AssertionError("the client of the load has died")
    finally:
        killer.cancel()
        client.stdout.close()
        client.kill()
        client.wait()
    for phase, (rate, length), before, after in zip(message["phases"], phases, cpu, cpu[1:]):
        phase.update(rate=rate, seconds=length, cpu=(after - before) / 1e9)
    return message["phases"]


def share(latencies, part):
    values = sorted(seconds for _, seconds in latencies)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def recovery(phase):
    """Seconds from the end of the overload until every answer is as quick as before it."""
    slow = [at + took for at, took in phase["latencies"] if took > 0.15]
    return max(slow, default=0.0) if phase["answered"] else float("nan")


def figures_of(phases):
    """At capacity, above, and after: requests a second, seconds, microseconds."""
    at, above, after = phases
    # What an answer costs is known from the load that is no overload; the rest of the overload's CPU time is the refusals'.
    each = at["cpu"] / max(at["answered"], 1)
    refusal = (above["cpu"] - each * above["answered"]) / above["refused"] if above["refused"] else None
    return {
        "answered_at_capacity": round(in_time(at) / at["seconds"], 1),
        "answered": round(in_time(above) / above["seconds"], 1),
        "p50_ms": round(share(above["latencies"], 0.5) * 1000),
        "p99_ms": round(share(above["latencies"], 0.99) * 1000),
        "refused": above["refused"],
        "failed": dict(above["failed"]),
        "refusal_us": refusal and round(refusal * 1e6, 1),
        "recovery_s": round(recovery(after), 2),
        "lost_after": after["came"] - after["answered"],
    }


def in_time(phase):
    """Those that were answered before the phase was over: a queue that outlives it is no throughput."""
    return sum(at + took <= phase["seconds"] for at, took in phase["latencies"])


# ------------------------------------------------------------------ ours


def ours(io, app, seconds):
    with serving(io, *OPTIONS, app=app) as server:
        return figures_of(measure(server.address, server.workers()[0], seconds))


def refusal_of_nginx(seconds):
    """Microseconds."""
    with nginx.Nginx(HERE / "refusing.conf") as front:
        _, above, _ = measure(("127.0.0.1", front.port), front.process.pid, seconds)
    return round(above["cpu"] / above["refused"] * 1e6, 1)


def scenario(io, seconds=10, peers=True):
    """Answered within a tenth of the most there is, in time, with cheap refusals, and well again within a second."""
    figures = {name: ours(io, f"overload_app:{name}", seconds) for name in APPS}
    figures["nginx_refusal_us"] = bound = refusal_of_nginx(seconds)
    for name in APPS:
        of = figures[name]
        peak = max(of["answered_at_capacity"], of["answered"])
        assert of["answered"] >= 0.9 * peak, f"{name}: {figures}"
        assert of["p99_ms"] <= DEADLINE * 1000, f"{name}: {figures}"
        assert of["recovery_s"] <= 1, f"{name}: {figures}"
        assert not of["failed"] and of["refused"], f"{name}: {figures}"
        assert of["refusal_us"] <= max(REFUSAL_US, bound), f"{name}: {figures}"
    if peers and io == "io_uring":
        figures["peers"] = {name: beside(command, seconds) for name, command in peer_commands().items()}
    return figures


# ------------------------------------------------------------------ the peers


def peer_commands():
    """Those that are installed. Each has the bound that it has, at what ours adds up to."""
    bound = str(IN_HAND + QUEUE)
    commands = {
        "uvicorn": ["uvicorn", "overload_app:asgi", "--no-access-log", "--log-level", "error", "--port"],
        "uvicorn --limit-concurrency": ["uvicorn", "overload_app:asgi", "--no-access-log", "--log-level", "error", "--limit-concurrency", bound, "--port"],
        "granian asgi --backpressure": ["granian", "--interface", "asgi", "--no-access-log", "--log-level", "error", "--backpressure", bound, "overload_app:asgi", "--port"],
        "granian wsgi --backpressure": ["granian", "--interface", "wsgi", "--no-access-log", "--log-level", "error", "--blocking-threads", "8",
                                        "--backpressure", bound, "overload_app:wsgi", "--port"],
        "gunicorn gthread": ["gunicorn", "--worker-class", "gthread", "--threads", "8", "--worker-connections", bound, "--keep-alive", "75",
                             "--log-level", "error", "overload_app:wsgi", "--bind"],
    }  # fmt: skip
    found = HERE.parents[1] / "build" / "bench-venv" / "bin"
    return {name: [found / c[0], *c[1:]] for name, c in commands.items() if (found / c[0]).exists()}


def beside(command, seconds):
    port = free_port()
    last = f"127.0.0.1:{port}" if command[-1] == "--bind" else str(port)
    process = subprocess.Popen([*map(str, command), last], cwd=HERE, env=harness.environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wire.eventually(lambda: is_up(port), 20, f"{command[0].name} listens")
        return figures_of(measure(("127.0.0.1", port), process.pid, seconds))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_up(port):
    try:
        with wire.Connection(("127.0.0.1", port), 2) as connection:
            return connection.get("/").status == 200
    except OSError:
        return False
