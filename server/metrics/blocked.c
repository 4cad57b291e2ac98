/* blocked.c: what has blocked a loop, from the worker that has seen it to the master, which tells it (events.command, events.webhook).
 *
 * One place for the last of them: who looks once a second has no use for more, as events of one kind are held back for longer than
 * that. The number tells a reader that there is another, and whether it has read half of one. */
#include "metrics/metrics.h"

#include <stdio.h>
#include <string.h>

/* Cut between two characters. */
static void
put(char *to, size_t size, const char *text)
{
    size_t n = strnlen(text, size);
    if (n == size)
        for (n = size - 1; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80; n--)
            ;
    memcpy(to, text, n);
    to[n] = '\0';
}

void
metrics_tell_blocked(int64_t held_ns, const char *by, const char *request, const char *place,
                     const char *cure)
{
    struct metrics_blocked *to = &metrics_here->blocked;
    uint32_t number = atomic_load_explicit(&to->number, memory_order_relaxed) | 1;
    /* Odd, also after one that died in here. */
    atomic_store_explicit(&to->number, number, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    metrics_set(&to->held_ns, (uint64_t)held_ns);
    put(to->by, sizeof(to->by), by);
    put(to->request, sizeof(to->request), request);
    put(to->place, sizeof(to->place), place);
    put(to->cure, sizeof(to->cure), cure);
    atomic_store_explicit(&to->number, number + 1, memory_order_release);
}

bool
metrics_read_blocked(const struct metrics_block *b, uint32_t *number, struct metrics_blocked *out)
{
    const struct metrics_blocked *from = &b->blocked;
    uint32_t before = atomic_load_explicit(&from->number, memory_order_acquire);
    if (before == *number || before % 2 != 0)
        return false;
    memcpy((void *)out, (const void *)from, sizeof(*out));
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&from->number, memory_order_relaxed) != before)
        return false;
    out->by[sizeof(out->by) - 1] = out->request[sizeof(out->request) - 1] = '\0';
    out->place[sizeof(out->place) - 1] = out->cure[sizeof(out->cure) - 1] = '\0';
    *number = before;
    return true;
}
