"""FastAPI's two hops to a thread made one: a ``def`` endpoint, and the validation of what it returns.

FastAPI sends a ``def`` endpoint to a thread, takes its result back to the loop, and sends it to a thread again, for the validation against
the response model. Nothing happens in between that a request could see. Here the thread that has run the endpoint validates at once, and when
FastAPI comes to ask for it, the answer lies ready.

FastAPI asks by a function that it has imported, ``fastapi.routing.run_in_threadpool``; ours stands there in its place. Which field a route validates
against is learned from its first request, which goes the stock way. All is as stock for the caller: the thread is the request's own
either way (anyio_threads.py), contexts, exceptions and the order of things are the same. Each answer is given only where FastAPI asks for just
what was done: this result, this field. All else goes the stock way: FastAPI built in another manner, pydantic 1, requests whose steps are recorded
one by one (``FastAPI(telemetry=...)``).

Where nothing but the endpoint goes to a thread, which is learned from the first requests of a route, its thread is said to be free after it
(``Lease.last_of``), and goes from one request's endpoint to the next one's without a trip to the loop. The request keeps its thread to its
end, as ever, where the endpoint raises, leaves background tasks or a connection behind; a route of whose requests one calls for a thread
again is never taken for such again.
"""

import sys
from contextvars import ContextVar, copy_context

_ROUTES_MAX = 10_000  # learned fields; beyond, all are learned anew: an application that makes routes as it goes
_VARIES = "varies"  # instead of a field
_VALIDATE = {"loc": ("response",)}  # what FastAPI gives to ModelField.validate()
_ALONE_MIN = 8  # requests of a route in a row whose endpoint was all that went to a thread
_WATCHED_MAX = 64  # requests of a route that are watched for that


class _Route:
    """What is known of the endpoint with this dependant. On the loop's thread, but for is_last."""

    __slots__ = ("dependant", "field", "is_last", "alone", "watched", "lease")

    def __init__(self, dependant):
        self.dependant = dependant  # kept, so that its id stays its own
        self.field = None  # what its results are validated against
        self.is_last = None if not _takes_tasks(dependant) else False  # None: not known yet. On any thread
        self.alone = self.watched = 0
        self.lease = None  # of the request that is watched

    def watch(self, lease):
        if (seen := self.lease) is not None:
            if not seen.is_closed:
                return
            self.watched += 1
            self.alone = self.alone + 1 if seen.calls == 1 else 0
            if self.alone == _ALONE_MIN or self.watched == _WATCHED_MAX:
                self.is_last = self.alone == _ALONE_MIN
                self.lease = None
                return
        self.lease = lease if not lease.calls else None


def _takes_tasks(dependant):
    return bool(getattr(dependant, "background_tasks_param_name", None)) or any(map(_takes_tasks, getattr(dependant, "dependencies", ())))


class _Early:
    """What the thread of one request has brought along for FastAPI to ask for."""

    __slots__ = ("route", "result", "field", "checked", "error")

    def __init__(self, route, result, field=None, checked=None, error=None):
        self.route = route
        self.result = result
        self.field = field  # None: nothing was validated, its field is not known
        self.checked = checked
        self.error = error


def _both(func, args, kwargs, route, field, response_class, lease):
    """On the thread: the endpoint, then the validation, which sees no change that the endpoint made to context variables."""
    context = copy_context()
    result = func(*args, **kwargs)
    if isinstance(result, response_class):
        _look(route, lease, result)
        return result, None
    try:
        early = _Early(route, result, field, context.run(field.validate, result, {}, **_VALIDATE))
    except BaseException as e:
        lease.keep()  # an exception handler may go to the thread again
        early = _Early(route, result, field, error=e)
    _look(route, lease, None)
    return result, early


def _alone(func, args, kwargs, route, response_class, lease):
    """On the thread: the endpoint, which is likely to be all that goes there."""
    result = func(*args, **kwargs)
    _look(route, lease, result if isinstance(result, response_class) else None)
    return result


def _look(route, lease, response):
    """Has the endpoint left something behind for its thread? response: what it has answered itself, or None."""
    is_more = response is not None and (response.background is not None or getattr(response, "body", None) is None)  # a stream's pieces, a file's
    if is_more or lease.at_end is not None:
        route.is_last = False
        lease.keep()


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
    routes = {}  # id of a route's dependant -> _Route
    early_var = ContextVar("ringcorn_fastapi_early", default=None)

    async def run_endpoint(dependant, func, args, kwargs, lease):
        route = routes.get(id(dependant))
        if route is None:
            if len(routes) >= _ROUTES_MAX:
                routes.clear()
            route = routes[id(dependant)] = _Route(dependant)
        is_last, field = route.is_last, route.field
        if is_last:
            lease.last_of = route
        elif is_last is None:
            route.watch(lease)
        if field is not None and field is not _VARIES:
            result, early = await stock(_both, func, args, kwargs, route, field, response_class, lease)
        else:
            result = await (stock(_alone, func, args, kwargs, route, response_class, lease) if is_last else stock(func, *args, **kwargs))
            early = None if isinstance(result, response_class) else _Early(route, result)
        early_var.set(early)
        return result

    def learn(early, func, args, kwargs):
        """FastAPI validates after all."""
        if func.__name__ != "validate" or args[1:] != ({},) or kwargs != _VALIDATE:
            return
        route = early.route
        if early.field is not None:
            route.field = _VARIES
        elif route.field is None:
            route.field = func.__self__

    async def run_in_threadpool(func, *args, **kwargs):
        # The frame below a coroutine that begins is the one that awaits it.
        caller = sys._getframe(1)
        code = caller.f_code
        dependant = caller.f_locals["dependant"] if code is endpoint_code else None
        del caller
        if dependant is not None and (lease := lease_of(None)) is not None and recorded() is None:
            return await run_endpoint(dependant, func, args, kwargs, lease)
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
