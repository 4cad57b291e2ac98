/* call.c: one call of a WSGI application, on the thread that answers the request: environ, the call, its result, close().
 *
 * A result that is a list or a tuple is sent as a whole, with its length; of anything else each piece leaves before the next is asked for.
 * The loop learns of the answer's end before close() is called, so no client waits for what an application does afterwards.
 *
 * Runs on:  the request's thread, GIL held, inside the request's context.
 * Always:   what the application returned is closed exactly once, here, and no exception leaves. */
#include "wsgi/wsgi.h"

#include <errno.h>

#include "metrics/metrics.h"

enum outcome {
    FAILED = -1, /* an exception is set */
    DONE = 0,    /* the body is complete */
    GONE = 1,    /* nobody wants the rest */
};

static bool
is_gone(const struct exchange *ex)
{
    return atomic_load(&ex->is_gone) || atomic_load(&ex->is_broken) ||
           atomic_load(&ex->is_cancelled);
}

static void
report(struct wsgi_names *n, struct exchange *ex, PyObject *exception, const char *what)
{
    PY_OWNED PyObject *done = PyObject_CallFunction(n->report, "sOsOz#", ex->label, exception, what,
                                                    is_gone(ex) ? Py_True : Py_False, ex->req.id.p,
                                                    (Py_ssize_t)ex->req.id.n);
    if (done == NULL) {
        log_about(LOG_ERROR, ex->req.id, "%s: %s", ex->label, what);
        PyErr_WriteUnraisable(n->report);
    }
}

/* --- the result --------------------------------------------------------------------------------------------------------------------- */

/* A list or a tuple: all that will come is here. */
static enum outcome
send_whole(struct start *start, PyObject *result)
{
    struct exchange *ex = start->ex;
    size_t total = 0, pieces = 0;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(result);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(result, i);
        if (PyBytes_Check(item) && PyBytes_GET_SIZE(item) > 0) { /* what is none is found below */
            total += (size_t)PyBytes_GET_SIZE(item);
            pieces++;
        }
    }
    if (pieces > 1 && ex->answer.status != 0 && ex->answer.length == UINT64_MAX &&
        !ex->is_started && !start_is_bodiless(start))
        exchange_total(ex, total);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(result); i++) {
        PY_OWNED PyObject *item = Py_NewRef(PySequence_Fast_GET_ITEM(result, i));
        int err = start_send(start, item, false);
        if (err != 0)
            return err < 0 ? FAILED : GONE;
    }
    return DONE;
}

/* Whether the application says that there is one piece (PEP 3333, "Handling the Content-Length Header"). */
static bool
has_one_piece(PyObject *result)
{
    PyTypeObject *type = Py_TYPE(result);
    if ((type->tp_as_sequence == NULL || type->tp_as_sequence->sq_length == NULL) &&
        (type->tp_as_mapping == NULL || type->tp_as_mapping->mp_length == NULL))
        return false;
    Py_ssize_t n = PyObject_Size(result);
    if (n < 0)
        PyErr_Clear();
    return n == 1;
}

static enum outcome
send_each(struct start *start, PyObject *result)
{
    bool may_wait = !has_one_piece(result);
    PY_OWNED PyObject *iterator = PyObject_GetIter(result);
    if (iterator == NULL)
        return FAILED;
    for (;;) {
        PY_OWNED PyObject *item = PyIter_Next(iterator);
        if (item == NULL)
            return PyErr_Occurred() ? FAILED : DONE;
        int err = start_send(start, item, may_wait);
        if (err != 0)
            return err < 0 ? FAILED : GONE;
        /* should it have more than one after all */
        may_wait = may_wait || PyBytes_GET_SIZE(item) > 0;
        exchanges_collect(start->ex->set);
    }
}

static enum outcome
respond(struct start *start, PyObject *result)
{
    enum outcome outcome;
    if (LIKELY(PyList_CheckExact(result) || PyTuple_CheckExact(result))) {
        outcome = send_whole(start, result);
    } else if (PyBytes_Check(result)) {
        PyErr_SetString(
            PyExc_TypeError,
            "the application returned bytes, not an iterable of bytes: put them into a list");
        return FAILED;
    } else {
        int sent = file_send(start, result);
        outcome = sent == 0   ? send_each(start, result)
                  : sent < 0  ? FAILED
                  : sent == 1 ? DONE
                              : GONE;
    }
    if (outcome == DONE && UNLIKELY(start->ex->answer.status == 0)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the application returned without calling start_response()");
        return FAILED;
    }
    return outcome;
}

/* --- the end ------------------------------------------------------------------------------------------------------------------------- */

/* `later`: nothing is left to do but to let the thread go. */
static void
finish(struct wsgi_names *n, struct exchange *ex, enum outcome outcome, bool later)
{
    if (LIKELY(outcome == DONE)) {
        exchange_end(ex, later);
        return;
    }
    PY_OWNED PyObject *exception = outcome == FAILED ? PyErr_GetRaisedException() : NULL;
    bool has_begun = ex->is_started;
    exchange_fail(ex, later && exception == NULL);
    if (exception != NULL)
        report(n, ex, exception,
               has_begun ? "exception after the response had begun" : "exception");
}

static void
call_close(struct wsgi_names *n, struct exchange *ex, PyObject *close)
{
    PY_OWNED PyObject *done = close != NULL ? PyObject_CallNoArgs(close) : NULL;
    if (LIKELY(done != NULL))
        return;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    report(n, ex, exception, "exception in close()");
}

/* What the request has taken, up to here; by its route, where environ["ringcorn.route"] tells one. */
static void
count(struct wsgi_names *n, struct exchange *ex, PyObject *environ)
{
    struct metrics_spent spent = { .request_ns = clock_ns() - ex->begun_ns };
    spent.thread_ns = lease_spent(&ex->lease, &spent.calls);
    spent.calls.cpu_ns += job_cpu_ns();
    PyObject *route = environ != NULL ? PyDict_GetItemWithError(environ, n->route_key)
                                      : NULL; /* the key is a str */
    Py_ssize_t length = 0;
    const char *text =
        route != NULL && PyUnicode_Check(route) ? PyUnicode_AsUTF8AndSize(route, &length) : NULL;
    if (UNLIKELY(route != NULL && text == NULL))
        PyErr_Clear();
    metrics_count_route((struct slice){ text, text != NULL ? (size_t)length : 0 },
                        ex->answer.status, &spent, "");
}

static void
call_app(struct wsgi *w, struct exchange *ex)
{
    struct wsgi_names *n = w->names;
    PY_OWNED PyObject *input = input_new(n, ex);
    struct start *start = start_new(n, ex);
    PY_OWNED PyObject *start_owner = (PyObject *)start;
    PY_OWNED PyObject *environ = input == NULL || start == NULL ? NULL : environ_new(w, ex, input);
    PY_OWNED PyObject *result = NULL;
    if (environ != NULL) {
        PyObject *args[] = { NULL, environ, start_owner };
        result = PyObject_Vectorcall(w->app, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    enum outcome outcome = result == NULL ? FAILED : respond(start, result);
    if (result == NULL || PyList_CheckExact(result) || PyTuple_CheckExact(result)) {
        finish(n, ex, outcome, true);
    } else {
        PyObject *raised = PyErr_GetRaisedException();
        PY_OWNED PyObject *close = NULL;
        int has_close = PyObject_GetOptionalAttr(result, n->s_close, &close);
        PyObject *close_raised = has_close < 0 ? PyErr_GetRaisedException() : NULL;
        PyErr_SetRaisedException(raised);
        finish(n, ex, outcome, has_close == 0);
        if (close_raised != NULL)
            PyErr_SetRaisedException(close_raised);
        if (has_close != 0)
            call_close(n, ex, close);
    }
    if (input != NULL)
        input_end(input);
    if (start != NULL)
        start->ex = NULL;
    count(n, ex, environ);
}

void
call_serve(struct exchange *ex)
{
    struct wsgi *w = CONTAINER_OF(ex->set, struct wsgi, exchanges);
    exchanges_collect(ex->set);
    PY_OWNED PyObject *context = PyContext_Copy(w->context);
    if (UNLIKELY(context == NULL || PyContext_Enter(context) < 0)) {
        finish(w->names, ex, FAILED, true);
        return;
    }
    if (LIKELY(py_context_set(w->names->request_id, ex->req.id) == 0))
        call_app(w, ex);
    else
        finish(w->names, ex, FAILED, true);
    if (UNLIKELY(PyContext_Exit(context) < 0))
        PyErr_WriteUnraisable(context); /* the application has entered another, and not left it */
}
