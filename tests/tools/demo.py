"""`make demo`: the scene of docker/compose.yaml as processes of this machine, and a headless Chromium that visits it.

It logs in to the admin, uploads a file and watches the live dashboard; screenshots are in build/demo/. In a terminal the scene then stays,
for you to look at, until Ctrl-C.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

import chromium
import scene
import tour

SHOTS = scene.ROOT / "build" / "demo"


class Stop(Exception):
    pass


def on_signal(*_):
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    raise Stop


def say(text):
    print(f"  {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=scene.ROOT / "build" / "ringcorn")
    parser.add_argument("--port", type=int, help="nginx's: as in compose.yaml by default, another if that is taken")
    parser.add_argument("--stay", action="store_true", default=sys.stdin.isatty(), help="the scene stays, without a terminal, too")
    parser.add_argument("--no-stay", action="store_false", dest="stay", help="it ends when Chromium has been there")
    parser.add_argument("--no-visit", action="store_true", help="without Chromium")
    args = parser.parse_args()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, on_signal)
    code = 0
    try:
        print("\nPostgreSQL, Redis, migrations, static files, Ringcorn, nginx:", flush=True)
        with scene.Scene(args.program, port=args.port) as one:
            say(f"{one.url}/")
            if not args.no_visit and not visit(one):
                code = 1
            if args.stay:
                stay(one)
                code = 1
    except Stop:
        pass
    except (OSError, RuntimeError) as e:  # a program that is not there, or does not start
        print(f"ringcorn: {e}", file=sys.stderr)
        code = 1
    return code


def visit(one):
    print("\nA visitor, in Chromium:", flush=True)
    try:
        with chromium.Chromium() as browser:
            tour.tour(browser, one.url, scene.USER, scene.PASSWORD, SHOTS, say)
    except (AssertionError, OSError, RuntimeError) as e:
        print(f"ringcorn: {e}\n{one.ringcorn.log()}", file=sys.stderr)
        return False
    return True


def stay(one):
    """Until Ctrl-C, or the server's own end."""
    print(
        f"\n  guest book      {one.url}/\n  live dashboard  {one.url}/live/"
        f"\n  admin           {one.url}/admin/    user {scene.USER}, password {scene.PASSWORD}"
        f"\n  log             {one.ringcorn.folder / 'log'}"
        "\n  Ctrl-C ends all of it.\n",
        flush=True,
    )
    while one.ringcorn.process.poll() is None:
        time.sleep(0.2)
    print(f"ringcorn: the server has ended:\n{one.ringcorn.log()}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
