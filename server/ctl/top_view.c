/* top_view.c: the server as `ringcornctl top` shows it: what two answers to `metrics` tell of the time between, and the oldest requests. */
#include "ctl.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

enum {
    BUCKETS_MAX = 64,
    WORKERS_MAX = 2048,
    LINE_SIZE = 1024,
    /* rows that workers leave for requests, where there are not enough for all */
    REQUESTS_LEFT = 4,
};

/* What counts up, of a worker or of all. */
struct counts {
    double at_s, all, errors, clients_errors, cpu_s, busy_s;
    double buckets[BUCKETS_MAX];
};

/* Rates of the time between two. */
struct rates {
    bool is_known;
    double all, errors, clients_errors; /* a second */
    double cpu, busy;                   /* percent */
    double p50_s, p99_s;                /* below 0: no request; INFINITY: above all bounds */
};

struct worker {
    int64_t pid;
    struct counts counts;
    struct rates rates;
};

struct top_view {
    int64_t pid; /* of the master */
    struct counts counts;
    struct rates rates;
    size_t workers_n;
    struct worker *workers; /* as in the last answer */
};

struct top_view *
top_view_new(void)
{
    return calloc(1, sizeof(struct top_view));
}

void
top_view_free(struct top_view *v)
{
    if (v == NULL)
        return;
    free(v->workers);
    free(v);
}

/* --- numbers ------------------------------------------------------------------------------------ */

static double
number(struct json_ref of, const char *name)
{
    const char *text = json_ref_text(json_ref_get(of, name));
    return text != NULL ? strtod(text, NULL) : 0;
}

static double
nested(struct json_ref of, const char *part, const char *name)
{
    return number(json_ref_get(of, part), name);
}

static struct counts
read_counts(struct json_ref figures)
{
    struct counts c = { .at_s = number(figures, "at_s"),
                        .errors = nested(figures, "requests", "5xx"),
                        .clients_errors = nested(figures, "requests", "4xx"),
                        .cpu_s = number(figures, "cpu_s"),
                        .busy_s = nested(figures, "loop", "busy_s") };
    struct json_ref requests = json_ref_get(figures, "requests");
    for (size_t i = 0; i < json_ref_n(requests); i++)
        c.all += number(requests, json_ref_name(requests, i));
    struct json_ref buckets = json_ref_get(json_ref_get(figures, "durations"), "buckets");
    for (size_t i = 0; i < json_ref_n(buckets) && i < BUCKETS_MAX; i++) {
        const char *text = json_ref_text(json_ref_at(buckets, i));
        c.buckets[i] = text != NULL ? strtod(text, NULL) : 0;
    }
    return c;
}

static double
percentile(const struct counts *from, const struct counts *to, struct json_ref bounds, double q)
{
    size_t n = json_ref_n(bounds) + 1;
    double all = 0, low = 0;
    if (n > BUCKETS_MAX)
        n = BUCKETS_MAX;
    for (size_t i = 0; i < n; i++)
        all += fmax(to->buckets[i] - from->buckets[i], 0);
    if (all <= 0)
        return -1;
    double left = q * all;
    for (size_t i = 0; i + 1 < n; i++) {
        const char *text = json_ref_text(json_ref_at(bounds, i));
        double high = text != NULL ? strtod(text, NULL) : 0;
        double here = fmax(to->buckets[i] - from->buckets[i], 0);
        if (here > 0 && left <= here)
            return low + (high - low) * left / here;
        left -= here;
        low = high;
    }
    return INFINITY;
}

static struct rates
between(const struct counts *from, const struct counts *to, struct json_ref bounds)
{
    double s = to->at_s - from->at_s;
    if (s <= 0 || to->all < from->all)
        return (struct rates){ 0 };
    return (struct rates){ .is_known = true,
                           .all = (to->all - from->all) / s,
                           .errors = (to->errors - from->errors) / s,
                           .clients_errors = (to->clients_errors - from->clients_errors) / s,
                           .cpu = fmax(to->cpu_s - from->cpu_s, 0) / s * 100,
                           .busy = fmax(to->busy_s - from->busy_s, 0) / s * 100,
                           .p50_s = percentile(from, to, bounds, 0.5),
                           .p99_s = percentile(from, to, bounds, 0.99) };
}

bool
top_view_take(struct top_view *v, struct json_ref metrics)
{
    struct json_ref bounds = json_ref_get(metrics, "bounds_s");
    struct json_ref workers = json_ref_get(metrics, "workers");
    int64_t pid = (int64_t)number(metrics, "pid");
    struct counts counts = read_counts(json_ref_get(metrics, "total"));
    v->rates = pid == v->pid ? between(&v->counts, &counts, bounds) : (struct rates){ 0 };
    v->counts = counts;
    v->pid = pid;

    size_t n = json_ref_n(workers) < WORKERS_MAX ? json_ref_n(workers) : WORKERS_MAX;
    struct worker *now = calloc(n + 1, sizeof(*now));
    for (size_t i = 0; now != NULL && i < n; i++) {
        struct json_ref worker = json_ref_at(workers, i);
        now[i] = (struct worker){ .pid = (int64_t)number(worker, "pid"),
                                  .counts = read_counts(json_ref_get(worker, "figures")) };
        for (size_t k = 0; k < v->workers_n; k++)
            if (v->workers[k].pid == now[i].pid)
                now[i].rates = between(&v->workers[k].counts, &now[i].counts, bounds);
    }
    free(v->workers);
    v->workers = now;
    v->workers_n = now != NULL ? n : 0;
    return v->rates.is_known;
}

/* --- as text: each into a buffer of its own ------------------------------------------------------- */

typedef char cell[24];

static const char *
of_rate(cell to, bool is_known, double n)
{
    if (!is_known)
        strcpy(to, "-");
    else
        snprintf(to, sizeof(cell), n >= 100 || n == 0 ? "%.0f" : "%.1f", n);
    return to;
}

static const char *
of_time(cell to, bool is_known, double s)
{
    if (!is_known || s < 0)
        strcpy(to, "-");
    else if (isinf(s))
        strcpy(to, ">60 s");
    else if (s < 1e-4)
        strcpy(to, "<0.1 ms");
    else
        snprintf(to, sizeof(cell),
                 s >= 1      ? "%.2f s"
                 : s >= 0.01 ? "%.0f ms"
                             : "%.1f ms",
                 s >= 1 ? s : s * 1000);
    return to;
}

static const char *
of_age(cell to, double s)
{
    if (s < 100)
        snprintf(to, sizeof(cell), "%.1f s", s);
    else if (s < 6000)
        snprintf(to, sizeof(cell), "%.0f min", floor(s / 60));
    else if (s < 48 * 3600)
        snprintf(to, sizeof(cell), "%.0f h", floor(s / 3600));
    else
        snprintf(to, sizeof(cell), "%.0f d", floor(s / 86400));
    return to;
}

static const char *
of_bytes(cell to, double n)
{
    if (n >= 1024.0 * 1024 * 1024)
        snprintf(to, sizeof(cell), "%.2f GiB", n / (1024.0 * 1024 * 1024));
    else
        snprintf(to, sizeof(cell), "%.1f MiB", n / (1024.0 * 1024));
    return to;
}

static const char *
text_of(struct json_ref of, const char *name)
{
    const char *text = json_ref_text(json_ref_get(of, name));
    return text != NULL ? text : "-";
}

/* --- lines ------------------------------------------------------------------------------------------ */

enum style { PLAIN, BOLD, HEAD, ALARM };

struct frame {
    struct buf *out;
    struct top_size size;
    int lines_n;
    bool is_lost;
};

/* Bytes of text that make so many characters; what would steer the terminal becomes '?'. */
static size_t
tidy(char *text, int columns)
{
    unsigned char *p = (unsigned char *)text;
    for (int n = 0; *p != '\0'; p++) {
        if (*p < 0x20 || *p == 0x7f)
            *p = '?';
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            p[0] = p[1] = '?';
        if ((*p & 0xc0) != 0x80 && columns > 0 && ++n > columns)
            break;
    }
    return (size_t)(p - (unsigned char *)text);
}

static void put(struct frame *f, enum style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void
put(struct frame *f, enum style style, const char *format, ...)
{
    static const char *const styles[] = { "", "\033[1m", "\033[7m", "\033[1;31m" };
    char line[LINE_SIZE];
    va_list args;
    if (f->size.rows > 0 && f->lines_n >= f->size.rows)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    size_t n = tidy(line, f->size.columns);
    bool is_styled = f->size.is_styled && style != PLAIN;
    f->is_lost |= is_styled && buf_puts(f->out, styles[style]) < 0;
    f->is_lost |= buf_append(f->out, line, n) < 0;
    f->is_lost |= is_styled && buf_puts(f->out, "\033[0m") < 0;
    f->is_lost |= buf_puts(f->out, "\n") < 0;
    f->lines_n++;
}

static int
rows_left(const struct frame *f)
{
    return f->size.rows > 0 ? f->size.rows - f->lines_n : INT16_MAX;
}

/* --- parts ------------------------------------------------------------------------------------------- */

static void
put_server(struct frame *f, const struct top_view *v, struct json_ref metrics)
{
    cell a, b, c, d, e, g;
    struct json_ref total = json_ref_get(metrics, "total");
    const struct rates *r = &v->rates;
    put(f, BOLD, "%s  %s  %s  up %s  pid %s  configuration %s  %s of %s workers ready",
        text_of(metrics, "server"), text_of(metrics, "app"), text_of(metrics, "state"),
        of_age(a, number(metrics, "uptime_s")), text_of(metrics, "pid"),
        text_of(metrics, "generation"), text_of(metrics, "workers_ready"),
        text_of(metrics, "workers_wanted"));
    put(f, PLAIN, "requests/s %s   5xx/s %s   4xx/s %s   p50 %s   p99 %s",
        of_rate(a, r->is_known, r->all), of_rate(b, r->is_known, r->errors),
        of_rate(c, r->is_known, r->clients_errors), of_time(d, r->is_known, r->p50_s),
        of_time(e, r->is_known, r->p99_s));
    put(f, PLAIN,
        "in hand %.0f   idle %.0f   WebSockets %.0f   threads %.0f/%.0f busy, %.0f wait   CPU %s "
        "%%  "
        " memory %s",
        nested(total, "connections", "request"), nested(total, "connections", "idle"),
        nested(total, "connections", "websocket"), nested(total, "threads", "busy"),
        nested(total, "threads", "slots"), nested(total, "threads", "waiting"),
        of_rate(a, r->is_known, r->cpu), of_bytes(g, number(total, "rss_bytes")));
}

static void
put_worker(struct frame *f, struct json_ref worker, const struct rates *r)
{
    cell age, rate, p99, threads, busy, cpu, rss;
    struct json_ref figures = json_ref_get(worker, "figures");
    double conns =
        nested(figures, "connections", "handshake") + nested(figures, "connections", "idle") +
        nested(figures, "connections", "request") + nested(figures, "connections", "websocket") +
        nested(figures, "connections", "closing");
    snprintf(threads, sizeof(threads), "%.0f/%.0f", nested(figures, "threads", "busy"),
             nested(figures, "threads", "slots"));
    put(f, PLAIN, "%6s %8s %-8s %8s %8s %8s %7.0f %8s %5.0f %6.0f %5.0f %6s %6s %10s",
        text_of(worker, "worker"), text_of(worker, "pid"), text_of(worker, "state"),
        of_age(age, number(worker, "age_s")), of_rate(rate, r->is_known, r->all),
        of_time(p99, r->is_known, r->p99_s), nested(figures, "connections", "request"), threads,
        nested(figures, "threads", "waiting"), conns, nested(figures, "connections", "websocket"),
        of_rate(busy, r->is_known, r->busy), of_rate(cpu, r->is_known, r->cpu),
        of_bytes(rss, number(figures, "rss_bytes")));
}

static void
put_workers(struct frame *f, const struct top_view *v, struct json_ref metrics)
{
    struct json_ref workers = json_ref_get(metrics, "workers");
    int n = (int)v->workers_n;
    put(f, HEAD, "%6s %8s %-8s %8s %8s %8s %7s %8s %5s %6s %5s %6s %6s %10s", "WORKER", "PID",
        "STATE", "AGE", "REQ/S", "P99", "IN HAND", "THREADS", "WAIT", "CONNS", "WS", "LOOP %",
        "CPU %", "MEMORY");
    int room = rows_left(f);
    int shown = n <= room - REQUESTS_LEFT || n <= 2 ? n : room - REQUESTS_LEFT - 1;
    for (int i = 0; i < shown; i++)
        put_worker(f, json_ref_at(workers, (size_t)i), &v->workers[i].rates);
    if (shown < n)
        put(f, PLAIN, "       and %d more", n - (shown > 0 ? shown : 0));
}

struct in_hand {
    struct json_ref request;
    const char *worker;
    double age_s;
};

static int
by_age(const void *a, const void *b)
{
    double x = ((const struct in_hand *)a)->age_s, y = ((const struct in_hand *)b)->age_s;
    return x > y ? -1 : x < y;
}

static size_t
count_requests(struct json_ref parts)
{
    size_t n = 0;
    for (size_t i = 0; i < json_ref_n(parts); i++)
        n += json_ref_n(json_ref_get(json_ref_at(parts, i), "requests"));
    return n;
}

static void
put_requests(struct frame *f, struct json_ref parts)
{
    size_t n = 0, all = count_requests(parts);
    struct in_hand *found = calloc(all + 1, sizeof(*found));
    if (found == NULL) {
        f->is_lost = true;
        return;
    }
    put(f, HEAD, "%8s %6s %-24s %s", "AGE", "WORKER", "STATE", "REQUEST IN HAND, OLDEST FIRST");
    for (size_t i = 0; i < json_ref_n(parts); i++) {
        struct json_ref part = json_ref_at(parts, i);
        struct json_ref requests = json_ref_get(part, "requests");
        const char *error = json_ref_text(json_ref_get(part, "error"));
        if (error != NULL)
            put(f, ALARM, "%8s %6s %s", "", text_of(part, "worker"), error);
        for (size_t k = 0; k < json_ref_n(requests); k++) {
            struct json_ref request = json_ref_at(requests, k);
            found[n++] =
                (struct in_hand){ request, text_of(part, "worker"), number(request, "age_s") };
        }
    }
    qsort(found, n, sizeof(*found), by_age);
    for (size_t i = 0; i < n && rows_left(f) > 0; i++) {
        cell age;
        if (rows_left(f) == 1 && i + 1 < n) {
            put(f, PLAIN, "%8s %6s and %zu more", "", "", n - i);
            break;
        }
        put(f, PLAIN, "%8s %6s %-24s %s", of_age(age, found[i].age_s), found[i].worker,
            text_of(found[i].request, "state"), text_of(found[i].request, "request"));
    }
    free(found);
}

int
top_view_draw(const struct top_view *v, struct json_ref metrics, struct json_ref requests,
              const char *trouble, struct top_size size, struct buf *out)
{
    struct frame f = { .out = out, .size = size };
    put_server(&f, v, metrics);
    put(&f, trouble != NULL ? ALARM : PLAIN, "%s", trouble != NULL ? trouble : "");
    put_workers(&f, v, metrics);
    put(&f, PLAIN, "%s", "");
    put_requests(&f, requests);
    return f.is_lost ? -ENOMEM : 0;
}
