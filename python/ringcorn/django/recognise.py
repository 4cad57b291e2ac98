"""What a project is made of: its handlers, and the layers of middleware around its views.

Django builds the chain of middleware from closures. It is read back here, from the outside in, so that the instances that Django has
made are the ones that go on working, for sync and for async views alike: middleware with state has it once.
"""

import inspect
import sys
import types

from asgiref.sync import AsyncToSync, SyncToAsync, iscoroutinefunction
from django.conf import settings
from django.core.handlers import exception
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string

from .. import freezing
from . import genuine

# What the chains and the way of a request are written against.
_NEEDED = (
    (ASGIHandler, {"__call__", "handle", "read_body", "create_request", "send_response", "chunk_bytes"}),
    (BaseHandler, {
        "load_middleware", "adapt_method_mode", "get_response", "get_response_async", "_get_response", "_get_response_async", "resolve_request",
        "check_response", "make_view_atomic", "process_exception_by_middleware",
    }),
    (MiddlewareMixin, {"__init__", "__call__", "__acall__"}),
)  # fmt: skip


class NotUnderstood(Exception):
    """Why Django's own path is taken: text for the operator."""


class Layer:
    """One middleware of the chain.

    A *plain* one is a MiddlewareMixin with no __call__() of its own: its hooks are all there is to it, so they can be called without it.
    Of any other a new instance is needed for each way of calling what is below it."""

    __slots__ = ("factory", "instance", "is_plain", "can_sync", "can_async", "name")

    def __init__(self, name, factory, instance):
        self.name = name
        self.factory = factory
        self.instance = instance  # Django's own; None where it was not found
        self.can_sync = getattr(factory, "sync_capable", True)
        self.can_async = getattr(factory, "async_capable", False)
        self.is_plain = _is_plain(factory)


def find_handlers():
    """Every ASGIHandler of the process, whatever is wrapped around it. A subclass is another's business."""
    return freezing.find(lambda cls: cls is ASGIHandler)


def check_django():
    """Raises NotUnderstood where something has been put in the place of a part of Django."""
    for cls, names in _NEEDED:
        if missing := names - vars(cls).keys():
            raise NotUnderstood(f"this version of Django has no {cls.__name__}.{sorted(missing)[0]}")
        if why := genuine.replaced(cls):
            raise NotUnderstood(why)
    if not genuine.is_genuine(exception.convert_exception_to_response, exception.__name__, "convert_exception_to_response"):
        raise NotUnderstood("convert_exception_to_response has been replaced")


def check_handler(handler):
    """Raises NotUnderstood where a handler has methods of its own."""
    for name in {*vars(BaseHandler), *vars(ASGIHandler)} - {"__init__", "__call__"}:
        method = vars(ASGIHandler).get(name, vars(BaseHandler).get(name))
        if callable(getattr(method, "__func__", method)) and not isinstance(method, type):
            if name in vars(handler) or (isinstance(handler, ASGIHandler) and inspect.getattr_static(type(handler), name) is not method):
                raise NotUnderstood(f"{name}() of the handler has been replaced")
    if handler._middleware_chain is None:
        raise NotUnderstood("the handler has no middleware loaded")


def layers(handler):
    """The middleware of a handler, outermost first. Raises NotUnderstood where it is not what settings.MIDDLEWARE says."""
    found, is_whole = _walk(handler)
    result = []
    for path in settings.MIDDLEWARE:
        factory = import_string(path)
        if isinstance(factory, type):
            fits = bool(found) and type(found[0]) is factory
        else:  # a function that makes functions: what it made shows no trace of it
            fits = bool(found) and isinstance(found[0], types.FunctionType)
        if fits:
            result.append(Layer(path, factory, found.pop(0)))
        elif not is_whole and not found:
            result.append(Layer(path, factory, None))
        # else it raised MiddlewareNotUsed
    if found:
        raise NotUnderstood("the chain of middleware is not the one of settings.MIDDLEWARE")
    return result


def why_not_all_sync(layers):
    """Why not to call every layer in its sync form, where Django, for a sync-only layer among them, does so with some; or None."""
    is_async = True
    for layer in reversed(layers):  # as load_middleware() decides
        is_async = layer.can_async if is_async or not layer.can_sync else False
        if not layer.can_sync:
            return f"{layer.name} is async-only, beside others that are sync-only"
        if is_async and not layer.is_plain and _differs(layer.factory):
            return f"{layer.name} does not look at the same header when it is called in its sync form"
    return None


def _differs(factory):
    """RemoteUserMiddleware of Django 5.2 takes REMOTE_USER from the environ in its sync form, and from a header in its async form."""
    middleware = sys.modules.get("django.contrib.auth.middleware")
    return middleware is not None and isinstance(factory, type) and issubclass(factory, middleware.RemoteUserMiddleware)


def _walk(handler):
    """The instances in a handler's chain, outermost first, and whether the innermost was reached."""
    found = []
    below = handler._middleware_chain
    while below is not None:
        if isinstance(below, SyncToAsync):
            below = below.func
        elif isinstance(below, AsyncToSync):
            below = below.awaitable
        elif isinstance(below, types.FunctionType) and below.__code__.co_qualname == "convert_exception_to_response.<locals>.inner":
            middleware = below.__wrapped__
            if isinstance(middleware, types.MethodType) and middleware.__func__ in (BaseHandler._get_response, BaseHandler._get_response_async):
                return found, True
            found.append(middleware)
            below = _what_is_below(middleware)
        elif not found:
            raise NotUnderstood("something is wrapped around the chain of middleware")
        else:
            return found, False
    return found, False


def _what_is_below(middleware):
    """What a middleware was given as get_response, where it keeps it under that name; or None."""
    below = getattr(middleware, "get_response", None)
    if below is None and isinstance(middleware, types.FunctionType):
        cells = dict(zip(middleware.__code__.co_freevars, middleware.__closure__ or ()))
        if "get_response" in cells:
            below = cells["get_response"].cell_contents
    return below


def _is_plain(cls):
    return (
        isinstance(cls, type)
        and issubclass(cls, MiddlewareMixin)
        and cls.__call__ is MiddlewareMixin.__call__
        and cls.__acall__ is MiddlewareMixin.__acall__
        # Django sends these to a thread, where a coroutine function is an error.
        and not any(iscoroutinefunction(getattr(cls, name, None)) for name in ("process_request", "process_response"))
    )
