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
    path = os.pathsep.join([os.environ.get("RINGCORN_PYDIR") or str(harness.BIN.parent / "python"), str(FOLDER)])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=FOLDER, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    return done.returncode, done.stdout


def failures(output):
    """{name: the first line of its failure and the last one} of a run of pytest, or of several."""
    parts = re.split(r"^_+ test_(\w+)\[race\] _+$", output, flags=re.M)
    return {name: re.findall(r"^E {2,}(.*)", text, re.M) for name, text in zip(parts[1::2], parts[2::2])}


def test_races_are_found_and_replayed():
    code, output = run("-m", "pytest", *OPTIONS, "suite.py", "-k", "race")
    assert code == 1 and f"{len(TESTS)} failed" in output, output
    found = failures(output)
    assert set(found) == set(TESTS), output
    pairs = []
    for name, lines in found.items():
        text = "\n".join(lines)
        seed = re.search(r"ringcorn shake: seed (\d+) makes it fail; what it takes is ", text)
        assert seed and 0 < int(seed[1]) < SEEDS, text
        assert "failed again 3 times of 3" in text
        pairs += [f"suite.py::test_{name}[race]", re.search(r"--ringcorn-shake=(\S+)", text)[1]]
    script = REPLAY.replace("OPTIONS", repr(OPTIONS))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # processes of their own, so with other addresses and hashes
        replays = list(pool.map(lambda _: run("-c", script, *pairs), range(REPLAYS)))
    first = {name: lines[0] for name, lines in found.items()}
    for _, output in replays:
        assert {name: lines[0] for name, lines in failures(output).items()} == first, output


def test_what_has_no_race_passes():
    code, output = run("-m", "pytest", *OPTIONS, "suite.py", "-k", "mended")
    assert code == 0 and f"{len(TESTS)} passed" in output, output
