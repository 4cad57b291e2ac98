/* advice.c: the rules. The first that fits a route gives its verdict; the table has them in order, and each says why it stands where it
 * stands. Any thread. */
#include "metrics/advice.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "base/clock.h"

/* --- thresholds ------------------------------------------------------------------------------------- */

/* Fewer requests are chance: the first ones of a route import and fill caches. Slow ones tell sooner. */
static const double few = 20, few_slow = 5, slow_all_s = 5;
/* Threads are looked at 50 times a second: ten looks tell a large share from a small one. */
static const double looked_s = 0.2;
/* A share of the time that says what a route is about. Below it is a bit of everything, and one change would not do. */
static const double most = 0.6;
/* Who waits for less than that on a thread gains nothing by leaving it: a crossing is some 10 us, an event loop's turn no more. */
static const double short_s = 0.005;
/* So much CPU in one go hurts the others: the GIL changes hands every 5 ms, and each of them waits for that. */
static const double heavy_cpu_s = 0.005;
/* A tenth of the requests: fewer steps are the exception (a cold cache, an import), and the line in question may be quite another. */
static const double often = 0.1;
/* To a thread that many times: one crossing is what a synchronous view costs, and two of FastAPI's are a dependency and a view. */
static const double many_crossings = 4;
/* Calls that are as short as that are not worth a crossing each: the crossing and the turn of the loop behind it cost as much. */
static const double tiny_s = 0.001;
/* Threads for a load that is L in the middle and comes as it pleases: L + 2 sqrt(L) keep nearly everybody (19 of 20) from waiting, as the number of
 * requests in hand then varies as a Poisson one does, by sqrt(L). */
static const double spare = 2;
/* A wait for a thread that is worth a word: both of them. */
static const double wait_s = 0.005, wait_share = 0.1;
/* Of the time that figures are of, for one request. */
static const double window_share = 0.25;
/* A route that computes is worth a process where it keeps a worker's GIL for so much of the time, or others wait for it. */
static const double heavy_load = 0.1, gil_share = 0.2;

const char *
advice_name(enum advice_kind kind)
{
    static const char *const names[ADVICE_KINDS] = {
        [ADVICE_TOO_FEW] = "wait",        [ADVICE_NONE] = "none",
        [ADVICE_KEEP] = "keep",           [ADVICE_DEF] = "def",
        [ADVICE_ASYNC] = "async",         [ADVICE_PROCESS] = "process",
        [ADVICE_DATABASE] = "database",   [ADVICE_CROSSINGS] = "crossings",
        [ADVICE_FEWER] = "fewer",         [ADVICE_MORE] = "more",
        [ADVICE_PROCESSES] = "processes",
    };
    return names[kind];
}

/* --- figures ---------------------------------------------------------------------------------------- */

static double
seconds(uint64_t ns)
{
    return (double)ns / NS_PER_S;
}

static double
least(double a, double b)
{
    return a < b ? a : b;
}

static double
no_less_than_0(double a)
{
    return a > 0 ? a : 0;
}

void
advice_means(const struct metrics_route_sum *sum, const struct advice_server *server,
             struct advice_route *out)
{
    struct advice_route r = { .requests = (double)sum->requests };
    double n = sum->requests > 0 ? r.requests : 1;
    r.request = seconds(sum->request_ns) / n;
    r.queue = seconds(sum->slot_wait_ns) / n;
    r.thread = seconds(sum->thread_ns) / n;
    /* What is scaled up may be a little more than all there is. */
    r.cpu = least(seconds(sum->thread_cpu_ns) / n, r.thread);
    double looked = (double)sum->looked_run_ns + (double)sum->looked_gil_ns +
                    (double)sum->looked_net_ns + (double)sum->looked_sleep_ns +
                    (double)sum->looked_other_ns;
    double idle = r.thread - r.cpu, waits = looked - (double)sum->looked_run_ns;
    r.is_looked = looked >= looked_s * NS_PER_S;
    r.starved = idle;
    if (r.is_looked && r.thread > 0) {
        /* Found running is either on a CPU or in the queue for one: the clock tells the first. The rest is by what was found. */
        double found = (double)sum->looked_run_ns / looked - r.cpu / r.thread;
        r.starved = waits > 0 ? least(no_less_than_0(found) * r.thread, idle) : idle;
        double rest = waits > 0 ? (idle - r.starved) / waits : 0;
        r.gil = rest * (double)sum->looked_gil_ns;
        r.network = rest * (double)sum->looked_net_ns;
        r.sleep = rest * (double)sum->looked_sleep_ns;
        r.other = rest * (double)sum->looked_other_ns;
    }
    /* A driver's time goes on until its thread has the GIL again. */
    double back = looked > 0 ? r.thread * (double)sum->looked_driver_gil_ns / looked : 0;
    r.database = no_less_than_0(least(seconds(sum->driver_ns) / n, r.thread) - back);
    r.kind = sum->kind;
    r.loop = seconds(sum->loop_ns) / n;
    r.loop_cpu = least(seconds(sum->loop_cpu_ns) / n, r.loop);
    r.loop_gil = seconds(sum->loop_gil_ns) / n;
    r.awaits = no_less_than_0(r.request - r.queue - r.thread - r.loop - r.loop_gil);
    r.crossings = (double)sum->hops / n;
    r.long_steps = (double)sum->long_steps / n;
    r.long_step = sum->long_steps > 0 ? seconds(sum->long_step_ns) / (double)sum->long_steps : 0;
    r.long_gil = sum->long_steps > 0
                     ? least(seconds(sum->long_gil_ns) / (double)sum->long_steps, r.long_step)
                     : 0;
    r.longest_step = seconds(sum->step_max_ns);
    if (server->seconds > 0) {
        r.busy_threads = seconds(sum->thread_ns) / server->seconds;
        r.busy_cpu = (seconds(sum->thread_cpu_ns) + seconds(sum->loop_cpu_ns)) / server->seconds;
    }
    *out = r;
}

/* --- words ------------------------------------------------------------------------------------------ */

/* "60 ms" */
static const char *
time_text(double s, char out[24])
{
    if (s >= 10)
        snprintf(out, 24, "%.0f s", s);
    else if (s >= 1)
        snprintf(out, 24, "%.1f s", s);
    else if (s >= 0.01)
        snprintf(out, 24, "%.0f ms", s * 1e3);
    else if (s >= 0.001)
        snprintf(out, 24, "%.1f ms", s * 1e3);
    else
        snprintf(out, 24, "%.0f us", s * 1e6);
    return out;
}

/* "5", "0.4" */
static const char *
number_text(double n, char out[24])
{
    snprintf(out, 24,
             n >= 9.95 || (n > 0.9 && fabs(n - round(n)) < 0.05) ? "%.0f"
             : n >= 0.095                                        ? "%.1f"
                                                                 : "%.2f",
             n);
    return out;
}

static int
percent(double part, double whole)
{
    return whole > 0 ? (int)(100 * least(part / whole, 1) + 0.5) : 0;
}

/* For sockets, those of a database's driver apart. */
static double
network_of(const struct advice_route *r)
{
    return no_less_than_0(r->network - r->database);
}

static double
waits_of(const struct advice_route *r)
{
    return network_of(r) + r->sleep + r->other;
}

/* --- the rules -------------------------------------------------------------------------------------- */

struct about {
    const char *name, *place;
    const struct advice_route *r;
    const struct advice_server *server;
};

/* Requests count when they end: of some that take most of the time that was looked at, half was before it. */
static bool
is_too_long(const struct about *a)
{
    return a->server->seconds > 0 && a->r->request > a->server->seconds * window_share;
}

static bool
is_too_few(const struct about *a)
{
    const struct advice_route *r = a->r;
    return (r->requests < few &&
            !(r->requests >= few_slow && r->requests * r->request >= slow_all_s)) ||
           is_too_long(a);
}

static void
say_too_few(const struct about *a, struct advice *out)
{
    char t[24];
    const struct advice_route *r = a->r;
    if (r->requests > 0 && is_too_long(a))
        snprintf(out->text, sizeof(out->text), "%s takes %s: only a longer time tells more",
                 a->name, time_text(r->request, t));
    else
        snprintf(out->text, sizeof(out->text), "%s: not enough seen yet, %.0f of %.0f requests",
                 a->name, r->requests, few);
}

static bool
is_other(const struct about *a)
{
    return strcmp(a->name, "other") == 0;
}

static void
say_other(const struct about *a, struct advice *out)
{
    snprintf(out->text, sizeof(out->text),
             "%s: what has no route that is known, all of it together; figures only", a->name);
}

/* First of all: what blocks the loop is everybody's wait, whatever else the route does. */
static bool
has_long_steps(const struct about *a)
{
    return a->r->long_steps >= often;
}

/* Others have the GIL: on a thread it would wait for that as well. */
static bool
waits_for_gil(const struct about *a)
{
    return has_long_steps(a) && a->r->long_gil >= a->r->long_step / 2;
}

static void
say_waits_for_gil(const struct about *a, struct advice *out)
{
    char t[24];
    const struct advice_route *r = a->r;
    snprintf(
        out->text, sizeof(out->text),
        "%s is fine as it is: its steps of %s wait for the GIL, which threads have that compute",
        a->name, time_text(r->long_step, t));
}

/* It is def already. */
static bool
is_def_and_blocks(const struct about *a)
{
    return has_long_steps(a) && a->r->kind == METRICS_KIND_DEF;
}

static void
say_def_and_blocks(const struct about *a, struct advice *out)
{
    char t[24];
    snprintf(out->text, sizeof(out->text),
             "%s is def, and yet blocks the loop for %s%s%s: what is done with its request or its "
             "answer does",
             a->name, time_text(a->r->long_step - a->r->long_gil, t),
             a->place[0] != '\0' ? " at " : "", a->place);
}

static void
say_blocks_loop(const struct about *a, struct advice *out)
{
    char t[24];
    const struct advice_route *r = a->r;
    bool computes = r->loop_cpu >= most * r->loop;
    out->gain = r->long_step - r->long_gil;
    out->of = "seconds off the longest step of the event loop";
    snprintf(out->text, sizeof(out->text), "%s %s the loop for %s%s%s: make it def%s", a->name,
             computes ? "computes on" : "blocks", time_text(out->gain, t),
             a->place[0] != '\0' ? " at " : "", a->place,
             computes ? ", and nobody else waits for it for longer than the GIL takes"
                      : ", and nobody else waits for it");
}

static bool
uses_thread(const struct about *a)
{
    return a->r->crossings >= 0.5 && a->r->thread > 0;
}

/* Before all that is about threads: many short calls look idle, and what they need is fewer of them. */
static bool
crosses_often(const struct about *a)
{
    const struct advice_route *r = a->r;
    return uses_thread(a) && r->crossings >= many_crossings &&
           (r->cpu + r->starved) / r->crossings < tiny_s &&
           (waits_of(r) + r->database) / r->crossings < short_s;
}

static bool
is_def_and_crosses(const struct about *a)
{
    return a->r->kind == METRICS_KIND_DEF && crosses_often(a);
}

static void
say_def_and_crosses(const struct about *a, struct advice *out)
{
    char n[24];
    snprintf(out->text, sizeof(out->text),
             "%s is def, and yet crosses to a thread %s times a request: for dependencies, or the "
             "pieces of its answer",
             a->name, number_text(a->r->crossings, n));
}

static void
say_crosses_often(const struct about *a, struct advice *out)
{
    char n[24], t[24], g[24];
    const struct advice_route *r = a->r;
    out->gain = r->crossings - 1;
    out->of = "crossings a request saved";
    snprintf(out->text, sizeof(out->text),
             "%s crosses to a thread %s times a request, for %s each: make it def, which saves %s "
             "of them",
             a->name, number_text(r->crossings, n), time_text(r->thread / r->crossings, t),
             number_text(out->gain, g));
}

/* Of its time without the waits for the GIL, which others that compute beside it make. */
static double
own_time(const struct advice_route *r)
{
    return r->is_looked ? r->thread - r->gil - r->starved : r->thread;
}

/* Before the waits: of eight threads that compute seven wait at any time, for the GIL. */
static bool
computes(const struct about *a)
{
    const struct advice_route *r = a->r;
    return uses_thread(a) && r->cpu >= heavy_cpu_s && r->cpu >= most * own_time(r);
}

/* By a load at which it hurts. More than one CPU a worker it gets only without the GIL: then threads are what it needs. */
static bool
is_heavy(const struct about *a)
{
    const struct advice_route *r = a->r;
    double each = r->busy_cpu / (a->server->workers > 0 ? a->server->workers : 1);
    return computes(a) && each <= 1.2 && (each >= heavy_load || r->gil >= gil_share * r->thread);
}

static void
say_computes_little(const struct about *a, struct advice *out)
{
    char t[24], k[24];
    const struct advice_route *r = a->r;
    snprintf(out->text, sizeof(out->text),
             "%s is fine as it is: it computes for %s a request, and takes %s of a CPU", a->name,
             time_text(r->cpu, t), number_text(r->busy_cpu, k));
}

static void
say_computes(const struct about *a, struct advice *out)
{
    char t[24], g[24], k[24];
    const struct advice_route *r = a->r;
    out->gain = 1 / r->cpu;
    out->of = "requests a second more with each worker";
    snprintf(out->text, sizeof(out->text),
             "%s burns %d %% CPU, %s a request: keep it sync, give it a process; a worker makes %s "
             "a second at most, each further one as "
             "many again (now it takes %s of a CPU)",
             a->name, percent(r->cpu, own_time(r)), time_text(r->cpu, t), number_text(out->gain, g),
             number_text(r->busy_cpu, k));
}

/* Before what threads do else: a driver waits on a socket, but the connection is its thread's; and SQLite computes, without the GIL. */
static bool
asks_database(const struct about *a)
{
    const struct advice_route *r = a->r;
    return uses_thread(a) && r->database >= short_s && r->database >= most * (r->thread - r->gil);
}

static void
say_asks_database(const struct about *a, struct advice *out)
{
    char t[24], g[24], m[24];
    const struct advice_route *r = a->r;
    out->gain = least(r->busy_threads, a->server->slots) * r->database / r->thread / 2;
    out->of = "threads freed by queries that take half as long";
    snprintf(out->text, sizeof(out->text),
             "%s waits %d %% of %s in the database: keep it sync; queries that take half as long "
             "free %s of %s threads",
             a->name, percent(r->database, r->thread), time_text(r->thread, t),
             number_text(out->gain, g), number_text(a->server->slots, m));
}

static bool
waits(const struct about *a)
{
    const struct advice_route *r = a->r;
    return uses_thread(a) && waits_of(r) >= short_s && waits_of(r) >= most * (r->thread - r->gil);
}

/* What an event loop can wait for. Locks, files and processes it cannot, or not better. */
static bool
waits_for_network(const struct about *a)
{
    return waits(a) && network_of(a->r) + a->r->sleep >= waits_of(a->r) / 2;
}

static void
say_waits_for_network(const struct about *a, struct advice *out)
{
    char t[24], g[24], m[24];
    const struct advice_route *r = a->r;
    out->gain = least(r->busy_threads, a->server->slots) * (network_of(r) + r->sleep) / r->thread;
    out->of = "threads freed";
    snprintf(out->text, sizeof(out->text),
             "%s waits %d %% of %s %s: make it async, frees %s of %s threads", a->name,
             percent(waits_of(r), r->thread), time_text(r->thread, t),
             network_of(r) >= r->sleep ? "on sockets" : "asleep", number_text(out->gain, g),
             number_text(a->server->slots, m));
}

static void
say_waits(const struct about *a, struct advice *out)
{
    char t[24];
    const struct advice_route *r = a->r;
    snprintf(out->text, sizeof(out->text),
             "%s waits %d %% of %s for locks, files or processes: keep it sync", a->name,
             percent(waits_of(r), r->thread), time_text(r->thread, t));
}

static bool
waits_unseen(const struct about *a)
{
    const struct advice_route *r = a->r;
    return uses_thread(a) && !r->is_looked && r->starved >= short_s &&
           r->starved >= most * r->thread;
}

static void
say_waits_unseen(const struct about *a, struct advice *out)
{
    char t[24];
    const struct advice_route *r = a->r;
    snprintf(out->text, sizeof(out->text),
             "%s waits %d %% of %s on a thread; for what is not known yet", a->name,
             percent(r->starved, r->thread), time_text(r->thread, t));
}

static void
say_keep_sync(const struct about *a, struct advice *out)
{
    char t[24], q[24];
    const struct advice_route *r = a->r;
    bool is_queued = r->queue >= wait_s && r->queue >= r->request * wait_share;
    if (is_queued)
        snprintf(out->text, sizeof(out->text),
                 "%s is fine as it is: %s on a thread, for which it waits %s", a->name,
                 time_text(r->thread, t), time_text(r->queue, q));
    else
        snprintf(out->text, sizeof(out->text), "%s is fine as it is: %s on a thread%s", a->name,
                 time_text(r->thread, t),
                 r->gil >= r->thread / 2 ? ", most of it a wait for the GIL that others have" : "");
}

static bool
is_any(const struct about *a)
{
    (void)a;
    return true;
}

static void
say_keep_async(const struct about *a, struct advice *out)
{
    char t[24], w[24];
    const struct advice_route *r = a->r;
    snprintf(out->text, sizeof(out->text),
             "%s is fine as it is: %s on the loop, %d %% of %s awaits", a->name,
             time_text(r->loop, t), percent(r->awaits, r->request), time_text(r->request, w));
}

static const struct {
    enum advice_kind kind;
    bool (*fits)(const struct about *a);
    void (*say)(const struct about *a, struct advice *out);
} rules[] = {
    { ADVICE_NONE, is_other, say_other },
    { ADVICE_TOO_FEW, is_too_few, say_too_few },
    { ADVICE_KEEP, waits_for_gil, say_waits_for_gil },
    { ADVICE_KEEP, is_def_and_blocks, say_def_and_blocks },
    { ADVICE_DEF, has_long_steps, say_blocks_loop },
    { ADVICE_KEEP, is_def_and_crosses, say_def_and_crosses },
    { ADVICE_CROSSINGS, crosses_often, say_crosses_often },
    { ADVICE_DATABASE, asks_database, say_asks_database },
    { ADVICE_PROCESS, is_heavy, say_computes },
    { ADVICE_KEEP, computes, say_computes_little },
    { ADVICE_ASYNC, waits_for_network, say_waits_for_network },
    { ADVICE_KEEP, waits, say_waits },
    { ADVICE_TOO_FEW, waits_unseen, say_waits_unseen },
    { ADVICE_KEEP, uses_thread, say_keep_sync },
    { ADVICE_KEEP, is_any, say_keep_async },
};

void
advice_route(const char *name, const char *place, const struct advice_route *r,
             const struct advice_server *server, struct advice *out)
{
    struct about a = { name, place, r, server };
    *out = (struct advice){ .of = "", .worth = r->busy_threads };
    if (server->seconds > 0)
        out->worth += r->requests * (r->loop + r->queue) / server->seconds;
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (!rules[i].fits(&a))
            continue;
        out->kind = rules[i].kind;
        rules[i].say(&a, out);
        return;
    }
}

/* --- threads ---------------------------------------------------------------------------------------- */

void
advice_threads_add(struct advice_threads *to, const struct advice_route *r,
                   const struct advice_server *server)
{
    if (r->crossings <= 0 || server->seconds <= 0)
        return;
    /* Of a route, some of whose requests have called no thread, no more have than there were calls. */
    double n = r->requests * least(r->crossings, 1), all = to->requests + n;
    if (n <= 0)
        return;
    to->wait = (to->wait * to->requests + r->queue * r->requests) / all;
    to->requests = all;
    to->counted += r->busy_threads;
    if (r->thread <= 0)
        return;
    to->seen += r->is_looked ? r->busy_threads : 0;
    to->gil += r->busy_threads * (r->is_looked ? r->gil + r->starved : 0) / r->thread;
    to->cpu += r->busy_threads * r->cpu / r->thread;
    to->waiting += r->queue * r->requests / server->seconds;
}

void
advice_threads(struct advice_threads *t, const struct advice_server *server, struct advice *out)
{
    char w[24], n[24], m[24], b[24];
    double workers = server->workers > 0 ? server->workers : 1;
    *out = (struct advice){ .of = "", .worth = t->busy };
    if (t->requests < few || server->slots == 0) {
        out->kind = ADVICE_TOO_FEW;
        t->needed = server->slots;
        snprintf(out->text, sizeof(out->text), "not enough seen yet to judge %s threads",
                 number_text(server->slots, m));
        return;
    }
    if (t->seen < most * t->counted) {
        out->kind = ADVICE_TOO_FEW;
        t->needed = server->slots;
        snprintf(out->text, sizeof(out->text),
                 "%s of %s threads are busy in the middle; for what they wait is not known",
                 number_text(t->busy, b), number_text(server->slots, m));
        return;
    }
    /* What routes do stands for the rest, which no route has: consumers of WebSockets. */
    if (t->counted > 0) {
        t->gil *= t->busy / t->counted;
        t->cpu *= t->busy / t->counted;
    }
    /* Each worker has its own share of the load, and its own threads. Who waits for the GIL needs no thread for it: with fewer
     * threads he would wait for one of these instead, and not for longer. */
    double load = no_less_than_0(t->busy - t->gil) / workers;
    double each = ceil(load + spare * sqrt(load) - 0.05);
    t->needed = workers * (each < 1 ? 1 : each);
    number_text(server->slots, m);
    time_text(t->wait, w);
    bool is_short = t->wait >= wait_s && t->waiting >= wait_share * t->busy;
    if (is_short && t->cpu + t->gil >= most * t->busy) {
        out->kind = ADVICE_PROCESSES;
        t->needed = server->slots;
        out->gain = t->wait / (workers + 1);
        out->of = "seconds less wait for a thread with one worker more";
        snprintf(out->text, sizeof(out->text),
                 "requests wait %s for a thread, and %d %% of what threads do is to compute, or to "
                 "wait for those that do: more threads would "
                 "not help, more workers would",
                 w, percent(t->cpu + t->gil, t->busy));
    } else if (is_short) {
        out->kind = ADVICE_MORE;
        /* Those that wait would be served beside those that are. */
        double more = ceil((t->busy + t->waiting) / workers - 0.05);
        t->needed = workers * (more > each ? more : each);
        if (t->needed <= server->slots) {
            out->kind = ADVICE_KEEP;
            t->needed = server->slots;
            snprintf(out->text, sizeof(out->text),
                     "requests come in bursts, and wait %s for a thread then; of %s, %s are busy "
                     "in the middle",
                     w, m, number_text(t->busy, b));
            return;
        }
        out->gain = t->wait;
        out->of = "seconds of wait for a thread cut";
        snprintf(out->text, sizeof(out->text),
                 "requests wait %s for one of %s threads: %s would end that", w, m,
                 number_text(t->needed, n));
    } else if (t->needed < server->slots) {
        out->kind = ADVICE_FEWER;
        out->gain = server->slots - t->needed;
        out->of = "threads, and database connections, saved";
        snprintf(out->text, sizeof(out->text),
                 "%s of %s threads would do at today's load, of which %s are busy in the middle",
                 number_text(t->needed, n), m, number_text(t->busy, b));
    } else {
        out->kind = ADVICE_KEEP;
        t->needed = server->slots;
        snprintf(out->text, sizeof(out->text),
                 "%s threads are right for today's load, of which %s are busy in the middle", m,
                 number_text(t->busy, b));
    }
}
