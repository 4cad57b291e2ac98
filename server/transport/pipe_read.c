/* pipe_read.c: asyncio's transport of the end of a pipe that is read: of a fifo, a socket or a character device.
 *
 * Runs on:  the loop's thread, GIL held. */
#include "transport/endpoint.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    READS_A_TURN = 4,
    /* read into an object of this size where the last read filled a good part of it: what a pipe holds */
    DIRECT = 64 * 1024,
    DIRECT_FROM = 16 * 1024,
};

struct read_pipe {
    struct endpoint base;
    size_t last; /* bytes of the last read */
    /* A read of more than this that is shorter than was asked for leaves nothing: what comes from
     * then on is announced. SIZE_MAX: that cannot be said, as a terminal gives a line at a time,
     * and a socket may stop at a message, or at a descriptor that was sent along. PIPE_BUF: a pipe; its writer, and nobody else, knows whether it
     * keeps packets apart (O_DIRECT, pipe(2)), which are no longer than that. */
    size_t is_last_above;
};

static inline struct read_pipe *
read_pipe_of(struct endpoint *t)
{
    return (struct read_pipe *)t;
}

static ssize_t
read_some(int fd, void *p, size_t n)
{
    ssize_t got;
    do {
        got = read(fd, p, n);
    } while (got < 0 && errno == EINTR);
    return got;
}

/* New: bytes, empty at the end; NULL with OSError or MemoryError set, or *is_empty: nothing is there. Runs no Python. */
static PyObject *
read_bytes(struct read_pipe *r, bool *is_empty)
{
    struct endpoint *t = &r->base;
    PyObject *data = NULL;
    size_t asked = TRANSPORT_SCRATCH;
    ssize_t n;

    *is_empty = false;
    if (r->last >= DIRECT_FROM) {
        asked = DIRECT;
        if ((data = PyBytes_FromStringAndSize(NULL, DIRECT)) == NULL)
            return NULL;
        n = read_some(t->fd, PyBytes_AS_STRING(data), asked);
        int err = errno;
        if (n < 0)
            Py_CLEAR(data);
        else if ((size_t)n < asked && _PyBytes_Resize(&data, n) < 0)
            return NULL;
        errno = err;
    } else {
        char *scratch = transport_scratch_take(t->st);
        if (scratch == NULL)
            return NULL;
        n = read_some(t->fd, scratch, asked);
        int err = errno;
        if (n >= 0)
            data = PyBytes_FromStringAndSize(scratch, n);
        transport_scratch_give(t->st, scratch);
        if (n >= 0 && data == NULL)
            return NULL;
        errno = err;
    }
    if (n >= 0) {
        r->last = (size_t)n;
        if ((size_t)n < asked && (size_t)n > r->is_last_above && !t->may_end)
            t->has_more = false; /* what comes from here on is announced */
        return data;
    }
    *is_empty = errno == EAGAIN;
    if (*is_empty)
        t->has_more = false;
    else
        endpoint_fail_errno();
    return NULL;
}

static int
read_failed(struct endpoint *t)
{
    PyObject *exception;
    bool is_quiet = false;
    if (PyErr_ExceptionMatches(
            PyExc_OSError)) { /* EIO: of a terminal that nobody has open any more */
        PyObject *pending = PyErr_GetRaisedException();
        PY_OWNED PyObject *number = PyObject_GetAttrString(pending, "errno");
        is_quiet = number != NULL && PyLong_Check(number) && PyLong_AsLong(number) == EIO;
        PyErr_SetRaisedException(pending);
    }
    if (endpoint_fatal(t, "Fatal read error on pipe transport", is_quiet, &exception) < 0)
        return -1;
    PY_OWNED PyObject *owned = exception;
    return endpoint_end(t, owned);
}

static int
at_end(struct endpoint *t)
{
    if (endpoint_debug(t, "info", "%r was closed by peer") < 0)
        return -1;
    if (t->protocol == NULL || t->is_ended)
        return 0;
    PY_OWNED PyObject *eof = PyObject_GetAttr(t->protocol, t->st->s_eof_received);
    if (eof == NULL || endpoint_soon(t, eof, NULL) < 0)
        return -1;
    return endpoint_end(t, Py_None);
}

static int
read_pipe_ready(struct endpoint *t, unsigned events)
{
    struct read_pipe *r = read_pipe_of(t);
    int err = 0;
    if (!(events & ENDPOINT_IN))
        return 0;
    t->has_more = true;
    for (int i = 0; i < READS_A_TURN && err == 0 && t->has_more && endpoint_reads(t); i++) {
        bool is_empty;
        PY_OWNED PyObject *data = read_bytes(r, &is_empty);
        if (is_empty)
            break;
        if (data == NULL)
            return read_failed(t);
        if (PyBytes_GET_SIZE(data) == 0)
            return at_end(t);
        PY_OWNED PyObject *protocol = Py_NewRef(t->protocol);
        PY_OWNED PyObject *done = transport_call(protocol, t->st->s_data_received, data);
        err = done != NULL ? 0 : -1;
    }
    if (t->has_more && endpoint_reads(t))
        endpoint_again(t, ENDPOINT_IN); /* the others' turn first */
    return err;
}

static void
read_pipe_drop(struct endpoint *t)
{
    (void)t;
}

static const struct endpoint_kind read_pipe_kind = {
    .ready = read_pipe_ready,
    .drop = read_pipe_drop,
};

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (!t->is_closing && endpoint_end(t, Py_None) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
read_pipe_make(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    if (n != 5) {
        PyErr_SetString(PyExc_TypeError,
                        "_read_pipe_transport(loop, pipe, protocol, waiter, extra)");
        return NULL;
    }
    PY_OWNED PyObject *st_owner = NULL;
    struct transport_state *st = transport_state_take(module, &st_owner);
    PY_OWNED PyObject *self =
        st != NULL ? (PyObject *)endpoint_new(module, st->read_pipe_type, &read_pipe_kind, args[0],
                                              args[1], args[2], args[4])
                   : NULL;
    if (self == NULL)
        return NULL;
    struct endpoint *t = endpoint_of(self);
    mode_t mode;
    if (endpoint_begin_pipe(t, args[1], "Pipe transport is for pipes/sockets only.", &mode) == 0) {
        read_pipe_of(t)->is_last_above = S_ISFIFO(mode) ? PIPE_BUF : SIZE_MAX;
        if (endpoint_start(t, args[3]) == 0)
            return py_take(&self);
    }
    endpoint_undo(t);
    return NULL;
}

static int
read_pipe_traverse(PyObject *self, visitproc visit, void *arg)
{
    return endpoint_traverse(endpoint_of(self), visit, arg);
}

static int
read_pipe_clear(PyObject *self)
{
    endpoint_clear(endpoint_of(self));
    return 0;
}

static void
read_pipe_dealloc(PyObject *self)
{
    if (endpoint_dealloc_begin(self))
        endpoint_dealloc_end(self);
}

static PyMethodDef read_pipe_methods[] = {
    ENDPOINT_METHODS,
    ENDPOINT_READ_METHODS,
    { "close", meth_close, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef read_pipe_members[] = {
    ENDPOINT_MEMBERS,
    { "_fileno", T_INT, offsetof(struct endpoint, fd), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef read_pipe_getset[] = {
    { "_pipe", endpoint_get_file, endpoint_set_file, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot read_pipe_slots[] = {
    { Py_tp_doc, (void *)"The transport of the end of a pipe that is read." },
    { Py_tp_traverse, read_pipe_traverse },
    { Py_tp_clear, read_pipe_clear },
    { Py_tp_finalize, endpoint_finalize },
    { Py_tp_dealloc, read_pipe_dealloc },
    { Py_tp_repr, endpoint_repr_of_pipe },
    { Py_tp_methods, read_pipe_methods },
    { Py_tp_members, read_pipe_members },
    { Py_tp_getset, read_pipe_getset },
    { 0, NULL },
};

PyType_Spec read_pipe_spec = {
    .name = "_ringcorn.ReadPipeTransport",
    .basicsize = sizeof(struct read_pipe),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = read_pipe_slots,
};
