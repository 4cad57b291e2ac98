"""The requests that every way of serving the project must answer alike: (method, target, headers, body)."""

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
TOKEN = "a" * 32  # a CSRF secret, which may also be sent as the token
BOTH = ("", "async/")


def multipart(fields, size):
    parts = [f'--edge\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = "".join(parts) + '--edge\r\nContent-Disposition: form-data; name="f"; filename="f.bin"\r\n\r\n'
    return head.encode() + b"z" * size + b"\r\n--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


def _get(target, **headers):
    return "GET", target, {k.replace("_", "-"): v for k, v in headers.items()}, b""


def _uploads():
    for prefix in BOTH:
        for size in (0, 1000, 300_000):  # the last goes to the disk
            body, headers = multipart({"note": "n"}, size)
            yield "POST", f"/{prefix}upload/", headers, body
        body, headers = multipart({"note": "n" * 60_000}, 10)  # above DATA_UPLOAD_MAX_MEMORY_SIZE
        yield "POST", f"/{prefix}upload/", headers, body
        for size in (0, 49_999, 50_001, 250_000):
            yield "POST", f"/{prefix}body/", JSON, b"b" * size


def _forms():
    for prefix in BOTH:
        yield _get(f"/{prefix}form/")
        yield "POST", f"/{prefix}form/", FORM, b"a=1"
        yield "POST", f"/{prefix}form/", {**FORM, "Cookie": f"csrftoken={TOKEN}"}, f"csrfmiddlewaretoken={TOKEN}".encode()
        yield "POST", f"/{prefix}form/", {**JSON, "Cookie": f"csrftoken={TOKEN}", "X-CSRFToken": TOKEN}, b"{}"
        yield "POST", f"/{prefix}form/", {**JSON, "Cookie": "csrftoken=short"}, b"{}"
        yield "POST", f"/{prefix}form/", {**FORM, "Origin": "http://else.where"}, b"a=1"
    yield "POST", "/async/exempt/", {}, b""
    yield "POST", "/class/", {"Cookie": f"csrftoken={TOKEN}", "X-CSRFToken": TOKEN}, b"raw"
    yield "POST", "/async/class/", {"Cookie": f"csrftoken={TOKEN}", "X-CSRFToken": TOKEN}, b"raw"


VIEWS = [
    *(_get(f"/{kind}/{rest}") for kind in ("sync", "async") for rest in ("", "?a=1&a=2&b=%C3%A4", "5/word/")),
    _get("/sync"), _get("/async"), _get("/async?a=1"), _get("/no/slash"), _get("/no/slash/"), _get("/nowhere/"), _get("/nowhere"),
    ("POST", "/sync", {}, b""), ("HEAD", "/sync/", {}, b""), ("HEAD", "/async/", {}, b""), ("OPTIONS", "/class/", {}, b""),
    ("PUT", "/async/class/", {}, b""), ("DELETE", "/decorated/", {}, b""),
    _get("/async/waits/"), _get("/class/"), _get("/async/class/"), _get("/decorated/"), _get("/coroutine/"), _get("/partial/"), _get("/async/partial/"),
    _get("/included/sync/"), _get("/included/async/"), _get("/sync/?q=%FF"), _get("/%ff/"), _get("/sync/", Cookie="a=1; b=2"),
    *(_get(f"/{prefix}raises/{what}/") for prefix in BOTH for what in ("404", "403", "400", "suspicious", "value")),
    *(_get(f"/{prefix}status/{code}/") for prefix in BOTH for code in (204, 304, 404, 418, 503)),
    *(_get(f"/{prefix}{name}/") for prefix in BOTH for name in (
        "template", "template_fails", "returns_none", "stream", "file", "session", "bridges", "database",
    )),
    *(_get(f"/{prefix}large/?n={n}") for prefix in BOTH for n in (0, 65_536, 200_000)),
    _get("/stream/?n=0"), _get("/stream/?n=2000"), _get("/async/stream/?n=2000"), _get("/stream/of/async/"), _get("/async/stream/of/sync/?n=2000"),
    _get("/async/session/read/", Cookie="sessionid=x"), _get("/session/", Cookie="sessionid=x; messages=y"), _get("/async/session/", Cookie="sessionid=x"),
    *_uploads(), *_forms(),
]  # fmt: skip

# With middleware of the project's own.
HOOKS = [
    *VIEWS,
    *(
        _get(f"/{view}/?{what}={name}.{hook}")
        for view in ("sync", "async", "template", "async/template", "raises/value", "async/raises/value", "nowhere")
        for what in ("answer", "fail", "deny")
        for name in ("Outer", "Middle", "Inner")
        for hook in ("process_request", "process_view", "process_exception", "process_template_response", "process_response")
        if what != "answer" or hook != "process_template_response"
    ),
    *(_get(f"/{view}/?urlconf=other_urls") for view in ("sync", "async", "only/here", "only/here/sync", "nowhere")),
    *(_get(f"/{view}/?none={name}.process_response") for view in ("sync", "async") for name in ("Outer", "Inner")),
]  # fmt: skip

LOCALE = [
    *(_get(f"/{lang}{view}/", **headers) for lang in ("en/", "de/", "fr/", "") for view in ("words", "async/words")
      for headers in ({}, {"Accept_Language": "de"})),
    _get("/de/async/words"), _get("/async/", Accept_Language="de"), _get("/sync/", Accept_Language="de"), _get("/de/async/words/", Accept_Language="en"),
]  # fmt: skip

# FORCE_SCRIPT_NAME is /under.
SCRIPT = [_get(f"{prefix}{path}") for prefix in ("", "/under") for path in ("/sync/", "/async/", "/sync", "/async/5/word/", "/nowhere/", "/")]

# Only a few of the many: what the chain is made of matters here.
SOME = [
    *(_get(f"/{view}/{query}") for view in ("sync", "async", "template", "async/template", "raises/value", "async/raises/404", "stream", "async/stream", "nowhere", "bridges", "async/bridges")
      for query in ("", "?fail=Inner.process_request", "?fail=Inner.process_response", "?answer=Inner.process_view", "?answer=Outer.process_request", "?urlconf=other_urls")),
]  # fmt: skip
