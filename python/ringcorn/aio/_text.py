"""Text files: str from and to a BinaryFile, by the same decoders that io.TextIOWrapper uses.

Decoded text that has not been given out lies in _text from _used on. _chunk says which bytes it came from: (flags, waiting, data), where flags and
waiting are the decoder's state before data was decoded. From these tell() finds the byte, and the decoder's state, at which the text given out
ends, and packs them into a number that seek() understands: (byte, flags, bytes to decode from there, characters of these to skip), as in a file of
open().
"""

import codecs
import io

from ._binary import BUFFER_SIZE, Lines, _limit

# Bits of the number of tell(), as in a file of open(): place, flags, bytes to decode, characters to skip, whether at the end; and above, what is more
# of the flags (of encodings with much state, where open()'s has no number).
_PLACE, _FLAGS, _FEED, _SKIP, _END = 64, 32, 32, 32, 8


class TextFile(Lines):
    """A text file. Made by aio.open(); what blocks in a file of open() is a coroutine here, the rest is the same."""

    __slots__ = (
        "_chunk",
        "_decoder",
        "_encoder",
        "_newline",
        "_text",
        "_used",
        "buffer",
        "encoding",
        "errors",
        "line_buffering",
        "mode",
    )

    def __init__(self, buffer, mode, encoding, errors, newline, line_buffering):
        super().__init__()
        # Whatever there is to say against the arguments, it says.
        like = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
        self.buffer = buffer
        self.mode = mode
        self.encoding, self.errors = like.encoding, like.errors
        self.line_buffering = line_buffering
        self._newline = newline
        self._text, self._used = "", 0
        self._chunk = None
        self._decoder = self._encoder = None
        if buffer.readable():
            self._decoder = codecs.getincrementaldecoder(self.encoding)(self.errors)
            if not newline:
                self._decoder = io.IncrementalNewlineDecoder(self._decoder, translate=newline is None)
        if buffer.writable():
            self._encoder = codecs.getincrementalencoder(self.encoding)(self.errors)
            if buffer.seekable() and buffer._place() != 0:
                self._encoder.setstate(0)  # no byte order mark in the middle

    def __repr__(self):
        return f"<ringcorn.aio.TextFile name={self.name!r} mode={self.mode!r} encoding={self.encoding!r}{' closed' if self.closed else ''}>"

    # --- what needs no disk

    @property
    def name(self):
        return self.buffer.name

    @property
    def closed(self):
        return self.buffer.closed

    @property
    def newlines(self):
        """The kinds of line ends seen so far, where they are translated or told."""
        return getattr(self._decoder, "newlines", None)

    def fileno(self):
        return self.buffer.fileno()

    def isatty(self):
        return self.buffer.isatty()

    def readable(self):
        return self.buffer.readable()

    def writable(self):
        return self.buffer.writable()

    def seekable(self):
        return self.buffer.seekable()

    def _check_readable(self):
        self.buffer._check_open()
        if self._decoder is None:
            raise io.UnsupportedOperation("not readable")

    # --- reading; all in one's turn

    def _forget(self):
        """What was read ahead."""
        self._text, self._used, self._chunk = "", 0, None

    async def _more(self):
        """Decodes the next piece. False at the end of the file. Nothing is changed before it is there."""
        data = await self.buffer.read1(BUFFER_SIZE)
        waiting, flags = self._decoder.getstate()
        self._text = self._decoder.decode(data, not data)
        self._used = 0
        self._chunk = (flags, waiting, data) if data or self._text else None
        return bool(data)

    def _taken(self, n=None):
        """The next n characters of those that are decoded; None: all of them."""
        text, used = self._text, self._used
        if n is None:
            self._used = len(text)
            return text[used:] if used else text
        self._used = min(used + n, len(text))
        return text[used : used + n]

    def _put_back(self, saved):
        """What several pieces held, as one: the call that wanted it was cancelled, or failed."""
        saved.append((self._text, self._used, self._chunk))
        chunks = [chunk for _, _, chunk in saved if chunk is not None]
        self._text, self._used = "".join(text for text, _, _ in saved), saved[0][1]
        if chunks:
            flags, waiting, _ = chunks[0]
            self._chunk = (flags, waiting, b"".join(data for _, _, data in chunks))

    async def _begin_read(self):
        await self._take_turn()
        try:
            self._check_readable()
        except BaseException:
            self._end_turn()
            raise

    async def read(self, size=-1, /):
        """size characters, or fewer at the end of the file; all that is left for -1."""
        n = _limit(size)
        self._check_readable()
        if not self._is_busy and 0 <= n <= len(self._text) - self._used:
            return self._taken(n)
        await self._begin_read()
        try:
            if n < 0:
                data = await self.buffer.read()
                text = self._taken() + self._decoder.decode(data, True)
                self._forget()
                return text
            return await self._gather(n)
        finally:
            self._end_turn()

    async def _gather(self, n):
        saved = [(self._text, self._used, self._chunk)]
        parts = [self._taken(n)]
        have = len(parts[0])
        try:
            while have < n:
                is_more = await self._more()
                used = self._used
                parts.append(self._taken(n - have))
                have += len(parts[-1])
                if not is_more:
                    break
                saved.append((self._text, used, self._chunk))
        except BaseException:
            self._text, self._used, self._chunk = saved.pop()
            self._put_back(saved)
            raise
        return "".join(parts)

    def _line_end(self, text, at):
        """Where the first line of text ends, looking from at on; 0: it does not."""
        if self._newline:
            end = text.find(self._newline, at)
            return end + len(self._newline) if end >= 0 else 0
        end = text.find("\n", at)
        if self._newline is None:
            return end + 1
        other = text.find("\r", at, end if end >= 0 else len(text))
        if other < 0:
            return end + 1
        return other + (2 if text.startswith("\n", other + 1) else 1)

    async def readline(self, size=-1, /):
        """A line with its end, at most size characters of it; "" at the end of the file."""
        limit = _limit(size)
        self._check_readable()
        if not self._is_busy and limit < 0:
            end = self._line_end(self._text, self._used)
            if end:
                line = self._text[self._used : end]
                self._used = end
                return line
        await self._begin_read()
        try:
            return await self._line(limit)
        finally:
            self._end_turn()

    async def _line(self, limit):
        saved = [(self._text, self._used, self._chunk)]
        parts, have = [], 0
        try:
            while True:
                text, used = self._text, self._used
                # An end of two characters may lie in two pieces.
                is_split = self._newline == "\r\n" and parts and parts[-1].endswith("\r") and text.startswith("\n")
                end = 1 if is_split else self._line_end(text, used)
                n = (end or len(text)) - used
                is_over = end > 0
                if 0 <= limit <= have + n:
                    n, is_over = limit - have, True
                if n:  # a piece may be part of a character only
                    parts.append(self._taken(n))
                have += n
                if is_over:
                    break
                if not await self._more():
                    parts.append(self._taken())
                    break
                saved.append((self._text, self._used, self._chunk))
        except BaseException:
            self._text, self._used, self._chunk = saved.pop()
            self._put_back(saved)
            raise
        return "".join(parts)

    def __aiter__(self):
        self.buffer._check_open()
        return self

    # --- writing

    async def write(self, text, /):
        """Takes all of text; see BinaryFile.write()."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.buffer._check_open()
        if self._encoder is None:
            raise io.UnsupportedOperation("not writable")
        await self._take_turn()
        try:
            self.buffer._check_open()
            n = len(text)
            is_line = self.line_buffering and ("\n" in text or "\r" in text)
            if self._newline in ("\r", "\r\n"):
                text = text.replace("\n", self._newline)
            data = self._encoder.encode(text)
            if self._chunk is not None or self._text:
                self._forget()
                self._decoder.reset()
            await self.buffer.write(data)
            if is_line:
                await self.buffer.flush()
            return n
        finally:
            self._end_turn()

    async def writelines(self, lines, /):
        """Writes each of an iterable."""
        for line in lines:
            await self.write(line)

    async def flush(self):
        """Hands to the kernel what is to be written."""
        await self.buffer.flush()

    async def fsync(self):
        """flush(), and waits until it is on the disk."""
        await self.buffer.fsync()

    async def fdatasync(self):
        """As fsync(), without what is not needed to read it again."""
        await self.buffer.fdatasync()

    # --- places

    async def tell(self):
        """A number for seek(): where the next character is read or written."""
        self._check_seekable()
        await self._take_turn()
        try:
            self._check_seekable()
            return await self._tell()
        finally:
            self._end_turn()

    def _check_seekable(self):
        self.buffer._check_open()
        if not self.buffer.seekable():
            raise io.UnsupportedOperation("underlying stream is not seekable")

    async def _tell(self):
        if self.buffer._out:
            await self.buffer.flush()  # where an append goes is known then
        place = await self.buffer.tell()
        if self._chunk is None:
            return place
        flags, waiting, data = self._chunk
        source = waiting + data
        begin = place - len(source)
        if self._used == 0:
            return _pack(begin, flags)
        state = self._decoder.getstate()
        try:
            return self._find(begin, flags, source, self._used)
        finally:
            self._decoder.setstate(state)

    def _find(self, begin, flags, source, used):
        """The number of the place behind the first `used` characters that source, which lies at begin, gives from flags on."""

        def decoded(n, is_end=False):
            self._decoder.setstate((b"", flags))
            return len(self._decoder.decode(source[:n], is_end))

        low, high = 0, len(source)  # the shortest beginning of source that gives so many
        while low < high:
            middle = (low + high) // 2
            if decoded(middle) < used:
                low = middle + 1
            else:
                high = middle
        have = decoded(low)
        waiting, after = self._decoder.getstate()
        if have == used and not waiting:
            return _pack(begin + low, after)
        # Not a byte of its own: from the last one before it where nothing waits.
        start = low
        while start > 0:
            start -= 1
            have = decoded(start)
            waiting, after = self._decoder.getstate()
            if not waiting and have <= used:
                break
        else:
            have, after = 0, flags
        need_end = decoded(len(source)) < used
        if need_end and decoded(len(source), True) < used:
            raise OSError("can't reconstruct logical file position")
        return _pack(begin + start, after, low - start, need_end, used - have)

    async def seek(self, cookie, whence=0, /):
        """Goes to what tell() gave, to the beginning (0), or to the end (0, 2)."""
        self._check_seekable()
        await self._take_turn()
        try:
            self._check_seekable()
            return await self._go(cookie, whence)
        finally:
            self._end_turn()

    async def _go(self, cookie, whence):
        if whence not in (0, 1, 2):
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if whence and cookie != 0:
            raise io.UnsupportedOperation(f"can't do nonzero {'cur' if whence == 1 else 'end'}-relative seeks")
        if whence == 2:
            place = await self.buffer.seek(0, 2)
            self._forget()
            if self._decoder is not None:
                self._decoder.reset()
            self._encode_from(place)
            return place
        if whence == 1:
            cookie = await self._tell()
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie!r}")
        place, flags, feed, need_end, skip = _unpack(cookie)
        await self.buffer.seek(place)
        self._forget()
        if self._decoder is not None:
            if cookie == 0:
                self._decoder.reset()
            elif flags or skip or place:
                self._decoder.setstate((b"", flags))
        if skip:
            data = await self.buffer.read(feed)
            self._text = self._decoder.decode(data, need_end)
            self._chunk = (flags, b"", data)
            if len(self._text) < skip:
                raise OSError("can't restore logical file position")
            self._used = skip
        self._encode_from(cookie)
        return cookie

    def _encode_from(self, place):
        if self._encoder is not None:
            if place == 0:
                self._encoder.reset()
            else:
                self._encoder.setstate(0)

    async def truncate(self, size=None, /):
        """Makes the file so long, or end here; the place stays. The new length, in bytes."""
        await self._take_turn()
        try:
            self.buffer._check_writable()
            await self.buffer.flush()
            if size is None:
                place, _, feed, _, _ = _unpack(await self._tell())
                size = place + feed
            return await self.buffer.truncate(size)
        finally:
            self._end_turn()

    # --- the end

    async def close(self):
        """Writes what is to be written, and closes it, whether or not that failed."""
        await self.buffer.close()

    aclose = close

    async def __aenter__(self):
        self.buffer._check_open()
        return self

    async def __aexit__(self, *exc_info):
        await self.close()


def _pack(place, flags=0, feed=0, need_end=False, skip=0):
    number = flags >> _FLAGS
    for bits, field in ((_END, need_end), (_SKIP, skip), (_FEED, feed), (_FLAGS, flags & (1 << _FLAGS) - 1), (_PLACE, place)):
        number = number << bits | field
    return number


def _unpack(number):
    fields = []
    for bits in (_PLACE, _FLAGS, _FEED, _SKIP, _END):
        fields.append(number & (1 << bits) - 1)
        number >>= bits
    place, flags, feed, skip, need_end = fields
    return place, flags | number << _FLAGS, feed, bool(need_end), skip
