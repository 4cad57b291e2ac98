"""What blocks the event loop: the words, and the counts.

Called by server/guard/blame.c on its own thread with the GIL, while the loop stands: nothing here waits for the loop, or for a lock that the
application can hold.
"""

import os
import re
import sys
import threading
import time

from ..places import text
from . import Event, emit, is_allowed, source, whose

CULPRITS_MAX = 256
MINUTE = 60.0
STACK_MAX = 30

_SLEEP = "use await asyncio.sleep()"
_HTTP = "use httpx.AsyncClient, or await asyncio.to_thread()"
_ORM = "use the ORM's asynchronous methods (aget(), async for), or asgiref's sync_to_async()"
_DATABASE = "use an asynchronous driver, or sync_to_async() or await asyncio.to_thread()"
_PROCESS = "use await asyncio.create_subprocess_exec()"
_NETWORK = "use asyncio's own (open_connection(), loop.getaddrinfo()), or await asyncio.to_thread()"
_LOCK = "use asyncio.Lock, asyncio.Event and their like, or wait in await asyncio.to_thread()"
_FILE = "use await asyncio.to_thread(), or aiofiles"
_IMPORT = "import it when the application starts, not in a request"
_CPU = "if it computes: await asyncio.to_thread() keeps the loop turning, a process (ProcessPoolExecutor) also gives it a CPU"

# By the file that the application has called into, outermost first.
_FILES = (
    (re.compile(r"-packages/(requests|urllib3|httpx)/|/urllib/request\.py$|/http/client\.py$"), _HTTP),
    (re.compile(r"-packages/django/db/"), _ORM),
    (re.compile(r"-packages/(sqlalchemy|psycopg|psycopg2|MySQLdb|pymysql|pymongo|redis)/|/sqlite3/"), _DATABASE),
    (re.compile(r"/subprocess\.py$"), _PROCESS),
    (re.compile(r"/(socket|ssl|smtplib|ftplib)\.py$"), _NETWORK),
    (re.compile(r"/(threading|queue)\.py$|/concurrent/futures/"), _LOCK),
    (re.compile(r"/(pathlib|shutil|tempfile)(/\w+)?\.py$"), _FILE),
)
# By the call itself, as it is written: functions in C have no frame.
_CALLS = (
    (re.compile(r"\bsleep\("), _SLEEP),
    (re.compile(r"\brequests\.|\burlopen\("), _HTTP),
    (re.compile(r"\.(execute|executemany|executescript|fetchone|fetchmany|fetchall|commit|rollback)\("), _DATABASE),
    (re.compile(r"\bsubprocess\.|\bos\.(system|popen|wait\w*)\("), _PROCESS),
    (re.compile(r"\bgetaddrinfo\(|\bgethostby\w+\(|\.(recv|recv_into|sendall|connect|accept)\("), _NETWORK),
    (re.compile(r"\.(acquire|join|result)\("), _LOCK),
    (re.compile(r"\bopen\(|\.(read|readline|readlines|read_text|read_bytes|write|write_text|write_bytes|fsync)\("), _FILE),
)


class _Culprit:
    def __init__(self, file, line, function):
        self.file, self.line, self.function = file, line, function
        self.call = self.cure = ""
        self.count, self.total, self.longest = 0, 0.0, 0.0
        self.request, self.stack = None, ()
        self.said_at, self.level, self.unsaid = float("-inf"), -1, 0


_culprits = {}
_now = None  # the culprit of the block that goes on


def _cure(places, i, call):
    """places[i] is the guilty one; *call*: what it calls."""
    for code, _, _ in reversed(places[:i]):
        if source.is_import(code.co_filename):
            return _IMPORT
        for pattern, cure in _FILES:
            if pattern.search(code.co_filename):
                return cure
    texts = [call] + ([source.called(*places[0])] if i else [])
    for text in texts:
        for pattern, cure in _CALLS:
            if pattern.search(text):
                return cure
    return _CPU


def _describe(places):
    return tuple(text(code, line) for code, line, _ in places[:STACK_MAX])


def _culprit(file, line, function):
    culprit = _culprits.get((file, line))
    if culprit is None:
        if len(_culprits) >= CULPRITS_MAX:  # the one that has cost the least
            del _culprits[min(_culprits, key=lambda key: _culprits[key].total)]
        culprit = _culprits[file, line] = _Culprit(file, line, function)
    return culprit


def _owner(places, context, task, label):
    """Whose step it is: (label, id), and words for the log."""
    label, its_id = whose(context, task, label) if context is not None else (label, None)
    if label is not None:
        return label, its_id, label
    if task is None:
        return None, its_id, "a callback of the event loop"
    name = task.get_name()
    if name in ("lifespan", "ringcorn"):  # the server's own tasks: what runs in them is the application's start or end
        return None, its_id, "lifespan"
    return None, its_id, f"task {name!r}"


def blocked(seconds, level, scene, task, label, wants_gil):
    """*level*: 0 for a new block, 1 and 2 for one that has lasted for 1 and 10 seconds. None: it does not count. Else what an alert
    says of it, in UTF-8: (by what, request, place, cure)."""
    global _now
    places, context, ident = scene
    if context is not None and is_allowed("block", context):
        return None
    if any(code.co_filename.endswith(("/bdb.py", "/pdb.py")) for code, _, _ in places):
        return None
    i = source.guilty(places)
    if i is None and not wants_gil:
        return None
    code, line, lasti = places[i] if i is not None else (None, None, None)
    call = source.called(code, line, lasti) if code is not None else ""
    where = f"{code.co_filename}:{line} in {code.co_qualname}" if code is not None else ""
    if wants_gil:
        thread = threading._active.get(ident)  # not enumerate(): it takes a lock
        name = f"thread {thread.name!r}" if thread is not None else "another thread"
        label = next((lease for pool in _pools() for holder, lease, _ in pool.leases() if holder == ident), None)
        its_id, owner = None, label or "no request"
        cure = "C code that computes should let go of the GIL, or run in a process"
        what = f"{name} keeps the GIL, and the event loop has waited for it for"
        tail = f" at {where}: {call}" if where else ""
        by = f"{name} keeps the GIL{tail} ({owner})"
    else:
        label, its_id, owner = _owner(places, context, task, label)
        cure = _cure(places, i, call)
        what = "blocks the event loop for" if _now is None else "still blocks the event loop, for"
        tail = f" at {where}: {call}"
        by = f"{owner}{tail}"
    message = f"{owner}: {what} {seconds:.1f} s{tail}; {cure}"
    file, function = (code.co_filename, code.co_qualname) if code is not None else (name, "")
    culprit = _culprit(file, line, function)
    culprit.request, culprit.call, culprit.cure = owner, call, cure
    is_new = _now is None
    if culprit is not _now:
        culprit.count += 1
        inner = (i or 0) + 1  # above it, the frameworks are of no use
        culprit.stack = _describe([place for n, place in enumerate(places) if n < inner or source.is_application(place[0].co_filename)])
    _now = culprit
    level = max(level, (seconds >= 1) + (seconds >= 10))  # the first look may come late, for want of the GIL
    if level <= culprit.level:
        culprit.unsaid += is_new
    else:
        culprit.level = level
        culprit.said_at = time.monotonic()
        emit(Event("block", message, label, its_id, file, line, function, seconds, cure, stack=_describe(places)))
    return tuple(text.encode("utf-8", "replace") for text in (by, label or "", where or name, cure))


def place(scene):
    """Of a step that takes a while, for the figures of its route: "file:line" of the line that is guilty, as short as it goes; or None."""
    places, _, _ = scene
    i = source.guilty(places)
    if i is None:
        return None
    code, line, _ = places[i]
    file = code.co_filename
    for folder in (os.getcwd(), *filter(None, sys.path)):
        if file.startswith(folder.rstrip("/") + "/"):
            file = file[len(folder.rstrip("/")) + 1 :]
            break
    return f"{file}:{line}".encode("utf-8", "replace")


def forget():
    _culprits.clear()


def over(seconds):
    """What was told of last has ended, after so long in all."""
    global _now
    if _now is not None:
        _now.total += seconds
        _now.longest = max(_now.longest, seconds)
    _now = None


def minute(_):
    """Those that were told of before have gone on: one line each."""
    now = time.monotonic()
    for culprit in list(_culprits.values()):
        if culprit.unsaid and now - culprit.said_at >= MINUTE:
            from .. import log

            log.warning(
                "%s: blocked the event loop %d more times at %s:%s in %s: %s; %.1f s in all, %.1f s at most; %s",
                culprit.request, culprit.unsaid, culprit.file, culprit.line, culprit.function, culprit.call,
                culprit.total, culprit.longest, culprit.cure,
            )  # fmt: skip
            culprit.said_at, culprit.unsaid = now, 0


def _pools():
    from .. import live

    return live.pools()


def table():
    """For ringcornctl: by culprit, the dearest first."""
    rows = [
        {
            "total_s": culprit.total,
            "longest_s": culprit.longest,
            "count": culprit.count,
            "place": f"{culprit.file}:{culprit.line}",
            "function": culprit.function,
            "call": culprit.call,
            "last_request": culprit.request,
            "stack": list(culprit.stack),
        }
        for culprit in list(_culprits.values())
    ]
    return sorted(rows, key=lambda row: -row["total_s"])
