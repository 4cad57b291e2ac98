"""Who ran what of a request: each hop notes its thread and, where the database may be asked, its backend's process id.

A request is named by its query's `id`; the notes of the last requests are kept, so that a later request can ask for what came
after the answer (request_finished). Code that has no request at hand finds the name in a context variable that the first
middleware sets, and request_finished, which Django sends outside the context of the view, in the thread. Any thread.
"""

import contextvars
import threading
from collections import OrderedDict

from django.core.signals import request_finished, request_started
from django.db import connection

KEPT = 2000

current = contextvars.ContextVar("hops_current")
_notes = OrderedDict()
_lock = threading.Lock()
_last = threading.local()  # .name: whose note this thread made last


def backend():
    """The process id of this thread's connection: without a query, but it connects where there is no connection."""
    connection.ensure_connection()
    return connection.connection.info.backend_pid


def note(where, name=None, on_loop=False):
    """on_loop: the caller is a coroutine, where the database may not be asked."""
    name = name or current.get(None)
    if not on_loop:
        _last.name = name
    if name is None:
        return
    entry = {"where": where, "thread": threading.get_ident(), "backend": None if on_loop else backend()}
    with _lock:
        _notes.setdefault(name, []).append(entry)
        while len(_notes) > KEPT:
            _notes.popitem(last=False)


def notes(name):
    with _lock:
        return list(_notes.get(name, ()))


def _name_of(scope=None, environ=None, **kwargs):
    """The id in the query, of an ASGI scope or a WSGI environ."""
    query = scope["query_string"].decode() if scope else (environ or {}).get("QUERY_STRING", "")
    return dict(part.partition("=")[::2] for part in query.split("&")).get("id")


def on_started(sender, **kwargs):
    if name := _name_of(**kwargs):
        note("request_started", name)


def on_finished(sender, **kwargs):
    note("request_finished", getattr(_last, "name", None))


def listen():
    """Called where it matters: receivers of one's own are sync code that every request has, asynchronous views too."""
    request_started.connect(on_started, dispatch_uid="hops")
    request_finished.connect(on_finished, dispatch_uid="hops")
