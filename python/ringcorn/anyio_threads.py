"""AnyIO's own limit of threads (40, whatever the machine) follows ``sync.threads``.

AnyIO is never imported for its own sake: where the application has not done so by the time it starts, the limit is set when it does.
"""

import importlib.util
import sys

_BACKEND = "anyio._backends._asyncio"


def limit(loop, threads):
    """Sets the limit for *loop*, now or when AnyIO's asyncio backend is imported. Called with the loop running."""
    if _BACKEND in sys.modules:
        _set(threads)
    else:
        sys.meta_path.insert(0, _Finder(loop, threads))


def _set(threads):
    import anyio.to_thread

    anyio.to_thread.current_default_thread_limiter().total_tokens = threads


class _Finder:
    """Sees one import, once: the limiter belongs to a running loop, so it is set from there."""

    def __init__(self, loop, threads):
        self.loop = loop
        self.threads = threads

    def find_spec(self, name, path=None, target=None):
        if name != _BACKEND:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and not self.loop.is_closed():
            # The import may run in any thread; by the loop's next turn it is over, or AnyIO's lock makes us wait for it.
            self.loop.call_soon_threadsafe(self._begin)
        return spec

    def _begin(self):
        """In a task: outside one, older versions of AnyIO do not know which event loop runs."""
        self.task = self.loop.create_task(self._set(), name="ringcorn-anyio")

    async def _set(self):
        _set(self.threads)
