"""CPython's own tests of asyncio, run on Ringcorn's event loop: the judge of its completeness.

    python tests/loop/cpython_asyncio.py [--io epoll|io_uring] [module ...]

Every loop that the tests make with asyncio's default classes is ours. Modules are run one after the other, each in a process of its
own; the last line is `N passed, N failed`. EXPECTED names what cannot pass and why.
"""

import argparse
import os
import re
import subprocess
import sys

MODULES = """
    test_base_events test_buffered_proto test_context test_eager_task_factory test_events test_free_threading test_futures
    test_futures2 test_locks test_pep492 test_protocols test_queues test_runners test_selector_events test_sendfile test_server
    test_sock_lowlevel test_ssl test_sslproto test_staggered test_streams test_subprocess test_taskgroups test_tasks test_threads
    test_timeouts test_transports test_unix_events test_waitfor
""".split()

# What cannot pass, and why. The name is unittest's id after "test.test_asyncio.".
EXPECTED = {}

SECONDS_MAX = 600  # of one module


def skips_wanted():
    version = sys.version_info[:2]
    return {name: reason for name, (reason, versions) in EXPECTED.items() if versions is None or version in versions}


def run_module(name, io):
    """In this process: patches asyncio, then runs one module of its tests."""
    import asyncio
    import unittest

    import ringcorn.loop

    class Loop(ringcorn.loop.Loop):
        """Takes the selector that the tests hand over, and does without."""

        def __init__(self, selector=None):
            super().__init__(io)
            if selector is not None:
                selector.close()

    unix = asyncio.unix_events
    asyncio.SelectorEventLoop = unix.SelectorEventLoop = Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = unix.EventLoop = Loop
    unix._UnixDefaultEventLoopPolicy._loop_factory = Loop

    skips = skips_wanted()
    suite = unittest.defaultTestLoader.loadTestsFromName(f"test.test_asyncio.{name}")

    class Result(unittest.TextTestResult):
        def startTest(self, test):
            reason = skips.get(test.id().removeprefix("test.test_asyncio."))
            if reason:
                setattr(test, "setUp", lambda: test.skipTest(reason))
            super().startTest(test)

    result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    print(f"ran {result.testsRun} skipped {len(result.skipped)} failed {failed}", flush=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--io", default="auto", choices=("auto", "epoll", "io_uring"))
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("modules", nargs="*")
    args = parser.parse_args()
    if args.in_process:
        sys.exit(run_module(args.modules[0], args.io))

    import test.test_asyncio

    there = os.listdir(os.path.dirname(test.test_asyncio.__file__))
    passed = failed = 0
    for name in args.modules or [m for m in MODULES if f"{m}.py" in there]:
        command = [sys.executable, "-u", __file__, "--io", args.io, "--in-process", name]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS_MAX)
            output, status = done.stdout, done.returncode
        except subprocess.TimeoutExpired as late:
            output = (late.stdout or b"").decode(errors="replace") + f"\n{name}: not done after {SECONDS_MAX} s\n"
            status = -1
        counts = re.search(r"^ran (\d+) skipped (\d+) failed (\d+)$", output, re.M)
        if counts is None:  # it crashed or hung
            ran, skipped, bad = 0, 0, 1
        else:
            ran, skipped, bad = map(int, counts.groups())
        if bad or status:
            print(output)
        print(f"{name}: {ran} run, {skipped} skipped, {bad} failed", flush=True)
        passed += max(ran - skipped - bad, 0)
        failed += bad
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
