"""--check-config: the file, then the application, imported and not served; how many connections it needs beside what PostgreSQL allows."""

import contextlib
import itertools
import re
import socket
import struct
import threading

import django
import pytest

import certs
import harness
import wire

PROJECT = harness.APPS / "pg_project"
numbers = itertools.count(1)


def check(*args, **kwargs):
    return harness.run("--check-config", *args, **kwargs)


OF_THE_MACHINE = re.compile(r"(warning: )?(workers|descriptors|keep-alive|memory): ")


def lines(result, machine=False):
    """What it says of the application, or of the machine it would run on."""
    said = [line.removeprefix("ringcorn: ") for line in result.stdout.splitlines()]
    return [line for line in said if bool(OF_THE_MACHINE.match(line)) == machine]


@pytest.fixture
def project(pg):
    """project(*args, NAME=value...) -> the lines about tests/apps/pg_project. Afterwards: every connection was ended in order."""
    names = []

    def run(*args, **env):
        names.append(f"check {next(numbers)}")
        env = {"DJANGO_SETTINGS_MODULE": "project.settings", "PG_PORT": pg.port, "PG_APP": names[-1], "PG_MAX_AGE": 600, "PG_HEALTH": 1, **env}
        result = check("--app-dir", PROJECT, "project.asgi:application", *args, env=env)
        assert result.returncode == 0 and result.stderr == "", result.stderr
        return lines(result)

    yield run
    for name in names:
        wire.eventually(lambda name=name: pg.pids(name) == [], 5 * harness.SLOW, "the check's connection is over")
        assert pg.unclean(name) == []


def place(pg, alias="default"):
    return f"database {alias!r} (postgresql at 127.0.0.1:{pg.port})"


# --- the application


def test_without_an_application_only_the_file_is_judged(tmp_path):
    result = check(cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert lines(result) == ["the configuration is right (no YAML file)", "no application is named, so none was looked at"]


@pytest.mark.parametrize(
    "args, code",
    [
        (["nosuch:app"], 4),
        (["raw:nosuch"], 4),
        (["broken_raise:app"], 3),
        (["broken_syntax:app"], 3),
        (["broken_import:app"], 3),
        (["broken_exit:app"], 3),
        (["broken_interrupt:app"], 3),
        (["--import-first", "nosuch", "raw:app"], 4),
        (["--venv", "/nowhere", "raw:app"], 1),
        (["--interface", "wsgi", "raw:app"], 3),
        (["--lifespan", "on", "flask_app:flask"], 2),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_what_cannot_start_fails_the_check_likewise(args, code):
    """With the exit code and the words of a start."""
    started = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, *args)
    checked = check("--app-dir", harness.APPS, *args)
    assert (started.returncode, checked.returncode) == (code, code)
    said = [line for line in checked.stderr.splitlines() if line.startswith("ringcorn: ")]
    assert len(said) == 1 and said[0] in started.stderr
    assert ("Traceback" in checked.stderr) == ("Traceback" in started.stderr)


def test_nothing_is_served(tmp_path):
    """The port is taken, and the lifespan would fail."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        result = check("--bind", bind, "--app-dir", harness.APPS, "--lifespan", "on", "lifespans:startup_failed", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^ringcorn: lifespans:startup_failed was imported in \d+\.\d\d s$", result.stdout, re.M)
    assert list(tmp_path.iterdir()) == []


def test_what_the_application_leaves_running_keeps_nobody(tmp_path):
    (tmp_path / "app.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nasync def app(scope, receive, send): ...\n"
    )
    assert check("--app-dir", tmp_path, "app:app").returncode == 0


def test_an_import_without_end_is_ended(tmp_path):
    (tmp_path / "stuck.py").write_text("import time\ndef wait():\n    time.sleep(600)\nwait()\n")
    result = check("--app-dir", tmp_path, "--timeouts-startup", "1s", "stuck:app")
    assert result.returncode == 3
    assert "the application is not imported after 1.0 s (timeouts.startup)" in result.stderr
    assert re.search(r'stuck\.py", line 3 in wait', result.stderr)


def test_an_import_that_kills_its_process(tmp_path):
    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    result = check("--app-dir", tmp_path, "dies:app")
    assert result.returncode == 3
    assert result.stderr == "ringcorn: the process that imported the application died of signal 9 (KILL)\n"


def test_environment_of_the_file_reaches_the_application(tmp_path):
    (tmp_path / "env").write_text("CHOSEN=right\n")
    (tmp_path / "app.py").write_text("import os\nassert os.environ['CHOSEN'] == 'right'\nasync def app(scope, receive, send): ...\n")
    assert check("--env-file", "env", "app:app", cwd=tmp_path).returncode == 0


# --- how many connections, and what is allowed


def test_connections_beside_what_the_server_allows(project, pg):
    kept = int(pg.execute("SHOW superuser_reserved_connections")[0][0])
    most = int(pg.execute("SHOW max_connections")[0][0])
    found = project("--workers", 2, "--threads", 8)
    assert found[2:] == [
        "synchronous code: 2 workers x 8 threads = 16 calls at once and database connections; at worst 2 x 64 = 128",
        f"{place(pg)}: 16 connections, at worst 128; it allows {most - kept} (max_connections {most}, {kept} of them reserved)",
    ]


def test_more_than_it_allows(project, pg):
    found = project("--workers", 50, "--threads", 8)
    assert "warning: database 'default': 400 connections are more than the 197 that it allows; lower workers" in found[-1]
    found = project("--workers", 4, "--threads", 8)
    assert found[-1] == "warning: database 'default': at worst 256 connections are more than the 197 that it allows; sync.threads_max: 49 fits"
    assert len(project("--workers", 4, "--threads", 8, "--sync-threads-max", 49)) == 4


def test_the_limit_of_a_role(project, pg):
    role = pg.create_role(f"few_{next(numbers)}", 10)
    found = project("--workers", 2, "--threads", 8, PG_USER=role)
    assert found[3] == f"{place(pg)}: 16 connections, at worst 128; it allows 10 (role '{role}' may have 10)"
    assert "16 connections are more than the 10 that it allows" in found[4]
    assert len(project("--threads", 8, "--sync-threads-max", 10, PG_USER=role)) == 4


def test_databases_of_one_server_are_added_up(project, pg):
    found = project("--workers", 3, "--threads", 40, PG_SECOND=1)
    assert [line.split(":")[0] for line in found[3:5]] == [place(pg).split(":")[0], place(pg, "second").split(":")[0]]
    assert found[-2].startswith("database 'default' and database 'second' are one server: 240 connections, at worst 384; it allows 197")
    assert found[-1].startswith("warning: that server: 240 connections are more than the 197 that it allows")


@pytest.mark.skipif(django.VERSION < (5, 1), reason='Django 5.1 brought OPTIONS["pool"]')
def test_the_pool_of_psycopg_is_counted_as_it_is(project, pg):
    found = project("--workers", 2, "--threads", 8, PG_POOL=1, PG_MAX_AGE=0)
    assert found[3].startswith(f'{place(pg)}: 16 connections (OPTIONS["pool"] has 8 for each worker); it allows 197')


def test_engines_of_sqlalchemy(pg, tmp_path):
    url = f"postgres@127.0.0.1:{pg.port}/postgres"
    (tmp_path / "app.py").write_text(
        "from sqlalchemy import create_engine\nfrom sqlalchemy.ext.asyncio import create_async_engine\n"
        f"first = create_engine('postgresql+psycopg://{url}?application_name=engines', pool_size=40)\n"
        f"second = create_engine('postgresql+psycopg2://{url}?application_name=engines', pool_size=20, max_overflow=0)\n"
        f"third = create_async_engine('postgresql+asyncpg://{url}', connect_args={{'server_settings': {{'application_name': 'engines'}}}})\n"
        "async def app(scope, receive, send): ...\n"
    )
    result = check("--app-dir", tmp_path, "--workers", 2, "--threads", 40, "app:app")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    text, allows = result.stdout, "; it allows 197 (max_connections 200, 3 of them reserved)"
    for name, driver, numbers_ in (
        ("first", "psycopg", "80 connections, at worst 100 (pool_size 40 + max_overflow 10 for each worker)"),
        ("second", "psycopg2", "40 connections (pool_size 20 + max_overflow 0 for each worker)"),
        ("third", "asyncpg", "10 connections, at worst 30 (pool_size 5 + max_overflow 10 for each worker)"),
    ):
        assert f"SQLAlchemy engine app.{name} (postgresql+{driver}://{url}): {numbers_}{allows}\n" in text
    assert "are one server: 130 connections, at worst 170; it allows 197" in text
    assert pg.opened("engines") == 3 and pg.unclean("engines") == []
    wire.eventually(lambda: pg.pids("engines") == [], 5 * harness.SLOW, "the check's connections are over")


# --- a database that cannot be asked is a line, no more


def unreachable(project, port, **env):
    found = project("--threads", 8, PG_PORT=port, **env)
    assert found[2].startswith("synchronous code: 1 worker x 8 threads = 8 calls at once")
    assert len(found) == 4
    return found[3]


def test_no_server(project):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        line = unreachable(project, nobody.getsockname()[1])
    assert "8 connections, at worst 64; what it allows could not be asked: OperationalError: " in line and "refused" in line


def test_a_server_that_does_not_answer(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = unreachable(project, silent.getsockname()[1])
    assert "what it allows could not be asked: " in line
    assert re.search(r"timeout|no answer within 2 s", line), line


def test_nobody_lets_us_in(project, pg):
    assert 'role "stranger" does not exist' in unreachable(project, pg.port, PG_USER="stranger")


# --- a pooler in front


class Pooler(threading.Thread):
    """Passes on what both sides say, but for the process id, which it makes up: as PgBouncer does."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.server_port, self.socket = port, socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client = self.socket.accept()[0]
                server = socket.create_connection(("127.0.0.1", self.server_port))
                for args in ((client, server, None), (server, client, self.rewrite)):
                    threading.Thread(target=self.pass_on, args=args, daemon=True).start()

    def pass_on(self, source, to, change):
        with contextlib.suppress(OSError), source, to:
            while data := source.recv(65536):
                to.sendall(change(data) if change else data)

    def rewrite(self, data):
        """BackendKeyData: 'K', the length 12, process id, key."""
        return re.sub(rb"K\0\0\0\x0c(.{4})(.{4})", lambda m: b"K\0\0\0\x0c" + struct.pack("!i", 4711) + m[2], data, flags=re.S)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.join()


def test_behind_a_pooler_its_own_limits_count(project, pg):
    pooler = Pooler(pg.port)
    try:
        found = project("--workers", 100, "--threads", 8, PG_PORT=pooler.port)
    finally:
        pooler.close()
    assert found[3].endswith("800 connections, at worst 6400; there is a pooler in front (PgBouncer or the like), whose limits count")
    assert found[4].startswith("warning: database 'default': if that pooler pools by transaction, QuerySet.iterator() fails; ")
    assert '"DISABLE_SERVER_SIDE_CURSORS": True' in found[4] and len(found) == 5


# --- the machine


def test_what_the_configuration_means_on_this_machine():
    workers, descriptors, keep_alive = lines(check("-w", 3), machine=True)
    assert re.fullmatch(r"workers: 3, on \d+ CPUs? \(affinity mask and cgroup\)", workers)
    assert re.fullmatch(r"descriptors: a worker needs up to 10000 connections \+ 256 .* = 10256; it may have \d+", descriptors)
    assert keep_alive == "keep-alive: 75 s, longer than nginx's 60 s, so the proxy closes first"


def test_memory_is_measured_after_the_import():
    result = check("--app-dir", harness.APPS, "-w", 2, "raw:app")
    memory = next(line for line in lines(result, machine=True) if line.startswith("memory: "))
    each, most = map(int, re.match(r"memory: a worker has (\d+) MiB after the import, 2 and one more in a reload (\d+) MiB; the cgroup", memory).groups())
    assert 5 < each < 1000 and abs(most - 3 * each) <= 3


def test_warnings_about_the_machine():
    result = check("--keep-alive", "5s", "--limit-connections", 5_000_000)
    _, descriptors, keep_alive = lines(result, machine=True)
    assert result.returncode == 0
    assert descriptors.startswith("warning: descriptors: a worker needs up to 5000000 connections") and "lower limits.connections" in descriptors
    assert keep_alive.startswith("warning: keep-alive: 5 s is not longer than the 60 s") and "502" in keep_alive
    assert lines(check("--keep-alive", "off"), machine=True)[2] == "keep-alive: without a limit; the proxy closes first"


# --- the samples


# conf/prometheus is for other programs.
SAMPLES = sorted(path for path in (harness.ROOT / "conf").glob("**/*.yaml") if path.parent.name != "prometheus")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda p: str(p.relative_to(harness.ROOT / "conf")))
def test_samples_are_right(sample, tmp_path):
    """Each against the file alone: the application of a sample is a name to be replaced."""
    text = re.sub(r"^(app|app_dir|venv|user|group):.*\n", "", sample.read_text(), flags=re.M)
    for folder in set(re.findall(r"/etc/letsencrypt/live/([\w.]+)/", text)):
        (tmp_path / folder).mkdir()
        for path, made in zip(("fullchain.pem", "privkey.pem"), certs.Authority().issue(folder).write(tmp_path, folder)):
            made.rename(tmp_path / folder / path)
    text = text.replace("/etc/letsencrypt/live/", f"{tmp_path}/")
    (tmp_path / "ringcorn.yaml").write_text(text)
    result = check(cwd=tmp_path)
    assert result.returncode == 0 and "warning" not in result.stdout, (result.stdout, result.stderr)
