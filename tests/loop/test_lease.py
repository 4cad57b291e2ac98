"""Leases: a request's claim to one thread; slots, parking and the order of those that wait."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
from conftest import turns
from lease_fixtures import Gate, make_pool, until  # noqa: F401 - a fixture

import _ringcorn


# --- a thread of its own


def test_a_leases_jobs_run_on_one_thread_in_order(make_pool, run):
    pool = make_pool(3, threads_max=8)
    local = threading.local()

    def step(name, i):
        seen = getattr(local, "seen", None)
        if seen is None or seen[0] != name:
            seen = local.seen = (name, [])
        seen[1].append(i)
        return threading.get_ident(), list(seen[1])

    async def request(name):
        lease = pool.lease(name)
        first, seen = await lease.submit(step, name, 0)
        assert seen == [0] and lease.thread_ident == first and lease.has_thread
        futures = [lease.submit(step, name, i) for i in range(1, 10)]
        assert lease.is_busy
        for i, (ident, seen) in enumerate(await asyncio.gather(*futures), 1):
            assert ident == first and seen == list(range(i + 1))
        assert not lease.is_busy
        lease.close()
        assert not lease.has_thread and lease.thread_ident is None
        return first

    async def main():
        assert len(set(await asyncio.gather(*[request(str(n)) for n in range(30)]))) <= 8
        assert pool.leased == 0 and pool.parked == 0 and pool.queued == 0

    run(main)


def test_results_exceptions_and_arguments(make_pool, run, loop):
    pool = make_pool()

    async def main():
        lease = pool.lease("GET /")
        assert lease.label == "GET /" and "GET /" in repr(lease)
        future = lease.submit(lambda *args: args, 1, 2, 3, 4, 5, 6)
        assert type(future) is asyncio.Future and future.get_loop() is loop
        assert await future == (1, 2, 3, 4, 5, 6)
        with pytest.raises(ValueError, match="no number"):
            await lease.submit(int, "no number")
        with pytest.raises(RuntimeError, match="StopIteration"):
            await lease.submit(next, iter([]))
        with pytest.raises(TypeError):
            lease.submit()
        assert {lease: 1}[lease] == 1 and weakref.ref(lease)() is lease
        with pytest.raises(TypeError):
            type(lease)()
        long = pool.lease("x" * 500)
        assert long.label == "x" * 95
        assert pool.lease().label == ""
        assert pool.lease("WS /cut\0here").label == "WS /cut", "a client's path may be anything"
        assert isinstance(pool.lease("GET /" + "ü" * 80).label, str), "also where a character is cut in two"

    run(main)


def test_run_in_executor_takes_a_lease(make_pool, run, loop):
    """As asgiref does: any object with submit()."""
    pool = make_pool()

    async def main():
        lease = pool.lease()
        one = await loop.run_in_executor(lease, threading.get_ident)
        assert one == await loop.run_in_executor(lease, threading.get_ident) == lease.thread_ident

    run(main)


def test_nothing_leaks_from_one_jobs_context_to_the_next(make_pool, run):
    pool = make_pool(1, threads_max=2)
    var = contextvars.ContextVar("var", default="unset")

    def set_and_get(value):
        before = var.get()
        var.set(value)
        return before, var.get()

    async def main():
        var.set("the caller's")
        lease = pool.lease()
        assert await lease.submit(set_and_get, 1) == ("unset", 1)
        assert await lease.submit(set_and_get, 2) == ("unset", 2)
        assert await pool.submit(var.get) == "unset"
        context = contextvars.copy_context()
        assert await lease.submit(context.run, set_and_get, 3) == ("the caller's", 3)
        assert await lease.submit(context.run, var.get) == 3

    run(main)


def test_a_lease_without_jobs_costs_no_thread(make_pool, run):
    pool = make_pool()

    async def main():
        leases = [pool.lease(str(n)) for n in range(100)]
        assert pool.running == 0 and not any(lease.has_thread for lease in leases)
        assert _ringcorn.live()["leases"] >= 100
        for lease in leases:
            lease.close()
            lease.close()  # again does no harm
            lease.give_back()

    run(main)


# --- the end of a lease


def test_a_closed_lease_still_works_and_keeps_no_thread(make_pool, run):
    pool = make_pool()

    async def main():
        lease = pool.lease()
        await lease.submit(int)
        lease.close()
        for _ in range(3):
            assert await lease.submit(lambda: "late") == "late"
            assert not lease.has_thread and pool.leased == 0
        futures = [lease.submit(lambda i=i: i) for i in range(10)]
        assert await asyncio.gather(*futures) == list(range(10))
        assert not lease.has_thread and pool.leased == 0
        new = pool.lease()
        new.close()
        assert await new.submit(lambda: "its first is late") == "its first is late"

    run(main)


def test_a_thread_is_free_when_closed_and_its_last_job_is_done(make_pool, run):
    pool = make_pool(1)

    async def main():
        gate = Gate()
        lease = pool.lease()
        first, second = lease.submit(gate), lease.submit(threading.get_ident)
        await pool_waits(gate)
        lease.close()
        assert lease.is_busy and pool.leased == 1
        other = pool.submit(lambda: "next")
        first.cancel()  # the thread goes on all the same
        await asyncio.sleep(0.02)
        assert pool.leased == 1 and pool.queued == 2 and not other.done()
        gate.opened.set()
        assert await other == "next"
        assert second.done() and await second == gate.ident, "what was queued ran before, on the same thread"
        assert pool.leased == 0

    async def pool_waits(gate):
        await until(gate.began.is_set)

    run(main)


@pytest.mark.parametrize("has_worked", [False, True])
def test_a_lease_that_is_forgotten_is_closed(make_pool, run, has_worked):
    pool = make_pool(1)

    async def main():
        lease = pool.lease("forgotten")
        if has_worked:
            await lease.submit(int)
            assert pool.leased == 1
        alive = weakref.ref(lease)
        del lease
        gc.collect()
        assert alive() is None and pool.leased == 0
        assert await pool.submit(lambda: "the slot is free") == "the slot is free"

    run(main)


def test_a_lease_lives_as_long_as_its_jobs(make_pool, run):
    pool = make_pool(1)

    async def main():
        gate = Gate()
        lease = pool.lease()
        alive = weakref.ref(lease)
        future = lease.submit(gate)
        del lease
        await until(gate.began.is_set)
        assert alive() is not None and pool.leased == 1
        gate.opened.set()
        await future
        del future
        gc.collect()
        assert alive() is None
        await until(lambda: pool.leased == 0)

    run(main)


# --- slots


def test_no_more_jobs_at_once_than_slots(make_pool, run):
    pool = make_pool(3, threads_max=50)
    lock = threading.Lock()
    now = most = 0

    def job():
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.001)
        with lock:
            now -= 1

    async def request():
        lease = pool.lease()
        for _ in range(4):
            await lease.submit(job)
            await asyncio.sleep(0.001)
        lease.close()

    async def main():
        await asyncio.gather(*[request() for _ in range(30)])
        assert most == 3

    run(main)


def test_a_request_that_awaits_something_else_gives_its_slot_away_and_keeps_its_thread(make_pool, run):
    """Requests that wait for one that has no slot yet: without parking they would wait for ever."""
    pool = make_pool(2, threads_max=10)

    async def main():
        event = asyncio.Event()

        async def waiter():
            lease = pool.lease("waiter")
            one = await lease.submit(threading.get_ident)
            await event.wait()
            assert await lease.submit(threading.get_ident) == one
            lease.close()
            return one

        tasks = [asyncio.create_task(waiter()) for _ in range(6)]
        await asyncio.sleep(0)
        last = pool.lease("last")
        await last.submit(int)
        assert pool.parked >= 5 and pool.leased == 7
        event.set()
        assert len(set(await asyncio.gather(*tasks))) == 6
        last.close()
        assert pool.leased == 0 and pool.peak == 7

    run(main)


def test_nobody_is_parked_while_nobody_waits(make_pool, run):
    pool = make_pool(2, threads_max=10)

    async def main():
        lease = pool.lease()
        await lease.submit(int)
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        assert pool.parked == 0 and pool.holders() == [("", pool.holders()[0][1])]

    run(main)


def test_a_chain_of_call_soon_is_not_parked(make_pool, run, loop):
    """The slot stays for the few turns that a framework needs from one call to the next."""
    pool = make_pool(1, threads_max=10)
    order = []

    async def request(name, hops):
        lease = pool.lease(name)
        for _ in range(5):
            await lease.submit(order.append, name)
            for _ in range(hops):
                await asyncio.sleep(0)
        lease.close()

    async def main(hops):
        order.clear()
        await asyncio.gather(request("a", hops), request("b", hops))

    run(lambda: main(4))
    assert order == ["a"] * 5 + ["b"] * 5 and pool.peak == 1
    run(lambda: main(20))
    assert order != ["a"] * 5 + ["b"] * 5 and pool.peak == 2


def test_the_loop_parks_without_an_event_to_wake_it(make_pool, run):
    """Nothing happens in the loop but the wait of the second for the slot of the first."""
    pool = make_pool(1, threads_max=2)

    async def main():
        first, second = pool.lease(), pool.lease()
        await first.submit(int)
        began = time.monotonic()
        for _ in range(20):
            await asyncio.wait_for(second.submit(int), 5)
            await asyncio.wait_for(first.submit(int), 5)
        assert time.monotonic() - began < 4
        assert pool.leased == 2 and pool.parked == 1

    run(main)


def test_parked_leases_queue_like_anybody(make_pool, run):
    pool = make_pool(1, threads_max=10)
    order = []

    async def main():
        parked = [pool.lease() for _ in range(3)]
        for lease in parked:
            await lease.submit(int)
        gate = Gate()
        blocker = pool.lease()
        done = blocker.submit(gate)
        await until(gate.began.is_set)
        assert pool.parked == 3
        fresh = [pool.lease() for _ in range(3)]
        futures = []
        for i in range(3):
            futures.append(parked[i].submit(order.append, ("parked", i)))
            futures.append(fresh[i].submit(order.append, ("fresh", i)))
        assert pool.queued == 6
        gate.opened.set()
        await done
        blocker.close()
        for lease in parked + fresh:
            lease.close()
        await asyncio.gather(*futures)
        assert order == [(kind, i) for i in range(3) for kind in ("parked", "fresh")]

    run(main)


def test_all_threads_held_by_parked_leases(make_pool, run):
    """New leases wait for a thread; those that have one pass them, and nobody waits for ever."""
    pool = make_pool(2, threads_max=4)

    async def main():
        parked = [pool.lease() for _ in range(4)]
        idents = [await lease.submit(threading.get_ident) for lease in parked]
        assert len(set(idents)) == 4 and pool.running == 4
        late = pool.lease("late")
        waiting = late.submit(threading.get_ident)
        for _ in range(3):
            again = [await lease.submit(threading.get_ident) for lease in parked]
            assert again == idents
        assert not waiting.done() and pool.queued == 1
        parked[2].close()
        assert await waiting == idents[2]

    run(main)


def test_more_slots_than_waiters_let_both_kinds_in(make_pool, run):
    pool = make_pool(4, threads_max=8)

    async def main():
        leases = [pool.lease() for _ in range(8)]
        barrier = threading.Barrier(4)
        for group in (leases[:4], leases[4:], leases[2:6], leases[1:3] + leases[5:7]):
            await asyncio.wait_for(asyncio.gather(*[lease.submit(barrier.wait, 5) for lease in group]), 8)

    run(main)


def test_first_come_first_served_over_all_leases(make_pool, run):
    pool = make_pool(1, threads_max=100)
    order = []

    async def main():
        gate = Gate()
        first = pool.submit(gate)
        leases = [pool.lease() for _ in range(50)]
        futures = []
        for i, lease in enumerate(leases):
            futures.append(lease.submit(order.append, i) if i % 2 else pool.submit(order.append, i))
            lease.close()
        gate.opened.set()
        await asyncio.gather(first, *futures)
        assert order == list(range(50)) and pool.peak == 1

    run(main)


# --- cancellation


def test_a_cancelled_job_that_waits_never_runs_and_frees_its_place(make_pool, run):
    pool = make_pool(1, queue=4)
    ran = []

    async def main():
        gate = Gate()
        first = pool.submit(gate)
        await until(gate.began.is_set)
        leases = [pool.lease() for _ in range(4)]
        futures = [lease.submit(ran.append, i) for i, lease in enumerate(leases)]
        with pytest.raises(_ringcorn.QueueFull, match="4 jobs wait already"):
            pool.lease().submit(int)
        futures[1].cancel()
        futures[2].cancel()
        await asyncio.sleep(0)
        assert pool.queued == 2 and not leases[1].is_busy and leases[3].is_busy
        again = leases[1].submit(ran.append, "again")
        gate.opened.set()
        await first
        for lease in leases:
            lease.close()
        await asyncio.gather(again, futures[0], futures[3])
        assert ran == [0, 3, "again"] and pool.peak == 1

    run(main)


def test_a_cancelled_job_does_not_start_a_thread(make_pool, run):
    pool = make_pool(1, threads_max=4)

    async def main():
        gate = Gate()
        first = pool.submit(gate)
        dead = [pool.lease().submit(int) for _ in range(20)]
        await until(gate.began.is_set)
        for future in dead:
            future.cancel()
        gate.opened.set()
        await first
        assert await pool.submit(lambda: "alive") == "alive"
        assert pool.peak == 1

    run(main)


def test_the_thread_of_a_cancelled_job_is_reused_after_it(make_pool, run):
    pool = make_pool(1)

    async def main():
        gate = Gate()
        lease = pool.lease()
        future = lease.submit(gate)
        await until(gate.began.is_set)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        behind = lease.submit(threading.get_ident)
        lease.close()
        other = pool.submit(threading.get_ident)
        await asyncio.sleep(0.01)
        assert not behind.done() and not other.done()
        gate.opened.set()
        assert await behind == await other == gate.ident

    run(main)


# --- bounds


def test_the_queue_is_bounded(make_pool, run):
    pool = make_pool(1, queue=3)

    async def main():
        assert issubclass(_ringcorn.QueueFull, RuntimeError) and issubclass(_ringcorn.QueueTimeout, RuntimeError)
        gate = Gate()
        lease = pool.lease()
        futures = [lease.submit(gate)]
        await until(gate.began.is_set)
        futures += [lease.submit(int) for _ in range(3)]
        for refuse in (lease.submit, pool.submit, pool.lease().submit):
            with pytest.raises(_ringcorn.QueueFull):
                refuse(int)
        gate.opened.set()
        await asyncio.gather(*futures)
        assert await lease.submit(int) == 0

    run(main)


@pytest.mark.parametrize("is_parked", [False, True])
def test_a_full_queue_refuses_no_lease_that_has_its_thread(make_pool, run, is_parked):
    """A request goes on to its end, however many wait behind it."""
    pool = make_pool(1, queue=2, threads_max=2)

    async def main():
        gate, other_gate = Gate(), Gate()
        lease = pool.lease()
        first = lease.submit(gate)
        await until(gate.began.is_set)
        others = [pool.submit(other_gate), pool.submit(int)]
        gate.opened.set()
        await first
        if is_parked:
            await until(other_gate.began.is_set)  # it has the slot now
            others.append(pool.submit(int))
        with pytest.raises(_ringcorn.QueueFull):
            pool.submit(int)
        assert lease.has_thread and lease.has_slot is not is_parked
        second = lease.submit(threading.get_ident)
        other_gate.opened.set()
        assert await second == gate.ident
        lease.close()
        await asyncio.gather(*others)

    run(main)


def test_a_job_that_waited_for_too_long_may_be_cancelled_by_the_end_of_another(make_pool, run, capfd):
    """Futures of another thread's calls run their callbacks at once, while further jobs are yet to be told."""
    pool = make_pool(1, queue=10, queue_timeout=0.1)
    futures, answers = [], []

    async def main():
        gate = Gate()
        first = pool.submit(gate)
        await until(gate.began.is_set)

        def submit():
            futures.extend(pool.submit(answers.append, i) for i in range(3))
            futures[0].add_done_callback(lambda future: answers.append(futures[1].cancel()))

        await asyncio.to_thread(submit)
        await until(lambda: all(future.done() for future in futures))
        assert answers == [True] and futures[1].cancelled()
        for future in (futures[0], futures[2]):
            assert isinstance(future.exception(), _ringcorn.QueueTimeout)
        assert pool.queued == 0
        gate.opened.set()
        await first
        assert await pool.submit(lambda: "goes on") == "goes on"

    run(main)
    assert "waited for a thread for longer than sync.queue_timeout" in capfd.readouterr().err


def test_who_waits_for_too_long_is_told_and_the_log_names_the_holders(make_pool, run, capfd):
    pool = make_pool(1, threads_max=4, queue_timeout=0.1)

    async def main():
        gate = Gate()
        holder = pool.lease("GET /slow")
        slow = holder.submit(gate)
        await until(gate.began.is_set)
        own = holder.submit(lambda: "waits for its own thread, not for a slot")
        waiting = [pool.lease(f"GET /{i}").submit(int) for i in range(5)] + [pool.submit(int)]
        began = time.monotonic()
        for future in waiting:
            with pytest.raises(_ringcorn.QueueTimeout, match="sync.queue_timeout"):
                await future
        assert 0.09 < time.monotonic() - began < 3
        assert pool.queued == 1
        gate.opened.set()
        await slow
        assert (await own).startswith("waits")

    run(main)
    lines = [line for line in capfd.readouterr().err.splitlines() if "sync.queue_timeout" in line]
    assert len(lines) == 1
    assert "GET /0 waited" in lines[0] and "held by: GET /slow (0." in lines[0]


def test_a_cancelled_wait_has_no_timeout(make_pool, run, capfd):
    pool = make_pool(1, queue_timeout=0.05)

    async def main():
        gate = Gate()
        slow = pool.submit(gate)
        waiting = pool.lease().submit(int)
        await until(gate.began.is_set)
        waiting.cancel()
        await asyncio.sleep(0.15)
        gate.opened.set()
        await slow

    run(main)
    assert capfd.readouterr().err == ""


def test_holders_names_leases_and_where_they_are(make_pool, run):
    pool = make_pool(2)

    def function_of_the_test(gate):
        return gate()

    async def main():
        gates = [Gate(), Gate()]
        leases = [pool.lease(f"GET /{i}") for i in range(2)]
        futures = [lease.submit(function_of_the_test, gate) for lease, gate in zip(leases, gates, strict=True)]
        for gate in gates:
            await until(gate.began.is_set)
        holders = dict(pool.holders())
        assert set(holders) == {"GET /0", "GET /1"}
        assert all("(" in where and ":" in where for where in holders.values())
        for gate in gates:
            gate.opened.set()
        await asyncio.gather(*futures)

    run(main)


def test_a_thread_limit_of_the_system_is_as_threads_max(make_pool, run, monkeypatch, capfd):
    pool = make_pool(2, threads_max=4)
    start = threading.Thread.start

    def refuse(self):
        raise RuntimeError("can't start new thread")

    async def main():
        monkeypatch.setattr(threading.Thread, "start", refuse)
        lease = pool.lease()
        with pytest.raises(RuntimeError, match="can't start new thread"):
            lease.submit(int)
        assert not lease.is_busy and pool.queued == 0 and pool.running == 0
        monkeypatch.setattr(threading.Thread, "start", start)
        one = await lease.submit(threading.get_ident)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        others = [pool.lease() for _ in range(3)]
        futures = [other.submit(threading.get_ident) for other in others]
        for _ in range(5):
            assert await lease.submit(threading.get_ident) == one, "the one that has a thread passes"
        assert pool.queued == 3 and pool.running == 1
        lease.close()
        for future, other in zip(futures, others, strict=True):
            assert await future == one
            other.close()
        monkeypatch.setattr(threading.Thread, "start", start)

    run(main)
    assert capfd.readouterr().err.count("a thread could not be started") == 1


def test_threads_are_started_again_after_a_while(make_pool, run, monkeypatch, capfd):
    """A lease that waits for a thread gets one when the system has some again, not only when a thread comes back."""
    pool = make_pool(2, threads_max=4)
    start = threading.Thread.start

    def refuse(self):
        raise RuntimeError("can't start new thread")

    async def main():
        first = pool.lease()
        one = await first.submit(threading.get_ident)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        second = pool.lease()
        future = second.submit(threading.get_ident)
        await asyncio.sleep(0.01)
        assert not future.done()
        monkeypatch.setattr(threading.Thread, "start", start)
        assert await future != one

    run(main)
    assert "a thread could not be started" in capfd.readouterr().err


# --- other threads


def test_from_another_thread_a_concurrent_future(make_pool, run):
    pool = make_pool(2, threads_max=4)

    async def main():
        lease = pool.lease()
        mine = await lease.submit(threading.get_ident)
        seen = {}

        def other():
            future = lease.submit(threading.get_ident)
            assert isinstance(future, concurrent.futures.Future)
            seen["ident"] = future.result(5)
            with pytest.raises(ZeroDivisionError):
                lease.submit(lambda: 1 / 0).result(5)
            with pytest.raises(StopIteration):
                lease.submit(next, iter([])).result(5)
            assert pool.submit(lambda: "plain").result(5) == "plain"

        await asyncio.to_thread(other)
        assert seen["ident"] == mine
        await until(lambda: _ringcorn.live()["jobs"] == 0)

    run(main)


def test_from_a_second_loop_in_another_thread(make_pool, run, usable_io):
    import ringcorn.loop

    pool = make_pool(1, threads_max=4)

    async def main():
        lease = pool.lease()
        mine = await lease.submit(threading.get_ident)
        other = pool.lease()
        await other.submit(int)  # the first is parked

        def run_loop():
            async def inner():
                return await asyncio.get_running_loop().run_in_executor(lease, threading.get_ident)

            with asyncio.Runner(loop_factory=lambda: ringcorn.loop.new_event_loop(usable_io)) as runner:
                return runner.run(inner())

        assert await asyncio.to_thread(run_loop) == mine

    run(main)


def test_a_wait_from_another_thread_is_seen_by_a_sleeping_loop(make_pool, run, capfd):
    pool = make_pool(1, threads_max=2, queue_timeout=0.1)

    async def main():
        holder = pool.lease()
        await holder.submit(int)
        parking, timing = pool.lease(), pool.lease()
        assert await asyncio.to_thread(lambda: parking.submit(lambda: "parked the first").result(5)) == "parked the first"
        gate = Gate()
        running = holder.submit(gate)
        await until(gate.began.is_set)

        def wait():
            with pytest.raises(_ringcorn.QueueTimeout):
                timing.submit(int).result(5)

        await asyncio.to_thread(wait)
        gate.opened.set()
        await running

    run(main)
    assert "sync.queue_timeout" in capfd.readouterr().err


def test_cancelling_a_concurrent_future(make_pool, run):
    pool = make_pool(1)
    ran = []

    async def main():
        gate = Gate()
        first = pool.submit(gate)
        lease = pool.lease()
        await until(gate.began.is_set)

        def other():
            future = lease.submit(ran.append, 1)
            assert future.cancel() and pool.queued == 0
            running = lease.submit(ran.append, 2)
            return running

        running = await asyncio.to_thread(other)
        gate.opened.set()
        await first
        await asyncio.wrap_future(running)
        assert ran == [2]

    run(main)


def test_a_callback_that_waits_for_its_own_job_gets_it(make_pool, run):
    """Bad style, but it works elsewhere: the thread must not wait for the loop to come back."""
    pool = make_pool(2)

    async def main():
        lease = pool.lease()
        for _ in range(20):
            await lease.submit(int)
            ran = threading.Event()
            future = lease.submit(ran.set)
            assert ran.wait(5), "the thread was never woken"
            await future
            ran = threading.Event()
            future = pool.submit(ran.set)
            assert ran.wait(5), "the thread was never woken"
            await future

    run(main)


# --- stop


def test_stop_with_leases_open(loop, run):
    pool = _ringcorn.Pool(loop, 2, "stop", threads_max=8)
    leases = [pool.lease() for _ in range(5)]

    async def main():
        for lease in leases:
            await lease.submit(int)

    run(main)
    assert pool.leased == 5 and pool.parked == 3
    threads = [t for t in threading.enumerate() if t.name.startswith("stop-")]
    assert len(threads) == 5
    assert pool.stop(5) == []
    assert not any(t.is_alive() for t in threads)
    assert pool.running == 0 and pool.leased == 0
    with pytest.raises(RuntimeError, match="after shutdown"):
        leases[0].submit(int)
    for lease in leases:
        lease.close()


def test_stop_names_what_hangs_and_drops_what_waits(loop, run):
    pool = _ringcorn.Pool(loop, 1, "hang", threads_max=8)
    gate = Gate()
    lease, other = pool.lease("hangs"), pool.lease("waits")
    futures = []

    async def begin():
        futures.append(lease.submit(gate))
        await until(gate.began.is_set)
        futures.append(lease.submit(int))
        futures.append(other.submit(int))
        futures.append(pool.submit(int))

    run(begin)
    ((name, where),) = pool.stop(0.05)
    assert name == "hang-0" and "threading.py" in where
    for future in futures[1:]:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(future)
    gate.opened.set()
    loop.run_until_complete(futures[0])
    assert pool.stop(5) == []


def test_a_queue_is_worked_off_after_close(loop, run):
    pool = _ringcorn.Pool(loop, 2, "drain", threads_max=6)
    ran = []

    async def main():
        leases = [pool.lease() for _ in range(20)]
        futures = [lease.submit(ran.append, i) for i, lease in enumerate(leases) for _ in range(3)]
        pool.close()
        await asyncio.gather(*futures)
        assert len(ran) == 60

    run(main)
    assert pool.stop(5) == []
    assert pool.leased == 0


def test_a_pool_and_its_leases_that_are_forgotten(loop, run):
    pool = _ringcorn.Pool(loop, 2, "forgotten")
    alive = weakref.ref(pool)
    lease = pool.lease()

    async def main():
        await lease.submit(int)

    run(main)
    threads = [t for t in threading.enumerate() if t.name.startswith("forgotten-")]
    assert threads
    del pool, lease
    gc.collect()
    turns(loop, 2)
    assert alive() is None
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_a_pool_in_a_cycle_of_references(loop, run):
    """Its hooks refer to it: the collector takes it apart, and its threads leave."""
    pool = _ringcorn.Pool(loop, 2, "cycle")
    alive = weakref.ref(pool)
    lease = pool.lease()
    pool.on_surplus = pool.may_release = lambda: (pool, lease)

    async def main():
        await lease.submit(int)

    run(main)
    threads = [t for t in threading.enumerate() if t.name.startswith("cycle-")]
    assert threads
    del pool, lease
    gc.collect()
    turns(loop, 2)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    gc.collect()
    assert alive() is None


def test_one_that_never_pauses_does_not_shut_the_others_out(make_pool, run):
    pool = make_pool(1, threads_max=2)

    async def main():
        stop = False

        async def never_pauses():
            lease = pool.lease()
            while not stop:
                await lease.submit(int)
            lease.close()

        task = asyncio.create_task(never_pauses())
        await asyncio.sleep(0.01)
        assert await asyncio.wait_for(pool.submit(lambda: "through"), 8) == "through"
        stop = True
        await task

    run(main)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_leases_in_the_child_of_a_fork(make_pool, run):
    pool = make_pool(1, threads_max=4, queue_timeout=10, idle_timeout=10)

    def child(leases, futures):
        for lease in leases:
            try:
                lease.submit(int)
            except RuntimeError as e:
                assert "belong to the process that forked this one" in str(e)
            else:
                return 1
            lease.give_back()
            lease.close()
        for future in futures:
            future.cancel()
        pool.lease("new").close()
        assert pool.queued == pool.leased == pool.running == 0 and pool.holders() == []
        assert pool.stop(1) == []
        leases.clear()
        gc.collect()
        return 0

    async def main():
        gate = Gate()
        leases = [pool.lease(str(i)) for i in range(4)]
        await leases[0].submit(int)
        await leases[1].submit(int)
        futures = [leases[1].submit(gate), leases[1].submit(int), leases[2].submit(int)]
        await until(gate.began.is_set)
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                signal.alarm(10)
                status = child(list(leases), futures)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        gate.opened.set()
        await asyncio.gather(*futures)
        assert await leases[0].submit(lambda: "goes on") == "goes on"

    run(main)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_job_that_forks(make_pool, run):
    pool = make_pool(1)

    def job():
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            return "in the child, the job loop ends and its thread with it"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async def main():
        lease = pool.lease()
        code = await lease.submit(job)
        assert code == 0, code
        assert await lease.submit(lambda: "goes on") == "goes on"

    run(main)


@pytest.mark.parametrize("ending", ["idle", "busy", "parked"])
def test_the_interpreter_ends_with_leases_open(usable_io, ending):
    code = f"""if 1:
        import sys, time
        sys.path[:0] = {sys.path!r}
        import _ringcorn, ringcorn.loop
        loop = ringcorn.loop.new_event_loop({usable_io!r})
        pool = _ringcorn.Pool(loop, 1, "sync", threads_max=4)
        leases = [pool.lease(str(i)) for i in range(3)]

        async def main():
            await leases[0].submit(int)
            if {ending!r} == "parked":
                await leases[1].submit(int)
            if {ending!r} == "busy":
                leases[0].submit(time.sleep, 30)
                leases[2].submit(int)

        loop.run_until_complete(main())
        loop.close()
        print("end", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and done.stdout == "end\n", done.stderr
    assert os.environ.get("PYTHONDEVMODE") or done.stderr == ""


def test_many_pools_of_one_loop(loop, run):
    """A loop has room for a few pools with leases; their places are free again when they are forgotten."""

    async def main():
        for _ in range(30):
            pool = _ringcorn.Pool(loop, 1, "one-of-many")
            lease = pool.lease()
            await lease.submit(int)
            lease.close()
            pool.close()
            del pool, lease
            await asyncio.sleep(0)
        pools = [_ringcorn.Pool(loop, 1, "too-many") for _ in range(20)]
        with pytest.raises(RuntimeError, match="an event loop takes no more than"):
            for pool in pools:
                pool.lease()
        assert await asyncio.gather(*[pool.submit(int) for pool in pools]) == [0] * 20
        for pool in pools:
            pool.close()

    run(main)


def test_wrong_options(loop):
    def pool(**options):
        return _ringcorn.Pool(loop, 4, "wrong", **options)

    for options in (
        {"threads_max": 3},
        {"threads_max": 100_000},
        {"queue_timeout": 0},
        {"queue_timeout": -1.0},
        {"idle_timeout": float("nan")},
        {"affinity": "forever"},
    ):
        with pytest.raises(ValueError):
            pool(**options)
    for options in ({"threads_max": "8"}, {"queue_timeout": "1s"}, {"affinity": 3}, {"unknown": 1}):
        with pytest.raises(TypeError):
            pool(**options)
    good = pool()
    for name, wrong in (
        ("affinity", 1),
        ("on_surplus", 1),
        ("blocking_code", [1]),
        ("blocking_code", 1),
        ("context_vars", ["x"]),
    ):
        with pytest.raises(TypeError):
            setattr(good, name, wrong)
    with pytest.raises(ValueError):
        good.affinity = "never"
    with pytest.raises(TypeError):
        del good.may_release
    assert (good.affinity, good.on_surplus, good.blocking_code, good.context_vars) == ("request", None, (), ())
    assert (good.threads, good.threads_max, good.peak, good.closed) == (4, 4, 0, False)
