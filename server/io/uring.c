/* uring.c: the io_uring backend, for kernel 6.1 and later.
 *
 * Readiness comes from multishot polls, connections from multishot accepts, sends are submissions that go to the kernel
 * in batches. SINGLE_ISSUER | DEFER_TASKRUN: the kernel does our work only inside our own io_uring_enter(), so completions
 * appear only there, and the flag word of the submission queue says when there is something to enter for.
 *
 * Always:  user_data is the operation itself, or one of the small numbers below. An operation has at most one submission that is
 *          not completed, so no completion can outlive it. Cancel requests complete in silence or as UD_IGNORE; they carry the
 *          operation's address only to find its request, and precede in the queue whatever is armed at that address later.
 *          IORING_OP_POLL_REMOVE with an update is not used: kernels without the fix of December 2025 lose the completion of a
 *          poll that the update makes ready (liburing's test/poll-update-trigger.c). */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/backend.h"
#include "metrics/metrics.h"

enum { UD_IGNORE = 1, UD_WAKE = 2, UD_PROBE = 3, UD_LAST = 15 };

enum {
    WATCH_MASK = POLLIN | POLLRDHUP | POLLHUP | POLLERR,
    /* The kernel tells of one arrival in the words of the socket that woke it, which say POLLPRI and POLLRDBAND whatever has come; of several at once, or of
     * what was there before, it says what it finds. TCP has no POLLRDBAND then: that tells the two apart. */
    URGENT_MASK = POLLPRI | POLLRDBAND,
    /* The kernel's own words for an interrupted system call, which it does not mean to show: a worker's open() does. */
    ERESTARTSYS_ = 512,
    ERESTART_LAST_ = 516,
    PROBE_MS = 2000,   /* for a self-test that takes microseconds */
    MEMLOCK_MS = 50,   /* the kernel gives back the memory of a closed ring late */
    GET_MAX = 256,     /* extra io_uring_enter() calls in one wait */
    STUCK_MS = 5,      /* between two tries when the kernel has no memory for a submission */
    LONGEST_S = 86400, /* io_wait(-1) returns once a day */
};

/* The kernel gives the sleeps of epoll_wait() and its like this much slack, so that timers which are close together need one waking, and
 * io_uring's none (prctl(2), PR_SET_TIMERSLACK). Two thousand timers within two milliseconds: half the CPU time. */
static const int64_t SLACK_NS = 50000;

/* A completed accept kept for a later io_wait(). */
struct stash {
    struct io_op *op;
    int res;
    bool more;
};

struct uring {
    struct io io; /* first */
    struct io_uring u;
    /* One for each slot of the submission queue; the kernel copies it when it takes the submission. */
    struct msghdr *msgs;
    struct list to_arm;    /* at the start of the next io_wait() */
    struct list to_cancel; /* cancels that found no room */
    struct list files;     /* sends of files that nobody has tried yet */
    struct stash *stash;
    unsigned stash_n, stash_cap;
    uint32_t turn; /* counts io_wait() */
    /* The thread from which alone the kernel takes submissions (SINGLE_ISSUER). Not a pthread_t: that is used again at once
     * when its thread has ended. */
    pid_t owner;
    /* a bit for each enum io_file_what that this kernel has, once has_probed */
    uint32_t files_known;
    bool has_probed;
    bool wake_armed;
    bool has_cancels; /* submissions of cancels since the last io_let_go() or io_wait() */
};

static inline struct uring *
uring_of(struct io *io)
{
    return (struct uring *)io;
}

/* --- submissions ---------------------------------------------------------------------------------------------------*/

/* submitted: what liburing's function has returned. */
static inline int
note_enter(int submitted)
{
    metrics_add(&metrics_here->loop.ring_enters, 1);
    if (submitted > 0)
        metrics_add(&metrics_here->loop.ring_submitted, (uint64_t)submitted);
    return submitted;
}

/* Hands everything queued to the kernel. What it will not take now (no memory) stays in the queue for the next time. */
static void
submit(struct uring *r)
{
    while (io_uring_sq_ready(&r->u) > 0) {
        if (note_enter(io_uring_submit(&r->u)) <= 0)
            return;
    }
    r->io.queued = 0;
}

/* Whether the kernel has completions that an io_uring_enter() would bring. */
static inline bool
has_more(const struct uring *r)
{
    return __atomic_load_n(r->u.sq.kflags, __ATOMIC_RELAXED) &
           (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* Brings them. Since 6.12 one io_uring_enter() runs 20 pieces of deferred work and leaves the rest. */
static inline void
get_more(struct uring *r)
{
    if (UNLIKELY(__atomic_load_n(r->u.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW))
        metrics_add(&metrics_here->loop.ring_overflows, 1);
    for (unsigned i = 0;
         i < GET_MAX && has_more(r) && io_uring_cq_ready(&r->u) < r->u.cq.ring_entries / 2; i++)
        note_enter(io_uring_get_events(&r->u));
}

/* A free slot, or NULL when the queue is full and the kernel takes nothing. */
static inline struct io_uring_sqe *
sqe_get(struct uring *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->u);
    if (LIKELY(sqe != NULL))
        return sqe;
    metrics_add(&metrics_here->loop.ring_full, 1);
    submit(r);
    return io_uring_get_sqe(&r->u);
}

/* The slot of an operation whose submission the kernel has not taken yet, or NULL. */
static struct io_uring_sqe *
sqe_unsent(struct uring *r, const struct io_op *op)
{
    unsigned head = *r->u.sq.khead; /* moves only inside io_uring_enter() */
    unsigned ahead = (op->sqe - head) & r->u.sq.ring_mask;
    struct io_uring_sqe *sqe = &r->u.sq.sqes[op->sqe];
    /* The slot may long have been used again: then it bears another name. */
    return ahead < io_uring_sq_ready(&r->u) && sqe->user_data == (uintptr_t)op ? sqe : NULL;
}

static void
prep_send(struct uring *r, const struct io_op *op, struct io_uring_sqe *sqe)
{
    if (op->send.n == 1) {
        size_t len = op->send.iov->iov_len;
        io_uring_prep_send(sqe, op->fd, op->send.iov->iov_base,
                           len < IO_SEND_MAX ? len : IO_SEND_MAX, MSG_NOSIGNAL);
    } else {
        struct msghdr *msg = &r->msgs[sqe - r->u.sq.sqes];
        msg->msg_iov = (struct iovec *)op->send.iov;
        msg->msg_iovlen = op->send.n;
        io_uring_prep_sendmsg(sqe, op->fd, msg, MSG_NOSIGNAL);
    }
    if (op->send.again)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
}

/* --- files */

static const uint8_t file_codes[] = {
    [IO_FILE_OPEN] = IORING_OP_OPENAT,        [IO_FILE_READ] = IORING_OP_READ,
    [IO_FILE_WRITE] = IORING_OP_WRITE,        [IO_FILE_SYNC] = IORING_OP_FSYNC,
    [IO_FILE_STAT] = IORING_OP_STATX,         [IO_FILE_CLOSE] = IORING_OP_CLOSE,
    [IO_FILE_ALLOCATE] = IORING_OP_FALLOCATE, [IO_FILE_UNLINK] = IORING_OP_UNLINKAT,
    [IO_FILE_RENAME] = IORING_OP_RENAMEAT,    [IO_FILE_MKDIR] = IORING_OP_MKDIRAT,
    [IO_FILE_SYMLINK] = IORING_OP_SYMLINKAT,  [IO_FILE_LINK] = IORING_OP_LINKAT,
};

/* Asks the kernel, once. */
static void
probe_files(struct uring *r)
{
    r->has_probed = true;
    struct io_uring_probe *probe = io_uring_get_probe_ring(&r->u);
    if (probe == NULL)
        return;
    for (unsigned i = 0; i < ARRAY_LEN(file_codes); i++) {
        if (file_codes[i] != 0 && io_uring_opcode_supported(probe, file_codes[i]))
            r->files_known |= 1U << i;
    }
    io_uring_free_probe(probe);
}

static bool
uring_has_file(struct io *io, enum io_file_what what)
{
    struct uring *r = uring_of(io);
    if (UNLIKELY(!r->has_probed))
        probe_files(r);
    return r->files_known >> what & 1;
}

static void
file_drop_held(struct io_file *f)
{
    if (f->held_fd >= 0)
        close(f->held_fd);
    f->held_fd = -1;
}

static void
prep_file(const struct io_file *f, struct io_uring_sqe *sqe)
{
    switch (f->what) {
    case IO_FILE_OPEN:
        io_uring_prep_openat(sqe, f->dir_fd, f->path, f->flags, f->mode);
        return;
    case IO_FILE_READ:
        io_uring_prep_read(sqe, f->fd, f->buf, (unsigned)f->n, (uint64_t)f->at);
        return;
    case IO_FILE_WRITE:
        io_uring_prep_write(sqe, f->fd, f->buf, (unsigned)f->n, (uint64_t)f->at);
        return;
    case IO_FILE_SYNC:
        io_uring_prep_fsync(sqe, f->fd, f->flags & IO_FILE_DATASYNC ? IORING_FSYNC_DATASYNC : 0);
        return;
    case IO_FILE_STAT:
        io_uring_prep_statx(sqe, f->dir_fd, f->path, f->flags, STATX_BASIC_STATS, f->buf);
        return;
    case IO_FILE_CLOSE:
        io_uring_prep_close(sqe, f->fd);
        return;
    case IO_FILE_ALLOCATE:
        io_uring_prep_fallocate(sqe, f->fd, f->flags, f->at, f->size);
        return;
    case IO_FILE_UNLINK:
        io_uring_prep_unlinkat(sqe, f->dir_fd, f->path, f->flags);
        return;
    case IO_FILE_RENAME:
        io_uring_prep_renameat(sqe, f->dir_fd, f->path, f->dir_fd2, f->path2, (unsigned)f->flags);
        return;
    case IO_FILE_MKDIR:
        io_uring_prep_mkdirat(sqe, f->dir_fd, f->path, f->mode);
        return;
    case IO_FILE_SYMLINK:
        io_uring_prep_symlinkat(sqe, f->path, f->dir_fd2, f->path2);
        return;
    case IO_FILE_LINK:
        io_uring_prep_linkat(sqe, f->dir_fd, f->path, f->dir_fd2, f->path2, f->flags);
        return;
    case IO_FILE_TRUNCATE:
    case IO_FILE_CALL:
        break; /* uring_has_file() says no */
    }
    io_uring_prep_nop(sqe);
}

static void
arm_later(struct uring *r, struct io_op *op)
{
    list_del(&op->link);
    op->state = IO_WAITING;
    list_add_tail(&r->to_arm, &op->link);
}

/* False when there was no room; then it is on to_arm. */
static bool
arm_now(struct uring *r, struct io_op *op)
{
    struct io_uring_sqe *sqe = sqe_get(r);
    if (UNLIKELY(sqe == NULL)) {
        arm_later(r, op);
        return false;
    }
    switch ((enum io_kind)op->kind) {
    case IO_KIND_ACCEPT:
        if (op->accept.with_care)
            io_uring_prep_poll_add(sqe, op->fd, POLLIN);
        else
            io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        break;
    case IO_KIND_WATCH:
        io_uring_prep_poll_multishot(sqe, op->fd,
                                     POLLIN | (op->watch.in_only ? 0 : URGENT_MASK) | POLLRDHUP);
        break;
    case IO_KIND_POLL:
        io_uring_prep_poll_add(sqe, op->poll.by >= 0 ? op->poll.by : op->fd, op->mask);
        break;
    case IO_KIND_SEND:
        if (op->send.file >= 0)
            io_uring_prep_poll_add(sqe, op->fd, POLLOUT);
        else
            prep_send(r, op, sqe);
        break;
    case IO_KIND_ROOM:
        io_uring_prep_poll_add(sqe, op->fd, POLLOUT);
        break;
    case IO_KIND_FILE:
        prep_file(CONTAINER_OF(op, struct io_file, op), sqe);
        if (CONTAINER_OF(op, struct io_file, op)->is_for_worker)
            sqe->flags |= IOSQE_ASYNC;
        break;
    }
    sqe->user_data = (uintptr_t)op;
    op->sqe = (uint32_t)(sqe - r->u.sq.sqes);
    op->state = IO_ACTIVE;
    return true;
}

static bool
cancel_now(struct uring *r, struct io_op *op)
{
    struct io_uring_sqe *sqe = sqe_get(r);
    if (UNLIKELY(sqe == NULL)) {
        list_del(&op->link);
        list_add_tail(&r->to_cancel, &op->link);
        return false;
    }
    io_uring_prep_cancel64(sqe, (uintptr_t)op, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = UD_IGNORE;
    r->has_cancels = true;
    return true;
}

/* A request holds its file, and the kernel drops the requests of a process that was killed after its parent has been told: for some
 * milliseconds a port stays taken, and takes connections, of which an io without a ring leaves nothing. So a listening socket is polled by
 * an epoll descriptor of its own, which does not hold what is in it. Where none is to be had the socket itself is polled. */
static void
poll_begin(struct io_op *op)
{
    int is_listening = 0;
    if (op->mask != POLLIN ||
        getsockopt(op->fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &(socklen_t){ sizeof(int) }) <
            0 ||
        !is_listening)
        return;
    int by = epoll_create1(EPOLL_CLOEXEC);
    if (by < 0)
        return;
    if (epoll_ctl(by, EPOLL_CTL_ADD, op->fd, &(struct epoll_event){ .events = EPOLLIN }) < 0)
        close(by);
    else
        op->poll.by = by;
}

static void
poll_drop(struct io_op *op)
{
    if (op->kind == IO_KIND_POLL && op->poll.by >= 0) {
        close(op->poll.by);
        op->poll.by = -1;
    }
}

static void
uring_arm(struct io *io, struct io_op *op)
{
    struct uring *r = uring_of(io);
    if (op->kind == IO_KIND_POLL)
        poll_begin(op);
    if (op->kind == IO_KIND_SEND && op->send.file >= 0) {
        op->state = IO_WAITING;
        list_add_tail(&r->files, &op->link);
        return;
    }
    arm_now(r, op);
}

/* Sends what files have, as far as there is room; the rest waits for room in the ring. */
static void
files_try(struct uring *r)
{
    struct list *node;
    while ((node = list_pop(&r->files)) != NULL) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, link);
        int n = io_sendfile(op);
        if (n != -EAGAIN) {
            io_finish(&r->io, op, n);
            continue;
        }
        op->send.again = true;
        arm_now(r, op);
    }
}

static void
uring_poll_change(struct io *io, struct io_op *op)
{
    struct uring *r = uring_of(io);
    poll_drop(op); /* it is of POLLIN alone */
    if (op->state == IO_WAITING || op->poll.changing)
        return; /* will be armed with op->mask */
    struct io_uring_sqe *sqe = sqe_unsent(r, op);
    if (sqe != NULL) {
        io_uring_prep_poll_add(sqe, op->fd, op->mask);
        sqe->user_data = (uintptr_t)op;
        return;
    }
    op->poll.changing = true;
    cancel_now(r, op);
}

static void
uring_cancel(struct io *io, struct io_op *op)
{
    struct uring *r = uring_of(io);
    struct io_uring_sqe *sqe = op->state == IO_ACTIVE ? sqe_unsent(r, op) : NULL;
    if (sqe != NULL) {
        io_uring_prep_nop(sqe);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
        sqe->user_data = UD_IGNORE;
        if (op->kind == IO_KIND_SEND && !op->send.again)
            io->queued--;
    } else if (op->state == IO_ACTIVE) {
        if (op->kind != IO_KIND_POLL || !op->poll.changing)
            cancel_now(r, op);
        return;
    }
    if (op->state == IO_WAITING && op->kind == IO_KIND_SEND && op->send.file >= 0 &&
        !op->send.again)
        io->queued--;
    if (op->kind == IO_KIND_FILE)
        file_drop_held(CONTAINER_OF(op, struct io_file, op));
    poll_drop(op);
    io_finish(io, op, -ECANCELED);
}

/* The cancel is carried out when it is submitted, but the cancelled request lives on, and its file with it, until its deferred
 * work is run (DEFER_TASKRUN): that is what getting events does. They stay in the queue for io_wait(). */
static void
uring_let_go(struct io *io)
{
    struct uring *r = uring_of(io);
    if (!r->has_cancels)
        return;
    r->has_cancels = false;
    if (note_enter(io_uring_submit_and_get_events(&r->u)) < 0)
        return; /* as in submit(): it stays queued */
    get_more(r);
    if (io_uring_sq_ready(&r->u) == 0)
        io->queued = 0;
}

static void
uring_flush(struct io *io)
{
    struct uring *r = uring_of(io);
    files_try(r);
    submit(r);
}

/* --- completions ---------------------------------------------------------------------------------------------------*/

/* Errors of an accept that concern one connection, or nobody. */
static bool
is_passing(int res)
{
    return res == -ECONNABORTED || res == -EINTR || res == -EAGAIN;
}

static int
accept_deliver(struct uring *r, struct io_op *op, int res, bool more)
{
    if (res >= 0) {
        op->accept.taken++;
        if (more)
            return io_more(&r->io, op, res);
        if (op->cancelled)
            return io_end(&r->io, op, res);
        arm_later(r, op); /* the kernel ends a multishot when the completion queue overflows */
        return io_more(&r->io, op, res);
    }
    if (is_passing(res)) {
        if (op->cancelled)
            return io_end(&r->io, op, -ECANCELED);
        arm_later(r, op);
        return 0;
    }
    return io_end(&r->io, op, res);
}

/* Whether this listener has had its share of this io_wait(). */
static bool
accept_is_full(struct uring *r, struct io_op *op)
{
    if (op->accept.turn != r->turn) {
        op->accept.turn = r->turn;
        op->accept.taken = 0;
    }
    return op->accept.taken >= IO_ACCEPTS_MAX;
}

static bool
stash_grow(struct uring *r)
{
    unsigned cap = r->stash_cap ? 2 * r->stash_cap : 256;
    struct stash *stash = realloc(r->stash, cap * sizeof(*stash));
    if (stash == NULL)
        return false;
    r->stash = stash;
    r->stash_cap = cap;
    return true;
}

/* There is one. */
static struct stash *
stash_last_of(struct uring *r, const struct io_op *op)
{
    unsigned i = r->stash_n - 1;
    while (r->stash[i].op != op)
        i--;
    return &r->stash[i];
}

/* The listening socket is ready: accepts until the queue is empty or a callback cancels. */
static int
accept_with_care(struct uring *r, struct io_op *op, int res)
{
    if (op->cancelled)
        return io_end(&r->io, op, -ECANCELED);
    if (res < 0)
        return io_end(&r->io, op, res);
    arm_later(
        r,
        op); /* first: what a callback cancels is then ended like any other that waits, and after this returns */
    int called = 0;
    for (int i = 0; i < IO_ACCEPTS_MAX && !op->cancelled; i++) {
        int conn = accept4(op->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (conn >= 0) {
            called += io_more(&r->io, op, conn);
            continue;
        }
        int err = errno;
        if (err == EAGAIN)
            break;
        if (!is_passing(-err))
            return called + io_end(&r->io, op, -err);
    }
    return called;
}

static int
accept_done(struct uring *r, struct io_op *op, int res, bool more)
{
    if (op->accept.with_care)
        return accept_with_care(r, op, res);
    if (!accept_is_full(r, op) && op->accept.stashed == 0)
        return accept_deliver(r, op, res, more);
    /* The kernel accepts all there are at once. Keep the rest, in order, with the last completion behind them. */
    if (UNLIKELY(r->stash_n == r->stash_cap) && !stash_grow(r)) {
        if (op->accept.stashed == 0)
            return accept_deliver(r, op, res, more);
        /* Better too many in this wait than a connection lost; but the last completion must not overtake the kept ones,
         * so the latest of them takes its place. What error it brought will come back when the listener is armed again. */
        if (!more)
            stash_last_of(r, op)->more = false;
        return res >= 0 ? io_more(&r->io, op, res) : 0;
    }
    r->stash[r->stash_n++] = (struct stash){ .op = op, .res = res, .more = more };
    op->accept.stashed++;
    return 0;
}

/* Hands out what earlier waits kept. */
static int
unstash(struct uring *r)
{
    int called = 0;
    unsigned kept = 0;
    for (unsigned i = 0; i < r->stash_n; i++) {
        struct stash s = r->stash[i];
        if (accept_is_full(r, s.op)) {
            r->stash[kept++] = s;
            continue;
        }
        s.op->accept.stashed--;
        called += accept_deliver(r, s.op, s.res, s.more);
    }
    r->stash_n = kept;
    return called;
}

static int
watch_done(struct uring *r, struct io_op *op, int res, bool more)
{
    if (op->cancelled)
        return more ? 0 : io_end(&r->io, op, -ECANCELED);
    if (res < 0)
        return io_end(&r->io, op, res);
    if (!more)
        arm_later(r, op);
    bool is_unsure = (res & POLLRDBAND) != 0;
    res &= is_unsure ? WATCH_MASK : WATCH_MASK | POLLPRI;
    return res != 0 ? io_more_with(&r->io, op, res, is_unsure ? IO_UNSURE : 0) : 0;
}

/* epoll refuses files that cannot be polled; the ring calls them ready for ever. */
static bool
is_pollable(int fd)
{
    struct stat st;
    return fstat(fd, &st) < 0 ||
           (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISBLK(st.st_mode));
}

static int
poll_end(struct uring *r, struct io_op *op, int res)
{
    poll_drop(op);
    return io_end(&r->io, op, res);
}

static int
poll_done(struct uring *r, struct io_op *op, int res)
{
    if (op->cancelled)
        return poll_end(r, op, -ECANCELED);
    if (res == -ECANCELED && op->poll.changing)
        res = 0;
    op->poll.changing = false;
    if (res < 0)
        return poll_end(r, op, res);
    if (res > 0 && !op->poll.checked) {
        op->poll.checked = true;
        if (!is_pollable(op->fd))
            return poll_end(r, op, -EPERM);
    }
    /* Armed again at the start of the next wait, after the owner has read: that is what makes it level-triggered. */
    arm_later(r, op);
    op->poll.has_fired = true;
    res &= (int)(op->mask | POLLERR | POLLHUP);
    return res != 0 ? io_more(&r->io, op, res) : 0;
}

static int
send_done(struct uring *r, struct io_op *op, int res)
{
    if (op->send.file >= 0) { /* its poll: there is room */
        if (op->cancelled)
            return io_end(&r->io, op, -ECANCELED);
        if (res > 0)
            res = io_sendfile(op);
    }
    if (UNLIKELY(res == -EINTR || res == -EAGAIN)) {
        if (!op->cancelled) {
            op->send.again = true;
            arm_later(r, op);
            return 0;
        }
        res = -ECANCELED;
    }
    return io_end(&r->io, op, res);
}

/* The ring first tries to open a file as if with O_NONBLOCK, which a FIFO takes for leave not to wait for its other end. A worker of the ring's
 * does not do so. Until it is there, what was opened stays open: a writer who saw a reader come must not see it go. */
static bool
open_must_wait(struct io_file *f, int res)
{
    struct stat st;
    if (f->is_for_worker || (f->flags & O_NONBLOCK))
        return false;
    if (res < 0)
        return res == -ENXIO;
    if (fstat(res, &st) < 0 || !S_ISFIFO(st.st_mode))
        return false;
    f->held_fd = res;
    return true;
}

static int
file_done(struct uring *r, struct io_op *op, int res)
{
    struct io_file *f = CONTAINER_OF(op, struct io_file, op);
    bool again = false;
    if (UNLIKELY(res <= -ERESTARTSYS_ && res >= -ERESTART_LAST_))
        res = -EINTR;
    if (UNLIKELY(
            res ==
            -EINTR)) /* what a cancel makes of a system call that a worker of the ring's is in */
        again = true;
    else if (f->what == IO_FILE_OPEN)
        again = open_must_wait(f, res);
    else if (UNLIKELY(res == -EAGAIN))
        again = !f->is_for_worker; /* a worker can wait */
    if (LIKELY(!again)) {
        file_drop_held(f);
        return io_end(&r->io, op, res);
    }
    if (op->cancelled) {
        file_drop_held(f);
        return io_end(&r->io, op, -ECANCELED);
    }
    f->is_for_worker |= res != -EINTR;
    arm_later(r, op);
    return 0;
}

static int
complete(struct uring *r, uint64_t user_data, int res, unsigned flags)
{
    bool more = flags & IORING_CQE_F_MORE;
    if (UNLIKELY(user_data <= UD_LAST)) {
        if (user_data == UD_WAKE && !more)
            r->wake_armed = false;
        return 0;
    }
    struct io_op *op = (struct io_op *)(uintptr_t)user_data;
    switch ((enum io_kind)op->kind) {
    case IO_KIND_ACCEPT:
        return accept_done(r, op, res, more);
    case IO_KIND_WATCH:
        return watch_done(r, op, res, more);
    case IO_KIND_POLL:
        return poll_done(r, op, res);
    case IO_KIND_SEND:
        return send_done(r, op, res);
    case IO_KIND_ROOM:
        return io_end(&r->io, op, op->cancelled ? -ECANCELED : res);
    case IO_KIND_FILE:
        return file_done(r, op, res);
    }
    return 0;
}

/* Takes one completion out of the queue. */
static inline bool
cqe_take(struct uring *r, struct io_uring_cqe *out)
{
    if (io_uring_cq_ready(&r->u) == 0)
        return false;
    const struct io_uring_cqe *cqe = &r->u.cq.cqes[*r->u.cq.khead & r->u.cq.ring_mask];
    out->user_data = cqe->user_data;
    out->res = cqe->res;
    out->flags = cqe->flags;
    io_uring_cq_advance(&r->u, 1);
    return true;
}

/* Calls back for all there is. Returns the number of callbacks; *taken is set to the number of completions. */
static int
dispatch(struct uring *r, unsigned *taken)
{
    int called = unstash(r);
    struct io_uring_cqe cqe;
    for (*taken = 0; *taken < IO_BATCH_MAX && cqe_take(r, &cqe); ++*taken)
        called += complete(r, cqe.user_data, cqe.res, cqe.flags);
    metrics_add(&metrics_here->loop.ring_completed, *taken);
    return called + io_deliver_done(&r->io);
}

/* --- waiting -------------------------------------------------------------------------------------------------------*/

/* Who was told of readiness often wants no more of it, once a coroutine has run that waited for it: asyncio's sock_recv(), psycopg. Where the owner
 * only looks, as it has work at hand, a poll is armed again in the wait after: then that costs no submission, and no cancel. */
static bool
put_off(struct io_op *op)
{
    if (op->kind != IO_KIND_POLL || !op->poll.has_fired)
        return false;
    op->poll.has_fired = false;
    return true;
}

/* Queues what waited for this moment. Returns false when the kernel had no room for all of it. */
static bool
arm_all(struct uring *r, bool only_looks)
{
    struct list later;
    if (UNLIKELY(!r->wake_armed)) {
        struct io_uring_sqe *sqe = sqe_get(r);
        if (sqe == NULL)
            return false;
        io_uring_prep_poll_multishot(sqe, r->io.wake_fd, POLLIN);
        sqe->user_data = UD_WAKE;
        r->wake_armed = true;
    }
    struct list *node;
    while ((node = list_pop(&r->to_cancel)) != NULL) {
        if (!cancel_now(r, CONTAINER_OF(node, struct io_op, link)))
            return false;
    }
    list_init(&later);
    bool has_room = true;
    while (has_room && (node = list_pop(&r->to_arm)) != NULL) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, link);
        if (only_looks && put_off(op))
            list_add_tail(&later, &op->link);
        else
            has_room = arm_now(r, op);
    }
    list_splice(&r->to_arm, &later);
    return has_room;
}

static struct __kernel_timespec
timespec_of(int64_t timeout_ns)
{
    if (timeout_ns < 0 || timeout_ns > LONGEST_S * NS_PER_S)
        return (struct __kernel_timespec){ .tv_sec = LONGEST_S };
    timeout_ns += SLACK_NS;
    return (struct __kernel_timespec){ .tv_sec = timeout_ns / NS_PER_S,
                                       .tv_nsec = timeout_ns % NS_PER_S };
}

/* Submits and sleeps until there is a completion. Always with a timeout: without one liburing goes back to sleep
 * after a signal that arrived when something had been submitted in the same call. */
static void
submit_and_sleep(struct uring *r, int64_t timeout_ns)
{
    struct __kernel_timespec ts = timespec_of(timeout_ns);
    struct io_uring_cqe *cqe;
    int rc = note_enter(io_uring_submit_and_wait_timeout(&r->u, &cqe, 1, &ts, NULL));
    /* The kernel had no memory to keep completions that found the queue full, and dropped them: operations would never end. */
    ASSERT(rc != -EBADR);
    if (UNLIKELY(rc < 0 && rc != -ETIME && rc != -EINTR && io_uring_cq_ready(&r->u) == 0)) {
        /* No memory for requests (EAGAIN, EBUSY, ...): try again soon instead of spinning. */
        nanosleep(&(struct timespec){ .tv_nsec = STUCK_MS * NS_PER_MS }, NULL);
    }
}

static int
uring_wait(struct io *io, int64_t timeout_ns)
{
    struct uring *r = uring_of(io);
    DEBUG_ASSERT(r->owner == gettid());
    r->turn++;
    files_try(r);
    if (!arm_all(r, timeout_ns == 0) && (timeout_ns < 0 || timeout_ns > STUCK_MS * NS_PER_MS))
        timeout_ns = STUCK_MS * NS_PER_MS;
    if (io_uring_cq_ready(&r->u) > 0 || !list_is_empty(&io->done) || r->stash_n > 0)
        timeout_ns = 0;
    bool has_slept = timeout_ns != 0 && io_sleep_begin(io);
    bool was_woken = false;
    if (has_slept) {
        submit_and_sleep(r, timeout_ns);
        was_woken = io_sleep_end(io);
    } else {
        /* No system call where there is nothing to do for the kernel. */
        if (io_uring_sq_ready(&r->u) > 0)
            note_enter(io_uring_submit_and_get_events(&r->u));
        io_wake_seen(io);
    }
    get_more(r);
    if (io_uring_sq_ready(&r->u) == 0) {
        io->queued = 0;
        r->has_cancels = false;
    }
    unsigned taken;
    int called = dispatch(r, &taken);
    return called == 0 && taken > 0 && has_slept && !was_woken ? IO_NOTHING : called;
}

/* --- opening and closing -------------------------------------------------------------------------------------------*/

/* What is armed still and will see no end. */
static void
drop_all(struct uring *r, bool is_forked)
{
    LIST_FOR_EACH(node, &r->io.all) {
        poll_drop(CONTAINER_OF(node, struct io_op, all));
    }
    io_drop_all(&r->io, is_forked);
}

static void
uring_free(struct uring *r)
{
    io_fini(&r->io);
    free(r->stash);
    free(r->msgs);
    free(r);
}

static void
uring_close(struct io *io)
{
    struct uring *r = uring_of(io);
    if (r->owner == gettid()) {
        LIST_FOR_EACH(node, &io->all) {
            io_cancel(io, CONTAINER_OF(node, struct io_op, all));
        }
        int64_t until = clock_ns() + IO_CLOSE_MS * NS_PER_MS;
        while (!list_is_empty(&io->all) && clock_ns() < until)
            uring_wait(io, 100 * NS_PER_MS);
        if (!list_is_empty(&io->all))
            log_error("io_uring: operations did not end within %d s of their cancel",
                      IO_CLOSE_MS / 1000);
    } else {
        /* The kernel ends them when the ring goes, after we could see it; io.h allows polls there, and files, which stay armed. And what
         * uring_stay() has registered is the other thread's: liburing must not take back the registration of that number in this one,
         * which is another ring's. */
        r->u.int_flags = 0;
    }
    for (unsigned i = 0; i < r->stash_n; i++) {
        if (r->stash[i].res >= 0)
            close(r->stash[i].res);
    }
    drop_all(r, false);
    io_uring_queue_exit(&r->u);
    uring_free(r);
}

/* Saves the look-up of the descriptor at each io_uring_enter(); works without, too. The thread then holds the ring, and the ring the
 * files of its polls, until this thread takes the registration back: not for a ring that another may close. */
static void
uring_stay(struct io *io)
{
    io_uring_register_ring_fd(&uring_of(io)->u);
}

/* The mappings are not in the child (MADV_DONTFORK), and what is at their addresses now is not ours: no munmap(). */
static void
uring_abandon(struct io *io)
{
    struct uring *r = uring_of(io);
    drop_all(r, true);
    close(r->u.ring_fd);
    uring_free(r);
}

static int
uring_fd(const struct io *io)
{
    return ((const struct uring *)io)->u.ring_fd;
}

static const struct io_vtable uring_vtable = {
    .name = "io_uring",
    .fd = uring_fd,
    .close = uring_close,
    .stay = uring_stay,
    .abandon = uring_abandon,
    .arm = uring_arm,
    .poll_change = uring_poll_change,
    .cancel = uring_cancel,
    .let_go = uring_let_go,
    .flush = uring_flush,
    .has_file = uring_has_file,
    .wait = uring_wait,
};

static int
ring_create(struct io_uring *u, unsigned entries)
{
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_CQSIZE,
        .cq_entries = 4 * entries,
    };
    return io_uring_queue_init_params(entries, u, &p);
}

/* The largest ring that the limit of locked memory allows. Returns its entries or -errno. */
static int
ring_create_fitting(struct io_uring *u)
{
    static const unsigned sizes[] = { 1024, 256, 128 };
    int err = ring_create(u, sizes[0]);
    if (err == -ENOMEM)
        nanosleep(&(struct timespec){ .tv_nsec = MEMLOCK_MS * NS_PER_MS }, NULL);
    for (unsigned i = 0; err == -ENOMEM && i < ARRAY_LEN(sizes); i++)
        err = ring_create(u, sizes[i]);
    return err < 0 ? err : (int)u->sq.ring_entries;
}

/* Waits for `want` completions named UD_PROBE and up, and stores their results by name. Returns 0 or -errno. */
static int
probe_wait(struct uring *r, int want, int res[UD_LAST + 1])
{
    int64_t until = clock_ns() + PROBE_MS * NS_PER_MS;
    while (want > 0) {
        int64_t left = until - clock_ns();
        if (left <= 0)
            return -ETIME;
        struct __kernel_timespec ts = timespec_of(left);
        struct io_uring_cqe *ignored, cqe;
        int rc = io_uring_submit_and_wait_timeout(&r->u, &ignored, 1, &ts, NULL);
        if (rc < 0 && rc != -ETIME && rc != -EINTR)
            return rc;
        while (cqe_take(r, &cqe)) {
            if (cqe.user_data < UD_PROBE || cqe.user_data > UD_LAST)
                continue;
            res[cqe.user_data] = cqe.res;
            want--;
        }
    }
    return 0;
}

/* Runs what the server lives on, with the real ring: where a profile lets the ring be made but not used, say so now.
 * Returns 0 or -errno. */
static int
ring_probe(struct uring *r)
{
    enum { NOP = UD_PROBE, POLL, SEND };
    int res[UD_LAST + 1] = { 0 };
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    FD_OWNED int a = pair[0];
    FD_OWNED int b = pair[1];

    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->u);
    io_uring_prep_nop(sqe);
    sqe->user_data = NOP;
    sqe = io_uring_get_sqe(&r->u);
    io_uring_prep_poll_multishot(sqe, a, POLLIN | POLLRDHUP);
    sqe->user_data = POLL;
    sqe = io_uring_get_sqe(&r->u);
    io_uring_prep_send(sqe, b, "x", 1, MSG_NOSIGNAL);
    sqe->user_data = SEND;
    int err = probe_wait(r, 3, res);
    if (err < 0)
        return err;
    if (res[NOP] < 0)
        return res[NOP];
    if (res[POLL] < 0)
        return res[POLL];
    if (res[SEND] < 0)
        return res[SEND];
    if (res[SEND] != 1 || !(res[POLL] & POLLIN))
        return -EIO;

    sqe = io_uring_get_sqe(&r->u);
    io_uring_prep_cancel64(sqe, POLL, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = UD_IGNORE;
    err = probe_wait(r, 1, res);
    if (err < 0)
        return err;
    return res[POLL] == -ECANCELED ? 0 : -EIO;
}

int
uring_open(struct io **out, const char **step, char note[IO_WHY_SIZE])
{
    *step = "start";
    struct uring *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return -ENOMEM;
    int err = io_init(&r->io, &uring_vtable);
    if (err < 0) {
        free(r);
        return err;
    }
    list_init(&r->to_arm);
    list_init(&r->to_cancel);
    list_init(&r->files);
    r->owner = gettid();

    *step = "io_uring_setup";
    int entries = ring_create_fitting(&r->u);
    if (entries < 0) {
        uring_free(r);
        return entries;
    }
    *step = "madvise";
    err = io_uring_ring_dontfork(&r->u);
    if (err < 0)
        goto out;
    *step = "self-test";
    r->msgs = calloc((size_t)entries, sizeof(*r->msgs));
    err = r->msgs ? ring_probe(r) : -ENOMEM;
    if (err < 0)
        goto out;
    if (entries < 1024)
        snprintf(note, IO_WHY_SIZE,
                 "io_uring with %d entries instead of 1024: the limit of locked memory is low "
                 "(ulimit -l, in Docker "
                 "`ulimits: memlock`)",
                 entries);
    *out = &r->io;
    return 0;

out:
    io_uring_queue_exit(&r->u);
    uring_free(r);
    return err;
}
