"""Guardrails: what an asynchronous application does wrong without any error, named with its request, its file and its line.

``blocks`` has the words for what blocks the event loop (server/guard/ notices it), ``unawaited`` coroutines that nobody awaited, ``lost``
exceptions that nobody asked for (``gathers``: those that gather() keeps), ``orphans`` tasks that outlive their request, ``unclosed`` generators that
were left open, ``cancellation`` requests whose client has gone and tasks that swallow CancelledError, ``orm`` what Django's ORM is used for in the
wrong place, ``databases`` transactions that are left open, ``sessions`` one AsyncSession in two tasks, ``threads`` requests that find no thread. Each
becomes one ``Event``: a line in the log, a count in the metrics, and a call of whoever asked by ``on()``.

    with ringcorn.guard.allow("block"):     # also as a decorator, of functions and coroutine functions
        read_a_small_file()
"""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import os
import signal
import sys
import time

from .. import imports, live, log

KINDS = ("block", "unawaited", "lost", "sync", "transaction", "session", "threads", "orphan", "unclosed", "swallowed")
# What is no event, but something that the server does: allow("disconnect") lets a request go on after its client has gone.
SWITCHES = (*KINDS, "disconnect")
NEWS_SECONDS = 60.0
NEWS_MAX = 1024
FIELDS = ("kind", "request", "file", "line", "function", "seconds", "cure")  # of an Event, in a line of JSON

# The request's _ringcorn._Cycle, in its context: label, is_ended, is_left, task, lease, guard. Set by server/asgi/watched.c after the first step: cycle().
request = contextvars.ContextVar("ringcorn_request", default=None)

_allowed = contextvars.ContextVar("ringcorn_guard_allowed", default=frozenset())
# Of what a test drives itself, for which there is no server (inside.py): databases.Notes.
driven = contextvars.ContextVar("ringcorn_guard_driven", default=None)
_callbacks = []
_worker = None
_pool = None  # of threads for requests
_is_wsgi = False
_threads = None  # guard.threads, seconds
_mode = "off"
_news = {}  # (kind, file, line) -> when it was said last


@dataclasses.dataclass(frozen=True)
class Event:
    """What a guardrail has noticed."""

    kind: str  # one of KINDS
    message: str  # as in the log
    request: str | None  # "GET /path"; None: of no request, or not known
    request_id: str | None
    file: str | None  # of the guilty line
    line: int | None
    function: str | None
    seconds: float | None = None  # "block": so far
    cure: str | None = None
    exception: BaseException | None = None  # "lost"
    stack: tuple = ()  # "block": "file:line function", innermost first


def on(callback):
    """*callback*(event) for every event from now on, where it is noticed: on the loop's thread, or on one of the server's own while the loop stands.
    Returns it, so that it is a decorator too."""
    _callbacks.append(callback)
    return callback


def off(callback):
    """No longer."""
    _callbacks.remove(callback)


class allow:
    """Switches guardrails off, by their names, for what runs in its body and the tasks that are made there.

    As a context manager each use has an instance of its own; as a decorator one does for all calls.
    """

    def __init__(self, *kinds):
        for kind in kinds:
            if kind not in SWITCHES:
                raise ValueError(f"{kind!r} is no guardrail; there are {', '.join(map(repr, SWITCHES))}")
        self.kinds = frozenset(kinds)
        self._tokens = []

    def __enter__(self):
        self._tokens.append(_allowed.set(_allowed.get() | self.kinds))
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(ValueError):  # around the yield of a dependency: its end may run in another copy of the context
            _allowed.reset(self._tokens.pop())

    def __call__(self, fn):
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn.__qualname__}: a generator runs in pieces; write with ringcorn.guard.allow(...) inside of it")
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def wrapper(*args, **kwargs):
                with allow(*self.kinds):
                    return await fn(*args, **kwargs)

        else:

            @functools.wraps(fn)
            def wrapper(*args, **kwargs):
                with allow(*self.kinds):
                    return fn(*args, **kwargs)

        return wrapper


def outlives(task):
    """*task* (in development also a thread) is meant to go on after the end of the request that makes it. Returns it."""
    from . import orphans

    return orphans.outlives(task)


def cycle():
    """Of the request that the current code belongs to; None: of none."""
    found = request.get()
    if found is None and _worker is not None and (found := _worker.first()) is not None:
        request.set(found)  # for what is made from here on
    return found


def is_allowed(kind, context=None):
    return kind in (_allowed.get() if context is None else context.get(_allowed, ()))


def whose(context, task=None, label=None):
    """(label, id) of the request in whose *context* something happened; None where there is none. *task*: that ran there."""
    for pool in live.pools():
        for var in pool.context_vars:
            if label is None and (lease := context.get(var)) is not None:
                label = getattr(lease, "label", None)  # asgiref's ThreadSensitiveContext has none
    if label is None and (notes := context.get(driven)) is not None:
        label = notes.label
    if label is None and (cycle := context.get(request)) is not None:
        label = cycle.label
    if label is None and task is not None and _worker is not None:
        label = _worker.request_of(task)
    return label, context.get(log.request_id)


def is_news(event):
    """Whether nothing of that kind was said of that line in the last minute."""
    key, now = (event.kind, event.file, event.line), time.monotonic()
    if now - _news.get(key, float("-inf")) < NEWS_SECONDS:
        return False
    if len(_news) >= NEWS_MAX:
        _news.clear()
    _news[key] = now
    return True


def emit(event, is_said=True):
    """Says it, once, and counts it. *is_said*: in the log; callbacks are told in any case."""
    if _worker is not None and event.kind != "block":  # server/guard/ counts those
        _worker.count_guard(event.kind)
    if is_said:
        _say(event)
    for callback in tuple(_callbacks):
        try:
            callback(event)
        except Exception as e:
            log.request_failed(event.request or "guard", e, f"{callback!r} of ringcorn.guard.on() failed", False)


def _say(event):
    fields = {name: value for name in FIELDS if (value := getattr(event, name)) is not None}
    extra = {"ringcorn": {"guard": fields}}
    if event.request_id:
        extra["request_id"] = event.request_id
    log.warning("%s", event.message, exc_info=event.exception, extra=extra)


def forget():
    """What has been said."""
    _news.clear()


def finish():
    """The requests have ended, and the loop is about to."""
    if _mode != "off":
        from . import databases

        databases.flush()


def install(worker, loop, options):
    """For the time that *loop* serves."""
    global _worker, _mode, _threads
    _worker, _mode, _threads = worker, options["guard_mode"], options["guard_threads"]
    if _mode == "off":
        return
    from . import cancellation, gathers, lost, orphans, unawaited, unclosed

    if options["guard_unawaited"]:
        unawaited.install(loop)
    if options["guard_lost"]:
        lost.install(loop)
        gathers.install()
    if options["guard_orphans"] != "off":
        orphans.install(loop, options["guard_orphans"] == "cancel", with_threads=_mode == "raise")
    if options["guard_unclosed"]:
        unclosed.install(loop, shows_warnings=_mode == "raise")
    cancellation.install(loop, options["guard_disconnect_grace"], options["graceful"], options["guard_swallowed"])
    _when_imported(libraries(options), loop)


def serve(pool, is_wsgi):
    """When the application has been imported, and the threads of frameworks are led to *pool*."""
    global _pool, _is_wsgi
    if _mode == "off":
        return
    _pool, _is_wsgi = pool, is_wsgi
    _give_leases()
    if _threads:
        from . import threads

        threads.watch(_threads)


def watch_limiter(limiter):
    """AnyIO keeps its own threads, which *limiter* bounds."""
    if _mode != "off" and _threads:
        from . import threads

        threads.watch_limiter(limiter, _threads)


def _give_leases():
    """Without one a request has no end that we hear of. Where asgiref's calls could not be led to leases nobody is to think that they were."""
    from . import databases

    if _is_wsgi:
        databases.watch_jobs(_pool)
    elif _pool is not None and databases.is_watching and not _pool.context_vars and "asgiref.sync" not in sys.modules:
        _pool.context_vars += (databases.lease_var,)


def libraries(options):
    """{module: functions to be called once it has been imported}"""
    from . import databases, orm, sessions

    found = {}
    for name, fn in (
        *((*databases.LIBRARIES.items(), *orm.LIBRARIES.items()) if options["guard_transactions"] else ()),
        *(sessions.LIBRARIES.items() if options["guard_sessions"] else ()),
        *(orm.REFUSALS.items() if options["guard_sync"] else ()),
    ):
        found.setdefault(name, []).append(fn)
    return found


def _when_imported(found, loop):
    for name, fns in found.items():

        async def begin(name=name, fns=fns):
            watch(name, fns)

        if name in sys.modules:  # by preload
            watch(name, fns)
        else:
            imports.when_imported(name, loop, begin, "ringcorn-guard")


def watch(name, fns):
    """Module *name* has been imported: *fns* lay hands on it."""
    for fn in fns:
        try:
            fn()
        except Exception as e:  # a version that is built in another way
            log.warning("guard: %s is not understood, so it is not watched: %r", name, e)
    _give_leases()


def wrap(app):
    """guard.mode raise: *app*, with answers that say when a guardrail has noticed something."""
    if _mode != "raise":
        return app
    from . import raising

    return raising.wrap(app)


def fail(event, context):
    """guard.mode raise: the request of *context* answers 500, where its answer has not begun."""
    if _mode == "raise":
        from . import raising

        raising.fail(event, context)


def replace_worker(who):
    """guard.mode raise: *who*, the lifespan or a service, has died, so the worker leaves and another comes. False: not so."""
    if _mode != "raise" or _worker is None:
        return False
    log.warning("%s is dead, and guard.mode: raise has the worker replaced", who)
    os.kill(os.getpid(), signal.SIGTERM)
    return True


def will_be_cancelled(task):
    """Another part of the server is about to cancel *task*, a request's own."""
    from . import cancellation

    cancellation.will_be_cancelled(task)


# --- called by server/asgi/watched.c on the loop's thread, where guard.mode is not off


def gone(cycle):
    """The client has, and the application does not know yet."""
    from . import cancellation

    cancellation.gone(cycle)


def cancel(cycle):
    """The request, as it took too long."""
    from . import cancellation

    cancellation.cancel(cycle)


def ended(family):
    """The request has; what was kept in its cycle's attribute guard."""
    from . import orphans

    orphans.ended(family)
