"""``ringcorn --shake SEED``: a worker in shake mode.

Its clients, its threads and its clock are real, so a seed makes races likely that are not, and does not bring the same one again for certain: for that
there are tests in the process (ringcorn.shake)."""

import itertools

from .. import log
from . import awaits
from .loop import group
from .seed import Seed
from .threads import Hop


def begin(loop, seed):
    """*loop* is the worker's, and has not been used yet."""
    seed = Seed(seed)
    loop._shake(str(seed), group, Hop, None)
    awaits.install()
    log.warning(
        "shake mode, seed %s (%s): requests meet in ways they rarely do, answers are late, and clients are hung up on; for tests, never for production",
        seed, ", ".join(sorted(seed.kinds)),
    )  # fmt: skip


def grouped(app):
    """The application: each of its requests is in no order with others."""
    numbers = itertools.count(1)

    async def shaken(scope, receive, send):
        group.set(next(numbers))
        await app(scope, receive, send)

    return shaken
