"""GraphQL subscriptions by Strawberry's own ASGI application: a count, one that fails, messages that a mutation sends."""

import asyncio
from collections.abc import AsyncGenerator

import strawberry
from strawberry.asgi import GraphQL
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

SUBSCRIBERS = {}  # room -> queues


@strawberry.type
class Query:
    @strawberry.field
    def subscribers(self, room: str) -> int:
        return len(SUBSCRIBERS.get(room, ()))


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def say(self, room: str, text: str) -> int:
        queues = SUBSCRIBERS.get(room, ())
        for queue in queues:
            queue.put_nowait(text)
        return len(queues)


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncGenerator[int, None]:
        for i in range(to):
            yield i
            await asyncio.sleep(0)

    @strawberry.subscription
    async def fails(self) -> AsyncGenerator[int, None]:
        yield 1
        raise ValueError("after the first")

    @strawberry.subscription
    async def said(self, room: str) -> AsyncGenerator[str, None]:
        queues = SUBSCRIBERS.setdefault(room, set())
        queue = asyncio.Queue()
        queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)


schema = strawberry.Schema(Query, Mutation, Subscription)
app = GraphQL(schema, subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL])
