/* listener.c: accepting, and not accepting.
 * It pauses while the net holds conns_max connections (or as many handshakes of TLS as it may), and for NET_ACCEPT_RETRY_MS after the kernel
 * had no descriptor or memory for another: connections wait in the kernel's queue meanwhile (or go
 * to a sibling that shares the socket). Owns: a duplicate of the listening descriptor, closed when
 * the accept operation has ended. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "metrics/metrics.h"
#include "net.h"

enum {
    ERRORS_LOGGED_EVERY_S = 10,
    LAST_LOOK_MAX = 64, /* connections taken when it closes */
};

struct listener {
    struct list link;
    struct net *net;
    struct io_op accept;
    int fd;
    uint8_t family;
    bool closing, is_given_back;
    bool is_tls;
    bool is_shared; /* perhaps: nobody said that no other process accepts from it */
    bool with_care; /* how it was armed last */
    bool is_paused; /* it may not accept; for the metrics */
};

static void
listener_free(struct listener *l)
{
    list_del(&l->link);
    close(l->fd);
    free(l);
}

static bool
may_accept(const struct listener *l)
{
    const struct net *net = l->net;
    return !net->accept_starved && (net->conns_max == 0 || net->conns_n < net->conns_max) &&
           (!l->is_tls || net->handshakes_n < net->handshakes_max);
}

/* With less room than the kernel's queue may hold, the limit is kept by accepting with care. And where
 * processes share a socket: an accept that stays armed in the ring is the one that the kernel wakes, for
 * every connection: one worker of all had them all, and while its loop was blocked nobody had any. Who accepts with care
 * is woken beside it. */
static bool
must_care(const struct listener *l)
{
    const struct net *net = l->net;
    if (l->is_shared)
        return true;
    if (net->conns_max == 0 || net->conns_n + 2 * NET_CARE_ROOM < net->conns_max)
        return false;
    return l->with_care || net->conns_n + NET_CARE_ROOM >= net->conns_max;
}

static void
listen_again(struct listener *l)
{
    l->with_care = must_care(l);
    if (l->with_care)
        io_accept_with_care(l->net->io, &l->accept, l->fd);
    else
        io_accept(l->net->io, &l->accept, l->fd);
}

static void
starved(struct net *net, int err)
{
    int64_t now = clock_ns();
    net->accept_errors++;
    metrics_add(&metrics_here->loop.accept_starved, 1);
    net->accept_starved = true;
    timer_set(&net->wheel, &net->accept_retry, now + NET_ACCEPT_RETRY_MS * NS_PER_MS);
    if (net->accept_logged_ns == 0 ||
        now - net->accept_logged_ns > ERRORS_LOGGED_EVERY_S * NS_PER_S) {
        log_error("cannot accept connections: %s (%u times); new ones wait; raise the limit on "
                  "open files or "
                  "lower limits.connections",
                  strerror(-err), net->accept_errors);
        net->accept_logged_ns = now;
        net->accept_errors = 0;
    }
    listeners_adjust(net);
}

static void
take(struct listener *l, int fd)
{
    struct conn *c = conn_open(l->net, fd, l->family, l->is_tls);
    if (c == NULL)
        return;
    if (!l->closing)
        c->listener = l;
    c->is_guest = l->is_given_back;
}

/* The kernel wakes one of those that wait at a socket (an accept of io_uring, EPOLLEXCLUSIVE). If that was this one, and it was cancelled
 * before it could accept, nobody else is woken for what lies in the queue, until another connection comes. */
static void
look_at_last(struct listener *l)
{
    for (unsigned i = 0; i < LAST_LOOK_MAX; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        take(l, fd);
    }
}

static void
on_accept(struct io_op *op, int res, unsigned flags)
{
    struct listener *l = CONTAINER_OF(op, struct listener, accept);
    struct net *net = l->net;
    net_woken(net);
    if (res >= 0)
        take(l, res);
    if (flags & IO_MORE)
        return;
    if (l->closing) {
        look_at_last(l);
        listener_free(l);
        return;
    }
    if (res < 0 && res != -ECANCELED)
        starved(net, res);
    else if (may_accept(l) && !l->accept.armed)
        listen_again(l);
}

void
listeners_adjust(struct net *net)
{
    LIST_FOR_EACH(node, &net->listeners) {
        struct listener *l = CONTAINER_OF(node, struct listener, link);
        if (l->closing)
            continue;
        bool may = may_accept(l);
        if (may && !l->accept.armed)
            listen_again(l);
        else if (!may || l->with_care != must_care(l))
            io_cancel(net->io, &l->accept);
        if (l->is_paused != !may && !may && !net->accept_starved)
            metrics_add(&metrics_here->loop.accept_pauses, 1);
        l->is_paused = !may;
        /* armed but cancelled: its last completion arms it again */
    }
}

void
listeners_abandon(struct net *net)
{
    LIST_FOR_EACH(node, &net->listeners)
        close(CONTAINER_OF(node, struct listener, link)->fd);
}

void
listener_retry(struct timer *timer)
{
    struct net *net = CONTAINER_OF(timer, struct net, accept_retry);
    net->accept_starved = false;
    listeners_adjust(net);
}

struct listener *
listener_open(struct net *net, int fd, bool is_tls)
{
    FD_OWNED int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct sockaddr_storage addr = { 0 };
    socklen_t n = sizeof(addr);
    if (own < 0 || getsockname(own, (struct sockaddr *)&addr, &n) < 0)
        return NULL;
    struct listener *l = calloc(1, sizeof(*l));
    if (l == NULL)
        return NULL;
    /* Accepted sockets inherit it (Linux copies the whole TCP socket), which saves a call for each
     * of them. */
    if (addr.ss_family == AF_INET || addr.ss_family == AF_INET6)
        setsockopt(own, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    l->is_shared = true;
    l->net = net;
    l->fd = fd_take(&own);
    l->family = (uint8_t)addr.ss_family;
    l->is_tls = is_tls;
    io_op_init(&l->accept, on_accept);
    list_add_tail(&net->listeners, &l->link);
    if (may_accept(l))
        listen_again(l);
    return l;
}

void
listener_alone(struct listener *l)
{
    l->is_shared = false;
    listeners_adjust(l->net);
}

void
listener_give_back(struct listener *l)
{
    l->is_given_back = true;
    listener_close(l);
}

void
listener_close(struct listener *l)
{
    l->closing = true;
    LIST_FOR_EACH(node, &l->net->conns) {
        struct conn *c = CONTAINER_OF(node, struct conn, all);
        if (c->listener != l)
            continue;
        c->listener = NULL;
        c->is_guest = l->is_given_back;
    }
    if (l->accept.armed)
        io_cancel(l->net->io, &l->accept);
    else
        listener_free(l);
}

/* After io_close(): no operation is in flight any more, whatever `armed` says. */
void
listeners_fini(struct net *net)
{
    LIST_FOR_EACH_SAFE(node, &net->listeners)
        listener_free(CONTAINER_OF(node, struct listener, link));
}
