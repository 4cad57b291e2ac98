/* tls_transport.c: the transport that an application has of a TLS connection: asyncio's _SSLProtocolTransport.
 *
 * Runs on:  the loop's thread, GIL held; its finaliser wherever the last reference goes.
 * Leaves to others:  everything but the parts of methods that are not worth a function (tls.c, tls_pipe.c). */
#include "transport/tls_private.h"

static struct pytls_transport *
transport_of(PyObject *object)
{
    return (struct pytls_transport *)object;
}

/* The connection, borrowed; NULL once a transport that was closed is closed again: from then on it does nothing. */
static struct pytls *
tls_of(PyObject *self)
{
    return transport_of(self)->tls;
}

PyObject *
pytls_transport_new(struct pytls *tls)
{
    PyTypeObject *type = tls->names->transport_type;
    struct pytls_transport *t = (struct pytls_transport *)type->tp_alloc(type, 0);
    if (t != NULL)
        t->tls = (struct pytls *)Py_NewRef((PyObject *)tls);
    return (PyObject *)t;
}

void
pytls_transport_close(PyObject *transport)
{
    transport_of(transport)->is_closed = true;
}

static PyObject *
none_or_error(int err)
{
    return err == 0 ? Py_NewRef(Py_None) : NULL;
}

/* --- writing ------------------------------------------------------------------------------------- */

static PyObject *
meth_write(PyObject *self, PyObject *data)
{
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        PyErr_Format(PyExc_TypeError, "data: expecting a bytes-like instance, got %.200s",
                     Py_TYPE(data)->tp_name);
        return NULL;
    }
    struct pytls *t = tls_of(self);
    return none_or_error(t != NULL ? pytls_write(t, data) : 0);
}

static PyObject *
meth_writelines(PyObject *self, PyObject *list)
{
    struct pytls *t = tls_of(self);
    return none_or_error(t != NULL ? pytls_write_many(t, list) : 0);
}

static PyObject *
meth_write_eof(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    PyErr_SetString(PyExc_NotImplementedError, "TLS closes both directions at once");
    return NULL;
}

static PyObject *
meth_can_write_eof(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_FALSE;
}

/* For asyncio's tests: written, and not yet encrypted. */
static PyObject *
meth_append_write_backlog(PyObject *self, PyObject *data)
{
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "bytes are expected");
        return NULL;
    }
    struct pytls *t = tls_of(self);
    return none_or_error(t != NULL ? pytls_backlog_add(t, data, 0) : 0);
}

/* --- reading -------------------------------------------------------------------------------------- */

static PyObject *
meth_is_reading(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct pytls *t = tls_of(self);
    return PyBool_FromLong(t != NULL && !t->is_reading_paused);
}

static PyObject *
meth_pause_reading(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    if (t != NULL)
        t->is_reading_paused = true;
    Py_RETURN_NONE;
}

/* What has waited is delivered from the loop, not from in here. */
static PyObject *
meth_resume_reading(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    if (t == NULL || !t->is_reading_paused)
        Py_RETURN_NONE;
    t->is_reading_paused = false;
    PY_OWNED PyObject *resume = PyObject_GetAttr((PyObject *)t, t->names->s__resume);
    return none_or_error(resume != NULL ? pytls_call(t->loop, t->names->s_call_soon, resume) : -1);
}

/* --- limits --------------------------------------------------------------------------------------- */

/* (high=None, low=None), or how they follow from each other and from what is usual. */
static int
parse_limits(PyObject *args, PyObject *kwargs, Py_ssize_t usual, Py_ssize_t *high, Py_ssize_t *low)
{
    enum { QUARTER = 4 };
    static char *keywords[] = { "high", "low", NULL };
    PyObject *high_given = Py_None, *low_given = Py_None;
    Py_ssize_t h = usual, l = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO", keywords, &high_given, &low_given))
        return -1;
    if (low_given != Py_None && (l = PyNumber_AsSsize_t(low_given, NULL)) == -1 && PyErr_Occurred())
        return -1;
    if (high_given != Py_None) {
        h = PyNumber_AsSsize_t(high_given, NULL);
        if (h == -1 && PyErr_Occurred())
            return -1;
    } else if (low_given != Py_None) {
        h = l <= PY_SSIZE_T_MAX / QUARTER ? l * QUARTER : PY_SSIZE_T_MAX;
    }
    if (low_given == Py_None)
        l = h / QUARTER;
    if (h < l || l < 0) {
        PyErr_Format(PyExc_ValueError, "high (%zd) must be >= low (%zd) must be >= 0", h, l);
        return -1;
    }
    *high = h;
    *low = l;
    return 0;
}

static PyObject *
meth_set_write_buffer_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct pytls *t = tls_of(self);
    Py_ssize_t high, low;
    if (parse_limits(args, kwargs, TLS_WRITE_HIGH, &high, &low) < 0)
        return NULL;
    if (t == NULL)
        Py_RETURN_NONE;
    t->write_high = high;
    t->write_low = low;
    return none_or_error(pytls_control_app(t));
}

static PyObject *
meth_set_read_buffer_limits(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct pytls *t = tls_of(self);
    Py_ssize_t high, low;
    if (parse_limits(args, kwargs, TLS_READ_HIGH, &high, &low) < 0)
        return NULL;
    if (t == NULL)
        Py_RETURN_NONE;
    t->read_high = high;
    t->read_low = low;
    return none_or_error(t->is_established ? pytls_control_below(t) : 0);
}

static PyObject *
meth_get_write_buffer_limits(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    return t != NULL ? Py_BuildValue("(nn)", t->write_low, t->write_high)
                     : Py_BuildValue("(ii)", 0, 0);
}

static PyObject *
meth_get_read_buffer_limits(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    return t != NULL ? Py_BuildValue("(nn)", t->read_low, t->read_high)
                     : Py_BuildValue("(ii)", 0, 0);
}

static PyObject *
meth_get_write_buffer_size(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    Py_ssize_t size = t != NULL ? pytls_write_size(t) : 0;
    return size >= 0 ? PyLong_FromSsize_t(size) : NULL;
}

static PyObject *
meth_get_read_buffer_size(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    Py_ssize_t size = t != NULL ? pytls_read_size(t) : 0;
    return size >= 0 ? PyLong_FromSsize_t(size) : NULL;
}

/* --- the rest -------------------------------------------------------------------------------------- */

static PyObject *
meth_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = { "name", "default", NULL };
    PyObject *name, *fallback = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", keywords, &name,
                                     &fallback))
        return NULL;
    struct pytls *t = tls_of(self);
    return t != NULL ? pytls_extra(t, name, fallback) : Py_NewRef(fallback);
}

static PyObject *
meth_set_protocol(PyObject *self, PyObject *protocol)
{
    if (tls_of(self) != NULL)
        pytls_set_app(tls_of(self), protocol);
    Py_RETURN_NONE;
}

static PyObject *
meth_get_protocol(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    return Py_NewRef(t != NULL && t->app != NULL ? t->app : Py_None);
}

/* Also where the transport below has begun to close by itself: a failed write, for instance. */
static PyObject *
meth_is_closing(PyObject *self, PyObject *unused)
{
    struct pytls *t = tls_of(self);
    (void)unused;
    if (transport_of(self)->is_closed || t == NULL || t->below == NULL)
        return PyBool_FromLong(transport_of(self)->is_closed);
    return PyObject_CallMethodNoArgs(t->below, t->names->s_is_closing);
}

/* The second time, as in asyncio, the transport lets go of the connection: a protocol that keeps its transport is then no cycle. */
static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    struct pytls_transport *t = transport_of(self);
    PY_OWNED PyObject *tls = Py_XNewRef((PyObject *)t->tls);
    (void)unused;
    if (tls == NULL)
        Py_RETURN_NONE;
    if (t->is_closed)
        Py_CLEAR(t->tls);
    t->is_closed = true;
    return none_or_error(pytls_close(pytls_of(tls)));
}

static PyObject *
abort_with(PyObject *self, PyObject *exception)
{
    struct pytls *t = tls_of(self);
    transport_of(self)->is_closed = true;
    return none_or_error(t != NULL ? pytls_abort(t, exception) : 0);
}

static PyObject *
meth_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    return abort_with(self, NULL);
}

static PyObject *
meth_force_close(PyObject *self, PyObject *exception)
{
    return abort_with(self, exception != Py_None ? exception : NULL);
}

static PyObject *
get_protocol_paused(PyObject *self, void *closure)
{
    (void)closure;
    struct pytls *t = tls_of(self);
    return PyBool_FromLong(t != NULL && t->is_app_paused);
}

static PyObject *
get_loop(PyObject *self, void *closure)
{
    (void)closure;
    struct pytls *t = tls_of(self);
    return Py_NewRef(t != NULL ? t->loop : Py_None);
}

static PyObject *
get_tls(PyObject *self, void *closure)
{
    (void)closure;
    struct pytls *t = tls_of(self);
    return Py_NewRef(t != NULL ? (PyObject *)t : Py_None);
}

/* --- the type --------------------------------------------------------------------------------------- */

static int
transport_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pytls_transport *t = transport_of(self);
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < ARRAY_LEN(t->base_slots); i++)
        Py_VISIT(t->base_slots[i]);
    Py_VISIT((PyObject *)t->tls);
    Py_VISIT(t->dict);
    return 0;
}

/* tls stays: a cycle through it is broken at its end. */
static int
transport_clear(PyObject *self)
{
    struct pytls_transport *t = transport_of(self);
    for (size_t i = 0; i < ARRAY_LEN(t->base_slots); i++)
        Py_CLEAR(t->base_slots[i]);
    Py_CLEAR(t->dict);
    return 0;
}

static void
transport_finalize(PyObject *self)
{
    struct pytls_transport *t = transport_of(self);
    if (t->is_closed || t->tls == NULL)
        return;
    t->is_closed = true;
    PyObject *pending = PyErr_GetRaisedException();
    if (PyErr_ResourceWarning(self, 1, "unclosed transport %R", self) < 0)
        PyErr_WriteUnraisable(self);
    PyErr_SetRaisedException(pending);
}

static void
transport_dealloc(PyObject *self)
{
    struct pytls_transport *t = transport_of(self);
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    if (t->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    transport_clear(self);
    Py_CLEAR(t->tls);
    type->tp_free(self);
    Py_DECREF(type);
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef transport_methods[] = {
    { "write", meth_write, METH_O, "Encrypt and send; does not wait." },
    { "writelines", meth_writelines, METH_O, "Encrypt and send all of them, in order." },
    { "write_eof", meth_write_eof, METH_NOARGS, "Not in TLS: NotImplementedError." },
    { "can_write_eof", meth_can_write_eof, METH_NOARGS, "False." },
    { "is_reading", meth_is_reading, METH_NOARGS, "Whether received data is delivered." },
    { "pause_reading", meth_pause_reading, METH_NOARGS, "Deliver nothing for now." },
    { "resume_reading", meth_resume_reading, METH_NOARGS, "Deliver again." },
    { "set_write_buffer_limits", KEYWORDS(meth_set_write_buffer_limits),
      METH_VARARGS | METH_KEYWORDS, "When pause_writing() and resume_writing() are called." },
    { "get_write_buffer_limits", meth_get_write_buffer_limits, METH_NOARGS, "(low, high)" },
    { "get_write_buffer_size", meth_get_write_buffer_size, METH_NOARGS,
      "Bytes not yet handed to the transport below." },
    { "set_read_buffer_limits", KEYWORDS(meth_set_read_buffer_limits), METH_VARARGS | METH_KEYWORDS,
      "When the transport below is told to pause and to resume." },
    { "get_read_buffer_limits", meth_get_read_buffer_limits, METH_NOARGS, "(low, high)" },
    { "get_read_buffer_size", meth_get_read_buffer_size, METH_NOARGS,
      "Bytes received and not yet decrypted." },
    { "get_extra_info", KEYWORDS(meth_get_extra_info), METH_VARARGS | METH_KEYWORDS,
      "Of TLS, or of the transport below." },
    { "set_protocol", meth_set_protocol, METH_O, "Another protocol for what comes." },
    { "get_protocol", meth_get_protocol, METH_NOARGS,
      "The protocol, until the connection is lost." },
    { "is_closing", meth_is_closing, METH_NOARGS, "Whether it closes or is closed." },
    { "close", meth_close, METH_NOARGS, "Send what was written, then close both ways." },
    { "abort", meth_abort, METH_NOARGS, "Close at once." },
    { "_force_close", meth_force_close, METH_O, "Close at once, with an exception or None." },
    { "_test__append_write_backlog", meth_append_write_backlog, METH_O, NULL },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef transport_members[] = {
    { "__dictoffset__", Py_T_PYSSIZET, offsetof(struct pytls_transport, dict), Py_READONLY, NULL },
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct pytls_transport, weakrefs), Py_READONLY,
      NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef transport_getset[] = {
    { "_protocol_paused", get_protocol_paused, NULL, NULL, NULL },
    { "_loop", get_loop, NULL, NULL, NULL },
    { "_ssl_protocol", get_tls, NULL, "TLS as the protocol of the transport below.", NULL },
    { "__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot transport_slots[] = {
    { Py_tp_doc, "The application's transport of a TLS connection." },
    { Py_tp_dealloc, transport_dealloc },
    { Py_tp_finalize, transport_finalize },
    { Py_tp_traverse, transport_traverse },
    { Py_tp_clear, transport_clear },
    { Py_tp_methods, transport_methods },
    { Py_tp_members, transport_members },
    { Py_tp_getset, transport_getset },
    { 0, NULL },
};

/* Not immutable: its base, of asyncio.transports, is not. */
PyType_Spec pytls_transport_spec = {
    .name = "_ringcorn.SSLTransport",
    .basicsize = sizeof(struct pytls_transport),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = transport_slots,
};
