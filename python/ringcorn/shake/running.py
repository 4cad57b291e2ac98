"""Running a test under seeds, and telling of the one that fails."""

import asyncio
import contextlib
import gc
import random

from . import _aiosqlite, _anyio, awaits
from .client import Dropped
from .loop import ShakeLoop
from .seed import KINDS, USUAL, Seed
from .threads import Stuck

REPLAYS = 3  # of a seed that has failed


def run(main, seed=0, *, io=None):
    """Runs the coroutine function *main* once, on a loop of its own, under *seed*: a number, "17:order,hops" or a Seed. Returns its result.

    The module ``random`` is seeded, too; what comes of ``os.urandom()`` (``uuid4()``, ``secrets``), of the real time, of addresses of objects and of str's
    hashes (PYTHONHASHSEED) is not the seed's."""
    __tracebackhide__ = True  # pytest shows the test's own frames
    seed = Seed(seed)
    awaits.install()
    _anyio.install()
    _aiosqlite.install()
    state, collects = random.getstate(), gc.isenabled()
    random.seed(seed.number)
    gc.disable()  # what dies when it runs would depend on what was allocated before
    try:
        runner = asyncio.Runner(loop_factory=lambda: ShakeLoop(seed, io))
        try:
            result = runner.run(main())
        except BaseException:
            with contextlib.suppress(Stuck):  # what is left behind may wait for what has failed
                runner.close()
            raise
        runner.close()
        return result
    finally:
        if collects:
            gc.enable()
        random.setstate(state)


def search(main, seeds=200, *, first=0, kinds=USUAL, failures=(Exception,), replay="ringcorn.shake.run(main, {seed!r})", io=None):
    """Runs *main* under so many seeds, from *first* on. What the first one that fails raises is raised, with a note that says which kinds of
    disturbance it takes, how often it failed again, and how to replay it.

    Seed 0, which disturbs nothing, always comes first: what is imported or cached at a first time is so for all."""
    __tracebackhide__ = True
    for number in [0, *range(max(first, 1), first + seeds)]:
        seed = Seed(number, kinds)
        try:
            run(main, seed, io=io)
        except failures as e:
            _explain(main, seed, e, failures, replay, io)
            raise


def again(main, seed, *, failures=(Exception,), io=None):
    """Runs *main* under *seed* as a search does: after a run without disturbances, whatever that one's end."""
    __tracebackhide__ = True
    try:
        run(main, 0, io=io)
    except failures:
        pass
    run(main, seed, io=io)


async def together(*awaitables):
    """Runs coroutines at the same time, in no order but the seed's. Returns their results, Dropped objects among them for requests that have no
    answer; the first other exception is raised once all have ended."""
    loop = asyncio.get_running_loop()
    new_context = getattr(loop, "new_group", lambda: None)
    tasks = [loop.create_task(_await(each), context=new_context()) for each in awaitables]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Dropped):
            raise result
    return results


async def _await(awaitable):
    return await awaitable


def _fails(main, seed, error, failures, io):
    """Whether it ends as it did."""
    try:
        run(main, seed, io=io)
    except failures as e:
        return type(e) is type(error)
    return False


def _explain(main, seed, error, failures, replay, io):
    """Adds the note."""
    if seed.number == 0:
        error.add_note("ringcorn shake: it fails without any disturbance (seed 0)")
        return
    least = seed
    for kind in KINDS:
        if kind in least.kinds and len(least.kinds) > 1 and _fails(main, less := least.without(kind), error, failures, io):
            least = less
    replays = sum(_fails(main, least, error, failures, io) for _ in range(REPLAYS))
    lines = [f"ringcorn shake: seed {seed} makes it fail"]
    if least.kinds != seed.kinds:
        lines[0] += f"; what it takes is {' and '.join(kind for kind in KINDS if kind in least.kinds)}"
    lines.append(f"{least} failed again {replays} times of {REPLAYS}" + ("" if replays == REPLAYS else ": something real decides, too, such as a socket or the time"))
    lines.append(f"replay: {replay.format(seed=str(least))}")
    error.add_note("\n".join(lines))
