/* lookout.h: whether it pays to look out for another thread's answer before one sleeps.
 *
 * To put a thread to sleep and to wake it costs some 4 us of CPU where both run on one CPU, and 20 to 70 where the kernel has to wake
 * an idle CPU for it, on virtual machines above all. An answer that comes within a few microseconds is had for less by looking. Whether answers
 * come so soon is learned: looking that paid is done again, looking that did not is given up, and tried again ever more rarely.
 * On one CPU, and on a busy machine, it never pays, and is hardly ever done.
 *
 * Plain memory, one owner. */
#ifndef RINGCORN_BASE_LOOKOUT_H
#define RINGCORN_BASE_LOOKOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

enum {
    LOOKOUT_NS = 30 * 1000, /* at most, where it has paid of late */
    /* at most, where it is tried: the other thread may have to be woken first */
    LOOKOUT_TRY_NS = 60 * 1000,
    LOOKOUT_CREDIT_MAX = 16,
    LOOKOUT_CREDIT_COST = 4, /* of one in vain */
    LOOKOUT_REST_MIN = 64,   /* times between two tries */
    LOOKOUT_REST_MAX = 4096,
};

struct lookout {
    unsigned credit;
    unsigned passed, rest; /* times not looked, of so many */
};

/* For how long to look this time; 0 = not at all. */
static inline int64_t
lookout_ns(struct lookout *o)
{
    if (o->credit > 0)
        return LOOKOUT_NS;
    if (++o->passed < o->rest)
        return 0;
    o->passed = 0;
    return LOOKOUT_TRY_NS;
}

static inline void
lookout_note(struct lookout *o, bool has_paid)
{
    if (has_paid) {
        o->credit = LOOKOUT_CREDIT_MAX;
        o->rest = LOOKOUT_REST_MIN;
    } else if (o->credit > 0) {
        o->credit = o->credit > LOOKOUT_CREDIT_COST ? o->credit - LOOKOUT_CREDIT_COST : 0;
    } else {
        o->rest = o->rest < LOOKOUT_REST_MIN       ? LOOKOUT_REST_MIN
                  : o->rest < LOOKOUT_REST_MAX / 2 ? o->rest * 2
                                                   : LOOKOUT_REST_MAX;
    }
}

static inline void
lookout_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
