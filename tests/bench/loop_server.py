"""One event loop for loop.py to measure: loop_server.py ring|epoll|uvloop|asyncio serve|work.

serve CERTIFICATE KEY   echo servers of every kind; prints {endpoint: port} as JSON and serves until its standard input ends
work                    reads lines `WORK SECONDS`, does that for so long, and prints what it did as JSON, a line each
"""

import asyncio
import json
import resource
import socket
import ssl
import sys
import threading
import time

STREAM_READ = 1 << 17
SOCK_READ = 1 << 16
UDP_BUFFER = 212992  # what an unprivileged process may ask for by default


def make_loop(name):
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    import ringcorn.loop

    ringcorn.loop.use_pidfds()
    return ringcorn.loop.new_event_loop({"ring": "io_uring", "epoll": "epoll"}[name])


# ------------------------------------------------------------------ servers


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, bytearray(1 << 18)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, n):
        self.transport.write(self.buffer[:n])


class UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def stream_echo(reader, writer):
    try:
        while data := await reader.read(STREAM_READ):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def sock_echo(loop, sock):
    with sock:
        try:
            while data := await loop.sock_recv(sock, SOCK_READ):
                await loop.sock_sendall(sock, data)
        except ConnectionError:
            pass


async def sock_server(loop, listener):
    tasks = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(sock_echo(loop, sock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def serve(certificate, key):
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    host, listens = "127.0.0.1", {"backlog": 1024}
    servers = {
        "protocol": await loop.create_server(Echo, host, 0, **listens),
        "buffered": await loop.create_server(BufferedEcho, host, 0, **listens),
        "streams": await asyncio.start_server(stream_echo, host, 0, **listens),
        "tls-protocol": await loop.create_server(Echo, host, 0, ssl=context, **listens),
        "tls-streams": await asyncio.start_server(stream_echo, host, 0, ssl=context, **listens),
    }
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    with socket.create_server((host, 0), backlog=1024) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        listener.setblocking(False)
        udp.setblocking(False)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER)
        udp.bind((host, 0))
        transport, _ = await loop.create_datagram_endpoint(UdpEcho, sock=udp)
        by_sock = loop.create_task(sock_server(loop, listener))
        ports |= {"sock": listener.getsockname()[1], "udp": udp.getsockname()[1]}
        # A thread of its own: standard input may be a file, which cannot be watched.
        ended = asyncio.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
        print(json.dumps(ports), flush=True)
        await ended.wait()
        by_sock.cancel()
        await asyncio.wait([by_sock])
        transport.close()
        for server in servers.values():
            server.close()
        await asyncio.sleep(0)


# ------------------------------------------------------------------ work: each does some operations and returns their number


async def soon(loop, at_once, each):
    """Callbacks that call themselves again: so many are ready in every turn."""
    done, left, call_soon = loop.create_future(), at_once * each, loop.call_soon

    def one(again):
        nonlocal left
        left -= 1
        if again:
            call_soon(one, again - 1)
        elif left == 0:
            done.set_result(None)

    for _ in range(at_once):
        call_soon(one, each - 1)
    await done
    return at_once * each


async def later(loop):
    """Timers that fire within two milliseconds."""
    n = left = 2000
    done, call_later = loop.create_future(), loop.call_later

    def one(i):
        nonlocal left
        left -= 1
        if left == 0:
            done.set_result(None)

    for i in range(n):
        call_later(i % 200 * 1e-5, one, i)
    await done
    return n


async def later_cancelled(loop):
    """Timeouts that do not come to pass."""
    n, call_later = 2000, loop.call_later
    for i in range(0, n, 10):
        handles = [call_later(60 + i * 1e-3, print, i) for _ in range(10)]
        await asyncio.sleep(0)
        for handle in handles:
            handle.cancel()
    return n


def nothing():
    pass


async def hop(loop, at_once):
    n = 3200 // at_once

    async def some():
        for _ in range(n):
            await loop.run_in_executor(None, nothing)

    await asyncio.gather(*(some() for _ in range(at_once)))
    return n * at_once


async def threadsafe(loop):
    """A thread that calls again as soon as it was heard."""
    n, heard = 1000, threading.Event()

    def other():
        for _ in range(n):
            heard.clear()
            loop.call_soon_threadsafe(heard.set)
            heard.wait()

    await loop.run_in_executor(None, other)
    return n


async def spawn(loop):
    for _ in range(10):
        process = await asyncio.create_subprocess_exec("/bin/true")
        if await process.wait() != 0:
            raise RuntimeError("/bin/true failed")
    return 10


async def spawn_piped(loop):
    data = bytes(1024)
    for _ in range(10):
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate(data)
        if out != data:
            raise RuntimeError("/bin/cat says something else")
    return 10


async def pipe(loop):
    """64 KiB through /bin/cat, again and again."""
    n, data = 200, bytes(1 << 16)
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    for _ in range(n):
        process.stdin.write(data)
        await process.stdin.drain()
        await process.stdout.readexactly(len(data))
    process.stdin.close()
    await process.wait()
    return n


async def sleeps(loop):
    """A hundred tasks that sleep for one to ten milliseconds."""

    async def some(i):
        for k in range(10):
            await asyncio.sleep(0.001 * ((i + k) % 10 + 1))

    await asyncio.gather(*(some(i) for i in range(100)))
    return 1000


WORK = {
    "call_soon": lambda loop: soon(loop, 1, 5000),
    "call_soon x100": lambda loop: soon(loop, 100, 100),
    "call_soon_threadsafe": threadsafe,
    "call_later": later,
    "call_later, cancelled": later_cancelled,
    "executor": lambda loop: hop(loop, 1),
    "executor x32": lambda loop: hop(loop, 32),
    "spawn": spawn,
    "spawn, pipes": spawn_piped,
    "pipe 64K": pipe,
    "sleep x100": sleeps,
}


def cpu_of_children():
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


async def work(name, seconds):
    loop, do, done = asyncio.get_running_loop(), WORK[name], 0
    begun, cpu, children = time.monotonic(), time.process_time(), cpu_of_children()
    while time.monotonic() - begun < seconds:
        done += await do(loop)
    cpu, children = time.process_time() - cpu, cpu_of_children() - children
    return {"operations": done, "us": cpu / done * 1e6, "children_us": children / done * 1e6}


async def lateness(seconds):
    """How much later than asked for asyncio.sleep() ends, in us; negative: before it."""
    late, delays, begun, i = [], [0.0003, 0.001, 0.0024, 0.0051], time.monotonic(), 0
    while (now := time.monotonic()) - begun < seconds:
        delay = delays[i % len(delays)]
        i += 1
        await asyncio.sleep(delay)
        late.append((time.monotonic() - now - delay) * 1e6)
    return {"late_us": late}


def main():
    loop = make_loop(sys.argv[1])
    asyncio.set_event_loop(loop)
    try:
        if sys.argv[2] == "serve":
            loop.run_until_complete(serve(*sys.argv[3:]))
            return
        for line in sys.stdin:
            name, _, seconds = line.strip().rpartition(" ")
            todo = lateness(float(seconds)) if name == "lateness" else work(name, float(seconds))
            print(json.dumps(loop.run_until_complete(todo)), flush=True)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


if __name__ == "__main__":
    main()
