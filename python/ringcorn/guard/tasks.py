"""What a task tells of itself."""

import asyncio

FRAMES_MAX = 100
_KINDS = (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await"))
# ringcorn.django's: it takes the steps of another coroutine, so that it awaits nothing by itself.
_IN_CONTEXT = "_InContext.__await__"


def suspended(task):
    """Where it waits: [(coroutine, code, line)], outermost first. Empty: it runs, has not begun, or has ended."""
    one, places = task.get_coro(), []
    while one is not None and len(places) < FRAMES_MAX:
        for prefix, inner in _KINDS:
            if hasattr(one, inner):
                break
        else:
            break
        frame = getattr(one, f"{prefix}_frame")
        if frame is None:
            break
        places.append((one, frame.f_code, frame.f_lineno))
        one = frame.f_locals["coroutine"] if frame.f_code.co_qualname == _IN_CONTEXT else getattr(one, inner)
    return places


def awaited(task):
    """The tasks whose end it waits for, itself or in gather(); those are cancelled with it."""
    waiter = getattr(task, "_fut_waiter", None)
    waiters = getattr(waiter, "_children", None) or [waiter]
    return [one for one in waiters if isinstance(one, asyncio.Task) and not one.done()]


def name_of(task):
    coroutine = task.get_coro()
    return f"task {task.get_name()!r} ({getattr(coroutine, '__qualname__', type(coroutine).__qualname__)})"
