"""Jobs beside the slots, jobs that can do without a thread, and a number of slots that changes while requests run."""

import asyncio
import threading

import pytest
from conftest import turns

import _ringcorn


@pytest.fixture
def pool(loop):
    pool = _ringcorn.Pool(loop, 1, "test-apart", threads_max=4, queue=4)
    yield pool
    assert pool.leased == pool.queued == 0
    assert pool.stop(5) == []
    if not loop.is_closed():
        turns(loop, 2)


class Gate:
    def __init__(self):
        self.loop, self.begun, self.may_end = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def __call__(self):
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.may_end.wait(10)
        return threading.get_ident()


def test_a_job_apart_gives_the_slot_away_and_keeps_the_thread(loop, pool, run):
    async def main():
        a, b = pool.lease("a"), pool.lease("b")
        ident = await a.submit(threading.get_ident)
        assert a.has_slot and a.thread_ident == ident and not b.has_slot
        gate = Gate()
        running = a.submit_apart(gate)
        assert not a.has_slot and a.is_busy
        await gate.begun.wait()
        assert await b.submit(threading.get_ident) != ident  # in the slot that a had
        assert b.has_slot and not running.done()
        gate.may_end.set()
        assert await running == ident and not a.has_slot
        assert await a.submit_apart(threading.get_ident) == ident and b.has_slot
        b.close()
        assert await a.submit(threading.get_ident) == ident and a.has_slot
        a.close()
        assert pool.leased == 0

    run(main)


def test_it_begins_though_all_slots_run_and_the_queue_is_full(loop, pool, run):
    async def main():
        first, others = pool.lease("first"), [pool.lease("other") for _ in range(5)]
        ident = await first.submit(threading.get_ident)
        gate = Gate()
        running = others[0].submit(gate)  # waits until first is parked
        await gate.begun.wait()
        queued = [other.submit(int) for other in others[1:]]
        with pytest.raises(_ringcorn.QueueFull):
            pool.submit(int)
        assert await first.submit_apart(threading.get_ident) == ident
        first.close()
        for lease in others:
            lease.close()  # each gives its thread to the next one
        gate.may_end.set()
        await asyncio.gather(running, *queued)

    run(main)


def test_without_a_thread_or_behind_a_job_it_is_a_job_like_any(loop, pool, run):
    async def main():
        a, b = pool.lease("a"), pool.lease("b")
        gate = Gate()
        running = a.submit_apart(gate)  # it has no thread yet
        await gate.begun.wait()
        assert a.has_slot
        behind = a.submit_apart(threading.get_ident)
        waiting = b.submit_apart(int)
        await asyncio.sleep(0.01)
        assert not behind.done() and not waiting.done() and pool.queued == 2
        gate.may_end.set()
        assert await running == await behind
        a.close()
        assert await waiting == 0
        b.close()

    run(main)


def test_a_closed_lease_gives_its_thread_back_after_a_job_apart(loop, pool, run):
    async def main():
        lease = pool.lease("a")
        await lease.submit(int)
        gate = Gate()
        running = lease.submit_apart(gate)
        await gate.begun.wait()
        lease.close()
        assert pool.leased == 1
        gate.may_end.set()
        await running
        assert pool.leased == 0 and pool.idle == 1
        assert await lease.submit_apart(int) == 0  # late calls work

    run(main)


def test_exceptions_and_wrong_arguments(loop, pool, run):
    async def main():
        lease = pool.lease("a")
        await lease.submit(int)
        with pytest.raises(ValueError):
            await lease.submit_apart(int, "x")
        with pytest.raises(TypeError, match="fn"):
            lease.submit_apart()
        lease.close()

    run(main)


def test_an_optional_job_does_not_wait_for_threads_that_requests_keep(loop, pool, run):
    async def main():
        keepers = [pool.lease("keeper") for _ in range(4)]
        for keeper in keepers:
            await keeper.submit_optional(int)  # parked, one after the other
        assert pool.running == pool.threads_max == 4
        late, other = pool.lease("late"), pool.lease("other")
        waits = other.submit(threading.get_ident)
        with pytest.raises(_ringcorn.NoThread):
            await late.submit_optional(int)
        assert late.has_no_thread and not late.is_busy and not late.has_thread and not waits.done() and not other.has_no_thread
        # Who has a thread is not concerned, and when one is free again it is used.
        assert await keepers[0].submit_optional(int) == 0
        keepers[0].close()
        assert await waits == other.thread_ident
        other.close()
        assert await late.submit_optional(int) == 0 and late.has_no_thread
        late.close()
        for keeper in keepers[1:]:
            keeper.close()

    run(main)


def test_an_optional_job_waits_for_a_slot(loop, run):
    pool = _ringcorn.Pool(loop, 2, "test-optional", threads_max=2)

    async def main():
        gates, leases = [Gate(), Gate()], [pool.lease("running") for _ in range(2)]
        running = [lease.submit(gate) for lease, gate in zip(leases, gates)]
        for gate in gates:
            await gate.begun.wait()
        late = pool.lease("late")
        future = late.submit_optional(int)
        await asyncio.sleep(0.02)
        assert not future.done()
        for lease in leases:
            lease.close()
        gates[0].may_end.set()
        assert await future == 0 and not late.has_no_thread
        late.close()
        gates[1].may_end.set()
        await asyncio.gather(*running)

    run(main)
    assert pool.stop(5) == []


def test_the_number_of_slots_can_change(loop, pool, run):
    async def main():
        for wrong in (0, -1, 5):
            with pytest.raises(ValueError, match="1 to threads_max"):
                pool.threads = wrong
        with pytest.raises(TypeError):
            pool.threads = "2"
        with pytest.raises(TypeError):
            del pool.threads
        gates = [Gate() for _ in range(4)]
        leases = [pool.lease(str(n)) for n in range(4)]
        running = [lease.submit(gate) for lease, gate in zip(leases, gates)]
        await gates[0].begun.wait()
        await asyncio.sleep(0.01)
        assert not gates[1].begun.is_set()
        pool.threads = 3  # those that wait begin
        assert pool.threads == 3
        await gates[2].begun.wait()
        await asyncio.sleep(0.01)
        assert not gates[3].begun.is_set()
        pool.threads = 1  # those that run go on
        gates[0].may_end.set()
        await running[0]
        leases[0].close()
        await asyncio.sleep(0.01)
        assert not gates[3].begun.is_set()
        for gate, lease in zip(gates, leases):
            gate.may_end.set()
            lease.close()
        await asyncio.gather(*running)

    run(main)
