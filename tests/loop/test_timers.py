"""call_later() and call_at()."""

import random
import time

import pytest
from conftest import turns

import _ringcorn


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def test_not_before_its_time(loop):
    at = loop.time() + 0.05
    seen = []
    loop.call_at(at, lambda: (seen.append(loop.time()), loop.stop()))
    loop.run_forever()
    assert at <= seen[0] < at + 0.05


def test_the_clock_is_the_monotonic_one(loop):
    assert abs(loop.time() - time.monotonic()) < 0.1


def test_in_order_of_time_then_of_making(loop):
    now = loop.time()
    seen = []
    expected = []
    rng = random.Random(7)
    for i in range(3000):
        when = now + rng.randrange(20) / 1000
        expected.append((when, i))
        loop.call_at(when, seen.append, (when, i))
    run_for(loop, 0.03)
    assert seen == sorted(expected)


def test_cancelling_at_random_leaves_the_rest_in_order(loop):
    now = loop.time()
    rng = random.Random(11)
    seen = []
    timers = {}
    for i in range(5000):
        when = now + rng.randrange(1, 30) / 1000
        timers[loop.call_at(when, seen.append, (when, i))] = (when, i)
    doomed = rng.sample(list(timers), 4000)
    for timer in doomed:
        timer.cancel()
        del timers[timer]
    assert len(loop._scheduled) < 2500, "more than half cancelled: compacted"
    run_for(loop, 0.04)
    assert seen == sorted(timers.values())


def test_cancelled_timers_are_freed_without_running(loop):
    before = _ringcorn.live()["handles"]
    for _ in range(10_000):
        loop.call_later(3600, print).cancel()
    assert _ringcorn.live()["handles"] - before < 10
    assert loop._scheduled == []


def test_a_cancelled_first_timer_does_not_wake_the_loop(loop):
    first = loop.call_later(0.01, print)
    seen = []
    loop.call_later(0.05, lambda: (seen.append(loop.time()), loop.stop()))
    first.cancel()
    loop.run_forever()
    assert seen


def test_a_timer_may_cancel_one_that_is_due_in_the_same_turn(loop):
    seen = []
    now = loop.time()
    loop.call_at(now, lambda: second.cancel())
    second = loop.call_at(now, seen.append, "cancelled")
    run_for(loop, 0.01)
    assert seen == []


def test_past_far_and_endless_times(loop):
    seen = []
    loop.call_later(-5, seen.append, "past")
    loop.call_at(0, seen.append, "long past")
    far = loop.call_later(1e12, seen.append, "far")
    never = loop.call_later(float("inf"), seen.append, "never")
    run_for(loop, 0.01)
    assert sorted(seen) == ["long past", "past"]
    far.cancel()
    never.cancel()
    with pytest.raises(ValueError):
        loop.call_later(float("nan"), print)


def test_none_and_nonsense(loop):
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, print)
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, print)
    with pytest.raises(TypeError):
        loop.call_later("soon", print)


def test_when_compare_and_hash(loop):
    a = loop.call_at(loop.time() + 10, print, 1)
    b = loop.call_at(a.when() + 1, print, 1)
    same = loop.call_at(a.when(), print, 1)
    assert a < b and b > a and a <= b and b >= a and a != b
    assert a == same and a <= same and hash(a) == hash(same)
    assert a._scheduled
    with pytest.raises(TypeError):
        a < 5
    for timer in (a, b, same):
        timer.cancel()
    assert not a._scheduled


def test_when_is_told_as_it_was_given(loop):
    """aiohttp rounds up to whole seconds, and looks at asyncio's own name of it."""
    whole, part = loop.call_at(10**9, print), loop.call_at(1e9 + 0.5, print)
    later = loop.call_later(10**9, print)
    assert repr(whole.when()) == repr(whole._when) == "1000000000"
    assert repr(part.when()) == repr(part._when) == "1000000000.5"
    assert type(later.when()) is float
    for timer in (whole, part, later):
        timer.cancel()
    again = loop.call_at(1e9, print)  # in memory that was whole's, perhaps
    assert type(again.when()) is float
    again.cancel()


def test_a_loop_with_a_timer_sleeps(loop):
    began = time.process_time()
    run_for(loop, 0.3)
    assert time.process_time() - began < 0.1


def test_timers_made_by_timers(loop):
    seen = []

    def again(n):
        seen.append(n)
        if n:
            loop.call_later(0.001, again, n - 1)
        else:
            loop.stop()

    loop.call_soon(again, 50)
    loop.run_forever()
    assert seen == list(range(50, -1, -1))
    turns(loop)
