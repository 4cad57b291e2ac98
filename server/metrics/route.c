/* route.c: requests by the application's routes ("/item/{id}"), as far as its framework tells them. Their number is bounded: from
 * METRICS_ROUTES_MAX on, for names that are too long, and where none is told, they count as "other". A route keeps its place in the block for ever, so its
 * counters go on after a respawn.
 *
 * Runs on:  any thread, with the GIL: it is what makes the writers one. */
#include "metrics/metrics.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/clock.h"

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
    for (unsigned i = 0; i < routes_n; i++)
        atomic_store_explicit(&known->routes[i].kind, METRICS_KIND_NEW, memory_order_relaxed);
}

static struct metrics_route *
find(struct slice name)
{
    if (UNLIKELY(known != metrics_here))
        learn();
    if (name.n == 0 || name.n >= METRICS_ROUTE_SIZE || memchr(name.p, '\0', name.n) != NULL ||
        slice_is(name, "other"))
        return &known->routes[0];
    unsigned at = place_of(name);
    if (places[at] == 0 && routes_n < METRICS_ROUTES_MAX) {
        set_name(&known->routes[routes_n], name);
        places[at] = (uint8_t)routes_n++;
    }
    return &known->routes[places[at]];
}

/* The least that the sum of counters needs: most requests have few of them. */
static inline void
add(metrics_u64 *counter, int64_t n)
{
    if (n > 0)
        metrics_add(counter, (uint64_t)n);
}

static void
set_place(struct metrics_route *r, const char *place)
{
    uint32_t number = atomic_load_explicit(&r->place_number, memory_order_relaxed) | 1;
    atomic_store_explicit(&r->place_number, number, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    metrics_set(&r->place_at_ns, (uint64_t)clock_ns());
    snprintf(r->place, sizeof(r->place), "%s", place);
    atomic_store_explicit(&r->place_number, number + 1, memory_order_release);
}

struct metrics_route *
metrics_count_route(struct slice name, int status, const struct metrics_spent *spent,
                    const char *place)
{
    struct metrics_route *r = find(name);
    metrics_add(&r->requests, 1);
    if (UNLIKELY(status >= 500))
        metrics_add(&r->errors, 1);
    add(&r->request_ns, spent->request_ns);
    const struct metrics_steps *steps = &spent->steps;
    if (steps->ns > 0) {
        add(&r->loop_ns, steps->ns);
        add(&r->loop_cpu_ns, steps->cpu_ns);
        add(&r->loop_gil_ns, steps->gil_ns);
        metrics_set_max(&r->step_max_ns, (uint64_t)steps->max_ns);
        if (UNLIKELY(steps->long_n > 0)) {
            metrics_add(&r->long_steps, steps->long_n);
            add(&r->long_step_ns, steps->long_ns);
            add(&r->long_gil_ns, steps->long_gil_ns);
            if (place[0] != '\0')
                set_place(r, place);
        }
    }
    const struct metrics_calls *calls = &spent->calls;
    if (calls->hops == 0)
        return r;
    metrics_add(&r->hops, calls->hops);
    add(&r->thread_ns, spent->thread_ns);
    add(&r->thread_cpu_ns, calls->cpu_ns);
    add(&r->slot_wait_ns, calls->wait_ns);
    add(&r->driver_ns, calls->driver_ns);
    add(&r->looked_driver_gil_ns, calls->looked_driver_gil_ns);
    add(&r->looked_run_ns, calls->looked_ns[METRICS_LOOKED_RUN]);
    add(&r->looked_gil_ns, calls->looked_ns[METRICS_LOOKED_GIL]);
    add(&r->looked_net_ns, calls->looked_ns[METRICS_LOOKED_NET]);
    add(&r->looked_sleep_ns, calls->looked_ns[METRICS_LOOKED_SLEEP]);
    add(&r->looked_other_ns, calls->looked_ns[METRICS_LOOKED_OTHER]);
    return r;
}

/* --- for readers: any process ------------------------------------------------------------------------- */

/* False: it is just being written, or there is none. */
static bool
read_place(const struct metrics_route *r, char place[METRICS_PLACE_SIZE], uint64_t *at_ns)
{
    uint32_t before = atomic_load_explicit(&r->place_number, memory_order_acquire);
    if (before == 0 || before % 2 != 0)
        return false;
    memcpy(place, r->place, METRICS_PLACE_SIZE);
    place[METRICS_PLACE_SIZE - 1] = '\0';
    *at_ns = metrics_get(&r->place_at_ns);
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&r->place_number, memory_order_relaxed) == before;
}

static void
add_route(struct metrics_route_sum *to, const struct metrics_route *from)
{
    char place[METRICS_PLACE_SIZE];
    uint64_t at_ns;
#define X(field, ...) to->field += metrics_get(&from->field);
    METRICS_ROUTE_COUNTERS(X)
#undef X
#define X(field, ...)                                                                              \
    if (metrics_get(&from->field) > to->field)                                                     \
        to->field = metrics_get(&from->field);
    METRICS_ROUTE_GAUGES(X)
#undef X
    if (read_place(from, place, &at_ns) && at_ns > to->place_at_ns) {
        memcpy(to->place, place, sizeof(place));
        to->place_at_ns = at_ns;
    }
    enum metrics_kind kind =
        (enum metrics_kind)atomic_load_explicit(&from->kind, memory_order_relaxed);
    if (kind > to->kind && kind <= METRICS_KIND_DEF)
        to->kind = kind;
}

unsigned
metrics_gather_routes(const struct metrics *m, struct metrics_route_sum *routes)
{
    static uint16_t known_places[HASHED];
    unsigned n = 1;
    memset(known_places, 0, sizeof(known_places));
    routes[0] = (struct metrics_route_sum){ .name = "other" };
    METRICS_EACH(b, (struct metrics *)m)
        for (unsigned i = 0; i < METRICS_ROUTES_MAX; i++) {
            const struct metrics_route *r = &b->routes[i];
            if (!atomic_load_explicit(&r->is_named, memory_order_acquire)) {
                if (i == 0)
                    continue; /* "other" may be nameless where later ones are not */
                break;
            }
            if (i == 0) {
                add_route(&routes[0], r);
                continue;
            }
            unsigned at = (unsigned)slice_hash(0, slice_of(r->name)) % HASHED;
            while (known_places[at] != 0 && strcmp(routes[known_places[at]].name, r->name) != 0)
                at = (at + 1) % HASHED;
            if (known_places[at] == 0 && n < METRICS_ROUTES_MAX) {
                routes[n] = (struct metrics_route_sum){ .name = r->name };
                known_places[at] = (uint16_t)n++;
            }
            add_route(&routes[known_places[at]], r); /* routes[0] where there is no room */
        }
    return n;
}

uint64_t
metrics_busy_ns(const struct metrics *m, int64_t now_ns)
{
    uint64_t sum = 0;
    METRICS_EACH(b, (struct metrics *)m) {
        const struct metrics_crew *c = &b->pools[METRICS_POOL_REQUESTS].crew;
        uint64_t at_ns = metrics_get(&c->busy_at_ns);
        sum += metrics_get(&c->busy_ns);
        if ((uint64_t)now_ns > at_ns)
            sum += metrics_get(&c->busy_now) * ((uint64_t)now_ns - at_ns);
    }
    return sum;
}
