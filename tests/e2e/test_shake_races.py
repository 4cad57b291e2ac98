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

pytestmark = [pytest.mark.skipif(harness.SANITIZED, reason="a Python of its own loads the extension"), pytest.mark.timeout(600)]

FOLDER = Path(__file__).resolve().parents[1] / "apps" / "races"
SEEDS = 200
REPLAYS = 10
TESTS = ("fastapi_counter", "fastapi_sign_up", "fastapi_mail", "django_counter", "django_sign_up", "django_mail")

# Runs a test under a seed for each pair of arguments.
REPLAY = """
import sys, pytest
for node, seed in zip(sys.argv[1::2], sys.argv[2::2]):
    pytest.main([*OPTIONS, node, "--ringcorn-shake=" + seed])
"""
OPTIONS = ["-q", "-p", "ringcorn.pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(FOLDER), "--confcutdir", str(FOLDER)]


def run(*command):
    """(exit code, output) of a Python."""
    path = os.pathsep.join([str(harness.BIN.parent / "python"), str(FOLDER)])
    ours = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}  # which make pytest's summary longer
    env = {**ours, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"}
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=FOLDER, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


def failures(output):
    """{name: what has failed} of a run of pytest, or of several: of the lines at its end."""
    return dict(re.findall(r"^FAILED suite.py::test_(\w+)\[race\] - (.*)", output, re.M))


def test_races_are_found_and_replayed():
    code, output = run("-m", "pytest", *OPTIONS, "suite.py", "-k", "race")
    assert code == 1 and f"{len(TESTS)} failed" in output, output
    found = failures(output)
    assert set(found) == set(TESTS), output
    seeds = re.findall(r"ringcorn shake: seed (\d+) makes it fail; what it takes is ", output)
    assert len(seeds) == len(TESTS) and all(0 < int(seed) < SEEDS for seed in seeds), output
    assert output.count("failed again 3 times of 3") == len(TESTS)
    pairs = re.findall(r"replay: pytest '(.*)' --ringcorn-shake=(\S+)", output)
    script = REPLAY.replace("OPTIONS", repr([*OPTIONS, "--tb=no"]))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # processes of their own, so with other addresses and hashes
        replays = list(pool.map(lambda _: run("-c", script, *sum(pairs, ())), range(REPLAYS)))
    for _, output in replays:
        assert failures(output) == found, output


def test_what_has_no_race_passes():
    code, output = run("-m", "pytest", *OPTIONS, "suite.py", "-k", "mended")
    assert code == 0 and f"{len(TESTS)} passed" in output, output
