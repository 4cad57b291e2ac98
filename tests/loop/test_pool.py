"""The pool of threads, and run_in_executor() on it."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import weakref

import pytest
from conftest import turns

import _ringcorn
import ringcorn.loop


@pytest.fixture
def pool(loop):
    pool = _ringcorn.Pool(loop, 3, "test-pool")
    yield pool
    assert pool.stop(5) == []
    if not loop.is_closed():
        turns(loop, 2)


def test_results_and_exceptions_come_back(loop, pool, run):
    async def main():
        assert await pool.submit(int, "12") == 12
        assert await pool.submit(lambda *args: args, *range(10)) == tuple(range(10))
        assert await pool.submit(lambda: (1, 2)) == (1, 2)
        with pytest.raises(ValueError, match="no number"):
            await pool.submit(int, "no number")

        class Own(BaseException):
            pass

        def raiser(exc):
            raise exc

        with pytest.raises(Own):
            await pool.submit(raiser, Own())
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await pool.submit(raiser, StopIteration(3))
        assert isinstance(caught.value.__cause__, StopIteration)
        with pytest.raises(asyncio.CancelledError):
            await pool.submit(raiser, concurrent.futures.CancelledError())
        future = pool.submit(int)
        assert type(future) is asyncio.Future and future.get_loop() is loop
        await future

    run(main)


def test_threads_start_on_demand_and_stay(loop, pool, run):
    async def main():
        assert pool.running == 0
        names = {await pool.submit(lambda: threading.current_thread().name) for _ in range(20)}
        assert names == {"test-pool-0"}, "one at a time: one thread is enough"
        barrier = threading.Barrier(3)
        idents = await asyncio.gather(*[pool.submit(lambda: (barrier.wait(5), threading.get_ident())[1]) for _ in range(3)])
        assert len(set(idents)) == 3 and pool.running == 3 and pool.threads == 3
        seen = await asyncio.gather(*[pool.submit(threading.get_ident) for _ in range(50)])
        assert set(seen) <= set(idents)
        thread = await pool.submit(threading.current_thread)
        assert isinstance(thread, threading.Thread) and thread.daemon and thread.is_alive()

    run(main)


def test_a_thread_keeps_its_locals(loop, run):
    pool = _ringcorn.Pool(loop, 1, "locals")
    local = threading.local()

    def count():
        local.n = getattr(local, "n", 0) + 1
        return local.n

    async def main():
        return [await pool.submit(count) for _ in range(5)]

    assert run(main) == [1, 2, 3, 4, 5]
    assert pool.stop(5) == []


def test_the_last_thread_to_become_idle_is_the_first_to_work(loop, pool, run):
    async def main():
        barrier = threading.Barrier(3)
        await asyncio.gather(*[pool.submit(barrier.wait, 5) for _ in range(3)])
        while pool.idle < 3:
            await asyncio.sleep(0.001)
        one = await pool.submit(threading.get_ident)
        for _ in range(20):
            while pool.idle < 3:
                await asyncio.sleep(0.001)
            assert await pool.submit(threading.get_ident) == one

    run(main)


def test_first_in_first_out(loop, run):
    pool = _ringcorn.Pool(loop, 1, "order")
    seen = []

    async def main():
        await asyncio.gather(*[pool.submit(seen.append, i) for i in range(500)])

    run(main)
    assert seen == list(range(500))
    assert pool.stop(5) == []


def test_a_job_cancelled_while_it_waits_never_runs(loop, run):
    pool = _ringcorn.Pool(loop, 1, "cancel")
    ran = []

    async def main():
        gate = threading.Event()
        blocked = pool.submit(gate.wait, 5)
        waiting = [pool.submit(ran.append, i) for i in range(10)]
        assert pool.queued >= 9
        for future in waiting[::2]:
            assert future.cancel()
        gate.set()
        await blocked
        await asyncio.gather(*waiting, return_exceptions=True)

    run(main)
    assert ran == [1, 3, 5, 7, 9]
    assert pool.stop(5) == []


def test_a_job_cancelled_while_it_runs_ends_and_its_thread_goes_on(loop, pool, run):
    async def main():
        gate = threading.Event()
        began = threading.Event()
        done = []
        future = pool.submit(lambda: (began.set(), gate.wait(5), done.append(1)))
        await pool.submit(began.wait, 5)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        gate.set()
        await pool.submit(int)
        while not done:
            await asyncio.sleep(0.001)

    run(main)


def test_a_full_queue_refuses_and_forgets_the_cancelled(loop, run):
    pool = _ringcorn.Pool(loop, 1, "full", queue=4)

    async def main():
        gate = threading.Event()
        first = pool.submit(gate.wait, 5)
        while pool.queued:
            await asyncio.sleep(0.001)
        waiting = [pool.submit(int) for _ in range(4)]
        with pytest.raises(RuntimeError, match="4 jobs wait already"):
            pool.submit(int)
        waiting[1].cancel()
        waiting[2].cancel()
        waiting.append(pool.submit(lambda: "room again"))
        assert pool.queued == 3
        gate.set()
        await first
        assert (await asyncio.gather(*waiting, return_exceptions=True))[-1] == "room again"

    run(main)
    assert pool.stop(5) == []


def test_arguments_and_results_are_let_go(loop, pool, run):
    class Thing:
        pass

    async def main():
        thing = Thing()
        refs = [weakref.ref(thing)]
        result = await pool.submit(lambda *args: Thing(), thing, 1, 2, 3, 4, 5)
        refs.append(weakref.ref(result))
        del thing, result
        await pool.submit(int)
        gc.collect()
        assert [ref() for ref in refs] == [None, None]

    run(main)
    assert _ringcorn.live()["jobs"] == 0


def test_stop_names_those_that_hang(loop, run):
    pool = _ringcorn.Pool(loop, 2, "hangs")
    gate = threading.Event()

    def stuck_function():
        gate.wait(10)

    futures = []

    async def begin():
        futures.append(pool.submit(stuck_function))
        await asyncio.sleep(0.05)

    run(begin)
    began = time.monotonic()
    ((name, where),) = pool.stop(0.1)
    assert time.monotonic() - began < 2
    assert name == "hangs-0"
    assert "threading.py" in where or "stuck_function" in where
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)
    gate.set()
    assert pool.stop(5) == []
    loop.run_until_complete(futures[0])


def test_jobs_that_cannot_begin_before_the_end_are_cancelled(loop, run):
    pool = _ringcorn.Pool(loop, 1, "late")
    gate = threading.Event()
    ran = []

    async def begin():
        return pool.submit(gate.wait, 10), pool.submit(ran.append, 1)

    first, second = run(begin)
    assert len(pool.stop(0.05)) == 1
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(second)
    gate.set()
    loop.run_until_complete(first)
    assert pool.stop(5) == [] and ran == []


def test_queued_jobs_are_done_before_the_end(loop, run):
    pool = _ringcorn.Pool(loop, 2, "drain")
    ran = []

    async def begin():
        return [pool.submit(lambda i=i: (time.sleep(0.001), ran.append(i))) for i in range(50)]

    futures = run(begin)
    assert pool.stop(10) == []
    assert sorted(ran) == list(range(50))
    loop.run_until_complete(asyncio.gather(*futures))


def test_results_after_the_end_of_the_loop_are_dropped(loop):
    pool = _ringcorn.Pool(loop, 2, "orphaned")
    gate = threading.Event()
    loop.call_soon(pool.submit, gate.wait, 5)
    turns(loop, 2)
    loop.close()
    gate.set()
    assert pool.stop(5) == []
    assert _ringcorn.live()["jobs"] == 0


def test_jobs_that_wait_are_done_though_loop_and_pool_are_gone(usable_io):
    """As with a ThreadPoolExecutor, whose shutdown(wait=False) close() calls."""
    loop = ringcorn.loop.new_event_loop(usable_io)
    may_end, all_done, done = threading.Event(), threading.Event(), []

    def job(n):
        may_end.wait(30)
        done.append(n)
        if len(done) == 100:
            all_done.set()

    async def main():
        futures = [loop.run_in_executor(None, job, n) for n in range(100)]
        assert threading.active_count() < 90  # the rest waits
        return futures

    futures = loop.run_until_complete(main())
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("ringcorn-executor-")]
    gone = weakref.ref(loop._executor_pool)
    loop.close()
    loop = None
    del futures
    gc.collect()
    assert gone() is None
    may_end.set()
    assert all_done.wait(30)
    assert sorted(done) == list(range(100))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_wrong_arguments(loop):
    with pytest.raises(TypeError, match="loop must be"):
        _ringcorn.Pool(object(), 1, "x")
    for threads in (0, -1, 100_000):
        with pytest.raises(ValueError):
            _ringcorn.Pool(loop, threads, "x")
    with pytest.raises(TypeError):
        _ringcorn.Pool(loop, 1, "x").submit()


def test_the_default_executor_is_the_pool(loop, run):
    async def main():
        names = await asyncio.gather(*[asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(5)])
        assert all(name.startswith("ringcorn-executor-") for name in names)
        infos = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        assert infos
        var = contextvars.ContextVar("var")
        var.set("in context")
        assert await asyncio.to_thread(var.get) == "in context"
        assert await loop.run_in_executor(None, var.get, "no context") == "no context"

    run(main)


def test_pools_of_the_server_are_used(loop, run, pool):
    loop._set_pools(pool)

    async def main():
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert run(main).startswith("test-pool-")
    run(lambda: loop.shutdown_default_executor())
    assert pool.closed


@pytest.mark.parametrize("debug", [False, True])
def test_executors_of_the_user_are_respected(loop, debug):
    loop.set_debug(debug)
    with concurrent.futures.ThreadPoolExecutor(1, "explicit") as explicit, concurrent.futures.ThreadPoolExecutor(1, "default") as default:

        async def main():
            def name():
                return threading.current_thread().name

            assert (await loop.run_in_executor(explicit, name)).startswith("explicit")
            assert (await loop.run_in_executor(None, name)).startswith("ringcorn-executor")
            loop.set_default_executor(default)
            assert (await loop.run_in_executor(None, name)).startswith("default")

        loop.run_until_complete(main())


def test_debug_mode_checks_the_function(loop):
    loop.set_debug(True)

    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
        loop.run_in_executor(None, coroutine)


def test_after_shutdown_default_executor(loop):
    loop.run_until_complete(loop.run_in_executor(None, int))
    threads = [t for t in threading.enumerate() if t.name.startswith("ringcorn-executor")]
    assert threads
    loop.run_until_complete(loop.shutdown_default_executor())
    assert not any(t.is_alive() for t in threads)
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        loop.run_in_executor(None, int)


def test_shutdown_with_a_timeout_names_the_function(loop):
    gate = threading.Event()

    def stuck():
        while not gate.is_set():
            time.sleep(0.005)

    async def main():
        future = loop.run_in_executor(None, stuck)
        await asyncio.sleep(0.02)
        with pytest.warns(RuntimeWarning, match="stuck .*test_pool.py"):
            await loop.shutdown_default_executor(timeout=0.05)
        gate.set()
        await future

    loop.run_until_complete(main())


def test_the_loop_stays_alive_while_jobs_wait_and_compute(loop, run):
    pool = _ringcorn.Pool(loop, 4, "mixed")
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)

    def compute():
        return sum(i * i for i in range(100_000))

    async def main():
        jobs = [pool.submit(compute) for _ in range(8)] + [pool.submit(time.sleep, 0.01) for _ in range(20)]
        ticks = 0
        while not all(job.done() for job in jobs):
            await asyncio.sleep(0)
            ticks += 1
        return ticks

    assert run(main) > 10
    sys.setswitchinterval(before)
    assert pool.stop(5) == []


def test_a_storm_of_jobs_from_many_tasks(loop, run):
    pool = _ringcorn.Pool(loop, 4, "storm")

    async def client(n):
        for i in range(100):
            assert await pool.submit(lambda x: x, (n, i)) == (n, i)

    async def main():
        await asyncio.gather(*[client(n) for n in range(20)])

    run(main)
    assert pool.running <= 4 and pool.stop(5) == []


def test_a_limit_of_threads_is_borne_where_some_run(loop, monkeypatch, run):
    pool = _ringcorn.Pool(loop, 3, "limit")
    start = threading.Thread.start

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.submit(int)
    assert pool.running == 0 and pool.queued == 0
    monkeypatch.setattr(threading.Thread, "start", start)

    async def main():
        gate = threading.Event()
        first = pool.submit(gate.wait, 5)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        second = pool.submit(lambda: "by the first thread")
        gate.set()
        await first
        assert await second == "by the first thread"

    run(main)
    assert pool.running == 1 and pool.stop(5) == []


@pytest.mark.parametrize("ending", ["idle", "busy", "unclosed"])
def test_the_interpreter_ends_with_threads_left(usable_io, ending):
    code = f"""if 1:
        import sys, threading, time, asyncio
        sys.path[:0] = {sys.path!r}
        import ringcorn.loop
        loop = ringcorn.loop.new_event_loop({usable_io!r})
        loop.run_until_complete(loop.run_in_executor(None, int))
        if {ending!r} == "busy":
            loop.call_soon(loop.run_in_executor, None, time.sleep, 30)
            loop.call_soon(loop.run_in_executor, None, lambda: [None for _ in iter(int, 1)])
            loop.call_later(0.05, loop.stop)
            loop.run_forever()
        if {ending!r} != "unclosed":
            loop.close()
        print("end", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and done.stdout == "end\n", done.stderr
    assert os.environ.get("PYTHONDEVMODE") or done.stderr == ""
