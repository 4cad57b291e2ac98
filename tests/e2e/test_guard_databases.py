"""The gallery of sessions and transactions, on PostgreSQL: each failure is named with its request, its file and its line; sound code is not."""

import json
import re

import pytest

import harness

SESSIONS = harness.APPS / "gallery_sessions.py"
ORM = harness.APPS / "gallery_orm.py"
ALARM = r"left open|second connection|event loop|at once|belongs to another"


def line_of(name, file):
    [line] = [n for n, text in enumerate(file.read_text().splitlines(), 1) if text.endswith(f"# guilty: {name}")]
    return line


def alarms(server):
    return [line for line in server.err.lines if re.search(r"\] warning: ", line) and re.search(ALARM, line)]


@pytest.fixture
def sessions(server, pg):
    def start(app="gallery_sessions:app", *args):
        s = server(app, *args, env={"DATABASE_URL": f"postgresql://{pg.user}@{pg.host}:{pg.port}/{pg.dbname}"})
        s.allow_descriptors(40)
        return s

    return start


@pytest.fixture
def orm(server, pg):
    def start(app="gallery_orm:app", *args):
        s = server(app, *args, env={"PGHOST": pg.host, "PGPORT": pg.port, "PGUSER": pg.user, "PGDATABASE": pg.dbname})
        s.allow_descriptors(20)
        return s

    return start


LEFT = {
    "left_sync": r"a connection of SQLAlchemy \(psycopg\)",
    "left_asyncpg_engine": r"a connection of SQLAlchemy \(asyncpg\)",
    "left_psycopg_engine": r"a connection of SQLAlchemy \(psycopg\)",
    "left_psycopg": r"a connection of its own \(psycopg\)",
    "left_asyncpg": r"a connection of its own \(asyncpg\)",
    "left_by_begin": r"a connection of its own \(asyncpg\)",
}


def test_transactions_left_open(sessions):
    s = sessions()
    for name, what in LEFT.items():
        assert s.get(f"/{name}").status == 200
        s.wait_log(
            rf"GET /{name}: a transaction was left open on {what}, begun at {SESSIONS}:{line_of(name, SESSIONS)} in {name}: .*; commit it or roll it back"
        )
    # The same again is counted.
    assert s.get("/left_asyncpg").status == 200
    events = json.loads(s.get("/events").body)
    assert [e["line"] for e in events[: len(LEFT)]] == [line_of(name, SESSIONS) for name in LEFT]
    assert len(alarms(s)) == len(LEFT)


def test_preloaded(sessions):
    s = sessions("gallery_sessions:app", "--preload")
    assert s.get("/left_psycopg").status == s.get("/gathers").status == 200
    s.wait_log("GET /left_psycopg: a transaction was left open")
    s.wait_log("GET /gathers: one AsyncSession is used by two tasks at once")


def test_sessions_of_two_tasks(sessions):
    s = sessions()
    assert s.get("/gathers").status == 200
    s.wait_log(rf"GET /gathers: one AsyncSession is used by two tasks at once: task .* at {SESSIONS}:{line_of('gathers', SESSIONS)} in gathers: ")
    assert s.get("/shares").status == 200
    where = f"at {SESSIONS}:{line_of('shares', SESSIONS)} in count: await session.scalar"
    s.wait_log(rf"GET /shares: one AsyncSession is used by two tasks at once: task 'second' {where}.*; and task 'first' {where}.*; give each task")
    assert len(alarms(s)) == 2


def test_sound_sessions_and_where_the_author_knows_better(sessions):
    s = sessions()
    for name in ("sound", "sound_in_turn", "sound_sync", "sound_beside", "knows_better"):
        for _ in range(2):
            assert s.get(f"/{name}").body == b'"sound"'
    s.wait_quiet(0.4)
    assert alarms(s) == [] and json.loads(s.get("/events").body) == []


def test_off_says_nothing(sessions):
    s = sessions("gallery_sessions:app", "--no-guard-transactions", "--no-guard-sessions")
    assert s.get("/left_asyncpg").status == s.get("/gathers").status == 200
    s.wait_quiet(0.4)
    assert alarms(s) == []


def test_a_raw_application(sessions):
    s = sessions("gallery_sessions:raw")
    assert s.get("/somewhere").status == 200
    s.wait_log(rf"GET /somewhere: a transaction was left open on a connection of its own \(asyncpg\), begun at {SESSIONS}:{line_of('raw', SESSIONS)} in raw")


def test_wsgi(sessions):
    s = sessions("gallery_sessions:wsgi")
    assert s.get("/sound").status == s.get("/left").status == 200
    where = f"{SESSIONS}:{line_of('wsgi', SESSIONS)} in wsgi"
    s.wait_log(rf"GET /left: a transaction was left open on a connection of SQLAlchemy \(psycopg\), begun at {where}")
    assert s.get("/sound").status == 200
    s.wait_quiet(0.3)
    assert len(alarms(s)) == 1


# --- Django


def test_orm_on_the_event_loop(orm):
    s = orm()
    s.expected.append("SynchronousOnlyOperation|Internal Server Error")
    assert s.get("/asks").status == 500
    where = f"GET /asks: the ORM is used on the event loop, .* at {ORM}:{line_of('asks', ORM)} in asks: User.objects.count"
    s.wait_log(where)
    assert s.get("/asks_and_swallows").status == 200
    s.wait_log(rf"GET /asks_and_swallows: the ORM is used on .* at {ORM}:{line_of('asks_and_swallows', ORM)} in asks_and_swallows: .*await sync_to_async")
    assert len(alarms(s)) == 2


def test_raise_answers_500_also_where_it_is_swallowed(orm):
    s = orm("gallery_orm:app", "--guard-mode", "raise")
    s.expected.append("GuardError|Internal Server Error|exception")
    assert s.get("/asks_and_swallows").status == 500


def test_transaction_split_over_threads(orm):
    s = orm()
    assert s.get("/splits").status == 200
    s.wait_log(
        rf"GET /splits: database 'default' is used on thread ringcorn-executor\S* at {ORM}:{line_of('splits', ORM)} in write_log: .*, "
        r"by a second connection beside that of thread ringcorn-sync\S*, outside of the transaction that is open there; use sync_to_async"
    )
    assert s.get("/uses_two").status == 200
    s.wait_log(
        rf"GET /uses_two: database 'default' is used on thread ringcorn-executor\S* at {ORM}:{line_of('uses_two', ORM)} in count_elsewhere: .*, "
        r"by a second connection beside that of thread ringcorn-sync[^,]*; use"
    )
    assert len(alarms(s)) == 2


def test_the_orm_behind_fastapi(orm):
    s = orm("gallery_orm:fastapi()")
    assert s.get("/asks").status == s.get("/splits").status == 200
    s.wait_log(rf"GET /asks: the ORM is used on the event loop, .* at {ORM}:{line_of('asks_in_fastapi', ORM)} in fastapi.<locals>.asks_in_fastapi: .*")
    s.wait_log(
        rf"GET /splits: database 'default' is used on thread ringcorn-executor\S* at {ORM}:{line_of('splits', ORM)} in write_log: .*, "
        r"by a second connection beside that of thread ringcorn-sync\S*, outside of the transaction that is open there"
    )
    assert len(alarms(s)) == 2


@pytest.mark.parametrize("app", ["gallery_orm:app", "gallery_orm:wsgi"])
def test_django_leaves_a_transaction_open(orm, app):
    s = orm(app)
    assert s.get("/leaves_off").status == 200
    s.wait_log(
        rf"GET /leaves_off: a transaction was left open on database 'default' by set_autocommit\(False\), begun at {ORM}:{line_of('leaves_off', ORM)} in"
    )
    if app.endswith("app"):
        assert s.get("/leaves_atomic").status == 200
        s.wait_log(
            r"GET /leaves_atomic: a transaction was left open on database 'default' by transaction.atomic\(\), which was not left, "
            rf"begun at {ORM}:{line_of('leaves_atomic', ORM)} in leaves_atomic"
        )
        assert s.get("/sound").body == b"sound"
        s.wait_quiet(0.2)
    assert len(alarms(s)) == (2 if app.endswith("app") else 1)


def test_sound_orm_and_where_the_author_knows_better(orm):
    s = orm()
    for name in ("sound", "sound_sync", "sound_elsewhere", "knows_better"):
        for _ in range(3):
            assert s.get(f"/{name}").body == b"sound"
    s.wait_quiet(0.3)
    assert alarms(s) == [] and json.loads(s.get("/events").body) == []
