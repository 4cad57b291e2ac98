/* tls_pipe.c: bytes through _ssl: feeding, decrypting, encrypting, and the flow control on both sides.
 *
 * The methods of _ssl are called with this very object as their buffer: it exports whatever piece of
 * memory is to be read or filled (the window), so no bytes or memoryview is made for a call.
 *
 * Runs on:  the loop's thread, GIL held; _ssl gives it away while it works.
 * Leaves to others:  when to read, when to close (tls.c). */
#include "transport/tls_private.h"

#include <string.h>

/* --- records ------------------------------------------------------------------------------------ */

/* RFC 8446, 5.1: type, 3.x, length. A hello of SSL 2 and what is no TLS at all looks different. */
static bool
is_record_head(const unsigned char *head)
{
    enum { TYPE_MIN = 20, TYPE_MAX = 24, MAJOR = 3 };
    return head[0] >= TYPE_MIN && head[0] <= TYPE_MAX && head[1] == MAJOR;
}

static void
records_feed(struct pytls_records *r, const char *p, size_t n)
{
    while (n > 0 && !r->is_lost) {
        if (r->head_n < TLS_RECORD_HEAD) {
            r->head[r->head_n++] = (unsigned char)*p;
            p++;
            n--;
            if (r->head_n < TLS_RECORD_HEAD)
                continue;
            r->body_left = (size_t)r->head[3] << 8 | r->head[4];
            r->size = TLS_RECORD_HEAD + r->body_left;
            r->is_lost = !is_record_head(r->head);
        }
        size_t take = size_min(n, r->body_left);
        p += take;
        n -= take;
        r->body_left -= take;
        if (r->body_left == 0) {
            r->head_n = 0;
            r->count++;
            r->bytes += r->size;
        }
    }
    if (UNLIKELY(r->is_lost)) {
        r->count = 1;
        r->bytes += n + TLS_RECORD_MAX;
    }
}

static void
records_empty(struct pytls_records *r)
{
    r->count = 0;
    r->bytes = 0;
}

int
pytls_records_settle(struct pytls *t)
{
    Py_ssize_t left = pytls_read_size(t);
    if (left == 0)
        records_empty(&t->records);
    return left < 0 ? -1 : 0;
}

/* --- calls of _ssl ------------------------------------------------------------------------------ */

bool
pytls_is_again(struct pytls *t)
{
    if (!PyErr_ExceptionMatches(t->names->again))
        return false;
    PyErr_Clear();
    return true;
}

/* fn(self) or, with is_read, fn(0, self): self exports the n bytes at p for as long as it takes. New. */
static PyObject *
call_with_window(struct pytls *t, PyObject *fn, void *p, size_t n, bool is_read)
{
    PyObject *args[] = { NULL, t->names->zero, (PyObject *)t };
    t->window.p = p;
    t->window.n = (Py_ssize_t)n;
    t->window.is_readonly = !is_read;
    PyObject *result =
        is_read ? PyObject_Vectorcall(fn, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
                : PyObject_Vectorcall(fn, args + 2, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    t->window.p = NULL;
    return result;
}

int
pytls_feed(struct pytls *t, const char *p, size_t n)
{
    PY_OWNED PyObject *done = call_with_window(t, t->fn_feed, (void *)p, n, false);
    if (done == NULL)
        return -1;
    records_feed(&t->records, p, n);
    return 0;
}

enum { CIPHER_AGAIN = -1, CIPHER_FAILED = -2 };

/* read(n) of an SSLObject that is not ssl's own: it may keep what it is given, so it gets nothing of ours. */
static Py_ssize_t
decrypt_foreign(struct pytls *t, char *p, size_t n)
{
    PY_OWNED PyObject *wanted = PyLong_FromSize_t(n);
    PY_OWNED PyObject *bytes = wanted != NULL ? PyObject_CallOneArg(t->fn_read, wanted) : NULL;
    Py_buffer view;
    if (bytes == NULL || PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
        return -1;
    Py_ssize_t got = view.len;
    if ((size_t)got <= n)
        memcpy(p, view.buf, (size_t)got);
    PyBuffer_Release(&view);
    if ((size_t)got > n) {
        PyErr_Format(PyExc_ValueError, "%R read more than it was asked for", t->sslobj);
        return -1;
    }
    return got;
}

/* Decrypts into the n > 0 bytes at p: how many, of one record at most; 0 for a close_notify; CIPHER_AGAIN;
 * CIPHER_FAILED with an exception set. */
static Py_ssize_t
decrypt(struct pytls *t, char *p, size_t n)
{
    struct pytls_records *r = &t->records;
    Py_ssize_t got;
    if (LIKELY(t->is_inner)) {
        PY_OWNED PyObject *done = call_with_window(t, t->fn_read, p, n, true);
        got = done != NULL ? PyLong_AsSsize_t(done) : -1;
    } else {
        got = decrypt_foreign(t, p, n);
    }
    if (LIKELY(got > 0)) {
        r->bytes -= size_min((size_t)got, r->bytes);
        /* With room left the record is at its end. */
        if (LIKELY((size_t)got < n && !r->is_lost) && --r->count == 0)
            records_empty(r);
        return got;
    }
    /* Only here something else than data can have been read, and answered. */
    t->may_have_output = true;
    records_empty(r);
    if (got == 0)
        return 0;
    return pytls_is_again(t) ? CIPHER_AGAIN : CIPHER_FAILED;
}

/* Encrypts the n > 0 bytes at p into the BIO: how many; CIPHER_AGAIN; CIPHER_FAILED with an exception set. What
 * was told to come again must come again with the same length: OpenSSL insists. */
static Py_ssize_t
encrypt(struct pytls *t, const char *p, size_t n)
{
    PY_OWNED PyObject *done = NULL;
    t->may_have_output = true;
    if (LIKELY(t->is_inner)) {
        done = call_with_window(t, t->fn_write, (void *)p, n, false);
    } else {
        PY_OWNED PyObject *bytes = PyBytes_FromStringAndSize(p, (Py_ssize_t)n);
        done = bytes != NULL ? PyObject_CallOneArg(t->fn_write, bytes) : NULL;
    }
    Py_ssize_t got = done != NULL ? PyLong_AsSsize_t(done) : -1;
    if (LIKELY(got >= 0 && (size_t)got <= n))
        return got;
    if (got >= 0)
        PyErr_Format(PyExc_ValueError, "%R wrote more than it was given", t->sslobj);
    return pytls_is_again(t) ? CIPHER_AGAIN : CIPHER_FAILED;
}

/* --- received ------------------------------------------------------------------------------------ */

static bool
may_deliver(const struct pytls *t)
{
    return t->records.count > 0 && !t->is_reading_paused && !t->is_closed_by_app &&
           t->app != NULL && (t->phase == TLS_WRAPPED || t->phase == TLS_FLUSHING);
}

/* Fills the n bytes at p: how many were got; *last: what decrypt() said last. */
static size_t
fill(struct pytls *t, char *p, size_t n, Py_ssize_t *last)
{
    size_t got = 0;
    *last = CIPHER_AGAIN;
    while (got < n && t->records.count > 0) {
        *last = decrypt(t, p + got, n - got);
        if (*last <= 0)
            break;
        got += (size_t)*last;
    }
    return got;
}

/* What was got is delivered by now, or that has failed; what ended the filling comes next. */
static int
after_fill(struct pytls *t, int delivered, Py_ssize_t last, PyObject *exception)
{
    if (exception != NULL) {
        if (delivered == 0)
            PyErr_SetRaisedException(exception);
        else
            Py_DECREF(exception);
        return -1;
    }
    if (delivered < 0)
        return -1;
    return last == 0 ? pytls_close_notified(t) : 0;
}

static int
deliver_bytes(struct pytls *t)
{
    Py_ssize_t last;
    /* Compressed records may hold more than their size. */
    size_t room = size_min(t->records.bytes + 1, TLS_READ_MAX);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
    if (bytes == NULL)
        return -1;
    size_t got = fill(t, PyBytes_AS_STRING(bytes), room, &last);
    PyObject *exception = last == CIPHER_FAILED ? PyErr_GetRaisedException() : NULL;
    int delivered = 0;
    PY_OWNED PyObject *app = Py_XNewRef(t->app); /* a read gives the GIL away */
    if (got > 0 && app != NULL) {
        if (t->app_kind == APP_TLS) {
            delivered = tls_received(app, PyBytes_AS_STRING(bytes), got);
        } else {
            delivered = _PyBytes_Resize(&bytes, (Py_ssize_t)got);
            if (delivered == 0)
                delivered = pytls_call(app, t->names->s_data_received, bytes);
        }
    }
    Py_XDECREF(bytes);
    return after_fill(t, delivered, last, exception);
}

static int
deliver_into_buffer(struct pytls *t)
{
    Py_ssize_t last;
    Py_buffer view;
    PY_OWNED PyObject *app = Py_NewRef(t->app);
    PY_OWNED PyObject *hint = PyLong_FromSize_t(t->records.bytes);
    PY_OWNED PyObject *buffer =
        hint != NULL ? PyObject_CallMethodOneArg(app, t->names->s_get_buffer, hint) : NULL;
    if (buffer == NULL || PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return -1;
    if (view.len == 0) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        return -1;
    }
    size_t got = fill(t, view.buf, (size_t)view.len, &last);
    PyObject *exception = last == CIPHER_FAILED ? PyErr_GetRaisedException() : NULL;
    PyBuffer_Release(&view);
    int delivered = 0;
    if (got > 0) {
        PY_OWNED PyObject *count = PyLong_FromSize_t(got);
        delivered = count != NULL ? pytls_call(app, t->names->s_buffer_updated, count) : -1;
    }
    return after_fill(t, delivered, last, exception);
}

int
pytls_deliver(struct pytls *t)
{
    int err = 0;
    if (t->is_reading)
        return 0; /* a callback has led here; the one below on the stack goes on */
    t->is_reading = true;
    while (err == 0 && may_deliver(t))
        err = t->app_kind == APP_BUFFERED ? deliver_into_buffer(t) : deliver_bytes(t);
    t->is_reading = false;
    return err == 0 ? 0 : pytls_fail(t, "Fatal error on SSL protocol");
}

int
pytls_read(struct pytls *t)
{
    if (pytls_deliver(t) < 0)
        return -1;
    if (UNLIKELY(t->phase == TLS_FLUSHING || t->phase == TLS_SHUTDOWN))
        return pytls_flush(t);
    if (UNLIKELY(t->backlog.count > 0 || t->may_have_output) && pytls_push(t) < 0 &&
        pytls_fail(t, "Fatal error on SSL protocol") < 0)
        return -1;
    return pytls_control_below(t);
}

int
pytls_discard(struct pytls *t)
{
    char scratch[8 * 1024];
    while (t->records.count > 0) {
        Py_ssize_t got = decrypt(t, scratch, sizeof scratch);
        if (got == CIPHER_FAILED && PyErr_ExceptionMatches(t->names->zero_return)) {
            PyErr_Clear();
            return 0;
        }
        if (got <= 0)
            return got == CIPHER_FAILED ? -1 : 0;
    }
    return 0;
}

/* --- written ------------------------------------------------------------------------------------- */

int
pytls_backlog_add(struct pytls *t, PyObject *bytes, size_t offset)
{
    enum { FIRST_CAP = 8 };
    struct pytls_backlog *b = &t->backlog;
    if (b->first + b->count == b->cap) {
        if (b->first > 0) {
            memmove(b->items, b->items + b->first, b->count * sizeof *b->items);
            b->first = 0;
        } else {
            size_t cap = b->cap > 0 ? 2 * b->cap : FIRST_CAP;
            PyObject **items = PyMem_Realloc(b->items, cap * sizeof *items);
            if (items == NULL) {
                PyErr_NoMemory();
                return -1;
            }
            b->items = items;
            b->cap = cap;
        }
    }
    ASSERT(offset == 0 || b->count == 0);
    if (b->count == 0)
        b->offset = offset;
    b->items[b->first + b->count++] = Py_NewRef(bytes);
    b->bytes += (size_t)PyBytes_GET_SIZE(bytes) - offset;
    return 0;
}

static void
backlog_take(struct pytls_backlog *b, size_t n)
{
    b->offset += n;
    b->bytes -= n;
    if (b->offset < (size_t)PyBytes_GET_SIZE(b->items[b->first]))
        return;
    PyObject *done = b->items[b->first++];
    b->offset = 0;
    if (--b->count == 0)
        b->first = 0;
    Py_DECREF(done); /* bytes: runs no Python */
}

void
pytls_backlog_clear(struct pytls *t)
{
    struct pytls_backlog *b = &t->backlog;
    for (size_t i = 0; i < b->count; i++)
        Py_DECREF(b->items[b->first + i]);
    PyMem_Free(b->items);
    memset(b, 0, sizeof *b);
}

/* Steals bytes. */
static int
below_write(struct pytls *t, PyObject *bytes)
{
    PY_OWNED PyObject *below = Py_NewRef(t->below);
    if (LIKELY(t->below_kind == BELOW_STREAM))
        return stream_write(below, bytes);
    PY_OWNED PyObject *owned = bytes;
    if (t->below_kind == BELOW_FOREIGN)
        return pytls_call(below, t->names->s_write, owned);
    struct pytls *lower = ((struct pytls_transport *)below)->tls;
    return lower != NULL ? pytls_write(lower, owned) : 0;
}

int
pytls_drain(struct pytls *t)
{
    if (t->is_writing_paused || t->below == NULL)
        return 0;
    PyObject *bytes = PyObject_CallNoArgs(t->fn_drain);
    if (bytes == NULL)
        return -1;
    t->may_have_output = false;
    if (UNLIKELY(PyBytes_GET_SIZE(bytes) == 0)) {
        Py_DECREF(bytes);
        return 0;
    }
    return below_write(t, bytes);
}

static bool
may_push(const struct pytls *t)
{
    return !t->is_writing_paused && t->below != NULL &&
           (t->phase == TLS_WRAPPED || t->phase == TLS_FLUSHING);
}

/* Has the transport below given up by itself, as after a failed send? What is written to it then is lost, and would
 * be told of again and again. 1, 0, -1 with an exception set. */
static int
is_below_gone(struct pytls *t)
{
    PY_OWNED PyObject *below = Py_XNewRef(t->below);
    PY_OWNED PyObject *closing = below != NULL
                                     ? PyObject_CallMethodNoArgs(below, t->names->s_is_closing)
                                     : Py_NewRef(Py_True);
    return closing != NULL ? PyObject_IsTrue(closing) : -1;
}

/* One slice of the backlog into the BIO and on. 1 where there may be more to do, 0, or -1. */
static int
push_slice(struct pytls *t)
{
    struct pytls_backlog *b = &t->backlog;
    size_t made = 0;
    Py_ssize_t n = 0;
    while (b->count > 0 && made < TLS_WRITE_SLICE) {
        /* borrowed: nothing but this function takes from the backlog */
        PyObject *bytes = b->items[b->first];
        size_t left = (size_t)PyBytes_GET_SIZE(bytes) - b->offset;
        n = encrypt(t, PyBytes_AS_STRING(bytes) + b->offset, size_min(left, TLS_WRITE_SLICE));
        if (n < 0)
            break;
        backlog_take(b, (size_t)n);
        made += (size_t)n;
    }
    if (n == CIPHER_FAILED || pytls_drain(t) < 0)
        return -1;
    if (b->count == 0 || n == CIPHER_AGAIN)
        return 0;
    int gone = is_below_gone(t);
    if (gone > 0)
        pytls_backlog_clear(t);
    return gone == 0 ? 1 : -(gone < 0);
}

int
pytls_push(struct pytls *t)
{
    if (t->is_pushing)
        return 0; /* the one below on the stack goes on */
    t->is_pushing = true;
    int more = 1;
    while (more > 0 && t->backlog.count > 0 && may_push(t))
        more = push_slice(t);
    if (more >= 0 && t->may_have_output)
        more = pytls_drain(t);
    t->is_pushing = false;
    return more < 0 ? -1 : pytls_control_app(t);
}

/* The n bytes at p, of data, while there is no backlog; what does not go out at once becomes one. */
static int
write_now(struct pytls *t, PyObject *data, const char *p, size_t n)
{
    size_t done = 0;
    int err = 0;
    t->is_pushing = true;
    while (done < n && may_push(t)) {
        Py_ssize_t got = encrypt(t, p + done, size_min(n - done, TLS_WRITE_SLICE));
        if (got == CIPHER_FAILED || pytls_drain(t) < 0)
            err = -1;
        if (got < 0 || err < 0)
            break;
        done += (size_t)got;
        int gone = done < n ? is_below_gone(t) : 0;
        if (UNLIKELY(gone != 0)) {
            err = gone < 0 ? -1 : 0;
            done = n; /* to nobody */
        }
    }
    t->is_pushing = false;
    if (LIKELY(err < 0 || done == n))
        return err;
    /* What was written meanwhile, by a callback, comes after this: it went to the backlog too. */
    if (t->backlog.count == 0 && PyBytes_CheckExact(data))
        return pytls_backlog_add(t, data, done);
    PY_OWNED PyObject *rest = PyBytes_FromStringAndSize(p + done, (Py_ssize_t)(n - done));
    return rest != NULL ? pytls_backlog_add(t, rest, 0) : -1;
}

/* Is it too late to write? It is told of where that goes on. 1, 0, or -1 with an exception set. */
static int
is_too_late(struct pytls *t)
{
    if (LIKELY(t->phase == TLS_WRAPPED || t->phase == TLS_HANDSHAKE))
        return 0;
    if (t->lost_writes++ < TLS_LOST_WRITES_SAID)
        return 1;
    PY_OWNED PyObject *text = PyUnicode_FromString("SSL connection is closed");
    if (text == NULL || pytls_call(t->names->logger, t->names->s_warning, text) < 0)
        return -1;
    return 1;
}

int
pytls_write(struct pytls *t, PyObject *data)
{
    Py_buffer view = { .obj = NULL };
    int late = is_too_late(t);
    if (UNLIKELY(late != 0))
        return late < 0 ? -1 : 0;
    if (LIKELY(PyBytes_CheckExact(data))) {
        view.buf = PyBytes_AS_STRING(data);
        view.len = PyBytes_GET_SIZE(data);
    } else if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    int err = 0;
    if (LIKELY(t->backlog.count == 0 && !t->is_pushing && may_push(t))) {
        err = write_now(t, data, view.buf, (size_t)view.len);
    } else if (view.len > 0) {
        PY_OWNED PyObject *bytes = PyBytes_CheckExact(data)
                                       ? Py_NewRef(data)
                                       : PyBytes_FromStringAndSize(view.buf, view.len);
        err = bytes != NULL ? pytls_backlog_add(t, bytes, 0) : -1;
    }
    if (view.obj != NULL)
        PyBuffer_Release(&view);
    if (UNLIKELY(err < 0 && pytls_fail(t, "Fatal error on SSL protocol") < 0))
        return -1;
    return pytls_control_app(t);
}

int
pytls_write_many(struct pytls *t, PyObject *iterable)
{
    PY_OWNED PyObject *list = PySequence_List(iterable);
    if (list == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        if (PyBytes_CheckExact(PyList_GET_ITEM(list, i)))
            continue;
        PyObject *copy = PyBytes_FromObject(PyList_GET_ITEM(list, i));
        if (copy == NULL || PyList_SetItem(list, i, copy) < 0)
            return -1;
    }
    int late = is_too_late(t);
    if (late != 0)
        return late < 0 ? -1 : 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        PyObject *bytes = PyList_GET_ITEM(list, i);
        if (PyBytes_GET_SIZE(bytes) > 0 && pytls_backlog_add(t, bytes, 0) < 0)
            return -1;
    }
    return pytls_push(t) == 0 ? 0 : pytls_fail(t, "Fatal error on SSL protocol");
}

/* --- flow control --------------------------------------------------------------------------------- */

/* bio.pending, or -1 with an exception set. */
static Py_ssize_t
bio_pending(struct pytls *t, PyObject *bio)
{
    PY_OWNED PyObject *n = PyObject_GetAttr(bio, t->names->s_pending);
    return n != NULL ? PyLong_AsSsize_t(n) : -1;
}

Py_ssize_t
pytls_read_size(struct pytls *t)
{
    return bio_pending(t, t->incoming);
}

Py_ssize_t
pytls_write_size(struct pytls *t)
{
    Py_ssize_t in_bio = t->may_have_output ? bio_pending(t, t->outgoing) : 0;
    return in_bio >= 0 ? in_bio + (Py_ssize_t)t->backlog.bytes : -1;
}

/* app.pause_writing() or resume_writing(). What they raise is told of by the loop's handler. */
static int
tell_app(struct pytls *t, PyObject *method, const char *failed)
{
    PY_OWNED PyObject *app = Py_XNewRef(t->app);
    if (app == NULL || pytls_call(app, method, NULL) == 0)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    struct pytls_names *names = t->names;
    PY_OWNED PyObject *about = Py_BuildValue(
        "{OsOOOOOO}", names->s_message, failed, names->s_exception, exception, names->s_transport,
        t->transport != NULL ? t->transport : Py_None, names->s_protocol, (PyObject *)t);
    return about != NULL ? pytls_call(t->loop, names->s_call_exception_handler, about) : -1;
}

int
pytls_control_app(struct pytls *t)
{
    Py_ssize_t size = 0;
    if (UNLIKELY(t->may_have_output || t->backlog.count > 0)) {
        size = pytls_write_size(t);
        if (size < 0)
            return -1;
    }
    if (UNLIKELY(!t->is_app_paused && size > 0 && size >= t->write_high)) {
        t->is_app_paused = true;
        return tell_app(t, t->names->s_pause_writing, "protocol.pause_writing() failed");
    }
    if (UNLIKELY(t->is_app_paused && size <= t->write_low)) {
        t->is_app_paused = false;
        return tell_app(t, t->names->s_resume_writing, "protocol.resume_writing() failed");
    }
    return 0;
}

int
pytls_control_below(struct pytls *t)
{
    /* Without a whole record there is less than one. */
    if (LIKELY(t->records.count == 0 && !t->is_below_paused && t->read_high > TLS_RECORD_MAX))
        return 0;
    PY_OWNED PyObject *below = Py_XNewRef(t->below);
    if (below == NULL)
        return 0;
    Py_ssize_t size = pytls_read_size(t);
    if (size < 0)
        return -1;
    if (!t->is_below_paused && size > 0 && size >= t->read_high) {
        t->is_below_paused = true;
        return pytls_call(below, t->names->s_pause_reading, NULL);
    }
    if (t->is_below_paused && size <= t->read_low) {
        t->is_below_paused = false;
        return pytls_call(below, t->names->s_resume_reading, NULL);
    }
    return 0;
}
