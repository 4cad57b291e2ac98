"""Ctrl-C: gone within a second, whatever is open; a second one ends what does not end, and says what it was."""

import os
import signal
import time

import harness
import wire
from common import cpu_seconds, get_json, serving, the_worker

GONE_WITHIN = 1.0


def interrupt(server):
    """As a terminal does it: SIGINT to every process of the group."""
    os.killpg(server.pid, signal.SIGINT)
    return time.monotonic()


def ask(server, path):
    connection = server.connect()
    connection.send(f"GET {path} HTTP/1.1\r\nHost: stress\r\n\r\n")
    return connection


def with_connections(io):
    """Streams, long polls, idle and half-open connections, two workers."""
    with serving(io, "--workers", 2) as server:
        open_ones = []
        try:
            for _ in range(10):
                open_ones.append(ask(server, "/endless"))  # read by nobody, but small
                open_ones.append(ask(server, "/endless?size=200000&delay=0"))  # stuck on a full socket
                open_ones.append(ask(server, "/poll"))
                open_ones.append(server.connect())  # silent
                idle = server.connect()
                assert idle.get("/instant?1").body == b"1"
                open_ones.append(idle)
                half = server.connect()
                half.send(b"GET /instant HTTP/1.1\r\nHo")
                open_ones.append(half)
            for connection in open_ones[0::6]:
                assert connection.head().status == 200
            time.sleep(0.3)
            since = interrupt(server)
            code = server.wait_exit(10)
            took = time.monotonic() - since
        finally:
            for connection in open_ones:
                connection.close()
        assert code == 0, f"exit code {code}\n{server.log}"
        assert took <= GONE_WITHIN * harness.SLOW, f"gone after {took:.2f} s only\n{server.log}"
    return {"connections": len(open_ones), "gone_after_s": round(took, 3)}


def with_stuck(io, path, function):
    """Something that does not end: the first Ctrl-C asks it, the second ends it and names it."""
    killed = [r"did not leave in order", r"died: ", r"killed", path]
    with serving(io, allow_errors=killed) as server:
        with ask(server, path):
            wire.eventually(lambda: is_begun(server, path), 5, f"{path} has begun")
            since = interrupt(server)
            time.sleep(0.6)
            by_first = server.process.poll() is not None
            second = interrupt(server) if not by_first else since
            server.wait_exit(10)
            took = time.monotonic() - second
        assert took <= GONE_WITHIN * harness.SLOW, f"gone {took:.2f} s after the second signal only\n{server.log}"
        assert function in server.log, f"the log does not name {function}\n{server.log}"
        assert path in server.log, f"the log does not name {path}\n{server.log}"
        # Expected here, and only here: a thread that hangs in C cannot be ended in order.
        exit_code = server.stopped
        assert exit_code in (0, 1), f"exit code {exit_code}\n{server.log}"
    return {"gone_after_second_s": round(took, 3), "ended_by_first": by_first, "exit_code": exit_code}


def is_begun(server, path):
    """The spinning view takes the processor and leaves nobody to ask; beside the stuck thread the loop still answers."""
    if path == "/spin-forever":
        pid = the_worker(server)
        before = cpu_seconds(pid)
        time.sleep(0.3)
        return cpu_seconds(pid) - before > 0.1
    return get_json(server, "/stuck") == 1


def scenario(io):
    """SIGINT to the process group: with streams and sockets open, in a view that spins, with a thread stuck in C."""
    return {
        "connections": with_connections(io),
        "while_true": with_stuck(io, "/spin-forever", "spin_forever"),
        "stuck_thread": with_stuck(io, "/stuck-thread", "read_an_empty_pipe"),
    }
