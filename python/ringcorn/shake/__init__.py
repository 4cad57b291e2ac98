"""Races, found by shaking: a test runs under many seeds, and each seed lets requests meet in another way.

    from ringcorn import shake

    @pytest.mark.ringcorn_shake(seeds=200)
    async def test_the_counter_counts():
        async with shake.Client(make_app()) as client:
            await shake.together(client.post("/add"), client.post("/add"))
            assert (await client.get("/")).json() == {"value": 2}

The test runs on Ringcorn's loop in this process, in virtual time (sleep(30) takes none), with one call in a thread at a time. The seed decides which
request goes on next (``order``), where an awaitable that has what it waits for suspends all the same (``awaits``: receive(), send(), asyncio's locks,
queues, events, streams, sleep(0)), when calls in threads begin and their results come (``hops``: sync_to_async(), so Django's ORM, run_in_executor(),
to_thread(), AnyIO's threads), by how much timers are late (``timers``), in what pieces bodies come (``io``), and when clients leave or requests are cancelled (``drops``, of a
Client that is made with drops=True).

A failure names its seed, and that seed brings it again: always, where all that decides is in the process; nearly always, where sockets or threads that
the loop does not know take part (a database server, say), as these are as punctual as they are. Each run must make its own state: fixtures are made once
a test, not once a seed.

Without pytest: ``shake.search(main, seeds=200)``; ``shake.run(main, "17:order")`` replays. With Hypothesis:

    @given(shake.seeds())
    def test(seed):
        shake.run(main, seed)
"""

from .client import Client, ClientDisconnected, Dropped, Response
from .loop import ShakeLoop
from .running import again, run, search, together
from .seed import KINDS, Seed, seeds
from .threads import Stuck

__all__ = (
    "KINDS", "Client", "ClientDisconnected", "Dropped", "Response", "Seed", "ShakeLoop", "Stuck", "again", "run", "search", "seeds", "together",
)  # fmt: skip
