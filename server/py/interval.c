/* interval.c: CPython's switch interval as a number in memory, and beside it whether somebody has the GIL.
 *
 * sys.setswitchinterval() needs the GIL. Who wants to change the interval for the time that he waits for the GIL has none, and from 3.12
 * on CPython's own function needs a thread state too. Here is where the number lies, by CPython's internal headers, which every
 * distribution's development package has. They describe the version that we were built with, so the place is tried out with the public
 * functions before anything is written there: where that fails, there is no interval to be had, and nothing else is lost.
 *
 * Runs on:  GIL held. */
#include <patchlevel.h>
/* Only versions that were looked at: another may have these headers and other fields. */
#if PY_VERSION_HEX < 0x030f0000 && __has_include(<internal/pycore_interp.h>)
#define Py_BUILD_CORE 1 /* the internal headers insist */
#define HAS_INTERNALS 1
#endif
#include "py/private.h"
#ifdef HAS_INTERNALS
#include <internal/pycore_interp.h>
#if PY_VERSION_HEX < 0x030c0000
#include <internal/pycore_runtime.h>
#endif
#endif

/* All of it, as address() found it last. GIL. */
static struct {
    const char *from, *to;
} known;

/* Where the number lies; beside it, in *locked, the int that is 1 while somebody has the GIL, and in *holder, the thread state that has it or had
 * it last. NULL: not known. */
static unsigned long *
address(const int **locked, void *const **holder)
{
    known.from = NULL;
    *holder = NULL;
#ifndef HAS_INTERNALS
    *locked = NULL;
    return NULL;
#else
#if PY_VERSION_HEX < 0x030c0000
    struct _gil_runtime_state *gil = &_PyRuntime.ceval.gil;
#else
    /* An interpreter with a GIL of its own is left alone. And two fields far from each other agree: the pointer can be followed. */
    PyInterpreterState *main = PyInterpreterState_Main();
    struct _gil_runtime_state *gil = &main->_gil;
    if (PyInterpreterState_Get()->ceval.gil != gil) {
        *locked = NULL;
        return NULL;
    }
#endif
#ifdef Py_GIL_DISABLED
    /* Once it is on for good it stays. */
    if (__atomic_load_n(&gil->enabled, __ATOMIC_RELAXED) == 0) {
        *locked = NULL;
        return NULL;
    }
#endif
    known.from = (const char *)gil;
    known.to = (const char *)(gil + 1);
    *locked = (const int *)&gil->locked;
    *holder = (void *const *)&gil->last_holder;
    return &gil->interval;
#endif
}

/* sys.name(value), or sys.name() where value is negative. -1 with an exception set. */
static double
call_sys(const char *name, double value)
{
    PyObject *function = PySys_GetObject(name); /* borrowed */
    if (function == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "sys has no switch interval");
        return -1;
    }
    PY_OWNED PyObject *result =
        value < 0 ? PyObject_CallNoArgs(function) : PyObject_CallFunction(function, "d", value);
    return result == NULL ? -1 : result == Py_None ? 0 : PyFloat_AsDouble(result);
}

/* Is what sys sets to be read there, and what is written there, what sys tells? */
static bool
is_interval(unsigned long *word, double usual)
{
    static const unsigned long tries_us[] = { 4999, 7001, 5003 };
    bool is_it = true;
    for (size_t i = 0; i < ARRAY_LEN(tries_us) && is_it; i++) {
        is_it = call_sys("setswitchinterval", (double)tries_us[i] * 1e-6 + 1e-7) == 0 &&
                __atomic_load_n(word, __ATOMIC_RELAXED) == tries_us[i];
        if (!is_it)
            break;
        __atomic_store_n(word, tries_us[i] + 10, __ATOMIC_RELAXED);
        double told = call_sys("getswitchinterval", -1) * 1e6;
        is_it = told > (double)tries_us[i] + 9.5 && told < (double)tries_us[i] + 10.5;
    }
    if (call_sys("setswitchinterval", usual + 1e-7) < 0) /* it is cut off to whole microseconds */
        is_it = false;
    PyErr_Clear();
    return is_it;
}

unsigned long *
interval_find(void)
{
    const int *locked;
    void *const *holder;
    unsigned long *word = address(&locked, &holder);
    double usual = call_sys("getswitchinterval", -1);
    if (word == NULL || usual <= 0) {
        PyErr_Clear();
        return NULL;
    }
    return is_interval(word, usual) ? word : NULL;
}

bool
py_has_gil(void)
{
#ifdef Py_GIL_DISABLED
    PyObject *function = PySys_GetObject("_is_gil_enabled"); /* borrowed */
    PY_OWNED PyObject *told = function != NULL ? PyObject_CallNoArgs(function) : NULL;
    PyErr_Clear();
    return told == Py_True;
#else
    return true;
#endif
}

const int *
py_gil_locked(void)
{
    const int *locked;
    void *const *holder;
    if (interval_find() == NULL || address(&locked, &holder) == NULL)
        return NULL;
    return __atomic_load_n(locked, __ATOMIC_RELAXED) == 1 ? locked : NULL;
}

void *const *
py_gil_holder(void)
{
    const int *locked;
    void *const *holder;
    if (interval_find() == NULL || address(&locked, &holder) == NULL)
        return NULL;
    return __atomic_load_n(holder, __ATOMIC_RELAXED) == (void *)PyThreadState_Get() ? holder : NULL;
}

bool
py_gil_memory(const char **from, const char **to)
{
    bool is_known = py_gil_locked() != NULL;
    *from = is_known ? known.from : NULL;
    *to = is_known ? known.to : NULL;
    return is_known;
}
