/* fuzz_h1.c: any bytes as what a client sends on one connection, sent whole and cut up: the server
 * must neither crash nor leave anything behind, and what it answers must not depend on the cuts. */
#include <errno.h>
#include <sys/socket.h>

#include "../tools/c_app.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 200 * 1024, TURNS_MAX = 100000 };

static struct io *io;

/* Sends all of it in pieces of what step() says, closes, and gathers the answers. */
static struct buf
answers(const uint8_t *data, size_t size, unsigned seed, unsigned flags)
{
    static char *trusted[] = { "unix", "10.0.0.0/8", "2001:db8::/32" };
    static struct c_app app;
    struct buf out = { 0 };
    int ends[2];
    c_app_conf(&app);
    app.conf.server_header = app.conf.date_header = false;
    app.conf.http_lenient = flags & 7;
    app.conf.proxy_headers = flags & 8 ? 0x7f : 0;
    app.conf.proxy_protocol = flags >> 4 & 3;
    app.conf.proxy_trusted = (struct conf_strings){ trusted, ARRAY_LEN(trusted) };
    app.conf.limit_body = 100000;
    app.conf.limit_headers = 20;
    app.conf.limit_header_size = 4000;
    app.conf.limit_request_line = 1000;
    app.only = c_scope;
    c_app_init(&app, io);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
        abort();
    conn_open(&app.net, ends[0], AF_UNIX, false);
    size_t sent = 0;
    bool is_shut = false;
    for (int turn = 0;; turn++) {
        ASSERT(turn < TURNS_MAX);
        if (sent < size) {
            seed = seed * 1103515245 + 12345;
            size_t n = seed == 0 ? size : 1 + (seed >> 16) % ((seed >> 8) % 7 == 0 ? 5000 : 40);
            if (n > size - sent)
                n = size - sent;
            ssize_t k = send(ends[1], data + sent, n, MSG_NOSIGNAL);
            if (k > 0)
                sent += (size_t)k;
            else if (errno != EAGAIN)
                sent = size; /* refused and closed */
        } else if (!is_shut) {
            shutdown(ends[1], SHUT_WR);
            is_shut = true;
        }
        c_app_turn(&app, io, 0);
        char piece[16384];
        ssize_t k = recv(ends[1], piece, sizeof(piece), 0);
        if (k > 0)
            buf_append(&out, piece, (size_t)k);
        else if (k == 0 || errno != EAGAIN)
            break;
    }
    close(ends[1]);
    for (int i = 0; i < 100 && live.conns > 0; i++)
        c_app_turn(&app, io, 0);
    ASSERT(app.http.in_hand == 0 && live.conns == 0);
    c_app_fini(&app);
    ASSERT(live.chunks == 0 && live.held == 0 && live.read_blocks == 0);
    return out;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[IO_WHY_SIZE];
    if (io == NULL && io_open(IO_EPOLL, &io, why) < 0)
        abort();
    log_set_level(LOG_ERROR); /* each refusal of the PROXY protocol is a line */
    if (size < 2 || size > INPUT_MAX)
        return 0;
    /* The first byte: http.lenient, headers of proxies, PROXY protocol. */
    unsigned flags = data[0], seed = data[1] | 1u;
    BUF_OWNED struct buf whole = answers(data + 2, size - 2, 0, flags);
    BUF_OWNED struct buf cut = answers(data + 2, size - 2, seed, flags);
    ASSERT(whole.n == cut.n && (whole.n == 0 || memcmp(whole.p, cut.p, whole.n) == 0));
    return 0;
}
