"""Users of asyncio on the server's own loop: database drivers, HTTP clients, Redis, processes. Addresses come from the environment."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from urllib.parse import parse_qs

import anyio
import raw

PG = os.environ.get("TEST_PG", "")  # host=... port=... user=... dbname=...
REDIS = os.environ.get("TEST_REDIS", "")  # port, or path of a unix socket
ROUTES = {}


def route(function):
    ROUTES["/" + function.__name__.replace("_", "-")] = function
    return function


def pg_settings():
    return dict(part.split("=", 1) for part in PG.split())


@route
async def asyncpg(q):
    import asyncpg

    s = pg_settings()
    pool = await asyncpg.create_pool(
        host=s["host"], port=int(s["port"]), user=s["user"], database=s["dbname"], min_size=2, max_size=4
    )
    async with pool:
        rows = await asyncio.gather(*(pool.fetchval("select pg_sleep(0.02) is not null, $1::int", i, column=1) for i in range(12)))
        async with pool.acquire() as connection:
            async with connection.transaction():
                big = 0
                async for record in connection.cursor("select repeat('x', 10000) as t from generate_series(1, 200)"):
                    big += len(record["t"])
            queue = asyncio.Queue()
            await connection.add_listener("ringcorn", lambda *args: queue.put_nowait(args[-1]))
            await pool.execute("notify ringcorn, 'heard'")
            heard = await asyncio.wait_for(queue.get(), 5)
            try:
                await asyncio.wait_for(connection.execute("select pg_sleep(30)"), 0.1)
                cancelled = False
            except TimeoutError:
                cancelled = True
    return {"rows": rows, "big": big, "heard": heard, "cancelled": cancelled}


@route
async def psycopg(q):
    import psycopg

    async with await psycopg.AsyncConnection.connect(PG) as connection:
        async with connection.cursor() as cursor:
            await cursor.execute("select generate_series(1, 1000)")
            total = sum(row[0] for row in await cursor.fetchall())
            async with cursor.copy("copy (select generate_series(1, 5000)) to stdout") as copy:
                copied = 0
                async for row in copy.rows():
                    copied += int(row[0])
    return {"total": total, "copied": copied, "implementation": psycopg.pq.__impl__}


@route
async def psycopg2(q):
    import psycopg2

    def work():
        connection = psycopg2.connect(PG)
        try:
            with connection.cursor() as cursor:
                cursor.execute("select 6 * 7")
                return cursor.fetchone()[0]
        finally:
            connection.close()

    return {"answer": await asyncio.to_thread(work)}


@route
async def redis(q):
    import redis.asyncio

    client = redis.asyncio.Redis(port=int(REDIS))
    async with client:
        await client.set("key", "value")
        async with client.pipeline() as pipe:
            for i in range(100):
                pipe.incr("counter")
            counts = await pipe.execute()
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("channel")
            await client.publish("channel", "published")
            while True:
                message = await pubsub.get_message(timeout=5)
                if message and message["type"] == "message":
                    break
        value = await client.get("key")
        popped = await client.blpop("nothing-here", timeout=0.1)
    return {"value": value.decode(), "last": counts[-1] - counts[0], "message": message["data"].decode(), "popped": popped}


@route
async def httpx(q):
    """To ourselves: the server is its own client, in the same loop."""
    import httpx

    async with httpx.AsyncClient(base_url=q["base"]) as client:
        answers = await asyncio.gather(*(client.get("/slow?s=0.05") for _ in range(10)))
        post = await client.post("/echo", content=b"x" * 300_000)
        async with client.stream("GET", "/stream?n=20&size=1000") as response:
            streamed = sum([len(chunk) async for chunk in response.aiter_bytes()])
    return {"statuses": [a.status_code for a in answers], "posted": len(post.content), "streamed": streamed}


@route
async def aiohttp(q):
    import aiohttp

    async with aiohttp.ClientSession(q["base"]) as session:

        async def get():
            async with session.get("/slow?s=0.05") as response:
                return response.status, await response.text()

        answers = await asyncio.gather(*(get() for _ in range(10)))
        async with session.post("/echo", data=b"y" * 300_000) as response:
            posted = len(await response.read())
    return {"statuses": [a[0] for a in answers], "posted": posted}


@route
async def streams(q):
    """asyncio's own streams: TCP and unix, a server inside the server."""

    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async def talk(reader, writer):
        writer.write(b"hello\n" + b"x" * 200_000 + b"\n")
        await writer.drain()
        one = await reader.readline()
        two = await reader.readexactly(200_001)
        writer.close()
        await writer.wait_closed()
        return one.decode(), len(two)

    limit = 1 << 20
    tcp = await asyncio.start_server(serve, "127.0.0.1", 0, limit=limit)
    async with tcp:
        port = tcp.sockets[0].getsockname()[1]
        over_tcp = await talk(*await asyncio.open_connection("127.0.0.1", port, limit=limit))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        unix = await asyncio.start_unix_server(serve, path, limit=limit)
        async with unix:
            over_unix = await talk(*await asyncio.open_unix_connection(path, limit=limit))
    return {"tcp": over_tcp, "unix": over_unix}


@route
async def datagram(q):
    loop = asyncio.get_running_loop()
    got = loop.create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            got.set_result(data)

    server, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    client, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=server.get_extra_info("sockname")
    )
    client.sendto(b"datagram")
    data = await asyncio.wait_for(got, 5)
    client.close()
    server.close()
    return {"data": data.decode()}


@route
async def readers(q):
    """add_reader, add_writer and sock_* straight on the loop."""
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        seen = loop.create_future()
        loop.add_reader(a, lambda: seen.done() or seen.set_result(a.recv(100)))
        loop.add_writer(b, lambda: (b.send(b"ready"), loop.remove_writer(b)))
        first = await asyncio.wait_for(seen, 5)
        loop.remove_reader(a)
        await loop.sock_sendall(a, b"z" * 500_000) if q.get("big") else await loop.sock_sendall(a, b"small")
        second = await asyncio.wait_for(loop.sock_recv(b, 100), 5)
    return {"first": first.decode(), "second": second.decode()}


@route
async def subprocess(q):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(5)",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(b"shout"), 30)
    shell = await asyncio.create_subprocess_shell("exec sleep 30")
    shell.send_signal(signal.SIGTERM)
    killed = await asyncio.wait_for(shell.wait(), 10)
    many = await asyncio.gather(*(asyncio.create_subprocess_exec("true") for _ in range(5)))
    codes = await asyncio.gather(*(p.wait() for p in many))
    return {"out": out.decode(), "code": process.returncode, "killed": killed, "codes": codes}


def open_descriptors():
    """What a child sees of ours: descriptors above the standard three, by what they are."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) > 2:
            try:
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                pass
    return sorted(found)


def open_sockets():
    """The sockets of this process, by what they are; a nameless pair (asyncio's wake-up) is nobody's business but its own."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(fd))) as s:
                accepts = s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if s.family != socket.AF_UNIX or accepts or s.type != socket.SOCK_STREAM or s.getsockname():
                    found.append(f"socket: {s.family.name} {s.type.name} {s.getsockname()} {'listens' if accepts else ''}")
        except OSError:
            pass
    return found


@route
async def child_descriptors(q):
    """A child started from here holds no ring, listener or connection of the server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", "import os, sys; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) > 2 and os.path.exists(f'/proc/self/fd/{n}')])",
        stdout=asyncio.subprocess.PIPE, close_fds=False,
    )  # fmt: skip
    out, _ = await process.communicate()
    return {"child": out.decode()}


@route
async def os_fork(q):
    """A bare os.fork(): the child sees no ring, listener or connection, and its exit disturbs nothing."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            seen = [n for n in open_descriptors() if "pipe" not in n and "socket" not in n] + open_sockets()
            os.write(writer, json.dumps(seen).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    data = b""
    while chunk := await asyncio.to_thread(os.read, reader, 65536):
        data += chunk
    os.close(reader)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    return {"child": json.loads(data), "status": status}


def square(x):
    return x * x, os.getpid()


@route
async def process_pool(q):
    import concurrent.futures
    import multiprocessing

    context = multiprocessing.get_context(q["method"])
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        results = await asyncio.wait_for(
            asyncio.gather(*(loop.run_in_executor(pool, square, x) for x in range(6))), 60
        )
    return {"squares": [r[0] for r in results], "others": all(r[1] != os.getpid() for r in results)}


@route
async def multiprocessing_queue(q):
    import multiprocessing

    def work():
        context = multiprocessing.get_context(q["method"])
        queue = context.Queue()
        process = context.Process(target=queue_worker, args=(queue,))
        process.start()
        value = queue.get(timeout=30)
        process.join(30)
        code = process.exitcode
        queue.close()
        queue.join_thread()
        process.close()
        return value, code

    value, code = await asyncio.to_thread(work)
    return {"value": value, "code": code}


def queue_worker(queue):
    queue.put("from the child")


@route
async def terminate_process(q):
    """Each signal ends a child at once, however young it is; -1 for one that had to be killed."""
    import multiprocessing
    import time

    def work():
        context = multiprocessing.get_context(q["method"])
        codes = []
        for number in map(int, q["signals"].split(",")):
            for pause in (0, 0.3):
                process = context.Process(target=time.sleep, args=(60,))
                process.start()
                time.sleep(pause)
                os.kill(process.pid, number)
                process.join(20)
                codes.append(-1 if process.exitcode is None else -process.exitcode)
                process.kill()
                process.join()
                process.close()
        return codes

    codes = await asyncio.to_thread(work) if q.get("where") == "thread" else work()
    return {"codes": codes}


@route
async def anyio_process(q):
    import anyio.to_process

    results = [await anyio.to_process.run_sync(square, x) for x in (3, 4)]
    return {"squares": [r[0] for r in results]}


@route
async def anyio_thread(q):
    import anyio.from_thread
    import anyio.to_thread

    async def back():
        await anyio.sleep(0.01)
        return "back"

    def work():
        return anyio.from_thread.run(back)

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0.01)
        value = await anyio.to_thread.run_sync(work)
    with anyio.move_on_after(0.05) as scope:
        await anyio.sleep(10)
    limiter = anyio.to_thread.current_default_thread_limiter().total_tokens
    return {"value": value, "cancelled": scope.cancelled_caught, "limiter": limiter}


@route
async def signals(q):
    loop = asyncio.get_running_loop()
    got = loop.create_future()
    loop.add_signal_handler(signal.SIGRTMIN, got.set_result, "signal")
    try:
        os.kill(os.getpid(), signal.SIGRTMIN)
        value = await asyncio.wait_for(got, 5)
    finally:
        loop.remove_signal_handler(signal.SIGRTMIN)
    return {"value": value}


@route
async def dns(q):
    infos = await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    return {"found": len(infos) > 0}


@route
async def wheels(q):
    """Compiled wheels resolve libpython's symbols in the program."""
    import numpy
    import psycopg2
    import pydantic

    class Model(pydantic.BaseModel):
        x: int

    return {"numpy": int(numpy.arange(10).sum()), "pydantic": Model(x="5").x, "psycopg2": bool(psycopg2.apilevel)}


@route
async def structured(q):
    """Task groups, timeouts, queues, locks: asyncio's own tools."""
    order = []

    async def step(i):
        await asyncio.sleep(0.002 * i)
        order.append(i)

    async with asyncio.TaskGroup() as group:
        for i in (3, 1, 2):
            group.create_task(step(i))
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(10)
        timed_out = False
    except TimeoutError:
        timed_out = True
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(0.01, future.set_result, "later")
    from_thread = await asyncio.to_thread(
        lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "threadsafe"), loop).result(5)
    )
    return {"order": order, "timed_out": timed_out, "later": await future, "from_thread": from_thread}


async def app(scope, receive, send):
    handler = ROUTES.get(scope.get("path"))
    if handler is None:
        return await raw.app(scope, receive, send)
    q = {k: v[-1] for k, v in parse_qs(scope["query_string"].decode()).items()}
    await raw.answer(send, json.dumps(await handler(q)), headers=[(b"content-type", b"application/json")])
