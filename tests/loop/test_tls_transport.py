"""TLS transports of the loop, in C: create_connection(), create_server() and start_tls() with an ssl.SSLContext."""

import asyncio
import gc
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import weakref

import certs
import pytest

import _ringcorn

CA = certs.Authority()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def paths(folder):
    return CA.issue("localhost").write(folder, "server")


def server_context(paths, version=None, ca=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    if version:
        context.minimum_version = context.maximum_version = version
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=ca.pem.decode())
    return context


@pytest.fixture
def serving(paths):
    return server_context(paths)


@pytest.fixture
def trusting():
    return certs.client(CA)


class Echo(asyncio.Protocol):
    def __init__(self):
        self.transport, self.lost = None, asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class Kept(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self):
        self.transport, self.data, self.seen = None, bytearray(), []
        loop = asyncio.get_running_loop()
        self.lost, self.ended, self.some = loop.create_future(), loop.create_future(), asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.seen.append("made")

    def data_received(self, data):
        self.data += data
        self.some.set()

    def eof_received(self):
        self.seen.append("eof")
        self.ended.set_result(None)

    def pause_writing(self):
        self.seen.append("pause")

    def resume_writing(self):
        self.seen.append("resume")

    def connection_lost(self, exc):
        self.seen.append("lost")
        self.lost.set_result(exc)

    async def wait(self, n):
        while len(self.data) < n:
            self.some.clear()
            await self.some.wait()
        return bytes(self.data)


class KeptInBuffer(Kept, asyncio.BufferedProtocol):
    def __init__(self, size):
        super().__init__()
        self.buffer, self.hints = bytearray(size), []

    def get_buffer(self, hint):
        self.hints.append(hint)
        return self.buffer

    def buffer_updated(self, n):
        self.data += self.buffer[:n]
        self.some.set()

    data_received = None


async def serve(factory, context, **options):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context, **options)
    return server, server.sockets[0].getsockname()[1]


async def connect(factory, port, context, **options):
    options.setdefault("server_hostname", "localhost")
    return await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", port, ssl=context, **options)


async def shut(server):
    server.close()
    await server.wait_closed()


class Blocking:
    """A peer that is not ours: a thread that does function(socket) with the one connection of a listening socket, or with one of its own."""

    def __init__(self, function, port=None):
        self.listening = socket.create_server(("127.0.0.1", 0)) if port is None else None
        self.port = self.listening.getsockname()[1] if self.listening else port
        self.result = self.error = None
        self.function, self.thread = function, threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            if self.listening:
                self.listening.settimeout(10)
                with self.listening:
                    sock = self.listening.accept()[0]
            else:
                sock = socket.create_connection(("127.0.0.1", self.port))
            with sock:
                sock.settimeout(10)
                self.result = self.function(sock)
        except BaseException as e:
            self.error = e

    async def end(self, error=None):
        await asyncio.get_running_loop().run_in_executor(None, self.thread.join)
        if error is None and self.error is not None:
            raise self.error
        if error is not None:
            assert isinstance(self.error, error), self.error
        return self.result


def recv_all(sock, n):
    data = b""
    while len(data) < n:
        got = sock.recv(n - len(data))
        if not got:
            break
        data += got
    return data


# --- bytes


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 1000, 16384, 16385, 65536, 1 << 20, 4 << 20])
def test_echo(run, paths, trusting, version, size):
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]

    async def main():
        server, port = await serve(Echo, server_context(paths, version))
        transport, kept = await connect(Kept, port, trusting)
        transport.write(data)
        assert await kept.wait(size) == data
        assert transport.get_extra_info("ssl_object").version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        transport.close()
        assert await kept.lost is None
        await shut(server)

    run(main)


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_a_buffered_protocol_gets_its_bytes_into_its_own_buffer(run, serving, trusting, size):
    data = bytes(range(256)) * 40

    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(lambda: KeptInBuffer(size), port, trusting)
        transport.write(data)
        assert await kept.wait(len(data)) == data
        assert all(hint > 0 for hint in kept.hints)
        transport.close()
        assert await kept.lost is None
        await shut(server)

    run(main)


def test_streams(run, serving, trusting):
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=serving)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=trusting, server_hostname="localhost")
        for i in range(100):
            writer.write(b"line %d\n" % i)
        await writer.drain()
        for i in range(100):
            assert await reader.readline() == b"LINE %d\n" % i
        writer.close()
        await writer.wait_closed()
        await shut(server)

    run(main)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_written_may_change_afterwards(run, serving, trusting, kind):
    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, trusting)
        mutable = bytearray(b"x" * 1_000_000)
        transport.write(kind(mutable))
        transport.writelines([kind(mutable), b"", kind(mutable)])
        mutable[:] = b"y" * 1_000_000
        assert await kept.wait(3_000_000) == b"x" * 3_000_000
        with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
            transport.write("text")
        with pytest.raises(TypeError):
            transport.writelines([b"lost", "text"])
        transport.writelines(bytes([i]) for i in range(10))
        assert (await kept.wait(3_000_010))[-10:] == bytes(range(10))
        transport.close()
        await kept.lost
        await shut(server)

    run(main)


def test_many_small_writes_stay_in_order(run, serving, trusting):
    pieces = [b"%06d," % i for i in range(5000)]

    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, trusting)
        for piece in pieces:
            transport.write(piece)
        assert await kept.wait(5000 * 7) == b"".join(pieces)
        transport.abort()
        await kept.lost
        await shut(server)

    run(main)


# --- the transport


def test_the_transport_is_one_of_asyncios(run, serving, trusting):
    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, trusting)
        assert type(transport) is _ringcorn.SSLTransport
        assert isinstance(transport, asyncio.Transport) and isinstance(transport, asyncio.transports._FlowControlMixin)
        assert isinstance(transport._ssl_protocol, asyncio.BufferedProtocol)
        assert transport._ssl_protocol._sslcontext is trusting
        assert transport._start_tls_compatible and transport.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        assert kept.transport is transport and transport.get_protocol() is kept
        assert transport.is_reading() and not transport.is_closing()
        assert transport.get_extra_info("sslcontext") is trusting
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert transport.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
        assert transport.get_extra_info("cipher") == transport.get_extra_info("ssl_object").cipher()
        assert transport.get_extra_info("compression") is None
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        assert transport.get_extra_info("socket").fileno() > 0
        assert transport.get_extra_info("nothing") is None and transport.get_extra_info("nothing", 3) == 3
        assert transport.get_write_buffer_size() == transport.get_read_buffer_size() == 0
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
        for name in ("write", "read"):
            set_limits, get_limits = getattr(transport, f"set_{name}_buffer_limits"), getattr(transport, f"get_{name}_buffer_limits")
            set_limits(high=1000)
            assert get_limits() == (250, 1000)
            set_limits(low=1000)
            assert get_limits() == (1000, 4000)
            set_limits(0)
            assert get_limits() == (0, 0)
            with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\) must be >= 0"):
                set_limits(1, 2)
        transport.tag = "mine"
        other = Kept()
        transport.set_protocol(other)
        transport.write(b"ping")
        assert await other.wait(4) == b"ping"
        transport.close()
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert await other.lost is None
        transport.write(b"into nothing")
        transport.pause_reading()
        transport.resume_reading()
        transport.set_protocol(kept)
        transport.abort()
        assert transport.get_protocol() is None and transport.get_extra_info("peername", "gone") == "gone"
        assert transport.get_write_buffer_limits() == (0, 0)
        await shut(server)

    run(main)


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_timeouts_must_be_positive(run, loop, trusting, name):
    async def main():
        one, other = socket.socketpair()
        with one, other:
            with pytest.raises(ValueError, match=f"{name} should be a positive number, got 0"):
                await loop.create_connection(Kept, sock=one, ssl=trusting, server_hostname="localhost", **{name: 0})

    run(main)


# --- certificates, names, protocols, sessions


def test_an_unknown_certificate_fails_the_awaiter_and_the_server_hears_why(run, paths):
    def handshake(sock):
        with server_context(paths).wrap_socket(sock, server_side=True):
            pass

    async def main():
        peer = Blocking(handshake)
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
            await connect(Kept, peer.port, certs.client(certs.Authority("another", number=101)))
        await peer.end(ssl.SSLError)
        assert peer.error.reason in ("TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE")

    run(main)


def test_a_wrong_host_name_fails(run, serving, trusting):
    async def main():
        server, port = await serve(Echo, serving)
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await connect(Kept, port, trusting, server_hostname="elsewhere")
        await shut(server)

    run(main)


def test_a_client_without_a_certificate_is_refused_and_hears_why(run, paths):
    def talk(sock):
        with certs.client(CA).wrap_socket(sock, server_hostname="localhost") as tls:
            tls.recv(1)

    async def main():
        server, port = await serve(Echo, server_context(paths, ca=CA))
        peer = Blocking(talk, port)
        await peer.end(ssl.SSLError)
        assert peer.error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        await shut(server)

    run(main)


def test_both_sides_show_certificates(run, paths, folder):
    shown = CA.issue("client", client=True).write(folder, "client")
    seen = []

    class Server(Echo):
        def connection_made(self, transport):
            seen.append(transport.get_extra_info("peercert")["subject"])
            super().connection_made(transport)

    async def main():
        server, port = await serve(Server, server_context(paths, ca=CA))
        transport, kept = await connect(Kept, port, certs.client(CA, certificate=shown))
        transport.write(b"hello")
        assert await kept.wait(5) == b"hello"
        assert seen == [((("commonName", "client"),),)]
        transport.close()
        await kept.lost
        await shut(server)

    run(main)


def test_alpn(run, serving):
    serving.set_alpn_protocols(["h2", "http/1.1"])

    async def main():
        made = []

        class Server(Echo):
            def connection_made(self, transport):
                made.append(transport.get_extra_info("ssl_object").selected_alpn_protocol())
                super().connection_made(transport)

        server, port = await serve(Server, serving)
        transport, kept = await connect(Kept, port, certs.client(CA, alpn=["http/1.1", "other"]))
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        transport.write(b"x")
        await kept.wait(1)
        assert made == ["http/1.1"]
        transport.close()
        await kept.lost
        await shut(server)

    run(main)


def test_a_callback_chooses_the_certificate_by_name(run, serving, folder):
    other = server_context(CA.issue("other.test").write(folder, "other"))
    names = []

    def choose(ssl_object, name, context):
        names.append(name)
        if name == "other.test":
            ssl_object.context = other

    serving.sni_callback = choose

    async def main():
        server, port = await serve(Echo, serving)
        for name in ("localhost", "other.test"):
            transport, kept = await connect(Kept, port, certs.client(CA), server_hostname=name)
            assert transport.get_extra_info("peercert")["subject"] == ((("commonName", name),),)
            transport.close()
            await kept.lost
        assert names == ["localhost", "other.test"]
        await shut(server)

    run(main)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_taken_up_again(run, paths, version):
    class Context(ssl.SSLContext):
        last = None

        def wrap_bio(self, *args, **kwargs):
            return super().wrap_bio(*args, **kwargs, session=self.last)

    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CA.pem.decode())

    async def main():
        server, port = await serve(Echo, server_context(paths, version))
        reused = []
        for _ in range(2):
            transport, kept = await connect(Kept, port, context)
            transport.write(b"x")  # and with the answer TLS 1.3's tickets have come
            await kept.wait(1)
            reused.append(transport.get_extra_info("ssl_object").session_reused)
            context.last = transport.get_extra_info("ssl_object").session
            transport.close()
            await kept.lost
        assert reused == [False, True]
        await shut(server)

    run(main)


def test_an_sslobject_class_of_ones_own_is_asked(run, serving):
    calls = []

    class Own(ssl.SSLObject):
        def read(self, n=1024, buffer=None):
            assert buffer is None
            calls.append("read")
            return super().read(n)

        def write(self, data):
            calls.append("write")
            return super().write(data)

        def do_handshake(self):
            calls.append("handshake")
            super().do_handshake()

        def getpeercert(self, binary_form=False):
            calls.append("getpeercert")
            return super().getpeercert(binary_form)

    context = certs.client(CA)
    context.sslobject_class = Own

    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, context)
        assert type(transport.get_extra_info("ssl_object")) is Own
        assert "getpeercert" in calls and "handshake" in calls
        transport.write(b"x" * 300_000)
        assert await kept.wait(300_000) == b"x" * 300_000
        assert "read" in calls and "write" in calls
        transport.close()
        assert await kept.lost is None
        await shut(server)

    run(main)


def test_a_class_that_refuses_the_certificate_fails_the_handshake(run, serving):
    class Refusing(ssl.SSLObject):
        def getpeercert(self, binary_form=False):
            raise ssl.CertificateError("not this one")

    context = certs.client(CA)
    context.sslobject_class = Refusing

    async def main():
        server, port = await serve(Echo, serving)
        with pytest.raises(ssl.CertificateError, match="not this one"):
            await connect(Kept, port, context)
        await shut(server)

    run(main)


def test_keys_change_on_the_way(run, serving, paths):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl")

    async def main():
        server, port = await serve(Echo, serving)
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-quiet", "-no_ign_eof"]
        client = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for i in range(5):
            client.stdin.write(b"line %d\n" % i)
            assert await client.stdout.readline() == b"line %d\n" % i
            client.stdin.write(b"K\n")  # new keys, and the other side is to change its own too
            await client.stdin.drain()
            await asyncio.sleep(0.02)
        client.stdin.write(b"Q\n")
        await client.wait()
        client.stdin.close()
        await shut(server)

    run(main)


# --- the handshake fails


def test_a_client_waits_for_a_handshake_only_so_long(run, trusting):
    async def main():
        peer = Blocking(lambda sock: recv_all(sock, 1 << 20))
        with pytest.raises(
            ConnectionAbortedError, match="SSL handshake is taking longer than 0.1 seconds: aborting the connection"
        ):
            await connect(Kept, peer.port, trusting, ssl_handshake_timeout=0.1)
        assert await peer.end()  # the hello

    run(main)


def test_a_server_waits_for_a_handshake_only_so_long(run, loop, serving):
    async def main():
        server, port = await serve(Kept, serving, ssl_handshake_timeout=0.1)
        peer = Blocking(lambda sock: sock.recv(1), port)
        with_reset = (ConnectionResetError,)
        try:
            assert await peer.end() == b""
        except with_reset:
            pass
        await shut(server)

    run(main)


def test_the_peer_leaves_in_the_handshake(run, trusting):
    async def main():
        peer = Blocking(lambda sock: sock.recv(1000))
        with pytest.raises(ConnectionResetError):
            await connect(Kept, peer.port, trusting)
        await peer.end()

    run(main)


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\x00\x05hello", b"\x80\x2e\x01\x00\x02" + b"\0" * 100])
def test_a_server_that_does_not_speak_tls(run, trusting, said):
    def talk(sock):
        sock.recv(1000)
        sock.sendall(said)
        return recv_all(sock, 1000)

    async def main():
        peer = Blocking(talk)
        with pytest.raises(ssl.SSLError):
            await connect(Kept, peer.port, trusting)
        peer.thread.join(5)
        assert not peer.thread.is_alive()

    run(main)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 100_000, b"\x16\x03\x01\xff\xff" + b"x" * 70_000])
def test_a_client_that_does_not_speak_tls(run, serving, said):
    def talk(sock):
        try:
            sock.sendall(said)
            return recv_all(sock, 1000)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    async def main():
        server, port = await serve(Kept, serving)
        peer = Blocking(talk, port)
        await peer.end()
        await shut(server)

    run(main)


def test_a_transport_that_is_closing_is_not_upgraded(run, trusting):
    """As with asyncio's own: None, and nothing is left."""

    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, protocol = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
            transport.close()
            assert await loop.start_tls(transport, protocol, trusting, server_hostname="localhost") is None

    run(main)


def test_connecting_is_cancelled_in_the_handshake(run, trusting):
    async def main():
        peer = Blocking(lambda sock: recv_all(sock, 1 << 20))
        task = asyncio.ensure_future(connect(Kept, peer.port, trusting))
        while _ringcorn.live()["tls"] == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.end()

    run(main)


# --- the end of a connection


def test_close_is_heard_on_both_sides_once(run, serving, trusting):
    async def main():
        made = []

        def factory():
            made.append(Kept())
            return made[-1]

        server, port = await serve(factory, serving)
        transport, kept = await connect(Kept, port, trusting)
        transport.write(b"last words")
        transport.close()
        assert transport.is_closing()
        assert await kept.lost is None
        await made[0].wait(10)
        assert await made[0].lost is None
        assert made[0].seen == ["made", "eof", "lost"]
        assert kept.seen == ["made", "eof", "lost"]
        await shut(server)

    run(main)


def test_a_peer_that_closes_without_close_notify(run, paths, trusting):
    def talk(sock):
        tls = server_context(paths).wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
        tls.sendall(b"data")
        tls.close()

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        assert await kept.lost is None
        assert bytes(kept.data) == b"data" and kept.seen == ["made", "eof", "lost"]
        await peer.end()

    run(main)


def tls_by_hand(sock, paths):
    """A server without a socket's own TLS, so that each step is the test's. Returns (sslobj, pump, receive)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    sslobj = server_context(paths).wrap_bio(incoming, outgoing, server_side=True)

    def flush():
        if outgoing.pending:
            sock.sendall(outgoing.read())

    def until(step):
        while True:
            try:
                result = step()
                flush()
                return result
            except ssl.SSLWantReadError:
                flush()
                data = sock.recv(65536)
                if not data:
                    raise EOFError from None
                incoming.write(data)

    until(sslobj.do_handshake)
    return sslobj, flush, until


def test_what_was_written_arrives_after_the_peers_close_notify(run, paths, trusting):
    size = 12_000_000
    has_closed, has_written = threading.Event(), threading.Event()

    def talk(sock):
        sslobj, flush, until = tls_by_hand(sock, paths)
        with pytest.raises(ssl.SSLWantReadError):
            sslobj.unwrap()
        flush()
        has_closed.set()
        assert has_written.wait(10)
        got = 0
        while True:
            try:
                got += len(until(lambda: sslobj.read(65536)))
            except ssl.SSLZeroReturnError:
                return got

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.pause_reading()  # so that close_notify is not seen yet
        await asyncio.get_running_loop().run_in_executor(None, has_closed.wait, 10)
        transport.write(b"x" * size)
        assert transport.get_write_buffer_size() > 0
        has_written.set()
        transport.resume_reading()
        await kept.ended
        assert await kept.lost is None
        assert await peer.end() == size

    run(main)


def test_what_was_written_arrives_after_the_peers_end(run, paths, trusting):
    size = 12_000_000

    def talk(sock):
        sslobj, flush, until = tls_by_hand(sock, paths)
        until(lambda: sslobj.read(1))
        sock.shutdown(socket.SHUT_WR)
        got = 1
        try:
            while True:
                got += len(until(lambda: sslobj.read(65536)))
        except EOFError:
            return got

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.write(b"x" * size)
        await kept.lost
        assert await peer.end() == size

    run(main)


def test_data_after_close_is_read_over(run, paths, trusting):
    def talk(sock):
        sslobj, flush, until = tls_by_hand(sock, paths)
        until(lambda: sslobj.read(1))
        for _ in range(50):
            sslobj.write(b"more" * 1000)
            flush()
        assert until(lambda: sslobj.read(1)) == b""  # its close_notify
        for _ in range(50):
            sslobj.write(b"still more" * 1000)
            flush()
        sslobj.unwrap()
        flush()
        return sock.recv(1)

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.pause_reading()
        transport.write(b"x")
        await asyncio.sleep(0.05)
        transport.close()
        assert await kept.lost is None
        assert bytes(kept.data) == b""
        assert await peer.end() == b""

    run(main)


def test_a_peer_that_does_not_answer_close_notify(run, paths, trusting):
    def talk(sock):
        sslobj, flush, until = tls_by_hand(sock, paths)
        while True:
            if not sock.recv(65536):
                return True

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting, ssl_shutdown_timeout=0.1)
        transport.close()
        lost = await kept.lost
        assert isinstance(lost, TimeoutError) and str(lost) == "SSL shutdown timed out"
        assert await peer.end()

    run(main)


def test_abort_closes_at_once(run, serving, trusting):
    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, trusting)
        transport.abort()
        transport.write(b"nothing")
        assert await kept.lost is None
        assert kept.seen == ["made", "lost"]
        await shut(server)

    run(main)


def test_writing_to_a_closed_connection_is_told_of(run, serving, trusting, caplog):
    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, trusting)
        transport.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(5):
                transport.write(b"x")
            assert not caplog.records
            transport.write(b"x")
            assert [r.getMessage() for r in caplog.records] == ["SSL connection is closed"]
        assert await kept.lost is None
        await shut(server)

    run(main)


def test_eof_received_cannot_keep_it_open(run, serving, trusting, caplog):
    class Keeps(Echo):
        def eof_received(self):
            return True

    async def main():
        server, port = await serve(Keeps, serving)
        transport, kept = await connect(Kept, port, trusting)
        with caplog.at_level(logging.WARNING, "asyncio"):
            transport.close()
            assert await kept.lost is None
        assert "returning true from eof_received() has no effect when using ssl" in caplog.text
        await shut(server)

    run(main)


def test_a_reset_connection(run, paths, trusting):
    def talk(sock):
        tls = server_context(paths).wrap_socket(sock, server_side=True)
        tls.recv(1)
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        tls.close()

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.write(b"x")
        assert isinstance(await kept.lost, ConnectionResetError)
        assert "eof" not in kept.seen
        await peer.end()

    run(main)


# --- flow control


def test_a_paused_application_bounds_what_is_received(run, paths, trusting):
    size = 4_000_000

    def talk(sock):
        with server_context(paths).wrap_socket(sock, server_side=True) as tls:
            tls.sendall(b"x" * size)
            return tls.recv(1)

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.pause_reading()
        assert not transport.is_reading()
        before = len(kept.data)
        below = transport._ssl_protocol
        while transport.get_read_buffer_size() < 256 * 1024:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert 256 * 1024 <= transport.get_read_buffer_size() <= 768 * 1024
        assert len(kept.data) == before and below is transport._ssl_protocol
        transport.resume_reading()
        transport.resume_reading()
        assert len(kept.data) == before  # from the loop only
        await kept.wait(size)
        assert transport.get_read_buffer_size() == 0
        transport.write(b"y")
        await kept.lost
        assert await peer.end() == b"y"

    run(main)


def test_pausing_in_data_received_delivers_no_more(run, paths, trusting):
    class Pauses(Kept):
        def data_received(self, data):
            assert self.transport.is_reading()
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    def talk(sock):
        with server_context(paths).wrap_socket(sock, server_side=True) as tls:
            tls.sendall(b"x" * 1_000_000)
            tls.unwrap().close()

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Pauses, peer.port, trusting)
        await kept.lost
        assert len(kept.data) == 1_000_000 and kept.seen == ["made", "eof", "lost"]
        await peer.end()

    run(main)


def test_the_end_waits_for_a_paused_application(run, paths, trusting):
    def talk(sock):
        tls = server_context(paths).wrap_socket(sock, server_side=True)
        tls.sendall(b"x" * 100_000)
        tls.close()

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.pause_reading()
        await peer.end()
        await asyncio.sleep(0.05)
        assert kept.seen == ["made"]
        transport.resume_reading()
        assert await kept.lost is None
        assert len(kept.data) == 100_000 and kept.seen == ["made", "eof", "lost"]

    run(main)


def test_closing_a_paused_connection_whose_peer_has_gone(run, paths, trusting):
    def talk(sock):
        tls = server_context(paths).wrap_socket(sock, server_side=True)
        tls.sendall(b"x" * 100_000)
        tls.close()

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.pause_reading()
        await peer.end()
        await asyncio.sleep(0.05)
        before = len(kept.data)
        transport.close()
        assert await kept.lost is None
        assert len(kept.data) == before

    run(main)


def test_writing_pauses_at_the_mark_and_goes_on(run, paths, trusting):
    size = 12_000_000
    go = threading.Event()

    def talk(sock):
        with server_context(paths).wrap_socket(sock, server_side=True) as tls:
            go.wait(10)
            got = 0
            while data := tls.recv(1 << 20):
                got += len(data)
            return got

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        written = 0
        while "pause" not in kept.seen:
            transport.write(b"x" * 100_000)
            written += 100_000
            assert written < size
        assert transport._protocol_paused
        assert transport.get_write_buffer_size() >= transport.get_write_buffer_limits()[1]
        transport.write(b"x" * (size - written))
        assert kept.seen == ["made", "pause"]
        go.set()
        while "resume" not in kept.seen:
            await asyncio.sleep(0.005)
        assert kept.seen == ["made", "pause", "resume"] and not transport._protocol_paused
        transport.close()
        assert await kept.lost is None
        assert await peer.end() == size

    run(main)


def test_close_sends_all_that_waits(run, paths, trusting):
    size = 12_000_000

    def talk(sock):
        with server_context(paths).wrap_socket(sock, server_side=True) as tls:
            got = 0
            while data := tls.recv(1 << 20):
                got += len(data)
            return got

    async def main():
        peer = Blocking(talk)
        transport, kept = await connect(Kept, peer.port, trusting)
        transport.write(b"x" * size)
        transport.close()
        assert await kept.lost is None
        assert await peer.end() == size

    run(main)


# --- exceptions of the application


class Oops(Exception):
    pass


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
def test_an_exception_ends_the_connection_and_is_told_of(run, loop, serving, paths, trusting, method):
    def fail(self, *args):
        raise Oops(method)

    protocol = type("Fails", (Kept,), {method: fail})

    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(protocol, port, trusting)
        transport.write(b"x")
        if method == "eof_received":
            transport.close()
        lost = await kept.lost
        assert isinstance(lost, Oops)
        (told,) = loop.problems
        expected = {"data_received": "Fatal error on SSL protocol", "eof_received": "Error calling eof_received()"}
        assert told["message"] == expected[method]
        assert told["exception"] is lost and told["protocol"] is not None and told["transport"] is not None
        loop.problems.clear()
        await shut(server)

    run(main)


@pytest.mark.parametrize("what", ["raises", "empty"])
def test_an_unfit_buffer_ends_the_connection(run, loop, serving, trusting, what):
    class Unfit(KeptInBuffer):
        def get_buffer(self, hint):
            if what == "raises":
                raise Oops
            return bytearray()

    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(lambda: Unfit(1), port, trusting)
        transport.write(b"x")
        assert isinstance(await kept.lost, Oops if what == "raises" else RuntimeError)
        assert len(loop.problems) == 1
        loop.problems.clear()
        await shut(server)

    run(main)


def test_an_exception_in_connection_made_fails_the_awaiter(run, loop, serving, trusting):
    class Fails(Kept):
        def connection_made(self, transport):
            raise Oops("made")

    async def main():
        server, port = await serve(Echo, serving)
        with pytest.raises(Oops):
            await connect(Fails, port, trusting)
        assert len(loop.problems) == 1
        loop.problems.clear()
        await shut(server)

    run(main)


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
def test_an_exception_in_flow_control_is_told_of_and_that_is_all(run, loop, serving, trusting, method):
    def fail(self, *args):
        raise Oops(method)

    protocol = type("Fails", (Kept,), {method: fail})

    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(protocol, port, trusting)
        transport.write(b"x" * 8_000_000)
        await kept.wait(8_000_000)
        assert {p["message"] for p in loop.problems} == {f"protocol.{method}() failed"}
        loop.problems.clear()
        transport.close()
        assert await kept.lost is None
        await shut(server)

    run(main)


# --- over other transports


class Pipe(asyncio.Transport):
    """A transport without a socket, in Python: what is written on one end comes out at the other, `step` bytes at a time."""

    def __init__(self, loop, step):
        super().__init__({"peername": "the other end"})
        self.loop, self.step, self.queue, self.other, self.protocol = loop, step, bytearray(), None, None
        self.is_paused = self.is_closed = self.is_planned = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def start(self, protocol):
        self.protocol = protocol
        self.loop.call_soon(protocol.connection_made, self)
        self.plan()

    def write(self, data):
        if not self.is_closed and not self.other.is_closed:
            self.other.queue += data
            self.other.plan()

    def plan(self):
        if not self.is_planned and not self.is_paused and self.protocol and (self.queue or self.other.is_closed):
            self.is_planned = True
            self.loop.call_soon(self.deliver)

    def deliver(self):
        self.is_planned = False
        if self.is_closed or self.is_paused:
            return
        if not self.queue:
            self.protocol.eof_received()
            self.close()
            return
        buffer = self.protocol.get_buffer(-1)
        n = min(self.step, len(self.queue), len(buffer))
        buffer[:n] = self.queue[:n]
        del self.queue[:n]
        self.protocol.buffer_updated(n)
        self.plan()

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False
        self.plan()

    def is_closing(self):
        return self.is_closed

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)
            self.other.plan()

    abort = close
    _start_tls_compatible = True


def pipe(loop, step):
    ends = Pipe(loop, step), Pipe(loop, step)
    ends[0].other, ends[1].other = ends[1], ends[0]
    return ends


@pytest.mark.parametrize("step", [1, 3, 5, 1000, 65536])
def test_over_a_transport_that_is_not_ours(run, loop, serving, trusting, step):
    size = 20_000 if step < 100 else 1_000_000

    async def main():
        ends = pipe(loop, step)
        protocols = Kept(), Echo()
        for end, protocol in zip(ends, protocols):
            end.start(asyncio.Protocol())
        client, server = await asyncio.gather(
            loop.start_tls(ends[0], protocols[0], trusting, server_hostname="localhost"),
            loop.start_tls(ends[1], protocols[1], serving, server_side=True),
        )
        protocols[1].transport = server
        client.write(b"x" * size)
        assert await protocols[0].wait(size) == b"x" * size
        assert client.get_extra_info("peername") == "the other end"
        client.close()
        assert await protocols[0].lost is None
        assert await protocols[1].lost is None

    run(main)


def test_over_a_transport_of_asyncio(run, loop, serving, trusting):
    """asyncio's own, of a socket that its selector loop would have made."""
    from asyncio.selector_events import _SelectorSocketTransport

    async def main():
        socks = socket.socketpair()
        protocols, ends = (Kept(), Echo()), []
        for sock in socks:
            sock.setblocking(False)
            ends.append(_SelectorSocketTransport(loop, sock, asyncio.Protocol()))
        client, server = await asyncio.gather(
            loop.start_tls(ends[0], protocols[0], trusting, server_hostname="localhost"),
            loop.start_tls(ends[1], protocols[1], serving, server_side=True),
        )
        protocols[1].transport = server
        client.write(b"x" * 3_000_000)
        assert len(await protocols[0].wait(3_000_000)) == 3_000_000
        client.close()
        assert await protocols[0].lost is None
        assert await protocols[1].lost is None

    run(main)


def test_tls_inside_tls_inside_tls(run, loop, serving, trusting):
    async def main():
        outer = []

        def factory():
            outer.append(Kept())
            return outer[-1]

        server, port = await serve(factory, serving)
        transport, protocol = await connect(Kept, port, trusting)
        while not outer or not outer[0].transport:
            await asyncio.sleep(0.001)
        accepted = outer[0].transport
        for _ in range(2):
            protocol, echo = Kept(), Echo()
            transport, accepted = await asyncio.gather(
                loop.start_tls(transport, protocol, trusting, server_hostname="localhost"),
                loop.start_tls(accepted, echo, serving, server_side=True),
            )
            echo.transport = accepted
        transport.write(b"x" * 2_000_000)
        assert await protocol.wait(2_000_000) == b"x" * 2_000_000
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.close()
        assert await protocol.lost is None
        assert await echo.lost is None
        await shut(server)

    run(main)


# --- start_tls()


def test_streams_are_upgraded_with_what_has_come_already(run, serving, trusting):
    """The client's hello is in the same packet as its last plain line, so it lies in the StreamReader."""
    if not hasattr(asyncio.StreamWriter, "start_tls"):
        pytest.skip("StreamWriter.start_tls() is of CPython 3.11 and later")

    async def handle(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        await asyncio.sleep(0.05)
        await writer.start_tls(serving)
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    def talk(sock):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        sslobj = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            sslobj.do_handshake()
        sock.sendall(b"STARTTLS\n" + outgoing.read())

        def until(step):
            while True:
                try:
                    result = step()
                    break
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            if outgoing.pending:
                sock.sendall(outgoing.read())
            return result

        until(sslobj.do_handshake)
        until(lambda: sslobj.write(b"hello\n"))
        return until(lambda: sslobj.read(100))

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        peer = Blocking(talk, server.sockets[0].getsockname()[1])
        assert await peer.end() == b"HELLO\n"
        await shut(server)

    run(main)


def test_start_tls_checks_what_it_is_given(run, loop, serving, trusting):
    async def main():
        server, port = await serve(Kept, None)
        transport, kept = await loop.create_connection(Kept, "127.0.0.1", port)
        with pytest.raises(TypeError, match="sslcontext is expected to be an instance of ssl.SSLContext, got True"):
            await loop.start_tls(transport, kept, True)
        with pytest.raises(TypeError, match="is not supported by start_tls"):
            await loop.start_tls(asyncio.Transport(), kept, trusting)
        transport.close()
        await kept.lost
        await shut(server)

    run(main)


def test_start_tls_fails_and_closes(run, loop, trusting):
    async def main():
        peer = Blocking(lambda sock: (recv_all(sock, 100), sock.sendall(b"no TLS here\r\n"), recv_all(sock, 1 << 20)))
        transport, kept = await loop.create_connection(Kept, "127.0.0.1", peer.port)
        with pytest.raises(ssl.SSLError):
            await loop.start_tls(transport, kept, trusting, server_hostname="localhost")
        assert isinstance(await kept.lost, ssl.SSLError)
        await peer.end()

    run(main)


def test_start_tls_is_cancelled(run, loop, trusting):
    async def main():
        peer = Blocking(lambda sock: recv_all(sock, 1 << 20))
        transport, kept = await loop.create_connection(Kept, "127.0.0.1", peer.port)
        task = asyncio.ensure_future(loop.start_tls(transport, kept, trusting, server_hostname="localhost"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.is_closing()
        await peer.end()

    run(main)


def test_a_transport_that_is_closed_during_start_tls_fails_the_awaiter(run, loop, trusting):
    async def main():
        peer = Blocking(lambda sock: recv_all(sock, 1 << 20))
        transport, kept = await loop.create_connection(Kept, "127.0.0.1", peer.port)
        task = asyncio.ensure_future(loop.start_tls(transport, kept, trusting, server_hostname="localhost"))
        await asyncio.sleep(0.05)
        transport.abort()
        with pytest.raises(ConnectionAbortedError, match="closed during the TLS handshake"):
            await task
        await peer.end()

    run(main)


# --- what is left


def test_nothing_of_a_connection_outlives_it(run, serving):
    context = certs.client(CA)

    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, context)
        transport.write(b"x")
        await kept.wait(1)
        transport.close()
        await kept.lost
        refs = [weakref.ref(transport), weakref.ref(kept), weakref.ref(transport._ssl_protocol)]
        del kept.lost
        del transport, kept
        await asyncio.sleep(0)
        gone = [ref() is None for ref in refs]
        await shut(server)
        return gone

    gc.collect()
    gc.disable()
    try:
        assert run(main) == [True, True, True]
    finally:
        gc.enable()


def test_a_connection_that_is_forgotten_is_told_of(run, loop, serving, trusting):
    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(asyncio.Protocol, port, trusting)
        transport._ssl_protocol._app_transport.abort()
        await asyncio.sleep(0)
        await shut(server)

    run(main)
    tls = loop._tls(asyncio.Protocol(), trusting, None, False, "localhost", True, None, None)
    with pytest.warns(ResourceWarning, match="unclosed transport <_ringcorn.SSLTransport"):
        del tls
        gc.collect()


def test_two_hundred_connections_leave_nothing(loop, serving, trusting):
    async def one(port, i):
        transport, kept = await connect(Kept, port, trusting)
        transport.write(b"x" * (1 + i * 37))
        await kept.wait(1 + i * 37)
        if i % 3 == 0:
            transport.abort()
        else:
            transport.close()
        await kept.lost

    async def main():
        server, port = await serve(Echo, serving)
        for start in range(0, 200, 50):
            await asyncio.gather(*(one(port, i) for i in range(start, start + 50)))
        await shut(server)
        for _ in range(100):
            if _ringcorn.live()["tls"] == 0:
                break
            await asyncio.sleep(0.01)
            gc.collect()
        assert _ringcorn.live()["tls"] == 0

    loop.run_until_complete(asyncio.wait_for(main(), 60))  # 400 handshakes take long under a sanitizer


def test_debug_mode_tells_of_the_handshake(run, loop, serving, trusting, caplog):
    loop.set_debug(True)

    async def main():
        server, port = await serve(Echo, serving)
        with caplog.at_level(logging.DEBUG, "asyncio"):
            transport, kept = await connect(Kept, port, trusting)
            transport.close()
            await kept.lost
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(Kept, port, certs.client(certs.Authority("another", number=101)))
            while not loop.problems:
                await asyncio.sleep(0.001)
        (told,) = loop.problems  # by asyncio, of the server's side
        assert told["exception"].reason == "TLSV1_ALERT_UNKNOWN_CA"
        loop.problems.clear()
        assert "starts SSL handshake" in caplog.text and "SSL handshake took" in caplog.text
        assert "SSL handshake failed on verifying the certificate" in caplog.text
        caplog.clear()  # the records keep the connections
        await shut(server)

    run(main)


def test_its_buffer_is_for_ssl_alone(run, serving, trusting):
    async def main():
        server, port = await serve(Echo, serving)
        transport, kept = await connect(Kept, port, trusting)
        with pytest.raises(BufferError):
            memoryview(transport._ssl_protocol)
        with pytest.raises(ValueError):
            transport._ssl_protocol.buffer_updated(1)
        with pytest.raises(RuntimeError):
            transport._ssl_protocol.connection_made(transport)
        transport.close()
        await kept.lost
        await shut(server)

    run(main)
