/* file.c: wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling").
 *
 * A wrapper around a real file that is returned as it is goes out without Python, from where the file object stands: the loop gets a copy of
 * the descriptor and sends from the page cache (net/file.c), while the thread serves others. Anything else, and a wrapper that middleware iterates, is read by its read() method.
 * A descriptor alone does not tell: a gzip.GzipFile has one too. So the type decides: io's own files, and nothing derived from them.
 *
 * Runs on:  the request's thread, GIL held. */
#include "wsgi/wsgi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BLOCK_DEFAULT = 8192,
};

struct file {
    PyObject_HEAD
    PyObject *file; /* new */
    PyObject *read; /* new: its method */
    PyObject *size; /* new: int, what read() is asked for */
};

/* --- reading from the descriptor -------------------------------------------------------------------------------------------------- */

/* The descriptor of a regular file, and where its object stands. False, without an exception: it is none. */
static bool
is_real(struct wsgi_names *n, PyObject *object, int *fd, off_t *at, off_t *size)
{
    PyTypeObject *type = Py_TYPE(object);
    PY_OWNED PyObject *raw = NULL;
    if (type == (PyTypeObject *)n->file_types[1] || type == (PyTypeObject *)n->file_types[2])
        raw = PyObject_GetAttr(object, n->s_raw);
    else
        raw = Py_NewRef(object);
    PY_OWNED PyObject *number = NULL, *position = NULL;
    if (raw != NULL && Py_TYPE(raw) == (PyTypeObject *)n->file_types[0]) {
        number = PyObject_CallMethodNoArgs(raw, n->s_fileno);
        position = number != NULL ? PyObject_CallMethodNoArgs(object, n->s_tell) : NULL;
    }
    long long where = position != NULL ? PyLong_AsLongLong(position) : -1;
    long descriptor = number != NULL ? PyLong_AsLong(number) : -1;
    struct stat st;
    if (PyErr_Occurred() || where < 0 || descriptor < 0) {
        PyErr_Clear(); /* closed, or no file to seek in: read() will say so */
        return false;
    }
    if (fstat((int)descriptor, &st) < 0 || !S_ISREG(st.st_mode))
        return false;
    *fd = (int)descriptor;
    *at = where;
    *size = st.st_size;
    return true;
}

/* Hands n bytes over as the last of the answer: the loop sends them, and the thread is free. The descriptor is a copy, so the
 * application may close its file now. No GIL; 0 or -errno, of which -EPIPE means the client. */
static int
send_range(struct exchange *ex, int fd, off_t at, uint64_t n)
{
    struct piece *piece = piece_new(0);
    if (piece == NULL)
        return -ENOMEM;
    piece->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (piece->fd < 0) {
        int err = -errno;
        piece_free(piece);
        return err;
    }
    piece->is_file = true;
    piece->at = (uint64_t)at;
    piece->n = n;
    return exchange_write_piece(ex, piece, true);
}

int
file_send(struct start *start, PyObject *result)
{
    struct exchange *ex = start->ex;
    struct file *f = (struct file *)result;
    int fd;
    off_t at, size;
    if (Py_TYPE(result) != start->names->file_type || ex->answer.status == 0 ||
        !is_real(start->names, f->file, &fd, &at, &size))
        return 0;
    uint64_t n = size > at ? (uint64_t)(size - at) : 0;
    if (ex->answer.length == UINT64_MAX && !ex->is_started && ex->answer.status != 204 &&
        ex->answer.status != 304) {
        exchange_total(ex, n);
        start->is_counted = !start_is_bodiless(start);
    }
    if (start_is_bodiless(start))
        return 1;
    if (start->is_counted && n > ex->answer.length - start->sent)
        n = ex->answer.length - start->sent; /* a range */
    start->sent += n;
    int err;
    Py_BEGIN_ALLOW_THREADS;
    err = n > 0 ? send_range(ex, fd, at, n) : 0;
    Py_END_ALLOW_THREADS;
    if (err == -EPIPE)
        return 2;
    if (err == 0)
        return 1;
    if (err == -ENOMEM) {
        PyErr_NoMemory();
    } else {
        errno = -err;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return -1;
}

/* --- the type ----------------------------------------------------------------------------------------------------------------------- */

static PyObject *
file_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "filelike", "blksize", NULL };
    PyObject *object;
    Py_ssize_t size = BLOCK_DEFAULT;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|n:FileWrapper", names, &object, &size))
        return NULL;
    PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    struct file *f = (struct file *)self;
    f->file = Py_NewRef(object);
    f->read = PyObject_GetAttrString(object, "read");
    f->size = PyLong_FromSsize_t(size > 0 ? size : BLOCK_DEFAULT);
    if (f->read == NULL || f->size == NULL)
        Py_CLEAR(self);
    return self;
}

static PyObject *
file_next(PyObject *self)
{
    struct file *f = (struct file *)self;
    PyObject *data = f->read == NULL ? NULL : PyObject_CallOneArg(f->read, f->size);
    if (data == NULL)
        return NULL;
    int is_more = PyObject_IsTrue(data);
    if (is_more <= 0)
        Py_CLEAR(data);
    return data;
}

static PyObject *
file_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct file *f = (struct file *)self;
    PY_OWNED PyObject *close = NULL;
    PY_OWNED PyObject *name = PyUnicode_InternFromString("close");
    if (name == NULL || f->file == NULL || PyObject_GetOptionalAttr(f->file, name, &close) < 0)
        return NULL;
    if (close == NULL)
        Py_RETURN_NONE;
    return PyObject_CallNoArgs(close);
}

static int
file_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct file *f = (struct file *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(f->file);
    Py_VISIT(f->read);
    return 0;
}

static int
file_clear(PyObject *self)
{
    struct file *f = (struct file *)self;
    Py_CLEAR(f->file);
    Py_CLEAR(f->read);
    Py_CLEAR(f->size);
    return 0;
}

static void
file_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    file_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef file_methods[] = {
    { "close", file_close, METH_NOARGS, "Closes the file, if it can be closed." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef file_members[] = {
    { "filelike", Py_T_OBJECT_EX, offsetof(struct file, file), Py_READONLY, NULL },
    { "blksize", Py_T_OBJECT_EX, offsetof(struct file, size), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot file_slots[] = {
    { Py_tp_doc,
      "FileWrapper(filelike, blksize=8192): an iterable that the server sends fast (PEP 3333)." },
    { Py_tp_new, file_new },
    { Py_tp_dealloc, file_dealloc },
    { Py_tp_traverse, file_traverse },
    { Py_tp_clear, file_clear },
    { Py_tp_iter, PyObject_SelfIter },
    { Py_tp_iternext, file_next },
    { Py_tp_methods, file_methods },
    { Py_tp_members, file_members },
    { 0, NULL },
};

PyType_Spec file_spec = {
    .name = "_ringcorn.FileWrapper",
    .basicsize = sizeof(struct file),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = file_slots,
};
