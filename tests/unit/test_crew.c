/* test_crew.c: threads, slots and leases without Python: step by step with threads that are only played, and under random load with real
 * ones (which is what `make tsan` looks at).
 *
 * The crew comes in as source, with a loop of our own in place of py/'s. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tap.h"

#define RINGCORN_PY_H /* in place of py.h: what the crew needs of it */

typedef struct _object PyObject;
typedef struct _ts PyThreadState;
typedef ssize_t Py_ssize_t;

struct loop_client {
    void (*turn)(void *self);
    bool (*has_work)(void *self);
    int (*run)(void *self);
    void (*flush)(void *self);
    int64_t (*next_ns)(void *self);
};

struct post {
    struct post *next;
    void (*fn)(struct post *post, PyObject *loop);
};

struct loop_late {
    struct loop_late *next;
    void (*fn)(struct loop_late *late);
    bool is_noted;
};

bool loop_runs_here(PyObject *loop);
bool loop_runs_elsewhere(PyObject *loop);
bool loop_is_released(PyObject *loop);
void loop_wake(PyObject *loop);
bool loop_do_late(PyObject *loop, struct loop_late *late);
void loop_post(PyObject *loop, struct post *post);
void loop_expect(PyObject *loop, int n);

/* The time stands still while stopped_ns is set. */
static int64_t stopped_ns;

static int64_t
crew_clock_ns(void)
{
    return stopped_ns != 0 ? stopped_ns : clock_ns();
}

#define clock_ns crew_clock_ns
#include "../../server/sync/crew.c"
#include "../../server/sync/headway.c"
#include "../../server/sync/turn.c"
#undef clock_ns

bool
blocked_is_due(struct crew *c)
{
    (void)c;
    return false;
}

int64_t
blocked_due_ns(struct crew *c)
{
    (void)c;
    return INT64_MAX;
}

void
blocked_sample(struct crew *c)
{
    (void)c;
}

static unsigned waits_told;

void
crew_tell_wait(struct crew *c)
{
    (void)c;
    waits_told++;
}

void
crew_end(struct crew *c)
{
    crew_free(c);
}

/* --- a loop ------------------------------------------------------------------------------------------------------- */

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct post *posts, **posts_end;
    bool is_woken;
    bool has_gil;
    struct loop_late *late;
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .cond = PTHREAD_COND_INITIALIZER,
           .posts_end = &fake.posts };

static PyObject *const fake_loop = (PyObject *)&fake;

bool
loop_runs_here(PyObject *loop)
{
    (void)loop;
    return pthread_equal(fake.thread, pthread_self());
}

bool
loop_runs_elsewhere(PyObject *loop)
{
    return !loop_runs_here(loop);
}

void
loop_expect(PyObject *loop, int n)
{
    (void)loop, (void)n;
}

bool
loop_is_released(PyObject *loop)
{
    (void)loop;
    return !fake.has_gil;
}

void
loop_wake(PyObject *loop)
{
    (void)loop;
    pthread_mutex_lock(&fake.lock);
    fake.is_woken = true;
    pthread_cond_signal(&fake.cond);
    pthread_mutex_unlock(&fake.lock);
}

void
loop_post(PyObject *loop, struct post *post)
{
    (void)loop;
    pthread_mutex_lock(&fake.lock);
    post->next = NULL;
    *fake.posts_end = post;
    fake.posts_end = &post->next;
    pthread_cond_signal(&fake.cond);
    pthread_mutex_unlock(&fake.lock);
}

bool
loop_do_late(PyObject *loop, struct loop_late *late)
{
    (void)loop;
    if (!fake.has_gil)
        return false;
    if (!late->is_noted) {
        late->is_noted = true;
        late->next = fake.late;
        fake.late = late;
    }
    return true;
}

/* --- dice --------------------------------------------------------------------------------------------------------- */

static _Thread_local uint64_t rng_state;

static unsigned
rng(unsigned n)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (unsigned)(rng_state % n);
}

/* --- played threads: crew_next() is called for them ------------------------------------------------------------------ */

enum { PLAYED = 8 };

static struct sync_thread played[PLAYED];

struct step_job {
    struct sync_job sync;
    enum sync_drop why;
    bool is_dropped;
};

static void
step_drop(struct sync_job *job, enum sync_drop why)
{
    struct step_job *s = CONTAINER_OF(job, struct step_job, sync);
    s->is_dropped = true;
    s->why = why;
}

static struct crew *
crew_of(size_t slots, size_t threads_max)
{
    struct crew *c = crew_new();
    c->slots = slots;
    c->threads_max = threads_max;
    c->queue_max = 100;
    memset(played, 0, sizeof played);
    return c;
}

static struct sync_job *
job_init(struct step_job *s)
{
    *s = (struct step_job){ .sync.drop = step_drop };
    list_init(&s->sync.link);
    return &s->sync;
}

/* A thread more, where one is wanted: it asks for what it has to do. */
static enum next
start(struct crew *c, struct sync_thread *t)
{
    unsigned orders = 0;
    if (!crew_begin_start(c))
        return NEXT_ORDERS;
    *t = (struct sync_thread){ .crew = c };
    crew_thread_init(t);
    return crew_next(c, t, NULL, &orders);
}

/* The thread begins what it was given. */
static struct sync_job *
begins(struct sync_thread *t)
{
    struct sync_job *job = t->next;
    t->next = NULL;
    return job;
}

/* It has done its job, and asks for the next. */
static enum next
ends(struct crew *c, struct sync_thread *t, struct sync_job *job)
{
    unsigned orders = 0;
    return crew_next(c, t, job, &orders);
}

static void
leave_all(struct crew *c)
{
    crew_close(c);
    for (size_t i = 0; i < PLAYED; i++) {
        unsigned orders = 0;
        if (played[i].crew == c && played[i].orders != 0)
            crew_next(c, &played[i], NULL, &orders);
    }
    ok(c->threads_n == 0 && c->slots_used == 0 && c->queued == 0 && c->waiting == 0,
       "nothing is left");
    crew_release(c);
}

static void
test_one_lease(void)
{
    struct crew *c = crew_of(2, 4);
    struct lease l;
    struct step_job a, b;
    struct sync_thread *t = &played[0];
    lease_init(&l, c, "GET /");

    CHECK(lease_submit(&l, job_init(&a)) == 0);
    CHECK(c->waiting == 1 && c->queued == 1 && c->wanted == 1);
    CHECK(start(c, t) == NEXT_JOB && l.thread == t && l.has_slot);
    CHECK(begins(t) == &a.sync && c->waiting == 0 && c->queued == 0 && c->wanted == 0);
    CHECK(lease_submit(&l, job_init(&b)) == 0);
    CHECK(c->wanted == 0 && c->queued == 1);
    CHECK(ends(c, t, &a.sync) == NEXT_JOB);
    CHECK(begins(t) == &b.sync);
    CHECK(ends(c, t, &b.sync) == NEXT_SLEEP);
    CHECK(l.has_slot && c->holding_n == 1 && c->idle_n == 0);
    lease_close(&l);
    CHECK(!l.has_slot && l.thread == NULL && c->holding_n == 0 && c->idle_n == 1);
    leave_all(c);
}

/* A job that was submitted alone becomes one of a lease while it runs, and is alone again at its end. */
static void
test_move(void)
{
    struct crew *c = crew_of(1, 2);
    struct lease alone, l;
    struct step_job a, b;
    struct sync_thread *t = &played[0];

    lease_init(&alone, c, "GET /");
    lease_init(&l, c, "GET /");
    lease_submit(&alone, job_init(&a));
    lease_close(&alone);
    CHECK(start(c, t) == NEXT_JOB && begins(t) == &a.sync);
    crew_move(&a.sync, &l, false);
    CHECK(a.sync.lease == &l && l.thread == t && l.running == &a.sync && l.has_slot &&
          t->lease == &l);
    CHECK(alone.thread == NULL && alone.running == NULL && !alone.has_slot && c->slots_used == 1);
    crew_move(&a.sync, &alone, true);
    CHECK(a.sync.lease == &alone && alone.thread == t && l.thread == NULL && !l.has_slot);
    crew_move(&a.sync, &l, false);
    lease_submit(&l, job_init(&b));
    CHECK(c->wanted == 0 && c->queued == 1);
    lease_close(&l);
    crew_move(&a.sync, &alone, true);
    ok(a.sync.lease == &l && l.thread == t, "others of its lease wait: it stays");
    CHECK(ends(c, t, &a.sync) == NEXT_JOB && begins(t) == &b.sync && l.running == &b.sync);
    CHECK(ends(c, t, &b.sync) == NEXT_SLEEP && l.thread == NULL && c->idle_n == 1);
    /* One that does not end with its job keeps the thread. */
    lease_init(&alone, c, "GET /");
    lease_init(&l, c, "GET /");
    lease_submit(&alone, job_init(&a));
    lease_close(&alone);
    CHECK(begins(t) == &a.sync);
    crew_move(&a.sync, &l, false);
    CHECK(ends(c, t, &a.sync) == NEXT_SLEEP && l.thread == t && c->holding_n == 1);
    lease_close(&l);
    CHECK(c->idle_n == 1 && c->slots_used == 0);
    leave_all(c);
}

static void
test_order(void)
{
    struct crew *c = crew_of(1, 4);
    struct lease kept, fresh[3];
    struct step_job k, f[3], k2;
    struct sync_thread *t = &played[0], *u = &played[1];

    lease_init(&kept, c, "kept");
    lease_submit(&kept, job_init(&k));
    start(c, t);
    begins(t);
    for (int i = 0; i < 3; i++) {
        lease_init(&fresh[i], c, "fresh");
        lease_submit(&fresh[i], job_init(&f[i]));
        lease_close(&fresh[i]);
    }
    CHECK(c->wanted == 0);
    ends(c, t, &k.sync);
    CHECK(kept.has_slot && c->holding_n == 1);
    for (unsigned i = 0; i < PARK_TURNS - 1; i++)
        crew_client.turn(c);
    CHECK(kept.has_slot && crew_client.next_ns(c) == 0);
    crew_client.turn(c);
    CHECK(!kept.has_slot && kept.thread == t && c->wanted == 1);
    /* The parked one comes again while the thread of the first in the queue is being started. */
    CHECK(crew_begin_start(c));
    lease_submit(&kept, job_init(&k2));
    CHECK(t->next == NULL);
    *u = (struct sync_thread){ .crew = c };
    crew_thread_init(u);
    unsigned orders = 0;
    CHECK(crew_next(c, u, NULL, &orders) == NEXT_JOB && begins(u) == &f[0].sync);
    CHECK(ends(c, u, &f[0].sync) == NEXT_JOB && begins(u) == &f[1].sync);
    CHECK(ends(c, u, &f[1].sync) == NEXT_JOB && begins(u) == &f[2].sync);
    CHECK(t->next == NULL);
    CHECK(ends(c, u, &f[2].sync) == NEXT_SLEEP);
    CHECK(begins(t) == &k2.sync);
    lease_close(&kept);
    CHECK(c->idle_n == 1);
    ends(c, t, &k2.sync);
    CHECK(c->idle_n == 2 && c->idle.next == &t->link);
    leave_all(c);
}

static void
test_overtaking(void)
{
    struct crew *c = crew_of(1, 1);
    struct lease kept, fresh;
    struct step_job k, f, k2;
    struct sync_thread *t = &played[0];

    lease_init(&kept, c, "kept");
    lease_init(&fresh, c, "fresh");
    lease_submit(&kept, job_init(&k));
    start(c, t);
    begins(t);
    ends(c, t, &k.sync);
    lease_submit(&fresh, job_init(&f));
    for (unsigned i = 0; i < 2 * PARK_TURNS; i++)
        crew_client.turn(c);
    ok(kept.has_slot, "a slot that helps nobody is not taken: no thread can be had");
    CHECK(crew_client.next_ns(c) == -1);
    lease_submit(&kept, job_init(&k2));
    CHECK(begins(t) == &k2.sync);
    ends(c, t, &k2.sync);
    lease_close(&kept);
    CHECK(begins(t) == &f.sync && fresh.thread == t);
    lease_close(&fresh);
    ends(c, t, &f.sync);
    leave_all(c);
}

static void
test_withdrawing(void)
{
    struct crew *c = crew_of(1, 2);
    struct lease first, second;
    struct step_job a, b, d;
    struct sync_thread *t = &played[0];

    lease_init(&first, c, "");
    lease_init(&second, c, "");
    lease_submit(&first, job_init(&a));
    start(c, t);
    CHECK(!lease_withdraw(&first, &a.sync));
    begins(t);
    lease_submit(&first, job_init(&b));
    lease_submit(&second, job_init(&d));
    CHECK(c->queued == 2 && c->waiting == 1);
    CHECK(lease_withdraw(&second, &d.sync) && !lease_withdraw(&second, &d.sync));
    CHECK(c->queued == 1 && c->waiting == 0 && c->needy == 0);
    CHECK(lease_withdraw(&first, &b.sync));
    lease_close(&first);
    CHECK(ends(c, t, &a.sync) == NEXT_SLEEP && c->idle_n == 1);
    CHECK(!lease_withdraw(&first, &a.sync));
    lease_close(&second);
    leave_all(c);
}

static void
test_pausing(void)
{
    struct crew *c = crew_of(1, 2);
    struct lease slow, other;
    struct step_job a, b;
    struct sync_thread *t = &played[0], *u = &played[1];

    lease_init(&slow, c, "slow client");
    lease_init(&other, c, "");
    lease_submit(&slow, job_init(&a));
    start(c, t);
    begins(t);
    lease_submit(&other, job_init(&b));
    CHECK(c->wanted == 0);
    lease_pause(&slow);
    CHECK(c->wanted == 1 && !slow.has_slot);
    CHECK(start(c, u) == NEXT_JOB && begins(u) == &b.sync);
    /* Resuming would wait now; so it does when the other has ended. */
    lease_close(&other);
    CHECK(ends(c, u, &b.sync) == NEXT_SLEEP);
    lease_resume(&slow);
    CHECK(slow.has_slot && !slow.is_paused && !slow.is_resuming);
    lease_resume(&slow);
    CHECK(c->slots_used == 1);
    lease_pause(&slow);
    lease_close(&slow);
    CHECK(slow.thread == t);
    ends(c, t, &a.sync);
    CHECK(slow.thread == NULL && c->slots_used == 0);
    leave_all(c);
}

static void
test_bounds(void)
{
    struct crew *c = crew_of(1, 1);
    c->queue_max = 2;
    c->queue_timeout_ns = 20 * NS_PER_MS;
    struct lease first, second;
    struct step_job a, b, d, e;
    struct sync_thread *t = &played[0];

    lease_init(&first, c, "GET /first");
    lease_init(&second, c, "GET /second");
    lease_submit(&first, job_init(&a));
    start(c, t);
    begins(t);
    CHECK(lease_submit(&second, job_init(&b)) == 0 && lease_submit(&first, job_init(&d)) == 0);
    CHECK(lease_submit(&second, job_init(&e)) == -EAGAIN);
    int64_t due = crew_client.next_ns(c);
    CHECK(due > 0 && due <= clock_ns() + c->queue_timeout_ns);
    log_set_level(LOG_ERROR);
    while (!b.is_dropped && clock_ns() < due + NS_PER_S) {
        usleep(1000);
        crew_client.turn(c);
    }
    log_set_level(LOG_INFO);
    ok(b.is_dropped && b.why == SYNC_DROP_TIMEOUT && clock_ns() >= due,
       "who waits for a slot is dropped in time");
    ok(!d.is_dropped && c->queued == 1, "who waits for its own thread is not");
    CHECK(crew_client.next_ns(c) == -1);
    crew_close(c);
    CHECK(lease_submit(&second, job_init(&e)) == -ESHUTDOWN);
    CHECK(ends(c, t, &a.sync) == NEXT_JOB && begins(t) == &d.sync);
    CHECK(ends(c, t, &d.sync) == NEXT_ORDERS);
    lease_close(&first);
    lease_close(&second);
    leave_all(c);
}

static void
test_wait_alarm(void)
{
    struct crew *c = crew_of(1, 1);
    struct lease first, second;
    struct step_job a, b;
    struct sync_thread *t = &played[0];

    lease_init(&first, c, "GET /first");
    lease_init(&second, c, "GET /second");
    lease_submit(&first, job_init(&a));
    start(c, t);
    begins(t);
    stopped_ns = clock_ns();
    CHECK(lease_submit(&second, job_init(&b)) == 0);
    CHECK(crew_client.next_ns(c) == -1);
    c->wait_alarm_ns = NS_PER_S;
    ok(crew_client.next_ns(c) == stopped_ns + NS_PER_S,
       "the loop wakes when it is time to say who waits");
    crew_client.turn(c);
    CHECK(!crew_client.has_work(c));
    int64_t ends_ns = stopped_ns + 25 * NS_PER_S;
    for (stopped_ns += NS_PER_S; stopped_ns < ends_ns; stopped_ns += NS_PER_S) {
        crew_client.turn(c);
        if (crew_client.has_work(c))
            crew_client.run(c);
    }
    ok(waits_told == 3, "and says it again every ten seconds, not more often");
    stopped_ns = 0;
    ends(c, t, &a.sync);
    lease_close(&first);
    CHECK(begins(t) == &b.sync);
    CHECK(crew_client.next_ns(c) == -1);
    ends(c, t, &b.sync);
    lease_close(&second);
    crew_close(c);
    leave_all(c);
}

static void
test_idle_threads_end(void)
{
    struct crew *c = crew_of(1, 3);
    c->idle_timeout_ns = 10 * NS_PER_MS;
    struct lease leases[3];
    struct step_job jobs[3];

    for (int i = 0; i < 3; i++) {
        lease_init(&leases[i], c, "");
        lease_submit(&leases[i], job_init(&jobs[i]));
        for (unsigned turn = 0; turn < PARK_TURNS; turn++)
            crew_client.turn(c);
        CHECK(start(c, &played[i]) == NEXT_JOB);
        ends(c, &played[i], begins(&played[i]));
    }
    for (int i = 0; i < 3; i++)
        lease_close(&leases[i]);
    CHECK(c->idle_n == 3 && c->threads_n == 3);
    crew_client.turn(c);
    int64_t due = crew_client.next_ns(c);
    CHECK(due > 0 && due <= clock_ns() + c->idle_timeout_ns);
    while (c->threads_n > 1 && clock_ns() < due + NS_PER_S) {
        usleep(1000);
        crew_client.turn(c);
    }
    ok(c->idle_n == 1 && c->threads_n == 1 && c->idle.next == &played[2].link,
       "the one that worked last stays");
    CHECK(crew_client.next_ns(c) == -1);
    leave_all(c);
}

static void
test_a_thread_that_cannot_be_started(void)
{
    struct crew *c = crew_of(2, 3);
    struct lease kept, fresh;
    struct step_job k, f;
    struct sync_thread *t = &played[0];

    lease_init(&kept, c, "");
    lease_init(&fresh, c, "");
    lease_submit(&kept, job_init(&k));
    CHECK(crew_begin_start(c) && crew_failed_start(c) == 0);
    ok(c->wanted == 1, "without any thread it is tried again at once");
    start(c, t);
    begins(t);
    lease_submit(&fresh, job_init(&f));
    CHECK(crew_begin_start(c) && crew_failed_start(c) == 1);
    CHECK(c->wanted == 0 && !crew_begin_start(c));
    CHECK(crew_client.next_ns(c) > clock_ns());
    ends(c, t, &k.sync);
    CHECK(t->next == NULL);
    lease_close(&kept);
    CHECK(begins(t) == &f.sync);
    lease_close(&fresh);
    ends(c, t, &f.sync);
    leave_all(c);
}

static void
test_one_that_never_pauses(void)
{
    struct crew *c = crew_of(1, 2);
    struct lease busy, other;
    struct step_job a, b, d, o;
    struct sync_thread *t = &played[0], *u = &played[1];

    lease_init(&busy, c, "never pauses");
    lease_init(&other, c, "");
    lease_submit(&busy, job_init(&a));
    start(c, t);
    begins(t);
    lease_submit(&other, job_init(&o));
    ends(c, t, &a.sync);
    lease_submit(&busy, job_init(&b));
    ok(begins(t) == &b.sync, "who has a slot goes on with the next job");
    busy.slot_ns -= TENURE_NS;
    lease_submit(&busy, job_init(&a));
    ends(c, t, &b.sync);
    ok(begins(t) == &a.sync, "nor is one put back that was slow");
    busy.slot_jobs = TENURE_JOBS;
    lease_submit(&busy, job_init(&d));
    ok(ends(c, t, &a.sync) == NEXT_SLEEP && c->wanted == 1, "but not for ever, while others wait");
    CHECK(start(c, u) == NEXT_JOB && begins(u) == &o.sync && !busy.has_slot && busy.thread == t);
    lease_close(&other);
    ends(c, u, &o.sync);
    CHECK(begins(t) == &d.sync && busy.has_slot);
    busy.slot_ns -= TENURE_NS;
    busy.slot_jobs = TENURE_JOBS;
    ends(c, t, &d.sync);
    lease_submit(&busy, job_init(&a));
    ok(begins(t) == &a.sync, "nobody waits: it goes on");
    lease_close(&busy);
    ends(c, t, &a.sync);
    leave_all(c);
}

static void
test_labels(void)
{
    struct crew *c = crew_of(1, 1);
    struct lease l;
    char text[200];

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    lease_init(&l, c, text);
    CHECK(strlen(l.label) == sizeof l.label - 1);
    lease_close(&l);
    memcpy(text + sizeof l.label - 2, "\xc3\xbc", 2);
    lease_init(&l, c, text);
    ok(strlen(l.label) == sizeof l.label - 2, "a character is not cut in two");
    lease_close(&l);
    lease_init(&l, c, "GET /a\nb\x1b[0m\xc3\xbc\x7f");
    ok(strcmp(l.label, "GET /a?b?[0m\xc3\xbc?") == 0, "a label stays in its line");
    lease_close(&l);
    leave_all(c);
}

/* --- holding back ---------------------------------------------------------------------------------------------------- */

/* n threads that are idle and asleep. */
static void
rest(struct crew *c, size_t n)
{
    struct lease l[PLAYED];
    struct step_job jobs[PLAYED];
    for (size_t i = 0; i < n; i++) {
        lease_init(&l[i], c, "first");
        lease_submit(&l[i], job_init(&jobs[i]));
        lease_close(&l[i]);
    }
    for (size_t i = 0; i < n; i++) {
        CHECK(start(c, &played[i]) == NEXT_JOB);
        begins(&played[i]);
    }
    for (size_t i = 0; i < n; i++)
        CHECK(ends(c, &played[i], &jobs[i].sync) == NEXT_SLEEP);
    CHECK(c->idle_n == n);
}

static void
pass(int64_t ns)
{
    stopped_ns += ns;
}

static void
test_requests_take_turns(void)
{
    struct crew *c = crew_of(2, 2);
    struct lease a, b;
    struct step_job a1, b1;
    int locked = 1;
    rest(c, 2);
    c->is_attached = true;
    c->headway.locked = &locked;
    lease_init(&a, c, "a");
    lease_init(&b, c, "b");
    pass(NS_PER_S);
    lease_submit(&a, job_init(&a1));
    struct sync_thread *t = a.thread;
    CHECK(t != NULL && begins(t) == &a1.sync);
    lease_submit(&b, job_init(&b1));
    ok(b.thread == NULL && c->is_holding_back, "a job that has just begun is waited for");
    a.delivering = 1;
    CHECK(ends(c, t, &a1.sync) == NEXT_SLEEP && c->holding_n == 1);
    crew_client.turn(c);
    ok(b.thread == NULL, "so is the request whose result is on its way");
    a.delivering = 0;
    a.delivered_turn = c->turn;
    ok(crew_client.next_ns(c) == 0, "the loop does not sleep before it is decided");
    lease_close(&a);
    ok(b.thread == t, "its end gives its thread to the next");
    begins(t);
    ends(c, t, &b1.sync);
    lease_close(&b);
    leave_all(c);
}

static void
test_a_standstill_lets_all_in(void)
{
    struct crew *c = crew_of(3, 3);
    struct lease a, b, d;
    struct step_job a1, b1, d1;
    rest(c, 3);
    c->is_attached = true;
    lease_init(&a, c, "a");
    lease_init(&b, c, "b");
    lease_init(&d, c, "d");
    pass(NS_PER_S);
    lease_submit(&a, job_init(&a1));
    begins(a.thread);
    lease_submit(&b, job_init(&b1));
    lease_submit(&d, job_init(&d1));
    CHECK(b.thread == NULL && d.thread == NULL);
    pass(STILL_NS);
    crew_client.turn(c);
    ok(b.thread != NULL && d.thread != NULL, "all who wait begin, where none did for long");
    begins(b.thread), begins(d.thread);
    ends(c, a.thread, &a1.sync), ends(c, b.thread, &b1.sync), ends(c, d.thread, &d1.sync);
    lease_close(&a), lease_close(&b), lease_close(&d);
    leave_all(c);
}

static struct sync_job *
batched(struct step_job *s)
{
    struct sync_job *job = job_init(s);
    job->is_batched = true;
    return job;
}

static void
test_nobody_waits_without_turns(void)
{
    struct crew *c = crew_of(2, 2);
    struct lease a, b;
    struct step_job a1, b1;
    rest(c, 2);
    lease_init(&a, c, "a"), lease_init(&b, c, "b");
    lease_submit(&a, job_init(&a1)), lease_submit(&b, job_init(&b1));
    ok(a.thread != NULL && b.thread != NULL,
       "a crew that the loop does not turn holds nobody back");
    begins(a.thread), begins(b.thread);
    ends(c, a.thread, &a1.sync), ends(c, b.thread, &b1.sync);
    lease_close(&a), lease_close(&b);
    leave_all(c);
}

static void
test_a_scout_for_a_free_gil(void)
{
    struct crew *c = crew_of(2, 2);
    struct lease a, b;
    struct step_job a1, b1;
    int locked = 1;
    rest(c, 2);
    c->is_attached = true;
    c->headway.locked = &locked;
    lease_init(&a, c, "a");
    lease_init(&b, c, "b");
    lease_submit(&a, batched(&a1));
    lease_close(&a);
    struct sync_thread *t = a.thread, *u = t == &played[0] ? &played[1] : &played[0];
    begins(t);
    lease_submit(&b, batched(&b1));
    lease_close(&b);
    pass(FIRST_LOOK_NS);
    crew_client.turn(c);
    CHECK(!c->has_scout);
    pass(NEXT_LOOK_NS);
    crew_client.turn(c);
    ok(!c->has_scout, "nobody is sent for the GIL while somebody has it");
    locked = 0;
    pass(NEXT_LOOK_NS);
    crew_client.turn(c);
    ok(!c->has_scout, "nor where it is free for a moment");
    pass(NEXT_LOOK_NS);
    crew_client.turn(c);
    ok(c->has_scout && u->orders == ORDER_SCOUT, "one is where it stays free");
    unsigned orders = 0;
    CHECK(crew_next(c, u, NULL, &orders) == NEXT_ORDERS && orders == ORDER_SCOUT);
    CHECK(crew_next(c, u, NULL, &orders) == NEXT_JOB && begins(u) == &b1.sync);
    ends(c, u, &b1.sync);
    ends(c, t, &a1.sync);
    leave_all(c);
}

static void
test_one_of_many_steps_back(void)
{
    struct crew *c = crew_of(2, 2);
    struct lease l[STEP_BACK_JOBS + 2];
    struct step_job jobs[STEP_BACK_JOBS + 2];
    int locked = 1;
    rest(c, 2);
    c->is_attached = true;
    c->headway.locked = &locked;
    for (size_t i = 0; i < ARRAY_LEN(l); i++) {
        lease_init(&l[i], c, "l");
        pass(i == 1 ? LONG_NS : 0); /* the second gets the second thread, by a scout */
        lease_submit(&l[i], batched(&jobs[i]));
        lease_close(&l[i]);
    }
    struct sync_thread *t = l[0].thread, *u = t == &played[0] ? &played[1] : &played[0];
    unsigned orders = 0;
    CHECK(crew_next(c, u, NULL, &orders) == NEXT_ORDERS && orders == ORDER_SCOUT);
    CHECK(crew_next(c, u, NULL, &orders) == NEXT_JOB);
    struct sync_job *of_t = begins(t), *of_u = begins(u);
    enum next next = NEXT_JOB;
    size_t n = 0;
    while (next == NEXT_JOB && n < ARRAY_LEN(l)) {
        next = ends(c, t, of_t);
        n++;
        if (next == NEXT_JOB)
            of_t = begins(t);
    }
    ok(next == NEXT_SLEEP && n <= STEP_BACK_JOBS && c->waiting > 0 && c->busy_n == 1,
       "a thread sleeps although jobs wait (after %zu)", n);
    while (ends(c, u, of_u) == NEXT_JOB)
        of_u = begins(u);
    ok(c->waiting == 0 && c->busy_n == 0, "and the other does them");
    leave_all(c);
}

static void
test_looking_out(void)
{
    struct lookout o = { 0 };
    unsigned looked = 0;
    for (int i = 0; i < 10 * LOOKOUT_REST_MAX; i++) {
        if (lookout_ns(&o) > 0) {
            looked++;
            lookout_note(&o, false);
        }
    }
    ok(looked > 1 && looked < 30, "what never pays is hardly ever done (%u times)", looked);
    while (lookout_ns(&o) == 0)
        ;
    lookout_note(&o, true);
    looked = 0;
    for (int i = 0; i < 1000; i++) {
        looked += lookout_ns(&o) > 0;
        lookout_note(&o, i % 8 != 0);
    }
    ok(looked == 1000, "what pays mostly is always done");
    for (int i = 0; i < LOOKOUT_CREDIT_MAX / LOOKOUT_CREDIT_COST; i++)
        lookout_note(&o, false);
    ok(lookout_ns(&o) == 0, "what has ceased to pay is given up");
}

/* --- real threads --------------------------------------------------------------------------------------------------- */

enum { REQUESTS = 6000, AT_ONCE = 60, SLOTS = 3, THREADS = 10, JOBS_MAX = 4, LOOP_SECONDS = 60 };

struct request {
    struct lease lease;
    struct list sleeping; /* it awaits something else */
    int64_t until_ns;
    atomic_int running;
    atomic_int thread; /* number of the only thread that it may have now; -1 = any */
    unsigned outstanding, to_do;
    bool is_closed;
};

struct load_job {
    struct sync_job sync;
    struct post post;
    struct request *request;
};

static struct crew *crew;
static atomic_int slots_taken, mistakes, ran, dropped, withdrawn, paused, checks, scouts;
static unsigned alive, made;
static struct list sleepers = { &sleepers, &sleepers };
static bool has_affinity; /* a lease keeps its thread until closed */
static bool is_batched;   /* then there is a GIL, too */
static pthread_mutex_t gil = PTHREAD_MUTEX_INITIALIZER;
static int gil_locked;
static _Thread_local bool has_gil;
static pthread_t threads[100 * 1000];
static int threads_made;
static _Thread_local int my_number;

static void
mistake(const char *what)
{
    if (atomic_fetch_add(&mistakes, 1) < 10)
        diag("%s", what);
}

static void
acquire_gil(void)
{
    if (is_batched && !has_gil) {
        pthread_mutex_lock(&gil);
        WRITE(gil_locked, 1);
    }
    has_gil = true;
}

static void
release_gil(void)
{
    if (is_batched && has_gil) {
        WRITE(gil_locked, 0);
        pthread_mutex_unlock(&gil);
    }
    has_gil = false;
}

static void
enter_slot(void)
{
    if (atomic_fetch_add(&slots_taken, 1) >= SLOTS)
        mistake("more at once than slots");
}

static void
load_run(struct sync_job *sync)
{
    struct load_job *job = CONTAINER_OF(sync, struct load_job, sync);
    struct request *r = job->request;

    enter_slot();
    if (atomic_fetch_add(&r->running, 1) != 0)
        mistake("two jobs of a lease at once");
    int thread = -1;
    if (!atomic_compare_exchange_strong(&r->thread, &thread, my_number) && thread != my_number &&
        has_affinity)
        mistake("a lease on two threads");
    if (rng(8) == 0) {
        release_gil();
        usleep(rng(300));
        acquire_gil();
    }
    if (rng(6) == 0) {
        atomic_fetch_add(&paused, 1);
        atomic_fetch_sub(&slots_taken, 1);
        release_gil();
        lease_pause(&r->lease);
        usleep(rng(300));
        lease_resume(&r->lease);
        acquire_gil();
        enter_slot();
    }
    atomic_fetch_sub(&r->running, 1);
    atomic_fetch_sub(&slots_taken, 1);
    atomic_fetch_add(&ran, 1);
}

static void
load_end(struct sync_job *sync)
{
    loop_post(fake_loop, &CONTAINER_OF(sync, struct load_job, sync)->post);
}

static void request_goes_on(struct request *r);

static void
job_is_over(struct load_job *job)
{
    struct request *r = job->request;
    free(job);
    r->outstanding--;
    if (r->outstanding == 0 && !r->is_closed && rng(5) == 0) {
        r->until_ns = clock_ns() + rng(2) * NS_PER_MS;
        list_add_tail(&sleepers, &r->sleeping);
        if (!has_affinity && rng(2) == 0)
            crew_lease_give_back(&r->lease);
    } else if (list_is_empty(&r->sleeping)) {
        request_goes_on(r);
    }
}

static void
wake_sleepers(void)
{
    int64_t now = clock_ns();
    LIST_FOR_EACH_SAFE(node, &sleepers) {
        struct request *r = CONTAINER_OF(node, struct request, sleeping);
        if (r->until_ns > now)
            continue;
        list_del(node);
        request_goes_on(r);
    }
}

static void
load_drop(struct sync_job *sync, enum sync_drop why)
{
    (void)why;
    atomic_fetch_add(&dropped, 1);
    job_is_over(CONTAINER_OF(sync, struct load_job, sync));
}

static void
load_posted(struct post *post, PyObject *loop)
{
    (void)loop;
    job_is_over(CONTAINER_OF(post, struct load_job, post));
}

static void
request_submits(struct request *r)
{
    struct load_job *job = calloc(1, sizeof *job);
    job->sync.run = load_run;
    job->sync.end = load_end;
    job->sync.drop = load_drop;
    job->sync.is_batched = is_batched && rng(10) > 0;
    list_init(&job->sync.link);
    job->post.fn = load_posted;
    job->request = r;
    r->to_do--;
    r->outstanding++;
    bool is_waiting;
    bool is_last = is_batched && !has_affinity && rng(4) == 0;
    if (is_last ? crew_submit(&r->lease, &job->sync, SUBMIT_LAST, &is_waiting)
                : lease_submit(&r->lease, &job->sync)) {
        r->outstanding--;
        free(job);
    } else if (rng(10) == 0 && lease_withdraw(&r->lease, &job->sync)) {
        atomic_fetch_add(&withdrawn, 1);
        r->outstanding--;
        free(job);
    }
}

/* Closes it, perhaps before its last jobs are done; frees it after them. */
static void
request_goes_on(struct request *r)
{
    while (r->to_do > 0 && !r->is_closed && (r->outstanding == 0 || rng(3) == 0))
        request_submits(r);
    if (!r->is_closed && r->to_do == 0 && (r->outstanding == 0 || rng(2) == 0)) {
        r->is_closed = true;
        lease_close(&r->lease);
    }
    if (r->is_closed && r->outstanding == 0) {
        memset(r, 0xdd, sizeof *r);
        free(r);
        alive--;
    }
}

static void
request_begins(void)
{
    struct request *r = calloc(1, sizeof *r);
    alive++;
    made++;
    lease_init(&r->lease, crew, "request");
    list_init(&r->sleeping);
    atomic_init(&r->thread, -1);
    r->to_do = rng(JOBS_MAX + 1);
    request_goes_on(r);
}

/* As thread.c's loop. */
static void *
real_thread(void *number)
{
    my_number = (int)(intptr_t)number;
    rng_state = 0x9e3779b97f4a7c15u * (uint64_t)(my_number + 1);
    struct sync_thread self = { .crew = crew, .ident = (unsigned long)my_number };
    struct sync_job *done = NULL;
    unsigned orders = 0;
    crew_thread_init(&self);
    while (!(orders & ORDER_LEAVE)) {
        enum next next = crew_next(crew, &self, done, &orders);
        if (done != NULL)
            done->end(done);
        done = NULL;
        if (next == NEXT_JOB) {
            done = self.next;
            self.next = NULL;
            acquire_gil();
            done->run(done);
            if (!done->is_batched)
                release_gil();
        } else if (next == NEXT_ORDERS && orders == ORDER_SCOUT) {
            atomic_fetch_add(&scouts, 1);
            acquire_gil();
            self.is_soon = rng(2) == 0;
        } else if (next == NEXT_ORDERS) {
            release_gil();
            if (orders & ORDER_CHECK) {
                atomic_fetch_add(&checks, 1);
                crew_checked(crew, &self, rng(3) > 0);
            }
        } else {
            release_gil();
            crew_sleep(crew, &self, rng(2) == 0);
        }
    }
    release_gil();
    return NULL;
}

int
crew_start_threads(struct crew *c, bool *is_lost)
{
    *is_lost = false;
    while (crew_begin_start(c)) {
        if (rng(100) == 0) { /* none to be had */
            *is_lost = crew_failed_start(c) == 0;
            return 0;
        }
        intptr_t number = threads_made;
        if (pthread_create(&threads[threads_made++], NULL, real_thread, (void *)number) != 0)
            abort();
    }
    return 0;
}

/* One turn of the loop: as py/turn.c's. */
static void
turn(void)
{
    release_gil();
    fake.has_gil = false;
    while (fake.late != NULL) {
        struct loop_late *late = fake.late;
        fake.late = late->next;
        late->is_noted = false;
        late->fn(late);
    }
    int64_t next = crew_client.has_work(crew) ? 0 : crew_client.next_ns(crew);
    if (!list_is_empty(&sleepers) && next != 0)
        next = clock_ns() + NS_PER_MS / 2;
    pthread_mutex_lock(&fake.lock);
    while (fake.posts == NULL && !fake.is_woken && next != 0) {
        int64_t left = next < 0 ? NS_PER_S : next - clock_ns();
        if (left <= 0)
            break;
        struct timespec at;
        clock_gettime(CLOCK_REALTIME, &at);
        int64_t ns = at.tv_nsec + left;
        at.tv_sec += ns / NS_PER_S;
        at.tv_nsec = ns % NS_PER_S;
        int err = pthread_cond_timedwait(&fake.cond, &fake.lock, &at);
        if (err == ETIMEDOUT && next < 0)
            mistake("the loop slept for a second while there was work");
        if (err == ETIMEDOUT)
            break;
    }
    fake.is_woken = false;
    struct post *post = fake.posts;
    fake.posts = NULL;
    fake.posts_end = &fake.posts;
    pthread_mutex_unlock(&fake.lock);
    crew_client.turn(crew);
    acquire_gil();
    fake.has_gil = true;
    while (post != NULL) {
        struct post *following = post->next;
        post->fn(post, fake_loop);
        post = following;
    }
    wake_sleepers();
    if (crew_client.has_work(crew))
        crew_client.run(crew);
}

static void
test_load(const char *name, enum affinity affinity, bool asks, bool batched,
          int64_t queue_timeout_ns)
{
    is_batched = batched;
    crew = crew_new();
    crew->slots = SLOTS;
    crew->threads_max = THREADS;
    crew->queue_max = queue_timeout_ns > 0 ? 40 : 400;
    crew->queue_timeout_ns = queue_timeout_ns;
    crew->idle_timeout_ns = NS_PER_MS;
    crew->affinity = affinity;
    crew->has_release_hook = asks;
    crew->has_surplus_hook = true;
    crew->headway.locked = batched ? &gil_locked : NULL;
    crew->loop = fake_loop;
    crew->is_attached = true;
    has_affinity = affinity == AFFINITY_REQUEST && !asks;
    fake.thread = pthread_self();
    made = alive = 0;
    threads_made = 0;
    mistakes = ran = dropped = withdrawn = paused = checks = scouts = 0;
    long leases = live.leases;
    int64_t end = clock_ns() + LOOP_SECONDS * NS_PER_S;

    log_set_level(LOG_ERROR);
    while ((made < REQUESTS || alive > 0) && clock_ns() < end) {
        while (made < REQUESTS && alive < AT_ONCE && (alive == 0 || rng(4) > 0))
            request_begins();
        turn();
    }
    log_set_level(LOG_INFO);
    end = clock_ns() + 5 * NS_PER_S;
    bool is_settled = false; /* threads on their way to their bed */
    while (!is_settled && clock_ns() < end) {
        crew_lock(crew);
        is_settled = crew->idle_n == crew->threads_n && list_is_empty(&crew->held);
        crew_unlock(crew);
        sched_yield();
    }
    ok(alive == 0 && made == REQUESTS, "%s: every request ends (%u left)", name, alive);
    ok(mistakes == 0, "%s: one thread a lease, one job at a time, no more than slots", name);
    ok(is_settled && crew->waiting == 0 && crew->queued == 0 && crew->holding_n == 0 &&
           crew->slots_used == 0,
       "%s: everything is given back", name);
    ok(live.leases == leases, "%s: every lease is closed", name);
    diag("%s: %d jobs, %d dropped, %d withdrawn, %d pauses, %d checks, %d scouts, %d threads", name,
         ran, dropped, withdrawn, paused, checks, scouts, threads_made);
    release_gil();
    fake.has_gil = false;
    crew_close(crew);
    for (int i = 0; i < threads_made; i++)
        pthread_join(threads[i], NULL);
    ok(crew->threads_n == 0, "%s: every thread ends", name);
    crew_release(crew);
}

int
main(void)
{
    rng_state = 4711;
    test_one_lease();
    test_move();
    test_order();
    test_overtaking();
    test_withdrawing();
    test_pausing();
    test_bounds();
    test_wait_alarm();
    test_idle_threads_end();
    test_a_thread_that_cannot_be_started();
    test_one_that_never_pauses();
    test_labels();
    stopped_ns = clock_ns();
    test_requests_take_turns();
    test_a_standstill_lets_all_in();
    test_nobody_waits_without_turns();
    test_a_scout_for_a_free_gil();
    test_one_of_many_steps_back();
    stopped_ns = 0;
    test_looking_out();
    test_load("request", AFFINITY_REQUEST, false, false, 0);
    test_load("request, timeouts", AFFINITY_REQUEST, false, false, 3 * NS_PER_MS);
    test_load("request, given back", AFFINITY_REQUEST, true, false, 0);
    test_load("request, batched", AFFINITY_REQUEST, false, true, 0);
    test_load("transaction", AFFINITY_TRANSACTION, true, false, 0);
    test_load("transaction, always clean", AFFINITY_TRANSACTION, false, false, 0);
    test_load("call", AFFINITY_CALL, false, false, 5 * NS_PER_MS);
    test_load("call, batched", AFFINITY_CALL, false, true, 0);
    return tap_done();
}
