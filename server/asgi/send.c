/* send.c: the send() callable: checks each message's order and types, and hands it to http/.
 *
 * Small bodies are copied beside the head, and so is what the application can still write to. Larger ones stay in Python's memory
 * until the kernel has them: their owner, a reference to bytes or a struct held around any other buffer, comes back through
 * http_app.release to asgi->trash. */
#include "asgi.h"

enum { HOLD_MIN = 16 * 1024 }; /* bytes; smaller bodies are copied (http/http.h, h1_write) */

struct held {
    Py_buffer view;
};

/* An owner is a PyObject * (bytes), or a struct held * with the lowest bit set. */
#define HELD_TAG ((uintptr_t)1)

void
held_release(void *owner)
{
    if (((uintptr_t)owner & HELD_TAG) == 0) {
        Py_DECREF((PyObject *)owner);
        return;
    }
    struct held *held = (struct held *)((uintptr_t)owner & ~HELD_TAG);
    PyBuffer_Release(&held->view);
    free(held);
}

PyObject *
send_out_of_order(PyObject *type, const char *why)
{
    return PyErr_Format(PyExc_RuntimeError, "unexpected ASGI message %R: %s", type, why);
}

void
send_set_start_error(enum http_write err, PyObject *headers, size_t bad, long status)
{
    if (err == HTTP_BAD_STATUS) {
        PyErr_Format(PyExc_ValueError, "http.response.start: status %ld is not between 200 and 999",
                     status);
        return;
    }
    PY_OWNED PyObject *pair = PySequence_GetItem(headers, (Py_ssize_t)bad);
    if (pair == NULL)
        return;
    const char *why = err == HTTP_BAD_NAME    ? "the name is not an HTTP token"
                      : err == HTTP_BAD_VALUE ? "CR, LF and NUL are not allowed in a value"
                      : err == HTTP_BAD_LENGTH
                          ? "Content-Length must be one decimal number, and be sent once"
                          : "Transfer-Encoding is the server's to choose";
    PyErr_Format(PyExc_ValueError, "http.response.start: header %R refused: %s", pair, why);
}

/* Borrows: the slices live as long as the pair's owner does. */
int
send_header_of(PyObject *pair, size_t i, const char *what, struct http_header *out)
{
    PyObject *name, *value;
    if (LIKELY(PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2)) {
        name = PyTuple_GET_ITEM(pair, 0);
        value = PyTuple_GET_ITEM(pair, 1);
    } else {
        PyErr_Format(PyExc_TypeError, "%s: header %zu must be a pair (name, value), not %R", what,
                     i, pair);
        return -1;
    }
    if (UNLIKELY(!PyBytes_Check(name) || !PyBytes_Check(value))) {
        PyErr_Format(PyExc_TypeError, "%s: name and value of header %zu must be bytes, not %R",
                     what, i, pair);
        return -1;
    }
    out->name = (struct slice){ PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name) };
    out->value = (struct slice){ PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value) };
    return 0;
}

static PyObject *
item(PyObject *event, PyObject *key)
{
    return PyDict_GetItemWithError(event, key); /* borrowed; NULL with or without an exception */
}

/* A framework makes a 500 of the exception that a refused call raises. The client is told what it is: 503, come again. What the
 * application goes on to send is dropped. */
static PyObject *
send_refused(struct cycle *cycle)
{
    cycle->is_refused = true;
    h1_fail(cycle->h, 503);
    if (!list_is_empty(&cycle->waits))
        wait_wake_all(cycle);
    return wait_value(cycle, NULL);
}

/* --- headers ---------------------------------------------------------------------------------------------------------- */

void
headers_drop(struct header_table *t)
{
    free(t->on_heap);
    if (LIKELY(t->copies == NULL && Py_REFCNT(t->pairs) > 1)) { /* no Python runs */
        Py_DECREF(t->pairs);
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(t->copies);
    Py_DECREF(t->pairs);
    PyErr_Restore(type, value, traceback);
}

int
headers_take(struct cycle *cycle, PyObject *event, const char *what, struct header_table *out)
{
    PyObject *headers = item(event, cycle->asgi->names->s_headers);
    if (headers == NULL && PyErr_Occurred())
        return -1;
    /* Any iterable of pairs; the pairs of a generator live in the list that PySequence_Fast makes of it. */
    char why[96];
    snprintf(why, sizeof(why), "%s: 'headers' must be an iterable of pairs", what);
    PY_OWNED PyObject *pairs =
        headers == NULL || headers == Py_None ? PyTuple_New(0) : PySequence_Fast(headers, why);
    if (pairs == NULL)
        return -1;
    size_t count = (size_t)PySequence_Fast_GET_SIZE(pairs);
    struct http_header *table = out->on_stack;
    MEM_OWNED struct http_header *on_heap = NULL;
    if (count > HEADERS_ON_STACK && (table = on_heap = calloc(count, sizeof(*table))) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PY_OWNED PyObject *copies = NULL; /* owns tuples made of pairs that are none */
    for (size_t i = 0; i < count; i++) {
        PyObject *pair = PySequence_Fast_GET_ITEM(pairs, (Py_ssize_t)i);
        PY_OWNED PyObject *copy = NULL;
        if (UNLIKELY(!PyTuple_CheckExact(pair)) && !PyBytes_Check(pair) && !PyUnicode_Check(pair)) {
            /* Making the tuple may run Python, which may change the application's list: hold all that is in it. */
            if (copies == NULL) {
                PyObject *all = PySequence_Tuple(pairs);
                if (all == NULL)
                    return -1;
                Py_SETREF(pairs, all);
                if ((copies = PyList_New(0)) == NULL)
                    return -1;
            }
            if ((copy = PySequence_Tuple(pair)) == NULL || PyList_Append(copies, copy) < 0)
                return -1;
            pair = copy;
        }
        if (send_header_of(pair, i, what, &table[i]) < 0)
            return -1;
    }
    out->pairs = py_take(&pairs);
    out->copies = py_take(&copies);
    out->v = table;
    out->n = count;
    out->on_heap = on_heap;
    on_heap = NULL;
    return 0;
}

PyObject *
send_start(struct cycle *cycle, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    PyObject *status_object = item(event, n->s_status);
    if (status_object == NULL || !PyLong_Check(status_object)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "http.response.start: 'status' must be an int");
        return NULL;
    }
    int overflow;
    long status = PyLong_AsLongAndOverflow(status_object, &overflow);
    if (status == -1 && PyErr_Occurred())
        return NULL;
    if (UNLIKELY(overflow != 0))
        return PyErr_Format(PyExc_ValueError,
                            "http.response.start: status %S is not between 200 and 999",
                            status_object);
    if (UNLIKELY(status >= 500 && status < 600 &&
                 (cycle_was_refused(cycle) || cycle_is_stopped(cycle))))
        return send_refused(cycle);
    struct header_table table;
    if (headers_take(cycle, event, "http.response.start", &table) < 0)
        return NULL;
    if (UNLIKELY(cycle->h == NULL || cycle->is_accepted ||
                 h1_is_started(cycle->h))) { /* by what ran meanwhile */
        headers_drop(&table);
        return send_out_of_order(n->response_start, "the response has already been started");
    }
    size_t bad = 0;
    enum http_write err =
        h1_start(cycle->h, status > 0 && status < 1000 ? (int)status : 0, table.v, table.n, &bad);
    if (UNLIKELY(err < 0)) {
        if (err == HTTP_BROKEN)
            PyErr_SetString(n->disconnected, "the client has gone");
        else
            send_set_start_error(err, table.pairs, bad, status);
    }
    headers_drop(&table);
    if (UNLIKELY(err == HTTP_OK && h1_request(cycle->h)->takes_trailers && !cycle->is_websocket)) {
        PyObject *trailers = item(event, n->s_trailers);
        int expects = trailers == NULL ? 0 : PyObject_IsTrue(trailers);
        if (expects < 0 || PyErr_Occurred())
            return NULL;
        cycle->expects_trailers = expects;
    }
    return UNLIKELY(err < 0) ? NULL : wait_value(cycle, NULL);
}

static enum http_write
write_body(struct cycle *cycle, PyObject *body, bool is_last)
{
    if (LIKELY(body == NULL))
        return h1_write(cycle->h, "", 0, NULL, is_last);
    if (LIKELY(PyBytes_Check(body) && PyBytes_GET_SIZE(body) < HOLD_MIN))
        return h1_write(cycle->h, PyBytes_AS_STRING(body), (size_t)PyBytes_GET_SIZE(body), NULL,
                        is_last);
    if (LIKELY(PyBytes_CheckExact(body)))
        return h1_write(cycle->h, PyBytes_AS_STRING(body), (size_t)PyBytes_GET_SIZE(body),
                        Py_NewRef(body), is_last);
    if (!PyObject_CheckBuffer(body)) {
        PyErr_Format(
            PyExc_TypeError,
            "http.response.body: 'body' must be bytes, bytearray or memoryview, not %.100s",
            Py_TYPE(body)->tp_name);
        return HTTP_BAD_VALUE;
    }
    struct held *held = malloc(sizeof(*held));
    if (held == NULL) {
        PyErr_NoMemory();
        return HTTP_BAD_VALUE;
    }
    if (PyObject_GetBuffer(body, &held->view, PyBUF_SIMPLE) < 0) {
        free(held);
        return HTTP_BAD_VALUE;
    }
    void *owner = (void *)((uintptr_t)held | HELD_TAG);
    if (UNLIKELY(cycle->h == NULL)) { /* by what __buffer__ ran */
        held_release(owner);
        send_out_of_order(cycle->asgi->names->response_body, "the application has returned");
        return HTTP_BAD_VALUE;
    }
    /* A buffer that can be written to is copied: the application may fill it anew as soon as send() has returned. */
    bool is_lent = held->view.readonly && held->view.len >= HOLD_MIN;
    enum http_write result =
        h1_write(cycle->h, held->view.buf, (size_t)held->view.len, is_lent ? owner : NULL, is_last);
    if (!is_lent)
        held_release(owner);
    return result;
}

PyObject *
send_body(struct cycle *cycle, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    /* what runs below may empty the event */
    PY_OWNED PyObject *body = Py_XNewRef(item(event, n->s_body));
    if (body == NULL && PyErr_Occurred())
        return NULL;
    PyObject *more = item(event, n->s_more_body);
    if (more == NULL && PyErr_Occurred())
        return NULL;
    int more_body = more == NULL || more == Py_False ? 0 : PyObject_IsTrue(more);
    if (more_body < 0)
        return NULL;
    /* IsTrue() of a foreign object could have run anything. */
    if (cycle->h == NULL)
        return send_out_of_order(n->response_body, "the application has returned");
    if (UNLIKELY(cycle->is_body_sent))
        return send_out_of_order(n->response_body,
                                 "the body is complete; http.response.trailers is what comes now");
    enum http_write result = write_body(cycle, body, !more_body && !cycle->expects_trailers);
    cycle->is_body_sent = UNLIKELY(cycle->expects_trailers) && result >= 0 && !more_body;
    switch (result) {
    case HTTP_OK:
    case HTTP_FULL:
        break;
    case HTTP_BROKEN:
        PyErr_SetString(n->disconnected, "the client has gone");
        return NULL;
    case HTTP_TOO_LONG:
        PyErr_SetString(PyExc_RuntimeError,
                        "http.response.body: more body than the Content-Length that was sent");
        return NULL;
    case HTTP_TOO_SHORT:
        PyErr_SetString(PyExc_RuntimeError,
                        "http.response.body: less body than the Content-Length that was sent");
        return NULL;
    default:
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "http.response.body was refused");
        return NULL;
    }
    if (!more_body && cycle->lease != NULL)
        lease_answered(lease_inside(cycle->lease));
    if (!more_body && !list_is_empty(&cycle->waits))
        wait_wake_all(cycle); /* receive() answers http.disconnect from here on */
    if (UNLIKELY(result == HTTP_FULL && more_body)) {
        cycle->is_full = true;
        return wait_until(cycle, WAIT_DRAIN, NULL);
    }
    return wait_value(cycle, NULL);
}

bool
send_is_type(PyObject *type, PyObject *wanted)
{
    return type == wanted || (PyUnicode_Check(type) && PyUnicode_Compare(type, wanted) == 0);
}

PyObject *
send_message(struct cycle *cycle, PyObject *event)
{
    if (UNLIKELY(cycle->h == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "send() was called after the application had returned");
        return NULL;
    }
    struct h1 *h = cycle->h;
    struct asgi_names *n = cycle->asgi->names;
    PyObject *type = item(event, n->s_type);
    if (UNLIKELY(type == NULL)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "send(): the message has no 'type'");
        return NULL;
    }
    if (UNLIKELY(h1_is_gone(h)))
        cycle->knows_gone = true;
    if (cycle->is_websocket)
        return ws_send_message(cycle, type, event);
    if (UNLIKELY(h1_is_finished(h))) {
        /* Trailers that the client does not take are dropped. */
        if ((cycle->is_refused && send_is_type(type, n->response_body)) ||
            send_is_type(type, n->response_trailers))
            return wait_value(cycle, NULL);
        return send_out_of_order(type, "the response is already complete");
    }
    if (UNLIKELY(h1_is_broken(h))) {
        PyErr_SetString(n->disconnected, "the client has gone");
        return NULL;
    }
    if (send_is_type(type, n->response_body)) {
        if (UNLIKELY(!h1_is_started(h)))
            return send_out_of_order(type, "http.response.start must come first");
        return send_body(cycle, event);
    }
    if (send_is_type(type, n->response_start)) {
        if (UNLIKELY(h1_is_started(h)))
            return send_out_of_order(type, "the response has already been started");
        return send_start(cycle, event);
    }
    return send_extension(cycle, type, event);
}

PyObject *
send_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct cycle *cycle = ((struct channel *)self)->cycle;
    if (UNLIKELY(PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL || !PyDict_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "send() takes one message, a dict");
        return NULL;
    }
    if (UNLIKELY(!cycle_is_here(
            cycle))) /* run_coroutine_threadsafe(send(message), loop): the loop sends */
        return wait_until(cycle, WAIT_SEND, args[0]);
    return send_message(cycle, args[0]);
}
