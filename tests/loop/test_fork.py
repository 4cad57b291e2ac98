"""os.fork() and multiprocessing beside a running loop."""

import asyncio
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import time

import pytest

import _ringcorn
import ringcorn.loop

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def helper_processes():
    """multiprocessing's own, which stay: started before the loop's fixture counts descriptors."""
    multiprocessing.resource_tracker.ensure_running()
    multiprocessing.forkserver.ensure_running()


def in_child(function):
    """Forks; returns the child's exit status: what function returned, 99 for an exception."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            signal.alarm(10)
            status = function() or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def use_a_new_loop(usable_io):
    async def main():
        await asyncio.sleep(0.01)
        reader, writer = os.pipe()
        asyncio.get_running_loop().add_reader(reader, print)
        asyncio.get_running_loop().remove_reader(reader)
        return await asyncio.to_thread(int, 7)

    loop = ringcorn.loop.new_event_loop(usable_io)
    asyncio.set_event_loop(loop)
    assert loop.run_until_complete(main()) == 7
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_fork_inside_a_callback_and_a_new_loop_in_the_child(loop, usable_io, run):
    async def main():
        await asyncio.to_thread(int)  # with a thread beside
        await asyncio.sleep(0.01)
        assert in_child(lambda: use_a_new_loop(usable_io)) == 0
        await asyncio.sleep(0.01)
        assert await asyncio.to_thread(int, 5) == 5

    run(main)


def test_the_parents_loop_does_not_run_in_the_child_but_can_be_closed(loop, run):
    async def main():
        await asyncio.sleep(0.01)

    run(main)
    loop.add_reader(0, print) if os.isatty(0) else None
    a, b = os.pipe()
    loop.add_reader(a, print)

    def child():
        try:
            loop.run_forever()
        except RuntimeError as e:
            assert "process that forked this one" in str(e)
        else:
            return 1
        loop.call_soon(print)
        loop.remove_reader(a)
        loop.close()

    assert in_child(child) == 0
    loop.remove_reader(a)
    os.close(a)
    os.close(b)


def test_a_child_that_returns_into_the_loop_leaves_it(loop, run):
    async def main():
        await asyncio.sleep(0)
        if os.fork() == 0:
            signal.alarm(10)
            return "child"
        return "parent"

    pid = os.getpid()
    try:
        result = run(main)
    except RuntimeError as e:
        if os.getpid() != pid:
            os._exit(0 if "forked" in str(e) else 98)
        raise
    except BaseException:
        if os.getpid() != pid:
            os._exit(97)
        raise
    if os.getpid() != pid:
        os._exit(96)
    assert result == "parent"
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0


def test_the_child_does_not_take_the_parents_events(loop, run):
    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        pid = os.fork()
        if pid == 0:
            time.sleep(1)
            os._exit(0)
        async with server:
            for i in range(50):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"line\n")
                assert await reader.readline() == b"line\n"
                writer.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    run(main)


def test_a_pool_of_the_parent_refuses_in_the_child(loop, run):
    pool = _ringcorn.Pool(loop, 2, "parent")

    async def main():
        assert await pool.submit(int) == 0

        def child():
            try:
                pool.submit(int)
            except RuntimeError as e:
                return 0 if "process that forked" in str(e) else 2
            return 1

        assert in_child(child) == 0
        assert await pool.submit(lambda: in_child(child)) == 0, "forked in a thread of the pool"
        assert await pool.submit(int, 3) == 3

    run(main)
    assert pool.stop(5) == []


def square(n):
    return n * n


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pool_executor(loop, run, method):
    from concurrent.futures import ProcessPoolExecutor

    async def main():
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as executor:
            return await asyncio.gather(*[loop.run_in_executor(executor, square, n) for n in range(10)])

    assert loop.run_until_complete(asyncio.wait_for(main(), 60)) == [n * n for n in range(10)]


def run_asyncio(queue):
    async def main():
        await asyncio.sleep(0.01)
        return "from the child"

    queue.put(ringcorn.loop.new_event_loop().run_until_complete(main()))


def test_multiprocessing_from_a_thread_of_the_pool(loop, run):
    context = multiprocessing.get_context("fork")

    def work():
        queue = context.SimpleQueue()
        process = context.Process(target=run_asyncio, args=(queue,))
        process.start()
        result = queue.get()
        process.join()
        assert process.exitcode == 0
        return result

    async def main():
        return await asyncio.to_thread(work)

    assert run(main) == "from the child"
