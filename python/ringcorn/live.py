"""What this worker tells of itself when ringcornctl asks: its threads and its tasks, as JSON.

Called by server/worker/answer.c on a thread of its own, with the GIL, also while the loop stands. So nothing here waits, and what is read may
change between two lines (places has what is done about that).
"""

import json
import re
import sys
import threading

from . import places, tree

FRAMES_MAX = 100
# JSON may have them as they are, but YAML, which ringcornctl reads it as, may not, or takes them for the end of a line.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

_worker = None
_loop = None
_pools = ()
_services = None


def attach(worker, loop, *pools, services=None):
    """worker: the C side; loop: that serves, or None; pools: its _ringcorn.Pools; services: services.Services."""
    global _worker, _loop, _pools, _services
    _worker, _loop, _pools, _services = worker, loop, pools, services


def pools():
    return _pools


def loop():
    return _loop


def _dump(value):
    # Lone surrogates of file names would be no UTF-8.
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def threads():
    """Every thread that Python knows: its name, what it is for, the request it belongs to, its stack."""
    leases = {ident: (label, state) for pool in _pools for ident, label, state in pool.leases()}
    known = {thread.ident: thread for thread in threading.enumerate()}
    me = threading.get_ident()
    found = []
    for ident in sys._current_frames():
        if ident == me:
            continue
        frames = places.running(ident)[:-FRAMES_MAX - 1:-1]
        thread = known.get(ident)
        label, state = leases.get(ident, (None, None))
        found.append(
            {
                "name": thread.name if thread is not None else None,
                "thread": ident,
                "tid": thread.native_id if thread is not None else None,
                "daemon": thread.daemon if thread is not None else None,
                "loop": thread is threading.main_thread(),
                "request": label,
                "state": state,
                "stack": [places.text(frame.f_code, line) for frame, line in frames],  # innermost first
            }
        )
    found.sort(key=lambda t: (not t["loop"], t["name"] or ""))
    return _dump(found)


def services():
    """Those that this worker runs, or has run."""
    return _dump([] if _services is None else _services.tell())


def tasks():
    """Every task of the loop below its request: whose it is, where it waits, and for what."""
    if _loop is None:
        return "[]"
    variables = [var for pool in _pools for var in pool.context_vars]
    return _dump(tree.told(_loop, variables, _worker.requests()))


def blocks():
    """What has blocked the loop."""
    from .guard import blocks

    return _dump(blocks.table())
