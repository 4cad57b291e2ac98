/* compat.h: what differs between CPython 3.11, 3.12, 3.13 and 3.14, under the newest name. Comes in through py.h. */
#ifndef RINGCORN_PY_COMPAT_H
#define RINGCORN_PY_COMPAT_H

#include <stddef.h>
#include <structmember.h>

#if PY_VERSION_HEX < 0x030b0000
#error "Ringcorn needs CPython 3.11 or later"
#endif

/* asyncio.Task(..., eager_start=True) runs the first step in the constructor. */
#define PY_HAS_EAGER_TASKS (PY_VERSION_HEX >= 0x030c0000)

#if PY_VERSION_HEX < 0x030c0000

#define Py_T_BOOL      T_BOOL
#define Py_T_OBJECT_EX T_OBJECT_EX
#define Py_T_PYSSIZET  T_PYSSIZET
#define Py_READONLY    READONLY

/* The pending exception as one object, new, and no longer pending; NULL when there is none. */
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
        Py_DECREF(traceback);
    }
    Py_DECREF(type);
    return value;
}

/* Steals exception, which may be NULL. */
static inline void
PyErr_SetRaisedException(PyObject *exception)
{
    if (exception == NULL) {
        PyErr_Clear();
        return;
    }
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception,
                  PyException_GetTraceback(exception));
}

#endif

#if PY_VERSION_HEX < 0x030d0000

/* 1 and *result new, 0 and *result NULL where the key is missing, -1 with an exception set. */
static inline int
PyDict_GetItemRef(PyObject *dict, PyObject *key, PyObject **result)
{
    *result = Py_XNewRef(PyDict_GetItemWithError(dict, key));
    if (*result != NULL)
        return 1;
    return PyErr_Occurred() ? -1 : 0;
}

/* 1 and *result new, 0 and *result NULL where there is no such attribute, -1 with another exception set. */
static inline int
PyObject_GetOptionalAttr(PyObject *object, PyObject *name, PyObject **result)
{
    *result = PyObject_GetAttr(object, name);
    if (*result != NULL)
        return 1;
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    return 0;
}

#endif

#endif
