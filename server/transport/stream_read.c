/* stream_read.c: from the socket to the protocol. stream.h has the way it goes.
 *
 * Runs on:  the loop's thread with the GIL, in phase 3. */
#include "transport/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

enum {
    READ_LONG = 8 * 1024, /* after such a read the next one is expected to be long, too */
    SHORTER_MAX = 16,     /* reads in a row that needed less, and the next ones are expected to */
};

/* recv(2), at most cap bytes; -errno. */
static ssize_t
receive(struct stream *t, void *p, size_t cap)
{
    ssize_t n;
    do {
        n = recv(t->fd, p, cap, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Urgent data is there? io_watch() has not looked. */
static void
look_for_urgent(struct stream *t)
{
    struct pollfd p = { .fd = t->fd, .events = POLLPRI };
    t->unsure_n = 0;
    if (poll(&p, 1, 0) > 0 && (p.revents & POLLPRI))
        t->has_urgent = true;
}

/* After n of cap bytes: is more to be read, which no event will tell of? */
static bool
has_more(struct stream *t, size_t n, size_t cap)
{
    char c;
    if (UNLIKELY(t->unsure_n > 1))
        look_for_urgent(t);
    t->unsure_n = 0;
    if (n == cap || t->may_end)
        return true;
    /* A short read of TCP has found the end of the queue, or urgent data. One of a unix socket may have ended at a descriptor that was sent along. */
    return (!t->is_tcp || UNLIKELY(t->has_urgent)) &&
           recv(t->fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) >= 0;
}

static int
on_eof(struct stream *t)
{
    if (stream_debug(t, "%r received EOF") < 0)
        return -1;
    PY_OWNED PyObject *answer = transport_call0(t->protocol, t->st->s_eof_received);
    int keep = answer != NULL ? PyObject_IsTrue(answer) : -1;
    if (keep < 0)
        return stream_fatal(t, "Fatal error: protocol.eof_received() call failed.");
    if (!keep)
        return stream_close(t);
    t->is_read_done = true; /* the protocol can write more */
    stream_changed(t);
    return 0;
}

/* What receive() has returned that is not data. */
static int
on_none(struct stream *t, ssize_t n)
{
    if (n == 0)
        return on_eof(t);
    if (n == -EAGAIN) {
        if (t->unsure_n > 0)
            look_for_urgent(t);
        return 0;
    }
    errno = (int)-n;
    PyErr_SetFromErrno(PyExc_OSError);
    return stream_fatal(t, "Fatal read error on socket transport");
}

static void
read_again(struct stream *t)
{
    t->events |= STREAM_READ;
    loop_source_ready(t->loop, &t->source);
}

static int
read_buffered(struct stream *t)
{
    static const char failed[] = "Fatal error: protocol.get_buffer() call failed.";
    PY_OWNED PyObject *protocol = Py_NewRef(t->protocol);
    PY_OWNED PyObject *buffer = transport_call(protocol, t->st->s_get_buffer, t->st->minus_one);
    Py_buffer view;
    if (buffer == NULL)
        return stream_fatal(t, failed);
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return stream_fatal(t, failed);
    if (view.len == 0) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        return stream_fatal(t, failed);
    }
    if (t->is_closed || t->conn_lost) { /* by get_buffer() */
        PyBuffer_Release(&view);
        return 0;
    }
    size_t cap = (size_t)view.len;
    ssize_t n = receive(t, view.buf, cap);
    PyBuffer_Release(&view);
    if (n <= 0)
        return on_none(t, n);
    if (has_more(t, (size_t)n, cap))
        read_again(t);
    PY_OWNED PyObject *count = PyLong_FromSsize_t(n);
    PY_OWNED PyObject *done =
        count != NULL ? transport_call(protocol, t->st->s_buffer_updated, count) : NULL;
    return done != NULL ? 0
                        : stream_fatal(t, "Fatal error: protocol.buffer_updated() call failed.");
}

static int
read_tls(struct stream *t)
{
    char *scratch = transport_scratch_take(t->st);
    if (scratch == NULL)
        return -1;
    ssize_t n = receive(t, scratch, TRANSPORT_SCRATCH);
    int err = 0;
    if (n > 0) {
        if (has_more(t, (size_t)n, TRANSPORT_SCRATCH))
            read_again(t);
        PY_OWNED PyObject *protocol = Py_NewRef(t->protocol);
        err = tls_received(protocol, scratch, (size_t)n);
    }
    transport_scratch_give(t->st, scratch);
    if (n <= 0)
        return on_none(t, n);
    return err == 0 ? 0 : stream_fatal(t, "Fatal error: protocol.buffer_updated() call failed.");
}

/* One that is likely to be long: straight into its bytes object, which is made shorter afterwards. New; NULL where there is none, with *n as of
 * receive(), or where *n is positive an exception is set. */
static PyObject *
receive_long(struct stream *t, ssize_t *n)
{
    *n = 1;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)t->read_size);
    if (data == NULL)
        return NULL;
    *n = receive(t, PyBytes_AS_STRING(data), t->read_size);
    if (*n <= 0)
        Py_CLEAR(data);
    else if ((size_t)*n < t->read_size)
        _PyBytes_Resize(&data, *n);
    return data;
}

/* Into the buffer that all share, copied from there. As above. */
static PyObject *
receive_short(struct stream *t, ssize_t *n)
{
    *n = 1;
    char *scratch = transport_scratch_take(t->st);
    if (scratch == NULL)
        return NULL;
    *n = receive(t, scratch, TRANSPORT_SCRATCH);
    PyObject *data = *n > 0 ? PyBytes_FromStringAndSize(scratch, *n) : NULL;
    transport_scratch_give(t->st, scratch);
    return data;
}

/* What a read should have room for after one of n of cap bytes: a little more, as one that is filled is not the last; 0: nothing long is expected. */
static unsigned
size_after(size_t n, size_t cap)
{
    if (n < READ_LONG)
        return 0;
    size_t size = n == cap ? 2 * n : n + n / 16;
    return size < TRANSPORT_SCRATCH ? (unsigned)size : TRANSPORT_SCRATCH;
}

/* Notes what follows from a read of n of cap bytes. */
static void
has_read(struct stream *t, size_t n, size_t cap)
{
    if (has_more(t, n, cap))
        read_again(t);
    unsigned size = size_after(n, cap);
    if (size >= t->read_size) {
        t->read_size = size;
    } else {
        /* Not less at once: messages of which one came in two pieces would be read in two pieces for ever. */
        t->shorter_max = size > t->shorter_max ? size : t->shorter_max;
        if (++t->shorter_n < SHORTER_MAX)
            return;
        t->read_size = t->shorter_max;
    }
    t->shorter_n = t->shorter_max = 0;
}

static int
read_data(struct stream *t)
{
    bool is_long = t->read_size > 0;
    size_t cap = is_long ? t->read_size : TRANSPORT_SCRATCH;
    ssize_t n;
    PY_OWNED PyObject *data = is_long ? receive_long(t, &n) : receive_short(t, &n);
    if (n <= 0)
        return on_none(t, n);
    if (data == NULL)
        return stream_fatal(t, "Fatal read error on socket transport");
    has_read(t, (size_t)n, cap);
    PY_OWNED PyObject *protocol = Py_NewRef(t->protocol);
    PY_OWNED PyObject *done = transport_call(protocol, t->st->s_data_received, data);
    return done != NULL ? 0 : stream_fatal(t, "Fatal error: protocol.data_received() call failed.");
}

/* Into the reader's buffer. One that is likely to be long goes there straight: the buffer is made as long as that may be, and shorter afterwards. */
static int
read_into(struct stream *t, PyObject *reader, PyObject *buffer)
{
    Py_ssize_t old = PyByteArray_GET_SIZE(buffer);
    size_t cap = t->read_size;
    ssize_t n;
    int err = 0;
    if (cap > 0 && UNLIKELY(PyByteArray_Resize(buffer, old + (Py_ssize_t)cap) < 0)) {
        PyErr_Clear(); /* no memory, or it is lent to somebody: that matters only if there is something to read */
        cap = 0;
    }
    if (cap > 0) {
        n = receive(t, PyByteArray_AS_STRING(buffer) + old, cap);
        err = PyByteArray_Resize(buffer, n > 0 ? old + n : old);
    } else {
        char *scratch = transport_scratch_take(t->st);
        if (scratch == NULL)
            return -1;
        cap = TRANSPORT_SCRATCH;
        n = receive(t, scratch, cap);
        if (n > 0 && (err = PyByteArray_Resize(buffer, old + n)) == 0)
            memcpy(PyByteArray_AS_STRING(buffer) + old, scratch, (size_t)n);
        transport_scratch_give(t->st, scratch);
    }
    if (err == 0 && n <= 0)
        return on_none(t, n);
    if (err == 0) {
        has_read(t, (size_t)n, cap);
        err = stream_fed(t, reader, buffer);
    }
    return err == 0 ? 0 : stream_fatal(t, "Fatal error: protocol.data_received() call failed.");
}

int
stream_read_ready(struct stream *t)
{
    if (t->is_closing || t->conn_lost || t->is_closed || t->is_read_done)
        return 0;
    if (t->is_paused || t->is_lent || !t->is_started) {
        t->has_unread = true;
        stream_changed(t);
        return 0;
    }
    if (t->is_tls)
        return read_tls(t);
    if (t->is_buffered)
        return read_buffered(t);
    if (t->is_reader) {
        PY_OWNED PyObject *buffer = NULL;
        PY_OWNED PyObject *reader = stream_reader(t, &buffer);
        if (reader != NULL)
            return read_into(t, reader, buffer);
    }
    return read_data(t);
}
