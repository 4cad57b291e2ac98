/* timers.c: call_later() and call_at(): a 4-ary heap on (when, seq). A cancelled handle stays in
 * it, marked, until it comes up or until more than half are cancelled, as in asyncio: cancelling
 * costs no search.
 *
 * Runs on:  any thread with the GIL; next_ns is read without. */
#include "py/private.h"

#include <math.h>
#include <stdlib.h>

enum {
    ARITY = 4,
    TIMERS_CAP_FIRST = 64,
    COMPACT_MIN = 100, /* asyncio's _MIN_SCHEDULED_TIMER_HANDLES */
};

void
timers_init(struct timers *t)
{
    *t = (struct timers){ .next_ns = INT64_MAX };
}

static bool
is_before(const struct timer_entry *a, const struct timer_entry *b)
{
    return a->when < b->when || (a->when == b->when && a->seq < b->seq);
}

static void
note_next(struct timers *t)
{
    int64_t next = INT64_MAX;
    if (t->count > 0) {
        /* Rounded up: a wake-up that comes too early would only have to wait again. */
        double ns = ceil(t->heap[0].when * 1e9);
        if (ns < 9e18)
            next = ns > 0 ? (int64_t)ns : 0;
    }
    __atomic_store_n(&t->next_ns, next, __ATOMIC_RELAXED);
}

static void
sift_up(struct timers *t, size_t i)
{
    struct timer_entry entry = t->heap[i];
    while (i > 0) {
        size_t parent = (i - 1) / ARITY;
        if (!is_before(&entry, &t->heap[parent]))
            break;
        t->heap[i] = t->heap[parent];
        i = parent;
    }
    t->heap[i] = entry;
}

static void
sift_down(struct timers *t, size_t i)
{
    struct timer_entry entry = t->heap[i];
    for (;;) {
        size_t first = i * ARITY + 1;
        if (first >= t->count)
            break;
        size_t end = first + ARITY < t->count ? first + ARITY : t->count;
        size_t least = first;
        for (size_t child = first + 1; child < end; child++)
            if (is_before(&t->heap[child], &t->heap[least]))
                least = child;
        if (!is_before(&t->heap[least], &entry))
            break;
        t->heap[i] = t->heap[least];
        i = least;
    }
    t->heap[i] = entry;
}

int
timers_push(struct timers *t, struct timer_handle *h)
{
    if (t->count == t->cap) {
        size_t cap = t->cap != 0 ? t->cap * 2 : TIMERS_CAP_FIRST;
        struct timer_entry *heap = realloc(t->heap, cap * sizeof *heap);
        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        t->heap = heap;
        t->cap = cap;
    }
    t->heap[t->count] = (struct timer_entry){
        .when = h->when,
        .seq = t->seq++,
        .handle = (struct timer_handle *)Py_NewRef((PyObject *)h),
    };
    h->scheduled = true;
    sift_up(t, t->count++);
    note_next(t);
    return 0;
}

static struct timer_handle *
take_first(struct timers *t)
{
    struct timer_handle *h = t->heap[0].handle;
    h->scheduled = false;
    t->cancelled -= h->base.cancelled;
    t->heap[0] = t->heap[--t->count];
    if (t->count > 0)
        sift_down(t, 0);
    note_next(t);
    return h;
}

struct timer_handle *
timers_pop(struct timers *t, double end)
{
    if (t->count == 0 || !(t->heap[0].when < end))
        return NULL;
    return take_first(t);
}

/* Releases a chain of handles that are in no heap any more. */
static void
release(struct timer_handle *chain)
{
    while (chain != NULL) {
        struct timer_handle *h = chain;
        chain = h->next;
        h->next = NULL;
        Py_DECREF(h);
    }
}

void
timers_cancelled(struct timers *t)
{
    t->cancelled++;
    /* At the top it would wake the loop for nothing. */
    struct timer_handle *dead = NULL;
    while (t->count > 0 && t->heap[0].handle->base.cancelled) {
        struct timer_handle *h = take_first(t);
        h->next = dead;
        dead = h;
    }
    if (t->count > COMPACT_MIN && t->cancelled > t->count / 2) {
        size_t kept = 0;
        for (size_t i = 0; i < t->count; i++) {
            struct timer_handle *h = t->heap[i].handle;
            if (h->base.cancelled) {
                h->scheduled = false;
                h->next = dead;
                dead = h;
            } else {
                t->heap[kept++] = t->heap[i];
            }
        }
        t->count = kept;
        t->cancelled = 0;
        for (size_t i = kept / ARITY + 1; i-- > 0;)
            if (i < kept)
                sift_down(t, i);
        note_next(t);
    }
    release(dead);
}

void
timers_clear(struct timers *t)
{
    struct timer_handle *dead = NULL;
    for (size_t i = 0; i < t->count; i++) {
        t->heap[i].handle->scheduled = false;
        t->heap[i].handle->next = dead;
        dead = t->heap[i].handle;
    }
    t->count = t->cancelled = 0;
    note_next(t);
    release(dead);
}

void
timers_fini(struct timers *t)
{
    free(t->heap);
    timers_init(t);
}
