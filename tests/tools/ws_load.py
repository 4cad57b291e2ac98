"""Builds and runs ws_load.c, the client of many WebSockets."""

import contextlib
import json
import subprocess
import threading
from pathlib import Path

import c_programs

SOURCE = Path(__file__).with_suffix(".c")


class Failed(Exception):
    """What the client says of an answer that it did not expect."""


def program():
    return c_programs.built(SOURCE, "-lz")


def arguments(mode, address, path, connections, deflate, *more):
    host, port = address
    return [program(), mode, "-n", str(connections), *(["-d"] if deflate else []), *more, host, str(port), path]


def echo(address, path, connections=64, size=64, deflate=False, seconds=2.0):
    """What it measured: {"messages", "seconds", "bytes_in"}."""
    command = arguments("echo", address, path, connections, deflate, "-b", str(size), "-s", str(seconds))
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
