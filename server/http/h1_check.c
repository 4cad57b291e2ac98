/* h1_check.c: what a request line and headers mean together, and the refusals that follow (RFC 9112
 * sections 3, 6 and 9). Everything that two parties could read differently is refused: that is what
 * request smuggling is made of. */
#include "chars.h"
#include "h1.h"

/* --- the target ------------------------------------------------------------------------------- */

/* RFC 9110 section 7.2. */
bool
h1_is_authority(struct slice s)
{
    if (s.n > 0 && s.p[0] == '[') {
        const char *close = memchr(s.p, ']', s.n);
        if (close == NULL || close == s.p + 1)
            return false;
        for (const char *p = s.p + 1; p < close; p++) {
            if (!char_is(*p, CHAR_HEX) && *p != ':' && *p != '.')
                return false;
        }
        s.n -= (size_t)(close + 1 - s.p);
        s.p = close + 1;
        if (s.n == 0)
            return true;
        if (s.p[0] != ':')
            return false;
    } else if (!chars_are(s, CHAR_HOST)) {
        return false;
    }
    const char *colon = memchr(s.p, ':', s.n);
    if (colon == NULL)
        return true;
    struct slice port = { colon + 1, (size_t)(s.p + s.n - colon - 1) };
    return port.n <= 5 && chars_are(port, CHAR_DIGIT);
}

static void
split_query(struct http_request *req, struct slice s)
{
    const char *mark = memchr(s.p, '?', s.n);
    req->path = (struct slice){ s.p, mark ? (size_t)(mark - s.p) : s.n };
    req->query = mark ? (struct slice){ mark + 1, (size_t)(s.p + s.n - mark - 1) }
                      : (struct slice){ s.p + s.n, 0 };
}

/* "http://host/path": path and query, and the authority in *host. */
static int
absolute_form(struct http_request *req, struct slice *host)
{
    struct slice t = req->target;
    size_t scheme = t.n > 7 && strncasecmp(t.p, "http://", 7) == 0    ? 7
                    : t.n > 8 && strncasecmp(t.p, "https://", 8) == 0 ? 8
                                                                      : 0;
    if (scheme == 0)
        return 400;
    size_t end = scheme;
    while (end < t.n && t.p[end] != '/' && t.p[end] != '?')
        end++;
    *host = (struct slice){ t.p + scheme, end - scheme };
    if (host->n == 0 || !h1_is_authority(*host)) /* user names in it have an '@' and end here */
        return 400;
    split_query(req, (struct slice){ t.p + end, t.n - end });
    if (req->path.n == 0)
        /* RFC 9112 section 3.2.4: without a path OPTIONS means the server, others its root. */
        req->path = slice_is(req->method, "OPTIONS") && req->query.n == 0 ? SLICE("*") : SLICE("/");
    return 0;
}

int
h1_check_request_line(struct h1 *h, struct slice line)
{
    struct http_request *req = &h->r->req;
    const char *space = memchr(line.p, ' ', line.n);
    if (space == NULL)
        return 400;
    req->method = (struct slice){ line.p, (size_t)(space - line.p) };
    struct slice rest = { space + 1, (size_t)(line.p + line.n - space - 1) };
    space = memchr(rest.p, ' ', rest.n);
    if (space == NULL) /* HTTP/0.9 */
        return 400;
    req->target = (struct slice){ rest.p, (size_t)(space - rest.p) };
    struct slice version = { space + 1, (size_t)(rest.p + rest.n - space - 1) };
    if (req->method.n == 0 || !chars_are(req->method, CHAR_TOKEN) || version.n != 8 ||
        memcmp(version.p, "HTTP/", 5) != 0 || !char_is(version.p[5], CHAR_DIGIT) ||
        version.p[6] != '.' || !char_is(version.p[7], CHAR_DIGIT))
        return 400;
    if (version.p[5] != '1' || (version.p[7] != '0' && version.p[7] != '1'))
        return 505;
    req->version_minor = (unsigned char)(version.p[7] - '0');
    if (slice_is(req->method, "CONNECT"))
        return 501;
    if (req->target.n == 0 || !chars_are(req->target, CHAR_TARGET))
        return 400;
    req->is_head = slice_is(req->method, "HEAD");
    if (LIKELY(req->target.p[0] == '/')) {
        split_query(req, req->target);
        return 0;
    }
    if (slice_is(req->target, "*")) {
        split_query(req, req->target);
        return slice_is(req->method, "OPTIONS") ? 0 : 400;
    }
    struct slice host;
    return absolute_form(req, &host);
}

/* --- headers ---------------------------------------------------------------------------------- */

/* What was found while going over the headers. */
struct found {
    struct http_header *host;
    bool content_length, close, keep_alive, upgrade;
    bool websocket;    /* Upgrade names it */
    unsigned codings;  /* in all Transfer-Encoding fields together */
    bool chunked_last; /* the last coding is `chunked` */
    bool unknown;      /* a coding that is not `chunked` */
    unsigned proxy;    /* enum conf_proxy_header of those that are there, ored */
};

/* Decimal digits only (RFC 9110 section 8.6): no sign, no list, no white space inside. */
static bool
content_length(struct slice s, uint64_t *out)
{
    uint64_t n = 0;
    if (s.n == 0 || s.n > 18) /* 18 digits fit in 63 bits; more than 888 PB do not come */
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!char_is(s.p[i], CHAR_DIGIT))
            return false;
        n = n * 10 + (uint64_t)(s.p[i] - '0');
    }
    *out = n;
    return true;
}

bool
h1_list_next(struct slice *list, struct slice *element)
{
    if (list->p == NULL)
        return false;
    const char *comma = memchr(list->p, ',', list->n);
    size_t n = comma ? (size_t)(comma - list->p) : list->n;
    *element = slice_trim((struct slice){ list->p, n });
    if (comma)
        *list = (struct slice){ comma + 1, list->n - n - 1 };
    else
        list->p = NULL;
    return true;
}

/* TE: trailers (RFC 9110 section 10.1.4) */
static bool
names_trailers(struct slice value)
{
    struct slice coding;
    while (h1_list_next(&value, &coding))
        if (slice_is_nocase(coding, "trailers"))
            return true;
    return false;
}

static int
check_transfer_encoding(struct found *f, struct slice value)
{
    struct slice coding;
    while (h1_list_next(&value, &coding)) {
        /* nothing may follow chunked, chunked again least of all */
        if (coding.n == 0 || f->chunked_last)
            return 400;
        f->codings++;
        if (slice_is_nocase(coding, "chunked")) {
            f->chunked_last = true;
        } else {
            /* A name, perhaps with parameters; `chunked` has none. */
            size_t name = 0;
            while (name < coding.n && char_is(coding.p[name], CHAR_TOKEN))
                name++;
            struct slice behind = slice_trim((struct slice){ coding.p + name, coding.n - name });
            if (name == 0 || (behind.n > 0 && behind.p[0] != ';') ||
                slice_is_nocase((struct slice){ coding.p, name }, "chunked"))
                return 400;
            f->unknown = true;
        }
    }
    return 0;
}

static void
check_connection(struct found *f, struct slice value)
{
    struct slice option;
    while (h1_list_next(&value, &option)) {
        if (slice_is_nocase(option, "close"))
            f->close = true;
        else if (slice_is_nocase(option, "keep-alive"))
            f->keep_alive = true;
        else if (slice_is_nocase(option, "upgrade"))
            f->upgrade = true;
    }
}

/* What else it may name is ignored: the request is answered as what it is without it. */
static void
check_upgrade(struct found *f, struct slice value)
{
    struct slice protocol;
    while (h1_list_next(&value, &protocol))
        f->websocket |= slice_is_nocase(protocol, "websocket");
}

static int
check_header(struct http_request *req, struct found *f, struct http_header *v)
{
    switch (v->name.n) {
    case 9: /* x-real-ip, forwarded */
    case 15:
    case 16:
    case 18: /* x-forwarded-... */
        f->proxy |= forwarded_kind(v->name);
        return 0;
    case 2:
        if (memcmp(v->name.p, "te", 2) == 0 && req->version_minor > 0)
            req->takes_trailers |= names_trailers(v->value);
        return 0;
    case 4:
        if (memcmp(v->name.p, "host", 4) != 0)
            return 0;
        if (f->host != NULL || !h1_is_authority(v->value))
            return 400;
        f->host = v;
        return 0;
    case 6:
        if (memcmp(v->name.p, "expect", 6) != 0 || req->version_minor == 0)
            return 0; /* an expectation in HTTP/1.0 is ignored (RFC 9110 section 10.1.1) */
        if (!slice_is_nocase(v->value, "100-continue"))
            return 417;
        req->expects_continue = true;
        return 0;
    case 7:
        if (memcmp(v->name.p, "upgrade", 7) == 0)
            check_upgrade(f, v->value);
        return 0;
    case 10:
        if (memcmp(v->name.p, "connection", 10) == 0)
            check_connection(f, v->value);
        return 0;
    case 14:
        if (memcmp(v->name.p, "content-length", 14) != 0)
            return 0;
        if (f->content_length || !content_length(v->value, &req->content_length))
            return 400;
        f->content_length = true;
        return 0;
    case 17:
        if (memcmp(v->name.p, "transfer-encoding", 17) != 0) {
            f->proxy |= forwarded_kind(v->name); /* x-forwarded-proto */
            return 0;
        }
        return check_transfer_encoding(f, v->value);
    default:
        return 0;
    }
}

int
h1_check_headers(struct h1 *h)
{
    struct http_request *req = &h->r->req;
    struct found f = { 0 };
    bool has_te = false;
    req->content_length = UINT64_MAX;
    for (unsigned i = 0; i < req->headers_n; i++) {
        struct http_header *v = &req->headers[i];
        int status = check_header(req, &f, v);
        if (status != 0)
            return status;
        has_te |= v->name.n == 17 && memcmp(v->name.p, "transfer-encoding", 17) == 0;
    }
    if (has_te) {
        if (f.content_length || req->version_minor == 0)
            return 400;
        if (f.unknown || !f.chunked_last)
            return f.codings > 0 ? 501 : 400;
        h->r->is_chunked_in = true;
    }
    if (f.host == NULL && req->version_minor >= 1)
        return 400;
    if (UNLIKELY(req->target.p[0] != '/' && req->target.p[0] != '*')) {
        /* The target's authority stands for Host, whatever that says (RFC 9112 section 3.2.2). */
        struct slice host;
        absolute_form(req, &host);
        if (f.host == NULL) /* 1.0; struct head has room for one more than it counts */
            f.host = &req->headers[req->headers_n++];
        *f.host = (struct http_header){ .name = SLICE("host"), .value = host };
    }
    req->is_https = conn_is_tls(&h->conn);
    if ((f.proxy & h->app->conf->proxy_headers) != 0)
        forwarded_take(h, f.proxy & h->app->conf->proxy_headers, f.host);
    req->has_body = h->r->is_chunked_in || (f.content_length && req->content_length > 0);
    if (f.content_length && req->content_length == 0)
        req->content_length = UINT64_MAX;
    req->expects_continue &= req->has_body;
    uint64_t body_max = h->app->conf->limit_body;
    if (req->has_body && !h->r->is_chunked_in && body_max > 0 && req->content_length > body_max)
        return 413;
    h->r->keep_alive = f.close ? false : req->version_minor >= 1 || f.keep_alive;
    h->r->client_closes = !h->r->keep_alive;
    return UNLIKELY(f.websocket) ? h1_ws_check(h, f.upgrade) : 0;
}
