/* errors.c: where errors change their form: -errno to exceptions, and exceptions that nobody can
 * catch to the loop's handler.
 *
 * Runs on:  any thread with the GIL. */
#include "py/private.h"

#include <errno.h>

int
py_fail(int err)
{
    errno = err < 0 ? -err : err;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* The dict for loop.call_exception_handler(): new. */
static PyObject *
report_new(struct py_state *st, PyObject *message, PyObject *exception, struct handle *h)
{
    PY_OWNED PyObject *report = PyDict_New();
    if (report == NULL || PyDict_SetItem(report, st->s_message, message) < 0 ||
        PyDict_SetItem(report, st->s_exception, exception) < 0)
        return NULL;
    if (h != NULL && PyDict_SetItem(report, st->s_handle, (PyObject *)h) < 0)
        return NULL;
    if (h != NULL && h->traceback != NULL &&
        PyDict_SetItem(report, st->s_source_traceback, h->traceback) < 0)
        return NULL;
    return py_take(&report);
}

int
py_report(struct loop *l, PyObject *message, struct handle *h)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    if (exception == NULL)
        return 0;
    PY_OWNED PyObject *report = report_new(l->state, message, exception, h);
    if (report == NULL)
        return -1;
    PY_OWNED PyObject *done =
        PyObject_CallMethodOneArg((PyObject *)l, l->state->s_call_exception_handler, report);
    return done != NULL ? 0 : -1;
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
