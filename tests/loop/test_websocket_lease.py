"""How long a thread belongs to a WebSocket, with Channels' consumers and its communicator on our loop."""

import asyncio
import importlib
import sys
import threading
import time
import types

import django
import pytest
from django.conf import settings

if not settings.configured:
    settings.configure()
    django.setup()

import _ringcorn
import channels
from asgiref.sync import SyncToAsync, sync_to_async
from channels.consumer import SyncConsumer
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import InMemoryChannelLayer, channel_layers
from ringcorn import asgiref_threads, websocket_lease

# channels.testing as a whole wants daphne, its communicator does not.
testing = types.ModuleType("channels.testing")
testing.__path__ = [channels.__path__[0] + "/testing"]
sys.modules.setdefault("channels.testing", testing)
WebsocketCommunicator = importlib.import_module("channels.testing.websocket").WebsocketCommunicator

THREADS = 8
SyncToAsync.single_thread_executor.submit(int).result()  # stock's thread stays for ever: it is there before the tests count


@pytest.fixture
def pool(loop):
    """A pool that asgiref is led to; everything is undone afterwards."""
    stock = SyncToAsync.context_to_thread_executor
    made = _ringcorn.Pool(loop, THREADS, "ringcorn-sync", threads_max=16)
    loop.run_until_complete(asgiref_threads.install(None, loop, made))
    assert made.context_vars == (SyncToAsync.thread_sensitive_context,)
    yield made
    loop.run_until_complete(until(lambda: (made.leased, made.parked, made.queued) == (0, 0, 0)))
    SyncToAsync.context_to_thread_executor = stock
    made.blocking_code, made.context_vars = (), ()
    made.on_thread_start = made.on_acquire = None
    assert made.stop(5) == []


def thread_name():
    return threading.current_thread().name


def wrapped(app, pool, mode):
    inner = websocket_lease.wrap(app.as_asgi() if hasattr(app, "as_asgi") else app, pool, mode)

    async def single(scope, receive, send):  # Channels' communicator takes only a coroutine function for an ASGI 3 application
        await inner(scope, receive, send)

    return single


async def until(condition):
    """Lets the loop turn until it is so."""
    end = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0)


class Two(AsyncWebsocketConsumer):
    """Two calls for each message, with something else in between."""

    async def receive(self, text_data=None, bytes_data=None):
        first = await database_sync_to_async(thread_name)()
        await asyncio.sleep(0.01)
        second = await database_sync_to_async(thread_name)()
        await self.send(f"{first} {second}")

    async def group_message(self, event):
        await self.receive()


async def talk(app, n=1):
    """Opens a connection; its answers to n messages."""
    client = WebsocketCommunicator(app, "/ws")
    assert (await client.connect(5))[0]
    answers = []
    for _ in range(n):
        await client.send_to(text_data="x")
        answers.append((await client.receive_from(5)).split())
    return client, answers


@pytest.mark.parametrize("mode", ["message", "connection"])
def test_two_calls_of_a_message_share_a_thread(pool, run, mode):
    async def main():
        clients = await asyncio.gather(*(talk(wrapped(Two, pool, mode), 3) for _ in range(THREADS)))
        for client, answers in clients:
            assert all(first == second and first.startswith("ringcorn-sync") for first, second in answers)
            if mode == "connection":
                assert len({first for first, _ in answers}) == 1
            await client.disconnect(timeout=5)

    run(main)


def test_thread_is_free_between_messages(pool, run):
    """Far more silent connections than threads."""

    async def main():
        app = wrapped(Two, pool, "message")
        clients = [(await talk(app))[0] for _ in range(40)]
        await until(lambda: pool.leased == 0)
        assert pool.peak <= THREADS
        for client in clients:
            await client.disconnect(timeout=5)

    run(main)


def test_thread_stays_for_the_connection(pool, run):
    async def main():
        client, _ = await talk(wrapped(Two, pool, "connection"))
        await asyncio.sleep(0.05)
        assert pool.leased == 1
        await client.disconnect(timeout=5)

    run(main)


def test_thread_of_a_call_is_free_after_it(pool, run):
    async def main():
        seen = []

        async def app(scope, receive, send):
            assert (await receive())["type"] == "websocket.connect"
            seen.append(await sync_to_async(thread_name)())
            await until(lambda: pool.leased == 0)  # in the middle of the message
            seen.append(await sync_to_async(thread_name)())
            await send({"type": "websocket.accept"})
            await receive()

        client = WebsocketCommunicator(wrapped(app, pool, "call"), "/ws")
        assert (await client.connect(5))[0]
        assert all(name.startswith("ringcorn-sync") for name in seen)
        await client.disconnect(timeout=5)

    run(main)


def test_thread_stays_while_it_is_not_clean(pool, run):
    """An open transaction is seen by the next message."""
    clean = False
    pool.may_release = lambda: clean

    async def main():
        nonlocal clean
        client, [[first, _]] = await talk(wrapped(Two, pool, "message"))
        await asyncio.sleep(0.05)
        assert pool.leased == 1
        await client.send_to(text_data="x")
        assert set((await client.receive_from(5)).split()) == {first}
        clean = True
        await client.send_to(text_data="x")
        await client.receive_from(5)
        await until(lambda: pool.leased == 0)
        await client.disconnect(timeout=5)

    run(main)
    pool.may_release = None


def test_message_of_a_channel_layer(pool, run):
    """receive() waits all the while, so it cannot say when such a message is done."""

    async def main():
        layer, names = InMemoryChannelLayer(), []
        channel_layers.set("default", layer)

        class Named(Two):
            async def connect(self):
                names.append(self.channel_name)
                await self.accept()

        client = WebsocketCommunicator(wrapped(Named, pool, "message"), "/ws")
        assert (await client.connect(5))[0]
        await until(lambda: pool.leased == 0)
        for _ in range(3):
            await layer.send(names[0], {"type": "group.message"})
            assert all(name.startswith("ringcorn-sync") for name in (await client.receive_from(5)).split())
            await until(lambda: pool.leased == 0)
        await client.disconnect(timeout=5)
        channel_layers.set("default", None)

    run(main)


def test_synchronous_consumers_run_side_by_side(pool, run):
    """On stock, every consumer of the process shares one thread."""
    together = threading.Barrier(THREADS)

    class Meets(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            together.wait(10)
            self.send(thread_name())

    async def main():
        clients = await asyncio.gather(*(talk(wrapped(Meets, pool, "message")) for _ in range(THREADS)))
        assert len({answers[0][0] for _, answers in clients}) == THREADS
        for client, _ in clients:
            await client.disconnect(timeout=5)

    run(main)


@pytest.mark.alone
def test_faster_than_stock(pool, run):
    class Slow(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            time.sleep(0.1)
            self.send("done")

    async def seconds(app):
        begin = time.monotonic()
        clients = await asyncio.gather(*(talk(app, 2) for _ in range(THREADS)))
        took = time.monotonic() - begin
        for client, _ in clients:
            await client.disconnect(timeout=5)
        return took

    async def main():
        ours = await seconds(wrapped(Slow, pool, "message"))
        stock = await seconds(Slow.as_asgi())
        assert ours * 3 < stock, (ours, stock)

    run(main)


def test_consumer_that_sends_from_its_thread(pool, run):
    """SyncConsumer.send() is async_to_sync(): on our loop, from a leased thread, while the lease's job waits for it."""

    class Echo(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            for i in range(5):
                self.send(f"{text_data} {i}")

    async def main():
        client = WebsocketCommunicator(wrapped(Echo, pool, "message"), "/ws")
        assert (await client.connect(5))[0]
        await client.send_to(text_data="a")
        assert [await client.receive_from(5) for _ in range(5)] == [f"a {i}" for i in range(5)]
        await client.disconnect(timeout=5)

    run(main)


def test_exception_of_a_consumer_gives_the_thread_back(pool, run):
    class Fails(SyncConsumer):
        def websocket_connect(self, message):
            raise KeyError("consumer")

    async def main():
        client = WebsocketCommunicator(wrapped(Fails, pool, "message"), "/ws")
        with pytest.raises(KeyError, match="consumer"):
            await client.connect(1)
        await until(lambda: pool.leased == 0)

    run(main)


def test_context_is_as_it_was(pool, run):
    seen = []

    async def app(scope, receive, send):
        seen.append(SyncToAsync.thread_sensitive_context.get(None))

    async def main():
        await wrapped(app, pool, "message")({"type": "websocket"}, None, None)
        assert SyncToAsync.thread_sensitive_context.get(None) is None
        pool.context_vars = ()  # asgiref was not understood: as on stock
        await wrapped(app, pool, "message")({"type": "websocket"}, None, None)

    run(main)
    assert seen[0] is not None and seen[1] is None
