"""aio.open(): the arguments of the built-in open(), checked as it does."""

import errno
import io
import os
import stat
import sys
import warnings

from ._binary import BUFFER_SIZE, BinaryFile
from ._ops import files
from ._text import TextFile


class _Opening:
    """What aio.open() returns: `await` gives the file, `async with` closes it, too."""

    __slots__ = ("_args", "_file")

    def __init__(self, *args):
        self._args = args
        self._file = None

    def __await__(self):
        return _open(*self._args).__await__()

    async def __aenter__(self):
        self._file = await self
        return self._file

    async def __aexit__(self, *exc_info):
        await self._file.close()


def open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    """Opens a file as the built-in open() does: `file = await aio.open(...)`, or `async with aio.open(...) as file:`.

    What has been opened is a TextFile or a BinaryFile. `opener` is not supported: it would have to block.
    """
    if not isinstance(file, int):
        file = os.fspath(file)
    if opener is not None:
        raise ValueError("aio.open() takes no opener: it would block the loop; give the descriptor that it makes instead of the path")
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    if not isinstance(buffering, int):
        raise TypeError(f"{type(buffering).__name__!r} object cannot be interpreted as an integer")
    kinds = set(mode)
    if kinds - set("axrwb+t") or len(mode) > len(kinds):
        raise ValueError(f"invalid mode: {mode!r}")
    is_binary = "b" in kinds
    if is_binary and "t" in kinds:
        raise ValueError("can't have text and binary mode at once")
    if len(kinds & set("axrw")) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    if is_binary:
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {'a' if name == 'newline' else 'an'} {name} argument")
        if buffering == 1:
            warnings.warn(
                "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
                RuntimeWarning,
                stacklevel=2,
            )
            buffering = -1
    else:
        if buffering == 0:
            raise ValueError("can't have unbuffered text I/O")
        if newline not in (None, "", "\n", "\r", "\r\n"):
            if not isinstance(newline, str):
                raise TypeError(f"open() argument 'newline' must be str or None, not {type(newline).__name__}")
            raise ValueError(f"illegal newline value: {newline!r}")
        encoding = io.text_encoding(encoding, 2)
    if not isinstance(file, int):
        if not closefd:
            raise ValueError("Cannot use closefd=False with file name")
    elif isinstance(file, bool):
        warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=2)
    if isinstance(file, int) and file < 0:
        raise ValueError("negative file descriptor")
    return _Opening(file, mode, kinds, buffering, encoding, errors, newline, closefd)


def _flags(kinds):
    flags = os.O_CLOEXEC
    if "+" in kinds:
        flags |= os.O_RDWR
    elif "r" in kinds:
        flags |= os.O_RDONLY
    else:
        flags |= os.O_WRONLY
    if "w" in kinds:
        flags |= os.O_CREAT | os.O_TRUNC
    elif "a" in kinds:
        flags |= os.O_CREAT | os.O_APPEND
    elif "x" in kinds:
        flags |= os.O_CREAT | os.O_EXCL
    return flags


async def _open(file, mode, kinds, buffering, encoding, errors, newline, closefd):
    flags = _flags(kinds)
    sys.audit("open", file, mode, flags)
    fd = file if isinstance(file, int) else await files.open(file, flags, 0o666)
    try:
        kind, size, _ = files.known(fd)
        if stat.S_ISDIR(kind):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        try:
            # The end of a file that was just opened is known; it is where an append goes anyway.
            os.lseek(fd, size if "a" in kinds and size >= 0 else 0, os.SEEK_SET if "a" in kinds else os.SEEK_CUR)
            is_seekable = True
        except OSError:
            is_seekable = False
        is_readable, is_writable = "r" in kinds or "+" in kinds, "r" not in kinds or "+" in kinds
        if "+" in kinds and not is_seekable and buffering != 0:
            raise io.UnsupportedOperation("File or stream is not seekable.")
        is_line_buffering = buffering == 1 or (buffering < 0 and "b" not in kinds and os.isatty(fd))
        binary = BinaryFile(
            fd,
            file,
            _binary_mode(kinds),
            BUFFER_SIZE if buffering < 0 or buffering == 1 else buffering,
            readable=is_readable,
            writable=is_writable,
            seekable=is_seekable,
            closefd=closefd,
        )
    except BaseException:
        if not isinstance(file, int):
            os.close(fd)
        raise
    if "b" in kinds:
        return binary
    try:
        return TextFile(binary, mode, encoding, errors, newline, is_line_buffering)
    except BaseException:
        if closefd:
            await binary.close()
        else:
            binary._fd = -1
        raise


def _binary_mode(kinds):
    """As FileIO tells its mode."""
    if "x" in kinds:
        return "xb+" if "+" in kinds else "xb"
    if "a" in kinds:
        return "ab+" if "+" in kinds else "ab"
    if "+" in kinds:
        return "rb+"
    return "rb" if "r" in kinds else "wb"
