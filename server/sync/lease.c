/* lease.c: the type _ringcorn.Lease: a request's claim to one thread.
 *
 * A lease refers to its pool, jobs refer to their lease: one that is freed has no jobs, and is closed by then at the latest.
 *
 * Runs on:  any thread with the GIL; mostly the loop's. */
#include "sync/private.h"

static struct lease_object *
lease_of(PyObject *object)
{
    return (struct lease_object *)object;
}

PyObject *
lease_new(struct pool *p, const char *label)
{
    if (pool_attach(p) < 0)
        return NULL;
    struct lease_object *o = (struct lease_object *)p->lease_type->tp_alloc(p->lease_type, 0);
    if (o == NULL)
        return NULL;
    o->pool = (struct pool *)Py_NewRef((PyObject *)p);
    lease_init(&o->lease, p->crew, label);
    return (PyObject *)o;
}

/* --- for the server ------------------------------------------------------------------------------ */

PyObject *
lease_call(PyObject *lease, PyObject *fn, PyObject *const *args, Py_ssize_t n)
{
    struct lease_object *o = lease_of(lease);
    return job_submit(o->pool, &o->lease, lease, SUBMIT, fn, args, n);
}

void
lease_end(PyObject *lease)
{
    struct lease_object *o = lease_of(lease);
    if (o->is_closed)
        return;
    o->is_closed = true;
    lease_close(&o->lease);
}

void
lease_take_job(PyObject *lease, struct sync_job *job)
{
    crew_move(job, &lease_of(lease)->lease, false);
}

void
lease_give_job(PyObject *lease, struct sync_job *job, struct lease *to)
{
    if (job->lease == &lease_of(lease)->lease)
        crew_move(job, to, true);
}

bool
lease_was_used(PyObject *lease)
{
    return READ(lease_of(lease)->lease.slot_ns) != 0;
}

int64_t
lease_spent(struct lease *l, struct metrics_calls *calls)
{
    crew_lock(l->crew);
    int64_t ran_ns = l->ran_ns + (l->running != NULL ? clock_ns() - l->begun_ns : 0);
    *calls = l->calls;
    pthread_mutex_unlock(&l->crew->lock);
    calls->driver_ns = lease_driver_ns(l);
    return ran_ns;
}

PyObject *
lease_request(PyObject *lease)
{
    return lease_of(lease)->request;
}

void
lease_tell_end(PyObject *lease)
{
    PY_OWNED PyObject *at_end = py_take(&lease_of(lease)->at_end);
    if (LIKELY(at_end == NULL))
        return;
    PY_OWNED PyObject *done = PyObject_CallOneArg(at_end, lease);
    if (done == NULL)
        PyErr_WriteUnraisable(at_end);
}

void
lease_set_request(PyObject *lease, PyObject *request)
{
    lease_of(lease)->request = request;
}

bool
lease_was_refused(PyObject *lease)
{
    return READ(lease_of(lease)->was_refused);
}

/* --- methods ------------------------------------------------------------------------------------- */

/* A call that was said to be the last is followed by another. -1 with an exception set. */
static int
was_not_last(struct lease_object *o)
{
    PY_OWNED PyObject *last_of = py_take(&o->last_of);
    return PyObject_SetAttrString(last_of, "is_last", Py_False);
}

static PyObject *
submit(PyObject *self, enum submit how, const char *name, PyObject *const *args, Py_ssize_t n)
{
    if (n < 1) {
        PyErr_Format(PyExc_TypeError, "%s() missing required argument: 'fn'", name);
        return NULL;
    }
    struct lease_object *o = lease_of(self);
    if (UNLIKELY(o->last_of != NULL)) {
        if (how == SUBMIT_OPTIONAL && o->calls == 0)
            how = SUBMIT_LAST;
        else if (was_not_last(o) < 0)
            return NULL;
    }
    o->calls++;
    return job_submit(o->pool, &o->lease, self, how, args[0], args + 1, n - 1);
}

static PyObject *
meth_submit(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return submit(self, SUBMIT, "submit", args, n);
}

static PyObject *
meth_submit_apart(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return submit(self, SUBMIT_APART, "submit_apart", args, n);
}

static PyObject *
meth_submit_optional(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return submit(self, SUBMIT_OPTIONAL, "submit_optional", args, n);
}

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    lease_end(self);
    Py_RETURN_NONE;
}

static PyObject *
meth_give_back(PyObject *self, PyObject *unused)
{
    (void)unused;
    crew_lease_give_back(&lease_of(self)->lease);
    Py_RETURN_NONE;
}

static PyObject *
meth_keep(PyObject *self, PyObject *unused)
{
    (void)unused;
    crew_lease_keep(&lease_of(self)->lease);
    Py_RETURN_NONE;
}

static PyObject *
get_label(PyObject *self, void *unused)
{
    (void)unused;
    const char *label = lease_of(self)->lease.label;
    return PyUnicode_DecodeUTF8(label, (Py_ssize_t)strlen(label), "replace");
}

static PyObject *
get_is_busy(PyObject *self, void *unused)
{
    (void)unused;
    struct lease *l = &lease_of(self)->lease;
    crew_lock(l->crew);
    bool is_busy = l->running != NULL || !list_is_empty(&l->jobs);
    crew_unlock(l->crew);
    return PyBool_FromLong(is_busy);
}

/* asgiref 3.13 asks the object in its context variable whether its block was left. A lease works for ever. */
static PyObject *
get_exited(PyObject *self, void *unused)
{
    (void)self, (void)unused;
    return Py_NewRef(Py_False);
}

static unsigned long
thread_of(PyObject *self)
{
    struct lease *l = &lease_of(self)->lease;
    crew_lock(l->crew);
    unsigned long ident = l->thread != NULL ? l->thread->ident : 0;
    crew_unlock(l->crew);
    return ident;
}

static PyObject *
get_was_used(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(lease_was_used(self));
}

static PyObject *
get_has_slot(PyObject *self, void *unused)
{
    (void)unused;
    struct lease *l = &lease_of(self)->lease;
    crew_lock(l->crew);
    bool has_slot = l->has_slot;
    crew_unlock(l->crew);
    return PyBool_FromLong(has_slot);
}

static PyObject *
get_has_no_thread(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(READ(lease_of(self)->has_no_thread));
}

static PyObject *
get_has_thread(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(thread_of(self) != 0);
}

static PyObject *
get_thread_ident(PyObject *self, void *unused)
{
    (void)unused;
    unsigned long ident = thread_of(self);
    return ident != 0 ? PyLong_FromUnsignedLong(ident) : Py_NewRef(Py_None);
}

static PyObject *
get_is_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(lease_of(self)->is_closed);
}

static PyObject *
get_at_end(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *at_end = lease_of(self)->at_end;
    return Py_NewRef(at_end != NULL ? at_end : Py_None);
}

static int
set_at_end(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    Py_XSETREF(lease_of(self)->at_end, value != Py_None ? Py_XNewRef(value) : NULL);
    return 0;
}

static PyObject *
get_last_of(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *last_of = lease_of(self)->last_of;
    return Py_NewRef(last_of != NULL ? last_of : Py_None);
}

static int
set_last_of(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    Py_XSETREF(lease_of(self)->last_of, value != Py_None ? Py_XNewRef(value) : NULL);
    return 0;
}

static PyObject *
get_request(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *request = lease_of(self)->request;
    return Py_NewRef(request != NULL ? request : Py_None);
}

static PyObject *
get_driver_ns(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromLongLong(lease_driver_ns(&lease_of(self)->lease));
}

static PyObject *
get_calls(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(lease_of(self)->calls);
}

/* --- type ---------------------------------------------------------------------------------------- */

static int
lease_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(lease_of(self)->pool);
    Py_VISIT(lease_of(self)->at_end);
    Py_VISIT(lease_of(self)->last_of);
    return 0;
}

static int
lease_clear(PyObject *self)
{
    Py_CLEAR(lease_of(self)->at_end);
    Py_CLEAR(lease_of(self)->last_of);
    return 0;
}

static void
lease_dealloc(PyObject *self)
{
    struct lease_object *o = lease_of(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (o->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    if (o->pool != NULL)
        lease_end(self);
    Py_CLEAR(o->at_end);
    Py_CLEAR(o->last_of);
    Py_XDECREF((PyObject *)o->pool);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
lease_repr(PyObject *self)
{
    PY_OWNED PyObject *label = get_label(self, NULL);
    return label != NULL
               ? PyUnicode_FromFormat("<Lease %R of pool %R>", label, lease_of(self)->pool->name)
               : NULL;
}

struct lease *
lease_inside(PyObject *lease)
{
    return &lease_of(lease)->lease;
}

const char *
lease_stand(struct lease *l, unsigned long *ident)
{
    crew_lock(l->crew);
    const char *stand = l->running != NULL                  ? "running"
                        : !list_is_empty(&l->jobs)          ? "waiting"
                        : l->thread == NULL || l->is_closed ? NULL
                        : l->has_slot                       ? "holding"
                                                            : "parked";
    *ident = l->thread != NULL ? l->thread->ident : 0;
    crew_unlock(l->crew);
    return stand;
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef lease_methods[] = {
    { "submit", FAST(meth_submit), METH_FASTCALL,
      "Queue fn(*args) for the lease's thread; returns a future of the loop, or in other threads "
      "one "
      "of concurrent.futures." },
    { "submit_apart", FAST(meth_submit_apart), METH_FASTCALL,
      "As submit(), beside the slots: begins at once where the lease has its thread and no other "
      "job." },
    { "submit_optional", FAST(meth_submit_optional), METH_FASTCALL,
      "As submit(); where the lease has no thread and requests keep all of threads_max, the future "
      "raises NoThread." },
    { "give_back", meth_give_back, METH_NOARGS,
      "The slot at once, and the thread where may_release() lets it go." },
    { "keep", meth_keep, METH_NOARGS,
      "From inside a call that was said to be the last: more will follow, on this thread." },
    { "close", meth_close, METH_NOARGS,
      "The thread is free when no job is left. Later calls still work." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef lease_members[] = {
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct lease_object, weakrefs), Py_READONLY,
      NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef lease_getset[] = {
    { "label", get_label, NULL, "Whose it is.", NULL },
    { "is_busy", get_is_busy, NULL, "A job of it runs or waits.", NULL },
    { "has_thread", get_has_thread, NULL, "It has its thread now.", NULL },
    { "was_used", get_was_used, NULL, "A job of it has run, or could have.", NULL },
    { "has_slot", get_has_slot, NULL, "A job of it would begin at once, or runs.", NULL },
    { "has_no_thread", get_has_no_thread, NULL, "A job of it has raised NoThread.", NULL },
    { "thread_ident", get_thread_ident, NULL, "Of its thread, as threading.get_ident(); or None.",
      NULL },
    { "is_closed", get_is_closed, NULL, "The request has ended.", NULL },
    { "at_end", get_at_end, set_at_end,
      "at_end(lease) is called when the request has ended, on the thread that ends it; or None.",
      NULL },
    { "last_of", get_last_of, set_last_of,
      "Says that the next call, by submit_optional(), is likely to be the only one: its thread is "
      "free after it. last_of.is_last is set to False where another follows all the same.",
      NULL },
    { "request", get_request, NULL,
      "The request's _Cycle, until its end; None where it is a thread's alone.", NULL },
    { "driver_ns", get_driver_ns, NULL,
      "For how long its threads were in drivers of databases: operations that have ended.", NULL },
    { "calls", get_calls, NULL, "How many there were.", NULL },
    { "_exited", get_exited, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot lease_slots[] = {
    { Py_tp_doc, "A claim to one thread of a pool: Pool.lease()." },
    { Py_tp_dealloc, lease_dealloc },
    { Py_tp_traverse, lease_traverse },
    { Py_tp_clear, lease_clear },
    { Py_tp_repr, lease_repr },
    { Py_tp_methods, lease_methods },
    { Py_tp_members, lease_members },
    { Py_tp_getset, lease_getset },
    { 0, NULL },
};

PyType_Spec lease_spec = {
    .name = "_ringcorn.Lease",
    .basicsize = sizeof(struct lease_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = lease_slots,
};
