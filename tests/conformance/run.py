"""`make conformance`: the tables of raw requests (pytest), then Autobahn|Testsuite, on both I/O backends.

    python tests/conformance/run.py [--cases '1.*' ...] [--io io_uring,epoll] [--only tables|autobahn]

The last line is `N passed, N failed`.
"""

import argparse
import shlex
import sys

import autobahn  # which puts tests/tools on the path
import harness
import run_tests


def tables(args, tally):
    report = run_tests.ROOT / "build" / "report-conformance.xml"
    result = run_tests.call_pytest(report, harness.BIN, ["tests/conformance", f"--io={args.io}", *shlex.split(args.pytest)])
    passed, skipped, failed, code = result or (0, 0, set(), "no report")
    failures = sorted(failed)
    if code not in (0, 1) or (code == 1 and not failed):
        failures.append(f"pytest ended with {code}")
    tally.add("tables", passed, len(failures), skipped, failures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=autobahn.SECTIONS, help="of Autobahn|Testsuite (all)")
    parser.add_argument("--io", default="io_uring,epoll", help="I/O backends, comma separated")
    parser.add_argument("--only", choices=["tables", "autobahn"])
    parser.add_argument("--pytest", default="", help="more arguments for pytest")
    args = parser.parse_args()
    tally = run_tests.Tally()
    ios = args.io.split(",")
    if args.only != "autobahn":
        tables(args, tally)
    if args.only != "tables":
        if "io_uring" in ios and (why := harness.io_uring_refused()):
            print(f"skipped io_uring: {why}")
            ios.remove("io_uring")
        autobahn.run(ios, args.cases, tally)
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
