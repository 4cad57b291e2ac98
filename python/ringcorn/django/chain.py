"""The two chains of a handler: SyncChain runs a request on a thread, AsyncChain on the loop with trips to the thread where it must.

Both are Django's BaseHandler around the same middleware instances (recognise.py); what differs is how the hooks are called. Everything
that a view may see (request, exceptions, order) is as with Django's own chain.
"""

import asyncio

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.core.handlers import exception
from django.core.handlers.base import BaseHandler
from django.urls import set_urlconf
from django.utils.log import log_response

from . import calm
from .hops import NoThread
from .recognise import NotUnderstood
from .segment import Segment, respond_to
from .urls import Found, is_async

GUESS = "_ringcorn_guess"  # attribute of a request until it is resolved


class AsyncView(BaseException):
    """The view is a coroutine function, which the guess had not said: the request goes on in AsyncChain.go_on().

    Between here and the end of the chain are only frames that let it pass; no except clause of the application is to see it."""


class _Chain(BaseHandler):
    is_async = False

    def __init__(self, layers, trips):
        self._view_middleware, self._template_response_middleware, self._exception_middleware = [], [], []
        self.trips = trips
        # As load_middleware(), from the inside out; the layers are recognised already.
        below = self.innermost
        plain = []  # outermost first
        for layer in reversed(layers):
            if layer.is_plain:
                if layer.instance is None:
                    layer.instance = _make(layer, _nothing_below if layer.can_async else _nothing_below_sync)
                instance = layer.instance
                if instance is not None:
                    plain.insert(0, instance)
            else:
                instance = _make(layer, self._around(plain, below))
                if instance is not None:
                    below = exception.convert_exception_to_response(instance)
                    plain = []
            if instance is not None:
                self._note_hooks(instance)
        self._middleware_chain = self._around(plain, below)

    def _around(self, plain, below):
        segment = self.outermost = Segment(plain, self.trips)
        if self.is_async:

            async def get_response(request):
                return await segment.run_async(request, below)
        else:

            def get_response(request):
                __traceback_hide__ = True
                return segment.run(request, below)

        return get_response

    def _note_hooks(self, instance):
        if hasattr(instance, "process_view"):
            self._view_middleware.insert(0, self._view_hook(instance))
        if hasattr(instance, "process_template_response"):
            self._template_response_middleware.append(self._hook(instance.process_template_response))
        if hasattr(instance, "process_exception"):
            self._exception_middleware.append(self.adapt_method_mode(False, instance.process_exception))

    def resolve_request(self, request):
        """Django's, but for what the guess knows already."""
        guess = request.__dict__.pop(GUESS, None)
        if guess is None or not guess.holds_for(request):
            return super().resolve_request(request)
        request.resolver_match = guess.match
        return guess.match


def _make(layer, below):
    """A new instance, or None where it does not want to be used (Django's own has not been found then)."""
    try:
        return layer.factory(below)
    except MiddlewareNotUsed as e:
        if layer.instance is not None:
            raise NotUnderstood(f"{layer.name} wants to be used once, but not twice") from e
        return None


async def _nothing_below(request):
    raise NotImplementedError("the hooks of this middleware are called without it")


def _nothing_below_sync(request):
    raise NotImplementedError("the hooks of this middleware are called without it")


class SyncChain(_Chain):
    """get_response() on a thread. *hands_over*: raises AsyncView, else an async view is waited for, as under WSGI."""

    def __init__(self, layers, trips, hands_over):
        self.hands_over = hands_over
        super().__init__(layers, trips)

    def _hook(self, method):
        return self.adapt_method_mode(False, method)

    def _view_hook(self, instance):
        return self._hook(instance.process_view)

    def innermost(self, request):
        return self._get_response(request)

    def resolve_request(self, request):
        match = super().resolve_request(request)
        if self.hands_over and is_async(match.func):
            request.__dict__[GUESS] = Found(match)
            raise AsyncView
        return match


class AsyncChain(_Chain):
    """get_response_async() on the loop."""

    is_async = True

    def __init__(self, layers, trips):
        super().__init__(layers, trips)
        self.has_async_template_hooks = any(iscoroutinefunction(method) for method in self._template_response_middleware)

    def _hook(self, method):
        return method

    def _view_hook(self, instance):
        method = instance.process_view
        return method, iscoroutinefunction(method), calm.condition(instance, "process_view")

    async def get_response_async(self, request):
        set_urlconf(settings.ROOT_URLCONF)
        return await self._finish(request, await self._middleware_chain(request))

    async def go_on(self, request):
        """The rest of it, where a SyncChain has raised AsyncView: all the middleware is plain, and process_request() has been called."""
        response = await self.innermost(request)
        return await self._finish(request, await self.outermost.run_outwards_async(request, response, self.outermost.outwards[-1]))

    async def _finish(self, request, response):
        response._resource_closers.append(request.close)
        if response.status_code >= 400 and not getattr(response, "_has_been_logged", False):
            await self.trips().run(_log, request, response)
        return response

    async def innermost(self, request):
        """_get_response_async() inside convert_exception_to_response()."""
        try:
            return await self._respond(request)
        except NoThread:
            raise
        except Exception as e:
            return await self.trips().run(respond_to, request, e)

    async def _respond(self, request):
        view, args, kwargs = self.resolve_request(request)
        response = await self._run_view_hooks(request, view, args, kwargs) if self._view_middleware else None
        if response is None:
            wrapped = self.make_view_atomic(view)
            try:
                if is_async(wrapped) if wrapped is view else iscoroutinefunction(wrapped):
                    response = await wrapped(request, *args, **kwargs)
                else:
                    response = await self.trips().run(_call_view, wrapped, request, args, kwargs)
            except NoThread:
                raise
            except Exception as e:
                if not self._exception_middleware:
                    raise
                response, is_done = await self.trips().run(self._respond_to, request, e)
                if is_done:
                    return response
        self.check_response(response, view)
        if hasattr(response, "render") and callable(response.render):
            response = await self._render(request, response)
        if asyncio.iscoroutine(response):
            raise RuntimeError("Response is still a coroutine.")
        return response

    async def _run_view_hooks(self, request, view, args, kwargs):
        position, hooks = 0, self._view_middleware
        response = None
        while position < len(hooks):
            hook, hook_is_async, may_run_here = hooks[position]
            if hook_is_async:
                response = await hook(request, view, args, kwargs)
            elif may_run_here is calm.ALWAYS or (may_run_here is not None and may_run_here(request, view)):
                response = hook(request, view, args, kwargs)
            else:
                response, position = await self.trips().run(self._run_view_hooks_in_thread, position, request, view, args, kwargs)
            if response:
                break
            position += 1
        return response

    def _run_view_hooks_in_thread(self, position, request, view, args, kwargs):
        """From *position* to the next coroutine function: the last answer, and whose it was."""
        for here in range(position, len(self._view_middleware)):
            hook, hook_is_async, _ = self._view_middleware[here]
            if hook_is_async:
                break
            response, position = hook(request, view, args, kwargs), here
            if response:
                break
        return response, position

    def _respond_to(self, request, e):
        """process_exception(), then what Django makes of an exception that none of them answered: the response, whether it is final."""
        __traceback_hide__ = True
        try:
            raise e
        except Exception:
            try:
                response = self.process_exception_by_middleware(e, request)
            except Exception as another:
                return exception.response_for_exception(request, another), True
            if response is None:
                return exception.response_for_exception(request, e), True
            return response, False

    async def _render(self, request, response):
        if not self.has_async_template_hooks and not iscoroutinefunction(response.render):
            response, is_done = await self.trips().run(self._render_in_thread, request, response)
            return response
        for method in self._template_response_middleware:
            if iscoroutinefunction(method):
                response = await method(request, response)
            else:
                response = await self.trips().run(method, request, response)
            self._check_template_response(response, method)
        try:
            if iscoroutinefunction(response.render):
                response = await response.render()
            else:
                response = await self.trips().run(response.render)
        except NoThread:
            raise
        except Exception as e:
            response, _ = await self.trips().run(self._respond_to, request, e)
        return response

    def _render_in_thread(self, request, response):
        __traceback_hide__ = True
        try:
            for method in self._template_response_middleware:
                response = method(request, response)
                self._check_template_response(response, method)
            try:
                return response.render(), False
            except Exception as e:
                answer = self.process_exception_by_middleware(e, request)
                if answer is None:
                    raise
                return answer, False
        except Exception as e:
            return exception.response_for_exception(request, e), True

    def _check_template_response(self, response, method):
        self.check_response(response, method, name=f"{method.__self__.__class__.__name__}.process_template_response")


def _call_view(view, request, args, kwargs):
    return view(request, *args, **kwargs)


def _log(request, response):
    log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
