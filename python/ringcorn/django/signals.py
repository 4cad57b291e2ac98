"""request_started and request_finished: whose receivers they have, and where Django's own run."""

import os
import weakref

from django.core import signals
from django.core.cache import caches, close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import reset_urlconf
from django.db import close_old_connections, connections, reset_queries

from ..guard import orm


class Receivers:
    """What is to know about the receivers of a signal; looked up again when they change."""

    __slots__ = ("signal", "own", "seen", "are_own", "have_async")

    def __init__(self, signal, own):
        self.signal = signal
        self.own = own  # Django's
        self.seen = None

    def look(self):
        receivers = self.signal.receivers
        if receivers != self.seen:
            self.seen = list(receivers)
            # A receiver is the second part of an entry, mostly as a weak reference; from 5.0 on the last says whether it is a coroutine function.
            live = [each[1]() if isinstance(each[1], weakref.ReferenceType) else each[1] for each in self.seen]
            self.are_own = all(each is None or each in self.own for each in live)
            self.have_async = HAS_ASEND and any(each[-1] for each in self.seen)
        return self


_ALLOWS_UNSAFE = bool(os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"))
HAS_ASEND = hasattr(signals.request_started, "asend")
started = Receivers(signals.request_started, (reset_queries, close_old_connections))
finished = Receivers(signals.request_finished, (close_old_connections, reset_urlconf, close_caches, orm.on_finished))


def has_nothing_to_finish():
    """Whether request_finished would find nothing to do, so that it need not be sent. For a request without synchronous code, in its context.

    Without it the loop has no open database connection: Django lets nobody open one there."""
    if not finished.look().are_own or _ALLOWS_UNSAFE:
        return False
    for cache in caches.all(initialized_only=True):
        if type(cache).close is not BaseCache.close:
            return False
    return True


def move_start():
    """Takes Django's own receivers off request_started. Returns what does their work; it belongs on a request's thread, before its first job.

    A request that runs no synchronous code then needs no trip to a thread, and so no database connection, to begin."""
    moved = [receiver for receiver in (reset_queries, close_old_connections) if signals.request_started.disconnect(receiver)]
    if len(moved) == 2:
        return _begin
    return moved[0] if moved else None  # the project has disconnected the other


def _begin():
    """Both in one pass."""
    for connection in connections.all(initialized_only=True):
        connection.queries_log.clear()
        connection.close_if_unusable_or_obsolete()
