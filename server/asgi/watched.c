/* watched.c: what ringcorn.guard (Python) knows of a request. Every request's context has its cycle in the variable ringcorn.guard.request, so
 * that whatever is made in that context, a task, a thread, a generator, can tell whose it is, also after the end. A variable costs more
 * than a plain answer's whole way through here, so it is set when a request does not end in its first step; until then the cycle is asgi->first.
 * With guard.mode raise, for development, it is there from the start, for threads and timers that the first step begins.
 * The guardrails keep what they noted in the cycle's attribute `guard`, and are told when the client goes and when the request ends.
 *
 * Runs on:  the loop thread, GIL held; the attributes on any thread.
 * Always:   without guardrails (guard.mode off) the names are NULL, and nothing here does anything. */
#include "asgi.h"

int
watched_begin(struct cycle *cycle)
{
    PyObject *variable = cycle->asgi->names->guard_request;
    if (LIKELY(variable == NULL || cycle->asgi->http.conf->guard_mode != CONF_GUARD_RAISE))
        return 0;
    PY_OWNED PyObject *token = PyContextVar_Set(variable, (PyObject *)cycle);
    return token == NULL ? -1 : 0;
}

int
watched_suspend(struct cycle *cycle, PyObject *context)
{
    PyObject *variable = cycle->asgi->names->guard_request;
    if (variable == NULL)
        return 0;
    if (PyContext_Enter(context) < 0)
        return -1;
    PY_OWNED PyObject *token = PyContextVar_Set(variable, (PyObject *)cycle);
    PY_OWNED PyObject *exception = token == NULL ? PyErr_GetRaisedException() : NULL;
    int err = PyContext_Exit(context);
    if (exception != NULL)
        PyErr_SetRaisedException(py_take(&exception));
    return token == NULL ? -1 : err;
}

PyObject *
asgi_first(const struct asgi *a)
{
    bool is_here = a->first != NULL && a->first->h != NULL && cycle_is_here(a->first);
    return Py_NewRef(is_here ? (PyObject *)a->first : Py_None);
}

static void
tell(PyObject *fn, PyObject *argument)
{
    PY_OWNED PyObject *done = PyObject_CallOneArg(fn, argument);
    if (done == NULL)
        PyErr_WriteUnraisable(fn);
}

void
watched_gone(struct cycle *cycle)
{
    PyObject *fn = cycle->asgi->names->guard_gone;
    if (fn != NULL && cycle_is_left(cycle))
        tell(fn, (PyObject *)cycle);
}

void
watched_cancel(struct cycle *cycle, PyObject *task)
{
    struct asgi_names *n = cycle->asgi->names;
    PY_OWNED PyObject *done =
        n->guard_cancel != NULL ? PyObject_CallOneArg(n->guard_cancel, (PyObject *)cycle) : NULL;
    if (done != NULL)
        return;
    if (n->guard_cancel != NULL) /* a guardrail that fails lets nobody go on */
        PyErr_WriteUnraisable(n->guard_cancel);
    done = PyObject_CallMethodNoArgs(task, n->cancel);
    if (done == NULL)
        PyErr_WriteUnraisable(task);
}

void
watched_end(struct cycle *cycle)
{
    if (LIKELY(cycle->guard == NULL))
        return;
    PY_OWNED PyObject *guard = py_take(&cycle->guard);
    PyObject *fn = cycle->asgi->names->guard_ended;
    if (fn != NULL)
        tell(fn, guard);
}

/* What is sent after the answer's end nobody waits for; and background tasks are none of the client's business. */
bool
cycle_is_left(const struct cycle *cycle)
{
    struct h1 *h = cycle->h;
    unsigned code;
    struct slice reason;
    if (h == NULL || cycle->knows_gone || cycle->is_leaving)
        return false;
    if (cycle->is_websocket)
        return !cycle->is_closed && !cycle->disconnect_is_told && h1_ws_is_over(h, &code, &reason);
    return h1_is_gone(h) && !h1_is_finished(h);
}

/* --- attributes of the cycle -------------------------------------------------------------------------------------- */

static PyObject *
get_label(PyObject *self, void *unused)
{
    (void)unused;
    const char *label = cycle_label((struct cycle *)self);
    return PyUnicode_DecodeUTF8(label, (Py_ssize_t)strlen(label), "replace");
}

static PyObject *
get_is_ended(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct cycle *)self)->h == NULL);
}

static PyObject *
get_is_left(PyObject *self, void *unused)
{
    (void)unused;
    struct cycle *cycle = (struct cycle *)self;
    if (cycle->h != NULL && !cycle_is_here(cycle)) {
        PyErr_SetString(PyExc_RuntimeError, "is_left can be asked on the event loop's thread only");
        return NULL;
    }
    return PyBool_FromLong(cycle_is_left(cycle));
}

PyGetSetDef cycle_getset[] = {
    { "label", get_label, NULL, "\"GET /path\".", NULL },
    { "is_ended", get_is_ended, NULL, "The request has ended.", NULL },
    { "is_left", get_is_left, NULL,
      "The client has gone, the answer is not complete, and the application has neither read nor "
      "sent since.",
      NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

/* limit(milliseconds) */
static PyObject *
meth_limit(PyObject *self, PyObject *arg)
{
    struct cycle *cycle = (struct cycle *)self;
    int64_t ms = PyLong_AsLongLong(arg);
    if (ms == -1 && PyErr_Occurred())
        return NULL;
    if (cycle->h != NULL && !cycle_is_here(cycle)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "limit() can be called on the event loop's thread only");
        return NULL;
    }
    if (cycle->h != NULL)
        h1_limit(cycle->h, ms, "ringcorn.timeout()");
    Py_RETURN_NONE;
}

PyMethodDef cycle_methods[] = {
    { "limit", meth_limit, METH_O,
      "limit(milliseconds): it has so long, from its head on, to be answered; 0: no limit." },
    { NULL, NULL, 0, NULL },
};

PyMemberDef cycle_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(struct cycle, call), READONLY, NULL },
    { "task", T_OBJECT, offsetof(struct cycle, task), READONLY,
      "The request's own; None in its first step and after its end." },
    { "lease", T_OBJECT, offsetof(struct cycle, lease), READONLY,
      "To a thread; None where nothing wants one, and after the end." },
    { "guard", T_OBJECT, offsetof(struct cycle, guard), 0,
      "What ringcorn.guard keeps with the request, until its end." },
    { NULL, 0, 0, 0, NULL },
};
