"""A chat bot beside a site: visitors post what they say, the bot answers each message once. Messages wait in a list in Redis, so none is lost while no bot
runs; the one in hand is in a second list until it is answered, so that whoever comes next begins with it.

    services:
      bot: {run: "bot:main"}
"""

import asyncio
import os

import redis.asyncio as redis
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

SAID, IN_HAND, ANSWERS, ALIVE, TWICE = (f"bot:{name}" for name in ("said", "in-hand", "answers", "alive", "twice"))
WAIT_SECONDS = 0.2


def connect():
    return redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


async def answer(db, text):
    """Both or neither: who is killed in between has not answered."""
    await asyncio.sleep(float(os.environ.get("BOT_THINKS", "0.002")))
    async with db.pipeline(transaction=True) as both:
        both.rpush(ANSWERS, f"{text}, {text}!")
        both.lrem(IN_HAND, 1, text)
        await both.execute()


async def main(service):
    async with connect() as db:
        # For the test alone: who else is alive? A process that was killed has not taken its name back, so a name counts while its process does.
        others = [pid for pid in await db.smembers(ALIVE) if os.path.exists(f"/proc/{pid}/stat") and int(pid) != os.getpid()]
        if others:
            await db.rpush(TWICE, f"{os.getpid()} beside {others}")
        await db.sadd(ALIVE, os.getpid())
        try:
            for text in await db.lrange(IN_HAND, 0, -1):
                await answer(db, text)
            service.ready()
            while not service.draining.is_set():
                text = await db.blmove(SAID, IN_HAND, WAIT_SECONDS)
                if text is not None:
                    await answer(db, text)
        finally:
            await db.srem(ALIVE, os.getpid())


async def say(request):
    async with connect() as db:
        await db.rpush(SAID, (await request.body()).decode())
    return PlainTextResponse("heard")


async def answers(request):
    async with connect() as db:
        return PlainTextResponse("\n".join(await db.lrange(ANSWERS, 0, -1)))


app = Starlette(routes=[Route("/say", say, methods=["POST"]), Route("/answers", answers)])
