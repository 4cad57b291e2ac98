"""Idle connections cost little; a lack of descriptors costs a wait, neither the processor nor the worker."""

import resource
import socket
import time

import harness
from common import SOURCES, cpu_seconds, descriptor_count, memory_kib, serving, the_worker
from load import Load, group

BYTES_EACH_MAX = 2048
SPIN_SECONDS_MAX = 0.3  # CPU time within 3 s in which nothing can be done


def held(io, n):
    """Bytes per idle keep-alive connection after one request each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(n, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the server and the client inherit it
    # Keep-alive longer than the test: none may be closed under us.
    options = ["--limits-connections", n + 1000, "--timeouts-keep-alive", "300"]
    with serving(io, *options) as server:
        pid = the_worker(server)
        # The first thousand pays for arenas, free lists and tables that grow once.
        with Load(server.address, [group("hold", 1000, ["/instant"], timeout=20, sources=SOURCES)]) as first:
            first.wait("answered", 60)
            first.stop()
        server.check_returned()
        before = memory_kib(pid)
        with Load(server.address, [group("hold", n, ["/instant"], timeout=20, sources=SOURCES)]) as load:
            load.wait("answered", 120)
            time.sleep(0.5)
            after = memory_kib(pid)
            cpu = cpu_seconds(pid)
            time.sleep(1)
            idle_cpu = cpu_seconds(pid) - cpu
            connections = descriptor_count(pid)
            tally = load.stop()
        assert tally.failed == 0, f"{tally.reasons()}\n{server.log}"
        assert connections >= n, f"{connections} descriptors for {n} connections"
        each = {kind: round(1024 * (after[kind] - before[kind]) / n) for kind in after}
        figures = {"connections": n, "bytes_each": each, "idle_cpu_s": round(idle_cpu, 3), "rss_kib": after["rss"]}
        # A sanitizer's red zones and shadow are no measure.
        assert harness.SANITIZED or max(each.values()) <= BYTES_EACH_MAX, figures
        assert idle_cpu < 0.1, f"{n} idle connections keep the processor busy: {figures}"
    return figures


def talk(sock, number, timeout=10.0):
    """One request on a connected socket."""
    sock.settimeout(timeout)
    sock.sendall(b"GET /instant?%d HTTP/1.1\r\nHost: stress\r\n\r\n" % number)
    data = b""
    while b"\r\n\r\n%d" % number not in data:
        more = sock.recv(4096)
        assert more, f"closed after {data!r}"
        data += more


def is_answered(sock, seconds):
    sock.settimeout(seconds)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


def quiet(pid, seconds):
    """CPU time that the process takes within some seconds."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return round(cpu_seconds(pid) - before, 3)


def exhausted_by_clients(io, limit=200, clients=400):
    """More clients than descriptors: those beyond wait in the kernel's queue, and are served when others go."""
    with serving(io, prefix=["prlimit", f"--nofile={limit}:{limit}"], allow_errors=["descriptor|EMFILE|open files"]) as server:
        pid = the_worker(server)
        socks = []
        try:
            for _ in range(clients):
                sock = socket.create_connection(server.address, timeout=5)
                socks.append(sock)
                sock.sendall(b"GET /instant?1 HTTP/1.1\r\nHost: stress\r\n\r\n")
            time.sleep(0.5)
            spent = quiet(pid, 3)
            served = [s for s in socks if is_answered(s, 0.001)]
            waiting = [s for s in socks if s not in served]
            assert the_worker(server) == pid
            assert 50 <= len(served) <= limit, f"{len(served)} of {clients} served with {limit} descriptors\n{server.log}"
            for sock in served:
                sock.close()
            later = 0
            deadline = time.monotonic() + 5
            while waiting and time.monotonic() < deadline:
                # Each that is served makes room for the next.
                for sock in [s for s in waiting if is_answered(s, 0.001)]:
                    sock.close()
                    waiting.remove(sock)
                    later += 1
            assert not waiting, f"{len(waiting)} connections are not served although descriptors are free\n{server.log}"
        finally:
            for sock in socks:
                sock.close()
        figures = {"descriptors": limit, "clients": clients, "served_at_once": len(served), "served_later": later}
        figures["cpu_s_of_3"] = spent
        assert spent <= SPIN_SECONDS_MAX, f"it spins: {figures}\n{server.log}"
        with socket.create_connection(server.address, timeout=5) as sock:
            talk(sock, 7)
        assert the_worker(server) == pid
    return figures


def exhausted_by_the_application(io, limit=200):
    """The application has taken every descriptor: accept fails (EMFILE). It goes on when they are given back."""
    with serving(io, prefix=["prlimit", f"--nofile={limit}:{limit}"], allow_errors=["descriptor|EMFILE|open files"]) as server:
        pid = the_worker(server)
        with server.connect() as kept:
            eaten = kept.get("/eat-descriptors?s=4").json()
            since = time.monotonic()
            socks = [socket.create_connection(server.address, timeout=5) for _ in range(20)]
            try:
                for sock in socks:
                    sock.sendall(b"GET /instant?2 HTTP/1.1\r\nHost: stress\r\n\r\n")
                spent = quiet(pid, 3)
                served = sum(is_answered(s, 0.001) for s in socks)
                assert kept.get("/instant?3").body == b"3", "a connection that is there is served meanwhile"
                for sock in socks:
                    assert is_answered(sock, 5), f"not served although descriptors are free\n{server.log}"
                served_after = time.monotonic() - since
            finally:
                for sock in socks:
                    sock.close()
        assert the_worker(server) == pid
        figures = {"eaten": eaten["eaten"], "served_meanwhile": served, "cpu_s_of_3": spent}
        figures["served_after_s"] = round(served_after, 2)
        assert eaten["eaten"] > 50 and served < 20, figures
        assert spent <= SPIN_SECONDS_MAX, f"it spins: {figures}\n{server.log}"
    return figures


def scenario(io, connections=8000):
    """Idle connections held, then the descriptors exhausted, by clients and by the application."""
    return {
        **held(io, connections),
        "clients": exhausted_by_clients(io),
        "application": exhausted_by_the_application(io),
    }
