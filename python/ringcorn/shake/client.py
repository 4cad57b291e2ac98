"""A client in the process of the application: its requests are answered on the loop of the test, by an ASGI application.

What the application sees is what the server would show it. Each request is a group of its own: between its steps and those of others there is no order
but the seed's."""

import asyncio
import contextvars
import json as json_module
from urllib.parse import quote, unquote, urlencode

from .awaits import pause, step
from .loop import ShakeLoop
from .seed import DROPS, IO

PIECES_MAX = 3  # of a body
DROP_STEPS = 24  # a client that leaves does so at one of so many places
DROP_SECONDS = 2.0
CLIENT = ("127.0.0.1", 50000)


class Dropped(ConnectionError):
    """There is no answer: the client has left, or the request was cancelled."""


class ClientDisconnected(ConnectionResetError):
    """What the application's send() raises once its client has gone, as it does in the server."""


class Response:
    """Of a request: ``status``, ``headers`` (pairs of str, names in lower case), ``body``."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
        self.body = body

    def header(self, name, default=None):
        return next((value for each, value in self.headers if each == name.lower()), default)

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        return json_module.loads(self.body)

    def __repr__(self):
        return f"<Response {self.status} {self.body[:80]!r}>"


class Client:
    """Requests to *app*, in a test that ringcorn.shake runs. ``async with`` runs the application's lifespan, and at its end waits for its requests.

    drops    whether clients leave, and the server cancels requests, as the seed has it: requests then may raise Dropped. What is
             cancelled by the server (timeouts.request, the end of a drain) and what a crash leaves behind look alike to the data.
    headers  of every request: a dict
    """

    def __init__(self, app, *, drops=False, headers=None):
        self.app, self.drops, self.headers = app, drops, dict(headers or {})
        self.state = {}
        self._tasks = set()
        self._lifespan = None

    # --- life

    async def __aenter__(self):
        self._lifespan = _Lifespan(self.app, self.state)
        await self._lifespan.startup()
        return self

    async def __aexit__(self, *exc_info):
        try:
            await self.wait()
        finally:
            await self._lifespan.shutdown()

    async def wait(self):
        """Until the application has done with each request: also with what it does behind the answer."""
        while self._tasks:
            await asyncio.wait(self._tasks)
            await step()

    # --- requests

    async def request(self, method, path, *, params=None, headers=None, body=b"", json=None, data=None, drops=None):
        """The Response. *json* and *data* (a dict of fields) are ways to say *body*. An exception of the application's is raised."""
        headers = {name.lower(): str(value) for name, value in {**self.headers, **(headers or {})}.items()}
        if json is not None:
            body = json_module.dumps(json).encode()
            headers.setdefault("content-type", "application/json")
        elif data is not None:
            body = urlencode(data).encode()
            headers.setdefault("content-type", "application/x-www-form-urlencoded")
        headers.setdefault("host", "testserver")
        if body:
            headers["content-length"] = str(len(body))
        path, _, query = path.partition("?")
        if params:
            query = urlencode(params)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": quote(path, safe="/%:@!$&'()*+,;=~").encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "client": CLIENT,
            "server": ("testserver", 80),
            "state": dict(self.state),
            "extensions": {},
        }
        loop = asyncio.get_running_loop()
        if not isinstance(loop, ShakeLoop):
            raise RuntimeError("ringcorn.shake.Client is for tests that ringcorn.shake runs: shake.run(), shake.search(), or the marker ringcorn_shake")
        exchange = _Exchange(loop, body)
        context = loop.new_group(self._lifespan.context if self._lifespan is not None else None)
        exchange.task = loop.create_task(exchange.serve(self.app, scope), name=f"{method} {scope['path']}", context=context)
        exchange.task.add_done_callback(exchange.ended)
        self._follow(exchange.task)
        if (self.drops if drops is None else drops) and loop._shake_draw(DROPS, 0):
            self._follow(loop.create_task(exchange.drop(), name="a client that leaves", context=loop.new_group()))
        try:
            return await exchange.answer
        except asyncio.CancelledError:
            exchange.leave()  # a client that is cancelled has gone
            raise

    def _follow(self, task):
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def get(self, path, **kwargs):
        return await self.request("GET", path, **kwargs)

    async def post(self, path, **kwargs):
        return await self.request("POST", path, **kwargs)

    async def put(self, path, **kwargs):
        return await self.request("PUT", path, **kwargs)

    async def patch(self, path, **kwargs):
        return await self.request("PATCH", path, **kwargs)

    async def delete(self, path, **kwargs):
        return await self.request("DELETE", path, **kwargs)


class _Exchange:
    """A request and its answer."""

    def __init__(self, loop, body):
        self.loop = loop
        self.pieces = _pieces(loop, body)
        self.answer = loop.create_future()
        self.over = asyncio.Event()  # the answer is complete, or the client has gone
        self.is_gone = False
        self.start = None
        self.body = []
        self.task = None

    async def serve(self, app, scope):
        """The task of the request."""
        try:
            await app(scope, self.receive, self.send)
            if not self.answer.done():
                raise RuntimeError(f"the application returned before {scope['method']} {scope['path']} was answered")
        except Exception as e:
            if not self._fail(e) and not self.is_gone:
                raise  # after its answer: nobody but the loop hears of it

    def ended(self, task):
        """So has the task, perhaps before it began."""
        self.over.set()
        if task.cancelled():
            self._fail(Dropped("the request was cancelled"))

    def _fail(self, error):
        """Whether anybody still waits for the answer."""
        if self.answer.done():
            return False
        self.answer.set_exception(error)
        return True

    async def receive(self):
        await pause(self.loop)
        if self.pieces:
            piece = self.pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        kind = message["type"]
        if self.is_gone:
            raise ClientDisconnected("the client has gone")
        if self.over.is_set():
            raise RuntimeError(f"unexpected ASGI message {kind!r}: the response is already complete")
        if kind == "http.response.start":
            if self.start is not None:
                raise RuntimeError(f"unexpected ASGI message {kind!r}: the response has already been started")
            self.start = message
        elif kind == "http.response.body":
            if self.start is None:
                raise RuntimeError(f"unexpected ASGI message {kind!r}: http.response.start must come first")
            self.body.append(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                self.over.set()
                if not self.answer.done():
                    self.answer.set_result(Response(self.start["status"], self.start.get("headers", ()), b"".join(self.body)))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}: it belongs to an extension that was not announced")
        await pause(self.loop)

    def leave(self):
        """The client goes."""
        if not self.over.is_set():
            self.is_gone = True
            self._fail(Dropped("the client has left"))
            self.over.set()

    async def drop(self):
        """A client that leaves, or a request that the server cancels, at a place that the seed says."""
        draw = self.loop._shake_draw
        is_cancelled, steps = draw(DROPS, 2), draw(DROPS, DROP_STEPS)
        if draw(DROPS, 2):
            await asyncio.sleep(draw(DROPS, 1000) / 1000 * DROP_SECONDS)
        for _ in range(steps):
            await step()
        if self.task.done():
            return
        if is_cancelled:
            self.task.cancel()
        else:
            self.leave()


def _pieces(loop, body):
    """Of a body, as it may arrive."""
    pieces = []
    if len(body) > 1 and loop._shake_draw(IO, 0):
        for _ in range(loop._shake_draw(IO, PIECES_MAX)):
            cut = 1 + loop._shake_draw(IO, len(body) - 1) if len(body) > 1 else 0
            if cut:
                pieces.append(body[:cut])
                body = body[cut:]
    return [*pieces, body]


class _Lifespan:
    """Start-up and shutdown of an application; one that does not know the protocol has none."""

    def __init__(self, app, state):
        self.app, self.state = app, state
        self.context = contextvars.copy_context()
        self.inbox = asyncio.Queue()
        self.task = None
        self.said = None

    async def startup(self):
        await self._ask("lifespan.startup")

    async def shutdown(self):
        if self.task is not None and not self.task.done():
            await self._ask("lifespan.shutdown")
            await asyncio.wait({self.task})

    async def _ask(self, kind):
        loop = asyncio.get_running_loop()
        self.said = loop.create_future()
        self.inbox.put_nowait({"type": kind})
        if self.task is None:
            self.task = loop.create_task(self._run(), name="lifespan", context=self.context)
        await asyncio.wait({self.said, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if self.said.done():
            self.said.result()
        elif not self.task.cancelled() and isinstance(self.task.exception(), asyncio.CancelledError):
            raise self.task.exception()

    async def _run(self):
        await self.app(
            {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}, self.inbox.get, self._send
        )

    async def _send(self, message):
        if not self.said.done():
            if message["type"].endswith(".failed"):
                self.said.set_exception(RuntimeError(message.get("message", "") or message["type"]))
            else:
                self.said.set_result(None)
