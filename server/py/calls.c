/* calls.c: call_soon() and its like: what makes handles and queues them.
 *
 * Runs on:  the loop's thread with the GIL; the threadsafe ones on any thread with the GIL. */
#include "py/private.h"

#include <math.h>

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
                PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
                             method, name);
                return -1;
            }
        }
        if (values[i] != Py_None)
            *context = values[i];
    }
    if (*context != NULL && !PyContext_CheckExact(*context)) {
        PyErr_Format(PyExc_TypeError, "%s(): context must be a contextvars.Context, not %.100s",
                     method, Py_TYPE(*context)->tp_name);
        return -1;
    }
    return 0;
}

/* Debug mode: asyncio's own checks of thread and callback. */
static int
check_debug(struct loop *l, PyObject *callback, PyObject *method, bool check_thread)
{
    if (check_thread) {
        PY_OWNED PyObject *thread =
            PyObject_CallMethodNoArgs((PyObject *)l, l->state->s__check_thread);
        if (thread == NULL)
            return -1;
    }
    PY_OWNED PyObject *checked = PyObject_CallMethodObjArgs(
        (PyObject *)l, l->state->s__check_callback, callback, method, NULL);
    return checked != NULL ? 0 : -1;
}

int
loop_missing(const char *method, const char *what)
{
    PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", method, what);
    return -1;
}

PyObject *
calls_soon(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 1 && loop_missing("call_soon", "callback") < 0)
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

PyObject *
calls_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 1 && loop_missing("call_soon_threadsafe", "callback") < 0)
        return NULL;
    if (loop_check_open(l) < 0 ||
        parse_context(l, "call_soon_threadsafe", args + n, kwnames, &context) < 0)
        return NULL;
    if (UNLIKELY(l->is_debug) &&
        check_debug(l, args[0], l->state->s_call_soon_threadsafe, false) < 0)
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

PyObject *
calls_later(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 2 && loop_missing("call_later", n < 1 ? "delay" : "callback") < 0)
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
    return call_at(l, (double)loop_now_ns(l) * 1e-9 + delay, args, n, context);
}

PyObject *
calls_at(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct loop *l = loop_of(self);
    PyObject *context;

    if (n < 2 && loop_missing("call_at", n < 1 ? "when" : "callback") < 0)
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
    PyObject *timer = call_at(l, when, args, n, context);
    if (timer != NULL)
        ((struct timer_handle *)timer)->is_whole = PyLong_Check(args[0]);
    return timer;
}

PyObject *
calls_add_callback(PyObject *self, PyObject *handle)
{
    struct loop *l = loop_of(self);
    PY_OWNED PyObject *cancelled = PyObject_GetAttr(handle, l->state->s__cancelled);
    int is_cancelled = cancelled != NULL ? PyObject_IsTrue(cancelled) : -1;
    if (is_cancelled < 0 || (!is_cancelled && loop_push(l, Py_NewRef(handle)) < 0))
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
calls_write_to_self(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop *l = loop_of(self);
    atomic_store(&l->is_poked, true);
    if (l->io != NULL)
        io_wake(l->io);
    Py_RETURN_NONE;
}

PyObject *
calls_add_callback_signalsafe(PyObject *self, PyObject *handle)
{
    PY_OWNED PyObject *added = calls_add_callback(self, handle);
    return added != NULL ? calls_write_to_self(self, NULL) : NULL;
}

/* asyncio.TimerHandle.cancel() tells its loop; our own timers do not come this way. */
PyObject *
calls_timer_handle_cancelled(PyObject *self, PyObject *handle)
{
    (void)self;
    (void)handle;
    Py_RETURN_NONE;
}
