"""Hooks of a pool that look after what its jobs leave on a thread: on_job_end, on_park."""

import asyncio
import threading

import pytest

import _ringcorn

SOON = 0.05  # park_timeout of these tests


@pytest.fixture
def make_pool(loop):
    pools = []

    def make(threads=2, **options):
        pools.append(_ringcorn.Pool(loop, threads, "hooked", **options))
        return pools[-1]

    yield make
    for pool in pools:
        assert pool.stop(5) == []


def fail():
    raise ValueError("as asked")


def test_a_jobs_end_comes_before_its_result(make_pool, run):
    pool, seen = make_pool(), []

    def end():
        seen.append((threading.get_ident(), "end"))

    pool.on_job_end = end

    async def main():
        for submit in (pool.submit, pool.lease().submit):
            seen.clear()
            ident = await submit(lambda: seen.append("job") or threading.get_ident())
            assert seen == ["job", (ident, "end")]
            with pytest.raises(ValueError):
                await submit(fail)
            assert [what for _, what in seen[1:]] == ["end", "end"]
        pool.on_job_end = None
        await pool.submit(seen.clear)
        assert seen == []

    run(main)


def test_a_jobs_end_that_raises_is_reported_and_harms_nothing(make_pool, run, monkeypatch):
    import sys

    pool, reported = make_pool(1), []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(what.exc_value.args))
    pool.on_job_end = fail

    async def main():
        assert [await pool.submit(int, n) for n in ("1", "2")] == [1, 2]

    run(main)
    assert reported == [("as asked",)] * 2


def test_park_comes_once_on_the_thread_of_a_request_that_calls_nothing(make_pool, run):
    pool, parked = make_pool(), asyncio.Queue()
    pool.park_timeout = SOON
    assert pool.park_timeout == SOON

    async def main():
        loop = asyncio.get_running_loop()
        pool.on_park = lambda: loop.call_soon_threadsafe(parked.put_nowait, threading.get_ident())
        lease, other = pool.lease(), pool.lease()
        ident = await lease.submit(threading.get_ident)
        assert await parked.get() == ident  # nobody waits for its slot: this is not about slots
        assert lease.has_thread and lease.thread_ident == ident
        # Not again until it has done something.
        assert await other.submit(threading.get_ident) == await parked.get() != ident
        assert await lease.submit(threading.get_ident) == await parked.get() == ident
        # What runs is not parked, however long it takes, nor is a thread that belongs to nobody.
        lease.close()
        ran = threading.Event()
        running = other.submit(ran.wait, 10)
        await asyncio.sleep(4 * SOON)
        assert parked.empty()
        ran.set()
        await running
        other.close()
        await asyncio.sleep(4 * SOON)
        assert parked.empty()

    run(main)


def test_a_job_that_comes_while_its_thread_parks_runs_behind_it(make_pool, run):
    pool, began, may_end = make_pool(1), threading.Event(), threading.Event()
    pool.park_timeout = SOON
    order = []

    def park():
        began.set()
        assert may_end.wait(10)
        order.append("parked")

    pool.on_park = park

    async def main():
        lease = pool.lease()
        ident = await lease.submit(threading.get_ident)
        await asyncio.to_thread(began.wait, 10)
        job = lease.submit(lambda: order.append("job") or threading.get_ident())
        may_end.set()
        assert await job == ident
        assert order == ["parked", "job"]
        lease.close()

    run(main)


def test_park_leaves_a_parked_lease_its_place(make_pool, run):
    """With the slot given away, and back in the queue while on_park runs."""
    pool = make_pool(1, threads_max=4)
    pool.park_timeout = SOON
    parked = threading.Semaphore(0)
    pool.on_park = parked.release

    async def main():
        leases = [pool.lease(str(i)) for i in range(4)]
        idents = [await lease.submit(threading.get_ident) for lease in leases]
        assert len(set(idents)) == 4
        for _ in leases:
            assert await asyncio.to_thread(parked.acquire, True, 10)
        assert await asyncio.gather(*(lease.submit(threading.get_ident) for lease in leases)) == idents
        for lease in leases:
            lease.close()

    run(main)


def test_wrong_park_timeouts(make_pool):
    pool = make_pool()
    assert pool.park_timeout is None
    for wrong, kind in ((0, ValueError), (-1, ValueError), (float("inf"), ValueError), ("1s", TypeError)):
        with pytest.raises(kind):
            pool.park_timeout = wrong
    with pytest.raises(TypeError):
        del pool.park_timeout
    pool.park_timeout = None
    assert (pool.park_timeout, pool.on_park, pool.on_job_end) == (None, None, None)
