/* h1.c: the life of one HTTP/1.1 connection: requests one after the other, timeouts, keep-alive,
 * drain, refusals. Pipelined requests wait in the block, or unread in the socket, until the answer
 * before them is done. */
#include "h1.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "static.h"
#include "status.h"

#define TO(state) (1u << (state))

static const unsigned h1_next[H1_STATES] = {
    [H1_HEAD] = TO(H1_IN_HAND) | TO(H1_CLOSED),
    [H1_IN_HAND] = TO(H1_HEAD) | TO(H1_WEBSOCKET) | TO(H1_SKIP_BODY) | TO(H1_CLOSED),
    [H1_WEBSOCKET] = TO(H1_CLOSED),
    [H1_SKIP_BODY] = TO(H1_HEAD) | TO(H1_CLOSED),
    [H1_CLOSED] = 0,
};

static void
h1_to(struct h1 *h, enum h1_state state)
{
    ASSERT(h1_next[h->state] & TO(state));
    h->state = (uint8_t)state;
}

static void
deadline_in(struct h1 *h, int64_t ms)
{
    conn_deadline(&h->conn, ms > 0 ? h->app->net->now_ns + ms * NS_PER_MS : 0);
}

static bool
has_input(const struct h1 *h)
{
    return h->conn.in != NULL && h->conn.in_end > h->conn.in_start;
}

static int64_t
drain_idle_ms(const struct h1 *h)
{
    return h->asked ? H1_DRAIN_IDLE_MS : H1_DRAIN_FRESH_MS;
}

/* For an idle connection: how long it may stay so. */
static void
deadline_idle(struct h1 *h)
{
    const struct conf *conf = h->app->conf;
    int64_t ms = h->asked ? conf->timeout_keep_alive_ms : conf->timeout_header_ms;
    if (h->app->draining || h->conn.is_guest) {
        int64_t most = drain_idle_ms(h);
        ms = ms == 0 || ms > most ? most : ms;
    }
    deadline_in(h, ms);
}

/* Of an idle connection, at the drain: what it has been idle for already counts. One that is used every few moments is likely to be asked
 * right now; one that has been silent for longer is closed at once. */
static void
deadline_drain(struct h1 *h)
{
    const struct conf *conf = h->app->conf;
    int64_t usual_ms = h->asked ? conf->timeout_keep_alive_ms : conf->timeout_header_ms;
    int64_t since_ns = h->conn.deadline_ns - usual_ms * NS_PER_MS;
    if (usual_ms == 0 || h->conn.deadline_ns == 0)
        since_ns = h->app->net->now_ns;
    conn_deadline(&h->conn, since_ns + drain_idle_ms(h) * NS_PER_MS);
}

static void
h1_opened(struct conn *c)
{
    struct h1 *h = h1_of(c);
    h->app = c->net->ops->app;
    if (access_is_on(h->app))
        conn_peer(c); /* a client that has gone has no address any more */
    deadline_idle(h);
}

/* The end of a connection without a request in hand. What is queued is still sent. */
static void
finish(struct h1 *h, bool linger)
{
    h1_head_give(h);
    h1_req_give(h);
    h1_to(h, H1_CLOSED);
    conn_finish(&h->conn, linger);
}

/* Plain HTTP on a port for TLS. */
static void
h1_misplaced(struct conn *c)
{
    struct h1 *h = h1_of(c);
    if (h1_req_take(h) == 0) {
        h->r->began_ns = h->app->net->now_ns;
        tally_begin(h);
        h1_write_misplaced(h);
        access_note(h);
    }
    finish(h, true);
}

/* --- reading ---------------------------------------------------------------------------------- */

static int
head_read(struct h1 *h)
{
    struct conn *c = &h->conn;
    if (c->in != NULL && c->in_end == c->in->cap) {
        uint32_t cap = c->in->cap, max = h1_head_max(h->app) + 2 * H1_LEADING_CRLF_MAX + 1;
        if (c->in_start == 0)
            cap = cap * 2 < max ? cap * 2 : max > cap ? max : cap + 1;
        if (conn_in_grow(c, cap) < 0)
            return -ENOMEM;
    }
    return conn_read(c);
}

static void
readable_head(struct h1 *h)
{
    struct conn *c = &h->conn;
    bool was_idle = !has_input(h);
    if (conn_is_full(c)) /* a client that does not read gets no more answers: h1_drained() */
        return;
    if (c->in != NULL && c->in_end > c->in_start + h->fed)
        h1_head_feed(h); /* a pipelined request, or the beginning of one */
    if (h->state == H1_HEAD && c->readable) {
        int n = head_read(h);
        if (n > 0) {
            h1_head_feed(h);
        } else if (n == 0) {
            finish(h, false);
        } else if (n == -ENOMEM) {
            log_error("no memory to read a request; the connection is closed");
            finish(h, true);
        }
    }
    if (h->state != H1_HEAD || c->broken)
        return;
    if (!has_input(h)) { /* nothing, or nothing but empty lines */
        conn_in_drop(c);
        h1_req_give(h);
    } else if (was_idle) {
        deadline_in(h, h->app->conf->timeout_header_ms);
    }
    if (c->readable)
        conn_resume(c);
}

static void next_request(struct h1 *h);

static void
readable_skip(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    h1_body_read(h);
    if (h->state != H1_SKIP_BODY || c->broken)
        return;
    r->body_start = r->body_end;
    h1_body_release(h);
    if (r->is_body_done)
        next_request(h);
    else if (c->eof || r->body_got - r->skip_from > H1_SKIP_BODY_MAX)
        finish(h, true);
}

static void
h1_readable(struct conn *c)
{
    struct h1 *h = h1_of(c);
    switch ((enum h1_state)h->state) {
    case H1_HEAD:
        readable_head(h);
        break;
    case H1_IN_HAND:
        if (!h->r->is_body_done)
            h1_body_read(h);
        if (h->state != H1_IN_HAND) /* of a file's request: it was refused, and is over */
            break;
        if (!h->r->refused)
            h1_body_deliver(h);
        if (h1_is_gone(h) && !h->r->told_gone)
            h1_tell_gone(h);
        break;
    case H1_WEBSOCKET:
        h1_ws_readable(h);
        break;
    case H1_SKIP_BODY:
        readable_skip(h);
        break;
    case H1_CLOSED:
    case H1_STATES:
        break;
    }
}

/* --- a request -------------------------------------------------------------------------------- */

void
h1_begin(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    const struct http_request *req = &r->req;
    r->began_ns = h->app->net->now_ns;
    tally_begin(h);
    if (h->app->conf->request_id)
        request_id_take(h);
    size_t method = req->method.n < sizeof(r->what) / 2 ? req->method.n : sizeof(r->what) / 2;
    size_t path =
        req->path.n < sizeof(r->what) - method - 1 ? req->path.n : sizeof(r->what) - method - 1;
    memcpy(r->what, req->method.p, method);
    r->what[method] = ' ';
    memcpy(r->what + method + 1, req->path.p, path);
    r->what_n = (uint8_t)(method + 1 + path);
    r->body_start = r->body_end = c->in_start;
    r->is_body_done = !req->has_body;
    if (req->has_body) {
        r->continue_due = req->expects_continue && c->in_end == c->in_start;
        r->body_left = r->is_chunked_in ? 0 : req->content_length;
        int status = h1_body_decode(h);
        if (status != 0) {
            h1_refuse(h, status);
            return;
        }
    }
    h->asked = true;
    r->told_gone = h1_is_gone(h);
    conn_deadline(c, 0);
    h1_to(h, H1_IN_HAND);
    conn_pin(c);
    h->app->in_hand++;
    h->app->begun++;
    if (UNLIKELY(h->app->answers_health) && h1_answer_health(h))
        return;
    if (UNLIKELY(h->app->answers_metrics) && http_asks_metrics(h->app->conf, req)) {
        h1_answer_metrics(h, metrics_area());
        h1_end(h);
        return;
    }
    if (UNLIKELY(h->app->own.statics != NULL) && h1_answer_static(h))
        return;
    if (!gate_passes(h))
        return;
    if (!r->is_body_done && c->readable)
        conn_resume(c);
    h->app->begin(h->app, h); /* may end it */
}

void
h1_ws_begin(struct h1 *h)
{
    gate_leave(h);
    h1_to(h, H1_WEBSOCKET);
    h->app->websockets++;
}

void
h1_head_done(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    if (r->is_head_taken)
        return;
    if (access_is_on(h->app))
        access_keep(h);
    r->is_head_taken = true;
    h1_head_give(h);
    r->req.method = r->req.target = r->req.path = r->req.query = (struct slice){ 0 };
    h1_body_release(h);
    if (!r->is_body_done && c->readable)
        conn_resume(c);
}

void
h1_tell_gone(struct h1 *h)
{
    struct h1_req *r = h->r;
    r->told_gone = true;
    r->want = false;
    if (r->is_waiting)
        gate_client_left(h);
    else if (!r->is_static)
        h->app->event(h->app, h, HTTP_GONE);
    else if (h1_is_broken(h))
        h1_end(h);
}

void
h1_refuse(struct h1 *h, int status)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    if (h->state == H1_IN_HAND) {
        if (!r->sending)
            h1_write_own(h, status, true);
        r->refused = true;
        conn_finish(c, true);
        h1_tell_gone(h);
        return;
    }
    if (h->state == H1_HEAD && h1_req_take(h) == 0) {
        r = h->r;
        r->began_ns = h->app->net->now_ns;
        r->keep_alive = false;
        tally_begin(h);
        h1_write_own(h, status, true);
        access_note(h);
    }
    finish(h, true);
}

/* Ready for another request, or for the end of the stream. */
static void
next_request(struct h1 *h)
{
    struct conn *c = &h->conn;
    h1_req_give(h);
    h1_to(h, H1_HEAD);
    if (has_input(h)) {
        /* while answers wait, timeouts.send counts */
        deadline_in(h, conn_is_full(c) ? 0 : h->app->conf->timeout_header_ms);
        /* parsed in the next turn, so that a long pipeline does not keep others waiting */
        conn_resume(c);
        return;
    }
    conn_in_drop(c);
    if (c->eof) {
        finish(h, false);
        return;
    }
    deadline_idle(h);
    if (c->readable)
        conn_resume(c);
}

/* An answer without a length that was cut off: only a reset tells the client that it is not whole.
 * */
void
h1_reset(struct h1 *h)
{
    struct conn *c = &h->conn;
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 },
               sizeof(struct linger));
    conn_close(c);
}

void
h1_end(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    ASSERT(h->state == H1_IN_HAND || h->state == H1_WEBSOCKET);
    h->app->net->now_ns = clock_ns(); /* the application may have run for long: deadlines follow */
    tally_answer(h);
    access_note(h);
    h->app->in_hand--;
    gate_leave(h);
    h->app->websockets -= h->state == H1_WEBSOCKET;
    h1_head_give(h);
    r->is_head_taken = true;
    if (h->state == H1_WEBSOCKET)
        h1_ws_part(h);
    conn_unpin(c);
    if (r->refused || c->broken || c->state != CONN_OPEN) {
        h1_req_give(h);
        h1_to(h, H1_CLOSED);
        if (c->broken)
            conn_close(c);
        return;
    }
    if (h->state == H1_WEBSOCKET) {
        finish(h, true);
        return;
    }
    if (!r->finished) {
        conn_out_cancel(c);
        if (r->until_close) {
            h1_req_give(h);
            h1_to(h, H1_CLOSED);
            h1_reset(h);
        } else {
            finish(h, true);
        }
        return;
    }
    uint64_t missing = h1_body_missing(h);
    if (r->close) {
        /* A client that said it would send no more needs no lingering: nothing can come that would
         * make a reset. */
        finish(h, !(r->client_closes && missing == 0 && !has_input(h) && !c->readable));
    } else if (missing == 0) {
        next_request(h);
    } else if (r->continue_due || c->eof || (missing > H1_SKIP_BODY_MAX && missing != UINT64_MAX)) {
        finish(h, true);
    } else {
        r->skip_from = r->body_got;
        r->want = false;
        r->body_start = r->body_end;
        h1_body_release(h);
        h1_to(h, H1_SKIP_BODY);
        deadline_in(h, H1_SKIP_BODY_MS);
        if (c->readable)
            conn_resume(c);
    }
}

/* --- other events of the connection ----------------------------------------------------------- */

static void
h1_drained(struct conn *c)
{
    struct h1 *h = h1_of(c);
    if (h->state == H1_IN_HAND && h->r->finished)
        access_note(h);
    if (h->state == H1_IN_HAND && h->r->is_static) {
        h1_end(h);
    } else if (h->state == H1_IN_HAND || h->state == H1_WEBSOCKET) {
        h->app->event(h->app, h, HTTP_DRAINED);
    } else if (h->state == H1_HEAD) {
        if (has_input(h))
            deadline_in(h, h->app->conf->timeout_header_ms);
        conn_resume(c);
    }
}

/* We close an idle connection, at the drain or because it came by a sibling's socket, unless a request has come in this very moment. Where the client has all that was sent, no lingering is
 * needed: a request that crosses our end finds a closed connection either way. */
static void
leave_idle(struct h1 *h)
{
    struct conn *c = &h->conn;
    int unsent = 1;
    conn_look(c);
    readable_head(h);
    if (h->state != H1_HEAD || has_input(h) || c->broken)
        return;
    (void)ioctl(c->fd, SIOCOUTQ, &unsent);
    finish(h, unsent > 0 || c->out_bytes > 0);
}

static void
h1_timeout(struct conn *c)
{
    struct h1 *h = h1_of(c);
    bool has_begun = h->state == H1_HEAD && has_input(h);
    if (has_begun || (h->state == H1_IN_HAND && h->r->want))
        h1_refuse(h, 408);
    else if (h->state == H1_WEBSOCKET)
        h1_ws_timeout(h);
    else if (h->state == H1_HEAD && (h->app->draining || c->is_guest))
        leave_idle(h);
    else if (h->state == H1_HEAD || h->state == H1_SKIP_BODY)
        finish(h, true); /* it said nothing, or was answered: it hears no more */
}

static void
h1_broken(struct conn *c, int err)
{
    struct h1 *h = h1_of(c);
    if (err == -ENOMEM)
        log_error("no memory to answer a request; the connection is closed");
    if (err == -ENODATA)
        log_error("%.*s: a file became shorter while it was sent; the connection is closed",
                  h->r != NULL ? h->r->what_n : 1, h->r != NULL ? h->r->what : "-");
    if (h->state == H1_IN_HAND) {
        h1_tell_gone(h);
        return;
    }
    if (h->state == H1_WEBSOCKET) {
        h1_ws_broken(h);
        return;
    }
    h1_head_give(h);
    h1_req_give(h);
    if (h->state != H1_CLOSED)
        h1_to(h, H1_CLOSED);
    conn_close(c);
}

static void
h1_freed(struct conn *c)
{
    struct h1 *h = h1_of(c);
    if (h->r != NULL) /* net_fini() in the middle of a request */
        gate_leave(h);
    h1_head_give(h);
    h1_req_give(h);
    if (h->state == H1_IN_HAND || h->state == H1_WEBSOCKET)
        h->app->in_hand--;
    h->app->websockets -= h->state == H1_WEBSOCKET;
    if (h->conn_data != NULL)
        h->app->conn_freed(h->app, h->conn_data);
}

static void
h1_release(struct conn *c, void *owner)
{
    struct http_app *app = h1_of(c)->app;
    app->release(app, owner);
}

static void
h1_flushed(struct net *net)
{
    tally_turn(net->ops->app);
}

int
http_init(struct http_app *app, struct conn_ops *ops)
{
    const struct conf *conf = app->conf;
    app->answers_health =
        conf->health_bind == NULL && (conf->health_live != NULL || conf->health_ready != NULL);
    app->answers_metrics = conf->metrics_enabled && conf->metrics_bind == NULL;
    app->draining = app->is_unready = false;
    app->in_hand = app->websockets = 0;
    app->own = (struct http_own){ 0 };
    *ops = (struct conn_ops){
        .size = sizeof(struct h1),
        .opened = h1_opened,
        .misplaced = h1_misplaced,
        .readable = h1_readable,
        .drained = h1_drained,
        .timeout = h1_timeout,
        .broken = h1_broken,
        .freed = h1_freed,
        .release = h1_release,
        .flushed = h1_flushed,
        .app = app,
    };
    list_init(&app->own.gate.waiting);
    list_init(&app->own.gate.left);
    list_init(&app->own.gate.timed);
    list_init(&app->own.gate.due);
    list_init(&app->own.gate.streams);
    h1_ws_configure(app);
    int err = ws_shared_init(&app->own.ws);
    if (err == 0 && ((err = status_init(app)) < 0 || (err = statics_init(app)) < 0 ||
                     (err = access_init(app)) < 0 || (err = request_id_init(app)) < 0))
        ws_shared_fini(&app->own.ws);
    return err;
}

void
http_fini(struct http_app *app)
{
    h1_pools_fini(app);
    statics_fini(app);
    ws_shared_fini(&app->own.ws);
    buf_free(&app->own.headers);
    access_fini(app);
}

/* An idle connection is to end soon. */
static void
hasten(struct h1 *h)
{
    if (h->conn.state == CONN_HANDSHAKE) /* ours only once that is done */
        conn_deadline(&h->conn, h->conn.net->now_ns + H1_DRAIN_FRESH_MS * NS_PER_MS);
    else if (h->state == H1_HEAD && h->conn.state == CONN_OPEN && !has_input(h))
        deadline_drain(h);
}

void
http_drain(struct http_app *app)
{
    app->draining = true;
    LIST_FOR_EACH(node, &app->net->conns)
        hasten(h1_of(CONTAINER_OF(node, struct conn, all)));
    h1_ws_drain(app);
    streams_drain(app);
}

void
http_leave_guests(struct http_app *app)
{
    LIST_FOR_EACH(node, &app->net->conns) {
        struct conn *c = CONTAINER_OF(node, struct conn, all);
        if (c->is_guest && c->state == CONN_OPEN)
            hasten(h1_of(c));
    }
}

/* --- for the application ---------------------------------------------------------------------- */

const struct http_request *
h1_request(const struct h1 *h)
{
    return &h->r->req;
}

void **
h1_data(struct h1 *h)
{
    return &h->r->data;
}

void **
h1_conn_data(struct h1 *h)
{
    return &h->conn_data;
}

const struct sockaddr_storage *
h1_peer(struct h1 *h)
{
    return conn_peer(&h->conn);
}

const struct sockaddr_storage *
h1_local(struct h1 *h)
{
    return conn_local(&h->conn);
}

bool
h1_is_tls(const struct h1 *h)
{
    return conn_is_tls(&h->conn);
}

struct tls_about *
h1_tls_about(struct h1 *h)
{
    return conn_tls_about(&h->conn);
}

int
h1_overdue(const struct h1 *h)
{
    return h->r->overdue_status;
}

bool
h1_is_broken(const struct h1 *h)
{
    return h->r->refused || h->conn.broken || h->conn.state != CONN_OPEN;
}

void
h1_hang_up(struct h1 *h)
{
    conn_hang_up(&h->conn);
}

bool
h1_is_gone(const struct h1 *h)
{
    /* The end may be known before the last bytes of the body were read: those come first. */
    return h1_is_broken(h) || (h->conn.gone && (h->r->is_body_done || h->conn.eof));
}
