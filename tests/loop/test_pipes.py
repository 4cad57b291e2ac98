"""Transports of pipes: connect_read_pipe() and connect_write_pipe(), and those of subprocesses."""

import asyncio
import contextlib
import errno
import gc
import os
import pty
import socket
import sys
import tempfile
import termios
import weakref

import pytest
from conftest import turns


class Protocol(asyncio.Protocol):
    def __init__(self, loop):
        self.loop = loop
        self.got, self.events = b"", []
        self.lost = loop.create_future()
        self.wanted, self.arrived = 0, None

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def data_received(self, data):
        assert type(data) is bytes
        self.got += data
        if self.arrived is not None and not self.arrived.done() and len(self.got) >= self.wanted:
            self.arrived.set_result(None)

    def eof_received(self):
        self.events.append("eof")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    async def until(self, n):
        if len(self.got) < n:
            self.wanted, self.arrived = n, self.loop.create_future()
            await self.arrived


@pytest.fixture
def ends():
    """(reader, writer) of a pipe, as files. A transport closes what it was given."""
    r, w = os.pipe()
    with open(r, "rb", 0) as reader, open(w, "wb", 0) as writer:
        yield reader, writer


async def reading(loop, pipe, protocol=None):
    return await loop.connect_read_pipe(lambda: protocol or Protocol(loop), pipe)


async def writing(loop, pipe, protocol=None):
    return await loop.connect_write_pipe(lambda: protocol or Protocol(loop), pipe)


def is_ours(transport):
    return type(transport).__module__ == "_ringcorn"


def fill(transport):
    """Until something waits for room; how many bytes that took."""
    n = 0
    while transport.get_write_buffer_size() == 0:
        transport.write(bytes(1000))
        n += 1000
    return n


def test_through_a_pipe_and_to_its_end(loop, run, ends):
    async def main():
        reader, at_reader = await reading(loop, ends[0])
        writer, at_writer = await writing(loop, ends[1])
        assert is_ours(reader) and isinstance(reader, asyncio.ReadTransport)
        assert is_ours(writer) and isinstance(writer, asyncio.WriteTransport)
        assert reader.get_extra_info("pipe") is ends[0] and writer.get_extra_info("pipe") is ends[1]
        assert not os.get_blocking(ends[0].fileno()) and not os.get_blocking(ends[1].fileno())
        for data in (b"one ", bytearray(b"two "), memoryview(b"three "), b"", memoryview(b"xfourx")[1:5]):
            writer.write(data)
        writer.writelines([b" fi", bytearray(b"ve")])
        await at_reader.until(23)
        assert at_reader.got == b"one two three four five"
        assert writer.can_write_eof()
        writer.write_eof()
        writer.write(b"too late")
        assert writer.is_closing()
        assert await at_writer.lost is None and await at_reader.lost is None
        assert at_reader.events == ["made", "eof", "lost"] and at_writer.events == ["made", "lost"]
        assert ends[0].closed and ends[1].closed
        for one in (reader, writer):
            assert "closed" in repr(one)
            one.close()
        writer.abort()

    run(main)


def test_megabytes_in_order(loop, run, ends):
    data = os.urandom(1 << 20) * 4

    async def main():
        reader, at_reader = await reading(loop, ends[0])
        writer, at_writer = await writing(loop, ends[1])
        parts = memoryview(data)
        at = 0
        for i in range(400):
            n = (i * 7919) % 21000 + 1
            part = parts[at : at + n]
            writer.write([bytes, bytearray, memoryview][i % 3](part))
            at += len(part)
        writer.write(data[at:])
        assert writer.get_write_buffer_size() > 0 and at_writer.events == ["made", "pause"]
        writer.close()
        assert await at_writer.lost is None and await at_reader.lost is None
        assert at_reader.got == data
        assert at_writer.events == ["made", "pause", "resume", "lost"]

    run(main)


def test_limits_and_the_size_of_what_waits(loop, run, ends):
    async def main():
        writer, protocol = await writing(loop, ends[1])
        writer.set_write_buffer_limits(high=2000, low=500)
        assert writer.get_write_buffer_limits() == (500, 2000)
        fill(writer)
        size = writer.get_write_buffer_size()
        assert 0 < size <= 1000 and "polling bufsize=%d" % size in repr(writer)
        writer.write(bytes(2000 - size))
        assert protocol.events == ["made"] and writer.get_write_buffer_size() == 2000
        writer.write(b"x")
        assert protocol.events == ["made", "pause"]
        os.set_blocking(ends[0].fileno(), False)
        while writer.get_write_buffer_size() > 0:
            with contextlib.suppress(BlockingIOError):  # the transport's turn may come after ours
                os.read(ends[0].fileno(), 65536)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert protocol.events == ["made", "pause", "resume"]
        writer.close()
        await protocol.lost

    run(main)


def test_paused_reading(loop, run, ends):
    async def main():
        reader, protocol = await reading(loop, ends[0])
        ends[1].write(b"1")
        await protocol.until(1)
        reader.pause_reading()
        reader.pause_reading()
        assert not reader.is_reading() and "idle" in repr(reader)
        ends[1].write(b"2")
        await asyncio.sleep(0.002)
        assert protocol.got == b"1"
        reader.resume_reading()
        reader.resume_reading()
        assert reader.is_reading()
        await protocol.until(2)
        reader.pause_reading()
        ends[1].write(b"3")
        ends[1].close()
        await asyncio.sleep(0.002)
        assert protocol.events == ["made"] and protocol.got == b"12"
        reader.resume_reading()
        assert await protocol.lost is None
        assert protocol.got == b"123" and protocol.events == ["made", "eof", "lost"]

    run(main)


def test_written_and_closed_before_it_is_watched(loop, run, ends):
    async def main():
        ends[1].write(b"everything")
        ends[1].close()
        reader, protocol = await reading(loop, ends[0])
        assert await protocol.lost is None
        assert protocol.got == b"everything" and protocol.events == ["made", "eof", "lost"]

    run(main)


def test_closed_by_its_reader(loop, run, ends):
    async def main():
        writer, protocol = await writing(loop, ends[1])
        writer.write(b"x")
        ends[0].close()
        assert await protocol.lost is None
        for _ in range(8):
            writer.write(b"nobody reads it")

    run(main)


def test_closed_by_its_reader_while_something_waits(loop, run, ends):
    async def main():
        writer, protocol = await writing(loop, ends[1])
        fill(writer)
        ends[0].close()
        assert isinstance(await protocol.lost, BrokenPipeError)
        assert writer.get_write_buffer_size() == 0

    run(main)


def test_closed_by_its_reader_and_written_to_at_once(loop, run, ends):
    async def main():
        writer, protocol = await writing(loop, ends[1])
        ends[0].close()
        writer.write(b"x")
        assert writer.is_closing() and isinstance(await protocol.lost, BrokenPipeError)
        assert protocol.events == ["made", "lost"]

    run(main)


def test_closed_while_something_waits(loop, run, ends):
    async def main():
        writer, protocol = await writing(loop, ends[1])
        n = fill(writer)
        writer.close()
        assert writer.is_closing()
        await asyncio.sleep(0)
        assert not protocol.lost.done()
        os.set_blocking(ends[0].fileno(), False)
        while not protocol.lost.done():
            with contextlib.suppress(BlockingIOError):  # the transport's turn may come after ours
                n -= len(os.read(ends[0].fileno(), 65536))
            await asyncio.sleep(0)
        while part := os.read(ends[0].fileno(), 65536):
            n -= len(part)
        assert n == 0

    run(main)


def test_aborted_while_something_waits(loop, run, ends):
    async def main():
        writer, protocol = await writing(loop, ends[1])
        n = fill(writer)
        waits = writer.get_write_buffer_size()
        writer.abort()
        writer.abort()
        assert writer.get_write_buffer_size() == 0 and await protocol.lost is None
        while part := os.read(ends[0].fileno(), 65536):
            n -= len(part)
        assert n == waits and protocol.events == ["made", "lost"]

    run(main)


def test_what_is_no_pipe_is_refused(loop, run):
    async def main():
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError, match="Pipe transport is for pipes/sockets only"):
                await reading(loop, file)
            with pytest.raises(ValueError, match="Pipe transport is only for pipes, sockets and character devices"):
                await writing(loop, file)

    run(main)


def test_what_is_no_bytes_is_refused(loop, run, ends):
    async def main():
        writer, protocol = await writing(loop, ends[1])
        with pytest.raises(AssertionError, match="'text'"):
            writer.write("text")
        with pytest.raises(BufferError):
            writer.write(memoryview(b"abcdef")[::2])
        writer.close()
        await protocol.lost

    run(main)


def test_sockets_are_pipes_too(loop, run):
    async def main():
        a, b = socket.socketpair()
        reader, at_reader = await reading(loop, a)
        writer, at_writer = await writing(loop, b)
        writer.write(b"x" * 100000)
        writer.close()
        assert await at_writer.lost is None and await at_reader.lost is None
        assert at_reader.got == b"x" * 100000 and a.fileno() == b.fileno() == -1

    run(main)


def test_packets_are_read_one_by_one(loop, run):
    """A short read says nothing of what follows, where messages keep their bounds: pipes in packet mode, sockets of the kind."""

    async def main():
        r, w = os.pipe2(os.O_DIRECT)
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with open(r, "rb", 0) as reader_file, open(w, "wb", 0) as writer_file, b:
            for pipe, send, end in ((reader_file, writer_file.write, writer_file.close), (a, b.send, b.close)):
                for i in range(9):
                    send(b"%d" % i)
                reader, protocol = await reading(loop, pipe)
                await protocol.until(9)
                assert protocol.got == b"012345678"
                end()
                assert await protocol.lost is None

    run(main)


def test_what_follows_a_descriptor_is_read_too(loop, run):
    """A read of a unix socket ends where a descriptor was sent along."""

    async def main():
        a, b = socket.socketpair()
        with b, open(os.devnull, "rb") as file:
            reader, protocol = await reading(loop, a)
            socket.send_fds(b, [b"with one"], [file.fileno()])
            b.send(b", and without")
            await protocol.until(21)
            assert protocol.got == b"with one, and without"
            b.close()
            assert await protocol.lost is None

    run(main)


def test_a_terminal(loop, run):
    async def main():
        master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        at_slave_file, master_file = open(slave, "rb", 0), open(master, "wb", 0)
        reader, at_slave = await reading(loop, at_slave_file)
        writer, at_master = await writing(loop, master_file)
        writer.write(b"a line\nanother\nthe third\n")  # each is a read of its own
        await at_slave.until(25)
        assert at_slave.got == b"a line\nanother\nthe third\n"
        copy = os.dup(master)
        writer.close()
        assert await at_master.lost is None
        at_copy, protocol = await reading(loop, open(copy, "rb", 0))
        reader.close()
        assert await at_slave.lost is None
        # Nobody has the terminal open any more: EIO, which is no news.
        assert (await protocol.lost).errno == errno.EIO and loop.problems == []

    run(main)


def test_what_is_always_ready(loop, run):
    async def main():
        null_in, null_out = open("/dev/null", "rb", 0), open("/dev/null", "wb", 0)
        writer, at_writer = await writing(loop, null_out)
        writer.write(b"x" * 1000000)
        assert writer.get_write_buffer_size() == 0
        writer.close()
        assert await at_writer.lost is None
        reader, at_reader = await reading(loop, null_in)
        assert await at_reader.lost is None and at_reader.events == ["made", "eof", "lost"]

    run(main)


def test_a_read_that_fails_is_told(loop, run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            peer, _ = server.accept()
        reader, protocol = await reading(loop, client)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        assert isinstance(await protocol.lost, ConnectionResetError)
        context = loop.problems.pop()
        assert context["message"] == "Fatal read error on pipe transport" and context["transport"] is reader
        assert isinstance(context["exception"], ConnectionResetError)

    run(main)


def test_exceptions_of_the_protocol_are_told(loop, run, ends):
    async def main():
        class Failing(Protocol):
            def data_received(self, data):
                super().data_received(data)
                raise ZeroDivisionError

            def eof_received(self):
                raise ZeroDivisionError

            def connection_lost(self, exc):
                super().connection_lost(exc)
                raise ZeroDivisionError

        reader, protocol = await reading(loop, ends[0], Failing(loop))
        ends[1].write(b"x")
        await protocol.until(1)
        ends[1].write(b"y")
        await protocol.until(2)
        ends[1].close()
        await protocol.lost
        assert [type(context["exception"]) for context in loop.problems] == [ZeroDivisionError] * 4
        assert ends[0].closed
        loop.problems.clear()

    run(main)


def test_closed_from_data_received(loop, run, ends):
    async def main():
        class Closing(Protocol):
            def data_received(self, data):
                super().data_received(data)
                self.transport.close()

        reader, protocol = await reading(loop, ends[0], Closing(loop))
        ends[1].write(b"x")
        assert await protocol.lost is None
        assert protocol.events == ["made", "lost"]
        with pytest.raises(BrokenPipeError):
            ends[1].write(b"y")

    run(main)


def test_not_closed_is_warned_of_and_closed(loop, run, ends):
    async def main():
        return (await reading(loop, ends[0]))[0], (await writing(loop, ends[1]))[0]

    reader, writer = run(main)
    seen = weakref.ref(reader), weakref.ref(writer)
    loop.close()
    assert " open" in repr(reader) and " open" in repr(writer)
    with pytest.warns(ResourceWarning, match="unclosed transport <ReadPipeTransport fd="):
        del reader
        gc.collect()
    with pytest.warns(ResourceWarning, match="unclosed transport <WritePipeTransport fd="):
        del writer
        gc.collect()
    assert [one() for one in seen] == [None, None]
    assert ends[0].closed and ends[1].closed


def test_streams_over_pipes(loop, run, ends):
    async def main():
        stream = asyncio.StreamReader(limit=1 << 12)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), ends[0])
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, ends[1])
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        data = os.urandom(1 << 20)

        async def send():
            for i in range(0, len(data), 50000):
                writer.write(data[i : i + 50000])
                await writer.drain()
            writer.close()

        sender = asyncio.create_task(send())
        assert await stream.read() == data
        await sender

    run(main)


def test_a_subprocess_and_its_pipes(loop, run):
    data = os.urandom(300000)

    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d); sys.stderr.write(str(len(d)))",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert is_ours(process._transport.get_pipe_transport(0)) and is_ours(process._transport.get_pipe_transport(1))
        out, err = await process.communicate(data)
        assert out == data and err == b"300000" and process.returncode == 0

    run(main)


def test_a_subprocess_that_does_not_read(loop, run):
    async def main():
        process = await asyncio.create_subprocess_exec("true", stdin=asyncio.subprocess.PIPE)
        process.stdin.write(bytes(1 << 20))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await process.stdin.drain()
        assert await process.wait() == 0
        process.stdin.close()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await process.stdin.wait_closed()

    run(main)


def test_goes_on_in_another_thread(loop, run, ends):
    import threading

    async def begin():
        reader, at_reader = await reading(loop, ends[0])
        writer, at_writer = await writing(loop, ends[1])
        at_reader.transport.pause_reading()
        return reader, at_reader, writer, at_writer, fill(writer)

    reader, at_reader, writer, at_writer, n = run(begin)

    async def go_on():
        reader.resume_reading()
        await at_reader.until(n)
        while writer.get_write_buffer_size() > 0:
            await asyncio.sleep(0)
        for transport, protocol in ((writer, at_writer), (reader, at_reader)):
            transport.close()
            await protocol.lost

    results = []
    thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(asyncio.wait_for(go_on(), 10))))
    thread.start()
    thread.join(15)
    assert results == [None] and len(at_reader.got) == n


def test_a_descriptor_closed_under_the_transport(loop, run):
    """Somebody has closed it by number, before it was watched: nothing is heard of it, and it can be closed."""

    async def main():
        r, w = os.pipe()
        pipe = open(r, "rb", 0)
        connecting = asyncio.create_task(reading(loop, pipe))
        await asyncio.sleep(0)
        os.close(r)
        reader, protocol = await connecting
        await asyncio.sleep(0.002)
        os.dup2(w, r)  # so that closing the file finds a descriptor
        reader.close()
        assert await protocol.lost is None and protocol.got == b""
        os.close(w)

    run(main)
    turns(loop, 2)
