/* module.c: the module _ringcorn: multi-phase initialisation, constants and types in the module's
 * state, no globals.
 *
 * Built into the program, and as an extension that any Python can import (tests, or the loop
 * alone). The folders above py/ add their types in <folder>_add_types(); the references are weak,
 * so that what is linked in decides.
 *
 * Runs on:  any thread with the GIL. */
#include "py/private.h"

int transport_add_types(PyObject *module) __attribute__((weak));
int sync_add_types(PyObject *module) __attribute__((weak));
int aio_add_types(PyObject *module) __attribute__((weak));
int wsgi_add_types(PyObject *module) __attribute__((weak));
int asgi_add_types(PyObject *module) __attribute__((weak));
int guard_add_types(PyObject *module) __attribute__((weak));

typedef int (*add_types_fn)(PyObject *module);

static struct PyModuleDef module_def;

struct py_state *
py_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &module_def); /* borrowed from the type */
    return module != NULL ? PyModule_GetState(module) : NULL;
}

/* module.name: new. */
static PyObject *
import_from(const char *module_name, const char *name)
{
    PY_OWNED PyObject *module = PyImport_ImportModule(module_name);
    return module != NULL ? PyObject_GetAttrString(module, name) : NULL;
}

/* A type of the module; new. Also an attribute of the module. */
static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

static int
add_constants(struct py_state *st)
{
#define X(name)                                                                                    \
    if ((st->s_##name = PyUnicode_InternFromString(#name)) == NULL)                                \
        return -1;
    PY_NAMES(X)
#undef X
    if ((st->empty_tuple = PyTuple_New(0)) == NULL ||
        (st->future_type = import_from("asyncio", "Future")) == NULL ||
        (st->task_type = import_from("asyncio", "Task")) == NULL ||
        (st->format_callback_source =
             import_from("asyncio.format_helpers", "_format_callback_source")) == NULL ||
        (st->extract_stack = import_from("asyncio.format_helpers", "extract_stack")) == NULL)
        return -1;
    return 0;
}

static int
module_exec(PyObject *module)
{
    struct py_state *st = PyModule_GetState(module);

    if (!py_has_gil()) {
        PyErr_SetString(PyExc_ImportError, "Ringcorn relies on the GIL so far: without "
                                           "PYTHON_GIL=0 and -X gil=0 a free-threaded Python turns "
                                           "it on for this import");
        return -1;
    }
    if (add_constants(st) < 0)
        return -1;
    if ((st->handle_type = add_type(module, &handle_spec)) == NULL ||
        (st->timer_type = add_type(module, &timer_spec)) == NULL ||
        (st->loop_type = add_type(module, &loop_spec)) == NULL)
        return -1;
    const add_types_fn folders[] = { transport_add_types, sync_add_types, aio_add_types,
                                     wsgi_add_types,      asgi_add_types, guard_add_types };
    for (size_t i = 0; i < ARRAY_LEN(folders); i++)
        if (folders[i] != NULL && folders[i](module) < 0)
            return -1;
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct py_state *st = PyModule_GetState(module);
    Py_VISIT(st->loop_type);
    Py_VISIT(st->handle_type);
    Py_VISIT(st->timer_type);
    Py_VISIT(st->future_type);
    Py_VISIT(st->task_type);
    Py_VISIT(st->format_callback_source);
    Py_VISIT(st->extract_stack);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct py_state *st = PyModule_GetState(module);
    handles_free_all(st);
    Py_CLEAR(st->loop_type);
    Py_CLEAR(st->handle_type);
    Py_CLEAR(st->timer_type);
    Py_CLEAR(st->future_type);
    Py_CLEAR(st->task_type);
    Py_CLEAR(st->format_callback_source);
    Py_CLEAR(st->extract_stack);
    Py_CLEAR(st->empty_tuple);
#define X(name) Py_CLEAR(st->s_##name);
    PY_NAMES(X)
#undef X
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

/* live() -> dict: how many of each thing are alive in this process (base/live.h). */
static PyObject *
module_live(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PY_OWNED PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    static const struct {
        const char *name;
        const long *value;
    } counters[] = {
#define X(name) { #name, &live.name },
        LIVE_COUNTERS(X)
#undef X
    };
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
        PY_OWNED PyObject *value = PyLong_FromLong(*counters[i].value);
        if (value == NULL || PyDict_SetItemString(dict, counters[i].name, value) < 0)
            return NULL;
    }
    return py_take(&dict);
}

bool
loop_check(PyObject *module, PyObject *object)
{
    const struct py_state *st = PyModule_GetState(module);
    return PyObject_TypeCheck(object, st->loop_type);
}

/* task_start(loop, coro, context): for tests. */
static PyObject *
module_task_start(PyObject *module, PyObject *args)
{
    PyObject *loop, *coro, *context;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOO:_task_start", &loop, &coro, &context))
        return NULL;
    struct py_state *st = PyModule_GetState(module);
    if (!PyObject_TypeCheck(loop, st->loop_type) || !PyContext_CheckExact(context)) {
        PyErr_SetString(PyExc_TypeError,
                        "_task_start() takes a LoopCore, a coroutine and a Context");
        return NULL;
    }
    return task_start(loop, coro, context, NULL);
}

/* _log(level, logger, message, request_id, exception, members): a line of the error log, as those of C. The last three may be None. members: as
 * of struct log_entry. */
static PyObject *
module_log(PyObject *module, PyObject *args)
{
    enum { PARTS = 6 };
    struct slice parts[PARTS];
    PyObject *owners[PARTS] = { 0 };
    bool is_right = PyTuple_GET_SIZE(args) == PARTS;
    (void)module;
    for (size_t i = 0; is_right && i < PARTS; i++) {
        PyObject *text = PyTuple_GET_ITEM(args, (Py_ssize_t)i);
        parts[i] = (struct slice){ "", 0 };
        if (text == Py_None)
            continue;
        /* Lone surrogates, of file names for instance, are to be seen rather than to fail. */
        owners[i] = PyUnicode_Check(text)
                        ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace")
                        : NULL;
        if ((is_right = owners[i] != NULL))
            parts[i] =
                (struct slice){ PyBytes_AS_STRING(owners[i]), (size_t)PyBytes_GET_SIZE(owners[i]) };
    }
    if (is_right)
        log_entry(
            &(struct log_entry){ parts[0], parts[1], parts[2], parts[3], parts[4], parts[5] });
    else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_TypeError, "_log() takes six arguments, str or None");
    for (size_t i = 0; i < PARTS; i++)
        Py_XDECREF(owners[i]);
    return is_right ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef module_methods[] = {
    { "_log", module_log, METH_VARARGS, "Write a line to the error log." },
    { "live", module_live, METH_NOARGS, "How many of each thing are alive in this process." },
    { "_task_start", module_task_start, METH_VARARGS,
      "Make a task and run its first step; only from a callback of the running loop." },
    { "_weakset_speed_up", weakset_speed_up, METH_O,
      "Give one weakref.WeakSet an add() and a removal callback in C." },
    { NULL, NULL, 0, NULL },
};

static PyModuleDef_Slot module_slots[] = {
    { Py_mod_exec, module_exec },
#ifdef Py_GIL_DISABLED
    { Py_mod_gil, Py_MOD_GIL_USED }, /* on purpose: see py.h, "Free-threaded Python" */
#endif
    { 0, NULL },
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_ringcorn",
    .m_doc = "The C half of Ringcorn.",
    .m_size = sizeof(struct py_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__ringcorn(void)
{
    return PyModuleDef_Init(&module_def);
}
