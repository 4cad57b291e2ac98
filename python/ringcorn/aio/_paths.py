"""What os and pathlib do with paths, awaited. A path is a str, bytes or os.PathLike; where a descriptor will do, an int."""

import contextlib
import errno
import functools
import io
import os
import stat as stat_
import sys

from . import _open
from ._binary import END_STEP, close_quietly
from ._ops import files

_HERE = -100  # AT_FDCWD
_REMOVEDIR = 0x200  # AT_REMOVEDIR
_FOLLOW = 0x400  # AT_SYMLINK_FOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC
_TYPES = {1: stat_.S_IFIFO, 2: stat_.S_IFCHR, 4: stat_.S_IFDIR, 6: stat_.S_IFBLK, 8: stat_.S_IFREG, 10: stat_.S_IFLNK, 12: stat_.S_IFSOCK}


def _dir(fd):
    return _HERE if fd is None else fd


# --- whole files


async def read_bytes(path):
    """All bytes of a file."""
    sys.audit("open", path, "rb", _READ)
    fd = await files.open(path, _READ, 0)
    op, parts = None, []
    try:
        kind, size, _ = files.known(fd)
        if stat_.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        have = 0
        while True:
            step = size + 1 - have if size > have else END_STEP
            op = files.read(fd, step)
            data = await op
            parts.append(data)
            have += len(data)
            # A short read is the end where more than the size was asked for; else there may just be no more of it in memory.
            if not data or (0 < size <= have and len(data) < step):
                break
    except BaseException:
        if op is not None and not op.done:  # cancelled, and somebody is inside it still
            op.on_done = functools.partial(close_quietly, fd)
        else:
            close_quietly(fd)
        raise
    await files.close(fd)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_text(path, encoding=None, errors=None, newline=None):
    """All text of a file."""
    encoding = io.text_encoding(encoding)
    like = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)  # complains before anything is opened
    data = await read_bytes(path)
    return io.TextIOWrapper(io.BytesIO(data), like.encoding, like.errors, newline).read()


async def write_bytes(path, data):
    """Makes the file have these bytes and no others; how many they are."""
    view = memoryview(data).cast("B")
    async with _open.open(path, "wb") as file:
        return await file.write(view)


async def write_text(path, data, encoding=None, errors=None, newline=None):
    """Makes the file have this text and no other; how many characters it is."""
    if not isinstance(data, str):
        raise TypeError(f"data must be str, not {type(data).__name__}")
    encoding = io.text_encoding(encoding)
    async with _open.open(path, "w", -1, encoding, errors, newline) as file:
        return await file.write(data)


# --- what there is to know of a path


async def stat(path, *, dir_fd=None, follow_symlinks=True):
    """os.stat(): an os.stat_result. path may be a descriptor."""
    return await files.stat(path, _dir(dir_fd), follow_symlinks)


async def lstat(path, *, dir_fd=None):
    """os.lstat()"""
    return await files.stat(path, _dir(dir_fd), False)


async def _kind(path, follow_symlinks=True):
    """The mode of a path, 0 where there is none."""
    try:
        return (await files.stat(path, _HERE, follow_symlinks)).st_mode
    except (OSError, ValueError):
        return 0


async def exists(path):
    """os.path.exists()"""
    return await _kind(path) != 0


async def lexists(path):
    """os.path.lexists()"""
    return await _kind(path, False) != 0


async def isfile(path):
    """os.path.isfile()"""
    return stat_.S_ISREG(await _kind(path))


async def isdir(path):
    """os.path.isdir()"""
    return stat_.S_ISDIR(await _kind(path))


async def islink(path):
    """os.path.islink()"""
    return stat_.S_ISLNK(await _kind(path, False))


async def readlink(path, *, dir_fd=None):
    """os.readlink()"""
    return await files.readlink(path, _dir(dir_fd))


# --- changes


async def unlink(path, *, dir_fd=None):
    """os.unlink()"""
    sys.audit("os.remove", path, -1 if dir_fd is None else dir_fd)
    await files.unlink(path, _dir(dir_fd), 0)


remove = unlink


async def rmdir(path, *, dir_fd=None):
    """os.rmdir()"""
    sys.audit("os.rmdir", path, -1 if dir_fd is None else dir_fd)
    await files.unlink(path, _dir(dir_fd), _REMOVEDIR)


async def mkdir(path, mode=0o777, *, dir_fd=None):
    """os.mkdir()"""
    sys.audit("os.mkdir", path, mode, -1 if dir_fd is None else dir_fd)
    await files.mkdir(path, mode, _dir(dir_fd))


async def makedirs(path, mode=0o777, exist_ok=False):
    """os.makedirs()"""
    path = os.fspath(path)
    head, tail = os.path.split(path)
    if not tail:
        head, tail = os.path.split(head)
    if head and tail and not await exists(head):
        with contextlib.suppress(FileExistsError):  # somebody else makes it too
            await makedirs(head, exist_ok=exist_ok)
        if tail == (os.curdir if isinstance(tail, str) else os.fsencode(os.curdir)):
            return
    try:
        await mkdir(path, mode)
    except OSError:
        if not exist_ok or not await isdir(path):
            raise


async def rename(src, dst, *, src_dir_fd=None, dst_dir_fd=None):
    """os.rename()"""
    sys.audit("os.rename", src, dst, -1 if src_dir_fd is None else src_dir_fd, -1 if dst_dir_fd is None else dst_dir_fd)
    await files.rename(src, dst, _dir(src_dir_fd), _dir(dst_dir_fd), 0)


replace = rename


async def symlink(src, dst, target_is_directory=False, *, dir_fd=None):
    """os.symlink()"""
    sys.audit("os.symlink", src, dst, -1 if dir_fd is None else dir_fd)
    await files.symlink(src, dst, _HERE, _dir(dir_fd))


async def link(src, dst, *, src_dir_fd=None, dst_dir_fd=None, follow_symlinks=False):
    """os.link(); as there on Linux, a symbolic link is not followed unless it is asked for."""
    sys.audit("os.link", src, dst, -1 if src_dir_fd is None else src_dir_fd, -1 if dst_dir_fd is None else dst_dir_fd)
    await files.link(src, dst, _dir(src_dir_fd), _dir(dst_dir_fd), _FOLLOW if follow_symlinks else 0)


async def truncate(path, length):
    """os.truncate(); path may be a descriptor."""
    sys.audit("os.truncate", path, length)
    await files.truncate(path, length)


async def fsync(fd):
    """os.fsync(): of a descriptor, or what has a fileno()."""
    await files.fsync(fd if isinstance(fd, int) else fd.fileno(), False)


async def fdatasync(fd):
    """os.fdatasync()"""
    await files.fsync(fd if isinstance(fd, int) else fd.fileno(), True)


# --- directories


async def listdir(path="."):
    """os.listdir(): the names, in no order. path may be a descriptor."""
    sys.audit("os.listdir", path)
    return [name for name, _, _ in await files.names(path)]


class DirEntry:
    """A name in a directory, as os.DirEntry. What its kind is is known already, mostly: only links have to be followed."""

    __slots__ = ("_fd", "_inode", "_lstat", "_stat", "_type", "name", "path")

    def __init__(self, folder, name, kind, inode):
        self.name = name
        self._fd = folder if isinstance(folder, int) else _HERE
        self.path = name if isinstance(folder, int) else os.path.join(folder, name)
        self._type = _TYPES.get(kind, 0)
        self._inode = inode
        self._stat = self._lstat = None

    def __repr__(self):
        return f"<DirEntry {self.name!r}>"

    def __fspath__(self):
        return self.path

    def inode(self):
        return self._inode

    async def stat(self, *, follow_symlinks=True):
        """Its os.stat_result, asked for once."""
        if not follow_symlinks or (self._type and self._type != stat_.S_IFLNK):
            if self._lstat is None:
                self._lstat = await files.stat(self.path, self._fd, False)
            return self._lstat
        if self._stat is None:
            self._stat = await files.stat(self.path, self._fd, True)
        return self._stat

    async def _is(self, kind, follow_symlinks):
        if self._type and (self._type != stat_.S_IFLNK or not follow_symlinks):
            return self._type == kind
        try:
            return stat_.S_IFMT((await self.stat(follow_symlinks=follow_symlinks)).st_mode) == kind
        except FileNotFoundError:
            return False

    async def is_dir(self, *, follow_symlinks=True):
        return await self._is(stat_.S_IFDIR, follow_symlinks)

    async def is_file(self, *, follow_symlinks=True):
        return await self._is(stat_.S_IFREG, follow_symlinks)

    async def is_symlink(self):
        return await self._is(stat_.S_IFLNK, False)


class _Scan:
    """What scandir() returns: `async for entry in ...`, or `async with` and then `async for`."""

    def __init__(self, path):
        self._path = path
        self._entries = None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc_info):
        pass

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self._entries is None:
            sys.audit("os.scandir", self._path)
            folder = self._path if isinstance(self._path, int) else os.fspath(self._path)
            names = await files.names(folder)
            self._entries = iter([DirEntry(folder, *one) for one in names])
        for entry in self._entries:
            return entry
        raise StopAsyncIteration


def scandir(path="."):
    """os.scandir(): `async for entry in aio.scandir(path)`, where each entry is a DirEntry. path may be a descriptor."""
    return _Scan(path)
