/* py.h: CPython inside a C program: the one header by which Python.h comes in, first in every file of ranks 5 and up.
 *
 *   embed.c    starting the interpreter: PyConfig, virtual environment, paths      compat.h  differences between versions
 *   module.c   the module _ringcorn: types and constants in its state, no globals   errors.c  errno <-> exceptions
 *   loop.c     the event loop: the object, its io, fork                             turn.c    one turn: wait, GIL, what runs
 *   calls.c    call_soon and its like                                               handle.c  callbacks to run
 *   timers.c   call_later and call_at                                               fds.c     add_reader and add_writer
 *   sources.c  what types of other folders have in the loop's io (transports)
 *   task.c     a coroutine started at once                                          gil.c     the loop beside threads that compute
 *   interval.c where CPython's switch interval lies                                 private.h what these files share
 *
 * All with the GIL held and on the loop's thread unless said otherwise.
 *
 * Free-threaded Python. It is run with the GIL on: embed.c asks for it, module.c declares Py_MOD_GIL_USED and refuses to be imported where the GIL
 * was forbidden. "With the GIL" above is meant: these take it for their lock, and each needs one before Py_MOD_GIL_NOT_USED is true.
 *
 *   py/handle.c     the free lists of a module's state, which every thread that makes or drops a handle uses: one for each loop's thread, or none
 *   py/turn.c       loop->ready and loop->timers: call_soon() and TimerHandle.cancel() are of the loop's thread, but call_soon_threadsafe(), and in
 *   py/timers.c     asyncio's custom any call_soon(), push from others. Posts (loop_post()) have no lock and need none: the way for them too
 *   py/fds.c        readers and writers changed by another thread: has_changed is a hand-over that the GIL orders
 *   py/handle.c     cancel() while the loop runs the handle: callback, args and `running` are read and cleared without a word
 *   py/loop.c       thread_id, pool, default_executor, is_debug, the clients: attributes set by any thread; `all`, the loops of a process
 *   py/weakset.c    that nobody iterates is looked up and then relied on
 *   base/live.h     counters of what the loop's thread makes; handles and jobs are made and dropped by others too
 *   sync/job.c      a job's state between cancel() on the loop and run() on a thread; result and exception on their way back are ordered by the post
 *   sync/pool.c     the hooks of a pool, which every thread reads and Python sets; the crew itself has a mutex (sync/sync.h)
 *   sync/headway.c  keeps threads from waking that would only wait for the GIL: without one, none of its rows is true
 *   asgi/, wsgi/    the caches of names.c: slots with header names and values that any thread takes from and replaces
 *   guard/blame.c   reads the stack of the loop's thread while that cannot run: that is what the GIL is there; without it the thread runs on
 *
 * What is not in the list belongs to the loop's thread, has a mutex, or is atomic. */
#ifndef RINGCORN_PY_H
#define RINGCORN_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "io/io.h"
#include "py/compat.h"

static inline void
py_drop(PyObject **p)
{
    Py_XDECREF(*p);
}

/* A local that owns a reference: dropped at the end of its scope unless given up by py_take(). */
#define PY_OWNED __attribute__((cleanup(py_drop)))

static inline PyObject *
py_take(PyObject **p)
{
    PyObject *taken = *p;
    *p = NULL;
    return taken;
}

/* dict[key] = value, and the reference to value is given away, also on failure. value: NULL with an exception set passes it on. 0 or -1. GIL held. */
static inline int
py_dict_give(PyObject *dict, PyObject *key, PyObject *value)
{
    if (value == NULL)
        return -1;
    int err = PyDict_SetItem(dict, key, value);
    Py_DECREF(value);
    return err;
}

/* Sets a context variable (of str) in the current context; nothing is done where the text is empty. 0, or -1 with an exception set. GIL held. */
static inline int
py_context_set(PyObject *variable, struct slice text)
{
    if (LIKELY(text.n == 0))
        return 0;
    PY_OWNED PyObject *value = PyUnicode_DecodeLatin1(text.p, (Py_ssize_t)text.n, NULL);
    PY_OWNED PyObject *token = value == NULL ? NULL : PyContextVar_Set(variable, value);
    return token != NULL ? 0 : -1;
}

/* --- the event loop (loop.c) ------------------------------------------------------------------------------------
 * The C type _ringcorn.LoopCore; python/ringcorn/loop.py puts asyncio's own classes under it. One turn:
 *
 *   1. io_wait()          without the GIL where it may sleep, with it where work is ready; io callbacks run here, Python does not
 *   2. client->turn()     deadlines and resumed connections of the server; no Python either
 *   3. with the GIL: posts from other threads, client->run(), due timers, ready handles (those ready at its start)
 *   4. client->flush()    output queued in 3 goes out in one batch with the next io_wait() */

struct metrics_step;

/* The server's part of a turn. Every function may be NULL. */
struct loop_client {
    /* after io_wait() and posts of loop_post_io(); GIL state unknown: touch no Python */
    void (*turn)(void *self);
    bool (*has_work)(void *self); /* is there something for run()? no Python */
    int (*run)(void *self);       /* GIL held. -1 with an exception set: run_forever() raises it */
    void (*flush)(void *self);    /* before io_wait(), and where output has waited; no Python */
    /* when turn() is due (monotonic): 0 = at once, -1 = only on events */
    int64_t (*next_ns)(void *self);
    /* Or NULL. A callback has ended, in that context: a contextvars.Context, borrowed. Of those below LOOP_LONG_STEP_NS only some are told. GIL held;
     * nothing may be raised, or run */
    void (*step)(void *self, PyObject *context, const struct metrics_step *step);
};

enum { LOOP_LONG_STEP_NS = 1000 * 1000 };

enum { LOOP_CLIENTS_MAX = 8 };

/* loop: a LoopCore. Clients are called in the order in which they came; client and self outlive the loop or are detached. 0, or -1 with
 * RuntimeError set where it has LOOP_CLIENTS_MAX already. */
int loop_attach(PyObject *loop, const struct loop_client *client, void *self);
void loop_detach(PyObject *loop, void *self);

struct metrics_block;
/* This loop is the server's: what it counts and notes of itself goes there. The block outlives it. */
void loop_count(PyObject *loop, struct metrics_block *into);

/* The loop's io; borrowed, until the loop is closed. Opened in the calling thread, which must be the one that will run the loop. NULL
 * with an exception set where it cannot be had. Once a client is attached the loop stays in this thread. */
struct io *loop_io(PyObject *loop);

/* Is it a LoopCore of this module? GIL held. */
bool loop_check(PyObject *module, PyObject *object);

/* As loop.create_future(): a real asyncio.Future, new. */
PyObject *loop_create_future(PyObject *loop);

/* Hands the pending exception to the loop's exception handler, with the message. SystemExit and KeyboardInterrupt stay set and give
 * -1, as does what the handler itself raises. May run Python. */
int loop_report(PyObject *loop, const char *message);

/* A thread of ours begins or ends a spell of Python for this loop: while there is one, the loop gives the GIL away once a turn
 * even when it has work. Any thread, no GIL needed. */
void loop_helper_begin(PyObject *loop);
void loop_helper_end(PyObject *loop);

/* That many more short jobs (or fewer) are under way whose results will be posted to the loop: before it sleeps it may look out for them
 * for a moment. Any thread, no GIL needed. */
void loop_expect(PyObject *loop, int n);

/* It does so now. Any thread. */
bool loop_looks_out(PyObject *loop);

/* A request has ended that the loop has served. is_async: no lease of a thread was used for it. Where there are none such the loop has
 * no reason to go before threads that compute. The loop's thread. */
void loop_note_request(PyObject *loop, bool is_async);

/* It waits for the GIL, for requests that it answers by itself: a thread that could keep the GIL between two jobs should not. Any thread. */
bool loop_asks_for_gil(PyObject *loop);

/* False on a free-threaded Python that runs without it. GIL held, or what is in its place; no exception is set. */
bool py_has_gil(void);

/* The int that is 1 while some thread has the GIL and 0 while none has; to be read atomically, by any thread. NULL where CPython's is
 * out of reach. GIL held; no exception is set. */
const int *py_gil_locked(void);

/* The pointer to the thread state that has the GIL, or had it last; to be read atomically, by any thread, and compared only. NULL and the rest as
 * above. */
void *const *py_gil_holder(void);

/* The memory of CPython's GIL: threads that wait for it sleep on words in there. False, and NULL in both, as above. */
bool py_gil_memory(const char **from, const char **to);

/* Where the loop runs. Any thread, no GIL needed. */
bool loop_runs_here(PyObject *loop);
bool loop_runs_elsewhere(PyObject *loop); /* in another thread */

/* Is the loop in its I/O phase, and without the GIL? The loop's thread. */
bool loop_is_released(PyObject *loop);

/* Makes the loop's current or next turn a short one. Any thread with a reference to the loop, with or without the GIL. */
void loop_wake(PyObject *loop);

/* Something to do as soon as the loop has given the GIL away: waking a thread that would only wait for it. Embedded in its owner, who
 * stays until fn was called. False, and nothing is noted, where it can be done at once: this is not the loop's thread, or it has given
 * the GIL away already. The loop then gives it away in this turn. Loop's thread, any GIL state; fn: the same, without the GIL, mostly. */
struct loop_late {
    struct loop_late *next;
    void (*fn)(struct loop_late *late);
    bool is_noted;
};
bool loop_do_late(PyObject *loop, struct loop_late *late);

/* CLOCK_MONOTONIC when the callback that runs now was begun. */
int64_t loop_step_ns(PyObject *loop);

/* The step that runs now, as if it ended: true where it is one of those that are told of. The loop's thread, GIL held. */
bool loop_step_so_far(PyObject *loop, struct metrics_step *out);
/* Of the step that began then: it was found waiting for the GIL, which stands for so much time. Any thread. */
void loop_found_waiting(int64_t step_ns, int64_t ns);

/* To be called between two steps of client->run(): hands output to the kernel where it has waited for long enough. The loop
 * does so itself between the handles that it runs. No Python runs. */
void loop_flush_if_due(PyObject *loop);

/* Work handed to the loop from another thread, or from the io phase. fn runs in phase 3 with the GIL held; it may free the post. An exception
 * that it leaves set goes to the loop's exception handler. */
struct post {
    struct post *next;
    void (*fn)(struct post *post, PyObject *loop);
};
/* Any thread with a reference to the loop, with or without the GIL; wakes the loop only if it sleeps. Order is kept per sender. A closed
 * loop runs nothing more: fn is then called with loop NULL, to free what it must: for posts that were waiting by close(), for
 * later ones by loop_post() itself, which takes the GIL for it (so a thread that posts must not be one that Python could not know). */
void loop_post(PyObject *loop, struct post *post);

/* As loop_post(), for work that is not Python's: fn runs in phase 2 (no Python, GIL state unknown), so an answer that a thread has made
 * needs no GIL on the loop. Later posts of a closed loop get their fn(post, NULL) from loop_post_io() itself, also without the GIL. */
void loop_post_io(PyObject *loop, struct post *post);

/* --- sources of events (sources.c) --------------------------------------------------------------------------------
 * What a C type has in the loop's io: how a completion, which comes in phase 2 without the GIL, leads to Python in phase 3 without a
 * handle made for it. Embedded in its owner, a Python object:
 *
 *     io_fn    ──loop_source_ready()──> on a list ──phase 3──> ops->run()               GIL; Python
 *     a method ──loop_source_flush()──> on a list ──end of phase 3──> ops->flush()      GIL; no Python: what was written goes out once a turn
 *
 * While it is attached the loop has a reference to the owner: attach before an op is armed, detach when none is and nothing is to run.
 * So an owner that is finalised, wherever that is, has nothing in the io and nothing in the loop's lists.
 *
 * The io may be touched by the loop's thread alone, and may be exchanged for another one when the loop next runs. So what an owner wants of it
 * (which ops are to be armed) is its own state; apply() brings the io to it. */
struct loop_source;
struct loop_source_ops {
    /* Phase 3, in s->context where there is one. 0, or -1 with an exception set, which goes to the loop's exception handler. */
    int (*run)(struct loop_source *s);
    /* The end of phase 3, or earlier where output has waited; GIL held, nothing may be raised or run. NULL where loop_source_flush() is not used. */
    void (*flush)(struct loop_source *s);
    /* Arms and cancels what is wanted now; idempotent. The loop's thread, GIL held; runs no Python. */
    void (*apply)(struct loop_source *s, struct io *io);
    /* The io is gone: no op is armed any more (io_op_init() them anew). No callback comes for them. Runs no Python; also in a forked child. */
    void (*forget)(struct loop_source *s);
};

struct loop_source { /* public for embedding */
    const struct loop_source_ops *ops;
    PyObject *owner;   /* borrowed: what it is embedded in */
    PyObject *context; /* the owner's to set, visit and drop; a contextvars.Context or NULL */
    struct list all;   /* GIL */
    struct list ready, flush; /* the loop's thread */
    bool is_attached, has_changed;
};

void loop_source_init(struct loop_source *s, const struct loop_source_ops *ops, PyObject *owner);

/* GIL held. attach: any thread; takes a reference to the owner. detach: gives it back, so the owner may be gone when it returns, and Python may have run;
 * the loop's thread while there is an io. Both are idempotent. */
void loop_source_attach(PyObject *loop, struct loop_source *s);
void loop_source_detach(struct loop_source *s);

/* What is wanted of the io has changed: apply() is called now, or where this is not the loop's thread (or it has no io yet) later. GIL held. */
void loop_source_changed(PyObject *loop, struct loop_source *s);

/* The io, where this thread may touch it; else NULL. GIL held. */
struct io *loop_source_io(PyObject *loop);

/* run() is to be called: in this turn, or the next where it is in phase 3 already. The loop's thread, any GIL state. */
void loop_source_ready(PyObject *loop, struct loop_source *s);

/* flush() is to be called. False, and nothing is noted, where the loop does not run in this thread: then it is done at once. GIL held. */
bool loop_source_flush(PyObject *loop, struct loop_source *s);

/* As loop_post(), from a callback of the loop's own io: the turn that it is in goes on to phase 3, so nobody is woken. */
void loop_post_here(PyObject *loop, struct post *post);

/* Something armed in the loop's io that is not armed anew when the loop moves to another (it is closed, or runs in another thread than before): linked
 * in a list of the loop's by loop_io_use(), out of it by list_del(), both on the loop's thread with the GIL. gone() is called once that io
 * is closed, when it is in no list any more: no callback came, and none will. is_closed: and the loop with it. GIL held; it may run Python, and leaves no exception set. */
struct loop_io_user {
    struct list link;
    void (*gone)(struct loop_io_user *user, bool is_closed);
};
void loop_io_use(PyObject *loop, struct loop_io_user *user);

/* --- a coroutine started at once (task.c) ------------------------------------------------------------------------
 * Makes an asyncio.Task (a real _asyncio.Task: current_task(), timeouts, AnyIO, all_tasks() see it) for coro in context, and runs its
 * first step before it returns: eagerly where CPython can (3.12), else by taking the step out of call_soon's hands.
 * Must be called in phase 3 (loop running, no task current). Returns a new reference (the task may be done already), or NULL with an
 * exception set: the task could not be made, or the step raised SystemExit or KeyboardInterrupt, which are everybody's (hand them
 * on by client->run()); any other exception of the coroutine is the task's. May run Python. */
PyObject *task_start(PyObject *loop, PyObject *coro, PyObject *context, PyObject *name);

/* --- the module (module.c) ---------------------------------------------------------------------------------------
 * The folders above add their types in functions that module.c calls when they are linked in (weak references):
 * transport_add_types(), sync_add_types(), aio_add_types(), wsgi_add_types(), asgi_add_types(), guard_add_types(). Each gets the new module:
 * 0, or -1 with an exception set. */
PyObject *PyInit__ringcorn(void);

#endif
