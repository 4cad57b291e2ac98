/* out.c: what a connection has to send: a queue of chunks, of which the first is with the kernel.
 * Small pieces are copied behind each other, so that head and body leave in one send; big ones stay
 * where they are and are released when they are sent. Pieces may be added to a chunk whose earlier
 * pieces are in flight: the kernel was given a count, and what it was given does not move.
 * With TLS there are two queues: this one of plain bytes, which nothing is in flight of, and that of
 * the records made of them (tls_fill()), which is sent.
 * Owns:   the chunks of a connection, and the held buffers in them until release().
 * Always: at most one send in flight a connection; out_bytes is the sum of all unsent pieces, also
 *         while they are records on their way. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/shake.h"
#include "metrics/metrics.h"
#include "out.h"
#include "tls_private.h"

static void
owner_release(struct conn *c, void *owner)
{
    live.held--;
    c->net->ops->release(c, owner);
}

static bool
is_file(const struct chunk *ch, unsigned i)
{
    return ch->iov[i].iov_base == NULL;
}

/* The first piece of a chunk is done with. */
static void
piece_release(struct conn *c, struct chunk *ch)
{
    unsigned i = ch->first++;
    if (UNLIKELY(is_file(ch, i))) {
        live.held--;
        out_file_drop(ch->owner[i]);
    } else if (ch->owner[i] != NULL) {
        owner_release(c, ch->owner[i]);
    }
}

static void
chunk_release(struct conn *c, struct chunk *ch)
{
    while (ch->first < ch->n)
        piece_release(c, ch);
    chunk_give(c->net, ch);
}

struct outq *
out_wire(struct conn *c)
{
    return c->tls != NULL ? &c->tls->wire : &c->out;
}

void
conn_dirty(struct conn *c)
{
    if (!c->send.armed && list_is_empty(&c->dirty))
        list_add_tail(&c->net->dirty, &c->dirty);
}

static void
mark_dirty(struct conn *c)
{
    if (c->out_bytes > NET_HIGH_WATER)
        c->full = true;
    conn_dirty(c);
}

/* Whether new bytes at data + used can be added to the last piece, which the kernel must not have.
 * */
static bool
can_extend(const struct outq *q, const struct chunk *t)
{
    if (t->n == t->first || t->owner[t->n - 1] != NULL)
        return false;
    if (t == q->first && t->n == t->first + q->in_flight)
        return false;
    const struct iovec *last = &t->iov[t->n - 1];
    return (const char *)last->iov_base + last->iov_len == t->data + t->used;
}

static struct chunk *
chunk_append(struct conn *c, struct outq *q, size_t need)
{
    struct chunk *ch = chunk_take(c->net, need);
    if (ch == NULL)
        return NULL;
    if (q->last == NULL)
        q->first = ch;
    else
        q->last->next = ch;
    q->last = ch;
    return ch;
}

/* Gives back chunks in front that are all sent; the last one stays while room in it is reserved. */
static void
pop_sent(struct conn *c, struct outq *q)
{
    struct chunk *ch;
    while ((ch = q->first) != NULL && ch->first == ch->n) {
        if (q == &c->out && ch == q->last && c->out_reserved > 0) {
            ch->first = ch->n = 0;
            return;
        }
        q->first = ch->next;
        if (q->first == NULL)
            q->last = NULL;
        chunk_give(c->net, ch);
    }
}

/* Bytes that were written behind used are part of the queue. */
static void
chunk_commit(const struct outq *q, struct chunk *t, size_t n)
{
    if (can_extend(q, t)) {
        t->iov[t->n - 1].iov_len += n;
    } else {
        ASSERT(t->n < NET_IOV);
        t->iov[t->n] = (struct iovec){ .iov_base = t->data + t->used, .iov_len = n };
        t->owner[t->n++] = NULL;
    }
    t->used += (uint32_t)n;
}

int
outq_append(struct conn *c, struct outq *q, const char *p, size_t n, size_t capacity)
{
    struct chunk *t = q->last;
    if (t == NULL || t->cap - t->used < n || (t->n == NET_IOV && !can_extend(q, t))) {
        t = chunk_append(c, q, capacity > n ? capacity : n);
        if (t == NULL)
            return -ENOMEM;
    }
    memcpy(t->data + t->used, p, n);
    chunk_commit(q, t, n);
    return 0;
}

char *
conn_out(struct conn *c, size_t need, size_t *room)
{
    if (c->broken || c->state != CONN_OPEN)
        return NULL;
    c->out_reserved = 0;
    struct chunk *t = c->out.last;
    /* A piece that could be extended now may be with the kernel when this is committed. */
    if (t == NULL || t->cap - t->used < need || t->n == NET_IOV) {
        if (t != NULL && c->out.in_flight == 0)
            pop_sent(c, &c->out); /* a forgotten reservation may have left the last one empty */
        t = chunk_append(c, &c->out, need);
        if (t == NULL)
            return NULL;
    }
    c->out_reserved = need > 0 ? (uint32_t)need : 1;
    *room = t->cap - t->used;
    return t->data + t->used;
}

void
conn_out_commit(struct conn *c, size_t n)
{
    if (c->broken || c->state != CONN_OPEN)
        return; /* the room went away between conn_out() and here, together with the connection */
    if (n == 0) {
        conn_out_cancel(c);
        return;
    }
    struct chunk *t = c->out.last;
    ASSERT(t != NULL && c->out_reserved > 0 && n <= t->cap - t->used);
    c->out_reserved = 0;
    chunk_commit(&c->out, t, n);
    c->out_bytes += n;
    mark_dirty(c);
}

void
conn_out_cancel(struct conn *c)
{
    c->out_reserved = 0;
    if (c->out.in_flight == 0)
        pop_sent(c, &c->out);
}

int
conn_write(struct conn *c, const char *p, size_t n)
{
    bool taken = false;
    while (n > 0) {
        size_t room, k;
        char *to = conn_out(c, 1, &room);
        if (to == NULL) {
            if (c->broken || c->state != CONN_OPEN)
                return -EPIPE;
            if (taken) /* half of it is queued: the stream is spoilt */
                conn_fail(c, -ENOMEM);
            return -ENOMEM;
        }
        k = n < room ? n : room;
        memcpy(to, p, k);
        conn_out_commit(c, k);
        taken = true;
        p += k;
        n -= k;
    }
    return 0;
}

int
conn_write_held(struct conn *c, const char *p, size_t n, void *owner)
{
    int err = 0;
    live.held++;
    struct chunk *t = c->out.last;
    if (c->broken || c->state != CONN_OPEN)
        err = -EPIPE;
    else if (n > 0 && (t == NULL || t->n == NET_IOV) && (t = chunk_append(c, &c->out, 0)) == NULL)
        err = -ENOMEM;
    if (err < 0 || n == 0) {
        owner_release(c, owner);
        return err;
    }
    DEBUG_ASSERT(c->out_reserved == 0);
    t->iov[t->n] = (struct iovec){ .iov_base = (char *)p, .iov_len = n };
    t->owner[t->n++] = owner;
    c->out_bytes += n;
    mark_dirty(c);
    return 0;
}

int
conn_write_file(struct conn *c, int fd, uint64_t at, uint64_t n)
{
    int err = 0;
    struct chunk *t = c->out.last;
    struct file_piece *f = NULL;
    if (c->broken || c->state != CONN_OPEN)
        err = -EPIPE;
    else if (n > 0 &&
             (((t == NULL || t->n == NET_IOV) && (t = chunk_append(c, &c->out, 0)) == NULL) ||
              (f = out_file_new(c, fd, at)) == NULL))
        err = -ENOMEM;
    if (err < 0 || n == 0) {
        close(fd);
        return err;
    }
    DEBUG_ASSERT(c->out_reserved == 0);
    live.held++;
    t->iov[t->n] = (struct iovec){ .iov_base = NULL, .iov_len = n };
    t->owner[t->n++] = f;
    c->out_bytes += n;
    mark_dirty(c);
    return 0;
}

size_t
out_allowed(const struct conn *c)
{
    if (LIKELY(!c->full || !c->ends_apart || c->out_bytes <= NET_LOW_WATER))
        return c->out_bytes;
    return c->out_bytes - (c->out_bytes < 2 * NET_LOW_WATER ? c->out_bytes / 2 : NET_LOW_WATER);
}

/* Pieces of memory in front of a file, or of the end, or of the one that is not allowed whole, unless it is the first. */
static unsigned
pieces_ahead(const struct chunk *ch, size_t allowed)
{
    unsigned i = ch->first;
    while (i < ch->n && !is_file(ch, i) && (i == ch->first || ch->iov[i].iov_len <= allowed)) {
        allowed -= ch->iov[i].iov_len < allowed ? ch->iov[i].iov_len : allowed;
        i++;
    }
    return i - ch->first;
}

void
out_submit(struct conn *c)
{
    struct outq *q = out_wire(c);
    if (c->send.armed || c->broken || c->state == CONN_CLOSING)
        return;
    int err = c->tls != NULL ? tls_fill(c) : 0;
    if (err < 0) {
        conn_fail(c, err);
        return;
    }
    pop_sent(c, q);
    struct chunk *ch = q->first;
    if (ch == NULL || ch->first == ch->n) {
        if (c->state == CONN_FLUSHING && c->out_bytes == 0)
            conn_sent_all(c);
        return;
    }
    /* Of TLS there are no more records than are allowed. */
    size_t allowed = c->tls != NULL ? SIZE_MAX : out_allowed(c),
           first_n = ch->iov[ch->first].iov_len;
    unsigned ahead = pieces_ahead(ch, allowed);
    if (UNLIKELY(ahead == 0) &&
        out_file_send(c, ch->owner[ch->first], first_n < allowed ? first_n : allowed) ==
            FILE_LOADING)
        return;
    if (UNLIKELY(shake_here != NULL) && ahead > 1)
        ahead = (unsigned)shake_cut(shake_here, ahead);
    q->in_flight = (uint8_t)(ahead > 0 ? ahead : 1);
    if (c->net->send_timeout_ns > 0) {
        c->send_due_ns = c->net->now_ns + c->net->send_timeout_ns;
        if (c->timer.due_ns == 0) /* one that is set fires early enough: conn_arm() */
            conn_arm(c);
    }
    if (LIKELY(ahead > 0 && first_n <= allowed)) {
        io_send(c->net->io, &c->send, c->fd, &ch->iov[ch->first], ahead);
    } else if (ahead > 0) {
        ch->cut = (struct iovec){ ch->iov[ch->first].iov_base, allowed };
        io_send(c->net->io, &c->send, c->fd, &ch->cut, 1);
    }
}

void
outq_drop(struct conn *c, struct outq *q)
{
    struct chunk *keep = q->in_flight > 0 ? q->first : NULL;
    struct chunk *ch = keep ? keep->next : q->first;
    if (keep != NULL)
        keep->next = NULL;
    q->first = q->last = keep;
    while (ch != NULL) {
        struct chunk *next = ch->next;
        chunk_release(c, ch);
        ch = next;
    }
}

void
out_drop(struct conn *c)
{
    c->out_bytes = 0;
    c->out_reserved = 0;
    c->full = c->ends_apart = false;
    outq_drop(c, &c->out);
    if (c->tls != NULL)
        outq_drop(c, &c->tls->wire);
}

void
outq_advance(struct conn *c, struct outq *q, size_t n)
{
    while (n > 0) {
        struct chunk *ch = q->first;
        ASSERT(ch != NULL);
        if (ch->first == ch->n) {
            pop_sent(c, q);
            continue;
        }
        struct iovec *v = &ch->iov[ch->first];
        if (n < v->iov_len) {
            v->iov_len -= n;
            if (UNLIKELY(is_file(ch, ch->first)))
                out_file_advance(ch->owner[ch->first], n);
            else
                v->iov_base = (char *)v->iov_base + n;
            return;
        }
        n -= v->iov_len;
        piece_release(c, ch);
    }
    pop_sent(c, q);
}

/* The completion of a send. */
void
out_complete(struct io_op *op, int res, unsigned flags)
{
    struct conn *c = CONTAINER_OF(op, struct conn, send);
    struct outq *q = out_wire(c);
    (void)flags;
    net_woken(c->net);
    ASSERT(q->in_flight > 0);
    q->in_flight = 0;
    if (c->broken || c->state == CONN_CLOSING) {
        out_drop(c);
        conn_settle(c);
        return;
    }
    if (res <= 0) {
        conn_fail(c, res == 0 && is_file(q->first, q->first->first) ? -ENODATA
                     : res == 0                                     ? -EPIPE
                                                                    : res);
        return;
    }
    metrics_add(&metrics_here->loop.bytes_out, (uint64_t)res);
    outq_advance(c, q, (size_t)res);
    c->out_bytes -= c->tls != NULL ? tls_sent(c, (size_t)res) : (size_t)res;
    if (c->out_bytes > 0 || (c->tls != NULL && tls_has_more(c))) {
        out_submit(c);
    } else if (c->state == CONN_FLUSHING) {
        conn_sent_all(c);
        return;
    }
    if (c->full && c->out_bytes <= NET_LOW_WATER) {
        c->full = c->ends_apart = false;
        if (c->state == CONN_OPEN)
            c->net->ops->drained(c);
    }
}
