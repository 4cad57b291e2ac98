"""What blocks its loop for a random time, on stacks that change all the while, and knows what the watchdog may say of it.

Request number N runs functions of its own kind, N modulo KINDS: kind3_level0 calls kind3_level1 and so on, down and up again at random until
the time is over. A stack is right if its functions are of one kind and of levels without a gap, each on the line that calls the next one, and
if the request that is named is of that kind. Threads compute beside it on stacks of the same form, or keep the GIL.

BLOCKS_FOLDER gets a file of each worker: {"blocks": how many there were, "long": of these twice the threshold and more, "told": how many of them
were told of, "threads": how many times a thread was blamed, "wrong": [what was wrong]}.
"""

import asyncio
import ctypes
import gc
import json
import linecache
import os
import random
import re
import time

import ringcorn.guard
from ringcorn.guard import blocks

KINDS, LEVELS = 61, 20  # no deeper than the stack of an event
THRESHOLD = float(os.environ["BLOCKS_THRESHOLD"])
LONGEST = 5 * THRESHOLD
FILE = "/steps.py"
KEEPS_GIL = ctypes.PyDLL(None)  # unlike CDLL it does not let go of the GIL

_STEP = """\
def kind{kind}_level{level}(walk):
    while walk.goes_on():
        if walk.is_deeper({level}):
            kind{kind}_level{next}(walk)
        elif walk.is_higher({level}):
            return
        else:
            walk.works()

"""
LINES = _STEP.count("\n")


class Walk:
    """Through levels, for a time."""

    def __init__(self, seconds, may_sleep=True):
        self.until = time.monotonic() + seconds
        self.ways = [self.computes, self.sorts, self.makes_garbage, self.generates] + [self.sleeps] * may_sleep

    def goes_on(self):
        return time.monotonic() < self.until

    def is_deeper(self, level):
        return level + 1 < LEVELS and random.random() < 0.5

    def is_higher(self, level):
        return level > 0 and random.random() < 0.4

    def works(self):
        random.choice(self.ways)()

    def sleeps(self):
        time.sleep(random.random() * THRESHOLD / 2)

    def computes(self):
        sum(range(random.randrange(5000)))

    def sorts(self):
        sorted(range(random.randrange(200)), key=lambda n: -n)

    def makes_garbage(self):
        ring = Finalized()
        ring.ring = ring
        if random.random() < 0.05:
            gc.collect(0)

    def generates(self):
        return sum(n for n in range(random.randrange(300)))


class Finalized:
    """Python runs when the collector frees it."""

    def __del__(self):
        sum(range(50))


_source = "".join(
    _STEP.format(kind=kind, level=level, next=level + 1) for kind in range(KINDS) for level in range(LEVELS)
) + "".join(f"def kind{kind}_level{LEVELS}(walk):\n    raise AssertionError\n\n" for kind in range(KINDS))
_steps = {}
exec(compile(_source, FILE, "exec"), _steps)
linecache.cache[FILE] = (len(_source), None, _source.splitlines(True), FILE)
FIRST = [_steps[f"kind{kind}_level0"] for kind in range(KINDS)]

figures = {"blocks": 0, "long": 0, "told": 0, "threads": 0, "wrong": []}


def save():
    path = os.path.join(os.environ["BLOCKS_FOLDER"], f"{os.getpid()}.json")
    with open(path + ".new", "w") as f:
        json.dump(figures, f)
    os.replace(path + ".new", path)


def begins(kind, level):
    """The first line of a function."""
    return (kind * LEVELS + level) * LINES + 1


def is_chain(stack):
    """The kind that a stack, innermost first, is of; None: it has no step of ours. Raises ValueError where it cannot have been."""
    kind = level = None
    above = "?"  # what the frame calls
    for place in stack:
        where, _, function = place.partition(" ")
        file, _, line = where.rpartition(":")
        if file != FILE:
            if kind is not None and level != 0:
                raise ValueError(f"level {level} is called by {function}")
            above = function
            continue
        its_kind, its_level = map(int, re.fullmatch(r"kind(\d+)_level(\d+)", function).groups())
        if kind is not None and (its_kind, its_level) != (kind, level - 1):
            raise ValueError(f"kind {kind} level {level} is called by {function}")
        offset = int(line) - begins(its_kind, its_level)
        calls = {3: f"kind{its_kind}_level{its_level + 1}", 1: "Walk.goes_on", 2: "Walk.is_deeper", 4: "Walk.is_higher", 7: "Walk.works"}
        if not 0 <= offset < LINES or (above.startswith(("kind", "Walk.")) and calls.get(offset) != above):
            raise ValueError(f"{function}, which begins at {begins(its_kind, its_level)}, calls {above} in line {line}")
        kind, level, above = its_kind, its_level, function
    if level:
        raise ValueError(f"level {level} is called by nobody")
    return kind


@ringcorn.guard.on
def judge(event):
    """Called by the watchdog, while the loop goes on, for all we know."""
    try:
        kind = is_chain(event.stack)
        if "keeps the GIL" in event.message:
            figures["threads"] += 1
            return
        figures["told"] += 1
        if event.request is None:  # of a bare application's timer
            if kind is not None and "a callback of the event loop: " not in event.message:
                raise ValueError("of no request")
        elif not event.request.startswith("GET /block/"):
            raise ValueError(event.request)
        elif kind is not None and int(event.request.removeprefix("GET /block/")) % KINDS != kind:
            raise ValueError(f"a stack of kind {kind}")
    except Exception as e:
        figures["wrong"].append(f"{e!r}: {event.message}\n{chr(10).join(event.stack)}")
        save()


def block(number):
    seconds = random.random() * LONGEST
    blocks._culprits.clear()  # so that each one is told of, and not only counted
    figures["blocks"] += 1
    figures["long"] += seconds >= 2 * THRESHOLD
    FIRST[number % KINDS](Walk(seconds))
    if figures["blocks"] % 20 == 0:
        save()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        save()
        return await send({"type": "lifespan.shutdown.complete"})
    number = int(scope["path"].removeprefix("/block/"))
    chance = random.random()
    beside = None
    if chance < 0.2:
        beside = asyncio.ensure_future(asyncio.to_thread(FIRST[number % KINDS], Walk(random.random() * LONGEST, may_sleep=False)))
    elif chance < 0.35:
        await asyncio.to_thread(KEEPS_GIL.usleep, int(random.random() * LONGEST * 1e6))
    block(number)  # in the first step, which has no task yet
    await asyncio.sleep(0)
    block(number)
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.001, lambda: (block(number), done.set()))
    await done.wait()
    if beside is not None:
        await beside
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
