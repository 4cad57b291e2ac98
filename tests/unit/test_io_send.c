/* test_io_send.c: queued sends: order, short ones, blocked ones, cancelled ones, and peers that go away. */
#include <pthread.h>

#include "io_test.h"

static void
test_deferred(void)
{
    int p[2];
    char got[64];
    struct rec r;
    struct iovec one = { "hello ", 6 };
    struct iovec three[] = { { "wo", 2 }, { "", 0 }, { "rld", 3 } };
    make_pair(p);
    rec_init(&r, rec_fn);
    io_send(io, &r.op, p[0], &one, 1);
    ok(io_queued(io) == 1, "%s: one is queued", io_is);
    ok(read(p[1], got, sizeof(got)) < 0, "%s: nothing has left yet", io_is);
    io_flush(io);
    ok(io_queued(io) == 0, "%s: none is queued after the flush", io_is);
    ok(read(p[1], got, sizeof(got)) == 6, "%s: io_flush() lets it go", io_is);
    ok(r.calls == 0, "%s: no callback from io_send() and io_flush()", io_is);
    io_wait(io, 0);
    ok(r.ends == 1 && r.res == 6 && !r.op.armed, "%s: the next look tells (%d)", io_is, r.res);
    io_send(io, &r.op, p[0], three, 3);
    int64_t before = clock_ns();
    int n = io_wait(io, NS_PER_S);
    ok(n == 1 && clock_ns() - before < NS_PER_S / 2, "%s: io_wait() sends and does not sleep",
       io_is);
    ok(r.ends == 2 && r.res == 5, "%s: several pieces, one of them empty (%d)", io_is, r.res);
    ok(read(p[1], got, sizeof(got)) == 5 && memcmp(got, "world", 5) == 0,
       "%s: they arrive in order", io_is);
    io_send(io, &r.op, p[0], &one, 1);
    io_flush(io);
    before = clock_ns();
    io_wait(io, NS_PER_S);
    ok(r.ends == 3 && clock_ns() - before < NS_PER_S / 2,
       "%s: io_wait() does not sleep over a flushed send", io_is);
    close(p[0]);
    close(p[1]);
}

/* --- a long transfer to a slow reader ------------------------------------------------------------------------------*/

enum { LONG = 32 * 1024 * 1024 };

static char *long_text;

struct reader {
    int fd;
    int pause_us;
    bool is_right;
    size_t got;
};

static void *
reader_main(void *arg)
{
    struct reader *rd = arg;
    static char buf[256 * 1024];
    rd->is_right = true;
    for (;;) {
        ssize_t n = read(rd->fd, buf, sizeof(buf));
        if (n <= 0)
            return NULL;
        if (rd->got + (size_t)n > LONG || memcmp(buf, long_text + rd->got, (size_t)n) != 0)
            rd->is_right = false;
        rd->got += (size_t)n;
        if (rd->pause_us)
            usleep((useconds_t)rd->pause_us);
    }
}

struct sender {
    struct rec rec; /* first */
    int fd;
    size_t sent;
    int shorts;
    unsigned pieces;
    struct iovec iov[8];
};

static void
send_next(struct sender *s)
{
    size_t left = LONG - s->sent;
    size_t piece = left / s->pieces + 1;
    unsigned n = 0;
    for (size_t at = s->sent; at < LONG; n++) {
        size_t len = LONG - at < piece ? LONG - at : piece;
        s->iov[n] = (struct iovec){ long_text + at, len };
        at += len;
    }
    io_send(io, &s->rec.op, s->fd, s->iov, n);
}

static void
on_sent(struct rec *rec, int res, unsigned flags)
{
    struct sender *s = (struct sender *)rec;
    (void)flags;
    if (res <= 0)
        return;
    s->shorts += (size_t)res < LONG - s->sent;
    s->sent += (size_t)res;
    if (s->sent < LONG)
        send_next(s);
}

static void
long_transfer(bool is_tcp, unsigned pieces, bool is_watched)
{
    int p[2];
    pthread_t thread;
    struct rec watch;
    if (is_tcp)
        make_tcp_pair(p);
    else
        make_pair(p);
    fcntl(p[1], F_SETFL, 0);
    struct reader rd = { .fd = p[1], .pause_us = 200 };
    struct sender s = { .fd = p[0], .pieces = pieces };
    rec_init(&s.rec, rec_fn);
    s.rec.hook = on_sent;
    rec_init(&watch, rec_fn);
    if (is_watched)
        io_watch(io, &watch.op, p[0]);
    pthread_create(&thread, NULL, reader_main, &rd);
    send_next(&s);
    WAIT_UNTIL_MS(s.sent == LONG || s.rec.res < 0, 20000);
    shutdown(p[0], SHUT_WR);
    pthread_join(thread, NULL);
    const char *how = is_watched ? "watched" : "not watched";
    ok(s.sent == LONG && s.rec.res > 0, "%s: 32 MiB sent (tcp %d, %u pieces, %s)", io_is, is_tcp,
       pieces, how);
    ok(rd.got == LONG && rd.is_right, "%s: and received as they were", io_is);
    ok(s.shorts > 0, "%s: in %d short sends, each showing progress", io_is, s.shorts);
    if (is_watched) {
        io_cancel(io, &watch.op);
        WAIT_UNTIL(watch.ends);
    }
    close(p[0]);
    close(p[1]);
}

static void
test_long(void)
{
    long_transfer(true, 1, true);
    long_transfer(true, 7, false);
    long_transfer(false, 3, true);
    long_transfer(false, 1, false);
}

/* --- blocked sends -------------------------------------------------------------------------------------------------*/

/* Sends until one stays in flight, also after the kernel has moved what it can to the peer. */
static void
fill(struct rec *r, int fd, struct iovec *iov)
{
    for (int i = 0; i < 1000; i++) {
        io_send(io, &r->op, fd, iov, 1);
        int64_t until = clock_ns() + 60 * NS_PER_MS;
        while (r->op.armed && clock_ns() < until)
            io_wait(io, 5 * NS_PER_MS);
        if (r->op.armed)
            return;
    }
    ok(0, "%s: the socket never filled", io_is);
}

static void
test_cancel_blocked(void)
{
    for (int watched = 0; watched < 2; watched++) {
        int p[2];
        struct rec r, w;
        struct iovec iov = { long_text, 1024 * 1024 };
        make_tcp_pair(p);
        rec_init(&r, rec_fn);
        rec_init(&w, rec_fn);
        if (watched)
            io_watch(io, &w.op, p[0]);
        fill(&r, p[0], &iov);
        int ends = r.ends;
        io_cancel(io, &r.op);
        io_cancel(io, &r.op);
        ok(r.ends == ends, "%s: no callback from io_cancel()", io_is);
        WAIT_UNTIL(r.ends > ends);
        ok(r.ends == ends + 1 && r.res == -ECANCELED, "%s: a blocked send is cancelled, once (%d)",
           io_is, r.res);
        settle();
        ok(r.ends == ends + 1, "%s: and does not come back", io_is);
        /* The socket is good for another one. */
        static char sink[4 * 1024 * 1024];
        fill(&r, p[0], &iov);
        ends = r.ends;
        while (read(p[1], sink, sizeof(sink)) > 0) {
        }
        WAIT_UNTIL(r.ends > ends);
        ok(r.ends == ends + 1 && r.res > 0, "%s: the next goes when the peer reads (%d)", io_is,
           r.res);
        if (watched) {
            ok(write(p[1], "x", 1) == 1, "%s: peer writes", io_is);
            WAIT_UNTIL(w.bits & POLLIN);
            ok(w.bits & POLLIN, "%s: the watch still works beside the send", io_is);
            io_cancel(io, &w.op);
            WAIT_UNTIL(w.ends);
        }
        close(p[0]);
        close(p[1]);
    }
}

static void
test_watch_goes_first(void)
{
    int p[2];
    struct rec r, w;
    struct iovec iov = { long_text, 1024 * 1024 };
    static char sink[4 * 1024 * 1024];
    make_tcp_pair(p);
    rec_init(&r, rec_fn);
    rec_init(&w, rec_fn);
    io_watch(io, &w.op, p[0]);
    fill(&r, p[0], &iov);
    io_cancel(io, &w.op);
    WAIT_UNTIL(w.ends);
    ok(w.ends == 1 && w.res == -ECANCELED && r.op.armed,
       "%s: the watch is cancelled under a blocked send", io_is);
    while (read(p[1], sink, sizeof(sink)) > 0) {
    }
    int ends = r.ends;
    WAIT_UNTIL(!r.op.armed);
    ok(r.ends == ends + 1 && r.res > 0, "%s: which goes on when the peer reads", io_is);
    fill(&r, p[0], &iov);
    io_watch(io, &w.op, p[0]);
    ok(write(p[1], "x", 1) == 1, "%s: peer writes", io_is);
    WAIT_UNTIL(w.bits & POLLIN);
    ok(w.bits & POLLIN && r.op.armed, "%s: a watch added to a blocked send", io_is);
    ends = r.ends;
    while (read(p[1], sink, sizeof(sink)) > 0) {
    }
    WAIT_UNTIL(!r.op.armed);
    ok(r.ends == ends + 1 && r.res > 0, "%s: leaves it alive", io_is);
    io_cancel(io, &w.op);
    WAIT_UNTIL(w.ends == 2);
    close(p[0]);
    close(p[1]);
}

static void
test_cancel_queued(void)
{
    int p[2];
    char got[8];
    struct rec a, b;
    struct iovec iov = { "x", 1 };
    make_pair(p);
    rec_init(&a, rec_fn);
    rec_init(&b, rec_fn);
    io_send(io, &a.op, p[0], &iov, 1);
    io_cancel(io, &a.op);
    ok(io_queued(io) == 0, "%s: a cancelled send is not queued", io_is);
    io_flush(io);
    ok(read(p[1], got, sizeof(got)) < 0, "%s: and does not leave", io_is);
    ok(a.calls == 0 && a.op.armed, "%s: nor calls back yet", io_is);
    int64_t before = clock_ns();
    io_wait(io, NS_PER_S);
    ok(a.ends == 1 && a.res == -ECANCELED, "%s: the next io_wait() says -ECANCELED (%d)", io_is,
       a.res);
    ok(clock_ns() - before < NS_PER_S / 2, "%s: without sleep", io_is);
    /* The same operation again, while another is queued before and after. */
    io_send(io, &a.op, p[0], &iov, 1);
    io_send(io, &b.op, p[1], &iov, 1);
    io_cancel(io, &a.op);
    ok(io_queued(io) == 1, "%s: one of two is left", io_is);
    io_wait(io, 0);
    io_wait(io, 0);
    ok(a.ends == 2 && a.res == -ECANCELED && b.ends == 1 && b.res == 1,
       "%s: only the other is sent", io_is);
    close(p[0]);
    close(p[1]);
}

/* --- peers that go away --------------------------------------------------------------------------------------------*/

static void
test_peer_gone(void)
{
    int p[2];
    struct rec r;
    struct iovec iov = { long_text, 1024 * 1024 };

    make_pair(p);
    rec_init(&r, rec_fn);
    close(p[1]);
    io_send(io, &r.op, p[0], &iov, 1);
    WAIT_UNTIL(r.ends);
    ok(r.res == -EPIPE, "%s: to a closed peer: -EPIPE and no SIGPIPE (%d)", io_is, r.res);
    close(p[0]);

    for (int watched = 0; watched < 2; watched++) {
        struct rec w;
        make_tcp_pair(p);
        rec_init(&r, rec_fn);
        rec_init(&w, rec_fn);
        if (watched)
            io_watch(io, &w.op, p[0]);
        fill(&r, p[0], &iov);
        int ends = r.ends;
        setsockopt(p[1], SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 },
                   sizeof(struct linger));
        close(p[1]);
        WAIT_UNTIL(r.ends > ends);
        ok(r.res == -ECONNRESET || r.res == -EPIPE, "%s: a reset ends a blocked send (%d)", io_is,
           r.res);
        if (watched) {
            WAIT_UNTIL(w.calls);
            ok(w.bits & (POLLHUP | POLLERR), "%s: and is announced to the watch (%x)", io_is,
               (unsigned)w.bits);
            io_cancel(io, &w.op);
            WAIT_UNTIL(w.ends);
        }
        close(p[0]);
    }

    make_tcp_pair(p);
    rec_init(&r, rec_fn);
    fill(&r, p[0], &iov);
    int ends = r.ends;
    shutdown(p[0], SHUT_RDWR);
    WAIT_UNTIL(r.ends > ends);
    ok(r.ends == ends + 1 && r.res == -EPIPE, "%s: our own shutdown() ends a blocked send (%d)",
       io_is, r.res);
    close(p[0]);
    close(p[1]);

    io_send(io, &r.op, 1000, &iov, 1);
    ends = r.ends;
    WAIT_UNTIL(r.ends > ends);
    ok(r.res == -EBADF, "%s: a closed descriptor is -EBADF (%d)", io_is, r.res);
    int not_a_socket = open("/dev/null", O_WRONLY | O_CLOEXEC);
    io_send(io, &r.op, not_a_socket, &iov, 1);
    ends = r.ends;
    WAIT_UNTIL(r.ends > ends);
    ok(r.res == -ENOTSOCK, "%s: a file is -ENOTSOCK (%d)", io_is, r.res);
    close(not_a_socket);
}

/* --- many ----------------------------------------------------------------------------------------------------------*/

static void
test_order_and_many(void)
{
    enum { N = 3000, PAIRS = 40 };
    static int p[PAIRS][2];
    static struct rec r[PAIRS];
    static uint32_t text[PAIRS];
    struct iovec iov[PAIRS];
    int wrong = 0;
    for (int i = 0; i < PAIRS; i++) {
        make_pair(p[i]);
        rec_init(&r[i], rec_fn);
        iov[i] = (struct iovec){ &text[i], sizeof(text[i]) };
    }
    /* One after the other on each socket, more on all than the submission queue holds. */
    for (uint32_t n = 0; n < N / PAIRS * 30; n++) {
        for (int i = 0; i < PAIRS; i++) {
            text[i] = n;
            io_send(io, &r[i].op, p[i][0], &iov[i], 1);
        }
        if (n % 3 == 0)
            io_flush(io);
        io_wait(io, 0);
        for (int i = 0; i < PAIRS; i++) {
            uint32_t got = 0;
            if (r[i].op.armed)
                WAIT_UNTIL(!r[i].op.armed);
            if (read(p[i][1], &got, sizeof(got)) != sizeof(got) || got != n)
                wrong++;
        }
    }
    ok(wrong == 0, "%s: every send arrives in its turn (%d wrong)", io_is, wrong);
    for (int i = 0; i < PAIRS; i++) {
        close(p[i][0]);
        close(p[i][1]);
    }
}

/* More at once than the submission queue has slots. */
static void
test_queue_overrun(void)
{
    enum { N = 2500 };
    int p[2];
    static struct rec *r;
    static char sink[N + 1];
    struct iovec iov = { "x", 1 };
    r = calloc(N, sizeof(*r));
    make_tcp_pair(p);
    for (int i = 0; i < N; i++) {
        rec_init(&r[i], rec_fn);
        /* Against the rule of one in flight; harmless while none of them blocks and order does not matter. */
        io_send(io, &r[i].op, p[0], &iov, 1);
    }
    size_t got = 0;
    int ended = 0;
    int64_t until = clock_ns() + 5 * NS_PER_S;
    while (clock_ns() < until && (got < N || ended < N)) {
        io_wait(io, NS_PER_MS);
        ssize_t n = read(p[1], sink, sizeof(sink));
        got += n > 0 ? (size_t)n : 0;
        ended = 0;
        for (int i = 0; i < N; i++)
            ended += r[i].ends == 1 && r[i].res == 1;
    }
    ok(got == N && ended == N, "%s: %d sends at once: %d ended, %zu bytes arrived", io_is, N, ended,
       got);
    free(r);
    close(p[0]);
    close(p[1]);
}

static void
test_too_many_pieces(void)
{
    enum { N = 3000 };
    int p[2];
    static struct iovec iov[N];
    static char sink[N + 1];
    struct rec r;
    make_pair(p);
    rec_init(&r, rec_fn);
    for (int i = 0; i < N; i++)
        iov[i] = (struct iovec){ "x", 1 };
    io_send(io, &r.op, p[0], iov, N);
    WAIT_UNTIL(r.ends);
    ok(r.res == 1024, "%s: more pieces than the kernel takes are a short send (%d)", io_is, r.res);
    ok(read(p[1], sink, sizeof(sink)) == 1024, "%s: of what the kernel takes", io_is);
    close(p[0]);
    close(p[1]);
}

int
main(void)
{
    long_text = malloc(LONG);
    for (size_t i = 0; i < LONG; i += sizeof(uint32_t))
        memcpy(long_text + i, &(uint32_t){ (uint32_t)(i * 2654435761u) }, sizeof(uint32_t));
    EACH_BACKEND(test_deferred);
    EACH_BACKEND(test_long);
    EACH_BACKEND(test_cancel_blocked);
    EACH_BACKEND(test_watch_goes_first);
    EACH_BACKEND(test_cancel_queued);
    EACH_BACKEND(test_peer_gone);
    EACH_BACKEND(test_order_and_many);
    EACH_BACKEND(test_queue_overrun);
    EACH_BACKEND(test_too_many_pieces);
    free(long_text);
    return tap_done();
}
