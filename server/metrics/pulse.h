/* pulse.h: how the loop's thread notes what it does, for whoever watches it. The loop's thread alone; readers are as in metrics.h. */
#ifndef RINGCORN_METRICS_PULSE_H
#define RINGCORN_METRICS_PULSE_H

#include "metrics/metrics.h"

static inline void
pulse_doing(struct metrics_block *b, enum metrics_doing doing)
{
    atomic_store_explicit(&b->pulse.doing, doing, memory_order_relaxed);
}

/* The turn ends: about to wait. */
static inline void
pulse_waits(struct metrics_block *b, int64_t now_ns)
{
    metrics_set(&b->pulse.ended_ns, (uint64_t)now_ns);
    pulse_doing(b, METRICS_WAITS);
    uint64_t begun_ns = metrics_get(&b->pulse.begun_ns);
    if (begun_ns == 0)
        return; /* the first */
    metrics_observe(&b->loop.turn, now_ns - (int64_t)begun_ns);
    metrics_set_max(&b->loop.turn_max_ns, (uint64_t)now_ns - begun_ns);
}

/* The wait is over: a turn begins. */
static inline void
pulse_turns(struct metrics_block *b, int64_t now_ns)
{
    metrics_set(&b->pulse.begun_ns, (uint64_t)now_ns);
    metrics_add(&b->pulse.turns, 1);
    pulse_doing(b, METRICS_IN_C);
}

/* Python runs from here on; what it runs first is told by pulse_step(). */
static inline void
pulse_python_begins(struct metrics_block *b)
{
    metrics_set(&b->pulse.step_ns, metrics_get(&b->pulse.begun_ns));
    metrics_add(&b->pulse.python_turns, 1);
    pulse_doing(b, METRICS_IN_PYTHON);
}

/* A callback, or a request, is begun. */
static inline void
pulse_step(struct metrics_block *b, int64_t now_ns)
{
    metrics_set(&b->pulse.step_ns, (uint64_t)now_ns);
}

#endif
