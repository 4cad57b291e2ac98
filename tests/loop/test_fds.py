"""add_reader() and add_writer(), and what asyncio builds on them."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import tempfile
import weakref

import pytest

import ringcorn.loop
from conftest import turns

import ringcorn.loop


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    yield a, b
    a.close()
    b.close()


def test_level_triggered_while_there_is_something_to_read(loop, pair):
    a, b = pair
    seen = []
    loop.add_reader(a, lambda: (seen.append(1), len(seen) == 5 and loop.stop()))
    b.send(b"x")
    loop.run_forever()
    assert len(seen) == 5
    a.recv(10)
    turns(loop, 3)
    assert len(seen) == 5
    assert loop.remove_reader(a) and not loop.remove_reader(a)


def test_reader_and_writer_of_one_descriptor(loop, pair):
    a, b = pair
    seen = []
    loop.add_reader(a, seen.append, "r")
    loop.add_writer(a, seen.append, "w")
    turns(loop, 2)
    assert set(seen) == {"w"}
    seen.clear()
    b.send(b"x")
    turns(loop, 2)
    assert set(seen) == {"r", "w"}
    assert loop.remove_writer(a)
    turns(loop)
    seen.clear()
    turns(loop, 2)
    assert set(seen) == {"r"}
    assert loop.remove_reader(a)
    seen.clear()
    turns(loop, 2)
    assert seen == []


def test_a_second_reader_takes_the_place_of_the_first(loop, pair):
    a, b = pair
    seen = []
    loop.add_reader(a, seen.append, "first")
    loop.add_reader(a, seen.append, "second")
    b.send(b"x")
    turns(loop, 2)
    assert set(seen) == {"second"}
    loop.remove_reader(a)


def test_removed_in_the_turn_in_which_it_became_ready(loop, pair):
    a, b = pair
    c, d = socket.socketpair()
    seen = []

    def reader(mine, other):
        seen.append(mine)
        loop.remove_reader(other)

    loop.add_reader(a, reader, a, c)
    loop.add_reader(c, reader, c, a)
    b.send(b"x")
    d.send(b"x")
    turns(loop, 3)
    assert len(set(seen)) == 1
    loop.remove_reader(a)
    loop.remove_reader(c)
    c.close()
    d.close()


def test_a_number_used_again_at_once_is_another_file(loop, pair):
    """remove_reader(), close(), and the next socket gets the same number: neither events nor files are mixed up."""
    for _ in range(200):
        a, b = socket.socketpair()
        seen = []
        loop.add_reader(a, seen.append, "old")
        turns(loop)
        loop.remove_reader(a)
        b.send(b"old")
        number = a.fileno()
        a.close()
        c, d = socket.socketpair()
        assert c.fileno() == number
        loop.add_reader(c, lambda: (seen.append(c.recv(10)), loop.stop()))
        turns(loop)
        assert seen == []
        d.send(b"new")
        loop.run_forever()
        assert seen == [b"new"]
        loop.remove_reader(c)
        for sock in (b, c, d):
            sock.close()


def test_closed_after_removal_is_closed_for_the_peer(loop, pair):
    a, b = pair
    loop.add_reader(a, print)
    turns(loop, 2)
    loop.remove_reader(a)
    a.close()
    assert b.recv(1) == b""


def test_a_listener_closed_in_a_step_can_be_bound_again_in_it(loop, run):
    async def main():
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.sleep(0.01)
        server.close()
        with socket.create_server(address):
            pass

    run(main)


def test_hang_up_calls_reader_and_writer(loop, pair):
    a, b = pair
    seen = []
    while True:
        try:
            a.send(bytes(65536))
        except BlockingIOError:
            break
    loop.add_writer(a, lambda: (seen.append("w"), loop.remove_writer(a)))
    loop.add_reader(a, lambda: (seen.append("r"), loop.remove_reader(a)))
    turns(loop)
    assert seen == []
    b.close()
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert sorted(seen) == ["r", "w"]


def test_what_epoll_refuses_is_refused_at_once(loop):
    with tempfile.TemporaryFile() as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file, print)
        number = file.fileno()
    with pytest.raises(OSError):
        loop.add_reader(number, print)
    with pytest.raises(ValueError):
        loop.add_reader(-1, print)
    with pytest.raises(ValueError):
        loop.add_reader("a string", print)
    with pytest.raises(ValueError):
        loop._add_reader(1 << 70, print)
    assert not loop.remove_reader(number)
    assert not loop.remove_writer(99999)


def test_closed_while_registered_is_heard_of_no_more(loop):
    a, b = socket.socketpair()
    number = a.fileno()
    loop.add_reader(a, print)
    turns(loop)
    a.close()
    turns(loop, 2)
    loop.remove_reader(number)
    b.close()
    turns(loop)


def test_registered_before_the_loop_runs_and_in_another_thread(loop, pair):
    import threading

    a, b = pair
    seen = []
    loop.add_reader(a, lambda: (seen.append((threading.current_thread().name, a.recv(10))), loop.stop()))
    b.send(b"1")
    loop.run_forever()
    b.send(b"2")
    thread = threading.Thread(target=loop.run_forever, name="other", daemon=True)
    thread.start()
    thread.join(5)
    assert seen == [("MainThread", b"1"), ("other", b"2")]
    b.send(b"3")
    loop.run_forever()
    assert seen[2] == ("MainThread", b"3")
    loop.remove_reader(a)


def test_an_io_that_another_thread_has_closed_keeps_no_file(loop, pair):
    import threading

    a, b = pair
    a.setblocking(False)
    b.settimeout(20)
    loop.add_reader(a, lambda: None)
    loop.call_soon(loop.stop)
    loop.run_forever()  # a is armed, in this thread's io

    def other():
        loop.call_soon(loop.stop)
        loop.run_forever()  # in an io of its own, where it is armed again
        loop.remove_reader(a)
        a.close()
        loop.call_soon(loop.stop)
        loop.run_forever()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert b.recv(1) == b""  # nothing holds the other end


def test_an_io_moves_beside_another_of_the_same_thread(loop, usable_io, pair):
    """Closing the one that was another thread's must not take anything from this thread's own."""
    import threading

    a, b = pair
    a.setblocking(False)
    seen = []
    loop.call_soon(loop.stop)
    loop.run_forever()

    def other():
        second = ringcorn.loop.new_event_loop(usable_io)
        try:
            for one in (second, loop, second):
                one.call_later(20, one.stop)
                one.add_reader(a, lambda one=one: (seen.append(a.recv(10)), one.stop()))
                b.send(b"x")
                one.run_forever()
                one.remove_reader(a)
        finally:
            second.close()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive() and seen == [b"x"] * 3


def test_changed_by_another_thread_while_the_loop_runs(loop, pair):
    """Not what asyncio promises, but what works with its selector."""
    import threading

    a, b = pair
    seen = []
    loop.add_writer(a, lambda: None)
    loop.call_later(5, loop.stop)

    def other():
        loop.remove_writer(a)
        loop.add_reader(a, lambda: (seen.append(a.recv(10)), loop.stop()))
        b.send(b"x")

    loop.call_later(0.02, threading.Thread(target=other).start)
    loop.run_forever()
    assert seen == [b"x"]
    loop.remove_reader(a)


def test_many_descriptors(loop):
    pairs = [socket.socketpair() for _ in range(300)]
    seen = set()

    def reader(i, sock):
        sock.recv(10)
        seen.add(i)
        if len(seen) == len(pairs):
            loop.stop()

    for i, (a, b) in enumerate(pairs):
        loop.add_reader(a, reader, i, a)
        b.send(b"x")
    loop.call_later(5, loop.stop)
    loop.run_forever()
    assert len(seen) == len(pairs)
    for a, b in pairs:
        loop.remove_reader(a)
        a.close()
        b.close()


def test_a_transport_owns_its_descriptor(loop, run):
    async def main():
        a, b = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=a)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(a, print)
        assert "read=polling" in repr(transport)
        transport.close()
        await asyncio.sleep(0)
        b.close()

    run(main)


def test_streams_carry_megabytes_both_ways(loop, run):
    payload = os.urandom(1 << 16) * 48

    async def main():
        async def echo(reader, writer):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

            async def send():
                for i in range(0, len(payload), 100_000):
                    writer.write(payload[i : i + 100_000])
                    await writer.drain()
                writer.write_eof()

            sender = asyncio.create_task(send())
            got = await reader.read(-1)
            await sender
            writer.close()
            assert got == payload

    run(main)


def test_sock_methods(loop, run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            server.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(server))
            await loop.sock_connect(client, server.getsockname())
            peer, _ = await accepting
            with peer:
                receiving = asyncio.create_task(loop.sock_recv(client, 10))
                await asyncio.sleep(0.01)
                await loop.sock_sendall(peer, b"hello")
                assert await receiving == b"hello"
                receiving = asyncio.create_task(loop.sock_recv(client, 10))
                await asyncio.sleep(0.01)
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
                await loop.sock_sendall(peer, b"more")
                assert await loop.sock_recv(client, 10) == b"more"

    run(main)


def test_pipes_and_subprocesses(loop, run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(5)",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate(b"text" * 50_000)
        assert out == b"TEXT" * 50_000 and process.returncode == 5
        process = await asyncio.create_subprocess_shell("sleep 30")
        process.kill()
        assert await process.wait() == -9

    run(main)


def test_udp(loop, run):
    async def main():
        got = loop.create_future()

        class Server(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                got.set_result(data)

        server, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        client, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=server.get_extra_info("sockname")
        )
        client.sendto(b"datagram")
        assert await got == b"datagram"
        client.close()
        server.close()
        await asyncio.sleep(0)

    run(main)


def test_a_socket_that_was_closed_is_removed_by_itself(loop, run):
    """It has no number any more; asyncio's selectors know it, as what it was added as."""
    a, b = socket.socketpair()
    c, d = socket.socketpair()

    async def main():
        loop.add_reader(a, print)
        loop.add_writer(a, lambda: None)
        loop.add_reader(c.fileno(), print)
        a.close()
        c.close()
        assert loop.remove_writer(a) is True
        assert loop.remove_writer(a) is False
        assert loop.remove_reader(a) is True
        for closed in (a, c):  # not any more; never as this object
            with pytest.raises(ValueError, match="-1"):
                loop.remove_reader(closed)
        b.close()
        d.close()
        with pytest.raises(ValueError, match="-1"):
            loop.add_reader(a, print)

    run(main)


def test_a_socket_that_nobody_removed_goes_with_the_loop(usable_io):
    loop = ringcorn.loop.new_event_loop(usable_io)
    a, b = socket.socketpair()
    loop.add_reader(a, print)
    loop.run_until_complete(asyncio.sleep(0))
    kept = weakref.ref(a)
    del a
    assert kept() is not None, "the loop keeps what it watches, as a selector does"
    kept().close()
    b.close()
    loop.close()
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("family", ["inet", "unix"])
def test_a_killed_process_leaves_no_listener(usable_io, tmp_path, family):
    """Who has waited for its end finds the port free. (What io_uring works on is let go of later than that.)"""
    code = """
import asyncio, sys
import ringcorn.loop

async def main():
    listener = sys.argv[2]
    if listener.isdigit():
        await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", int(listener))
    else:
        await asyncio.start_unix_server(lambda reader, writer: None, listener)
    await asyncio.sleep(0)
    print("ready", flush=True)
    await asyncio.sleep(60)

ringcorn.loop.new_event_loop(sys.argv[1]).run_until_complete(main())
"""
    for n in range(8):
        if family == "inet":
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                address = s.getsockname()
            listener, kind = str(address[1]), socket.AF_INET
        else:
            listener = address = str(tmp_path / f"listener-{n}")
            kind = socket.AF_UNIX
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen([sys.executable, "-c", code, usable_io, listener], stdout=subprocess.PIPE, env=env)
        with process, socket.socket(kind) as client:
            assert process.stdout.readline() == b"ready\n"
            client.connect(address)
            process.kill()
            process.wait(30)
            with socket.socket(kind) as late:
                with pytest.raises(ConnectionRefusedError):
                    late.connect(address)
