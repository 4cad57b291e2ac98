"""Django's database connections on the threads of the pools: as many as threads, closed where they were opened.

Django keeps a connection per thread and alias. The threads of the sync pool live on between requests, so their connections do too, as
long as CONN_MAX_AGE says. What Django cannot know is done here, by hooks that run on the thread itself:

    on_thread_end, on_surplus     its connections are closed
    on_acquire                    a request never inherits the open transaction of another
    may_release                   is there an open transaction, or a cursor that is still being read?
    on_job_end (executor pool)    what a job opened is closed with it: no signal of Django's ever comes by there
    on_park                       sync.park_close_db: the request awaits something else for long, its clean connections go

A connection that nobody has opened costs nothing: what is looked at is the thread's own list of connections, which Django's signal
connection_created fills.
"""

import asyncio
import atexit
import contextlib
import sys
import threading

from django.db import connections
from django.db.backends.signals import connection_created

from .. import hooks, log
from ..guard import orm

_IDLE = 0  # psycopg's TransactionStatus.IDLE, and psycopg2's TRANSACTION_STATUS_IDLE


class _Thread(threading.local):
    """What this thread has opened."""

    def __init__(self):
        self.opened = []  # DatabaseWrappers that have connected at least once
        self.cursors = {}  # of these: named cursors made before the present lease
        self.is_open = False  # one of them connected since close_all()


_thread = _Thread()


def install(pool, executor_pool, options):
    """Called once, on the loop's thread, when Django is set up and before the first request.

    options: django_conn_max_age, sync_park_close_db (seconds or None).
    """
    override_conn_max_age(options["django_conn_max_age"])
    # What was asked while the application was imported: the loop's thread would keep that connection for ever.
    with _outside_the_loop():
        close_all()
    connection_created.connect(_on_created, weak=False, dispatch_uid="ringcorn")
    for one in (pool, executor_pool):
        hooks.add(one, "on_thread_end", close_all)
    hooks.add(pool, "on_surplus", close_all)
    hooks.add(pool, "on_acquire", on_acquire)
    hooks.add(pool, "may_release", is_clean)
    hooks.add(executor_pool, "on_job_end", on_job_end)
    if options["sync_park_close_db"]:
        pool.park_timeout = options["sync_park_close_db"]
        hooks.add(pool, "on_park", on_park)
    _give_way_to_pools(pool)
    atexit.register(_close_pools)


def _give_way_to_pools(pool):
    """A request that waits for a connection of psycopg's pool gives its slot away: it may wait for one that has a connection and no slot."""
    if any(settings["OPTIONS"].get("pool") for settings in connections.settings.values()):
        with contextlib.suppress(ImportError):  # another database's pool, or none installed, of which Django speaks
            from psycopg_pool import ConnectionPool

            pool.blocking_code += (ConnectionPool.getconn.__code__,)


@contextlib.contextmanager
def _outside_the_loop():
    """While a loop runs in this thread, Django shows the connections of asynchronous code, and lets nobody use them."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


def override_conn_max_age(value):
    """Writes ``django.conn_max_age`` ("inherit", "none" or seconds) into the settings of every database. Returns the aliases it changed.

    A connection reads them when it connects. Django's pool of psycopg excludes CONN_MAX_AGE, so its aliases stay as they are.
    """
    if value.lower() == "inherit":
        return []
    seconds = None if value.lower() == "none" else int(value)
    changed = []
    for alias, settings in connections.settings.items():
        if not settings["OPTIONS"].get("pool"):
            settings["CONN_MAX_AGE"] = seconds
            settings["CONN_HEALTH_CHECKS"] = True
            changed.append(alias)
    return changed


def _on_created(connection, **kwargs):
    thread = _thread
    thread.is_open = True
    if not any(one is connection for one in thread.opened):
        # Wrappers that the application makes for itself, or puts in another's place, are its own affair.
        thread.opened = [one for one in (*thread.opened, connection) if _is_djangos(one)]


def _is_djangos(connection):
    return connection.alias in connections.settings and connections[connection.alias] is connection


def close_all():
    """Closes this thread's connections. One that cannot be closed does not keep the others open."""
    _thread.is_open = False
    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except Exception as e:
            log.request_failed(threading.current_thread().name, e, f"closing database {connection.alias!r} failed", False)
        if connection.in_atomic_block:
            _forget(connection)


def _forget(connection):
    """Closed inside atomic(), a wrapper refuses to connect again until atomic() ends, which here it never does. Another takes its place."""
    del connections[connection.alias]
    _thread.opened = [one for one in _thread.opened if one is not connection]
    _thread.cursors.pop(connection, None)


def on_job_end():
    """On a thread of the executor pool, after each job."""
    if _thread.is_open:
        close_all()


def on_acquire():
    """A request got this thread. Runs before its first call."""
    for connection in _thread.opened:
        if connection.in_atomic_block:
            _abandon(connection)
        else:
            _thread.cursors[connection] = _cursors(connection)


def _abandon(connection):
    """Whoever entered atomic() ended without leaving it: cancelled between __aenter__ and __aexit__ of his own, for example."""
    is_told = orm.seen(connection).is_told  # with its request
    say = log.debug if is_told else log.warning
    say(
        "database %r: the request before on thread %s ended inside transaction.atomic(); its transaction is rolled back",
        connection.alias, threading.current_thread().name,
    )  # fmt: skip
    try:
        connection.close()
    finally:
        _forget(connection)


def _cursors(connection):
    return getattr(connection, "_named_cursor_idx", 0)


def is_clean():
    """Whether nothing of this thread's connections would be missed, were they another's next, or closed."""
    return all(_is_clean(connection) for connection in _thread.opened)


def _is_clean(connection):
    if connection.connection is None:
        return True
    if connection.in_atomic_block or connection.needs_rollback or not connection.autocommit:
        return False
    return not (_in_transaction(connection) or _is_read(connection))


def _in_transaction(connection):
    """Of a BEGIN that Django has not seen. Asks the driver, not the server."""
    if connection.vendor == "postgresql":
        return int(connection.connection.info.transaction_status) != _IDLE
    return bool(getattr(connection.connection, "in_transaction", False))


def _is_read(connection):
    """Whether rows of a query are still to be fetched, by iterator() or aiterator().

    PostgreSQL's are those of a named cursor, WITH HOLD and so outside of any transaction: that one was made during this lease is all
    that can be told, not whether it is at its end. Elsewhere a cursor that lives refers to its connection.
    """
    if hasattr(connection, "_named_cursor_idx"):
        return connection._named_cursor_idx != _thread.cursors.get(connection, 0)
    return sys.getrefcount(connection.connection) > 2  # the wrapper's, and the argument's


def on_park():
    """The thread's request has called nothing for sync.park_close_db."""
    if _thread.is_open and is_clean():
        close_all()


def _close_pools():
    """At the worker's end: psycopg's pools say goodbye to the server."""
    for alias in connections:
        if connections.settings[alias]["OPTIONS"].get("pool"):
            connection = connections[alias]
            if hasattr(connection, "close_pool"):
                connection.close_pool()
