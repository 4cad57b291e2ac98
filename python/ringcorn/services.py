"""``services``: functions of the project that run beside the site: a bot, a consumer of a queue, a scheduler.

    async def main(service):
        async with connect() as queue:
            service.ready()
            while not service.draining.is_set():
                await handle(await queue.get())

An ``async def`` runs in a task on the worker's loop, any other callable on a thread of its own. Which worker runs a service of scope "one", the
master decides (server/master/services.c); those of scope "worker" begin when the worker is ready.
"""

import asyncio
import dataclasses
import threading
import time
import traceback

from . import guard, log, places
from .app import EXIT_APP, AppError, _is_async, _signature, _takes, function_named

BACKOFF_SECONDS = 0.1  # from an end to the next start, doubled with each in a row
DEAD_SECONDS = 8 * BACKOFF_SECONDS  # after four failures in a row guard.mode: raise takes it for dead
BACKOFF_MAX_SECONDS = 30.0
STEADY_SECONDS = 10.0  # who ran for so long begins anew with the shortest


class Service:
    """What a service is called with, if its function takes an argument."""

    __slots__ = ("name", "draining", "_runner")

    def __init__(self, runner, name, draining):
        self.name = name
        self.draining = draining  # asyncio.Event for coroutines, threading.Event for threads: the worker leaves, so end soon
        self._runner = runner

    def ready(self):
        """For those who watch: what it needs is there. From any thread."""
        self._runner.is_said_ready()


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the configuration."""

    name: str
    run: str
    scope: str  # "one", "worker"
    restart: str  # "always", "on-failure", "never"
    function: object
    is_async: bool
    takes_service: bool  # else nobody can tell it to end

    def line(self):
        """For --check-config."""
        where = "on the loop of" if self.is_async else "on a thread of"
        return f"service {self.name}: {self.run}, {where} {'one worker' if self.scope == 'one' else 'each worker'}, restart: {self.restart}"


def resolve(options):
    """Finds the functions that the configuration names: a list of Entry. Raises AppError."""
    entries = []
    for name, run, scope, restart in options["services"]:
        function = function_named(run, options["app_dir"], f"services: {name}")
        signature = _signature(function)
        takes = _takes(signature, 1) is not False
        if not takes and _takes(signature, 0) is False:
            raise AppError(EXIT_APP, f"services: {name}: {run} is to be called with the service, or without an argument; it takes neither")
        entries.append(Entry(name, run, scope, restart, function, _is_async(function), takes))
    return entries


class Services:
    """Those of one worker. On the loop's thread."""

    def __init__(self, entries, loop, worker):
        self.loop = loop
        self.worker = worker
        self.entries = entries
        self.runners = {}  # by the entry's number
        self.context = None
        self.is_leaving = False

    def begin(self, context):
        """The worker is ready. *context*: of the application's start; each service has a copy."""
        self.context = context
        for number, entry in enumerate(self.entries):
            if entry.scope == "worker":
                self.start(number)

    def start(self, number):
        entry = self.entries[number]
        if self.is_leaving:
            self.worker.service_said("stopped", number)
            return
        said = (lambda what: self.worker.service_said(what, number)) if entry.scope == "one" else lambda what: None
        self.runners[number] = _Runner(entry, self.loop, self.context.copy(), said)

    def leave(self):
        """The worker drains."""
        self.is_leaving = True
        for runner in self.runners.values():
            runner.leave()

    def cancel(self):
        for runner in self.runners.values():
            runner.cancel()

    def tasks(self):
        """That are done when all have ended that can be waited for."""
        return {runner.main for runner in self.runners.values() if not runner.main.done() and not runner.is_deaf}

    def name_left_behind(self):
        for runner in self.runners.values():
            runner.name_left_behind()

    def tell(self):
        """For ringcornctl; on any thread."""
        return [runner.tell() for _, runner in sorted(self.runners.items())]


class _Runner:
    """One service: RUNNING -> (READY) -> WAITING -> RUNNING ... -> ended | failed | stopped"""

    def __init__(self, entry, loop, context, said):
        self.entry = entry
        self.loop = loop
        self.context = context
        self.said = said  # to the master
        self.service = Service(self, entry.name, asyncio.Event() if entry.is_async else threading.Event())
        self.arguments = (self.service,) if entry.takes_service else ()
        self.is_deaf = not entry.is_async and not entry.takes_service  # a thread that cannot be told to end
        self.is_leaving = False
        self.leaving = asyncio.Event()
        self.task = self.thread = None
        self.restarts = 0
        self.last_error = None
        self._to("running")
        self.main = loop.create_task(self._supervise(), name=f"service {entry.name}: supervision")

    def _to(self, state):
        self.state, self.since = state, time.monotonic()

    def is_said_ready(self):
        if self.state == "running":
            self._to("ready")
            log.info("service %s is ready", self.entry.name)

    def tell(self):
        return {
            "service": self.entry.name,
            "scope": self.entry.scope,
            "state": self.state,
            "since_s": round(time.monotonic() - self.since, 3),
            "restarts": self.restarts,
            "last_error": self.last_error,
        }

    async def _supervise(self):
        name, wait = self.entry.name, BACKOFF_SECONDS
        log.info("service %s starts: %s", name, self.entry.run)
        error = None
        while not self.is_leaving:
            began = time.monotonic()
            error = await (self._as_task() if self.entry.is_async else self._on_thread())
            if error is not None:
                self.last_error = traceback.format_exception_only(error)[-1].strip()
            if self.is_leaving:
                break
            if time.monotonic() - began >= STEADY_SECONDS:
                wait = BACKOFF_SECONDS
            if self.entry.restart == "never" or (self.entry.restart == "on-failure" and error is None):
                self._over(error)
                return
            if error is None:
                log.info("service %s has returned; it starts again in %.1f s", name, wait)
            else:
                log.request_failed(f"service {name}", error, f"failed; it starts again in {wait:.1f} s", False)
            self._to("waiting")
            try:
                await asyncio.wait_for(self.leaving.wait(), wait)
                error = None  # that is said
                break
            except asyncio.TimeoutError:
                if error is not None and wait >= DEAD_SECONDS and guard.replace_worker(f"service {name}"):
                    await self.leaving.wait()
                    error = None
                    break
                wait = min(2 * wait, BACKOFF_MAX_SECONDS)
            self.restarts += 1
            self._to("running")
        if error is not None:
            log.request_failed(f"service {name}", error, "failed while the worker leaves", False)
        self._to("stopped")
        log.info("service %s has stopped", name)
        self.said("stopped")

    def _over(self, error):
        name = self.entry.name
        if error is None:
            log.info("service %s has returned, and is over (restart: %s)", name, self.entry.restart)
        else:
            log.request_failed(f"service {name}", error, "failed, and is over (restart: never)", False)
        self._to("ended" if error is None else "failed")
        self.said("ended")

    async def _as_task(self):
        """What it raised, or None."""
        self.task = self.loop.create_task(self._call(), name=f"service {self.entry.name}", context=self.context.copy())
        await asyncio.wait({self.task})
        if self.task.cancelled():  # before its first step
            return None if self.is_leaving else RuntimeError("it was cancelled")
        return self.task.result()

    async def _call(self):
        try:
            await self.entry.function(*self.arguments)
        except GeneratorExit:
            raise
        except asyncio.CancelledError:
            return None if self.is_leaving else RuntimeError("it was cancelled")
        except BaseException as e:  # asyncio would let SystemExit and KeyboardInterrupt out of the loop
            return e
        return None

    async def _on_thread(self):
        done = self.loop.create_future()

        def end(error):
            if not done.done():
                done.set_result(error)

        def run():
            error = None
            try:
                self.context.copy().run(self.entry.function, *self.arguments)
            except BaseException as e:
                error = e
            try:
                self.loop.call_soon_threadsafe(end, error)
            except RuntimeError:
                pass  # the loop is closed: it was left behind

        self.thread = threading.Thread(target=run, name=f"service {self.entry.name}", daemon=True)
        self.thread.start()
        return await done

    def leave(self):
        self.is_leaving = True
        self.leaving.set()
        self.service.draining.set()
        if not self.main.done():
            self._to("stopping")
        # Without the service object it cannot know, and would only be waited for.
        if self.task is not None and not self.entry.takes_service:
            self.task.cancel()

    def cancel(self):
        if self.task is not None and not self.task.done():
            log.info("service %s: has not ended, cancelled", self.entry.name)
            self.task.cancel()

    def name_left_behind(self):
        if self.main.done():
            return
        if self.thread is not None and self.thread.is_alive():
            where = places.stack_of_thread(self.thread.ident)
            log.warning("service %s: its thread did not end, it is left behind, and is here:\n%s", self.entry.name, where)
        elif self.task is not None:
            log.warning("service %s did not end when it was cancelled, it is left behind: %r", self.entry.name, self.task)
