"""Files, without a thread for each call: on Ringcorn's loop they are read and written by the ring itself, or, on epoll, by a few threads in C.

    from ringcorn import aio

    async with aio.open("report.csv", encoding="utf-8") as file:
        async for line in file:
            ...
    data = await aio.read_bytes("logo.png")

The names and arguments are those of ``open()``, ``io``, ``os`` and ``pathlib``; what blocks there is awaited here, and fails with the same
exceptions. On another asyncio loop everything works too, by threads of its executor.

A call that is cancelled ends at once. What the kernel still does then loses nothing: bytes that a cancelled read has taken from a file or a pipe
are given to the next read of that file object, and what a cancelled write was given is written by the next flush() or close().
"""

from ._anyio import install_anyio, remove_anyio
from ._binary import BinaryFile
from ._open import open
from ._paths import (
    DirEntry,
    exists,
    fdatasync,
    fsync,
    isdir,
    isfile,
    islink,
    lexists,
    link,
    listdir,
    lstat,
    makedirs,
    mkdir,
    read_bytes,
    read_text,
    readlink,
    remove,
    rename,
    replace,
    rmdir,
    scandir,
    stat,
    symlink,
    truncate,
    unlink,
    write_bytes,
    write_text,
)
from ._text import TextFile

__all__ = (
    "BinaryFile",
    "DirEntry",
    "TextFile",
    "exists",
    "fdatasync",
    "fsync",
    "install_anyio",
    "isdir",
    "isfile",
    "islink",
    "lexists",
    "link",
    "listdir",
    "lstat",
    "makedirs",
    "mkdir",
    "open",
    "read_bytes",
    "read_text",
    "readlink",
    "remove",
    "remove_anyio",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "symlink",
    "truncate",
    "unlink",
    "write_bytes",
    "write_text",
)
