/* ask.c: --healthcheck: asks the running server for its health, as HEALTHCHECK of a container does. A program of its own for
 * this (curl, or Python) would have to be in the image, and started every time.
 *
 * The address is health.bind, or else the first of bind that speaks plain HTTP; the path health.ready, or else health.live. Nothing is looked up
 * that the configuration does not say: options of the running server's command line must be repeated. */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "master.h"
#include "sockets.h"

enum { ANSWER_MAX = 8 * 1024 };

/* Waits for events on fd; false when the time is over. */
static bool
wait_for(int fd, short events, int64_t until_ns)
{
    for (;;) {
        int64_t left_ms = (until_ns - clock_ns() + NS_PER_MS - 1) / NS_PER_MS;
        struct pollfd p = { .fd = fd, .events = events };
        int n = left_ms <= 0 ? 0 : poll(&p, 1, (int)left_ms);
        if (n > 0)
            return true;
        if (n == 0 || errno != EINTR)
            return false;
    }
}

/* Returns a connected socket or -errno. */
static int
connect_to(const struct sockaddr *addr, socklen_t n, int64_t until_ns)
{
    FD_OWNED int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, addr, n) < 0) {
        int err = errno;
        socklen_t size = sizeof(err);
        if (err != EINPROGRESS)
            return -err;
        if (!wait_for(fd, POLLOUT, until_ns))
            return -ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0 || err != 0)
            return -err;
    }
    return fd_take(&fd);
}

static int
connect_tcp(const struct conf_bind *bind, int64_t until_ns)
{
    char port[8];
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    const char *host = bind->host;
    /* Who listens on all addresses is asked on this machine's own. */
    if (host[0] == '\0' || strcmp(host, "0.0.0.0") == 0)
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    snprintf(port, sizeof(port), "%u", bind->port);
    int err = getaddrinfo(host, port, &hints, &found);
    if (err != 0) {
        log_operator("health: %s: %s", bind->text, gai_strerror(err));
        return -EHOSTUNREACH;
    }
    int fd = -EHOSTUNREACH;
    for (struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next)
        fd = connect_to(a->ai_addr, a->ai_addrlen, until_ns);
    freeaddrinfo(found);
    return fd;
}

static int
connect_unix(const struct conf_bind *bind, int64_t until_ns)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (strlen(bind->path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    strcpy(addr.sun_path, bind->path);
    return connect_to((const struct sockaddr *)&addr, sizeof(addr), until_ns);
}

/* Sends the request and reads the answer to its end. Returns its length or -errno; out is NUL-terminated. */
static int
exchange(int fd, const char *path, int64_t until_ns, char out[ANSWER_MAX + 1])
{
    MEM_OWNED char *request = NULL;
    int n = asprintf(&request,
                     "GET %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: ringcorn-healthcheck\r\n"
                     "Connection: close\r\n\r\n",
                     path);
    if (n < 0)
        return -ENOMEM;
    for (int sent = 0; sent < n;) {
        ssize_t k = send(fd, request + sent, (size_t)(n - sent), MSG_NOSIGNAL);
        if (k >= 0)
            sent += (int)k;
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
        else if (!wait_for(fd, POLLOUT, until_ns))
            return -ETIMEDOUT;
    }
    int got = 0;
    while (got < ANSWER_MAX) {
        if (!wait_for(fd, POLLIN, until_ns))
            return -ETIMEDOUT;
        ssize_t k = recv(fd, out + got, (size_t)(ANSWER_MAX - got), 0);
        if (k == 0)
            break;
        if (k > 0)
            got += (int)k;
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    out[got] = '\0';
    return got;
}

/* The first of the application's addresses that can be asked: whose port or path is known, and where neither a TLS handshake nor a
 * header of the PROXY protocol comes first. */
static const struct conf_bind *
plain_bind(const struct conf *conf)
{
    for (size_t i = 0; i < conf->binds_n && conf->proxy_protocol == PROXY_PROTOCOL_OFF; i++) {
        const struct conf_bind *b = &conf->binds[i];
        bool is_known = b->kind == CONF_BIND_UNIX || (b->kind == CONF_BIND_TCP && b->port != 0);
        if (is_known && !bind_is_tls(conf, b))
            return b;
    }
    return NULL;
}

int
master_ask(const struct conf *conf)
{
    const char *path = conf->health_ready != NULL ? conf->health_ready : conf->health_live;
    const struct conf_bind *bind = conf->health_bind != NULL ? &conf->health_at : plain_bind(conf);
    char answer[ANSWER_MAX + 1];
    int status = 0;
    if (path == NULL) {
        log_operator("health: nothing can be asked, as health.ready and health.live are off");
        return EXIT_CODE_SYSTEM;
    }
    if (bind == NULL) {
        log_operator("health: %s cannot be asked%s; set health.bind to an address of its own",
                     conf->binds[0].text,
                     conf->proxy_protocol != PROXY_PROTOCOL_OFF
                         ? ", as connections begin with a header of the PROXY protocol"
                     : bind_is_tls(conf, &conf->binds[0]) ? ", as it speaks TLS"
                                                          : "");
        return EXIT_CODE_SYSTEM;
    }
    int64_t until_ns = clock_ns() + conf->health_timeout_ms * NS_PER_MS;
    FD_OWNED int fd =
        bind->kind == CONF_BIND_TCP ? connect_tcp(bind, until_ns) : connect_unix(bind, until_ns);
    int n = fd < 0 ? fd : exchange(fd, path, until_ns, answer);
    if (n == -ETIMEDOUT) {
        log_operator("health: %s: no answer within %lld ms (health.timeout)", bind->text,
                     (long long)conf->health_timeout_ms);
        return EXIT_CODE_SYSTEM;
    }
    if (n < 0) {
        log_operator("health: %s: %s", bind->text, strerror(-n));
        return EXIT_CODE_SYSTEM;
    }
    const char *body = strstr(answer, "\r\n\r\n");
    if (sscanf(answer, "HTTP/1.%*1[01] %3d ", &status) != 1 || body == NULL) {
        log_operator("health: %s: the answer is not HTTP/1.1", bind->text);
        return EXIT_CODE_SYSTEM;
    }
    printf("%s%s: %d\n%s", bind->text, path, status, body + 4);
    return status == 200 ? EXIT_CODE_OK : EXIT_CODE_SYSTEM;
}
