"""What asynchronous applications do wrong without any error: each is served by gallery_fastapi and gallery_django under its own name.

tests/e2e/test_guard.py finds the guilty lines by their comments, "# guilty: NAME"."""

import asyncio
import contextlib
import gc
import sqlite3
import threading
import time

import requests

import ringcorn.guard


async def sleeps():
    time.sleep(0.5)  # guilty: sleeps


async def asks_http(url):
    return requests.get(url, timeout=10).status_code  # guilty: asks_http


def count_slowly():
    connection = sqlite3.connect(":memory:")
    try:
        connection.create_function("pause", 1, time.sleep)
        return connection.execute("select pause(0.5)").fetchone()  # guilty: asks_database
    finally:
        connection.close()


async def asks_database():
    return count_slowly() is not None


async def computes():
    until, n = time.thread_time() + 0.4, 0  # of CPU: on a busy machine the time without one does not count
    while time.thread_time() < until:
        n += 1  # guilty: computes
    return n > 0


async def send_mail():  # guilty: forgets
    await asyncio.sleep(0)


async def forgets():
    send_mail()  # made: forgets


async def forgets_in_a_ring():
    ring = [send_mail()]
    ring.append(ring)  # the garbage collector finds it, whenever that comes


async def collects():
    gc.collect()


async def charge():
    await asyncio.sleep(0)
    try:
        {}["card"]
    except KeyError:
        raise ValueError("no card to charge")  # guilty: loses


async def loses():
    asyncio.create_task(charge(), name="charge")
    await asyncio.sleep(0.05)


async def fails():
    raise ValueError("no such card")


async def goes_on(seconds=2):
    await asyncio.sleep(seconds)


async def fails_later():
    await asyncio.sleep(0.1)
    raise KeyError("too late")  # raised: fails_twice


async def leaves_behind():
    try:
        await asyncio.gather(fails(), goes_on())  # guilty: leaves_behind
    except ValueError:
        return "sorry"


async def fails_twice():
    try:
        await asyncio.gather(fails(), fails_later())  # guilty: fails_twice
    except ValueError:
        return "sorry"


async def fires_and_forgets():
    asyncio.create_task(goes_on(), name="mail")  # guilty: fires_and_forgets


async def ignores():
    await asyncio.gather(goes_on(0), charge(), return_exceptions=True)  # guilty: ignores


async def swallows():
    for _ in range(20):
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:  # guilty: swallows
            pass


async def rows():
    try:
        for n in range(3):
            yield n  # stands: leaves_open
    finally:
        await asyncio.sleep(0)


async def leaves_open():
    async for row in rows():
        if row == 1:
            break  # guilty: leaves_open


def explode():
    raise ValueError("in a callback")  # guilty: calls_back


async def calls_back():
    asyncio.get_running_loop().call_soon(explode)
    await asyncio.sleep(0.05)


async def leaves_a_thread():
    threading.Thread(target=time.sleep, args=(1.5,), name="counter").start()  # guilty: leaves_a_thread


async def leaves_a_file():
    open(__file__)  # guilty: leaves_a_file


async def fetches_all():
    async def one(n):
        await asyncio.sleep(0)
        if n == 1:
            raise ValueError(n)
        return n

    results = await asyncio.gather(*map(one, range(3)), return_exceptions=True)
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1)
    except TimeoutError:
        pass
    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with contextlib.aclosing(rows()) as them:
        async for row in them:
            break
    return len([one for one in results if not isinstance(one, Exception)])


async def starts_a_worker():
    ringcorn.guard.outlives(asyncio.create_task(goes_on()))
    with ringcorn.guard.allow("orphan"):
        asyncio.create_task(goes_on())
    asyncio.create_task(goes_on(0.1))  # ends soon


async def waits_well():
    await asyncio.sleep(0.3)
    await asyncio.to_thread(time.sleep, 0.3)
    task = asyncio.create_task(charge())
    try:
        await task
    except ValueError:
        return "as it should be"


@ringcorn.guard.allow("block")
async def knows_better():
    time.sleep(0.3)


async def knows_better_inside():
    with ringcorn.guard.allow("block", "unawaited", "lost"):
        time.sleep(0.3)
        send_mail()
        await loses()


NAMES = (
    "sleeps", "asks_database", "computes", "forgets", "forgets_in_a_ring", "collects", "loses", "waits_well", "knows_better", "knows_better_inside", "leaves_behind", "fails_twice",
    "fires_and_forgets", "ignores", "swallows", "leaves_open", "calls_back", "leaves_a_thread",
    "leaves_a_file", "fetches_all", "starts_a_worker",
)  # fmt: skip
