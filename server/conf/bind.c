/* bind.c: what `bind` may look like.
 *
 *     127.0.0.1:8000   localhost:8000   [::1]:8000   :8000 and *:8000 (all addresses)
 *     8000 (127.0.0.1)   127.0.0.1 (port 8000)   unix:/run/ringcorn.sock   fd://3   systemd
 *     unix:/run/ringcorn-{slot}.sock (one for each worker: 0, 1, ...)
 * Before those of TCP http:// or https:// may stand. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <sys/un.h>

#include "conf/load.h"

#define LOCAL_HOST "127.0.0.1"

void
bind_free(struct conf_bind *bind)
{
    free(bind->text);
    free(bind->host);
    free(bind->path);
    *bind = (struct conf_bind){ 0 };
}

/* Decimal digits and nothing else, at most max; -1 when they are not. */
static long
parse_digits(const char *text, long max)
{
    long n = 0;
    if (*text == '\0')
        return -1;
    for (; isdigit((unsigned char)*text); text++) {
        n = n * 10 + (*text - '0');
        if (n > max)
            return -1;
    }
    return *text == '\0' ? n : -1;
}

bool
port_is_right(const char *text)
{
    return parse_digits(text, UINT16_MAX) >= 0;
}

static bool
is_digits(const char *text)
{
    return *text != '\0' && text[strspn(text, "0123456789")] == '\0';
}

/* An address of IPv6, with a zone ("fe80::1%eth0") or without. */
static bool
is_ipv6(const char *text)
{
    struct in6_addr address;
    char literal[INET6_ADDRSTRLEN] = "";
    size_t n = strcspn(text, "%");
    if (n >= sizeof(literal) || (text[n] == '%' && text[n + 1] == '\0'))
        return false;
    memcpy(literal, text, n);
    return inet_pton(AF_INET6, literal, &address) == 1;
}

/* What an address of IPv4 or a host's name is made of. */
static bool
is_host(const char *text)
{
    const char *p = text;
    while (isalnum((unsigned char)*p) || *p == '-' || *p == '.' || *p == '_')
        p++;
    if (p == text || *p != '\0')
        return false;
    /* Digits and points alone: meant as an address, so it must be one (the resolver would take
     * 127.1 or 8). */
    struct in_addr address;
    return text[strspn(text, "0123456789.")] != '\0' || inet_pton(AF_INET, text, &address) == 1;
}

/* host: without brackets, "" or "*" = all addresses; text: as it is shown. */
static int
tcp_new(const char *host, const char *port, const char *text, struct conf_bind *out, char *why,
        size_t why_size)
{
    long number = parse_digits(port, UINT16_MAX);
    if (number < 0) {
        snprintf(why, why_size, "has no port from 0 to 65535 behind the last colon");
        return -EINVAL;
    }
    if (strcmp(host, "*") == 0)
        host = "";
    if (host[0] != '\0' && !is_host(host) && !is_ipv6(host)) {
        snprintf(why, why_size, "does not begin with an address or a host's name");
        return -EINVAL;
    }
    struct conf_bind bind = { .kind = CONF_BIND_TCP,
                              .text = strdup(text),
                              .host = strdup(host),
                              .port = (uint16_t)number,
                              .fd = -1 };
    if (bind.text == NULL || bind.host == NULL) {
        bind_free(&bind);
        return -ENOMEM;
    }
    *out = bind;
    return 0;
}

static int
unix_new(const char *path, const char *text, struct conf_bind *out, char *why, size_t why_size)
{
    enum { PATH_ROOM = sizeof(((struct sockaddr_un *)0)->sun_path) - 1 };
    while (path[0] == '/' && path[1] == '/') /* unix:///run/x.sock */
        path++;
    if (path[0] == '\0') {
        snprintf(why, why_size, "has no path; write unix:/path");
        return -EINVAL;
    }
    if (strlen(path) > PATH_ROOM) {
        snprintf(why, why_size, "has a longer path than the %d bytes that unix sockets allow",
                 PATH_ROOM);
        return -EINVAL;
    }
    const char *slot = strstr(path, BIND_SLOT);
    if (slot != NULL && strstr(slot + 1, BIND_SLOT) != NULL) {
        snprintf(why, why_size, "names " BIND_SLOT " twice");
        return -EINVAL;
    }
    struct conf_bind bind = {
        .kind = CONF_BIND_UNIX, .text = strdup(text), .path = strdup(path), .fd = -1
    };
    if (bind.text == NULL || bind.path == NULL) {
        bind_free(&bind);
        return -ENOMEM;
    }
    *out = bind;
    return 0;
}

static int
plain_new(enum conf_bind_kind kind, int fd, const char *text, struct conf_bind *out)
{
    struct conf_bind bind = { .kind = kind, .text = strdup(text), .fd = fd };
    if (bind.text == NULL)
        return -ENOMEM;
    *out = bind;
    return 0;
}

static int
address_parse(const char *text, struct conf_bind *out, char *why, size_t why_size)
{
    char port_default[8];
    snprintf(port_default, sizeof(port_default), "%d", PORT_DEFAULT);
    if (strncmp(text, "unix:", 5) == 0)
        return unix_new(text + 5, text, out, why, why_size);
    if (strncmp(text, "fd://", 5) == 0) {
        long fd = parse_digits(text + 5, INT_MAX);
        if (fd >= 0)
            return plain_new(CONF_BIND_FD, (int)fd, text, out);
        snprintf(why, why_size, "names no descriptor; write fd://3");
        return -EINVAL;
    }
    if (strcmp(text, "systemd") == 0)
        return plain_new(CONF_BIND_SYSTEMD, -1, text, out);
    if (strstr(text, "://") != NULL || text[0] == '\0') {
        snprintf(why, why_size,
                 "is not an address; write host:port, [v6]:port, unix:/path, fd://N or systemd");
        return -EINVAL;
    }
    if (is_digits(text))
        return tcp_new(LOCAL_HOST, text, text, out, why, why_size);

    MEM_OWNED char *host = strdup(text);
    if (host == NULL)
        return -ENOMEM;
    if (host[0] == '[') {
        char *end = strchr(host, ']');
        if (end == NULL || (end[1] != '\0' && end[1] != ':')) {
            snprintf(why, why_size, "is not of the form [v6]:port");
            return -EINVAL;
        }
        *end = '\0';
        if (!is_ipv6(host + 1)) {
            snprintf(why, why_size, "has no address of IPv6 in its brackets");
            return -EINVAL;
        }
        return tcp_new(host + 1, end[1] == ':' ? end + 2 : port_default, text, out, why, why_size);
    }
    char *colon = strchr(host, ':');
    if (colon != NULL && strchr(colon + 1, ':') != NULL) {
        snprintf(why, why_size,
                 "has several colons; an address of IPv6 goes in brackets: [::1]:8000");
        return -EINVAL;
    }
    if (colon != NULL)
        *colon = '\0';
    return tcp_new(host, colon ? colon + 1 : port_default, text, out, why, why_size);
}

int
bind_parse(const char *text, struct conf_bind *out, char *why, size_t why_size)
{
    enum conf_scheme scheme = strncasecmp(text, "https://", 8) == 0  ? CONF_SCHEME_HTTPS
                              : strncasecmp(text, "http://", 7) == 0 ? CONF_SCHEME_HTTP
                                                                     : CONF_SCHEME_ANY;
    if (scheme == CONF_SCHEME_ANY)
        return address_parse(text, out, why, why_size);
    struct conf_bind bind = { 0 };
    int error = address_parse(text + (scheme == CONF_SCHEME_HTTPS ? 8 : 7), &bind, why, why_size);
    if (error < 0)
        return error;
    free(bind.text);
    bind.text = strdup(text);
    bind.scheme = scheme;
    if (bind.kind == CONF_BIND_TCP && bind.text != NULL) {
        *out = bind;
        return 0;
    }
    error = bind.text == NULL ? -ENOMEM : -EINVAL;
    snprintf(why, why_size, "has a scheme, which is only for host:port");
    bind_free(&bind);
    return error;
}

int
bind_from_host(const char *host, const char *port, struct conf_bind *out, char *why,
               size_t why_size)
{
    char text[512], number[8];
    snprintf(number, sizeof(number), "%d", PORT_DEFAULT);
    host = host ? host : LOCAL_HOST;
    port = port ? port : number;
    if (is_ipv6(host))
        snprintf(text, sizeof(text), "[%s]:%s", host, port);
    else
        snprintf(text, sizeof(text), "%.255s:%s", host, port);
    /* Only what bind_parse() reads as host and port: --host unix:/x is not a way to say --uds. */
    if (host[0] != '\0' && strcmp(host, "*") != 0 && host[0] != '[' && !is_host(host) &&
        !is_ipv6(host)) {
        snprintf(why, why_size, "is not an address or a host's name");
        return -EINVAL;
    }
    return bind_parse(text, out, why, why_size);
}

bool
bind_paths_clash(const char *a, const char *b)
{
    const char *in_a = strstr(a, BIND_SLOT), *in_b = strstr(b, BIND_SLOT);
    if (in_a == NULL && in_b != NULL)
        return bind_paths_clash(b, a);
    if (in_a == NULL || in_b != NULL)
        return strcmp(a, b) == 0;
    size_t before = (size_t)(in_a - a), after = strlen(in_a + strlen(BIND_SLOT)), n = strlen(b);
    if (n <= before + after || strncmp(a, b, before) != 0 ||
        strcmp(in_a + strlen(BIND_SLOT), b + n - after) != 0)
        return false;
    return strspn(b + before, "0123456789") >= n - after - before;
}
