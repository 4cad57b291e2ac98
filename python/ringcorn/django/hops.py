"""A trip from the loop to the request's thread and back.

Every trip takes the context variables along and brings back what was set there, as asgiref's sync_to_async() does; it costs a quarter
of that. Where the request has no lease of its own, or its thread is busy (it may be waiting for us in async_to_sync()), the trip is asgiref's.
"""

import asyncio
import os
from contextvars import copy_context

from asgiref import sync as asgiref_sync
from asgiref.sync import SyncToAsync, sync_to_async

try:
    from _ringcorn import Lease, QueueFull, QueueTimeout

    NoThread = (QueueFull, QueueTimeout)
except ImportError:  # Django outside the server, in tests
    Lease = NoThread = ()

restore = asgiref_sync._restore_context  # of what another context has, into the current one
# From 3.13 on what asgiref.local.Local holds belongs to a thread: it must be told that it has moved.
MOVES = hasattr(asgiref_sync, "_rehome")
_Storage = getattr(asgiref_sync, "_Storage", None)
_thread = SyncToAsync.threadlocal


def enter_thread(loop, context, inner_tasks):
    """First thing in a job, inside *context*: async_to_sync() in it finds *loop*, and leaves its task in *inner_tasks*."""
    _thread.main_event_loop = loop
    _thread.main_event_loop_pid = os.getpid()
    _thread.task_context = inner_tasks
    if MOVES:  # as restore(), which looks at every variable twice: inside *context* there is nothing else to bring
        for variable, value in context.items():
            if type(value) is _Storage:
                variable.set(asgiref_sync._rehome(value))


def _job(loop, context, inner_tasks, fn, args):
    enter_thread(loop, context, inner_tasks)
    return fn(*args)


class Leased:
    """Trips to the thread that a lease ties to the request."""

    __slots__ = ("lease", "loop")

    def __init__(self, lease, loop):
        self.lease = lease
        self.loop = loop

    @property
    def may_have_used_thread(self):
        """Whether synchronous code of the request may have run, and so may have left a connection there."""
        return self.lease.was_used

    def _submit(self, is_last):
        """*is_last*: what follows the answer. A request that has lost its slot does not wait for another, as it might for too long: no
        client comes again for that."""
        return self.lease.submit_apart if is_last and not self.lease.has_slot else self.lease.submit

    async def run(self, fn, *args, context=None, is_last=False):
        """fn(*args) on the thread. *context*: run in this one, and leave its variables where they are."""
        inside = copy_context() if context is None else context
        inner_tasks = []
        try:
            result = await self._submit(is_last)(inside.run, _job, self.loop, inside, inner_tasks, fn, args)
        except asyncio.CancelledError:
            for task in inner_tasks:  # what async_to_sync() waits for in the thread
                task.cancel()
            raise
        finally:
            if context is None:
                restore(inside)
        return result

    def start(self, context, fn, *args, is_last=False):
        """As run(), without waiting: a future."""
        return self._submit(is_last)(context.run, _job, self.loop, context, [], fn, args)


def _inside(context, fn, args):
    if MOVES:
        restore(context)
    return fn(*args)


class Asgiref:
    """Trips by asgiref, wherever it goes: outside a server, inside async_to_sync()."""

    __slots__ = ("loop",)
    may_have_used_thread = True

    def __init__(self, loop):
        self.loop = loop

    async def run(self, fn, *args, context=None, is_last=False):
        if context is not None:
            return await sync_to_async(context.run, thread_sensitive=True)(_inside, context, fn, args)
        return await sync_to_async(fn, thread_sensitive=True)(*args)

    def start(self, context, fn, *args, is_last=False):
        return self.loop.create_task(self.run(fn, *args, context=context), context=copy_context())


def of_request(variables):
    """The trips of the request that the current context belongs to. *variables*: where its lease is kept (Pool.context_vars)."""
    loop = asyncio.get_running_loop()
    for variable in variables:
        lease = variable.get(None)
        if isinstance(lease, Lease) and not lease.is_busy:
            return Leased(lease, loop)
    return Asgiref(loop)
