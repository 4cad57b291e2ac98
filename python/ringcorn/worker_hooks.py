"""``hooks.*``: functions of the project that each worker calls at turns of its life.

    def post_fork(worker):
        sentry_sdk.init(dsn=..., release=...)

    async def when_ready(worker):
        await warm_up(worker.slot)

Each is called with a HookInfo, in the worker's main thread; what an ``async def`` returns is awaited on the worker's loop.
"""

import asyncio
import dataclasses
import inspect
import os
import traceback

from . import log
from .app import EXIT_APP, AppError, function_named


@dataclasses.dataclass(frozen=True, slots=True)
class HookInfo:
    hook: str  # "post_fork", "when_ready", "worker_exit" or "on_reload"
    slot: int  # 0 to workers - 1: a worker and its successor have the same
    pid: int
    generation: int  # of the configuration: 1, and one more with each reload
    workers: int  # as configured
    # Why it leaves: "stop", "reload", "scale", "recycle" (another takes its place), "upgrade" (another program does), "failed" (it was never
    # ready). None where it does not.
    reason: str | None = None


class WorkerHooks:
    def __init__(self, options):
        self.options = options
        self.found = {}  # hook: [(spec, function)]

    def resolve(self, *names):
        """Finds what the configuration names for these hooks. Raises AppError."""
        for name in names:
            where = self.options["app_dir"]
            self.found[name] = [(spec, function_named(spec, where, f"hooks.{name}")) for spec in self.options["hooks"][name]]

    def has(self, name):
        return bool(self.found.get(name))

    def lines(self):
        """For --check-config."""
        for name, functions in self.found.items():
            if functions:
                yield f"hooks.{name}: {', '.join(spec for spec, _ in functions)}"

    async def call(self, name):
        """Raises AppError where one fails."""
        await self._call(name, None, self._end_the_start)

    async def call_logged(self, name, reason):
        """What one raises does not keep the others from being called. None is called where the worker did not come so far as to find them."""
        await self._call(name, reason, self._log)

    async def _call(self, name, reason, failed):
        options = self.options
        info = HookInfo(name, options["slot"], os.getpid(), options["generation"], options["workers"], reason)
        for spec, function in self.found.get(name, ()):
            try:
                result = function(info)
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError:
                if asyncio.current_task().cancelling():
                    raise
                failed(name, spec, RuntimeError("it was cancelled"))
            except BaseException as e:  # sys.exit() too
                failed(name, spec, e.with_traceback(e.__traceback__.tb_next or e.__traceback__))  # without our frame

    @staticmethod
    def _end_the_start(name, spec, exception):
        why = traceback.format_exception_only(exception)[-1].strip()
        raise AppError(EXIT_APP, f"the application did not start: hooks.{name}: {spec} failed: {why}", exception) from None

    @staticmethod
    def _log(name, spec, exception):
        log.request_failed(f"hooks.{name}: {spec}", exception, "failed", False)
