"""Tasks that outlive the request that made them; and in development threads.

A task belongs to a request where code of the application made it: where the innermost frame outside of Python's own library is
the application's, be it in create_task(), gather() or a TaskGroup. What a library makes is the library's own affair: the worker of a connection
pool, a task group of a middleware, what was given to a function for the background. A request's tasks may end half a second later than it.
"""

import collections
import contextvars
import sys
import threading
import weakref

from .. import log
from . import Event, emit, is_allowed, is_news, source, tasks
from . import cycle as current

GRACE = 0.5

_loop = None
_cancels = False
_due = collections.deque()  # (when, family), the oldest first
_timer = None


class Family:
    """What a request has made. Its cycle keeps it until the end, then we do for a moment."""

    __slots__ = ("label", "request_id", "members", "doomed")

    def __init__(self, cycle):
        self.label = cycle.label
        self.request_id = log.request_id.get()
        self.members = set()
        self.doomed = ()  # those that are cancelled with the request


class _Member(weakref.ref):
    """A task or a thread; its family forgets it with its last reference."""

    __slots__ = ("code", "line", "outlives", "left_by")

    def __new__(cls, one, code, line, forget):
        return super().__new__(cls, one, forget)

    def __init__(self, one, code, line, forget):
        super().__init__(one, forget)
        self.code, self.line = code, line
        self.outlives = False
        self.left_by = ""  # ", as the gather() ... had failed"


def install(loop, cancels, with_threads):
    global _loop, _cancels
    _loop, _cancels = loop, cancels
    make, maker = loop.create_task, source.maker

    def create_task(coro, **options):
        cycle = current()  # before: the task's context is a copy of this one
        task = make(coro, **options)
        if cycle is not None and not cycle.is_ended and not task.done():
            place = maker(sys._getframe(1))
            if place is not None:
                _join(task, cycle, place)
        return task

    loop.create_task = create_task
    if with_threads:
        _note_threads()


def _note_threads():
    start = threading.Thread.start

    def noting(thread):
        start(thread)
        frame, cycle = sys._getframe(1), current()
        if cycle is not None and not cycle.is_ended and source.is_application(frame.f_code.co_filename):
            _join(thread, cycle, (frame.f_code, frame.f_lineno))

    threading.Thread.start = noting


def _join(one, cycle, place):
    if is_allowed("orphan"):
        return
    family = cycle.guard
    if family is None:
        family = cycle.guard = Family(cycle)
    family.members.add(_Member(one, *place, family.members.discard))


def member_of(one):
    return next((ref for ref in weakref.getweakrefs(one) if type(ref) is _Member), None)


def outlives(one):
    member = member_of(one)
    if member is not None:
        member.outlives = True
    return one


def made_at(task):
    """", made at file:line in function"; "" where it is no task of a request."""
    member = member_of(task)
    return "" if member is None else f", made at {_place(member)}"


def _place(member):
    return f"{member.code.co_filename}:{member.line} in {member.code.co_qualname}"


def doom(cycle):
    """The request is about to be cancelled: what it has made until now goes with it. What it makes from here on is to finish its work."""
    family = cycle.guard
    if family is not None:
        family.doomed = tuple(family.members)


def ended(family):
    """Of a request. Called by the C side."""
    global _timer
    for member in family.doomed:
        task = member()
        if hasattr(task, "cancelling") and not (member.outlives or task.done() or task.cancelling()):
            _cancel(task, family)
    family.doomed = ()
    if not family.members or _loop is None or _loop.is_closed():
        return
    _due.append((_loop.time() + GRACE, family))
    if _timer is None:
        _timer = _loop.call_later(GRACE, _look, context=contextvars.Context())


def _look():
    global _timer
    _timer = None
    while _due and _due[0][0] <= _loop.time() + 0.001:
        family = _due.popleft()[1]
        for member in tuple(family.members):
            if (one := member()) is not None:
                try:
                    _judge(family, member, one)
                except Exception as e:
                    log.request_failed(family.label, e, "guard.orphans: exception", False)
    if _due:
        _timer = _loop.call_at(_due[0][0], _look, context=contextvars.Context())


def _judge(family, member, one):
    if isinstance(one, threading.Thread):
        if one.is_alive() and not member.outlives:
            _tell(family, member, f"thread {one.name!r}", "", "join() it, or say ringcorn.guard.outlives(thread)")
    elif one.done():
        _not_asked_for(family, one)
    elif not (member.outlives or one.cancelling()):
        places = [(code, line) for _, code, line in tasks.suspended(one)][::-1]
        i = source.guilty(places)
        waits = f"; it waits at {places[i][0].co_filename}:{places[i][1]} in {places[i][0].co_qualname}" if i is not None else ""
        cure = "await it, use asyncio.TaskGroup, or say ringcorn.guard.outlives(task)"
        _tell(family, member, tasks.name_of(one), f"{waits}{'; it is cancelled' if _cancels else ''}", cure)
        if _cancels:
            _cancel(one, family)


def _cancel(task, family):
    from . import cancellation

    cancellation.watch(task, family.label, family.request_id)
    task.cancel()


def _not_asked_for(family, task):
    """Somebody still refers to it, so asyncio has not told of its exception."""
    if task.cancelled() or not getattr(task, "_log_traceback", False):
        return
    from . import lost

    if lost.is_on:
        lost.tell_of(task, task.exception())


def _tell(family, member, what, more, cure):
    message = f"{family.label}: {what}, made at {_place(member)}, outlives its request{member.left_by}{more}; {cure}"
    event = Event(
        "orphan", message, family.label, family.request_id, member.code.co_filename, member.line, member.code.co_qualname, cure=cure
    )  # fmt: skip
    emit(event, is_news(event))
