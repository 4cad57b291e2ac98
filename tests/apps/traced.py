"""Applications with OpenTelemetry's SDK, whose spans are kept in memory; /spans tells them. ASGI, WSGI, FastAPI."""

import asyncio
import json
import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

EXPORTER = InMemorySpanExporter()
if "TEST_NO_PROVIDER" not in os.environ:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)


def current():
    """The span that the application runs in."""
    return f"{trace.get_current_span().get_span_context().span_id:016x}"


def spans():
    return json.dumps([json.loads(span.to_json()) for span in EXPORTER.get_finished_spans()])


async def answer(send, body, status=200):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body.encode()})


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    path = scope["path"]
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    if path == "/spans":
        await answer(send, spans())
    elif path == "/raise":
        raise KeyError("no such thing")
    elif path == "/500":
        await answer(send, "no", 503)
    elif path == "/thread":
        await answer(send, json.dumps([await asyncio.to_thread(current), headers]))
    else:
        await answer(send, json.dumps([current(), headers]))


def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    headers = {name[5:].lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    if path == "/raise":
        raise KeyError("no such thing")
    start_response("503 No" if path == "/500" else "200 OK", [])
    if path == "/spans":
        return [spans().encode()]
    if path == "/pieces":
        return pieces()
    return [json.dumps([current(), headers]).encode()]


def pieces():
    yield b"["
    yield json.dumps(current()).encode() + b", {}]"


def fastapi():
    from fastapi import FastAPI, Response

    api = FastAPI()

    @api.get("/items/{number}")
    def item(number: int):
        return [current(), {}]

    @api.get("/spans")
    async def told():
        return Response(spans())

    return api


def django():
    import sys

    from django.conf import settings

    settings.configure(
        SECRET_KEY="test", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, DEBUG=False, MIDDLEWARE=[], LOGGING_CONFIG=None, USE_TZ=True
    )
    import django as package

    package.setup()
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def item(request, number):
        return JsonResponse([current(), {name.lower(): value for name, value in request.headers.items()}], safe=False)

    async def aitem(request, number):
        return item(request, number)

    async def astream(request):
        async def make():
            yield json.dumps([current(), {}])

        return StreamingHttpResponse(make())

    def broken(request):
        raise KeyError("no such thing")

    def told(request):
        return HttpResponse(spans())

    def astreamed(request):  # a synchronous view, whose answer is made on the loop
        async def make():
            yield json.dumps([current(), {}])

        return StreamingHttpResponse(make())

    sys.modules[__name__].urlpatterns = [
        path("items/<int:number>/", item),
        path("aitems/<int:number>/", aitem),
        path("astream/", astream),
        path("astreamed/", astreamed),
        path("broken/", broken),
        path("spans", told),
    ]
    return get_asgi_application()
