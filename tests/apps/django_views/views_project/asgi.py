"""The application, in what is usual around it.

VIEWS_WRAPPED    adds an ASGI middleware with a send() of its own        VIEWS_STATIC    and Django's for static files
VIEWS_PATCHED    replaces a method of Django's handler, as monitoring agents do
VIEWS_RECEIVERS  connects receivers to Django's signals (async: also a coroutine function)
"""

import functools
import os

from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished, request_started

from . import trace

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "views_project.settings")
if os.environ.get("VIEWS_PATCHED"):
    call = ASGIHandler.__call__

    @functools.wraps(call)
    async def patched(self, scope, receive, send):
        trace.note("patched")
        await call(self, scope, receive, send)

    ASGIHandler.__call__ = patched
django_application = get_asgi_application()


class ProtocolTypeRouter:
    """As that of Channels."""

    def __init__(self, mapping):
        self.mapping = mapping

    async def __call__(self, scope, receive, send):
        return await self.mapping[scope["type"]](scope, receive, send)


async def lifespan(scope, receive, send):
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def _started(sender, scope, **kwargs):
    trace.note(f"request_started by {sender.__name__}")
    trace.add("started")


def _finished(sender, **kwargs):
    trace.note(f"request_finished by {getattr(sender, '__name__', sender)}")


async def _started_async(sender, scope, **kwargs):
    trace.note("async receiver of request_started")


if os.environ.get("VIEWS_RECEIVERS"):
    request_started.connect(_started)
    request_finished.connect(_finished)
if os.environ.get("VIEWS_RECEIVERS") == "async" and hasattr(request_started, "asend"):
    request_started.connect(_started_async)

serving = django_application
if os.environ.get("VIEWS_STATIC"):
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

    serving = ASGIStaticFilesHandler(django_application)
application = ProtocolTypeRouter({"http": serving, "lifespan": lifespan})
if os.environ.get("VIEWS_WRAPPED"):
    application = trace.Sentry(application)
application = trace.Traced(application)
