"""python-socketio with its own client: polling, the upgrade, rooms; rooms of two workers over a real Redis.

Engine.IO keeps a session in the memory of the worker that began it. A WebSocket stays where it is; the requests of polling, and the
upgrade, come on connections of their own, which the kernel gives to any worker. So polling is for one worker, and several serve
WebSockets alone (README, "Socket.IO")."""

import asyncio
import contextlib
import itertools

import pytest
import socketio

PATIENCE = 20
names = (f"room-{n}" for n in itertools.count())


class Client:
    """A client, and what it was told: event -> values."""

    def __init__(self):
        self.io = socketio.AsyncClient(reconnection=False)
        self.got = {name: asyncio.Queue() for name in ("greeting", "said", "left")}
        self.gone = asyncio.Event()
        self.io.on("disconnect", lambda reason: self.gone.set())
        for name, queue in self.got.items():
            self.io.on(name, queue.put_nowait)

    async def next(self, name):
        return await asyncio.wait_for(self.got[name].get(), PATIENCE)

    async def call(self, name, *args):
        return await self.io.call(name, args[0] if len(args) == 1 else args or None, timeout=PATIENCE)


@contextlib.asynccontextmanager
async def connected(s, transports=None, **auth):
    client = Client()
    await client.io.connect(s.base, transports=transports, auth=auth, wait_timeout=PATIENCE)
    try:
        yield client
    finally:
        if client.io.transport() == "polling" and client.io.connected:
            await client.io.emit("bye")
            await asyncio.wait_for(client.gone.wait(), PATIENCE)
        await client.io.disconnect()
        if client.io.eio.http is not None:
            await client.io.eio.http.close()


def run(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, 90))


@pytest.mark.parametrize("transports, ends_as", [(["polling"], "polling"), (["websocket"], "websocket"), (None, "websocket")])
def test_transports_and_the_upgrade(server, transports, ends_as):
    s = server("ws_socketio:app", shared=True)

    async def main():
        async with connected(s, transports, name="anna") as c:
            assert c.io.transport() == ends_as
            assert [await c.next("greeting") for _ in range(10)] == list(range(10))
            for value in ("hällo", {"a": [1, None, 2.5]}, b"\0\xff", {"in": [b"a", {"deep": b"b"}]}, "x" * 200_000):
                assert await c.call("echo", value) == value
            assert {**await c.call("who"), "pid": 0} == {"pid": 0, "transport": ends_as, "name": "anna"}
            # Polls wait at the server while others of the same client send.
            assert await asyncio.gather(*(c.call("echo", i) for i in range(12))) == list(range(12))

    run(main())


def test_rooms_and_leaving(server):
    s = server("ws_socketio:app", shared=True)

    async def main():
        async with connected(s, ["polling"], name="poll") as a, connected(s, ["websocket"], name="ws") as b, connected(s) as c:
            for one in (a, b):
                assert await one.call("join", "all") == ["all"]
            await c.call("say", "all", "to both")
            assert await a.next("said") == await b.next("said") == "to both"
            await a.call("leave", "all")
            await c.call("say", "all", "to one")
            assert await b.next("said") == "to one"
            await c.call("echo", "meanwhile")
            assert a.got["said"].empty() and c.got["said"].empty()
            async with connected(s, name="guest"):
                pass
            name, reason = await b.next("left")
            assert name == "guest" and reason in ("client disconnect", "transport close")  # whichever came first

    run(main())


def test_a_refused_connection(server):
    s = server("ws_socketio:app", shared=True)

    async def main():
        with pytest.raises(socketio.exceptions.ConnectionError):
            async with connected(s, ["websocket"], token="wrong"):
                pass

    run(main())


async def on_both_workers(s, stack, room):
    """Two clients in that room, which got different workers: that is the kernel's choice, so others come and go until it is made."""
    first = await stack.enter_async_context(connected(s, ["websocket"], name="first"))
    pid = (await first.call("who"))["pid"]
    while True:
        async with contextlib.AsyncExitStack() as own:
            other = await own.enter_async_context(connected(s, ["websocket"], name="other"))
            if (await other.call("who"))["pid"] != pid:
                await stack.enter_async_context(own.pop_all())
                break
        await asyncio.sleep(0.02)
    for client in (first, other):
        assert await client.call("join", room) == [room]
    return first, other


def test_rooms_of_two_workers_over_redis(server, redis_server):
    s = server("ws_socketio:app", "--workers", "2", env={"REDIS_URL": redis_server.url})
    s.wait_workers(2)
    s.allow_descriptors(40)  # the manager's pool has a connection to Redis for each emit() that runs at once
    room = next(names)

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            a, b = await on_both_workers(s, stack, room)
            for i in range(20):
                await a.call("say", room, ["from a", i])
                assert await b.next("said") == ["from a", i]
                await b.call("say", room, b"from b")
                assert await a.next("said") == b"from b"
            # A process that serves nobody, such as a Celery worker.
            outside = socketio.AsyncRedisManager(redis_server.url, write_only=True)
            await outside.emit("said", "from outside", room=room)
            assert await a.next("said") == await b.next("said") == "from outside"

    run(main())


def test_several_workers_refuse_polling(server, redis_server):
    s = server("ws_socketio:app", "--workers", "2", env={"REDIS_URL": redis_server.url})
    s.allow_descriptors(40)

    async def main():
        with pytest.raises(socketio.exceptions.ConnectionError):
            async with connected(s, ["polling"]):
                pass

    run(main())
    r = s.get("/socket.io/?EIO=4&transport=polling")
    assert r.status == 400 and b"Invalid transport" in r.body
