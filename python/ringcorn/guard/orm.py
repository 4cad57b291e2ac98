"""Django's ORM where it does not belong: on the event loop, or on a thread that is not its request's.

    watch_refusals()      SynchronousOnlyOperation is told of when it is made, also where the application swallows it
    watch_connections()   a request that uses two connections to one database, so that one part of its work is outside of the other's transaction; a cursor
                          on a thread that is not its connection's; a transaction that is open when the request ends

Django keeps a connection for each thread. A request's synchronous code has one thread, so it has one connection; what it sends elsewhere
(sync_to_async(thread_sensitive=False), asyncio.to_thread()) gets another.
"""

import contextvars
import functools
import sys
import threading

from .. import live, log
from . import Event, databases, emit, fail, is_allowed, is_news, source, whose

_ORM = "use the ORM's asynchronous methods (aget(), acount(), async for), or await sync_to_async()"
_THREAD = "use sync_to_async() as it is, with thread_sensitive=True: it runs on the request's thread"
_holders = None  # ringcorn.django.holders, once there is a request
_LEFT = "leave atomic() where it was entered (with), and commit() or rollback() after set_autocommit(False)"


def _label(context):
    """(label, id): a WSGI request, and what a thread does behind an answer, have a thread, but nothing in the context."""
    label, its_id = whose(context)
    if label is None:
        me = threading.get_ident()
        label = next((who for pool in live.pools() for ident, who, _ in pool.leases() if ident == me), None)
    return label, its_id


def _tell(kind, text, place, cure):
    context = contextvars.copy_context()
    label, its_id = _label(context)
    file, line, function = (place.file, place.line, place.function) if place is not None else (None, None, None)
    event = Event(kind, f"{label or 'unknown request'}: {text}; {cure}", label, its_id, file, line, function, cure=cure)
    fail(event, context)
    emit(event, is_news(event))


def _at(place):
    return f" {place}" if place is not None else ""


# --- on the event loop


def watch_refusals():
    from django.core.exceptions import SynchronousOnlyOperation

    stock = SynchronousOnlyOperation.__init__

    @functools.wraps(stock)
    def init(self, *args, **kwargs):
        stock(self, *args, **kwargs)
        try:
            if not is_allowed("sync") and not _is_page_of_an_error():
                place = source.caller()
                _tell("sync", f"the ORM is used on the event loop, which Django refuses (SynchronousOnlyOperation){_at(place)}", place, _ORM)
        except Exception as e:
            log.request_failed("guard.sync", e, "exception", False)

    SynchronousOnlyOperation.__init__ = init


def _is_page_of_an_error():
    """Django's page for developers shows what variables hold, and querysets among them ask the database."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith("/django/views/debug.py"):
            return True
        frame = frame.f_back
    return False


# --- on threads


class _Seen:
    """What is known of a DatabaseWrapper; an attribute of it."""

    __slots__ = ("begun", "is_told", "depth")

    def __init__(self):
        self.begun = None  # Place of the first query of a transaction
        self.is_told = False  # of the transaction that is open
        self.depth = 0  # of atomic() when the request began: of tests


def seen(connection):
    try:
        return connection._ringcorn_seen
    except AttributeError:
        connection._ringcorn_seen = one = _Seen()
        return one


def depth(connection):
    """How many atomic() it is in."""
    return connection.in_atomic_block + len(connection.savepoint_ids)


def watch_connections():
    from django.core.signals import request_finished
    from django.db import close_old_connections
    from django.db.backends.signals import connection_created

    connection_created.connect(_on_created, weak=False, dispatch_uid="ringcorn.guard")
    # Before close_old_connections(), which closes what is in a transaction that Django does not know of: it would be gone.
    is_there = request_finished.disconnect(close_old_connections)
    request_finished.connect(on_finished, weak=False, dispatch_uid="ringcorn.guard")
    if is_there:
        request_finished.connect(close_old_connections)


LIBRARIES = {"django.db": watch_connections}
REFUSALS = {"django.core.exceptions": watch_refusals}


def _on_created(connection, **kwargs):
    if _noting not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _noting)


def _noting(execute, sql, params, many, context):
    """Around each query."""
    connection = context["connection"]
    if (not connection.autocommit or sql == "BEGIN") and not databases.in_transaction(connection.connection):
        one = seen(connection)
        one.begun, one.is_told = source.caller(), False
    me = threading.get_ident()
    if me != connection._thread_ident and not connection.allow_thread_sharing:
        _crosses(connection)
    elif (notes := databases.current_notes()) is not None:
        first = notes.aliases.get(connection.alias)
        if first is None or first.connection is not connection:
            _look_at_second(notes, first, connection, me)
    return execute(sql, params, many, context)


class _First:
    """What a request has used of an alias first."""

    __slots__ = ("connection", "place", "thread", "is_told")

    def __init__(self, connection, place):
        self.connection = connection
        self.place = place  # None: on the request's own thread
        self.thread = threading.current_thread().name
        self.is_told = False


def _look_at_second(notes, first, connection, me):
    lease = databases.current_lease()
    is_own = lease is not None and lease.thread_ident == me
    place = None if is_own else source.caller()
    if first is None:
        notes.aliases[connection.alias] = _First(connection, place)
        return
    if first.is_told or (is_own and first.place is None) or is_allowed("transaction"):
        return  # its thread has changed, as sync.affinity lets it
    first.is_told = True
    is_split = any(not one.autocommit or one.in_atomic_block for one in (first.connection, connection))
    guilty = place if place is not None else first.place
    here = threading.current_thread().name
    elsewhere, other = (here, first.thread) if place is not None else (first.thread, here)
    _tell(
        "transaction",
        f"database {connection.alias!r} is used on thread {elsewhere}{_at(guilty)}, by a second connection beside that of thread {other}"
        + (", outside of the transaction that is open there" if is_split else ""),
        guilty,
        _THREAD,
    )


def _crosses(connection):
    if not is_allowed("transaction"):
        place = source.caller()
        _tell(
            "transaction",
            f"a cursor of database {connection.alias!r} is used on thread {threading.current_thread().name}{_at(place)}, and its connection "
            "belongs to another thread",
            place,
            _THREAD,
        )


# --- at the end


def on_started(**kwargs):
    """Of tests: their transactions are not the request's."""
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        one = seen(connection)
        one.depth, one.is_told = depth(connection), False


def on_finished(**kwargs):
    """The first receiver of request_finished."""
    global _holders
    if _holders is None:
        from ..django import holders as _holders
    for connection in _holders.open_connections():
        if connection.connection is not None:
            _look_at_end(connection)


def _look_at_end(connection):
    one, deep = seen(connection), depth(connection)
    if one.is_told or is_allowed("transaction"):
        return
    if deep > one.depth:
        how = "by transaction.atomic(), which was not left"
    elif deep == 0 and databases.in_transaction(connection.connection):
        how = "by set_autocommit(False)" if not connection.autocommit else "by BEGIN"
    else:
        return
    one.is_told = True
    label, its_id = _label(contextvars.copy_context())
    databases.tell_open(label, its_id, f"database {connection.alias!r} {how}", one.begun, "a transaction was left open on", _LEFT)
