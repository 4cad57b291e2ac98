/* files.c: the type _ringcorn.Files: operations on files made from Python's arguments. Nothing is begun here: the first await does.
 *
 * Runs on:  any thread with the GIL. */
#include "aio/private.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

static struct files *
files_of(PyObject *self)
{
    return (struct files *)self;
}

/* --- arguments --------------------------------------------------------------------------------------------------------- */

/* A str, bytes or os.PathLike: paths[i], names[i] and where it goes. 0, or -1 with an exception set. May run Python. */
static int
take_path(struct file_op *op, size_t i, PyObject *arg)
{
    PY_OWNED PyObject *name = PyOS_FSPath(arg);
    if (name == NULL || !PyUnicode_FSConverter(name, &op->paths[i]))
        return -1;
    op->has_bytes_names = PyBytes_Check(name);
    op->names[i] = py_take(&name);
    *(i == 0 ? &op->file.path : &op->file.path2) = PyBytes_AS_STRING(op->paths[i]);
    return 0;
}

/* An int is a descriptor, else as above. */
static int
take_path_or_fd(struct file_op *op, PyObject *arg)
{
    if (!PyIndex_Check(arg))
        return take_path(op, 0, arg);
    int overflow;
    long fd = PyLong_AsLongAndOverflow(arg, &overflow);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    if (overflow != 0 || fd > INT_MAX || fd < INT_MIN) {
        PyErr_SetString(PyExc_OverflowError, "fd is out of range");
        return -1;
    }
    op->file.fd = (int)fd;
    op->names[0] = Py_NewRef(arg);
    return 0;
}

/* The operation, where it was made out of right arguments; else drops it. */
static PyObject *
made(struct file_op *op, bool is_right)
{
    if (!is_right) {
        Py_DECREF(op);
        return NULL;
    }
    return (PyObject *)op;
}

/* An int argument; -1 with an exception set. */
static int
fd_of(PyObject *arg)
{
    int overflow;
    long fd = PyLong_AsLongAndOverflow(arg, &overflow);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    if (overflow != 0 || fd < 0 || fd > INT_MAX) {
        PyErr_SetString(PyExc_ValueError,
                        "a file descriptor is a small number that is not negative");
        return -1;
    }
    return (int)fd;
}

/* (fd, what[, at]); a negative at is where the descriptor stands. */
static bool
take_transfer(struct file_op *op, PyObject *const *args, Py_ssize_t n, const char *name)
{
    if (n < 2 || n > 3) {
        PyErr_Format(PyExc_TypeError, "%s() takes two or three arguments", name);
        return false;
    }
    if ((op->file.fd = fd_of(args[0])) < 0)
        return false;
    if (n == 3) {
        op->file.at = PyLong_AsLongLong(args[2]);
        if (op->file.at == -1 && PyErr_Occurred())
            return false;
    }
    return true;
}

/* --- methods --------------------------------------------------------------------------------------------------------------- */

/* open(path, flags, mode, dir_fd) */
static PyObject *
meth_open(PyObject *self, PyObject *args)
{
    PyObject *path;
    struct file_op *op = op_new(files_of(self), IO_FILE_OPEN, GIVES_FD);
    if (op == NULL)
        return NULL;
    op->file.dir_fd = AT_FDCWD;
    return made(op, PyArg_ParseTuple(args, "OiI|i:open", &path, &op->file.flags, &op->file.mode,
                                     &op->file.dir_fd) &&
                        take_path(op, 0, path) == 0);
}

/* read(fd, n[, at]) */
static PyObject *
meth_read(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct file_op *op = op_new(files_of(self), IO_FILE_READ, GIVES_BYTES);
    if (op == NULL)
        return NULL;
    if (!take_transfer(op, args, n, "read"))
        return made(op, false);
    Py_ssize_t size = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
    if (size < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "read() takes a size that is not negative");
        return made(op, false);
    }
    if (size > IO_FILE_MAX)
        size = IO_FILE_MAX;
    if ((op->bytes = PyBytes_FromStringAndSize(NULL, size)) == NULL)
        return made(op, false);
    op->file.buf = PyBytes_AS_STRING(op->bytes);
    op->file.n = (size_t)size;
    return (PyObject *)op;
}

/* readinto(fd, buffer[, at]), write(fd, buffer[, at]) */
static PyObject *
transfer(PyObject *self, PyObject *const *args, Py_ssize_t n, enum io_file_what what, int flags,
         const char *name)
{
    struct file_op *op = op_new(files_of(self), what, GIVES_NUMBER);
    if (op == NULL)
        return NULL;
    if (!take_transfer(op, args, n, name) || PyObject_GetBuffer(args[1], &op->view, flags) < 0)
        return made(op, false);
    op->file.buf = op->view.buf;
    op->file.n = (size_t)op->view.len;
    return (PyObject *)op;
}

static PyObject *
meth_readinto(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return transfer(self, args, n, IO_FILE_READ, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS, "readinto");
}

static PyObject *
meth_write(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return transfer(self, args, n, IO_FILE_WRITE, PyBUF_C_CONTIGUOUS, "write");
}

/* fsync(fd, is_data_only) */
static PyObject *
meth_fsync(PyObject *self, PyObject *args)
{
    int is_data_only = 0;
    struct file_op *op = op_new(files_of(self), IO_FILE_SYNC, GIVES_NONE);
    if (op == NULL)
        return NULL;
    bool is_right = PyArg_ParseTuple(args, "i|p:fsync", &op->file.fd, &is_data_only);
    op->file.flags = is_data_only ? IO_FILE_DATASYNC : 0;
    return made(op, is_right);
}

static PyObject *
meth_close(PyObject *self, PyObject *fd)
{
    struct file_op *op = op_new(files_of(self), IO_FILE_CLOSE, GIVES_NONE);
    if (op == NULL)
        return NULL;
    return made(op, (op->file.fd = fd_of(fd)) >= 0);
}

/* stat(path or fd, dir_fd, follows) */
static PyObject *
meth_stat(PyObject *self, PyObject *args)
{
    PyObject *path;
    int follows = 1;
    struct file_op *op = op_new(files_of(self), IO_FILE_STAT, GIVES_STAT);
    if (op == NULL)
        return NULL;
    op->file.dir_fd = AT_FDCWD;
    if (!PyArg_ParseTuple(args, "O|ip:stat", &path, &op->file.dir_fd, &follows) ||
        take_path_or_fd(op, path) < 0)
        return made(op, false);
    op->file.flags = follows ? 0 : AT_SYMLINK_NOFOLLOW;
    if (op->file.path == NULL) {
        op->file.dir_fd = op->file.fd;
        op->file.path = "";
        op->file.flags |= AT_EMPTY_PATH;
    }
    op->file.buf = op->memory = malloc(sizeof(struct statx));
    if (op->memory == NULL)
        PyErr_NoMemory();
    return made(op, op->memory != NULL);
}

/* truncate(path or fd, size) */
static PyObject *
meth_truncate(PyObject *self, PyObject *args)
{
    PyObject *path;
    long long size;
    struct file_op *op = op_new(files_of(self), IO_FILE_TRUNCATE, GIVES_NONE);
    if (op == NULL)
        return NULL;
    if (!PyArg_ParseTuple(args, "OL:truncate", &path, &size) || take_path_or_fd(op, path) < 0)
        return made(op, false);
    op->file.at = size;
    if (op->file.path != NULL) {
        op->file.what = IO_FILE_CALL;
        op->file.call = call_truncate;
    }
    return (PyObject *)op;
}

/* allocate(fd, flags, at, size) */
static PyObject *
meth_allocate(PyObject *self, PyObject *args)
{
    long long at, size;
    struct file_op *op = op_new(files_of(self), IO_FILE_ALLOCATE, GIVES_NONE);
    if (op == NULL)
        return NULL;
    bool is_right =
        PyArg_ParseTuple(args, "iiLL:allocate", &op->file.fd, &op->file.flags, &at, &size);
    if (is_right) {
        op->file.at = at;
        op->file.size = size;
    }
    return made(op, is_right);
}

/* unlink(path, dir_fd, flags) */
static PyObject *
meth_unlink(PyObject *self, PyObject *args)
{
    PyObject *path;
    struct file_op *op = op_new(files_of(self), IO_FILE_UNLINK, GIVES_NONE);
    if (op == NULL)
        return NULL;
    op->file.dir_fd = AT_FDCWD;
    return made(op,
                PyArg_ParseTuple(args, "O|ii:unlink", &path, &op->file.dir_fd, &op->file.flags) &&
                    take_path(op, 0, path) == 0);
}

/* (source, target, source's dir_fd, target's dir_fd, flags) */
static PyObject *
two_paths(PyObject *self, PyObject *args, enum io_file_what what, const char *format)
{
    PyObject *source, *target;
    struct file_op *op = op_new(files_of(self), what, GIVES_NONE);
    if (op == NULL)
        return NULL;
    op->file.dir_fd = op->file.dir_fd2 = AT_FDCWD;
    return made(op, PyArg_ParseTuple(args, format, &source, &target, &op->file.dir_fd,
                                     &op->file.dir_fd2, &op->file.flags) &&
                        take_path(op, 0, source) == 0 && take_path(op, 1, target) == 0);
}

static PyObject *
meth_rename(PyObject *self, PyObject *args)
{
    return two_paths(self, args, IO_FILE_RENAME, "OO|iii:rename");
}

static PyObject *
meth_link(PyObject *self, PyObject *args)
{
    return two_paths(self, args, IO_FILE_LINK, "OO|iii:link");
}

/* symlink(source, target, unused, target's dir_fd) */
static PyObject *
meth_symlink(PyObject *self, PyObject *args)
{
    return two_paths(self, args, IO_FILE_SYMLINK, "OO|iii:symlink");
}

/* mkdir(path, mode, dir_fd) */
static PyObject *
meth_mkdir(PyObject *self, PyObject *args)
{
    PyObject *path;
    struct file_op *op = op_new(files_of(self), IO_FILE_MKDIR, GIVES_NONE);
    if (op == NULL)
        return NULL;
    op->file.dir_fd = AT_FDCWD;
    op->file.mode = 0777;
    return made(op, PyArg_ParseTuple(args, "O|Ii:mkdir", &path, &op->file.mode, &op->file.dir_fd) &&
                        take_path(op, 0, path) == 0);
}

/* readlink(path, dir_fd) */
static PyObject *
meth_readlink(PyObject *self, PyObject *args)
{
    PyObject *path;
    struct file_op *op = op_new(files_of(self), IO_FILE_CALL, GIVES_LINK);
    if (op == NULL)
        return NULL;
    op->file.call = call_link;
    op->file.dir_fd = AT_FDCWD;
    return made(op, PyArg_ParseTuple(args, "O|i:readlink", &path, &op->file.dir_fd) &&
                        take_path(op, 0, path) == 0);
}

/* seek(fd, offset, whence) */
static PyObject *
meth_seek(PyObject *self, PyObject *args)
{
    long long at;
    struct file_op *op = op_new(files_of(self), IO_FILE_CALL, GIVES_NUMBER);
    if (op == NULL)
        return NULL;
    op->file.call = call_seek;
    bool is_right = PyArg_ParseTuple(args, "iLi:seek", &op->file.fd, &at, &op->file.flags);
    if (is_right)
        op->file.at = at;
    return made(op, is_right);
}

/* names(path or fd) */
static PyObject *
meth_names(PyObject *self, PyObject *path)
{
    struct file_op *op = op_new(files_of(self), IO_FILE_CALL, GIVES_NAMES);
    if (op == NULL)
        return NULL;
    op->file.call = call_names;
    return made(op, take_path_or_fd(op, path) == 0);
}

/* known(fd): (mode, size of a regular file or -1, block size), without asking a disk or a server: what is in memory. */
static PyObject *
meth_known(PyObject *self, PyObject *arg)
{
    (void)self;
    int fd = fd_of(arg);
    if (fd < 0)
        return NULL;
    struct statx s;
    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &s) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    long long size = S_ISREG(s.stx_mode) ? (long long)s.stx_size : -1;
    return Py_BuildValue("iLI", (int)s.stx_mode, size, (unsigned)s.stx_blksize);
}

/* --- life ---------------------------------------------------------------------------------------------------------------- */

static PyObject *
import_from(const char *module_name, const char *name)
{
    PY_OWNED PyObject *module = PyImport_ImportModule(module_name);
    return module != NULL ? PyObject_GetAttrString(module, name) : NULL;
}

/* Files() */
static PyObject *
files_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) != 0 || kwargs != NULL) {
        PyErr_SetString(PyExc_TypeError, "Files() takes no arguments");
        return NULL;
    }
    PY_OWNED PyObject *self = type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    struct files *f = files_of(self);
    const struct {
        PyObject **to;
        const char *text;
    } names[] = {
        { &f->s_future_blocking, "_asyncio_future_blocking" },
        { &f->s_result, "result" },
        { &f->s_done, "done" },
        { &f->s_set_result, "set_result" },
        { &f->s_run, "run" },
        { &f->s_woken, "_woken" },
        { &f->s_create_future, "create_future" },
        { &f->s_run_in_executor, "run_in_executor" },
        { &f->s_add_done_callback, "add_done_callback" },
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if ((*names[i].to = PyUnicode_InternFromString(names[i].text)) == NULL)
            return NULL;
    }
    f->op_type = (PyTypeObject *)import_from("_ringcorn", "FileOp");
    if (f->op_type == NULL || (f->loop_type = import_from("_ringcorn", "LoopCore")) == NULL ||
        (f->stat_result = import_from("os", "stat_result")) == NULL ||
        (f->get_running_loop = import_from("asyncio", "get_running_loop")) == NULL)
        return NULL;
    return py_take(&self);
}

static int
files_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct files *f = files_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(f->op_type);
    Py_VISIT(f->loop_type);
    Py_VISIT(f->stat_result);
    Py_VISIT(f->get_running_loop);
    return 0;
}

/* The types go with the last operation, which needs them: nothing here can be part of a cycle that only the collector ends. */
static void
files_dealloc(PyObject *self)
{
    struct files *f = files_of(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_CLEAR(f->op_type);
    Py_CLEAR(f->loop_type);
    Py_CLEAR(f->stat_result);
    Py_CLEAR(f->get_running_loop);
    Py_CLEAR(f->s_future_blocking);
    Py_CLEAR(f->s_result);
    Py_CLEAR(f->s_done);
    Py_CLEAR(f->s_set_result);
    Py_CLEAR(f->s_run);
    Py_CLEAR(f->s_woken);
    Py_CLEAR(f->s_create_future);
    Py_CLEAR(f->s_run_in_executor);
    Py_CLEAR(f->s_add_done_callback);
    type->tp_free(self);
    Py_DECREF(type);
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef files_methods[] = {
    { "open", meth_open, METH_VARARGS, "open(path, flags, mode[, dir_fd]): a descriptor." },
    { "read", FAST(meth_read), METH_FASTCALL, "read(fd, n[, at]): bytes." },
    { "readinto", FAST(meth_readinto), METH_FASTCALL,
      "readinto(fd, buffer[, at]): how many bytes." },
    { "write", FAST(meth_write), METH_FASTCALL, "write(fd, buffer[, at]): how many bytes." },
    { "fsync", meth_fsync, METH_VARARGS, "fsync(fd[, is_data_only])." },
    { "close", meth_close, METH_O, "close(fd)." },
    { "stat", meth_stat, METH_VARARGS, "stat(path or fd[, dir_fd, follows]): os.stat_result." },
    { "truncate", meth_truncate, METH_VARARGS, "truncate(path or fd, size)." },
    { "allocate", meth_allocate, METH_VARARGS, "allocate(fd, flags, at, size): fallocate(2)." },
    { "unlink", meth_unlink, METH_VARARGS, "unlink(path[, dir_fd, flags])." },
    { "rename", meth_rename, METH_VARARGS, "rename(source, target[, dir_fd, dir_fd, flags])." },
    { "link", meth_link, METH_VARARGS, "link(source, target[, dir_fd, dir_fd, flags])." },
    { "symlink", meth_symlink, METH_VARARGS, "symlink(source, target[, unused, dir_fd])." },
    { "mkdir", meth_mkdir, METH_VARARGS, "mkdir(path[, mode, dir_fd])." },
    { "readlink", meth_readlink, METH_VARARGS, "readlink(path[, dir_fd]): str or bytes." },
    { "seek", meth_seek, METH_VARARGS, "seek(fd, offset, whence): where it stands then." },
    { "known", meth_known, METH_O,
      "known(fd): (mode, size of a regular file or -1, block size), at once: as far as it is in "
      "memory." },
    { "names", meth_names, METH_O, "names(path or fd): [(name, d_type, inode)] of a directory." },
    { NULL, NULL, 0, NULL },
};

static PyType_Slot files_slots[] = {
    { Py_tp_doc, "Makes operations on files: awaitables, which the first await begins." },
    { Py_tp_new, files_new },
    { Py_tp_dealloc, files_dealloc },
    { Py_tp_traverse, files_traverse },
    { Py_tp_methods, files_methods },
    { 0, NULL },
};

PyType_Spec files_spec = {
    .name = "_ringcorn.Files",
    .basicsize = sizeof(struct files),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = files_slots,
};

int
aio_add_types(PyObject *module)
{
    PyType_Spec *const specs[] = { &file_op_spec, &files_spec };
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        PY_OWNED PyObject *type = PyType_FromModuleAndSpec(module, specs[i], NULL);
        if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0)
            return -1;
    }
    return 0;
}
