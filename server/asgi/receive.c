/* receive.c: the receive() callable: http.request messages with the body as it arrives, then http.disconnect. */
#include "asgi.h"

#include <structmember.h>

#include "base/shake.h"

/* An await of a request in shake mode. */
static bool
shaken(const struct cycle *cycle)
{
    enum { AWAITS = 32 }; /* at one of so many its client goes, by seeds that are not gentle */
    if (cycle->h != NULL && shake_chance(shake_here, SHAKE_DROPS) &&
        shake_below(shake_here, SHAKE_DROPS, AWAITS / 2) == 0)
        h1_hang_up(cycle->h);
    return shake_chance(shake_here, SHAKE_AWAITS);
}

bool
cycle_must_yield(const struct cycle *cycle)
{
    /* A coroutine whose awaitables are always satisfied would hold the loop for ever: after this long in one step the
     * next receive() or send() suspends once. */
    enum { STEP_NS_MAX = NS_PER_MS };
    if (UNLIKELY(cycle->asgi->loop == NULL))
        return false;
    if (UNLIKELY(shake_here != NULL))
        return shaken(cycle);
    return clock_ns() - loop_step_ns(cycle->asgi->loop) > STEP_NS_MAX;
}

bool
cycle_is_here(const struct cycle *cycle)
{
    return pthread_equal(cycle->asgi->thread, pthread_self());
}

static PyObject *
body_message(struct asgi_names *n, struct slice body, bool is_last)
{
    PY_OWNED PyObject *message = PyDict_Copy(n->request_template);
    if (message == NULL)
        return NULL;
    if (body.n > 0) {
        PY_OWNED PyObject *bytes = PyBytes_FromStringAndSize(body.p, (Py_ssize_t)body.n);
        if (bytes == NULL || PyDict_SetItem(message, n->s_body, bytes) < 0)
            return NULL;
    }
    if (!is_last && PyDict_SetItem(message, n->s_more_body, Py_True) < 0)
        return NULL;
    return py_take(&message);
}

/* "trailers" of the last message, where there are any: names in lower case. -1 with an exception set. */
static int
put_trailers(struct cycle *cycle, PyObject *message)
{
    struct slice rest = { 0 };
    struct http_header one;
    PY_OWNED PyObject *list = NULL;
    while (UNLIKELY(h1_body_trailer(cycle->h, &rest, &one))) {
        PY_OWNED PyObject *name = PyBytes_FromStringAndSize(one.name.p, (Py_ssize_t)one.name.n);
        if (name == NULL || (list == NULL && (list = PyList_New(0)) == NULL))
            return -1;
        char *p = PyBytes_AS_STRING(name);
        for (size_t i = 0; i < one.name.n; i++)
            p[i] = Py_TOLOWER(p[i]);
        PY_OWNED PyObject *pair =
            Py_BuildValue("(Oy#)", name, one.value.p, (Py_ssize_t)one.value.n);
        if (pair == NULL || PyList_Append(list, pair) < 0)
            return -1;
    }
    return list != NULL ? PyDict_SetItemString(message, "trailers", list) : 0;
}

PyObject *
receive_last(struct cycle *cycle)
{
    struct asgi_names *n = cycle->asgi->names;
    if (n == NULL) { /* kept beyond the worker's end */
        PyErr_SetString(PyExc_RuntimeError, "receive() was called after the server had ended");
        return NULL;
    }
    if (cycle->is_websocket)
        return ws_receive_last(cycle);
    cycle->knows_gone = true;
    return PyDict_Copy(n->disconnect_template);
}

/* The body that a thread had before it gave the request back. */
static PyObject *
early_message(struct cycle *cycle)
{
    PyObject *early = cycle->http->early;
    const struct slice body = { PyBytes_AS_STRING(early), (size_t)PyBytes_GET_SIZE(early) };
    PY_OWNED PyObject *message = body_message(cycle->asgi->names, body, true);
    if (message == NULL || put_trailers(cycle, message) < 0)
        return NULL;
    cycle->body_is_told = true;
    Py_CLEAR(cycle->http->early);
    return py_take(&message);
}

PyObject *
receive_next(struct cycle *cycle)
{
    struct asgi_names *n = cycle->asgi->names;
    struct h1 *h = cycle->h;
    if (cycle->is_websocket)
        return ws_receive_next(cycle);
    if (UNLIKELY(cycle->http->early != NULL) && !h1_is_finished(h))
        return early_message(cycle);
    if (!cycle->body_is_told &&
        !h1_is_finished(h)) { /* after the answer nobody waits for the rest of a body */
        struct slice body = h1_body(h);
        bool is_last = h1_body_is_complete(h);
        if (body.n > 0 || is_last) {
            PY_OWNED PyObject *message = body_message(n, body, is_last);
            if (message == NULL || (is_last && put_trailers(cycle, message) < 0))
                return NULL; /* nothing was consumed, so nothing is lost */
            cycle->body_is_told = is_last;
            h1_body_consumed(h);
            return py_take(&message);
        }
        if (!h1_is_gone(h) && !cycle->is_leaving) {
            h1_want_body(h);
            return NULL;
        }
    } else if (!h1_is_gone(h) && !h1_is_finished(h) && !cycle->is_leaving) {
        return NULL;
    }
    return receive_last(cycle);
}

static PyObject *
receive_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    (void)args;
    struct cycle *cycle = ((struct channel *)self)->cycle;
    if (UNLIKELY(PyVectorcall_NARGS(nargsf) != 0 || kwnames != NULL)) {
        PyErr_SetString(PyExc_TypeError, "receive() takes no arguments");
        return NULL;
    }
    if (UNLIKELY(
            !cycle_is_here(cycle))) /* run_coroutine_threadsafe(receive(), loop): the loop looks */
        return wait_until(cycle, WAIT_RECEIVE, NULL);
    PyObject *message = LIKELY(cycle->h != NULL) ? receive_next(cycle) : receive_last(cycle);
    if (LIKELY(message != NULL))
        return wait_value(cycle, message);
    return PyErr_Occurred() ? NULL : wait_until(cycle, WAIT_RECEIVE, NULL);
}

PyObject *
channel_new(PyTypeObject *type, struct cycle *cycle)
{
    struct channel *c = PyObject_GC_New(struct channel, type);
    if (c == NULL)
        return NULL;
    c->call = type == cycle->asgi->names->receive_type ? receive_call : send_call;
    c->cycle = (struct cycle *)Py_NewRef((PyObject *)cycle);
    PyObject_GC_Track(c);
    return (PyObject *)c;
}

static int
channel_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((struct channel *)self)->cycle);
    return 0;
}

static int
channel_clear(PyObject *self)
{
    Py_CLEAR(((struct channel *)self)->cycle);
    return 0;
}

static void
channel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    channel_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *
channel_repr(PyObject *self)
{
    struct channel *c = (struct channel *)self;
    return PyUnicode_FromFormat("<%s of %s>", c->call == receive_call ? "receive" : "send",
                                c->cycle != NULL ? cycle_label(c->cycle) : "a request that ended");
}

static PyMemberDef channel_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(struct channel, call), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot channel_slots[] = {
    { Py_tp_dealloc, channel_dealloc },
    { Py_tp_traverse, channel_traverse },
    { Py_tp_clear, channel_clear },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, channel_members },
    { Py_tp_repr, channel_repr },
    { 0, NULL },
};

enum {
    CHANNEL_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                    Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE
};

PyType_Spec receive_spec = {
    .name = "_ringcorn._Receive",
    .basicsize = sizeof(struct channel),
    .flags = CHANNEL_FLAGS,
    .slots = channel_slots,
};

PyType_Spec send_spec = {
    .name = "_ringcorn._Send",
    .basicsize = sizeof(struct channel),
    .flags = CHANNEL_FLAGS,
    .slots = channel_slots,
};
