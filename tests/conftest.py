"""Fixtures of every test that runs the program: `server` starts it on a free port, with each I/O backend in turn."""

import contextlib
import tempfile

import pytest

import alone
import chromium
import harness
import postgres
import redis_server as redis

TURNS = pytest.StashKey[alone.Turns]()
LOCKS = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_addoption(parser):
    parser.addoption("--io", default="io_uring,epoll", help="I/O backends to run the tests on (comma separated)")


def pytest_generate_tests(metafunc):
    if "io_backend" in metafunc.fixturenames:
        metafunc.parametrize("io_backend", metafunc.config.getoption("--io").split(","), scope="session")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """pytest-xdist's: a process of this run is about to be started."""
    if LOCKS not in node.config.stash:
        node.config.stash[LOCKS] = tempfile.TemporaryDirectory(prefix="ringcorn-tests-")
    node.workerinput["locks"] = node.config.stash[LOCKS].name


def pytest_configure(config):
    if folder := getattr(config, "workerinput", {}).get("locks"):
        config.stash[TURNS] = alone.Turns(folder)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Around the test and its fixtures, and outside of its timeout."""
    turns = item.config.stash.get(TURNS, None)
    with turns.turn(item.get_closest_marker("alone") is not None) if turns else contextlib.nullcontext():
        return (yield)


def pytest_report_header(config):
    return f"program: {harness.BIN}; io_uring: {harness.io_uring_refused() or 'available'}"


@pytest.fixture(scope="session")
def usable_io(io_backend):
    """The backend, or a skip where the kernel refuses it. Without the refusal a failing backend fails the tests."""
    if io_backend == "io_uring" and (why := harness.io_uring_refused()):
        pytest.skip(f"io_uring is refused here: {why}")
    return io_backend


@pytest.fixture(scope="module")
def shared_servers(usable_io, tmp_path_factory):
    """Servers that the tests of a module share, by application and options."""
    pool = {}
    yield pool
    problems = []
    for server in pool.values():
        try:
            server.finish()
        except AssertionError as e:
            problems.append(str(e))
        finally:
            server.kill()
    assert not problems, "\n".join(problems)


@pytest.fixture
def server(usable_io, shared_servers, tmp_path, request):
    """server(app, *args, shared=False, **options) -> harness.Server.

    A server of the test's own is stopped after it and must leave nothing; a shared one goes on, and must be back at
    rest: no connection, request, buffer or descriptor more than before, no unexpected error line."""
    own, used = [], []

    def start(app="raw:app", *args, shared=False, **options):
        options.setdefault("io", usable_io)
        key = (app, args, repr(sorted(options.items(), key=lambda item: item[0])))
        if shared and (running := shared_servers.get(key)) is not None:
            if running.process.poll() is None:
                used.append(running)
                return running
            shared_servers.pop(key)
        cwd = tmp_path / f"server{len(own) + len(used)}"
        cwd.mkdir(exist_ok=True)
        options.setdefault("cwd", cwd)
        started = harness.Server(app, *args, **options)
        if shared:
            shared_servers[key] = started
            used.append(started)
        else:
            own.append(started)
        return started

    yield start

    problems = []
    for one in used:
        try:
            one.check_returned()
            one.check_log()
        except AssertionError as e:
            problems.append(str(e))
            # The next test gets a fresh one.
            for key, value in list(shared_servers.items()):
                if value is one:
                    del shared_servers[key]
            one.kill()
    for one in own:
        try:
            one.finish()
        except AssertionError as e:
            problems.append(str(e))
        finally:
            one.kill()
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def pg():
    """A postgres.Postgres that all tests of a run share; they tell their connections apart by application_name."""
    with postgres.Postgres() as one:
        yield one


@pytest.fixture(scope="session")
def redis_server():
    """A redis_server.Redis that all tests of a run share; each takes names of its own."""
    with redis.Redis() as one:
        yield one


@pytest.fixture(scope="session")
def browser():
    """A chromium.Chromium that all tests of a run share."""
    with chromium.Chromium() as one:
        yield one


@pytest.fixture
def page(browser):
    """A chromium.Page with cookies and storage of its own, on which no script may fail."""
    with browser.page() as one:
        yield one
        assert not one.problems, one.problems
