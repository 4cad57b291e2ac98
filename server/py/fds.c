/* fds.c: add_reader() and add_writer(): descriptors that belong to Python code.
 *
 * One entry a descriptor, kept for reuse until the loop is closed: an io allows one armed poll a
 * descriptor, and a closed number comes back soon. What Python wants is `mask`; what the io was
 * told is op.armed and `armed_mask`:
 *
 *     idle ──wanted──> armed ──mask 0──> cancelling ──last completion──> idle, or armed again
 *
 * A removal is handed to the io at once, not at the end of the turn: the caller is about to close
 * the descriptor, and an io_uring poll keeps the file behind it open (no FIN, a port in use) until
 * it is cancelled.
 *
 * Threads:  the io may be touched by the thread that opened it alone. Another thread (or any,
 *           before the loop first runs) changes `mask` only and marks the entry; the loop's thread
 *           applies it in its next turn. Completions come without the GIL and touch only what
 *           private.h gives to the loop's thread. */
#include "py/private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>

enum {
    FDS_CAP_FIRST = 64,
    FD_MAX = 1 << 24, /* above any RLIMIT_NOFILE in use; bounds the table against a wild number */
};

static uint32_t
mask_of(const struct fd_entry *e)
{
    return __atomic_load_n(&e->mask, __ATOMIC_RELAXED);
}

/* --- the loop's thread, with or without the GIL ----------------------------------------------- */

static void
fd_arm(struct fd_entry *e, uint32_t mask)
{
    e->armed_mask = mask;
    e->is_cancelling = false;
    io_poll(e->loop->io, &e->op, e->fd, mask);
}

static void
fd_event(struct io_op *op, int res, unsigned flags)
{
    struct fd_entry *e = CONTAINER_OF(op, struct fd_entry, op);
    bool has_ended = !(flags & IO_MORE);

    if (e->is_cancelling) { /* of an earlier life: perhaps of another file with this number */
        if (has_ended) {
            e->is_cancelling = false;
            if (mask_of(e) != 0)
                fd_arm(e, mask_of(e));
        }
        return;
    }
    if (has_ended && res == -EBADF)
        return; /* closed while registered: as with epoll, nothing is heard of it any more */
    /* Another failure (no memory for the poll) is shown as readiness: the callback's own system
     * call tells, or it waits again. */
    e->revents |= res < 0 ? POLLERR : (uint32_t)res;
    if (list_is_empty(&e->ready))
        list_add_tail(&e->loop->fds_ready, &e->ready);
}

/* Brings the io to what is wanted. */
static void
fd_apply(struct fd_entry *e)
{
    uint32_t mask = mask_of(e);

    if (!e->op.armed) {
        if (mask != 0)
            fd_arm(e, mask);
    } else if (e->is_cancelling) {
        return; /* fd_event() goes on from there */
    } else if (mask == 0) {
        e->is_cancelling = true;
        io_cancel(e->loop->io, &e->op);
        io_let_go(e->loop->io);
    } else if (mask != e->armed_mask) {
        e->armed_mask = mask;
        io_poll_change(e->loop->io, &e->op, mask);
    }
}

/* --- with the GIL ----------------------------------------------------------------------------- */

static void
fd_set_mask(struct fd_entry *e, uint32_t mask)
{
    struct loop *l = e->loop;
    if ((e->mask == 0) != (mask == 0))
        live.polls += mask != 0 ? 1 : -1;
    __atomic_store_n(&e->mask, mask, __ATOMIC_RELAXED);
    if (loop_io_here(l) != NULL) {
        fd_apply(e);
    } else if (l->io != NULL) {
        e->has_changed = true;
        __atomic_store_n(&l->fds_have_changed, true, __ATOMIC_RELAXED);
        loop_poke(l);
    } /* else: fds_arm_all(), when there is an io */
}

size_t
fds_count(struct loop *l)
{
    size_t count = 0;
    for (size_t i = 0; i < l->fds_cap; i++)
        count += l->fds[i] != NULL && mask_of(l->fds[i]) != 0;
    return count;
}

void
fds_apply_changed(struct loop *l)
{
    l->fds_have_changed = false;
    for (size_t i = 0; i < l->fds_cap; i++) {
        struct fd_entry *e = l->fds[i];
        if (e != NULL && e->has_changed) {
            e->has_changed = false;
            fd_apply(e);
        }
    }
}

void
fds_forget_io(struct loop *l)
{
    for (size_t i = 0; i < l->fds_cap; i++) {
        struct fd_entry *e = l->fds[i];
        if (e == NULL)
            continue;
        io_op_init(&e->op, fd_event);
        list_init(&e->ready);
        e->revents = 0;
        e->is_cancelling = e->has_changed = false;
    }
    list_init(&l->fds_ready);
    l->fds_have_changed = false;
}

void
fds_arm_all(struct loop *l)
{
    for (size_t i = 0; i < l->fds_cap; i++)
        if (l->fds[i] != NULL && l->fds[i]->mask != 0)
            fd_arm(l->fds[i], l->fds[i]->mask);
}

/* A ready handle of an entry: queued, or dropped where its owner has cancelled it. */
static int
deliver(struct fd_entry *e, PyObject **slot, uint32_t bit)
{
    struct handle *h = (struct handle *)*slot;
    if (h == NULL)
        return 0;
    if (!h->cancelled)
        return loop_push(e->loop, Py_NewRef(*slot));
    PyObject *dropped = py_take(slot);
    fd_set_mask(e, e->mask & ~bit);
    Py_DECREF(dropped);
    return 0;
}

int
fds_deliver(struct loop *l)
{
    struct list *node;
    int err = 0;

    while ((node = list_pop(&l->fds_ready)) != NULL) {
        struct fd_entry *e = CONTAINER_OF(node, struct fd_entry, ready);
        uint32_t revents = e->revents;
        e->revents = 0;
        /* Errors and hang-ups concern both sides, as in asyncio's selector. */
        if ((revents & ~(uint32_t)POLLOUT) && deliver(e, &e->reader, POLLIN) < 0)
            err = -1;
        if ((revents & ~(uint32_t)POLLIN) && deliver(e, &e->writer, POLLOUT) < 0)
            err = -1;
        if (!e->op.armed && !e->is_cancelling && e->mask != 0)
            fd_arm(e, e->mask); /* ended by itself */
    }
    return err;
}

/* An int, or an object with fileno(), as selectors take them. -1 with an exception set. */
static int
fd_number(PyObject *object)
{
    PY_OWNED PyObject *number = NULL;
    if (!PyLong_Check(object)) {
        PY_OWNED PyObject *fileno = PyObject_CallMethod(object, "fileno", NULL);
        number = fileno != NULL ? PyNumber_Long(fileno) : NULL;
        if (number == NULL) {
            if (PyErr_ExceptionMatches(PyExc_AttributeError) ||
                PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError))
                PyErr_Format(PyExc_ValueError, "Invalid file object: %R", object);
            return -1;
        }
        object = number;
    }
    int overflow;
    long fd = PyLong_AsLongAndOverflow(object, &overflow);
    if (fd == -1 && PyErr_Occurred())
        return -1;
    if (fd < 0 || fd > FD_MAX || overflow != 0) {
        PyErr_Format(PyExc_ValueError, "Invalid file descriptor: %S", object);
        return -1;
    }
    return (int)fd;
}

/* Borrowed from the loop; NULL with an exception set. */
static struct fd_entry *
fd_take_entry(struct loop *l, int fd)
{
    if ((size_t)fd >= l->fds_cap) {
        size_t cap = l->fds_cap != 0 ? l->fds_cap : FDS_CAP_FIRST;
        while (cap <= (size_t)fd)
            cap *= 2;
        struct fd_entry **fds = realloc(l->fds, cap * sizeof(struct fd_entry *));
        if (fds == NULL)
            return (void *)PyErr_NoMemory();
        memset(fds + l->fds_cap, 0, (cap - l->fds_cap) * sizeof(struct fd_entry *));
        l->fds = fds;
        l->fds_cap = cap;
    }
    struct fd_entry *e = l->fds[fd];
    if (e == NULL) {
        e = calloc(1, sizeof *e);
        if (e == NULL)
            return (void *)PyErr_NoMemory();
        io_op_init(&e->op, fd_event);
        list_init(&e->ready);
        e->loop = l;
        e->fd = fd;
        l->fds[fd] = e;
    }
    return e;
}

/* What epoll_ctl() would refuse, said by the call itself and not by a later completion. */
static int
fd_check(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return py_fail(errno);
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))
        return py_fail(EPERM);
    return 0;
}

static PyObject *
fds_add(PyObject *self, PyObject *const *args, Py_ssize_t n, uint32_t bit, const char *name)
{
    struct loop *l = loop_of(self);

    if (loop_check_open(l) < 0)
        return NULL;
    if (n < 2) {
        PyErr_Format(PyExc_TypeError, "%s() takes a file descriptor and a callback", name);
        return NULL;
    }
    int fd = fd_number(args[0]);
    if (fd < 0)
        return NULL;
    PY_OWNED PyObject *handle = (PyObject *)handle_new(l, args[1], args + 2, n - 2, NULL);
    if (handle == NULL)
        return NULL;
    struct fd_entry *e = fd_take_entry(l, fd);
    if (e == NULL || (e->mask == 0 && fd_check(fd) < 0))
        return NULL;
    PY_OWNED PyObject *object = NULL; /* an earlier one, of an io that was forgotten */
    if (e->mask == 0) {
        object = py_take(&e->object);
        e->object = PyLong_Check(args[0]) ? NULL : Py_NewRef(args[0]);
    }
    PyObject **slot = bit == POLLIN ? &e->reader : &e->writer;
    PY_OWNED PyObject *old = py_take(slot);
    *slot = Py_NewRef(handle);
    if (!(e->mask & bit))
        fd_set_mask(e, e->mask | bit);
    if (old != NULL && handle_cancel((struct handle *)old) < 0)
        return NULL;
    return py_take(&handle);
}

/* A socket that was closed before it is removed has no number any more; selectors find it by itself, and AnyIO relies on that.
 * Borrowed from the loop; NULL where nothing was added as this object. */
static struct fd_entry *
fd_entry_of_closed(const struct loop *l, const PyObject *object)
{
    for (size_t i = 0; i < l->fds_cap; i++) {
        if (l->fds[i] != NULL && l->fds[i]->mask != 0 && l->fds[i]->object == object)
            return l->fds[i];
    }
    return NULL;
}

static PyObject *
fds_remove(PyObject *self, PyObject *object, uint32_t bit)
{
    struct loop *l = loop_of(self);

    if (l->is_closed)
        Py_RETURN_FALSE;
    int fd = fd_number(object);
    struct fd_entry *e;
    if (fd >= 0) {
        e = (size_t)fd < l->fds_cap ? l->fds[fd] : NULL;
    } else {
        if (!PyErr_ExceptionMatches(PyExc_ValueError) ||
            (e = fd_entry_of_closed(l, object)) == NULL)
            return NULL;
        PyErr_Clear();
    }
    if (e == NULL || !(e->mask & bit))
        Py_RETURN_FALSE;
    PY_OWNED PyObject *added_as = (e->mask & ~bit) == 0 ? py_take(&e->object) : NULL;
    PY_OWNED PyObject *old = py_take(bit == POLLIN ? &e->reader : &e->writer);
    fd_set_mask(e, e->mask & ~bit);
    if (old != NULL && handle_cancel((struct handle *)old) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

PyObject *
fds_add_reader(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return fds_add(self, args, n, POLLIN, "_add_reader");
}

PyObject *
fds_add_writer(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    return fds_add(self, args, n, POLLOUT, "_add_writer");
}

PyObject *
fds_remove_reader(PyObject *self, PyObject *fd)
{
    return fds_remove(self, fd, POLLIN);
}

PyObject *
fds_remove_writer(PyObject *self, PyObject *fd)
{
    return fds_remove(self, fd, POLLOUT);
}

/* (reader, writer): the handles or None. For the selector that asyncio's transports ask in their
 * repr(). */
PyObject *
fds_events(PyObject *self, PyObject *object)
{
    struct loop *l = loop_of(self);
    int fd = fd_number(object);
    if (fd < 0)
        return NULL;
    struct fd_entry *e = (size_t)fd < l->fds_cap ? l->fds[fd] : NULL;
    PyObject *reader = e != NULL && e->reader != NULL ? e->reader : Py_None;
    PyObject *writer = e != NULL && e->writer != NULL ? e->writer : Py_None;
    return PyTuple_Pack(2, reader, writer);
}

void
fds_clear(struct loop *l)
{
    for (size_t i = 0; i < l->fds_cap; i++) {
        struct fd_entry *e = l->fds[i];
        if (e == NULL)
            continue;
        live.polls -= e->mask != 0;
        e->mask = 0;
        Py_CLEAR(e->reader);
        Py_CLEAR(e->writer);
        Py_CLEAR(e->object);
    }
}

void
fds_free(struct loop *l)
{
    for (size_t i = 0; i < l->fds_cap; i++)
        free(l->fds[i]);
    free(l->fds);
    l->fds = NULL;
    l->fds_cap = 0;
    list_init(&l->fds_ready);
}

int
fds_traverse(struct loop *l, visitproc visit, void *arg)
{
    for (size_t i = 0; i < l->fds_cap; i++) {
        if (l->fds[i] == NULL)
            continue;
        Py_VISIT(l->fds[i]->object);
        Py_VISIT(l->fds[i]->reader);
        Py_VISIT(l->fds[i]->writer);
    }
    return 0;
}
