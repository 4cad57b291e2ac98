"""WebSockets in a storm of reloads: clients that echo and come back on 1012 lose and double nothing."""

import asyncio
import collections
import random
import signal
import struct
import time

from common import SOURCES, serving, wait_workers
from frames import CLOSE, FIN, TEXT, close_payload, frame, opening

AT_ONCE_MAX = 4  # messages that a client sends before it reads their echoes
SECONDS_MAX = 10  # for anything that a client waits for


class Wrong(Exception):
    pass


class Client:
    """Sends numbered messages, a few at a time, and expects exactly their echoes; goes to the successor on 1012.

    A message that crosses the server's Close has no echo: it is sent anew on the next connection, as RFC 6455 leaves no other way to know
    what became of it. Inside a connection the echoes are the messages in their order, up to the Close."""

    def __init__(self, name, address, pause, tally):
        self.name, self.address, self.pause, self.tally = name, address, pause, tally
        self.number = self.echoed = 0  # the next message, and echoes in all
        self.is_told_to_stop = False

    async def run(self):
        while not self.is_told_to_stop:
            try:
                await self.connection()
            except (Wrong, OSError, asyncio.IncompleteReadError, TimeoutError) as e:
                self.tally["wrong"].append(f"client {self.name}, connection {self.tally['connections']}: {type(e).__name__}: {e}")
                return

    async def connection(self):
        local = SOURCES[self.name % len(SOURCES)], 0
        async with asyncio.timeout(SECONDS_MAX):
            reader, writer = await asyncio.open_connection(*self.address, local_addr=local)
        try:
            writer.write(opening("/echo"))
            async with asyncio.timeout(SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                raise Wrong(f"answered with {head[:60]!r}")
            self.tally["connections"] += 1
            self.tally["pids"].update(line[7:] for line in head.split(b"\r\n") if line.startswith(b"x-pid: "))
            await self.talk(reader, writer)
        finally:
            writer.close()

    async def talk(self, reader, writer):
        while True:
            if self.is_told_to_stop:
                writer.write(frame(FIN | CLOSE, close_payload(1000)))
                await self.expect(reader, (FIN | CLOSE, close_payload(1000)), [(FIN | CLOSE, close_payload(1012))])
                return
            sent = [f"{self.name}:{self.number + i}:{'x' * random.randrange(200)}".encode() for i in range(random.randint(1, AT_ONCE_MAX))]
            writer.write(b"".join(frame(FIN | TEXT, one) for one in sent))
            for i, one in enumerate(sent):
                if await self.expect(reader, (FIN | TEXT, one), [(FIN | CLOSE, close_payload(1012))]):
                    self.tally["crossed"] += len(sent) - i
                    writer.write(frame(FIN | CLOSE, close_payload(1012)))
                    return await self.at_end(reader)
                self.number += 1
                self.echoed += 1
            try:  # idle clients hear the Close at once
                async with asyncio.timeout(self.pause * random.random() * 2):
                    first = await reader.readexactly(1)
            except TimeoutError:
                continue
            got = await self.rest_of_frame(first, reader)
            if got != (FIN | CLOSE, close_payload(1012)):
                raise Wrong(f"{got} while nothing was asked")
            self.tally["closed_idle"] += 1
            writer.write(frame(FIN | CLOSE, close_payload(1012)))
            return await self.at_end(reader)

    async def rest_of_frame(self, first, reader):
        async with asyncio.timeout(SECONDS_MAX):
            (n,) = await reader.readexactly(1)
            if n == 126:
                (n,) = struct.unpack(">H", await reader.readexactly(2))
            return first[0], await reader.readexactly(n)

    async def expect(self, reader, frame_due, instead):
        """Is it one of `instead`?"""
        async with asyncio.timeout(SECONDS_MAX):
            first = await reader.readexactly(1)
        got = await self.rest_of_frame(first, reader)
        if got != frame_due and got not in instead:
            raise Wrong(f"{got} instead of {frame_due}")
        return got != frame_due

    async def at_end(self, reader):
        async with asyncio.timeout(SECONDS_MAX):
            if more := await reader.read():
                raise Wrong(f"{more[:60]!r} after the Close")


async def storm(server, clients, seconds, every, pause):
    tally = {"connections": 0, "closed_idle": 0, "crossed": 0, "pids": collections.Counter(), "wrong": []}
    all_of_them = [Client(i, server.address, pause, tally) for i in range(clients)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in all_of_them]
        started, signals = time.monotonic(), 0
        while signals < seconds / every:
            await asyncio.sleep(max(0.0, started + (signals + 1) * every - time.monotonic()))
            server.send_signal(signal.SIGHUP)
            signals += 1
        await asyncio.to_thread(wait_workers, server, 2)
        # Every client is back, and is served.
        before = [one.echoed for one in all_of_them]
        deadline = time.monotonic() + SECONDS_MAX
        while any(one.echoed <= was for one, was in zip(all_of_them, before)) and not tally["wrong"] and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        away = [one.name for one, was in zip(all_of_them, before) if one.echoed <= was]
        for one in all_of_them:
            one.is_told_to_stop = True
        del tasks
    return tally, signals, away, sum(one.echoed for one in all_of_them)


def scenario(io, seconds=20, every=1.0, clients=200, pause=0.2):
    """SIGHUP every second, two workers, 200 clients."""
    with serving(io, "--workers", 2, "--websocket-drain", "500ms") as server:
        tally, signals, away, echoed = asyncio.run(storm(server, clients, seconds, every, pause))
        figures = {"clients": clients, "signals": signals, "echoes": echoed, "workers_seen": len(tally["pids"])}
        figures |= {name: tally[name] for name in ("connections", "closed_idle", "crossed")}
        assert not tally["wrong"], f"{figures}\n{tally['wrong'][:5]}\n{server.report}"
        assert not away, f"clients {away[:20]} did not come back: {figures}\n{server.report}"
        # Reloads merge when they take longer than the time between two signals; half of them may.
        assert len(tally["pids"]) >= 2 + signals, f"{figures}\n{server.report}"
        assert tally["connections"] >= 2 * clients and echoed > 5 * clients, f"hardly any load: {figures}"
    return figures
