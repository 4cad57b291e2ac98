"""Debian 13 has an OpenSSL, a Python, a liburing and an llhttp of its own: the TLS tests, in the image's build stage, against the program
that was built there. The machine's may be older."""

import re

from conftest import ROOT, build, podman

BUILD, TESTS = "ringcorn-build-test", "ringcorn-tls-test"
PACKAGES = ("pytest", "pytest-timeout", "Django", "asgiref", "cryptography", "websockets")


def in_container(*command, timeout):
    mounts = [word for name in ("tests", "pyproject.toml") for word in ("-v", f"{ROOT / name}:/src/{name}:ro")]
    profile = f"seccomp={ROOT / 'docker' / 'seccomp.json'}"  # so that the tests have both backends
    return podman("run", "--rm", "--network", "host", "--security-opt", profile, *mounts, TESTS, *command, timeout=timeout, check=False)


def pytest_there(*what):
    return in_container("/venv/bin/python", "-m", "pytest", "-q", *what, timeout=1800)


def test_tls(base):
    lines = [line.split()[0] for line in (ROOT / "tests/tools/requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    wanted = [line for line in lines if re.split(r"[~<>=]", line)[0] in PACKAGES]
    assert len(wanted) == len(PACKAGES)
    build(BUILD, "docker/Dockerfile", "--target", "build")
    build(TESTS, "tests/docker/tls.Dockerfile", "--build-arg", f"BUILD={BUILD}", "--build-arg", f"PACKAGES={' '.join(wanted)}")
    version = in_container("build/ringcorn", "--version", timeout=60).stdout
    assert re.search(r"openssl built with 3\.5\.\d+, running 3\.5\.", version), version
    unit = in_container("sh", "-ec", "make -s build/release/unit/test_tls; build/release/unit/test_tls", timeout=600)
    assert unit.returncode == 0 and "\nok " in unit.stdout and "not ok" not in unit.stdout, unit.stdout + unit.stderr
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "e2e").glob("test_tls*.py"))]
    run = pytest_there(*files)
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 50, run.stdout[-6000:]
    if failed := re.findall(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", run.stdout, re.M):
        # Once more, as `make test` does: a machine that others use can keep a process waiting for longer than a test does.
        print(run.stdout[-6000:])
        run = pytest_there(*failed)
    print(version, run.stdout[-300:])
    assert run.returncode == 0, run.stdout[-6000:]
