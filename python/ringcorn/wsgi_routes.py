"""Which route of a WSGI application a request took, for the metrics: ``environ["ringcorn.route"]`` (server/wsgi/call.c).

Django's handler and Flask tell it by what they offer for it; any other application may set the key itself. Requests without one count as
"other". Nothing is imported that the application has not imported.
"""

import sys

KEY = "ringcorn.route"


def install(app):
    """app: as the application gave it. What is not known is left alone."""
    if "django.core.handlers.wsgi" in sys.modules:
        from django.core.handlers.wsgi import WSGIHandler

        if type(app) is WSGIHandler:
            _of_django(app)
            return
    flask = sys.modules.get("flask")
    if flask is not None and isinstance(app, flask.Flask):
        flask.request_started.connect(_of_flask, app)


def _of_django(handler):
    resolve = handler.resolve_request

    def resolve_request(request):
        match = resolve(request)
        request.environ[KEY] = match.route
        return match

    handler.resolve_request = resolve_request  # of this handler alone


def _of_flask(app, **_):
    from flask import request

    if (rule := request.url_rule) is not None:
        request.environ[KEY] = rule.rule
