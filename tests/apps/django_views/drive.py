"""Serves requests in this process, without a server.

    drive.py TABLE      prints JSON, one [status, headers, body, trace] for each request of requests_table.TABLE

Without DRIVE in the environment it is Django's own handler that serves them: the reference that a server's answers are compared with. DRIVE=handler:
Ringcorn's in a plain loop, without threads of a server; DRIVE=pool: on a loop and threads of the extension; DRIVE=direct: handed to a
thread first, as a server does that has no task for them."""

import asyncio
import base64
import contextvars
import io
import json
import os
import sys
import threading
from urllib.parse import unquote_to_bytes

import requests_table

TIMEOUT = 20


def scope_of(method, target, headers, body):
    path, _, query = target.partition("?")
    pairs = [(b"host", b"testserver"), *((k.lower().encode(), v.encode()) for k, v in headers.items())]
    if body:
        pairs.append((b"content-length", str(len(body)).encode()))
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "query_string": query.encode(),
        "path": unquote_to_bytes(path).decode("utf-8", "replace"), "raw_path": path.encode(), "root_path": os.environ.get("VIEWS_ROOT_PATH", ""),
        "headers": pairs, "client": ("127.0.0.1", 1), "server": ("testserver", 80),
    }  # fmt: skip


class Exchange:
    """One request and its answer: receive() and send() for an ASGI application, the rest for a thread that has it (ringcorn/django/direct.py)."""

    def __init__(self, request):
        self.scope = scope_of(*request)
        self.body = io.BytesIO(request[3])
        self.is_told = False
        self.over = asyncio.Event()
        self.status, self.headers, self.content = None, [], []

    async def receive(self):
        if not self.is_told:
            self.is_told = True
            return {"type": "http.request", "body": self.body.getvalue(), "more_body": False}
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.start(message["status"], message["headers"])
        else:
            self.write(message.get("body", b""))

    def start(self, status, headers):
        self.status, self.headers = status, headers

    def write(self, data):
        self.content.append(data)

    def finish(self, data=b""):
        self.write(data)

    def result(self):
        headers = sorted([k.decode().lower(), v.decode("latin1")] for k, v in self.headers)
        return [self.status, headers, base64.b64encode(b"".join(self.content)).decode()]


class Driver:
    """Django's own, in any loop."""

    def __init__(self, app, handler):
        self.app = app
        self.handler = handler

    async def open(self):
        pass

    async def serve(self, exchange):
        await self.app(exchange.scope, exchange.receive, exchange.send)

    async def rest(self):
        """Until nothing of a request is left."""

    async def close(self):
        pass


class HandlerDriver(Driver):
    async def open(self):
        from ringcorn.django.handler import Handler
        from ringcorn.django.plan import Plan

        self.handler._plan = Plan(self.handler, None)
        self.handler.__class__ = Handler


class PoolDriver(Driver):
    async def open(self):
        import _ringcorn
        from ringcorn import asgiref_threads, django

        loop = asyncio.get_running_loop()
        self.executor = _ringcorn.Pool(loop, 4, "executor")
        loop._set_pools(self.executor)
        self.pool = _ringcorn.Pool(loop, 4, "sync")
        await asgiref_threads.install(self.app, loop, self.pool)
        options = {
            "django_one_hop": "auto", "django_start_hop": os.environ.get("DRIVE_START", "move"), "django_conn_max_age": "inherit",
            "sync_park_close_db": None,
        }  # fmt: skip
        django.install(self.app, loop, self.pool, options)

    async def serve(self, exchange):
        lease = self.pool.lease(exchange.scope["path"])
        for variable in self.pool.context_vars:
            variable.set(lease)
        try:
            await self.serve_leased(exchange, lease)
        finally:
            lease.close()

    async def serve_leased(self, exchange, lease):
        await self.app(exchange.scope, exchange.receive, exchange.send)

    async def rest(self):
        while self.pool.leased or self.pool.queued:
            await asyncio.sleep(0.001)

    async def close(self):
        await self.rest()
        for pool in (self.pool, self.executor):
            pool.stop(1.0)


class DirectDriver(PoolDriver):
    async def serve_leased(self, exchange, lease):
        if not hasattr(self.handler, "go_direct"):  # it was not understood
            return await super().serve_leased(exchange, lease)
        from ringcorn.django import direct

        run = contextvars.copy_context().run
        left = await lease.submit(run, direct.run, self.handler, self.handler._plan, asyncio.get_running_loop(), exchange)
        if left is direct.NOT_MINE:
            await super().serve_leased(exchange, lease)
        elif left is not None:
            exchange.is_told = True
            await left(exchange.receive, exchange.send)


DRIVERS = {"": Driver, "handler": HandlerDriver, "pool": PoolDriver, "direct": DirectDriver}


async def main(table):
    from views_project import asgi, trace

    trace.LOOP = threading.current_thread()
    driver = DRIVERS[os.environ.get("DRIVE", "")](asgi.application, asgi.django_application)
    await driver.open()
    answers = []
    for request in getattr(requests_table, table):
        trace.take()
        exchange = Exchange(request)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().create_task(driver.serve(exchange), context=contextvars.copy_context()), TIMEOUT)
        except Exception as e:
            exchange.status = f"{type(e).__name__}: {e}"
        exchange.over.set()
        await asyncio.wait_for(driver.rest(), TIMEOUT)
        answers.append([*exchange.result(), trace.take()])
    await driver.close()
    json.dump(answers, sys.stdout)


def new_loop():
    if os.environ.get("DRIVE") in ("pool", "direct"):
        from ringcorn.loop import new_event_loop

        return new_event_loop()
    return asyncio.new_event_loop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main(sys.argv[1]))
