"""nginx in front (conf/nginx/): no 502 while workers are reloaded and kept connections end on both sides; of a killed worker only
what it had in hand. And how each way to reach the workers distributes requests over them."""

import random
import signal
import tempfile
import time

import nginx
from common import serving, wait_workers
from kill import SOON, kill
from load import Load, group

SAMPLES = {"tcp": "tcp.conf", "unix": "unix.conf", "slots": "slots.conf"}


def bind_of(way, folder):
    return {"tcp": "127.0.0.1:0", "unix": f"unix:{folder}/mysite.sock", "slots": f"unix:{folder}/mysite-{{slot}}.sock"}[way]


def front_of(way, server, folder, workers, **replaced):
    """An nginx with the sample, for so many workers."""
    if way == "tcp":
        words = {"127.0.0.1:8000 max": f"127.0.0.1:{server.port} max"}
    elif way == "unix":
        words = {"unix:/run/mysite.sock max": f"unix:{folder}/mysite.sock max"}
    else:
        lines = [f"    server unix:{folder}/mysite-{slot}.sock max_fails=0;\n" for slot in range(workers)]
        words = {"    server unix:/run/mysite-0.sock max_fails=0;\n    server unix:/run/mysite-1.sock max_fails=0;\n": "".join(lines)}
    return nginx.Nginx(SAMPLES[way], {**words, **replaced})


def reload(io, seconds=300, way="slots", every=3.0):
    """SIGHUP every three seconds, while kept connections end after about a second on both sides: nginx's a little earlier and a
    little later than Ringcorn's, as it comes."""
    groups = [
        group("keep", 8, ["/instant", "/late"], pause=0.001),
        group("keep", 40, ["/instant"], pause=0.9, jitter=0.3),  # around the time that connections are kept
        group("close", 4, ["/instant", "/late"], pause=0.005),
    ]
    with tempfile.TemporaryDirectory() as folder:
        args = ["--workers", 2, "--keep-alive", "1s"]
        with serving(io, *args, bind=bind_of(way, folder)) as server:
            times = {"keepalive_timeout 60s": "keepalive_timeout 1s"}
            with front_of(way, server, folder, 2, **times) as front, Load(("127.0.0.1", front.port), groups) as load:
                started, signals = time.monotonic(), 0
                while signals < seconds / every:
                    time.sleep(max(0.0, started + (signals + 1) * every - time.monotonic()))
                    server.send_signal(signal.SIGHUP)
                    signals += 1
                time.sleep(1)
                tally = load.stop()
                wait_workers(server, 2)
                # What nginx had to ask twice: a connection ended just as it was used.
                again = front.log().count("upstream prematurely closed") + front.log().count("Connection reset by peer) while")
                figures = {**tally.figures(), "signals": signals, "workers_seen": len(tally.pids), "asked_again": again}
                assert tally.failed == 0, f"{figures}\n{tally.reasons()}\n{tally.failures[:5]}\n{front.log()[-3000:]}\n{server.log}"
                assert tally.ok > 50 * seconds, f"hardly any load: {figures}"
                assert len(tally.pids) >= 2 + signals // 2, figures
    return figures


def over_unix(io, seconds=60):
    return reload(io, seconds, "unix")


def over_tcp(io, seconds=60):
    return reload(io, seconds, "tcp")


def killed(io, seconds=30, way="slots", every=2.0, seed=None):
    """SIGKILL of a random worker: the requests in hand there fail, with 502 or as nginx asks another; none of those that begin later."""
    seed = seed if seed is not None else random.randrange(1 << 30)
    chance = random.Random(seed)
    groups = [group("keep", 16, ["/instant", "/late"], pause=0.002)]
    died = r"worker \d+ \(pid \d+\) died: signal 9"
    with tempfile.TemporaryDirectory() as folder, serving(io, "--workers", 2, allow_errors=[died], bind=bind_of(way, folder)) as server:
        with front_of(way, server, folder, 2) as front, Load(("127.0.0.1", front.port), groups) as load:
            started, kills = time.monotonic(), []
            while len(kills) < seconds / every:
                time.sleep(max(0.05, started + (len(kills) + 1) * every - time.monotonic()))
                assert server.process.poll() is None, server.log  # workers that die too often end it
                if workers := server.workers():
                    kills.append(kill(chance.choice(workers), None, with_look=False))
            time.sleep(1)
            tally = load.stop()
            wait_workers(server, 2)

            def is_excused(f):
                """In hand when the worker died: begun before, and over soon."""
                return any(f["begun_at"] <= k["dead_at"] and k["at"] <= f["failed_at"] <= k["dead_at"] + SOON for k in kills)

            unexcused = [f for f in tally.failures if not is_excused(f)]
            figures = {**tally.figures(), "kills": len(kills), "in_hand_failed": tally.failed - len(unexcused), "seed": seed}
            figures["failed"] = len(unexcused)
            assert not unexcused, f"{figures}\n{unexcused[:5]}\nkills: {kills}\n{front.log()[-3000:]}\n{server.log}"
            assert tally.failed <= 16 * len(kills), f"more than were in hand: {figures}"
            assert tally.ok > 100 * seconds, f"hardly any load: {figures}"
    return figures


def killed_unix(io, seconds=30):
    return killed(io, seconds, "unix")


def killed_tcp(io, seconds=30):
    return killed(io, seconds, "tcp")


def shares(io, seconds=5, counts=(2, 4)):
    """How requests are distributed: the share of each worker in percent, over 32 clients of nginx that ask without a pause for
    what is there at once, or takes 20 ms of waiting."""
    figures = {}
    for way in SAMPLES:
        for workers in counts:
            with tempfile.TemporaryDirectory() as folder, serving(io, "--workers", workers, bind=bind_of(way, folder)) as server:
                with front_of(way, server, folder, workers) as front:
                    for path in ("/instant", "/late"):
                        with Load(("127.0.0.1", front.port), [group("keep", 32, [path])]) as load:
                            time.sleep(seconds)
                            tally = load.stop()
                        pids = server.workers()
                        assert tally.failed == 0, f"{tally.reasons()}\n{server.log}"
                        assert set(tally.pids) <= set(pids), "a worker was replaced"
                        found = sorted((round(100 * tally.pids[pid] / tally.ok) for pid in pids), reverse=True)
                        figures[f"{way} {workers} {path}"] = found
    return figures
