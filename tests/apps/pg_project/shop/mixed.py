"""What the mixed load of tests/stress/mixed.py asks of Django: every answer says whose it is, and nothing is kept of a request.

Served with PG_URLS=project.mixed_urls, each view as /its_name/, `id` in its query.
"""

import asyncio
import contextvars
import hashlib
import threading

import census
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.http import JsonResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.views.decorators.csrf import csrf_exempt

from .models import Item

ROUTES = {}
TASKS = set()
mark = contextvars.ContextVar("mark", default=None)
local = threading.local()
template = engines["django"].from_string("{{ id }} {{ price }}")


class OnPurpose(Exception):
    pass


def route(view):
    if asyncio.iscoroutinefunction(view):
        transaction.non_atomic_requests(view)
    ROUTES[view.__name__] = view
    return view


def one(sql, *args):
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchone()


def backend():
    return one("SELECT pg_backend_pid()")[0]


def answer(request, **more):
    return JsonResponse({"id": request.GET.get("id"), **more})


def number(request, name, default=0.0):
    return float(request.GET.get(name, default))


def _write(name, fail=False):
    seen = [one("SELECT pg_backend_pid(), txid_current()")]
    item = Item.objects.create(name=name)
    seen.append(one("SELECT pg_backend_pid(), txid_current()"))
    found = list(Item.objects.filter(name=name).values_list("name", flat=True))
    if fail:
        raise OnPurpose(name)
    item.delete()
    seen.append(one("SELECT pg_backend_pid(), txid_current()"))
    return {"seen": seen, "found": found}


# ------------------------------------------------------------------ sync


@route
def query(request):
    local.id = request.GET["id"]
    item = Item.objects.get(name=f"item {int(number(request, 'n'))}")
    return JsonResponse({"id": local.id, "price": item.price, "pids": [backend(), backend()]})


@route
def atomic(request):
    with transaction.atomic():
        written = _write(request.GET["id"], "fail" in request.GET)
    return answer(request, **written)


@route
def left(request):
    """How many rows there are of a request that failed."""
    return answer(request, count=Item.objects.filter(name=request.GET["of"]).count())


@route
def hold(request):
    one("SELECT pg_sleep(%s)", number(request, "s"))
    return answer(request, pids=[backend()])


@route
def page(request):
    price = Item.objects.get(name="item 7").price
    return TemplateResponse(request, template, {"id": request.GET["id"], "price": price})


@route
def stream(request):
    """Pieces that each ask the database."""
    name = request.GET["id"]

    def pieces():
        for i in range(int(number(request, "n", 8))):
            yield f"{name} {i} {backend()} {'x' * 3000}\n"

    return StreamingHttpResponse(pieces(), content_type="text/plain")


@route
@csrf_exempt
def upload(request):
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for piece in file.chunks():
        digest.update(piece)
    return answer(request, size=file.size, sha256=digest.hexdigest(), pids=[backend()])


@route
def boom(request):
    Item.objects.get(name="item 7")
    raise OnPurpose(request.GET["id"])


@route
def nested(request):
    """Sync code that runs async code that runs sync code: all of it on the request's own connection."""
    pids = [backend()]

    async def inner():
        await asyncio.sleep(0)
        pids.append(await sync_to_async(backend)())

    async_to_sync(inner)()
    pids.append(backend())
    return answer(request, pids=pids)


# ------------------------------------------------------------------ async


@route
async def aplain(request):
    mark.set(request.GET["id"])
    await asyncio.sleep(number(request, "s"))
    return JsonResponse({"id": mark.get()})


@route
async def aorm(request):
    mark.set(request.GET["id"])
    pids = [await sync_to_async(backend)()]
    item = await Item.objects.aget(name="item 7")
    await asyncio.sleep(number(request, "s", 0.01))
    pids.append(await sync_to_async(backend)())
    return JsonResponse({"id": mark.get(), "price": item.price, "pids": pids})


@route
async def aatomic(request):
    before = await sync_to_async(backend)()
    await asyncio.sleep(0)
    written = await sync_to_async(transaction.atomic(_write))(request.GET["id"], "fail" in request.GET)
    return answer(request, pids=[before, await sync_to_async(backend)(), written["seen"][0][0]], **written)


@route
async def agather(request):
    """On the second set, side by side."""
    found = await asyncio.gather(
        sync_to_async(lambda: Item.objects.get(name="item 5").price, thread_sensitive=False)(),
        sync_to_async(lambda: Item.objects.get(name="item 6").price, thread_sensitive=False)(),
        asyncio.to_thread(lambda: 7),
    )
    return answer(request, found=found)


@route
async def aboom(request):
    await sync_to_async(backend)()
    raise OnPurpose(request.GET["id"])


@route
async def astream(request):
    name = request.GET["id"]

    async def pieces():
        for i in range(int(number(request, "n", 8))):
            pid = await sync_to_async(backend)()
            await asyncio.sleep(0.005)
            yield f"{name} {i} {pid} {'x' * 3000}\n"

    return StreamingHttpResponse(pieces(), content_type="text/plain")


@route
async def await_long(request):
    """Cancelled where the client leaves; awaits beside a call on its thread."""
    call = asyncio.ensure_future(sync_to_async(backend)())
    try:
        await asyncio.sleep(number(request, "s", 0.2))
    finally:
        pid = await call
    return answer(request, pids=[pid])


@route
async def outlive(request):
    """Its task asks the database when the answer has been sent."""
    first = await sync_to_async(backend)()

    async def later():
        await asyncio.sleep(0.03)
        await Item.objects.aget(name="item 7")

    task = asyncio.get_running_loop().create_task(later())
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)
    return answer(request, pids=[first])


# ------------------------------------------------------------------ at rest


class Meeting:
    barrier = None


@route
def meet(request):
    """All `n` that are asked for at once meet on as many threads: then every thread has run, and has its connection."""
    pid = forget_and_ask()
    with _lock:
        if Meeting.barrier is None:
            Meeting.barrier = threading.Barrier(int(number(request, "n")), action=forget_meeting)
        barrier = Meeting.barrier
    barrier.wait(30)
    return answer(request, pids=[pid])


_lock = threading.Lock()


def forget_and_ask():
    """A connection of Django's keeps the exception that made a transaction inside another roll back, and with it the request, until there is
    another one: not what is looked for at a rest."""
    connection.rollback_exc = None
    return backend()


def forget_meeting():
    Meeting.barrier = None


@route
async def meet_executor(request):
    n = int(number(request, "n"))
    barrier = threading.Barrier(n)

    def on_thread():
        forget_and_ask()
        barrier.wait(30)

    await asyncio.gather(*(asyncio.to_thread(on_thread) for _ in range(n)))
    return answer(request)


@route
async def census_light(request):
    return JsonResponse({**census.light(), "tasks": len(TASKS)})


@route
async def census_take(request):
    return JsonResponse(census.take())


@route
async def census_describe(request):
    return JsonResponse({"found": census.describe(request.GET["name"])})
