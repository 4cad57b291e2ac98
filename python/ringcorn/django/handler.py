"""Django's ASGI handler, served by what the URL leads to.

A handler that Django has made becomes one of these by its __class__ (__init__.py), so whoever wraps it keeps it, and it remains an ASGIHandler.
"""

import functools

from asgiref.sync import ThreadSensitiveContext
from django.core.handlers.asgi import ASGIHandler

from . import async_view, direct, sync_view, urls
from .hops import Asgiref
from .plan import Plan


class Handler(ASGIHandler):
    _plan = None
    teach = None  # the server's teach(scope, is_sync): which requests may go to direct.run() at once

    async def __call__(self, scope, receive, send):
        plan = self._plan
        if plan is None:
            plan = self._plan = Plan(self, None)
        if scope["type"] == "http":
            guess = urls.guess(scope)
            trips = plan.trips()
            is_async = guess.is_async or plan.sync_by_async
            chain = plan.async_chain if is_async else plan.sync_chain
            if chain is None and (plan.why_not_async if is_async else plan.why_not_sync) is None:
                await trips.run(plan.build_async if is_async else plan.build_sync)
                chain = plan.async_chain if is_async else plan.sync_chain
            if chain is not None:
                serve = async_view.serve if is_async else sync_view.serve
                if type(trips) is Asgiref:
                    async with ThreadSensitiveContext():
                        await serve(self, plan, guess, scope, receive, send, trips)
                else:
                    await serve(self, plan, guess, scope, receive, send, trips)
                return
        await ASGIHandler.__call__(self._as_django_made_it(), scope, receive, send)

    def _as_django_made_it(self):
        """The same object in Django's own class, which is the sender of its signals."""
        if type(self) is not Handler:
            return self
        twin = object.__new__(ASGIHandler)
        twin.__dict__ = self.__dict__
        return twin

    def go_direct(self, loop, pool, worker, tracing):
        """Before the first request: those to sync views are to reach their threads without the loop (direct.py). *tracing*: otel.py's, or None."""
        plan = self._plan
        if plan.pool is pool and pool.context_vars and plan.why_not_sync is None and not plan.sync_by_async:
            run = functools.partial(direct.run, self, plan, loop)
            if tracing is not None:
                run = tracing.direct(run, direct.NOT_MINE)
            self.teach = worker.direct(pool, run, direct.NOT_MINE)
