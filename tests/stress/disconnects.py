"""Clients that leave in the middle of a query: every pool is back at its start, and no connection is lost.

The application (disconnects_app.py) has its queries behind a dependency with yield and two BaseHTTPMiddlewares, in a SQLAlchemy AsyncSession and
in asyncpg's pool, on a real PostgreSQL. Clients leave by close and by reset, at any moment of the query; among them are some that stay
and must get their answer.
"""

import random
import time

import wire
from common import serving, the_worker
from postgres import Postgres

PATHS = ("/session", "/by-hand", "/asyncpg")
GRACE_MS = 50
SECONDS = 5.0  # of a query that is broken off
AT_ONCE = 16
STAY_EACH = 8  # one of so many stays, with a query that is short


def _wave(server, n, draw):
    """n clients at once; how many left."""
    leaving, staying = [], []
    for i in range(n):
        c = server.connect()
        stays = i % STAY_EACH == 0
        c.send(wire.request("GET", f"{draw.choice(PATHS)}?seconds={0.01 if stays else SECONDS}"))
        (staying if stays else leaving).append(c)
    for c in leaving:
        time.sleep(draw.uniform(0, 0.02))
        c.close() if draw.random() < 0.5 else c.reset()
    for c in staying:
        status = c.response().status
        assert status == 200, f"a client that stayed got {status}"
        c.close()
    return len(leaving)


def scenario(io, disconnects=1000, seed=None):
    """Disconnects in the middle of queries, each cancelled soon after."""
    seed = seed if seed is not None else random.randrange(1 << 30)
    draw = random.Random(seed)
    with Postgres() as pg:
        name = f"disconnects-{io}"
        url = f"postgresql://{pg.user}@{pg.host}:{pg.port}/{pg.dbname}"
        env = {"DATABASE_URL": url, "APPLICATION_NAME": name}
        with serving(io, "--guard-disconnect-grace", f"{GRACE_MS}ms", app="disconnects_app:app", env=env) as server:
            server.allow_descriptors(24)
            pid = the_worker(server)
            pools = lambda: server.get("/pools").json()  # noqa: E731
            start = {"sessions_out": 0, "connections_out": 0, "connections": pools()["connections"], "in_hand": 0}
            left, began = 0, time.monotonic()
            while left < disconnects:
                left += _wave(server, min(AT_ONCE, disconnects - left + 1), draw)
                wire.eventually(lambda: pools()["in_hand"] == 0, 30, "all of a wave have ended")
            took = time.monotonic() - began
            found = wire.eventually(lambda: (p := pools()) and start.items() <= p.items() and p, 30, f"pools at their start {start}, seed {seed}")
            assert the_worker(server) == pid
            wire.eventually(lambda: all(state == "idle" and not is_open for _, state, is_open, _ in pg.connections(name)), 20, "no query goes on")
            now = len(pg.connections(name))
            assert now <= 2 * start["connections"], f"{now} connections"
            opened, broken_off = pg.opened(name), pg.log().count("canceling statement due to user request")
            assert broken_off >= left / 4, f"only {broken_off} queries were broken off"
            for c in (server.connect() for _ in range(3)):  # and they can be had
                c.send(wire.request("GET", "/asyncpg?seconds=0"))
                assert c.response().status == 200
                c.close()
            assert "non-checked-in" not in server.log and "was never closed" not in server.log, server.log
    return {
        "disconnects": left, "seconds": round(took, 1), "requests_that_asked": found["begun"], "connections_now": now,
        "connections_ever": opened, "queries_broken_off": broken_off,
    }  # fmt: skip
