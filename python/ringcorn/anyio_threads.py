"""AnyIO's worker threads (FastAPI, Starlette): their number follows ``sync.threads``, and the calls of one request run on one thread.

``anyio.to_thread.run_sync()`` takes whichever thread is idle, so that a request's dependencies, its endpoint and the end of a generator
dependency see different thread-locals and database connections. Here a request's call runs on the thread that its lease has
(server/sync/sync.h). AnyIO looks its backend up in a dictionary: a subclass takes the place of the stock one there, and overrides one
method. AnyIO's own threads serve what has no lease (lifespan, tasks of the server), a lease that is busy (parallel calls of one
request; a call below ``from_thread.run()``: its thread waits for it), calls that may be abandoned, which could keep a slot for
ever, and requests that come when others keep all of ``sync.threads_max`` (a stream for each of many clients, say). For the caller all is as stock: results, exceptions, contexts, cancellation, ``anyio.from_thread``.

AnyIO is never imported for its own sake: where the application has not done so by the time it starts, all this follows when it does.
"""

import asyncio
import concurrent.futures
import importlib.metadata
import re
import sys
import threading
import weakref
from contextvars import ContextVar, copy_context

from _ringcorn import NoThread

from . import fastapi_hop, guard, log
from .imports import when_imported

_BACKEND = "anyio._backends._asyncio"
_FASTAPI = "fastapi.routing"
_LEAST = (4, 4)  # earlier ones have no place for another backend
SELF_TEST_SECONDS = 10.0

lease_var = ContextVar("ringcorn_lease")
_installed = None


def installed():
    """The Adapter in force, or None."""
    return _installed


async def install(loop, pool, threads, stock=False):
    """On *loop*: at once where AnyIO is there, else when its asyncio backend is imported. *stock*: its limit alone."""
    if "anyio" in sys.modules:
        await _adapt(loop, pool, threads, stock)
    else:
        when_imported(_BACKEND, loop, lambda: _adapt(loop, pool, threads, stock), "ringcorn-anyio")


async def _adapt(loop, pool, threads, stock):
    try:
        import anyio.to_thread

        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = threads
    except Exception as e:
        log.warning("AnyIO %s has no limiter of threads that could follow sync.threads: %r", _version(), e)
        return
    if stock or not await _adapt_backend(loop, pool, threads, limiter):
        guard.watch_limiter(limiter)


async def _adapt_backend(loop, pool, threads, limiter):
    """Returns whether AnyIO's calls are led to *pool*."""
    if (found := _version_numbers()) and found < _LEAST:
        log.warning("AnyIO %s runs the calls of a request on whichever thread is idle; from 4.4 on they can have one to themselves", _version())
        return False
    adapter = None
    try:
        adapter = Adapter(loop, pool, threads, limiter)
        adapter.put()
        await asyncio.wait_for(adapter.self_test(), SELF_TEST_SECONDS)
    except Exception as e:
        if adapter is not None:
            adapter.remove()
        log.warning("AnyIO %s keeps its own threads, a request may see several: the self-test failed (%r)", _version(), e)
        return False
    await follow_fastapi(loop)
    return True


async def follow_fastapi(loop):
    if _FASTAPI in sys.modules:
        fastapi_hop.install(lease_var.get)
    else:
        when_imported(_FASTAPI, loop, lambda: follow_fastapi(loop), "ringcorn-fastapi")


def _version():
    try:
        return importlib.metadata.version("anyio")
    except importlib.metadata.PackageNotFoundError:
        return "(unknown)"


def _version_numbers():
    return tuple(map(int, re.findall(r"\d+", _version())[:2]))


class _Carried(Exception):
    """Brings an exception to the loop as it is: of these kinds a future would make others."""

    def unpack(self):
        """What AnyIO raises for it."""
        e = self.args[0]
        if not isinstance(e, StopIteration):
            return e
        error = RuntimeError("coroutine raised StopIteration")
        error.__cause__ = e
        return error


_CARRIED = (StopIteration, asyncio.CancelledError, concurrent.futures.CancelledError, concurrent.futures.InvalidStateError)


class _Place:
    """The right of one call beside a running one to run without a token. The running one may be waiting for it."""

    __slots__ = ("is_taken", "__weakref__")

    def __init__(self):
        self.is_taken = False


class _NoLimit:
    """A limiter for a call that has its token already."""

    async def __aenter__(self):
        pass

    async def __aexit__(self, *exc_info):
        pass


class Adapter:
    """What stands in AnyIO for one loop and its pool."""

    def __init__(self, loop, pool, threads, limiter):
        """Raises where AnyIO is not built as expected. On the loop's thread, as all here."""
        from anyio._core import _eventloop

        self.loop = loop
        self.pool = pool
        self.loaded = _eventloop.loaded_backends
        self.stock = _eventloop.get_async_backend("asyncio")
        self.backend = _make_backend(self.stock, _eventloop, loop, pool, threads, limiter)
        self.blocking = _blocking_code(self.stock)

    def put(self):
        global _installed
        _installed = self
        self.loaded["asyncio"] = self.backend
        self.pool.context_vars += (lease_var,)
        self.pool.blocking_code = tuple(dict.fromkeys(self.pool.blocking_code + self.blocking))

    def remove(self):
        global _installed
        _installed = None
        if self.loaded.get("asyncio") is self.backend:
            self.loaded["asyncio"] = self.stock
        self.pool.context_vars = tuple(var for var in self.pool.context_vars if var is not lease_var)
        self.pool.blocking_code = tuple(code for code in self.pool.blocking_code if code not in self.blocking)

    async def self_test(self):
        """A call of each kind, with a lease. Raises where one does not come out as it must."""
        from anyio import CancelScope, from_thread, to_thread

        mark = ContextVar("mark")

        async def on_loop(x):
            return threading.get_ident(), mark.get(), x

        def on_thread(x):
            from_thread.check_cancelled()
            return threading.get_ident(), mark.get(), from_thread.run(on_loop, x), from_thread.run_sync(threading.get_ident)

        async def calls():
            mark.set(1)
            lease_var.set(lease)
            outside = await to_thread.run_sync(on_thread, 2)
            with CancelScope():
                return outside, await to_thread.run_sync(on_thread, 2)

        lease = self.pool.lease("the self-test of AnyIO's threads")
        try:
            here = threading.get_ident()
            found = await self.loop.create_task(calls(), name="ringcorn-anyio-self-test")
            there = lease.thread_ident
            if there is None or there == here:
                raise RuntimeError("the calls did not reach the lease's thread")
            expected = there, 1, (here, 1, 2), here
            if found != (expected, expected):
                raise RuntimeError(f"{found}, expected twice {expected}")
        finally:
            lease.close()


# Waits for a connection of a pool, which a request may have that itself waits for a slot: module, class, method.
_POOL_WAITS = (("sqlalchemy.util.queue", "Queue", "get"), ("psycopg_pool.pool", "ConnectionPool", "getconn"))


def _blocking_code(stock):
    """Where a thread of ours waits for the loop, or for other requests: it needs no slot meanwhile."""
    from anyio.from_thread import BlockingPortal

    functions = [stock.run_async_from_thread, stock.run_sync_from_thread, BlockingPortal.call]
    for module, owner, name in _POOL_WAITS:
        if (function := getattr(getattr(sys.modules.get(module), owner, None), name, None)) is not None:
            functions.append(function)
    return tuple(function.__code__ for function in functions)


def _make_backend(stock, _eventloop, loop, pool, threads, default_limiter):
    """A subclass of AnyIO's backend for asyncio. Other loops of the process get what they have had."""
    module = sys.modules[stock.__module__]
    states = module._task_states  # task -> its innermost cancel scope
    CancelScope = module.CancelScope
    threadlocals = _eventloop.threadlocals
    library = _eventloop.sniffio.current_async_library_cvar if _eventloop.sniffio is not None else ContextVar("unused", default=None)
    no_scope = CancelScope(shield=True)  # of calls outside any scope: never entered, never cancelled
    lease_of = lease_var.get
    place_var = ContextVar("ringcorn_anyio_place")
    place_of = place_var.get
    places = weakref.WeakKeyDictionary()  # lease -> _Place
    running_loop = asyncio.get_running_loop
    current_task = asyncio.current_task
    is_told = False  # that the application's own limit is too high

    thread = threading.local()

    def claim():
        """Lets from_thread work on this thread of the pool: once, for the thread's life. AnyIO does so for each of its own threads."""
        mine = threadlocals.__dict__
        # Not left open: its end would come when the thread-locals are half gone.
        with _eventloop.claim_worker_thread(Backend, loop):
            claimed = dict(mine)
        mine.update(claimed)
        threadlocals.current_cancel_scope = no_scope
        thread.is_claimed = True

    def call(context, func, args):
        """On the thread. Outside any scope."""
        try:
            thread.is_claimed
        except AttributeError:
            claim()
        try:
            return context.run(func, *args)
        except _CARRIED as e:
            raise _Carried(e)

    def call_in_scope(context, func, args, scope):
        """On the thread. scope: what from_thread.run() and check_cancelled() belong to."""
        try:
            thread.is_claimed
        except AttributeError:
            claim()
        threadlocals.current_cancel_scope = scope
        try:
            return context.run(func, *args)
        except _CARRIED as e:
            raise _Carried(e)
        finally:
            threadlocals.current_cancel_scope = no_scope

    def is_cancelled(scope):
        while scope is not None:
            if scope.cancel_called:
                return True
            if scope.shield:
                return False
            scope = scope._parent_scope
        return False

    async def beside(run, lease, func, args, abandon_on_cancel, limiter):
        """A call of a request whose thread is busy: on one of AnyIO's own.

        It may come from a coroutine that the busy thread waits for (from_thread.run()), and be followed by more of that kind, so tokens
        of a limiter are not for them to wait for: each call has a place for one more that needs none. As many calls compute at once as
        without that."""
        place = place_of(None)
        if place is None:
            place = places.get(lease)
            if place is None:
                place = places[lease] = _Place()
        takes_place = limiter is None and not place.is_taken
        if takes_place:
            place.is_taken = True
            limiter = _NoLimit()
        next_place = _Place()
        token = place_var.set(next_place)
        try:
            return await run(func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        finally:
            place_var.reset(token)
            next_place.is_taken = True  # for good: that call is over
            if takes_place:
                place.is_taken = False

    def follow():
        """The application has set a limit of its own. Returns whether the pool can be of that size."""
        nonlocal threads, is_told
        tokens = default_limiter.total_tokens
        if 1 <= tokens <= pool.threads_max:
            log.info("the application sets AnyIO's limit of threads: sync.threads is %d from now on, not %d", tokens, threads)
            pool.threads = threads = tokens
            return True
        if not is_told:
            is_told = True
            log.warning(
                "the application sets AnyIO's limit of threads to %s, above sync.threads_max (%d): its calls run on AnyIO's own threads, "
                "and a request may see several; set sync.threads instead",
                tokens, pool.threads_max,
            )  # fmt: skip
        return False

    class Backend(stock):
        @classmethod
        async def run_sync_in_worker_thread(cls, func, args, abandon_on_cancel=False, limiter=None):
            lease = lease_of(None)
            if lease is None or running_loop() is not loop or (task := current_task(loop)) is None:
                return await super().run_sync_in_worker_thread(func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
            state = states.get(task)
            if (
                (state is not None and state.cancel_scope is not None)
                or lease.is_busy
                or lease.has_no_thread
                or limiter is not None
                or abandon_on_cancel
                or default_limiter.total_tokens != threads
                or task._must_cancel
            ):
                return await cls._run_with_care(lease, func, args, abandon_on_cancel, limiter)
            # The usual case. No scope can cancel this task while it waits here, so there is nothing to shield it from.
            context = copy_context()
            if library.get() is not None:
                context.run(library.set, None)
            try:
                return await lease.submit_optional(call, context, func, args)
            except _Carried as carried:
                e = carried.unpack()
            except NoThread:
                e = None
            if e is None:
                return await super().run_sync_in_worker_thread(func, args)
            try:
                raise e
            finally:
                del e

        @classmethod
        async def _run_with_care(cls, lease, func, args, abandon_on_cancel, limiter):
            stock_run = super().run_sync_in_worker_thread
            if lease.is_busy:
                return await beside(stock_run, lease, func, args, abandon_on_cancel, limiter)
            if abandon_on_cancel or lease.has_no_thread:
                return await stock_run(func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
            if limiter is None:
                if default_limiter.total_tokens != threads and not follow():
                    return await stock_run(func, args)
                return await cls._run_in_scope(lease, False, func, args)
            # It says how many may run, be it more than there are slots. Without its thread a call would have to wait for one.
            if not lease.has_thread:
                return await stock_run(func, args, limiter=limiter)
            async with limiter:
                if not lease.has_thread:
                    return await stock_run(func, args, limiter=_NoLimit())
                # With one token it keeps no more than one slot from others, and the number of threads stays what it is.
                is_apart = not lease.has_slot or limiter.total_tokens > 1
                return await cls._run_in_scope(lease, is_apart, func, args)

        @classmethod
        async def _run_in_scope(cls, lease, is_apart, func, args):
            """is_apart: beside the slots."""
            task = current_task(loop)
            state = states.get(task)
            scope = state.cancel_scope if state is not None else None
            if task._must_cancel or is_cancelled(scope):
                await asyncio.sleep(0)  # raises, unless nobody is left to cancel this task; stock does so always
            if not lease.has_slot and not is_apart and not lease.is_busy:
                # Once shielded, the call cannot be cancelled any more: what may take long comes before.
                try:
                    await lease.submit_optional(int)
                except NoThread:
                    return await super().run_sync_in_worker_thread(func, args)
            if lease.is_busy:
                return await beside(super().run_sync_in_worker_thread, lease, func, args, False, _NoLimit() if is_apart else None)
            submit = lease.submit_apart if is_apart else lease.submit
            context = copy_context()
            if library.get() is not None:
                context.run(library.set, None)
            try:
                if scope is None:
                    return await submit(call, context, func, args)
                with CancelScope(shield=True):
                    return await submit(call_in_scope, context, func, args, scope)
            except _Carried as carried:
                e = carried.unpack()
            try:
                raise e
            finally:
                del e

    Backend.__module__ = stock.__module__
    Backend.__name__ = Backend.__qualname__ = stock.__name__
    return Backend
