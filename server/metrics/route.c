/* route.c: requests by the application's routes ("/item/{id}"), as far as its framework tells them. Their number is bounded: from
 * METRICS_ROUTES_MAX on, and for names that are too long, they count as "other". A route keeps its place in the block for ever, so its
 * counters go on after a respawn.
 *
 * Runs on:  any thread, with the GIL: it is what makes the writers one. */
#include "metrics/metrics.h"

#include <string.h>

#include "base/base.h"

enum { HASHED = 4 * METRICS_ROUTES_MAX };

static struct metrics_block *known; /* the block that places[] is about */
static uint8_t places[HASHED];      /* index in routes; 0 = none */
static unsigned routes_n;           /* used, "other" included */

_Static_assert(METRICS_ROUTES_MAX <= UINT8_MAX, "an index fits into a byte");

/* Where name is, or would be. */
static unsigned
place_of(struct slice name)
{
    unsigned at = (unsigned)slice_hash(0, name) % HASHED;
    while (places[at] != 0) {
        const char *there = known->routes[places[at]].name;
        if (strlen(there) == name.n && memcmp(there, name.p, name.n) == 0)
            break;
        at = (at + 1) % HASHED;
    }
    return at;
}

static void
set_name(struct metrics_route *r, struct slice name)
{
    memcpy(r->name, name.p, name.n);
    r->name[name.n] = '\0';
    atomic_store_explicit(&r->is_named, 1, memory_order_release);
}

/* What the last worker of this slot has left. */
static void
learn(void)
{
    known = metrics_here;
    memset(places, 0, sizeof(places));
    if (!known->routes[0].is_named)
        set_name(&known->routes[0], SLICE("other"));
    for (routes_n = 1; routes_n < METRICS_ROUTES_MAX && known->routes[routes_n].is_named;
         routes_n++)
        places[place_of(slice_of(known->routes[routes_n].name))] = (uint8_t)routes_n;
}

static struct metrics_route *
find(struct slice name)
{
    if (UNLIKELY(known != metrics_here))
        learn();
    if (name.n >= METRICS_ROUTE_SIZE || memchr(name.p, '\0', name.n) != NULL || slice_is(name, "other"))
        return &known->routes[0];
    unsigned at = place_of(name);
    if (places[at] == 0 && routes_n < METRICS_ROUTES_MAX) {
        set_name(&known->routes[routes_n], name);
        places[at] = (uint8_t)routes_n++;
    }
    return &known->routes[places[at]];
}

void
metrics_count_route(struct slice name, int status, int64_t request_ns, int64_t thread_ns,
                    int64_t step_ns)
{
    struct metrics_route *r = find(name);
    metrics_add(&r->requests, 1);
    if (status >= 500)
        metrics_add(&r->errors, 1);
    metrics_add(&r->request_ns, request_ns > 0 ? (uint64_t)request_ns : 0);
    metrics_add(&r->thread_ns, thread_ns > 0 ? (uint64_t)thread_ns : 0);
    metrics_set_max(&r->step_max_ns, step_ns > 0 ? (uint64_t)step_ns : 0);
}
