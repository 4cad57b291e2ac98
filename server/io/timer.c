/* timer.c: the timing wheel for connection deadlines.
 *
 * A slot holds the timers of one tick, or of one a whole turn later. A timer never hangs in a later slot than its
 * deadline asks; it may hang in an earlier one (the deadline was moved, or is more than a turn away) and is filed again
 * when that one is run. A bit map of slots in use finds the next one without walking 512 lists. */
#include <string.h>

#include "io/io.h"

#define TICK_NS (WHEEL_TICK_MS * NS_PER_MS)

/* The first tick that does not lie before the deadline. */
static int64_t
tick_of(int64_t due_ns)
{
    return due_ns / TICK_NS + (due_ns % TICK_NS > 0);
}

static unsigned
slot_of(int64_t tick)
{
    return (unsigned)(tick % WHEEL_SLOTS);
}

static void
mark(struct wheel *w, unsigned slot, bool is_used)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);
    if (is_used)
        w->used[slot / 64] |= bit;
    else
        w->used[slot / 64] &= ~bit;
}

void
wheel_init(struct wheel *w, int64_t now_ns)
{
    for (unsigned i = 0; i < WHEEL_SLOTS; i++)
        list_init(&w->slots[i]);
    memset(w->used, 0, sizeof(w->used));
    w->tick = now_ns / TICK_NS;
    w->count = 0;
}

void
timer_init(struct timer *t, timer_fn fn)
{
    *t = (struct timer){ .fn = fn };
    list_init(&t->link);
}

static void
file(struct wheel *w, struct timer *t)
{
    int64_t tick = tick_of(t->due_ns);
    if (tick <= w->tick)
        tick = w->tick + 1;
    if (tick > w->tick + WHEEL_SLOTS)
        tick = w->tick + WHEEL_SLOTS;
    t->filed_ns = tick * TICK_NS;
    list_add_tail(&w->slots[slot_of(tick)], &t->link);
    mark(w, slot_of(tick), true);
    w->count++;
}

static void
unfile(struct wheel *w, struct timer *t)
{
    if (list_is_empty(&t->link))
        return;
    unsigned slot = slot_of(t->filed_ns / TICK_NS);
    list_del(&t->link);
    if (list_is_empty(&w->slots[slot]))
        mark(w, slot, false);
    w->count--;
}

void
timer_set(struct wheel *w, struct timer *t, int64_t due_ns)
{
    t->due_ns = due_ns > 0 ? due_ns : 1; /* 0 means not set */
    if (!list_is_empty(&t->link)) {
        if (t->due_ns >= t->filed_ns)
            return; /* the slot it hangs in will file it again */
        unfile(w, t);
    }
    file(w, t);
}

void
timer_clear(struct wheel *w, struct timer *t)
{
    unfile(w, t);
    t->due_ns = 0;
}

static void
run_tick(struct wheel *w)
{
    unsigned slot = slot_of(w->tick);
    struct list batch;
    struct list *node;
    if (list_is_empty(&w->slots[slot]))
        return;
    /* A callback may clear, set or free any timer, also one of this batch: each is unlinked from wherever it hangs. */
    list_init(&batch);
    list_splice(&batch, &w->slots[slot]);
    mark(w, slot, false);
    while ((node = list_pop(&batch)) != NULL) {
        struct timer *t = CONTAINER_OF(node, struct timer, link);
        w->count--;
        if (tick_of(t->due_ns) > w->tick) {
            file(w, t);
        } else {
            t->due_ns = 0;
            t->fn(t);
        }
    }
}

void
wheel_advance(struct wheel *w, int64_t now_ns)
{
    int64_t target = now_ns / TICK_NS;
    /* After a long sleep every slot is run once, not once for each turn that was slept through. */
    if (w->tick < target - WHEEL_SLOTS)
        w->tick = target - WHEEL_SLOTS;
    while (w->tick < target) {
        w->tick++;
        run_tick(w);
    }
}

int64_t
wheel_next_ns(const struct wheel *w)
{
    if (w->count == 0)
        return -1;
    unsigned first = slot_of(w->tick + 1);
    /* From the word that holds the next tick, around, and back to the part of that word before it. */
    for (unsigned i = 0; i <= WHEEL_SLOTS / 64; i++) {
        unsigned word = (first / 64 + i) % (WHEEL_SLOTS / 64);
        uint64_t bits = w->used[word];
        if (i == 0)
            bits &= ~UINT64_C(0) << (first % 64);
        if (bits == 0)
            continue;
        unsigned slot = word * 64 + (unsigned)__builtin_ctzll(bits);
        unsigned distance = (slot - first) % WHEEL_SLOTS;
        return (w->tick + 1 + distance) * TICK_NS;
    }
    return (w->tick + 1) * TICK_NS; /* only timers of a batch that is being run */
}
