"""A pytest plugin: what became of each test, written line by line, so that a run that hangs or crashes tells how far it came.

RINGCORN_FOREIGN_REPORT is the file. Tests that it names already are left out: a run that broke off is gone on with behind the test that broke it.
RINGCORN_FOREIGN_ONLY names a file with the tests to run, one a line; unset, all of them. RINGCORN_FOREIGN_QUIET names a logger that the suite's own
runner silences. RINGCORN_FOREIGN_FREEZE is for suites that collect garbage after each test: looking through thousands of tests, which stay to the
end, would be most of the time. (Not for others: Hypothesis asks the collector who refers to an object.)
"""

import gc
import json
import logging
import os

REPORT = os.environ["RINGCORN_FOREIGN_REPORT"]
outcomes = {}


def write(what, test, **more):
    with open(REPORT, "a") as f:
        f.write(json.dumps({"what": what, "test": test, **more}) + "\n")


def pytest_configure(config):
    if name := os.environ.get("RINGCORN_FOREIGN_QUIET"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def pytest_collection_modifyitems(config, items):
    seen = set()
    if os.path.exists(REPORT):
        with open(REPORT) as f:
            seen = {json.loads(line)["test"] for line in f}
    only = None
    if path := os.environ.get("RINGCORN_FOREIGN_ONLY"):
        with open(path) as f:
            only = set(f.read().splitlines())
    keep = [item for item in items if item.nodeid not in seen and (only is None or item.nodeid in only)]
    left = [item for item in items if item not in set(keep)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = keep


def pytest_collection_finish(session):
    if os.environ.get("RINGCORN_FOREIGN_FREEZE"):
        gc.collect()
        gc.freeze()


def pytest_collectreport(report):
    if report.failed:
        write("end", f"{report.nodeid} (collection)", outcome="failed")


def pytest_runtest_logstart(nodeid, location):
    outcomes.pop(nodeid, None)
    write("start", nodeid)


def pytest_runtest_logreport(report):
    before = outcomes.get(report.nodeid, "passed")
    if report.failed or before == "failed":
        now = "failed"
    elif report.skipped:
        now = "skipped"
    else:
        now = before
    outcomes[report.nodeid] = now


def pytest_runtest_logfinish(nodeid, location):
    write("end", nodeid, outcome=outcomes.pop(nodeid, "passed"))


def pytest_sessionfinish(session, exitstatus):
    write("finish", "")
