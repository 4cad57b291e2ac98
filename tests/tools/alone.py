"""What `@pytest.mark.alone` means where pytest runs in several processes (-n): no other process runs a test meanwhile.

Every test holds a lock that tests may share; one that is alone holds it by itself. Both ask for it through a gate, where whoever
waits for the lock keeps the next ones back: so a test that is alone has its turn once those that run have ended.
"""

import contextlib
import fcntl
import os
from pathlib import Path


class Turns:
    """The two locks, as files in a folder that the processes of one run share."""

    def __init__(self, folder):
        self.gate, self.room = (os.open(Path(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in ("gate", "room"))

    def close(self):
        os.close(self.gate)
        os.close(self.room)

    @contextlib.contextmanager
    def turn(self, alone):
        fcntl.flock(self.gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self.room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self.gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_UN)
