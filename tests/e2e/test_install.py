"""pip install, and the ways to start what it installed: the program, python -m ringcorn, ringcorn.run(), manage.py ringcorn."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import harness
import pytest
import wire

ROOT = Path(__file__).resolve().parents[2]
SITE = sorted(Path(sys.prefix).glob("lib/python*/site-packages"))[0]  # Django, for a fresh environment

pytestmark = pytest.mark.slow


def call(*command, cwd, timeout=300, **env):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=timeout, env=harness.environment({"VIRTUAL_ENV": None, **env})
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """An sdist of this tree, and a wheel made of the sdist, by the hooks that pip calls."""
    folder = tmp_path_factory.mktemp("archives")
    hook = "import sys; sys.path.insert(0, 'packaging'); import backend; print(backend.build_{}(sys.argv[1]))"
    python = sys._base_executable
    sdist = folder / call(python, "-c", hook.format("sdist"), folder, cwd=ROOT).strip()
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    tree = folder / sdist.name.removesuffix(".tar.gz")
    wheel = folder / call(python, "-c", hook.format("wheel"), folder, cwd=tree).strip().splitlines()[-1]
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """A fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder, with_pip=True)
    call(folder / "bin" / "python", "-m", "pip", "install", "-q", "--no-index", "--disable-pip-version-check", archives[1], cwd=folder)
    return folder


def test_sdist_has_what_a_build_needs(archives):
    sdist, _ = archives
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"Makefile", "PKG-INFO", "pyproject.toml", "server/main.c", "python/ringcorn/__init__.py", "packaging/backend.py"} <= names
    assert not [name for name in names if name.startswith("build/") or "__pycache__" in name]


def test_wheel_is_for_one_python(archives):
    _, wheel = archives
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert re.fullmatch(rf"ringcorn-[\d.]+-{version}-{version}-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        scripts = [info for info in archive.infolist() if ".data/scripts/" in info.filename]
        assert [info.filename.rsplit("/", 1)[1] for info in scripts] == ["ringcorn"] and scripts[0].external_attr >> 16 & 0o111
        assert archive.read(scripts[0]).startswith(b"\x7fELF")
        names = archive.namelist()
    assert "ringcorn/py.typed" in names and "ringcorn/management/commands/ringcorn.py" in names
    assert any(re.fullmatch(r"_ringcorn\.cpython-.*\.so", name) for name in names)


def test_pip_knows_what_it_installed(installed):
    told = call(installed / "bin" / "python", "-m", "pip", "show", "-f", "ringcorn", cwd=installed)
    assert "Name: ringcorn" in told and "bin/ringcorn" in told
    assert "ringcorn " in call(installed / "bin" / "ringcorn", "--version", cwd="/")
    assert f"venv: {installed}" in call(installed / "bin" / "ringcorn", "--print-config", cwd="/")
    points = "from importlib.metadata import entry_points as e; print(*e(group='pytest11', name='ringcorn'))"
    assert "ringcorn.pytest" in call(installed / "bin" / "python", "-c", points, cwd="/")


def test_uninstall_leaves_nothing(archives, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    pip = (tmp_path / "env" / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    before = {p for p in (tmp_path / "env").rglob("*") if "__pycache__" not in p.parts}
    call(*pip, "install", "-q", "--no-index", archives[1], cwd=tmp_path)
    call(*pip, "uninstall", "-q", "-y", "ringcorn", cwd=tmp_path)
    assert {p for p in (tmp_path / "env").rglob("*") if "__pycache__" not in p.parts} == before


class Running:
    """A server that was started by some command; a client of the one address it logs."""

    def __init__(self, *command, cwd, **env):
        self.process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env=harness.environment({"VIRTUAL_ENV": None, **env}),
        )  # fmt: skip
        self.out, self.err = harness.Collector(self.process.stdout), harness.Collector(self.process.stderr)

    def __enter__(self):
        found = self.err.wait(r"listening on http://([\d.]+):(\d+)", 30 * harness.SLOW)
        assert found, "\n".join(self.err.lines)
        self.address = (found[1], int(found[2]))
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(15 * harness.SLOW)
        finally:
            for pid in harness.of_session(self.process.pid):
                os.kill(pid, signal.SIGKILL)
        if exc[0] is None:
            assert code == 0, "\n".join(self.err.lines)

    def get(self, target):
        with wire.Connection(self.address, 10 * harness.SLOW) as c:
            return c.request("GET", target, [("Connection", "close")])


APP = """
import os, sys
async def app(scope, receive, send):
    if scope["type"] == "http":
        body = f"{sys.prefix} {os.getppid()}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize("way", ["program", "module", "run"])
def test_ways_to_start(installed, site, way):
    python = installed / "bin" / "python"
    (site / "start.py").write_text(
        "import ringcorn\nif __name__ == '__main__':\n"
        "    ringcorn.run('main:app', host='127.0.0.1', port=0, workers=2, log_level='info', access_log=True, headers=[('X-From', 'run')])\n"
    )
    command = {
        "program": (installed / "bin" / "ringcorn", "--port", 0, "main:app"),
        "module": (python, "-m", "ringcorn", "--port", 0, "main:app"),
        "run": (python, site / "start.py"),
    }[way]
    # From elsewhere, run() imports what the script can.
    with Running(*command, cwd="/" if way == "run" else site) as s:
        answer = s.get("/")
        prefix, master = answer.text.split()
        assert (Path(prefix), int(master)) == (installed, s.process.pid), "the environment's Python, and one process that was started"
        assert answer.get("x-from") == ("run" if way == "run" else None)


def test_run_wants_a_name(installed, site):
    done = subprocess.run(
        [installed / "bin" / "python", "-c", "import ringcorn; ringcorn.run(object())"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1 and 'the application is named, "module:attribute"' in done.stderr


PROJECT = """
import os
import sys

def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.management import execute_from_command_line
    execute_from_command_line(sys.argv)

main()
"""

SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).parent.parent
DEBUG = True
SECRET_KEY = "x"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "ringcorn", "part"]
ROOT_URLCONF = "project.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db"}}
STATIC_URL = "static/"
USE_TZ = True
"""


@pytest.fixture
def project(tmp_path):
    for name, text in {
        "manage.py": PROJECT,
        "project/__init__.py": "",
        "project/settings.py": SETTINGS,
        "project/urls.py": "from django.urls import path\nfrom part.views import page\nurlpatterns = [path('', page)]\n",
        "part/__init__.py": "",
        "part/views.py": "from django.http import HttpResponse\ndef page(request):\n    return HttpResponse('first')\n",
        "part/static/part/style.css": "body {}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_manage_py(installed, project):
    python = installed / "bin" / "python"
    with Running(python, "manage.py", "ringcorn", "0", "--", "--reload-delay", "100ms", cwd=project, PYTHONPATH=SITE) as s:
        assert s.get("/").text == "first"
        css = s.get("/static/part/style.css")
        assert (css.status, css.body, css.get("content-type")) == (200, b"body {}\n", "text/css")
        assert any("unapplied migration" in line for line in s.out.lines)
        (project / "part/views.py").write_text("from django.http import HttpResponse\ndef page(request):\n    return HttpResponse('second one')\n")
        wire.eventually(lambda: s.get("/").text == "second one", 15 * harness.SLOW, "the changed view")


def test_manage_py_without(installed, project):
    python = installed / "bin" / "python"
    with Running(python, "manage.py", "ringcorn", "127.0.0.1:0", "--noreload", "--nostatic", cwd=project, PYTHONPATH=SITE) as s:
        assert s.get("/").text == "first"
        assert s.get("/static/part/style.css").status == 404, "\n".join(s.err.lines)
        (project / "part/views.py").write_text("from django.http import HttpResponse\ndef page(request):\n    return HttpResponse('second one')\n")
        time.sleep(0.5)
        assert s.get("/").text == "first"


def test_manage_py_checks_first(installed, project):
    (project / "part/views.py").write_text("nothing_here\n")
    done = subprocess.run(
        [installed / "bin" / "python", "manage.py", "ringcorn", "0"], cwd=project, capture_output=True, text=True, timeout=60,
        env=harness.environment({"VIRTUAL_ENV": None, "PYTHONPATH": SITE}),
    )  # fmt: skip
    assert done.returncode == 1 and "nothing_here" in done.stderr
