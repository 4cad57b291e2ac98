"""Builds and runs echo_load.c, the client whose messages come back."""

import json
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = Path(__file__).resolve().parents[2] / "build" / "tools" / "echo_load"
PATIENCE = 60  # seconds beyond those of the load


class Failed(Exception):
    """What the client says of an answer that it did not expect."""


def program():
    """Its path; built where it is missing or old. Two who build at once do not meet: each has a file of its own until it is done."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        made = PROGRAM.with_suffix(f".{os.getpid()}")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-Wall", "-o", made, SOURCE, "-lssl", "-lcrypto"], check=True)
        made.rename(PROGRAM)
    return PROGRAM


def echo(mode, port, connections, size, seconds, clock, prefix=()):
    """What it measured ({"messages", "seconds", "lost"}), and how far clock() went from the first message to the last echo: connections are
    made before and closed after. mode: tcp, tls or udp; prefix: as taskset."""
    command = [*prefix, program(), mode, "-n", str(connections), "-b", str(size), "-s", str(seconds), "127.0.0.1", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline() != "open\n":
            raise Failed(process.communicate(timeout=PATIENCE)[1])
        before = clock()
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
        went = clock() - before
        error = process.communicate(timeout=PATIENCE)[1]
        if process.returncode != 0 or not line:
            raise Failed(error)
        return json.loads(line), went
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
