/* test_watchdog.c: guard/watchdog.c beside a loop that is only a heartbeat: what it asks about is a step that there was, while it lasted. */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "metrics/pulse.h"
#include "tap.h"

/* What guard.h takes from Python. */
#define RINGCORN_ASGI_H
#define Py_BEGIN_ALLOW_THREADS
#define Py_END_ALLOW_THREADS
typedef struct _object PyObject;
struct asgi;

#include "../../server/guard/watchdog.c"

static const int64_t block_ns = 5 * 1000 * 1000;

/* --- stands in for blame.c -------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct guard_question asked[64];
static unsigned asked_n;
static atomic_llong waits_ns;

int
blame_start(PyObject *loop, struct asgi *asgi)
{
    (void)loop, (void)asgi;
    return 0;
}

void
blame_stop(void)
{
}

void
blame_forget(void)
{
}

int64_t
blame_waits_ns(int64_t now_ns)
{
    (void)now_ns;
    return atomic_load(&waits_ns);
}

void
blame_ask(const struct guard_question *question)
{
    pthread_mutex_lock(&lock);
    if (asked_n < ARRAY_LEN(asked))
        asked[asked_n++] = *question;
    pthread_mutex_unlock(&lock);
}

/* Takes the oldest question. */
static bool
take(struct guard_question *out)
{
    pthread_mutex_lock(&lock);
    bool is_one = asked_n > 0;
    if (is_one) {
        *out = asked[0];
        memmove(asked, asked + 1, --asked_n * sizeof(asked[0]));
    }
    pthread_mutex_unlock(&lock);
    return is_one;
}

/* Waits for the next question, for as long as a machine that is busy with other things may need. */
static bool
wait_for(struct guard_question *out)
{
    for (int ms = 0; ms < 20000; ms++) {
        if (take(out))
            return true;
        poll(NULL, 0, 1);
    }
    return false;
}

/* --- the loop --------------------------------------------------------------------------------------------- */

static void
begin_turn(void)
{
    pulse_turns(metrics_here, clock_ns());
    pulse_python_begins(metrics_here);
}

static int64_t
begin_step(void)
{
    int64_t now_ns = clock_ns();
    pulse_step(metrics_here, now_ns);
    return now_ns;
}

static void
end_turn(void)
{
    pulse_waits(metrics_here, clock_ns());
}

static void
test_a_long_step(void)
{
    struct guard_question q = { 0 };
    begin_turn();
    int64_t since_ns = begin_step();
    CHECK(wait_for(&q) && q.what == GUARD_BLOCKED && q.level == 0);
    CHECK(q.at.since_ns == since_ns && !q.at.wants_gil &&
          q.at.turns == metrics_get(&metrics_here->pulse.turns));
    CHECK(q.held_ns >= block_ns && q.held_ns <= clock_ns() - since_ns);
    struct guard_look now = guard_look();
    CHECK(guard_is_same(&q.at, &now));
    int64_t ended = begin_step();
    end_turn();
    now = guard_look();
    CHECK(!guard_is_same(&q.at, &now));
    bool is_over = wait_for(&q);
    while (is_over && q.what == GUARD_BLOCKED) /* after a second, where this thread was not run */
        is_over = wait_for(&q);
    CHECK(is_over && q.what == GUARD_OVER && q.at.since_ns == since_ns &&
          q.held_ns == ended - since_ns);
}

static void
test_the_gil(void)
{
    struct guard_question q = { 0 };
    pulse_turns(metrics_here, clock_ns());
    pulse_doing(metrics_here, METRICS_WANTS_GIL);
    CHECK(wait_for(&q) && q.what == GUARD_BLOCKED && q.at.wants_gil);
    CHECK(q.at.since_ns == (int64_t)metrics_get(&metrics_here->pulse.begun_ns));
    end_turn();
    while (wait_for(&q) && q.what != GUARD_OVER)
        ;
    CHECK(q.what == GUARD_OVER);
}

enum { STEPS = 400 };

/* Steps of random length, most of them short: what is asked about was one of them, and held the loop for as long. */
static void
test_random_steps(void)
{
    static int64_t begun[STEPS + 1];
    unsigned seed = 1, told = 0, wrong = 0;
    struct guard_question q;
    begin_turn();
    for (int i = 0; i < STEPS; i++) {
        if (i % 7 == 0) {
            end_turn();
            begin_turn();
        }
        begun[i] = begin_step();
        int64_t ns = (int64_t)(rand_r(&seed) % 100) * rand_r(&seed) % (2 * block_ns);
        while (clock_ns() - begun[i] < ns)
            sched_yield();
    }
    begun[STEPS] = begin_step();
    end_turn();
    poll(NULL, 0, 50);
    while (take(&q)) {
        int i = 0;
        while (i < STEPS && begun[i] != q.at.since_ns)
            i++;
        told += q.what == GUARD_BLOCKED;
        /* A turn may begin after the last step was over. */
        wrong += i == STEPS || (q.what == GUARD_BLOCKED && q.held_ns < block_ns);
    }
    diag("%u of %d steps were told of", told, STEPS);
    CHECK(wrong == 0);
}

static void
test_idle(void)
{
    struct guard_question q;
    for (int i = 0; i < 20; i++) {
        poll(NULL, 0, 2 * (int)(block_ns / NS_PER_MS));
        pulse_turns(metrics_here, clock_ns());
        end_turn();
    }
    CHECK(!take(&q));
}

static int
count(const char *folder)
{
    int n = 0;
    DIR *dir = opendir(folder);
    while (dir != NULL && readdir(dir) != NULL)
        n++;
    if (dir != NULL)
        closedir(dir);
    return n;
}

int
main(void)
{
    pulse_waits(metrics_here, clock_ns());
    guard_start(NULL, NULL, block_ns);
    guard_stop(); /* a sanitizer's own threads are there now */
    int files = count("/proc/self/fd"), threads = count("/proc/self/task");
    guard_start(NULL, NULL, block_ns);
    guard_serving(true);
    test_a_long_step();
    test_the_gil();
    test_idle();
    test_random_steps();
    guard_stop();
    guard_stop();
    CHECK(count("/proc/self/fd") == files && count("/proc/self/task") == threads);
    return tap_done();
}
