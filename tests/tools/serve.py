"""`make serve`: a real Django project on port 8000 and a real FastAPI application on 8001, each served by its own Ringcorn.

Ctrl-C ends both. Everything they write lies in build/serve.
"""

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "tests" / "apps"
DJANGO = APPS / "django_project"
DATA = ROOT / "build" / "serve"
PR_SET_PDEATHSIG = 1


def environment():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RINGCORN_", "MAKE", "MFLAGS"))}
    for name in ("PORT", "WEB_CONCURRENCY"):
        env.pop(name, None)
    env.update(VIRTUAL_ENV=sys.prefix, GUESTBOOK_DATA=str(DATA), GUESTBOOK_DEBUG="0", DJANGO_SETTINGS_MODULE="project.settings")
    return env


def prepare_django(env):
    """Migrations, static files, and a user for the admin."""
    DATA.mkdir(parents=True, exist_ok=True)

    def manage(*args, **extra):
        subprocess.run([sys.executable, "manage.py", *args], cwd=DJANGO, env={**env, **extra}, check=True, stdout=subprocess.DEVNULL)

    manage("migrate", "--verbosity", "0")
    manage("collectstatic", "--noinput", "--verbosity", "0")
    subprocess.run(
        [sys.executable, "manage.py", "shell", "-c",
         "from django.contrib.auth.models import User\n"
         "if not User.objects.filter(username='admin').exists():\n"
         "    User.objects.create_superuser('admin', '', 'admin')"],
        cwd=DJANGO, env=env, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def die_with_parent():
    """Should we be killed, the server does not stay behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start(program, config, port, app_dir, env):
    # A session of its own: Ctrl-C reaches it through us, once.
    command = [str(program), "-c", str(ROOT / "conf" / "examples" / config), "--bind", f"127.0.0.1:{port}", "--app-dir", str(app_dir)]
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as s:
            s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            s.settimeout(10)
            return s.recv(12).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def stop(servers):
    for server in servers:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 10
    for server in servers:
        try:
            server.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            server.send_signal(signal.SIGINT)  # the second Ctrl-C
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


class Stop(Exception):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, default=ROOT / "build" / "ringcorn")
    parser.add_argument("--django-port", type=int, default=8000)
    parser.add_argument("--fastapi-port", type=int, default=8001)
    args = parser.parse_args()

    def on_signal(*_):
        raise Stop

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, on_signal)
    servers = []
    code = 0
    try:
        env = environment()
        prepare_django(env)
        ports = (args.django_port, args.fastapi_port)
        servers.append(start(args.program.absolute(), "django.yaml", ports[0], DJANGO, env))
        servers.append(start(args.program.absolute(), "fastapi.yaml", ports[1], APPS, env))
        waiting = set(ports)
        while all(server.poll() is None for server in servers):
            waiting = {port for port in waiting if not answers(port)}
            if not waiting:
                break
            time.sleep(0.1)
        else:
            raise Stop
        print(
            f"\n  Django    http://127.0.0.1:{ports[0]}/    (admin: /admin/, user admin, password admin; live dashboard: /live/)"
            f"\n  FastAPI   http://127.0.0.1:{ports[1]}/    (its documentation: /docs)"
            "\n  Ctrl-C ends both.\n",
            flush=True,
        )
        while all(server.poll() is None for server in servers):
            time.sleep(0.2)
    except Stop:
        pass
    except subprocess.CalledProcessError as e:
        print(f"ringcorn: {' '.join(map(str, e.cmd[:3]))} failed with {e.returncode}", file=sys.stderr)
        code = e.returncode
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        for server in servers:
            if server.poll() not in (None, 0):
                code = code or server.returncode
        stop(servers)
    return code


if __name__ == "__main__":
    sys.exit(main())
