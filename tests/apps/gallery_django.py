"""gallery_failures on Django."""

import gallery_failures
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path


def view(fn):
    async def of_gallery(request):
        return JsonResponse(await fn(**request.GET.dict()), safe=False)

    return of_gallery


urlpatterns = [path(name, view(getattr(gallery_failures, name))) for name in (*gallery_failures.NAMES, "asks_http")]

settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="gallery", MIDDLEWARE=[])
app = get_asgi_application()
