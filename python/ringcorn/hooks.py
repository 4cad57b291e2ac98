"""Several parts of the server share the hooks of a pool (``_ringcorn.Pool.on_thread_start`` and its like): each adds its own."""

import threading

from . import log


class _Chain:
    """Runs functions in order; one that raises does not keep the others from running. Called on threads of the pool."""

    def __init__(self, fns):
        self.fns = fns

    def __call__(self):
        for fn in self.fns:
            try:
                fn()
            except Exception as e:
                log.request_failed(threading.current_thread().name, e, f"{getattr(fn, '__qualname__', fn)} failed", False)


class _All(_Chain):
    """True where every function says so; what raises does not."""

    def __call__(self):
        return all(fn() for fn in self.fns)


_LAST_FIRST = ("on_thread_end", "on_surplus")  # taken down in the opposite order


def add(pool, name, fn):
    """Makes *fn* one of the functions behind the hook *name* of *pool*. On the loop's thread; threads that exist see it from then on."""
    before = getattr(pool, name)
    kind = _All if name == "may_release" else _Chain
    fns = before.fns if isinstance(before, _Chain) else () if before is None else (before,)
    # A new chain, as threads may be running through the old one.
    setattr(pool, name, kind((fn, *fns) if name in _LAST_FIRST else (*fns, fn)))
