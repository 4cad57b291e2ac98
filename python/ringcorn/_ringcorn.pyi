"""The types of the extension module _ringcorn that the Python part uses."""

import os
from asyncio import Future
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextvars import Context, ContextVar
from types import CodeType
from typing import Any, AnyStr, BinaryIO, Literal, TypeVar, final

from _typeshed import ReadableBuffer, StrOrBytesPath, WriteableBuffer

_T = TypeVar("_T", covariant=True)

def live() -> dict[str, int]: ...
def _log(level: str, logger: str, message: str, request_id: str | None, exception: str | None, /) -> None: ...

def _stream_transport(
    loop: LoopCore, sock: Any, protocol: Any, waiter: Future[Any] | None, extra: dict[str, Any] | None, server: Any, /
) -> StreamTransport: ...

def _datagram_transport(
    loop: LoopCore, sock: Any, protocol: Any, address: Any, waiter: Future[Any] | None, extra: dict[str, Any] | None, /
) -> DatagramTransport | None: ...
def _read_pipe_transport(
    loop: LoopCore, pipe: Any, protocol: Any, waiter: Future[Any] | None, extra: dict[str, Any] | None, /
) -> ReadPipeTransport: ...
def _write_pipe_transport(
    loop: LoopCore, pipe: Any, protocol: Any, waiter: Future[Any] | None, extra: dict[str, Any] | None, /
) -> WritePipeTransport: ...

# With all methods of asyncio's transports of the kind.
@final
class DatagramTransport: ...

@final
class ReadPipeTransport: ...

@final
class WritePipeTransport: ...

# An asyncio.Transport with all its methods.
@final
class StreamTransport: ...

# asyncio.Transport over TLS, and what is below it: an asyncio.BufferedProtocol of any transport.
@final
class SSLTransport: ...

@final
class SSLProtocol:
    def __new__(
        cls,
        loop: LoopCore,
        app_protocol: Any,
        sslcontext: Any,
        waiter: Future[Any] | None,
        server_side: bool,
        server_hostname: str | None,
        call_connection_made: bool,
        ssl_handshake_timeout: float,
        ssl_shutdown_timeout: float,
    ) -> SSLProtocol: ...
    @property
    def _app_transport(self) -> SSLTransport | None: ...
    def _feed(self, data: bytes | bytearray | memoryview, /) -> None: ...

@final
class Handle:
    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...
    def get_context(self) -> Context: ...

@final
class TimerHandle:
    def cancel(self) -> None: ...
    def cancelled(self) -> bool: ...
    def get_context(self) -> Context: ...
    def when(self) -> float: ...

class LoopCore:
    io: Literal["io_uring", "epoll"]
    io_why: str
    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle: ...
    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle: ...
    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle: ...
    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> TimerHandle: ...
    def time(self) -> float: ...
    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    def create_future(self) -> Future[Any]: ...
    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Future[Any]: ...

@final
class Pool:
    """A set of threads; see server/sync/sync.h. Hooks run on a thread of the pool; one that raises is reported, nothing else."""

    name: str
    threads: int  # slots: jobs that run at once; may be set, on the loop's thread
    threads_max: int
    running: int  # threads that exist
    idle: int
    queued: int
    leased: int  # threads that belong to a lease
    parked: int  # of these, without a slot
    peak: int  # most threads that existed at once
    closed: bool
    affinity: Literal["request", "transaction", "call"]
    context_vars: tuple[ContextVar[Lease], ...]  # what the server sets to a new lease for each request; () = no leases
    blocking_code: tuple[CodeType, ...]  # a job whose thread is inside one of these waits for the loop
    working_code: tuple[CodeType, ...]  # ... unless, further in, it is inside one of these
    on_thread_start: Callable[[], object] | None  # first thing on a new thread
    on_thread_end: Callable[[], object] | None  # last thing on a thread
    on_surplus: Callable[[], object] | None  # its lease has ended and `threads` others that hold something are idle already
    on_acquire: Callable[[], object] | None  # a lease got this thread; before its first job
    may_release: Callable[[], bool] | None  # affinity transaction, Lease.give_back(): is the thread clean?
    on_job_end: Callable[[], object] | None  # after each job, before its result is delivered
    on_park: Callable[[], object] | None  # its lease has had no job for park_timeout; once until the next job
    on_wait: Callable[[], object] | None  # on the loop's thread: a job has waited for wait_alarm; at most every 10 s
    wait_alarm: float | None  # seconds
    park_timeout: float | None  # seconds; for threads that fall asleep from then on
    def __new__(
        cls,
        loop: LoopCore,
        threads: int,
        name: str,
        queue: int = 100000,
        *,
        threads_max: int | None = None,
        queue_timeout: float | None = None,
        idle_timeout: float | None = None,
        affinity: str = "request",
    ) -> Pool: ...
    def submit(self, fn: Callable[..., Any], *args: Any) -> Future[Any]: ...
    def lease(self, label: str = "") -> Lease: ...
    def holders(self) -> list[tuple[str, str]]: ...  # (label, where) of every lease that has a slot
    # (label, for how long) of those that wait for a slot, oldest of each queue first; (label, for how long, where) of those that have one
    def stand(self) -> tuple[list[tuple[str, float]], list[tuple[str, float, str]]]: ...
    # (thread ident, label, state) of every lease that has a thread
    def leases(self) -> list[tuple[int, str, Literal["running", "holding", "parked"]]]: ...
    def close(self) -> None: ...
    def stop(self, timeout: float | None = None) -> list[tuple[str, str]]: ...

@final
class FileOp(Awaitable[_T]):
    """One operation on a file: see server/aio/aio.h. Begun by the first await; can be awaited again where that was cancelled."""

    done: bool
    on_done: Callable[[], object]  # called once, when it has ended
    def __await__(self) -> Generator[Any, None, _T]: ...
    def cancel(self) -> None: ...  # asks for its end; what it comes to can still be awaited
    def run(self) -> None: ...  # in this thread, instead of an await
    def close(self) -> None: ...

_Path = StrOrBytesPath

@final
class Files:
    """Makes operations on files. dir_fd: -100 is the current folder. at: a negative one is where the descriptor stands."""

    def __new__(cls) -> Files: ...
    def open(self, path: _Path, flags: int, mode: int, dir_fd: int = -100, /) -> FileOp[int]: ...
    def read(self, fd: int, n: int, at: int = -1, /) -> FileOp[bytes]: ...
    def readinto(self, fd: int, buffer: WriteableBuffer, at: int = -1, /) -> FileOp[int]: ...
    def write(self, fd: int, buffer: ReadableBuffer, at: int = -1, /) -> FileOp[int]: ...
    def fsync(self, fd: int, is_data_only: bool = False, /) -> FileOp[None]: ...
    def close(self, fd: int, /) -> FileOp[None]: ...
    def stat(self, path: _Path | int, dir_fd: int = -100, follows: bool = True, /) -> FileOp[os.stat_result]: ...
    def truncate(self, path: _Path | int, size: int, /) -> FileOp[None]: ...
    def allocate(self, fd: int, flags: int, at: int, size: int, /) -> FileOp[None]: ...
    def unlink(self, path: _Path, dir_fd: int = -100, flags: int = 0, /) -> FileOp[None]: ...
    def rename(self, src: _Path, dst: _Path, src_dir_fd: int = -100, dst_dir_fd: int = -100, flags: int = 0, /) -> FileOp[None]: ...
    def link(self, src: _Path, dst: _Path, src_dir_fd: int = -100, dst_dir_fd: int = -100, flags: int = 0, /) -> FileOp[None]: ...
    def symlink(self, src: _Path, dst: _Path, unused: int = -100, dir_fd: int = -100, /) -> FileOp[None]: ...
    def mkdir(self, path: _Path, mode: int = 0o777, dir_fd: int = -100, /) -> FileOp[None]: ...
    def readlink(self, path: AnyStr | os.PathLike[AnyStr], dir_fd: int = -100, /) -> FileOp[AnyStr]: ...
    def seek(self, fd: int, offset: int, whence: int, /) -> FileOp[int]: ...
    # (name, d_type, inode)
    def names(self, path: AnyStr | os.PathLike[AnyStr] | int, /) -> FileOp[list[tuple[AnyStr, int, int]]]: ...
    # (mode, size of a regular file or -1, block size), at once: as far as it is in memory
    def known(self, fd: int, /) -> tuple[int, int, int]: ...

class QueueFull(RuntimeError): ...  # sync.queue jobs wait already

class NoThread(RuntimeError): ...  # requests keep all of sync.threads_max, see Lease.submit_optional()

class QueueTimeout(RuntimeError): ...  # a job waited for longer than sync.queue_timeout

@final
class Exchange:
    """A request that its thread answers without the loop (server/asgi/direct_type.c); of no use once the function that it was given to has returned."""

    scope: dict[str, Any]  # as an ASGI application gets it
    body: BinaryIO  # the request's, as a whole
    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], /) -> None: ...
    def write(self, data: bytes, /) -> None: ...  # waits while the client is slow; ClientDisconnected once it has gone
    def finish(self, data: bytes = b"", /) -> None: ...  # the last piece: the answer is complete

@final
class Drivers:
    """What threads do in the drivers of databases, and who is to stop it. One for a process: the last that is made."""

    pool: Pool | None  # whose context_vars hold the leases of requests
    allowed: Any  # the context variable of ringcorn.guard.allow(), or None
    # on_cancel(label, why, [(cell, number)], is_late): operations of a request that was given up; is_late: begun after it was told so
    on_cancel: Callable[[str, str, list[tuple[int, int]], bool], object] | None
    def __init__(self) -> None: ...
    # Around an operation, on its thread. connection: what can be cancelled, or None. A str: the operation must not begin, and why; end() is not called then.
    def begin(self, connection: object, driver: object, statement: object, goes_on: bool = False, /) -> str | None: ...
    # An argument: the operation has failed. A str: it was cancelled, and why.
    def end(self, exception: BaseException = ..., /) -> str | None: ...
    def told(self) -> str | None: ...  # an error is raised in place of what begin() has refused; the request's label
    # (label, seconds, driver, connection, statement, thread's ident), or None where the operation has ended
    def look(self, cell: int, number: int, /) -> tuple[str, float, Any, Any, Any, int] | None: ...
    def start_cancel(self, cell: int, number: int, /) -> bool: ...  # True: its end waits for finish_cancel()
    def finish_cancel(self, cell: int, number: int, was_sent: bool, /) -> None: ...
    def give_up(self, lease: Lease, why: Literal["gone", "overdue", "leaving"], /) -> None: ...  # as the server does with a request
    def running(self, ident: int | None = None, /) -> list[tuple[str, float, Any, Any, Any, int]]: ...

class Lease:
    """A request's claim to one thread. Weakly referencable and hashable; closed when it is freed."""

    label: str
    is_busy: bool  # a job of it runs or waits
    has_thread: bool
    was_used: bool
    has_slot: bool
    has_no_thread: bool  # a job of it has raised NoThread
    thread_ident: int | None
    is_closed: bool
    at_end: Callable[[Lease], object] | None  # called once, when the request has ended: on the loop's thread, or on the one that answered it
    last_of: object | None  # says that the next call, by submit_optional(), is likely to be the only one; its is_last is set to False where it was not
    calls: int  # by submit() and the like
    request: Any | None  # the _Cycle whose it is, until its end; None where it is a thread's alone
    driver_ns: int  # for how long its threads were in drivers of databases (Drivers), without what has not ended
    # On the loop's thread an asyncio future of the loop; elsewhere a concurrent.futures.Future. After close() it still works:
    # each late call takes a thread for itself.
    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]: ...
    # As submit(), beside the slots: begins at once where the lease has its thread and no other job, and its slot is another's.
    def submit_apart(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]: ...
    # As submit(); where it has no thread and requests keep all of threads_max, the future raises NoThread and does not wait.
    def submit_optional(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]: ...
    # The slot at once, and the thread where may_release() says so; the next submit() takes one again.
    def give_back(self) -> None: ...
    # From inside a call that was said to be the last: more will follow, on this thread. So it is where the call raises.
    def keep(self) -> None: ...
    def close(self) -> None: ...
