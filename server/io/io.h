/* io.h: waiting for the kernel. One interface, two backends chosen at run time; nothing above can tell which one runs.
 *
 *   uring.c   io_uring through liburing, kernel 6.1 and later: multishot accept and poll, sends submitted in batches
 *   epoll.c   epoll with the same deferred sends, for kernels and containers that refuse the ring
 *   io.c      the choice between them        timer.c   the timing wheel
 *   file.c    what is done to files          threads.c and where the ring cannot: by threads
 *
 * An operation (struct io_op) is embedded in its owner and armed by one of the calls below. It is in flight until its
 * callback is called without IO_MORE; until then the owner, and what it gave to the kernel, must stay where they are.
 * io_cancel() only asks: the last completion (-ECANCELED, or the natural result that was faster) comes from a later
 * io_wait(), never from inside io_cancel() or an arming call.
 *
 * Threads: an io belongs to the thread that opened it (the kernel insists, IORING_SETUP_SINGLE_ISSUER); only io_wake() may be called from others.
 * Python:  nothing here knows it. io_wait() is called with or without the GIL; callbacks run in the state it was called in,
 *          so they must not touch Python objects. */
#ifndef RINGCORN_IO_H
#define RINGCORN_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/base.h"

struct io;
struct io_op;

/* Flags of a completion. */
enum {
    IO_MORE = 1,   /* this operation stays armed */
    IO_UNSURE = 2, /* of io_watch(): POLLPRI may be missing */
};

/* res: as each arming call says; negative = -errno. */
typedef void (*io_fn)(struct io_op *op, int res, unsigned flags);

/* Public for embedding; only fn is the owner's to set (by io_op_init) and `armed` the owner's to read. */
struct io_op {
    io_fn fn;
    struct list link; /* the backend's: queued, waiting to be armed or finished */
    struct list all;  /* the backend's: everything armed, for io_close() */
    int fd;
    int res;       /* of one that is finished and waits for its callback */
    uint32_t mask; /* poll events asked for */
    uint32_t sqe;  /* the ring's: the slot its last submission was written to */
    uint8_t kind;  /* enum io_kind in backend.h */
    uint8_t state; /* enum io_state in backend.h */
    bool armed;    /* from the arming call to the last completion */
    bool cancelled;
    union {
        struct {
            union {
                const struct iovec *iov;
                off_t at; /* in file: of the next byte */
            };
            unsigned n;     /* entries of iov; bytes of file */
            unsigned done;  /* of these, sent */
            int file;       /* -1: what is sent is iov; else bytes of this descriptor */
            bool again;     /* was interrupted, or found no room: wait for it before the next try */
            bool has_moved; /* the owner's to clear: a file's bytes went since */
        } send;
        struct {
            uint32_t turn;    /* the io_wait() that taken belongs to */
            unsigned taken;   /* accepts handed out in it */
            unsigned stashed; /* accepts kept for later ones */
            bool with_care;
        } accept;
        struct {
            bool in_only; /* io_watch_in() */
        } watch;
        struct {
            bool changing;  /* a cancel is under way so that it can be armed with another mask */
            bool checked;   /* this descriptor can be polled at all */
            bool has_fired; /* and was not put off since */
            int by;         /* the ring's: polled in place of a listening socket; or -1 */
        } poll;
    };
};

static inline void
io_op_init(struct io_op *op, io_fn fn)
{
    *op = (struct io_op){ .fn = fn, .fd = -1 };
    list_init(&op->link);
    list_init(&op->all);
}

enum io_backend { IO_AUTO, IO_URING, IO_EPOLL };

enum { IO_WHY_SIZE = 256 };

/* Opens a backend. IO_AUTO never fails for want of the ring: it falls back to epoll on any errno and leaves one sentence
 * in why ("io_uring refused (EPERM: ...), using epoll; ...") for the caller to log; why is "" where there is nothing to say.
 * IO_URING that cannot be had is an error, with the reason in why. Probes with the real flags and sizes, one NOP and a
 * poll + send on a socketpair. Returns 0 or -errno; *out is new (io_close()). */
int io_open(enum io_backend want, struct io **out, char why[IO_WHY_SIZE]);

/* Which backend io_open(IO_AUTO) would take on this machine and why, for --version. Opens and closes one. */
const char *io_probe(char why[IO_WHY_SIZE]);

/* Frees it; not from a callback. Operations still armed are dropped without a callback and may be armed elsewhere; buffers
 * given to the kernel are no longer read after the return (with one exception: io_file()). Another thread than the owner's may close an io
 * that its owner has left and in which only polls, watches and waits for room are armed. */
void io_close(struct io *io);

/* No other thread than the owner's will close it: the backend may now keep what makes its system calls cheaper and belongs to the thread. */
void io_stay(struct io *io);

/* In a forked child: drops descriptors and mappings without touching what the parent shares. */
void io_abandon(struct io *io);

/* Can be polled for POLLIN: io_wait() would find something. For a caller who waits for other things too; ask before each poll, as
 * an io_wait() may exchange it. */
int io_fd(const struct io *io);

const char *io_name(const struct io *io); /* "io_uring" or "epoll" */

/* Accept until cancelled. res: a new descriptor, non-blocking and close-on-exec, now the callback's. On -errno without
 * IO_MORE (-EMFILE, -ENFILE, -ENOBUFS, ...) the owner decides when to arm it again. ECONNABORTED and EINTR are swallowed.
 * At most 64 accepts a listener and wait, so that one listener cannot starve the rest. */
void io_accept(struct io *io, struct io_op *op, int listen_fd);

/* The same, and none is taken from the kernel's queue after the io_cancel() that says so. The ring otherwise takes all there are
 * (thousands, after a moment in which the loop was busy) before the first callback can cancel; here it asks for readiness and accepts
 * one by one, as epoll always does. The listening socket must be non-blocking. */
void io_accept_with_care(struct io *io, struct io_op *op, int listen_fd);

/* Tell when a connected socket becomes readable or its peer is gone, until cancelled. res: POLLIN | POLLRDHUP | POLLHUP |
 * POLLERR, of which any may be set; and POLLPRI while urgent data of TCP is there, at which a read stops short. Edge-like: one completion per arrival; unread data is not announced again, except by
 * the way when something else happens to the socket.
 *
 * The ring does not look for urgent data where it tells of a single arrival (IO_UNSURE). But urgent data arrives twice, by itself and as the
 * bytes around it: look for it (poll(2)) when two such completions came before a read, or one and there was nothing to read. */
void io_watch(struct io *io, struct io_op *op, int fd);

/* The same for a descriptor whose output is seldom waited for: a datagram that has gone out, room in a pipe, do not wake the loop. (io_watch() on
 * epoll is registered for both directions, which saves a system call for each send that waits; but a datagram socket tells of room after
 * each send.) Pipes too: on the writing end it tells when the reader is gone. */
void io_watch_in(struct io *io, struct io_op *op, int fd);

/* Tell while a descriptor is ready, level-triggered, until cancelled: one completion (with IO_MORE) a wait for as long as
 * it stays ready, or every second one of those with timeout 0. mask: POLLIN, POLLOUT, either or both. res: what is ready (with POLLERR, POLLHUP as they come), or -errno (-EBADF,
 * -EPERM for a regular file) without IO_MORE. A mask of 0 still tells POLLERR and POLLHUP. Made for asyncio's add_reader() and add_writer(): arming and changing cost no system call of
 * their own on the ring. One armed io_poll() a descriptor. */
void io_poll(struct io *io, struct io_op *op, int fd, uint32_t mask);
void io_poll_change(struct io *io, struct io_op *op, uint32_t mask);

/* Send iov[0..n) on a connected socket: queued, and handed to the kernel by io_flush() or io_wait(). The array and the bytes stay the
 * owner's and must not move before the completion. At most one send in flight a socket (a second could overtake the
 * first). res: bytes sent, possibly fewer than asked for (then send the rest), at least 1; or -errno. Never raises SIGPIPE. Waits for
 * room in the socket as long as it takes: a send timeout is io_cancel(). */
void io_send(struct io *io, struct io_op *op, int fd, const struct iovec *iov, unsigned n);

/* The same for n bytes of a regular file from `at` on, by sendfile(2): the page cache goes to the socket without a copy. The socket must be
 * non-blocking, and the process must not die of SIGPIPE, which sendfile() cannot be told to leave out. res: n, when all of it is sent
 * (op->send.has_moved tells of progress before that); 0: the file ends before; or -errno. What is not in the page cache is waited for, in the middle of the loop: the owner sees to it first. (Why
 * sendfile() on the ring too: IORING_OP_SPLICE always goes to a thread of the kernel's, and IORING_OP_SEND_ZC wants memory.) */
void io_send_file(struct io *io, struct io_op *op, int fd, int file, off_t at, size_t n);

/* Tell once when a connected socket has room for more output, or is beyond hope: after a send(2) of the owner's own that found none. Beside an
 * io_watch() or io_poll() of the same descriptor; at most one io_room() or io_send() a socket. res: >= 0: try again, or -errno. Nothing of the
 * owner's is given to the kernel. */
void io_room(struct io *io, struct io_op *op, int fd);

/* --- files: file.c, threads.c ------------------------------------------------------------------------------------
 * A system call on a file that may wait for its disk: on the ring where that has it (by kernel 6.1), else, and always on epoll, in a
 * thread of the io's. */

enum io_file_what {
    IO_FILE_OPEN,     /* openat(dir_fd, path, flags, mode): a new descriptor, the callback's */
    IO_FILE_READ,     /* fd, buf, n, at; IO_FILE_MAX at most in one */
    IO_FILE_WRITE,    /* the same */
    IO_FILE_SYNC,     /* fsync(fd); flags: IO_FILE_DATASYNC */
    IO_FILE_STAT,     /* statx(dir_fd, path, flags, STATX_BASIC_STATS, buf) */
    IO_FILE_CLOSE,    /* close(fd); io_cancel() does not keep it from it */
    IO_FILE_TRUNCATE, /* ftruncate(fd, at) */
    IO_FILE_ALLOCATE, /* fallocate(fd, flags, at, size) */
    IO_FILE_UNLINK,   /* unlinkat(dir_fd, path, flags) */
    IO_FILE_RENAME,   /* renameat2(dir_fd, path, dir_fd2, path2, flags) */
    IO_FILE_MKDIR,    /* mkdirat(dir_fd, path, mode) */
    IO_FILE_SYMLINK,  /* symlinkat(path, dir_fd2, path2) */
    IO_FILE_LINK,     /* linkat(dir_fd, path, dir_fd2, path2, flags) */
    IO_FILE_CALL,     /* call(file), in a thread on both backends */
};

enum { IO_FILE_DATASYNC = 1 };
enum {
    IO_FILE_MAX = 0x7ffff000
}; /* bytes that the kernel reads or writes at most in one call (MAX_RW_COUNT) */

/* Everything but `op` and what follows `call` is the owner's to set. What it points to, and itself, must stay until the completion. */
struct io_file {
    struct io_op op; /* by io_op_init() */
    enum io_file_what what;
    int fd;
    int dir_fd, dir_fd2; /* AT_FDCWD, or a directory's */
    int flags;
    mode_t mode;
    const char *path, *path2;
    void *buf; /* of a write: only read */
    size_t n;
    int64_t at; /* -1: where the descriptor stands, which moves it */
    int64_t size;
    int (*call)(struct io_file *file); /* as a completion's res */
    /* of threads.c, under its lock: */
    int wake_fd; /* an eventfd while it waits for fd to be ready; -1 */
    bool is_running, is_interrupted;
    /* uring.c's: */
    int held_fd; /* a FIFO, open already, while it waits for its other end; -1 */
    bool is_for_worker;
};

/* Does it. res: what the system call returns, or -errno. What would give EINTR is tried again, and so is EAGAIN where it can be waited for: a read of an
 * empty pipe waits, whether or not the descriptor is non-blocking. An io_cancel() that comes too late changes nothing: then res is what was done (an open()'s
 * descriptor, bytes that were read from a pipe). In a thread only waiting for a descriptor that can be polled (a pipe, a terminal) can be
 * cancelled; else the completion comes when the system call returns.
 *
 * io_close() cancels it, and waits for it at most 5 s. One that does not end by then (a FIFO that nobody opens at its other end, a
 * dead server's file) is left armed, for good: the kernel may still write to its memory, which must stay. */
void io_file(struct io *io, struct io_file *file);

/* The same system call at once, in the calling thread. Does not touch file->op. */
int io_file_run(struct io_file *file);

/* Asks an armed operation to end. A no-op for one that is not armed or already cancelled. Until the last completion an accept may
 * still hand out descriptors (with IO_MORE) and a send may tell what was sent; a watch or poll says only -ECANCELED. The descriptor
 * may have been closed before. */
void io_cancel(struct io *io, struct io_op *op);

/* After io_cancel(): the kernel holds the files of cancelled operations no longer, so that a close() that follows closes them. (A ring
 * keeps a polled file open until the cancel has been carried out.) Calls nothing back. A no-op on epoll. */
void io_let_go(struct io *io);

/* Hands queued sends to the kernel now; takes no completions. Cheap when there are none. */
void io_flush(struct io *io);

/* Sends queued and not yet handed to the kernel. */
unsigned io_queued(const struct io *io);

/* Flushes, waits for at least one completion, wake-up or the timeout (ns; 0 = only look, -1 = no timeout), and calls the callbacks of
 * all that is there (bounded: 4096). With timeout 0 and nothing to submit it costs no system call on the ring where the kernel has
 * nothing for us. Returns the number of callbacks called; EINTR counts as a wake-up, but a signal can always
 * come a moment too soon: a handler that must be heard calls io_wake(). It may return early with 0, and with timeout -1 does
 * so once a day. Not to be called from a callback. */
int io_wait(struct io *io, int64_t timeout_ns);

/* Makes the current or next io_wait() return soon. Any thread, async-signal-safe. Costs one system call only while the owner sleeps. */
void io_wake(struct io *io);

/* --- timer.c: the timing wheel for connection deadlines ---------------------------------------------------------
 * Coarse (64 ms ticks) and cheap: moving a deadline later only writes a field, the tick re-files it. */

enum { WHEEL_TICK_MS = 64, WHEEL_SLOTS = 512 };

struct timer;
typedef void (*timer_fn)(struct timer *timer);

struct timer {
    struct list link;
    int64_t due_ns;   /* 0 = not set */
    int64_t filed_ns; /* the slot it hangs in is for this time */
    timer_fn fn;
};

struct wheel {
    struct list slots[WHEEL_SLOTS];
    uint64_t used[WHEEL_SLOTS / 64]; /* bit map of slots that are not empty */
    int64_t tick;                    /* the last tick that was run */
    unsigned count;                  /* timers that hang in a slot */
};

void wheel_init(struct wheel *w, int64_t now_ns);
void timer_init(struct timer *t, timer_fn fn);

/* Sets or moves the deadline; it fires in the tick after it, never before. Any distance. */
void timer_set(struct wheel *w, struct timer *t, int64_t due_ns);
void timer_clear(struct wheel *w, struct timer *t);

/* Fires what is due; a callback may set, clear and free any timer. */
void wheel_advance(struct wheel *w, int64_t now_ns);

/* When wheel_advance() should be called next (may be early, never late), or -1 when no timer hangs. */
int64_t wheel_next_ns(const struct wheel *w);

#endif
