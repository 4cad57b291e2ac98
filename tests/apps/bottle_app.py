"""Bottle, a WSGI framework in one file."""

import hashlib

import bottle

app = bottle.Bottle()


@app.route("/")
def index():
    return "Hello, World!"


@app.route("/hello/<name>")
def hello(name):
    return f"Hello, {name}! {bottle.request.query.a}"


@app.post("/upload")
def upload():
    file = bottle.request.files.get("file")
    data = file.file.read()
    return {"name": file.raw_filename, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "note": bottle.request.forms.note}


@app.post("/body")
def body():
    data = bottle.request.body.read()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@app.route("/stream")
def stream():
    for i in range(int(bottle.request.query.n or 5)):
        yield f"piece {i}\n"


@app.route("/cookies")
def cookies():
    bottle.response.set_cookie("a", "1")
    bottle.response.set_cookie("b", "2")
    return dict(bottle.request.cookies)


@app.route("/file")
def file():
    return bottle.static_file("bottle_app.py", root=__file__.rsplit("/", 1)[0])


@app.route("/large")
def large():
    return b"x" * int(bottle.request.query.size)


@app.route("/boom")
def boom():
    raise RuntimeError("boom from bottle")
