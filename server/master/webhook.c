/* webhook.c: posts an event to events.webhook: one request of HTTP/1.1, over TLS where the URL says https, and no more than that: no
 * redirects, no proxies, no second try. Certificates are checked against the system's authorities (or SSL_CERT_FILE and SSL_CERT_DIR).
 *
 * It blocks, in a process that is there for nothing else and is ended when it takes too long. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/base.h"
#include "events.h"

#ifndef RINGCORN_VERSION
#define RINGCORN_VERSION "0.1.0.dev0"
#endif

enum { ANSWER_ROOM = 512, STATUS_AT = 9 /* behind "HTTP/1.1 " */ };

struct hook {
    struct conf_url url;
    int fd;
    SSL *ssl; /* NULL = plain */
    char *why;
    size_t why_size;
};

static int
failed(struct hook *h, const char *what, const char *detail)
{
    snprintf(h->why, h->why_size, "%s%s%s", what, detail != NULL ? ": " : "",
             detail != NULL ? detail : "");
    return -1;
}

/* To the first of the host's addresses that answers. */
static int
dial(struct hook *h)
{
    char port[8];
    snprintf(port, sizeof(port), "%u", h->url.port);
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    int err = getaddrinfo(h->url.host, port, &hints, &found);
    if (err != 0)
        return failed(h, "its name is not found", gai_strerror(err));
    err = 0;
    for (const struct addrinfo *a = found; a != NULL && h->fd < 0; a = a->ai_next) {
        h->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (h->fd >= 0 && connect(h->fd, a->ai_addr, a->ai_addrlen) == 0)
            break;
        err = errno;
        if (h->fd >= 0)
            close(fd_take(&h->fd));
    }
    freeaddrinfo(found);
    return h->fd >= 0 ? 0 : failed(h, "no connection", strerror(err));
}

static int
tls_failed(struct hook *h, const char *what)
{
    long verified = h->ssl != NULL ? SSL_get_verify_result(h->ssl) : X509_V_OK;
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    return failed(h, what,
                  verified != X509_V_OK ? X509_verify_cert_error_string(verified) : reason);
}

static int
shake_hands(struct hook *h)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (ctx == NULL || SSL_CTX_set_default_verify_paths(ctx) != 1 ||
        SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1)
        return tls_failed(h, "TLS cannot be used");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    h->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    if (h->ssl == NULL)
        return tls_failed(h, "TLS cannot be used");
    X509_VERIFY_PARAM *param = SSL_get0_param(h->ssl);
    bool is_address = X509_VERIFY_PARAM_set1_ip_asc(param, h->url.host) == 1;
    if (!is_address && (SSL_set1_host(h->ssl, h->url.host) != 1 ||
                        SSL_set_tlsext_host_name(h->ssl, h->url.host) != 1))
        return tls_failed(h, "TLS cannot be used");
    ERR_clear_error();
    if (SSL_set_fd(h->ssl, h->fd) != 1 || SSL_connect(h->ssl) != 1)
        return tls_failed(h, "no TLS connection");
    return 0;
}

static ssize_t
put(struct hook *h, const char *p, size_t n)
{
    return h->ssl != NULL ? SSL_write(h->ssl, p, (int)n) : send(h->fd, p, n, MSG_NOSIGNAL);
}

static ssize_t
get(struct hook *h, char *to, size_t room)
{
    return h->ssl != NULL ? SSL_read(h->ssl, to, (int)room) : recv(h->fd, to, room, 0);
}

static int
put_all(struct hook *h, struct slice s)
{
    while (s.n > 0) {
        ssize_t n = put(h, s.p, s.n);
        if (n < 0 && errno == EINTR && h->ssl == NULL)
            continue;
        if (n <= 0)
            return failed(h, "the connection broke", NULL);
        s.p += n;
        s.n -= (size_t)n;
    }
    return 0;
}

static int
ask(struct hook *h, struct slice body)
{
    BUF_OWNED struct buf head = { 0 };
    bool is_v6 = strchr(h->url.host, ':') != NULL;
    bool is_usual = h->url.port == (h->url.is_tls ? 443 : 80);
    char port[8] = "";
    if (!is_usual)
        snprintf(port, sizeof(port), ":%u", h->url.port);
    if (buf_printf(&head,
                   "POST %s HTTP/1.1\r\nHost: %s%s%s%s\r\nUser-Agent: ringcorn/" RINGCORN_VERSION
                   "\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                   "Connection: close\r\n\r\n",
                   h->url.target, is_v6 ? "[" : "", h->url.host, is_v6 ? "]" : "", port,
                   body.n) < 0)
        return failed(h, "no memory", NULL);
    return put_all(h, (struct slice){ head.p, head.n }) < 0 || put_all(h, body) < 0 ? -1 : 0;
}

/* Only the status counts. */
static int
hear(struct hook *h)
{
    char text[ANSWER_ROOM];
    size_t n = 0;
    while (n < sizeof(text) - 1 && memchr(text, '\n', n) == NULL) {
        ssize_t more = get(h, text + n, sizeof(text) - 1 - n);
        if (more < 0 && errno == EINTR && h->ssl == NULL)
            continue;
        if (more <= 0)
            break;
        n += (size_t)more;
    }
    text[n] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
    if (strncmp(text, "HTTP/1.", 7) != 0 || strlen(text) < STATUS_AT + 3)
        return failed(h, "its answer is not HTTP", NULL);
    if (text[STATUS_AT] != '2')
        return failed(h, "it answered", text + STATUS_AT);
    return 0;
}

int
webhook_post(const char *url, struct slice body, char *why, size_t why_size)
{
    struct hook h = { .fd = -1, .why = why, .why_size = why_size };
    int err = conf_url_parse(url, &h.url, why, why_size);
    if (err == 0)
        err = dial(&h);
    if (err == 0 && h.url.is_tls)
        err = shake_hands(&h);
    if (err == 0)
        err = ask(&h, body);
    if (err == 0)
        err = hear(&h);
    SSL_free(h.ssl);
    if (h.fd >= 0)
        close(h.fd);
    return err < 0 ? -1 : 0;
}
