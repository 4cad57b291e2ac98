"""The WSGI part of the mixed load (tests/stress/mixed.py): each function is served under its name."""

import hashlib
import json
import threading
from urllib.parse import parse_qs

import census
import database

LOCK = threading.Lock()
COUNTS = {"begun": 0, "closed": 0}
ROUTES = {}


class OnPurpose(Exception):
    pass


def route(function):
    ROUTES["/" + function.__name__] = function
    return function


def answer(start_response, value, status="200 OK"):
    body = json.dumps(value).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def count(name):
    with LOCK:
        COUNTS[name] += 1


class Pieces:
    """An iterable whose close() must be called, however the request ends."""

    def __init__(self, pieces):
        self.pieces = iter(pieces)
        count("begun")

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.pieces)

    def close(self):
        count("closed")


@route
def plain(q, environ, start_response):
    return answer(start_response, {"id": q["id"]})


@route
def work(q, environ, start_response):
    with database.transaction() as connection:
        written = database.write(connection, q["id"])
        if "fail" in q:
            raise OnPurpose(q["id"])
    return answer(start_response, {"id": q["id"], **written})


@route
def hold(q, environ, start_response):
    database.connection().execute("SELECT pg_sleep(%s)", (float(q["s"]),))
    return answer(start_response, {"id": q["id"]})


@route
def boom(q, environ, start_response):
    raise OnPurpose(q["id"])


@route
def boom_late(q, environ, start_response):
    """After the head and a piece are gone: the client sees a broken answer."""

    def pieces():
        yield b"begun"
        raise OnPurpose(q["id"])

    start_response("200 OK", [("Content-Type", "text/plain")])
    return Pieces(pieces())


@route
def stream(q, environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Pieces(f"{q['id']} {i} 0 {'x' * 3000}\n".encode() for i in range(int(q["n"])))


@route
def write(q, environ, start_response):
    send = start_response("200 OK", [("Content-Type", "text/plain")])
    for i in range(int(q["n"])):
        send(f"{q['id']} {i} 0 {'x' * 3000}\n".encode())
    return []


@route
def upload(q, environ, start_response):
    digest, size = hashlib.sha256(), 0
    while piece := environ["wsgi.input"].read(16384):
        size += len(piece)
        digest.update(piece)
    return answer(start_response, {"id": q["id"], "size": size, "sha256": digest.hexdigest()})


@route
def echo(q, environ, start_response):
    """Both ways at once."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return Pieces(iter(lambda: environ["wsgi.input"].read1(16384), b""))


# ------------------------------------------------------------------ at rest


class Meeting:
    barrier = None


def forget_meeting():
    Meeting.barrier = None


@route
def meet(q, environ, start_response):
    """As in the Django project: all n are on threads of their own at once."""
    database.connection().execute("SELECT 1")
    with LOCK:
        if Meeting.barrier is None:
            Meeting.barrier = threading.Barrier(int(q["n"]), action=forget_meeting)
        barrier = Meeting.barrier
    barrier.wait(30)
    return answer(start_response, {"id": q["id"]})


@route
def census_light(q, environ, start_response):
    return answer(start_response, {**census.light(), "counts": COUNTS})


@route
def census_take(q, environ, start_response):
    return answer(start_response, census.take())


@route
def census_describe(q, environ, start_response):
    return answer(start_response, census.describe(q["name"]))


def app(environ, start_response):
    q = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"], keep_blank_values=True).items()}
    return ROUTES[environ["PATH_INFO"]](q, environ, start_response)
