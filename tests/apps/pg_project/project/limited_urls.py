"""project.urls, and views that say themselves how long they may take: only below Ringcorn."""

import ringcorn
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from shop import views

from project import urls


@ringcorn.timeout(0.5)
def limited(request):
    return views.slow(request)


@ringcorn.timeout(0.5)
async def alimited(request):
    return await views.aslow(request)


class Limited(View):
    @method_decorator(ringcorn.timeout(0.5))
    def get(self, request):
        return views.slow(request)


urlpatterns = [
    *urls.urlpatterns,
    path("limited/", limited),
    path("alimited/", alimited),
    path("limited_class/", Limited.as_view()),
]
