"""Requests that are given up behind PgBouncer, where one connection of the database runs the transactions of many clients."""

import itertools
import random
import threading
import time

import pytest

import wire
from pgbouncer import PgBouncer
from test_cancel import LONG, SOON, begin, leave

CONNECTIONS = 2  # of the database, for THREADS
THREADS = 6
REQUESTS = 40  # of each client
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bouncer(pg):
    with PgBouncer(pg, CONNECTIONS) as one:
        yield one


@pytest.fixture(params=["psycopg", "psycopg2"])
def bounced(request, server, pg, bouncer):
    name = f"bounced {next(numbers)}"
    s = server(
        "cancel_fastapi:app", "--threads", THREADS,
        env={"DATABASE_URL": f"postgresql+{request.param}://{pg.user}@{pg.host}:{bouncer.port}/{pg.dbname}", "APPLICATION_NAME": name},
    )  # fmt: skip
    s.allow_descriptors(20)
    s.name, s.pg = name, pg
    return s


def test_a_query_ends_with_its_client(bounced):
    bounced.get("/slow?s=0&id=0")
    leave(bounced, begin(bounced, f"/slow?s={LONG}&id=1"))
    assert bounced.get("/slow?s=0&id=2").json()["pid"]
    bounced.wait_log(r"GET /slow: its query was cancelled after \d+\.\d s, as its client has gone: SELECT")


def test_nobody_else_is_hit(bounced):
    """Half of the clients leave in the middle of what they have asked for; the others share their connections."""
    errors, left = [], [0]

    def stay():
        for _ in range(REQUESTS):
            answer = bounced.get("/slow?s=0.03")
            if answer.status != 200:
                errors.append(answer)

    def go(seed):
        chance = random.Random(seed)
        for _ in range(REQUESTS):
            client = bounced.connect()
            client.send(wire.request("GET", "/slow?s=0.3"))
            time.sleep(chance.uniform(0, 0.1))
            client.close()
            left[0] += 1

    threads = [threading.Thread(target=stay) for _ in range(3)] + [threading.Thread(target=go, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and left == [3 * REQUESTS]
    wire.eventually(lambda: bounced.log.count("its query was cancelled") > REQUESTS, SOON, "queries were cancelled")
