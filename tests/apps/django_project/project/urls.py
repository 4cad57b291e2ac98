from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    # For pages that name none, as the admin's.
    path("favicon.ico", RedirectView.as_view(url=static("guestbook/icon.svg"))),
    path("admin/", admin.site.urls),
    path("", include("guestbook.urls")),
]
