/* tally.c: what requests and WebSockets leave in the metrics.
 *
 * A request counts when the last piece of its answer has been taken, which is before the client can have it: a worker that is
 * killed has counted every answer that somebody got. What the application does behind its answer is not the client's time.
 * Requests for health.live, health.ready and metrics.path are not counted: they are not the application's.
 *
 * Runs on:  the loop's thread. */
#include "h1.h"

#include "metrics/metrics.h"

static enum metrics_method
method_of(struct slice method)
{
    switch (method.n) {
    case 3:
        return memcmp(method.p, "GET", 3) == 0   ? METRICS_GET
               : memcmp(method.p, "PUT", 3) == 0 ? METRICS_PUT
                                                 : METRICS_OTHER_METHOD;
    case 4:
        return memcmp(method.p, "POST", 4) == 0   ? METRICS_POST
               : memcmp(method.p, "HEAD", 4) == 0 ? METRICS_HEAD
                                                  : METRICS_OTHER_METHOD;
    case 5:
        return memcmp(method.p, "PATCH", 5) == 0 ? METRICS_PATCH : METRICS_OTHER_METHOD;
    case 6:
        return memcmp(method.p, "DELETE", 6) == 0 ? METRICS_DELETE : METRICS_OTHER_METHOD;
    case 7:
        return memcmp(method.p, "OPTIONS", 7) == 0 ? METRICS_OPTIONS : METRICS_OTHER_METHOD;
    default:
        return METRICS_OTHER_METHOD;
    }
}

void
tally_begin(struct h1 *h)
{
    h->r->method = (uint8_t)method_of(h->r->req.method);
}

void
tally_answer(struct h1 *h)
{
    struct h1_req *r = h->r;
    if (r->is_tallied || r->is_quiet)
        return;
    r->is_tallied = true;
    struct metrics_loop *m = &metrics_here->loop;
    unsigned class = r->started && r->sending ? r->status / 100u : 0;
    metrics_add(&m->requests[r->method][class < METRICS_CLASSES ? class : 0], 1);
    if (h->state == H1_WEBSOCKET || r->status == 101)
        return; /* it has only begun */
    int64_t now_ns = clock_ns();
    metrics_observe(&m->request, now_ns - r->began_ns);
    if (r->called_ns != 0)
        metrics_observe(&m->application, now_ns - r->called_ns);
}

void
h1_called(struct h1 *h, int64_t at_ns)
{
    h->r->called_ns = at_ns;
}

void
tally_turn(struct http_app *app)
{
    struct metrics_loop *m = &metrics_here->loop;
    const struct net *net = app->net;
    unsigned busy = net->handshakes_n + app->in_hand + net->closing_n;
    metrics_set(&m->conns_handshake, net->handshakes_n);
    metrics_set(&m->conns_websocket, app->websockets);
    metrics_set(&m->conns_request, app->in_hand - app->websockets);
    metrics_set(&m->conns_closing, net->closing_n);
    metrics_set(&m->conns_idle, net->conns_n > busy ? net->conns_n - busy : 0);
}

void
tally_message(bool is_in, size_t n)
{
    struct metrics_loop *m = &metrics_here->loop;
    metrics_add(is_in ? &m->ws_messages_in : &m->ws_messages_out, 1);
    metrics_add(is_in ? &m->ws_bytes_in : &m->ws_bytes_out, n);
}

void
tally_closed(unsigned code)
{
    struct metrics_loop *m = &metrics_here->loop;
    metrics_add(code == WS_NORMAL                           ? &m->ws_closed_normal
                : code == WS_GOING_AWAY                     ? &m->ws_closed_away
                : code == WS_NO_CODE || code == WS_ABNORMAL ? &m->ws_closed_none
                : code < 3000                               ? &m->ws_closed_1xxx
                : code < 4000                               ? &m->ws_closed_3xxx
                                                            : &m->ws_closed_4xxx,
                1);
}
