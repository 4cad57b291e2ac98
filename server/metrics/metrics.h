/* metrics.h: what the server counts, in memory that all its processes share.
 *
 *   metrics.c   the area: made by the master before it forks, and its blocks
 *   list.h      the one list of counters and gauges: fields, names for Prometheus, help
 *   pulse.h     the heartbeat of the loop
 *   text.c      as text for Prometheus      route.c  requests by the application's route
 *   spent.h     what one request has taken, and where that is known from
 *   advice.c    what would be better for a route, judged by its figures
 *   blocked.c   what has blocked the loop, for the master to tell
 *
 *     struct metrics ── master   what the master alone writes: restarts and their reasons
 *                    └─ blocks[] one a worker process
 *
 * A block belongs to one process at a time, from metrics_take() in the master, before the fork, to metrics_give() once that process
 * is reaped. It stays with its slot for ever: the next worker of the slot goes on counting where the last one ended, so counters
 * survive a respawn and a kill -9. While a replacement boots or an old worker drains, a slot has two blocks (or more); its counters
 * are the sums of theirs. Gauges begin at zero with each process, and are those of living processes only.
 *
 * Every counter has one writer at a time (the loop's thread, or whoever holds a crew's mutex), which loads, adds and stores: no locked
 * instruction. Readers are the master and all workers, at any time, without locks; each number is whole, two of them may be
 * a moment apart. Parts that different threads write lie on different cache lines.
 *
 * A process without a master (tests, the loop alone) counts into a block of its own that nobody reads. */
#ifndef RINGCORN_METRICS_H
#define RINGCORN_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/proc.h"

#include "base/slice.h"
#include "metrics/list.h"
#include "metrics/spent.h"

enum {
    METRICS_LAYOUT = 5,        /* changes with every change of a struct below */
    METRICS_SLOTS_MAX = 1024,  /* as many as there can be workers */
    METRICS_BLOCKS_MAX = 2048, /* untouched ones cost no memory */
    METRICS_BUCKETS = 18,      /* of a histogram, beside "more than all" */
    METRICS_ROUTES_MAX = 128,  /* of a worker; the first is "other" */
    METRICS_ROUTE_SIZE = 128,  /* bytes of a route's name, with its NUL */
    METRICS_PLACE_SIZE = 128,  /* of a line of code's */
    METRICS_POOLS = 2,         /* enum metrics_pool */
};

typedef _Atomic uint64_t metrics_u64;

/* The writer alone. */
static inline void
metrics_add(metrics_u64 *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline void
metrics_set(metrics_u64 *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}

static inline void
metrics_set_max(metrics_u64 *gauge, uint64_t value)
{
    if (value > atomic_load_explicit(gauge, memory_order_relaxed))
        metrics_set(gauge, value);
}

static inline uint64_t
metrics_get(const metrics_u64 *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

/* --- histograms of times --------------------------------------------------------------------------- */

struct metrics_histogram {
    metrics_u64 sum_ns;
    metrics_u64 buckets[METRICS_BUCKETS + 1]; /* not cumulated; the last: above all bounds */
};

/* 100 us to 60 s: 1, 2.5, 5 of each power of ten. */
extern const int64_t metrics_bounds_ns[METRICS_BUCKETS];

/* The writer alone. */
void metrics_observe(struct metrics_histogram *h, int64_t ns);

/* --- one worker's block ------------------------------------------------------------------------------ */

enum metrics_state {
    METRICS_FREE, /* no process has it; its counters count all the same */
    METRICS_BOOTING,
    METRICS_READY,
    METRICS_LEAVING, /* drains */
    METRICS_KILLED,  /* its stacks are asked for, or it was sent SIGKILL */
};

/* What the loop's thread does. */
enum metrics_doing {
    METRICS_STARTS,    /* the loop does not turn yet, or any more */
    METRICS_WAITS,     /* for events, or for a thread that has results soon */
    METRICS_IN_C,      /* parses, answers; no Python */
    METRICS_WANTS_GIL, /* has work for Python, and another thread has the GIL */
    METRICS_IN_PYTHON, /* runs Python */
};

/* Who has the block; the master writes it. */
struct metrics_worker {
    _Atomic uint32_t slot;
    _Atomic uint32_t generation; /* of the configuration it was forked with */
    _Atomic int32_t pid;         /* 0 = nobody's */
    _Atomic uint32_t state;      /* enum metrics_state */
    metrics_u64 started_at_s;    /* Unix time */
    metrics_u64 started_ns;      /* CLOCK_MONOTONIC, as all that ends in _ns here */
    metrics_u64 ready_ns;        /* 0 = not yet */
    metrics_u64 cpu_ns;          /* of processes that had it before */
};

/* The heartbeat: the loop's thread writes it, always (pulse.h, py/turn.c). A turn begins when a wait ends, and ends when the next one
 * begins. While doing is METRICS_WAITS nothing need change, for there is nothing to do. Otherwise now - begun_ns tells for how long the
 * loop has been in this turn: one that hangs stands still, a busy one turns. Of a turn that runs Python, step_ns tells since when the same
 * callback runs (begun_ns until there was one). */
struct metrics_pulse {
    _Atomic uint32_t doing;   /* enum metrics_doing */
    metrics_u64 turns;        /* begun */
    metrics_u64 python_turns; /* that ran Python, begun: the heartbeat of Python */
    metrics_u64 begun_ns;     /* the last turn */
    metrics_u64 ended_ns;     /* the last turn that ended; below begun_ns in the middle of one */
    metrics_u64 step_ns; /* when the callback or request that runs now, or ran last, was begun */
};

/* Methods and classes of status that are told apart. */
enum metrics_method {
    METRICS_GET,
    METRICS_HEAD,
    METRICS_POST,
    METRICS_PUT,
    METRICS_PATCH,
    METRICS_DELETE,
    METRICS_OPTIONS,
    METRICS_OTHER_METHOD,
    METRICS_METHODS,
};
enum { METRICS_CLASSES = 6 }; /* 1xx to 5xx at their digit; 0 = ended without an answer */

/* The loop's thread. */
struct metrics_loop {
    metrics_u64 requests[METRICS_METHODS][METRICS_CLASSES];
    struct metrics_histogram request; /* from a request's head to the last piece of its answer */
    struct metrics_histogram application; /* from the call of the application to the same */
    struct metrics_histogram turn;        /* of the loop: what everything else had to wait */
    struct metrics_histogram gil;         /* the loop's wait for the GIL */
#define X(field, ...) metrics_u64 field;
    METRICS_LOOP_COUNTERS(X)
    METRICS_LOOP_GAUGES(X)
#undef X
};

enum metrics_pool {
    METRICS_POOL_REQUESTS, /* sync.threads */
    METRICS_POOL_EXECUTOR, /* sync.executor_threads */
};

/* Whoever holds the crew's mutex. */
struct metrics_crew {
    struct metrics_histogram wait; /* of a request for a thread */
    /* Threads that run calls, as time: up to busy_at_ns, and how many have run since. */
    metrics_u64 busy_ns, busy_at_ns, busy_now;
#define X(field, ...) metrics_u64 field;
    METRICS_CREW_COUNTERS(X)
    METRICS_CREW_GAUGES(X)
#undef X
};

/* What answers a route. */
enum metrics_kind { METRICS_KIND_NEW, METRICS_KIND_UNKNOWN, METRICS_KIND_ASYNC, METRICS_KIND_DEF };

/* A route of the application: with the GIL held. name is written before the counters count, and never changes. */
struct metrics_route {
    _Atomic uint32_t is_named; /* released after name was written */
    char name[METRICS_ROUTE_SIZE];
    _Atomic uint32_t kind; /* enum metrics_kind; each process looks anew */
    /* The line of code at which a long step of it was found last: "" = none was. place_number is odd while the rest is written. */
    _Atomic uint32_t place_number;
    metrics_u64 place_at_ns;
    char place[METRICS_PLACE_SIZE];
#define X(field, ...) metrics_u64 field;
    METRICS_ROUTE_COUNTERS(X)
    METRICS_ROUTE_GAUGES(X)
#undef X
};

/* With the GIL. */
struct metrics_guard {
#define X(field, ...) metrics_u64 field;
    METRICS_GUARD_COUNTERS(X)
    METRICS_GUARD_GAUGES(X)
#undef X
};

/* The last block of the loop that an operator is to be told of: with the GIL. number is odd while the rest is written; see blocked.c. */
struct metrics_blocked {
    _Atomic uint32_t number;
    metrics_u64 held_ns; /* so far, when it was written */
    char by[768];        /* the line of code, or the thread, in words */
    char request[256], place[512], cure[256];
};

/* With the GIL. */
struct metrics_database {
#define X(field, ...) metrics_u64 field;
    METRICS_DATABASE_GAUGES(X)
#undef X
};

/* Of guard_events, by its kind: "lost". NULL: there is no such. */
metrics_u64 *metrics_guard_counter(struct metrics_guard *guard, const char *kind);

#define METRICS_LINE __attribute__((aligned(128))) /* two cache lines: they are fetched in pairs */

struct metrics_block {
    METRICS_LINE struct metrics_worker worker;
    METRICS_LINE struct metrics_pulse pulse;
    METRICS_LINE struct metrics_loop loop;
    struct {
        METRICS_LINE struct metrics_crew crew;
    } pools[METRICS_POOLS];
    METRICS_LINE struct metrics_guard guard;
    struct metrics_blocked blocked;
    struct metrics_database database;
    METRICS_LINE struct metrics_route routes[METRICS_ROUTES_MAX];
};

/* --- the area ----------------------------------------------------------------------------------------- */

/* Why a worker was started in place of another. */
enum metrics_restart {
    METRICS_RESTART_CRASH,    /* a signal that it did not expect */
    METRICS_RESTART_EXIT,     /* it ended by itself */
    METRICS_RESTART_KILLED,   /* by the master: it did not become ready, or did not leave */
    METRICS_RESTART_HANG,     /* its loop stood still */
    METRICS_RESTART_ASKED,    /* somebody sent it SIGTERM */
    METRICS_RESTART_RELOAD,   /* SIGHUP, files, USR2 */
    METRICS_RESTART_REQUESTS, /* max_requests */
    METRICS_RESTART_AGE,      /* max_age */
    METRICS_RESTART_MEMORY,   /* max_rss */
    METRICS_RESTARTS,
};

/* The master writes it. */
struct metrics_master {
    metrics_u64 started_at_s; /* Unix time */
    metrics_u64 wanted;       /* workers that should be */
    metrics_u64 generation;   /* of the configuration in force */
    metrics_u64 reloads, reloads_failed;
    struct {
        metrics_u64 why[METRICS_RESTARTS];
    } restarts[METRICS_SLOTS_MAX];
};

struct metrics {
    uint32_t layout; /* METRICS_LAYOUT */
    uint32_t block_bytes;
    _Atomic uint32_t blocks_n; /* that were ever taken: the first ones */
    METRICS_LINE struct metrics_master master;
    METRICS_LINE struct metrics_block blocks[METRICS_BLOCKS_MAX];
};

/* Shared with every process that is forked later, zeroed; *fd: a memfd of it, new (close-on-exec). NULL: no memory, or no descriptor. */
struct metrics *metrics_new(int *fd);
/* The same area in another program, which goes on counting there; fd stays the caller's. NULL: it is laid out otherwise, as that of
 * another version may be. */
struct metrics *metrics_adopt(int fd);
void metrics_free(struct metrics *m); /* NULL is fine */

/* The master, before it forks a worker into a slot: a block for it, gauges and heartbeat at zero, BOOTING; worker.pid is the caller's to
 * set. NULL where METRICS_BLOCKS_MAX processes have one each: that worker counts for itself. */
struct metrics_block *metrics_take(struct metrics *m, unsigned slot, unsigned generation,
                                   int64_t now_ns);
/* The process pid (0: there was none) is no more; cpu_ns: what it has used. NULL is fine, and so is a block that metrics_sweep() was quicker with. */
void metrics_give(struct metrics_block *b, pid_t pid, uint64_t cpu_ns);
/* Memory of the process that has the block (perhaps another master's, while one takes the place of the other), and the CPU that it and
 * those before it have used. */
struct proc_usage metrics_usage(const struct metrics_worker *w);
/* Gives what processes had that are no more, and whose master could not see it. */
void metrics_sweep(struct metrics *m);

/* Whoever counts without a master, and loops that are not the server's, count here; nobody reads it. */
extern struct metrics_block metrics_nowhere;
/* The block into which this process counts: never NULL. */
extern struct metrics_block *metrics_here;
/* A worker's first step. b NULL: one of its own. m NULL too where there is no master. */
void metrics_begin(struct metrics *m, struct metrics_block *b);
/* The area, as given to metrics_begin(). */
struct metrics *metrics_area(void);

/* --- route.c ------------------------------------------------------------------------------------------ */

/* A request of that route has ended. name: UTF-8, as the framework has it; of no bytes: none is told. place: the line of code at which a long step of
 * it was found, "" = not known. Returns the route. With the GIL. */
struct metrics_route *metrics_count_route(struct slice name, int status,
                                          const struct metrics_spent *spent, const char *place);

/* A copy of a route's figures, or the sum of several: plain numbers. */
struct metrics_route_sum {
    const char *name; /* in the area */
    enum metrics_kind kind;
    char place[METRICS_PLACE_SIZE];
    uint64_t place_at_ns;
#define X(field, ...) uint64_t field;
    METRICS_ROUTE_COUNTERS(X)
    METRICS_ROUTE_GAUGES(X)
#undef X
};

/* Of all workers, into routes[METRICS_ROUTES_MAX], the first of which is "other" and may have no requests. Returns how many there are. One
 * thread of the process at a time. */
unsigned metrics_gather_routes(const struct metrics *m, struct metrics_route_sum *routes);
/* For how long threads for requests have run calls, of all workers. */
uint64_t metrics_busy_ns(const struct metrics *m, int64_t now_ns);

/* --- blocked.c ---------------------------------------------------------------------------------------- */

/* Into this process's block. Texts are UTF-8, and cut where they do not fit. With the GIL. */
void metrics_tell_blocked(int64_t held_ns, const char *by, const char *request, const char *place,
                          const char *cure);
/* Copies what was told last, if its number is another than *number, which is then that one. False: it is not, or it is just being written.
 * Any process; whatever a worker has written there, the texts end. */
bool metrics_read_blocked(const struct metrics_block *b, uint32_t *number,
                          struct metrics_blocked *out);

/* --- text.c ------------------------------------------------------------------------------------------- */

struct buf;
/* Appends all of it, in Prometheus's text format 0.0.4 or as OpenMetrics 1.0. 0, or -ENOMEM with something less in out. One thread of
 * the process at a time. */
int metrics_text(const struct metrics *m, bool is_openmetrics, struct buf *out);

/* Blocks that were ever taken, in no order. */
#define METRICS_EACH(b, m)                                                                         \
    for (struct metrics_block *b = (m)->blocks, *b##_end = b + metrics_blocks(m); b < b##_end; b++)

/* How many those are: a worker could write anything there. */
static inline uint32_t
metrics_blocks(const struct metrics *m)
{
    uint32_t n = atomic_load_explicit(&m->blocks_n, memory_order_acquire);
    return n < METRICS_BLOCKS_MAX ? n : METRICS_BLOCKS_MAX;
}

#endif
