"""What is alive in this process, counted when nothing is going on: for comparing two moments of rest.

take() is asked for by a request, which itself is alive then: one request, always the same one, is part of every count.
"""

import abc
import collections
import ctypes
import gc
import linecache
import os
import re
import sys
import threading
import types
import weakref

import _ringcorn
from ringcorn import guard
from ringcorn.guard import blocks, source, unawaited

# What each request has some of, and which must all be gone once the requests are over.
OF_REQUESTS = (
    "Context", "Token", "Task", "_asyncio.Task", "Future", "_asyncio.Future", "coroutine", "async_generator", "generator", "frame", "traceback",
    "Lease", "Job", "_Receive", "_Send", "_Wait", "_Cycle", "_Input", "_StartResponse", "_Write", "TimerHandle", "Handle",
    "ASGIRequest", "WSGIRequest", "HttpResponse", "StreamingHttpResponse", "Request", "Connection", "Cursor",
    "TemporaryUploadedFile", "BytesIO", "SpooledTemporaryFile",
)  # fmt: skip
FOREIGN_MAX = 3  # threads of the server's own that may say something: the watchdog's, the one that looks at requests, the one for ringcornctl


def collect():
    """Until the collector finds nothing more: finalisers may leave more to collect."""
    forget_caches()
    for _ in range(10):
        if gc.collect() == 0:
            break


def forget_caches():
    """What is kept for the next time, by chance or for ever, up to a bound: of CPython what its own hunt for leaks (test.libregrtest) forgets too."""
    linecache.clearcache()  # filled by tracebacks
    re.purge()
    for one in gc.get_objects():
        if issubclass(type(one), abc.ABCMeta):
            one._abc_caches_clear()  # for each type that isinstance() has met two weak references and a function
    # The guardrails: which line has blocked the loop for how long, what was said when, whose file is whose.
    blocks.forget()
    guard.forget()
    source.is_application.cache_clear()
    source._kinds.clear()
    if hasattr(sys, "gettotalrefcount"):
        sys._clear_type_cache()  # which refers to names


def forget_alarm():
    """After an alarm coroutines know for a minute where they were made: no longer. Returns how many timers go on, each in a context of its own."""
    if unawaited._is_tracking:
        unawaited._track_no_more()
    return sum(type(one).__name__ == "TimerHandle" and one._callback is unawaited._track_no_more for one in gc.get_objects())


def forget_foreign():
    """What Python makes up of a thread that is not its own, to say its name: of the watchdog's, when it first says something. Made again then."""
    foreign = [ident for ident, thread in list(threading._active.items()) if isinstance(thread, threading._DummyThread)]
    for ident in foreign[:FOREIGN_MAX]:
        del threading._active[ident]


def handles():
    """What is queued or has a timer, by what it calls; None: it was cancelled, and is still in the heap."""
    found = [one for one in gc.get_objects() if type(one).__name__ in ("Handle", "TimerHandle")]
    return sorted(f"{type(one).__name__} {getattr(one._callback, '__qualname__', one._callback)}" for one in found)


def names():
    own = [thread.name.rstrip("0123456789") for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)]
    return sorted(own) + ["foreign"] * (threading.active_count() - len(own) - FOREIGN_MAX)


def forget_ended():
    """What is left of threads that have ended, some forty references each: a pool keeps it until it starts another thread."""
    for one in _pools:
        for threads in gc.get_referents(one()):
            if type(threads) is list:
                for thread in [thread for thread in threads if isinstance(thread, threading.Thread)]:
                    if thread.ident is not None and not thread.is_alive():
                        threads.remove(thread)


# What psycopg without C asks ctypes for when a server sends its first notice, which may be late; ctypes keeps it.
ctypes.POINTER(ctypes.py_object)

_pools = []


def pools():
    if not _pools:
        # The worker froze what there was when it began to serve, its pools among it; from now on all is counted.
        gc.unfreeze()
        _pools.extend(weakref.ref(one) for one in gc.get_objects() if type(one) is _ringcorn.Pool)
    names = ("threads", "threads_max", "running", "idle", "queued", "leased", "parked", "peak")
    return {pool.name: {name: getattr(pool, name) for name in names} for one in _pools if (pool := one()) is not None}


def light():
    """Without a collection: for asking until the pools have come to rest."""
    return {"pid": os.getpid(), "pools": pools(), "cancelling": sum(thread.name == "ringcorn-cancel" for thread in threading.enumerate())}


@guard.allow("block")  # the loop stands meanwhile, of which the watchdog is to say nothing
def take():
    # Nor are its thread, and others that wake up, to be met half way through something of theirs.
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        return count()
    finally:
        sys.setswitchinterval(before)


def count():
    pools()
    forget_ended()
    forget_foreign()
    timers = forget_alarm()
    collect()
    # None of our own containers may be alive when the references are counted, so that is done first.
    references = sys.gettotalrefcount() if hasattr(sys, "gettotalrefcount") else None
    counts = collections.Counter(type(one).__name__ for one in gc.get_objects())
    counts.subtract({"TimerHandle": timers, "Context": timers})
    return {
        **light(),
        "alarms": timers,
        "references": references,
        "blocks": sys.getallocatedblocks(),
        "objects": sum(counts.values()),
        "of_requests": {name: counts[name] for name in OF_REQUESTS if counts[name]},
        "types": dict(counts),
        "names": names(),
        "handles": handles(),
    }


def holders_of_exceptions():
    """Every exception that has a traceback, and who refers to it, and to those, and so on: what keeps a request's frames alive."""
    found, objects = [], gc.get_objects()
    ours = {id(objects), id(found), id(sys._getframe())}

    def climb(one, depth, seen):
        for holder in gc.get_referrers(one):
            if id(holder) in ours or id(holder) in seen or isinstance(holder, types.FrameType) and holder.f_code.co_name in ("climb", "<listcomp>"):
                continue
            seen.add(id(holder))
            found.append(f"{'  ' * depth}<- {type(holder).__name__} {repr(holder)[:160]}")
            if depth < 4 and len(found) < 60 and not isinstance(holder, types.ModuleType):
                climb(holder, depth + 1, seen)

    for one in [one for one in objects if isinstance(one, BaseException) and one.__traceback__ is not None]:
        found.append(f"{one!r:.200} with {sys.getrefcount(one)} references")
        climb(one, 1, {id(one)})
    return found


def describe(name, most=40):
    """What there is of a type, and who refers to it: to look into a difference. exceptions: holders_of_exceptions()."""
    if name == "exceptions":
        return holders_of_exceptions()
    found = []
    objects = gc.get_objects()
    for one in objects:
        if type(one).__name__ == name and len(found) < most:
            holders = [
                f"{type(holder).__name__} {repr(holder)[:120]}"
                for holder in gc.get_referrers(one)
                if holder is not objects and holder is not found and not isinstance(holder, types.FrameType)
            ]
            found.append(f"{repr(one)[:200]} <- {holders[:4]}")
    return found
