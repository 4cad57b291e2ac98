/* conn.c: the life of one connection: its states, its deadline, reading, and the end.
 * The edge: the kernel announces the arrival of bytes once. `readable` remembers it until a recv()
 * has found the socket empty, so whoever stops reading for a while (back-pressure) finds out at
 * conn_resume() what came in the meantime. The timer: moving deadlines costs no list work in steady
 * state, because the timer may fire early and is then filed anew. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/shake.h"
#include "metrics/metrics.h"
#include "tls_private.h"

#define TO(state) (1u << (state))

static const unsigned conn_next[CONN_STATES] = {
    [CONN_HANDSHAKE] = TO(CONN_OPEN) | TO(CONN_FLUSHING) | TO(CONN_CLOSING),
    [CONN_OPEN] = TO(CONN_FLUSHING) | TO(CONN_CLOSING),
    [CONN_FLUSHING] = TO(CONN_LINGERING) | TO(CONN_CLOSING),
    [CONN_LINGERING] = TO(CONN_CLOSING),
    [CONN_CLOSING] = 0,
};

static void
conn_to(struct conn *c, enum conn_state state)
{
    ASSERT(conn_next[c->state] & TO(state));
    bool was_handshake = c->state == CONN_HANDSHAKE;
    if (c->state <= CONN_OPEN && state > CONN_OPEN)
        c->net->closing_n++;
    c->state = (uint8_t)state;
    if (was_handshake && c->net->handshakes_n-- == c->net->handshakes_max)
        listeners_adjust(c->net);
}

static void conn_linger(struct conn *c);

/* --- deadlines -------------------------------------------------------------------------------- */

/* Files the timer so that it fires no later than what is due next, and no later than a send that
 * starts this moment would be due: so out_submit() need not touch it. */
void
conn_arm(struct conn *c)
{
    struct net *net = c->net;
    int64_t due = c->deadline_ns;
    if (c->send.armed && net->send_timeout_ns > 0 && (due == 0 || c->send_due_ns < due))
        due = c->send_due_ns;
    if (due == 0)
        return;
    if (net->send_timeout_ns > 0 && due > net->now_ns + net->send_timeout_ns)
        due = net->now_ns + net->send_timeout_ns;
    if (c->timer.due_ns == 0 || due < c->timer.due_ns)
        timer_set(&net->wheel, &c->timer, due);
}

void
conn_deadline(struct conn *c, int64_t due_ns)
{
    if (c->state != CONN_OPEN && c->state != CONN_HANDSHAKE)
        return;
    c->deadline_ns = due_ns;
    if (due_ns != 0 && (c->timer.due_ns == 0 || due_ns < c->timer.due_ns))
        conn_arm(c);
}

void
conn_expire(struct timer *timer)
{
    struct conn *c = CONTAINER_OF(timer, struct conn, timer);
    int64_t now = c->net->now_ns;
    if (c->send.armed && c->send_due_ns != 0 && now >= c->send_due_ns) {
        if (!c->send.send.has_moved) {
            conn_fail(c, -ETIMEDOUT);
            return;
        }
        /* A window of a file may take longer, as long as the client takes some of it. */
        c->send.send.has_moved = false;
        c->send_due_ns = now + c->net->send_timeout_ns;
    }
    if (c->deadline_ns != 0 && now >= c->deadline_ns) {
        c->deadline_ns = 0;
        if (c->state == CONN_OPEN)
            c->net->ops->timeout(c);
        else
            conn_close(c);
    }
    if (c->state != CONN_CLOSING)
        conn_arm(c);
}

/* --- input ------------------------------------------------------------------------------------ */

void
conn_look(struct conn *c)
{
    c->readable = true;
    if (c->tls != NULL)
        c->tls->readable = true;
}

static void
on_watch(struct io_op *op, int res, unsigned flags)
{
    struct conn *c = CONTAINER_OF(op, struct conn, watch);
    net_woken(c->net);
    if (c->state == CONN_CLOSING) {
        conn_settle(c);
        return;
    }
    if (c->broken)
        return;
    if (res < 0) {
        conn_fail(c, res);
        return;
    }
    if (!(flags & IO_MORE))
        io_watch(c->net->io, &c->watch, c->fd);
    conn_look(c);
    if (res & (POLLRDHUP | POLLHUP))
        c->gone = true;
    if (res & POLLERR) {
        int err = 0;
        socklen_t n = sizeof(err);
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n);
        conn_fail(c, err ? -err : -ECONNRESET);
        return;
    }
    if (UNLIKELY(shake_here != NULL) && shake_chance(shake_here, SHAKE_IO))
        conn_resume(c); /* in a turn to come */
    else
        conn_run(c);
}

void
conn_hang_up(struct conn *c)
{
    if (c->state == CONN_OPEN && !c->gone)
        shutdown(c->fd, SHUT_RDWR);
}

void
conn_run(struct conn *c)
{
    if (c->state == CONN_OPEN && !c->broken) {
        if (LIKELY(!c->awaits_proxy) || proxy_header_read(c))
            c->net->ops->readable(c);
    } else if (c->state == CONN_HANDSHAKE && list_is_empty(&c->resume)) {
        list_add_tail(&c->net->shaking, &c->resume);
    } else if (c->state == CONN_LINGERING) {
        conn_linger(c);
    }
}

void
conn_resume(struct conn *c)
{
    if (c->state != CONN_CLOSING && list_is_empty(&c->resume))
        list_add_tail(&c->net->resume, &c->resume);
}

/* What a recv() of n bytes into room tells about the next one. */
static int
note_recv(struct conn *c, ssize_t n, size_t room)
{
    if (n > 0) {
        /* Short: drained. But where the end is known to have come, it is behind these bytes and
         * will not be announced again. */
        c->readable = (size_t)n == room || c->gone;
        return (int)n;
    }
    if (n == 0) {
        c->readable = false;
        c->eof = c->gone = true;
        return 0;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
        c->readable = errno == EINTR;
        return -EAGAIN;
    }
    c->readable = false;
    conn_fail(c, -errno);
    return -ECONNRESET;
}

int
conn_read(struct conn *c)
{
    if (c->broken || c->state != CONN_OPEN)
        return -ECONNRESET;
    if (c->eof)
        return 0;
    bool fresh = c->in == NULL;
    if (fresh) {
        c->in = block_take(c->net, NET_BLOCK);
        if (c->in == NULL)
            return -ENOMEM;
        c->in_start = c->in_end = 0;
    }
    size_t room = c->in->cap - c->in_end;
    if (room == 0)
        return -ENOBUFS;
    if (UNLIKELY(shake_here != NULL))
        room = shake_cut(shake_here, room);
    char *to = c->in->data + c->in_end;
    ssize_t n = c->tls != NULL ? tls_read(c, to, room) : recv(c->fd, to, room, MSG_DONTWAIT);
    if (n > 0) {
        c->in_end += (uint32_t)n;
        metrics_add(&metrics_here->loop.bytes_in, (uint64_t)n);
    } else if (fresh) {
        int saved = errno;
        conn_in_drop(c);
        errno = saved;
    }
    return c->tls != NULL ? (int)n : note_recv(c, n, room);
}

/* As conn_read(), for bytes that nobody wants, of TLS records too. */
static int
conn_discard(struct conn *c)
{
    static char scratch[NET_BLOCK];
    if (c->eof)
        return 0;
    return note_recv(c, recv(c->fd, scratch, sizeof(scratch), MSG_DONTWAIT), sizeof(scratch));
}

int
conn_in_grow(struct conn *c, uint32_t cap)
{
    struct block *old = c->in;
    uint32_t n = c->in_end - c->in_start;
    if (cap < n)
        cap = n;
    if (old != NULL && old->cap >= cap) {
        memmove(old->data, old->data + c->in_start, n);
    } else {
        struct block *b = block_take(c->net, cap);
        if (b == NULL)
            return -ENOMEM;
        if (old != NULL) {
            memcpy(b->data, old->data + c->in_start, n);
            block_give(c->net, old);
        }
        c->in = b;
    }
    c->in_start = 0;
    c->in_end = n;
    return 0;
}

void
conn_in_drop(struct conn *c)
{
    if (c->in != NULL)
        block_give(c->net, c->in);
    c->in = NULL;
    c->in_start = c->in_end = 0;
}

/* --- the end ---------------------------------------------------------------------------------- */

void
conn_fail(struct conn *c, int err)
{
    if (c->broken || c->state == CONN_CLOSING)
        return;
    c->broken = c->gone = true;
    c->deadline_ns = 0;
    out_drop(c);
    if (c->send.armed)
        io_cancel(c->net->io, &c->send);
    list_del(&c->dirty);
    if (c->state == CONN_OPEN)
        c->net->ops->broken(c, err);
    else
        conn_close(c);
}

void
conn_finish(struct conn *c, bool linger)
{
    if (c->state != CONN_OPEN)
        return;
    if (c->broken) {
        conn_close(c);
        return;
    }
    conn_out_cancel(c);
    if (!c->pinned) /* else the protocol may have lent out slices of it */
        conn_in_drop(c);
    conn_to(c, CONN_FLUSHING);
    c->linger = linger;
    c->deadline_ns = 0;
    if (c->tls != NULL && c->out_bytes == 0 && c->tls->fin)
        tls_forget_end(c);
    if (c->tls != NULL && tls_has_more(c))
        conn_dirty(c);
    else if (c->out_bytes == 0 && !c->send.armed)
        conn_sent_all(c);
}

void
conn_refuse(struct conn *c)
{
    conn_to(c, CONN_FLUSHING);
    c->linger = true;
    c->deadline_ns = 0;
    if (tls_has_more(c))
        conn_dirty(c);
    else
        conn_sent_all(c);
}

void
conn_sent_all(struct conn *c)
{
    if (!c->linger || c->eof || shutdown(c->fd, SHUT_WR) < 0) {
        conn_close(c);
        return;
    }
    conn_to(c, CONN_LINGERING);
    c->deadline_ns = c->net->now_ns + NET_LINGER_MS * NS_PER_MS;
    conn_arm(c);
    if (c->readable)
        conn_resume(c);
}

static void
conn_linger(struct conn *c)
{
    enum { READS_A_TURN = 8 };
    for (int i = 0; i < READS_A_TURN; i++) {
        int n = conn_discard(c);
        if (n == -EAGAIN)
            return;
        if (n > 0)
            c->lingered += (uint32_t)n;
        if (n <= 0 || c->lingered > NET_LINGER_BYTES) {
            conn_close(c);
            return;
        }
        if (!c->readable)
            return;
    }
    conn_resume(c);
}

void
conn_close(struct conn *c)
{
    if (c->state == CONN_CLOSING)
        return;
    conn_to(c, CONN_CLOSING);
    c->gone = c->broken = true;
    c->deadline_ns = 0;
    timer_clear(&c->net->wheel, &c->timer);
    list_del(&c->dirty);
    list_del(&c->resume);
    if (!c->pinned)
        conn_in_drop(c);
    out_drop(c);
    if (c->send.armed)
        io_cancel(c->net->io, &c->send);
    if (c->watch.armed)
        io_cancel(c->net->io, &c->watch);
    conn_settle(c);
}

void
conn_settle(struct conn *c)
{
    if (c->state != CONN_CLOSING || c->send.armed || c->watch.armed)
        return;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    if (!c->pinned && list_is_empty(&c->resume))
        list_add_tail(&c->net->dead, &c->resume);
}

void
conn_pin(struct conn *c)
{
    DEBUG_ASSERT(!c->pinned && c->state == CONN_OPEN);
    c->pinned = true;
}

void
conn_unpin(struct conn *c)
{
    c->pinned = false;
    if (c->state != CONN_OPEN)
        conn_in_drop(c);
    conn_settle(c);
}

void
conn_opened(struct conn *c, bool is_misplaced)
{
    struct net *net = c->net;
    conn_to(c, CONN_OPEN);
    c->deadline_ns = 0;
    c->opened = true;
    net->ops->opened(c);
    if (is_misplaced && c->state == CONN_OPEN)
        net->ops->misplaced(c);
    else if (c->readable)
        conn_run(c);
}

/* Returns 0 or -ENOMEM. */
static int
begin(struct conn *c, bool is_tls)
{
    struct net *net = c->net;
    if (!is_tls) {
        c->state = CONN_OPEN;
        c->opened = true;
        net->ops->opened(c);
        return 0;
    }
    c->state = CONN_HANDSHAKE;
    bool is_crowded = net->handshakes_n >= net->handshakes_max / 2;
    int64_t ns = net->handshake_timeout_ns;
    if (is_crowded && ns > TLS_HANDSHAKE_CROWDED_MS * NS_PER_MS)
        ns = TLS_HANDSHAKE_CROWDED_MS * NS_PER_MS;
    if (++net->handshakes_n == net->handshakes_max)
        listeners_adjust(net);
    conn_deadline(c, net->now_ns + ns);
    return tls_open(c);
}

struct conn *
conn_open(struct net *net, int fd, uint8_t family, bool is_tls)
{
    struct conn *c = calloc(1, net->ops->size);
    if (c == NULL) {
        /* the listener pauses when the kernel is short of memory; here one client is refused */
        close(fd);
        return NULL;
    }
    c->net = net;
    c->fd = fd;
    c->family = family;
    list_init(&c->dirty);
    list_init(&c->resume);
    io_op_init(&c->watch, on_watch);
    io_op_init(&c->send, out_complete);
    timer_init(&c->timer, conn_expire);
    list_add_tail(&net->conns, &c->all);
    net->conns_n++;
    live.conns++;
    metrics_add(&metrics_here->loop.accepted, 1);
    if (net->conns_n == net->conns_max || net->conns_n + NET_CARE_ROOM == net->conns_max)
        listeners_adjust(net);
    if (begin(c, is_tls) < 0)
        conn_close(c);
    if (UNLIKELY(net->proxy_protocol != PROXY_PROTOCOL_OFF))
        proxy_header_await(c);
    if (c->state != CONN_CLOSING)
        io_watch(net->io, &c->watch, fd);
    return c;
}

/* From the dead list, or net_fini(). */
void
conn_free(struct conn *c)
{
    struct net *net = c->net;
    if (c->opened)
        net->ops->freed(c);
    conn_in_drop(c);
    out_drop(c);
    net_proxied_free(c->proxied);
    if (c->tls != NULL)
        tls_close(c);
    list_del(&c->all);
    list_del(&c->resume);
    free(c);
    live.conns--;
    net->conns_n--;
    net->closing_n--;
    if (net->conns_n + 1 == net->conns_max ||
        net->conns_n + 2 * NET_CARE_ROOM + 1 == net->conns_max)
        listeners_adjust(net);
}
