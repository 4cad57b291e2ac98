/* input.c: the request's body as a file to read from: wsgi.input (PEP 3333, "Input and Error Streams"). It ends where the body ends, also
 * where that came in chunks (wsgi.input_terminated).
 *
 * A short body is there when the application is called. Of a long one each piece is waited for without the GIL. A client that goes in the
 * middle is an OSError (ClientDisconnected).
 *
 * Runs on:  the request's thread, or another of the application's, one at a time; GIL held. */
#include "wsgi/wsgi.h"

#include <stdlib.h>

enum {
    GATHER_FIRST = 64 * 1024,       /* memory that a read begins with, whatever it asks for */
    GATHER_TRUST = 4 * 1024 * 1024, /* or what Content-Length says, up to this */
};

struct input {
    PyObject_HEAD
    struct wsgi_names *names;
    struct exchange *ex; /* NULL once over */
    bool is_busy;        /* somebody reads */
    bool is_kept;        /* ex is counted: see input_keep() */
};

/* NULL with an exception set. To be given back by leave(). */
static struct exchange *
enter(PyObject *self)
{
    struct input *in = (struct input *)self;
    if (UNLIKELY(in->ex == NULL)) {
        PyErr_SetString(PyExc_ValueError,
                        "the request's body was read after the request had ended");
        return NULL;
    }
    if (UNLIKELY(in->is_busy)) {
        PyErr_SetString(PyExc_RuntimeError, "the request's body is being read by another thread");
        return NULL;
    }
    in->is_busy = true;
    exchange_take(in->ex);
    return in->ex;
}

static void
leave(PyObject *self, struct exchange *ex)
{
    ((struct input *)self)->is_busy = false;
    exchange_give(ex);
}

/* Until something is there to be read: 1; 0 at the end; -1 with an exception set. */
static int
fill(PyObject *self, struct exchange *ex)
{
    if (LIKELY(ex->in_start < ex->in_end))
        return 1;
    if (ex->body_is_complete)
        return 0;
    int result;
    Py_BEGIN_ALLOW_THREADS;
    result = exchange_read(ex);
    Py_END_ALLOW_THREADS;
    if (result < 0)
        PyErr_SetString(((struct input *)self)->names->disconnected,
                        "the client has gone before all of its request's body had come");
    return result < 0 ? -1 : result;
}

static struct slice
there(const struct exchange *ex)
{
    return (struct slice){ ex->in + ex->in_start, ex->in_end - ex->in_start };
}

/* The first n of what is there. */
static PyObject *
take(struct exchange *ex, size_t n)
{
    PyObject *bytes = PyBytes_FromStringAndSize(there(ex).p, (Py_ssize_t)n);
    if (bytes != NULL)
        ex->in_start += n;
    return bytes;
}

/* --- reading -------------------------------------------------------------------------------------------------------------------- */

struct gathered {
    PyObject *bytes; /* new, of room bytes */
    size_t n, room;
};

static int
gather(struct gathered *g, struct exchange *ex, size_t n)
{
    if (g->bytes == NULL || n > g->room - g->n) {
        size_t room = g->room * 2 > g->n + n ? g->room * 2 : g->n + n;
        if (g->bytes == NULL)
            g->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
        else
            _PyBytes_Resize(&g->bytes, (Py_ssize_t)room);
        if (g->bytes == NULL)
            return -1;
        g->room = room;
    }
    memcpy(PyBytes_AS_STRING(g->bytes) + g->n, there(ex).p, n);
    g->n += n;
    ex->in_start += n;
    return 0;
}

static PyObject *
gather_end(struct gathered *g)
{
    if (g->bytes == NULL)
        return PyBytes_FromStringAndSize(NULL, 0);
    if (g->n < g->room)
        _PyBytes_Resize(&g->bytes, (Py_ssize_t)g->n);
    return py_take(&g->bytes);
}

/* Up to max bytes, waiting for them; is_line: to the end of a line. */
static PyObject *
read_up_to(PyObject *self, struct exchange *ex, size_t max, bool is_line)
{
    struct gathered g = { 0 };
    int result = 1;
    while (g.n < max && (result = fill(self, ex)) > 0) {
        struct slice s = there(ex);
        size_t n = s.n < max - g.n ? s.n : max - g.n;
        const char *newline = is_line ? memchr(s.p, '\n', n) : NULL;
        if (newline != NULL)
            n = (size_t)(newline - s.p) + 1;
        bool is_all = newline != NULL || g.n + n == max || (ex->body_is_complete && n == s.n);
        if (g.bytes == NULL && is_all) /* the common case: in one piece */
            return take(ex, n);
        if (g.bytes == NULL && !is_line) {
            uint64_t told = ex->req.content_length;
            size_t room =
                told != UINT64_MAX && told < GATHER_TRUST ? (size_t)told : (size_t)GATHER_FIRST;
            g.room = room < max ? room : max;
            if ((g.bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)g.room)) == NULL)
                return NULL;
        }
        if (gather(&g, ex, n) < 0)
            return NULL;
        if (newline != NULL)
            break;
    }
    if (result < 0) {
        Py_CLEAR(g.bytes);
        return NULL;
    }
    return gather_end(&g);
}

/* None and negative numbers: no limit. */
static int
size_of(PyObject *const *args, Py_ssize_t n, const char *what, size_t *out)
{
    *out = PY_SSIZE_T_MAX;
    if (UNLIKELY(n > 1)) {
        PyErr_Format(PyExc_TypeError, "%s takes at most one argument", what);
        return -1;
    }
    if (n == 0 || args[0] == Py_None)
        return 0;
    Py_ssize_t size = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (size == -1 && PyErr_Occurred())
        return -1;
    if (size >= 0)
        *out = (size_t)size;
    return 0;
}

static PyObject *
input_read(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    size_t max;
    struct exchange *ex;
    if (size_of(args, n, "read()", &max) < 0 || (ex = enter(self)) == NULL)
        return NULL;
    PyObject *bytes = read_up_to(self, ex, max, false);
    leave(self, ex);
    return bytes;
}

static PyObject *
input_readline(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    size_t max;
    struct exchange *ex;
    if (size_of(args, n, "readline()", &max) < 0 || (ex = enter(self)) == NULL)
        return NULL;
    PyObject *line = read_up_to(self, ex, max, true);
    leave(self, ex);
    return line;
}

/* Lines of as many bytes as the hint says, or a little more; 0 is no hint either, as everywhere in io. */
static PyObject *
input_readlines(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    size_t max, got = 0;
    struct exchange *ex;
    if (size_of(args, n, "readlines()", &max) < 0)
        return NULL;
    if (max == 0)
        max = PY_SSIZE_T_MAX;
    PY_OWNED PyObject *lines = PyList_New(0);
    if (lines == NULL || (ex = enter(self)) == NULL)
        return NULL;
    int err = 0;
    while (err == 0 && got < max) {
        PY_OWNED PyObject *line = read_up_to(self, ex, PY_SSIZE_T_MAX, true);
        if (line != NULL && PyBytes_GET_SIZE(line) == 0)
            break;
        err = line == NULL ? -1 : PyList_Append(lines, line);
        got += line != NULL ? (size_t)PyBytes_GET_SIZE(line) : 0;
    }
    leave(self, ex);
    return err < 0 ? NULL : py_take(&lines);
}

static PyObject *
input_next(PyObject *self)
{
    PyObject *line = input_readline(self, NULL, 0);
    if (line == NULL || PyBytes_GET_SIZE(line) > 0)
        return line;
    Py_DECREF(line);
    return NULL;
}

/* What there is, at least one byte unless it is the end. */
static PyObject *
input_read1(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    size_t max;
    struct exchange *ex;
    if (size_of(args, n, "read1()", &max) < 0 || (ex = enter(self)) == NULL)
        return NULL;
    PyObject *bytes = NULL;
    int result = max == 0 ? 0 : fill(self, ex);
    if (result == 0)
        bytes = PyBytes_FromStringAndSize(NULL, 0);
    else if (result > 0)
        bytes = take(ex, there(ex).n < max ? there(ex).n : max);
    leave(self, ex);
    return bytes;
}

static PyObject *
input_readinto(PyObject *self, PyObject *buffer)
{
    Py_buffer view;
    if (!PyArg_Parse(buffer, "w*:readinto", &view))
        return NULL;
    struct exchange *ex = enter(self);
    PyObject *result = NULL;
    if (ex != NULL) {
        int is_there = view.len == 0 ? 0 : fill(self, ex);
        size_t n = 0;
        if (is_there > 0) {
            n = there(ex).n < (size_t)view.len ? there(ex).n : (size_t)view.len;
            memcpy(view.buf, there(ex).p, n);
            ex->in_start += n;
        }
        if (is_there >= 0)
            result = PyLong_FromSize_t(n);
        leave(self, ex);
    }
    PyBuffer_Release(&view);
    return result;
}

/* --- the rest of a file, for what wraps it (io.BufferedReader, io.TextIOWrapper) ------------------------------------------------------ */

static PyObject *
say_true(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    Py_RETURN_TRUE;
}

static PyObject *
say_false(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    Py_RETURN_FALSE;
}

static PyObject *
say_none(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    Py_RETURN_NONE;
}

static PyObject *
get_closed(PyObject *self, void *unused)
{
    (void)self, (void)unused;
    Py_RETURN_FALSE;
}

/* --- the type -------------------------------------------------------------------------------------------------------------------------- */

PyObject *
input_new(struct wsgi_names *n, struct exchange *ex)
{
    struct input *in = PyObject_New(struct input, n->input_type);
    if (in == NULL)
        return NULL;
    in->names = n;
    in->ex = ex;
    in->is_busy = in->is_kept = false;
    return (PyObject *)in;
}

void
input_end(PyObject *self)
{
    ((struct input *)self)->ex = NULL;
}

void
input_keep(PyObject *self)
{
    struct input *in = (struct input *)self;
    in->is_kept = true;
    exchange_take(in->ex);
}

static void
input_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (((struct input *)self)->is_kept)
        exchange_give(((struct input *)self)->ex);
    PyObject_Free(self);
    Py_DECREF(type);
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef input_methods[] = {
    { "read", FAST(input_read), METH_FASTCALL,
      "read(size=-1): so many bytes of the body, fewer only at its end." },
    { "read1", FAST(input_read1), METH_FASTCALL,
      "read1(size=-1): what there is, up to so many bytes." },
    { "readinto", input_readinto, METH_O,
      "readinto(buffer): what there is, up to the buffer's size; returns how much." },
    { "readline", FAST(input_readline), METH_FASTCALL,
      "readline(size=-1): a line, or so many bytes of it." },
    { "readlines", FAST(input_readlines), METH_FASTCALL, "readlines(hint=-1): a list of lines." },
    { "readable", say_true, METH_NOARGS, NULL },
    { "writable", say_false, METH_NOARGS, NULL },
    { "seekable", say_false, METH_NOARGS, NULL },
    { "isatty", say_false, METH_NOARGS, NULL },
    { "flush", say_none, METH_NOARGS, NULL },
    { "close", say_none, METH_NOARGS, "Does nothing: the body ends with the request." },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef input_getset[] = {
    { "closed", get_closed, NULL, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot input_slots[] = {
    { Py_tp_doc, "wsgi.input: the body of a request (PEP 3333)." },
    { Py_tp_dealloc, input_dealloc },
    { Py_tp_iter, PyObject_SelfIter },
    { Py_tp_iternext, input_next },
    { Py_tp_methods, input_methods },
    { Py_tp_getset, input_getset },
    { 0, NULL },
};

PyType_Spec input_spec = {
    .name = "_ringcorn._Input",
    .basicsize = sizeof(struct input),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = input_slots,
};
