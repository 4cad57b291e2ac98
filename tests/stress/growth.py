"""Millions of requests: neither memory nor descriptors grow."""

import re
import shutil
import subprocess

from common import cpu_seconds, descriptor_count, memory_kib, serving, the_worker

GROWTH_KIB_MAX = 1024
SLICE_SECONDS = 4


def wrk(server, seconds, connections, *headers):
    """One run of wrk; how many requests were answered. Any error it counts is a failure."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
    for header in headers:
        command += ["-H", header]
    done = subprocess.run([*command, f"{server.base}/instant?growth"], capture_output=True, text=True, timeout=seconds + 30)
    assert done.returncode == 0, done.stdout + done.stderr
    answered = re.search(r"(\d+) requests in ", done.stdout)
    assert answered, done.stdout
    assert "Non-2xx" not in done.stdout, f"{done.stdout}\n{server.log}"
    if errors := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done.stdout):
        assert errors.groups() == ("0",) * 4, f"{done.stdout}\n{server.log}"
    return int(answered[1])


def slice_of_load(server):
    """Mostly kept connections, some that close: their share is in time, for a connection costs more than a request."""
    kept = wrk(server, SLICE_SECONDS, 64)
    closing = wrk(server, 1, 16, "Connection: close")
    return kept, closing


def scenario(io, millions=2.0, seconds_max=3600):
    """Requests without end, from kept and from closing connections."""
    assert shutil.which("wrk"), "wrk is not installed: apt-get install wrk"
    wanted = int(millions * 1e6)
    with serving(io) as server:
        pid = the_worker(server)
        kept = closing = 0
        cpu_start = cpu_seconds(pid)
        warm = None
        samples = []
        while kept + closing < wanted:
            more = slice_of_load(server)
            kept, closing = kept + more[0], closing + more[1]
            server.check_returned()
            samples.append(memory_kib(pid)["rss"])
            if warm is None and kept + closing >= wanted / 10:
                warm = (samples[-1], descriptor_count(pid), kept + closing)
            slices = len(samples)
            assert slices * (SLICE_SECONDS + 1) < seconds_max, f"only {kept + closing} requests in {seconds_max} s"
        end = (samples[-1], descriptor_count(pid))
        assert the_worker(server) == pid
        cpu = cpu_seconds(pid) - cpu_start
        figures = {
            "requests": kept + closing,
            "closing": closing,
            "rss_kib_after_warm_up": warm[0],
            "rss_kib_at_end": end[0],
            "growth_kib": end[0] - warm[0],
            "descriptors": [warm[1], end[1]],
            "cpu_us_per_request": round(1e6 * cpu / (kept + closing), 2),
        }
        assert figures["growth_kib"] <= GROWTH_KIB_MAX, f"{figures}\nafter each slice: {samples}"
        assert warm[1] == end[1], figures
    return figures
