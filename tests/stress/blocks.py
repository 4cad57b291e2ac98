"""Loops that are blocked for random times, on stacks that never stand still: the watchdog tells of them, and what it tells is right.

For the build under AddressSanitizer: RINGCORN_BIN=build/asan/ringcorn PYTHONMALLOC=malloc tests/stress/run.py blocks --io epoll
"""

import itertools
import json
import tempfile
import threading
import time
from pathlib import Path

from common import serving

WORKERS, CLIENTS = 2, 4
THRESHOLD_MS = 5
TOLD_LEAST = 0.02  # of those that are twice as long as the threshold: on a busy machine most of that time is one without a CPU


def counted(folder):
    """The sum of what the workers have written."""
    total = {"blocks": 0, "long": 0, "told": 0, "threads": 0, "wrong": []}
    for path in Path(folder).glob("*.json"):
        for name, value in json.loads(path.read_text()).items():
            total[name] += value
    return total


def scenario(io, blocks=10_000, seconds=1800):
    """Until there were so many blocks; the time is a bound."""
    with tempfile.TemporaryDirectory(prefix="ringcorn-blocks-") as folder:
        figures = run(io, blocks, seconds, folder)
    assert not figures["wrong"], "\n\n".join(figures["wrong"][:5])
    assert figures["blocks"] >= blocks, f"{figures} in {seconds} s"
    assert figures["told"] >= TOLD_LEAST * figures["long"], figures
    return figures


def run(io, blocks, seconds, folder):
    numbers, failures = itertools.count(), []
    is_over = threading.Event()
    deadline = time.monotonic() + seconds

    def client():
        try:
            while not is_over.is_set():
                with server.connect() as c:
                    for _ in range(20):
                        assert c.get(f"/block/{next(numbers)}").status == 200
        except Exception as e:
            failures.append(e)

    env = {"BLOCKS_FOLDER": folder, "BLOCKS_THRESHOLD": str(THRESHOLD_MS / 1000)}
    with serving(io, "--workers", WORKERS, "--guard-loop-block", f"{THRESHOLD_MS}ms", app="blocks_app:app", env=env) as server:
        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for one in clients:
            one.start()
        while counted(folder)["blocks"] < blocks and not failures and time.monotonic() < deadline:
            time.sleep(0.2)
        is_over.set()
        for one in clients:
            one.join()
    assert not failures, failures[0]
    return counted(folder)
