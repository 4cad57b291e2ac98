"""A Redis server of one's own (not redis.py: that is the client's name).

    with Redis() as redis:
        redis.url                 # redis://127.0.0.1:...
        redis.keys()              # what is stored in it
"""

import socket

import programs


class Redis(programs.Program):
    name = package = "redis-server"

    def command(self):
        return ["--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.folder]

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
