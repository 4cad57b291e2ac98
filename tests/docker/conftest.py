"""The image, built and run by podman, buildah and runc, as root. `make test-docker`; the machine needs no registry of images:
the base is made by debootstrap and kept in build/docker/."""

import glob
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import harness
import wire
from ports import free_port

ROOT = harness.ROOT
KEPT = ROOT / "build" / "docker"
BASE = "debian:trixie-slim"
IMAGE = "ringcorn-test"
TOOLS = ("podman", "buildah", "runc", "debootstrap")
MIRROR = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []  # else debootstrap's own


BUILD_S = 3000  # a Python is compiled, on a machine that others use


def pytest_collection_modifyitems(items):
    for item in items:  # whichever test comes first builds what it needs
        item.add_marker(pytest.mark.timeout(BUILD_S))
    lacking = [tool for tool in TOOLS if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin")]
    why = f"not there: {', '.join(lacking)}; make test-docker installs them" if lacking else "containers are for root here" if os.geteuid() else None
    if why:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))


def pytest_unconfigure(config):
    """The last line, behind all that pytest has to say."""
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    print(f"{len(stats.get('passed', []))} passed, {failed} failed", flush=True)


def environment():
    KEPT.mkdir(parents=True, exist_ok=True)
    conf = KEPT / "containers.conf"
    conf.write_text('[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n')
    return {**os.environ, "CONTAINERS_CONF": str(conf), "PATH": os.environ["PATH"] + ":/usr/sbin"}


def call(*command, timeout=60, check=True, **kwargs):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout, env=environment(), **kwargs)
    assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def podman(*args, **kwargs):
    return call("podman", "--runtime", shutil.which("runc", path=environment()["PATH"]), *args, **kwargs)


def pip_mounts():
    """What pip is told on this machine: where its index is, and whom it trusts."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    found = {name: value for name, value in re.findall(r"^\S+?\.([\w-]+)='(.*)'$", told, re.M) if name in ("index-url", "extra-index-url", "trusted-host", "cert")}
    mounts = {}
    if "cert" in found:  # not over the container's own, which its packages write
        mounts[found["cert"]] = "/etc/pip-cert.crt"
        found["cert"] = "/etc/pip-cert.crt"
    conf = KEPT / "pip.conf"
    conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in found.items()))
    return {**mounts, str(conf): "/etc/pip.conf"}


def build(name, dockerfile, *options, context=".", timeout=BUILD_S):
    """As a machine with a network of its own would; what apt and pip need to be told here is mounted from the host."""
    mounts = {path: path for path in glob.glob("/etc/apt/apt.conf.d/*") if "Acquire" in Path(path).read_text()}
    mounts |= pip_mounts()
    volumes = [word for path, there in mounts.items() for word in ("-v", f"{path}:{there}:ro")]
    runc = shutil.which("runc", path=environment()["PATH"])
    call("buildah", "--runtime", runc, "bud", "--format", "docker", "--layers", "--network", "host", *volumes, *options,
         "-t", name, "-f", dockerfile, context, cwd=ROOT, timeout=timeout)  # fmt: skip


@pytest.fixture(scope="session")
def base():
    if not is_there(BASE):
        tree = KEPT / "trixie"
        if not (tree / "etc" / "debian_version").exists():
            shutil.rmtree(tree, ignore_errors=True)
            call("debootstrap", "--variant=minbase", "trixie", tree, *MIRROR, timeout=900)
        archive = subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE)
        podman("import", "-", BASE, stdin=archive.stdout, timeout=300)
        assert archive.wait() == 0
    return BASE


def is_there(image):
    return podman("image", "exists", image, check=False).returncode == 0


def stand_in(name):
    """An image of a registry, as compose.yaml names it: the real one where the machine has it."""
    if not is_there(name):
        build(name, "tests/docker/stand-ins.Dockerfile", "--target", name.split(":")[0], context="tests/docker")


@pytest.fixture(scope="session")
def image(base):
    build(IMAGE, "docker/Dockerfile")
    return IMAGE


class Container:
    def __init__(self, name, image, options, command):
        self.name = name
        self.address = ("127.0.0.1", free_port())
        self.health = ("127.0.0.1", free_port())
        podman(
            "run", "-d", "--name", name, "--network", "host",
            "-e", f"RINGCORN_BIND=127.0.0.1:{self.address[1]}", "-e", f"RINGCORN_HEALTH_BIND=127.0.0.1:{self.health[1]}",
            *options, image, *command,
        )  # fmt: skip

    @property
    def log(self):
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def ready(self):
        wire.eventually(self.is_ready, 60, f"an answer of {self.name}")
        return self

    def is_ready(self):
        if self.state("Running") != "true":
            raise AssertionError(f"it ended:\n{self.log}")
        try:
            return self.get("/health/ready", self.health).status == 200
        except OSError:
            return False

    def get(self, target, address=None):
        with wire.Connection(address or self.address, 10) as c:
            return c.request("GET", target, [("Connection", "close")])

    def state(self, what):
        return podman("inspect", "--format", "{{.State.%s}}" % what, self.name).stdout.strip()

    def run(self, *command, check=True):
        return podman("exec", self.name, *command, check=check)

    def stop(self, grace=40):
        """Returns how long it took."""
        began = time.monotonic()
        podman("stop", "-t", grace, self.name, timeout=grace + 30)
        return time.monotonic() - began


@pytest.fixture
def container(image, request):
    """container(*options, command=[...]) -> a Container with tests/apps in /app."""
    made = []

    def start(*options, command=("raw:app",), image=image, apps=True):
        name = f"ringcorn-test-{os.getpid()}-{len(made)}"
        made.append(name)
        volume = ("-v", f"{harness.APPS}:/app:ro") if apps else ()
        return Container(name, image, (*volume, *options), command)

    yield start
    for name in made:
        podman("rm", "-f", "-t", "0", name, check=False)
