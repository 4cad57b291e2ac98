#!/usr/bin/env python3
"""No false alarm: sample projects under moderate load, with every guardrail that is on by default; whatever one of them says is a failure.

    make soak STRESS='--minutes 60 --io epoll'

Django (its ORM, sessions, streams, a WebSocket; and on PostgreSQL), FastAPI, Starlette, Channels over Redis, each served by its own worker.
Clients ask for views of both kinds, upload, go in the middle of streams and long polls, and chat. What a project imports in its first requests
does block its loop, and is counted: Channels' layer for Redis is such a one.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import harness  # noqa: E402
import postgres  # noqa: E402
import redis_server  # noqa: E402
import wire  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

PAUSE = 0.3  # of a client between two requests, at random
MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n' + b"y" * 3000 + b"\r\n--x--\r\n"
)

# What is asked for: a path; (path, body, type) is posted; "!" in front: the client goes before the end of the answer.
GUESTBOOK = [
    "/", "/hello/", "/async/", "/entries/", "/async/entries/", "/async/entries/?add=somebody", "/async/slow/?s=0.05", "/cookies/", "/session/",
    "/stream/?n=20", "/async/stream/?n=5&delay=0.01", "/file/", "/large/?size=300000", "/admin/login/", "/nowhere/", "!/async/endless/",
    "!/async/long/", ("/upload/", MULTIPART, "multipart/form-data; boundary=x"), ("/body/", b"z" * 200_000, "application/octet-stream"),
]  # fmt: skip
SHOP = ["/plain/", "/aplain/", "/query/", "/query5/", "/aquery/", "/slow/?s=0.02", "/write/?id=1", "/count/?of=a",
    "/atomic/?id=2", "/aatomic/?id=3", "/hop/", "/ahop/", "!/slow/?s=0.2"]
FASTAPI = [
    "/", "/sync", "/me", "/items/1", "/stream?n=5&delay=0.01", "/stream-sync", "/large?size=300000", "/openapi.json", "/docs", "/static/style.css",
    "!/endless", ("/items/1", json.dumps({"name": "a", "price": 1.5}).encode(), "application/json"), ("/body", b"z" * 200_000, "text/plain"),
    ("/upload", MULTIPART, "multipart/form-data; boundary=x"), ("/upload-sync", MULTIPART, "multipart/form-data; boundary=x"),
]  # fmt: skip
STARLETTE = [
    "/", "/cookies", "/stream?n=5&delay=0.01", "/large?size=300000", "/file", "/threaded", "/static/style.css", "/nowhere", "!/endless",
    "!/wait-disconnect", ("/upload", MULTIPART, "multipart/form-data; boundary=x"), ("/body", b"z" * 200_000, "text/plain"),
]  # fmt: skip
CHANNELS = ["/me/", "/login/", ("/tell/lobby/", b"from a view", "text/plain")]


class Clients:
    """Threads that ask a server until they are told to end."""

    def __init__(self, server, asked, n, rooms=()):
        self.server, self.asked, self.rooms = server, asked, rooms
        self.requests, self.failures, self.is_over = 0, [], threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(self._ask,)) for _ in range(n)]
        self.threads += [threading.Thread(target=self._run, args=(self._chat,)) for _ in rooms]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join(60)

    def _run(self, act):
        while not self.is_over.is_set():
            try:
                act()
            except (wire.Closed, ConnectionClosed):
                continue
            except Exception as e:
                self.failures.append(e)
                return

    def _ask(self):
        with self.server.connect() as c:
            for _ in range(20):
                if self.is_over.wait(random.random() * PAUSE):
                    return
                one = random.choice(self.asked)
                self.requests += 1
                if isinstance(one, tuple):
                    path, body, kind = one
                    answer = c.request("POST", path, [("Content-Type", kind)], body)
                elif one.startswith("!"):
                    c.send(f"GET {one[1:]} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    self.is_over.wait(random.random() * 0.2)
                    return
                else:
                    answer = c.get(one)
                assert answer.status < 500, f"{one}: {answer}"

    def _chat(self):
        room = random.choice(self.rooms)
        with connect(f"ws://127.0.0.1:{self.server.port}{room}", origin=self.server.base) as c:
            for _ in range(20):
                if self.is_over.wait(random.random() * PAUSE):
                    return
                c.send(json.dumps("hello"))
                with contextlib.suppress(TimeoutError):
                    c.recv(1)


def manage(project, env, *command):
    subprocess.run([sys.executable, *command], cwd=project, env=harness.environment(env), check=True, capture_output=True)


def scenario(io, seconds=600, clients=3):
    with tempfile.TemporaryDirectory(prefix="ringcorn-quiet-") as folder, contextlib.ExitStack() as stack:
        pg, redis = stack.enter_context(postgres.Postgres()), stack.enter_context(redis_server.Redis())
        events, imports = Path(folder, "events"), Path(folder, "events.imports")
        events.touch()
        imports.touch()
        settings = {"DJANGO_SETTINGS_MODULE": "project.settings", "PYTHONPATH": None, "QUIET_EVENTS": events}
        guestbook = {**settings, "GUESTBOOK_DATA": folder}
        shop = {**settings, "PG_PORT": pg.port, "PG_APP": "quiet", "PG_MAX_AGE": "600"}
        chat = {**settings, "CHAT_DATA": folder, "CHAT_REDIS": redis.url}
        manage(harness.APPS / "django_project", guestbook, "manage.py", "migrate", "--verbosity", "0")
        manage(harness.APPS / "channels_project", chat, "manage.py", "migrate", "--verbosity", "0")
        manage(harness.APPS / "pg_project", shop, "tables.py")
        served = [
            ("project.asgi:application", harness.APPS / "django_project", guestbook, GUESTBOOK, ()),
            ("project.asgi:application", harness.APPS / "pg_project", shop, SHOP, ()),
            ("fastapi_app:app", harness.APPS, settings, FASTAPI, ()),
            ("starlette_app:app", harness.APPS, settings, STARLETTE, ()),
            ("project.asgi:application", harness.APPS / "channels_project", chat, CHANNELS, ["/rooms/lobby/", "/sync-rooms/lobby/"]),
        ]
        running = []
        try:
            for app, app_dir, env, asked, rooms in served:
                server = harness.Server(app, "--import-first", "quiet_events", "--python-path", HERE, io=io, app_dir=app_dir, cwd=folder, env=env)
                running.append((server, Clients(server, asked, clients, rooms)))
            until = time.monotonic() + seconds
            while time.monotonic() < until and not events.stat().st_size and not any(c.failures for _, c in running):
                time.sleep(0.5)
        finally:
            for _, one in running:
                one.stop()
            reports = [(server.stop(), server.report, server.kill()) for server, _ in running]
        alarms = events.read_text()
        assert not alarms, alarms
        for (_, one), (code, report, _) in zip(running, reports):
            assert not one.failures, f"{one.failures[0]!r}\n{report}"
            assert code == 0, report
        return {"seconds": seconds, "requests": sum(one.requests for _, one in running), "imports": imports.stat().st_size}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="in all")
    parser.add_argument("--io", default="io_uring,epoll", help="I/O backends, one after the other")
    args = parser.parse_args()
    refused = harness.io_uring_refused()
    backends = [io for io in args.io.split(",") if io != "io_uring" or not refused]
    failed = 0
    for io in backends:
        try:
            print(f"passed  quiet {io}  {json.dumps(scenario(io, seconds=60 * args.minutes / len(backends)))}", flush=True)
        except AssertionError as e:
            failed += 1
            print(f"FAILED  quiet {io}\n{e}", flush=True)
    print(f"{len(backends) - failed} passed, {failed} failed")
    return 1 if failed or not backends else 0


if __name__ == "__main__":
    sys.exit(main())
