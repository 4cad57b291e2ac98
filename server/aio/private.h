/* private.h: what the files of aio/ share. */
#ifndef RINGCORN_AIO_PRIVATE_H
#define RINGCORN_AIO_PRIVATE_H

#include "aio/aio.h"

/* _ringcorn.Files: types and names, made once. */
struct files {
    PyObject_HEAD
    PyTypeObject *op_type;
    PyObject *loop_type;        /* _ringcorn.LoopCore */
    PyObject *stat_result;      /* os.stat_result */
    PyObject *get_running_loop; /* asyncio.get_running_loop */
    PyObject *s_future_blocking, *s_result, *s_done, *s_set_result, *s_run, *s_woken;
    PyObject *s_create_future, *s_run_in_executor, *s_add_done_callback;
};

enum op_state { OP_NEW, OP_FLIGHT, OP_ELSEWHERE, OP_DONE, OP_TAKEN };

enum op_gives {
    GIVES_NONE,
    GIVES_NUMBER,
    GIVES_BYTES,
    GIVES_FD,
    GIVES_STAT,
    GIVES_NAMES,
    GIVES_LINK
};

struct file_op {
    PyObject_HEAD
    struct io_file file;
    struct post post;         /* its completion, on the way to phase 3 */
    struct loop_io_user user; /* in flight */
    struct files *files;      /* new */
    PyObject *loop;           /* new, while in flight */
    PyObject *waiter;         /* new: the future that its awaiter has yielded; or NULL */
    PyObject *paths[2];       /* new: bytes, what file.path and path2 point into */
    PyObject *names[2];       /* new: as the caller gave them, for errors */
    PyObject *bytes;          /* new: what a read fills */
    Py_buffer view;           /* of a write, or a read into the caller's memory */
    void *memory;             /* malloc(): statx, names, a link's target */
    size_t memory_n;
    PyObject *on_done; /* new: to be called then; or NULL */
    PyObject *lost;    /* new: why it came to nothing, where that is no errno */
    int res;
    uint8_t state;        /* enum op_state */
    uint8_t gives;        /* enum op_gives */
    bool has_bytes_names; /* names are bytes, not str */
    bool is_posted;
};

extern PyType_Spec file_op_spec, files_spec;

/* New, with nothing set but what. NULL with an exception set. */
struct file_op *op_new(struct files *files, enum io_file_what what, enum op_gives gives);

/* Of one that is OP_DONE: new, or NULL with its exception set. Once. */
PyObject *op_result(struct file_op *op);

/* IO_FILE_CALL */
/* of directory file->path, or fd where that is NULL, into memory: see result.c */
int call_names(struct io_file *file);
int call_link(struct io_file *file);     /* readlinkat() */
int call_seek(struct io_file *file);     /* lseek(fd, at, flags), which comes back in at */
int call_truncate(struct io_file *file); /* truncate(path, at) */

#endif
