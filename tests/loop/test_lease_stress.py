"""Leases under random load: what must always hold, and that nothing is left."""

import asyncio
import gc
import os
import random
import threading
import time

import pytest
from lease_fixtures import make_pool, until  # noqa: F401 - a fixture

import _ringcorn

SEED = int(os.environ.get("RINGCORN_TEST_SEED") or random.randrange(1 << 30))


class Rules:
    """What jobs see: a lease's run on one thread and never two at once; no more at once than slots."""

    def __init__(self, slots):
        self.slots = slots
        self.lock = threading.Lock()
        self.running = {}
        self.threads = {}
        self.most = 0
        self.broken = []

    def job(self, name, sleep, raises):
        ident = threading.get_ident()
        with self.lock:
            if name in self.running:
                self.broken.append(f"two jobs of {name} at once")
            self.running[name] = ident
            if self.threads.setdefault(name, ident) != ident:
                self.broken.append(f"{name} on two threads")
            self.most = max(self.most, len(self.running))
            if len(self.running) > self.slots:
                self.broken.append(f"{len(self.running)} at once")
        if sleep:
            time.sleep(sleep)
        with self.lock:
            del self.running[name]
        if raises:
            raise ZeroDivisionError(name)
        return name, ident

    def closed(self, name):
        """From here on each call may have another thread."""
        self.threads.pop(name, None)


def look_at(future):
    """Nobody does, where the client is gone."""
    if not future.cancelled():
        future.exception()


async def request(rules, pool, dice, name, counts):
    lease = pool.lease(name)
    late = dice.random() < 0.2
    for _ in range(dice.randrange(6)):
        jobs = []
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            sleep = dice.choice((0, 0, 0, 0.0003, 0.002))
            raises = dice.random() < 0.1
            try:
                jobs.append((lease.submit(rules.job, name, sleep, raises), raises))
                jobs[-1][0].add_done_callback(look_at)
            except _ringcorn.QueueFull:
                counts["full"] += 1
        for future, raises in jobs:
            if dice.random() < 0.15:
                if dice.random() < 0.5:
                    await asyncio.sleep(0)
                future.cancel()
            try:
                assert (await future)[0] == name and not raises
                counts["done"] += 1
            except ZeroDivisionError:
                assert raises
                counts["raised"] += 1
            except asyncio.CancelledError:
                counts["cancelled"] += 1
            except _ringcorn.QueueTimeout:
                counts["timeout"] += 1
        what = dice.random()
        if what < 0.3:
            await asyncio.sleep(dice.choice((0, 0.0005, 0.003)))
        elif what < 0.4:
            for _ in range(dice.randrange(12)):
                await asyncio.sleep(0)
    # A job that was cancelled while it ran may run still; its lease keeps the thread until then.
    if late:
        lease.close()
        await until(lambda: not lease.is_busy)
        rules.closed(name)
        try:
            assert (await lease.submit(rules.job, name, 0, False))[0] == name
        except (_ringcorn.QueueFull, _ringcorn.QueueTimeout):
            pass
    elif dice.random() < 0.5:
        lease.close()
    # else: forgotten; where an exception's traceback refers to this frame, until the collector comes


async def collect():
    while True:
        gc.collect()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 3, "threads_max": 3},
        {"threads": 2, "threads_max": 12},
        {"threads": 4, "threads_max": 200, "idle_timeout": 0.02},
        {"threads": 2, "threads_max": 6, "queue": 8, "queue_timeout": 0.02},
    ],
    ids=str,
)
def test_random_requests(make_pool, loop, options, capfd):
    print(f"RINGCORN_TEST_SEED={SEED}")
    dice = random.Random(SEED)
    pool = make_pool(**options)
    rules = Rules(options["threads"])
    counts = dict.fromkeys(("done", "raised", "cancelled", "full", "timeout", "plain"), 0)

    async def plain(n):
        try:
            await pool.submit(rules.job, ("plain", n), 0, False)
            counts["plain"] += 1
        except (_ringcorn.QueueFull, _ringcorn.QueueTimeout):
            pass
        rules.closed(("plain", n))

    async def client(n):
        for i in range(12):
            if dice.random() < 0.2:
                await plain((n, i))
            task = asyncio.create_task(request(rules, pool, dice, f"{n}/{i}", counts))
            if dice.random() < 0.1:  # the client is gone
                await asyncio.sleep(dice.choice((0, 0.0005, 0.003)))
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def main():
        collector = asyncio.create_task(collect())
        # With no more threads than slots, a request that awaits while it keeps its thread holds up the rest, but not for ever.
        await asyncio.gather(*[client(n) for n in range(25)])
        collector.cancel()
        gc.collect()
        await until(lambda: _ringcorn.live()["jobs"] == 0 and pool.leased == 0)

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert rules.broken == []
    assert counts["done"] > 20 and counts["raised"] and counts["cancelled"]
    assert pool.queued == 0 and pool.peak <= options["threads_max"]
    capfd.readouterr()


def test_random_hooks_and_affinities(make_pool, loop):
    """The same with hooks on, threads that are given back, and an affinity that changes under way."""
    print(f"RINGCORN_TEST_SEED={SEED}")
    dice = random.Random(SEED)
    pool = make_pool(3, threads_max=16, idle_timeout=0.01)
    started, ended, mistakes = [], [], []
    local = threading.local()
    pool.on_thread_start = lambda: started.append(threading.get_ident())
    pool.on_thread_end = lambda: ended.append(threading.get_ident())

    def acquire():
        local.lease = None

    pool.on_acquire = acquire
    pool.on_surplus = lambda: time.sleep(0)
    answers = random.Random(SEED)
    pool.may_release = lambda: answers.random() < 0.7

    def job(name):
        if local.lease not in (None, name):
            mistakes.append((local.lease, name))
        local.lease = name
        if answers.random() < 0.2:
            time.sleep(0.0005)

    async def client(n):
        for i in range(15):
            lease = pool.lease(f"{n}/{i}")
            for _ in range(dice.randrange(5)):
                await asyncio.gather(*[lease.submit(job, lease.label) for _ in range(dice.choice((1, 3)))])
                what = dice.random()
                if what < 0.3:
                    lease.give_back()
                elif what < 0.5:
                    await asyncio.sleep(0.001)
                elif what < 0.55:
                    pool.affinity = dice.choice(("request", "transaction", "call"))
            lease.close()

    async def main():
        await asyncio.gather(*[client(n) for n in range(20)])
        await until(lambda: pool.running == 3)

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert mistakes == [], "a thread that was another's has passed on_acquire first"
    assert pool.stop(5) == []
    assert len(started) == len(ended) > 3


def test_random_work_from_many_threads(make_pool, loop):
    """Leases used from their loop and from other threads at the same time."""
    print(f"RINGCORN_TEST_SEED={SEED}")
    pool = make_pool(2, threads_max=24)
    rules = Rules(2)

    def outside(n):
        dice = random.Random(SEED + n)
        for i in range(40):
            lease = pool.lease(f"outside {n}/{i}")
            futures = [lease.submit(rules.job, lease.label, 0, False) for _ in range(dice.randrange(4))]
            for future in futures:
                if dice.random() < 0.2 and future.cancel():
                    continue
                assert future.result(20)[0] == lease.label
            if dice.random() < 0.5:
                lease.close()

    async def inside(n):
        counts = dict.fromkeys(("done", "raised", "cancelled", "full", "timeout"), 0)
        dice = random.Random(SEED - n)
        for i in range(20):
            await request(rules, pool, dice, f"inside {n}/{i}", counts)

    async def main():
        collector = asyncio.create_task(collect())
        threads = [asyncio.to_thread(outside, n) for n in range(6)]
        await asyncio.gather(*threads, *[inside(n) for n in range(6)])
        collector.cancel()
        gc.collect()
        await until(lambda: pool.leased == 0)

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert rules.broken == []
