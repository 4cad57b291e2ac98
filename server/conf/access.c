/* access.c: the format of the access log, from its text into parts, once. What the parts become is http/access.c's. */
#include <ctype.h>
#include <errno.h>

#include "conf/load.h"

enum { PARTS_MAX = 256 };

static const struct {
    const char *name;
    enum conf_access_atom atom;
    const char *header; /* REQUEST_HEADER */
} atoms[] = {
    { "h", ACCESS_CLIENT, NULL },
    { "l", ACCESS_DASH, NULL },
    { "u", ACCESS_USER, NULL },
    { "t", ACCESS_TIME, NULL },
    { "r", ACCESS_REQUEST, NULL },
    { "s", ACCESS_STATUS, NULL },
    { "m", ACCESS_METHOD, NULL },
    { "U", ACCESS_PATH, NULL },
    { "q", ACCESS_QUERY, NULL },
    { "H", ACCESS_PROTOCOL, NULL },
    { "b", ACCESS_BYTES, NULL },
    { "B", ACCESS_BYTES, NULL },
    { "f", ACCESS_REQUEST_HEADER, "referer" },
    { "a", ACCESS_REQUEST_HEADER, "user-agent" },
    { "T", ACCESS_SECONDS, NULL },
    { "M", ACCESS_MILLISECONDS, NULL },
    { "D", ACCESS_MICROSECONDS, NULL },
    { "L", ACCESS_DECIMAL_SECONDS, NULL },
    { "p", ACCESS_PID, NULL },
    { "id", ACCESS_ID, NULL },
};

/* WSGI's environ, as far as the server fills it in; the rest is HTTP_*. */
static const struct {
    const char *name;
    enum conf_access_atom atom;
    const char *header;
} variables[] = {
    { "remote_addr", ACCESS_CLIENT, NULL },
    { "remote_port", ACCESS_CLIENT_PORT, NULL },
    { "request_method", ACCESS_METHOD, NULL },
    { "path_info", ACCESS_PATH, NULL },
    { "query_string", ACCESS_QUERY, NULL },
    { "raw_uri", ACCESS_TARGET, NULL },
    { "request_uri", ACCESS_TARGET, NULL },
    { "server_protocol", ACCESS_PROTOCOL, NULL },
    { "server_name", ACCESS_SERVER_NAME, NULL },
    { "server_port", ACCESS_SERVER_PORT, NULL },
    { "wsgi.url_scheme", ACCESS_SCHEME, NULL },
    { "content_type", ACCESS_REQUEST_HEADER, "content-type" },
    { "content_length", ACCESS_REQUEST_HEADER, "content-length" },
    { "ringcorn.request_id", ACCESS_ID, NULL },
};

static const struct {
    const char *name, *format;
} formats[] = {
    { "common", ACCESS_FORMAT_DEFAULT },
    { "combined", "%(h)s %(l)s %(u)s %(t)s \"%(r)s\" %(s)s %(b)s \"%(f)s\" \"%(a)s\"" },
};

/* The parts so far; v NULL: they are only counted. */
struct parts {
    struct conf_access_part *v;
    size_t n;
    bool is_out_of_memory;
};

static void
add(struct parts *parts, enum conf_access_atom atom, const char *text, size_t n)
{
    size_t i = parts->n++;
    if (parts->v == NULL)
        return;
    parts->v[i] = (struct conf_access_part){ .atom = atom, .n = n };
    if (text != NULL && (parts->v[i].text = strndup(text, n)) == NULL)
        parts->is_out_of_memory = true;
}

/* {name}i, {name}o, {name}e. */
static int
add_named(struct parts *parts, const char *name, size_t n, char kind, char *why, size_t why_size)
{
    char lower[REQUEST_ID_NAME_MAX + 1];
    if (n == 0 || n >= sizeof(lower)) {
        snprintf(why, why_size, "has a name in braces that is empty or longer than %d letters",
                 REQUEST_ID_NAME_MAX);
        return -EINVAL;
    }
    for (size_t i = 0; i <= n; i++)
        lower[i] = i == n ? '\0' : (char)tolower((unsigned char)name[i]);
    if (kind == 'i' || kind == 'o') {
        add(parts, kind == 'i' ? ACCESS_REQUEST_HEADER : ACCESS_RESPONSE_HEADER, lower, n);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(variables); i++) {
        const char *header = variables[i].header;
        if (strcmp(variables[i].name, lower) == 0) {
            add(parts, variables[i].atom, header, header != NULL ? strlen(header) : 0);
            return 0;
        }
    }
    if (strncmp(lower, "http_", 5) == 0 && n > 5) {
        for (size_t i = 5; i < n; i++)
            lower[i] = lower[i] == '_' ? '-' : lower[i];
        add(parts, ACCESS_REQUEST_HEADER, lower + 5, n - 5);
        return 0;
    }
    snprintf(why, why_size,
             "asks for the variable %s, which the server does not know; it knows those of WSGI's "
             "environ that it fills in itself, and HTTP_*",
             lower);
    return -EINVAL;
}

/* What is between the parentheses. */
static int
add_atom(struct parts *parts, const char *p, size_t n, char *why, size_t why_size)
{
    if (n >= 3 && p[0] == '{' && p[n - 2] == '}' && strchr("ioe", p[n - 1]) != NULL)
        return add_named(parts, p + 1, n - 3, p[n - 1], why, why_size);
    for (size_t i = 0; i < ARRAY_LEN(atoms); i++) {
        const char *header = atoms[i].header;
        if (strlen(atoms[i].name) == n && memcmp(atoms[i].name, p, n) == 0) {
            add(parts, atoms[i].atom, header, header != NULL ? strlen(header) : 0);
            return 0;
        }
    }
    snprintf(why, why_size,
             "has %%(%.*s)s, which is no atom; there are h l u t r s m U q H b B f a T D M L p id, "
             "{header}i, {header}o and {variable}e",
             n < 32 ? (int)n : 32, p);
    return -EINVAL;
}

/* 0, or -EINVAL and why. */
static int
parse(const char *format, struct parts *parts, char *why, size_t why_size)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (strcmp(formats[i].name, format) == 0)
            format = formats[i].format;
    if (strcmp(format, "json") == 0) {
        add(parts, ACCESS_JSON, NULL, 0);
        return 0;
    }
    for (const char *p = format; *p != '\0';) {
        size_t n = strcspn(p, "%");
        if (n > 0) {
            add(parts, ACCESS_TEXT, p, n);
            p += n;
            continue;
        }
        if (p[1] == '%') {
            add(parts, ACCESS_TEXT, p, 1);
            p += 2;
            continue;
        }
        const char *end = p[1] == '(' ? strchr(p, ')') : NULL;
        if (end == NULL || (end[1] != 's' && end[1] != 'd')) {
            snprintf(why, why_size,
                     "has a %% that begins no %%(atom)s; write %%%% for the sign itself");
            return -EINVAL;
        }
        int err = add_atom(parts, p + 2, (size_t)(end - p - 2), why, why_size);
        if (err < 0)
            return err;
        p = end + 2;
    }
    if (parts->n > PARTS_MAX) {
        snprintf(why, why_size, "has more than %d parts", PARTS_MAX);
        return -EINVAL;
    }
    return 0;
}

int
access_format_fault(const char *text, char *why, size_t why_size)
{
    struct parts parts = { 0 };
    return parse(text, &parts, why, why_size);
}

/* In millionths; UINT_MAX = it is none. */
static unsigned
fraction(const char *text)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return UINT32_MAX;
    double value = strtod(text, &end);
    if (*end == '%') {
        value /= 100;
        end++;
    }
    return *end == '\0' && value >= 0 && value <= 1 ? (unsigned)(value * 1000000 + 0.5)
                                                    : UINT32_MAX;
}

int
access_sample_fault(const char *text, char *why, size_t why_size)
{
    if (fraction(text) != UINT32_MAX)
        return 0;
    snprintf(why, why_size, "is no part of a whole; write 0.01 or 1%%");
    return -EINVAL;
}

int
access_compile(struct conf *conf)
{
    char why[256];
    struct parts parts = { 0 };
    conf->access_sample_ppm = fraction(conf->access_log_sample);
    if (parse(conf->access_log_format, &parts, why, sizeof(why)) < 0)
        return -EINVAL;
    if ((parts.v = calloc(parts.n + 1, sizeof(*parts.v))) == NULL)
        return -ENOMEM;
    parts.n = 0;
    (void)parse(conf->access_log_format, &parts, why, sizeof(why));
    conf->access_parts = parts.v;
    conf->access_parts_n = parts.n;
    return parts.is_out_of_memory ? -ENOMEM : 0;
}

void
access_free(struct conf *conf)
{
    for (size_t i = 0; i < conf->access_parts_n; i++)
        free(conf->access_parts[i].text);
    free(conf->access_parts);
}
