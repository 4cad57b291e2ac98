/* test_timer.c: the timing wheel against a plain list, from a seed. */
#include <stdlib.h>
#include <string.h>

#include "io/io.h"
#include "tap.h"

enum { TIMERS = 300, STEPS = 20000 };

#define TICK (WHEEL_TICK_MS * NS_PER_MS)

static struct wheel wheel;
static int64_t now;

static uint64_t rng_state;

static uint64_t
rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* --- random operations, also from callbacks ------------------------------------------------------------------------*/

static struct timer timers[TIMERS];
static int64_t model[TIMERS]; /* 0 = not set */
static int early, unexpected, fired;

static int64_t
random_due(void)
{
    switch (rng() % 5) {
    case 0:
        return now - (int64_t)(rng() % (2 * NS_PER_S));
    case 1:
        return now + (int64_t)(rng() % (TICK * 3));
    case 2:
        return now + (int64_t)(rng() % (WHEEL_SLOTS * TICK));
    case 3:
        return now + (int64_t)(rng() % (5 * WHEEL_SLOTS * TICK));
    default:
        return (now / TICK + (int64_t)(rng() % 10)) * TICK; /* exactly on a tick */
    }
}

static void
change_one(void)
{
    int i = (int)(rng() % TIMERS);
    if (rng() % 4 == 0) {
        timer_clear(&wheel, &timers[i]);
        model[i] = 0;
        return;
    }
    int64_t due = random_due();
    timer_set(&wheel, &timers[i], due);
    model[i] = due > 0 ? due : 1;
}

static void
on_random(struct timer *t)
{
    int i = (int)(t - timers);
    fired++;
    unexpected += model[i] == 0 || t->due_ns != 0;
    early += model[i] > now;
    model[i] = 0;
    if (rng() % 3 == 0)
        change_one();
}

static void
test_random(uint64_t seed)
{
    rng_state = seed;
    now = 1 + (int64_t)(rng() % (1000 * NS_PER_S));
    fired = early = unexpected = 0;
    int late = 0, next_late = 0, miscounted = 0;
    wheel_init(&wheel, now);
    for (int i = 0; i < TIMERS; i++) {
        timer_init(&timers[i], on_random);
        model[i] = 0;
    }
    for (int step = 0; step < STEPS; step++) {
        for (int i = (int)(rng() % 4); i > 0; i--)
            change_one();
        int64_t next = wheel_next_ns(&wheel);
        unsigned set = 0;
        for (int i = 0; i < TIMERS; i++) {
            set += model[i] != 0;
            /* What is due in the future must not be slept over: its tick ends before two ticks after it. */
            if (model[i] != 0 && (next < 0 || (next > model[i] + TICK && next > now + TICK)))
                next_late++;
        }
        miscounted += set != wheel.count;
        int64_t jump = rng() % 100 == 0 ? 3 * WHEEL_SLOTS * TICK : 4 * TICK;
        now += (int64_t)(rng() % (uint64_t)jump);
        wheel_advance(&wheel, now);
        for (int i = 0; i < TIMERS; i++) {
            /* Timers set by callbacks behind the tick being run may need the next tick. */
            if (model[i] != 0 && model[i] <= now - 2 * TICK && timers[i].filed_ns <= now - TICK)
                late++;
        }
    }
    ok(early == 0, "seed %llu: none of %d fired before its deadline", (unsigned long long)seed,
       fired);
    ok(late == 0, "seed %llu: none was late", (unsigned long long)seed);
    ok(unexpected == 0, "seed %llu: none fired that was not set", (unsigned long long)seed);
    ok(next_late == 0, "seed %llu: wheel_next_ns() never too late", (unsigned long long)seed);
    ok(miscounted == 0, "seed %llu: the count is the number of set timers",
       (unsigned long long)seed);
    for (int i = 0; i < TIMERS; i++)
        timer_clear(&wheel, &timers[i]);
    uint64_t used = 0;
    for (size_t i = 0; i < ARRAY_LEN(wheel.used); i++)
        used |= wheel.used[i];
    ok(wheel.count == 0 && used == 0 && wheel_next_ns(&wheel) == -1,
       "seed %llu: empty after clearing all", (unsigned long long)seed);
}

/* --- single cases ------------------------------------------------------------------------------------------------- */

struct owner {
    struct timer timer;
    int fired;
    struct owner *frees;
    bool rearms;
};

static int freed;

static void
on_owner(struct timer *t)
{
    struct owner *o = CONTAINER_OF(t, struct owner, timer);
    o->fired++;
    if (o->frees != NULL) {
        timer_clear(&wheel, &o->frees->timer);
        free(o->frees);
        freed++;
    }
    if (o->rearms)
        timer_set(&wheel, t, now);
}

static void
test_free_in_callback(void)
{
    now = 100 * TICK;
    wheel_init(&wheel, now);
    struct owner *a = calloc(1, sizeof(*a));
    struct owner *b = calloc(1, sizeof(*b));
    timer_init(&a->timer, on_owner);
    timer_init(&b->timer, on_owner);
    timer_set(&wheel, &a->timer, now + TICK);
    timer_set(&wheel, &b->timer, now + TICK);
    a->frees = b;
    now += TICK;
    wheel_advance(&wheel, now);
    ok(a->fired == 1 && freed == 1, "a callback frees another timer of the same tick");
    ok(wheel.count == 0, "nothing is left");
    free(a);
}

static void
test_rearm_at_once(void)
{
    now = 100 * TICK;
    wheel_init(&wheel, now);
    struct owner o = { .rearms = true };
    timer_init(&o.timer, on_owner);
    timer_set(&wheel, &o.timer, now);
    ok(o.fired == 0, "a deadline in the past does not fire inside timer_set()");
    for (int i = 0; i < 10; i++) {
        now += TICK;
        wheel_advance(&wheel, now);
    }
    ok(o.fired == 10, "a timer that sets itself to now fires once a tick (%d)", o.fired);
    o.rearms = false;
    now += 10000 * TICK;
    wheel_advance(&wheel, now);
    ok(o.fired == 11, "and once after a long sleep (%d)", o.fired);
}

static void
test_moving(void)
{
    now = 7 * TICK + 5;
    wheel_init(&wheel, now);
    struct owner o = { 0 };
    timer_init(&o.timer, on_owner);
    timer_set(&wheel, &o.timer, now + 10 * TICK);
    timer_set(&wheel, &o.timer, now + 75 * NS_PER_S); /* later: only the field */
    now += 20 * TICK;
    wheel_advance(&wheel, now);
    ok(o.fired == 0, "moved later: did not fire at the old deadline");
    timer_set(&wheel, &o.timer, now + 2 * TICK); /* sooner */
    int64_t next = wheel_next_ns(&wheel);
    ok(next <= now + 3 * TICK, "moved sooner: the next wake-up is soon");
    now += 3 * TICK;
    wheel_advance(&wheel, now);
    ok(o.fired == 1, "moved sooner: fired");
    timer_set(&wheel, &o.timer, now + 3600 * NS_PER_S);
    int wakes = 0;
    int64_t due = o.timer.due_ns;
    while (o.fired == 1 && wakes < 1000) {
        now = wheel_next_ns(&wheel);
        wheel_advance(&wheel, now);
        wakes++;
    }
    ok(o.fired == 2 && now >= due && now <= due + TICK, "an hour ahead: fired on time");
    ok(wakes <= 120, "with few wake-ups on the way (%d)", wakes);
    wheel_advance(&wheel, now - 100 * TICK);
    ok(wheel.count == 0, "time that goes back does nothing");
}

int
main(void)
{
    for (uint64_t seed = 1; seed <= 10; seed++)
        test_random(seed * 7919);
    test_free_in_callback();
    test_rearm_at_once();
    test_moving();
    return tap_done();
}
