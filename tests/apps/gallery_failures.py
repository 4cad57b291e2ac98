"""What asynchronous applications do wrong without any error: each is served by gallery_fastapi and gallery_django under its own name.

tests/e2e/test_guard.py finds the guilty lines by their comments, "# guilty: NAME"."""

import asyncio
import sqlite3
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


async def charge():
    await asyncio.sleep(0)
    try:
        {}["card"]
    except KeyError:
        raise ValueError("no card to charge")  # guilty: loses


async def loses():
    asyncio.create_task(charge(), name="charge")
    await asyncio.sleep(0.05)


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


NAMES = ("sleeps", "asks_database", "computes", "forgets", "loses", "waits_well", "knows_better", "knows_better_inside")
