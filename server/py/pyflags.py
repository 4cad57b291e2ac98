"""What the Makefile asks a Python about itself: how to compile and link a C program that embeds it.

Prints Makefile assignments. `$(PYTHON) server/py/pyflags.py`; nothing else uses it. A Python that cannot be embedded is
reported in PY_PROBLEM, with what to do about it, so that targets which do not build anything still work.
"""

import os
import sys
import sysconfig

LEAST = (3, 11)


def assign(name, value):
    print(f"{name} := {str(value).replace('$', '$$').replace('#', chr(92) + '#')}")


def first_existing(*paths):
    return next((path for path in paths if path and os.path.exists(path)), None)


def linker_flags(version, var):
    """The linker's arguments, or (None, what is wrong)."""
    libdirs = [var("LIBDIR"), os.path.join(sys.base_prefix, "lib"), var("LIBPL")]
    multiarch = var("MULTIARCH")
    if multiarch:
        libdirs.insert(1, os.path.join(sys.base_prefix, "lib", multiarch))
    # Every symbol of libpython is exported by the program: wheels with C parts do not link libpython themselves.
    export = ["-Wl,--export-dynamic"]
    extra = (var("LIBS") or "").split() + (var("SYSLIBS") or "").split()
    shared = var("LDLIBRARY") or ""
    if var("Py_ENABLE_SHARED") and ".so" in shared:
        library = first_existing(*(os.path.join(d, shared) for d in libdirs if d))
        if library is None:
            return None, f"{shared} was not found"
        folder = os.path.dirname(library)
        flags = [f"-L{folder}", "-l" + shared[len("lib") : shared.index(".so")]]
        system = ("/usr/lib", "/lib", "/usr/lib64", "/lib64", f"/usr/lib/{multiarch}", f"/lib/{multiarch}")
        if folder not in system:
            flags.append(f"-Wl,-rpath,{folder}")
        return flags + export, None
    archive = first_existing(*(os.path.join(d, var("LIBRARY") or "") for d in libdirs if d))
    if archive is None or not archive.endswith(".a"):
        return None, f"neither a shared nor a static libpython{version} was found"
    # Whole, for the same reason: what the program does not call, a wheel may.
    return ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", *export, *extra], None


def main():
    var = sysconfig.get_config_var
    version = var("LDVERSION") or "{}.{}".format(*sys.version_info)
    assign("PY_VERSION", version)
    assign("PY_VERSION_FULL", sys.version.split()[0])
    assign("PY_EXT_SUFFIX", var("EXT_SUFFIX"))
    assign("PY_HOME", sys.base_prefix)
    assign("PY_EXECUTABLE", os.path.abspath(getattr(sys, "_base_executable", None) or sys.executable))
    if sys.version_info < LEAST:
        assign("PY_PROBLEM", f"{sys.executable} is Python {version}; Ringcorn needs 3.11 or newer: make PYTHON=python3.11")
        return
    apt = "python3-dev" if sys.base_prefix == "/usr" else None
    cure = f"apt-get install {apt}" if apt else "install a Python with headers and libpython, or name another: make PYTHON=..."
    include = first_existing(
        os.path.join(var("INCLUDEPY") or "", "Python.h"),
        os.path.join(sys.base_prefix, "include", f"python{version}", "Python.h"),
    )
    if include is None:
        assign("PY_PROBLEM", f"{sys.executable} has no Python.h ({var('INCLUDEPY')}): {cure}")
        return
    flags, problem = linker_flags(version, var)
    if problem:
        assign("PY_PROBLEM", f"{sys.executable}: {problem}: {cure}")
        return
    platinclude = sysconfig.get_path("platinclude")
    folders = [os.path.dirname(include)]
    if platinclude and platinclude not in folders and os.path.exists(platinclude):
        folders.append(platinclude)
    # -isystem: warnings inside CPython's headers are not ours to mend. But gcc follows links there, and those of Debian's debug Python
    # lead to the plain one's folder, with the plain one's pyconfig.h.
    option = "-I" if "d" in getattr(sys, "abiflags", "") else "-isystem "
    assign("PY_CFLAGS", " ".join(f"{option}{folder}" for folder in folders))
    assign("PY_LDFLAGS", " ".join(flags))


main()
