/* status.c: status lines, and the headers that every answer carries: Server, Date (once a second)
 * and those of the configuration. */
#include "status.h"

#include <errno.h>
#include <stdio.h>

/* clang-format off */
/* X(code, phrase): RFC 9110 section 15 and the IANA registry. */
#define STATUSES(X)                                                                                \
    X(200, "OK") X(201, "Created") X(202, "Accepted") X(203, "Non-Authoritative Information")      \
    X(204, "No Content") X(205, "Reset Content") X(206, "Partial Content") X(207, "Multi-Status")  \
    X(208, "Already Reported") X(226, "IM Used") X(300, "Multiple Choices")                        \
    X(301, "Moved Permanently") X(302, "Found") X(303, "See Other") X(304, "Not Modified")         \
    X(305, "Use Proxy") X(307, "Temporary Redirect") X(308, "Permanent Redirect")                  \
    X(400, "Bad Request") X(401, "Unauthorized") X(402, "Payment Required") X(403, "Forbidden")    \
    X(404, "Not Found") X(405, "Method Not Allowed") X(406, "Not Acceptable")                      \
    X(407, "Proxy Authentication Required") X(408, "Request Timeout") X(409, "Conflict")           \
    X(410, "Gone") X(411, "Length Required") X(412, "Precondition Failed")                         \
    X(413, "Content Too Large") X(414, "URI Too Long") X(415, "Unsupported Media Type")            \
    X(416, "Range Not Satisfiable") X(417, "Expectation Failed") X(418, "I'm a Teapot")            \
    X(421, "Misdirected Request") X(422, "Unprocessable Content") X(423, "Locked")                 \
    X(424, "Failed Dependency") X(425, "Too Early") X(426, "Upgrade Required")                     \
    X(428, "Precondition Required") X(429, "Too Many Requests")                                    \
    X(431, "Request Header Fields Too Large") X(451, "Unavailable For Legal Reasons")              \
    X(500, "Internal Server Error") X(501, "Not Implemented") X(502, "Bad Gateway")                \
    X(503, "Service Unavailable") X(504, "Gateway Timeout")                                        \
    X(505, "HTTP Version Not Supported") X(506, "Variant Also Negotiates")                         \
    X(507, "Insufficient Storage") X(508, "Loop Detected") X(510, "Not Extended")                  \
    X(511, "Network Authentication Required")
/* clang-format on */

enum { STATUS_FIRST = 200, STATUS_LAST = 511, PHRASE_AT = sizeof("HTTP/1.1 200 ") - 1 };

static const struct slice lines[STATUS_LAST - STATUS_FIRST + 1] = {
#define X(code, phrase)                                                                            \
    [code - STATUS_FIRST] = { "HTTP/1.1 " #code " " phrase "\r\n",                                 \
                              sizeof("HTTP/1.1 " #code " " phrase "\r\n") - 1 },
    STATUSES(X)
#undef X
};

size_t
status_line(int status, char *out)
{
    if (status >= STATUS_FIRST && status <= STATUS_LAST && lines[status - STATUS_FIRST].n > 0) {
        struct slice line = lines[status - STATUS_FIRST];
        memcpy(out, line.p, line.n);
        return line.n;
    }
    /* The space behind the code stays though the phrase is empty (RFC 9112 section 4). */
    return (size_t)snprintf(out, STATUS_LINE_MAX, "HTTP/1.1 %03d \r\n", status);
}

struct slice
status_phrase(int status)
{
    if (status < STATUS_FIRST || status > STATUS_LAST || lines[status - STATUS_FIRST].n == 0)
        return SLICE("");
    struct slice line = lines[status - STATUS_FIRST];
    return (struct slice){ line.p + PHRASE_AT, line.n - PHRASE_AT - 2 };
}

int
status_init(struct http_app *app)
{
    const struct conf *conf = app->conf;
    struct http_own *own = &app->own;
    for (size_t i = 0; i < conf->headers_n; i++) {
        if (buf_printf(&own->headers, "%s: %s\r\n", conf->headers[i].name, conf->headers[i].value) <
            0)
            return -ENOMEM;
    }
    if (conf->server_header) {
        static const char server[] = "server: ringcorn\r\n";
        memcpy(own->lines, server, sizeof(server) - 1);
        own->server_n = sizeof(server) - 1;
    }
    own->date_until_ns = 0;
    return 0;
}

void
status_refresh(struct http_app *app)
{
    struct http_own *own = &app->own;
    if (!app->conf->date_header || app->net->now_ns < own->date_until_ns)
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char date[CLOCK_HTTP_DATE_SIZE];
    clock_http_date(now.tv_sec, date);
    own->date_n = (uint8_t)snprintf(own->lines + own->server_n, sizeof(own->lines) - own->server_n,
                                    "date: %s\r\n", date);
    own->date_until_ns = clock_ns() + (NS_PER_S - now.tv_nsec);
}
