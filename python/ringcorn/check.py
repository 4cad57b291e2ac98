"""ringcorn --check-config, after the configuration was found right: what can be said of the application without serving it.

The C side (server/worker/worker.c) calls run() in the main thread of a process of its own. No loop runs, nothing listens, lifespan is
not spoken. The application is imported as a worker would import it, with the exit codes and the lines of a start that fails.
"""

import faulthandler
import sys
import time
import traceback

from . import log
from .app import AppError, import_module, load


def run(worker, options):
    """Returns the exit code."""
    log.setup(options["log_level"])
    faulthandler.register(options["stacks_signal"], file=sys.stderr, all_threads=True)
    began = time.monotonic()
    try:
        for name in options["import_first"]:
            import_module(name, options["app_dir"])
        load(options["app"], options["factory"], options["app_dir"])
    except AppError as e:
        if e.show is not None:
            traceback.print_exception(e.show)
        print(f"ringcorn: {e}", file=sys.stderr, flush=True)
        return e.code
    say(f"{options['app']} was imported in {time.monotonic() - began:.2f} s")
    return 0


def say(line):
    print(f"ringcorn: {line}", flush=True)
