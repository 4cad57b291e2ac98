"""Numbers that the workers of a server share: each has a slot of a file in memory, which it alone writes and all read."""

import fcntl
import mmap
import os
import struct

from django.conf import settings

SLOTS = 256
SLOT = struct.Struct("QQQ")  # pid, requests, watchers


def _is_alive(pid):
    return pid != 0 and os.path.exists(f"/proc/{pid}")


class Figures:
    """On the loop's thread; the file is opened at first use."""

    def __init__(self):
        self._memory = self._offset = None
        self.requests = self.watchers = 0

    def _open(self):
        settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
        with open(settings.DATA_DIR / "figures", "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two workers must not take the same slot
            file.truncate(SLOTS * SLOT.size)
            self._memory = mmap.mmap(file.fileno(), SLOTS * SLOT.size)
            # Of a worker that has ended: its count goes on.
            i, before = next((i, requests) for i, (pid, requests, _) in enumerate(self._slots()) if not _is_alive(pid))
            self._offset = i * SLOT.size
            self.requests += before
            self._write()
            fcntl.flock(file, fcntl.LOCK_UN)  # closing would not: the mapping has a descriptor of its own

    def _slots(self):
        return SLOT.iter_unpack(self._memory)

    def _write(self):
        if self._memory is None:
            self._open()
        SLOT.pack_into(self._memory, self._offset, os.getpid(), self.requests, self.watchers)

    def count_request(self):
        self.requests += 1
        self._write()

    def count_watcher(self, n):
        self.watchers += n
        self._write()

    def total(self):
        """(requests, watchers) of all workers; those of ended ones have no watchers."""
        slots = list(self._slots())
        return sum(requests for _, requests, _ in slots), sum(watchers for pid, _, watchers in slots if _is_alive(pid))
