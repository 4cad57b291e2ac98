"""Consecutive plain middleware (recognise.Layer), run as one: their process_request() in order, what is below, process_response() in reverse.

What MiddlewareMixin and convert_exception_to_response do in two frames per middleware is one loop here, which makes it possible to do all
of it in one trip to a thread, or, where the middleware is known not to block (calm.py), none.

    an exception of a hook          becomes a response, which passes the hooks of the middleware further out
    a response of process_request   passes process_response of its own middleware and of those further out
"""

from django.core.handlers import exception

from . import calm
from .calm import ALWAYS


class Segment:
    """Immutable; used by all threads at once. *trips*: a function that returns the current request's (hops.py)."""

    def __init__(self, instances, trips):
        self.trips = trips
        self.last = len(instances) - 1
        # (layer, hook, condition)
        self.inwards = [
            (layer, one.process_request, calm.condition(one, "process_request"))
            for layer, one in enumerate(instances) if hasattr(one, "process_request")
        ]  # fmt: skip
        outwards = [
            (layer, one.process_response, calm.condition(one, "process_response"))
            for layer, one in enumerate(instances) if hasattr(one, "process_response")
        ]  # fmt: skip
        outwards.reverse()
        # Of each layer, the one outside of all first: where its way out begins.
        self.outwards = [[each for each in outwards if each[0] <= layer] for layer in range(-1, len(instances))]

    # --- on a thread

    def run(self, request, below):
        """The whole of it, around *below*, a function that may raise."""
        __traceback_hide__ = True  # Django's debug page leaves the frame out
        entry = self.last
        response = None
        for layer, hook, _ in self.inwards:
            try:
                response = hook(request)
            except Exception as e:
                response = exception.response_for_exception(request, e)
                entry = layer - 1
                break
            if response:
                entry = layer
                break
        else:
            try:
                response = below(request)
            except Exception as e:
                response = exception.response_for_exception(request, e)
        return self.run_outwards(request, response, self.outwards[entry + 1])

    def run_inwards(self, request, position):
        """The hooks from *position* on: (None, False), or what they answer after its way out, and True."""
        __traceback_hide__ = True
        for layer, hook, _ in self.inwards[position:]:
            try:
                response = hook(request)
            except Exception as e:
                response = exception.response_for_exception(request, e)
                return self.run_outwards(request, response, self.outwards[layer]), True
            if response:
                return self.run_outwards(request, response, self.outwards[layer + 1]), True
        return None, False

    def run_outwards(self, request, response, hooks):
        __traceback_hide__ = True
        for _, hook, _ in hooks:
            try:
                response = hook(request, response)
            except Exception as e:
                response = exception.response_for_exception(request, e)
        return response

    def _after_exception(self, request, e, hooks):
        """What an exception that was raised on the loop becomes, after its way out."""
        return self.run_outwards(request, respond_to(request, e), hooks)

    # --- on the loop

    async def run_async(self, request, below):
        """The whole of it, around *below*, a coroutine function that does not raise."""
        for position, (layer, hook, may_run_here) in enumerate(self.inwards):
            if may_run_here is not ALWAYS and (may_run_here is None or not may_run_here(request)):
                response, is_done = await self.trips().run(self.run_inwards, request, position)
                if is_done:
                    return response
                break
            try:
                response = hook(request)
            except Exception as e:
                return await self.trips().run(self._after_exception, request, e, self.outwards[layer])
            if response:
                return await self.run_outwards_async(request, response, self.outwards[layer + 1])
        return await self.run_outwards_async(request, await below(request), self.outwards[-1])

    async def run_outwards_async(self, request, response, hooks):
        for position, (_, hook, may_run_here) in enumerate(hooks):
            if may_run_here is not ALWAYS and (may_run_here is None or not may_run_here(request, response)):
                return await self.trips().run(self.run_outwards, request, response, hooks[position:])
            try:
                response = hook(request, response)
            except Exception as e:
                return await self.trips().run(self._after_exception, request, e, hooks[position + 1 :])
        return response


def respond_to(request, e):
    """response_for_exception() for an exception that was caught elsewhere: it looks at sys.exc_info()."""
    __traceback_hide__ = True
    try:
        raise e
    except Exception:
        return exception.response_for_exception(request, e)
