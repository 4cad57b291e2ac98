"""Autobahn|Testsuite's fuzzing client against both backends: every case must be OK or informational.

    python tests/conformance/autobahn.py [--cases '1.*' ...] [--io io_uring,epoll]

It runs on CPython 2.7 only (one of pyenv's, or AUTOBAHN_PYTHON), into which nothing is installed: the suite goes into
build/autobahn/site. The report is kept as HTML in build/autobahn/reports. Sections 12 and 13 take minutes each.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import harness  # noqa: E402

HOME = ROOT / "build" / "autobahn"
SECTIONS = [f"{n}.*" for n in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13)]
GOOD = {"OK", "INFORMATIONAL"}
GOOD_CLOSE = {"OK", "INFORMATIONAL"}


def python27():
    found = [os.environ.get("AUTOBAHN_PYTHON")] + sorted(map(str, Path.home().glob(".pyenv/versions/2.7*/bin/python")))
    for one in filter(None, found):
        if subprocess.run([one, "-c", "import sys; assert sys.version_info[:2] == (2, 7)"], capture_output=True).returncode == 0:
            return one
    sys.exit("autobahntestsuite needs CPython 2.7: pyenv install 2.7.18, or AUTOBAHN_PYTHON=/path/to/python2.7")


def install(python):
    site = HOME / "site"
    if not (site / "autobahntestsuite").is_dir():
        subprocess.run([python, "-m", "pip", "install", "-q", "--target", str(site), "autobahntestsuite"], check=True)
        (site / "zope" / "__init__.py").touch()  # a namespace package, which --target leaves without
    return site


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=SECTIONS)
    parser.add_argument("--io", default="io_uring,epoll")
    options = parser.parse_args()
    python = python27()
    HOME.mkdir(parents=True, exist_ok=True)
    site = install(python)
    reports, spec = HOME / "reports", HOME / "spec.json"
    servers = []
    try:
        for io in options.io.split(","):
            servers.append(harness.Server("ws:app", io=io, cwd=HOME))
        agents = [{"agent": f"ringcorn-{s.io}", "url": f"ws://127.0.0.1:{s.port}/echo"} for s in servers]
        spec.write_text(json.dumps({
            "outdir": str(reports), "servers": agents, "cases": options.cases, "exclude-cases": [], "exclude-agent-cases": {},
        }))  # fmt: skip
        code = "import sys; from autobahntestsuite.wstest import run; sys.argv = ['wstest', '-m', 'fuzzingclient', '-s', sys.argv[1]]; run()"
        subprocess.run([python, "-c", code, str(spec)], check=True, cwd=HOME, env={**os.environ, "PYTHONPATH": str(site)})
    finally:
        for s in servers:
            s.kill()
    failed = tell(json.loads((reports / "index.json").read_text()), [a["agent"] for a in agents])
    print(f"report: {reports / 'index.html'}")
    return 1 if failed else 0


def tell(index, agents):
    """One line an agent; every case that is not as it must be by name. Returns how many those are."""
    bad = 0
    for agent in agents:
        cases = index.get(agent, {})
        counts = {}
        for name, case in sorted(cases.items()):
            counts[case["behavior"]] = counts.get(case["behavior"], 0) + 1
            if case["behavior"] not in GOOD or case["behaviorClose"] not in GOOD_CLOSE:
                bad += 1
                print(f"{agent} {name}: {case['behavior']}, close {case['behaviorClose']}")
        print(f"{agent}: {len(cases)} cases: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items())))
        bad += not cases
    return bad


if __name__ == "__main__":
    sys.exit(main())
