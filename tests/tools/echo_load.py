"""Builds and runs echo_load.c, the client whose messages come back."""

import json
import subprocess
from pathlib import Path

import c_programs

SOURCE = Path(__file__).with_suffix(".c")
PATIENCE = 60  # seconds beyond those of the load


class Failed(Exception):
    """What the client says of an answer that it did not expect."""


def program():
    return c_programs.built(SOURCE, "-lssl", "-lcrypto")


def echo(mode, port, connections, size, seconds, clock):
    """What it measured ({"messages", "seconds", "lost"}), and how far clock() went from the first message to the last echo: connections are
    made before and closed after. mode: tcp, tls or udp."""
    command = [program(), mode, "-n", str(connections), "-b", str(size), "-s", str(seconds), "127.0.0.1", str(port)]
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
