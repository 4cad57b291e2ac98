/* stream.c: the transport of a connected TCP or unix socket: the object, its life, what it is asked. stream.h has the picture.
 *
 * asyncio's own _SelectorSocketTransport is the model for every answer, text and order of calls.
 *
 * Runs on:  the loop's thread with the GIL, unless a function says otherwise. Finalisers run on any thread: they find a
 *           transport that is not attached, and touch neither the loop nor its io. */
#include "transport/stream.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>

/* --- the io ----------------------------------------------------------------------------------- */

static bool
wants_watch(const struct stream *t)
{
    return t->is_started && !t->is_closing && !t->is_read_done && !t->is_lent && !t->has_unread &&
           t->conn_lost == 0;
}

static bool
wants_room(const struct stream *t)
{
    return t->is_blocked && t->count > 0 && t->conn_lost == 0;
}

static bool
is_idle(const struct stream *t)
{
    return !t->watch.armed && !t->room.armed && !wants_watch(t) && !wants_room(t);
}

/* Phase 2: no Python. */
static void
on_watch(struct io_op *op, int res, unsigned flags)
{
    struct stream *t = CONTAINER_OF(op, struct stream, watch);
    bool has_failed = res < 0 && res != -ECANCELED; /* what it is, recv() says */
    if ((flags & IO_MORE) || has_failed)
        t->events |= STREAM_READ;
    if (has_failed || (res > 0 && (res & (POLLRDHUP | POLLHUP | POLLERR))))
        t->may_end = true;
    if (flags & IO_UNSURE)
        t->unsure_n++;
    else if (UNLIKELY(res > 0 && (res & POLLPRI)))
        t->has_urgent = true;
    loop_source_ready(t->loop, &t->source);
}

static void
on_room(struct io_op *op, int res, unsigned flags)
{
    struct stream *t = CONTAINER_OF(op, struct stream, room);
    (void)flags;
    if (res != -ECANCELED)
        t->events |= STREAM_ROOM;
    loop_source_ready(t->loop, &t->source);
}

static void
source_apply(struct loop_source *s, struct io *io)
{
    struct stream *t = CONTAINER_OF(s, struct stream, source);
    if (!wants_watch(t))
        io_cancel(io, &t->watch);
    else if (!t->watch.armed) /* a unix socket tells of room whenever the peer has read something */
        (t->is_tcp ? io_watch : io_watch_in)(io, &t->watch, t->fd);
    if (!wants_room(t))
        io_cancel(io, &t->room);
    else if (!t->room.armed)
        io_room(io, &t->room, t->fd);
    if (UNLIKELY(s->has_changed) && wants_room(t)) {
        /* Another thread has found no room; when it appeared before this, the watch, which is for both directions, was told, and nobody listened. */
        t->events |= STREAM_ROOM;
        loop_source_ready(t->loop, s);
    }
    if (is_idle(t))
        loop_source_ready(t->loop, s); /* to be detached */
}

static void
source_forget(struct loop_source *s)
{
    struct stream *t = CONTAINER_OF(s, struct stream, source);
    io_op_init(&t->watch, on_watch);
    io_op_init(&t->room, on_room);
}

void
stream_changed(struct stream *t)
{
    if (wants_watch(t) || wants_room(t))
        loop_source_attach(t->loop, &t->source);
    if (t->source.is_attached)
        loop_source_changed(t->loop, &t->source);
}

static int
source_run(struct loop_source *s)
{
    struct stream *t = CONTAINER_OF(s, struct stream, source);
    unsigned events = t->events;
    int err = 0;
    t->events = 0;
    if (events & STREAM_READ)
        err = stream_read_ready(t);
    if (events & (STREAM_ROOM | STREAM_SENT)) {
        if (UNLIKELY(err < 0)) { /* once that was told of */
            t->events |= events & (STREAM_ROOM | STREAM_SENT);
            loop_source_ready(t->loop, s);
            return -1;
        }
        err = stream_write_ready(t);
    }
    if (UNLIKELY(!t->watch.armed || t->watch.cancelled || t->room.armed)) {
        if (!is_idle(t))
            stream_changed(t);
        else if (t->events == 0 && t->count == 0)
            loop_source_detach(s);
    }
    return err;
}

static const struct loop_source_ops source_ops = {
    .run = source_run,
    .flush = stream_flush,
    .apply = source_apply,
    .forget = source_forget,
};

/* --- telling ---------------------------------------------------------------------------------- */

static bool
is_debug(struct stream *t)
{
    PY_OWNED PyObject *debug = PyObject_CallMethod(t->loop, "get_debug", NULL);
    if (debug == NULL)
        PyErr_Clear();
    return debug == Py_True;
}

int
stream_debug(struct stream *t, const char *format)
{
    if (LIKELY(!is_debug(t)))
        return 0;
    PY_OWNED PyObject *done =
        PyObject_CallMethod(t->st->logger, "debug", "sO", format, (PyObject *)t);
    return done != NULL ? 0 : -1;
}

/* logger.debug("%r: %s", self, message, exc_info=exception) */
static int
debug_error(struct stream *t, const char *message, PyObject *exception)
{
    if (!is_debug(t))
        return 0;
    PY_OWNED PyObject *debug = PyObject_GetAttr(t->st->logger, t->st->s_debug);
    PY_OWNED PyObject *args = Py_BuildValue("sOs", "%r: %s", (PyObject *)t, message);
    PY_OWNED PyObject *kwargs = Py_BuildValue("{OO}", t->st->s_exc_info, exception);
    if (debug == NULL || args == NULL || kwargs == NULL)
        return -1;
    PY_OWNED PyObject *done = PyObject_Call(debug, args, kwargs);
    return done != NULL ? 0 : -1;
}

static int
call_handler(struct stream *t, const char *message, PyObject *exception)
{
    PY_OWNED PyObject *context = Py_BuildValue(
        "{OsOOOOOO}", t->st->s_message, message, t->st->s_exception, exception, t->st->s_transport,
        (PyObject *)t, t->st->s_protocol, t->protocol != NULL ? t->protocol : Py_None);
    PY_OWNED PyObject *done =
        context != NULL ? transport_call(t->loop, t->st->s_call_exception_handler, context) : NULL;
    return done != NULL ? 0 : -1;
}

int
stream_tell(struct stream *t, const char *message)
{
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    return call_handler(t, message, exception);
}

static int
fatal(struct stream *t, const char *message, PyObject *exception)
{
    int err = PyObject_TypeCheck(exception, (PyTypeObject *)PyExc_OSError)
                  ? debug_error(t, message, exception)
                  : call_handler(t, message, exception);
    return err < 0 ? -1 : stream_force_close(t, exception);
}

int
stream_fatal(struct stream *t, const char *message)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    return fatal(t, message, exception);
}

/* --- the end ---------------------------------------------------------------------------------- */

/* loop.call_soon(self.name, arg), arg may be NULL. */
static int
call_self_soon(struct stream *t, PyObject *name, PyObject *arg)
{
    PY_OWNED PyObject *method = PyObject_GetAttr((PyObject *)t, name);
    PY_OWNED PyObject *handle =
        method != NULL ? PyObject_CallMethodObjArgs(t->loop, t->st->s_call_soon, method, arg, NULL)
                       : NULL;
    return handle != NULL ? 0 : -1;
}

static int
lose_soon(struct stream *t, PyObject *exception)
{
    t->conn_lost++;
    stream_changed(t);
    return call_self_soon(t, t->st->s__call_connection_lost, exception);
}

int
stream_force_close(struct stream *t, PyObject *exception)
{
    if (t->conn_lost || t->is_closed)
        return 0;
    /* What write() has said yes to has left, as far as there is room: in asyncio it would have by now. */
    if (t->count > 0 && !t->is_blocked && exception == Py_None) {
        int err = stream_send_now(t);
        if (t->conn_lost)
            return err;
        PyErr_Clear();
    }
    stream_drop_queue(t);
    t->is_closing = true;
    return lose_soon(t, exception);
}

int
stream_close(struct stream *t)
{
    if (t->is_closing)
        return 0;
    if (stream_send_now(t) < 0)
        return -1;
    if (t->is_closing) /* it has failed */
        return 0;
    t->is_closing = true;
    if (t->count == 0)
        return lose_soon(t, Py_None);
    stream_changed(t);
    return 0;
}

/* server._attach() or _detach(): with the transport from 3.13 on. */
static int
call_server(struct stream *t, PyObject *server, PyObject *name)
{
#if PY_VERSION_HEX >= 0x030d0000
    PY_OWNED PyObject *done = transport_call(server, name, (PyObject *)t);
#else
    PY_OWNED PyObject *done = transport_call0(server, name);
    (void)t;
#endif
    return done != NULL ? 0 : -1;
}

/* An exception is kept where there is none yet; a further one is not lost in silence. */
static void
note_failure(PyObject **first, int err)
{
    if (err >= 0)
        return;
    if (*first == NULL)
        *first = PyErr_GetRaisedException();
    else
        PyErr_WriteUnraisable(NULL);
}

int
stream_lose(struct stream *t, PyObject *exception)
{
    PyObject *failure = NULL;
    if (t->is_closed)
        return 0;
    t->is_closing = true;
    stream_changed(t);
    if (t->is_protocol_connected && t->protocol != NULL) {
        PY_OWNED PyObject *protocol = Py_NewRef(t->protocol);
        PY_OWNED PyObject *done = transport_call(protocol, t->st->s_connection_lost, exception);
        note_failure(&failure, done != NULL ? 0 : -1);
    }
    if (t->is_closed) { /* by connection_lost() itself */
        PyErr_SetRaisedException(failure);
        return failure != NULL ? -1 : 0;
    }
    t->is_closed = true;
    stream_drop_queue(t);
    /* The kernel must not keep the file for a cancelled operation. */
    struct io *io = t->watch.armed || t->room.armed ? loop_source_io(t->loop) : NULL;
    if (io != NULL)
        io_let_go(io);
    PyObject *sock = py_take(&t->sock), *server = py_take(&t->server);
    PY_OWNED PyObject *closed = sock != NULL ? transport_call0(sock, t->st->s_close) : NULL;
    note_failure(&failure, closed != NULL || sock == NULL ? 0 : -1);
    Py_XDECREF(sock);
    Py_CLEAR(t->protocol);
    if (server != NULL)
        note_failure(&failure, call_server(t, server, t->st->s__detach));
    Py_XDECREF(server);
    if (t->empty_waiter != NULL) {
        PY_OWNED PyObject *error =
            PyObject_CallFunction(PyExc_ConnectionError, "s", "Connection is closed by peer");
        PY_OWNED PyObject *done = transport_call0(t->empty_waiter, t->st->s_done);
        PyObject *set = error == NULL || done == NULL ? NULL
                        : done == Py_True
                            ? Py_NewRef(Py_None)
                            : transport_call(t->empty_waiter, t->st->s_set_exception, error);
        note_failure(&failure, set != NULL ? 0 : -1);
        Py_XDECREF(set);
    }
    PyErr_SetRaisedException(failure);
    return failure != NULL ? -1 : 0;
}

/* --- methods ---------------------------------------------------------------------------------- */

static PyObject *
none_or_null(int err)
{
    return err < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    return none_or_null(stream_close(stream_of(self)));
}

static PyObject *
meth_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    return none_or_null(stream_force_close(stream_of(self), Py_None));
}

static PyObject *
meth_force_close(PyObject *self, PyObject *exception)
{
    return none_or_null(stream_force_close(stream_of(self), exception));
}

static PyObject *
meth_fatal_error(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "exc", "message", NULL };
    PyObject *exception;
    const char *message = "Fatal error on transport";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|s:_fatal_error", names, &exception, &message))
        return NULL;
    return none_or_null(fatal(stream_of(self), message, exception));
}

static PyObject *
meth_call_connection_lost(PyObject *self, PyObject *exception)
{
    return none_or_null(stream_lose(stream_of(self), exception));
}

static PyObject *
meth_start_reading(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    t->is_started = true;
    if (!t->is_closing)
        stream_changed(t);
    Py_RETURN_NONE;
}

static int
set_protocol(struct stream *t, PyObject *protocol)
{
    int is_buffered = PyObject_IsInstance(protocol, t->st->buffered_protocol);
    if (is_buffered < 0)
        return -1;
    t->is_buffered = is_buffered;
    t->is_tls = tls_check(protocol);
    t->is_reader = (PyObject *)Py_TYPE(protocol) == t->st->reader_protocol_type;
    t->is_protocol_connected = true;
    Py_XSETREF(t->protocol, Py_NewRef(protocol));
    return 0;
}

static PyObject *
meth_set_protocol(PyObject *self, PyObject *protocol)
{
    return none_or_null(set_protocol(stream_of(self), protocol));
}

static PyObject *
meth_get_protocol(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *protocol = stream_of(self)->protocol;
    return Py_NewRef(protocol != NULL ? protocol : Py_None);
}

static PyObject *
meth_is_closing(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(stream_of(self)->is_closing);
}

static bool
is_reading(const struct stream *t)
{
    return !t->is_closing && !t->is_paused;
}

static PyObject *
meth_is_reading(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(is_reading(stream_of(self)));
}

static PyObject *
meth_pause_reading(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    if (!is_reading(t))
        Py_RETURN_NONE;
    t->is_paused = true;
    return none_or_null(stream_debug(t, "%r pauses reading"));
}

static PyObject *
meth_resume_reading(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    if (t->is_closing || !t->is_paused)
        Py_RETURN_NONE;
    t->is_paused = false;
    if (t->has_unread && !t->is_lent) {
        t->has_unread = false;
        stream_changed(t);
    }
    return none_or_null(stream_debug(t, "%r resumes reading"));
}

static PyObject *
meth_true(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_TRUE;
}

static PyObject *
meth_get_size(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    return stream_send_now(t) < 0 ? NULL : PyLong_FromSize_t(t->queued);
}

static PyObject *
meth_get_limits(PyObject *self, PyObject *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    return Py_BuildValue("nn", (Py_ssize_t)t->low, (Py_ssize_t)t->high);
}

/* get_extra_info(name, default=None) */
static PyObject *
meth_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "name", "default", NULL };
    struct stream *t = stream_of(self);
    PyObject *name, *otherwise = Py_None, *value;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name, &otherwise))
        return NULL;
    if (t->extra == NULL || !PyDict_Check(t->extra))
        return Py_NewRef(otherwise);
    int found = PyDict_GetItemRef(t->extra, name, &value);
    return found > 0 ? value : found < 0 ? NULL : Py_NewRef(otherwise);
}

static PyObject *
stream_repr(PyObject *self)
{
    struct stream *t = stream_of(self);
    const char *state = t->sock == NULL ? " closed" : t->is_closing ? " closing" : "";
    if (t->is_closed)
        return PyUnicode_FromFormat("<StreamTransport%s fd=%d>", state, t->fd);
    bool reads = t->is_started && is_reading(t) && !t->is_read_done;
    return PyUnicode_FromFormat("<StreamTransport%s fd=%d read=%s write=<%s, bufsize=%zu>>", state,
                                t->fd, reads ? "polling" : "idle",
                                t->is_blocked ? "polling" : "idle", t->queued);
}

/* --- attributes that others read -------------------------------------------------------------- */

static PyObject *
get_loop(PyObject *self, void *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    return Py_NewRef(t->is_closed || t->loop == NULL ? Py_None : t->loop);
}

static PyObject *
get_field(PyObject *self, void *offset)
{
    PyObject *value = *(PyObject **)((char *)self + (intptr_t)offset);
    return Py_NewRef(value != NULL ? value : Py_None);
}

static PyObject *
get_flag(PyObject *self, void *offset)
{
    return PyBool_FromLong(*(bool *)((char *)self + (intptr_t)offset));
}

static PyObject *
get_int(PyObject *self, void *offset)
{
    return PyLong_FromLong(*(int *)((char *)self + (intptr_t)offset));
}

static PyObject *
get_size(PyObject *self, void *offset)
{
    return PyLong_FromSize_t(*(size_t *)((char *)self + (intptr_t)offset));
}

/* What waits to be sent, as a list. */
static PyObject *
get_buffer(PyObject *self, void *unused)
{
    struct stream *t = stream_of(self);
    (void)unused;
    if (stream_send_now(t) < 0)
        return NULL;
    PY_OWNED PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < t->count; i++) {
        const struct stream_chunk *chunk = &t->chunks[t->head + i];
        PY_OWNED PyObject *bytes = PyBytes_FromStringAndSize(chunk->p, (Py_ssize_t)chunk->n);
        if (bytes == NULL || PyList_Append(list, bytes) < 0)
            return NULL;
    }
    return py_take(&list);
}

/* --- life ------------------------------------------------------------------------------------- */

/* extra[key] = sock.method(), or None where the socket has none. */
static int
put_name(PyObject *extra, PyObject *key, PyObject *sock, PyObject *method)
{
    PyObject *name = transport_call0(sock, method);
    if (name == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return -1;
        PyErr_Clear();
        name = Py_NewRef(Py_None);
    }
    return py_dict_give(extra, key, name);
}

static int
fill_extra(struct stream *t, PyObject *extra)
{
    struct transport_state *st = t->st;
    t->extra = extra != Py_None ? Py_NewRef(extra) : PyDict_New();
    if (t->extra == NULL || !PyDict_Check(t->extra)) {
        if (t->extra != NULL)
            PyErr_SetString(PyExc_TypeError, "extra must be a dict");
        return -1;
    }
    if (py_dict_give(t->extra, st->s_socket, PyObject_CallOneArg(st->transport_socket, t->sock)) <
            0 ||
        put_name(t->extra, st->s_sockname, t->sock, st->s_getsockname) < 0)
        return -1;
    int has_peer = PyDict_Contains(t->extra, st->s_peername);
    if (has_peer != 0)
        return has_peer < 0 ? -1 : 0;
    return put_name(t->extra, st->s_peername, t->sock, st->s_getpeername);
}

static int
note_socket(struct stream *t)
{
    PY_OWNED PyObject *number = transport_call0(t->sock, t->st->s_fileno);
    long fd = number != NULL ? PyLong_AsLong(number) : -1;
    if (fd == -1 && PyErr_Occurred())
        return -1;
    t->fd = (int)fd;
    int domain = 0, type = 0, protocol = 0;
    socklen_t n = sizeof(domain);
    if (getsockopt(t->fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0)
        domain = 0;
    n = sizeof(type);
    if (getsockopt(t->fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0)
        type = 0;
    n = sizeof(protocol);
    if (getsockopt(t->fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n) < 0)
        protocol = 0;
    /* There are others of this kind: a read of SCTP's ends with a message. */
    t->is_tcp =
        type == SOCK_STREAM && (domain == AF_INET || domain == AF_INET6) && protocol == IPPROTO_TCP;
    return 0;
}

/* loop._transports[fd] = self */
static int
enter_loop(struct stream *t)
{
    PY_OWNED PyObject *transports = PyObject_GetAttr(t->loop, t->st->s__transports);
    PY_OWNED PyObject *fd = PyLong_FromLong(t->fd);
    if (transports == NULL || fd == NULL)
        return -1;
    return PyObject_SetItem(transports, fd, (PyObject *)t);
}

static int
begin(struct stream *t, PyObject *waiter)
{
    PY_OWNED PyObject *nodelay = PyObject_CallOneArg(t->st->set_nodelay, t->sock);
    PY_OWNED PyObject *made =
        nodelay != NULL ? PyObject_GetAttr(t->protocol, t->st->s_connection_made) : NULL;
    PY_OWNED PyObject *handle =
        made != NULL
            ? PyObject_CallMethodObjArgs(t->loop, t->st->s_call_soon, made, (PyObject *)t, NULL)
            : NULL;
    /* Only when connection_made() has been called, bytes are read, and the waiter wakes up. */
    if (handle == NULL || call_self_soon(t, t->st->s__start_reading, NULL) < 0)
        return -1;
    if (waiter == Py_None)
        return 0;
    PY_OWNED PyObject *woken = PyObject_CallMethodObjArgs(t->loop, t->st->s_call_soon,
                                                          t->st->set_result, waiter, Py_None, NULL);
    return woken != NULL ? 0 : -1;
}

/* The transport is not made: its socket stays the caller's. */
static PyObject *
give_up(struct stream *t)
{
    PyObject *exception = PyErr_GetRaisedException();
    Py_CLEAR(t->sock);
    if (t->server != NULL && call_server(t, t->server, t->st->s__detach) < 0)
        PyErr_WriteUnraisable((PyObject *)t);
    Py_CLEAR(t->server);
    t->is_closing = t->is_closed = true;
    Py_DECREF(t);
    PyErr_SetRaisedException(exception);
    return NULL;
}

PyObject *
stream_make(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    enum { LOOP, SOCK, PROTOCOL, WAITER, EXTRA, SERVER, ARGS };
    if (n != ARGS) {
        PyErr_SetString(PyExc_TypeError, "_stream_transport() takes six arguments");
        return NULL;
    }
    if (!loop_check(module, args[LOOP])) {
        PyErr_SetString(PyExc_TypeError, "_stream_transport() takes a LoopCore");
        return NULL;
    }
    PyObject *owner;
    struct transport_state *st = transport_state_take(module, &owner);
    if (st == NULL)
        return NULL;
    struct stream *t = (struct stream *)st->stream_type->tp_alloc(st->stream_type, 0);
    if (t == NULL) {
        Py_DECREF(owner);
        return NULL;
    }
    t->st = st;
    t->st_owner = owner;
    t->chunks = t->inline_chunks;
    t->cap = STREAM_CHUNKS_INLINE;
    t->high = 64 * 1024;
    t->low = t->high / 4;
    t->fd = -1;
    live.transports++;
    loop_source_init(&t->source, &source_ops, (PyObject *)t);
    source_forget(&t->source);
    t->loop = Py_NewRef(args[LOOP]);
    t->sock = Py_NewRef(args[SOCK]);
    t->source.context = PyContext_CopyCurrent();
    if (t->source.context == NULL || fill_extra(t, args[EXTRA]) < 0 || note_socket(t) < 0 ||
        set_protocol(t, args[PROTOCOL]) < 0)
        return give_up(t);
    if (args[SERVER] != Py_None) {
        if (call_server(t, args[SERVER], st->s__attach) < 0)
            return give_up(t);
        t->server = Py_NewRef(args[SERVER]);
    }
    if (enter_loop(t) < 0 || begin(t, args[WAITER]) < 0)
        return give_up(t);
    return (PyObject *)t;
}

static int
stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct stream *t = stream_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(t->extra);
    Py_VISIT(t->dict);
    Py_VISIT(t->source.context);
    Py_VISIT(t->loop);
    Py_VISIT(t->sock);
    Py_VISIT(t->protocol);
    Py_VISIT(t->server);
    Py_VISIT(t->empty_waiter);
    return 0;
}

/* Not the loop: it has the operations that may still be armed, and lets go of us first. */
static int
stream_clear(PyObject *self)
{
    struct stream *t = stream_of(self);
    Py_CLEAR(t->extra);
    Py_CLEAR(t->dict);
    Py_CLEAR(t->source.context);
    Py_CLEAR(t->sock);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->server);
    Py_CLEAR(t->empty_waiter);
    return 0;
}

/* warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self), then the socket is closed. Any thread. */
static void
stream_finalize(PyObject *self)
{
    struct stream *t = stream_of(self);
    if (t->sock == NULL)
        return;
    PyObject *pending = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(self, 1, "unclosed transport %R", self) < 0)
        PyErr_WriteUnraisable(self);
    PyObject *sock = py_take(&t->sock), *server = py_take(&t->server);
    t->is_closing = true;
    PyObject *closed = transport_call0(sock, t->st->s_close);
    if (closed == NULL)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(closed);
    Py_DECREF(sock);
#if PY_VERSION_HEX >= 0x030d0000
    if (server != NULL && call_server(t, server, t->st->s__detach) < 0)
        PyErr_WriteUnraisable(self);
#endif
    Py_XDECREF(server);
    PyErr_SetRaisedException(pending);
}

static void
stream_dealloc(PyObject *self)
{
    struct stream *t = stream_of(self);
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return; /* somebody has it again */
    PyObject_GC_UnTrack(self);
    if (t->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    stream_drop_queue(t);
    stream_clear(self);
    Py_CLEAR(t->loop);
    Py_CLEAR(t->st_owner);
    live.transports--;
    type->tp_free(self);
    Py_DECREF(type);
}

bool
stream_check(PyObject *transport)
{
    return Py_TYPE(transport)->tp_dealloc == stream_dealloc;
}

#define KEYWORDS(f) ((PyCFunction)(void (*)(void))(f)), METH_VARARGS | METH_KEYWORDS

static PyMethodDef stream_methods[] = {
    { "write", stream_meth_write, METH_O, "Send data; it does not block." },
    { "writelines", stream_meth_writelines, METH_O, "Send several pieces of data." },
    { "write_eof", stream_meth_write_eof, METH_NOARGS,
      "Close the sending half when everything is sent." },
    { "can_write_eof", meth_true, METH_NOARGS, "True." },
    { "close", meth_close, METH_NOARGS, "Close when everything is sent." },
    { "abort", meth_abort, METH_NOARGS, "Close at once; what waits to be sent is lost." },
    { "is_closing", meth_is_closing, METH_NOARGS, "True where it is closed or about to be." },
    { "set_protocol", meth_set_protocol, METH_O, "Give another protocol the events." },
    { "get_protocol", meth_get_protocol, METH_NOARGS, "The protocol; None after the end." },
    { "is_reading", meth_is_reading, METH_NOARGS, "True where the protocol is given bytes." },
    { "pause_reading", meth_pause_reading, METH_NOARGS, "Give the protocol no more bytes." },
    { "resume_reading", meth_resume_reading, METH_NOARGS, "Give it bytes again." },
    { "get_write_buffer_size", meth_get_size, METH_NOARGS, "How many bytes wait to be sent." },
    { "get_write_buffer_limits", meth_get_limits, METH_NOARGS, "(low, high)." },
    { "set_write_buffer_limits", KEYWORDS(stream_meth_set_limits),
      "Set the high- and low-water marks of the write buffer." },
    { "get_extra_info", KEYWORDS(meth_get_extra_info), "What is known of the connection." },
    { "_force_close", meth_force_close, METH_O, NULL },
    { "_fatal_error", KEYWORDS(meth_fatal_error), NULL },
    { "_call_connection_lost", meth_call_connection_lost, METH_O, NULL },
    { "_start_reading", meth_start_reading, METH_NOARGS, NULL },
    { "_make_empty_waiter", stream_meth_make_empty_waiter, METH_NOARGS, NULL },
    { "_reset_empty_waiter", stream_meth_reset_empty_waiter, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

#define AT(member) ((void *)offsetof(struct stream, member))

static PyGetSetDef stream_getset[] = {
    { "__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL },
    { "_loop", get_loop, NULL, NULL, NULL },
    { "_sock", get_field, NULL, NULL, AT(sock) },
    { "_protocol", get_field, NULL, NULL, AT(protocol) },
    { "_server", get_field, NULL, NULL, AT(server) },
    { "_empty_waiter", get_field, NULL, NULL, AT(empty_waiter) },
    { "_sock_fd", get_int, NULL, NULL, AT(fd) },
    { "_conn_lost", get_int, NULL, NULL, AT(conn_lost) },
    { "_closing", get_flag, NULL, NULL, AT(is_closing) },
    { "_paused", get_flag, NULL, NULL, AT(is_paused) },
    { "_eof", get_flag, NULL, NULL, AT(is_eof) },
    { "_protocol_paused", get_flag, NULL, NULL, AT(is_protocol_paused) },
    { "_protocol_connected", get_flag, NULL, NULL, AT(is_protocol_connected) },
    { "_high_water", get_size, NULL, NULL, AT(high) },
    { "_low_water", get_size, NULL, NULL, AT(low) },
    { "_buffer", get_buffer, NULL, "What waits to be sent, as a list.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyMemberDef stream_members[] = {
    { "__dictoffset__", Py_T_PYSSIZET, offsetof(struct stream, dict), Py_READONLY, NULL },
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct stream, weakrefs), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot stream_slots[] = {
    { Py_tp_doc, "The transport of a connected stream socket." },
    { Py_tp_dealloc, stream_dealloc },
    { Py_tp_finalize, stream_finalize },
    { Py_tp_traverse, stream_traverse },
    { Py_tp_clear, stream_clear },
    { Py_tp_repr, stream_repr },
    { Py_tp_methods, stream_methods },
    { Py_tp_getset, stream_getset },
    { Py_tp_members, stream_members },
    { 0, NULL },
};

PyType_Spec stream_spec = {
    .name = "_ringcorn.StreamTransport",
    .basicsize = sizeof(struct stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_slots,
};
