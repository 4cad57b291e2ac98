"""Files by the ASGI extensions http.response.pathsend and zerocopysend and by wsgi.file_wrapper; early hints, trailers, debug.

`app` is ASGI, `wsgi` is WSGI. ?file= names a file of the folder in FILES_DIR; what else a path takes is in its docstring."""

import json
import os
from urllib.parse import parse_qs

FOLDER = os.environ.get("FILES_DIR", "/nonexistent")
ERRORS = {}  # path -> what send() raised


def query(scope):
    return {k: v[-1] for k, v in parse_qs(scope["query_string"].decode()).items()}


def file_of(q):
    return os.path.join(FOLDER, q["file"])


def start(status=200, headers=(), **more):
    return {"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in headers], **more}


def body(text, more=False):
    return {"type": "http.response.body", "body": text, "more_body": more}


async def path_send(scope, receive, send):
    """?length=: the Content-Length to give, or none."""
    q = query(scope)
    await send(start(headers=[("content-length", q["length"])] if "length" in q else []))
    await send({"type": "http.response.pathsend", "path": q.get("path") or file_of(q)})


async def path_that_empties_its_message(scope, receive, send):
    class Path:
        def __init__(self, message):
            self.message = message

        def __fspath__(self):
            self.message.clear()
            return "relative"

        def __repr__(self):
            return "<a path that has emptied its message>"

    await send(start())
    message = {"type": "".join(("http.response.", "pathsend"))}
    message["path"] = Path(message)
    await send(message)


async def path_then_delete(scope, receive, send):
    await send(start())
    await send({"type": "http.response.pathsend", "path": file_of(query(scope))})
    os.unlink(file_of(query(scope)))


async def zero_copy(scope, receive, send):
    """Between two bodies; ?offset=, ?count=, ?seek= (the file's position), ?number=1 (an int in place of a file), ?raw=1 (unbuffered),
    ?twice=1 (without an offset: the second goes on where the first ended)."""
    q = query(scope)
    message = {"type": "http.response.zerocopysend", "more_body": True}
    message.update({k: int(q[k]) for k in ("offset", "count") if k in q})
    with open(file_of(q), "rb", **({"buffering": 0} if "raw" in q else {})) as f:
        f.read(int(q.get("seek", 0)))
        await send(start())
        await send(body(b"<", True))
        message["file"] = f.fileno() if "number" in q else f
        await send(message)
        if "twice" in q:
            await send(message)
    await send(body(b">"))


async def zero_copy_last(scope, receive, send):
    with open(file_of(query(scope)), "rb") as f:
        await send(start())
        await send({"type": "http.response.zerocopysend", "file": f})


async def zero_copy_pipe(scope, receive, send):
    r, w = os.pipe()
    try:
        await send(start())
        await send({"type": "http.response.zerocopysend", "file": r})
    finally:
        os.close(r)
        os.close(w)


async def hints(scope, receive, send):
    """?after=1: behind http.response.start, as the specification has it."""
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload; as=style", b"</b.js>; rel=preload"]}
    if "after" not in query(scope):
        await send(hint)
        await send({**hint, "links": [b"</c.png>; rel=preload"]})
        await send({**hint, "links": []})
    await send(start(headers=[("x-answer", "1")]))
    if "after" in query(scope):
        await send(hint)
    await send(body(b"first", True))
    await send(hint)  # too late: left out
    await send(body(b" last"))


async def bad_hint(scope, receive, send):
    await send({"type": "http.response.early_hint", "links": [b"</a>\r\nx: y"]})


async def trailers(scope, receive, send):
    """?length=1: with a Content-Length; ?name=: of the trailer; ?file=: the body is a file."""
    q = query(scope)
    headers = [("trailer", "x-sum"), *([("content-length", "5")] if "length" in q else [])]
    await send(start(headers=headers, trailers=True))
    if "file" in q:
        await send({"type": "http.response.pathsend", "path": file_of(q)})
    else:
        await send(body(b"he", True))
        await send(body(b"llo"))
    message = {"type": "http.response.trailers", "headers": [(q.get("name", "x-sum").encode(), b"42")]}
    await send({**message, "more_trailers": True})
    await send({**message, "headers": [(b"x-more", b"1")]})


async def debug(scope, receive, send):
    await send({"type": "http.response.debug", "info": {"template": "index.html"}})
    await send(start())
    await send(body(b"ok"))


async def extensions(scope, receive, send):
    await send(start())
    await send(body(json.dumps(sorted(scope["extensions"])).encode()))


async def errors(scope, receive, send):
    await send(start())
    await send(body(json.dumps(ERRORS).encode()))


PATHS = {f"/{f.__name__}": f for f in (
    path_send, path_that_empties_its_message, path_then_delete, zero_copy, zero_copy_last, zero_copy_pipe, hints, bad_hint, trailers, debug, extensions, errors,
)}  # fmt: skip


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] not in PATHS:
        await send(start(404))
        await send(body(b"the application"))
        return
    try:
        await PATHS[scope["path"]](scope, receive, send)
    except Exception as e:
        ERRORS[scope["path"]] = f"{type(e).__name__}: {e}"
        raise


def wsgi(environ, start_response):
    """?file= by wsgi.file_wrapper; ?at=: from there."""
    q = {k: v[-1] for k, v in parse_qs(environ["QUERY_STRING"]).items()}
    f = open(os.path.join(FOLDER, q["file"]), "rb")
    f.seek(int(q.get("at", 0)))
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](f)
