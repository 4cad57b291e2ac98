"""Sockets as the kernel tells of them: which processes listen, and who is at the other end of a server's TCP connections, for the report of a
test that finds one which is not its own."""

import contextlib
import os
from pathlib import Path

STATES = (
    "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING",
)  # fmt: skip


def _sockets():
    """[(inode, local port, remote port, state)] of IPv4 and IPv6."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            found.append((rest[5], int(local.rsplit(":", 1)[1], 16), int(remote.rsplit(":", 1)[1], 16), STATES[int(state, 16) - 1]))
    return found


def _held(pid):
    """The inodes of its sockets."""
    links = []
    with contextlib.suppress(OSError):  # it has ended
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return [link[8:-1] for link in links if link.startswith("socket:[")]


def _unix():
    """{inode: whether it listens} of unix sockets."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {words[6]: bool(int(words[3], 16) & 0x10000) for words in map(str.split, lines)}  # __SO_ACCEPTCON


def all_listen(pids):
    """Does each of these processes hold a listening socket?"""
    listening = {inode for inode, _, _, state in _sockets() if state == "LISTEN"} | {inode for inode, listens in _unix().items() if listens}
    return all(listening.intersection(_held(pid)) for pid in pids)


def _owner(inode):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if inode in _held(pid):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            return f"pid {pid}: {command[:200]}"
    return "no process"


def of_processes(pids):
    """A line for each TCP connection that they hold; of both ends."""
    every, unix = _sockets(), _unix()
    by_inode, lines = {s[0]: s for s in every}, []
    for pid in pids:
        for inode in _held(pid):
            _, local, remote, state = by_inode.get(inode, (inode, 0, 0, "no connection any more"))
            if state == "LISTEN" or inode in unix:
                continue
            ends = ", ".join(f"{_owner(i)} ({s})" for i, l, r, s in every if (l, r) == (remote, local)) or "gone"
            lines.append(f"pid {pid} has a connection from port {local}: {state}; to port {remote} of {ends}")
    return lines
