"""Where CPython keeps its switch interval: found by trying, and left as it was (interval.c, gil.c)."""

import sys

import pytest

import ringcorn.loop

USUAL = 0.0123


@pytest.fixture(autouse=True)
def interval():
    """The application's own; it is still that in the end."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL)
    yield
    try:
        assert sys.getswitchinterval() == pytest.approx(USUAL)
    finally:
        sys.setswitchinterval(before)


def test_the_place_is_found_and_the_interval_stays(loop):
    assert not loop._goes_first
    for _ in range(50):
        loop._goes_first = True
        assert loop._goes_first
        assert sys.getswitchinterval() == pytest.approx(USUAL, abs=1e-7)
    loop._goes_first = False
    assert not loop._goes_first


def test_one_loop_beside_another(loop, usable_io):
    other = ringcorn.loop.new_event_loop(usable_io)
    try:
        loop._goes_first = True
        other._goes_first = True
        assert loop._goes_first and other._goes_first
        other._goes_first = False
        assert loop._goes_first
    finally:
        other.close()


def test_where_sys_sets_something_else_nothing_is_found(loop, monkeypatch):
    """What sys tells and what lies in memory must agree: nothing is written there otherwise, and the loop runs on by CPython's rule."""
    real, told = sys.setswitchinterval, []
    monkeypatch.setattr(sys, "setswitchinterval", told.append)
    loop._goes_first = True
    monkeypatch.setattr(sys, "setswitchinterval", real)
    assert told
    assert not loop._goes_first


def test_errors_of_sys_are_no_errors_of_the_loop(loop, monkeypatch):
    monkeypatch.delattr(sys, "getswitchinterval")
    loop._goes_first = True
    monkeypatch.undo()
    assert not loop._goes_first
