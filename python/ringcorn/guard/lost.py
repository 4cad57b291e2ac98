"""Exceptions of tasks whose results nobody asked for, and of callbacks.

asyncio tells the loop's exception handler when such a task is freed: with the last reference, mostly as soon as it is done. We add whose it was.
"""

import asyncio
import contextvars
import traceback

from .. import log, tree
from . import Event, emit, fail, is_allowed, orphans, source, tasks, unawaited, whose

_NEVER = "exception was never retrieved"
_CALLBACK = "Exception in callback"

is_on = False


def install(loop):
    global is_on
    is_on = True
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
    exception, message = context.get("exception"), context.get("message", "")
    task, handle = context.get("task") or context.get("future"), context.get("handle")
    if exception is None:
        return False
    if task is not None and _NEVER in message:
        tell_of(task, exception)
        return True
    if handle is not None and message.startswith(_CALLBACK):
        _say(f"{message[len('Exception in ') :]} raised", exception, handle.get_context() if hasattr(handle, "get_context") else handle._context)
        return True
    return False


def tell_of(task, exception):
    """The exception of a task or a future that nobody asks for any more."""
    # Nothing has failed: asgiref leaves a CancelledError behind when a client goes in the middle. The loop tells of the others, which leave it.
    if isinstance(exception, (asyncio.CancelledError, SystemExit, KeyboardInterrupt)):
        return
    what, made = "a future", ""
    if hasattr(task, "get_coro"):
        what = tasks.name_of(task)
        made = orphans.made_at(task) or unawaited.made_at(task.get_coro())[1]
    cure = "await it, use asyncio.TaskGroup, or look at its result in a done callback"
    _say(f"{what} ended with", exception, tree.context_of(task), f"{made}, and nobody asked for its result", cure)


def _say(what, exception, context, more="", cure=None):
    own = context or contextvars.copy_context()
    if is_allowed("lost", own):
        return
    label, its_id = whose(own)
    places = [(frame.f_code, line) for frame, line in traceback.walk_tb(exception.__traceback__)][::-1]
    i = source.guilty(places)
    file, line, function = (places[i][0].co_filename, places[i][1], places[i][0].co_qualname) if i is not None else (None, None, None)
    where = f" at {file}:{line} in {function}" if file else ""
    message = f"{label or 'unknown request'}: {what} {exception!r}{where}{more}{f'; {cure}' if cure else ''}"
    event = Event("lost", message, label, its_id, file, line, function, cure=cure, exception=exception)
    unawaited.track_origins()
    fail(event, own)
    emit(event)
