"""Requests whose client has gone, and tasks that go on although they were cancelled.

A request is cancelled once. Whatever it does then to clean up is left alone; where it takes longer than timeouts.graceful a line says so.
"""

import contextvars
import sys

from .. import log, places, tree
from . import Event, emit, is_allowed, is_news, orphans, request, source, syntax, tasks

FIRST_LOOK = 0.2
LAST_LOOKS = 1.4  # what is found is told within 1.5 s
PATIENCE = 30.0  # where timeouts.graceful has no end

_loop = None
_grace = _patience = None
_names_swallowers = False
# Starlette's BaseHTTPMiddleware waits here for the task that the rest of the application runs in.
_MIDDLEWARE = "/starlette/middleware/base.py"
_WAITS_FOR_THE_REST = {"BaseHTTPMiddleware.__call__.<locals>.call_next", "_StreamingResponse.__call__"}
_ON_THREAD = "run_sync_in_worker_thread"  # AnyIO's, which a cancellation leaves while the thread goes on


def install(loop, grace, patience, names_swallowers):
    """Seconds. grace: from the client's going to the cancellation, or None; patience: for what cleans up."""
    global _loop, _grace, _patience, _names_swallowers
    _loop, _grace, _patience, _names_swallowers = loop, grace, patience or PATIENCE, names_swallowers


def _later(seconds, fn, *args):
    _loop.call_later(seconds, fn, *args, context=contextvars.Context())


def gone(cycle):
    if _grace is not None:
        _later(_grace, _look, cycle)


def _look(cycle):
    task = cycle.task
    if task is None or not cycle.is_left or task.cancelling():
        return
    innermost = _innermost(task)
    if (cycle.lease is not None and cycle.lease.is_busy) or any(map(_is_on_thread, innermost)):
        _later(_grace, _look, cycle)  # a thread cannot be cancelled, and what it works for must stay
    elif not any(is_allowed("disconnect", _context_of(one)) for one in innermost):
        its_id = _context_of(task).get(log.request_id)
        log.debug("%s: cancelled, its client has gone; it was in %s", cycle.label, places.of_task(task), extra={"request_id": its_id})
        cancel(cycle)


def cancel(cycle):
    orphans.doom(cycle)
    for one in _innermost(cycle.task):
        watch(one, cycle.label, _context_of(one).get(log.request_id))
        one.cancel()


def will_be_cancelled(task):
    context = _context_of(task)
    cycle = context.get(request)
    if cycle is not None:
        orphans.doom(cycle)
        watch(task, cycle.label, context.get(log.request_id))


def _context_of(task):
    return tree.context_of(task) or contextvars.Context()


def _is_on_thread(task):
    """Of AnyIO's own (anyio.threads: stock, or a version without leases)."""
    return any(code.co_name == _ON_THREAD for _, code, _ in tasks.suspended(task))


def _innermost(task):
    """AnyIO cancels the tasks of a group again and again until they have ended, which breaks off what they do to clean up. So where a
    middleware's task only waits for the task with the rest of the application, it is the latter that is cancelled."""
    module = sys.modules.get("anyio._backends._asyncio")
    state = module._task_states.get(task) if hasattr(module, "_task_states") else None
    scope = getattr(state, "cancel_scope", None)
    found = []
    if hasattr(scope, "_parent_scope") and any(
        code.co_qualname in _WAITS_FOR_THE_REST and code.co_filename.endswith(_MIDDLEWARE) for _, code, _ in tasks.suspended(task)
    ):
        while scope is not None and scope._host_task is task:
            # Newer versions of AnyIO give each task of a group a scope of its own below the group's.
            for one in {*scope._tasks, *(child._host_task for child in getattr(scope, "_child_scopes", ()))}:
                if one is not task and one is not None and not one.done():
                    found += _innermost(one)
            scope = scope._parent_scope
    return found or [task]


class _Watched:
    def __init__(self, task, label, request_id):
        self.task, self.label, self.request_id = task, label, request_id
        self.before = tasks.suspended(task)
        self.waiter = getattr(task, "_fut_waiter", None)
        self.since = _loop.time()


def watch(task, label, request_id):
    """*task* is about to be cancelled: does it end? Those that it waits for are, too."""
    if not _names_swallowers or _loop is None or is_allowed("swallowed", _context_of(task)):
        return
    _later(FIRST_LOOK, _check, _Watched(task, label, request_id), FIRST_LOOK)
    for one in tasks.awaited(task):
        watch(one, label, request_id)


def _check(watched, waited):
    task = watched.task
    if task.done():
        return
    try:
        if _is_swallowed(watched):
            return
    except Exception as e:
        log.request_failed(watched.label, e, "guard.swallowed: exception", False)
        return
    waited = min(waited * 2, LAST_LOOKS)
    _later(waited, _check, watched, waited)


def _is_swallowed(watched):
    """Whether it need not be looked at any more."""
    task, now = watched.task, tasks.suspended(watched.task)
    seconds = _loop.time() - watched.since
    waits_as_before = watched.waiter is not None and getattr(task, "_fut_waiter", None) is watched.waiter
    if now and not waits_as_before:
        # The innermost frame that is still there is where the exception was caught.
        i = -1
        for before, after in zip(watched.before, now):
            if before[0] is not after[0]:
                break
            i += 1
        _, code, line = now[i] if i >= 0 else (None, None, None)
        if code is not None and source.is_application(code.co_filename):
            file, before = code.co_filename, watched.before[i][2]
            if not syntax.is_cleaning(file, before, line):
                guilty = syntax.swallows(file, before) or line
                _tell(watched, code, guilty, f"swallows CancelledError at {file}:{guilty} in {code.co_qualname} and goes on at line {line}")
                return True
    if seconds < _patience:
        return False
    found = [(code, line) for _, code, line in now][::-1]
    i = source.guilty(found)
    code, line = found[i] if i is not None else (None, None)
    where = f" at {code.co_filename}:{line} in {code.co_qualname}" if code is not None else ""
    _tell(watched, code, line, f"was cancelled {seconds:.0f} s ago and has not ended{where}")
    return True


def _tell(watched, code, line, what):
    cure = "raise CancelledError again once it is cleaned up"
    message = f"{watched.label}: {tasks.name_of(watched.task)} {what}; {cure}"
    file, function = (code.co_filename, code.co_qualname) if code is not None else (None, None)
    event = Event("swallowed", message, watched.label, watched.request_id, file, line, function, cure=cure)
    emit(event, is_news(event))
