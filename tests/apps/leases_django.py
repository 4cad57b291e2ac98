"""A Django project in one file, whose synchronous code blocks at gates (see leases.py). Without a database."""

import asyncio
import threading
from io import BytesIO

import django
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", MIDDLEWARE=[f"{__name__}.old_style"] * 3, LOGGING_CONFIG=None)
django.setup()

from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import JsonResponse, StreamingHttpResponse
from django.urls import path
from leases import STARTED, block, gate, sync_pool


def old_style(get_response):
    """Synchronous middleware that says which thread it runs on, before the view and after it."""

    def middleware(request):
        request.threads = [*getattr(request, "threads", []), threading.get_ident()]
        response = get_response(request)
        request.threads.append(threading.get_ident())
        response["X-Threads"] = str(len(set(request.threads)))
        return response

    return middleware


def blocking(request):
    request.threads.append(threading.get_ident())
    return JsonResponse(block(request.GET["name"], request.GET["gate"]), safe=False)


async def async_blocking(request):
    return JsonResponse(await sync_to_async(block)(request.GET["name"], request.GET["gate"]), safe=False)


def nested(request):
    """async_to_sync in a view, three deep, on the worker's loop."""
    loops = set()

    async def inner(depth):
        loops.add(asyncio.get_running_loop())
        return await sync_to_async(sync)(depth - 1)

    def sync(depth):
        return [threading.get_ident(), *(async_to_sync(inner)(depth) if depth else [])]

    threads = sync(3)
    return JsonResponse({"threads": len(set(threads)), "calls": len(threads), "loops": [type(loop).__module__ for loop in loops]})


def stream(request):
    """A synchronous iterator, pulled on the request's thread."""
    first = threading.get_ident()

    def lines():
        for _ in range(20):
            yield f"{threading.get_ident() == first}\n"

    return StreamingHttpResponse(lines())


async def open_gate(request):
    gate(request.GET["gate"]).set()
    return JsonResponse({})


async def state(request):
    pool = sync_pool()
    return JsonResponse({"started": STARTED, "queued": pool.queued, "leased": pool.leased, "peak": pool.peak})


urlpatterns = [
    path(f"{view.__name__.replace('_', '-')}", view) for view in (blocking, async_blocking, nested, stream, open_gate, state)
]

django_app = ASGIHandler()


async def app(scope, receive, send):
    """What the test asks for must not wait for a thread, which Django's own path does with every request."""
    route = {"/open-gate": open_gate, "/state": state}.get(scope["path"])
    if route is None:
        await django_app(scope, receive, send)
        return
    response = await route(ASGIRequest(scope, BytesIO()))
    headers = [(k.encode(), v.encode()) for k, v in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})
