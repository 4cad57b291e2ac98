/* start.c: start_response() and the write() that it returns (PEP 3333, "The start_response() Callable").
 *
 * What the application says is checked here, while it can still hear of it: h1_start_as() on the loop only repeats the checks.
 *
 * Runs on:  the request's thread, or another of the application's; GIL held. */
#include "wsgi/wsgi.h"

#include <errno.h>
#include <stdlib.h>

enum { HEADERS_ON_STACK = 48 };

static bool
is_bodiless_status(int status)
{
    return status == 204 || status == 304;
}

bool
start_is_bodiless(const struct start *start)
{
    return start->ex->req.is_head || is_bodiless_status(start->ex->answer.status);
}

/* --- checks ---------------------------------------------------------------------------------------------------------------------- */

/* The bytes that a str of "bytes in str" stands for; they live as long as text. */
static int
latin1_of(PyObject *text, const char *what, struct slice *out)
{
    if (UNLIKELY(!PyUnicode_Check(text))) {
        PyErr_Format(PyExc_TypeError, "start_response(): %s must be str, not %.100s", what,
                     Py_TYPE(text)->tp_name);
        return -1;
    }
    if (UNLIKELY(PyUnicode_READY(text) < 0))
        return -1;
    if (UNLIKELY(PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND)) {
        PyErr_Format(
            PyExc_ValueError,
            "start_response(): %s %R has characters beyond Latin-1: each stands for one byte", what,
            text);
        return -1;
    }
    *out = (struct slice){ (const char *)PyUnicode_1BYTE_DATA(text),
                           (size_t)PyUnicode_GET_LENGTH(text) };
    return 0;
}

/* "404 Not Found": the code, and what is behind its space; no space: the usual phrase (reason->p NULL). */
static int
parse_status(PyObject *object, int *status, struct slice *reason)
{
    struct slice s;
    if (latin1_of(object, "the status", &s) < 0)
        return -1;
    int code = 0;
    for (size_t i = 0; i < 3 && code >= 0; i++)
        code = i < s.n && s.p[i] >= '0' && s.p[i] <= '9' ? code * 10 + (s.p[i] - '0') : -1;
    if (code < 200 || (s.n > 3 && s.p[3] != ' ')) {
        PyErr_Format(PyExc_ValueError,
                     "start_response(): status %R is not like '200 OK', from 200 to 999", object);
        return -1;
    }
    *status = code;
    *reason = s.n > 3 ? (struct slice){ s.p + 4, s.n - 4 } : (struct slice){ 0 };
    return 0;
}

/* Of a connection, not of the message: the server's alone (RFC 2616 section 13.5.1, which PEP 3333 names). */
static bool
is_hop_by_hop(struct slice name)
{
    switch (name.n) {
    case 2:
        return slice_is_nocase(name, "te");
    case 7:
        return slice_is_nocase(name, "trailer") || slice_is_nocase(name, "upgrade");
    case 8:
        return slice_is_nocase(name, "trailers");
    case 10:
        return slice_is_nocase(name, "connection") || slice_is_nocase(name, "keep-alive");
    case 17:
        return slice_is_nocase(name, "transfer-encoding");
    case 18:
        return slice_is_nocase(name, "proxy-authenticate");
    case 19:
        return slice_is_nocase(name, "proxy-authorization");
    default:
        return false;
    }
}

/* Of a value that h1_check_start() lets pass. */
static uint64_t
length_of(struct slice value)
{
    uint64_t n = 0;
    value = slice_trim(value);
    for (size_t i = 0; i < value.n; i++)
        n = n * 10 + (uint64_t)(value.p[i] - '0');
    return n;
}

static int
parse_header(PyObject *pair, size_t i, struct http_header *out)
{
    if (UNLIKELY(!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2)) {
        PyErr_Format(PyExc_TypeError,
                     "start_response(): header %zu must be a tuple (name, value), not %R", i, pair);
        return -1;
    }
    if (latin1_of(PyTuple_GET_ITEM(pair, 0), "a header's name", &out->name) < 0 ||
        latin1_of(PyTuple_GET_ITEM(pair, 1), "a header's value", &out->value) < 0)
        return -1;
    if (UNLIKELY(is_hop_by_hop(out->name))) {
        PyErr_Format(PyExc_ValueError,
                     "start_response(): header %R refused: it is hop-by-hop, and so the server's "
                     "alone (PEP 3333)",
                     pair);
        return -1;
    }
    return 0;
}

static void
set_refused(enum http_write err, PyObject *status, PyObject *headers, size_t bad)
{
    if (err == HTTP_BAD_STATUS) {
        PyErr_Format(PyExc_ValueError, "start_response(): status %R has control characters",
                     status);
        return;
    }
    const char *why = err == HTTP_BAD_NAME ? "the name is not an HTTP token"
                      : err == HTTP_BAD_VALUE
                          ? "CR, LF and NUL are not allowed in a value"
                          : "Content-Length must be one decimal number, and be sent once";
    PyErr_Format(PyExc_ValueError, "start_response(): header %R refused: %s",
                 PyList_GET_ITEM(headers, (Py_ssize_t)bad), why);
}

/* No Python runs here, so the list stays as it is. */
static int
take_head(struct exchange *ex, PyObject *status_object, PyObject *headers)
{
    int status;
    struct slice reason;
    if (parse_status(status_object, &status, &reason) < 0)
        return -1;
    if (UNLIKELY(!PyList_Check(headers))) {
        PyErr_Format(PyExc_TypeError,
                     "start_response(): the headers must be a list of tuples, not %.100s",
                     Py_TYPE(headers)->tp_name);
        return -1;
    }
    size_t n = (size_t)PyList_GET_SIZE(headers), bad = 0;
    struct http_header on_stack[HEADERS_ON_STACK], *table = on_stack;
    MEM_OWNED struct http_header *on_heap = NULL;
    if (n > HEADERS_ON_STACK && (table = on_heap = calloc(n, sizeof(*table))) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    uint64_t length = UINT64_MAX;
    size_t length_at = n;
    for (size_t i = 0; i < n; i++) {
        if (parse_header(PyList_GET_ITEM(headers, (Py_ssize_t)i), i, &table[i]) < 0)
            return -1;
        if (table[i].name.n == 14 && slice_is_nocase(table[i].name, "content-length"))
            length_at = i;
    }
    enum http_write err = h1_check_start(status, reason, table, n, &bad);
    if (UNLIKELY(err != HTTP_OK)) {
        set_refused(err, status_object, headers, bad);
        return -1;
    }
    if (length_at < n)
        length = length_of(table[length_at].value);
    if (UNLIKELY(exchange_start(ex, status, reason, table, n, length) < 0)) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* --- start_response() ------------------------------------------------------------------------------------------------------------- */

static PyObject *
ended(const char *what)
{
    return PyErr_Format(PyExc_RuntimeError, "%s was called after the request had ended", what);
}

/* Raises what exc_info holds, with its traceback. */
static PyObject *
reraise(PyObject *exc_info)
{
    PyObject *value = PyTuple_GET_ITEM(exc_info, 1), *traceback = PyTuple_GET_ITEM(exc_info, 2);
    if (PyTraceBack_Check(traceback) && PyException_SetTraceback(value, traceback) < 0)
        return NULL;
    PyErr_SetRaisedException(Py_NewRef(value));
    return NULL;
}

static PyObject *write_call(PyObject *self, PyObject *const *args, size_t nargsf,
                            PyObject *kwnames);

static PyObject *
start_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct start *start = (struct start *)self;
    struct exchange *ex = start->ex;
    Py_ssize_t n = PyVectorcall_NARGS(nargsf);
    PyObject *exc_info = n == 3 ? args[2] : Py_None;
    if (UNLIKELY(kwnames != NULL)) {
        if (n == 2 && PyTuple_GET_SIZE(kwnames) == 1 &&
            PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "exc_info") == 0)
            exc_info = args[n];
        else
            n = 0;
    }
    if (UNLIKELY(n < 2 || n > 3)) {
        PyErr_SetString(PyExc_TypeError,
                        "start_response() takes a status, a list of headers, and perhaps exc_info");
        return NULL;
    }
    if (UNLIKELY(ex == NULL))
        return ended("start_response()");
    if (UNLIKELY(exc_info != Py_None)) {
        if (!PyTuple_Check(exc_info) || PyTuple_GET_SIZE(exc_info) != 3 ||
            !PyExceptionInstance_Check(PyTuple_GET_ITEM(exc_info, 1))) {
            PyErr_SetString(PyExc_TypeError,
                            "start_response(): exc_info must be what sys.exc_info() returns");
            return NULL;
        }
        if (ex->is_started)
            return reraise(exc_info);
    } else if (UNLIKELY(ex->answer.status != 0)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "start_response() was called a second time, without exc_info");
        return NULL;
    }
    if (take_head(ex, args[0], args[1]) < 0)
        return NULL;
    start->is_counted = ex->answer.length != UINT64_MAX && !start_is_bodiless(start);
    struct write *write = PyObject_New(struct write, start->names->write_type);
    if (write == NULL)
        return NULL;
    write->call = write_call;
    write->start = (struct start *)Py_NewRef(self);
    return (PyObject *)write;
}

/* --- the body ---------------------------------------------------------------------------------------------------------------------- */

/* Content-Length is reached and there is more. What fits is sent, so that the answer is whole. */
static int
send_what_fits(struct start *start, PyObject *bytes)
{
    struct exchange *ex = start->ex;
    uint64_t left = ex->answer.length - start->sent;
    if (left > 0) {
        PY_OWNED PyObject *fits =
            PyBytes_FromStringAndSize(PyBytes_AS_STRING(bytes), (Py_ssize_t)left);
        int result = fits == NULL ? -1 : start_send(start, fits, false);
        if (result != 0)
            return result;
    }
    PyErr_Format(PyExc_RuntimeError,
                 "the application sends more body than its Content-Length, which is %llu",
                 (unsigned long long)ex->answer.length);
    return -1;
}

int
start_send(struct start *start, PyObject *bytes, bool may_wait)
{
    struct exchange *ex = start->ex;
    if (UNLIKELY(!PyBytes_Check(bytes))) {
        PyErr_Format(PyExc_TypeError, "the body must be bytes, not %.100s",
                     Py_TYPE(bytes)->tp_name);
        return -1;
    }
    if (UNLIKELY(ex->answer.status == 0)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the application sent a body without calling start_response()");
        return -1;
    }
    size_t n = (size_t)PyBytes_GET_SIZE(bytes);
    if (n == 0)
        return 0;
    bool is_last = false;
    if (start->is_counted) {
        if (UNLIKELY(n > ex->answer.length - start->sent))
            return send_what_fits(start, bytes);
        is_last = start->sent + n == ex->answer.length;
    }
    start->sent += n;
    int err = may_wait && !is_last ? exchange_write(ex, bytes) : exchange_add(ex, bytes);
    if (UNLIKELY(err == -ENOMEM)) {
        PyErr_NoMemory();
        return -1;
    }
    if (UNLIKELY(err < 0))
        return 1;
    if (is_last) /* nothing can follow: the client need not wait for what the application does yet */
        exchange_end(ex, !may_wait);
    return 0;
}

static PyObject *
write_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct start *start = ((struct write *)self)->start;
    if (UNLIKELY(PyVectorcall_NARGS(nargsf) != 1 || kwnames != NULL)) {
        PyErr_SetString(PyExc_TypeError, "write() takes one bytes object");
        return NULL;
    }
    if (UNLIKELY(start->ex == NULL))
        return ended("write()");
    exchange_take(start->ex); /* the request may end while another thread is in here */
    struct exchange *ex = start->ex;
    int result = start_send(start, args[0], true);
    exchange_give(ex);
    if (result > 0)
        PyErr_SetString(start->names->disconnected, "the client has gone");
    return result == 0 ? Py_NewRef(Py_None) : NULL;
}

/* --- the types --------------------------------------------------------------------------------------------------------------------- */

struct start *
start_new(struct wsgi_names *n, struct exchange *ex)
{
    struct start *start = PyObject_New(struct start, n->start_type);
    if (start == NULL)
        return NULL;
    start->call = start_call;
    start->names = n;
    start->ex = ex;
    start->sent = 0;
    start->is_counted = false;
    return start;
}

static void
start_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static void
write_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF((PyObject *)((struct write *)self)->start);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMemberDef start_members[] = {
    { "__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct start, call), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyMemberDef write_members[] = {
    { "__vectorcalloffset__", Py_T_PYSSIZET, offsetof(struct write, call), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot start_slots[] = {
    { Py_tp_doc, "start_response(status, headers, exc_info=None) of one request (PEP 3333)." },
    { Py_tp_dealloc, start_dealloc },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, start_members },
    { 0, NULL },
};

static PyType_Slot write_slots[] = {
    { Py_tp_doc, "write(data): sends a piece of the body at once (PEP 3333)." },
    { Py_tp_dealloc, write_dealloc },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, write_members },
    { 0, NULL },
};

enum {
    FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION |
            Py_TPFLAGS_IMMUTABLETYPE,
};

PyType_Spec start_spec = {
    .name = "_ringcorn._StartResponse",
    .basicsize = sizeof(struct start),
    .flags = FLAGS,
    .slots = start_slots,
};

PyType_Spec write_spec = {
    .name = "_ringcorn._Write",
    .basicsize = sizeof(struct write),
    .flags = FLAGS,
    .slots = write_slots,
};
