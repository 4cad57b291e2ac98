"""Which line is the application's, and what it calls."""

import functools
import linecache
import os
import re
import sys
import sysconfig

from ..places import is_own, suspended

TEXT_MAX = 80

_STANDARD = tuple({os.path.join(path, "") for name in ("stdlib", "platstdlib") if (path := sysconfig.get_path(name))})
_SITES = re.compile(r"/(site|dist)-packages/")


@functools.lru_cache(4096)
def is_application(file):
    """Neither the server's, nor a library's, nor Python's."""
    return not (is_own(file) or file.startswith("<") or _SITES.search(file) or file.startswith(_STANDARD))


def is_import(file):
    return file.startswith("<frozen importlib")


_kinds = {}  # file -> 0: Python's or ours, 1: a library's, 2: the application's
KINDS_MAX = 4096


def _kind(file):
    kind = _kinds.get(file)
    if kind is None:
        is_neither = is_own(file) or file.startswith("<") or (file.startswith(_STANDARD) and not _SITES.search(file))
        kind = 0 if is_neither else 2 if is_application(file) else 1
        if len(_kinds) < KINDS_MAX:
            _kinds[file] = kind
    return kind


def maker(frame):
    """(code, line) of the innermost frame, from *frame* outwards, that is neither Python's nor ours, where it is the application's; None where it
    is a library's, or there is none."""
    while frame is not None:
        code = frame.f_code
        kind = _kind(code.co_filename)
        if kind != 0:
            return (code, frame.f_lineno) if kind == 2 else None
        frame = frame.f_back
    return None


def guilty(places, file_of=lambda place: place[0].co_filename):
    """The index in *places*, innermost first, of the innermost one of the application; else of who imports, where something is imported, or of the
    innermost that is not ours. None: no such."""
    files = [file_of(place) for place in places]
    imports = max((i for i, file in enumerate(files) if is_import(file)), default=-1)
    for fits in (is_application, lambda file: not is_own(file)):
        for i, file in enumerate(files):
            if fits(file) and (i > imports or fits is is_application):
                return i
    return None


class Place:
    """A line that runs, or has run."""

    __slots__ = ("code", "line", "lasti")

    def __init__(self, frame):
        self.code = frame.f_code
        self.line = frame.f_lineno
        self.lasti = frame.f_lasti

    @property
    def file(self):
        return self.code.co_filename

    @property
    def function(self):
        return self.code.co_qualname

    @property
    def call(self):
        return called(self.code, self.line, self.lasti)

    def __str__(self):
        return f"at {self.file}:{self.line} in {self.function}: {self.call}"


def caller():
    """The innermost Place of the application from which we were called, also beyond the greenlet (SQLAlchemy's) that we are in; None where there
    is none."""
    frame, greenlet = sys._getframe(1), sys.modules.get("greenlet")
    here = greenlet.getcurrent() if greenlet is not None else None
    while True:
        while frame is not None:
            if is_application(frame.f_code.co_filename):
                return Place(frame)
            frame = frame.f_back
        here = here.parent if here is not None else None
        if here is None:
            return None
        frame = here.gr_frame


def awaits(coroutine):
    """The innermost Place of the application where *coroutine* is suspended; None where there is none."""
    frames, _ = suspended(coroutine)
    return next((Place(frame) for frame, _ in reversed(frames) if is_application(frame.f_code.co_filename)), None)


def called(code, line, lasti):
    """The call that runs at *lasti*: "time.sleep(0.5)", in one line; "" where the source is not at hand."""
    try:
        first, last, begin, end = next(p for i, p in enumerate(code.co_positions()) if i == lasti // 2)
    except StopIteration:
        first = None
    if first is None or None in (last, begin, end) or first != line:
        return linecache.getline(code.co_filename, line).strip()[:TEXT_MAX]
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(first, min(last, first + 5) + 1)]
    if not any(lines):
        return ""
    if last == first:
        text = lines[0][begin:end]
    else:
        text = b" ".join((lines[0][begin:], *lines[1:]))  # a call over several lines: its end is cut off below
    text = " ".join(text.decode("utf-8", "replace").split())
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 3] + "..."
