"""The lifespan protocol (ASGI lifespan specification 2.0): one task from start-up to shutdown."""

import asyncio
import contextvars

from . import guard, log

ENDING_SECONDS = 0.5  # what the application gets to return after its last message; many go on to wait for another


class LifespanFailed(Exception):
    """The application refused to start; the message says why."""


def _take_exception(task):
    """startup() tells of it; a worker that is told to stop before it was ready does not wait for that."""
    if not task.cancelled():
        task.exception()


class Lifespan:
    """Runs the protocol. *mode*: "auto" (an application that raises has no lifespan), "on" (that is an error) or "off".

    ``context`` is the context of the protocol's task: what the application sets there at start, every request sees.
    ``state`` is the dictionary to be copied into each request's scope; where the protocol is not spoken it is as *state* was.
    """

    def __init__(self, app, mode, state):
        self.app = app
        self.mode = mode
        self.context = contextvars.copy_context()
        self._first_state = state
        self.state = dict(state)
        self._task = None
        self._inbox = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._is_asked_to_stop = False
        self._failure = None
        self._exception = None  # raised after the message that said the failure, and not told by it

    async def startup(self):
        """Returns when the application has started. Raises LifespanFailed, or the application's exception in mode "on"."""
        if self.mode == "off":
            return
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._main(), name="lifespan", context=self.context)
        self._task.add_done_callback(_take_exception)
        started = asyncio.ensure_future(self._started.wait())
        await asyncio.wait({self._task, started}, return_when=asyncio.FIRST_COMPLETED)
        if self._started.is_set():
            if self._failure is not None:
                await asyncio.wait({self._task}, timeout=ENDING_SECONDS)
                raise LifespanFailed(self._failure) from self._exception
            return
        started.cancel()
        if self._task.cancelled():
            exception = LifespanFailed("its lifespan task was cancelled")
        else:
            exception = self._task.exception()
        self._task = None
        self.state.clear()
        self.state.update(self._first_state)
        if self.mode == "auto":
            if exception is not None:
                log.info("the application has no lifespan (%s: %s)", type(exception).__name__, exception)
            return
        if exception is None:
            raise LifespanFailed("the application returned before lifespan.startup.complete")
        raise exception

    async def shutdown(self):
        """Returns when the application has shut down. Logs what goes wrong; there is nobody left to stop."""
        if self._task is None or self._task.done():
            return
        self._is_asked_to_stop = True
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait({self._task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._failure is not None:
            log.failed("lifespan.shutdown failed: %s", self._failure)
        if self._stopped.is_set():
            await asyncio.wait({self._task}, timeout=ENDING_SECONDS)
        if self._exception is not None:
            log.request_failed("lifespan", self._exception, "exception", False)

    async def _main(self):
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.app(scope, self._inbox.get, self._send)
        except Exception as e:
            if not self._started.is_set():
                raise
            if self._failure is None:
                log.request_failed("lifespan", e, "exception", False)
                if not self._is_asked_to_stop:
                    guard.replace_worker("the lifespan")
            elif str(e) not in self._failure:
                self._exception = e
        except SystemExit as e:
            if self._started.is_set():
                raise
            self._failure, self._exception = f"it called sys.exit({e.code!r})", e
            self._started.set()

    async def _send(self, message):
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not self._started.is_set():
            self._started.set()
        elif kind == "lifespan.startup.failed" and not self._started.is_set():
            self._failure = message.get("message", "").strip() or "lifespan.startup.failed without a message"
            self._started.set()
        elif kind == "lifespan.shutdown.complete" and self._started.is_set() and not self._stopped.is_set():
            self._stopped.set()
        elif kind == "lifespan.shutdown.failed" and self._started.is_set() and not self._stopped.is_set():
            self._failure = message.get("message", "").strip() or "lifespan.shutdown.failed without a message"
            self._stopped.set()
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r} in the lifespan protocol at this point")
