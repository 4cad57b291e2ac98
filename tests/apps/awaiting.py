"""Raw ASGI: each path waits in another way, until /done; tests/e2e/test_tasks.py looks at the tree of their tasks."""

import asyncio
import ctypes
import time

import anyio

lock = asyncio.Lock()
done = asyncio.Event()
kept = set()
KEEPS_GIL = ctypes.PyDLL(None)  # unlike CDLL it does not let go of the GIL


async def leaf():
    await done.wait()  # leaf


async def middle():
    await leaf()  # middle


async def ticks():
    await done.wait()  # ticks
    yield 1


async def reads_ticks():
    async for _ in ticks():
        pass


async def holds(a_lock):
    async with a_lock:
        await done.wait()


async def in_groups():
    async with asyncio.TaskGroup() as group:
        group.create_task(middle(), name="a")
        group.create_task(reads_ticks(), name="b")
        group.create_task(gathers(), name="c")


async def gathers():
    await asyncio.gather(leaf(), asyncio.sleep(0), middle())  # gathers


async def in_nurseries():
    a_lock = anyio.Lock()
    async with anyio.create_task_group() as outer:
        outer.start_soon(middle, name="x")
        async with anyio.create_task_group() as inner:
            inner.start_soon(holds, a_lock, name="y1")
            inner.start_soon(holds, a_lock, name="y2")


async def locks():
    kept.add(asyncio.create_task(holds(lock), name="holder"))
    await asyncio.sleep(0)
    async with lock:
        pass


async def waits():
    await asyncio.wait([asyncio.create_task(middle(), name="waited for")])


async def times_out():
    await asyncio.wait_for(asyncio.create_task(middle(), name="in time"), 60)


async def awaits():
    await asyncio.create_task(middle(), name="awaited")


async def shields():
    await asyncio.shield(asyncio.create_task(middle(), name="shielded"))


async def sleeps():
    sleep = asyncio.create_task(asyncio.sleep(60), name="sleep")
    await done.wait()
    sleep.cancel()


async def leaves_behind():
    kept.add(asyncio.create_task(middle(), name="left behind"))


async def on_thread():
    await asyncio.to_thread(lambda: time.sleep(0.05) if done.is_set() else [time.sleep(0.05) for _ in iter(done.is_set, True)])


async def blocks():
    time.sleep(2)  # blocks


async def keeps_gil():
    KEEPS_GIL.usleep(4_500_000)


async def finishes():
    done.set()


PATHS = (
    in_groups, in_nurseries, locks, waits, times_out, awaits, shields, sleeps, leaves_behind, on_thread, blocks, keeps_gil, finishes,
)  # fmt: skip
PATHS = {"/" + fn.__name__: fn for fn in PATHS}


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("none")
    if scope["path"].endswith("/client"):
        await receive()
        await receive()
    else:
        await PATHS[scope["path"]]()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
