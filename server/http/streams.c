/* streams.c: event streams (text/event-stream) when a worker leaves. They have no end of their own, so none is waited for: the application is
 * told HTTP_LEAVE, as if the client had gone, and what it leaves unfinished is ended properly, for the client comes back by itself. Before
 * that is STREAM_GRACE_MS for applications that watch for the drain and have a last event to send; the streams are told one after the
 * other, over websocket.drain, so that their clients do not return together. Other answers, however long, have until timeouts.graceful. */
#include "h1.h"

enum { STREAM_GRACE_MS = 1000 };

static int64_t
grace_ms(const struct conf *conf)
{
    int64_t graceful_ms = conf->timeout_graceful_ms;
    return graceful_ms > 0 && graceful_ms / 4 < STREAM_GRACE_MS ? graceful_ms / 4 : STREAM_GRACE_MS;
}

static void
leave_at(struct h1 *h, int64_t ns)
{
    struct list *streams = &h->app->own.gate.streams;
    struct list *at = streams->prev;
    h->r->leave_ns = ns;
    while (at != streams && CONTAINER_OF(at, struct h1_req, link)->leave_ns > ns)
        at = at->prev;
    list_add_tail(at->next, &h->r->link); /* behind at */
}

void
stream_begins(struct h1 *h)
{
    if (UNLIKELY(h->app->draining) && h->app->is_gated)
        leave_at(h, h->app->net->now_ns + grace_ms(h->app->conf) * NS_PER_MS);
}

static bool
is_open_stream(const struct h1 *h)
{
    return h->state == H1_IN_HAND && h->r->is_event_stream && h->r->sending && !h->r->finished &&
           !h->r->refused;
}

void
streams_drain(struct http_app *app)
{
    const struct conf *conf = app->conf;
    int64_t grace = grace_ms(conf), spread_ms = conf->ws_drain_ms;
    unsigned n = 0, i = 0;
    if (conf->timeout_graceful_ms > 0 && grace + spread_ms > conf->timeout_graceful_ms * 3 / 4)
        spread_ms = conf->timeout_graceful_ms * 3 / 4 - grace;
    LIST_FOR_EACH(node, &app->net->conns)
        n += is_open_stream(h1_of(CONTAINER_OF(node, struct conn, all)));
    LIST_FOR_EACH(node, &app->net->conns) {
        struct h1 *h = h1_of(CONTAINER_OF(node, struct conn, all));
        if (is_open_stream(h))
            leave_at(h, app->net->now_ns + (grace + spread_ms * i++ / n) * NS_PER_MS);
    }
}

void
streams_turn(struct http_app *app)
{
    struct list *streams = &app->own.gate.streams;
    while (UNLIKELY(!list_is_empty(streams))) {
        struct h1_req *r = CONTAINER_OF(streams->next, struct h1_req, link);
        if (r->leave_ns > app->net->now_ns)
            return;
        list_del(&r->link);
        r->is_leaving = true;
        app->event(app, r->h, HTTP_LEAVE);
    }
}

int64_t
streams_next_ns(const struct http_app *app)
{
    const struct list *streams = &app->own.gate.streams;
    return list_is_empty(streams)
               ? -1
               : CONTAINER_OF(streams->next, const struct h1_req, link)->leave_ns;
}

void
h1_end_stream(struct h1 *h)
{
    const struct h1_req *r = h->r;
    if (!r->is_leaving || !r->sending || r->finished || r->length != UINT64_MAX)
        return;
    size_t bad;
    if (r->in_trailers)
        (void)h1_trailers(h, NULL, 0, true, &bad);
    else
        (void)h1_write(h, "", 0, NULL, true);
}
