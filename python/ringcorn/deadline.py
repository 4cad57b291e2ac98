"""How long a request may take, said where its view is: ringcorn.timeout(seconds), as a decorator of views and endpoints.

It is a timeouts.request of its own: from the request's head to its answer's end; then the client gets 504, the task is cancelled, and what the
request's threads run in a database.
"""

import functools
import inspect
import math
import threading
import types

_worker = _loop = None


def attach(worker, loop):
    global _worker, _loop
    _worker, _loop = worker, loop


def limit(milliseconds):
    """The request that the current code belongs to has so long from its head on; 0: as long as it likes. Outside of a request, and of the server,
    nothing happens."""
    if _worker is None or _worker.limit(milliseconds):
        return
    from . import guard
    from .guard.databases import current_lease

    lease = current_lease()
    cycle = (lease.request if lease is not None else None) or guard.cycle()
    if cycle is None:
        return
    if threading.get_ident() == _loop._thread_id:
        cycle.limit(milliseconds)
    elif not _loop.is_closed():
        _loop.call_soon_threadsafe(cycle.limit, milliseconds)


def _milliseconds(seconds):
    if seconds is None:
        return 0
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e9 or math.isnan(seconds):
        raise ValueError(f"timeout() takes seconds, or None for no limit, not {seconds!r}")
    return max(1, round(seconds * 1000))


def timeout(seconds):
    milliseconds = _milliseconds(seconds)

    def decorate(fn):
        if isinstance(fn, type):
            raise TypeError(
                f"{fn.__qualname__} is a class; decorate its dispatch(): @method_decorator(ringcorn.timeout({seconds!r}), name='dispatch')"
            )
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn.__qualname__} is a generator, which is no view")
        limit_ = limit
        if inspect.iscoroutinefunction(fn):

            async def view(*args, **kwargs):
                limit_(milliseconds)
                return await fn(*args, **kwargs)

        else:

            def view(*args, **kwargs):
                limit_(milliseconds)
                return fn(*args, **kwargs)

        # In the namespace of the view's module: frameworks look up there what its annotations name.
        namespace = getattr(inspect.unwrap(fn), "__globals__", globals())
        return functools.wraps(fn)(types.FunctionType(view.__code__, namespace, view.__name__, None, view.__closure__))

    return decorate
