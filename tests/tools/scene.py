"""The scene of docker/compose.yaml as processes of this machine: nginx, Ringcorn with the example Django project, PostgreSQL and Redis,
in temporary folders, ended with us.

    with Scene(program) as scene:
        scene.url       # nginx's

Variables and commands are those of compose.yaml; nginx.conf, ringcorn.yaml, settings.py and defaults.yaml are read where they lie. Only what is a host name or a path of a container there is an address or a folder here.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import compose
import nginx
import postgres
import programs
import redis_server

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "tests" / "apps" / "django_project"
EXAMPLE = ROOT / "docker" / "example"
CONFIG = ROOT / "conf" / "examples" / "django-nginx-docker.yaml"
USER = PASSWORD = "admin"
OURS = ("RINGCORN_", "PYTHON", "MAKE", "MFLAGS")  # variables that would speak to the server, or to its Python


class Ringcorn(programs.Program):
    name = "ringcorn"
    stop_signal = signal.SIGINT  # requests in hand are cancelled: a browser that looks on does not hold up the end

    def __init__(self, program, env, options=()):
        super().__init__()
        self.program, self.env, self.options = Path(program).absolute(), env, options

    def find(self):
        return str(self.program)

    @property
    def socket(self):
        return self.folder / "app.sock"

    def command(self):
        return ["-c", CONFIG, "--bind", f"unix:{self.socket}", "--app-dir", PROJECT, *self.options]

    def environment(self):
        return {**self.env, "RINGCORN_DEFAULTS": str(ROOT / "docker" / "defaults.yaml"), "RINGCORN_HEALTH_BIND": f"127.0.0.1:{self.port}"}

    def is_ready(self):
        """The image's HEALTHCHECK."""
        command = [self.program, "-c", CONFIG, "--healthcheck"]
        return subprocess.run(command, env=self.environment(), capture_output=True).returncode == 0


class Scene:
    def __init__(self, program, port=None, options=()):
        """nginx on that port, if it is free; options are Ringcorn's."""
        self.program, self.wanted, self.options = program, port, options

    def __enter__(self):
        with contextlib.ExitStack() as running:
            self.folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="ringcorn-scene-")))
            services = compose.read({"SECRET_KEY": "an example's key, of no value", "POSTGRES_PASSWORD": "guestbook"})
            database = services["postgres"]["environment"]
            self.postgres = running.enter_context(postgres.Postgres())
            self.postgres.execute(f"CREATE ROLE {database['POSTGRES_USER']} LOGIN SUPERUSER PASSWORD '{database['POSTGRES_PASSWORD']}'")
            self.postgres.execute(f"CREATE DATABASE {database['POSTGRES_DB']} OWNER {database['POSTGRES_USER']}")
            self.redis = running.enter_context(redis_server.Redis())
            self.env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
            self.env |= services["web"]["environment"] | {
                "POSTGRES_HOST": self.postgres.host,
                "POSTGRES_PORT": str(self.postgres.port),
                "REDIS_URL": f"{self.redis.url}/0",
                "GUESTBOOK_DATA": str(self.folder),
                "GUESTBOOK_FILES": str(self.folder),
                "DJANGO_SETTINGS_MODULE": "settings",
                "PYTHONPATH": str(EXAMPLE),
                "VIRTUAL_ENV": sys.prefix,
            }
            for service in services.values():
                if "entrypoint" in service:  # a command of manage.py, that ends
                    self.manage(*service["entrypoint"][2:])
            self.manage("createsuperuser", "--noinput", "--username", USER, "--email", "", DJANGO_SUPERUSER_PASSWORD=PASSWORD)
            self.ringcorn = running.enter_context(Ringcorn(self.program, self.env, self.options))
            port = self.wanted or int(services["nginx"]["ports"][0].split(":")[1])
            replaced = {"unix:/run/ringcorn/app.sock": f"unix:{self.ringcorn.socket}", "/srv/guestbook/": f"{self.folder}/"}
            self.nginx = running.enter_context(nginx.Nginx(EXAMPLE / "nginx.conf", replaced, port=port))
            self.running = running.pop_all()
        return self

    def __exit__(self, *exc):
        self.running.close()

    def manage(self, *command, **env):
        """manage.py of the project; it has to succeed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *command], cwd=PROJECT, env={**self.env, **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"manage.py {command[0]}:\n{done.stdout}{done.stderr}")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.nginx.port}"
