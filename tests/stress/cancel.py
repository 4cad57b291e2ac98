"""Clients that leave in the middle of transactions, beside others that stay: whose client has gone is cancelled in the database, and nobody else.

The application (cancel_app.py) writes a row, waits in one long query or in many short ones, inside a savepoint, and writes another, on a real
PostgreSQL: by ASGI with psycopg 3, by WSGI with psycopg2. Clients leave at any moment, by close and by reset. What must hold:

    whoever stays has 200; the database's log has no cancelled statement with the mark of one who stays
    whatever was answered 200 is in the table, and of each transaction all or nothing
    each thread has one connection from first to last
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
import time

from common import serving, the_worker
from postgres import Postgres

import wire

THREADS = 16
AT_ONCE = 18  # so that most have a thread
STAY = 0.2  # of the clients
ENTRIES = (("asgi", "psycopg"), ("wsgi", "psycopg2"))
CANCELLED = "its query was cancelled after"


class _Crowd:
    def __init__(self, address, draw, first):
        self.host, self.port = address[:2]
        self.draw = draw
        self.next = first
        self.answered, self.problems = [], []
        self.left = self.stayed = 0
        self.is_over = False

    async def run(self, is_enough):
        clients = [asyncio.ensure_future(self._client()) for _ in range(AT_ONCE)]
        while not is_enough() and not self.problems:
            await asyncio.sleep(0.05)
        self.is_over = True
        await asyncio.gather(*clients)

    async def _client(self):
        while not self.is_over:
            try:
                await self._one()
            except Exception as e:
                self.problems.append(repr(e))
                return

    async def _one(self):
        draw, id = self.draw, self.next
        self.next += 1
        stays = draw.random() < STAY
        steps = draw.choice((1, 1, 2, 20))
        seconds = draw.uniform(0, 0.01) if stays else draw.choice((draw.uniform(0, 0.02), *(draw.uniform(0.1, 5) for _ in range(3))))
        target = f"/work?id={id}&mark={'stays' if stays else 'leaves'}&s={seconds:.4f}&steps={steps}"
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(wire.request("GET", target, [("Connection", "close")]))
            reading = asyncio.ensure_future(reader.read())
            if stays:
                answer = await asyncio.wait_for(reading, 60)
                self.stayed += 1
                if not self._is_whole(answer, id):
                    self.problems.append(f"a client that stayed got {answer[:200]!r}")
            else:
                await asyncio.wait({reading}, timeout=draw.choice((draw.uniform(0, 0.003), *(draw.uniform(0.01, 0.1) for _ in range(3)))))
                self.left += 1
                if reading.done() and reading.exception() is None:
                    self._is_whole(reading.result(), id)
                else:
                    reading.cancel()
                if draw.random() < 0.5:
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _is_whole(self, answer, id):
        head, _, body = answer.partition(b"\r\n\r\n")
        is_whole = head.startswith(b"HTTP/1.1 200 ") and body == str(id).encode()
        if is_whole:
            self.answered.append(id)
        return is_whole


def _entry(io, pg, entry, driver, cancellations, draw):
    name = f"cancel {entry} {driver} {io}"
    env = {"PG_PORT": pg.port, "PG_APP": name, "DRIVER": driver}
    with serving(io, "--threads", THREADS, app=f"cancel_app:{entry}", env=env) as server:
        server.allow_descriptors(2 * THREADS)
        pid = the_worker(server)
        crowd = _Crowd(server.address, draw, 1)
        began = time.monotonic()
        asyncio.run(crowd.run(lambda: server.log.count(CANCELLED) >= cancellations))
        took = time.monotonic() - began
        assert not crowd.problems, crowd.problems[:3]
        wire.eventually(lambda: all(state == "idle" and not is_open for _, state, is_open, _ in pg.connections(name)), 30, "no query goes on")
        assert the_worker(server) == pid
        rows = dict(pg.execute("SELECT id, count(*) FROM cancel_rows GROUP BY id"))
        assert set(rows.values()) == {2}, "a transaction is there by half"
        lost = [id for id in crowd.answered if id not in rows]
        assert not lost, f"{len(lost)} transactions were answered and are not there: {lost[:5]}"
        opened = pg.opened(name)
        assert opened <= THREADS, f"{opened} connections for {THREADS} threads"
        cancelled = server.log.count(CANCELLED)
        assert "could not be cancelled" not in server.log and "Traceback" not in server.log, server.log[-3000:]
    pg.execute("TRUNCATE cancel_rows")
    return {"left": crowd.left, "stayed": crowd.stayed, "answered": len(crowd.answered), "cancelled": cancelled, "connections": opened,
            "seconds": round(took, 1)}  # fmt: skip


def scenario(io, cancellations=10_000, seed=None):
    """So many queries cancelled, half of them by each of the two ways."""
    seed = seed if seed is not None else random.randrange(1 << 30)
    with Postgres() as pg:
        pg.execute("CREATE TABLE cancel_rows (id bigint, part int)")
        figures = {"seed": seed}
        for entry, driver in ENTRIES:
            figures[entry] = _entry(io, pg, entry, driver, cancellations // len(ENTRIES), random.Random(seed))
        victims = [line for line in re.findall(r"STATEMENT: .*", pg.log()) if "/* stays */" in line]
        assert not victims, f"statements of clients that stayed were cancelled: {victims[:3]}"
        figures["cancelled_by_the_database"] = pg.log().count("canceling statement due to user request")
    return figures
