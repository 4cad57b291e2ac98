"""Exceptions of tasks whose results nobody asked for.

asyncio tells the loop's exception handler when such a task is freed: with the last reference, mostly as soon as it is done. We add whose it was.
"""

import asyncio
import contextvars
import traceback

from .. import log, tree
from . import Event, emit, fail, is_allowed, source, unawaited, whose

_NEVER = "exception was never retrieved"


def install(loop):
    before = loop.call_exception_handler

    def call_exception_handler(context):
        if not tell(context) or loop.get_exception_handler() is not None:
            before(context)

    loop.call_exception_handler = call_exception_handler


def tell(context):
    """Of call_exception_handler(). True: said."""
    try:
        return _tell(context)
    except Exception as e:
        log.request_failed("guard.lost", e, "exception", False)
        return False


def _tell(context):
    exception, task = context.get("exception"), context.get("task") or context.get("future")
    if exception is None or task is None or _NEVER not in context.get("message", ""):
        return False
    if isinstance(exception, asyncio.CancelledError):  # nothing has failed: asgiref leaves one behind when a client goes in the middle
        return True
    own = tree.context_of(task) or contextvars.copy_context()
    if is_allowed("lost", own):
        return True
    label, its_id = whose(own)
    what, made = "a future", ""
    if hasattr(task, "get_coro"):
        coroutine = task.get_coro()
        what = f"task {task.get_name()!r} ({getattr(coroutine, '__qualname__', type(coroutine).__qualname__)})"
        made = unawaited.made_at(coroutine)[1]
    places = [(frame.f_code, line) for frame, line in traceback.walk_tb(exception.__traceback__)][::-1]
    i = source.guilty(places)
    file, line, function = (places[i][0].co_filename, places[i][1], places[i][0].co_qualname) if i is not None else (None, None, None)
    where = f" at {file}:{line} in {function}" if file else ""
    cure = "await it, use asyncio.TaskGroup, or look at its result in a done callback"
    message = f"{label or 'unknown request'}: {what} ended with {exception!r}{where}{made}, and nobody asked for its result; {cure}"
    event = Event("lost", message, label, its_id, file, line, function, cure=cure, exception=exception)
    unawaited.track_origins()
    fail(event, own)
    emit(event)
    return True
