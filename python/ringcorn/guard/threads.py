"""Requests that find no thread: who waits, for how long, and who has the threads.

The pools of the server call us while somebody waits (server/sync/turn.c). AnyIO's own limiter of threads is looked at once a second where it is that
which bounds them: with anyio.threads: stock, and where AnyIO was not understood.
"""

import asyncio
import collections
import contextvars
import functools
import time

from .. import live, tree
from . import Event, emit, whose

NAMED_MAX = 8
_IDLE = "Thread.run ("  # of threading.py: no code of anybody's
LOOK_SECONDS = 1.0
REST_SECONDS = 10.0  # between two lines about AnyIO; of the pools the C side sees to that

_CURES = {
    "ringcorn-sync": "more sync.threads, if they wait for something and the database has the connections; fewer or shorter calls, if they compute",
    "ringcorn-executor": "more sync.executor_threads, or fewer calls of to_thread() and run_in_executor() at once",
}
_KEYS = {"ringcorn-sync": "sync.threads", "ringcorn-executor": "sync.executor_threads"}


def watch(seconds):
    """From now on, on the loop that serves."""
    for pool in live.pools():
        pool.wait_alarm = seconds
        pool.on_wait = functools.partial(_short, pool)


def _routes(waiting):
    """"GET /a x 12, GET /b": the most frequent first."""
    counts = collections.Counter(label or "a call without a name" for label, _ in waiting)
    words = [label if n == 1 else f"{label} x {n}" for label, n in counts.most_common(NAMED_MAX)]
    return ", ".join(words) + (f", and {len(counts) - NAMED_MAX} more" if len(counts) > NAMED_MAX else "")


def _tell(request, n, longest, routes, what, holders, cure):
    held = "; ".join(holders[:NAMED_MAX]) + (f"; and {len(holders) - NAMED_MAX} more" if len(holders) > NAMED_MAX else "")
    message = f"{request}: {n} wait for a thread, {longest:.1f} s at most ({routes}); {what} are held by: {held or 'nobody'}; {cure}"
    emit(Event("threads", message, request, None, None, None, None, longest, cure))


def _short(pool):
    waiting, having = pool.stand()
    if not waiting:
        return
    label, longest = max(waiting, key=lambda one: one[1])
    holders = [
        f"{who or 'a call without a name'} ({seconds:.1f} s, {'between two calls' if where.startswith(_IDLE) else where})"
        for who, seconds, where in sorted(having, key=lambda one: -one[1])
    ]
    key = _KEYS.get(pool.name, pool.name)
    what = f"the {pool.threads} of {key}"
    _tell(label or "a call without a name", len(waiting), longest, _routes(waiting), what, holders, _CURES.get(pool.name, f"more {key}"))


# --- AnyIO's limiter


def watch_limiter(limiter, seconds):
    """AnyIO keeps its own threads, and this is what bounds them. On the loop's thread."""
    live.loop().call_later(LOOK_SECONDS, _Limiter(limiter, seconds).look, context=contextvars.Context())


class _Limiter:
    def __init__(self, limiter, seconds):
        self.limiter = limiter
        self.seconds = seconds
        self.since = None  # when it was first seen to be exhausted
        self.said_at = float("-inf")

    def look(self):
        loop = live.loop()
        if loop is None or loop.is_closed():
            return
        loop.call_later(LOOK_SECONDS, self.look, context=contextvars.Context())
        now, found = time.monotonic(), self.limiter.statistics()
        if not found.tasks_waiting:
            self.since = None
        elif self.since is None:
            self.since = now
        elif now - self.since >= self.seconds and now - self.said_at >= REST_SECONDS:
            self.said_at = now
            self._tell(found, now - self.since)

    def _tell(self, found, longest):
        # Those that wait are known to nobody else.
        waiting = [(_label(task), longest) for task in getattr(self.limiter, "_wait_queue", ())] or [(None, longest)] * found.tasks_waiting
        holders = [_label(task) or "a task without a request" for task in found.borrowers]
        cure = _CURES["ringcorn-sync"].replace("sync.threads", "tokens (sync.threads)")
        _tell(waiting[0][0] or "a task without a request", len(waiting), longest, _routes(waiting), f"the {found.total_tokens} threads of AnyIO", holders, cure)


def _label(task):
    context = tree.context_of(task) if isinstance(task, asyncio.Task) else None
    return whose(context, task)[0] if context is not None else None
