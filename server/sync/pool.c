/* pool.c: the type _ringcorn.Pool: a crew that Python sees.
 *
 * Runs on:  submit(): the loop's thread (any thread with the GIL works); the rest: any thread with the GIL.
 * Owns:     threading.Thread objects, hooks and the loop; the crew together with the threads. */
#include "sync/private.h"

#include <math.h>

enum { STAND_MAX = 256 }; /* leases that wait: so many are named */

struct crew *
pool_crew(PyObject *pool)
{
    return ((struct pool *)pool)->crew;
}

static void pool_dealloc(PyObject *self);

bool
pool_check(PyObject *object)
{
    return Py_TYPE(object)->tp_dealloc == pool_dealloc;
}

void
pool_count(PyObject *pool, struct metrics_crew *into)
{
    struct crew *c = pool_crew(pool);
    crew_lock(c);
    c->metrics = into;
    crew_unlock(c);
}

int
pool_attach(struct pool *p)
{
    struct crew *c = p->crew;
    if (c->is_attached || c->is_orphan)
        return 0;
    if (loop_attach(p->loop, &crew_client, c) < 0)
        return -1;
    atomic_fetch_add(&c->refs, 1); /* until detached */
    crew_lock(c);
    c->is_attached = true;
    crew_unlock(c);
    return 0;
}

/* The loop's thread, or a loop that will not turn any more. */
static void
on_detach(struct post *post, PyObject *loop)
{
    struct crew *c = CONTAINER_OF(post, struct crew, detach_post);
    if (loop != NULL)
        loop_detach(loop, c);
    crew_release(c);
}

PyObject *
pool_submit(PyObject *pool, PyObject *fn, PyObject *const *args, Py_ssize_t n)
{
    return job_submit((struct pool *)pool, NULL, NULL, SUBMIT, fn, args, n);
}

static PyObject *
meth_submit(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n < 1) {
        PyErr_SetString(PyExc_TypeError, "submit() missing required argument: 'fn'");
        return NULL;
    }
    return pool_submit(self, args[0], args + 1, n - 1);
}

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    crew_close(((struct pool *)self)->crew);
    Py_RETURN_NONE;
}

/* Joins until the deadline (ns; -1 = none). 1: it has ended, 0: it has not, -1: an exception is
 * set. */
static int
join_thread(PyObject *thread, int64_t deadline_ns)
{
    PY_OWNED PyObject *joined = NULL;
    if (deadline_ns < 0) {
        joined = PyObject_CallMethod(thread, "join", NULL);
    } else {
        int64_t left = deadline_ns - clock_ns();
        joined = PyObject_CallMethod(thread, "join", "d", left > 0 ? (double)left * 1e-9 : 0.0);
    }
    PY_OWNED PyObject *is_alive =
        joined != NULL ? PyObject_CallMethod(thread, "is_alive", NULL) : NULL;
    return is_alive == NULL ? -1 : is_alive == Py_False;
}

/* stop(timeout=None) -> [(name, where), ...] */
static PyObject *
meth_stop(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "timeout", NULL };
    struct pool *p = (struct pool *)self;
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:stop", names, &timeout))
        return NULL;
    int64_t deadline_ns = -1;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred())
            return NULL;
        if (seconds < 1e9)
            deadline_ns = clock_ns() + (seconds > 0 ? (int64_t)(seconds * 1e9) : 0);
    }
    crew_close(p->crew);

    PY_OWNED PyObject *left = PyList_New(0);
    PY_OWNED PyObject *threads = PyList_GetSlice(p->threads, 0, PyList_GET_SIZE(p->threads));
    PY_OWNED PyObject *threading =
        left != NULL && threads != NULL ? PyImport_ImportModule("threading") : NULL;
    PY_OWNED PyObject *current =
        threading != NULL ? PyObject_CallMethod(threading, "current_thread", NULL) : NULL;
    if (current == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(threads); i++) {
        PyObject *thread = PyList_GET_ITEM(threads, i);
        int has_ended = thread == current ? 0 : join_thread(thread, deadline_ns);
        if (has_ended < 0)
            return NULL;
        if (has_ended)
            continue;
        PY_OWNED PyObject *places = thread_places();
        PY_OWNED PyObject *name = places != NULL ? PyObject_GetAttrString(thread, "name") : NULL;
        PY_OWNED PyObject *ident = name != NULL ? PyObject_GetAttrString(thread, "ident") : NULL;
        PY_OWNED PyObject *where = NULL;
        if (ident != NULL)
            where = ident != Py_None ? thread_place(places, PyLong_AsUnsignedLong(ident))
                                     : PyUnicode_FromString("?");
        PY_OWNED PyObject *pair = where != NULL ? PyTuple_Pack(2, name, where) : NULL;
        if (pair == NULL || PyList_Append(left, pair) < 0)
            return NULL;
    }
    crew_post_dropped(p->crew, p->loop); /* their futures are cancelled */
    return py_take(&left);
}

/* lease(label="") */
static PyObject *
meth_lease(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "label", NULL };
    PyObject *label = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|U:lease", names, &label))
        return NULL;
    Py_ssize_t n; /* not looked at: a path may have a NUL, and is cut there */
    const char *text = label != NULL ? PyUnicode_AsUTF8AndSize(label, &n) : "";
    return text != NULL ? lease_new((struct pool *)self, text) : NULL;
}

struct holder {
    unsigned long ident;
    char label[sizeof(((struct lease *)NULL)->label)];
    const char *state; /* a literal */
    int64_t since_ns;  /* it has its slot, or waits for one */
};

/* Leases that have a thread, at most max; is_slot_needed: and a slot. Returns how many. */
static size_t
find_holders(struct crew *c, struct holder *out, size_t max, bool is_slot_needed)
{
    size_t n = 0;
    crew_lock(c);
    LIST_FOR_EACH(node, &c->held) {
        struct lease *l = CONTAINER_OF(node, struct lease, held);
        if (n == max || (is_slot_needed && !l->has_slot))
            continue;
        out[n].ident = l->thread->ident;
        out[n].since_ns = l->slot_ns;
        out[n].state = l->running != NULL ? "running" : l->has_slot ? "holding" : "parked";
        memcpy(out[n++].label, l->label, sizeof l->label);
    }
    crew_unlock(c);
    return n;
}

/* Leases that wait for a slot, the oldest of each queue first, at most max. Returns how many. */
static size_t
find_waiting(struct crew *c, struct holder *out, size_t max)
{
    struct list *const queues[] = { &c->wait_kept, &c->wait_new };
    size_t n = 0;
    crew_lock(c);
    for (size_t i = 0; i < ARRAY_LEN(queues); i++) {
        LIST_FOR_EACH(node, queues[i]) {
            struct lease *l = CONTAINER_OF(node, struct lease, wait);
            if (n == max || l->is_resuming)
                continue;
            out[n].since_ns = l->wait_ns;
            memcpy(out[n++].label, l->label, sizeof l->label);
        }
    }
    crew_unlock(c);
    return n;
}

static PyObject *
label_of(const struct holder *h)
{
    return PyUnicode_DecodeUTF8(h->label, (Py_ssize_t)strlen(h->label), "replace");
}

/* holders() -> [(label, where), ...] */
static PyObject *
meth_holders(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct crew *c = ((struct pool *)self)->crew;
    PY_OWNED PyObject *list = PyList_New(0);
    PY_OWNED PyObject *places = thread_places();
    MEM_OWNED struct holder *holders = calloc(c->slots, sizeof *holders);
    if (holders == NULL)
        PyErr_NoMemory();
    if (holders == NULL || list == NULL || places == NULL)
        return NULL;
    size_t n = find_holders(c, holders, c->slots, true);
    for (size_t i = 0; i < n; i++) {
        PY_OWNED PyObject *label = label_of(&holders[i]);
        PY_OWNED PyObject *where = label != NULL ? thread_place(places, holders[i].ident) : NULL;
        PY_OWNED PyObject *pair = where != NULL ? PyTuple_Pack(2, label, where) : NULL;
        if (pair == NULL || PyList_Append(list, pair) < 0)
            return NULL;
    }
    return py_take(&list);
}

/* leases() -> [(ident, label, state), ...] */
static PyObject *
meth_leases(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct crew *c = ((struct pool *)self)->crew;
    PY_OWNED PyObject *list = PyList_New(0);
    MEM_OWNED struct holder *holders = calloc(c->threads_max, sizeof *holders);
    if (holders == NULL)
        PyErr_NoMemory();
    if (holders == NULL || list == NULL)
        return NULL;
    size_t n = find_holders(c, holders, c->threads_max, false);
    for (size_t i = 0; i < n; i++) {
        PY_OWNED PyObject *label = label_of(&holders[i]);
        PY_OWNED PyObject *item =
            label != NULL ? Py_BuildValue("kOs", holders[i].ident, label, holders[i].state) : NULL;
        if (item == NULL || PyList_Append(list, item) < 0)
            return NULL;
    }
    return py_take(&list);
}

/* Appends (label, for how long, where) to list; where: left out where it is NULL. */
static int
append_stand(PyObject *list, const struct holder *h, int64_t now, PyObject *where)
{
    PY_OWNED PyObject *label = label_of(h);
    double seconds = (double)(now - h->since_ns) / NS_PER_S;
    PY_OWNED PyObject *item = label == NULL   ? NULL
                              : where != NULL ? Py_BuildValue("OdO", label, seconds, where)
                                              : Py_BuildValue("Od", label, seconds);
    return item != NULL ? PyList_Append(list, item) : -1;
}

/* stand() -> ([(label, seconds), ...] that wait, [(label, seconds, where), ...] that have a slot) */
static PyObject *
meth_stand(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct crew *c = ((struct pool *)self)->crew;
    PY_OWNED PyObject *waiting = PyList_New(0);
    PY_OWNED PyObject *having = PyList_New(0);
    PY_OWNED PyObject *places = thread_places();
    size_t max = c->threads_max > STAND_MAX ? c->threads_max : STAND_MAX;
    MEM_OWNED struct holder *all = calloc(max, sizeof *all);
    if (all == NULL)
        PyErr_NoMemory();
    if (all == NULL || waiting == NULL || having == NULL || places == NULL)
        return NULL;
    int64_t now = clock_ns();
    size_t n = find_holders(c, all, c->threads_max, true);
    for (size_t i = 0; i < n; i++) {
        PY_OWNED PyObject *where = thread_place(places, all[i].ident);
        if (where == NULL || append_stand(having, &all[i], now, where) < 0)
            return NULL;
    }
    n = find_waiting(c, all, STAND_MAX);
    for (size_t i = 0; i < n; i++) {
        if (append_stand(waiting, &all[i], now, NULL) < 0)
            return NULL;
    }
    return PyTuple_Pack(2, waiting, having);
}

/* --- for the server ------------------------------------------------------------------------------ */

PyObject *
pool_enter(PyObject *pool, const char *label)
{
    struct pool *p = (struct pool *)pool;
    if (PyTuple_GET_SIZE(p->context_vars) == 0)
        return NULL;
    PY_OWNED PyObject *vars = Py_NewRef(p->context_vars);
    PY_OWNED PyObject *lease = lease_new(p, label);
    if (lease == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(vars); i++) {
        PY_OWNED PyObject *token = PyContextVar_Set(PyTuple_GET_ITEM(vars, i), lease);
        if (token == NULL)
            return NULL;
    }
    return py_take(&lease);
}

PyObject *
pool_lease_in(PyObject *pool, PyObject *context)
{
    struct pool *p = (struct pool *)pool;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(p->context_vars); i++) {
        PyObject *variable = PyTuple_GET_ITEM(p->context_vars, i);
        if (PySequence_Contains(context, variable) != 1) { /* a KeyError would be dear */
            PyErr_Clear();
            continue;
        }
        PyObject *value = PyObject_GetItem(context, variable);
        if (value == NULL) {
            PyErr_Clear();
            continue;
        }
        Py_DECREF(value); /* the context has it */
        if (Py_TYPE(value) == p->lease_type)
            return value;
    }
    return NULL;
}

/* --- type ---------------------------------------------------------------------------------------- */

static int
seconds_of(PyObject *value, const char *name, int64_t *ns)
{
    *ns = 0;
    if (value == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds > 0) || isinf(seconds)) {
        PyErr_Format(PyExc_ValueError, "Pool(): %s must be a positive number of seconds", name);
        return -1;
    }
    *ns = seconds < 1e9 ? (int64_t)(seconds * 1e9) : (int64_t)1e18;
    return 0;
}

static int
affinity_of(const char *name, enum affinity *affinity)
{
    static const char *const names[] = { "request", "transaction", "call" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *affinity = (enum affinity)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "affinity must be request, transaction or call, not '%s'", name);
    return -1;
}

void
crew_end(struct crew *c)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *const all[] = {
        c->s_done,
        c->s_set_result,
        c->s_set_exception,
        c->s_cancel,
        c->s_set_running,
        c->s_add_done_callback,
        c->s_remove_done_callback,
        c->queue_full,
        c->queue_timeout,
        c->no_thread,
        c->kw_context,
        c->empty_context,
        c->on_thread_start,
        c->on_thread_end,
        c->on_surplus,
        c->on_acquire,
        c->may_release,
        c->on_job_end,
        c->on_park,
        c->on_wait,
        c->blocking_code,
        c->working_code,
        c->concurrent_future,
    };
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        Py_XDECREF(all[i]);
    crew_free(c);
    PyGILState_Release(gil);
}

/* What jobs and threads need of Python. On failure crew_end() drops what there is. */
static int
add_python(struct crew *c, PyObject *module)
{
    if ((c->queue_full = PyObject_GetAttrString(module, "QueueFull")) == NULL ||
        (c->queue_timeout = PyObject_GetAttrString(module, "QueueTimeout")) == NULL ||
        (c->no_thread = PyObject_GetAttrString(module, "NoThread")) == NULL ||
        (c->s_done = PyUnicode_InternFromString("done")) == NULL ||
        (c->s_set_result = PyUnicode_InternFromString("set_result")) == NULL ||
        (c->s_set_exception = PyUnicode_InternFromString("set_exception")) == NULL ||
        (c->s_cancel = PyUnicode_InternFromString("cancel")) == NULL ||
        (c->s_add_done_callback = PyUnicode_InternFromString("add_done_callback")) == NULL ||
        (c->s_remove_done_callback = PyUnicode_InternFromString("remove_done_callback")) == NULL ||
        (c->s_set_running = PyUnicode_InternFromString("set_running_or_notify_cancel")) == NULL ||
        (c->kw_context = Py_BuildValue("(s)", "context")) == NULL ||
        (c->empty_context = PyContext_New()) == NULL ||
        (c->blocking_code = PyTuple_New(0)) == NULL || (c->working_code = PyTuple_New(0)) == NULL)
        return -1;
    return 0;
}

static int
pool_init_crew(struct pool *p, PyObject *module)
{
    if ((p->job_type = (PyTypeObject *)PyObject_GetAttrString(module, "Job")) == NULL ||
        (p->lease_type = (PyTypeObject *)PyObject_GetAttrString(module, "Lease")) == NULL ||
        (p->threads = PyList_New(0)) == NULL || (p->context_vars = PyTuple_New(0)) == NULL ||
        (p->work = PyCFunction_New(&thread_work_def, NULL)) == NULL)
        return -1;
    p->crew = crew_new();
    if (p->crew == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (add_python(p->crew, module) < 0)
        return -1;
    p->crew->pool = p;
    p->crew->loop = p->loop;
    p->crew->detach_post.fn = on_detach;
    p->crew->headway.locked = py_gil_locked();
    return 0;
}

static PyObject *
pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "loop",          "threads",      "name",     "queue", "threads_max",
                             "queue_timeout", "idle_timeout", "affinity", NULL };
    PyObject *loop, *name, *max = Py_None, *queue_timeout = Py_None, *idle_timeout = Py_None;
    Py_ssize_t threads, queue = POOL_QUEUE_MAX;
    const char *affinity_name = "request";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnU|n$OOOs:Pool", names, &loop, &threads, &name,
                                     &queue, &max, &queue_timeout, &idle_timeout, &affinity_name))
        return NULL;
    PY_OWNED PyObject *module =
        PyType_GetModule(type) != NULL ? Py_NewRef(PyType_GetModule(type)) : NULL;
    PY_OWNED PyObject *loop_type =
        module != NULL ? PyObject_GetAttrString(module, "LoopCore") : NULL;
    if (loop_type == NULL)
        return NULL;
    int is_loop = PyObject_IsInstance(loop, loop_type);
    if (is_loop <= 0) {
        if (is_loop == 0)
            PyErr_SetString(PyExc_TypeError, "Pool(): loop must be a ringcorn.loop.Loop");
        return NULL;
    }
    if (threads < 1 || threads > THREADS_MAX || queue < 1) {
        PyErr_Format(PyExc_ValueError, "Pool(): threads must be 1 to %d, queue at least 1",
                     (int)THREADS_MAX);
        return NULL;
    }
    Py_ssize_t threads_max = threads;
    if (max != Py_None) {
        threads_max = PyLong_AsSsize_t(max);
        if (threads_max == -1 && PyErr_Occurred())
            return NULL;
        if (threads_max < threads || threads_max > THREADS_MAX) {
            PyErr_Format(PyExc_ValueError, "Pool(): threads_max must be threads (%zd) to %d",
                         threads, (int)THREADS_MAX);
            return NULL;
        }
    }
    int64_t queue_timeout_ns, idle_timeout_ns;
    enum affinity affinity = AFFINITY_REQUEST;
    if (seconds_of(queue_timeout, "queue_timeout", &queue_timeout_ns) < 0 ||
        seconds_of(idle_timeout, "idle_timeout", &idle_timeout_ns) < 0 ||
        affinity_of(affinity_name, &affinity) < 0)
        return NULL;

    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    struct pool *p = (struct pool *)self;
    p->loop = Py_NewRef(loop);
    p->name = Py_NewRef(name);
    if (pool_init_crew(p, module) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    p->crew->slots = (size_t)threads;
    p->crew->threads_max = (size_t)threads_max;
    p->crew->queue_max = (size_t)queue;
    p->crew->affinity = affinity;
    p->crew->queue_timeout_ns = queue_timeout_ns;
    p->crew->idle_timeout_ns = idle_timeout_ns;
    if ((queue_timeout_ns > 0 || idle_timeout_ns > 0 || threads_max > threads) &&
        pool_attach(p) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

static int
pool_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pool *p = (struct pool *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(p->loop);
    Py_VISIT(p->threads);
    Py_VISIT(p->work);
    Py_VISIT(p->context_vars);
    if (p->crew != NULL) {
        Py_VISIT(p->crew->on_thread_start);
        Py_VISIT(p->crew->on_thread_end);
        Py_VISIT(p->crew->on_surplus);
        Py_VISIT(p->crew->on_acquire);
        Py_VISIT(p->crew->may_release);
        Py_VISIT(p->crew->on_job_end);
        Py_VISIT(p->crew->on_park);
        Py_VISIT(p->crew->on_wait);
    }
    return 0;
}

/* The crew closes, and goes on without the loop. */
static void
let_crew_go(struct pool *p)
{
    struct crew *c = p->crew;
    if (c->pool == NULL)
        return;
    crew_close(c);
    crew_lock(c);
    bool is_attached = c->is_attached && !c->is_orphan;
    c->is_attached = false;
    c->loop = NULL;
    crew_unlock(c);
    c->pool = NULL;
    if (is_attached)
        loop_post(p->loop, &c->detach_post);
}

static int
pool_clear(PyObject *self)
{
    struct pool *p = (struct pool *)self;
    if (p->crew != NULL) {
        let_crew_go(p);
        Py_CLEAR(p->crew->on_thread_start);
        Py_CLEAR(p->crew->on_thread_end);
        Py_CLEAR(p->crew->on_surplus);
        Py_CLEAR(p->crew->on_acquire);
        Py_CLEAR(p->crew->may_release);
        Py_CLEAR(p->crew->on_job_end);
        Py_CLEAR(p->crew->on_park);
        Py_CLEAR(p->crew->on_wait);
    }
    Py_CLEAR(p->loop);
    Py_CLEAR(p->threads);
    Py_CLEAR(p->work);
    Py_CLEAR(p->context_vars);
    return 0;
}

static void
pool_dealloc(PyObject *self)
{
    struct pool *p = (struct pool *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (p->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    if (p->crew != NULL) {
        let_crew_go(p); /* the hooks stay: threads that end now run them */
        crew_release(p->crew);
    }
    Py_XDECREF(p->loop);
    Py_XDECREF(p->threads);
    Py_XDECREF(p->work);
    Py_XDECREF(p->context_vars);
    Py_XDECREF(p->name);
    Py_XDECREF((PyObject *)p->job_type);
    Py_XDECREF((PyObject *)p->lease_type);
    type->tp_free(self);
    Py_DECREF(type);
}

enum count {
    COUNT_THREADS,
    COUNT_THREADS_MAX,
    COUNT_RUNNING,
    COUNT_IDLE,
    COUNT_QUEUED,
    COUNT_LEASED,
    COUNT_PARKED,
    COUNT_PEAK
};

static size_t
count_of(struct crew *c, enum count count)
{
    size_t n = 0;
    switch (count) {
    case COUNT_THREADS:
        return c->slots;
    case COUNT_THREADS_MAX:
        return c->threads_max;
    case COUNT_RUNNING:
        return c->threads_n;
    case COUNT_IDLE:
        return c->idle_n;
    case COUNT_QUEUED:
        return c->queued;
    case COUNT_PEAK:
        return c->threads_peak;
    case COUNT_LEASED:
    case COUNT_PARKED:
        break;
    }
    LIST_FOR_EACH(node, &c->held) {
        n += count == COUNT_LEASED || !CONTAINER_OF(node, struct lease, held)->has_slot;
    }
    return n;
}

static PyObject *
get_count(PyObject *self, void *closure)
{
    struct crew *c = ((struct pool *)self)->crew;
    crew_lock(c);
    size_t n = count_of(c, (enum count)(intptr_t)closure);
    crew_unlock(c);
    return PyLong_FromSize_t(n);
}

static PyObject *
pool_repr(PyObject *self)
{
    struct pool *p = (struct pool *)self;
    struct crew *c = p->crew;
    crew_lock(c);
    size_t running = c->threads_n, idle = c->idle_n, queued = c->queued;
    crew_unlock(c);
    return PyUnicode_FromFormat("<Pool %R threads=%zu/%zu idle=%zu queued=%zu>", p->name, running,
                                c->threads_max, idle, queued);
}

static PyObject *
get_is_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct pool *)self)->crew->is_closed);
}

static PyObject *
get_affinity(PyObject *self, void *unused)
{
    (void)unused;
    static const char *const names[] = { "request", "transaction", "call" };
    return PyUnicode_FromString(names[((struct pool *)self)->crew->affinity]);
}

static int
refuse_delete(PyObject *value)
{
    if (value != NULL)
        return 0;
    PyErr_SetString(PyExc_TypeError, "an attribute of a Pool cannot be deleted");
    return -1;
}

static int
set_threads(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    struct crew *c = ((struct pool *)self)->crew;
    Py_ssize_t n = refuse_delete(value) == 0 ? PyNumber_AsSsize_t(value, PyExc_OverflowError) : -1;
    if (n == -1 && PyErr_Occurred())
        return -1;
    if (n < 1 || (size_t)n > c->threads_max) {
        PyErr_Format(PyExc_ValueError, "threads must be 1 to threads_max (%zu), not %zd",
                     c->threads_max, n);
        return -1;
    }
    crew_lock(c);
    c->slots = (size_t)n;
    crew_dispatch(c);
    crew_unlock(c);
    return 0;
}

static int
set_affinity(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    struct crew *c = ((struct pool *)self)->crew;
    enum affinity affinity;
    const char *name = refuse_delete(value) == 0 ? PyUnicode_AsUTF8(value) : NULL;
    if (name == NULL || affinity_of(name, &affinity) < 0)
        return -1;
    crew_lock(c);
    c->affinity = affinity;
    crew_unlock(c);
    return 0;
}

/* --- hooks */

static PyObject **
hook_of(PyObject *self, void *closure)
{
    return (PyObject **)((char *)((struct pool *)self)->crew + (intptr_t)closure);
}

static PyObject *
get_hook(PyObject *self, void *closure)
{
    PyObject *hook = *hook_of(self, closure);
    return Py_NewRef(hook != NULL ? hook : Py_None);
}

static int
set_hook(PyObject *self, PyObject *value, void *closure)
{
    struct crew *c = ((struct pool *)self)->crew;
    if (refuse_delete(value) < 0)
        return -1;
    if (value != Py_None && !PyCallable_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "a hook must be callable, or None");
        return -1;
    }
    PyObject **hook = hook_of(self, closure);
    Py_XSETREF(*hook, value == Py_None ? NULL : Py_NewRef(value));
    crew_lock(c);
    c->has_surplus_hook = c->on_surplus != NULL;
    c->has_release_hook = c->may_release != NULL;
    crew_unlock(c);
    return 0;
}

/* A new tuple of value's items, each of which is_right. */
static PyObject *
tuple_of(PyObject *value, int (*is_right)(PyObject *item), const char *what)
{
    if (refuse_delete(value) < 0)
        return NULL;
    PY_OWNED PyObject *tuple = PySequence_Tuple(value);
    if (tuple == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (!is_right(PyTuple_GET_ITEM(tuple, i))) {
            PyErr_Format(PyExc_TypeError, "must be a tuple of %s", what);
            return NULL;
        }
    }
    return py_take(&tuple);
}

static int
is_code(PyObject *item)
{
    return PyCode_Check(item);
}

static int
is_context_var(PyObject *item)
{
    return PyContextVar_CheckExact(item);
}

static PyObject *
get_context_vars(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(((struct pool *)self)->context_vars);
}

static int
set_context_vars(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    PyObject *tuple = tuple_of(value, is_context_var, "contextvars.ContextVar");
    if (tuple == NULL)
        return -1;
    Py_XSETREF(((struct pool *)self)->context_vars, tuple);
    return 0;
}

/* closure: which of the crew's tuples. */
static PyObject **
codes_of(PyObject *self, void *closure)
{
    return (PyObject **)((char *)((struct pool *)self)->crew + (uintptr_t)closure);
}

static PyObject *
get_codes(PyObject *self, void *closure)
{
    return Py_NewRef(*codes_of(self, closure));
}

static int
set_codes(PyObject *self, PyObject *value, void *closure)
{
    struct pool *p = (struct pool *)self;
    PyObject *tuple = tuple_of(value, is_code, "code objects");
    if (tuple == NULL)
        return -1;
    if (PyTuple_GET_SIZE(tuple) > 0 && pool_attach(p) < 0) {
        Py_DECREF(tuple);
        return -1;
    }
    Py_XSETREF(*codes_of(self, closure), tuple);
    WRITE(p->crew->blocking_n, (size_t)PyTuple_GET_SIZE(p->crew->blocking_code));
    return 0;
}

static PyObject *
get_park_timeout(PyObject *self, void *unused)
{
    (void)unused;
    int64_t ns = ((struct pool *)self)->crew->park_timeout_ns;
    return ns == 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble((double)ns * 1e-9);
}

static int
set_park_timeout(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    struct crew *c = ((struct pool *)self)->crew;
    int64_t ns;
    if (refuse_delete(value) < 0 || seconds_of(value, "park_timeout", &ns) < 0)
        return -1;
    crew_lock(c);
    c->park_timeout_ns = ns;
    crew_unlock(c);
    return 0;
}

static PyObject *
get_wait_alarm(PyObject *self, void *unused)
{
    (void)unused;
    int64_t ns = ((struct pool *)self)->crew->wait_alarm_ns;
    return ns == 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble((double)ns * 1e-9);
}

static int
set_wait_alarm(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    struct pool *p = (struct pool *)self;
    int64_t ns;
    if (refuse_delete(value) < 0 || seconds_of(value, "wait_alarm", &ns) < 0 || pool_attach(p) < 0)
        return -1;
    p->crew->wait_alarm_ns = ns;
    return 0;
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef pool_methods[] = {
    { "submit", FAST(meth_submit), METH_FASTCALL,
      "Queue fn(*args); returns a future of the loop." },
    { "lease", FAST(meth_lease), METH_VARARGS | METH_KEYWORDS,
      "A new claim to one thread; label says whose it is." },
    { "holders", meth_holders, METH_NOARGS,
      "[(label, where), ...] of every lease that has a slot." },
    { "stand", meth_stand, METH_NOARGS,
      "([(label, seconds), ...] of those that wait for a slot, [(label, seconds, where), ...] of "
      "those that have one)." },
    { "leases", meth_leases, METH_NOARGS,
      "[(ident, label, \"running\", \"holding\" or \"parked\"), ...] of every lease that has a "
      "thread." },
    { "close", meth_close, METH_NOARGS,
      "Take no more jobs; what is queued still runs, then the threads end." },
    { "stop", FAST(meth_stop), METH_VARARGS | METH_KEYWORDS,
      "close(), then wait for the threads. Returns [(name, where), ...] of those that did not end "
      "in time; "
      "jobs that have not begun by then are cancelled." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef pool_members[] = {
    { "name", Py_T_OBJECT_EX, offsetof(struct pool, name), Py_READONLY, NULL },
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pool, weakrefs), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

#define HOOK(member, doc)                                                                          \
    { #member, get_hook, set_hook, doc, (void *)offsetof(struct crew, member) }

static PyGetSetDef pool_getset[] = {
    { "threads", get_count, set_threads, "How many jobs run at once.", (void *)COUNT_THREADS },
    { "threads_max", get_count, NULL, "How many threads there may be.", (void *)COUNT_THREADS_MAX },
    { "running", get_count, NULL, "Threads that have been started.", (void *)COUNT_RUNNING },
    { "idle", get_count, NULL, "Threads that belong to nobody.", (void *)COUNT_IDLE },
    { "queued", get_count, NULL, "Jobs that wait for a thread.", (void *)COUNT_QUEUED },
    { "leased", get_count, NULL, "Threads that belong to a lease.", (void *)COUNT_LEASED },
    { "parked", get_count, NULL, "Of these, those without a slot.", (void *)COUNT_PARKED },
    { "peak", get_count, NULL, "The most threads that there were.", (void *)COUNT_PEAK },
    { "closed", get_is_closed, NULL, NULL, NULL },
    { "affinity", get_affinity, set_affinity,
      "How long a thread belongs to a lease: request, transaction or call.", NULL },
    { "context_vars", get_context_vars, set_context_vars,
      "Context variables that are set to a new lease for each request.", NULL },
    { "blocking_code", get_codes, set_codes,
      "Code objects inside which a thread waits for the loop.",
      (void *)offsetof(struct crew, blocking_code) },
    { "working_code", get_codes, set_codes,
      "Code objects inside which it computes after all, while it waits further out.",
      (void *)offsetof(struct crew, working_code) },
    HOOK(on_thread_start, "Called first on a new thread."),
    HOOK(on_thread_end, "Called last on a thread."),
    HOOK(on_surplus, "Called on a thread that comes back when enough are idle already."),
    HOOK(on_acquire, "Called on a thread that a lease has got, before its first job."),
    HOOK(may_release, "Called on a thread: may its lease give it back?"),
    HOOK(on_job_end, "Called on a thread after each job, before its result is delivered."),
    HOOK(on_park,
         "Called on a thread whose lease has had no job for park_timeout, once until the next."),
    { "park_timeout", get_park_timeout, set_park_timeout, "Seconds until on_park, or None.", NULL },
    HOOK(on_wait, "Called on the loop's thread when a job has waited for a thread for wait_alarm, "
                  "at most every 10 s."),
    { "wait_alarm", get_wait_alarm, set_wait_alarm, "Seconds until on_wait, or None.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pool_slots[] = {
    { Py_tp_doc, "Pool(loop, threads, name, queue=100000, *, threads_max=None, queue_timeout=None, "
                 "idle_timeout=None, affinity='request'): a set of threads for synchronous code." },
    { Py_tp_new, pool_new },
    { Py_tp_dealloc, pool_dealloc },
    { Py_tp_traverse, pool_traverse },
    { Py_tp_clear, pool_clear },
    { Py_tp_repr, pool_repr },
    { Py_tp_methods, pool_methods },
    { Py_tp_members, pool_members },
    { Py_tp_getset, pool_getset },
    { 0, NULL },
};

static PyType_Spec pool_spec = {
    .name = "_ringcorn.Pool",
    .basicsize = sizeof(struct pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pool_slots,
};

static int
add_exception(PyObject *module, const char *full_name, const char *doc)
{
    PY_OWNED PyObject *type = PyErr_NewExceptionWithDoc(full_name, doc, PyExc_RuntimeError, NULL);
    return type != NULL ? PyModule_AddObjectRef(module, strchr(full_name, '.') + 1, type) : -1;
}

int
sync_add_types(PyObject *module)
{
    PyType_Spec *const specs[] = { &pool_spec, &lease_spec, &job_spec, &drivers_spec };
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        PY_OWNED PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0)
            return -1;
    }
    if (add_exception(module, "_ringcorn.QueueFull", "As many jobs as may wait do so already.") <
            0 ||
        add_exception(module, "_ringcorn.NoThread",
                      "Requests keep all threads that there may be.") < 0)
        return -1;
    return add_exception(module, "_ringcorn.QueueTimeout",
                         "A job waited for a thread for too long.");
}
