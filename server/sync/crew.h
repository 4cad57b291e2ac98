/* crew.h: threads, slots and leases, seen by the files of sync/.
 *
 * A crew is plain memory under one mutex, so that the I/O phase of the loop and threads without the GIL can use it, and a test without
 * Python. Functions of crew.c that say "lock held" only change lists and counts; threads that must be woken are noted in crew->wakes,
 * and the wake-ups happen when the lock is given up (crew_unlock()). */
#ifndef RINGCORN_SYNC_CREW_H
#define RINGCORN_SYNC_CREW_H

#include "sync/sync.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "base/meter.h"
#include "metrics/metrics.h"

enum {
    THREADS_MAX = 4096,   /* of one pool */
    PARK_TURNS = 8,       /* of the loop, after the result of the last job */
    BLOCKED_SAMPLES = 10, /* in a row */
};

#define SAMPLE_NS (5 * NS_PER_MS)
/* A lease that has had its slot for so long and so many jobs queues again before its next. Both are much, for a request that keeps its slot
 * to its end needs no thread more than there are slots, however slow it is; but one that never pauses must not shut the others out. */
#define TENURE_NS NS_PER_S
enum { TENURE_JOBS = 1000 };

#define START_RETRY_NS NS_PER_S /* after a thread could not be started */
/* A thread that has just become idle sleeps for so long with an alarm: a job that is handed over meanwhile needs no wake-up at once,
 * it is found at the latest then. */
#define ALARM_NS (2 * NS_PER_MS)
/* The first batched job of a turn of the loop does not wait for longer until its thread is woken. */
#define GATHER_NS (200 * 1000)

enum affinity { AFFINITY_REQUEST, AFFINITY_TRANSACTION, AFFINITY_CALL };

enum sleep { ASLEEP, AWAKE, ASLEEP_IN_KERNEL };

/* What a thread shall do when it has no job. */
enum order {
    ORDER_LEAVE = 1,
    ORDER_SURPLUS = 2, /* run on_surplus */
    ORDER_CHECK = 4,   /* ask may_release for the lease, which has no slot */
    ORDER_PARK = 8,    /* run on_park: the lease has had no job for park_timeout */
    ORDER_SCOUT = 16,  /* get the GIL, and only then ask for a job */
};

/* One thread, on its own stack. The crew's, under its lock, unless said otherwise. */
struct sync_thread {
    struct list link; /* crew->idle */
    struct list wake; /* crew->wakes or crew->late_wakes */
    struct crew *crew;
    struct lease *lease;   /* whose it is; NULL = free */
    uint64_t jobs;         /* begun: their number tells one from the next */
    struct sync_job *next; /* to run: handed over with the wake-up */
    PyObject *loop;        /* of next: borrowed from the job */
    unsigned orders;
    bool is_asleep;         /* or about to be: it takes a wake-up to change its mind */
    bool is_starting;       /* still in crew->starting_n */
    bool is_scout;          /* has ORDER_SCOUT, or is on it */
    bool is_soon;           /* of a scout: it did not wait for the GIL for long. Its own */
    bool steps_back;        /* it is free, and would rather sleep (headway_steps_back()) */
    bool is_new_to_lease;   /* on_acquire has not run */
    bool is_checked;        /* may_release is being asked: it may be free soon */
    bool was_parked;        /* on_park has run since its last job, or is about to */
    bool is_clean;          /* on_surplus has run since its last job: it holds nothing */
    int64_t idle_since_ns;  /* while in crew->idle, where there is an idle timeout */
    bool has_alarm;         /* it looks by itself within ALARM_NS whether it was given something */
    atomic_uint sleep;      /* futex: an enum sleep. Any thread */
    struct lookout lookout; /* its own */
    bool is_expected;       /* of next: the loop counts on its result (loop_expect()) */
    unsigned long ident;    /* constant, as the next two */
    int tid;                /* the kernel's number of it */
    PyThreadState *state;
    struct meter meter; /* its own: of which jobs the CPU is measured */
};

struct crew {
    /* of what follows, to the blank line. What is also read without it is written by WRITE() */
    pthread_mutex_t lock;
    size_t slots, slots_used;
    size_t threads_max;
    size_t threads_n;  /* running or being started */
    size_t starting_n; /* of these, not yet there */
    size_t checks_n;   /* of these, is_checked */
    size_t wanted;     /* to be started; read without the lock */
    size_t threads_peak;
    size_t idle_n, idle_used_n; /* free threads; of these, not clean */
    size_t queued, queue_max;
    size_t needy;      /* leases in wait_new */
    size_t optional_n; /* of these, with an optional job */
    size_t waiting;    /* leases in wait_new and wait_kept; read without the lock */
    size_t holding_n;
    int64_t busy_at_ns; /* busy_n is counted up to then */
    size_t busy_n;      /* threads between begin and end of a job, the paused ones not */
    struct headway {
        int64_t begun_ns;  /* the last begin of a job */
        int64_t looked_ns; /* the last look at the GIL since then; 0 = none */
        bool was_free;     /* what it showed */
        unsigned ended;    /* jobs that ended beside others */
        const int *locked; /* 1 while somebody has the GIL; NULL = not known. Constant */
    } headway;
    bool has_scout; /* one at a time */
    /* leases wait although threads are idle: for those that make headway. Read without the lock */
    bool is_holding_back;
    uint64_t arrivals;
    struct list idle;       /* free threads, the next to be used first */
    struct list wait_new;   /* leases that wait for a slot and have no thread; oldest first */
    struct list wait_kept;  /* leases that wait for a slot and have a thread; oldest first */
    struct list held;       /* leases that have a thread */
    struct list holding;    /* leases that have a slot and no job */
    struct list wakes;      /* threads to wake when the lock is given up */
    struct list late_wakes; /* threads to wake when the loop gives the GIL away */
    struct list dropped;    /* jobs that stop() took out: for drop() on the loop's thread */
    int64_t retry_ns;       /* threads could not be started: not again before; 0 = no trouble */
    /* some idle thread may have to end then; INT64_MAX. Read without the lock */
    int64_t idle_due_ns;
    bool needs_turn;  /* something that only the loop's turn sees to; read without the lock */
    bool is_attached; /* a client of the loop */
    bool is_dropping; /* drop_post is on its way */
    bool is_closed;   /* takes no more jobs; threads leave when the queue is empty */
    bool has_surplus_hook, has_release_hook;
    PyObject *loop; /* borrowed from the pool; NULL when that is gone */
    enum affinity affinity;
    uint64_t turn; /* of the loop, written by it; read without the lock */

    int64_t queue_timeout_ns, idle_timeout_ns; /* constant; 0 = none */
    int64_t park_timeout_ns;                   /* 0 = none; lock */
    int64_t wait_alarm_ns;                     /* 0 = none; the loop's thread, as the next two */
    int64_t alarm_next_ns;                     /* on_wait is not called before */
    bool is_alarm_due;
    struct loop_late late; /* the loop's thread, as the next two */
    bool is_gathering;     /* late_wakes are to be woken in its turn */
    int64_t gathering_ns;  /* since when */
    struct post drop_post, detach_post;
    int64_t sample_due_ns;  /* the loop's thread */
    int64_t refusal_log_ns; /* the loop's thread */
    size_t refusals;        /* the loop's thread: not yet logged */

    struct metrics_crew *metrics; /* what it counts: written under the lock */

    struct list all; /* every crew of the process, for fork; GIL */
    /* the pool, each thread, each Python job, each post, and late while it is noted */
    atomic_uint refs;
    bool is_orphan; /* made before a fork, and this is the child */

    /* GIL: */
    struct pool *pool; /* borrowed; NULL when it is gone */
    PyObject *s_done, *s_set_result, *s_set_exception, *s_cancel, *s_add_done_callback,
        *s_remove_done_callback, *s_set_running;      /* new: method names */
    PyObject *queue_full, *queue_timeout, *no_thread; /* new: exception types */
    PyObject *kw_context;                             /* new: ("context",) */
    PyObject *empty_context;                          /* new: callbacks of futures run in it */
    PyObject *concurrent_future;                      /* new: the type; NULL until the first */
    PyObject *on_thread_start, *on_thread_end, *on_surplus, *on_acquire, *may_release, *on_job_end,
        *on_park, *on_wait;                 /* new, or NULL */
    PyObject *blocking_code, *working_code; /* new: tuples of code objects */
    size_t blocking_n;                      /* of blocking_code; read without the GIL */
};

#define READ(field)         __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define WRITE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)

/* --- crew.c ------------------------------------------------------------------------------------ */

struct crew *crew_new(void);       /* GIL held. NULL where memory ran out */
void crew_release(struct crew *c); /* any thread that Python knows, any GIL state */
/* nobody has a reference any more: drops what is Python's, then crew_free() (pool.c) */
void crew_end(struct crew *c);
void crew_free(struct crew *c); /* GIL held */

static inline void
crew_lock(struct crew *c)
{
    pthread_mutex_lock(&c->lock);
}

/* Gives up the lock, and wakes who was noted. Loop's thread: late, where that is possible. */
void crew_unlock(struct crew *c);

/* No more jobs; free threads leave now, busy ones when the queue is empty. Any thread. */
void crew_close(struct crew *c);

/* The loop's thread: wakes whom the I/O phase has found work for. */
void crew_wake_gathered(struct crew *c);

enum submit {
    SUBMIT,
    /* Where the lease has its thread and no other job, the job begins at once and without a slot, which is another's if the lease had
     * one. */
    SUBMIT_APART,
    /* Where the lease has no thread, and none can be had because requests keep all of threads_max, the job is dropped. */
    SUBMIT_OPTIONAL,
    /* As SUBMIT_OPTIONAL, for a job that is likely to be the lease's last: it is batched, and after it the thread is free, unless
     * crew_lease_keep() was called meanwhile. */
    SUBMIT_LAST,
};
/* As lease_submit(). *is_waiting: it has not been given to a thread yet. Any thread. */
int crew_submit(struct lease *l, struct sync_job *job, enum submit how, bool *is_waiting);
bool crew_has_queued(struct lease *l, struct sync_job *job); /* it has not begun */
void crew_lease_init(struct lease *l, struct crew *crew);    /* without counting it */
void crew_lease_close(struct lease *l);
void crew_lease_give_back(struct lease *l);
/* Its job has used so much CPU. The job's thread. */
void crew_lease_add(struct lease *l, int64_t cpu_ns);
void crew_lease_keep(struct lease *l); /* takes back that of SUBMIT_LAST. Any thread */
/* On the thread of job, which runs: job, thread and slot are to's from here on, which has none of them. only_alone: not where other jobs wait
 * for the same lease. */
void crew_move(struct sync_job *job, struct lease *to, bool only_alone);

/* Calls on_wait. The loop's thread, GIL held. */
void crew_tell_wait(struct crew *c);
/* How many threads may be started now, and the caller starts one: 1 and counted as starting, or 0. */
bool crew_begin_start(struct crew *c);
/* It could not be started. Returns how many threads there are. */
size_t crew_failed_start(struct crew *c);

/* Thread's side, no GIL. */
enum next { NEXT_JOB, NEXT_ORDERS, NEXT_SLEEP };
void crew_thread_init(struct sync_thread *t);
/* done: what it has run, or NULL. The next job is in t->next, for NEXT_ORDERS: orders in *orders. */
enum next crew_next(struct crew *c, struct sync_thread *t, struct sync_job *done, unsigned *orders);
void crew_sleep(struct crew *c, struct sync_thread *t, bool is_soon);
/* The answer to ORDER_CHECK. */
void crew_checked(struct crew *c, struct sync_thread *t, bool may_release);

/* Lock held. */
void crew_dispatch(struct crew *c);
bool crew_has_no_thread(struct crew *c); /* can none be had for a lease that needs one? */
bool
crew_is_short(struct crew *c); /* would a slot more, or a thread that is let go, help somebody? */
void crew_park(struct crew *c, struct lease *l); /* l has a slot, and no job or a blocked one */
/* all of its jobs go to jobs */
void crew_drop_queued(struct crew *c, struct lease *l, struct list *jobs);
void crew_dismiss(struct crew *c, struct sync_thread *t); /* an idle thread leaves */

/* Lock not held, the loop's thread: drop() for what crew_drop_queued() has put into jobs. Whoever withdraws one of them meanwhile has it. */
void crew_drop(struct crew *c, struct list *jobs, enum sync_drop why);

/* The crew is closed: what is queued will not run. The jobs are dropped on the loop's thread. Any thread; the caller has a reference to
 * the loop. */
void crew_post_dropped(struct crew *c, PyObject *loop);

/* --- look.c -------------------------------------------------------------------------------------- */

/* A thread that runs a job, for who looks at it without the lock: which is the same job when `jobs` is the same. */
struct crew_look {
    const struct sync_thread *thread;
    uint64_t jobs;
    int tid;
};
/* Into looks[max]. Returns how many there are. Any thread. */
size_t crew_look_begin(struct crew *c, struct crew_look *looks, size_t max);
/* That one was found at it: ns more for its lease, if it runs the same job. Lock held. */
void crew_look_end(struct crew *c, const struct crew_look *look, enum metrics_looked at,
                   int64_t ns);

/* --- headway.c: lock held --------------------------------------------------------------------------- */

void headway_begin(struct crew *c); /* a job begins */
/* Is nobody else needed while those who run go on? There are such. Looks only when it is time to. */
bool headway_is_made(struct crew *c);
int64_t headway_due_ns(const struct crew *c); /* when it is */
bool headway_stands_still(struct crew *c);    /* no job has begun for long */
/* A thread has ended a job: shall it sleep, although jobs wait, because others may do with the GIL what it does? */
bool headway_steps_back(struct crew *c);
/* There is a lease with a slot and without a job, whose request is about to make its next call. */
bool headway_is_coming(struct crew *c);
/* l has a slot and no job, and its request awaits something else. */
bool headway_is_over(const struct crew *c, const struct lease *l);

/* --- turn.c and blocked.c ------------------------------------------------------------------------ */

extern const struct loop_client crew_client;

/* Is it time to look where threads are? Loop's thread, any GIL state. */
bool blocked_is_due(struct crew *c);
/* When it will be; INT64_MAX: not while nobody waits. */
int64_t blocked_due_ns(struct crew *c);
void blocked_sample(struct crew *c); /* loop's thread, GIL held */

/* Starts the threads that are wanted (thread.c). *is_lost: there is no thread at all. -1 with an exception set that is everybody's. Loop's
 * thread, GIL held; may run Python. */
int crew_start_threads(struct crew *c, bool *is_lost);

#endif
