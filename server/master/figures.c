/* figures.c: numbers of the shared area, summed and as JSON. The master's thread. */
#include "figures.h"

#include "base/base.h"
#include "base/proc.h"
#include "state.h"

/* A turn under way counts as far as it has come: a loop that hangs is busy, and says so. */
static uint64_t
turn_so_far_ns(const struct metrics_pulse *p, int64_t now_ns)
{
    uint64_t begun_ns = metrics_get(&p->begun_ns);
    bool is_turning = atomic_load_explicit(&p->doing, memory_order_relaxed) > METRICS_WAITS &&
                      begun_ns > metrics_get(&p->ended_ns) && (uint64_t)now_ns > begun_ns;
    return is_turning ? (uint64_t)now_ns - begun_ns : 0;
}

static void
add_process(struct figures *f, const struct metrics_worker *w)
{
    struct proc_usage usage = metrics_usage(w);
    f->rss_bytes += usage.rss_bytes;
    f->cpu_ns += (uint64_t)usage.cpu_ns;
}

static void
add_block(struct figures *f, const struct metrics_block *b)
{
    const struct metrics_loop *loop = &b->loop;
    for (int method = 0; method < METRICS_METHODS; method++)
        for (int k = 0; k < METRICS_CLASSES; k++)
            f->requests[k] += metrics_get(&loop->requests[method][k]);
    f->request_ns += metrics_get(&loop->request.sum_ns);
    for (int i = 0; i <= METRICS_BUCKETS; i++) {
        f->buckets[i] += metrics_get(&loop->request.buckets[i]);
        f->turns += metrics_get(&loop->turn.buckets[i]);
    }
    f->turn_ns += metrics_get(&loop->turn.sum_ns) + turn_so_far_ns(&b->pulse, f->at_ns);
    uint64_t longest_ns = metrics_get(&loop->turn_max_ns);
    f->turn_max_ns = longest_ns > f->turn_max_ns ? longest_ns : f->turn_max_ns;
    f->gil_ns += metrics_get(&loop->gil.sum_ns);
    f->accepted += metrics_get(&loop->accepted);
    f->bytes_in += metrics_get(&loop->bytes_in);
    f->bytes_out += metrics_get(&loop->bytes_out);
    f->handshake += metrics_get(&loop->conns_handshake);
    f->idle += metrics_get(&loop->conns_idle);
    f->request += metrics_get(&loop->conns_request);
    f->websocket += metrics_get(&loop->conns_websocket);
    f->closing += metrics_get(&loop->conns_closing);
    for (int i = 0; i < METRICS_POOLS; i++) {
        const struct metrics_crew *crew = &b->pools[i].crew;
        struct figures_pool *pool = &f->pools[i];
        pool->threads += metrics_get(&crew->threads);
        pool->slots += metrics_get(&crew->slots);
        pool->busy += metrics_get(&crew->busy);
        pool->leased += metrics_get(&crew->leased);
        pool->waiting += metrics_get(&crew->waiting);
        pool->refused += metrics_get(&crew->refused_full) + metrics_get(&crew->refused_timeout);
    }
    f->database_connections += metrics_get(&b->database.connections);
    add_process(f, &b->worker);
}

void
figures_of_child(const struct child *c, struct figures *out)
{
    *out = (struct figures){ .at_ns = clock_ns() };
    if (c->metrics != NULL)
        add_block(out, c->metrics);
}

void
figures_of_all(struct master *m, struct figures *out)
{
    metrics_sweep(m->metrics);
    *out = (struct figures){ .at_ns = clock_ns() };
    METRICS_EACH(b, m->metrics)
        add_block(out, b);
}

static void
put_n(struct json *j, const char *name, uint64_t n)
{
    json_key(j, name), json_int(j, (int64_t)n);
}

static void
put_s(struct json *j, const char *name, uint64_t ns)
{
    json_key(j, name), json_real(j, (double)ns / NS_PER_S);
}

static void
put_pool(struct json *j, const char *name, const struct figures_pool *pool)
{
    json_key(j, name), json_begin(j, '{');
    put_n(j, "threads", pool->threads);
    put_n(j, "slots", pool->slots);
    put_n(j, "busy", pool->busy);
    put_n(j, "leased", pool->leased);
    put_n(j, "waiting", pool->waiting);
    put_n(j, "refused", pool->refused);
    json_end(j, '}');
}

void
figures_put(struct json *j, const struct figures *f)
{
    static const char *const classes[METRICS_CLASSES] = {
        "none", "1xx", "2xx", "3xx", "4xx", "5xx"
    };
    json_begin(j, '{');
    put_s(j, "at_s", (uint64_t)f->at_ns);
    json_key(j, "requests"), json_begin(j, '{');
    for (int k = 0; k < METRICS_CLASSES; k++)
        put_n(j, classes[k], f->requests[k]);
    json_end(j, '}');
    json_key(j, "durations"), json_begin(j, '{');
    put_s(j, "sum_s", f->request_ns);
    json_key(j, "buckets"), json_begin(j, '[');
    for (int i = 0; i <= METRICS_BUCKETS; i++)
        json_int(j, (int64_t)f->buckets[i]);
    json_end(j, ']');
    json_end(j, '}');
    json_key(j, "connections"), json_begin(j, '{');
    put_n(j, "handshake", f->handshake);
    put_n(j, "idle", f->idle);
    put_n(j, "request", f->request);
    put_n(j, "websocket", f->websocket);
    put_n(j, "closing", f->closing);
    put_n(j, "accepted", f->accepted);
    json_end(j, '}');
    put_n(j, "received_bytes", f->bytes_in);
    put_n(j, "sent_bytes", f->bytes_out);
    put_pool(j, "threads", &f->pools[METRICS_POOL_REQUESTS]);
    put_pool(j, "executor", &f->pools[METRICS_POOL_EXECUTOR]);
    put_n(j, "database_connections", f->database_connections);
    json_key(j, "loop"), json_begin(j, '{');
    put_n(j, "turns", f->turns);
    put_s(j, "busy_s", f->turn_ns);
    put_s(j, "lag_max_s", f->turn_max_ns);
    put_s(j, "gil_wait_s", f->gil_ns);
    json_end(j, '}');
    put_s(j, "cpu_s", f->cpu_ns);
    put_n(j, "rss_bytes", f->rss_bytes);
    json_end(j, '}');
}

void
figures_put_bounds(struct json *j)
{
    json_begin(j, '[');
    for (int i = 0; i < METRICS_BUCKETS; i++)
        json_real(j, (double)metrics_bounds_ns[i] / NS_PER_S);
    json_end(j, ']');
}

void
figures_put_restarts(struct json *j, const struct metrics *m)
{
    static const char *const reasons[METRICS_RESTARTS] = {
        "crash", "exit", "killed", "hang", "asked", "reload", "requests", "age", "memory",
    };
    json_begin(j, '{');
    for (int i = 0; i < METRICS_RESTARTS; i++) {
        uint64_t n = 0;
        for (unsigned slot = 0; slot < METRICS_SLOTS_MAX; slot++)
            n += metrics_get(&m->master.restarts[slot].why[i]);
        put_n(j, reasons[i], n);
    }
    json_end(j, '}');
}
