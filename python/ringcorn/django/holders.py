"""What Django's holders of connections and asgiref's Local hold in this thread and context, read where it is kept.

Django asks them with hasattr(), which for what is not there raises two exceptions on the way, through a lock or a look for a running loop:
some 5 us for each alias, five times a request. Here it is one look. What is put there goes by the same locks and exceptions.

Where it is kept is asgiref's own affair: it is tried out once, and where it is not as expected, or somebody has replaced a method, Django is asked
as ever.
"""

import asyncio
import contextvars
import threading

from asgiref import local as asgiref_local
from asgiref.local import Local
from django.db import connections
from django.db.utils import ConnectionHandler
from django.utils.connection import BaseConnectionHandler

from . import genuine


def _look(local):
    value = local._storage._data.get(None)
    if value is None:
        return {}
    if type(value) is dict:
        return value
    return value.data if value.thread_id == threading.get_ident() else {}


def _look_nowhere(local):
    return None


_Storage = getattr(asgiref_local, "_Storage", None)


def _put(local, name, value):
    variable, me = local._storage._data, threading.get_ident()
    storage = variable.get(None)
    # What other contexts hold is a dict of its own.
    variable.set(_Storage(me, {**storage.data, name: value} if storage is not None and storage.thread_id == me else {name: value}))


def _looks():
    """Whether _look() sees what a Local holds."""
    probe, found = Local(), []

    def here():
        found.append(dict(_look(probe)))
        probe.one = 1
        found.append(dict(_look(probe)))
        del probe.one
        found.append(dict(_look(probe)))

    try:
        contextvars.Context().run(here)
    except Exception:
        return False
    return found == [{}, {"one": 1}, {}]


def _puts():
    """Whether a Local has what _put() puts there, and that is what Local itself would put."""
    probe, twin, found = Local(), Local(), []

    def one():
        return getattr(probe, "one", None), getattr(probe, "two", None), _state(probe), _state(twin)

    def here():
        _put(probe, "one", 1)
        twin.one = 1
        found.append(one())
        _put(probe, "two", 2)
        twin.two = 2
        inside = contextvars.copy_context()
        inside.run(_put, probe, "one", 3)
        inside.run(setattr, twin, "one", 3)
        found.append(inside.run(one))
        found.append(one())
        del probe.one, twin.one
        found.append(one())

    try:
        contextvars.Context().run(here)
    except Exception:
        return False
    return [each[:2] for each in found] == [(1, None), (3, 2), (1, 2), (None, 2)] and all(ours == theirs for _, _, ours, theirs in found)


def _state(local):
    storage = local._storage._data.get()
    return type(storage), storage.thread_id, storage.data


# What a Local holds: a dict, not to be changed; None where that is not known.
held_by = _look if _looks() else _look_nowhere
# put(local, name, value): an attribute of it.
put = _put if _puts() else setattr


def _looks_at_threads():
    """The same for those of threads, which hold database connections."""
    probe = Local(thread_critical=True)
    try:
        if asyncio._get_running_loop() is not None:
            return type(probe._storage) is threading.local and vars(probe._storage) == {}
        probe.one = 1
        return type(probe._storage) is threading.local and vars(probe._storage) == {"one": 1}
    except Exception:
        return False


def _is_stock():
    return (
        type(connections) is ConnectionHandler and ConnectionHandler.thread_critical and "all" not in vars(connections)
        and all(genuine.replaced(cls) is None for cls in (BaseConnectionHandler, ConnectionHandler))
    )  # fmt: skip


_is_known = _looks_at_threads() and _is_stock()


def open_connections():
    """connections.all(initialized_only=True)."""
    if not _is_known or asyncio._get_running_loop() is not None:
        return connections.all(initialized_only=True)
    here = vars(connections._connections._storage)
    return [here[alias] for alias in connections.settings if alias in here] if here else []
