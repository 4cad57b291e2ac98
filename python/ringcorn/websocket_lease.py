"""How long a thread belongs to a WebSocket (``sync.websocket``).

    message      from the first synchronous call that handles a message until the consumer waits for the next, and for as long as a
                 transaction is open: two calls for one message share their thread and its database connection, and a thousand
                 silent clients hold none
    call         for one call
    connection   from the first call to the end of the connection

A WebSocket has no end in sight, as a request has: a thread of its own would be held for hours by one that says nothing.
"""

import asyncio
import sys

from . import asgiref_threads

TURNS = 8  # of the loop, without a new call: the handler of a message that did not come by receive() is done, or awaits something


def wrap(app, pool, mode):
    """What WebSocket scopes are given to in the place of *app*. *mode*: as above."""
    make = _MODES[mode]

    def websocket(scope, receive, send):
        sync = sys.modules.get("asgiref.sync")
        if sync is None or sync.SyncToAsync.thread_sensitive_context not in pool.context_vars:  # its calls are not led to the pool
            return app(scope, receive, send)  # without a coroutine of ours around it, which would live as long
        return leased(scope, receive, send, sync.SyncToAsync.thread_sensitive_context)

    async def leased(scope, receive, send, variable):
        lease = make(pool, f"WS {scope.get('path', '')}")
        token = variable.set(lease)
        try:
            await app(scope, lease.receiver(receive), send)
        finally:
            variable.reset(token)
            lease.close()

    return websocket


class _Connection:
    """An executor, as asgiref wants one: thread-sensitive calls of a WebSocket. On the loop's thread."""

    _exited = False  # what asgiref 3.13 asks of the object in its context variable

    def __init__(self, pool, label):
        self.label = label
        self.lease = pool.lease(label)

    def receiver(self, receive):
        return receive

    def submit(self, fn, /, *args):
        return self.lease.submit(fn, *args)

    def close(self):
        self.lease.close()


class _Call(_Connection):
    def __init__(self, pool, label):
        self.pool = pool
        self.label = label

    def submit(self, fn, /, *args):
        lease = self.pool.lease(self.label)
        try:
            return lease.submit(fn, *args)
        finally:
            lease.close()  # after what was just submitted

    def close(self):
        pass


class _Message(_Connection):
    def __init__(self, pool, label):
        super().__init__(pool, label)
        self.loop = asyncio.get_running_loop()
        self.receiving = 0  # receive() calls that wait
        self.turns = None  # left until the thread goes back; None: nobody counts

    def receiver(self, receive):
        async def receive_and_give_back():
            self._give_back()
            self.receiving += 1
            try:
                return await receive()
            finally:
                self.receiving -= 1

        return receive_and_give_back

    def _give_back(self):
        if self.lease.has_thread and not self.lease.is_busy:
            self.lease.give_back()

    def submit(self, fn, /, *args):
        future = self.lease.submit(fn, *args)
        if isinstance(future, asyncio.Future):
            future.add_done_callback(self._called)
        else:  # called from another loop's thread
            future.add_done_callback(lambda future: self.loop.call_soon_threadsafe(self._called))
        return future

    # receive() may wait although a message is being handled: it came from a channel layer, or is handled by a task of its own. No
    # receive() will say when that is over, so the loop's turns do.

    def _called(self, future=None):
        if self.receiving and self.turns is None:
            self.loop.call_soon(self._turn)
        self.turns = TURNS if self.receiving else None

    def _turn(self):
        if self.turns is None or self.lease.is_busy:
            self.turns = None  # the end of that call begins to count again
            return
        self.turns -= 1
        if self.turns > 0:
            self.loop.call_soon(self._turn)
            return
        self.turns = None
        if self.receiving:
            self._give_back()


_MODES = {"message": _Message, "call": _Call, "connection": _Connection}
asgiref_threads.own_executors.update(_MODES.values())
