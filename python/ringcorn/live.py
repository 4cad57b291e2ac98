"""What this worker tells of itself when ringcornctl asks: its threads and its tasks, as JSON.

Called by server/worker/answer.c on a thread of its own, with the GIL, also while the loop stands. So nothing here waits, and what is read may
change between two lines: a frame that has gone on meanwhile shows where it is, not where it was.
"""

import asyncio
import json
import sys
import threading

FRAMES_MAX = 100
TASKS_MAX = 10_000

_loop = None
_pools = ()
_services = None


def attach(loop, *pools, services=None):
    """loop: that serves, or None; pools: its _ringcorn.Pools; services: services.Services."""
    global _loop, _pools, _services
    _loop, _pools, _services = loop, pools, services


def pools():
    return _pools


def loop():
    return _loop


def _dump(value):
    # Lone surrogates of file names would be no UTF-8.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")


def _line(frame):
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} {getattr(code, 'co_qualname', code.co_name)}"


def _stack(frame):
    """Innermost first."""
    lines = []
    while frame is not None and len(lines) < FRAMES_MAX:
        lines.append(_line(frame))
        frame = frame.f_back
    return lines


def threads():
    """Every thread that Python knows: its name, what it is for, the request it belongs to, its stack."""
    leases = {ident: (label, state) for pool in _pools for ident, label, state in pool.leases()}
    known = {thread.ident: thread for thread in threading.enumerate()}
    me = threading.get_ident()
    found = []
    for ident, frame in sys._current_frames().items():
        if ident == me:
            continue
        thread = known.get(ident)
        label, state = leases.get(ident, (None, None))
        found.append(
            {
                "name": thread.name if thread is not None else None,
                "thread": ident,
                "tid": thread.native_id if thread is not None else None,
                "daemon": thread.daemon if thread is not None else None,
                "loop": thread is threading.main_thread(),
                "request": label,
                "state": state,
                "stack": _stack(frame),
            }
        )
    found.sort(key=lambda t: (not t["loop"], t["name"] or ""))
    return _dump(found)


def services():
    """Those that this worker runs, or has run."""
    return _dump([] if _services is None else _services.tell())


def _awaited(coroutine):
    """The frames through which it is suspended, outermost first, and what it waits for in the end."""
    lines = []
    while coroutine is not None and len(lines) < FRAMES_MAX:
        for prefix, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(coroutine, f"{prefix}_frame", None)
            if frame is not None:
                lines.append(_line(frame))
                coroutine = getattr(coroutine, inner)
                break
        else:
            return lines, coroutine
    return lines, coroutine


def _request(task):
    """Of the request in whose context the task runs. Before 3.12 a task does not tell its context."""
    get_context = getattr(task, "get_context", None)
    if get_context is None:
        return None
    context = get_context()
    for pool in _pools:
        for var in pool.context_vars:
            lease = context.get(var)
            if lease is not None:
                return lease.label
    return None


def tasks():
    """Every task of the loop: whose it is, and where it waits."""
    if _loop is None:
        return "[]"
    current = asyncio.current_task(_loop)
    found = []
    for task in list(asyncio.all_tasks(_loop))[:TASKS_MAX]:
        coroutine = task.get_coro()
        stack, waits_for = _awaited(coroutine)
        found.append(
            {
                "name": task.get_name(),
                "coroutine": getattr(coroutine, "__qualname__", type(coroutine).__qualname__),
                "state": "running" if task is current else "waiting" if waits_for is not None else "ready",
                "request": _request(task),
                "waits_for": None if waits_for is None else type(waits_for).__qualname__,
                "stack": stack,
            }
        )
    found.sort(key=lambda t: t["name"])
    return _dump(found)


def blocks():
    """What has blocked the loop."""
    from .guard import blocks

    return _dump(blocks.table())
