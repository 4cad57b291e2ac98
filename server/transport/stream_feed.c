/* stream_feed.c: what StreamReaderProtocol.data_received() and StreamReader.feed_data() of asyncio do, in C: bytes go from the socket
 * into the reader's buffer, with no bytes object between.
 *
 * Only where both are asyncio's own, unchanged: a subclass, or another method put into class or object, is called as ever.
 *
 * Runs on:  the loop's thread with the GIL, in phase 3. */
#include "transport/stream.h"

/* Is object.name the method that asyncio has made? -1 with an exception set. */
static int
has_method(PyObject *object, PyObject *name, PyObject *function)
{
    PY_OWNED PyObject *method = PyObject_GetAttr(object, name);
    if (method == NULL)
        return -1;
    return PyMethod_Check(method) && PyMethod_GET_FUNCTION(method) == function &&
           PyMethod_GET_SELF(method) == object;
}

/* object.name is true? */
static int
is_true(PyObject *object, PyObject *name)
{
    PY_OWNED PyObject *value = PyObject_GetAttr(object, name);
    return value != NULL ? PyObject_IsTrue(value) : -1;
}

static PyObject *
find_reader(struct stream *t, PyObject **buffer)
{
    struct transport_state *st = t->st;
    if (has_method(t->protocol, st->s_data_received, st->reader_data_received) <= 0)
        return NULL;
    PY_OWNED PyObject *ref = PyObject_GetAttr(t->protocol, st->s__stream_reader_wr);
    if (ref == NULL || ref == Py_None)
        return NULL;
    PY_OWNED PyObject *reader = PyObject_CallNoArgs(ref);
    if (reader == NULL || (PyObject *)Py_TYPE(reader) != st->reader_type ||
        has_method(reader, st->s_feed_data, st->reader_feed_data) <= 0 ||
        is_true(reader, st->s__eof) != 0)
        return NULL;
    PY_OWNED PyObject *bytes = PyObject_GetAttr(reader, st->s__buffer);
    if (bytes == NULL || !PyByteArray_CheckExact(bytes))
        return NULL;
    *buffer = py_take(&bytes);
    return py_take(&reader);
}

PyObject *
stream_reader(struct stream *t, PyObject **buffer)
{
    PyObject *reader = find_reader(t, buffer);
    if (UNLIKELY(reader == NULL))
        PyErr_Clear(); /* the way through Python says what it was */
    return reader;
}

static int
wake(struct stream *t, PyObject *reader)
{
    struct transport_state *st = t->st;
    PY_OWNED PyObject *waiter = PyObject_GetAttr(reader, st->s__waiter);
    if (waiter == NULL)
        return -1;
    if (waiter == Py_None)
        return 0;
    if (PyObject_SetAttr(reader, st->s__waiter, Py_None) < 0)
        return -1;
    PY_OWNED PyObject *cancelled = transport_call0(waiter, st->s_cancelled);
    int is_cancelled = cancelled != NULL ? PyObject_IsTrue(cancelled) : -1;
    if (is_cancelled != 0)
        return is_cancelled < 0 ? -1 : 0;
    PY_OWNED PyObject *set = transport_call(waiter, st->s_set_result, Py_None);
    return set != NULL ? 0 : -1;
}

/* More than twice the limit: len > 2 * reader._limit. */
static int
is_over(struct transport_state *st, PyObject *reader, PyObject *buffer)
{
    PY_OWNED PyObject *limit = PyObject_GetAttr(reader, st->s__limit);
    double bytes = limit != NULL ? PyFloat_AsDouble(limit) : -1;
    if (bytes == -1 && PyErr_Occurred())
        return -1;
    return (double)PyByteArray_GET_SIZE(buffer) > 2 * bytes;
}

int
stream_fed(struct stream *t, PyObject *reader, PyObject *buffer)
{
    struct transport_state *st = t->st;
    if (wake(t, reader) < 0)
        return -1;
    int over = is_over(st, reader, buffer);
    if (LIKELY(over == 0))
        return 0;
    int is_paused = over < 0 ? -1 : is_true(reader, st->s__paused);
    if (is_paused != 0)
        return is_paused < 0 ? -1 : 0;
    PY_OWNED PyObject *transport = PyObject_GetAttr(reader, st->s__transport);
    if (transport == NULL || transport == Py_None)
        return transport == NULL ? -1 : 0;
    PY_OWNED PyObject *done = transport_call0(transport, st->s_pause_reading);
    if (done != NULL)
        return PyObject_SetAttr(reader, st->s__paused, Py_True);
    if (!PyErr_ExceptionMatches(PyExc_NotImplementedError))
        return -1;
    PyErr_Clear(); /* of a transport of somebody else's, put there: it cannot, and is not asked again */
    return PyObject_SetAttr(reader, st->s__transport, Py_None);
}
