/* result.c: what operations on files give to Python, and the calls that only a thread can make.
 *
 * Runs on:  the loop's thread with the GIL; call_*() in any thread, without. */
#include "aio/private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* --- calls in a thread ------------------------------------------------------------------------------------------------- */

enum {
    NAMES_FIRST = 4096,
    LINK_MAX_N = 64 * 1024, /* no file system has longer ones */
};

/* One name of a directory: this, the name and its NUL. */
struct name_head {
    uint64_t ino;
    uint8_t type;
};

static struct file_op *
op_of(struct io_file *file)
{
    return CONTAINER_OF(file, struct file_op, file);
}

static int
add_name(struct file_op *op, size_t *cap, const struct dirent *entry)
{
    size_t n = strlen(entry->d_name) + 1;
    size_t need = op->memory_n + sizeof(struct name_head) + n;
    if (need > *cap) {
        size_t more = *cap != 0 ? *cap : NAMES_FIRST;
        while (more < need)
            more *= 2;
        char *memory = realloc(op->memory, more);
        if (memory == NULL)
            return -ENOMEM;
        op->memory = memory;
        *cap = more;
    }
    struct name_head head = { .ino = entry->d_ino, .type = entry->d_type };
    char *to = (char *)op->memory + op->memory_n;
    memcpy(to, &head, sizeof(head));
    memcpy(to + sizeof(head), entry->d_name, n);
    op->memory_n = need;
    return 0;
}

int
call_names(struct io_file *file)
{
    struct file_op *op = op_of(file);
    /* Of a descriptor a copy, as closedir() closes it; both stand at the same place, so it begins anew. */
    int fd = file->path != NULL ? open(file->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                                : fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        int err = -errno;
        close(fd);
        return err;
    }
    if (file->path == NULL)
        rewinddir(dir);
    size_t cap = 0;
    int res = 0;
    const struct dirent *entry;
    for (errno = 0; res >= 0 && (entry = readdir(dir)) != NULL; errno = 0) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            res = add_name(op, &cap, entry);
    }
    if (res >= 0 && errno != 0)
        res = -errno;
    if (file->path == NULL)
        rewinddir(dir);
    closedir(dir);
    return res;
}

int
call_link(struct io_file *file)
{
    struct file_op *op = op_of(file);
    op->memory = malloc(LINK_MAX_N);
    if (op->memory == NULL)
        return -ENOMEM;
    ssize_t n = readlinkat(file->dir_fd, file->path, op->memory, LINK_MAX_N);
    op->memory_n = n > 0 ? (size_t)n : 0;
    return n < 0 ? -errno : (int)n;
}

int
call_seek(struct io_file *file)
{
    off_t at = lseek(file->fd, file->at, file->flags);
    if (at < 0)
        return -errno;
    file->at = at;
    return 0;
}

int
call_truncate(struct io_file *file)
{
    return truncate(file->path, file->at) < 0 ? -errno : 0;
}

/* --- results ----------------------------------------------------------------------------------------------------------- */

/* os.stat_result's tuple: a name and a value each, as posixmodule.c computes them. */
static PyObject *
stat_result(struct file_op *op)
{
    const struct statx *s = op->memory;
    const struct statx_timestamp *times[] = { &s->stx_atime, &s->stx_mtime, &s->stx_ctime };
    enum { FIELDS = 19, TIMES = 7, FLOATS = 10, NANOS = 13, MORE = 16 };
    PY_OWNED PyObject *fields = PyTuple_New(FIELDS);
    if (fields == NULL)
        return NULL;
    const unsigned long long numbers[] = {
        s->stx_mode,  s->stx_ino, makedev(s->stx_dev_major, s->stx_dev_minor),
        s->stx_nlink, s->stx_uid, s->stx_gid,
        s->stx_size,
    };
    const unsigned long long more[] = { s->stx_blksize, s->stx_blocks,
                                        makedev(s->stx_rdev_major, s->stx_rdev_minor) };
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        PyTuple_SET_ITEM(fields, (Py_ssize_t)i, PyLong_FromUnsignedLongLong(numbers[i]));
    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        PyTuple_SET_ITEM(fields, (Py_ssize_t)(MORE + i), PyLong_FromUnsignedLongLong(more[i]));
    PY_OWNED PyObject *billion = PyLong_FromLong(1000 * 1000 * 1000);
    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        int64_t seconds = times[i]->tv_sec;
        uint32_t ns = times[i]->tv_nsec;
        PyTuple_SET_ITEM(fields, (Py_ssize_t)(TIMES + i), PyLong_FromLongLong(seconds));
        PyTuple_SET_ITEM(fields, (Py_ssize_t)(FLOATS + i),
                         PyFloat_FromDouble((double)seconds + 1e-9 * ns));
        /* In numbers of Python's: a date far away overflows 64 bits. */
        PY_OWNED PyObject *whole = PyLong_FromLongLong(seconds);
        PY_OWNED PyObject *part = PyLong_FromUnsignedLong(ns);
        PY_OWNED PyObject *product =
            whole != NULL && billion != NULL ? PyNumber_Multiply(whole, billion) : NULL;
        PyTuple_SET_ITEM(fields, (Py_ssize_t)(NANOS + i),
                         product != NULL && part != NULL ? PyNumber_Add(product, part) : NULL);
    }
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (PyTuple_GET_ITEM(fields, i) == NULL)
            return NULL;
    }
    return PyObject_CallOneArg(op->files->stat_result, fields);
}

static PyObject *
name_of(const struct file_op *op, const char *p, size_t n)
{
    return op->has_bytes_names ? PyBytes_FromStringAndSize(p, (Py_ssize_t)n)
                               : PyUnicode_DecodeFSDefaultAndSize(p, (Py_ssize_t)n);
}

/* [(name, d_type, inode)] */
static PyObject *
names_result(struct file_op *op)
{
    PY_OWNED PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    const char *end = (const char *)op->memory + op->memory_n;
    for (const char *p = op->memory; p != NULL && p < end;) {
        struct name_head head;
        memcpy(&head, p, sizeof(head));
        p += sizeof(head);
        size_t n = strlen(p);
        PY_OWNED PyObject *name = name_of(op, p, n);
        PY_OWNED PyObject *item =
            name != NULL ? Py_BuildValue("OBK", name, head.type, (unsigned long long)head.ino)
                         : NULL;
        if (item == NULL || PyList_Append(list, item) < 0)
            return NULL;
        p += n + 1;
    }
    return py_take(&list);
}

static PyObject *
bytes_result(struct file_op *op)
{
    PyObject *bytes = py_take(&op->bytes);
    if (op->res < PyBytes_GET_SIZE(bytes) && _PyBytes_Resize(&bytes, op->res) < 0)
        return NULL;
    return bytes;
}

/* As open() and os.stat() fail. */
static void
set_error(struct file_op *op)
{
    errno = -op->res;
    if (op->names[0] == NULL)
        PyErr_SetFromErrno(PyExc_OSError);
    else if (op->names[1] == NULL)
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, op->names[0]);
    else
        PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, op->names[0], op->names[1]);
}

PyObject *
op_result(struct file_op *op)
{
    op->state = OP_TAKEN;
    if (op->res < 0) {
        set_error(op);
        return NULL;
    }
    switch ((enum op_gives)op->gives) {
    case GIVES_NONE:
        break;
    case GIVES_NUMBER:
        return PyLong_FromLongLong(op->file.what == IO_FILE_CALL ? op->file.at : op->res);
    case GIVES_FD: {
        PyObject *fd = PyLong_FromLong(op->res);
        if (fd == NULL)
            op->state = OP_DONE; /* and is closed with it */
        return fd;
    }
    case GIVES_BYTES:
        return bytes_result(op);
    case GIVES_STAT:
        return stat_result(op);
    case GIVES_NAMES:
        return names_result(op);
    case GIVES_LINK:
        return name_of(op, op->memory, op->memory_n);
    }
    Py_RETURN_NONE;
}
