"""Another program takes over under load, again and again: no request fails."""

import tempfile
import time

from common import SOURCES, serving, wait_workers
from load import Load, group


def scenario(io, times=3, args=(), **options):
    """SIGUSR2 after SIGUSR2, two workers, keep-alive and closing clients. args, options: the server's."""
    groups = [
        group("keep", 12, ["/instant", "/late"], pause=0.001, sources=SOURCES),
        group("keep", 40, ["/instant"], pause=0.1, jitter=3.0, sources=SOURCES),
        group("close", 8, ["/instant", "/late"], pause=0.001, sources=SOURCES),
    ]
    with serving(io, "--workers", 2, *args, **options) as server, Load(server.address, groups) as load:
        for _ in range(times):
            time.sleep(0.5)
            server.upgrade()
        time.sleep(0.5)
        tally = load.stop()
        wait_workers(server, 2)
        figures = {**tally.figures(), "retried": dict(tally.retried), "programs": 1 + times, "workers_seen": len(tally.pids)}
        assert tally.failed == 0, f"{figures}\n{tally.reasons()}\n{tally.failures[:5]}\n{server.log}"
        assert len(tally.pids) == 2 * (1 + times), f"{figures}\n{server.log}"
    return figures


def over_unix(io, times=3):
    with tempfile.TemporaryDirectory() as folder:
        return scenario(io, times, bind=f"unix:{folder}/socket")


def over_shared(io, times=3):
    return scenario(io, times, args=["--no-reuse-port"])
