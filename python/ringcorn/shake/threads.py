"""Calls in threads, one at a time: what a test does in threads then depends on the seed alone.

A call (a *hop*) begins when the loop comes to it, in an order that the seed decides. The loop stands until it has ended, and its result is one more
thing whose turn the seed decides. A call that waits for the loop (``async_to_sync()``, ``from_thread.run()``) lets it go on, and so does, after a
moment, one that waits for something else, such as the lock of another request's transaction: from there on a replay is only as good as that thing is
punctual."""

import asyncio
import collections
import concurrent.futures.thread
import contextvars
import queue
import sys
import threading
import time
import weakref

from .seed import HOPS

LOOK_SECONDS = 0.001  # between two looks whether a call waits for the loop
ASLEEP_SECONDS = 0.25  # that a thread sleeps without a break: its call may be waiting for something that the loop must do first
UNBEGUN_SECONDS = 5.0  # that a call has no thread: those of its executor may all wait
# The same before each callback from then on: SQLite looks every 0.1 s whether a lock is free, and gives up after 5 s.
MOMENTS = (ASLEEP_SECONDS, *(0.12,) * 8, *(0.005,) * 100)
TURNS_MAX = 3

known_threads = weakref.WeakSet()  # what they have for a loop comes through its hops

_condition_wait = threading.Condition.wait.__code__


class _Lane:
    """What has one thread: its calls are made in the order in which they came."""

    __slots__ = ("came", "running", "waiting")

    def __init__(self):
        self.came = collections.deque()  # hops, not begun
        self.waiting = collections.deque()  # begun, while another one runs
        self.running = None


class Hop:
    """A call in a thread. Its methods are callbacks of the loop whose order the seed decides, as that of tasks."""

    __slots__ = ("args", "begins_after", "ends_after", "error", "executor", "func", "future", "is_done", "is_due", "lane", "loop", "moments", "native", "outcome", "thread", "worker")  # fmt: skip

    def __init__(self, loop, executor, func, args, future=None):
        self.loop, self.executor, self.func, self.args = loop, executor, func, args
        self.is_due = future is not None  # also where its future is cancelled
        self.future = loop.create_future() if future is None else future
        self.begins_after, self.ends_after = _turns(loop), _turns(loop)
        self.lane = self.native = self.thread = self.worker = self.outcome = self.error = None
        self.is_done = False
        self.moments = 0

    def begin(self):
        if self.begins_after:
            self.begins_after -= 1
            self.loop.call_soon(self.begin)
            return
        hop = self.lane.came.popleft() if self.lane is not None else self
        if hop.future.done() and not hop.is_due:  # cancelled
            hop.func = hop.args = None
        else:
            self.loop.shake_threads.start(hop)

    def run(self, returned=None):
        """On the thread. *returned*: a list for what the function returns."""
        self.native, self.thread = threading.get_native_id(), threading.get_ident()
        try:
            self.outcome = self.func(*self.args)
            if returned is not None:
                returned.append(self.outcome)
        except BaseException as e:
            self.error = _as_of_a_future(e)
        finally:
            self.func = self.args = None
            self.thread = None
            self.is_done = True
            self.loop.shake_threads.ended.set()
            self.loop._write_to_self()

    def end(self):
        if self.ends_after:
            self.ends_after -= 1
            self.loop.call_soon(self.end)
            return
        outcome, error, self.outcome, self.error = self.outcome, self.error, None, None
        if self.future.done():  # cancelled
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(outcome)

    def is_waiting(self):
        """Whether its thread waits, without an end of its own, for somebody to tell it something."""
        frame = sys._current_frames().get(self.thread)
        if frame is None or frame.f_code is not _condition_wait:
            return False
        try:
            return frame.f_locals["waiter"].locked()
        except KeyError:
            return False


def _is_asleep(native):
    """Whether the thread waits for something, and neither for a CPU nor for a disk: on a busy machine a call that computes takes its time, too."""
    try:
        with open(f"/proc/self/task/{native}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(None, 1)[0] == b"S"
    except OSError:  # it has ended
        return False


def _turns(loop):
    """How many times to let others go first."""
    return 1 + loop._shake_draw(HOPS, TURNS_MAX) if loop._shake_draw(HOPS, 0) else 0


def _as_of_a_future(error):
    """What a future can hold, as asyncio makes it of what an executor's call raises."""
    if isinstance(error, StopIteration):  # the coroutine that awaits would take it for its own end
        other = RuntimeError("function in a thread raised StopIteration")
        other.__cause__ = error
        return other
    if type(error) is concurrent.futures.CancelledError:
        return asyncio.CancelledError(*error.args)
    if type(error) is concurrent.futures.InvalidStateError:
        return asyncio.InvalidStateError(*error.args)
    return error


class _Worker(threading.Thread):
    def __init__(self, number):
        super().__init__(name=f"ringcorn-shake-{number}", daemon=True)
        self.calls = queue.SimpleQueue()
        self.hop = None

    def run(self):
        while (hop := self.calls.get()) is not None:
            hop.run()
            del hop


class Threads:
    """Of a loop: its hops, and the threads of its default executor. Called by server/py/shake.c, too, on the loop's thread."""

    def __init__(self, loop):
        self.loop = loop
        self.ended = threading.Event()  # a hop has
        self.running = []
        self.workers = []
        self.lanes = weakref.WeakKeyDictionary()
        self.known = frozenset(threading.enumerate())

    def submit(self, executor, func, args, future=None):
        """The future of func(*args), in a thread of *executor*; None: in one of ours."""
        if getattr(executor, "_shutdown", False):
            executor.submit(func)  # says so
        hop = Hop(self.loop, executor, func, args, future)
        if executor is not None and getattr(executor, "_max_workers", getattr(executor, "threads", 1)) == 1:
            hop.lane = self.lanes.get(executor) or self.lanes.setdefault(executor, _Lane())
            hop.lane.came.append(hop)
        self.loop.call_soon(hop.begin)
        return hop.future

    def start(self, hop):
        if hop.lane is not None:
            if hop.lane.running is not None:
                hop.lane.waiting.append((hop, contextvars.copy_context()))
                return
            hop.lane.running = hop
        self._start(hop, contextvars.copy_context())

    def _start(self, hop, context):
        self.running.append((hop, context))
        self.loop._shake_wait(True)
        if hop.executor is not None:
            try:
                hop.executor.submit(hop.run)
                return
            except RuntimeError:
                pass  # it was shut down meanwhile, and would have made this call before
        # Always the first one that is idle: which thread it is depends on the seed alone, too.
        worker = next((worker for worker in self.workers if worker.hop is None), None)
        if worker is None:
            worker = _Worker(len(self.workers))
            worker.start()
            self.workers.append(worker)
        worker.hop, hop.worker = hop, worker
        worker.calls.put(hop)

    def _ended(self, hop, context):
        if hop.worker is not None:
            hop.worker.hop = hop.worker = None
        if (lane := hop.lane) is not None:
            lane.running = None
            if lane.waiting:
                lane.running, waiting = lane.waiting.popleft()
                self._start(lane.running, waiting)
        self.loop.call_soon(hop.end, context=context)

    # --- for the core

    def settle(self):
        """Returns when each running call has ended, or waits for the loop. What they have made ready is so, then."""
        awake = {}  # when each was last seen to get on
        while True:
            self.ended.clear()
            for item in [item for item in self.running if item[0].is_done]:
                self.running.remove(item)
                self._ended(*item)
            busy = [hop for hop, _ in self.running if not hop.is_waiting()]
            now = time.monotonic()
            if all(self._is_stalled(hop, awake, now) for hop in busy):
                for hop in busy:
                    hop.moments += 1
                break
            self.ended.wait(LOOK_SECONDS)
        if not self.running:
            self.loop._shake_wait(False)

    def _is_stalled(self, hop, awake, now):
        """Whether it seems to wait for something that others must do first."""
        since = awake.setdefault(hop, now)
        if hop.native is None:
            return now - since > UNBEGUN_SECONDS
        if hop.moments >= len(MOMENTS):
            return True
        if not _is_asleep(hop.native):
            awake[hop] = now
            return False
        return now - since > MOMENTS[hop.moments]

    def is_alone(self):
        """Whether no thread that is not known could still have something for the loop. Virtual time waits for those."""
        if self.loop._signal_handlers:
            return False
        pools = concurrent.futures.thread._threads_queues
        return not any(
            thread not in self.known and not isinstance(thread, _Worker) and thread not in pools and thread not in known_threads
            for thread in threading.enumerate()
        )

    def stuck(self):
        raise Stuck("nothing is left that could wake anybody: " + "; ".join(sorted(map(_place, asyncio.all_tasks(self.loop)))))

    def close(self):
        for worker in self.workers:
            worker.calls.put(None)
        for worker in self.workers:
            if worker.hop is None:
                worker.join()
        self.workers.clear()


class Stuck(RuntimeError):
    """A deadlock: every task waits, and no callback, timer, thread or descriptor is left that could end it."""


def _place(task):
    frames = task.get_stack(limit=1)
    where = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "its end"
    return f"{task.get_name()} in {where}"
