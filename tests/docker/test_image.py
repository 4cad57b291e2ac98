"""docker/Dockerfile: what is in the image, and how a container of it behaves."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

import harness
import wire
from conftest import BASE, IMAGE, build, is_there, podman

MB = 1000 * 1000
SLIM = "python:3.13-slim"
ZOMBIES = "import glob; print(sum(open(p).read().rsplit(')', 1)[1].split()[0] == 'Z' for p in glob.glob('/proc/[0-9]*/stat')))"


def files(root):
    """Sizes of what is in a file system, by path."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = os.lstat(path).st_size
    return found


def test_at_most_ten_megabytes_beyond_the_base_and_libpython(image, record_property):
    """Counted by files: neither the base's, nor those of libpython and of what it depends on."""
    mounted = {name: podman("image", "mount", name).stdout.strip() for name in (BASE, IMAGE)}
    try:
        theirs, ours = files(mounted[BASE]), files(mounted[IMAGE])
    finally:
        podman("image", "unmount", *mounted)
    new = {path: size for path, size in ours.items() if path not in theirs}
    script = (
        "closure() { dpkg-query -W -f '${Depends},${Pre-Depends}\\n' $1 | tr ',|' '\\n\\n' | sed 's/(.*//; s/:any//; s/ //g' | sort -u; }\n"
        "seen=; todo=$(dpkg-query -W -f '${Package}\\n' 'libpython3*')\n"
        "while [ -n \"$todo\" ]; do next=; for p in $todo; do case \" $seen \" in *\" $p \"*) ;; *)"
        " if dpkg-query -L $p 2>/dev/null; then seen=\"$seen $p\"; next=\"$next $(closure $p)\"; fi ;; esac; done; todo=$next; done"
    )
    listed = podman("run", "--rm", "--no-healthcheck", "--network", "host", "--entrypoint", "sh", IMAGE, "-c", script, timeout=120).stdout
    of_libpython = set(listed.split())
    beyond = {path: size for path, size in new.items() if "/" + path not in of_libpython}
    total = sum(beyond.values())
    code = sum(size for path, size in beyond.items() if path.endswith(".pyc"))
    print(f"\nbeyond the base {sum(new.values()) / MB:.1f} MB; without libpython {total / MB:.1f} MB, of which byte code {code / MB:.1f} MB")
    assert total < 10 * MB, sorted(beyond.items(), key=lambda item: -item[1])[:20]


def test_the_image_says_what_it_is(image):
    config = json.loads(podman("image", "inspect", image).stdout)[0]
    assert config["Config"]["Labels"]["org.opencontainers.image.title"] == "Ringcorn"
    assert config["Config"]["User"] == "10001:10001" and config["Config"]["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "ringcorn", "--healthcheck"]
    found = podman("run", "--rm", "--no-healthcheck", "--entrypoint", "sh", "--network", "host", image, "-c", "command -v gcc cc make; true").stdout
    assert found == "", "compilers belong to the build stage"


def test_it_serves_with_epoll_and_says_how_to_get_the_ring(container):
    c = container().ready()
    assert c.get("/").body == b"Hello, World!"
    assert c.get("/health/live", c.health).body.startswith(b"live\nworker 0")
    assert "using epoll; allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile" in c.log
    status = c.run("python3", "-c", "print(open('/proc/1/status').read())").stdout
    assert "Uid:\t10001" in status and "Name:\tringcorn" in status


def test_defaults_give_way_to_a_file(image, tmp_path):
    def printed(*options):
        return podman("run", "--rm", "--no-healthcheck", "--network", "host", *options, image, "--print-config").stdout

    text = printed()
    assert 'bind: ["0.0.0.0:8000"]' in text and f"workers: {os.cpu_count()}" in text and 'bind: "0.0.0.0:8001"' in text
    (tmp_path / "ringcorn.yaml").write_text("workers: 5\nbind: 0.0.0.0:80\n")
    text = printed("-v", f"{tmp_path}/ringcorn.yaml:/app/ringcorn.yaml:ro")
    assert 'bind: ["0.0.0.0:80"]' in text and "workers: 5" in text and "live: /health/live" in text


@pytest.mark.skipif(harness.io_uring_refused() is not None, reason=f"io_uring is refused here: {harness.io_uring_refused()}")
def test_the_ring_with_our_profile(container):
    c = container("--security-opt", f"seccomp={harness.ROOT / 'docker' / 'seccomp.json'}").ready()
    assert c.get("/").status == 200
    assert "I/O by io_uring" in c.log and "using epoll" not in c.log


def test_read_only_without_rights_and_as_another_user(container):
    c = container("--read-only", "--user", "4242:4242", "--cap-drop", "ALL", "--security-opt", "no-new-privileges").ready()
    assert c.get("/").status == 200
    assert c.stop() < 20 and c.state("ExitCode") == "0"


def test_sigterm_under_load_loses_nothing(container):
    c = container("-e", "RINGCORN_WORKERS=2").ready()
    answered, lost, over = [], [], threading.Event()

    def client():
        while not over.is_set():
            try:
                connection = wire.Connection(c.address, 10)
            except OSError:
                return  # refused: nobody listens any more, so nothing was lost
            with connection:
                try:
                    # As a careful client: a connection that is closed before a byte of an answer came, and before any of ours was
                    # read, cannot be told from one that was refused; there is none with Connection: close on a fresh one.
                    answer = connection.request("GET", "/slow?s=0.05", [("Connection", "close")])
                    answered.append(answer.status)
                except Exception as e:
                    lost.append(e)

    clients = [threading.Thread(target=client) for _ in range(16)]
    for thread in clients:
        thread.start()
    time.sleep(1.5)
    took = c.stop(grace=40)
    over.set()
    for thread in clients:
        thread.join(20)
    assert not lost and set(answered) == {200} and len(answered) > 50
    assert took < 35 and c.state("ExitCode") == "0"
    assert "SIGTERM: stopping" in c.log and "stopped" in c.log


def test_a_request_in_hand_is_finished(container):
    c = container().ready()
    got = []
    thread = threading.Thread(target=lambda: got.append(c.get("/slow?s=3").status))
    thread.start()
    time.sleep(0.5)
    took = c.stop()
    thread.join(20)
    assert got == [200] and 1 < took < 20 and c.state("ExitCode") == "0"


def test_healthcheck(container, image):
    command = json.loads(podman("image", "inspect", image).stdout)[0]["Healthcheck"]["Test"][1:]
    c = container("-e", "RINGCORN_WORKERS=1").ready()
    told = c.run(*command)
    assert "/health/ready: 200\nready\nworker 0" in told.stdout
    worker = harness.children(int(c.state("Pid")))[0]
    os.kill(worker, 19)
    try:
        told = c.run(*command, check=False)
        assert told.returncode == 1 and "not ready\nworker 0" in told.stdout
    finally:
        os.kill(worker, 18)


def test_process_one_buries_strangers(container):
    c = container().ready()
    # A child that forks and ends leaves its own child to process 1; that one ends after it.
    orphan = "import os, time\nif os.fork() == 0:\n    if os.fork() == 0:\n        time.sleep(0.3)\n    os._exit(0)\nos.wait()"
    for _ in range(5):
        c.run("python3", "-c", orphan)
    time.sleep(1)
    wire.eventually(lambda: c.run("python3", "-c", ZOMBIES).stdout.strip() == "0", 10, "no zombie")
    assert c.get("/").status == 200 and "died" not in c.log


def example(container, tmp_path, image):
    """The example project, on SQLite and alone."""
    config = tmp_path / "ringcorn.yaml"
    config.write_text("app: project.asgi:application\nworkers: 1\n")
    c = container(
        "-v", f"{config}:/app/ringcorn.yaml:ro", "-e", "DJANGO_SETTINGS_MODULE=project.settings", "-e", "GUESTBOOK_DATA=/tmp",
        "--read-only", "--tmpfs", "/tmp", image=image, command=(), apps=False,
    ).ready()  # fmt: skip
    migrated = c.run("/app/.venv/bin/python", "manage.py", "migrate", "--noinput")
    assert "guestbook" in migrated.stdout
    assert c.get("/").status == 200


def limited(image, *options, command):
    """A container with limits of CPU and memory; what it printed."""
    done = podman("run", "--rm", "--no-healthcheck", "--network", "host", "-v", f"{harness.APPS}:/app:ro", *options, image, *command, check=False)
    if done.returncode and "cgroup" in done.stderr:
        pytest.skip(f"this machine gives containers no limits: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("cpus, workers", [("0.5", 1), ("1", 1), ("1.5", 2)])
def test_workers_follow_the_quota_of_the_container(image, cpus, workers):
    assert f"workers: {min(workers, os.cpu_count())}\n" in limited(image, "--cpus", cpus, command=["--print-config"])


def test_the_memory_of_the_container_is_known(image):
    told = limited(image, "--cpus", "1", "--memory", "200m", command=["--check-config", "raw:app"])
    assert "the cgroup allows 200 MiB" in told and "workers: 1, on 1 CPU (affinity mask and cgroup)" in told


def test_a_quota_is_obeyed_by_a_running_container(image, container):
    limited(image, "--cpus", "1", command=["--version"])  # or skipped
    c = container("--cpus", "1").ready()
    assert len(harness.children(int(c.state("Pid")))) == 1


def test_a_base_with_a_python_of_its_own(base, container, tmp_path):
    """python:3.13-slim, or its stand-in: the Python below /usr/local is the one that is embedded, and Debian's is not there."""
    if not is_there(SLIM):
        build(SLIM, "tests/docker/python-slim.Dockerfile", context="tests/docker")
    build("ringcorn-slim-test", "docker/Dockerfile", "--build-arg", f"BASE={SLIM}")
    c = container(image="ringcorn-slim-test").ready()
    assert c.get("/").body == b"Hello, World!"
    assert "python 3.13" in c.run("ringcorn", "--version").stdout
    assert "/usr/local/lib/libpython3.13.so" in c.run("sh", "-c", "cat /proc/1/maps").stdout
    # dpkg knows names of others, too: those that some package conflicts with.
    known = c.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n", "*python3*", check=False).stdout
    assert "installed " not in known.replace("not-installed", ""), known
    assert c.stop() < 20 and c.state("ExitCode") == "0"
    # And an application on it.
    build("guestbook-slim-test", "docker/example/Dockerfile", "--build-arg", "RINGCORN=ringcorn-slim-test")
    example(container, tmp_path, "guestbook-slim-test")


def test_the_example_is_built_on_it(container, tmp_path):
    build("guestbook-test", "docker/example/Dockerfile", "--build-arg", f"RINGCORN={IMAGE}")
    example(container, tmp_path, "guestbook-test")
