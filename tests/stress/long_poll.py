"""Many long polls on one worker: what each costs in memory, and how soon all are answered after the event."""

import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import harness
import wire
from common import HERE, SOURCES, get_json, memory_kib, serving, the_worker
from load import Load, group

ANSWERED_WITHIN = 1.0  # seconds after the event
NOISE = 4.0  # this machine may be busy with other things: the figure is printed, the assertion has slack


def raise_descriptor_limit(needed):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= needed, f"{needed} descriptors are needed, {hard} are allowed (ulimit -Hn)"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # children inherit it


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


def uvicorn_python():
    """A Python that has uvicorn, in one of the virtual environments of the build, or None."""
    build = HERE.parents[1] / "build"
    for python in (*(build / venv / "bin" / "python" for venv in ("bench-venv", "venv")), Path(sys.executable)):
        if python.exists() and subprocess.run([python, "-c", "import uvicorn"], capture_output=True).returncode == 0:
            return python
    return None


def beside_uvicorn(n):
    """The same against uvicorn, or None where it is not installed."""
    python = uvicorn_python()
    if python is None:
        return None
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        listener.set_inheritable(True)
        address = listener.getsockname()
        command = [python, "-m", "uvicorn", "--fd", str(listener.fileno()), "--log-level", "error", "--timeout-keep-alive", "75"]
        command += ["--no-access-log", "apps:app"]
        process = subprocess.Popen(command, cwd=HERE, pass_fds=[listener.fileno()], env=harness.environment())
    try:

        def get(path):
            with wire.Connection(address, 30) as c:
                return c.get(path, [("Connection", "close")]).json()

        wire.eventually(lambda: get("/polls"), 20)
        return measure(get, address, process.pid, n, within=60)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


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
