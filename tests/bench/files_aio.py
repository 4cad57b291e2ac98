"""What reading a file costs that lies in the page cache: the CPU time of the whole process (the ring's workers are threads of it), per call.

    PYTHONPATH=build/python build/venv/bin/python tests/bench/files_aio.py [ROUNDS]

Each round runs every way once, one after the other, so that what else the machine does meets all of them; told is the median of the rounds, and how
many times the first line that is. aiofiles and AnyIO are left out where they are not installed. Ours is told with its short way (a read that finds its
bytes in memory ends at once) and, as `by the ring`, without.

    pread     4 KiB at a place       one, whole   open, read all of 4 KiB, close
    x 32      thirty-two coroutines at once
"""

import asyncio
import contextlib
import functools
import importlib.util
import os
import statistics
import sys
import tempfile
import time

import ringcorn.loop
from ringcorn import aio

CALLS = 3200
SIZE = 4096
SLOW = 8  # of the ways by threads so many times fewer


async def repeat(call, calls, at_once):
    async def some():
        for _ in range(calls // at_once):
            await call()

    await asyncio.gather(*(some() for _ in range(at_once)))


@contextlib.asynccontextmanager
async def ours_pread(path):
    async with aio.open(path, "rb") as file:
        yield lambda: file.pread(SIZE, 0)


@contextlib.asynccontextmanager
async def ring_pread(path):
    """As pread() where the bytes are not in memory: the ring, or a thread on epoll, is asked. readinto() has no short way for many bytes."""
    buffer = bytearray(64 * 1024 + 1)
    from ringcorn.aio._ops import files

    async with aio.open(path, "rb") as file:
        fd = file.fileno()

        async def call():
            await files.readinto(fd, buffer, 0)

        yield call


@contextlib.asynccontextmanager
async def thread_pread(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield lambda: asyncio.to_thread(os.pread, fd, SIZE, 0)
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def aiofiles_pread(path):
    import aiofiles

    async with aiofiles.open(path, "rb", buffering=0) as file:

        async def call():
            await file.seek(0)
            await file.read(SIZE)

        yield call


@contextlib.asynccontextmanager
async def anyio_pread(path):
    import anyio.to_thread

    fd = os.open(path, os.O_RDONLY)
    try:
        yield lambda: anyio.to_thread.run_sync(os.pread, fd, SIZE, 0)
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def ours_whole(path):
    yield lambda: aio.read_bytes(path)


@contextlib.asynccontextmanager
async def thread_whole(path):
    def read():
        with open(path, "rb") as file:
            return file.read()

    yield lambda: asyncio.to_thread(read)


@contextlib.asynccontextmanager
async def aiofiles_whole(path):
    import aiofiles

    async def call():
        async with aiofiles.open(path, "rb") as file:
            await file.read()

    yield call


@contextlib.asynccontextmanager
async def anyio_whole(path):
    import anyio

    yield lambda: anyio.Path(path).read_bytes()


def new_loop(io):
    return ringcorn.loop.new_event_loop(io) if io else asyncio.SelectorEventLoop()


def measure(io, way, path, calls, at_once):
    """us of CPU per call."""

    async def main():
        async with way(path) as call:
            await repeat(call, calls // 4, at_once)
            began = time.process_time()
            await repeat(call, calls, at_once)
            return (time.process_time() - began) / calls * 1e6

    with asyncio.Runner(loop_factory=functools.partial(new_loop, io)) as runner:
        return runner.run(main())


WAYS = [
    ("ringcorn.aio, io_uring", "io_uring", ours_pread, ours_whole, 1),
    ("ringcorn.aio, epoll", "epoll", ours_pread, ours_whole, 1),
    ("by the ring", "io_uring", ring_pread, None, 1),
    ("by threads on epoll", "epoll", ring_pread, None, SLOW),
    ("asyncio.to_thread", None, thread_pread, thread_whole, SLOW),
    ("aiofiles", None, aiofiles_pread, aiofiles_whole, SLOW),
    ("anyio", None, anyio_pread, anyio_whole, SLOW),
]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ways = [way for way in WAYS if way[0] not in ("aiofiles", "anyio") or importlib.util.find_spec(way[0])]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        with open(path, "wb") as file:
            file.write(os.urandom(SIZE))
        for title, which, at_once in (("pread", 2, 1), ("pread x 32", 2, 32), ("one, whole", 3, 1), ("one, whole x 32", 3, 32)):
            cases = [(way[0], way[1], way[which], CALLS // way[4]) for way in ways if way[which] is not None]
            times = {case[0]: [] for case in cases}
            for _ in range(rounds):
                for name, io, way, calls in cases:
                    times[name].append(measure(io, way, path, calls, at_once))
            first = statistics.median(times[cases[0][0]])
            print(f"{title}, us of CPU")
            for name, values in times.items():
                median = statistics.median(values)
                print(f"  {name:24} {median:8.1f}   x {median / first:5.1f}   ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
