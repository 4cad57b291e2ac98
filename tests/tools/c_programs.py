"""Small programs in C that tests and benchmarks need beside ours: built where they are missing or old."""

import os
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "build" / "tools"


def built(source, *libraries):
    """The path of the program made of that file. Two who build at once do not meet: each has a file of its own until it is done."""
    program = FOLDER / source.stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        FOLDER.mkdir(parents=True, exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-Wall", "-o", made, source, *libraries], check=True)
        made.rename(program)
    return program
