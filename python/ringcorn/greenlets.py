"""gevent and eventlet, which put greenlets in the place of Python's threads and blocking calls.

Both have a hub of their own that turns while somebody waits in a patched call. Nothing here waits in one: the loop waits in the ring or in
epoll, threads in C. So where ``threading`` is patched, a thread that anything starts and a lock that it waits for are greenlets that never run,
and a worker would hang at its first thread: its start is refused instead. Other patched modules do work, a call at a time, each on the
thread that makes it.

Greenlets themselves are sound, on the loop and on threads, as long as each is switched to from the thread that it began on: SQLAlchemy's
asyncio lives on that.
"""

import sys

from .app import EXIT_APP, AppError

# What applications and libraries wait in.
WAITING = ("socket", "ssl", "select", "time", "subprocess", "queue", "os")


def _patches():
    """(library, its function that patches, is_patched(module)) of those that are imported."""
    if (monkey := sys.modules.get("gevent.monkey")) is not None:
        yield "gevent", "gevent.monkey.patch_all", monkey.is_module_patched
    if (patcher := sys.modules.get("eventlet.patcher")) is not None:
        done = patcher.already_patched  # by its own names
        yield "eventlet", "eventlet.monkey_patch", lambda module: bool(done.get("thread" if module == "threading" else module))


def refuse():
    """Raises AppError where threads are greenlets."""
    for library, patch, is_patched in _patches():
        if is_patched("threading"):
            raise AppError(
                EXIT_APP,
                f"the application has replaced threads by greenlets ({patch}()), which only {library}'s hub runs, and no hub runs here: it cannot "
                f"be served so; leave that call out (synchronous code has threads of its own here: sync.threads), or keep threads out of it: "
                f"{patch}(thread=False)",
            )


def find():
    """A line for each library whose patches are in force, for the log."""
    for library, patch, is_patched in _patches():
        if modules := [module for module in WAITING if is_patched(module)]:
            yield (
                f"{library} has patched {', '.join(modules)} ({patch}()): its greenlets run only while a call of these waits, on that call's thread, and such a "
                f"call on the event loop stops every request; synchronous code waits on threads here (sync.threads), so {patch}() can be left out"
            )
