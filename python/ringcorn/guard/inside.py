"""The guardrails in a process where no server is: tests that drive an application themselves, with httpx, Starlette's TestClient, asgiref's or
Channels' communicators, or Django's clients.

What these call is a request: it has a name, and an end at which transactions are looked at. Blocks are looked for by a thread of ours, on loops whose
handles are Python's (asyncio.events.Handle); that of the server has its own, in C.
"""

import asyncio
import contextlib
import functools
import importlib.util
import sys
import threading
import time

from .. import guard
from . import blocks, databases, lost, orm, sessions, unawaited

ORIGIN_DEPTH = unawaited.ORIGIN_DEPTH


def start(block_seconds, callback):
    """Once a process: from now on callback(event). *block_seconds*: None = blocks are not looked for."""
    guard.on(callback)
    unawaited.install(None)
    _watch_lost()
    if block_seconds is not None:
        _Watchdog(block_seconds).start()
    found = {}
    for table in (databases.LIBRARIES, orm.LIBRARIES, orm.REFUSALS, sessions.LIBRARIES, _DRIVERS):
        for name, fn in table.items():
            found.setdefault(name, []).append(fn)
    for name in [name for name in found if name in sys.modules]:
        guard.watch(name, found.pop(name))
    sys.meta_path.insert(0, _Finder(found))


def forget():
    """What the same line has done before is news again."""
    blocks.forget()
    guard.forget()


# --- modules that are not there yet


class _Finder:
    def __init__(self, wanted):
        self.wanted = wanted  # {name of a module: functions to be called after it was imported}

    def find_spec(self, name, path=None, target=None):
        fns = self.wanted.pop(name, None)
        if fns is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, fns)
        return spec


class _Loader:
    def __init__(self, loader, fns):
        self.loader = loader
        self.fns = fns

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        guard.watch(module.__name__, self.fns)


# --- what drives applications


@contextlib.contextmanager
def request(label):
    """What runs inside is a request of that name."""
    notes = databases.Notes(label, None)
    token, depth = guard.driven.set(notes), sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(max(depth, ORIGIN_DEPTH))
    try:
        yield
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)
        with contextlib.suppress(ValueError):  # its test left it behind, and the collector ends it, in another context
            guard.driven.reset(token)
        notes.tell(databases.current_task())


def drive(app):
    """*app*, each call of which is a request."""

    @functools.wraps(app, updated=())
    async def driven(scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await app(scope, receive, send)
        with request(f"{'WS' if scope['type'] == 'websocket' else scope['method']} {scope['path']}"):
            await app(scope, receive, send)

    return driven


def _drives(cls, attribute):
    """Objects of *cls* have an application there once they are made."""
    stock = cls.__init__

    @functools.wraps(stock)
    def init(self, *args, **kwargs):
        stock(self, *args, **kwargs)
        setattr(self, attribute, drive(getattr(self, attribute)))

    cls.__init__ = init


def _watch_httpx():
    _drives(sys.modules["httpx._transports.asgi"].ASGITransport, "app")


def _watch_starlette():
    _drives(sys.modules["starlette.testclient"]._TestClientTransport, "app")


def _watch_asgiref():
    _drives(sys.modules["asgiref.testing"].ApplicationCommunicator, "application")


def _watch_django():
    from django.core.signals import request_started

    module = sys.modules["django.test.client"]
    request_started.connect(orm.on_started, weak=False, dispatch_uid="ringcorn.guard")
    sync_call, async_call = module.ClientHandler.__call__, module.AsyncClientHandler.__call__

    @functools.wraps(sync_call)
    def call(self, environ):
        with request(f"{environ.get('REQUEST_METHOD')} {environ.get('PATH_INFO')}"):
            return sync_call(self, environ)

    @functools.wraps(async_call)
    async def call_async(self, scope):
        with request(f"{scope['method']} {scope['path']}"):
            return await async_call(self, scope)

    module.ClientHandler.__call__, module.AsyncClientHandler.__call__ = call, call_async


_DRIVERS = {
    "httpx._transports.asgi": _watch_httpx,
    "starlette.testclient": _watch_starlette,
    "asgiref.testing": _watch_asgiref,
    "django.test.client": _watch_django,
}


# --- lost exceptions


def _watch_lost():
    stock = asyncio.BaseEventLoop.call_exception_handler

    @functools.wraps(stock)
    def call_exception_handler(self, context):
        if not lost.tell(context) or self.get_exception_handler() is not None:
            stock(self, context)

    asyncio.BaseEventLoop.call_exception_handler = call_exception_handler


# --- blocked loops


class _Step:
    """A callback that a loop runs."""

    __slots__ = ("handle", "since", "starved", "is_told")

    def __init__(self, handle):
        self.handle = handle
        self.since = time.monotonic()
        self.starved = None  # seconds that its thread had no CPU, when it was first looked at
        self.is_told = False


class _Watchdog(threading.Thread):
    def __init__(self, seconds):
        super().__init__(name="ringcorn-guard", daemon=True)
        self.seconds = seconds
        self.steps = steps = {}  # ident of a loop's thread: _Step
        stock = asyncio.events.Handle._run

        @functools.wraps(stock)
        def _run(handle):
            ident = threading.get_ident()
            steps[ident] = step = _Step(handle)
            try:
                stock(handle)
            finally:
                steps.pop(ident, None)
                if step.is_told:
                    blocks.over(time.monotonic() - step.since)
                # As asyncio does it: the frames behind a task's exception would keep the task, and nobody would be told that it is lost.
                handle = step = None

        asyncio.events.Handle._run = _run

    def run(self):
        while True:
            time.sleep(self.seconds / 5)
            self.look_at_all()

    def look_at_all(self):
        """In a frame of its own: nothing keeps the last step, and with it a task, while the thread sleeps."""
        for ident, step in list(self.steps.items()):
            if not step.is_told:
                self.look(ident, step)

    def look(self, ident, step):
        starved = _starved(ident)
        if step.starved is None:
            step.starved = starved
        held = time.monotonic() - step.since - (starved - step.starved)
        context = step.handle._context
        if held < self.seconds or guard.whose(context)[0] is None:
            return
        frame, places = sys._current_frames().get(ident), []
        while frame is not None:
            places.append((frame.f_code, frame.f_lineno, frame.f_lasti))
            frame = frame.f_back
        if self.steps.get(ident) is step:  # else it has ended meanwhile
            step.is_told = blocks.blocked(held, 0, (places, context, ident), None, None, False)


def _starved(ident):
    """For how long, in all, the thread was ready to run and another had the CPU: seconds."""
    try:
        with open(f"/proc/self/task/{threading._active[ident].native_id}/schedstat") as f:
            return int(f.read().split()[1]) / 1e9
    except (OSError, KeyError, IndexError):
        return 0.0
