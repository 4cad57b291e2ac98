"""call_soon() and its handles."""

import asyncio
import contextvars
import functools
import gc
import logging
import threading
import weakref

import pytest
from conftest import turns

import _ringcorn

var = contextvars.ContextVar("var", default="unset")


def test_callbacks_run_in_the_order_in_which_they_came(loop):
    seen = []
    for i in range(1000):
        loop.call_soon(seen.append, i)
    turns(loop)
    assert seen == list(range(1000))


def test_any_number_of_arguments(loop):
    seen = []
    for n in range(12):
        loop.call_soon(lambda *args: seen.append(args), *range(n))
    turns(loop)
    assert seen == [tuple(range(n)) for n in range(12)]


def test_what_a_callback_queues_waits_for_the_next_turn(loop):
    seen = []

    def first():
        seen.append("first")
        loop.call_soon(seen.append, "third")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    turns(loop)
    assert seen == ["first", "second"]
    turns(loop)
    assert seen == ["first", "second", "third"]


def test_a_cancelled_handle_does_not_run_and_holds_nothing(loop):
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    handle = loop.call_soon(print, thing)
    assert not handle.cancelled()
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    del thing
    gc.collect()
    assert ref() is None
    assert handle._callback is None and handle._args is None
    turns(loop)


def test_a_handle_may_cancel_itself_while_it_runs(loop):
    seen = []

    def callback(*args):
        handle.cancel()
        gc.collect()
        seen.append(args)

    handle = loop.call_soon(callback, "some", "arguments", object(), 4)
    turns(loop)
    assert len(seen[0]) == 4
    assert handle.cancelled() and handle._callback is None


def test_context_given_copied_and_kept(loop):
    seen = []
    given = contextvars.copy_context()
    given.run(var.set, "given")
    var_token = var.set("current")
    loop.call_soon(lambda: seen.append(var.get()), context=given)
    handle = loop.call_soon(lambda: (seen.append(var.get()), var.set("changed inside")))
    var.reset(var_token)
    turns(loop)
    assert seen == ["given", "current"]
    assert handle.get_context()[var] == "changed inside"
    assert var.get() == "unset"


def test_a_context_that_is_entered_already_is_reported(loop, monkeypatch):
    logged = []
    monkeypatch.setattr(asyncio.base_events.logger, "error", lambda text, **kwargs: logged.append(text))
    context = contextvars.copy_context()
    context.run(turns_with, loop, context)
    # From 3.12 on asyncio calls the handler in the handle's context, which fails too, and then its default one.
    assert "cannot enter context" in (str(loop.problems.pop()["exception"]) if loop.problems else logged[0])


def turns_with(loop, context):
    loop.call_soon(print, context=context)
    turns(loop)


@pytest.mark.parametrize("method, args", [("call_soon", ()), ("call_soon_threadsafe", ()), ("call_later", (1,)), ("call_at", (1,))])
def test_wrong_arguments(loop, method, args):
    call = getattr(loop, method)
    with pytest.raises(TypeError):
        call(*args)
    with pytest.raises(TypeError, match="unexpected keyword"):
        call(*args, print, nonsense=1)
    with pytest.raises(TypeError, match="Context"):
        call(*args, print, context={})
    call(*args, print, context=None).cancel()


def test_an_exception_goes_to_the_handler_with_the_callback_named(loop):
    def raiser():
        raise ValueError("from a callback")

    handle = loop.call_soon(raiser)
    seen = []
    loop.call_soon(seen.append, "the next one still runs")
    turns(loop)
    problem = loop.problems.pop()
    assert isinstance(problem["exception"], ValueError)
    assert problem["message"].startswith("Exception in callback ") and "raiser" in problem["message"]
    assert problem["handle"] is handle
    assert seen


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exits_leave_run_forever_and_the_rest_stays_queued(loop, kind):
    def leave():
        raise kind(3)

    seen = []
    loop.call_soon(leave)
    loop.call_soon(seen.append, 1)
    with pytest.raises(kind):
        loop.run_forever()
    assert seen == [] and not loop.is_running()
    turns(loop)
    assert seen == [1]


def test_an_exception_handler_that_exits(loop):
    def handler(loop, context):
        raise SystemExit(7)

    loop.set_exception_handler(handler)
    loop.call_soon(int, "no number")
    with pytest.raises(SystemExit):
        loop.run_forever()
    loop.set_exception_handler(None)


def test_repr_and_attributes_are_those_of_asyncio(loop):
    def callback():
        pass

    ours = loop.call_soon(callback, 1, "a")
    theirs = asyncio.Handle(callback, (1, "a"), loop)
    assert repr(ours) == repr(theirs)
    assert ours._callback is callback and ours._args == (1, "a") and ours._loop is loop and not ours._cancelled
    ours.cancel()
    theirs.cancel()
    assert repr(ours) == repr(theirs) == "<Handle cancelled>"
    ours = loop.call_at(12.5, functools.partial(callback, 5))
    theirs = asyncio.TimerHandle(12.5, functools.partial(callback, 5), (), loop)
    assert repr(ours) == repr(theirs)
    ours.cancel()


def test_foreign_handles_run_and_may_be_cancelled(loop):
    seen = []
    loop._add_callback(asyncio.Handle(seen.append, ("ran",), loop))
    cancelled = asyncio.Handle(seen.append, ("cancelled before",), loop)
    cancelled.cancel()
    loop._add_callback(cancelled)
    later = asyncio.Handle(seen.append, ("cancelled after",), loop)
    loop._add_callback_signalsafe(later)
    later.cancel()
    turns(loop)
    assert seen == ["ran"]
    with pytest.raises(AttributeError):
        loop._add_callback(object())


def test_handles_are_weakly_referable_and_collected(loop):
    class Owner:
        def start(self):
            self.handle = loop.call_later(1000, self.start)

    owner = Owner()
    owner.start()
    ref = weakref.ref(owner.handle)
    owner.handle.cancel()
    del owner
    gc.collect()
    assert ref() is None


def test_cycles_through_a_closed_loop_are_collected(usable_io):
    import ringcorn.loop

    before = _ringcorn.live()["handles"]
    loop = ringcorn.loop.new_event_loop(usable_io)

    class Owner:
        pass

    owner = Owner()
    owner.loop = loop
    loop.owner = owner
    owner.handles = [loop.call_soon(print, owner), loop.call_later(5, print, owner)]
    ref = weakref.ref(owner)
    loop.close()
    del loop, owner
    gc.collect()
    assert ref() is None
    assert _ringcorn.live()["handles"] == before


def test_a_loop_that_was_forgotten_open_is_collected_with_a_warning(usable_io):
    import ringcorn.loop

    before = _ringcorn.live()
    loop = ringcorn.loop.new_event_loop(usable_io)
    loop.cycle = loop
    loop.run_until_complete(loop.run_in_executor(None, int))
    loop.call_soon(print, loop)
    loop.call_later(5, print, loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert _ringcorn.live() == before


def test_debug_mode_checks_threads_and_callbacks(loop):
    loop.set_debug(True)

    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used with call_soon"):
        loop.call_soon(coroutine)
    with pytest.raises(TypeError, match="a callable object was expected by call_later"):
        loop.call_later(1, "not callable")
    errors = []

    def elsewhere():
        try:
            loop.call_soon(print)
        except RuntimeError as e:
            errors.append(e)
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(threading.Thread(target=elsewhere).start)
    loop.run_forever()
    assert "Non-thread-safe operation" in str(errors[0])


def test_debug_mode_tells_where_a_handle_was_made(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    handle = loop.call_soon(__import__("time").sleep, 0.02)
    assert handle._source_traceback[-1].filename == __file__
    assert f"created at {__file__}:" in repr(handle)
    with caplog.at_level(logging.WARNING, "asyncio"):
        turns(loop)
    assert any("Executing <Handle" in r.message and "seconds" in r.message for r in caplog.records)
    timer = loop.call_later(3, print)
    assert timer._source_traceback[-1].filename == __file__
    timer.cancel()
    assert "created at" in repr(timer)


def test_a_closed_loop_refuses(loop):
    loop.close()
    for call in (loop.call_soon, loop.call_soon_threadsafe, functools.partial(loop.call_later, 1)):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call(print)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_forever()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_in_executor(None, print)
    loop.close()


def test_a_running_loop_cannot_be_run_or_closed(loop):
    seen = []

    def inside():
        for call in (loop.run_forever, loop.close, loop._run, loop._close_core):
            try:
                call()
            except RuntimeError as e:
                seen.append(str(e))
        loop.stop()

    loop.call_soon(inside)
    loop.run_forever()
    assert seen == [
        "This event loop is already running",
        "Cannot close a running event loop",
        "This event loop is already running",
        "Cannot close a running event loop",
    ]


def test_stop_before_run_makes_one_turn(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.stop()
    loop.run_forever()
    assert seen == [1]


def test_unknown_backend():
    import ringcorn.loop

    with pytest.raises(ValueError, match="must be 'auto', 'io_uring' or 'epoll'"):
        ringcorn.loop.new_event_loop("kqueue")


async def use_nothing():
    pass


async def use_futures():
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    await future


async def use_tasks():
    await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(3)])


async def use_a_thread():
    await asyncio.get_running_loop().run_in_executor(None, int)


async def use_a_server():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.sleep(0.01)


async def leave_something():
    asyncio.get_running_loop().call_later(100, print)
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().create_future)


@pytest.mark.parametrize("use", [use_nothing, use_futures, use_tasks, use_a_thread, use_a_server, leave_something])
def test_a_closed_loop_goes_without_the_collector(usable_io, use):
    """As asyncio's own does, which Tornado's suite sees to."""
    import ringcorn.loop

    gc.collect()
    gc.disable()
    try:
        loop = ringcorn.loop.new_event_loop(usable_io)
        loop.run_until_complete(use())
        loop.close()
        assert not loop.create_future().done()
        gone = weakref.ref(loop)
        loop = None
        assert gone() is None
    finally:
        gc.enable()
