"""Many long polls on one worker: what each costs in memory, and how soon all are answered after the event."""

import resource
import time

import wire
from common import SOURCES, ask, get_json, memory_kib, on_uvicorn, raise_descriptor_limit, serving, the_worker
from load import Load, group

ANSWERED_WITHIN = 1.0  # seconds after the event
NOISE = 4.0  # this machine may be busy with other things: the figure is printed, the assertion has slack


def measure(get, address, pid, n, within):
    """Polls in flight in process `pid`, then the event. `get` asks the server for JSON."""
    warm_up = min(500, n)
    with Load(address, [group("hold", warm_up, ["/instant"], timeout=30, sources=SOURCES)]) as first:
        first.wait("answered", 60)
        first.stop()
    wire.eventually(lambda: get("/polls")["waiting"] == 0, 5)
    before = memory_kib(pid)
    with Load(address, [group("poll", n, ["/poll"], timeout=58, sources=SOURCES)], processes=2) as load:
        load.wait("opened", 50)
        wire.eventually(lambda: get("/polls")["waiting"] == n, 30, f"{n} polls waiting")
        time.sleep(0.3)
        after = memory_kib(pid)
        assert get("/release-polls")["waiting"] == n
        answered = max(event["at"] for event in load.wait("answered", within))
        polls = get("/polls")
        tally = load.stop()
    assert tally.failed == 0 and tally.ok == n, f"{tally.figures()} {tally.reasons()}"
    assert polls["answered"] == n, polls
    return {
        "bytes_each": {kind: round(1024 * (after[kind] - before[kind]) / n) for kind in after},
        "last_sent_s": round(polls["last_at"] - polls["set_at"], 3),
        "last_received_s": round(answered - polls["set_at"], 3),
    }


def beside_uvicorn(n):
    """The same against uvicorn, or None where it is not installed."""
    with on_uvicorn("apps:app") as running:
        if running is None:
            return None
        address, pid = running
        return measure(lambda path: ask(address, path), address, pid, n, within=60)


def scenario(io, polls=15000, peer=True):
    """Long polls in flight on one worker, each awaiting one event."""
    raise_descriptor_limit(polls + 500)
    with serving(io, "--limits-connections", polls + 200) as server:
        pid = the_worker(server)
        ours = measure(lambda path: get_json(server, path), server.address, pid, polls, within=30)
        assert the_worker(server) == pid
    figures = {"polls": polls, **ours, "uvicorn": beside_uvicorn(polls) if peer else None}
    assert ours["last_sent_s"] <= ANSWERED_WITHIN * NOISE, figures
    assert ours["last_received_s"] <= ANSWERED_WITHIN * NOISE, figures
    return figures
