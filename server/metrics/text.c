/* text.c: the area as text for Prometheus: its own format 0.0.4, or OpenMetrics 1.0.
 *
 * Counters and histograms of a slot are the sums of its blocks', so they never fall, whoever dies and whoever is replaced. A
 * histogram's count is the sum of the buckets that were read, so the two agree.
 *
 * Runs in:  the master, any worker's loop thread; without locks. */
#include "metrics/metrics.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/proc.h"

#ifndef RINGCORN_VERSION
#define RINGCORN_VERSION "0.1.0.dev0"
#endif

enum {
    NONE = UINT16_MAX,
    MORE_MAX = 64,
    LABELS_MAX = MORE_MAX + 32,
};

enum type { COUNTER, GAUGE, HISTOGRAM, INFO };

struct text {
    struct buf *out;
    const struct metrics *m;
    bool is_open;       /* OpenMetrics */
    bool is_lost;       /* no memory */
    const char *family; /* the last one whose head was written */
    enum type type;
    unsigned slots_n;
    uint16_t first[METRICS_SLOTS_MAX]; /* block of a slot; NONE = it never had one */
    uint16_t next[METRICS_BLOCKS_MAX]; /* another of the same slot */
};

static void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
put(struct text *t, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    t->is_lost |= n < 0 || (size_t)n >= sizeof(line) || buf_append(t->out, line, (size_t)n) < 0;
}

/* A family's head, unless it is under way already. */
static void
family(struct text *t, enum type type, const char *name, const char *help)
{
    static const char *const types[] = { "counter", "gauge", "histogram", "info" };
    if (t->family != NULL && strcmp(t->family, name) == 0)
        return;
    t->family = name;
    t->type = type;
    /* OpenMetrics names the family, the older format the series. */
    const char *end = t->is_open ? "" : type == COUNTER ? "_total" : type == INFO ? "_info" : "";
    put(t, "# HELP ringcorn_%s%s %s\n", name, end, help);
    put(t, "# TYPE ringcorn_%s%s %s\n", name, end,
        type == INFO && !t->is_open ? "gauge" : types[type]);
}

static const char *
suffix(const struct text *t)
{
    return t->type == COUNTER ? "_total" : t->type == INFO ? "_info" : "";
}

static void
sample(struct text *t, const char *labels, uint64_t value)
{
    put(t, labels[0] != '\0' ? "ringcorn_%s%s{%s} %llu\n" : "ringcorn_%s%s%s %llu\n", t->family,
        suffix(t), labels, (unsigned long long)value);
}

static void
sample_s(struct text *t, const char *labels, uint64_t ns)
{
    put(t, labels[0] != '\0' ? "ringcorn_%s%s{%s} %.9g\n" : "ringcorn_%s%s%s %.9g\n", t->family,
        suffix(t), labels, (double)ns * 1e-9);
}

/* worker="N", and what more there is. */
static const char *
of_worker(char out[LABELS_MAX], unsigned slot, const char *more)
{
    snprintf(out, LABELS_MAX, "worker=\"%u\"%s%s", slot, more[0] != '\0' ? "," : "", more);
    return out;
}

/* --- sums ---------------------------------------------------------------------------------------- */

#define SLOTS_EACH(t, slot)                                                                        \
    for (unsigned slot = 0; slot < (t)->slots_n; slot++)                                           \
        if ((t)->first[slot] != NONE)

static void
sort(struct text *t)
{
    memset(t->first, 0xff, sizeof(t->first));
    unsigned n = metrics_blocks(t->m);
    for (unsigned i = n; i-- > 0;) {
        unsigned slot = t->m->blocks[i].worker.slot;
        if (slot >= METRICS_SLOTS_MAX)
            continue;
        t->next[i] = t->first[slot];
        t->first[slot] = (uint16_t)i;
        if (slot >= t->slots_n)
            t->slots_n = slot + 1;
    }
}

/* Of the number that lies at offset in the blocks of a slot. */
static uint64_t
sum(const struct text *t, unsigned slot, size_t offset)
{
    uint64_t n = 0;
    for (unsigned i = t->first[slot]; i != NONE; i = t->next[i])
        n += metrics_get((const metrics_u64 *)((const char *)&t->m->blocks[i] + offset));
    return n;
}

static uint64_t
largest(const struct text *t, unsigned slot, size_t offset)
{
    uint64_t most = 0;
    for (unsigned i = t->first[slot]; i != NONE; i = t->next[i]) {
        uint64_t n = metrics_get((const metrics_u64 *)((const char *)&t->m->blocks[i] + offset));
        most = n > most ? n : most;
    }
    return most;
}

static void
histogram(struct text *t, unsigned slot, size_t offset, const char *more)
{
    char labels[LABELS_MAX];
    uint64_t n = 0;
    of_worker(labels, slot, more);
    for (int i = 0; i <= METRICS_BUCKETS; i++) {
        n += sum(t, slot,
                 offset + offsetof(struct metrics_histogram, buckets) +
                     (size_t)i * sizeof(metrics_u64));
        char bound[24] = "+Inf";
        if (i < METRICS_BUCKETS) {
            snprintf(bound, sizeof(bound), "%g", (double)metrics_bounds_ns[i] * 1e-9);
            if (strpbrk(bound, ".e") == NULL)
                strcat(bound, ".0");
        }
        put(t, "ringcorn_%s_bucket{%s,le=\"%s\"} %llu\n", t->family, labels, bound,
            (unsigned long long)n);
    }
    put(t, "ringcorn_%s_sum{%s} %.9g\n", t->family, labels,
        (double)sum(t, slot, offset + offsetof(struct metrics_histogram, sum_ns)) * 1e-9);
    put(t, "ringcorn_%s_count{%s} %llu\n", t->family, labels, (unsigned long long)n);
}

/* --- what there is to tell ------------------------------------------------------------------------- */

static void
put_server(struct text *t)
{
    const struct metrics_master *master = &t->m->master;
    family(t, INFO, "build", "The version that runs.");
    sample(t, "version=\"" RINGCORN_VERSION "\"", 1);
    family(t, GAUGE, "start_time_seconds", "When the server was started, Unix time.");
    sample(t, "", metrics_get(&master->started_at_s));
    family(t, GAUGE, "config_generation",
           "The configuration in force: 1, and one more with each reload.");
    sample(t, "", metrics_get(&master->generation));
    family(t, COUNTER, "reloads", "Reloads that were done, and those that were given up.");
    sample(t, "result=\"done\"", metrics_get(&master->reloads));
    sample(t, "result=\"failed\"", metrics_get(&master->reloads_failed));
    family(t, GAUGE, "workers_wanted", "Workers that should be.");
    sample(t, "", metrics_get(&master->wanted));

    static const char *const states[] = { NULL, "booting", "ready", "leaving", "killed" };
    unsigned n[ARRAY_LEN(states)] = { 0 };
    METRICS_EACH(b, (struct metrics *)t->m) {
        unsigned state = b->worker.state;
        n[state < ARRAY_LEN(states) ? state : 0]++;
    }
    family(t, GAUGE, "workers", "Worker processes, by what they are at.");
    for (size_t i = 1; i < ARRAY_LEN(states); i++) {
        char labels[LABELS_MAX];
        snprintf(labels, sizeof(labels), "state=\"%s\"", states[i]);
        sample(t, labels, n[i]);
    }
    static const char *const reasons[METRICS_RESTARTS] = {
        "crash", "exit", "killed", "hang", "asked", "reload", "requests", "age", "memory",
    };
    family(t, COUNTER, "worker_restarts", "Workers started in place of another, by reason.");
    for (size_t i = 0; i < METRICS_RESTARTS; i++) {
        char labels[LABELS_MAX];
        uint64_t sum_n = 0;
        for (unsigned slot = 0; slot < METRICS_SLOTS_MAX; slot++)
            sum_n += metrics_get(&master->restarts[slot].why[i]);
        snprintf(labels, sizeof(labels), "reason=\"%s\"", reasons[i]);
        sample(t, labels, sum_n);
    }
}

/* What the kernel knows of a worker's processes: while one is replaced there are two. */
static void
put_processes(struct text *t)
{
    static uint64_t rss[METRICS_SLOTS_MAX], cpu_ns[METRICS_SLOTS_MAX]; /* one thread at a time */
    char labels[LABELS_MAX];
    SLOTS_EACH(t, slot) {
        rss[slot] = cpu_ns[slot] = 0;
        for (unsigned i = t->first[slot]; i != NONE; i = t->next[i]) {
            const struct metrics_worker *w = &t->m->blocks[i].worker;
            struct proc_usage usage = metrics_usage(w);
            rss[slot] += usage.rss_bytes;
            cpu_ns[slot] += (uint64_t)usage.cpu_ns;
        }
    }
    family(t, GAUGE, "worker_resident_memory_bytes",
           "Memory of a worker's processes, shared pages included.");
    SLOTS_EACH(t, slot)
        sample(t, of_worker(labels, slot, ""), rss[slot]);
    family(t, COUNTER, "worker_cpu_seconds",
           "CPU that a worker has used, its predecessors included.");
    SLOTS_EACH(t, slot)
        sample_s(t, of_worker(labels, slot, ""), cpu_ns[slot]);
    family(t, GAUGE, "worker_start_time_seconds",
           "When a worker's process was started, Unix time: the newer one where there are two.");
    SLOTS_EACH(t, slot) {
        uint64_t newest = 0;
        for (unsigned i = t->first[slot]; i != NONE; i = t->next[i]) {
            const struct metrics_worker *w = &t->m->blocks[i].worker;
            uint64_t at = metrics_get(&w->started_at_s);
            if (w->pid != 0 && at > newest)
                newest = at;
        }
        if (newest != 0)
            sample(t, of_worker(labels, slot, ""), newest);
    }
}

static void
put_requests(struct text *t)
{
    static const char *const methods[METRICS_METHODS] = { "GET",   "HEAD",   "POST",    "PUT",
                                                          "PATCH", "DELETE", "OPTIONS", "other" };
    static const char *const classes[METRICS_CLASSES] = {
        "none", "1xx", "2xx", "3xx", "4xx", "5xx"
    };
    char more[MORE_MAX], labels[LABELS_MAX];
    family(t, COUNTER, "requests",
           "Requests by method and class of status; none = ended without an answer.");
    SLOTS_EACH(t, slot)
        for (size_t m = 0; m < METRICS_METHODS; m++)
            for (size_t k = 0; k < METRICS_CLASSES; k++) {
                uint64_t n = sum(t, slot,
                                 offsetof(struct metrics_block, loop.requests) +
                                     (m * METRICS_CLASSES + k) * sizeof(metrics_u64));
                if (n == 0 && !(m == METRICS_GET && k == 2))
                    continue;
                snprintf(more, sizeof(more), "method=\"%s\",status=\"%s\"", methods[m], classes[k]);
                sample(t, of_worker(labels, slot, more), n);
            }
}

static void
put_histograms(struct text *t)
{
    static const struct {
        size_t offset;
        const char *name, *help;
    } of_loop[] = {
        { offsetof(struct metrics_block, loop.request), "request_duration_seconds",
          "From a request's head to the last piece of its answer." },
        { offsetof(struct metrics_block, loop.application), "application_duration_seconds",
          "From the call of the application to the last piece of its answer." },
        { offsetof(struct metrics_block, loop.turn), "loop_lag_seconds",
          "A turn of the event loop: what comes meanwhile waits for so long at most." },
        { offsetof(struct metrics_block, loop.gil), "loop_gil_wait_seconds",
          "What the event loop waited for the GIL each time that it needed it." },
    };
    for (size_t i = 0; i < ARRAY_LEN(of_loop); i++) {
        family(t, HISTOGRAM, of_loop[i].name, of_loop[i].help);
        SLOTS_EACH(t, slot)
            histogram(t, slot, of_loop[i].offset, "");
    }
    family(t, HISTOGRAM, "thread_wait_seconds", "What requests waited for a thread.");
    SLOTS_EACH(t, slot)
        histogram(t, slot, offsetof(struct metrics_block, pools[METRICS_POOL_REQUESTS].crew.wait),
                  "pool=\"requests\"");
}

struct line {
    size_t offset;
    const char *family, *labels, *help;
};

/* Gauges whose names say that they are seconds are kept in ns, and are the largest of a slot's. */
static void
put_lines(struct text *t, enum type type, const struct line *lines, size_t n)
{
    char labels[LABELS_MAX];
    for (size_t i = 0; i < n; i++) {
        size_t k = strlen(lines[i].family);
        bool is_longest = k > 8 && strcmp(lines[i].family + k - 8, "_seconds") == 0;
        family(t, type, lines[i].family, lines[i].help);
        SLOTS_EACH(t, slot) {
            of_worker(labels, slot, lines[i].labels);
            if (is_longest)
                sample_s(t, labels, largest(t, slot, lines[i].offset));
            else
                sample(t, labels, sum(t, slot, lines[i].offset));
        }
    }
}

#define LOOP_LINE(field, name, labels, help)                                                       \
    { offsetof(struct metrics_block, loop.field), name, labels, help },

static const struct line loop_counters[] = { METRICS_LOOP_COUNTERS(LOOP_LINE) };
static const struct line loop_gauges[] = { METRICS_LOOP_GAUGES(LOOP_LINE) };

#define GUARD_LINE(field, name, labels, help)                                                      \
    { offsetof(struct metrics_block, guard.field), name, labels, help },

static const struct line guard_counters[] = { METRICS_GUARD_COUNTERS(GUARD_LINE) };
static const struct line guard_gauges[] = { METRICS_GUARD_GAUGES(GUARD_LINE) };

#define DATABASE_LINE(field, name, labels, help)                                                   \
    { offsetof(struct metrics_block, database.field), name, labels, help },

static const struct line database_gauges[] = { METRICS_DATABASE_GAUGES(DATABASE_LINE) };

/* A line for each pool: labels of its own, families together. */
static void
put_crew(struct text *t, enum type type, const struct line *lines, size_t n)
{
    static const char *const pools[METRICS_POOLS] = { "pool=\"requests\"", "pool=\"executor\"" };
    char more[MORE_MAX], labels[LABELS_MAX];
    for (size_t i = 0; i < n; i++) {
        family(t, type, lines[i].family, lines[i].help);
        SLOTS_EACH(t, slot)
            for (size_t p = 0; p < METRICS_POOLS; p++) {
                snprintf(more, sizeof(more), "%s%s%s", pools[p], lines[i].labels[0] ? "," : "",
                         lines[i].labels);
                sample(t, of_worker(labels, slot, more),
                       sum(t, slot, lines[i].offset + p * sizeof(t->m->blocks[0].pools[0])));
            }
    }
}

#define CREW_LINE(field, name, labels, help)                                                       \
    { offsetof(struct metrics_block, pools[0].crew.field), name, labels, help },

static const struct line crew_counters[] = { METRICS_CREW_COUNTERS(CREW_LINE) };
static const struct line crew_gauges[] = { METRICS_CREW_GAUGES(CREW_LINE) };

/* --- routes: of all workers together, as there are many ---------------------------------------------- */

/* A label's value: backslash, quote and line feed are escaped (what is no UTF-8 is not let in). */
static const char *
route_label(char out[2 * METRICS_ROUTE_SIZE + MORE_MAX], const char *name)
{
    char *p = stpcpy(out, "route=\"");
    for (; *name != '\0'; name++) {
        if (*name == '\\' || *name == '"' || *name == '\n')
            *p++ = '\\';
        *p++ = *name == '\n' ? 'n' : *name;
    }
    strcpy(p, "\"");
    return out;
}

#define ROUTE_LINE(field, name, labels, help)                                                      \
    { offsetof(struct metrics_route_sum, field), name, labels, help },

static const struct line route_counters[] = { METRICS_ROUTE_COUNTERS(ROUTE_LINE) };
static const struct line route_gauges[] = { METRICS_ROUTE_GAUGES(ROUTE_LINE) };

static void
put_route_lines(struct text *t, enum type type, const struct line *lines, size_t lines_n,
                const struct metrics_route_sum *routes, unsigned n)
{
    char labels[2 * METRICS_ROUTE_SIZE + MORE_MAX];
    for (size_t k = 0; k < lines_n; k++) {
        size_t name_n = strlen(lines[k].family);
        bool is_time = strcmp(lines[k].family + name_n - 8, "_seconds") == 0;
        family(t, type, lines[k].family, lines[k].help);
        for (unsigned i = routes[0].requests == 0; i < n; i++) {
            uint64_t value;
            memcpy(&value, (const char *)&routes[i] + lines[k].offset, sizeof(value));
            route_label(labels, routes[i].name);
            if (lines[k].labels[0] != '\0')
                strcat(strcat(labels, ","), lines[k].labels);
            if (is_time)
                sample_s(t, labels, value);
            else
                sample(t, labels, value);
        }
    }
}

static void
put_routes(struct text *t)
{
    static struct metrics_route_sum routes[METRICS_ROUTES_MAX]; /* one thread at a time */
    unsigned n = metrics_gather_routes(t->m, routes);
    if (n == 1 && routes[0].requests == 0)
        return;
    put_route_lines(t, COUNTER, route_counters, ARRAY_LEN(route_counters), routes, n);
    put_route_lines(t, GAUGE, route_gauges, ARRAY_LEN(route_gauges), routes, n);
}

int
metrics_text(const struct metrics *m, bool is_openmetrics, struct buf *out)
{
    struct text *t = malloc(sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    *t = (struct text){ .out = out, .m = m, .is_open = is_openmetrics };
    sort(t);
    put_server(t);
    put_processes(t);
    put_requests(t);
    put_histograms(t);
    put_lines(t, COUNTER, loop_counters, ARRAY_LEN(loop_counters));
    put_lines(t, GAUGE, loop_gauges, ARRAY_LEN(loop_gauges));
    put_lines(t, COUNTER, guard_counters, ARRAY_LEN(guard_counters));
    put_lines(t, GAUGE, guard_gauges, ARRAY_LEN(guard_gauges));
    put_lines(t, GAUGE, database_gauges, ARRAY_LEN(database_gauges));
    put_crew(t, COUNTER, crew_counters, ARRAY_LEN(crew_counters));
    put_crew(t, GAUGE, crew_gauges, ARRAY_LEN(crew_gauges));
    put_routes(t);
    if (is_openmetrics)
        put(t, "# EOF\n");
    int err = t->is_lost ? -ENOMEM : 0;
    free(t);
    return err;
}
