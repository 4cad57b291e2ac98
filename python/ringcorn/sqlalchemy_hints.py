"""Engines of SQLAlchemy whose pool does not go with the number of threads: a line each, with what to change.

Nothing is imported: where the application has not imported SQLAlchemy there is nothing to say. Main thread, any loop.
"""

import sys

from . import freezing


def is_engine(cls):
    base = sys.modules.get("sqlalchemy.engine.base")
    return base is not None and issubclass(cls, base.Engine)


def engines():
    """Every Engine that lives, those inside an AsyncEngine too; one for each pool."""
    found = {}
    for one in freezing.find(is_engine):
        if hasattr(one, "pool"):
            found.setdefault(id(one.pool), one)
    return sorted(found.values(), key=name_of)


def name_of(engine):
    """'shop.db.engine (postgresql+psycopg://...)', where a module has a name for it; without its password and options."""
    url = engine.url.set(query={}).render_as_string(hide_password=True)
    names = [
        f"{module}.{name}"
        for module, value in list(sys.modules.items())
        for name, what in list(getattr(value, "__dict__", {}).items())
        if what is engine or (type(what).__name__ == "AsyncEngine" and what.sync_engine is engine)
    ]
    return f"{min(names, key=len)} ({url})" if names else url


def size_of(engine):
    """(connections that stay, at most), each None for any number; or None where the pool is no queue."""
    pool = engine.pool
    if not hasattr(pool, "_max_overflow") or not hasattr(pool, "size"):
        return None
    size, overflow = pool.size(), pool._max_overflow
    if size == 0:
        return None, None
    return size, None if overflow < 0 else size + overflow


def find(threads):
    """Returns the lines. *threads*: sync.threads."""
    lines = []
    for engine in engines():
        lines += _engine(engine, threads)
    return lines


def _engine(engine, threads):
    name = f"SQLAlchemy engine {name_of(engine)}"
    kind = type(engine.pool).__name__
    is_file = engine.dialect.name == "sqlite"
    if kind == "NullPool" and not is_file:
        yield f"{name}: NullPool opens a connection for each use, which is right only behind a pooler such as PgBouncer; remove poolclass=NullPool"
    elif kind == "StaticPool" and threads > 1:
        yield f"{name}: StaticPool is one connection for {threads} threads, so that their transactions mix; remove poolclass=StaticPool"
    size = size_of(engine)
    if size is None or engine.dialect.is_async:  # on the loop there are no threads to count
        return
    stay, most = size
    if most is not None and most < threads:
        yield (
            f"{name}: at most {most} connections (pool_size {stay} + max_overflow {most - stay}) for {threads} threads, the others wait and fail "
            f"after pool_timeout ({engine.pool._timeout:g} s); write pool_size={threads}, or sync.threads: {most} in ringcorn.yaml"
        )
    elif stay is not None and stay < threads and not is_file:
        yield (
            f"{name}: pool_size {stay} for {threads} threads: connections above it are closed after each use and opened for the next; "
            f"write pool_size={threads}"
        )
