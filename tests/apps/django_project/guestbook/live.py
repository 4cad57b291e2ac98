"""The live dashboard's WebSocket: entries as they are written, who watches, requests a second.

Of each worker one task looks at the database and at the figures of all workers, for as long as somebody watches; each watcher then sends
what is new to its browser. One that is slow misses figures, not entries."""

import asyncio
import collections
import contextvars
import json
import time

from .figures import Figures
from .models import Entry

TICK_SECONDS = 0.5
RATE_TICKS = 4  # requests a second are counted over so many
ENTRIES = 12

figures = Figures()


def look():
    """On one of the threads that belong to no request."""
    return Entry.objects.count(), list(Entry.objects.order_by("-id")[:ENTRIES])


class Board:
    """What there is to tell, at each tick."""

    def __init__(self):
        self.pump = self.next = None

    async def wait(self):
        if self.pump is None:
            self.next = asyncio.get_running_loop().create_future()
            # In a context of its own: it outlives the WebSocket that was the first.
            self.pump = asyncio.create_task(self._run(), name="dashboard", context=contextvars.Context())
        return await asyncio.shield(self.next)

    async def _run(self):
        seen = collections.deque(maxlen=RATE_TICKS + 1)
        try:
            while figures.watchers:
                count, entries = await asyncio.to_thread(look)
                requests, watchers = figures.total()
                seen.append((time.monotonic(), requests))
                seconds = seen[-1][0] - seen[0][0]
                rate = (requests - seen[0][1]) / seconds if seconds else 0
                news = {"rate": round(rate, 1), "requests": requests, "watchers": watchers, "count": count, "entries": entries[::-1]}
                told, self.next = self.next, asyncio.get_running_loop().create_future()
                told.set_result(news)
                await asyncio.sleep(TICK_SECONDS)
        except Exception as e:
            if not self.next.done():
                self.next.set_exception(e)  # to whoever waits: their browsers come back
        finally:
            self.pump = None


board = Board()


async def dashboard(scope, receive, send):
    await receive()
    if scope["path"] != "/live/":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    figures.count_watcher(1)
    tasks = [asyncio.create_task(tell(send)), asyncio.create_task(listen(receive))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        figures.count_watcher(-1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


async def tell(send):
    last = 0
    while True:
        news = await board.wait()
        fresh = [entry for entry in news["entries"] if entry.id > last]
        last = max([last, *(entry.id for entry in fresh)])
        entries = [{"id": e.id, "name": e.name, "text": e.text, "created": e.created.isoformat()} for e in fresh]
        try:
            await send({"type": "websocket.send", "text": json.dumps({**news, "entries": entries})})
        except OSError:  # the client has gone
            return


async def listen(receive):
    while (await receive())["type"] == "websocket.receive":
        pass
