"""What asyncio.gather() keeps to itself: a failure after the first, and failures among results that nobody looks at.

gather() fails with the first exception. What it waited for goes on, and a later exception of that is dropped. With return_exceptions the
exceptions are results: where the list is thrown away, so are they. Both are told of where the application called gather().
"""

import asyncio.tasks
import contextvars
import functools
import sys
import traceback

from .. import log
from . import Event, emit, fail, is_allowed, is_news, orphans, source, tasks
from . import cycle as current


def install():
    stock = getattr(asyncio.tasks, "_GatheringFuture", None)
    if stock is None or stock.__module__ == __name__:
        return

    class _GatheringFuture(stock):
        _caller = None

        def __init__(self, children, *, loop):
            super().__init__(children, loop=loop)
            place = source.maker(sys._getframe(1))
            if place is not None and not is_allowed("lost"):
                self._caller = _Caller(*place)

        def set_result(self, result):
            if self._caller is not None and any(isinstance(one, Exception) for one in result):
                result = _Results(result, self._caller)
            super().set_result(result)

        def set_exception(self, exception):
            if self._caller is not None and isinstance(exception, Exception):
                self._caller.has_failed(self._children, exception)
            super().set_exception(exception)

    _GatheringFuture.__module__ = __name__
    asyncio.tasks._GatheringFuture = _GatheringFuture


class _Caller:
    def __init__(self, code, line):
        self.code, self.line = code, line
        cycle = current()
        self.label = cycle.label if cycle is not None else None
        self.request_id = log.request_id.get()
        self.place = f"gather() at {code.co_filename}:{line} in {code.co_qualname}"

    def has_failed(self, children, exception):
        for child in children:
            if not child.done() and isinstance(child, asyncio.Task):
                member = orphans.member_of(child)
                if member is not None:
                    member.left_by = f", as the {self.place} had failed with {exception!r}"
                child.add_done_callback(functools.partial(self._later, exception))

    def _later(self, first, task):
        exception = None if task.cancelled() else task.exception()
        if isinstance(exception, Exception) and not any(tasks.waits_for(other, task) for other in asyncio.all_tasks()):
            what = f"{tasks.name_of(task)} ended with {exception!r}{_raised_at(exception)} after the {self.place} had failed with {first!r}"
            self._tell(what, "use asyncio.TaskGroup, which cancels the others", exception)

    def unread(self, results):
        failed = [one for one in results if isinstance(one, Exception)]
        are = "is an exception" if len(failed) == 1 else "are exceptions"
        what = f"{len(failed)} of the {len(results)} results of {self.place} {are}"
        self._tell(f"{what}: {failed[0]!r}{_raised_at(failed[0])}", "look at what gather(return_exceptions=True) returns", failed[0])

    def _tell(self, what, cure, exception):
        message = f"{self.label or 'no request'}: {what}, and nobody has seen it; {cure}"
        event = Event(
            "lost", message, self.label, self.request_id, self.code.co_filename, self.line, self.code.co_qualname, cure=cure, exception=exception
        )  # fmt: skip
        fail(event, contextvars.copy_context())
        emit(event, is_news(event))


def _raised_at(exception):
    places = [(frame.f_code, line) for frame, line in traceback.walk_tb(exception.__traceback__)][::-1]
    i = source.guilty(places)
    return "" if i is None else f" at {places[i][0].co_filename}:{places[i][1]} in {places[i][0].co_qualname}"


def _reading(name):
    method = getattr(list, name)

    @functools.wraps(method)
    def read(self, *args, **kwargs):
        self._caller = None
        return method(self, *args, **kwargs)

    return read


class _Results(list):
    """A list that tells when it dies without having been read."""

    __slots__ = ("_caller",)

    def __init__(self, results, caller):
        super().__init__(results)
        self._caller = caller

    def __radd__(self, other):  # of a list itself it would read past us
        return other + list(self)

    def __reduce_ex__(self, protocol):
        return list, (list(self),)

    def __del__(self):
        caller, self._caller = self._caller, None
        if caller is not None:
            try:
                caller.unread(list(list.__iter__(self)))
            except Exception as e:
                log.request_failed("guard.lost", e, "exception", False)


for _name in ("__iter__", "__reversed__", "__getitem__", "__contains__", "__eq__", "__ne__", "__add__", "__mul__", "__rmul__",
              "__repr__", "copy", "count", "index", "pop", "remove"):  # fmt: skip
    setattr(_Results, _name, _reading(_name))
