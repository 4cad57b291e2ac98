"""``debug: true``, for development: an exception that reaches the server before anything was sent is shown to the client, with its traceback.

Frameworks catch what their views raise and have pages of their own; what comes here was raised outside of them, or in a bare application.
Refusals for want of a thread are answered as ever, and so is everything where it is off: no request comes through here then.
"""

import html
import traceback

from . import log, overload

_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
    ("X-Content-Type-Options", "nosniff"),
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 sans-serif; margin: 2em }} h1 {{ font-size: 1.3em }} pre {{ font-size: 14px; overflow-x: auto; padding: 1em; background: #f4f4f4 }}
</style></head><body><h1>{title}</h1><p>{label}</p><pre>{trace}</pre>
<p>Shown because <code>debug</code> is on: for development only.</p></body></html>
"""


def _page(label, exception, accept):
    """Headers and body: HTML for browsers, else text. Beginning in the application's code, without what called it here."""
    frames = exception.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(exception), exception, frames))
    kind = "text/plain"
    if "text/html" in accept.lower():
        kind = "text/html"
        title = html.escape(traceback.format_exception_only(exception)[-1].strip())
        text = _PAGE.format(title=title, label=html.escape(label), trace=html.escape(text))
    body = text.encode("utf-8", "backslashreplace")
    return [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *_HEADERS], body


def asgi(app):
    """*app*, whose exceptions become pages."""

    async def debugged(scope, receive, send):
        if scope["type"] != "http":
            return await app(scope, receive, send)
        has_begun = False

        async def watched(message):
            nonlocal has_begun
            await send(message)
            has_begun = True

        try:
            await app(scope, receive, watched)
        except Exception as e:
            if has_begun or log.is_disconnect(e) or overload.is_refusal(e):
                raise
            label = f"{scope['method']} {scope['path']}"
            log.request_failed(label, e, "exception", False)
            accept = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
            headers, body = _page(label, e, accept)
            headers = [(name.lower().encode(), value.encode()) for name, value in headers]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

    return debugged


def wsgi(app):
    """The same for a WSGI application: also where the first piece of its answer is what fails."""

    def debugged(environ, start_response):
        try:
            body = app(environ, start_response)
        except Exception as e:
            return _answer(environ, start_response, e)
        if isinstance(body, (list, tuple)) or type(body) is environ.get("wsgi.file_wrapper"):
            return body
        return _Body(environ, start_response, body)

    return debugged


def _answer(environ, start_response, exception):
    """Raises *exception* where the head has been sent."""
    label = f"{environ['REQUEST_METHOD']} {environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    headers, body = _page(label, exception, environ.get("HTTP_ACCEPT", ""))
    start_response("500 Internal Server Error", headers, (type(exception), exception, exception.__traceback__))
    log.request_failed(label, exception, "exception", False)
    return [body] if environ["REQUEST_METHOD"] != "HEAD" else []


class _Body:
    def __init__(self, environ, start_response, body):
        self._environ, self._start_response, self._body = environ, start_response, body
        self._pieces = None
        self._is_page = False

    def __iter__(self):
        return self

    def __next__(self):
        try:
            if self._pieces is None:
                self._pieces = iter(self._body)
            return next(self._pieces)
        except Exception as e:
            if isinstance(e, StopIteration) or self._is_page:
                raise
            self._pieces = iter(_answer(self._environ, self._start_response, e))
            self._is_page = True
        return next(self._pieces, b"")

    def close(self):
        if (close := getattr(self._body, "close", None)) is not None:
            close()
