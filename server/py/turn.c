/* turn.c: one turn of the loop: the wait, then the Python phase. py.h has the order of the phases.
 *
 * The GIL. A turn gives it away before io_wait() only where the wait may block or another thread of
 * ours runs Python: a release with work at hand can cost a whole switch interval (5 ms) when some
 * thread computes. It is taken back once a turn, and not at all when what happened concerned C
 * alone (bytes of a half-read request, a send that completed). gil.c has how.
 *
 * Runs on:  the loop's thread with the GIL, unless a function says otherwise. */
#include "py/private.h"

#include <stdlib.h>

enum {
    READY_CAP_FIRST = 64,
    /* Output waits no longer than this for the end of phase 3. One batch a turn costs the least, but the first answer of a
     * turn must not wait for the last: sixty-four of a slow framework take milliseconds. */
    FLUSH_NS = 200 * 1000,
};

static const int64_t wait_ns_max = 24 * 3600 * NS_PER_S; /* asyncio's MAXIMUM_SELECT_TIMEOUT */

/* Timers that are due within it run now, as in asyncio. */
static const double clock_resolution_s = 1e-9;

/* The end of the list of posts of a loop that takes no more. */
static struct post posts_closed;
#define POSTS_CLOSED (&posts_closed)

/* --- the ready queue -------------------------------------------------------------------------- */

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

/* The one that is so many places behind the head; as ready_pop(). */
static PyObject *
ready_take(struct ready *q, size_t place)
{
    size_t mask = q->cap - 1;
    PyObject *handle = q->items[(q->head + place) & mask];
    for (; place > 0; place--)
        q->items[(q->head + place) & mask] = q->items[(q->head + place - 1) & mask];
    q->head = (q->head + 1) & mask;
    __atomic_store_n(&q->count, q->count - 1, __ATOMIC_RELAXED);
    return handle;
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

void
loop_drop_ready(struct loop *l)
{
    while (l->ready.count > 0)
        Py_DECREF(ready_pop(&l->ready)); /* may queue more */
}

/* --- posts ------------------------------------------------------------------------------------ */

/* False: the loop takes no more. */
static bool
posts_add(struct loop *l, _Atomic(struct post *) *posts, struct post *post)
{
    atomic_fetch_add(&l->posting, 1); /* close waits for us before it frees the io */
    struct post *head = atomic_load(posts);
    do {
        if (head == POSTS_CLOSED) {
            atomic_fetch_sub(&l->posting, 1);
            return false;
        }
        post->next = head;
    } while (!atomic_compare_exchange_weak(posts, &head, post));
    struct io *io = __atomic_load_n(&l->io, __ATOMIC_SEQ_CST);
    if (io != NULL) /* else the loop looks at its posts before it first waits */
        io_wake(io);
    atomic_fetch_sub(&l->posting, 1);
    return true;
}

void
loop_wake(PyObject *loop)
{
    struct loop *l = loop_of(loop);
    atomic_fetch_add(&l->posting, 1);
    atomic_store(&l->is_turn_wanted, true);
    struct io *io = __atomic_load_n(&l->io, __ATOMIC_SEQ_CST);
    if (io != NULL)
        io_wake(io);
    atomic_fetch_sub(&l->posting, 1);
}

bool
loop_do_late(PyObject *loop, struct loop_late *late)
{
    struct loop *l = loop_of(loop);
    if (!loop_runs_here(loop) || l->is_released)
        return false;
    if (!late->is_noted) {
        late->is_noted = true;
        late->next = l->late;
        l->late = late;
    }
    return true;
}

static void
do_late(struct loop *l)
{
    while (l->late != NULL) {
        struct loop_late *late = l->late;
        l->late = late->next;
        late->is_noted = false;
        late->fn(late);
    }
}

void
loop_post(PyObject *loop, struct post *post)
{
    struct loop *l = loop_of(loop);
    if (LIKELY(posts_add(l, &l->posts, post)))
        return;
    PyGILState_STATE gil = PyGILState_Ensure();
    post->fn(post, NULL);
    PyGILState_Release(gil);
}

void
loop_post_here(PyObject *loop, struct post *post)
{
    struct loop *l = loop_of(loop);
    struct post *head = atomic_load_explicit(&l->posts, memory_order_relaxed);
    do {
        ASSERT(head != POSTS_CLOSED); /* a closed loop's io calls nobody back */
        post->next = head;
    } while (!atomic_compare_exchange_weak(&l->posts, &head, post));
}

void
loop_post_io(PyObject *loop, struct post *post)
{
    struct loop *l = loop_of(loop);
    if (UNLIKELY(!posts_add(l, &l->io_posts, post)))
        post->fn(post, NULL);
}

void
loop_post_back(struct loop *l, struct post *post)
{
    struct post *head = atomic_load(&l->posts);
    do {
        ASSERT(head != POSTS_CLOSED); /* the loop turns */
        post->next = head;
    } while (!atomic_compare_exchange_weak(&l->posts, &head, post));
}

/* Takes all posts, oldest first. */
static struct post *
posts_take(_Atomic(struct post *) *posts, struct post *leave)
{
    struct post *newest = atomic_exchange(posts, leave);
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
    struct post *post = posts_take(&l->posts, NULL);
    if (UNLIKELY(l->shake != NULL))
        post = shake_posts(l, post);
    while (post != NULL) {
        struct post *next = post->next; /* fn may free it */
        post->fn(post, (PyObject *)l);
        post = next;
        if (!PyErr_Occurred() ||
            loop_report((PyObject *)l, "Exception in work from another thread") == 0)
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

/* Phase 2. True where there was something. */
static bool
run_io_posts(struct loop *l)
{
    if (atomic_load_explicit(&l->io_posts, memory_order_relaxed) == NULL)
        return false;
    struct post *post = posts_take(&l->io_posts, NULL);
    while (post != NULL) {
        struct post *next = post->next; /* fn may free it */
        post->fn(post, (PyObject *)l);
        post = next;
    }
    return true;
}

void
loop_end_posts(struct loop *l)
{
    struct post *post = posts_take(&l->io_posts, POSTS_CLOSED);
    while (post != NULL) {
        struct post *next = post->next;
        post->fn(post, NULL);
        post = next;
    }
    post = posts_take(&l->posts, POSTS_CLOSED);
    while (post != NULL) {
        struct post *next = post->next;
        post->fn(post, NULL);
        if (PyErr_Occurred())
            PyErr_WriteUnraisable((PyObject *)l);
        post = next;
    }
}

/* --- a turn ----------------------------------------------------------------------------------- */

/* Is there something for Python to do? Any GIL state. */
static bool
needs_python(struct loop *l)
{
    if (__atomic_load_n(&l->ready.count, __ATOMIC_RELAXED) > 0 ||
        atomic_load_explicit(&l->posts, memory_order_relaxed) != NULL ||
        atomic_load_explicit(&l->is_poked, memory_order_relaxed) || !list_is_empty(&l->fds_ready) ||
        !list_is_empty(&l->sources_ready) ||
        __atomic_load_n(&l->sources_have_changed, __ATOMIC_RELAXED) ||
        __atomic_load_n(&l->fds_have_changed, __ATOMIC_RELAXED) ||
        __atomic_load_n(&l->is_stopping, __ATOMIC_RELAXED))
        return true;
    for (size_t i = 0; i < l->clients_n; i++)
        if (l->clients[i].client->has_work != NULL &&
            l->clients[i].client->has_work(l->clients[i].self))
            return true;
    return false;
}

/* For io_wait(); any GIL state. */
static int64_t
wait_ns(struct loop *l, int64_t now_ns)
{
    if (needs_python(l) || atomic_load_explicit(&l->io_posts, memory_order_relaxed) != NULL)
        return 0;
    int64_t next = __atomic_load_n(&l->timers.next_ns, __ATOMIC_RELAXED);
    for (size_t i = 0; i < l->clients_n; i++) {
        if (l->clients[i].client->next_ns == NULL)
            continue;
        int64_t client_next = l->clients[i].client->next_ns(l->clients[i].self);
        if (client_next == 0)
            return 0;
        if (client_next > 0 && client_next < next)
            next = client_next;
    }
    if (next == INT64_MAX)
        return -1;
    int64_t left = next - now_ns;
    return left <= 0 ? 0 : left < wait_ns_max ? left : wait_ns_max;
}

static void
clients_flush(struct loop *l)
{
    for (size_t i = 0; i < l->clients_n; i++)
        if (l->clients[i].client->flush != NULL)
            l->clients[i].client->flush(l->clients[i].self);
}

static void
clients_turn(struct loop *l)
{
    for (size_t i = 0; i < l->clients_n; i++)
        if (l->clients[i].client->turn != NULL)
            l->clients[i].client->turn(l->clients[i].self);
}

static int
clients_run(struct loop *l)
{
    for (size_t i = 0; i < l->clients_n; i++) {
        const struct loop_client *client = l->clients[i].client;
        void *self = l->clients[i].self;
        if (client->run == NULL || (client->has_work != NULL && !client->has_work(self)))
            continue;
        step_begin_many(l);
        if (client->run(self) < 0)
            return -1;
    }
    return 0;
}

static void
flush_if_due(struct loop *l)
{
    if (l->flushed_ns == 0) { /* the first step of this turn: nothing waits yet */
        l->flushed_ns = l->step_ns;
    } else if (UNLIKELY(l->step_ns - l->flushed_ns > FLUSH_NS)) {
        l->flushed_ns = l->step_ns;
        sources_flush(l);
        clients_flush(l);
        io_flush(l->io);
    }
}

void
loop_flush_if_due(PyObject *loop)
{
    flush_if_due(loop_of(loop));
}

static bool
has_posts(struct loop *l)
{
    return atomic_load_explicit(&l->posts, memory_order_relaxed) != NULL ||
           atomic_load_explicit(&l->io_posts, memory_order_relaxed) != NULL ||
           atomic_load_explicit(&l->is_turn_wanted, memory_order_relaxed);
}

/* Before a wait that may block, without the GIL: are there results at once? */
static bool
look_out(struct loop *l, int64_t timeout)
{
    if (atomic_load_explicit(&l->expected, memory_order_relaxed) != 1)
        return false;
    int64_t ns = lookout_ns(&l->lookout);
    if (ns == 0)
        return false;
    if (timeout > 0 && timeout < ns)
        ns = timeout;
    int64_t until = clock_ns() + ns;
    atomic_store(&l->looks_out, true);
    while (!has_posts(l) && clock_ns() < until)
        lookout_pause();
    atomic_store(&l->looks_out, false);
    lookout_note(&l->lookout, has_posts(l));
    return has_posts(l);
}

/* Where nobody has the GIL it is there at once, and the clock need not be asked. */
static void
take_gil(struct loop *l, PyThreadState *released)
{
    bool is_taken = l->gil_locked == NULL || __atomic_load_n(l->gil_locked, __ATOMIC_RELAXED);
    int64_t wanted_ns = is_taken ? clock_ns() : 0;
    pulse_doing(l->metrics, METRICS_WANTS_GIL);
    gil_take(&l->gil, released);
    if (is_taken) {
        l->turn_gil_ns = clock_ns() - wanted_ns;
        metrics_observe(&l->metrics->loop.gil, l->turn_gil_ns);
    } else {
        metrics_add(&l->metrics->loop.gil.buckets[0], 1);
    }
    l->is_released = false;
}

/* Phases 4, 1 and 2 in virtual time: one wait. -1 with an exception set. */
static int
turn_io_virtual(struct loop *l)
{
    int64_t timeout;
    sources_flush(l);
    clients_flush(l);
    if (shake_wait_begin(
            l, needs_python(l) || atomic_load_explicit(&l->io_posts, memory_order_relaxed) != NULL,
            &timeout) < 0)
        return -1;
    int64_t began_ns = clock_ns();
    __atomic_store_n(&l->is_released, true, __ATOMIC_SEQ_CST);
    PyThreadState *released = gil_give(&l->gil);
    do_late(l);
    int events = io_wait(l->io, timeout);
    bool had_posts = run_io_posts(l) | atomic_exchange(&l->is_turn_wanted, false);
    clients_turn(l);
    gil_take(&l->gil, released);
    l->is_released = false;
    if (timeout != 0)
        shake_wait_end(l, clock_ns() - began_ns, events <= 0 && !had_posts && !needs_python(l));
    return 0;
}

/* Phases 4, 1 and 2: until there is something for Python. */
static int
turn_io(struct loop *l)
{
    PyThreadState *released = NULL;

    if (UNLIKELY(l->shake != NULL)) {
        if (shake_is_virtual(l))
            return turn_io_virtual(l);
        shake_stall(l);
    }

    pulse_doing(l->metrics, METRICS_IN_C);
    l->turn_gil_ns = 0;
    sources_flush(l);
    for (;;) {
        clients_flush(l);
        int64_t now_ns = clock_ns();
        int64_t timeout = wait_ns(l, now_ns);
        pulse_waits(l->metrics, now_ns);
        if (released == NULL && (timeout != 0 || l->late != NULL ||
                                 atomic_load_explicit(&l->helpers, memory_order_relaxed) > 0)) {
            /* First: whoever has the GIL then and reads false knows that the loop is inside Python. */
            __atomic_store_n(&l->is_released, true, __ATOMIC_SEQ_CST);
            released = gil_give(&l->gil);
            do_late(l);
        }
        if (timeout != 0 && released != NULL && look_out(l, timeout))
            timeout = 0;
        int64_t until = timeout > 0 ? now_ns + timeout : INT64_MAX;
        int events = io_wait(l->io, timeout);
        pulse_turns(l->metrics, clock_ns());
        bool had_posts = run_io_posts(l) | atomic_exchange(&l->is_turn_wanted, false);
        clients_turn(l);
        if (released == NULL)
            return 0;
        /* Nothing at all: a wake-up, or a signal that a Python handler may wait for. Not the end of the time, which may be a client's
         * who needs no Python; nor what follows posts, as their wake-up may come behind them. (A signal that comes just then is seen by its
         * byte in asyncio's self-pipe.) */
        bool is_nothing = events <= 0 && !had_posts && !l->had_io_posts && clock_ns() < until;
        l->had_io_posts = had_posts;
        if (is_nothing || needs_python(l))
            break;
        int64_t next = __atomic_load_n(&l->timers.next_ns, __ATOMIC_RELAXED);
        if (next != INT64_MAX && next <= clock_ns())
            break;
    }
    take_gil(l, released);
    return 0;
}

static int
run_timers(struct loop *l)
{
    if (l->timers.count == 0)
        return 0;
    double end = LIKELY(l->shake == NULL) ? (double)clock_ns() * 1e-9 : shake_timers_end(l);
    end += clock_resolution_s;
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

int
loop_tell_if_slow(struct loop *l, PyObject *object)
{
    int64_t spent = clock_ns() - l->step_ns;
    PY_OWNED PyObject *limit = PyObject_GetAttr((PyObject *)l, l->state->s_slow_callback_duration);
    double limit_s = limit != NULL ? PyFloat_AsDouble(limit) : -1;
    if (PyErr_Occurred())
        return -1;
    if ((double)spent * 1e-9 < limit_s)
        return 0;
    PY_OWNED PyObject *seconds = PyFloat_FromDouble((double)spent * 1e-9);
    if (seconds == NULL)
        return -1;
    PY_OWNED PyObject *done = PyObject_CallMethodObjArgs((PyObject *)l, l->state->s__slow_callback,
                                                         object, seconds, NULL);
    return done != NULL ? 0 : -1;
}

/* Debug mode: the handle is visible while it runs, and a slow one is reported. */
static int
run_handle_debug(struct loop *l, PyObject *handle)
{
    Py_XSETREF(l->current_handle, Py_NewRef(handle));
    int err = run_handle(l, handle);
    PyObject *exception = err < 0 ? PyErr_GetRaisedException() : NULL;
    Py_CLEAR(l->current_handle);
    if (err < 0) {
        PyErr_SetRaisedException(exception);
        return -1;
    }
    return loop_tell_if_slow(l, handle);
}

/* Of the server's loop: the last step that was found waiting. */
static struct {
    _Atomic int64_t step_ns, ns;
} found;

void
loop_found_waiting(int64_t step_ns, int64_t ns)
{
    if (atomic_load(&found.step_ns) != step_ns) {
        atomic_store(&found.ns, 0);
        atomic_store(&found.step_ns, step_ns);
    }
    atomic_fetch_add(&found.ns, ns);
}

bool
loop_step_so_far(PyObject *loop, struct metrics_step *out)
{
    struct loop *l = loop_of(loop);
    const struct meter *m = &l->meter;
    int64_t ns = clock_ns() - l->step_ns;
    bool is_long = ns >= LOOP_LONG_STEP_NS;
    if (LIKELY(!is_long && m->stands_for == 0))
        return false;
    /* Of a long one that was not picked: without the time from the last look at the clock to its begin, which was the loop's too. */
    int64_t cpu_ns = meter_cpu_ns(m) - (l->step_ns - l->meter_ns);
    int64_t lost_ns =
        is_long && atomic_load(&found.step_ns) == l->step_ns ? atomic_load(&found.ns) : 0;
    *out = (struct metrics_step){
        .ns = ns,
        .cpu_ns = cpu_ns < 0    ? 0
                  : cpu_ns < ns ? cpu_ns
                                : ns,
        .gil_ns = l->turn_gil_ns,
        .lost_ns = lost_ns < ns ? lost_ns : ns,
        .turn = metrics_get(&l->metrics->pulse.turns),
        .stands_for = is_long ? 1 : m->stands_for,
    };
    return true;
}

void
loop_tell_step(struct loop *l, PyObject *context)
{
    struct metrics_step step;
    if (LIKELY(!loop_step_so_far((PyObject *)l, &step)))
        return;
    for (size_t i = 0; i < l->clients_n && context != NULL; i++)
        if (l->clients[i].client->step != NULL)
            l->clients[i].client->step(l->clients[i].self, context, &step);
    if (step.ns >= LOOP_LONG_STEP_NS) /* the next may be long, too */
        l->meter_ns = 0;
}

/* Of a handle that has just run. What its step has taken is looked at before anything of it is dropped. */
static void
tell_step(struct loop *l, PyObject *handle)
{
    PyTypeObject *type = Py_TYPE(handle);
    if (type == l->state->handle_type || type == l->state->timer_type)
        loop_tell_step(l, ((struct handle *)handle)->context);
}

int
loop_fail_orphan(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "a callback of the event loop forked, and its child returned into the loop");
    return -1;
}

static int
run_ready(struct loop *l, size_t todo)
{
    for (; todo > 0 && l->ready.count > 0; todo--) {
        PyObject *handle;
        if (LIKELY(l->shake == NULL)) {
            handle = ready_pop(&l->ready);
        } else {
            if (shake_settle(l) < 0)
                return -1;
            handle = ready_take(&l->ready, shake_pick_ready(l));
        }
        step_begin(l);
        int err = UNLIKELY(l->is_debug) ? run_handle_debug(l, handle) : run_handle(l, handle);
        if (LIKELY(l->tells_steps && err == 0))
            tell_step(l, handle);
        Py_DECREF(handle);
        if (UNLIKELY(err < 0))
            return -1;
        if (UNLIKELY(l->is_orphan))
            return loop_fail_orphan();
        flush_if_due(l);
    }
    return 0;
}

/* The handles that are ready now, and the sources; what they make ready waits for the next turn. As in asyncio, what was ready before the
 * events of this turn comes before them. Where nothing was, nobody can tell, and what a source makes ready still runs in this one. */
static int
run_ready_and_sources(struct loop *l, size_t before)
{
    if (list_is_empty(&l->sources_ready))
        return run_ready(l, l->ready.count);
    if (UNLIKELY(l->shake != NULL))
        shake_sources(l);
    size_t after = l->ready.count - before;
    if (run_ready(l, before) < 0 || sources_run(l) < 0)
        return -1;
    return run_ready(l, before > 0 ? after : l->ready.count);
}

/* Phase 3. Deliveries come first: no Python may run between an event and the handle that it makes
 * ready, or the descriptor could be another file by then. */
static int
turn_python(struct loop *l)
{
    size_t before = l->ready.count;
    pulse_python_begins(l->metrics);
    atomic_store_explicit(&l->is_poked, false, memory_order_relaxed);
    l->flushed_ns = 0;
    if (UNLIKELY(l->shake != NULL) && shake_settle(l) < 0)
        return -1;
    if (fds_deliver(l) < 0)
        return -1;
    if (l->fds_have_changed)
        fds_apply_changed(l);
    if (l->sources_have_changed)
        sources_apply_changed(l);
    if (PyErr_CheckSignals() < 0 || run_posts(l) < 0)
        return -1;
    if (clients_run(l) < 0 || run_timers(l) < 0)
        return -1;
    return run_ready_and_sources(l, before);
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
    l->runner = pthread_self();
    __atomic_store_n(&l->is_turning, true, __ATOMIC_RELEASE);
    return 0;
}

static void
run_end(struct loop *l)
{
    sources_flush(l); /* what the last turn wrote */
    clients_flush(l);
    do_late(l);
    pulse_doing(l->metrics, METRICS_STARTS);
    __atomic_store_n(&l->is_turning, false, __ATOMIC_RELEASE);
}

PyObject *
turn_run(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    if (run_begin(l) < 0)
        return NULL;
    int err;
    do {
        err = turn_io(l);
        if (LIKELY(err == 0))
            err = turn_python(l);
    } while (err == 0 && !l->is_stopping);
    run_end(l);
    return err == 0 ? Py_NewRef(Py_None) : NULL;
}

PyObject *
turn_run_once(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    if (run_begin(l) < 0)
        return NULL;
    int err = turn_io(l);
    if (err == 0)
        err = turn_python(l);
    run_end(l);
    return err == 0 ? Py_NewRef(Py_None) : NULL;
}
