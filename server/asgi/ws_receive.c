/* ws_receive.c: receive() of a WebSocket: websocket.connect, messages in the order in which they came, and one
 * websocket.disconnect. */
#include "asgi.h"

static PyObject *
typed(struct asgi_names *n, PyObject *type)
{
    PyObject *message = PyDict_New();
    if (message != NULL && PyDict_SetItem(message, n->s_type, type) < 0)
        Py_CLEAR(message);
    return message;
}

static PyObject *
data_message(struct asgi_names *n, const struct ws_message *m)
{
    PY_OWNED PyObject *message = typed(n, n->ws_receive);
    if (message == NULL)
        return NULL;
    /* ws/ has seen that text is UTF-8. */
    int err = m->is_text ? py_dict_give(message, n->s_text,
                                        PyUnicode_DecodeUTF8(m->data, (Py_ssize_t)m->n, "strict"))
                         : py_dict_give(message, n->s_bytes,
                                        PyBytes_FromStringAndSize(m->data, (Py_ssize_t)m->n));
    return err < 0 ? NULL : py_take(&message);
}

static PyObject *
disconnect_message(struct cycle *cycle, unsigned code, struct slice reason)
{
    struct asgi_names *n = cycle->asgi->names;
    if (cycle->disconnect_is_told) {
        PyErr_SetString(PyExc_RuntimeError, "receive() was called after websocket.disconnect");
        return NULL;
    }
    PY_OWNED PyObject *message = typed(n, n->ws_disconnect);
    if (message == NULL || py_dict_give(message, n->s_code, PyLong_FromUnsignedLong(code)) < 0 ||
        py_dict_give(message, n->s_reason,
                     PyUnicode_DecodeUTF8(reason.p, (Py_ssize_t)reason.n, "replace")) < 0)
        return NULL;
    cycle->disconnect_is_told = true;
    return py_take(&message);
}

PyObject *
ws_receive_last(struct cycle *cycle)
{
    return disconnect_message(cycle, WS_ABNORMAL, SLICE(""));
}

PyObject *
ws_receive_next(struct cycle *cycle)
{
    struct asgi_names *n = cycle->asgi->names;
    struct h1 *h = cycle->h;
    unsigned code;
    struct slice reason;
    if (!cycle->connect_is_told) {
        PyObject *message = typed(n, n->ws_connect);
        cycle->connect_is_told = message != NULL;
        return message;
    }
    if (LIKELY(cycle->is_accepted)) {
        struct ws_message *m = h1_ws_next(h);
        if (m != NULL) {
            PyObject *message = data_message(n, m);
            free(m);
            return message;
        }
    }
    return h1_ws_is_over(h, &code, &reason) ? disconnect_message(cycle, code, reason) : NULL;
}
