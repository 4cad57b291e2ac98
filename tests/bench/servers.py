"""How each server is started: one worker process; where it runs synchronous code in threads of its own, eight of them.

A server is (interface, command): the command is a function of (args, case, port). args.bin is the peers' virtual environment.
"""

import files
from tls import certificate

THREADS = 8


def tls(case, *options):
    """Certificate and key, each behind its option, where the case has TLS."""
    return [part for pair in zip(options, certificate(case.tls)) for part in pair] if case.tls else []


def ringcorn(io, interface="asgi", threads=THREADS, *options):
    def command(args, case, port):
        return [
            args.program, "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", threads, "--io", io, "--interface", interface,
            "--no-access-log", "--app-dir", case.folder, *options, *tls(case, "--certfile", "--keyfile"),
            *(["--tls-ciphers", case.cipher] if case.cipher else []), case.apps[interface],
        ]  # fmt: skip

    return interface, command


def uvicorn(*options):
    def command(args, case, port):
        return [
            args.bin / "uvicorn", case.apps["asgi"], "--app-dir", case.folder, "--port", port, "--loop", "uvloop", "--http", "httptools",
            "--no-access-log", "--log-level", "warning", *options, *tls(case, "--ssl-certfile", "--ssl-keyfile"),
        ]  # fmt: skip

    return command


def granian(args, case, port):
    return [
        args.bin / "granian", "--interface", "asgi", "--port", port, "--workers", "1", "--no-access-log", "--log-level", "warning",
        "--working-dir", case.folder, *tls(case, "--ssl-certificate", "--ssl-keyfile"), case.apps["asgi"],
    ]  # fmt: skip


def granian_wsgi(args, case, port):
    return [
        args.bin / "granian", "--interface", "wsgi", "--port", port, "--workers", "1", "--blocking-threads", THREADS, "--no-access-log",
        "--log-level", "warning", "--working-dir", case.folder, case.apps["wsgi"],
    ]  # fmt: skip


def gunicorn(kind, *options):
    def command(args, case, port):
        return [
            args.bin / "gunicorn", "--worker-class", kind, "--workers", "1", "--bind", f"127.0.0.1:{port}", "--chdir", case.folder,
            "--keep-alive", "75", "--log-level", "warning", *options, case.apps["asgi" if kind == "asgi" else "wsgi"],
        ]  # fmt: skip

    return command


def uwsgi(args, case, port):
    # Its keep-alive (--http11-socket) gives each connection a thread for good: 56 of 64 connections would never be answered. So it
    # closes after each answer, and must say so, or wrk asks once more on a connection that ends.
    return [
        args.bin / "uwsgi", "--http-socket", f"127.0.0.1:{port}", "--processes", "1", "--threads", THREADS, "--disable-logging",
        "--need-app", "--add-header", "Connection: close", "--die-on-term", "--listen", "128", "--virtualenv", args.venv.absolute(), "--chdir", case.folder,
        "--module", case.apps["wsgi"],
    ]  # fmt: skip


def fastpysgi(args, case, port):
    return [args.bin / "python", args.here / "run_fastpysgi.py", case.apps["asgi"], port]


def hypercorn(args, case, port):
    return [args.bin / "hypercorn", "--bind", f"127.0.0.1:{port}", "--workers", "1", "-k", "uvloop", case.apps["asgi"]]


def granian_static(args, case, port):
    return [*granian(args, case, port)[:-1], "--static-path-route", "/static", "--static-path-mount", files.files(), case.apps["asgi"]]


def nginx(args, case, port):
    return ["nginx", "-c", files.nginx(port)]


def ringcorn_static(io):
    def command(args, case, port):
        return ringcorn(io, "asgi", THREADS, "--static", f"/static={files.files()}")[1](args, case, port)

    return "asgi", command


SERVERS = {
    "nginx": ("asgi", nginx),
    "ringcorn-static": ringcorn_static("io_uring"),
    "ringcorn-static-epoll": ringcorn_static("epoll"),
    "granian-static": ("asgi", granian_static),
    "ringcorn": ringcorn("io_uring"),
    "ringcorn-epoll": ringcorn("epoll"),
    "ringcorn-auto": ringcorn("io_uring", threads="auto"),
    "ringcorn-off": ringcorn("io_uring", "asgi", THREADS, "--sync-loop-first", "off"),
    "ringcorn-wsgi": ringcorn("io_uring", "wsgi"),
    "ringcorn-wsgi-epoll": ringcorn("epoll", "wsgi"),
    "uvicorn": ("asgi", uvicorn()),
    "uvicorn-websockets": ("asgi", uvicorn("--ws", "websockets")),
    "uvicorn-sansio": ("asgi", uvicorn("--ws", "websockets-sansio")),
    "uvicorn-wsproto": ("asgi", uvicorn("--ws", "wsproto")),
    "granian": ("asgi", granian),
    "gunicorn-asgi": ("asgi", gunicorn("asgi")),
    "fastpysgi": ("asgi", fastpysgi),
    "hypercorn": ("asgi", hypercorn),
    "granian-wsgi": ("wsgi", granian_wsgi),
    "gunicorn-gthread": ("wsgi", gunicorn("gthread", "--threads", str(THREADS))),
    "uwsgi": ("wsgi", uwsgi),
}
ASGI_PEERS = ["uvicorn", "granian", "gunicorn-asgi"]
# All that uvicorn has for WebSockets. granian has no permessage-deflate.
UVICORN_WS = ["uvicorn-websockets", "uvicorn-sansio", "uvicorn-wsproto"]
WSGI_PEERS = ["granian-wsgi", "gunicorn-gthread", "uwsgi"]
