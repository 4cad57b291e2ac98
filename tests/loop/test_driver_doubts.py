"""_ringcorn.Drivers where a cancellation fails, comes late, or is of a request that has left work behind."""

import contextvars
import queue

import pytest
from test_driver_cells import PATIENCE, Connection, Slow, off, pool, query, short, watch  # noqa: F401 - fixtures


@pytest.fixture
def handed(watch):  # noqa: F811
    """What would be cancelled: (label, why, [(cell, number)], is_late)."""
    found = queue.Queue()
    watch.on_cancel = lambda *args: found.put(args)
    yield found
    watch.on_cancel = None
    assert found.empty()


@pytest.mark.parametrize("outcome, told, then", [(True, "gone", None), (False, None, "gone"), (None, "doubtful", "gone")])
def test_what_a_request_is_told_by(pool, watch, handed, run, outcome, told, then):  # noqa: F811
    """One that was sent tells it; what was not, or may not have been, does not: then the next query is refused."""

    async def main():
        lease, driver, connection = pool.lease("GET /"), Slow(), Connection()
        future = lease.submit(query, watch, driver, connection)
        await off(connection.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        label, why, ((cell, number),), is_late = handed.get_nowait()
        assert (label, why, is_late) == ("GET /", "gone", False)
        assert watch.start_cancel(cell, number) is True
        connection.ends.set()
        watch.finish_cancel(cell, number, outcome)
        assert await future == ("ended", told)
        assert await lease.submit(short, watch, driver) == then
        if then is None:
            assert handed.get_nowait()[3] is True  # it cleans up, and gets the time for it
        lease.close()

    run(main)


def test_a_graver_reason_takes_the_place_of_one_that_was_told(pool, watch, handed, run):  # noqa: F811
    async def main():
        lease, driver = pool.lease("GET /"), Slow()
        first, second = Connection(), Connection()
        future = lease.submit(query, watch, driver, first)
        await off(first.begun.wait, PATIENCE)
        watch.give_up(lease, "gone")
        _, _, ((cell, number),), _ = handed.get_nowait()
        assert watch.start_cancel(cell, number)
        watch.finish_cancel(cell, number)
        first.ends.set()
        assert await future == ("ended", "gone")
        future = lease.submit(query, watch, driver, second)  # how it cleans up
        await off(second.begun.wait, PATIENCE)
        handed.get_nowait()
        watch.give_up(lease, "gone")  # again
        assert handed.empty()
        watch.give_up(lease, "leaving")
        label, why, ((_, later),), is_late = handed.get_nowait()
        assert (label, why, is_late) == ("GET /", "leaving", True) and later > number
        second.ends.set()
        assert await future == ("ended", None)
        lease.close()

    run(main)


def test_a_context_alone_does_not_make_it_a_given_up_requests(pool, watch, handed, run):  # noqa: F811
    """What copies a request's context is of it while it is there: its own threads are in any case."""

    async def main():
        lease, driver = pool.lease("GET /"), Slow()
        context = contextvars.copy_context()
        await lease.submit(short, watch, driver)
        watch.give_up(lease, "gone")
        assert await lease.submit(short, watch, driver) == "gone"
        lease.close()
        assert context.run(short, watch, driver) is None

    run(main)
