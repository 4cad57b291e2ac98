"""A Redis server of one's own (not redis.py: that is the client's name).

    with Redis() as redis:
        redis.url                 # redis://127.0.0.1:...
        redis.keys()              # what is stored in it
    with Redis() as redis, Sentinel(redis, "name") as sentinel: ...
    with Cluster(6) as cluster:   # three masters, a replica of each
        cluster.url
"""

import contextlib
import shutil
import socket
import subprocess
import time

import programs
from ports import free_port


class Redis(programs.Program):
    name = package = "redis-server"

    def __init__(self, *options, port=None):
        """With options of its command line more: "--cluster-enabled", "yes"."""
        super().__init__(port)
        self.options = options

    def command(self):
        return ["--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.folder, *self.options]

    def is_ready(self):
        return "Ready to accept connections" in self.log()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *words):
        """One command on a connection of its own, without a client library; the answer as Redis writes it."""
        line = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), 10) as s:
            s.sendall(f"*{len(words)}\r\n{line}".encode())
            s.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: s.recv(65536), b"")).decode()

    def keys(self):
        """Names of what is stored now."""
        return [line for line in self.ask("KEYS", "*").split("\r\n")[1:] if line and not line.startswith("$")]

    def channels(self):
        """Channels with a subscriber."""
        return [line for line in self.ask("PUBSUB", "CHANNELS").split("\r\n")[1:] if line and not line.startswith("$")]


class Sentinel(programs.Program):
    """Watches over a Redis; who knows its name asks it for the address."""

    name = package = "redis-server"

    def __init__(self, redis, service, port=None):
        super().__init__(port)
        self.redis, self.service = redis, service

    def command(self):
        path = self.folder / "sentinel.conf"  # it writes down in it what it finds out
        path.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nsentinel monitor {self.service} 127.0.0.1 {self.redis.port} 1\n")
        return [path, "--sentinel"]


class Cluster:
    """So many servers that share the keys: half of them masters, each of the others a replica."""

    def __init__(self, nodes, *options, ports=()):
        """On those ports, as far as they are free."""
        wanted = [*ports, *[None] * nodes][:nodes]
        self.nodes = [
            Redis("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", str(free_port()), *options, port=port) for port in wanted
        ]

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
            command = [shutil.which("redis-cli"), "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
            made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            if made.returncode != 0:
                raise RuntimeError(f"no cluster is made of {addresses}:\n{made.stdout}{made.stderr}")
            deadline = time.monotonic() + 60
            while not all(self.is_ready(node) for node in self.nodes):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the cluster does not become ready:\n{self.nodes[0].ask('CLUSTER', 'NODES')}")
                time.sleep(0.05)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self.stack.close()

    def is_ready(self, node):
        return "cluster_state:ok" in node.ask("CLUSTER", "INFO") and node.ask("CLUSTER", "NODES").count("slave ") * 2 == len(self.nodes)

    @property
    def url(self):
        return self.nodes[0].url
