"""The suites of others, run on Ringcorn's event loop: what runs on asyncio runs here.

    tests/loop/foreign.py [--io epoll|io_uring] [--keep] [--jobs N] [--python PYTHON] [--tests ARGUMENTS] [NAME ...]

SUITES names them, with the version of each. Sources and virtual environments lie in build/foreign/, which --keep leaves there, with what the stock loop's
run gave, for the next time. Each suite runs once on asyncio's own loop and once on ours on each backend (foreign_site/sitecustomize.py makes ours
the default). What fails there is run once more, alone. What does not pass here and does pass there is run twice more, alone: if it passes both
times it is named as unsteady and does not count; but a crash counts.
A test that is skipped or missing here and passes there is a failure too.

Tests come from the source distribution on PyPI, or, where that has none, by git from the project's repository: build/foreign/git/NAME may be a copy of it
(a work tree or a git directory), where the repository cannot be reached. The last line is `N passed, N failed`; what fails on both loops is not in it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tests" / "tools"
sys.path.insert(0, str(TOOLS))
BUILD = ROOT / "build" / "foreign"
EXTENSION = None  # the folder of _ringcorn and ringcorn, told by main()
SITE = Path(__file__).resolve().parent / "foreign_site"
PYTEST = ["pytest==9.1.1", "pytest-timeout==2.4.0"]
TEST_SECONDS_MAX = 60  # of one test
SILENT_SECONDS_MAX = TEST_SECONDS_MAX + 60  # nothing is heard of any test for so long: not even pytest-timeout could end it
START_SECONDS_MAX = 300  # before the first test
RUNS_MAX = 20  # a run that breaks off is gone on with behind the test that broke it
AGAIN = 2  # times that a test which fails here alone is repeated
FAILED, BROKE_OFF = "failed", "broke off"  # the latter: the process crashed or hung in it
STOPPING = threading.Event()  # by a signal


@dataclass
class Suite:
    pin: str  # of the distribution with the tests
    needs: list  # what else is installed
    tests: list  # pytest's arguments
    git: str = ""  # where the source distribution has no tests: repository and tag
    folder: str = ""  # of the source that the tests are run in
    remove: list = field(default_factory=list)  # of the source, so that the installed package is tested
    install: list = field(default_factory=list)  # folders of the source, in place of the pin
    env: dict = field(default_factory=dict)
    service: str = ""  # postgres, postgres-tools, redis, redis-all, redis-cluster
    seconds_max: int = 1800  # of one run
    apart: dict = field(default_factory=dict)  # tests that cannot pass and are left out, on both loops: id -> why


REDIS_NEEDS = [
    "pytest-asyncio==1.4.0", "numpy", "xxhash", "pybreaker", "PyJWT", "aiohttp==3.14.5", "packaging", "requests", "cryptography", "opentelemetry-api", "opentelemetry-sdk",
    "redis-entraid==1.2.2",
]  # fmt: skip
SUITES = {
    "aiohttp": Suite(
        "aiohttp==3.14.5",
        ["pytest-mock==3.15.1", "pytest-xdist==3.8.0", "pytest-cov", "freezegun", "proxy.py>=2.4.4rc5", "trustme==1.2.1", "gunicorn", "isal", "zlib_ng", "Brotli>=1.2",
         "aiodns>=3.3.0", "blockbuster", "pytest_codspeed"],
        ["tests", "-p", "xdist", "--numprocesses=0", "-o", "addopts=", "-m", "not dev_mode and not autobahn and not internal"],
        remove=["aiohttp"],
        env={"RINGCORN_FOREIGN_FREEZE": "1"},
        apart={"tests/test_web_functional.py::test_keepalive_expires_on_time[pyloop]": "replaces loop.time(), which timers of ours, and of uvloop, do not ask"},
    ),
    "anyio": Suite(
        "anyio==4.16.0",
        ["blockbuster>=1.5.29", "hypothesis>=4.18.2", "psutil", "pytest-mock==3.15.1", "trustme==1.2.1", "truststore", "trio>=0.32", "coverage"],
        ["tests", "-k", "not trio"],
        remove=["src"],
    ),
    "asyncpg": Suite("asyncpg==0.32.0", ["distro"], ["tests", "--ignore", "tests/test__sourcecode.py"], remove=["asyncpg"], service="postgres-tools"),
    "psycopg": Suite(
        "psycopg==3.3.4",
        ["anyio==4.16.0", "dnspython", "pproxy==2.7.9"],
        ["tests", "-k", "async or asyncio", "--ignore", "tests/test_typing.py"],  # mypy's opinion of the annotations; no loop
        git="https://github.com/psycopg/psycopg 3.3.4",
        install=["psycopg", "psycopg_pool"],
        env={"RINGCORN_FOREIGN_FREEZE": "1"},
        service="postgres",
    ),
    "redis": Suite(
        "redis==8.1.0",
        REDIS_NEEDS,
        # What needs Redis' modules, or a service of its vendor's (multidb_integration, cp_integration, test_scenario), is left out.
        ["tests/test_asyncio", "-m", "not redismod and not onlycluster and not cp_integration and not multidb_integration", "--ignore", "tests/test_asyncio/test_scenario"],
        remove=["redis"],
        service="redis-all",
    ),
    "redis-cluster": Suite(
        "redis==8.1.0",
        REDIS_NEEDS,
        ["tests/test_asyncio", "-m", "onlycluster and not redismod and not cp_integration and not multidb_integration and not ssl",
         "--ignore", "tests/test_asyncio/test_scenario"],
        remove=["redis"],
        service="redis-cluster",
        seconds_max=3600,
    ),
    "httpx": Suite(
        "httpx==0.28.1",
        ["h2", "brotli", "zstandard", "socksio", "click", "pygments", "rich", "trio", "trustme==1.2.1", "uvicorn==0.54.0", "chardet", "cryptography"],
        ["tests", "-k", "not trio", "-W", "default"],
        remove=["httpx"],
    ),
    "httpcore": Suite("httpcore==1.0.9", ["h2", "socksio", "trio", "anyio==4.16.0", "pytest-httpbin", "pytest-trio"], ["tests", "-k", "not trio", "-W", "default"], remove=["httpcore"]),
    "websockets": Suite(
        "websockets==17.0.1",
        ["python-socks[asyncio]", "werkzeug"],
        ["tests/asyncio", "tests/legacy", "-W", "default"],
        git="https://github.com/python-websockets/websockets 17.0.1",
        install=["."],
    ),
    "tornado": Suite("tornado==6.6.1", ["pycares<5"], ["--pyargs", "tornado.test", "-p", "no:logging", "-W", "default"], folder="docs", env={"RINGCORN_FOREIGN_QUIET": "tornado.access"}),
    "python-engineio": Suite("python-engineio==4.15.1", ["pytest-asyncio==1.4.0", "aiohttp==3.14.5", "tornado==6.6.1", "requests", "websocket-client"], ["tests/async"], remove=["src"]),
    "python-socketio": Suite(
        "python-socketio==5.18.1",
        ["pytest-asyncio==1.4.0", "simple-websocket", "uvicorn==0.54.0", "requests", "websocket-client", "aiohttp==3.14.5", "msgpack", "redis==8.1.0", "valkey"],
        ["tests/async"],
        remove=["src"],
        service="redis",
    ),
    "uvicorn": Suite(
        "uvicorn[standard]==0.54.0",
        ["pytest-mock==3.15.1", "pytest-xdist[psutil]==3.8.0", "trustme==1.2.1", "cryptography", "a2wsgi==1.10.10", "wsproto==1.3.2", "httpx2", "anyio==4.16.0", "pytest-codspeed"],
        ["tests", "-o", "addopts=", "-W", "default"],
        remove=["uvicorn"],
    ),
}  # fmt: skip


# ------------------------------------------------------------------ sources and environments


def prepare(name, suite, python):
    """(the environment's python, the folder that the tests run in)."""
    folder = BUILD / name
    ready = folder / "ready"
    stamp = repr((suite.pin, suite.git, suite.install, suite.needs, suite.remove, PYTEST, python))
    if not (ready.exists() and ready.read_text() == stamp):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        pip = [folder / "venv/bin/python", "-m", "pip", "--disable-pip-version-check", "-q"]
        fetch(name, suite, folder, pip)
        what = [folder / "source" / each for each in suite.install] or [suite.pin]
        subprocess.run([*pip, "install", *PYTEST, *what, *suite.needs], check=True)
        # Their own choice of a loop would be uvloop, where it is there.
        subprocess.run([*pip, "uninstall", "-y", "uvloop"], check=True, stderr=subprocess.DEVNULL)
        for each in suite.remove:
            shutil.rmtree(folder / "source" / each)
        ready.write_text(stamp)
    return folder / "venv/bin/python", folder / "source" / suite.folder


def fetch(name, suite, folder, pip):
    source = folder / "source"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if suite.git:
            repository, tag = suite.git.split()
            here = BUILD / "git" / name
            if not here.exists():
                clone = ["git", "clone", "-q", "--bare", "--depth", "1", "--branch", tag, repository, f"{temporary}/git"]
                subprocess.run(clone, check=True)
                here = f"{temporary}/git"
            subprocess.run(["git", "-C", here, "archive", "-o", f"{temporary}/source.tar", tag], check=True)
            source.mkdir()
            archive, into = f"{temporary}/source.tar", source
        else:
            plain = re.sub(r"\[.*\]", "", suite.pin)
            # Only this one from source: what it is built with may come as it is.
            only = ["--no-binary", plain.split("==")[0]]
            subprocess.run([*pip, "download", "--no-deps", *only, plain, "-d", temporary], check=True)
            (archive,), into = Path(temporary).glob("*.tar.gz"), temporary
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
        if not suite.git:
            (found,) = (each for each in Path(temporary).iterdir() if each.is_dir())
            found.rename(source)


# ------------------------------------------------------------------ what the suites talk to


SETTING_UP = threading.Lock()


@contextlib.contextmanager
def service(suite, folder):
    """(variables for the run, arguments for pytest)."""
    from ports import free_port

    if suite.service == "postgres":
        from postgres import Postgres

        with Postgres(max_prepared_transactions=10, max_connections=200) as server:
            yield {"PSYCOPG_TEST_DSN": server.dsn}, []
    elif suite.service == "postgres-tools":
        with SETTING_UP:
            tools = postgres_tools(folder / "postgres")
        yield {"PGINSTALLATION": str(tools), "LC_ALL": "C.UTF-8"}, []
    elif suite.service == "redis":
        from redis_server import Redis

        with Redis() as server:
            yield {"REDIS_URL": server.url}, []
    elif suite.service == "redis-all":
        from redis_server import Redis, Sentinel

        # Where a test has the port in its text it is this one: should it be taken, those fail on both loops.
        with SETTING_UP:
            tls = redis_certificates(folder)
        port = str(free_port())
        options = ["--enable-debug-command", "yes", "--tls-port", port, *tls]
        with Redis(*options, port=6379) as server, Sentinel(server, "redis-py-test") as one, Sentinel(server, "redis-py-test") as two:
            sentinels = ",".join(f"localhost:{each.port}" for each in (one, two))
            yield {}, ["--redis-url", f"{server.url}/0", "--redis-ssl-url", f"rediss://localhost:{port}", "--sentinels", sentinels]
    elif suite.service == "redis-cluster":
        from redis_server import Cluster

        with Cluster(6, "--enable-debug-command", "yes", ports=range(16379, 16385)) as cluster:
            yield {}, ["--redis-url", f"{cluster.url}/0"]
    else:
        yield {}, []


def redis_certificates(folder):
    """Where redis-py's suite looks for them, and Redis' options for its own: made by the suite's Python, which has what it takes."""
    made = folder / "source/dockers/standalone/tls"
    options = ["--tls-cert-file", made / "redis.crt", "--tls-key-file", made / "redis.key", "--tls-ca-cert-file", made / "ca.crt", "--tls-auth-clients", "optional"]
    if made.exists():
        return options
    made.mkdir(parents=True)
    code = """
import sys, certs
from pathlib import Path
folder = Path(sys.argv[1])
ca = certs.Authority()
(folder / "ca.crt").write_bytes(ca.pem)
for name, number, client in (("redis", 0, False), ("client", 1, True), ("test_user", 2, True)):
    made = ca.issue("localhost" if name == "redis" else name, kind="rsa", number=number, client=client)
    (folder / f"{name}.crt").write_bytes(made.pem)
    (folder / f"{name}.key").write_bytes(made.key_pem())
"""
    subprocess.run([folder / "venv/bin/python", "-c", code, made], env={**os.environ, "PYTHONPATH": str(TOOLS)}, check=True)
    return options


def postgres_tools(folder):
    """PostgreSQL's programs, for a suite that starts clusters itself: PostgreSQL does not run as root."""
    from postgres import programs

    if os.geteuid() != 0:
        return programs()
    if folder.exists():
        return folder
    folder.mkdir()
    for program in programs().iterdir():
        script = folder / program.name
        # The data folder is made by the suite, so by root; what is in it (and beside it, the sockets) must be PostgreSQL's.
        script.write_text(
            "#!/bin/sh\nlast=\nfor each; do\n"
            '  case "$each" in --pgdata=*) chown -R postgres:postgres "${each#--pgdata=}";; esac\n'
            '  case "$last" in -D|--pgdata) chown -R postgres:postgres "$each";; esac\n  last=$each\ndone\n'
            f'cd /; exec setpriv --reuid postgres --regid postgres --clear-groups {program} "$@"\n'
        )
        script.chmod(0o755)
    return folder


# ------------------------------------------------------------------ running


def normal(test):
    """Addresses of objects, ports and temporary folders in a parameter's name are others each time."""
    return re.sub(r"0x[0-9a-f]{6,}|/tmp/\S+|(?<=127\.0\.0\.1:)\d+", "*", test)


def run_once(python, where, suite, extra, env, report, limit):
    """pytest over the suite. Returns whether it came to its end."""
    log = report.with_suffix(".log")
    cache = report.with_suffix(".cache")  # some suites ask for pytest's cache; what an earlier run left in it is no matter of this one
    shutil.rmtree(cache, ignore_errors=True)
    command = [
        python, "-m", "pytest", "-q", "-p", "foreign_report", "-o", f"cache_dir={cache}", "--continue-on-collection-errors", "--timeout", str(TEST_SECONDS_MAX),
        "--timeout-method", "signal", *suite.tests, *extra,
    ]  # fmt: skip
    for each in suite.apart:
        command += ["--deselect", each]
    with log.open("a") as f:
        process = subprocess.Popen(
            list(map(str, command)), cwd=where, env=env, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        try:
            wait(process, report, limit)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = read(report)
    return bool(lines) and lines[-1]["what"] == "finish"


def wait(process, report, limit):
    """Until it ends, or its time is over, or it says nothing any more."""
    until = time.monotonic() + limit
    size, silent_until = -1, time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < min(until, silent_until) and not STOPPING.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
            return
        now = report.stat().st_size if report.exists() else -1
        if now != size:
            size, silent_until = now, time.monotonic() + SILENT_SECONDS_MAX


def read(report):
    return [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []


def run(python, where, suite, extra, more, folder, io, only=None):
    """({test: outcome}, {test: its id}, how many loops of ours it made, whether it came to its end) of a run on one loop."""
    kind = io if only is None else f"{io}-again"
    report, count = folder / f"{kind}.report", folder / f"{kind}.count"
    for each in (report, count, report.with_suffix(".log")):
        each.unlink(missing_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RINGCORN_", "PYTEST_", "PG"))}
    paths = [SITE, *([folder / "source"] if suite.install and suite.folder else []), *([EXTENSION] if io != "stock" else [])]
    env |= {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "RINGCORN_FOREIGN_IO": io,
        "RINGCORN_FOREIGN_REPORT": str(report),
        "RINGCORN_FOREIGN_COUNT": str(count),
        **suite.env, **more,
    }  # fmt: skip
    if only is not None:
        chosen = folder / f"{kind}.only"
        chosen.write_text("\n".join(only))
        env["RINGCORN_FOREIGN_ONLY"] = str(chosen)
    until = time.monotonic() + suite.seconds_max
    whole = False
    for _ in range(RUNS_MAX):
        whole = run_once(python, where, suite, extra, env, report, until - time.monotonic())
        if whole or time.monotonic() >= until or STOPPING.is_set():
            break
        if not report.exists():
            raise RuntimeError(f"it did not start: {' '.join(map(str, suite.tests))}\n{report.with_suffix('.log').read_text()[-4000:]}")
    outcomes = {}
    for line in read(report):
        if line["what"] == "start":
            outcomes.setdefault(normal(line["test"]), BROKE_OFF)
        elif line["what"] == "end":
            outcomes[normal(line["test"])] = line["outcome"]
    named = {normal(line["test"]): line["test"] for line in read(report)}
    loops = sum(map(int, count.read_text().split())) if count.exists() else 0
    return outcomes, named, loops, whole


def worse(stock, ours):
    """Tests that pass on asyncio's loop and not here."""
    return sorted(test for test, outcome in stock.items() if outcome == "passed" and ours.get(test) != "passed") + sorted(
        test for test, outcome in ours.items() if outcome in (FAILED, BROKE_OFF) and test not in stock
    )


def said(outcomes):
    kinds = ["passed", FAILED, *[BROKE_OFF] * (BROKE_OFF in outcomes), "skipped"]
    return ", ".join(f"{outcomes.count(each)} {each}" for each in kinds)


def judge(name, suite, ios, python, keep, jobs):
    """(passed, failed) on ours."""
    python, where = prepare(name, suite, python)
    folder = BUILD / name
    kept = folder / "stock.json"
    of = [*suite.tests, *suite.apart, str(suite.env)]
    stock = json.loads(kept.read_text()) if keep and kept.exists() else {}

    def go(io, only=None):
        with service(suite, folder) as (more, extra):
            return run(python, where, suite, extra, more, folder, io, only)

    with ThreadPoolExecutor(jobs) as pool:
        running = {io: pool.submit(go, io) for io in ([*ios] if stock.get("of") == of else ["stock", *ios])}
    if STOPPING.is_set():
        return 0, 0
    passed = failed = 0
    if "stock" in running:
        outcomes, named, _, whole = running.pop("stock").result()
        # What a busy machine made fail there would not be looked at here.
        if once := [named[test] for test, outcome in outcomes.items() if outcome in (FAILED, BROKE_OFF) and test in named]:
            repeated = go("stock", once)[0]
            outcomes |= {test: outcome for test, outcome in repeated.items() if outcome == "passed"}
        stock = {"of": of, "outcomes": outcomes}
        if whole:
            kept.write_text(json.dumps(stock))
        else:
            print(f"{name}: the run on the stock loop did not come to its end", flush=True)
            failed += 1
    stock = stock["outcomes"]
    for io, future in running.items():
        ours, named, loops, whole = future.result()
        lost, unsteady = worse(stock, ours), []
        if again := [named[test] for test in lost if test in named]:
            steady = set(lost)
            for _ in range(AGAIN):
                repeated = go(io, again)[0]
                steady = {test for test in steady if repeated.get(test) == "passed"}
            unsteady = sorted(test for test in steady if ours.get(test) != BROKE_OFF)
        lost = [test for test in lost if test not in unsteady]
        here, there = list(ours.values()), list(stock.values())
        print(f"{suite.pin} {io}: {said(here)} (stock: {said(there)}), {loops} loops, failures that the stock loop does not have: {len(lost)}", flush=True)
        for test in unsteady:
            print(f"  unsteady, passes alone: {test}", flush=True)
        for test in lost:
            print(f"  FAILED {test} ({ours.get(test, 'not run')} here, {stock.get(test, 'not there')} on the stock loop)", flush=True)
        if not whole:
            print("  FAILED the run did not come to its end", flush=True)
            failed += 1
        if not loops:
            print("  FAILED no loop of ours was made", flush=True)
            failed += 1
        passed += here.count("passed") + len(unsteady)
        failed += len(lost)
    return passed, failed


def stop(signum, frame):
    STOPPING.set()
    sys.exit(128 + signum)


def main():
    global EXTENSION
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--io", choices=("epoll", "io_uring"), action="append")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="runs of a suite side by side: stock, epoll, io_uring; what fails is repeated alone then")
    parser.add_argument("--keep", action="store_true", help="leave build/foreign there, and use what is there")
    parser.add_argument("--python", default="python3", help="that the suites run on; its extension must be built (make PYTHON=...)")
    parser.add_argument("--extension", type=Path, help="folder of _ringcorn and ringcorn, in place of the one in build/")
    parser.add_argument("--tests", help="pytest's arguments, in place of the suite's own: a part of one suite")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SUITES))
    args = parser.parse_args()
    if unknown := set(args.names) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are: {', '.join(SUITES)}")
    suffix = subprocess.run(
        [args.python, "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"], check=True, capture_output=True, text=True
    ).stdout.strip()
    places = [args.extension] if args.extension else [ROOT / "build/python", *sorted(ROOT.glob("build/release-*/python"))]
    EXTENSION = next((place for place in places if (place / f"_ringcorn{suffix}").exists()), None)
    if EXTENSION is None:
        parser.error(f"no extension for {args.python} (_ringcorn{suffix}) in {', '.join(map(str, places))}: make PYTHON={args.python}")
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)  # so that what was started is ended
    passed = failed = 0
    for name in args.names or SUITES:
        suite = dataclasses.replace(SUITES[name], tests=shlex.split(args.tests)) if args.tests else SUITES[name]
        try:
            one = judge(name, suite, args.io or ["epoll", "io_uring"], args.python, args.keep, args.jobs)
        except (subprocess.SubprocessError, RuntimeError, OSError) as e:
            print(f"{name}: not run, {e}", flush=True)
            one = 0, 1
        passed, failed = passed + one[0], failed + one[1]
        if not args.keep:
            shutil.rmtree(BUILD / name, ignore_errors=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
