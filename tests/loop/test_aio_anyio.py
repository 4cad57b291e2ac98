"""anyio.open_file() and anyio.Path by ringcorn.aio: what they give is what they give by threads."""

import asyncio
import errno
import os
import pathlib
import threading

import pytest

import anyio
import anyio.to_thread

import _ringcorn
from ringcorn import aio


@pytest.fixture(params=["ours", "threads"])
def kind(request):
    if request.param == "ours":
        aio.install_anyio()
        aio.install_anyio()  # twice is once
    yield request.param
    aio.remove_anyio()


@pytest.fixture
def installed():
    aio.install_anyio()
    yield
    aio.remove_anyio()


def test_files(run, kind, tmp_path):
    path = tmp_path / "file"

    async def main():
        async with await anyio.open_file(path, "w+", encoding="utf-8", newline="") as file:
            assert isinstance(file, anyio.AsyncFile) and isinstance(file.wrapped, aio.TextFile) == (kind == "ours")
            assert await file.write("one\r\ntwö\n") == 9
            await file.writelines(["three", "\n"])
            assert await file.tell() == 16 and await file.seek(0) == 0
            assert [line async for line in file] == ["one\r\n", "twö\n", "three\n"]
            assert await file.seek(5) == 5 and await file.readline() == "twö\n" and await file.readlines() == ["three\n"]
            assert file.name == str(path) and file.mode == "w+" and file.encoding == "utf-8" and file.fileno() > 2
            await file.flush()
        assert file.closed
        async with await anyio.open_file(path, "r+b", buffering=0) as file:
            buffer = bytearray(3)
            assert await file.readinto(buffer) == 3 and buffer == b"one"
            assert await file.truncate(4) == 4 and await file.read() == b"\r"
        with pytest.raises(FileNotFoundError) as caught:
            await anyio.open_file(tmp_path / "none")
        assert caught.value.filename in (str(tmp_path / "none"), tmp_path / "none")
        async with await anyio.open_file(path, opener=os.open) as file:
            assert not isinstance(file.wrapped, aio.TextFile)
        async with await anyio.open_file(path, limiter=anyio.CapacityLimiter(1)) as file:
            assert not isinstance(file.wrapped, aio.TextFile) and await file.read() == "one\n"

    run(main)


def test_paths(run, kind, tmp_path):
    async def main():
        root = anyio.Path(tmp_path)
        path = root / "a" / "b" / "file"
        with pytest.raises(FileNotFoundError):
            await path.parent.mkdir()
        await path.parent.mkdir(parents=True)
        await path.parent.mkdir(parents=True, exist_ok=True)
        with pytest.raises(FileExistsError):
            await path.parent.mkdir()
        assert await path.write_text("text", encoding="utf-16") == 4 and await path.read_text("utf-16") == "text"
        assert await path.write_bytes(b"bytes") == 5 and await path.read_bytes() == b"bytes"
        assert await path.exists() and await path.is_file() and not await path.is_dir() and await path.parent.is_dir()
        assert await path.stat() == os.stat(path)
        link = root / "link"
        await link.symlink_to(path)
        assert await link.is_symlink() and await link.lstat() == os.lstat(link) and await link.readlink() == path
        assert await link.stat(follow_symlinks=False) == os.lstat(link)
        await (root / "hard").hardlink_to(path)
        assert await (root / "hard").samefile(path)
        moved = await link.rename(root / "moved")
        assert isinstance(moved, anyio.Path) and await moved.is_symlink() and not await link.is_symlink()
        await (root / "none").unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            await (root / "none").unlink()
        assert sorted([one.name async for one in root.iterdir()]) == ["a", "hard", "moved"]
        assert [one.name async for one in root.glob("**/file")] == ["file"]
        assert not await (path / "below").exists() and not await (root / "nul\0").is_file()
        await path.unlink()
        await path.parent.rmdir()
        with pytest.raises(OSError) as caught:
            await (root / "a").rename(root / "hard")
        assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
        async with await (root / "hard").open("rb") as file:
            assert await file.read() == b"bytes"
        assert await (await (root / ".").resolve()).exists() and isinstance(await anyio.Path.cwd(), anyio.Path)

    run(main)


def test_no_thread_is_begun(run, installed, tmp_path):
    async def main():
        before = threading.active_count()
        path = anyio.Path(tmp_path) / "file"
        for _ in range(5):
            await path.write_text("text")
            async with await path.open() as file:
                assert await file.read() == "text"
            await path.unlink()
        assert threading.active_count() == before

    run(main)


def test_a_read_is_cancelled_and_loses_nothing(run, installed, tmp_path):
    async def main():
        a, b = os.pipe()
        async with await anyio.open_file(a, "rb") as file:
            with anyio.move_on_after(0.05) as scope:
                await file.read(5)
            assert scope.cancelled_caught
            os.write(b, b"later")
            assert await file.read(5) == b"later"
        os.close(b)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.Path(tmp_path / "never").mkdir()
        assert scope.cancelled_caught and not (tmp_path / "never").exists()

    run(main)


def test_on_another_loop_threads_go_on(installed, tmp_path):
    async def main():
        async with await anyio.open_file(tmp_path / "file", "w") as file:
            assert not isinstance(file.wrapped, aio.TextFile)
            await file.write("text")
        assert await anyio.Path(tmp_path / "file").read_text() == "text"

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
    assert pathlib.Path(tmp_path / "file").read_text() == "text" and _ringcorn.live()["file_ops"] == 0
