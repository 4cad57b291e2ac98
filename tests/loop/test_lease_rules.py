"""Leases: code that blocks on the loop, hooks on threads, affinity, threads that come and go."""

import asyncio
import contextvars
import sys
import threading
import time

import pytest
from lease_fixtures import Gate, make_pool, until  # noqa: F401 - a fixture

import _ringcorn

# --- the blocked rule


def waits_for_the_loop(event):
    event.wait(10)
    return threading.get_ident()


def test_a_job_that_waits_for_the_loop_loses_its_slot(make_pool, run):
    """As a synchronous middleware above an async view: its thread waits for a task that needs a thread."""
    pool = make_pool(2, threads_max=10)
    pool.blocking_code = (waits_for_the_loop.__code__,)

    async def main():
        gate = threading.Event()
        blocked = [pool.lease(f"blocked {i}") for i in range(4)]
        futures = [lease.submit(waits_for_the_loop, gate) for lease in blocked]
        last = pool.lease("last")
        assert await last.submit(lambda: "through") == "through"
        assert pool.parked >= 3
        behind = blocked[0].submit(threading.get_ident)
        gate.set()
        idents = await asyncio.gather(*futures)
        assert len(set(idents)) == 4 and await behind == idents[0]
        for lease in [*blocked, last]:
            lease.close()

    run(main)
    assert pool.leased == 0


def test_blocking_code_is_found_below_other_frames(make_pool, run):
    pool = make_pool(1, threads_max=4)
    pool.blocking_code = [waits_for_the_loop.__code__]
    assert pool.blocking_code == (waits_for_the_loop.__code__,)

    async def main():
        gate = threading.Event()
        first = pool.lease().submit(lambda: waits_for_the_loop(gate))
        assert await pool.submit(lambda: "through") == "through"
        gate.set()
        await first

    run(main)


def test_other_code_that_waits_keeps_its_slot(make_pool, run):
    pool = make_pool(1, threads_max=4)
    pool.blocking_code = (waits_for_the_loop.__code__,)

    async def main():
        gate = Gate()
        first = pool.lease().submit(gate)
        second = pool.submit(int)
        await until(gate.began.is_set)
        await asyncio.sleep(0.2)
        assert not second.done() and pool.parked == 0
        gate.opened.set()
        await first
        await second
        assert pool.peak == 1 or pool.parked == 1

    run(main)


def test_a_job_that_blocks_now_and_then_keeps_its_slot(make_pool, run):
    """Ten sightings in a row are needed."""
    pool = make_pool(1, threads_max=4)
    pool.blocking_code = (waits_for_the_loop.__code__,)

    async def main():
        stop = threading.Event()

        def job():
            while not stop.is_set():
                waits_for_the_loop(type("Short", (), {"wait": staticmethod(lambda _: time.sleep(0.004))}))
                time.sleep(0.012)

        first = pool.lease().submit(job)
        second = pool.submit(int)
        await asyncio.sleep(0.3)
        assert not second.done() and pool.parked == 0
        stop.set()
        await first
        await second

    run(main)


# --- hooks


class Recorder:
    """Hooks that write down their name and thread."""

    def __init__(self, pool, *names):
        self.seen = []
        for name in names:
            setattr(pool, name, lambda name=name: self.seen.append((name, threading.get_ident())))

    def names(self):
        return [name for name, _ in self.seen]


def test_hooks_of_a_threads_life(make_pool, run, loop):
    pool = make_pool(2)
    record = Recorder(pool, "on_thread_start", "on_thread_end", "on_acquire")

    async def main():
        lease = pool.lease()
        one = await lease.submit(threading.get_ident)
        await lease.submit(int)
        lease.close()
        assert record.seen == [("on_thread_start", one), ("on_acquire", one)]
        other = pool.lease()
        assert await other.submit(threading.get_ident) == one
        assert record.names() == ["on_thread_start", "on_acquire", "on_acquire"]
        other.close()
        return one

    one = run(main)
    assert pool.stop(5) == []
    assert record.seen[-1] == ("on_thread_end", one) and len(record.seen) == 4


def test_a_hook_that_raises_is_reported_and_nothing_else(make_pool, run, monkeypatch):
    pool = make_pool(1, threads_max=2)
    reports = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reports.append((args.object, args.exc_type)))

    def raiser():
        raise SystemExit("in a hook")

    pool.on_thread_start = pool.on_acquire = pool.on_thread_end = pool.may_release = raiser

    async def main():
        lease = pool.lease()
        assert await lease.submit(lambda: "fine") == "fine"
        assert [report[1] for report in reports] == [SystemExit] * 2 and reports[0][0] is raiser
        lease.give_back()
        await until(lambda: len(reports) == 3)
        assert lease.has_thread, "no answer: it is not clean"
        lease.close()
        pool.on_acquire = None
        assert pool.on_acquire is None and pool.may_release is raiser
        assert await pool.submit(int) == 0

    run(main)
    assert pool.stop(5) == [] and len(reports) == 4
    reports.clear()


def test_a_thread_too_many_is_surplus_and_used_last(make_pool, run):
    """Threads that come back when enough are idle let go of what they hold; those that hold something are used first."""
    pool = make_pool(2, threads_max=6)
    record = Recorder(pool, "on_surplus")

    async def main():
        leases = [pool.lease() for _ in range(6)]
        idents = [await lease.submit(threading.get_ident) for lease in leases]
        assert len(set(idents)) == 6 and pool.parked >= 4
        for lease in leases:
            lease.close()
        await until(lambda: len(record.seen) == 4 and pool.idle == 6)
        surplus = {ident for _, ident in record.seen}
        assert surplus == set(idents[2:])
        for _ in range(3):
            barrier = threading.Barrier(2)
            both = [pool.submit(lambda b=barrier: (b.wait(5), threading.get_ident())[1]) for _ in range(2)]
            assert set(await asyncio.gather(*both)) == set(idents[:2])
            await until(lambda: pool.idle == 6)
        assert len(record.seen) == 4

    run(main)


def test_threads_above_the_slots_end_when_idle_for_long(make_pool, run):
    pool = make_pool(2, threads_max=8, idle_timeout=0.2)
    record = Recorder(pool, "on_thread_end")

    async def main():
        leases = [pool.lease() for _ in range(8)]
        for lease in leases:
            await lease.submit(int)
        assert pool.running == 8
        for lease in leases[:7]:
            lease.close()
        await until(lambda: pool.running == 2)  # nothing else happens in the loop
        await until(lambda: len(record.seen) == 6)
        assert leases[7].has_thread and pool.idle == 1
        leases[7].close()
        await asyncio.sleep(0.5)
        assert pool.running == 2 and pool.idle == 2 and pool.peak == 8
        again = [pool.lease() for _ in range(5)]
        for lease in again:
            await lease.submit(int)
            lease.give_back()
        assert pool.running == 2
        for lease in again:
            lease.close()

    run(main)
    names = {t.name for t in threading.enumerate()}
    assert len([name for name in names if name.startswith("sync-")]) == 2


# --- giving back


def test_give_back_lets_slot_and_thread_go(make_pool, run):
    pool = make_pool(1, threads_max=1)

    async def main():
        lease, other = pool.lease(), pool.lease()
        lease.give_back()  # nothing to give
        await lease.submit(int)
        waiting = other.submit(lambda: "got it")
        lease.give_back()
        assert not lease.has_thread
        assert await waiting == "got it"
        other.give_back()
        assert await lease.submit(lambda: "again") == "again"
        gate = Gate()
        future = lease.submit(gate)
        await until(gate.began.is_set)
        lease.give_back()
        assert lease.has_thread and lease.is_busy, "not while a job of it runs"
        gate.opened.set()
        await future
        assert await other.submit(int) == 0 and not lease.has_thread
        other.close()
        first, second = lease.submit(int), lease.submit(threading.get_ident)
        lease.give_back()
        await asyncio.gather(first, second)
        await until(lambda: not lease.has_thread)

    run(main)


class Last:
    is_last = True


def test_a_last_call_frees_its_thread_without_the_loop(make_pool, run):
    pool = make_pool(1)

    async def main():
        said = Last()
        leases = [pool.lease() for _ in range(20)]
        ran = []

        def call(n):
            ran.append(n)
            if n == 0:
                # The loop is busy until all have run, though each has a lease of its own that is not closed, and there is one thread.
                all_here.wait(10)
            if len(ran) == len(leases):
                done.set()
            return threading.get_ident()

        all_here, done = threading.Event(), threading.Event()
        for lease in leases:
            lease.last_of = said
        futures = [lease.submit_optional(call, n) for n, lease in enumerate(leases)]
        all_here.set()
        assert done.wait(20), f"{len(ran)} of {len(leases)} ran"
        assert len(set(await asyncio.gather(*futures))) == 1 and ran == list(range(len(leases)))
        assert said.is_last and not any(lease.has_thread or lease.has_slot for lease in leases)
        assert [lease.calls for lease in leases] == [1] * len(leases)
        # One calls again after all.
        assert await leases[3].submit(threading.get_ident) and leases[3].has_thread
        assert said.is_last is False and leases[3].last_of is None and leases[4].last_of is said
        for lease in leases:
            lease.close()

    run(main)


def test_a_last_call_keeps_its_thread_where_it_says_so_or_raises(make_pool, run):
    pool = make_pool(2)

    async def main():
        for ends in ("keep", "raise", "return"):
            lease = pool.lease()
            lease.last_of = Last()

            def call():
                if ends == "keep":
                    lease.keep()
                if ends == "raise":
                    raise ArithmeticError
                return threading.get_ident()

            (ident,) = await asyncio.gather(lease.submit_optional(call), return_exceptions=True)
            assert lease.has_thread == (ends != "return")
            if ends == "keep":
                assert await lease.submit(threading.get_ident) == ident == lease.thread_ident
            lease.close()
        # The second call of a lease is not its last, whatever was said; nor is one by submit().
        lease, said = pool.lease(), Last()
        await lease.submit(int)
        lease.last_of = said
        await lease.submit_optional(int)
        assert lease.has_thread and said.is_last is False
        other, said = pool.lease(), Last()
        other.last_of = said
        await other.submit(int)
        assert other.has_thread and said.is_last is False
        with pytest.raises(AttributeError):
            lease.last_of = object()
            lease.submit(int)
        lease.close()
        other.close()

    run(main)


def test_give_back_asks_on_the_thread(make_pool, run):
    pool = make_pool(1, threads_max=2)
    asked = []
    is_clean = False

    def may_release():
        asked.append(threading.get_ident())
        return is_clean

    pool.may_release = may_release

    async def main():
        nonlocal is_clean
        lease = pool.lease()
        one = await lease.submit(threading.get_ident)
        assert asked == []
        lease.give_back()
        other = pool.lease()
        assert await other.submit(threading.get_ident) != one, "the slot is free at once, the thread is kept"
        await until(lambda: asked == [one])
        assert lease.has_thread and lease.thread_ident == one
        other.close()
        assert await lease.submit(threading.get_ident) == one
        is_clean = True
        lease.give_back()
        await until(lambda: not lease.has_thread)
        assert asked == [one, one] and pool.leased == 0

    run(main)


def test_a_job_that_comes_while_the_thread_is_asked_runs_on_it(make_pool, run):
    pool = make_pool(1, threads_max=2)
    asking, answer = threading.Event(), threading.Event()

    def may_release():
        asking.set()
        return answer.wait(5)

    pool.may_release = may_release

    async def main():
        lease = pool.lease()
        one = await lease.submit(threading.get_ident)
        lease.give_back()
        await until(asking.is_set)
        future = lease.submit(threading.get_ident)
        answer.set()
        assert await future == one and lease.has_thread

    run(main)


@pytest.mark.parametrize("ending", ["close", "stop"])
def test_the_end_of_a_lease_while_its_thread_is_asked(make_pool, run, ending):
    pool = make_pool(1, threads_max=2)
    asking, answer = threading.Event(), threading.Event()

    def may_release():
        asking.set()
        return answer.wait(5)

    pool.may_release = may_release

    async def main():
        lease = pool.lease()
        one = await lease.submit(threading.get_ident)
        lease.give_back()
        await until(asking.is_set)
        if ending == "stop":
            assert len(pool.stop(0.01)) == 1
            answer.set()
            return
        lease.close()
        future = pool.submit(threading.get_ident)
        answer.set()
        assert await future == one

    run(main)


# --- affinity


def test_affinity_call_gives_the_thread_back_after_each_job(make_pool, run):
    pool = make_pool(2, threads_max=2, affinity="call")

    async def main():
        leases = [pool.lease(str(i)) for i in range(10)]
        for _ in range(3):
            await asyncio.gather(*[lease.submit(int) for lease in leases])
            assert pool.leased == 0
        lease = leases[0]
        order = []
        gate = Gate()
        first = lease.submit(gate)
        rest = [lease.submit(order.append, i) for i in range(5)]
        await until(gate.began.is_set)
        assert order == [], "a lease's jobs do not run at the same time"
        gate.opened.set()
        await asyncio.gather(first, *rest)
        assert order == list(range(5)) and not lease.has_thread

    run(main)


def test_affinity_call_is_fair_between_leases(make_pool, run):
    pool = make_pool(1, affinity="call")
    order = []

    async def main():
        gate = Gate()
        first = pool.submit(gate)
        a, b = pool.lease(), pool.lease()
        futures = [lease.submit(order.append, name) for _ in range(3) for lease, name in ((a, "a"), (b, "b"))]
        gate.opened.set()
        await asyncio.gather(first, *futures)
        assert order == ["a", "b"] * 3

    run(main)


def test_affinity_transaction_gives_clean_threads_back_when_parked(make_pool, run):
    pool = make_pool(2, threads_max=4, affinity="transaction")
    local = threading.local()
    asked = []

    def may_release():
        asked.append(threading.get_ident())
        return not getattr(local, "in_transaction", False)

    pool.may_release = may_release

    def begin():
        local.in_transaction = True
        return threading.get_ident()

    def end():
        assert local.in_transaction
        local.in_transaction = False
        return threading.get_ident()

    async def main():
        transaction = pool.lease("in a transaction")
        one = await transaction.submit(begin)
        many = [pool.lease(str(i)) for i in range(30)]
        for lease in many:
            assert await lease.submit(threading.get_ident) != one
        assert pool.running <= 4 and one in asked and len(asked) > 20
        assert transaction.has_thread
        assert await transaction.submit(end) == one
        for lease in many[:20]:
            await lease.submit(int)
        await until(lambda: not transaction.has_thread)

    run(main)


@pytest.mark.parametrize("is_clean", [True, False])
def test_no_thread_is_started_while_one_may_be_given_back(make_pool, run, is_clean):
    pool = make_pool(1, threads_max=4, affinity="transaction")
    asking, answer = threading.Event(), threading.Event()

    def may_release():
        asking.set()
        assert answer.wait(10)
        return is_clean

    pool.may_release = may_release

    async def main():
        first, second = pool.lease("first"), pool.lease("second")
        one = await first.submit(threading.get_ident)
        future = second.submit(threading.get_ident)
        await until(asking.is_set)
        for _ in range(20):
            await asyncio.sleep(0)
        assert pool.running == 1 and not future.done()
        answer.set()
        assert (await future == one) is is_clean
        assert pool.running == (1 if is_clean else 2)

    run(main)


def test_affinity_transaction_without_a_hook_is_always_clean(make_pool, run):
    pool = make_pool(2, threads_max=2, affinity="transaction")

    async def main():
        for lease in [pool.lease(str(i)) for i in range(20)]:
            await lease.submit(int)
            lease.submit(int)
        await until(lambda: pool.queued == 0)
        assert pool.running == 2

    run(main)


def test_affinity_can_be_changed(make_pool, run):
    pool = make_pool(1, threads_max=2)

    async def main():
        lease = pool.lease()
        assert not lease.was_used
        await lease.submit(int)
        assert lease.has_thread and lease.was_used
        pool.affinity = "call"
        await lease.submit(int)
        assert not lease.has_thread and lease.was_used and pool.affinity == "call"
        other = pool.lease()
        await other.submit(int)
        assert not other.has_thread and other.was_used

    run(main)


# --- what the server sets in a request's context


def test_context_vars_take_variables_only(make_pool):
    pool = make_pool()
    var = contextvars.ContextVar("var")
    pool.context_vars = [var]
    assert pool.context_vars == (var,)
    pool.context_vars = ()


def test_a_waiting_request_costs_the_loop_nothing(make_pool, run, loop):
    """While requests wait behind jobs that run, the loop sleeps: it looks once per sample of the blocked rule at most."""
    pool = make_pool(1, threads_max=2, queue_timeout=20)
    pool.blocking_code = (waits_for_the_loop.__code__,)

    async def main():
        gate = Gate()
        first = pool.submit(gate)
        await until(gate.began.is_set)
        second = pool.lease().submit(int)
        await asyncio.sleep(0.05)
        began = time.thread_time()
        await asyncio.sleep(0.5)
        spent = time.thread_time() - began
        gate.opened.set()
        await asyncio.gather(first, second)
        assert spent < 0.25, "the loop spins"

    run(main)
    assert _ringcorn.live()["jobs"] == 0
