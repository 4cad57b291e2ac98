/* send_more.c: messages of the ASGI extensions: files by path or descriptor, early hints, trailers, debug information.
 *
 * A file is opened, or its descriptor duplicated, before send() returns, so the application may close and even delete it then; its
 * bytes go from the page cache to the socket without Python (net/file.c). send() waits until the client has nearly all of it. */
#include "asgi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* As http.response.body ends, but for the wait: a file is waited for when it is the last, too. */
static PyObject *
sent(struct cycle *cycle, enum http_write result, const char *what, bool more_body)
{
    if (result == HTTP_BROKEN)
        PyErr_SetString(cycle->asgi->names->disconnected, "the client has gone");
    else if (result == HTTP_TOO_LONG || result == HTTP_TOO_SHORT)
        PyErr_Format(PyExc_RuntimeError, "%s: the file is %s than the Content-Length that was sent",
                     what, result == HTTP_TOO_LONG ? "longer" : "shorter");
    if (result < 0)
        return NULL;
    cycle->is_body_sent = !more_body;
    if (!more_body && !list_is_empty(&cycle->waits))
        wait_wake_all(cycle);
    if (result == HTTP_FULL) {
        cycle->is_full = true;
        return wait_until(cycle, WAIT_DRAIN, NULL);
    }
    return wait_value(cycle, NULL);
}

static PyObject *
item(PyObject *event, PyObject *key)
{
    return PyDict_GetItemWithError(event, key); /* borrowed; NULL with or without an exception */
}

/* What was called meanwhile may have ended the request. */
static bool
is_over(struct cycle *cycle, PyObject *type)
{
    if (cycle->h != NULL && h1_is_started(cycle->h) && !h1_is_finished(cycle->h))
        return false;
    send_out_of_order(type, "the response is complete by now");
    return true;
}

/* --- files ------------------------------------------------------------------------------------------------------------ */

static PyObject *
send_path(struct cycle *cycle, PyObject *type, PyObject *event)
{
    static const char what[] = "http.response.pathsend";
    /* __fspath__ may empty the event */
    PY_OWNED PyObject *given = Py_XNewRef(item(event, cycle->asgi->names->s_path));
    PY_OWNED PyObject *path = NULL;
    if (given == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "http.response.pathsend: 'path' is missing");
    if (given == NULL || !PyUnicode_FSConverter(given, &path))
        return NULL;
    if (PyBytes_AS_STRING(path)[0] != '/')
        return PyErr_Format(PyExc_ValueError,
                            "http.response.pathsend: the path must be absolute, not %R", given);
    if (is_over(cycle, type))
        return NULL;
    struct stat st;
    FD_OWNED int fd = open(PyBytes_AS_STRING(path), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0)
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, given);
    if (!S_ISREG(st.st_mode))
        return PyErr_Format(PyExc_ValueError, "http.response.pathsend: %R is not a regular file",
                            given);
    uint64_t n = (uint64_t)st.st_size, most = h1_length_left(cycle->h);
    return sent(
        cycle,
        h1_write_file(cycle->h, fd_take(&fd), 0, n < most ? n : most, !cycle->expects_trailers),
        what, false);
}

/* A number of the message that is not negative; -1: there is none. -2: an exception. */
static long long
number(PyObject *event, PyObject *key)
{
    PyObject *value = item(event, key);
    if (value == NULL || value == Py_None)
        return PyErr_Occurred() ? -2 : -1;
    long long n = PyLong_AsLongLong(value);
    if (n >= 0)
        return n;
    if (!PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "http.response.zerocopysend: %R must not be negative", key);
    return -2;
}

/* Where the file stands: as its object says, which may have read ahead. -1 with an exception set. */
static long long
position(struct asgi_names *n, PyObject *file, int fd)
{
    if (PyLong_Check(file)) {
        off_t at = lseek(fd, 0, SEEK_CUR);
        if (at < 0)
            PyErr_SetFromErrno(PyExc_OSError);
        return at;
    }
    PY_OWNED PyObject *at = PyObject_CallMethodNoArgs(file, n->tell);
    return at == NULL ? -1 : PyLong_AsLongLong(at);
}

static int
position_set(struct asgi_names *n, PyObject *file, int fd, long long at)
{
    if (PyLong_Check(file))
        return lseek(fd, at, SEEK_SET) < 0 ? (PyErr_SetFromErrno(PyExc_OSError), -1) : 0;
    PY_OWNED PyObject *number = PyLong_FromLongLong(at);
    PY_OWNED PyObject *done =
        number == NULL ? NULL : PyObject_CallMethodOneArg(file, n->seek, number);
    return done == NULL ? -1 : 0;
}

static PyObject *
send_descriptor(struct cycle *cycle, PyObject *type, PyObject *event)
{
    static const char what[] = "http.response.zerocopysend";
    struct asgi_names *n = cycle->asgi->names;
    PY_OWNED PyObject *file = Py_XNewRef(item(event, n->s_file));
    if (file == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "http.response.zerocopysend: 'file' is missing");
        return NULL;
    }
    long long at = number(event, n->s_offset), count = at == -2 ? -2 : number(event, n->s_count);
    PyObject *more = count == -2 ? NULL : item(event, n->s_more_body);
    int more_body = more == NULL ? 0 : PyObject_IsTrue(more);
    if (count == -2 || more_body < 0 || PyErr_Occurred())
        return NULL;
    int fd = PyObject_AsFileDescriptor(file);
    struct stat st;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (!S_ISREG(st.st_mode))
        return PyErr_Format(PyExc_ValueError,
                            "http.response.zerocopysend: %R is not a regular file", file);
    bool is_at_position = at < 0;
    if (is_at_position && (at = position(n, file, fd)) < 0)
        return NULL;
    uint64_t left = st.st_size > at ? (uint64_t)(st.st_size - at) : 0;
    if (count >= 0 && (uint64_t)count < left)
        left = (uint64_t)count;
    if (is_at_position && position_set(n, file, fd, at + (long long)left) < 0)
        return NULL;
    if (is_over(cycle, type))
        return NULL;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    enum http_write result =
        h1_write_file(cycle->h, copy, (uint64_t)at, left, !more_body && !cycle->expects_trailers);
    return sent(cycle, result, what, more_body);
}

/* --- hints and trailers ----------------------------------------------------------------------------------------------- */

static PyObject *
send_hint(struct cycle *cycle, PyObject *event)
{
    /* so may __iter__ */
    PY_OWNED PyObject *given = Py_XNewRef(item(event, cycle->asgi->names->s_links));
    if (given == NULL && PyErr_Occurred())
        return NULL;
    PY_OWNED PyObject *links = given == NULL ? PyTuple_New(0) : PySequence_Tuple(given);
    if (links == NULL)
        return NULL;
    size_t n = (size_t)PyTuple_GET_SIZE(links);
    MEM_OWNED struct http_header *table = calloc(n + 1, sizeof(*table));
    if (table == NULL)
        return PyErr_NoMemory();
    for (size_t i = 0; i < n; i++) {
        PyObject *link = PyTuple_GET_ITEM(links, (Py_ssize_t)i);
        if (!PyBytes_Check(link))
            return PyErr_Format(PyExc_TypeError,
                                "http.response.early_hint: a link must be bytes, not %R", link);
        table[i] =
            (struct http_header){ SLICE("link"),
                                  { PyBytes_AS_STRING(link), (size_t)PyBytes_GET_SIZE(link) } };
    }
    if (cycle->h == NULL || n == 0) /* the answer may be there already: a hint is of no use then */
        return wait_value(cycle, NULL);
    if (h1_hint(cycle->h, table, n) == HTTP_BAD_VALUE)
        return PyErr_Format(
            PyExc_ValueError,
            "http.response.early_hint: CR, LF and NUL are not allowed in a link: %R", links);
    return wait_value(cycle, NULL);
}

static PyObject *
send_trailers(struct cycle *cycle, PyObject *type, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    if (!cycle->expects_trailers || !cycle->is_body_sent)
        return send_out_of_order(type,
                                 cycle->expects_trailers
                                     ? "the body comes first, with more_body False at its end"
                                     : "http.response.start must say so first: 'trailers': True");
    PyObject *more = item(event, n->s_more_trailers);
    int more_trailers = more == NULL ? 0 : PyObject_IsTrue(more);
    if (more_trailers < 0 || PyErr_Occurred())
        return NULL;
    struct header_table table;
    if (headers_take(cycle, event, "http.response.trailers", &table) < 0)
        return NULL;
    if (is_over(cycle, type)) {
        headers_drop(&table);
        return NULL;
    }
    size_t bad = 0;
    enum http_write err = h1_trailers(cycle->h, table.v, table.n, !more_trailers, &bad);
    if (err == HTTP_BROKEN) {
        PyErr_SetString(n->disconnected, "the client has gone");
    } else if (err < 0) {
        PY_OWNED PyObject *pair = PySequence_GetItem(table.pairs, (Py_ssize_t)bad);
        if (pair != NULL)
            PyErr_Format(PyExc_ValueError, "http.response.trailers: %R refused: %s", pair,
                         err == HTTP_BAD_NAME    ? "the name is not an HTTP token"
                         : err == HTTP_BAD_VALUE ? "CR, LF and NUL are not allowed in a value"
                                                 : "it may not be a trailer");
    }
    headers_drop(&table);
    if (err < 0)
        return NULL;
    if (!more_trailers && !list_is_empty(&cycle->waits))
        wait_wake_all(cycle);
    return wait_value(cycle, NULL);
}

/* Announced where log.level is debug: the specification wants it in development alone. */
static PyObject *
send_debug(struct cycle *cycle, PyObject *event)
{
    PY_OWNED PyObject *info = Py_XNewRef(item(event, cycle->asgi->names->s_info));
    if (info == NULL && PyErr_Occurred())
        return NULL;
    PY_OWNED PyObject *text = PyObject_Repr(info == NULL ? Py_None : info);
    const char *utf8 = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    if (utf8 == NULL)
        return NULL;
    log_debug("%s: %s", cycle_label(cycle), utf8);
    return wait_value(cycle, NULL);
}

PyObject *
send_extension(struct cycle *cycle, PyObject *its_type, PyObject *event)
{
    struct asgi_names *n = cycle->asgi->names;
    PY_OWNED PyObject *type = Py_NewRef(its_type); /* what runs below may empty the event */
    if (send_is_type(type, n->response_early_hint))
        return send_hint(cycle, event);
    if (send_is_type(type, n->response_debug) && cycle->asgi->http.conf->log_level == LOG_DEBUG)
        return send_debug(cycle, event);
    bool is_path = send_is_type(type, n->response_pathsend);
    if (!is_path && !send_is_type(type, n->response_zerocopysend) &&
        !send_is_type(type, n->response_trailers))
        return send_out_of_order(type, "this connection takes http.response.start and "
                                       "http.response.body, and what scope['extensions'] names");
    if (!h1_is_started(cycle->h))
        return send_out_of_order(type, "http.response.start must come first");
    if (send_is_type(type, n->response_trailers))
        return send_trailers(cycle, type, event);
    if (cycle->is_body_sent)
        return send_out_of_order(type,
                                 "the body is complete; http.response.trailers is what comes now");
    return is_path ? send_path(cycle, type, event) : send_descriptor(cycle, type, event);
}
