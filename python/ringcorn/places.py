"""Where a task or a thread is: for log lines about requests that do not end."""

import os
import sys
import traceback

PLACES_MAX = 4
_OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep


def of_task(task):
    """What *task* awaits, innermost last: "view (views.py:12), in fetch (client.py:80)"."""
    awaited, places = task.get_coro(), []
    while awaited is not None:
        for kind, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if hasattr(awaited, inner):
                if (frame := getattr(awaited, kind + "_frame")) is not None:
                    places.append(_describe(frame.f_code, frame.f_lineno))
                awaited = getattr(awaited, inner)
                break
        else:
            break
    return _join(places)


def of_thread(ident):
    """Where the thread is, innermost last; "" where it has ended."""
    frame = sys._current_frames().get(ident)
    places = [] if frame is None else [_describe(f.f_code, line) for f, line in traceback.walk_stack(frame)]
    return _join(places[::-1])


def stack_of_thread(ident):
    """Its whole stack as lines of a traceback; "" where it has ended."""
    frame = sys._current_frames().get(ident)
    return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()


def _describe(code, line):
    return None if code.co_filename.startswith(_OWN) else f"{code.co_qualname} ({code.co_filename}:{line})"


def _join(places):
    return ", in ".join([place for place in places if place is not None][-PLACES_MAX:])
