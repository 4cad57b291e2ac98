"""Django Channels: consumers whose database calls say on which thread and connection they ran, groups, and consumers that only meet
where they run side by side."""

import json
import threading

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="tests",
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}},
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    ROOT_URLCONF=__name__,
)
django.setup()
urlpatterns = []

from channels.db import database_sync_to_async  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.db import connection  # noqa: E402
from django.urls import path  # noqa: E402

MEETING = threading.Barrier(8)


def who():
    connection.ensure_connection()
    return [threading.get_ident(), id(connection.connection)]


class Pair(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        first = await database_sync_to_async(who)()
        second = await database_sync_to_async(who)()
        await self.send(json.dumps([first, second]))


class Meeting(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        MEETING.wait(20)
        self.send(text_data)


class Group(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("all", self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("all", {"type": "said", "text": text_data})

    async def said(self, event):
        await self.send(event["text"])


class Closed(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close(code=4003)


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [path("pair", Pair.as_asgi()), path("meeting", Meeting.as_asgi()), path("group", Group.as_asgi()), path("closed", Closed.as_asgi())]
        ),
    }
)
