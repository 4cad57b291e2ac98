/* handle.c: callbacks to run: the types _ringcorn.Handle and _ringcorn.TimerHandle, as asyncio's of
 * the same names.
 *
 * A handle keeps up to three arguments inline and is kept for reuse when it is freed, so that
 * call_soon() allocates nothing in steady state. It calls its callback by vectorcall inside its
 * context.
 *
 * Runs on:  any thread with the GIL.
 * Always:   a cancelled handle holds neither callback nor arguments, except while it runs. */
#include "py/private.h"

/* --- life ------------------------------------------------------------------------------------- */

static void
clear_call(struct handle *h)
{
    PyObject *callback = h->callback;
    PyObject **args = h->args;
    Py_ssize_t n = h->n_args;

    /* Dropping an argument may run code that looks at this handle: let go first, release then. */
    h->callback = NULL;
    h->args = &h->slots[1];
    h->n_args = 0;
    if (args == &h->slots[1]) {
        PyObject *held[HANDLE_ARGS_INLINE];
        for (Py_ssize_t i = 0; i < n; i++) {
            held[i] = args[i];
            args[i] = NULL;
        }
        for (Py_ssize_t i = 0; i < n; i++)
            Py_DECREF(held[i]);
    } else {
        for (Py_ssize_t i = 0; i < n; i++)
            Py_DECREF(args[i]);
        PyMem_Free(args - 1);
    }
    Py_XDECREF(callback);
}

static int
handle_clear(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    clear_call(h);
    Py_CLEAR(h->context);
    Py_CLEAR(h->traceback);
    Py_CLEAR(h->repr);
    Py_CLEAR(h->loop);
    return 0;
}

static int
handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct handle *h = (struct handle *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(h->loop);
    Py_VISIT(h->callback);
    Py_VISIT(h->context);
    Py_VISIT(h->traceback);
    for (Py_ssize_t i = 0; i < h->n_args; i++)
        Py_VISIT(h->args[i]);
    return 0;
}

static void
handle_dealloc(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    PyTypeObject *type = Py_TYPE(self);
    struct py_state *st = h->loop != NULL ? h->loop->state : PyType_GetModuleState(type);

    PyObject_GC_UnTrack(self);
    if (h->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    /* As handle_clear(), and the state lives as long as the type, of which we still hold a
     * reference. */
    handle_clear(self);
    live.handles--;
    struct handle **list = NULL;
    unsigned *n = NULL;
    if (type == st->handle_type)
        list = &st->free_handles, n = &st->free_handles_n;
    else if (type == st->timer_type)
        list = &st->free_timers, n = &st->free_timers_n;
    if (list != NULL && *n < HANDLES_FREE_MAX) {
        h->loop = (struct loop *)(void *)*list;
        *list = h;
        ++*n;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

static void
free_list(struct handle **list, unsigned *n)
{
    while (*list != NULL) {
        struct handle *h = *list;
        *list = (struct handle *)(void *)h->loop;
        PyObject_GC_Del(h);
    }
    *n = 0;
}

void
handles_free_all(struct py_state *st)
{
    free_list(&st->free_handles, &st->free_handles_n);
    free_list(&st->free_timers, &st->free_timers_n);
}

/* Memory for a handle of either type: everything but the header is zero. Not tracked yet. */
static struct handle *
handle_alloc(PyTypeObject *type, struct handle **list, unsigned *n, size_t size)
{
    struct handle *h = *list;
    if (h != NULL) {
        *list = (struct handle *)(void *)h->loop;
        --*n;
        PyObject_Init((PyObject *)h, type);
    } else {
        h = (struct handle *)(void *)PyObject_GC_New(struct handle, type);
        if (h == NULL)
            return NULL;
    }
    memset((char *)h + sizeof(PyObject), 0, size - sizeof(PyObject));
    return h;
}

static int
handle_fill(struct handle *h, struct loop *l, PyObject *callback, PyObject *const *args,
            Py_ssize_t n, PyObject *context)
{
    h->args = &h->slots[1];
    h->loop = (struct loop *)Py_NewRef((PyObject *)l);
    live.handles++;
    if (n > HANDLE_ARGS_INLINE) {
        PyObject **more = PyMem_Malloc((size_t)(n + 1) * sizeof *more);
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        h->args = more + 1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        h->args[i] = Py_NewRef(args[i]);
    h->n_args = n;
    h->callback = Py_NewRef(callback);
    h->context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    if (h->context == NULL)
        return -1;
    if (l->is_debug) {
        /* Of the Python code that called us, if any; borrowed. */
        PyFrameObject *frame = PyEval_GetFrame();
        if (frame != NULL) {
            h->traceback = PyObject_CallOneArg(l->state->extract_stack, (PyObject *)frame);
            if (h->traceback == NULL)
                return -1;
        }
    }
    return 0;
}

struct handle *
handle_new(struct loop *l, PyObject *callback, PyObject *const *args, Py_ssize_t n,
           PyObject *context)
{
    struct py_state *st = l->state;
    struct handle *h =
        handle_alloc(st->handle_type, &st->free_handles, &st->free_handles_n, sizeof *h);
    if (h == NULL)
        return NULL;
    int err = handle_fill(h, l, callback, args, n, context);
    PyObject_GC_Track(h);
    if (err < 0) {
        Py_DECREF(h);
        return NULL;
    }
    return h;
}

struct timer_handle *
timer_new(struct loop *l, double when, PyObject *callback, PyObject *const *args, Py_ssize_t n,
          PyObject *context)
{
    struct py_state *st = l->state;
    struct handle *h = handle_alloc(st->timer_type, &st->free_timers, &st->free_timers_n,
                                    sizeof(struct timer_handle));
    if (h == NULL)
        return NULL;
    struct timer_handle *t = (struct timer_handle *)h;
    t->when = when;
    t->is_whole = false;
    int err = handle_fill(h, l, callback, args, n, context);
    PyObject_GC_Track(h);
    if (err < 0) {
        Py_DECREF(h);
        return NULL;
    }
    return t;
}

/* --- running ---------------------------------------------------------------------------------- */

static PyObject *
args_tuple(struct handle *h)
{
    PyObject *tuple = PyTuple_New(h->n_args);
    if (tuple == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < h->n_args; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(h->args[i]));
    return tuple;
}

/* "callback(args) at file:line": new. */
static PyObject *
describe_call(struct handle *h)
{
    PY_OWNED PyObject *args = args_tuple(h);
    if (args == NULL)
        return NULL;
    return PyObject_CallFunctionObjArgs(h->loop->state->format_callback_source,
                                        h->callback != NULL ? h->callback : Py_None, args, NULL);
}

/* The callback has raised. */
static int
report_call(struct handle *h)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PyObject *exception = PyErr_GetRaisedException();
    PY_OWNED PyObject *call = describe_call(h);
    PY_OWNED PyObject *message =
        call != NULL ? PyUnicode_FromFormat("Exception in callback %U", call) : NULL;
    if (message == NULL) { /* a repr() that raises: the first exception matters more */
        PyErr_Clear();
        message = PyUnicode_FromString("Exception in callback");
        if (message == NULL) {
            Py_XDECREF(exception);
            return -1;
        }
    }
    PyErr_SetRaisedException(exception);
    return py_report(h->loop, message, h);
}

int
handle_run(struct handle *h)
{
    int err = 0;

    h->running = true;
    if (LIKELY(PyContext_Enter(h->context) == 0)) {
        PyObject *result = PyObject_Vectorcall(
            h->callback, h->args, (size_t)h->n_args | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
        /* Leaves the pending exception alone; fails only where the callback left another context
         * entered. */
        PyObject *pending = result == NULL ? PyErr_GetRaisedException() : NULL;
        int left = PyContext_Exit(h->context);
        if (pending != NULL)
            PyErr_SetRaisedException(pending);
        if (result == NULL || left < 0)
            err = report_call(h);
        Py_XDECREF(result);
    } else {
        err = report_call(h);
    }
    h->running = false;
    if (h->cancelled)
        clear_call(h);
    return err;
}

int
handle_cancel(struct handle *h)
{
    if (h->cancelled)
        return 0;
    h->cancelled = true;
    if (h->loop->is_debug) {
        /* For "Executing <Handle ...> took 2.5 seconds". */
        PyObject *repr = PyObject_Repr((PyObject *)h);
        if (repr == NULL)
            return -1;
        Py_XSETREF(h->repr, repr);
    }
    if (!h->running)
        clear_call(h);
    return 0;
}

/* --- what Python sees ------------------------------------------------------------------------- */

static PyObject *
meth_cancel(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (handle_cancel((struct handle *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
meth_cancel_timer(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct timer_handle *t = (struct timer_handle *)self;
    bool was_cancelled = t->base.cancelled;
    if (handle_cancel(&t->base) < 0)
        return NULL;
    if (!was_cancelled && t->scheduled)
        timers_cancelled(&t->base.loop->timers);
    Py_RETURN_NONE;
}

static PyObject *
meth_cancelled(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct handle *)self)->cancelled);
}

static PyObject *
meth_get_context(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(((struct handle *)self)->context);
}

static PyObject *
meth_run(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct handle *h = (struct handle *)self;
    if (!h->cancelled && handle_run(h) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
when_of(const struct timer_handle *t)
{
    return t->is_whole ? PyLong_FromDouble(t->when) : PyFloat_FromDouble(t->when);
}

static PyObject *
meth_when(PyObject *self, PyObject *unused)
{
    (void)unused;
    return when_of((struct timer_handle *)self);
}

/* asyncio's own name of it, which some read. */
static PyObject *
get_when(PyObject *self, void *unused)
{
    (void)unused;
    return when_of((struct timer_handle *)self);
}

static PyObject *
get_callback(PyObject *self, void *unused)
{
    (void)unused;
    struct handle *h = (struct handle *)self;
    return Py_NewRef(h->callback != NULL && !h->cancelled ? h->callback : Py_None);
}

static PyObject *
get_args(PyObject *self, void *unused)
{
    (void)unused;
    struct handle *h = (struct handle *)self;
    if (h->cancelled)
        Py_RETURN_NONE;
    return args_tuple(h);
}

static PyObject *
get_traceback(PyObject *self, void *unused)
{
    (void)unused;
    struct handle *h = (struct handle *)self;
    return Py_NewRef(h->traceback != NULL ? h->traceback : Py_None);
}

/* As asyncio.Handle._repr_info(). */
static PyObject *
meth_repr_info(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct handle *h = (struct handle *)self;
    PY_OWNED PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(self), "__name__");
    PY_OWNED PyObject *info = PyList_New(0);
    if (name == NULL || info == NULL || PyList_Append(info, name) < 0)
        return NULL;
    if (h->cancelled) {
        PY_OWNED PyObject *word = PyUnicode_FromString("cancelled");
        if (word == NULL || PyList_Append(info, word) < 0)
            return NULL;
    }
    if (Py_TYPE(self) == h->loop->state->timer_type) {
        PY_OWNED PyObject *when = PyFloat_FromDouble(((struct timer_handle *)self)->when);
        PY_OWNED PyObject *text = when != NULL ? PyUnicode_FromFormat("when=%R", when) : NULL;
        if (text == NULL || PyList_Append(info, text) < 0)
            return NULL;
    }
    if (h->callback != NULL) {
        PY_OWNED PyObject *call = describe_call(h);
        if (call == NULL || PyList_Append(info, call) < 0)
            return NULL;
    }
    if (h->traceback != NULL && PyObject_IsTrue(h->traceback) == 1) {
        PY_OWNED PyObject *frame = PySequence_GetItem(h->traceback, -1);
        PY_OWNED PyObject *file = frame != NULL ? PySequence_GetItem(frame, 0) : NULL;
        PY_OWNED PyObject *line = frame != NULL ? PySequence_GetItem(frame, 1) : NULL;
        PY_OWNED PyObject *text = file != NULL && line != NULL
                                      ? PyUnicode_FromFormat("created at %S:%S", file, line)
                                      : NULL;
        if (text == NULL || PyList_Append(info, text) < 0)
            return NULL;
    }
    return py_take(&info);
}

static PyObject *
handle_repr(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    if (h->repr != NULL)
        return Py_NewRef(h->repr);
    PY_OWNED PyObject *info = meth_repr_info(self, NULL);
    PY_OWNED PyObject *space = PyUnicode_FromString(" ");
    PY_OWNED PyObject *text = info != NULL && space != NULL ? PyUnicode_Join(space, info) : NULL;
    return text != NULL ? PyUnicode_FromFormat("<%U>", text) : NULL;
}

/* asyncio's equality of timers: same time, callback, arguments and state. 1, 0 or -1. */
static int
timers_are_equal(struct timer_handle *a, struct timer_handle *b)
{
    if (a->when != b->when || a->base.cancelled != b->base.cancelled ||
        a->base.n_args != b->base.n_args)
        return 0;
    if ((a->base.callback == NULL) != (b->base.callback == NULL))
        return 0;
    if (a->base.callback == NULL)
        return 1;
    PY_OWNED PyObject *callback_a = Py_NewRef(a->base.callback);
    PY_OWNED PyObject *callback_b = Py_NewRef(b->base.callback);
    PY_OWNED PyObject *args_a = args_tuple(&a->base);
    PY_OWNED PyObject *args_b = args_tuple(&b->base);
    if (args_a == NULL || args_b == NULL)
        return -1;
    int equal = PyObject_RichCompareBool(callback_a, callback_b, Py_EQ);
    return equal == 1 ? PyObject_RichCompareBool(args_a, args_b, Py_EQ) : equal;
}

static PyObject *
timer_compare(PyObject *self, PyObject *other, int op)
{
    if (Py_TYPE(self) != Py_TYPE(other))
        Py_RETURN_NOTIMPLEMENTED;
    struct timer_handle *a = (struct timer_handle *)self, *b = (struct timer_handle *)other;
    int result;
    switch (op) {
    case Py_LT:
        return PyBool_FromLong(a->when < b->when);
    case Py_GT:
        return PyBool_FromLong(a->when > b->when);
    case Py_LE:
        result = a->when < b->when ? 1 : timers_are_equal(a, b);
        break;
    case Py_GE:
        result = a->when > b->when ? 1 : timers_are_equal(a, b);
        break;
    default:
        result = timers_are_equal(a, b);
        if (result >= 0 && op == Py_NE)
            result = !result;
    }
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static Py_hash_t
timer_hash(PyObject *self)
{
    PY_OWNED PyObject *when = PyFloat_FromDouble(((struct timer_handle *)self)->when);
    return when != NULL ? PyObject_Hash(when) : -1;
}

/* clang-format off */
#define HANDLE_METHODS(cancel)                                                                     \
    { "cancel", cancel, METH_NOARGS, "Cancel the callback; a no-op for one that has run." },       \
    { "cancelled", meth_cancelled, METH_NOARGS, "True once it was cancelled." },                   \
    { "get_context", meth_get_context, METH_NOARGS, "The contextvars.Context it runs in." },       \
    { "_run", meth_run, METH_NOARGS, NULL },                                                       \
    { "_repr_info", meth_repr_info, METH_NOARGS, NULL }

#define HANDLE_MEMBERS                                                                             \
    { "_loop", Py_T_OBJECT_EX, offsetof(struct handle, loop), Py_READONLY, NULL },                 \
    { "_context", Py_T_OBJECT_EX, offsetof(struct handle, context), Py_READONLY, NULL },           \
    { "_cancelled", Py_T_BOOL, offsetof(struct handle, cancelled), Py_READONLY, NULL },            \
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct handle, weakrefs), Py_READONLY, NULL }
/* clang-format on */

static PyMethodDef handle_methods[] = {
    HANDLE_METHODS(meth_cancel),
    { NULL, NULL, 0, NULL },
};

static PyMethodDef timer_methods[] = {
    HANDLE_METHODS(meth_cancel_timer),
    { "when", meth_when, METH_NOARGS, "The time of the call, on loop.time()'s clock." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef handle_members[] = {
    HANDLE_MEMBERS,
    { NULL, 0, 0, 0, NULL },
};

static PyMemberDef timer_members[] = {
    HANDLE_MEMBERS,
    { "_scheduled", Py_T_BOOL, offsetof(struct timer_handle, scheduled), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef handle_getset[] = {
    { "_callback", get_callback, NULL, NULL, NULL },
    { "_args", get_args, NULL, NULL, NULL },
    { "_source_traceback", get_traceback, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyGetSetDef timer_getset[] = {
    { "_when", get_when, NULL, NULL, NULL },
    { "_callback", get_callback, NULL, NULL, NULL },
    { "_args", get_args, NULL, NULL, NULL },
    { "_source_traceback", get_traceback, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot handle_slots[] = {
    { Py_tp_doc, "A callback to run once; made by call_soon() and its like." },
    { Py_tp_dealloc, handle_dealloc },
    { Py_tp_traverse, handle_traverse },
    { Py_tp_clear, handle_clear },
    { Py_tp_repr, handle_repr },
    { Py_tp_methods, handle_methods },
    { Py_tp_members, handle_members },
    { Py_tp_getset, handle_getset },
    { 0, NULL },
};

enum {
    HANDLE_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
                   Py_TPFLAGS_DISALLOW_INSTANTIATION,
};

PyType_Spec handle_spec = {
    .name = "_ringcorn.Handle",
    .basicsize = sizeof(struct handle),
    .flags = HANDLE_FLAGS,
    .slots = handle_slots,
};

static PyType_Slot timer_slots[] = {
    { Py_tp_doc, "A callback to run at a time; made by call_later() and call_at()." },
    { Py_tp_dealloc, handle_dealloc },
    { Py_tp_traverse, handle_traverse },
    { Py_tp_clear, handle_clear },
    { Py_tp_repr, handle_repr },
    { Py_tp_richcompare, timer_compare },
    { Py_tp_hash, timer_hash },
    { Py_tp_methods, timer_methods },
    { Py_tp_members, timer_members },
    { Py_tp_getset, timer_getset },
    { 0, NULL },
};

PyType_Spec timer_spec = {
    .name = "_ringcorn.TimerHandle",
    .basicsize = sizeof(struct timer_handle),
    .flags = HANDLE_FLAGS,
    .slots = timer_slots,
};
