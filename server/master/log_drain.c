/* log_drain.c: the thread of the master that writes the logs.
 *
 * Runs on:  the thread; the functions of the header on the main thread. `lock` guards all but the sinks, which are the thread's alone. The
 *           thread holds it while it moves lines from rings to sinks (memory to memory), never while it waits or writes.
 * fork():   a lock that another thread holds at that moment stays locked in the child for ever: the allocator's, a library's, a sanitizer's.
 *           So the main thread forks with `lock` held, and without it the thread makes system calls alone. Its first steps are the C
 *           library's, which allocates; therefore it is waited for when it starts.
 * Always:   a source that has ended is freed by the thread, once its ring is empty. */
#include "log_drain.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/thread.h"

enum {
    SINK_SIZE = 4 * 1024 * 1024, /* bytes kept for a reader that is slow */
    PASS_MAX = SINK_SIZE / 2,    /* bytes moved before they are written */
    TICK_MS = 5,                 /* between two looks while there is something to do */
    FLUSH_MS = 1000,             /* flush() waits no longer */
    STOP_FLUSHES_MAX = 20,       /* for a reader that is slow when the server ends */
    SAY_MS = 1000,               /* the same complaint, once in so long */
    PIECE = 4096, /* PIPE_BUF: what a pipe that polls writable takes without blocking */
};

struct log_source {
    struct list node;
    struct log_ring *ring;
    const char *who; /* "worker" */
    unsigned slot;
    bool is_ended; /* nobody puts any more */
    bool has_line; /* `line` is what comes next */
    struct log_taken line;
    uint64_t torn, torn_said, lost_said;
};

/* A file that lines go to. */
struct sink {
    const char *name;
    int fd;      /* ours, or -1 */
    int next_fd; /* to be taken in its place; under the lock */
    bool is_changed;
    dev_t device;
    ino_t inode;
    bool is_file, is_socket; /* what fd is: a regular file never makes anybody wait for a reader */
    bool is_blocked;         /* it takes no more for now */
    char *bytes;
    size_t start, n;
    uint64_t lost,
        lost_bytes; /* lines for which there was no room; bytes that could not be written, */
    int lost_errno; /* and why */
};

struct log_drain {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t flushed; /* or begun */
    int wake_fd;
    struct list sources;
    struct log_source *own; /* the master's, one of them */
    struct sink error, access;
    bool is_one; /* both are the same file: all goes by error, so that there is one order */
    bool has_begun;
    bool is_stopping;
    uint64_t asked, done; /* numbers of flushes */
    uint64_t written;     /* bytes, or given up */
    int64_t said_ns;
};

/* --- sinks: the thread's -------------------------------------------------------------------------------------------------------- */

static int
sink_init(struct sink *s, const char *name)
{
    void *p = mmap(NULL, SINK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *s = (struct sink){ .name = name, .fd = -1, .next_fd = -1 };
    if (p == MAP_FAILED)
        return -ENOMEM;
    s->bytes = p;
    return 0;
}

static void
sink_fini(struct sink *s)
{
    if (s->bytes != NULL)
        munmap(s->bytes, SINK_SIZE);
    if (s->fd >= 0)
        close(s->fd);
    if (s->next_fd >= 0)
        close(s->next_fd);
}

/* Lock held. */
static void
sink_change(struct sink *s)
{
    struct stat st;
    if (!s->is_changed)
        return;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = fd_take(&s->next_fd);
    s->is_changed = false;
    s->is_blocked = false;
    bool is_known = s->fd >= 0 && fstat(s->fd, &st) == 0;
    s->is_file = is_known && S_ISREG(st.st_mode);
    s->is_socket = is_known && S_ISSOCK(st.st_mode);
    s->device = is_known ? st.st_dev : 0;
    s->inode = is_known ? st.st_ino : 0;
}

static void
sink_put(struct sink *s, const char *p, size_t n)
{
    if (s->fd < 0)
        return; /* a worker of an older configuration has an access log, the new one has none */
    if (s->start + s->n + n > SINK_SIZE && s->start > 0) {
        memmove(s->bytes, s->bytes + s->start, s->n);
        s->start = 0;
    }
    if (s->n + n > SINK_SIZE) {
        s->lost++;
        return;
    }
    memcpy(s->bytes + s->start + s->n, p, n);
    s->n += n;
}

/* One write, which does not wait for a reader. As write(2), with -EAGAIN as an errno. */
static ssize_t
sink_write(struct sink *s, const char *p, size_t n)
{
    if (s->is_file)
        return write(s->fd, p, n);
    if (s->is_socket)
        return send(s->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    /* Its flags belong to everybody who has it, so it stays blocking. */
    struct pollfd fd = { .fd = s->fd, .events = POLLOUT };
    if (poll(&fd, 1, 0) == 0) {
        errno = EAGAIN;
        return -1;
    }
    if (n > PIECE) { /* whole lines, so that what others write there does not get into one */
        const char *end = memrchr(p, '\n', PIECE);
        n = end != NULL ? (size_t)(end + 1 - p) : (size_t)PIECE;
    }
    return write(s->fd, p, n);
}

static void
sink_flush(struct sink *s)
{
    s->is_blocked = false;
    while (s->n > 0 && s->fd >= 0) {
        ssize_t done = sink_write(s, s->bytes + s->start, s->n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno == EAGAIN) {
            s->is_blocked = true;
            return;
        }
        if (done <= 0) { /* a full disk or a closed pipe: nobody will read these lines */
            s->lost_errno = errno;
            s->lost_bytes += s->n;
            done = (ssize_t)s->n;
        }
        s->start += (size_t)done;
        s->n -= (size_t)done;
    }
    if (s->n == 0)
        s->start = 0;
}

/* --- sources: lock held ----------------------------------------------------------------------------------------------------------- */

#define SOURCES_EACH(s, d)                                                                         \
    for (struct log_source *s = CONTAINER_OF((d)->sources.next, struct log_source, node);          \
         &s->node != &(d)->sources; s = CONTAINER_OF(s->node.next, struct log_source, node))

static struct log_source *
source_new(const char *who, unsigned slot, int *fd)
{
    struct log_source *s = calloc(1, sizeof(*s));
    if (s == NULL || (s->ring = log_ring_new(fd)) == NULL) {
        free(s);
        return NULL;
    }
    s->who = who;
    s->slot = slot;
    return s;
}

static void
source_free(struct log_source *s)
{
    list_del(&s->node);
    log_ring_free(s->ring);
    free(s);
}

static bool
look(struct log_source *s)
{
    if (!s->has_line)
        s->has_line = log_ring_look(s->ring, s->is_ended, &s->line, &s->torn);
    return s->has_line;
}

static size_t
move(struct log_drain *d, struct log_source *s)
{
    struct sink *to = s->line.kind != LOG_TO_ACCESS || d->is_one ? &d->error : &d->access;
    sink_put(to, s->line.p, s->line.n);
    size_t n = s->line.n;
    log_ring_step(s->ring, &s->line);
    s->has_line = false;
    return n;
}

/* Moves lines in the order of their times, up to PASS_MAX bytes. Returns how many bytes it were. */
static size_t
move_all(struct log_drain *d)
{
    size_t moved = 0;
    while (moved < PASS_MAX) {
        struct log_source *first = NULL;
        int64_t next_ns = INT64_MAX; /* of the others' */
        SOURCES_EACH(s, d) {
            if (!look(s))
                continue;
            if (first == NULL || s->line.at_ns < first->line.at_ns) {
                next_ns = first != NULL ? first->line.at_ns : next_ns;
                first = s;
            } else if (s->line.at_ns < next_ns) {
                next_ns = s->line.at_ns;
            }
        }
        if (first == NULL)
            break;
        do
            moved += move(d, first);
        while (moved < PASS_MAX && look(first) && first->line.at_ns <= next_ns);
    }
    return moved;
}

static void
say_sink(struct sink *s)
{
    if (s->lost > 0)
        log_warning("the %s log was not read fast enough: %llu lines lost", s->name,
                    (unsigned long long)s->lost);
    if (s->lost_bytes > 0)
        log_error("cannot write the %s log (%s): %llu bytes lost", s->name, strerror(s->lost_errno),
                  (unsigned long long)s->lost_bytes);
    s->lost = s->lost_bytes = 0;
}

/* Says what was lost, by a line like any other. A reader that does not read is told when it does. */
static void
say_losses(struct log_drain *d)
{
    int64_t now_ns = clock_ns();
    if (!d->is_stopping && now_ns - d->said_ns < SAY_MS * NS_PER_MS)
        return;
    bool has_said = false;
    SOURCES_EACH(s, d) {
        uint64_t lost = atomic_load_explicit(&s->ring->lost, memory_order_relaxed);
        if (lost > s->lost_said) {
            log_warning("%s %u logged faster than lines could be written: %llu lines lost", s->who,
                        s->slot, (unsigned long long)(lost - s->lost_said));
            s->lost_said = lost;
            has_said = true;
        }
        if (s->torn > s->torn_said) {
            log_warning("%s %u died while it wrote log lines: %llu lines lost", s->who, s->slot,
                        (unsigned long long)(s->torn - s->torn_said));
            s->torn_said = s->torn;
            has_said = true;
        }
    }
    has_said |= d->error.lost + d->error.lost_bytes + d->access.lost + d->access.lost_bytes > 0;
    if (!d->error.is_blocked && d->error.n < SINK_SIZE / 2) {
        say_sink(&d->error);
        if (!d->access.is_blocked)
            say_sink(&d->access);
    }
    if (has_said)
        d->said_ns = now_ns;
}

static void
free_ended(struct log_drain *d)
{
    for (struct list *node = d->sources.next; node != &d->sources;) {
        struct log_source *s = CONTAINER_OF(node, struct log_source, node);
        node = node->next;
        if (s->is_ended && !look(s) && s->torn == s->torn_said &&
            atomic_load_explicit(&s->ring->lost, memory_order_relaxed) == s->lost_said)
            source_free(s);
    }
}

/* Whether something has come meanwhile, or is to be done. */
static bool
await(struct log_drain *d)
{
    bool has_work = false;
    SOURCES_EACH(s, d)
        has_work |= s->is_ended || log_ring_await(s->ring);
    return has_work;
}

/* --- the thread --------------------------------------------------------------------------------------------------------------------- */

static bool
has_losses(const struct log_drain *d)
{
    return d->error.lost + d->error.lost_bytes + d->access.lost + d->access.lost_bytes > 0;
}

static void
sleep_for(struct log_drain *d, int ms)
{
    struct pollfd fds[] = {
        { .fd = d->wake_fd, .events = POLLIN },
        { .fd = d->error.is_blocked ? d->error.fd : -1, .events = POLLOUT },
        { .fd = d->access.is_blocked ? d->access.fd : -1, .events = POLLOUT },
    };
    /* While there is work, only time wakes it. */
    uint64_t n;
    (void)poll(ms < 0 ? fds : NULL, ms < 0 ? ARRAY_LEN(fds) : 0, ms);
    (void)!read(d->wake_fd, &n, sizeof(n));
}

static void *
run(void *self)
{
    struct log_drain *d = self;
    pthread_mutex_lock(&d->lock);
    d->has_begun = true;
    pthread_cond_broadcast(&d->flushed);
    pthread_mutex_unlock(&d->lock);
    for (;;) {
        pthread_mutex_lock(&d->lock);
        uint64_t asked = d->asked;
        bool is_stopping = d->is_stopping;
        sink_change(&d->error);
        sink_change(&d->access);
        d->is_one = d->error.inode != 0 && d->access.fd >= 0 && d->error.inode == d->access.inode &&
                    d->error.device == d->access.device;
        size_t moved = move_all(d), full = d->error.n + d->access.n;
        pthread_mutex_unlock(&d->lock);
        sink_flush(&d->error);
        sink_flush(&d->access);
        pthread_mutex_lock(&d->lock);
        d->written += full - d->error.n - d->access.n;
        say_losses(d);
        free_ended(d);
        bool is_done = moved == 0 && d->error.n == 0 && d->access.n == 0;
        if (is_done && d->done != asked) {
            d->done = asked;
            pthread_cond_broadcast(&d->flushed);
        }
        if (is_done && is_stopping) {
            pthread_mutex_unlock(&d->lock);
            return NULL;
        }
        bool is_urgent =
            moved >= PASS_MAX || d->done != d->asked || (d->is_stopping && !is_stopping);
        bool may_sleep = moved == 0 && !has_losses(d) && !await(d) && !is_urgent;
        pthread_mutex_unlock(&d->lock);
        if (may_sleep)
            sleep_for(d, -1);
        else if (!is_urgent || d->error.is_blocked || d->access.is_blocked)
            sleep_for(d, TICK_MS);
    }
}

/* --- the main thread's ----------------------------------------------------------------------------------------------------------------- */

static void
wake(struct log_drain *d)
{
    (void)!write(d->wake_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

struct log_drain *
log_drain_start(void)
{
    struct log_drain *d = calloc(1, sizeof(*d));
    if (d == NULL)
        return NULL;
    list_init(&d->sources);
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = sink_init(&d->error, "error") | sink_init(&d->access, "access");
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->flushed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    d->own = source_new("master", 0, NULL);
    if (err == 0 && d->wake_fd >= 0 && d->own != NULL) {
        list_add_tail(&d->sources, &d->own->node);
        /* No signal is its: a write to a closed pipe is to fail, not to kill. */
        err = thread_start(&d->thread, 0, run, d);
    } else {
        err = ENOMEM;
    }
    if (err != 0) {
        if (d->own != NULL) {
            log_ring_free(d->own->ring);
            free(d->own);
        }
        sink_fini(&d->error);
        sink_fini(&d->access);
        if (d->wake_fd >= 0)
            close(d->wake_fd);
        free(d);
        return NULL;
    }
    pthread_setname_np(d->thread, "ringcorn-logs");
    pthread_mutex_lock(&d->lock);
    while (!d->has_begun)
        pthread_cond_wait(&d->flushed, &d->lock);
    pthread_mutex_unlock(&d->lock);
    (void)log_set_ring(d->own->ring, d->wake_fd);
    return d;
}

/* Waits until what has been said so far is written, but not long. */
static void
flush(struct log_drain *d)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += FLUSH_MS / 1000;
    pthread_mutex_lock(&d->lock);
    uint64_t mine = ++d->asked;
    wake(d);
    int err = 0;
    while (d->done < mine && err == 0)
        err = pthread_cond_timedwait(&d->flushed, &d->lock, &until);
    pthread_mutex_unlock(&d->lock);
}

void
log_drain_stop(struct log_drain *d)
{
    (void)log_set_ring(NULL, -1);
    bool is_stuck = true;
    uint64_t written = UINT64_MAX;
    for (int i = 0; i < STOP_FLUSHES_MAX && is_stuck; i++) {
        flush(d);
        pthread_mutex_lock(&d->lock);
        is_stuck = d->done != d->asked;
        bool is_moving = d->written != written;
        written = d->written;
        pthread_mutex_unlock(&d->lock);
        if (is_stuck && !is_moving)
            break; /* whoever reads nothing now never will */
    }
    if (is_stuck) {
        /* Nothing is said of it: standard error may be what nobody reads, and would stop us for ever. */
        pthread_detach(d->thread);
        return; /* the process ends, and the thread and its memory with it */
    }
    pthread_mutex_lock(&d->lock);
    d->is_stopping = true;
    pthread_mutex_unlock(&d->lock);
    wake(d);
    pthread_join(d->thread, NULL);
    while (!list_is_empty(&d->sources))
        source_free(CONTAINER_OF(d->sources.next, struct log_source, node));
    sink_fini(&d->error);
    sink_fini(&d->access);
    pthread_cond_destroy(&d->flushed);
    pthread_mutex_destroy(&d->lock);
    close(d->wake_fd);
    free(d);
}

static void
change(struct sink *s, int fd)
{
    if (s->next_fd >= 0)
        close(s->next_fd);
    s->next_fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1) : -1;
    /* without a descriptor to spare the old file stays */
    s->is_changed = fd < 0 || s->next_fd >= 0;
}

void
log_drain_to(struct log_drain *d, int error_fd, int access_fd)
{
    pthread_mutex_lock(&d->lock);
    change(&d->error, error_fd);
    change(&d->access, access_fd);
    pthread_mutex_unlock(&d->lock);
    wake(d);
}

struct log_source *
log_drain_add(struct log_drain *d, const char *who, unsigned slot, int *fd)
{
    struct log_source *s = source_new(who, slot, fd);
    if (s == NULL)
        return NULL;
    pthread_mutex_lock(&d->lock);
    list_add_tail(&d->sources, &s->node);
    pthread_mutex_unlock(&d->lock);
    wake(d); /* a thread that sleeps has not told this ring so */
    return s;
}

void
log_drain_end(struct log_drain *d, struct log_source *source)
{
    if (source == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    source->is_ended = true;
    pthread_mutex_unlock(&d->lock);
    wake(d);
}

void
log_drain_hold(struct log_drain *d)
{
    pthread_mutex_lock(&d->lock);
}

void
log_drain_release(struct log_drain *d)
{
    pthread_mutex_unlock(&d->lock);
}

void
log_drain_become(struct log_drain *d, const struct log_source *source)
{
    (void)log_set_ring(source->ring, d->wake_fd);
    SOURCES_EACH(s, d)
        if (s != source)
            log_ring_free(s->ring);
    sink_fini(&d->error);
    sink_fini(&d->access);
}
