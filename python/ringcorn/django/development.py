"""The application that ``manage.py ringcorn`` serves: the project's own, by the settings, with static files before it."""

from django.conf import settings
from django.utils.module_loading import import_string


def plain():
    """ASGI_APPLICATION, else Django's own. (WSGI_APPLICATION is the same handler with another coat.)"""
    named = getattr(settings, "ASGI_APPLICATION", None)
    if named:
        return import_string(named)
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def application():
    app = plain()  # sets Django up
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

    return ASGIStaticFilesHandler(app)


def insecure():
    """Also where DEBUG is off, which the view of django.contrib.staticfiles refuses otherwise."""
    app = plain()
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
    from django.contrib.staticfiles.views import serve

    class Handler(ASGIStaticFilesHandler):
        def serve(self, request):
            return serve(request, self.file_path(request.path), insecure=True)

    return Handler(app)
