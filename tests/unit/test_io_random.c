/* test_io_random.c: all calls mixed, from a seed: sockets that come and go, both sides of them, listeners, level polls.
 *
 * Checked at every step: streams arrive byte for byte and as long as the completions say; an operation ends once; nothing is
 * called back after its end (its memory is poisoned and freed there). Checked at rests: unread data was announced.
 *
 *     test_io_random [seed [steps]] */
#include "io_test.h"

static uint64_t rng_state;

static uint32_t
rng(uint32_t n)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)(rng_state >> 16) % n;
}

static int wrong;
static long events;

#define EXPECT(cond)                                                                               \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            if (++wrong <= 10)                                                                     \
                diag("%s: line %d: %s", io_is, __LINE__, #cond);                                   \
        }                                                                                          \
    } while (0)

/* --- connections ---------------------------------------------------------------------------------------------------*/

enum { CONNS = 60, TEXT = 1 << 20, MAGIC = 0x600d };

static char text[2 * TEXT]; /* byte i of a stream is text[i % TEXT] */

struct side {
    struct io_op watch;
    struct io_op send;
    struct iovec iov[4];
    int magic;
    int fd, peer;
    size_t sent, received;
    bool is_announced; /* since our last read to the end */
    bool is_closed;    /* by us; waits for the last completions */
};

static struct side *sides[CONNS];
static int zombies;

static void
side_free(struct side *s)
{
    if (!s->is_closed || s->watch.armed || s->send.armed)
        return;
    memset(s, 0x5a, sizeof(*s));
    free(s);
    zombies--;
}

static void
on_watch(struct io_op *op, int res, unsigned flags)
{
    struct side *s = CONTAINER_OF(op, struct side, watch);
    events++;
    EXPECT(s->magic == MAGIC);
    if (flags & IO_MORE) {
        EXPECT(res > 0);
        EXPECT(!op->cancelled);
        s->is_announced |= (res & (POLLIN | POLLRDHUP | POLLHUP)) != 0;
        if (rng(8) == 0)
            io_cancel(io, op);
        return;
    }
    EXPECT(res == -ECANCELED || s->is_closed);
    side_free(s);
}

static void
on_send(struct io_op *op, int res, unsigned flags)
{
    struct side *s = CONTAINER_OF(op, struct side, send);
    events++;
    EXPECT(s->magic == MAGIC && !(flags & IO_MORE) && res != 0);
    if (res > 0)
        s->sent += (size_t)res;
    else
        EXPECT(res == -ECANCELED || s->is_closed);
    side_free(s);
}

static struct side *
side_new(void)
{
    struct side *s = calloc(1, sizeof(*s));
    int p[2];
    if (rng(3) == 0)
        make_tcp_pair(p);
    else
        make_pair(p);
    io_op_init(&s->watch, on_watch);
    io_op_init(&s->send, on_send);
    s->magic = MAGIC;
    s->fd = p[0];
    s->peer = p[1];
    return s;
}

/* Never ends a write inside the same KiB twice, so that short and long ones alternate. */
static void
side_send(struct side *s)
{
    size_t at = s->sent % TEXT;
    unsigned n = 1 + rng(4);
    for (unsigned i = 0; i < n; i++) {
        size_t len = rng(4) == 0 ? 1 + rng(TEXT / 4) : 1 + rng(2000);
        s->iov[i] = (struct iovec){ text + at, len };
        at = (at + len) % TEXT;
    }
    io_send(io, &s->send, s->fd, s->iov, n);
}

static void
peer_read(struct side *s, size_t max)
{
    static char buf[TEXT];
    ssize_t n = read(s->peer, buf, 1 + rng((uint32_t)max));
    if (n > 0) {
        EXPECT(memcmp(buf, text + s->received % TEXT, (size_t)n) == 0);
        s->received += (size_t)n;
    }
}

static void
side_read(struct side *s)
{
    char buf[4096];
    while (read(s->fd, buf, sizeof(buf)) > 0) {
    }
    s->is_announced = false;
}

/* The end of a side, in one of the orders an owner may choose. */
static void
side_close(int i)
{
    struct side *s = sides[i];
    unsigned order = rng(4);
    sides[i] = NULL;
    zombies++;
    s->is_closed = true;
    if (order == 0)
        shutdown(s->fd, SHUT_RDWR);
    if (order == 1)
        close(s->fd);
    io_cancel(io, rng(2) ? &s->watch : &s->send);
    if (rng(2))
        io_flush(io);
    io_cancel(io, &s->watch);
    io_cancel(io, &s->send);
    if (order != 1)
        close(s->fd);
    close(s->peer);
    side_free(s);
}

static void
step_conn(void)
{
    int i = (int)rng(CONNS);
    struct side *s = sides[i];
    if (s == NULL) {
        sides[i] = side_new();
        return;
    }
    switch (rng(12)) {
    case 0:
    case 1:
        if (!s->watch.armed) {
            io_watch(io, &s->watch, s->fd);
            s->is_announced = false;
        }
        break;
    case 2:
    case 3:
        if (!s->send.armed)
            side_send(s);
        break;
    case 4:
        if (write(s->peer, text, 1 + rng(2000)) < 0)
            EXPECT(errno == EAGAIN);
        break;
    case 5:
    case 6:
    case 7:
        peer_read(s, TEXT);
        break;
    case 8:
        side_read(s);
        break;
    case 9:
        if (rng(4) == 0)
            io_cancel(io, &s->send);
        break;
    case 10:
        if (rng(4) == 0)
            io_cancel(io, &s->watch);
        break;
    case 11:
        if (rng(8) == 0)
            side_close(i);
        break;
    }
}

/* --- level polls ---------------------------------------------------------------------------------------------------*/

enum { POLLERS = 20 };

static struct poller {
    struct rec rec;
    int p[2];
    bool has_data;
    int calls_seen;
} pollers[POLLERS];

static void
on_poll(struct rec *r, int res, unsigned flags)
{
    events++;
    if (flags & IO_MORE) {
        EXPECT(res != 0 && !r->op.cancelled);
        EXPECT(((unsigned)res & ~(r->op.mask | POLLHUP | POLLERR)) == 0);
        if (rng(10) == 0)
            io_cancel(io, &r->op);
        if (rng(10) == 0)
            io_poll_change(io, &r->op, rng(2) ? POLLIN : POLLIN | POLLOUT);
    } else {
        EXPECT(res == -ECANCELED);
    }
}

static void
step_poller(void)
{
    struct poller *p = &pollers[rng(POLLERS)];
    char c[8];
    switch (rng(6)) {
    case 0:
        if (!p->rec.op.armed)
            io_poll(io, &p->rec.op, p->p[0], rng(2) ? POLLIN : POLLOUT);
        break;
    case 1:
        if (p->rec.op.armed)
            io_poll_change(io, &p->rec.op, 1u << (2 * rng(2))); /* POLLIN or POLLOUT */
        break;
    case 2:
        if (!p->has_data)
            p->has_data = write(p->p[1], "x", 1) == 1;
        break;
    case 3:
    case 4:
        p->has_data = p->has_data && read(p->p[0], c, sizeof(c)) != 1;
        break;
    case 5:
        if (rng(3) == 0)
            io_cancel(io, &p->rec.op);
        break;
    }
}

/* --- a listener ----------------------------------------------------------------------------------------------------*/

static struct rec listener;
static int listener_fd, dialled;
static struct sockaddr_in listener_addr;

static void
on_conn(struct rec *r, int res, unsigned flags)
{
    events++;
    if (res >= 0) {
        r->fds_n = 0;
        r->bits = 0;
        dialled--;
        close(res);
    } else {
        EXPECT(res == -ECANCELED && !(flags & IO_MORE));
    }
}

static void
step_listener(void)
{
    switch (rng(4)) {
    case 0:
        if (!listener.op.armed)
            io_accept(io, &listener.op, listener_fd);
        break;
    case 1:
        if (rng(4) == 0)
            io_cancel(io, &listener.op);
        break;
    default:
        if (dialled < 100) {
            close(dial(&listener_addr));
            dialled++;
        }
    }
}

/* --- rests ---------------------------------------------------------------------------------------------------------*/

/* Lets everything come to an end and looks whether anything was forgotten. */
static void
rest(void)
{
    int64_t until = clock_ns() + 10 * NS_PER_S;
    int left;
    do {
        left = zombies;
        io_wait(io, NS_PER_MS);
        for (int i = 0; i < CONNS; i++) {
            struct side *s = sides[i];
            if (s == NULL)
                continue;
            peer_read(s, TEXT);
            left += s->send.armed || s->received < s->sent;
            left += (s->watch.armed && s->watch.cancelled);
        }
        for (int i = 0; i < POLLERS; i++)
            left += pollers[i].rec.op.armed && pollers[i].rec.op.cancelled;
        left += listener.op.armed && (dialled > 0 || listener.op.cancelled);
    } while (left > 0 && clock_ns() < until);
    EXPECT(left == 0);
    for (int i = 0; i < CONNS; i++) {
        struct side *s = sides[i];
        if (s == NULL)
            continue;
        char c;
        EXPECT(s->received == s->sent);
        if (s->watch.armed && recv(s->fd, &c, 1, MSG_PEEK) == 1) {
            /* TCP may have delivered it this very moment. */
            WAIT_UNTIL(s->is_announced || s->watch.cancelled);
            EXPECT(s->is_announced || s->watch.cancelled);
        }
    }
    int calls[POLLERS];
    bool was_armed[POLLERS];
    uint32_t mask[POLLERS]; /* callbacks may change it */
    for (int i = 0; i < POLLERS; i++) {
        calls[i] = pollers[i].rec.calls;
        was_armed[i] = pollers[i].rec.op.armed;
        mask[i] = pollers[i].rec.op.mask;
    }
    for (int i = 0; i < 5; i++)
        io_wait(io, 0);
    for (int i = 0; i < POLLERS; i++) {
        struct poller *p = &pollers[i];
        bool is_ready = (p->rec.op.mask & POLLOUT) || ((p->rec.op.mask & POLLIN) && p->has_data);
        if (!was_armed[i] || !p->rec.op.armed || mask[i] != p->rec.op.mask)
            continue;
        if (is_ready)
            EXPECT(p->rec.calls > calls[i]);
        else if (mask[i] == POLLIN)
            EXPECT(p->rec.calls == calls[i]);
    }
}

static uint64_t seed = 1;
static long steps = 60000;

static void
test_random(void)
{
    rng_state = seed * 0x9e3779b97f4a7c15u;
    wrong = 0;
    events = 0;
    listener_fd = make_listener(&listener_addr, 1024);
    rec_init(&listener, rec_fn);
    listener.hook = on_conn;
    dialled = 0;
    for (int i = 0; i < POLLERS; i++) {
        make_pair(pollers[i].p);
        rec_init(&pollers[i].rec, rec_fn);
        pollers[i].rec.hook = on_poll;
        pollers[i].has_data = false;
    }
    for (long step = 0; step < steps; step++) {
        switch (rng(20)) {
        case 0:
            io_wait(io, 0);
            break;
        case 1:
            io_flush(io);
            break;
        case 2:
            if (rng(20) == 0)
                io_wake(io);
            if (rng(4) == 0)
                io_wait(io, rng(200000));
            break;
        case 3:
        case 4:
            step_listener();
            break;
        case 5:
        case 6:
        case 7:
            step_poller();
            break;
        default:
            step_conn();
            break;
        }
        if (step % 5000 == 4999)
            rest();
    }
    rest();
    for (int i = 0; i < CONNS; i++) {
        if (sides[i] != NULL)
            side_close(i);
    }
    for (int i = 0; i < POLLERS; i++)
        io_cancel(io, &pollers[i].rec.op);
    io_cancel(io, &listener.op);
    WAIT_UNTIL_MS(zombies == 0 && !listener.op.armed, 5000);
    settle();
    EXPECT(zombies == 0 && !listener.op.armed);
    for (int i = 0; i < POLLERS; i++) {
        EXPECT(!pollers[i].rec.op.armed);
        close(pollers[i].p[0]);
        close(pollers[i].p[1]);
    }
    close(listener_fd);
    ok(wrong == 0, "%s: seed %llu: %ld events, %d wrong", io_is, (unsigned long long)seed, events,
       wrong);
}

int
main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < TEXT; i += 4)
        memcpy(text + i, &(uint32_t){ (uint32_t)(i * 2654435761u) }, 4);
    memcpy(text + TEXT, text, TEXT);
    if (argc > 2)
        steps = atol(argv[2]);
    if (argc > 1) {
        seed = strtoull(argv[1], NULL, 0);
        EACH_BACKEND(test_random);
        return tap_done();
    }
    for (seed = 1; seed <= 4; seed++)
        EACH_BACKEND(test_random);
    return tap_done();
}
