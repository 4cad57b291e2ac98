/* ws_send.c: send() of a WebSocket: accept, deny (403, or an answer of the application's own), send, close. */
#include "asgi.h"

enum { HOLD_MIN = 16 * 1024 }; /* bytes; smaller messages are copied */

static PyObject *
item(PyObject *event, PyObject *key)
{
    /* borrowed; NULL with or without an exception */
    PyObject *value = PyDict_GetItemWithError(event, key);
    return value == Py_None ? NULL : value;
}

/* As item(), where it must be a str: *text, unchanged where there is none, is its UTF-8, which lives as long as it does. what: for the error. */
static PyObject *
text_item(PyObject *event, PyObject *key, const char *what, struct slice *text)
{
    PyObject *value = item(event, key);
    if (value == NULL)
        return NULL;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be a str", what);
        return NULL;
    }
    Py_ssize_t size = 0;
    text->p = PyUnicode_AsUTF8AndSize(value, &size);
    text->n = (size_t)size;
    return text->p == NULL ? NULL : value;
}

static PyObject *
gone(struct asgi_names *n)
{
    PyErr_SetString(n->disconnected, "the client has gone");
    return NULL;
}

/* --- accept ----------------------------------------------------------------------------------------------------------- */

static int
set_accept_error(enum http_write err, PyObject *pairs, size_t bad)
{
    if (err == HTTP_BAD_PROTOCOL) {
        PyErr_SetString(PyExc_ValueError, "websocket.accept: 'subprotocol' must be one of those "
                                          "that the client offers: scope['subprotocols']");
        return -1;
    }
    PY_OWNED PyObject *pair = PySequence_GetItem(pairs, (Py_ssize_t)bad);
    if (pair != NULL)
        PyErr_Format(PyExc_ValueError, "websocket.accept: header %R refused: %s", pair,
                     err == HTTP_BAD_NAME    ? "the name is not an HTTP token"
                     : err == HTTP_BAD_VALUE ? "CR, LF and NUL are not allowed in a value"
                                             : "it is what 'subprotocol' is for");
    return -1;
}

static PyObject *
accept_socket(struct cycle *cycle, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    struct slice subprotocol = { 0 };
    PyObject *protocol =
        text_item(event, n->s_subprotocol, "websocket.accept: 'subprotocol'", &subprotocol);
    if (protocol == NULL && PyErr_Occurred())
        return NULL;
    PY_OWNED PyObject *kept = Py_XNewRef(protocol); /* making tuples below may run Python */
    struct header_table table;
    if (headers_take(cycle, event, "websocket.accept", &table) < 0)
        return NULL;
    if (UNLIKELY(cycle->h == NULL || cycle->is_accepted ||
                 h1_is_started(cycle->h))) { /* by what ran meanwhile */
        headers_drop(&table);
        PyErr_SetString(PyExc_RuntimeError,
                        "websocket.accept: the handshake has already been answered");
        return NULL;
    }
    size_t bad = 0;
    enum http_write err = h1_ws_accept(cycle->h, subprotocol, table.v, table.n, &bad);
    if (err < 0 && err != HTTP_BROKEN)
        set_accept_error(err, table.pairs, bad);
    headers_drop(&table);
    if (err == HTTP_BROKEN)
        return gone(n);
    if (err < 0)
        return NULL;
    cycle->is_accepted = true;
    return wait_value(cycle, NULL);
}

/* --- messages --------------------------------------------------------------------------------------------------------- */

/* The bytes of a message; those of a large one may be held by a reference to what has them. */
static enum http_write
write_message(struct cycle *cycle, PyObject *text, PyObject *bytes)
{
    PyObject *source = text != NULL ? text : bytes;
    const char *p;
    Py_ssize_t size;
    if (text != NULL) {
        if (!PyUnicode_Check(text)) {
            PyErr_Format(PyExc_TypeError, "websocket.send: 'text' must be a str, not %.100s",
                         Py_TYPE(text)->tp_name);
            return HTTP_BAD_VALUE;
        }
        if ((p = PyUnicode_AsUTF8AndSize(text, &size)) == NULL)
            return HTTP_BAD_VALUE;
    } else if (LIKELY(PyBytes_Check(bytes))) {
        p = PyBytes_AS_STRING(bytes);
        size = PyBytes_GET_SIZE(bytes);
    } else {
        Py_buffer view;
        if (!PyObject_CheckBuffer(bytes)) {
            PyErr_Format(
                PyExc_TypeError,
                "websocket.send: 'bytes' must be bytes, bytearray or memoryview, not %.100s",
                Py_TYPE(bytes)->tp_name);
            return HTTP_BAD_VALUE;
        }
        if (PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
            return HTTP_BAD_VALUE;
        if (UNLIKELY(cycle->h == NULL)) { /* by what __buffer__ ran */
            PyBuffer_Release(&view);
            send_out_of_order(cycle->asgi->names->ws_send, "the application has returned");
            return HTTP_BAD_VALUE;
        }
        enum http_write result = h1_ws_send(cycle->h, false, view.buf, (size_t)view.len, NULL);
        PyBuffer_Release(&view);
        return result;
    }
    return h1_ws_send(cycle->h, text != NULL, p, (size_t)size,
                      size < HOLD_MIN ? NULL : Py_NewRef(source));
}

static PyObject *
send_data(struct cycle *cycle, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    PyObject *text = item(event, n->s_text);
    if (text == NULL && PyErr_Occurred())
        return NULL;
    PyObject *bytes = item(event, n->s_bytes);
    if (bytes == NULL && PyErr_Occurred())
        return NULL;
    if (UNLIKELY((text == NULL) == (bytes == NULL))) {
        PyErr_SetString(PyExc_ValueError,
                        "websocket.send: exactly one of 'text' and 'bytes' must be given");
        return NULL;
    }
    PY_OWNED PyObject *kept = Py_NewRef(text != NULL ? text : bytes);
    switch (write_message(cycle, text, bytes)) {
    case HTTP_OK:
        return wait_value(cycle, NULL);
    case HTTP_FULL:
        cycle->is_full = true;
        return wait_until(cycle, WAIT_DRAIN, NULL);
    case HTTP_BROKEN:
        return gone(n);
    default:
        return NULL;
    }
}

/* --- close ------------------------------------------------------------------------------------------------------------ */

static PyObject *
send_close(struct cycle *cycle, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    PyObject *code_object = item(event, n->s_code);
    if (code_object == NULL && PyErr_Occurred())
        return NULL;
    long code = code_object == NULL ? WS_NORMAL : PyLong_AsLong(code_object);
    if (code == -1 && PyErr_Occurred())
        return NULL;
    struct slice reason = SLICE("");
    if (text_item(event, n->s_reason, "websocket.close: 'reason'", &reason) == NULL &&
        PyErr_Occurred())
        return NULL;
    if (UNLIKELY(cycle->h == NULL)) { /* by what __index__ ran */
        PyErr_SetString(PyExc_RuntimeError, "send() was called after the application had returned");
        return NULL;
    }
    if (!cycle->is_accepted) { /* before it is accepted neither code nor reason can be told */
        cycle->is_closed = true;
        h1_fail(cycle->h, 403);
        wait_wake_all(cycle);
        return wait_value(cycle, NULL);
    }
    if (code < 0 || !ws_code_is_valid((unsigned)code)) {
        PyErr_Format(PyExc_ValueError,
                     "websocket.close: %ld is no code that may be sent: 1000 to 1003, 1007 to "
                     "1014, 3000 to 4999",
                     code);
        return NULL;
    }
    cycle->is_closed = true;
    h1_ws_close(cycle->h, (unsigned)code, reason); /* a no-op where the client was faster */
    return wait_value(cycle, NULL);
}

/* --- which -------------------------------------------------------------------------------------------------------------- */

/* Before it is accepted. */
static PyObject *
answer(struct cycle *cycle, PyObject *type, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    struct h1 *h = cycle->h;
    if (h1_is_finished(h))
        return send_out_of_order(type, "the handshake has already been denied");
    if (h1_is_broken(h))
        return gone(n);
    bool is_started = h1_is_started(h);
    if (send_is_type(type, n->ws_response_body))
        return is_started
                   ? send_body(cycle, event)
                   : send_out_of_order(type, "websocket.http.response.start must come first");
    if (is_started)
        return send_out_of_order(type, "the handshake is being denied");
    if (send_is_type(type, n->ws_accept))
        return accept_socket(cycle, event);
    if (send_is_type(type, n->ws_close))
        return send_close(cycle, event);
    if (send_is_type(type, n->ws_response_start))
        return send_start(cycle, event);
    return send_out_of_order(
        type, "websocket.accept, websocket.close or websocket.http.response.start must come first");
}

PyObject *
ws_send_message(struct cycle *cycle, PyObject *type, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    if (UNLIKELY(cycle->is_closed))
        return send_out_of_order(type, "websocket.close has already been sent");
    if (UNLIKELY(!cycle->is_accepted))
        return answer(cycle, type, event);
    bool is_data = send_is_type(type, n->ws_send);
    if (!is_data && !send_is_type(type, n->ws_close))
        return send_out_of_order(type, "this connection takes websocket.send and websocket.close");
    /* To close what the client has just closed is no fault of the application's, as long as it was not told. */
    if (UNLIKELY(!h1_ws_is_open(cycle->h)) && (is_data || cycle->disconnect_is_told))
        return gone(n);
    return is_data ? send_data(cycle, event) : send_close(cycle, event);
}
