/* routes.c: what depends on a request's path or method: timeouts.routes, cancel.methods.
 *
 * An entry of timeouts.routes is "/report/=5s": a path, a prefix that ends in a slash, or a pattern as of a shell, in which * is any text, and
 * the time from the head of such a request to the end of its answer. The first that fits counts, in the order in which they are written. */
#include <errno.h>
#include <fnmatch.h>

#include "conf/load.h"

enum { ROUTE_TIMEOUT_MAX_MS = 24 * 3600 * 1000, PATH_LOOKED_AT_MAX = 4096 };

/* Returns where the time begins, or NULL. */
static const char *
time_of(const char *text)
{
    const char *sign = strrchr(text, '=');
    return sign != NULL ? sign + 1 : NULL;
}

static bool
parse_time(const char *text, uint64_t *ms)
{
    *ms = 0;
    return strcasecmp(text, "off") == 0 || (parse_duration(text, ms) && *ms <= ROUTE_TIMEOUT_MAX_MS);
}

int
route_timeout_fault(const char *text, char *why, size_t why_size)
{
    const char *time = time_of(text);
    uint64_t ms;
    if (time == NULL)
        snprintf(why, why_size, "has no time; write PATH=TIME, such as /report/=5s");
    else if (text[0] != '/' && text[0] != '*')
        snprintf(why, why_size, "is not of a path, which begins with a slash");
    else if (!parse_time(time, &ms))
        snprintf(why, why_size, "has no right time; expected off or a time like 500ms, 30s, 5m or seconds, up to 24h");
    else
        return 0;
    return -EINVAL;
}

int
routes_compile(struct conf *conf)
{
    size_t n = conf->timeout_routes.n;
    free(conf->timeout_routes_ms);
    conf->timeout_routes_ms = n > 0 ? calloc(n, sizeof(*conf->timeout_routes_ms)) : NULL;
    if (n > 0 && conf->timeout_routes_ms == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        uint64_t ms = 0;
        parse_time(time_of(conf->timeout_routes.v[i]), &ms);
        conf->timeout_routes_ms[i] = (int64_t)ms;
    }
    return 0;
}

/* entry: as far as its last sign of equality. */
static bool
fits(const char *entry, const char *path, size_t path_n)
{
    char pattern[TEXT_MAX];
    size_t n = (size_t)(time_of(entry) - 1 - entry);
    if (n >= sizeof(pattern))
        return false;
    memcpy(pattern, entry, n);
    pattern[n] = '\0';
    if (strpbrk(pattern, "*?[") != NULL)
        return fnmatch(pattern, path, 0) == 0;
    if (n > 1 && pattern[n - 1] == '/')
        return path_n >= n && memcmp(path, pattern, n) == 0;
    return path_n == n && memcmp(path, pattern, n) == 0;
}

int64_t
conf_route_timeout_ms(const struct conf *conf, const char *path, size_t n)
{
    char text[PATH_LOOKED_AT_MAX + 1];
    if (conf->timeout_routes.n == 0 || n > PATH_LOOKED_AT_MAX)
        return -1;
    memcpy(text, path, n);
    text[n] = '\0';
    for (size_t i = 0; i < conf->timeout_routes.n; i++)
        if (fits(conf->timeout_routes.v[i], text, n))
            return conf->timeout_routes_ms[i];
    return -1;
}

const struct key_word method_words[] = { { "GET", METHOD_GET },         { "HEAD", METHOD_HEAD },
                                         { "POST", METHOD_POST },       { "PUT", METHOD_PUT },
                                         { "PATCH", METHOD_PATCH },     { "DELETE", METHOD_DELETE },
                                         { "OPTIONS", METHOD_OPTIONS }, { NULL, 0 } };

bool
conf_cancels(const struct conf *conf, const char *method, size_t n)
{
    for (const struct key_word *w = method_words; conf->cancel_queries && w->word != NULL; w++)
        if (strlen(w->word) == n && memcmp(w->word, method, n) == 0)
            return (conf->cancel_methods & w->value) != 0;
    return false;
}
