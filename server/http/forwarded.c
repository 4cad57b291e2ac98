/* forwarded.c: what proxies say in headers of who asks, and for what (proxy.headers): X-Forwarded-For,
 * -Proto, -Host, -Port, -Prefix, X-Real-IP, and Forwarded (RFC 7239).
 * Only a peer of proxy.trusted is believed, and of a list only what trusted proxies have written: each
 * writes at the right end who asked it. So a list is read from the right, and nothing to the left of an
 * element can change where it begins or what it means; the first address that is not trusted is the
 * client. What is none (garbage, "unknown", a hidden name) ends the reading, and what was read before
 * it counts. Of the others that are lists the rightmost value counts, which the nearest proxy wrote.
 * The application sees the headers as they came, but for Host. */
#include <stdio.h>
#include <stdlib.h>

#include "chars.h"
#include "h1.h"

/* Before they are judged; n == 0: not said. */
struct said {
    struct net_address client; /* AF_UNSPEC: not said */
    struct slice proto, host, port, prefix;
};

unsigned
forwarded_kind(struct slice name)
{
    static const struct {
        struct slice name;
        unsigned kind;
    } kinds[] = {
        { SLICE("x-forwarded-for"), PROXY_X_FOR },
        { SLICE("x-forwarded-proto"), PROXY_X_PROTO },
        { SLICE("x-forwarded-host"), PROXY_X_HOST },
        { SLICE("x-forwarded-port"), PROXY_X_PORT },
        { SLICE("x-forwarded-prefix"), PROXY_X_PREFIX },
        { SLICE("forwarded"), PROXY_FORWARDED },
        { SLICE("x-real-ip"), PROXY_X_REAL_IP },
    };
    if (name.p[0] != 'x' && name.p[0] != 'f')
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (name.n == kinds[i].name.n && memcmp(name.p, kinds[i].name.p, name.n) == 0)
            return kinds[i].kind;
    return 0;
}

/* --- lists, from the right -------------------------------------------------------------------- */

static bool
is_escaped(const char *p, size_t at)
{
    size_t n = 0;
    while (n < at && p[at - 1 - n] == '\\')
        n++;
    return n % 2 != 0;
}

/* Takes the last element off that is not empty. has_quotes: commas in quotes are none. */
static bool
take_last(struct slice *list, bool has_quotes, struct slice *element)
{
    while (list->n > 0) {
        size_t end = list->n, begin = end;
        bool is_quoted = false;
        for (; begin > 0 && (is_quoted || list->p[begin - 1] != ','); begin--)
            if (has_quotes && list->p[begin - 1] == '"' && !is_escaped(list->p, begin - 1))
                is_quoted = !is_quoted;
        *element = slice_trim((struct slice){ list->p + begin, end - begin });
        list->n = begin > 0 ? begin - 1 : 0;
        if (element->n > 0)
            return true;
    }
    return false;
}

/* All headers of a kind are one list (RFC 9110 section 5.3). */
struct lists {
    const struct http_request *req;
    unsigned kind, left; /* headers not looked at */
    struct slice list;
};

static struct lists
lists_of(const struct h1 *h, unsigned kind)
{
    return (struct lists){ .req = &h->r->req, .kind = kind, .left = h->r->req.headers_n };
}

static bool
lists_last(struct lists *l, struct slice *element)
{
    while (!take_last(&l->list, l->kind == PROXY_FORWARDED, element)) {
        do {
            if (l->left == 0)
                return false;
            l->left--;
        } while (forwarded_kind(l->req->headers[l->left].name) != l->kind);
        l->list = l->req->headers[l->left].value;
    }
    return true;
}

static struct slice
last_of(const struct h1 *h, unsigned kinds, unsigned kind)
{
    struct slice element = { NULL, 0 };
    struct lists l = lists_of(h, kind);
    if (kinds & kind)
        lists_last(&l, &element);
    return element;
}

/* --- who asks --------------------------------------------------------------------------------- */

/* One more hop. True where the proxy there is trusted too, and what it says counts. */
static bool
hop(const struct h1 *h, struct slice text, struct said *said)
{
    return net_address_parse(text, &said->client) && net_trusts(h->app->net, &said->client);
}

/* name=value; the value perhaps in quotes. Takes it and the ';' behind it off. */
static bool
take_pair(struct slice *rest, struct slice *name, struct slice *value)
{
    const char *equals = memchr(rest->p, '=', rest->n), *end = rest->p + rest->n;
    if (equals == NULL)
        return false;
    *name = slice_trim((struct slice){ rest->p, (size_t)(equals - rest->p) });
    const char *from = equals + 1, *to;
    bool is_quoted = from < end && *from == '"';
    if (is_quoted) {
        for (to = ++from; to < end && *to != '"'; to++)
            if (*to == '\\') /* nothing that is looked at needs an escape */
                return false;
        if (to == end)
            return false;
    } else {
        to = memchr(from, ';', (size_t)(end - from));
        to = to != NULL ? to : end;
    }
    *value = (struct slice){ from, (size_t)(to - from) };
    to += is_quoted;
    *rest = slice_trim((struct slice){ to, (size_t)(end - to) });
    if (!is_quoted)
        *value = slice_trim(*value);
    if (rest->n == 0)
        return true;
    if (rest->p[0] != ';')
        return false;
    *rest = slice_trim((struct slice){ rest->p + 1, rest->n - 1 });
    return true;
}

/* for=...;proto=...;host=...;by=... false: it is none. */
static bool
element_parse(struct slice rest, struct slice *node, struct said *said)
{
    struct slice name, value, proto = { NULL, 0 }, host = { NULL, 0 };
    while (rest.n > 0) {
        if (!take_pair(&rest, &name, &value) || !chars_are(name, CHAR_TOKEN) || name.n == 0)
            return false;
        struct slice *to = slice_is_nocase(name, "for")     ? node
                           : slice_is_nocase(name, "proto") ? &proto
                           : slice_is_nocase(name, "host")  ? &host
                                                            : NULL;
        if (to == NULL)
            continue;
        if (to->p != NULL) /* each may be there once */
            return false;
        *to = value;
    }
    if (proto.n > 0)
        said->proto = proto;
    if (host.n > 0)
        said->host = host;
    return true;
}

static void
read_forwarded(const struct h1 *h, struct said *said)
{
    struct lists l = lists_of(h, PROXY_FORWARDED);
    struct slice element, node;
    do {
        node = (struct slice){ NULL, 0 };
    } while (lists_last(&l, &element) && element_parse(element, &node, said) && hop(h, node, said));
}

static void
read_x_for(const struct h1 *h, struct said *said)
{
    struct lists l = lists_of(h, PROXY_X_FOR);
    struct slice element;
    while (lists_last(&l, &element) && hop(h, element, said))
        ;
}

/* --- for what --------------------------------------------------------------------------------- */

static void
judge_proto(struct http_request *req, struct slice proto)
{
    if (slice_is_nocase(proto, "https") || slice_is_nocase(proto, "wss"))
        req->is_https = true;
    else if (slice_is_nocase(proto, "http") || slice_is_nocase(proto, "ws"))
        req->is_https = false;
}

/* 1 to 65535, or 0. */
static uint16_t
port_of(struct slice text)
{
    unsigned n = 0;
    if (text.n == 0 || text.n > 5 || !chars_are(text, CHAR_DIGIT))
        return 0;
    for (size_t i = 0; i < text.n; i++)
        n = n * 10 + (unsigned)(text.p[i] - '0');
    return n <= UINT16_MAX ? (uint16_t)n : 0;
}

/* The name in front of a port; *port is 0 where there is none. */
static struct slice
split_port(struct slice host, uint16_t *port)
{
    const char *colon = memrchr(host.p, ':', host.n), *bracket = memchr(host.p, ']', host.n);
    *port = 0;
    if (colon == NULL || (bracket != NULL && colon < bracket))
        return host;
    size_t n = (size_t)(colon - host.p);
    *port = port_of((struct slice){ colon + 1, host.n - n - 1 });
    return (struct slice){ host.p, n };
}

/* "name:port"; *text is new and holds it. Without memory: the name. */
static struct slice
host_new(struct slice name, unsigned port, char **text)
{
    enum { PORT_MAX = sizeof(":65535") };
    *text = malloc(name.n + PORT_MAX);
    if (*text == NULL)
        return name;
    memcpy(*text, name.p, name.n);
    return (struct slice){ *text, name.n + (size_t)sprintf(*text + name.n, ":%u", port) };
}

/* The name and port that the client has asked, and Host so that all who look there see the same. */
static void
judge_host(struct h1 *h, const struct said *said, struct http_header *host)
{
    struct http_request *req = &h->r->req;
    struct http_forwarded *f = &req->forwarded;
    uint16_t usual = req->is_https ? 443 : 80, port = port_of(said->port), own;
    bool has_host =
        said->host.n > 0 && h1_is_authority(said->host) && split_port(said->host, &own).n > 0;
    if (!has_host && port == 0)
        return;
    struct slice there = has_host       ? said->host
                         : host != NULL ? host->value
                                        : (struct slice){ "", 0 };
    struct slice name = split_port(there, &own);
    if (has_host) {
        f->server = name;
        f->server_port = port != 0 ? port : own != 0 ? own : usual;
    } else {
        f->server_port = port;
    }
    if (port != 0 && name.n > 0) /* browsers leave the scheme's own port out */
        there = port == usual ? name : host_new(name, port, &h->r->host);
    if (host == NULL && there.n > 0) { /* 1.0; struct head has room for one more than it counts */
        host = &req->headers[req->headers_n++];
        host->name = SLICE("host");
    }
    if (host != NULL)
        host->value = there;
}

/* A path, and no other host's ("//evil.example/"). */
static void
judge_prefix(struct http_forwarded *f, struct slice prefix)
{
    if (prefix.n == 0 || prefix.p[0] != '/' || (prefix.n > 1 && prefix.p[1] == '/') ||
        !chars_are(prefix, CHAR_TARGET) || memchr(prefix.p, '?', prefix.n) != NULL)
        return;
    while (prefix.n > 0 && prefix.p[prefix.n - 1] == '/')
        prefix.n--;
    f->root_path = prefix;
}

void
forwarded_take(struct h1 *h, unsigned kinds, struct http_header *host)
{
    struct http_request *req = &h->r->req;
    struct said said = { .client.family = AF_UNSPEC };
    if (!conn_peer_is_trusted(&h->conn))
        return;
    if (kinds & PROXY_FORWARDED)
        read_forwarded(h, &said);
    if (said.client.family == AF_UNSPEC && (kinds & PROXY_X_FOR))
        read_x_for(h, &said);
    if (said.client.family == AF_UNSPEC && (kinds & PROXY_X_REAL_IP))
        hop(h, last_of(h, kinds, PROXY_X_REAL_IP), &said);
    if (said.proto.n == 0)
        said.proto = last_of(h, kinds, PROXY_X_PROTO);
    if (said.host.n == 0)
        said.host = last_of(h, kinds, PROXY_X_HOST);
    said.port = last_of(h, kinds, PROXY_X_PORT);
    said.prefix = last_of(h, kinds, PROXY_X_PREFIX);
    judge_proto(req, said.proto);
    req->forwarded.client = said.client;
    judge_host(h, &said, host);
    judge_prefix(&req->forwarded, said.prefix);
    req->is_forwarded = true;
}
