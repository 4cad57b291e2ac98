"""reload.enabled: a change of the application's files replaces the workers."""

import os
import time

import harness
import pytest
import wire

APP = '''
async def app(scope, receive, send):
    if scope["type"] == "http":
        body = {body}
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": body}})
'''


def write(path, body):
    path.write_text(APP.format(body=repr(body.encode()) if isinstance(body, str) else body))


def says(s, text):
    wire.eventually(lambda: s.get("/").body == text.encode(), 10 * harness.SLOW, f"the answer {text!r}\n{s.report}")


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    write(folder / "main.py", "one")
    return folder


@pytest.fixture
def developing(server, site):
    def start(*args, **options):
        s = server("main:app", "--reload", "--reload-delay", "100ms", *args, app_dir=site, **options)
        s.wait_log(r"reload: \d+ folders? (is|are) watched")
        s.allow_descriptors(100)  # workers come and go
        s.check_live = False
        return s

    return start


def reloads(s):
    return sum("reloaded in" in line for line in s.err.lines)


def test_a_change_is_served(developing, site):
    s = developing()
    says(s, "one")
    write(site / "main.py", "two, written in place")
    s.wait_log("main.py has changed")
    says(s, "two, written in place")
    other = site / "main.new"
    write(other, "three, as editors and git write it")
    os.rename(other, site / "main.py")
    says(s, "three, as editors and git write it")


def test_a_new_folder_is_watched_with_what_is_in_it(developing, site):
    s = developing()
    (site / "part").mkdir()
    (site / "part" / "deep").mkdir()
    (site / "part" / "deep" / "text.py").write_text("TEXT = b'deep'\n")
    (site / "main.py").write_text("from part.deep.text import TEXT\n" + APP.format(body="TEXT"))
    says(s, "deep")
    (site / "part" / "deep" / "text.py").write_text("TEXT = b'deeper'\n")
    says(s, "deeper")


def test_what_is_no_source_is_left_alone(developing, site):
    for folder in (".git", "__pycache__", "left", "env"):
        (site / folder).mkdir()
    (site / "env" / "pyvenv.cfg").touch()
    s = developing("--reload-exclude", "left", "--reload-exclude", "skip_*.py")
    for name in (".git/a.py", "__pycache__/a.py", "left/a.py", "env/a.py", "skip_me.py", "note.txt", ".hidden.py"):
        (site / name).write_text("x = 1\n")
    time.sleep(0.6)
    assert reloads(s) == 0 and "has changed" not in s.log
    write(site / "main.py", "seen")
    says(s, "seen")


def test_include_and_dirs(developing, site, tmp_path):
    other = tmp_path / "templates"
    other.mkdir()
    (other / "page.html").write_text("first")
    (site / "main.py").write_text(f"TEXT = open({str(other / 'page.html')!r}, 'rb').read()\n" + APP.format(body="TEXT"))
    s = developing("--reload-dir", other, "--reload-include", "*.html")
    says(s, "first")
    (other / "page.html").write_text("second")
    says(s, "second")
    s.wait_log("reloaded in")  # the new worker answers a moment before that
    count = reloads(s)
    (site / "main.py").touch()
    time.sleep(0.6)
    assert reloads(s) == count, "app_dir is not among reload.dirs"


def test_a_burst_is_one_reload(developing, site):
    s = developing()
    for i in range(20):
        (site / f"part{i}.py").write_text("x = 1\n")
    s.wait_log("reloaded in")
    time.sleep(0.5)
    assert reloads(s) == 1 and s.log.count("has changed") == 1


def test_a_mistake_leaves_the_old_code_serving(developing, site):
    s = developing()
    s.expect_errors("the new worker did not start", "died: exit code 3")
    (site / "main.py").write_text("def app(:\n")
    s.wait_log("the new worker did not start")
    assert s.get("/").body == b"one"
    write(site / "main.py", "mended")
    says(s, "mended")


def test_a_mistake_at_the_start_waits_for_its_cure(server, site):
    (site / "main.py").write_text("import nothing_of_that_name\n")
    s = server("main:app", "--reload", "--reload-delay", "100ms", app_dir=site, wait=False)
    s.wait_log("waiting for a change")
    s.expect_errors("No module named 'nothing_of_that_name'", "died: exit code 3")
    write(site / "main.py", "cured")
    s.wait_listening()
    says(s, "cured")


def test_reload_turns_it_on_and_off(server, site):
    config = "reload:\n  enabled: {}\n  delay: 100ms\n"
    s = server("main:app", config=config.format("false"), app_dir=site)
    s.check_live = False
    write(site / "main.py", "not seen yet")
    time.sleep(0.5)
    assert s.get("/").body == b"one"
    (s.cwd / "ringcorn.yaml").write_text(config.format("true"))
    s.send_signal(1)
    s.wait_log("reload: 1 folder is watched")
    says(s, "not seen yet")
    write(site / "main.py", "seen by itself")
    says(s, "seen by itself")
