/* job.c: a job that is a Python call, and its way back as a future.
 *
 * The job is itself the callback by which its future tells that it was cancelled: a job that waits is then taken out of the queue at once
 * and its place is free.
 *
 * Runs on:  job_submit(): any thread with the GIL; run(): the pool's thread; the way back: the loop's thread, or for calls that
 *           came from another thread the pool's.
 * Owns:     the crew has a reference to a job until its future has learned of the outcome. */
#include "sync/private.h"

#include <stdlib.h>

enum { JOB_ARGS_INLINE = 4 };

struct job {
    PyObject_HEAD
    struct sync_job sync;
    struct lease *lease; /* own, or owner's */
    struct post post;    /* its way back to the loop */
    struct crew *crew;   /* counted */
    PyObject *loop;      /* new, as all below */
    PyObject *owner;     /* the Lease; NULL for a job with a lease of its own */
    PyObject *future;
    PyObject *fn;
    PyObject **args; /* args[-1] is scratch for vectorcall; inline, or allocated for more */
    PyObject *slots[1 + JOB_ARGS_INLINE];
    Py_ssize_t n_args;
    PyObject *result; /* NULL where it was not run or raised */
    PyObject *exception;
    vectorcallfunc vectorcall;
    bool is_watched;    /* the future's callbacks hold the job */
    bool is_concurrent; /* the future is one of concurrent.futures */
    bool is_late;       /* waited for too long */
    bool has_no_thread; /* was dropped because there is none for it */
    struct lease own;   /* last: mostly its label, unused */
};

static struct job *
job_of(struct sync_job *sync)
{
    return CONTAINER_OF(sync, struct job, sync);
}

/* May run Python. */
static void
drop_call(struct job *job)
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
job_dealloc(PyObject *self)
{
    struct job *job = (struct job *)self;
    PyTypeObject *type = Py_TYPE(self);
    drop_call(job);
    Py_XDECREF(job->result);
    Py_XDECREF(job->exception);
    Py_XDECREF(job->future);
    Py_XDECREF(job->loop);
    Py_XDECREF(job->owner);
    crew_release(job->crew);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The crew's reference. A future of concurrent.futures keeps its callbacks for ever. */
static void
job_release(struct job *job)
{
    live.jobs--;
    Py_CLEAR(job->future);
    Py_DECREF(job);
}

/* --- the outcome ---------------------------------------------------------------------------------- */

static PyObject *
tell_future(struct job *job)
{
    const struct crew *c = job->crew;
    if (job->exception == NULL && job->is_late)
        job->exception = PyObject_CallFunction(
            c->queue_timeout, "s", "waited for a thread for longer than sync.queue_timeout");
    if (job->exception == NULL && job->has_no_thread)
        job->exception =
            PyObject_CallFunction(c->no_thread, "s", "requests keep all of sync.threads_max");
    if (job->exception != NULL)
        return PyObject_CallMethodOneArg(job->future, c->s_set_exception, job->exception);
    if (job->result != NULL)
        return PyObject_CallMethodOneArg(job->future, c->s_set_result, job->result);
    return PyObject_CallMethodNoArgs(job->future, c->s_cancel); /* dropped by stop() */
}

/* An exception is left set. */
static void
finish(struct job *job)
{
    if (job->is_watched) {
        job->is_watched = false;
        PyObject *removed = PyObject_CallMethodOneArg(
            job->future, job->crew->s_remove_done_callback, (PyObject *)job);
        if (removed == NULL)
            PyErr_Clear();
        Py_XDECREF(removed);
    }
    PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(job->future, job->crew->s_done);
    if (done == Py_False)
        Py_XDECREF(tell_future(job));
}

/* The loop's phase 3: the future learns of the outcome. */
static void
on_post(struct post *post, PyObject *loop)
{
    struct job *job = CONTAINER_OF(post, struct job, post);

    if (job->owner != NULL) {
        __atomic_fetch_sub(&job->lease->delivering, 1, __ATOMIC_RELAXED);
        WRITE(job->lease->delivered_turn, READ(job->crew->turn));
    }
    if (loop != NULL)
        finish(job);
    PyObject *exception = PyErr_GetRaisedException();
    job_release(job);
    PyErr_SetRaisedException(exception); /* the loop reports it */
}

/* For calls from other threads: the pool's thread tells the future itself. */
static void
finish_concurrent(struct job *job)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *pending = PyErr_GetRaisedException();
    Py_XDECREF(tell_future(job));
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(
            (PyObject *)job); /* it was cancelled meanwhile, or a callback ended the thread */
    __atomic_fetch_sub(&job->lease->delivering, 1, __ATOMIC_RELAXED);
    loop_wake(job->loop); /* as a post would: it may have to park the lease */
    job_release(job);
    PyErr_SetRaisedException(pending);
    PyGILState_Release(gil);
}

static void
job_end(struct sync_job *sync)
{
    struct job *job = job_of(sync);
    if (UNLIKELY(job->is_concurrent))
        finish_concurrent(job);
    else
        loop_post(
            job->loop,
            &job->post); /* the job keeps the loop alive until it is posted; loop_post() bears its end from there on */
}

static void
job_drop(struct sync_job *sync, enum sync_drop why)
{
    struct job *job = job_of(sync);
    job->is_late = why == SYNC_DROP_TIMEOUT;
    job->has_no_thread = why == SYNC_DROP_NO_THREAD;
    if (job->owner != NULL) {
        __atomic_fetch_add(&job->lease->delivering, 1, __ATOMIC_RELAXED);
        if (job->is_late)
            WRITE(((struct lease_object *)job->owner)->was_refused, true);
        if (job->has_no_thread)
            WRITE(((struct lease_object *)job->owner)->has_no_thread, true);
    }
    job_end(sync);
}

/* --- running -------------------------------------------------------------------------------------- */

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

/* Each job has a context of its own: what it sets is not the next one's. */
static PyObject *
call_in_context(struct job *job)
{
    PY_OWNED PyObject *context = PyContext_New();
    if (context == NULL || PyContext_Enter(context) < 0)
        return NULL;
    PyObject *result = PyObject_Vectorcall(
        job->fn, job->args, (size_t)job->n_args | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    PyObject *exception = PyErr_GetRaisedException();
    if (PyContext_Exit(context) < 0)
        PyErr_Clear();
    PyErr_SetRaisedException(exception);
    return result;
}

/* GIL held, in the pool's thread. Never leaves an exception set. */
static void
job_run(struct sync_job *sync)
{
    struct job *job = job_of(sync);
    PyObject *is_dead;
    if (job->is_concurrent) {
        PY_OWNED PyObject *goes_on =
            PyObject_CallMethodNoArgs(job->future, job->crew->s_set_running);
        is_dead = goes_on == NULL ? NULL : goes_on == Py_True ? Py_False : Py_True;
    } else {
        PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(job->future, job->crew->s_done);
        is_dead = done; /* a bool: immortal for us */
    }
    if (is_dead == Py_False)
        job->result = call_in_context(job);
    if (PyErr_Occurred()) {
        job->exception = PyErr_GetRaisedException();
        if (sync->is_batched)
            crew_lease_keep(job->lease); /* what handles the exception may have more to call */
        if (!job->is_concurrent)
            job->exception = exception_for_future(job->exception);
    }
    drop_call(job); /* here, so that what is bound to this thread ends in it */
    __atomic_fetch_add(&job->lease->delivering, 1, __ATOMIC_RELAXED);
}

/* --- submitting ----------------------------------------------------------------------------------- */

/* The future is done. Where the job still waits, it was cancelled. */
static PyObject *
job_call(PyObject *self, PyObject *const *args, size_t n, PyObject *kwnames)
{
    struct job *job = (struct job *)self;
    (void)args;
    (void)n;
    (void)kwnames;
    job->is_watched = false;
    if (lease_withdraw(job->lease, &job->sync))
        job_release(job);
    Py_RETURN_NONE;
}

static struct job *
job_new(struct pool *p, struct lease *l, PyObject *owner, PyObject *fn, PyObject *const *args,
        Py_ssize_t n)
{
    struct crew *c = p->crew;
    struct job *job = (struct job *)p->job_type->tp_alloc(p->job_type, 0);
    if (job == NULL)
        return NULL;
    job->vectorcall = job_call;
    job->args = &job->slots[1];
    job->post.fn = on_post;
    job->sync.run = job_run;
    job->sync.end = job_end;
    job->sync.drop = job_drop;
    list_init(&job->sync.link);
    job->crew = c;
    atomic_fetch_add(&c->refs, 1);
    if (n > JOB_ARGS_INLINE) {
        PyObject **more = PyMem_Malloc((size_t)(n + 1) * sizeof *more);
        if (more == NULL) {
            Py_DECREF(job);
            PyErr_NoMemory();
            return NULL;
        }
        job->args = more + 1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        job->args[i] = Py_NewRef(args[i]);
    job->n_args = n;
    job->fn = Py_NewRef(fn);
    job->loop = Py_NewRef(p->loop);
    job->owner = Py_XNewRef(owner);
    if (l == NULL) {
        crew_lease_init(&job->own, c);
        job->own.is_closed = true; /* from the first: it ends with its only job */
        l = &job->own;
    }
    job->lease = l;
    job->is_concurrent = loop_runs_elsewhere(p->loop);
    if (!job->is_concurrent) {
        job->future = loop_create_future(p->loop);
    } else {
        if (c->concurrent_future == NULL) {
            PY_OWNED PyObject *module = PyImport_ImportModule("concurrent.futures");
            c->concurrent_future = module != NULL ? PyObject_GetAttrString(module, "Future") : NULL;
        }
        job->future =
            c->concurrent_future != NULL ? PyObject_CallNoArgs(c->concurrent_future) : NULL;
    }
    if (job->future == NULL) {
        Py_DECREF(job);
        return NULL;
    }
    return job;
}

/* Takes out of a full queue the jobs whose futures are cancelled and whose callback has not told us yet. */
static void
sweep_cancelled(struct crew *c)
{
    size_t n = 0, max = 0;
    PyObject **jobs = NULL;
    crew_lock(c);
    max = c->queued;
    jobs = malloc((max + 1) * sizeof(PyObject *));
    if (jobs != NULL) {
        struct list *const heads[] = { &c->wait_new, &c->wait_kept };
        for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
            LIST_FOR_EACH(node, heads[i]) {
                struct lease *l = CONTAINER_OF(node, struct lease, wait);
                LIST_FOR_EACH(link, &l->jobs) {
                    struct sync_job *sync = CONTAINER_OF(link, struct sync_job, link);
                    if (sync->run == job_run && n < max)
                        jobs[n++] = Py_NewRef((PyObject *)job_of(sync));
                }
            }
        }
    }
    crew_unlock(c);
    for (size_t i = 0; i < n; i++) {
        struct job *job = (struct job *)jobs[i];
        PY_OWNED PyObject *future = Py_XNewRef(job->future); /* NULL: its outcome is known */
        PY_OWNED PyObject *done =
            future != NULL ? PyObject_CallMethodNoArgs(future, c->s_done) : NULL;
        if (PyErr_Occurred())
            PyErr_Clear();
        if (done == Py_True && lease_withdraw(job->lease, &job->sync))
            job_release(job);
        Py_DECREF(job);
    }
    free(jobs);
}

/* The job waits: its future shall tell when it is cancelled. */
static int
watch(struct job *job, PyObject *future)
{
    const struct crew *c = job->crew;
    job->is_watched = true;
    PyObject *stack[] = { future, (PyObject *)job, c->empty_context };
    PY_OWNED PyObject *added = PyObject_VectorcallMethod(c->s_add_done_callback, stack, 2,
                                                         job->is_concurrent ? NULL : c->kw_context);
    return added != NULL ? 0 : -1;
}

static void
fail_submit(struct pool *p, int err)
{
    if (err == -ESHUTDOWN)
        PyErr_SetString(PyExc_RuntimeError, "cannot schedule new futures after shutdown");
    else
        PyErr_Format(p->crew->queue_full, "pool %R: %zu jobs wait already", p->name,
                     p->crew->queue_max);
}

PyObject *
job_submit(struct pool *p, struct lease *l, PyObject *owner, enum submit how, PyObject *fn,
           PyObject *const *args, Py_ssize_t n)
{
    struct crew *c = p->crew;
    if (c->is_orphan) {
        PyErr_Format(PyExc_RuntimeError,
                     "the threads of pool %R belong to the process that forked this one", p->name);
        return NULL;
    }
    if (p->loop == NULL) { /* the collector has taken the pool apart */
        fail_submit(p, -ESHUTDOWN);
        return NULL;
    }
    struct job *job = job_new(p, l, owner, fn, args, n);
    if (job == NULL)
        return NULL;
    PY_OWNED PyObject *kept = Py_NewRef((PyObject *)job);
    PY_OWNED PyObject *future = Py_NewRef(job->future);
    bool is_waiting = false;
    live.jobs++;
    int err = crew_submit(job->lease, &job->sync, how, &is_waiting);
    if (err == -EAGAIN) {
        sweep_cancelled(c);
        err = crew_submit(job->lease, &job->sync, how, &is_waiting);
    }
    if (err < 0) {
        if (err == -EAGAIN && owner != NULL)
            WRITE(((struct lease_object *)owner)->was_refused, true);
        job_release(job);
        fail_submit(p, err);
        return NULL;
    }
    if (LIKELY(!is_waiting))
        return py_take(&future);
    if (READ(c->wanted) > 0 && threads_start(p) < 0) {
        /* Without any thread the job cannot be done. */
        bool is_lost = lease_withdraw(job->lease, &job->sync);
        if (is_lost)
            job_release(job);
        if (is_lost || !PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear();
    }
    if (crew_has_queued(job->lease, &job->sync) && watch(job, future) < 0)
        return NULL;
    return py_take(&future);
}

static PyMemberDef job_members[] = {
    { "__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct job, vectorcall), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot job_slots[] = {
    { Py_tp_doc, "A call that waits for a thread; its future's callback." },
    { Py_tp_dealloc, job_dealloc },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, job_members },
    { 0, NULL },
};

PyType_Spec job_spec = {
    .name = "_ringcorn.Job",
    .basicsize = sizeof(struct job),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = job_slots,
};
