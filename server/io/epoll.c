/* epoll.c: the epoll backend, for kernels and containers that refuse the ring.
 *
 * Sends are queued as on the ring and tried in io_flush() and io_wait(); one that finds no room waits for EPOLLOUT. A watched
 * descriptor is registered once, edge-triggered and for EPOLLOUT too, so that neither a blocked send nor its end
 * costs an epoll_ctl().
 *
 * Always:  a table by descriptor says which operations an event is for. An event carries the descriptor and a stamp; every
 *          change of a registration takes a new stamp, so what was fetched before the change is dropped: it cannot reach
 *          freed memory or the next holder of the descriptor's number. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "io/backend.h"

enum {
    EVENTS_MAX = 1024, /* taken from the kernel at once */
    SLOTS_FIRST = 64,
    WATCH_MASK = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR,
};

#define DATA_WAKE UINT64_MAX /* no descriptor: those are not negative */

/* What one descriptor is registered for. */
struct slot {
    struct io_op *reader; /* an accept, watch or poll */
    struct io_op *sender; /* a send that waits for room */
    uint32_t events;      /* as registered; 0: not at all */
    uint32_t stamp;       /* of the registration */
};

struct epoller {
    struct io io; /* first */
    int fd;
    bool has_pwait2;
    bool is_foreign_seen; /* an event of a registration that is not ours any more */
    uint32_t clock;       /* the latest stamp */
    int slots_n;
    struct slot *slots;
    struct list sends; /* to try at the next flush */
    struct epoll_event events[EVENTS_MAX];
};

static inline struct epoller *
epoller_of(struct io *io)
{
    return (struct epoller *)io;
}

/* --- registrations -------------------------------------------------------------------------------------------------*/

/* The slot of a descriptor, or NULL with *err set. Pointers to slots are good until the next call. */
static struct slot *
slot_get(struct epoller *e, int fd, int *err)
{
    if (fd < 0) {
        *err = -EBADF;
        return NULL;
    }
    if (fd >= e->slots_n) {
        int n = e->slots_n ? e->slots_n : SLOTS_FIRST;
        while (n <= fd)
            n = n > INT_MAX / 2 ? INT_MAX : 2 * n;
        struct slot *slots = reallocarray(e->slots, (size_t)n, sizeof(*slots));
        if (slots == NULL) {
            *err = -ENOMEM;
            return NULL;
        }
        memset(slots + e->slots_n, 0, (size_t)(n - e->slots_n) * sizeof(*slots));
        e->slots = slots;
        e->slots_n = n;
    }
    return &e->slots[fd];
}

/* What the operations of a slot need to be registered for. */
static uint32_t
slot_wants(const struct slot *s)
{
    uint32_t out = s->sender ? EPOLLOUT : 0;
    if (s->reader == NULL)
        return out ? out | EPOLLET : 0;
    switch ((enum io_kind)s->reader->kind) {
    case IO_KIND_ACCEPT:
        return EPOLLIN | EPOLLEXCLUSIVE;
    case IO_KIND_WATCH:
        return EPOLLIN | (s->reader->watch.in_only ? out : EPOLLOUT | EPOLLPRI) | EPOLLRDHUP |
               EPOLLET;
    case IO_KIND_POLL:
        /* EPOLLHUP and EPOLLERR come unasked, and make this non-zero for an empty mask. */
        return s->reader->mask | out | EPOLLERR;
    case IO_KIND_SEND:
    case IO_KIND_ROOM:
    case IO_KIND_FILE:
        break;
    }
    return out;
}

static int
slot_add(struct epoller *e, int how, int fd, uint32_t events, uint32_t stamp)
{
    struct epoll_event event = { .events = events,
                                 .data.u64 = (uint64_t)stamp << 32 | (unsigned)fd };
    return epoll_ctl(e->fd, how, fd, &event) < 0 ? -errno : 0;
}

/* Makes the registration what the operations need, with a new stamp. Returns 0 or -errno, registered for nothing then.
 *
 * The kernel may know less than the slot says (the owner closed the descriptor, which ends the registration), or more
 * (closed here, but a copy of the descriptor lives elsewhere): so a refused change is tried afresh. */
static int
slot_register(struct epoller *e, int fd, struct slot *s)
{
    uint32_t events = slot_wants(s);
    s->stamp = ++e->clock;
    if (events == 0) {
        if (s->events != 0)
            epoll_ctl(e->fd, EPOLL_CTL_DEL, fd, NULL);
        s->events = 0;
        return 0;
    }
    /* EPOLLEXCLUSIVE can be added only, not changed (epoll_ctl(2)). */
    bool is_change = s->events != 0 && !((s->events | events) & EPOLLEXCLUSIVE);
    int err = slot_add(e, is_change ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, events, s->stamp);
    if (UNLIKELY(err == -ENOENT || err == -EEXIST || err == -EINVAL)) {
        epoll_ctl(e->fd, EPOLL_CTL_DEL, fd, NULL);
        err = slot_add(e, EPOLL_CTL_ADD, fd, events, s->stamp);
    }
    s->events = err < 0 ? 0 : events;
    return err;
}

/* Brings the registration in line after an operation left. A failure ends those that remain. */
static void
slot_settle(struct epoller *e, int fd, struct slot *s)
{
    if (slot_wants(s) == s->events)
        return;
    int err = slot_register(e, fd, s);
    if (UNLIKELY(err < 0)) {
        if (s->reader != NULL)
            io_finish(&e->io, s->reader, err);
        if (s->sender != NULL)
            io_finish(&e->io, s->sender, err);
        s->reader = s->sender = NULL;
    }
}

/* Puts an operation into the table. One that sits there already belongs to an owner who closed the descriptor before
 * his cancel; that cancel is all it waits for now. */
static void
slot_place(struct io_op **place, struct io_op *op)
{
    if (*place != NULL)
        (*place)->state = IO_ORPHAN;
    *place = op;
    op->state = IO_ACTIVE;
}

/* Out of the table, if it is there. */
static void
slot_leave(struct epoller *e, struct io_op *op)
{
    if (op->state != IO_ACTIVE)
        return;
    struct slot *s = &e->slots[op->fd];
    if (s->reader == op)
        s->reader = NULL;
    else
        s->sender = NULL;
    op->state = IO_IDLE;
    /* A watch for both directions needs no change when a send leaves it. One that leaves itself always does: the stamp must be new. */
    slot_settle(e, op->fd, s);
}

/* --- sends ---------------------------------------------------------------------------------------------------------*/

/* Returns bytes sent or -errno; -EAGAIN when there is no room. */
static int
send_now(struct io_op *op)
{
    const struct iovec *iov = op->send.iov;
    struct msghdr msg = { .msg_iov = (struct iovec *)iov, .msg_iovlen = op->send.n };
    enum { FLAGS = MSG_NOSIGNAL | MSG_DONTWAIT };
    if (op->send.file >= 0)
        return io_sendfile(op);
    ssize_t n;
    do { /* send() is the cheaper call, and an answer is one piece nearly always */
        n = op->send.n == 1 ? send(op->fd, iov->iov_base, iov->iov_len, FLAGS)
                            : sendmsg(op->fd, &msg, FLAGS);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n; /* the kernel sends IO_SEND_MAX at most */
}

/* Room that appears between the owner's try and now is seen: by the edge, or by the check that a new registration makes. */
static void
wait_for_room(struct epoller *e, struct io_op *op)
{
    int err = 0;
    struct slot *s = slot_get(e, op->fd, &err);
    if (s == NULL) {
        io_finish(&e->io, op, err);
        return;
    }
    slot_place(&s->sender, op);
    if (!(s->events & EPOLLOUT))
        err = slot_register(e, op->fd, s);
    if (err < 0) {
        s->sender = NULL;
        io_finish(&e->io, op, err);
        if (s->reader != NULL) { /* it is no longer registered either */
            io_finish(&e->io, s->reader, err);
            s->reader = NULL;
        }
    }
}

/* The send at the head of its life: done, failed, or waiting for room. */
static void
send_first(struct epoller *e, struct io_op *op)
{
    int n = send_now(op);
    if (n != -EAGAIN)
        io_finish(&e->io, op, n);
    else
        wait_for_room(e, op);
}

static void
epoller_flush(struct io *io)
{
    struct epoller *e = epoller_of(io);
    struct list *node;
    io->queued = 0;
    while ((node = list_pop(&e->sends)) != NULL)
        send_first(e, CONTAINER_OF(node, struct io_op, link));
}

/* --- operations ----------------------------------------------------------------------------------------------------*/

static void
epoller_arm(struct io *io, struct io_op *op)
{
    struct epoller *e = epoller_of(io);
    if (op->kind == IO_KIND_SEND) {
        op->state = IO_WAITING;
        list_add_tail(&e->sends, &op->link);
        return;
    }
    if (op->kind == IO_KIND_ROOM) {
        wait_for_room(e, op);
        return;
    }
    int err = 0;
    struct slot *s = slot_get(e, op->fd, &err);
    if (s != NULL) {
        slot_place(&s->reader, op);
        err = slot_register(e, op->fd, s);
        if (err < 0)
            s->reader = NULL;
    }
    if (err < 0)
        io_finish(io, op, err);
}

static void
epoller_poll_change(struct io *io, struct io_op *op)
{
    struct epoller *e = epoller_of(io);
    if (op->state == IO_ACTIVE)
        slot_settle(e, op->fd, &e->slots[op->fd]);
}

static void
epoller_cancel(struct io *io, struct io_op *op)
{
    if (op->state == IO_WAITING)
        io->queued--;
    slot_leave(epoller_of(io), op);
    io_finish(io, op, -ECANCELED);
}

/* --- events --------------------------------------------------------------------------------------------------------*/

/* Accepts what there is. op may be gone when this returns. */
static int
accept_some(struct epoller *e, int fd, uint32_t stamp)
{
    int called = 0;
    for (int i = 0; i < IO_ACCEPTS_MAX; i++) {
        /* Each callback may have cancelled it, or moved the table. */
        struct slot *s = &e->slots[fd];
        if (s->stamp != stamp)
            return called;
        struct io_op *op = s->reader;
        int conn = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (conn >= 0) {
            called += io_more(&e->io, op, conn);
            continue;
        }
        int err = errno;
        if (err == EAGAIN)
            return called;
        if (err == ECONNABORTED || err == EINTR)
            continue;
        slot_leave(e, op);
        return called + io_end(&e->io, op, -err);
    }
    return called;
}

/* The blocked send of a slot, tried again. */
static int
send_again(struct epoller *e, const struct slot *s)
{
    struct io_op *op = s->sender;
    int n = op->kind == IO_KIND_ROOM ? 0 : send_now(op);
    if (n == -EAGAIN)
        return 0;
    slot_leave(e, op);
    return io_end(&e->io, op, n);
}

static int
handle(struct epoller *e, const struct epoll_event *event, uint32_t clock_before)
{
    int called = 0;
    if (event->data.u64 == DATA_WAKE)
        return 0;
    int fd = (int)(uint32_t)event->data.u64;
    uint32_t stamp = (uint32_t)(event->data.u64 >> 32);
    if (e->slots[fd].stamp != stamp) {
        /* Changed by a callback of this batch, or long ago? */
        if ((int32_t)(e->slots[fd].stamp - clock_before) <= 0)
            e->is_foreign_seen = true;
        return 0;
    }
    if (e->slots[fd].sender != NULL && (event->events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        called += send_again(e, &e->slots[fd]);

    struct slot *s = &e->slots[fd];
    if (s->stamp != stamp || s->reader == NULL)
        return called;
    struct io_op *op = s->reader;
    if (op->kind == IO_KIND_ACCEPT)
        return called + accept_some(e, fd, stamp);
    uint32_t mask = op->kind == IO_KIND_WATCH ? WATCH_MASK : op->mask | EPOLLERR | EPOLLHUP;
    int res = (int)(event->events & mask);
    return res != 0 ? called + io_more(&e->io, op, res) : called;
}

static int
wake_add(struct epoller *e, int epoll_fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.u64 = DATA_WAKE };
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, e->io.wake_fd, &event) < 0 ? -errno : 0;
}

/* An owner closed a descriptor before his cancel while a copy of it lives on (dup(), a forked child). The kernel keeps the
 * registration, and nobody can name it any more; level-triggered it would wake us for ever. So begin afresh. */
static void
rebuild(struct epoller *e)
{
    e->is_foreign_seen = false;
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return; /* the next such event tries again */
    if (wake_add(e, fd) < 0) {
        close(fd);
        return;
    }
    close(e->fd);
    e->fd = fd;
    for (int i = 0; i < e->slots_n; i++) {
        struct slot *s = &e->slots[i];
        if (s->events != 0) {
            s->events = 0;
            slot_settle(e, i, s);
        }
    }
}

/* --- waiting -------------------------------------------------------------------------------------------------------*/

/* Returns the number of events, 0 after a signal. */
static int
sleep_for(struct epoller *e, int64_t timeout_ns)
{
    int n = -1;
    if (timeout_ns > 0 && e->has_pwait2) {
        struct timespec ts = { .tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S };
        /* By number: glibc has the name only since 2.35, the kernel the call since 5.11. */
        n = (int)syscall(SYS_epoll_pwait2, e->fd, e->events, EVENTS_MAX, &ts, NULL, 0);
        if (n >= 0 || errno == EINTR)
            return n > 0 ? n : 0;
        e->has_pwait2 = false; /* ENOSYS, or EPERM from an old seccomp profile */
    }
    int64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS > 0);
    n = epoll_wait(e->fd, e->events, EVENTS_MAX,
                   timeout_ns < 0 ? -1
                   : ms > INT_MAX ? INT_MAX
                                  : (int)ms);
    return n > 0 ? n : 0;
}

static int
epoller_wait(struct io *io, int64_t timeout_ns)
{
    struct epoller *e = epoller_of(io);
    epoller_flush(io);
    if (!list_is_empty(&io->done))
        timeout_ns = 0;
    bool has_slept = timeout_ns != 0 && io_sleep_begin(io);
    bool was_woken = false;
    int n;
    if (has_slept) {
        n = sleep_for(e, timeout_ns);
        was_woken = io_sleep_end(io);
    } else {
        n = sleep_for(e, 0);
        io_wake_seen(io);
    }
    uint32_t clock_before = e->clock;
    int called = 0;
    for (int i = 0; i < n; i++)
        called += handle(e, &e->events[i], clock_before);
    if (UNLIKELY(e->is_foreign_seen))
        rebuild(e);
    called += io_deliver_done(io);
    return called == 0 && n > 0 && has_slept && !was_woken ? IO_NOTHING : called;
}

/* --- opening and closing -------------------------------------------------------------------------------------------*/

/* In a forked child too: closing its copy of the descriptor leaves the parent's registrations alone. */
static void
epoller_free(struct epoller *e)
{
    close(e->fd);
    io_fini(&e->io);
    free(e->slots);
    free(e);
}

static void
epoller_close(struct io *io)
{
    io_drop_all(io, false);
    epoller_free(epoller_of(io));
}

static void
epoller_abandon(struct io *io)
{
    io_drop_all(io, true);
    epoller_free(epoller_of(io));
}

static int
epoll_fd(const struct io *io)
{
    return ((const struct epoller *)io)->fd;
}

static const struct io_vtable epoll_vtable = {
    .name = "epoll",
    .fd = epoll_fd,
    .close = epoller_close,
    .abandon = epoller_abandon,
    .arm = epoller_arm,
    .poll_change = epoller_poll_change,
    .cancel = epoller_cancel,
    .flush = epoller_flush,
    .wait = epoller_wait,
};

int
epoll_open(struct io **out)
{
    struct epoller *e = calloc(1, sizeof(*e));
    if (e == NULL)
        return -ENOMEM;
    int err = io_init(&e->io, &epoll_vtable);
    if (err < 0) {
        free(e);
        return err;
    }
    list_init(&e->sends);
    e->has_pwait2 = true;
    e->fd = epoll_create1(EPOLL_CLOEXEC);
    err = e->fd < 0 ? -errno : wake_add(e, e->fd);
    if (err < 0) {
        if (e->fd >= 0)
            close(e->fd);
        io_fini(&e->io);
        free(e);
        return err;
    }
    *out = &e->io;
    return 0;
}
