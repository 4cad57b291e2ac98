"""GraphQL over HTTP and subscriptions over a WebSocket (graphql-transport-ws): Strawberry, and the client gql."""

import asyncio
import contextlib

import pytest
from gql import Client, gql
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportQueryError
from gql.transport.websockets import WebsocketsTransport
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE = 20


@contextlib.asynccontextmanager
async def clients(s):
    """One over a WebSocket, one over HTTP."""
    ws = WebsocketsTransport(f"ws://127.0.0.1:{s.port}/graphql", subprotocols=[WebsocketsTransport.GRAPHQLWS_SUBPROTOCOL])
    async with Client(transport=ws) as over_ws, Client(transport=AIOHTTPTransport(f"{s.base}/graphql")) as over_http:
        yield over_ws, over_http


async def count(ws, to):
    """Until the server says that it is complete. (execute() leaves before that; Strawberry then logs that it could not say so.)"""
    return [result["count"] async for result in ws.subscribe(gql(f"subscription {{ count(to: {to}) }}"))]


@pytest.fixture
def s(server):
    return server("ws_strawberry:app", shared=True)


def run(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, 60))


def test_subscriptions_share_a_websocket(s):
    async def main():
        async with clients(s) as (ws, http):
            assert await asyncio.gather(*(count(ws, n) for n in range(20))) == [list(range(n)) for n in range(20)]
            assert (await http.execute(gql('{ subscribers(room: "none") }')))["subscribers"] == 0

    run(main())


def test_what_a_mutation_says_reaches_subscribers(s):
    async def main():
        async with clients(s) as (ws, http):

            async def subscribers(room, n):
                while (await http.execute(gql(f'{{ subscribers(room: "{room}") }}')))["subscribers"] != n:
                    await asyncio.sleep(0.02)

            said = ws.subscribe(gql('subscription { said(room: "a") }'))
            first = asyncio.create_task(anext(said))
            await subscribers("a", 1)
            for text in ("hällo", "x" * 100_000):
                assert (await http.execute(gql(f'mutation {{ say(room: "a", text: "{text}") }}')))["say"] == 1
            assert await first == {"said": "hällo"} and await anext(said) == {"said": "x" * 100_000}
            # The client completes its subscription, and the WebSocket goes on.
            await said.aclose()
            await subscribers("a", 0)
            assert await count(ws, 3) == [0, 1, 2]

    run(main())


def test_a_subscription_that_fails(s):
    async def main():
        async with clients(s) as (ws, _):
            got = []
            with pytest.raises(TransportQueryError, match="after the first"):
                async for result in ws.subscribe(gql("subscription { fails }")):
                    got.append(result["fails"])
            assert got == [1]
            assert await count(ws, 3) == [0, 1, 2]

    s.expect_errors("")  # Strawberry logs it
    run(main())


@pytest.mark.parametrize(
    "message, code, reason",
    [('{"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }"}}', 4401, "Unauthorized"), ("no JSON", 4400, None)],
)
def test_the_protocols_own_close_codes(s, message, code, reason):
    with connect(f"ws://127.0.0.1:{s.port}/graphql", subprotocols=["graphql-transport-ws"]) as c:
        assert c.subprotocol == "graphql-transport-ws"
        c.send(message)
        with pytest.raises(ConnectionClosed) as e:
            c.recv(PATIENCE)
        assert e.value.rcvd.code == code and reason in (None, e.value.rcvd.reason)


def test_another_subprotocol_is_refused(s):
    with connect(f"ws://127.0.0.1:{s.port}/graphql", subprotocols=["graphql-ws"]) as c:
        with pytest.raises(ConnectionClosed) as e:
            c.recv(PATIENCE)
        assert (e.value.rcvd.code, e.value.rcvd.reason) == (4406, "Subprotocol not acceptable")
