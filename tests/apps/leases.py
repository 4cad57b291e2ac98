"""An ASGI application whose synchronous code shows where and when it runs. Nothing in it sleeps: what blocks waits for a gate,
which a request opens."""

import asyncio
import json
import os
import sys
import threading
from urllib.parse import parse_qs

if os.environ.get("ASGIREF") == "renamed":  # an asgiref of the future, whose attributes have other names
    import asgiref.sync

    with open(asgiref.sync.__file__) as file:
        source = file.read()
    renamed = source.replace("thread_sensitive_context", "thread_context").replace("context_to_thread_executor", "executor_of")
    exec(compile(renamed, asgiref.sync.__file__, "exec"), asgiref.sync.__dict__)
    for name in ("thread_sensitive_context", "context_to_thread_executor"):
        assert not hasattr(asgiref.sync.SyncToAsync, name)

if os.environ.get("ASGIREF") == "old":
    import asgiref

    asgiref.__version__ = "3.7.2"

if os.environ.get("ASGIREF") != "lazy":
    import nesting
    from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async

GATES = {}
STARTED = []  # names of blocking calls, in the order in which they began
EVENTS = {}
LOCAL = threading.local()
MEETINGS = {}
ROUTES = {}
GATE_SECONDS = 30


def route(fn):
    ROUTES["/" + fn.__name__.replace("_", "-")] = fn
    return fn


def gate(name):
    return GATES.setdefault(name, threading.Event())


def thread_name():
    return threading.current_thread().name


def block(name, gate_name):
    """Synchronous code that runs until somebody opens its gate."""
    STARTED.append(name)
    if not gate(gate_name).wait(GATE_SECONDS):
        raise TimeoutError(f"nobody opened {gate_name}")
    return thread_name()


async def answer(send, value, status=200):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("HTTP only")
    query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
    head, _, rest = scope["path"][1:].partition("/")
    if head == "case":
        await answer(send, await nesting.CASES[rest]())
    else:
        result = await ROUTES["/" + head](query, receive, send)
        if result is not None:
            await answer(send, result)


# --- for the test


@route
async def open_gate(query, receive, send):
    gate(query["gate"]).set()
    return "opened"


def sync_pool():
    """The worker's pool, found where the worker keeps it."""
    frame = sys._getframe()
    while "pools" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["pools"].sync


@route
async def state(query, receive, send):
    pool = sync_pool()
    names = ("threads", "threads_max", "running", "idle", "queued", "leased", "parked", "peak")
    return {"started": STARTED, "events": EVENTS, "pool": {name: getattr(pool, name) for name in names}, "holders": pool.holders()}


# --- behaviours


@route
async def threads(query, receive, send):
    """The names of the threads that calls of every kind run on."""
    if "nesting" not in sys.modules:
        from asgiref.sync import sync_to_async  # the application's first use of it
    else:
        sync_to_async = globals()["sync_to_async"]
    loop = asyncio.get_running_loop()
    return {
        "sensitive": await sync_to_async(thread_name)(),
        "again": await sync_to_async(thread_name)(),
        "insensitive": await sync_to_async(thread_name, thread_sensitive=False)(),
        "to_thread": await asyncio.to_thread(thread_name),
        "executor": await loop.run_in_executor(None, thread_name),
    }


@route
async def without_asgiref(query, receive, send):
    """async_to_sync() in a call that did not come by sync_to_async(): does it run on the worker's loop?"""

    async def inner():
        return asyncio.get_running_loop() is loop

    loop, lease = asyncio.get_running_loop(), SyncToAsync.thread_sensitive_context.get()
    return await lease.submit(lambda: async_to_sync(inner)())


@route
async def chain(query, receive, send):
    """Hops as a stack of old-style middleware makes them: down, the view, and up again; a thread-local goes with them."""

    def step(i):
        seen = getattr(LOCAL, "steps", None)
        if i == 0:
            LOCAL.steps = seen = []
        seen.append(i)
        return threading.get_ident(), list(seen)

    hops = [await sync_to_async(step)(i) for i in range(int(query.get("hops", 16)))]
    return {"threads": len({ident for ident, _ in hops}), "steps": hops[-1][1], "ident": hops[0][0]}


@route
async def blocking(query, receive, send):
    return await sync_to_async(block)(query["name"], query["gate"])


@route
async def blocking_below(query, receive, send):
    """The thread waits in async_to_sync(), and meanwhile runs what is called below."""

    async def inner():
        return await sync_to_async(block)(query["name"], query["gate"])

    return await sync_to_async(lambda: async_to_sync(inner)())()


@route
async def in_a_group(query, receive, send):
    """What comes out is an exception group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(sync_to_async(block)(query["name"], query["gate"]))


@route
async def like_a_framework(query, receive, send):
    """An exception becomes an answer with status 500, and is told nobody else."""
    try:
        await answer(send, await sync_to_async(block)(query["name"], query["gate"]))
    except Exception as e:
        await send({"type": "http.response.start", "status": 500, "headers": [(b"x-framework", b"1")]})
        await send({"type": "http.response.body", "body": b"error page: ", "more_body": True})
        await send({"type": "http.response.body", "body": str(e).encode()})


@route
async def forgiving(query, receive, send):
    """Gets no thread and does without."""
    try:
        return await sync_to_async(block)(query["name"], query["gate"])
    except RuntimeError as e:
        return f"without: {type(e).__name__}"


@route
async def other_bug(query, receive, send):
    try:
        await sync_to_async(block)(query["name"], query["gate"])
    except RuntimeError:
        pass
    raise KeyError("of the application's own")


@route
async def cancellable(query, receive, send):
    """As Django does it: the work is cancelled when the client leaves."""
    name = query["name"]
    work = asyncio.create_task(sync_to_async(block)(name, query["gate"]))
    EVENTS[name] = "waiting"
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        EVENTS[name] = "cancelled"
    else:
        EVENTS[name] = "done"


async def meet(name, n):
    """Waits until n have come."""
    meeting = MEETINGS.setdefault(name, [0, asyncio.Event()])
    meeting[0] += 1
    if meeting[0] == n:
        meeting[1].set()
    await meeting[1].wait()


@route
async def meeting(query, receive, send):
    """Synchronous code, then something that other requests must come for, then synchronous code. below=1: all that below
    async_to_sync, as under a synchronous middleware."""
    name, n = query["name"], int(query["n"])

    def mark(value):
        LOCAL.mark = value
        return threading.get_ident()

    def check():
        return threading.get_ident(), getattr(LOCAL, "mark", None)

    async def view():
        mine = object()
        first = await sync_to_async(mark)(mine)
        await meet(name, n)
        last, found = await sync_to_async(check)()
        return {"same_thread": first == last, "local_is_mine": found is mine}

    if query.get("below"):
        return await sync_to_async(lambda: async_to_sync(view)())()
    return await view()


@route
async def arrive(query, receive, send):
    """Takes part in a meeting without any synchronous code."""
    await meet(query["name"], int(query["n"]))
    return "there"


@route
async def outliving(query, receive, send):
    """A task that goes on after its request, and calls when the gate is open."""
    name = query["name"]

    async def later():
        await asyncio.to_thread(gate(query["gate"]).wait, GATE_SECONDS)
        try:
            EVENTS[name] = await sync_to_async(thread_name)()
        except Exception as e:
            EVENTS[name] = repr(e)

    EVENTS[name] = "begun"
    first = await sync_to_async(thread_name)()
    tasks.add(task := asyncio.create_task(later()))
    task.add_done_callback(tasks.discard)
    return first


tasks = set()


@route
async def never(query, receive, send):
    """Synchronous code that does not end."""

    def endless():
        STARTED.append(query["name"])
        while True:
            threading.Event().wait(60)

    await sync_to_async(endless)()
