/* h1_write.c: answers out.
 * The head is written into the connection's output as soon as the application gives it, and counts
 * as output only with the first piece of the body: then the framing is known (RFC 9112 section 6),
 * and head and small body leave in one send. What the application sends is checked here: nothing it
 * says can put bytes on the wire that end one answer and begin another. */
#include <errno.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "chars.h"
#include "h1.h"
#include "status.h"

enum { FRAMING_MAX = 96 }; /* content-length or transfer-encoding, connection, and the empty line */

/* --- the head --------------------------------------------------------------------------------- */

/* What was found in the application's headers. */
struct told {
    uint64_t length; /* UINT64_MAX = nothing */
    bool date, server, close, event_stream;
};

static bool
parse_length(struct slice s, uint64_t *out)
{
    uint64_t n = 0;
    s = slice_trim(s);
    if (s.n == 0 || s.n > 18)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!char_is(s.p[i], CHAR_DIGIT))
            return false;
        n = n * 10 + (uint64_t)(s.p[i] - '0');
    }
    *out = n;
    return true;
}

static bool
has_close(struct slice s)
{
    while (s.n > 0) {
        const char *comma = memchr(s.p, ',', s.n);
        size_t n = comma ? (size_t)(comma - s.p) : s.n;
        if (slice_is_nocase(slice_trim((struct slice){ s.p, n }), "close"))
            return true;
        n += comma != NULL;
        s.p += n;
        s.n -= n;
    }
    return false;
}

static bool
is_event_stream(struct slice value)
{
    const struct slice type = SLICE("text/event-stream");
    value = slice_trim(value);
    return value.n >= type.n && slice_is_nocase((struct slice){ value.p, type.n }, type.p);
}

/* One of the headers that mean something to us. Returns 1 = send it, 0 = leave it out, negative =
 * enum http_write. */
static int
special(const struct http_header *v, struct told *told)
{
    switch (v->name.n) {
    case 4:
        told->date |= slice_is_nocase(v->name, "date");
        return 1;
    case 6:
        told->server |= slice_is_nocase(v->name, "server");
        return 1;
    case 10:
        if (slice_is_nocase(v->name, "connection")) {
            told->close |= has_close(v->value);
            return 0;
        }
        return !slice_is_nocase(v->name, "keep-alive");
    case 12:
        told->event_stream |= slice_is_nocase(v->name, "content-type") && is_event_stream(v->value);
        return 1;
    case 14:
        if (slice_is_nocase(v->name, "content-length")) {
            uint64_t n;
            if (told->length != UINT64_MAX || !parse_length(v->value, &n))
                return HTTP_BAD_LENGTH;
            told->length = n;
            return 0; /* written with the framing, where it is decided whether it may stand */
        }
        return 1;
    case 17:
        if (slice_is_nocase(v->name, "transfer-encoding"))
            return slice_is_nocase(slice_trim(v->value), "chunked") ? 0 : HTTP_BAD_TRANSFER;
        return 1;
    default:
        return 1;
    }
}

char *
h1_put_own(char *p, struct http_app *app, bool has_server, bool has_date)
{
    status_refresh(app);
    const struct http_own *own = &app->own;
    if (LIKELY(!has_server && !has_date)) {
        memcpy(p, own->lines, (size_t)own->server_n + own->date_n);
        p += own->server_n + own->date_n;
    } else {
        if (!has_server)
            p = (char *)memcpy(p, own->lines, own->server_n) + own->server_n;
        if (!has_date)
            p = (char *)memcpy(p, own->lines + own->server_n, own->date_n) + own->date_n;
    }
    if (own->headers.n > 0)
        p = (char *)memcpy(p, own->headers.p, own->headers.n) + own->headers.n;
    return p;
}

/* Copies name and value and checks them on the way. Returns where it ends, or NULL with *err set.
 * */
char *
h1_put_header(char *p, const struct http_header *v, enum http_write *err)
{
    unsigned token = CHAR_TOKEN;
    for (size_t i = 0; i < v->name.n; i++) {
        token &= http_chars[(unsigned char)v->name.p[i]];
        p[i] = v->name.p[i];
    }
    if (v->name.n == 0 || token == 0) {
        *err = HTTP_BAD_NAME;
        return NULL;
    }
    p += v->name.n;
    *p++ = ':';
    *p++ = ' ';
    unsigned bad = 0;
    for (size_t i = 0; i < v->value.n; i++) {
        unsigned char c = (unsigned char)v->value.p[i];
        bad |= (unsigned)(c == '\r') | (unsigned)(c == '\n') | (unsigned)(c == '\0');
        p[i] = (char)c;
    }
    if (bad) {
        *err = HTTP_BAD_VALUE;
        return NULL;
    }
    p += v->value.n;
    *p++ = '\r';
    *p++ = '\n';
    return p;
}

/* HTTP_OK, or what h1_start() would say of such a header. */
static enum http_write
check_header(const struct http_header *v, struct told *told)
{
    if (v->name.n == 0 || !chars_are(v->name, CHAR_TOKEN))
        return HTTP_BAD_NAME;
    unsigned bad = 0;
    for (size_t i = 0; i < v->value.n; i++) {
        char c = v->value.p[i];
        bad |= (unsigned)(c == '\r') | (unsigned)(c == '\n') | (unsigned)(c == '\0');
    }
    if (bad)
        return HTTP_BAD_VALUE;
    int keep = special(v, told);
    return keep < 0 ? (enum http_write)keep : HTTP_OK;
}

static bool
is_status(int status, struct slice reason)
{
    if (status < 200 || status > 999)
        return false;
    for (size_t i = 0; i < reason.n; i++) {
        unsigned char c = (unsigned char)reason.p[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

enum http_write
h1_check_start(int status, struct slice reason, const struct http_header *headers, size_t n,
               size_t *bad)
{
    struct told told = { .length = UINT64_MAX };
    if (!is_status(status, reason))
        return HTTP_BAD_STATUS;
    for (size_t i = 0; i < n; i++) {
        enum http_write err = check_header(&headers[i], &told);
        if (err != HTTP_OK) {
            *bad = i;
            return err;
        }
    }
    return HTTP_OK;
}

/* Writes "HTTP/1.1 299 As The Application Says\r\n"; room: STATUS_LINE_MAX + reason.n. */
static size_t
put_status(int status, struct slice reason, char *out)
{
    size_t n = status_line(status, out);
    struct slice phrase = status_phrase(status);
    if (reason.p == NULL || (reason.n == phrase.n && memcmp(reason.p, phrase.p, reason.n) == 0))
        return n;
    char *p = out + n - 2 - phrase.n; /* behind the space */
    memcpy(p, reason.p, reason.n);
    memcpy(p + reason.n, "\r\n", 2);
    return (size_t)(p - out) + reason.n + 2;
}

static bool
is_writable(const struct h1 *h)
{
    return !h->r->refused && !h->conn.broken && h->conn.state == CONN_OPEN;
}

enum http_write
h1_start(struct h1 *h, int status, const struct http_header *headers, size_t n, size_t *bad)
{
    return h1_start_as(h, status, (struct slice){ 0 }, headers, n, bad);
}

enum http_write
h1_start_as(struct h1 *h, int status, struct slice reason, const struct http_header *headers,
            size_t n, size_t *bad)
{
    struct http_app *app = h->app;
    struct h1_req *r = h->r;
    struct told told = { .length = UINT64_MAX };
    size_t i, need = STATUS_LINE_MAX + reason.n + H1_SEND_SLACK + app->own.headers.n;
    if (!is_writable(h))
        return HTTP_BROKEN;
    DEBUG_ASSERT(!r->started);
    if (!is_status(status, reason))
        return HTTP_BAD_STATUS;
    for (i = 0; i < n; i++)
        need += headers[i].name.n + headers[i].value.n + 4;
    size_t room;
    char *start = conn_out(&h->conn, need, &room), *p = start;
    if (p == NULL) {
        conn_fail(&h->conn, -ENOMEM);
        return HTTP_BROKEN;
    }
    p += put_status(status, reason, p);
    for (i = 0; i < n; i++) {
        enum http_write err = HTTP_OK;
        char *next = h1_put_header(p, &headers[i], &err);
        if (next != NULL) {
            int keep = special(&headers[i], &told);
            if (keep > 0)
                p = next;
            else if (keep < 0)
                err = (enum http_write)keep;
        }
        if (err != HTTP_OK) {
            *bad = i;
            conn_out_cancel(&h->conn);
            return err;
        }
    }
    p = h1_put_own(p, app, told.server, told.date);
    p = request_id_put(p, h, headers, n);
    r->out = start;
    r->out_n = (uint32_t)(p - start);
    r->out_room = room > UINT32_MAX ? UINT32_MAX : (uint32_t)room;
    r->status = (uint16_t)status;
    r->length = told.length;
    r->no_body = r->req.is_head || status == 204 || status == 304;
    r->close |= told.close;
    r->is_event_stream = told.event_stream;
    r->started = true;
    if (access_is_on(app))
        access_keep_sent(h, headers, n);
    return HTTP_OK;
}

static char *
put(char *p, struct slice s)
{
    memcpy(p, s.p, s.n);
    return p + s.n;
}

static char *
put_number(char *p, uint64_t n)
{
    char digits[20];
    unsigned i = sizeof(digits);
    do
        digits[--i] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    memcpy(p, digits + i, sizeof(digits) - i);
    return p + (sizeof(digits) - i);
}

/* Whether what is left of the request's body stands in the way of another request. */
static bool
body_spoils_connection(const struct h1 *h)
{
    uint64_t missing = h1_body_missing(h);
    return missing > 0 &&
           (h->r->continue_due || (missing > H1_SKIP_BODY_MAX && missing != UINT64_MAX));
}

/* Decides on the framing and completes the head in its room. n: of the first piece of the body. */
static void
complete_head(struct h1 *h, size_t n, bool is_last)
{
    struct h1_req *r = h->r;
    char *p = r->out + r->out_n;
    bool in_length = r->length != UINT64_MAX;
    if (r->status == 204) {
        /* RFC 9110 section 8.6: a 204 has no Content-Length. */
    } else if (in_length) {
        p = put_number(put(p, SLICE("content-length: ")), r->length);
        p = put(p, SLICE("\r\n"));
    } else if (r->no_body) {
        /* The length that GET would have, where the application made the body for us to drop. */
        if (is_last && n > 0 && r->status != 304) {
            p = put_number(put(p, SLICE("content-length: ")), n);
            p = put(p, SLICE("\r\n"));
        }
    } else if (is_last) {
        r->length = n;
        p = put_number(put(p, SLICE("content-length: ")), n);
        p = put(p, SLICE("\r\n"));
    } else if (r->req.version_minor >= 1) {
        r->chunked_out = true;
        p = put(p, SLICE("transfer-encoding: chunked\r\n"));
    } else {
        r->until_close = true;
    }
    if (!r->keep_alive || h->app->draining || h->conn.is_guest || r->until_close ||
        (is_last && body_spoils_connection(h)))
        r->close = true;
    if (r->close && r->status == 426) /* what Upgrade names, Connection names (RFC 9110, 7.8) */
        p = put(p, SLICE("connection: close, upgrade\r\n"));
    else if (r->close)
        p = put(p, SLICE("connection: close\r\n"));
    else if (r->req.version_minor == 0)
        p = put(p, SLICE("connection: keep-alive\r\n"));
    p = put(p, SLICE("\r\n"));
    r->out_n = (uint32_t)(p - r->out);
    r->sending = true;
    if (UNLIKELY(r->is_event_stream) && !is_last)
        stream_begins(h);
}

/* --- the body --------------------------------------------------------------------------------- */

enum { CHUNK_FRAME_MAX = 32 }; /* size line in front, CRLF and the last chunk behind */

static char *
put_chunk_size(char *p, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    char digits[16];
    unsigned i = sizeof(digits);
    do
        digits[--i] = hex[n & 15];
    while ((n >>= 4) > 0);
    memcpy(p, digits + i, sizeof(digits) - i);
    return put(p + (sizeof(digits) - i), SLICE("\r\n"));
}

static struct slice
chunk_end(const struct h1_req *r, size_t n, bool is_last)
{
    if (!r->chunked_out)
        return (struct slice){ "", 0 };
    if (n == 0)
        return is_last ? SLICE("0\r\n\r\n") : (struct slice){ "", 0 };
    return is_last ? SLICE("\r\n0\r\n\r\n") : SLICE("\r\n");
}

/* A piece of a body: n bytes at p, perhaps lent by owner; or of a file, where fd is not -1. */
struct body_piece {
    const char *p;
    size_t n;
    void *owner;
    int fd;
    uint64_t at;
};

/* Queues a piece by what it is, which is then passed on. 0 or -errno. */
static int
queue(struct conn *c, struct body_piece *b)
{
    struct body_piece passed = *b;
    b->owner = NULL;
    b->fd = -1;
    return passed.fd >= 0 ? conn_write_file(c, passed.fd, passed.at, passed.n)
                          : conn_write_held(c, passed.p, passed.n, passed.owner);
}

/* Puts what waits in r->out and a piece with its frame on the wire. Without owner and fd afterwards when
 * it was passed on. 0 or -errno. */
static int
emit(struct h1 *h, struct body_piece *b, bool is_last)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    const char *p = b->p;
    size_t n = r->no_body ? 0 : b->n;
    struct slice end = chunk_end(r, n, is_last);
    bool hold = n > 0 && (b->fd >= 0 || (b->owner != NULL && n > NET_COPY_MAX));
    size_t in_room = hold ? 0 : n;
    char *out = r->out;
    size_t out_n = r->out_n, room = r->out_room;
    if (out == NULL) {
        /* Pieces too big to be copied in one go, from apps that do not lend them, are cut by
         * conn_write() below. */
        size_t need = CHUNK_FRAME_MAX + (in_room <= NET_COPY_MAX ? in_room : 0);
        if (n == 0 && end.n == 0)
            return 0;
        out = conn_out(c, need, &room);
        if (out == NULL)
            return -ENOMEM;
        out_n = 0;
    }
    r->out = NULL;
    r->out_n = 0;
    char *to = out + out_n;
    if (r->chunked_out && n > 0)
        to = put_chunk_size(to, n);
    if (!hold && (size_t)(to - out) + n + end.n <= room) {
        if (n > 0)
            memcpy(to, p, n);
        to = put(to + n, end);
        conn_out_commit(c, (size_t)(to - out));
        return 0;
    }
    conn_out_commit(c, (size_t)(to - out));
    int err;
    err = hold ? queue(c, b) : conn_write(c, p, n);
    if (err == 0 && end.n > 0)
        err = conn_write(c, end.p, end.n);
    return err;
}

static void
release(struct h1 *h, const struct body_piece *b)
{
    if (b->owner != NULL)
        h->app->release(h->app, b->owner);
    if (UNLIKELY(b->fd >= 0))
        close(b->fd);
}

static enum http_write
bad_length(struct h1 *h, enum http_write err, uint64_t sent)
{
    struct h1_req *r = h->r;
    log_about(LOG_ERROR, r->req.id,
              "%.*s: the application sent %s body than its Content-Length: %llu bytes of %llu; the "
              "connection is "
              "closed; let it give the right length or none",
              (int)r->what_n, r->what, err == HTTP_TOO_LONG ? "more" : "less",
              (unsigned long long)sent, (unsigned long long)r->length);
    r->close = true;
    return err;
}

static enum http_write
write_piece(struct h1 *h, struct body_piece b, bool is_last)
{
    struct conn *c = &h->conn;
    struct h1_req *r = h->r;
    size_t n = b.n;
    enum http_write result = HTTP_OK;
    if (!is_writable(h) || !r->started || r->finished) {
        release(h, &b);
        return HTTP_BROKEN;
    }
    if (!r->no_body && r->length != UINT64_MAX && n > r->length - r->sent) {
        release(h, &b);
        return bad_length(h, HTTP_TOO_LONG, r->sent + n);
    }
    if (!r->no_body && r->length != UINT64_MAX && is_last && r->sent + n < r->length)
        result = bad_length(h, HTTP_TOO_SHORT, r->sent + n);
    if (!r->sending)
        complete_head(h, n, is_last);
    r->sent += n;
    int err = emit(h, &b, is_last);
    release(h, &b);
    if (err < 0) {
        if (!c->broken)
            conn_fail(c, err);
        return HTTP_BROKEN;
    }
    if (result == HTTP_TOO_SHORT)
        return result; /* never finished: h1_end() closes */
    r->finished = is_last;
    bool is_full = conn_is_full(c);
    if (is_last)
        tally_answer(h);
    if (is_last && !is_full)
        access_note(h);
    else if (is_last) /* when all but its end has drained, as it is long on its way */
        c->ends_apart = access_is_on(h->app);
    return is_full ? HTTP_FULL : HTTP_OK;
}

enum http_write
h1_write(struct h1 *h, const char *p, size_t n, void *owner, bool is_last)
{
    return write_piece(h, (struct body_piece){ .p = p, .n = n, .owner = owner, .fd = -1 }, is_last);
}

enum http_write
h1_write_file(struct h1 *h, int fd, uint64_t at, uint64_t n, bool is_last)
{
    static char small[NET_COPY_MAX];
    FD_OWNED int file = fd;
    if (n <= sizeof(small) && !h->r->no_body) {
        /* What is in memory leaves with the head, in one send. */
        struct iovec v = { small, n };
        if (n == 0 || preadv2(file, &v, 1, (off_t)at, RWF_NOWAIT) == (ssize_t)n)
            return h1_write(h, small, n, NULL, is_last);
    }
    struct body_piece b = { .n = n, .fd = file, .at = at };
    file = -1;
    return write_piece(h, b, is_last);
}

uint64_t
h1_length_left(const struct h1 *h)
{
    const struct h1_req *r = h->r;
    return r->length == UINT64_MAX ? UINT64_MAX : r->length - r->sent;
}

bool
h1_is_started(const struct h1 *h)
{
    return h->r->started;
}

int
h1_status(const struct h1 *h)
{
    return h->r->started ? h->r->status : 0;
}

bool
h1_is_sending(const struct h1 *h)
{
    return h->r->sending;
}

bool
h1_is_finished(const struct h1 *h)
{
    return h->r->finished;
}

/* --- our own answers -------------------------------------------------------------------------- */

void
h1_write_continue(struct h1 *h)
{
    static const struct slice line = { "HTTP/1.1 100 Continue\r\n\r\n", 25 };
    struct h1_req *r = h->r;
    if (!r->continue_due || r->sending)
        return;
    r->continue_due = false;
    if (r->out == NULL) {
        if (conn_write(&h->conn, line.p, line.n) < 0 && !h->conn.broken)
            conn_fail(&h->conn, -ENOMEM);
        return;
    }
    /* A head waits in the output for its body: put the line in front of it. H1_SEND_SLACK has the
     * room. */
    memmove(r->out + line.n, r->out, r->out_n);
    memcpy(r->out, line.p, line.n);
    size_t room;
    conn_out_commit(&h->conn, line.n);
    char *out = conn_out(&h->conn, r->out_room - line.n, &room);
    /* the last iovec of the chunk was taken: move the head to the next chunk */
    if (out != r->out + line.n) {
        if (out == NULL) {
            conn_fail(&h->conn, -ENOMEM);
            return;
        }
        memcpy(out, r->out + line.n, r->out_n);
    }
    r->out = out;
    r->out_room = (uint32_t)room;
}

/* text: the body, a line without its end. */
static void
write_own(struct h1 *h, int status, bool close, struct slice text)
{
    struct h1_req *r = h->r;
    char body[STATUS_LINE_MAX];
    struct http_header headers[] = {
        { SLICE("content-type"), SLICE("text/plain; charset=utf-8") },
        { SLICE("retry-after"), SLICE("1") },
        { SLICE("upgrade"), SLICE("websocket") },
    };
    size_t headers_n = status == 503 ? 2 : 1;
    if (status == 426) { /* RFC 6455 section 4.4 */
        headers[1] = (struct http_header){ SLICE("sec-websocket-version"), SLICE("13") };
        headers_n = 3;
    }
    size_t bad, n = (size_t)snprintf(body, sizeof(body), "%.*s\n", (int)text.n, text.p);
    conn_out_cancel(&h->conn);
    r->out = NULL;
    r->out_n = 0;
    r->started = false;
    r->sent = 0;
    r->close |= close;
    if (h1_start(h, status, headers, headers_n, &bad) == HTTP_OK)
        h1_write(h, body, n, NULL, true);
}

void
h1_write_own(struct h1 *h, int status, bool close)
{
    write_own(h, status, close, status_phrase(status));
}

void
h1_write_misplaced(struct h1 *h)
{
    write_own(h, 400, true, SLICE("This port speaks HTTPS; the request was plain HTTP"));
}

void
h1_fail(struct h1 *h, int status)
{
    if (!h->r->sending && !h->r->finished)
        h1_write_own(h, status, false);
}
