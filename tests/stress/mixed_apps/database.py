"""A connection of psycopg's for each thread, as applications without Django keep it; a lost one is replaced. Any thread."""

import contextlib
import os
import threading

import psycopg

_local = threading.local()


def connect():
    env = os.environ
    return psycopg.connect(
        host=env["PG_HOST"], port=env["PG_PORT"], user=env["PG_USER"], dbname=env["PG_NAME"], application_name=env["PG_APP"], autocommit=True,
        prepare_threshold=None,
    )


def connection():
    """This thread's, known to live a moment ago."""
    one = getattr(_local, "connection", None)
    if one is not None:
        try:
            one.execute("SELECT 1")
            return one
        except psycopg.OperationalError:
            one.close()
    _local.connection = connect()
    return _local.connection


@contextlib.contextmanager
def transaction():
    one = connection()
    with one.transaction():
        yield one


def pid_and_transaction(one):
    return list(one.execute("SELECT pg_backend_pid(), txid_current()").fetchone())


def write(one, name):
    """Three statements of one transaction: which backends and transactions they saw, and what is found of what was written."""
    seen = [pid_and_transaction(one)]
    one.execute("INSERT INTO stress (name) VALUES (%s)", (name,))
    seen.append(pid_and_transaction(one))
    found = [row[0] for row in one.execute("SELECT name FROM stress WHERE name = %s", (name,))]
    one.execute("DELETE FROM stress WHERE name = %s", (name,))
    seen.append(pid_and_transaction(one))
    return {"seen": seen, "found": found}
