"""Hooks of a worker: each adds a line to the file in HOOKED; what fails, and how, is in HOOKED_FAILS (a hook's name)."""

import asyncio
import json
import os
import sys


def _note(info, **more):
    line = {"hook": info.hook, "slot": info.slot, "pid": info.pid, "generation": info.generation, "reason": info.reason, **more}
    with open(os.environ["HOOKED"], "a") as f:
        f.write(json.dumps(line) + "\n")
    if os.environ.get("HOOKED_FAILS") == info.hook:
        raise RuntimeError(f"{info.hook} is not in the mood")


def post_fork(info):
    _note(info, app="raw" in sys.modules)


async def when_ready(info):
    await asyncio.sleep(0)
    _note(info, app="raw" in sys.modules)


async def on_reload(info):
    await asyncio.sleep(0.01)
    _note(info)


async def worker_exit(info):
    await asyncio.sleep(0)
    _note(info)


def second(info):
    _note(info, second=True)


not_a_function = 5
