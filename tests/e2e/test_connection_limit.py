"""limits.connections holds, also against those that came all at once while the loop was busy."""

import os
import signal
import socket

import pytest
import wire

LIMIT, CLIENTS = 50, 300


@pytest.mark.parametrize("request_first", [False, True])
def test_limit_holds_against_a_burst(server, request_first):
    running = server("raw:app", "--limit-connections", LIMIT)
    (pid,) = running.workers()
    request = b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n"
    os.kill(pid, signal.SIGSTOP)
    try:
        clients = [socket.create_connection(running.address, timeout=10) for _ in range(CLIENTS)]
        if request_first:
            for client in clients:
                client.sendall(request)
    finally:
        os.kill(pid, signal.SIGCONT)
    wire.eventually(lambda: running.live(pid)["conns"] == LIMIT, 5, "as many as are allowed")
    assert running.live(pid)["conns"] == LIMIT
    # Each that goes makes room for one that waits: all are served.
    for client in clients:
        if not request_first:
            client.sendall(request)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.close()
