/* Addresses, who is trusted, and the header of the PROXY protocol. */
#include <errno.h>
#include <stdlib.h>

#include "net/net.h"
#include "tap.h"

/* --- trust ------------------------------------------------------------------------------------ */

static bool
trusts(const char *network, const char *address)
{
    char why[160], *list[] = { (char *)network };
    struct conf conf = { .proxy_trusted = { list, 1 } };
    struct net net = { 0 };
    struct conf_network parsed;
    struct net_address a = { .family = AF_UNIX };
    if (conf_network_parse(network, &parsed, why, sizeof(why)) < 0 ||
        net_trust_proxies(&net, &conf) < 0 ||
        (strcmp(address, "unix") != 0 && !net_address_parse(slice_of(address), &a)))
        abort();
    bool is = net_trusts(&net, &a);
    free(net.trust.v);
    return is;
}

static void
test_trust(void)
{
    static const struct {
        const char *network, *address;
        bool is;
    } rows[] = {
        { "127.0.0.1", "127.0.0.1", true },
        { "127.0.0.1", "127.0.0.2", false },
        { "10.0.0.0/8", "10.255.0.1", true },
        { "10.0.0.0/8", "11.0.0.0", false },
        { "10.0.0.0/9", "10.127.255.255", true },
        { "10.0.0.0/9", "10.128.0.0", false },
        { "10.1.2.0/31", "10.1.2.1", true },
        { "10.1.2.0/31", "10.1.2.2", false },
        { "0.0.0.0/0", "203.0.113.7", true },
        { "0.0.0.0/0", "::1", false },
        { "::/0", "::1", true },
        { "::/0", "203.0.113.7", false },
        { "2001:db8::/33", "2001:db8:7fff::", true },
        { "2001:db8::/33", "2001:db8:8000::", false },
        { "::1", "0:0::1", true },
        { "10.0.0.0/8", "::ffff:10.0.0.1", true },
        { "::ffff:10.0.0.0/104", "10.0.0.1", true },
        { "::ffff:0:0/96", "9.9.9.9", true },
        { "unix", "unix", true },
        { "unix", "127.0.0.1", false },
        { "::/0", "unix", false },
        { "*", "unix", true },
        { "*", "203.0.113.7", true },
        { "*", "::1", true },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        ok(trusts(rows[i].network, rows[i].address) == rows[i].is, "%s: %s is %s", rows[i].network,
           rows[i].address, rows[i].is ? "in it" : "not in it");
    static const char *const wrong[] = { "",          "x",           "10.0.0.0/33", "10.0.0.0/",
                                         "10.0.0/8",  "10.0.0.1/8",  "::1/129",     "::1/64",
                                         "localhost", "/8",          "10.0.0.0/08", "10.0.0.0/-1",
                                         "[::1]",     "127.0.0.1:80" };
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct conf_network network;
        char why[160];
        ok(conf_network_parse(wrong[i], &network, why, sizeof(why)) == -EINVAL,
           "'%s' is no network", wrong[i]);
    }
}

/* --- version 1 -------------------------------------------------------------------------------- */

static void
forget(struct net_proxied *said)
{
    if (said != NULL)
        free(said->tls);
    free(said);
}

/* "client port server port", "own" where the connection's own ends count, or "" where it is none. */
static const char *
told(const char *p, size_t n)
{
    static char text[256];
    char client[INET6_ADDRSTRLEN], server[INET6_ADDRSTRLEN];
    struct net_proxied *said;
    const char *why;
    ssize_t size = proxy_header_parse(p, n, PROXY_PROTOCOL_V1 | PROXY_PROTOCOL_V2, &said, &why);
    if (size <= 0)
        return size == 0 ? "more" : "";
    if (said == NULL)
        return "own";
    net_address_text(&said->client, client);
    net_address_text(&said->server, server);
    snprintf(text, sizeof(text), "%s %u %s %u", client, said->client.port, server,
             said->server.port);
    forget(said);
    return text;
}

static void
test_v1(void)
{
    static const struct {
        const char *line, *told;
    } rows[] = {
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "1.2.3.4 9 5.6.7.8 10" },
        { "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
          "255.255.255.255 65535 255.255.255.255 65535" },
        { "PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n", "2001:db8::1 0 ::1 65535" },
        { "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
          "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
          "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
          "65535" },
        { "PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", "1.2.3.4 1 ::1 2" },
        { "PROXY UNKNOWN\r\n", "own" },
        { "PROXY UNKNOWN what ever\r\n", "own" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9 10", "more" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r", "more" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\n", "" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9 10 \r\n", "" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9 10 11\r\n", "" },
        { "PROXY  TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "" },
        { "PROXY TCP4 1.2.3.4  5.6.7.8 9 10\r\n", "" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n", "" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 09 10\r\n", "" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n", "" },
        { "PROXY TCP4 1.2.3.4 5.6.7.8 -9 10\r\n", "" },
        { "PROXY TCP4 ::1 ::1 9 10\r\n", "" },
        { "PROXY TCP4 1.2.3.4:1 5.6.7.8 9 10\r\n", "" },
        { "PROXY TCP6 1.2.3.4 5.6.7.8 9 10\r\n", "" },
        { "PROXY TCP6 1.2.3.4:1 ::1 9 10\r\n", "" },
        { "PROXY TCP6 [::1] ::1 9 10\r\n", "" },
        { "PROXY UDP4 1.2.3.4 5.6.7.8 9 10\r\n", "" },
        { "PROXY \r\n", "" },
        { "PROXY\r\n", "" },
        { "PROX", "more" },
        { "proxy TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "" },
        { "GET / HTTP/1.1\r\n", "" },
        { "\r\nPROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *got = told(rows[i].line, strlen(rows[i].line));
        if (!ok(strcmp(got, rows[i].told) == 0, "v1: %.*s", (int)strcspn(rows[i].line, "\r\n"),
                rows[i].line))
            diag("got: %s", got);
    }
    char line[200] = "PROXY UNKNOWN ";
    memset(line + 14, 'x', 100);
    memcpy(line + 105, "\r\n", 2);
    ok(strcmp(told(line, 107), "own") == 0, "v1: 107 bytes");
    memcpy(line + 105, "xx\r\n", 4);
    ok(strcmp(told(line, 106), "more") == 0 && strcmp(told(line, 107), "") == 0,
       "v1: more than 107 bytes are known to be wrong at the 107th");
}

/* --- version 2 -------------------------------------------------------------------------------- */

struct header {
    unsigned char p[16 * 1024];
    size_t n;
};

static void
begin(struct header *h, unsigned command, unsigned family)
{
    memcpy(h->p, "\r\n\r\n\0\r\nQUIT\n", 12);
    h->p[12] = (unsigned char)(0x20 | command);
    h->p[13] = (unsigned char)family;
    h->n = 16;
}

static void
add(struct header *h, const void *p, size_t n)
{
    memcpy(h->p + h->n, p, n);
    h->n += n;
}

static void
add_tlv(struct header *h, unsigned type, const void *p, size_t n)
{
    unsigned char head[3] = { (unsigned char)type, (unsigned char)(n >> 8), (unsigned char)n };
    add(h, head, 3);
    add(h, p, n);
}

/* Writes the length; what is told. */
static const char *
end(struct header *h)
{
    h->p[14] = (unsigned char)((h->n - 16) >> 8);
    h->p[15] = (unsigned char)(h->n - 16);
    return told((const char *)h->p, h->n);
}

static void
inet(struct header *h)
{
    begin(h, 1, 0x11);
    add(h, "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09\x01\xbb", 12);
}

/* CRC32c of RFC 4960, by another way than the server's: most significant bit first, reflected. */
static uint32_t
crc32c(const unsigned char *p, size_t n)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t out = crc >> 31 ^ (p[i] >> bit & 1);
            crc = crc << 1 ^ (out ? 0x1edc6f41u : 0);
        }
    uint32_t reflected = 0;
    for (int bit = 0; bit < 32; bit++)
        reflected |= (crc >> bit & 1) << (31 - bit);
    return ~reflected;
}

static void
test_v2(void)
{
    static struct header h;
    unsigned char v6[36] = {
        [15] = 1, [16] = 0x20, 0x01, 0x0d, 0xb8, [31] = 2, [33] = 80, [35] = 81
    };
    unsigned char nothing[216] = { 0 };
    inet(&h);
    ok(strcmp(end(&h), "1.2.3.4 9 5.6.7.8 443") == 0, "v2: IPv4");
    for (size_t cut = 0; cut < h.n; cut++)
        if (strcmp(told((const char *)h.p, cut), "more") != 0)
            ok(0, "v2: %zu bytes of it", cut);
    h.p[13] = 0x12;
    ok(strcmp(end(&h), "1.2.3.4 9 5.6.7.8 443") == 0, "v2: UDP over IPv4");
    begin(&h, 1, 0x21);
    add(&h, v6, sizeof(v6));
    ok(strcmp(end(&h), "::1 80 2001:db8::2 81") == 0, "v2: IPv6");
    begin(&h, 1, 0x31);
    add(&h, nothing, sizeof(nothing));
    ok(strcmp(end(&h), " 0  0") == 0, "v2: unix");
    begin(&h, 0, 0x11);
    ok(strcmp(end(&h), "own") == 0, "v2: LOCAL");
    add(&h, nothing, 100);
    ok(strcmp(end(&h), "own") == 0, "v2: LOCAL with a block to skip");
    begin(&h, 1, 0);
    ok(strcmp(end(&h), "own") == 0, "v2: UNSPEC");
    begin(&h, 2, 0x11);
    ok(strcmp(end(&h), "") == 0, "v2: a command that there is not");
    begin(&h, 1, 0x41);
    ok(strcmp(end(&h), "") == 0, "v2: a family that there is not");
    begin(&h, 1, 0x13);
    ok(strcmp(end(&h), "") == 0, "v2: a transport that there is not");
    inet(&h);
    h.p[12] = 0x31;
    ok(strcmp(end(&h), "") == 0, "v2: version 3");
    begin(&h, 1, 0x11);
    add(&h, nothing, 11);
    ok(strcmp(end(&h), "") == 0, "v2: too short for its addresses");
    inet(&h);
    h.p[14] = 0x20;
    h.p[15] = 0x01;
    ok(strcmp(told((const char *)h.p, 16), "") == 0, "v2: more than 8 KiB are refused at once");
    inet(&h);
    add_tlv(&h, 0x04, nothing, 200);
    add_tlv(&h, 0x05, nothing, 128);
    add_tlv(&h, 0xe7, nothing, 0);
    ok(strcmp(end(&h), "1.2.3.4 9 5.6.7.8 443") == 0, "v2: TLVs are skipped");
    add(&h, "\x04\x00", 2);
    ok(strcmp(end(&h), "") == 0, "v2: half a TLV");
    inet(&h);
    add(&h, "\x04\x00\x02x", 4);
    ok(strcmp(end(&h), "") == 0, "v2: a TLV that reaches over the end");

    ok(crc32c((const unsigned char *)"123456789", 9) == 0xe3069283, "the test's CRC32c is one");
    inet(&h);
    add_tlv(&h, 0x04, "pad", 3);
    add_tlv(&h, 0x03, "\0\0\0\0", 4);
    add_tlv(&h, 0x02, "example.org", 11);
    end(&h);
    uint32_t crc = crc32c(h.p, h.n);
    for (int i = 0; i < 4; i++)
        h.p[16 + 12 + 6 + 3 + i] = (unsigned char)(crc >> (24 - 8 * i));
    ok(strcmp(told((const char *)h.p, h.n), "1.2.3.4 9 5.6.7.8 443") == 0, "v2: checksum");
    h.p[17] ^= 1;
    ok(strcmp(told((const char *)h.p, h.n), "") == 0, "v2: checksum of something else");
    inet(&h);
    add_tlv(&h, 0x03, "\0\0\0", 3);
    ok(strcmp(end(&h), "") == 0, "v2: checksum of three bytes");
}

static struct net_proxied *
said_of(struct header *h)
{
    struct net_proxied *said = NULL;
    const char *why;
    end(h);
    return proxy_header_parse((const char *)h->p, h->n, PROXY_PROTOCOL_V2, &said, &why) > 0 ? said
                                                                                            : NULL;
}

static void
test_tls(void)
{
    static struct header h, tls;
    tls.n = 0;
    add(&tls, "\x07\0\0\0\0", 5);
    add_tlv(&tls, 0x21, "TLSv1.3", 7);
    add_tlv(&tls, 0x22, "M\xc3\xbcller", 7);
    add_tlv(&tls, 0x23, "TLS_AES_256_GCM_SHA384", 22);
    add_tlv(&tls, 0x24, "RSA-SHA256", 10);
    inet(&h);
    add_tlv(&h, 0x20, tls.p, tls.n);
    struct net_proxied *said = said_of(&h);
    ok(said != NULL && said->tls != NULL && strcmp(said->tls->version, "TLSv1.3") == 0 &&
           strcmp(said->tls->client_name, "M\xc3\xbcller") == 0 &&
           strcmp(said->tls->cipher, "TLS_AES_256_GCM_SHA384") == 0 && said->tls->has_client_cert &&
           said->tls->client_error == 0,
       "TLS: all of it");
    forget(said);
    tls.p[4] = 1;
    inet(&h);
    add_tlv(&h, 0x20, tls.p, tls.n);
    said = said_of(&h);
    ok(said != NULL && said->tls->has_client_cert && said->tls->client_error == 1,
       "TLS: a certificate that was not verified");
    forget(said);
    inet(&h);
    add_tlv(&h, 0x20, "\x01\0\0\0\0", 5);
    said = said_of(&h);
    ok(said != NULL && said->tls != NULL && !said->tls->has_client_cert &&
           said->tls->client_error == 0 && said->tls->version[0] == '\0',
       "TLS: without a certificate nothing is verified");
    forget(said);
    inet(&h);
    add_tlv(&h, 0x20, "\0\0\0\0\0", 5);
    said = said_of(&h);
    ok(said != NULL && said->tls == NULL, "TLS: there was none");
    forget(said);
    tls.n = 0;
    add(&tls, "\x01\0\0\0\0", 5);
    static const char long_name[300];
    add_tlv(&tls, 0x22, long_name, sizeof(long_name));
    add_tlv(&tls, 0x21, "TLSv1.2 and so on and so on", 27);
    inet(&h);
    add_tlv(&h, 0x20, tls.p, tls.n);
    said = said_of(&h);
    ok(said != NULL && said->tls->client_name[0] == '\0' && said->tls->version[0] == '\0',
       "TLS: what does not fit is left out");
    forget(said);
    tls.n = 0;
    add(&tls, "\x03\0\0\0\x0a", 5);
    add_tlv(&tls, 0x28, "two", 3);
    add_tlv(&tls, 0x28, "certificates", 12);
    inet(&h);
    add_tlv(&h, 0x20, tls.p, tls.n);
    said = said_of(&h);
    ok(said != NULL && said->tls->client_error == 10 && said->tls->client_cert_n == 12 &&
           memcmp(said->tls->client_cert, "certificates", 12) == 0,
       "TLS: the certificate itself; the last word counts");
    forget(said);
    inet(&h);
    add_tlv(&h, 0x20, "\x01\0\0\0", 4);
    ok(said_of(&h) == NULL, "TLS: too short");
    inet(&h);
    add_tlv(&h, 0x20, "\x01\0\0\0\0\x21\0\x09x", 9);
    ok(said_of(&h) == NULL, "TLS: a part that reaches over its end");
}

int
main(void)
{
    test_trust();
    test_v1();
    test_v2();
    test_tls();
    return tap_done();
}
