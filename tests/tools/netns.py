"""Clients that vanish: they live in a network namespace whose only link can be cut, and then neither FIN nor RST comes of them."""

import ctypes
import os
import re
import subprocess
import threading

CLONE_NEWNET = 0x40000000


def ip(*args):
    try:
        done = subprocess.run(["ip", *args], capture_output=True, text=True)
    except FileNotFoundError as e:
        raise Refused(str(e)) from None
    if re.search("not permitted|not supported|Permission denied", done.stderr):
        raise Refused(done.stderr.strip())
    assert done.returncode == 0, f"ip {args}: {done.stderr}"


class Refused(Exception):
    """This machine lets nobody make one, or has no ip(8)."""


class Network:
    """A namespace and a veth pair into it. A server binds `address`, and clients are made by run()."""

    def __init__(self):
        number = os.getpid() % (1 << 16)
        self.name, self.link = f"ringcorn-{os.getpid()}", f"rc{os.getpid()}"
        # 198.18.0.0/15 is for test beds (RFC 2544); a /30 of it for each process.
        net = f"198.{18 + (number >> 14 & 1)}.{number >> 6 & 255}.{(number & 63) << 2}".rsplit(".", 1)
        self.address, inside = (f"{net[0]}.{int(net[1]) + host}" for host in (1, 2))
        ip("netns", "add", self.name)
        try:
            ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            ip("addr", "add", f"{self.address}/30", "dev", self.link)
            ip("link", "set", self.link, "up")
            ip("-n", self.name, "addr", "add", f"{inside}/30", "dev", "eth0")
            ip("-n", self.name, "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise

    def close(self):
        # First the pair: the namespace takes its end along, but not at once.
        subprocess.run(["ip", "link", "del", self.link], capture_output=True)
        ip("netns", "del", self.name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def run(self, function):
        """Calls it in a thread whose sockets are made in the namespace; what it returns."""
        result = []

        def inside():
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/var/run/netns/{self.name}") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET) < 0:
                    result.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                result.append(function())
            except BaseException as e:
                result.append(e)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def cut(self):
        """Nothing gets through from now on, in either direction, and nobody is told."""
        ip("-n", self.name, "link", "set", "eth0", "down")
