"""A Django project in one file, behind its ASGI entry: views that say by which way their request came."""

import asyncio
import contextvars
import ctypes
import hashlib
import os
import sys
import threading
import time

import django
from django.conf import settings

IS_PLAIN = "TEST_PLAIN" in os.environ  # async views need no thread: nothing of the project's own is synchronous

settings.configure(
    SECRET_KEY="test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DEBUG=False,
    MIDDLEWARE=[*([] if IS_PLAIN else [f"{__name__}.Marks"]), "django.middleware.common.CommonMiddleware"],
    LOGGING_CONFIG=None,
    USE_TZ=True,
    FILE_UPLOAD_MAX_MEMORY_SIZE=100_000,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
)

VAR = contextvars.ContextVar("var", default="unset")
STATE = {"signals": []}
GATES = {}


django.setup()

from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async  # noqa: E402
from django.utils.deprecation import MiddlewareMixin  # noqa: E402


class Marks(MiddlewareMixin):
    """Sets a context variable, and for a header other URLs, so that what the path alone says is wrong."""

    def process_request(self, request):
        request.seen = VAR.get()
        request.first = threading.current_thread().name
        VAR.set(request.headers.get("X-Mark", "none"))
        if "X-Read-First" in request.headers:
            request.body
        if "X-Async" in request.headers:
            request.urlconf = f"{__name__}_urls"


from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.signals import request_finished, request_started  # noqa: E402
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

if not IS_PLAIN:
    request_started.connect(lambda **kwargs: STATE["signals"].append("started"), weak=False)
    request_finished.connect(lambda **kwargs: STATE["signals"].append("finished"), weak=False)


def gate(name):
    return GATES.setdefault(name, threading.Event())


def way_of(request):
    """Before anything of the body was read."""
    return "direct" if type(request._stream).__name__ == "_Input" else "loop"


def told(request, **more):
    way = way_of(request)
    try:
        asyncio.get_running_loop()
        on_loop = True
    except RuntimeError:
        on_loop = False
    body = request.body
    return JsonResponse(
        {
            "way": way,
            "on_loop": on_loop,
            "thread": threading.current_thread().name,
            "mark": VAR.get(),
            "before": getattr(request, "seen", None),
            "method": request.method,
            "path": request.path,
            "query": request.META["QUERY_STRING"],
            "host": request.get_host(),
            "client": request.META.get("REMOTE_ADDR"),  # unknown where it has reset the connection
            "server": [request.META["SERVER_NAME"], request.META["SERVER_PORT"]],
            "scheme": request.scheme,
            "tls": request.scope["extensions"].get("tls"),
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            **more,
        }
    )


def sync_view(request, **kwargs):
    return told(request, kwargs=kwargs)


async def async_view(request, **kwargs):
    await asyncio.sleep(0)
    return told(request, kwargs=kwargs)


def thread_name():
    return threading.current_thread().name


async def async_view_with_threads(request, **kwargs):
    sync_thread = await sync_to_async(thread_name)()
    response = told(request, first=request.first, sync_thread=sync_thread)
    response._resource_closers.append(lambda: STATE.update({f"finished {request.path}": thread_name()}))
    return response


def threads(request, name):
    """Where its parts run: below async_to_sync(), in a task of its own while it runs, and after its end."""
    way = way_of(request)

    async def inner():
        return await sync_to_async(thread_name)(), thread_name()

    inner_thread, loop_thread = async_to_sync(inner)()
    response = JsonResponse({"way": way, "thread": thread_name(), "inner": inner_thread, "loop": loop_thread})
    if name.startswith("late"):
        has_called = threading.Event()
        asyncio.run_coroutine_threadsafe(late(name, has_called), SyncToAsync.threadlocal.main_event_loop)
        has_called.wait(20)
        response._resource_closers.append(lambda: STATE.update({f"finished {name}": thread_name()}))
    return response


async def late(name, has_called):
    beside = asyncio.ensure_future(sync_to_async(thread_name)())
    await asyncio.sleep(0)
    has_called.set()
    beside = await beside
    after = await sync_to_async(thread_name)()
    STATE[name] = {"beside": beside, "after": after}


def hold(request, name):
    STATE[name] = "holding"
    gate(name).wait(20)
    return HttpResponse("released")


async def release(request, name):
    gate(name).set()
    return HttpResponse("")


async def state(request):
    return JsonResponse({**STATE, "way": "loop"})


def slow(request):
    time.sleep(float(request.GET["s"]))
    return HttpResponse("slow")


def upload(request):
    file = request.FILES["file"]
    data = file.read()
    return JsonResponse(
        {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "note": request.POST["note"], "way": type(request._stream).__name__}
    )


def count(request, name):
    """Reads bit by bit."""
    got = 0
    STATE[name] = "reading"
    try:
        while data := request.read(1000):
            got += len(data)
            STATE[f"{name}-got"] = got
    except Exception as e:
        STATE[name] = f"{type(e).__name__} after {got}"
        raise
    return HttpResponse(str(got))


def stream(request):
    n, size = int(request.GET.get("n", 5)), int(request.GET.get("size", 10))
    return StreamingHttpResponse(bytes([97 + i % 26]) * size for i in range(n))


def async_stream(request):
    async def pieces():
        for i in range(int(request.GET["n"])):
            await asyncio.sleep(0)
            yield bytes([97 + i % 26]) * 10

    return StreamingHttpResponse(pieces())


def endless(request, name):
    def pieces():
        try:
            while True:
                yield b"x" * 10_000
                STATE[f"{name}-sent"] = STATE.get(f"{name}-sent", 0) + 10_000
        except GeneratorExit:
            STATE[name] = "GeneratorExit"
            raise

    return StreamingHttpResponse(pieces())


def file(request):
    return FileResponse(open(__file__, "rb"))


def hold_gil(request):
    """A C function that does not give the GIL away."""
    print("the GIL is held", file=sys.stderr, flush=True)
    ctypes.PyDLL(None).usleep(int(float(request.GET["s"]) * 1e6))
    return HttpResponse("held")


def large(request):
    return HttpResponse(b"x" * int(request.GET["size"]))


def boom(request):
    raise RuntimeError("boom from django")


def odd(request):
    kind = request.GET["kind"]
    if kind == "204":
        return HttpResponse(status=204)
    if kind == "304":
        return HttpResponse(status=304)
    if kind == "cookies":
        response = HttpResponse("cookies")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response
    if kind == "short":
        response = HttpResponse("short")
        response["Content-Length"] = "100"
        return response
    return HttpResponse("text", content_type="text/x; charset=latin-1", status=299, reason="Odd")


urlpatterns = [
    path("sync", sync_view),
    path("item/<int:n>/", sync_view),
    path("blog/<slug:title>/", sync_view),
    path("blog/async/one/", async_view),
    path("pages/async", async_view),
    path("pages/<slug:title>", sync_view),
    path("mixed/a", async_view),
    path("mixed/<slug:title>", sync_view),
    path("async", async_view),
    path("wrong/<slug:title>", sync_view),
    path("hold/<slug:name>", hold),
    path("release/<slug:name>", release),
    path("state", state),
    path("slow", slow),
    path("upload", upload),
    path("count/<slug:name>", count),
    path("stream", stream),
    path("astream", async_stream),
    path("threads/<slug:name>", threads),
    path("endless/<slug:name>", endless),
    path("file", file),
    path("large", large),
    path("hold-gil", hold_gil),
    path("boom", boom),
    path("odd", odd),
]

application = get_asgi_application()
