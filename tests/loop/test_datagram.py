"""Datagram transports: the C type of IPv4, IPv6 and connected unix sockets, and asyncio's own beside it."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import sys
import weakref

import pytest
from conftest import turns

EMPTY_IS_SENT = sys.version_info >= (3, 13)
HEADER = 8 if EMPTY_IS_SENT else 0


class Protocol(asyncio.DatagramProtocol):
    def __init__(self, loop):
        self.loop = loop
        self.got, self.errors, self.events = [], [], []
        self.lost = loop.create_future()
        self.wanted, self.arrived = 0, None

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("made")

    def datagram_received(self, data, addr):
        self.got.append((data, addr))
        self._look()

    def error_received(self, exc):
        self.errors.append(exc)
        self._look()

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(exc)

    def _look(self):
        if self.arrived is not None and not self.arrived.done() and len(self.got) + len(self.errors) >= self.wanted:
            self.arrived.set_result(None)

    async def until(self, n):
        """Until so many datagrams and errors have come."""
        self.wanted, self.arrived = n, self.loop.create_future()
        self._look()
        await self.arrived


async def endpoint(loop, protocol=None, **options):
    transport, protocol = await loop.create_datagram_endpoint(lambda: protocol or Protocol(loop), **options)
    return transport, protocol


@contextlib.asynccontextmanager
async def endpoints(loop, host="127.0.0.1"):
    """A server that is bound, and a client that is connected to it."""
    server, at_server = await endpoint(loop, local_addr=(host, 0))
    client, at_client = await endpoint(loop, remote_addr=server.get_extra_info("sockname")[:2])
    yield server, at_server, client, at_client
    for transport, protocol in ((server, at_server), (client, at_client)):
        transport.close()
        await protocol.lost


@pytest.fixture
def unix_pair(tmp_path):
    """Two unix sockets: one bound, the other connected to it, whose queue is soon full."""
    server, client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "server"))
    client.connect(str(tmp_path / "server"))
    server.setblocking(False)
    client.setblocking(False)
    yield server, client
    server.close()
    client.close()


def is_ours(transport):
    return type(transport).__module__ == "_ringcorn"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_there_and_back(loop, run, host):
    async def main():
        async with endpoints(loop, host) as (server, at_server, client, at_client):
            assert is_ours(server) and is_ours(client)
            assert isinstance(server, asyncio.DatagramTransport) and isinstance(server, asyncio.Transport)
            client.sendto(b"one")
            client.sendto(bytearray(b"two"), None)
            client.sendto(memoryview(b"three"), server.get_extra_info("sockname"))
            await at_server.until(3)
            address = client.get_extra_info("sockname")
            assert at_server.got == [(b"one", address), (b"two", address), (b"three", address)]
            assert [type(data) for data, _ in at_server.got] == [bytes] * 3
            server.sendto(b"back", at_server.got[0][1])
            server.sendto(data=b"by name", addr=address)
            await at_client.until(2)
            assert at_client.got == [(b"back", server.get_extra_info("sockname")), (b"by name", server.get_extra_info("sockname"))]

    run(main)


def test_what_a_transport_tells_of_itself(loop, run):
    async def main():
        async with endpoints(loop) as (server, at_server, client, at_client):
            sock = server.get_extra_info("socket")
            assert sock.type == socket.SOCK_DGRAM and sock.getsockname() == server.get_extra_info("sockname")
            assert server.get_extra_info("peername") is None
            assert client.get_extra_info("peername") == server.get_extra_info("sockname")
            assert client.get_extra_info("nothing") is None and client.get_extra_info("nothing", 7) == 7
            assert client.get_extra_info(name="nothing", default=8) == 8
            with pytest.raises(TypeError):
                client.get_extra_info()
            assert client.get_protocol() is at_client
            assert client.get_write_buffer_limits() == (16384, 65536)
            assert client.get_write_buffer_size() == 0
            assert f"fd={sock.fileno()} read=polling write=<idle, bufsize=0>" in repr(server)
            assert not client.is_closing() and client.is_reading()
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_reader(sock.fileno(), print)
            client.close()
            assert client.is_closing() and not client.is_reading() and "closing" in repr(client)
            await at_client.lost
            assert "closed" in repr(client) and at_client.events == ["made", "lost"]
            client.close()
            client.abort()

    run(main)


def test_limits_of_the_write_buffer(loop, run):
    async def main():
        async with endpoints(loop) as (server, *_):
            for given, told in (
                ({}, (16384, 65536)), ({"high": 100}, (25, 100)), ({"low": 10}, (10, 40)), ({"high": 0}, (0, 0)),
                ({"high": 30, "low": 30}, (30, 30)), ({"high": 1 << 80}, (sys.maxsize, sys.maxsize)),
            ):  # fmt: skip
                server.set_write_buffer_limits(**given)
                assert server.get_write_buffer_limits() == told
            server.set_write_buffer_limits(5, 1)
            assert server.get_write_buffer_limits() == (1, 5)
            for high, low in ((1, 2), (-1, None), (5, -1)):
                with pytest.raises(ValueError, match=rf"high \({high}\) must be >= low \(.*\) must be >= 0"):
                    server.set_write_buffer_limits(high, low)
            with pytest.raises(TypeError):
                server.set_write_buffer_limits("much")

    run(main)


def test_wrong_arguments(loop, run):
    async def main():
        async with endpoints(loop) as (server, at_server, client, at_client):
            with pytest.raises(TypeError, match="data argument must be a bytes-like object, not 'str'"):
                client.sendto("text")
            with pytest.raises(ValueError, match="Invalid address: must be None or"):
                client.sendto(b"x", ("127.0.0.1", 9))
            for wrong in ((), (b"x", None, 1)):
                with pytest.raises(TypeError):
                    client.sendto(*wrong)
            with pytest.raises(TypeError):
                client.sendto(b"x", address=1)
            client.sendto(b"still there")
            await at_server.until(1)

    run(main)


def test_an_empty_datagram(loop, run):
    async def main():
        async with endpoints(loop) as (server, at_server, client, _):
            client.sendto(b"")
            client.sendto(b"x")
            await at_server.until(2 if EMPTY_IS_SENT else 1)
            assert [data for data, _ in at_server.got] == ([b""] if EMPTY_IS_SENT else []) + [b"x"]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"", server.get_extra_info("sockname"))
            at_server.got.clear()
            await at_server.until(1)
            assert at_server.got[0][0] == b""

    run(main)


@pytest.mark.parametrize("address", [("localhost", None), ("127.0.0.1", True)])
def test_addresses_that_the_socket_object_reads(loop, run, address):
    """Names are looked up; what is no exact tuple of str and int is left to Python."""

    async def main():
        async with endpoints(loop) as (server, at_server, client, _):
            port = server.get_extra_info("sockname")[1]
            other, at_other = await endpoint(loop, local_addr=("127.0.0.1", 0))

            class Port(int):
                pass

            other.sendto(b"x", (address[0], Port(port) if address[1] else port))
            await at_server.until(1)
            assert at_server.got == [(b"x", other.get_extra_info("sockname"))]
            other.close()
            await at_other.lost

    run(main)


def test_an_address_that_cannot_be_ends_the_transport(loop, run):
    """By asyncio's rule: what is no OSError is told to the loop's exception handler, and the transport is aborted."""

    async def main():
        for wrong, kind in ((None, TypeError), (("127.0.0.1", 1 << 20), OverflowError), (("127.0.0.1",), TypeError), ("host", TypeError)):
            transport, protocol = await endpoint(loop, local_addr=("127.0.0.1", 0))
            transport.sendto(b"x", wrong)
            assert transport.is_closing() and isinstance(await protocol.lost, kind)
            context = loop.problems.pop()
            assert context["message"] == "Fatal write error on datagram transport"
            assert isinstance(context["exception"], kind) and context["transport"] is transport and context["protocol"] is protocol
            for _ in range(10):
                transport.sendto(b"after the end", ("127.0.0.1", 9))
            assert protocol.got == [] and protocol.errors == []

    run(main)


def test_errors_of_the_system_are_the_protocols(loop, run):
    async def main():
        async with endpoints(loop) as (server, at_server, client, at_client):
            server.sendto(bytes(70000), client.get_extra_info("sockname"))
            assert [e.errno for e in at_server.errors] == [errno.EMSGSIZE]
            client.sendto(b"x")
            await at_server.until(2)

    run(main)


def test_a_port_where_nobody_listens(loop, run):
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            address = gone.getsockname()
        client, protocol = await endpoint(loop, remote_addr=address)
        for i in range(1, 4):
            client.sendto(b"x")
            await protocol.until(i)
            assert isinstance(protocol.errors[-1], ConnectionRefusedError)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind(address)
            client.sendto(b"now")
            back.settimeout(5)
            data, at = back.recvfrom(10)
            assert data == b"now"
            back.sendto(b"heard", at)
            await protocol.until(4)
        assert protocol.got == [(b"heard", address)]
        client.close()
        await protocol.lost

    run(main)


def test_a_flood_is_taken_in_order_and_others_have_their_turn(loop, run):
    async def main():
        server, at_server = await endpoint(loop, local_addr=("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for i in range(150):
                other.sendto(b"%d" % i, server.get_extra_info("sockname"))
        seen = []

        def look():
            seen.append(len(at_server.got))
            if seen[-1] < 150:
                loop.call_soon(look)

        look()
        await at_server.until(150)
        assert [data for data, _ in at_server.got] == [b"%d" % i for i in range(150)]
        assert max(b - a for a, b in zip(seen, seen[1:])) <= 32
        server.close()
        await at_server.lost

    run(main)


def test_many_peers_are_told_apart(loop, run):
    async def main():
        server, at_server = await endpoint(loop, local_addr=("127.0.0.1", 0))
        others = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(150)]
        for i, other in enumerate(others):
            other.bind((f"127.0.0.{i % 5 + 1}", 0))
        for round in range(2):
            at_server.got.clear()
            for i in range(0, 150, 50):
                for other in others[i : i + 50]:
                    other.sendto(str(other.getsockname()).encode(), server.get_extra_info("sockname"))
                await at_server.until(i + 50)
            assert [data.decode() for data, _ in at_server.got] == [str(address) for _, address in at_server.got]
            assert len({address for _, address in at_server.got}) == 150
        for other in others:
            other.close()
        server.close()
        await at_server.lost

    run(main)


def test_large_datagrams_are_whole(loop, run):
    async def main():
        async with endpoints(loop) as (server, at_server, client, _):
            data = os.urandom(65507)
            for _ in range(3):
                client.sendto(data)
            await at_server.until(3)
            assert all(got == data for got, _ in at_server.got)

    run(main)


def test_paused_in_the_middle_of_what_was_received(loop, run):
    async def main():
        server, protocol = await endpoint(loop, local_addr=("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        received = protocol.datagram_received

        def pausing(data, addr):
            received(data, addr)
            server.pause_reading()
            server.pause_reading()

        protocol.datagram_received = pausing
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for i in range(10):
                other.sendto(b"%d" % i, address)
            for i in range(1, 10):
                await protocol.until(i)
                assert not server.is_reading()
                await asyncio.sleep(0.002)
                assert len(protocol.got) == i
                server.resume_reading()
                server.resume_reading()
            await protocol.until(10)
            protocol.datagram_received = received
            other.sendto(b"10", address)  # in the pause
            await asyncio.sleep(0.002)
            server.resume_reading()
            await protocol.until(11)
        assert [data for data, _ in protocol.got] == [b"%d" % i for i in range(11)]
        server.close()
        await protocol.lost

    run(main)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_closed_in_the_middle_of_what_was_received(loop, run, how):
    async def main():
        server, protocol = await endpoint(loop, local_addr=("127.0.0.1", 0))
        received = protocol.datagram_received

        def closing(data, addr):
            received(data, addr)
            getattr(server, how)()

        protocol.datagram_received = closing
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for i in range(10):
                other.sendto(b"%d" % i, server.get_extra_info("sockname"))
        assert await protocol.lost is None
        assert [data for data, _ in protocol.got] == [b"0"]
        del protocol.datagram_received

    run(main)


def test_closed_by_somebody_else_is_told_once(loop, run):
    """Not for ever, and the loop has nothing to do with it any more."""

    async def main():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        transport, protocol = await endpoint(loop, sock=sock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for i in range(8):  # more than are taken at once
                peer.sendto(b"%d" % i, sock.getsockname())
        protocol.datagram_received = lambda data, addr: sock.close()
        await protocol.until(1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert [error.errno for error in protocol.errors] == [errno.EBADF]
        transport.abort()
        assert await protocol.lost is None

    run(main)


def test_an_exception_of_the_protocol_is_told_and_the_rest_is_delivered(loop, run):
    async def main():
        server, protocol = await endpoint(loop, local_addr=("127.0.0.1", 0))
        received = protocol.datagram_received

        def failing(data, addr):
            received(data, addr)
            if data == b"1":
                raise ZeroDivisionError

        protocol.datagram_received = failing
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for i in range(4):
                other.sendto(b"%d" % i, server.get_extra_info("sockname"))
        await protocol.until(4)
        assert [data for data, _ in protocol.got] == [b"0", b"1", b"2", b"3"]
        assert [type(context["exception"]) for context in loop.problems] == [ZeroDivisionError]
        loop.problems.clear()
        del protocol.datagram_received
        server.close()
        await protocol.lost

    run(main)


def test_system_exit_leaves_the_loop_and_the_rest_is_delivered_later(loop, run):
    async def begin():
        return await endpoint(loop, local_addr=("127.0.0.1", 0))

    server, protocol = run(begin)
    received = protocol.datagram_received

    def leaving(data, addr):
        received(data, addr)
        if data == b"0":
            raise SystemExit(3)

    protocol.datagram_received = leaving
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for i in range(3):
            other.sendto(b"%d" % i, server.get_extra_info("sockname"))
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert len(protocol.got) == 1

    async def rest():
        await protocol.until(3)
        server.close()
        await protocol.lost

    run(rest)
    del protocol.datagram_received


def test_without_room_it_is_queued_and_the_protocol_is_paused(loop, run, unix_pair):
    server, client = unix_pair

    async def main():
        transport, protocol = await endpoint(loop, sock=client)
        assert is_ours(transport)
        transport.set_write_buffer_limits(high=3000 + 3 * HEADER, low=1000 + HEADER)
        sent = 0
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"%04d" % sent + bytes(996))
            sent += 1
        assert transport.get_write_buffer_size() == 1000 + HEADER and protocol.events == ["made"]
        assert "write=<polling" in repr(transport)
        for _ in range(3):
            assert "pause" not in protocol.events
            transport.sendto(bytearray(b"%04d" % sent + bytes(996)))
            sent += 1
        assert protocol.events == ["made", "pause"] and transport.get_write_buffer_size() == 4 * (1000 + HEADER)
        got = []
        while len(got) < sent:
            with contextlib.suppress(BlockingIOError):
                got.append(server.recv(2000))
                assert len(got[-1]) == 1000
            await asyncio.sleep(0)
        assert [int(data[:4]) for data in got] == list(range(sent))
        assert protocol.events == ["made", "pause", "resume"] and transport.get_write_buffer_size() == 0
        # Closed while something waits: it is sent first.
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"x")
        transport.close()
        await asyncio.sleep(0)
        assert not protocol.lost.done() and transport.is_closing()
        while not protocol.lost.done():
            with contextlib.suppress(BlockingIOError):
                got.append(server.recv(2000))
            await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                got.append(server.recv(2000))
        assert set(got[sent:]) == {b"x"} and protocol.events[-1] == "lost"

    run(main)


def test_aborted_while_something_waits(loop, run, unix_pair):
    server, client = unix_pair

    async def main():
        transport, protocol = await endpoint(loop, sock=client)
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"x")
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        server.setblocking(False)

    run(main)


def test_an_error_while_something_waits_is_told_and_the_rest_is_tried(loop, run, unix_pair):
    server, client = unix_pair

    async def main():
        transport, protocol = await endpoint(loop, sock=client)
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"x")
        transport.sendto(b"y")
        server.close()
        await protocol.until(2)
        assert [e.errno for e in protocol.errors[:2]] == [errno.ECONNREFUSED, errno.ENOTCONN] and transport.get_write_buffer_size() == 0
        transport.close()
        await protocol.lost

    run(main)


def test_failing_pause_writing_is_told(loop, run, unix_pair):
    server, client = unix_pair

    async def main():
        class Failing(Protocol):
            def pause_writing(self):
                raise ZeroDivisionError

            resume_writing = pause_writing

        transport, protocol = await endpoint(loop, Failing(loop), sock=client)
        transport.set_write_buffer_limits(0)
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"x")
        assert [context["message"] for context in loop.problems] == ["protocol.pause_writing() failed"]
        while transport.get_write_buffer_size() > 0:
            with contextlib.suppress(BlockingIOError):
                server.recv(10)
            await asyncio.sleep(0)
        assert [context["message"] for context in loop.problems][1:] == ["protocol.resume_writing() failed"]
        assert all(isinstance(context["exception"], ZeroDivisionError) for context in loop.problems)
        loop.problems.clear()
        transport.close()
        await protocol.lost

    run(main)


def test_addresses_of_unix_sockets(loop, run, tmp_path, unix_pair):
    server, client = unix_pair

    async def main():
        client.close()
        named = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named.bind(str(tmp_path / "named"))
        abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        abstract.bind(b"\0ringcorn-test-%d" % os.getpid())
        nameless = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        named.setblocking(False)
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        a.setblocking(False)
        transport, protocol = await endpoint(loop, sock=a)
        assert is_ours(transport)
        b.send(b"from a pair")
        transport.sendto(b"to a pair")
        await protocol.until(1)
        assert protocol.got == [(b"from a pair", None)] and b.recv(100) == b"to a pair"
        # Not connected: asyncio's own transport.
        other, at_other = await endpoint(loop, sock=server)
        assert not is_ours(other)
        for sock, address in ((named, str(tmp_path / "named")), (abstract, b"\0ringcorn-test-%d" % os.getpid()), (nameless, None)):
            sock.sendto(b"x", str(tmp_path / "server"))
            at_other.got.clear()
            await at_other.until(1)
            assert at_other.got == [(b"x", address)]
        for one in (transport, other):
            one.close()
        await protocol.lost
        await at_other.lost
        for sock in (named, abstract, nameless, b):
            sock.close()

    run(main)


def test_the_address_of_a_named_unix_peer(loop, run, tmp_path):
    async def main():
        a, b = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        a.bind(str(tmp_path / "a"))
        b.bind(b"\0ringcorn-b-%d" % os.getpid())
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        for sock in (a, b):
            sock.setblocking(False)
        one, at_one = await endpoint(loop, sock=a)
        two, at_two = await endpoint(loop, sock=b)
        assert is_ours(one) and is_ours(two)
        one.sendto(b"1")
        two.sendto(b"2" * 200000)
        await at_one.until(1)
        await at_two.until(1)
        assert at_two.got == [(b"1", str(tmp_path / "a"))]
        assert at_one.got == [(b"2" * 200000, b"\0ringcorn-b-%d" % os.getpid())]
        one.close()
        two.close()
        await at_one.lost
        await at_two.lost

    run(main)


def test_broadcast_needs_the_option(loop, run):
    async def main():
        transport, protocol = await endpoint(loop, remote_addr=("127.255.255.255", 9), allow_broadcast=True)
        assert is_ours(transport) and transport.get_extra_info("peername") is None
        transport.sendto(b"x")
        transport.sendto(b"x", ("127.255.255.255", 9))
        with pytest.raises(ValueError, match="Invalid address"):
            transport.sendto(b"x", ("127.0.0.1", 9))
        transport.abort()
        await protocol.lost
        for _ in range(7):
            transport.sendto(b"nobody hears it")

    run(main)


def test_another_protocol(loop, run):
    async def main():
        async with endpoints(loop) as (server, at_server, client, at_client):
            other = Protocol(loop)
            server.set_protocol(other)
            assert server.get_protocol() is other
            client.sendto(b"x")
            await other.until(1)
            assert at_server.got == []
            server.set_protocol(at_server)

    run(main)


def test_audited(loop, run):
    heard = []

    def hook(event, args):
        if event == "socket.sendto" and heard is not None:
            heard.append(args[1])

    async def main():
        transport, protocol = await endpoint(loop, local_addr=("127.0.0.1", 0))
        sys.addaudithook(hook)
        transport.sendto(b"x", ("127.0.0.1", 9))
        transport.close()
        await protocol.lost

    run(main)
    assert heard == [("127.0.0.1", 9)]
    heard = None


def test_not_closed_is_warned_of_and_closed(loop, run):
    async def main():
        return await endpoint(loop, local_addr=("127.0.0.1", 0))

    transport, protocol = run(main)
    number, seen = transport.get_extra_info("socket").fileno(), weakref.ref(transport)
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed transport <DatagramTransport fd="):
        del transport, protocol.transport
        gc.collect()
    assert seen() is None
    with pytest.raises(OSError):
        os.fstat(number)
    assert not protocol.lost.done()


def test_goes_on_in_another_thread(loop, run):
    """A loop that runs in one thread first and another later: what was watched is watched again, what waited is sent."""
    import threading

    async def begin():
        return await endpoint(loop, local_addr=("127.0.0.1", 0))

    server, protocol = run(begin)
    results = []

    async def go_on():
        await protocol.until(1)
        server.close()
        await protocol.lost

    def other():
        results.append(loop.run_until_complete(asyncio.wait_for(go_on(), 10)))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", server.get_extra_info("sockname"))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(15)
    assert results == [None] and protocol.got[0][0] == b"x"


def test_closed_before_the_loop_runs_again(loop, run):
    async def main():
        return await endpoint(loop, local_addr=("127.0.0.1", 0))

    server, protocol = run(main)
    server.close()
    turns(loop, 3)
    assert protocol.lost.done()


def test_a_descriptor_used_again_at_once(loop, run):
    """The number of a closed socket comes back with the next: arrivals are not mixed up."""

    async def main():
        for i in range(50):
            async with endpoints(loop) as (server, at_server, client, _):
                client.sendto(b"%d" % i)
                await at_server.until(1)
                assert at_server.got[0][0] == b"%d" % i

    run(main)


def test_debug_mode_says_what_happens(loop, run, caplog):
    async def main():
        async with endpoints(loop) as (server, at_server, client, _):
            server.pause_reading()
            server.resume_reading()
            client.sendto(b"x")
            await at_server.until(1)

    loop.set_debug(True)
    with caplog.at_level("DEBUG", logger="asyncio"):
        run(main)
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()  # they have references to the transports
    assert any("pauses reading" in text for text in said) and any("resumes reading" in text for text in said)
