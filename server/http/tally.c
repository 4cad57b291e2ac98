/* tally.c: what requests and WebSockets leave in the metrics.
 *
 * A request counts when the last piece of its answer has been taken, which is before the client can have it: a worker that is
 * killed has counted every answer that somebody got. What the application does behind its answer is not the client's time.
 * Requests for health.live, health.ready and metrics.path are not counted: they are not the application's.
 *
 * Runs on:  the loop's thread. */
#include "h1.h"

#include "metrics/metrics.h"

void
tally_begin(struct h1 *h)
{
    static const struct {
        struct slice name;
        enum metrics_method method;
    } methods[] = {
        { SLICE("GET"), METRICS_GET },         { SLICE("POST"), METRICS_POST },
        { SLICE("HEAD"), METRICS_HEAD },       { SLICE("PUT"), METRICS_PUT },
        { SLICE("PATCH"), METRICS_PATCH },     { SLICE("DELETE"), METRICS_DELETE },
        { SLICE("OPTIONS"), METRICS_OPTIONS },
    };
    struct slice method = h->r->req.method;
    h->r->method = METRICS_OTHER_METHOD;
    for (size_t i = 0; i < ARRAY_LEN(methods); i++)
        if (method.n == methods[i].name.n && memcmp(method.p, methods[i].name.p, method.n) == 0) {
            h->r->method = (uint8_t)methods[i].method;
            return;
        }
}

void
tally_answer(struct h1 *h)
{
    struct h1_req *r = h->r;
    if (r->is_counted || r->is_quiet)
        return;
    r->is_counted = true;
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
    metrics_set(&m->in_hand, app->in_hand - app->websockets);
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
    metrics_add(code == WS_NORMAL                                ? &m->ws_closed_normal
                : code == WS_GOING_AWAY                          ? &m->ws_closed_away
                : code == WS_NO_CODE || code == WS_ABNORMAL    ? &m->ws_closed_none
                : code < 3000                                    ? &m->ws_closed_1xxx
                : code < 4000                                    ? &m->ws_closed_3xxx
                                                                 : &m->ws_closed_4xxx,
                1);
}
