"""Runs every test runner of `make test` and sums them up; the last line is `N passed, N failed`.

    C unit tests (TAP) and fuzz regressions, built with AddressSanitizer; then pytest against the real program, on both backends.

A runner that cannot be built or dies counts as a failure, and so does one that ran nothing. Tests mostly wait, so more of them run
side by side than there are processors; those that cannot bear it are marked `alone`.
"""

import argparse
import concurrent.futures
import os
import re
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = min(len(os.sched_getaffinity(0)), 7) + 1  # a container may have less than the processors that are seen
# For pytest (pytest-xdist): one that has nothing left to do takes tests over from another.
SIDE_BY_SIDE = ["-n", str(AT_ONCE), "--dist", "worksteal"]


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def add(self, name, passed, failed, skipped=0, failures=()):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        self.failures += [f"{name}: {f}" for f in failures]
        print(f"--- {name}: {passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)

    def end(self):
        """Says what failed and the sum; the exit code."""
        for failure in self.failures:
            print("FAILED", failure)
        if self.skipped:
            print(f"{self.skipped} skipped")
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed or not self.passed else 0


def say(text):
    print(f"\n=== {text}", flush=True)


def make(args, *goals):
    """Builds; the number of goals is small and the output short."""
    command = [*shlex.split(args.make), f"-j{os.cpu_count()}", f"PYTHON={args.python}", *goals]
    print("+", shlex.join(command), flush=True)
    # MAKEFLAGS of the make that started us speaks of a job server we have no part in.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(command, cwd=ROOT, env=env).returncode == 0


def run_tap(program):
    """One C unit test program: how many tests passed, and the others; what it printed where some failed."""
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:abort_on_error=0", UBSAN_OPTIONS="print_stacktrace=1", TSAN_OPTIONS="die_after_fork=0")
    try:
        done = subprocess.run([program], cwd=ROOT, env=env, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired as e:
        return 0, ["did not end within 120 s"], (e.stdout or b"").decode(errors="replace")
    text = done.stdout.decode(errors="replace")
    lines = text.splitlines()
    passed = sum(line.startswith("ok ") for line in lines)
    bad = [line for line in lines if line.startswith("not ok ")]
    plan = next((int(m[1]) for line in lines if (m := re.fullmatch(r"1\.\.(\d+)", line))), None)
    if plan != passed + len(bad) or plan == 0:
        bad.append(f"planned {plan}, ran {passed + len(bad)} (exit code {done.returncode})")
    elif done.returncode != (1 if bad else 0):
        bad.append(f"exit code {done.returncode}")
    return passed, bad, f"{text}\n{done.stderr.decode(errors='replace')}" if bad else ""


SANITIZERS = {"asan": "AddressSanitizer and UBSan", "tsan": "ThreadSanitizer"}


def run_units(args, tally, variant):
    say(f"C unit tests, {SANITIZERS[variant]}")
    sources = sorted((ROOT / "tests/unit").glob("test_*.c"))
    # -k: one test that does not compile must not hide the others.
    make(args, "-k", f"VARIANT={variant}", "unit-programs")

    def run(source):
        program = ROOT / f"build/{variant}{args.tag}/unit/{source.stem}"
        if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
            return run_tap(program)
        return 0, ["was not built"], ""

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for source, (passed, bad, text) in zip(sources, pool.map(run, sources)):
            if text:
                print(text)
            tally.add(source.stem, passed, len(bad), failures=bad)
    if not sources:
        tally.add("unit", 0, 1, failures=["no unit tests found"])


def run_fuzz(args, tally):
    sources = sorted((ROOT / "tests/fuzz").glob("fuzz_*.c"))
    if not sources:
        return
    say("fuzz regressions and seeds, replayed")
    make(args, "-k", "VARIANT=asan", "fuzz-replays")
    for source in sources:
        program = ROOT / f"build/asan{args.tag}/fuzz/{source.stem}"
        name = source.stem.removeprefix("fuzz_")
        inputs = sorted(p for folder in ("regression", "seeds") for p in (ROOT / "tests/fuzz" / folder / name).glob("*") if p.is_file())

        def problem(item, program=program):
            try:
                done = subprocess.run([program, item], capture_output=True, timeout=60)
            except (OSError, subprocess.TimeoutExpired) as e:
                return f"{item.relative_to(ROOT)}: {e}"
            if done.returncode:
                return f"{item.relative_to(ROOT)}: exit code {done.returncode}\n{done.stderr.decode(errors='replace')[-2000:]}"

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            bad = list(filter(None, pool.map(problem, inputs)))
        passed = len(inputs) - len(bad)
        if not inputs:
            bad.append("no inputs")
        tally.add(source.stem, passed, len(bad), failures=bad)


AGAIN_MAX = 8  # failures that may come from a busy machine; more are none


def node_id(label):
    """tests.e2e.test_x::test_y[z], as the report has it, in the way that pytest takes it."""
    where, name = label.split("::", 1)
    if not where:  # a file that could not be collected
        return str(Path(*name.split(".")).with_suffix(".py"))
    parts = where.split(".")
    for n in range(len(parts), 0, -1):
        path = Path(*parts[:n]).with_suffix(".py")
        if (ROOT / path).exists():
            return "::".join([str(path), *parts[n:], name])
    return where


def call_pytest(report, program, extra):
    """Returns (passed, skipped, the names of what failed, pytest's exit code or what was worse), or None without a report."""
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *extra]
    print("+", shlex.join(command), flush=True)
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "RINGCORN_BIN": str(program)}).returncode
    if not report.exists():
        return None
    passed = skipped = 0
    failed = set()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        # pytest-xdist goes on with another process. It was a crash, all the same, which no second run excuses.
        if any(re.match(r"worker '\w+' crashed while running ", child.text or "") for child in case):
            code = "the death of a process"
        if kinds & {"failure", "error"}:
            failed.add(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return passed, skipped, failed, code


def run_pytest(args, tally, name, program):
    say(f"{name}: {program.relative_to(ROOT)}")
    report = ROOT / "build" / f"report-{re.sub(r'[^a-z0-9.]+', '-', name.lower())}.xml"
    result = call_pytest(report, program, [*SIDE_BY_SIDE, *shlex.split(args.pytest)])
    if result is None:
        return tally.add(name, 0, 1, failures=["pytest ended without a report"])
    passed, skipped, failed, code = result
    if code == 1 and 0 < len(failed) <= AGAIN_MAX and not args.pytest:
        # Once more, one by one: a machine that others use can keep a process waiting for longer than a test does. What fails again
        # has failed; what does not is named.
        say(f"{name}: {len(failed)} failed, and are run once more")
        again = call_pytest(report.with_suffix(".again.xml"), program, list(map(node_id, sorted(failed))))
        # Every one of them has to be seen to pass.
        if again is not None and again[3] in (0, 1) and again[0] + len(again[2]) == len(failed) and again[2] <= failed:
            for label in sorted(failed - again[2]):
                print(f"UNSTEADY {label}: failed once, and passed when it was run again", flush=True)
            passed += len(failed - again[2])
            failed, code = again[2], again[3]
    failures = sorted(failed)
    if code not in (0, 1):
        failures.append(f"pytest ended with {code}")
    elif passed + len(failures) == 0:
        failures.append("nothing ran")
    elif code == 1 and not failures:
        failures.append("pytest says that something failed")
    tally.add(name, passed, len(failures), skipped, failures)


def name_containers(tally):
    """What `make test-docker` runs takes root, programs of its own and more minutes than there are here."""
    say("containers: make test-docker")
    listed = subprocess.run([sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/docker"], cwd=ROOT, capture_output=True, text=True).stdout
    tally.add("containers", 0, 0, skipped=len(re.findall(r"^tests/docker/.*::", listed, re.M)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", default="make")
    parser.add_argument("--python", default="python3", help="the Python the program is built for")
    parser.add_argument("--tag", default="", help="what the build folder of this Python is called: '' or '-3.13'")
    parser.add_argument("--variant", default="release", help="the build that the pytest suites run against")
    parser.add_argument("--skip-units", action="store_true")
    parser.add_argument("--units-of", choices=SANITIZERS, help="the C unit tests of this build, and nothing else")
    parser.add_argument("--pytest", default="", help="more arguments for pytest")
    args = parser.parse_args()

    began = time.monotonic()
    tally = Tally()
    if args.units_of:
        run_units(args, tally, args.units_of)
        return tally.end()
    folder = f"{args.variant}{args.tag}"
    program = ROOT / ("build/ringcorn" if folder == "release" else f"build/{folder}/ringcorn")

    say(f"build: {args.variant}, {args.python}")
    built = make(args, f"VARIANT={args.variant}", "all")
    if not built:
        tally.add("build", 0, 1, failures=[f"{args.variant} does not build"])
    if not args.skip_units:
        run_units(args, tally, "asan")
        run_fuzz(args, tally)
    if built:
        run_pytest(args, tally, f"pytest-{folder}", program)
    name_containers(tally)

    print(f"\n{time.monotonic() - began:.0f} s")
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
