"""One request to a synchronous view: all of it on one thread, from request_started to request_finished.

What calls it: sync_view.py, which brings it from the loop and takes its answer back.
"""

from contextvars import copy_context

from django.core import signals
from django.http import FileResponse

from .. import log
from . import answer, contexts, urls
from .chain import GUESS, AsyncView
from .signals import close_response


class Job:
    """Made on the loop; run() and close() on the request's thread, in the same context."""

    __slots__ = (
        "handler", "plan", "scope", "body", "guess", "request", "response", "status", "headers", "content", "inside", "view_is_async",
        "is_started",
    )  # fmt: skip

    def __init__(self, handler, plan, scope, body, guess):
        self.handler = handler
        self.plan = plan
        self.scope = scope
        self.body = body
        self.guess = guess
        self.request = self.response = self.content = self.headers = self.inside = None
        self.view_is_async = False
        self.is_started = False  # request_started has been sent

    def run(self):
        """To the response, or to the view where that turns out to be a coroutine function."""
        plan, scope = self.plan, self.scope
        urls.enter(urls.script_prefix(scope))
        if signals.request_started.receivers and not self.is_started:
            if contexts.RECEIVERS_ARE_APART:
                copy_context().run(signals.request_started.send, sender=plan.sender, scope=scope)
            else:
                signals.request_started.send(sender=plan.sender, scope=scope)
        request, response = plan.create_request(self.handler, scope, self.body)
        self.request = request
        self.inside = copy_context()
        if request is not None:
            request.__dict__[GUESS] = self.guess
            try:
                if contexts.ARE_APART:
                    response = self.inside.run(plan.sync_chain.get_response, request)
                else:
                    response = plan.sync_chain.get_response(request)
            except AsyncView:
                self.view_is_async = True
                return
            finally:
                if not contexts.ARE_APART:
                    self.inside = copy_context()
            plan.adopt(response)
        else:
            self.body.close()
        self.response = response
        self.status = response.status_code
        self.headers = answer.head(response)
        if not response.streaming:
            self.content = response.content

    def close(self):
        """After the answer, or after it was given up. Also where run() was not called or has failed."""
        try:
            if self.response is not None:
                close_response(self.response)
        finally:
            self.body.close()

    def close_unattended(self):
        """close() where nobody waits for it: its errors are said here."""
        try:
            self.close()
        except Exception as e:
            log.request_failed(f"{self.scope['method']} {self.scope['path']}", e, "exception after the response", False)
