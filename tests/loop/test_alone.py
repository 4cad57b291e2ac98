"""tests/tools/alone.py: which tests of several processes run at the same time."""

import fcntl
import threading

import wire
from alone import Turns

SOON = 0.2  # long enough for a thread to do what it is not to do


def begin(turns, alone):
    """A test in a thread of its own; (has it begun, what ends it, the thread)."""
    begun, over = threading.Event(), threading.Event()

    def run():
        with turns.turn(alone):
            begun.set()
            over.wait(30)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return begun, over, thread


def gate_is_held(turns):
    try:
        fcntl.flock(turns.gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(turns.gate, fcntl.LOCK_UN)
    return False


def test_one_that_is_alone_has_its_turn_between_the_others(tmp_path):
    processes = [Turns(tmp_path) for _ in range(5)]  # flock() knows them by their descriptors, as it would processes
    first, second = begin(processes[0], False), begin(processes[1], False)
    assert first[0].wait(10) and second[0].wait(10), "tests run side by side"
    alone = begin(processes[2], True)
    wire.eventually(lambda: gate_is_held(processes[4]), 10, "it waits for those that run")
    assert not alone[0].wait(SOON)
    late = begin(processes[3], False)
    first[1].set()
    assert not alone[0].wait(SOON) and not late[0].is_set(), "for all of them, and others wait behind it"
    second[1].set()
    assert alone[0].wait(10)
    assert not late[0].wait(SOON), "nothing runs beside it"
    alone[1].set()
    assert late[0].wait(10)
    late[1].set()
    for _, _, thread in (first, second, alone, late):
        thread.join(10)
    for one in processes:
        one.close()
