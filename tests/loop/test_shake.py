"""Shake mode: what a seed may change and what not, the same each time, and what a test sees of it (ringcorn.shake)."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import random
import subprocess
import sys
import threading
import time

import _ringcorn
import anyio
import anyio.from_thread
import anyio.to_thread
import harness
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from hypothesis import find, given, settings

from ringcorn import shake
from ringcorn.loop import new_event_loop
from ringcorn.shake.loop import group

SEEDS = range(0, 200, 7)


@pytest.fixture(params=SEEDS)
def seed(request):
    return request.param


@pytest.fixture(autouse=True)
def nothing_left():
    gc.collect()
    live, descriptors, threads = _ringcorn.live(), set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    yield
    pools = concurrent.futures.thread._threads_queues  # asgiref's own stays
    for thread in set(threading.enumerate()) - threads - set(pools):
        thread.join(5)
    gc.collect()
    assert {thread for thread in threading.enumerate() if thread not in pools} <= threads
    assert _ringcorn.live() == live
    assert set(os.listdir("/proc/self/fd")) <= descriptors


# --- what a seed is


def test_kinds_are_those_of_the_core():
    loop = new_event_loop()
    try:
        loop._shake(f"1:{','.join(shake.KINDS)}", group, int, None)
        assert loop._shake_seed() == f"1:{','.join(shake.KINDS)}"
    finally:
        loop.close()


@pytest.mark.parametrize("text", ["0", "17", "17:order", "17:order,drops", "18446744073709551615", "3:tasks"])
def test_a_seed_is_its_text(text):
    seed = shake.Seed(text)
    assert str(seed) == text and eval(repr(seed), {"Seed": shake.Seed}) == seed and shake.Seed(seed) == seed
    loop = shake.ShakeLoop(seed)
    assert loop._shake_seed() == text
    loop.close()


@pytest.mark.parametrize("text", ["", "x", "-1", "17:", "17:oder", "17,order", "18446744073709551616", "1.5"])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(ValueError):
        shake.Seed(text)
    loop = new_event_loop()
    try:
        with pytest.raises(ValueError, match="is no seed"):
            loop._shake(text, group, int, None)
        assert loop._shake_seed() is None
    finally:
        loop.close()


def test_a_loop_is_shaken_once_and_before_it_is_used():
    loop = shake.ShakeLoop(1)
    with pytest.raises(RuntimeError, match="once"):
        loop._shake("2", group, int, None)
    loop.close()


# --- order


def steps(n, log, name):
    async def one():
        for i in range(n):
            log.append((name, i))
            await asyncio.sleep(0)

    return one()


def test_what_asyncio_promises_is_kept(seed):
    """Plain callbacks in the order of call_soon(), a task's own steps, the tasks of one group among themselves, done callbacks of a future."""
    log = []

    async def member(name):
        loop = asyncio.get_running_loop()
        first, second = loop.create_task(steps(3, log, f"{name}1")), loop.create_task(steps(3, log, f"{name}2"))
        future = loop.create_future()
        for i in range(5):
            loop.call_soon(log.append, ("soon", name, i))
            future.add_done_callback(lambda _, i=i: log.append(("done", name, i)))
        future.set_result(None)
        before = len(log)
        await asyncio.sleep(0)
        ran = log[before:]
        assert (f"{name}1", 0) in ran and (f"{name}2", 0) in ran  # what was made before a sleep(0) has run after it
        await first
        await second

    async def main():
        loop = asyncio.get_running_loop()
        order = []
        contexts = [loop.new_group() for _ in range(4)]
        for i in range(40):
            loop.call_soon(order.append, i, context=contexts[i % 4])
        await shake.together(*(member(name) for name in "abcd"))
        assert order == list(range(40))

    shake.run(main, seed)
    for name in "abcd":
        for kind in ("soon", "done"):
            assert [e[2] for e in log if e[:2] == (kind, name)] == list(range(5))
        for task in (f"{name}1", f"{name}2"):
            assert [e[1] for e in log if e[0] == task] == list(range(3))
        if not seed:
            continue
        firsts = [e for e in log if e[0] in (f"{name}1", f"{name}2") and e[1] == 0]
        assert [e[0] for e in firsts] == [f"{name}1", f"{name}2"]


def order_under(seed):
    log = []

    async def main():
        await shake.together(*(steps(5, log, name) for name in "abc"))

    shake.run(main, seed)
    return log


def test_seeds_give_many_orders_and_each_the_same_again():
    orders = [tuple(order_under(seed)) for seed in range(100)]
    assert orders == [tuple(order_under(seed)) for seed in range(100)]
    assert len(set(orders)) > 60
    assert order_under(0) == [(name, i) for name in "abc" for i in range(5)]  # they do not meet
    assert order_under("150:hops,timers") == order_under(0)
    assert order_under("150") != order_under(0)


def test_tasks_of_one_request_too_where_it_is_named():
    def order(seed):
        log = []

        async def main():
            await asyncio.gather(*(steps(3, log, name) for name in "abc"))

        shake.run(main, seed)
        return tuple(log)

    assert len({order(f"{seed}:order,hops,timers") for seed in range(100, 120)}) == 1
    assert len({order(f"{seed}:tasks") for seed in range(100, 120)}) > 10
    assert order("105:tasks") == order("105:tasks")


def test_more_callbacks_than_are_looked_at():
    async def main():
        loop = asyncio.get_running_loop()
        done = []
        for i in range(1000):
            loop.create_task(steps(1, done, i), context=loop.new_group())
        while len(done) < 1000:
            await asyncio.sleep(0)
        assert sorted(i for i, _ in done) == list(range(1000))

    shake.run(main, 150)


# --- time


def test_time_stands_still_until_nothing_else_is_left(seed):
    async def main():
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for _ in range(100):
            await asyncio.sleep(0)
        assert loop.time() == begin
        fired = []
        for delay in (3600, 60, 0.5, 7200):
            loop.call_later(delay, fired.append, delay)
        await asyncio.sleep(24 * 3600)
        assert fired == [0.5, 60, 3600, 7200]
        assert 24 * 3600 <= loop.time() - begin < 24 * 3600 + 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()

    real = time.monotonic()
    shake.run(main, seed)
    assert time.monotonic() - real < 1000  # and not a day


def test_a_deadlock_is_an_error():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(shake.Stuck, match=r"nothing is left that could wake anybody: .*test_shake.py"):
        shake.run(main, 3)


def test_real_things_are_waited_for():
    """A thread that the loop does not know, and a socket: virtual time does not run away."""

    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def later():
            time.sleep(0.05)
            loop.call_soon_threadsafe(future.set_result, 1)

        threading.Thread(target=later).start()
        assert await asyncio.wait_for(future, 5) == 1

        async def echo(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 5) == b"hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        process = await asyncio.create_subprocess_exec("true")
        assert await asyncio.wait_for(process.wait(), 10) == 0

    for seed in (0, 40, 190):
        shake.run(main, seed)


# --- awaits


def test_what_is_satisfied_suspends_and_is_not_lost():
    """A lock, an item, a line that a task has got when it is cancelled is there for the next one."""

    async def main():
        lock, queue, stack, semaphore = asyncio.Lock(), asyncio.Queue(), asyncio.LifoQueue(), asyncio.Semaphore(1)
        reader = asyncio.StreamReader()
        reader.feed_data(b"one\ntwo\n")
        for i in range(3):
            queue.put_nowait(i)
            stack.put_nowait(i)
        got = []

        async def get():
            async with lock, semaphore:
                got.append((await queue.get(), await stack.get(), await reader.readline()))

        task = asyncio.get_running_loop().create_task(get())
        for _ in range(random.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert not lock.locked() and semaphore._value == 1
        if got:
            assert got == [(0, 2, b"one\n")]
        else:
            rest = (queue.qsize(), stack.qsize(), bytes(reader._buffer))
            assert rest[0] in (2, 3) and rest[1] in (2, 3) and rest[2] in (b"one\ntwo\n", b"two\n")
        return bool(got), task.cancelled(), queue.qsize()

    ends = {shake.run(main, f"{seed}:awaits") for seed in range(128, 400)}
    assert len(ends) > 1
    assert ends <= {(False, True, 3), (True, False, 2), (True, True, 2), (False, True, 2)}


def test_a_free_lock_suspends():
    async def main():
        lock, log = asyncio.Lock(), []

        async def one(name):
            log.append(name)
            async with lock:
                pass
            log.append(name)

        await shake.together(one("a"), one("b"))
        return "".join(log)

    assert {shake.run(main, f"{seed}:order") for seed in range(100)} == {"aabb", "bbaa"}
    assert {shake.run(main, seed) for seed in range(100, 200)} == {"aabb", "abab", "baba", "bbaa"}  # who comes first has the lock
    assert {shake.run(main, f"{seed}:awaits") for seed in range(100)} == {"aabb"}


def test_other_loops_are_left_alone():
    async def main():
        lock = asyncio.Lock()
        before = log = []
        asyncio.get_running_loop().call_soon(log.append, 1)
        async with lock:
            pass
        await asyncio.Event.wait(event)
        assert before == []
        await asyncio.sleep(0)
        assert log == [1]

    event = asyncio.Event()
    event.set()
    shake.run(steps_of_nothing, 1)
    asyncio.run(main())
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


async def steps_of_nothing():
    await asyncio.sleep(0)


# --- calls in threads


def trace_of_hops(seed):
    trace, lock = [], threading.Lock()

    def call(name, n):
        assert threading.current_thread() is not threading.main_thread()
        assert lock.acquire(blocking=False)  # one at a time
        try:
            trace.append((name, n, threading.current_thread().name.rpartition("-")[2] if name != "s" else ""))
            time.sleep(random.Random(n).random() / 2000)
            return n
        finally:
            lock.release()

    async def of_executor(name):
        for n in range(3):
            assert await asyncio.to_thread(call, name, n) == n

    async def of_anyio(name):
        for n in range(3):
            assert await anyio.to_thread.run_sync(call, name, n) == n

    async def of_asgiref(name):
        for n in range(3):
            assert await sync_to_async(call)(name, n) == n

    async def main():
        await shake.together(of_executor("a"), of_executor("b"), of_anyio("c"), of_anyio("d"), of_asgiref("s"))

    shake.run(main, seed)
    return tuple(trace)


def test_calls_in_threads_are_in_an_order_of_the_seed():
    traces = [trace_of_hops(seed) for seed in range(30)]
    assert traces == [trace_of_hops(seed) for seed in range(30)]
    assert len(set(traces)) > 15
    for trace in traces:
        for name in "abcds":
            assert [n for each, n, _ in trace if each == name] == [0, 1, 2]


def test_connections_of_aiosqlite(tmp_path):
    """Each has a thread of its own, and a queue: what is asked of one is done in that order, and between them the seed decides."""
    aiosqlite = pytest.importorskip("aiosqlite")
    file = tmp_path / "numbers.db"

    async def run(trace, name):
        async with aiosqlite.connect(file) as connection:
            for n in range(3):
                async with connection.execute("select ?", (n,)) as cursor:
                    trace.append((name, *(await cursor.fetchone())))
            first, second = connection.execute("select 1"), connection.execute("select 2")
            rows = [await (await cursor).fetchone() for cursor in (first, second)]
            assert rows == [(1,), (2,)]
        with pytest.raises(ValueError):  # closed
            await connection.execute("select 1")

    def trace_of(seed):
        trace = []

        async def main():
            await shake.together(*(run(trace, name) for name in "abc"))
            assert asyncio.get_running_loop().time() < 1001  # nothing real was waited for

        shake.run(main, f"{seed}:order,awaits,hops")
        return tuple(trace)

    traces = [trace_of(seed) for seed in range(100, 130)]
    assert traces == [trace_of(seed) for seed in range(100, 130)]
    assert len(set(traces)) > 10
    assert all([n for each, n in trace if each == name] == [0, 1, 2] for trace in traces for name in "abc")


class Oops(Exception):
    pass


def test_outcomes_of_calls_in_threads():
    def fails(error):
        raise error

    async def main():
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            assert await loop.run_in_executor(executor, int, "5") == 5
            with pytest.raises(Oops):
                await loop.run_in_executor(executor, fails, Oops())
        with pytest.raises(RuntimeError, match="after shutdown"):
            loop.run_in_executor(executor, int)
        executor = concurrent.futures.ThreadPoolExecutor(1)
        call = loop.run_in_executor(executor, int, "6")
        executor.shutdown()  # waits for what it was given
        assert await call == 6
        for run in (asyncio.to_thread, anyio.to_thread.run_sync):
            with pytest.raises(Oops):
                await run(fails, Oops())
            with pytest.raises(RuntimeError, match="StopIteration"):
                await run(fails, StopIteration())
        with pytest.raises(asyncio.CancelledError):
            await loop.run_in_executor(None, fails, concurrent.futures.CancelledError())
        call = loop.run_in_executor(None, fails, Oops())  # cancelled before it began
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        variable = contextvars.ContextVar("variable", default=0)
        variable.set(7)
        assert await asyncio.to_thread(variable.get) == await anyio.to_thread.run_sync(variable.get) == 7

    for seed in (0, 9, 170):
        shake.run(main, seed)


def test_calls_in_threads_that_come_back_to_the_loop(seed):
    """async_to_sync() and from_thread.run() in a thread: the loop goes on, and other requests with it, in an order that is the same again."""

    def trace():
        log = []

        async def inner(name):
            for i in range(3):
                log.append((name, i))
                await asyncio.sleep(0)
            return name

        def below(name):
            assert async_to_sync(inner)(name) == name
            log.append((name, "back"))

        def below_anyio(name):
            assert anyio.from_thread.run(inner, name) == name
            log.append((name, "back"))

        async def main():
            await shake.together(
                sync_to_async(below, thread_sensitive=False)("a"), anyio.to_thread.run_sync(below_anyio, "b"), steps(5, log, "c")
            )

        shake.run(main, seed)
        return log

    assert trace() == trace()


def test_a_call_that_waits_for_another_request_does_not_stop_the_world():
    async def main():
        lock, order = threading.Lock(), []
        lock.acquire()

        def wait():
            with lock:
                order.append("waited")

        async def waits():
            await asyncio.to_thread(wait)

        async def holds():
            await asyncio.sleep(0)
            order.append("releases")
            lock.release()

        await shake.together(waits(), holds())
        assert order == ["releases", "waited"]

    for seed in (0, 130, 131):
        shake.run(main, seed)


# --- the client


def app_of(handler):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await handler(scope, receive, send)

    return app


async def answer(send, body=b"", status=200):
    await send({"type": "http.response.start", "status": status, "headers": [(b"Content-Type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def test_requests_and_answers(seed):
    async def echo(scope, receive, send):
        body, more, pieces = b"", True, 0
        while more:
            message = await receive()
            body, more, pieces = body + message["body"], message["more_body"], pieces + 1
        headers = dict(scope["headers"])
        await answer(send, b"%s %s %s %s %s" % (scope["method"].encode(), scope["path"].encode(), scope["query_string"], headers[b"x"], body))
        assert (await receive()) == {"type": "http.disconnect"}

    async def main():
        async with shake.Client(app_of(echo), headers={"X": "y"}) as client:
            got = await client.post("/a%20b?c=d", body=b"hello")
            assert (got.status, got.text, got.header("content-type")) == (200, "POST /a b c=d y hello", "text/plain")
            assert (await client.put("/", json={"k": 1}, params={"p": "q"})).text == 'PUT / p=q y {"k": 1}'
            assert (await client.patch("/", data={"k": "v w"})).text == "PATCH /  y k=v+w"

    shake.run(main, seed)


def test_faults_of_the_application():
    async def main():
        async def raises(scope, receive, send):
            raise Oops

        async def returns(scope, receive, send):
            pass

        async def twice(scope, receive, send):
            await answer(send)
            await answer(send)

        async with shake.Client(app_of(raises)) as client:
            with pytest.raises(Oops):
                await client.get("/")
        async with shake.Client(app_of(returns)) as client:
            with pytest.raises(RuntimeError, match="before GET / was answered"):
                await client.get("/")
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context["exception"]))
        async with shake.Client(app_of(twice)) as client:
            assert (await client.get("/")).status == 200
        gc.collect()
        assert "already complete" in str(problems[0])

    shake.run(main, 0)


def test_clients_leave_and_requests_are_cancelled():
    """Each way, and at different places: the application is told by receive(), send() and cancellation, and the client has no answer."""
    seen = set()

    async def slow(scope, receive, send):
        place = "begin"
        try:
            await receive()
            place = "slept"
            await asyncio.sleep(0.5)
            place = "sent"
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body"})
            place = "answered"
            seen.add((place, (await receive())["type"]))
        except (asyncio.CancelledError, ConnectionError) as e:
            seen.add((place, type(e).__name__))
            raise

    async def main():
        async with shake.Client(app_of(slow), drops=True) as client:
            (result,) = await shake.together(client.get("/"))
            return type(result).__name__

    ends = {shake.run(main, seed) for seed in range(100, 400)}
    assert ends == {"Response", "Dropped"}
    assert {("begin", "CancelledError"), ("slept", "CancelledError"), ("sent", "ClientDisconnected"), ("answered", "http.disconnect")} <= seen
    assert {shake.run(main, f"{seed}:order,awaits") for seed in range(100, 200)} == {"Response"}


def test_the_client_is_for_shaken_tests():
    async def main():
        with pytest.raises(RuntimeError, match="ringcorn.shake"):
            await shake.Client(None).get("/")

    asyncio.run(main())


# --- searching


async def lost_update():
    value = [0]

    async def add():
        old = value[0]
        await asyncio.sleep(0)
        value[0] = old + 1

    await shake.together(add(), add())
    assert value == [2]


def test_a_search_says_which_seed_and_what_it_takes():
    with pytest.raises(AssertionError) as failed:
        shake.search(lost_update)
    (note,) = failed.value.__notes__
    assert "makes it fail; what it takes is order\n" in note and "failed again 3 times of 3" in note
    seed = note.rpartition("run(main, '")[2].removesuffix("')")
    assert shake.Seed(seed).kinds == {"order"}
    for _ in range(10):
        with pytest.raises(AssertionError):
            shake.run(lost_update, seed)
        with pytest.raises(AssertionError):
            shake.again(lost_update, seed)


def test_a_search_that_finds_nothing():
    runs = []

    async def main():
        runs.append(asyncio.get_running_loop()._shake_seed())

    shake.search(main, seeds=5, first=10, kinds=["order"])
    assert runs == ["0:order", "10:order", "11:order", "12:order", "13:order", "14:order"]


def test_what_fails_anyway_is_told_so():
    async def main():
        raise Oops

    with pytest.raises(Oops) as failed:
        shake.search(main)
    assert failed.value.__notes__ == ["ringcorn shake: it fails without any disturbance (seed 0)"]


def test_random_is_seeded_and_given_back():
    async def main():
        return random.random()

    random.seed(5)
    before = random.getstate()
    assert shake.run(main, 3) == shake.run(main, 3) != shake.run(main, 4)
    assert random.getstate() == before and gc.isenabled()


def test_hypothesis_shrinks_to_what_matters():
    def fails(seed):
        try:
            shake.run(lost_update, seed)
        except AssertionError:
            return True
        return False

    least = find(shake.seeds(), fails, settings=settings(database=None, derandomize=True))
    assert least.kinds == {"order"}  # its number is the least of its neighbours only: Hypothesis does not try them all

    @settings(database=None, derandomize=True, max_examples=20)
    @given(shake.seeds(kinds=["awaits", "hops"]))
    def test(seed):
        assert seed.kinds <= {"awaits", "hops"}
        shake.run(lost_update, seed)

    test()


# --- CPython's own tests


@pytest.mark.skipif(harness.SANITIZED, reason="a sanitizer needs address space of its own")
@pytest.mark.parametrize("seed", ["150", "137:order,hops,timers,io"])
def test_what_asyncio_promises_holds(seed):
    """test_queues; more of them: tests/loop/cpython_asyncio.py --shake 129-148 test_tasks test_locks test_queues test_streams."""
    pytest.importorskip("test.test_asyncio")
    script = os.path.join(os.path.dirname(__file__), "cpython_asyncio.py")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, script, "--in-process", "--shake", seed, "test_queues"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


# --- pytest


SUITE = """
import asyncio, os
import pytest
from ringcorn import shake

@pytest.fixture
def value():
    return [0]

async def add(value):
    old = value[0]
    await asyncio.sleep(0)
    value[0] = old + 1

@pytest.mark.ringcorn_shake(seeds=50)
async def test_race(value):
    value[0] = 0
    await shake.together(add(value), add(value))
    assert value == [2]

class TestClass:
    @pytest.mark.ringcorn_shake(seeds=20, kinds="awaits,hops")
    async def test_good(self, value):
        value[0] = 0
        await shake.together(add(value), add(value))
        assert value == [2]

    @pytest.mark.ringcorn_shake(seeds=3, first=5)
    async def test_fails(self):
        if asyncio.get_running_loop().shake_seed.number == 6:
            pytest.fail("at six")

@pytest.mark.ringcorn_shake
def test_no_coroutine():
    pass

@pytest.mark.ringcorn_shake(20)
async def test_wrong():
    pass

@pytest.mark.ringcorn_shake(kinds="oder")
async def test_unknown():
    pass

@pytest.mark.ringcorn_shake(seeds=2)
async def test_value_error():
    raise ValueError("its own")
"""


def pytest_run(folder, *args):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ringcorn.pytest", "-rA", *args]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return done.stdout


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_plugin(tmp_path, mode):
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nasyncio_mode = {mode}\n")
    output = pytest_run(tmp_path)
    assert "6 failed, 1 passed" in output, output
    assert "PASSED test_suite.py::TestClass::test_good" in output
    assert "what it takes is order" in output
    assert "--ringcorn-shake=6:" in output and "at six" in output
    assert "no coroutine function" in output and "takes seeds, first and kinds, by name" in output and "'oder' is no kind" in output
    assert "fails without any disturbance" in output and "ValueError: its own" in output
    replay = output.partition("replay: pytest 'test_suite.py::test_race' ")[2].split()[0]
    assert "1 failed" in pytest_run(tmp_path, "test_suite.py::test_race", replay)
    assert "1 passed" in pytest_run(tmp_path, "test_suite.py::test_race", "--ringcorn-shake=0")
    assert "1 passed" in pytest_run(tmp_path, "test_suite.py::test_race", "--ringcorn-shake=17:hops")
    assert "is no number of a seed" in pytest_run(tmp_path, "test_suite.py::test_race", "--ringcorn-shake=x")
    assert "1 passed" in pytest_run(tmp_path, "test_suite.py::TestClass::test_fails", "--ringcorn-shake-first=7")
