"""WebSockets with real clients (websockets, aiohttp) and real frameworks (Starlette, FastAPI, Channels)."""

import asyncio
import contextlib
import json
import random

import aiohttp
import pytest
import wire
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect


def url(s, path):
    return f"ws://127.0.0.1:{s.port}{path}"


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets_client(server, compression):
    s = server("ws:app", shared=True)
    with connect(url(s, "/echo?client"), compression=compression, max_size=None) as c:
        assert bool(c.protocol.extensions) == (compression is not None)
        for message in ("hällo", b"\0\xff", "", "x" * 100000, b"y" * 2000000, ["in ", "pieces"]):
            c.send(message)
            assert c.recv() == ("".join(message) if isinstance(message, list) else message)
        assert c.ping(b"p").wait(10)
    assert c.close_code == 1000
    assert "1000" in wire.eventually(lambda: json.loads(s.get("/events").body).get("client"), 10)


@pytest.mark.parametrize(
    "options",
    [
        ["--websocket-deflate-window-bits", "9", "--websocket-deflate-mem-level", "1", "--websocket-deflate-min-size", "0"],
        ["--websocket-deflate-window-bits", "15", "--websocket-deflate-mem-level", "9", "--websocket-deflate-level", "9"],
        ["--websocket-deflate-no-context-takeover"],
        ["--websocket-deflate-memory", "100KiB"],
    ],
    ids=lambda v: v[0][20:] + "".join(v[1:2]),
)
def test_compression_as_configured(server, options):
    """What does not compress, what does, in messages of many sizes; more clients than compressors may be had."""
    s = server("ws:app", *options)
    noise = random.Random(1)
    messages = [noise.randbytes(n) + b"again and again " * n for n in (0, 1, 10, 1000, 30000)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(url(s, "/echo"), compression="deflate", max_size=None)) for _ in range(4)]
        for message in messages * 2:
            for c in clients:
                c.send(message)
            for c in clients:
                assert c.recv() == message


def test_aiohttp_client(server):
    s = server("ws:app", shared=True)

    async def main():
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://127.0.0.1:{s.port}/echo?aiohttp", compress=15) as c:
                await c.send_str("hällo" * 1000)
                assert await c.receive_str() == "hällo" * 1000
                await c.send_bytes(b"x" * 300000)
                assert await c.receive_bytes() == b"x" * 300000
                await c.close(code=4000, message=b"done")
                assert c.close_code == 4000

    asyncio.run(main())
    assert json.loads(json.loads(s.get("/events").body)["aiohttp"]) == {"type": "websocket.disconnect", "code": 4000, "reason": "done"}


def test_fastapi(server):
    s = server("ws_frameworks:app")
    with connect(url(s, "/echo/anna"), subprotocols=["one", "two"]) as c:
        assert c.subprotocol == "one"
        c.send(json.dumps([1, 2]))
        assert json.loads(c.recv()) == {"you": [1, 2], "name": "anna"}
        c.send(b"abc")
        assert c.recv() == b"cba"
        c.close(4010, "went home")
    wire.eventually(lambda: json.loads(s.get("/ended").body) == {"anna": [4010, "went home"]}, 10)
    with connect(url(s, "/guarded?token=right")) as c:
        assert c.recv() == "right"
        with pytest.raises(ConnectionClosed) as e:
            c.recv()
        assert (e.value.rcvd.code, e.value.rcvd.reason) == (4002, "done")
    for path, status, body in [("/guarded", 403, None), ("/denied", 429, b"come later"), ("/nowhere", 403, None)]:
        with pytest.raises(InvalidStatus) as refused:
            connect(url(s, path))
        assert refused.value.response.status_code == status
        assert body is None or refused.value.response.body == body


def test_broadcast(server):
    s = server("ws_frameworks:app")

    async def main():
        clients = [await async_connect(url(s, "/room/a")) for _ in range(20)]
        for i, one in enumerate(clients):
            await one.send(str(i))
        for one in clients:  # the order is the same for all
            got = [await asyncio.wait_for(one.recv(), 20) for _ in clients]
            assert sorted(got, key=int) == [str(i) for i in range(len(clients))]
        for one in clients:
            await one.close()

    asyncio.run(main())


def test_channels_two_calls_of_a_message_share_thread_and_connection(server):
    s = server("ws_channels:application", "--threads", "4", "--sync-threads-max", "4")
    s.allow_descriptors(4)

    async def one(path, n):
        seen = []
        async with async_connect(url(s, path)) as c:
            for i in range(n):
                await c.send(str(i))
                seen.append(json.loads(await asyncio.wait_for(c.recv(), 30)))
        return seen

    async def main():
        return await asyncio.gather(*(one("/pair", 20) for _ in range(8)))

    pairs = [pair for seen in asyncio.run(main()) for pair in seen]
    assert len(pairs) == 160 and all(first == second for first, second in pairs)
    assert 1 < len({first[0] for first, _ in pairs}) <= 4
    assert len({first[1] for first, _ in pairs}) <= 4


def test_channels_eight_sync_consumers_run_side_by_side(server):
    s = server("ws_channels:application", "--threads", "8")

    async def one(i):
        async with async_connect(url(s, "/meeting")) as c:
            await c.send(str(i))
            return await asyncio.wait_for(c.recv(), 30)

    async def main():
        return await asyncio.gather(*(one(i) for i in range(8)))

    assert asyncio.run(main()) == [str(i) for i in range(8)]


def test_channels_groups_and_refusals(server):
    s = server("ws_channels:application")

    async def main():
        async with async_connect(url(s, "/group")) as a, async_connect(url(s, "/group")) as b:
            await a.send("hello")
            assert await asyncio.wait_for(a.recv(), 10) == await asyncio.wait_for(b.recv(), 10) == "hello"
        with pytest.raises(InvalidStatus) as refused:
            await async_connect(url(s, "/closed"))
        assert refused.value.response.status_code == 403

    asyncio.run(main())
