"""What happens while a request is served, in order: (what, thread, context variable). Fetched from /_trace, which is no URL of Django's.

The thread is "loop", or the number of another."""

import contextvars
import json
import threading

value = contextvars.ContextVar("views_project.value", default="")  # each middleware adds its name
LOOP = None  # the loop's thread
_events = []


def note(what):
    thread = threading.current_thread()
    _events.append((what, "loop" if thread is LOOP else str(thread.ident), value.get()))


def add(name):
    value.set(f"{value.get()}/{name}")


def take():
    events = list(_events)
    _events.clear()
    return events


class Traced:
    """An ASGI middleware around Django's handler, as monitoring has them: it sees every message."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        global LOOP
        LOOP = threading.current_thread()
        if scope["type"] == "http" and scope["path"] == "/_trace":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": json.dumps(take()).encode()})
            return
        await self.app(scope, receive, send)


class Sentry:
    """Another, with a send() of its own, that looks at context variables when messages pass."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def wrapped(message):
            note(f"{message['type']} {message.get('status', '')}")
            await send(message)

        try:
            await self.app(scope, receive, wrapped)
        except Exception as e:
            note(f"app raised {type(e).__name__}: {e}")
            raise
