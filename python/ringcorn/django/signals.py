"""request_started and request_finished: whose receivers they have, and where Django's own run."""

import os
import weakref
from typing import NamedTuple

from django.core import signals
from django.core.cache import caches, close_caches
from django.core.cache.backends.base import BaseCache
from django.core.handlers.base import reset_urlconf
from django.db import close_old_connections, reset_queries
from django.dispatch import Signal
from django.dispatch.dispatcher import NONE_ID
from django.http.response import HttpResponseBase
from django.urls import base as urls_base
from django.urls import set_urlconf

from ..guard import orm
from . import genuine
from .holders import held_by, open_connections


class Seen(NamedTuple):
    receivers: list
    are_own: bool  # all are Django's, or ours
    live: tuple  # then: they
    have_async: bool


class Receivers:
    """What is to know about the receivers of a signal; looked up again when they change."""

    __slots__ = ("signal", "own", "last")

    def __init__(self, signal, own):
        self.signal = signal
        self.own = own  # Django's
        self.last = Seen([], True, (), False)

    def look(self):
        """A Seen, which stays as it is: other threads look too."""
        last, receivers = self.last, self.signal.receivers
        if receivers != last.receivers:
            seen = list(receivers)
            # A receiver is the second part of an entry, mostly as a weak reference; from 5.0 on the last says whether it is a coroutine function.
            live = [each[1]() if isinstance(each[1], weakref.ReferenceType) else each[1] for each in seen]
            # The first part is (its id, its sender's): one that hears some senders alone is for the signal to ask.
            are_own = all(each is None or each in self.own for each in live) and all(each[0][1] == NONE_ID for each in seen)
            live = tuple(each for each in live if each is not None) if are_own else ()  # others are not kept alive
            self.last = last = Seen(seen, are_own, live, HAS_ASEND and any(each[-1] for each in seen))
        return last


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


def _has_short_close(response):
    cls = type(response)
    return issubclass(cls, HttpResponseBase) and cls.close is _close and "close" not in vars(response)


def _tells(signal):
    """Whether it would call its receivers in the stock way."""
    return (
        signal is finished.signal and type(signal) is Signal and Signal.send is _send and Signal._live_receivers is _live_receivers
        and "send" not in vars(signal) and "_live_receivers" not in vars(signal)
    )  # fmt: skip


def close_response(response):
    """response.close(), which ends with request_finished. Where only Django's own hear of it they need not be called by way of the signal, which
    looks for its receivers each time."""
    if not _is_known or not _has_short_close(response):
        response.close()
        return
    for closer in response._resource_closers:
        try:
            closer()
        except Exception:  # as Django
            pass
    response._resource_closers.clear()
    response.closed = True
    seen = finished.look()  # after the closers, which may have connected one
    if not seen.are_own or not _tells(signals.request_finished):
        signals.request_finished.send(sender=response._handler_class)
        return
    for receiver in seen.live:
        _SHORT[receiver]()
