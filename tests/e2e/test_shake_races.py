"""Races of three kinds, in a Django and a FastAPI project each: shaking finds them, replays them, and finds nothing where they are mended.

The projects and their tests are in apps/races; they run in processes of their own, as their owners would run them."""

import concurrent.futures
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.skipif(harness.SANITIZED, reason="a Python of its own loads the extension")

FOLDER = Path(__file__).resolve().parents[1] / "apps" / "races"
SEEDS = 200
REPLAYS = 10
TESTS = ("fastapi_counter", "fastapi_sign_up", "fastapi_mail", "django_counter", "django_sign_up", "django_mail")


def run(*args, **env):
    """(exit code, output) of a run of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ringcorn.pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(FOLDER)]
    command += ["--confcutdir", str(FOLDER)]  # another suite than ours
    path = os.pathsep.join([os.environ.get("RINGCORN_PYDIR") or str(harness.BIN.parent / "python"), str(FOLDER)])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **env}
    done = subprocess.run([*command, *args], cwd=FOLDER, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", TESTS)
def test_a_race_is_found_and_replayed(name):
    node = f"suite.py::test_{name}[race]"
    code, output = run(node)
    assert code == 1, output
    found = re.search(r"ringcorn shake: seed (\d+) makes it fail; what it takes is ", output)
    assert found and 0 < int(found[1]) < SEEDS, output
    assert "failed again 3 times of 3" in output
    seed = re.search(r"--ringcorn-shake=(\S+)", output)[1]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # processes of their own, so with other addresses and hashes
        replays = list(pool.map(lambda _: run(node, f"--ringcorn-shake={seed}"), range(REPLAYS)))
    errors = [re.findall(r"^E .*", output, re.M)[:1] for _, output in replays]
    assert [code for code, _ in replays] == [1] * REPLAYS
    assert errors == [re.findall(r"^E .*", output, re.M)[:1]] * REPLAYS  # and each in the same way


def test_what_has_no_race_passes():
    code, output = run("suite.py", "-k", "mended")
    assert code == 0 and f"{len(TESTS)} passed" in output, output
