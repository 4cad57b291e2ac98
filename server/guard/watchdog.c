/* watchdog.c: notices that a step of the loop takes too long, while it does.
 *
 * Runs on:  its own thread, "ringcorn-guard", never with the GIL; signals are blocked there.
 * Owns:     the thread, and the file that tells for how long the loop's thread had no CPU. */
#include "guard/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/base.h"
#include "base/owned.h"
#include "base/thread.h"
#include "metrics/metrics.h"

static const int64_t later_ns[] = { NS_PER_S, 10 * NS_PER_S }; /* told of again after so long */
enum {
    REST_NS_MIN = 5 * 1000 * 1000,
    END_NS = 25 * 1000 * 1000,   /* how exactly the end of a block is known */
    GIL_NS = 1000 * 1000 * 1000, /* C code that keeps the GIL for so long is told of */
    /* who waits for the GIL looks again after CPython's switch interval, 5 ms */
    PIECE_NS = 10 * 1000 * 1000,
    PIECES_MAX = 5, /* waits for the GIL are excused for so many times block_ns */
};
static const int64_t minute_ns = 60 * NS_PER_S, window_ns = NS_PER_S;

/* Steps that take so long have a place in the figures of their routes; five a second are looked at, as that takes the GIL. A step that has begun
 * a while ago, when the watchdog happens to look, may become one. */
#define PLACE_NS (METRICS_LONG_STEP_NS + METRICS_LONG_STEP_NS / 5)
#define PLACE_WHILE_NS (NS_PER_MS)
static const int64_t place_rest_ns = NS_PER_S / 5;

static struct {
    pthread_t thread;
    bool is_running;
    int stop;      /* an eventfd */
    int schedstat; /* of the loop's thread; -1: this kernel does not tell */
    int64_t block_ns;
    atomic_bool is_serving;
} g = { .stop = -1, .schedstat = -1 };

struct guard_look
guard_look(void)
{
    const struct metrics_pulse *p = &metrics_here->pulse;
    for (;;) {
        struct guard_look look = { .turns = metrics_get(&p->turns) };
        uint32_t doing = atomic_load(&p->doing);
        look.wants_gil = doing == METRICS_WANTS_GIL;
        look.is_busy = look.wants_gil || doing == METRICS_IN_PYTHON;
        look.since_ns = (int64_t)metrics_get(look.wants_gil ? &p->begun_ns : &p->step_ns);
        atomic_thread_fence(memory_order_seq_cst);
        if (look.turns == metrics_get(&p->turns) && doing == atomic_load(&p->doing))
            return look;
    }
}

bool
guard_is_same(const struct guard_look *a, const struct guard_look *b)
{
    return a->is_busy && b->is_busy && a->turns == b->turns && a->since_ns == b->since_ns &&
           a->wants_gil == b->wants_gil;
}

/* How the loop's thread fares, since it was made. */
struct fare {
    int64_t ran_ns, starved_ns; /* starved: it was ready to run and others had the CPU */
    int64_t slices;             /* times that it was given a CPU */
};

static struct fare
fare_now(void)
{
    char text[96];
    ssize_t n = g.schedstat < 0 ? -1 : pread(g.schedstat, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return (struct fare){ 0 };
    text[n] = '\0';
    char *at = text;
    int64_t ran_ns = (int64_t)strtoull(at, &at, 10), starved_ns = (int64_t)strtoull(at, &at, 10);
    return (struct fare){ ran_ns, starved_ns, (int64_t)strtoull(at, NULL, 10) };
}

/* Of the last second or two: it has waited for a CPU for half as long as it had one. So did our other threads, then, also the one that
 * has the GIL. */
static struct window {
    struct fare last, before;
    int64_t since_ns;
    bool is_overload;
} recent;

static void
note(struct window *w, struct fare now, int64_t now_ns)
{
    if (now_ns - w->since_ns >= window_ns) {
        w->before = w->last;
        w->last = now;
        w->since_ns = now_ns;
    }
    w->is_overload = now.starved_ns - w->before.starved_ns > (now.ran_ns - w->before.ran_ns) / 2;
}

static bool
is_traced(void)
{
    char text[4096];
    FD_OWNED int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return false;
    text[n] = '\0';
    const char *line = strstr(text, "\nTracerPid:");
    return line != NULL && strtol(line + strlen("\nTracerPid:"), NULL, 10) != 0;
}

/* The end of the step: the next one of the same turn has begun, or the turn has ended. */
static int64_t
ended_ns(const struct guard_look *was, int64_t now_ns)
{
    const struct metrics_pulse *p = &metrics_here->pulse;
    int64_t step_ns = (int64_t)metrics_get(&p->step_ns),
            turn_ns = (int64_t)metrics_get(&p->ended_ns);
    if (metrics_get(&p->turns) == was->turns && step_ns > was->since_ns)
        return step_ns;
    return metrics_get(&p->turns) <= was->turns + 1 && turn_ns > was->since_ns ? turn_ns : now_ns;
}

/* What the watchdog knows of the step that it watches. */
struct watched {
    struct guard_look at;
    int64_t excused_ns; /* does not count */
    int64_t pieces_ns;  /* of that: waits for the GIL */
    struct fare fare;   /* when it was first seen, or before */
    struct fare seen;   /* when it was first seen, or excused last */
    int64_t seen_ns;
    unsigned level; /* how many times it was told of */
    bool gil_is_told;
};

static int64_t
limit_ns(unsigned level)
{
    if (level > 0)
        return level <= ARRAY_LEN(later_ns) ? later_ns[level - 1] : INT64_MAX;
    return atomic_load(&g.is_serving) || g.block_ns > NS_PER_S ? g.block_ns : NS_PER_S;
}

static void
ask(enum guard_ask what, const struct watched *w, int64_t held_ns)
{
    unsigned level = w->level;
    if (what == GUARD_BLOCKED && level == 0 && limit_ns(0) >= later_ns[0])
        level = 1; /* said as one of that length; no second line for the same second */
    blame_ask(&(struct guard_question){ .what = what,
                                        .at = w->at,
                                        .held_ns = held_ns,
                                        .level = level,
                                        .is_serving = atomic_load(&g.is_serving) });
}

static void
tell_gil(struct watched *w, int64_t now_ns)
{
    if (w->level == 0 || w->gil_is_told || blame_waits_ns(now_ns) < GIL_NS)
        return;
    w->gil_is_told = true;
    log_warning("the event loop is blocked for %.1f s by C code that keeps the GIL: no other "
                "thread of Python runs either; the "
                "place is told when it lets go",
                (double)(now_ns - w->at.since_ns) / NS_PER_S);
}

enum judgement { ITS_OWN, NOT_KNOWN_YET, FOR_THE_GIL };

/* Does a step hold the loop by what it does, or does it wait for the GIL, which a thread has that gets no CPU? Such a wait is in small
 * pieces, unlike one for a lock, a socket or a file. */
static enum judgement
judge(const struct watched *w, int64_t now_ns, struct fare now)
{
    if (!recent.is_overload || w->level > 0 || w->pieces_ns >= PIECES_MAX * g.block_ns)
        return ITS_OWN;
    int64_t time = now_ns - w->seen_ns, ran = now.ran_ns - w->seen.ran_ns;
    int64_t waited = time - ran - (now.starved_ns - w->seen.starved_ns);
    int64_t slices = now.slices - w->seen.slices;
    if (time < g.block_ns / 2)
        return NOT_KNOWN_YET;
    return slices > 0 && waited > ran && waited / slices < PIECE_NS ? FOR_THE_GIL : ITS_OWN;
}

/* Of a step that is not told of yet. Returns when to look for it again, at the latest. */
static int64_t
find_place(const struct watched *w, int64_t now_ns)
{
    static int64_t asked_ns;
    int64_t held_ns = now_ns - w->at.since_ns;
    if (w->level > 0 || w->at.wants_gil || held_ns < PLACE_WHILE_NS ||
        now_ns - asked_ns < place_rest_ns || !atomic_load(&g.is_serving))
        return INT64_MAX;
    if (held_ns < PLACE_NS)
        return w->at.since_ns + PLACE_NS;
    asked_ns = now_ns;
    blame_ask(&(struct guard_question){ .what = GUARD_PLACE, .at = w->at, .held_ns = held_ns });
    return INT64_MAX;
}

/* One look. before: at the look before. Returns when to take the next. */
static int64_t
look(struct watched *w, int64_t now_ns, int64_t late_ns, struct fare before, struct fare now)
{
    struct guard_look at = guard_look();
    bool is_same = guard_is_same(&at, &w->at);
    if (!is_same) {
        if (w->level > 0)
            ask(GUARD_OVER, w, ended_ns(&w->at, now_ns) - w->at.since_ns);
        *w = (struct watched){ .at = at, .fare = before, .seen = now, .seen_ns = now_ns };
    }
    if (!at.is_busy)
        return now_ns + g.block_ns;
    w->excused_ns += late_ns;
    int64_t held_ns = now_ns - at.since_ns - w->excused_ns - (now.starved_ns - w->fare.starved_ns);
    int64_t limit = limit_ns(w->level);
    if (held_ns >= limit) {
        enum judgement judgement = judge(w, now_ns, now);
        if (judgement == NOT_KNOWN_YET)
            return now_ns + g.block_ns / 2;
        if (judgement == FOR_THE_GIL) {
            w->excused_ns += held_ns;
            w->pieces_ns += held_ns;
            w->seen = now;
            w->seen_ns = now_ns;
            return now_ns + g.block_ns;
        }
        if (is_traced()) {
            w->excused_ns += held_ns;
            return now_ns + g.block_ns;
        }
        ask(GUARD_BLOCKED, w, now_ns - at.since_ns);
        while (limit_ns(w->level) <= held_ns)
            w->level++;
        limit = limit_ns(w->level);
    }
    tell_gil(w, now_ns);
    int64_t rest = limit - held_ns, place_ns = find_place(w, now_ns);
    int64_t most = w->level > 0 ? END_NS : g.block_ns; /* another step may begin just now */
    if (rest > most)
        rest = most;
    int64_t next_ns = now_ns + (rest > REST_NS_MIN ? rest : REST_NS_MIN);
    return next_ns < place_ns ? next_ns : place_ns;
}

static void *
run(void *unused)
{
    struct watched w = { 0 };
    struct fare now = fare_now();
    int64_t due_ns = clock_ns() + g.block_ns, told_ns = 0;
    recent = (struct window){ .last = now, .before = now, .since_ns = clock_ns() };
    (void)prctl(PR_SET_NAME, "ringcorn-guard");
    for (;;) {
        struct pollfd fd = { .fd = g.stop, .events = POLLIN };
        int64_t rest_ns = due_ns - clock_ns();
        struct timespec rest = { rest_ns > 0 ? rest_ns / NS_PER_S : 0,
                                 rest_ns > 0 ? rest_ns % NS_PER_S : 0 };
        if (ppoll(&fd, 1, &rest, NULL) > 0)
            return unused;
        int64_t now_ns = clock_ns();
        struct fare before = now;
        if (now_ns < due_ns)
            continue;
        now = fare_now();
        note(&recent, now, now_ns);
        /* We were not run either: by a little, for want of CPU, which is counted anyway. */
        int64_t late_ns = now_ns - due_ns > g.block_ns / 2 ? now_ns - due_ns : 0;
        due_ns = look(&w, now_ns, late_ns, before, now);
        if (w.level > 0 && told_ns == 0)
            told_ns = now_ns;
        if (told_ns != 0 && now_ns - told_ns >= minute_ns) {
            told_ns = 0;
            ask(GUARD_MINUTE, &w, 0);
        }
    }
}

static void
close_files(void)
{
    if (g.stop >= 0)
        close(fd_take(&g.stop));
    if (g.schedstat >= 0)
        close(fd_take(&g.schedstat));
}

void
guard_start(PyObject *loop, struct asgi *asgi, int64_t block_ns)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%ld/schedstat", (long)syscall(SYS_gettid));
    g.block_ns = block_ns;
    g.schedstat = open(path, O_RDONLY | O_CLOEXEC);
    g.stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = g.stop < 0 ? -errno : blame_start(loop, asgi);
    if (err == 0) {
        err = -thread_start(&g.thread, 0, run, NULL);
        g.is_running = err == 0;
    }
    if (err < 0) {
        blame_stop();
        close_files();
        log_warning("nobody watches for what blocks the event loop (guard.loop_block): %s",
                    strerror(-err));
    }
}

void
guard_serving(bool is_serving)
{
    atomic_store(&g.is_serving, is_serving);
}

void
guard_stop(void)
{
    if (!g.is_running)
        return;
    uint64_t one = 1;
    ssize_t n = write(g.stop, &one, sizeof(one));
    (void)n; /* an eventfd takes it */
    Py_BEGIN_ALLOW_THREADS pthread_join(g.thread, NULL);
    Py_END_ALLOW_THREADS g.is_running = false;
    blame_stop();
    close_files();
}

void
guard_forget(void)
{
    g.is_running = false;
    close_files();
    blame_forget();
}
