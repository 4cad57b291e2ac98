"""The embedded Python: its environment variables, options, paths, import order."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import harness


FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def process(s):
    return s.get("/process").json()


def test_python_path_and_app_dir(server, tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "elsewhere.py").write_text("from raw import app\n")
    s = server("elsewhere:app", "--python-path", tmp_path / "extra")
    path = process(s)["path"]
    assert str(tmp_path / "extra") in path and str(harness.APPS) in path


def test_pythonpath_variable(server, tmp_path):
    (tmp_path / "from_env.py").write_text("from raw import app\n")
    s = server("from_env:app", env={"PYTHONPATH": str(tmp_path)})
    assert s.get("/hello").status == 200


def test_application_of_the_current_folder(server, tmp_path):
    (tmp_path / "here.py").write_text("from raw import app\n")
    s = server("here:app", app_dir=None, cwd=tmp_path, env={"PYTHONPATH": str(harness.APPS)})
    assert s.get("/hello").status == 200


@pytest.mark.parametrize(
    "env, key, value",
    [({"PYTHONOPTIMIZE": "1"}, "optimize", 1), ({"PYTHONDEVMODE": "1"}, "dev_mode", True)],
)
def test_variables_of_python_are_honoured(server, env, key, value):
    s = server("raw:app", env=env)
    assert process(s)["flags"][key] == value


def test_asyncio_debug(server):
    s = server("raw:app", env={"PYTHONASYNCIODEBUG": "1"})
    assert process(s)["debug"] is True
    assert s.post("/echo", b"x" * 100).body == b"x" * 100


def test_python_options(server):
    s = server("raw:app", config="python:\n  options: [dev]\n")
    assert process(s)["flags"]["dev_mode"] is True


def test_utf8_may_be_turned_off(server):
    encoding = {"env": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": None}}
    assert process(server("raw:app", **encoding))["flags"]["utf8"] == 1
    assert process(server("raw:app", config="python:\n  options: [utf8=0]\n", **encoding))["flags"]["utf8"] == 0
    encoding["env"]["PYTHONUTF8"] = "0"
    assert process(server("raw:app", **encoding))["flags"]["utf8"] == 0


def test_import_first(server):
    s = server("raw:app", config="import_first: [import_first_probe]\n")
    assert process(s)["import_first"] is True


def test_venv_option(server, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    site = next((tmp_path / "v").glob("lib/python*/site-packages"))
    (site / "only_here.py").write_text("from raw import app\n")
    s = server("only_here:app", "--venv", tmp_path / "v", env={"VIRTUAL_ENV": None})
    got = process(s)
    assert got["prefix"] == str(tmp_path / "v") and Path(got["executable"]).parent == tmp_path / "v" / "bin"


def test_venv_of_another_version_is_refused(tmp_path):
    bin_ = tmp_path / "v" / "bin"
    bin_.mkdir(parents=True)
    (tmp_path / "v" / "lib" / "python3.1" / "site-packages").mkdir(parents=True)
    (tmp_path / "v" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.1.5\n")
    (bin_ / "python").symlink_to("/usr/bin/true")
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--venv", tmp_path / "v", "raw:app", env={"VIRTUAL_ENV": None})
    assert r.returncode != 0
    assert "3.1" in r.stderr and "{}.{}".format(*sys.version_info) in r.stderr


def test_venv_of_the_other_kind_of_python_is_refused(tmp_path):
    """Free-threaded or not: both have the same X.Y, and pyvenv.cfg says no more."""
    version = "{}.{}".format(*sys.version_info)
    other = version if FREE_THREADED else f"{version}t"
    (tmp_path / "venv" / "lib" / f"python{other}").mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").write_text(f"home = /usr\nversion = {version}.1\n")
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--venv", tmp_path / "venv", "raw:app", env={"VIRTUAL_ENV": None})
    assert r.returncode == 2 and f"is made for Python {other}, but" in r.stderr


@pytest.mark.skipif(not FREE_THREADED, reason="a Python with the GIL")
def test_the_gil_is_on_where_it_need_not_be(server):
    s = server("gil:app")
    assert s.get("/").text == "True"
    assert "\npython-gil on: " in harness.run("--version").stdout
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "raw:app", env={"PYTHON_GIL": "0"})
    assert r.returncode == 2 and "ringcorn: PYTHON_GIL=0 or -X gil=0: Ringcorn relies on the GIL so far" in r.stderr
    plain = subprocess.run(
        [sys.executable, "-X", "gil=0", "-c", "import ringcorn.loop"], capture_output=True, text=True,
        env=harness.environment({"PYTHONPATH": str(harness.BIN.parent / "python")}),
    )  # fmt: skip
    assert plain.returncode != 0 and "ImportError: Ringcorn relies on the GIL so far" in plain.stderr


def test_venv_that_is_none(tmp_path):
    r = harness.run("--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "--venv", tmp_path, "raw:app", env={"VIRTUAL_ENV": None})
    assert r.returncode != 0 and str(tmp_path) in r.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_venv_that_the_user_may_not_read(tmp_path):
    """Not "has no python": whoever looks as root sees that it has one."""
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "python").symlink_to(sys.executable)
    (tmp_path / "v" / "bin").mkdir(parents=True)
    (tmp_path / "v" / "pyvenv.cfg").write_text("version = {}.{}\n".format(*sys.version_info))
    (tmp_path / "v" / "bin" / "python").symlink_to(tmp_path / "closed" / "python")
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(0o755)
    r = harness.run("--bind", "127.0.0.1:0", "--user", "nobody", "--app-dir", tmp_path, "--venv", tmp_path / "v", "raw:app", env={"VIRTUAL_ENV": None})
    assert r.returncode == 1
    assert "no permission to read" in r.stderr and str(tmp_path / "v" / "bin" / "python") in r.stderr


def test_package_is_usable_in_a_plain_python():
    """build/python alone on the path: the loop, without the server."""
    package = harness.BIN.parent / "python"
    code = (
        "import asyncio, ringcorn.loop\n"
        "loop = ringcorn.loop.new_event_loop()\n"
        "print(loop.run_until_complete(asyncio.sleep(0.01, 'slept')))\n"
        "loop.close()\n"
    )
    if harness.SANITIZED:
        pytest.skip("the extension of a sanitized build needs its runtime preloaded")
    r = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(package)}, capture_output=True, text=True, timeout=30)
    assert r.stdout == "slept\n", r.stderr
