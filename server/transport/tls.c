/* tls.c: the life of a TLS connection of Python's: handshake, what the transport below says, shutdown,
 * and how it ends when something fails. asyncio's SSLProtocol in C; where the two differ is said below.
 *
 *  - An alert that tells the other side why a handshake failed is sent before the connection is closed.
 *  - What was written is all sent before close_notify is, also where the transport below had enough.
 *  - After close() nothing more is delivered; what comes is read over, so it spoils no shutdown.
 *  - A connection that is lost in the handshake wakes its waiter with an error always.
 *
 * Runs on:  the loop's thread, GIL held.
 * Leaves to others:  bytes and flow control (tls_pipe.c), the application's transport (tls_transport.c). */
#include "transport/tls_private.h"

/* --- small parts -------------------------------------------------------------------------------- */

#define TO(phase) (1u << (phase))

static void
set_phase(struct pytls *t, enum pytls_phase phase)
{
    static const unsigned next[] = {
        [TLS_UNWRAPPED] = TO(TLS_HANDSHAKE),
        [TLS_HANDSHAKE] = TO(TLS_WRAPPED),
        [TLS_WRAPPED] = TO(TLS_FLUSHING),
        [TLS_FLUSHING] = TO(TLS_SHUTDOWN),
        [TLS_SHUTDOWN] = 0,
    };
    ASSERT(phase == TLS_UNWRAPPED || (next[t->phase] & TO(phase)));
    t->phase = phase;
}

int
pytls_call(PyObject *object, PyObject *name, PyObject *argument)
{
    PY_OWNED PyObject *done = argument != NULL ? PyObject_CallMethodOneArg(object, name, argument)
                                               : PyObject_CallMethodNoArgs(object, name);
    return done != NULL ? 0 : -1;
}

/* Is the loop in debug mode? 1, 0, -1 with an exception set. */
static int
is_debug(struct pytls *t)
{
    PY_OWNED PyObject *debug = PyObject_CallMethodNoArgs(t->loop, t->names->s_get_debug);
    return debug != NULL ? PyObject_IsTrue(debug) : -1;
}

/* logger.debug(format % (self, more...)); exception: borrowed, or NULL. Steals more, which may be NULL for "%r" alone. */
static int
say_debug(struct pytls *t, const char *format, PyObject *more, PyObject *exception)
{
    PY_OWNED PyObject *owned = more;
    PY_OWNED PyObject *method = PyObject_GetAttr(t->names->logger, t->names->s_debug);
    PY_OWNED PyObject *args = more != NULL ? Py_BuildValue("(sOO)", format, (PyObject *)t, more)
                                           : Py_BuildValue("(sO)", format, (PyObject *)t);
    PY_OWNED PyObject *kwargs =
        exception != NULL ? Py_BuildValue("{OO}", t->names->s_exc_info, exception) : NULL;
    if (method == NULL || args == NULL || (exception != NULL && kwargs == NULL))
        return -1;
    PY_OWNED PyObject *done = PyObject_Call(method, args, kwargs);
    return done != NULL ? 0 : -1;
}

/* loop.time(); -1 with an exception set */
static double
loop_time(struct pytls *t)
{
    PY_OWNED PyObject *now = PyObject_CallMethodNoArgs(t->loop, t->names->s_time);
    return now != NULL ? PyFloat_AsDouble(now) : -1;
}

/* loop.call_soon(function, argument or nothing) */
static int
call_soon(struct pytls *t, PyObject *function, PyObject *argument)
{
    PyObject *args[] = { t->loop, function, argument };
    PY_OWNED PyObject *handle =
        PyObject_VectorcallMethod(t->names->s_call_soon, args, argument != NULL ? 3 : 2, NULL);
    return handle != NULL ? 0 : -1;
}

/* loop.call_later(seconds, self.method): new. */
static PyObject *
call_later(struct pytls *t, PyObject *seconds, PyObject *method)
{
    PY_OWNED PyObject *function = PyObject_GetAttr((PyObject *)t, method);
    if (function == NULL)
        return NULL;
    PyObject *args[] = { t->loop, seconds, function };
    return PyObject_VectorcallMethod(t->names->s_call_later, args, 3, NULL);
}

/* *timer is cancelled and dropped. */
static int
cancel(struct pytls *t, PyObject **timer)
{
    PY_OWNED PyObject *handle = py_take(timer);
    return handle != NULL ? pytls_call(handle, t->names->s_cancel, NULL) : 0;
}

/* exception: borrowed, NULL for a result. */
static int
wake_waiter(struct pytls *t, PyObject *exception)
{
    PY_OWNED PyObject *waiter = py_take(&t->waiter);
    if (waiter == NULL)
        return 0;
    PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(waiter, t->names->s_done);
    int is_done = done != NULL ? PyObject_IsTrue(done) : -1;
    if (is_done != 0)
        return is_done < 0 ? -1 : 0;
    return exception != NULL ? pytls_call(waiter, t->names->s_set_exception, exception)
                             : pytls_call(waiter, t->names->s_set_result, Py_None);
}

void
pytls_set_app(struct pytls *t, PyObject *app)
{
    enum pytls_app kind = APP_PLAIN;
    if (tls_check(app)) {
        kind = APP_TLS;
    } else {
        int is_buffered = PyObject_IsInstance(app, t->names->buffered_protocol);
        if (is_buffered > 0)
            kind = APP_BUFFERED;
        else if (is_buffered < 0)
            PyErr_Clear(); /* a __class__ that raises: not one of asyncio's */
    }
    t->app_kind = kind; /* first: the old one's end may run Python, and deliver */
    Py_XSETREF(t->app, Py_NewRef(app));
}

PyObject *
pytls_extra(struct pytls *t, PyObject *name, PyObject *fallback)
{
    const struct pytls_names *names = t->names;
    int is_context = PyObject_RichCompareBool(name, names->s_sslcontext, Py_EQ);
    if (is_context != 0)
        return is_context > 0 ? Py_NewRef(t->context) : NULL;
    if (t->is_established) {
        if (PyObject_RichCompareBool(name, names->s_ssl_object, Py_EQ) == 1)
            return Py_NewRef(t->sslobj);
        /* Asked for by few, and a certificate is long: not taken apart before that. */
        const struct {
            PyObject *name, *method, **kept;
        } known[] = {
            { names->s_peercert, names->s_getpeercert, &t->peercert },
            { names->s_cipher, names->s_cipher, &t->cipher },
            { names->s_compression, names->s_compression, &t->compression },
        };
        for (size_t i = 0; i < ARRAY_LEN(known); i++) {
            if (PyObject_RichCompareBool(name, known[i].name, Py_EQ) != 1)
                continue;
            if (*known[i].kept == NULL) {
                PyObject *value = PyObject_CallMethodNoArgs(t->sslobj, known[i].method);
                if (value == NULL)
                    return NULL;
                Py_XSETREF(*known[i].kept, value);
            }
            return Py_NewRef(*known[i].kept);
        }
    }
    if (t->below == NULL)
        return Py_NewRef(fallback);
    PyObject *args[] = { t->below, name, fallback };
    return PyObject_VectorcallMethod(names->s_get_extra_info, args, 3, NULL);
}

/* --- the end -------------------------------------------------------------------------------------- */

/* below._force_close(exception), or what foreign transports have instead: abort(). */
static int
force_close(struct pytls *t, PyObject *exception)
{
    PY_OWNED PyObject *below = Py_XNewRef(t->below);
    PY_OWNED PyObject *method = NULL;
    if (below == NULL)
        return 0;
    if (PyObject_GetOptionalAttr(below, t->names->s__force_close, &method) < 0)
        return -1;
    if (method == NULL)
        return pytls_call(below, t->names->s_abort, NULL);
    PY_OWNED PyObject *done = PyObject_CallOneArg(method, exception != NULL ? exception : Py_None);
    return done != NULL ? 0 : -1;
}

int
pytls_fatal(struct pytls *t, PyObject *exception, const char *message)
{
    PY_OWNED PyObject *below = t->below != NULL ? Py_NewRef(t->below) : Py_NewRef(Py_None);
    if (force_close(t, exception) < 0)
        return -1;
    if (PyErr_GivenExceptionMatches(exception, PyExc_OSError)) {
        int debug = is_debug(t);
        if (debug <= 0)
            return debug;
        PyObject *text = PyUnicode_FromString(message);
        return text != NULL ? say_debug(t, "%r: %s", text, exception) : -1;
    }
    const struct pytls_names *names = t->names;
    if (PyErr_GivenExceptionMatches(exception, names->cancelled_error))
        return 0;
    PY_OWNED PyObject *about =
        Py_BuildValue("{OsOOOOOO}", names->s_message, message, names->s_exception, exception,
                      names->s_transport, below, names->s_protocol, (PyObject *)t);
    return about != NULL ? pytls_call(t->loop, names->s_call_exception_handler, about) : -1;
}

int
pytls_fail(struct pytls *t, const char *message)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    return pytls_fatal(t, exception, message);
}

int
pytls_abort(struct pytls *t, PyObject *exception)
{
    t->is_closed_by_app = true;
    set_phase(t, TLS_UNWRAPPED);
    return force_close(t, exception);
}

/* app.eof_received(), once. */
static int
tell_eof(struct pytls *t)
{
    PY_OWNED PyObject *app = Py_XNewRef(t->app);
    if (t->told != TOLD_MADE || app == NULL)
        return 0;
    t->told = TOLD_EOF;
    PY_OWNED PyObject *kept = PyObject_CallMethodNoArgs(app, t->names->s_eof_received);
    int is_kept = kept != NULL ? PyObject_IsTrue(kept) : -1;
    if (is_kept > 0) {
        PY_OWNED PyObject *text =
            PyUnicode_FromString("returning true from eof_received() has no effect when using ssl");
        return text != NULL ? pytls_call(t->names->logger, t->names->s_warning, text) : -1;
    }
    if (is_kept == 0)
        return 0;
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit))
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    return pytls_fatal(t, exception, "Error calling eof_received()");
}

/* --- shutdown ------------------------------------------------------------------------------------- */

/* Our close_notify was made: once it is handed over, the transport below is closed. */
static int
finish(struct pytls *t)
{
    if (t->is_close_asked || (t->may_have_output && t->is_writing_paused) || t->below == NULL)
        return 0;
    t->is_close_asked = true;
    if (cancel(t, &t->shutdown_timer) < 0)
        return -1;
    PY_OWNED PyObject *close = PyObject_GetAttr(t->below, t->names->s_close);
    return close != NULL ? call_soon(t, close, NULL) : -1;
}

/* SHUTDOWN: close_notify there and back. Whoever has closed without one, as asyncio does too, gets none. */
static int
shut_down(struct pytls *t)
{
    if (t->is_done)
        return finish(t);
    if (pytls_discard(t) < 0)
        return -1;
    if (!t->is_eof) {
        PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(t->sslobj, t->names->s_unwrap);
        t->may_have_output = true;
        if (done == NULL)
            return pytls_is_again(t) ? pytls_drain(t) : -1;
    }
    t->is_done = true;
    if ((t->may_have_output && pytls_drain(t) < 0) || tell_eof(t) < 0)
        return -1;
    return finish(t);
}

static int
flush(struct pytls *t)
{
    if (t->phase == TLS_FLUSHING) {
        if (pytls_deliver(t) < 0)
            return -1;
        /* The transport below has come to its end, and the application has not read to it. */
        if (t->is_eof && t->is_reading_paused && !t->is_closed_by_app && t->told == TOLD_MADE)
            return pytls_control_below(t);
        if ((t->is_closed_by_app || t->told != TOLD_MADE) && pytls_discard(t) < 0)
            return -1;
        if (pytls_push(t) < 0 || pytls_control_below(t) < 0)
            return -1;
        /* Without an answer from the other side the rest cannot be sent any more, where it was not accepted. */
        bool is_stuck = t->is_eof && !t->is_writing_paused;
        if ((t->backlog.count > 0 && !is_stuck) || t->phase != TLS_FLUSHING)
            return 0;
        set_phase(t, TLS_SHUTDOWN);
    }
    return t->phase == TLS_SHUTDOWN ? shut_down(t) : 0;
}

int
pytls_flush(struct pytls *t)
{
    if (t->is_flushing || t->is_reading)
        return 0; /* comes to it when the callback has returned */
    t->is_flushing = true;
    int err = flush(t);
    t->is_flushing = false;
    if (err == 0)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    if (cancel(t, &t->shutdown_timer) < 0)
        return -1;
    return pytls_fatal(t, exception, "Fatal error on transport");
}

/* WRAPPED becomes FLUSHING, and that begins. */
static int
start_shutdown(struct pytls *t)
{
    if (t->transport != NULL)
        pytls_transport_close(t->transport);
    if (t->phase == TLS_WRAPPED)
        set_phase(t, TLS_FLUSHING);
    if (t->shutdown_timer == NULL) {
        t->shutdown_timer = call_later(t, t->shutdown_timeout, t->names->s__check_shutdown_timeout);
        if (t->shutdown_timer == NULL)
            return -1;
    }
    return pytls_flush(t);
}

int
pytls_close_notified(struct pytls *t)
{
    if (tell_eof(t) < 0)
        return -1;
    return t->phase == TLS_WRAPPED ? start_shutdown(t) : 0;
}

int
pytls_close(struct pytls *t)
{
    t->is_closed_by_app = true; /* also for connection_made(), where that comes only now */
    if (t->phase == TLS_HANDSHAKE)
        return pytls_abort(t, NULL);
    if (t->phase == TLS_UNWRAPPED || t->is_close_asked)
        return 0;
    return start_shutdown(t);
}

/* --- handshake ------------------------------------------------------------------------------------- */

/* exception: borrowed; NULL: it has succeeded. */
static int
handshake_failed(struct pytls *t, PyObject *exception)
{
    int is_certificate = PyErr_GivenExceptionMatches(exception, t->names->certificate_error);
    set_phase(t, TLS_UNWRAPPED);
    /* The waiter hears of it whatever the rest comes to. */
    int err = pytls_fatal(t, exception,
                          is_certificate ? "SSL handshake failed on verifying the certificate"
                                         : "SSL handshake failed");
    PY_OWNED PyObject *pending = err < 0 ? PyErr_GetRaisedException() : NULL;
    if (wake_waiter(t, exception) < 0) {
        if (pending == NULL)
            return -1;
        PyErr_Clear();
    }
    if (pending != NULL)
        PyErr_SetRaisedException(py_take(&pending));
    return err;
}

static int
handshake_log(struct pytls *t)
{
    int debug = is_debug(t);
    if (debug <= 0 || t->handshake_began == 0)
        return debug < 0 ? -1 : 0;
    double now = loop_time(t);
    if (now == -1 && PyErr_Occurred())
        return -1;
    PyObject *ms = PyFloat_FromDouble((now - t->handshake_began) * 1e3);
    return ms != NULL ? say_debug(t, "%r: SSL handshake took %.1f ms", ms, NULL) : -1;
}

static int
handshake_succeeded(struct pytls *t)
{
    set_phase(t, TLS_WRAPPED);
    /* A class of the application's own may want to look at the certificate now, and refuse. */
    if (!Py_IS_TYPE(t->sslobj, (PyTypeObject *)t->names->ssl_object_type) &&
        (t->peercert = PyObject_CallMethodNoArgs(t->sslobj, t->names->s_getpeercert)) == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PY_OWNED PyObject *exception = PyErr_GetRaisedException();
        return handshake_failed(t, exception);
    }
    if (handshake_log(t) < 0 || pytls_records_settle(t) < 0)
        return -1;
    t->is_established = true;
    if (t->told == TOLD_NOTHING) {
        t->told = TOLD_MADE;
        PY_OWNED PyObject *app = Py_XNewRef(t->app);
        PY_OWNED PyObject *transport = Py_XNewRef(t->transport);
        if (app != NULL && transport != NULL &&
            pytls_call(app, t->names->s_connection_made, transport) < 0)
            return -1;
    }
    if (wake_waiter(t, NULL) < 0)
        return -1;
    return pytls_read(t);
}

/* The other side hears why: an alert that lies in the BIO goes out before the connection is closed with an exception, which
 * drops what waits. Who asks how much waits has it sent. */
static int
send_alert(struct pytls *t)
{
    if (t->may_have_output && pytls_drain(t) < 0)
        return -1;
    PY_OWNED PyObject *below = Py_XNewRef(t->below);
    return below != NULL && t->below_kind != BELOW_FOREIGN
               ? pytls_call(below, t->names->s_get_write_buffer_size, NULL)
               : 0;
}

static int
handshake(struct pytls *t)
{
    PY_OWNED PyObject *done = PyObject_CallMethodNoArgs(t->sslobj, t->names->s_do_handshake);
    t->may_have_output = true;
    if (done == NULL && pytls_is_again(t)) {
        if (pytls_drain(t) == 0)
            return 0;
    } else if (done != NULL) {
        return cancel(t, &t->handshake_timer) < 0 ? -1 : handshake_succeeded(t);
    }
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    if (send_alert(t) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return -1;
        PyErr_Clear(); /* the first one says more */
    }
    return cancel(t, &t->handshake_timer) < 0 ? -1 : handshake_failed(t, exception);
}

/* --- what the transport below says ------------------------------------------------------------------ */

static enum pytls_below
kind_of_below(struct pytls *t, PyObject *below)
{
    if (stream_check(below))
        return BELOW_STREAM;
    return Py_IS_TYPE(below, t->names->transport_type) ? BELOW_TLS : BELOW_FOREIGN;
}

static PyObject *
meth_connection_made(PyObject *self, PyObject *below)
{
    struct pytls *t = pytls_of(self);
    if (t->below != NULL || t->phase != TLS_UNWRAPPED || t->told == TOLD_LOST) {
        PyErr_SetString(PyExc_RuntimeError, "connection_made() was called twice");
        return NULL;
    }
    t->below = Py_NewRef(below);
    t->below_kind = kind_of_below(t, below);
    if (t->is_closed_by_app) /* before it began */
        return pytls_abort(t, NULL) == 0 ? Py_NewRef(Py_None) : NULL;
    int debug = is_debug(t);
    if (debug < 0 || (debug && say_debug(t, "%r starts SSL handshake", NULL, NULL) < 0))
        return NULL;
    if (debug && (t->handshake_began = loop_time(t)) == -1 && PyErr_Occurred())
        return NULL;
    t->handshake_timer = call_later(t, t->handshake_timeout, t->names->s__check_handshake_timeout);
    if (t->handshake_timer == NULL)
        return NULL;
    set_phase(t, TLS_HANDSHAKE);
    return handshake(t) == 0 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
meth_connection_lost(PyObject *self, PyObject *exception)
{
    struct pytls *t = pytls_of(self);
    bool is_told = t->phase != TLS_HANDSHAKE && (t->told == TOLD_MADE || t->told == TOLD_EOF);
    PY_OWNED PyObject *app = py_take(&t->app);
    PY_OWNED PyObject *transport = py_take(&t->transport);
    PY_OWNED PyObject *below = py_take(&t->below);
    PY_OWNED PyObject *error = exception != Py_None ? Py_NewRef(exception) : NULL;
    int err = 0;

    pytls_backlog_clear(t);
    t->may_have_output = false;
    t->lost_writes++;
    set_phase(t, TLS_UNWRAPPED);
    if (transport != NULL)
        pytls_transport_close(transport);
    if (is_told && app != NULL) {
        PY_OWNED PyObject *lost = PyObject_GetAttr(app, t->names->s_connection_lost);
        err = lost != NULL ? call_soon(t, lost, exception) : -1;
    }
    t->told = TOLD_LOST;
    /* The rest is done also where that has failed. */
    PY_OWNED PyObject *pending = err < 0 ? PyErr_GetRaisedException() : NULL;
    if (t->waiter != NULL && error == NULL)
        error = PyObject_CallFunction(PyExc_ConnectionAbortedError, "s",
                                      "the connection was closed during the TLS handshake");
    if ((t->waiter != NULL && error == NULL) || wake_waiter(t, error) < 0 ||
        cancel(t, &t->shutdown_timer) < 0 || cancel(t, &t->handshake_timer) < 0)
        err = -1;
    if (pending != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(py_take(&pending));
    }
    return err == 0 ? Py_NewRef(Py_None) : NULL;
}

static void tls_dealloc(PyObject *self);

/* There are no subclasses, and as many types as interpreters have the module. */
bool
tls_check(PyObject *protocol)
{
    return Py_TYPE(protocol)->tp_dealloc == tls_dealloc;
}

/* What was fed last is to be looked at. */
static int
step(struct pytls *t)
{
    switch (t->phase) {
    case TLS_WRAPPED:
        return pytls_read(t);
    case TLS_HANDSHAKE:
        return handshake(t);
    case TLS_FLUSHING:
    case TLS_SHUTDOWN:
        return pytls_flush(t);
    case TLS_UNWRAPPED:
        break;
    }
    return 0;
}

int
tls_received(PyObject *protocol, const char *p, size_t n)
{
    struct pytls *t = pytls_of(protocol);
    while (n > 0 && t->phase != TLS_UNWRAPPED) {
        size_t take = size_min(n, TLS_READ_MAX);
        if (pytls_feed(t, p, take) < 0 || step(t) < 0)
            return -1;
        p += take;
        n -= take;
    }
    return 0;
}

static PyObject *
meth_get_buffer(PyObject *self, PyObject *hint)
{
    struct pytls *t = pytls_of(self);
    (void)hint;
    if (t->buffer == NULL &&
        (t->buffer = PyByteArray_FromStringAndSize(NULL, TLS_BUFFER_SIZE)) == NULL)
        return NULL;
    if (t->buffer_view == NULL && (t->buffer_view = PyMemoryView_FromObject(t->buffer)) == NULL)
        return NULL;
    return Py_NewRef(t->buffer_view);
}

static PyObject *
meth_buffer_updated(PyObject *self, PyObject *count)
{
    struct pytls *t = pytls_of(self);
    Py_ssize_t n = PyLong_AsSsize_t(count);
    if (n == -1 && PyErr_Occurred())
        return NULL;
    if (t->buffer == NULL || n < 0 || n > PyByteArray_GET_SIZE(t->buffer)) {
        PyErr_SetString(PyExc_ValueError, "buffer_updated(): more than get_buffer() gave");
        return NULL;
    }
    PY_OWNED PyObject *buffer = Py_NewRef(t->buffer);
    if (tls_received(self, PyByteArray_AS_STRING(buffer), (size_t)n) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* eof_received() -> whether the transport below is to stay open for what is yet to be sent. */
static PyObject *
meth_eof_received(PyObject *self, PyObject *unused)
{
    struct pytls *t = pytls_of(self);
    int err = 0;
    (void)unused;
    t->is_eof = true;
    int debug = is_debug(t);
    if (debug < 0 || (debug && say_debug(t, "%r received EOF", NULL, NULL) < 0))
        return NULL;
    if (t->phase == TLS_HANDSHAKE) {
        PY_OWNED PyObject *reset =
            PyObject_CallFunction(PyExc_ConnectionResetError, "s",
                                  "the other side closed the connection during the TLS handshake");
        err =
            reset != NULL && cancel(t, &t->handshake_timer) == 0 ? handshake_failed(t, reset) : -1;
    } else if (t->phase == TLS_WRAPPED) {
        set_phase(t, TLS_FLUSHING);
        err = pytls_flush(t);
    } else if (t->phase == TLS_FLUSHING || t->phase == TLS_SHUTDOWN) {
        err = pytls_flush(t);
    }
    if (err < 0) {
        PyObject *pending = PyErr_GetRaisedException();
        PY_OWNED PyObject *below = Py_XNewRef(t->below);
        if (below != NULL && pytls_call(below, t->names->s_close, NULL) < 0)
            PyErr_Clear();
        PyErr_SetRaisedException(pending);
        return NULL;
    }
    bool is_kept = (t->phase == TLS_FLUSHING || t->phase == TLS_SHUTDOWN) && !t->is_close_asked;
    return PyBool_FromLong(is_kept);
}

static PyObject *
meth_pause_writing(PyObject *self, PyObject *unused)
{
    (void)unused;
    pytls_of(self)->is_writing_paused = true;
    Py_RETURN_NONE;
}

static PyObject *
meth_resume_writing(PyObject *self, PyObject *unused)
{
    struct pytls *t = pytls_of(self);
    (void)unused;
    t->is_writing_paused = false;
    if (t->phase == TLS_FLUSHING || t->phase == TLS_SHUTDOWN) {
        if (pytls_drain(t) < 0 || pytls_flush(t) < 0)
            return NULL;
    } else if (t->below != NULL && pytls_push(t) < 0 &&
               pytls_fail(t, "Fatal error on SSL protocol") < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* --- what the loop calls ---------------------------------------------------------------------------- */

static PyObject *
meth_resume(PyObject *self, PyObject *unused)
{
    struct pytls *t = pytls_of(self);
    (void)unused;
    if (t->phase != TLS_HANDSHAKE && step(t) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
meth_check_handshake_timeout(PyObject *self, PyObject *unused)
{
    struct pytls *t = pytls_of(self);
    (void)unused;
    Py_CLEAR(t->handshake_timer);
    if (t->phase != TLS_HANDSHAKE)
        Py_RETURN_NONE;
    PY_OWNED PyObject *text = PyUnicode_FromFormat(
        "SSL handshake is taking longer than %S seconds: aborting the connection",
        t->handshake_timeout);
    PY_OWNED PyObject *late =
        text != NULL ? PyObject_CallOneArg(PyExc_ConnectionAbortedError, text) : NULL;
    if (late == NULL || pytls_fatal(t, late, "Fatal error on transport") < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
meth_check_shutdown_timeout(PyObject *self, PyObject *unused)
{
    struct pytls *t = pytls_of(self);
    (void)unused;
    Py_CLEAR(t->shutdown_timer);
    if (t->phase != TLS_FLUSHING && t->phase != TLS_SHUTDOWN)
        Py_RETURN_NONE;
    PY_OWNED PyObject *late =
        PyObject_CallFunction(PyExc_TimeoutError, "s", "SSL shutdown timed out");
    if (late == NULL || force_close(t, late) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* _feed(data): received before this protocol was there, by the one that it takes over from. */
static PyObject *
meth_feed(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    int err = pytls_feed(pytls_of(self), view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return err == 0 ? Py_NewRef(Py_None) : NULL;
}

/* --- the type ----------------------------------------------------------------------------------------- */

/* object.name: new. */
static PyObject *
attr(PyObject *object, const char *name)
{
    return PyObject_GetAttrString(object, name);
}

/* Does the SSLObject have the class's own method of that name? 1, 0, -1 with an exception set. */
static int
has_own(struct pytls *t, const char *name)
{
    PY_OWNED PyObject *its = attr((PyObject *)Py_TYPE(t->sslobj), name);
    PY_OWNED PyObject *own = attr(t->names->ssl_object_type, name);
    return its == NULL || own == NULL ? -1 : its == own;
}

/* The methods to call: past SSLObject.read() and write(), which only pass on, where they are what they are. */
static int
find_methods(struct pytls *t)
{
    int is_inner = PyObject_TypeCheck(t->sslobj, (PyTypeObject *)t->names->ssl_object_type);
    if (is_inner && !Py_IS_TYPE(t->sslobj, (PyTypeObject *)t->names->ssl_object_type)) {
        is_inner = has_own(t, "read");
        if (is_inner > 0)
            is_inner = has_own(t, "write");
        if (is_inner < 0)
            return -1;
    }
    PY_OWNED PyObject *inner = is_inner ? PyObject_GetAttr(t->sslobj, t->names->s__sslobj) : NULL;
    if (is_inner && inner == NULL)
        return -1;
    PyObject *ssl = is_inner ? inner : t->sslobj;
    t->is_inner = is_inner;
    t->fn_read = PyObject_GetAttr(ssl, t->names->s_read);
    t->fn_write = PyObject_GetAttr(ssl, t->names->s_write);
    t->fn_feed = PyObject_GetAttr(t->incoming, t->names->s_write);
    t->fn_drain = PyObject_GetAttr(t->outgoing, t->names->s_read);
    return t->fn_read != NULL && t->fn_write != NULL && t->fn_feed != NULL && t->fn_drain != NULL
               ? 0
               : -1;
}

/* context.wrap_bio(incoming, outgoing, server_side=, server_hostname=) */
static int
wrap(struct pytls *t, PyObject *server_hostname)
{
    t->incoming = PyObject_CallNoArgs(t->names->memory_bio);
    t->outgoing = PyObject_CallNoArgs(t->names->memory_bio);
    PY_OWNED PyObject *kwnames =
        PyTuple_Pack(2, t->names->s_server_side, t->names->s_server_hostname);
    if (t->incoming == NULL || t->outgoing == NULL || kwnames == NULL)
        return -1;
    PyObject *args[] = { t->context, t->incoming, t->outgoing, t->is_server ? Py_True : Py_False,
                         server_hostname };
    t->sslobj = PyObject_VectorcallMethod(t->names->s_wrap_bio, args, 3, kwnames);
    return t->sslobj != NULL ? find_methods(t) : -1;
}

static PyObject *
tls_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = { "loop",
                                "app_protocol",
                                "sslcontext",
                                "waiter",
                                "server_side",
                                "server_hostname",
                                "call_connection_made",
                                "ssl_handshake_timeout",
                                "ssl_shutdown_timeout",
                                NULL };
    PyObject *loop, *app, *context, *waiter, *hostname, *handshake_timeout, *shutdown_timeout;
    int is_server, is_made_told;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOpOpOO:SSLProtocol", keywords, &loop, &app,
                                     &context, &waiter, &is_server, &hostname, &is_made_told,
                                     &handshake_timeout, &shutdown_timeout))
        return NULL;
    PyObject *module = PyType_GetModule(type); /* borrowed */
    PY_OWNED PyObject *names = module != NULL ? attr(module, "_tls_names") : NULL;
    if (names == NULL)
        return NULL;
    struct pytls *t = (struct pytls *)type->tp_alloc(type, 0);
    if (t == NULL)
        return NULL;
    PY_OWNED PyObject *self = (PyObject *)t;
    t->names = (struct pytls_names *)py_take(&names);
    t->loop = Py_NewRef(loop);
    t->waiter = waiter != Py_None ? Py_NewRef(waiter) : NULL;
    t->context = Py_NewRef(context);
    t->handshake_timeout = Py_NewRef(handshake_timeout);
    t->shutdown_timeout = Py_NewRef(shutdown_timeout);
    t->is_server = is_server;
    t->told = is_made_told ? TOLD_NOTHING : TOLD_MADE;
    t->read_high = TLS_READ_HIGH;
    t->read_low = TLS_READ_HIGH / 4;
    t->write_high = TLS_WRITE_HIGH;
    t->write_low = TLS_WRITE_HIGH / 4;
    live.tls++;
    pytls_set_app(t, app);
    int has_name = PyObject_IsTrue(hostname);
    if (has_name < 0 || wrap(t, has_name && !is_server ? hostname : Py_None) < 0)
        return NULL;
    t->transport = pytls_transport_new(t);
    return t->transport != NULL ? py_take(&self) : NULL;
}

static int
tls_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pytls *t = pytls_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->names);
    Py_VISIT(t->loop);
    Py_VISIT(t->app);
    Py_VISIT(t->below);
    Py_VISIT(t->transport);
    Py_VISIT(t->waiter);
    Py_VISIT(t->context);
    Py_VISIT(t->sslobj);
    Py_VISIT(t->incoming);
    Py_VISIT(t->outgoing);
    Py_VISIT(t->fn_feed);
    Py_VISIT(t->fn_read);
    Py_VISIT(t->fn_write);
    Py_VISIT(t->fn_drain);
    Py_VISIT(t->handshake_timer);
    Py_VISIT(t->shutdown_timer);
    Py_VISIT(t->handshake_timeout);
    Py_VISIT(t->shutdown_timeout);
    Py_VISIT(t->peercert);
    Py_VISIT(t->cipher);
    Py_VISIT(t->compression);
    Py_VISIT(t->buffer);
    Py_VISIT(t->buffer_view);
    return 0;
}

/* names stays: methods may be called on what the collector has cleared. */
static int
tls_clear(PyObject *self)
{
    struct pytls *t = pytls_of(self);
    Py_CLEAR(t->app);
    Py_CLEAR(t->below);
    Py_CLEAR(t->transport);
    Py_CLEAR(t->waiter);
    Py_CLEAR(t->handshake_timer);
    Py_CLEAR(t->shutdown_timer);
    Py_CLEAR(t->peercert);
    Py_CLEAR(t->buffer_view);
    Py_CLEAR(t->buffer);
    pytls_backlog_clear(t);
    return 0;
}

static void
tls_dealloc(PyObject *self)
{
    struct pytls *t = pytls_of(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (t->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    tls_clear(self);
    if (t->loop != NULL)
        live.tls--;
    Py_CLEAR(t->fn_feed);
    Py_CLEAR(t->fn_read);
    Py_CLEAR(t->fn_write);
    Py_CLEAR(t->fn_drain);
    Py_CLEAR(t->sslobj);
    Py_CLEAR(t->incoming);
    Py_CLEAR(t->outgoing);
    Py_CLEAR(t->context);
    Py_CLEAR(t->handshake_timeout);
    Py_CLEAR(t->shutdown_timeout);
    Py_CLEAR(t->cipher);
    Py_CLEAR(t->compression);
    Py_CLEAR(t->loop);
    Py_CLEAR(t->names);
    type->tp_free(self);
    Py_DECREF(type);
}

/* The window, to the method of _ssl that was called with it: once, as others may run while it works. At any other time
 * there is nothing to see. */
static int
tls_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    struct pytls *t = pytls_of(self);
    void *p = t->window.p;
    t->window.p = NULL;
    if (p == NULL) {
        PyErr_SetString(PyExc_BufferError, "a TLS connection shows its buffers to ssl only");
        view->obj = NULL;
        return -1;
    }
    return PyBuffer_FillInfo(view, self, p, t->window.n, t->window.is_readonly, flags);
}

static PyObject *
get_app_transport(PyObject *self, void *closure)
{
    struct pytls *t = pytls_of(self);
    (void)closure;
    return t->transport != NULL ? Py_NewRef(t->transport) : Py_NewRef(Py_None);
}

static PyMethodDef tls_methods[] = {
    { "connection_made", meth_connection_made, METH_O, NULL },
    { "connection_lost", meth_connection_lost, METH_O, NULL },
    { "get_buffer", meth_get_buffer, METH_O, NULL },
    { "buffer_updated", meth_buffer_updated, METH_O, NULL },
    { "eof_received", meth_eof_received, METH_NOARGS, NULL },
    { "pause_writing", meth_pause_writing, METH_NOARGS, NULL },
    { "resume_writing", meth_resume_writing, METH_NOARGS, NULL },
    { "_resume", meth_resume, METH_NOARGS, NULL },
    { "_feed", meth_feed, METH_O, NULL },
    { "_check_handshake_timeout", meth_check_handshake_timeout, METH_NOARGS, NULL },
    { "_check_shutdown_timeout", meth_check_shutdown_timeout, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef tls_members[] = {
    { "_sslcontext", Py_T_OBJECT_EX, offsetof(struct pytls, context), Py_READONLY, NULL },
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pytls, weakrefs), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef tls_getset[] = {
    { "_app_transport", get_app_transport, NULL, "The application's transport.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot tls_slots[] = {
    { Py_tp_doc, "TLS as the protocol of the transport below; made by Loop." },
    { Py_tp_new, tls_new },
    { Py_tp_dealloc, tls_dealloc },
    { Py_tp_traverse, tls_traverse },
    { Py_tp_clear, tls_clear },
    { Py_tp_methods, tls_methods },
    { Py_tp_members, tls_members },
    { Py_tp_getset, tls_getset },
    { Py_bf_getbuffer, tls_getbuffer },
    { 0, NULL },
};

/* Not immutable: its base, asyncio.BufferedProtocol, is not. */
PyType_Spec pytls_spec = {
    .name = "_ringcorn.SSLProtocol",
    .basicsize = sizeof(struct pytls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = tls_slots,
};
