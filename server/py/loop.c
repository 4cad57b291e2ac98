/* loop.c: the event loop's object: _ringcorn.LoopCore, the C half of ringcorn.loop.Loop. asyncio's
 * own classes sit beside it in the MRO and bring transports, subprocesses, signals and servers;
 * what is called per callback is here and in turn.c, calls.c, timers.c and fds.c.
 *
 * Signals. The C handlers of CPython only set a flag; a wait must end for it to be seen.
 * Loop.run_forever() makes asyncio's self-pipe the wakeup descriptor of the signal module, so that
 * a signal between the last check and the wait is not slept through.
 *
 * Fork. The child of os.fork() inherits the object but not the thread: a handler abandons every io
 * (a ring or an epoll set shared with the parent would steal its events) and marks the loops as
 * orphans, which run no more. A new loop works.
 *
 * Runs on:  the loop's thread with the GIL, unless a function says otherwise.
 * Always:   io, fds_ready and step_ns belong to the thread that opened the io; the rest to the GIL. */
#include "py/private.h"

#include <sched.h>
#include <stdlib.h>

/* --- every loop of the process, for fork ------------------------------------------------------
 * Changed with the GIL held, which the forking thread holds too. */

static struct list all_loops = { &all_loops, &all_loops };

static void
forked_child(void)
{
    gil_forked();
    LIST_FOR_EACH(node, &all_loops) {
        struct loop *l = CONTAINER_OF(node, struct loop, all);
        if (l->io != NULL) {
            io_abandon(l->io);
            l->io = NULL;
        }
        sources_forget_io(l);
        l->is_orphan = true;
        l->metrics = &metrics_nowhere;
        l->clients_n = 0;
        l->late = NULL;
    }
}

static void
watch_forks_once(void)
{
    if (pthread_atfork(NULL, NULL, forked_child) != 0)
        log_warning("pthread_atfork failed: a child of os.fork() must not touch the event loop of "
                    "its parent");
}

static void
watch_forks(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks_once);
}

/* --- the io ----------------------------------------------------------------------------------- */

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
    /* A thread may be about to wake this io; it needs no GIL for it. */
    while (atomic_load(&l->posting) > 0)
        sched_yield();
    io_close(io);
    fds_forget_io(l);
    sources_forget_io(l);
    struct list *node;
    while ((node = list_pop(&l->io_users)) != NULL) {
        struct loop_io_user *user = CONTAINER_OF(node, struct loop_io_user, link);
        user->gone(user, l->is_closed);
    }
}

int
loop_open_io(struct loop *l)
{
    if (l->is_orphan) {
        PyErr_SetString(
            PyExc_RuntimeError,
            "this event loop belongs to the process that forked this one: make a new one");
        return -1;
    }
    if (loop_io_here(l) != NULL)
        return 0;
    if (l->io != NULL && l->clients_n > 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the server's event loop runs in the thread that made it");
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
    if (l->clients_n > 0)
        io_stay(io);
    fds_arm_all(l);
    sources_arm_all(l);
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

int
loop_check_open(struct loop *l)
{
    if (LIKELY(!l->is_closed))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    return -1;
}

/* --- small methods ---------------------------------------------------------------------------- */

static PyObject *
meth_time(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyFloat_FromDouble((double)loop_now_ns(loop_of(self)) * 1e-9);
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
        if (l->future_kwargs == NULL ||
            PyDict_SetItem(l->future_kwargs, l->state->s_loop, loop) < 0) {
            Py_CLEAR(l->future_kwargs);
            return NULL;
        }
    }
    /* A dict made once: by vectorcall the type would build one for every future. */
    PyObject *future =
        PyObject_Call(l->state->future_type, l->state->empty_tuple, l->future_kwargs);
    if (UNLIKELY(l->is_closed))
        Py_CLEAR(l->future_kwargs); /* as forget_kwargs() says; none comes after close() */
    return future;
}

static PyObject *
meth_create_future(PyObject *self, PyObject *unused)
{
    (void)unused;
    return loop_create_future(self);
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

/* run_in_executor(executor, func, *args): straight to the C pool where the executor is None and the
 * user has set none; the rest (no pool yet, another executor, debug mode's checks) is
 * Loop._run_in_executor() in Python. */
static PyObject *
meth_run_in_executor(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct loop *l = loop_of(self);
    if (n < 2 && loop_missing("run_in_executor", n < 1 ? "executor" : "func") < 0)
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
    return PyUnicode_DecodeUTF8(loop_of(self)->io_why, (Py_ssize_t)strlen(loop_of(self)->io_why),
                                "replace");
}

/* --- what asyncio's base classes read and write as attributes --------------------------------- */

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

static PyObject *
get_is_first(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(loop_of(self)->gil.interval != NULL);
}

static int
set_is_first(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    int on = value != NULL ? PyObject_IsTrue(value) : 0;
    if (on < 0)
        return -1;
    gil_go_first(&loop_of(self)->gil, on != 0);
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

/* --- the seam to the server ------------------------------------------------------------------- */

int
loop_attach(PyObject *loop, const struct loop_client *client, void *self)
{
    struct loop *l = loop_of(loop);
    if (l->clients_n >= LOOP_CLIENTS_MAX) {
        PyErr_Format(PyExc_RuntimeError, "an event loop takes no more than %d parts of a server",
                     (int)LOOP_CLIENTS_MAX);
        return -1;
    }
    l->clients[l->clients_n].client = client;
    l->clients[l->clients_n++].self = self;
    if (client->step != NULL && !l->tells_steps) {
        meter_init(&l->meter);
        l->tells_steps = true;
    }
    if (l->clients_n == 1 && l->io != NULL && pthread_equal(l->owner, pthread_self()))
        io_stay(l->io); /* loop_open_io() moves it no more */
    return 0;
}

void
loop_detach(PyObject *loop, void *self)
{
    struct loop *l = loop_of(loop);
    size_t i = 0;
    while (i < l->clients_n && l->clients[i].self != self)
        i++;
    if (i == l->clients_n)
        return; /* the loop was closed, or this is the child of a fork */
    l->clients_n--;
    memmove(&l->clients[i], &l->clients[i + 1], (l->clients_n - i) * sizeof(l->clients[0]));
}

void
loop_count(PyObject *loop, struct metrics_block *into)
{
    struct loop *l = loop_of(loop);
    l->metrics = into;
    l->gil_locked = py_gil_locked();
}

struct io *
loop_io(PyObject *loop)
{
    struct loop *l = loop_of(loop);
    if (loop_check_open(l) < 0 || loop_open_io(l) < 0)
        return NULL;
    return l->io;
}

void
loop_io_use(PyObject *loop, struct loop_io_user *user)
{
    list_add_tail(&loop_of(loop)->io_users, &user->link);
}

int64_t
loop_step_ns(PyObject *loop)
{
    return loop_of(loop)->step_ns;
}

bool
loop_runs_here(PyObject *loop)
{
    struct loop *l = loop_of(loop);
    return __atomic_load_n(&l->is_turning, __ATOMIC_ACQUIRE) &&
           pthread_equal(l->runner, pthread_self());
}

bool
loop_runs_elsewhere(PyObject *loop)
{
    struct loop *l = loop_of(loop);
    return __atomic_load_n(&l->is_turning, __ATOMIC_ACQUIRE) &&
           !pthread_equal(l->runner, pthread_self());
}

bool
loop_is_released(PyObject *loop)
{
    return loop_of(loop)->is_released;
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

void
loop_expect(PyObject *loop, int n)
{
    atomic_fetch_add_explicit(&loop_of(loop)->expected, n, memory_order_relaxed);
}

bool
loop_looks_out(PyObject *loop)
{
    return atomic_load_explicit(&loop_of(loop)->looks_out, memory_order_relaxed);
}

/* --- life ------------------------------------------------------------------------------------- */

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
    list_init(&l->sources);
    list_init(&l->sources_ready);
    list_init(&l->sources_flush);
    list_init(&l->io_users);
    l->metrics = &metrics_nowhere;
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

/* They name the loop: it would stay until the collector comes. */
static void
forget_kwargs(struct loop *l)
{
    Py_CLEAR(l->future_kwargs);
    Py_CLEAR(l->task_kwargs);
}

static int
loop_clear(PyObject *self)
{
    struct loop *l = loop_of(self);
    l->is_closed = true; /* what is dropped here must not queue more */
    loop_end_posts(l);
    close_io(l); /* sources have operations in it */
    loop_drop_ready(l);
    timers_clear(&l->timers);
    fds_clear(l);
    sources_clear(l);
    Py_CLEAR(l->grabbed);
    Py_CLEAR(l->thread_id);
    Py_CLEAR(l->current_handle);
    Py_CLEAR(l->default_executor);
    Py_CLEAR(l->pool);
    forget_kwargs(l);
    shake_clear(l);
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
    int stop = sources_traverse(l, visit, arg);
    if (stop == 0)
        stop = shake_traverse(l, visit, arg);
    if (stop != 0)
        return stop;
    return fds_traverse(l, visit, arg);
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
    l->clients_n = 0;
    loop_end_posts(l);
    close_io(l);
    loop_drop_ready(l);
    timers_clear(&l->timers);
    fds_clear(l);
    sources_clear(l);
    fds_free(l);
    forget_kwargs(l);
    shake_clear(l);
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
    loop_end_posts(l);
    close_io(l);
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
    { "call_soon", FAST(calls_soon), METH_FASTCALL | METH_KEYWORDS,
      "Call callback(*args) in the next turn of the loop." },
    { "call_soon_threadsafe", FAST(calls_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
      "As call_soon(), from any thread." },
    { "call_later", FAST(calls_later), METH_FASTCALL | METH_KEYWORDS,
      "Call callback(*args) after delay seconds." },
    { "call_at", FAST(calls_at), METH_FASTCALL | METH_KEYWORDS,
      "Call callback(*args) at a time of loop.time()'s clock." },
    { "time", meth_time, METH_NOARGS, "The loop's clock, in seconds: time.monotonic()." },
    { "stop", meth_stop, METH_NOARGS, "Leave run_forever() at the end of this turn." },
    { "is_running", meth_is_running, METH_NOARGS,
      "True between the beginning and the end of run_forever()." },
    { "is_closed", meth_is_closed, METH_NOARGS, "True after close()." },
    { "get_debug", meth_get_debug, METH_NOARGS, "True in asyncio's debug mode." },
    { "create_future", meth_create_future, METH_NOARGS, "A new asyncio.Future of this loop." },
    { "run_in_executor", FAST(meth_run_in_executor), METH_FASTCALL,
      "Call func(*args) in a thread; the result is a future." },
    { "_add_callback", calls_add_callback, METH_O, NULL },
    { "_add_callback_signalsafe", calls_add_callback_signalsafe, METH_O, NULL },
    { "_timer_handle_cancelled", calls_timer_handle_cancelled, METH_O, NULL },
    { "_write_to_self", calls_write_to_self, METH_NOARGS, NULL },
    { "_check_closed", meth_check_closed, METH_NOARGS, NULL },
    { "_add_reader", FAST(fds_add_reader), METH_FASTCALL, NULL },
    { "_add_writer", FAST(fds_add_writer), METH_FASTCALL, NULL },
    { "_remove_reader", fds_remove_reader, METH_O, NULL },
    { "_remove_writer", fds_remove_writer, METH_O, NULL },
    { "_fd_handles", fds_events, METH_O,
      "(reader, writer): the handles of a descriptor, or None." },
    { "_run", turn_run, METH_NOARGS, "Turn until stop()." },
    { "_run_once", turn_run_once, METH_NOARGS, "One turn." },
    { "_open", meth_open, METH_O, "Choose the I/O backend: 'auto', 'io_uring' or 'epoll'." },
    { "_shake", FAST(shake_set), METH_FASTCALL,
      "_shake(seed, group, hop_type, helper): shake mode from now on; ringcorn.shake says what is "
      "what." },
    { "_shake_seed", shake_get, METH_NOARGS, "The seed as text; None: not in shake mode." },
    { "_shake_draw", FAST(shake_draw), METH_FASTCALL,
      "_shake_draw(kind, n): a number below n, n 0: whether to disturb. The seed's next one of "
      "that kind." },
    { "_shake_wait", shake_wait, METH_O,
      "Whether helper.settle() is to be called before callbacks run." },
    { "_close_core", meth_close_core, METH_NOARGS, "Drop everything and close the I/O backend." },
    { NULL, NULL, 0, NULL },
};

#define FIELD(field) ((void *)(intptr_t)(field))
#define FLAG(member) ((void *)offsetof(struct loop, member))

static PyGetSetDef loop_getset[] = {
    { "io", get_io, NULL, "The I/O backend: 'io_uring' or 'epoll'.", NULL },
    { "io_why", get_io_why, NULL, "Why it is this one, where 'auto' had to fall back; else ''.",
      NULL },
    { "_thread_id", get_object, set_object, NULL, FIELD(FIELD_THREAD_ID) },
    { "_current_handle", get_object, set_object, NULL, FIELD(FIELD_CURRENT_HANDLE) },
    { "_default_executor", get_object, set_object, NULL, FIELD(FIELD_DEFAULT_EXECUTOR) },
    { "_executor_pool", get_object, set_object, NULL, FIELD(FIELD_EXECUTOR_POOL) },
    { "_goes_first", get_is_first, set_is_first,
      "Before threads that compute, where that can be had: see gil.c.", NULL },
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
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_slots,
};
