/* out.c: what a connection has to send: a queue of chunks, of which the first is with the kernel.
 * Small pieces are copied behind each other, so that head and body leave in one send; big ones stay
 * where they are and are released when they are sent. Pieces may be added to a chunk whose earlier
 * pieces are in flight: the kernel was given a count, and what it was given does not move.
 * Owns:   the chunks of a connection, and the held buffers in them until release().
 * Always: at most one send in flight a connection; out_bytes is the sum of all unsent pieces. */
#include <errno.h>
#include <string.h>

#include "out.h"

static void
owner_release(struct conn *c, void *owner)
{
    live.held--;
    c->net->ops->release(c, owner);
}

static void
chunk_release(struct conn *c, struct chunk *ch)
{
    while (ch->first < ch->n) {
        void *owner = ch->owner[ch->first++];
        if (owner != NULL)
            owner_release(c, owner);
    }
    chunk_give(c->net, ch);
}

static void
mark_dirty(struct conn *c)
{
    if (c->out_bytes > NET_HIGH_WATER)
        c->full = true;
    if (c->in_flight == 0 && list_is_empty(&c->dirty))
        list_add_tail(&c->net->dirty, &c->dirty);
}

/* Whether new bytes at data + used can be added to the last piece, which the kernel must not have.
 * */
static bool
can_extend(const struct conn *c, const struct chunk *t)
{
    if (t->n == t->first || t->owner[t->n - 1] != NULL)
        return false;
    if (t == c->out_first && t->n == t->first + c->in_flight)
        return false;
    const struct iovec *last = &t->iov[t->n - 1];
    return (const char *)last->iov_base + last->iov_len == t->data + t->used;
}

static struct chunk *
chunk_append(struct conn *c, size_t need)
{
    struct chunk *ch = chunk_take(c->net, need);
    if (ch == NULL)
        return NULL;
    if (c->out_last == NULL)
        c->out_first = ch;
    else
        c->out_last->next = ch;
    c->out_last = ch;
    return ch;
}

/* Gives back chunks in front that are all sent; the last one stays while room in it is reserved. */
static void
pop_sent(struct conn *c)
{
    struct chunk *ch;
    while ((ch = c->out_first) != NULL && ch->first == ch->n) {
        if (ch == c->out_last && c->out_reserved > 0) {
            ch->first = ch->n = 0;
            return;
        }
        c->out_first = ch->next;
        if (c->out_first == NULL)
            c->out_last = NULL;
        chunk_give(c->net, ch);
    }
}

char *
conn_out(struct conn *c, size_t need, size_t *room)
{
    if (c->broken || c->state != CONN_OPEN)
        return NULL;
    c->out_reserved = 0;
    struct chunk *t = c->out_last;
    /* A piece that could be extended now may be with the kernel when this is committed. */
    if (t == NULL || t->cap - t->used < need || t->n == NET_IOV) {
        if (t != NULL && c->in_flight == 0)
            pop_sent(c); /* a forgotten reservation may have left the last one empty */
        t = chunk_append(c, need);
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
    struct chunk *t = c->out_last;
    ASSERT(t != NULL && c->out_reserved > 0 && n <= t->cap - t->used);
    c->out_reserved = 0;
    if (can_extend(c, t)) {
        t->iov[t->n - 1].iov_len += n;
    } else {
        ASSERT(t->n < NET_IOV);
        t->iov[t->n] = (struct iovec){ .iov_base = t->data + t->used, .iov_len = n };
        t->owner[t->n++] = NULL;
    }
    t->used += (uint32_t)n;
    c->out_bytes += n;
    mark_dirty(c);
}

void
conn_out_cancel(struct conn *c)
{
    c->out_reserved = 0;
    if (c->in_flight == 0)
        pop_sent(c);
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
    struct chunk *t = c->out_last;
    if (c->broken || c->state != CONN_OPEN)
        err = -EPIPE;
    else if (n > 0 && (t == NULL || t->n == NET_IOV) && (t = chunk_append(c, 0)) == NULL)
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

void
out_submit(struct conn *c)
{
    if (c->in_flight > 0 || c->broken || c->state == CONN_CLOSING)
        return;
    pop_sent(c);
    struct chunk *ch = c->out_first;
    if (ch == NULL || ch->first == ch->n)
        return;
    c->in_flight = (uint8_t)(ch->n - ch->first);
    if (c->net->send_timeout_ns > 0) {
        c->send_due_ns = c->net->now_ns + c->net->send_timeout_ns;
        if (c->timer.due_ns == 0) /* one that is set fires early enough: conn_arm() */
            conn_arm(c);
    }
    io_send(c->net->io, &c->send, c->fd, &ch->iov[ch->first], c->in_flight);
}

void
out_drop(struct conn *c)
{
    struct chunk *keep = c->in_flight > 0 ? c->out_first : NULL;
    struct chunk *ch = keep ? keep->next : c->out_first;
    if (keep != NULL)
        keep->next = NULL;
    c->out_first = c->out_last = keep;
    c->out_bytes = 0;
    c->out_reserved = 0;
    c->full = false;
    while (ch != NULL) {
        struct chunk *next = ch->next;
        chunk_release(c, ch);
        ch = next;
    }
}

/* Takes n sent bytes off the first chunk. */
static void
advance(struct conn *c, size_t n)
{
    struct chunk *ch = c->out_first;
    c->out_bytes -= n;
    while (n > 0) {
        ASSERT(ch->first < ch->n);
        struct iovec *v = &ch->iov[ch->first];
        if (n < v->iov_len) {
            v->iov_base = (char *)v->iov_base + n;
            v->iov_len -= n;
            return;
        }
        n -= v->iov_len;
        void *owner = ch->owner[ch->first++];
        if (owner != NULL)
            owner_release(c, owner);
    }
}

/* The completion of a send. */
void
out_complete(struct io_op *op, int res, unsigned flags)
{
    struct conn *c = CONTAINER_OF(op, struct conn, send);
    (void)flags;
    net_woken(c->net);
    ASSERT(c->in_flight > 0);
    c->in_flight = 0;
    if (c->broken || c->state == CONN_CLOSING) {
        out_drop(c);
        conn_settle(c);
        return;
    }
    if (res <= 0) {
        conn_fail(c, res == 0 ? -EPIPE : res);
        return;
    }
    advance(c, (size_t)res);
    pop_sent(c);
    if (c->out_bytes > 0) {
        out_submit(c);
    } else if (c->state == CONN_FLUSHING) {
        conn_sent_all(c);
        return;
    }
    if (c->full && c->out_bytes <= NET_LOW_WATER) {
        c->full = false;
        if (c->state == CONN_OPEN)
            c->net->ops->drained(c);
    }
}
