"""Fixtures of the tests of the event loop alone: the extension module in a plain Python, no server.

The package is the one beside the program under test (RINGCORN_BIN; build/python by default).
"""

import gc
import os
import sys
import sysconfig
import threading
import warnings

import pytest

import harness

sys.path.insert(0, str(harness.BIN.parent / "python"))

# A free-threaded Python says in every process that the import turns the GIL on: tests read what is said there.
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    os.environ["PYTHON_GIL"] = "1"

import _ringcorn
import ringcorn.loop


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def loop(usable_io):
    """A new loop on each backend. After the test: nothing of it is left, neither objects nor descriptors nor threads."""
    gc.collect()
    live, descriptors, threads = _ringcorn.live(), open_descriptors(), set(threading.enumerate())
    loop = ringcorn.loop.new_event_loop(usable_io)
    assert loop.io == usable_io
    problems = []
    loop.set_exception_handler(lambda loop, context: problems.append(context))
    loop.problems = problems
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    del loop
    assert [str(p) for p in problems] == []
    del problems
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
    assert _ringcorn.live() == live
    assert open_descriptors() <= descriptors
    assert set(threading.enumerate()) <= threads


@pytest.fixture
def run(loop):
    """Runs a coroutine function to its end, within ten seconds."""
    import asyncio

    def run(main):
        return loop.run_until_complete(asyncio.wait_for(main(), 10))

    return run


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield


def turns(loop, n=1):
    """Runs n turns and returns."""
    for _ in range(n):
        loop.call_soon(loop.stop)
        loop.run_forever()
