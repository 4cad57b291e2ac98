/* advise.c: `advise`: figures of routes, gathered over all workers, and what metrics/advice.c makes of them.
 *
 * Counters go on for ever; an answer is about what came between two readings. The first is one of the last ten minutes, or the begin; or, where
 * "seconds" are given, it is taken when that is asked, and the answer waits for the second. The master's thread. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "base/json.h"
#include "metrics/advice.h"
#include "state.h"

enum { SECONDS_MAX = 3600 };
#define MINUTE_NS (60 * NS_PER_S)

/* A reading. Routes stay where they are in the area, so their names do. */
struct advise_before {
    int64_t at_ns;
    uint64_t busy_ns; /* metrics_busy_ns() */
    unsigned n;
    struct metrics_route_sum routes[];
};

/* One line of the answer. */
struct row {
    const struct metrics_route_sum *sum;
    struct advice_route means;
    struct advice advice;
};

void
advise_forget(struct ctl_job *job)
{
    free(job->before);
    job->before = NULL;
}

/* New; NULL: no memory. */
static struct advise_before *
take_reading(struct master *m)
{
    static struct metrics_route_sum routes[METRICS_ROUTES_MAX];
    unsigned n = metrics_gather_routes(m->metrics, routes);
    struct advise_before *reading = malloc(sizeof(*reading) + n * sizeof(routes[0]));
    if (reading == NULL)
        return NULL;
    reading->at_ns = clock_ns();
    reading->busy_ns = metrics_busy_ns(m->metrics, reading->at_ns);
    reading->n = n;
    memcpy(reading->routes, routes, n * sizeof(routes[0]));
    return reading;
}

void
advise_free(struct master *m)
{
    while (m->advise.n > 0)
        free(m->advise.v[--m->advise.n]);
}

void
advise_turn(struct master *m, int64_t now_ns)
{
    struct advise_past *p = &m->advise;
    bool is_other =
        p->generation != m->now.number || p->wanted != m->wanted || p->ended != m->reload.ended;
    if (!is_other && now_ns < p->at_ns)
        return;
    if (m->metrics == NULL || (m->now.conf->control_socket == NULL && !m->now.conf->metrics_page))
        return;
    if (is_other)
        advise_free(m);
    p->generation = m->now.number;
    p->wanted = m->wanted;
    p->ended = m->reload.ended;
    p->at_ns = now_ns + MINUTE_NS;
    struct advise_before *reading = take_reading(m);
    if (reading == NULL)
        return; /* the next will do */
    if (p->n == ADVISE_PAST_MAX) {
        free(p->v[0]);
        memmove(p->v, p->v + 1, (ADVISE_PAST_MAX - 1) * sizeof(p->v[0]));
        p->n--;
    }
    p->v[p->n++] = reading;
}

/* What has come since then. The longest step is that of all time, unless there was no long one meanwhile. */
static void
subtract(struct metrics_route_sum *from, const struct metrics_route_sum *before)
{
#define X(field, ...) from->field -= before->field < from->field ? before->field : from->field;
    METRICS_ROUTE_COUNTERS(X)
#undef X
    if (from->step_max_ns == before->step_max_ns && from->long_steps == 0)
        from->step_max_ns = 0; /* not as long as that, and how long is not known */
    if (from->place_at_ns == before->place_at_ns && from->long_steps == 0)
        from->place[0] = '\0';
}

static int
by_worth(const void *a, const void *b)
{
    double x = ((const struct row *)a)->advice.worth, y = ((const struct row *)b)->advice.worth;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void
put_s(struct json *j, const char *name, double s)
{
    json_key(j, name), json_real(j, s);
}

static void
put_advice(struct json *j, const struct advice *a)
{
    json_key(j, "verdict"), json_string(j, advice_name(a->kind));
    json_key(j, "text"), json_string(j, a->text);
    json_key(j, "gain");
    if (a->of[0] != '\0')
        json_real(j, a->gain);
    else
        json_null(j);
    json_key(j, "gain_of"), json_string(j, a->of[0] != '\0' ? a->of : NULL);
}

static void
put_route(struct json *j, const struct row *row)
{
    const struct advice_route *r = &row->means;
    json_begin(j, '{');
    json_key(j, "route"), json_string(j, row->sum->name);
    put_advice(j, &row->advice);
    json_key(j, "requests"), json_int(j, (int64_t)row->sum->requests);
    json_key(j, "errors"), json_int(j, (int64_t)row->sum->errors);
    put_s(j, "request_s", r->request);
    put_s(j, "queue_s", r->queue);
    put_s(j, "thread_s", r->thread);
    put_s(j, "thread_cpu_s", r->cpu);
    put_s(j, "gil_s", r->gil);
    put_s(j, "network_s", r->network);
    put_s(j, "sleep_s", r->sleep);
    put_s(j, "other_s", r->other);
    put_s(j, "unknown_s", r->starved);
    put_s(j, "database_s", r->database);
    put_s(j, "loop_s", r->loop);
    put_s(j, "loop_cpu_s", r->loop_cpu);
    put_s(j, "loop_gil_s", r->loop_gil);
    put_s(j, "awaits_s", r->awaits);
    json_key(j, "looked"), json_bool(j, r->is_looked);
    json_key(j, "crossings"), json_real(j, r->crossings);
    json_key(j, "long_steps"), json_int(j, (int64_t)row->sum->long_steps);
    put_s(j, "long_step_s", r->long_step);
    put_s(j, "long_step_gil_s", r->long_gil);
    put_s(j, "longest_step_s", r->longest_step);
    json_key(j, "place"), json_string(j, row->sum->place[0] != '\0' ? row->sum->place : NULL);
    json_key(j, "busy_threads"), json_real(j, r->busy_threads);
    json_key(j, "busy_cpus"), json_real(j, r->busy_cpu);
    json_end(j, '}');
}

static void
put_threads(struct json *j, const struct advice_threads *t, const struct advice_server *server)
{
    struct advice advice;
    struct advice_threads all = *t;
    advice_threads(&all, server, &advice);
    json_begin(j, '{');
    put_advice(j, &advice);
    json_key(j, "slots"), json_int(j, server->slots);
    json_key(j, "needed"), json_int(j, (int64_t)all.needed);
    json_key(j, "busy"), json_real(j, all.busy);
    json_key(j, "gil"), json_real(j, all.gil);
    json_key(j, "cpu"), json_real(j, all.cpu);
    json_key(j, "waiting"), json_real(j, all.waiting);
    put_s(j, "wait_s", all.wait);
    json_end(j, '}');
}

static struct advice_server
server_of(struct master *m, double seconds)
{
    struct advice_server server = { .seconds = seconds };
    uint64_t slots = 0;
    metrics_sweep(m->metrics);
    METRICS_EACH(b, m->metrics)
        if (b->worker.state == METRICS_READY) {
            server.workers++;
            slots += metrics_get(&b->pools[METRICS_POOL_REQUESTS].crew.slots);
        }
    server.slots = (unsigned)slots;
    return server;
}

/* As people know it: Django's patterns begin without a slash. */
static const char *
name_of(const struct metrics_route_sum *sum, char out[METRICS_ROUTE_SIZE + 1])
{
    bool is_bare = strchr("/^", sum->name[0]) == NULL && strcmp(sum->name, "other") != 0;
    snprintf(out, METRICS_ROUTE_SIZE + 1, "%s%s", is_bare || sum->name[0] == '\0' ? "/" : "",
             sum->name);
    return out;
}

static void
answer(struct master *m, struct ctl_job *job, const struct advise_before *before)
{
    MEM_OWNED struct advise_before *now = take_reading(m);
    MEM_OWNED struct row *rows = now != NULL ? calloc(now->n, sizeof(*rows)) : NULL;
    if (rows == NULL) {
        ctl_fail(m, job, "out of memory");
        return;
    }
    double seconds = (double)(now->at_ns - before->at_ns) / NS_PER_S;
    struct advice_server server = server_of(m, seconds > 0.001 ? seconds : 0.001);
    struct advice_threads threads = { 0 };
    if (now->busy_ns > before->busy_ns)
        threads.busy = (double)(now->busy_ns - before->busy_ns) / NS_PER_S / server.seconds;
    unsigned rows_n = 0;
    for (unsigned i = 0; i < now->n; i++) {
        struct metrics_route_sum *sum = &now->routes[i];
        for (unsigned k = 0; k < before->n; k++)
            if (strcmp(sum->name, before->routes[k].name) == 0)
                subtract(sum, &before->routes[k]);
        if (sum->requests == 0)
            continue;
        struct row *row = &rows[rows_n++];
        char name[METRICS_ROUTE_SIZE + 1];
        row->sum = sum;
        advice_means(sum, &server, &row->means);
        advice_route(name_of(sum, name), sum->place, &row->means, &server, &row->advice);
        advice_threads_add(&threads, &row->means, &server);
    }
    qsort(rows, rows_n, sizeof(*rows), by_worth);
    struct json j = json_into(&job->out);
    json_begin(&j, '{');
    put_s(&j, "seconds", seconds);
    json_key(&j, "workers"), json_int(&j, server.workers);
    json_key(&j, "threads"), put_threads(&j, &threads, &server);
    json_key(&j, "routes"), json_begin(&j, '[');
    for (unsigned i = 0; i < rows_n; i++)
        put_route(&j, &rows[i]);
    json_end(&j, ']');
    json_end(&j, '}');
    ctl_end(m, job, !j.is_lost);
}

/* The second reading. */
static void
look(struct master *m, struct ctl_job *job, int64_t now_ns)
{
    if (now_ns >= job->until_ns)
        answer(m, job, job->before);
}

void
advise_do(struct master *m, struct ctl_job *job, struct json_ref args)
{
    struct json_ref given = json_ref_get(args, "seconds");
    int64_t seconds = 0;
    if (given.node != NULL &&
        (!json_ref_int(given, &seconds) || seconds < 1 || seconds > SECONDS_MAX)) {
        ctl_fail(m, job, "\"seconds\": from 1 to %d", SECONDS_MAX);
        return;
    }
    if (seconds == 0 && m->advise.n > 0) {
        answer(m, job, m->advise.v[0]);
        return;
    }
    job->before = take_reading(m);
    if (job->before == NULL) {
        ctl_fail(m, job, "out of memory");
        return;
    }
    job->until_ns = job->before->at_ns + (seconds > 0 ? seconds : 1) * NS_PER_S;
    job->look = look;
    ctl_wait(m, job);
}
