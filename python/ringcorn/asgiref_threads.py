"""asgiref's thread-sensitive calls (``sync_to_async``, so all of Django's and Channels') run on the thread that their request has leased.

asgiref asks a context variable for an object, and a map for the executor that belongs to it; without an entry it makes a new thread for
each request. Here the variable holds the request's lease, which is an executor, and the map says so. Both are attributes of
``SyncToAsync`` that are as they are since 3.8; a self-test says at start whether they still do what they did. Where it fails,
``ThreadSensitiveContext(executor=...)`` of 3.13 does nearly the same (tasks that outlive their request cannot call it any more).

asgiref is never imported for its own sake: where the application has not done so by the time it starts, all this happens when it does.
"""

import asyncio
import contextvars
import os
import sys
import threading
import weakref

import _ringcorn

from . import hooks, log
from .imports import when_imported

_MODULE = "asgiref.sync"
LEAST = (3, 8)  # before, create_task() below async_to_sync() can hang, with any server
TEST_SECONDS = 5.0

# Types whose objects are executors by themselves, and what the context variable holds.
own_executors = {_ringcorn.Lease}


async def install(app, loop, pool):
    """Leads asgiref to *pool*, now or when it is imported. Returns the application to serve. Called with the loop running."""
    if _MODULE in sys.modules:
        return await _Adapter(loop, pool).install(app)
    when_imported(_MODULE, loop, lambda: _Adapter(loop, pool).install(None), "ringcorn-asgiref")
    return app


class _Executors(weakref.WeakKeyDictionary):
    """SyncToAsync.context_to_thread_executor, in which a lease maps to itself."""

    def __init__(self, adapter, stock):
        super().__init__(stock)
        self.adapter = adapter

    def __contains__(self, key):
        return type(key) in own_executors or weakref.WeakKeyDictionary.__contains__(self, key)

    def __getitem__(self, key):
        if type(key) not in own_executors:
            return weakref.WeakKeyDictionary.__getitem__(self, key)
        return key if asyncio.get_running_loop() is self.adapter.loop else _FromElsewhere(key, self.adapter.init_thread)


class _FromElsewhere:
    """A lease for calls from a loop of the application's own (asyncio.run() in a thread): asgiref notes that loop on the thread that
    it calls, and does not take it back."""

    def __init__(self, lease, init_thread):
        self.lease = lease
        self.init_thread = init_thread

    def submit(self, fn, /, *args):
        def call():
            try:
                return fn(*args)
            finally:
                self.init_thread()

        return self.lease.submit(call)


class _Failed(Exception):
    """The self-test: what was not as it should be."""


class _Adapter:
    def __init__(self, loop, pool):
        import asgiref
        from asgiref import sync

        self.loop = loop
        self.pool = pool
        self.version = asgiref.__version__
        self.sync = sync
        self.pid = os.getpid()

    async def install(self, app):
        """Returns the application to serve; None stands for one that is being served already."""
        if tuple(int(n) for n in self.version.split(".")[:2] if n.isdigit()) < LEAST:
            log.warning(
                "asgiref %s makes a thread and a database connection for each request: from 3.8 on its calls run on sync.threads; upgrade it",
                self.version,
            )
            return app
        try:
            self._set_attributes()
            await self._test(self.sync.SyncToAsync.thread_sensitive_context)
        except Exception as e:
            self._restore_attributes()
            return await self._fall_back(app, e)
        self.pool.context_vars += (self.sync.SyncToAsync.thread_sensitive_context,)
        return app

    # --- the two attributes

    def _set_attributes(self):
        self.stock = self.sync.SyncToAsync.context_to_thread_executor
        self.sync.SyncToAsync.context_to_thread_executor = _Executors(self, self.stock)
        self._set_pool()

    def _restore_attributes(self):
        if hasattr(self, "stock"):
            self.sync.SyncToAsync.context_to_thread_executor = self.stock

    def _set_pool(self):
        from asgiref.current_thread_executor import CurrentThreadExecutor, _WorkItem

        code = CurrentThreadExecutor.run_until_future.__code__
        if code not in self.pool.blocking_code:
            self.pool.blocking_code += (code,)
            self.pool.working_code += (_WorkItem.run.__code__,)
            hooks.add(self.pool, "on_thread_start", self.init_thread)
            if self.pool.running:  # threads that were there before asgiref
                hooks.add(self.pool, "on_acquire", self.init_thread)

    def init_thread(self):
        """On a thread of the pool: async_to_sync() in code that came here without asgiref runs on our loop, and not on a new one."""
        threadlocal = self.sync.SyncToAsync.threadlocal
        threadlocal.main_event_loop = self.loop
        threadlocal.main_event_loop_pid = self.pid

    # --- without them

    async def _fall_back(self, app, why):
        why = str(why) or repr(why)
        try:
            if app is None:
                raise _Failed("it was imported when the application was being served already")
            self._set_pool()
            wrapped = _WithExecutor(app, self.sync.ThreadSensitiveContext)
            await self._test(None)
        except Exception as e:
            log.failed(
                "asgiref %s is not understood (%s; nor its executor=: %s): its synchronous calls stay as they are, a thread and a "
                "database connection for each request; look for a newer Ringcorn, or another asgiref",
                self.version, why, e,
            )  # fmt: skip
            return app
        log.warning(
            "asgiref %s is not understood (%s): its public executor= leads requests to their threads; tasks that outlive their request "
            "cannot use sync_to_async()",
            self.version, why,
        )  # fmt: skip
        self.pool.context_vars += (_fallback_lease,)
        return wrapped

    # --- the self-test

    async def _test(self, variable):
        """A hop through a lease: thread, result and context. variable: what holds the lease; None = the fallback."""
        probe = contextvars.ContextVar("ringcorn_probe", default=0)
        lease = self.pool.lease("self-test")

        async def inner():
            return asyncio.get_running_loop() is self.loop

        def back():
            return self.sync.async_to_sync(inner)()

        def hop(value):
            seen = probe.get()
            probe.set(seen + 1)
            return threading.current_thread().name, value, seen, back()

        def thread_name():
            return threading.current_thread().name

        async def call():
            probe.set(41)
            result = await self.sync.sync_to_async(hop)("result")
            again = await self.sync.sync_to_async(thread_name)()
            return *result, again, probe.get()

        async def test():
            if variable is not None:
                variable.set(lease)
                return await call()
            async with self.sync.ThreadSensitiveContext(executor=lease):
                return await call()

        try:
            # A task, as the context is to be gone afterwards.
            first, value, seen, is_here, again, left = await asyncio.wait_for(self.loop.create_task(test()), TEST_SECONDS)
            alone = await asyncio.wait_for(lease.submit(back), TEST_SECONDS)
        except asyncio.TimeoutError:
            raise _Failed("a call does not come back") from None
        finally:
            lease.close()
        if not first.startswith(self.pool.name) or (first != again and self.pool.affinity == "request"):
            raise _Failed("a call did not run on the thread that was leased for it")
        if value != "result":
            raise _Failed("a call's result is lost")
        if seen != 41 or left != 42:
            raise _Failed("a call's context is lost")
        if not is_here or not alone:
            raise _Failed("async_to_sync() does not run on the worker's loop")


_fallback_lease = contextvars.ContextVar("ringcorn_lease")


class _WithExecutor:
    """The application, with asgiref led to its lease by the public way."""

    def __init__(self, app, context_type):
        self.app = app
        self.context_type = context_type

    async def __call__(self, scope, receive, send):
        lease = _fallback_lease.get(None)
        if lease is None:  # lifespan
            await self.app(scope, receive, send)
            return
        async with self.context_type(executor=lease):
            await self.app(scope, receive, send)
