"""What the tests of leases share: pools that are checked when they end, and jobs that wait to be let go."""

import asyncio
import threading
import time

import pytest
from conftest import turns

import _ringcorn

__all__ = ["Gate", "make_pool", "until"]


@pytest.fixture
def make_pool(loop):
    """Makes pools; afterwards each ends, and nothing waits in it, runs or holds a thread."""
    pools = []

    def make(threads=2, name="sync", queue=1000, **options):
        pools.append(_ringcorn.Pool(loop, threads, name, queue, **options))
        return pools[-1]

    yield make
    for pool in pools:
        assert pool.stop(5) == []
        if not loop.is_closed():
            turns(loop, 3)
        assert (pool.running, pool.idle, pool.queued, pool.leased, pool.parked) == (0, 0, 0, 0, 0)
        assert pool.holders() == []


async def until(condition, seconds=5):
    """Lets the loop turn until condition() holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.001)


class Gate:
    """A job that holds its thread until it is opened."""

    def __init__(self):
        self.began = threading.Event()
        self.opened = threading.Event()
        self.ident = None

    def __call__(self):
        self.ident = threading.get_ident()
        self.began.set()
        assert self.opened.wait(10)
        return self.ident
