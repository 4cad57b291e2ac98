/* test_h1_write.c: answers out: exact bytes for each way an application can answer, and what is
 * refused of what it says. */
#include "http_fixture.h"

#define H   "Host: x\r\n"
#define BIG (200 * 1024)

static char big[BIG];
static enum http_write last; /* what the call under test returned */
static size_t last_bad;

static enum http_write
start(struct c_req *q, int status, const struct http_header *v, size_t n)
{
    last_bad = 99;
    return last = h1_start(q->h, status, v, n, &last_bad);
}

/* --- framing ---------------------------------------------------------------------------------- */

static void
app_one_piece(struct c_req *q)
{
    start(q, 200, NULL, 0);
    last = h1_write(q->h, "hello", 5, NULL, true);
    c_end(q);
}

static void
app_empty(struct c_req *q)
{
    start(q, 200, NULL, 0);
    h1_write(q->h, "", 0, NULL, true);
    c_end(q);
}

static void
app_two_pieces(struct c_req *q)
{
    start(q, 200, NULL, 0);
    h1_write(q->h, "hello ", 6, NULL, false);
    h1_write(q->h, "", 0, NULL, false); /* an empty chunk would end the body: must not be sent */
    h1_write(q->h, "world", 5, NULL, false);
    h1_write(q->h, "", 0, NULL, true);
    c_end(q);
}

static void
app_length(struct c_req *q)
{
    struct http_header v[] = { { SLICE("Content-Length"), SLICE(" 11 ") } };
    start(q, 200, v, 1);
    h1_write(q->h, "hello ", 6, NULL, false);
    h1_write(q->h, "world", 5, NULL, true);
    c_end(q);
}

static void
app_headers(struct c_req *q)
{
    struct http_header v[] = {
        { SLICE("X-A"), SLICE("b") },          { SLICE("connection"), SLICE("keep-alive, x") },
        { SLICE("Keep-Alive"), SLICE("5") },   { SLICE("transfer-encoding"), SLICE("chunked") },
        { SLICE("set-cookie"), SLICE("a=1") }, { SLICE("set-cookie"), SLICE("b=\xc3\xa9\x01") },
        { SLICE("empty"), SLICE("") },
    };
    start(q, 201, v, ARRAY_LEN(v));
    h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
app_close(struct c_req *q)
{
    struct http_header v[] = { { SLICE("Connection"), SLICE("x , Close") } };
    start(q, 200, v, 1);
    h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
app_204(struct c_req *q)
{
    struct http_header v[] = { { SLICE("content-length"), SLICE("5") } };
    start(q, 204, v, 1);
    h1_write(q->h, "hello", 5, NULL, true);
    c_end(q);
}

static void
app_304(struct c_req *q)
{
    struct http_header v[] = { { SLICE("content-length"), SLICE("5") } };
    start(q, 304, v, 1);
    h1_write(q->h, "", 0, NULL, true);
    c_end(q);
}

static void
app_299(struct c_req *q)
{
    start(q, 299, NULL, 0);
    h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
app_phrase(struct c_req *q)
{
    size_t bad;
    last = h1_start_as(q->h, 200, SLICE("Fine \xe9"), NULL, 0, &bad);
    h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
app_phrase_empty(struct c_req *q)
{
    size_t bad;
    h1_start_as(q->h, 404, SLICE(""), NULL, 0, &bad);
    h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
app_phrase_299(struct c_req *q)
{
    size_t bad;
    h1_start_as(q->h, 299, SLICE("Odd"), NULL, 0, &bad);
    h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
app_fail_before(struct c_req *q)
{
    h1_fail(q->h, 500);
    c_end(q);
}

static void
app_fail_after_start(struct c_req *q)
{
    struct http_header v[] = { { SLICE("x-secret"), SLICE("1") } };
    start(q, 200, v, 1);
    h1_fail(q->h, 500);
    last = h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
app_fail_while_sending(struct c_req *q)
{
    start(q, 200, NULL, 0);
    h1_write(q->h, "a", 1, NULL, false);
    h1_fail(q->h, 500);
    c_end(q);
}

static void
app_too_short(struct c_req *q)
{
    struct http_header v[] = { { SLICE("content-length"), SLICE("10") } };
    start(q, 200, v, 1);
    last = h1_write(q->h, "hello", 5, NULL, true);
    c_end(q);
}

static void
app_too_long(struct c_req *q)
{
    struct http_header v[] = { { SLICE("content-length"), SLICE("10") } };
    start(q, 200, v, 1);
    h1_write(q->h, "hello", 5, NULL, false);
    last = h1_write(q->h, "world!", 6, NULL, true);
    c_end(q);
}

struct framing {
    const char *name;
    const char *request;
    void (*app)(struct c_req *q);
    const char *answer;
    bool closes;
};

#define G11     "GET /custom HTTP/1.1\r\n" H "\r\n"
#define G10     "GET /custom HTTP/1.0\r\n\r\n"
#define HELLO   "GET /hello HTTP/1.1\r\n" H "\r\n"
#define K10     "GET /custom HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
#define HEAD11  "HEAD /custom HTTP/1.1\r\n" H "\r\n"
#define CLOSE11 "GET /custom HTTP/1.1\r\n" H "Connection: close\r\n\r\n"

static const struct framing framings[] = {
    { "one piece", G11, app_one_piece, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", false },
    { "empty", G11, app_empty, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false },
    { "pieces are chunked", G11, app_two_pieces,
      "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
      false },
    { "pieces to 1.0 end with the connection", G10, app_two_pieces,
      "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello world", true },
    { "pieces to a kept 1.0 end with the connection", K10, app_two_pieces,
      "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello world", true },
    { "one piece to 1.0", G10, app_one_piece,
      "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello", true },
    { "one piece to a kept 1.0", K10, app_one_piece,
      "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\nhello", false },
    { "Content-Length is the application's", G11, app_length,
      "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world", false },
    { "Connection: close is honoured", CLOSE11, app_one_piece,
      "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello", true },
    { "headers", G11, app_headers,
      "HTTP/1.1 201 Created\r\nX-A: b\r\nset-cookie: a=1\r\nset-cookie: b=\xc3\xa9\x01\r\nempty: "
      "\r\n"
      "content-length: 1\r\n\r\nx",
      false },
    { "close by the application", G11, app_close,
      "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx", true },
    { "HEAD, one piece", HEAD11, app_one_piece, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
      false },
    { "HEAD, pieces", HEAD11, app_two_pieces, "HTTP/1.1 200 OK\r\n\r\n", false },
    { "HEAD, empty", HEAD11, app_empty, "HTTP/1.1 200 OK\r\n\r\n", false },
    { "HEAD, length", HEAD11, app_length, "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n", false },
    { "HEAD, less than its length is no error", HEAD11, app_too_short,
      "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", false },
    { "204 has no body and no length", G11, app_204, "HTTP/1.1 204 No Content\r\n\r\n", false },
    { "304 has no body", G11, app_304, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
      false },
    { "a status without a name", G11, app_299, "HTTP/1.1 299 \r\ncontent-length: 1\r\n\r\nx",
      false },
    { "a phrase of the application's own", G11, app_phrase,
      "HTTP/1.1 200 Fine \xe9\r\ncontent-length: 1\r\n\r\nx", false },
    { "an empty phrase", G11, app_phrase_empty, "HTTP/1.1 404 \r\ncontent-length: 1\r\n\r\nx",
      false },
    { "a phrase for a status without one", G11, app_phrase_299,
      "HTTP/1.1 299 Odd\r\ncontent-length: 1\r\n\r\nx", false },
    { "h1_fail() before the start", G11, app_fail_before,
      "HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\n"
      "content-length: 22\r\n\r\nInternal Server Error\n",
      false },
    { "h1_fail() drops what was started", G11, app_fail_after_start,
      "HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\n"
      "content-length: 22\r\n\r\nInternal Server Error\n",
      false },
    { "h1_fail() for HEAD", HEAD11, app_fail_before,
      "HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\n"
      "content-length: 22\r\n\r\n",
      false },
    { "h1_fail() comes too late", G11, app_fail_while_sending,
      "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n", true },
    { "no answer", G11, c_end, "", true },
    { "less than the length", G11, app_too_short,
      "HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\nhello", true },
    { "more than the length", G11, app_too_long,
      "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", true },
};

static void
test_framing(enum io_backend backend)
{
    struct fix f;
    fix_init(&f);
    f.app.conf.server_header = f.app.conf.date_header = false;
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
    log_set_fd(quiet); /* wrong lengths are logged */
    for (size_t i = 0; i < ARRAY_LEN(framings); i++) {
        const struct framing *t = &framings[i];
        static const char next_answer[] =
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\nconnection: "
            "close\r\n\r\nhello";
        f.app.custom = t->app;
        int fd = fix_connect(&f);
        struct buf want = { 0 };
        buf_puts(&want, t->answer);
        fix_send(&f, fd, t->request, strlen(t->request));
        if (!t->closes) {
            static const char last_one[] = "GET /hello HTTP/1.1\r\n" H "Connection: close\r\n\r\n";
            fix_send(&f, fd, last_one, strlen(last_one));
            buf_puts(&want, next_answer);
        }
        struct reply r = fix_read(&f, fd, UNTIL_END);
        if (!ok(r.eof && r.n == want.n && (want.n == 0 || memcmp(r.p, want.p, want.n) == 0),
                "framing: %s", t->name))
            diag("got %.*s|", (int)r.n, r.p);
        free(r.p);
        buf_free(&want);
        close(fd);
        fix_settle(&f);
    }
    f.app.custom = app_too_short;
    int fd = fix_connect(&f);
    fix_send(&f, fd, G11, strlen(G11));
    free(fix_read(&f, fd, UNTIL_END).p);
    ok(last == HTTP_TOO_SHORT, "too short is told");
    close(fd);
    f.app.custom = app_too_long;
    fd = fix_connect(&f);
    fix_send(&f, fd, G11, strlen(G11));
    free(fix_read(&f, fd, UNTIL_END).p);
    ok(last == HTTP_TOO_LONG, "too long is told");
    close(fd);
    fix_settle(&f);
    fix_close(&f, "framing");
    log_set_fd(STDERR_FILENO);
    close(quiet);
}

/* --- what is refused -------------------------------------------------------------------------- */

static const struct http_header *try_v;
static size_t try_n;
static int try_status;

static void
app_try(struct c_req *q)
{
    enum http_write got = start(q, try_status, try_v, try_n);
    size_t bad = last_bad, check_bad = 99;
    bool is_same = h1_check_start(try_status, (struct slice){ 0 }, try_v, try_n, &check_bad) == got;
    ok(is_same && check_bad == bad, "h1_check_start() says the same");
    bool started = h1_is_started(q->h);
    c_hello(q); /* nothing has changed: another start is fine */
    if (got == HTTP_OK)
        ok(started, "started");
    last = got;
    last_bad = bad;
}

static void
try(struct fix *f, const char *name, int status, const struct http_header *v, size_t n,
    enum http_write want, size_t bad)
{
    try_v = v;
    try_n = n;
    try_status = status;
    last = HTTP_OK;
    int fd = fix_connect(f);
    fix_send(f, fd, G11, strlen(G11));
    struct reply r = fix_read(f, fd, UNTIL_ANSWER);
    ok(last == want && last_bad == bad && r.status == 200 && strstr(r.p, "X-Evil") == NULL,
       "refused: %s (%d, %zu)", name, last, last_bad);
    free(r.p);
    close(fd);
    fix_settle(f);
}

#define TRY(name, want, bad, ...)                                                                  \
    do {                                                                                           \
        const struct http_header v_[] = { __VA_ARGS__ };                                           \
        try(&f, name, 200, v_, ARRAY_LEN(v_), want, bad);                                          \
    } while (0)
#define V(name, value) { SLICE(name), SLICE(value) }

static void
test_refused(enum io_backend backend)
{
    struct fix f;
    fix_init(&f);
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    f.app.custom = app_try;
    TRY("CR LF in a value", HTTP_BAD_VALUE, 1, V("a", "b"), V("c", "d\r\nX-Evil: 1"));
    TRY("CR in a value", HTTP_BAD_VALUE, 0, V("a", "b\rc"));
    TRY("LF in a value", HTTP_BAD_VALUE, 0, V("a", "b\nc"));
    TRY("NUL in a value", HTTP_BAD_VALUE, 0, V("a", "b\0c"));
    TRY("LF in a Connection that would be dropped", HTTP_BAD_VALUE, 0,
        V("connection", "x\nX-Evil: 1"));
    TRY("empty name", HTTP_BAD_NAME, 0, V("", "b"));
    TRY("colon in a name", HTTP_BAD_NAME, 0, V("a:", "b"));
    TRY("space in a name", HTTP_BAD_NAME, 1, V("a", "b"), V("a b", "c"));
    TRY("CR LF in a name", HTTP_BAD_NAME, 0, V("a\r\nX-Evil", "b"));
    TRY("non-ASCII in a name", HTTP_BAD_NAME, 0, V("\xc3\xa9", "b"));
    TRY("Content-Length no number", HTTP_BAD_LENGTH, 0, V("content-length", "x"));
    TRY("Content-Length negative", HTTP_BAD_LENGTH, 0, V("content-length", "-1"));
    TRY("Content-Length empty", HTTP_BAD_LENGTH, 0, V("content-length", ""));
    TRY("Content-Length too big", HTTP_BAD_LENGTH, 0, V("content-length", "99999999999999999999"));
    TRY("Content-Length list", HTTP_BAD_LENGTH, 0, V("content-length", "5, 5"));
    TRY("two Content-Lengths", HTTP_BAD_LENGTH, 1, V("content-length", "5"),
        V("Content-Length", "6"));
    TRY("Content-Length twice", HTTP_BAD_LENGTH, 1, V("content-length", "5"),
        V("Content-Length", "5"));
    TRY("Transfer-Encoding gzip", HTTP_BAD_TRANSFER, 0, V("Transfer-Encoding", "gzip, chunked"));
    try(&f, "status 199", 199, NULL, 0, HTTP_BAD_STATUS, 99);
    try(&f, "status 100", 100, NULL, 0, HTTP_BAD_STATUS, 99);
    try(&f, "status 1000", 1000, NULL, 0, HTTP_BAD_STATUS, 99);
    try(&f, "status -1", -1, NULL, 0, HTTP_BAD_STATUS, 99);
    size_t bad;
    ok(h1_check_start(200, SLICE("OK\r\nX-Evil: 1"), NULL, 0, &bad) == HTTP_BAD_STATUS,
       "line end in a phrase");
    ok(h1_check_start(200, SLICE("O\0K"), NULL, 0, &bad) == HTTP_BAD_STATUS, "NUL in a phrase");
    fix_close(&f, "refused");
}

/* --- Server, Date, configured headers --------------------------------------------------------- */

static void
app_own_date(struct c_req *q)
{
    struct http_header v[] = { V("Date", "today"), V("SERVER", "mine") };
    start(q, 200, v, 2);
    h1_write(q->h, "x", 1, NULL, true);
    c_end(q);
}

static void
test_common_headers(enum io_backend backend)
{
    struct fix f;
    struct conf_header extra[] = { { (char *)"x-frame-options", (char *)"DENY" },
                                   { (char *)"x-b", (char *)"c" } };
    fix_init(&f);
    f.app.conf.headers = extra;
    f.app.conf.headers_n = 2;
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    int fd = fix_connect(&f);
    fix_send(&f, fd, HELLO, sizeof(HELLO) - 1);
    struct reply r = fix_read(&f, fd, UNTIL_ANSWER);
    char date[CLOCK_HTTP_DATE_SIZE], before[CLOCK_HTTP_DATE_SIZE], line[64];
    clock_http_date(time(NULL), date);
    clock_http_date(time(NULL) - 1, before);
    snprintf(line, sizeof(line), "\r\ndate: %s\r\n", date);
    bool right = strstr(r.p, line) != NULL;
    snprintf(line, sizeof(line), "\r\ndate: %s\r\n", before);
    ok(right || strstr(r.p, line) != NULL, "Date is now");
    ok(strstr(r.p, "\r\nserver: ringcorn\r\n") != NULL, "Server");
    ok(strstr(r.p, "\r\nx-frame-options: DENY\r\nx-b: c\r\n") != NULL, "configured headers");
    free(r.p);
    f.app.custom = app_own_date;
    fix_send(&f, fd, G11, strlen(G11));
    r = fix_read(&f, fd, UNTIL_ANSWER);
    ok(strstr(r.p, "Date: today\r\n") && strstr(r.p, "SERVER: mine\r\n") &&
           !strstr(r.p, "date: ") && !strstr(r.p, "server: "),
       "the application's Date and Server stand in place of ours");
    free(r.p);
    fix_run_ms(&f, 1100);
    fix_send(&f, fd, HELLO, sizeof(HELLO) - 1);
    r = fix_read(&f, fd, UNTIL_ANSWER);
    snprintf(line, sizeof(line), "\r\ndate: %s\r\n", date);
    ok(strstr(r.p, line) == NULL, "Date goes on");
    free(r.p);
    close(fd);
    fix_settle(&f);
    fix_close(&f, "common headers");
}

/* --- bodies of all sizes, held and copied ----------------------------------------------------- */

static size_t piece_n;
static bool piece_held, piece_chunked;

static void
app_pieces(struct c_req *q)
{
    char length[24];
    if (!h1_is_started(q->h)) {
        snprintf(length, sizeof(length), "%d", BIG);
        struct http_header v[] = { { SLICE("content-length"), slice_of(length) } };
        start(q, 200, v, piece_chunked ? 0 : 1);
    }
    while (q->a < BIG) {
        size_t n = BIG - q->a < piece_n ? BIG - q->a : piece_n;
        char *owner = NULL;
        if (piece_held) {
            owner = malloc(n);
            memcpy(owner, big + q->a, n);
            q->app->lent++;
        }
        enum http_write w = h1_write(q->h, owner ? owner : big + q->a, n, owner, q->a + n == BIG);
        q->a += n;
        if (w == HTTP_FULL)
            return;
        if (w < 0)
            break;
    }
    c_end(q);
}

static bool
is_big(const struct reply *r)
{
    if (!piece_chunked || piece_n == BIG) /* a single piece needs no chunks */
        return r->body_n == BIG && memcmp(r->body, big, BIG) == 0;
    const char *p = r->body, *end = r->body + r->body_n;
    size_t at = 0;
    for (;;) {
        char *crlf;
        size_t n = strtoull(p, &crlf, 16);
        if (crlf == p || memcmp(crlf, "\r\n", 2) != 0)
            return false;
        p = crlf + 2;
        if (n == 0)
            return at == BIG && p + 2 == end;
        if (at + n > BIG || memcmp(p, big + at, n) != 0 || memcmp(p + n, "\r\n", 2) != 0)
            return false;
        at += n;
        p += n + 2;
    }
}

static void
test_bodies(enum io_backend backend)
{
    struct fix f;
    static const size_t sizes[] = { 1000, 16383, 16384, 16385, 17000, 18000, 65536, BIG };
    fix_init(&f);
    if (!fix_open(&f, backend, AF_INET))
        return;
    f.app.custom = app_pieces;
    int fd = fix_connect(&f);
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            piece_n = sizes[i];
            piece_held = k & 1;
            piece_chunked = k & 2;
            fix_send(&f, fd, G11, strlen(G11));
            struct reply r = fix_read(&f, fd, UNTIL_ANSWER);
            ok(is_big(&r), "200 KiB in pieces of %zu, %s, %s", piece_n,
               piece_held ? "held" : "copied", piece_chunked ? "chunked" : "with a length");
            free(r.p);
        }
    }
    close(fd);
    fix_settle(&f);
    fix_close(&f, "bodies");
}

/* --- 100 Continue ----------------------------------------------------------------------------- */

static void
app_start_then_read(struct c_req *q)
{
    if (!h1_is_started(q->h))
        start(q, 200, NULL, 0);
    if (c_read_body(q)) {
        h1_write(q->h, q->body.p, q->body.n, NULL, true);
        c_end(q);
    }
}

static void
test_continue(enum io_backend backend)
{
    struct fix f;
    fix_init(&f);
    f.app.conf.server_header = f.app.conf.date_header = false;
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    f.app.custom = app_start_then_read;
    static const char *const paths[] = { "/echo", "/custom" };
    for (int i = 0; i < 2; i++) {
        char head[128];
        int fd = fix_connect(&f);
        int n = snprintf(
            head, sizeof(head),
            "POST %s HTTP/1.1\r\n" H "Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n", paths[i]);
        fix_send(&f, fd, head, (size_t)n);
        fix_run_ms(&f, 20);
        char got[128] = { 0 };
        ssize_t k = recv(fd, got, sizeof(got) - 1, 0);
        ok(k == 25 && strcmp(got, "HTTP/1.1 100 Continue\r\n\r\n") == 0,
           "%s: 100 Continue when the app reads", paths[i]);
        fix_send(&f, fd, "hello", 5);
        struct reply r = fix_read(&f, fd, UNTIL_ANSWER);
        ok(r.status == 200 && r.body_n == 5, "%s: then the answer", paths[i]);
        free(r.p);
        close(fd);
    }
    int fd = fix_connect(&f);
    static const char head[] =
        "POST /hello HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    fix_send(&f, fd, head, sizeof(head) - 1);
    struct reply r = fix_read(&f, fd, UNTIL_END);
    ok(r.status == 200 && strstr(r.p, "connection: close") && strstr(r.p, "100") == NULL,
       "no 100 when the app does not read, and the connection ends");
    free(r.p);
    close(fd);
    fd = fix_connect(&f);
    static const char with_body[] =
        "POST /echo HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    fix_send(&f, fd, with_body, sizeof(with_body) - 1);
    r = fix_read(&f, fd, UNTIL_ANSWER);
    ok(r.status == 200 && r.body_n == 5, "no 100 when the body has come already");
    free(r.p);
    close(fd);
    fd = fix_connect(&f);
    static const char old[] =
        "POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    fix_send(&f, fd, old, sizeof(old) - 1);
    fix_run_ms(&f, 20);
    char byte;
    ok(recv(fd, &byte, 1, 0) < 0, "no 100 for 1.0");
    close(fd);
    fix_run_ms(&f, 20);
    fix_close(&f, "100 Continue");
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < BIG; i++)
        big[i] = (char)(i * 7 + i / 251);
    static const enum io_backend backends[] = { IO_EPOLL, IO_URING };
    for (size_t k = 0; k < ARRAY_LEN(backends); k++) {
        test_framing(backends[k]);
        test_refused(backends[k]);
        test_common_headers(backends[k]);
        test_bodies(backends[k]);
        test_continue(backends[k]);
    }
    return tap_done();
}
