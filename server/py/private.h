/* private.h: what the files of py/ share with each other and with nobody else.
 *
 * Everything here belongs to the GIL unless a comment says that the loop's thread may touch it
 * without: the I/O phase of a turn runs without it. */
#ifndef RINGCORN_PY_PRIVATE_H
#define RINGCORN_PY_PRIVATE_H

#include "py/py.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/base.h"
#include "base/meter.h"
#include "metrics/pulse.h"

/* --- the module's state (module.c) ------------------------------------------------------------ */

enum {
    HANDLES_FREE_MAX = 512, /* handles kept for reuse, of each kind */
};

/* Interned strings: attribute, method and key names. */
/* clang-format off */
#define PY_NAMES(X)                                                                                \
    X(_cancelled) X(_check_callback) X(_check_thread) X(_run) X(_run_in_executor) X(_slow_callback) \
    X(call_at) X(call_exception_handler) X(call_later) X(call_soon) X(call_soon_threadsafe)        \
    X(context) X(eager_start) X(exception) X(handle) X(loop) X(message) X(name)                    \
    X(slow_callback_duration) X(source_traceback) X(submit)
/* clang-format on */

struct py_state {
    PyTypeObject *loop_type, *handle_type, *timer_type;
    PyObject *future_type, *task_type; /* of _asyncio */
    PyObject *format_callback_source;  /* asyncio.format_helpers */
    PyObject *extract_stack;           /* asyncio.format_helpers */
    PyObject *empty_tuple;
#define X(name) PyObject *s_##name;
    PY_NAMES(X)
#undef X
    /* Chained through ->loop, which is not a reference there. */
    struct handle *free_handles, *free_timers;
    unsigned free_handles_n, free_timers_n;
};

/* type: of the module, or a subclass of such. NULL with an exception set. */
struct py_state *py_state_of_type(PyTypeObject *type);

/* --- handles (handle.c) ----------------------------------------------------------------------- */

enum { HANDLE_ARGS_INLINE = 3 };

/* A callback to run once, as asyncio.Handle. */
struct handle {
    PyObject_HEAD
    struct loop *loop;   /* new */
    PyObject *callback;  /* new; NULL once cancelled */
    PyObject *context;   /* new */
    PyObject *traceback; /* new: where it was made, in debug mode; or NULL */
    PyObject *repr;      /* new: kept at cancellation in debug mode; or NULL */
    PyObject *weakrefs;
    /* n_args new references; args[-1] is scratch for vectorcall. In slots, or allocated. */
    PyObject **args;
    PyObject *slots[1 + HANDLE_ARGS_INLINE];
    Py_ssize_t n_args;
    bool cancelled;
    bool running; /* cancel() leaves the references alone until the call returns */
};

/* A callback to run at a time, as asyncio.TimerHandle. */
struct timer_handle {
    struct handle base;
    double when;               /* seconds on loop.time()'s clock */
    bool scheduled;            /* in the loop's heap, which holds a reference */
    bool is_whole;             /* when was given as an int, and is told as one */
    struct timer_handle *next; /* a chain of handles to release */
};

extern PyType_Spec handle_spec, timer_spec;

/* New. args: n borrowed. context: borrowed, NULL = a copy of the current one. Registers nothing. */
struct handle *handle_new(struct loop *l, PyObject *callback, PyObject *const *args, Py_ssize_t n,
                          PyObject *context);
struct timer_handle *timer_new(struct loop *l, double when, PyObject *callback,
                               PyObject *const *args, Py_ssize_t n, PyObject *context);

/* Calls it in its context; an exception goes to the loop's handler. -1 only for SystemExit,
 * KeyboardInterrupt and what the exception handler itself raises. The caller keeps a reference. May
 * run Python. */
int handle_run(struct handle *h);

/* May run Python (references are dropped). */
int handle_cancel(struct handle *h);

void handles_free_all(struct py_state *st); /* empties the free lists */

/* --- the loop (loop.c) ------------------------------------------------------------------------ */

/* A ring of references to handles, ours or asyncio's. Grows without a limit of its own: a callback
 * cannot be refused. */
struct ready {
    PyObject **items;
    size_t cap; /* a power of two, or 0 */
    size_t head;
    size_t count; /* read by the loop's thread without the GIL, relaxed */
};

struct timer_entry {
    double when;
    uint64_t seq;                /* equal times run in the order in which they were made */
    struct timer_handle *handle; /* new */
};

/* A 4-ary heap, least (when, seq) first. Cancelled entries stay until they come up or are more than
 * half. */
struct timers {
    struct timer_entry *heap;
    size_t count, cap, cancelled;
    uint64_t seq;
    /* Of the first entry, INT64_MAX when empty; read by the loop's thread without the GIL. */
    int64_t next_ns;
};

/* One descriptor that was ever given to add_reader() or add_writer(); kept for reuse until the loop
 * is closed (fds.c). */
struct fd_entry {
    struct io_op op; /* the loop's thread */
    struct loop *loop;
    PyObject *reader, *writer; /* new: struct handle; NULL where there is none */
    /* new: what it was added as, where that was no int; NULL: an int, or nothing */
    PyObject *object;
    struct list ready;   /* the loop's thread: in loop->fds_ready */
    uint32_t mask;       /* POLLIN | POLLOUT as wanted now */
    uint32_t armed_mask; /* the loop's thread: as given to the io */
    uint32_t revents;    /* the loop's thread: announced and not yet delivered */
    int fd;
    /* The loop's thread: io_cancel() was asked; what comes belongs to an earlier life. */
    bool is_cancelling;
    bool has_changed; /* mask was changed by a thread that may not touch the io */
};

/* gil.c. The loop's thread; interval is written with the GIL. */
struct loop_gil {
    unsigned long *interval;    /* CPython's, in us; NULL where the loop does not go first */
    int64_t taken_ns, given_ns; /* when it last got the GIL and gave it away, where it goes first */
    int async_share;            /* moving average of loop_note_request() */
    atomic_bool asks;           /* it waits for the GIL, and goes first */
};

struct loop {
    PyObject_HEAD
    struct py_state *state;
    struct list all; /* every loop of this process, for fork */

    struct io *io; /* NULL until the loop runs or somebody asks for it */
    enum io_backend want;
    pthread_t owner;  /* of io */
    pthread_t runner; /* the thread that turns, while is_turning */
    char io_why[IO_WHY_SIZE];

    struct {
        const struct loop_client *client;
        void *self;
    } clients[LOOP_CLIENTS_MAX];
    size_t clients_n;

    struct ready ready;
    struct timers timers;
    struct list io_users;  /* loop_io_use() */
    struct fd_entry **fds; /* by descriptor */
    size_t fds_cap;
    struct list fds_ready;                    /* the loop's thread */
    struct list sources;                      /* attached ones */
    struct list sources_ready, sources_flush; /* the loop's thread */
    bool sources_have_changed;                /* as fds_have_changed */
    bool fds_have_changed; /* an entry has has_changed; read without the GIL, relaxed */

    /* Newest first; POSTS_CLOSED at the end. io_posts: of loop_post_io(). */
    _Atomic(struct post *) posts, io_posts;
    atomic_uint posting; /* threads inside loop_post() or loop_post_io(): close waits for them */
    atomic_bool is_turn_wanted; /* loop_wake() */
    atomic_bool is_poked;       /* another thread has put something into ready */
    atomic_uint helpers;        /* threads of our pools that run Python for this loop */
    atomic_int expected;        /* loop_expect() */
    atomic_bool looks_out;
    struct lookout lookout; /* the loop's thread */

    /* the loop's thread: to do when the GIL is given away, the last noted first */
    struct loop_late *late;

    struct loop_gil gil;
    const int *gil_locked;         /* py_gil_locked(); NULL = not known */
    struct metrics_block *metrics; /* what it counts and notes, loop_count() */
    int64_t step_ns;
    struct meter meter;  /* of its steps, while tells_steps */
    int64_t meter_ns;    /* when meter.cpu_ns was read */
    int64_t turn_gil_ns; /* what this turn has waited for the GIL */
    int64_t flushed_ns;  /* when output was last handed to the kernel in this turn; 0 = not yet */

    /* From task_start(), borrowed: the call_soon() with this very context gives its callback here. */
    PyObject *grab_context;
    PyObject *grabbed; /* new */

    PyObject *thread_id;        /* new: int while it runs, else NULL; asyncio's _thread_id */
    PyObject *current_handle;   /* new or NULL: debug mode, asyncio's _current_handle */
    PyObject *default_executor; /* new or NULL: set by the user; asyncio's _default_executor */
    PyObject *pool;             /* new or NULL: the C pool behind run_in_executor(None, ...) */
    PyObject *future_kwargs;    /* new: {"loop": self} */
    PyObject *task_kwargs;      /* new: of task_start(); NULL while in use */

    struct loop_shake *shake; /* shake.c; NULL: it is not in shake mode */

    bool is_closed;
    bool is_orphan;    /* made before a fork, and this is the child */
    bool is_turning;   /* inside _run(); read without the GIL */
    bool had_io_posts; /* the loop's thread: the last wait ended with posts of loop_post_io() */
    bool is_released;  /* the loop's thread: inside a turn, and it has given the GIL away */
    bool is_stopping;  /* read without the GIL, relaxed */
    bool is_debug;
    bool tells_steps; /* a client wants to know what steps take */
};

extern PyType_Spec loop_spec;

static inline struct loop *
loop_of(PyObject *object)
{
    return (struct loop *)object;
}

/* Opens the io in this thread where there is none, and moves it where another thread opened it. -1
 * with an exception set. */
int loop_open_io(struct loop *l);

/* The io, if this thread may touch it now; else NULL. */
struct io *loop_io_here(struct loop *l);

/* Wakes the loop from any thread that holds the GIL. */
void loop_poke(struct loop *l);

/* Steals handle, also on failure. */
int loop_push(struct loop *l, PyObject *handle);

int loop_check_open(struct loop *l); /* RuntimeError where it is closed */

#define METER_OLD_NS (3 * NS_PER_MS)

/* Whether its CPU will be measured. And the clock of CPU is read again where that is long ago, as it may become a long one. */
static inline void
loop_measure_step(struct loop *l)
{
    meter_begin(&l->meter, l->step_ns);
    if (l->meter.stands_for == 0 && l->step_ns - l->meter_ns >= METER_OLD_NS) {
        l->meter.cpu_ns = meter_clock_ns();
        l->meter_ns = l->step_ns;
    } else if (l->meter.stands_for != 0) {
        l->meter_ns = l->step_ns;
    }
}

/* Something is about to run: what the server does for its requests, each of which is a step of its own. */
static inline void
step_begin_many(struct loop *l)
{
    l->step_ns = clock_ns();
    pulse_step(l->metrics, l->step_ns);
}

/* A callback, or a request, is about to run. */
static inline void
step_begin(struct loop *l)
{
    step_begin_many(l);
    if (LIKELY(l->tells_steps))
        loop_measure_step(l);
}

/* Debug mode: says so where the step that object has had took long. -1 with an exception set. May run Python. */
int loop_tell_if_slow(struct loop *l, PyObject *object);
/* To the clients that want to know. context: NULL = of none. */
void loop_tell_step(struct loop *l, PyObject *context);
/* RuntimeError: this is the child of a fork; -1. */
int loop_fail_orphan(void);

/* --- turns (turn.c) --------------------------------------------------------------------------- */

PyObject *turn_run(PyObject *self, PyObject *unused); /* methods of LoopCore */
PyObject *turn_run_once(PyObject *self, PyObject *unused);

void loop_drop_ready(struct loop *l); /* may run Python */
void loop_end_posts(struct loop *l);  /* no more posts; those that wait are freed */

/* --- the GIL (gil.c, interval.c) --------------------------------------------------------------- */

/* The loop goes before threads that compute, or no longer. Nothing happens where that cannot be had. GIL held. */
void gil_go_first(struct loop_gil *g, bool is_first);
void gil_forked(void); /* in the child, before anything else */

/* Instead of PyEval_SaveThread() and PyEval_RestoreThread(). */
PyThreadState *gil_give(struct loop_gil *g);
void gil_take(struct loop_gil *g, PyThreadState *state);

/* The number of microseconds that sys.setswitchinterval() sets for this interpreter; NULL where it cannot be found. It is read and
 * written atomically: other threads read it when they begin to wait for the GIL. GIL held; no exception is set. */
unsigned long *interval_find(void);

/* --- call_soon() and its like (calls.c): methods of LoopCore ---------------------------------- */

PyObject *calls_soon(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames);
PyObject *calls_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t n,
                                PyObject *kwnames);
PyObject *calls_later(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames);
PyObject *calls_at(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames);
PyObject *calls_add_callback(PyObject *self, PyObject *handle);
PyObject *calls_add_callback_signalsafe(PyObject *self, PyObject *handle);
PyObject *calls_write_to_self(PyObject *self, PyObject *unused);
PyObject *calls_timer_handle_cancelled(PyObject *self, PyObject *handle);

int loop_missing(const char *method, const char *what); /* TypeError: a required argument; -1 */

/* --- timers (timers.c) ------------------------------------------------------------------------ */

void timers_init(struct timers *t);
/* Takes a reference of its own. -1 with MemoryError set. */
int timers_push(struct timers *t, struct timer_handle *h);
/* The first handle that is due before `end` (seconds), cancelled or not: the heap's reference
 * becomes the caller's. NULL: none. */
struct timer_handle *timers_pop(struct timers *t, double end);
void timers_cancelled(struct timers *t); /* one in the heap was cancelled. May run Python */
void timers_clear(struct timers *t);     /* drops all. May run Python */
void timers_fini(struct timers *t);      /* after timers_clear() */

/* --- shake mode (shake.c) ---------------------------------------------------------------------- */

PyObject *shake_set(PyObject *self, PyObject *const *args, Py_ssize_t n); /* methods of LoopCore */
PyObject *shake_get(PyObject *self, PyObject *unused);
PyObject *shake_draw(PyObject *self, PyObject *const *args, Py_ssize_t n);
PyObject *shake_wait(PyObject *self, PyObject *flag);

void shake_clear(struct loop *l); /* l->shake is NULL then. May run Python */
int shake_traverse(struct loop *l, visitproc visit, void *arg);

/* What follows: only where l->shake is not NULL. */

bool shake_is_virtual(struct loop *l); /* time stands still unless nothing else is left to do */
int64_t shake_now(struct loop *l);     /* of the loop's clock, ns */

/* How long io_wait() may take in virtual time, and at its end what the clock is then; ns. -1 in the first: until something happens; in the
 * second: an exception is set. GIL held; may run Python. */
int shake_wait_begin(struct loop *l, bool has_work, int64_t *timeout);
void shake_wait_end(struct loop *l, int64_t waited_ns, bool was_in_vain);

double shake_timers_end(struct loop *l); /* timers before it are due, s */
void shake_stall(struct loop *l); /* real time: a moment without the CPU, now and then. No GIL */

/* Before callbacks run: waits for calls in threads, so that what they make ready does not depend on how fast they are. -1 with an exception
 * set. May run Python. */
int shake_settle(struct loop *l);

/* Which of the queue is next: the place behind its head. The queue is not empty. */
size_t shake_pick_ready(struct loop *l);

void shake_sources(struct loop *l); /* in which order those that are ready run */

/* Of posts, oldest first: those that are to be run now; the others are the loop's again. */
struct post *shake_posts(struct loop *l, struct post *posts);

/* turn.c: back to the loop's posts, in front of the rest when they are taken next. The loop's thread. */
void loop_post_back(struct loop *l, struct post *post);

/* The loop's clock. */
static inline int64_t
loop_now_ns(struct loop *l)
{
    return LIKELY(l->shake == NULL) ? clock_ns() : shake_now(l);
}

/* --- descriptors (fds.c) ---------------------------------------------------------------------- */

PyObject *fds_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t n);
PyObject *fds_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t n);
PyObject *fds_remove_reader(PyObject *self, PyObject *fd);
PyObject *fds_remove_writer(PyObject *self, PyObject *fd);
PyObject *fds_events(PyObject *self, PyObject *fd);

size_t fds_count(struct loop *l);       /* descriptors with a reader or a writer */
int fds_deliver(struct loop *l);        /* ready entries become ready handles */
void fds_apply_changed(struct loop *l); /* owner's thread: what other threads changed */
void fds_forget_io(struct loop *l);     /* the io was closed: nothing is armed any more */
void fds_arm_all(struct loop *l);       /* a new io was opened */
void fds_clear(struct loop *l);         /* drops the handles; may run Python */
void fds_free(struct loop *l);          /* after fds_clear() and io_close() */
int fds_traverse(struct loop *l, visitproc visit, void *arg);

/* --- sources (sources.c) ---------------------------------------------------------------------- */

int sources_run(struct loop *l); /* those that are ready */
void sources_flush(struct loop *l);
void sources_apply_changed(struct loop *l); /* as the like of fds.c */
void sources_forget_io(struct loop *l);
void sources_arm_all(struct loop *l);
void sources_clear(struct loop *l);
int sources_traverse(struct loop *l, visitproc visit, void *arg);

/* --- errors (errors.c) ------------------------------------------------------------------------ */

/* OSError (or its subclass) for -errno in err; returns -1. */
int py_fail(int err);

/* Hands the pending exception to the loop's exception handler with the message, and the handle and
 * its traceback where there is one (may be NULL). SystemExit and KeyboardInterrupt stay set and
 * give -1, as does what the handler raises. May run Python. */
int py_report(struct loop *l, PyObject *message, struct handle *h);

/* --- the registry of tasks (weakset.c) -------------------------------------------------------- */

/* _weakset_speed_up(set): a METH_O function of the module. */
PyObject *weakset_speed_up(PyObject *module, PyObject *set);

#endif
