"""Who waits for a task, by the call graph that CPython keeps from 3.14 on: the tree of ringcornctl tasks takes its word."""

import asyncio
import sys
import threading

import pytest

if sys.version_info < (3, 14):
    pytest.skip("before 3.14 CPython keeps none", allow_module_level=True)

from ringcorn import tree


async def leaf():
    await asyncio.Event().wait()


def child():
    return asyncio.create_task(leaf(), name=f"of {asyncio.current_task().get_name()}")


async def awaits():
    await child()


async def nested():
    async def inner():
        async def innermost():
            await child()

        await innermost()

    await inner()


async def groups():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf(), name="of groups")


async def gathers():
    await asyncio.gather(child(), return_exceptions=True)


async def waits():
    await asyncio.wait([child()])


async def times_out():
    await asyncio.wait_for(child(), 60)


async def shields():
    await asyncio.shield(child())


WAYS = {
    awaits: "await", nested: "await", groups: "asyncio.TaskGroup", gathers: "asyncio.gather()", waits: "asyncio.wait()", times_out: "await",
    shields: "asyncio.shield()",
}  # fmt: skip


def in_another_thread(function):
    """What it returns; the loop is blocked meanwhile."""
    told = []
    thread = threading.Thread(target=lambda: told.append(function()))
    thread.start()
    thread.join()
    return told[0]


def among_waiting(loop, look):
    """look({name: task}) in a step of *loop*, when each way to wait has begun and each of them has its child."""

    async def main():
        tasks = [asyncio.create_task(way(), name=way.__name__) for way in WAYS]
        for _ in range(5):
            await asyncio.sleep(0)
        try:
            return look({task.get_name(): task for task in asyncio.all_tasks(loop)})
        finally:
            for task in asyncio.all_tasks(loop) - {asyncio.current_task()}:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return loop.run_until_complete(main())


@pytest.mark.parametrize("call", (in_another_thread, lambda function: function()), ids=("blocked", "own step"))
def test_the_call_graph_knows_each_way_to_wait(loop, call):
    def look(tasks):
        graph, told = call(lambda: [{name: of(tasks[f"of {name}"]) for name in names} for of in (tree._by_call_graph, tree.awaiter)])
        assert graph == {name: tasks[name] for name in names}
        assert {name: (how, task) for name, (how, _, task) in told.items()} == {way.__name__: (how, tasks[way.__name__]) for way, how in WAYS.items()}

    names = [way.__name__ for way in WAYS]
    among_waiting(loop, look)


def test_the_call_graph_has_the_last_word(loop):
    """What a library says in it, of a wait that no callback tells of."""

    def look(tasks):
        task, other = tasks["awaits"], tasks["groups"]
        assert tree.awaiter(task) is None
        asyncio.future_add_to_awaited_by(task, other)
        assert in_another_thread(lambda: tree.awaiter(task)) == ("await", other, other)
        asyncio.future_discard_from_awaited_by(task, other)
        assert tree.awaiter(task) is None

    among_waiting(loop, look)
