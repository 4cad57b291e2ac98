"""In every Python process of a foreign suite (PYTHONPATH): whatever asks asyncio for a new loop gets Ringcorn's.

RINGCORN_FOREIGN_IO says which: epoll, io_uring, or stock for asyncio's own. RINGCORN_FOREIGN_COUNT names a file that each process adds to at its
end: how many loops it made. A run without any proves nothing.
"""

import os


def ours(io):
    import asyncio
    import atexit

    import ringcorn.loop

    made = 0

    class Loop(ringcorn.loop.Loop):
        def __init__(self, selector=None):
            nonlocal made
            made += 1
            super().__init__(io)
            if selector is not None:  # some choose one; ours waits by itself
                selector.close()

    unix = asyncio.unix_events
    # Some compare which class somebody chooses, by its name.
    stock = asyncio.SelectorEventLoop
    Loop.__name__, Loop.__qualname__, Loop.__module__ = stock.__name__, stock.__qualname__, stock.__module__
    asyncio.SelectorEventLoop = unix.SelectorEventLoop = Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = unix.EventLoop = Loop
    policy = getattr(unix, "_UnixDefaultEventLoopPolicy", None) or unix._DefaultEventLoopPolicy
    policy._loop_factory = Loop
    ringcorn.loop.use_pidfds()

    def count():
        if path := os.environ.get("RINGCORN_FOREIGN_COUNT"):
            with open(path, "a") as f:
                f.write(f"{made}\n")

    atexit.register(count)


def main():
    io = os.environ.get("RINGCORN_FOREIGN_IO")
    if io == "stock":
        import asyncio  # noqa: F401  what is imported at start is the same in both runs
    elif io:
        ours(io)


main()
