/* test_access.c: the access log: form, escaping, refusals, formats, and which requests have a line. */
#include "http_fixture.h"

#include "conf/load.h"

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
form(struct conf *conf, const char *format)
{
    static char all[] = "1";
    conf->access_log_format = (char *)(uintptr_t)format;
    conf->access_log_sample = all;
    if (access_compile(conf) < 0)
        abort();
}

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
    form(&f.app.conf, ACCESS_FORMAT_DEFAULT);
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
    access_free(&f.app.conf);
    fix_close(&f, "lines");
    close(log);
}

/* One request for a format; the line must be what is said. */
static void
test_formats(enum io_backend backend)
{
#define ASK "GET /a%20b?c=d HTTP/1.1\r\n" H "Referer: http://r/\r\nUser-Agent: \"me\"\r\nX-Id: 7\r\nAuthorization: Basic am9lOnB3\r\n\r\n"
    static const struct {
        const char *format, *line;
    } rows[] = {
        { "%(h)s", "127\\.0\\.0\\.1" },
        { "%(l)s", "-" },
        { "%(u)s", "joe" },
        { "%(t)s", TIME },
        { "%(r)s", "GET /a%20b\\?c=d HTTP/1\\.1" },
        { "%(s)s", "404" },
        { "%(m)s", "GET" },
        { "%(U)s", "/a b" },
        { "%(q)s", "c=d" },
        { "%(H)s", "HTTP/1\\.1" },
        { "%(b)s %(B)s %(B)d", "13 13 13" },
        { "%(f)s", "http://r/" },
        { "%(a)s", "\\\\x22me\\\\x22" },
        { "%(T)s %(M)s", "0 [0-9]{1,3}" },
        { "%(D)s", "[0-9]+" },
        { "%(L)s", "0\\.[0-9]{6}" },
        { "%(p)s", "<[0-9]+>" },
        { "%(id)s", "-" },
        { "%({x-id}i)s %({X-None}i)s", "7 -" },
        { "%({Content-Type}o)s %({x}o)s", "text/plain -" },
        { "%({REQUEST_METHOD}e)s %({HTTP_X_ID}e)s %({wsgi.url_scheme}e)s", "GET 7 http" },
        { "%({REMOTE_PORT}e)s %({SERVER_NAME}e)s %({SERVER_PORT}e)s",
          "[0-9]+ 127\\.0\\.0\\.1 [0-9]+" },
        { "100%% %(s)s%(s)s", "100% 404404" },
        { "combined",
          "127\\.0\\.0\\.1 - joe " TIME
          " \"GET /a%20b\\?c=d HTTP/1\\.1\" 404 13 \"http://r/\" \"\\\\x22me\\\\x22\"" },
        { "json", "\\{\"time\":\"[-0-9]{10}T[0-9:]{8}\\.[0-9]{3}[-+][0-9:]{5}\",\"pid\":[0-9]+,"
                  "\"client\":\"127\\.0\\.0\\.1\",\"method\":\"GET\","
                  "\"path\":\"/a "
                  "b\",\"query\":\"c=d\",\"protocol\":\"HTTP/"
                  "1\\.1\",\"status\":404,\"bytes\":13,\"duration\":0\\.[0-9]{6},"
                  "\"scheme\":\"http\",\"host\":\"x\",\"referer\":\"http://r/"
                  "\",\"user_agent\":\"\\\\\"me\\\\\"\"\\}" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fix f;
        char path[] = "/tmp/ringcorn-test-access-XXXXXX", pattern[600];
        int log = mkstemp(path);
        unlink(path);
        fix_init(&f);
        f.app.http.access_fd = log;
        form(&f.app.conf, rows[i].format);
        if (!fix_open(&f, backend, AF_INET))
            return;
        ask(&f, ASK, sizeof(ASK) - 1);
        snprintf(pattern, sizeof(pattern), "^%s$", rows[i].line);
        char *text = contents(log);
        if (!ok(strchr(text, '\n') != NULL && matches(text, pattern), "%s", rows[i].format))
            diag("%s against %s", text, pattern);
        access_free(&f.app.conf);
        fix_close(&f, rows[i].format);
        close(log);
    }
}

/* Which requests get no line. */
static void
test_choice(enum io_backend backend)
{
    static char health[] = "/hello", under[] = "/pie/", pattern[] = "*.ico";
    static const char *const paths[] = { "/hello", "/hello/", "/pieces", "/pie/x",
                                         "/a.ico", "/echo",   "/hellos" };
    struct fix f;
    char path[] = "/tmp/ringcorn-test-access-XXXXXX", raw[128];
    int log = mkstemp(path);
    unlink(path);
    fix_init(&f);
    f.app.http.access_fd = log;
    form(&f.app.conf, "%(U)s");
    char *excluded[] = { health, under, pattern };
    f.app.conf.access_log_exclude = (struct conf_strings){ excluded, 3 };
    if (!fix_open(&f, backend, AF_INET))
        return;
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        ask(&f, raw, (size_t)snprintf(raw, sizeof(raw), "GET %s HTTP/1.1\r\n" H "\r\n", paths[i]));
    if (!ok(strcmp(contents(log), "/hello/\n/pieces\n/echo\n/hellos\n") == 0,
            "excluded paths have no line"))
        diag("%s", contents(log));
    ok(access_sample_fault("0.5", raw, sizeof(raw)) == 0 &&
           access_sample_fault("2", raw, sizeof(raw)) < 0 &&
           access_sample_fault("x", raw, sizeof(raw)) < 0 &&
           access_sample_fault("-1", raw, sizeof(raw)) < 0,
       "a sample is a part of a whole");
    f.app.conf.access_log_exclude.n = 0;
    f.app.conf.access_sample_ppm = 250000;
    if (ftruncate(log, 0) < 0)
        abort();
    lseek(log, 0, SEEK_SET);
    for (int i = 0; i < 8; i++)
        ask(&f, raw, (size_t)snprintf(raw, sizeof(raw), "GET /hello HTTP/1.1\r\n" H "\r\n"));
    for (int i = 0; i < 2; i++)
        ask(&f, raw, (size_t)snprintf(raw, sizeof(raw), "GET /none HTTP/1.1\r\n" H "\r\n"));
    if (!ok(strcmp(contents(log), "/hello\n/hello\n/none\n/none\n") == 0,
            "a sample, and all errors"))
        diag("%s", contents(log));
    access_free(&f.app.conf);
    fix_close(&f, "choice");
    close(log);
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN);
    static const enum io_backend backends[] = { IO_EPOLL, IO_URING };
    for (size_t k = 0; k < ARRAY_LEN(backends); k++) {
        test_lines(backends[k], AF_INET);
        test_lines(backends[k], AF_UNIX);
        test_formats(backends[k]);
        test_choice(backends[k]);
    }
    return tap_done();
}
