"""The loop of a test in shake mode."""

import concurrent.futures
import contextvars

from ..loop import Loop
from .seed import Seed
from .threads import Hop, Threads

# Executors whose calls are made in threads of this interpreter are those that are not these.
_ELSEWHERE = tuple(filter(None, (getattr(concurrent.futures, name, None) for name in ("ProcessPoolExecutor", "InterpreterPoolExecutor"))))

group = contextvars.ContextVar("ringcorn_shake_group", default=0)


class ShakeLoop(Loop):
    """An event loop that runs what is ready in an order that a seed decides, in virtual time, with one call in a thread at a time.

    Everything that decides who is next depends on the seed alone, as long as nothing real is waited for (sockets, subprocesses, threads that do not go
    through the loop). ``time()`` begins at 1000 and moves only where there is nothing else to do."""

    def __init__(self, seed, io=None):
        super().__init__(io)
        self.shake_seed = Seed(seed)
        self.shake_threads = Threads(self)
        self.shake_groups = 0
        self._shake(str(self.shake_seed), group, Hop, self.shake_threads)

    def run_in_executor(self, executor, func, *args):
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            executor = self._default_executor
        if isinstance(executor, _ELSEWHERE):
            return super().run_in_executor(executor, func, *args)
        return self.shake_threads.submit(executor, func, args)

    def close(self):
        super().close()
        self.shake_threads.close()

    def new_group(self, context=None):
        """A copy of *context*, or of the current one, in which what runs is in no order with what runs in others."""
        context = contextvars.copy_context() if context is None else context.copy()
        self.shake_groups += 1
        context.run(group.set, self.shake_groups)
        return context
