/* headway.c: do those who have jobs get on with them, so that nobody else need be woken?
 *
 * Under the GIL eight threads run no more Python than one, and every hand-over of it costs two switches, which are dear where the kernel has
 * to wake an idle CPU for them. Locks that all requests take (each of Django's signals has one) make it worse: once several threads
 * are between two of them, they stop each other there at every request, for as long as requests wait. So a job that would need
 * one more thread waits as long as the others make headway:
 *
 *     a lease has a slot and no job, and its request has not yet had its turns of the loop     it is about to take its thread again
 *     a job has begun a moment ago                                                             its thread is about to take the next
 *     later, somebody has the GIL                                                              Python runs; two cannot
 *     later, nobody has it, and nobody again soon after                                        all wait: another shall run
 *     much later                                                                               this one has waited for long enough
 *
 * For jobs that need the loop the last row comes sooner, and lets in all who wait: a loop with much else to do would otherwise begin one job a
 * turn.
 *
 * Two looks, as the GIL is free for a moment also where a thread writes a line to a log. Where CPython's lock is out of reach the two
 * rows about it fall away.
 *
 * Several threads run once one of them was seen to wait, and go on for as long as there are jobs. Whether they still gain anything is
 * tried: of many that end a job beside others, one sleeps instead of taking the next. If the GIL is free then, it is woken again by the
 * rules above.
 *
 * Runs on:  any thread, lock held. */
#include "sync/crew.h"

#define FIRST_LOOK_NS (100 * 1000)
#define NEXT_LOOK_NS (50 * 1000)
#define STILL_NS (200 * 1000)
#define LONG_NS (NS_PER_MS)
enum { STEP_BACK_JOBS = 16 };

bool
headway_is_over(const struct crew *c, const struct lease *l)
{
    return READ(l->delivering) == 0 && READ(c->turn) - READ(l->delivered_turn) >= PARK_TURNS;
}

bool
headway_is_coming(struct crew *c)
{
    LIST_FOR_EACH(node, &c->holding) {
        if (!headway_is_over(c, CONTAINER_OF(node, struct lease, holding)))
            return true;
    }
    return false;
}

void
headway_begin(struct crew *c)
{
    c->headway.begun_ns = clock_ns();
    c->headway.looked_ns = 0;
    c->headway.was_free = false;
}

int64_t
headway_due_ns(const struct crew *c)
{
    const struct headway *h = &c->headway;
    if (h->locked == NULL)
        return h->begun_ns + LONG_NS;
    return h->looked_ns == 0 ? h->begun_ns + FIRST_LOOK_NS : h->looked_ns + NEXT_LOOK_NS;
}

bool
headway_is_made(struct crew *c)
{
    struct headway *h = &c->headway;
    int64_t now = clock_ns();
    if (now < headway_due_ns(c))
        return true;
    if (now - h->begun_ns >= LONG_NS)
        return false;
    bool was_free = h->was_free;
    h->looked_ns = now;
    h->was_free = __atomic_load_n(h->locked, __ATOMIC_RELAXED) == 0;
    return !(was_free && h->was_free);
}

bool
headway_stands_still(struct crew *c)
{
    return clock_ns() - c->headway.begun_ns >= STILL_NS;
}

bool
headway_steps_back(struct crew *c)
{
    return c->busy_n > 0 && c->headway.locked != NULL && ++c->headway.ended % STEP_BACK_JOBS == 0;
}
