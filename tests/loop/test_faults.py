"""Memory that runs out at every point, and memory that would grow."""

import asyncio
import contextvars
import gc
import socket
import subprocess
import sys

import pytest

import _ringcorn
import ringcorn.loop

pytest.importorskip("_testcapi")

FAILING = f"""if 1:
    import asyncio, contextvars, faulthandler, gc, socket, sys, threading, _testcapi
    sys.path[:0] = {sys.path!r}
    import _ringcorn, ringcorn.loop
    faulthandler.enable()

    a, b = socket.socketpair()

    async def coro():
        await asyncio.sleep(0)

    # The functions are made before memory runs out: CPython itself crashes when it cannot make one.
    def make_steps(loop, pool):
        context = contextvars.copy_context()
        return [
            lambda: loop.call_soon(int, 1, 2, 3, 4, 5),
            lambda: loop.call_later(0.0001, int, 1, 2, 3, 4, 5),
            lambda: loop.call_soon_threadsafe(int),
            lambda: loop._add_reader(a, int),
            lambda: loop._add_writer(a.fileno(), int),
            lambda: loop._remove_reader(a),
            lambda: loop._remove_writer(a.fileno()),
            lambda: pool.submit(int, 1, 2, 3, 4, 5, 6),
            lambda: loop.create_future(),
            lambda: repr(loop.call_soon(int)),
            lambda: loop.call_soon(int).cancel(),
            lambda: repr(loop.call_later(1, int)),
            lambda: _ringcorn._task_start(loop, coro(), context),
            lambda: _ringcorn.live(),
            lambda: loop._ready,
        ]

    def run_all(steps):
        for step in steps:
            try:
                step()
            except (MemoryError, RuntimeError):
                pass

    for n in range(250):
        loop = ringcorn.loop.new_event_loop(sys.argv[1])
        loop.io
        loop.set_exception_handler(lambda *_: None)
        pool = _ringcorn.Pool(loop, 1, "pool")
        # Its thread is there before memory runs out: Thread.start() hangs when the new thread finds none.
        loop.call_soon(lambda: pool.submit(int).add_done_callback(lambda _: loop.stop()))
        loop.run_forever()
        steps = make_steps(loop, pool)
        loop.call_soon(_testcapi.set_nomemory, n, n + 1 + n % 5)
        loop.call_soon(run_all, steps)
        for _ in range(80):
            loop.call_soon(int)
        loop.call_soon(_testcapi.remove_mem_hooks)
        loop.call_soon(loop.stop)
        try:
            loop.run_forever()
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert pool.stop(5) == []
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        del loop, pool, steps
        gc.collect()
    assert not any(_ringcorn.live().values()), _ringcorn.live()
    assert threading.active_count() == 1
    print("end")
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="CPython crashes by itself in PyFunction_New() (3.12, 3.13)")
def test_no_allocation_that_fails_breaks_or_leaks(usable_io):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FAILING, usable_io], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "end\n", done.stderr[-4000:]


def test_nothing_grows(usable_io):
    async def coro():
        await asyncio.sleep(0)

    async def main(loop):
        await asyncio.gather(*[asyncio.to_thread(int) for _ in range(10)])
        a, b = socket.socketpair()
        loop.add_reader(a, int)
        loop.add_writer(a, int)
        loop.remove_reader(a)
        await asyncio.sleep(0)
        loop.remove_writer(a)
        a.close()
        b.close()
        loop.call_later(100, int).cancel()
        loop.call_later(0.001, int, 1, 2, 3, 4, 5)
        loop.call_soon(lambda: _ringcorn._task_start(loop, coro(), contextvars.copy_context()))
        loop.call_soon(int, "no number")
        await asyncio.sleep(0.002)
        with pytest.raises(ValueError):
            await loop.run_in_executor(None, int, "no number")

    def once():
        loop = ringcorn.loop.new_event_loop(usable_io)
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(main(loop))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def measure():
        gc.collect()
        gc.collect()  # a free-threaded Python frees some of what the first has found in the next
        types = (_ringcorn.Handle, _ringcorn.TimerHandle, _ringcorn.LoopCore, _ringcorn.Pool, asyncio.Future, asyncio.Task)
        return [sys.getallocatedblocks(), *[sys.getrefcount(t) for t in types]]

    # Caches of the interpreter fill slowly; what leaks once a loop grows in every round.
    growth = []
    for _ in range(12):
        before = measure()
        for _ in range(60):
            once()
        after = measure()
        assert after[1:] == before[1:]
        growth.append(after[0] - before[0])
        if growth[-1] < 50:
            return
    pytest.fail(f"blocks of memory per 60 loops: {growth}")
