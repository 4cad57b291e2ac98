/* net.c: one turn of the loop, as far as connections are concerned. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "out.h"
#include "tls_private.h"

void
net_init(struct net *net, struct io *io, const struct conn_ops *ops, unsigned conns_max,
         int64_t send_timeout_ns)
{
    *net = (struct net){
        .io = io,
        .now_ns = clock_ns(),
        .ops = ops,
        .conns_max = conns_max,
        .send_timeout_ns = send_timeout_ns,
    };
    wheel_init(&net->wheel, net->now_ns);
    list_init(&net->listeners);
    list_init(&net->conns);
    list_init(&net->dirty);
    list_init(&net->resume);
    list_init(&net->dead);
    list_init(&net->shaking);
    timer_init(&net->accept_retry, listener_retry);
}

void
net_fini(struct net *net)
{
    timer_clear(&net->wheel, &net->accept_retry);
    listeners_fini(net);
    LIST_FOR_EACH_SAFE(node, &net->conns) {
        struct conn *c = CONTAINER_OF(node, struct conn, all);
        /* The kernel has let go of everything: make the connection know it, so that nothing asks it
         * again. */
        c->watch.armed = c->send.armed = false;
        out_wire(c)->in_flight = 0;
        if (!c->broken && c->state == CONN_OPEN) {
            c->broken = c->gone = true;
            net->ops->broken(c, -ECANCELED);
        }
        c->pinned = false;
        conn_close(c);
        conn_free(c);
    }
    files_fini(net);
    blocks_fini(net);
    free(net->trust.v);
    tls_set_free(net->tls);
    net->tls = NULL;
}

void
net_set_tls(struct net *net, struct tls_set *set, unsigned handshakes_max,
            int64_t handshake_timeout_ns)
{
    tls_memory_keep();
    tls_set_free(net->tls);
    net->tls = set;
    net->handshakes_max = handshakes_max;
    net->handshake_timeout_ns = handshake_timeout_ns;
}

/* A few: each costs as much as many requests, and those who are connected wait meanwhile. */
static void
handshakes_turn(struct net *net)
{
    struct list *node;
    for (int i = 0; i < TLS_HANDSHAKES_A_TURN && (node = list_pop(&net->shaking)) != NULL; i++)
        tls_handshake(CONTAINER_OF(node, struct conn, resume));
}

void
net_abandon(struct net *net)
{
    listeners_abandon(net);
    LIST_FOR_EACH(node, &net->conns) {
        struct conn *c = CONTAINER_OF(node, struct conn, all);
        if (c->fd >= 0)
            close(c->fd);
    }
}

void
net_turn(struct net *net)
{
    net->now_ns = clock_ns();
    net->is_now_old = false;
    wheel_advance(&net->wheel, net->now_ns);
    files_turn(net);
    if (!list_is_empty(&net->resume)) {
        /* Those that ask again meanwhile have their turn after the next wait. */
        struct list now;
        list_init(&now);
        list_splice(&now, &net->resume);
        for (struct list *node; (node = list_pop(&now)) != NULL;)
            conn_run(CONTAINER_OF(node, struct conn, resume));
    }
    handshakes_turn(net);
    for (struct list *node; (node = list_pop(&net->dead)) != NULL;)
        conn_free(CONTAINER_OF(node, struct conn, resume));
}

void
net_flush(struct net *net)
{
    /* Python may have run for long: sends are due from now on. */
    net->now_ns = clock_ns();
    net->is_now_old = true;
    for (struct list *node; (node = list_pop(&net->dirty)) != NULL;)
        out_submit(CONTAINER_OF(node, struct conn, dirty));
    if (net->ops->flushed != NULL)
        net->ops->flushed(net);
}

int64_t
net_next_ns(const struct net *net)
{
    if (!list_is_empty(&net->resume) || !list_is_empty(&net->dead) || !list_is_empty(&net->shaking))
        return 0;
    return wheel_next_ns(&net->wheel);
}
