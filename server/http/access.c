/* access.c: the access log: Common Log Format and the time it took.
 *     127.0.0.1 - - [31/Jan/2026:12:00:00 +0000] "GET /path?query HTTP/1.1" 200 123 0.000456
 * Lines are gathered and written once a turn. Whoever reads the log must not stop the server: what
 * is not a regular file is written only as far as it takes it at once, and when too much waits,
 * lines are dropped and counted. What comes from the network is escaped as nginx does it, \xNN, so
 * that a line stays a line. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "chars.h"
#include "h1.h"

enum {
    WAITING_MAX = 1024 * 1024, /* bytes kept for a reader that is slow */
    /* PIPE_BUF: a pipe that polls writable takes so much without blocking */
    PIECE = 4096,
    REQUEST_MAX = 8 * 1024, /* of a request line */
    LINE_REST = 256,        /* all but the request line */
};

static void
time_refresh(struct http_own *own)
{
    time_t now = time(NULL);
    if (now == own->access_s)
        return;
    struct tm tm;
    localtime_r(&now, &tm);
    static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    long zone = tm.tm_gmtoff / 60;
    snprintf(own->access_time, sizeof(own->access_time), "%02u/%s/%04u:%02u:%02u:%02u %c%02u%02u",
             (unsigned)tm.tm_mday % 100, months[tm.tm_mon], (unsigned)(tm.tm_year + 1900) % 10000,
             (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100,
             zone < 0 ? '-' : '+', (unsigned)labs(zone) / 60 % 100, (unsigned)labs(zone) % 60);
    own->access_s = now;
}

/* Room for 4 bytes of each. Returns where it ends. */
static char *
escape(char *to, struct slice s)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\') {
            *to++ = '\\';
            *to++ = 'x';
            *to++ = hex[c >> 4];
            *to++ = hex[c & 15];
        } else {
            *to++ = (char)c;
        }
    }
    return to;
}

/* The request line, as long as the block holds it. */
static struct slice
request_line(struct h1 *h)
{
    const struct http_request *req = &h->r->req;
    struct conn *c = &h->conn;
    struct slice line = { "", 0 };
    if (h->r->line != NULL)
        return (struct slice){ h->r->line, h->r->line_n };
    if (c->in != NULL) {
        /* Undecoded input may begin behind the head already. */
        const char *end = c->in->data + c->in_end;
        line.p = req->method.p != NULL ? req->method.p : c->in->data + c->in_start;
        line.n = (size_t)(end - line.p);
        const char *lf = memchr(line.p, '\n', line.n);
        if (lf != NULL)
            line.n = (size_t)(lf - line.p);
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
    }
    if (line.n > REQUEST_MAX)
        line.n = REQUEST_MAX;
    return line;
}

void
access_keep_line(struct h1 *h)
{
    struct slice line = request_line(h);
    char *copy = malloc(line.n + 1);
    if (copy == NULL)
        return; /* the line will say "-" */
    memcpy(copy, line.p, line.n);
    h->r->line = copy;
    h->r->line_n = (uint16_t)line.n;
}

static char *
put_peer(struct h1 *h, char *p, size_t room)
{
    const struct net_address *client = &h->r->req.forwarded.client;
    if (client->family != AF_UNSPEC)
        return p + net_address_text(client, p);
    const struct sockaddr_storage *addr = h1_peer(h);
    const void *ip = addr->ss_family == AF_INET
                         ? (const void *)&((const struct sockaddr_in *)addr)->sin_addr
                         : (const void *)&((const struct sockaddr_in6 *)addr)->sin6_addr;
    if ((addr->ss_family == AF_INET || addr->ss_family == AF_INET6) &&
        inet_ntop(addr->ss_family, ip, p, (socklen_t)room) != NULL)
        return p + strlen(p);
    struct slice text = addr->ss_family == AF_UNIX ? SLICE("unix:") : SLICE("-");
    memcpy(p, text.p, text.n);
    return p + text.n;
}

void
access_note(struct h1 *h)
{
    struct http_own *own = &h->app->own;
    const struct h1_req *r = h->r;
    struct slice line = request_line(h);
    if (own->access.n > WAITING_MAX || buf_reserve(&own->access, line.n * 4 + LINE_REST) < 0) {
        own->access_lost++;
        return;
    }
    time_refresh(own);
    char *p = own->access.p + own->access.n;
    p = put_peer(h, p, INET6_ADDRSTRLEN);
    p += sprintf(p, " - - [%s] \"", own->access_time);
    p = line.n > 0 ? escape(p, line) : (*p = '-', p + 1);
    int64_t took_us = (clock_ns() - r->began_ns) / 1000;
    /* 499, as nginx has it: the client went before there was an answer. */
    int status = r->sending ? r->status : 499;
    p += sprintf(p, "\" %d %llu %lld.%06lld\n", status,
                 (unsigned long long)(r->sending && !r->no_body ? r->sent : 0),
                 (long long)(took_us / 1000000), (long long)(took_us % 1000000));
    own->access.n = (size_t)(p - own->access.p);
}

static bool
takes_more(const struct http_app *app)
{
    struct pollfd fd = { .fd = app->access_fd, .events = POLLOUT };
    return app->own.access_is_file || poll(&fd, 1, 0) > 0;
}

void
access_flush(struct http_app *app)
{
    struct http_own *own = &app->own;
    size_t done = 0;
    while (done < own->access.n && takes_more(app)) {
        size_t n = own->access.n - done;
        if (!own->access_is_file && n > PIECE) {
            /* Whole lines, so that those of several workers do not mix. */
            const char *end = memrchr(own->access.p + done, '\n', PIECE);
            n = end != NULL ? (size_t)(end + 1 - own->access.p) - done : (size_t)PIECE;
        }
        ssize_t wrote = write(app->access_fd, own->access.p + done, n);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0 && errno == EAGAIN)
            break;
        if (wrote <= 0) { /* a full disk or a closed pipe: nobody reads these lines */
            log_error("cannot write the access log (%s): %zu bytes lost", strerror(errno),
                      own->access.n - done);
            done = own->access.n;
            break;
        }
        done += (size_t)wrote;
    }
    memmove(own->access.p, own->access.p + done, own->access.n - done);
    own->access.n -= done;
    if (own->access_lost > 0 && own->access.n < WAITING_MAX) {
        log_warning("the access log was not read fast enough: %llu lines lost",
                    (unsigned long long)own->access_lost);
        own->access_lost = 0;
    }
}
