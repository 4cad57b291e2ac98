"""What a task tells of itself."""

import asyncio

from .. import places

FRAMES_MAX = 100
# ringcorn.django's: it takes the steps of another coroutine, so that it awaits nothing by itself.
_IN_CONTEXT = "_InContext.__await__"


def suspended(task):
    """Where it waits: [(coroutine, code, line)], outermost first. Empty: it runs, has not begun, or has ended."""
    one, found = task.get_coro(), []
    while one is not None and len(found) < FRAMES_MAX:
        frame, inner = places.step(one)
        if frame is not None:
            found.append((one, frame.f_code, frame.f_lineno))
            if frame.f_code.co_qualname == _IN_CONTEXT:
                inner = frame.f_locals["coroutine"]
        one = inner
    return found


def waits_for(task, other):
    """Whether *task* waits for the end of *other*, itself or in gather()."""
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is other or other in (getattr(waiter, "_children", None) or ())


def awaited(task):
    """The tasks whose end it waits for, itself or in gather(); those are cancelled with it."""
    waiter = getattr(task, "_fut_waiter", None)
    waiters = getattr(waiter, "_children", None) or [waiter]
    return [one for one in waiters if isinstance(one, asyncio.Task) and not one.done()]


def name_of(task):
    coroutine = task.get_coro()
    return f"task {task.get_name()!r} ({getattr(coroutine, '__qualname__', type(coroutine).__qualname__)})"
