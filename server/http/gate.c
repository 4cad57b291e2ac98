/* gate.c: how many requests the application has at once (limits.concurrency), and for how long (timeouts.request).
 *
 * Above limits.concurrency requests wait here, in the order in which they came, with their heads still in the connection's block: at most
 * limits.queue of them, each at most limits.queue_timeout. Whoever finds no room, or waits for too long, gets 503 with Retry-After at the
 * cost of a parsed head and a short answer: no Python, no GIL, no thread. A request counts from the moment the application gets it until
 * h1_end(): a synchronous one whose thread goes on behind its answer, or whose client has left, counts until the thread is free again. A
 * WebSocket counts until it is accepted; a connection without a request never does.
 *
 * Requests begin here in http_turn() and not in h1_end(), so that an end never runs into a beginning inside the application's own code.
 *
 * Both bounds are the same for all requests, so whoever came first is due first: a list, and one look at its head. A request with a time of its
 * own, by timeouts.routes or as the application says (h1_limit()), hangs in the wheel of connections' deadlines instead; it alone pays for that. */
#include <stdio.h>
#include <stdlib.h>

#include "h1.h"
#include "metrics/metrics.h"

enum { SAID_EVERY_S = 1 }; /* overload comes in swarms */

/* A request's time of its own, until gate_leave(). */
struct own_time {
    struct timer timer;
    struct h1_req *r;
    int64_t ms;       /* 0 = no limit */
    const char *name; /* where that is said */
};

static struct h1_req *
first_of(struct list *list)
{
    return list_is_empty(list) ? NULL : CONTAINER_OF(list->next, struct h1_req, link);
}

static int64_t
timeout_ms(const struct h1 *h)
{
    return UNLIKELY(h->r->own != NULL) ? h->r->own->ms : h->app->conf->timeout_request_ms;
}

const char *
h1_timeout_name(const struct h1 *h)
{
    if (timeout_ms(h) == 0)
        return NULL;
    return h->r->own != NULL ? h->r->own->name : "timeouts.request";
}

enum refusal { FULL, WAITED_IN_QUEUE, OVERDUE_IN_QUEUE };

static void
say_refused(struct h1 *h, enum refusal how)
{
    struct http_gate *g = &h->app->own.gate;
    const struct conf *conf = h->app->conf;
    int64_t now = h->app->net->now_ns;
    g->refused++;
    metrics_add(how != FULL ? &metrics_here->loop.gate_timeout : &metrics_here->loop.gate_full, 1);
    g->unsaid++;
    if (g->said_ns != 0 && now - g->said_ns < SAID_EVERY_S * NS_PER_S)
        return;
    char why[80];
    if (how == WAITED_IN_QUEUE)
        snprintf(why, sizeof(why), "it has waited for limits.queue_timeout (%.1f s)",
                 (double)conf->limit_queue_timeout_ms / 1000);
    else if (how == OVERDUE_IN_QUEUE)
        snprintf(why, sizeof(why), "it has waited for %s (%.1f s)", h1_timeout_name(h),
                 (double)timeout_ms(h) / 1000);
    else
        snprintf(why, sizeof(why), "limits.queue (%u) of them wait", conf->limit_queue);
    log_warning("%.*s: 503, limits.concurrency (%u) requests are in hand and %s (%u such request%s "
                "since the last line)",
                (int)h->r->what_n, h->r->what, conf->limit_concurrency, why, g->unsaid,
                g->unsaid == 1 ? "" : "s");
    g->said_ns = now;
    g->unsaid = 0;
}

/* The application never hears of it. *h may be freed inside. */
static void
turn_away(struct h1 *h)
{
    if (!h1_is_broken(h))
        h1_write_own(h, 503, false);
    h1_end(h);
}

static void
admit(struct h1 *h)
{
    h->app->own.gate.running++;
    h->r->is_counted = true;
}

static void
on_own_time(struct timer *timer)
{
    struct h1_req *r = CONTAINER_OF(timer, struct own_time, timer)->r;
    list_del(&r->timed);
    list_add_tail(&r->h->app->own.gate.due, &r->timed);
}

/* It has no time any more. */
static void
untime(struct h1 *h)
{
    list_del(&h->r->timed);
    if (UNLIKELY(h->r->own != NULL))
        timer_clear(&h->app->net->wheel, &h->r->own->timer);
}

/* False: no memory for it. */
static bool
has_own_time(struct h1_req *r)
{
    if (r->own != NULL)
        return true;
    if ((r->own = calloc(1, sizeof(*r->own))) == NULL) {
        log_error("%.*s: no memory for a timeout of its own", (int)r->what_n, r->what);
        return false;
    }
    timer_init(&r->own->timer, on_own_time);
    r->own->r = r;
    return true;
}

void
h1_limit(struct h1 *h, int64_t ms, const char *name)
{
    struct h1_req *r = h->r;
    if (r->is_overdue || !h->app->is_gated || h->state == H1_WEBSOCKET || !has_own_time(r))
        return;
    untime(h);
    r->own->ms = ms;
    r->own->name = name;
    if (ms > 0)
        timer_set(&h->app->net->wheel, &r->own->timer, r->began_ns + ms * NS_PER_MS);
}

static void
time_request(struct h1 *h)
{
    const struct conf *conf = h->app->conf;
    struct h1_req *r = h->r;
    int64_t own_ms = UNLIKELY(conf->timeout_routes.n > 0)
                         ? conf_route_timeout_ms(conf, r->req.path.p, r->req.path.n)
                         : -1;
    if (UNLIKELY(own_ms >= 0))
        h1_limit(h, own_ms, "timeouts.routes");
    if (LIKELY(r->own == NULL) && conf->timeout_request_ms > 0)
        list_add_tail(&h->app->own.gate.timed, &r->timed);
}

bool
gate_passes(struct h1 *h)
{
    struct http_gate *g = &h->app->own.gate;
    const struct conf *conf = h->app->conf;
    if (UNLIKELY(!h->app->is_gated))
        return true;
    time_request(h);
    if (LIKELY(conf->limit_concurrency == 0))
        return true;
    if (g->running < conf->limit_concurrency && g->waiting_n == 0) {
        admit(h);
        return true;
    }
    if (UNLIKELY(h1_is_gone(h))) { /* nobody is likely to wait for it */
        turn_away(h);
        return false;
    }
    if (g->waiting_n < conf->limit_queue) {
        g->waiting_n++;
        h->r->is_waiting = true;
        list_add_tail(&g->waiting, &h->r->link);
        return false;
    }
    say_refused(h, FULL);
    turn_away(h);
    return false;
}

void
gate_leave(struct h1 *h)
{
    struct h1_req *r = h->r;
    struct http_gate *g = &h->app->own.gate;
    untime(h);
    free(r->own);
    r->own = NULL;
    list_del(&r->link);
    if (r->is_counted)
        g->running--;
    if (r->is_waiting)
        g->waiting_n--;
    r->is_counted = r->is_waiting = false;
}

void
gate_client_left(struct h1 *h)
{
    struct h1_req *r = h->r;
    list_del(&r->link);
    list_add_tail(&h->app->own.gate.left, &r->link);
}

/* --- one turn ----------------------------------------------------------------------------------------------------------------------- */

static bool
is_due(const struct h1_req *r, int64_t ms, int64_t now)
{
    return ms > 0 && now - r->began_ns >= ms * NS_PER_MS;
}

/* The request takes longer than it may. One that waits for its client's body is answered 408, one whose answer has begun is cut
 * off, and what an application does behind a complete answer is its own affair. */
static void
overdue(struct h1 *h)
{
    struct h1_req *r = h->r;
    untime(h);
    if (r->finished)
        return;
    r->is_overdue = true;
    if (r->is_waiting) {
        say_refused(h, OVERDUE_IN_QUEUE);
        turn_away(h);
        return;
    }
    bool was_until_close = r->sending && r->until_close;
    if (!r->refused && !h->conn.broken) {
        int status = r->want ? 408 : 504;
        r->overdue_status = r->sending ? 0 : (uint16_t)status;
        h1_refuse(h, status);
        if (was_until_close)
            h1_reset(h);
    }
    h->app->event(h->app, h, HTTP_OVERDUE);
}

void
http_turn(struct http_app *app)
{
    struct http_gate *g = &app->own.gate;
    const struct conf *conf = app->conf;
    struct h1_req *r;
    while (UNLIKELY(!list_is_empty(&g->timed)) &&
           is_due((r = CONTAINER_OF(g->timed.next, struct h1_req, timed)), conf->timeout_request_ms,
                  app->net->now_ns))
        overdue(r->h);
    while (UNLIKELY(!list_is_empty(&g->due)))
        overdue(CONTAINER_OF(g->due.next, struct h1_req, timed)->h);
    streams_turn(app);
    while (UNLIKELY((r = first_of(&g->left)) != NULL))
        turn_away(r->h);
    while (UNLIKELY((r = first_of(&g->waiting)) != NULL)) {
        struct h1 *h = r->h;
        if (is_due(r, conf->limit_queue_timeout_ms, app->net->now_ns)) {
            say_refused(h, WAITED_IN_QUEUE);
            turn_away(h);
            continue;
        }
        if (g->running >= conf->limit_concurrency)
            break;
        list_del(&r->link);
        r->is_waiting = false;
        g->waiting_n--;
        admit(h);
        if (!r->is_body_done && h->conn.readable)
            conn_resume(&h->conn);
        app->begin(app, h);
    }
}

static int64_t
sooner(int64_t a, int64_t b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

int64_t
http_next_ns(const struct http_app *app)
{
    const struct http_gate *g = &app->own.gate;
    const struct conf *conf = app->conf;
    int64_t next = streams_next_ns(app);
    if (UNLIKELY(!list_is_empty(&g->left) || !list_is_empty(&g->due)) ||
        (g->waiting_n > 0 && g->running < conf->limit_concurrency))
        return 0;
    if (UNLIKELY(!list_is_empty(&g->timed)))
        next = sooner(next, CONTAINER_OF(g->timed.next, const struct h1_req, timed)->began_ns +
                                conf->timeout_request_ms * NS_PER_MS);
    if (UNLIKELY(!list_is_empty(&g->waiting)) && conf->limit_queue_timeout_ms > 0)
        next = sooner(next, CONTAINER_OF(g->waiting.next, const struct h1_req, link)->began_ns +
                                conf->limit_queue_timeout_ms * NS_PER_MS);
    return next;
}

unsigned
http_refuse_waiting(struct http_app *app)
{
    struct http_gate *g = &app->own.gate;
    unsigned n = 0;
    for (struct h1_req *r; (r = first_of(&g->waiting)) != NULL; n++)
        turn_away(r->h);
    return n;
}
