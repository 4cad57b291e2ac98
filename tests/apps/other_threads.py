"""Quart, and Flask through asgiref: where their synchronous views run, and what they see there."""

import threading
from contextvars import ContextVar

from asgiref.wsgi import WsgiToAsgi
from flask import Flask, g, jsonify
from flask import request as flask_request
from quart import Quart, request
from quart import g as quart_g

mark = ContextVar("mark", default="none")
local = threading.local()

quart = Quart(__name__)


@quart.before_request
async def before():
    mark.set(request.args.get("user"))
    quart_g.user = request.args.get("user")


@quart.get("/")
def quart_view():
    """Synchronous: Quart runs it in the loop's default executor, in a copy of the request's context."""
    return {"user": mark.get(), "g": quart_g.user, "path": request.path, "thread": threading.current_thread().name}


@quart.get("/stream")
def quart_stream():
    def pieces():
        for i in range(20):
            yield f"{i} {mark.get()} {threading.current_thread().name}\n"

    return pieces(), {"Content-Type": "text/plain"}


@quart.get("/async")
async def quart_async():
    return {"thread": threading.current_thread().name}


flask_app = Flask(__name__)


@flask_app.before_request
def open_session():
    g.thread = threading.get_ident()
    local.user = flask_request.args.get("user")


@flask_app.get("/")
def flask_view():
    return jsonify(user=local.user, same=g.thread == threading.get_ident(), thread=threading.current_thread().name)


flask = WsgiToAsgi(flask_app)
