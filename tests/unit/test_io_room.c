/* test_io_room.c: io_room(): told once when a full socket has room, beside a watch of the same descriptor. */
#include "io_test.h"

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
room(bool is_tcp, bool is_watched)
{
    int p[2];
    struct rec watch, op;
    if (is_tcp)
        make_tcp_pair(p);
    else
        make_pair(p);
    rec_init(&watch, rec_fn);
    rec_init(&op, rec_fn);
    if (is_watched)
        io_watch(io, &watch.op, p[0]);
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
    if (is_watched) {
        io_cancel(io, &watch.op);
        WAIT_UNTIL(!watch.op.armed);
        ok(watch.res == -ECANCELED, "%s: the watch beside it lives on", io_is);
    }
    close(p[0]);
}

static void
test_room(void)
{
    for (int i = 0; i < 4; i++)
        room(i & 1, i & 2);
}

int
main(void)
{
    EACH_BACKEND(test_room);
    return tap_done();
}
