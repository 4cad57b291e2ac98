"""A Django project with Channels: groups over a real Redis between two workers, who has logged in, sessions, and the project's own
test suite, with Ringcorn as its live server."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import time

import harness
import pytest
import wire
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

PROJECT = harness.APPS / "channels_project"
PATIENCE = 20
names = (f"chat-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def env(tmp_path_factory, redis_server):
    folder = tmp_path_factory.mktemp("channels")
    env = {"CHAT_DATA": str(folder), "CHAT_REDIS": redis_server.url, "DJANGO_SETTINGS_MODULE": "project.settings"}
    add = "from django.contrib.auth.models import User; User.objects.create_user('ringo', password='drums')"
    for command in (["migrate", "--verbosity", "0"], ["shell", "-c", add]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=PROJECT, env=harness.environment(env), check=True, capture_output=True)
    return env


@pytest.fixture
def s(server, env):
    s = server("project.asgi:application", "--workers", "2", "--threads", "4", shared=True, app_dir=PROJECT, env=env)
    s.wait_workers(2)
    # Of each worker: a connection to Redis for each call that runs at once, and of each thread SQLite's file.
    s.allow_descriptors(40)
    return s


def opened(s, path, **options):
    return connect(f"ws://127.0.0.1:{s.port}{path}", **{"origin": s.base, **options})


def said(client):
    return json.loads(client.recv(PATIENCE))


def on_both_workers(s, stack, path):
    """Two clients of a room, which got different workers: that is the kernel's choice, so others come and go until it is made."""
    first = stack.enter_context(opened(s, path))
    pid = said(first)["pid"]
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.ExitStack() as own:
            other = own.enter_context(opened(s, path))
            if said(other)["pid"] != pid:
                stack.push(own.pop_all())
                return first, other
        time.sleep(0.02)
    raise AssertionError(f"every client got worker {pid}")


@pytest.mark.parametrize("kind", ["rooms", "sync-rooms"])
def test_groups_of_two_workers_over_redis(s, kind, redis_server):
    room = next(names)
    with contextlib.ExitStack() as stack:
        a, b = on_both_workers(s, stack, f"/{kind}/{room}/")
        for i in range(20):
            for speaker in (a, b):
                speaker.send(json.dumps(f"hällo {i}"))
                assert said(a) == said(b) == {"text": f"hällo {i}", "by": ""}
        # A synchronous view, in either worker.
        for i in range(4):
            assert s.post(f"/tell/{room}/", f"view {i}".encode()).status == 204
            assert said(a) == said(b) == {"text": f"view {i}", "by": "a view"}
        assert any(room in key for key in redis_server.keys())
    # Who leaves is taken out of the group; of an empty one Redis keeps nothing.
    wire.eventually(lambda: not any(f"group:{room}" in key for key in redis_server.keys()), PATIENCE, "the group's end")


def log_in(s):
    page = s.get("/login/")
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    form = f"csrfmiddlewaretoken={token}&username=ringo&password=drums".encode()
    r = s.post(
        "/login/", form, {"Content-Type": "application/x-www-form-urlencoded", "Cookie": page.get("set-cookie").split(";")[0]}
    )
    assert (r.status, r.get("location")) == (302, "/me/")
    return next(c.split(";")[0] for c in r.all("set-cookie") if c.startswith("sessionid="))


def test_the_user_and_the_session(s):
    cookie = log_in(s)
    with opened(s, "/me/", additional_headers={"Cookie": cookie}) as c:
        assert said(c) == {"user": "ringo", "said": None}
        c.send('"hello"')
        assert said(c) == "kept"
    # What the consumer has written to the session is there for views and for the next WebSocket.
    assert s.get("/me/", {"Cookie": cookie}).json() == {"user": "ringo", "said": "hello"}
    with opened(s, "/me/", additional_headers={"Cookie": cookie}) as c:
        assert said(c) == {"user": "ringo", "said": "hello"}
    with opened(s, f"/rooms/{next(names)}/", additional_headers={"Cookie": cookie}) as c:
        said(c)
        c.send('"me"')
        assert said(c) == {"text": "me", "by": "ringo"}


@pytest.mark.parametrize("path, options", [("/me/", {}), ("/rooms/a/", {"origin": "http://elsewhere.example"})])
def test_who_has_not_logged_in_or_comes_from_elsewhere_is_refused(s, path, options):
    with pytest.raises(InvalidStatus) as refused, opened(s, path, **options):
        pass
    assert refused.value.response.status_code == 403


def test_the_projects_own_tests_with_ringcorn_as_live_server(usable_io, env, tmp_path):
    """`manage.py test` of a copy, as a user runs it: with the package on PYTHONPATH."""
    shutil.copytree(PROJECT, tmp_path / "project")
    package = harness.BIN.parent / "python"
    extra = {**env, "CHAT_DATA": tmp_path, "CHAT_PREFIX": next(names), "PYTHONPATH": package, "RINGCORN_IO": usable_io}
    tests = subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "manage.py", "test", "--verbosity", "2"], cwd=tmp_path / "project",
        env=harness.environment(extra), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = tests.communicate(timeout=100 * harness.SLOW)
    finally:
        tests.kill()
    assert tests.returncode == 0 and re.search(r"^Ran 8 tests", text, re.M) and re.search(r"^OK$", text, re.M), text
    assert harness.of_session(tests.pid) == []
