#!/usr/bin/env python3
"""Makes docker/seccomp.json: the container engine's default profile, and the three calls of io_uring.

    docker/seccomp.py [/usr/share/containers/seccomp.json] >docker/seccomp.json

Engines refuse io_uring by default since 2023, for the kernel's faults of those years (moby #46762). What the three calls open: a process
may hand work to the kernel through shared memory, and seccomp does not see that work; Ringcorn itself asks for accept, poll, recv and
send on its sockets, all of which it may do without the ring. So whoever takes this profile trusts the kernel's io_uring, for this
container. Whoever does not, loses little: Ringcorn runs on epoll, and says so in one line.

The one line that applies it:  docker run --security-opt seccomp=docker/seccomp.json ...     (podman: the same)
"""

import json
import sys

CALLS = ["io_uring_enter", "io_uring_register", "io_uring_setup"]
DEFAULT = "/usr/share/containers/seccomp.json"  # Debian: golang-github-containers-common, with podman and buildah


def with_io_uring(profile):
    """The profile, in which the calls are allowed and no rule refuses them."""
    rules = []
    for rule in profile["syscalls"]:
        names = [name for name in rule["names"] if name not in CALLS]
        if names:
            rules.append({**rule, "names": names})
    rules.append({"names": CALLS, "action": "SCMP_ACT_ALLOW", "args": [], "comment": "io_uring", "includes": {}, "excludes": {}})
    return {**profile, "syscalls": rules}


def main():
    with open(sys.argv[1] if len(sys.argv) > 1 else DEFAULT) as f:
        profile = json.load(f)
    json.dump(with_io_uring(profile), sys.stdout, indent="\t")
    print()


if __name__ == "__main__":
    main()
