/* wait.c: what receive() and send() return: an awaitable that does not suspend when there is nothing to wait for.
 *
 * It is its own iterator. Implements am_send (what `await` uses up to CPython 3.11 and C tasks always) and tp_iternext
 * (what 3.12's SEND instruction calls); a result of None then costs no StopIteration. A suspended one waits on a real
 * asyncio.Future, so that the Task takes its fast path and cancellation works as anywhere; when it is woken it looks again, so no
 * message is lost to a task that is cancelled in between.
 *
 * send(), throw() and close() make it a collections.abc.Coroutine: other servers' receive() and send() are `async def`, so applications
 * give what they return to asyncio.create_task(), and from threads to run_coroutine_threadsafe(). */
#include "asgi.h"

#include <stddef.h>
#include <structmember.h>

#include "base/shake.h"

/* Without a cycle, and not tracked by the collector. */
static struct wait *
wait_new(struct asgi_names *n, enum wait_kind kind)
{
    if (n == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the server has ended");
        return NULL;
    }
    struct wait *w = PyObject_GC_New(struct wait, n->wait_type);
    if (w == NULL)
        return NULL;
    list_init(&w->link);
    w->cycle = NULL;
    w->value = w->future = NULL;
    w->kind = kind;
    w->must_yield = false;
    return w;
}

PyObject *
wait_value(struct cycle *cycle, PyObject *value)
{
    bool must_yield = cycle_must_yield(cycle);
    struct asgi_names *n = cycle->asgi->names;
    if (LIKELY(value == NULL && !must_yield && n->wait_done != NULL))
        return Py_NewRef(n->wait_done);
    struct wait *w = wait_new(n, WAIT_VALUE); /* refers to nothing that could refer to it */
    if (w == NULL) {
        Py_XDECREF(value);
        return NULL;
    }
    w->value = value;
    w->must_yield = must_yield;
    if (value == NULL && !must_yield) /* the first of its kind serves for ever */
        n->wait_done = Py_NewRef((PyObject *)w);
    return (PyObject *)w;
}

PyObject *
wait_until(struct cycle *cycle, enum wait_kind kind, PyObject *message)
{
    struct wait *w = wait_new(cycle->asgi->names, kind);
    if (w == NULL)
        return NULL;
    w->cycle = (struct cycle *)Py_NewRef((PyObject *)cycle);
    w->value = Py_XNewRef(message);
    PyObject_GC_Track(w);
    return (PyObject *)w;
}

static void
forget_future(struct wait *w)
{
    list_del(&w->link);
    if (w->cycle != NULL)
        cycle_hold(w->cycle);
    Py_CLEAR(w->future);
}

/* Is it over? 1: *out is the result, new; 0: it must wait; -1: exception. */
static int
wait_look(struct wait *w, PyObject **out)
{
    if (w->kind == WAIT_RECEIVE) {
        /* Without h the application returned in another task. */
        *out = w->cycle->h != NULL ? receive_next(w->cycle) : receive_last(w->cycle);
        if (*out == NULL)
            return PyErr_Occurred() ? -1 : 0;
        return 1;
    }
    if (w->cycle->h != NULL && w->cycle->is_full && !h1_is_broken(w->cycle->h))
        return 0;
    *out = Py_NewRef(Py_None);
    return 1;
}

static PySendResult
wait_suspend(struct wait *w, PyObject **out)
{
    struct asgi *a = w->cycle->asgi;
    struct asgi_names *n = a->names;
    PyObject *args[] = { a->loop };
    w->future = PyObject_Vectorcall(n->future_type, args, 0, n->loop_kwname);
    if (w->future == NULL)
        return PYGEN_ERROR;
    /* All that its __await__ would do before it yields the future: an iterator less for as long as it waits. */
    if (PyObject_SetAttr(w->future, n->future_blocking, Py_True) < 0) {
        Py_CLEAR(w->future);
        return PYGEN_ERROR;
    }
    list_add_tail(&w->cycle->waits, &w->link);
    cycle_hold(w->cycle);
    *out = Py_NewRef(w->future);
    return PYGEN_NEXT;
}

/* What its __await__ would do after that: the future may have been given an exception. 0 or -1 with that set. */
static int
wait_awake(struct wait *w)
{
    struct asgi_names *n = w->cycle->asgi->names;
    PY_OWNED PyObject *future = Py_NewRef(w->future);
    forget_future(w);
    if (n == NULL) /* kept beyond the worker's end */
        return 0;
    PY_OWNED PyObject *result = PyObject_CallMethodNoArgs(future, n->result);
    return result == NULL ? -1 : 0;
}

/* WAIT_SEND, on the loop at last: sends, and becomes what the loop's own send() would have been. */
static int
send_late(struct wait *w)
{
    PY_OWNED PyObject *message = py_take(&w->value);
    PY_OWNED PyObject *sent = send_message(w->cycle, message);
    if (sent == NULL)
        return -1;
    w->kind = ((struct wait *)sent)->kind;
    w->must_yield = ((struct wait *)sent)->must_yield;
    return 0;
}

static PySendResult
wait_send(PyObject *self, PyObject *arg, PyObject **out)
{
    (void)arg;
    struct wait *w = (struct wait *)self;
    if (w->kind != WAIT_VALUE && UNLIKELY(w->cycle == NULL || !cycle_is_here(w->cycle))) {
        PyErr_SetString(PyExc_RuntimeError,
                        "receive() and send() can be awaited in the server's event loop only; "
                        "from a thread: asyncio.run_coroutine_threadsafe()");
        return PYGEN_ERROR;
    }
    if (UNLIKELY(w->kind == WAIT_SEND) && send_late(w) < 0)
        return PYGEN_ERROR;
    if (UNLIKELY(w->must_yield)) {
        w->must_yield = shake_here != NULL && shake_chance(shake_here, SHAKE_AWAITS);
        *out = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    if (LIKELY(w->kind == WAIT_VALUE)) {
        *out = w->value != NULL ? py_take(&w->value) : Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    if (w->future != NULL && wait_awake(w) < 0)
        return PYGEN_ERROR;
    int is_over = wait_look(w, out);
    if (is_over != 0)
        return is_over < 0 ? PYGEN_ERROR : PYGEN_RETURN;
    return wait_suspend(w, out);
}

static PyObject *
wait_next(PyObject *self)
{
    PyObject *out = NULL;
    switch (wait_send(self, Py_None, &out)) {
    case PYGEN_NEXT:
        return out;
    case PYGEN_RETURN:
        if (out != Py_None)
            PyErr_SetObject(PyExc_StopIteration, out);
        Py_DECREF(out);
        return NULL;
    case PYGEN_ERROR:
        break;
    }
    return NULL;
}

void
wait_wake_all(struct cycle *cycle)
{
    /* set_result() only schedules; but a foreign done callback could run Python, so hold each and start over at the head. */
    PY_OWNED PyObject *self = Py_NewRef((PyObject *)cycle);
    struct list waiting;
    list_init(&waiting);
    list_splice(&waiting, &cycle->waits);
    struct list *node;
    while ((node = list_pop(&waiting)) != NULL) {
        struct wait *w = CONTAINER_OF(node, struct wait, link);
        PY_OWNED PyObject *future = Py_XNewRef(w->future);
        if (future == NULL)
            continue;
        struct asgi_names *n = cycle->asgi->names;
        PY_OWNED PyObject *is_done = PyObject_CallMethodNoArgs(future, n->done);
        PyObject *args[] = { future, Py_None };
        PY_OWNED PyObject *done = is_done == Py_False
                                      ? PyObject_VectorcallMethod(n->set_result, args, 2, NULL)
                                      : Py_XNewRef(is_done);
        if (done == NULL)
            PyErr_WriteUnraisable(future);
    }
    cycle_hold(cycle); /* the loop has the tasks now */
}

static PyObject *
wait_iter(PyObject *self)
{
    return Py_NewRef(self);
}

/* --- the methods of a coroutine --------------------------------------------------------------------------------------- */

static PyObject *
meth_send(PyObject *self, PyObject *arg)
{
    PyObject *out = NULL;
    switch (wait_send(self, arg, &out)) {
    case PYGEN_NEXT:
        return out;
    case PYGEN_RETURN:
        PyErr_SetObject(PyExc_StopIteration, out);
        Py_DECREF(out);
        break;
    case PYGEN_ERROR:
        break;
    }
    return NULL;
}

/* Nobody waits with it any more. What it waited for comes to the next receive(). */
static void
wait_give_up(struct wait *w)
{
    forget_future(w);
    if (w->kind != WAIT_RECEIVE || w->cycle == NULL || w->cycle->h == NULL ||
        w->cycle->is_websocket || !cycle_is_here(w->cycle))
        return;
    LIST_FOR_EACH(node, &w->cycle->waits) {
        if (CONTAINER_OF(node, struct wait, link)->kind == WAIT_RECEIVE)
            return;
    }
    h1_leave_body(w->cycle->h);
}

/* throw(exception), or throw(type, value, traceback). */
static PyObject *
meth_throw(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n < 1 || n > 3 ||
        !(PyExceptionInstance_Check(args[0]) || PyExceptionClass_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "throw() takes an exception");
        return NULL;
    }
    wait_give_up((struct wait *)self);
    if (PyExceptionInstance_Check(args[0]))
        PyErr_SetRaisedException(Py_NewRef(args[0]));
    else
        PyErr_SetObject(args[0], n > 1 ? args[1] : NULL);
    return NULL;
}

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    wait_give_up((struct wait *)self);
    Py_RETURN_NONE;
}

static PyMethodDef wait_methods[] = {
    { "send", meth_send, METH_O, NULL },
    { "throw", (PyCFunction)(void (*)(void))meth_throw, METH_FASTCALL, NULL },
    { "close", meth_close, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static int
wait_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct wait *w = (struct wait *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)w->cycle);
    Py_VISIT(w->value);
    Py_VISIT(w->future);
    return 0;
}

static int
wait_clear(PyObject *self)
{
    struct wait *w = (struct wait *)self;
    forget_future(w);
    Py_CLEAR(w->value);
    Py_CLEAR(w->cycle);
    return 0;
}

static void
wait_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_GC_IsTracked(self))
        PyObject_GC_UnTrack(self);
    wait_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot wait_slots[] = {
    { Py_tp_dealloc, wait_dealloc }, { Py_tp_traverse, wait_traverse }, { Py_tp_clear, wait_clear },
    { Py_tp_iter, wait_iter },       { Py_tp_iternext, wait_next },     { Py_am_await, wait_iter },
    { Py_am_send, wait_send },       { Py_tp_methods, wait_methods },   { 0, NULL },
};

PyType_Spec wait_spec = {
    .name = "_ringcorn._Wait",
    .basicsize = sizeof(struct wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = wait_slots,
};
