"""Cancels what the threads of a request run in a database once the request is given up: its client has gone, its time is over, the worker leaves.

The server says which operations those are (server/sync/driver.c), this has a few threads that cancel them by the driver's own way, which may
take a trip over the network (drivers.py). The view gets the driver's error where it stands, and rolls back as for any error; its connection stays.

A request is told once, as a coroutine is by CancelledError. What it runs afterwards is how it cleans up, and is cancelled only where it takes
longer than PATIENCE. A cancellation that came before its query did, or that a server did not heed, is repeated.

Threads are made when there is something to do and end when there has been nothing for a while. No more than PER_SERVER of them are busy with one
server, so that one that does not answer keeps nobody else waiting.
"""

import collections
import heapq
import threading
import time

from . import drivers, log, places

THREADS_MAX = 4
PER_SERVER = 2
IDLE_SECONDS = 10.0
STOP_SECONDS = 1.0
PATIENCE = 1.0  # seconds that a query gets with which a request cleans up
AGAIN = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds to the next try, while the query still runs

_here = None


def install(worker):
    """From now on, in this process. *worker*: counts what was cancelled."""
    global _here
    _here = Canceller(drivers.drivers(), worker.count_guard)
    drivers.drivers().on_cancel = _here.take


def stop():
    """Nothing is cancelled any more."""
    global _here
    drivers.drivers().on_cancel = None
    if _here is not None:
        _here.stop()
        _here = None


class _Order:
    """An operation that is to be cancelled."""

    __slots__ = ("cell", "number", "why", "tries", "server", "was_sent", "is_doubtful")

    def __init__(self, cell, number, why, server):
        self.cell, self.number, self.why, self.server = cell, number, why, server
        self.tries = 0
        self.was_sent = self.is_doubtful = False


class Canceller:
    """*operations*: a _ringcorn.Drivers; *count*: called with the reason for each query that was cancelled."""

    def __init__(self, operations, count=lambda why: None):
        self.operations = operations
        self.count = count
        self.changed = threading.Condition(threading.Lock())
        self.orders = []  # heap of (when, sequence, _Order)
        self.sequence = 0
        self.busy = collections.Counter()  # threads, by server
        self.threads = set()
        self.idle = 0
        self.is_stopped = False

    def take(self, label, why, operations, is_late):
        """On any thread, quickly: these operations of request *label* are to be cancelled, if they are still running then."""
        when = time.monotonic() + (PATIENCE if is_late else 0)
        for cell, number in operations:
            found = self.operations.look(cell, number)
            if found is not None:
                _, _, driver, connection, _, _ = found
                self._put(when, _Order(cell, number, why, driver.server(connection)))

    def _put(self, when, order):
        with self.changed:
            if self.is_stopped:
                return
            self.sequence += 1
            heapq.heappush(self.orders, (when, self.sequence, order))
            if self.idle == 0 and len(self.threads) < THREADS_MAX:
                self._start()
            self.changed.notify()

    def _leave_none_behind(self):
        """Lock held. This thread may be away for long: another looks at what is left, now or when it is due."""
        if self.orders and self.idle > 0:
            self.changed.notify()
        elif self.orders and len(self.threads) < THREADS_MAX:
            self._start()

    def _start(self):
        thread = threading.Thread(target=self._work, name="ringcorn-cancel", daemon=True)
        self.threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # there can be no thread more
            self.threads.discard(thread)
            if not self.threads:
                log.warning("a thread to cancel queries could not be started: check the limits of processes and memory")

    def _next(self):
        """Lock held. An order that is due and whose server is not busy, out of the heap; or how long there is none; or None: nothing to wait for."""
        now, put_back, found, wait = time.monotonic(), [], None, None
        while self.orders:
            when, sequence, order = self.orders[0]
            if when > now:
                wait = when - now
                break
            heapq.heappop(self.orders)
            if self.busy[order.server] < PER_SERVER:
                found = order
                break
            put_back.append((when, sequence, order))
        for one in put_back:
            heapq.heappush(self.orders, one)
        return found, wait

    def _work(self):
        me = threading.current_thread()
        with self.changed:
            while True:
                order, wait = (None, None) if self.is_stopped else self._next()
                if order is None:
                    self.idle += 1
                    was_told = not self.is_stopped and self.changed.wait(IDLE_SECONDS if wait is None else wait)
                    self.idle -= 1
                    if self.is_stopped or (not was_told and wait is None):
                        self.threads.discard(me)
                        return
                    continue
                self.busy[order.server] += 1
                self._leave_none_behind()
                self.changed.release()
                try:
                    self._cancel(order)
                except Exception as e:
                    log.request_failed("cancel", e, "exception", False)
                finally:
                    self.changed.acquire()
                    self.busy[order.server] -= 1
                    if not self.busy[order.server]:
                        del self.busy[order.server]
                    self.changed.notify()

    def _cancel(self, order):
        found = self.operations.look(order.cell, order.number)
        if found is None:
            return  # it has ended
        label, seconds, driver, connection, statement, ident = found
        text = driver.text(statement)
        if drivers.is_control(text):
            return  # it ends soon; the request is told by its next query
        error, where = None, places.of_thread(ident)
        try:
            driver.reach(connection)
        except Exception as e:
            error = e
        if error is None:
            if not self.operations.start_cancel(order.cell, order.number):
                return
            try:
                driver.cancel(connection)
            except Exception as e:
                error = e
            finally:
                # A request that was sent may arrive later, whatever became of the wait for it: then the connection is closed at the end.
                self.operations.finish_cancel(order.cell, order.number, True if error is None else None)
            if error is not None and not order.is_doubtful:
                order.is_doubtful = True
                log.warning(
                    "%s: a cancellation of its query has failed on its way, so its connection is closed at the query's end (%s: %s): %s",
                    label or "unknown request", type(error).__name__, error, drivers.shown(text),
                )  # fmt: skip
        if error is None and not order.was_sent:
            order.was_sent = True
            self.count(order.why)
            log.info(
                "%s: its query was cancelled after %.1f s, as %s: %s; it was in %s",
                label or "unknown request", seconds, drivers.WHY[order.why], drivers.shown(text), where or "its end",
            )  # fmt: skip
        if order.tries < len(AGAIN):
            order.tries += 1
            self._put(time.monotonic() + AGAIN[order.tries - 1], order)
        else:
            log.warning(
                "%s: its query could not be cancelled, and runs since %.1f s%s: %s",
                label or "unknown request", seconds, f" ({type(error).__name__}: {error})" if error is not None else "", drivers.shown(text),
            )  # fmt: skip

    def stop(self):
        """Ends the threads; one that waits for a server is left behind."""
        with self.changed:
            self.is_stopped = True
            self.orders.clear()
            threads = list(self.threads)
            self.changed.notify_all()
        end = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))
