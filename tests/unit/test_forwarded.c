/* What trusted proxies say in headers, as http/ hands it on; conformance/test_forwarded.py has the long table. Also that it is
 * forgotten with its request, and believed of the peer that the PROXY protocol names. */
#include "http_fixture.h"

enum {
    ALL = PROXY_X_FOR | PROXY_X_PROTO | PROXY_X_HOST | PROXY_X_PORT | PROXY_X_PREFIX |
          PROXY_FORWARDED | PROXY_X_REAL_IP
};

static char *trusted[] = { "unix", "10.0.0.0/8", "203.0.113.0/24" };

static struct reply
ask(struct fix *f, const char *raw)
{
    int fd = fix_connect(f);
    fix_send(f, fd, raw, strlen(raw));
    shutdown(fd, SHUT_WR);
    struct reply r = fix_read(f, fd, UNTIL_END);
    close(fd);
    fix_settle(f);
    return r;
}

/* The line that starts so, or "". */
static const char *
line_of(const struct reply *r, const char *start)
{
    static char line[512];
    const char *p = r->p != NULL ? memmem(r->p, r->n, start, strlen(start)) : NULL;
    const char *end = p != NULL ? memchr(p, '\n', r->n - (size_t)(p - r->p)) : NULL;
    snprintf(line, sizeof(line), "%.*s", end != NULL ? (int)(end - p) : 0, p);
    return line;
}

static void
test_rows(enum io_backend backend)
{
    static const struct {
        const char *name, *headers;
        const char *told; /* the line of c_describe_proxied(), "" for none */
        const char *host;
    } rows[] = {
        { "nothing", "", "", "x" },
        { "an address", "X-Forwarded-For: 192.0.2.1\r\n",
          "client 192.0.2.1 0 https 0 server  0 root ", "x" },
        { "a chain", "X-Forwarded-For: 1.1.1.1, 192.0.2.1, 10.0.0.1:5\r\n",
          "client 192.0.2.1 0 https 0 server  0 root ", "x" },
        { "all of it",
          "Forwarded: for=\"[2001:db8::1]:9\";proto=https;host=example.org\r\nX-Forwarded-For: "
          "1.1.1.1\r\n"
          "X-Forwarded-Port: 8443\r\nX-Forwarded-Prefix: /a/b/\r\nX-Real-IP: 2.2.2.2\r\n",
          "client 2001:db8::1 9 https 1 server example.org 8443 root /a/b", "example.org:8443" },
        { "a scheme alone", "X-Forwarded-Proto: https\r\n", "client  0 https 1 server  0 root ",
          "x" },
        { "garbage", "X-Forwarded-For: \x80\xff, ]\r\nForwarded: \";=,\r\nX-Forwarded-Host: @\r\n",
          "client  0 https 0 server  0 root ", "x" },
        { "many",
          "X-Forwarded-For: ,\r\nX-Forwarded-For:\r\nX-Forwarded-For: "
          "192.0.2.1\r\nX-Forwarded-For: ,10.0.0.1\r\n",
          "client 192.0.2.1 0 https 0 server  0 root ", "x" },
    };
    struct fix f;
    fix_init(&f);
    f.app.conf.proxy_headers = ALL;
    f.app.conf.proxy_trusted = (struct conf_strings){ trusted, ARRAY_LEN(trusted) };
    f.app.only = c_scope;
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char raw[1024], host[128];
        snprintf(raw, sizeof(raw), "GET /scope HTTP/1.1\r\nHost: x\r\n%s\r\n", rows[i].headers);
        snprintf(host, sizeof(host), "header host|%s|", rows[i].host);
        struct reply r = ask(&f, raw);
        bool is_right = r.status == 200 && strcmp(line_of(&r, "client "), rows[i].told) == 0;
        if (!ok(is_right && strcmp(line_of(&r, "header host|"), host) == 0, "%s", rows[i].name))
            diag("%.*s", (int)r.n, r.p);
        free(r.p);
    }
    struct reply r =
        ask(&f, "GET /scope HTTP/1.0\r\nX-Forwarded-Host: y\r\nX-Forwarded-Port: 81\r\n\r\n");
    ok(strcmp(line_of(&r, "header host|"), "header host|y:81|") == 0,
       "a Host for HTTP/1.0, which has none");
    free(r.p);
    fix_close(&f, "rows");
}

static void
test_peers(enum io_backend backend)
{
    static const struct {
        const char *name, *from, *told;
    } rows[] = {
        { "a peer that is trusted", "203.0.113.7", "client 192.0.2.1 0 https 1 server  0 root " },
        { "a peer that is not", "198.51.100.7", "client 198.51.100.7 1 https 0 server  0 root " },
    };
    struct fix f;
    fix_init(&f);
    f.app.conf.proxy_headers = ALL;
    f.app.conf.proxy_protocol = PROXY_PROTOCOL_V1;
    f.app.conf.proxy_trusted = (struct conf_strings){ trusted, ARRAY_LEN(trusted) };
    f.app.only = c_scope;
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char raw[1024];
        snprintf(raw, sizeof(raw),
                 "PROXY TCP4 %s 10.0.0.1 1 2\r\nGET /scope HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: "
                 "192.0.2.1\r\n"
                 "X-Forwarded-Proto: https\r\n\r\nGET /scope HTTP/1.1\r\nHost: y\r\n\r\n",
                 rows[i].from);
        struct reply r = ask(&f, raw);
        if (!ok(strcmp(line_of(&r, "client "), rows[i].told) == 0, "%s", rows[i].name))
            diag("%.*s", (int)r.n, r.p);
        const char *second = memmem(r.p, r.n, "header host|y|", 14);
        char expected[128];
        snprintf(expected, sizeof(expected), "client %s 1 https 0 server  0 root \n", rows[i].from);
        ok(second != NULL &&
               memmem(second, r.n - (size_t)(second - r.p), expected, strlen(expected)) != NULL,
           "%s: the next request is its own", rows[i].name);
        free(r.p);
    }
    fix_close(&f, "peers");
}

int
main(void)
{
    for (enum io_backend backend = IO_URING; backend <= IO_EPOLL; backend++) {
        test_rows(backend);
        test_peers(backend);
    }
    return tap_done();
}
