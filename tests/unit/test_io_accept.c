/* test_io_accept.c: listeners. */
#include <sys/resource.h>
#include <sys/un.h>

#include "io_test.h"

/* io_accept() or io_accept_with_care(): they differ in what a cancel leaves in the kernel's queue, and in nothing else. */
static void (*take)(struct io *io, struct io_op *op, int listen_fd) = io_accept;

static void
hang_up(struct rec *r, int *clients, int n)
{
    for (int i = 0; i < r->fds_n; i++)
        close(r->fds[i]);
    for (int i = 0; i < n; i++)
        close(clients[i]);
    r->fds_n = 0;
}

static void
test_one(void)
{
    static struct rec r;
    struct sockaddr_in addr;
    int fd = make_listener(&addr, 16);
    rec_init(&r, rec_accept_fn);
    take(io, &r.op, fd);
    settle();
    ok(r.calls == 0, "%s: nobody there", io_is);
    int client = dial(&addr);
    WAIT_UNTIL(r.calls > 0);
    ok(r.calls == 1 && r.fds_n == 1 && r.op.armed, "%s: one connection, still armed", io_is);
    if (r.fds_n == 1) {
        ok(fcntl(r.fds[0], F_GETFL) & O_NONBLOCK, "%s: it does not block", io_is);
        ok(fcntl(r.fds[0], F_GETFD) & FD_CLOEXEC, "%s: nor outlive an exec", io_is);
        char c = 0;
        ok(write(client, "x", 1) == 1 &&
               poll(&(struct pollfd){ .fd = r.fds[0], .events = POLLIN }, 1, 1000) == 1 &&
               read(r.fds[0], &c, 1) == 1 && c == 'x',
           "%s: it is the connection", io_is);
    }
    io_cancel(io, &r.op);
    ok(r.ends == 0, "%s: io_cancel() does not call back", io_is);
    WAIT_UNTIL(r.ends > 0);
    ok(r.ends == 1 && r.res == -ECANCELED, "%s: cancelled (%d)", io_is, r.res);
    int late = dial(&addr);
    settle();
    ok(r.fds_n == 1, "%s: a cancelled listener accepts nobody", io_is);
    take(io, &r.op, fd);
    WAIT_UNTIL(r.fds_n == 2);
    ok(r.fds_n == 2, "%s: armed again it takes who waited", io_is);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends == 2);
    hang_up(&r, (int[]){ client, late }, 2);
    close(fd);
}

/* At most 64 a wait, none lost, none of another listener starved. */
static void
test_share(void)
{
    enum { N = 300 };
    static struct rec a, b;
    static int clients[N + 1];
    struct sockaddr_in addr_a, addr_b;
    int fd_a = make_listener(&addr_a, 1024);
    int fd_b = make_listener(&addr_b, 1024);
    rec_init(&a, rec_accept_fn);
    rec_init(&b, rec_accept_fn);
    for (int i = 0; i < N; i++)
        clients[i] = dial(&addr_a);
    clients[N] = dial(&addr_b);
    take(io, &a.op, fd_a);
    take(io, &b.op, fd_b);
    int waits = 0, too_many = 0, slept = 0;
    while (a.fds_n < N && waits < 100) {
        int before = a.fds_n;
        int64_t start = clock_ns();
        io_wait(io, 200 * NS_PER_MS);
        waits++;
        too_many += a.fds_n - before > 64;
        slept += clock_ns() - start > 150 * NS_PER_MS;
        if (waits == 2)
            ok(b.fds_n == 1, "%s: the other listener has its turn", io_is);
    }
    ok(a.fds_n == N, "%s: all %d accepted (%d) in %d waits", io_is, N, a.fds_n, waits);
    ok(too_many == 0, "%s: never more than 64 a wait", io_is);
    ok(slept == 0, "%s: no sleep while some are waiting", io_is);
    io_cancel(io, &a.op);
    io_cancel(io, &b.op);
    WAIT_UNTIL(a.ends && b.ends);
    ok(a.ends == 1 && b.ends == 1, "%s: both ended", io_is);
    hang_up(&b, NULL, 0);
    hang_up(&a, clients, N + 1);
    close(fd_a);
    close(fd_b);
}

/* A cancel in the middle of a rush loses nobody that was taken from the kernel. */
static void
on_accept_cancel(struct rec *r, int res, unsigned flags)
{
    (void)res;
    if ((flags & IO_MORE) && r->fds_n == 10)
        io_cancel(io, &r->op);
}

static void
test_cancel_in_rush(void)
{
    enum { N = 200 };
    static struct rec r;
    static int clients[N];
    struct sockaddr_in addr;
    int fd = make_listener(&addr, 1024);
    rec_init(&r, rec_accept_fn);
    r.hook = on_accept_cancel;
    for (int i = 0; i < N; i++)
        clients[i] = dial(&addr);
    take(io, &r.op, fd);
    WAIT_UNTIL(r.ends > 0);
    ok(r.ends == 1 && !r.op.armed, "%s: ended", io_is);
    if (take == io_accept_with_care)
        ok(r.fds_n == 10, "%s: with care, after exactly 10 connections (%d)", io_is, r.fds_n);
    else
        ok(r.fds_n >= 10, "%s: after %d connections", io_is, r.fds_n);
    int taken = r.fds_n, alive = 0;
    r.hook = NULL;
    take(io, &r.op, fd);
    WAIT_UNTIL(r.fds_n == N);
    ok(r.fds_n == N, "%s: the next life takes the other %d", io_is, N - taken);
    for (int i = 0; i < r.fds_n; i++)
        alive += write(r.fds[i], "x", 1) == 1;
    ok(alive == N, "%s: all are alive", io_is);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends == 2);
    hang_up(&r, clients, N);
    close(fd);
}

/* io_close() with accepted connections still in its hands. */
static void
test_close_in_rush(void)
{
    enum { N = 200 };
    static struct rec r;
    static int clients[N];
    struct sockaddr_in addr;
    int fd = make_listener(&addr, 1024);
    rec_init(&r, rec_accept_fn);
    for (int i = 0; i < N; i++)
        clients[i] = dial(&addr);
    take(io, &r.op, fd);
    io_wait(io, 100 * NS_PER_MS);
    ok(r.fds_n > 0, "%s: some were accepted", io_is);
    hang_up(&r, clients, N);
    close(fd);
    /* each_backend() closes the instance now and counts descriptors. */
}

static void
test_no_descriptors(void)
{
    static struct rec r;
    struct sockaddr_in addr;
    struct rlimit old, low;
    int clients[3];
    int fd = make_listener(&addr, 16);
    for (int i = 0; i < 3; i++)
        clients[i] = dial(&addr);
    rec_init(&r, rec_accept_fn);
    getrlimit(RLIMIT_NOFILE, &old);
    int next = dup(fd); /* the lowest free number */
    close(next);
    low = old;
    low.rlim_cur = (rlim_t)next + 1;
    setrlimit(RLIMIT_NOFILE, &low);
    take(io, &r.op, fd);
    WAIT_UNTIL(r.ends > 0);
    setrlimit(RLIMIT_NOFILE, &old);
    ok(r.fds_n == 1, "%s: one descriptor was free and used", io_is);
    ok(r.ends == 1 && r.res == -EMFILE && !r.op.armed, "%s: then -EMFILE ends it (%d)", io_is,
       r.res);
    take(io, &r.op, fd);
    WAIT_UNTIL(r.fds_n == 3);
    ok(r.fds_n == 3, "%s: armed again, it goes on (%d)", io_is, r.fds_n);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends == 2);
    hang_up(&r, clients, 3);
    close(fd);
}

/* Two instances on one unix socket, as workers share it: each connection is accepted once. */
static void
test_shared(void)
{
    enum { N = 200 };
    static struct rec a, b;
    static int clients[N];
    char why[IO_WHY_SIZE];
    struct io *first = io, *second;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    /* An abstract name: no file to remove. */
    int len = snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "ringcorn-test-%d-%s",
                       getpid(), io_is);
    socklen_t addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ok(bind(fd, (struct sockaddr *)&addr, addr_len) == 0 && listen(fd, 512) == 0,
       "%s: a unix socket", io_is);
    ok(io_open(strcmp(io_is, "epoll") == 0 ? IO_EPOLL : IO_URING, &second, why) == 0,
       "%s: a second instance", io_is);
    rec_init(&a, rec_accept_fn);
    rec_init(&b, rec_accept_fn);
    take(first, &a.op, fd);
    take(second, &b.op, fd);
    io_wait(first, 0);
    io_wait(second, 0);
    for (int i = 0; i < N; i++) {
        clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(clients[i], (struct sockaddr *)&addr, addr_len) < 0)
            ok(0, "%s: connect", io_is);
        io_wait(i % 2 ? first : second, 0);
    }
    int64_t until = clock_ns() + 2 * NS_PER_S;
    while (a.fds_n + b.fds_n < N && clock_ns() < until) {
        io_wait(first, NS_PER_MS);
        io_wait(second, NS_PER_MS);
    }
    settle();
    ok(a.fds_n + b.fds_n == N, "%s: each of %d connections accepted once (%d and %d)", io_is, N,
       a.fds_n, b.fds_n);
    io_cancel(first, &a.op);
    WAIT_UNTIL(a.ends);
    io_close(second);
    hang_up(&b, NULL, 0);
    hang_up(&a, clients, N);
    close(fd);
}

static void
test_bad(void)
{
    static struct rec r;
    int p[2];
    struct sockaddr_in addr;
    rec_init(&r, rec_accept_fn);
    take(io, &r.op, 1000);
    WAIT_UNTIL(r.ends == 1);
    ok(r.res == -EBADF, "%s: a closed descriptor (%d)", io_is, r.res);
    make_pair(p);
    ok(write(p[1], "x", 1) == 1, "%s: written", io_is);
    take(io, &r.op, p[0]);
    WAIT_UNTIL(r.ends == 2);
    ok(r.ends == 2 && r.res < 0, "%s: a socket that does not listen (%d)", io_is, r.res);
    close(p[0]);
    close(p[1]);
    int fd = make_listener(&addr, 16);
    take(io, &r.op, fd);
    settle();
    shutdown(fd, SHUT_RDWR);
    WAIT_UNTIL(r.ends == 3);
    ok(r.ends == 3 && r.res < 0, "%s: a listener that was shut down (%d)", io_is, r.res);
    close(fd);
    ok(r.fds_n == 0, "%s: no connection came of it", io_is);
}

int
main(void)
{
    /* Connections that are reset before the accept (hang_up() of clients that were never taken) must not end us. */
    signal(SIGPIPE, SIG_IGN);
    EACH_BACKEND(test_one);
    EACH_BACKEND(test_share);
    EACH_BACKEND(test_cancel_in_rush);
    EACH_BACKEND(test_close_in_rush);
    EACH_BACKEND(test_no_descriptors);
    EACH_BACKEND(test_shared);
    EACH_BACKEND(test_bad);
    take = io_accept_with_care;
    EACH_BACKEND(test_one);
    EACH_BACKEND(test_share);
    EACH_BACKEND(test_cancel_in_rush);
    EACH_BACKEND(test_close_in_rush);
    EACH_BACKEND(test_no_descriptors);
    EACH_BACKEND(test_shared);
    EACH_BACKEND(test_bad);
    return tap_done();
}
