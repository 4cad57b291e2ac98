/* pool.c: a fixed set of threads for synchronous Python code.
 *
 * The threads know the crew (plain memory, counted) and not the Pool object, so that a loop and its
 * pool that are forgotten without close() can be collected: the pool's end closes the crew, and
 * idle threads leave.
 *
 * Locks: the crew's mutex is taken with or without the GIL, and the GIL is never asked for while it
 * is held. A thread gives the GIL away before it posts a result: the loop, woken by it, finds the
 * GIL free.
 *
 * Runs on:  submit(): the loop's thread (any thread with the GIL works); job loop: the pool's
 * threads; finish: the loop's thread.
 * Owns:     jobs until they are posted; threading.Thread objects. */
#include "sync/sync.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "base/base.h"

enum {
    JOB_ARGS_INLINE = 4,
    THREADS_MAX = 4096, /* of one pool */
};

struct job {
    struct post post;  /* its way back to the loop */
    struct list link;  /* crew->queue */
    struct crew *crew; /* counted */
    PyObject *loop;    /* new, as all below */
    PyObject *future;
    PyObject *fn;
    PyObject **args; /* args[-1] is scratch for vectorcall; inline, or allocated for more */
    PyObject *slots[1 + JOB_ARGS_INLINE];
    Py_ssize_t n_args;
    PyObject *result; /* NULL where it was not run or raised */
    PyObject *exception;
};

/* One thread, on its own stack. */
struct worker {
    struct list link;     /* crew->idle */
    struct job *job;      /* handed over with the wake-up */
    atomic_uint is_awake; /* futex: 0 = sleeps */
};

/* What pool and threads share. */
struct crew {
    pthread_mutex_t lock; /* of what follows, to the blank line */
    struct list queue;    /* jobs, oldest first */
    size_t queued;
    struct list idle; /* workers, the last to become idle first */
    size_t idle_n;
    size_t threads_n; /* running or being started */
    bool is_closed;   /* takes no more jobs; threads leave when the queue is empty */

    struct list all;  /* every crew of the process, for fork; GIL */
    atomic_uint refs; /* the pool, each thread, each job */
    PyObject *s_done, *s_set_result, *s_set_exception, *s_cancel; /* new: method names */
    bool is_orphan; /* made before a fork, and this is the child */
};

struct pool {
    PyObject_HEAD
    struct crew *crew;
    PyObject *loop;    /* new */
    PyObject *name;    /* new: str */
    PyObject *threads; /* new: list of threading.Thread */
    PyObject *work;    /* new: the function that threads run */
    PyObject *weakrefs;
    size_t threads_max;
    size_t queue_max;
    size_t started; /* threads ever started: the next number */
};

/* --- futex ------------------------------------------------------------------------------------ */

static void
sleep_until_awake(struct worker *w)
{
    while (atomic_load(&w->is_awake) == 0)
        syscall(SYS_futex, &w->is_awake, FUTEX_WAIT_PRIVATE, 0, NULL, NULL,
                0); /* EINTR, EAGAIN: look again */
}

static void
wake(struct worker *w)
{
    atomic_store(&w->is_awake, 1);
    /* The worker may be gone already; then this wakes nobody. */
    syscall(SYS_futex, &w->is_awake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* --- the crew --------------------------------------------------------------------------------- */

static struct list all_crews = { &all_crews, &all_crews };

/* In the child of a fork none of the threads exists, and one of them may have held the lock. */
static void
forked_child(void)
{
    LIST_FOR_EACH(node, &all_crews) {
        struct crew *c = CONTAINER_OF(node, struct crew, all);
        pthread_mutex_init(&c->lock, NULL);
        list_init(&c->queue); /* jobs and workers are abandoned where they are */
        list_init(&c->idle);
        c->queued = c->idle_n = c->threads_n = 0;
        c->is_closed = c->is_orphan = true;
    }
}

static void
watch_forks_once(void)
{
    if (pthread_atfork(NULL, NULL, forked_child) != 0)
        log_warning("pthread_atfork failed: a child of os.fork() must not use the thread pools of "
                    "its parent");
}

/* GIL held. */
static void
crew_release(struct crew *c)
{
    if (atomic_fetch_sub(&c->refs, 1) > 1)
        return;
    list_del(&c->all);
    Py_XDECREF(c->s_done);
    Py_XDECREF(c->s_set_result);
    Py_XDECREF(c->s_set_exception);
    Py_XDECREF(c->s_cancel);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct crew *
crew_new(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks_once);
    struct crew *c = calloc(1, sizeof *c);
    if (c == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    pthread_mutex_init(&c->lock, NULL);
    list_init(&c->queue);
    list_init(&c->idle);
    atomic_init(&c->refs, 1);
    list_add_tail(&all_crews, &c->all);
    c->s_done = PyUnicode_InternFromString("done");
    c->s_set_result = PyUnicode_InternFromString("set_result");
    c->s_set_exception = PyUnicode_InternFromString("set_exception");
    c->s_cancel = PyUnicode_InternFromString("cancel");
    if (c->s_done == NULL || c->s_set_result == NULL || c->s_set_exception == NULL ||
        c->s_cancel == NULL) {
        crew_release(c);
        return NULL;
    }
    return c;
}

/* No more jobs; idle threads leave now, busy ones when the queue is empty. */
static void
crew_close(struct crew *c)
{
    struct list leaving;
    list_init(&leaving);
    pthread_mutex_lock(&c->lock);
    c->is_closed = true;
    list_splice(&leaving, &c->idle);
    c->idle_n = 0;
    struct list *node = leaving.next;
    while (node != &leaving) { /* the worker owns its node again as soon as it is awake */
        struct worker *w = CONTAINER_OF(node, struct worker, link);
        node = node->next;
        wake(w);
    }
    pthread_mutex_unlock(&c->lock);
}

/* A thread is free: w->job becomes the oldest job that waits, or NULL; then the thread counts as
 * idle from here on, so that whoever learns of its last result finds it so. False: it shall leave.
 * No GIL. */
static bool
crew_offer(struct crew *c, struct worker *w)
{
    bool stays = true;

    w->job = NULL;
    pthread_mutex_lock(&c->lock);
    struct list *node = list_pop(&c->queue);
    if (node != NULL) {
        c->queued--;
        w->job = CONTAINER_OF(node, struct job, link);
        atomic_store(&w->is_awake, 1);
    } else if (c->is_closed) {
        if (c->threads_n > 0)
            c->threads_n--;
        stays = false;
    } else {
        atomic_store(&w->is_awake, 0);
        list_add_tail(c->idle.next, &w->link); /* before the first: last in, first out */
        c->idle_n++;
    }
    pthread_mutex_unlock(&c->lock);
    return stays;
}

/* --- jobs ------------------------------------------------------------------------------------- */

/* May run Python. */
static void
job_drop_call(struct job *job)
{
    Py_CLEAR(job->fn);
    for (Py_ssize_t i = 0; i < job->n_args; i++)
        Py_DECREF(job->args[i]);
    job->n_args = 0;
    if (job->args != &job->slots[1])
        PyMem_Free(job->args - 1);
    job->args = &job->slots[1];
}

static void
job_free(struct job *job)
{
    job_drop_call(job);
    Py_XDECREF(job->result);
    Py_XDECREF(job->exception);
    Py_XDECREF(job->future);
    Py_XDECREF(job->loop);
    crew_release(job->crew);
    live.jobs--;
    PyMem_Free(job);
}

/* The loop's phase 3: the future learns of the outcome. */
static void
job_finish(struct post *post, PyObject *loop)
{
    struct job *job = CONTAINER_OF(post, struct job, post);

    if (loop != NULL) {
        const struct crew *c = job->crew;
        PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(job->future, c->s_done);
        PyObject *told = NULL;
        if (done == Py_False) {
            if (job->exception != NULL)
                told = PyObject_CallMethodOneArg(job->future, c->s_set_exception, job->exception);
            else if (job->result != NULL)
                told = PyObject_CallMethodOneArg(job->future, c->s_set_result, job->result);
            else /* dropped by stop() */
                told = PyObject_CallMethodNoArgs(job->future, c->s_cancel);
        }
        Py_XDECREF(told); /* an exception is left set: the loop reports it */
    }
    PyObject *exception = PyErr_GetRaisedException();
    job_free(job);
    PyErr_SetRaisedException(exception);
}

static struct job *
job_new(struct crew *c, PyObject *loop, PyObject *fn, PyObject *const *args, Py_ssize_t n)
{
    struct job *job = PyMem_Malloc(sizeof *job);
    if (job == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    *job = (struct job){ .post = { .fn = job_finish }, .args = &job->slots[1] };
    list_init(&job->link);
    job->crew = c;
    atomic_fetch_add(&c->refs, 1);
    live.jobs++;
    if (n > JOB_ARGS_INLINE) {
        PyObject **more = PyMem_Malloc((size_t)(n + 1) * sizeof *more);
        if (more == NULL) {
            job_free(job);
            PyErr_NoMemory();
            return NULL;
        }
        job->args = more + 1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        job->args[i] = Py_NewRef(args[i]);
    job->n_args = n;
    job->fn = Py_NewRef(fn);
    job->loop = Py_NewRef(loop);
    job->future = loop_create_future(loop);
    if (job->future == NULL) {
        job_free(job);
        return NULL;
    }
    return job;
}

/* 1 where exception is exactly of concurrent.futures' class `name`, else 0 or -1. */
static int
is_concurrent(PyObject *exception, const char *name)
{
    PY_OWNED PyObject *module = PyImport_ImportModule("concurrent.futures");
    PY_OWNED PyObject *type = module != NULL ? PyObject_GetAttrString(module, name) : NULL;
    return type == NULL ? -1 : (PyObject *)Py_TYPE(exception) == type;
}

/* asyncio.name(*exception.args): new. */
static PyObject *
as_asyncio(PyObject *exception, const char *name)
{
    PY_OWNED PyObject *module = PyImport_ImportModule("asyncio.exceptions");
    PY_OWNED PyObject *type = module != NULL ? PyObject_GetAttrString(module, name) : NULL;
    PY_OWNED PyObject *args = type != NULL ? PyObject_GetAttrString(exception, "args") : NULL;
    return args != NULL ? PyObject_Call(type, args, NULL) : NULL;
}

/* What the future shall hold for what the function raised; steals it. As concurrent.futures and
 * asyncio.wrap_future() do together. */
static PyObject *
exception_for_future(PyObject *exception)
{
    PyObject *other = NULL;
    if (PyErr_GivenExceptionMatches(exception, PyExc_StopIteration)) {
        /* The coroutine that awaits would take it for its own end. */
        other = PyObject_CallFunction(PyExc_RuntimeError, "s",
                                      "function in a thread raised StopIteration");
        if (other != NULL)
            PyException_SetCause(other, Py_NewRef(exception));
    } else {
        static const char *const names[] = { "CancelledError", "InvalidStateError" };
        int is_same = 0;
        size_t i = 0;
        while (i < ARRAY_LEN(names) && (is_same = is_concurrent(exception, names[i])) == 0)
            i++;
        if (is_same == 0)
            return exception;
        if (is_same > 0)
            other = as_asyncio(exception, names[i]);
    }
    Py_DECREF(exception);
    return other != NULL ? other : PyErr_GetRaisedException();
}

/* GIL held, in the pool's thread. Never leaves an exception set. */
static void
job_run(struct job *job)
{
    PyObject *done = PyObject_CallMethodNoArgs(job->future, job->crew->s_done);
    if (done == Py_False) {
        job->result = PyObject_Vectorcall(
            job->fn, job->args, (size_t)job->n_args | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    }
    Py_XDECREF(done);
    if (PyErr_Occurred())
        job->exception = exception_for_future(PyErr_GetRaisedException());
    job_drop_call(job); /* here, so that what is bound to this thread ends in it */
}

/* --- the threads ------------------------------------------------------------------------------ */

static const char crew_capsule[] = "_ringcorn.crew";

static void
crew_capsule_free(PyObject *capsule)
{
    crew_release(PyCapsule_GetPointer(capsule, crew_capsule));
}

/* threading.Thread's target: the job loop. */
static PyObject *
work(PyObject *unused, PyObject *capsule)
{
    (void)unused;
    struct crew *c = PyCapsule_GetPointer(capsule, crew_capsule);
    if (c == NULL)
        return NULL;
    struct worker self = { .job = NULL };
    list_init(&self.link);

    struct job *done = NULL; /* its result is posted when this thread counts as free again */
    PyThreadState *state = PyEval_SaveThread();
    for (;;) {
        bool stays = crew_offer(c, &self);
        if (done != NULL) {
            /* Kept alive by the job until it is posted; loop_post() bears its end from there on. */
            PyObject *loop = done->loop;
            loop_helper_end(loop);
            loop_post(loop, &done->post);
            done = NULL;
        }
        if (!stays)
            break;
        sleep_until_awake(&self);
        if (self.job == NULL)
            continue; /* woken to leave */
        done = self.job;
        loop_helper_begin(done->loop);
        PyEval_RestoreThread(state);
        job_run(done);
        state = PyEval_SaveThread();
    }
    PyEval_RestoreThread(state);
    Py_RETURN_NONE;
}

static PyMethodDef work_def = { "work", work, METH_O, "The job loop of a pool's threads." };

/* Starts one more thread. May run Python, and waits until the thread runs. */
static int
start_thread(struct pool *p)
{
    struct crew *c = p->crew;
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

/* --- the pool --------------------------------------------------------------------------------- */

/* Takes jobs whose futures were cancelled out of a full queue. Returns with the lock held, as it
 * was called. */
static void
sweep_cancelled(struct crew *c)
{
    struct list waiting, dead;
    list_init(&waiting);
    list_init(&dead);
    list_splice(&waiting, &c->queue);
    size_t kept = 0;
    pthread_mutex_unlock(&c->lock);
    struct list *node;
    struct list alive;
    list_init(&alive);
    while ((node = list_pop(&waiting)) != NULL) {
        struct job *job = CONTAINER_OF(node, struct job, link);
        PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(job->future, c->s_done);
        if (done == NULL)
            PyErr_Clear();
        list_add_tail(done == Py_True ? &dead : &alive, node);
        kept += done != Py_True;
    }
    while ((node = list_pop(&dead)) != NULL)
        job_free(CONTAINER_OF(node, struct job, link));
    pthread_mutex_lock(&c->lock);
    /* Jobs that came meanwhile go behind; threads may have gone to sleep before an empty queue. */
    size_t came = 0;
    LIST_FOR_EACH(n, &c->queue)
        came++;
    list_splice(&alive, &c->queue);
    list_splice(&c->queue, &alive);
    c->queued = kept + came;
    while (!list_is_empty(&c->queue) && !list_is_empty(&c->idle)) {
        struct worker *w = CONTAINER_OF(list_pop(&c->idle), struct worker, link);
        w->job = CONTAINER_OF(list_pop(&c->queue), struct job, link);
        c->idle_n--;
        c->queued--;
        wake(w);
    }
}

PyObject *
pool_submit(PyObject *self, PyObject *fn, PyObject *const *args, Py_ssize_t n)
{
    struct pool *p = (struct pool *)self;
    struct crew *c = p->crew;

    if (c->is_orphan) {
        PyErr_Format(PyExc_RuntimeError,
                     "the threads of pool %R belong to the process that forked this one", p->name);
        return NULL;
    }
    struct job *job = job_new(c, p->loop, fn, args, n);
    if (job == NULL)
        return NULL;
    PyObject *future = Py_NewRef(job->future);

    pthread_mutex_lock(&c->lock);
    if (c->queued >= p->queue_max && !c->is_closed)
        sweep_cancelled(c);
    if (c->is_closed || c->queued >= p->queue_max) {
        bool is_closed = c->is_closed;
        pthread_mutex_unlock(&c->lock);
        job_free(job);
        Py_DECREF(future);
        if (is_closed)
            PyErr_SetString(PyExc_RuntimeError, "cannot schedule new futures after shutdown");
        else
            PyErr_Format(PyExc_RuntimeError, "pool %R: %zu jobs wait already", p->name,
                         p->queue_max);
        return NULL;
    }
    struct list *node = list_pop(&c->idle);
    if (node != NULL) {
        struct worker *w = CONTAINER_OF(node, struct worker, link);
        c->idle_n--;
        w->job = job;
        pthread_mutex_unlock(&c->lock);
        wake(w);
        return future;
    }
    list_add_tail(&c->queue, &job->link);
    c->queued++;
    bool is_short = c->threads_n < p->threads_max;
    c->threads_n += is_short;
    pthread_mutex_unlock(&c->lock);
    if (!is_short || start_thread(p) == 0)
        return future;

    /* No thread to be had (RuntimeError: can't start new thread). Those that run will do; without
     * any, the job cannot be done. */
    pthread_mutex_lock(&c->lock);
    size_t others = --c->threads_n;
    bool is_lost = others == 0 && !list_is_empty(&job->link);
    if (is_lost) {
        list_del(&job->link);
        c->queued--;
    }
    pthread_mutex_unlock(&c->lock);
    if (!is_lost && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        log_warning("a thread could not be started: check the limits of processes and memory; %zu "
                    "threads go on",
                    others);
        return future;
    }
    if (is_lost)
        job_free(job);
    Py_DECREF(future);
    return NULL;
}

static PyObject *
meth_submit(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n < 1) {
        PyErr_SetString(PyExc_TypeError, "submit() missing required argument: 'fn'");
        return NULL;
    }
    return pool_submit(self, args[0], args + 1, n - 1);
}

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    crew_close(((struct pool *)self)->crew);
    Py_RETURN_NONE;
}

/* "function (file:line)": where a thread is now; new. */
static PyObject *
describe_thread(PyObject *frames, PyObject *thread)
{
    PY_OWNED PyObject *ident = PyObject_GetAttrString(thread, "ident");
    PY_OWNED PyObject *frame = NULL;
    if (ident == NULL || PyDict_GetItemRef(frames, ident, &frame) < 0)
        return NULL;
    if (frame == NULL)
        return PyUnicode_FromString("?");
    PY_OWNED PyObject *code = PyObject_GetAttrString(frame, "f_code");
    PY_OWNED PyObject *line = code != NULL ? PyObject_GetAttrString(frame, "f_lineno") : NULL;
    PY_OWNED PyObject *name = line != NULL ? PyObject_GetAttrString(code, "co_qualname") : NULL;
    PY_OWNED PyObject *file = name != NULL ? PyObject_GetAttrString(code, "co_filename") : NULL;
    return file != NULL ? PyUnicode_FromFormat("%S (%S:%S)", name, file, line) : NULL;
}

/* Joins until the deadline (ns; -1 = none). 1: it has ended, 0: it has not, -1: an exception is
 * set. */
static int
join_thread(PyObject *thread, int64_t deadline_ns)
{
    PY_OWNED PyObject *joined = NULL;
    if (deadline_ns < 0) {
        joined = PyObject_CallMethod(thread, "join", NULL);
    } else {
        int64_t left = deadline_ns - clock_ns();
        joined = PyObject_CallMethod(thread, "join", "d", left > 0 ? (double)left * 1e-9 : 0.0);
    }
    PY_OWNED PyObject *is_alive =
        joined != NULL ? PyObject_CallMethod(thread, "is_alive", NULL) : NULL;
    return is_alive == NULL ? -1 : is_alive == Py_False;
}

/* stop(timeout=None) -> [(name, where), ...] */
static PyObject *
meth_stop(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "timeout", NULL };
    struct pool *p = (struct pool *)self;
    PyObject *timeout = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:stop", names, &timeout))
        return NULL;
    int64_t deadline_ns = -1;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1.0 && PyErr_Occurred())
            return NULL;
        if (seconds < 1e9)
            deadline_ns = clock_ns() + (seconds > 0 ? (int64_t)(seconds * 1e9) : 0);
    }
    crew_close(p->crew);

    PY_OWNED PyObject *left = PyList_New(0);
    PY_OWNED PyObject *threads = PyList_GetSlice(p->threads, 0, PyList_GET_SIZE(p->threads));
    PY_OWNED PyObject *sys = left != NULL && threads != NULL ? PyImport_ImportModule("sys") : NULL;
    PY_OWNED PyObject *threading = sys != NULL ? PyImport_ImportModule("threading") : NULL;
    PY_OWNED PyObject *current =
        threading != NULL ? PyObject_CallMethod(threading, "current_thread", NULL) : NULL;
    if (current == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(threads); i++) {
        PyObject *thread = PyList_GET_ITEM(threads, i);
        int has_ended = thread == current ? 0 : join_thread(thread, deadline_ns);
        if (has_ended < 0)
            return NULL;
        if (has_ended)
            continue;
        PY_OWNED PyObject *frames = PyObject_CallMethod(sys, "_current_frames", NULL);
        PY_OWNED PyObject *name = frames != NULL ? PyObject_GetAttrString(thread, "name") : NULL;
        PY_OWNED PyObject *where = name != NULL ? describe_thread(frames, thread) : NULL;
        PY_OWNED PyObject *pair = where != NULL ? PyTuple_Pack(2, name, where) : NULL;
        if (pair == NULL || PyList_Append(left, pair) < 0)
            return NULL;
    }
    /* Jobs that nobody will run now: their futures are cancelled, on the loop's thread. */
    struct list dropped;
    list_init(&dropped);
    pthread_mutex_lock(&p->crew->lock);
    list_splice(&dropped, &p->crew->queue);
    p->crew->queued = 0;
    pthread_mutex_unlock(&p->crew->lock);
    struct list *node;
    while ((node = list_pop(&dropped)) != NULL) {
        struct job *job = CONTAINER_OF(node, struct job, link);
        loop_post(job->loop, &job->post);
    }
    return py_take(&left);
}

/* --- type ------------------------------------------------------------------------------------- */

static PyObject *
pool_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "loop", "threads", "name", "queue", NULL };
    PyObject *loop, *name;
    Py_ssize_t threads, queue = POOL_QUEUE_MAX;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnU|n:Pool", names, &loop, &threads, &name,
                                     &queue))
        return NULL;
    PY_OWNED PyObject *module =
        PyType_GetModule(type) != NULL ? Py_NewRef(PyType_GetModule(type)) : NULL;
    PY_OWNED PyObject *loop_type =
        module != NULL ? PyObject_GetAttrString(module, "LoopCore") : NULL;
    if (loop_type == NULL)
        return NULL;
    int is_loop = PyObject_IsInstance(loop, loop_type);
    if (is_loop <= 0) {
        if (is_loop == 0)
            PyErr_SetString(PyExc_TypeError, "Pool(): loop must be a ringcorn.loop.Loop");
        return NULL;
    }
    if (threads < 1 || threads > THREADS_MAX || queue < 1) {
        PyErr_Format(PyExc_ValueError, "Pool(): threads must be 1 to %d, queue at least 1",
                     (int)THREADS_MAX);
        return NULL;
    }
    struct pool *p = (struct pool *)type->tp_alloc(type, 0);
    if (p == NULL)
        return NULL;
    p->loop = Py_NewRef(loop);
    p->name = Py_NewRef(name);
    p->threads_max = (size_t)threads;
    p->queue_max = (size_t)queue;
    p->threads = PyList_New(0);
    p->work = PyCFunction_New(&work_def, NULL);
    p->crew = p->threads != NULL && p->work != NULL ? crew_new() : NULL;
    if (p->crew == NULL) {
        Py_DECREF(p);
        return NULL;
    }
    return (PyObject *)p;
}

static int
pool_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pool *p = (struct pool *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(p->loop);
    Py_VISIT(p->threads);
    Py_VISIT(p->work);
    return 0;
}

static int
pool_clear(PyObject *self)
{
    struct pool *p = (struct pool *)self;
    Py_CLEAR(p->loop);
    Py_CLEAR(p->threads);
    Py_CLEAR(p->work);
    return 0;
}

static void
pool_dealloc(PyObject *self)
{
    struct pool *p = (struct pool *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (p->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    pool_clear(self);
    Py_CLEAR(p->name);
    if (p->crew != NULL) {
        crew_close(p->crew);
        crew_release(p->crew);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
pool_repr(PyObject *self)
{
    struct pool *p = (struct pool *)self;
    return PyUnicode_FromFormat("<Pool %R threads=%zu/%zu idle=%zu queued=%zu>", p->name,
                                p->crew->threads_n, p->threads_max, p->crew->idle_n,
                                p->crew->queued);
}

enum count { COUNT_THREADS, COUNT_RUNNING, COUNT_IDLE, COUNT_QUEUED };

static PyObject *
get_count(PyObject *self, void *closure)
{
    struct pool *p = (struct pool *)self;
    size_t n = 0;
    pthread_mutex_lock(&p->crew->lock);
    switch ((enum count)(intptr_t)closure) {
    case COUNT_THREADS:
        n = p->threads_max;
        break;
    case COUNT_RUNNING:
        n = p->crew->threads_n;
        break;
    case COUNT_IDLE:
        n = p->crew->idle_n;
        break;
    case COUNT_QUEUED:
        n = p->crew->queued;
        break;
    }
    pthread_mutex_unlock(&p->crew->lock);
    return PyLong_FromSize_t(n);
}

static PyObject *
get_is_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct pool *)self)->crew->is_closed);
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef pool_methods[] = {
    { "submit", FAST(meth_submit), METH_FASTCALL,
      "Queue fn(*args); returns a future of the loop." },
    { "close", meth_close, METH_NOARGS,
      "Take no more jobs; what is queued still runs, then the threads end." },
    { "stop", FAST(meth_stop), METH_VARARGS | METH_KEYWORDS,
      "close(), then wait for the threads. Returns [(name, where), ...] of those that did not end "
      "in time; "
      "jobs that have not begun by then are cancelled." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef pool_members[] = {
    { "name", Py_T_OBJECT_EX, offsetof(struct pool, name), Py_READONLY, NULL },
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pool, weakrefs), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef pool_getset[] = {
    { "threads", get_count, NULL, "How many threads there may be.", (void *)COUNT_THREADS },
    { "running", get_count, NULL, "Threads that have been started.", (void *)COUNT_RUNNING },
    { "idle", get_count, NULL, "Threads that wait for a job.", (void *)COUNT_IDLE },
    { "queued", get_count, NULL, "Jobs that wait for a thread.", (void *)COUNT_QUEUED },
    { "closed", get_is_closed, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pool_slots[] = {
    { Py_tp_doc,
      "Pool(loop, threads, name, queue=100000): a fixed set of threads for synchronous code." },
    { Py_tp_new, pool_new },
    { Py_tp_dealloc, pool_dealloc },
    { Py_tp_traverse, pool_traverse },
    { Py_tp_clear, pool_clear },
    { Py_tp_repr, pool_repr },
    { Py_tp_methods, pool_methods },
    { Py_tp_members, pool_members },
    { Py_tp_getset, pool_getset },
    { 0, NULL },
};

static PyType_Spec pool_spec = {
    .name = "_ringcorn.Pool",
    .basicsize = sizeof(struct pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pool_slots,
};

int
sync_add_types(PyObject *module)
{
    PY_OWNED PyObject *type = PyType_FromModuleAndSpec(module, &pool_spec, NULL);
    return type != NULL ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
}
