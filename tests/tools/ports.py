"""A TCP port for a program that cannot be given port 0, or whose tests have to know it before it runs."""

import random
import socket
from pathlib import Path

LEAST = 10000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port():
    """A port that nobody has. Between this look and the program's bind() somebody else could get it: so it is from below the range
    out of which the kernel serves port 0 and outgoing connections, which tests in other processes ask for all the time."""
    first = int(RANGE.read_text().split()[0])
    ports = range(LEAST, first if first > 2 * LEAST else 65536)
    chance = random.SystemRandom()  # whoever seeds the module's own has every process choose the same
    for _ in range(100):
        port = chance.choice(ports)
        with socket.socket() as s:
            try:
                s.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no free port found")
