/* test_io_room.c: io_room(): told once when a full socket has room, beside a watch of the same descriptor; io_watch_in(). */
#include "io_test.h"

enum watched { NOT_WATCHED, WATCHED, WATCHED_IN };

static char filler[64 * 1024];

static void
fill(int fd)
{
    while (send(fd, filler, sizeof(filler), MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
        ;
}

static void
drain(int fd)
{
    static char buf[64 * 1024];
    while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
        ;
}

static void
room(bool is_tcp, enum watched watched)
{
    int p[2];
    struct rec watch, op;
    if (is_tcp)
        make_tcp_pair(p);
    else
        make_pair(p);
    rec_init(&watch, rec_fn);
    rec_init(&op, rec_fn);
    if (watched == WATCHED)
        io_watch(io, &watch.op, p[0]);
    if (watched == WATCHED_IN)
        io_watch_in(io, &watch.op, p[0]);
    for (int round = 1; round <= 3; round++) {
        fill(p[0]);
        settle(); /* what is under way arrives */
        fill(p[0]);
        io_room(io, &op.op, p[0]);
        io_wait(io, 0);
        ok(op.calls == round - 1 && op.op.armed, "%s: a full socket has no room", io_is);
        WAIT_UNTIL((drain(p[1]), op.calls == round));
        ok(op.calls == round && op.ends == round && op.res >= 0 && !op.op.armed,
           "%s: room is told of once", io_is);
    }
    fill(p[0]);
    settle();
    fill(p[0]);
    io_room(io, &op.op, p[0]);
    io_wait(io, 0);
    io_cancel(io, &op.op);
    ok(op.calls == 3, "%s: no callback from inside io_cancel()", io_is);
    WAIT_UNTIL(op.calls == 4);
    ok(op.res == -ECANCELED && !op.op.armed, "%s: a wait for room is cancelled", io_is);
    io_room(io, &op.op, p[0]);
    settle();
    close(p[1]);
    WAIT_UNTIL(op.calls == 5);
    ok(op.calls == 5 && !op.op.armed, "%s: a peer that is gone ends the wait", io_is);
    if (watched != NOT_WATCHED) {
        io_cancel(io, &watch.op);
        WAIT_UNTIL(!watch.op.armed);
        ok(watch.res == -ECANCELED, "%s: the watch beside it lives on", io_is);
    }
    close(p[0]);
}

static void
test_room(void)
{
    for (int i = 0; i < 6; i++)
        room(i & 1, (enum watched)(i / 2));
}

/* Connected to each other. */
static void
make_udp_pair(int pair[2])
{
    struct sockaddr_in at[2];
    for (int i = 0; i < 2; i++) {
        socklen_t n = sizeof(at[i]);
        at[i] = (struct sockaddr_in){ .sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        pair[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (pair[i] < 0 || bind(pair[i], (struct sockaddr *)&at[i], sizeof(at[i])) < 0 ||
            getsockname(pair[i], (struct sockaddr *)&at[i], &n) < 0)
            abort();
    }
    for (int i = 0; i < 2; i++)
        if (connect(pair[i], (struct sockaddr *)&at[!i], sizeof(at[i])) < 0)
            abort();
}

static bool
has_something(void)
{
    struct pollfd p = { .fd = io_fd(io), .events = POLLIN };
    return poll(&p, 1, 0) > 0;
}

/* A datagram socket tells of room after each datagram that has gone. */
static void
test_watch_in(void)
{
    int p[2];
    struct rec watch;
    make_udp_pair(p);
    rec_init(&watch, rec_fn);
    io_watch_in(io, &watch.op, p[0]);
    settle();
    ok(watch.calls == 0, "%s: nothing has arrived", io_is);
    ok(send(p[0], "x", 1, 0) == 1 && recv(p[1], filler, 1, 0) == 1 && !has_something(),
       "%s: a datagram that has gone wakes nobody", io_is);
    for (int i = 1; i <= 3; i++) {
        ok(send(p[1], "x", 1, 0) == 1, "a datagram comes back");
        WAIT_UNTIL(watch.calls == i);
        ok(watch.calls == i && watch.res == POLLIN && watch.op.armed, "%s: an arrival is told of",
           io_is);
        ok(recv(p[0], filler, 1, MSG_DONTWAIT) == 1, "%s: it is there", io_is);
    }
    io_cancel(io, &watch.op);
    WAIT_UNTIL(!watch.op.armed);
    close(p[0]);
    close(p[1]);
}

/* The end of a pipe that is written to: the reader goes. */
static void
test_watch_in_pipe(void)
{
    int p[2];
    struct rec watch;
    ok(pipe2(p, O_NONBLOCK | O_CLOEXEC) == 0, "a pipe");
    rec_init(&watch, rec_fn);
    io_watch_in(io, &watch.op, p[1]);
    settle();
    ok(write(p[1], "x", 1) == 1 && !has_something() && watch.calls == 0,
       "%s: room in a pipe wakes nobody", io_is);
    close(p[0]);
    WAIT_UNTIL(watch.calls == 1);
    ok(watch.res & POLLERR, "%s: a pipe without a reader is told of", io_is);
    io_cancel(io, &watch.op);
    WAIT_UNTIL(!watch.op.armed);
    close(p[1]);
}

int
main(void)
{
    EACH_BACKEND(test_room);
    EACH_BACKEND(test_watch_in);
    EACH_BACKEND(test_watch_in_pipe);
    return tap_done();
}
