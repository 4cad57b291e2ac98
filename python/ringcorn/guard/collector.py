"""Whether the garbage collector is at work: what it finds was dropped at another time, perhaps by another request."""

import gc
import threading

_thread = None  # where it is


def watch():
    """From now on it is known. May be called again."""
    if _collects not in gc.callbacks:
        gc.callbacks.append(_collects)


def is_at_work():
    """On this thread; another one may run while it finalises."""
    return _thread is not None and _thread == threading.get_ident()


def _collects(phase, info):
    global _thread
    _thread = threading.get_ident() if phase == "start" else None
