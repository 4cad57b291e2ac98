/* test_advice.c: which verdict figures lead to, and what it says. */
#include "metrics/advice.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/clock.h"
#include "tap.h"

static const struct advice_server server = { .seconds = 100, .workers = 1, .slots = 8 };

#define MS(n) ((uint64_t)((n) * 1e6))

/* A route that takes a thread; times of one request, in ms. */
static struct metrics_route_sum
sync_route(uint64_t n, double thread, double cpu, double gil, double net, double other)
{
    double run = cpu;
    return (struct metrics_route_sum){
        .name = "/r",
        .requests = n,
        .hops = n,
        .request_ns = n * MS(thread + 0.2),
        .thread_ns = n * MS(thread),
        .thread_cpu_ns = n * MS(cpu),
        .looked_run_ns = n * MS(run),
        .looked_gil_ns = n * MS(gil),
        .looked_net_ns = n * MS(net),
        .looked_other_ns = n * MS(other),
        .loop_ns = n * MS(0.1),
        .loop_cpu_ns = n * MS(0.1),
        .step_max_ns = MS(0.2),
    };
}

static struct advice
judge(const struct metrics_route_sum *sum)
{
    struct advice_route means;
    struct advice advice;
    advice_means(sum, &server, &means);
    advice_route("/r", sum->place, &means, &server, &advice);
    diag("%s", advice.text);
    return advice;
}

static enum advice_kind
kind_of(struct metrics_route_sum sum)
{
    return judge(&sum).kind;
}

static bool
is_near(double a, double b)
{
    return fabs(a - b) <= 0.01 * fabs(b) + 1e-9;
}

static void
test_waits(void)
{
    struct metrics_route_sum sum = sync_route(357, 1400, 100, 12, 1288, 0);
    struct advice a = judge(&sum);
    CHECK(a.kind == ADVICE_ASYNC && is_near(a.gain, 357 * 1.288 / 100));
    CHECK(strcmp(a.text,
                 "/r waits 92 % of 1.4 s on sockets: make it async, frees 4.6 of 8 threads") == 0);
    ok(kind_of(sync_route(100, 50, 2, 0, 28, 20)) == ADVICE_ASYNC, "sockets mostly, and locks");
    ok(kind_of(sync_route(100, 50, 2, 0, 0, 48)) == ADVICE_KEEP,
       "locks and files: no loop waits for those");
    ok(kind_of(sync_route(100, 50, 25, 0, 25, 0)) == ADVICE_KEEP, "half and half");
    ok(kind_of(sync_route(100, 4, 0.5, 0, 3.5, 0)) == ADVICE_KEEP,
       "too short a wait to be worth it");
    ok(kind_of(sync_route(100, 50, 2, 48, 0, 0)) == ADVICE_KEEP,
       "the GIL's waits are others' doing");
    sum = sync_route(100, 50, 2, 0, 48, 0);
    sum.looked_run_ns = sum.looked_net_ns = sum.looked_gil_ns = 0;
    ok(judge(&sum).kind == ADVICE_TOO_FEW, "nobody has looked: nothing is said of its waits");
    sum.looked_gil_ns = MS(40);
    ok(judge(&sum).kind == ADVICE_TOO_FEW, "two looks are chance");
    sum = sync_route(100, 50, 2, 0, 0, 0);
    sum.looked_sleep_ns = 100 * MS(48);
    a = judge(&sum);
    CHECK(a.kind == ADVICE_ASYNC && strstr(a.text, " asleep: ") != NULL);
}

static void
test_computes(void)
{
    struct metrics_route_sum sum = sync_route(500, 42, 40, 0, 2, 0);
    struct advice a = judge(&sum);
    CHECK(a.kind == ADVICE_PROCESS && is_near(a.gain, 25));
    CHECK(strstr(a.text, "/r burns 95 % CPU, 40 ms a request: keep it sync, give it a process; a "
                         "worker makes 25 a second") != NULL);
    ok(kind_of(sync_route(500, 320, 40, 278, 2, 0)) == ADVICE_PROCESS,
       "eight of them wait for the GIL most of the time");
    ok(kind_of(sync_route(500, 3, 3, 0, 0, 0)) == ADVICE_KEEP,
       "a little CPU is what a view is for");
    ok(kind_of(sync_route(500, 40, 40.5, 0, 0, 0)) == ADVICE_PROCESS,
       "scaled up, more CPU than time");
    sum = sync_route(500, 80, 40, 0, 0, 0);
    sum.looked_run_ns = 500 * MS(80); /* found running all the time: the machine is busy */
    a = judge(&sum);
    CHECK(a.kind == ADVICE_PROCESS && strstr(a.text, "burns 100 % CPU") != NULL);
    ok(kind_of(sync_route(100, 42, 40, 0, 2, 0)) == ADVICE_KEEP, "0.04 of a CPU hurt nobody");
    ok(kind_of(sync_route(100, 90, 40, 48, 2, 0)) == ADVICE_PROCESS,
       "but for those that wait for its GIL");
    ok(kind_of(sync_route(5000, 42, 40, 0, 2, 0)) == ADVICE_KEEP,
       "two CPUs in one worker: not under the GIL");
}

static void
test_database(void)
{
    struct metrics_route_sum sum = sync_route(1000, 120, 10, 0, 105, 5);
    sum.driver_ns = 1000 * MS(100);
    struct advice a = judge(&sum);
    CHECK(a.kind == ADVICE_DATABASE && is_near(a.gain, 1.2 * 100 / 120 / 2));
    CHECK(strstr(a.text, "/r waits 83 % of 120 ms in the database: keep it sync; ") != NULL);
    sum.driver_ns = 1000 * MS(30);
    ok(judge(&sum).kind == ADVICE_ASYNC, "a database is asked, but other waits are longer");
    /* Eight threads, each of whose queries takes a moment, and then waits for the GIL. */
    sum = sync_route(1000, 160, 20, 137, 3, 0);
    sum.driver_ns = 1000 * MS(140);
    sum.looked_driver_gil_ns = 1000 * MS(137);
    ok(judge(&sum).kind == ADVICE_PROCESS, "a driver's way back to the GIL is not the database");
    sum = sync_route(1000, 120, 10, 0, 110, 0);
    sum.driver_ns = 1000 * MS(50);
    a = judge(&sum);
    CHECK(a.kind != ADVICE_ASYNC && a.kind != ADVICE_DATABASE); /* half and half */
    sum = sync_route(1000, 4, 1, 0, 3, 0);
    sum.driver_ns = 1000 * MS(3);
    ok(judge(&sum).kind == ADVICE_KEEP, "quick queries");
}

static void
test_loop(void)
{
    struct metrics_route_sum sum = {
        .name = "/r",
        .requests = 50,
        .request_ns = 50 * MS(61),
        .loop_ns = 50 * MS(60.2),
        .loop_cpu_ns = 50 * MS(1),
        .long_steps = 50,
        .long_step_ns = 50 * MS(60),
        .step_max_ns = MS(70),
        .place = "app/views.py:31",
    };
    struct advice a = judge(&sum);
    CHECK(a.kind == ADVICE_DEF && is_near(a.gain, 0.06));
    CHECK(strstr(a.text, "/r blocks the loop for 60 ms at app/views.py:31: make it def") == a.text);
    sum.place[0] = '\0';
    CHECK(strstr(judge(&sum).text, "/r blocks the loop for 60 ms: make it def") != NULL);
    sum.loop_cpu_ns = 50 * MS(58);
    CHECK(strstr(judge(&sum).text, "/r computes on the loop for 60 ms: make it def") != NULL);
    sum.kind = METRICS_KIND_DEF;
    a = judge(&sum);
    CHECK(a.kind == ADVICE_KEEP &&
          strstr(a.text, "/r is def, and yet blocks the loop for 60 ms") == a.text);
    sum.kind = METRICS_KIND_ASYNC;
    sum.loop_cpu_ns = 50 * MS(5);
    sum.long_gil_ns = 50 * MS(55);
    ok(judge(&sum).kind == ADVICE_KEEP, "threads that compute have taken the GIL");
    sum.long_gil_ns = 50 * MS(10);
    a = judge(&sum);
    CHECK(a.kind == ADVICE_DEF && is_near(a.gain, 0.05));
    sum.long_steps = 4;
    sum.long_step_ns = 4 * MS(60);
    ok(judge(&sum).kind == ADVICE_KEEP, "now and then: a cold cache");
    sum.requests = 19;
    ok(judge(&sum).kind == ADVICE_TOO_FEW, "too few of them");

    sum = (struct metrics_route_sum){ .requests = 1000,
                                      .request_ns = 1000 * MS(20),
                                      .loop_ns = 1000 * MS(0.3),
                                      .loop_cpu_ns = 1000 * MS(0.3) };
    a = judge(&sum);
    CHECK(a.kind == ADVICE_KEEP && a.of[0] == '\0' && a.gain == 0);
    CHECK(strcmp(a.text, "/r is fine as it is: 300 us on the loop, 98 % of 20 ms awaits") == 0);
}

static void
test_crossings(void)
{
    struct metrics_route_sum sum = sync_route(100, 0.6, 0.3, 0.1, 0.1, 0.1);
    sum.hops = 1200;
    struct advice a = judge(&sum);
    CHECK(a.kind == ADVICE_CROSSINGS && is_near(a.gain, 11));
    CHECK(strstr(a.text, "/r crosses to a thread 12 times a request, for 50 us each: make it def, "
                         "which saves 11 of them") != NULL);
    sum.kind = METRICS_KIND_DEF;
    ok(judge(&sum).kind == ADVICE_KEEP, "it is def already, and its dependencies are");
    sum.kind = METRICS_KIND_ASYNC;
    sum.hops = 300;
    ok(judge(&sum).kind == ADVICE_KEEP, "a few");
    sum = sync_route(100, 200, 5, 0, 195, 0);
    sum.hops = 1200;
    ok(judge(&sum).kind == ADVICE_ASYNC, "many, each of which waits");
    sum = sync_route(500, 60, 55, 5, 0, 0);
    sum.hops = 6000;
    ok(judge(&sum).kind == ADVICE_PROCESS, "many, each of which computes");
}

static void
test_few(void)
{
    ok(kind_of(sync_route(19, 100, 5, 0, 95, 0)) == ADVICE_TOO_FEW, "19 requests");
    ok(kind_of(sync_route(20, 100, 5, 0, 95, 0)) == ADVICE_ASYNC, "20 requests");
    ok(kind_of(sync_route(5, 1400, 5, 0, 1395, 0)) == ADVICE_ASYNC, "5 slow ones tell as much");
    ok(kind_of(sync_route(4, 14000, 5, 0, 13995, 0)) == ADVICE_TOO_FEW, "4 never do");
    struct advice_server brief = { .seconds = 4, .workers = 1, .slots = 8 };
    struct metrics_route_sum slow = sync_route(30, 1400, 5, 0, 1395, 0);
    struct advice_route slow_means;
    struct advice slow_advice;
    advice_means(&slow, &brief, &slow_means);
    advice_route("/r", "", &slow_means, &brief, &slow_advice);
    ok(slow_advice.kind == ADVICE_TOO_FEW,
       "requests that are older than the time that was looked at");
    brief.seconds = 10;
    advice_means(&slow, &brief, &slow_means);
    slow_means.busy_threads = 48;
    advice_route("/r", "", &slow_means, &brief, &slow_advice);
    ok(slow_advice.kind == ADVICE_ASYNC && slow_advice.gain <= 8,
       "no more are freed than there are");
    advice_route("other", "", &slow_means, &brief, &slow_advice);
    CHECK(slow_advice.kind == ADVICE_NONE && slow_advice.of[0] == '\0');
    struct metrics_route_sum none = { .name = "/r" };
    ok(judge(&none).kind == ADVICE_TOO_FEW, "none at all");
    struct advice_server unknown = { 0 };
    struct advice_route means;
    struct advice a;
    struct metrics_route_sum sum = sync_route(100, 100, 5, 0, 95, 0);
    advice_means(&sum, &unknown, &means);
    advice_route("/r", "", &means, &unknown, &a);
    CHECK(a.kind == ADVICE_ASYNC && isfinite(a.gain) && isfinite(a.worth));
}

/* What is said of the threads under n requests of each route. */
static struct advice
threads(const struct metrics_route_sum *sums, size_t n, const struct advice_server *of,
        double *needed)
{
    struct advice_threads t = { 0 };
    struct advice a;
    for (size_t i = 0; i < n; i++) {
        struct advice_route means;
        advice_means(&sums[i], of, &means);
        advice_threads_add(&t, &means, of);
    }
    t.busy = t.counted;
    advice_threads(&t, of, &a);
    *needed = t.needed;
    diag("%s", a.text);
    return a;
}

static void
test_threads(void)
{
    double needed;
    /* 0.9 busy in the middle, and half a one. */
    struct metrics_route_sum two[] = { sync_route(900, 100, 5, 0, 95, 0),
                                       sync_route(500, 100, 50, 0, 50, 0) };
    struct advice a = threads(two, 2, &server, &needed);
    CHECK(a.kind == ADVICE_FEWER && needed == 4 && a.gain == 4);
    CHECK(strstr(a.text, "4 of 8 threads would do at today's load") == a.text);
    struct advice_server many = { .seconds = 100, .workers = 4, .slots = 32 };
    a = threads(two, 2, &many, &needed);
    CHECK(a.kind == ADVICE_FEWER && needed == 8 && a.gain == 24); /* 0.35 each, and a spare one */
    /* Computing: seven wait for the GIL, which is no reason to have them. */
    struct metrics_route_sum burns = sync_route(2000, 320, 40, 280, 0, 0);
    a = threads(&burns, 1, &server, &needed);
    CHECK(a.kind == ADVICE_FEWER && needed == 3);
    /* All busy, and as many wait. */
    struct metrics_route_sum full = sync_route(8000, 100, 5, 0, 95, 0);
    full.slot_wait_ns = 8000 * MS(50);
    full.request_ns = 8000 * MS(151);
    a = threads(&full, 1, &server, &needed);
    CHECK(a.kind == ADVICE_MORE && needed == 14 && is_near(a.gain, 0.05));
    CHECK(strcmp(a.text, "requests wait 50 ms for one of 8 threads: 14 would end that") == 0);
    struct metrics_route_sum both = sync_route(2000, 390, 40, 350, 0, 0);
    both.slot_wait_ns = 2000 * MS(400);
    a = threads(&both, 1, &server, &needed);
    CHECK(a.kind == ADVICE_PROCESSES && needed == 8);
    struct metrics_route_sum busy = sync_route(6000, 100, 5, 0, 95, 0);
    a = threads(&busy, 1, &server, &needed);
    CHECK(a.kind == ADVICE_KEEP && needed == 8 &&
          strstr(a.text, "8 threads are right for today's load") == a.text);
    struct metrics_route_sum unseen = sync_route(8000, 95, 5, 0, 90, 0);
    unseen.looked_run_ns = unseen.looked_net_ns = 0;
    a = threads(&unseen, 1, &server, &needed);
    CHECK(a.kind == ADVICE_TOO_FEW && needed == 8 && strstr(a.text, "is not known") != NULL);
    struct metrics_route_sum bursts = sync_route(1000, 80, 5, 0, 75, 0);
    bursts.slot_wait_ns = 1000 * MS(40);
    a = threads(&bursts, 1, &server, &needed);
    CHECK(a.kind == ADVICE_KEEP && needed == 8 &&
          strstr(a.text, "requests come in bursts") == a.text);
    a = threads(NULL, 0, &server, &needed);
    CHECK(a.kind == ADVICE_TOO_FEW);
    struct metrics_route_sum async = { .requests = 1000,
                                       .request_ns = 1000 * MS(1),
                                       .loop_ns = 1000 * MS(1) };
    a = threads(&async, 1, &server, &needed);
    ok(a.kind == ADVICE_TOO_FEW, "nothing goes to threads");
}

static void
test_names(void)
{
    for (int k = 0; k < ADVICE_KINDS; k++)
        ok(advice_name((enum advice_kind)k) != NULL, "kind %d has a name", k);
    char name[METRICS_ROUTE_SIZE + 1];
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    char place[METRICS_PLACE_SIZE];
    memset(place, 'y', sizeof(place));
    place[sizeof(place) - 1] = '\0';
    struct metrics_route_sum sum = { .requests = 50,
                                     .request_ns = MS(1e6),
                                     .loop_ns = MS(1e6),
                                     .loop_cpu_ns = MS(1e6),
                                     .long_steps = 50,
                                     .long_step_ns = MS(1e6) };
    struct advice_route means;
    struct advice a;
    advice_means(&sum, &server, &means);
    advice_route(name, place, &means, &server, &a);
    ok(strstr(a.text, place) != NULL && strlen(a.text) < sizeof(a.text) - 1,
       "the longest names fit");
}

/* What workers count, and what is read of it. */
static void
test_counts(void)
{
    int fd = -1;
    struct metrics *m = metrics_new(&fd);
    if (!ok(m != NULL, "an area"))
        return;
    static struct metrics_route_sum routes[METRICS_ROUTES_MAX];
    const struct metrics_spent spent = {
        .request_ns = 10,
        .thread_ns = 7,
        .calls = { .hops = 2,
                   .wait_ns = 3,
                   .cpu_ns = 4,
                   .driver_ns = 5,
                   .looked_ns = { 1, 2, 3, 4, 5 } },
        .steps = { .ns = METRICS_LONG_STEP_NS,
                   .cpu_ns = 6,
                   .gil_ns = 8,
                   .max_ns = METRICS_LONG_STEP_NS,
                   .long_ns = METRICS_LONG_STEP_NS,
                   .long_n = 1 },
    };
    struct metrics_spent quick = { .request_ns = 10 };
    const struct metrics_step one_step = {
        .ns = 100, .cpu_ns = 50, .gil_ns = 7, .turn = 5, .stands_for = 16
    };
    metrics_step(&quick.steps, &one_step);
    metrics_step(&quick.steps, &one_step);
    /* two steps of a turn have waited once */
    CHECK(quick.steps.gil_ns == 7 * 16 && quick.steps.ns == 3200);
    struct metrics_block *zero = metrics_take(m, 0, 1, 1), *one = metrics_take(m, 1, 1, 1);
    metrics_begin(m, zero);
    metrics_count_route(SLICE("/a"), 200, &spent, "a.py:1");
    metrics_count_route(SLICE("/a"), 500, &spent, "a.py:2");
    metrics_count_route(SLICE(""), 200, &quick, "");
    metrics_begin(m, one);
    metrics_count_route(SLICE("/b"), 200, &spent, "");
    metrics_count_route(SLICE("/a"), 200, &spent, "a.py:3");
    unsigned n = metrics_gather_routes(m, routes);
    if (ok(n == 3, "two routes, and what has none")) {
        const struct metrics_route_sum *a =
            strcmp(routes[1].name, "/a") == 0 ? &routes[1] : &routes[2];
        CHECK(a->requests == 3 && a->errors == 1 && a->request_ns == 30 && a->thread_ns == 21 &&
              a->hops == 6);
        CHECK(a->looked_run_ns == 3 && a->looked_gil_ns == 6 && a->looked_net_ns == 9 &&
              a->looked_sleep_ns == 12 && a->looked_other_ns == 15);
        CHECK(a->slot_wait_ns == 9 && a->thread_cpu_ns == 12 && a->driver_ns == 15 &&
              a->loop_cpu_ns == 18 && a->loop_gil_ns == 24);
        CHECK(a->long_steps == 3 && a->step_max_ns == METRICS_LONG_STEP_NS);
        ok(strcmp(a->place, "a.py:3") == 0 && a->place_at_ns > 0, "the place is the latest one");
        CHECK(routes[0].requests == 1 && routes[0].loop_ns == 3200 &&
              routes[0].loop_cpu_ns == 1600 && routes[0].step_max_ns == 100);
    }
    BUF_OWNED struct buf text = { 0 };
    CHECK(metrics_text(m, false, &text) == 0 && buf_append(&text, "", 1) == 0);
    CHECK(strstr(text.p, "ringcorn_route_requests_total{route=\"/a\"} 3\n") != NULL);
    CHECK(strstr(text.p,
                 "ringcorn_route_thread_waits_seconds_total{route=\"/a\",for=\"gil\"} 6e-09\n") !=
          NULL);
    metrics_begin(NULL, NULL);
    metrics_free(m);
    close(fd);
}

int
main(void)
{
    test_waits();
    test_computes();
    test_database();
    test_loop();
    test_crossings();
    test_few();
    test_threads();
    test_names();
    test_counts();
    return tap_done();
}
