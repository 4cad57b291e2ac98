"""One worker process, seen from Python: import the application, start it, serve, drain, shut it down.

The C side (server/worker/worker.c) calls run() in the main thread and hands over the module ``_ringcorn_worker``:

    attach(loop)                    gives the server's part of each turn to the loop
    serve(app, websocket_app, context, state, pool)
                                    tells the master that this worker is ready; requests come from here on
    direct(pool, run, not_mine)     before serve(): run(exchange), on a thread, answers requests to synchronous code (server/asgi/direct.c);
                                    returns teach(scope, is_sync), for the application to say which those are
    serve_wsgi(app, context, presence, pool)  the same for a WSGI application
    access_to(callback)             callback(line) for each line of the access log, on the loop
    notify(callback)                callback("drain" | "quit" | "drained", why), callback("service", number), on the loop
    service_said("stopped" | "ended", number)  a service of which there is one in all does not run here any more
    cancel_all(), in_hand()         the requests that are being answered
    request_of(task)                "GET /path" of the request whose task it is, or None; of the task that runs
    requests()                      [(task or None, lease or None, label, age in seconds)] of those on the loop; any thread
    count_databases(n)              connections to databases that are open now: into the metrics
    first()                         the _ringcorn._Cycle of the request that takes its first step now; None: none does, on this thread
    count_guard(kind)               a guardrail has noticed something of that kind, or a query was cancelled: into the metrics
    limit(milliseconds)             the request that this thread answers has so long, from its head on; False: it answers none
    fork_workers()                  in the process of `preload`: the options of a worker, in each that it forks; at its own end None
    detach()                        ends what is in hand; the loop may be closed after it
    free()                          after the loop's end: closes every connection
"""

import asyncio
import contextlib
import importlib.metadata
import platform
import sys
import threading
import traceback
import weakref

import _ringcorn

from . import anyio_threads, asgiref_threads, cancel, check, deadline, debug, drivers, freezing, greenlets, guard, live, log, otel, places, services, sqlalchemy_hints, websocket_lease, wsgi_routes
from .app import AppError
from .database_count import DatabaseCount
from .lifespan import Lifespan, LifespanFailed
from .loading import FAILURES, Loaded, auto_threads, exit_code_of, prepare
from .loop import new_event_loop, stop_pool, use_pidfds
from .presence import Presence

QUIT_SECONDS = 0.5  # what cancelled requests get to clean up
REST_SECONDS = 0.02  # between two looks whether threads are done with what follows an answer
NAMED_MAX = 10  # requests in one line
THREADS_SECONDS = 1.0  # what sync calls that still run get before they are named and left behind
# What applications are made with; of two that were imported, the first says more.
FRAMEWORKS = {"django": "Django", "fastapi": "FastAPI", "quart": "Quart", "starlette": "Starlette", "flask": "Flask", "bottle": "Bottle"}


def run(worker, options, preloaded=None):
    """Runs the worker; returns its exit code. *preloaded*: what the process has loaded that this one was forked from (ringcorn.preload)."""
    try:
        if preloaded is None:
            prepare(options)
    except AppError as e:
        return exit_code_of(e)
    _speed_up_tasks()
    use_pidfds()
    loop = new_event_loop(io=options["io"])
    asyncio.set_event_loop(loop)
    loop._goes_first = options["loop_first"]
    if options["shake"] is not None:
        from .shake import served

        served.begin(loop, options["shake"])
    pools = _Pools(loop, options)
    live.attach(worker, loop)
    worker.attach(loop)
    guard.install(worker, loop, options)
    drivers.install(loop, options["slot"])
    deadline.attach(worker, loop)
    if options["cancel_queries"]:
        cancel.install(worker)
    worker.count(pools.executor, True)
    if log.access_handlers():
        worker.access_to(log.access_line)
    if options["slot"] == 0 and loop.io_why:  # one of them says it for all
        log.warning("%s", loop.io_why)
    serving = None
    loaded = preloaded or Loaded(options)
    hooks = loaded.hooks
    hooks.options = options  # preloaded, they have those of the process before
    try:
        if preloaded is None:
            loaded.find_post_fork()
        loop.run_until_complete(hooks.call("post_fork"))
        if preloaded is None:
            loaded.load()
        app, interface = loaded.app, loaded.interface
        beside = services.Services(loaded.services, loop, worker)
        if options["slot"] == 0:
            _say_what_is_served(options, interface, loop)
        pools.open_sync(options["sync_threads"] or auto_threads(interface))
        worker.count(pools.sync, False)
        live.attach(worker, loop, pools.sync, pools.executor, services=beside)
        if options["slot"] == 0:
            check.warn(greenlets.find)
            check.warn(check.django_hints, pools.sync.threads, interface, options)
        serving = _Serving(worker, loop, app, interface, pools.sync, options, hooks, beside)
        return _run_to_the_end(loop, serving)
    except FAILURES as e:
        return exit_code_of(e)
    finally:
        _close(worker, loop, pools, hooks, serving.why if serving is not None else "failed")


def _run_to_the_end(loop, serving):
    """run_until_complete() that a request cannot end: asyncio lets SystemExit and KeyboardInterrupt out of a task and of the loop."""
    main = loop.create_task(serving.run(), name="ringcorn")
    while True:
        try:
            return loop.run_until_complete(main)
        except (SystemExit, KeyboardInterrupt) as e:
            if main.done() or not serving.is_ready:
                raise
            log.failed("%r left a task of the application; only its request fails, the worker goes on", e)


def _speed_up_tasks():
    """Up to 3.13 every task goes through a WeakSet, which is Python; see server/py/weakset.c."""
    for name in ("_scheduled_tasks", "_all_tasks"):
        registry = getattr(asyncio.tasks, name, None)
        if isinstance(registry, weakref.WeakSet) and hasattr(registry, "_pending_removals"):
            _ringcorn._weakset_speed_up(registry)


def _say_what_is_served(options, interface, loop):
    """One line; where, the master says when it listens."""
    framework = ""
    for name, title in FRAMEWORKS.items():
        if name in sys.modules:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                framework = f", {title} {importlib.metadata.version(name)}"
            break
    log.info(
        "ringcorn %s serves %s (%s%s) with CPython %s, I/O by %s",
        options["version"], options["app"], interface.upper(), framework, platform.python_version(), loop.io,
    )  # fmt: skip


def _name_living_threads():
    """Python ends only when these have ended; the master's patience is limited."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            log.warning("the worker's end waits for thread %r of the application; make it a daemon, or end it in lifespan.shutdown", thread.name)


class _Pools:
    """The worker's two sets of threads (server/sync/sync.h)."""

    def __init__(self, loop, options):
        self.loop = loop
        self.options = options
        self.executor = _ringcorn.Pool(loop, options["executor_threads"], "ringcorn-executor")
        self.sync = None
        loop._set_pools(self.executor)

    def open_sync(self, threads):
        """For thread-sensitive code: what knows the application decides on the number."""
        options = self.options
        most = max(threads, options["sync_threads_max"])
        self.sync = _ringcorn.Pool(
            self.loop,
            threads,
            "ringcorn-sync",
            options["sync_queue"],
            threads_max=most,
            queue_timeout=options["sync_queue_timeout"],
            idle_timeout=options["sync_idle_timeout"],
            affinity=options["sync_affinity"],
        )
        if options["slot"] == 0:
            n = options["workers"]
            log.info(
                "synchronous code: %d worker%s x %d threads = %d calls at once and database connections; at worst %d x %d = %d",
                n, "" if n == 1 else "s", threads, n * threads, n, most, n * most,
            )  # fmt: skip

    async def stop(self):
        """Ends the threads while the loop runs, so that what still waits for it in a thread can end."""
        pools = [pool for pool in (self.sync, self.executor) if pool is not None]
        for left in await asyncio.gather(*(stop_pool(self.loop, pool, THREADS_SECONDS) for pool in pools)):
            for name, where in left:
                log.warning("thread %s did not end, it is left behind in %s", name, where)


async def _bounded(awaitable):
    try:
        await asyncio.wait_for(awaitable, THREADS_SECONDS)
    except asyncio.TimeoutError:
        log.warning("the application's default executor did not end, it is left behind")


def _close(worker, loop, pools, hooks, why):
    """Takes everything down, in the order of asyncio.run()."""
    try:
        worker.cancel_all()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            if not task.cancelling():  # what was cancelled before cleans up now
                task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=QUIT_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(pools.stop())
        cancel.stop()
        # An executor of the application's own is shut down as asyncio.run() would.
        loop.run_until_complete(_bounded(loop.shutdown_default_executor()))
        loop.run_until_complete(hooks.call_logged("worker_exit", why))
    finally:
        live.attach(worker, None)
        deadline.attach(None, None)
        worker.detach()
        asyncio.set_event_loop(None)
        loop.close()
        worker.free()
        _name_living_threads()


class _Serving:
    """The time between import and exit."""

    def __init__(self, worker, loop, app, interface, pool, options, hooks, beside):
        self.worker = worker
        self.hooks = hooks
        self.services = beside
        self.why = "failed"  # it ends
        self.loop = loop
        self.app = app
        self.is_wsgi = interface == "wsgi"
        self.pool = pool
        self.options = options
        self.drained = loop.create_future()
        self.gone = loop.create_future()  # what was cancelled has had its time
        self.reload_hook = None  # a task
        self.presence = Presence()
        self.is_ready = False
        self.is_quitting = False

    async def run(self):
        self.worker.notify(self._on_event)
        await self._adapt()
        lifespan = Lifespan(self.app, "off" if self.is_wsgi else self.options["lifespan"], {"ringcorn": self.presence})
        starting = asyncio.ensure_future(self._start(lifespan))
        await asyncio.wait({starting, self.drained}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # told to stop before it was ready
            starting.cancel()
            return 0
        try:
            starting.result()
        except AppError:
            await lifespan.shutdown()
            raise
        except LifespanFailed as e:
            raise AppError(3, f"the application did not start: {e}", e.__cause__) from None
        except Exception as e:
            raise AppError(3, f"the application did not start: {e!r}", e) from None
        if self.options["slot"] == 0:
            check.warn(sqlalchemy_hints.find, self.pool.threads)
        # What the application made while it was imported stays: the collector need not visit it again and again.
        freezing.freeze()
        tracing = otel.find(self.options["otel"], self.options["slot"], self.options["version"])
        app = self.app
        if self.options["debug"]:
            if self.options["slot"] == 0:
                log.warning("debug: clients are shown the tracebacks of exceptions; for development only")
            app = debug.wsgi(app) if self.is_wsgi else debug.asgi(app)
        if self.is_wsgi:
            if tracing is not None:
                app = tracing.wsgi(app)
            await _start_threads(self.loop, self.pool)
            self.worker.serve_wsgi(app, lifespan.context, self.presence, self.pool)
        else:
            self._go_direct(tracing)
            if tracing is not None:
                app = tracing.asgi(app)
            if self.options["shake"] is not None:
                from .shake import served

                app, self.websocket_app = served.grouped(app), served.grouped(self.websocket_app)
            self.worker.serve(app, self.websocket_app, lifespan.context, lifespan.state, self.pool)
        self.is_ready = True
        if self.options["slot"] == 0 and self.options["preload"]:
            freezing.say_savings()
        self.services.begin(lifespan.context)
        await self.drained
        await self._threads_are_done()
        guard.finish()
        await self._beside_is_done()
        await lifespan.shutdown()
        return 0

    async def _start(self, lifespan):
        await lifespan.startup()
        await self.hooks.call("when_ready")

    def _go_direct(self, tracing):
        """Where the application is Django's handler itself, or Channels' router hands HTTP to it as it is: what its paths lead to is learned,
        and sync views are served without the loop."""
        handler = sys.modules.get("ringcorn.django.handler")
        if handler is None:
            return
        from .django import genuine

        app, routing = self.app, sys.modules.get("channels.routing")
        if routing is not None and type(app) is routing.ProtocolTypeRouter and genuine.replaced(type(app)) is None:
            app = app.application_mapping.get("http")
        if type(app) is handler.Handler:
            app.go_direct(self.loop, self.pool, self.worker, tracing)

    async def _threads_are_done(self):
        """What requests have left to their threads when they were answered: Django's close() and request_finished."""
        while (self.pool.leased or self.pool.queued) and not self.is_quitting:
            await asyncio.sleep(REST_SECONDS)

    async def _beside_is_done(self):
        """Services, and hooks.on_reload."""
        tasks = self.services.tasks()
        if self.reload_hook is not None:
            tasks.add(self.reload_hook)
        while tasks and not self.gone.done():
            _, tasks = await asyncio.wait({*tasks, self.gone}, return_when=asyncio.FIRST_COMPLETED)
            tasks.discard(self.gone)
        self.services.name_left_behind()

    async def _adapt(self):
        """Leads the threads of frameworks to ours: one line each. Nothing is imported that the application has not imported."""
        await self._adapt_threads()
        guard.serve(self.pool, self.is_wsgi)
        drivers.serve(self.pool, self.is_wsgi)

    async def _adapt_threads(self):
        await anyio_threads.install(self.loop, self.pool, self.pool.threads, self.options["anyio_threads"] == "stock")
        # A WSGI request has its thread as it is; async_to_sync() in it is led to our loop.
        app = await asgiref_threads.install(None if self.is_wsgi else self.app, self.loop, self.pool)
        if not self.is_wsgi:
            self.app = app
        if "django.db" in sys.modules:  # after asgiref: it asks whether requests have leases
            from . import django

            self.app = django.install(self.app, self.loop, self.pool, self.options)
        DatabaseCount(self.loop, self.worker.count_databases).install()
        if self.is_wsgi:
            wsgi_routes.install(self.app)
            return
        self.app = guard.wrap(self.app)
        self.websocket_app = websocket_lease.wrap(self.app, self.pool, self.options["sync_websocket"])

    def _on_event(self, what, value=None):
        if what == "service":
            self.services.start(value)
        elif what == "drain":
            self.why = value
            self.presence.leave()
            self._say_in_hand()
            if value == "reload" and self.hooks.has("on_reload"):
                self.reload_hook = self.loop.create_task(self.hooks.call_logged("on_reload", value), name="hooks.on_reload")
            self.services.leave()
            if self.options["graceful"]:
                self.loop.call_later(self.options["graceful"], self._on_event, "quit")
        elif what == "quit":
            self.is_quitting = True
            self._say_cancelled()
            self.worker.cancel_all()
            self.services.cancel()
            if self.reload_hook is not None:
                self.reload_hook.cancel()
            self.loop.call_later(QUIT_SECONDS, self._on_event, "gone")
        elif what == "gone":
            for future in (self.drained, self.gone):
                if not future.done():
                    future.set_result(None)
        elif what == "drained" and not self.drained.done():
            self.drained.set_result(None)


    def _say_in_hand(self):
        if labels := self.worker.in_hand():
            more = f", and {len(labels) - NAMED_MAX} more" if len(labels) > NAMED_MAX else ""
            log.info("leaving: %d requests are in hand: %s%s", len(labels), ", ".join(labels[:NAMED_MAX]), more)

    def _say_cancelled(self):
        threads = {}
        for ident, label, _ in self.pool.leases():
            threads.setdefault(label, []).append(ident)
        for label in self.worker.in_hand():
            ident = threads[label].pop() if threads.get(label) else None
            if ident is None:
                log.info("%s: still in hand, cancelled", label)
            else:
                log.warning("%s: still in hand, cancelled; its thread cannot be, and is here:\n%s", label, places.stack_of_thread(ident))


async def _start_threads(loop, pool):
    """All that the pool keeps: the loop needs the GIL to start one, and for WSGI requests it is to need none."""
    leave, jobs = threading.Event(), []

    def stay(begun):
        loop.call_soon_threadsafe(begun.set)
        leave.wait()

    try:
        while pool.running < pool.threads:
            begun = asyncio.Event()
            jobs.append(pool.submit(stay, begun))
            await asyncio.wait_for(begun.wait(), THREADS_SECONDS)
    except asyncio.TimeoutError:
        pass  # as many as can be had
    finally:
        leave.set()
        await asyncio.gather(*jobs)
