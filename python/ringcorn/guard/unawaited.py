"""Coroutines that die without having been awaited: work that was never done.

CPython tells warnings._warn_unawaited_coroutine(); we stand in for it, so that one line tells of it. Where coroutines are made is known from
the second on: after the first, CPython notes it for a minute.
"""

import asyncio
import contextlib
import contextvars
import sys
import warnings

from .. import log
from . import Event, collector, emit, fail, is_allowed, source, whose

ORIGIN_SECONDS = 60.0
ORIGIN_DEPTH = 8

_loop = None
_before = None
_is_tracking = False


def install(loop):
    global _loop, _before
    _loop = loop
    if _before is None:
        _before = warnings._warn_unawaited_coroutine
        warnings._warn_unawaited_coroutine = _unawaited
        collector.watch()


def track_origins():
    """For a minute, coroutines that are made on the loop's thread know where."""
    global _is_tracking
    try:
        if _is_tracking or asyncio.get_running_loop() is not _loop or sys.get_coroutine_origin_tracking_depth() != 0:
            return
    except RuntimeError:  # another thread
        return
    _is_tracking = True
    sys.set_coroutine_origin_tracking_depth(ORIGIN_DEPTH)
    _loop.call_later(ORIGIN_SECONDS, _track_no_more, context=contextvars.Context())


def _track_no_more():
    global _is_tracking
    _is_tracking = False
    if sys.get_coroutine_origin_tracking_depth() == ORIGIN_DEPTH:
        sys.set_coroutine_origin_tracking_depth(0)


def made_at(coroutine):
    """", made at file:line in function", by the innermost line of the application; "" where nobody has noted it."""
    places = getattr(coroutine, "cr_origin", None) or ()
    i = source.guilty(places, lambda place: place[0])
    return (None, "") if i is None else (places[i], f", made at {places[i][0]}:{places[i][1]} in {places[i][2]}")


def _unawaited(coroutine):
    # What the collector finds is nobody's: not of the request that happens to run.
    if not collector.is_at_work() and is_allowed("unawaited"):
        _before(coroutine)
        return
    try:
        _tell(coroutine)
    except Exception as e:  # in a finalizer
        log.request_failed("guard.unawaited", e, "exception", False)
        _before(coroutine)


def _tell(coroutine):
    code = coroutine.cr_code
    task, context = None, contextvars.Context()
    if not collector.is_at_work():
        context = contextvars.copy_context()
        with contextlib.suppress(RuntimeError):
            task = asyncio.current_task()
    label, its_id = whose(context, task)
    place, made = made_at(coroutine)
    owner = label or (f"task {task.get_name()!r}" if task is not None else "unknown request")
    cure = f"write await {coroutine.__qualname__}(...), or asyncio.create_task()"
    message = (
        f"{owner}: coroutine {coroutine.__qualname__} was never awaited, so it never ran; it is defined at "
        f"{code.co_filename}:{code.co_firstlineno}{made}; {cure}"
    )
    file, line = (place[0], place[1]) if place else (code.co_filename, code.co_firstlineno)
    event = Event("unawaited", message, label, its_id, file, line, coroutine.__qualname__, cure=cure)
    track_origins()
    fail(event, context)
    emit(event)
