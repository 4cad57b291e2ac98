"""Django's request object, made from a scope at a fifth of the price.

ASGIRequest.__init__() makes a key of META of each header's name, by half a dozen calls, and parses the content type that a GET does not have; it
costs more than all that the server does for a request. Names are few, so their keys are remembered here, and what is as always is not computed.

What comes out is what Django makes, attribute by attribute. That is tried when the worker starts, on examples: where one differs, as Django's
next version may, or where somebody has replaced a function, Django makes its requests itself. So it does for a request with anything rare in it:
a header that comes twice, a name with an underscore, a path outside of the proxy's prefix.
"""

import io

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from . import genuine, urls

NAMES_MAX = 500  # headers whose names are remembered
NAME_MAX = 64  # bytes

_keys = {}  # name -> key of META
_init = ASGIRequest.__init__


def _learn(headers):
    """False where a name is for Django to judge."""
    for name, _ in headers:
        if name not in _keys:
            if type(name) is not bytes or b"_" in name or len(name) > NAME_MAX:
                return False
            if len(_keys) >= NAMES_MAX:
                _keys.clear()  # somebody makes them up; those that come again are learnt again
            text = name.decode("latin1")
            key = text.upper().replace("-", "_")
            _keys[name] = key if text in ("content-length", "content-type") else "HTTP_" + key
    return True


def make(scope, body):
    """What ASGIRequest(scope, body) is; None where that is to be asked, and may raise."""
    if ASGIRequest.__init__ is not _init:
        return None
    try:
        path, headers, query, keys = scope["path"], scope["headers"], scope["query_string"], _keys
        prefix = urls.script_prefix(scope)
        if not path.startswith(prefix + "/" if prefix else "/") or prefix.endswith("/"):  # versions differ in what they make of it
            return None
        inside = path[len(prefix) :]
        method = scope["method"].upper()
        meta = {
            "REQUEST_METHOD": method, "QUERY_STRING": query.decode() if query else "", "SCRIPT_NAME": prefix, "PATH_INFO": inside,
            "wsgi.multithread": True, "wsgi.multiprocess": True,
        }  # fmt: skip
        if client := scope["client"]:
            meta["REMOTE_ADDR"] = meta["REMOTE_HOST"] = client[0]
            meta["REMOTE_PORT"] = client[1]
        if server := scope["server"]:
            meta["SERVER_NAME"], port = server
            meta["SERVER_PORT"] = str(port)
        else:
            meta["SERVER_NAME"], meta["SERVER_PORT"] = "unknown", "0"
        size = len(meta) + len(headers)
        try:
            for name, value in headers:
                meta[keys[name]] = value.decode("latin1")
        except KeyError:
            if not _learn(headers):
                return None
            for name, value in headers:
                meta[keys[name]] = value.decode("latin1")
        if len(meta) != size or meta.get("HTTP_COOKIE", "").endswith((" ", ";")):  # one came twice; or it is cut from 6.0 on
            return None
        request = ASGIRequest.__new__(ASGIRequest)
        request.__dict__ = {
            "scope": scope, "_post_parse_error": False, "_read_started": False, "resolver_match": None, "path": path, "script_name": prefix,
            "path_info": inside, "method": method, "META": meta, "_stream": body, "content_type": "", "content_params": {},
        }  # fmt: skip
        if "CONTENT_TYPE" in meta:
            request._set_content_type_params(meta)
    except Exception:  # Django raises it too, or does not
        return None
    return request


def _make_none(scope, body):
    return None


_SCOPE = {
    "type": "http", "method": "GET", "path": "/a/b/", "raw_path": b"/a/b/", "root_path": "", "query_string": b"", "headers": [],
    "client": ("192.0.2.1", 4000), "server": ("198.51.100.1", 8000), "scheme": "http",
}  # fmt: skip
_EXAMPLES = (
    {},
    {"headers": [(b"host", b"example.com"), (b"accept-language", b"en, de;q=0.5"), (b"x-name", "\xe9".encode("latin1")), (b"dnt", b"")]},
    {"headers": [(b"cookie", b"a=1; b=2"), (b"content-length", b"12"), (b"content-type", b"application/json; charset=latin1; a=b")]},
    {"headers": [(b"content-type", b"multipart/form-data; boundary=x")], "method": "post", "query_string": b"a=1&b=%C3%A9"},
    {"headers": [(b"content-type", b"")], "query_string": b"a=\xc3\xa9"},
    {"root_path": "/a", "client": None, "server": None},
    {"root_path": "/a", "path": "/a/", "client": ("192.0.2.1", 0), "server": ("/run/socket", None)},
)


def _state(request):
    return vars(request), request.encoding, request.content_type, request.content_params


def maker(handler):
    """make(), where it makes what *handler* does; else a function that returns None."""
    if getattr(handler, "request_class", None) is not ASGIRequest or genuine.replaced(ASGIRequest) is not None or genuine.replaced(HttpRequest) is not None:
        return _make_none
    try:
        for example in _EXAMPLES:
            scope, body = {**_SCOPE, **example}, io.BytesIO()
            request = make(scope, body)
            if request is None or _state(request) != _state(ASGIRequest(scope, body)):
                return _make_none
    except Exception:  # what this Django has is not what it was written for
        return _make_none
    return make
