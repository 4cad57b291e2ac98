"""OpenTelemetry: a server span for each HTTP request (``otel.enabled``), by the tracer provider that the application has configured.

Names and rules are those of the semantic conventions for HTTP spans. The parent is what the configured propagator finds in the headers
(``traceparent``, ``tracestate``); the span is the current one while the application runs: in its task, on the thread of a WSGI request,
on the thread of a Django view that is served without the loop.

Nothing of OpenTelemetry is imported here unless the application has done so, or ``otel.enabled: on`` asks for it. Where it is off,
no request comes through here.
"""

import sys
import urllib.parse

from . import log
from .app import EXIT_APP, AppError

_METHODS = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"}
_OTHER = "_OTHER"

# Modules that make the server's span themselves, where they are imported: newer FastAPIs do.
_INSTRUMENTED = (
    "fastapi.telemetry",
    "starlette.middleware.opentelemetry",
    *(f"opentelemetry.instrumentation.{name}" for name in ("asgi", "wsgi", "django", "fastapi", "starlette", "flask")),
)


def find(mode, slot, version):
    """Once the application has started: what traces its requests, or None. *mode*: "auto", "on" or "off". Raises AppError."""
    say = log.info if slot == 0 else log.debug
    if mode == "off" or (mode == "auto" and "opentelemetry.trace" not in sys.modules):
        return None
    try:
        from opentelemetry import trace
    except ImportError as e:
        raise AppError(
            EXIT_APP, f"otel.enabled: on needs the package opentelemetry-sdk in the application's environment ({e}); install it, or leave it at auto"
        ) from None
    provider = trace.get_tracer_provider()
    if mode == "auto":
        if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            return None
        if by := [name for name in _INSTRUMENTED if name in sys.modules]:
            say("OpenTelemetry: server spans are left to %s; otel.enabled: on makes them here too", by[0])
            return None
    say("OpenTelemetry: server spans by %s", type(provider).__qualname__)
    return _Tracing(trace, trace.get_tracer("ringcorn", version))


class _Headers:
    """A propagator's getter: of pairs of bytes, names in lower case."""

    def get(self, carrier, key):
        name = key.lower().encode("latin-1")
        return [value.decode("latin-1") for n, value in carrier if n == name] or None

    def keys(self, carrier):
        return [name.decode("latin-1") for name, _ in carrier]


class _Environ:
    """The same of a WSGI environ."""

    def get(self, carrier, key):
        value = carrier.get("HTTP_" + key.upper().replace("-", "_"))
        return None if value is None else [value]

    def keys(self, carrier):
        return [name[5:].lower().replace("_", "-") for name in carrier if name.startswith("HTTP_")]


_headers, _environ = _Headers(), _Environ()


def _host(attributes, text, default):
    """server.address and server.port: as the client wrote them in Host, or (address, port)."""
    address, port = default
    if text:
        try:
            parts = urllib.parse.urlsplit(f"//{text}")
            address = parts.hostname or address
            port = parts.port or {"http": 80, "https": 443}[attributes["url.scheme"]]
        except (ValueError, KeyError):
            pass  # the application judges it
    if address:
        attributes["server.address"] = address
    if port:
        attributes["server.port"] = int(port)


class _Tracing:
    def __init__(self, trace, tracer):
        from opentelemetry import propagate

        self.trace = trace
        self.tracer = tracer
        self.extract = propagate.extract
        self.error = trace.Status(trace.StatusCode.ERROR)

    # --- a span

    def _begin(self, method, attributes, carrier, getter):
        known = method if method in _METHODS else _OTHER
        attributes["http.request.method"] = known
        if known is _OTHER:
            attributes["http.request.method_original"] = method
        return self.tracer.start_span(
            "HTTP" if known is _OTHER else known, self.extract(carrier, getter=getter), self.trace.SpanKind.SERVER, attributes
        )

    def _begin_scope(self, scope):
        raw = scope.get("raw_path")
        attributes = {
            "url.path": raw.decode("latin-1") if raw else scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
        }
        host = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1")
            elif name == b"user-agent":
                attributes["user_agent.original"] = value.decode("latin-1")
        _host(attributes, host, scope.get("server") or (None, None))
        if client := scope.get("client"):
            attributes["client.address"], attributes["client.port"] = client[0], client[1]
        return self._begin(scope["method"], attributes, scope["headers"], _headers)

    def _begin_environ(self, environ):
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        attributes = {
            "url.path": urllib.parse.quote(path.encode("latin-1"), safe="/:@!$&'()*+,;=~"),
            "url.scheme": environ["wsgi.url_scheme"],
            "network.protocol.version": environ["SERVER_PROTOCOL"].partition("/")[2],
        }
        if agent := environ.get("HTTP_USER_AGENT"):
            attributes["user_agent.original"] = agent
        _host(attributes, environ.get("HTTP_HOST"), (environ.get("SERVER_NAME"), environ.get("SERVER_PORT")))
        if client := environ.get("REMOTE_ADDR"):
            attributes["client.address"] = client
            if port := environ.get("REMOTE_PORT"):
                attributes["client.port"] = int(port)
        return self._begin(environ["REQUEST_METHOD"], attributes, environ, _environ)

    def _answered(self, span, status):
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(self.error)

    def _failed(self, span, exception):
        """The application has raised it: where nothing was answered yet, the server answers 500."""
        span.record_exception(exception)
        span.set_attribute("error.type", type(exception).__qualname__)
        span.set_status(self.error)

    def _use(self, span):
        return self.trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)

    def _end(self, span, scope=None):
        """The route is known by now, where the framework tells it: FastAPI's object, or Django's text."""
        route = scope.get("route") if scope is not None else None
        path = route if isinstance(route, str) else getattr(route, "path", None)
        if isinstance(path, str) and span.is_recording():
            if not path.startswith("/"):
                path = "/" + path
            span.set_attribute("http.route", path)
            method = scope["method"]
            span.update_name(f"{method if method in _METHODS else 'HTTP'} {path}")
        span.end()

    # --- what is traced

    def asgi(self, app):
        """*app*, with a span around each HTTP request."""

        async def traced(scope, receive, send):
            if scope["type"] != "http":
                return await app(scope, receive, send)
            span = self._begin_scope(scope)
            await self._run(span, scope, lambda: app(scope, receive, self._watched(span, send)))

        return traced

    def _watched(self, span, send):
        if not span.is_recording():
            return send

        async def watched(message):
            if message.get("type") == "http.response.start" and isinstance(status := message.get("status"), int):
                self._answered(span, status)
            await send(message)

        return watched

    async def _run(self, span, scope, begin):
        try:
            with self._use(span):
                await begin()
        except BaseException as e:
            if isinstance(e, Exception):
                self._failed(span, e)
            raise
        finally:
            self._end(span, scope)

    def direct(self, run, not_mine):
        """The same for ringcorn.django.direct.run, on a thread."""

        def traced(exchange):
            scope = exchange.scope
            span = self._begin_scope(scope)
            try:
                with self._use(span):
                    left = run(_Exchange(exchange, self, span))
            except BaseException as e:
                self._failed(span, e)
                self._end(span, scope)
                raise
            if left is None:
                self._end(span, scope)
            elif left is not not_mine:  # the rest of it is done on the loop
                return lambda receive, send: self._run(span, scope, lambda: left(receive, self._watched(span, send)))
            return left  # a span that nobody ends is never told: the request gets another on its other way

        return traced

    def wsgi(self, app):
        """The same for a WSGI application."""

        def traced(environ, start_response):
            span = self._begin_environ(environ)

            def start(status, headers, exc_info=None):
                if isinstance(status, str) and status[:3].isdigit():
                    self._answered(span, int(status[:3]))
                return start_response(status, headers) if exc_info is None else start_response(status, headers, exc_info)

            try:
                with self._use(span):
                    body = app(environ, start)
            except BaseException as e:
                self._failed(span, e)
                span.end()
                raise
            # All there, or a file that the server sends by itself: it stays what it is.
            if isinstance(body, (list, tuple)) or type(body) is environ.get("wsgi.file_wrapper"):
                span.end()
                return body
            return _Body(body, self, span)

        return traced


class _Exchange:
    """What ringcorn.django.direct knows of a request, with an eye on its status."""

    __slots__ = ("_tracing", "_span", "_start", "scope", "body", "write", "finish")

    def __init__(self, exchange, tracing, span):
        self._tracing, self._span, self._start = tracing, span, exchange.start
        self.scope, self.body, self.write, self.finish = exchange.scope, exchange.body, exchange.write, exchange.finish

    def start(self, status, headers):
        self._tracing._answered(self._span, status)
        self._start(status, headers)


class _Body:
    """An answer of WSGI that is made piece by piece: the span lasts until it is closed."""

    def __init__(self, body, tracing, span):
        self._body, self._tracing, self._span = body, tracing, span
        self._pieces = None

    def __iter__(self):
        return self

    def __next__(self):
        try:
            with self._tracing._use(self._span):
                if self._pieces is None:
                    self._pieces = iter(self._body)
                return next(self._pieces)
        except StopIteration:
            raise
        except BaseException as e:
            self._tracing._failed(self._span, e)
            raise

    def close(self):
        try:
            if (close := getattr(self._body, "close", None)) is not None:
                with self._tracing._use(self._span):
                    close()
        finally:
            self._span.end()
