"""The example project's live dashboard, in a real browser: two workers, entries as they are written, who watches, a reload."""

import os
import signal
import subprocess
import sys

import harness
import pytest
import wire

PROJECT = harness.APPS / "django_project"
SHOT = os.environ.get("RINGCORN_TEST_SCREENSHOT")  # where to keep a picture of the page


@pytest.fixture
def s(server, tmp_path):
    env = {"GUESTBOOK_DATA": str(tmp_path), "DJANGO_SETTINGS_MODULE": "project.settings"}
    for command in (["migrate", "--verbosity", "0"], ["collectstatic", "--noinput", "--verbosity", "0"]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=PROJECT, env=harness.environment(env), check=True, capture_output=True)
    s = server(
        "project.asgi:application", "--workers", "2", "--threads", "2", "--websocket-drain", "200ms", app_dir=PROJECT, env=env
    )
    s.wait_workers(2)
    s.allow_descriptors(20)  # SQLite's files, of each thread
    return s


def names(page):
    return page.evaluate("Array.from(document.querySelectorAll('#entries b'), e => e.textContent)")


def shows(page, **figures):
    for name, value in figures.items():
        page.wait(f"document.getElementById('{name}').textContent == '{value}'")


def test_dashboard(s, page, browser):
    page.open(s.base + "/live/")
    page.wait("document.getElementById('state').dataset.state == 'connected'")
    shows(page, watchers=1, count=0)
    # Written in whichever worker the request comes to; markup stays text.
    for i, name in enumerate(("Ringo", "<b>Paul</b>", "George")):
        assert s.get(f"/async/entries/?add={name.replace('<', '%3C').replace('>', '%3E')}").status == 200
        shows(page, count=i + 1)
    assert names(page) == ["George", "<b>Paul</b>", "Ringo"]
    # By the page's own form.
    page.evaluate("""(form => { form.name.value = "John"; form.text.value = "was here"; form.requestSubmit(); })(document.forms[0])""")
    page.wait("document.querySelector('#entries p').textContent == 'was here'")
    assert names(page)[0] == "John"
    with browser.page() as other:  # on the same worker or the other
        other.open(s.base + "/live/")
        shows(other, watchers=2, count=4)
        shows(page, watchers=2)
        assert names(other) == names(page)
    shows(page, watchers=1)
    with s.connect() as c:
        page.wait(f"(document.getElementById('rate').textContent > 0)")
        for _ in range(200):
            assert c.get("/async/").status == 200
    page.wait("parseFloat(document.getElementById('rate').textContent) >= 10")
    if SHOT:
        page.screenshot(SHOT)
    page.open("about:blank")
    assert s.stop() == 0
    assert "the worker's end waits" not in s.log


def test_a_reload_is_survived(s, page):
    page.open(s.base + "/live/")
    shows(page, watchers=1)
    page.evaluate("""window.states = [];
        new MutationObserver(() => states.push(document.getElementById("state").dataset.state)).observe(document.getElementById("state"), {attributes: true})""")
    before = s.workers()
    s.send_signal(signal.SIGHUP)
    page.wait("states.includes('connecting') && states.at(-1) == 'connected'")
    wire.eventually(lambda: not set(before) & set(s.workers()), 30 * harness.SLOW, "the old workers' end")
    page.wait("document.getElementById('state').dataset.state == 'connected'")
    assert s.get("/async/entries/?add=after").status == 200
    page.wait("document.querySelector('#entries b')?.textContent == 'after'")
    s.baseline()


def test_another_path_is_refused(s):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{s.port}/elsewhere/"):
        pass
    assert refused.value.response.status_code == 403
