"""Binary files: a buffer each way, as io.BufferedReader, BufferedWriter and BufferedRandom have it, around one descriptor.

At most one operation of a file object is in flight, and it belongs to the file object, not to the call that began it: where that call is cancelled, the
next one first hears what the operation came to (_settle()). That is how no byte is lost.
"""

import asyncio
import contextlib
import errno
import functools
import io
import os
import warnings

from ._ops import Turns, files

BUFFER_SIZE = 64 * 1024
# What a read to the end asks for at once where the size of the file is not known.
END_STEP = 256 * 1024
_WHENCES = (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE)


def _as_bytes(data):
    """What can be kept: a bytes-like object that may change is copied."""
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    with memoryview(data) as view:
        return bytes(view)


def _limit(size):
    """A size argument, None as -1."""
    if size is None:
        return -1
    if not hasattr(size, "__index__"):
        raise TypeError(f"argument should be integer or None, not {type(size).__name__!r}")
    return size.__index__()


class Lines(Turns):
    """What files of both kinds make of their readline()."""

    __slots__ = ()

    async def readlines(self, hint=-1, /):
        """The lines that are left, or so many that they have hint bytes or characters together."""
        hint, lines, n = _limit(hint), [], 0
        while line := await self.readline():
            lines.append(line)
            n += len(line)
            if 0 < hint <= n:
                break
        return lines

    async def __anext__(self):
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


class BinaryFile(Lines):
    """A binary file. Made by aio.open(); what blocks in a file of open() is a coroutine here, the rest is the same."""

    __slots__ = (
        "__weakref__",
        "_at",
        "_buffer",
        "_buffer_size",
        "_fd",
        "_flying",
        "_is_closefd",
        "_is_raw",
        "_is_readable",
        "_is_seekable",
        "_is_writable",
        "_landing",
        "_op",
        "_op_is_write",
        "_out",
        "_out_n",
        "mode",
        "name",
    )

    def __init__(self, fd, name, mode, buffer_size, *, readable, writable, seekable, closefd=True):
        super().__init__()
        self._fd = fd
        self.name = name
        self.mode = mode
        self._is_raw = buffer_size == 0
        self._buffer_size = buffer_size or BUFFER_SIZE
        self._is_readable, self._is_writable, self._is_seekable = readable, writable, seekable
        self._is_closefd = closefd
        self._buffer, self._at = b"", 0  # read ahead; of it, given out
        self._out, self._out_n = [], 0  # to be written
        self._op, self._op_is_write = None, False  # begun, and its end not yet seen; None: of an unbuffered write
        self._flying, self._landing = 0, None  # other operations, and who waits until there is none

    def __repr__(self):
        return f"<ringcorn.aio.{type(self).__name__} name={self.name!r} mode={self.mode!r}{' closed' if self.closed else ''}>"

    # --- what needs no disk

    @property
    def closed(self):
        return self._fd < 0

    def fileno(self):
        self._check_open()
        return self._fd

    def isatty(self):
        self._check_open()
        return os.isatty(self._fd)

    def readable(self):
        self._check_open()
        return self._is_readable

    def writable(self):
        self._check_open()
        return self._is_writable

    def seekable(self):
        self._check_open()
        return self._is_seekable

    def _check_open(self):
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")

    def _check_readable(self):
        if self._fd < 0 or not self._is_readable:
            self._check_open()
            raise io.UnsupportedOperation("not readable" if not self._is_raw else "File not open for reading")

    def _check_writable(self):
        if self._fd < 0 or not self._is_writable:
            self._check_open()
            raise io.UnsupportedOperation("not writable" if not self._is_raw else "File not open for writing")

    def _check_seekable(self):
        self._check_open()
        if not self._is_seekable:
            raise io.UnsupportedOperation("File or stream is not seekable.")

    # --- operations; all in one's turn

    async def _settle(self):
        """An earlier call was cancelled in the middle of an operation: what has become of it."""
        op, is_write = self._op, self._op_is_write
        if op is None:
            return
        try:
            done = await op
        except OSError as exc:
            self._op = None
            if exc.errno != errno.ECANCELED and is_write is False:
                raise  # as it would have been raised there; a write is made again
        else:
            self._op = None
            if is_write:
                self._take_out(done)
            elif is_write is False:
                self._buffer, self._at = self._buffer[self._at :] + done, 0

    async def _fetch(self, n):
        """At most n bytes, from where the descriptor stands. Whoever calls it has given the buffer out."""
        op = self._op = files.read(self._fd, n)
        self._op_is_write = False
        try:
            data = await op
        except OSError:
            self._op = None
            raise
        self._op = None
        return data

    async def _do(self, op):
        """An operation that knows its place by itself. close() waits for it: a thread that is inside it must not find another file there."""
        self._flying += 1
        try:
            return await op
        finally:
            if op.done:
                self._landed()
            else:
                op.on_done = self._landed

    def _landed(self):
        self._flying -= 1
        if self._landing is not None and not self._flying and not self._landing.done():
            self._landing.set_result(None)

    def _take_out(self, n):
        """The first n bytes to be written are."""
        rest = memoryview(self._out[0])[n:]
        self._out_n -= n
        if rest:
            self._out[0] = rest
        else:
            del self._out[0]

    async def _push(self):
        """Writes what is to be written."""
        await self._settle()
        while self._out:
            if len(self._out) > 1:
                self._out = [b"".join(self._out)]
            op = self._op = files.write(self._fd, self._out[0])
            self._op_is_write = True
            try:
                n = await op
            except OSError:
                self._op = None
                raise
            self._op = None
            self._take_out(n)

    def _unread(self):
        """The descriptor back to where the caller is, where more was read than was given out."""
        ahead = len(self._buffer) - self._at
        if ahead and self._is_seekable:
            os.lseek(self._fd, -ahead, os.SEEK_CUR)
        if self._is_seekable:
            self._buffer, self._at = b"", 0

    def _given(self, n):
        """The next n bytes of the buffer, or what there is."""
        at, buffer = self._at, self._buffer
        if at == 0 and n >= len(buffer):
            self._buffer = b""
            return buffer
        self._at = end = min(at + n, len(buffer))
        data = buffer[at:end]
        if end == len(buffer):
            self._buffer, self._at = b"", 0
        return data

    async def _begin_read(self):
        await self._take_turn()
        try:
            self._check_readable()
            if self._out:
                await self._push()
            elif self._op is not None:
                await self._settle()
        except BaseException:
            self._end_turn()
            raise

    async def _gather(self, n):
        """n bytes, fewer at the end of the file only; -1: all of it."""
        parts, have = [], 0
        try:
            if self._at < len(self._buffer):
                parts.append(self._given(len(self._buffer) if n < 0 else n))
                have = len(parts[0])
            step = 0
            while n < 0 or have < n:
                if n >= 0:
                    step = max(n - have, self._buffer_size)
                elif step == 0:
                    step = self._left() + 1 or END_STEP
                else:
                    step = max(END_STEP, min(have, 2**30))
                data = await self._fetch(step)
                if not data:
                    break
                parts.append(data)
                have += len(data)
        except BaseException:
            self._buffer, self._at = b"".join(parts) + self._buffer[self._at :], 0
            raise
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if 0 <= n < have:
            self._buffer, self._at = data, n
            return data[:n]
        return data

    def _left(self):
        """Bytes from where the descriptor stands to the end of a regular file, as far as is known without asking a disk; else -1."""
        if not self._is_seekable:
            return -1
        size = files.known(self._fd)[1]
        return max(size - os.lseek(self._fd, 0, os.SEEK_CUR), 0) if size >= 0 else -1

    # --- reading

    async def read(self, size=-1, /):
        """size bytes, or fewer at the end of the file; all that is left for -1. Unbuffered: what one read gives."""
        n = _limit(size)
        self._check_readable()
        if not self._is_busy and 0 <= n <= len(self._buffer) - self._at and not self._out and self._op is None:
            return self._given(n) if n else b""
        if n < -1:
            raise ValueError("read length must be non-negative or -1")
        await self._begin_read()
        try:
            if self._is_raw and n >= 0:
                return self._given(n) if self._at < len(self._buffer) else await self._fetch(n)
            return await self._gather(n)
        finally:
            self._end_turn()

    async def read1(self, size=-1, /):
        """At most size bytes, of the buffer or by one read."""
        n = _limit(size)
        n = self._buffer_size if n < 0 else n
        await self._begin_read()
        try:
            if n == 0 or self._at < len(self._buffer):
                return self._given(n) if n else b""
            data = await self._fetch(max(n, self._buffer_size) if not self._is_raw else n)
            if len(data) <= n:
                return data
            self._buffer, self._at = data, n
            return data[:n]
        finally:
            self._end_turn()

    async def peek(self, size=0, /):
        """Bytes of the buffer, which are not taken from it; where it is empty, by one read."""
        await self._begin_read()
        try:
            if self._at >= len(self._buffer):
                self._buffer, self._at = await self._fetch(self._buffer_size), 0
            return self._buffer[self._at :]
        finally:
            self._end_turn()

    async def readall(self):
        """All that is left."""
        return await self.read(-1)

    async def readinto(self, buffer, /):
        """Fills a writable buffer as far as the file has bytes; how many they are."""
        return await self._read_into(buffer, self.read)

    async def readinto1(self, buffer, /):
        """As readinto(), with one read at most."""
        return await self._read_into(buffer, self.read1)

    async def _read_into(self, buffer, read):
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if view.readonly:
                raise TypeError("readinto() argument must be read-write bytes-like object, not bytes")
            data = await read(len(view))
            view[: len(data)] = data
            return len(data)

    async def readline(self, size=-1, /):
        """A line with its newline, at most size bytes of it; b"" at the end of the file."""
        limit = _limit(size)
        self._check_readable()
        if not self._is_busy and self._op is None:
            line = self._line(limit) if not self._out else None
            if line is not None:
                return line
        await self._begin_read()
        try:
            line = self._line(limit)
            return line if line is not None else await self._long_line(limit)
        finally:
            self._end_turn()

    def _line(self, limit):
        """The next line, where the buffer has all of it; else None."""
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\n", at, at + limit if limit >= 0 else len(buffer)) + 1
        if end == 0:
            if limit < 0 or limit > len(buffer) - at:
                return None
            end = at + limit
        self._at = end
        return buffer[at:end]

    async def _long_line(self, limit):
        parts, have = [], 0
        try:
            if self._at < len(self._buffer):
                parts.append(self._given(len(self._buffer)))
                have = len(parts[0])
            while limit < 0 or have < limit:
                data = await self._fetch(self._buffer_size)
                if not data:
                    break
                self._buffer, self._at = data, 0
                line = self._line(limit - have if limit >= 0 else -1)
                parts.append(line if line is not None else self._given(len(data)))
                have += len(parts[-1])
                if line is not None:
                    break
        except BaseException:
            self._buffer, self._at = b"".join(parts) + self._buffer[self._at :], 0
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __aiter__(self):
        self._check_open()
        return self

    # --- writing

    async def write(self, data, /):
        """Takes all of data, and writes it when the buffer is full, by flush() or by close(). Unbuffered: what one write takes."""
        self._check_writable()
        data = _as_bytes(data)
        await self._take_turn()
        try:
            self._check_writable()
            if self._is_raw:
                return await self._write_raw(data)
            if self._op is not None:
                await self._settle()
            if self._buffer:
                self._unread()
            if data:
                self._out.append(data)
                self._out_n += len(data)
            if self._out_n > self._buffer_size:
                await self._push()
            return len(data)
        finally:
            self._end_turn()

    async def _write_raw(self, data):
        await self._settle()
        self._unread()
        if not data:
            return 0
        op = self._op = files.write(self._fd, data)
        self._op_is_write = None
        try:
            n = await op
        except OSError:
            self._op = None
            raise
        self._op = None
        return n

    async def writelines(self, lines, /):
        """Writes each of an iterable."""
        self._check_writable()
        if isinstance(lines, (bytes, bytearray, memoryview, str)) and not lines:
            return
        for line in lines:
            await self.write(line)

    async def flush(self):
        """Hands to the kernel what is to be written."""
        self._check_open()
        await self._take_turn()
        try:
            self._check_open()
            await self._push()
        finally:
            self._end_turn()

    async def fsync(self):
        """flush(), and waits until it is on the disk."""
        await self._sync(False)

    async def fdatasync(self):
        """As fsync(), without what is not needed to read it again."""
        await self._sync(True)

    async def _sync(self, is_data_only):
        self._check_open()
        await self._take_turn()
        try:
            self._check_open()
            await self._push()
            await self._do(files.fsync(self._fd, is_data_only))
        finally:
            self._end_turn()

    # --- places

    async def tell(self):
        """Where the next byte is read or written."""
        self._check_seekable()
        await self._take_turn()
        try:
            self._check_seekable()
            await self._settle()
            return self._place()
        finally:
            self._end_turn()

    def _place(self):
        return os.lseek(self._fd, 0, os.SEEK_CUR) - (len(self._buffer) - self._at) + self._out_n

    async def seek(self, offset, whence=os.SEEK_SET, /):
        """Goes to offset, from the beginning, from here (1) or from the end (2); the new place from the beginning."""
        self._check_seekable()
        await self._take_turn()
        try:
            self._check_seekable()
            return await self._go(offset, whence)
        finally:
            self._end_turn()

    async def _go(self, offset, whence):
        offset = offset.__index__()
        if whence not in _WHENCES:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        await self._push()
        if whence == os.SEEK_SET or whence == os.SEEK_CUR:
            place = self._place()
            to = offset + (place if whence == os.SEEK_CUR else 0)
            if place - self._at <= to <= place - self._at + len(self._buffer) and self._buffer:
                self._at += to - place
                return to
            to = os.lseek(self._fd, to, os.SEEK_SET)
        else:
            self._unread()
            to = await self._do(files.seek(self._fd, offset, whence))
        self._buffer, self._at = b"", 0
        return to

    async def truncate(self, size=None, /):
        """Makes the file so long, or end here; the place stays. The new length."""
        self._check_open()
        await self._take_turn()
        try:
            self._check_writable()
            await self._push()
            self._unread()
            if size is None:
                size = self._place()
            await self._do(files.truncate(self._fd, size))
            return size
        finally:
            self._end_turn()

    async def pread(self, n, offset, /):
        """At most n bytes from offset on, by one read; the place stays. Calls may run side by side."""
        self._check_readable()
        if self._out:
            await self.flush()
        return await self._do(files.read(self._fd, n, _offset(offset)))

    async def pwrite(self, data, offset, /):
        """Writes data at offset, by one write; how many bytes it took. The place stays. Calls may run side by side."""
        self._check_writable()
        if self._out or self._buffer:
            await self._take_turn()
            try:
                self._check_writable()
                await self._push()
                self._unread()
            finally:
                self._end_turn()
        return await self._do(files.write(self._fd, data, _offset(offset)))

    async def allocate(self, offset, size, /):
        """Room on the disk for size bytes from offset on: posix_fallocate()."""
        self._check_writable()
        await self._do(files.allocate(self._fd, 0, offset, size))

    # --- the end

    async def close(self):
        """Writes what is to be written, and closes it, whether or not that failed."""
        if self._fd < 0:
            return
        await self._take_turn()
        try:
            if self._fd < 0:
                return
            try:
                await self._push()
            except BaseException as exc:
                if self._out and not isinstance(exc, Exception):
                    raise  # cancelled: it stays open for the next close(), or for __del__(), and nothing is lost
                await self._shut()
                raise
            await self._shut()
        finally:
            self._end_turn()

    async def _shut(self):
        while self._flying:
            self._landing = asyncio.get_running_loop().create_future()
            await self._landing
        if self._op is None or self._op.done:
            fd, self._fd, self._op = self._fd, -1, None
            self._buffer, self._at, self._out, self._out_n = b"", 0, [], 0
            if self._is_closefd:
                await files.close(fd)

    aclose = close

    async def __aenter__(self):
        self._check_open()
        return self

    async def __aexit__(self, *exc_info):
        await self.close()

    def __del__(self):
        if getattr(self, "_fd", -1) < 0:
            return
        try:
            if self._is_closefd:
                warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            self._close_at_last()

    def _close_at_last(self):
        fd, self._fd = self._fd, -1
        op, out = self._op, self._out
        end = functools.partial(_end, fd, op if self._op_is_write else None, out, self._is_closefd)
        if op is None or op.done:
            end()
        elif self._is_seekable:
            op.on_done = end  # somebody is inside it still
        else:  # the loop would wait for the other side of a pipe as long as it takes
            op.on_done = functools.partial(close_quietly, fd) if self._is_closefd else None


def _end(fd, op, out, is_closefd):
    """As a file of open(): what was written is not lost, and here is nobody who could await it. op: a write that has ended, of which nobody has heard."""
    with contextlib.suppress(OSError, RuntimeError):
        n = _taken_by(op) if op is not None else 0
        for data in out:
            data = memoryview(data)[n:]
            n = 0
            while data:
                data = data[os.write(fd, data) :]
    if is_closefd:
        close_quietly(fd)


def _taken_by(op):
    """How many bytes a write that has ended has written; one that failed is made again."""
    try:
        op.send(None)
    except StopIteration as end:
        return end.value
    except OSError:
        pass
    return 0


def close_quietly(fd):
    """For what was only read, by those who cannot await."""
    with contextlib.suppress(OSError):
        os.close(fd)


def _offset(offset):
    offset = offset.__index__()
    if offset < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return offset
