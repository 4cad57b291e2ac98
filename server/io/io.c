/* io.c: the choice of the backend, what it says when the ring is refused, and the parts that both backends share. */
#include "io/io.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "io/backend.h"

int
io_init(struct io *io, const struct io_vtable *v)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    io->v = v;
    io->wake_fd = fd;
    list_init(&io->all);
    list_init(&io->done);
    return 0;
}

void
io_fini(struct io *io)
{
    close(io->wake_fd);
    io->wake_fd = -1;
}

void
io_drop_all(struct io *io, bool is_forked)
{
    struct list *node;
    while ((node = list_pop(&io->all)) != NULL) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, all);
        if (op->kind == IO_KIND_FILE && !is_forked) {
            if (op->state == IO_ACTIVE)
                continue; /* as io_file() says */
            if (op->state == IO_DONE)
                io_file_drop(op, op->res);
        }
        if (op->state == IO_ON_THREAD)
            list_init(&op->link); /* of a list that a thread was changing, perhaps */
        list_del(&op->link);
        op->armed = false;
        op->state = IO_IDLE;
    }
}

int
io_deliver_done(struct io *io)
{
    if (UNLIKELY(io->threads != NULL))
        threads_collect(io);
    if (list_is_empty(&io->done))
        return 0;
    /* What the callbacks finish is for the next wait: a pair that re-arms each other must not keep us here. */
    struct list batch;
    list_init(&batch);
    list_splice(&batch, &io->done);
    int n = 0;
    struct list *node;
    while ((node = list_pop(&batch)) != NULL) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, link);
        n += io_end(io, op, op->res);
    }
    return n;
}

/* --- why the ring was refused ------------------------------------------------------------------------------------ */

/* The sysctl (kernel 6.6 and some distributions before), or -1 where it cannot be read. */
static int
sysctl_disabled(void)
{
    FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    if (f == NULL)
        return -1;
    int value;
    if (fscanf(f, "%d", &value) != 1)
        value = -1;
    fclose(f);
    return value;
}

static bool
is_before_6_1(const char *release)
{
    unsigned major, minor;
    return sscanf(release, "%u.%u", &major, &minor) == 2 &&
           (major < 6 || (major == 6 && minor < 1));
}

/* Containers deny the three calls by default: Docker since 25, containerd since 2.0, podman. */
#define SECCOMP_CURE                                                                               \
    "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile"

/* What an errno of ring creation usually means, and the cure. Never that something cannot happen. */
static void
explain(int err, const char **cause, char *cause_buf, size_t cause_size, const char **cure)
{
    int sysctl;
    struct utsname name;
    struct rlimit limit;

    switch (err) {
    case EPERM:
    case EACCES:
        sysctl = sysctl_disabled();
        if (sysctl > 0) {
            snprintf(cause_buf, cause_size, "the sysctl kernel.io_uring_disabled is %d", sysctl);
            *cause = cause_buf;
            *cure = sysctl == 1
                        ? "set it to 0, or add the user to the group in kernel.io_uring_group"
                        : "set it to 0";
            return;
        }
        *cause = "a seccomp profile or a security module forbids it";
        *cure = SECCOMP_CURE;
        return;
    case ENOSYS:
        *cause = "a seccomp profile hides it, or this kernel has none";
        *cure = SECCOMP_CURE;
        return;
    case ENOMEM:
        if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
            snprintf(cause_buf, cause_size, "the limit of locked memory is %llu KiB",
                     (unsigned long long)limit.rlim_cur / 1024);
            *cause = cause_buf;
        } else {
            *cause = "no memory for it";
        }
        *cure = "raise it: ulimit -l, in Docker `ulimits: memlock`";
        return;
    case EINVAL:
        if (uname(&name) < 0 || !is_before_6_1(name.release))
            break;
        snprintf(cause_buf, cause_size, "this is Linux %.40s", name.release);
        *cause = cause_buf;
        *cure = "it needs Linux 6.1";
        return;
    case EMFILE:
    case ENFILE:
        *cause = "no descriptor is free";
        *cure = "raise the limit: ulimit -n";
        return;
    default:
        break;
    }
    *cause = strerror(err);
    *cure = "the platform seems not to allow it";
}

static void
say_refused(int err, const char *step, enum io_backend want, char why[IO_WHY_SIZE])
{
    char cause_buf[96];
    const char *cause, *cure;
    explain(err, &cause, cause_buf, sizeof(cause_buf), &cure);
    const char *name = strerrorname_np(err);
    snprintf(why, IO_WHY_SIZE, "io_uring refused (%s at %s: %s)%s; %s",
             name ? name : "unknown error", step, cause, want == IO_AUTO ? ", using epoll" : "",
             cure);
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

int
io_open(enum io_backend want, struct io **out, char why[IO_WHY_SIZE])
{
    why[0] = '\0';
    if (want != IO_EPOLL) {
        const char *step = "io_uring_setup";
        int err = uring_open(out, &step, why);
        if (err == 0)
            return 0;
        say_refused(-err, step, want, why);
        if (want == IO_URING)
            return err;
    }
    int err = epoll_open(out);
    if (err < 0)
        snprintf(why, IO_WHY_SIZE, "cannot open an epoll instance: %s", strerror(-err));
    return err;
}

const char *
io_probe(char why[IO_WHY_SIZE])
{
    struct io *io;
    if (io_open(IO_AUTO, &io, why) < 0)
        return "none";
    const char *name = io_name(io);
    io_close(io);
    return name;
}

void
io_close(struct io *io)
{
    io->closing = true;
    if (io->threads != NULL)
        threads_close(io);
    io->v->close(io);
}

void
io_stay(struct io *io)
{
    if (io->v->stay != NULL)
        io->v->stay(io);
}

void
io_abandon(struct io *io)
{
    io->v->abandon(io);
}

int
io_fd(const struct io *io)
{
    return io->v->fd(io);
}

const char *
io_name(const struct io *io)
{
    return io->v->name;
}

/* --- operations ----------------------------------------------------------------------------------------------------*/

static void
io_begin(struct io *io, struct io_op *op, enum io_kind kind, int fd, uint32_t mask)
{
    ASSERT(!op->armed);
    op->kind = kind;
    op->fd = fd;
    op->mask = mask;
    op->armed = true;
    op->cancelled = false;
    list_add_tail(&io->all, &op->all);
}

static void
accept_begin(struct io *io, struct io_op *op, int listen_fd, bool with_care)
{
    io_begin(io, op, IO_KIND_ACCEPT, listen_fd, 0);
    op->accept.turn = 0;
    op->accept.taken = 0;
    op->accept.stashed = 0;
    op->accept.with_care = with_care;
    io->v->arm(io, op);
}

void
io_accept(struct io *io, struct io_op *op, int listen_fd)
{
    accept_begin(io, op, listen_fd, false);
}

void
io_accept_with_care(struct io *io, struct io_op *op, int listen_fd)
{
    accept_begin(io, op, listen_fd, true);
}

static void
watch_begin(struct io *io, struct io_op *op, int fd, bool in_only)
{
    io_begin(io, op, IO_KIND_WATCH, fd, 0);
    op->watch.in_only = in_only;
    io->v->arm(io, op);
}

void
io_watch(struct io *io, struct io_op *op, int fd)
{
    watch_begin(io, op, fd, false);
}

void
io_watch_in(struct io *io, struct io_op *op, int fd)
{
    watch_begin(io, op, fd, true);
}

void
io_poll(struct io *io, struct io_op *op, int fd, uint32_t mask)
{
    io_begin(io, op, IO_KIND_POLL, fd, mask);
    op->poll.changing = false;
    op->poll.checked = false;
    op->poll.has_fired = false;
    op->poll.by = -1;
    io->v->arm(io, op);
}

void
io_poll_change(struct io *io, struct io_op *op, uint32_t mask)
{
    ASSERT(op->armed && op->kind == IO_KIND_POLL);
    if (op->mask == mask || op->cancelled || op->state == IO_DONE)
        return;
    op->mask = mask;
    io->v->poll_change(io, op);
}

void
io_room(struct io *io, struct io_op *op, int fd)
{
    io_begin(io, op, IO_KIND_ROOM, fd, 0);
    io->v->arm(io, op);
}

void
io_send(struct io *io, struct io_op *op, int fd, const struct iovec *iov, unsigned n)
{
    ASSERT(n > 0);
    io_begin(io, op, IO_KIND_SEND, fd, 0);
    op->send.iov = iov;
    op->send.n = n < IO_IOV_MAX ? n : IO_IOV_MAX; /* the rest makes it a short send */
    op->send.again = op->send.has_moved = false;
    op->send.file = -1;
    io->queued++;
    io->v->arm(io, op);
}

void
io_send_file(struct io *io, struct io_op *op, int fd, int file, off_t at, size_t n)
{
    ASSERT(n > 0);
    io_begin(io, op, IO_KIND_SEND, fd, 0);
    op->send.again = false;
    op->send.file = file;
    op->send.at = at;
    op->send.n = n < IO_SEND_MAX ? (unsigned)n : IO_SEND_MAX;
    op->send.done = 0;
    op->send.has_moved = false;
    io->queued++;
    io->v->arm(io, op);
}

void
io_file(struct io *io, struct io_file *file)
{
    io_begin(io, &file->op, IO_KIND_FILE, file->fd, 0);
    file->wake_fd = file->held_fd = -1;
    file->is_running = file->is_interrupted = false;
    /* The ring copies what is in the page cache when it is told to, which is on this thread. */
    file->is_for_worker =
        (file->what == IO_FILE_READ || file->what == IO_FILE_WRITE) && file->n > IO_FILE_BIG;
    if (file->n > IO_SEND_MAX)
        file->n = IO_SEND_MAX;
    if (io->v->has_file != NULL && io->v->has_file(io, file->what))
        io->v->arm(io, &file->op);
    else
        threads_add(io, file);
}

int
io_sendfile(struct io_op *op)
{
    /* A short one does not say that there is no room: it may have been interrupted (since 4.3). */
    while (op->send.done < op->send.n) {
        ssize_t n = sendfile(op->fd, op->send.file, &op->send.at, op->send.n - op->send.done);
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        op->send.done += n > 0 ? (unsigned)n : 0;
        op->send.has_moved |= n > 0;
    }
    return (int)op->send.n;
}

void
io_cancel(struct io *io, struct io_op *op)
{
    if (!op->armed || op->cancelled)
        return;
    op->cancelled = true;
    if (op->kind == IO_KIND_FILE) {
        struct io_file *file = CONTAINER_OF(op, struct io_file, op);
        if (file->what == IO_FILE_CLOSE)
            return;
        if (op->state == IO_ON_THREAD) {
            threads_cancel(io, file);
            return;
        }
    }
    if (op->state != IO_DONE)
        io->v->cancel(io, op);
}

void
io_let_go(struct io *io)
{
    if (io->v->let_go != NULL)
        io->v->let_go(io);
}

void
io_flush(struct io *io)
{
    if (io->queued > 0)
        io->v->flush(io);
}

unsigned
io_queued(const struct io *io)
{
    return io->queued;
}

int
io_wait(struct io *io, int64_t timeout_ns)
{
    int64_t until = 0;
    if (timeout_ns > 0) {
        if (__builtin_add_overflow(clock_ns(), timeout_ns, &until))
            until = INT64_MAX;
    }
    for (int i = 0; i < IO_NOTHING_MAX; i++) {
        int called = io->v->wait(io, timeout_ns);
        if (LIKELY(called != IO_NOTHING))
            return called;
        if (timeout_ns > 0) {
            timeout_ns = until - clock_ns();
            if (timeout_ns <= 0)
                return 0;
        }
    }
    return 0;
}

void
io_wake(struct io *io)
{
    atomic_store(&io->woken, true);
    /* Only one of many wakers pays the system call, and only while the owner sleeps. */
    if (!atomic_load(&io->sleeping) || !atomic_exchange(&io->sleeping, false))
        return;
    int saved = errno;
    ssize_t n = write(io->wake_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
    (void)n; /* EAGAIN at 2^64 - 1 writes is out of reach */
    errno = saved;
}
