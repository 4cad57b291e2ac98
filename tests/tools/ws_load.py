"""Builds and runs ws_load.c, the client of many WebSockets."""

import contextlib
import json
import os
import subprocess
import threading
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = Path(__file__).resolve().parents[2] / "build" / "tools" / "ws_load"


class Failed(Exception):
    """What the client says of an answer that it did not expect."""


def program():
    """Its path; built where it is missing or old. Two who build at once do not meet: each has a file of its own until it is done."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        made = PROGRAM.with_suffix(f".{os.getpid()}")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-Wall", "-o", made, SOURCE, "-lz"], check=True)
        made.rename(PROGRAM)
    return PROGRAM


def arguments(mode, address, path, connections, deflate, *more):
    host, port = address
    return [program(), mode, "-n", str(connections), *(["-d"] if deflate else []), *more, host, str(port), path]


def echo(address, path, connections=64, size=64, deflate=False, seconds=2.0, prefix=()):
    """What it measured: {"messages", "seconds", "bytes_in"}. prefix: as taskset."""
    command = [*prefix, *arguments("echo", address, path, connections, deflate, "-b", str(size), "-s", str(seconds))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode != 0:
        raise Failed(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def hold(address, path, connections, deflate=False, within=120):
    """Connections that are open and say nothing; a function that closes them and returns what they heard."""
    command = arguments("hold", address, path, connections, deflate)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = threading.Timer(within, process.kill)
    watch.start()

    def finish():
        out, err = process.communicate(timeout=60)
        if process.returncode != 0:
            raise Failed(err)
        return json.loads(out.splitlines()[-1])

    try:
        said = process.stdout.readline()
        watch.cancel()
        if said != "open\n":
            raise Failed(process.communicate(timeout=10)[1] or f"not open within {within} s")
        yield finish
    finally:
        watch.cancel()
        if process.poll() is None:
            process.kill()
            process.communicate()
