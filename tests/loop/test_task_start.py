"""Tasks whose first step runs at once."""

import asyncio
import contextvars
import gc
import sys
import weakref

import pytest
from conftest import turns

import _ringcorn

var = contextvars.ContextVar("var", default="unset")


def start(loop, coro, context=None):
    return _ringcorn._task_start(loop, coro, context or contextvars.copy_context())


def in_loop(loop, function):
    """Calls it in a callback of the running loop, where no task is current."""
    result = []
    loop.call_soon(lambda: result.append(function()))
    turns(loop)
    return result[0]


def test_a_coroutine_that_never_waits_is_done_at_once(loop):
    async def coro():
        return 42

    def check():
        task = start(loop, coro())
        assert task.done() and task.result() == 42
        assert isinstance(task, asyncio.Task)
        return task

    task = in_loop(loop, check)
    assert task not in asyncio.all_tasks(loop)
    turns(loop)


def test_the_first_step_sees_what_a_task_sees(loop):
    seen = {}
    context = contextvars.copy_context()
    context.run(var.set, "the request's")

    async def coro():
        seen["task"] = asyncio.current_task()
        seen["all"] = asyncio.all_tasks()
        seen["loop"] = asyncio.get_running_loop()
        seen["var"] = var.get()
        var.set("changed")
        await asyncio.sleep(0)
        seen["later"] = asyncio.current_task(), var.get()
        return "end"

    def check():
        task = start(loop, coro(), context)
        assert not task.done() and asyncio.current_task(loop) is None
        assert task in asyncio.all_tasks(loop)
        return task

    task = in_loop(loop, check)
    assert loop.run_until_complete(task) == "end"
    assert seen["task"] is task and task in seen["all"] and seen["loop"] is loop
    assert seen["var"] == "the request's" and seen["later"] == (task, "changed")
    assert var.get() == "unset" and context[var] == "changed"


def test_exceptions_are_the_tasks(loop):
    async def coro():
        raise ValueError("at once")

    task = in_loop(loop, lambda: start(loop, coro()))
    assert task.done() and isinstance(task.exception(), ValueError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exits_propagate(loop, kind):
    async def coro():
        raise kind(5)

    loop.call_soon(lambda: start(loop, coro()))
    with pytest.raises(kind):
        loop.run_forever()
    gc.collect()
    # The task that nobody has is reported too, as asyncio does for create_task().
    loop.problems[:] = [p for p in loop.problems if not isinstance(p["exception"], kind)]


def test_timeouts_and_cancellation_work_in_the_first_step(loop):
    async def timed():
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        except TimeoutError:
            return "timed out"

    task = in_loop(loop, lambda: start(loop, timed()))
    assert loop.run_until_complete(task) == "timed out"

    async def waits():
        await asyncio.sleep(5)

    task = in_loop(loop, lambda: start(loop, waits()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)

    async def groups():
        async with asyncio.TaskGroup() as group:
            a = group.create_task(asyncio.sleep(0, 1))
            b = group.create_task(asyncio.sleep(0, 2))
        return a.result() + b.result()

    assert loop.run_until_complete(in_loop(loop, lambda: start(loop, groups()))) == 3


def test_tasks_that_the_first_step_makes_are_ordinary_ones(loop):
    order = []

    async def child():
        order.append("child")

    async def coro():
        asyncio.create_task(child())
        asyncio.get_running_loop().call_soon(order.append, "soon")
        order.append("first step")
        await asyncio.sleep(0)
        order.append("second step")

    def check():
        task = start(loop, coro())
        order.append("started")
        return task

    loop.run_until_complete(in_loop(loop, check))
    assert order == ["first step", "started", "child", "soon", "second step"]


def test_what_cannot_be_a_task(loop):
    def check():
        with pytest.raises(TypeError):
            start(loop, 5)
        with pytest.raises(TypeError):
            _ringcorn._task_start(loop, None, None)
        return True

    assert in_loop(loop, check)

    async def coro():
        return "still works"

    assert in_loop(loop, lambda: start(loop, coro())).result() == "still works"


def test_a_finalizer_that_makes_a_task_meanwhile_is_not_mixed_up(loop):
    """The collector may run anything while a task is being made: only the task's own step is run at once."""
    order = []

    async def other():
        order.append("other")

    class Trap:
        def __init__(self):
            self.cycle = self

        def __del__(self):
            if loop.is_running():
                asyncio.create_task(other())

    async def coro():
        order.append("coro")

    def check():
        thresholds = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(50):
                Trap()
                order.clear()
                assert start(loop, coro()).done()
                assert "coro" in order
        finally:
            gc.set_threshold(*thresholds)
        return True

    assert in_loop(loop, check)
    gc.collect()
    turns(loop, 2)


def test_nothing_is_kept(loop):
    class Thing:
        pass

    async def coro(thing):
        await asyncio.sleep(0)

    def check():
        thing = Thing()
        context = contextvars.copy_context()
        context.run(var.set, thing)
        return start(loop, coro(thing), context), weakref.ref(thing)

    task, ref = in_loop(loop, check)
    loop.run_until_complete(task)
    del task
    gc.collect()
    assert ref() is None


def test_in_debug_mode(loop):
    loop.set_debug(True)

    async def coro():
        await asyncio.sleep(0)
        return sys.get_coroutine_origin_tracking_depth()

    assert loop.run_until_complete(in_loop(loop, lambda: start(loop, coro()))) > 0
