"""Flask, a WSGI framework, through asgiref's wrapper."""

import hashlib

from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, jsonify, make_response, request

flask = Flask(__name__, static_folder="static", static_url_path="/static")


@flask.route("/")
def index():
    return "Hello, World!"


@flask.route("/cookies")
def cookies():
    response = make_response(jsonify(dict(request.cookies)))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@flask.post("/upload")
def upload():
    file = request.files["file"]
    data = file.read()
    note = request.form.get("note")
    return jsonify(name=file.filename, size=len(data), sha256=hashlib.sha256(data).hexdigest(), note=note)


@flask.post("/body")
def body():
    data = request.get_data()
    return jsonify(size=len(data), sha256=hashlib.sha256(data).hexdigest())


@flask.route("/stream")
def stream():
    n = int(request.args.get("n", 5))
    return Response((f"piece {i}\n" for i in range(n)), mimetype="text/plain")


@flask.route("/environ")
def environ():
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "SERVER_PORT", "SERVER_PROTOCOL", "REMOTE_ADDR", "wsgi.url_scheme")
    return jsonify({name: request.environ.get(name) for name in names})


@flask.route("/large")
def large():
    return "x" * int(request.args["size"])


@flask.route("/boom")
def boom():
    raise RuntimeError("boom from flask")


app = WsgiToAsgi(flask)
