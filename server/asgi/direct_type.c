/* direct_type.c: the type _ringcorn.Exchange: a request, to the thread that answers it.
 *
 *     scope                    as an ASGI application gets it
 *     body                     a file, which is there as a whole
 *     start(status, headers), write(data), finish(data=b"")
 *
 * The answer is handed over as plain memory (wsgi/bytes.c). Who keeps the object finds it empty once the thread is done.
 *
 * Runs on:  the request's thread, GIL held. */
#include "asgi.h"

#include <errno.h>
#include <stdlib.h>

struct direct *
direct_new(struct asgi *a, struct exchange *ex)
{
    PY_OWNED PyObject *addresses = scope_ends(a->names, &ex->ends);
    PY_OWNED PyObject *scope = addresses == NULL ? NULL : scope_new(a, &ex->req, addresses);
    PY_OWNED PyObject *body = scope == NULL ? NULL : input_new(a->wsgi_names, ex);
    PY_OWNED PyObject *lease = body == NULL ? NULL : pool_enter(a->pool, ex->label);
    if (UNLIKELY(body != NULL && lease == NULL && !PyErr_Occurred()))
        PyErr_SetString(PyExc_RuntimeError, "no variable is there for the request's lease");
    struct direct *d = lease == NULL ? NULL : PyObject_GC_New(struct direct, a->names->direct_type);
    if (d == NULL)
        return NULL;
    d->asgi = a;
    d->ex = ex;
    d->scope = py_take(&scope);
    d->lease = py_take(&lease);
    d->body = py_take(&body);
    d->left = d->context = NULL;
    d->is_finished = false;
    PyObject_GC_Track(d);
    return d;
}

/* --- the answer --------------------------------------------------------------------------------------------------------------- */

static struct exchange *
exchange_of_direct(struct direct *d)
{
    if (UNLIKELY(d->ex == NULL))
        PyErr_SetString(PyExc_RuntimeError, "the request is not this thread's any more");
    return d->ex;
}

static int
take_head(struct exchange *ex, long status, PyObject *pairs)
{
    size_t n = (size_t)PySequence_Fast_GET_SIZE(pairs), bad = 0;
    struct http_header on_stack[HEADERS_ON_STACK], *table = on_stack;
    MEM_OWNED struct http_header *on_heap = NULL;
    if (n > HEADERS_ON_STACK && (table = on_heap = calloc(n, sizeof(*table))) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (send_header_of(PySequence_Fast_GET_ITEM(pairs, (Py_ssize_t)i), i, "http.response.start",
                           &table[i]) < 0)
            return -1;
    }
    int code = status > 0 && status < 1000 ? (int)status : 0;
    enum http_write err = h1_check_start(code, (struct slice){ 0 }, table, n, &bad);
    if (UNLIKELY(err != HTTP_OK)) {
        send_set_start_error(err, pairs, bad, status);
        return -1;
    }
    if (UNLIKELY(exchange_start(ex, code, (struct slice){ 0 }, table, n, UINT64_MAX) < 0)) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static PyObject *
direct_start(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct direct *d = (struct direct *)self;
    struct exchange *ex = exchange_of_direct(d);
    if (ex == NULL)
        return NULL;
    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "start() takes a status and a list of headers");
        return NULL;
    }
    if (ex->answer.status != 0) {
        PyErr_SetString(PyExc_RuntimeError, "start() was called before");
        return NULL;
    }
    long status = PyLong_AsLong(args[0]);
    if (status == -1 && PyErr_Occurred())
        return NULL;
    PY_OWNED PyObject *pairs =
        PySequence_Fast(args[1], "start(): the headers must be an iterable of pairs");
    if (pairs == NULL || take_head(ex, status, pairs) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* 0, also where the client is gone and may be; -1 with an exception set. */
static int
send_piece(struct direct *d, PyObject *data, bool is_last)
{
    struct exchange *ex = d->ex;
    if (UNLIKELY(!PyBytes_Check(data))) {
        PyErr_Format(PyExc_TypeError, "the body must be bytes, not %.100s", Py_TYPE(data)->tp_name);
        return -1;
    }
    if (UNLIKELY(ex->answer.status == 0 || d->is_finished)) {
        PyErr_SetString(PyExc_RuntimeError,
                        d->is_finished ? "the answer is finished" : "start() must come first");
        return -1;
    }
    if (UNLIKELY(atomic_load(&ex->is_gone)) && !is_last) { /* a stream without end would not end */
        PyErr_SetString(d->asgi->names->disconnected, "the client has gone");
        return -1;
    }
    if (PyBytes_GET_SIZE(data) == 0)
        return 0;
    int err = is_last ? exchange_add(ex, data) : exchange_write(ex, data);
    if (UNLIKELY(err == -ENOMEM)) {
        PyErr_NoMemory();
        return -1;
    }
    if (UNLIKELY(err < 0) && !is_last) {
        PyErr_SetString(d->asgi->names->disconnected, "the client has gone");
        return -1;
    }
    return 0;
}

static PyObject *
direct_write(PyObject *self, PyObject *data)
{
    struct direct *d = (struct direct *)self;
    if (exchange_of_direct(d) == NULL || send_piece(d, data, false) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
direct_finish(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct direct *d = (struct direct *)self;
    if (exchange_of_direct(d) == NULL)
        return NULL;
    if (n > 1) {
        PyErr_SetString(PyExc_TypeError, "finish() takes the last piece of the body, or nothing");
        return NULL;
    }
    if (send_piece(d, n == 1 ? args[0] : d->asgi->names->empty_bytes, true) < 0)
        return NULL;
    d->is_finished = true;
    exchange_end(d->ex, false);
    Py_RETURN_NONE;
}

/* --- the type ------------------------------------------------------------------------------------------------------------------------- */

static int
direct_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct direct *d = (struct direct *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(d->scope);
    Py_VISIT(d->lease);
    Py_VISIT(d->left);
    Py_VISIT(d->context);
    return 0;
}

static int
direct_clear(PyObject *self)
{
    struct direct *d = (struct direct *)self;
    Py_CLEAR(d->scope);
    Py_CLEAR(d->lease);
    Py_CLEAR(d->body);
    Py_CLEAR(d->left);
    Py_CLEAR(d->context);
    return 0;
}

static void
direct_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    direct_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef direct_methods[] = {
    { "start", FAST(direct_start), METH_FASTCALL,
      "start(status, headers): the head of the answer; headers are pairs of bytes." },
    { "write", direct_write, METH_O,
      "write(data): a piece of the body; waits while the client is slow." },
    { "finish", FAST(direct_finish), METH_FASTCALL,
      "finish(data=b''): the last piece of the body." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef direct_members[] = {
    { "scope", Py_T_OBJECT_EX, offsetof(struct direct, scope), Py_READONLY,
      "As an ASGI application gets it." },
    { "body", Py_T_OBJECT_EX, offsetof(struct direct, body), Py_READONLY,
      "The request's body, a file to read from." },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot direct_slots[] = {
    { Py_tp_doc, "A request on the thread that answers it." },
    { Py_tp_dealloc, direct_dealloc },
    { Py_tp_traverse, direct_traverse },
    { Py_tp_clear, direct_clear },
    { Py_tp_methods, direct_methods },
    { Py_tp_members, direct_members },
    { 0, NULL },
};

PyType_Spec direct_spec = {
    .name = "_ringcorn.Exchange",
    .basicsize = sizeof(struct direct),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = direct_slots,
};
