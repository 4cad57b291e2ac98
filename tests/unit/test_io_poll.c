/* test_io_poll.c: level-triggered readiness, as asyncio's add_reader() and add_writer() want it. */
#include <sys/eventfd.h>

#include "io_test.h"

static void
test_level(void)
{
    int p[2];
    char c[16];
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    io_poll(io, &r.op, p[0], POLLIN);
    settle();
    ok(r.calls == 0, "%s: not ready, no callback", io_is);
    ok(write(p[1], "abc", 3) == 3, "%s: written", io_is);
    int once = 0, waits = 0;
    for (; waits < 10; waits++) {
        int before = r.calls;
        io_wait(io, 100 * NS_PER_MS);
        once += r.calls == before + 1;
    }
    ok(once == 10, "%s: one completion a wait while unread (%d of %d)", io_is, once, waits);
    ok(r.res == POLLIN && r.ends == 0, "%s: which says POLLIN (%x)", io_is, (unsigned)r.res);
    ok(read(p[0], c, sizeof(c)) == 3, "%s: read", io_is);
    settle();
    int calls = r.calls;
    settle();
    ok(r.calls == calls, "%s: silent once it is read", io_is);
    ok(write(p[1], "abc", 3) == 3, "%s: written", io_is);
    WAIT_UNTIL(r.calls > calls);
    ok(r.calls > calls, "%s: and speaks again", io_is);
    close(p[1]);
    WAIT_UNTIL(r.bits & POLLHUP);
    ok(r.bits & POLLHUP, "%s: POLLHUP comes unasked", io_is);
    io_cancel(io, &r.op);
    calls = r.calls;
    WAIT_UNTIL(r.ends);
    ok(r.ends == 1 && r.res == -ECANCELED && r.calls == calls + 1,
       "%s: cancelled, and no event after it", io_is);
    close(p[0]);
}

/* Who only looks is told in every second look at least; and the last of what was told is not lost to a change or a cancel between two looks. */
static void
test_looks(void)
{
    int p[2], calls = 0;
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    io_poll(io, &r.op, p[0], POLLIN);
    ok(write(p[1], "abc", 3) == 3, "%s: written", io_is);
    WAIT_UNTIL(r.calls > 0);
    for (int i = 0; i < 20; i++) {
        calls = r.calls;
        io_wait(io, 0);
        io_wait(io, 0);
        if (r.calls == calls)
            break;
    }
    ok(r.calls > calls, "%s: every two looks tell of it (%d)", io_is, r.calls);
    io_poll_change(io, &r.op, POLLOUT);
    r.bits = 0;
    WAIT_UNTIL(r.bits & POLLOUT);
    io_wait(io, 0);
    ok(r.bits == POLLOUT, "%s: what is asked for then is told of (%x)", io_is, (unsigned)r.bits);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    ok(r.ends == 1 && r.res == -ECANCELED, "%s: and cancelled between two looks it ends", io_is);
    calls = r.calls;
    settle();
    ok(r.calls == calls, "%s: for good", io_is);
    close(p[0]);
    close(p[1]);
}

/* The callback that reads everything sees each arrival once. */
static void
on_read_all(struct rec *r, int res, unsigned flags)
{
    char buf[64];
    (void)flags;
    if (res > 0 && (res & POLLIN))
        r->fds_n += read(r->op.fd, buf, sizeof(buf)) > 0;
}

static void
test_consumed_in_callback(void)
{
    int p[2];
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    r.hook = on_read_all;
    io_poll(io, &r.op, p[0], POLLIN);
    int wrong = 0;
    for (int i = 0; i < 100; i++) {
        int calls = r.calls;
        if (write(p[1], "x", 1) != 1)
            wrong++;
        WAIT_UNTIL(r.calls > calls);
        io_wait(io, 0);
        io_wait(io, 0);
        wrong += r.calls != calls + 1;
    }
    ok(wrong == 0 && r.fds_n == 100,
       "%s: read in the callback: one completion an arrival (%d wrong)", io_is, wrong);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[0]);
    close(p[1]);
}

static void
test_change(void)
{
    int p[2];
    char c[16];
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    /* Before it was handed to the kernel. */
    io_poll(io, &r.op, p[0], POLLIN);
    io_poll_change(io, &r.op, POLLOUT);
    WAIT_UNTIL(r.calls);
    ok(r.res == POLLOUT, "%s: changed before it was armed (%x)", io_is, (unsigned)r.res);
    /* Armed and ready. */
    io_poll_change(io, &r.op, POLLIN);
    r.calls = r.bits = 0;
    settle();
    ok(r.calls == 0, "%s: changed to what is not ready", io_is);
    /* Armed and idle: the old request is in the kernel. */
    io_poll_change(io, &r.op, POLLIN | POLLOUT);
    WAIT_UNTIL(r.calls);
    ok(r.bits == POLLOUT && r.ends == 0, "%s: changed to what is ready (%x)", io_is,
       (unsigned)r.bits);
    ok(write(p[1], "x", 1) == 1, "%s: written", io_is);
    WAIT_UNTIL(r.bits == (POLLIN | POLLOUT));
    ok(r.bits == (POLLIN | POLLOUT), "%s: both at once", io_is);
    io_poll_change(io, &r.op, POLLIN);
    r.bits = 0;
    settle();
    ok(r.bits == POLLIN, "%s: back to one (%x)", io_is, (unsigned)r.bits);
    ok(read(p[0], c, sizeof(c)) == 1, "%s: read", io_is);
    settle();
    /* A change whose old request completes at the same time. */
    ok(write(p[1], "x", 1) == 1, "%s: written", io_is);
    io_poll_change(io, &r.op, POLLOUT);
    r.bits = 0;
    settle();
    ok(r.bits == POLLOUT, "%s: nothing of the old mask after the change (%x)", io_is,
       (unsigned)r.bits);
    /* To and fro without a wait. */
    io_poll_change(io, &r.op, POLLIN);
    io_poll_change(io, &r.op, POLLIN | POLLOUT);
    io_poll_change(io, &r.op, POLLIN);
    r.bits = 0;
    settle();
    ok(r.bits == POLLIN, "%s: the last of several counts (%x)", io_is, (unsigned)r.bits);
    ok(read(p[0], c, sizeof(c)) == 1, "%s: read", io_is);
    settle();
    /* Change and cancel. */
    io_poll_change(io, &r.op, POLLOUT);
    r.calls = 0;
    io_cancel(io, &r.op);
    io_poll_change(io, &r.op, POLLIN);
    WAIT_UNTIL(r.ends);
    settle();
    ok(r.ends == 1 && r.calls == 1 && r.res == -ECANCELED, "%s: changed, then cancelled (%d)",
       io_is, r.res);
    close(p[0]);
    close(p[1]);
}

static void
test_empty_mask(void)
{
    int p[2];
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    ok(write(p[1], "x", 1) == 1, "%s: written", io_is);
    io_poll(io, &r.op, p[0], 0);
    settle();
    ok(r.calls == 0, "%s: an empty mask hears no data", io_is);
    io_poll_change(io, &r.op, POLLIN);
    WAIT_UNTIL(r.calls);
    ok(r.res == POLLIN, "%s: until it is changed", io_is);
    io_poll_change(io, &r.op, 0);
    settle();
    r.bits = 0;
    close(p[1]);
    WAIT_UNTIL(r.bits);
    ok(r.bits == POLLHUP, "%s: but the end (%x)", io_is, (unsigned)r.bits);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[0]);
}

static void
test_refused(void)
{
    struct rec r;
    rec_init(&r, rec_fn);
    char path[] = "/tmp/ringcorn-test-io-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    io_poll(io, &r.op, fd, POLLIN);
    ok(r.calls == 0, "%s: no callback from io_poll()", io_is);
    WAIT_UNTIL(r.ends);
    ok(r.ends == 1 && r.calls == 1 && r.res == -EPERM && !r.op.armed,
       "%s: a regular file is -EPERM (%d)", io_is, r.res);
    close(fd);
    fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    io_poll(io, &r.op, fd, POLLIN);
    WAIT_UNTIL(r.ends == 2);
    ok(r.ends == 2 && r.res == -EPERM, "%s: a folder too (%d)", io_is, r.res);
    close(fd);
    io_poll(io, &r.op, 1000, POLLIN | POLLOUT);
    WAIT_UNTIL(r.ends == 3);
    ok(r.ends == 3 && r.res == -EBADF, "%s: a closed descriptor is -EBADF (%d)", io_is, r.res);
    ok(r.calls == 3, "%s: nothing but the ends", io_is);
}

static void
test_kinds(void)
{
    int p[2];
    struct rec r;
    rec_init(&r, rec_fn);
    if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
        exit(1);
    io_poll(io, &r.op, p[0], POLLIN);
    settle();
    close(p[1]);
    WAIT_UNTIL(r.calls);
    ok(r.res & POLLHUP, "%s: a pipe whose writer left (%x)", io_is, (unsigned)r.res);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[0]);

    if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
        exit(1);
    rec_init(&r, rec_fn);
    io_poll(io, &r.op, p[1], POLLOUT);
    WAIT_UNTIL(r.calls);
    ok(r.res & POLLOUT, "%s: a pipe that can be written (%x)", io_is, (unsigned)r.res);
    close(p[0]);
    WAIT_UNTIL(r.bits & POLLERR);
    ok(r.bits & POLLERR, "%s: a pipe whose reader left (%x)", io_is, (unsigned)r.bits);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(p[1]);

    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rec_init(&r, rec_fn);
    io_poll(io, &r.op, fd, POLLIN);
    settle();
    ok(eventfd_write(fd, 1) == 0, "%s: eventfd written", io_is);
    WAIT_UNTIL(r.calls);
    ok(r.res & POLLIN, "%s: an eventfd (%x)", io_is, (unsigned)r.res);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(fd);

    /* A connect in progress that is refused. */
    struct sockaddr_in addr;
    close(make_listener(&addr, 1));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = connect(fd, (struct sockaddr *)&addr, sizeof(addr));
    rec_init(&r, rec_fn);
    io_poll(io, &r.op, fd, POLLOUT);
    WAIT_UNTIL(r.calls);
    int err = 0;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &(socklen_t){ sizeof(err) });
    ok(rc < 0 && r.bits != 0 && err == ECONNREFUSED,
       "%s: a refused connect wakes the writer (%x, %d)", io_is, (unsigned)r.bits, err);
    io_cancel(io, &r.op);
    WAIT_UNTIL(r.ends);
    close(fd);
}

/* Many cycles of arm and cancel, as one query of a database after the other makes them. */
static void
test_cycles(void)
{
    int p[2];
    char c;
    struct rec r;
    make_pair(p);
    int wrong = 0;
    for (int i = 0; i < 2000; i++) {
        rec_init(&r, rec_fn);
        io_poll(io, &r.op, p[0], POLLIN);
        if (i % 3 == 0)
            io_wait(io, 0);
        if (i % 2 == 0) {
            wrong += write(p[1], "x", 1) != 1;
            WAIT_UNTIL(r.calls);
            wrong += r.calls != 1 || r.res != POLLIN;
            wrong += read(p[0], &c, 1) != 1;
        }
        if (i % 5 == 0)
            io_wait(io, 0);
        io_cancel(io, &r.op);
        WAIT_UNTIL(r.ends);
        wrong += r.ends != 1 || r.res != -ECANCELED;
    }
    ok(wrong == 0, "%s: 2000 cycles of arm, event, cancel (%d wrong)", io_is, wrong);
    close(p[0]);
    close(p[1]);
}

int
main(void)
{
    EACH_BACKEND(test_level);
    EACH_BACKEND(test_looks);
    EACH_BACKEND(test_consumed_in_callback);
    EACH_BACKEND(test_change);
    EACH_BACKEND(test_empty_mask);
    EACH_BACKEND(test_refused);
    EACH_BACKEND(test_kinds);
    EACH_BACKEND(test_cycles);
    return tap_done();
}
