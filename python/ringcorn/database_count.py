"""How many connections to databases this worker has open, for the metrics and ``ringcornctl workers``: those of Django and of SQLAlchemy.

What opens one is heard at once, so the largest number is true. Django tells nobody when it closes one: it is looked for every
LOOK_SECONDS, while there are any. Nothing is imported for it.
"""

import sys
import threading
import weakref

LOOK_SECONDS = 1.0


class DatabaseCount:
    """Of one worker. *tell*: called with the number, on any thread."""

    def __init__(self, loop, tell):
        self.loop = loop
        self.tell = tell
        self.lock = threading.RLock()  # the collector may come in between, and with it the end of a connection
        self.wrappers = weakref.WeakSet()  # Django's, one for each thread and alias, that have connected
        self.of_sqlalchemy = 0
        self.is_looking = False

    def install(self):
        """On the loop's thread, after the application was imported."""
        if "django.db" in sys.modules and sys.modules["django.conf"].settings.configured:
            from django.db.backends.signals import connection_created

            connection_created.connect(self._on_created, weak=False, dispatch_uid="ringcorn-count")
        if "sqlalchemy.pool" in sys.modules:
            self._listen()

    # --- Django

    def _on_created(self, connection, **kwargs):
        with self.lock:
            self.wrappers.add(connection)
            must_look = not self.is_looking
            self.is_looking = True
        self._count()
        if must_look:
            try:
                self.loop.call_soon_threadsafe(self._look)
            except RuntimeError:  # the worker ends
                pass

    def _look(self):
        """On the loop, again and again, until none is left."""
        with self.lock:
            self.is_looking = self._of_django() > 0
        self._count()
        if self.is_looking:
            self.loop.call_later(LOOK_SECONDS, self._look)

    def _of_django(self):
        """Lock held. A wrapper of a pool has a connection of the pool's while it is used; the pool counts all."""
        pools, n = {}, 0
        for wrapper in list(self.wrappers):
            pool = wrapper.pool if wrapper.settings_dict["OPTIONS"].get("pool") and hasattr(wrapper, "pool") else None
            if pool is not None:
                pools[id(pool)] = pool
            elif wrapper.connection is not None:
                n += 1
        return n + sum(pool.get_stats().get("pool_size", 0) for pool in pools.values())

    # --- SQLAlchemy

    def _listen(self):
        from sqlalchemy import event, pool

        from . import sqlalchemy_hints

        for engine in sqlalchemy_hints.engines():
            kept, lent = (getattr(engine.pool, name, lambda: 0)() for name in ("checkedin", "checkedout"))
            self.of_sqlalchemy += kept + lent
        event.listen(pool.Pool, "connect", lambda *args: self._changed(1))
        for name in ("close", "close_detached"):
            event.listen(pool.Pool, name, lambda *args: self._changed(-1))
        self._count()

    def _changed(self, by):
        with self.lock:
            self.of_sqlalchemy = max(self.of_sqlalchemy + by, 0)
        self._count()

    def _count(self):
        with self.lock:
            self.tell(self._of_django() + self.of_sqlalchemy)
