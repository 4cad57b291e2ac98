"""``preload``: the process that imports the application once, and forks the workers.

After the C side (server/worker/preload.c) has started Python, it calls run() in the main thread. No loop runs here, and none of the
server's threads: what a fork cannot inherit, a ring or a thread, is made in each worker. What the application itself has left open by
its import, workers would share or miss: it is told of, and where that can be done closed, before the first fork.
"""

import gc
import os
import sys

from . import check, freezing, log, sqlalchemy_hints, worker
from .loading import FAILURES, exit_code_of, load_apart


def run(c_side, options):
    """Returns the exit code: of this process, or of the worker that it has become."""
    try:
        loaded, before, seconds = load_apart(options)
    except FAILURES as e:
        return exit_code_of(e)
    check.warn(before.close_and_tell)
    freezing.freeze(sqlalchemy_hints.is_engine, _is_django_handler)
    log.info(
        "preload: %s was imported in %.2f s by process %d, from which workers are forked; it has %s in memory, and %d objects are frozen",
        options["app"], seconds, os.getpid(), freezing.mib(freezing.memory("Rss")), gc.get_freeze_count(),
    )  # fmt: skip
    mine = c_side.fork_workers()
    return 0 if mine is None else worker.run(c_side, mine, loaded)


def _is_django_handler(cls):
    """As recognise.find_handlers() will ask; no part of Django is imported for it."""
    module = sys.modules.get("django.core.handlers.asgi")
    return module is not None and cls is module.ASGIHandler
