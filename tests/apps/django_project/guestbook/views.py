"""Views of both kinds: `def` and `async def`, with the ORM, uploads, streaming, sessions and errors."""

import asyncio
import hashlib
from pathlib import Path

from django.db import transaction
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.csrf import csrf_exempt

from .forms import EntryForm
from .models import Entry

STATE = {"endless": "none", "long": "none"}


def index(request):
    return render(request, "guestbook/index.html", {"entries": Entry.objects.all()[:20], "form": EntryForm()})


def live(request):
    """The dashboard's page; what it shows comes over the WebSocket of the same path (live.py)."""
    return render(request, "guestbook/live.html")


def sign(request):
    form = EntryForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        form.save()
        return redirect("index")
    return render(request, "guestbook/index.html", {"entries": Entry.objects.all()[:20], "form": form})


def hello(request):
    return HttpResponse("Hello, World!", content_type="text/plain")


async def async_hello(request):
    return HttpResponse("Hello, World!", content_type="text/plain")


def entries(request):
    return JsonResponse({"names": list(Entry.objects.values_list("name", flat=True))})


async def async_entries(request):
    if name := request.GET.get("add"):
        await Entry.objects.acreate(name=name)
    return JsonResponse({"names": [entry.name async for entry in Entry.objects.all()]})


async def async_slow(request):
    await asyncio.sleep(float(request.GET.get("s", 0.2)))
    return HttpResponse("slow")


def cookies(request):
    response = JsonResponse(dict(request.COOKIES))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


def session(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@csrf_exempt
def upload(request):
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    note = request.POST.get("note")
    return JsonResponse({"name": file.name, "size": file.size, "sha256": digest.hexdigest(), "note": note})


@csrf_exempt
def body(request):
    return JsonResponse({"size": len(request.body), "sha256": hashlib.sha256(request.body).hexdigest()})


def stream(request):
    n = int(request.GET.get("n", 5))
    return StreamingHttpResponse((f"piece {i}\n" for i in range(n)), content_type="text/plain")


async def async_stream(request):
    async def pieces():
        for i in range(int(request.GET.get("n", 5))):
            yield f"piece {i}\n"
            await asyncio.sleep(float(request.GET.get("delay", 0)))

    return StreamingHttpResponse(pieces(), content_type="text/plain")


async def async_endless(request):
    async def pieces():
        STATE["endless"] = "sending"
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0.01)
        finally:
            STATE["endless"] = "ended"

    return StreamingHttpResponse(pieces())


async def async_long(request):
    """Cancelled by Django when the client goes."""
    STATE["long"] = "waiting"
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        STATE["long"] = "cancelled"
        raise
    return HttpResponse("long")


async def state(request):
    return JsonResponse(STATE)


def file(request):
    return FileResponse(open(Path(__file__).parent / "static/guestbook/style.css", "rb"))


def large(request):
    return HttpResponse(b"x" * int(request.GET["size"]), content_type="application/octet-stream")


@csrf_exempt
def atomic(request):
    """Writes and raises: nothing may remain."""
    with transaction.atomic():
        Entry.objects.create(name="never")
        raise RuntimeError("atomic went wrong")


def boom(request):
    raise RuntimeError("boom from django")


async def async_boom(request):
    raise RuntimeError("boom from async django")
