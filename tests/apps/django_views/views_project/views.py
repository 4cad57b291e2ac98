"""Views of every kind. Each notes that it ran, and what it sees."""

import asyncio
import functools
import hashlib
import io
import sys
import threading
import time

from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.db import connection
from django.http import FileResponse, Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.template.response import TemplateResponse
from django.urls import get_script_prefix, get_urlconf, reverse
from django.utils import translation
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from . import trace


def describe(request):
    return {
        "path": request.path, "path_info": request.path_info, "script_name": request.META["SCRIPT_NAME"], "method": request.method,
        "get": dict(request.GET), "match": [request.resolver_match.url_name, request.resolver_match.route],
        "kwargs": {k: str(v) for k, v in request.resolver_match.kwargs.items()}, "value": trace.value.get(), "prefix": get_script_prefix(),
        "urlconf": get_urlconf(), "reverse": reverse("sync", urlconf="views_project.urls"), "language": translation.get_language(),
        "left": sorted(name for name in vars(request) if name.startswith("_ringcorn")),
    }  # fmt: skip


def sync(request, **kwargs):
    trace.note("sync view")
    trace.add("view")
    return JsonResponse(describe(request))


async def async_(request, **kwargs):
    trace.note("async view")
    trace.add("view")
    return JsonResponse(describe(request))


async def async_waits(request):
    trace.note("async view")
    await asyncio.sleep(0.05)
    trace.note("async view went on")
    return JsonResponse(describe(request))


class SyncClass(View):
    def get(self, request):
        trace.note("sync class")
        return JsonResponse(describe(request))

    def post(self, request):
        return HttpResponse(request.body)


class AsyncClass(View):
    async def get(self, request):
        trace.note("async class")
        return JsonResponse(describe(request))

    async def post(self, request):
        return HttpResponse(request.body)


@require_http_methods(["GET"])
def decorated(request):
    return HttpResponse("decorated")


@csrf_exempt
async def exempt(request):
    return HttpResponse("exempt " + request.method)


def _wrapped_badly(view):
    @functools.wraps(view)
    def inner(request):
        return view(request)

    return inner


@_wrapped_badly
async def coroutine_from_sync(request):
    """A plain function that returns a coroutine: an error in Django."""
    return HttpResponse("never")


def partial_view(request, extra):
    return HttpResponse(f"partial {extra}")


async def async_partial_view(request, extra):
    return HttpResponse(f"async partial {extra}")


def returns_none(request):
    return None


async def async_returns_none(request):
    return None


_ERRORS = {
    "404": lambda: Http404("not here"), "403": lambda: PermissionDenied("no"), "400": lambda: BadRequest("bad"),
    "suspicious": lambda: SuspiciousOperation("hm"), "value": lambda: ValueError("broken"),
}  # fmt: skip


def raises(request, what):
    trace.note("raising")
    raise _ERRORS[what]()


async def async_raises(request, what):
    trace.note("raising")
    raise _ERRORS[what]()


def status(request, code):
    return HttpResponse("status", status=code)


async def async_status(request, code):
    return HttpResponse("status", status=code)


def template(request):
    return TemplateResponse(request, "page.html", {"value": "view"})


async def async_template(request):
    return TemplateResponse(request, "page.html", {"value": "view"})


def template_fails(request):
    return TemplateResponse(request, "none.html", {})


async def async_template_fails(request):
    return TemplateResponse(request, "none.html", {})


def _pieces(n):
    try:
        for i in range(n):
            trace.note("piece") if i < 2 else None
            yield f"piece {i}\n"
    finally:
        trace.note("iterator closed")


def stream(request):
    return StreamingHttpResponse(_pieces(int(request.GET.get("n", 5))), content_type="text/plain")


def stream_fails(request):
    def pieces():
        yield b"first"
        raise ValueError("in the middle")

    return StreamingHttpResponse(pieces())


async def _async_pieces(n):
    for i in range(n):
        trace.note("async piece") if i < 2 else None
        await asyncio.sleep(0)
        yield f"piece {i}\n"


async def async_stream(request):
    return StreamingHttpResponse(_async_pieces(int(request.GET.get("n", 5))), content_type="text/plain")


async def async_stream_of_sync(request):
    return StreamingHttpResponse(_pieces(int(request.GET.get("n", 5))), content_type="text/plain")


def stream_of_async(request):
    return StreamingHttpResponse(_async_pieces(int(request.GET.get("n", 5))), content_type="text/plain")


def large(request):
    return HttpResponse(b"x" * int(request.GET["n"]))


async def async_large(request):
    return HttpResponse(b"x" * int(request.GET["n"]))


def file(request):
    return FileResponse(io.BytesIO(b"content of a file" * 10_000), filename="file.txt")


async def async_file(request):
    return FileResponse(io.BytesIO(b"content of a file" * 10_000), filename="file.txt")


def _upload(request):
    return JsonResponse({
        "fields": {k: len(v) for k, v in request.POST.items()},
        "files": {k: [f.name, f.size, hashlib.sha256(f.read()).hexdigest(), type(f).__name__] for k, f in request.FILES.items()},
    })  # fmt: skip


upload = csrf_exempt(_upload)


@csrf_exempt
async def async_upload(request):
    return await sync_to_async(_upload)(request)


@csrf_exempt
def body(request):
    return JsonResponse({"n": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})


@csrf_exempt
async def async_body(request):
    return JsonResponse({"n": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})


def form(request):
    """CSRF is checked."""
    if request.method == "GET":
        return HttpResponse(f"token length {len(get_token(request))}")
    return HttpResponse("posted")


async def async_form(request):
    return form(request)


def session(request):
    request.session["n"] = request.session.get("n", 0) + 1
    messages.info(request, "visited")
    return HttpResponse(f"{request.session['n']} {[str(m) for m in messages.get_messages(request)]} {request.user}")


async def async_session(request):
    return await sync_to_async(session)(request)


async def async_session_read(request):
    return HttpResponse(str(request.COOKIES.get("sessionid") is not None))


def bridges(request):
    """async_to_sync in a sync view runs on the loop of the server; sync_to_async below it comes back to this thread."""
    here = threading.current_thread()

    async def inner():
        trace.note("inside async_to_sync")
        back = await sync_to_async(threading.current_thread)()
        elsewhere = await sync_to_async(threading.current_thread, thread_sensitive=False)()
        return threading.current_thread() is trace.LOOP, back is here, elsewhere is here

    return JsonResponse({"on loop, back, elsewhere": async_to_sync(inner)()})


async def async_bridges(request):
    first = await sync_to_async(threading.current_thread)()
    second = await sync_to_async(threading.current_thread)()
    return JsonResponse({"same thread": first is second, "on loop": first is trace.LOOP})


def database(request):
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        return HttpResponse(f"{cursor.fetchone()[0]} {connection.in_atomic_block}")


async def async_database(request):
    return await sync_to_async(database)(request)


class Slow:
    """What a view that takes its time saw."""

    state = "idle"
    pieces = 0  # of the endless stream
    begun = closed = 0
    go_on = threading.Event()


def slow(request):
    Slow.state = "running"
    Slow.begun += 1
    Slow.go_on.clear()
    for _ in range(1000):
        if Slow.go_on.wait(0.01):
            break
    Slow.state = "ended"
    return HttpResponse("slow")


async def async_slow(request):
    Slow.state = "running"
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        Slow.state = "cancelled"
        raise
    return HttpResponse("slow")


async def slow_state(request):
    if request.GET.get("go_on"):
        Slow.go_on.set()
    return JsonResponse({"state": Slow.state, "pieces": Slow.pieces, "begun": Slow.begun, "closed": Slow.closed})


def closes_late(request):
    def close():
        time.sleep(float(request.GET["seconds"]))
        print("closed at last", file=sys.stderr, flush=True)

    response = HttpResponse("closes late")
    response._resource_closers.append(close)
    return response


def endless(request):
    size, pause = int(request.GET.get("size", 10_000)), float(request.GET.get("pause", 0))

    def pieces():
        Slow.state, Slow.pieces = "running", 0
        try:
            while True:
                Slow.pieces += 1
                yield b"x" * size
                time.sleep(pause)
        finally:
            Slow.state = "ended"

    def close():
        Slow.closed += 1

    response = StreamingHttpResponse(pieces())
    response._resource_closers.append(close)
    return response


def not_found(request, exception):
    trace.note("handler404")
    return HttpResponse(f"404 by the project: {type(exception).__name__}", status=404)


def server_error(request):
    trace.note("handler500")
    return HttpResponse("500 by the project", status=500)
