/* test_conn.c: the life of connections: back-pressure both ways, deadlines, lingering close,
 * half-closed and vanished clients, accepting at the limits, draining. Each on both backends. */
#include "http_fixture.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include "http/h1.h" /* to set a waiting request's clock forward */
#include "net/out.h"

#define H "Host: x\r\n"

static const char hello[] = "GET /hello HTTP/1.1\r\n" H "\r\n";
static const char hello_close[] = "GET /hello HTTP/1.1\r\n" H "Connection: close\r\n\r\n";

static void
send_text(struct fix *f, int fd, const char *text)
{
    fix_send(f, fd, text, strlen(text));
}

static bool
is_served(struct fix *f, int fd)
{
    send_text(f, fd, hello);
    struct reply r = fix_read(f, fd, UNTIL_ANSWER);
    free(r.p);
    return r.status == 200;
}

/* --- idle connections ------------------------------------------------------------------------- */

static void
test_idle(struct fix *f)
{
    enum { N = 50 };
    int fds[N];
    for (int i = 0; i < N; i++) {
        fds[i] = fix_connect(f);
        is_served(f, fds[i]);
    }
    ok(live.conns == N && live.read_blocks == 0 && live.chunks == 0,
       "idle connections hold no buffers");
    ok(f->app.ops.size <= 700, "a connection takes %zu bytes", f->app.ops.size);
    /* A head that has begun holds a block, and gives it back when it is done. */
    fix_send(f, fds[0], hello, 10);
    fix_settle(f);
    ok(live.read_blocks == 1, "a begun head holds a block");
    fix_send(f, fds[0], hello + 10, sizeof(hello) - 11);
    struct reply r = fix_read(f, fds[0], UNTIL_ANSWER);
    ok(r.status == 200 && live.read_blocks == 0, "and no longer");
    free(r.p);
    for (int i = 0; i < N; i++)
        close(fds[i]);
    fix_settle(f);
    ok(live.conns == 0, "all are gone when their clients are");
}

static void
test_nodelay(struct fix *f)
{
    int fd = fix_connect(f);
    fix_settle(f);
    struct conn *c = CONTAINER_OF(f->app.net.conns.next, struct conn, all);
    int on = 0;
    socklen_t n = sizeof(on);
    ok(live.conns == 1 && getsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, &n) == 0 && on,
       "accepted sockets inherit TCP_NODELAY");
    close(fd);
    fix_settle(f);
}

/* --- back-pressure ---------------------------------------------------------------------------- */

static void
test_slow_reader(struct fix *f)
{
    int fd = fix_connect(f);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ 65536 }, sizeof(int));
    send_text(f, fd, "GET /stream HTTP/1.1\r\n" H "\r\n");
    fix_run_ms(f, 50);
    struct conn *c = CONTAINER_OF(f->app.net.conns.next, struct conn, all);
    size_t unsent = c->out_bytes;
    ok(unsent > NET_LOW_WATER && unsent < NET_HIGH_WATER + 64 * 1024,
       "an endless stream stops above the low-water mark (%zu)", unsent);
    fix_run_ms(f, 30);
    ok(c->out_bytes == unsent && conn_is_full(c), "and stays there");
    static char sink[1 << 20];
    size_t got = 0;
    for (int i = 0; i < 400 && got < 8 * sizeof(sink); i++) {
        ssize_t n = recv(fd, sink, sizeof(sink), 0);
        got += n > 0 ? (size_t)n : 0;
        fix_turn(f, 1);
    }
    ok(got > sizeof(sink), "reading makes it go on (%zu)", got);
    close(fd);
    fix_run_ms(f, 20);
    ok(live.conns == 0 && live.chunks == 0, "it ends with its client");
}

/* Answers that an app has made and the client does not read are bounded, too: what comes behind
 * them waits. */
static void
test_unread_answers(struct fix *f)
{
    enum { N = 100, SIZE = 100 * 1000 };
    int fd = fix_connect(f);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ 65536 }, sizeof(int));
    for (int i = 0; i < N; i++)
        send_text(f, fd, i + 1 < N ? "GET /held/100000 HTTP/1.1\r\n" H "\r\n" : hello_close);
    fix_run_ms(f, 100);
    struct conn *c = CONTAINER_OF(f->app.net.conns.next, struct conn, all);
    ok(conn_is_full(c) && c->out_bytes < 3 * SIZE, "a pipeline stops where its answers wait (%zu)",
       c->out_bytes);
    fix_run_ms(f, 50);
    struct reply r = fix_read(f, fd, UNTIL_END);
    size_t answers = 0;
    for (const char *p = r.p; (p = memmem(p, (size_t)(r.p + r.n - p), "HTTP/1.1 200", 12)); p++)
        answers++;
    ok(r.eof && answers == N && r.n > (size_t)(N - 1) * SIZE,
       "reading makes it go on (%zu answers)", answers);
    free(r.p);
    close(fd);
    fix_settle(f);
}

/* Fills all pieces of a chunk of output, the last but one of them with the kernel and longer than
 * what the socket takes; the head of the next answer then waits behind them for its body. */
static unsigned crowd_turns; /* since the long piece was written */

static void
app_crowd(struct c_req *q)
{
    static char piece[12000];
    const struct conn *c = (const struct conn *)q->h;
    size_t bad;
    if (!h1_is_started(q->h)) {
        h1_start(q->h, 200, NULL, 0, &bad);
        if (crowd_turns == 0) {
            memset(piece, 'p', sizeof(piece));
            h1_write(q->h, piece, 1, NULL, false);
            net_flush(&q->app->net);
            h1_write(q->h, piece, 1, NULL, false);
        }
    } else if (crowd_turns == 0) { /* one goes, one comes */
        bool is_next_last = c->out.last->n == NET_IOV - 2;
        h1_write(q->h, piece, is_next_last ? sizeof(piece) : 1, NULL, false);
        crowd_turns = is_next_last;
    } else if (crowd_turns < 8) {
        if (crowd_turns++ == 1) /* the long piece is on its way: the socket takes what it can */
            setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &(int){ 4096 }, sizeof(int));
    } else if (crowd_turns == 8) {
        crowd_turns++;
        h1_write(q->h, piece, 1, NULL, true);
        c_end(q);
        return;
    } else if (c->out.in_flight >= 2) {
        h1_write(q->h, "body", 4, NULL, true);
        c_end(q);
        return;
    }
    c_note(q);
}

static void
test_crowd(struct fix *f)
{
    static const char custom[] = "GET /custom HTTP/1.1\r\n" H "\r\n",
                      last[] = "GET /custom HTTP/1.1\r\n" H "Connection: close\r\n\r\n";
    f->app.custom = app_crowd;
    crowd_turns = 0;
    int fd = fix_connect(f);
    send_text(f, fd, custom);
    send_text(f, fd, last);
    fix_run_ms(f, 50);
    const struct conn *c = CONTAINER_OF(f->app.net.conns.next, struct conn, all);
    ok(f->app.begun == 2 && c->out.first->n == NET_IOV && c->out.in_flight == 1 &&
           c->out_reserved > 0,
       "a head waits behind a full chunk");
    struct reply r = { .p = calloc(1, 32768) };
    int64_t until = clock_ns() + 2 * NS_PER_S;
    while (!r.eof && clock_ns() < until) {
        ssize_t n = recv(fd, r.p + r.n, 1000, 0);
        r.eof = n == 0;
        r.n += n > 0 ? (size_t)n : 0;
        fix_turn(f, 1);
    }
    static const char end[] = "\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody";
    ok(r.eof && r.n > sizeof(end) && memcmp(r.p + r.n - sizeof(end) + 1, end, sizeof(end) - 1) == 0,
       "and is sent with its body");
    free(r.p);
    close(fd);
    fix_settle(f);
}

/* An app that takes nothing of the body. */
static void
app_lazy(struct c_req *q)
{
    if (h1_is_gone(q->h))
        c_end(q);
}

/* A client that goes while its window is shut says FIN first, and only later is the connection
 * known to be broken: both are told. */
static void
test_gone_twice(struct fix *f)
{
    int fd = fix_connect(f);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ 8192 }, sizeof(int));
    send_text(f, fd, "GET /stream HTTP/1.1\r\n" H "\r\n");
    fix_run_ms(f, 50);
    static char sink[1 << 16];
    while (recv(fd, sink, sizeof(sink), 0) > 0)
        continue;
    close(fd);
    int64_t end = clock_ns() + FIX_WAIT_MS * NS_PER_MS;
    while (live.conns > 0 && clock_ns() < end)
        fix_turn(f, 20);
    ok(live.conns == 0 && f->app.http.in_hand == 0,
       "a stream ends when a half-closed connection breaks");
}

static void
test_slow_app(struct fix *f)
{
    static char data[1 << 20];
    int fd = fix_connect(f);
    f->app.custom = app_lazy;
    send_text(f, fd, "POST /custom HTTP/1.1\r\n" H "Content-Length: 100000000\r\n\r\n");
    fix_settle(f);
    size_t sent = 0;
    for (int i = 0; i < 100; i++) {
        ssize_t n = send(fd, data, sizeof(data), MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        fix_turn(f, 0);
    }
    struct conn *c = CONTAINER_OF(f->app.net.conns.next, struct conn, all);
    ok(live.read_blocks == 1 && c->in != NULL && c->in->cap == NET_BIG_BLOCK,
       "an app that does not read stops reading at one block (%zu sent)", sent);
    int tries = 0;
    while (send(fd, data, sizeof(data), MSG_NOSIGNAL) > 0 && tries++ < 100)
        fix_turn(f, 0);
    ok(tries < 100, "the client is held back");
    close(fd);
    fix_run_ms(f, 20);
    /* Bytes that were not read stand between the app and the end of the stream: it is told when it
     * has taken them, or when the connection is known to be broken. */
    LIST_FOR_EACH_SAFE(node, &f->app.net.conns)
        conn_fail(CONTAINER_OF(node, struct conn, all), -ECONNRESET);
    fix_settle(f);
    ok(live.conns == 0, "a broken one ends its request");
}

static void
test_mirror(struct fix *f)
{
    enum { N = 3000000 };
    char *data = malloc(N), *back = malloc(N + 1), head[128]; /* + 1: to see the end */
    for (int i = 0; i < N; i++)
        data[i] = (char)(i * 31 + i / 997);
    int fd = fix_connect(f);
    int n = snprintf(head, sizeof(head), "POST /mirror HTTP/1.0\r\nContent-Length: %d\r\n\r\n", N);
    fix_send(f, fd, head, (size_t)n);
    size_t out = 0, in = 0, head_n = 0;
    bool eof = false;
    int64_t end = clock_ns() + FIX_WAIT_MS * NS_PER_MS;
    char first[512];
    while (!eof && clock_ns() < end) {
        ssize_t k = out < N ? send(fd, data + out, N - out, MSG_NOSIGNAL) : 0;
        out += k > 0 ? (size_t)k : 0;
        fix_turn(f, 0);
        if (head_n == 0) {
            k = recv(fd, first, sizeof(first), MSG_PEEK);
            char *blank = k > 0 ? memmem(first, (size_t)k, "\r\n\r\n", 4) : NULL;
            if (blank != NULL) {
                head_n = (size_t)(blank + 4 - first);
                recv(fd, first, head_n, 0);
            }
            continue;
        }
        k = recv(fd, back + in, N + 1 - in, 0);
        in += k > 0 ? (size_t)k : 0;
        eof = k == 0;
    }
    ok(in == N && eof && memcmp(data, back, N) == 0,
       "3 MB come back as they went, both ways at once");
    close(fd);
    fix_settle(f);
    free(data);
    free(back);
}

/* --- the end ---------------------------------------------------------------------------------- */

static void
test_half_close(struct fix *f)
{
    int fd = fix_connect(f);
    send_text(f, fd, hello);
    shutdown(fd, SHUT_WR);
    struct reply r = fix_read(f, fd, UNTIL_END);
    ok(r.status == 200 && r.eof, "a half-closed client gets its answer");
    free(r.p);
    close(fd);

    fd = fix_connect(f);
    send_text(f, fd, "GET /hang HTTP/1.1\r\n" H "\r\n");
    fix_settle(f);
    ok(f->app.http.in_hand == 1, "a request waits");
    shutdown(fd, SHUT_WR);
    fix_run_ms(f, 20);
    ok(f->app.http.in_hand == 0, "and is told that its client is gone");
    close(fd);

    fd = fix_connect(f);
    send_text(f, fd, "POST /echo HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\nhello");
    fix_settle(f);
    shutdown(fd, SHUT_WR);
    r = fix_read(f, fd, UNTIL_END);
    ok(r.status == 0 && r.eof && f->app.http.in_hand == 0, "a body that is cut off is no body");
    free(r.p);
    close(fd);

    /* The end is known at once with the data: the body comes first. */
    fd = fix_connect(f);
    char *big = calloc(1, 300000);
    send_text(f, fd, "POST /echo HTTP/1.1\r\n" H "Content-Length: 100000\r\n\r\n");
    fix_send(f, fd, big, 100000);
    shutdown(fd, SHUT_WR);
    r = fix_read(f, fd, UNTIL_END);
    ok(r.status == 200 && r.body_n == 100000,
       "a whole body with the end right behind it is answered");
    free(r.p);
    free(big);
    close(fd);
    fix_settle(f);
    ok(live.conns == 0, "all closed");
}

static void
test_reset(struct fix *f)
{
    int fd = fix_connect(f);
    send_text(f, fd, "GET /hang HTTP/1.1\r\n" H "\r\n");
    fix_settle(f);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
    close(fd);
    fix_run_ms(f, 20);
    ok(live.conns == 0 && f->app.http.in_hand == 0, "a reset ends a waiting request");

    fd = fix_connect(f);
    send_text(f, fd, "GET /stream HTTP/1.1\r\n" H "\r\n");
    fix_run_ms(f, 20);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
    close(fd);
    fix_run_ms(f, 20);
    ok(live.conns == 0 && live.chunks == 0, "a reset ends a stream");

    fd = fix_connect(f);
    send_text(f, fd, "GET /held/9000000 HTTP/1.1\r\n" H "\r\n");
    fix_run_ms(f, 20);
    ok(live.held == 1, "a big piece is held while it is sent");
    close(fd);
    fix_run_ms(f, 20);
    ok(live.conns == 0 && live.held == 0, "and released when the client has gone");
}

/* What the client still sends must not make the kernel reset the connection before the answer was
 * read. */
static void
test_lingering(struct fix *f)
{
    static char data[100000];
    for (int i = 0; i < 20; i++) {
        int fd = fix_connect(f);
        send_text(f, fd,
                  "POST /scope HTTP/1.1\r\n" H "Content-Length: 1000000000000000000000\r\n\r\n");
        fix_send(f, fd, data, sizeof(data));
        fix_settle(f);
        send(fd, data, sizeof(data), MSG_NOSIGNAL);
        fix_settle(f);
        struct reply r = fix_read(f, fd, UNTIL_END);
        if (r.status != 400 || !r.eof || r.reset) {
            ok(0, "the refusal arrives whole (%d%s)", r.status, r.reset ? ", reset" : "");
            i = 20;
        } else if (i == 19) {
            ok(1, "a refusal arrives whole though more is sent");
        }
        free(r.p);
        close(fd);
        fix_settle(f);
    }
    ok(live.conns == 0, "all closed");
    /* A client that neither closes nor stops is not listened to for ever. */
    int fd = fix_connect(f);
    send_text(f, fd, "nonsense\r\n\r\n");
    fix_settle(f);
    size_t sent = 0;
    for (int i = 0; i < 1000 && live.conns > 0; i++) {
        ssize_t n = send(fd, data, sizeof(data), MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        fix_turn(f, 0);
    }
    ok(live.conns == 0, "lingering is bounded in bytes (%zu sent)", sent);
    close(fd);
    fd = fix_connect(f);
    send_text(f, fd, "nonsense\r\n\r\n");
    fix_settle(f);
    ok(live.conns == 1, "it lingers");
    fix_run_ms(f, NET_LINGER_MS + 200);
    ok(live.conns == 0, "lingering is bounded in time");
    close(fd);
}

static void
test_unread_body(struct fix *f)
{
    static char data[400000];
    int fd = fix_connect(f);
    send_text(f, fd, "POST /hello HTTP/1.1\r\n" H "Content-Length: 50000\r\n\r\n");
    fix_settle(f);
    struct reply r = fix_read(f, fd, UNTIL_ANSWER);
    ok(r.status == 200 && strstr(r.p, "connection: close") == NULL,
       "an answer before a small body");
    free(r.p);
    fix_send(f, fd, data, 50000);
    ok(is_served(f, fd), "the body is skipped and the connection kept");
    send_text(f, fd, "POST /hello HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    r = fix_read(f, fd, UNTIL_ANSWER);
    ok(r.status == 200, "an answer before chunks");
    free(r.p);
    send_text(f, fd, "2\r\nde\r\n0\r\n\r\n");
    ok(is_served(f, fd), "chunks are skipped and the connection kept");
    send_text(f, fd, "POST /hello HTTP/1.1\r\n" H "Content-Length: 400000\r\n\r\n");
    fix_send(f, fd, data, 1000);
    r = fix_read(f, fd, UNTIL_ANSWER);
    ok(r.status == 200 && strstr(r.p, "connection: close") != NULL,
       "a large unread body ends the connection");
    free(r.p);
    fix_send(f, fd, data, sizeof(data) - 1000);
    ok(fix_is_closed(f, fd), "it does");
    close(fd);
    fix_settle(f);
}

/* --- accepting at the limits ------------------------------------------------------------------ */

static void
test_conns_max(struct fix *f)
{
    enum { MAX = 4, N = 10 };
    int fds[N];
    f->app.net.conns_max = MAX;
    for (int i = 0; i < N; i++)
        fds[i] = fix_connect(f);
    fix_run_ms(f, 30);
    long first = live.conns;
    ok(first >= MAX && first < N + 1, "%ld of %d connections are accepted", first, N);
    int served = 0;
    for (int i = 0; i < N; i++) {
        /* Each is served once those before it have gone. */
        served += is_served(f, fds[i]);
        close(fds[i]);
    }
    ok(served == N, "the others are served later (%d)", served);
    fix_settle(f);
    f->app.net.conns_max = 0;
}

static void
test_no_descriptors(struct fix *f)
{
    struct rlimit old, few;
    int fds[3], spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    char path[] = "/tmp/ringcorn-test-conn-XXXXXX";
    int log = mkstemp(path);
    unlink(path);
    for (int i = 0; i < 3; i++)
        fds[i] = fix_connect(f);
    getrlimit(RLIMIT_NOFILE, &old);
    few = old;
    few.rlim_cur = (rlim_t)fds[2] + 1; /* nothing is free below */
    int filler[64], filled = 0;
    setrlimit(RLIMIT_NOFILE, &few);
    while (filled < 64 && (filler[filled] = dup(spare)) >= 0)
        filled++;
    log_set_fd(log);
    int64_t began = clock_ns();
    unsigned turns = 0;
    while (clock_ns() - began < 350 * NS_PER_MS) {
        fix_turn(f, 50);
        turns++;
    }
    log_set_fd(STDERR_FILENO);
    ok(live.conns == 0 && turns < 60, "without descriptors it waits and does not spin (%u turns)",
       turns);
    char text[4096] = { 0 };
    ssize_t n = pread(log, text, sizeof(text) - 1, 0);
    ok(n > 0 && strstr(text, "cannot accept") && strchr(text, '\n') == text + n - 1,
       "and says so once");
    setrlimit(RLIMIT_NOFILE, &old);
    for (int i = 0; i < filled; i++)
        close(filler[i]);
    bool served = true;
    for (int i = 0; i < 3; i++)
        served = is_served(f, fds[i]) && served;
    ok(served, "it accepts again when there are some");
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    close(spare);
    close(log);
    fix_settle(f);
}

static void
test_listener_close(struct fix *f)
{
    int fd = fix_connect(f);
    fix_settle(f);
    listener_close(f->listener);
    fix_settle(f);
    ok(list_is_empty(&f->app.net.listeners), "a closed listener is gone");
    ok(is_served(f, fd), "what it had accepted stays");
    int late = fix_connect(f);
    send_text(f, late, hello);
    fix_run_ms(f, 20);
    char byte;
    ok(live.conns == 1 && recv(late, &byte, 1, 0) < 0,
       "what comes later waits in the kernel's queue");
    f->listener = listener_open(&f->app.net, f->listen_fd, false);
    struct reply r = fix_read(f, late, UNTIL_ANSWER);
    ok(r.status == 200, "for whoever listens next");
    free(r.p);
    close(late);
    close(fd);
    fix_settle(f);
}

/* A sibling that shares the socket is woken for none of these: the kernel has woken the one that closes. */
static void
test_listener_close_at_once(struct fix *f)
{
    int fds[3];
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        fds[i] = fix_connect(f);
    listener_close(f->listener);
    fix_settle(f);
    ok(list_is_empty(&f->app.net.listeners), "the listener is gone");
    bool served = true;
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        served = is_served(f, fds[i]) && served;
    ok(served, "what was in the queue when it closed is served");
    f->listener = listener_open(&f->app.net, f->listen_fd, false);
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        close(fds[i]);
    fix_settle(f);
}

static void
test_peer(struct fix *f)
{
    int fd = fix_connect(f);
    struct sockaddr_in own, seen;
    socklen_t n = sizeof(own);
    fix_settle(f);
    struct conn *c = CONTAINER_OF(f->app.net.conns.next, struct conn, all);
    getsockname(fd, (struct sockaddr *)&own, &n);
    memcpy(&seen, conn_peer(c), sizeof(seen));
    ok(seen.sin_family == AF_INET && seen.sin_port == own.sin_port &&
           seen.sin_addr.s_addr == own.sin_addr.s_addr,
       "the peer's address");
    memcpy(&seen, conn_local(c), sizeof(seen));
    ok(seen.sin_family == AF_INET && seen.sin_port == ((struct sockaddr_in *)&f->addr)->sin_port,
       "our address");
    close(fd);
    fix_settle(f);
}

static void
test_common(enum io_backend backend, const char *name)
{
    static const struct {
        const char *name;
        void (*test)(struct fix *f);
        int family; /* 0 = both */
    } tests[] = {
        { "idle", test_idle, 0 },
        { "nodelay", test_nodelay, AF_INET },
        { "peer", test_peer, AF_INET },
        { "slow reader", test_slow_reader, 0 },
        { "unread answers", test_unread_answers, AF_INET },
        { "crowd", test_crowd, AF_UNIX },
        { "gone twice", test_gone_twice, AF_INET },
        { "slow app", test_slow_app, 0 },
        { "mirror", test_mirror, 0 },
        { "half-close", test_half_close, 0 },
        { "reset", test_reset, AF_INET },
        { "lingering", test_lingering, AF_INET },
        { "unread body", test_unread_body, 0 },
        { "limits.connections", test_conns_max, 0 },
        { "no descriptors", test_no_descriptors, AF_INET },
        { "listener", test_listener_close, AF_INET },
        { "listener at once", test_listener_close_at_once, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(tests); i++) {
        for (int k = 0; k < 2; k++) {
            int family = k == 0 ? AF_INET : AF_UNIX;
            char what[64];
            struct fix f;
            if (tests[i].family != 0 && tests[i].family != family)
                continue;
            fix_init(&f);
            if (!fix_open(&f, backend, family)) {
                diag("%s cannot be had here", name);
                return;
            }
            snprintf(what, sizeof(what), "%s, %s, %s", name, family == AF_INET ? "TCP" : "unix",
                     tests[i].name);
            diag("%s", what);
            tests[i].test(&f);
            fix_close(&f, what);
        }
    }
}

/* --- deadlines -------------------------------------------------------------------------------- */

/* Milliseconds until the server closes. */
static long
closed_after_ms(struct fix *f, int fd, struct reply *r)
{
    int64_t began = clock_ns();
    *r = fix_read(f, fd, UNTIL_END);
    return r->eof || r->reset ? (long)((clock_ns() - began) / NS_PER_MS) : -1;
}

/* An app that holds the loop up for longer than any timeout, and only then asks for the body. */
static void
app_hold_up(struct c_req *q)
{
    if (!h1_is_started(q->h)) {
        size_t bad;
        nanosleep(&(struct timespec){ .tv_nsec = 600 * NS_PER_MS }, NULL);
        h1_start(q->h, 200, NULL, 0, &bad);
    }
    if (c_read_body(q)) {
        h1_write(q->h, q->body.p, q->body.n, NULL, true);
        c_end(q);
    }
}

/* Answers after 600 ms, in which the loop stood still. */
static void
app_late(struct c_req *q)
{
    nanosleep(&(struct timespec){ .tv_nsec = 600 * NS_PER_MS }, NULL);
    c_hello(q);
}

static void
test_timeouts(enum io_backend backend, const char *name)
{
    struct fix f;
    struct reply r;
    fix_init(&f);
    f.app.conf.timeout_header_ms = 300;
    f.app.conf.timeout_body_ms = 300;
    f.app.conf.timeout_keep_alive_ms = 500;
    f.app.conf.timeout_send_ms = 300;
    if (!fix_open(&f, backend, AF_INET))
        return;
    diag("%s, timeouts", name);

    int fd = fix_connect(&f);
    fix_settle(&f);
    long ms = closed_after_ms(&f, fd, &r);
    ok(ms >= 250 && ms < 800 && r.n == 0,
       "a silent connection is closed without a word after %ld ms", ms);
    free(r.p);
    close(fd);

    fd = fix_connect(&f);
    send_text(&f, fd, "GET /hello HTT");
    ms = closed_after_ms(&f, fd, &r);
    ok(ms >= 250 && ms < 800 && r.status == 408, "half a head is answered with 408 after %ld ms",
       ms);
    free(r.p);
    close(fd);

    /* Byte by byte does not help. */
    fd = fix_connect(&f);
    int64_t began = clock_ns();
    for (size_t i = 0; i < sizeof(hello) - 2; i++) {
        if (send(fd, hello + i, 1, MSG_NOSIGNAL) < 0)
            break;
        fix_run_ms(&f, 20);
    }
    r = fix_read(&f, fd, UNTIL_END);
    ms = (long)((clock_ns() - began) / NS_PER_MS);
    ok(r.status == 408 && ms < 1000, "a head that trickles in is answered with 408");
    free(r.p);
    close(fd);

    fd = fix_connect(&f);
    ok(is_served(&f, fd), "served");
    ms = closed_after_ms(&f, fd, &r);
    ok(ms >= 450 && ms < 1000 && r.n == 0,
       "a kept connection is closed without a word after %ld ms", ms);
    free(r.p);
    close(fd);

    fd = fix_connect(&f);
    bool served = true;
    for (int i = 0; i < 8; i++) {
        served = is_served(&f, fd) && served;
        fix_run_ms(&f, 200);
    }
    ok(served, "one that is used every 200 ms stays");
    send_text(&f, fd, "GET /");
    ms = closed_after_ms(&f, fd, &r);
    ok(ms >= 250 && ms < 700 && r.status == 408, "the next head has the header timeout again");
    free(r.p);
    close(fd);

    fd = fix_connect(&f);
    send_text(&f, fd, "POST /echo HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\nhel");
    fix_run_ms(&f, 150);
    send_text(&f, fd, "lo");
    ms = closed_after_ms(&f, fd, &r);
    ok(ms >= 250 && ms < 700 && r.status == 408,
       "a body that stops is answered with 408 after %ld ms", ms);
    ok(f.app.http.in_hand == 0, "and its request is told");
    free(r.p);
    close(fd);

    /* Deadlines count from when they begin, not from when the turn began. */
    f.app.custom = app_hold_up;
    fd = fix_connect(&f);
    send_text(&f, fd, "POST /custom HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\n");
    fix_run_ms(&f, 650);
    send_text(&f, fd, "hello");
    r = fix_read(&f, fd, UNTIL_ANSWER);
    ok(r.status == 200 && r.body_n == 5, "the body timeout begins when the app waits (%d)",
       r.status);
    free(r.p);
    close(fd);

    f.app.custom = app_late;
    fd = fix_connect(&f);
    send_text(&f, fd, "GET /custom HTTP/1.1\r\n" H "\r\n");
    r = fix_read(&f, fd, UNTIL_ANSWER);
    free(r.p);
    ms = closed_after_ms(&f, fd, &r);
    ok(ms >= 450 && ms < 1000, "and that of keep-alive with the answer (%ld ms)", ms);
    free(r.p);
    close(fd);

    f.app.custom = app_lazy;
    fd = fix_connect(&f);
    send_text(&f, fd, "POST /custom HTTP/1.1\r\n" H "Content-Length: 10\r\n\r\n");
    fix_run_ms(&f, 800);
    ok(f.app.http.in_hand == 1, "an app that does not wait for the body has no body timeout");
    close(fd);
    fix_run_ms(&f, 20);

    fd = fix_connect(&f);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){ 4096 }, sizeof(int));
    send_text(&f, fd, "GET /held/9000000 HTTP/1.1\r\n" H "\r\n");
    fix_run_ms(&f, 50);
    ok(live.held == 1, "a client that does not read");
    began = clock_ns();
    while (live.conns > 0 && clock_ns() - began < 5 * NS_PER_S)
        fix_turn(&f, 10);
    ms = (long)((clock_ns() - began) / NS_PER_MS);
    ok(live.held == 0 && live.conns == 0 && ms >= 200 && ms < 3000, "is given up after %ld ms", ms);
    close(fd);

    fix_settle(&f);
    fix_close(&f, "timeouts");
}

static void
test_rate(enum io_backend backend)
{
    struct fix f;
    fix_init(&f);
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    int fd = fix_connect(&f);
    send_text(&f, fd, "POST /echo HTTP/1.1\r\n" H "Content-Length: 100000\r\n\r\n");
    fix_settle(&f);
    struct reply r = { 0 };
    /* A byte now and then, for eleven seconds on the server's clock: it is set forward instead of
     * waited for. */
    for (int i = 0; i < 30; i++) {
        send(fd, "x", 1, MSG_NOSIGNAL);
        struct h1 *h = h1_of(CONTAINER_OF(f.app.net.conns.next, struct conn, all));
        if (h->r != NULL)
            h->r->waited_ns += NS_PER_S;
        fix_settle(&f);
        char peek;
        if (recv(fd, &peek, 1, MSG_PEEK) > 0) {
            ok(i >= 9 && i < 12, "a body slower than the minimum rate is refused after %d s", i);
            break;
        }
    }
    r = fix_read(&f, fd, UNTIL_END);
    ok(r.status == 408, "with 408");
    free(r.p);
    close(fd);
    fix_settle(&f);
    fix_close(&f, "rate");
}

/* --- draining --------------------------------------------------------------------------------- */

static bool drain_now;

static void
app_until_drain(struct c_req *q)
{
    if (drain_now || h1_is_gone(q->h))
        c_hello(q);
}

static void
test_drain(enum io_backend backend, const char *name)
{
    struct fix f;
    struct reply r;
    fix_init(&f);
    if (!fix_open(&f, backend, AF_INET))
        return;
    diag("%s, drain", name);
    drain_now = false;
    f.app.custom = app_until_drain;
    int idle = fix_connect(&f), late = fix_connect(&f), busy = fix_connect(&f),
        fresh = fix_connect(&f);
    is_served(&f, idle);
    is_served(&f, late);
    send_text(&f, busy, "GET /custom HTTP/1.1\r\n" H "\r\n");
    fix_settle(&f);
    http_drain(&f.app.http);
    fix_run_ms(&f, 50);
    send_text(&f, late, hello);
    r = fix_read(&f, late, UNTIL_END);
    ok(r.status == 200 && strstr(r.p, "connection: close") && r.eof,
       "a request on its way is answered, then the end");
    free(r.p);
    long ms = closed_after_ms(&f, idle, &r);
    ok(ms >= 0 && ms < 1000 && r.n == 0, "an idle connection is closed after %ld ms", ms);
    free(r.p);
    ok(is_served(&f, fresh), "a connection that has not asked yet may still ask");
    ok(fix_is_closed(&f, fresh), "once");
    ok(f.app.http.in_hand == 1, "a request in hand stays");
    drain_now = true;
    shutdown(busy, SHUT_WR); /* wakes it */
    r = fix_read(&f, busy, UNTIL_END);
    ok(r.status == 200 && strstr(r.p, "connection: close"), "and its answer says close");
    free(r.p);
    close(idle);
    close(late);
    close(busy);
    close(fresh);
    fix_run_ms(&f, 50);
    ok(live.conns == 0, "empty");
    fix_close(&f, "drain");
}

/* Everything at once, with requests, sends and closes in the middle. */
static void
test_fini(enum io_backend backend)
{
    struct fix f;
    fix_init(&f);
    if (!fix_open(&f, backend, AF_INET))
        return;
    int fds[6];
    static const char *const texts[] = {
        "GET /hang HTTP/1.1\r\n" H "\r\n",
        "GET /stream HTTP/1.1\r\n" H "\r\n",
        "GET /held/9000000 HTTP/1.1\r\n" H "\r\n",
        "GET /hel",
        "nonsense\r\n\r\n",
        "POST /echo HTTP/1.1\r\n" H "Content-Length: 100\r\n\r\nhello",
    };
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        fds[i] = fix_connect(&f);
        send_text(&f, fds[i], texts[i]);
    }
    fix_run_ms(&f, 30);
    ok(live.conns == 6, "six connections in six states");
    fix_close(&f, "net_fini()");
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        close(fds[i]);
}

static void
test_close_clients(enum io_backend backend)
{
    struct fix f;
    fix_init(&f);
    if (!fix_open(&f, backend, AF_INET))
        return;
    int served = 0;
    for (int i = 0; i < 200; i++) {
        int fd = fix_connect(&f);
        fix_send(&f, fd, hello_close, sizeof(hello_close) - 1);
        struct reply r = fix_read(&f, fd, UNTIL_END);
        served += r.status == 200 && r.eof;
        free(r.p);
        close(fd);
    }
    ok(served == 200, "200 clients that close");
    fix_settle(&f);
    fix_close(&f, "closing clients");
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN);
    static const enum io_backend backends[] = { IO_EPOLL, IO_URING };
    for (size_t k = 0; k < ARRAY_LEN(backends); k++) {
        const char *name = backends[k] == IO_EPOLL ? "epoll" : "io_uring";
        test_common(backends[k], name);
        test_close_clients(backends[k]);
        test_timeouts(backends[k], name);
        test_rate(backends[k]);
        test_drain(backends[k], name);
        test_fini(backends[k]);
    }
    return tap_done();
}
