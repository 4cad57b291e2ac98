"""Every nesting of sync_to_async and async_to_sync that asgiref allows, as coroutine functions without arguments.

Each returns where its parts ran, by calling `here()`: a server and stock asgiref must agree on which parts share a thread and a loop.
"""

import asyncio
import contextvars
import sys
import threading

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async

VALUE = contextvars.ContextVar("value", default="unset")
CASES = {}


def case(fn):
    CASES[fn.__name__] = fn
    return fn


def here():
    """(thread, loop) of the caller."""
    try:
        loop = id(asyncio.get_running_loop())
    except RuntimeError:
        loop = 0
    return threading.get_ident(), loop


async def here_async():
    return here()


def pattern(result):
    """Threads and loops replaced by numbers in order of their appearance: what two runs must have in common."""
    numbers = {0: 0}

    def walk(value):
        if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int for v in value):
            return tuple(numbers.setdefault(v, len(numbers)) for v in value)
        if isinstance(value, (list, tuple)):
            return [walk(v) for v in value]
        if isinstance(value, dict):
            return {k: walk(v) for k, v in value.items()}
        return value

    return walk(result)


# --- depth


def nest(depth, at_the_bottom):
    """sync code that goes depth times into async code and back."""

    def sync():
        if depth == 0:
            return [here(), at_the_bottom()]
        return [here(), async_to_sync(inner)()]

    async def inner():
        return [here(), await sync_to_async(nest(depth - 1, at_the_bottom))()]

    return sync


@case
async def hop():
    return [here(), await sync_to_async(here)()]


@case
async def hops():
    return [await sync_to_async(here)() for _ in range(5)]


@case
async def depth_1():
    return await sync_to_async(nest(1, here))()


@case
async def depth_2():
    return await sync_to_async(nest(2, here))()


@case
async def depth_3():
    return await sync_to_async(nest(3, here))()


@case
async def async_only_below():
    return await sync_to_async(lambda: [here(), async_to_sync(here_async)(), here()])()


@case
async def decorated():
    @sync_to_async
    def sync():
        return [here(), inner()]

    @async_to_sync
    async def inner():
        return [here(), await bottom()]

    @sync_to_async(thread_sensitive=True)
    def bottom():
        return here()

    return await sync()


# --- side by side


@case
async def gather():
    return await asyncio.gather(*(sync_to_async(here)() for _ in range(5)))


@case
async def gather_nested():
    return await asyncio.gather(*(sync_to_async(nest(2, here))() for _ in range(3)))


@case
async def tasks():
    made = [asyncio.create_task(sync_to_async(nest(1, here))()) for _ in range(3)]
    return [await task for task in made]


@case
async def gather_below():
    async def inner():
        return [here(), await asyncio.gather(*(sync_to_async(here)() for _ in range(5)))]

    return await sync_to_async(lambda: [here(), async_to_sync(inner)()])()


@case
async def gather_at_every_depth():
    def sync(depth):
        return here() if depth == 0 else [here(), async_to_sync(inner)(depth)]

    async def inner(depth):
        return await asyncio.gather(*(sync_to_async(sync)(depth - 1) for _ in range(2)))

    return await sync_to_async(sync)(3)


@case
async def task_below():
    async def inner():
        return await asyncio.create_task(sync_to_async(nest(1, here))())

    return await sync_to_async(lambda: [here(), async_to_sync(inner)()])()


@case
async def task_made_above_and_awaited_below():
    """The task's calls belong to the request's thread, which is free while the task is made: begun before the view."""
    task = asyncio.create_task(sync_to_async(here)())
    first = await task

    async def inner():
        return await task

    return [first, await sync_to_async(lambda: [here(), async_to_sync(inner)()])()]


@case
async def task_outlives_its_async_to_sync():
    """Its call comes when nothing waits below any more: asgiref has an opinion on that, by version."""
    go, made = asyncio.Event(), []

    async def later():
        await go.wait()
        try:
            return await sync_to_async(here)()
        except RuntimeError as e:
            return str(e)

    async def inner():
        made.append(asyncio.create_task(later()))

    ran = await sync_to_async(lambda: [here(), async_to_sync(inner)()])()
    go.set()
    return [ran, await made[0]]


@case
async def task_outlives_the_inner_of_two():
    go, made = asyncio.Event(), []

    async def later():
        await go.wait()
        try:
            return await sync_to_async(here)()
        except RuntimeError as e:
            return str(e)

    async def innermost():
        made.append(asyncio.create_task(later()))

    async def inner():
        await sync_to_async(async_to_sync(innermost))()
        go.set()
        return await made[0]

    return await sync_to_async(lambda: [here(), async_to_sync(inner)()])()


# --- threads that are not the request's


@case
async def insensitive():
    return [await sync_to_async(here)(), await sync_to_async(here, thread_sensitive=False)()]


@case
async def insensitive_nested():
    """thread_sensitive=False in True, and what is below it."""

    async def inner():
        return [here(), await sync_to_async(nest(1, here), thread_sensitive=False)()]

    return await sync_to_async(lambda: [here(), async_to_sync(inner)()])()


@case
async def sensitive_below_insensitive():
    return await sync_to_async(nest(2, here), thread_sensitive=False)()


@case
async def to_thread():
    return [await sync_to_async(here)(), await asyncio.to_thread(here)]


@case
async def run_in_executor():
    return [await sync_to_async(here)(), await asyncio.get_running_loop().run_in_executor(None, here)]


def in_a_thread(fn):
    result = []
    thread = threading.Thread(target=lambda: result.append(fn()))
    thread.start()
    thread.join()
    return result[0]


@case
async def plain_thread():
    """async_to_sync in a thread of the application's own: a loop of its own."""
    return await sync_to_async(lambda: [here(), in_a_thread(nest(2, here))])()


@case
async def plain_thread_with_the_context():
    def sync():
        context = contextvars.copy_context()
        return [here(), in_a_thread(lambda: context.run(nest(1, here)))]

    return await sync_to_async(sync)()


@case
async def plain_thread_below():
    async def inner():
        return await sync_to_async(lambda: [here(), in_a_thread(nest(1, here))])()

    return await sync_to_async(lambda: [here(), async_to_sync(inner)()])()


@case
async def new_loop():
    async def inner():
        return [here(), await sync_to_async(nest(1, here))()]

    return await sync_to_async(lambda: [here(), async_to_sync(inner, force_new_loop=True)()])()


@case
async def new_loop_in_a_task():
    async def inner():
        return [here(), await asyncio.create_task(sync_to_async(here)())]

    return await sync_to_async(lambda: [here(), async_to_sync(inner, force_new_loop=True)()])()


@case
async def run_in_another_thread():
    """asyncio.run() elsewhere, with the request's context: its thread-sensitive calls are the request's."""

    async def main():
        return [here()[0] != 0, await sync_to_async(here)()]

    return [await sync_to_async(here)(), await asyncio.to_thread(asyncio.run, main())]


# --- contexts


@case
async def own_context():
    """ThreadSensitiveContext in a request, as Django's handler has it: only the outermost counts."""
    before = await sync_to_async(here)()
    async with ThreadSensitiveContext():
        inside = await sync_to_async(nest(1, here))()
    return [before, inside, await sync_to_async(here)()]


@case
async def own_executor():
    if not hasattr(ThreadSensitiveContext(), "_executor"):
        return "3.13 has it"
    from concurrent.futures import ThreadPoolExecutor

    before = await sync_to_async(here)()
    with ThreadPoolExecutor(1) as executor:
        async with ThreadSensitiveContext(executor=executor):
            inside = await sync_to_async(nest(1, here))()
    return [before, inside, await sync_to_async(here)()]


@case
async def context_in_and_out():
    def sync():
        seen = VALUE.get()
        VALUE.set(seen + ", sync")
        async_to_sync(inner)()
        return seen

    async def inner():
        VALUE.set(VALUE.get() + ", inner")
        await sync_to_async(bottom)()

    def bottom():
        VALUE.set(VALUE.get() + ", bottom")

    VALUE.set("async")
    return [await sync_to_async(sync)(), VALUE.get()]


@case
async def context_of_gathered_calls():
    """Each has a copy of its own."""

    async def one(i):
        VALUE.set(f"task {i}")
        return await sync_to_async(VALUE.get)()

    return [VALUE.get(), await asyncio.gather(*(one(i) for i in range(5)))]


# --- exceptions


class Odd(Exception):
    pass


@case
async def exception():
    def bottom():
        raise Odd("from the bottom")

    def sync():
        try:
            async_to_sync(inner)()
        except Odd as e:
            raise Odd(f"{e}, and the middle") from e

    async def inner():
        await sync_to_async(bottom)()

    try:
        await sync_to_async(sync)()
    except Odd as e:
        return [str(e), type(e.__cause__).__name__, await sync_to_async(here)() == await sync_to_async(here)()]


@case
async def exception_in_hand():
    """sys.exc_info() is what it was in the caller."""
    try:
        raise Odd("in hand")
    except Odd:
        return await sync_to_async(lambda: str(sys.exc_info()[1]))()


@case
async def thread_local():
    local = threading.local()
    await sync_to_async(setattr)(local, "value", 1)

    async def inner():
        return await sync_to_async(lambda: local.value)()

    return [await sync_to_async(lambda: local.value)(), await sync_to_async(lambda: async_to_sync(inner)())()]


async def stock(name):
    """The case as any other server runs it."""
    assert SyncToAsync.thread_sensitive_context.get(None) is None
    async with ThreadSensitiveContext():
        return await CASES[name]()
