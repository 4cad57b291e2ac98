/* stream_write.c: from write() to the socket. stream.h has the way it goes.
 *
 * Runs on:  the loop's thread with the GIL. From another thread, or while the loop does not run, a write is tried at once; the loop
 *           sends the rest. */
#include "transport/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

enum {
    /* Other buffers than bytes have to be copied where they wait: from here on it is cheaper not to wait. */
    COPY_MAX = 4096,
    /* What waits for the end of the turn, at most. It is worth it for small pieces, which become one; longer ones are better sent while
     * they are in the cache, and freed: of a hundred connections they would be a megabyte, which malloc() gives back and takes again each turn. */
    LATER_MAX = 4096,
    IOVS_MAX = 64, /* sent by one call */
    /* asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES */
    LOST_WRITES_MAX = 5,
};

/* --- the queue -------------------------------------------------------------------------------- */

static int
queue_grow(struct stream *t)
{
    if (t->head > 0) {
        memmove(t->chunks, t->chunks + t->head, t->count * sizeof(t->chunks[0]));
        t->head = 0;
        return 0;
    }
    size_t cap = 2 * t->cap;
    struct stream_chunk *chunks = PyMem_Malloc(cap * sizeof(*chunks));
    if (chunks == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(chunks, t->chunks, t->count * sizeof(*chunks));
    if (t->chunks != t->inline_chunks)
        PyMem_Free(t->chunks);
    t->chunks = chunks;
    t->cap = cap;
    return 0;
}

/* The bytes of owner from `from` on. Steals owner, also on failure. */
static int
queue_push(struct stream *t, PyObject *owner, size_t from)
{
    if (UNLIKELY(t->head + t->count == t->cap) && queue_grow(t) < 0) {
        Py_DECREF(owner);
        return -1;
    }
    size_t n = (size_t)PyBytes_GET_SIZE(owner) - from;
    t->chunks[t->head + t->count++] =
        (struct stream_chunk){ owner, PyBytes_AS_STRING(owner) + from, n };
    t->queued += n;
    live.held++;
    return 0;
}

/* The first n bytes were sent. Exact bytes are dropped: no Python runs. */
static void
queue_pop(struct stream *t, size_t n)
{
    t->queued -= n;
    while (t->count > 0) {
        struct stream_chunk *chunk = &t->chunks[t->head];
        if (chunk->n > n) {
            chunk->p += n;
            chunk->n -= n;
            return;
        }
        n -= chunk->n;
        live.held--;
        Py_DECREF(chunk->owner);
        t->head++;
        t->count--;
    }
    t->head = 0;
    if (UNLIKELY(t->chunks != t->inline_chunks)) {
        PyMem_Free(t->chunks);
        t->chunks = t->inline_chunks;
        t->cap = STREAM_CHUNKS_INLINE;
    }
}

void
stream_drop_queue(struct stream *t)
{
    queue_pop(t, t->queued);
    t->is_blocked = false;
}

/* Bytes sent, 0 where there is no room, or -errno. */
static ssize_t
send_some(struct stream *t, const struct iovec *iov, size_t n)
{
    enum { FLAGS = MSG_NOSIGNAL | MSG_DONTWAIT };
    ssize_t sent;
    do {
        if (n == 1)
            sent = send(t->fd, iov->iov_base, iov->iov_len, FLAGS);
        else
            sent = sendmsg(
                t->fd, &(struct msghdr){ .msg_iov = (struct iovec *)iov, .msg_iovlen = n }, FLAGS);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return errno == EAGAIN ? 0 : -errno;
    return sent;
}

/* Sends what there is room for. 0 and is_blocked where some is left, or the queue empty; or -errno. */
static int
send_queue(struct stream *t)
{
    t->is_blocked = false;
    while (t->count > 0) {
        struct iovec iov[IOVS_MAX];
        size_t n = 0, bytes = 0;
        for (; n < t->count && n < IOVS_MAX; n++) {
            const struct stream_chunk *chunk = &t->chunks[t->head + n];
            iov[n] = (struct iovec){ (void *)chunk->p, chunk->n };
            bytes += chunk->n;
        }
        ssize_t sent = send_some(t, iov, n);
        if (sent < 0)
            return (int)sent;
        queue_pop(t, (size_t)sent);
        if ((size_t)sent < bytes) {
            t->is_blocked = true;
            return 0;
        }
    }
    return 0;
}

/* --- flow control ----------------------------------------------------------------------------- */

static int
call_protocol(struct stream *t, PyObject *name, const char *failed)
{
    PY_OWNED PyObject *protocol = Py_NewRef(t->protocol);
    PY_OWNED PyObject *done = transport_call0(protocol, name);
    if (done != NULL)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    return stream_tell(t, failed);
}

static int
maybe_pause(struct stream *t)
{
    if (t->queued <= t->high || t->is_protocol_paused || t->protocol == NULL)
        return 0;
    t->is_protocol_paused = true;
    return call_protocol(t, t->st->s_pause_writing, "protocol.pause_writing() failed");
}

static int
maybe_resume(struct stream *t)
{
    if (!t->is_protocol_paused || t->queued > t->low || t->protocol == NULL)
        return 0;
    t->is_protocol_paused = false;
    return call_protocol(t, t->st->s_resume_writing, "protocol.resume_writing() failed");
}

/* --- the empty waiter, for sendfile() --------------------------------------------------------- */

/* future.method(arg) where it is not done. */
static int
settle_waiter(struct stream *t, PyObject *method, PyObject *arg)
{
    if (t->empty_waiter == NULL)
        return 0;
    PY_OWNED PyObject *waiter = Py_NewRef(t->empty_waiter);
    PY_OWNED PyObject *done = transport_call0(waiter, t->st->s_done);
    int is_done = done != NULL ? PyObject_IsTrue(done) : -1;
    if (is_done != 0)
        return is_done < 0 ? -1 : 0;
    PY_OWNED PyObject *set = transport_call(waiter, method, arg);
    return set != NULL ? 0 : -1;
}

PyObject *
stream_meth_make_empty_waiter(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    if (t->empty_waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Empty waiter is already set");
        return NULL;
    }
    if (stream_send_now(t) < 0)
        return NULL;
    t->empty_waiter = loop_create_future(t->loop);
    if (t->empty_waiter == NULL)
        return NULL;
    t->is_lent = true;
    stream_changed(t);
    if (t->count == 0 && settle_waiter(t, t->st->s_set_result, Py_None) < 0)
        return NULL;
    return Py_XNewRef(t->empty_waiter);
}

PyObject *
stream_meth_reset_empty_waiter(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    Py_CLEAR(t->empty_waiter);
    t->is_lent = false;
    if (!t->is_paused) /* resume_reading() was called meanwhile */
        t->has_unread = false;
    stream_changed(t);
    Py_RETURN_NONE;
}

/* --- sending ---------------------------------------------------------------------------------- */

static int
fail_send(struct stream *t, int code)
{
    stream_drop_queue(t);
    stream_changed(t);
    errno = code;
    PyErr_SetFromErrno(PyExc_OSError);
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    PyErr_SetRaisedException(Py_NewRef(exception));
    if (stream_fatal(t, "Fatal write error on socket transport") < 0)
        return -1;
    return settle_waiter(t, t->st->s_set_exception, exception);
}

static int
shut(struct stream *t)
{
    if (t->is_shut || t->sock == NULL)
        return 0;
    t->is_shut = true;
    PY_OWNED PyObject *how = PyLong_FromLong(SHUT_WR);
    PY_OWNED PyObject *sock = Py_NewRef(t->sock);
    PY_OWNED PyObject *done = how != NULL ? transport_call(sock, t->st->s_shutdown, how) : NULL;
    return done != NULL ? 0 : -1;
}

/* Something was sent. */
static int
after_send(struct stream *t)
{
    stream_changed(t);
    if (maybe_resume(t) < 0)
        return -1;
    if (t->count > 0 || t->conn_lost)
        return 0;
    if (settle_waiter(t, t->st->s_set_result, Py_None) < 0)
        return -1;
    if (t->is_closing) {
        t->conn_lost++;
        return stream_lose(t, Py_None);
    }
    return t->is_eof ? shut(t) : 0;
}

int
stream_write_ready(struct stream *t)
{
    if (t->conn_lost)
        return 0;
    if (t->send_errno == 0 && t->count > 0)
        t->send_errno = -send_queue(t);
    if (t->send_errno != 0)
        return fail_send(t, t->send_errno);
    return after_send(t);
}

int
stream_send_now(struct stream *t)
{
    if (t->count == 0 || t->is_blocked || t->conn_lost)
        return 0;
    int err = send_queue(t);
    if (UNLIKELY(err < 0)) {
        return fail_send(t, -err);
    }
    if (t->is_blocked)
        stream_changed(t);
    return 0;
}

void
stream_flush(struct loop_source *source)
{
    struct stream *t = CONTAINER_OF(source, struct stream, source);
    if (t->count == 0 || t->is_blocked || t->conn_lost)
        return;
    t->send_errno = -send_queue(t);
    if (UNLIKELY(t->is_blocked))
        stream_changed(t);
    if (UNLIKELY(t->send_errno != 0 || t->is_closing || t->is_eof || t->is_protocol_paused ||
                 t->empty_waiter != NULL || !t->watch.armed)) {
        t->events |= STREAM_SENT;
        loop_source_ready(t->loop, source);
    }
}

/* The queue has grown, and its first byte has not been tried yet. */
static int
send_soon(struct stream *t)
{
    if (t->queued < LATER_MAX && t->queued <= t->high && LIKELY(t->source.is_attached) &&
        loop_source_flush(t->loop, &t->source))
        return 0;
    return stream_send_now(t);
}

static int
has_grown(struct stream *t)
{
    if (!t->is_blocked && send_soon(t) < 0)
        return -1;
    return maybe_pause(t);
}

/* May something be written? 1; 0: it is to be forgotten; -1 with an exception set. */
static int
may_write(struct stream *t, const char *eof, const char *in_sendfile)
{
    if (UNLIKELY(t->is_eof)) {
        PyErr_SetString(PyExc_RuntimeError, eof);
        return -1;
    }
    if (UNLIKELY(t->empty_waiter != NULL)) {
        PyErr_SetString(PyExc_RuntimeError, in_sendfile);
        return -1;
    }
    return 1;
}

/* 1: it is, and what is written is to be forgotten. */
static int
is_lost(struct stream *t)
{
    if (LIKELY(t->conn_lost == 0))
        return 0;
    if (t->conn_lost++ < LOST_WRITES_MAX)
        return 1;
    PY_OWNED PyObject *text = PyUnicode_FromString("socket.send() raised exception.");
    PY_OWNED PyObject *done =
        text != NULL ? transport_call(t->st->logger, t->st->s_warning, text) : NULL;
    return done != NULL ? 1 : -1;
}

static void
fail_type(const char *format, PyObject *object)
{
    PY_OWNED PyObject *name = PyType_GetName(Py_TYPE(object));
    if (name != NULL)
        PyErr_Format(PyExc_TypeError, format, name);
}

static bool
is_bytes_like(PyObject *data)
{
    return PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data);
}

/* Queues bytes, or a copy of another buffer. Borrows data. */
static int
push_data(struct stream *t, PyObject *data)
{
    PyObject *bytes = PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    if (bytes == NULL)
        return -1;
    if (!PyBytes_CheckExact(bytes)) { /* a subclass can do as it likes when it is dropped */
        PyObject *copy =
            PyBytes_FromStringAndSize(PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
        Py_DECREF(bytes);
        if ((bytes = copy) == NULL)
            return -1;
    }
    if (PyBytes_GET_SIZE(bytes) == 0) {
        Py_DECREF(bytes);
        return 0;
    }
    return queue_push(t, bytes, 0);
}

/* A long buffer that is not bytes: what can be sent now need not be copied. */
static int
write_at_once(struct stream *t, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_BufferError))
            return -1;
        PyErr_Clear(); /* not in one piece: it will be, copied */
        return push_data(t, data) < 0 ? -1 : has_grown(t);
    }
    ssize_t sent = send_some(t, &(struct iovec){ view.buf, (size_t)view.len }, 1);
    PyObject *rest = NULL;
    if (sent >= 0 && sent < view.len)
        rest = PyBytes_FromStringAndSize((const char *)view.buf + sent, view.len - sent);
    bool is_all = sent == view.len;
    PyBuffer_Release(&view);
    if (sent < 0)
        return fail_send(t, (int)-sent);
    if (is_all)
        return 0;
    if (rest == NULL || queue_push(t, rest, 0) < 0)
        return -1;
    t->is_blocked = true;
    stream_changed(t);
    return maybe_pause(t);
}

static int
write_data(struct stream *t, PyObject *data, Py_ssize_t n)
{
    if (t->is_closed) /* as asyncio's, whose socket is gone */
        return 0;
    if (n >= COPY_MAX && t->count == 0 && !PyBytes_CheckExact(data))
        return write_at_once(t, data);
    return push_data(t, data) < 0 ? -1 : has_grown(t);
}

PyObject *
stream_meth_write(PyObject *self, PyObject *data)
{
    struct stream *t = stream_of(self);
    if (UNLIKELY(!is_bytes_like(data))) {
        fail_type("data argument must be a bytes-like object, not %R", data);
        return NULL;
    }
    if (may_write(t, "Cannot call write() after write_eof()",
                  "unable to write; sendfile is in progress") < 0)
        return NULL;
    Py_ssize_t n = PyObject_Size(data); /* of a memoryview: in the first dimension, as its bool() */
    if (n <= 0)
        return n < 0 ? NULL : Py_NewRef(Py_None);
    int lost = is_lost(t);
    if (lost != 0)
        return lost < 0 ? NULL : Py_NewRef(Py_None);
    return write_data(t, data, n) < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
stream_meth_writelines(PyObject *self, PyObject *list)
{
    struct stream *t = stream_of(self);
    if (may_write(t, "Cannot call writelines() after write_eof()",
                  "unable to writelines; sendfile is in progress") < 0)
        return NULL;
    PY_OWNED PyObject *pieces = PySequence_List(list);
    if (pieces == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pieces); i++) {
        PyObject *piece = PyList_GET_ITEM(pieces, i);
        if (!PyObject_CheckBuffer(piece)) {
            fail_type("memoryview: a bytes-like object is required, not %R", piece);
            return NULL;
        }
    }
    if (PyList_GET_SIZE(pieces) == 0)
        Py_RETURN_NONE;
    int lost = is_lost(t);
    if (lost != 0)
        return lost < 0 ? NULL : Py_NewRef(Py_None);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pieces); i++)
        if (push_data(t, PyList_GET_ITEM(pieces, i)) < 0)
            return NULL;
    if (t->count == 0)
        Py_RETURN_NONE;
    return has_grown(t) < 0 ? NULL : Py_NewRef(Py_None);
}

int
stream_write(PyObject *transport, PyObject *bytes)
{
    struct stream *t = stream_of(transport);
    int err = may_write(t, "Cannot call write() after write_eof()",
                        "unable to write; sendfile is in progress");
    if (err > 0 && PyBytes_GET_SIZE(bytes) > 0) {
        err = is_lost(t);
        if (err == 0 && !t->is_closed) {
            err = queue_push(t, bytes, 0) < 0 ? -1 : has_grown(t);
            return err;
        }
    }
    Py_DECREF(bytes);
    return err < 0 ? -1 : 0;
}

PyObject *
stream_meth_write_eof(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    if (t->is_closing || t->is_eof)
        Py_RETURN_NONE;
    if (stream_send_now(t) < 0)
        return NULL;
    if (t->is_closing) /* it has failed */
        Py_RETURN_NONE;
    t->is_eof = true;
    if (t->count == 0 && shut(t) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- limits ----------------------------------------------------------------------------------- */

static int
as_size(PyObject *number, size_t *size)
{
    *size = PyLong_AsSize_t(number);
    if (*size == (size_t)-1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear(); /* more than there can be: a limit that is never reached */
        *size = SIZE_MAX;
    }
    return 0;
}

PyObject *
stream_meth_set_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "high", "low", NULL };
    struct stream *t = stream_of(self);
    PyObject *high_arg = Py_None, *low_arg = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names, &high_arg,
                                     &low_arg))
        return NULL;
    PY_OWNED PyObject *four = PyLong_FromLong(4);
    PY_OWNED PyObject *zero = PyLong_FromLong(0);
    if (four == NULL || zero == NULL)
        return NULL;
    PY_OWNED PyObject *high = high_arg != Py_None  ? Py_NewRef(high_arg)
                              : low_arg == Py_None ? PyLong_FromLong(64 * 1024)
                                                   : PyNumber_Multiply(four, low_arg);
    if (high == NULL)
        return NULL;
    PY_OWNED PyObject *low =
        low_arg != Py_None ? Py_NewRef(low_arg) : PyNumber_FloorDivide(high, four);
    if (low == NULL)
        return NULL;
    int is_right = PyObject_RichCompareBool(high, low, Py_GE);
    if (is_right > 0)
        is_right = PyObject_RichCompareBool(low, zero, Py_GE);
    if (is_right < 0)
        return NULL;
    if (!is_right) {
        PyErr_Format(PyExc_ValueError, "high (%R) must be >= low (%R) must be >= 0", high, low);
        return NULL;
    }
    PY_OWNED PyObject *high_int = PyNumber_Long(high);
    PY_OWNED PyObject *low_int = PyNumber_Long(low);
    size_t high_n, low_n;
    if (high_int == NULL || low_int == NULL || as_size(high_int, &high_n) < 0 ||
        as_size(low_int, &low_n) < 0)
        return NULL;
    t->high = high_n;
    t->low = low_n;
    if (t->queued > t->high && (stream_send_now(t) < 0 || maybe_pause(t) < 0))
        return NULL;
    Py_RETURN_NONE;
}
