"""Asynchronous generators that are left open, and ResourceWarnings.

A generator that is dropped before its end is closed by the event loop: later, in a task of its own, outside of the request and its context.
That matters where something is left to do at the `yield` where it stands, and it is told of where the application drops one of its own.
"""

import contextvars
import sys
import warnings

from .. import log
from . import Event, collector, emit, is_allowed, is_news, source, syntax, whose

_show = None
_shows_others = True  # warnings of no request, as without us


def install(loop, shows_warnings):
    """shows_warnings: of requests, also where Python would ignore them."""
    global _show, _shows_others
    before = loop._asyncgen_finalizer_hook

    def finalizer(generator):
        try:
            _left_open(generator)
        except Exception as e:
            log.request_failed("guard.unclosed", e, "exception", False)
        before(generator)

    loop._asyncgen_finalizer_hook = finalizer
    collector.watch()
    if _show is None:
        _show, warnings.showwarning = warnings.showwarning, _showwarning
    if shows_warnings and not (sys.flags.dev_mode or sys.warnoptions):
        _shows_others = False
        warnings.simplefilter("default", ResourceWarning)


def _left_open(generator):
    frame = generator.ag_frame
    if frame is None or collector.is_at_work() or is_allowed("unclosed"):
        return
    code, line = frame.f_code, frame.f_lineno
    dropped = source.maker(sys._getframe(2))
    if dropped is None or not source.is_application(code.co_filename) or not syntax.has_cleanup(code.co_filename, line):
        return
    label, its_id = whose(contextvars.copy_context())
    by, at = dropped
    cure = f"use async with contextlib.aclosing({code.co_name}(...))"
    message = (
        f"{label or 'no request'}: asynchronous generator {code.co_qualname} was left open at {by.co_filename}:{at} in {by.co_qualname}; it stands at "
        f"{code.co_filename}:{line}, and what it has to clean up there is done later, in another task; {cure}"
    )
    event = Event("unclosed", message, label, its_id, by.co_filename, at, by.co_qualname, cure=cure)
    emit(event, is_news(event))


def _showwarning(message, category, filename, lineno, file=None, line=None):
    if issubclass(category, ResourceWarning) and file is None and not collector.is_at_work() and not is_allowed("unclosed"):
        label, its_id = whose(contextvars.copy_context())
        if label is not None:
            cure = "close it, or use with"
            event = Event("unclosed", f"{label}: {message} at {filename}:{lineno}; {cure}", label, its_id, filename, lineno, None, cure=cure)
            emit(event, is_news(event))
            return
        if not _shows_others:
            return
    _show(message, category, filename, lineno, file, line)
