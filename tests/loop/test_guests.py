"""What runs inside the loop without being asyncio: Trio as a guest, Twisted's reactor, greenlets. And loops beside each other."""

import asyncio
import contextlib
import functools
import gc
import os
import socket
import subprocess
import sys
import threading
import weakref

import harness
import pytest

import _ringcorn
import ringcorn.loop

PREFIX = f"""if 1:
    import asyncio, sys, threading, time
    sys.path[:0] = {sys.path!r}
    import ringcorn.loop
    new_event_loop = ringcorn.loop.new_event_loop
"""


def python(code, io):
    """In a process of its own, as what it does to Python cannot be undone; what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PREFIX + code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "RINGCORN_LOOP_IO": io},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


# ------------------------------------------------------------------ Trio


@pytest.fixture
def trio(monkeypatch):
    trio = pytest.importorskip("trio")
    import trio._core._thread_cache as cache

    monkeypatch.setattr(cache, "IDLE_TIMEOUT", 0.1)  # of its threads, which would stay for ten seconds
    return trio


def run_guest(loop, trio, main):
    """trio.run(main) as a guest of the running loop; awaitable."""
    done = loop.create_future()
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon,
        done_callback=done.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    return done


def test_trio_is_a_guest(loop, run, trio):
    sniffio = pytest.importorskip("sniffio")
    libraries = []

    async def sleeper(seconds, order):
        await trio.sleep(seconds)
        libraries.append(sniffio.current_async_library())
        order.append(seconds)

    async def guest():
        order = []
        async with trio.open_nursery() as nursery:
            for seconds in (0.03, 0.01, 0.02):
                nursery.start_soon(sleeper, seconds, order)
        # sockets: a server and its client, both Trio's
        async with trio.open_nursery() as nursery:

            async def echo(stream):
                async for data in stream:
                    await stream.send_all(data.upper())

            [listener] = await nursery.start(functools.partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
            stream = await trio.testing.open_stream_to_socket_listener(listener)
            async with stream:
                await stream.send_all(b"guest" * 50_000)
                got = b""
                while len(got) < 250_000:
                    got += await stream.receive_some()
            assert got == b"GUEST" * 50_000
            nursery.cancel_scope.cancel()
        with trio.move_on_after(0.02) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        in_thread = await trio.to_thread.run_sync(threading.get_ident)
        assert in_thread != threading.get_ident()
        return order

    async def main():
        assert sniffio.current_async_library() == "asyncio"
        ticks = 0

        async def host():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                libraries.append(sniffio.current_async_library())
                ticks += 1

        ticking = asyncio.create_task(host())
        outcome = await run_guest(loop, trio, guest)
        ticking.cancel()
        assert sniffio.current_async_library() == "asyncio"
        return outcome.unwrap(), ticks

    import trio.testing  # noqa: F401

    order, ticks = run(main)
    assert sorted(order) == [0.01, 0.02, 0.03]
    assert ticks >= 1, "the host goes on beside its guest"
    assert libraries.count("trio") == 3 and libraries.count("asyncio") == ticks


def test_trio_guest_that_fails_or_is_cancelled(loop, run, trio):
    async def main():
        async def fails():
            await trio.sleep(0)
            raise LookupError("the guest's own")

        with pytest.raises(LookupError, match="the guest's own"):
            (await run_guest(loop, trio, fails)).unwrap()

        scope = trio.CancelScope()

        async def waits():
            with scope:
                await trio.sleep_forever()
            return "cancelled by the host"

        done = run_guest(loop, trio, waits)
        await asyncio.sleep(0.02)
        scope.cancel()  # of the guest's run, which this thread is in, too
        return (await done).unwrap()

    assert run(main) == "cancelled by the host"


# ------------------------------------------------------------------ Twisted


TWISTED = """
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    from twisted.internet import asyncioreactor
    asyncioreactor.install(loop)
    from twisted.internet import defer, endpoints, protocol, reactor, task, threads, utils

    assert reactor._asyncioEventloop is loop

    class Echo(protocol.Protocol):
        def dataReceived(self, data):
            self.transport.write(data)

    class Client(protocol.Protocol):
        def __init__(self):
            self.got, self.all, self.lost = b"", defer.Deferred(), defer.Deferred()
        def connectionMade(self):
            self.transport.write(b"x" * 300_000)
        def dataReceived(self, data):
            self.got += data
            if len(self.got) == 300_000:
                self.all.callback(None)
        def connectionLost(self, reason):
            self.lost.callback(None)

    async def main():
        port = await endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(protocol.Factory.forProtocol(Echo))
        client = await endpoints.connectProtocol(endpoints.clientFromString(reactor, f"tcp:127.0.0.1:{port.getHost().port}"), Client())
        await client.all
        print("echo", len(client.got))
        client.transport.loseConnection()
        await client.lost
        await port.stopListening()
        print("later", await task.deferLater(reactor, 0.02, lambda: 42))
        out, err, code = await utils.getProcessOutputAndValue("/bin/sh", ["-c", "cat; echo said >&2; exit 3"], stdinBytes=b"to the process") 
        print("process", out, err, code)
        print("thread", await threads.deferToThread(lambda: threading.current_thread() is not threading.main_thread()))
        # and asyncio's own on the same loop
        print("asyncio", await defer.Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0.01, "slept"))))

    def end(result):
        if result is not None:
            result.printTraceback()
        reactor.stop()

    reactor.callWhenRunning(lambda: defer.ensureDeferred(main()).addBoth(end))
    reactor.run()
    loop.close()
"""


def test_twisted(usable_io):
    pytest.importorskip("twisted")
    assert python(TWISTED, usable_io).splitlines() == [
        "echo 300000",
        "later 42",
        "process b'to the process' b'said\\n' 3",
        "thread True",
        "asyncio slept",
    ]


# ------------------------------------------------------------------ greenlets


def test_greenlets_switch_inside_a_callback(loop, run):
    greenlet = pytest.importorskip("greenlet")

    async def main():
        told = []

        def other(first):
            while True:
                told.append(("in", first))
                loop.call_soon(told.append, ("soon", first))
                first = outside.switch(first * 2)

        outside, inside = greenlet.getcurrent(), greenlet.greenlet(other)
        for n in range(3):
            told.append(("out", inside.switch(n)))
            await asyncio.sleep(0.001)  # the greenlet rests in the middle of its frame, other turns pass
        return told

    assert run(main) == [each for n in range(3) for each in (("in", n), ("out", 2 * n), ("soon", n))]


@pytest.mark.skipif(harness.SANITIZED, reason="greenlets copy the stack, and a sanitizer's red zones with it")
def test_a_loop_in_a_greenlet_that_rests_in_the_middle_of_a_callback(loop):
    """What gevent does, without its hub: the greenlet that runs the loop is left from within a callback, and taken up again."""
    greenlet = pytest.importorskip("greenlet")
    outside = greenlet.getcurrent()

    async def main():
        got = []
        for n in range(3):
            got.append(outside.switch(n))
            await asyncio.sleep(0.001)
        return got

    runner = greenlet.greenlet(lambda: loop.run_until_complete(main()))
    said, answers = [runner.switch()], iter("abc")
    while True:
        assert loop.is_running()
        with pytest.raises(RuntimeError, match="running"):
            loop.run_forever()
        with contextlib.closing(ringcorn.loop.new_event_loop(loop.io)) as other, pytest.raises(RuntimeError, match="running"):
            other.run_forever()  # another loop in this thread, while that one has not ended
        loop.call_soon_threadsafe(said.append, "from outside")
        back = runner.switch(next(answers))
        if runner.dead:
            break
        said.append(back)
    assert back == ["a", "b", "c"]
    assert said == [0, "from outside", 1, "from outside", 2, "from outside"]


def test_sqlalchemy_waits_through_greenlets(loop, run):
    util = pytest.importorskip("sqlalchemy.util")

    def synchronous(n):
        """Code that knows nothing of the loop, as SQLAlchemy's ORM is."""
        return sum(util.await_only(asyncio.sleep(0.001, i)) for i in range(n))

    async def fails():
        await asyncio.sleep(0)
        raise LookupError

    async def main():
        several = [asyncio.create_task(util.greenlet_spawn(synchronous, n)) for n in range(20)]
        assert await asyncio.gather(*several) == [n * (n - 1) // 2 for n in range(20)]
        with pytest.raises(LookupError):
            await util.greenlet_spawn(lambda: util.await_only(fails()))
        late = asyncio.create_task(util.greenlet_spawn(lambda: util.await_only(asyncio.sleep(60))))
        await asyncio.sleep(0.01)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late

    run(main)


GEVENT = """
    from gevent import monkey
    monkey.patch_all(%s)
    import gevent, socket
    from ringcorn import greenlets

    async def main():
        async def echo(reader, writer):
            writer.write(await reader.read(100))
            writer.close()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"through patched sockets")
        print((await reader.read()).decode())
        writer.close()
        server.close()
        await server.wait_closed()
        # A callback that waits in a patched call lets greenlets run, on this thread; the loop waits.
        beside = gevent.spawn(lambda: (time.sleep(0.01), "greenlet")[1])
        print(beside.get())
        print(*await asyncio.gather(*[asyncio.to_thread(lambda: (time.sleep(0.01), threading.current_thread().name[:8])[1]) for _ in range(2)]))
"""


def test_gevent_without_threads(usable_io):
    """What can be patched: all but threads. Each call waits on its own thread, on a hub of its own."""
    pytest.importorskip("gevent")
    lines = python(GEVENT % "thread=False" + """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    greenlets.refuse()
    for line in greenlets.find():
        print(line.split(",")[0])
    """, usable_io).splitlines()
    assert lines == ["through patched sockets", "greenlet", "ringcorn ringcorn", "gevent has patched socket"]


def test_gevent_with_threads_is_refused(usable_io):
    """The loop itself goes on; threads are greenlets then, which nobody runs while it waits. Servers do not start so (ringcorn.greenlets)."""
    pytest.importorskip("gevent")
    said = python(GEVENT % "" + """
    from ringcorn.app import AppError
    async def alone():
        await asyncio.sleep(0.01)
        return "the loop turns"
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        print(runner.run(alone()))
    try:
        greenlets.refuse()
    except AppError as e:
        print(e.code, e)
    """, usable_io)
    assert said.startswith("the loop turns\n3 the application has replaced threads by greenlets (gevent.monkey.patch_all())")
    assert "gevent.monkey.patch_all(thread=False)" in said


# ------------------------------------------------------------------ several loops, several threads


def test_loops_of_several_threads(usable_io):
    """Each serves and asks, all at once, and tells the others."""
    threads_max, each = 4, 20
    before = _ringcorn.live()
    loops, meet, results = {}, threading.Barrier(threads_max, timeout=20), {}

    async def main(n):
        loop = loops[n] = asyncio.get_running_loop()
        heard = asyncio.Queue()
        loop.heard = heard

        async def answer(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        await asyncio.to_thread(meet.wait)
        for other in list(loops.values()):
            other.call_soon_threadsafe(other.heard.put_nowait, n)

        async def ask(i):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"%d of %d\n" % (i, n))
            line = await reader.read()
            writer.close()
            await writer.wait_closed()
            return line

        assert await asyncio.gather(*map(ask, range(each))) == [b"%d of %d\n" % (i, n) for i in range(each)]
        senders = {await heard.get() for _ in range(threads_max)}
        server.close()
        await server.wait_closed()
        await asyncio.to_thread(meet.wait)  # nobody closes a loop that others still tell
        return senders

    def thread(n):
        with asyncio.Runner(loop_factory=lambda: ringcorn.loop.new_event_loop(usable_io)) as runner:
            results[n] = runner.run(main(n))

    threads = [threading.Thread(target=thread, args=(n,)) for n in range(threads_max)]
    for each_thread in threads:
        each_thread.start()
    for each_thread in threads:
        each_thread.join(30)
    assert results == {n: set(range(threads_max)) for n in range(threads_max)}
    loops.clear()
    gc.collect()
    assert _ringcorn.live() == before


def test_asyncio_run_on_a_thread_of_the_pool(loop, run):
    """A synchronous view that calls asyncio.run(): another loop of ours, on a thread of the first one's pool."""

    async def inner(n):
        mine = asyncio.get_running_loop()
        assert type(mine) is ringcorn.loop.Loop and mine is not loop
        outer = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.001, n), loop)  # and it may ask the first
        assert await asyncio.wrap_future(outer) == n
        return await asyncio.to_thread(lambda: n) + await asyncio.sleep(0.001, 1)

    def view(n):
        with asyncio.Runner(loop_factory=lambda: ringcorn.loop.new_event_loop(loop.io)) as runner:
            return runner.run(inner(n))

    async def main():
        for _ in range(2):  # threads of the pool are used again
            assert await asyncio.gather(*(asyncio.to_thread(view, n) for n in range(4))) == [n + 1 for n in range(4)]

    run(main)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="policies are deprecated")
def test_asyncio_run_in_a_thread_under_the_policy(usable_io):
    said = python("""
    asyncio.set_event_loop_policy(ringcorn.loop.EventLoopPolicy())
    async def inner():
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
        return type(asyncio.get_running_loop()).__module__, await process.wait()
    async def main():
        return await asyncio.gather(*[asyncio.to_thread(asyncio.run, inner()) for _ in range(3)])
    print(asyncio.run(main()))
    """, usable_io)
    assert said == f"{[('ringcorn.loop', 7)] * 3}\n"


def finalise_elsewhere(things):
    """Drops what the list has in another thread, where it is collected; the weak references to it must be dead then."""
    refs = [weakref.ref(each) for each in things if type(each).__weakrefoffset__]

    def drop():
        things.clear()
        gc.collect()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join(10)
    return [ref() for ref in refs if ref() is not None]


def test_objects_of_the_loop_end_on_another_thread(loop, run):
    a, b = socket.socketpair()
    kept = []

    async def main():
        kept.extend([loop.call_later(60, print), loop.call_soon(lambda: None), loop.create_future()])
        kept[0].cancel()
        reader, writer = await asyncio.open_connection(sock=a)
        transport = writer.transport
        transport.set_protocol(asyncio.Protocol())
        transport.write(b"said")
        transport.close()
        del reader, writer
        await asyncio.sleep(0.01)
        kept.append(transport)
        kept.append(asyncio.create_task(asyncio.sleep(0)))
        await kept[-1]

    run(main)
    assert b.recv(100) == b"said" and b.recv(100) == b""
    b.close()
    assert finalise_elsewhere(kept) == []
    # The loop itself, closed here and collected there.
    other = ringcorn.loop.new_event_loop(loop.io)
    other.run_until_complete(asyncio.sleep(0))
    other.close()
    things = [other]
    del other
    assert finalise_elsewhere(things) == []


def test_a_loop_that_nobody_closed_ends_on_another_thread(usable_io):
    said = python("""
    import gc, warnings
    seen = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *rest: seen.append((str(message)[:19], threading.current_thread().name))
    def run():
        loop = new_event_loop()
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.call_later(60, print)
        loop.add_reader(0, print)
        return [loop]
    holder = run()
    import os
    fds = len(os.listdir("/proc/self/fd"))
    def drop():
        holder.clear()
        gc.collect()
    thread = threading.Thread(target=drop, name="elsewhere")
    thread.start()
    thread.join()
    assert len(os.listdir("/proc/self/fd")) < fds
    print([each for each in seen if "event loop" in each[0]])
    """, usable_io)
    assert said == "[('unclosed event loop', 'elsewhere')]\n"
