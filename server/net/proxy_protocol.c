/* proxy_protocol.c: the header by which a proxy that passes bytes on says whose they are (HAProxy's
 * proxy-protocol.txt, versions 1 and 2).
 * Where proxy.protocol is on, every connection begins with one, and only those that are trusted may
 * open any: a server that guesses whether there is one lets everybody choose his address. The header
 * is looked at in the kernel's buffer (MSG_PEEK) and taken out when it is whole, exactly: what comes
 * behind it may be a TLS handshake, which nobody but TLS may read. It comes in one piece nearly always.
 *
 * Runs on:  the loop thread, any GIL state. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "net.h"

enum {
    V1_MAX = 107, /* with its CRLF */
    V2_HEAD = 16,
    V2_MAX = V2_HEAD + 8 * 1024, /* a client's certificate may be in it */
    V2_UNIX = 108,               /* bytes of a path */
    REFUSALS_LOGGED_EVERY_MS = 1000,
};

enum { TYPE_CRC32C = 0x03, TYPE_SSL = 0x20 };
/* within the latter; the last one came later than the others, and not all proxies send it */
enum { SSL_VERSION = 0x21, SSL_CN = 0x22, SSL_CIPHER = 0x23, SSL_CLIENT_CERT = 0x28 };
enum { CLIENT_SSL = 1, CLIENT_CERT_CONN = 2, CLIENT_CERT_SESS = 4 };

static const char signature[12] = { '\r', '\n', '\r', '\n', '\0', '\r',
                                    '\n', 'Q',  'U',  'I',  'T',  '\n' };

void
net_proxied_free(struct net_proxied *proxied)
{
    if (proxied == NULL)
        return;
    free(proxied->tls);
    free(proxied);
}

/* --- version 1 -------------------------------------------------------------------------------- */

/* The next word of a line of words between single spaces. */
static bool
word(struct slice *line, struct slice *out)
{
    const char *space = memchr(line->p, ' ', line->n);
    size_t n = space != NULL ? (size_t)(space - line->p) : line->n;
    *out = (struct slice){ line->p, n };
    n += space != NULL;
    *line = (struct slice){ line->p + n, line->n - n };
    return out->n > 0;
}

/* Without brackets or port, and of the family that was announced. */
static bool
v1_address(struct slice text, bool is_v6, struct net_address *out)
{
    const char *colon = memchr(text.p, ':', text.n);
    bool has_two = colon != NULL && memrchr(text.p, ':', text.n) != colon; /* one: before a port */
    return text.p[0] != '[' && (is_v6 ? has_two : colon == NULL) && net_address_parse(text, out);
}

static bool
v1_port(struct slice text, uint16_t *out)
{
    unsigned n = 0;
    if (text.n > 5 || (text.n > 1 && text.p[0] == '0'))
        return false;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return false;
        n = n * 10 + (unsigned)(text.p[i] - '0');
    }
    *out = (uint16_t)n;
    return n <= UINT16_MAX;
}

static ssize_t
v1_parse(const char *p, size_t n, struct net_proxied **out, const char **why)
{
    size_t most = n < V1_MAX ? n : V1_MAX;
    const char *lf = memchr(p, '\n', most);
    *why = "its line does not end";
    if (lf == NULL)
        return n < V1_MAX ? 0 : -EPROTO;
    *why = "its line is not \"PROXY TCP4|TCP6|UNKNOWN source destination ports\"";
    if (lf < p + 7 || lf[-1] != '\r')
        return -EPROTO;
    ssize_t size = lf + 1 - p;
    struct slice line = { p + 6, (size_t)size - 8 }, family, from, to, from_port, to_port;
    if (!word(&line, &family))
        return -EPROTO;
    if (slice_is(family, "UNKNOWN"))
        return size;
    bool is_v6 = slice_is(family, "TCP6");
    struct net_proxied said = { 0 };
    if ((!is_v6 && !slice_is(family, "TCP4")) || !word(&line, &from) || !word(&line, &to) ||
        !word(&line, &from_port) || !word(&line, &to_port) || line.n > 0 ||
        to_port.p[to_port.n] != '\r' || !v1_address(from, is_v6, &said.client) ||
        !v1_address(to, is_v6, &said.server) || !v1_port(from_port, &said.client.port) ||
        !v1_port(to_port, &said.server.port))
        return -EPROTO;
    *out = malloc(sizeof(said));
    if (*out == NULL)
        return -ENOMEM;
    **out = said;
    return size;
}

/* --- version 2 -------------------------------------------------------------------------------- */

static size_t
big_endian(const char *p, size_t n)
{
    size_t value = 0;
    for (size_t i = 0; i < n; i++)
        value = value << 8 | (unsigned char)p[i];
    return value;
}

/* CRC32c (RFC 4960 appendix B) of the header, four bytes of it at `hole` taken as zero. */
static uint32_t
checksum(const char *p, size_t n, size_t hole)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= i >= hole && i < hole + 4 ? 0 : (unsigned char)p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

/* The next type, length and value; false at the end, or where they do not fit (*is_right then). */
static bool
tlv(struct slice *rest, int *type, struct slice *value, bool *is_right)
{
    if (rest->n == 0)
        return false;
    size_t n = rest->n >= 3 ? big_endian(rest->p + 1, 2) : 0;
    if (rest->n < 3 + n) {
        *is_right = false;
        return false;
    }
    *type = (unsigned char)rest->p[0];
    *value = (struct slice){ rest->p + 3, n };
    *rest = (struct slice){ rest->p + 3 + n, rest->n - 3 - n };
    return true;
}

/* A text that does not fit, or has a NUL, is left out. */
static void
text_keep(char *to, size_t room, struct slice text)
{
    if (text.n >= room || memchr(text.p, '\0', text.n) != NULL)
        return;
    memcpy(to, text.p, text.n);
    to[text.n] = '\0';
}

static int
ssl_parse(struct slice value, struct net_proxied *said, bool *is_right)
{
    if (value.n < 5) {
        *is_right = false;
        return 0;
    }
    unsigned client = (unsigned char)value.p[0];
    uint32_t verify = (uint32_t)big_endian(value.p + 1, 4);
    struct slice rest = { value.p + 5, value.n - 5 }, text;
    int type;
    if (!(client & CLIENT_SSL) || said->tls != NULL)
        return 0;
    struct net_proxied_tls *tls = said->tls = calloc(1, sizeof(*tls) + rest.n);
    if (tls == NULL)
        return -ENOMEM;
    tls->has_client_cert = client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS);
    tls->client_error = tls->has_client_cert ? verify : 0;
    while (tlv(&rest, &type, &text, is_right)) {
        if (type == SSL_VERSION)
            text_keep(tls->version, sizeof(tls->version), text);
        else if (type == SSL_CIPHER)
            text_keep(tls->cipher, sizeof(tls->cipher), text);
        else if (type == SSL_CN)
            text_keep(tls->client_name, sizeof(tls->client_name), text);
        else if (type == SSL_CLIENT_CERT)
            memcpy(tls->client_cert, text.p, tls->client_cert_n = text.n);
    }
    return 0;
}

/* Ends are in p[16..); *used of it are theirs. false: there is not enough of it. */
static bool
v2_ends(const char *p, size_t n, unsigned family, struct net_proxied *said, size_t *used)
{
    size_t ip = family == 1 ? 4 : 16;
    *used = family == 3 ? 2 * V2_UNIX : 2 * ip + 4;
    if (n < V2_HEAD + *used)
        return false;
    p += V2_HEAD;
    if (family == 3) {
        said->client.family = said->server.family = AF_UNIX;
        return true;
    }
    const char *ports = p + 2 * ip;
    said->client =
        net_address_make(family == 1 ? AF_INET : AF_INET6, p, (uint16_t)big_endian(ports, 2));
    said->server = net_address_make(family == 1 ? AF_INET : AF_INET6, p + ip,
                                    (uint16_t)big_endian(ports + 2, 2));
    return true;
}

static ssize_t
v2_parse(const char *p, size_t n, struct net_proxied **out, const char **why)
{
    if (n < V2_HEAD)
        return 0;
    unsigned version = (unsigned char)p[12] >> 4, command = p[12] & 15;
    unsigned family = (unsigned char)p[13] >> 4, transport = p[13] & 15;
    size_t size = V2_HEAD + big_endian(p + 14, 2), used = 0;
    *why = "its version, command or family is none that there is";
    if (version != 2 || command > 1 || family > 3 || transport > 2)
        return -EPROTO;
    *why = "it is larger than 8 KiB";
    if (size > V2_MAX)
        return -EPROTO;
    if (n < size)
        return 0;
    /* LOCAL is the proxy itself, a health check; UNSPEC is somebody whose address cannot be told. */
    bool is_told = command == 1 && family != 0 && transport != 0;
    struct net_proxied said = { 0 };
    *why = "its addresses or TLVs do not fit into it";
    if (is_told && !v2_ends(p, size, family, &said, &used))
        return -EPROTO;
    struct slice rest = { p + V2_HEAD + used, size - V2_HEAD - used }, value;
    bool is_right = true;
    int type, err = 0;
    while (is_told && err == 0 && tlv(&rest, &type, &value, &is_right)) {
        if (type == TYPE_SSL) {
            err = ssl_parse(value, &said, &is_right);
        } else if (type == TYPE_CRC32C) {
            is_right &=
                value.n == 4 && checksum(p, size, (size_t)(value.p - p)) == big_endian(value.p, 4);
            if (!is_right)
                *why = "its checksum is wrong";
        }
        if (!is_right)
            break;
    }
    if (err == 0 && is_right && !is_told)
        return (ssize_t)size;
    if (err == 0 && is_right && (*out = malloc(sizeof(said))) != NULL) {
        **out = said;
        return (ssize_t)size;
    }
    free(said.tls);
    return err == 0 && !is_right ? -EPROTO : -ENOMEM;
}

/* --- either ----------------------------------------------------------------------------------- */

static bool
begins_with(const char *p, size_t n, const char *with, size_t with_n)
{
    return memcmp(p, with, n < with_n ? n : with_n) == 0;
}

ssize_t
proxy_header_parse(const char *p, size_t n, unsigned versions, struct net_proxied **out,
                   const char **why)
{
    *out = NULL;
    if (n == 0)
        return 0;
    if ((versions & PROXY_PROTOCOL_V1) && begins_with(p, n, "PROXY ", 6))
        return n < 6 ? 0 : v1_parse(p, n, out, why);
    if ((versions & PROXY_PROTOCOL_V2) && begins_with(p, n, signature, sizeof(signature)))
        return v2_parse(p, n, out, why);
    *why = begins_with(p, n, "PROXY ", 6) || begins_with(p, n, signature, sizeof(signature))
               ? "it is of the version that proxy.protocol does not name"
               : "there is none";
    return -EPROTO;
}

/* --- of a connection -------------------------------------------------------------------------- */

/* One line, but no more than one a second: anybody can make them. */
static void
refuse(struct conn *c, const char *why)
{
    struct net *net = c->net;
    char text[INET6_ADDRSTRLEN];
    struct net_address peer = net_address_of(conn_peer(c));
    net->refusals++;
    if (net->refusal_logged_ns == 0 ||
        net->now_ns - net->refusal_logged_ns >= REFUSALS_LOGGED_EVERY_MS * NS_PER_MS) {
        size_t n = net_address_text(&peer, text);
        log_warning("PROXY protocol: %u connection%s refused, the last from %s: %s", net->refusals,
                    net->refusals > 1 ? "s" : "", n > 0 ? text : "a unix socket", why);
        net->refusal_logged_ns = net->now_ns;
        net->refusals = 0;
    }
    conn_fail(c, -EPROTO);
}

void
proxy_header_await(struct conn *c)
{
    if (c->state != CONN_OPEN && c->state != CONN_HANDSHAKE)
        return;
    c->awaits_proxy = true;
    struct net_address peer = net_address_of(conn_peer(c));
    if (peer.family == AF_UNSPEC) /* it has gone already */
        conn_fail(c, -ENOTCONN);
    else if (!net_trusts(c->net, &peer))
        refuse(c, "its peer is none of proxy.trusted");
}

bool
proxy_header_read(struct conn *c)
{
    char p[V2_MAX];
    ssize_t n = recv(c->fd, p, sizeof(p), MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false; /* what comes is announced */
    const char *why = "";
    struct net_proxied *said = NULL;
    ssize_t size =
        n > 0 ? proxy_header_parse(p, (size_t)n, c->net->proxy_protocol, &said, &why) : n;
    if (size == 0 && n > 0 && c->gone) {
        size = -EPROTO;
        why = "the connection ended within its header";
    }
    if (size == 0 && n > 0)
        return false;
    if (size <= 0) {
        /* A health check that connects and closes is no fault. */
        if (size == -EPROTO)
            refuse(c, why);
        else
            conn_fail(c, n < 0 ? -errno : size == 0 ? -ECONNRESET : (int)size);
        return false;
    }
    if (recv(c->fd, p, (size_t)size, MSG_DONTWAIT) != size) { /* it was there */
        net_proxied_free(said);
        conn_fail(c, -ECONNRESET);
        return false;
    }
    c->proxied = said;
    c->awaits_proxy = false;
    return true;
}
