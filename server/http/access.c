/* access.c: the access log. Its format was parsed by conf/access.c; here each part writes its piece of a line, which goes into the
 * process's ring (base/log.h): nobody here waits for who reads the log.
 *
 * By default the Common Log Format and the time it took:
 *     127.0.0.1 - - [31/Jan/2026:12:00:00 +0000] "GET /path?query HTTP/1.1" 200 123 0.000456
 * What comes from the network is escaped as nginx does it, \xNN, so that a line stays a line. */
#include <arpa/inet.h>
#include <errno.h>
#include <fnmatch.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "chars.h"
#include "h1.h"

enum {
    VALUE_MAX = 8 * 1024,       /* of a request line or a header */
    JSON_HEADER_MAX = 2 * 1024, /* of a header in an object, which cannot be cut elsewhere */
    WANTED_MAX = 64,            /* headers of each kind */
    PART_MAX = 64,              /* what a number, an address or a time takes */
    REST = 512,                 /* an object's names and numbers */
};

/* Headers that lines need, of the request or of the answer. */
struct wanted {
    struct slice names[WANTED_MAX];
    unsigned n;
};

/* Copies: values[i] is of the i-th wanted header; p NULL = it was not there. */
struct access_kept {
    struct slice line; /* of the request; p NULL in that of an answer */
    struct slice values[];
};

/* A part and what it needs to know. */
struct part {
    enum conf_access_atom atom;
    struct slice text;
    unsigned header; /* its number in wanted */
};

struct access {
    struct part *parts;
    size_t parts_n;
    size_t room; /* for all parts that need none of their own */
    struct wanted wanted, wanted_sent;
    bool needs_split;                    /* some part asks for what a request line is made of */
    unsigned user, host, referer, agent; /* numbers of request headers */
    struct buf line;
    unsigned sample; /* millionths that have gathered: a line at a whole one */
    char pid[16];
    time_t time_s; /* the second of the two below */
    char time[32];
    char time_json[32]; /* without the milliseconds: "2026-01-31T12:00:00", then the zone */
    unsigned zone_at;
};

/* --- at the start ----------------------------------------------------------------------------------------------------------------- */

static unsigned
want(struct wanted *w, struct slice name)
{
    for (unsigned i = 0; i < w->n; i++)
        if (w->names[i].n == name.n && memcmp(w->names[i].p, name.p, name.n) == 0)
            return i;
    if (w->n == WANTED_MAX)
        return WANTED_MAX - 1; /* more than anybody asks for */
    w->names[w->n] = name;
    return w->n++;
}

int
access_init(struct http_app *app)
{
    const struct conf *conf = app->conf;
    struct access *a = calloc(1, sizeof(*a));
    struct part *parts = calloc(conf->access_parts_n + 1, sizeof(*parts));
    if (a == NULL || parts == NULL) {
        free(a);
        free(parts);
        return -ENOMEM;
    }
    a->parts = parts;
    a->parts_n = conf->access_parts_n;
    a->room = REST;
    a->needs_split = conf->access_log_exclude.n > 0;
    for (size_t i = 0; i < a->parts_n; i++) {
        const struct conf_access_part *from = &conf->access_parts[i];
        struct slice text = { from->text, from->n };
        parts[i] = (struct part){ .atom = from->atom, .text = text };
        a->room += from->atom == ACCESS_TEXT ? text.n : PART_MAX;
        if (from->atom == ACCESS_REQUEST_HEADER)
            parts[i].header = want(&a->wanted, text);
        else if (from->atom == ACCESS_RESPONSE_HEADER)
            parts[i].header = want(&a->wanted_sent, text);
        else if (from->atom == ACCESS_USER)
            a->user = want(&a->wanted, SLICE("authorization"));
        a->needs_split |= from->atom == ACCESS_METHOD || from->atom == ACCESS_PATH ||
                          from->atom == ACCESS_QUERY || from->atom == ACCESS_PROTOCOL ||
                          from->atom == ACCESS_TARGET || from->atom == ACCESS_JSON;
        if (from->atom == ACCESS_JSON) {
            a->host = want(&a->wanted, SLICE("host"));
            a->referer = want(&a->wanted, SLICE("referer"));
            a->agent = want(&a->wanted, SLICE("user-agent"));
        }
    }
    snprintf(a->pid, sizeof(a->pid), "%d", (int)getpid());
    app->own.access = a;
    return 0;
}

void
access_fini(struct http_app *app)
{
    struct access *a = app->own.access;
    if (a == NULL)
        return;
    buf_free(&a->line);
    free(a->parts);
    free(a);
    app->own.access = NULL;
}

/* --- what is kept ------------------------------------------------------------------------------------------------------------------- */

static struct slice
find(const struct http_header *headers, size_t n, struct slice name)
{
    for (size_t i = 0; i < n; i++)
        if (headers[i].name.n == name.n && strncasecmp(headers[i].name.p, name.p, name.n) == 0)
            return (struct slice){ headers[i].value.p, headers[i].value.n < VALUE_MAX
                                                           ? headers[i].value.n
                                                           : VALUE_MAX };
    return (struct slice){ NULL, 0 };
}

/* NULL: no memory; the line will say "-". */
static struct access_kept *
keep(const struct wanted *w, struct slice line, const struct http_header *headers, size_t n)
{
    size_t size = line.n;
    for (unsigned i = 0; i < w->n; i++)
        size += find(headers, n, w->names[i]).n;
    struct access_kept *kept = malloc(sizeof(*kept) + w->n * sizeof(kept->values[0]) + size);
    if (kept == NULL)
        return NULL;
    char *p = (char *)(kept->values + w->n);
    kept->line = (struct slice){ line.p != NULL ? p : NULL, line.n };
    if (line.n > 0)
        p = (char *)memcpy(p, line.p, line.n) + line.n;
    for (unsigned i = 0; i < w->n; i++) {
        struct slice value = find(headers, n, w->names[i]);
        kept->values[i] = (struct slice){ value.p != NULL ? p : NULL, value.n };
        if (value.n > 0)
            p = (char *)memcpy(p, value.p, value.n) + value.n;
    }
    return kept;
}

/* The request line, as long as the block holds it. */
static struct slice
request_line(struct h1 *h)
{
    const struct http_request *req = &h->r->req;
    struct conn *c = &h->conn;
    struct slice line = { "", 0 };
    if (h->r->kept != NULL)
        return h->r->kept->line;
    if (c->in != NULL) {
        /* Undecoded input may begin behind the head already. */
        const char *end = c->in->data + c->in_end;
        line.p = req->method.p != NULL ? req->method.p : c->in->data + c->in_start;
        line.n = (size_t)(end - line.p);
        const char *lf = memchr(line.p, '\n', line.n);
        if (lf != NULL)
            line.n = (size_t)(lf - line.p);
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
    }
    if (line.n > VALUE_MAX)
        line.n = VALUE_MAX;
    return line;
}

void
access_keep(struct h1 *h)
{
    const struct http_request *req = &h->r->req;
    h->r->kept = keep(&h->app->own.access->wanted, request_line(h), req->headers, req->headers_n);
}

void
access_keep_sent(struct h1 *h, const struct http_header *headers, size_t n)
{
    const struct wanted *w = &h->app->own.access->wanted_sent;
    if (LIKELY(w->n == 0))
        return;
    free(h->r->kept_sent); /* of an answer that was given up */
    h->r->kept_sent = keep(w, (struct slice){ NULL, 0 }, headers, n);
}

static struct slice
request_header(struct h1 *h, unsigned i)
{
    const struct wanted *w = &h->app->own.access->wanted;
    if (h->r->kept != NULL)
        return h->r->kept->values[i];
    if (h->r->is_head_taken || h->head == NULL)
        return (struct slice){ NULL, 0 };
    return find(h->r->req.headers, h->r->req.headers_n, w->names[i]);
}

/* --- pieces ------------------------------------------------------------------------------------------------------------------------- */

static char *
put(char *p, struct slice s)
{
    memcpy(p, s.p, s.n);
    return p + s.n;
}

static char *
put_number(char *p, uint64_t n)
{
    unsigned digits = 1;
    for (uint64_t rest = n; rest >= 10; rest /= 10)
        digits++;
    for (unsigned i = digits; i-- > 0; n /= 10)
        p[i] = (char)('0' + n % 10);
    return p + digits;
}

/* "1.000456" */
static char *
put_seconds(char *p, uint64_t us)
{
    uint64_t rest = us % 1000000;
    p = put_number(p, us / 1000000);
    *p++ = '.';
    for (int i = 5; i >= 0; i--) {
        p[i] = (char)('0' + rest % 10);
        rest /= 10;
    }
    return p + 6;
}

static void
time_refresh(struct access *a, time_t now)
{
    struct tm tm;
    localtime_r(&now, &tm);
    static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    long zone = tm.tm_gmtoff / 60;
    char sign = zone < 0 ? '-' : '+';
    unsigned hours = (unsigned)labs(zone) / 60 % 100, minutes = (unsigned)labs(zone) % 60;
    snprintf(a->time, sizeof(a->time), "[%02u/%s/%04u:%02u:%02u:%02u %c%02u%02u]",
             (unsigned)tm.tm_mday % 100, months[tm.tm_mon], (unsigned)(tm.tm_year + 1900) % 10000,
             (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100, sign,
             hours, minutes);
    a->zone_at = (unsigned)strftime(a->time_json, sizeof(a->time_json), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(a->time_json + a->zone_at, sizeof(a->time_json) - a->zone_at, "%c%02u:%02u", sign,
             hours, minutes);
    a->time_s = now;
}

static struct timespec
now_of(struct access *a)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (UNLIKELY(now.tv_sec != a->time_s))
        time_refresh(a, now.tv_sec);
    return now;
}

/* Room for 4 bytes of each. Returns where it ends. */
static char *
escape(char *to, struct slice s)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\') {
            *to++ = '\\';
            *to++ = 'x';
            *to++ = hex[c >> 4];
            *to++ = hex[c & 15];
        } else {
            *to++ = (char)c;
        }
    }
    return to;
}

static char *
put_ip4(char *p, const unsigned char *ip)
{
    for (int i = 0; i < 4; i++) {
        if (i > 0)
            *p++ = '.';
        p = put_number(p, ip[i]);
    }
    return p;
}

/* Room: INET6_ADDRSTRLEN. */
static char *
put_address(char *p, const struct sockaddr_storage *addr)
{
    if (LIKELY(addr->ss_family == AF_INET))
        return put_ip4(p, (const unsigned char *)&((const struct sockaddr_in *)addr)->sin_addr);
    if (addr->ss_family == AF_INET6 &&
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)addr)->sin6_addr, p, INET6_ADDRSTRLEN) !=
            NULL)
        return p + strlen(p);
    return put(p, addr->ss_family == AF_UNIX ? SLICE("unix:") : SLICE("-"));
}

static char *
put_client(struct h1 *h, char *p)
{
    const struct net_address *client = &h->r->req.forwarded.client;
    if (client->family != AF_UNSPEC)
        return p + net_address_text(client, p);
    return put_address(p, h1_peer(h));
}

static unsigned
port_of(const struct sockaddr_storage *addr)
{
    return addr->ss_family == AF_INET    ? ntohs(((const struct sockaddr_in *)addr)->sin_port)
           : addr->ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6 *)addr)->sin6_port)
                                         : 0;
}

/* The name of Basic credentials (RFC 7617), decoded into out. */
static struct slice
user_of(struct slice header, char *out, size_t room)
{
    if (header.n < 6 || strncasecmp(header.p, "Basic ", 6) != 0)
        return (struct slice){ NULL, 0 };
    uint32_t bits = 0;
    unsigned have = 0;
    size_t n = 0;
    for (size_t i = 6; i < header.n && n < room; i++) {
        char c = header.p[i];
        int v = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '+'             ? 62
                : c == '/'             ? 63
                                       : -1;
        if (v < 0)
            break;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have < 8)
            continue;
        have -= 8;
        out[n++] = (char)(bits >> have);
    }
    const char *colon = memchr(out, ':', n);
    return (struct slice){ colon != NULL ? out : NULL, colon != NULL ? (size_t)(colon - out) : 0 };
}

/* A request line's parts; n == 0: it has none. */
struct split {
    struct slice method, target, path, query, protocol;
};

static struct split
split(struct slice line)
{
    struct split s = { { "", 0 }, { "", 0 }, { "", 0 }, { "", 0 }, { "", 0 } };
    const char *end = line.p + line.n, *first = memchr(line.p, ' ', line.n),
               *last = memrchr(line.p, ' ', line.n);
    if (first == NULL || last == first)
        return s;
    s.method = (struct slice){ line.p, (size_t)(first - line.p) };
    s.protocol = (struct slice){ last + 1, (size_t)(end - last - 1) };
    s.target = (struct slice){ first + 1, (size_t)(last - first - 1) };
    s.path = s.target;
    const char *scheme =
        s.path.n > 0 && s.path.p[0] != '/' ? memmem(s.path.p, s.path.n, "://", 3) : NULL;
    if (scheme != NULL) { /* absolute-form */
        const char *slash = memchr(scheme + 3, '/', (size_t)(last - scheme - 3));
        s.path = slash != NULL ? (struct slice){ slash, (size_t)(last - slash) } : SLICE("/");
    }
    const char *mark = memchr(s.path.p, '?', s.path.n);
    if (mark != NULL) {
        s.query = (struct slice){ mark + 1, s.path.n - (size_t)(mark - s.path.p) - 1 };
        s.path.n = (size_t)(mark - s.path.p);
    }
    return s;
}

/* --- a line --------------------------------------------------------------------------------------------------------------------------- */

/* What several parts ask for. */
struct about {
    struct h1 *h;
    struct slice line;
    struct split split;
    int status;
    uint64_t bytes;
    uint64_t us; /* that it took */
};

static char *
reserve(struct access *a, char *p, size_t more)
{
    a->line.n = (size_t)(p - a->line.p);
    return buf_reserve(&a->line, more) == 0 ? a->line.p + a->line.n : NULL;
}

/* Escaped, or "-" where there is nothing. NULL: no memory. */
static char *
put_text(struct access *a, char *p, struct slice s)
{
    if (s.n == 0) {
        *p++ = '-';
        return p;
    }
    p = reserve(a, p, 4 * s.n + a->room);
    return p != NULL ? escape(p, s) : NULL;
}

/* Those with large locals stay out of line: locals are zeroed where a function begins. */
static __attribute__((noinline)) char *
put_decoded(struct access *a, char *p, struct slice path)
{
    char decoded[VALUE_MAX];
    return put_text(a, p, (struct slice){ decoded, http_unescape(decoded, path) });
}

static __attribute__((noinline)) char *
put_user(struct access *a, char *p, struct slice header)
{
    char user[256] = "";
    return put_text(a, p, user_of(header, user, sizeof(user)));
}

static char *
put_path(struct access *a, char *p, struct slice path)
{
    return memchr(path.p, '%', path.n) == NULL ? put_text(a, p, path) : put_decoded(a, p, path);
}

/* ,"name":"text", or null. */
static char *
put_json(struct access *a, char *p, struct slice name, struct slice text, size_t max)
{
    if (text.n > max)
        text.n = max;
    p = reserve(a, p, JSON_ESCAPED_MAX * text.n + name.n + a->room);
    if (p == NULL)
        return NULL;
    p = put(put(put(p, SLICE(",\"")), name), SLICE("\":"));
    if (text.p == NULL)
        return put(p, SLICE("null"));
    *p++ = '"';
    p = json_escape(p, text);
    *p++ = '"';
    return p;
}

static __attribute__((noinline)) char *
put_json_decoded(struct access *a, char *p, struct slice path)
{
    char decoded[VALUE_MAX];
    return put_json(a, p, SLICE("path"), (struct slice){ decoded, http_unescape(decoded, path) },
                    VALUE_MAX);
}

static char *
put_object(struct access *a, char *p, const struct about *about)
{
    struct h1 *h = about->h;
    const struct split *s = &about->split;
    char client[INET6_ADDRSTRLEN + 8];
    struct timespec now = now_of(a);
    p = put(p, SLICE("{\"time\":\""));
    p = put(p, (struct slice){ a->time_json, a->zone_at });
    unsigned ms = (unsigned)(now.tv_nsec / 1000000);
    *p++ = '.';
    *p++ = (char)('0' + ms / 100);
    *p++ = (char)('0' + ms / 10 % 10);
    *p++ = (char)('0' + ms % 10);
    p = put(p, slice_of(a->time_json + a->zone_at));
    p = put(p, SLICE("\",\"pid\":"));
    p = put(p, slice_of(a->pid));
    p = put_json(a, p, SLICE("client"),
                 (struct slice){ client, (size_t)(put_client(h, client) - client) },
                 sizeof(client));
    if (s->method.n > 0) {
        p = p != NULL ? put_json(a, p, SLICE("method"), s->method, VALUE_MAX) : NULL;
        if (p != NULL)
            p = memchr(s->path.p, '%', s->path.n) == NULL
                    ? put_json(a, p, SLICE("path"), s->path, VALUE_MAX)
                    : put_json_decoded(a, p, s->path);
        p = p != NULL ? put_json(a, p, SLICE("query"), s->query, VALUE_MAX) : NULL;
        p = p != NULL ? put_json(a, p, SLICE("protocol"), s->protocol, VALUE_MAX) : NULL;
    } else { /* what is no request line, as it came */
        p = p != NULL ? put_json(a, p, SLICE("request"), about->line, VALUE_MAX) : NULL;
    }
    if (p == NULL)
        return NULL;
    p = put_number(put(p, SLICE(",\"status\":")), (uint64_t)about->status);
    p = put_number(put(p, SLICE(",\"bytes\":")), about->bytes);
    p = put_seconds(put(p, SLICE(",\"duration\":")), about->us);
    p = put_json(a, p, SLICE("scheme"), h->r->req.is_https ? SLICE("https") : SLICE("http"),
                 VALUE_MAX);
    p = p != NULL ? put_json(a, p, SLICE("host"), request_header(h, a->host), JSON_HEADER_MAX)
                  : NULL;
    p = p != NULL ? put_json(a, p, SLICE("referer"), request_header(h, a->referer), JSON_HEADER_MAX)
                  : NULL;
    p = p != NULL
            ? put_json(a, p, SLICE("user_agent"), request_header(h, a->agent), JSON_HEADER_MAX)
            : NULL;
    if (p != NULL && h->r->req.id.n > 0)
        p = put_json(a, p, SLICE("request_id"), h->r->req.id, VALUE_MAX);
    if (p != NULL)
        *p++ = '}';
    return p;
}

static char *
put_part(struct access *a, const struct part *part, char *p, const struct about *about)
{
    struct h1 *h = about->h;
    struct slice value;
    unsigned port;
    switch (part->atom) {
    case ACCESS_TEXT:
        return put(p, part->text);
    case ACCESS_CLIENT:
        return put_client(h, p);
    case ACCESS_DASH:
        *p++ = '-';
        return p;
    case ACCESS_USER:
        value = request_header(h, a->user);
        return UNLIKELY(value.n > 0) ? put_user(a, p, value) : put(p, SLICE("-"));
    case ACCESS_TIME:
        (void)now_of(a);
        return put(p, slice_of(a->time));
    case ACCESS_REQUEST:
        return put_text(a, p, about->line);
    case ACCESS_STATUS:
        return put_number(p, (uint64_t)about->status);
    case ACCESS_METHOD:
        return put_text(a, p, about->split.method);
    case ACCESS_PATH:
        return put_path(a, p, about->split.path);
    case ACCESS_QUERY:
        return about->split.query.n > 0 ? put_text(a, p, about->split.query) : p;
    case ACCESS_PROTOCOL:
        return put_text(a, p, about->split.protocol);
    case ACCESS_TARGET:
        return put_text(a, p, about->split.target);
    case ACCESS_BYTES:
        return put_number(p, about->bytes);
    case ACCESS_SECONDS:
        return put_number(p, about->us / 1000000);
    case ACCESS_MILLISECONDS:
        return put_number(p, about->us / 1000);
    case ACCESS_MICROSECONDS:
        return put_number(p, about->us);
    case ACCESS_DECIMAL_SECONDS:
        return put_seconds(p, about->us);
    case ACCESS_PID:
        return put(put(put(p, SLICE("<")), slice_of(a->pid)), SLICE(">"));
    case ACCESS_ID:
        return put_text(a, p, h->r->req.id);
    case ACCESS_REQUEST_HEADER:
        return put_text(a, p, request_header(h, part->header));
    case ACCESS_RESPONSE_HEADER:
        return put_text(a, p,
                        h->r->kept_sent != NULL ? h->r->kept_sent->values[part->header]
                                                : (struct slice){ NULL, 0 });
    case ACCESS_CLIENT_PORT:
        port = h->r->req.forwarded.client.family != AF_UNSPEC ? h->r->req.forwarded.client.port
                                                              : port_of(h1_peer(h));
        return port != 0 ? put_number(p, port) : put(p, SLICE("-"));
    case ACCESS_SERVER_NAME:
        return put_address(p, h1_local(h));
    case ACCESS_SERVER_PORT:
        port = port_of(h1_local(h));
        return port != 0 ? put_number(p, port) : put(p, SLICE("-"));
    case ACCESS_SCHEME:
        return put(p, h->r->req.is_https ? SLICE("https") : SLICE("http"));
    case ACCESS_JSON:
        return put_object(a, p, about);
    }
    return p;
}

/* access_log.exclude: the path itself, a prefix that ends in a slash, or a pattern. */
static __attribute__((noinline)) bool
is_excluded(const struct conf *conf, struct slice path)
{
    char text[VALUE_MAX + 1];
    if (path.n > VALUE_MAX)
        return false;
    if (path.n > 0) /* a request that could not be read has none */
        memcpy(text, path.p, path.n);
    text[path.n] = '\0';
    for (size_t i = 0; i < conf->access_log_exclude.n; i++) {
        const char *pattern = conf->access_log_exclude.v[i];
        size_t n = strlen(pattern);
        if (strpbrk(pattern, "*?[") != NULL  ? fnmatch(pattern, text, 0) == 0
            : n > 1 && pattern[n - 1] == '/' ? strncmp(text, pattern, n) == 0
                                             : strcmp(text, pattern) == 0)
            return true;
    }
    return false;
}

/* Whether this request gets no line. */
static bool
is_passed_over(struct access *a, const struct conf *conf, const struct about *about)
{
    if (UNLIKELY(conf->access_log_exclude.n > 0) && about->status < 500 &&
        is_excluded(conf, about->split.path))
        return true;
    if (LIKELY(conf->access_sample_ppm == 1000000) || about->status >= 400)
        return false;
    a->sample += conf->access_sample_ppm;
    if (a->sample < 1000000)
        return true;
    a->sample -= 1000000;
    return false;
}

void
access_note(struct h1 *h)
{
    struct http_app *app = h->app;
    struct access *a = app->own.access;
    struct h1_req *r = h->r;
    if (!access_is_on(app) || r->is_quiet || r->is_noted)
        return;
    r->is_noted = true;
    int64_t now_ns = clock_ns();
    struct about about = {
        .h = h,
        .line = request_line(h),
        /* 499, as nginx has it: the client went before there was an answer. */
        .status = r->sending ? r->status : 499,
        .bytes = r->sending && !r->no_body ? r->sent : 0,
        .us = (uint64_t)(now_ns - r->began_ns) / 1000,
    };
    if (a->needs_split)
        about.split = split(about.line);
    if (is_passed_over(a, app->conf, &about))
        return;
    a->line.n = 0;
    char *p = buf_reserve(&a->line, a->room) == 0 ? a->line.p : NULL;
    for (size_t i = 0; p != NULL && i < a->parts_n; i++)
        p = put_part(a, &a->parts[i], p, &about);
    if (p == NULL) {
        log_error("no memory for a line of the access log");
        return;
    }
    size_t n = (size_t)(p - a->line.p);
    if (n >= LOG_LINE_MAX)
        n = LOG_LINE_MAX - 1;
    a->line.p[n] = '\n';
    if (app->access_fd >= 0)
        log_access(app->access_fd, now_ns, a->line.p, n + 1);
    if (app->on_access != NULL)
        app->on_access(app, (struct slice){ a->line.p, n });
}
