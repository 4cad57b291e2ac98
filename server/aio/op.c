/* op.c: the type _ringcorn.FileOp: an operation on a file that can be awaited; aio.h has its life.
 *
 * It is its own iterator, as wait.c's: the future that it yields is marked as __await__() of it would, an iterator less.
 *
 * Runs on:  the loop's thread with the GIL, unless a function says otherwise. */
#include "aio/private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    /* Reads of the page cache are made at once for so long in one step of the loop; then they go the long way round, so that others have
     * their turn. */
    AT_ONCE_NS = 500 * 1000,
    AT_ONCE_MAX = 64 * 1024, /* bytes of one */
};

static void on_io(struct io_op *io_op, int res, unsigned flags);
static void on_post(struct post *post, PyObject *loop);
static void on_gone(struct loop_io_user *user, bool is_closed);

struct file_op *
op_new(struct files *files, enum io_file_what what, enum op_gives gives)
{
    struct file_op *op = (struct file_op *)files->op_type->tp_alloc(files->op_type, 0);
    if (op == NULL)
        return NULL;
    op->files = (struct files *)Py_NewRef((PyObject *)files);
    io_op_init(&op->file.op, on_io);
    list_init(&op->user.link);
    op->user.gone = on_gone;
    op->post.fn = on_post;
    op->file.what = what;
    op->file.fd = -1;
    op->file.at = -1;
    op->gives = (uint8_t)gives;
    return op;
}

/* What the kernel needs no longer. May run Python. */
static void
drop_arguments(struct file_op *op)
{
    for (size_t i = 0; i < ARRAY_LEN(op->paths); i++)
        Py_CLEAR(op->paths[i]);
    if (op->view.obj != NULL)
        PyBuffer_Release(&op->view);
}

static void
op_dealloc(PyObject *self)
{
    struct file_op *op = (struct file_op *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject *pending = PyErr_GetRaisedException();
    if (op->state == OP_DONE && op->gives == GIVES_FD && op->res >= 0)
        close(op->res); /* opened for somebody who left */
    drop_arguments(op);
    for (size_t i = 0; i < ARRAY_LEN(op->names); i++)
        Py_CLEAR(op->names[i]);
    Py_CLEAR(op->bytes);
    Py_CLEAR(op->waiter);
    Py_CLEAR(op->loop);
    Py_CLEAR(op->lost);
    Py_CLEAR(op->on_done);
    Py_CLEAR(op->files);
    free(op->memory);
    PyErr_SetRaisedException(pending);
    type->tp_free(self);
    Py_DECREF(type);
}

/* --- the end ------------------------------------------------------------------------------------------------------- */

/* Wakes who waits. May run Python; leaves no exception set. */
static void
wake(struct file_op *op)
{
    struct files *f = op->files;
    PY_OWNED PyObject *waiter = py_take(&op->waiter);
    if (waiter == NULL)
        return;
    PY_OWNED PyObject *is_done = PyObject_CallMethodNoArgs(waiter, f->s_done);
    PyObject *args[] = { waiter, Py_None };
    PY_OWNED PyObject *done = is_done == Py_False
                                  ? PyObject_VectorcallMethod(f->s_set_result, args, 2, NULL)
                                  : Py_XNewRef(is_done);
    if (done == NULL)
        PyErr_WriteUnraisable(waiter);
}

/* May run Python; leaves no exception set. */
static void
tell_done(struct file_op *op)
{
    PY_OWNED PyObject *on_done = py_take(&op->on_done);
    if (on_done == NULL)
        return;
    PY_OWNED PyObject *done = PyObject_CallNoArgs(on_done);
    if (done == NULL)
        PyErr_WriteUnraisable(on_done);
}

/* Steals the reference that the flight was. May run Python. */
static void
land(struct file_op *op, int res, bool is_heard)
{
    live.file_ops--;
    list_del(&op->user.link);
    op->res = res;
    op->state = OP_DONE;
    drop_arguments(op);
    if (is_heard)
        wake(op);
    else
        Py_CLEAR(op->waiter);
    tell_done(op);
    Py_CLEAR(op->loop);
    Py_DECREF(op);
}

/* Phase 3. loop: NULL: it was closed meanwhile. */
static void
on_post(struct post *post, PyObject *loop)
{
    struct file_op *op = CONTAINER_OF(post, struct file_op, post);
    op->is_posted = false;
    land(op, op->res, loop != NULL);
}

/* The I/O phase: no Python. */
static void
on_io(struct io_op *io_op, int res, unsigned flags)
{
    struct file_op *op =
        CONTAINER_OF(CONTAINER_OF(io_op, struct io_file, op), struct file_op, file);
    (void)flags;
    op->res = res;
    op->is_posted = true;
    loop_post_here(op->loop, &op->post);
}

/* The io that it was armed in is no more. */
static void
on_gone(struct loop_io_user *user, bool is_closed)
{
    struct file_op *op = CONTAINER_OF(user, struct file_op, user);
    if (op->is_posted)
        return; /* it had ended before */
    if (op->file.op.armed) {
        /* The kernel, or a thread, is still inside it: it keeps its memory and its own reference for good. */
        op->lost = Py_NewRef(PyExc_RuntimeError);
        if (is_closed)
            Py_CLEAR(op->waiter);
        else
            wake(op);
        return;
    }
    land(op, -ECANCELED, !is_closed);
}

/* --- the beginning --------------------------------------------------------------------------------------------------- */

/* preadv2(2): Linux 5.9 and 5.10 may say 0, which is the end of a file, of what is not in memory. */
static bool
is_at_end(int fd, int64_t at)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return true;
    return (at >= 0 ? at : lseek(fd, 0, SEEK_CUR)) >= st.st_size;
}

/* Reads what is in memory already. True: it is done. */
static bool
read_at_once(struct file_op *op)
{
    if (op->file.what != IO_FILE_READ || op->file.n > AT_ONCE_MAX ||
        clock_ns() - loop_step_ns(op->loop) > AT_ONCE_NS)
        return false;
    struct iovec iov = { op->file.buf, op->file.n };
    ssize_t n;
    do {
        n = preadv2(op->file.fd, &iov, 1, op->file.at, RWF_NOWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return false; /* not there; or the kernel cannot say; or it fails, as it will again */
    if (n == 0 && op->file.n > 0 && !is_at_end(op->file.fd, op->file.at))
        return false;
    /* The end of the file, or of what is in memory? Where the descriptor has moved it must do; a read at a place is made again. */
    if (n > 0 && (size_t)n < op->file.n && op->file.at >= 0)
        return false;
    op->res = (int)n;
    op->state = OP_DONE;
    drop_arguments(op);
    return true;
}

/* On another loop than ours: a thread of its executor makes the system call. 0, or -1 with an exception set. */
static int
begin_elsewhere(struct file_op *op, PyObject *loop)
{
    struct files *f = op->files;
    PY_OWNED PyObject *run = PyObject_GetAttr((PyObject *)op, f->s_run);
    PY_OWNED PyObject *woken = PyObject_GetAttr((PyObject *)op, f->s_woken);
    if (run == NULL || woken == NULL)
        return -1;
    op->state = OP_ELSEWHERE;
    PyObject *args[] = { loop, Py_None, run };
    PY_OWNED PyObject *inner = PyObject_VectorcallMethod(f->s_run_in_executor, args, 3, NULL);
    if (inner == NULL)
        return -1;
    PyObject *more[] = { inner, woken };
    PY_OWNED PyObject *added = PyObject_VectorcallMethod(f->s_add_done_callback, more, 2, NULL);
    return added != NULL ? 0 : -1;
}

/* 0: begun, or done at once; -1 with an exception set. */
static int
begin(struct file_op *op)
{
    PY_OWNED PyObject *loop = PyObject_CallNoArgs(op->files->get_running_loop);
    if (loop == NULL)
        return -1;
    op->loop = Py_NewRef(loop);
    if (!PyObject_TypeCheck(loop, (PyTypeObject *)op->files->loop_type))
        return begin_elsewhere(op, loop);
    if (read_at_once(op))
        return 0;
    struct io *io = loop_io(loop);
    if (io == NULL)
        return -1;
    op->state = OP_FLIGHT;
    live.file_ops++;
    loop_io_use(loop, &op->user);
    Py_INCREF(op);
    io_file(io, &op->file);
    return 0;
}

/* Asks for its end. */
static void
ask_cancel(struct file_op *op)
{
    if (op->state == OP_FLIGHT && op->file.op.armed && loop_runs_here(op->loop)) {
        struct io *io = loop_io(op->loop);
        if (io != NULL)
            io_cancel(io, &op->file.op);
        else
            PyErr_Clear();
    }
}

/* --- awaiting ---------------------------------------------------------------------------------------------------------- */

/* Yields a future. */
static PySendResult
suspend(struct file_op *op, PyObject **out)
{
    struct files *f = op->files;
    if (op->waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this operation is awaited by somebody else already");
        return PYGEN_ERROR;
    }
    PY_OWNED PyObject *future = PyObject_TypeCheck(op->loop, (PyTypeObject *)f->loop_type)
                                    ? loop_create_future(op->loop)
                                    : PyObject_CallMethodNoArgs(op->loop, f->s_create_future);
    if (future == NULL || PyObject_SetAttr(future, f->s_future_blocking, Py_True) < 0)
        return PYGEN_ERROR;
    op->waiter = Py_NewRef(future);
    *out = py_take(&future);
    return PYGEN_NEXT;
}

static PySendResult
op_send(PyObject *self, PyObject *arg, PyObject **out)
{
    struct file_op *op = (struct file_op *)self;
    (void)arg;
    if (op->state == OP_NEW && begin(op) < 0) {
        if (op->state == OP_ELSEWHERE)
            op->state = OP_TAKEN;
        Py_CLEAR(op->loop);
        return PYGEN_ERROR;
    }
    if (op->lost != NULL) {
        PyErr_SetString(
            op->lost,
            "the event loop has been closed, or moved to another thread, in the middle of this "
            "operation");
        return PYGEN_ERROR;
    }
    switch ((enum op_state)op->state) {
    case OP_DONE:
        *out = op_result(op);
        return *out != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    case OP_FLIGHT:
    case OP_ELSEWHERE:
        return suspend(op, out);
    case OP_TAKEN:
    case OP_NEW:
        break;
    }
    PyErr_SetString(PyExc_RuntimeError, "the result of this operation was taken already");
    return PYGEN_ERROR;
}

/* A tuple would be taken for arguments of StopIteration, an exception for it itself. */
static void
set_stop_iteration(PyObject *value)
{
    if (!PyTuple_Check(value) && !PyExceptionInstance_Check(value)) {
        PyErr_SetObject(PyExc_StopIteration, value);
        return;
    }
    PY_OWNED PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL)
        PyErr_SetObject(PyExc_StopIteration, stop);
}

static PyObject *
op_next(PyObject *self)
{
    PyObject *out = NULL;
    switch (op_send(self, Py_None, &out)) {
    case PYGEN_NEXT:
        return out;
    case PYGEN_RETURN:
        if (out != Py_None)
            set_stop_iteration(out);
        Py_DECREF(out);
        return NULL;
    case PYGEN_ERROR:
        break;
    }
    return NULL;
}

static PyObject *
meth_send(PyObject *self, PyObject *arg)
{
    PyObject *out = NULL;
    switch (op_send(self, arg, &out)) {
    case PYGEN_NEXT:
        return out;
    case PYGEN_RETURN:
        set_stop_iteration(out);
        Py_DECREF(out);
        break;
    case PYGEN_ERROR:
        break;
    }
    return NULL;
}

/* Nobody waits any more. */
static void
give_up(struct file_op *op)
{
    Py_CLEAR(op->waiter);
    ask_cancel(op);
}

/* throw(exception), or throw(type, value, traceback). */
static PyObject *
meth_throw(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    if (n < 1 || n > 3 ||
        !(PyExceptionInstance_Check(args[0]) || PyExceptionClass_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "throw() takes an exception");
        return NULL;
    }
    give_up((struct file_op *)self);
    if (PyExceptionInstance_Check(args[0]))
        PyErr_SetRaisedException(Py_NewRef(args[0]));
    else
        PyErr_Restore(Py_NewRef(args[0]), n > 1 && args[1] != Py_None ? Py_NewRef(args[1]) : NULL,
                      n > 2 && args[2] != Py_None ? Py_NewRef(args[2]) : NULL);
    return NULL;
}

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    give_up((struct file_op *)self);
    Py_RETURN_NONE;
}

static PyObject *
meth_cancel(PyObject *self, PyObject *unused)
{
    (void)unused;
    ask_cancel((struct file_op *)self);
    Py_RETURN_NONE;
}

static PyObject *
op_iter(PyObject *self)
{
    return Py_NewRef(self);
}

/* --- on other loops -------------------------------------------------------------------------------------------------------- */

/* The system call, in a thread of the loop's executor. */
static PyObject *
meth_run(PyObject *self, PyObject *unused)
{
    struct file_op *op = (struct file_op *)self;
    (void)unused;
    if (op->state != OP_ELSEWHERE && op->state != OP_NEW) {
        PyErr_SetString(PyExc_RuntimeError, "this operation was begun already");
        return NULL;
    }
    op->state = OP_ELSEWHERE;
    int res;
    Py_BEGIN_ALLOW_THREADS res = io_file_run(&op->file);
    Py_END_ALLOW_THREADS op->res = res;
    op->state = OP_DONE;
    drop_arguments(op);
    Py_RETURN_NONE;
}

/* The executor's future is done. */
static PyObject *
meth_woken(PyObject *self, PyObject *inner)
{
    struct file_op *op = (struct file_op *)self;
    if (op->state == OP_ELSEWHERE) { /* never run: the executor was shut down */
        op->state = OP_DONE;
        op->res = -ECANCELED;
        drop_arguments(op);
    }
    (void)inner;
    wake(op);
    tell_done(op);
    Py_CLEAR(op->loop);
    Py_RETURN_NONE;
}

static PyObject *
get_done(PyObject *self, void *unused)
{
    (void)unused;
    enum op_state state = ((struct file_op *)self)->state;
    return PyBool_FromLong(state == OP_DONE || state == OP_TAKEN);
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef op_methods[] = {
    { "send", meth_send, METH_O, NULL },
    { "throw", FAST(meth_throw), METH_FASTCALL, NULL },
    { "close", meth_close, METH_NOARGS, NULL },
    { "cancel", meth_cancel, METH_NOARGS,
      "Ask for its end; what it comes to can still be awaited." },
    { "run", meth_run, METH_NOARGS, "Make the system call in this thread." },
    { "_woken", meth_woken, METH_O, NULL },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef op_members[] = {
    { "on_done", Py_T_OBJECT_EX, offsetof(struct file_op, on_done), 0,
      "Called once it has ended, where somebody has set it before." },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef op_getset[] = {
    { "done", get_done, NULL, "True once it has ended.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot op_slots[] = {
    { Py_tp_doc, "An operation on a file. Begun by the first await; can be awaited again where "
                 "that was cancelled." },
    { Py_tp_dealloc, op_dealloc },
    { Py_tp_iter, op_iter },
    { Py_tp_iternext, op_next },
    { Py_am_await, op_iter },
    { Py_am_send, op_send },
    { Py_tp_methods, op_methods },
    { Py_tp_members, op_members },
    { Py_tp_getset, op_getset },
    { 0, NULL },
};

PyType_Spec file_op_spec = {
    .name = "_ringcorn.FileOp",
    .basicsize = sizeof(struct file_op),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = op_slots,
};
