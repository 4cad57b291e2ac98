"""HTTP goes to Django, WebSockets to the dashboard: all that a project without Channels needs."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
http = get_asgi_application()  # before anything that needs the models

from guestbook import live  # noqa: E402


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await live.dashboard(scope, receive, send)
        return
    if scope["type"] == "http":
        live.figures.count_request()
    await http(scope, receive, send)
