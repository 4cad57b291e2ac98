"""A Django project in one file, behind its WSGI entry."""

import asyncio
import hashlib
import io
import os
import threading
import time

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DEBUG=False,
    FORCE_SCRIPT_NAME=os.environ.get("TEST_SCRIPT_NAME"),
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    LOGGING_CONFIG=None,
    USE_TZ=True,
)
django.setup()

from asgiref.sync import async_to_sync, sync_to_async  # noqa: E402
from django.core.signals import request_finished, request_started  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

SIGNALS = []
request_started.connect(lambda **kwargs: SIGNALS.append("started"), weak=False)
request_finished.connect(lambda **kwargs: SIGNALS.append("finished"), weak=False)


def threads():
    return sorted(t.name for t in threading.enumerate())


def hello(request):
    return HttpResponse("Hello, World!")


def info(request):
    return JsonResponse({"path": request.path, "script_name": request.META["SCRIPT_NAME"], "thread": threading.current_thread().name})


def where():
    loop = asyncio.get_running_loop()
    return {"loop": id(loop), "type": f"{type(loop).__module__}.{type(loop).__name__}", "thread": threading.get_ident()}


async def async_view(request):
    """On the worker's loop, whose other requests go on; below it a call back to the request's own thread."""
    await asyncio.sleep(0.01)
    back = await sync_to_async(threading.get_ident)()
    return JsonResponse({**where(), "back": back, "threads": threads()})


def nested(request):
    async def inner():
        await asyncio.sleep(0)
        return {**where(), "back": await sync_to_async(threading.get_ident)()}

    return JsonResponse({**async_to_sync(inner)(), "mine": threading.get_ident(), "threads": threads()})


async def async_sleep(request):
    await asyncio.sleep(float(request.GET["s"]))
    return HttpResponse("slept")


def upload(request):
    file = request.FILES["file"]
    data = file.read()
    return JsonResponse({"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "note": request.POST.get("note")})


def body(request):
    return JsonResponse({"size": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})


def stream(request):
    def pieces():
        for i in range(int(request.GET["n"])):
            if "delay" in request.GET:
                time.sleep(float(request.GET["delay"]))
            yield f"piece {i}\n"

    return StreamingHttpResponse(pieces())


def file(request):
    source = open(__file__, "rb") if "real" in request.GET else io.BytesIO(b"0123456789" * 10_000)
    return FileResponse(source, filename="x.txt")


def signals(request):
    return JsonResponse(SIGNALS, safe=False)


def boom(request):
    raise RuntimeError("boom from django")


urlpatterns = [path(f"{fn.__name__.replace('_', '-')}", fn) for fn in (
    hello, info, async_view, nested, async_sleep, upload, body, stream, file, signals, boom)]  # fmt: skip

application = get_wsgi_application()
