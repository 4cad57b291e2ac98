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


class Owner:
    """Of a thread's connection, in its thread-locals: closes it when the thread ends, by whichever pool that is.

    A connection that is dropped while open says so in a ResourceWarning with its address in it. A Python that shows these (a debug
    Python, python -X dev) notes each text in the module's __warningregistry__, for good: five references for a connection."""

    def __init__(self, connection):
        self.connection = connection

    def __del__(self):
        self.connection.close()


def connection():
    """This thread's, known to live a moment ago."""
    owner = getattr(_local, "owner", None)
    if owner is not None:
        try:
            owner.connection.execute("SELECT 1")
            return owner.connection
        except psycopg.OperationalError:
            owner.connection.close()
    _local.owner = Owner(connect())
    return _local.owner.connection


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
