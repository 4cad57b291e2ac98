/* sources.c: what types of the folders above have in the loop's io: transports, mostly.
 *
 * A completion comes in phase 2, without the GIL; what it leads to is Python, and comes in phase 3.
 * A source is what lies between: embedded in its owner, it is put on a list by the one and its run() is
 * called by the other. No handle is made for it, and where no handle is ready yet, what it makes ready (a
 * task that waited for these bytes) runs in the same turn.
 *
 * Runs on:  any thread with the GIL, unless a function says otherwise.
 * Always:   ready and flush of a source, and the lists that they hang in, belong to the loop's thread: to
 *           the one that opened the io, or to whoever has the GIL where there is no io. */
#include "py/private.h"

void
loop_source_init(struct loop_source *s, const struct loop_source_ops *ops, PyObject *owner)
{
    *s = (struct loop_source){ .ops = ops, .owner = owner };
    list_init(&s->all);
    list_init(&s->ready);
    list_init(&s->flush);
}

void
loop_source_attach(PyObject *loop, struct loop_source *s)
{
    if (s->is_attached)
        return;
    s->is_attached = true;
    Py_INCREF(s->owner);
    list_add_tail(&loop_of(loop)->sources, &s->all);
}

void
loop_source_detach(struct loop_source *s)
{
    if (!s->is_attached)
        return;
    s->is_attached = s->has_changed = false;
    list_del(&s->all);
    list_del(&s->ready);
    list_del(&s->flush);
    Py_DECREF(s->owner);
}

struct io *
loop_source_io(PyObject *loop)
{
    return loop_io_here(loop_of(loop));
}

void
loop_source_changed(PyObject *loop, struct loop_source *s)
{
    struct loop *l = loop_of(loop);
    struct io *io = loop_io_here(l);
    if (io != NULL) {
        s->ops->apply(s, io);
    } else if (l->io != NULL) {
        s->has_changed = true;
        __atomic_store_n(&l->sources_have_changed, true, __ATOMIC_RELAXED);
        loop_poke(l);
    } /* else sources_arm_all(), when there is an io */
}

/* The loop's thread, any GIL state. */
void
loop_source_ready(PyObject *loop, struct loop_source *s)
{
    if (list_is_empty(&s->ready))
        list_add_tail(&loop_of(loop)->sources_ready, &s->ready);
}

bool
loop_source_flush(PyObject *loop, struct loop_source *s)
{
    if (!loop_runs_here(loop))
        return false;
    if (list_is_empty(&s->flush))
        list_add_tail(&loop_of(loop)->sources_flush, &s->flush);
    return true;
}

/* --- for the loop ----------------------------------------------------------------------------- */

void
sources_apply_changed(struct loop *l)
{
    l->sources_have_changed = false;
    LIST_FOR_EACH(node, &l->sources) {
        struct loop_source *s = CONTAINER_OF(node, struct loop_source, all);
        if (s->has_changed) {
            s->ops->apply(s, l->io); /* sees that it comes late */
            s->has_changed = false;
        }
    }
}

void
sources_forget_io(struct loop *l)
{
    LIST_FOR_EACH(node, &l->sources) {
        struct loop_source *s = CONTAINER_OF(node, struct loop_source, all);
        list_del(&s->flush);
        s->has_changed = false;
        s->ops->forget(s);
    }
    l->sources_have_changed = false;
}

void
sources_arm_all(struct loop *l)
{
    LIST_FOR_EACH(node, &l->sources) {
        struct loop_source *s = CONTAINER_OF(node, struct loop_source, all);
        s->ops->apply(s, l->io);
    }
}

void
sources_flush(struct loop *l)
{
    struct list *node;
    while ((node = list_pop(&l->sources_flush)) != NULL) {
        struct loop_source *s = CONTAINER_OF(node, struct loop_source, flush);
        s->ops->flush(s);
    }
}

static int
source_run(struct loop *l, struct loop_source *s)
{
    PY_OWNED PyObject *owner = Py_NewRef(s->owner);
    PY_OWNED PyObject *context = Py_XNewRef(s->context);
    step_begin(l);
    if (context != NULL && PyContext_Enter(context) < 0)
        return -1;
    int err = s->ops->run(s);
    if (context != NULL) {
        PyObject *exception = err < 0 ? PyErr_GetRaisedException() : NULL;
        int left = PyContext_Exit(context);
        if (err < 0) {
            if (left < 0)
                PyErr_Clear();
            PyErr_SetRaisedException(exception);
        } else {
            err = left;
        }
    }
    if (UNLIKELY(err < 0) && loop_report((PyObject *)l, "Exception in a transport") < 0)
        return -1;
    if (UNLIKELY(l->is_debug) && loop_tell_if_slow(l, owner) < 0)
        return -1;
    if (l->tells_steps && context != NULL)
        loop_tell_step(l, context);
    return 0;
}

int
sources_run(struct loop *l)
{
    struct list now;
    list_init(&now);
    list_splice(&now, &l->sources_ready); /* what becomes ready meanwhile waits for the next turn */
    struct list *node;
    while ((node = list_pop(&now)) != NULL) {
        int err = source_run(l, CONTAINER_OF(node, struct loop_source, ready));
        if (UNLIKELY(err < 0 || l->is_orphan)) {
            list_splice(&l->sources_ready, &now);
            return err < 0 ? -1 : loop_fail_orphan();
        }
        loop_flush_if_due((PyObject *)l);
    }
    return 0;
}

void
sources_clear(struct loop *l)
{
    while (!list_is_empty(&l->sources))
        loop_source_detach(CONTAINER_OF(l->sources.next, struct loop_source, all));
}

int
sources_traverse(struct loop *l, visitproc visit, void *arg)
{
    LIST_FOR_EACH(node, &l->sources) {
        Py_VISIT(CONTAINER_OF(node, struct loop_source, all)->owner);
    }
    return 0;
}
