/* thread.c: a thread of Python's that runs jobs: its start, its loop, the hooks that run on it.
 *
 * A threading.Thread whose target is the job loop in C, so that current_thread(), thread-locals and names work and the
 * PyThreadState lives as long as the thread. Threads know the crew (plain memory, counted) and not the Pool object, so that a loop
 * and its pool that are forgotten without close() can be collected: the pool's end closes the crew, and idle threads leave.
 *
 * Runs on:  the pool's threads; threads_start(): the loop's thread, or another that submits, with the GIL. */
#include "sync/private.h"

#include <sys/syscall.h>
#include <unistd.h>

#define SOON_NS (NS_PER_MS)

static const char crew_capsule[] = "_ringcorn.crew";

static void
crew_capsule_free(PyObject *capsule)
{
    crew_release(PyCapsule_GetPointer(capsule, crew_capsule));
}

/* Calls a hook, where there is one. What it raises is reported. Returns the result, new, or NULL. */
static PyObject *
run_hook(PyObject *hook)
{
    if (hook == NULL)
        return NULL;
    PY_OWNED PyObject *kept = Py_NewRef(hook); /* it may be replaced meanwhile */
    PyObject *result = PyObject_CallNoArgs(kept);
    if (result == NULL)
        PyErr_WriteUnraisable(kept);
    return result;
}

void
crew_tell_wait(struct crew *c)
{
    Py_XDECREF(run_hook(c->on_wait));
}

static void
run_orders(struct crew *c, struct sync_thread *t, unsigned orders)
{
    PyEval_RestoreThread(t->state);
    if ((orders & ORDER_SURPLUS) && !c->is_orphan)
        Py_XDECREF(run_hook(c->on_surplus));
    if ((orders & ORDER_PARK) && !c->is_orphan)
        Py_XDECREF(run_hook(c->on_park));
    if (orders & ORDER_CHECK) {
        PY_OWNED PyObject *answer = run_hook(c->may_release);
        int may_release = answer != NULL ? PyObject_IsTrue(answer) : 0;
        if (may_release < 0)
            PyErr_WriteUnraisable(c->may_release);
        t->state = PyEval_SaveThread();
        crew_checked(c, t, may_release > 0);
        PyEval_RestoreThread(t->state);
    }
    t->state = PyEval_SaveThread();
}

static void
acquire_gil(struct sync_thread *t, bool *has_gil)
{
    if (!*has_gil)
        PyEval_RestoreThread(t->state);
    *has_gil = true;
}

static void
release_gil(struct sync_thread *t, bool *has_gil)
{
    if (*has_gil)
        t->state = PyEval_SaveThread();
    *has_gil = false;
}

static __thread struct sync_thread *in_job; /* this thread, while it runs a job */

int64_t
job_cpu_ns(void)
{
    const struct meter *m = in_job != NULL ? &in_job->meter : NULL;
    return m != NULL && m->stands_for > 0 ? meter_cpu_ns(m) * m->stands_for : 0;
}

struct lease *
thread_lease(void)
{
    return in_job != NULL ? in_job->lease : NULL;
}

static void
run_job(struct crew *c, struct sync_thread *t, struct sync_job *job, bool *has_gil)
{
    acquire_gil(t, has_gil);
    in_job = t;
    if (UNLIKELY(t->is_new_to_lease)) {
        t->is_new_to_lease = false;
        Py_XDECREF(run_hook(c->on_acquire));
    }
    meter_begin(&t->meter, job->lease->begun_ns);
    job->run(job);
    if (UNLIKELY(c->on_job_end != NULL))
        Py_XDECREF(run_hook(c->on_job_end));
    if (t->meter.stands_for > 0)
        crew_lease_add(job->lease, meter_cpu_ns(&t->meter) * t->meter.stands_for);
    in_job = NULL;
    if (!job->is_batched)
        release_gil(t, has_gil);
}

/* Whoever had the GIL gave it away of his own accord if that was sooner than the switch interval, 5 ms. */
static void
scout(struct sync_thread *t, bool *has_gil)
{
    int64_t began = clock_ns();
    acquire_gil(t, has_gil);
    t->is_soon = clock_ns() - began < SOON_NS;
}

/* threading.Thread's target: the job loop. */
static PyObject *
work(PyObject *unused, PyObject *capsule)
{
    (void)unused;
    struct crew *c = PyCapsule_GetPointer(capsule, crew_capsule);
    if (c == NULL)
        return NULL;
    struct sync_thread self = { .crew = c,
                                .ident = PyThread_get_thread_ident(),
                                .tid = (int)syscall(SYS_gettid) };
    meter_init(&self.meter);
    Py_XDECREF(run_hook(c->on_thread_start));

    struct sync_job *done = NULL; /* its result is posted when this thread counts as free again */
    unsigned orders = 0;
    PyObject *loop = NULL;
    bool has_gil = true, is_expected = false;
    /* the next job may follow at once: the loop was looking out for the last result */
    bool is_soon = false;
    crew_thread_init(&self);
    release_gil(&self, &has_gil);
    while (!(orders & ORDER_LEAVE)) {
        enum next next = crew_next(c, &self, done, &orders);
        if (done != NULL) {
            is_soon = is_expected && loop_looks_out(loop);
            bool gives_way = has_gil && loop != NULL && loop_asks_for_gil(loop);
            done->end(done);
            done = NULL;
            if (gives_way)
                release_gil(&self, &has_gil);
        }
        switch (next) {
        case NEXT_JOB: {
            /* Whoever made the job keeps it alive until end(). NULL: the job waited still when its pool went, and the crew goes on
             * without the loop. */
            loop = self.loop;
            is_expected = self.is_expected;
            done = self.next;
            self.next = NULL;
            if (LIKELY(loop != NULL))
                loop_helper_begin(loop);
            run_job(c, &self, done, &has_gil);
            if (LIKELY(loop != NULL))
                loop_helper_end(loop);
            if (is_expected)
                loop_expect(loop, -1);
            break;
        }
        case NEXT_ORDERS:
            if (orders == ORDER_SCOUT) {
                scout(&self, &has_gil);
                break;
            }
            release_gil(&self, &has_gil);
            if (orders & ~(unsigned)ORDER_LEAVE)
                run_orders(c, &self, orders);
            break;
        case NEXT_SLEEP:
            release_gil(&self, &has_gil);
            crew_sleep(c, &self, is_soon);
            is_soon = false;
            break;
        }
    }
    acquire_gil(&self, &has_gil);
    if (!c->is_orphan)
        Py_XDECREF(run_hook(c->on_thread_end));
    Py_RETURN_NONE;
}

PyMethodDef thread_work_def = { "work", work, METH_O, "The job loop of a pool's threads." };

/* --- starting ------------------------------------------------------------------------------------ */

/* Forgets threads that have ended. */
static int
prune(struct pool *p)
{
    for (Py_ssize_t i = PyList_GET_SIZE(p->threads); i-- > 0;) {
        if (i >= PyList_GET_SIZE(p->threads)) /* another thread was here while Python ran */
            continue;
        PY_OWNED PyObject *thread = Py_NewRef(PyList_GET_ITEM(p->threads, i));
        PY_OWNED PyObject *ident = PyObject_GetAttrString(thread, "ident");
        PY_OWNED PyObject *is_alive =
            ident != NULL ? PyObject_CallMethod(thread, "is_alive", NULL) : NULL;
        if (is_alive == NULL)
            return -1;
        if (ident != Py_None && is_alive == Py_False && i < PyList_GET_SIZE(p->threads) &&
            PyList_GET_ITEM(p->threads, i) == thread &&
            PyList_SetSlice(p->threads, i, i + 1, NULL) < 0)
            return -1;
    }
    return 0;
}

/* Waits until the thread runs. */
static int
start_thread(struct pool *p)
{
    struct crew *c = p->crew;
    if ((size_t)PyList_GET_SIZE(p->threads) > READ(c->threads_n) && prune(p) < 0)
        return -1;
    PY_OWNED PyObject *capsule = PyCapsule_New(c, crew_capsule, crew_capsule_free);
    if (capsule == NULL)
        return -1;
    atomic_fetch_add(&c->refs, 1);
    PY_OWNED PyObject *threading = PyImport_ImportModule("threading");
    PY_OWNED PyObject *type =
        threading != NULL ? PyObject_GetAttrString(threading, "Thread") : NULL;
    PY_OWNED PyObject *none = PyTuple_New(0);
    PY_OWNED PyObject *kwargs =
        type != NULL && none != NULL
            ? Py_BuildValue("{s:O,s:(O),s:N,s:O}", "target", p->work, "args", capsule, "name",
                            PyUnicode_FromFormat("%U-%zu", p->name, p->started), "daemon", Py_True)
            : NULL;
    PY_OWNED PyObject *thread = kwargs != NULL ? PyObject_Call(type, none, kwargs) : NULL;
    if (thread == NULL || PyList_Append(p->threads, thread) < 0)
        return -1;
    p->started++;
    PY_OWNED PyObject *started = PyObject_CallMethod(thread, "start", NULL);
    if (started != NULL)
        return 0;
    PyObject *exception = PyErr_GetRaisedException();
    for (Py_ssize_t i = PyList_GET_SIZE(p->threads); i-- > 0;) {
        if (PyList_GET_ITEM(p->threads, i) == thread &&
            PyList_SetSlice(p->threads, i, i + 1, NULL) < 0)
            PyErr_Clear();
    }
    PyErr_SetRaisedException(exception);
    return -1;
}

int
threads_start(struct pool *p)
{
    while (crew_begin_start(p->crew)) {
        if (start_thread(p) == 0)
            continue;
        /* RuntimeError: can't start new thread. Those that run will do, as if threads_max were reached. */
        size_t others = crew_failed_start(p->crew);
        if (others == 0 || !PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PyErr_Clear();
        if (!p->has_warned)
            log_warning("a thread could not be started: check the limits of processes and memory; "
                        "%zu threads go on",
                        others);
        p->has_warned = true;
    }
    return 0;
}

int
crew_start_threads(struct crew *c, bool *is_lost)
{
    *is_lost = false;
    if (c->pool == NULL)
        return 0;
    PY_OWNED PyObject *pool = Py_NewRef((PyObject *)c->pool);
    if (threads_start(c->pool) == 0)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyErr_Clear();
    *is_lost = true;
    return 0;
}

/* --- where threads are ---------------------------------------------------------------------------- */

PyObject *
thread_places(void)
{
    PY_OWNED PyObject *sys = PyImport_ImportModule("sys");
    return sys != NULL ? PyObject_CallMethod(sys, "_current_frames", NULL) : NULL;
}

/* "function (file:line)": new. */
static PyObject *
describe_frame(PyObject *frame)
{
    PY_OWNED PyObject *code = PyObject_GetAttrString(frame, "f_code");
    PY_OWNED PyObject *line = code != NULL ? PyObject_GetAttrString(frame, "f_lineno") : NULL;
    PY_OWNED PyObject *name = line != NULL ? PyObject_GetAttrString(code, "co_qualname") : NULL;
    PY_OWNED PyObject *file = name != NULL ? PyObject_GetAttrString(code, "co_filename") : NULL;
    return file != NULL ? PyUnicode_FromFormat("%S (%S:%S)", name, file, line) : NULL;
}

/* Of Python's own library, whose folder is given? 1, 0, or -1 with an exception set. */
static int
is_of_library(PyObject *frame, const char *folder)
{
    PY_OWNED PyObject *code = PyObject_GetAttrString(frame, "f_code");
    PY_OWNED PyObject *file = code != NULL ? PyObject_GetAttrString(code, "co_filename") : NULL;
    const char *path = file != NULL ? PyUnicode_AsUTF8(file) : NULL;
    if (path == NULL)
        return -1;
    size_t n = strlen(folder);
    return strncmp(path, "<frozen ", 8) == 0 || (strncmp(path, folder, n) == 0 && path[n] == '/' &&
                                                 strstr(path + n, "-packages/") == NULL);
}

/* The innermost frame that is the application's: new; NULL without an exception where there is none. */
static PyObject *
outside_of_library(PyObject *frame)
{
    PY_OWNED PyObject *os = PyImport_ImportModule("os");
    PY_OWNED PyObject *path = os != NULL ? PyObject_GetAttrString(os, "path") : NULL;
    PY_OWNED PyObject *file = path != NULL ? PyObject_GetAttrString(os, "__file__") : NULL;
    PY_OWNED PyObject *folder =
        file != NULL ? PyObject_CallMethod(path, "dirname", "O", file) : NULL;
    const char *text = folder != NULL ? PyUnicode_AsUTF8(folder) : NULL;
    PY_OWNED PyObject *at = text != NULL ? Py_NewRef(frame) : NULL;
    while (at != NULL && at != Py_None) {
        int is_inside = is_of_library(at, text);
        if (is_inside <= 0)
            return is_inside == 0 ? py_take(&at) : NULL;
        Py_SETREF(at, PyObject_GetAttrString(at, "f_back"));
    }
    return NULL;
}

PyObject *
thread_place(PyObject *places, unsigned long ident)
{
    PY_OWNED PyObject *key = PyLong_FromUnsignedLong(ident);
    PY_OWNED PyObject *frame = NULL;
    if (key == NULL || PyDict_GetItemRef(places, key, &frame) < 0)
        return NULL;
    if (frame == NULL)
        return PyUnicode_FromString("?");
    PY_OWNED PyObject *inner = describe_frame(frame);
    PY_OWNED PyObject *outside = inner != NULL ? outside_of_library(frame) : NULL;
    if (PyErr_Occurred())
        return NULL;
    if (outside == NULL || outside == frame)
        return py_take(&inner);
    PY_OWNED PyObject *outer = describe_frame(outside);
    return outer != NULL ? PyUnicode_FromFormat("%U, in %U", outer, inner) : NULL;
}
