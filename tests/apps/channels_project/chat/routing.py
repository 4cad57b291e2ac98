from django.urls import path

from . import consumers

urlpatterns = [
    path("rooms/<str:room>/", consumers.Room.as_asgi()),
    path("sync-rooms/<str:room>/", consumers.SyncRoom.as_asgi()),
    path("me/", consumers.Me.as_asgi()),
]
