/* test_io_watch.c: readiness of connected sockets. */
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "io_test.h"

static void
test_data_and_end(void)
{
    int p[2];
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    io_watch(io, &r.op, p[0]);
    settle();
    ok(r.calls == 0, "%s: a quiet socket says nothing", io_is);
    ok(write(p[1], "hello", 5) == 5, "%s: written", io_is);
    ok(r.calls == 0, "%s: no callback outside io_wait()", io_is);
    WAIT_UNTIL(r.calls > 0);
    ok(r.res & POLLIN, "%s: data is announced", io_is);
    int calls = r.calls;
    settle();
    ok(r.calls == calls, "%s: unread data is not announced again", io_is);
    ok(write(p[1], "more", 4) == 4, "%s: written again", io_is);
    WAIT_UNTIL(r.calls > calls);
    ok(r.calls > calls, "%s: the next arrival is announced though the first was not read", io_is);
    shutdown(p[1], SHUT_WR);
    WAIT_UNTIL(r.bits & POLLRDHUP);
    ok(r.bits & POLLRDHUP, "%s: the end of the peer's output is POLLRDHUP", io_is);
    ok(r.ends == 0 && r.op.armed, "%s: still armed", io_is);
    close(p[1]);
    WAIT_UNTIL(r.bits & POLLHUP);
    ok(r.bits & POLLHUP, "%s: a closed peer is POLLHUP", io_is);
    settle();
    calls = r.calls;
    settle();
    ok(r.calls == calls, "%s: a dead peer does not repeat itself", io_is);
    io_cancel(io, &r.op);
    ok(r.ends == 0, "%s: io_cancel() does not call back", io_is);
    WAIT_UNTIL(r.ends > 0);
    ok(r.ends == 1 && r.res == -ECANCELED && !r.op.armed, "%s: the cancel ends it (%d)", io_is,
       r.res);
    close(p[0]);
}

static void
test_readable_before(void)
{
    int p[2];
    struct rec r;
    make_tcp_pair(p);
    rec_init(&r, rec_fn);
    ok(write(p[1], "x", 1) == 1, "%s: written before the watch", io_is);
    close(p[1]);
    io_watch(io, &r.op, p[0]);
    WAIT_UNTIL((r.bits & (POLLIN | POLLRDHUP)) == (POLLIN | POLLRDHUP));
    ok((r.bits & (POLLIN | POLLRDHUP)) == (POLLIN | POLLRDHUP),
       "%s: what was there before is announced", io_is);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[0]);
}

static void
test_reset(void)
{
    int p[2];
    struct rec r;
    make_tcp_pair(p);
    rec_init(&r, rec_fn);
    io_watch(io, &r.op, p[0]);
    settle();
    setsockopt(p[1], SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 },
               sizeof(struct linger));
    close(p[1]);
    WAIT_UNTIL(r.bits & (POLLHUP | POLLERR));
    ok(r.bits & (POLLHUP | POLLERR), "%s: a reset is announced (%x)", io_is, (unsigned)r.bits);
    char c;
    ok(read(p[0], &c, 1) < 0 && errno == ECONNRESET, "%s: and read() tells which", io_is);
    settle();
    int calls = r.calls;
    settle();
    ok(r.calls == calls && r.ends == 0, "%s: once", io_is);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[0]);
}

static void
note_unsure(struct rec *rec, int res, unsigned flags)
{
    (void)res;
    *(int *)rec->arg += (flags & IO_UNSURE) != 0;
}

/* Urgent data of TCP is told of, or there were two completions that leave it open; data that is not urgent is never called so. */
static void
test_urgent(void)
{
    int p[2], unsure = 0;
    char buf[16];
    struct rec r;
    make_tcp_pair(p);
    rec_init(&r, rec_fn);
    r.hook = note_unsure;
    r.arg = &unsure;
    io_watch(io, &r.op, p[0]);
    settle();
    for (int i = 0; i < 10; i++) {
        r.calls = 0;
        ok(send(p[1], "plain", 5, 0) == 5, "%s: sent", io_is);
        WAIT_UNTIL(r.calls > 0);
        ok(r.calls == 1 && read(p[0], buf, sizeof(buf)) == 5, "%s: and announced once", io_is);
    }
    ok(!(r.bits & (POLLPRI | POLLRDBAND)), "%s: as what it is (%x)", io_is, (unsigned)r.bits);
    for (int i = 0; i < 10; i++) {
        r.bits = unsure = 0;
        ok(send(p[1], "!", 1, MSG_OOB) == 1, "%s: urgent data is sent", io_is);
        WAIT_UNTIL((r.bits & POLLPRI) || unsure > 1);
        ok((r.bits & POLLPRI) || unsure > 1, "%s: it is told of, or left open (%x, %d)", io_is,
           (unsigned)r.bits, unsure);
        ok(!(r.bits & POLLRDBAND), "%s: and nothing else", io_is);
        ok(recv(p[0], buf, sizeof(buf), MSG_OOB) == 1, "%s: read", io_is);
    }
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[0]);
    close(p[1]);
}

static void
test_many(void)
{
    enum { N = 300 };
    static struct rec r[N];
    static int p[N][2];
    for (int i = 0; i < N; i++) {
        make_pair(p[i]);
        rec_init(&r[i], rec_fn);
        io_watch(io, &r[i].op, p[i][0]);
    }
    settle();
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N; i++) {
            r[i].calls = 0;
            if (write(p[i][1], "x", 1) != 1)
                ok(0, "%s: write", io_is);
        }
        int quiet = N;
        int64_t until = clock_ns() + NS_PER_S;
        while (quiet > 0 && clock_ns() < until) {
            io_wait(io, 10 * NS_PER_MS);
            quiet = 0;
            for (int i = 0; i < N; i++)
                quiet += r[i].calls == 0;
        }
        if (quiet > 0)
            ok(0, "%s: round %d: %d sockets of %d were not announced", io_is, round, quiet, N);
        for (int i = 0; i < N; i++) {
            char c;
            if (read(p[i][0], &c, 1) != 1)
                ok(0, "%s: read", io_is);
        }
    }
    int ended = 0;
    for (int i = 0; i < N; i++)
        io_cancel(io, &r[i].op);
    settle();
    for (int i = 0; i < N; i++) {
        ended += r[i].ends == 1 && r[i].res == -ECANCELED;
        close(p[i][0]);
        close(p[i][1]);
    }
    ok(ended == N, "%s: %d of %d watches ended", io_is, ended, N);
}

static int flood_events, flood_ends;

static void
flood_fn(struct io_op *op, int res, unsigned flags)
{
    (void)op;
    if (flags & IO_MORE)
        flood_events += (res & POLLIN) != 0;
    else
        flood_ends++;
}

/* More events at once than the ring's completion queue holds: copies of one descriptor all become ready together. */
static void
test_flood(void)
{
    enum { N = 6000 };
    struct rlimit old, high;
    static struct io_op ops[N];
    static int fds[N];
    getrlimit(RLIMIT_NOFILE, &old);
    high = old;
    high.rlim_cur = N + 200;
    if (setrlimit(RLIMIT_NOFILE, &high) < 0) {
        diag("the limit of descriptors is too low for a flood");
        return;
    }
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (int i = 0; i < N; i++) {
        fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        io_op_init(&ops[i], flood_fn);
        io_watch(io, &ops[i], fds[i]);
    }
    settle();
    for (int round = 0; round < 3; round++) {
        flood_events = flood_ends = 0;
        ok(eventfd_write(fd, 1) == 0, "%s: %d descriptors become ready", io_is, N);
        int most = 0;
        int64_t until = clock_ns() + 5 * NS_PER_S;
        while (flood_events < N && clock_ns() < until) {
            int before = flood_events;
            io_wait(io, 10 * NS_PER_MS);
            most = flood_events - before > most ? flood_events - before : most;
        }
        ok(flood_events >= N && flood_ends == 0, "%s: all are announced (%d)", io_is, flood_events);
        ok(most <= 4096 + 1, "%s: at most 4096 a wait (%d)", io_is, most);
    }
    for (int i = 0; i < N; i++)
        io_cancel(io, &ops[i]);
    WAIT_UNTIL_MS(flood_ends == N, 5000);
    ok(flood_ends == N, "%s: all are cancelled (%d)", io_is, flood_ends);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    close(fd);
    setrlimit(RLIMIT_NOFILE, &old);
}

static void
test_bad_descriptor(void)
{
    struct rec r;
    rec_init(&r, rec_fn);
    io_watch(io, &r.op, 1000);
    ok(r.calls == 0, "%s: arming does not call back", io_is);
    WAIT_UNTIL(r.ends);
    ok(r.ends == 1 && r.res == -EBADF, "%s: a closed descriptor is -EBADF (%d)", io_is, r.res);
    io_watch(io, &r.op, -1);
    WAIT_UNTIL(r.ends == 2);
    ok(r.ends == 2 && r.res == -EBADF, "%s: -1 is -EBADF (%d)", io_is, r.res);
}

int
main(void)
{
    EACH_BACKEND(test_data_and_end);
    EACH_BACKEND(test_readable_before);
    EACH_BACKEND(test_reset);
    EACH_BACKEND(test_urgent);
    EACH_BACKEND(test_many);
    EACH_BACKEND(test_flood);
    EACH_BACKEND(test_bad_descriptor);
    return tap_done();
}
