"""SQLAlchemy and SQLModel behind FastAPI on a real PostgreSQL: whose session it is, how many connections there are, what is rolled back."""

import itertools
import time

import pytest

import wire
from test_anyio_threads import drive

DRIVERS = ["psycopg2", "psycopg"]
N = 5
names = (f"ringcorn-sqlalchemy-{n}" for n in itertools.count())


@pytest.fixture(params=DRIVERS)
def start(request, server, pg):
    """start(*args, **env): a server with as many threads as its pool has connections, and its name in PostgreSQL."""

    def start(*args, **env):
        name = next(names)
        s = server(
            "sqlalchemy_app:app", "--sync-threads", N, *args,
            env={
                "DATABASE_URL": f"postgresql+{request.param}://{pg.user}@{pg.host}:{pg.port}/{pg.dbname}",
                "POOL": N, "APPLICATION_NAME": name, **env,
            },
        )  # fmt: skip
        s.allow_descriptors(N)
        s.application = name
        return s

    return start


def test_a_scoped_session_is_its_requests_own(start, pg):
    s = start()
    statuses, _ = drive(s, [f"/scoped/{n}" for n in range(300)], 32)
    assert statuses == {200: 300}
    found = wire.eventually(lambda: (r := s.get("/seen").json()) and not r["pending"] and r, 20, "the ends of all requests")
    assert found.pop("backends") <= N
    assert found == {"pending": False, "requests": 300, "others_session": 0, "no_session": 0, "split": 0, "two_backends": 0}
    assert pg.opened(s.application) <= N + 1  # one at the start, for the tables
    assert s.get("/items?name=scoped%25").json()["n"] >= 300


def test_no_connection_is_waited_for_in_vain(start, pg):
    """As many connections as threads, and requests that hold one while they wait for a thread would wait for each other."""
    s = start(POOL_TIMEOUT=3)
    statuses, _ = drive(s, [f"/slow?seconds=0.02&{n}" for n in range(300)], 64)
    assert statuses == {200: 300}
    wire.eventually(lambda: s.get("/pool").json() == {"out": 0, "in": N, "timeouts": 0}, 10, "all connections given back, and nobody in vain")
    assert pg.opened(s.application) == N


def test_who_has_a_connection_gets_a_thread_again(start):
    """All slots wait for connections, which requests have that wait for a slot."""
    s = start(POOL_TIMEOUT=8)
    began = time.monotonic()
    targets = [f"/hold?seconds=0.5&{n}" for n in range(N)] + [f"/slow?seconds=0&{n}" for n in range(2 * N)]
    statuses, _ = drive(s, targets, len(targets))
    assert statuses == {200: 3 * N} and time.monotonic() - began < 8
    assert s.get("/pool").json()["timeouts"] == 0


def test_sqlmodel(start):
    s = start()
    made = s.request("POST", "/items", {"Content-Type": "application/json"}, b'{"name": "one"}')
    assert made.status == 201 and made.json()["name"] == "one"
    assert s.get(f"/items/{made.json()['id']}").json() == made.json()
    assert s.get("/items/1000000").status == 404
    statuses, _ = drive(s, [f"/items/{made.json()['id']}?{n}" for n in range(100)], 16)
    assert statuses == {200: 100}


def test_what_fails_leaves_no_row_and_no_transaction(start, pg):
    s = start()
    name = f"failed {s.application}".replace(" ", "-")
    for _ in range(20):
        assert s.post(f"/fail?name={name}", b"").status == 409
    assert s.get(f"/items?name={name}").json() == {"n": 0}
    wire.eventually(lambda: [row for row in pg.connections(s.application) if row[2]] == [], 10, "the end of all transactions")
    assert s.get("/pool").json()["out"] == 0


def test_rows_are_fetched_while_the_answer_is_sent(start):
    s = start()
    name = s.application
    for _ in range(35):
        assert s.request("POST", "/items", {"Content-Type": "application/json"}, b'{"name": "%s"}' % name.encode()).status == 201
    statuses, answers = drive(s, [f"/export?name={name}&{n}" for n in range(30)], 10)
    assert statuses == {200: 30}
    assert {len(r.body.split()) for r in answers.values()} == {35}
    wire.eventually(lambda: s.get("/pool").json()["out"] == 0, 10, "all connections given back")
