from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("live/", views.live, name="live"),
    path("sign/", views.sign, name="sign"),
    path("hello/", views.hello),
    path("async/", views.async_hello),
    path("async/entries/", views.async_entries),
    path("entries/", views.entries),
    path("async/slow/", views.async_slow),
    path("cookies/", views.cookies),
    path("session/", views.session),
    path("upload/", views.upload),
    path("body/", views.body),
    path("stream/", views.stream),
    path("async/stream/", views.async_stream),
    path("async/endless/", views.async_endless),
    path("async/long/", views.async_long),
    path("state/", views.state),
    path("file/", views.file),
    path("large/", views.large),
    path("atomic/", views.atomic),
    path("boom/", views.boom),
    path("async/boom/", views.async_boom),
]
