/* look.c: what threads wait for, by looking at them now and then.
 *
 * A call that takes a second and uses no CPU waits: for a database, for a mail server, or for the GIL, which eight calls that
 * compute hand round. What to do about it is not the same, and nothing in Python tells which it is. The kernel does:
 * /proc/self/task/TID/syscall names the system call that a thread is in, with its arguments. A futex inside CPython's GIL is that;
 * recv() and poll() are the network.
 *
 * So a thread of ours looks at all that run a call, 50 times a second while there are such, at uneven distances, as calls can
 * have a rhythm. What they are found at counts, for their request, for the time since the last look. Calls pay nothing for it.
 * Where the kernel does not tell (a sandbox without that file), nothing counts, and nobody knows.
 *
 * Runs on:  its own thread, "ringcorn-look", never with the GIL; signals are blocked there.
 * Owns:     the thread; a reference to the crew. */
#include "sync/private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/thread.h"
#include "base/owned.h"

enum { LOOKS_MAX = 256 }; /* threads at a time; of more, these stand for none of the others */

#define NEXT_NS (20 * NS_PER_MS)
#define REST_NS (100 * NS_PER_MS) /* when nothing has run for LINGER_NS */
#define LINGER_NS (2 * NS_PER_S)

static struct {
    pthread_t thread;
    bool is_running;
    int stop; /* an eventfd */
    int loop_tid;
    struct crew *crew;
    const char *gil_from, *gil_to; /* NULL: not known */
    uint64_t random;
} g = { .stop = -1 };

/* The first argument. */
static uint64_t
argument(const char *text)
{
    char *end;
    return strtoull(text, &end, 16);
}

static bool
is_socket(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Does it wait for a socket, or for a pipe of a process? */
static enum metrics_looked
polls_what(const char *text)
{
    char *rest;
    struct pollfd fds[8];
    void *from = (void *)(uintptr_t)strtoull(text, &rest, 16);
    size_t n = (size_t)strtoull(rest, NULL, 16);
    struct iovec mine = { fds, (n < ARRAY_LEN(fds) ? n : ARRAY_LEN(fds)) * sizeof(fds[0]) };
    struct iovec its = { from, mine.iov_len };
    /* It may return meanwhile, and the memory be another's, or gone: read as a stranger's. */
    ssize_t got = n > 0 ? process_vm_readv(getpid(), &mine, 1, &its, 1, 0) : -1;
    for (size_t i = 0; got > 0 && i < (size_t)got / sizeof(fds[0]); i++)
        if (is_socket(fds[i].fd))
            return METRICS_LOOKED_NET;
    return METRICS_LOOKED_OTHER;
}

/* text: "running", or "NUMBER 0xARGUMENT ...", or "-1 ..." where it waits outside of any system call, for a page perhaps. */
static enum metrics_looked
judge(const char *text)
{
    char *rest;
    if (strncmp(text, "running", 7) == 0)
        return METRICS_LOOKED_RUN;
    long number = strtol(text, &rest, 10);
    if (rest == text)
        return METRICS_LOOKED_OTHER;
    switch (number) {
    case SYS_futex: {
        const char *word = (const char *)(uintptr_t)argument(rest);
        return g.gil_from != NULL && word >= g.gil_from && word < g.gil_to ? METRICS_LOOKED_GIL
                                                                           : METRICS_LOOKED_OTHER;
    }
#ifdef SYS_poll
    case SYS_poll:
#endif
    case SYS_ppoll:
        return polls_what(rest);
#ifdef SYS_poll
    case SYS_epoll_wait:
#endif
    case SYS_epoll_pwait: /* an event loop of its own, or a driver */
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_connect:
    case SYS_accept4:
        return METRICS_LOOKED_NET;
    case SYS_read:
    case SYS_readv:
    case SYS_write:
    case SYS_writev:
        return is_socket((int)argument(rest)) ? METRICS_LOOKED_NET : METRICS_LOOKED_OTHER;
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
        return METRICS_LOOKED_SLEEP;
    default:
        return METRICS_LOOKED_OTHER;
    }
}

static enum metrics_looked
look_at(int tid)
{
    char path[64], text[160];
    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return METRICS_LOOKED_KINDS; /* not known */
    text[n] = '\0';
    return judge(text);
}

/* Returns whether there was anybody. */
static bool
look(int64_t since_ns)
{
    static struct crew_look looks[LOOKS_MAX];
    static enum metrics_looked found[LOOKS_MAX];
    struct crew *c = g.crew;
    if (READ(c->busy_n) == 0)
        return false;
    size_t n = crew_look_begin(c, looks, LOOKS_MAX);
    for (size_t i = 0; i < n; i++)
        found[i] = look_at(looks[i].tid);
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < n; i++)
        if (found[i] < METRICS_LOOKED_KINDS)
            crew_look_end(c, &looks[i], found[i], since_ns);
    pthread_mutex_unlock(&c->lock);
    return n > 0;
}

/* The loop's, which may have lost the GIL in the middle of a step: who has it now keeps everybody waiting, and not that step. */
static bool
look_at_loop(int64_t now_ns, int64_t since_ns)
{
    const struct metrics_pulse *p = &metrics_here->pulse;
    int64_t step_ns = (int64_t)metrics_get(&p->step_ns);
    if (atomic_load_explicit(&p->doing, memory_order_relaxed) != METRICS_IN_PYTHON ||
        now_ns - step_ns < LOOP_LONG_STEP_NS)
        return false;
    bool is_waiting = look_at(g.loop_tid) == METRICS_LOOKED_GIL;
    if (is_waiting && (int64_t)metrics_get(&p->step_ns) == step_ns)
        loop_found_waiting(step_ns, since_ns < now_ns - step_ns ? since_ns : now_ns - step_ns);
    return is_waiting;
}

/* In the middle of it after `ns`: from a half of that to three halves. */
static int64_t
uneven(int64_t ns)
{
    g.random ^= g.random << 13;
    g.random ^= g.random >> 7;
    g.random ^= g.random << 17;
    return ns / 2 + (int64_t)(g.random % (uint64_t)ns);
}

static void *
run(void *unused)
{
    int64_t last_ns = clock_ns(), busy_ns = 0;
    uint64_t jobs = 0;
    (void)prctl(PR_SET_NAME, "ringcorn-look");
    for (;;) {
        struct pollfd fd = { .fd = g.stop, .events = POLLIN };
        int64_t rest_ns = uneven(last_ns - busy_ns < LINGER_NS ? NEXT_NS : REST_NS);
        struct timespec rest = { 0, rest_ns };
        if (ppoll(&fd, 1, &rest, NULL) > 0)
            return unused;
        int64_t now_ns = clock_ns();
        /* A look that comes late, as we got no CPU, does not know what was before. */
        int64_t since_ns = now_ns - last_ns < 2 * REST_NS ? now_ns - last_ns : REST_NS;
        last_ns = now_ns;
        bool was_any = jobs != metrics_get(&g.crew->metrics->jobs);
        jobs = metrics_get(&g.crew->metrics->jobs);
        if (look(since_ns) | look_at_loop(now_ns, since_ns) | was_any)
            busy_ns = now_ns;
    }
}

void
looks_start(PyObject *pool)
{
    if (g.is_running)
        return;
    g.crew = pool_crew(pool);
    g.loop_tid = (int)syscall(SYS_gettid);
    (void)py_gil_memory(&g.gil_from, &g.gil_to);
    g.random = (uint64_t)clock_ns() | 1;
    g.stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = g.stop < 0 ? errno : 0;
    if (err == 0)
        err = thread_start(&g.thread, 0, run, NULL);
    g.is_running = err == 0;
    if (g.is_running) {
        atomic_fetch_add(&g.crew->refs, 1);
        return;
    }
    if (g.stop >= 0)
        close(fd_take(&g.stop));
    log_warning("nobody looks at what threads wait for (ringcornctl advise): %s", strerror(err));
}

void
looks_stop(void)
{
    if (!g.is_running)
        return;
    uint64_t one = 1;
    ssize_t n = write(g.stop, &one, sizeof(one));
    (void)n; /* an eventfd takes it */
    Py_BEGIN_ALLOW_THREADS pthread_join(g.thread, NULL);
    Py_END_ALLOW_THREADS g.is_running = false;
    close(fd_take(&g.stop));
    crew_release(g.crew);
}

void
looks_forget(void)
{
    if (g.stop >= 0)
        close(fd_take(&g.stop));
    g.is_running = false;
}
