"""What the scenarios share: a server of their own, and what the kernel says about its processes.

A scenario is a function `scenario(io, **bounds)` that returns its figures as a dict and raises AssertionError when what it
must show does not hold.
"""

import contextlib
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import harness  # noqa: E402
import wire  # noqa: E402

APP = "apps:app"
# More sources than one: a closed connection keeps its pair of addresses busy for a minute (TIME_WAIT).
SOURCES = [f"127.0.0.{n}" for n in range(1, 9)]


@contextlib.contextmanager
def serving(io, *args, app=APP, app_dir=HERE, allow_errors=(), **options):
    """A server that is stopped after the block and must then have left nothing: no connection, request or descriptor,
    no process, exit code 0, no error line but those that `allow_errors` (patterns) match."""
    folder = tempfile.mkdtemp(prefix="ringcorn-stress-")
    server = None
    try:
        server = harness.Server(app, *args, io=io, app_dir=app_dir, cwd=folder, **options)
        workers = args[args.index("--workers") + 1] if "--workers" in args else 1
        wait_workers(server, workers, settled=0.3)
        server.baseline()  # once more: now all of them listen
        server.first_held = sorted(server.held.values(), key=lambda held: sum(held.values()))[-1]
        server.first_live = next(iter(server.live_before.values()), None)
        yield server
        if server.process.poll() is None:
            # Workers that were started later are held against the first ones.
            server.held = {pid: server.first_held for pid in server.workers()}
            if server.first_live is not None:
                server.live_before = {pid: server.first_live for pid in server.held}
        server.expect_errors(*(p for p in allow_errors if re.search(p, server.log)))
        server.finish()
        assert "KeyboardInterrupt" not in server.log, server.log
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def the_worker(server):
    """The only worker."""
    workers = server.workers()
    assert len(workers) == 1, f"one worker expected: {workers}\n{server.log}"
    return workers[0]


def wait_workers(server, n, settled=0.5, within=15.0):
    """Until there have been the same n workers for a while: no reload, no restart under way."""
    deadline = time.monotonic() + within * harness.SLOW
    seen, since = None, time.monotonic()
    while True:
        now = time.monotonic()
        if (workers := server.workers()) != seen:
            seen, since = workers, now
        if len(seen) == n and now - since >= settled:
            return seen
        assert now < deadline, f"{n} workers expected within {within} s, there are {seen}\n{server.log}"
        time.sleep(0.02)


def raise_descriptor_limit(needed):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= needed, f"{needed} descriptors are needed, {hard} are allowed (ulimit -Hn)"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # children inherit it


def memory_kib(pid):
    """Rss, Pss and private memory of a process, in KiB."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))
    return {
        "rss": int(found["Rss"]),
        "pss": int(found["Pss"]),
        "private": int(found["Private_Clean"]) + int(found["Private_Dirty"]),
    }


def cpu_seconds(pid):
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptor_count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


# ------------------------------------------------------------------ whose connection is it

SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 20, 1, 0x300, 2, 3
TCP_STATES = sum(1 << s for s in (1, 4, 5, 8, 9, 11))  # established, fin-wait-1/2, close-wait, last-ack, closing


def tcp_sockets(port):
    """inode -> (client's address, client's port) of the connections to a local IPv4 port (linux/inet_diag.h)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as netlink:  # 4 = NETLINK_SOCK_DIAG
        body = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, TCP_STATES) + bytes(48)
        netlink.send(struct.pack("=IHHII", 16 + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        found = {}
        while True:
            data = netlink.recv(1 << 18)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == NLMSG_DONE:
                    return found
                assert kind != NLMSG_ERROR, f"the kernel does not list sockets: {data!r}"
                source, target = struct.unpack_from("!HH", data, 20)
                if source == port:
                    client = socket.inet_ntoa(data[40:44])
                    (inode,) = struct.unpack_from("=I", data, 16 + 68)
                    found[inode] = (client, target)
                data = data[(length + 3) & ~3 :]


def accepted(pid, port):
    """The clients, (address, port), whose connections to `port` this process has accepted and not closed."""
    sockets, found = tcp_sockets(port), set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}")):
                found.add(sockets.get(int(match[1])))
    return found - {None}


def get_json(server, path):
    response = server.get(path)
    assert response.status == 200, response
    return response.json()


# ------------------------------------------------------------------ beside uvicorn


def uvicorn_python():
    """A Python that has uvicorn, in one of the virtual environments of the build, or None."""
    build = HERE.parents[1] / "build"
    for python in (*(build / venv / "bin" / "python" for venv in ("bench-venv", "venv")), Path(sys.executable)):
        if python.exists() and subprocess.run([python, "-c", "import uvicorn"], capture_output=True).returncode == 0:
            return python
    return None


@contextlib.contextmanager
def on_uvicorn(app, *options):
    """A uvicorn with one worker: (address, process id), or None where it is not installed."""
    python = uvicorn_python()
    if python is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        listener.set_inheritable(True)
        address = listener.getsockname()
        command = [python, "-m", "uvicorn", "--fd", str(listener.fileno()), "--log-level", "error", "--timeout-keep-alive", "75"]
        command += ["--no-access-log", *options, app]
        process = subprocess.Popen(command, cwd=HERE, pass_fds=[listener.fileno()], env=harness.environment())
    try:
        wire.eventually(lambda: ask(address, "/polls") is not None, 20)
        yield address, process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def ask(address, path):
    """The JSON that a server answers, on a connection of its own."""
    with wire.Connection(address, 30) as c:
        return c.get(path, [("Connection", "close")]).json()
