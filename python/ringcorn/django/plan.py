"""What is known about a handler's project: which of the two chains can serve it, and why not."""

import functools
import threading

from django.core import signals
from django.core.handlers.asgi import ASGIHandler
from django.http import FileResponse

from .. import log
from . import hops, recognise, request
from .chain import AsyncChain, SyncChain
from .recognise import NotUnderstood
from .signals import HAS_ASEND, has_nothing_to_finish


class Plan:
    """Made when the worker starts. *pool* has the variables that leases are kept in; None outside the server.

    A chain with middleware that has to be made anew is built at its first request, on that request's thread."""

    watches = hasattr(ASGIHandler, "listen_for_disconnect")  # for the client's leaving: from 5.0 on

    def __init__(self, handler, pool):
        self.pool = pool
        self.sender = type(handler)  # Django's own class, as long as it is: receivers may have been connected to that alone
        self.why_not_sync = self.why_not_async = None
        self.sync_chain = self.async_chain = None
        self.sync_by_async = False  # sync views go through the async chain
        self._make_request = request.maker(handler)
        self._building = threading.Lock()
        try:
            recognise.check_handler(handler)
            self.layers = recognise.layers(handler)
        except NotUnderstood as e:
            self.why_not_sync = self.why_not_async = str(e)
            return
        is_plain = all(layer.is_plain for layer in self.layers)
        sync_only = next((layer for layer in self.layers if not layer.can_async), None)
        if sync_only is not None:
            self.why_not_async = f"{sync_only.name} is sync-only"
            self.why_not_sync = recognise.why_not_all_sync(self.layers)
        elif not is_plain:
            self.sync_by_async = True
        if all(layer.is_plain and layer.instance is not None for layer in self.layers):
            self.build_sync()
            self.build_async()

    def trips(self):
        return hops.of_request(self.pool.context_vars if self.pool is not None else ())

    # --- the chains. On the thread of a request, or while nothing is served

    def build_sync(self):
        with self._building:
            if self.sync_chain is None and self.why_not_sync is None and not self.sync_by_async:
                try:
                    self.sync_chain = SyncChain(self.layers, self.trips, hands_over=self.why_not_async is None)
                except Exception as e:
                    self.why_not_sync = self._could_not(e)

    def build_async(self):
        with self._building:
            if self.async_chain is None and self.why_not_async is None:
                try:
                    self.async_chain = AsyncChain(self.layers, self.trips)
                except Exception as e:
                    self.why_not_async = self._could_not(e)

    def _could_not(self, e):
        why = str(e) if isinstance(e, NotUnderstood) else f"its middleware cannot be made a second time: {e!r}"
        log.warning("Django: from now on its own path is taken, as %s", why)
        return why

    # --- requests, signals and responses, as Django's handler

    def create_request(self, handler, scope, body):
        """(request, None), or (None, the response that says why not)."""
        made = self._make_request(scope, body)
        return (made, None) if made is not None else handler.create_request(scope, body)

    def adopt(self, response):
        response._handler_class = self.sender
        if isinstance(response, FileResponse):
            response.block_size = ASGIHandler.chunk_size

    async def send_started(self, trips, scope):
        if HAS_ASEND:
            await signals.request_started.asend(sender=self.sender, scope=scope)
        else:
            await trips.run(functools.partial(signals.request_started.send, sender=self.sender, scope=scope))

    async def send_finished(self, trips, outside):
        """For a request that was given up before it had a response."""
        if trips.may_have_used_thread or not has_nothing_to_finish():
            await trips.run(functools.partial(signals.request_finished.send, sender=self.sender), context=outside, is_last=True)
