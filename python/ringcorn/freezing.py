"""What the import of an application has made, and is to stay as it is: frozen, found all the same, and its memory shared."""

import gc
import re

from . import log

_kept = []


def find(is_wanted):
    """Every object that the collector knows, or knew before freeze(), and whose type is wanted. type(): what pretends to be of another class
    would be asked, and may be anything."""
    found = {id(one): one for one in (*_kept, *gc.get_objects()) if is_wanted(type(one))}
    return list(found.values())


def freeze(*wanted):
    """Collects garbage, and has the collector leave alone what there is now: pages that it does not write to stay shared with processes that are
    forked. *wanted*: for which find() will be asked."""
    for is_wanted in wanted:
        _kept.extend(find(is_wanted))
    gc.collect()
    gc.freeze()


def say_savings():
    """In a worker that is ready. Pages that were written to since the import, and are shared all the same, are what the fork saves: those of programs
    and libraries are shared without it."""
    shared, private = memory("Shared_Dirty"), memory("Private_Dirty")
    if shared is not None:
        log.info("preload: this worker shares %s of memory with the process that has imported the application, and has %s of its own", mib(shared), mib(private))


def memory(name):
    """Bytes of this process, by one of smaps_rollup's names; None where there is no such file."""
    try:
        with open("/proc/self/smaps_rollup") as f:
            found = dict(re.findall(r"(\w+):\s+(\d+) kB", f.read()))
    except OSError:
        return None
    return int(found.get(name, 0)) * 1024


def mib(size):
    return "?" if size is None else f"{size / 1024 / 1024:.1f} MiB"
