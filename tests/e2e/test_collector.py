"""A request that waits for its client is not garbage, although nothing but the server refers to it."""

from pathlib import Path

import wire

STRESS = Path(__file__).resolve().parents[1] / "stress"


def collect(running, times=3):
    for _ in range(times):
        assert running.get("/collect").status == 200


def test_collector_leaves_a_waiting_send_alone(server):
    running = server("apps:app", app_dir=STRESS)
    with running.connect(rcvbuf=65536) as reader:
        reader.send(wire.request("GET", "/megabytes?n=16"))
        head = reader.head()
        collect(running)
        assert len(reader.exactly(int(head.get("content-length")))) == 16 << 20


def test_collector_leaves_a_waiting_receive_alone(server):
    running = server("apps:app", app_dir=STRESS)
    with running.connect() as writer:
        writer.send(wire.request("POST", "/late-body", {"Content-Length": "5"}))
        collect(running)
        writer.send(b"later")
        assert writer.response().body == b"later"


def test_collector_takes_nothing_from_a_cancelled_wait(server):
    """A receive() that was given up leaves no reference behind: the fixture looks at the live counters."""
    running = server("apps:app", app_dir=STRESS)
    with running.connect() as client:
        assert client.get("/give-up-receive").body == b"5"
        collect(running)
        assert client.get("/give-up-receive").body == b"5"
