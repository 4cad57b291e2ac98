/* figures.h: what a live view draws, taken from the shared area (metrics/metrics.h): of one worker, or of all. Counters never fall while the
 * master lives, so whoever looks twice has rates and percentiles of the time between. The master's thread. */
#ifndef RINGCORN_MASTER_FIGURES_H
#define RINGCORN_MASTER_FIGURES_H

#include <stdint.h>

#include "base/json.h"
#include "metrics/metrics.h"

struct master;
struct child;

struct figures_pool {
    uint64_t threads, slots, busy, leased, waiting, refused;
};

struct figures {
    int64_t at_ns;
    uint64_t requests[METRICS_CLASSES];
    uint64_t request_ns; /* sum */
    uint64_t buckets[METRICS_BUCKETS + 1];
    uint64_t turns, turn_ns; /* of the loop, the one under way included */
    uint64_t turn_max_ns, gil_ns;
    uint64_t accepted, bytes_in, bytes_out;
    uint64_t handshake, idle, request, websocket, closing; /* connections */
    struct figures_pool pools[METRICS_POOLS];
    uint64_t database_connections;
    uint64_t cpu_ns, rss_bytes;
};

/* Of one process, its predecessors in the same block included. */
void figures_of_child(const struct child *c, struct figures *out);
/* Of all that there were and are. */
void figures_of_all(struct master *m, struct figures *out);
/* An object. */
void figures_put(struct json *j, const struct figures *f);
/* The histogram's bounds, in seconds: an array. */
void figures_put_bounds(struct json *j);
/* Workers started in place of another, by reason: an object. */
void figures_put_restarts(struct json *j, const struct metrics *m);

#endif
