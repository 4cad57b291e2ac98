"""request_started and request_finished: whose receivers they have, and where Django's own run."""

import os
import weakref

from django.core import signals
from django.core.cache import caches, close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import reset_urlconf
from django.db import close_old_connections, reset_queries
from django.dispatch import Signal
from django.http.response import HttpResponseBase
from django.urls import base as urls_base
from django.urls import set_urlconf

from ..guard import orm
from . import genuine
from .holders import held_by, open_connections


class Receivers:
    """What is to know about the receivers of a signal; looked up again when they change."""

    __slots__ = ("signal", "own", "seen", "live", "are_own", "have_async")

    def __init__(self, signal, own):
        self.signal = signal
        self.own = own  # Django's
        self.seen = None

    def look(self):
        receivers = self.signal.receivers
        if receivers != self.seen:
            seen = list(receivers)
            # A receiver is the second part of an entry, mostly as a weak reference; from 5.0 on the last says whether it is a coroutine function.
            live = [each[1]() if isinstance(each[1], weakref.ReferenceType) else each[1] for each in seen]
            self.are_own = all(each is None or each in self.own for each in live)
            self.live = [each for each in live if each is not None] if self.are_own else ()  # others are not kept alive
            self.have_async = HAS_ASEND and any(each[-1] for each in seen)
            self.seen = seen  # last: other threads look too
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
    for connection in open_connections():
        connection.queries_log.clear()
        connection.close_if_unusable_or_obsolete()


# --- request_finished, after an answer


def _close_old_connections():
    for connection in open_connections():
        connection.close_if_unusable_or_obsolete()


def _close_caches():
    if held_by(caches._connections) != {}:  # also where that is not known
        caches.close_all()


def _reset_urlconf():
    if held_by(urls_base._urlconfs) != {}:
        set_urlconf(None)


# What Django's receivers do, without a look for what mostly is not there.
_SHORT = {close_old_connections: _close_old_connections, close_caches: _close_caches, reset_urlconf: _reset_urlconf, orm.on_finished: orm.on_finished}

_close, _send, _live_receivers = HttpResponseBase.close, Signal.send, Signal._live_receivers
_is_known = (
    _close.__code__.co_names == ("_resource_closers", "Exception", "clear", "closed", "signals", "request_finished", "send", "_handler_class")
    and genuine.is_genuine(_close, "django.http.response", "HttpResponseBase.close")
    and genuine.replaced(Signal) is None
)  # fmt: skip


def close_response(response):
    """response.close(), which ends with request_finished. Where only Django's own hear of it they need not be called by way of the signal, which
    looks for its receivers each time."""
    if (
        not _is_known or type(response).close is not _close or "close" in vars(response) or not finished.look().are_own
        or Signal.send is not _send or Signal._live_receivers is not _live_receivers or type(signals.request_finished) is not Signal
    ):  # fmt: skip
        response.close()
        return
    for closer in response._resource_closers:
        try:
            closer()
        except Exception:  # as Django
            pass
    response._resource_closers.clear()
    response.closed = True
    for receiver in finished.live:
        _SHORT[receiver]()
