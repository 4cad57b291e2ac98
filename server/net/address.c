/* address.c: addresses as proxies write them, and which of them are trusted.
 * An IPv4 address in IPv6's clothes (::ffff:a.b.c.d, as a socket for both families has it) is that
 * IPv4 address: else nobody could say by a.b.c.d whom he trusts. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };

struct net_address
net_address_make(int family, const void *ip, uint16_t port)
{
    struct net_address a = { .family = (uint8_t)family, .port = port };
    const unsigned char *bytes = ip;
    bool is_mapped = family == AF_INET6 && memcmp(bytes, mapped, sizeof(mapped)) == 0;
    if (is_mapped)
        a.family = AF_INET;
    memcpy(&a.ip, is_mapped ? bytes + sizeof(mapped) : bytes, a.family == AF_INET ? 4 : 16);
    return a;
}

struct net_address
net_address_of(const struct sockaddr_storage *from)
{
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)from;
        return net_address_make(AF_INET, &in->sin_addr, ntohs(in->sin_port));
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
        return net_address_make(AF_INET6, &in6->sin6_addr, ntohs(in6->sin6_port));
    }
    return (struct net_address){ .family = (uint8_t)from->ss_family };
}

struct sockaddr_storage
net_address_sockaddr(const struct net_address *a)
{
    struct sockaddr_storage to = { .ss_family = a->family };
    if (a->family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)&to;
        memcpy(&in->sin_addr, &a->ip, sizeof(in->sin_addr));
        in->sin_port = htons(a->port);
    } else if (a->family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&to;
        in6->sin6_addr = a->ip;
        in6->sin6_port = htons(a->port);
    }
    return to;
}

size_t
net_address_text(const struct net_address *a, char text[INET6_ADDRSTRLEN])
{
    text[0] = '\0';
    if ((a->family != AF_INET && a->family != AF_INET6) ||
        inet_ntop(a->family, &a->ip, text, INET6_ADDRSTRLEN) == NULL)
        return 0;
    return strlen(text);
}

/* ":80", or ":_name", a port that a proxy hides (RFC 7239 section 6.2). */
static bool
port_parse(struct slice text, uint16_t *port)
{
    unsigned n = 0;
    if (text.n < 2 || text.p[0] != ':')
        return false;
    if (text.p[1] == '_')
        return true;
    if (text.n > 6)
        return false;
    for (size_t i = 1; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return false;
        n = n * 10 + (unsigned)(text.p[i] - '0');
    }
    if (n > UINT16_MAX)
        return false;
    *port = (uint16_t)n;
    return true;
}

bool
net_address_parse(struct slice text, struct net_address *out)
{
    struct slice ip = text, port = { NULL, 0 };
    int family = AF_INET6;
    uint16_t number = 0;
    struct in6_addr binary;
    if (text.n == 0)
        return false;
    const char *end = text.p + text.n;
    const char *colon = memchr(text.p, ':', text.n);
    if (text.p[0] == '[') {
        const char *close = memchr(text.p, ']', text.n);
        if (close == NULL)
            return false;
        ip = (struct slice){ text.p + 1, (size_t)(close - text.p) - 1 };
        port = (struct slice){ close + 1, (size_t)(end - close) - 1 };
    } else if (colon == NULL || memchr(colon + 1, ':', (size_t)(end - colon) - 1) == NULL) {
        family = AF_INET;
        if (colon != NULL) {
            ip.n = (size_t)(colon - text.p);
            port = (struct slice){ colon, (size_t)(end - colon) };
        }
    }
    char literal[INET6_ADDRSTRLEN];
    if (ip.n >= sizeof(literal) || memchr(ip.p, '\0', ip.n) != NULL ||
        (port.n > 0 && !port_parse(port, &number)))
        return false;
    memcpy(literal, ip.p, ip.n);
    literal[ip.n] = '\0';
    if (inet_pton(family, literal, &binary) != 1)
        return false;
    *out = net_address_make(family, &binary, number);
    return true;
}

/* --- trust ------------------------------------------------------------------------------------ */

int
net_trust_proxies(struct net *net, const struct conf *conf)
{
    net->proxy_protocol = conf->proxy_protocol;
    size_t n = conf->proxy_trusted.n;
    if (n == 0)
        return 0;
    net->trust.v = calloc(n, sizeof(*net->trust.v));
    if (net->trust.v == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        char why[128];
        if (conf_network_parse(conf->proxy_trusted.v[i], &net->trust.v[net->trust.n], why,
                               sizeof(why)) == 0)
            net->trust.n++;
    }
    return 0;
}

static bool
is_in(const struct conf_network *network, const unsigned char ip[16])
{
    unsigned bytes = network->bits / 8, rest = network->bits % 8;
    if (memcmp(network->addr, ip, bytes) != 0)
        return false;
    return rest == 0 || (network->addr[bytes] ^ ip[bytes]) >> (8 - rest) == 0;
}

bool
net_trusts(const struct net *net, const struct net_address *a)
{
    unsigned char ip[16];
    if (a->family == AF_INET) {
        memcpy(ip, mapped, sizeof(mapped));
        memcpy(ip + sizeof(mapped), &a->ip, 4);
    } else {
        memcpy(ip, &a->ip, sizeof(ip));
    }
    for (size_t i = 0; i < net->trust.n; i++) {
        const struct conf_network *network = &net->trust.v[i];
        if (network->family == AF_UNSPEC ||
            (network->family == a->family && (a->family == AF_UNIX || is_in(network, ip))))
            return true;
    }
    return false;
}
