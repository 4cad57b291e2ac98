/* log_ring.h: finished log lines on their way to the process that writes them.
 *
 * One ring is memory that two processes share: any thread of one puts lines in, without a lock and without waiting; one thread of the
 * other takes them out. Whoever puts reserves room by moving `head`, fills it, and then says that it is whole; a process that dies in
 * between leaves a hole, which the other side steps over. All bytes that hold no line are zero: that is how a hole is told.
 *
 *          tail                          head
 *     0000 | line | line | being filled | 0000
 *
 * Lines that find no room are counted, not awaited. The one system call is the wake-up, when the other side has said that it sleeps. */
#ifndef RINGCORN_BASE_LOG_RING_H
#define RINGCORN_BASE_LOG_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LOG_RING_SIZE = 2 * 1024 * 1024, /* bytes; pages that no line was in yet are not there */
    LOG_LINE_MAX = 512 * 1024,       /* of one line */
};

enum log_kind { LOG_NONE, LOG_TO_ERROR, LOG_TO_ACCESS, LOG_PADDING };

/* Takes no memory but its own. Starts on a cache line each what one side writes. */
struct log_ring {
    _Alignas(64) _Atomic uint64_t head;       /* bytes reserved so far */
    _Atomic uint64_t lost;                    /* lines that found no room */
    _Alignas(64) _Atomic uint64_t tail;       /* bytes taken out so far */
    _Alignas(64) _Atomic uint32_t is_awaited; /* the other side sleeps until it is woken */
    _Alignas(64) char data[LOG_RING_SIZE];
};

/* Shared with every process that is forked from now on. fd NULL, or where a memfd of it goes (new, close-on-exec), for a process
 * that there is already. NULL: no memory, or no descriptor. */
struct log_ring *log_ring_new(int *fd);
/* The ring of such a memfd, which stays the caller's. NULL: no memory. */
struct log_ring *log_ring_map(int fd);
void log_ring_free(struct log_ring *r);

/* Any thread, async-signal-safe. at_ns: clock_ns(), for the order among several rings. False: no room, and counted. */
bool log_ring_put(struct log_ring *r, enum log_kind kind, int64_t at_ns, const char *p, size_t n);
/* After log_ring_put(): whether the other side sleeps; true once only, for who has to wake it. */
bool log_ring_must_wake(struct log_ring *r);

struct log_taken {
    enum log_kind kind;
    int64_t at_ns;
    const char *p; /* in the ring, until log_ring_step() */
    size_t n;
    uint64_t size; /* log_ring.c's */
};

/* The other side, one thread. The oldest line that is whole; false: there is none. is_final: nobody puts any more, so what is not whole
 * never will be; such lines are stepped over and counted in *torn. */
bool log_ring_look(struct log_ring *r, bool is_final, struct log_taken *out, uint64_t *torn);
/* Done with what was looked at. */
void log_ring_step(struct log_ring *r, const struct log_taken *taken);
/* From now on log_ring_must_wake() says so. True: something has come meanwhile, look again first. */
bool log_ring_await(struct log_ring *r);

#endif
