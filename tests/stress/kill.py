"""Workers are killed under load: only what they had in flight fails.

Before every other kill the worker is stopped for a moment and the kernel asked which connections it holds, so that each
failure is known to have been its own; the kills between are plain, and their failures judged by time and process id.
"""

import os
import random
import signal
import time

import harness
from common import SOURCES, accepted, serving, wait_workers
from load import Load, group

SOON = 1.0  # seconds in which the kernel is done with the connections of a killed process, on a busy machine


def stop_and_look(pid, port):
    """Stops the process; the connections it holds."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 1
    while (fields := harness.stat_fields(pid)) and fields[0] != "T" and time.monotonic() < deadline:
        time.sleep(0.0005)
    return accepted(pid, port)


def is_excused(failure, kills):
    """Was this request in flight in a worker that was killed?"""
    for kill in kills:
        if failure["pid"] not in (None, kill["pid"]):
            continue
        began = failure["connected_at"] or failure["begun_at"]
        if not began <= kill["at"] <= failure["failed_at"] <= kill["at"] + SOON * harness.SLOW:
            continue
        if kill["clients"] is None or tuple(failure["client"] or ()) in kill["clients"]:
            return not failure["reason"].startswith(("connect", "timeout", "answer", "body"))
    return False


def scenario(io, seconds=15, every=1.0, seed=None):
    """SIGKILL of a random worker every second, two workers, closing clients."""
    seed = seed if seed is not None else random.randrange(1 << 30)
    chance = random.Random(seed)
    groups = [group("close", 16, ["/instant", "/late"], pause=0.002, sources=SOURCES)]
    killed = r"worker.*(kill|signal|died|SIGKILL)"
    with serving(io, "--workers", 2, allow_errors=[killed]) as server, Load(server.address, groups) as load:
        started = time.monotonic()
        kills = []
        while len(kills) < seconds / every:
            time.sleep(max(0.0, started + (len(kills) + 1) * every - time.monotonic()))
            workers = server.workers()
            if not workers:
                continue
            pid = chance.choice(workers)
            clients = stop_and_look(pid, server.port) if len(kills) % 2 == 0 else None
            kills.append({"pid": pid, "clients": clients, "at": time.monotonic()})
            os.kill(pid, signal.SIGKILL)
        time.sleep(every)
        tally = load.stop()
        wait_workers(server, 2)
        unexcused = [f for f in tally.failures if not is_excused(f, kills)]
        figures = {**tally.figures(), "kills": len(kills), "workers_seen": len(tally.pids), "seed": seed}
        figures |= {"in_flight_failed": tally.failed - len(unexcused), "failed": len(unexcused)}
        for kill in kills:
            kill["clients"] = kill["clients"] and len(kill["clients"])
        assert not unexcused, f"{figures}\n{tally.reasons()}\n{unexcused[:5]}\nkills: {kills}\n{server.log}"
        assert tally.failed <= len(tally.failures), "more failures than are kept"
        assert tally.ok > 100 * seconds, f"hardly any load: {figures}"
        assert len(tally.pids) >= 2 + len(kills) // 2, f"{figures}\n{server.log}"
        # A connection in the queue of a slot whose worker died waits for a sibling, not for the successor's start.
        assert tally.latency_ms(1) < 5000, figures
    return figures
