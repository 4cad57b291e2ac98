"""What views do that `ringcornctl advise` judges, without a framework: each does one thing wrong, or nothing. SLOW is the address of a server that
takes its time (tests/tools/slow_server.py)."""

import asyncio
import os
import socket
import time

WAIT_MS = int(os.environ.get("WAIT_MS", "40"))
BLOCK_MS = int(os.environ.get("BLOCK_MS", "30"))
BURN_S = 0.025


def _slow_address():
    host, port = os.environ["SLOW"].rsplit(":", 1)
    return host, int(port)


def report():
    """Waits on a socket."""
    with socket.create_connection(_slow_address()) as s:
        s.sendall(b"%d\n" % WAIT_MS)
        return {"got": s.recv(100).decode().strip()}


async def report_async():
    """As advised."""
    reader, writer = await asyncio.open_connection(*_slow_address())
    writer.write(b"%d\n" % WAIT_MS)
    got = await reader.readline()
    writer.close()
    return {"got": got.decode().strip()}


def export():
    """Computes: CPU of its own, however long that takes."""
    until = time.thread_time() + BURN_S
    n = 0
    while time.thread_time() < until:
        for _ in range(2000):
            n += 1
    return {"n": n}


async def feed():
    time.sleep(BLOCK_MS / 1000)  # guilty: feed
    return {}


def feed_def():
    """As advised."""
    time.sleep(BLOCK_MS / 1000)
    return {}


async def fast():
    await asyncio.sleep(0.002)
    return {}


# Most of the time is SQLite's, which lets go of the GIL.
ORDERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250000) SELECT count(*) FROM n"


def look_up(key):
    return {"a": 1}.get(key)
