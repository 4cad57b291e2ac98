/* weakset.c: the registry of asyncio's tasks, made cheap.
 *
 * Up to CPython 3.13 every task that is scheduled is added to a weakref.WeakSet: two calls of Python code a task, a fifth of what a small request
 * costs. WeakSet is Python; the same two methods in C, put on that one instance, do the same to the same set: all_tasks() and
 * everything else that reads it sees no difference.
 *
 * Runs on:  any thread with the GIL. */
#include "py/private.h"

/* What both callables need of the WeakSet: its own containers, which it never replaces. */
struct weakset {
    PyObject *owner;     /* borrowed: it holds us */
    PyObject *data;      /* new: set of weak references */
    PyObject *pending;   /* new: list, removals put off while somebody iterates */
    PyObject *iterating; /* new: set */
    PyObject *remove;    /* new: the callback of every weak reference */
};

#define WEAKSET_CAPSULE "_ringcorn.weakset"

static void
weakset_free(PyObject *capsule)
{
    struct weakset *w = PyCapsule_GetPointer(capsule, WEAKSET_CAPSULE);
    Py_XDECREF(w->data);
    Py_XDECREF(w->pending);
    Py_XDECREF(w->iterating);
    Py_XDECREF(w->remove);
    free(w);
}

/* As WeakSet's _remove(): the referent is gone. */
static PyObject *
weakset_remove(PyObject *capsule, PyObject *ref)
{
    struct weakset *w = PyCapsule_GetPointer(capsule, WEAKSET_CAPSULE);
    if (w == NULL)
        return NULL;
    int err = PySet_GET_SIZE(w->iterating) > 0 ? PyList_Append(w->pending, ref)
                                               : PySet_Discard(w->data, ref);
    return err < 0 ? NULL : Py_NewRef(Py_None);
}

/* As WeakSet.add(). */
static PyObject *
weakset_add(PyObject *capsule, PyObject *item)
{
    struct weakset *w = PyCapsule_GetPointer(capsule, WEAKSET_CAPSULE);
    if (w == NULL)
        return NULL;
    if (PyList_GET_SIZE(w->pending) > 0) {
        PY_OWNED PyObject *done = PyObject_CallMethod(w->owner, "_commit_removals", NULL);
        if (done == NULL)
            return NULL;
    }
    PY_OWNED PyObject *ref = PyWeakref_NewRef(item, w->remove);
    if (ref == NULL || PySet_Add(w->data, ref) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef remove_def = { "_remove", weakset_remove, METH_O, NULL };
static PyMethodDef add_def = { "add", weakset_add, METH_O, "Add an element." };

PyObject *
weakset_speed_up(PyObject *module, PyObject *set)
{
    (void)module;
    struct weakset *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return PyErr_NoMemory();
    w->owner = set;
    PY_OWNED PyObject *capsule = PyCapsule_New(w, WEAKSET_CAPSULE, weakset_free);
    if (capsule == NULL) {
        free(w);
        return NULL;
    }
    w->data = PyObject_GetAttrString(set, "data");
    w->pending = PyObject_GetAttrString(set, "_pending_removals");
    w->iterating = PyObject_GetAttrString(set, "_iterating");
    if (w->data == NULL || w->pending == NULL || w->iterating == NULL)
        return NULL;
    if (!PySet_CheckExact(w->data) || !PyList_CheckExact(w->pending) ||
        !PySet_CheckExact(w->iterating)) {
        PyErr_SetString(PyExc_TypeError, "not the WeakSet that this was made for");
        return NULL;
    }
    /* capsule -> remove -> capsule would be a cycle that nobody breaks: the callback has a capsule of its own. */
    struct weakset *r = calloc(1, sizeof(*r));
    PY_OWNED PyObject *remove_capsule =
        r != NULL ? PyCapsule_New(r, WEAKSET_CAPSULE, weakset_free) : NULL;
    if (remove_capsule == NULL) {
        free(r);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    r->data = Py_NewRef(w->data);
    r->pending = Py_NewRef(w->pending);
    r->iterating = Py_NewRef(w->iterating);
    w->remove = PyCFunction_New(&remove_def, remove_capsule);
    PY_OWNED PyObject *add = w->remove != NULL ? PyCFunction_New(&add_def, capsule) : NULL;
    if (add == NULL || PyObject_SetAttrString(set, "_remove", w->remove) < 0 ||
        PyObject_SetAttrString(set, "add", add) < 0)
        return NULL;
    Py_RETURN_NONE;
}
