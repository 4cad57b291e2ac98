"""A plugin of pytest: a test in which a guardrail has noticed something fails.

    [tool.pytest.ini_options]
    ringcorn_app = "main:app"            # what the fixture ringcorn_server serves

It does so where tests drive the application themselves (httpx.ASGITransport, Starlette's TestClient, asgiref's and Channels' communicators, Django's
clients), under pytest-asyncio, AnyIO's plugin or none, and where they talk to the program, whose URL is the fixture ringcorn_server.
pip makes it known to pytest; otherwise -p ringcorn.pytest does.

    @pytest.mark.ringcorn_allow("block")            # these guardrails do not fail the test; without any, none does
    @pytest.mark.ringcorn_app("other:app", "--threads", "2")

A test that is marked with ringcorn_shake is a coroutine function that ringcorn.shake runs, under many seeds, to find races:

    @pytest.mark.ringcorn_shake(seeds=200)          # kinds="order,hops", first=1000
    async def test_the_counter_counts(): ...

    pytest --ringcorn-shake=17:order                # such tests under this seed alone: what a failure tells to do
    pytest --ringcorn-shake-seeds=5000 --ringcorn-shake-first=200
"""

import inspect

import pytest

_GUARD = "ringcorn_guard"
_LOOP_BLOCK = "ringcorn_loop_block"
_APP = "ringcorn_app"
_OPTIONS = "ringcorn_options"
_UNITS = {"ms": 0.001, "s": 1.0}


def pytest_addoption(parser):
    parser.addini(_GUARD, "guardrails of Ringcorn fail tests that drive an application themselves", "bool", True)
    parser.addini(_LOOP_BLOCK, "how long a request may block the event loop: 100ms, 1s, or off", default="100ms")
    parser.addini(_APP, "what the fixture ringcorn_server serves: module:attribute")
    parser.addini(_OPTIONS, "more of its command line", "args")
    group = parser.getgroup("ringcorn")
    group.addoption("--ringcorn-shake", metavar="SEED", help="run the tests that are marked with ringcorn_shake under this seed alone: 17, or 17:order,hops")
    group.addoption("--ringcorn-shake-seeds", metavar="N", type=int, help="how many seeds such tests run under, whatever their markers say")
    group.addoption("--ringcorn-shake-first", metavar="N", type=int, help="the number of the first of them")


def pytest_configure(config):
    config.addinivalue_line("markers", "ringcorn_allow(*kinds): what these guardrails of Ringcorn notice does not fail the test; none named: all")
    config.addinivalue_line("markers", "ringcorn_app(application, *options): what the fixture ringcorn_server serves in this test")
    config.addinivalue_line("markers", "ringcorn_shake(seeds=200, first=0, kinds=...): a coroutine function that ringcorn.shake runs, under so many seeds")
    config.pluginmanager.register(_Plugin(config), "ringcorn-guard")


def _seconds(text):
    if text == "off":
        return None
    for unit, factor in _UNITS.items():
        if text.endswith(unit) and text[: -len(unit)].strip().replace(".", "", 1).isdigit():
            return float(text[: -len(unit)]) * factor
    raise pytest.UsageError(f"{_LOOP_BLOCK}: {text!r} is not a time such as 100ms or 1s, nor off")


def _allowed(item):
    """The kinds that do not fail it."""
    from . import guard

    allowed = set()
    for mark in item.iter_markers("ringcorn_allow"):
        for kind in mark.args:
            if kind not in guard.KINDS:
                raise pytest.UsageError(f"ringcorn_allow: {kind!r} is no guardrail; there are {', '.join(map(repr, guard.KINDS))}")
        allowed.update(mark.args or guard.KINDS)
    return allowed


def _shake(item, mark):
    """Runs a test that is marked with ringcorn_shake."""
    __tracebackhide__ = True
    from . import shake

    main = inspect.unwrap(item.obj)  # pytest-asyncio wraps what it takes for its own
    if mark.args or set(mark.kwargs) - {"seeds", "first", "kinds"}:
        raise pytest.UsageError("ringcorn_shake takes seeds, first and kinds, by name")
    if not inspect.iscoroutinefunction(main):
        raise pytest.UsageError(f"ringcorn_shake: {item.nodeid} is no coroutine function; one that runs its own calls shake.search()")
    if item.instance is not None and not inspect.ismethod(main):
        main = main.__get__(item.instance)
    args = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}

    def test():
        return main(**args)

    failures = (Exception, pytest.fail.Exception)
    option, given = item.config.getoption, dict(mark.kwargs)
    if isinstance(given.get("kinds"), str):
        given["kinds"] = given["kinds"].split(",")
    for name in ("seeds", "first"):
        if (value := option(f"--ringcorn-shake-{name}")) is not None:
            given[name] = value
    try:
        shake.Seed(0, given.get("kinds"))
        seed = shake.Seed(text) if (text := option("--ringcorn-shake")) is not None else None
    except ValueError as e:
        raise pytest.UsageError(f"ringcorn_shake: {e}") from None
    if seed is not None:
        return shake.again(test, seed, failures=failures)
    return shake.search(test, failures=failures, replay=f"pytest '{item.nodeid}' --ringcorn-shake={{seed}}", **given)


class _Plugin:
    def __init__(self, config):
        self.config = config
        self.seconds = _seconds(config.getini(_LOOP_BLOCK))
        self.is_inside = config.getini(_GUARD)
        self.has_begun = False
        self.events = []  # (kind, message)
        self.servers = []  # that run

    def noticed(self, event):
        self.events.append((event.kind, event.message))

    def begin(self):
        """With the first test: what is imported before it is not delayed."""
        if self.is_inside and not self.has_begun:
            from .guard import inside

            inside.start(self.seconds, self.noticed)
        self.has_begun = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        self.begin()
        if self.is_inside:
            from .guard import inside

            inside.forget()
        return (yield from self.phase(item, "setup"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        return (yield from self.phase(item, "call"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        return (yield from self.phase(item, "teardown"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem):
        mark = pyfuncitem.get_closest_marker("ringcorn_shake")
        if mark is None:
            return None
        _shake(pyfuncitem, mark)
        return True

    def phase(self, item, when):
        try:
            result = yield
        except BaseException:
            if messages := self.take(item, when):
                item.add_report_section(when, "ringcorn", "\n".join(messages))
            raise
        if messages := self.take(item, when):
            pytest.fail("\n".join(messages), pytrace=False)
        return result

    def take(self, item, when):
        """What has been noticed in this phase, and is not allowed."""
        events, self.events = self.events, []
        if when == "call":
            for server in self.servers:
                server.stop()  # what it would notice after a moment it notices now
                if log := server.log():
                    item.add_report_section(when, "ringcorn_server", log)
        for server in self.servers:
            events += server.take()
        if not events or item.get_closest_marker("ringcorn_shake") is not None:
            return []  # what is cancelled at any place leaves much behind; other tests have the guardrails
        allowed = _allowed(item)
        return [message for kind, message in events if kind not in allowed]


@pytest.fixture
def ringcorn_server(request):
    """The URL of the program, which serves the application that the marker ringcorn_app names, or else the ini option ringcorn_app, with
    guard.mode raise. It stops with the test. Attributes: testing.LiveServer's."""
    from . import testing

    config, plugin = request.config, request.config.pluginmanager.get_plugin("ringcorn-guard")
    mark = request.node.get_closest_marker("ringcorn_app")
    app, *options = mark.args if mark is not None and mark.args else (config.getini(_APP),)
    if not app:
        raise pytest.UsageError(f"ringcorn_server: name the application, by {_APP} in the ini file or @pytest.mark.ringcorn_app('main:app')")
    server = testing.LiveServer(app, [*config.getini(_OPTIONS), *options], config.rootpath, _allowed(request.node), config.getini(_LOOP_BLOCK))
    plugin.servers.append(server)
    try:
        yield server
        server.stop()
        plugin.events += server.take()
    finally:
        plugin.servers.remove(server)
        server.close()
