"""What a middleware puts in the place of urls.py: what was sync there is async here, and the other way round."""

from django.urls import path

from . import views

handler404 = "views_project.views.not_found"
handler500 = "views_project.views.server_error"

urlpatterns = [
    path("sync/", views.async_, name="sync"),
    path("async/", views.sync, name="async"),
    path("only/here/", views.async_, name="only_here"),
    path("only/here/sync/", views.sync, name="only_here_sync"),
]
