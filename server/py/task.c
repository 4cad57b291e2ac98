/* task.c: a coroutine started at once, as a real asyncio.Task.
 *
 * From 3.12 on, the constructor runs the first step itself (eager_start). In 3.11 it calls
 * loop.call_soon(step, context=context): that call is recognised by the identity of the context,
 * which nobody else knows yet, and the step is kept back and run here. Either way current_task(),
 * all_tasks() and timeouts see what they see after create_task().
 *
 * Runs on:  the loop's thread, GIL held, phase 3, no task current. */
#include "py/private.h"

/* {"loop": loop, "context": context, "name": name, "eager_start": True}: new. Made once a loop and
 * used again and again: only context and name change. */
static PyObject *
take_kwargs(struct loop *l, PyObject *context, PyObject *name)
{
    struct py_state *st = l->state;
    PyObject *kwargs = py_take(&l->task_kwargs);
    if (kwargs == NULL) {
        kwargs = PyDict_New();
        if (kwargs == NULL)
            return NULL;
        if (PyDict_SetItem(kwargs, st->s_loop, (PyObject *)l) < 0 ||
            (PY_HAS_EAGER_TASKS && PyDict_SetItem(kwargs, st->s_eager_start, Py_True) < 0)) {
            Py_DECREF(kwargs);
            return NULL;
        }
    }
    if (PyDict_SetItem(kwargs, st->s_context, context) < 0 ||
        PyDict_SetItem(kwargs, st->s_name, name != NULL ? name : Py_None) < 0)
        Py_CLEAR(kwargs);
    return kwargs;
}

/* Steals kwargs. May be called with an exception set, which stays. */
static void
give_kwargs(struct loop *l, PyObject *kwargs)
{
    /* Replacing the value of a key that is there cannot fail; a request's context must not live on
     * in here. */
    if (l->task_kwargs == NULL && PyDict_SetItem(kwargs, l->state->s_context, Py_None) == 0)
        l->task_kwargs = kwargs;
    else
        Py_DECREF(kwargs);
}

#if !PY_HAS_EAGER_TASKS

/* The first step of a new task: 0, or -1 with SystemExit or KeyboardInterrupt set. */
static int
first_step(PyObject *step, PyObject *context)
{
    if (PyContext_Enter(context) < 0)
        return -1;
    PY_OWNED PyObject *done = PyObject_CallNoArgs(step);
    PyObject *exception = done == NULL ? PyErr_GetRaisedException() : NULL;
    int left = PyContext_Exit(context);
    if (exception != NULL)
        PyErr_SetRaisedException(exception);
    return done != NULL ? left : -1;
}

#endif

PyObject *
task_start(PyObject *loop, PyObject *coro, PyObject *context, PyObject *name)
{
    struct loop *l = loop_of(loop);

    if (loop_check_open(l) < 0)
        return NULL;
    PY_OWNED PyObject *args = PyTuple_Pack(1, coro);
    PyObject *kwargs = args != NULL ? take_kwargs(l, context, name) : NULL;
    if (kwargs == NULL)
        return NULL;
    step_begin(l);
#if PY_HAS_EAGER_TASKS
    PyObject *task = PyObject_Call(l->state->task_type, args, kwargs);
    give_kwargs(l, kwargs);
    return task;
#else
    l->grab_context = context;
    PY_OWNED PyObject *task = PyObject_Call(l->state->task_type, args, kwargs);
    l->grab_context = NULL;
    PY_OWNED PyObject *step = py_take(&l->grabbed);
    give_kwargs(l, kwargs);
    if (task == NULL || (step != NULL && first_step(step, context) < 0))
        return NULL;
    return py_take(&task);
#endif
}
