import functools

from django.conf.urls.i18n import i18n_patterns
from django.urls import include, path, re_path

from . import views

handler404 = "views_project.views.not_found"
handler500 = "views_project.views.server_error"

_sync_and_async = [
    path(f"{prefix}{name}/", getattr(views, f"{'async_' if prefix else ''}{name}"), name=f"{prefix}{name}")
    for name in ("template", "template_fails", "returns_none", "stream", "large", "file", "upload", "body", "form", "session", "bridges", "database", "slow")
    for prefix in ("", "async/")
]  # fmt: skip

urlpatterns = [
    path("sync/", views.sync, name="sync"),
    path("sync/<int:n>/<slug:word>/", views.sync, name="sync_args"),
    path("async/", views.async_, name="async"),
    path("async/<int:n>/<slug:word>/", views.async_, name="async_args"),
    re_path(r"^no/slash$", views.sync, name="no_slash"),
    path("async/waits/", views.async_waits, name="waits"),
    path("class/", views.SyncClass.as_view(), name="class"),
    path("async/class/", views.AsyncClass.as_view(), name="async_class"),
    path("decorated/", views.decorated, name="decorated"),
    path("async/exempt/", views.exempt, name="exempt"),
    path("coroutine/", views.coroutine_from_sync, name="coroutine"),
    path("partial/", functools.partial(views.partial_view, extra=1), name="partial"),
    path("async/partial/", functools.partial(views.async_partial_view, extra=1), name="async_partial"),
    path("raises/<slug:what>/", views.raises, name="raises"),
    path("async/raises/<slug:what>/", views.async_raises, name="async_raises"),
    path("status/<int:code>/", views.status, name="status"),
    path("async/status/<int:code>/", views.async_status, name="async_status"),
    path("stream/fails/", views.stream_fails, name="stream_fails"),
    path("stream/of/async/", views.stream_of_async, name="stream_of_async"),
    path("stream/endless/", views.endless, name="endless"),
    path("async/stream/of/sync/", views.async_stream_of_sync, name="async_stream_of_sync"),
    path("async/session/read/", views.async_session_read, name="session_read"),
    path("closes/late/", views.closes_late, name="closes_late"),
    path("slow/state/", views.slow_state, name="slow_state"),
    path("included/", include([path("sync/", views.sync, name="included_sync"), path("async/", views.async_, name="included_async")])),
    *_sync_and_async,
    *i18n_patterns(path("words/", views.sync, name="words"), path("async/words/", views.async_, name="async_words")),
]
