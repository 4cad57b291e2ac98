/* test_io_cancel.c: cancels in every order, with descriptors closed first, numbers used again and memory given back. */
#include "io_test.h"

enum { KINDS = 4 };
enum what { ACCEPT, WATCH, POLL, SEND };
static const char *const names[KINDS] = { "accept", "watch", "poll", "send" };

/* An operation in memory of its own that is freed in its last callback, so that a late completion is a use after free. */
struct item {
    struct io_op op;
    bool *ended;
    int *res;
    int fd;
};

static void
item_fn(struct io_op *op, int res, unsigned flags)
{
    struct item *item = CONTAINER_OF(op, struct item, op);
    if (flags & IO_MORE) {
        if (op->kind == 1 && res >= 0)
            close(res);
        return;
    }
    *item->ended = true;
    *item->res = res;
    memset(item, 0x5a, sizeof(*item));
    free(item);
}

static char big[4 * 1024 * 1024];

struct fixture {
    int fd;   /* the operation's */
    int peer; /* -1 for none */
    struct sockaddr_in addr;
};

static struct fixture
make_fixture(enum what kind)
{
    struct fixture f = { .peer = -1 };
    int p[2];
    if (kind == ACCEPT) {
        f.fd = make_listener(&f.addr, 16);
        return f;
    }
    make_pair(p);
    f.fd = p[0];
    f.peer = p[1];
    if (kind == SEND) { /* full, so that the send blocks */
        while (write(f.fd, big, sizeof(big)) > 0) {
        }
    }
    return f;
}

static struct item *
item_new(bool *ended, int *res)
{
    struct item *item = malloc(sizeof(*item));
    io_op_init(&item->op, item_fn);
    item->ended = ended;
    item->res = res;
    *ended = false;
    *res = 12345;
    return item;
}

static void
arm(struct item *item, enum what kind, int fd)
{
    static const struct iovec iov = { big, sizeof(big) };
    switch (kind) {
    case ACCEPT:
        io_accept(io, &item->op, fd);
        break;
    case WATCH:
        io_watch(io, &item->op, fd);
        break;
    case POLL:
        io_poll(io, &item->op, fd, POLLIN);
        break;
    case SEND:
        io_send(io, &item->op, fd, &iov, 1);
        break;
    }
}

/* Makes the operation's event happen. */
static int
trigger(struct fixture *f, enum what kind)
{
    switch (kind) {
    case ACCEPT:
        return dial(&f->addr);
    case WATCH:
    case POLL:
        return write(f->peer, "x", 1) == 1 ? -1 : -2;
    case SEND:
        while (read(f->peer, big, sizeof(big)) > 0) {
        }
        return -1;
    }
    return -2;
}

/* Every combination: how far it had come x whether its event happened x what was closed before the cancel x how long
 * after that the cancel came. */
static void
test_orders(void)
{
    enum { UNSENT, FLUSHED, ARMED, STAGES };
    int wrong = 0, cases = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        for (int stage = 0; stage < STAGES; stage++) {
            for (int bits = 0; bits < 16; bits++) {
                bool happens = bits & 1, is_closed = bits & 2, waits = bits & 4, reuses = bits & 8;
                bool ended;
                int res, client = -1;
                struct fixture f = make_fixture(kind);
                struct item *item = item_new(&ended, &res);
                arm(item, kind, f.fd);
                if (stage == FLUSHED)
                    io_flush(io);
                if (stage == ARMED)
                    settle();
                if (happens)
                    client = trigger(&f, kind);
                int other[2] = { -1, -1 };
                if (is_closed) {
                    close(f.fd);
                    if (reuses)
                        make_pair(other); /* one of them gets the number */
                }
                if (waits)
                    io_wait(io, 0);
                if (!ended)
                    io_cancel(io, &item->op);
                bool at_once = ended && !waits && stage != ARMED;
                int64_t until = clock_ns() + 2 * NS_PER_S;
                while (!ended && clock_ns() < until)
                    io_wait(io, 20 * NS_PER_MS);
                bool is_right =
                    ended && !at_once && (res == -ECANCELED || kind == SEND || is_closed);
                cases++;
                if (!is_right) {
                    wrong++;
                    diag("%s %s stage %d: happens %d closed %d waits %d reuses %d: ended %d res %d",
                         io_is, names[kind], stage, happens, is_closed, waits, reuses, ended, res);
                }
                if (!is_closed)
                    close(f.fd);
                if (other[0] >= 0) {
                    close(other[0]);
                    close(other[1]);
                }
                if (f.peer >= 0)
                    close(f.peer);
                if (client >= 0)
                    close(client);
                io_wait(io, 0);
            }
        }
    }
    ok(wrong == 0, "%s: %d orders of arm, event, close, reuse, cancel (%d wrong)", io_is, cases,
       wrong);
}

/* --- one callback ends others of the same batch --------------------------------------------------------------------*/

enum { CROWD = 64 };

static struct crowd {
    struct item *items[CROWD];
    bool ended[CROWD];
    int res[CROWD];
    int pairs[CROWD][2];
    int events, after_cancel;
    bool is_cancelled;
} crowd;

static void
crowd_fn(struct io_op *op, int res, unsigned flags)
{
    if (!(flags & IO_MORE)) {
        item_fn(op, res, flags);
        return;
    }
    crowd.events++;
    crowd.after_cancel += crowd.is_cancelled;
    /* The first event cancels all, closes all, and puts new sockets on the same numbers. */
    if (!crowd.is_cancelled) {
        crowd.is_cancelled = true;
        for (int i = 0; i < CROWD; i++) {
            io_cancel(io, &crowd.items[i]->op);
            close(crowd.pairs[i][0]);
            close(crowd.pairs[i][1]);
        }
        for (int i = 0; i < CROWD; i++)
            make_pair(crowd.pairs[i]);
    }
}

static void
test_batch(void)
{
    for (int kind = WATCH; kind <= POLL; kind++) {
        memset(&crowd, 0, sizeof(crowd));
        for (int i = 0; i < CROWD; i++) {
            make_pair(crowd.pairs[i]);
            crowd.items[i] = item_new(&crowd.ended[i], &crowd.res[i]);
            crowd.items[i]->op.fn = crowd_fn;
            arm(crowd.items[i], kind, crowd.pairs[i][0]);
        }
        settle();
        for (int i = 0; i < CROWD; i++) {
            if (write(crowd.pairs[i][1], "x", 1) != 1)
                ok(0, "write");
        }
        WAIT_UNTIL(crowd.is_cancelled);
        settle();
        int ended = 0, right = 0;
        for (int i = 0; i < CROWD; i++) {
            ended += crowd.ended[i];
            right += crowd.res[i] == -ECANCELED;
            close(crowd.pairs[i][0]);
            close(crowd.pairs[i][1]);
        }
        ok(crowd.events == 1 && crowd.after_cancel == 0,
           "%s: %s: no event after the cancel of all (%d)", io_is, names[kind], crowd.events);
        ok(ended == CROWD && right == CROWD, "%s: %s: all %d ended", io_is, names[kind], CROWD);
    }
}

/* --- the same operation in life after life -------------------------------------------------------------------------*/

static void
test_reuse(void)
{
    static const struct iovec one = { big, 1 };
    struct rec r;
    int p[2], wrong = 0;
    make_pair(p);
    rec_init(&r, rec_fn);
    for (int i = 0; i < 3000; i++) {
        int ends = r.ends;
        r.bits = 0;
        if (i % 3 == 0)
            io_watch(io, &r.op, p[0]);
        else if (i % 3 == 1)
            io_poll(io, &r.op, p[0], POLLIN);
        else
            io_send(io, &r.op, p[0], &one, 1);
        if (i % 4 < 2)
            io_wait(io, 0);
        if (i % 5 < 2)
            wrong += write(p[1], "x", 1) != 1;
        if (i % 7 == 0)
            io_flush(io);
        io_cancel(io, &r.op);
        WAIT_UNTIL(r.ends > ends || !r.op.armed);
        wrong += r.op.armed || (i % 3 != 2 && r.res != -ECANCELED);
        while (read(p[0], big, sizeof(big)) > 0) {
        }
        while (read(p[1], big, sizeof(big)) > 0) {
        }
    }
    int calls = r.calls;
    settle();
    ok(wrong == 0 && r.calls == calls, "%s: 3000 lives of one operation (%d wrong)", io_is, wrong);
    close(p[0]);
    close(p[1]);
}

static void
on_end_rearm(struct rec *r, int res, unsigned flags)
{
    (void)res;
    if (!(flags & IO_MORE) && r->ends < 5)
        io_watch(io, &r->op, *(int *)r->arg);
}

static void
test_rearm_in_last(void)
{
    struct rec r;
    int p[2];
    make_pair(p);
    rec_init(&r, rec_fn);
    r.hook = on_end_rearm;
    r.arg = &p[0];
    io_watch(io, &r.op, p[0]);
    for (int i = 1; i < 5; i++) {
        io_cancel(io, &r.op);
        WAIT_UNTIL(r.ends == i);
        ok(r.op.armed, "%s: armed again in its last callback", io_is);
    }
    ok(write(p[1], "x", 1) == 1, "%s: written", io_is);
    WAIT_UNTIL(r.bits & POLLIN);
    ok(r.bits & POLLIN, "%s: and alive", io_is);
    r.hook = NULL;
    io_cancel(io, &r.op);
    WAIT_UNTIL(!r.op.armed);
    io_cancel(io, &r.op);
    ok(!r.op.armed, "%s: a cancel of what is not armed is nothing", io_is);
    close(p[0]);
    close(p[1]);
}

/* --- the owner closes first while a copy of the descriptor lives on ------------------------------------------------*/

static void
test_copy_lives_on(void)
{
    int p[2];
    bool ended;
    int res;
    make_pair(p);
    int copy = fcntl(p[0], F_DUPFD_CLOEXEC, 100);
    struct item *item = item_new(&ended, &res);
    arm(item, POLL, p[0]);
    settle();
    close(p[0]);
    io_cancel(io, &item->op);
    WAIT_UNTIL(ended);
    ok(ended && res == -ECANCELED, "%s: closed, then cancelled, with a copy alive", io_is);
    ok(write(p[1], "x", 1) == 1, "%s: data for the copy", io_is);
    io_wait(io, 10 * NS_PER_MS); /* may be woken once by what is left */
    int64_t start = clock_ns();
    int early = 0;
    for (int i = 0; i < 5; i++) {
        int64_t before = clock_ns();
        io_wait(io, 10 * NS_PER_MS);
        early += clock_ns() - before < 9 * NS_PER_MS;
    }
    ok(early <= 2, "%s: the forgotten registration does not spin (%d, %lld ms)", io_is, early,
       (long long)((clock_ns() - start) / NS_PER_MS));

    /* What was armed meanwhile still works. */
    int q[2];
    struct rec r, s;
    make_pair(q);
    rec_init(&r, rec_fn);
    rec_init(&s, rec_fn);
    io_watch(io, &r.op, q[0]);
    io_poll(io, &s.op, copy, POLLIN);
    WAIT_UNTIL(s.calls);
    ok(s.res == POLLIN, "%s: the copy can be polled itself", io_is);
    ok(write(q[1], "x", 1) == 1, "%s: written", io_is);
    WAIT_UNTIL(r.calls);
    ok(r.res & POLLIN, "%s: others are unharmed", io_is);
    io_cancel(io, &r.op);
    io_cancel(io, &s.op);
    WAIT_UNTIL(r.ends && s.ends);
    close(copy);
    close(p[1]);
    close(q[0]);
    close(q[1]);
}

/* The number of a closed descriptor is armed by a new owner before the old one cancels. */
static void
test_number_taken(void)
{
    int p[2], q[2];
    struct rec old, new;
    make_pair(p);
    rec_init(&old, rec_fn);
    rec_init(&new, rec_fn);
    io_poll(io, &old.op, p[0], POLLIN);
    settle();
    int number = p[0];
    close(p[0]);
    make_pair(q);
    int mine = q[0] == number ? 0 : 1;
    ok(q[mine] == number, "%s: the number is used again", io_is);
    io_poll(io, &new.op, q[mine], POLLIN);
    settle();
    io_cancel(io, &old.op);
    WAIT_UNTIL(old.ends);
    ok(old.ends == 1 && old.res == -ECANCELED, "%s: the old owner's cancel", io_is);
    ok(write(q[!mine], "x", 1) == 1, "%s: written", io_is);
    WAIT_UNTIL(new.calls);
    ok(new.res == POLLIN &&new.op.armed, "%s: does not touch the new owner", io_is);
    io_cancel(io, &new.op);
    WAIT_UNTIL(new.ends);
    ok(new.ends == 1 && new.res == -ECANCELED, "%s: who can be cancelled, too", io_is);
    close(p[1]);
    close(q[0]);
    close(q[1]);
}

/* io_close() with everything armed: no callback, and the operations are free to be armed elsewhere. */
static void
test_close_armed(void)
{
    static struct rec r[5];
    static struct fixture f[4];
    char why[IO_WHY_SIZE];
    enum io_backend which = strcmp(io_is, "epoll") == 0 ? IO_EPOLL : IO_URING;
    struct iovec iov = { big, sizeof(big) };
    struct io *mine;
    ok(io_open(which, &mine, why) == 0, "%s: a second instance", io_is);
    for (int i = 0; i < 4; i++) {
        f[i] = make_fixture(i);
        rec_init(&r[i], i == ACCEPT ? rec_accept_fn : rec_fn);
    }
    rec_init(&r[4], rec_fn);
    int p[2];
    make_pair(p);
    io_accept(mine, &r[0].op, f[0].fd);
    io_watch(mine, &r[1].op, f[1].fd);
    io_poll(mine, &r[2].op, f[2].fd, POLLIN);
    io_send(mine, &r[3].op, f[3].fd, &iov, 1);
    for (int i = 0; i < 5; i++)
        io_wait(mine, 0);
    int client = dial(&f[0].addr);
    int n = write(f[1].peer, "x", 1) + write(f[2].peer, "x", 1);
    io_send(mine, &r[4].op, p[0], &iov, 1); /* still queued */
    io_close(mine);
    int calls = 0, armed = 0;
    for (int i = 0; i < 5; i++) {
        calls += r[i].calls;
        armed += r[i].op.armed;
    }
    ok(n == 2 && calls == 0 && armed == 0,
       "%s: io_close() calls nobody back (%d) and leaves nothing armed", io_is, calls);
    io_watch(io, &r[1].op, f[1].fd);
    WAIT_UNTIL(r[1].calls);
    ok(r[1].res & POLLIN, "%s: and the operation is good for another instance", io_is);
    io_cancel(io, &r[1].op);
    WAIT_UNTIL(r[1].ends);
    close(client);
    for (int i = 0; i < 4; i++) {
        close(f[i].fd);
        if (f[i].peer >= 0)
            close(f[i].peer);
    }
    close(p[0]);
    close(p[1]);
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN);
    EACH_BACKEND(test_orders);
    EACH_BACKEND(test_batch);
    EACH_BACKEND(test_reuse);
    EACH_BACKEND(test_rearm_in_last);
    EACH_BACKEND(test_copy_lives_on);
    EACH_BACKEND(test_number_taken);
    EACH_BACKEND(test_close_armed);
    return tap_done();
}
