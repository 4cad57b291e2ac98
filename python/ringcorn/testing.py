"""Ringcorn as the server that tests talk to: ``LiveServer``, of the fixture ringcorn_server (pytest.py), and ``RingcornProcess``, of a Django test suite
with Channels.

    from channels.testing import ChannelsLiveServerTestCase
    from ringcorn.testing import RingcornProcess

    class ChatTests(ChannelsLiveServerTestCase):
        ProtocolServerProcess = RingcornProcess

RingcornProcess takes the place of daphne.testing.DaphneProcess. What is started is the program, with one worker, not a copy of the test's process:
the settings that the tests run with, overridden ones too, and the names of the test databases are handed over; what else a test has
changed in its own process stays there.
"""

import atexit
import ctypes
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

HANDOVER = "DJANGO_LIVE_SERVER_HANDOVER"  # in the environment: the folder with what follows
PR_SET_PDEATHSIG = 1
LOOK_SECONDS = 0.02
END_SECONDS = 5  # a client that keeps its connection holds the end up no longer

# What is set in the YAML file is nobody else's: a ringcorn.yaml in the current folder is not read.
CONFIG = """
app: ringcorn.testing:make_application()
workers: 1
log: {level: warning}
timeouts: {graceful: 1s}
websocket: {drain: 0s}
"""


LIVE_CONFIG = """
workers: 1
log: {level: info, format: json}
timeouts: {graceful: 1s}
websocket: {drain: 0s}
guard: {mode: raise}
"""

# Of guardrails, by ringcorn.guard's names: their keys in the configuration; those that are a time.
KEYS = {
    "block": "loop-block", "unawaited": "unawaited", "lost": "lost", "sync": "sync", "transaction": "transactions", "session": "sessions",
    "threads": "threads", "orphan": "orphans", "unclosed": "unclosed", "swallowed": "swallowed",
}  # fmt: skip
TIMES = ("block", "threads", "orphan")  # and other words: "off" among them


def find_program():
    """The ringcorn that this package belongs to, else the one on PATH."""
    above = Path(__file__).resolve().parent.parent.parent
    for path in (above / "ringcorn", above.parent.parent / "bin" / "ringcorn"):  # build/ringcorn; PREFIX/bin beside PREFIX/lib/ringcorn
        if path.is_file():
            return str(path)
    if path := shutil.which("ringcorn"):
        return path
    raise FileNotFoundError("the program ringcorn was found neither beside its Python package nor on PATH; set RingcornProcess.program")


class RingcornProcess:
    """As much of multiprocessing.Process as ChannelsLiveServerTestCase uses of DaphneProcess, and the attributes ready and port.

    program   the path of ringcorn, where it is not found by itself
    options   more of its command line, such as ["--threads", "2"]
    """

    program = None
    options = ()

    def __init__(self, host, get_application, kwargs=None, setup=None, teardown=None, port=None):
        if kwargs or teardown:
            raise TypeError("RingcornProcess takes no arguments of Daphne's server and no teardown; set RingcornProcess.options")
        self.host = host
        self.get_application = get_application
        self.setup = setup
        self.port = SimpleNamespace(value=port or 0)
        self.ready = SimpleNamespace(wait=self._wait_ready, is_set=self._is_ready)
        self._process = self._folder = None

    def start(self):
        handover = _handover(self.get_application, self.setup)
        self._folder = Path(tempfile.mkdtemp(prefix="ringcorn-live-"))
        atexit.register(self._end)
        (self._folder / "handover").write_bytes(handover)
        (self._folder / "ringcorn.yaml").write_text(CONFIG)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.create_server((self.host, self.port.value), family=family) as listener:
            command = [self.program or find_program(), "-c", str(self._folder / "ringcorn.yaml"), "--bind", f"fd://{listener.fileno()}"]
            command += ["--app-dir", os.getcwd()]
            if sys.prefix != sys.base_prefix:
                command += ["--venv", sys.prefix]
            prctl = ctypes.CDLL(None).prctl
            self._process = subprocess.Popen(
                [*command, *self.options],
                stdin=subprocess.DEVNULL,
                env={**os.environ, HANDOVER: str(self._folder)},
                pass_fds=[listener.fileno()],
                preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # should the tests be killed, it ends, too
            )
            self.port.value = listener.getsockname()[1]

    def _is_ready(self):
        return (self._folder / "ready").exists()

    def _wait_ready(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_ready():
            if not self.is_alive() or (deadline is not None and time.monotonic() > deadline):
                return False
            time.sleep(LOOK_SECONDS)
        return True

    @property
    def pid(self):
        return self._process.pid

    @property
    def exitcode(self):
        return self._process.poll()

    def is_alive(self):
        return self._process is not None and self._process.poll() is None

    def terminate(self):
        if self.is_alive():
            self._process.send_signal(signal.SIGINT)  # quick: what is in hand is cancelled

    def kill(self):
        if self.is_alive():
            self._process.send_signal(signal.SIGINT)
            self._process.send_signal(signal.SIGINT)

    def join(self, timeout=None):
        """Until it has ended; timeout bounds the wait for that, as of a multiprocessing.Process."""
        try:
            self._process.wait(END_SECONDS if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            if timeout is not None:
                return
            self._process.send_signal(signal.SIGINT)  # the second one
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self._end)

    def _end(self):
        self.terminate()
        if self._process is not None:
            self.join()


# --- the application of a test, by its name


class LiveServer(str):
    """The program, with one worker, serving *app*, "module:attribute", until close(): the URL of its root, without the slash.

    options    more of its command line
    folder     where the application is imported from, beside what this process has in sys.path
    allowed    guardrails that are off (names of ringcorn.guard.KINDS); all others are on, under guard.mode raise
    """

    def __new__(cls, app, options=(), folder=".", allowed=(), loop_block="100ms"):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self = super().__new__(cls, f"http://127.0.0.1:{listener.getsockname()[1]}")
            self._folder = Path(tempfile.mkdtemp(prefix="ringcorn-live-"))
            self._taken = 0  # lines of the log
            atexit.register(self.close)
            try:
                self._start(listener, app, options, folder, allowed, loop_block)
            except BaseException:
                self.close()
                raise
        return self

    def _start(self, listener, app, options, folder, allowed, loop_block):
        (self._folder / "ringcorn.yaml").write_text(LIVE_CONFIG)
        guard = {"--guard-loop-block": loop_block, **{f"--guard-{KEYS[kind]}": "off" for kind in allowed if kind in TIMES}}
        command = [find_program(), "-c", str(self._folder / "ringcorn.yaml"), "--bind", f"fd://{listener.fileno()}", "--app-dir", str(folder)]
        command += [word for pair in guard.items() for word in pair]
        command += [f"--no-guard-{KEYS[kind]}" for kind in allowed if kind in KEYS and kind not in TIMES]
        if sys.prefix != sys.base_prefix:
            command += ["--venv", sys.prefix]
        prctl = ctypes.CDLL(None).prctl
        with open(self._folder / "log", "w") as log:
            self._process = subprocess.Popen(
                [*command, *map(str, options), app],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_own_paths())},
                pass_fds=[listener.fileno()],
                preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
            )  # fmt: skip
        while not any("listening on" in line for line in self._lines()):
            if self._process.poll() is not None:
                raise RuntimeError(f"ringcorn did not start, its exit code is {self._process.returncode}:\n{self.log()}")
            time.sleep(LOOK_SECONDS)

    @property
    def pid(self):
        return self._process.pid

    def _lines(self):
        try:
            return (self._folder / "log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _records(self):
        for line in self._lines():
            try:
                yield json.loads(line)
            except ValueError:  # what the application prints
                yield {"message": line}

    def log(self):
        """All that it has logged, and what the application has printed, as text."""
        return "\n".join("\n".join(filter(None, (one.get("message"), one.get("exception")))) for one in self._records() if one.get("level") != "info")

    @property
    def events(self):
        """What guardrails have noticed, as the log has it: dicts with kind, message, request, file, line and so on."""
        return [{**one["guard"], "message": one["message"]} for one in self._records() if "guard" in one]

    def take(self):
        """(kind, message) of those that were not taken before."""
        events = self.events
        new, self._taken = events[self._taken :], len(events)
        return [(event["kind"], event["message"]) for event in new]

    def stop(self):
        """Ends it: what is in hand is cancelled. The log stays."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGINT)  # the second one
                self._process.wait()

    def close(self):
        """Ends it, and removes its files."""
        if getattr(self, "_process", None) is not None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.close)


def _own_paths():
    """Of sys.path: neither Python's nor those of the environment, which the program knows."""
    known = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    return [path for path in sys.path if path and not os.path.abspath(path).startswith(known)]


# --- what the tests hand over


def _handover(get_application, setup):
    from django.conf import settings
    from django.db import connections

    return pickle.dumps(
        {
            "path": [path or os.getcwd() for path in sys.path],
            "settings_module": os.environ["DJANGO_SETTINGS_MODULE"],
            # In pieces, as they are read one after the other: a setting may need a path, an application the settings.
            "settings": pickle.dumps(dict(_settings(settings))),
            "databases": {alias: connections[alias].settings_dict["NAME"] for alias in connections},
            "application": pickle.dumps((get_application, setup)),
        }
    )


def _settings(settings):
    """(name, pickled value) of each; one that cannot be pickled is what the module says, unless a test has overridden it."""
    overridden = _overridden(settings._wrapped)
    for name in dir(settings):
        if name.isupper() and name != "DATABASES":
            try:
                yield name, pickle.dumps(getattr(settings, name))
            except Exception as e:
                if name in overridden:
                    raise TypeError(f"the overridden setting {name} cannot be handed to the live server: {e}") from e


def _overridden(holder):
    from django.conf import UserSettingsHolder

    names = set()
    while isinstance(holder, UserSettingsHolder):
        names.update(vars(holder))
        holder = holder.default_settings
    return names


def make_application():
    """In the worker: the application, under the settings and on the databases of the tests."""
    folder = Path(os.environ[HANDOVER])
    given = pickle.loads((folder / "handover").read_bytes())
    sys.path[:0] = [path for path in given["path"] if path not in sys.path]
    os.environ["DJANGO_SETTINGS_MODULE"] = given["settings_module"]

    import django
    from django.conf import settings
    from django.db import connections
    from django.test.utils import override_settings

    django.setup()
    there = {name: pickle.loads(value) for name, value in pickle.loads(given["settings"]).items()}
    nothing = object()
    override_settings(**{name: value for name, value in there.items() if getattr(settings, name, nothing) != value}).enable()
    get_application, setup = pickle.loads(given["application"])
    if setup is not None:
        setup()
    # Channels' own setup guesses the name of the first one; these are the names in use, of parallel tests, too.
    for alias, name in given["databases"].items():
        connections.settings[alias]["NAME"] = name
    application = get_application()
    (folder / "ready").touch()
    return application
