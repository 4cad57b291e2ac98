"""The loop as asyncio's default one, and subprocesses without a thread each."""

import subprocess
import sys

import pytest

PREFIX = f"""if 1:
    import asyncio, subprocess, sys, threading
    sys.path[:0] = {sys.path!r}
    import ringcorn.loop
"""

SUBPROCESSES = """
    async def main():
        assert type(asyncio.get_running_loop()) is ringcorn.loop.Loop
        processes = [await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.05; exit %d" % n) for n in range(10)]
        assert threading.active_count() == 1, threading.enumerate()
        assert await asyncio.gather(*[p.wait() for p in processes]) == list(range(10))
        failed = await asyncio.create_subprocess_exec("sh", stdin=subprocess.PIPE)
        failed.terminate()
        assert await failed.wait() == -15
"""


def python(code, env_io):
    import os

    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PREFIX + code],
        capture_output=True, text=True, timeout=30, env={**os.environ, "RINGCORN_LOOP_IO": env_io},
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="policies are deprecated")
def test_policy(usable_io):
    python(SUBPROCESSES + """
    asyncio.set_event_loop_policy(ringcorn.loop.EventLoopPolicy())
    asyncio.run(main())
    """, usable_io)


def test_loop_factory(usable_io):
    python(SUBPROCESSES + f"""
    ringcorn.loop.use_pidfds()
    with asyncio.Runner(loop_factory=ringcorn.loop.new_event_loop) as runner:
        assert runner.get_loop().io == {usable_io!r}
        runner.run(main())
    """, usable_io)


def test_names_of_the_module(usable_io):
    python("""
    assert set(ringcorn.loop.__all__) <= {*dir(ringcorn.loop), "EventLoopPolicy"}
    try:
        ringcorn.loop.no_such_name
    except AttributeError:
        pass
    """, usable_io)
