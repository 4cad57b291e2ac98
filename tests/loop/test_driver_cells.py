"""_ringcorn.Drivers and ringcorn.cancel: which operation of a driver is cancelled, and that none is that was not meant. Without a server or a database."""

import asyncio
import contextvars
import sqlite3
import sys
import threading

import pytest
from conftest import turns

import _ringcorn
from ringcorn import cancel, drivers, guard, log

PATIENCE = 20


class Slow(drivers.Driver):
    """Its operations go on until they are cancelled, or told to end. *hold*: what a cancellation waits for."""

    name = "slow"

    def __init__(self, hold=None, error=None):
        self.cancelled, self.hold, self.error = [], hold, error
        self.begun = threading.Event()

    def cancel(self, connection):
        self.cancelled.append(connection)
        self.begun.set()
        if self.hold is not None:
            self.hold.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        connection.ends.set()

    def refusal(self, why):
        return InterruptedError(why)


class Connection:
    def __init__(self):
        self.begun, self.ends = threading.Event(), threading.Event()


@pytest.fixture
def pool(loop):
    pool = _ringcorn.Pool(loop, 4, "test-drivers")
    yield pool
    assert pool.stop(5) == []
    turns(loop, 2)


@pytest.fixture
def watch(pool):
    watch = drivers.drivers()
    watch.pool, watch.allowed = pool, guard._allowed
    yield watch
    assert watch.running() == []
    watch.pool = watch.allowed = watch.on_cancel = None


@pytest.fixture
def canceller(watch):
    counted = []
    one = cancel.Canceller(watch, counted.append)
    one.counted = counted
    watch.on_cancel = one.take
    yield one
    watch.on_cancel = None
    one.stop()
    assert not any(thread.is_alive() for thread in one.threads)


def query(watch, driver, connection, statement="SELECT 2"):
    """What became of it: "refused" or "ended", and why."""
    if (why := watch.begin(connection, driver, statement)) is not None:
        return "refused", why
    connection.begun.set()
    assert connection.ends.wait(PATIENCE)
    return "ended", watch.end(InterruptedError())


def short(watch, driver, connection=None, statement="SELECT 2"):
    why = watch.begin(connection if connection is not None else Connection(), driver, statement)
    if why is None:
        assert watch.end() is None
    return why


async def off(fn, *args):
    return await asyncio.get_running_loop().run_in_executor(None, fn, *args)


def test_what_runs_is_cancelled(loop, pool, watch, canceller, run):
    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(), Connection()
        future = lease.submit(query, watch, driver, connection)
        await off(connection.begun.wait, PATIENCE)
        ((label, seconds, running, its, statement, _),) = watch.running()
        assert (label, running, its, statement) == ("GET /", driver, connection, "SELECT 2") and seconds >= 0
        watch.give_up(lease, "gone")
        assert await future == ("ended", "gone")
        assert driver.cancelled == [connection] and canceller.counted == ["gone"]
        assert await lease.submit(short, watch, driver) is None  # told once: the rest is cleaning up
        assert lease.driver_ns > 0
        lease.close()

    run(main)


def test_where_nothing_runs_the_next_is_refused_once(pool, watch, canceller, run):
    async def main():
        lease, driver = pool.lease("GET /"), Slow()
        assert await lease.submit(short, watch, driver) is None
        watch.give_up(lease, "overdue")

        def go_on():
            assert short(watch, driver, statement="ROLLBACK") == "overdue"  # the hook lets it pass: what it is the server does not know
            assert watch.begin(None, driver, "ROLLBACK") is None
            watch.end()
            with pytest.raises(InterruptedError, match="overdue") as caught:
                driver.begin(Connection(), "SELECT 2")
            assert log.was_cancelled(caught.value) == "overdue" and "timeouts.request" in caught.value.__notes__[0]
            driver.begin(Connection(), "SELECT 2")
            watch.end()
            return True

        assert await lease.submit(go_on)
        assert driver.cancelled == []
        lease.close()

    run(main)


def test_a_control_statement_is_neither_refused_nor_cancelled(pool, watch, canceller, run):
    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(), Connection()
        future = lease.submit(query, watch, driver, connection, "commit")
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        await asyncio.sleep(0.1)
        assert driver.cancelled == []
        connection.ends.set()
        assert await future == ("ended", None)

        def passes():
            driver.begin(Connection(), " /* at the end */ ROLLBACK TO SAVEPOINT a")
            watch.end()
            with pytest.raises(InterruptedError):
                driver.begin(Connection(), "SELECT 2")

        await lease.submit(passes)
        lease.close()

    run(main)


def test_the_end_waits_until_the_cancellation_was_sent(pool, watch, canceller, run):
    """What begins after it on the same connection is not hit."""

    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(hold=threading.Event()), Connection()
        future = lease.submit(query, watch, driver, connection)
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        await off(driver.begun.wait, PATIENCE)
        connection.ends.set()  # the query is over before the cancellation is
        await asyncio.sleep(0.1)
        assert not future.done()
        driver.hold.set()
        assert await future == ("ended", "gone")
        lease.close()

    run(main)


def test_an_operation_that_has_ended_is_not_cancelled(pool, watch, run):
    async def main():
        lease, driver, taken = pool.lease("GET /"), Slow(), []
        watch.on_cancel = lambda label, why, operations, is_late: taken.extend(operations)
        first, second = Connection(), Connection()
        future = lease.submit(query, watch, driver, first)
        await off(first.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        ((cell, number),) = taken
        first.ends.set()
        assert await future == ("ended", None)
        other = pool.lease("GET /other")
        futures = [other.submit(query, watch, driver, second)]
        await off(second.begun.wait, PATIENCE)
        assert watch.look(cell, number) is None and not watch.start_cancel(cell, number)
        watch.finish_cancel(cell, number, True)
        second.ends.set()
        assert await futures[0] == ("ended", None)
        assert await lease.submit(short, watch, driver) == "gone"  # it was not told yet
        for one in (lease, other):
            one.close()

    run(main)


def test_a_connection_that_two_use_is_not_cancelled(pool, watch, canceller, run):
    async def main():
        mine, other, driver, connection = pool.lease("GET /"), pool.lease("GET /other"), Slow(), Connection()
        futures = [mine.submit(query, watch, driver, connection)]
        await off(connection.begun.wait, PATIENCE)
        connection.begun.clear()
        futures.append(other.submit(query, watch, driver, connection))
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(mine, "gone")
        watch.give_up(other, "leaving")
        await asyncio.sleep(0.1)
        assert driver.cancelled == []
        connection.ends.set()
        assert [await future for future in futures] == [("ended", None)] * 2
        for one in (mine, other):
            one.close()

    run(main)


def test_who_comes_to_a_connection_that_is_being_cancelled_waits(pool, watch, canceller, run):
    async def main():
        mine, other, driver, connection = pool.lease("GET /"), pool.lease("GET /other"), Slow(hold=threading.Event()), Connection()
        first = mine.submit(query, watch, driver, connection)
        await off(connection.begun.wait, PATIENCE)
        connection.begun.clear()
        watch.give_up(mine, "gone")
        await off(driver.begun.wait, PATIENCE)
        second = other.submit(query, watch, driver, connection)
        await asyncio.sleep(0.1)
        assert not connection.begun.is_set()
        driver.hold.set()
        assert await first == ("ended", "gone") and await second == ("ended", None)
        for one in (mine, other):
            one.close()

    run(main)


def test_what_is_begun_inside_another_is_not_cancelled(pool, watch, canceller, run):
    async def main():
        lease, driver, outer, inner = pool.lease("GET /"), Slow(), Connection(), Connection()

        def nested():
            assert watch.begin(outer, driver, "SELECT outer()") is None
            found = query(watch, driver, inner)
            assert short(watch, driver, Connection()) is None
            return found, watch.end()

        future = lease.submit(nested)
        await off(inner.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        await asyncio.sleep(0.1)
        inner.ends.set()
        assert await future == (("ended", None), None) and driver.cancelled == []
        lease.close()

    run(main)


def test_the_context_tells_whose_another_thread_is(pool, watch, canceller, run):
    """As asyncio.to_thread() and asgiref do: the request's context comes along."""
    variable = contextvars.ContextVar("lease")
    pool.context_vars = (variable,)

    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(), Connection()
        variable.set(lease)
        future = asyncio.ensure_future(asyncio.to_thread(query, watch, driver, connection))
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        assert await future == ("ended", "gone")
        assert lease.driver_ns > 0
        lease.close()

    run(main)


def test_allow_disconnect(pool, watch, canceller, run):
    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(), Connection()

        def allowed():
            with guard.allow("disconnect"):
                return query(watch, driver, connection)

        future = lease.submit(allowed)
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        await asyncio.sleep(0.1)
        assert driver.cancelled == []
        watch.give_up(lease, "overdue")  # that outweighs it
        assert await future == ("ended", "overdue")
        lease.close()

    run(main)


def test_a_query_that_goes_on_is_cancelled_again(pool, watch, canceller, run):
    """The first came before the query had reached the server, say."""

    class Deaf(Slow):
        def cancel(self, connection):
            self.cancelled.append(connection)
            if len(self.cancelled) == 3:
                connection.ends.set()

    async def main():
        lease, driver, connection = pool.lease("GET /"), Deaf(), Connection()
        future = lease.submit(query, watch, driver, connection)
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        assert await future == ("ended", "gone")
        assert len(driver.cancelled) == 3 and canceller.counted == ["gone"]
        lease.close()

    run(main)


def test_cleaning_up_has_its_time_and_no_more(pool, watch, canceller, run, monkeypatch):
    monkeypatch.setattr(cancel, "PATIENCE", 0.2)

    async def main():
        lease, driver, connections = pool.lease("GET /"), Slow(), [Connection(), Connection()]
        watch.give_up(lease, "gone")

        def view():
            with pytest.raises(InterruptedError):
                driver.begin(Connection(), "SELECT 2")
            return [query(watch, driver, one) for one in connections]

        connections[0].ends.set()  # short
        assert await lease.submit(view) == [("ended", None), ("ended", "gone")]
        assert driver.cancelled == connections[1:]
        lease.close()

    run(main)


def test_a_way_that_fails_tells_nobody(pool, watch, canceller, run):
    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(error=OSError("no way")), Connection()
        future = lease.submit(query, watch, driver, connection)
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        await off(driver.begun.wait, PATIENCE)
        await asyncio.sleep(0.1)
        connection.ends.set()
        assert await future == ("ended", drivers.DOUBTFUL) and canceller.counted == []
        lease.close()

    run(main)


def test_a_server_that_does_not_answer_keeps_no_other_waiting(pool, watch, canceller, run):
    async def main():
        dead, alive = Slow(hold=threading.Event()), Slow()
        alive.name = "alive"
        stuck = [(pool.lease(f"GET /{i}"), Connection()) for i in range(3)]
        futures = [lease.submit(query, watch, dead, connection) for lease, connection in stuck]
        for lease, connection in stuck:
            await off(connection.begun.wait, PATIENCE)
            watch.give_up(lease, "gone")
        other, connection = pool.lease("GET /other"), Connection()
        future = other.submit(query, watch, alive, connection)
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(other, "gone")
        assert await future == ("ended", "gone")
        assert 0 < len(dead.cancelled) <= cancel.PER_SERVER
        dead.hold.set()
        assert [await one for one in futures] == [("ended", "gone")] * 3
        for lease, _ in [*stuck, (other, None)]:
            lease.close()

    run(main)


def test_orders_that_come_at_once_for_one_idle_thread(pool, watch, canceller, run):
    """It was told of both, and is away with the first."""

    async def main():
        dead, alive = Slow(hold=threading.Event()), Slow()
        alive.name = "alive"
        taken, begun = [], []
        watch.on_cancel = lambda label, why, operations, is_late: taken.extend(operations)
        for driver in (dead, alive):
            lease, connection = pool.lease("GET /"), Connection()
            begun.append((lease, lease.submit(query, watch, driver, connection)))
            await off(connection.begun.wait, PATIENCE)
            watch.give_up(lease, "gone")
        with canceller.changed:
            canceller._start()
        while not canceller.idle:
            await asyncio.sleep(0.01)
        with canceller.changed:
            for i, ((cell, number), driver) in enumerate(zip(taken, (dead, alive))):
                canceller.orders.append((i, i, cancel._Order(cell, number, "gone", driver.name)))
            canceller.changed.notify()
        try:
            assert await asyncio.wait_for(begun[1][1], PATIENCE) == ("ended", "gone")
        finally:
            dead.hold.set()
        assert await begun[0][1] == ("ended", "gone")
        for lease, _ in begun:
            lease.close()

    run(main)


def test_threads_end_when_there_is_nothing_to_do(pool, watch, canceller, run, monkeypatch):
    monkeypatch.setattr(cancel, "IDLE_SECONDS", 0.05)

    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(), Connection()
        future = lease.submit(query, watch, driver, connection)
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        await future
        lease.close()
        for _ in range(200):
            if not canceller.threads:
                return
            await asyncio.sleep(0.05)
        raise AssertionError("its thread stays")

    run(main)


def test_a_part_of_a_query_that_runs_is_cancelled_and_not_refused(pool, watch, canceller, run):
    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(), Connection()
        watch.give_up(lease, "gone")

        def fetch():
            assert watch.begin(connection, driver, "(fetch)", True) is None
            assert connection.ends.wait(PATIENCE)
            return watch.end(InterruptedError())

        assert await lease.submit(fetch) == "gone"
        lease.close()

    run(main)


class Failing(drivers.Driver):
    error = InterruptedError

    def cancel(self, connection):
        connection.ends.set()

    def refusal(self, why):
        return self.error(why)


class Closing:
    closed = False

    def close(self):
        self.closed = True


@pytest.mark.parametrize("error", [None, InterruptedError(), ValueError()])
def test_a_doubtful_operation_ends_with_its_connection(monkeypatch, error):
    def run():
        if error is not None:
            raise error
        return 1

    monkeypatch.setattr(drivers, "begin", lambda *args: None)
    monkeypatch.setattr(drivers, "end", lambda *args: drivers.DOUBTFUL)
    connection = Closing()
    if error is None:
        assert drivers._run(Failing(), connection, "SELECT 2", run) == 1
    else:
        with pytest.raises(type(error)) as caught:
            drivers._run(Failing(), connection, "SELECT 2", run)
        assert log.was_cancelled(caught.value) is None
    assert connection.closed


def test_an_error_of_another_kind_is_not_the_cancellation(pool, watch, canceller, run):
    async def main():
        lease, driver = pool.lease("GET /"), Failing()

        def fail(connection, error):
            connection.begun.set()
            assert connection.ends.wait(PATIENCE)
            raise error

        def view(connections):
            why = []
            for error, connection in connections:
                with pytest.raises(type(error)) as caught:
                    drivers._run(driver, connection, "SELECT 2", fail, connection, error)
                why.append(log.was_cancelled(caught.value))
            return why

        wrapped = ValueError()
        wrapped.__cause__ = InterruptedError()
        connection = Connection()
        future = lease.submit(view, [(KeyError(), connection)])
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        assert await future == [None]
        assert await lease.submit(short, watch, driver) == "gone"  # it was not told
        other, connection = pool.lease("GET /other"), Connection()
        future = other.submit(view, [(wrapped, connection)])
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(other, "gone")
        assert await future == ["gone"]
        for one in (lease, other):
            one.close()

    run(main)


COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT max(i) FROM n"


def test_an_interruption_of_sqlite_does_not_stay(pool, watch, canceller, run):
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3)")

    async def main():
        lease, driver, begun = pool.lease("GET /"), drivers.of_module(sqlite3), threading.Event()

        def view():
            connection.execute("INSERT INTO t VALUES (4)")
            half = connection.execute("SELECT a FROM t")
            half.fetchone()
            cursor = connection.cursor()
            begun.set()
            with pytest.raises(sqlite3.OperationalError, match="interrupted") as caught:
                drivers._run(driver, connection, COUNT, cursor.execute, COUNT)
            connection.execute("ROLLBACK")
            with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
                half.fetchone()
            return log.was_cancelled(caught.value), connection.execute("SELECT a FROM t").fetchall()

        future = lease.submit(view)
        await off(begun.wait, PATIENCE)
        while not watch.running():
            await asyncio.sleep(0.01)
        watch.give_up(lease, "gone")
        assert await future == ("gone", [(1,), (2,), (3,)])
        lease.close()

    run(main)
    connection.close()


def test_an_interruption_of_sqlite_that_came_too_late():
    """The operation has succeeded, what it found cannot be read: that is an error, and the request is told by it."""
    connection, driver = sqlite3.connect(":memory:"), drivers.of_module(sqlite3)
    cursor = connection.execute("SELECT 1 UNION SELECT 2")
    connection.interrupt()
    with pytest.raises(sqlite3.OperationalError, match="interrupted") as caught:
        driver.hit("gone", connection, "SELECT 1 UNION SELECT 2")
    assert log.was_cancelled(caught.value) == "gone"
    assert connection.execute("SELECT 1").fetchall() == [(1,)]
    connection.interrupt()
    driver.hit("gone", connection, "SELECT 1")  # nothing was active
    cursor.close()
    connection.close()


def test_wrong_arguments(watch, pool):
    with pytest.raises(TypeError):
        watch.begin(None)
    with pytest.raises(TypeError):
        watch.look(1)
    with pytest.raises(TypeError):
        watch.give_up(object(), "gone")
    with pytest.raises(ValueError):
        watch.give_up(pool.lease("GET /"), "tired")
    with pytest.raises(TypeError):
        watch.pool = object()
    assert watch.end() is None  # nothing was begun
    assert watch.look(10**6, 1) is None


@pytest.mark.parametrize(
    "text",
    ["COMMIT", " begin", "ROLLBACK TO SAVEPOINT a", "select 1", "", "SET TIME ZONE 'UTC'", "insert into a values (1); commit", "-- x\n end;",
     "PREPARE TRANSACTION 'a'", "/* a **/ -- b\n/**/ commit", "select 2; end work;"],
)  # fmt: skip
def test_control_statements(text):
    assert drivers.is_control(text)


@pytest.mark.parametrize(
    "text",
    ["SELECT 10", "SELECT pg_sleep(3)", "update commits set a = 1", "select 1, 2", "WITH a AS (SELECT 1) SELECT * FROM a", "PREPARE a AS SELECT 2",
     "/* a */ UPDATE t /* b */ SET a = 1", "DO $$ BEGIN PERFORM pg_sleep(3);\nEND $$", "SELECT 'a; end of'", "-- COMMIT", "/* commit",
     "/**/" * 200 + "SELECT 2", "/* */ -- \n" * 200 + "SELECT 2", " " * 100_000 + "SELECT 2"],
)  # fmt: skip
def test_queries(text):
    assert not drivers.is_control(text)


def test_a_psycopg_without_what_is_hooked_is_told(monkeypatch):
    psycopg = pytest.importorskip("psycopg")
    names = {code.co_name for code in drivers._Psycopg(psycopg).codes}
    monkeypatch.setitem(sys.modules, "psycopg._cursor_base", None)  # 3.1 has it in psycopg.cursor
    assert {code.co_name for code in drivers._Psycopg(psycopg).codes} == names
    monkeypatch.setattr(drivers._Psycopg, "_MODULES", ("psycopg.copy",))
    with pytest.raises(LookupError, match="_execute_gen"):
        drivers._Psycopg(psycopg)


def test_what_the_log_shows_is_short():
    assert drivers.shown("SELECT  1,\n\t2") == "SELECT 1, 2"
    assert len(drivers.shown("x" * 1000)) == drivers.SHOWN_MAX
