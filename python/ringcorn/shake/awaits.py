"""Awaitables of asyncio that have what they wait for suspend all the same, now and then.

A task that has got its lock, its item or its line is made to wait for its next step, as if others had been before it. Where it is cancelled
meanwhile, it gives back what it had got, as if it had been cancelled before. So all that can happen is what can happen without us, too, where there
is something to wait for. Nothing here does anything but on a loop in shake mode."""

import asyncio
import functools
import types
from asyncio import events

from .seed import AWAITS

STEPS_MAX = 4

_is_installed = False


def _release(held, _):
    held.release()


def _keep(waited_for, _):
    pass


def _put_back(queued, item):
    if isinstance(queued, (asyncio.PriorityQueue, asyncio.LifoQueue)):
        queued._put(item)
    else:
        queued._queue.appendleft(item)
    queued._wakeup_next(queued._getters)


def _unread(reader, data):
    reader._buffer[:0] = data


# What suspends only where there is something to wait for, and how it is undone.
_METHODS = (
    (asyncio.Lock, "acquire", _release),
    (asyncio.Semaphore, "acquire", _release),
    (asyncio.Event, "wait", _keep),
    (asyncio.Queue, "get", _put_back),
    (asyncio.StreamReader, "read", _unread),
    (asyncio.StreamReader, "readexactly", _unread),
    (asyncio.StreamReader, "readuntil", _unread),  # readline() calls it
    (asyncio.StreamWriter, "drain", _keep),
)


@types.coroutine
def step():
    """Lets others run: one step of the task's."""
    yield


async def pause(loop):
    """Where a task has what it waits for. *loop*: in shake mode."""
    if loop._shake_draw(AWAITS, 0):
        for _ in range(1 + loop._shake_draw(AWAITS, STEPS_MAX)):
            await step()


def shaken_loop():
    """The running loop, where it is in shake mode."""
    loop = events._get_running_loop()
    seed = getattr(loop, "_shake_seed", None)
    return loop if seed is not None and seed() is not None else None


def _pausing(stock, undo):
    @functools.wraps(stock)
    async def method(self, *args, **kwargs):
        result = await stock(self, *args, **kwargs)
        if (loop := shaken_loop()) is not None:
            try:
                await pause(loop)
            except asyncio.CancelledError:
                undo(self, result)
                raise
        return result

    return method


def _sleeping(stock):
    @functools.wraps(stock)
    async def sleep(delay, result=None):
        if delay <= 0 and (loop := shaken_loop()) is not None:
            await pause(loop)
        return await stock(delay, result)

    return sleep


def install():
    """Once a process."""
    global _is_installed
    if _is_installed:
        return
    _is_installed = True
    for cls, name, undo in _METHODS:
        setattr(cls, name, _pausing(vars(cls)[name], undo))
    asyncio.sleep = asyncio.tasks.sleep = _sleeping(asyncio.sleep)
