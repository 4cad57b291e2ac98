"""CPython's own tests of asyncio, run on Ringcorn's event loop: the judge of its completeness.

    python tests/loop/cpython_asyncio.py [--io epoll|io_uring|stock] [--shake SEED[-SEED]] [module ...]

Every loop that the tests make with asyncio's default classes is ours. Modules are run one after the other, each in a process of its
own. What fails is asked twice more:

    on asyncio's own loop    what fails there too, fails for the sake of the machine; it is named, and does not count
    on ours, alone, twice    what passes both times then, is named as unsteady, and does not count: the machine was busy

The last line is `N passed, N failed`. EXPECTED names what cannot pass and why.

--shake: on loops in shake mode (ringcorn.shake), under each of these seeds: what asyncio promises must hold there, too. SHAKEN names what cannot pass then:
tests that rely on more than that.
"""

import argparse
import os
import re
import resource
import signal
import subprocess
import sys

MODULES = """
    test_base_events test_buffered_proto test_context test_eager_task_factory test_events test_free_threading test_futures
    test_futures2 test_locks test_pep492 test_protocols test_queues test_runners test_selector_events test_sendfile test_server
    test_sock_lowlevel test_ssl test_sslproto test_staggered test_streams test_subprocess test_taskgroups test_tasks test_threads
    test_timeouts test_transports test_unix_events test_waitfor
""".split()

# What cannot pass: unittest's id after "test.test_asyncio." -> (why, versions as (3, 13), or None for all).
EXPECTED = {}

# The same under --shake, where awaits that have what they wait for suspend.
_TURNS = "counts the turns of the loop that something takes, where what it awaits has what it waits for"
_TURN_COUNTERS = {
    "BarrierTests": """
        test_abort_barrier test_abort_barrier_when_tasks_half_draining_half_blocking test_filling_one_task_twice test_filling_task_by_task
        test_filling_tasks_cancel_one test_repr test_reset_barrier_when_tasks_half_draining
        test_reset_barrier_when_tasks_half_draining_half_blocking test_reset_barrier_while_tasks_draining
    """,
    "ConditionTests": """
        test_notify test_notify_all test_wait test_wait_cancel_after_notify test_wait_for
    """,
    "EventTests": """
        test_clear_with_waiters test_wait
    """,
    "LockTests": """
        test_acquire test_cancel_race test_cancel_release_race
    """,
    "SemaphoreTests": """
        test_acquire test_acquire_cancel_before_awoken test_acquire_fifo_order_2 test_acquire_fifo_order_3 test_acquire_hang
    """,
}
SHAKEN = {f"test_locks.{name}.{test}": (_TURNS, None) for name, tests in _TURN_COUNTERS.items() for test in tests.split()}
SHAKEN["test_streams.StreamTests.test_unhandled_exceptions"] = ("a server's handler may have closed its connection before the client has written", None)

SECONDS_MAX = 600  # of one module
MEMORY_MAX = 6 << 30  # address space of one module: a test that spins must not take the machine with it
AGAIN = 2  # times that a failed test is run alone


# ------------------------------------------------------------------ inside a module's process


def skips_wanted(shake=None):
    version = sys.version_info[:2]
    expected = EXPECTED if shake is None or (":" in shake and "awaits" not in shake) else {**EXPECTED, **SHAKEN}
    return {name: reason for name, (reason, versions) in expected.items() if versions is None or version in versions}


def loop_class(io, shake):
    """What makes a loop."""
    if shake is None:
        from ringcorn.loop import Loop

        return Loop, (io,)
    from ringcorn.shake import ShakeLoop, awaits

    awaits.install()
    return ShakeLoop, (shake, io)


def make_ours_the_default(io, shake):
    import asyncio

    base, args = loop_class(io, shake)

    class Loop(base):
        """Takes the selector that the tests hand over, and does without."""

        def __init__(self, selector=None):
            super().__init__(*args)
            if selector is not None:
                selector.close()

    unix = asyncio.unix_events
    asyncio.SelectorEventLoop = unix.SelectorEventLoop = Loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = unix.EventLoop = Loop
    policy = getattr(unix, "_UnixDefaultEventLoopPolicy", None) or unix._DefaultEventLoopPolicy  # its name from 3.14 on
    policy._loop_factory = Loop


def run_module(name, io, shake, only):
    """Runs one module of the tests, or those tests of it whose ids are in *only*."""
    import unittest

    # Tests interrupt themselves; where this was started in the background, SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    if io != "stock":
        make_ours_the_default(io, shake)
    skips = skips_wanted(shake)
    names = [f"test.test_asyncio.{each}" for each in only or [name]]
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)

    class Result(unittest.TextTestResult):
        def startTest(self, test):
            reason = skips.get(test.id().removeprefix("test.test_asyncio."))
            if reason:
                setattr(test, "setUp", lambda: test.skipTest(reason))
            super().startTest(test)

    result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    bad = [test.id() for test, _ in [*result.failures, *result.errors]] + [test.id() for test in result.unexpectedSuccesses]
    # A subtest's id is its test's and what it was called with.
    for each in sorted({re.sub(r" .*", "", each) if not each.startswith("setUp") else each for each in bad}):
        print(f"FAILED {each.removeprefix('test.test_asyncio.')}")
    print(f"ran {result.testsRun} skipped {len(result.skipped)}", flush=True)
    return 1 if bad else 0


# ------------------------------------------------------------------ outside


def run(name, io, shake=None, only=()):
    """(tests run, skipped, ids of those that failed, output); a module that did not come to its end has failed as a whole."""
    command = [sys.executable, "-u", __file__, "--io", io, "--in-process", *(["--shake", shake] if shake else ()), name, *only]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SECONDS_MAX)
        output, end = done.stdout, f"exit code {done.returncode}"
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace")
        end = f"not done after {SECONDS_MAX} s"
    counts = re.search(r"^ran (\d+) skipped (\d+)$", output, re.M)
    if counts is None:  # it crashed or hung
        return 0, 0, {name}, f"{output}\n{name}: {end}\n"
    return int(counts[1]), int(counts[2]), set(re.findall(r"^FAILED (\w.*)$", output, re.M)), output


def ask_again(name, io, shake, failed):
    """(what fails on asyncio's loop too, what passes alone) of the tests of a module that have failed."""
    # What a class or the whole module does before its tests can only be repeated with all of it.
    ids = sorted(failed) if all(re.fullmatch(r"[\w.]+\.\w+\.\w+", each) for each in failed) else []
    stock = failed & run(name, "stock", None, ids)[2] if io != "stock" else set()
    failed = failed - stock
    unsteady = set(failed)
    for _ in range(AGAIN if failed else 0):
        unsteady -= run(name, io, shake, [each for each in ids if each in failed])[2]
    return stock, unsteady


def seeds_of(text):
    """"7" and "1-20", each with kinds behind it or without; None: no shaking."""
    if text is None:
        return [None]
    numbers, colon, kinds = text.partition(":")
    first, _, last = numbers.partition("-")
    return [f"{number}{colon}{kinds}" for number in range(int(first), int(last or first) + 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--io", default="auto", choices=("auto", "epoll", "io_uring", "stock"))
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--shake", metavar="SEED[-SEED]", help="on loops in shake mode, under each of these seeds")
    parser.add_argument("modules", nargs="*")
    args = parser.parse_args()
    if args.in_process:
        sys.exit(run_module(args.modules[0], args.io, args.shake, args.modules[1:]))

    try:
        import test.test_asyncio
    except ImportError:
        version = "{}.{}".format(*sys.version_info)
        sys.exit(f"this Python ({sys.executable}) has no tests of its own; Debian's are in the package libpython{version}-testsuite")

    there = os.listdir(os.path.dirname(test.test_asyncio.__file__))
    passed, lost, machine, unsteady = 0, [], [], []
    names = args.modules or [m for m in MODULES if f"{m}.py" in there]
    for name, seed in [(name, seed) for name in names for seed in seeds_of(args.shake)]:
        ran, skipped, failed, output = run(name, args.io, seed)
        if failed:
            print(output)
        elsewhere, alone = ask_again(name, args.io, seed, failed) if failed else (set(), set())
        bad = sorted(failed - elsewhere - alone)
        print(f"{name}{f', seed {seed}' if seed else ''}: {ran} run, {skipped} skipped, {len(bad)} failed", flush=True)
        passed += max(ran - skipped - len(failed - alone), 0)
        lost += bad
        machine += sorted(elsewhere)
        unsteady += sorted(alone)
    print(f"CPython {sys.version.split()[0]}, {args.io}, {len(skips_wanted(args.shake))} expected not to pass")
    for each in machine:
        print(f"  fails on asyncio's own loop too: {each}")
    for each in unsteady:
        print(f"  unsteady, passes alone: {each}")
    for each in lost:
        print(f"  FAILED {each}")
    print(f"{passed} passed, {len(lost)} failed")
    sys.exit(1 if lost or not passed else 0)


if __name__ == "__main__":
    main()
