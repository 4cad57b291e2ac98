"""The two chains of a handler: SyncChain runs a request on a thread, AsyncChain on the loop with trips to the thread where it must.

Both are Django's BaseHandler around the same middleware instances (recognise.py); what differs is how the hooks are called. Everything
that a view may see (request, exceptions, order) is as with Django's own chain.

    all plain               sync views: SyncChain      async views: AsyncChain
    some call get_response() by themselves, either way:  AsyncChain for both, in the mode that Django uses them in; what is below the
                            innermost of them is one trip for a sync view
    one is sync-only        sync views: SyncChain      async views: Django's own way
"""

import asyncio

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.core.handlers import exception
from django.core.handlers.base import BaseHandler
from django.urls import set_urlconf
from django.utils.log import log_response

from . import calm, urls
from .hops import NoThread
from .recognise import NotUnderstood
from .segment import Segment, respond_to
from .urls import Found, is_async

GUESS = "_ringcorn_guess"  # attribute of a request until it is resolved
_ASYNC_VIEW = object()
# What BaseHandler.get_response() works with.
_GET_RESPONSE = (
    "set_urlconf", "settings", "ROOT_URLCONF", "_middleware_chain", "_resource_closers", "append", "close", "status_code", "log_response",
    "reason_phrase", "path",
)  # fmt: skip


class AsyncView(BaseException):
    """The view is a coroutine function, which the guess had not said: the request goes on in AsyncChain.go_on().

    Between here and the end of the chain are only frames that let it pass; no except clause of the application is to see it."""


class _End(BaseHandler):
    """The view and the hooks that are not around, but beside it: what _get_response() needs. On a thread.

    *hands_over*: raises AsyncView where the view is a coroutine function, else that is waited for, as under WSGI."""

    def __init__(self, hands_over):
        self.hands_over = hands_over
        self._view_middleware, self._template_response_middleware, self._exception_middleware = [], [], []

    def note_hooks(self, instance):
        """As load_middleware(): called from the inside out."""
        if hasattr(instance, "process_view"):
            self._view_middleware.insert(0, self._view_hook(instance))
        if hasattr(instance, "process_template_response"):
            self._template_response_middleware.append(self._template_hook(instance.process_template_response))
        if hasattr(instance, "process_exception"):
            self._exception_middleware.append(self.adapt_method_mode(False, instance.process_exception))

    def _view_hook(self, instance):
        return self.adapt_method_mode(False, instance.process_view)

    def _template_hook(self, method):
        return self.adapt_method_mode(False, method)

    def resolve_request(self, request):
        """Django's, but for what the guess knows already."""
        guess = request.__dict__.pop(GUESS, None)
        if guess is None or not guess.holds_for(request):
            match = super().resolve_request(request)
        else:
            match = request.resolver_match = guess.match
        if (scope := getattr(request, "scope", None)) is not None:  # Django's test client makes requests without one
            scope["route"], scope["endpoint"] = match.route, match.func  # for the metrics (server/asgi/route.c)
        if self.hands_over and is_async(match.func):
            request.__dict__[GUESS] = Found(match)
            raise AsyncView
        return match


def _instances(layers):
    """From the inside out: (layer, its instance), for plain ones; (layer, None) for others, of which each chain makes its own."""
    for layer in reversed(layers):
        if layer.is_plain:
            if layer.instance is None:
                layer.instance = _make(layer, _nothing_below if layer.can_async else _nothing_below_sync)
            if layer.instance is not None:
                yield layer, layer.instance
        else:
            yield layer, None


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


class SyncChain(_End):
    """get_response() on a thread."""

    def __init__(self, layers, trips, hands_over):
        super().__init__(hands_over)
        below, plain = self._get_response, []  # outermost first
        for layer, instance in _instances(layers):
            if instance is not None:
                plain.insert(0, instance)
            else:
                instance = _make(layer, _sync_segment(Segment(plain, trips), below))
                if instance is None:
                    continue
                below, plain = exception.convert_exception_to_response(instance), []
            self.note_hooks(instance)
        self._middleware_chain = _sync_segment(Segment(plain, trips), below)

    if BaseHandler.get_response.__code__.co_names == _GET_RESPONSE:

        def get_response(self, request):
            """Django's own, with a shorter way to set_urlconf()."""
            urls.use_default()
            response = self._middleware_chain(request)
            response._resource_closers.append(request.close)
            if response.status_code >= 400:
                _log(request, response)
            return response


def _sync_segment(segment, below):
    def get_response(request):
        __traceback_hide__ = True
        return segment.run(request, below)

    return get_response


def _async_segment(segment, below):
    async def get_response(request):
        return await segment.run_async(request, below)

    return get_response


class AsyncChain(_End):
    """get_response_async() on the loop."""

    def __init__(self, layers, trips):
        super().__init__(hands_over=False)
        self.trips = trips
        self.end = _End(hands_over=True)
        below, plain = None, []  # outermost first
        for layer, instance in _instances(layers):
            if instance is not None:
                plain.insert(0, instance)
            else:
                instance = _make(layer, self._segment(plain, below))
                if instance is None:
                    continue
                below, plain = exception.convert_exception_to_response(instance), []
            self.note_hooks(instance)
            self.end.note_hooks(instance)
        self._middleware_chain = self._segment(plain, below)
        self.has_async_template_hooks = any(iscoroutinefunction(method) for method in self._template_response_middleware)

    def _segment(self, plain, below):
        segment = Segment(plain, self.trips)
        if below is not None:
            return _async_segment(segment, below)
        self.innermost = segment
        return self._run_innermost

    def _view_hook(self, instance):
        method = instance.process_view
        return method, iscoroutinefunction(method), calm.condition(instance, "process_view")

    def _template_hook(self, method):
        return method

    # --- the innermost middleware and the view

    async def _run_innermost(self, request):
        guess = request.__dict__.get(GUESS)
        if guess is None or guess.is_async:
            return await self.innermost.run_async(request, self._respond)
        response = await self.trips().run(self._run_innermost_in_thread, request)
        return await self._respond_and_run_outwards(request) if response is _ASYNC_VIEW else response

    def _run_innermost_in_thread(self, request):
        try:
            return self.innermost.run(request, self.end._get_response)
        except AsyncView:
            return _ASYNC_VIEW

    async def _respond_and_run_outwards(self, request):
        return await self.innermost.run_outwards_async(request, await self._respond(request), self.innermost.outwards[-1])

    async def get_response_async(self, request):
        set_urlconf(settings.ROOT_URLCONF)
        return await self._finish(request, await self._middleware_chain(request))

    async def go_on(self, request):
        """The rest of it, where a SyncChain has raised AsyncView: all the middleware is plain, and process_request() has been called."""
        return await self._finish(request, await self._respond_and_run_outwards(request))

    async def _finish(self, request, response):
        response._resource_closers.append(request.close)
        if response.status_code >= 400 and not getattr(response, "_has_been_logged", False):
            await self.trips().run(_log, request, response)
        return response

    async def _respond(self, request):
        """_get_response_async() inside convert_exception_to_response()."""
        try:
            return await self._call_view(request)
        except NoThread:
            raise
        except Exception as e:
            return await self.trips().run(respond_to, request, e)

    async def _call_view(self, request):
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
