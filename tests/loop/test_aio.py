"""ringcorn.aio: files on the loop. What can be compared is compared with open(), io and os."""

import asyncio
import contextlib
import ctypes
import errno
import gc
import io
import os
import pathlib
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
import time
import warnings

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import _ringcorn
import harness
from ringcorn import aio

TEXT = "first\nsecönd\r\nthird\rlast: 漢字 🐍\n\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


async def outcome(call):
    """What a call of either kind comes to, so that two can be compared."""
    try:
        result = call()
        if hasattr(result, "__await__"):
            result = await result
    except (OSError, ValueError, TypeError, LookupError) as exc:
        errno_ = getattr(exc, "errno", None)
        return type(exc), errno_, getattr(exc, "filename", None) if errno_ else None
    return result


# --- open()


@pytest.mark.parametrize("mode", ["r", "rb", "r+", "r+b", "w", "wb", "w+", "x", "xb", "a", "ab", "a+b", "x+"])
@pytest.mark.parametrize("is_there", [True, False])
def test_modes(run, path, mode, is_there):
    """A file is made, emptied or refused as by open(), and can do the same."""
    other = path.with_name("other")
    if is_there:
        path.write_bytes(b"old\nlines\n")
        other.write_bytes(b"old\nlines\n")

    async def main():
        theirs = await outcome(lambda: open(other, mode))
        ours = await outcome(lambda: aio.open(path, mode))
        if isinstance(theirs, tuple):
            assert ours[:2] == theirs[:2] and ours[2] == str(path)
            return
        async with ours:
            assert (ours.readable(), ours.writable(), ours.seekable()) == (
                theirs.readable(),
                theirs.writable(),
                theirs.seekable(),
            )
            assert await ours.tell() == theirs.tell()
            for file in (ours, theirs):
                new = b"new" if "b" in mode else "new"
                for call in (lambda file=file: file.write(new), lambda file=file: file.seek(0), lambda file=file: file.read()):
                    with contextlib.suppress(io.UnsupportedOperation):
                        result = call()
                        if hasattr(result, "__await__"):
                            await result
            if "b" in mode:
                assert (ours.mode, ours.name) == (theirs.mode, str(path))
            else:
                assert (ours.mode, ours.encoding, ours.errors) == (theirs.mode, theirs.encoding, theirs.errors)
            assert not os.get_inheritable(ours.fileno())
        theirs.close()
        assert ours.closed
        assert path.read_bytes() == other.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)

    run(main)


@pytest.mark.parametrize(
    "args",
    [
        {"mode": "q"},
        {"mode": "rw"},
        {"mode": "rr"},
        {"mode": "rbt"},
        {"mode": "b"},
        {"mode": ""},
        {"mode": "rb", "encoding": "utf-8"},
        {"mode": "rb", "errors": "strict"},
        {"mode": "rb", "newline": ""},
        {"mode": "r", "buffering": 0},
        {"newline": "x"},
        {"newline": 1},
        {"encoding": "no-such"},
        {"encoding": "base64"},
        {"mode": 1},
        {"buffering": "x"},
        {"closefd": False},
    ],
)
def test_wrong_arguments(run, path, args):
    path.write_text("x")

    async def main():
        ours, theirs = await outcome(lambda: aio.open(path, **args)), await outcome(lambda: open(path, **args))
        assert ours == theirs and isinstance(ours, tuple)

    run(main)


def test_what_cannot_be_opened(run, tmp_path):
    async def main():
        for name in ("none", "none/below", "", "nul\0"):
            target = os.path.join(tmp_path, name) if name else name
            assert await outcome(lambda: aio.open(target)) == await outcome(lambda: open(target))
        assert await outcome(lambda: aio.open(tmp_path)) == (IsADirectoryError, errno.EISDIR, str(tmp_path))
        assert await outcome(lambda: aio.open(tmp_path, "w")) == (IsADirectoryError, errno.EISDIR, str(tmp_path))
        assert await outcome(lambda: aio.open(bytes(tmp_path))) == (IsADirectoryError, errno.EISDIR, bytes(tmp_path))
        with pytest.raises(TypeError):
            aio.open(None)
        with pytest.raises(ValueError, match="opener"):
            aio.open("x", opener=os.open)
        with pytest.raises(OSError) as caught:
            await aio.open(9999)
        assert caught.value.errno == errno.EBADF

    run(main)


def test_paths_of_every_kind(run, path, loop):
    path.write_bytes(b"data")

    async def main():
        for one in (path, str(path), bytes(path), pathlib.PurePosixPath(path)):
            async with aio.open(one, "rb") as file:
                assert await file.read() == b"data" and file.name == os.fspath(one)
        async with await aio.open(path, "rb") as file:
            assert await file.read(2) == b"da"
        odd = os.fsencode(path) + b"-\xff"
        await aio.write_bytes(odd, b"1")
        assert await aio.read_bytes(os.fsdecode(odd)) == b"1"
        assert sorted(await aio.listdir(path.parent)) == sorted(os.listdir(path.parent))
        assert sorted(await aio.listdir(bytes(path.parent))) == sorted(os.listdir(bytes(path.parent)))

    run(main)


def test_a_descriptor(run, path):
    path.write_bytes(b"0123456789")

    async def main():
        fd = os.open(path, os.O_RDONLY)
        async with aio.open(fd, "rb", closefd=False) as file:
            assert await file.read(3) == b"012" and file.fileno() == fd and file.name == fd
        os.fstat(fd)
        async with aio.open(fd, "rb") as file:
            await file.read(1)
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main)


def test_umask_and_mode(run, path):
    async def main():
        before = os.umask(0o027)
        try:
            async with aio.open(path, "w"):
                pass
            await aio.mkdir(path.with_name("folder"), 0o777)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert stat.S_IMODE(path.with_name("folder").stat().st_mode) == 0o750

    run(main)


def test_no_descriptor_is_free(run, path):
    path.write_bytes(b"x")

    async def main():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        opened = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(fd) for fd in os.listdir("/proc/self/fd")) + 8, hard))
        try:
            with pytest.raises(OSError) as caught:
                for _ in range(5000):
                    opened.append(await aio.open(path, "rb"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for file in opened:
                await file.close()
        assert caught.value.errno == errno.EMFILE and caught.value.filename == str(path)

    run(main)


# --- against open()

SIZES = st.one_of(st.none(), st.integers(-1, 40))
BINARY_CALLS = st.one_of(
    st.tuples(st.sampled_from(["read", "read1", "readline", "readlines"]), SIZES.filter(lambda n: n is not None)),
    st.tuples(st.just("write"), st.binary(max_size=50)),
    st.tuples(st.just("seek"), st.integers(-3, 60), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("tell")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("truncate"), st.one_of(st.none(), st.integers(0, 60))),
)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(content=st.binary(max_size=80), mode=st.sampled_from(["rb", "r+b", "w+b", "a+b", "wb"]), calls=st.lists(BINARY_CALLS, max_size=12))
@example(content=b"a\nb\n", mode="r+b", calls=[("readline", -1), ("write", b"X"), ("read", -1), ("tell",)])
@example(content=b"abc", mode="r+b", calls=[("read", 1), ("seek", 1, 1), ("write", b"X"), ("truncate", None)])
def test_binary_as_open(run, tmp_path, content, mode, calls):
    """Any calls in any order give what they give on a file of open(), and leave the same file."""

    async def main():
        files = []
        for name in ("ours", "theirs"):
            (tmp_path / name).write_bytes(content)
        files = [await aio.open(tmp_path / "ours", mode), open(tmp_path / "theirs", mode)]
        try:
            for name, *args in calls:
                if name == "read1" and (args[0] < 0 or mode != "rb"):
                    continue  # the buffer's affair; and theirs forgets what is to be written
                if (name, *args) == ("readline", 0) and mode == "wb":
                    continue  # theirs does not look whether it may read
                ours = await outcome(lambda: getattr(files[0], name)(*args))
                theirs = await outcome(lambda: getattr(files[1], name)(*args))
                assert ours == theirs, (name, args)
        finally:
            await files[0].close()
            files[1].close()
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()

    run(main)


ENCODINGS = ["utf-8", "latin-1", "utf-16", "utf-8-sig", "utf-32-le", "shift_jis", "utf-7", "iso2022_jp"]
TEXT_CALLS = st.one_of(
    st.tuples(st.sampled_from(["read", "readline"]), st.integers(-1, 15)),
    st.tuples(st.just("readlines")),
    st.tuples(st.just("tell")),
    st.tuples(st.just("back"), st.integers(0, 5)),  # to one of the places that tell() gave
)


@FUZZ
@given(
    text=st.text(alphabet="ab\n\réü漢🐍", max_size=60),
    encoding=st.sampled_from(ENCODINGS),
    newline=st.sampled_from([None, "", "\n", "\r", "\r\n"]),
    piece=st.sampled_from([1, 2, 3, 7, 64 * 1024]),
    calls=st.lists(TEXT_CALLS, max_size=12),
)
@example(text="a\r\nb", encoding="utf-8", newline="\r\n", piece=2, calls=[("readline", -1), ("tell",), ("readline", -1)])
@example(text="\r\na", encoding="utf-16", newline="\r\n", piece=1, calls=[("readlines",)])
@example(text="a\r\nb", encoding="utf-8", newline="", piece=2, calls=[("readline", -1), ("tell",), ("readline", -1), ("back", 0), ("read", -1)])
def test_text_as_open(run, tmp_path, monkeypatch, text, encoding, newline, piece, calls):
    """The same for text that is read: encodings, ends of lines, and places. A file has pieces of a few bytes, so that every seam is met."""
    from ringcorn.aio import _text

    monkeypatch.setattr(_text, "BUFFER_SIZE", piece)
    (tmp_path / "text").write_bytes(text.encode(encoding, "replace"))

    async def main():
        theirs = open(tmp_path / "text", encoding=encoding, newline=newline)
        ours = await aio.open(tmp_path / "text", encoding=encoding, newline=newline)
        places = [(0, 0)]
        try:
            for name, *args in calls:
                if name == "tell":
                    places.append((await ours.tell(), theirs.tell()))
                elif name == "back":
                    mine, other = places[args[0] % len(places)]
                    assert await ours.seek(mine) == mine
                    theirs.seek(other)
                else:
                    assert await getattr(ours, name)(*args) == getattr(theirs, name)(*args), (name, args)
            mine = await ours.tell()
            rest = await ours.read()
            assert rest == theirs.read()
            await ours.seek(mine)
            assert await ours.read() == rest
        finally:
            await ours.close()
            theirs.close()

    run(main)


@FUZZ
@given(
    encoding=st.sampled_from(ENCODINGS),
    newline=st.sampled_from([None, "", "\n", "\r", "\r\n"]),
    mode=st.sampled_from(["w", "a", "r+", "w+", "a+"]),
    calls=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.text(alphabet="ab\n\ré", max_size=10)),
            st.tuples(st.just("flush")),
            st.tuples(st.just("seek"), st.just(0), st.sampled_from([0, 2])),
            st.tuples(st.just("tell")),
            st.tuples(st.just("truncate"), st.integers(0, 8)),
            st.tuples(st.just("readline")),
        ),
        max_size=10,
    ),
)
def test_text_written_as_open(run, tmp_path, encoding, newline, mode, calls):
    async def main():
        for name in ("ours", "theirs"):
            (tmp_path / name).write_bytes("old\r\né\n".encode(encoding, "replace"))
        files = [
            await aio.open(tmp_path / "ours", mode, encoding=encoding, newline=newline),
            open(tmp_path / "theirs", mode, encoding=encoding, newline=newline),
        ]
        try:
            for name, *args in calls:
                if name == "readline":  # what theirs gives after a write is not to be relied on without this
                    await outcome(lambda: files[0].seek(0))
                    await outcome(lambda: files[1].seek(0))
                ours = await outcome(lambda: getattr(files[0], name)(*args))
                theirs = await outcome(lambda: getattr(files[1], name)(*args))
                assert ours == theirs, (name, args)
        finally:
            await files[0].close()
            files[1].close()
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()

    run(main)


def test_unbuffered_line_buffered_and_small_buffers(run, path):
    async def main():
        async with aio.open(path, "wb", 0) as file:
            assert await file.write(b"one\n") == 4
            assert path.read_bytes() == b"one\n"
        async with aio.open(path, "w", 1) as file:
            await file.write("half")
            assert path.read_bytes() == b""
            await file.write(" line\nmore")
            assert path.read_bytes() == b"half line\nmore"
        async with aio.open(path, "wb", 4) as file:
            await file.write(b"123")
            assert path.read_bytes() == b""
            await file.write(b"456")
            assert path.read_bytes() == b"123456"
        with pytest.warns(RuntimeWarning):
            async with aio.open(path, "rb", 1) as file:
                assert await file.peek() == b"123456" and await file.read(1) == b"1"
        buffer = bytearray(4)
        async with aio.open(path, "rb", 2) as file:
            assert await file.readinto(buffer) == 4 and buffer == b"1234"
            assert await file.readinto(memoryview(buffer)[1:]) == 2 and buffer == b"1564"
            with pytest.raises(TypeError):
                await file.readinto(b"1234")
            assert await file.read(10) == b"" == await file.readline()

    run(main)


def test_lines(run, path):
    lines = [f"line {i}: " + "x" * (i * 37 % 5000) + "\n" for i in range(2000)]
    path.write_text("".join(lines) + "no end")

    async def main():
        async with aio.open(path) as file:
            assert [line async for line in file] == [*lines, "no end"]
        async with aio.open(path, "rb") as file:
            assert [line async for line in file] == [line.encode() for line in [*lines, "no end"]]
        async with aio.open(path) as file:
            with open(path) as theirs:
                assert await file.readlines(1000) == theirs.readlines(1000)
            assert file.newlines == "\n"
        with pytest.raises(ValueError, match="closed"):
            async for _ in file:
                pass

    run(main)


def test_a_line_of_many_pieces(run, path):
    path.write_bytes(b"x" * 1_000_000 + b"\n" + b"y" * 1_000_000)

    async def main():
        async with aio.open(path, "rb") as file:
            assert len(await file.readline()) == 1_000_001 and len(await file.readline(10)) == 10
            assert len(await file.readline()) == 999_990
        async with aio.open(path) as file:
            assert len(await file.readline()) == 1_000_001 and len(await file.readline(10)) == 10
            assert len(await file.readline()) == 999_990 and await file.readline() == ""

    run(main)


def test_whole_files(run, path):
    async def main():
        for data in (b"", b"x", os.urandom(3_000_000)):
            assert await aio.write_bytes(path, data) == len(data)
            assert await aio.read_bytes(path) == data == path.read_bytes()
        assert await aio.write_bytes(path, bytearray(b"array")) == 5 and path.read_bytes() == b"array"
        for encoding in ("utf-8", "utf-16"):
            assert await aio.write_text(path, TEXT, encoding=encoding) == len(TEXT)
            assert await aio.read_text(path, encoding=encoding) == path.read_text(encoding=encoding)
            assert await aio.read_text(path, encoding=encoding, newline="") == TEXT
        with pytest.raises(UnicodeDecodeError):
            await aio.read_text(path, encoding="ascii")
        assert len(await aio.read_text(path, encoding="ascii", errors="ignore")) > 0
        with pytest.raises(TypeError):
            await aio.write_text(path, b"bytes")
        with pytest.raises(FileNotFoundError) as caught:
            await aio.read_bytes(path.with_name("none"))
        assert caught.value.filename == str(path.with_name("none"))
        assert "MemTotal" in await aio.read_text("/proc/meminfo")  # says that it has no bytes

    run(main)


def test_what_is_half_in_memory_is_read_as_a_whole(run, path):
    """A read that is short because the rest has to come from the disk is not taken for the end of the file."""
    data = os.urandom(60_000)
    path.write_bytes(data)

    async def main():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        for kept in (4096, 16384, 40960):

            def drop():
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
                for at in range(0, kept, 4096):
                    os.pread(fd, 1, at)

            drop()
            assert await aio.read_bytes(path) == data
            drop()
            async with aio.open(path, "rb") as file:
                assert await file.read(50_000) == data[:50_000]
                drop()
                assert await file.pread(60_000, 0) == data
                assert await file.pread(60_001, 0) == data
        os.close(fd)

    run(main)


def test_a_big_file(run, path):
    """More than one operation takes, with holes: 2 GiB and a bit, by places."""
    size = 2**31 + 12345

    async def main():
        async with aio.open(path, "w+b") as file:
            assert await file.truncate(size) == size
            await file.seek(-5, 2)
            await file.write(b"the end")
            assert await file.tell() == size + 2
            assert await file.pread(100, size - 5) == b"the end"
            assert await file.pwrite(b"middle", 2**31 - 3) == 6
            await file.fsync()
            await file.seek(2**31 - 3)
            assert await file.read(6) == b"middle"
        assert (await aio.stat(path)).st_size == size + 2

    run(main)


# What Linux 5.9 and 5.10 may say of what is not in memory.
NOTHING_THERE = """
#define _GNU_SOURCE
#include <sys/uio.h>
ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t at, int flags) { (void)fd, (void)iov, (void)n, (void)at, (void)flags; return 0; }
ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off_t at, int flags) { return preadv2(fd, iov, n, at, flags); }
"""


@pytest.mark.skipif(shutil.which("cc") is None or harness.SANITIZED, reason="takes a C compiler, and the place of a sanitizer")
def test_zero_bytes_of_memory_are_not_the_end_of_the_file(tmp_path, usable_io):
    (tmp_path / "preadv2.c").write_text(NOTHING_THERE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "preadv2.so", tmp_path / "preadv2.c"], check=True)
    (tmp_path / "file").write_bytes(b"line\nand more")
    code = """
import asyncio, sys
import ringcorn.loop
from ringcorn import aio

async def main(path):
    async with aio.open(path, "rb") as file:
        print([await file.readline(), await file.read(), await file.read(), await file.pread(4, 9), await file.pread(4, 13)])
    print(await aio.read_bytes(path))

loop = ringcorn.loop.new_event_loop(sys.argv[1])
loop.run_until_complete(main(sys.argv[2]))
loop.close()
"""
    environment = {**os.environ, "LD_PRELOAD": str(tmp_path / "preadv2.so"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, usable_io, tmp_path / "file"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "[b'line\\n', b'and more', b'', b'more', b'']\nb'line\\nand more'\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "iso2022_jp", "shift_jis"])
def test_text_is_cut_where_it_was_read_to(run, path, encoding):
    """Also where the encoding has a state, which is part of what tell() gives."""
    text = "漢字 and\n" * 20

    async def main():
        for n in range(1, 20):
            path.write_text(text, encoding)
            async with aio.open(path, "r+", encoding=encoding) as file:
                got = await file.read(n)
                size = await file.truncate()
            assert size == path.stat().st_size
            assert path.read_bytes() == text.encode(encoding)[:size]
            assert path.read_text(encoding, "ignore") == got == text[:n]

    run(main)


def test_big_reads_and_writes(run, path):
    data = random.Random(1).randbytes(20_000_000)

    async def main():
        async with aio.open(path, "wb") as file:
            for i in range(0, len(data), 777_777):
                await file.write(data[i : i + 777_777])
        assert path.read_bytes() == data
        async with aio.open(path, "rb") as file:
            assert await file.read(15_000_000) == data[:15_000_000]
            assert await file.read() == data[15_000_000:]

    run(main)


# --- at the same time


def test_a_thousand_reads_at_once(run, path):
    data = os.urandom(4096 * 1000)
    path.write_bytes(data)

    async def main():
        async with aio.open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            places = list(range(1000))
            random.shuffle(places)
            pieces = await asyncio.gather(*(file.pread(4096, 4096 * i) for i in places))
        assert all(piece == data[4096 * i : 4096 * (i + 1)] for i, piece in zip(places, pieces, strict=True))

    run(main)


def test_many_files_at_once(run, tmp_path):
    async def one(i):
        path = tmp_path / str(i)
        await aio.write_text(path, f"file {i}")
        assert (await aio.stat(path)).st_size == len(f"file {i}")
        assert await aio.read_text(path) == f"file {i}"
        await aio.unlink(path)
        assert not await aio.exists(path)

    async def main():
        await asyncio.gather(*(one(i) for i in range(300)))
        assert await aio.listdir(tmp_path) == []

    run(main)


def test_tasks_share_a_file(run, path):
    """Each call is done before the next begins: lines are whole, each is read once, and writes do not mix."""
    path.write_bytes(b"".join(b"%04d\n" % i for i in range(3000)))

    async def main():
        async with aio.open(path, "rb", 16) as file:

            async def reader(seen):
                while line := await file.readline():
                    seen.append(line)
                    await asyncio.sleep(0)

            seen = []
            await asyncio.gather(*(reader(seen) for _ in range(20)))
        assert sorted(seen) == [b"%04d\n" % i for i in range(3000)]
        async with aio.open(path, "wb", 16) as file:
            await asyncio.gather(*(file.write(b"%05d" % i * 10 + b"\n") for i in range(500)))
        assert sorted(path.read_bytes().split()) == [b"%05d" % i * 10 for i in range(500)]

    run(main)


def test_the_loop_turns_meanwhile(run, path):
    """Reads that end at once do not keep the others waiting."""
    path.write_bytes(b"x" * 4096)

    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        async with aio.open(path, "rb") as file:
            for _ in range(20_000):
                await file.pread(4096, 0)
        task.cancel()
        assert turns > 5

    run(main)


# --- cancelled


async def cancelled_in_flight(coro):
    """Begins it, sees it wait, and cancels it."""
    task = asyncio.ensure_future(coro)
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_read_of_a_pipe_is_cancelled(run, loop):
    async def main():
        a, b = os.pipe()
        async with aio.open(a, "rb") as file:
            for kind in (file.read(10), file.readline(), file.read1(5), file.read()):
                await cancelled_in_flight(kind)
            os.write(b, b"line\nrest")
            assert await file.readline() == b"line\n"
            os.write(b, b" of it")
            os.close(b)
            assert await file.read() == b"rest of it"
        assert _ringcorn.live()["file_ops"] == 0

    run(main)


def test_what_a_cancelled_read_has_taken_is_given_to_the_next(run):
    """The bytes come in the very moment in which the read is cancelled."""

    async def main():
        for _ in range(100):
            a, b = os.pipe()
            async with aio.open(a, "rb") as file:
                task = asyncio.ensure_future(file.read(5))
                await asyncio.sleep(0.0002)
                os.write(b, b"taken")
                task.cancel()
                got = b""
                try:
                    got = await task
                except asyncio.CancelledError:
                    got = await asyncio.wait_for(file.read(5), 5)
                assert got == b"taken"
            os.close(b)

    run(main)


def test_part_of_a_read_is_not_lost(run):
    async def main():
        a, b = os.pipe()
        async with aio.open(a, "rb") as file:
            os.write(b, b"12345")
            await cancelled_in_flight(file.read(10))
            os.write(b, b"67890")
            assert await file.read(10) == b"1234567890"
        a, c = os.pipe()
        async with aio.open(a, encoding="utf-8") as file:
            os.write(c, "zwölf".encode()[:3])
            await cancelled_in_flight(file.read(5))
            await cancelled_in_flight(file.readline())
            os.write(c, "zwölf".encode()[3:])
            assert await file.read(5) == "zwölf"
            os.write(c, b"x")
            await cancelled_in_flight(file.readline())
            os.close(c)
            assert await file.readline() == "x"
        os.close(b)

    run(main)


def test_a_write_that_was_cancelled_is_written_by_the_next_flush(run):
    data = random.Random(2).randbytes(300_000)

    async def main():
        a, b = os.pipe()
        got = []
        async with aio.open(b, "wb") as file:
            await cancelled_in_flight(file.write(data))

            def drain():
                while piece := os.read(a, 65536):
                    got.append(piece)

            thread = threading.Thread(target=drain)
            thread.start()
            await file.write(b"the end")
        await asyncio.to_thread(thread.join)
        os.close(a)
        assert b"".join(got) == data + b"the end"

    run(main)


def test_a_read_that_fails_breaks_nothing(run):
    """Address 0 of a process's memory is readable to nobody, others are."""

    async def main():
        word = ctypes.create_string_buffer(b"still read")
        for buffering in (-1, 0):
            async with aio.open("/proc/self/mem", "rb", buffering) as file:
                for call in (file.read, file.read1, file.readline):
                    assert await outcome(lambda call=call: call(10)) == (OSError, errno.EIO, None)
                await file.seek(ctypes.addressof(word))
                assert await file.read(10) == b"still read"

    run(main)


@pytest.mark.parametrize("ends", ["before", "after"])
@pytest.mark.parametrize("closefd", [True, False])
def test_a_write_that_was_cancelled_and_a_file_that_nobody_closes(run, path, ends, closefd):
    """What was written is in the file, and once."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))

    async def flushed(file):
        await file.flush()

    async def main():
        fd = os.open(path, os.O_WRONLY) if not closefd else path
        file = await aio.open(fd, "wb", closefd=closefd)
        await file.write(b"0123456789")
        task = asyncio.ensure_future(flushed(file))
        await asyncio.sleep(0)
        if ends == "after":  # a thread, or the ring, is done with it before it hears of the cancel
            await asyncio.sleep(0)
            deadline = time.monotonic() + 10
            while path.stat().st_size == 0 and time.monotonic() < deadline:
                pass
        assert task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await asyncio.sleep(0)  # the handle that has told of it has the task
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del task, file
            gc.collect()
        assert len(warned) == closefd
        while _ringcorn.live()["file_ops"]:
            await asyncio.sleep(0.001)
        assert path.read_bytes() == b"0123456789"
        if not closefd:
            os.close(fd)

    run(main)


def test_a_close_that_was_cancelled_loses_nothing(run, path):
    """It waits for a write that was cancelled before, behind which there is more to write."""

    async def main():
        file = await aio.open(path, "wb")
        await file.write(b"first, ")
        flush = asyncio.ensure_future(file.flush())
        await asyncio.sleep(0)
        flush.cancel()
        file._out.append(b"then the rest")  # as write() does that comes before the cancelled one has ended
        file._out_n += 13
        close = asyncio.ensure_future(file.close())
        with contextlib.suppress(asyncio.CancelledError):
            await flush
        while file._op is not None and not file._op.done:  # None: the disk was quick, and it is closed
            await asyncio.sleep(0)
        close.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await close
        await file.close()
        assert file.closed and path.read_bytes() == b"first, then the rest"

    run(main)


def test_opening_a_fifo_is_cancelled(run, tmp_path, usable_io):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def main():
        await cancelled_in_flight(_opened(fifo))
        # A thread that is inside open() comes back with the other end; the descriptor goes to nobody, and is closed.
        other = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK) if usable_io == "epoll" else -1
        while _ringcorn.live()["file_ops"]:
            await asyncio.sleep(0.005)
        if other >= 0:
            os.close(other)
        opened = asyncio.ensure_future(_opened(fifo))
        async with aio.open(fifo, "wb") as writer:
            await writer.write(b"through")
            await writer.flush()
            async with await opened as reader:
                assert await reader.read(7) == b"through"

    run(main)


async def _opened(path):
    return await aio.open(path, "rb")


def test_a_task_that_is_cancelled_before_it_begins(run, path):
    path.write_bytes(b"x")

    async def main():
        task = asyncio.ensure_future(aio.read_bytes(path))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_waiting_for_ones_turn_is_cancelled(run):
    async def main():
        a, b = os.pipe()
        async with aio.open(a, "rb") as file:
            first = asyncio.ensure_future(file.read(2))
            await asyncio.sleep(0)
            others = [asyncio.ensure_future(file.read(2)) for _ in range(3)]
            await asyncio.sleep(0.01)
            others[0].cancel()
            os.write(b, b"112233")
            assert await asyncio.gather(first, others[1], others[2]) == [b"11", b"22", b"33"]
            assert others[0].cancelled()
        os.close(b)

    run(main)


def test_the_loop_is_closed_with_operations_in_flight(loop, tmp_path):
    """What the kernel reads into is alive until it has let go of it; nothing is left behind."""
    a, b = os.pipe()
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    held = []

    async def main():
        file = await aio.open(a, "rb")
        held.append(file)
        held.append(asyncio.ensure_future(file.read(10)))
        held.append(asyncio.ensure_future(aio.read_bytes(path)))
        await asyncio.sleep(0.02)

    loop.run_until_complete(main())
    assert _ringcorn.live()["file_ops"] >= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        assert _ringcorn.live()["file_ops"] == 0
        for task in held[1:]:
            task._log_destroy_pending = False
        del task
        held[0]._fd = -1
        held.clear()
    os.close(a)
    os.close(b)


MOVES = """
import asyncio, os, sys, threading
import _ringcorn, ringcorn.loop
from ringcorn import aio

loop = ringcorn.loop.new_event_loop(sys.argv[1])
a, b = os.pipe()
state = {}

async def second():
    try:
        print("got", await asyncio.wait_for(state["task"], 5))
    except (OSError, RuntimeError) as exc:
        print(type(exc).__name__, exc)
    os.write(b, b"12345")
    print(await state["file"].read(5))
    await state["file"].close()

async def awaited(op):
    return await op

async def begin():
    state["file"] = await aio.open(a, "rb")
    state["task"] = asyncio.ensure_future(awaited(_ringcorn.Files().read(a, 5)))
    await asyncio.sleep(0.02)

thread = threading.Thread(target=loop.run_until_complete, args=(begin(),))
thread.start()
thread.join()
loop.run_until_complete(second())
loop.close()
"""


def test_the_loop_moves_to_another_thread(usable_io):
    """The ring of the first thread is closed, and what it had in flight with it: whoever awaits it hears so. In a process of its own, as the ring
    may keep the operation's memory for good."""
    done = subprocess.run(
        [sys.executable, "-c", MOVES, usable_io],
        env={**os.environ, "PYTHONPATH": os.path.dirname(_ringcorn.__file__)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith(("OSError [Errno 125]", "RuntimeError the event loop has been closed, or moved"))
    assert lines[1] == "b'12345'" and done.stderr == ""


# --- ends


def test_close(run, path):
    async def main():
        file = await aio.open(path, "w")
        await file.write("text")
        fd = file.fileno()
        await asyncio.gather(file.close(), file.close())
        await file.close()
        assert path.read_text() == "text" and file.closed
        with pytest.raises(OSError):
            os.fstat(fd)
        for call in (file.read, file.readline, file.flush, file.tell, lambda: file.write("x"), lambda: file.seek(0), file.fsync):
            with pytest.raises(ValueError, match="closed file"):
                await call()
        for call in (file.fileno, file.isatty, file.readable):
            with pytest.raises(ValueError, match="closed file"):
                call()
        with pytest.raises(ValueError, match="closed file"):
            async with file:
                pass

    run(main)


def test_a_full_disk_is_told_of_by_close(run):
    async def main():
        file = await aio.open("/dev/full", "wb")
        await file.write(b"x")
        with pytest.raises(OSError) as caught:
            await file.flush()
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as caught:
            await file.close()
        assert caught.value.errno == errno.ENOSPC and file.closed

    run(main)


def test_a_file_that_nobody_closes(run, path):
    async def main():
        file = await aio.open(path, "wb")
        await file.write(b"not lost")
        with pytest.warns(ResourceWarning, match="unclosed file"):
            del file
        assert path.read_bytes() == b"not lost"

    run(main)


# --- os


def test_stat_is_os_stat(run, path, tmp_path):
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(-1_500_000_001, 1_234_567_890_987_654_321))
    link = tmp_path / "link"
    link.symlink_to(path)
    fields = [name for name in dir(os.stat_result) if name.startswith("st_")]

    def same(ours, theirs):
        assert type(ours) is os.stat_result and ours == theirs
        assert [getattr(ours, name) for name in fields] == [getattr(theirs, name) for name in fields]

    async def main():
        for one in (path, str(path), bytes(path), link, tmp_path, "/dev/null", "/proc/self"):
            same(await aio.stat(one), os.stat(one))
            same(await aio.lstat(one), os.lstat(one))
        same(await aio.stat(link, follow_symlinks=False), os.lstat(link))
        folder = os.open(tmp_path, os.O_RDONLY)
        file = os.open(path, os.O_RDONLY)
        same(await aio.stat(file), os.stat(file))
        same(await aio.stat("file", dir_fd=folder), os.stat("file", dir_fd=folder))
        os.close(folder)
        os.close(file)
        for wrong in ("none", "", "file/below", "nul\0"):
            assert await outcome(lambda: aio.stat(wrong)) == await outcome(lambda: os.stat(wrong))
        assert await outcome(lambda: aio.stat(12345)) == await outcome(lambda: os.stat(12345))
        with pytest.raises(TypeError):
            await aio.stat(None)

    run(main)


def test_changes(run, tmp_path):
    async def main():
        a, b, folder = tmp_path / "a", tmp_path / "b", tmp_path / "x" / "y" / "z"
        await aio.write_text(a, "a")
        await aio.rename(a, b)
        assert not await aio.exists(a) and await aio.isfile(b)
        await aio.write_text(a, "new")
        await aio.replace(a, b)
        assert b.read_text() == "new"
        await aio.symlink("b", a)
        assert await aio.islink(a) and await aio.readlink(a) == "b" and await aio.readlink(bytes(a)) == b"b"
        await aio.unlink(a)
        assert not await aio.lexists(a) and await aio.exists(b)
        await aio.symlink("nowhere", a)
        assert await aio.lexists(a) and not await aio.exists(a)
        await aio.remove(a)
        await aio.link(b, a)
        assert os.path.samefile(a, b)
        await aio.truncate(a, 1)
        assert b.read_text() == "n"
        await aio.makedirs(folder)
        assert await aio.isdir(folder) and not await aio.isfile(folder)
        with pytest.raises(FileExistsError):
            await aio.makedirs(folder)
        await aio.makedirs(folder, exist_ok=True)
        await aio.rmdir(folder)
        for call in (aio.rmdir, aio.unlink, aio.mkdir, aio.stat, aio.readlink, aio.listdir):
            same = getattr(os, call.__name__)
            for where in (folder / "none", a / "below", tmp_path):
                assert await outcome(lambda: call(where)) == await outcome(lambda: same(where)) or call is aio.listdir, (call, where)
        with pytest.raises(FileNotFoundError) as caught:
            await aio.rename(folder / "p", folder / "q")
        assert (caught.value.filename, caught.value.filename2) == (str(folder / "p"), str(folder / "q"))
        fd = os.open(a, os.O_RDWR)
        await aio.fsync(fd)
        await aio.fdatasync(fd)
        os.close(fd)
        with pytest.raises(OSError):
            await aio.fsync(fd)

    run(main)


def test_directories(run, tmp_path):
    for i in range(3000):
        (tmp_path / f"file {i:04} ä").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")

    async def main():
        assert sorted(await aio.listdir(tmp_path)) == sorted(os.listdir(tmp_path))
        theirs = {entry.name: entry for entry in os.scandir(tmp_path)}
        async with aio.scandir(tmp_path) as scan:
            ours = {entry.name: entry async for entry in scan}
        assert ours.keys() == theirs.keys()
        for name, entry in ours.items():
            other = theirs[name]
            assert entry.path == other.path == os.fspath(entry) and entry.inode() == other.inode()
            for follows in (True, False):
                assert await entry.is_dir(follow_symlinks=follows) == other.is_dir(follow_symlinks=follows)
                assert await entry.is_file(follow_symlinks=follows) == other.is_file(follow_symlinks=follows)
            assert await entry.is_symlink() == other.is_symlink()
        assert await ours["link"].stat() == theirs["link"].stat()
        assert await ours["link"].stat(follow_symlinks=False) == theirs["link"].stat(follow_symlinks=False)
        with pytest.raises(FileNotFoundError):
            await ours["lost"].stat()
        fd = os.open(tmp_path, os.O_RDONLY)
        assert sorted(await aio.listdir(fd)) == sorted(await aio.listdir(fd)) == sorted(os.listdir(fd))
        assert [await entry.is_dir() async for entry in aio.scandir(fd) if entry.name == "link"] == [True]
        os.close(fd)
        for wrong in (tmp_path / "none", tmp_path / "fifo"):
            with pytest.raises(OSError) as caught:
                await aio.listdir(wrong)
            with pytest.raises(OSError) as other:
                os.listdir(wrong)
            assert (caught.type, caught.value.filename) == (other.type, str(wrong))

    run(main)


# --- elsewhere


def test_on_another_loop(path):
    """The executor of any asyncio loop will do."""

    async def main():
        await aio.write_text(path, "first\nsecond\n")
        async with aio.open(path) as file:
            assert [line async for line in file] == ["first\n", "second\n"]
        assert (await aio.stat(path)).st_size == 13 and await aio.listdir(path.parent) == [path.name]
        with pytest.raises(FileNotFoundError) as caught:
            await aio.open(path.with_name("none"))
        assert caught.value.filename == str(path.with_name("none"))
        a, b = os.pipe()
        async with aio.open(a, "rb") as file:
            await cancelled_in_flight(file.read(5))
            os.write(b, b"later")
            assert await file.read(5) == b"later"
        os.close(b)

    before = set(os.listdir("/proc/self/fd"))
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(asyncio.wait_for(main(), 20))
    assert set(os.listdir("/proc/self/fd")) <= before


def test_without_a_loop(path):
    with pytest.raises(RuntimeError, match="no running event loop"):
        aio.read_bytes(path).send(None)


def test_an_operation_alone(run, path):
    """_ringcorn.FileOp: one awaiter at a time, one result."""
    path.write_bytes(b"x")

    async def main():
        files = _ringcorn.Files()
        op = files.stat(path)
        await op
        with pytest.raises(RuntimeError, match="taken already"):
            await op
        a, b = os.pipe()
        op = files.read(a, 5)
        first = asyncio.ensure_future(_awaited(op))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="somebody else"):
            await op
        os.write(b, b"12345")
        assert await first == b"12345" and op.done
        for wrong in (
            lambda: files.read(-1, 5),
            lambda: files.read(a, -5),
            lambda: files.read("x", 5),
            lambda: files.read(a),
            lambda: files.write(a, "text"),
            lambda: files.open(None, 0, 0),
            lambda: files.readinto(a, b"bytes"),
        ):
            with pytest.raises((ValueError, TypeError, BufferError)):
                wrong()
        op = files.write(b, b"never begun")
        op.cancel()
        del op
        os.close(a)
        os.close(b)

    run(main)


async def _awaited(op):
    return await op
