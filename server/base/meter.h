/* meter.h: of which steps of the loop, and of which jobs of a thread, the CPU is measured.
 *
 * Reading a thread's CPU clock is a system call, 0.2 to 1 us. So it is read around some of the spells only, picked at random, and each of
 * these stands for as many as were not picked. At random, as spells come in patterns: every other one may be long. How many are picked goes
 * by how many there were in the tenth of a second before: all of them, while they are few.
 *
 * One thread each. */
#ifndef RINGCORN_BASE_METER_H
#define RINGCORN_BASE_METER_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/base.h"
#include "base/clock.h"

#define METER_WINDOW_NS (100 * NS_PER_MS)
enum {
    METER_PICKED_MAX = 16, /* of a window, about: some 0.3 ms of CPU in a second */
    METER_STANDS_MAX = 1024,
};

struct meter {
    uint64_t random;
    uint32_t every;      /* one of so many is picked: a power of two */
    uint32_t seen;       /* spells of this window */
    uint32_t stands_for; /* the spell that runs; 0 = it was not picked */
    int64_t window_ns;   /* its end */
    int64_t cpu_ns;      /* of the thread, when the spell that was picked last began */
};

static inline int64_t
meter_clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static inline void
meter_init(struct meter *m)
{
    *m = (struct meter){ .random = (uint64_t)clock_ns() | 1, .every = 1 };
}

/* A spell begins, about now. */
static inline void
meter_begin(struct meter *m, int64_t now_ns)
{
    if (UNLIKELY(now_ns >= m->window_ns)) {
        uint32_t every = 1;
        /* After a long rest nothing is known: a window that nothing was seen in. */
        if (now_ns - m->window_ns < METER_WINDOW_NS)
            while (every < METER_STANDS_MAX && m->seen / every > METER_PICKED_MAX)
                every *= 2;
        m->every = every;
        m->seen = 0;
        m->window_ns = now_ns + METER_WINDOW_NS;
    } else if (UNLIKELY(m->every == 1 && m->seen > 8 * METER_PICKED_MAX)) {
        m->every = 16; /* many of a sudden */
    }
    m->seen++;
    m->random ^= m->random << 13;
    m->random ^= m->random >> 7;
    m->random ^= m->random << 17;
    bool is_picked = (m->random >> 32 & (m->every - 1)) == 0;
    m->stands_for = is_picked ? m->every : 0;
    if (is_picked)
        m->cpu_ns = meter_clock_ns();
}

/* Of the spell that runs, which was picked. */
static inline int64_t
meter_cpu_ns(const struct meter *m)
{
    return meter_clock_ns() - m->cpu_ns;
}

#endif
