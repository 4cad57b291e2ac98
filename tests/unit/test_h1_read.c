/* test_h1_read.c: requests in: a table of raw bytes, the status and, where they are served, what
 * was parsed. Every row is sent whole, cut in two at every place, and byte by byte: the result must
 * be the same. */
#include "http_fixture.h"

#define H                   "Host: x\r\n"
#define GET(headers)        "GET /scope HTTP/1.1\r\n" H headers "\r\n"
#define POST(headers, body) "POST /scope HTTP/1.1\r\n" H headers "\r\n" body
#define CHUNKED(body)       POST("Transfer-Encoding: chunked\r\n", body)

struct row {
    const char *name;
    int status;
    struct slice raw;
    const char *scope; /* something the scope dump must contain, or NULL */
    unsigned lenient;
};

#define ROW(name, status, raw, scope) { name, status, { raw, sizeof(raw) - 1 }, scope, 0 }
#define LENIENT(name, flags, status, raw, scope)                                                   \
    { name, status, { raw, sizeof(raw) - 1 }, scope, flags }

static const struct row rows[] = {
    /* request line */
    ROW("plain", 200, GET(""),
        "method GET\ntarget /scope\npath /scope\nquery \nversion 1.1\nheader host|x|\nbody 0 \n"),
    ROW("query", 200, "GET /scope?a=b?c HTTP/1.1\r\n" H "\r\n",
        "target /scope?a=b?c\npath /scope\nquery a=b?c\n"),
    ROW("percent stays", 200, "GET /scope?%41 HTTP/1.1\r\n" H "\r\n", "query %41\n"),
    ROW("one CRLF before", 200, "\r\n" GET(""), "path /scope"),
    ROW("two CRLF before", 200, "\r\n\r\n" GET(""), "path /scope"),
    ROW("three CRLF before", 400, "\r\n\r\n\r\n" GET(""), NULL),
    ROW("LF before", 400, "\n" GET(""), NULL),
    ROW("CR before", 400, "\rGET /scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("1.0 without Host", 200, "GET /scope HTTP/1.0\r\n\r\n", "version 1.0"),
    ROW("HTTP/0.9", 400, "GET /scope\r\n\r\n", NULL),
    ROW("HTTP/1.2", 505, "GET /scope HTTP/1.2\r\n" H "\r\n", NULL),
    ROW("HTTP/2.0", 505, "GET /scope HTTP/2.0\r\n" H "\r\n", NULL),
    ROW("HTTP/3.0", 505, "GET /scope HTTP/3.0\r\n" H "\r\n", NULL),
    ROW("HTTP/1.10", 400, "GET /scope HTTP/1.10\r\n" H "\r\n", NULL),
    ROW("HTTP/x.1", 400, "GET /scope HTTP/x.1\r\n" H "\r\n", NULL),
    ROW("http/1.1", 400, "GET /scope http/1.1\r\n" H "\r\n", NULL),
    ROW("RTSP", 400, "GET /scope RTSP/1.0\r\n" H "\r\n", NULL),
    ROW("two spaces", 400, "GET  /scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("two spaces later", 400, "GET /scope  HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("space at the end", 400, "GET /scope HTTP/1.1 \r\n" H "\r\n", NULL),
    ROW("tab", 400, "GET\t/scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("no target", 400, "GET HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("empty method", 400, " /scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("lower-case method", 501, "get /scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("unknown method", 501, "FOO /scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("unknown method like a known one", 501, "GETS /scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("no token as method", 400, "G@T /scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("CONNECT", 501, "CONNECT x:443 HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("TLS hello", 400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", NULL),
    ROW("HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NULL),
    ROW("PATCH", 200, "PATCH /scope HTTP/1.1\r\n" H "\r\n", "method PATCH"),
    /* target */
    ROW("fragment", 400, "GET /scope#a HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("UTF-8 in the target", 400, "GET /scope?\xc3\xa9 HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("NUL in the target", 400, "GET /sc\0pe HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("DEL in the target", 400, "GET /scope?\x7f HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("control in the target", 400, "GET /scope?\x01 HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("relative target", 400, "GET scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("absolute form", 200, "GET http://a.example:8/scope?q HTTP/1.1\r\n" H "\r\n",
        "target http://a.example:8/scope?q\npath /scope\nquery q\nversion 1.1\nheader "
        "host|a.example:8|\n"),
    ROW("absolute form, 1.0 without Host", 200, "GET HTTP://h/scope HTTP/1.0\r\n\r\n",
        "header host|h|\n"),
    ROW("absolute form without Host", 400, "GET http://h/scope HTTP/1.1\r\n\r\n", NULL),
    ROW("absolute form without path", 404, "GET http://h HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("absolute form with user", 400, "GET http://u@h/scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("absolute form without authority", 400, "GET http:///scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("absolute form, other scheme", 400, "GET ftp://h/scope HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("asterisk", 404, "OPTIONS * HTTP/1.1\r\n" H "\r\n", NULL),
    ROW("asterisk with GET", 400, "GET * HTTP/1.1\r\n" H "\r\n", NULL),
    /* line ends */
    ROW("LF after the request line", 400, "GET /scope HTTP/1.1\n" H "\r\n", NULL),
    ROW("LF after a header", 400, "GET /scope HTTP/1.1\r\nHost: x\n\r\n", NULL),
    ROW("LF at the end", 400, "GET /scope HTTP/1.1\r\n" H "\n", NULL),
    ROW("only LF", 400, "GET /scope HTTP/1.1\nHost: x\n\n", NULL),
    ROW("CR CR LF", 400, "GET /scope HTTP/1.1\r\n" H "a: b\r\r\n\r\n", NULL),
    ROW("bare CR in a value", 400, GET("a: b\rc\r\n"), NULL),
    ROW("bare CR hides a header", 400, GET("a: b\rTransfer-Encoding: chunked\r\n"), NULL),
    LENIENT("LF let pass", LENIENT_BARE_LF, 200, "GET /scope HTTP/1.1\nHost: x\na: b\n\n",
            "header host|x|\nheader a|b|\n"),
    LENIENT("LF let pass, CR not", LENIENT_BARE_LF, 400,
            "GET /scope HTTP/1.1\nHost: x\na: b\rc\n\n", NULL),
    /* headers */
    ROW("names become lower case", 200, GET("X-ABC: Def\r\n"), "header x-abc|Def|\n"),
    ROW("white space around a value", 200, GET("a: \t b c \t\r\n"), "header a|b c|\n"),
    ROW("no white space", 200, GET("a:b\r\n"), "header a|b|\n"),
    ROW("empty value", 200, GET("a:\r\nb: \r\nc:\t \r\nd: e\r\n"),
        "header a||\nheader b||\nheader c||\nheader d|e|\n"),
    ROW("tab inside", 200, GET("a: b\tc\r\n"), "header a|b\tc|\n"),
    ROW("obs-text", 200, GET("a: \xe9\xff\r\n"), "header a|\xe9\xff|\n"),
    ROW("repeated", 200, GET("a: 1\r\na: 2\r\n"), "header a|1|\nheader a|2|\n"),
    ROW("all token characters", 200, GET("!#$%&'*+-.^_`|~09azAZ: b\r\n"),
        "header !#$%&'*+-.^_`|~09azaz|b|\n"),
    ROW("space before the colon", 400, GET("a : b\r\n"), NULL),
    ROW("tab before the colon", 400, GET("a\t: b\r\n"), NULL),
    ROW("space in a name", 400, GET("a b: c\r\n"), NULL),
    ROW("no colon", 400, GET("abc\r\n"), NULL),
    ROW("no name", 400, GET(": b\r\n"), NULL),
    ROW("non-ASCII in a name", 400, GET("\xc3\xa9: b\r\n"), NULL),
    ROW("NUL in a name", 400, GET("a\0b: c\r\n"), NULL),
    ROW("NUL in a value", 400, GET("a: b\0c\r\n"), NULL),
    ROW("control in a value", 400,
        GET("a: b\x01"
            "c\r\n"),
        NULL),
    ROW("control behind eight bytes", 400,
        GET("a: 123456789\x1f"
            "bcdefgh\r\n"),
        NULL),
    ROW("DEL in a value", 400, GET("a: b\x7f\r\n"), NULL),
    ROW("folded", 400, GET("a: b\r\n c\r\n"), NULL),
    ROW("folded with a tab", 400, GET("a: b\r\n\tc\r\n"), NULL),
    ROW("folded Content-Length", 400, POST("Content-Length:\r\n 5\r\n", "12345"), NULL),
    ROW("folded first line", 400, "GET /scope HTTP/1.1\r\n a: b\r\n" H "\r\n", NULL),
    LENIENT("folded, let pass", LENIENT_OBS_FOLD, 200, GET("a: b\r\n c\r\n\td\r\n"),
            "header a|b   c  \td|\n"),
    LENIENT("folded, let pass, control not", LENIENT_OBS_FOLD, 400,
            GET("a: b\r\n \x01"
                "c\r\n"),
            NULL),
    LENIENT("control let pass", LENIENT_HEADER_VALUE, 200,
            GET("a: b\x01"
                "c\r\n"),
            "header a|b\x01"
            "c|\n"),
    LENIENT("control let pass, NUL not", LENIENT_HEADER_VALUE, 400, GET("a: b\0c\r\n"), NULL),
    LENIENT("control let pass, folded not", LENIENT_HEADER_VALUE, 400, GET("a: b\r\n c\r\n"), NULL),
    /* Host */
    ROW("no Host", 400, "GET /scope HTTP/1.1\r\n\r\n", NULL),
    ROW("two Hosts", 400, GET("Host: x\r\n"), NULL),
    ROW("two Hosts in 1.0", 400, "GET /scope HTTP/1.0\r\n" H H "\r\n", NULL),
    ROW("empty Host", 200, "GET /scope HTTP/1.1\r\nHost:\r\n\r\n", "header host||\n"),
    ROW("Host with port", 200, "GET /scope HTTP/1.1\r\nHost: x.y:80\r\n\r\n",
        "header host|x.y:80|\n"),
    ROW("Host IPv6", 200, "GET /scope HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "header host|[::1]:80|\n"),
    ROW("Host list", 400, "GET /scope HTTP/1.1\r\nHost: a, b\r\n\r\n", NULL),
    ROW("Host with path", 400, "GET /scope HTTP/1.1\r\nHost: a/b\r\n\r\n", NULL),
    ROW("Host with user", 400, "GET /scope HTTP/1.1\r\nHost: u@a\r\n\r\n", NULL),
    ROW("Host with a bad port", 400, "GET /scope HTTP/1.1\r\nHost: a:8x\r\n\r\n", NULL),
    ROW("Host with two ports", 400, "GET /scope HTTP/1.1\r\nHost: a:8:8\r\n\r\n", NULL),
    ROW("Host, open bracket", 400, "GET /scope HTTP/1.1\r\nHost: [::1\r\n\r\n", NULL),
    ROW("Host, garbage behind the bracket", 400, "GET /scope HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
        NULL),
    /* framing */
    ROW("Content-Length", 200, POST("Content-Length: 5\r\n", "hello"), "body 5 hello\n"),
    ROW("Content-Length 0", 200, POST("Content-Length: 0\r\n", ""), "body 0 \n"),
    ROW("Content-Length 00005", 200, POST("Content-Length: 00005\r\n", "hello"), "body 5 hello\n"),
    ROW("Content-Length twice", 400, POST("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        NULL),
    ROW("two Content-Lengths", 400, POST("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"),
        NULL),
    ROW("Content-Length list", 400, POST("Content-Length: 5, 5\r\n", "hello"), NULL),
    ROW("Content-Length +5", 400, POST("Content-Length: +5\r\n", "hello"), NULL),
    ROW("Content-Length -5", 400, POST("Content-Length: -5\r\n", "hello"), NULL),
    ROW("Content-Length 0x5", 400, POST("Content-Length: 0x5\r\n", "hello"), NULL),
    ROW("Content-Length 5.0", 400, POST("Content-Length: 5.0\r\n", "hello"), NULL),
    ROW("Content-Length 5 5", 400, POST("Content-Length: 5 5\r\n", "hello"), NULL),
    ROW("Content-Length empty", 400, POST("Content-Length:\r\n", ""), NULL),
    ROW("Content-Length too big", 400, POST("Content-Length: 18446744073709551621\r\n", "hello"),
        NULL),
    ROW("Content-Length with NUL", 400, POST("Content-Length: 5\0\r\n", "hello"), NULL),
    ROW("both framings", 400,
        POST("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), NULL),
    ROW("both framings, other order", 400,
        POST("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), NULL),
    ROW("chunked in 1.0", 400,
        "POST /scope HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", NULL),
    ROW("Transfer-Encoding gzip", 501, POST("Transfer-Encoding: gzip\r\n", ""), NULL),
    ROW("Transfer-Encoding gzip, chunked", 501,
        POST("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), NULL),
    ROW("Transfer-Encoding gzip; q=1", 501, POST("Transfer-Encoding: gzip; q=1\r\n", ""), NULL),
    ROW("Transfer-Encoding identity", 501, POST("Transfer-Encoding: identity\r\n", ""), NULL),
    ROW("Transfer-Encoding xchunked", 501, POST("Transfer-Encoding: xchunked\r\n", ""), NULL),
    ROW("Transfer-Encoding chunked, gzip", 400,
        POST("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"), NULL),
    ROW("Transfer-Encoding chunked twice", 400,
        POST("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), NULL),
    ROW("Transfer-Encoding in two lines", 400,
        POST("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), NULL),
    ROW("Transfer-Encoding empty", 400, POST("Transfer-Encoding:\r\n", ""), NULL),
    ROW("Transfer-Encoding with a comma", 400, POST("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"),
        NULL),
    ROW("Transfer-Encoding chunked;x", 400, POST("Transfer-Encoding: chunked;x\r\n", "0\r\n\r\n"),
        NULL),
    ROW("Transfer-Encoding \"chunked\"", 400,
        POST("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), NULL),
    ROW("Transfer-Encoding CHUNKED", 200, POST("Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n"),
        "body 0 \n"),
    ROW("Transfer-Encoding with space before the colon", 400,
        POST("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), NULL),
    /* chunks */
    ROW("chunks", 200, CHUNKED("5\r\nhello\r\n1\r\n \r\n00a\r\n0123456789\r\n0\r\n\r\n"),
        "body 16 hello 0123456789\n"),
    ROW("chunk sizes in both cases", 200,
        CHUNKED("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"), "body 20 "),
    ROW("chunk extension", 200, CHUNKED("5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n"), "body 5 hello\n"),
    ROW("white space before an extension", 200, CHUNKED("5 ;a\r\nhello\r\n0\r\n\r\n"),
        "body 5 hello\n"),
    ROW("white space behind a size", 400, CHUNKED("5 \r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("white space before a size", 400, CHUNKED(" 5\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("no size", 400, CHUNKED("\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("no size but an extension", 400, CHUNKED(";a\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("size 0x5", 400, CHUNKED("0x5\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("size -5", 400, CHUNKED("-5\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("size +5", 400, CHUNKED("+5\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("size 5g", 400, CHUNKED("5g\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("size of 17 digits", 400, CHUNKED("10000000000000005\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("LF behind a size", 400, CHUNKED("5\nhello\r\n0\r\n\r\n"), NULL),
    ROW("LF behind an extension", 400, CHUNKED("5;a\nhello\r\n0\r\n\r\n"), NULL),
    ROW("CR in an extension", 400, CHUNKED("5;a\rb\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("NUL in an extension", 400, CHUNKED("5;\0\r\nhello\r\n0\r\n\r\n"), NULL),
    ROW("LF behind data", 400, CHUNKED("5\r\nhello\n0\r\n\r\n"), NULL),
    ROW("data longer than its size", 400, CHUNKED("5\r\nhello!\r\n0\r\n\r\n"), NULL),
    ROW("LF at the end", 400, CHUNKED("5\r\nhello\r\n0\r\n\n"), NULL),
    ROW("LF behind the last size", 400, CHUNKED("5\r\nhello\r\n0\n\r\n"), NULL),
    ROW("trailers are dropped", 200,
        CHUNKED("5\r\nhello\r\n0\r\na: b\r\nContent-Length: 7\r\nTransfer-Encoding: x\r\n\r\n"),
        "header host|x|\nheader transfer-encoding|chunked|\nbody 5 hello\n"),
    ROW("bad trailer", 400, CHUNKED("0\r\na b\r\n\r\n"), NULL),
    ROW("folded trailer", 400, CHUNKED("0\r\na: b\r\n c\r\n\r\n"), NULL),
    ROW("trailer with LF", 400, CHUNKED("0\r\na: b\n\r\n"), NULL),
    ROW("trailer with NUL", 400, CHUNKED("0\r\na: b\0\r\n\r\n"), NULL),
    ROW("trailer without name", 400, CHUNKED("0\r\n: b\r\n\r\n"), NULL),
    /* others */
    ROW("unknown Expect", 417, POST("Expect: tea\r\nContent-Length: 5\r\n", "hello"), NULL),
    ROW("unknown Expect in 1.0", 200,
        "POST /scope HTTP/1.0\r\nExpect: tea\r\nContent-Length: 5\r\n\r\nhello", "body 5 hello\n"),
    ROW("Upgrade is ignored", 200,
        GET("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
            "AAMAAABkAAQAAP__\r\n"),
        "header upgrade|h2c|\n"),
    ROW("Upgrade with a body", 200,
        POST("Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n", "hello"),
        "body 5 hello\n"),
};

/* The answer with what varies taken out: status and body. */
static char *
result_of(struct fix *f, struct slice raw, const size_t *cuts, size_t cuts_n)
{
    char *text = NULL;
    int fd = fix_connect(f);
    size_t from = 0;
    for (size_t i = 0; i <= cuts_n; i++) {
        size_t to = i < cuts_n ? cuts[i] : raw.n;
        if (to > from && !fix_send(f, fd, raw.p + from, to - from))
            break;
        from = to;
        if (i < cuts_n) {
            fix_turn(f, 0);
            fix_turn(f, 0);
        }
    }
    struct reply r = fix_read(f, fd, UNTIL_ANSWER);
    bool closed = r.status >= 400 && r.status != 404 ? fix_is_closed(f, fd) : false;
    if (asprintf(&text, "%d%s %.*s", r.status, closed ? " closed" : "", (int)r.body_n,
                 r.body ? r.body : "") < 0)
        abort();
    free(r.p);
    close(fd);
    fix_settle(f);
    return text;
}

static void
check_row(struct fix *f, const struct row *row, const char *backend)
{
    char *whole = result_of(f, row->raw, NULL, 0);
    bool right = atoi(whole) == row->status;
    if (row->status >= 400 && row->status != 404)
        right = right && strstr(whole, " closed") != NULL;
    if (row->scope != NULL)
        right = right && strstr(whole, row->scope) != NULL;
    if (!ok(right, "%s: %s: %d", backend, row->name, row->status))
        diag("got: %s", whole);
    size_t bad = 0, cuts[4096], n = 0;
    for (size_t cut = 1; cut < row->raw.n; cut++) {
        char *got = result_of(f, row->raw, &cut, 1);
        if (strcmp(got, whole) != 0 && bad++ == 0)
            diag("cut at %zu: %s", cut, got);
        free(got);
        cuts[n++] = cut;
    }
    char *got = result_of(f, row->raw, cuts, n);
    if (strcmp(got, whole) != 0 && bad++ == 0)
        diag("byte by byte: %s", got);
    free(got);
    ok(bad == 0, "%s: %s: the same however it is cut", backend, row->name);
    free(whole);
}

/* --- limits ----------------------------------------------------------------------------------- */

static int
status_for(struct fix *f, const struct buf *raw, size_t piece)
{
    int fd = fix_connect(f);
    for (size_t i = 0; i < raw->n; i += piece) {
        if (!fix_send(f, fd, raw->p + i, raw->n - i < piece ? raw->n - i : piece))
            break;
        fix_turn(f, 0);
    }
    struct reply r = fix_read(f, fd, UNTIL_ANSWER);
    free(r.p);
    close(fd);
    fix_settle(f);
    return r.status;
}

static void
check_limit(struct fix *f, const char *name, struct buf *raw, int status)
{
    int whole = status_for(f, raw, raw->n), pieces = status_for(f, raw, 1000),
        few = status_for(f, raw, 4093);
    if (!ok(whole == status && pieces == status && few == status, "limit: %s: %d", name, status))
        diag("got %d, %d in pieces of 1000, %d of 4093", whole, pieces, few);
    buf_free(raw);
}

static void
fill(struct buf *b, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_puts(b, text);
}

static void
test_limits(enum io_backend backend)
{
    struct fix f;
    struct buf b = { 0 };
    fix_init(&f);
    f.app.conf.limit_body = 1000;
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    for (int over = 0; over <= 1; over++) {
        /* "GET /hello?" and " HTTP/1.1" are 20 bytes of 8192 */
        buf_puts(&b, "GET /hello?");
        fill(&b, "a", 8192 - 20 + (size_t)over);
        buf_puts(&b, " HTTP/1.1\r\n" H "\r\n");
        check_limit(&f, over ? "a request line of 8193 bytes" : "a request line of 8192 bytes", &b,
                    over ? 414 : 200);

        buf_puts(&b, "GET /hello HTTP/1.1\r\n" H);
        for (int i = 0; i < 99 + over; i++)
            buf_printf(&b, "a%d: b\r\n", i);
        buf_puts(&b, "\r\n");
        check_limit(&f, over ? "101 headers" : "100 headers", &b, over ? 431 : 200);

        buf_puts(&b, "GET /hello HTTP/1.1\r\n" H "a: ");
        fill(&b, "b", 65536 - 9 - 3 - 4 + (size_t)over);
        buf_puts(&b, "\r\n\r\n");
        check_limit(&f, over ? "a header block of 65537 bytes" : "a header block of 65536 bytes",
                    &b, over ? 431 : 200);

        buf_printf(&b, "POST /echo HTTP/1.1\r\n" H "Content-Length: %d\r\n\r\n", 1000 + over);
        fill(&b, "b", 1000 + (size_t)over);
        check_limit(&f, over ? "a body of 1001 bytes" : "a body of 1000 bytes", &b,
                    over ? 413 : 200);

        buf_puts(&b, "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n");
        fill(&b,
             "64\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678"
             "901234567890123456789\r\n",
             10);
        buf_puts(&b, over ? "1\r\nx\r\n0\r\n\r\n" : "0\r\n\r\n");
        check_limit(&f, over ? "chunks of 1001 bytes" : "chunks of 1000 bytes", &b,
                    over ? 413 : 200);

        buf_puts(&b, "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\n");
        for (int i = 0; i < 100 + over; i++)
            buf_printf(&b, "a%d: b\r\n", i);
        buf_puts(&b, "\r\n");
        check_limit(&f, over ? "101 trailers" : "100 trailers", &b, over ? 431 : 200);

        buf_puts(&b, "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n0\r\na: ");
        fill(&b, "b", 65536 - 7 + (size_t)over);
        buf_puts(&b, "\r\n\r\n");
        check_limit(&f, over ? "trailers of 65537 bytes" : "trailers of 65536 bytes", &b,
                    over ? 431 : 200);

        buf_puts(&b, "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1;");
        fill(&b, "e", 4096 - 2 + (size_t)over);
        buf_puts(&b, "\r\nx\r\n0\r\n\r\n");
        check_limit(&f, over ? "a chunk extension too long" : "a long chunk extension", &b,
                    over ? 400 : 200);

        buf_puts(&b, "POST /echo HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n");
        for (int i = 0; i < 16 + over; i++) {
            buf_puts(&b, "1;");
            fill(&b, "e", 1023);
            buf_puts(&b, "\r\nx\r\n");
        }
        buf_puts(&b, "0\r\n\r\n");
        check_limit(&f, over ? "too many chunk extensions" : "many chunk extensions", &b,
                    over ? 400 : 200);
    }
    /* What breaks two limits, or a limit and the grammar, is refused for what comes first. */
    buf_puts(&b, "GET /");
    fill(&b, "a", 9000);
    buf_puts(&b, "\x01 HTTP/1.1\r\n" H "\r\n");
    check_limit(&f, "a long line with a late control character", &b, 414);
    buf_puts(&b, "GET /\x01");
    fill(&b, "a", 9000);
    check_limit(&f, "a long line with an early control character", &b, 400);
    fix_close(&f, "limits");
}

/* --- pipelining, EOF -------------------------------------------------------------------------- */

static void
test_pipeline(enum io_backend backend)
{
    struct fix f;
    struct buf b = { 0 };
    fix_init(&f);
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    enum { N = 300 };
    for (int i = 0; i < N; i++)
        buf_printf(&b,
                   i % 3 == 0   ? "POST /echo HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\n%03d"
                   : i % 3 == 1 ? "POST /echo HTTP/1.1\r\n" H
                                  "Transfer-Encoding: chunked\r\n\r\n3\r\n%03d\r\n0\r\n\r\n"
                                : "POST /echo?%d HTTP/1.1\r\n" H "\r\n",
                   i);
    int fd = fix_connect(&f);
    ok(fix_send(&f, fd, b.p, b.n), "%d requests go out in one write", N);
    shutdown(fd, SHUT_WR);
    struct reply r = fix_read(&f, fd, UNTIL_END);
    const char *p = r.p;
    int right = 0;
    for (int i = 0; i < N; i++) {
        char want[64];
        p = p ? strstr(p, "HTTP/1.1 200 OK\r\n") : NULL;
        p = p ? strstr(p, "\r\n\r\n") : NULL;
        snprintf(want, sizeof(want), i % 3 == 2 ? "\r\n\r\nHTTP/1.1" : "\r\n\r\n%03d", i);
        if (p != NULL && (i == N - 1 || strncmp(p, want, strlen(want)) == 0))
            right++;
    }
    ok(right == N && r.eof, "all are answered in order, then the end (%d)", right);
    free(r.p);
    buf_free(&b);
    close(fd);
    fix_settle(&f);

    fd = fix_connect(&f);
    fix_send(&f, fd, GET("") "GET /bad HTTP/9", sizeof(GET("") "GET /bad HTTP/9") - 1);
    shutdown(fd, SHUT_WR);
    r = fix_read(&f, fd, UNTIL_END);
    ok(r.status == 200 && r.eof, "a whole request is answered though the next is cut off");
    free(r.p);
    close(fd);
    fix_settle(&f);
    fix_close(&f, "pipeline");
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN);
    static const enum io_backend backends[] = { IO_EPOLL, IO_URING };
    for (size_t k = 0; k < ARRAY_LEN(backends); k++) {
        const char *name = backends[k] == IO_EPOLL ? "epoll" : "io_uring";
        for (unsigned lenient = 0; lenient < 8; lenient = lenient ? lenient * 2 : 1) {
            struct fix f;
            fix_init(&f);
            f.app.conf.http_lenient = lenient;
            if (!fix_open(&f, backends[k], AF_UNIX)) {
                diag("%s cannot be had here", name);
                break;
            }
            for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
                if (rows[i].lenient == lenient)
                    check_row(&f, &rows[i], name);
            }
            fix_close(&f, name);
        }
        test_limits(backends[k]);
        test_pipeline(backends[k]);
    }
    return tap_done();
}
