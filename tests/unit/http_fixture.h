/* http_fixture.h: the C application (tests/tools/c_app.h) on a unix or TCP socket, and clients of
 * it, all in one thread: the client's calls run turns of the server while they wait. */
#ifndef RINGCORN_TESTS_HTTP_FIXTURE_H
#define RINGCORN_TESTS_HTTP_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "../tools/c_app.h"
#include "tap.h"

enum { FIX_WAIT_MS = 5000 };

struct fix {
    struct io *io;
    struct c_app app;
    struct listener *listener;
    struct sockaddr_storage addr;
    socklen_t addr_n;
    int listen_fd;
};

/* app.conf and app.http.access_fd may be changed between fix_init() and fix_open(). */
static void
fix_init(struct fix *f)
{
    *f = (struct fix){ .listen_fd = -1 };
    c_app_conf(&f->app);
}

/* Returns false where this backend cannot be had. */
static bool
fix_open(struct fix *f, enum io_backend backend, int family)
{
    char why[IO_WHY_SIZE];
    if (io_open(backend, &f->io, why) < 0)
        return false;
    f->listen_fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (family == AF_UNIX) { /* an abstract name of the kernel's choice */
        f->addr.ss_family = AF_UNIX;
        f->addr_n = sizeof(sa_family_t);
    } else {
        *(struct sockaddr_in *)&f->addr =
            (struct sockaddr_in){ .sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        f->addr_n = sizeof(struct sockaddr_in);
    }
    if (bind(f->listen_fd, (struct sockaddr *)&f->addr, f->addr_n) < 0 ||
        listen(f->listen_fd, 1024) < 0)
        abort();
    f->addr_n = sizeof(f->addr);
    getsockname(f->listen_fd, (struct sockaddr *)&f->addr, &f->addr_n);
    c_app_init(&f->app, f->io);
    f->listener = listener_open(&f->app.net, f->listen_fd, false);
    return f->listener != NULL;
}

static void
fix_turn(struct fix *f, int ms)
{
    c_app_turn(&f->app, f->io, ms * NS_PER_MS);
}

/* Turns until nothing happens any more. */
static void
fix_settle(struct fix *f)
{
    for (int i = 0; i < 6; i++)
        fix_turn(f, 0);
}

static void
fix_run_ms(struct fix *f, int ms)
{
    int64_t end = clock_ns() + ms * NS_PER_MS;
    while (clock_ns() < end)
        fix_turn(f, 5);
}

/* Takes everything down; checks that nothing is left alive. */
static void
fix_close(struct fix *f, const char *what)
{
    if (f->listen_fd >= 0)
        close(f->listen_fd);
    io_close(f->io);
    c_app_fini(&f->app);
    bool clean = live.conns == 0 && live.chunks == 0 && live.held == 0 && live.read_blocks == 0;
    if (!clean || f->app.http.in_hand != 0)
        diag("%s: %ld connections, %ld chunks, %ld held, %ld blocks, %u in hand", what, live.conns,
             live.chunks, live.held, live.read_blocks, f->app.http.in_hand);
    ok(clean && f->app.http.in_hand == 0 && f->app.lent == f->app.released, "%s: nothing is left",
       what);
}

static int
fix_connect(struct fix *f)
{
    int fd = socket(f->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&f->addr, f->addr_n) < 0 && errno != EINPROGRESS)
        perror("connect");
    return fd;
}

/* Sends all of it, unless the server closes. */
static bool
fix_send(struct fix *f, int fd, const char *p, size_t n)
{
    int64_t end = clock_ns() + FIX_WAIT_MS * NS_PER_MS;
    while (n > 0 && clock_ns() < end) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k > 0)
            p += k, n -= (size_t)k;
        else if (errno == EAGAIN || errno == ENOTCONN)
            fix_turn(f, 1);
        else
            return false;
    }
    return n == 0;
}

/* What a client has read. */
struct reply {
    char *p;
    size_t n;
    bool eof, reset;
    int status;       /* of the first answer; 0 = none */
    const char *body; /* behind the first head */
    size_t body_n;
};

/* Where a whole first answer ends, as far as its head tells; 0 = not yet, or only the end tells. */
static size_t
reply_whole(struct reply *r, bool is_head)
{
    static const char mark[] = "\r\n\r\n";
    const char *end = r->n ? memmem(r->p, r->n, mark, 4) : NULL;
    if (end == NULL)
        return 0;
    size_t head = (size_t)(end + 4 - r->p);
    r->body = r->p + head;
    r->body_n = r->n - head;
    sscanf(r->p, "HTTP/1.1 %d", &r->status);
    if (is_head || r->status == 204 || r->status == 304)
        return head;
    char *length = strcasestr(r->p, "\r\ncontent-length: ");
    if (length != NULL && length < end) {
        size_t n = strtoull(length + 18, NULL, 10);
        return r->n >= head + n ? head + n : 0;
    }
    char *chunked = strcasestr(r->p, "\r\ntransfer-encoding: chunked");
    if (chunked != NULL && chunked < end) {
        const char *last = memmem(r->body, r->body_n, "0\r\n\r\n", 5);
        return last != NULL ? (size_t)(last + 5 - r->p) : 0;
    }
    return 0;
}

enum { UNTIL_ANSWER, UNTIL_HEAD_ANSWER, UNTIL_END };

/* Reads until a whole answer or the end has come, or time is up. free(r->p) is the caller's. */
static struct reply
fix_read(struct fix *f, int fd, int until)
{
    struct reply r = { 0 };
    size_t cap = 65536;
    int64_t end = clock_ns() + FIX_WAIT_MS * NS_PER_MS;
    r.p = calloc(1, cap + 1);
    while (clock_ns() < end) {
        if (cap - r.n < 32768) {
            r.p = realloc(r.p, (cap *= 2) + 1);
        }
        ssize_t k = recv(fd, r.p + r.n, cap - r.n, 0);
        if (k > 0) {
            r.n += (size_t)k;
            r.p[r.n] = '\0';
        } else if (k == 0) {
            r.eof = true;
        } else if (errno == EAGAIN || errno == ENOTCONN) {
            fix_turn(f, 1);
            continue;
        } else {
            r.reset = true;
        }
        size_t whole = reply_whole(&r, until == UNTIL_HEAD_ANSWER);
        if (r.eof || r.reset || (until != UNTIL_END && whole > 0))
            break;
    }
    return r;
}

/* Whether the server closes its side now. */
static bool
fix_is_closed(struct fix *f, int fd)
{
    struct reply r = fix_read(f, fd, UNTIL_END);
    free(r.p);
    return r.eof || r.reset;
}

#endif
