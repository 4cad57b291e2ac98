"""How long an async endpoint takes while eight threads of its process compute in Python and want the same lock.

wrk keeps eight requests to an endpoint that burns CPU on a thread in hand; meanwhile a few connections ask the async endpoint again
and again, and every answer's time is kept.
"""

import re
import select
import socket
import subprocess
import time

BURNERS = 8
PROBES = 4
PAUSE = 0.002  # seconds between an answer and the next question
REQUEST = b"GET / HTTP/1.1\r\nHost: probe\r\n\r\n"


def probe(port, seconds):
    """The times, in ms, of the answers within these seconds."""
    poll, times = select.poll(), []
    probes = {}
    try:
        for _ in range(PROBES):
            sock = socket.create_connection(("127.0.0.1", port), 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            probes[sock.fileno()] = [sock, None, time.monotonic(), b""]  # when asked, when to ask, what came
            poll.register(sock, select.POLLIN)
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            for one in probes.values():
                if one[1] is None and one[2] <= now < end:
                    one[0].sendall(REQUEST)
                    one[1] = time.monotonic()
            asked = [one for one in probes.values() if one[1] is not None]
            if not asked and now >= end:
                return times
            due = min((one[2] for one in probes.values() if one[1] is None), default=now + 1)
            for fd, _ in poll.poll(max(0, min(due - now, 1)) * 1000 if now < end else 1000):
                one = probes[fd]
                data = one[0].recv(65536)
                one[3] += data
                if not data or one[1] is None or not one[3].startswith(b"HTTP/1.1 200"[: len(one[3])]):
                    raise RuntimeError(f"an unexpected answer: {one[3]!r}")
                if one[3].endswith(b"\r\n\r\nHello, World!"):
                    got = time.monotonic()
                    times.append((got - one[1]) * 1000)
                    one[1:] = None, got + PAUSE, b""
    finally:
        for sock, *_ in probes.values():
            sock.close()


def measure(port, seconds):
    """(times, burning requests per second)."""
    wrk = subprocess.Popen(
        ["wrk", "-t", "1", "-c", str(BURNERS), "-d", f"{seconds + 1}s", "--timeout", "30s", f"http://127.0.0.1:{port}/burn"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        time.sleep(0.5)  # until all of them burn
        times = probe(port, seconds)
        out = wrk.communicate(timeout=seconds + 60)[0]
    finally:
        if wrk.poll() is None:
            wrk.kill()
            wrk.wait()
    match = re.search(r"Requests/sec:\s*([\d.]+)", out)
    return times, float(match[1]) if match else 0.0


def share(times, part):
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
