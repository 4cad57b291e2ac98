"""Instructions of the server per request, counted by callgrind: a figure that does not depend on how busy the machine is.

    build/venv/bin/python tests/bench/instructions.py --option access_log='--access-log --access-logfile /dev/null'
    build/venv/bin/python tests/bench/instructions.py --case plain,headers --requests 5000 --option a='--x' --option b='--y z'
    build/venv/bin/python tests/bench/instructions.py --guard

Each option is a name and a command line, which is added to the server's. The server is started once without any of them (or by --first) and once for
each, on epoll (valgrind knows no io_uring), with one worker; requests go out one after the other on one connection. After some to warm
up the counters are set to zero, and what the worker, and the master, have executed for --requests more is printed per request, with the
difference to the first line. The kernel's own work is not counted. Needs valgrind; exit code 1 where a --most NAME=N is exceeded. --guard asks what the guardrails cost that
are on by default, beside guard.mode: off, and has the bounds that must hold.
"""

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from cases import CASES  # noqa: E402
from ports import free_port  # noqa: E402
from processes import Running, tree  # noqa: E402

WARM_UP = 500
PARTS = 8  # the figure is the least of so many: what happens now and then (a timer, the collector) does not blur it
GUARD_MOST = {"plain": 2000, "fastapi": 8000}
PATIENCE = 120  # seconds until a server under valgrind answers


def answers(port, request, n):
    """Sends the request n times, each when the answer before it has come."""
    with socket.create_connection(("127.0.0.1", port), 60) as s:
        for _ in range(n):
            s.sendall(request)
            got = b""
            while b"\r\n\r\n" not in got:
                got += s.recv(65536) or sys.exit("instructions: the server closed the connection")
            head, _, body = got.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                sys.exit(f"instructions: {head.splitlines()[0].decode()}")
            left = int(re.search(rb"(?i)content-length: *(\d+)", head)[1]) - len(body)
            while left > 0:
                left -= len(s.recv(65536)) or sys.exit("instructions: an answer was cut off")


def control(pid, *options):
    subprocess.run(["callgrind_control", *options, str(pid)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def executed(folder, pid):
    """Of the last dump of a process."""
    dumps = sorted(folder.glob(f"out.{pid}.*"), key=lambda path: int(path.suffix[1:]))
    return int(re.search(r"^(?:summary|totals): (\d+)", dumps[-1].read_text(), re.M)[1])


def measure(args, case, options):
    """Instructions per request: (of the worker, of the master)."""
    request = f"GET {case.path} HTTP/1.1\r\nHost: localhost\r\n"
    request = (request + "".join(f"{name}: {value}\r\n" for name, value in case.headers.items()) + "\r\n").encode()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RINGCORN_", "PYTHON"))}
    env |= {"VIRTUAL_ENV": str(args.venv.absolute()), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", **case.env}
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ringcorn-instructions-") as name:
        folder = Path(name)
        command = [
            "valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={folder}/out.%p", args.program, "--io", "epoll",
            "--bind", f"127.0.0.1:{port}", "--workers", "1", "--app-dir", case.folder, *options, case.asgi,
        ]  # fmt: skip
        server = Running("ringcorn", command, port, case.path, env, case.folder, patience=PATIENCE)
        try:
            master, worker = tree(server.process.pid)[:2]
            answers(port, request, WARM_UP)
            for pid in (worker, master):
                control(pid, "--zero")
            parts = []
            for _ in range(PARTS):
                answers(port, request, args.requests // PARTS)
                for pid in (worker, master):
                    control(pid, "--dump")  # and sets it to zero
                parts.append([executed(folder, pid) / (args.requests // PARTS) for pid in (worker, master)])
            return [min(part) for part in zip(*parts)]
        finally:
            server.stop()


def main():
    parser = argparse.ArgumentParser(description="Instructions per request, by callgrind.")
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "ringcorn")
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "venv")
    parser.add_argument("--case", default="plain", help="names of cases.py, with commas between")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=OPTIONS", help="repeatable")
    parser.add_argument("--most", action="append", default=[], metavar="NAME=N", help="how many more the option may cost the worker")
    parser.add_argument("--first", default="nothing=", metavar="NAME=OPTIONS", help="what the others are held against")
    parser.add_argument("--guard", action="store_true", help="what the guardrails that are on by default cost")
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("instructions: valgrind is not there: apt-get install valgrind")
    most = {name: int(n) for name, n in (one.split("=") for one in args.most)}
    cases = args.case.split(",")
    options = [tuple(one.split("=", 1)) for one in [args.first, *args.option]]
    if args.guard:
        cases, options = list(GUARD_MOST), [("guard.mode: off", "--guard-mode off"), ("defaults", "")]
    held = over = 0  # bounds
    for name in cases:
        print(f"{name}: {CASES[name].title}; {args.requests} requests")
        print(f"  {'':24} {'worker':>10} {'more':>8} {'master':>10}")
        first = None
        for label, line in options:
            worker, master = measure(args, CASES[name], shlex.split(line))
            first = worker if first is None else first
            bound = GUARD_MOST[name] if args.guard else most.get(label)
            is_over = bound is not None and worker - first > bound
            over, held = over + is_over, held + (bound is not None and not is_over and label != options[0][0])
            print(f"  {label:24} {worker:10.0f} {worker - first:8.0f} {master:10.0f}{f'  more than {bound}' if is_over else ''}", flush=True)
    print(f"{held} passed, {over} failed")
    sys.exit(over > 0)


if __name__ == "__main__":
    main()
