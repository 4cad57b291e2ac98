#!/usr/bin/env python3
"""The heavy scenarios: make stress, or tests/stress/run.py [scenario ...] [--io io_uring,epoll] [--short] [--millions N]

Each starts the real program (RINGCORN_BIN, build/ringcorn by default), prints its figures and passes or fails.
The last line is `N passed, N failed`.
"""

import argparse
import json
import os
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "tools")]

import behind_nginx  # noqa: E402
import blocks  # noqa: E402
import cancel  # noqa: E402
import ctrl_c  # noqa: E402
import disconnects  # noqa: E402
import everything  # noqa: E402
import growth  # noqa: E402
import harness  # noqa: E402
import idle  # noqa: E402
import kill  # noqa: E402
import long_poll  # noqa: E402
import many_websockets  # noqa: E402
import mixed  # noqa: E402
import operations  # noqa: E402
import overload  # noqa: E402
import reload  # noqa: E402
import upgrade  # noqa: E402
import ws_reload  # noqa: E402

# name -> scenario, its bounds for --short
SCENARIOS = {
    "reload": (reload.scenario, {"seconds": 5}),
    "reload-unix": (reload.over_unix, {"seconds": 5}),
    "reload-shared": (reload.over_shared, {"seconds": 5}),
    "everything": (everything.scenario, {"seconds": 20}),
    "operations": (operations.scenario, {"seconds": 20}),
    "upgrade": (upgrade.scenario, {"times": 2}),
    "upgrade-unix": (upgrade.over_unix, {"times": 2}),
    "upgrade-shared": (upgrade.over_shared, {"times": 2}),
    "ws-reload": (ws_reload.scenario, {"seconds": 5}),
    "kill": (kill.scenario, {"seconds": 5}),
    "nginx-reload": (behind_nginx.reload, {"seconds": 20}),
    "nginx-reload-unix": (behind_nginx.over_unix, {"seconds": 20}),
    "nginx-reload-tcp": (behind_nginx.over_tcp, {"seconds": 20}),
    "nginx-kill": (behind_nginx.killed, {"seconds": 10}),
    "nginx-kill-unix": (behind_nginx.killed_unix, {"seconds": 10}),
    "nginx-kill-tcp": (behind_nginx.killed_tcp, {"seconds": 10}),
    "nginx-shares": (behind_nginx.shares, {"seconds": 2}),
    "disconnects": (disconnects.scenario, {"disconnects": 60}),
    "cancel": (cancel.scenario, {"cancellations": 300}),
    "ctrl-c": (ctrl_c.scenario, {}),
    "idle": (idle.scenario, {"connections": 2000}),
    "long-poll": (long_poll.scenario, {"polls": 2000}),
    "websockets": (many_websockets.scenario, {"sockets": 3000, "seconds": 5}),
    "overload": (overload.scenario, {"seconds": 4, "peers": False}),
    "blocks": (blocks.scenario, {"blocks": 200}),
    "mixed": (mixed.scenario, {"minutes": 0.5}),
    "growth": (growth.scenario, {"millions": 0.2}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--io", default="io_uring,epoll", help="I/O backends, comma separated")
    parser.add_argument("--short", action="store_true", help="small bounds: a few seconds each")
    parser.add_argument("--millions", type=float, help="requests of the growth scenario (default 2)")
    parser.add_argument("--repeat", type=int, default=1, help="run everything so many times")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")

    refused = harness.io_uring_refused()
    passed, failed, results = 0, 0, []
    for name in [*(options.scenarios or SCENARIOS)] * options.repeat:
        scenario, short = SCENARIOS[name]
        bounds = dict(short) if options.short else {}
        if name == "growth" and options.millions:
            bounds["millions"] = options.millions
        for io in options.io.split(","):
            if io == "io_uring" and refused:
                print(f"skipped {name:17} {io}: {refused}", flush=True)
                continue
            began = time.monotonic()
            result = {"scenario": name, "io": io, "passed": False}
            try:
                result["figures"] = scenario(io, **bounds)
                result["passed"] = True
            except AssertionError as e:
                result["error"] = str(e)
            except Exception:
                result["error"] = traceback.format_exc()
            took = time.monotonic() - began
            passed, failed = passed + result["passed"], failed + (not result["passed"])
            results.append(result)
            print(f"{'passed' if result['passed'] else 'FAILED'}  {name:17} {io:9} {took:6.1f} s", end="  ")
            print(json.dumps(result["figures"]) if result["passed"] else "\n" + result["error"], flush=True)
    if options.json:
        with open(options.json, "w") as f:
            json.dump(results, f, indent=1)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
