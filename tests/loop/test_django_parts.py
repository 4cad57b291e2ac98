"""Parts of ringcorn.django alone, beside what Django itself does: each test in a Python of its own, as a project has one set of settings."""

import os
import subprocess
import sys
import textwrap

import harness

PRELUDE = '''
import asyncio, contextvars, io, random, sys, tempfile, threading, types
folder = tempfile.TemporaryDirectory()
from django.conf import settings
settings.configure(
    SECRET_KEY="test", ALLOWED_HOSTS=["*"], ROOT_URLCONF="project_urls", MIDDLEWARE=[], LOGGING_CONFIG=None, USE_I18N=False,
    DATABASES={alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder.name}/{alias}", "CONN_MAX_AGE": age} for alias, age in (("default", 0), ("kept", None))},
    CACHES={"default": {"BACKEND": "__main__.Cache"}},
)
from django.core.cache.backends.locmem import LocMemCache
closed = []
class Cache(LocMemCache):
    def close(self, **kwargs):
        closed.append(threading.get_ident())
import django
django.setup()
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpResponse
from django.urls import clear_url_caches, converters, get_resolver, get_urlconf, include, path, re_path, register_converter, set_urlconf
asked = []
class Asking(converters.StringConverter):
    def to_python(self, value):
        asked.append(value)
        return value
register_converter(Asking, "asking")
def view(request, **kwargs):
    return HttpResponse()
urls = sys.modules["project_urls"] = types.ModuleType("project_urls")
inner = types.ModuleType("inner_urls")
inner.app_name = "inner"
inner.urlpatterns = [path("<uuid:which>/", view, name="which"), path("<path:rest>", view)]
urls.urlpatterns = [
    path("plain/", view, name="plain"), path("number/<int:n>/<slug:s>/", view, {"extra": 1}), re_path("^old/([0-9]+)/$", view),
    re_path("^named/(?P<year>[0-9]{4})/(?:(?P<month>[0-9]+)/)?$", view, name="named"), path("in/<str:name>/", include((inner.urlpatterns, "inner"), namespace="one")),
]
'''


def run(code):
    env = {**os.environ, "PYTHONPATH": str(harness.BIN.parent / "python")}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PRELUDE + textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stdout + done.stderr


def test_requests_are_as_django_makes_them():
    run("""
        from ringcorn.django import request as requests
        handler = ASGIHandler()
        make = requests.maker(handler)
        assert make is requests.make, "one of the examples comes out differently"
        rng, made, refused = random.Random(11), 0, 0
        names = [b"host", b"cookie", b"content-type", b"content-length", b"x-real-ip", b"x-" + b"a" * 80, b"under_score", b"", b"accept"]
        values = [b"", b"a", b"text/html; charset=utf-8", b"text/plain; charset=nowhere", b"\\xff\\xe9", b"12", b"a=1; b=2; "]
        for i in range(2000):
            scope = {
                "type": "http", "method": rng.choice(["GET", "post", "OPTIONS"]), "path": rng.choice(["/", "/a/b", "/ab", "/a", "/\\xe9/", ""]),
                "root_path": rng.choice(["", "", "/a", "/a/"]), "query_string": rng.choice([b"", b"a=1", b"\\xff", b"%41"]),
                "headers": [(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(4))],
                "client": rng.choice([None, ("::1", 1), ["127.0.0.1", 0]]), "server": rng.choice([None, ("a", 80), ("/s", None)]), "scheme": "https",
            }
            for key in rng.sample(sorted(scope), rng.choice([0, 0, 0, 1])):
                del scope[key]
            body = io.BytesIO()
            ours = make(scope, body)
            if ours is None:
                refused += 1
                continue
            made += 1
            assert requests._state(ours) == requests._state(ASGIRequest(scope, body)), scope
            assert type(ours) is ASGIRequest and ours.scheme == ASGIRequest(scope, body).scheme
        assert made > 200 and refused > 200, (made, refused)
        twice = {**requests._SCOPE, "headers": [(b"accept", b"a"), (b"accept", b"b")]}
        assert make(twice, None) is None and make({**twice, "headers": [(b"a_b", b"c")]}, None) is None
        # No end of names.
        for i in range(2 * requests.NAMES_MAX):
            assert make({**twice, "headers": [(b"x-%d" % i, b"1")]}, None).META[f"HTTP_X_{i}"] == "1"
            assert len(requests._keys) <= requests.NAMES_MAX
        print("done")
    """)


def test_requests_are_djangos_where_something_was_replaced():
    run("""
        from ringcorn.django import request as requests
        class Own(ASGIRequest): pass
        class Handler: request_class = Own
        assert requests.maker(Handler)(requests._SCOPE, None) is None
        Handler.request_class = ASGIRequest
        make, stock = requests.maker(Handler), ASGIRequest.__init__
        assert make(requests._SCOPE, None) is not None
        ASGIRequest.__init__ = lambda self, scope, body: stock(self, scope, body)
        assert make(requests._SCOPE, None) is None  # an agent that comes late
        assert requests.maker(Handler)(requests._SCOPE, None) is None  # and one that was there
        ASGIRequest.__init__ = stock
        requests._EXAMPLES += ({"headers": [(b"cookie", b"a"), (b"cookie", b"b")]},)  # another Django may differ
        assert requests.maker(Handler)(requests._SCOPE, None) is None
        print("done")
    """)


def test_what_is_connected_is_seen_as_django_sees_it():
    run("""
        from django.db import connections
        from django.core.cache import caches
        from ringcorn.django import holders
        assert holders._is_known and holders.held_by is holders._look
        def same():
            found = holders.open_connections()
            assert len(found) == len(connections.all(initialized_only=True)) and all(a is b for a, b in zip(found, connections.all(initialized_only=True)))
            return len(found)
        def rounds():
            assert same() == 0
            connections["kept"]
            assert same() == 1
            connections["default"].cursor().close()
            assert same() == 2
            del connections["kept"]
            assert same() == 1
        thread = threading.Thread(target=rounds)
        thread.start(), thread.join()
        rounds()
        async def on_a_loop():
            assert same() == 0  # the connections of coroutines are others
        asyncio.run(on_a_loop())
        assert same() == 1
        context = contextvars.copy_context()
        assert context.run(holders.held_by, caches._connections) == {}
        context.run(caches.__getitem__, "default")
        assert list(context.run(holders.held_by, caches._connections)) == ["default"] and holders.held_by(caches._connections) == {}
        print("done")
    """)


def test_what_is_put_is_what_django_reads():
    run("""
        from asgiref.local import Local
        from django.urls import get_script_prefix, get_urlconf, set_script_prefix
        from ringcorn.django import holders, urls as ours
        assert holders.put is (holders._put if hasattr(holders.asgiref_local, "_Storage") else setattr)
        for prefix in ("", "/", "/a", "/a/"):
            contextvars.copy_context().run(set_script_prefix, prefix)
            context = contextvars.copy_context()
            context.run(ours.enter, prefix)
            assert context.run(get_script_prefix) == (prefix if prefix.endswith("/") else prefix + "/")
        context.run(ours.use_default)
        assert context.run(get_urlconf) == "project_urls" and get_urlconf() is None
        local, inside = Local(), contextvars.copy_context()
        holders.put(local, "a", 1), inside.run(holders.put, local, "b", 2), holders.put(local, "c", 3)
        assert (local.a, local.c, hasattr(local, "b")) == (1, 3, False)
        assert (inside.run(getattr, local, "b"), inside.run(hasattr, local, "a"), inside.run(hasattr, local, "c")) == (2, False, False)
        thread = threading.Thread(target=context.run, args=(lambda: asked.append(get_urlconf()),))  # another thread has its own
        thread.start(), thread.join()
        assert asked == [None if holders.put is holders._put else "project_urls"]
        print("done")
    """)


def test_a_response_is_closed_as_django_closes_it():
    run("""
        from django.core.cache import caches
        from django.core.signals import request_finished
        from django.db import connections
        from django.dispatch import Signal
        from ringcorn.django import signals as ours
        assert ours._is_known
        def respond(cls=HttpResponse):
            response = cls()
            response._handler_class = ASGIHandler
            calls = []
            def fails():
                calls.append("fails")
                raise ValueError
            response._resource_closers += [fails, lambda: calls.append("closer")]
            return response, calls
        def finish(cls=HttpResponse):
            response, calls = respond(cls)
            ours.close_response(response)
            assert calls == ["fails", "closer"] and response.closed and response._resource_closers == []
        sent, stock = [], Signal.send
        finish()
        # What is used is closed, and only that.
        connections["default"].ensure_connection(), connections["kept"].ensure_connection(), caches["default"], set_urlconf("somewhere")
        finish()
        assert connections["default"].connection is None and connections["kept"].connection is not None and closed == [threading.get_ident()]
        assert get_urlconf() is None
        # Who listens hears it.
        def listener(sender, **kwargs):
            sent.append(sender)
        request_finished.connect(listener)
        connections["default"].ensure_connection()
        finish()
        assert sent == [ASGIHandler] and connections["default"].connection is None
        request_finished.disconnect(listener)
        finish()
        assert sent == [ASGIHandler]
        request_finished.connect(listener)
        del listener  # the signal had a weak reference: nobody keeps it
        finish()
        assert sent == [ASGIHandler]
        # One that closes itself, by its class or by its own.
        class Own(HttpResponse):
            def close(self):
                sent.append("own")
                super().close()
        finish(Own)
        response, _ = respond()
        response.close = lambda: sent.append("its own")
        ours.close_response(response)
        assert sent == [ASGIHandler, "own", "its own"]
        # An agent that watches signals.
        def send(self, *args, **kwargs):
            sent.append("watched")
            return stock(self, *args, **kwargs)
        Signal.send = send
        finish()
        assert sent[3:] == ["watched"]
        print("done")
    """)
