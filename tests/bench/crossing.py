"""What an empty job costs that goes to a thread of a pool and comes back, awaited: the CPU time of the whole process, per job.

Run by bench.py with the peers' Python: crossing.py ROUNDS, with Ringcorn's package on the path. Prints {name: [us of each round]}.

    lease        a new lease for each job, as for a request with one call      kept lease   one lease for all jobs, as for one with many
    lease, one   the same, closed at once: it is known that one call is all    pool         jobs that belong to nobody
    asgiref      sync_to_async in one ThreadSensitiveContext                   AnyIO        to_thread.run_sync
    x 32         thirty-two coroutines at once
    bare threads two threads in C that wake each other and sleep, without any Python (tests/tools/two_threads.c): what one at a time cannot go
                 below on that machine. To wake a CPU that sleeps is dear in a virtual one; on one CPU (bench.py --pin) nobody has to
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import c_programs  # noqa: E402

JOBS = 6400
BARE = "bare threads"


def empty():
    pass


async def repeat(call, at_once):
    async def some():
        for _ in range(JOBS // at_once):
            await call()

    if at_once == 1:
        await some()
    else:
        await asyncio.gather(*(some() for _ in range(at_once)))


async def measure(call, at_once):
    """us of CPU per job."""
    await repeat(call, at_once)  # warm; the threads exist now
    began = time.process_time()
    await repeat(call, at_once)
    return (time.process_time() - began) / JOBS * 1e6


@contextlib.contextmanager
def ours(io):
    import _ringcorn
    import ringcorn.loop

    loop = ringcorn.loop.new_event_loop(io)
    pool = _ringcorn.Pool(loop, 8, "bench", threads_max=64, queue_timeout=30, idle_timeout=60)  # as a worker's
    kept = pool.lease("kept")

    async def with_lease():
        lease = pool.lease()
        try:
            await lease.submit(empty)
        finally:
            lease.close()

    async def with_lease_of_one():
        lease = pool.lease()
        future = lease.submit(empty)
        lease.close()
        await future

    try:
        yield loop, {"lease": with_lease, "lease, one": with_lease_of_one, "kept lease": lambda: kept.submit(empty), "pool": lambda: pool.submit(empty)}
    finally:
        kept.close()
        pool.stop(5)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@contextlib.contextmanager
def peers():
    import anyio.to_thread
    import uvloop
    from asgiref.sync import ThreadSensitiveContext, sync_to_async

    loop = uvloop.new_event_loop()
    job = sync_to_async(empty)

    async def asgiref():
        await job()

    async def any_io():
        await anyio.to_thread.run_sync(empty)

    context = ThreadSensitiveContext()
    try:
        yield loop, {"asgiref": (asgiref, context), "AnyIO": any_io}
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def bare_threads():
    """us of CPU for each time that a thread wakes another, sleeps, and is woken by it."""
    program = c_programs.built(TOOLS / "two_threads.c", "-pthread")
    return float(subprocess.run([program, str(JOBS)], check=True, capture_output=True, text=True).stdout)


async def within(context, call, at_once):
    async with context:
        return await measure(call, at_once)


def main():
    rounds = int(sys.argv[1])
    results = {}
    for _ in range(rounds):
        results.setdefault(BARE, []).append(bare_threads())
        for name, group in (("io_uring", lambda: ours("io_uring")), ("epoll", lambda: ours("epoll")), ("uvloop", peers)):
            with group() as (loop, calls):
                for what, call in calls.items():
                    for at_once in (1, 32):
                        if isinstance(call, tuple):
                            us = loop.run_until_complete(within(call[1], call[0], at_once))
                        else:
                            us = loop.run_until_complete(measure(call, at_once))
                        results.setdefault(f"{what}{'' if at_once == 1 else ' x 32'}, {name}", []).append(us)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
