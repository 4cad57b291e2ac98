"""Ringcorn's event loop: asyncio's own classes on a core in C.

``_ringcorn.LoopCore`` has what is called once per callback: the ready queue, the timers, the wait in the ring (or epoll), readiness of
descriptors, threads; and transports are in C where something runs once a chunk. What happens once a connection (servers, look-ups, subprocesses) and
signals are asyncio's, unchanged, on top.

    with asyncio.Runner(loop_factory=ringcorn.loop.new_event_loop) as runner:
        runner.run(main())
"""

import asyncio
import os
import selectors
import signal
import sys
import threading
import warnings
from asyncio import base_events, constants, events, sslproto, streams
from asyncio.log import logger

import _ringcorn

__all__ = ("EventLoopPolicy", "Loop", "new_event_loop", "use_pidfds")

# Threads of a stand-alone loop's executor, as concurrent.futures counts them.
EXECUTOR_THREADS_MAX = 32
# From 3.12 on a socket that has a transport is refused a second one.
_CHECKS_TRANSPORTS = sys.version_info >= (3, 12)
# What run_in_executor() takes beside executors: their submit() returns a future of the loop.
_POOLS = (_ringcorn.Pool, _ringcorn.Lease)


def new_event_loop(io=None):
    """A new event loop. io: 'auto', 'io_uring' or 'epoll'; unset, the environment's RINGCORN_LOOP_IO, or 'auto'."""
    return Loop(io)


class _Selector(selectors.BaseSelector):
    """What asyncio's classes take for their selector. It waits for nothing: LoopCore does. Transports ask it in their repr()."""

    def __init__(self, loop):
        self._loop = loop

    def _key(self, fd):
        reader, writer = self._loop._fd_handles(fd)
        wanted = (selectors.EVENT_READ if reader else 0) | (selectors.EVENT_WRITE if writer else 0)
        return selectors.SelectorKey(fd, fd, wanted, (reader, writer)) if wanted else None

    def get_key(self, fileobj):
        key = self._key(fileobj if isinstance(fileobj, int) else fileobj.fileno())
        if key is None:
            raise KeyError(f"{fileobj!r} is not registered")
        return key

    def get_map(self):
        return None

    def register(self, fileobj, events, data=None):
        raise NotImplementedError("use add_reader() and add_writer() of the loop")

    def unregister(self, fileobj):
        raise NotImplementedError("use remove_reader() and remove_writer() of the loop")

    def select(self, timeout=None):
        raise NotImplementedError("the loop waits by itself")

    def close(self):
        self._loop = None


_Base = asyncio.SelectorEventLoop


class Loop(_ringcorn.LoopCore, _Base):
    """An asyncio event loop on io_uring or epoll."""

    def __init__(self, io=None):
        try:
            self._open(io or os.environ.get("RINGCORN_LOOP_IO") or "auto")
            super().__init__(_Selector(self))
        except BaseException:
            self._close_core()  # and no warning of an unclosed loop
            raise

    # --- running

    def run_forever(self):
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        agen_hooks = sys.get_asyncgen_hooks()
        with_wakeup_fd = False
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook,
                finalizer=self._asyncgen_finalizer_hook,
            )
            events._set_running_loop(self)
            with_wakeup_fd = self._take_wakeup_fd()
            self._run()
        finally:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*agen_hooks)
            if with_wakeup_fd:
                self._give_wakeup_fd()

    def _take_wakeup_fd(self):
        """Lets signals write to the self-pipe: one that comes between the loop's last look and its wait would be slept through."""
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            before = signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        except (ValueError, OSError):  # not the main interpreter
            return False
        if before not in (-1, self._csock.fileno()):
            signal.set_wakeup_fd(before)
            return False
        return True

    def _give_wakeup_fd(self):
        if self._signal_handlers or self._csock is None:
            return  # add_signal_handler() needs it as long as there is one
        try:
            after = signal.set_wakeup_fd(-1)
            if after not in (-1, self._csock.fileno()):
                signal.set_wakeup_fd(after)
        except (ValueError, OSError):
            pass

    def _slow_callback(self, handle, seconds):
        """Called by the core in debug mode."""
        what = base_events._format_handle(handle) if hasattr(handle, "_callback") else repr(handle)  # a transport
        base_events.logger.warning("Executing %s took %.3f seconds", what, seconds)

    def close(self):
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        pool, self._executor_pool = self._executor_pool, None
        super().close()
        self._close_core()
        if pool is not None:
            pool.close()

    # --- transports: what runs once a chunk is in C

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None):
        if _CHECKS_TRANSPORTS:
            self._ensure_fd_no_transport(sock)
        return _ringcorn._stream_transport(self, sock, protocol, waiter, extra, server)

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        if _CHECKS_TRANSPORTS:
            self._ensure_fd_no_transport(sock)
        made = _ringcorn._datagram_transport(self, sock, protocol, address, waiter, extra)
        if made is None:  # a socket of another kind
            made = super()._make_datagram_transport(sock, protocol, address, waiter, extra)
        return made

    def _make_read_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return _ringcorn._read_pipe_transport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe, protocol, waiter=None, extra=None):
        return _ringcorn._write_pipe_transport(self, pipe, protocol, waiter, extra)

    # --- TLS

    def _tls(self, protocol, sslcontext, waiter, server_side, server_hostname, call_connection_made, handshake_timeout, shutdown_timeout):
        """TLS as the protocol of the transport below; its _app_transport is the application's."""
        if sslproto.ssl is None:
            raise RuntimeError("Python ssl module is not available")
        if handshake_timeout is None:
            handshake_timeout = constants.SSL_HANDSHAKE_TIMEOUT
        elif handshake_timeout <= 0:
            raise ValueError(f"ssl_handshake_timeout should be a positive number, got {handshake_timeout}")
        if shutdown_timeout is None:
            shutdown_timeout = constants.SSL_SHUTDOWN_TIMEOUT
        elif shutdown_timeout <= 0:
            raise ValueError(f"ssl_shutdown_timeout should be a positive number, got {shutdown_timeout}")
        return _ringcorn.SSLProtocol(
            self,
            protocol,
            sslcontext or sslproto._create_transport_context(server_side, server_hostname),
            waiter,
            server_side,
            server_hostname,
            call_connection_made,
            handshake_timeout,
            shutdown_timeout,
        )

    def _make_ssl_transport(
        self,
        rawsock,
        protocol,
        sslcontext,
        waiter=None,
        *,
        server_side=False,
        server_hostname=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
        **of_socket,
    ):
        tls = self._tls(
            protocol, sslcontext, waiter, server_side, server_hostname, True, ssl_handshake_timeout, ssl_shutdown_timeout
        )  # fmt: skip
        transport = tls._app_transport
        try:
            self._make_socket_transport(rawsock, tls, **of_socket)
        except BaseException:
            transport.abort()
            raise
        return transport

    async def start_tls(
        self,
        transport,
        protocol,
        sslcontext,
        *,
        server_side=False,
        server_hostname=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
    ):
        """Upgrades a transport to TLS; returns the one that *protocol* is to use from now on."""
        if sslproto.ssl is not None and not isinstance(sslcontext, sslproto.ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        if transport.is_closing():
            return None  # as asyncio: its connection is over before a handshake could begin
        waiter = self.create_future()
        tls = self._tls(
            protocol, sslcontext, waiter, server_side, server_hostname, False, ssl_handshake_timeout, ssl_shutdown_timeout
        )  # fmt: skip
        upgraded = tls._app_transport
        # Nothing may be received before connection_made(), which the loop calls.
        transport.pause_reading()
        if server_side and isinstance(protocol, streams.StreamReaderProtocol):
            # A client may have begun its handshake in the same packet as its last plain line.
            reader = protocol._stream_reader
            if reader is not None and reader._buffer:
                tls._feed(reader._buffer)
                reader._buffer.clear()
        transport.set_protocol(tls)
        made = self.call_soon(tls.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        return upgraded

    # --- threads

    def _set_pools(self, executor):
        """Makes a pool of the server the one behind run_in_executor(None, ...)."""
        self._executor_pool = executor

    def _run_in_executor(self, executor, func, *args):
        """run_in_executor() where it is not the plain case, which the core does by itself."""
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None and self._default_executor is None:
            self._check_default_executor()
            executor = self._executor_pool
            if executor is None:
                threads = min(EXECUTOR_THREADS_MAX, (os.cpu_count() or 1) + 4)
                executor = self._executor_pool = _ringcorn.Pool(self, threads, "ringcorn-executor")
        if isinstance(executor, _POOLS):  # in another thread than its own loop's, they return a future of concurrent.futures
            return asyncio.wrap_future(executor.submit(func, *args), loop=self)
        return _Base.run_in_executor(self, executor, func, *args)

    async def shutdown_default_executor(self, timeout=None):
        """Waits until the threads of the default executor have ended, at most timeout seconds."""
        pool, self._executor_pool = self._executor_pool, None
        if self._default_executor is not None:
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()
        self._executor_shutdown_called = True
        if pool is None:
            return
        left = await stop_pool(self, pool, timeout)
        if left:
            where = ", ".join(f"{name} in {place}" for name, place in left)
            warnings.warn(
                f"The executor did not finish joining its threads within {timeout} seconds: {where}",
                RuntimeWarning,
                stacklevel=2,
            )


async def stop_pool(loop, pool, timeout):
    """pool.stop(timeout) from a thread of its own, while *loop* goes on delivering what the pool's threads wait for."""
    if not pool.running and not pool.queued:
        return pool.stop(timeout)  # and nothing to wait for
    future = loop.create_future()

    def stop():
        left, error = None, None
        try:
            left = pool.stop(timeout)
        except BaseException as exc:
            error = exc
        try:
            loop.call_soon_threadsafe(done, left, error)
        except RuntimeError:  # the loop was closed meanwhile
            pass

    def done(left, error):
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(left)

    thread = threading.Thread(target=stop, name=f"{pool.name}-stop", daemon=True)
    thread.start()
    left = await future
    thread.join()
    return left


def _pidfd_watcher():
    """3.11 starts a thread for each subprocess; from 3.12 on asyncio itself takes a pidfd."""
    from asyncio import unix_events

    class PidfdWatcher(unix_events.PidfdChildWatcher):
        def is_active(self):
            return True

        def close(self):
            pass

        def attach_loop(self, loop):
            pass

        def add_child_handler(self, pid, callback, *args):
            loop = events.get_running_loop()
            pidfd = os.pidfd_open(pid)
            loop._add_reader(pidfd, self._do_wait, pid, pidfd, loop, callback, args)

        def _do_wait(self, pid, pidfd, loop, callback, args):
            loop._remove_reader(pidfd)
            try:
                _, status = os.waitpid(pid, 0)
                returncode = unix_events.waitstatus_to_exitcode(status)
            except ChildProcessError:
                returncode = 255
                logger.warning("child process pid %d exit status already read:  will report returncode 255", pid)
            finally:
                os.close(pidfd)
            callback(pid, returncode, *args)

        def remove_child_handler(self, pid):
            return True

    return PidfdWatcher()


def _pidfds_work():
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):  # a kernel before 5.3, or seccomp
        return False
    return True


def use_pidfds():
    """On 3.11, waits for subprocesses by pidfd instead of a thread each, where nobody has set another way; process-wide."""
    if sys.version_info < (3, 12) and _pidfds_work():
        policy = asyncio.get_event_loop_policy()
        if getattr(policy, "_watcher", False) is None:  # asyncio's own policy, and nothing chosen yet
            policy.set_child_watcher(_pidfd_watcher())


def _make_policy():
    class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
        """asyncio.set_event_loop_policy(EventLoopPolicy()) makes this loop the default one."""

        def _loop_factory(self):
            return Loop()

        if sys.version_info < (3, 12):

            def _init_watcher(self):
                with events._lock:
                    if self._watcher is None and _pidfds_work():
                        self._watcher = _pidfd_watcher()
                super()._init_watcher()

    EventLoopPolicy.__module__ = __name__
    EventLoopPolicy.__qualname__ = "EventLoopPolicy"
    return EventLoopPolicy


def __getattr__(name):
    # Policies are deprecated from 3.14 on: made only for those who ask.
    if name == "EventLoopPolicy":
        policy = globals()[name] = _make_policy()
        return policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
