"""What the import of an application leaves behind that processes which are forked later would share or miss."""

import asyncio
import os
import socket
import sys
import threading

from . import sqlalchemy_hints

_SHARED_KINDS = {"anon_inode:[eventpoll]": "an epoll", "anon_inode:[io_uring]": "an io_uring"}


class Leftovers:
    """Made before the import."""

    def __init__(self):
        self.fds = _open_fds()
        self.threads = set(threading.enumerate())

    def close_and_tell(self):
        """Yields a line for each."""
        yield from self._threads()
        yield from _django()
        yield from _sqlalchemy()
        yield from _event_loop()
        yield from self._descriptors()

    def _threads(self):
        for thread in threading.enumerate():
            if thread not in self.threads:
                yield (
                    f"preload: the application has started thread {thread.name!r} while it was imported: it runs in the process that imports, and in no worker; "
                    "start it in lifespan.startup or hooks.post_fork"
                )

    def _descriptors(self):
        for fd, target in sorted(_open_fds().items()):
            if self.fds.get(fd) == target:
                continue
            if (peer := _peer(fd, target)) is not None:
                yield (
                    f"preload: the application has left a connection to {peer} open while it was imported (descriptor {fd}): all workers share it, and mix what they "
                    "read and write; open it in lifespan.startup or hooks.post_fork"
                )
            elif target in _SHARED_KINDS:
                yield (
                    f"preload: the application has left {_SHARED_KINDS[target]} open while it was imported (descriptor {fd}), perhaps an event loop's: all workers "
                    "share it; make it in lifespan.startup or hooks.post_fork"
                )


def _open_fds():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the folder's own
            continue
    return found


def _peer(fd, target):
    """Whom a connected socket leads to, or None. A pair of its own (a loop's self-pipe) leads nowhere."""
    if not target.startswith("socket:"):
        return None
    try:
        with socket.socket(fileno=os.dup(fd)) as one:
            peer, family = one.getpeername(), one.family
    except OSError:
        return None
    if family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(peer)}" if peer else None
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer)


def _django():
    """Connections that Django has opened: its thread-local objects of this thread, which is each worker's main one."""
    if "django.db" not in sys.modules or not sys.modules["django.conf"].settings.configured:
        return
    connections = sys.modules["django.db"].connections
    for alias in list(connections):
        wrapper = getattr(connections._connections, alias, None)
        if wrapper is not None and wrapper.connection is not None:
            wrapper.close()
            if wrapper.connection is not None:  # SQLite in memory is the data itself, and a fork copies it
                continue
            yield (
                f"preload: the application has connected to database {alias!r} while it was imported (a query in a module, or in AppConfig.ready()): that connection "
                "was closed; workers open their own"
            )


def _sqlalchemy():
    for engine in sqlalchemy_hints.engines():
        pool = engine.pool
        kept, lent = (getattr(pool, name, lambda: 0)() for name in ("checkedin", "checkedout"))
        name = f"preload: SQLAlchemy engine {sqlalchemy_hints.name_of(engine)}"
        if kept and not engine.dialect.is_async:
            engine.dispose()
            yield f"{name}: {kept} connections that the import has opened were closed; workers open their own"
        elif kept:
            yield f"{name}: {kept} connections that the import has opened are shared by all workers; await engine.dispose() there"
        if lent:
            yield f"{name}: {lent} connections are still in use after the import: all workers share them; connect in lifespan.startup or hooks.post_fork"


def _event_loop():
    policy = getattr(asyncio.events, "_event_loop_policy", None)
    loop = getattr(getattr(policy, "_local", None), "_loop", None)
    if loop is not None:
        asyncio.set_event_loop(None)
        if not loop.is_running():
            loop.close()
        yield (
            "preload: the application has asked for an event loop while it was imported: there is none yet under preload, each worker has its own; "
            "what needs one belongs into lifespan.startup"
        )
