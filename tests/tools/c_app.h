/* c_app.h: an application in plain C behind struct http_app, as asgi/ is one in Python: begin() and
 * event() only note what happened, c_app_run() works it off later. For unit tests and fuzzing.
 *
 *   /hello    "hello"                                /echo     the body, when all of it has come
 *   /scope    what was parsed, one thing a line      /mirror   the body as it comes
 *   /stream   4 KiB pieces without end               /hang     no answer while the client is there
 *   /held/N   N bytes that are lent, not copied      /pieces   three pieces without a length
 *   /len/N/M  Content-Length N, and M bytes          /status/N that status, with a body
 *   /fail     no answer at all                       /half     one chunk, then no more
 * A test may put its own function in c_app.custom for the path /custom. */
#ifndef RINGCORN_TESTS_C_APP_H
#define RINGCORN_TESTS_C_APP_H

#include <stdio.h>
#include <stdlib.h>

#include "http/http.h"

struct c_app;

struct c_req {
    struct list link;
    struct c_app *app;
    struct h1 *h; /* NULL after h1_end() */
    void (*step)(struct c_req *q);
    unsigned events; /* enum http_event since the last step */
    struct buf body;
    struct buf scope;
    uint64_t a, b; /* the route's numbers */
    bool began, gone, waiting;
};

struct c_app {
    struct http_app http; /* first */
    struct net net;
    struct conf conf;
    struct conn_ops ops;
    struct list todo;
    void (*custom)(struct c_req *q);
    void (*only)(struct c_req *q); /* if set, it answers everything */
    unsigned long begun, ended, lent, released, conns_freed;
    struct c_req *free_reqs;
};

static void
c_note(struct c_req *q)
{
    if (list_is_empty(&q->link))
        list_add_tail(&q->app->todo, &q->link);
}

static void
c_end(struct c_req *q)
{
    struct h1 *h = q->h;
    if (h == NULL)
        return;
    *h1_data(h) = NULL;
    q->h = NULL;
    q->app->ended++;
    h1_end(h);
}

static enum http_write
c_start(struct c_req *q, int status, const char *content_length)
{
    size_t bad;
    struct http_header v[] = {
        { SLICE("content-type"), SLICE("text/plain") },
        { SLICE("content-length"), slice_of(content_length) },
    };
    return h1_start(q->h, status, v, content_length ? 2 : 1, &bad);
}

static void
c_answer(struct c_req *q, int status, const char *p, size_t n)
{
    char length[24];
    snprintf(length, sizeof(length), "%zu", n);
    if (c_start(q, status, length) == HTTP_OK)
        h1_write(q->h, p, n, NULL, true);
    c_end(q);
}

/* Takes what has come of the body. Returns whether it is whole; else waits for more, or ends the
 * request when none will come. */
static bool
c_read_body(struct c_req *q)
{
    struct slice s = h1_body(q->h);
    buf_append(&q->body, s.p, s.n);
    if (s.n > 0)
        h1_body_consumed(q->h);
    if (h1_body_is_complete(q->h))
        return true;
    if (h1_is_gone(q->h))
        c_end(q);
    else
        h1_want_body(q->h);
    return false;
}

static void
c_hello(struct c_req *q)
{
    c_answer(q, 200, "hello", 5);
}

static void
c_echo(struct c_req *q)
{
    if (c_read_body(q))
        c_answer(q, 200, q->body.n ? q->body.p : "", q->body.n);
}

static void
c_scope(struct c_req *q)
{
    if (!c_read_body(q))
        return;
    buf_printf(&q->scope, "body %zu %.*s\n", q->body.n, (int)q->body.n, q->body.n ? q->body.p : "");
    c_answer(q, 200, q->scope.p, q->scope.n);
}

static void
c_mirror(struct c_req *q)
{
    struct slice s = h1_body(q->h);
    bool all = h1_body_is_complete(q->h);
    if (!h1_is_started(q->h) && c_start(q, 200, NULL) != HTTP_OK) {
        c_end(q);
        return;
    }
    if (q->waiting && !(q->events & (HTTP_DRAINED | HTTP_GONE)))
        return;
    q->waiting = false;
    enum http_write w = s.n > 0 || all ? h1_write(q->h, s.p, s.n, NULL, all) : HTTP_OK;
    if (w < 0 || all || h1_is_gone(q->h)) {
        c_end(q);
        return;
    }
    h1_body_consumed(q->h);
    if (w == HTTP_FULL)
        q->waiting = true;
    else
        h1_want_body(q->h);
}

static void
c_stream(struct c_req *q)
{
    static char piece[4096];
    if (!h1_is_started(q->h) && c_start(q, 200, NULL) != HTTP_OK) {
        c_end(q);
        return;
    }
    for (;;) {
        enum http_write w = h1_write(q->h, piece, sizeof(piece), NULL, false);
        if (w == HTTP_FULL)
            return;
        if (w < 0 || h1_request(q->h)->is_head) {
            c_end(q);
            return;
        }
    }
}

static void
c_hang(struct c_req *q)
{
    if (h1_is_gone(q->h))
        c_end(q);
}

static void
c_held(struct c_req *q)
{
    char *p = malloc(q->a + 1);
    memset(p, 'h', q->a);
    q->app->lent++;
    if (c_start(q, 200, NULL) == HTTP_OK)
        h1_write(q->h, p, q->a, p, true);
    else {
        q->app->released++;
        free(p);
    }
    c_end(q);
}

static void
c_pieces(struct c_req *q)
{
    if (c_start(q, 200, NULL) == HTTP_OK) {
        h1_write(q->h, "one ", 4, NULL, false);
        h1_write(q->h, "two ", 4, NULL, false);
        h1_write(q->h, "three", 5, NULL, true);
    }
    c_end(q);
}

static void
c_len(struct c_req *q)
{
    char length[24];
    char *p = calloc(1, q->b + 1);
    snprintf(length, sizeof(length), "%llu", (unsigned long long)q->a);
    if (c_start(q, 200, length) == HTTP_OK && h1_write(q->h, p, q->b, NULL, true) == HTTP_TOO_LONG)
        h1_fail(q->h, 500);
    free(p);
    c_end(q);
}

static void
c_status(struct c_req *q)
{
    size_t bad;
    enum http_write w = h1_start(q->h, (int)q->a, NULL, 0, &bad);
    if (w == HTTP_OK)
        h1_write(q->h, "body", 4, NULL, true);
    else
        h1_fail(q->h, 500);
    c_end(q);
}

static void
c_half(struct c_req *q)
{
    if (c_start(q, 200, NULL) == HTTP_OK)
        h1_write(q->h, "half", 4, NULL, false);
    c_end(q);
}

static void
c_missing(struct c_req *q)
{
    c_answer(q, 404, "no such page\n", 13);
}

static void
c_route(struct c_req *q, struct slice path)
{
    static const struct {
        const char *path;
        void (*step)(struct c_req *q);
    } routes[] = {
        { "/hello", c_hello },   { "/echo", c_echo },     { "/scope", c_scope },
        { "/mirror", c_mirror }, { "/stream", c_stream }, { "/hang", c_hang },
        { "/pieces", c_pieces }, { "/fail", c_end },      { "/half", c_half },
    };
    char text[64];
    unsigned long long a = 0, b = 0;
    snprintf(text, sizeof(text), "%.*s", (int)path.n, path.p);
    q->step = c_missing;
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        if (slice_is(path, routes[i].path))
            q->step = routes[i].step;
    }
    if (sscanf(text, "/held/%llu", &a) == 1)
        q->step = c_held;
    else if (sscanf(text, "/len/%llu/%llu", &a, &b) == 2)
        q->step = c_len;
    else if (sscanf(text, "/status/%llu", &a) == 1)
        q->step = c_status;
    else if (slice_is(path, "/custom") && q->app->custom != NULL)
        q->step = q->app->custom;
    if (q->app->only != NULL)
        q->step = q->app->only;
    q->a = a;
    q->b = b;
}

/* Only where a proxy said something. */
static void
c_describe_proxied(struct c_req *q, const struct http_request *req)
{
    char client[INET6_ADDRSTRLEN];
    const struct http_forwarded *f = &req->forwarded;
    struct net_address peer = net_address_of(h1_peer(q->h));
    const struct net_address *from = f->client.family != AF_UNSPEC ? &f->client : &peer;
    if (!req->is_forwarded && !req->is_https && peer.family == AF_UNIX)
        return;
    net_address_text(from, client);
    buf_printf(&q->scope, "client %s %u https %d server %.*s %u root %.*s\n", client, from->port,
               req->is_https, (int)f->server.n, f->server.n ? f->server.p : "", f->server_port,
               (int)f->root_path.n, f->root_path.n ? f->root_path.p : "");
}

static void
c_describe(struct c_req *q, const struct http_request *req)
{
    struct buf *b = &q->scope;
    buf_printf(b, "method %.*s\ntarget %.*s\npath %.*s\nquery %.*s\nversion 1.%u\n",
               (int)req->method.n, req->method.p, (int)req->target.n, req->target.p,
               (int)req->path.n, req->path.p, (int)req->query.n, req->query.p, req->version_minor);
    for (unsigned i = 0; i < req->headers_n; i++)
        buf_printf(b, "header %.*s|%.*s|\n", (int)req->headers[i].name.n, req->headers[i].name.p,
                   (int)req->headers[i].value.n, req->headers[i].value.p);
    c_describe_proxied(q, req);
}

static void
c_begin(struct http_app *http, struct h1 *h)
{
    struct c_app *app = (struct c_app *)http;
    struct c_req *q = app->free_reqs;
    if (q != NULL)
        app->free_reqs = (struct c_req *)(void *)q->link.next;
    else
        q = malloc(sizeof(*q));
    *q = (struct c_req){ .app = app, .h = h };
    list_init(&q->link);
    *h1_data(h) = q;
    app->begun++;
    c_note(q);
}

static void
c_event(struct http_app *http, struct h1 *h, unsigned events)
{
    struct c_req *q = *h1_data(h);
    (void)http;
    q->events |= events;
    c_note(q);
}

static void
c_release(struct http_app *http, void *owner)
{
    struct c_app *app = (struct c_app *)http;
    app->released++;
    free(owner);
}

static void
c_conn_freed(struct http_app *http, void *data)
{
    (void)data;
    ((struct c_app *)http)->conns_freed++;
}

/* Works off what was noted. Returns the number of steps. */
static unsigned
c_app_run(struct c_app *app)
{
    unsigned steps = 0;
    struct list now;
    list_init(&now);
    list_splice(&now, &app->todo);
    for (struct list *node; (node = list_pop(&now)) != NULL; steps++) {
        struct c_req *q = CONTAINER_OF(node, struct c_req, link);
        if (!q->began) {
            const struct http_request *req = h1_request(q->h);
            q->began = true;
            c_route(q, req->path);
            if (q->step == c_scope)
                c_describe(q, req);
            h1_head_done(q->h);
        }
        q->step(q);
        q->events = 0;
        if (q->h == NULL) {
            list_del(&q->link);
            buf_free(&q->body);
            buf_free(&q->scope);
            q->link.next = (struct list *)(void *)app->free_reqs;
            app->free_reqs = q;
        }
    }
    return steps;
}

static void
c_app_init(struct c_app *app, struct io *io)
{
    app->http.begin = c_begin;
    app->http.event = c_event;
    app->http.release = c_release;
    app->http.conn_freed = c_conn_freed;
    app->http.conf = &app->conf;
    app->http.net = &app->net;
    list_init(&app->todo);
    if (http_init(&app->http, &app->ops) < 0)
        abort();
    net_init(&app->net, io, &app->ops, app->conf.limit_connections,
             app->conf.timeout_send_ms * NS_PER_MS);
    if (net_trust_proxies(&app->net, &app->conf) < 0)
        abort();
}

/* The defaults of the configuration, as far as http/ looks at them. */
static void
c_app_conf(struct c_app *app)
{
    *app = (struct c_app){
        .conf = {
            .timeout_header_ms = 10000,
            .timeout_body_ms = 30000,
            .timeout_send_ms = 60000,
            .timeout_keep_alive_ms = 75000,
            .timeout_body_rate = 240,
            .limit_request_line = 8192,
            .limit_header_size = 65536,
            .limit_headers = 100,
            .server_header = true,
            .date_header = true,
        },
        .http = { .access_fd = -1 },
    };
}

/* One turn, as py/loop.c does it. timeout_ns: at most so long. */
static void
c_app_turn(struct c_app *app, struct io *io, int64_t timeout_ns)
{
    net_flush(&app->net);
    int64_t next = net_next_ns(&app->net);
    if (next >= 0) {
        int64_t in = next == 0 ? 0 : next - clock_ns();
        in = in < 0 ? 0 : in;
        timeout_ns = timeout_ns < 0 || in < timeout_ns ? in : timeout_ns;
    }
    if (!list_is_empty(&app->todo))
        timeout_ns = 0;
    io_wait(io, timeout_ns);
    net_turn(&app->net);
    c_app_run(app);
}

/* After io_close(). Requests that are still in hand go with their connections. */
static void
c_app_fini(struct c_app *app)
{
    net_fini(&app->net);
    http_fini(&app->http);
    for (struct list *node; (node = list_pop(&app->todo)) != NULL;) {
        struct c_req *q = CONTAINER_OF(node, struct c_req, link);
        buf_free(&q->body);
        buf_free(&q->scope);
        free(q);
    }
    for (struct c_req *q; (q = app->free_reqs) != NULL;) {
        app->free_reqs = (struct c_req *)(void *)q->link.next;
        free(q);
    }
}

#endif
