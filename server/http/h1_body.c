/* h1_body.c: request bodies in, and back-pressure: reading stops at H1_BODY_HIGH untaken bytes, and
 * the kernel's window does the rest.
 * The block: [head .. body_start..body_end decoded .. framing .. in_start..in_end not decoded yet,
 *            or the next request's].
 * Always:    body_end <= in_start; the block does not move before h1_head_done(), because the
 *            application holds slices of the head. */
#include <errno.h>

#include "h1.h"

uint64_t
h1_body_missing(const struct h1 *h)
{
    if (h->r->is_body_done)
        return 0;
    return h->r->is_chunked_in ? UINT64_MAX : h->r->body_left;
}

int
h1_body_decode(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    const struct conf *conf = h->app->conf;
    if (r->is_body_done || c->in == NULL)
        return 0;
    if (r->body_start == r->body_end)
        r->body_start = r->body_end = c->in_start;
    uint32_t before = r->body_end;
    if (!r->is_chunked_in) {
        uint32_t n = c->in_end - c->in_start;
        if (n > r->body_left)
            n = (uint32_t)r->body_left;
        c->in_start += n;
        r->body_end += n;
        r->body_left -= n;
        r->is_body_done = r->body_left == 0;
    } else {
        size_t trailer_bytes = conf->limit_header_size, trailers = conf->limit_headers;
        struct chunked_limits limits = {
            .trailer_bytes = trailer_bytes == 0 || trailer_bytes > H1_LIMIT_OFF
                                 ? (uint32_t)H1_LIMIT_OFF
                                 : (uint32_t)trailer_bytes,
            .trailers = trailers == 0 || trailers > H1_HEADERS_KEPT_MAX
                            ? (uint32_t)H1_HEADERS_KEPT_MAX
                            : (uint32_t)trailers,
            .keep = conf->http_trailers == CONF_TRAILERS_PASS ? &r->trailers : NULL,
        };
        int res = chunked_decode(&r->chunked, &limits, c->in->data, &c->in_start, c->in_end,
                                 &r->body_end);
        if (res < 0)
            return -res;
        r->is_body_done = res == CHUNKED_DONE;
    }
    r->body_got += r->body_end - before;
    if (conf->limit_body > 0 && r->body_got > conf->limit_body)
        return 413;
    return 0;
}

/* Room to read into: 0, or -ENOBUFS when the application must take something first. */
static int
make_room(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    uint64_t missing = h1_body_missing(h);
    if (c->in == NULL) {
        r->body_start = r->body_end = 0;
        /* Bodies that are known to be long get a big block at once; conn_read() takes a small one.
         * */
        if (!r->is_chunked_in && missing > NET_BLOCK)
            return conn_in_grow(c, NET_BIG_BLOCK);
        return 0;
    }
    uint32_t room = c->in->cap - c->in_end;
    if (room >= NET_BLOCK / 4 || room >= missing)
        return 0;
    if (!r->is_head_taken)
        return room > 0 ? 0 : -ENOBUFS;
    /* Move all that is still needed to the start, of a bigger block where this one is small. */
    bool has_body = r->body_start < r->body_end;
    uint32_t raw = c->in_start;
    uint32_t base = has_body ? r->body_start : raw;
    if (base == 0 && c->in->cap >= NET_BIG_BLOCK)
        return room > 0 ? 0 : -ENOBUFS;
    c->in_start = base;
    if (conn_in_grow(c, NET_BIG_BLOCK) < 0) {
        c->in_start = raw;
        return room > 0 ? 0 : -ENOMEM;
    }
    c->in_start = raw - base;
    r->body_start = 0;
    r->body_end = has_body ? r->body_end - base : 0;
    return c->in->cap > c->in_end ? 0 : -ENOBUFS;
}

void
h1_body_read(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    if (!c->readable || r->body_end - r->body_start >= H1_BODY_HIGH)
        return;
    int err = make_room(h);
    if (err == -ENOMEM)
        h1_refuse(h, 503);
    if (err < 0)
        return; /* h1_body_consumed() or h1_head_done() resumes */
    int n = conn_read(c);
    if (n == -ENOMEM)
        h1_refuse(h, 503);
    if (n <= 0)
        return;
    int status = h1_body_decode(h);
    if (status != 0)
        h1_refuse(h, status);
    else if (c->readable)
        conn_resume(c);
}

void
h1_body_release(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    if (r->is_head_taken && r->body_start == r->body_end && c->in_start == c->in_end) {
        conn_in_drop(c);
        r->body_start = r->body_end = 0;
    }
}

/* Whether a client that we have waited for is too slow altogether: many small pieces never reach
 * the idle timeout. */
static bool
is_too_slow(const struct h1 *h)
{
    const struct h1_req *r = h->r;
    unsigned rate = h->app->conf->timeout_body_rate;
    if (rate == 0 || r->is_body_done || r->waited_ns < H1_RATE_GRACE_MS * NS_PER_MS)
        return false;
    return r->body_got < (uint64_t)rate * (uint64_t)(r->waited_ns / NS_PER_MS) / 1000;
}

void
h1_body_deliver(struct h1 *h)
{
    struct h1_req *r = h->r;
    if (!r->want || (r->body_start == r->body_end && !r->is_body_done))
        return;
    r->want = false;
    r->waited_ns += h->app->net->now_ns - r->want_ns;
    conn_deadline(&h->conn, 0);
    if (is_too_slow(h))
        h1_refuse(h, 408);
    else
        h->app->event(h->app, h, HTTP_BODY);
}

/* --- for the application ---------------------------------------------------------------------- */

struct slice
h1_body(struct h1 *h)
{
    const struct h1_req *r = h->r;
    if (h->conn.in == NULL || r->body_start == r->body_end)
        return (struct slice){ "", 0 };
    return (struct slice){ h->conn.in->data + r->body_start, r->body_end - r->body_start };
}

void
h1_body_consumed(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    r->body_start = r->body_end;
    h1_body_release(h);
    if (!r->is_body_done && c->readable && c->state == CONN_OPEN)
        conn_resume(c);
}

bool
h1_body_trailer(const struct h1 *h, struct slice *rest, struct http_header *out)
{
    const struct buf *all = &h->r->trailers;
    if (rest->p == NULL)
        *rest = (struct slice){ all->p, all->n };
    while (rest->n > 0) {
        const char *colon = memchr(rest->p, ':', rest->n), *end = memchr(rest->p, '\r', rest->n);
        if (colon == NULL || end == NULL || colon > end)
            return false;
        out->name = (struct slice){ rest->p, (size_t)(colon - rest->p) };
        out->value = slice_trim((struct slice){ colon + 1, (size_t)(end - colon - 1) });
        size_t n = (size_t)(end + 2 - rest->p); /* the decoder has seen to it that LF follows */
        *rest = (struct slice){ rest->p + n, rest->n - n };
        if (h1_may_trail(out->name))
            return true;
    }
    return false;
}

bool
h1_body_is_complete(const struct h1 *h)
{
    return h->r->is_body_done;
}

void
h1_want_body(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    if (r->refused || c->broken || c->state != CONN_OPEN)
        return; /* HTTP_GONE was or is told */
    r->want = true;
    /* Read anew: the application may have run for long. */
    r->want_ns = h->app->net->now_ns = clock_ns();
    if (r->is_body_done || r->body_start < r->body_end || c->readable)
        conn_resume(c);
    if (r->is_body_done)
        return;
    h1_write_continue(h);
    int64_t timeout_ms = h->app->conf->timeout_body_ms;
    if (timeout_ms > 0)
        conn_deadline(c, r->want_ns + timeout_ms * NS_PER_MS);
}

void
h1_leave_body(struct h1 *h)
{
    struct h1_req *r = h->r;
    if (!r->want)
        return;
    r->want = false;
    r->waited_ns += clock_ns() - r->want_ns;
    conn_deadline(&h->conn, 0);
}
