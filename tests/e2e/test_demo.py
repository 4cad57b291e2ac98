"""`make demo`: the scene of docker/compose.yaml as processes, visited by a real browser, leaves nothing behind."""

import os
import signal
import subprocess
import sys

import harness
import pytest
import scene
import tour
import wire

DEMO = harness.ROOT / "tests" / "tools" / "demo.py"


@pytest.mark.slow
def test_a_visitor_of_the_whole_scene(usable_io, browser, tmp_path):
    with scene.Scene(harness.BIN, options=("--io", usable_io)) as one:
        tour.tour(browser, one.url, scene.USER, scene.PASSWORD, tmp_path / "shots")
        assert len(list((tmp_path / "shots").glob("*.png"))) == 6
        # Sessions are in Redis, entries in PostgreSQL, files where nginx takes them.
        assert any("cached_db" in key for key in one.redis.keys())
        assert one.postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'guestbook'")[0][0] >= 1
        assert (one.folder / "media" / "pictures" / "login.png").is_file()
        log, server = one.ringcorn.log(), one.ringcorn.process
        assert f"I/O by {usable_io}" in log
    assert server.returncode == 0
    assert not harness.ERROR_LINE.search(log) and harness.TRACEBACK not in log and "warning" not in log, log
    assert not one.folder.exists()


def test_it_stays_until_ctrl_c():
    with subprocess.Popen(
        [sys.executable, DEMO, "--program", harness.BIN, "--stay", "--no-visit"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=harness.environment(), start_new_session=True,
    ) as process:  # fmt: skip
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C ends all of it" in line:
                break
        text = "".join(said)
        assert "user admin, password admin" in text, text + process.stderr.read()
        port = int(text.split("guest book      http://127.0.0.1:")[1].split("/")[0])
        with wire.Connection(("127.0.0.1", port), 20) as c:
            assert b"Guest book" in c.get("/").body
        children = harness.children(process.pid)
        assert len(children) == 4, "PostgreSQL, Redis, Ringcorn, nginx"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60 * harness.SLOW) == 0
        assert process.stderr.read() == ""
    assert not [pid for child in children for pid in harness.of_session(child)]
