"""What threads do in the drivers of databases: hooks that say to the server when an operation begins and when it has ended.

The server adds up how long a request's threads were in there, and knows what may be cancelled (server/sync/driver.c; cancel.py does it):

    psycopg 3     every operation of a synchronous connection: Connection.wait(), also below Django, SQLAlchemy and pools
    psycopg2      what Django and SQLAlchemy execute
    sqlite3       the same, and what Django fetches (SQLite computes rows as they are fetched)
    others        their time, below Django and SQLAlchemy; they are named, once, as they cannot be cancelled

Queries are cancelled. Never are: commits and rollbacks, and other statements that only control a transaction or a session; what belongs to making
a connection (Django, SQLAlchemy); connections that two threads use at once. Nothing is imported for it.
"""

import functools
import gc
import re
import socket
import sys
import weakref

import _ringcorn

from . import imports, log

CANCEL_SECONDS = 5.0  # what the driver's way of cancelling gets
SHOWN_MAX = 200  # characters of a statement, in a line of the log

# What begins so, or ends so in its middle, is not touched: it ends soon by itself, and may be the end of somebody's work. Nothing of it
# backtracks, whatever is given to it. SELECT 1 is how
# Django and pools look whether a connection lives.
_CONTROL = re.compile(
    r"^\s*+(?>--[^\n]*+\n\s*+|/\*(?:[^*]|\*(?!/))*+\*/\s*+)*+"
    r"(?:begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction|set|reset|discard|deallocate|close|unlisten|listen|pragma)\b"
    r"|;\s*+(?:(?:commit|rollback|abort|prepare\s+transaction)\b|end\s*+(?:(?:work|transaction)\s*+)?;?\s*+\Z)",
    re.IGNORECASE,
)
_LOOK = re.compile(r"\s*+(?:select\s++1\s*+)?;?\s*+", re.IGNORECASE)

DOUBTFUL = "doubtful"  # end(): a cancellation may be on its way yet

WHY = {"gone": "its client has gone", "overdue": "it takes longer than timeouts.request", "leaving": "the worker leaves"}

_drivers = _ringcorn.Drivers()
begin, end = _drivers.begin, _drivers.end
_named = set()
_says = log.info


def drivers():
    """The server's part, a _ringcorn.Drivers."""
    return _drivers


def running(ident=None):
    """[(label of the request, seconds, statement)] of what threads do in drivers now; of one thread, or of all."""
    return [(label, seconds, shown(driver.text(statement))) for label, seconds, driver, _, statement, _ in _drivers.running(ident)]


def shown(text):
    """A statement as a line of the log has it, without its parameters."""
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."


def is_control(text):
    return _LOOK.fullmatch(text) is not None or _CONTROL.search(text) is not None


def mark(exception, why):
    """*exception* is what a request is told by. Returns it."""
    try:
        exception.ringcorn_cancelled = why
        exception.add_note(f"Ringcorn has cancelled this query: {WHY[why]}")
    except Exception:  # a class with slots of its own
        pass
    return exception


class Driver:
    """How one driver is dealt with."""

    name = "?"
    error = ()  # the class of what a cancelled operation raises

    def text(self, statement):
        """SQL, without parameters; of any thread's statement."""
        return statement if isinstance(statement, str) else _text(statement)

    def cancel(self, connection):
        raise NotImplementedError

    def reach(self, connection):
        """Raises OSError where the server cannot be reached: cancel() would wait for it with the GIL in its hand."""

    def server(self, connection):
        """Which server it is: something hashable."""
        return self.name

    def refusal(self, why):
        """The driver's own exception, for what does not begin."""
        raise NotImplementedError

    def is_cancellation(self, exception):
        """Django's own exception has the driver's as its cause."""
        return isinstance(exception, self.error) or isinstance(exception.__cause__, self.error)

    def drop(self, connection):
        """Nobody knows whether a cancellation of it comes yet: nothing may be run by it any more."""
        connection.close()
        _tell_django(connection)

    def settle(self, connection):
        """A cancellation was sent and has arrived: nothing of it may stay. Whether what the operation has found is lost by that."""
        return False

    def failed(self, exception, connection):
        """In place of end(). An error of another kind tells nobody that the request was given up."""
        is_told = self.is_cancellation(exception)
        why = end(exception) if is_told else end()
        if why == DOUBTFUL:
            self.drop(connection)
        elif why is not None:
            self.settle(connection)
            if is_told:
                mark(exception, why)

    def hit(self, why, connection, statement):
        """An operation has succeeded, though it was to be cancelled."""
        if why == DOUBTFUL:
            self.drop(connection)
        elif self.settle(connection):
            _drivers.told()
            raise mark(self.refusal(why), why)

    def begin(self, connection, statement):
        """Raises where the request was given up."""
        why = begin(connection, self, statement)
        if why is not None:
            self.refused(why, connection, statement)

    def is_in_transaction(self, connection):
        """Whether one is open. Python only, of this thread's connection."""
        return False

    def refused(self, why, connection, statement):
        if is_control(self.text(statement)):
            begin(None, self, statement)
            return
        if connection is not None and self.is_in_transaction(connection):
            # It begins and is cancelled: only then does the transaction fail with it, whoever keeps the error to himself.
            begin(connection, self, statement, True)
            return
        label = _drivers.told()
        log.debug("%s: its next query is refused, as %s: %s", label, WHY[why], shown(self.text(statement)))
        raise mark(self.refusal(why), why)


def _tell_django(connection):
    """Its thread's wrapper of that connection has no connection then, and makes another."""
    module = sys.modules.get("django.db")
    try:
        for wrapper in module.connections.all(initialized_only=True) if module is not None else ():
            if wrapper.connection is connection:
                wrapper.close()
    except Exception as e:
        log.debug("Django's connection is not given up: %r", e)


def _text(statement):
    if isinstance(statement, bytes):
        return statement.decode("utf-8", "replace")
    try:
        return statement.as_string(None)  # of psycopg.sql, psycopg2.sql
    except Exception:
        return str(statement)


_IDLE = 0  # libpq's PQTRANS_IDLE


class _PostgreSQL(Driver):
    def server(self, connection):
        try:
            info = connection.info
            return self.name, info.host, info.port
        except Exception:  # it was closed meanwhile
            return self.name

    def reach(self, connection):
        _, host, port = found if isinstance(found := self.server(connection), tuple) else (None, "", 0)
        if host and not host.startswith(("/", "@")):
            socket.create_connection((host, port), CANCEL_SECONDS).close()

    def is_in_transaction(self, connection):
        try:
            return connection.info.transaction_status != _IDLE
        except Exception:  # it was closed meanwhile
            return False

    def refusal(self, why):
        return self.error(f"canceling statement due to user request: {WHY[why]}")


class _Psycopg(_PostgreSQL):
    name = "psycopg"
    # Generators that work for a query; what is not among them is left alone.
    _GENERATORS = {
        "BaseCursor": ("_execute_gen", "_executemany_gen_pipeline", "_executemany_gen_no_pipeline", "_stream_send_gen", "_stream_fetchone_gen",
                       "_start_copy_gen"),
        "ServerCursorMixin": ("_declare_gen", "_fetch_gen", "_scroll_gen"),
        "BaseCopy": ("_read_gen", "_read_row_gen"),
        "BasePipeline": ("_exit_gen",),  # of executemany()
    }  # fmt: skip

    _MODULES = (
        "psycopg._cursor_base", "psycopg.cursor",  # which of them it is depends on the version
        "psycopg._server_cursor_base", "psycopg.server_cursor",
        "psycopg._copy_base", "psycopg.copy",
        "psycopg._pipeline_base", "psycopg._pipeline",
    )  # fmt: skip

    _GO_ON = ("_stream_fetchone_gen", "_read_gen", "_read_row_gen", "_exit_gen")

    def __init__(self, module):
        self.error = module.errors.QueryCanceled
        self.codes = tuple(self._codes())  # kept, so that their ids stay their own
        if not any(code.co_name == "_execute_gen" for code in self.codes):
            raise LookupError("psycopg.BaseCursor._execute_gen is not there")
        # Which it is, and whether it is a part of a query that runs already: to raise in its place would leave that in the connection.
        self.queries = {id(code): code.co_name in self._GO_ON for code in self.codes}
        # A connection that libpq 17 makes for it has a time limit, and is as safe as the one with the query.
        self.is_safe = hasattr(module.Connection, "cancel_safe") and _has_cancel_safe(module)

    def _codes(self):
        for module in self._MODULES:
            for cls, names in self._GENERATORS.items():
                found = getattr(sys.modules.get(module), cls, None)
                for name in names:
                    if hasattr(fn := getattr(found, name, None), "__code__"):
                        yield fn.__code__

    @staticmethod
    def is_own(pipeline):
        """Has executemany() made it for itself? In an application's own, what is cancelled may be any that is queued, a COMMIT too."""
        return type(getattr(pipeline, "_lock", None)).__name__ == "_DummyLock"

    def text(self, statement):
        """*statement*: a generator of psycopg's, perhaps one that runs."""
        frame = getattr(statement, "gi_frame", None)
        query = frame.f_locals.get("query", "") if frame is not None else ""
        name = getattr(statement, "__name__", "")
        if not query:
            return "" if name.startswith(("_execute", "_declare")) else f"({name.strip('_').removesuffix('_gen')})"
        return query if isinstance(query, str) else _text(query)

    def reach(self, connection):
        if not self.is_safe:
            super().reach(connection)

    def drop(self, connection):
        connection.pgconn.finish()  # close() may give it back to its pool
        super().drop(connection)

    def cancel(self, connection):
        if self.is_safe:
            connection.cancel_safe(timeout=CANCEL_SECONDS)
        else:
            connection.cancel()


def _has_cancel_safe(module):
    try:
        return bool(module.capabilities.has_cancel_safe())
    except Exception:
        return False


class _Psycopg2(_PostgreSQL):
    name = "psycopg2"

    def __init__(self, module):
        self.error = module.extensions.QueryCanceledError

    def cancel(self, connection):
        connection.cancel()


class _SQLite(Driver):
    name = "sqlite3"

    def __init__(self, module):
        self.error = module.OperationalError

    def server(self, connection):
        return self.name, id(connection)

    def refusal(self, why):
        return self.error("interrupted")

    def is_cancellation(self, exception):
        return super().is_cancellation(exception) and "interrupted" in str(exception)

    def cancel(self, connection):
        connection.interrupt()

    def settle(self, connection):
        """interrupt() is in force as long as any statement of the connection is active, a cursor that is read by half for example: ROLLBACK
        and whatever comes next would fail too. Such cursors are closed: SQLite means to end their statements as well.

        (A progress handler would end one operation alone. It takes the GIL where it has SQLite's mutex, for which other threads wait with the
        GIL in their hand when they use the same connection; and an application's own cannot be put back.)
        """
        if not self._is_interrupted(connection):
            return False
        for owned in gc.get_referents(connection):
            for ref in list(owned) if type(owned) is list else ():
                cursor = ref() if isinstance(ref, weakref.ref) else None
                if hasattr(cursor, "close"):
                    cursor.close()
        if self._is_interrupted(connection):
            log.warning("a connection of sqlite3 is closed, as an interruption stays in force there")
            self.drop(connection)
        return True

    def _is_interrupted(self, connection):
        try:
            connection.execute("SELECT 1").close()
        except self.error as e:
            return "interrupted" in str(e)
        except Exception:  # it was closed
            pass
        return False


class _Other(Driver):
    """One that cannot be cancelled: its time is taken, and no more."""

    def __init__(self, name):
        self.name = name


def of_module(module):
    """The Driver for a module of DB-API; one that cannot be cancelled is named, once."""
    name = getattr(module, "__name__", str(module))
    root = name.partition(".")[0]
    if (known := _known.get(root)) is None:
        make = _MAKERS.get(root)
        known = _known[root] = make(sys.modules[root]) if make is not None and root in sys.modules else _Other(root)
    if type(known) is _Other and root not in _named:
        _named.add(root)
        _says("queries by %s cannot be cancelled, they go on when their client has gone: only those by %s can", root, ", ".join(_MAKERS))
    return known


_known = {}
_MAKERS = {"psycopg": _Psycopg, "psycopg2": _Psycopg2, "sqlite3": _SQLite}


# --- the hooks: each function is called once, when its library has been imported


def watch_psycopg():
    import psycopg

    driver = of_module(psycopg)
    queries, stock = driver.queries, psycopg.Connection.wait

    @functools.wraps(stock)
    def wait(self, gen, *args, **kwargs):
        goes_on = queries.get(id(getattr(gen, "gi_code", None)))
        if goes_on is not None and (pipeline := self._pipeline) is not None and not driver.is_own(pipeline):
            goes_on = None
        if (why := begin(self if goes_on is not None else None, driver, gen, goes_on)) is not None:
            driver.refused(why, self, gen)
        try:
            result = stock(self, gen, *args, **kwargs)
        except BaseException as e:
            driver.failed(e, self)
            raise
        if (why := end()) is not None:
            driver.hit(why, self, gen)
        return result

    psycopg.Connection.wait = wait


class _Inside:
    """Around what is not to be cancelled, nor is what happens in it."""

    def __init__(self, driver, what):
        self.driver, self.what = driver, what

    def __enter__(self):
        begin(None, self.driver, self.what)

    def __exit__(self, *exc_info):
        end()


def _run(driver, connection, statement, fn, *args):
    driver.begin(connection, statement)
    try:
        result = fn(*args)
    except BaseException as e:
        driver.failed(e, connection)
        raise
    if (why := end()) is not None:
        driver.hit(why, connection, statement)
    return result


def watch_django():
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.signals import connection_created

    stock = BaseDatabaseWrapper.connect

    @functools.wraps(stock)
    def connect(self):
        with _Inside(_connecting, "connect"):
            return stock(self)

    BaseDatabaseWrapper.connect = connect
    connection_created.connect(_on_created, weak=False, dispatch_uid="ringcorn.drivers")


_connecting = _Other("connect")


def _on_created(connection, **kwargs):
    driver = of_module(connection.Database)
    if type(driver) is _Psycopg or any(getattr(one, "ringcorn_driver", None) for one in connection.execute_wrappers):
        return

    def around(execute, sql, params, many, context):
        wrapper = context["connection"]
        connection = wrapper.connection
        why = begin(connection if type(driver) is not _Other else None, driver, sql)
        if why is not None:
            with wrapper.wrap_database_errors:
                driver.refused(why, wrapper.connection, sql)
        try:
            result = execute(sql, params, many, context)
        except BaseException as e:
            driver.failed(e, connection)
            raise
        if (why := end()) is not None:
            driver.hit(why, connection, sql)
        return result

    around.ringcorn_driver = driver
    connection.execute_wrappers.insert(0, around)


def watch_django_sqlite():
    from django.db.backends.sqlite3.base import Database, SQLiteCursorWrapper

    driver = of_module(Database)

    def watched(stock):
        @functools.wraps(stock)
        def fetch(self, *args):
            return _run(driver, self.connection, "(fetch)", stock, self, *args)

        return fetch

    for name in ("fetchone", "fetchmany", "fetchall"):
        setattr(SQLiteCursorWrapper, name, watched(getattr(SQLiteCursorWrapper, name)))


def watch_sqlalchemy():
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import base

    def listener(name):
        def execute(cursor, statement, *args):
            dialect = args[-1].dialect
            if dialect.is_async or dialect.driver == _Psycopg.name or len(getattr(dialect.dispatch, name)) > 1:
                return False  # another listener would not be asked
            driver = of_module(dialect.dbapi)
            connection = cursor.connection if type(driver) is not _Other else None
            _run(driver, connection, statement, getattr(dialect, name), cursor, statement, *args)
            return True

        return execute

    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(Engine, name, listener(name))
    record, name = base._ConnectionRecord, "_ConnectionRecord__connect"
    if (stock := getattr(record, name, None)) is not None:

        @functools.wraps(stock)
        def connect(self):
            dialect = getattr(getattr(self, "_ConnectionRecord__pool", None), "_dialect", None)
            if dialect is None or dialect.is_async:  # other tasks run meanwhile, on the same thread
                return stock(self)
            with _Inside(_connecting, "connect"):
                return stock(self)

        setattr(record, name, connect)


LIBRARIES = {
    "psycopg": watch_psycopg,
    "django.db": watch_django,
    "django.db.backends.sqlite3.base": watch_django_sqlite,
    "sqlalchemy.pool": watch_sqlalchemy,
}


def install(loop, slot=0):
    """On the loop's thread, before the application is imported: each library is hooked when it is there."""
    global _says
    _says = log.info if slot == 0 else log.debug
    for name, watch in LIBRARIES.items():

        async def begin_to_watch(name=name, watch=watch):
            _watch(name, watch)

        if name in sys.modules:
            _watch(name, watch)
        else:
            imports.when_imported(name, loop, begin_to_watch, "ringcorn-drivers")


def _watch(name, watch):
    global _is_watching
    try:
        watch()
    except Exception as e:  # a version that is built in another way
        log.warning("%s is not understood, so its queries are not cancelled: %r", name, e)
        return
    _is_watching = True
    _give_leases()


_is_watching = _is_wsgi = False


def serve(pool, is_wsgi):
    """When the application has been imported: *pool* runs the synchronous code of requests, whose leases are in its context_vars."""
    global _is_wsgi
    from . import guard

    _is_wsgi = is_wsgi
    _drivers.pool = pool
    _drivers.allowed = guard._allowed
    _give_leases()


def _give_leases():
    """An application without asgiref and AnyIO has requests without leases, and a thread could not tell whose it is."""
    pool = _drivers.pool
    if _is_watching and pool is not None and not _is_wsgi and not pool.context_vars and "asgiref.sync" not in sys.modules:
        from .guard.databases import lease_var

        pool.context_vars += (lease_var,)
