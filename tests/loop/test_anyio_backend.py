"""AnyIO on the pool's threads: whatever a caller can see is as with AnyIO's own, so most tests run on both.

`ours` is a request with a lease, `stock` AnyIO alone with a limit of as many threads.
"""

import asyncio
import concurrent.futures
import contextvars
import gc
import importlib.util
import logging
import random
import threading
import traceback
import weakref

import pytest

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from anyio import CancelScope
from wire import eventually

import _ringcorn
from ringcorn import anyio_threads

THREADS = 3
to_thread, from_thread = anyio.to_thread.run_sync, anyio.from_thread
plain = contextvars.ContextVar("plain", default="default")
VERSION = anyio_threads._version_numbers()


class Case:
    """One way to serve: runs coroutine functions as requests would be."""

    def __init__(self, loop, kind):
        self.loop, self.kind = loop, kind
        self.pool = _ringcorn.Pool(loop, THREADS, "test-anyio", threads_max=10 * THREADS) if kind == "ours" else None
        self.adapter = None
        self.leases = []

    async def _start(self):
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        if self.kind == "ours" and self.adapter is None:
            await anyio_threads.install(self.loop, self.pool, THREADS)
            self.adapter = anyio_threads.installed()
            assert self.adapter is not None and self.adapter.loop is self.loop

    def task(self, main, *args):
        """main(*args) as a request of its own."""

        async def request():
            if self.kind == "stock":
                return await main(*args)
            lease = self.pool.lease(f"GET /{main.__name__}")
            anyio_threads.lease_var.set(lease)
            self.leases.append(weakref.ref(lease))
            try:
                return await main(*args)
            finally:
                lease.close()

        return self.loop.create_task(request())

    def run(self, main):
        async def outer():
            await self._start()
            return await self.task(main)

        return self.loop.run_until_complete(asyncio.wait_for(outer(), 20))

    def close(self):
        if self.adapter is not None:
            self.adapter.remove()
        if self.pool is not None:
            assert self.pool.leased == 0 and self.pool.queued == 0
            assert self.pool.stop(5) == []
        # AnyIO's own threads may be on their way to their end, and older ones keep the context of their last call until then.
        eventually(lambda: gc.collect() >= 0 and [ref() for ref in self.leases if ref() is not None] == [], 5, "the end of all leases")


@pytest.fixture(params=["stock", "ours"])
def case(request, loop):
    one = Case(loop, request.param)
    yield one
    one.close()


@pytest.fixture
def ours(loop):
    one = Case(loop, "ours")
    yield one
    one.close()


def raiser(exception):
    raise exception


class Gate:
    """A call that says when it runs, and ends when it may."""

    def __init__(self, loop):
        self.loop, self.begun, self.may_end, self.ended = loop, asyncio.Event(), threading.Event(), threading.Event()

    def __call__(self, value=None):
        self.loop.call_soon_threadsafe(self.begun.set)
        assert self.may_end.wait(10)
        self.ended.set()
        return value


# ------------------------------------------------------------------ results, exceptions


def test_results_and_exceptions(case):
    async def main():
        assert await to_thread(int, "12") == 12
        assert await to_thread(lambda *args: args, 1, 2, 3, 4, 5, 6) == (1, 2, 3, 4, 5, 6)
        assert await to_thread(lambda: None) is None

        class Own(BaseException):
            pass

        for exception in (ValueError("no"), Own(), SystemExit(3), KeyboardInterrupt(), TimeoutError("late")):
            for scoped in (False, True):
                with pytest.raises(type(exception)) as caught:
                    if scoped:
                        with CancelScope():
                            await to_thread(raiser, exception)
                    else:
                        await to_thread(raiser, exception)
                assert caught.value is exception

    case.run(main)


def test_exceptions_that_futures_would_change(case):
    async def main():
        with pytest.raises(RuntimeError, match="^coroutine raised StopIteration$") as caught:
            await to_thread(raiser, StopIteration(3))
        assert type(caught.value.__cause__) is StopIteration and caught.value.__cause__.value == 3
        for exception in (concurrent.futures.CancelledError("a"), concurrent.futures.InvalidStateError("b"), asyncio.CancelledError("c")):
            with pytest.raises(type(exception)) as caught:
                await to_thread(raiser, exception)
            assert caught.value is exception and type(caught.value.__context__) is type(None)
        assert asyncio.current_task().cancelling() == 0

    case.run(main)


def test_traceback_names_the_function(case):
    async def main():
        try:
            await to_thread(raiser, ValueError("here"))
        except ValueError as e:
            return [frame.name for frame in traceback.extract_tb(e.__traceback__)]

    assert case.run(main)[-1] == "raiser"


def test_nothing_is_kept(case):
    class Thing:
        pass

    async def main():
        gc.disable()
        try:
            for scoped in (False, True):
                thing, result, error = Thing(), Thing(), ValueError()
                refs = [weakref.ref(thing), weakref.ref(result)]
                if scoped:
                    with CancelScope():
                        assert await to_thread(lambda a, b: b, thing, result) is result
                else:
                    assert await to_thread(lambda a, b: b, thing, result) is result
                del thing, result
                with pytest.raises(ValueError):
                    await to_thread(raiser, error)
                # Its thread may still be on the way from the call to its next wait.
                for _ in range(1000):
                    if not any(ref() for ref in refs):
                        break
                    await asyncio.sleep(0.002)
                assert [ref() for ref in refs] == [None, None]
                del error
        finally:
            gc.enable()

    case.run(main)


# ------------------------------------------------------------------ contexts


def test_contextvars_go_in_and_do_not_come_out(case):
    def work():
        seen = plain.get()
        plain.set("changed on the thread")
        return seen

    async def main():
        plain.set("of the request")
        assert await to_thread(work) == "of the request"
        with CancelScope():
            assert await to_thread(work) == "of the request"
        assert plain.get() == "of the request"

        async def back():
            seen = plain.get()
            plain.set("changed on the loop")
            return seen

        def there_and_back():
            plain.set("of the thread")
            return from_thread.run(back), from_thread.run_sync(threading.get_ident), plain.get()

        assert await to_thread(there_and_back) == ("of the thread", threading.get_ident(), "of the thread")

    case.run(main)


@pytest.mark.skipif(importlib.util.find_spec("sniffio") is None, reason="newer AnyIO does without sniffio")
def test_sniffio(case):
    import sniffio

    def library():
        try:
            return sniffio.current_async_library()
        except sniffio.AsyncLibraryNotFoundError:
            return None

    async def back():
        return sniffio.current_async_library(), await to_thread(library)

    async def main():
        assert sniffio.current_async_library() == "asyncio"
        assert await to_thread(library) is None
        assert await to_thread(from_thread.run, back) == ("asyncio", None)
        token = sniffio.current_async_library_cvar.set("asyncio")
        assert await to_thread(library) is None
        with CancelScope():
            assert await to_thread(library) is None
        assert sniffio.current_async_library_cvar.get() == "asyncio"
        sniffio.current_async_library_cvar.reset(token)

    case.run(main)


def test_no_loop_runs_on_the_thread(case):
    def work():
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return threading.current_thread() is not threading.main_thread() and threading.get_ident()

    async def main():
        assert await to_thread(work) != threading.get_ident()

    case.run(main)


# ------------------------------------------------------------------ from_thread


def test_from_thread(case):
    async def add(a, b):
        await anyio.sleep(0.001)
        return a + b, threading.get_ident()

    def work():
        here = threading.get_ident()
        results = [from_thread.run(add, 1, 2), from_thread.run_sync(threading.get_ident)]
        with pytest.raises(ZeroDivisionError):
            from_thread.run(fail)
        with pytest.raises(ZeroDivisionError):
            from_thread.run_sync(lambda: 1 // 0)
        from_thread.check_cancelled()
        return here, results

    async def fail():
        return 1 // 0

    async def main():
        loop_thread = threading.get_ident()
        for scoped in (False, True):
            if scoped:
                with CancelScope():
                    here, results = await to_thread(work)
            else:
                here, results = await to_thread(work)
            assert here != loop_thread
            assert results == [(3, loop_thread), loop_thread]

    case.run(main)


def test_nested_to_the_bottom(case):
    """Every level waits for the next, and there are more of them than threads of the pool."""
    depth = THREADS + 3

    async def down(n):
        return [n, *(await to_thread(below, n - 1))] if n else [0]

    def below(n):
        return from_thread.run(down, n)

    async def main():
        if case.kind == "ours":
            many = [case.task(down, depth) for _ in range(4 * THREADS)]
            assert await asyncio.gather(down(depth), down(depth), *many) == [list(range(depth, -1, -1))] * (2 + len(many))
        else:
            anyio.to_thread.current_default_thread_limiter().total_tokens = depth
            assert await down(depth) == list(range(depth, -1, -1))

    case.run(main)


def test_from_thread_outside_a_call_is_refused(case):
    async def main():
        await to_thread(int)
        found = []

        def work():
            try:
                from_thread.run(anyio.sleep, 0)
            except RuntimeError as e:  # NoEventLoopError is one
                found.append(e)

        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(found) == 1

    case.run(main)


def test_portals(case):
    """One of our loop, and one that brings a loop of its own: there, nothing of ours counts."""

    async def where():
        return threading.get_ident(), await to_thread(threading.get_ident)

    def own_loop():
        with from_thread.start_blocking_portal() as portal:
            there, below = portal.call(where)
            assert there not in (threading.get_ident(), below) and below != threading.get_ident()
            return portal.start_task_soon(where).result(10)[0] == there

    def run_a_loop():
        there, below = anyio.run(where)
        return there == threading.get_ident() and below != there

    async def main():
        assert await to_thread(own_loop) is True
        assert await to_thread(run_a_loop) is True
        if VERSION < (4, 15):
            case.leases.clear()  # before, anyio.run() leaves a context behind for good
        async with from_thread.BlockingPortal() as portal:
            def work():
                assert portal.call(threading.get_ident) == main_thread
                return portal.call(where)

            main_thread = threading.get_ident()
            there, below = await to_thread(work)
            assert there == main_thread != below

    case.run(main)


def test_task_info(case):
    async def info():
        task = anyio.get_current_task()
        with CancelScope() as scope:
            return task.parent_id, task.id == id(asyncio.current_task()), scope.deadline, anyio.current_effective_deadline()

    async def main():
        assert await to_thread(from_thread.run, info) == (None, True, float("inf"), float("inf"))
        with anyio.fail_after(1000):
            deadline = anyio.current_effective_deadline()
            assert await to_thread(from_thread.run, info) == (None, True, float("inf"), deadline)

    case.run(main)


def test_task_groups_below_a_thread(case):
    async def group():
        results = []

        async def one(n):
            await anyio.lowlevel.checkpoint()
            results.append(n)

        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(one, n)
        return sorted(results)

    async def main():
        for _ in range(3):
            assert await to_thread(from_thread.run, group) == [0, 1, 2, 3, 4]

    case.run(main)


# ------------------------------------------------------------------ cancellation


def test_a_running_call_is_shielded_from_its_scope(case):
    async def main():
        gate, after = Gate(case.loop), []

        async def cancel():
            await gate.begun.wait()
            scope.cancel()
            await asyncio.sleep(0.02)
            gate.may_end.set()

        task = asyncio.create_task(cancel())
        with CancelScope() as scope:
            after.append(await to_thread(gate, "value"))
            after.append("still here")
            await anyio.sleep(10)
            after.append("never")
        await task
        assert after == ["value", "still here"] and scope.cancel_called and asyncio.current_task().cancelling() == 0

    case.run(main)


def test_a_deadline_waits_for_a_running_call(case):
    async def main():
        gate = Gate(case.loop)
        case.loop.call_later(0.05, gate.may_end.set)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                assert await to_thread(gate, 7) == 7
                assert gate.ended.is_set()
                await anyio.lowlevel.checkpoint()

    case.run(main)


def test_a_cancelled_scope_begins_no_call(case):
    async def main():
        ran = []
        with CancelScope() as scope:
            scope.cancel()
            await to_thread(ran.append, 1)
        assert scope.cancelled_caught if VERSION > (4, 4) else True
        with anyio.move_on_after(0):
            await to_thread(ran.append, 2)
        with CancelScope() as outer:
            with CancelScope():
                outer.cancel()
                await to_thread(ran.append, 3)
        assert await to_thread(lambda: ran) == [] and asyncio.current_task().cancelling() == 0
        # A shield between them: it begins.
        with CancelScope() as outer:
            outer.cancel()
            with CancelScope(shield=True):
                assert await to_thread(lambda: 4) == 4

    case.run(main)


def test_a_cancelled_task_begins_no_call(case):
    async def main():
        ran = []

        async def one():
            asyncio.current_task().cancel()
            await to_thread(ran.append, 1)

        task = asyncio.create_task(one())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ran == []

    case.run(main)


@pytest.mark.parametrize("scoped", [False, True])
def test_asyncio_cancels_at_once(case, scoped):
    """Task.cancel(), asyncio.timeout(): the call goes on alone, as AnyIO has it."""

    async def main():
        gate = Gate(case.loop)

        async def one():
            if not scoped:
                return await to_thread(gate)
            with CancelScope():
                return await to_thread(gate)

        task = asyncio.create_task(one())
        await gate.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not gate.ended.is_set()
        # The next call does not wait for it.
        assert await to_thread(lambda: 5) == 5
        assert not gate.ended.is_set()
        gate.may_end.set()
        await asyncio.to_thread(gate.ended.wait, 10)
        assert await to_thread(lambda: 6) == 6

    case.run(main)


@pytest.mark.parametrize("how", ["scope", "task", "deadline", "group"])
def test_a_queued_call_can_be_cancelled(case, how):
    async def main():
        gates = [Gate(case.loop) for _ in range(THREADS)]
        holders = [case.task(to_thread, gate) for gate in gates]
        for gate in gates:
            await gate.begun.wait()
        ran, scopes = [], []

        async def queued():
            if how == "task":
                return await to_thread(ran.append, 1)
            if how == "group":
                async with anyio.create_task_group() as group:
                    scopes.append(group.cancel_scope)
                    await to_thread(ran.append, 1)
                return
            with CancelScope() as scope:
                scopes.append(scope)
                if how == "deadline":
                    scope.deadline = anyio.current_time() + 0.03
                await to_thread(ran.append, 1)

        task = case.task(queued)
        await asyncio.sleep(0.02)
        if how == "task":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            if how != "deadline":
                scopes[0].cancel()
            await asyncio.wait_for(task, 10)  # though no thread is free
        assert not any(gate.ended.is_set() for gate in gates)
        for gate in gates:
            gate.may_end.set()
        await asyncio.gather(*holders)
        # All slots are free again, and nothing of it ran.
        values = await asyncio.gather(*(case.task(to_thread, lambda n=n: n) for n in range(2 * THREADS)))
        assert values == list(range(2 * THREADS)) and ran == []

    case.run(main)


def test_queued_calls_run_once_a_thread_is_free(case):
    async def scoped(n):
        with CancelScope():
            return await to_thread(lambda: n)

    async def main():
        gates = [Gate(case.loop) for _ in range(THREADS)]
        holders = [case.task(to_thread, gate) for gate in gates]
        for gate in gates:
            await gate.begun.wait()
        waiting = [case.task(scoped, n) for n in range(10)] + [case.task(to_thread, lambda: 10)]
        await asyncio.sleep(0.01)
        for gate in gates:
            gate.may_end.set()
        assert await asyncio.gather(*waiting) == list(range(11))
        await asyncio.gather(*holders)

    case.run(main)


@pytest.mark.parametrize("scoped", [False, True])
def test_abandoned_calls(case, scoped):
    """More of them than there are threads: they hold nobody up."""

    async def main():
        gates = [Gate(case.loop) for _ in range(THREADS + 2)]
        for gate in gates:
            with CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(leave, gate, scope)
                    await to_thread(gate, abandon_on_cancel=True)
            assert scope.cancel_called and not gate.ended.is_set()
            assert await to_thread(lambda: 1) == 1
        for gate in gates:
            gate.may_end.set()
        for gate in gates:
            await asyncio.to_thread(gate.ended.wait, 10)

    async def leave(gate, scope):
        await gate.begun.wait()
        scope.cancel()

    case.run(main)


def test_check_cancelled(case):
    async def main():
        began, after = asyncio.Event(), []

        def work():
            case.loop.call_soon_threadsafe(began.set)
            while True:
                from_thread.check_cancelled()
                may_look.wait(0.001)

        may_look = threading.Event()
        with CancelScope() as scope:

            async def cancel():
                await began.wait()
                scope.cancel()

            task = asyncio.create_task(cancel())
            try:
                await to_thread(work)
            except asyncio.CancelledError:
                after.append("cancelled")
        await task
        assert scope.cancel_called and after == ["cancelled"]
        # Within a shield of the caller's: nothing to see.
        with CancelScope() as scope:
            scope.cancel()
            with CancelScope(shield=True):
                await to_thread(from_thread.check_cancelled)

    case.run(main)


def test_what_a_thread_waits_for_is_cancelled_with_its_scope(case):
    async def main():
        seen, waits = [], asyncio.Event()

        async def wait_for_ever():
            waits.set()
            await anyio.sleep(100)

        def work():
            try:
                from_thread.run(wait_for_ever)
            except BaseException as e:
                seen.append(type(e))
                raise

        with CancelScope() as scope:

            async def cancel():
                await waits.wait()
                scope.cancel()

            task = asyncio.create_task(cancel())
            await to_thread(work)
            seen.append("never")
        await task
        assert seen == [asyncio.CancelledError] and asyncio.current_task().cancelling() == 0

    case.run(main)


# ------------------------------------------------------------------ limiters


def test_an_explicit_limiter_is_honoured_beyond_the_threads(case):
    n = 4 * THREADS
    limiter_tokens = []

    async def main():
        limiter, barrier = anyio.CapacityLimiter(n), threading.Barrier(n)

        async def one():
            await to_thread(int)
            await to_thread(barrier.wait, 10, limiter=limiter)
            return await to_thread(threading.get_ident)

        await asyncio.gather(*(case.task(one) for _ in range(n)))
        limiter_tokens.append(limiter.borrowed_tokens)
        # And below them: never two at once.
        alone, now, most = anyio.CapacityLimiter(1), [], []

        def work():
            now.append(1)
            most.append(len(now))
            threading.Event().wait(0.002)
            now.pop()

        async def two():
            await to_thread(work, limiter=alone)
            await to_thread(int)
            await to_thread(work, limiter=alone)

        await asyncio.gather(*(case.task(two) for _ in range(n)))
        assert max(most) == 1 and len(most) == 2 * n

    case.run(main)
    assert limiter_tokens == [0]


def test_a_limit_of_the_application_below_ours(case):
    async def main():
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1
        now, most = [], []

        def work():
            now.append(1)
            most.append(len(now))
            threading.Event().wait(0.002)
            now.pop()
            return threading.get_ident()

        async def one():
            return len({await to_thread(work), await to_thread(work)})

        threads = await asyncio.gather(*(case.task(one) for _ in range(8)))
        assert max(most) == 1
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        if case.kind == "ours":
            assert set(threads) == {1}, "and on one thread each"

    case.run(main)


@pytest.mark.parametrize("times", [4, 11])
def test_a_limit_of_the_application_above_ours(case, caplog, times):
    """Up to threads_max the pool follows; above, the limit is AnyIO's."""
    n = times * THREADS

    async def main():
        anyio.to_thread.current_default_thread_limiter().total_tokens = n
        barrier = threading.Barrier(n)

        def work():
            barrier.wait(10)
            return threading.current_thread().name

        names = await asyncio.gather(*(case.task(to_thread, work) for _ in range(n)))
        assert all(name.startswith("test-anyio") for name in names) == (case.kind == "ours" and times == 4)

    with caplog.at_level(logging.INFO, "ringcorn.error"):
        case.run(main)
    told = [record.getMessage() for record in caplog.records if "sync.threads" in record.getMessage()]
    assert len(told) == (1 if case.kind == "ours" else 0)
    assert all(("threads_max" in line) == (times == 11) for line in told)


# ------------------------------------------------------------------ what is ours alone


def test_a_request_has_one_thread(ours):
    async def main():
        first = await to_thread(threading.get_ident)
        seen = {await to_thread(threading.get_ident) for _ in range(20)}
        with CancelScope(), CancelScope():
            seen.add(await to_thread(threading.get_ident))
        with CancelScope(shield=True):
            seen.add(await to_thread(threading.get_ident, limiter=anyio.CapacityLimiter(1)))
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(other_task, seen)
                await anyio.sleep(0.005)
        assert await asyncio.create_task(to_thread(threading.get_ident)) == first
        assert seen == {first}
        name = await to_thread(lambda: threading.current_thread().name)
        assert name.startswith("test-anyio")

    async def other_task(seen):
        seen.add(await to_thread(threading.get_ident))

    ours.run(main)


def test_parallel_calls_of_a_request_run_at_once(ours):
    async def main():
        barrier = threading.Barrier(THREADS)
        await asyncio.gather(*(to_thread(barrier.wait, 10) for _ in range(THREADS)))

    ours.run(main)


def test_requests_share_the_threads(ours):
    async def one():
        return {await to_thread(threading.get_ident) for _ in range(3)}

    async def main():
        seen = await asyncio.gather(*(ours.task(one) for _ in range(60)))
        assert {len(idents) for idents in seen} == {1}
        assert len(set().union(*seen)) <= THREADS and ours.pool.peak <= THREADS + 1  # the main task holds one of them

    ours.run(main)


def test_a_task_may_outlive_its_request(ours):
    async def main():
        may_go = asyncio.Event()
        late = []

        async def outlive():
            await may_go.wait()
            late.append(await to_thread(lambda: plain.get()))
            with CancelScope():
                late.append(await asyncio.gather(to_thread(lambda: 2), to_thread(lambda: 3)))

        async def request():
            plain.set("of the request")
            assert await to_thread(lambda: 1) == 1
            return asyncio.create_task(outlive())

        task = await ours.task(request)
        may_go.set()
        await task
        assert late == ["of the request", [2, 3]]

    ours.run(main)


def test_the_end_of_a_call_waits_for_no_slot(ours):
    """What has a limiter of its own, as FastAPI's ends of generator dependencies, runs on its own thread though all slots are taken:
    those who have them may wait for what it gives back."""

    async def main():
        connections = threading.Semaphore(THREADS)
        waiting = []

        def take():
            assert connections.acquire(timeout=10)
            return threading.get_ident()

        def give():
            connections.release()
            return threading.get_ident()

        async def slow():
            taken = await to_thread(take)
            await may_end.wait()  # its slot goes to others
            with CancelScope(shield=True):
                assert await to_thread(give, limiter=anyio.CapacityLimiter(1)) == taken

        async def quick():
            waiting.append(1)
            taken = await to_thread(take)
            with CancelScope(shield=True):
                assert await to_thread(give, limiter=anyio.CapacityLimiter(1)) == taken

        may_end = asyncio.Event()
        slows = [ours.task(slow) for _ in range(THREADS)]
        while connections._value:
            await asyncio.sleep(0.001)
        quicks = [ours.task(quick) for _ in range(THREADS)]
        while ours.pool.parked < THREADS or len(waiting) < THREADS:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        may_end.set()
        await asyncio.wait_for(asyncio.gather(*slows, *quicks), 5)

    ours.run(main)


def test_requests_that_keep_their_threads_starve_nobody(ours):
    """All of threads_max are kept, as by streams: the others run on AnyIO's own threads, each request all of its calls."""

    async def main():
        may_end = asyncio.Event()

        async def keep():
            await to_thread(int)
            kept.append(1)
            await may_end.wait()
            return await to_thread(threading.get_ident)

        async def other(scoped):
            names = []
            for n in range(3):
                if scoped:
                    with CancelScope():
                        names.append(await to_thread(name))
                else:
                    names.append(await to_thread(name))
                if n == 1:
                    may_end.set()  # threads are free from here on
                    await asyncio.gather(*keepers)
            names.append(await to_thread(name, limiter=anyio.CapacityLimiter(1)))
            return names

        def name():
            return threading.current_thread().name

        for scoped in (False, True):
            may_end.clear()
            kept = []
            keepers = [ours.task(keep) for _ in range(10 * THREADS - 1)]  # one more is the main task's
            while len(kept) < len(keepers):
                await asyncio.sleep(0.001)
            assert ours.pool.idle == 0
            assert await ours.task(other, scoped) == ["AnyIO worker thread"] * 4
            assert (await ours.task(to_thread, name)).startswith("test-anyio")

    async def outer():
        await to_thread(int)
        await main()

    ours.run(outer)


@pytest.mark.skipif(VERSION < (4, 8), reason="its idle threads keep the context of their last call, and so a lease that is over")
@pytest.mark.parametrize("seed", range(3))
def test_a_storm(ours, seed):
    """Calls, nested and parallel ones, limiters, deadlines and cancellations at random: nothing hangs, nothing stays.

    What is abandoned calls nothing on the loop: in a scope that was cancelled and is over, AnyIO's checkpoints never return."""
    chance = random.Random(seed)
    sleeps = threading.Event()
    limiter_tokens = []
    running = []

    def work(depth):
        running.append(1)
        try:
            return do(depth)
        finally:
            running.pop()

    def do(depth):
        sleeps.wait(chance.random() * 0.003)
        what = chance.randrange(6)
        if what == 0 and depth:
            return from_thread.run(below, depth - 1)
        if what == 1:
            from_thread.check_cancelled()
        if what == 2:
            raise ValueError(depth)
        return from_thread.run_sync(int) if what == 3 else depth

    async def below(depth):
        await anyio.lowlevel.checkpoint()
        return await to_thread(work, depth)

    async def one(limiter):
        for _ in range(chance.randrange(1, 6)):
            what = chance.randrange(8)
            try:
                if what == 0:
                    with anyio.move_on_after(chance.random() * 0.003):
                        await to_thread(work, 2)
                elif what == 1:
                    await asyncio.gather(*(to_thread(work, 2) for _ in range(3)))
                elif what == 2:
                    async with anyio.create_task_group() as group:
                        group.start_soon(to_thread, work, 2)
                        group.start_soon(to_thread, work, 2)
                        if chance.random() < 0.5:
                            await asyncio.sleep(0.001)
                            group.cancel_scope.cancel()
                elif what == 3:
                    with CancelScope(shield=True):
                        await to_thread(work, 1, limiter=limiter if chance.random() < 0.5 else anyio.CapacityLimiter(1))
                elif what == 4:
                    with anyio.move_on_after(0.001):
                        await to_thread(work, 0, abandon_on_cancel=True)
                elif what == 5:
                    await asyncio.wait_for(to_thread(work, 0), 0.002)
                elif what == 6:
                    await asyncio.sleep(chance.random() * 0.002)
                else:
                    await to_thread(work, 3)
            except (ValueError, TimeoutError, BaseExceptionGroup, concurrent.futures.CancelledError):
                pass

    async def main():
        limiter = anyio.CapacityLimiter(2 * THREADS)
        tasks = []
        for _ in range(150):
            tasks.append(ours.task(one, limiter))
            await asyncio.sleep(chance.random() * 0.002)
        await asyncio.gather(*tasks, return_exceptions=True)
        # What a cancellation left behind may still run for a moment, and wait for the loop.
        while running or ours.pool.leased > 1:
            await asyncio.sleep(0.002)
        limiter_tokens.append(limiter.borrowed_tokens)
        limiter_tokens.append(anyio.to_thread.current_default_thread_limiter().borrowed_tokens)

    async def outer():
        await main()
        barrier = threading.Barrier(THREADS)
        await asyncio.gather(*(ours.task(to_thread, barrier.wait, 10) for _ in range(THREADS)))

    ours.run(outer)
    assert limiter_tokens == [0, 0]


def test_a_failing_self_test_leaves_stock(loop, run, caplog):
    from anyio._core import _eventloop

    class Pool:
        context_vars = blocking_code = ()

        def lease(self, label):
            raise OSError("no threads today")

    async def main():
        stock = _eventloop.get_async_backend("asyncio")
        pool = Pool()
        await anyio_threads.install(loop, pool, 5)
        assert anyio_threads.installed() is None
        assert _eventloop.get_async_backend("asyncio") is stock
        assert pool.context_vars == () and pool.blocking_code == ()
        assert anyio.to_thread.current_default_thread_limiter().total_tokens == 5
        assert await to_thread(lambda: 1) == 1

    with caplog.at_level(logging.WARNING, "ringcorn.error"):
        run(main)
    assert ["no threads today" in record.getMessage() for record in caplog.records] == [True]
    caplog.clear()  # the exception has our frames


def test_versions_without_a_place_for_it(loop, run, caplog, monkeypatch):
    async def main():
        await anyio_threads.install(loop, None, 6)
        assert anyio_threads.installed() is None and anyio.to_thread.current_default_thread_limiter().total_tokens == 6

    monkeypatch.setattr(anyio_threads.importlib.metadata, "version", lambda name: "4.3.0")
    with caplog.at_level(logging.WARNING, "ringcorn.error"):
        run(main)
    assert ["4.3.0" in record.getMessage() for record in caplog.records] == [True]


def test_stock_is_stock(loop, run):
    from anyio._core import _eventloop

    async def main():
        stock = _eventloop.get_async_backend("asyncio")
        await anyio_threads.install(loop, None, 9, stock=True)
        assert _eventloop.get_async_backend("asyncio") is stock
        assert anyio.to_thread.current_default_thread_limiter().total_tokens == 9

    run(main)
