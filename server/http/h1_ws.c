/* h1_ws.c: a connection that became a WebSocket: the answer to its opening request, reading with
 * back-pressure, pings, the closing handshake, the drain.
 *
 *     ASKED --accept--> OPEN --our Close--> CLOSING --the peer's, or time--> OVER
 *                         `--its Close (answered), a fault of its, the end of the stream--^
 *
 * Whole messages wait in a list until the application takes them; when there are too many, or they
 * are too large, the connection is read no further. Frames that are not messages cost no Python.
 *
 * struct h1_ws (h1.h) lies in its request where others have their body: an idle WebSocket has no
 * memory of its own here. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "chars.h"
#include "h1.h"

#include "metrics/metrics.h"

enum {
    CLOSE_MS = 10 * 1000,     /* for the peer to answer our Close */
    REST_MS = 30 * 1000,      /* compressors rest after so long, where there are no pings */
    QUEUED_BYTES = 64 * 1024, /* of messages that wait, above which reading stops */
    DRAIN_BUSY_MS = 2 * 1000, /* the drain waits so long for the answer to what has come */
    ANSWER_ROOM = 512,        /* of the 101 beside the application's headers */
};

enum ws_state { WS_ASKED, WS_OPEN, WS_CLOSING, WS_OVER };

/* --- the opening request ------------------------------------------------------------------------- */

void
h1_ws_configure(struct http_app *app)
{
    const struct conf *conf = app->conf;
    struct ws_shared *shared = &app->own.ws;
    shared->size_max = conf->ws_max_size;
    shared->deflate = (struct ws_deflate_conf){
        .is_on = conf->ws_deflate,
        .window_bits = (uint8_t)conf->ws_deflate_window_bits,
        .mem_level = (uint8_t)conf->ws_deflate_mem_level,
        .level = (uint8_t)conf->ws_deflate_level,
        .no_takeover = conf->ws_deflate_no_takeover,
        .size_min = conf->ws_deflate_min_size,
        .memory_max = conf->ws_deflate_memory,
    };
}

/* What accept may choose from: the request's headers do not last so long. 0 or -ENOMEM. */
static int
keep_subprotocols(struct h1_ws *w, const struct http_request *req)
{
    struct buf all = { 0 };
    for (unsigned i = 0; i < req->headers_n; i++) {
        const struct http_header *v = &req->headers[i];
        if (slice_is(v->name, "sec-websocket-protocol") &&
            (buf_append(&all, v->value.p, v->value.n) < 0 || buf_append(&all, ",", 1) < 0)) {
            buf_free(&all);
            return -ENOMEM;
        }
    }
    if (all.n > 0)
        all.p[all.n - 1] = '\0';
    w->reason = all.p;
    return 0;
}

static bool
is_offered(const struct h1_ws *w, struct slice subprotocol)
{
    struct slice list = { w->reason, w->reason != NULL ? strlen(w->reason) : 0 }, one;
    while (h1_list_next(&list, &one)) {
        if (one.n == subprotocol.n && memcmp(one.p, subprotocol.p, one.n) == 0)
            return true;
    }
    return false;
}

int
h1_ws_check(struct h1 *h, bool is_upgrade)
{
    struct http_app *app = h->app;
    struct ws_shared *shared = &app->own.ws;
    struct http_request *req = &h->r->req;
    struct ws_handshake hs = { 0 };
    struct ws_deflate_conf deflate = shared->deflate;
    if (!app->serves_websockets || !app->conf->ws_enabled)
        return 0;
    if (deflate.memory_max > 0 && shared->compressors_bytes >= deflate.memory_max)
        deflate.is_on = false;
    for (unsigned i = 0; i < req->headers_n; i++)
        ws_handshake_header(&hs, &deflate, req->headers[i].name, req->headers[i].value);
    /* A proxy that does not know Upgrade drops Connection and may pass on the rest: without a sign
     * of a WebSocket's client that is a request like others. */
    if (!is_upgrade && hs.keys == 0 && hs.versions == 0)
        return 0;
    if (!is_upgrade || !slice_is(req->method, "GET") || req->version_minor == 0 || req->has_body)
        return 400;
    int status = ws_handshake_end(&hs);
    if (status != 0)
        return status;
    struct h1_ws *w = &h->r->ws;
    if (keep_subprotocols(w, req) < 0)
        return 503;
    ws_init(&w->ws, shared, &hs.agreed);
    w->code = WS_ABNORMAL;
    memcpy(w->accept, hs.accept, sizeof(w->accept));
    req->is_websocket = true;
    return 0;
}

static void
put_last(struct h1_ws *w, struct ws_message *m)
{
    m->next = w->last != NULL ? w->last->next : m;
    if (w->last != NULL)
        w->last->next = m;
    w->last = m;
    w->queued++;
    w->queued_bytes += m->n;
}

/* The caller's to free(); NULL = none waits. */
static struct ws_message *
take_first(struct h1_ws *w)
{
    if (w->last == NULL)
        return NULL;
    struct ws_message *m = w->last->next;
    if (m == w->last)
        w->last = NULL;
    else
        w->last->next = m->next;
    m->next = NULL;
    w->queued--;
    w->queued_bytes -= m->n;
    return m;
}

static void
forget_messages(struct h1_ws *w)
{
    for (struct ws_message *m; (m = take_first(w)) != NULL;)
        free(m);
}

void
h1_ws_fini(struct h1_ws *w)
{
    forget_messages(w);
    ws_fini(&w->ws);
    free(w->reason);
}

/* --- time ---------------------------------------------------------------------------------------- */

static int64_t
now_of(struct h1 *h)
{
    return h->app->net->now_ns;
}

static void
arm(struct h1 *h)
{
    const struct h1_ws *w = &h->r->ws;
    const int64_t dues[] = { w->tick_ns, w->pong_ns, w->close_ns, w->drain_ns };
    int64_t due = 0;
    for (size_t i = 0; i < ARRAY_LEN(dues); i++) {
        if (dues[i] != 0 && (due == 0 || dues[i] < due))
            due = dues[i];
    }
    conn_deadline(&h->conn, due);
}

static int64_t
tick_after(struct h1 *h)
{
    int64_t ms = h->app->conf->ws_ping_interval_ms;
    return now_of(h) + (ms > 0 ? ms : REST_MS) * NS_PER_MS;
}

/* --- out ----------------------------------------------------------------------------------------- */

/* One frame, copied. */
static void
put_frame(struct h1 *h, enum ws_kind kind, bool is_deflated, const char *p, size_t n)
{
    struct conn *c = &h->conn;
    size_t room, head_n;
    char head[WS_HEAD_MAX];
    if (LIKELY(n <= NET_COPY_MAX)) {
        char *out = conn_out(c, n + WS_HEAD_MAX, &room);
        if (out == NULL) {
            conn_fail(c, -ENOMEM); /* nothing, where it is broken already */
            return;
        }
        head_n = ws_head(&h->app->own.ws, out, kind, is_deflated, n);
        if (n > 0)
            memcpy(out + head_n, p, n);
        conn_out_commit(c, head_n + n);
        return;
    }
    head_n = ws_head(&h->app->own.ws, head, kind, is_deflated, n);
    if (conn_write(c, head, head_n) < 0 || conn_write(c, p, n) < 0)
        conn_fail(c, -ENOMEM);
}

/* Whoever has our Close has seen the end: the access log's line goes before it, as that of an answer goes before its last piece, and does not wait for
 * the application to return. A worker that is killed in between has written it. */
static void
put_close(struct h1 *h, unsigned code, struct slice reason)
{
    char payload[WS_CONTROL_MAX];
    access_note(h);
    size_t n = ws_close_payload(payload, code, reason);
    put_frame(h, WS_KIND_CLOSE, false, payload, n);
}

enum http_write
h1_ws_send(struct h1 *h, bool is_text, const char *p, size_t n, void *owner)
{
    struct conn *c = &h->conn;
    struct h1_ws *w = &h->r->ws;
    enum ws_kind kind = is_text ? WS_TEXT : WS_BINARY;
    struct slice squeezed;
    if (w->state != WS_OPEN || c->broken || c->state != CONN_OPEN) {
        if (owner != NULL)
            h->app->release(h->app, owner);
        return HTTP_BROKEN;
    }
    w->has_sent = true;
    h->r->sent += n;
    tally_message(false, n);
    if (ws_squeeze(&w->ws, p, n, &squeezed)) {
        put_frame(h, kind, true, squeezed.p, squeezed.n);
    } else if (owner != NULL && n > NET_COPY_MAX) {
        char head[WS_HEAD_MAX];
        size_t head_n = ws_head(&h->app->own.ws, head, kind, false, n);
        if (conn_write(c, head, head_n) < 0) {
            conn_fail(c, -ENOMEM);
        } else {
            void *given = owner;
            owner = NULL; /* released in any case from here on */
            if (conn_write_held(c, p, n, given) < 0)
                conn_fail(c, -ENOMEM);
        }
    } else {
        put_frame(h, kind, false, p, n);
    }
    if (owner != NULL)
        h->app->release(h->app, owner);
    if (c->broken)
        return HTTP_BROKEN;
    return conn_is_full(c) ? HTTP_FULL : HTTP_OK;
}

/* --- the end ------------------------------------------------------------------------------------- */

/* Nothing more is said: how the peer said so, in what the application is told. */
static void
end(struct h1 *h, unsigned code, struct slice reason)
{
    struct h1_ws *w = &h->r->ws;
    if (w->state != WS_ASKED) {
        tally_closed(code);
        access_note(h);
    }
    w->state = WS_OVER;
    w->code = (uint16_t)code;
    if (reason.n > 0 && (w->reason = malloc(reason.n)) != NULL) {
        memcpy(w->reason, reason.p, reason.n);
        w->reason_n = (uint8_t)reason.n;
    }
    w->tick_ns = w->pong_ns = w->close_ns = w->drain_ns = 0;
    ws_fini(&w->ws);
    h1_tell_gone(h);
}

static void
end_and_finish(struct h1 *h, unsigned code, struct slice reason, bool linger)
{
    end(h, code, reason);
    conn_finish(&h->conn, linger);
}

/* The peer's Close, or its fault, is answered, and is what the application is told. */
static void
end_as_read(struct h1 *h)
{
    struct h1_ws *w = &h->r->ws;
    bool is_close = w->ending == WS_CLOSED;
    struct slice reason = is_close ? ws_control(&w->ws) : SLICE("");
    if (w->state == WS_OPEN)
        put_close(h, w->ws.code,
                  reason);   /* a browser shows its page what comes back, not what it has sent */
    if (w->state != WS_OVER) /* sending may have failed */
        end_and_finish(h, is_close ? w->ws.code : WS_ABNORMAL, reason, true);
}

void
h1_ws_broken(struct h1 *h)
{
    struct h1_ws *w = &h->r->ws;
    bool is_close = w->ending == WS_CLOSED;
    if (w->state != WS_OVER)
        end(h, is_close ? w->ws.code : WS_ABNORMAL, is_close ? ws_control(&w->ws) : SLICE(""));
}

static void
begin_close(struct h1 *h, unsigned code, struct slice reason)
{
    struct h1_ws *w = &h->r->ws;
    put_close(h, code, reason);
    if (h->conn.broken)
        return;
    w->state = WS_CLOSING;
    w->tick_ns = w->pong_ns = w->drain_ns = 0;
    w->close_ns = now_of(h) + CLOSE_MS * NS_PER_MS;
    arm(h);
    conn_resume(&h->conn); /* what was left unread may be the peer's Close */
}

void
h1_ws_close(struct h1 *h, unsigned code, struct slice reason)
{
    if (h->r->ws.state != WS_OPEN)
        return;
    h->app->net->now_ns = clock_ns();
    forget_messages(&h->r->ws); /* nobody asks for them any more */
    if (h->r->ws.ending != WS_NOTHING) {
        end_as_read(h);
        return;
    }
    begin_close(h, code, reason);
}

/* h1_end() of a WebSocket: the application has returned. */
void
h1_ws_part(struct h1 *h)
{
    if (h->r->ws.state == WS_OPEN && h->r->ws.ending != WS_NOTHING)
        end_as_read(h);
    else if (h->r->ws.state == WS_OPEN && !h->conn.broken)
        put_close(h, h->app->draining ? h->app->conf->ws_drain_code : WS_NORMAL, SLICE(""));
}

/* --- in ------------------------------------------------------------------------------------------ */

static bool
reads_on(struct h1 *h)
{
    const struct h1_ws *w = &h->r->ws;
    if (w->ending != WS_NOTHING)
        return false;
    if (w->state == WS_CLOSING)
        return true;
    return w->state == WS_OPEN && w->queued < h->app->conf->ws_queue &&
           w->queued_bytes < QUEUED_BYTES;
}

/* Has the peer said what is not yet answered, as far as can be known? */
static bool
is_busy(const struct h1 *h)
{
    const struct h1_ws *w = &h->r->ws;
    return w->queued > 0 || w->in_hand || w->ws.in_message || w->ws.frame != NULL ||
           h->conn.in != NULL || h->conn.readable;
}

static void
leave_when_idle(struct h1 *h)
{
    const struct h1_ws *w = &h->r->ws;
    if (w->is_leaving && w->state == WS_OPEN && w->ending == WS_NOTHING && !is_busy(h))
        begin_close(h, h->app->conf->ws_drain_code, SLICE(""));
}

static void
take_message(struct h1 *h)
{
    struct h1_ws *w = &h->r->ws;
    struct ws_message *m = ws_take(&w->ws);
    tally_message(true, m->n);
    if (w->state != WS_OPEN) {
        free(m);
        return;
    }
    if (m->cap > 2 * m->n + 64) { /* it may wait for long */
        struct ws_message *smaller = realloc(m, sizeof(*m) + m->n);
        if (smaller != NULL) {
            m = smaller;
            m->cap = m->n;
        }
    }
    put_last(w, m);
    if (w->want) {
        w->want = false;
        h->app->event(h->app, h, HTTP_MESSAGE);
    }
}

static void
feed(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_ws *w = &h->r->ws;
    struct slice input = { "", 0 };
    if (c->in != NULL)
        input = (struct slice){ c->in->data + c->in_start, c->in_end - c->in_start };
    enum ws_event event;
    while (reads_on(h) && (event = ws_read(&w->ws, &input)) != WS_NOTHING) {
        struct slice control = ws_control(&w->ws);
        switch (event) {
        case WS_MESSAGE:
            take_message(h);
            break;
        case WS_PING:
            /* A peer that pings and does not read gets no answer: it must not fill our memory
             * (RFC 6455 section 5.5.3 lets the latest answer stand for all). */
            if (w->state == WS_OPEN && !conn_is_full(c))
                put_frame(h, WS_KIND_PONG, false, control.p, control.n);
            break;
        case WS_CLOSED:
        case WS_FAILED:
            w->ending = event;
            if (w->queued > 0 && w->state == WS_OPEN) {
                /* What came before is answered before: the end waits until the application asks for
                 * more than it has taken. */
                w->tick_ns = w->pong_ns = w->drain_ns = 0;
                w->close_ns = now_of(h) + CLOSE_MS * NS_PER_MS;
                arm(h);
            } else {
                end_as_read(h);
            }
            break;
        case WS_PONG:
        case WS_NOTHING:
            break;
        }
    }
    if (c->in == NULL)
        return;
    c->in_start = c->in_end - (uint32_t)input.n;
    if (c->in_start == c->in_end || w->state == WS_OVER)
        conn_in_drop(c);
}

void
h1_ws_readable(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_ws *w = &h->r->ws;
    if (w->state == WS_OVER || !reads_on(h))
        return;
    feed(h); /* what was left when reading stopped */
    if (w->state != WS_OVER && reads_on(h) && c->readable) {
        if (c->in == NULL && ws_missing(&w->ws) > NET_BLOCK && conn_in_grow(c, NET_BIG_BLOCK) < 0)
            log_debug("no memory for a large block: a message is read in small ones");
        int n = conn_read(c);
        if (n > 0) {
            w->pong_ns = 0; /* a sign of life, whatever it says */
            feed(h);
        } else if (n == 0) {
            end_and_finish(h, WS_ABNORMAL, SLICE(""), false);
        } else if (n == -ENOMEM) {
            put_close(h, WS_INTERNAL_ERROR, SLICE(""));
            if (w->state != WS_OVER)
                end_and_finish(h, WS_ABNORMAL, SLICE(""), true);
        } else if (c->in != NULL && c->in_start == c->in_end) {
            conn_in_drop(c);
        }
    }
    if (w->state != WS_OVER && c->readable && reads_on(h))
        conn_resume(c);
    leave_when_idle(h);
}

void
h1_ws_timeout(struct h1 *h)
{
    struct h1_ws *w = &h->r->ws;
    const struct conf *conf = h->app->conf;
    int64_t now = now_of(h);
    if (w->state == WS_OVER)
        return;
    if (w->close_ns != 0 && now >= w->close_ns && w->ending != WS_NOTHING) {
        end_as_read(h);
        return;
    }
    if (w->close_ns != 0 && now >= w->close_ns) {
        end_and_finish(h, WS_ABNORMAL, SLICE(""), true);
        return;
    }
    if (w->drain_ns != 0 && now >= w->drain_ns) {
        if (w->is_leaving || !is_busy(h)) {
            begin_close(h, conf->ws_drain_code, SLICE(""));
            return;
        }
        /* What an application sends behind our Close would be lost, and an error to it. */
        int64_t most_ms = conf->timeout_graceful_ms / 8;
        w->is_leaving = true;
        w->drain_ns =
            now + (most_ms > 0 && most_ms < DRAIN_BUSY_MS ? most_ms : DRAIN_BUSY_MS) * NS_PER_MS;
    }
    if (w->pong_ns != 0 && now >= w->pong_ns) {
        /* Its sign of life may be what the application has not yet taken the messages before: then
         * the kernel is asked whether the pings arrive. */
        if ((reads_on(h) && !h->conn.readable) ||
            conn_is_unreachable(&h->conn, conf->ws_ping_timeout_ms)) {
            put_close(h, WS_INTERNAL_ERROR, SLICE("no answer to a ping"));
            if (w->state != WS_OVER)
                end_and_finish(h, WS_ABNORMAL, SLICE(""), true);
            return;
        }
        w->pong_ns = now + conf->ws_ping_timeout_ms * NS_PER_MS;
    }
    if (w->tick_ns != 0 && now >= w->tick_ns) {
        if (!w->has_sent)
            ws_rest(&w->ws);
        w->has_sent = false;
        w->tick_ns = tick_after(h);
        if (conf->ws_ping_interval_ms > 0 && !conn_is_full(&h->conn)) {
            put_frame(h, WS_KIND_PING, false, "", 0);
            if (w->state != WS_OPEN)
                return;
            if (w->pong_ns == 0 && conf->ws_ping_timeout_ms > 0)
                w->pong_ns = now + conf->ws_ping_timeout_ms * NS_PER_MS;
        }
    }
    arm(h);
}

/* --- the drain ----------------------------------------------------------------------------------- */

void
h1_ws_drain(struct http_app *app)
{
    const struct conf *conf = app->conf;
    int64_t spread_ms = conf->ws_drain_ms, graceful_ms = conf->timeout_graceful_ms;
    unsigned n = 0, i = 0;
    if (graceful_ms > 0 && spread_ms > graceful_ms * 3 / 4)
        spread_ms = graceful_ms * 3 / 4; /* the last one must have the time to answer */
    LIST_FOR_EACH(node, &app->net->conns)
        n += h1_of(CONTAINER_OF(node, struct conn, all))->state == H1_WEBSOCKET;
    LIST_FOR_EACH(node, &app->net->conns) {
        struct h1 *h = h1_of(CONTAINER_OF(node, struct conn, all));
        if (h->state != H1_WEBSOCKET || h->r->ws.state != WS_OPEN)
            continue;
        h->r->ws.drain_ns = now_of(h) + 1 + spread_ms * NS_PER_MS / n * i++;
        arm(h);
    }
}

/* --- for the application ------------------------------------------------------------------------- */

static char *
put(char *p, struct slice s)
{
    memcpy(p, s.p, s.n);
    return p + s.n;
}

/* What the handshake itself says. */
static bool
is_ours(struct slice name)
{
    static const char *const names[] = {
        "upgrade",           "connection",           "content-length",
        "transfer-encoding", "sec-websocket-accept", "sec-websocket-extensions",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (slice_is_nocase(name, names[i]))
            return true;
    }
    return false;
}

enum http_write
h1_ws_accept(struct h1 *h, struct slice subprotocol, const struct http_header *headers, size_t n,
             size_t *bad)
{
    struct http_app *app = h->app;
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    struct h1_ws *w = &r->ws;
    bool has_date = false, has_server = false;
    if (h1_is_broken(h))
        return HTTP_BROKEN;
    DEBUG_ASSERT(w->state == WS_ASKED && !r->started);
    size_t i, need = ANSWER_ROOM + subprotocol.n + app->own.headers.n, room;
    for (i = 0; i < n; i++)
        need += headers[i].name.n + headers[i].value.n + 4;
    char *start = conn_out(c, need, &room), *p = start;
    if (p == NULL) {
        conn_fail(c, -ENOMEM);
        return HTTP_BROKEN;
    }
    p = put(
        p, SLICE("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                 "sec-websocket-accept: "));
    p = put(put(p, (struct slice){ w->accept, WS_ACCEPT_LEN }), SLICE("\r\n"));
    if (subprotocol.p != NULL) {
        struct http_header v = { SLICE("sec-websocket-protocol"), subprotocol };
        enum http_write err = HTTP_OK;
        if (subprotocol.n == 0 || !chars_are(subprotocol, CHAR_TOKEN) ||
            !is_offered(w, subprotocol)) {
            conn_out_cancel(c);
            return HTTP_BAD_PROTOCOL;
        }
        p = h1_put_header(p, &v, &err);
    }
    if (w->ws.agreed.is_on) {
        char text[WS_ANSWER_MAX];
        size_t text_n = ws_agreed_text(&w->ws.agreed, text);
        p = put(p, SLICE("sec-websocket-extensions: "));
        p = put(put(p, (struct slice){ text, text_n }), SLICE("\r\n"));
    }
    for (i = 0; i < n; i++) {
        enum http_write err = HTTP_OK;
        char *next = h1_put_header(p, &headers[i], &err);
        if (next != NULL && slice_is_nocase(headers[i].name, "sec-websocket-protocol"))
            err = HTTP_BAD_PROTOCOL_HEADER;
        if (err != HTTP_OK) {
            *bad = i;
            conn_out_cancel(c);
            return err;
        }
        if (is_ours(headers[i].name))
            continue;
        has_date |= slice_is_nocase(headers[i].name, "date");
        has_server |= slice_is_nocase(headers[i].name, "server");
        p = next;
    }
    p = h1_put_own(p, app, has_server, has_date);
    p = request_id_put(p, h, headers, n);
    p = put(p, SLICE("\r\n"));
    conn_out_commit(c, (size_t)(p - start));
    r->status = 101;
    r->started = r->sending = r->finished = true;
    app->net->now_ns = clock_ns();
    free(w->reason);
    w->reason = NULL;
    w->state = WS_OPEN;
    w->pong_ns = w->close_ns = 0;
    w->tick_ns = tick_after(h);
    w->drain_ns = app->draining ? now_of(h) : 0;
    h1_ws_begin(h);
    tally_answer(h);
    metrics_add(&metrics_here->loop.ws_accepted, 1);
    arm(h);
    conn_resume(c);
    return HTTP_OK;
}

struct ws_message *
h1_ws_next(struct h1 *h)
{
    struct h1_ws *w = &h->r->ws;
    if (w->last == NULL) {
        w->in_hand = false;
        if (w->ending != WS_NOTHING && w->state == WS_OPEN) {
            end_as_read(h);
        } else if (w->is_leaving) {
            h->app->net->now_ns = clock_ns();
            leave_when_idle(h);
        }
        w->want = w->state != WS_OVER;
        return NULL;
    }
    bool stood_still = !reads_on(h);
    w->in_hand = true;
    struct ws_message *m = take_first(w);
    if (stood_still && reads_on(h))
        conn_resume(&h->conn);
    return m;
}

bool
h1_ws_is_over(const struct h1 *h, unsigned *code, struct slice *reason)
{
    const struct h1_ws *w = &h->r->ws;
    *code = w->code;
    *reason = (struct slice){ w->reason != NULL ? w->reason : "", w->reason_n };
    if (w->state == WS_ASKED)
        return h1_is_gone(h) || h->r->finished;
    return w->state == WS_OVER;
}

bool
h1_ws_is_open(const struct h1 *h)
{
    return h->r->ws.state == WS_OPEN && !h->conn.broken;
}
