/* server.c: one application behind one loop. What the I/O phase has parsed waits here for the Python phase. */
#include "asgi.h"

#include <stdlib.h>

static bool
queue_push(struct asgi_queue *q, void *item)
{
    if (q->n == q->cap) {
        size_t cap = q->cap ? q->cap * 2 : 64;
        void **v = realloc(q->v, cap * sizeof(*v));
        if (v == NULL)
            return false;
        q->v = v;
        q->cap = cap;
    }
    q->v[q->n++] = item;
    return true;
}

/* http_app.begin: I/O phase, no GIL. */
static void
on_begin(struct http_app *http, struct h1 *h)
{
    struct asgi *a = (struct asgi *)http;
    if (a->direct != NULL && direct_takes(a, h))
        return;
    if (LIKELY(queue_push(&a->begun, h)))
        return;
    if (!a->has_run_out) {
        a->has_run_out = true;
        log_error("out of memory: requests are refused with 503");
    }
    h1_fail(h, 503);
    h1_end(h);
}

/* http_app.event: I/O phase, no GIL. */
static void
on_event(struct http_app *http, struct h1 *h, unsigned events)
{
    struct asgi *a = (struct asgi *)http;
    struct exchange *ex = exchange_of(*h1_data(h));
    if (ex != NULL) {
        exchange_event(ex, events);
        return;
    }
    struct cycle *cycle = *h1_data(h);
    if (cycle == NULL)
        return; /* still in the begun queue: cycle_start() looks for itself */
    cycle->events |= (uint8_t)events;
    if (list_is_empty(&cycle->work))
        list_add_tail(&a->work, &cycle->work);
}

/* http_app.release and .conn_freed: any phase. The room was made when the owner was handed out (send.c) or, for
 * connections, is made here; an object that cannot be queued is leaked rather than freed without the GIL. */
static void
on_release(struct http_app *http, void *owner)
{
    struct asgi *a = (struct asgi *)http;
    if ((uintptr_t)owner & OWNER_TAG)
        exchange_release(a->exchanges, owner);
    else if (!queue_push(&a->trash, owner))
        log_error("out of memory: an output buffer is lost");
}

static void
on_conn_freed(struct http_app *http, void *conn_data)
{
    struct exchange_conn *conn = conn_data;
    if (conn->kept != NULL) /* (client, server, tls) */
        on_release(http, conn->kept);
    exchange_conn_free(conn);
}

int
asgi_init(struct asgi *a, PyObject *loop, const struct conf *conf, struct net *net, int access_fd)
{
    *a = (struct asgi){
        .http = {
            .begin = on_begin,
            .event = on_event,
            .release = on_release,
            .conn_freed = on_conn_freed,
            .net = net,
            .conf = conf,
            .access_fd = access_fd,
            .is_gated = true,
        },
        .loop = loop,
        .thread = pthread_self(),
    };
    list_init(&a->cycles);
    list_init(&a->work);
    list_init(&a->returned);
    a->names = names_new(conf);
    return a->names == NULL ? -1 : 0;
}

static void
empty_trash(struct asgi *a)
{
    /* Dropping an object can run Python, and so refill the array: take it by index. */
    for (size_t i = 0; i < a->trash.n; i++)
        held_release(a->trash.v[i]);
    a->trash.n = 0;
}

void
asgi_fini(struct asgi *a)
{
    empty_trash(a);
    if (a->exchanges != NULL && exchanges_are_at_threads(a->exchanges))
        return; /* a thread that was left behind keeps what it needs */
    free(a->trash.v);
    free(a->begun.v);
    Py_CLEAR(a->app);
    Py_CLEAR(a->websocket_app);
    Py_CLEAR(a->context);
    Py_CLEAR(a->state);
    Py_CLEAR(a->pool);
    direct_fini(a);
    if (a->names != NULL)
        names_free(a->names);
    a->names = NULL;
}

int
asgi_serve(struct asgi *a, PyObject *app, PyObject *websocket_app, PyObject *context,
           PyObject *state, PyObject *pool)
{
    if (!PyCallable_Check(app)) {
        PyErr_Format(PyExc_TypeError, "the application must be callable, not %.100s",
                     Py_TYPE(app)->tp_name);
        return -1;
    }
    if (!PyContext_CheckExact(context)) {
        PyErr_SetString(PyExc_TypeError, "context must be a contextvars.Context");
        return -1;
    }
    if (!PyDict_Check(state)) {
        PyErr_SetString(PyExc_TypeError, "state must be a dict");
        return -1;
    }
    Py_XSETREF(a->app, Py_NewRef(app));
    Py_XSETREF(a->websocket_app, Py_NewRef(websocket_app));
    a->http.serves_websockets = true;
    Py_XSETREF(a->context, Py_NewRef(context));
    Py_XSETREF(a->state, Py_NewRef(state));
    Py_XSETREF(a->pool, Py_NewRef(pool));
    return 0;
}

bool
asgi_has_work(const struct asgi *a)
{
    return a->begun.n > 0 || !list_is_empty(&a->work) || a->trash.n > 0 ||
           !list_is_empty(&a->returned);
}

int
asgi_run(struct asgi *a)
{
    /* Starting a cycle may not refill begun (requests are parsed in the I/O phase only), but h1_end() may. */
    for (size_t i = 0; i < a->begun.n; i++) {
        struct h1 *h = a->begun.v[i];
        struct cycle *cycle = cycle_new(a, h, NULL);
        int err = cycle == NULL ? -1 : cycle_start(cycle);
        Py_XDECREF(cycle);
        if (UNLIKELY(err < 0)) {
            size_t left = a->begun.n - i - 1;
            memmove(a->begun.v, a->begun.v + i + 1, left * sizeof(*a->begun.v));
            a->begun.n = left;
            return -1;
        }
        loop_flush_if_due(a->loop);
    }
    a->begun.n = 0;
    if (UNLIKELY(!list_is_empty(&a->returned)) && direct_run(a) < 0)
        return -1;
    struct list *node;
    while ((node = list_pop(&a->work)) != NULL) {
        struct cycle *cycle = CONTAINER_OF(node, struct cycle, work);
        Py_INCREF(cycle);
        int err = cycle_events(cycle);
        Py_DECREF(cycle);
        if (UNLIKELY(err < 0))
            return -1;
    }
    if (a->trash.n > 0)
        empty_trash(a);
    return 0;
}

size_t
asgi_cancel_all(struct asgi *a)
{
    size_t n = 0;
    PY_OWNED PyObject *tasks = PyList_New(0);
    PY_OWNED PyObject *leases = tasks != NULL ? PyList_New(0) : NULL;
    if (leases == NULL) {
        PyErr_WriteUnraisable(a->loop);
        return 0;
    }
    LIST_FOR_EACH(node, &a->cycles) {
        struct cycle *cycle = CONTAINER_OF(node, struct cycle, link);
        cycle->is_cancelled = true;
        if ((cycle->task != NULL && PyList_Append(tasks, cycle->task) < 0) ||
            (cycle->lease != NULL && PyList_Append(leases, cycle->lease) < 0))
            PyErr_WriteUnraisable(a->loop);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(leases); i++)
        lease_cancel(lease_inside(PyList_GET_ITEM(leases, i)), SYNC_CANCEL_LEAVING);
    if (a->pool !=
        NULL) /* WebSockets have theirs for themselves, and calls outside of requests have some */
        pool_cancel_held(a->pool, SYNC_CANCEL_LEAVING);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tasks); i++) {
        /* What was cancelled before cleans up now: a second time would break that off. */
        PY_OWNED PyObject *times =
            PyObject_CallMethodNoArgs(PyList_GET_ITEM(tasks, i), a->names->cancelling);
        if (times != NULL && PyObject_IsTrue(times) == 1)
            continue;
        PY_OWNED PyObject *done =
            times == NULL ? NULL
                          : PyObject_CallMethodNoArgs(PyList_GET_ITEM(tasks, i), a->names->cancel);
        if (done == NULL)
            PyErr_WriteUnraisable(PyList_GET_ITEM(tasks, i));
        else
            n++;
    }
    return n;
}

void
asgi_abandon(struct asgi *a)
{
    for (size_t i = 0; i < a->begun.n; i++) {
        h1_fail(a->begun.v[i], 503);
        h1_end(a->begun.v[i]);
    }
    a->begun.n = 0;
    direct_abandon(a);
    while (!list_is_empty(&a->cycles))
        cycle_abandon(CONTAINER_OF(a->cycles.next, struct cycle, link));
    a->loop = NULL;
}

void
asgi_report_signal_safe(const struct asgi *a, size_t max)
{
    int64_t now = clock_ns(); /* clock_gettime is async-signal-safe */
    LIST_FOR_EACH(node, &a->cycles) {
        const struct cycle *cycle = CONTAINER_OF(node, struct cycle, link);
        char line[CYCLE_LABEL_SIZE + 48] = "in hand for ";
        size_t n = strlen(line);
        char digits[24];
        size_t k = 0;
        for (int64_t s = (now - cycle->begun_ns) / NS_PER_S; k == 0 || s > 0; s /= 10)
            digits[k++] = (char)('0' + s % 10);
        while (k > 0)
            line[n++] = digits[--k];
        memcpy(line + n, " s: ", 4);
        n += 4;
        size_t label = strnlen(cycle_label(cycle), CYCLE_LABEL_SIZE - 1);
        memcpy(line + n, cycle_label(cycle), label);
        line[n + label] = '\0';
        if (max-- == 0) {
            log_signal_safe("in hand: and more");
            return;
        }
        log_signal_safe(line);
    }
}

PyObject *
asgi_in_hand(const struct asgi *a)
{
    PY_OWNED PyObject *out = PyList_New(0);
    if (out == NULL)
        return NULL;
    LIST_FOR_EACH(node, &a->cycles) {
        const struct cycle *cycle = CONTAINER_OF(node, struct cycle, link);
        PY_OWNED PyObject *text = PyUnicode_DecodeUTF8(
            cycle_label(cycle), (Py_ssize_t)strlen(cycle_label(cycle)), "replace");
        if (text == NULL || PyList_Append(out, text) < 0)
            return NULL;
    }
    return py_take(&out);
}

int
asgi_add_types(PyObject *module)
{
    static const struct {
        const char *name;
        PyType_Spec *spec;
    } types[] = {
        { "_Cycle", &cycle_spec }, { "_Receive", &receive_spec }, { "_Send", &send_spec },
        { "_Wait", &wait_spec },   { "Exchange", &direct_spec },
    };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        PY_OWNED PyObject *type = PyType_FromModuleAndSpec(module, types[i].spec, NULL);
        if (type == NULL || PyModule_AddObjectRef(module, types[i].name, type) < 0)
            return -1;
    }
    PY_OWNED PyObject *disconnected = PyErr_NewExceptionWithDoc(
        "ringcorn.ClientDisconnected",
        "send() was called after the client had gone (ASGI HTTP 2.4: an OSError).",
        PyExc_ConnectionResetError, NULL);
    if (disconnected == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "ClientDisconnected", disconnected);
}
