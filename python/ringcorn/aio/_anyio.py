"""AnyIO's files by ours: anyio.open_file() and anyio.Path, for those who ask for it.

AnyIO hands each call to a thread by to_thread.run_sync(). In its module of files that name is replaced by one that knows the calls which
ringcorn.aio has, and passes all others on; so AnyIO's classes, and what they return, stay as they are.
"""

import asyncio
import builtins
import errno
import functools
import inspect
import os
import pathlib
import stat as stat_
import sys

import _ringcorn

from . import _open, _paths
from ._binary import BinaryFile
from ._text import TextFile

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)  # of which pathlib says that there is nothing
# What loses nothing where it is cancelled, and may wait for long.
_READS = frozenset(("read", "read1", "readline", "readlines", "readinto", "readinto1", "peek"))


async def _is(path, test, follow_symlinks=True):
    try:
        return test((await _paths.stat(path, follow_symlinks=follow_symlinks)).st_mode)
    except OSError as exc:
        if exc.errno not in _GONE and sys.version_info < (3, 14):
            raise
    except ValueError:
        pass
    return False


async def _mkdir(path, mode=0o777, parents=False, exist_ok=False):
    try:
        await _paths.mkdir(path, mode)
    except FileNotFoundError:
        if not parents or path.parent == path:
            raise
        await _mkdir(path.parent, parents=True, exist_ok=True)
        await _mkdir(path, mode, exist_ok=exist_ok)
    except OSError:
        if not exist_ok or not await _paths.isdir(path):
            raise


async def _unlink(path, missing_ok=False):
    try:
        await _paths.unlink(path)
    except FileNotFoundError:
        if not missing_ok:
            raise


async def _symlink_to(path, target, target_is_directory=False):
    await _paths.symlink(target, path)


async def _opened(path, *args, **kwargs):
    return await _open.open(path, *args, **kwargs)


def _is_there(mode):
    return mode != 0


# Methods of pathlib.Path.
_METHODS = {
    "exists": lambda path, **kwargs: _is(path, _is_there, **kwargs),
    "is_dir": lambda path, **kwargs: _is(path, stat_.S_ISDIR, **kwargs),
    "is_file": lambda path, **kwargs: _is(path, stat_.S_ISREG, **kwargs),
    "is_symlink": lambda path: _is(path, stat_.S_ISLNK, False),
    "is_fifo": lambda path: _is(path, stat_.S_ISFIFO),
    "is_socket": lambda path: _is(path, stat_.S_ISSOCK),
    "is_block_device": lambda path: _is(path, stat_.S_ISBLK),
    "is_char_device": lambda path: _is(path, stat_.S_ISCHR),
    "stat": _paths.stat,
    "lstat": _paths.lstat,
    "mkdir": _mkdir,
    "unlink": _unlink,
    "rmdir": _paths.rmdir,
    "rename": _paths.rename,
    "replace": _paths.replace,
    "symlink_to": _symlink_to,
    "read_bytes": _paths.read_bytes,
    "read_text": _paths.read_text,
    "write_bytes": _paths.write_bytes,
    "write_text": _paths.write_text,
    "open": _opened,
}
_FUNCTIONS = {os.stat: _paths.stat, os.link: _paths.link, os.readlink: _paths.readlink}


def _ours(func, args, kwargs):
    """func(*args, **kwargs) as a coroutine of ours, and whether it may be cancelled; or None."""
    if isinstance(func, functools.partial):
        return _ours(func.func, func.args + args, {**func.keywords, **kwargs})
    if func is builtins.open:
        if len(args) == 8:
            *args, opener = args
            if opener is not None:
                return None
        return _opened(*args, **kwargs), False
    if func in _FUNCTIONS:
        return _FUNCTIONS[func](*args, **kwargs), False
    owner = getattr(func, "__self__", None)
    if isinstance(owner, (BinaryFile, TextFile)):
        if not inspect.iscoroutinefunction(func):
            return None
        return func(*args, **kwargs), func.__name__ in _READS
    if type(owner) is pathlib.PosixPath and func.__name__ in _METHODS:
        return _METHODS[func.__name__](owner, *args, **kwargs), False
    return None


class _ToThread:
    """What AnyIO's module of files takes for its anyio.to_thread."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    async def run_sync(self, func, *args, abandon_on_cancel=False, limiter=None, **kwargs):
        is_here = False
        if limiter is None and not kwargs:  # with a limiter, it is threads that are asked for
            try:
                is_here = isinstance(asyncio.get_running_loop(), _ringcorn.LoopCore)
            except RuntimeError:  # Trio's
                pass
        ours = _ours(func, args, {}) if is_here else None
        if ours is None:
            owner = getattr(func, "__self__", None)
            if isinstance(owner, (BinaryFile, TextFile)) and inspect.iscoroutinefunction(func):
                return await func(*args)  # opened here, and now on another loop
            return await self._real.run_sync(func, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter, **kwargs)
        import anyio.lowlevel

        call, is_cancellable = ours
        try:
            await anyio.lowlevel.checkpoint()
            # As in a thread: what was begun is done when the call ends.
            with anyio.CancelScope(shield=not (abandon_on_cancel or is_cancellable)):
                return await call
        finally:
            call.close()


def install_anyio():
    """Makes anyio.open_file(), anyio.Path and what is built on them use ringcorn.aio on Ringcorn's loop, in this process.

    What ringcorn.aio has no call for (resolve(), glob(), ...), a `limiter=`, an `opener`, and other loops go to AnyIO's threads as before. A file is an
    anyio.AsyncFile as ever; its `wrapped` is a BinaryFile or a TextFile. Reads can be cancelled in the middle; AnyIO's own cannot.
    RuntimeError where this AnyIO is not as those that this is known to work with (4.x).
    """
    from anyio._core import _fileio

    to_thread = getattr(_fileio, "to_thread", None)
    if isinstance(to_thread, _ToThread):
        return
    if not hasattr(to_thread, "run_sync") or not hasattr(_fileio, "AsyncFile"):
        raise RuntimeError("this version of AnyIO does its file I/O in another way than ringcorn.aio knows: its files stay with threads")
    _fileio.to_thread = _ToThread(to_thread)


def remove_anyio():
    """Undoes install_anyio(). Files that were opened meanwhile work on."""
    from anyio._core import _fileio

    to_thread = getattr(_fileio, "to_thread", None)
    if isinstance(to_thread, _ToThread):
        _fileio.to_thread = to_thread._real
