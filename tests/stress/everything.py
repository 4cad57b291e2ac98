"""Everything that an operator may do, at any time, under load: reloads, more and fewer workers, logs reopened, another program, workers told to
go or killed, and recycled all along. No request fails but those in flight in a killed worker."""

import collections
import random
import signal
import time

from common import SOURCES, serving, wait_workers
from kill import is_excused, kill
from load import Load, group

WORKERS, MOST = 2, 4


class Operator:
    def __init__(self, server, chance):
        self.server, self.chance, self.wanted = server, chance, WORKERS
        self.kills, self.done = [], collections.Counter()

    def signal(self, signum, pattern):
        since = len(self.server.err.lines)
        self.server.send_signal(signum)
        self.server.wait_log(pattern, 30, since)

    def hup(self):
        self.signal(signal.SIGHUP, "reloading")

    def usr1(self):
        self.signal(signal.SIGUSR1, "reopened")

    def ttin(self):
        if self.wanted < MOST:
            self.signal(signal.SIGTTIN, "SIGTTIN: ")
            self.wanted += 1

    def ttou(self):
        if self.wanted > 1:
            self.signal(signal.SIGTTOU, "SIGTTOU: ")
            self.wanted -= 1

    def usr2(self):
        self.server.upgrade(timeout=60)

    def term(self):
        if workers := self.server.workers():
            self.server.send_signal(signal.SIGTERM, self.chance.choice(workers))

    def kill(self):
        if workers := self.server.workers():
            self.kills.append(kill(self.chance.choice(workers), self.server.port, with_look=True))

    def act(self):
        name = self.chance.choice(["hup", "usr1", "ttin", "ttou", "usr2", "term", "kill"])
        try:
            getattr(self, name)()
        except ProcessLookupError:
            return  # it has gone by itself
        self.done[name] += 1


def scenario(io, seconds=60, seed=None):
    seed = seed if seed is not None else random.randrange(1 << 30)
    chance = random.Random(seed)
    groups = [
        group("keep", 8, ["/instant", "/late"], pause=0.002, sources=SOURCES, timeout=15),
        group("close", 8, ["/instant", "/late"], pause=0.002, sources=SOURCES, timeout=15),
    ]
    recycling = ["--max-requests", 200, "--max-requests-jitter", 200, "--recycle-max-age", "10s"]
    allowed = [r"worker \d+ \(pid \d+\) died: signal 9", "the new worker( \\d+)? did not start"]
    with serving(io, "--workers", WORKERS, *recycling, allow_errors=allowed) as server, Load(server.address, groups) as load:
        server.allow_descriptors(MOST)  # those who are left accept from the sockets of slots that were given up
        operator = Operator(server, chance)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            operator.act()
            time.sleep(chance.random())
        tally = load.stop()
        unexcused = [f for f in tally.failures if not is_excused(f, operator.kills)]
        recycled = server.log.count("(recycle.")
        figures = {**tally.figures(), **operator.done, "recycled": recycled, "workers_seen": len(tally.pids), "seed": seed}
        figures |= {"in_flight_failed": tally.failed - len(unexcused), "failed": len(unexcused)}
        assert not unexcused, f"{figures}\n{tally.reasons()}\n{unexcused[:5]}\n{operator.kills}\n{server.log}"
        assert tally.failed <= len(tally.failures), "more failures than are kept"
        assert recycled > 0 or seconds < 60, figures
        for _ in range(operator.wanted - WORKERS):
            operator.ttou()
        for _ in range(WORKERS - operator.wanted):
            operator.ttin()
        wait_workers(server, WORKERS, settled=2.0, within=60)
    return figures
