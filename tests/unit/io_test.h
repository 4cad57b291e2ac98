/* io_test.h: what the tests of io/ share: a backend to test, operations that record what they are told, and sockets. */
#ifndef RINGCORN_TESTS_IO_TEST_H
#define RINGCORN_TESTS_IO_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/io.h"
#include "tap.h"

/* An operation that remembers. */
struct rec {
    struct io_op op;
    int calls;     /* of the callback */
    int ends;      /* without IO_MORE */
    int res;       /* the latest */
    int bits;      /* all results that were not negative, ored */
    int fds[4096]; /* of accepts */
    int fds_n;
    void (*hook)(struct rec *rec, int res, unsigned flags);
    void *arg;
};

static struct io *io;          /* the backend under test */
static const char *io_is = ""; /* and its name, for the names of tests */

__attribute__((unused)) static void
rec_fn(struct io_op *op, int res, unsigned flags)
{
    struct rec *rec = CONTAINER_OF(op, struct rec, op);
    rec->calls++;
    rec->ends += !(flags & IO_MORE);
    rec->res = res;
    if (res > 0)
        rec->bits |= res;
    if (rec->hook != NULL)
        rec->hook(rec, res, flags);
}

__attribute__((unused)) static void
rec_accept_fn(struct io_op *op, int res, unsigned flags)
{
    struct rec *rec = CONTAINER_OF(op, struct rec, op);
    if (res >= 0 && rec->fds_n < (int)ARRAY_LEN(rec->fds))
        rec->fds[rec->fds_n++] = res;
    rec_fn(op, res, flags);
}

__attribute__((unused)) static void
rec_init(struct rec *rec, io_fn fn)
{
    memset(rec, 0, sizeof(*rec));
    io_op_init(&rec->op, fn);
}

/* A copy of cond is evaluated after each wait, for a second at most. */
#define WAIT_UNTIL(cond) WAIT_UNTIL_MS(cond, 1000)
#define WAIT_UNTIL_MS(cond, ms)                                                                    \
    do {                                                                                           \
        int64_t until_ = clock_ns() + (ms) * NS_PER_MS;                                            \
        while (!(cond) && clock_ns() < until_)                                                     \
            io_wait(io, 20 * NS_PER_MS);                                                           \
    } while (0)

/* Nothing more should come: looks a few times, some milliseconds apart. */
__attribute__((unused)) static void
settle(void)
{
    for (int i = 0; i < 4; i++)
        io_wait(io, 2 * NS_PER_MS);
    io_wait(io, 0);
}

__attribute__((unused)) static void
make_pair(int pair[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
        perror("socketpair");
        exit(1);
    }
}

/* A listening socket on a free port of 127.0.0.1. */
__attribute__((unused)) static int
make_listener(struct sockaddr_in *addr, int backlog)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t len = sizeof(*addr);
    *addr =
        (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (fd < 0 || bind(fd, (struct sockaddr *)addr, sizeof(*addr)) < 0 || listen(fd, backlog) < 0 ||
        getsockname(fd, (struct sockaddr *)addr, &len) < 0) {
        perror("listener");
        exit(1);
    }
    return fd;
}

__attribute__((unused)) static int
dial(const struct sockaddr_in *addr)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

/* A connected pair of TCP sockets, both non-blocking. */
__attribute__((unused)) static void
make_tcp_pair(int pair[2])
{
    struct sockaddr_in addr;
    int listener = make_listener(&addr, 1);
    pair[1] = dial(&addr);
    do {
        pair[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (pair[0] < 0 && errno == EAGAIN);
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    close(listener);
}

/* Descriptors open in this process. */
__attribute__((unused)) static int
open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Runs a test on each backend, in a fresh instance, and checks that it leaves no descriptor behind. */
__attribute__((unused)) static void
each_backend(void (*test)(void), const char *name)
{
    static const enum io_backend all[] = { IO_URING, IO_EPOLL };
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        char why[IO_WHY_SIZE];
        int before = open_fds();
        int err = io_open(all[i], &io, why);
        if (err == -EPERM || err == -ENOSYS) {
            diag("skipped on this machine: %s", why);
            continue;
        }
        if (!ok(err == 0, "%s: opened (%s)", name, why))
            continue;
        io_is = io_name(io);
        test();
        io_close(io);
        int after = open_fds();
        ok(before == after, "%s: %s: no descriptor left behind (%d, %d before)", name, io_is, after,
           before);
    }
}

#define EACH_BACKEND(test) each_backend(test, #test)

#endif
