/* spent.h: what one request has taken, as far as it is known when it ends, and where that is known from.
 *
 * All of it is always counted, so it must cost next to nothing. What is exact: times of whole requests and of whole calls on threads, waits for
 * a thread, numbers of calls, steps of the loop of a millisecond and more. What is measured on some and scaled up:
 *
 *   CPU            reading the clock of a thread's CPU is a system call. It is read around one of so many steps of the loop and calls on threads
 *                  (base/meter.h), picked at random; each counts for as many. Where there are few of them all are measured.
 *   short steps    the same ones: whose step it is, is looked up for these only.
 *   waits          what a thread waits for, nobody tells. A few times a second all threads that run a call are looked at (sync/look.c), and what
 *                  they are found at counts for the time since the last look.
 *
 * So sums are right for a route that has had many requests, and a single request's figures need not be. */
#ifndef RINGCORN_METRICS_SPENT_H
#define RINGCORN_METRICS_SPENT_H

#include <stdint.h>

/* What a thread is found at. */
enum metrics_looked {
    METRICS_LOOKED_RUN,   /* it runs, or would if there were a CPU for it */
    METRICS_LOOKED_GIL,   /* waits for the GIL */
    METRICS_LOOKED_NET,   /* for a socket: recv(), poll(), connect() */
    METRICS_LOOKED_SLEEP, /* sleeps */
    METRICS_LOOKED_OTHER, /* for something else: a lock, a file, a process */
    METRICS_LOOKED_KINDS,
};

/* On threads. */
struct metrics_calls {
    uint32_t hops;
    int64_t wait_ns;              /* for a thread, or a slot */
    int64_t cpu_ns;               /* scaled up */
    int64_t driver_ns;            /* in a database's driver */
    int64_t looked_driver_gil_ns; /* of looked_ns[METRICS_LOOKED_GIL]: on its way back from there */
    int64_t looked_ns[METRICS_LOOKED_KINDS];
};

/* On the loop. */
struct metrics_steps {
    int64_t ns, cpu_ns; /* scaled up */
    int64_t gil_ns;     /* the turns of its steps waited for the GIL; scaled up */
    uint64_t gil_turn;  /* the last of those turns */
    int64_t max_ns;
    int64_t long_ns;
    int64_t long_gil_ns; /* of it: found waiting for the GIL, which it had lost */
    uint32_t long_n;     /* steps of METRICS_LONG_STEP_NS and more */
};

#define METRICS_LONG_STEP_NS (10 * 1000 * 1000)

struct metrics_spent {
    int64_t request_ns;
    int64_t thread_ns; /* of calls on threads, from their hand-over to their end */
    struct metrics_calls calls;
    struct metrics_steps steps;
};

/* A step of the loop. */
struct metrics_step {
    int64_t ns, cpu_ns;
    int64_t gil_ns;      /* what its turn has waited for the GIL, before it */
    int64_t lost_ns;     /* of ns: it was found waiting for the GIL */
    uint64_t turn;       /* which that was */
    uint32_t stands_for; /* how many like it, with itself */
};

static inline void
metrics_step(struct metrics_steps *s, const struct metrics_step *step)
{
    s->ns += step->ns * step->stands_for;
    s->cpu_ns += step->cpu_ns * step->stands_for;
    if (s->gil_turn != step->turn) /* whoever has several steps in a turn has waited once */
        s->gil_ns += step->gil_ns * step->stands_for;
    s->gil_turn = step->turn;
    s->max_ns = step->ns > s->max_ns ? step->ns : s->max_ns;
    if (step->ns >= METRICS_LONG_STEP_NS) {
        s->long_ns += step->ns;
        s->long_gil_ns += step->lost_ns;
        s->long_n++;
    }
}

#endif
