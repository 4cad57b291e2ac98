"""What the log says when requests find no thread: sync.queue of them wait already, or one has waited for sync.queue_timeout."""

import time

import _ringcorn

from . import log

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
