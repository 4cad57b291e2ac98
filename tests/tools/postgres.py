"""A PostgreSQL server of one's own: data in a temporary folder, a free port of the loopback, every connection logged.

    with Postgres() as pg:
        pg.dsn                                   # host=... port=... user=... dbname=...
        pg.connections("my application")         # rows of pg_stat_activity
        pg.opened("my application")              # connections that it ever opened, from the server's log
    tests/tools/postgres.py                      # runs one until Ctrl-C

Who is who: clients are told apart by their application_name, so that tests can share a server. Ours is CONTROL, which no figure
counts. PostgreSQL does not run as root; then it runs as user postgres, which Debian's package makes.

The log is written at debug1: only there PostgreSQL says of a connection without an open transaction that its client vanished
without the message Terminate ("unexpected EOF on client connection").
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ports import free_port
from programs import end_with_parent

CONTROL = "ringcorn-control"
READY = "database system is ready to accept connections"
# What log_line_prefix puts before each message: [pid] "application" then the message.
LINE = re.compile(r'^\[(\d+)\] "([^"]*)" (\w+):  (.*)$')
UNCLEAN = re.compile(r"unexpected EOF|could not receive data from client|could not send data to client|connection to client lost|SSL SYSCALL")


def programs():
    """The folder of initdb and postgres, of the newest version installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: float(p.parts[-3]))
    path = found[-1] if found else shutil.which("postgres")
    if path is None:
        raise FileNotFoundError("PostgreSQL is not installed: apt-get install postgresql")
    return Path(path).parent


class Postgres:
    def __init__(self, max_connections=200, **settings):
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "max_connections": max_connections,
            "shared_buffers": "16MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "log_connections": "on",
            "log_disconnections": "on",
            "log_min_messages": "debug1",
            "log_line_prefix": '[%p] "%a" ',
            **settings,
        }
        self.host, self.user, self.dbname = "127.0.0.1", "postgres", "postgres"
        self.folder = self.port = self.process = self._control = None
        self._lock = threading.Lock()

    # -- its life

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def start(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ringcorn-pg-"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self):
        folder = programs()
        user = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        options = {"cwd": self.folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}, "stdin": subprocess.DEVNULL, **user}
        made = subprocess.run(
            [folder / "initdb", "-D", "data", "-A", "trust", "-U", self.user, "-E", "UTF8", "--no-sync", "--no-instructions"],
            capture_output=True, text=True, **options,
        )  # fmt: skip
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        # A port may be taken between its choice and its use; then the next one.
        for attempt in range(5):
            self.port = free_port()
            command = [folder / "postgres", "-D", "data", "-p", str(self.port), "-k", str(self.folder)]
            for name, value in self.settings.items():
                command += ["-c", f"{name}={value}"]
            with open(self.folder / "log", "wb") as log:
                self.process = subprocess.Popen(
                    command, stdout=log, stderr=log, start_new_session=True,
                    preexec_fn=end_with_parent(signal.SIGINT),  # PostgreSQL's fast shutdown
                    **options,
                )
            deadline = time.monotonic() + 60
            while READY not in self.log():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            else:
                return
            if attempt == 4 or "Address already in use" not in self.log():
                raise RuntimeError(f"PostgreSQL does not start:\n{self.log()[-3000:]}")
            self._end()

    def _end(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)  # immediate shutdown, its children too
                self.process.wait(20)
        self.process = None

    def stop(self):
        if self._control is not None:
            self._control.close()
            self._control = None
        self._end()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    # -- how to reach it

    @property
    def parts(self):
        return {"host": self.host, "port": str(self.port), "user": self.user, "dbname": self.dbname}

    @property
    def dsn(self):
        return " ".join(f"{name}={value}" for name, value in self.parts.items())

    def execute(self, query, *args):
        """Rows of a query, on a connection of our own; any thread."""
        import psycopg

        with self._lock:
            if self._control is None or self._control.closed:
                self._control = psycopg.connect(**self.parts, application_name=CONTROL, autocommit=True)
            cursor = self._control.execute(query, args or None)
            return cursor.fetchall() if cursor.description else []

    def create_role(self, name, connections=-1):
        """A role that may log in, read and write, with so many connections at once (-1: any number)."""
        self.execute(f'CREATE ROLE "{name}" LOGIN IN ROLE pg_read_all_data, pg_write_all_data CONNECTION LIMIT {int(connections)}')
        return name

    # -- who is there, who was there

    def connections(self, application):
        """(pid, state, open transaction or not, query) of each connection of that application now."""
        return self.execute(
            "SELECT pid, state, xact_start IS NOT NULL, query FROM pg_stat_activity"
            " WHERE application_name = %s AND backend_type = 'client backend' ORDER BY pid",
            application,
        )

    def pids(self, application):
        return [row[0] for row in self.connections(application)]

    def log(self):
        try:
            return (self.folder / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _lines(self):
        for line in self.log().splitlines():
            if match := LINE.match(line):
                yield int(match[1]), match[2], match[3], match[4]

    def history(self, application):
        """[("opened" | "closed", pid)] in the log's order. A connection that a limit refused counts as opened too: it was
        authorised first."""
        names, events = {}, []
        for pid, _, _, text in self._lines():
            if text.startswith("connection authorized:"):
                match = re.search(r" application_name=(.*?)(?: SSL enabled.*)?$", text)
                names[pid] = match[1] if match else ""
                events.append(("opened", pid, names[pid]))
            elif text.startswith("disconnection:"):
                events.append(("closed", pid, names.pop(pid, "")))
        return [(what, pid) for what, pid, name in events if name == application]

    def opened(self, application):
        """How many connections the application has ever opened."""
        return sum(what == "opened" for what, _ in self.history(application))

    def peak(self, application):
        """How many it had at once, at most."""
        now = most = 0
        for what, _ in self.history(application):
            now += 1 if what == "opened" else -1
            most = max(most, now)
        return most

    def unclean(self, application):
        """What the log says of connections of the application that ended without a word."""
        pids = {pid for _, pid in self.history(application)}
        return [f"[{pid}] {text}" for pid, _, _, text in self._lines() if pid in pids and UNCLEAN.search(text)]

    def fatal(self, application):
        pids = {pid for _, pid in self.history(application)}
        return [f"[{pid}] {text}" for pid, _, level, text in self._lines() if pid in pids and level == "FATAL"]

    def terminate_backends(self, application):
        """Ends every connection of the application from this side; the pids."""
        return [pid for pid, ended in self.execute(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", application
        ) if ended]  # fmt: skip

    @contextlib.contextmanager
    def watching(self, application, every=0.02):
        """Looks at pg_stat_activity again and again, in a thread of its own, for as long as the block runs."""
        watch = Watch(self, application, every)
        try:
            yield watch
        finally:
            watch.stop()


class Watch:
    """What a series of looks at pg_stat_activity saw; complete once the block has ended."""

    def __init__(self, server, application, every):
        self.server, self.application, self.every = server, application, every
        self.samples, self.peak, self.pids, self.problem = 0, 0, set(), None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, name="pg-watch", daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                pids = self.server.pids(self.application)
            except Exception as e:
                self.problem = e
                return
            self.samples += 1
            self.peak = max(self.peak, len(pids))
            self.pids.update(pids)
            if self.ended.wait(self.every):
                return

    def stop(self):
        self.ended.set()
        self.thread.join(30)
        if self.problem is not None:
            raise self.problem


def main():
    with Postgres() as server:
        print(server.dsn, f"log={server.folder / 'log'}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.process.wait()


if __name__ == "__main__":
    sys.exit(main())
