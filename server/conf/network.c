/* network.c: what `proxy.trusted` may name.
 *
 *     127.0.0.1   ::1   10.0.0.0/8   fd00::/8   unix (peers on unix sockets)   * (everybody) */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "conf/conf.h"

static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };

/* Reads 0 to most, digits and nothing else; -1 when they are not. */
static int
parse_bits(const char *text, int most)
{
    size_t n = strlen(text);
    if (n == 0 || n > 3 || strspn(text, "0123456789") != n || (n > 1 && text[0] == '0'))
        return -1;
    int bits = atoi(text);
    return bits <= most ? bits : -1;
}

/* Whether a bit behind the first `bits` of 128 is set. */
static bool
has_bits_behind(const unsigned char addr[16], unsigned bits)
{
    for (unsigned i = bits; i < 128; i++)
        if (addr[i / 8] & (0x80 >> i % 8))
            return true;
    return false;
}

int
conf_network_parse(const char *text, struct conf_network *out, char *why, size_t why_size)
{
    struct conf_network network = { 0 };
    char literal[INET6_ADDRSTRLEN] = "";
    size_t n = strcspn(text, "/");
    if (strcmp(text, "*") == 0 || strcmp(text, "unix") == 0) {
        out->family = text[0] == '*' ? AF_UNSPEC : AF_UNIX;
        return 0;
    }
    if (n < sizeof(literal))
        memcpy(literal, text, n);
    bool is_v4 = inet_pton(AF_INET, literal, network.addr + sizeof(mapped)) == 1;
    if (is_v4) {
        memcpy(network.addr, mapped, sizeof(mapped));
    } else if (inet_pton(AF_INET6, literal, network.addr) != 1) {
        snprintf(why, why_size, "is neither an address, a network (10.0.0.0/8), unix nor *");
        return -EINVAL;
    }
    unsigned skip = is_v4 ? 8 * sizeof(mapped) : 0;
    int bits = text[n] == '/' ? parse_bits(text + n + 1, 128 - (int)skip) : 128 - (int)skip;
    if (bits < 0) {
        snprintf(why, why_size, "has no prefix length from 0 to %u behind its slash", 128 - skip);
        return -EINVAL;
    }
    network.bits = (uint8_t)(skip + (unsigned)bits);
    if (has_bits_behind(network.addr, network.bits)) {
        snprintf(why, why_size, "has bits set behind the first %d", bits);
        return -EINVAL;
    }
    /* A mapped network of IPv4 is one of IPv4; ::/0 is not, though it begins like one. */
    is_v4 = network.bits >= 8 * sizeof(mapped) && memcmp(network.addr, mapped, sizeof(mapped)) == 0;
    network.family = is_v4 ? AF_INET : AF_INET6;
    *out = network;
    return 0;
}
