"""Where a task or a thread is: for log lines about requests that do not end, and for who looks at a running server.

All of it is for any thread that has the GIL, also while the loop turns: what is read is read twice, and is absent where it has changed meanwhile.
"""

import gc
import os
import sys
import traceback

PLACES_MAX = 4
FRAMES_MAX = 1000
READS_MAX = 5
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STEPS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
# Awaitables of CPython that do not tell what they drive; the collector knows.
_WRAPPERS = frozenset(("async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"))


def text(code, line):
    return f"{code.co_filename}:{line} {code.co_qualname}"


def _steady(read):
    """What *read*() returns, a list of tuples that begin with a frame and its instruction; empty where it never is the same twice."""
    found = read()
    for _ in range(READS_MAX):
        again = read()
        if len(found) == len(again) and all(a[0] is b[0] and a[1] == b[1] for a, b in zip(found, again)):
            return again
        found = again
    return []


def step(awaitable):
    """(the frame of *awaitable* or None, what it awaits or None)."""
    for frame, inner in _STEPS:
        if hasattr(awaitable, inner):
            return getattr(awaitable, frame), getattr(awaitable, inner)
    if type(awaitable).__name__ in _WRAPPERS:
        inside = gc.get_referents(awaitable)
        return None, next((one for one in inside if any(hasattr(one, inner) for _, inner in _STEPS)), None)
    return None, None


def suspended(awaitable):
    """The frames through which it is suspended, outermost first, as [(frame, line)], and what the last one awaits: None where it runs, or has ended."""

    def read():
        steps, one = [], awaitable
        while one is not None and len(steps) < FRAMES_MAX:
            frame, inner = step(one)
            if frame is not None:
                steps.append((frame, frame.f_lasti, frame.f_lineno, inner))
            elif inner is None:
                break
            one = inner
        return steps

    steps = _steady(read)
    awaited = steps[-1][3] if steps else None
    while awaited is not None and type(awaited).__name__ in _WRAPPERS:
        awaited = step(awaited)[1]
    return [(frame, line) for frame, _, line, _ in steps], awaited


def running(ident):
    """The frames of a thread, outermost first, as [(frame, line)]; empty where it has ended, or runs too fast."""

    def read():
        frames, frame = [], sys._current_frames().get(ident)
        while frame is not None and len(frames) < FRAMES_MAX:
            frames.append((frame, frame.f_lasti, frame.f_lineno))
            frame = frame.f_back
        return frames

    return [(frame, line) for frame, _, line in reversed(_steady(read))]


def of_task(task):
    """What *task* awaits, innermost last: "view (views.py:12), in fetch (client.py:80)"."""
    return _join(suspended(task.get_coro())[0])


def of_thread(ident):
    """Where the thread is, innermost last; "" where it has ended."""
    return _join(running(ident))


def stack_of_thread(ident):
    """Its whole stack as lines of a traceback; "" where it has ended."""
    frame = sys._current_frames().get(ident)
    return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()


def is_own(file):
    return file.startswith(_OWN)


def _join(frames):
    places = [f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{line})" for frame, line in frames if not is_own(frame.f_code.co_filename)]
    return ", in ".join(places[-PLACES_MAX:])
