"""The URLs that direct_django's middleware changes to."""

from direct_django import async_view_with_threads
from django.urls import path

urlpatterns = [path("wrong/<slug:title>", async_view_with_threads)]
