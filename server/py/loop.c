/* loop.c: the event loop: _ringcorn.LoopCore, the C half of ringcorn.loop.Loop. asyncio's own classes sit beside it in the MRO
 * and bring transports, subprocesses, signals and servers; what is called per callback is here.
 *
 * The GIL. A turn gives it away before io_wait() only where the wait may block or another thread of ours runs Python: a
 * release with work at hand can cost a whole switch interval (5 ms) when some thread computes. It is taken back once a turn, and
 * not at all when what happened concerned C alone (bytes of a half-read request, a send that completed).
 *
 * Signals. The C handlers of CPython only set a flag; a wait must end for it to be seen. Loop.run_forever() makes asyncio's self-pipe the
 * wakeup descriptor of the signal module, so that a signal between the last check and the wait is not slept through.
 *
 * Fork. The child of os.fork() inherits the object but not the thread: a handler abandons every io (a ring or an epoll set shared
 * with the parent would steal its events) and marks the loops as orphans, which run no more. A new loop works.
 *
 * Runs on:  the loop's thread with the GIL, unless a function says otherwise.
 * Always:   io, fds_ready and step_ns belong to the thread that opened the io; everything else to the GIL. */
#include "py/private.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    READY_CAP_FIRST = 64,
    SENDS_QUEUED_MAX = 8, /* queued sends that are handed to the kernel in the middle of phase 3 (eight take 85 % of the gain) */
};

static const int64_t wait_ns_max = 24 * 3600 * NS_PER_S; /* asyncio's MAXIMUM_SELECT_TIMEOUT */

static const double clock_resolution_s = 1e-9;

/* The end of the list of posts of a loop that takes no more. */
static struct post posts_closed;
#define POSTS_CLOSED (&posts_closed)

/* --- every loop of the process, for fork --------------------------------------------------------------------------
 * Changed with the GIL held, which the forking thread holds too. */

static struct list all_loops = { &all_loops, &all_loops };

static void
forked_child(void)
{
    LIST_FOR_EACH (node, &all_loops) {
        struct loop *l = CONTAINER_OF(node, struct loop, all);
        if (l->io != NULL) {
            io_abandon(l->io);
            l->io = NULL;
        }
        l->is_orphan = true;
        l->client = NULL;
    }
}

static void
watch_forks_once(void)
{
    if (pthread_atfork(NULL, NULL, forked_child) != 0)
        log_warning("pthread_atfork failed: a child of os.fork() must not touch the event loop of its parent");
}

static void
watch_forks(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks_once);
}

/* --- the io ---------------------------------------------------------------------------------------------------------- */

struct io *
loop_io_here(struct loop *l)
{
    return l->io != NULL && pthread_equal(l->owner, pthread_self()) ? l->io : NULL;
}

/* Posting threads read l->io without the GIL. */
static void
set_io(struct loop *l, struct io *io)
{
    __atomic_store_n(&l->io, io, __ATOMIC_SEQ_CST);
}

static void
close_io(struct loop *l)
{
    struct io *io = l->io;
    if (io == NULL)
        return;
    set_io(l, NULL);
    while (atomic_load(&l->posting) > 0) /* a thread that is about to wake this io; it needs no GIL for it */
        sched_yield();
    io_close(io);
    fds_forget_io(l);
}

int
loop_open_io(struct loop *l)
{
    if (l->is_orphan) {
        PyErr_SetString(PyExc_RuntimeError, "this event loop belongs to the process that forked this one: make a new one");
        return -1;
    }
    if (loop_io_here(l) != NULL)
        return 0;
    if (l->io != NULL && l->client != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the server's event loop runs in the thread that made it");
        return -1;
    }
    struct io *io;
    int err = io_open(l->want, &io, l->io_why);
    if (err < 0) {
        if (l->io_why[0] != '\0')
            PyErr_Format(PyExc_OSError, "%s", l->io_why);
        else
            py_fail(err);
        return -1;
    }
    close_io(l);
    set_io(l, io);
    l->owner = pthread_self();
    fds_arm_all(l);
    return 0;
}

void
loop_poke(struct loop *l)
{
    if (l->io == NULL || pthread_equal(l->owner, pthread_self()))
        return;
    atomic_store(&l->is_poked, true);
    io_wake(l->io);
}

/* --- the ready queue ------------------------------------------------------------------------------------------------- */

static int
ready_grow(struct ready *q)
{
    size_t cap = q->cap != 0 ? q->cap * 2 : READY_CAP_FIRST;
    PyObject **items = malloc(cap * sizeof(PyObject *));
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < q->count; i++)
        items[i] = q->items[(q->head + i) & (q->cap - 1)];
    free(q->items);
    q->items = items;
    q->cap = cap;
    q->head = 0;
    return 0;
}

int
loop_push(struct loop *l, PyObject *handle)
{
    struct ready *q = &l->ready;
    if (UNLIKELY(q->count == q->cap) && ready_grow(q) < 0) {
        Py_DECREF(handle);
        return -1;
    }
    q->items[(q->head + q->count) & (q->cap - 1)] = handle;
    __atomic_store_n(&q->count, q->count + 1, __ATOMIC_RELAXED);
    return 0;
}

/* The oldest: the queue's reference becomes the caller's. The queue is not empty. */
static PyObject *
ready_pop(struct ready *q)
{
    PyObject *handle = q->items[q->head];
    q->head = (q->head + 1) & (q->cap - 1);
    __atomic_store_n(&q->count, q->count - 1, __ATOMIC_RELAXED);
    return handle;
}

/* --- posts ------------------------------------------------------------------------------------------------------------- */

void
loop_post(PyObject *loop, struct post *post)
{
    struct loop *l = loop_of(loop);

    atomic_fetch_add(&l->posting, 1); /* close waits for us before it frees the io */
    struct post *head = atomic_load(&l->posts);
    do {
        if (head == POSTS_CLOSED) {
            atomic_fetch_sub(&l->posting, 1);
            PyGILState_STATE gil = PyGILState_Ensure();
            post->fn(post, NULL);
            PyGILState_Release(gil);
            return;
        }
        post->next = head;
    } while (!atomic_compare_exchange_weak(&l->posts, &head, post));
    struct io *io = __atomic_load_n(&l->io, __ATOMIC_SEQ_CST);
    if (io != NULL) /* else the loop looks at its posts before it first waits */
        io_wake(io);
    atomic_fetch_sub(&l->posting, 1);
}

/* Takes all posts, oldest first. */
static struct post *
posts_take(struct loop *l, struct post *leave)
{
    struct post *newest = atomic_exchange(&l->posts, leave);
    struct post *oldest = NULL;
    while (newest != NULL && newest != POSTS_CLOSED) {
        struct post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

static int
run_posts(struct loop *l)
{
    if (atomic_load_explicit(&l->posts, memory_order_relaxed) == NULL)
        return 0;
    PyObject *fatal = NULL; /* SystemExit, KeyboardInterrupt: the other posts still run */
    struct post *post = posts_take(l, NULL);
    while (post != NULL) {
        struct post *next = post->next; /* fn may free it */
        post->fn(post, (PyObject *)l);
        post = next;
        if (!PyErr_Occurred() || loop_report((PyObject *)l, "Exception in work from another thread") == 0)
            continue;
        PyObject *exception = PyErr_GetRaisedException();
        if (fatal == NULL)
            fatal = exception;
        else
            Py_XDECREF(exception);
    }
    if (fatal == NULL)
        return 0;
    PyErr_SetRaisedException(fatal);
    return -1;
}

/* --- a turn -------------------------------------------------------------------------------------------------------------- */

/* Is there something for Python to do? Any GIL state. */
static bool
needs_python(struct loop *l)
{
    if (__atomic_load_n(&l->ready.count, __ATOMIC_RELAXED) > 0 ||
        atomic_load_explicit(&l->posts, memory_order_relaxed) != NULL ||
        atomic_load_explicit(&l->is_poked, memory_order_relaxed) || !list_is_empty(&l->fds_ready) ||
        __atomic_load_n(&l->fds_have_changed, __ATOMIC_RELAXED) ||
        __atomic_load_n(&l->is_stopping, __ATOMIC_RELAXED))
        return true;
    return l->client != NULL && l->client->has_work != NULL && l->client->has_work(l->client_self);
}

/* For io_wait(); any GIL state. */
static int64_t
wait_ns(struct loop *l)
{
    if (needs_python(l))
        return 0;
    int64_t next = __atomic_load_n(&l->timers.next_ns, __ATOMIC_RELAXED);
    if (l->client != NULL && l->client->next_ns != NULL) {
        int64_t client_next = l->client->next_ns(l->client_self);
        if (client_next == 0)
            return 0;
        if (client_next > 0 && client_next < next)
            next = client_next;
    }
    if (next == INT64_MAX)
        return -1;
    int64_t left = next - clock_ns();
    return left <= 0 ? 0 : left < wait_ns_max ? left : wait_ns_max;
}

static void
client_flush(struct loop *l)
{
    if (l->client != NULL && l->client->flush != NULL)
        l->client->flush(l->client_self);
}

/* Phases 4, 1 and 2: until there is something for Python. */
static void
turn_io(struct loop *l)
{
    PyThreadState *released = NULL;

    for (;;) {
        client_flush(l);
        int64_t timeout = wait_ns(l);
        if (released == NULL &&
            (timeout != 0 || atomic_load_explicit(&l->helpers, memory_order_relaxed) > 0))
            released = PyEval_SaveThread();
        int events = io_wait(l->io, timeout);
        if (l->client != NULL && l->client->turn != NULL)
            l->client->turn(l->client_self);
        if (released == NULL)
            return;
        /* No events: a timer, a wake-up, or a signal that a Python handler may wait for. */
        if (events <= 0 || needs_python(l))
            break;
        int64_t next = __atomic_load_n(&l->timers.next_ns, __ATOMIC_RELAXED);
        if (next != INT64_MAX && next <= clock_ns())
            break;
    }
    PyEval_RestoreThread(released);
}

static int
run_timers(struct loop *l)
{
    if (l->timers.count == 0)
        return 0;
    double end = (double)clock_ns() * 1e-9 + clock_resolution_s;
    struct timer_handle *h;
    while ((h = timers_pop(&l->timers, end)) != NULL)
        if (loop_push(l, (PyObject *)h) < 0)
            return -1;
    return 0;
}

/* A handle that is not ours: asyncio.Handle, given to _add_callback(). */
static int
run_foreign(struct loop *l, PyObject *handle)
{
    PY_OWNED PyObject *cancelled = PyObject_GetAttr(handle, l->state->s__cancelled);
    if (cancelled == NULL)
        return -1;
    int is_cancelled = PyObject_IsTrue(cancelled);
    if (is_cancelled != 0)
        return is_cancelled < 0 ? -1 : 0;
    PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(handle, l->state->s__run);
    return done != NULL ? 0 : -1;
}

static int
run_handle(struct loop *l, PyObject *handle)
{
    PyTypeObject *type = Py_TYPE(handle);
    if (LIKELY(type == l->state->handle_type || type == l->state->timer_type)) {
        struct handle *h = (struct handle *)handle;
        return h->cancelled ? 0 : handle_run(h);
    }
    return run_foreign(l, handle);
}

/* Debug mode: the handle is visible while it runs, and a slow one is reported. */
static int
run_handle_debug(struct loop *l, PyObject *handle)
{
    Py_XSETREF(l->current_handle, Py_NewRef(handle));
    int err = run_handle(l, handle);
    PyObject *exception = err < 0 ? PyErr_GetRaisedException() : NULL;
    int64_t spent = clock_ns() - l->step_ns;
    Py_CLEAR(l->current_handle);
    if (err < 0) {
        PyErr_SetRaisedException(exception);
        return -1;
    }
    PY_OWNED PyObject *limit = PyObject_GetAttr((PyObject *)l, l->state->s_slow_callback_duration);
    double limit_s = limit != NULL ? PyFloat_AsDouble(limit) : -1;
    if (PyErr_Occurred())
        return -1;
    if ((double)spent * 1e-9 < limit_s)
        return 0;
    PY_OWNED PyObject *seconds = PyFloat_FromDouble((double)spent * 1e-9);
    if (seconds == NULL)
        return -1;
    PY_OWNED PyObject *done = PyObject_CallMethodObjArgs((PyObject *)l, l->state->s__slow_callback, handle, seconds, NULL);
    return done != NULL ? 0 : -1;
}

/* The handles that are ready now; what they make ready waits for the next turn. */
static int
run_ready(struct loop *l)
{
    for (size_t todo = l->ready.count; todo > 0 && l->ready.count > 0; todo--) {
        PyObject *handle = ready_pop(&l->ready);
        l->step_ns = clock_ns();
        int err = UNLIKELY(l->is_debug) ? run_handle_debug(l, handle) : run_handle(l, handle);
        Py_DECREF(handle);
        if (UNLIKELY(err < 0))
            return -1;
        if (UNLIKELY(l->is_orphan)) {
            PyErr_SetString(PyExc_RuntimeError, "a callback of the event loop forked, and its child returned into the loop");
            return -1;
        }
        if (l->client != NULL && io_queued(l->io) >= SENDS_QUEUED_MAX) {
            client_flush(l);
            io_flush(l->io);
        }
    }
    return 0;
}

/* Phase 3. Deliveries come first: no Python may run between an event and the handle that it makes ready, or the descriptor could
 * be another file by then. */
static int
turn_python(struct loop *l)
{
    atomic_store_explicit(&l->is_poked, false, memory_order_relaxed);
    if (fds_deliver(l) < 0)
        return -1;
    if (l->fds_have_changed)
        fds_apply_changed(l);
    if (PyErr_CheckSignals() < 0 || run_posts(l) < 0)
        return -1;
    if (l->client != NULL && l->client->run != NULL &&
        (l->client->has_work == NULL || l->client->has_work(l->client_self))) {
        l->step_ns = clock_ns();
        if (l->client->run(l->client_self) < 0)
            return -1;
    }
    if (run_timers(l) < 0)
        return -1;
    return run_ready(l);
}

static int
turn(struct loop *l)
{
    turn_io(l);
    return turn_python(l);
}

static int
run_begin(struct loop *l)
{
    if (loop_check_open(l) < 0)
        return -1;
    if (l->is_turning) {
        PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
        return -1;
    }
    if (loop_open_io(l) < 0)
        return -1;
    l->is_turning = true;
    return 0;
}

static PyObject *
meth_run(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    if (run_begin(l) < 0)
        return NULL;
    int err;
    do
        err = turn(l);
    while (err == 0 && !l->is_stopping);
    l->is_turning = false;
    client_flush(l); /* what the last turn wrote */
    return err == 0 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
meth_run_once(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    if (run_begin(l) < 0)
        return NULL;
    int err = turn(l);
    l->is_turning = false;
    client_flush(l);
    return err == 0 ? Py_NewRef(Py_None) : NULL;
}

/* --- callbacks --------------------------------------------------------------------------------------------------------- */

int
loop_check_open(struct loop *l)
{
    if (LIKELY(!l->is_closed))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    return -1;
}

/* The one keyword that the call_* methods take. *context is borrowed, NULL where there is none. */
static int
parse_context(struct loop *l, const char *method, PyObject *const *values, PyObject *kwnames,
              PyObject **context)
{
    *context = NULL;
    if (kwnames == NULL)
        return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (name != l->state->s_context) {
            int same = PyObject_RichCompareBool(name, l->state->s_context, Py_EQ);
            if (same < 0)
                return -1;
            if (!same) {
                PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", method, name);
                return -1;
            }
        }
        if (values[i] != Py_None)
            *context = values[i];
    }
    if (*context != NULL && !PyContext_CheckExact(*context)) {
        PyErr_Format(PyExc_TypeError, "%s(): context must be a contextvars.Context, not %.100s", method,
                     Py_TYPE(*context)->tp_name);
        return -1;
    }
    return 0;
}

/* Debug mode: asyncio's own checks of thread and callback. */
static int
check_debug(struct loop *l, PyObject *callback, PyObject *method, bool check_thread)
{
    if (check_thread) {
        PY_OWNED PyObject *thread = PyObject_CallMethodNoArgs((PyObject *)l, l->state->s__check_thread);
        if (thread == NULL)
            return -1;
    }
    PY_OWNED PyObject *checked =
        PyObject_CallMethodObjArgs((PyObject *)l, l->state->s__check_callback, callback, method, NULL);
    return checked != NULL ? 0 : -1;
}

static int
missing(const char *method, const char *what)
{
    PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", method, what);
    return -1;
}

static PyObject *
meth_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 1 && missing("call_soon", "callback") < 0)
        return NULL;
    if (loop_check_open(l) < 0 || parse_context(l, "call_soon", args + n, kwnames, &context) < 0)
        return NULL;
    if (UNLIKELY(context != NULL && context == l->grab_context && n == 1)) {
        Py_XSETREF(l->grabbed, Py_NewRef(args[0])); /* task_start() runs it at once */
        l->grab_context = NULL;
        Py_RETURN_NONE;
    }
    if (UNLIKELY(l->is_debug) && check_debug(l, args[0], l->state->s_call_soon, true) < 0)
        return NULL;
    PyObject *handle = (PyObject *)handle_new(l, args[0], args + 1, n - 1, context);
    if (handle == NULL || loop_push(l, Py_NewRef(handle)) < 0) {
        Py_XDECREF(handle);
        return NULL;
    }
    return handle;
}

static PyObject *
meth_call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 1 && missing("call_soon_threadsafe", "callback") < 0)
        return NULL;
    if (loop_check_open(l) < 0 || parse_context(l, "call_soon_threadsafe", args + n, kwnames, &context) < 0)
        return NULL;
    if (UNLIKELY(l->is_debug) && check_debug(l, args[0], l->state->s_call_soon_threadsafe, false) < 0)
        return NULL;
    PyObject *handle = (PyObject *)handle_new(l, args[0], args + 1, n - 1, context);
    if (handle == NULL || loop_push(l, Py_NewRef(handle)) < 0) {
        Py_XDECREF(handle);
        return NULL;
    }
    loop_poke(l);
    return handle;
}

static PyObject *
call_at(struct loop *l, double when, PyObject *const *args, Py_ssize_t n, PyObject *context)
{
    if (isnan(when)) {
        PyErr_SetString(PyExc_ValueError, "a time must not be NaN");
        return NULL;
    }
    PyObject *timer = (PyObject *)timer_new(l, when, args[1], args + 2, n - 2, context);
    if (timer != NULL && timers_push(&l->timers, (struct timer_handle *)timer) < 0)
        Py_CLEAR(timer);
    return timer;
}

static PyObject *
meth_call_later(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 2 && missing("call_later", n < 1 ? "delay" : "callback") < 0)
        return NULL;
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    if (loop_check_open(l) < 0 || parse_context(l, "call_later", args + n, kwnames, &context) < 0)
        return NULL;
    double delay = PyFloat_AsDouble(args[0]);
    if (delay == -1.0 && PyErr_Occurred())
        return NULL;
    if (UNLIKELY(l->is_debug) && check_debug(l, args[1], l->state->s_call_later, true) < 0)
        return NULL;
    return call_at(l, (double)clock_ns() * 1e-9 + delay, args, n, context);
}

static PyObject *
meth_call_at(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 2 && missing("call_at", n < 1 ? "when" : "callback") < 0)
        return NULL;
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    if (loop_check_open(l) < 0 || parse_context(l, "call_at", args + n, kwnames, &context) < 0)
        return NULL;
    double when = PyFloat_AsDouble(args[0]);
    if (when == -1.0 && PyErr_Occurred())
        return NULL;
    if (UNLIKELY(l->is_debug) && check_debug(l, args[1], l->state->s_call_at, true) < 0)
        return NULL;
    return call_at(l, when, args, n, context);
}

static PyObject *
meth_add_callback(PyObject *self, PyObject *handle)
{
    struct loop *l = loop_of(self);
    PY_OWNED PyObject *cancelled = PyObject_GetAttr(handle, l->state->s__cancelled);
    int is_cancelled = cancelled != NULL ? PyObject_IsTrue(cancelled) : -1;
    if (is_cancelled < 0 || (!is_cancelled && loop_push(l, Py_NewRef(handle)) < 0))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
meth_write_to_self(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    atomic_store(&l->is_poked, true);
    if (l->io != NULL)
        io_wake(l->io);
    Py_RETURN_NONE;
}

static PyObject *
meth_add_callback_signalsafe(PyObject *self, PyObject *handle)
{
    PY_OWNED PyObject *added = meth_add_callback(self, handle);
    return added != NULL ? meth_write_to_self(self, NULL) : NULL;
}

/* asyncio.TimerHandle.cancel() tells its loop; our own timers do not come this way. */
static PyObject *
meth_timer_handle_cancelled(PyObject *self, PyObject *handle)
{
    (void)self;
    (void)handle;
    Py_RETURN_NONE;
}

int
loop_call_soon(PyObject *loop, PyObject *callback, PyObject *context)
{
    struct loop *l = loop_of(loop);
    if (loop_check_open(l) < 0)
        return -1;
    struct handle *h = handle_new(l, callback, NULL, 0, context);
    return h != NULL ? loop_push(l, (PyObject *)h) : -1;
}

/* --- small methods ------------------------------------------------------------------------------------------------------- */

static PyObject *
meth_time(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyFloat_FromDouble((double)clock_ns() * 1e-9);
}

static PyObject *
meth_stop(PyObject *self, PyObject *unused)
{
    (void)unused;
    __atomic_store_n(&loop_of(self)->is_stopping, true, __ATOMIC_RELAXED);
    Py_RETURN_NONE;
}

static PyObject *
meth_is_running(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(loop_of(self)->thread_id != NULL);
}

static PyObject *
meth_is_closed(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(loop_of(self)->is_closed);
}

static PyObject *
meth_get_debug(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(loop_of(self)->is_debug);
}

static PyObject *
meth_check_closed(PyObject *self, PyObject *unused)
{
    (void)unused;
    return loop_check_open(loop_of(self)) == 0 ? Py_NewRef(Py_None) : NULL;
}

PyObject *
loop_create_future(PyObject *loop)
{
    struct loop *l = loop_of(loop);
    if (l->future_kwargs == NULL) {
        l->future_kwargs = PyDict_New();
        if (l->future_kwargs == NULL || PyDict_SetItem(l->future_kwargs, l->state->s_loop, loop) < 0) {
            Py_CLEAR(l->future_kwargs);
            return NULL;
        }
    }
    /* A dict made once: by vectorcall the type would build one for every future. */
    return PyObject_Call(l->state->future_type, l->state->empty_tuple, l->future_kwargs);
}

static PyObject *
meth_create_future(PyObject *self, PyObject *unused)
{
    (void)unused;
    return loop_create_future(self);
}

int
loop_report(PyObject *loop, const char *message)
{
    PyObject *exception = PyErr_GetRaisedException();
    PY_OWNED PyObject *text = PyUnicode_FromString(message);
    if (text == NULL) {
        Py_XDECREF(exception);
        return -1;
    }
    PyErr_SetRaisedException(exception);
    return py_report(loop_of(loop), text, NULL);
}

/* object.name(*args) */
static PyObject *
call_method(PyObject *object, PyObject *name, PyObject *const *args, Py_ssize_t n)
{
    PyObject *few[8];
    PyObject **stack = few;
    if ((size_t)n >= ARRAY_LEN(few)) {
        stack = PyMem_Malloc((size_t)(n + 1) * sizeof *stack);
        if (stack == NULL)
            return PyErr_NoMemory();
    }
    stack[0] = object;
    memcpy(stack + 1, args, (size_t)n * sizeof *stack);
    PyObject *result = PyObject_VectorcallMethod(name, stack, (size_t)n + 1, NULL);
    if (stack != few)
        PyMem_Free(stack);
    return result;
}

/* run_in_executor(executor, func, *args): straight to the C pool where the executor is None and the user has set none; the rest (no
 * pool yet, another executor, debug mode's checks) is Loop._run_in_executor() in Python. */
static PyObject *
meth_run_in_executor(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct loop *l = loop_of(self);
    if (n < 2 && missing("run_in_executor", n < 1 ? "executor" : "func") < 0)
        return NULL;
    if (loop_check_open(l) < 0)
        return NULL;
    if (args[0] == Py_None && l->pool != NULL && l->default_executor == NULL && !l->is_debug)
        return call_method(l->pool, l->state->s_submit, args + 1, n - 1);
    return call_method(self, l->state->s__run_in_executor, args, n);
}

static PyObject *
meth_open(PyObject *self, PyObject *arg)
{
    struct loop *l = loop_of(self);
    const char *name = PyUnicode_AsUTF8(arg);
    if (name == NULL)
        return NULL;
    if (strcmp(name, "auto") == 0)
        l->want = IO_AUTO;
    else if (strcmp(name, "io_uring") == 0)
        l->want = IO_URING;
    else if (strcmp(name, "epoll") == 0)
        l->want = IO_EPOLL;
    else {
        PyErr_Format(PyExc_ValueError, "io must be 'auto', 'io_uring' or 'epoll', not %R", arg);
        return NULL;
    }
    /* What was asked for by name is refused now and not in the middle of the first run. */
    if (l->want == IO_URING && loop_open_io(l) < 0)
        return NULL;
    l->is_open = true;
    Py_RETURN_NONE;
}

static PyObject *
get_io(PyObject *self, void *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    if (loop_check_open(l) < 0 || (l->io == NULL && loop_open_io(l) < 0))
        return NULL;
    return PyUnicode_FromString(io_name(l->io));
}

static PyObject *
get_io_why(PyObject *self, void *unused)
{
    (void)unused;
    return PyUnicode_DecodeUTF8(loop_of(self)->io_why, (Py_ssize_t)strlen(loop_of(self)->io_why), "replace");
}

/* --- what asyncio's base classes read and write as attributes ------------------------------------------------------------ */

enum field { FIELD_THREAD_ID, FIELD_CURRENT_HANDLE, FIELD_DEFAULT_EXECUTOR, FIELD_EXECUTOR_POOL };

static PyObject **
field_of(PyObject *self, void *closure)
{
    struct loop *l = loop_of(self);
    switch ((enum field)(intptr_t)closure) {
    case FIELD_THREAD_ID:
        return &l->thread_id;
    case FIELD_CURRENT_HANDLE:
        return &l->current_handle;
    case FIELD_DEFAULT_EXECUTOR:
        return &l->default_executor;
    case FIELD_EXECUTOR_POOL:
        break;
    }
    return &l->pool;
}

static PyObject *
get_object(PyObject *self, void *closure)
{
    PyObject *value = *field_of(self, closure);
    return Py_NewRef(value != NULL ? value : Py_None);
}

static int
set_object(PyObject *self, PyObject *value, void *closure)
{
    PyObject **field = field_of(self, closure);
    Py_XSETREF(*field, value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static bool *
flag_of(PyObject *self, void *closure)
{
    return (bool *)((char *)self + (intptr_t)closure);
}

static PyObject *
get_flag(PyObject *self, void *closure)
{
    return PyBool_FromLong(*flag_of(self, closure));
}

static int
set_flag(PyObject *self, PyObject *value, void *closure)
{
    int on = value != NULL ? PyObject_IsTrue(value) : 0;
    if (on < 0)
        return -1;
    __atomic_store_n(flag_of(self, closure), on != 0, __ATOMIC_RELAXED);
    return 0;
}

/* A list of what is queued, for those who look. */
static PyObject *
get_ready(PyObject *self, void *unused)
{
    (void)unused;
    struct ready *q = &loop_of(self)->ready;
    PY_OWNED PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < q->count; i++)
        if (PyList_Append(list, q->items[(q->head + i) & (q->cap - 1)]) < 0)
            return NULL;
    return py_take(&list);
}

static PyObject *
get_scheduled(PyObject *self, void *unused)
{
    (void)unused;
    struct timers *t = &loop_of(self)->timers;
    PY_OWNED PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < t->count; i++)
        if (PyList_Append(list, (PyObject *)t->heap[i].handle) < 0)
            return NULL;
    return py_take(&list);
}

/* BaseEventLoop.__init__() puts its own containers here; they would stay empty. */
static int
set_ignored(PyObject *self, PyObject *value, void *unused)
{
    (void)self;
    (void)value;
    (void)unused;
    return 0;
}

/* --- the seam to the server ----------------------------------------------------------------------------------------------- */

void
loop_attach(PyObject *loop, const struct loop_client *client, void *self)
{
    struct loop *l = loop_of(loop);
    l->client = client;
    l->client_self = self;
}

struct io *
loop_io(PyObject *loop)
{
    struct loop *l = loop_of(loop);
    if (loop_check_open(l) < 0 || loop_open_io(l) < 0)
        return NULL;
    return l->io;
}

int64_t
loop_step_ns(PyObject *loop)
{
    return loop_of(loop)->step_ns;
}

void
loop_step_begin(PyObject *loop)
{
    loop_of(loop)->step_ns = clock_ns();
}

void
loop_helper_begin(PyObject *loop)
{
    atomic_fetch_add_explicit(&loop_of(loop)->helpers, 1, memory_order_relaxed);
}

void
loop_helper_end(PyObject *loop)
{
    atomic_fetch_sub_explicit(&loop_of(loop)->helpers, 1, memory_order_relaxed);
}

/* --- life ----------------------------------------------------------------------------------------------------------------- */

static PyObject *
loop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args; /* __init__'s */
    (void)kwargs;
    struct loop *l = (struct loop *)type->tp_alloc(type, 0);
    if (l == NULL)
        return NULL;
    list_init(&l->all);
    list_init(&l->fds_ready);
    timers_init(&l->timers);
    l->state = py_state_of_type(type);
    if (l->state == NULL) {
        Py_DECREF(l);
        return NULL;
    }
    list_add_tail(&all_loops, &l->all);
    watch_forks();
    return (PyObject *)l;
}

static void
drop_queued(struct loop *l)
{
    while (l->ready.count > 0)
        Py_DECREF(ready_pop(&l->ready)); /* may run Python, which may queue more */
    timers_clear(&l->timers);
}

static int
loop_clear(PyObject *self)
{
    struct loop *l = loop_of(self);
    l->is_closed = true; /* what is dropped here must not queue more */
    drop_queued(l);
    fds_clear(l);
    Py_CLEAR(l->grabbed);
    Py_CLEAR(l->thread_id);
    Py_CLEAR(l->current_handle);
    Py_CLEAR(l->default_executor);
    Py_CLEAR(l->pool);
    Py_CLEAR(l->future_kwargs);
    Py_CLEAR(l->task_kwargs);
    return 0;
}

static int
loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct loop *l = loop_of(self);
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < l->ready.count; i++)
        Py_VISIT(l->ready.items[(l->ready.head + i) & (l->ready.cap - 1)]);
    for (size_t i = 0; i < l->timers.count; i++)
        Py_VISIT(l->timers.heap[i].handle);
    Py_VISIT(l->grabbed);
    Py_VISIT(l->current_handle);
    Py_VISIT(l->default_executor);
    Py_VISIT(l->pool);
    Py_VISIT(l->future_kwargs);
    Py_VISIT(l->task_kwargs);
    return fds_traverse(l, visit, arg);
}

/* Everything that is not Python: posts, the io. */
static void
shut(struct loop *l)
{
    struct post *post = posts_take(l, POSTS_CLOSED);
    while (post != NULL) {
        struct post *next = post->next;
        post->fn(post, NULL);
        if (PyErr_Occurred())
            PyErr_WriteUnraisable((PyObject *)l);
        post = next;
    }
    close_io(l);
}

static PyObject *
meth_close_core(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    if (l->is_turning) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot close a running event loop");
        return NULL;
    }
    l->is_closed = true;
    l->client = NULL;
    shut(l);
    drop_queued(l);
    fds_clear(l);
    fds_free(l);
    Py_RETURN_NONE;
}

static void
loop_dealloc(PyObject *self)
{
    struct loop *l = loop_of(self);
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    PyObject *pending = PyErr_GetRaisedException();
    l->is_closed = true;
    shut(l);
    loop_clear(self);
    PyErr_SetRaisedException(pending);
    fds_free(l);
    timers_fini(&l->timers);
    free(l->ready.items);
    list_del(&l->all);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef loop_methods[] = {
    { "call_soon", FAST(meth_call_soon), METH_FASTCALL | METH_KEYWORDS,
      "Call callback(*args) in the next turn of the loop." },
    { "call_soon_threadsafe", FAST(meth_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
      "As call_soon(), from any thread." },
    { "call_later", FAST(meth_call_later), METH_FASTCALL | METH_KEYWORDS,
      "Call callback(*args) after delay seconds." },
    { "call_at", FAST(meth_call_at), METH_FASTCALL | METH_KEYWORDS,
      "Call callback(*args) at a time of loop.time()'s clock." },
    { "time", meth_time, METH_NOARGS, "The loop's clock, in seconds: time.monotonic()." },
    { "stop", meth_stop, METH_NOARGS, "Leave run_forever() at the end of this turn." },
    { "is_running", meth_is_running, METH_NOARGS, "True between the beginning and the end of run_forever()." },
    { "is_closed", meth_is_closed, METH_NOARGS, "True after close()." },
    { "get_debug", meth_get_debug, METH_NOARGS, "True in asyncio's debug mode." },
    { "create_future", meth_create_future, METH_NOARGS, "A new asyncio.Future of this loop." },
    { "run_in_executor", FAST(meth_run_in_executor), METH_FASTCALL,
      "Call func(*args) in a thread; the result is a future." },
    { "_add_callback", meth_add_callback, METH_O, NULL },
    { "_add_callback_signalsafe", meth_add_callback_signalsafe, METH_O, NULL },
    { "_timer_handle_cancelled", meth_timer_handle_cancelled, METH_O, NULL },
    { "_write_to_self", meth_write_to_self, METH_NOARGS, NULL },
    { "_check_closed", meth_check_closed, METH_NOARGS, NULL },
    { "_add_reader", FAST(fds_add_reader), METH_FASTCALL, NULL },
    { "_add_writer", FAST(fds_add_writer), METH_FASTCALL, NULL },
    { "_remove_reader", fds_remove_reader, METH_O, NULL },
    { "_remove_writer", fds_remove_writer, METH_O, NULL },
    { "_fd_handles", fds_events, METH_O, "(reader, writer): the handles of a descriptor, or None." },
    { "_run", meth_run, METH_NOARGS, "Turn until stop()." },
    { "_run_once", meth_run_once, METH_NOARGS, "One turn." },
    { "_open", meth_open, METH_O, "Choose the I/O backend: 'auto', 'io_uring' or 'epoll'." },
    { "_close_core", meth_close_core, METH_NOARGS, "Drop everything and close the I/O backend." },
    { NULL, NULL, 0, NULL },
};

#define FIELD(field) ((void *)(intptr_t)(field))
#define FLAG(member) ((void *)offsetof(struct loop, member))

static PyGetSetDef loop_getset[] = {
    { "io", get_io, NULL, "The I/O backend: 'io_uring' or 'epoll'.", NULL },
    { "io_why", get_io_why, NULL, "Why it is this one, where 'auto' had to fall back; else ''.", NULL },
    { "_thread_id", get_object, set_object, NULL, FIELD(FIELD_THREAD_ID) },
    { "_current_handle", get_object, set_object, NULL, FIELD(FIELD_CURRENT_HANDLE) },
    { "_default_executor", get_object, set_object, NULL, FIELD(FIELD_DEFAULT_EXECUTOR) },
    { "_executor_pool", get_object, set_object, NULL, FIELD(FIELD_EXECUTOR_POOL) },
    { "_closed", get_flag, set_flag, NULL, FLAG(is_closed) },
    { "_stopping", get_flag, set_flag, NULL, FLAG(is_stopping) },
    { "_debug", get_flag, set_flag, NULL, FLAG(is_debug) },
    { "_ready", get_ready, set_ignored, "The queued handles, as a list.", NULL },
    { "_scheduled", get_scheduled, set_ignored, "The timers, as a list in no order.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot loop_slots[] = {
    { Py_tp_doc, "The C half of ringcorn.loop.Loop." },
    { Py_tp_new, loop_new },
    { Py_tp_dealloc, loop_dealloc },
    { Py_tp_traverse, loop_traverse },
    { Py_tp_clear, loop_clear },
    { Py_tp_methods, loop_methods },
    { Py_tp_getset, loop_getset },
    { 0, NULL },
};

PyType_Spec loop_spec = {
    .name = "_ringcorn.LoopCore",
    .basicsize = sizeof(struct loop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_slots,
};
