/* direct.c: requests to synchronous code that go to a thread at once: the loop hands over a copy of the head without the GIL (wsgi/), and the
 * thread builds the scope, calls the application's adapter, and hands the answer back the same way. No task, no receive() and send().
 *
 * To the application it is as if the adapter were a job of the request's lease: the lease is in the context, has the thread, and is closed at
 * the end. A long body is not awaited here: as of old the loop takes it in, and no thread waits for a client that is slow.
 *
 * What the thread sees of the request is a _ringcorn.Exchange (direct_type.c).
 *
 * The path tells which requests these are (guess.c). The adapter knows better: a request that it does not want comes back to the loop and
 * goes on as any other, with nothing of it lost.
 *
 * Runs on:  direct_takes(), on_returned(): the loop's thread, any GIL state; serve(): the request's thread, GIL held; the rest: the loop's
 *           thread, GIL held. */
#include "asgi.h"

#include <stdlib.h>

#include "metrics/metrics.h"
#include "sync/sync.h"

static const char asgi_capsule[] = "_ringcorn.asgi";

static void
report(struct direct *d, PyObject *exception, const char *what)
{
    struct exchange *ex = d->ex;
    bool is_gone =
        atomic_load(&ex->is_gone) || atomic_load(&ex->is_broken) || atomic_load(&ex->is_cancelled);
    PY_OWNED PyObject *done = PyObject_CallFunction(
        d->asgi->names->report, "sOsOz#", ex->label, exception != NULL ? exception : Py_None, what,
        is_gone ? Py_True : Py_False, ex->req.id.p, (Py_ssize_t)ex->req.id.n);
    if (done == NULL) {
        log_about(LOG_ERROR, ex->req.id, "%s: %s", ex->label, what);
        PyErr_WriteUnraisable(d->asgi->names->report);
    }
}

/* --- a request on its thread ----------------------------------------------------------------------------------------------------- */

/* Back to the loop: left goes on with it there, or the application where it is NULL. */
static void
give_back(struct direct *d, PyObject *left, PyObject *context)
{
    struct exchange *ex = d->ex;
    d->left = Py_XNewRef(left);
    d->context = Py_NewRef(context);
    if (left != NULL)
        input_keep(d->body);
    else
        input_end(d->body);
    ex->left = Py_NewRef((PyObject *)d);
    exchange_return(ex);
}

static void
conclude(struct direct *d, PyObject *result, PyObject *context)
{
    struct asgi *a = d->asgi;
    struct exchange *ex = d->ex;
    if (LIKELY(result == Py_None)) {
        guess_learn(a->guesses, ex->req.path, GUESS_SYNC);
        if (UNLIKELY(!d->is_finished)) {
            exchange_fail(ex, false);
            if (!atomic_load(&ex->is_gone))
                report(d, NULL,
                       ex->answer.status != 0
                           ? "the application returned before the response was complete"
                           : "the application returned without a response");
        }
    } else if (ex->answer.status != 0) {
        exchange_fail(ex, false);
        report(d, NULL, "the application has begun to answer, and gives the request back");
    } else {
        guess_learn(a->guesses, ex->req.path, GUESS_NEVER);
        give_back(d, result == a->not_mine ? NULL : result, context);
    }
}

static void
call(struct direct *d, PyObject *context)
{
    struct exchange *ex = d->ex;
    PY_OWNED PyObject *result = PyObject_CallOneArg(d->asgi->direct, (PyObject *)d);
    PY_OWNED PyObject *exception = result == NULL ? PyErr_GetRaisedException() : NULL;
    if (LIKELY(result != NULL)) {
        conclude(d, result, context);
    } else {
        bool has_begun = ex->is_started;
        exchange_fail(ex, false);
        report(d, exception, has_begun ? "exception after the response had begun" : "exception");
    }
}

/* By its route: what it has taken, up to here. */
static void
count(struct direct *d, PyObject *lease)
{
    struct metrics_spent spent = { .request_ns = clock_ns() - d->ex->begun_ns };
    spent.thread_ns = lease_spent(lease_inside(lease), &spent.calls);
    spent.calls.cpu_ns += job_cpu_ns();
    route_count(d->asgi, d->scope, d->ex->answer.status, &spent, NULL);
}

static void
serve(struct exchange *ex)
{
    struct asgi *a = ex->set->user;
    exchanges_collect(ex->set);
    PY_OWNED PyObject *context = PyContext_Copy(a->context);
    PY_OWNED PyObject *owner = NULL;
    bool is_inside = context != NULL && PyContext_Enter(context) == 0;
    if (UNLIKELY(!is_inside || py_context_set(a->names->request_id, ex->req.id) < 0 ||
                 (owner = (PyObject *)direct_new(a, ex)) == NULL)) {
        PyObject *raised = PyErr_GetRaisedException();
        exchange_fail(ex, true);
        log_about(LOG_ERROR, ex->req.id, "%s: it cannot be begun", ex->label);
        if (is_inside)
            PyContext_Exit(context);
        PyErr_SetRaisedException(raised);
        PyErr_WriteUnraisable(a->direct);
        return;
    }
    struct direct *d = (struct direct *)owner;
    PY_OWNED PyObject *lease = Py_NewRef(d->lease);
    lease_take_job(lease, &ex->job);
    ex->at = lease_inside(lease);
    call(d, context);
    if (UNLIKELY(PyContext_Exit(context) < 0))
        PyErr_WriteUnraisable(context); /* the application has entered another, and not left it */
    bool is_left = ex->left != NULL, goes_on_here = is_left && d->left != NULL;
    if (LIKELY(!is_left)) {
        input_end(d->body);
        Py_CLEAR(d->lease);
        count(d, lease);
    }
    d->ex = NULL;
    ex->at = NULL; /* it may end before the loop knows */
    /* What runs Python comes before the last: from there to the end of the job nobody else has the GIL, and the lease stays as it is. */
    Py_CLEAR(context);
    Py_CLEAR(owner);
    if (LIKELY(!is_left)) {
        lease_tell_end(lease);
        lease_end(lease);
    }
    if (LIKELY(!goes_on_here))
        lease_give_job(lease, &ex->job, &ex->lease);
}

/* --- between the two ---------------------------------------------------------------------------------------------------------------- */

bool
direct_takes(struct asgi *a, struct h1 *h)
{
    if (h1_request(h)->is_websocket || !guess_is_sync(a->guesses, h1_request(h)->path) ||
        !exchange_will_be_whole(h))
        return false;
    exchange_begin(a->exchanges, h, serve);
    loop_note_request(a->loop, false);
    return true;
}

static void
on_returned(struct exchange *ex)
{
    struct asgi *a = ex->set->user;
    if (ex->h != NULL)
        list_add_tail(&a->returned, &ex->user);
    else /* left behind at the worker's end */
        a->http.release(&a->http, ex->left);
}

static int
take_over(struct asgi *a, struct exchange *ex)
{
    PY_OWNED PyObject *owner = ex->left;
    struct direct *d = ex->left;
    ex->left = NULL;
    size_t n = ex->in_end - ex->in_start;
    PY_OWNED PyObject *early =
        d->left != NULL || n == 0 ? NULL
                                  : PyBytes_FromStringAndSize(ex->in + ex->in_start, (Py_ssize_t)n);
    bool has_failed = PyErr_Occurred() != NULL;
    char label[EXCHANGE_LABEL_SIZE];
    memcpy(label, ex->label, sizeof(label));
    int64_t begun_ns = ex->begun_ns;
    struct h1 *h = exchange_part(ex);
    struct cycle *cycle = has_failed ? NULL : cycle_new(a, h, label);
    PY_OWNED PyObject *cycle_owner = (PyObject *)cycle;
    if (UNLIKELY(cycle == NULL)) {
        PyErr_WriteUnraisable(a->app);
        lease_end(d->lease);
        h1_fail(h, 503);
        h1_end(h);
        return 0;
    }
    cycle->begun_ns = begun_ns;
    cycle->lease = py_take(&d->lease);
    cycle->http->early = py_take(&early);
    cycle->body_is_told = d->left != NULL;
    return cycle_resume(cycle, d->scope, d->left, d->context);
}

int
direct_run(struct asgi *a)
{
    struct list *node;
    while ((node = list_pop(&a->returned)) != NULL) {
        if (take_over(a, CONTAINER_OF(node, struct exchange, user)) < 0)
            return -1;
        loop_flush_if_due(a->loop);
    }
    return 0;
}

void
direct_abandon(struct asgi *a)
{
    struct list *node;
    while ((node = list_pop(&a->returned)) != NULL) {
        struct exchange *ex = CONTAINER_OF(node, struct exchange, user);
        PY_OWNED PyObject *left = ex->left;
        lease_end(((struct direct *)left)->lease);
        ex->left = NULL;
        struct h1 *h = exchange_part(ex);
        h1_fail(h, 503);
        h1_end(h);
    }
}

/* teach(scope, is_sync): called on the loop. */
static PyObject *
teach(PyObject *capsule, PyObject *const *args, Py_ssize_t n)
{
    struct asgi *a = PyCapsule_GetPointer(capsule, asgi_capsule);
    if (a == NULL)
        return NULL;
    if (a->guesses == NULL) /* the worker has ended */
        Py_RETURN_NONE;
    if (n != 2 || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError,
                        "it takes a scope, and whether that leads to synchronous code");
        return NULL;
    }
    PyObject *raw_path = PyDict_GetItemWithError(args[0], a->names->s_raw_path);
    PyObject *root_path =
        raw_path == NULL ? NULL : PyDict_GetItemWithError(args[0], a->names->s_root_path);
    int is_sync = PyObject_IsTrue(args[1]);
    if (is_sync < 0 || PyErr_Occurred())
        return NULL;
    if (root_path == NULL || !PyBytes_Check(raw_path) || !PyUnicode_Check(root_path))
        Py_RETURN_NONE;
    /* Guesses are about the path in the request line. A proxy's prefix with escapes in it is not found there, and nothing learnt. */
    Py_ssize_t root = 0;
    const char *text = PyUnicode_AsUTF8AndSize(root_path, &root);
    if (text == NULL)
        return NULL;
    if (PyBytes_GET_SIZE(raw_path) >= root &&
        memcmp(PyBytes_AS_STRING(raw_path), text, (size_t)root) == 0) {
        const struct slice path = { PyBytes_AS_STRING(raw_path) + root,
                                    (size_t)(PyBytes_GET_SIZE(raw_path) - root) };
        guess_learn(a->guesses, path, is_sync ? GUESS_SYNC : GUESS_ASYNC);
    }
    Py_RETURN_NONE;
}

static PyMethodDef teach_def = { "teach", (PyCFunction)(void (*)(void))teach, METH_FASTCALL,
                                 "teach(scope, is_sync): what a request's path leads to." };

PyObject *
asgi_direct(struct asgi *a, struct wsgi *w, PyObject *pool, PyObject *direct, PyObject *not_mine)
{
    if (!PyCallable_Check(direct)) {
        PyErr_SetString(PyExc_TypeError, "direct must be callable");
        return NULL;
    }
    if (wsgi_open(w, a->loop, pool) < 0)
        return NULL;
    if ((a->guesses = guesses_new()) == NULL)
        return PyErr_NoMemory();
    /* a outlives the interpreter */
    PY_OWNED PyObject *capsule = PyCapsule_New(a, asgi_capsule, NULL);
    PY_OWNED PyObject *teaches = capsule != NULL ? PyCFunction_New(&teach_def, capsule) : NULL;
    if (teaches == NULL)
        return NULL;
    w->exchanges.user = a;
    w->exchanges.returned = on_returned;
    a->exchanges = &w->exchanges;
    a->wsgi_names = w->names;
    a->not_mine = Py_NewRef(not_mine);
    a->direct = Py_NewRef(direct);
    return py_take(&teaches);
}

void
direct_fini(struct asgi *a)
{
    Py_CLEAR(a->direct);
    Py_CLEAR(a->not_mine);
    free(a->guesses);
    a->guesses = NULL;
}
