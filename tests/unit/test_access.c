/* test_access.c: the access log: form, escaping, refusals, and a reader that is too slow. */
#include "http_fixture.h"

#include <regex.h>

#define H "Host: x\r\n"

static bool
matches(const char *text, const char *pattern)
{
    regex_t re;
    if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB | REG_NEWLINE) != 0)
        return false;
    bool is = regexec(&re, text, 0, NULL, 0) == 0;
    regfree(&re);
    return is;
}

#define TIME "\\[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[0-9]{2}:[0-9]{2}:[0-9]{2} [+-][0-9]{4}\\]"

static void
ask(struct fix *f, const char *p, size_t n)
{
    int fd = fix_connect(f);
    fix_send(f, fd, p, n);
    shutdown(fd, SHUT_WR);
    struct reply r = fix_read(f, fd, UNTIL_END);
    free(r.p);
    close(fd);
    fix_settle(f);
}

static char *
contents(int fd)
{
    static char text[1 << 16];
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void
test_lines(enum io_backend backend, int family)
{
    static const struct {
        const char *name;
        struct slice raw;
        const char *line; /* behind the time */
    } rows[] = {
#define ROW(name, raw, line) { name, { raw, sizeof(raw) - 1 }, line }
        ROW("GET", "GET /hello?a=b HTTP/1.1\r\n" H "\r\n",
            "\"GET /hello\\?a=b HTTP/1\\.1\" 200 5 0\\.[0-9]{6}$"),
        ROW("1.0", "GET /hello HTTP/1.0\r\n\r\n", "\"GET /hello HTTP/1\\.0\" 200 5 "),
        ROW("HEAD", "HEAD /hello HTTP/1.1\r\n" H "\r\n", "\"HEAD /hello HTTP/1\\.1\" 200 0 "),
        ROW("a body", "POST /echo HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc",
            "\"POST /echo HTTP/1\\.1\" 200 3 "),
        ROW("pieces", "GET /pieces HTTP/1.1\r\n" H "\r\n", "\"GET /pieces HTTP/1\\.1\" 200 13 "),
        ROW("quotes", "GET /\"a\\b HTTP/1.1\r\n" H "\r\n",
            "\"GET /\\\\x22a\\\\x5Cb HTTP/1\\.1\" 404 13 "),
        ROW("refused", "GET /a#b HTTP/1.1\r\n" H "\r\n", "\"GET /a#b HTTP/1\\.1\" 400 [0-9]+ "),
        ROW("refused for its headers", "GET /x HTTP/1.1\r\n\r\n",
            "\"GET /x HTTP/1\\.1\" 400 [0-9]+ "),
        ROW("refused for its chunks",
            "POST /x HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nX\r\n",
            "\"POST /x HTTP/1\\.1\" 400 "),
        ROW("binary", "\x16\x03\x01\xff\"\r\n\r\n", "\"\\\\x16\\\\x03\\\\x01\\\\xFF\\\\x22\" 400 "),
        ROW("a new line in disguise", "GET /\x1b[31m\n127.0.0.1 HTTP/1.1\r\n\r\n",
            "\"GET /\\\\x1B\\[31m\" 400 "),
        ROW("no answer", "GET /fail HTTP/1.1\r\n" H "\r\n", "\"GET /fail HTTP/1\\.1\" 499 0 "),
    };
    struct fix f;
    char path[] = "/tmp/ringcorn-test-access-XXXXXX";
    int log = mkstemp(path);
    unlink(path);
    fix_init(&f);
    f.app.http.access_fd = log;
    if (!fix_open(&f, backend, family))
        return;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char pattern[256];
        if (ftruncate(log, 0) < 0)
            abort();
        lseek(log, 0, SEEK_SET);
        ask(&f, rows[i].raw.p, rows[i].raw.n);
        char *text = contents(log);
        snprintf(pattern, sizeof(pattern), "^%s - - " TIME " %s",
                 family == AF_INET ? "127\\.0\\.0\\.1" : "unix:", rows[i].line);
        bool is_one = strchr(text, '\n') != NULL && strchr(text, '\n')[1] == '\0';
        if (!ok(is_one && matches(text, pattern), "line: %s", rows[i].name))
            diag("%s against %s", text, pattern);
    }
    fix_close(&f, "lines");
    close(log);
}

/* A pipe that nobody reads must not stop the server; what does not fit is counted. */
static void
test_slow_log(enum io_backend backend)
{
    struct fix f;
    int ends[2];
    char path[] = "/tmp/ringcorn-test-access-XXXXXX";
    int errors = mkstemp(path);
    unlink(path);
    if (pipe(ends) < 0)
        abort();
    fix_init(&f);
    f.app.http.access_fd = ends[1];
    if (!fix_open(&f, backend, AF_UNIX))
        return;
    struct buf b = { 0 };
    buf_puts(&b, "GET /hello?");
    for (int i = 0; i < 4000; i++)
        buf_puts(&b, "\"");
    buf_puts(&b, " HTTP/1.1\r\n" H "\r\n");
    int fd = fix_connect(&f);
    int served = 0;
    int64_t began = clock_ns();
    for (int i = 0; i < 150; i++) {
        fix_send(&f, fd, b.p, b.n);
        struct reply r = fix_read(&f, fd, UNTIL_ANSWER);
        served += r.status == 200;
        free(r.p);
    }
    ok(served == 150 && clock_ns() - began < 5 * NS_PER_S, "a log that is not read stops nobody");
    ok(f.app.http.own.access.n < 1100000 && f.app.http.own.access_lost > 0,
       "what waits is bounded, lines are lost");
    log_set_fd(errors);
    static char sink[1 << 16];
    size_t got = 0;
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 2000 && (f.app.http.own.access.n > 0 || i < 10); i++) {
        ssize_t n = read(ends[0], sink, sizeof(sink));
        got += n > 0 ? (size_t)n : 0;
        fix_turn(&f, 0);
    }
    log_set_fd(STDERR_FILENO);
    ok(f.app.http.own.access.n == 0 && got > 900000, "a reader that comes gets what waited");
    ok(strstr(contents(errors), "lines lost") != NULL, "and the rest is told");
    buf_free(&b);
    close(fd);
    fix_settle(&f);
    fix_close(&f, "slow log");
    close(ends[0]);
    close(ends[1]);
    close(errors);
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN);
    static const enum io_backend backends[] = { IO_EPOLL, IO_URING };
    for (size_t k = 0; k < ARRAY_LEN(backends); k++) {
        test_lines(backends[k], AF_INET);
        test_lines(backends[k], AF_UNIX);
        test_slow_log(backends[k]);
    }
    return tap_done();
}
