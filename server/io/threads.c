/* threads.c: operations on files where the ring cannot do them: on epoll all, else those that the kernel has no opcode for.
 *
 * At most IO_THREADS_MAX threads an io, begun when something is to be done and all others are busy; one that has had nothing to do for
 * IDLE_S ends. They do nothing but system calls. A thread whose operation was cancelled and still runs does not count: a FIFO
 * that nobody opens at its other end would otherwise keep a place from the others for ever.
 *
 * A read or write at the descriptor's own position may wait for long (a pipe, a terminal): the thread polls it first, together with an
 * eventfd by which a cancel reaches it.
 *
 * Owns:    itself: struct threads lives until the last thread has left, which may be after io_close().
 * Always:  a queued or running operation is in the state IO_ON_THREAD; only the io's thread reads and writes that. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "io/backend.h"

enum {
    IO_THREADS_MAX = 32,
    IDLE_S = 10,
    STACK = 128 * 1024,
};

struct threads {
    pthread_mutex_t lock; /* of all but has_done */
    pthread_cond_t is_wanted, has_changed;
    struct list wanted, done;
    struct io *io;    /* NULL: it was closed */
    unsigned count;   /* threads that exist */
    unsigned idle;    /* of these, waiting for work that nobody has been woken for */
    unsigned running; /* operations */
    unsigned lost;    /* of these, cancelled */
    unsigned refs;    /* count, and one of the io */
    bool is_short;    /* the io's thread: the threads for what is wanted may be lost */
    atomic_bool has_done;
};

/* --- the threads -------------------------------------------------------------------------------------------------- */

static void
threads_free(struct threads *t)
{
    pthread_cond_destroy(&t->is_wanted);
    pthread_cond_destroy(&t->has_changed);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* Lock held, and given up. */
static void
unlock_and_leave(struct threads *t)
{
    bool is_last = --t->refs == 0;
    pthread_mutex_unlock(&t->lock);
    if (is_last)
        threads_free(t);
}

/* Until the descriptor is ready. -ECANCELED: is to be left alone. 0: the system call tells. */
static int
wait_ready(struct threads *t, struct io_file *f)
{
    struct pollfd p[2] = { { .fd = f->fd, .events = f->what == IO_FILE_READ ? POLLIN : POLLOUT } };
    if (poll(p, 1, 0) != 0)
        return 0;
    FD_OWNED int fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0)
        return 0;
    pthread_mutex_lock(&t->lock);
    bool is_interrupted = f->is_interrupted;
    f->wake_fd = fd;
    pthread_mutex_unlock(&t->lock);
    p[1] = (struct pollfd){ .fd = fd, .events = POLLIN };
    while (!is_interrupted && poll(p, 2, -1) < 0 && errno == EINTR) {
    }
    pthread_mutex_lock(&t->lock);
    is_interrupted = f->is_interrupted;
    f->wake_fd = -1;
    pthread_mutex_unlock(&t->lock);
    return is_interrupted ? -ECANCELED : 0;
}

/* Where the descriptor stands: what may wait for another process. */
static int
run_at_position(struct threads *t, struct io_file *f)
{
    for (;;) {
        int res = wait_ready(t, f);
        if (res < 0)
            return res;
        /* A blocking pipe would take its time for all of it; room for so much is what POLLOUT says. */
        struct stat st;
        size_t n = f->n;
        if (f->what == IO_FILE_WRITE && n > PIPE_BUF && fstat(f->fd, &st) == 0 &&
            S_ISFIFO(st.st_mode))
            f->n = PIPE_BUF;
        res = io_file_run(f);
        f->n = n;
        if (res != -EAGAIN)
            return res; /* else somebody else was faster: as the ring, it waits for non-blocking descriptors too */
    }
}

static int
run_file(struct threads *t, struct io_file *f)
{
    bool is_transfer = f->what == IO_FILE_READ || f->what == IO_FILE_WRITE;
    return is_transfer && f->at < 0 && f->n > 0 ? run_at_position(t, f) : io_file_run(f);
}

/* Lock held. False: nothing has come for a long while, or it is over. */
static bool
wait_wanted(struct threads *t)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_S;
    while (list_is_empty(&t->wanted)) {
        if (t->io == NULL)
            return false;
        t->idle++;
        int err = pthread_cond_timedwait(&t->is_wanted, &t->lock, &until);
        t->idle--;
        if (err == ETIMEDOUT && list_is_empty(&t->wanted))
            return false;
    }
    return true;
}

static void *
run(void *arg)
{
    struct threads *t = arg;
    pthread_mutex_lock(&t->lock);
    while (wait_wanted(t)) {
        struct io_file *f = CONTAINER_OF(list_pop(&t->wanted), struct io_file, op.link);
        f->is_running = true;
        t->running++;
        pthread_mutex_unlock(&t->lock);
        int res = run_file(t, f);
        pthread_mutex_lock(&t->lock);
        t->running--;
        t->lost -= f->is_interrupted;
        if (t->io == NULL &&
            t->refs == t->count) { /* the io has gone: nobody may look at f any more */
            io_file_drop(&f->op, res);
            continue;
        }
        f->op.res = res;
        list_add_tail(&t->done, &f->op.link);
        atomic_store(&t->has_done, true);
        if (t->io != NULL)
            io_wake(t->io);
        pthread_cond_broadcast(&t->has_changed);
    }
    t->count--;
    pthread_cond_broadcast(&t->has_changed);
    unlock_and_leave(t);
    return NULL;
}

/* Lock held. One more. */
static void
add_thread(struct threads *t)
{
    pthread_t thread;
    if (thread_start(&thread, STACK, run, t) != 0)
        return;
    pthread_detach(thread);
    t->count++;
    t->refs++;
}

/* Lock held. True: one more. Those that are woken and have not come yet still count as idle, so it is not idle == 0 that asks for it. */
static bool
add_thread_if_short(struct threads *t)
{
    unsigned waiting = 0, before = t->count;
    LIST_FOR_EACH(node, &t->wanted) {
        if (++waiting > t->idle)
            break;
    }
    if (waiting > t->idle && t->count - t->lost < IO_THREADS_MAX)
        add_thread(t);
    return t->count > before;
}

/* --- the io's thread ---------------------------------------------------------------------------------------------- */

static struct threads *
threads_of(struct io *io)
{
    struct threads *t = io->threads;
    if (t != NULL || (t = calloc(1, sizeof(*t))) == NULL)
        return t;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->is_wanted, &attr);
    pthread_cond_init(&t->has_changed, &attr);
    pthread_condattr_destroy(&attr);
    list_init(&t->wanted);
    list_init(&t->done);
    t->io = io;
    t->refs = 1;
    return io->threads = t;
}

void
threads_add(struct io *io, struct io_file *f)
{
    struct threads *t = threads_of(io);
    if (t == NULL) {
        io_finish(io, &f->op, -ENOMEM);
        return;
    }
    pthread_mutex_lock(&t->lock);
    list_add_tail(&t->wanted, &f->op.link);
    add_thread_if_short(t);
    bool is_taken = t->count > t->lost;
    if (is_taken)
        pthread_cond_signal(&t->is_wanted);
    else
        list_del(&f->op.link);
    pthread_mutex_unlock(&t->lock);
    if (is_taken)
        f->op.state = IO_ON_THREAD;
    else
        io_finish(io, &f->op, -ENOMEM); /* no thread can be made: nobody could do it */
}

void
threads_cancel(struct io *io, struct io_file *f)
{
    struct threads *t = io->threads;
    pthread_mutex_lock(&t->lock);
    bool is_queued = false;
    if (!f->is_running) {
        list_del(&f->op.link);
        is_queued = true;
    } else if (!f->is_interrupted) {
        /* Where it has just been done, it is in t->done, and nothing looks at these any more. */
        f->is_interrupted = true;
        t->lost += list_is_empty(&f->op.link);
        /* What is queued was left to its thread. It gets others at the next look, as it may be cancelled now, too. */
        t->is_short = !list_is_empty(&t->wanted);
        if (t->is_short)
            io_wake(io);
        if (f->wake_fd >= 0) {
            ssize_t n = write(f->wake_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
            (void)n;
        }
    }
    pthread_mutex_unlock(&t->lock);
    if (is_queued)
        io_finish(io, &f->op, -ECANCELED);
}

void
threads_collect(struct io *io)
{
    struct threads *t = io->threads;
    if (UNLIKELY(t->is_short)) {
        t->is_short = false;
        pthread_mutex_lock(&t->lock);
        unsigned n = 0; /* those that were started have taken nothing yet */
        LIST_FOR_EACH(node, &t->wanted) {
            n++;
        }
        while (n-- > 0 && add_thread_if_short(t)) {
        }
        pthread_mutex_unlock(&t->lock);
    }
    if (!atomic_load_explicit(&t->has_done, memory_order_relaxed))
        return;
    struct list done;
    list_init(&done);
    pthread_mutex_lock(&t->lock);
    atomic_store_explicit(&t->has_done, false, memory_order_relaxed);
    list_splice(&done, &t->done);
    pthread_mutex_unlock(&t->lock);
    for (struct list *node; (node = list_pop(&done)) != NULL;) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, link);
        io_finish(io, op, op->res);
    }
}

void
threads_close(struct io *io)
{
    struct threads *t = io->threads;
    LIST_FOR_EACH_SAFE(node, &io->all) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, all);
        if (op->kind == IO_KIND_FILE && op->state == IO_ON_THREAD)
            io_cancel(io, op);
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IO_CLOSE_MS / 1000;
    pthread_mutex_lock(&t->lock);
    t->io = NULL;
    pthread_cond_broadcast(&t->is_wanted);
    /* What still waits are closes, which a cancel leaves alone. */
    while ((t->running > 0 || !list_is_empty(&t->wanted)) &&
           pthread_cond_timedwait(&t->has_changed, &t->lock, &until) == 0) {
    }
    while (t->count > t->running && t->running == 0)
        pthread_cond_wait(&t->has_changed, &t->lock);
    struct list left, done;
    list_init(&left);
    list_init(&done);
    list_splice(&left, &t->wanted);
    list_splice(&done, &t->done);
    LIST_FOR_EACH_SAFE(node, &io->all) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, all);
        if (op->kind == IO_KIND_FILE && op->state == IO_ON_THREAD && list_is_empty(&op->link))
            list_del(&op->all); /* it runs, and its owner must leave it alone */
    }
    if (t->running > 0)
        log_warning("%u operations on files did not end within %d s of their cancel: they are left "
                    "behind",
                    t->running, IO_CLOSE_MS / 1000);
    io->threads = NULL;
    unlock_and_leave(t);
    for (struct list *node; (node = list_pop(&left)) != NULL;) {
        struct io_file *f = CONTAINER_OF(node, struct io_file, op.link);
        io_end(io, &f->op, io_file_run(f));
    }
    for (struct list *node; (node = list_pop(&done)) != NULL;) {
        struct io_op *op = CONTAINER_OF(node, struct io_op, link);
        io_end(io, op, op->res);
    }
}
