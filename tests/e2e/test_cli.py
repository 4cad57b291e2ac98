"""What the operator did wrong: one line that says what to do, and the exit code of the manual."""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

import harness
from harness import APPS, run

BIND = ("--bind", "127.0.0.1:0")


def one_line(result, *words):
    """Exactly one message line, with these words."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]
    assert "Traceback" not in result.stderr


# --- 2: usage and configuration


def test_no_application():
    r = run(*BIND)
    assert r.returncode == 2
    one_line(r, "app")


@pytest.mark.parametrize(
    "args, words",
    [
        (["--no-such-option"], ["--no-such-option"]),
        (["--worker", "2", "raw:app"], ["--workers"]),
        (["--workers", "many", "raw:app"], ["workers", "many"]),
        (["--workers", "-1", "raw:app"], ["workers", "-1"]),
        (["--io", "kqueue", "raw:app"], ["io", "kqueue", "epoll"]),
        (["--timeout-keep-alive", "soon", "raw:app"], ["soon"]),
        (["--limit-body", "huge", "raw:app"], ["huge"]),
        (["--bind", "127.0.0.1:99999", "raw:app"], ["99999"]),
        (["--bind", "nonsense::x", "raw:app"], ["nonsense"]),
        (["--workers"], ["--workers"]),
    ],
)
def test_bad_usage(args, words):
    r = run(*args, "--app-dir", APPS)
    assert r.returncode == 2
    one_line(r, *words)


@pytest.mark.parametrize(
    "text, words",
    [
        ("workers: many\n", ["ringcorn.yaml:1", "many"]),
        ("app: raw:app\nworkres: 2\n", ["ringcorn.yaml:2", "workres", "workers"]),
        ("timeouts:\n  keepalive: 5\n", ["ringcorn.yaml:2", "keepalive", "keep_alive"]),
        ("timeouts: 5\n", ["ringcorn.yaml:1", "timeouts"]),
        ("bind: {a: b}\n", ["ringcorn.yaml:1", "bind"]),
        ("app: [unclosed\n", ["ringcorn.yaml"]),
        ("workers: 2\nworkers: 3\n", ["ringcorn.yaml:2", "workers"]),
        ("- a\n- b\n", ["ringcorn.yaml"]),
        ("\tworkers: 2\n", ["ringcorn.yaml:1"]),
    ],
)
def test_bad_yaml(tmp_path, text, words):
    (tmp_path / "ringcorn.yaml").write_text(text)
    for extra in ([], ["--check-config"]):
        r = run("-c", "ringcorn.yaml", "raw:app", *extra, cwd=tmp_path)
        assert r.returncode == 2
        one_line(r, *words)


def test_bad_environment():
    r = run("raw:app", *BIND, env={"RINGCORN_WORKERS": "several"})
    assert r.returncode == 2
    one_line(r, "RINGCORN_WORKERS", "several")


def test_config_file_that_is_not_there(tmp_path):
    r = run("-c", "nowhere.yaml", "raw:app", cwd=tmp_path)
    assert r.returncode in (1, 2)
    one_line(r, "nowhere.yaml")


# --- 3 and 4: the application


@pytest.mark.parametrize(
    "app, code, words",
    [
        ("no_such_module:app", 4, ["no_such_module"]),
        ("raw:no_such_attribute", 4, ["no_such_attribute", "raw"]),
        ("no_package.module:app", 4, ["no_package"]),
    ],
)
def test_application_not_found(app, code, words):
    r = run(*BIND, "--app-dir", APPS, app)
    assert r.returncode == code, r.stderr
    for word in words:
        assert word in r.stderr
    assert "Traceback" not in r.stderr


@pytest.mark.parametrize(
    "app, words",
    [
        ("broken_import:app", ["Traceback", "broken_import.py", "a_module_that_does_not_exist"]),
        ("broken_raise:app", ["Traceback", "in deep", "ValueError: broken on purpose"]),
        ("broken_syntax:app", ["SyntaxError", "broken_syntax.py"]),
        ("broken_exit:app", ["configuration missing"]),
        ("broken_interrupt:app", ["ringcorn: importing 'broken_interrupt' failed: KeyboardInterrupt"]),
    ],
)
def test_application_that_cannot_be_imported(app, words):
    r = run(*BIND, "--app-dir", APPS, app)
    assert r.returncode == 3, r.stderr
    for word in words:
        assert word in r.stderr


def test_several_workers_print_an_import_error_once_and_end():
    r = run(*BIND, "--workers", "4", "--app-dir", APPS, "broken_raise:app", timeout=60)
    assert r.returncode == 3


def test_not_callable():
    r = run(*BIND, "--app-dir", APPS, "raw:PLAIN")
    assert r.returncode in (3, 4)
    assert "callable" in r.stderr or "application" in r.stderr


@pytest.mark.parametrize("app", ["factory:make()", "factory:holder.app", "factory:instance", "factory:Holder.app"])
def test_ways_to_name_an_application(server, app):
    assert server(app).get("/hello").status == 200


def test_factory_option(server):
    assert server("factory:make", "--factory").get("/hello").status == 200


# --- 1: sockets and files


def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        r = run("--bind", f"127.0.0.1:{port}", "--app-dir", APPS, "raw:app")
    assert r.returncode == 1
    one_line(r, str(port), "in use")


def test_port_in_use_by_another_ringcorn(server):
    """SO_REUSEPORT must not make a second server out of a mistake."""
    s = server("raw:app")
    r = run("--bind", f"127.0.0.1:{s.port}", "--app-dir", APPS, "raw:app")
    assert r.returncode == 1
    one_line(r, str(s.port), "in use")
    assert s.get("/hello").status == 200


def test_file_in_place_of_a_socket(tmp_path):
    (tmp_path / "file").write_text("precious")
    r = run("--bind", f"unix:{tmp_path}/file", "--app-dir", APPS, "raw:app")
    assert r.returncode == 1
    one_line(r, f"{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


def test_folder_of_the_socket_is_missing(tmp_path):
    r = run("--bind", f"unix:{tmp_path}/no/such/s.sock", "--app-dir", APPS, "raw:app")
    assert r.returncode == 1
    one_line(r, "s.sock")


def test_stale_socket_is_replaced(server, tmp_path):
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
    s = server("raw:app", bind="unix:" + path)
    assert s.get("/hello").status == 200
    s.check_returned()
    s.stop()
    assert not os.path.exists(path)


def test_address_that_is_not_ours():
    r = run("--bind", "192.0.2.1:8000", "--app-dir", APPS, "raw:app")
    assert r.returncode == 1
    one_line(r, "192.0.2.1")


@pytest.mark.skipif(os.geteuid() != 0, reason="root may bind to every port; needs to become another user")
def test_no_permission_for_a_low_port(tmp_path):
    """As nobody, with the low ports protected."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        if int(f.read()) <= 81:
            pytest.skip("low ports are free for everybody here")
    if subprocess.run([harness.BIN, "--version"], capture_output=True, user="nobody", env=harness.environment()).returncode != 0:
        pytest.skip("nobody may not read this Python's library")
    r = subprocess.run(
        [harness.BIN, "--bind", "127.0.0.1:81", "--app-dir", str(APPS), "raw:app"],
        capture_output=True, text=True, user="nobody", env=harness.environment(), timeout=30,
    )  # fmt: skip
    assert r.returncode == 1
    one_line(r, "81", "ermission")


# --- what is asked


def test_version_names_everything():
    r = run("--version")
    assert r.returncode == 0
    text = r.stdout.lower()
    for word in ("ringcorn", "python", "llhttp", "liburing", "yaml", "io_uring" if not harness.io_uring_refused() else "epoll"):
        assert word in text, text


def test_help_names_the_options():
    r = run("--help")
    assert r.returncode == 0
    for option in ("--bind", "--workers", "--io", "--config", "--check-config", "--print-config", "--app-dir", "--keep-alive"):
        assert option in r.stdout


def test_printed_config_loads_again(tmp_path):
    r = run("--print-config", "--workers", "3", "--bind", "127.0.0.1:1234", "raw:app")
    assert r.returncode == 0
    (tmp_path / "again.yaml").write_text(r.stdout)
    again = run("-c", "again.yaml", "--print-config", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout == r.stdout
    assert "1234" in r.stdout


def test_check_config_is_silent_about_a_good_file(tmp_path):
    (tmp_path / "ringcorn.yaml").write_text("app: raw:app\nworkers: 2\n")
    r = run("-c", "ringcorn.yaml", "--check-config", "--app-dir", harness.APPS, cwd=tmp_path)
    assert r.returncode == 0 and r.stderr == ""


@pytest.mark.parametrize("name", ["ringcorn", "examples/django", "examples/fastapi", "examples/flask"])
def test_samples_are_valid(name):
    """Those whose application is one of tests/apps."""
    app_dir = harness.APPS / ("django_project" if name == "examples/django" else "")
    r = run("-c", harness.ROOT / "conf" / f"{name}.yaml", "--check-config", "--app-dir", app_dir)
    assert r.returncode == 0, r.stderr


def test_precedence_default_yaml_env_cli(tmp_path):
    (tmp_path / "c.yaml").write_text("app: raw:app\nworkers: 2\nbacklog: 100\n")

    def workers(*args, **env):
        text = run("-c", "c.yaml", "--print-config", *args, env=env, cwd=tmp_path).stdout
        return next(line for line in text.splitlines() if line.startswith("workers:")).split()[1]

    assert workers() == "2"
    assert workers(WEB_CONCURRENCY="7") == "2"  # ours is set
    assert workers(RINGCORN_WORKERS="3") == "3"
    assert workers("--workers", "4", RINGCORN_WORKERS="3") == "4"
    assert workers("-w", "5") == "5"


def test_port_and_web_concurrency_are_read_when_ours_are_unset():
    text = run("--print-config", "raw:app", env={"PORT": "4567", "WEB_CONCURRENCY": "6"}).stdout
    assert "4567" in text and "workers: 6" in text


# A filter for system calls that answers ENOSYS to io_uring_setup, as containers' profiles do, and then runs the program.
REFUSE_THE_RING = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000)]
text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(code), ctypes.addressof(text))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program)) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_ring_that_is_refused_is_an_error_where_it_was_asked_for():
    done = subprocess.run(
        [sys.executable, "-c", REFUSE_THE_RING, str(harness.BIN), "--io", "io_uring", "--bind", "127.0.0.1:0", "raw:hello"],
        cwd=APPS, capture_output=True, text=True, timeout=30, env=harness.environment(),
    )
    assert done.returncode == 1
    assert "io_uring refused (ENOSYS" in done.stderr and "seccomp profile" in done.stderr


def test_closed_standard_descriptors_become_no_sockets(tmp_path):
    log = tmp_path / "log"
    process = subprocess.Popen(
        [str(harness.BIN), "--bind", "127.0.0.1:0", "--log-file", log, "raw:app"],
        cwd=APPS, env=harness.environment(), preexec_fn=lambda: os.closerange(0, 3),
    )  # fmt: skip
    try:
        assert harness.wire.eventually(lambda: log.exists() and harness.LISTENING.search(log.read_text()), 20 * harness.SLOW)
        address = harness.LISTENING.search(log.read_text())[1]
        with urllib.request.urlopen(f"http://{address}/hello", timeout=10) as answer:
            assert answer.status == 200
        for pid in (process.pid, *harness.children(process.pid)):
            # 2 is the log file's
            assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)] == ["/dev/null", "/dev/null", str(log)]
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_ring_that_is_refused_is_one_line_where_it_was_not():
    process = subprocess.Popen(
        [sys.executable, "-c", REFUSE_THE_RING, str(harness.BIN), "--workers", "2", "--bind", "127.0.0.1:0", "raw:hello"],
        cwd=APPS, stderr=subprocess.PIPE, text=True, env=harness.environment(),
    )
    log = []
    for line in process.stderr:
        log.append(line)
        if "listening on" in line:
            port = int(line.rsplit(" with ")[0].rsplit(":")[-1])
            break
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read() == b"Hello, World!"
    process.terminate()
    log += process.communicate(timeout=30)[1].splitlines(keepends=True)
    assert process.returncode == 0
    assert len([line for line in log if "io_uring refused (ENOSYS" in line and "using epoll" in line]) == 1, log
