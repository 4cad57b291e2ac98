"""aiosqlite, also below SQLAlchemy's: each connection has a thread and a queue of calls for it. On a loop in shake mode these calls are hops as
others are, made in the order of that queue."""

import sys

_is_installed = False


def install():
    """Once a process, when aiosqlite is there. One that is built otherwise stays as it is, and its threads are among those that the loop does not know."""
    global _is_installed
    if _is_installed or "aiosqlite" not in sys.modules:
        return
    _is_installed = True
    Connection = getattr(sys.modules["aiosqlite"], "Connection", None)
    stock = getattr(Connection, "__init__", None)
    if stock is None:
        return

    def init(self, *args, **kwargs):
        stock(self, *args, **kwargs)
        if hasattr(self, "_tx"):
            self._tx = _Queue(self._tx, getattr(self, "_thread", self))

    Connection.__init__ = init


class _Queue:
    """A connection's: pairs of a future and a function."""

    def __init__(self, queue, thread):
        self._queue, self._thread = queue, thread

    def put_nowait(self, item):
        from .awaits import shaken_loop
        from .loop import ShakeLoop
        from .threads import known_threads

        future, function = item
        loop = shaken_loop()
        if future is None or not isinstance(loop, ShakeLoop) or future.get_loop() is not loop:
            self._queue.put_nowait(item)
            return
        known_threads.add(self._thread)
        loop.shake_threads.submit(self, function, (), future)

    put = put_nowait

    def submit(self, run):
        """As an executor's. The thread ends by what a call of it returns."""
        returned = []

        def call():
            run(returned)
            return returned[0] if returned else None

        self._queue.put_nowait((_Nobody(), call))

    def __getattr__(self, name):
        return getattr(self._queue, name)


class _Nobody:
    """A future, and its loop, that nobody waits for."""

    def get_loop(self):
        return self

    def call_soon_threadsafe(self, *args):
        pass
