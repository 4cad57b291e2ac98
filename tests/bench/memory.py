"""What an idle connection costs the server in memory of its own: how much the proportional set size of its processes grows for each.

The kernel's memory of the socket, some 4 KiB, is not in it. A first thousand connections, which stay open, pay for arenas, free lists and
tables that grow once.
"""

import base64
import os
import socket
import time

from processes import rss_kib

FIRST, CONNECTIONS = 1000, 4000
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + base64.b64encode(bytes(16))
    + b"\r\n\r\n"
)
MESSAGE = b"m" * 64
FRAME = bytes([0x81, 0x80 | len(MESSAGE)]) + bytes(4) + MESSAGE  # a mask of zeros
ECHO = bytes([0x81, len(MESSAGE)]) + MESSAGE


def ask(sock, data, end):
    sock.sendall(data)
    got = b""
    while end not in got:
        piece = sock.recv(4096)
        if not piece:
            raise RuntimeError(f"closed after {got!r}")
        got += piece


def connect(port, is_websocket):
    """A connection that has been used once: one request, or a handshake and one message that came back."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    try:
        if is_websocket:
            ask(sock, UPGRADE, b"\r\n\r\n")
            ask(sock, FRAME, ECHO)
        else:
            ask(sock, REQUEST, b"Hello, World!")
    except BaseException:
        sock.close()
        raise
    return sock


def measure(port, pid, is_websocket):
    """Bytes of the server for each idle connection."""
    n = min(CONNECTIONS, os.sysconf("SC_OPEN_MAX") - 500 - FIRST)
    socks, kib = [], []
    try:
        for upto in (FIRST, FIRST + n):
            while len(socks) < upto:
                try:
                    socks.append(connect(port, is_websocket))
                except OSError as e:
                    raise RuntimeError(f"connection {len(socks) + 1} of {upto}: {e}") from e
            time.sleep(0.5)
            kib.append(rss_kib(pid))
    finally:
        for sock in socks:
            sock.close()
    return (kib[1] - kib[0]) * 1024 / n
