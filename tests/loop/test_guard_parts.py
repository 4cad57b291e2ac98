"""Parts of ringcorn.guard alone, on asyncio's own loop."""

import asyncio
import contextvars
import types

import pytest

from ringcorn import guard, testing, tree
from ringcorn.guard import cancellation, gathers, inside

STEP = 0.05


class Lock:
    async def __aenter__(self):
        await asyncio.sleep(STEP)

    async def __aexit__(self, *exc):
        await asyncio.sleep(10 * STEP)


async def rows():
    try:
        yield 1
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(10 * STEP)


async def in_a_generator():
    async for _ in rows():
        pass


async def in_with():
    async with (
        Lock(),
        Lock(),
    ):
        await asyncio.sleep(60)


async def on_the_way_in():
    async with Lock(), Late():
        pass


class Late(Lock):
    async def __aenter__(self):
        await asyncio.sleep(60)


async def in_else():
    try:
        await asyncio.sleep(0)
    except ValueError:
        pass
    else:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(10 * STEP)


async def in_except():
    try:
        raise ValueError
    except ValueError:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(10 * STEP)


async def swallows():
    for _ in range(2):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


@pytest.fixture
def events(monkeypatch):
    """What is told of."""
    found = []
    guard.forget()
    guard.on(found.append)
    for name in ("_loop", "_grace", "_patience", "_names_swallowers"):  # cancellation.install() sets them
        monkeypatch.setattr(cancellation, name, getattr(cancellation, name))
    monkeypatch.setattr(asyncio.tasks, "_GatheringFuture", asyncio.tasks._GatheringFuture)  # gathers.install() replaces it
    yield found
    guard.off(found.append)


async def cancelled(fn):
    cancellation.install(asyncio.get_running_loop(), None, 60, True)
    task = asyncio.create_task(fn())
    await asyncio.sleep(5 * STEP)
    cancellation.watch(task, "GET /", None)
    task.cancel()
    await asyncio.sleep(cancellation.FIRST_LOOK + 2 * STEP)
    assert not task.done()  # it was looked at while it cleans up
    task.cancel()
    await asyncio.wait([task], timeout=STEP)


@pytest.mark.parametrize("fn", (in_a_generator, in_with, on_the_way_in, in_else, in_except))
def test_what_cleans_up_does_not_swallow(events, fn):
    asyncio.run(cancelled(fn))
    assert events == []


def test_what_goes_on_does(events):
    asyncio.run(cancelled(swallows))
    assert [(e.kind, e.function) for e in events] == [("swallowed", "swallows")]


# --- gather()


async def fails(seconds):
    await asyncio.sleep(seconds)
    raise ValueError(seconds)


async def gathers_again():
    both = [asyncio.create_task(fails(seconds)) for seconds in (0, STEP)]
    try:
        await asyncio.gather(*both)
    except ValueError:
        return [str(one) for one in await asyncio.gather(*both, return_exceptions=True)]


async def awaits_the_other():
    other = asyncio.create_task(fails(STEP))
    try:
        await asyncio.gather(fails(0), other)
    except ValueError:
        try:
            await other
        except ValueError:
            pass


async def adds_results():
    return len([None] + await asyncio.gather(fails(0), return_exceptions=True))


async def looks_at_none():
    await asyncio.gather(fails(0), return_exceptions=True)


@pytest.mark.parametrize("fn, told", ((gathers_again, 0), (awaits_the_other, 0), (adds_results, 0), (looks_at_none, 1)))
def test_what_somebody_sees_is_not_lost(events, fn, told):
    gathers.install()
    asyncio.run(fn())
    assert [e.kind for e in events] == ["lost"] * told


# --- allow()


def test_allow_ends_in_another_context():
    """A synchronous dependency of FastAPI's goes through its yield in a copy of the context."""

    def dependency():
        with guard.allow("block"):
            yield

    one = dependency()
    contextvars.copy_context().run(next, one)
    assert contextvars.copy_context().run(next, one, "ended") == "ended"
    assert not guard.is_allowed("block")


def test_allow_refuses_to_decorate_generators():
    async def rows():
        yield

    def lines():
        yield

    for fn in (rows, lines):
        with pytest.raises(TypeError, match="generator runs in pieces"):
            guard.allow("block")(fn)


# --- what goes with the kinds


def test_each_kind_can_be_switched_off_in_a_test():
    assert tuple(testing.KEYS) == guard.KINDS


# --- ringcornctl tasks


async def makes(cycle, label, is_ended):
    """A request of an application that knows no leases, and a task that it has made."""
    cycle.label, cycle.is_ended = label, is_ended
    guard.request.set(cycle)
    made = asyncio.create_task(asyncio.sleep(60), name=f"made by {label}")
    if not is_ended:
        await asyncio.sleep(60)
    return made


def test_tasks_of_applications_without_leases_have_their_request():
    async def main():
        loop, cycles = asyncio.get_running_loop(), [types.SimpleNamespace(task=None) for _ in range(2)]
        own = cycles[0].task = asyncio.create_task(makes(cycles[0], "GET /in_hand", False), name="own")
        left = await asyncio.create_task(makes(cycles[1], "GET /ended", True))
        found = tree.told(loop, [], [(own, None, "GET /in_hand", 1.0)])
        left.cancel()
        return {one["request"]: (one["state"], {task["name"] for task in one["tasks"]}) for one in found}

    told = asyncio.run(main())
    assert told["GET /in_hand"] == ("in hand", {"own", "made by GET /in_hand"})
    assert told["GET /ended"] == ("ended", {"made by GET /ended"})


# --- applications that tests drive themselves


def test_request_that_its_test_leaves_behind_ends_in_silence():
    async def app(scope, receive, send):
        await receive()

    @types.coroutine
    def receive():
        yield

    one = inside.drive(app)({"type": "websocket", "path": "/"}, receive, None)
    contextvars.copy_context().run(one.send, None)
    one.close()  # as the collector does: raised nothing
