"""What can be said of an application without serving it: for ``ringcorn --check-config``, and the warnings at start.

After the C side found the configuration right, it calls run() in the main thread of a process of its own. No loop runs, nothing listens,
lifespan is not spoken. The application is imported as a worker would import it, with the exit codes and the lines of a start that
fails. Then come the settings that defeat persistent connections, and how many connections to the databases this configuration needs,
beside what the databases allow.
"""

import os

from . import connection_count, greenlets, log, sqlalchemy_hints
from .connection_count import django_is_up
from .loading import FAILURES, auto_threads, exit_code_of, load_apart


def run(c_side, options):
    """Returns the exit code."""
    try:
        loaded, before, seconds = load_apart(options)
    except FAILURES as e:
        return exit_code_of(e)
    _say(f"{options['app']} was imported in {seconds:.2f} s")
    for line in (*loaded.hooks.lines(), *(entry.line() for entry in loaded.services)):
        _say(line)
    if options["preload"]:
        _say("preload: it is imported once for all workers")
        warn(before.close_and_tell, say=_say)
    interface = loaded.interface
    threads = options["sync_threads"] or auto_threads(interface)
    warn(greenlets.find, say=_say)
    warn(django_hints, threads, interface, options, say=_say)
    warn(sqlalchemy_hints.find, threads, say=_say)
    for line in connection_count.lines(options["workers"], threads, max(threads, options["sync_threads_max"])):
        _say(line)
    warn(_memory, options["workers"], options["memory"], say=_say)
    if connection_count.is_asking():
        os._exit(0)
    return 0


def _memory(workers, limit):
    """What the workers need at least, beside what the cgroup allows (0 = no limit): a warning where it is too little."""
    resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = (workers + 1) * resident  # a reload has one more for a moment
    text = f"memory: a worker has {_mib(resident)} after the import, {workers} and one more in a reload {_mib(most)}"
    if not limit:
        _say(f"{text}; the cgroup sets no limit")
    elif most <= limit:
        _say(f"{text}; the cgroup allows {_mib(limit)}")
    else:
        yield f"{text}, and the cgroup allows {_mib(limit)}: the kernel will kill workers; take fewer, or raise the limit"


def _mib(size):
    return f"{size / 1024 / 1024:.0f} MiB"


def django_hints(threads, interface, options):
    """The settings of Django that defeat persistent connections, a line each. *threads*: sync.threads in effect. No loop runs."""
    if not django_is_up():
        return []
    from .django import hints

    return hints.find(threads, interface == "asgi", options["django_conn_max_age"])


def warn(find, *args, say=None):
    """Says what find(*args) returns; in the log, at start. Nothing in it keeps an application from being served."""
    try:
        lines = list(find(*args))
    except Exception as e:
        lines = [f"the settings of the application could not be judged: {type(e).__name__}: {e}"]
    for line in lines:
        if say is None:
            log.warning("%s", line)
        else:
            say(f"warning: {line}")


def _say(line):
    print(f"ringcorn: {line}", flush=True)
