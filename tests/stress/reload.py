"""Reload under load: no request fails."""

import signal
import tempfile
import time

from common import SOURCES, serving, wait_workers
from load import Load, group


def scenario(io, seconds=20, every=1.0, args=(), **options):
    """SIGHUP every second, two workers, keep-alive and closing clients. args, options: the server's."""
    groups = [
        group("keep", 12, ["/instant", "/late"], pause=0.001, sources=SOURCES),
        # Mostly idle: the next request may come just when the draining worker closes the connection.
        group("keep", 60, ["/instant"], pause=0.1, jitter=3.0, sources=SOURCES),
        group("close", 8, ["/instant", "/late"], pause=0.001, sources=SOURCES),
    ]
    with serving(io, "--workers", 2, *args, **options) as server, Load(server.address, groups) as load:
        seen = set(server.workers())
        started = time.monotonic()
        signals = 0
        while signals < seconds / every:
            time.sleep(max(0.0, started + (signals + 1) * every - time.monotonic()))
            server.send_signal(signal.SIGHUP)
            signals += 1
            seen.update(server.workers())
        time.sleep(every)
        tally = load.stop()
        seen.update(wait_workers(server, 2))
        answering = len(tally.pids)
        figures = {**tally.figures(), "retried": dict(tally.retried), "closed_idle": tally.closed_idle}
        figures |= {"told_to_close": tally.told_to_close, "signals": signals, "workers_seen": answering}
        assert tally.failed == 0, f"{figures}\n{tally.reasons()}\n{tally.failures[:5]}\n{server.log}"
        assert tally.ok > 100 * seconds, f"hardly any load: {figures}"
        # Reloads merge when they take longer than the second between two signals; half of them may.
        assert answering >= 2 + signals, f"{answering} processes answered over {signals} reloads\n{server.log}"
    return figures


def over_unix(io, seconds=10):
    """The same over one unix socket that all workers share, as behind nginx."""
    with tempfile.TemporaryDirectory() as folder:
        return scenario(io, seconds, bind=f"unix:{folder}/socket")


def over_shared(io, seconds=10):
    """The same over one TCP socket that all workers share."""
    return scenario(io, seconds, args=["--no-reuse-port"])
