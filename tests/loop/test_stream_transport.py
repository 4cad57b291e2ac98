"""Transports of TCP and unix sockets: protocols, flow control, ends of all kinds, threads, fork; against a plain socket at the other end."""

import asyncio
import contextvars
import gc
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
import weakref

import pytest
from conftest import turns

import _ringcorn
import ringcorn.loop

FAMILIES = [pytest.param(socket.AF_INET, id="tcp"), pytest.param(socket.AF_UNIX, id="unix")]


class Recorder(asyncio.Protocol):
    """Remembers what it was told."""

    def __init__(self):
        self.events, self.data = [], b""
        self.lost = asyncio.get_running_loop().create_future()
        self.transport = None
        self.on_data = None
        self.keep_open = None

    def connection_made(self, transport):
        self.events.append("made")
        self.transport = transport

    def data_received(self, data):
        assert type(data) is bytes and data
        self.data += data
        if self.on_data is not None:
            self.on_data(data)

    def eof_received(self):
        self.events.append("eof")
        return self.keep_open

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    async def has(self, n):
        while len(self.data) < n:
            await asyncio.sleep(0.001)

    async def told(self, event):
        while event not in self.events:
            await asyncio.sleep(0.001)


class Buffered(asyncio.BufferedProtocol, Recorder):
    def __init__(self, size=16):
        Recorder.__init__(self)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        assert sizehint == -1
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data_received(bytes(self.buffer[:nbytes]))


def sockets(family):
    """Two ends, both non-blocking, with short queues."""
    if family == socket.AF_UNIX:
        ends = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.create_connection(listener.getsockname())
            ends = one, listener.accept()[0]
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)  # so that long writes have to wait
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    return ends


@pytest.fixture(params=FAMILIES)
def pair(request):
    ours, peer = sockets(request.param)
    yield ours, peer
    ours.close()
    peer.close()


async def connect(sock, protocol=None):
    """A transport of *sock*, and its protocol."""
    protocol = protocol or Recorder()
    family = sock.family
    loop = asyncio.get_running_loop()
    if family == socket.AF_UNIX:
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=sock)
    else:
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    assert type(transport) is _ringcorn.StreamTransport
    return transport, protocol


async def receive(peer, n):
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < n:
        piece = await loop.sock_recv(peer, min(n - len(data), 1 << 16))
        assert piece, f"the end after {len(data)} of {n} bytes"
        data += piece
    return bytes(data)


async def closed(transport, protocol):
    transport.close()
    return await protocol.lost


# --- what it is ---------------------------------------------------------------------------------


def test_what_it_says_of_itself(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        loop = asyncio.get_running_loop()
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("socket").fileno() == ours.fileno()
        assert transport.get_extra_info("sockname") == ours.getsockname()
        assert transport.get_extra_info("peername") == ours.getpeername()
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", default=3) == transport.get_extra_info("nothing", 3) == 3
        assert repr(transport) == f"<StreamTransport fd={ours.fileno()} read=polling write=<idle, bufsize=0>>"
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert transport.is_reading() and not transport.is_closing() and transport.can_write_eof()
        assert transport.get_protocol() is protocol
        assert transport._loop is loop and transport._sock is ours and transport._sock_fd == ours.fileno()
        assert weakref.ref(transport)() is transport
        transport.anything = 7  # as any object of Python
        assert transport.anything == 7
        with pytest.raises(RuntimeError, match=f"File descriptor {ours.fileno()} is used by transport"):
            loop.add_reader(ours.fileno(), print)
        with pytest.raises(TypeError):
            type(transport)()
        if ours.family == socket.AF_INET:
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        fd = ours.fileno()
        transport.close()
        assert repr(transport).startswith(f"<StreamTransport closing fd={fd} read=idle")
        assert transport.is_closing() and not transport.is_reading()
        assert await protocol.lost is None
        assert repr(transport) == f"<StreamTransport closed fd={fd}>"
        assert ours.fileno() == -1
        assert transport.get_protocol() is None and transport._loop is None and transport._sock is None
        assert protocol.events == ["made", "lost"]

    run(main)


@pytest.mark.parametrize("kind", [Recorder, Buffered])
@pytest.mark.parametrize("size", [1, 1000, 200_000, 3_000_000])
def test_echo(run, pair, kind, size):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours, kind() if kind is Recorder else Buffered(min(size, 70_000)))
        protocol.on_data = transport.write
        sent = os.urandom(size)
        task = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(peer, sent))
        assert await receive(peer, size) == sent
        await task
        assert protocol.data == sent
        await closed(transport, protocol)

    run(main)


def test_all_kinds_of_buffers_in_order(run, pair):
    ours, peer = pair

    class Bytes(bytes):
        pass

    async def main():
        transport, protocol = await connect(ours)
        wide = memoryview(bytearray(range(200))).cast("I")
        pieces = [b"one", bytearray(b"two"), memoryview(b"three"), Bytes(b"four"), b"", memoryview(b"abcdef")[::2], b"x" * 5000, bytearray(b"y" * 9000), wide]
        for piece in pieces:
            transport.write(piece)
        transport.writelines(pieces)
        transport.writelines(iter(pieces))
        transport.writelines([])
        expected = b"".join(bytes(piece) for piece in pieces) * 3
        assert await receive(peer, len(expected)) == expected
        await closed(transport, protocol)

    run(main)


def test_a_buffer_may_be_changed_after_the_write(run, pair):
    """Also where it has to wait for room."""
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        expected = b""
        for n in (10, 5000, 8_000_000, 10, 5000):
            data = bytearray(b"a" * n)
            transport.write(data)
            expected += data
            data[:] = b"b" * n
        assert transport.get_write_buffer_size() > 0
        assert await receive(peer, len(expected)) == expected
        await closed(transport, protocol)

    run(main)


def test_long_bytes_are_kept_by_reference(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        data = b"z" * 8_000_000
        before, held = sys.getrefcount(data), _ringcorn.live()["held"]
        transport.write(data)
        assert sys.getrefcount(data) == before + 1 and _ringcorn.live()["held"] == held + 1
        assert 0 < transport.get_write_buffer_size() < len(data)
        assert b"".join(transport._buffer) == data[-transport.get_write_buffer_size() :]
        assert await receive(peer, len(data)) == data
        await asyncio.sleep(0)
        assert sys.getrefcount(data) == before and _ringcorn.live()["held"] == held
        await closed(transport, protocol)

    run(main)


def test_what_cannot_be_written(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        for wrong in ("text", 7, None, [1]):
            with pytest.raises(TypeError, match=f"data argument must be a bytes-like object, not '{type(wrong).__name__}'"):
                transport.write(wrong)
        with pytest.raises(TypeError):
            transport.writelines([b"not sent", "text"])
        with pytest.raises(TypeError):
            transport.writelines(7)
        transport.write(b"ok")
        transport.write_eof()
        with pytest.raises(RuntimeError, match="Cannot call write\\(\\) after write_eof\\(\\)"):
            transport.write(b"late")
        with pytest.raises(RuntimeError, match="Cannot call writelines\\(\\) after write_eof\\(\\)"):
            transport.writelines([b"late"])
        assert await receive(peer, 2) == b"ok"
        assert await asyncio.get_running_loop().sock_recv(peer, 10) == b""
        await closed(transport, protocol)

    run(main)


# --- when it is sent ----------------------------------------------------------------------------


def peek(peer):
    try:
        return peer.recv(1 << 16, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def test_small_writes_of_a_turn_go_out_together_and_at_its_end(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        await asyncio.sleep(0)
        transport.write(b"head")
        transport.write(b"body")
        assert peek(peer) == b""
        await asyncio.sleep(0)
        assert peek(peer) == b"headbody"
        transport.write(b"!")
        assert transport.get_write_buffer_size() == 0  # asking has it sent
        assert peek(peer) == b"headbody!"
        transport.write(b"?")
        transport.abort()  # as has this, where in asyncio it had been sent
        await protocol.lost
        assert peek(peer) == b"headbody!?"

    run(main)


def test_what_is_written_outside_of_a_running_loop_is_sent_at_once(loop, pair):
    ours, peer = pair

    async def main():
        return await connect(ours)

    transport, protocol = loop.run_until_complete(main())
    transport.write(b"now")
    assert peek(peer) == b"now"

    async def last():
        transport.write(b", and at the end of the last turn")

    loop.run_until_complete(last())
    assert peek(peer) == b"now, and at the end of the last turn"
    loop.run_until_complete(closed(transport, protocol))


def test_written_from_connection_made(run, pair):
    ours, peer = pair

    class Greeter(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello")
            transport.write(b" you")

    async def main():
        transport, protocol = await connect(ours, Greeter())
        assert await receive(peer, 9) == b"hello you"
        await closed(transport, protocol)

    run(main)


# --- flow control -------------------------------------------------------------------------------


def test_pause_and_resume_of_writing(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        data = b"d" * 6_000_000
        transport.write(data)
        assert protocol.events == ["made", "pause"] and transport._protocol_paused
        transport.write(b"more")
        assert protocol.events == ["made", "pause"]
        assert " write=<polling, bufsize=" in repr(transport)
        assert await receive(peer, len(data) + 4) == data + b"more"
        await protocol.told("resume")
        assert protocol.events == ["made", "pause", "resume"] and transport.get_write_buffer_size() == 0
        await closed(transport, protocol)

    run(main)


def test_limits(run, pair):
    ours, _ = pair

    async def main():
        transport, protocol = await connect(ours)
        for args, limits in [({}, (16384, 65536)), ({"low": 10}, (10, 40)), ({"high": 0}, (0, 0)), ({"high": 9, "low": 9}, (9, 9)), ({"high": 1 << 70}, None)]:
            transport.set_write_buffer_limits(**args)
            assert limits is None or transport.get_write_buffer_limits() == limits
        assert protocol.events == ["made"]
        for args in ({"high": 1, "low": 2}, {"low": -1, "high": 5}):
            with pytest.raises(ValueError, match=r"high \(\d+\) must be >= low \(-?\d+\) must be >= 0"):
                transport.set_write_buffer_limits(**args)
        with pytest.raises(TypeError):
            transport.set_write_buffer_limits(high="x")
        transport.set_write_buffer_limits(high=0)
        transport.write(b"fits")  # nothing waits, so nothing is paused
        assert protocol.events == ["made"]
        await closed(transport, protocol)

    run(main)


def test_pause_and_resume_of_reading(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        for i in range(3):
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading() and "read=idle" in repr(transport)
            peer.send(b"%d" % i)
            for _ in range(5):
                await asyncio.sleep(0.002)
            assert len(protocol.data) == i
            peer.send(b"")
            transport.resume_reading()
            transport.resume_reading()
            assert transport.is_reading()
            await protocol.has(i + 1)
        transport.pause_reading()  # with nothing to read in between
        await asyncio.sleep(0.002)
        transport.resume_reading()
        transport.pause_reading()
        peer.send(b"3")
        transport.resume_reading()
        await protocol.has(4)
        transport.pause_reading()
        peer.close()
        await asyncio.sleep(0.01)
        assert protocol.events == ["made"]
        transport.resume_reading()
        await protocol.lost
        assert protocol.data == b"0123" and protocol.events == ["made", "eof", "lost"]

    run(main)


def test_pausing_inside_data_received_stops_a_long_stream(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        loop = asyncio.get_running_loop()
        calls = []

        def one_more(data):
            calls.append(len(data))
            transport.pause_reading()
            loop.call_later(0.001, transport.resume_reading)

        protocol.on_data = one_more
        sent = os.urandom(2_000_000)
        await loop.sock_sendall(peer, sent)
        await protocol.has(len(sent))
        assert protocol.data == sent and len(calls) > 1
        await closed(transport, protocol)

    run(main)


def test_one_busy_connection_does_not_starve_others(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = sockets(socket.AF_INET)
        transport, protocol = await connect(ours)
        per_turn, now = [], [0]

        def count(data):
            now[0] += len(data)

        protocol.on_data = count
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        transport.pause_reading()
        sending = asyncio.ensure_future(loop.sock_sendall(peer, bytes(4_000_000)))
        await asyncio.sleep(0.05)
        transport.resume_reading()
        while len(protocol.data) < 4_000_000:
            await asyncio.sleep(0)
            per_turn.append(now[0])
            now[0] = 0
        await sending
        assert max(per_turn) <= 256 * 1024
        await closed(transport, protocol)
        peer.close()

    run(main)


# --- ends ---------------------------------------------------------------------------------------


def test_the_peers_end(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        peer.send(b"last words")
        peer.close()
        assert await protocol.lost is None
        assert protocol.data == b"last words" and protocol.events == ["made", "eof", "lost"]

    run(main)


def test_half_closed_by_the_peer_and_kept_open(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        protocol.keep_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.told("eof")
        await asyncio.sleep(0.01)
        assert protocol.events == ["made", "eof"] and not transport.is_closing()
        transport.write(b"still " * 500_000)
        transport.write_eof()
        assert await receive(peer, 3_000_000) == b"still " * 500_000
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
        await closed(transport, protocol)
        assert protocol.events.count("eof") == 1

    run(main)


def test_half_closed_by_us(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        transport.write(b"q" * 3_000_000)
        transport.write_eof()
        transport.write_eof()
        assert await receive(peer, 3_000_000) == b"q" * 3_000_000
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
        peer.send(b"answer")
        await protocol.has(6)
        await closed(transport, protocol)

    run(main)


def test_closed_with_data_queued(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        data = os.urandom(5_000_000)
        transport.write(data)
        transport.close()
        transport.write(b", and this")  # as asyncio: the queue is not empty, so it goes along
        if ours.family == socket.AF_UNIX:  # TCP answers a close() before what was sent is read with a reset
            peer.send(b"nobody reads this")
        await asyncio.sleep(0.01)
        assert not protocol.lost.done() and transport.get_write_buffer_size() > 0
        assert await receive(peer, len(data) + 10) == data + b", and this"
        assert await protocol.lost is None
        assert protocol.data == b""

    run(main)


def test_aborted_with_data_queued(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        transport.write(bytes(5_000_000))
        assert _ringcorn.live()["held"] == 1
        transport.abort()
        assert transport.get_write_buffer_size() == 0 and _ringcorn.live()["held"] == 0
        assert not protocol.lost.done()  # by call_soon()
        transport.abort()
        transport.close()
        assert await protocol.lost is None
        assert protocol.events == ["made", "pause", "lost"]

    run(main)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset_while_reading(run):
    async def main():
        ours, peer = sockets(socket.AF_INET)
        transport, protocol = await connect(ours)
        reset(peer)
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.events == ["made", "lost"]

    run(main)


def test_a_reset_while_writing(run, pair):
    """Reading is paused: the write finds it. And it is quiet in the log."""
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        transport.pause_reading()
        transport.write(bytes(8_000_000))
        if ours.family == socket.AF_INET:
            reset(peer)
        else:
            peer.close()
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert protocol.events == ["made", "pause", "lost"]

    run(main)


def test_small_writes_to_a_peer_that_is_gone(run, pair, caplog):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        transport.pause_reading()
        peer.close()
        for _ in range(50):
            transport.write(b"x")
            await asyncio.sleep(0.001)
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert [r.getMessage() for r in caplog.records if r.name == "asyncio"][:1] == ["socket.send() raised exception."]

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main)


def test_close_and_abort_are_heard_once_in_any_order(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        transport.close()
        transport.abort()
        transport.close()
        transport._force_close(ValueError("late"))
        assert await protocol.lost is None
        await asyncio.sleep(0)
        transport.close()
        transport.abort()
        transport.write(b"nothing")
        transport.write_eof()
        transport.pause_reading()
        transport.resume_reading()
        assert protocol.events == ["made", "lost"]

    run(main)


def test_closed_in_connection_made(run, pair):
    ours, peer = pair

    class Refuser(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"no")
            transport.close()

    async def main():
        transport, protocol = await connect(ours, Refuser())
        await protocol.lost
        assert await receive(peer, 2) == b"no"

    run(main)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("kind", [Recorder, Buffered, asyncio.StreamReader])
def test_urgent_data(run, kind, inline, apart):
    """A read stops at it, and no event tells of what is behind."""

    async def main():
        ours, peer = sockets(socket.AF_INET)
        if kind is asyncio.StreamReader:
            reader, writer = await asyncio.open_connection(sock=ours)
        else:
            transport, protocol = await connect(ours, kind(100) if kind is Buffered else kind())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(3):
            peer.send(b"before")
            if apart:
                await asyncio.sleep(0.01)
            peer.send(b"!", socket.MSG_OOB)
            if apart:
                await asyncio.sleep(0.01)
            peer.send(b"behind")
            expected = b"before!behind" if inline else b"beforebehind"
            if kind is asyncio.StreamReader:
                assert await reader.readexactly(len(expected)) == expected
            else:
                await protocol.has((i + 1) * len(expected))
                assert protocol.data == (i + 1) * expected
        if kind is asyncio.StreamReader:
            writer.close()
            await writer.wait_closed()
        else:
            await closed(transport, protocol)
        peer.close()

    run(main)


# --- protocols ----------------------------------------------------------------------------------


def test_another_protocol_while_running(run, pair):
    ours, peer = pair

    async def main():
        transport, first = await connect(ours)
        peer.send(b"one")
        await first.has(3)
        second = Buffered()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.send(b"two")
        await second.has(3)
        third = Recorder()
        second.on_data = lambda data: transport.set_protocol(third)
        peer.send(b"x" * 40)  # more than fits into the buffer of the second
        await third.has(24)
        transport.close()
        await third.lost
        assert first.data == b"one" and second.data == b"two" + b"x" * 16 and third.data == b"x" * 24
        assert first.events == ["made"] and second.events == [] and third.events == ["lost"]

    run(main)


class Broken(Recorder):
    """Raises in one method."""

    def __init__(self, where, exc):
        super().__init__()
        self.where, self.exc = where, exc

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "__dict__").get("where"):

            def fail(*args):
                if name == "connection_lost":
                    self.lost.set_result(None)
                raise self.exc

            return fail
        return object.__getattribute__(self, name)


class BrokenBuffered(asyncio.BufferedProtocol, Broken):
    def __init__(self, where, exc):
        Broken.__init__(self, where, exc)

    def get_buffer(self, sizehint):
        return bytearray(10)

    def buffer_updated(self, nbytes):
        pass


@pytest.mark.parametrize(
    "where, message, is_fatal",
    [
        ("data_received", "Fatal error: protocol.data_received() call failed.", True),
        ("eof_received", "Fatal error: protocol.eof_received() call failed.", True),
        ("get_buffer", "Fatal error: protocol.get_buffer() call failed.", True),
        ("buffer_updated", "Fatal error: protocol.buffer_updated() call failed.", True),
        ("pause_writing", "protocol.pause_writing() failed", False),
        ("resume_writing", "protocol.resume_writing() failed", False),
        ("connection_made", "Exception in callback", False),
        ("connection_lost", "Exception in callback", False),
    ],
)
def test_an_exception_of_the_protocol(run, loop, pair, where, message, is_fatal):
    ours, peer = pair
    exc = ValueError("of the test")

    async def main():
        kind = BrokenBuffered if "buffer" in where else Broken
        transport, protocol = await connect(ours, kind(where, exc))
        if "writing" in where:
            transport.write(bytes(3_000_000))
            await receive(peer, 3_000_000)
            while transport._protocol_paused:
                await asyncio.sleep(0.001)
        elif where == "eof_received":
            peer.shutdown(socket.SHUT_WR)
        elif where in ("data_received", "get_buffer", "buffer_updated"):
            peer.send(b"data")
        else:
            transport.close()
        if not is_fatal:
            transport.close()
        assert (await protocol.lost) is (exc if is_fatal else None)
        await asyncio.sleep(0)
        (context,) = loop.problems
        assert context["message"].startswith(message) and context["exception"] is exc
        if is_fatal:
            assert context["transport"] is transport and context["protocol"] is protocol
        assert ours.fileno() == -1
        loop.problems.clear()

    run(main)


def test_an_empty_buffer(run, loop, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours, Buffered(0))
        peer.send(b"data")
        exc = await protocol.lost
        assert isinstance(exc, RuntimeError) and str(exc) == "get_buffer() returned an empty buffer"
        loop.problems.clear()

    run(main)


@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["data_received", "eof_received", "connection_lost"])
def test_exits_leave_the_loop_and_it_goes_on(loop, pair, exc, where):
    ours, peer = pair

    made = []

    async def main():
        made.extend(await connect(ours, Broken(where, exc("of the test"))))
        peer.send(b"data")
        peer.shutdown(socket.SHUT_WR)
        await asyncio.sleep(5)

    task = loop.create_task(main())
    with pytest.raises(exc):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    transport, protocol = made
    protocol.where = None
    if where != "connection_lost":
        loop.run_until_complete(closed(transport, protocol))
    assert ours.fileno() == -1


def test_the_context_is_the_transports_own(run, pair):
    ours, peer = pair
    variable = contextvars.ContextVar("variable", default="nothing")
    seen = []

    async def main():
        variable.set("made here")
        transport, protocol = await connect(ours)

        def note(data):
            seen.append(variable.get())
            variable.set("set by data_received")

        protocol.on_data = note
        for i in range(2):
            peer.send(b"x")
            await protocol.has(i + 1)
        assert variable.get() == "made here"
        assert seen == ["made here", "set by data_received"]
        await closed(transport, protocol)

    run(main)


@pytest.mark.parametrize("kind", [Recorder, asyncio.StreamReader])
def test_reads_are_as_long_as_messages(run, kind):
    """Also after one that came in two pieces, and after shorter ones; and what is read is what was sent."""

    async def main():
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        pieces = []
        if kind is asyncio.StreamReader:
            transport, protocol, reader = await streams(ours, limit=1 << 20)
        else:
            transport, protocol = await connect(ours)
            protocol.on_data = pieces.append

        async def message(*sizes):
            """The sizes of what it was read in; the next piece is sent when the one before has been read."""
            pieces.clear()
            for size in sizes:
                sent = os.urandom(size)
                peer.sendall(sent)
                if kind is asyncio.StreamReader:
                    got = b""
                    while len(got) < size:
                        pieces.append(await reader.read(1 << 20))
                        got += pieces[-1]
                    assert got == sent
                else:
                    protocol.data = b""
                    await protocol.has(size)
                    assert protocol.data == sent
            return [len(piece) for piece in pieces]

        await message(100_000)
        await message(65_536, 34_464)
        for _ in range(3):
            assert await message(100_000) == [100_000]
        for _ in range(15):
            assert await message(100) == [100]
        assert await message(100_000) == [100_000]
        for _ in range(40):
            assert await message(10_000) == [10_000]
        for _ in range(3):
            await message(100_000)
        assert await message(100_000) == [100_000]
        if kind is asyncio.StreamReader:
            transport.close()
            await protocol._get_close_waiter(None)
        else:
            await closed(transport, protocol)
        peer.close()

    run(main)


# --- asyncio's streams, which are fed without Python ---------------------------------------------


async def streams(sock, limit=2**16):
    reader = asyncio.StreamReader(limit=limit)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await connect(sock, protocol)
    return transport, protocol, reader


def test_a_stream_reader_gets_what_was_sent(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol, reader = await streams(ours)
        loop = asyncio.get_running_loop()
        for n in (1, 10, 1000, 40_000, 300_000, 5, 2_000_000, 7):
            sent = os.urandom(n)
            sending = asyncio.ensure_future(loop.sock_sendall(peer, sent))
            assert await reader.readexactly(n) == sent
            await sending
        peer.send(b"line one\nline two\nthe rest")
        assert await reader.readline() == b"line one\n"
        assert await reader.readuntil(b"two\n") == b"line two\n"
        peer.close()
        assert await reader.read() == b"the rest" and reader.at_eof()
        transport.close()
        await protocol._get_close_waiter(None)

    run(main)


def test_a_stream_reader_that_is_full_pauses_its_transport(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol, reader = await streams(ours, limit=100)
        for i in range(5):
            peer.send(b"x" * 201)
            while transport.is_reading():
                await asyncio.sleep(0.001)
            assert reader._paused and len(reader._buffer) == 201
            peer.send(b"y")
            await asyncio.sleep(0.002)
            assert len(reader._buffer) == 201
            assert await reader.readexactly(202) == b"x" * 201 + b"y"
            assert transport.is_reading()
        transport.close()
        await protocol._get_close_waiter(None)

    run(main)


@pytest.mark.parametrize("where", ["reader", "protocol", "class", "subclass"])
def test_another_feed_data_is_called(run, pair, monkeypatch, where):
    ours, peer = pair
    fed = []

    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            fed.append(data)

    async def main():
        transport, protocol, reader = await streams(ours)
        if where == "subclass":
            protocol._stream_reader_wr = weakref.ref(reader := Reader())
        elif where == "reader":
            reader.feed_data = fed.append
        elif where == "class":
            monkeypatch.setattr(asyncio.StreamReader, "feed_data", lambda self, data: fed.append(data))
        else:
            protocol.data_received = fed.append
        peer.send(b"seen")
        while not fed:
            await asyncio.sleep(0.001)
        assert fed == [b"seen"] and not reader._buffer
        transport.close()
        await protocol._get_close_waiter(None)
        protocol.__dict__.pop("data_received", None)

    run(main)


@pytest.mark.parametrize("long", [False, True])
def test_the_end_while_somebody_has_the_buffer(run, pair, long):
    """It has nothing to do with the buffer, however long the read was meant to be."""
    ours, peer = pair

    async def main():
        transport, protocol, reader = await streams(ours)
        for _ in range(3):
            peer.send(b"x" * 20_000 if long else b"x")
            await reader.readexactly(20_000 if long else 1)
        with memoryview(reader._buffer):
            peer.close()
            assert await reader.read() == b"" and reader.at_eof()
        transport.close()
        await protocol._get_close_waiter(None)

    run(main)


@pytest.mark.parametrize("long", [False, True])
def test_what_feed_data_would_raise_is_raised(run, loop, pair, long):
    ours, peer = pair

    async def main():
        transport, protocol, reader = await streams(ours)
        if long:
            peer.send(b"x" * 20_000)
            await reader.readexactly(20_000)
        with memoryview(reader._buffer):  # so it cannot grow
            peer.send(b"data")
            while not transport.is_closing():
                await asyncio.sleep(0.001)
        with pytest.raises(BufferError):
            await protocol._get_close_waiter(None)
        (context,) = loop.problems
        assert context["message"] == "Fatal error: protocol.data_received() call failed."
        assert isinstance(context["exception"], BufferError)
        assert isinstance(reader.exception(), BufferError)
        loop.problems.clear()
        reader._exception = context = None

    run(main)


def test_a_cancelled_read_and_a_reader_that_is_gone(run, pair):
    ours, peer = pair

    async def main():
        transport, protocol, reader = await streams(ours)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(10), 0.005)
        task = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        reader._waiter.cancel()
        peer.send(b"kept")
        with pytest.raises(asyncio.CancelledError):
            await task
        while not reader._buffer:
            await asyncio.sleep(0.001)
        assert await reader.read(10) == b"kept"
        protocol._stream_reader_wr = None
        peer.send(b"dropped")
        await asyncio.sleep(0.005)
        assert not reader._buffer and not transport.is_closing()
        transport.close()
        await protocol._get_close_waiter(None)

    run(main)


# --- servers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_many_connections_of_a_server(run, family, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        count = 0

        async def serve(reader, writer):
            nonlocal count
            count += 1
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        if family == socket.AF_UNIX:
            server = await asyncio.start_unix_server(serve, str(tmp_path / "sock"), backlog=300)
        else:
            server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=300)

        async def one(i):
            if family == socket.AF_UNIX:
                reader, writer = await asyncio.open_unix_connection(str(tmp_path / "sock"))
            else:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert type(writer.transport) is _ringcorn.StreamTransport
            sent = bytes([i % 256]) * (1 + 997 * i)
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*map(one, range(200)))
        assert count == 200
        server.close()
        await asyncio.wait_for(server.wait_closed(), 5)
        assert len(loop._transports) == 0

    run(main)


def test_wait_closed_waits_for_connections(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        def make():
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(make, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            while not made or made[0].transport is None:
                await asyncio.sleep(0.001)
            assert made[0].transport._server is server
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            await asyncio.sleep(0.01)
            if sys.version_info >= (3, 12, 1):
                assert not waiting.done()
            if sys.version_info >= (3, 13):
                server.close_clients()
            else:
                made[0].transport.close()
            await waiting
            await made[0].lost
            if sys.version_info >= (3, 13):
                server.abort_clients()

    run(main)


def test_abort_of_what_has_failed_when_the_loop_is_closed(loop, pair):
    """Its last write was sent, and has failed, as the loop stopped; the loop is closed before it is told of."""
    ours, peer = pair
    transport, protocol = loop.run_until_complete(connect(ours))
    transport.pause_reading()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    peer.close()

    def last():
        transport.write(b"to nobody")
        loop.stop()

    loop.call_soon(last)
    loop.run_forever()
    loop.close()
    try:
        transport.abort()
        said = None
    except RuntimeError as exc:
        said = str(exc)
    assert said == "Event loop is closed" and transport.is_closing()
    with warnings.catch_warnings(record=True) as caught:  # nobody closes it any more
        warnings.simplefilter("always", ResourceWarning)
        del transport, protocol
        gc.collect()
    assert len(caught) == 1 and ours.fileno() == -1
    caught.clear()


# --- sendfile -----------------------------------------------------------------------------------


def test_sendfile(run, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = sockets(socket.AF_INET)
        transport, protocol = await connect(ours)
        transport.write(b"head")
        peer.send(b"while it sends")
        with open(tmp_path / "file", "rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(transport, file, fallback=False))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                transport.write(b"in between")
            assert await receive(peer, len(data) + 4) == b"head" + data
            assert await sending == len(data)
        transport.write(b"tail")
        assert await receive(peer, 4) == b"tail"
        await protocol.has(14)
        peer.send(b"!")
        await protocol.has(15)
        assert protocol.data == b"while it sends!"
        await closed(transport, protocol)
        peer.close()

    run(main)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_is_resumed_while_sendfile_has_the_socket(run, tmp_path, family):
    """What has arrived in a pause before is read when the socket is back."""
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = sockets(family)
        transport, protocol = await connect(ours)
        transport.pause_reading()
        peer.send(b"in the pause")
        for _ in range(5):
            await asyncio.sleep(0)
        with open(tmp_path / "file", "rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(transport, file, fallback=False))
            for _ in range(5):
                await asyncio.sleep(0)
            transport.resume_reading()
            assert await receive(peer, len(data)) == data
            assert await sending == len(data)
        await asyncio.wait_for(protocol.has(12), 10)
        assert protocol.data == b"in the pause"
        await closed(transport, protocol)
        peer.close()

    run(main)


# --- life ---------------------------------------------------------------------------------------


def test_an_unclosed_transport_is_warned_of(loop, pair):
    """One that the loop has closed over, and nobody has any more."""
    ours, peer = pair

    async def main():
        await connect(ours)

    loop.run_until_complete(main())
    gc.collect()
    assert _ringcorn.live()["transports"] == 1  # it reads
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        loop.close()
        gc.collect()
    (warning,) = caught
    assert str(warning.message).startswith("unclosed transport <StreamTransport fd=")
    assert ours.fileno() == -1
    del warning
    caught.clear()  # they have the transport as their source
    gc.collect()
    assert _ringcorn.live()["transports"] == 0


def test_the_loop_and_its_transports_are_garbage_together(usable_io, pair):
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        transport.write(bytes(5_000_000))
        protocol.loop = asyncio.get_running_loop()

    gc.collect()
    loop = ringcorn.loop.new_event_loop(usable_io)
    loop.run_until_complete(main())
    ref = weakref.ref(loop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        del loop
        gc.collect()
    assert ref() is None
    assert sum("unclosed transport" in str(w.message) for w in caught) == 1
    caught.clear()
    gc.collect()
    assert _ringcorn.live()["transports"] == 0 and _ringcorn.live()["held"] == 0
    assert ours.fileno() == -1


def test_finalised_in_another_thread(loop, pair):
    """A transport that reads no more is dropped by a thread while the loop waits."""
    ours, peer = pair

    async def main():
        transport, protocol = await connect(ours)
        protocol.keep_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.told("eof")
        protocol.transport = None
        await asyncio.sleep(0.01)
        box.append(transport)

    box, caught = [], []
    loop.run_until_complete(main())

    def drop():
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", ResourceWarning)
            box.pop()
            gc.collect()
        caught.extend(seen)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=drop)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert len(caught) == 1 and ours.fileno() == -1
    caught.clear()
    gc.collect()
    assert _ringcorn.live()["transports"] == 0


PEER = """
import socket, sys
peer = socket.socket(fileno=int(sys.argv[1]))
peer.setblocking(True)
buffer, got, size = bytearray(1 << 22), 0, int(sys.argv[2])
while n := peer.recv_into(buffer):
    got += n
    if got >= size:
        got -= size
        peer.send(b"k")
"""


def test_another_thread_writes_more_than_there_is_room_for(run, pair):
    """To a peer who reads at once: there may be room again before the loop has heard that it is waited for."""
    ours, peer = pair
    size, rounds = 4_000_000, 100

    async def main():
        transport, protocol = await connect(ours)
        args = [sys.executable, "-c", PEER, str(peer.fileno()), str(size)]
        reader = subprocess.Popen(args, pass_fds=[peer.fileno()])
        peer.close()
        loop = asyncio.get_running_loop()
        for i in range(rounds):
            await loop.run_in_executor(None, transport.write, bytes(size))
            await asyncio.wait_for(protocol.has(i + 1), 10)
        await closed(transport, protocol)
        assert reader.wait() == 0

    run(main)


def test_a_transport_of_a_loop_that_goes_to_another_thread(loop, pair):
    """With reading, and a write that waits for room."""
    ours, peer = pair
    sent = os.urandom(6_000_000)

    async def begin():
        transport, protocol = await connect(ours)
        transport.write(sent)
        assert transport.get_write_buffer_size() > 0
        return transport, protocol

    transport, protocol = loop.run_until_complete(begin())

    async def go_on():
        assert await receive(peer, len(sent)) == sent
        peer.send(b"in another thread")
        await protocol.has(17)
        transport.write(b"answer")
        assert await receive(peer, 6) == b"answer"

    def other():
        try:
            loop.run_until_complete(asyncio.wait_for(go_on(), 10))
        except BaseException as exc:
            errors.append(exc)

    errors = []
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert errors == []

    async def end():
        peer.send(b", and back")
        await protocol.has(27)
        await closed(transport, protocol)

    loop.run_until_complete(asyncio.wait_for(end(), 10))


def test_written_and_closed_by_a_thread_while_the_loop_rests(loop, pair):
    ours, peer = pair

    async def begin():
        return await connect(ours)

    transport, protocol = loop.run_until_complete(begin())

    def other():
        transport.write(b"w" * 5_000_000)
        transport.pause_reading()
        transport.resume_reading()
        transport.close()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()

    async def end():
        assert await receive(peer, 5_000_000) == b"w" * 5_000_000
        assert await protocol.lost is None

    loop.run_until_complete(asyncio.wait_for(end(), 10))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_with_open_transports(loop, usable_io, pair):
    """The child drops them and uses a new loop; the parent's go on."""
    ours, peer = pair

    async def echo():
        one, two = sockets(socket.AF_INET)
        transport, protocol = await connect(one)
        two.send(b"child")
        await protocol.has(5)
        transport.close()
        await protocol.lost
        two.close()

    async def main():
        transport, protocol = await connect(ours)
        transport.write(bytes(6_000_000))
        await asyncio.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(10)
                asyncio._set_running_loop(None)
                new = ringcorn.loop.new_event_loop(usable_io)
                new.run_until_complete(echo())
                new.close()
                transport.pause_reading()
                transport.abort()
                status = 0
            finally:
                os._exit(status)
        assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0)
        await receive(peer, 6_000_000)
        peer.send(b"parent")
        await protocol.has(6)
        await closed(transport, protocol)

    loop.run_until_complete(asyncio.wait_for(main(), 20))


def test_descriptors_sent_along_do_not_hide_what_follows(run):
    """A read of a unix socket ends where a descriptor was sent; no event tells of the rest."""

    async def main():
        ours, peer = sockets(socket.AF_UNIX)
        transport, protocol = await connect(ours)
        transport.pause_reading()
        for part in (b"one", b"two", b"three"):
            socket.send_fds(peer, [part], [peer.fileno()])
        await asyncio.sleep(0.01)
        transport.resume_reading()
        await asyncio.wait_for(protocol.has(11), 5)
        assert protocol.data == b"onetwothree"
        await closed(transport, protocol)
        peer.close()

    run(main)


class Lines(logging.Handler):
    """Keeps the text alone: a record has the transport among its arguments."""

    def __init__(self):
        super().__init__()
        self.text = ""

    def emit(self, record):
        self.text += record.getMessage() + "\n"


def test_debug_mode_tells(loop, pair, monkeypatch):
    ours, peer = pair
    logger, lines = logging.getLogger("asyncio"), Lines()
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger._cache.clear()
    logger.addHandler(lines)
    loop.set_debug(True)
    loop.slow_callback_duration = 0

    async def main():
        transport, protocol = await connect(ours)
        transport.pause_reading()
        transport.resume_reading()
        peer.close()
        await protocol.lost

    try:
        loop.run_until_complete(main())
    finally:
        logger.removeHandler(lines)
        logger._cache.clear()
    for part in ("pauses reading", "resumes reading", "received EOF", "Executing <StreamTransport"):
        assert part in lines.text


def test_a_connection_costs_no_memory_when_it_is_over(run):
    async def once():
        ours, peer = sockets(socket.AF_INET)
        transport, protocol = await connect(ours)
        protocol.on_data = transport.write
        peer.send(b"x" * 1000)
        assert await receive(peer, 1000) == b"x" * 1000
        peer.close()
        await protocol.lost

    async def main():
        counts = []
        for _ in range(3):
            for _ in range(20):
                await once()
            for _ in range(3):  # the io gives back its last operation after the protocol was told
                await asyncio.sleep(0)
            gc.collect()
            counts.append(len(gc.get_objects()))
            assert _ringcorn.live()["transports"] == 0
        assert counts[2] <= counts[1] + 5

    run(main)


def test_a_transport_is_not_made_of_nonsense(loop, pair):
    ours, peer = pair
    with pytest.raises(TypeError):
        _ringcorn._stream_transport(loop)
    with pytest.raises(TypeError, match="LoopCore"):
        _ringcorn._stream_transport(1, ours, None, None, None, None)
    with pytest.raises(TypeError, match="dict"):
        _ringcorn._stream_transport(loop, ours, asyncio.Protocol(), None, 7, None)
    with pytest.raises(AttributeError):
        _ringcorn._stream_transport(loop, ours, object(), None, None, None)
    turns(loop, 2)
    assert ours.fileno() >= 0


# --- the order of things


def order_of(loop):
    """What runs in which order when data arrives while other things are ready."""
    seen = []

    async def main():
        ours, peer = sockets(socket.AF_INET)
        try:
            protocol = Recorder()
            transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
            await asyncio.sleep(0.01)

            def on_data(data):
                seen.append("data")
                loop.call_soon(seen.append, "made ready by data")

            def ready():
                seen.append("ready")
                loop.call_soon(seen.append, "made ready by that")

            def begin():
                peer.send(b"x")
                loop.call_soon(ready)
                loop.call_soon(seen.append, "ready too")

            protocol.on_data = on_data
            loop.call_soon(begin)
            await protocol.has(1)
            await asyncio.sleep(0.01)
            transport.close()
            await protocol.lost
        finally:
            peer.close()

    loop.run_until_complete(main())
    return seen


def test_what_was_ready_before_data_came_runs_first_as_in_asyncio(loop):
    stock = asyncio.SelectorEventLoop()
    try:
        expected = order_of(stock)
    finally:
        stock.close()
    assert expected == ["ready", "ready too", "data", "made ready by that", "made ready by data"]
    assert order_of(loop) == expected
