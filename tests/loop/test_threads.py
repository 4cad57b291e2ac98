"""Other threads: waking the loop, loops in several threads, signals, the GIL."""

import asyncio
import os
import signal
import sys
import threading
import time

import pytest
from conftest import turns

import ringcorn.loop


def test_call_soon_threadsafe_wakes_a_sleeping_loop(loop):
    seen = []

    def other():
        time.sleep(0.05)
        loop.call_soon_threadsafe(lambda: (seen.append(time.monotonic()), loop.stop()))
        seen.append(time.monotonic())

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join()
    assert abs(seen[0] - seen[1]) < 0.1


def test_no_call_of_many_threads_is_lost_and_each_keeps_its_order(loop):
    seen = []
    threads, calls = 8, 2000

    def other(n):
        for i in range(calls):
            loop.call_soon_threadsafe(seen.append, (n, i))

    def all_done(workers):
        for worker in workers:
            worker.join()
        loop.call_soon_threadsafe(loop.stop)

    workers = [threading.Thread(target=other, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    waiter = threading.Thread(target=all_done, args=(workers,))
    waiter.start()
    loop.run_forever()
    waiter.join()
    assert len(seen) == threads * calls
    for n in range(threads):
        assert [i for m, i in seen if m == n] == list(range(calls))


def test_ping_pong_between_two_loops_in_two_threads(usable_io):
    loops = [ringcorn.loop.new_event_loop(usable_io) for _ in range(2)]
    rounds = 2000
    count = 0

    def hit(side):
        nonlocal count
        count += 1
        if count >= rounds:
            for each in loops:
                each.call_soon_threadsafe(each.stop)
        else:
            loops[1 - side].call_soon_threadsafe(hit, 1 - side)

    loops[0].call_soon(hit, 0)
    threads = [threading.Thread(target=each.run_forever) for each in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert count >= rounds
    for each in loops:
        each.close()


def test_many_loops_in_many_threads(usable_io):
    results = []

    def other(n):
        async def main():
            async def echo(reader, writer):
                writer.write(await reader.readline())
                writer.close()

            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            async with server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"%d\n" % n)
                line = await reader.readline()
                writer.close()
                await asyncio.sleep(0.01)
                return int(line) + await asyncio.to_thread(int, 1000)

        loop = ringcorn.loop.new_event_loop(usable_io)
        results.append(loop.run_until_complete(main()))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    threads = [threading.Thread(target=other, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == list(range(1000, 1008))


def test_run_coroutine_threadsafe(loop):
    async def work():
        await asyncio.sleep(0.01)
        return threading.current_thread().name

    thread = threading.Thread(target=loop.run_forever, name="the loop's")
    thread.start()
    assert asyncio.run_coroutine_threadsafe(work(), loop).result(5) == "the loop's"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def test_a_computing_thread_does_not_stop_the_loop_nor_the_loop_it(loop):
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    spins = 0
    enough = threading.Event()

    def spin():
        nonlocal spins
        while not enough.is_set():
            spins += 1

    thread = threading.Thread(target=spin)
    thread.start()
    ticks = []

    def tick():
        ticks.append(1)
        if len(ticks) < 20:
            loop.call_later(0.005, tick)
        else:
            loop.stop()

    loop.call_soon(tick)
    began = time.monotonic()
    loop.run_forever()
    spent = time.monotonic() - began
    enough.set()
    thread.join()
    sys.setswitchinterval(before)
    assert len(ticks) == 20 and spent < 2
    assert spins > 100


def test_a_handler_of_a_signal_runs_while_the_loop_sleeps(loop):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: (seen.append(time.monotonic()), loop.call_soon_threadsafe(loop.stop)))
    loop.call_later(5, loop.stop)
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        began = time.monotonic()
        loop.run_forever()
        assert seen and time.monotonic() - began < 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_keyboard_interrupt_leaves_a_sleeping_loop(loop):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop.call_later(5, loop.stop)
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.set_wakeup_fd(-1) == -1
    turns(loop)


def test_signals_are_not_slept_through(loop):
    """A signal every now and then while the loop goes to sleep again and again: each is handled at once."""
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: (seen.append(1), answered.set()))
    answered = threading.Event()
    late = []

    def other():
        for _ in range(300):
            answered.clear()
            os.kill(os.getpid(), signal.SIGUSR1)
            if not answered.wait(2):
                late.append(1)
                break
        loop.call_soon_threadsafe(loop.stop)

    try:
        thread = threading.Thread(target=other)
        thread.start()
        loop.run_forever()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not late and len(seen) == 300


def test_add_signal_handler(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR2, lambda: (seen.append(1), loop.stop()))
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    loop.run_forever()
    assert seen == [1]
    assert loop.remove_signal_handler(signal.SIGUSR2)
    assert signal.set_wakeup_fd(-1) == -1


def test_somebody_elses_wakeup_descriptor_is_left_alone(loop):
    import socket

    a, b = socket.socketpair()
    b.setblocking(False)
    signal.set_wakeup_fd(b.fileno())
    try:
        turns(loop)
    finally:
        assert signal.set_wakeup_fd(-1) == b.fileno()
        a.close()
        b.close()


def test_runner_cancels_the_main_task_on_sigint(usable_io):
    cancelled = []

    async def main():
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with asyncio.Runner(loop_factory=lambda: ringcorn.loop.new_event_loop(usable_io)) as runner:
            with pytest.raises(KeyboardInterrupt):
                runner.run(main())
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled == [1]


def test_another_thread_runs_while_the_loop_waits(loop):
    done = []

    def other():
        n = 0
        for i in range(200_000):
            n += i
        done.append(n)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert done
