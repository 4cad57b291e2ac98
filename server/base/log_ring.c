/* log_ring.c: finished log lines on their way to the process that writes them. */
#include "log_ring.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "owned.h"

enum { UNIT = 16, SLACK_SHIFT = 8 };

/* In front of each line; a multiple of UNIT from the ring's start. */
struct record {
    /* Of all of it, a multiple of UNIT. Written first: as long as it is 0, nothing of the record is. */
    _Atomic uint32_t size;
    /* enum log_kind and, above it, how many bytes behind the line are none of it. Written last: not LOG_NONE is whole. */
    _Atomic uint32_t kind;
    int64_t at_ns;
};
_Static_assert(sizeof(struct record) == UNIT, "a record begins where another could");
_Static_assert((LOG_RING_SIZE & (LOG_RING_SIZE - 1)) == 0, "a power of two");
_Static_assert(LOG_LINE_MAX + UNIT <= LOG_RING_SIZE / 2, "a line fits with the padding before it");

struct log_ring *
log_ring_map(int fd)
{
    void *p = mmap(NULL, sizeof(struct log_ring), PROT_READ | PROT_WRITE,
                   fd >= 0 ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS, fd, 0);
    return p != MAP_FAILED ? p : NULL;
}

struct log_ring *
log_ring_new(int *fd)
{
    if (fd == NULL)
        return log_ring_map(-1);
    FD_OWNED int file = memfd_create("ringcorn-log", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, sizeof(struct log_ring)) < 0)
        return NULL;
    struct log_ring *r = log_ring_map(file);
    if (r != NULL)
        *fd = fd_take(&file);
    return r;
}

void
log_ring_free(struct log_ring *r)
{
    if (r != NULL)
        munmap(r, sizeof(*r));
}

static struct record *
record_at(struct log_ring *r, uint64_t at)
{
    return (struct record *)(r->data + (at & (LOG_RING_SIZE - 1)));
}

/* size first: who finds a record that is not whole knows where the next begins. */
static void
begin(struct record *record, uint32_t size)
{
    atomic_store_explicit(&record->size, size, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

bool
log_ring_put(struct log_ring *r, enum log_kind kind, int64_t at_ns, const char *p, size_t n)
{
    if (n > LOG_LINE_MAX)
        n = LOG_LINE_MAX;
    uint32_t size = (uint32_t)((n + sizeof(struct record) + UNIT - 1) & ~(size_t)(UNIT - 1));
    uint32_t padding;
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    do {
        uint64_t left = LOG_RING_SIZE - (head & (LOG_RING_SIZE - 1));
        padding = left < size ? (uint32_t)left : 0;
        int64_t used = (int64_t)(head - atomic_load_explicit(&r->tail, memory_order_acquire));
        if (used >= 0 && (uint64_t)used + padding + size >
                             LOG_RING_SIZE) { /* < 0: head is an old one, the exchange will fail */
            atomic_fetch_add_explicit(&r->lost, 1, memory_order_relaxed);
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&r->head, &head, head + padding + size,
                                                    memory_order_acq_rel, memory_order_relaxed));
    if (padding > 0) {
        struct record *record = record_at(r, head);
        begin(record, padding);
        atomic_store_explicit(&record->kind, LOG_PADDING, memory_order_release);
    }
    struct record *record = record_at(r, head + padding);
    begin(record, size);
    record->at_ns = at_ns;
    memcpy(record + 1, p, n);
    uint32_t slack = size - (uint32_t)sizeof(*record) - (uint32_t)n;
    atomic_store_explicit(&record->kind, (uint32_t)kind | slack << SLACK_SHIFT,
                          memory_order_release);
    return true;
}

bool
log_ring_must_wake(struct log_ring *r)
{
    /* Either this sees that it sleeps, or log_ring_await() sees the line. */
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&r->is_awaited, memory_order_relaxed) != 0 &&
           atomic_exchange_explicit(&r->is_awaited, 0, memory_order_relaxed) != 0;
}

/* --- the other side: what it reads here may have been written by a process that is mad, or hostile ------------------------- */

static uint64_t
tail_of(struct log_ring *r)
{
    return atomic_load_explicit(&r->tail, memory_order_relaxed) & ~(uint64_t)(UNIT - 1);
}

/* Zeroes n bytes at the tail, which lie in one piece, and gives them back. */
static void
give_back(struct log_ring *r, uint64_t n)
{
    uint64_t tail = tail_of(r), left = LOG_RING_SIZE - (tail & (LOG_RING_SIZE - 1));
    if (n > left)
        n = left;
    memset(record_at(r, tail), 0, n);
    atomic_store_explicit(&r->tail, tail + n, memory_order_release);
}

/* What lies here is no ring any more: the other process has written over it. */
static void
give_up(struct log_ring *r, uint64_t head)
{
    memset(r->data, 0, sizeof(r->data));
    head = (head + UNIT - 1) & ~(uint64_t)(UNIT - 1);
    atomic_store_explicit(&r->head, head, memory_order_relaxed);
    atomic_store_explicit(&r->tail, head, memory_order_release);
}

bool
log_ring_look(struct log_ring *r, bool is_final, struct log_taken *out, uint64_t *torn)
{
    bool is_in_hole = false;
    for (;;) {
        uint64_t tail = tail_of(r);
        uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);
        if (tail == head)
            return false;
        if (head % UNIT != 0 || head - tail > LOG_RING_SIZE) {
            ++*torn;
            give_up(r, head);
            return false;
        }
        struct record *record = record_at(r, tail);
        uint32_t kind = atomic_load_explicit(&record->kind, memory_order_acquire);
        uint32_t size = atomic_load_explicit(&record->size, memory_order_relaxed);
        if (kind == LOG_NONE && !is_final)
            return false;
        if (size == 0 &&
            is_final) { /* reserved, and no more: the next record is the next that is not zero */
            *torn += !is_in_hole;
            is_in_hole = true;
            give_back(r, UNIT);
            continue;
        }
        is_in_hole = false;
        uint64_t left = LOG_RING_SIZE - (tail & (LOG_RING_SIZE - 1)), slack = kind >> SLACK_SHIFT;
        if (size % UNIT != 0 || size < sizeof(*record) + slack || size > left ||
            size > head - tail || slack >= UNIT) {
            ++*torn;
            give_up(r, head);
            return false;
        }
        kind &= (1u << SLACK_SHIFT) - 1;
        if (kind != LOG_TO_ERROR && kind != LOG_TO_ACCESS) {
            *torn += kind != LOG_PADDING;
            give_back(r, size);
            continue;
        }
        *out = (struct log_taken){
            .kind = (enum log_kind)kind,
            .at_ns = record->at_ns,
            .p = (const char *)(record + 1),
            .n = size - sizeof(*record) - (size_t)slack,
            .size = size,
        };
        return true;
    }
}

void
log_ring_step(struct log_ring *r, const struct log_taken *taken)
{
    give_back(r, taken->size);
}

bool
log_ring_await(struct log_ring *r)
{
    atomic_store_explicit(&r->is_awaited, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    if (tail == atomic_load_explicit(&r->head, memory_order_relaxed))
        return false;
    return atomic_load_explicit(&record_at(r, tail)->kind, memory_order_acquire) != LOG_NONE;
}
