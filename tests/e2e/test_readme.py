"""The README says what the program does."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PROGRAM = os.environ.get("RINGCORN_BIN", str(ROOT / "build" / "ringcorn"))


def test_reference_is_what_the_program_prints():
    printed = subprocess.run([PROGRAM, "--config-reference"], capture_output=True, text=True, check=True).stdout
    written = re.search(r"<!-- reference -->\n(.*)<!-- /reference -->", README, re.S)[1]
    assert written.strip() == printed.strip(), "print it again: build/ringcorn --config-reference"


def test_map_names_what_there_is():
    rows = re.findall(r"^ +\d+ +(\w+)/ ", README, re.M)
    folders = sorted(p.name for p in (ROOT / "server").iterdir() if p.is_dir())
    assert sorted(rows) == folders


def test_walk_names_files_that_are_there():
    for path in re.findall(r"`((?:base|conf|io|net|http|py|sync|asgi|worker|master)/\w+\.[ch])`", README):
        assert (ROOT / "server" / path).is_file(), path


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)`", README) + re.findall(r"^    make ([a-z-]+)", README, re.M):
        assert re.search(rf"^{target}( [\w. -]+)?:|^(?:[\w-]+ )*{target}\b.*:", makefile, re.M), target


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
