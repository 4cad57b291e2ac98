"""Thousands of WebSockets on one worker: what an idle one costs in memory, and a broadcast to all of them, beside uvicorn."""

import time

import harness
import ws_load
from common import ask, memory_kib, on_uvicorn, raise_descriptor_limit, serving, the_worker

APP = "ws_app:app"
FIRST = 1000  # pay for arenas, free lists and tables that grow once, and stay: nothing of theirs is used again by the others
BYTES_EACH_MAX = 4096  # with what the application keeps of each
PEER_SECONDS = 20


def idle(address, pid, n, deflate):
    """Bytes per WebSocket that is open and says nothing."""
    with ws_load.hold(address, "/echo", min(FIRST, n), deflate) as first:
        time.sleep(0.5)
        before = memory_kib(pid)
        with ws_load.hold(address, "/echo", n, deflate) as finish:
            time.sleep(0.5)
            after = memory_kib(pid)
            finish()
        first()
    return {kind: round(1024 * (after[kind] - before[kind]) / n) for kind in after}


def broadcasts(address, pid, n, times):
    """Once a second to all. None is lost, none comes twice or out of order: the client looks at every number."""
    with ws_load.hold(address, "/listen", n) as finish:
        assert ask(address, "/state")["listeners"] == n
        ask(address, f"/broadcast?{times}")
        time.sleep(times - 1)
        deadline = time.monotonic() + 30 + times
        while (state := ask(address, "/state"))["broadcasts"] < times and not state["failed"] and time.monotonic() < deadline:
            time.sleep(0.5)
        assert state["broadcasts"] == times and not state["failed"], state
        time.sleep(1)
        rss = memory_kib(pid)["rss"]
        heard = finish()
    assert heard["broadcasts_least"] == heard["broadcasts_most"] == times, heard
    assert heard["delivered"] == n * times, heard
    delays = {what: round(heard[what], 1) for what in ("p50_ms", "p99_ms", "max_ms")}
    return {**delays, "longest_loop_ms": round(1000 * state["sending_s"], 1), "rss_mib": round(rss / 1024, 1)}


def scenario(io, sockets=8000, seconds=60, peer=True):
    """Idle WebSockets, without and with permessage-deflate agreed on; then broadcasts to them."""
    raise_descriptor_limit(sockets + FIRST + 500)
    figures = {"sockets": sockets, "bytes_each": {}}
    for deflate in (False, True):
        with serving(io, "--limits-connections", sockets + FIRST + 100, app=APP) as server:
            pid = the_worker(server)
            each = idle(server.address, pid, sockets, deflate)
            figures["bytes_each"]["deflate" if deflate else "plain"] = each
            # A sanitizer's red zones and shadow are no measure.
            assert harness.SANITIZED or max(each.values()) <= BYTES_EACH_MAX, figures
            assert the_worker(server) == pid
    with serving(io, "--limits-connections", sockets + 100, app=APP) as server:
        figures["broadcast"] = broadcasts(server.address, the_worker(server), sockets, seconds)
    if peer:
        with on_uvicorn(APP, "--interface", "asgi3") as running:
            figures["uvicorn"] = None
            if running is not None:
                address, pid = running
                figures["uvicorn"] = {"bytes_each": idle(address, pid, sockets, False), **broadcasts(address, pid, sockets, min(seconds, PEER_SECONDS))}
    return figures
