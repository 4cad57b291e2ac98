"""Guardrails: what an asynchronous application does wrong without any error, named with its request, its file and its line.

``blocks`` has the words for what blocks the event loop (server/guard/ notices it), ``unawaited`` coroutines that nobody awaited, ``lost``
exceptions that nobody asked for. Each becomes one ``Event``: a line in the log, a count in the metrics, and a call of whoever asked by ``on()``.

    with ringcorn.guard.allow("block"):     # also as a decorator, of functions and coroutine functions
        read_a_small_file()
"""

import contextvars
import dataclasses
import functools
import inspect

from .. import live, log

KINDS = ("block", "unawaited", "lost")

_allowed = contextvars.ContextVar("ringcorn_guard_allowed", default=frozenset())
_callbacks = []
_worker = None
_mode = "off"


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
            if kind not in KINDS:
                raise ValueError(f"{kind!r} is no guardrail; there are {', '.join(map(repr, KINDS))}")
        self.kinds = frozenset(kinds)
        self._tokens = []

    def __enter__(self):
        self._tokens.append(_allowed.set(_allowed.get() | self.kinds))
        return self

    def __exit__(self, *exc):
        _allowed.reset(self._tokens.pop())

    def __call__(self, fn):
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


def is_allowed(kind, context=None):
    return kind in (_allowed.get() if context is None else context.get(_allowed, ()))


def whose(context, task=None, label=None):
    """(label, id) of the request in whose *context* something happened; None where there is none. *task*: that ran there."""
    for pool in live.pools():
        for var in pool.context_vars:
            if label is None and (lease := context.get(var)) is not None:
                label = lease.label
    if label is None and task is not None and _worker is not None:
        label = _worker.request_of(task)
    return label, context.get(log.request_id)


def emit(event):
    """Says it, once."""
    log.warning("%s", event.message, exc_info=event.exception, extra={"request_id": event.request_id} if event.request_id else None)
    for callback in tuple(_callbacks):
        try:
            callback(event)
        except Exception as e:
            log.request_failed(event.request or "guard", e, f"{callback!r} of ringcorn.guard.on() failed", False)


def count(kind):
    if _worker is not None:
        _worker.count_guard(kind)


def install(worker, loop, options):
    """For the time that *loop* serves."""
    global _worker, _mode
    _worker, _mode = worker, options["guard_mode"]
    if _mode == "off":
        return
    from . import lost, unawaited

    if options["guard_unawaited"]:
        unawaited.install(loop)
    if options["guard_lost"]:
        lost.install(loop)


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
