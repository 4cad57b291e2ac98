/* fuzz_proxy.c: any bytes as the header of the PROXY protocol, and as an address. What a header is must not
 * depend on how much of it has come; an address must read the same when it is written out. */
#include <stdlib.h>

#include "net/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 20 * 1024, CUTS_MAX = 600 };

static void
forget(struct net_proxied *said)
{
    if (said != NULL)
        free(said->tls);
    free(said);
}

static bool
is_same(const struct net_address *a, const struct net_address *b)
{
    return a->family == b->family && a->port == b->port &&
           memcmp(&a->ip, &b->ip, sizeof(a->ip)) == 0;
}

static void
try_header(const char *p, size_t size, unsigned versions)
{
    struct net_proxied *whole, *part;
    const char *why = NULL;
    ssize_t n = proxy_header_parse(p, size, versions, &whole, &why);
    ASSERT(n <= (ssize_t)size && (n >= 0 || (whole == NULL && why != NULL)) &&
           (n != 0 || whole == NULL));
    for (size_t cut = 0; cut < size && cut < CUTS_MAX; cut++) {
        ssize_t k = proxy_header_parse(p, cut, versions, &part, &why);
        /* A header that is none may be found out later. */
        ASSERT(n < 0 ? k <= 0 : n > 0 && cut >= (size_t)n ? k == n : k == 0);
        ASSERT((part != NULL) == (k > 0 && whole != NULL));
        if (part != NULL)
            ASSERT(is_same(&part->client, &whole->client) &&
                   is_same(&part->server, &whole->server));
        forget(part);
    }
    forget(whole);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > INPUT_MAX)
        return 0;
    const char *p = (const char *)data;
    for (unsigned versions = 1; versions <= 3; versions++)
        try_header(p, size, versions);
    struct net_address a, b;
    if (!net_address_parse((struct slice){ p, size }, &a))
        return 0;
    char text[INET6_ADDRSTRLEN];
    size_t n = net_address_text(&a, text);
    ASSERT(n > 0 && net_address_parse((struct slice){ text, n }, &b));
    b.port = a.port;
    ASSERT(is_same(&a, &b));
    return 0;
}
