"""Django's own tests, run with the handler that Ringcorn puts in the place of Django's: no failure that Django alone does not have.

    django_suite.py                                    every version of VERSIONS, each on a Python that it supports
    django_suite.py --versions 5.2 --labels "asgi handlers"

The tests are in Django's source distribution on PyPI. Each version runs in a virtual environment of its own under build/django-suite, with
SQLite, three times, and what fails is compared by name:

    stock    Django as it is, on asyncio's loop
    ours     on Ringcorn's loop: ASGIHandler is Ringcorn's, and the clients of Django's tests send their requests through its two chains,
             so that whatever Django tests about middleware, views and exceptions is tested on them
    leased   the tests of ASGIHandler once more, each request on a leased thread of the pool

Needs the extension for that Python (make PYTHON=...; --extension names its folder). The last line is the sum, as pytest prints it.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "django-suite"
VERSIONS = {"4.2": (11,), "5.2": (11, 12, 13), "6.0": (13, 12), "6.1": (13, 12)}  # Django -> minors of Python, the first that is there is taken
PACKAGES = ["tzdata", "jinja2", "docutils", "sqlparse"]  # without the others of Django's list their tests are skipped
LABELS = """
    handlers asgi async middleware middleware_exceptions signals dispatch transactions decorators csrf_tests sessions_tests i18n view_tests
    file_uploads requests_tests test_client test_client_regress conditional_processing messages_tests auth_tests logging_tests urlpatterns
    urlpatterns_reverse responses httpwrappers generic_views staticfiles_tests deprecation wsgi flatpages_tests redirects_tests
    signed_cookies_tests test_exceptions admin_docs
""".split()
LEASED_LABELS = ["asgi"]
TIMEOUT = 1800


# ------------------------------------------------------------------ inside a run, in Django's virtual environment


class Counts(dict):
    """How often each way was taken: a run in which nothing was ours proves nothing."""

    def __missing__(self, key):
        return 0

    def note(self, what):
        self[what] += 1


counts = Counts()


def use_our_loop():
    import asyncio

    from ringcorn.loop import EventLoopPolicy

    asyncio.set_event_loop_policy(EventLoopPolicy())


def replace_handler(leased):
    """What Django's modules and tests import as ASGIHandler is ours, and so are subclasses that tests make of it."""
    import django.core.handlers.asgi as module
    from ringcorn.django import plan, recognise
    from ringcorn.django.handler import Handler

    recognise.check_django()

    class ASGIHandler(Handler):
        async def __call__(self, scope, receive, send):
            counts.note("ASGI")
            if leased:
                await call_leased(self, super().__call__, scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

        def _as_django_made_it(self):
            counts.note("ASGI, Django's own way")
            return self

    ASGIHandler.__module__ = module.__name__
    ASGIHandler.__qualname__ = "ASGIHandler"
    module.ASGIHandler = ASGIHandler
    return plan


async def call_leased(handler, call, scope, receive, send):
    """As the server does it."""
    import asyncio

    import _ringcorn
    from asgiref.sync import SyncToAsync
    from ringcorn.django.plan import Plan

    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = _ringcorn.Pool(loop, 4, "suite")
        pool.context_vars = (SyncToAsync.thread_sensitive_context,)
    if handler._plan is None:
        handler._plan = Plan(handler, pool)
    lease = pool.lease(scope["path"])
    SyncToAsync.thread_sensitive_context.set(lease)
    SyncToAsync.context_to_thread_executor[lease] = lease
    counts.note(type(handler._plan.trips()).__name__)
    try:
        await call(scope, receive, send)
    finally:
        lease.close()


_pools = {}


def stop_pools_with_their_loops():
    from ringcorn.loop import Loop

    close = Loop.close

    def close_after_pool(self):
        if pool := _pools.pop(self, None):
            pool.stop(5.0)
        close(self)

    Loop.close = close_after_pool


def replace_clients(plan_module):
    """django.test's clients: theirs is the request and what becomes of the response, ours the chain of middleware between."""
    import django.test.client as module
    from ringcorn.django import chain, urls
    from ringcorn.django.hops import restore

    def load(self, is_async=False, load=module.ClientHandler.load_middleware):
        load(self, is_async)
        self._plan = plan_module.Plan(self, None)

    class Client(module.ClientHandler):
        load_middleware = load

        def get_response(self, request):
            plan = self._plan
            # Under WSGI every middleware is called in its sync form.
            if plan.why_not_sync is not None or not all(layer.can_sync for layer in plan.layers):
                counts.note("client, Django's own way")
                return super().get_response(request)
            if not hasattr(plan, "wsgi_chain"):
                plan.wsgi_chain = chain.SyncChain(plan.layers, plan.trips, hands_over=False)
            counts.note("client")
            return plan.wsgi_chain.get_response(request)

    class AsyncClient(module.AsyncClientHandler):
        load_middleware = load

        async def get_response_async(self, request):
            plan = self._plan
            guess = urls.guess(request.scope)
            request.__dict__[chain.GUESS] = guess
            trips = plan.trips()
            for build in (plan.build_sync, plan.build_async):
                await trips.run(build)
            if (guess.is_async or plan.sync_by_async) and plan.async_chain is not None:
                counts.note("async client, async" if guess.is_async else "async client, sync by async")
                return await plan.async_chain.get_response_async(request)
            if not guess.is_async and plan.sync_chain is not None:
                counts.note("async client, sync")
                response, inside = await trips.run(_on_thread, plan.sync_chain, request)
                if response is not None:
                    return response
                counts.note("async client, handed over")
                restore(inside)
                return await plan.async_chain.go_on(request)
            counts.note("async client, Django's own way")
            return await super().get_response_async(request)

    def _on_thread(sync_chain, request):
        import contextvars

        try:
            return sync_chain.get_response(request), None
        except chain.AsyncView:
            return None, contextvars.copy_context()

    for name, cls in (("ClientHandler", Client), ("AsyncClientHandler", AsyncClient)):
        cls.__name__ = cls.__qualname__ = name
        cls.__module__ = module.__name__
        setattr(module, name, cls)


def inside(mode, arguments):
    """Runs Django's runtests.py in this process."""
    import atexit
    import runpy

    import django

    if mode != "stock":
        use_our_loop()
        if mode == "leased":
            stop_pools_with_their_loops()
        plan_module = replace_handler(mode == "leased")
        replace_clients(plan_module)
        pid = os.getpid()
        atexit.register(lambda: os.getpid() == pid and print(f"COUNTS {json.dumps(counts)}", file=sys.stderr, flush=True))
    print(f"Django {django.__version__}, {mode}", flush=True)
    sys.argv = arguments
    sys.path.insert(0, os.getcwd())
    runpy.run_path("runtests.py", run_name="__main__")


# ------------------------------------------------------------------ outside


def run_tests(python, tests, extension, mode, labels):
    """Returns (names that failed or were in error, number of tests, counts)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DJANGO", "RINGCORN_"))}
    env["PYTHONPATH"] = str(extension)
    env["RUNTESTS_DIR"] = str(tests)
    command = [python, __file__, "--inside", mode, "runtests.py", *labels, "--parallel=1", "-v", "0", "--timing"]
    if mode == "stock":
        del env["PYTHONPATH"]
    log = BUILD / f"{tests.name}-{mode}.log"
    with log.open("w") as f:
        try:
            code = subprocess.run(command, cwd=tests, env=env, stdout=f, stderr=subprocess.STDOUT, timeout=TIMEOUT, stdin=subprocess.DEVNULL).returncode
        except subprocess.TimeoutExpired:
            code = f"none after {TIMEOUT} s"
    text = log.read_text(errors="replace")
    ran = re.search(r"^Ran (\d+) tests? in", text, re.M)
    if ran is None:
        print(text[-4000:])
        raise SystemExit(f"Django's tests did not come to their end ({mode}, exit code {code}): {log}")
    # A test's subtests fail under its name.
    failed = {re.sub(r" (\(<subtest>\)|\[.*|\(.*=.*)$", "", m) for m in re.findall(r"^(?:FAIL|ERROR): (.+)$", text, re.M)}
    found = re.search(r"^COUNTS (\{.*\})$", text, re.M)
    return failed, int(ran[1]), json.loads(found[1]) if found else {}


def prepare(version, python):
    """A virtual environment with Django, and the tests of the same patch level: (python, folder)."""
    folder = BUILD / version
    venv = folder / "venv"
    if not (venv / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", f"Django~={version}.0", "asgiref>=3.8.1", *PACKAGES], check=True)
    ask = [venv / "bin" / "python", "-c", "import django; print(django.__version__)"]
    exact = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    tests = folder / f"tests-{exact}"
    if not tests.exists():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            subprocess.run([*pip, "download", "--no-deps", "--no-binary", ":all:", f"Django=={exact}", "-d", temporary], check=True)
            (archive,) = Path(temporary).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
            (found,) = Path(temporary).glob("*/tests")
            found.rename(tests)
    return venv / "bin" / "python", tests


def compare(version, python, extension, labels):
    python, tests = prepare(version, python)
    leased = [label for label in labels if label in LEASED_LABELS]
    stock, n, _ = run_tests(python, tests, extension, "stock", labels)
    print(f"Django {version}, stock: {n} tests, {len(stock)} fail", flush=True)
    passed = failed = 0
    for mode, which in (("ours", labels), ("leased", leased)):
        if not which:
            continue
        ours, n, counted = run_tests(python, tests, extension, mode, which)
        new = sorted(ours - stock)
        print(f"Django {version}, {mode}: {n} tests, {len(ours)} fail, {len(new)} of them not with Django alone; {counted}", flush=True)
        for name in new:
            print(f"  FAILED {name}", flush=True)
        proof = {"ours": "client" if "handlers" in which else "ASGI", "leased": "Leased"}[mode]
        if not counted.get(proof):
            print(f"  FAILED nothing was served as it should have been ({proof})", flush=True)
            failed += 1
        passed += n - len(ours)
        failed += len(new)
    return passed, failed


def main():
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2], sys.argv[3:])
    sys.path.insert(0, str(Path(__file__).parent))
    from test_all import pythons

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", default=",".join(VERSIONS))
    parser.add_argument("--labels", default=" ".join(LABELS), help="folders of Django's tests")
    parser.add_argument("--extension", type=Path, help="folder of _ringcorn and ringcorn, where only one Python is concerned")
    parser.add_argument("--clean", action="store_true", help="remove build/django-suite afterwards")
    args = parser.parse_args()
    found = {version[1]: path for version, path in pythons().items()}
    BUILD.mkdir(parents=True, exist_ok=True)
    passed = failed = 0
    for version in args.versions.split(","):
        minor = next((m for m in VERSIONS[version] if m in found), None)
        if minor is None:
            print(f"Django {version}: no Python for it here", flush=True)
            failed += 1
            continue
        extension = args.extension or ROOT / "build" / ("python" if minor == default_minor() else f"release-3.{minor}/python")
        if not list(extension.glob(f"_ringcorn.cpython-3{minor}-*")):
            print(f"Django {version}: {extension} has no extension for Python 3.{minor}: make PYTHON={found[minor]}", flush=True)
            failed += 1
            continue
        one = compare(version, found[minor], extension, args.labels.split())
        passed, failed = passed + one[0], failed + one[1]
    if args.clean:
        shutil.rmtree(BUILD)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


def default_minor():
    """Of the Python that plain `make` builds for."""
    out = subprocess.run(["python3", "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True, check=True)
    return int(out.stdout)


if __name__ == "__main__":
    sys.exit(main())
