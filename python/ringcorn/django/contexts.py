"""Context variables, where Django serves a request in a task of its own (5.0 to 6.0): what a view sets ends with the view.

A task only for that would be the dearest part of the way.
"""

import types

from django.core.handlers.asgi import ASGIHandler
from django.dispatch import Signal, dispatcher

from .hops import MOVES, restore

# handle() has a function process_request() that it makes a task of.
ARE_APART = any(isinstance(one, types.CodeType) and one.co_name == "process_request" for one in ASGIHandler.handle.__code__.co_consts)
# Up to 6.0 asend() calls receivers in tasks, the sync ones and the others at once: what they set is seen by nobody.
RECEIVERS_ARE_APART = hasattr(Signal, "asend") and not hasattr(dispatcher, "_run_parallel")


class _InContext:
    """Awaits a coroutine, in the present task, each step of it inside another context."""

    __slots__ = ("context", "coroutine")

    def __init__(self, context, coroutine):
        self.context = context
        self.coroutine = coroutine

    def __await__(self):
        run, coroutine = self.context.run, self.coroutine
        step, value = coroutine.send, None
        while True:
            try:
                waits_for = run(step, value)
            except StopIteration as e:
                return e.value
            try:
                step, value = coroutine.send, (yield waits_for)
            except GeneratorExit:
                run(coroutine.close)
                raise
            except BaseException as e:
                step, value = coroutine.throw, e


def await_apart(context, coroutine):
    """*coroutine*, which sees the variables of *context*; what it sets is not seen after it. Nothing else may be in *context* meanwhile.

    Where Django has no such task it sees them too, and leaves everything where it is."""
    if not ARE_APART:
        restore(context)
        return coroutine
    if MOVES:
        context.run(restore, context)
    return _InContext(context, coroutine)
