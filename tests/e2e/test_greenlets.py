"""Applications that gevent or eventlet has patched: refused where threads are greenlets, told of where other things are."""

import concurrent.futures

import harness
import pytest

PATCH = {"gevent": "gevent.monkey.patch_all", "eventlet": "eventlet.monkey_patch"}


@pytest.fixture(params=PATCH)
def library(request):
    pytest.importorskip(request.param)
    return request.param


def refusal(library):
    return (
        f"ringcorn: the application has replaced threads by greenlets ({PATCH[library]}()), which only {library}'s hub runs, and no hub runs here: it cannot be served so; "
        f"leave that call out (synchronous code has threads of its own here: sync.threads), or keep threads out of it: {PATCH[library]}(thread=False)"
    )


@pytest.mark.parametrize("how", [["patched:app"], ["patched:wsgi"], ["--preload", "patched:app"]], ids=["asgi", "wsgi", "preload"])
def test_threads_that_are_greenlets_end_the_start(server, library, how):
    *options, app = how
    s = server(app, *options, env={"PATCHED": library}, wait=False)
    s.expect_errors("died: exit code 3")
    assert s.wait_exit() == 3
    assert refusal(library) in s.log and "Traceback" not in s.log


def test_check_config_says_so(library):
    for threads, code in (("", 3), (" thread=False", 0)):
        r = harness.run("patched:app", "--app-dir", harness.APPS, "--check-config", env={"PATCHED": library + threads})
        assert r.returncode == code, r.stderr
        assert (refusal(library) in r.stderr) == (code == 3)
        assert (f"ringcorn: warning: {library} has patched socket" in r.stdout) == (code == 0)


@pytest.mark.parametrize("app", ["patched:app", "patched:wsgi"])
def test_what_else_is_patched_is_told_and_works(server, library, app):
    s = server(app, "--workers", "2", env={"PATCHED": f"{library} thread=False"})
    for slot in range(2):
        s.wait_log(rf"worker {slot} is ready")
    told = [line for line in s.log.splitlines() if "has patched" in line]
    assert len(told) == 1 and "warning" in told[0], "one of the workers says it for all"
    assert f"{library} has patched socket" in told[0] and f"{PATCH[library]}() can be left out" in told[0]
    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        for answer in clients.map(lambda _: s.get("/"), range(16)):
            assert answer.status == 200 and set(answer.body.split()) == {b"waited"}
    s.stop()


def test_nothing_is_said_of_a_library_that_is_only_there(server, tmp_path):
    """greenlet without a hub, and gevent that has patched nothing."""
    pytest.importorskip("gevent")
    (tmp_path / "only_imported.py").write_text("import gevent.monkey, greenlet\nfrom raw import app\n")
    s = server("only_imported:app", env={"PYTHONPATH": f"{tmp_path}:{harness.APPS}"})
    assert s.get("/").status == 200
    assert "gevent" not in s.log
