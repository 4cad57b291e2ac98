"""Views that show where they run: `def` and `async def`, with and without the database, in transactions, streaming, slow, busy.

Answers are JSON; `pid` is the process id of the connection's backend in PostgreSQL. Each view is served as /its_name/.
"""

import asyncio
import threading
import time

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.db.models import Func, TextField, Value
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse

from project import hops

from .models import Item

ROUTES = {}
STATE = {}  # what views of the past leave for later requests; keys are the requests' ids
TASKS = set()
_gates = {}  # name -> asyncio.Event


def route(view):
    if asyncio.iscoroutinefunction(view):
        transaction.non_atomic_requests(view)  # Django refuses ATOMIC_REQUESTS for them
    ROUTES[view.__name__] = view
    return view


def one(sql, *args):
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchone()


def hello():
    """With its length, which Django leaves to CommonMiddleware; without one a server must do with what HTTP has for that."""
    return HttpResponse("Hello, World!", content_type="text/plain", headers={"Content-Length": "13"})


def seconds(request, name="s", default=0.0):
    return float(request.GET.get(name, default))


# ------------------------------------------------------------------ plain ones


@route
def plain(request):
    return hello()


@route
async def aplain(request):
    if s := seconds(request):
        await asyncio.sleep(s)
    return hello()


@route
def query(request):
    """One query."""
    item = Item.objects.get(name="item 7")
    return JsonResponse({"price": item.price, "pid": hops.backend(), "thread": threading.get_ident()})


@route
def query5(request):
    prices = [Item.objects.get(name=f"item {i}").price for i in range(5)]
    return JsonResponse({"prices": prices, "pid": hops.backend()})


@route
async def aquery(request):
    """The ORM from a coroutine, `n` times, with something else awaited in between."""
    pids = []
    for i in range(int(request.GET.get("n", 2))):
        if i:
            await asyncio.sleep(seconds(request, default=0.01))
        item = await Item.objects.aget(name="item 7")
        pids.append(await sync_to_async(hops.backend)())
    return JsonResponse({"price": item.price, "pids": pids})


@route
def slow(request):
    """Waits in PostgreSQL."""
    STATE[request.GET.get("id")] = "running"
    pid, _ = one("SELECT pg_backend_pid(), pg_sleep(%s)", seconds(request, default=0.05))
    STATE[request.GET.get("id")] = "done"
    return JsonResponse({"pid": pid, "thread": threading.get_ident()})


@route
async def aslow(request):
    """The same through the ORM of a coroutine."""
    STATE[request.GET.get("id")] = "running"
    waits = Func(Value(seconds(request, default=0.05)), function="pg_sleep", output_field=TextField())
    try:
        await Item.objects.filter(name="item 7").annotate(waits=waits).aget()
    except BaseException as e:
        STATE[request.GET.get("id")] = type(e).__name__
        raise
    return JsonResponse({"pid": await sync_to_async(hops.backend)(), "thread": await sync_to_async(threading.get_ident)()})


@route
def many(request):
    """`n` short queries, one after the other; how many there were is its state."""
    for i in range(int(request.GET["n"])):
        one("SELECT pg_sleep(0.005)")
        STATE[request.GET["id"]] = i
    return JsonResponse({"pid": hops.backend()})


@route
def burn(request):
    """Computes in Python, `ms` of this thread's CPU time."""
    end = time.thread_time() + seconds(request, "ms", 20) / 1000
    n = 0
    while time.thread_time() < end:
        n += sum(range(100))
    return HttpResponse("burnt", content_type="text/plain")


@route
async def state(request):
    """Needs no thread."""
    return JsonResponse({"state": STATE.get(request.GET["of"])})


# ------------------------------------------------------------------ transactions


def _write(name, fail=False):
    """Three statements of one transaction: which backends and transactions they saw."""
    seen = [one("SELECT pg_backend_pid(), txid_current()")]
    Item.objects.create(name=name)
    seen.append(one("SELECT pg_backend_pid(), txid_current()"))
    if fail:
        raise RuntimeError("after the write")
    seen.append(one("SELECT pg_backend_pid(), txid_current()"))
    return seen


@route
def atomic(request):
    with transaction.atomic():
        seen = _write(request.GET["id"], "fail" in request.GET)
    return JsonResponse({"seen": seen})


@route
async def aatomic(request):
    """One call holds the transaction (Django allows no more); the calls around it are on the same connection."""
    before = await sync_to_async(hops.backend)()
    await asyncio.sleep(seconds(request, default=0.005))
    seen = await sync_to_async(transaction.atomic(_write))(request.GET["id"], "fail" in request.GET)
    await asyncio.sleep(seconds(request, default=0.005))
    return JsonResponse({"seen": [(before, seen[0][1]), *seen, (await sync_to_async(hops.backend)(), seen[0][1])]})


@route
def write(request):
    """With ATOMIC_REQUESTS it is one transaction, else each statement is its own."""
    STATE[request.GET["id"]] = "running"
    if s := seconds(request):
        one("SELECT pg_sleep(%s)", s)
    return JsonResponse({"seen": _write(request.GET["id"], "fail" in request.GET)})


@route
def write_then_wait(request):
    """A transaction whose last query takes long."""
    with transaction.atomic():
        seen = _write(request.GET["id"])
        STATE[request.GET["id"]] = "running"
        one("SELECT pg_sleep(%s)", seconds(request))
    return JsonResponse({"seen": seen})


@route
def count(request):
    return JsonResponse({"count": Item.objects.filter(name__startswith=request.GET["of"]).count()})


# ------------------------------------------------------------------ every hop of a request


def _nested(depth):
    """Sync code that runs async code that runs sync code..."""
    hops.note(f"nested {depth}")

    async def inner():
        hops.note(f"nested async {depth}", on_loop=True)
        await asyncio.sleep(0)
        await sync_to_async(_nested)(depth - 1)

    if depth:
        async_to_sync(inner)()


@route
def hop(request):
    hops.note("view")
    _nested(3)
    hops.note("view's end")
    return JsonResponse({})


@route
async def ahop(request):
    hops.note("async view", on_loop=True)
    await sync_to_async(hops.note)("sync_to_async")
    await asyncio.create_task(sync_to_async(hops.note)("in a task"))
    await asyncio.gather(*(sync_to_async(hops.note)("gathered") for _ in range(3)))
    await sync_to_async(_nested)(3)
    return JsonResponse({})


@route
def hop_raise(request):
    hops.note("view")
    raise ValueError("raised")


@route
async def ahop_raise(request):
    await sync_to_async(hops.note)("sync_to_async")
    raise ValueError("raised")


@route
def hop_template(request):
    hops.note("view")

    def value():
        hops.note("template")
        return "rendered"

    return TemplateResponse(request, engines["django"].from_string("{{ value }}"), {"value": value})


@route
def hop_stream(request):
    def pieces():
        try:
            for i in range(5):
                hops.note(f"piece {i}")
                yield f"piece {i}\n"
        finally:
            hops.note("pieces' end")

    hops.note("view")
    return StreamingHttpResponse(pieces(), content_type="text/plain")


@route
async def ahop_stream(request):
    async def pieces():
        for i in range(5):
            await sync_to_async(hops.note)(f"piece {i}")
            yield f"piece {i}\n"

    return StreamingHttpResponse(pieces(), content_type="text/plain")


@route
async def hops_of(request):
    """What was noted of the request `of`."""
    return JsonResponse({"hops": hops.notes(request.GET["of"])})


# ------------------------------------------------------------------ waiting, cursors, tasks


@route
async def gate(request):
    """Takes a thread by a query, then waits until somebody opens the gate `of`."""
    event = _gates.setdefault(request.GET["of"], asyncio.Event())
    before = await sync_to_async(hops.backend)()
    STATE[request.GET["of"]] = STATE.get(request.GET["of"], 0) + 1
    await asyncio.wait_for(event.wait(), seconds(request, "timeout", 20))
    after = await sync_to_async(hops.backend)()
    return JsonResponse({"pids": [before, after]})


@route
async def open_gate(request):
    """Needs a thread too."""
    pid = await sync_to_async(hops.backend)()
    _gates.setdefault(request.GET["of"], asyncio.Event()).set()
    return JsonResponse({"pid": pid})


@route
async def cursor(request):
    """A server-side cursor that is read piece by piece, with pauses."""
    names = []
    async for item in Item.objects.filter(name__startswith="item ").order_by("id").aiterator(chunk_size=20):
        names.append(item.name)
        if len(names) % 20 == 0:
            await asyncio.sleep(seconds(request, default=0.05))
    return JsonResponse({"names": names})


@route
async def outlive(request):
    """Starts a task that asks the database when the answer has long been sent: once `go` is called."""
    name = request.GET["id"]
    _gates[name] = asyncio.Event()
    first = await sync_to_async(hops.backend)()

    async def later():
        await _gates[name].wait()
        try:
            item = await Item.objects.aget(name="item 7")
            STATE[name] = {"price": item.price, "pid": await sync_to_async(hops.backend)()}
        except BaseException as e:
            STATE[name] = {"error": repr(e)}
            raise

    task = asyncio.get_running_loop().create_task(later())
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)
    return JsonResponse({"pid": first})


@route
async def go(request):
    _gates[request.GET["of"]].set()
    return JsonResponse({})


@route
async def threads(request):
    """The names of the process's threads."""
    return JsonResponse({"names": [thread.name for thread in threading.enumerate()]})


@route
def second(request):
    """A query to each of two databases."""
    with connections["second"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    return JsonResponse({"pids": [hops.backend(), pid]})


@route
async def reads(request):
    """`n` reads that need not be on the request's thread, one after the other or side by side."""

    def read():
        return one("SELECT pg_backend_pid(), pg_sleep(%s)", seconds(request))[0]

    calls = [sync_to_async(read, thread_sensitive=False) for _ in range(int(request.GET["n"]))]
    began = time.monotonic()
    if "gather" in request.GET:
        pids = await asyncio.gather(*(call() for call in calls))
    else:
        pids = [await call() for call in calls]
    return JsonResponse({"seconds": time.monotonic() - began, "pids": pids})
