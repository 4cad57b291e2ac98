/* health.c: the two paths that a supervisor asks (health.live, health.ready). A worker answers them here, while bytes are
 * parsed: no Python, no GIL, and no line in the access log, which they would fill. That an answer comes at all says that the
 * loop turns; a worker accepts connections only once its application is imported and started, so what is left to tell is
 * whether it drains, or is about to. With health.bind the master answers instead (master/health.c). */
#include "h1.h"

static bool
is_path(const char *path, struct slice asked)
{
    return path != NULL && strlen(path) == asked.n && memcmp(path, asked.p, asked.n) == 0;
}

enum http_health
http_health(const struct conf *conf, const struct http_request *req)
{
    if (!req->is_head && !slice_is(req->method, "GET"))
        return HTTP_HEALTH_NONE;
    return is_path(conf->health_live, req->path)    ? HTTP_HEALTH_LIVE
           : is_path(conf->health_ready, req->path) ? HTTP_HEALTH_READY
                                                    : HTTP_HEALTH_NONE;
}

bool
h1_answer_health(struct h1 *h)
{
    enum http_health asked = http_health(h->app->conf, &h->r->req);
    if (asked == HTTP_HEALTH_NONE)
        return false;
    h->r->is_quiet = true;
    h1_write_own(h,
                 asked == HTTP_HEALTH_READY && (h->app->draining || h->app->is_unready) ? 503 : 200,
                 false);
    h1_end(h);
    return true;
}
