"""What all of aio share: the maker of operations, and who is next at a file."""

import asyncio
import collections

import _ringcorn

# files.read(fd, n) and its like make operations: awaitables that the first await begins. server/aio/aio.h has their life.
files = _ringcorn.Files()


class Turns:
    """One call at a time: the others wait in the order in which they came."""

    __slots__ = ("_is_busy", "_waiting")

    def __init__(self):
        self._is_busy = False
        self._waiting = None

    async def _take_turn(self):
        if not self._is_busy:
            self._is_busy = True
            return
        if self._waiting is None:
            self._waiting = collections.deque()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._end_turn()  # it was ours when the task was cancelled
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _end_turn(self):
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False
