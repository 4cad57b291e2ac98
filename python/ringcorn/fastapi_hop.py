"""FastAPI's two hops to a thread made one: a ``def`` endpoint, and the validation of what it returns.

FastAPI sends a ``def`` endpoint to a thread, takes its result back to the loop, and sends it to a thread again, for the validation against
the response model. Nothing happens in between that a request could see. Here the thread that has run the endpoint validates at once, and when
FastAPI comes to ask for it, the answer lies ready.

FastAPI asks by a function that it has imported, ``fastapi.routing.run_in_threadpool``; ours stands there in its place. Which field a route validates
against is learned from its first request, which goes the stock way. All is as stock for the caller: the thread is the request's own
either way (anyio_threads.py), contexts, exceptions and the order of things are the same. Each answer is given only where FastAPI asks for just
what was done: this result, this field. All else goes the stock way: FastAPI built in another manner, pydantic 1, requests whose steps are recorded
one by one (``FastAPI(telemetry=...)``).
"""

import sys
from contextvars import ContextVar, copy_context

_ROUTES_MAX = 10_000  # learned fields; beyond, all are learned anew: an application that makes routes as it goes
_VALIDATE = {"loc": ("response",)}  # what FastAPI gives to ModelField.validate()
_UNKNOWN = None, None


class _Early:
    """What the thread of one request has brought along for FastAPI to ask for."""

    __slots__ = ("dependant", "result", "field", "checked", "error")

    def __init__(self, dependant, result, field=None, checked=None, error=None):
        self.dependant = dependant
        self.result = result
        self.field = field  # None: nothing was validated, its field is not known
        self.checked = checked
        self.error = error


def _both(func, args, kwargs, dependant, field, response_class):
    """On the thread: the endpoint, then the validation, which sees no change that the endpoint made to context variables."""
    context = copy_context()
    result = func(*args, **kwargs)
    if isinstance(result, response_class):
        return result, None
    try:
        return result, _Early(dependant, result, field, context.run(field.validate, result, {}, **_VALIDATE))
    except BaseException as e:
        return result, _Early(dependant, result, field, error=e)


def install(lease_of):
    """Once fastapi.routing has been imported. lease_of(None): the lease of the request that runs, or None. On the loop's thread."""
    routing = sys.modules["fastapi.routing"]
    try:
        stock, response_class = routing.run_in_threadpool, routing.Response
        endpoint_code, serialize_code = routing.run_endpoint_function.__code__, routing.serialize_response.__code__
    except AttributeError:
        return
    if "dependant" not in endpoint_code.co_varnames:
        return
    recorded = getattr(routing, "get_telemetry_data", lambda: None)
    fields = {}  # id of a route's dependant -> (dependant, field), field None: it varies
    early_var = ContextVar("ringcorn_fastapi_early", default=None)

    async def run_endpoint(dependant, func, args, kwargs):
        _, field = fields.get(id(dependant), _UNKNOWN)
        if field is None:
            result = await stock(func, *args, **kwargs)
            early = None if isinstance(result, response_class) else _Early(dependant, result)
        else:
            result, early = await stock(_both, func, args, kwargs, dependant, field, response_class)
        early_var.set(early)
        return result

    def learn(early, func, args, kwargs):
        """FastAPI validates after all."""
        if func.__name__ != "validate" or args[1:] != ({},) or kwargs != _VALIDATE:
            return
        dependant = early.dependant
        if early.field is not None:
            fields[id(dependant)] = dependant, None
        elif id(dependant) not in fields:
            if len(fields) >= _ROUTES_MAX:
                fields.clear()
            fields[id(dependant)] = dependant, func.__self__

    async def run_in_threadpool(func, *args, **kwargs):
        # The frame below a coroutine that begins is the one that awaits it.
        caller = sys._getframe(1)
        code = caller.f_code
        dependant = caller.f_locals["dependant"] if code is endpoint_code else None
        del caller
        if dependant is not None and lease_of(None) is not None and recorded() is None:
            return await run_endpoint(dependant, func, args, kwargs)
        if code is serialize_code and (early := early_var.get()) is not None:
            early_var.set(None)
            if args and early.result is args[0]:
                if early.field is None or early.field is not getattr(func, "__self__", None):
                    learn(early, func, args, kwargs)
                elif early.error is None:
                    return early.checked
                else:
                    try:
                        raise early.error
                    finally:
                        early = None
        return await stock(func, *args, **kwargs)

    routing.run_in_threadpool = run_in_threadpool
