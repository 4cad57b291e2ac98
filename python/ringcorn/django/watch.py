"""Looks out for the client's leaving while its request is served (Django does so from 5.0 on)."""

import asyncio

from django.core.exceptions import RequestAborted

from .. import guard

# Most requests end sooner; what begins in this time for a client that has left already does no harm.
BEGINS_AFTER_S = 0.02


class Watch:
    """Cancels the task that serves a request when the client leaves, or when receive() fails (*error*). On the loop."""

    __slots__ = ("handler", "receive", "task", "loop", "timer", "listener", "has_left", "error")

    def __init__(self, handler, receive, loop):
        self.handler = handler
        self.receive = receive
        self.loop = loop
        self.task = asyncio.current_task(loop)
        self.timer = self.listener = self.error = None
        self.has_left = False
        if type(receive).__module__ == "_ringcorn":
            self.timer = loop.call_later(BEGINS_AFTER_S, self._begin)
        else:  # one of the application's: as soon as Django would call it
            self._begin()

    def _begin(self):
        self.timer = None
        self.listener = self.loop.create_task(self._listen())

    async def _listen(self):
        try:
            await self.handler.listen_for_disconnect(self.receive)
        except RequestAborted:
            self.has_left = True
        except Exception as e:
            self.error = e
        guard.will_be_cancelled(self.task)
        self.task.cancel()

    def end(self):
        """From here on nothing is cancelled."""
        if self.timer is not None:
            self.timer.cancel()
        if self.listener is not None:
            self.listener.cancel()

    def was_it(self):
        """For a CancelledError in the task: whether it came from here. Raises the error that was behind it, if any."""
        self.end()
        if self.error is not None:
            self.task.uncancel()
            raise self.error
        if self.has_left:
            self.task.uncancel()
        return self.has_left
