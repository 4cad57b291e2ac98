/* exposition.c: metrics.path: the metrics of all workers, as Prometheus asks for them. Without metrics.bind each worker answers, from the
 * memory that all share: no Python, no GIL, no line in the access log. With metrics.bind the master does. */
#include "h1.h"

#include "metrics/metrics.h"

bool
http_asks_metrics(const struct conf *conf, const struct http_request *req)
{
    return conf->metrics_enabled && (req->is_head || slice_is(req->method, "GET")) &&
           slice_is(req->path, conf->metrics_path);
}

/* What Prometheus sends lists OpenMetrics where it takes it, and prefers it. */
static bool
takes_openmetrics(const struct http_request *req)
{
    static const char type[] = "application/openmetrics-text";
    for (unsigned i = 0; i < req->headers_n; i++)
        if (slice_is(req->headers[i].name, "accept") &&
            memmem(req->headers[i].value.p, req->headers[i].value.n, type, sizeof(type) - 1) !=
                NULL)
            return true;
    return false;
}

void
h1_answer_metrics(struct h1 *h, const struct metrics *metrics)
{
    bool is_open = takes_openmetrics(h1_request(h));
    const struct http_header headers[] = {
        { SLICE("content-type"),
          is_open ? SLICE("application/openmetrics-text; version=1.0.0; charset=utf-8")
                  : SLICE("text/plain; version=0.0.4; charset=utf-8") },
        { SLICE("cache-control"), SLICE("no-store") },
    };
    BUF_OWNED struct buf text = { 0 };
    size_t bad;
    h->r->is_quiet = true;
    h1_head_done(h);
    if (metrics == NULL || metrics_text(metrics, is_open, &text) < 0)
        h1_fail(h, 503);
    else if (h1_start(h, 200, headers, ARRAY_LEN(headers), &bad) == HTTP_OK)
        (void)h1_write(h, text.p, text.n, NULL, true);
}
