"""Services: each notes in the file BESIDE when an instance begins and ends, with its process."""

import asyncio
import contextvars
import json
import os
import time

from raw import app  # noqa: F401 (what is served)

seen = contextvars.ContextVar("seen", default=0)


def note(name, what):
    with open(os.environ["BESIDE"], "a") as f:
        f.write(json.dumps([name, what, os.getpid()]) + "\n")


async def coroutine(service):
    note(service.name, "begin")
    seen.set(seen.get() + 1)  # its context is its own
    assert seen.get() == 1
    service.ready()
    await service.draining.wait()
    note(service.name, "end")


def thread(service):
    note(service.name, "begin")
    service.ready()
    service.draining.wait()
    note(service.name, "end")


async def deaf():
    note("deaf", "begin")
    try:
        await asyncio.sleep(3600)
    finally:
        note("deaf", "end")


def deaf_thread():
    note("deaf", "begin")
    time.sleep(3600)


async def stubborn(service):
    """Ends when it is cancelled, not before."""
    note("stubborn", "begin")
    try:
        await asyncio.sleep(3600)
    finally:
        note("stubborn", "end")


def stubborn_thread(service):
    note("stubborn", "begin")
    time.sleep(3600)


async def fails(service):
    note(service.name, "begin")
    raise ValueError("it rains")


def thread_fails(service):
    note(service.name, "begin")
    raise ValueError("it rains")


async def leaves(service):
    note(service.name, "begin")
    raise SystemExit(5)


async def returns(service):
    note(service.name, "begin")


def takes_too_much(one, two):
    pass
