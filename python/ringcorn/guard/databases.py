"""Transactions that a request begins and leaves open: SQLAlchemy, synchronous or not, psycopg, asyncpg, and what is built on them.

What a request has used is noted at its lease, and looked at when the request has ended: the driver is asked, not the server. Noted are, where the
application has imported them:

    SQLAlchemy    connections that its pools hand out, until they are given back
    psycopg       connections on which a cursor was made (Django's own are orm.py's)
    asyncpg       connections on which a transaction was begun

A transaction that is open at that moment may be about to end, on a thread or in a task that goes on: it is looked at again a little later.
"""

import asyncio
import contextvars
import functools
import sys
import threading

import _ringcorn

from .. import hooks, live, log
from . import Event, driven, emit, is_allowed, is_news, source

SECOND_LOOK = 0.1  # seconds

_BUSY = (1, 2, 3)  # TransactionStatus of psycopg and psycopg2: ACTIVE, INTRANS, INERROR
_pending = set()  # Notes that are to be looked at again
_NOTES = "ringcorn_notes"  # in the info of a connection of SQLAlchemy's

# Holds leases where the application has neither asgiref nor AnyIO, for which the server makes them.
lease_var = contextvars.ContextVar("ringcorn_guard_lease", default=None)


class _Use:
    """A connection on which a request has begun a transaction, or is about to."""

    __slots__ = ("connection", "name", "place", "task", "thread")

    def __init__(self, connection, name):
        self.connection = connection
        self.name = name  # what it is to be called, beside its driver
        self.place = source.caller()
        self.task = current_task()
        self.thread = threading.get_ident()

    def is_left(self, ended):
        """A transaction is open there, and nobody works with it any more. *ended*: a task that does not."""
        if not in_transaction(self.connection):
            return False
        if self.task is not None:
            return self.task is ended or self.task.done()
        frame = sys._current_frames().get(self.thread) if self.place is not None else None
        while frame is not None:  # of a request that was cancelled: its thread goes on
            if frame.f_code is self.place.code:
                return False
            frame = frame.f_back
        return True


class Notes:
    """Of one request: the connections on which it has begun something. Called when it has ended."""

    __slots__ = ("label", "request_id", "used", "aliases")

    def __init__(self, label, request_id):
        self.label = label
        self.request_id = request_id
        self.used = {}  # id(connection): _Use
        self.aliases = {}  # of Django: what was used first (orm.py)

    def note(self, connection, name):
        if not in_transaction(connection):
            self.used[id(connection)] = _Use(connection, name)

    def forget(self, connection):
        self.used.pop(id(connection), None)

    def __call__(self, lease=None):
        loop = live.loop()
        if loop is None or loop.is_closed() or not any(in_transaction(use.connection) for use in self.used.values()):
            self.used.clear()  # among them the task in whose context we are
            return
        _pending.add(self)
        if threading.get_ident() == loop._thread_id:
            loop.call_later(SECOND_LOOK, self.tell, context=contextvars.Context())
        else:
            loop.call_soon_threadsafe(functools.partial(loop.call_later, SECOND_LOOK, self.tell, context=contextvars.Context()))

    def tell(self, ended=None):
        _pending.discard(self)
        for use in list(self.used.values()):
            if use.is_left(ended):
                tell_open(self.label, self.request_id, f"{use.name} ({type(use.connection).__module__.partition('.')[0]})", use.place)
        self.used.clear()


def flush():
    """The loop turns no more: what was to be looked at again is looked at now."""
    for notes in tuple(_pending):
        notes.tell()


def tell_open(label, request_id, name, place, what="a transaction was left open on", cure=None):
    """*place*: where it was begun, or None."""
    cure = cure or "commit it or roll it back, best by async with or with: engine.begin(), session.begin(), connection.transaction()"
    begun = "" if place is None else f", begun {place}"
    message = f"{label or 'unknown request'}: {what} {name}{begun}; {cure}"
    file, line, function = (place.file, place.line, place.function) if place is not None else (None, None, None)
    event = Event("transaction", message, label, request_id, file, line, function, cure=cure)
    emit(event, is_news(event))


def current_task():
    loop = asyncio._get_running_loop()
    return asyncio.current_task(loop) if loop is not None else None


def in_transaction(connection):
    """Whether a transaction is open on a driver's connection, as far as the driver knows. False where it is closed, or cannot be asked."""
    try:
        if hasattr(connection, "is_in_transaction"):  # asyncpg
            return not connection.is_closed() and connection.is_in_transaction()
        if hasattr(connection, "get_transaction_status"):  # psycopg2, MySQL's: a bool
            return connection.get_transaction_status() in _BUSY
        if hasattr(connection, "info") and hasattr(connection.info, "transaction_status"):  # psycopg
            return int(connection.info.transaction_status) in _BUSY
        return bool(getattr(connection, "in_transaction", False))  # sqlite3, aiosqlite
    except Exception:
        return False


def current_lease():
    """Of the request that the current context belongs to; None where that has ended, and in a WebSocket, which has no end in sight."""
    for pool in live.pools():
        for var in pool.context_vars:
            lease = var.get(None)
            if type(lease) is _ringcorn.Lease and not lease.is_closed and not lease.label.startswith("WS "):
                return lease
    return None


def current_notes():
    lease = current_lease()
    if lease is None:
        return _job_notes() if _jobs is not None else driven.get()
    notes = lease.at_end
    if notes is None:
        notes = lease.at_end = Notes(lease.label, log.request_id.get())
    return notes if type(notes) is Notes else None


# --- WSGI: a request is a job of a thread

_jobs = None  # the pool whose jobs are requests
_thread = threading.local()


def watch_jobs(pool):
    global _jobs
    if is_watching and _jobs is None:
        _jobs = pool
        hooks.add(pool, "on_job_end", _on_job_end)


def _job_notes():
    try:
        return _thread.notes
    except AttributeError:
        me = threading.get_ident()
        label = next((label for ident, label, _ in _jobs.leases() if ident == me), None)
        _thread.notes = Notes(label, log.request_id.get()) if label is not None else None
        return _thread.notes


def _on_job_end():
    notes = _thread.__dict__.pop("notes", None)
    if notes is not None:
        notes()


def _note(connection, name):
    notes = current_notes()
    if notes is not None and id(connection) not in notes.used and not is_allowed("transaction"):
        notes.note(connection, name)


# --- where they are noted: each function is called once, when the library has been imported

is_watching = False


def _watches(fn):
    @functools.wraps(fn)
    def watch():
        global is_watching
        is_watching = True
        fn()

    return watch


@_watches
def watch_sqlalchemy():
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def driver_connection(record, dbapi_connection):  # the same before SQLAlchemy 1.4.24, which has no name for it
        return getattr(record, "driver_connection", dbapi_connection)

    def on_checkout(dbapi_connection, record, proxy):
        notes = current_notes()
        if notes is not None and not is_allowed("transaction"):
            connection = driver_connection(record, dbapi_connection)
            notes.forget(connection)
            notes.note(connection, "a connection of SQLAlchemy")
            record.info[_NOTES] = notes

    def on_checkin(dbapi_connection, record):
        notes = record.info.pop(_NOTES, None)
        if notes is not None and dbapi_connection is not None:
            notes.forget(driver_connection(record, dbapi_connection))

    event.listen(Pool, "checkout", on_checkout)
    event.listen(Pool, "checkin", on_checkin)


@_watches
def watch_psycopg():
    import psycopg

    for cls in (psycopg.AsyncConnection, psycopg.Connection):
        _watch_cursors(cls)


def _watch_cursors(cls):
    stock = cls.cursor

    @functools.wraps(stock)
    def cursor(self, *args, **kwargs):
        if not self.cursor_factory.__module__.startswith("django."):
            _note_again(self)
        return stock(self, *args, **kwargs)

    cls.cursor = cursor


def _note_again(connection):
    """With a cursor a new transaction may begin, if none is open."""
    notes = current_notes()
    if notes is not None and not is_allowed("transaction"):
        if (known := notes.used.get(id(connection))) is None or known.name == "a connection of its own":
            notes.note(connection, "a connection of its own")


@_watches
def watch_asyncpg():
    from asyncpg.connection import Connection
    from asyncpg.transaction import Transaction

    start, execute = Transaction.start, Connection.execute

    @functools.wraps(start)
    def noted_start(self):
        _note(self._connection, "a connection of its own")
        return start(self)

    @functools.wraps(execute)
    def noted_execute(self, query, *args, **kwargs):
        if query[:5].upper() in ("BEGIN", "START"):
            _note(self, "a connection of its own")
        return execute(self, query, *args, **kwargs)

    Transaction.start, Connection.execute = noted_start, noted_execute


LIBRARIES = {"sqlalchemy.pool": watch_sqlalchemy, "psycopg": watch_psycopg, "asyncpg": watch_asyncpg}

