"""The build backend of `pip install .` (PEP 517): an archive of the sources, and a wheel with the program for one Python.

The Makefile builds; this packs what it built. In the tree, and nothing else is needed: no setuptools, so that a build without the
network works, and no second description of how the C is compiled. The wheel has

    ringcorn/                      the Python package
    _ringcorn.<abi>.so             its extension module
    <data>/scripts/ringcorn        the program: pip puts it into the environment's bin/ as it is, so that no Python
                                   runs before it does, and the process that was started is the master
"""

import base64
import hashlib
import io
import os
import re
import stat
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = re.search(r"^VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.M)[1]
SOURCES = ("Makefile", "README.md", "pyproject.toml", "conf", "docker", "packaging", "python", "server", "tests")
LEFT_OUT = {"__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache"}


# ------------------------------------------------------------------ metadata


def metadata():
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {PROJECT['name']}",
        f"Version: {VERSION}",
        f"Summary: {PROJECT['description']}",
        f"Requires-Python: {PROJECT['requires-python']}",
        *(f"Classifier: {text}" for text in PROJECT["classifiers"]),
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + (ROOT / PROJECT["readme"]).read_text()


def entry_points():
    groups = PROJECT.get("entry-points", {}).items()
    return "\n".join(f"[{group}]\n" + "".join(f"{name} = {what}\n" for name, what in points.items()) for group, points in groups)


def tag():
    python = f"{sys.implementation.cache_tag.split('-')[0][:2]}{sys.version_info.major}{sys.version_info.minor}"
    abi = python + getattr(sys, "abiflags", "")
    return f"{python}-{abi}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def get_requires_for_build_sdist(config_settings=None):
    return []


get_requires_for_build_wheel = get_requires_for_build_sdist


# ------------------------------------------------------------------ sources


def timestamp():
    return int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def source_files():
    for name in SOURCES:
        top = ROOT / name
        files = [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
        for path in files:
            relative = path.relative_to(ROOT)
            if not LEFT_OUT & set(relative.parts) and path.suffix != ".pyc":
                yield relative


def build_sdist(sdist_directory, config_settings=None):
    base = f"{PROJECT['name']}-{VERSION}"
    with tarfile.open(Path(sdist_directory, f"{base}.tar.gz"), "w:gz", format=tarfile.PAX_FORMAT) as archive:

        def add(name, content, mode=0o644):
            info = tarfile.TarInfo(f"{base}/{name}")
            info.size, info.mode, info.mtime = len(content), mode, timestamp()
            archive.addfile(info, io.BytesIO(content))

        add("PKG-INFO", metadata().encode())
        for path in source_files():
            is_program = (ROOT / path).stat().st_mode & stat.S_IXUSR
            add(path, (ROOT / path).read_bytes(), 0o755 if is_program else 0o644)
    return f"{base}.tar.gz"


# ------------------------------------------------------------------ the wheel


class Wheel:
    def __init__(self, path):
        self.archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.record = []

    def add(self, name, content, mode=0o644):
        info = zipfile.ZipInfo(str(name), time.gmtime(max(timestamp(), 315532800))[:6])  # zip knows no time before 1980
        info.external_attr = (stat.S_IFREG | mode) << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        self.archive.writestr(info, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(content)}")

    def close(self, info_dir):
        name = f"{info_dir}/RECORD"
        self.archive.writestr(name, "\n".join([*self.record, f"{name},,"]) + "\n")
        self.archive.close()


def make(*arguments):
    """Its output goes to ours, which pip shows when it fails."""
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"ringcorn was not built: `{' '.join(command)}` in {ROOT} failed; what it lacks is said above")


def stripped(path, folder):
    """Without the debugger's tables, which are most of it; where there is no strip, as it is."""
    out = Path(folder, path.name)
    try:
        subprocess.run(["strip", "--strip-unneeded", "-o", out, path], check=True)
        return out.read_bytes()
    except (OSError, subprocess.CalledProcessError):
        return path.read_bytes()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    import tempfile

    make(f"-j{os.cpu_count() or 1}", "all")
    built = Path(subprocess.run(
        ["make", "-s", "--no-print-directory", f"PYTHON={sys.executable}", "print-out"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip())  # fmt: skip
    built = ROOT / built
    base = f"{PROJECT['name']}-{VERSION}"
    name = f"{base}-{tag()}.whl"
    wheel = Wheel(Path(wheel_directory, name))
    with tempfile.TemporaryDirectory() as folder:
        wheel.add(f"{base}.data/scripts/ringcorn", stripped(built / "ringcorn", folder), 0o755)
        for extension in sorted((built / "python").glob("_ringcorn.*.so")):
            wheel.add(extension.name, stripped(extension, folder), 0o755)
    for path in sorted((ROOT / "python" / "ringcorn").rglob("*")):
        if path.suffix in (".py", ".pyi", ".typed") or path.name == "py.typed":
            wheel.add(path.relative_to(ROOT / "python"), path.read_bytes())
    info_dir = f"{base}.dist-info"
    wheel.add(f"{info_dir}/METADATA", metadata().encode())
    wheel.add(f"{info_dir}/WHEEL", f"Wheel-Version: 1.0\nGenerator: ringcorn\nRoot-Is-Purelib: false\nTag: {tag()}\n".encode())
    wheel.add(f"{info_dir}/entry_points.txt", entry_points().encode())
    wheel.close(info_dir)
    return name
