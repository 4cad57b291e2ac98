"""Workers are killed under load: only what they had in flight fails.

Before every other kill the worker is stopped for a moment and the kernel asked which connections it holds, so that each
failure is known to have been its own; the kills between are plain, and their failures judged by time and process id.
"""

import os
import random
import select
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


def kill(pid, port, with_look):
    """SIGKILL, and until the process has ended: the kill as a dict."""
    fd = os.pidfd_open(pid)
    try:
        clients = stop_and_look(pid, port) if with_look else None
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        # It may accept until the signal reaches it, and it is known to be dead when its pidfd can be read.
        assert select.select([fd], [], [], 5)[0], f"process {pid} survives SIGKILL"
        return {"pid": pid, "clients": clients, "at": at, "dead_at": time.monotonic()}
    finally:
        os.close(fd)


def is_excused(failure, kills):
    """Was this request in flight in a worker that was killed? Over loopback a connection is in the server's queue as soon as the
    client asks for it, so one that began after the death cannot have been the dead one's."""
    if failure["reason"].startswith(("connect", "timeout", "answer", "body", "bytes")):
        return False
    for killed in kills:
        if failure["pid"] not in (None, killed["pid"]) or failure["begun_at"] > killed["dead_at"]:
            continue
        if not killed["at"] <= failure["failed_at"] <= killed["dead_at"] + SOON * harness.SLOW:
            continue
        if killed["clients"] is None or tuple(failure["client"] or ()) in killed["clients"]:
            return True
    return False


def scenario(io, seconds=15, every=1.0, seed=None):
    """SIGKILL of a random worker every second, two workers, closing clients."""
    seed = seed if seed is not None else random.randrange(1 << 30)
    chance = random.Random(seed)
    groups = [group("close", 16, ["/instant", "/late"], pause=0.002, sources=SOURCES)]
    died = r"worker \d+ \(pid \d+\) died: signal 9"
    with serving(io, "--workers", 2, allow_errors=[died]) as server, Load(server.address, groups) as load:
        started = time.monotonic()
        kills = []
        while len(kills) < seconds / every:
            time.sleep(max(0.0, started + (len(kills) + 1) * every - time.monotonic()))
            workers = server.workers()
            if not workers:
                continue
            pid = chance.choice(workers)
            kills.append(kill(pid, server.port, with_look=len(kills) % 2 == 0))
        time.sleep(every)
        tally = load.stop()
        wait_workers(server, 2)
        unexcused = [f for f in tally.failures if not is_excused(f, kills)]
        figures = {**tally.figures(), "kills": len(kills), "workers_seen": len(tally.pids), "seed": seed}
        figures |= {"in_flight_failed": tally.failed - len(unexcused), "failed": len(unexcused)}
        for killed in kills:
            killed["clients"] = killed["clients"] and len(killed["clients"])
        assert not unexcused, f"{figures}\n{tally.reasons()}\n{unexcused[:5]}\nkills: {kills}\n{server.log}"
        assert tally.failed <= len(tally.failures), "more failures than are kept"
        assert tally.ok > 100 * seconds, f"hardly any load: {figures}"
        assert len(tally.pids) >= 2 + len(kills) // 2, f"{figures}\n{server.log}"
        # A connection in the queue of a slot whose worker died waits for a sibling, not for the successor's start.
        assert tally.latency_ms(1) < 5000, figures
    return figures
