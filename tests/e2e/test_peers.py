"""README, "Coming from gunicorn, uvicorn, granian": every option of theirs is in the table, every one of ours in it exists."""

import os
import re
import subprocess
from pathlib import Path

import harness
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PEERS = Path(os.environ.get("RINGCORN_BENCH_VENV", ROOT / "build" / "bench-venv")) / "bin"
COLUMNS = {"uvicorn": 1, "gunicorn": 2, "granian": 3, "ringcorn": 4}


def table(name):
    """The options in a column."""
    text = re.search(r"^## Coming from gunicorn.*?(?=^## )", README, re.M | re.S)[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 40 and {len(row) for row in rows} == {6}
    return {option for row in rows for option in re.findall(r"`(--?[\w-]+)`", row[COLUMNS[name]])}


def options(program):
    """Those that its --help lists: at the start of a line, behind the comma or slash of an alias."""
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True, timeout=60, env=env).stdout
    found = set()
    for line in text.splitlines():
        if match := re.match(r"\s{1,8}(-{1,2}[\w-]+(?: [^\s,/-][^\s,]*)?(?:(?:, *|/| / )-{1,2}[\w-]+(?: [^\s,/-][^\s,]*)?)*)", line):
            found |= set(re.findall(r"(?<![\w-])-{1,2}[A-Za-z][\w-]*", match[1]))
    return found


def test_ours_are_there():
    ours = options(str(harness.BIN))
    assert {"--bind", "-b", "--workers", "-w", "--no-access-log"} <= ours
    assert not table("ringcorn") - ours


@pytest.mark.parametrize("peer, some", [("uvicorn", "--no-date-header"), ("gunicorn", "-w"), ("granian", "--no-ws")])
def test_theirs_are_all_in_the_table(peer, some):
    if not (PEERS / peer).exists():
        pytest.skip(f"{peer} is not in {PEERS.parent}: make bench installs it")
    theirs = options(PEERS / peer)
    assert some in theirs and len(theirs) > 40
    named = table(peer)
    assert not theirs - named, "not in the table"
    assert not named - theirs, "in the table, and no option of theirs"
