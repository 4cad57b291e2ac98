"""Who is at the other end of a TCP connection of this machine: for the report of a test that finds one which is not its own."""

import os
from pathlib import Path

ESTABLISHED, CLOSE_WAIT, FIN_WAIT_2 = "01", "08", "05"


def _connections():
    """(local port, remote port, state, inode) of IPv4 and IPv6."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            yield int(local.rsplit(":", 1)[1], 16), int(remote.rsplit(":", 1)[1], 16), state, rest[5]


def _owner(inode):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{name}") == f"socket:[{inode}]":
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    return f"pid {pid}: {command[:200]}"
        except OSError:
            continue
    return "no process"


def of_port(port):
    """A line for each connection that a server on *port* has."""
    every = list(_connections())
    lines = []
    for local, remote, state, _ in every:
        if local == port and state in (ESTABLISHED, CLOSE_WAIT, FIN_WAIT_2):
            others = [(s, inode) for l, r, s, inode in every if (l, r) == (remote, port)]
            ends = ", ".join(f"{_owner(inode)} (state {s})" for s, inode in others) or "gone"
            lines.append(f"port {port}: state {state}, from port {remote} of {ends}")
    return lines
