"""The load client of the stress scenarios counts what it should: against a server that misbehaves on purpose."""

import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from load import Load, group
from ports import free_port

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stress"))

import kill  # noqa: E402


class Misbehaving(threading.Thread):
    """Answers the n-th request (from 0) of a connection as `script(connection number, n)` says:
    ok, last (told to close), close, reset, half, wrong, status, silent, extra."""

    def __init__(self, script):
        super().__init__(daemon=True)
        self.script, self.listener = script, socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.start()

    def run(self):
        number = 0
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock, number), daemon=True).start()
            number += 1

    def serve(self, sock, number):
        with sock:
            for n in range(1000):
                data = b""
                while b"\r\n\r\n" not in data:
                    try:
                        more = sock.recv(4096)
                    except OSError:
                        return
                    if not more:
                        return
                    data += more
                query = data.split(b" ")[1].split(b"?")[1]
                head = b"HTTP/1.1 200 OK\r\nx-pid: 7\r\nContent-Length: %d\r\n" % len(query)
                what = self.script(number, n)
                if what == "ok":
                    sock.sendall(head + b"\r\n" + query)
                    if b"Connection: close" in data:
                        return
                elif what == "chunked":
                    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n" + query[:1])
                    time.sleep(0.01)
                    sock.sendall(b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(query) - 1, query[1:]))
                elif what == "last":
                    sock.sendall(head + b"Connection: close\r\n\r\n" + query)
                    return
                elif what == "close":
                    return
                elif what == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    return
                elif what == "half":
                    sock.sendall(head + b"\r\n" + query[:-1])
                    return
                elif what == "wrong":
                    sock.sendall(head + b"\r\n" + b"x" * len(query))
                elif what == "status":
                    sock.sendall(head.replace(b"200", b"503") + b"\r\n" + query)
                elif what == "extra":
                    sock.sendall(head + b"\r\n" + query + b"!")
                elif what == "silent":
                    time.sleep(30)


def tally_of(script, seconds=0.4, kind="keep", **options):
    server = Misbehaving(script)
    try:
        with Load(server.address, [group(kind, 1, ["/x"], pause=0.01, **options)]) as load:
            time.sleep(seconds + 0.2)
            return load.stop()
    finally:
        server.listener.close()


@pytest.mark.parametrize("how", ["ok", "chunked"])
def test_good_answers_are_counted(how):
    tally = tally_of(lambda connection, n: how)
    assert tally.ok > 5 and tally.failed == 0 and tally.connections == 1
    assert how == "chunked" or tally.pids == {7: tally.ok}


@pytest.mark.parametrize(("how", "counted"), [("close", "closed"), ("reset", "reset")])
def test_kept_connection_found_closed_is_retried(how, counted):
    tally = tally_of(lambda connection, n: how if n == 3 else "ok")
    assert tally.failed == 0 and set(tally.retried) == {counted}
    assert tally.connections - 1 <= sum(tally.retried.values()) <= tally.connections


@pytest.mark.parametrize("how", ["close", "reset"])
def test_retry_that_fails_is_a_failure(how):
    tally = tally_of(lambda connection, n: "ok" if connection == 0 and n < 3 else how)
    assert tally.ok == 3 and sum(tally.retried.values()) == 1 and tally.failed >= 1
    assert tally.failures[0]["reason"].endswith("before a byte of the answer, retried")
    assert all("fresh connection" in f["reason"] for f in tally.failures[1:])


def test_told_to_close_is_no_failure():
    tally = tally_of(lambda connection, n: "last" if n == 3 else "ok")
    assert tally.failed == 0 and not tally.retried and tally.told_to_close >= 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [("half", "inside the body"), ("wrong", "instead of"), ("status", "503"), ("extra", "bytes after")],
)
def test_bad_answers_are_failures(how, reason):
    for kind in ("keep", "close"):
        tally = tally_of(lambda connection, n: how, kind=kind)
        assert tally.ok == 0 and tally.failed >= 1 and tally.failed == len(tally.failures)
        assert all(reason in f["reason"] for f in tally.failures), tally.failures


def test_silence_is_a_failure():
    tally = tally_of(lambda connection, n: "silent", timeout=0.3)
    assert tally.failed >= 1 and tally.failures[0]["reason"] == "timeout while asking"


def test_connection_left_open_after_close_is_a_failure():
    tally = tally_of(lambda connection, n: "wrong" if n else "chunked", kind="close", timeout=0.3)
    assert tally.ok >= 1 and tally.failures[0]["reason"] == "timeout while ending"


def test_refused_connection_is_a_failure():
    with Load(("127.0.0.1", free_port()), [group("close", 1, ["/x"], pause=0.01)]) as load:
        time.sleep(0.4)
        tally = load.stop()
    assert tally.ok == 0 and tally.reasons() == {"connect: ECONNREFUSED": tally.failed} and tally.failed


KILLS = [
    {"pid": 7, "clients": None, "at": 10.0, "dead_at": 10.01},
    {"pid": 8, "clients": {("127.0.0.1", 4000)}, "at": 20.0, "dead_at": 20.01},
]
IN_FLIGHT = {
    "reason": "closed inside the body", "pid": 8, "begun_at": 19.99, "failed_at": 20.02, "client": ["127.0.0.1", 4000],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "excused"),
    [
        ({}, True),
        ({"pid": None, "reason": "reset before a byte of the answer, fresh connection"}, True),
        ({"pid": None, "begun_at": 9.9, "failed_at": 10.02, "client": ["127.0.0.1", 1]}, True),
        ({"pid": 9}, False),  # a worker that lives on
        ({"client": ["127.0.0.1", 4001]}, False),  # not among the dead one's connections
        ({"begun_at": 20.02, "failed_at": 20.03}, False),  # after its death
        ({"failed_at": 19.995}, False),  # before it
        ({"failed_at": 27.0}, False),  # long after it
        ({"reason": "connect: ECONNREFUSED"}, False),
        ({"reason": "timeout while asking"}, False),
    ],
)
def test_only_what_the_killed_worker_had_is_excused(change, excused):
    assert kill.is_excused({**IN_FLIGHT, **change}, KILLS) is excused
