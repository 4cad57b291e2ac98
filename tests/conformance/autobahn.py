"""Autobahn|Testsuite's fuzzing client against the I/O backends, one after the other; run.py calls it.

It runs on CPython 2.7 only (one of pyenv's, or AUTOBAHN_PYTHON), into which nothing is installed: the suite goes into
build/autobahn/site. The report of all backends is kept as HTML in build/autobahn/reports, that of a choice of cases in
reports-part. Sections 12 and 13 take minutes each.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import harness  # noqa: E402

HOME = ROOT / "build" / "autobahn"
SECTIONS = [f"{n}.*" for n in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13)]  # there is no 8 and no 11
CASES = 517  # in all of them
GOOD = {"OK", "INFORMATIONAL"}  # of the behaviour, and of the close: neither NON-STRICT nor UNCLEAN is
RUN = "import sys; from autobahntestsuite.wstest import run; sys.argv = ['wstest', '-m', 'fuzzingclient', '-s', sys.argv[1]]; run()"


def python27():
    """A CPython 2.7, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    given = os.environ.get("AUTOBAHN_PYTHON")
    for one in [given] if given else [*map(str, sorted(pyenv.glob("versions/2.7*/bin/python"))), shutil.which("python2.7")]:
        try:
            version = subprocess.run([one, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True).stdout
        except (OSError, TypeError):
            continue
        if version.strip() == "(2, 7)":
            return one
    return None


def install(python):
    site = HOME / "site"
    if not (site / "zope" / "__init__.py").exists():
        subprocess.run([python, "-m", "pip", "install", "-q", "--target", str(site), "autobahntestsuite"], check=True)
        (site / "zope" / "__init__.py").touch()  # a namespace package, which --target leaves without
    return site


def run(ios, cases, tally):
    """Adds to the tally (tests/tools/run_tests.py) what each backend's cases came to."""
    python = python27()
    if python is None:
        why = "needs CPython 2.7: pyenv install 2.7.18, or AUTOBAHN_PYTHON=/path/to/python2.7"
        return tally.add("Autobahn", 0, 1, failures=[why])
    HOME.mkdir(parents=True, exist_ok=True)
    site = install(python)
    reports, spec = HOME / ("reports" if cases == SECTIONS else "reports-part"), HOME / "spec.json"
    shutil.rmtree(reports, ignore_errors=True)
    servers = []
    try:
        for io in ios:
            servers.append(harness.Server("ws:app", io=io, cwd=HOME))
        agents = [{"agent": f"ringcorn-{s.io}", "url": f"ws://127.0.0.1:{s.port}/echo"} for s in servers]
        spec.write_text(json.dumps({
            "outdir": str(reports), "servers": agents, "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
        }))  # fmt: skip
        with (HOME / "client.log").open("w") as log:
            env = {**os.environ, "PYTHONPATH": str(site)}
            client = subprocess.run([python, "-c", RUN, str(spec)], stdout=log, stderr=log, cwd=HOME, env=env)
        for s in servers:
            judge(s, client.returncode, reports, cases, tally)
    finally:
        for s in servers:
            s.kill()
    print(f"report: {reports / 'index.html'}", flush=True)


def judge(server, code, reports, cases, tally):
    name, index = f"ringcorn-{server.io}", reports / "index.json"
    found = json.loads(index.read_text()).get(name, {}) if index.exists() else {}
    bad, counts = [], {}
    for case, got in found.items():
        counts[got["behavior"]] = counts.get(got["behavior"], 0) + 1
        if got["behavior"] not in GOOD or got["behaviorClose"] not in GOOD:
            bad.append(f"case {case}: {got['behavior']}, close {got['behaviorClose']}")
    passed = len(found) - len(bad)
    print(f"{name}: {len(found)} cases: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items())), flush=True)
    if code != 0 or not found:
        bad.append(f"the fuzzing client ended with {code}: see {HOME / 'client.log'}")
    elif cases == SECTIONS and len(found) != CASES:
        bad.append(f"{CASES} cases expected, {len(found)} were run")
    try:
        server.check_log()
        server.finish()
    except AssertionError as e:
        bad.append(str(e))
    tally.add(name, passed, len(bad), failures=bad)
