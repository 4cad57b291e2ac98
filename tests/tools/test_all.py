"""`make test-all`: `make test` for every Python from 3.11 that this machine has, the suite against an ASan/UBSan build, the
C unit tests under TSan, the loads on PostgreSQL at full length, the stress scenarios (the mixed load also under ASan and on a debug Python), the frameworks'
version matrix, the image (as root), CPython's own asyncio tests on every Python, the suites of others
(aiohttp, AnyIO, asyncpg, ...), Django's own tests. The last line is the sum.

Pythons come from pyenv (all installed versions) and from python3.X on PATH; of several with the same X.Y the newest is taken.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import django_suite
from run_tests import SIDE_BY_SIDE

ROOT = Path(__file__).resolve().parents[2]
MINORS = range(11, 20)
# AnyIO's backend is made ours under names that are not public.
ANYIO = ["tests/e2e/test_clients.py", "tests/e2e/test_anyio_threads.py", "tests/loop/test_anyio_backend.py", "-k", "anyio"]
# Other versions of frameworks than the pinned ones: name -> (requirements, tests, least Python minor).
DJANGO = [
    "tests/e2e/test_django.py", "tests/e2e/test_django_by_view.py", "tests/e2e/test_django_postgres.py", "tests/e2e/test_database_hooks.py",
    "tests/e2e/test_hints.py", "tests/e2e/test_check_config.py",
]  # fmt: skip
LEASES = ["tests/e2e/test_leases.py", "tests/e2e/test_leases_django.py"]
CHANNELS = ["tests/loop/test_websocket_lease.py"]
MATRIX = {
    "newest Django": (["Django>=6.1"], DJANGO, 12),
    "Django 6.0": (["Django~=6.0.0"], DJANGO, 12),
    # 4.2 does not cancel an async view whose client has left; 5.0 is the first to do so.
    "Django 4.2": (["Django~=4.2.0"], [*DJANGO, "-k", "not test_page and not test_form and not leaves_an_async_view"], 11),
    "asgiref 3.8.1": (["asgiref==3.8.1"], [*DJANGO, *LEASES], 11),
    **{f"asgiref {v}": ([f"asgiref=={v}"], [*LEASES, *CHANNELS], 11) for v in ("3.9.2", "3.10.0", "3.11.1", "3.12.1", "3.13.0")},
    "Starlette 0.40, FastAPI 0.115": (
        ["fastapi==0.115.0", "starlette<0.39"], ["tests/e2e/test_frameworks.py", *ANYIO[:-1], "fastapi or starlette or anyio"], 11,
    ),
    **{f"AnyIO {v}": ([f"anyio=={v}"], ANYIO, 11) for v in ("4.4.0", "4.8.0", "4.11.0", "4.12.1")},
    "newest AnyIO": (["anyio>=4.16"], ANYIO, 11),
}


def pythons():
    """{(3, 11): path}, newest patch level of each."""
    found = {}

    def offer(path):
        try:
            # Free-threaded ones are left out: half of the pinned packages has no wheels for them.
            code = "import sys, sysconfig; print(*sys.version_info[:3] if not sysconfig.get_config_var('Py_GIL_DISABLED') else ())"
            out = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=20)
            version = tuple(map(int, out.stdout.split()))
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return
        if len(version) == 3 and version >= (3, 11) and version > found.get(version[:2], ((0, 0, 0), None))[0]:
            found[version[:2]] = (version, str(path))

    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in sorted(root.glob("versions/3.*/bin/python3")):
        offer(path)
    for minor in MINORS:
        if path := shutil.which(f"python3.{minor}"):
            offer(path)
    return {key: path for key, (_, path) in sorted(found.items())}


class Sum:
    def __init__(self):
        self.passed = self.failed = 0
        self.lines = []

    def run(self, name, command, env=None):
        print(f"\n{'=' * 100}\n=== {name}: {shlex.join(map(str, command))}\n", flush=True)
        env = {k: v for k, v in {**os.environ, **(env or {})}.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        last = None
        for line in process.stdout:
            print(line, end="", flush=True)
            if match := re.search(r"\b(\d+) passed", line):
                failed = sum(int(n) for n in re.findall(r"\b(\d+) (?:failed|errors?)\b", line))
                last = int(match[1]), failed
            elif match := re.search(r"\b(\d+) (?:failed|errors?)\b", line):
                last = 0, int(match[1])
        code = process.wait()
        passed, failed = last or (0, 0)
        if code != 0 and failed == 0:
            failed = 1  # died, or ran nothing
        self.passed += passed
        self.failed += failed
        self.lines.append(f"{name}: {passed} passed, {failed} failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", default="make")
    parser.add_argument("--only", default="", help="3.12,asan,tsan,cost,loads,stress,soak,mixed,matrix,asyncio,foreign,docker: only these parts")
    parser.add_argument("--rows", default="", help="of the matrix: only those whose name this regular expression finds")
    parser.add_argument("--minutes", type=float, default=1, help="of each mixed load, and of the soak on each backend (1)")
    args = parser.parse_args()
    only = set(filter(None, args.only.split(",")))
    make = [*shlex.split(args.make), "--no-print-directory"]
    began = time.monotonic()
    total = Sum()
    found = pythons()
    print("Pythons:", ", ".join(found.values()) or "none")
    default = shutil.which("python3")
    default_version = tuple(map(int, subprocess.run([default, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True).stdout.split()))

    for version, path in found.items():
        name = ".".join(map(str, version))
        if only and name not in only:
            continue
        python = "python3" if version == default_version else path
        total.run(f"Python {name}", [*make, "test", f"PYTHON={python}"])

    if not only or "asan" in only:
        total.run("ASan and UBSan, build", [*make, "VARIANT=asan", "all", "venv"])
        pytest = ["build/venv/bin/python", "-m", "pytest", "-q", *SIDE_BY_SIDE, "-m", "not slow"]
        total.run("ASan and UBSan, the program", [*pytest, "tests/e2e", "tests/conformance"], {"RINGCORN_BIN": str(ROOT / "build/asan/ringcorn")})
        # The extension in a plain Python: the sanitizer's runtime must come first.
        runtime = [subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip() for name in ("libasan.so", "libubsan.so")]
        total.run(
            "ASan and UBSan, the loop alone", [*pytest, "-p", "no:faulthandler", "tests/loop"],
            {
                "RINGCORN_BIN": str(ROOT / "build/asan/ringcorn"), "LD_PRELOAD": " ".join(runtime), "PYTHONMALLOC": "malloc",
                "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            },
        )  # fmt: skip

    if not only or "tsan" in only:
        total.run("TSan, the parts without Python", [sys.executable, ROOT / "tests/tools/run_tests.py", "--make", args.make, "--units-of", "tsan"])

    if not only or "cost" in only:
        if shutil.which("valgrind"):
            total.run("What guardrails cost, build", [*make, "all", "venv"])
            total.run("What guardrails cost", ["build/venv/bin/python", "tests/bench/instructions.py", "--guard", "--requests", "1600"])
        else:
            print("What guardrails cost: no valgrind here (apt-get install valgrind), left out")

    if not only or "loads" in only:
        total.run("Django on PostgreSQL at full length, build", [*make, "all", "venv"])
        total.run(
            "Django on PostgreSQL at full length", ["build/venv/bin/python", "-m", "pytest", "-q", "tests/e2e/test_django_postgres.py"],
            {"RINGCORN_TEST_FULL": "1"},
        )  # fmt: skip

    if not only or "stress" in only:
        total.run("Stress", [*make, "stress"])
    if not only or "soak" in only:
        total.run("No false alarm", [*make, "soak", f"STRESS=--minutes {args.minutes * 2:g}"])
    if not only or "mixed" in only:
        minutes = f"STRESS=--minutes {args.minutes:g}"
        total.run("Mixed load, ASan and UBSan", [*make, "stress-asan", minutes])
        if shutil.which("python3-dbg"):
            total.run("Mixed load, a debug Python", [*make, "stress-debug", minutes])
        else:
            print("Mixed load: no debug Python here (apt-get install python3-dbg), left out")

    if not only or "asyncio" in only:
        suite = ROOT / "tests/loop/cpython_asyncio.py"
        for version, path in found.items():
            name = ".".join(map(str, version))
            python, package = ("python3", "build/python") if version == default_version else (path, f"build/release-{name}/python")
            total.run(f"CPython {name}'s asyncio tests, build", [*make, "all", f"PYTHON={python}"])
            for io in ("epoll", "io_uring"):
                total.run(f"CPython {name}'s asyncio tests, {io}", [python, suite, "--io", io], {"PYTHONPATH": str(ROOT / package)})

    if not only or "foreign" in only:
        total.run("The suites of others, build", [*make, "all"])
        total.run("The suites of others", ["python3", ROOT / "tests/loop/foreign.py"])

    if not only or "django" in only:
        for version, minors in django_suite.VERSIONS.items():
            minor = next((minor for minor in minors if (3, minor) in found), None)
            if minor is None:
                print(f"Django {version}'s tests: no Python for it here, left out")
                continue
            python = "python3" if default_version == (3, minor) else found[3, minor]
            total.run(f"Django {version}'s own tests, build", [*make, "all", f"PYTHON={python}"])
            total.run(f"Django {version}'s own tests", [sys.executable, ROOT / "tests/tools/django_suite.py", "--versions", version])

    if not only or "docker" in only:
        if os.geteuid() == 0:
            total.run("the image", [*make, "test-docker"])
        else:
            print("the image: containers are for root here, left out")

    if not only or "matrix" in only:
        for name, (requirements, tests, least) in MATRIX.items():
            if not re.search(args.rows, name):
                continue
            version = max((v for v in found if v[1] >= least), default=None)
            if version is None:
                print(f"{name}: no Python new enough here, left out")
                continue
            python = "python3" if version == default_version else found[version]
            tag = "" if python == "python3" else "-" + ".".join(map(str, version))
            venv = ROOT / "build" / "matrix-venv"
            shutil.rmtree(venv, ignore_errors=True)
            program = ROOT / (f"build/release{tag}/ringcorn" if tag else "build/ringcorn")
            total.run(f"{name}, build", [*make, "all", f"PYTHON={python}"])
            # The pinned set first, then what differs from it.
            install = [venv / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            ready = (
                subprocess.run([python, "-m", "venv", venv]).returncode == 0
                and subprocess.run([*install, "-r", ROOT / "tests/tools/requirements.txt"]).returncode == 0
                and subprocess.run([*install, *requirements]).returncode == 0
            )
            if not ready:
                total.failed += 1
                total.lines.append(f"{name}: could not be installed")
                continue
            total.run(name, [venv / "bin/python", "-m", "pytest", "-q", *SIDE_BY_SIDE, *tests], {"RINGCORN_BIN": str(program)})
            shutil.rmtree(venv, ignore_errors=True)

    print(f"\n{'=' * 100}\n{time.monotonic() - began:.0f} s")
    # Builds run no tests of their own.
    for line in total.lines:
        if not line.endswith("build: 0 passed, 0 failed"):
            print(line)
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())
