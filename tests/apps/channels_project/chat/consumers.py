"""Rooms are groups of the channel layer, by consumers of either kind; Me is for those who have logged in."""

import os

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from django.conf import settings


def by(consumer, text):
    return {"type": "said", "message": {"text": text, "by": consumer.scope["user"].get_username()}}


class Room(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"pid": os.getpid(), "greeting": settings.GREETING})

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive_json(self, content):
        await self.channel_layer.group_send(self.room, by(self, content))

    async def said(self, event):
        await self.send_json(event["message"])


class SyncRoom(JsonWebsocketConsumer):
    def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()
        self.send_json({"pid": os.getpid(), "greeting": settings.GREETING})

    def disconnect(self, code):
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)

    def receive_json(self, content):
        async_to_sync(self.channel_layer.group_send)(self.room, by(self, content))

    def said(self, event):
        self.send_json(event["message"])


class Me(AsyncJsonWebsocketConsumer):
    async def connect(self):
        if not self.scope["user"].is_authenticated:
            await self.close()
            return
        await self.accept()
        await self.send_json({"user": self.scope["user"].get_username(), "said": self.scope["session"].get("said")})

    async def receive_json(self, content):
        """Kept in the session, where the next request finds it."""
        self.scope["session"]["said"] = content
        await database_sync_to_async(self.scope["session"].save)()
        await self.send_json("kept")
