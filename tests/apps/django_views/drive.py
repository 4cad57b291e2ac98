"""Serves requests in this process, without a server: the reference that a server's answers are compared with.

    drive.py TABLE      prints JSON, one [status, headers, body, trace] for each request of the table

With DRIVE=handler in the environment by the handler of Ringcorn outside its server, with DRIVE=pool on its loop and threads."""

import asyncio
import base64
import importlib
import json
import os
import sys
from urllib.parse import unquote_to_bytes

import requests_table


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


async def ask(app, request, enter):
    method, target, headers, body = request
    told, over = False, asyncio.Event()
    status, head, content = None, [], []

    async def receive():
        nonlocal told
        if not told:
            told = True
            return {"type": "http.request", "body": body, "more_body": False}
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        nonlocal status, head
        if message["type"] == "http.response.start":
            status, head = message["status"], message["headers"]
        else:
            content.append(message.get("body", b""))

    def serve():
        leave = enter(f"{method} {target}")
        task = asyncio.get_running_loop().create_task(app(scope_of(method, target, headers, body), receive, send))
        task.add_done_callback(leave)
        return task

    import contextvars

    task = contextvars.copy_context().run(serve)
    try:
        await asyncio.wait_for(task, 20)
    except Exception as e:
        status = f"{type(e).__name__}: {e}"
    over.set()
    return [status, sorted([k.decode().lower(), v.decode("latin1")] for k, v in head), base64.b64encode(b"".join(content)).decode()]


async def main(table):
    from views_project import asgi, trace

    app = asgi.application

    def enter(label):
        return lambda task: None

    pool = None
    if os.environ.get("DRIVE"):
        from ringcorn import django

    if os.environ.get("DRIVE") == "handler":
        from ringcorn.django.handler import Handler
        from ringcorn.django.plan import Plan

        asgi.django_application._plan = Plan(asgi.django_application, None)
        asgi.django_application.__class__ = Handler
    elif os.environ.get("DRIVE") == "pool":
        import _ringcorn
        from ringcorn import asgiref_threads

        loop = asyncio.get_running_loop()
        executor = _ringcorn.Pool(loop, 4, "executor")
        loop._set_pools(executor)
        pool = _ringcorn.Pool(loop, 4, "sync")
        await asgiref_threads.install(app, loop, pool)
        options = {"django_one_hop": "auto", "django_start_hop": os.environ.get("DRIVE_START", "move"), "django_conn_max_age": "inherit", "sync_park_close_db": None}
        django.install(app, loop, pool, options)

        def enter(label):
            lease = pool.lease(label)
            for variable in pool.context_vars:
                variable.set(lease)
            return lambda task: lease.close()

    answers = []
    for request in getattr(requests_table, table):
        trace.take()
        answer = await ask(app, request, enter)
        await asyncio.sleep(0)
        if pool is not None:  # what closes the request may still run
            for _ in range(1000):
                if not pool.leased and not pool.queued:
                    break
                await asyncio.sleep(0.001)
        answers.append([*answer, trace.take()])
    if pool is not None:
        pool.stop(1.0)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    if os.environ.get("DRIVE") == "pool":
        new_loop = importlib.import_module("ringcorn.loop").new_event_loop
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main(sys.argv[1]))
    else:
        asyncio.run(main(sys.argv[1]))
