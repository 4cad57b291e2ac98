"""What an application can know of the worker that it runs in: ``scope["state"]["ringcorn"]``, WSGI's ``environ["ringcorn.worker"]``.

    async def events(scope, receive, send):
        worker = scope["state"]["ringcorn"]
        while not worker.draining.is_set():
            ...
"""

import asyncio
import threading


class Presence:
    """``draining`` is an asyncio.Event, for coroutines on the server's loop; ``draining_sync`` the same as a threading.Event, for threads. Both
    are set when the worker begins to leave. Requests that never end by themselves should end then."""

    __slots__ = ("draining", "draining_sync")

    def __init__(self):
        self.draining = asyncio.Event()
        self.draining_sync = threading.Event()

    def leave(self):
        """On the loop's thread."""
        self.draining.set()
        self.draining_sync.set()
