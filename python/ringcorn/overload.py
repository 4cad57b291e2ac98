"""What the log says when requests find no thread (sync.queue of them wait already, or one has waited for sync.queue_timeout), and when
they take longer than timeouts.request."""

import time

import _ringcorn

from . import drivers, log, places

SECONDS = 1.0  # at most one line in that time: under overload there are thousands to be told of
HOLDERS_MAX = 8

_unsaid = 0
_said_at = float("-inf")


def is_refusal(exception):
    """Whether *exception* is a refused call's, or was made of it."""
    seen = set()
    while exception is not None and id(exception) not in seen:
        if isinstance(exception, BaseExceptionGroup):  # of a task group: nothing else must be in it
            return all(map(is_refusal, exception.exceptions))
        seen.add(id(exception))
        if isinstance(exception, (_ringcorn.QueueFull, _ringcorn.QueueTimeout)):
            return True
        exception = exception.__cause__ or exception.__context__
    return False


def refused(label, pool, exception=None, is_answer=True):
    """A request got no thread of *pool*. Called on the loop's thread, by the C side, once a request; says it, and who has the threads.
    *is_answer*: the client is told so; else it has an answer, or a part of one, as the application went on without.

    Returns whether *exception*, with which the request ended, says no more than that."""
    global _unsaid, _said_at
    now = time.monotonic()
    _unsaid += 1
    if now - _said_at >= SECONDS:
        holders = pool.holders()
        log.failed(
            "%s: no thread was free%s%s; %d of %d threads run%s",
            label,
            ", the answer is 503" if is_answer else "",
            f" (as for {_unsaid - 1} requests before)" if _unsaid > 1 else "",
            len(holders),
            pool.threads,
            "".join(f"; {who or 'unknown'}: {where}" for who, where in holders[:HOLDERS_MAX]),
        )
        _unsaid, _said_at = 0, now
    return is_refusal(exception)


def overdue(label, seconds, status, task, pool, timeout):
    """The request took longer than *timeout*, the name of what bounds it, and its *task* is about to be cancelled. *status*: what the client was
    told; 0: its answer had begun, and the connection was closed. Called by the C side."""
    where = places.of_task(task)
    ident = next((ident for ident, who, _ in pool.leases() if who == label), None)
    inside = places.of_thread(ident) if ident is not None else ""
    _say_overdue(label, seconds, status, where + (f"; its thread: {inside}" if inside else ""), "it is cancelled", timeout, ident)


def overdue_thread(label, seconds, status, ident, timeout):
    """The same of a request on thread *ident*."""
    _say_overdue(label, seconds, status, places.of_thread(ident), "its thread goes on", timeout, ident)


def _say_overdue(label, seconds, status, where, what, timeout, ident):
    told = f"the answer is {status}" if status else "its connection was closed"
    log.warning(
        "%s: no whole answer after %.1f s (%s), %s and %s; it was in %s%s", label, seconds, timeout, told, what, where or "its end", _query_of(label, ident)
    )  # fmt: skip


def _query_of(label, ident):
    """What thread *ident*, or else one that works for *label*, waits for in a database: its age, and the statement without parameters."""
    found = drivers.running(ident) if ident is not None else ()
    found = found or [one for one in drivers.running() if one[0] == label][:1]
    return "".join(f"; its query runs for {seconds:.1f} s: {text}" for _, seconds, text in found)
