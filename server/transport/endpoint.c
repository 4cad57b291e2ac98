/* endpoint.c: the life of a transport that is not a stream of a connected socket: a datagram socket, an end of a pipe.
 *
 * Made by endpoint_new(), attached to its loop from then on; connection_made(), the watch and the waiter follow as callbacks, in asyncio's
 * order. It ends in endpoint_lose(), and is detached when the io has given back its last operation.
 *
 * Runs on:  the loop's thread with the GIL; io callbacks without it.
 * Always:   an operation is armed only while the source is attached, so memory that the io knows stays. */
#include "transport/endpoint.h"

#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <sys/stat.h>

/* --- the io --------------------------------------------------------------------------------------------------------*/

static struct endpoint *
endpoint_of_source(struct loop_source *s)
{
    return CONTAINER_OF(s, struct endpoint, source);
}

/* The loop's thread, any GIL state. */
void
endpoint_again(struct endpoint *t, unsigned events)
{
    t->events |= events;
    loop_source_ready(t->loop, &t->source);
}

static void
watch_event(struct io_op *op, int res, unsigned flags)
{
    struct endpoint *t = CONTAINER_OF(op, struct endpoint, watch);
    bool has_ended = !(flags & IO_MORE);

    if (!t->wants_watch) {
        if (has_ended)
            endpoint_again(t, 0); /* it may wait for this to be detached */
        return;
    }
    if (res == -EBADF) {
        t->is_deaf = true; /* closed by somebody else: nothing is heard of it any more */
        return;
    }
    if (res < 0 || (res & (POLLHUP | POLLRDHUP | POLLERR)))
        t->may_end = true;
    /* Another failure (no memory for the poll) is taken for an arrival: the system call tells. */
    endpoint_again(t, ENDPOINT_IN);
}

static void
room_event(struct io_op *op, int res, unsigned flags)
{
    struct endpoint *t = CONTAINER_OF(op, struct endpoint, room);
    (void)res; /* what has failed will say so */
    (void)flags;
    endpoint_again(t, t->wants_room ? ENDPOINT_ROOM : 0);
}

static void
endpoint_apply(struct loop_source *s, struct io *io)
{
    struct endpoint *t = endpoint_of_source(s);
    bool has_cancelled = false;

    if (t->wants_watch && !t->watch.armed && !t->is_deaf)
        io_watch_in(io, &t->watch, t->fd);
    if (t->wants_room && !t->room.armed)
        io_room(io, &t->room, t->fd);
    if (!t->wants_watch && t->watch.armed && !t->watch.cancelled) {
        io_cancel(io, &t->watch);
        has_cancelled = true;
    }
    if (!t->wants_room && t->room.armed && !t->room.cancelled) {
        io_cancel(io, &t->room);
        has_cancelled = true;
    }
    if (has_cancelled)
        io_let_go(io); /* the descriptor is about to be closed */
    if (t->is_closed && !t->watch.armed && !t->room.armed)
        endpoint_again(t, 0);
}

static void
endpoint_forget(struct loop_source *s)
{
    struct endpoint *t = endpoint_of_source(s);
    io_op_init(&t->watch, watch_event);
    io_op_init(&t->room, room_event);
}

static int
endpoint_run(struct loop_source *s)
{
    struct endpoint *t = endpoint_of_source(s);
    unsigned events = t->events;
    int err = 0;

    t->events = 0;
    if (events != 0 && !t->is_closed)
        err = t->kind->ready(t, events);
    if ((t->wants_watch && !t->watch.armed) || (t->wants_room && !t->room.armed))
        endpoint_changed(t);
    if (t->is_closed && !t->watch.armed && !t->room.armed)
        loop_source_detach(s);
    return err;
}

static const struct loop_source_ops endpoint_ops = {
    .run = endpoint_run,
    .apply = endpoint_apply,
    .forget = endpoint_forget,
};

void
endpoint_changed(struct endpoint *t)
{
    loop_source_changed(t->loop, &t->source);
}

/* --- its life ------------------------------------------------------------------------------------------------------*/

struct endpoint *
endpoint_new(PyObject *module, PyTypeObject *type, const struct endpoint_kind *kind, PyObject *loop,
             PyObject *file, PyObject *protocol, PyObject *extra)
{
    PY_OWNED PyObject *st_owner = NULL;
    struct transport_state *st = transport_state_take(module, &st_owner);
    if (st == NULL)
        return NULL;
    PY_OWNED PyObject *number = transport_call0(file, st->s_fileno);
    long fd = number != NULL ? PyLong_AsLong(number) : -1;
    if (fd < 0 || fd > INT_MAX) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "%R has no descriptor", file);
        return NULL;
    }
    PY_OWNED PyObject *infos = extra == Py_None ? PyDict_New() : Py_NewRef(extra);
    PY_OWNED PyObject *context = PyContext_CopyCurrent();
    if (infos == NULL || context == NULL)
        return NULL;
    struct endpoint *t = (struct endpoint *)type->tp_alloc(type, 0);
    if (t == NULL)
        return NULL;
    t->kind = kind;
    live.transports++;
    loop_source_init(&t->source, &endpoint_ops, (PyObject *)t);
    t->source.context = py_take(&context);
    endpoint_forget(&t->source);
    t->st = st;
    t->st_owner = py_take(&st_owner);
    t->extra = py_take(&infos);
    t->loop = Py_NewRef(loop);
    t->file = Py_NewRef(file);
    t->protocol = Py_NewRef(protocol);
    t->fd = (int)fd;
    t->high = ENDPOINT_HIGH;
    t->low = ENDPOINT_HIGH / 4;
    loop_source_attach(loop, &t->source);
    return t;
}

int
endpoint_soon(struct endpoint *t, PyObject *function, PyObject *arg)
{
    PyObject *args[] = { t->loop, function, arg };
    PY_OWNED PyObject *done = PyObject_VectorcallMethod(
        t->st->s_call_soon, args, (arg != NULL ? 3 : 2) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    return done != NULL ? 0 : -1;
}

int
endpoint_start(struct endpoint *t, PyObject *waiter)
{
    PyObject *self = (PyObject *)t;
    PY_OWNED PyObject *made = PyObject_GetAttr(t->protocol, t->st->s_connection_made);
    PY_OWNED PyObject *start = made != NULL ? PyObject_GetAttr(self, t->st->s__start) : NULL;
    if (start == NULL || endpoint_soon(t, made, self) < 0 || endpoint_soon(t, start, NULL) < 0)
        return -1;
    if (waiter == Py_None)
        return 0;
    PyObject *args[] = { t->loop, t->st->set_result, waiter, Py_None };
    PY_OWNED PyObject *done = PyObject_VectorcallMethod(t->st->s_call_soon, args,
                                                        4 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    return done != NULL ? 0 : -1;
}

void
endpoint_undo(struct endpoint *t)
{
    PyObject *raised = PyErr_GetRaisedException();
    Py_CLEAR(t->file);
    t->is_closing = t->is_ended = t->is_closed = true;
    loop_source_detach(&t->source);
    PyErr_SetRaisedException(raised);
}

int
endpoint_begin_pipe(struct endpoint *t, PyObject *pipe, const char *refusal, mode_t *mode)
{
    struct stat st;
    if (PyObject_SetItem(t->extra, t->st->s_pipe, pipe) < 0)
        return -1;
    if (fstat(t->fd, &st) < 0)
        return endpoint_fail_errno();
    if (!S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode) && !S_ISCHR(st.st_mode)) {
        PyErr_SetString(PyExc_ValueError, refusal);
        return -1;
    }
    int flags = fcntl(t->fd, F_GETFL);
    if (flags < 0 || fcntl(t->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return endpoint_fail_errno();
    *mode = st.st_mode;
    return 0;
}

int
endpoint_end(struct endpoint *t, PyObject *exception)
{
    t->is_closing = true;
    t->wants_watch = t->wants_room = false;
    endpoint_changed(t);
    t->kind->drop(t);
    if (t->is_ended)
        return 0;
    t->is_ended = true;
    t->conn_lost++;
    PY_OWNED PyObject *lost = PyObject_GetAttr((PyObject *)t, t->st->s__call_connection_lost);
    return lost != NULL ? endpoint_soon(t, lost, exception) : -1;
}

int
endpoint_lose(struct endpoint *t, PyObject *exception)
{
    if (t->is_closed)
        return 0;
    t->is_closing = t->is_ended = true;
    t->conn_lost += t->conn_lost == 0;
    t->wants_watch = t->wants_room = false;
    endpoint_changed(t);
    PY_OWNED PyObject *told = Py_NewRef(t->protocol != NULL ? t->protocol : Py_None);
    PY_OWNED PyObject *done = told != Py_None
                                  ? transport_call(told, t->st->s_connection_lost, exception)
                                  : Py_NewRef(told);
    PyObject *raised = PyErr_GetRaisedException();
    PY_OWNED PyObject *file = py_take(&t->file);
    PY_OWNED PyObject *protocol = py_take(&t->protocol);
    t->is_closed = true;
    PY_OWNED PyObject *closed =
        file != NULL ? transport_call0(file, t->st->s_close) : Py_NewRef(Py_None);
    if (raised != NULL) {
        PyErr_Clear();
        PyErr_SetRaisedException(raised);
    }
    if (!t->watch.armed && !t->room.armed) {
        PyObject *failed = PyErr_GetRaisedException();
        loop_source_detach(&t->source);
        PyErr_SetRaisedException(failed);
    }
    return done != NULL && closed != NULL ? 0 : -1;
}

/* --- words ---------------------------------------------------------------------------------------------------------*/

static bool
is_everybodys(void)
{
    return PyErr_ExceptionMatches(PyExc_SystemExit) ||
           PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

static int
tell(struct endpoint *t, const char *message, PyObject *exception)
{
    struct transport_state *st = t->st;
    PY_OWNED PyObject *report = PyDict_New();
    if (report == NULL || py_dict_give(report, st->s_message, PyUnicode_FromString(message)) < 0 ||
        PyDict_SetItem(report, st->s_exception, exception) < 0 ||
        PyDict_SetItem(report, st->s_transport, (PyObject *)t) < 0 ||
        PyDict_SetItem(report, st->s_protocol, t->protocol != NULL ? t->protocol : Py_None) < 0)
        return -1;
    PY_OWNED PyObject *done = transport_call(t->loop, st->s_call_exception_handler, report);
    return done != NULL ? 0 : -1;
}

int
endpoint_tell(struct endpoint *t, const char *message)
{
    if (is_everybodys())
        return -1;
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    return tell(t, message, exception);
}

static int
is_debug(struct endpoint *t)
{
    PY_OWNED PyObject *answer = PyObject_CallMethod(t->loop, "get_debug", NULL);
    return answer != NULL ? PyObject_IsTrue(answer) : -1;
}

int
endpoint_debug(struct endpoint *t, const char *level, const char *format)
{
    int yes = is_debug(t);
    if (yes <= 0)
        return yes;
    PY_OWNED PyObject *done =
        PyObject_CallMethod(t->st->logger, level, "sO", format, (PyObject *)t);
    return done != NULL ? 0 : -1;
}

int
endpoint_fatal(struct endpoint *t, const char *message, bool is_quiet, PyObject **exception)
{
    *exception = NULL;
    if (is_everybodys())
        return -1;
    PY_OWNED PyObject *taken = PyErr_GetRaisedException();
    if (!is_quiet) {
        if (tell(t, message, taken) < 0)
            return -1;
    } else {
        int yes = is_debug(t);
        if (yes < 0)
            return -1;
        if (yes) {
            PY_OWNED PyObject *method = PyObject_GetAttrString(t->st->logger, "debug");
            PY_OWNED PyObject *args = Py_BuildValue("(sOs)", "%r: %s", (PyObject *)t, message);
            PY_OWNED PyObject *kwargs = Py_BuildValue("{sO}", "exc_info", taken);
            PY_OWNED PyObject *done = method != NULL && args != NULL && kwargs != NULL
                                          ? PyObject_Call(method, args, kwargs)
                                          : NULL;
            if (done == NULL)
                return -1;
        }
    }
    *exception = py_take(&taken);
    return 0;
}

int
endpoint_call_protocol(struct endpoint *t, PyObject *name)
{
    PY_OWNED PyObject *protocol = Py_XNewRef(t->protocol);
    if (protocol == NULL)
        return 0;
    PY_OWNED PyObject *done = transport_call0(protocol, name);
    return done != NULL ? 0 : -1;
}

/* --- the write buffer's limits -------------------------------------------------------------------------------------*/

int
endpoint_maybe_pause(struct endpoint *t)
{
    if (LIKELY(t->queued <= t->high) || t->is_protocol_paused)
        return 0;
    t->is_protocol_paused = true;
    if (endpoint_call_protocol(t, t->st->s_pause_writing) < 0)
        return endpoint_tell(t, "protocol.pause_writing() failed");
    return 0;
}

int
endpoint_maybe_resume(struct endpoint *t)
{
    if (LIKELY(!t->is_protocol_paused) || t->queued > t->low)
        return 0;
    t->is_protocol_paused = false;
    if (endpoint_call_protocol(t, t->st->s_resume_writing) < 0)
        return endpoint_tell(t, "protocol.resume_writing() failed");
    return 0;
}

PyObject *
endpoint_get_size(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromSize_t(endpoint_of(self)->queued);
}

PyObject *
endpoint_get_limits(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    return Py_BuildValue("(nn)", (Py_ssize_t)t->low, (Py_ssize_t)t->high);
}

/* A number of bytes, also one beyond all measure, or infinite. A negative one, and what is no number, is -1. */
static double
size_of(PyObject *number)
{
    double size = PyFloat_AsDouble(number);
    if (size == -1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return NAN;
        PyErr_Clear();
        PY_OWNED PyObject *zero = PyLong_FromLong(0);
        int is_negative = zero != NULL ? PyObject_RichCompareBool(number, zero, Py_LT) : -1;
        return is_negative < 0 ? NAN : is_negative ? -1 : INFINITY;
    }
    return size;
}

PyObject *
endpoint_set_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "high", "low", NULL };
    struct endpoint *t = endpoint_of(self);
    PyObject *high_given = Py_None, *low_given = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:set_write_buffer_limits", names,
                                     &high_given, &low_given))
        return NULL;
    double high = ENDPOINT_HIGH, low = 0;
    if (low_given != Py_None)
        low = size_of(low_given);
    if (high_given != Py_None)
        high = size_of(high_given);
    else if (low_given != Py_None)
        high = 4 * low;
    if (low_given == Py_None)
        low = floor(high / 4);
    if (PyErr_Occurred())
        return NULL;
    if (!(high >= low && low >= 0)) {
        PY_OWNED PyObject *high_object =
            high_given != Py_None ? Py_NewRef(high_given) : PyLong_FromDouble(high);
        PY_OWNED PyObject *low_object =
            low_given != Py_None ? Py_NewRef(low_given) : PyLong_FromDouble(low);
        if (high_object != NULL && low_object != NULL)
            PyErr_Format(PyExc_ValueError, "high (%R) must be >= low (%R) must be >= 0",
                         high_object, low_object);
        return NULL;
    }
    t->high = high < (double)PY_SSIZE_T_MAX ? (size_t)high : (size_t)PY_SSIZE_T_MAX;
    t->low = low < (double)PY_SSIZE_T_MAX ? (size_t)low : (size_t)PY_SSIZE_T_MAX;
    if (endpoint_maybe_pause(t) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- methods -------------------------------------------------------------------------------------------------------*/

PyObject *
endpoint_get_extra_info(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct endpoint *t = endpoint_of(self);
    PyObject *name = n > 0 ? args[0] : NULL, *fallback = n > 1 ? args[1] : Py_None;
    Py_ssize_t named = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t i = 0; i < named; i++) {
        const char *key = PyUnicode_AsUTF8(PyTuple_GET_ITEM(kwnames, i));
        if (key == NULL)
            return NULL;
        if (strcmp(key, "default") == 0 && n < 2) {
            fallback = args[n + i];
        } else if (strcmp(key, "name") == 0 && n < 1) {
            name = args[n + i];
        } else {
            PyErr_Format(PyExc_TypeError, "get_extra_info() got an unexpected argument '%s'", key);
            return NULL;
        }
    }
    if (name == NULL || n > 2) {
        PyErr_SetString(PyExc_TypeError, "get_extra_info() takes a name and a default");
        return NULL;
    }
    if (t->extra == NULL)
        return Py_NewRef(fallback);
    if (!PyDict_CheckExact(t->extra))
        return PyObject_CallMethod(t->extra, "get", "OO", name, fallback);
    PyObject *found;
    int is_there = PyDict_GetItemRef(t->extra, name, &found);
    return is_there < 0 ? NULL : is_there ? found : Py_NewRef(fallback);
}

PyObject *
endpoint_set_protocol(PyObject *self, PyObject *protocol)
{
    struct endpoint *t = endpoint_of(self);
    if (!t->is_closed)
        Py_XSETREF(t->protocol, Py_NewRef(protocol));
    Py_RETURN_NONE;
}

PyObject *
endpoint_get_protocol(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    return Py_NewRef(t->protocol != NULL ? t->protocol : Py_None);
}

PyObject *
endpoint_is_closing(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(endpoint_of(self)->is_closing);
}

PyObject *
endpoint_call_connection_lost(PyObject *self, PyObject *exception)
{
    if (endpoint_lose(endpoint_of(self), exception) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
endpoint_meth_start(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (!t->is_closing && !t->is_ended && !t->is_unwatched) {
        t->wants_watch = true;
        endpoint_changed(t);
    }
    Py_RETURN_NONE;
}

PyObject *
endpoint_is_reading(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    return PyBool_FromLong(!t->is_paused && !t->is_closing);
}

PyObject *
endpoint_pause_reading(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (t->is_paused || t->is_closing)
        Py_RETURN_NONE;
    t->is_paused = true;
    if (endpoint_debug(t, "debug", "%r pauses reading") < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
endpoint_resume_reading(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (t->is_closing || !t->is_paused)
        Py_RETURN_NONE;
    t->is_paused = false;
    if (t->has_more) { /* what has arrived before or in the pause */
        PY_OWNED PyObject *again = PyObject_GetAttr((PyObject *)t, t->st->s__read_again);
        if (again == NULL || endpoint_soon(t, again, NULL) < 0)
            return NULL;
    }
    if (endpoint_debug(t, "debug", "%r resumes reading") < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
endpoint_read_again(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (!t->is_closed && t->kind->ready(t, ENDPOINT_IN) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *
endpoint_get_file(PyObject *self, void *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    return Py_NewRef(t->file != NULL ? t->file : Py_None);
}

int
endpoint_set_file(PyObject *self, PyObject *file, void *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    Py_XSETREF(t->file, file == NULL || file == Py_None ? NULL : Py_NewRef(file));
    return 0;
}

/* --- the type ------------------------------------------------------------------------------------------------------*/

/* A type under classes of asyncio. New. */
static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec, const char *base, const char *other_base)
{
    PY_OWNED PyObject *asyncio = PyImport_ImportModule("asyncio");
    PY_OWNED PyObject *first = asyncio != NULL ? PyObject_GetAttrString(asyncio, base) : NULL;
    PY_OWNED PyObject *second =
        first != NULL && other_base != NULL ? PyObject_GetAttrString(asyncio, other_base) : NULL;
    if (first == NULL || (other_base != NULL && second == NULL))
        return NULL;
    /* The slot _extra of asyncio.BaseTransport is in our struct, right behind the header. */
    if (!PyType_Check(first) ||
        ((PyTypeObject *)first)->tp_basicsize != sizeof(PyObject) + sizeof(PyObject *)) {
        PyErr_Format(PyExc_SystemError,
                     "asyncio.%s of this Python is not what _ringcorn was made for", base);
        return NULL;
    }
    PY_OWNED PyObject *bases =
        second != NULL ? PyTuple_Pack(2, first, second) : PyTuple_Pack(1, first);
    PyTypeObject *made =
        bases != NULL ? (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases) : NULL;
    if (made != NULL && PyModule_AddType(module, made) < 0)
        Py_CLEAR(made);
    return made;
}

int
endpoint_add_types(PyObject *module, struct transport_state *st)
{
    static PyMethodDef functions[] = {
        { "_datagram_transport", (PyCFunction)(void (*)(void))datagram_make, METH_FASTCALL,
          "_datagram_transport(loop, sock, protocol, address, waiter, extra): the transport of a "
          "datagram socket, or None where it is of a kind that asyncio's own is for." },
        { "_read_pipe_transport", (PyCFunction)(void (*)(void))read_pipe_make, METH_FASTCALL,
          "_read_pipe_transport(loop, pipe, protocol, waiter, extra)" },
        { "_write_pipe_transport", (PyCFunction)(void (*)(void))write_pipe_make, METH_FASTCALL,
          "_write_pipe_transport(loop, pipe, protocol, waiter, extra)" },
        { NULL, NULL, 0, NULL },
    };
    if (PyModule_AddFunctions(module, functions) < 0)
        return -1;
    /* Both: CPython's is a Transport too, and before 3.12 that alone. */
    st->datagram_type = add_type(module, &datagram_spec, "Transport", "DatagramTransport");
    if (st->datagram_type == NULL)
        return -1;
    st->read_pipe_type = add_type(module, &read_pipe_spec, "ReadTransport", NULL);
    if (st->read_pipe_type == NULL)
        return -1;
    st->write_pipe_type = add_type(module, &write_pipe_spec, "WriteTransport", NULL);
    return st->write_pipe_type != NULL ? 0 : -1;
}

int
endpoint_traverse(struct endpoint *t, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(t));
    Py_VISIT(t->extra);
    Py_VISIT(t->dict);
    Py_VISIT(t->source.context);
    Py_VISIT(t->loop);
    Py_VISIT(t->file);
    Py_VISIT(t->protocol);
    return 0;
}

void
endpoint_clear(struct endpoint *t)
{
    Py_CLEAR(t->extra);
    Py_CLEAR(t->dict);
    Py_CLEAR(t->source.context);
    Py_CLEAR(t->protocol);
    Py_CLEAR(t->file);
    if (!t->source.is_attached) /* the io's callbacks need it */
        Py_CLEAR(t->loop);
}

void
endpoint_finalize(PyObject *self)
{
    struct endpoint *t = endpoint_of(self);
    if (t->file == NULL)
        return;
    PyObject *pending = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(self, 1, "unclosed transport %R", self) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Warning))
            PyErr_WriteUnraisable(self);
        else
            PyErr_Clear();
    }
    PY_OWNED PyObject *file = py_take(&t->file);
    if (file != NULL) {
        PY_OWNED PyObject *closed = transport_call0(file, t->st->s_close);
        if (closed == NULL)
            PyErr_WriteUnraisable(self);
    }
    PyErr_SetRaisedException(pending);
}

bool
endpoint_dealloc_begin(PyObject *self)
{
    struct endpoint *t = endpoint_of(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return false; /* somebody has taken it */
    PyObject_GC_UnTrack(self);
    if (t->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    if (t->kind != NULL)
        t->kind->drop(t);
    return true;
}

void
endpoint_dealloc_end(PyObject *self)
{
    struct endpoint *t = endpoint_of(self);
    PyTypeObject *type = Py_TYPE(self);
    endpoint_clear(t);
    Py_CLEAR(t->loop);
    Py_CLEAR(t->st_owner);
    live.transports--;
    type->tp_free(self);
    Py_DECREF(type);
}

const char *
endpoint_state(const struct endpoint *t)
{
    return t->file == NULL ? " closed" : t->is_closing ? " closing" : "";
}

/* As asyncio's pipes have it. */
PyObject *
endpoint_repr_of_pipe(PyObject *self)
{
    struct endpoint *t = endpoint_of(self);
    bool is_polling = t->kind->writes ? t->wants_room : t->wants_watch && !t->is_paused;
    const char *polls = t->file == NULL          ? "closed"
                        : !t->source.is_attached ? "open" /* the loop is closed */
                        : is_polling             ? "polling"
                                                 : "idle";
    char size[32] = "";
    if (t->file != NULL && t->kind->writes)
        snprintf(size, sizeof size, " bufsize=%zu", t->queued);
    const char *name = t->kind->writes ? "WritePipeTransport" : "ReadPipeTransport";
    return PyUnicode_FromFormat("<%s%s fd=%d %s%s>", name, endpoint_state(t), t->fd, polls, size);
}
