"""How many connections to its databases an application needs, by its configuration, beside what the databases allow.

For ``ringcorn --check-config``. Django's databases and SQLAlchemy's engines are found by what the application has set up; PostgreSQL is
asked through them, each on a daemon thread of its own and for ASK_SECONDS at most, by reading settings alone.
"""

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Callable

from . import sqlalchemy_hints

ASK_SECONDS = 2
ASKER = "ringcorn-check"  # the name of the threads
# One row for whoever may log in; see PostgreSQL's "System Catalogs". reserved_connections is there from 16 on.
QUESTION = (
    "SELECT current_setting('max_connections'), current_setting('superuser_reserved_connections'),"
    " coalesce(current_setting('reserved_connections', true), '0'), r.rolname, r.rolconnlimit, r.rolsuper, d.datconnlimit, pg_backend_pid()"
    " FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()"
)


@dataclass
class Answer:
    """What a server says of its limits, and who answered: behind a pooler, the process is another than the one that let us in."""

    limits: list = field(default_factory=list)  # (connections, why)
    is_pooled: bool = False

    @classmethod
    def of(cls, row, backend_pid):
        most, for_superusers, reserved, role, of_role, is_superuser, of_database, pid = row
        kept = int(for_superusers) + int(reserved)
        limits = [(int(most) - kept, f"max_connections {most}, {kept} of them reserved")]
        if of_role >= 0 and not is_superuser:
            limits.append((of_role, f"role {role!r} may have {of_role}"))
        if of_database >= 0 and not is_superuser:
            limits.append((of_database, f"the database may have {of_database}"))
        return cls(limits, backend_pid is not None and backend_pid != pid)

    @property
    def allowed(self):
        return min(self.limits)


@dataclass
class Need:
    name: str  # for lines
    place: str  # the same, with where it is
    server: object  # equal for the same server
    each: int | None  # connections of a worker in steady state; None: there is no telling
    most: int | None  # and at worst
    ask: Callable[[], Answer] | None = None  # None: not a PostgreSQL; any thread
    uses_named_cursors: bool = False
    why: str = ""  # where it is not the number of threads


def lines(workers, threads, threads_max):
    """Yields what to print. *threads_max*: not less than *threads*."""
    s = "" if workers == 1 else "s"
    yield (
        f"synchronous code: {workers} worker{s} x {threads} threads = {workers * threads} calls at once and database connections; "
        f"at worst {workers} x {threads_max} = {workers * threads_max}"
    )
    needs = [*_of_django(threads, threads_max), *_of_sqlalchemy(threads, threads_max)]
    answers = _ask(needs)
    servers = {}
    for need, answer in zip(needs, answers):
        yield from _of_one(need, answer, workers)
        if isinstance(answer, Answer) and not answer.is_pooled and need.each is not None:
            servers.setdefault(need.server, []).append((need, answer))
    for together in servers.values():
        if len(together) > 1:
            yield from _of_server(together, workers)


def _of_one(need, answer, workers):
    text = f"{need.place}: "
    if need.each is None:
        text += f"any number of connections{need.why}"
    else:
        each, most = workers * need.each, workers * need.most
        text += f"{each} connections" + (f", at worst {most}" if most != each else "") + need.why
    if answer is None:
        yield text
    elif isinstance(answer, Exception):
        yield f"{text}; what it allows could not be asked: {_first_line(answer)}"
    elif answer.is_pooled:
        yield f"{text}; there is a pooler in front (PgBouncer or the like), whose limits count"
        if need.uses_named_cursors:
            yield (
                f"warning: {need.name}: if that pooler pools by transaction, QuerySet.iterator() fails; "
                'write "DISABLE_SERVER_SIDE_CURSORS": True there'
            )
    else:
        allowed, why = answer.allowed
        yield f"{text}; it allows {allowed} ({why})"
        if need.each is not None:
            cure = f"sync.threads_max: {allowed // workers} fits" if not need.why else "make its pool smaller"
            yield from _compared(need.name, each, most, allowed, cure)


def _of_server(together, workers):
    each = sum(workers * need.each for need, _ in together)
    most = sum(workers * need.most for need, _ in together)
    allowed, why = together[0][1].limits[0]
    name = " and ".join(need.name for need, _ in together)
    yield f"{name} are one server: {each} connections, at worst {most}; it allows {allowed} ({why})"
    yield from _compared("that server", each, most, allowed, "lower sync.threads_max, or make the pools smaller")


def _compared(name, each, most, allowed, cure):
    if each > allowed:
        yield f"warning: {name}: {each} connections are more than the {allowed} that it allows; lower workers or sync.threads, or raise its limit"
    elif most > allowed:
        yield f"warning: {name}: at worst {most} connections are more than the {allowed} that it allows; {cure}"


def _first_line(error):
    text = " ".join(str(error).split("\n", 1)[0].split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _ask(needs):
    """An Answer, an exception or None for each."""
    answers = [None] * len(needs)

    def ask(i):
        try:
            answers[i] = needs[i].ask()
        except Exception as e:
            answers[i] = e

    threads = []
    for i, need in enumerate(needs):
        if need.ask is not None:
            answers[i] = TimeoutError(f"no answer within {ASK_SECONDS} s")
            threads.append(threading.Thread(target=ask, args=(i,), daemon=True, name=ASKER))
            threads[-1].start()
    end = time.monotonic() + ASK_SECONDS
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    return list(answers)  # whoever answers later is not heard


def is_asking():
    """Whether somebody still waits for an answer; Python's end might wait with him, for a name look-up for example."""
    return any(thread.name == ASKER and thread.is_alive() for thread in threading.enumerate())


# --- Django


def django_is_up():
    """Whether the application has set Django up."""
    apps = sys.modules.get("django.apps")
    return apps is not None and apps.apps.ready


def _of_django(threads, threads_max):
    if not django_is_up():
        return
    from django.db import connections

    from .django.hints import pool_size, vendor_of

    for alias, values in connections.settings.items():
        vendor = vendor_of(values)
        if vendor in (None, "unknown", "sqlite"):
            continue
        place = f"{values['HOST'] or 'its default address'}{':' if values['PORT'] else ''}{values['PORT']}"
        name = f"database {alias!r}"
        need = Need(name, f"{name} ({vendor} at {place})", (vendor, values["HOST"], str(values["PORT"])), threads, threads_max)
        size = pool_size(vendor, values)
        if size is not None:
            need.each, need.most, need.why = min(size, threads), min(size, threads_max), f' (OPTIONS["pool"] has {size} for each worker)'
        if vendor == "postgresql":
            need.ask = _django_asker(values, alias)
            need.uses_named_cursors = not values.get("DISABLE_SERVER_SIDE_CURSORS", False)
        yield need


def _django_asker(values, alias):
    from django.db.utils import load_backend

    options = {name: value for name, value in values["OPTIONS"].items() if name != "pool"}
    own = {**values, "OPTIONS": {**options, "connect_timeout": ASK_SECONDS}}

    def ask():
        connection = load_backend(own["ENGINE"]).DatabaseWrapper(own, alias)
        try:
            with connection.cursor() as cursor:
                cursor.execute(QUESTION)
                return Answer.of(cursor.fetchone(), connection.connection.info.backend_pid)
        finally:
            connection.close()

    return ask


# --- SQLAlchemy


def _of_sqlalchemy(threads, threads_max):
    for engine in sqlalchemy_hints.engines():
        if engine.dialect.name == "sqlite":
            continue
        url = engine.url
        name = f"SQLAlchemy engine {sqlalchemy_hints.name_of(engine)}"
        need = Need(name, name, (engine.dialect.name, url.host, str(url.port)), threads, threads_max)
        size = sqlalchemy_hints.size_of(engine)
        if engine.dialect.is_async and (size is None or size[1] is None):
            need.each = need.most = None
            need.why = " (asynchronous, and its pool has no limit)"
        elif size is not None and size[1] is not None:
            stay, most = size
            if engine.dialect.is_async:
                need.each, need.most = stay, most
            else:
                need.each, need.most = min(stay, threads), min(most, threads_max)
            need.why = f" (pool_size {stay} + max_overflow {most - stay} for each worker)"
        if engine.dialect.name == "postgresql":
            need.ask = _async_asker(engine) if engine.dialect.is_async else _sync_asker(engine)
        yield need


def _sync_asker(engine):
    def ask():
        try:
            with engine.connect() as connection:
                info = getattr(connection.connection.dbapi_connection, "info", None)
                return Answer.of(connection.exec_driver_sql(QUESTION).one(), getattr(info, "backend_pid", None))
        finally:
            engine.dispose()

    return ask


def _async_asker(engine):
    import asyncio

    async def ask():
        from sqlalchemy.ext.asyncio import AsyncEngine

        async with AsyncEngine(engine).connect() as connection:
            row = (await connection.exec_driver_sql(QUESTION)).one()
        await AsyncEngine(engine).dispose()  # its connections belong to this loop
        return Answer.of(row, None)

    return lambda: asyncio.run(ask())
