"""Starts the server from Python: ``ringcorn.run()``, ``python -m ringcorn``, ``manage.py ringcorn``.

The server is a program that embeds Python, so it takes the place of this process (exec): its process id, its signals and its
descriptors are those of the process that was started, as supervisors expect, and the memory of this Python is given back.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path


def program():
    """The path of the program that belongs to this package."""
    package = Path(__file__).resolve().parents[1]
    folders = [
        package.parent,  # a build: build/ringcorn beside build/python
        package.parents[1] / "bin",  # make install: lib/ringcorn/python
        package / "bin",  # pip install --target
        Path(sysconfig.get_path("scripts")),
        Path(sysconfig.get_path("scripts", f"{os.name}_user")),
        Path(sys.executable).parent,
    ]
    for folder in folders:
        path = folder / "ringcorn"
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    path = shutil.which("ringcorn")
    if path is None:
        raise FileNotFoundError(f"the program ringcorn is in none of {', '.join(map(str, folders))} nor in PATH; install it again")
    return path


def execute(arguments):
    """Runs the program with these arguments in place of this process."""
    path = program()
    # The environment that this Python belongs to, unless the configuration names one.
    if sys.prefix != sys.base_prefix:
        os.environ["VIRTUAL_ENV"] = sys.prefix
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(path, ["ringcorn", *arguments])


def arguments(options):
    """Keyword arguments as options of the command line: workers=4 is --workers 4. None is as if it were not there."""
    found = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            found.append(option if value else f"--no-{option[2:]}")
            continue
        if isinstance(value, (str, int, float, os.PathLike)):
            value = [value]
        elif isinstance(value, dict):
            value = value.items()
        for one in value:
            if isinstance(one, tuple):  # headers
                one = ": ".join(part.decode("latin-1") if isinstance(part, bytes) else part for part in one)
            found.append(f"{option}={os.fspath(one) if isinstance(one, os.PathLike) else one}")
    return found


# uvicorn's keyword arguments that are spelled otherwise than its options.
NAMES = {"headers": "header", "reload_dirs": "reload_dir", "reload_includes": "reload_include", "reload_excludes": "reload_exclude"}


def run(app, **options):
    if not isinstance(app, str):
        raise TypeError('the application is named, "module:attribute": its workers import it, each for itself')
    options = {NAMES.get(name, name): value for name, value in options.items()}
    # What this script can import, the workers can: uvicorn's processes inherit the path, ours are told.
    here = sys.path[0] if sys.path else ""
    if here and options.get("app_dir") is None and os.path.isdir(here):
        options["app_dir"] = here
    execute([*arguments(options), app])
