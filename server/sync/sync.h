/* sync.h: synchronous Python code beside the loop: sets of persistent threads whose job loop is C.
 *
 *   crew.c    threads, slots and leases: who runs what, when. Knows jobs as structs, not as Python
 *   headway.c whether one more thread would help
 *   turn.c    what the loop does for a crew once a turn: parking, deadlines, threads to start
 *   blocked.c which threads only wait for the loop
 *   thread.c  a thread of Python's that runs jobs: its start, its loop, the hooks that run on it
 *   job.c     a job that is a Python call, and its way back as a future
 *   pool.c    the type _ringcorn.Pool: a crew that Python sees
 *   lease.c   the type _ringcorn.Lease: a request's claim to one thread
 *   look.c    what threads wait for, by looking at them now and then
 *   driver.c  the type _ringcorn.Drivers: what threads do in the drivers of databases, and who is to stop it
 *
 * A worker has two pools. `executor` (sync.executor_threads) runs calls that belong to nobody: run_in_executor(None, ...),
 * asyncio.to_thread, name look-ups, files. `sync` (sync.threads) runs thread-sensitive code, through leases:
 *
 *   slot     the right to run. There are sync.threads of them; a lease has one only while its code runs
 *   thread   belongs to a lease from its first job until it is closed, so that thread-locals and the
 *            database connection stay with the request. At most sync.threads_max
 *
 *     lease_submit() ──> waiting ──slot (and thread)──> running ──> posted to the loop
 *        (FIFO over all leases: fairness by arrival)        │
 *                                                           └─ no job left: HOLDING the slot, then
 *        PARKED (thread kept, slot given away) when someone waits and the loop has turned 8 times since the result was
 *        delivered: the request awaits something else. Wall time would count a blocked loop as parked.
 *
 * A lease whose running job blocks in code that waits for the loop (asgiref's run_until_future, AnyIO's from_thread; pool.blocking_code)
 * loses its slot too, after 10 samples 5 ms apart while someone waits.
 *
 * Locks: a crew's mutex is taken with or without the GIL, and the GIL is never asked for while it is held. A thread gives the GIL
 * away before it posts a result: the loop, woken by it, finds the GIL free. */
#ifndef RINGCORN_SYNC_H
#define RINGCORN_SYNC_H

#include "py/py.h"

#include "metrics/spent.h"

struct metrics_crew;
struct crew; /* the threads of one pool: plain memory, counted */
struct lease;

enum { POOL_QUEUE_MAX = 100 * 1000 }; /* jobs that may wait where the caller sets no bound */

/* Adds _ringcorn.Pool and _ringcorn.Lease. 0, or -1 with an exception set. */
int sync_add_types(PyObject *module);

/* --- jobs and leases without Python: for WSGI requests, handed over in the I/O phase ------------------------------------ */

enum sync_drop { SYNC_DROP_TIMEOUT, SYNC_DROP_CLOSED, SYNC_DROP_NO_THREAD };

/* Embedded in its owner. Exactly one of these ends it: end(), drop(), or a lease_withdraw() that returned true. */
struct sync_job {
    /* on the lease's thread, GIL held; leaves no exception set */
    void (*run)(struct sync_job *job);
    /* After run(), on the same thread, without the GIL, when the thread already counts as free (or runs for the next): posts the
     * result (loop_post(), loop_post_io()). The last that the crew does with job and, after the last job of a closed lease, with
     * the lease. */
    void (*end)(struct sync_job *job);
    /* One of many short jobs that need the loop for nothing: a thread runs them one after the other without giving the GIL away in between
     * (end() is called with it, then), and another thread is woken only where that makes no headway (headway.c). */
    bool is_batched;
    /* Will not run: its wait took longer than sync.queue_timeout, the crew was stopped, or it is optional and there is no thread for it.
     * Loop's thread, any GIL state. */
    void (*drop)(struct sync_job *job, enum sync_drop why);
    /* the crew's: */
    struct list link;
    struct lease *lease;
    bool is_optional; /* does not wait for a thread when requests keep all of threads_max */
    bool is_out;      /* no longer its lease's, about to be dropped: link is in a list of those */
};

/* A claim to one thread. Embedded in its owner, which outlives every job of it; the pool outlives the lease. The crew's, under its
 * lock. */
struct lease {
    struct crew *crew;
    struct list jobs;    /* not begun, oldest first */
    struct list wait;    /* crew's queues for a slot */
    struct list held;    /* crew's list of leases that have a thread */
    struct list holding; /* crew's list of leases that have a slot and no job */
    /* NULL until the first job, after the end, and where it was given back */
    struct sync_thread *thread;
    struct sync_job *running;
    uint64_t arrived;         /* its place in the queue */
    int64_t begun_ns, ran_ns; /* when its last job was begun; how long those took that have ended */
    int64_t driver_ns;        /* driver.c's: lease_driver_ns() */
    bool is_in_driver;        /* driver.c's: its thread is */
    unsigned cancel_state;    /* driver.c's */
    int64_t wait_ns, slot_ns; /* since when it waits, or has its slot */
    /* loop turn in which the last result was delivered; parking counts from it */
    uint64_t delivered_turn;
    unsigned delivering; /* results that are on their way to the loop */
    unsigned blocked_samples;
    unsigned slot_jobs; /* begun since it has its slot */
    bool has_slot, is_closed, is_paused, is_resuming;
    bool is_waiting;            /* since wait_ns, for its next job to begin */
    bool gives_back;            /* slot and thread, when its jobs are done */
    bool is_optional;           /* waits for a thread, and its job is optional */
    struct metrics_calls calls; /* what its jobs have taken beside ran_ns and driver_ns */
    char label[96];             /* who: "GET /path", for reports; "" = unknown */
};

struct crew *pool_crew(PyObject *pool); /* borrowed from the pool */

/* pool: a _ringcorn.Pool. What it counts goes there from now on; into outlives its crew. GIL held. */
void pool_count(PyObject *pool, struct metrics_crew *into);

/* All on the loop's thread, any GIL state, unless said otherwise. */
void lease_init(struct lease *l, struct crew *crew, const char *label);
/* job->run, end and drop are set. 0; -EAGAIN: sync.queue jobs wait already, and l has no thread yet or another job that waits;
 * -ESHUTDOWN: the crew is closed. On failure nothing of job is called. */
int lease_submit(struct lease *l, struct sync_job *job);
/* Takes back a job that has not begun: nothing of it will be called. False: it runs, or has run. */
bool lease_withdraw(struct lease *l, struct sync_job *job);
/* No more parking: what is queued still runs, then the thread is free. To be called exactly once; also right after lease_submit() for a
 * lease of one job, which then costs nothing more: its thread goes from job to job. */
void lease_close(struct lease *l);

/* On the lease's thread inside run(), without the GIL: the code waits for the client, so its slot is another's until resume (which
 * waits for a slot). */
void lease_pause(struct lease *l);
void lease_resume(struct lease *l);

/* Where it stands: "waiting" for a thread or a slot, "running", "holding" a slot, "parked", or NULL: no job and no thread. *ident: its thread's, as
 * threading.get_ident(); 0 = none. Any thread. */
const char *lease_stand(struct lease *l, unsigned long *ident);
/* Of a _ringcorn.Lease: borrowed. Any GIL state. */
struct lease *lease_inside(PyObject *lease);

/* --- driver.c: GIL held, unless said otherwise ---------------------------------------------------------------------------- */

/* Why a request is given up; a later one outweighs an earlier of which nothing has been told yet. */
enum sync_cancel { SYNC_CANCEL_NOT, SYNC_CANCEL_GONE, SYNC_CANCEL_OVERDUE, SYNC_CANCEL_LEAVING };

/* Somebody tells what threads do in drivers: else the next has nothing to do. Any thread, no GIL needed. */
bool drivers_are_watched(void);
/* What its threads do in drivers is cancelled, soon, by other threads; where they do nothing now, the next they begin is refused. l: of a
 * request that is not answered; a sync_job's is stable for who has the GIL. May run Python. */
void lease_cancel(struct lease *l, enum sync_cancel why);
/* All that have a thread of the pool's, whosever they are, but those that are answered. pool: a _ringcorn.Pool. May run Python. */
void pool_cancel_held(PyObject *pool, enum sync_cancel why);
/* It is over: what has only inherited its context is not its own any more. What its threads still run for it is. Any thread, no GIL needed. */
void lease_parted(struct lease *l);
/* Its answer is complete: nothing of it is cancelled any more. Any thread, no GIL needed. */
void lease_answered(struct lease *l);
/* Why it was given up, if it was. Any thread, no GIL needed. */
enum sync_cancel lease_why(const struct lease *l);
/* For how long its threads were in drivers of databases, ns: of operations that have ended. Any thread, no GIL needed. */
int64_t lease_driver_ns(const struct lease *l);

/* --- with Python: GIL held ---------------------------------------------------------------------------------------------- */

/* Queues fn(*args) for any idle thread: as Pool.submit(). Returns a new future of the pool's loop; NULL with RuntimeError where the
 * pool is closed, belongs to the parent of a fork, or its queue is full. pool: a _ringcorn.Pool. May run Python (starting a thread). */
PyObject *pool_submit(PyObject *pool, PyObject *fn, PyObject *const *args, Py_ssize_t n);

/* Makes a lease for a request and sets it in every variable of pool.context_vars, in the current context. Returns a new
 * _ringcorn.Lease; NULL without an exception where pool.context_vars is empty, and with one on failure. */
PyObject *pool_enter(PyObject *pool, const char *label);

/* The lease that pool_enter() has set in that context, or in the one that it is a copy of: borrowed, and good as long as it is there. NULL without an exception: none. */
PyObject *pool_lease_in(PyObject *pool, PyObject *context);

/* What Lease.request is: borrowed until it is set to NULL, which its owner does at the request's end at the latest. */
void lease_set_request(PyObject *lease, PyObject *request);
PyObject *lease_request(PyObject *lease); /* borrowed; NULL: none */

/* As Lease.submit(fn, *args), on the loop's thread: a new future. */
PyObject *lease_call(PyObject *lease, PyObject *fn, PyObject *const *args, Py_ssize_t n);

/* As Lease.close(): the request has ended. Late calls still work: each takes a thread for itself. */
void lease_end(PyObject *lease);

/* On the thread of job, inside run(). job, its thread and its slot become the lease's, which pool_enter() has just made: what the request calls
 * meanwhile waits for that thread, as it would for any job of the lease. */
void lease_take_job(PyObject *lease, struct sync_job *job);
/* The opposite: they are to's again, in which job was submitted. Not where other jobs of the lease wait: those are next on the thread, and keep
 * the lease alive; until run() has returned and the crew knows it, that takes the GIL (is_batched). */
void lease_give_job(PyObject *lease, struct sync_job *job, struct lease *to);

/* The request has ended: calls what Python has left in lease.at_end, once. May run Python. */
void lease_tell_end(PyObject *lease);

/* For how long threads have run jobs of it, ns, and what else is known of them. */
int64_t lease_spent(struct lease *l, struct metrics_calls *calls);

/* Inside a job's run(), on its thread: CPU that it has used so far, for as many jobs as it stands for; 0: it is not measured. */
int64_t job_cpu_ns(void);

/* Looks at what the pool's threads wait for, from a thread of its own, until looks_stop(); one pool a process. GIL held, the loop's
 * thread. */
void looks_start(PyObject *pool);
void looks_stop(void);   /* a second call, and one without a start, are no-ops */
void looks_forget(void); /* in a child that was forked: there is no thread */

/* It has had the right to run a job. */
bool lease_was_used(PyObject *lease);

/* A job of it met a full queue, or waited for longer than sync.queue_timeout. */
bool lease_was_refused(PyObject *lease);

#endif
