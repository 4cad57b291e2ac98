/* h1_head.c: request heads in.
 * llhttp finds the parts and the end; then every byte between the parts is looked at again, because
 * versions of llhttp differ in what they let pass (bare LF, folded lines, white space before the
 * colon) and a proxy in front of us may read such bytes differently. A head that has come whole is
 * parsed once. One that comes in pieces is fed to llhttp as it comes, for an early refusal and to
 * find its end, and parsed again when it is whole: so the result cannot depend on where it was cut,
 * and no half-parsed state needs fixing up when the block moves. Each byte is thus looked at by
 * llhttp at most twice. Owns: the pools of struct head and struct h1_req; a connection has a head
 * only while it is incomplete or lent to the application. */
#include "h1.h"

#include <errno.h>
#include <llhttp.h>
#include <stdlib.h>

#include "chars.h"

struct head {
    struct head *next; /* in the free list */
    llhttp_t parser;
    bool recording;  /* the whole head is being parsed in one call, so that spans are whole too */
    unsigned n, max; /* n may exceed max: counted, not recorded */
    struct http_header v[];
};

/* --- the pool --------------------------------------------------------------------------------- */

static unsigned
headers_max(const struct http_app *app)
{
    size_t max = app->conf->limit_headers;
    return max == 0 || max > H1_HEADERS_KEPT_MAX ? (unsigned)H1_HEADERS_KEPT_MAX : (unsigned)max;
}

static struct head *
head_take(struct http_app *app)
{
    struct head *head = app->own.free_heads;
    if (head != NULL) {
        app->own.free_heads = head->next;
        app->own.free_heads_n--;
        return head;
    }
    unsigned max = headers_max(app);
    /* One more: a Host header that is made from an absolute target (h1_check.c). */
    head = malloc(sizeof(*head) + (max + 1) * sizeof(head->v[0]));
    if (head != NULL)
        head->max = max;
    return head;
}

void
h1_head_give(struct h1 *h)
{
    struct http_own *own = &h->app->own;
    struct head *head = h->head;
    h->head = NULL;
    if (head == NULL)
        return;
    if (h->r != NULL)
        h->r->req.headers = NULL;
    if (own->free_heads_n >= H1_HEADS_KEPT) {
        free(head);
        return;
    }
    head->next = own->free_heads;
    own->free_heads = head;
    own->free_heads_n++;
}

int
h1_req_take(struct h1 *h)
{
    struct http_own *own = &h->app->own;
    if (h->r != NULL)
        return 0;
    struct h1_req *r = own->free_reqs;
    if (r != NULL) {
        own->free_reqs = r->next;
        own->free_reqs_n--;
    } else if ((r = malloc(sizeof(*r) + (h->app->conf->request_id ? H1_ID_MAX : 0))) == NULL) {
        return -ENOMEM;
    }
    /* behind that: text, of what_n and req.id's length */
    memset(r, 0, offsetof(struct h1_req, what));
    list_init(&r->link);
    list_init(&r->timed);
    r->h = h;
    h->r = r;
    return 0;
}

void
h1_req_give(struct h1 *h)
{
    struct http_own *own = &h->app->own;
    struct h1_req *r = h->r;
    h->r = NULL;
    if (r == NULL)
        return;
    free(r->kept);
    free(r->kept_sent);
    free(r->host);
    if (UNLIKELY(r->req.is_websocket))
        h1_ws_fini(&r->ws);
    else
        buf_free(&r->trailers);
    if (own->free_reqs_n >= H1_REQS_KEPT) {
        free(r);
        return;
    }
    r->next = own->free_reqs;
    own->free_reqs = r;
    own->free_reqs_n++;
}

void
h1_pools_fini(struct http_app *app)
{
    struct http_own *own = &app->own;
    for (struct head *head; (head = own->free_heads) != NULL;) {
        own->free_heads = head->next;
        free(head);
    }
    for (struct h1_req *r; (r = own->free_reqs) != NULL;) {
        own->free_reqs = r->next;
        free(r);
    }
    own->free_heads_n = own->free_reqs_n = 0;
}

/* --- llhttp ----------------------------------------------------------------------------------- */

static int
on_header_field(llhttp_t *parser, const char *at, size_t n)
{
    struct head *head = parser->data;
    if (!head->recording)
        return 0;
    if (head->n < head->max)
        head->v[head->n] = (struct http_header){ .name = { at, n }, .value = { at + n + 1, 0 } };
    head->n++;
    return 0;
}

static int
on_header_value(llhttp_t *parser, const char *at, size_t n)
{
    struct head *head = parser->data;
    if (!head->recording || head->n == 0 || head->n > head->max || n == 0)
        return 0;
    struct slice *value = &head->v[head->n - 1].value;
    if (value->n == 0)
        *value = (struct slice){ at, n };
    else /* a folded line; check_headers() decides */
        value->n = (size_t)(at + n - value->p);
    return 0;
}

static int
on_headers_complete(llhttp_t *parser)
{
    (void)parser;
    return HPE_PAUSED; /* the body is h1_body.c's */
}

static const llhttp_settings_t settings = {
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_headers_complete = on_headers_complete,
};

static void
parser_start(struct http_app *app, struct head *head, bool recording)
{
    llhttp_t *parser = &head->parser;
    unsigned lenient = app->conf->http_lenient;
    llhttp_init(parser, HTTP_REQUEST, &settings);
    parser->data = head;
    head->recording = recording;
    head->n = 0;
    /* Framing is h1_check.c's, which is stricter than any version of llhttp and tells 400 from 501.
     * */
    llhttp_set_lenient_chunked_length(parser, 1);
    llhttp_set_lenient_transfer_encoding(parser, 1);
    if (lenient & (LENIENT_OBS_FOLD | LENIENT_HEADER_VALUE))
        llhttp_set_lenient_headers(parser, 1);
}

static const char crlf[] = "\r\n";

/* Feeds p[fed..n). On an error, and when the head is complete, *seen is how far llhttp got.
 * No version of llhttp takes a bare LF everywhere; where it shall pass, each is shown to llhttp as
 * the CRLF that it stands for. */
static enum llhttp_errno
execute(struct http_app *app, struct head *head, const char *p, uint32_t fed, uint32_t n,
        uint32_t *seen)
{
    llhttp_t *parser = &head->parser;
    enum llhttp_errno err = HPE_OK;
    bool bare_lf = (app->conf->http_lenient & LENIENT_BARE_LF) != 0;
    while (fed < n) {
        const char *lf = bare_lf ? memchr(p + fed, '\n', n - fed) : NULL;
        bool is_bare = lf != NULL && (lf == p || lf[-1] != '\r');
        uint32_t to = lf == NULL ? n : (uint32_t)(lf - p) + !is_bare;
        if (to > fed)
            err = llhttp_execute(parser, p + fed, to - fed);
        if (err != HPE_OK) {
            const char *at = llhttp_get_error_pos(parser);
            *seen = at >= p && at <= p + to ? (uint32_t)(at - p) : to;
            return err;
        }
        fed = to;
        if (is_bare) {
            err = llhttp_execute(parser, crlf, 2);
            fed++;
            if (err != HPE_OK)
                break;
        }
    }
    *seen = fed;
    return err;
}

/* The status for an error of llhttp when it had seen so much. It may have looked at one byte more,
 * or not: versions and errors differ, so none of the decisions here hangs on whether that byte is
 * among them. */
static int
status_of(enum llhttp_errno err, struct slice seen)
{
    const char *lf = memchr(seen.p, '\n', seen.n);
    struct slice line = { seen.p, lf ? (size_t)(lf - seen.p) : seen.n };
    const char *space = memchr(line.p, ' ', line.n);
    if (space == line.p)
        return 400;
    struct slice method = { line.p, space ? (size_t)(space - line.p) : line.n };
    /* llhttp gives up at the first byte that fits no method it knows. */
    if (err == HPE_INVALID_METHOD && (space != NULL || lf == NULL))
        return chars_are(method, CHAR_TOKEN) ? 501 : 400;
    if (space == NULL)
        return 400;
    /* "HTTP/3.1" is a version we do not speak, "HTTP/x" is none. */
    const char *v = (const char *)memrchr(line.p, ' ', line.n) + 1;
    size_t n = (size_t)(line.p + line.n - v);
    if (n > 0 && lf != NULL && v[n - 1] == '\r')
        n--;
    bool is_version = (n == 8 || (n == 9 && lf == NULL)) && memcmp(v, "HTTP/", 5) == 0 &&
                      char_is(v[5], CHAR_DIGIT) && v[6] == '.' && char_is(v[7], CHAR_DIGIT);
    return is_version && !(v[5] == '1' && (v[7] == '0' || v[7] == '1')) ? 505 : 400;
}

/* --- between the parts ------------------------------------------------------------------------ */

/* Skips the end of a line at p: CRLF, or LF where that is let pass. NULL = neither. */
static const char *
line_end(const struct http_app *app, const char *p, const char *end)
{
    if (end - p >= 2 && p[0] == '\r' && p[1] == '\n')
        return p + 2;
    if (end - p >= 1 && p[0] == '\n' && (app->conf->http_lenient & LENIENT_BARE_LF))
        return p + 1;
    return NULL;
}

/* Lower-cases a name in place. */
static bool
name_lower(struct slice name)
{
    char *p = (char *)name.p;
    for (size_t i = 0; i < name.n; i++) {
        uint8_t lower = http_lower[(unsigned char)p[i]];
        if (lower == 0)
            return false;
        p[i] = (char)lower;
    }
    return name.n > 0;
}

/* A value as it will be seen: trimmed, without forbidden bytes. */
static bool
value_clean(const struct http_app *app, struct slice *value)
{
    unsigned lenient = app->conf->http_lenient;
    if (lenient & LENIENT_OBS_FOLD) {
        char *p = (char *)value->p;
        for (size_t i = 0; i < value->n; i++) {
            /* RFC 9112 section 5.2: each fold becomes spaces. A line end without white space behind
             * it is no fold. */
            size_t eol = p[i] == '\r' && i + 1 < value->n && p[i + 1] == '\n' ? 2
                         : p[i] == '\n' && (lenient & LENIENT_BARE_LF)        ? 1
                                                                              : 0;
            if (eol > 0 && i + eol < value->n && (p[i + eol] == ' ' || p[i + eol] == '\t'))
                memset(p + i, ' ', eol);
        }
    }
    *value = slice_trim(*value);
    if (LIKELY(chars_are_value(*value)))
        return true;
    return (lenient & LENIENT_HEADER_VALUE) && memchr(value->p, '\r', value->n) == NULL &&
           memchr(value->p, '\n', value->n) == NULL && memchr(value->p, '\0', value->n) == NULL;
}

/* Looks at every byte of the header lines from p to end, the end of the head. 0 or the status to
 * refuse with. */
static int
check_lines(struct h1 *h, const char *p, const char *end)
{
    struct head *head = h->head;
    for (unsigned i = 0; i < head->n; i++) {
        struct http_header *v = &head->v[i];
        if (v->name.p != p || !name_lower(v->name))
            return 400;
        p += v->name.n;
        if (p >= end || *p != ':')
            return 400;
        p++;
        while (p < end && (*p == ' ' || *p == '\t'))
            p++;
        /* An empty value has no span, or one somewhere in its white space. */
        if (v->value.n == 0)
            v->value.p = p;
        else if (v->value.p != p) {
            /* llhttp hands out the white space of a folded first line as part of the value. */
            if (v->value.p > p || v->value.p + v->value.n < p)
                return 400;
            v->value.n -= (size_t)(p - v->value.p);
            v->value.p = p;
        }
        p += v->value.n;
        while (p < end && (*p == ' ' || *p == '\t'))
            p++;
        p = line_end(h->app, p, end);
        if (p == NULL || !value_clean(h->app, &v->value))
            return 400;
    }
    return line_end(h->app, p, end) == end ? 0 : 400;
}

/* The head is whole: [in_start, in_start + n) of the block, and head->v holds its parts. 0 or the
 * status to refuse with. */
static int
take(struct h1 *h, uint32_t n)
{
    struct conn *c = &h->conn;
    struct head *head = h->head;
    const char *p = c->in->data + c->in_start, *end = p + n;
    const char *lf = memchr(p, '\n', n);
    if (lf == NULL)
        return 400;
    const char *eol = lf > p && lf[-1] == '\r' ? lf - 1 : lf;
    if (line_end(h->app, eol, end) != lf + 1)
        return 400;
    h->r->req.headers = head->v;
    int status = h1_check_request_line(h, (struct slice){ p, (size_t)(eol - p) });
    if (status != 0)
        return status;
    if (head->n > head->max)
        return 431;
    status = check_lines(h, lf + 1, end);
    if (status != 0)
        return status;
    h->r->req.headers_n = head->n;
    return h1_check_headers(h);
}

/* --- feeding ---------------------------------------------------------------------------------- */

uint32_t
h1_head_max(const struct http_app *app)
{
    size_t line = app->conf->limit_request_line, headers = app->conf->limit_header_size;
    if (line == 0 || line > H1_LIMIT_OFF)
        line = H1_LIMIT_OFF;
    if (headers == 0 || headers > H1_LIMIT_OFF)
        headers = H1_LIMIT_OFF;
    return (uint32_t)(line + 2 + headers);
}

/* Skips empty lines before the request. Returns 1 = go on, 0 = wait for more, or -status. */
static int
skip_empty_lines(struct h1 *h)
{
    struct conn *c = &h->conn;
    while (c->in_start < c->in_end) {
        const char *p = c->in->data + c->in_start;
        uint32_t n = c->in_end - c->in_start;
        if (*p != '\r' && *p != '\n')
            return 1;
        if (*p == '\r' && n == 1)
            return 0;
        const char *next = line_end(h->app, p, p + n);
        if (next == NULL || ++h->crlfs > H1_LEADING_CRLF_MAX)
            return -400;
        c->in_start += (uint32_t)(next - p);
    }
    return 0;
}

/* How many of the n bytes of an incomplete head may be parsed, and the status if the head does not
 * end in them. */
static uint32_t
within_limits(struct h1 *h, uint32_t n, int *status)
{
    const struct conf *conf = h->app->conf;
    const char *p = h->conn.in->data + h->conn.in_start;
    size_t line_max = conf->limit_request_line, headers_size = conf->limit_header_size;
    if (line_max == 0 || line_max > H1_LIMIT_OFF)
        line_max = H1_LIMIT_OFF;
    if (headers_size == 0 || headers_size > H1_LIMIT_OFF)
        headers_size = H1_LIMIT_OFF;
    *status = 0;
    if (h->line_end == 0) {
        size_t from = h->fed, to = n < line_max + 2 ? n : line_max + 2;
        const char *lf = from < to ? memchr(p + from, '\n', to - from) : NULL;
        if (lf == NULL) {
            if (n < line_max + 2)
                return n;
            *status = 414;
            return (uint32_t)(line_max + 2);
        }
        h->line_end = (uint32_t)(lf - p) + 1;
    }
    if (n - h->line_end <= headers_size) /* exactly so much may end it */
        return n;
    *status = 431;
    return h->line_end + (uint32_t)headers_size;
}

void
h1_head_feed(struct h1 *h)
{
    struct conn *c = &h->conn;
    struct http_app *app = h->app;
    if (h1_req_take(h) < 0) {
        h1_refuse(h, 503);
        return;
    }
    if (h->fed == 0) {
        int go = skip_empty_lines(h);
        if (go < 0)
            h1_refuse(h, -go);
        if (go <= 0)
            return;
    }
    if (h->head == NULL && (h->head = head_take(app)) == NULL) {
        h1_refuse(h, 503);
        return;
    }
    struct head *head = h->head;
    if (h->fed == 0)
        parser_start(app, head, true);
    else
        head->recording = false;
    char *p = c->in->data + c->in_start;
    int over;
    uint32_t n = within_limits(h, c->in_end - c->in_start, &over);
    uint32_t seen;
    enum llhttp_errno err = execute(app, head, p, h->fed, n, &seen);
    if (err == HPE_OK) {
        h->fed = n;
        if (over != 0)
            h1_refuse(h, over);
        return;
    }
    if (err == HPE_PAUSED && h->fed > 0) {
        parser_start(app, head, true);
        err = execute(app, head, p, 0, seen, &seen);
    }
    if (err != HPE_PAUSED) {
        if (seen < n)
            seen++; /* the byte that was refused */
        h1_refuse(h, status_of(err, (struct slice){ p, seen }));
        return;
    }
    int status = take(h, seen);
    if (status != 0) {
        h1_refuse(h, status);
        return;
    }
    c->in_start += seen;
    h->fed = 0;
    h->line_end = 0;
    h->crlfs = 0;
    h1_begin(h);
}
