"""What is to happen on the loop once the application imports a module. Nothing is imported for its own sake."""

import importlib.util
import sys


def when_imported(name, loop, begin, task_name):
    """Runs *begin*, a coroutine function without arguments, in a task of *loop* after the first import of module *name*, which has not
    been imported yet. On the loop's thread; the import may happen in any."""
    sys.meta_path.insert(0, _Finder(name, loop, begin, task_name))


class _Finder:
    """Sees one import, once."""

    def __init__(self, name, loop, begin, task_name):
        self.name = name
        self.loop = loop
        self.begin = begin
        self.task_name = task_name

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and not self.loop.is_closed():
            # By the loop's next turn the import is over, or its lock makes us wait for it.
            self.loop.call_soon_threadsafe(self._begin)
        return spec

    def _begin(self):
        """A task: libraries look which event loop runs by the current one."""
        self.task = self.loop.create_task(self.begin(), name=self.task_name)
