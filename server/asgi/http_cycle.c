/* http_cycle.c: one request from its head to its end.
 *
 * Runs on:  the loop thread, GIL held.
 * Always:   a cycle with h != NULL is in asgi->cycles and has one h1; cycle_end() is the only way out, whether by the task's end, an
 *           exception, a disconnect or the drain. The application may keep receive and send for longer; they then find h == NULL. */
#include "asgi.h"

#include "sync/sync.h"

/* "GET /path" for reports: cut, without the query (it may hold secrets). Returns its length. */
static size_t
label_fill(char label[CYCLE_LABEL_SIZE], const struct http_request *r)
{
    struct slice method = r->is_websocket ? SLICE("WS") : r->method;
    size_t n = method.n < 16 ? method.n : 16;
    memcpy(label, method.p, n);
    label[n++] = ' ';
    size_t room = CYCLE_LABEL_SIZE - 1 - n, path = r->path.n < room ? r->path.n : room;
    memcpy(label + n, r->path.p, path); /* http/ lets only visible ASCII through */
    return n + path;
}

/* The application will say no more to an open WebSocket, and not because it was done. */
static void
close_websocket(struct cycle *cycle, unsigned code)
{
    if (cycle->is_accepted)
        h1_ws_close(cycle->h, code, SLICE(""));
}

/* The head is what failed (the application did not make the whole of an answer): status where it is not too late. */
static void
fail(struct cycle *cycle, int status)
{
    if (!h1_is_sending(cycle->h))
        h1_fail(cycle->h, status);
}

/* Will no more be sent? Then it is no fault of the application's that it was not told so before. */
static bool
is_parted(const struct cycle *cycle)
{
    return h1_is_gone(cycle->h) || cycle->is_leaving ||
           (cycle->is_accepted && !h1_ws_is_open(cycle->h));
}

static void
report(struct cycle *cycle, PyObject *exception, const char *what)
{
    struct slice id = h1_request(cycle->h)->id;
    PY_OWNED PyObject *done =
        PyObject_CallFunction(cycle->asgi->names->report, "sOsOz#", cycle_label(cycle),
                              exception != NULL ? exception : Py_None, what,
                              is_parted(cycle) ? Py_True : Py_False, id.p, (Py_ssize_t)id.n);
    if (done == NULL) {
        log_about(LOG_ERROR, id, "%s: %s", cycle_label(cycle), what);
        PyErr_WriteUnraisable(cycle->asgi->names->report);
    }
}

/* A call of the request got no thread: a line says who has them, and whether the client gets 503 for it. Returns whether that is what
 * exception says (NULL: none), which then needs no report of its own. */
static bool
report_refused(struct cycle *cycle, PyObject *exception)
{
    PyObject *refused = cycle->asgi->names->refused;
    bool is_answer = cycle->is_refused || !h1_is_sending(cycle->h);
    PY_OWNED PyObject *is_cause = PyObject_CallFunction(
        refused, "sOOO", cycle_label(cycle), cycle->asgi->pool,
        exception != NULL ? exception : Py_None, is_answer ? Py_True : Py_False);
    if (is_cause == NULL) {
        log_error("%s: no thread was free", cycle_label(cycle));
        PyErr_WriteUnraisable(refused);
    }
    return is_cause == Py_True;
}

bool
cycle_was_refused(const struct cycle *cycle)
{
    return cycle->lease != NULL && lease_was_refused(cycle->lease);
}

bool
cycle_is_stopped(const struct cycle *cycle)
{
    return cycle->is_cancelled && cycle->lease != NULL &&
           lease_why(lease_inside(cycle->lease)) == SYNC_CANCEL_LEAVING;
}

/* What the ended task says: an exception (new), or NULL for a normal end. */
static PyObject *
outcome(struct cycle *cycle, PyObject *task, bool *was_cancelled)
{
    *was_cancelled = false;
    PyObject *exception = PyObject_CallMethodNoArgs(task, cycle->asgi->names->exception);
    if (LIKELY(exception == Py_None)) {
        Py_DECREF(exception);
        return NULL;
    }
    if (exception != NULL)
        return exception;
    *was_cancelled = true; /* exception() raises CancelledError then */
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

void
cycle_hold(struct cycle *cycle)
{
    bool must_hold = cycle->h != NULL && !list_is_empty(&cycle->waits);
    if (must_hold == cycle->is_held)
        return;
    cycle->is_held = must_hold;
    if (must_hold)
        Py_INCREF((PyObject *)cycle);
    else
        Py_DECREF((PyObject *)cycle);
}

/* By its route: what it has taken. */
static void
count(struct cycle *cycle, PyObject *lease, int status)
{
    struct metrics_spent spent = { .steps = cycle->http->steps };
    if (lease != NULL)
        spent.thread_ns = lease_spent(lease_inside(lease), &spent.calls);
    spent.request_ns = clock_ns() - cycle->begun_ns;
    route_count(cycle->asgi, cycle->http->scope, status, &spent, cycle);
}

/* The request and its connection go their own ways. The application may still hold the cycle's receive and send. */
static void
cycle_part(struct cycle *cycle)
{
    struct h1 *h = cycle->h;
    /* the last reference may be the server's or the task's */
    PY_OWNED PyObject *self = Py_NewRef((PyObject *)cycle);
    PY_OWNED PyObject *lease = py_take(&cycle->lease);
    list_del(&cycle->link);
    list_del(&cycle->work);
    *h1_data(h) = NULL;
    cycle->h = NULL;
    live.cycles--;
    if (LIKELY(!cycle->is_websocket && cycle->http->scope != NULL))
        count(cycle, lease, h1_status(h));
    route_forget(cycle);
    h1_end(h);
    loop_note_request(cycle->asgi->loop, lease == NULL || !lease_was_used(lease));
    if (lease != NULL) {
        lease_set_request(lease, NULL);
        if (lease_why(lease_inside(lease)) ==
            SYNC_CANCEL_NOT) /* else what its thread goes on with is to end all the same */
            lease_answered(lease_inside(lease));
        lease_parted(lease_inside(lease));
        lease_end(lease);
    }
    cycle_hold(cycle);
    if (!cycle->is_websocket)
        Py_CLEAR(cycle->http->scope); /* last: may run Python */
    Py_CLEAR(cycle->task);
    if (lease != NULL)
        lease_tell_end(lease);
    watched_end(cycle);
}

/* The one end of a request. task: its ended task, or NULL when it never got one (exception is then what prevented it). */
static void
cycle_end(struct cycle *cycle, PyObject *task, PyObject *exception)
{
    struct h1 *h = cycle->h;
    bool was_cancelled = false;
    PY_OWNED PyObject *raised =
        task != NULL ? outcome(cycle, task, &was_cancelled) : Py_XNewRef(exception);
    bool is_refused = UNLIKELY(cycle_was_refused(cycle)) && report_refused(cycle, raised);
    if (UNLIKELY(raised != NULL)) {
        if (is_refused)
            ; /* said */
        else if (cycle_is_stopped(cycle))
            log_about(LOG_WARNING, h1_request(h)->id, "%s: cancelled, the worker is stopping",
                      cycle_label(cycle));
        else if (!was_cancelled)
            report(cycle, raised,
                   h1_is_sending(h) && !cycle->is_accepted
                       ? "exception after the response had begun"
                       : "exception");
        else if (cycle->is_overdue)
            ; /* said, see below */
        else if (cycle->is_cancelled)
            log_about(LOG_WARNING, h1_request(h)->id, "%s: cancelled, the worker is stopping",
                      cycle_label(cycle));
        else if (!h1_is_gone(h))
            report(cycle, raised, "the application cancelled its own task");
        fail(cycle, is_refused || cycle_is_stopped(cycle) ? 503 : 500);
        close_websocket(cycle, cycle->is_cancelled ? cycle->asgi->http.conf->ws_drain_code
                                                   : WS_INTERNAL_ERROR);
    } else if (UNLIKELY(!h1_is_finished(h)) && !h1_is_broken(h) && !is_parted(cycle)) {
        report(cycle, NULL,
               h1_is_started(h) ? "the application returned before the response was complete"
                                : "the application returned without a response");
        fail(cycle, cycle_was_refused(cycle) ? 503 : 500);
    }
    if (UNLIKELY(cycle->is_leaving))
        h1_end_stream(h);
    /* Waiters of other tasks: they look again and find the end (wait_look, receive_call). */
    wait_wake_all(cycle);
    cycle_part(cycle);
}

void
cycle_abandon(struct cycle *cycle)
{
    log_about(LOG_WARNING, h1_request(cycle->h)->id, "%s: left behind, its task did not end",
              cycle_label(cycle));
    fail(cycle, 500);
    close_websocket(cycle, cycle->asgi->http.conf->ws_drain_code);
    cycle_part(cycle);
}

static PyObject *
cycle_done(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct cycle *cycle = (struct cycle *)self;
    if (PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "a done callback takes the task");
        return NULL;
    }
    if (cycle->h != NULL)
        cycle_end(cycle, args[0], NULL);
    Py_RETURN_NONE;
}

struct cycle *
cycle_new(struct asgi *a, struct h1 *h, const char *label)
{
    char made[CYCLE_LABEL_SIZE];
    size_t n = label != NULL ? strnlen(label, sizeof(made) - 1) : label_fill(made, h1_request(h));
    bool is_websocket = h1_request(h)->is_websocket;
    size_t behind = (is_websocket ? 0 : sizeof(struct cycle_http)) + n + 1;
    struct cycle *cycle =
        PyObject_GC_NewVar(struct cycle, a->names->cycle_type, (Py_ssize_t)behind);
    if (cycle == NULL)
        return NULL;
    cycle->call = cycle_done;
    cycle->asgi = a;
    cycle->h = h;
    cycle->task = cycle->lease = cycle->guard = NULL;
    list_init(&cycle->link);
    list_init(&cycle->work);
    list_init(&cycle->waits);
    cycle->events = 0;
    cycle->is_overdue = cycle->is_leaving = cycle->knows_gone = false;
    cycle->body_is_told = cycle->is_full = cycle->is_cancelled = cycle->is_refused =
        cycle->is_held = false;
    cycle->expects_trailers = cycle->is_body_sent = false;
    cycle->connect_is_told = cycle->disconnect_is_told = cycle->is_accepted = cycle->is_closed =
        false;
    cycle->is_websocket = is_websocket;
    cycle->begun_ns = a->http.net->now_ns;
    if (LIKELY(!is_websocket))
        *cycle->http = (struct cycle_http){ 0 };
    memcpy(cycle_label(cycle), label != NULL ? label : made, n);
    cycle_label(cycle)[n] = '\0';
    PyObject_GC_Track(cycle);
    *h1_data(h) = cycle;
    list_add_tail(&a->cycles, &cycle->link);
    live.cycles++;
    return cycle;
}

/* About now: when this step was begun, or when the request before it in the same step has ended. */
static int64_t
called_ns(const struct asgi *a)
{
    int64_t step_ns = loop_step_ns(a->loop), now_ns = a->http.net->now_ns;
    return step_ns > now_ns ? step_ns : now_ns;
}

/* fn(scope, receive, send), or fn(receive, send) where scope is NULL, in the request's context: new reference to its coroutine. */
static PyObject *
call_in(struct cycle *cycle, PyObject *context, PyObject *fn, PyObject *scope)
{
    struct asgi *a = cycle->asgi;
    struct asgi_names *n = a->names;
    PY_OWNED PyObject *receive = channel_new(n->receive_type, cycle);
    PY_OWNED PyObject *send = receive == NULL ? NULL : channel_new(n->send_type, cycle);
    if (send == NULL || PyContext_Enter(context) < 0)
        return NULL;
    PyObject *args[] = { scope, receive, send };
    size_t skipped = scope == NULL;
    int err = scope != NULL ? py_context_set(n->request_id, h1_request(cycle->h)->id) : 0;
    if (LIKELY(err == 0))
        err = watched_begin(cycle);
    if (LIKELY(cycle->lease == NULL) && err == 0 &&
        !cycle->is_websocket) /* whose leases are ringcorn.websocket_lease's */
        cycle->lease = pool_enter(a->pool, cycle_label(cycle));
    if (cycle->lease != NULL)
        lease_set_request(cycle->lease, (PyObject *)cycle);
    h1_called(cycle->h, called_ns(a));
    PyObject *coro = UNLIKELY(err < 0 || (cycle->lease == NULL && PyErr_Occurred()))
                         ? NULL
                         : PyObject_Vectorcall(fn, args + skipped, 3 - skipped, NULL);
    if (UNLIKELY(coro == NULL)) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyContext_Exit(context);
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    if (PyContext_Exit(context) < 0)
        Py_CLEAR(coro);
    /* A class with __await__, as Starlette's endpoints, a future, a coroutine of Cython. */
    if (UNLIKELY(coro != NULL && !PyCoro_CheckExact(coro)))
        Py_SETREF(coro, PyObject_CallOneArg(n->as_coroutine, coro));
    return coro;
}

/* The request cannot run: takes the exception that is set, unless it is everybody's. */
static int
cycle_refuse(struct cycle *cycle)
{
    bool is_everybodys =
        PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit);
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    cycle_end(cycle, NULL, exception);
    if (!is_everybodys)
        return 0;
    PyErr_SetRaisedException(py_take(&exception));
    return -1;
}

/* The client has gone: what threads do for it in databases is cancelled, where the method is one of cancel.methods. */
static void
cancel_queries(struct cycle *cycle)
{
    struct h1 *h = cycle->h;
    const char *label = cycle_label(cycle);
    if (!drivers_are_watched() || cycle->lease == NULL || cycle->is_websocket ||
        cycle->is_leaving || h1_is_finished(h))
        return;
    if (conf_cancels(cycle->asgi->http.conf, label, strcspn(label, " ")))
        lease_cancel(lease_inside(cycle->lease), SYNC_CANCEL_GONE);
}

static void
gone(struct cycle *cycle)
{
    cancel_queries(cycle);
    if (cycle->h != NULL)
        watched_gone(cycle);
}

/* Runs a coroutine as the request's task. coro: NULL with an exception set is what ends the request. */
static int
run(struct cycle *cycle, PyObject *coro, PyObject *context, PyObject *scope)
{
    struct asgi *a = cycle->asgi;
    if (LIKELY(!cycle->is_websocket))
        Py_XSETREF(cycle->http->scope, Py_XNewRef(scope));
    /* names the task */
    PyObject *path = scope == NULL ? NULL : PyDict_GetItemWithError(scope, a->names->s_path);
    PY_OWNED PyObject *task = coro == NULL ? NULL : task_start(a->loop, coro, context, path);
    struct metrics_step step;
    if (LIKELY(!cycle->is_websocket) && cycle->http->scope != NULL &&
        loop_step_so_far(a->loop, &step))
        metrics_step(&cycle->http->steps, &step);
    if (UNLIKELY(task == NULL))
        return cycle_refuse(cycle);
    if (cycle->h == NULL) /* ended by net's going down while it ran */
        return 0;
    PY_OWNED PyObject *is_done = PyObject_CallMethodNoArgs(task, a->names->done);
    if (UNLIKELY(is_done == NULL))
        return cycle_refuse(cycle);
    if (LIKELY(is_done == Py_True)) {
        cycle_end(cycle, task, NULL);
        return 0;
    }
    PyObject *args[] = { task, (PyObject *)cycle,
                         context }; /* without it the future would keep a copy of the current one */
    PY_OWNED PyObject *added =
        PyObject_VectorcallMethod(a->names->add_done_callback, args, 2, a->names->context_kwname);
    if (UNLIKELY(added == NULL || watched_suspend(cycle, context) < 0))
        return cycle_refuse(cycle);
    cycle->task = py_take(&task);
    if (UNLIKELY(h1_is_gone(cycle->h))) /* before it began, so no event tells of it */
        gone(cycle);
    return 0;
}

int
cycle_start(struct cycle *cycle)
{
    struct asgi *a = cycle->asgi;
    PY_OWNED PyObject *context = PyContext_Copy(a->context);
    PY_OWNED PyObject *addresses = context == NULL ? NULL : scope_addresses(a->names, cycle->h);
    PY_OWNED PyObject *scope =
        addresses == NULL ? NULL : scope_new(a, h1_request(cycle->h), addresses);
    h1_head_done(cycle->h);
    if (cycle->is_websocket)
        scope_addresses_drop(cycle->h);
    a->first = cycle;
    PY_OWNED PyObject *coro =
        scope == NULL
            ? NULL
            : call_in(cycle, context, cycle->is_websocket ? a->websocket_app : a->app, scope);
    int err = run(cycle, coro, context, scope);
    a->first = NULL;
    return err;
}

int
cycle_resume(struct cycle *cycle, PyObject *scope, PyObject *left, PyObject *context)
{
    struct asgi *a = cycle->asgi;
    a->first = cycle;
    PY_OWNED PyObject *coro =
        left == NULL ? call_in(cycle, context, a->app, scope) : call_in(cycle, context, left, NULL);
    int err = run(cycle, coro, context, scope);
    a->first = NULL;
    return err;
}

/* It took longer than timeouts.request. http/ has told the client; what it waited for is said, and it ends. */
static void
cancel_overdue(struct cycle *cycle)
{
    struct asgi *a = cycle->asgi;
    if (cycle->task == NULL)
        return;
    PY_OWNED PyObject *task = Py_NewRef(cycle->task);
    cycle->is_overdue = true;
    PY_OWNED PyObject *said =
        PyObject_CallFunction(a->names->overdue, "sdiOOs", cycle_label(cycle),
                              (double)(a->http.net->now_ns - cycle->begun_ns) / NS_PER_S,
                              h1_overdue(cycle->h), task, a->pool, h1_timeout_name(cycle->h));
    if (said == NULL)
        PyErr_WriteUnraisable(a->names->overdue);
    if (cycle->lease != NULL)
        lease_cancel(lease_inside(cycle->lease), SYNC_CANCEL_OVERDUE);
    watched_cancel(cycle, task);
}

int
cycle_events(struct cycle *cycle)
{
    unsigned events = cycle->events;
    cycle->events = 0;
    if (cycle->h == NULL)
        return 0;
    if (events & HTTP_DRAINED)
        cycle->is_full = false;
    cycle->is_leaving |= (events & HTTP_LEAVE) != 0;
    wait_wake_all(cycle);
    if (UNLIKELY(events & HTTP_OVERDUE) && cycle->h != NULL)
        cancel_overdue(cycle);
    else if (events & HTTP_GONE)
        gone(cycle);
    return 0;
}

static int
cycle_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct cycle *)self)->task);
    Py_VISIT(((struct cycle *)self)->lease);
    Py_VISIT(((struct cycle *)self)->guard);
    if (!((struct cycle *)self)->is_websocket)
        Py_VISIT(((struct cycle *)self)->http->scope);
    return 0;
}

static int
cycle_clear(PyObject *self)
{
    Py_CLEAR(((struct cycle *)self)->task);
    Py_CLEAR(((struct cycle *)self)->lease);
    Py_CLEAR(((struct cycle *)self)->guard);
    if (((struct cycle *)self)->is_websocket)
        return 0;
    Py_CLEAR(((struct cycle *)self)->http->early);
    Py_CLEAR(((struct cycle *)self)->http->scope);
    return 0;
}

/* On the loop: ends the request whose task was dropped. Steals the finalizer's reference. */
static void
cycle_lost(struct post *post, PyObject *loop)
{
    struct cycle *cycle = CONTAINER_OF(post, struct cycle, lost);
    PY_OWNED PyObject *self = (PyObject *)cycle;
    if (loop == NULL || cycle->h == NULL) /* the worker's end came first */
        return;
    PY_OWNED PyObject *exception = PyObject_CallFunction(
        PyExc_RuntimeError, "s", "the request's task was dropped while it was still waiting");
    if (exception == NULL)
        PyErr_Clear();
    cycle_end(cycle, NULL, exception);
}

/* A task that nobody refers to any more (it awaited something that was dropped) takes its request with it. The collector runs in any
 * thread and in the middle of anything: the loop does the work, and until then the cycle lives again. */
static void
cycle_finalize(PyObject *self)
{
    struct cycle *cycle = (struct cycle *)self;
    if (cycle->h == NULL)
        return;
    Py_INCREF(self);
    cycle->lost.fn = cycle_lost;
    loop_post(cycle->asgi->loop, &cycle->lost);
}

static void
cycle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (((struct cycle *)self)->h != NULL && PyObject_CallFinalizerFromDealloc(self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    cycle_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot cycle_slots[] = {
    { Py_tp_dealloc, cycle_dealloc },
    { Py_tp_traverse, cycle_traverse },
    { Py_tp_clear, cycle_clear },
    { Py_tp_finalize, cycle_finalize },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, cycle_members },
    { Py_tp_getset, cycle_getset },
    { Py_tp_methods, cycle_methods },
    { 0, NULL },
};

PyType_Spec cycle_spec = {
    .name = "_ringcorn._Cycle",
    .basicsize = offsetof(struct cycle, http),
    .itemsize = 1,
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = cycle_slots,
};
