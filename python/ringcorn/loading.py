"""The start of a process that has the application: a worker, the one that imports it for all of them (preload), --check-config's."""

import faulthandler
import sys
import time
import traceback

from . import greenlets, log, services
from .app import EXIT_APP, EXIT_USAGE, AppError, load_by
from .leftovers import Leftovers
from .worker_hooks import WorkerHooks

FAILURES = (AppError, SystemExit)  # of a start, for exit_code_of()


def prepare(options):
    """Before anything of the application is imported. Raises AppError."""
    try:
        log.setup(options["log_level"], options["log_config"])
    except log.ConfigError as e:
        raise AppError(EXIT_USAGE, f"log.config: {options['log_config']}: {e}") from None
    faulthandler.register(options["stacks_signal"], file=sys.stderr, all_threads=True)


def exit_code_of(failure):
    """Says why the application cannot be served."""
    if isinstance(failure, SystemExit):
        _operator(f"the application did not start: it called sys.exit({failure.code!r})")
        return EXIT_APP
    if failure.show is not None:
        traceback.print_exception(failure.show)
    _operator(str(failure))
    return failure.code


class Loaded:
    """What a worker serves: the application, and the functions that hooks.* and services name. What is not there raises AppError."""

    def __init__(self, options):
        self.options = options
        self.hooks = WorkerHooks(options)
        self.app = self.interface = None
        self.services = []  # entries

    def find_post_fork(self):
        self.hooks.resolve("post_fork")

    def load(self):
        self.app, self.interface = load_by(self.options)
        greenlets.refuse()
        self.hooks.resolve("when_ready", "worker_exit", "on_reload")
        self.services = services.resolve(self.options)


def load_apart(options):
    """In a process that serves nothing itself: (Loaded, the Leftovers of before, how many seconds it took). Raises one of FAILURES."""
    began, before, loaded = time.monotonic(), Leftovers(), Loaded(options)
    prepare(options)
    loaded.find_post_fork()
    loaded.load()
    return loaded, before, time.monotonic() - began


def _operator(line):
    print(f"ringcorn: {line}", file=sys.stderr, flush=True)


def auto_threads(interface):
    """40 is AnyIO's own default; Django and WSGI applications hold a database connection per thread."""
    return 8 if interface == "wsgi" or "django.core.handlers.base" in sys.modules else 40
