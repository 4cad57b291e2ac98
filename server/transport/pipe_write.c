/* pipe_write.c: asyncio's transport of the end of a pipe that is written to: of a fifo, a socket or a character device.
 *
 * write() hands bytes to the kernel before it returns; what finds no room is queued, exact bytes by reference. That the reader is gone is seen by watching the
 * descriptor: a fifo or a socket only, as a terminal has input of its own.
 *
 * Runs on:  the loop's thread, GIL held. */
#include "transport/endpoint.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    PARTS_AT_ONCE = 16,    /* chunks that one system call writes */
    LOST_WRITES_QUIET = 5, /* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES */
};

struct write_pipe {
    struct endpoint base;
    PyObject **chunks; /* a ring of new references: exact bytes */
    size_t head, count, cap;
    size_t gone; /* bytes of the first that were written */
};

static inline struct write_pipe *
write_pipe_of(struct endpoint *t)
{
    return (struct write_pipe *)t;
}

static PyObject *
chunk_at(const struct write_pipe *w, size_t i)
{
    return w->chunks[(w->head + i) & (w->cap - 1)];
}

/* Steals chunk, also on failure. */
static int
chunk_add(struct write_pipe *w, PyObject *chunk)
{
    if (chunk == NULL)
        return -1;
    if (w->count == w->cap) {
        size_t cap = w->cap > 0 ? 2 * w->cap : 8;
        PyObject **ring = PyMem_New(PyObject *, cap);
        if (ring == NULL) {
            Py_DECREF(chunk);
            return PyErr_NoMemory(), -1;
        }
        for (size_t i = 0; i < w->count; i++)
            ring[i] = chunk_at(w, i);
        PyMem_Free(w->chunks);
        w->chunks = ring;
        w->head = 0;
        w->cap = cap;
    }
    w->chunks[(w->head + w->count++) & (w->cap - 1)] = chunk;
    w->base.queued += (size_t)PyBytes_GET_SIZE(chunk);
    return 0;
}

static void
write_pipe_drop(struct endpoint *t)
{
    struct write_pipe *w = write_pipe_of(t);
    while (w->count > 0) { /* exact bytes: dropping them runs nothing */
        Py_DECREF(chunk_at(w, 0));
        w->head = (w->head + 1) & (w->cap - 1);
        w->count--;
    }
    w->gone = 0;
    t->queued = 0;
}

static void
has_written(struct write_pipe *w, size_t n)
{
    w->base.queued -= n;
    n += w->gone;
    while (w->count > 0 && n >= (size_t)PyBytes_GET_SIZE(chunk_at(w, 0))) {
        n -= (size_t)PyBytes_GET_SIZE(chunk_at(w, 0));
        Py_DECREF(chunk_at(w, 0));
        w->head = (w->head + 1) & (w->cap - 1);
        w->count--;
    }
    w->gone = n;
}

/* By asyncio's rule every error ends it. */
static int
write_failed(struct endpoint *t)
{
    PyObject *exception;
    bool is_quiet = PyErr_ExceptionMatches(PyExc_OSError);
    write_pipe_drop(t);
    t->conn_lost++;
    if (endpoint_fatal(t, "Fatal write error on pipe transport", is_quiet, &exception) < 0)
        return -1;
    PY_OWNED PyObject *owned = exception;
    return endpoint_end(t, owned);
}

/* Bytes, 0 where there is no room, or -1 with an exception set. */
static ssize_t
write_some(int fd, const struct iovec *parts, int n)
{
    for (;;) {
        ssize_t done = n == 1 ? write(fd, parts->iov_base, parts->iov_len) : writev(fd, parts, n);
        if (done >= 0)
            return done;
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR)
            return endpoint_fail_errno();
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

static int
write_ready(struct write_pipe *w)
{
    struct endpoint *t = &w->base;
    while (w->count > 0) {
        struct iovec parts[PARTS_AT_ONCE];
        size_t n = w->count < PARTS_AT_ONCE ? w->count : PARTS_AT_ONCE, all = 0;
        for (size_t i = 0; i < n; i++) {
            PyObject *chunk = chunk_at(w, i);
            size_t skipped = i == 0 ? w->gone : 0;
            parts[i] = (struct iovec){ PyBytes_AS_STRING(chunk) + skipped,
                                       (size_t)PyBytes_GET_SIZE(chunk) - skipped };
            all += parts[i].iov_len;
        }
        ssize_t done = write_some(t->fd, parts, (int)n);
        if (done < 0)
            return write_failed(t);
        has_written(w, (size_t)done);
        if ((size_t)done < all)
            break; /* no room for more */
    }
    t->wants_room = w->count > 0;
    if (endpoint_maybe_resume(t) < 0) /* may write more */
        return -1;
    if (w->count == 0 && t->is_closing && !t->is_ended)
        return endpoint_lose(t, Py_None);
    return 0;
}

/* The reader is gone. */
static int
is_closed_by_peer(struct write_pipe *w)
{
    struct endpoint *t = &w->base;
    if (endpoint_debug(t, "info", "%r was closed by peer") < 0)
        return -1;
    if (t->is_ended)
        return 0;
    if (w->count == 0)
        return endpoint_end(t, Py_None);
    PY_OWNED PyObject *exception = PyObject_CallNoArgs(PyExc_BrokenPipeError);
    return exception != NULL ? endpoint_end(t, exception) : -1;
}

static int
write_pipe_ready(struct endpoint *t, unsigned events)
{
    struct write_pipe *w = write_pipe_of(t);
    if (t->is_ended)
        return 0;
    if (events & ENDPOINT_IN)
        return is_closed_by_peer(w);
    return events & ENDPOINT_ROOM ? write_ready(w) : 0;
}

static const struct endpoint_kind write_pipe_kind = {
    .ready = write_pipe_ready,
    .drop = write_pipe_drop,
    .writes = true,
};

/* --- methods -------------------------------------------------------------------------------------------------------*/

/* 0, or -1 with an exception set. */
static int
write_bytes(struct write_pipe *w, PyObject *data, const char *p, size_t n)
{
    struct endpoint *t = &w->base;
    size_t done = 0;
    if (w->count == 0) {
        struct iovec part = { (void *)p, n };
        ssize_t some = write_some(t->fd, &part, 1);
        if (some < 0)
            return write_failed(t);
        done = (size_t)some;
        if (LIKELY(done == n))
            return 0;
        t->wants_room = true;
        endpoint_changed(t);
    }
    bool is_whole = PyBytes_CheckExact(data) && w->count == 0;
    if (is_whole || (PyBytes_CheckExact(data) && done == 0)) {
        if (chunk_add(w, Py_NewRef(data)) < 0)
            return -1;
        if (is_whole) {
            w->gone = done;
            t->queued -= done;
        }
    } else if (chunk_add(w, PyBytes_FromStringAndSize(p + done, (Py_ssize_t)(n - done))) < 0) {
        return -1;
    }
    return endpoint_maybe_pause(t);
}

static PyObject *
meth_write(PyObject *self, PyObject *data)
{
    struct endpoint *t = endpoint_of(self);
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        PY_OWNED PyObject *text = PyObject_Repr(data);
        if (text != NULL)
            PyErr_SetObject(PyExc_AssertionError, text);
        return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    int err = 0;
    if (view.len == 0) {
        /* nothing to do */
    } else if (UNLIKELY(t->conn_lost > 0 || t->is_closing)) {
        if (t->conn_lost++ >= LOST_WRITES_QUIET) {
            PY_OWNED PyObject *done = PyObject_CallMethod(
                t->st->logger, "warning", "s",
                "pipe closed by peer or os.write(pipe, data) raised exception.");
            err = done != NULL ? 0 : -1;
        }
    } else {
        err = write_bytes(write_pipe_of(t), data, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    if (err < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
meth_writelines(PyObject *self, PyObject *list)
{
    PY_OWNED PyObject *empty = PyBytes_FromStringAndSize(NULL, 0);
    PY_OWNED PyObject *joined =
        empty != NULL ? PyObject_CallMethod(empty, "join", "O", list) : NULL;
    return joined != NULL ? meth_write(self, joined) : NULL;
}

static PyObject *
meth_can_write_eof(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_TRUE;
}

/* Closing it is all that the end of a pipe can be. */
static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (t->is_closing)
        Py_RETURN_NONE;
    t->is_closing = true;
    if (write_pipe_of(t)->count == 0 && endpoint_end(t, Py_None) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
meth_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (!t->is_ended && endpoint_end(t, Py_None) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- its life ------------------------------------------------------------------------------------------------------*/

PyObject *
write_pipe_make(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    if (n != 5) {
        PyErr_SetString(PyExc_TypeError,
                        "_write_pipe_transport(loop, pipe, protocol, waiter, extra)");
        return NULL;
    }
    PY_OWNED PyObject *st_owner = NULL;
    struct transport_state *st = transport_state_take(module, &st_owner);
    PY_OWNED PyObject *self =
        st != NULL ? (PyObject *)endpoint_new(module, st->write_pipe_type, &write_pipe_kind,
                                              args[0], args[1], args[2], args[4])
                   : NULL;
    if (self == NULL)
        return NULL;
    struct endpoint *t = endpoint_of(self);
    mode_t mode;
    if (endpoint_begin_pipe(t, args[1],
                            "Pipe transport is only for pipes, sockets and character devices",
                            &mode) == 0) {
        t->is_unwatched = S_ISCHR(mode);
        if (endpoint_start(t, args[3]) == 0)
            return py_take(&self);
    }
    endpoint_undo(t);
    return NULL;
}

static int
write_pipe_traverse(PyObject *self, visitproc visit, void *arg)
{
    return endpoint_traverse(endpoint_of(self), visit, arg);
}

static int
write_pipe_clear(PyObject *self)
{
    endpoint_clear(endpoint_of(self));
    return 0;
}

static void
write_pipe_dealloc(PyObject *self)
{
    if (!endpoint_dealloc_begin(self))
        return;
    PyMem_Free(write_pipe_of(endpoint_of(self))->chunks);
    endpoint_dealloc_end(self);
}

static PyMethodDef write_pipe_methods[] = {
    ENDPOINT_METHODS,
    ENDPOINT_WRITE_METHODS,
    { "write", meth_write, METH_O, "write(data)" },
    { "writelines", meth_writelines, METH_O, "writelines(list_of_data)" },
    { "can_write_eof", meth_can_write_eof, METH_NOARGS, NULL },
    { "write_eof", meth_close, METH_NOARGS, NULL },
    { "close", meth_close, METH_NOARGS, "Closes it once what waits was written." },
    { "abort", meth_abort, METH_NOARGS, "Closes it at once; what waits is lost." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef write_pipe_members[] = {
    ENDPOINT_MEMBERS,
    { "_fileno", T_INT, offsetof(struct endpoint, fd), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef write_pipe_getset[] = {
    { "_pipe", endpoint_get_file, endpoint_set_file, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot write_pipe_slots[] = {
    { Py_tp_doc, (void *)"The transport of the end of a pipe that is written to." },
    { Py_tp_traverse, write_pipe_traverse },
    { Py_tp_clear, write_pipe_clear },
    { Py_tp_finalize, endpoint_finalize },
    { Py_tp_dealloc, write_pipe_dealloc },
    { Py_tp_repr, endpoint_repr_of_pipe },
    { Py_tp_methods, write_pipe_methods },
    { Py_tp_members, write_pipe_members },
    { Py_tp_getset, write_pipe_getset },
    { 0, NULL },
};

PyType_Spec write_pipe_spec = {
    .name = "_ringcorn.WritePipeTransport",
    .basicsize = sizeof(struct write_pipe),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = write_pipe_slots,
};
