/* health.c: health.bind and metrics.bind: addresses of their own for health.live, health.ready and metrics.path, answered by the master.
 * One small server has both addresses, and answers all these paths on each; the status page (page.c) on metrics.bind alone.
 *
 * The master, not a worker: it is there while the application is imported, while workers drain, and when one of them hangs, which a
 * worker that answers can only say by not answering, of itself alone. The master asks the loops when it is asked itself.
 *
 *   ready   a ready worker answers within PROMPT_MS, and the server does not stop
 *   live    as pulse.c has it
 *
 * The requests go through the same net/ and http/ as the application's, on an epoll of their own that the master polls.
 * Owns:  the address, its connections, what waits for an answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/base.h"
#include "http/http.h"
#include "page.h"
#include "state.h"

enum {
    CONNS_MAX = 64,
    TURNS_MAX = 16,  /* of its loop in one of the master's */
    PROMPT_MS = 500, /* less than the second that Kubernetes gives a probe */
};

/* A request that waits for what workers say. */
struct probe {
    struct list node;
    struct h1 *h;
    enum http_health asked;
    int64_t began_ns;
};

struct health {
    struct conf conf; /* borrows from the configuration in force; with settings of its own */
    struct sockets sockets;
    struct io *io;
    struct net net;
    struct conn_ops ops;
    struct http_app app;
    struct list probes;
    struct listener *listeners[8]; /* a host's name may be several addresses */
    unsigned listeners_n;
    struct conf_bind binds[2]; /* borrowed: as conf's */
    struct metrics *metrics;   /* the master's */
    struct page *page;         /* NULL = metrics.page is off */
};

/* --- the answer ------------------------------------------------------------------------------- */

static bool
is_serving(const struct child *c)
{
    return c->state == CHILD_READY;
}

/* One line a worker. Returns the length. */
static int
describe(const struct master *m, char *out, size_t size)
{
    int64_t now_ns = clock_ns();
    int n = 0;
    CHILDREN_EACH(c, m) {
        static const char *const states[] = { "boots", "is ready", "leaves", "hangs", "hangs" };
        char silence[64] = "";
        if (is_serving(c) && c->pinged_ns != 0)
            snprintf(silence, sizeof(silence), ", its loop has not turned for %.1f s",
                     (double)(now_ns - c->pinged_ns) / NS_PER_S);
        int k = snprintf(out + n, size - (size_t)n, "worker %u (pid %d) %s%s\n", c->slot,
                         (int)c->pid, states[c->state], silence);
        if (k < 0 || (size_t)k >= size - (size_t)n)
            return n; /* so many workers are enough */
        n += k;
    }
    return n;
}

/* 200, 503, or 0: not yet known. */
static int
judge(const struct master *m, const struct probe *p, int64_t now_ns)
{
    bool is_anyone_ready = false;
    if (p->asked == HTTP_HEALTH_READY && m->stop.state != STOP_NONE)
        return 503;
    CHILDREN_EACH(c, m) {
        is_anyone_ready |= is_serving(c);
        if (is_serving(c) && c->heard_ns >= p->began_ns)
            return 200;
    }
    if (is_anyone_ready && now_ns - p->began_ns < PROMPT_MS * NS_PER_MS)
        return 0;
    return p->asked == HTTP_HEALTH_LIVE && pulse_is_there(m, now_ns) ? 200 : 503;
}

static void
answer(const struct master *m, struct probe *p, int status)
{
    static const struct http_header headers[] = {
        { SLICE("content-type"), SLICE("text/plain; charset=utf-8") },
        { SLICE("cache-control"), SLICE("no-store") },
    };
    char body[4096];
    size_t bad;
    const char *verdict = p->asked == HTTP_HEALTH_LIVE ? (status == 200 ? "live" : "not live")
                          : status == 200              ? "ready"
                          : m->stop.state != STOP_NONE ? "not ready: the server stops"
                                                       : "not ready";
    int n = snprintf(body, sizeof(body), "%s\n", verdict);
    n += describe(m, body + n, sizeof(body) - (size_t)n);
    if (h1_start(p->h, status, headers, ARRAY_LEN(headers), &bad) == HTTP_OK)
        (void)h1_write(p->h, body, (size_t)n, NULL, true);
    h1_end(p->h);
    list_del(&p->node);
    free(p);
}

static uint16_t
port_of(const struct sockaddr_storage *at)
{
    return ntohs(at->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)at)->sin6_port
                                           : ((const struct sockaddr_in *)at)->sin_port);
}

/* Did it come in by metrics.bind? Ports (or paths) tell: conf/check.c. */
static bool
is_of_metrics(const struct health *h, const struct sockaddr_storage *local)
{
    const struct conf_bind *bind = &h->conf.metrics_at;
    if (bind->kind == CONF_BIND_UNIX)
        return local->ss_family == AF_UNIX &&
               strcmp(((const struct sockaddr_un *)local)->sun_path, bind->path) == 0;
    if (local->ss_family != AF_INET && local->ss_family != AF_INET6)
        return false;
    BOUNDS_EACH(b, &h->sockets.bounds)
        if (b->kind == CONF_BIND_TCP && b->port_asked == bind->port &&
            port_of(&b->addr) == port_of(local))
            return true;
    return false;
}

/* --- struct http_app ---------------------------------------------------------------------------- */

static void
on_begin(struct http_app *app, struct h1 *h)
{
    struct health *health = app->self;
    if (http_asks_metrics(app->conf, h1_request(h))) {
        metrics_sweep(health->metrics);
        h1_answer_metrics(h, health->metrics);
        h1_end(h);
        return;
    }
    enum http_health asked = http_health(app->conf, h1_request(h));
    if (asked == HTTP_HEALTH_NONE && health->page != NULL && is_of_metrics(health, h1_local(h)) &&
        page_begin(health->page, h))
        return;
    struct probe *p = asked != HTTP_HEALTH_NONE ? malloc(sizeof(*p)) : NULL;
    h1_head_done(h);
    if (p == NULL) {
        h1_fail(h, asked == HTTP_HEALTH_NONE ? 404 : 503);
        h1_end(h);
        return;
    }
    *p = (struct probe){ .h = h, .asked = asked, .began_ns = clock_ns() };
    list_add_tail(&health->probes, &p->node);
}

static void
on_event(struct http_app *app, struct h1 *h, unsigned events)
{
    (void)app, (void)h, (void)events; /* whoever hung up is answered into the void, soon */
}

static void
on_pointer(struct http_app *app, void *pointer)
{
    (void)app, (void)pointer; /* nothing is lent, nothing hangs on a connection */
}

/* --- its life ------------------------------------------------------------------------------------- */

static void
borrow(struct health *h, struct conf *conf)
{
    h->conf = *conf;
    h->conf.binds = h->binds;
    h->conf.binds_n = 0;
    if (conf->health_bind != NULL)
        h->binds[h->conf.binds_n++] = conf->health_at;
    if (conf->metrics_at.text != NULL &&
        (conf->health_bind == NULL || strcmp(conf->metrics_bind, conf->health_bind) != 0))
        h->binds[h->conf.binds_n++] = conf->metrics_at;
    h->conf.reuse_port = false;
    h->conf.headers_n = 0;
    h->conf.statics_n = 0;
    h->conf.ws_enabled = false;
    h->conf.tls_cert.n = 0;
    h->conf.proxy_protocol = PROXY_PROTOCOL_OFF;
    h->conf.limit_body = 1;
}

static struct health *
health_new(struct conf *conf)
{
    char why[IO_WHY_SIZE];
    struct health *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return NULL;
    borrow(h, conf);
    sockets_init(&h->sockets);
    list_init(&h->probes);
    h->app = (struct http_app){ .self = h,
                                .begin = on_begin,
                                .event = on_event,
                                .release = on_pointer,
                                .conn_freed = on_pointer,
                                .net = &h->net,
                                .conf = &h->conf,
                                .access_fd = -1 };
    if (io_open(IO_EPOLL, &h->io, why) < 0) {
        free(h);
        return NULL;
    }
    if (http_init(&h->app, &h->ops) < 0) {
        io_close(h->io);
        free(h);
        return NULL;
    }
    net_init(&h->net, h->io, &h->ops, CONNS_MAX, conf->timeout_send_ms * NS_PER_MS);
    return h;
}

void
health_free(struct health *h)
{
    if (h == NULL)
        return;
    io_close(h->io);
    net_fini(&h->net);
    http_fini(&h->app);
    page_free(h->page);
    for (struct list *node; (node = list_pop(&h->probes)) != NULL;)
        free(CONTAINER_OF(node, struct probe, node));
    sockets_fini(&h->sockets);
    free(h);
}

void
health_forget(struct health *h)
{
    if (h == NULL)
        return;
    net_abandon(&h->net);
    io_abandon(h->io);
    sockets_forget(&h->sockets);
}

/* Accepts from what there is now. */
static void
listen_again(struct health *h)
{
    while (h->listeners_n > 0)
        listener_close(h->listeners[--h->listeners_n]);
    BOUNDS_EACH(b, &h->sockets.bounds) {
        struct listener *l = h->listeners_n < ARRAY_LEN(h->listeners)
                                 ? listener_open(&h->net, b->v[0].fd, false)
                                 : NULL;
        if (l == NULL)
            log_error("health.bind, metrics.bind: cannot accept on %s", b->text);
        else
            h->listeners[h->listeners_n++] = l;
    }
}

static void
say(const struct conf *conf, const struct bound *b)
{
    const char *paths[] = { conf->health_live, conf->health_ready };
    const char *scheme = b->kind == CONF_BIND_TCP ? "http://" : "";
    if (conf->health_bind != NULL)
        log_info("health: %s%s%s on %s%s", paths[0] != NULL ? paths[0] : "",
                 paths[0] != NULL && paths[1] != NULL ? " and " : "",
                 paths[1] != NULL ? paths[1] : "", scheme, b->text);
    if (conf->metrics_at.text != NULL)
        log_info("metrics: %s on %s%s", conf->metrics_path, scheme, b->text);
}

static void
page_apply(struct master *m, struct health *h)
{
    if (!m->now.conf->metrics_page) {
        page_close(h->page);
        h->page = NULL;
    } else if (h->page == NULL && (h->page = page_new(m)) == NULL) {
        log_error("metrics.page: out of memory; there is no page until the next reload");
    }
}

void
health_write(const struct health *h, FILE *out)
{
    if (h != NULL)
        sockets_write(&h->sockets, "health", out);
}

void
health_pass(const struct health *h)
{
    if (h != NULL)
        sockets_pass(&h->sockets);
}

void
health_lend(struct health *h)
{
    if (h == NULL)
        return;
    while (h->listeners_n > 0)
        listener_close(h->listeners[--h->listeners_n]);
    sockets_lend(&h->sockets);
    sockets_fini(&h->sockets);
}

int
health_apply(struct master *m)
{
    struct conf *conf = m->now.conf;
    struct health *h = m->health;
    struct sockets_change change;
    bool is_wanted = conf->health_bind != NULL || conf->metrics_at.text != NULL;
    if (upgrade_is_taking(m))
        return 0; /* the other master answers */
    if (h == NULL && !is_wanted)
        return 0;
    if (h == NULL && (h = health_new(conf)) == NULL) {
        log_operator("health.bind, metrics.bind: out of memory or descriptors");
        return -EXIT_CODE_SYSTEM;
    }
    sockets_adopt(&h->sockets, &m->upgrade.handover.health);
    sockets_own(&h->sockets, &h->conf);
    borrow(h, conf);
    h->metrics = m->metrics;
    if (!is_wanted) {
        health_free(h);
        m->health = NULL;
        return 0;
    }
    if (sockets_prepare(&h->sockets, &h->conf, 1, &change) < 0 ||
        (sockets_change_listen(&h->sockets, &change, 0) < 0 && (sockets_abort(&change), true))) {
        if (m->health == NULL)
            health_free(h);
        return -EXIT_CODE_SYSTEM;
    }
    sockets_commit(&h->sockets, &change);
    while (!list_is_empty(&h->sockets.leaving))
        bound_free(CONTAINER_OF(h->sockets.leaving.next, struct bound, node));
    listen_again(h);
    page_apply(m, h);
    m->health = h;
    BOUNDS_EACH(b, &h->sockets.bounds)
        say(conf, b);
    return 0;
}

int
health_fd(const struct master *m)
{
    return m->health != NULL ? io_fd(m->health->io) : -1;
}

int64_t
health_next_ns(const struct master *m)
{
    const struct health *h = m->health;
    if (h == NULL)
        return 0;
    int64_t next = net_next_ns(&h->net);
    /* here 0 is none, and a time long past is at once */
    next = next < 0 ? 0 : next == 0 ? 1 : next;
    LIST_FOR_EACH(node, &h->probes)
        next =
            sooner(next, CONTAINER_OF(node, struct probe, node)->began_ns + PROMPT_MS * NS_PER_MS);
    if (h->page != NULL)
        next = sooner(next, page_next_ns(h->page));
    return next;
}

/* Returns how many were answered. */
static unsigned
answer_all(struct master *m)
{
    struct health *h = m->health;
    unsigned n = 0;
    if (list_is_empty(&h->probes))
        return 0;
    pulse_ask(m);
    int64_t now_ns = clock_ns();
    LIST_FOR_EACH_SAFE(node, &h->probes) {
        struct probe *p = CONTAINER_OF(node, struct probe, node);
        int status = judge(m, p, now_ns);
        if (status != 0) {
            answer(m, p, status);
            n++;
        }
    }
    return n;
}

void
health_turn(struct master *m)
{
    struct health *h = m->health;
    if (h == NULL)
        return;
    /* What is finished at once is told by the next io_wait(), not by the descriptor. */
    for (int i = 0, events = 1; i < TURNS_MAX && events > 0; i++) {
        events = io_wait(h->io, 0);
        net_turn(&h->net);
        events += (int)answer_all(m);
        if (h->page != NULL)
            events += (int)page_turn(h->page);
        net_flush(&h->net);
        events += (int)io_queued(h->io);
    }
}
