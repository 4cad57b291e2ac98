/* shake.c: a loop in shake mode: what is ready runs in an order that a seed decides, and more of that kind (base/shake.h).
 *
 * What asyncio promises is kept. Plain callbacks run in the order in which they were given to call_soon(), all of them. The steps of tasks are
 * free: a task's own keep their order of course, and so does all that is of one group; what is of different groups has none. A group is a
 * request (the value of a context variable, an int, which the tasks that it starts inherit), and what belongs to none is one, too. With the kind
 * `tasks` each task is one of its own.
 *
 * Virtual time is for tests, which shall be the same each time: the loop's clock moves only where there is nothing else left to do, to the next
 * timer; and calls in threads are made one at a time, while the loop waits (ringcorn.shake's helper does that). Where something real is waited for,
 * a descriptor or a thread that nobody knows, the clock goes on as the real one does, and a replay is as good as that thing is punctual.
 *
 * Runs on:  the loop's thread with the GIL, unless a function says otherwise.
 * Owns:     loop->shake. */
#include "py/private.h"

#include <stdlib.h>
#include <time.h>

#include "base/shake.h"

enum {
    PICK_MAX = 128,          /* callbacks among which one is picked */
    LAG_US_MAX = 50 * 1000,  /* virtual: by how much a timer is late */
    LATE_US_MAX = 20 * 1000, /* real time: the same */
    STALL_US_MAX = 2 * 1000,
    STALL_PART = 16, /* one turn of so many stalls, where it does at all */
    SELF_PIPE = 1,   /* a descriptor that asyncio itself reads */
};

/* The same each time, so that sums of times are rounded alike. */
static const int64_t virtual_begin_ns = 1000 * NS_PER_S;

struct loop_shake {
    struct shake draw;
    PyObject *group;    /* new: contextvars.ContextVar */
    PyObject *hop_type; /* new: methods of its instances are free, as the steps of tasks are */
    PyObject *helper;   /* new; NULL: real time */
    int64_t now_ns;     /* virtual time */
    int64_t late_ns;    /* real time: until when no timer is due */
    bool waits;         /* helper.settle() is to be called */
};

/* --- methods of the loop -------------------------------------------------------------------------- */

PyObject *
shake_set(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct loop *l = loop_of(self);
    if (n != 4) {
        PyErr_SetString(PyExc_TypeError, "_shake() takes seed, group, hop_type and helper");
        return NULL;
    }
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(args[0], &size);
    struct shake draw;
    if (text == NULL)
        return NULL;
    if (shake_parse(&draw, text, (size_t)size) < 0) {
        PyErr_Format(PyExc_ValueError,
                     "%R is no seed: it is a number and, if not all of them, kinds of disturbance, "
                     "such as 17 or 17:order,hops",
                     args[0]);
        return NULL;
    }
    if (!Py_IS_TYPE(args[1], &PyContextVar_Type) || !PyType_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "_shake(): group is a context variable, hop_type a class");
        return NULL;
    }
    if (loop_check_open(l) < 0)
        return NULL;
    if (l->shake != NULL || l->is_turning || l->timers.count > 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a loop is brought into shake mode once, and before it is used");
        return NULL;
    }
    struct loop_shake *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return PyErr_NoMemory();
    s->draw = draw;
    s->group = Py_NewRef(args[1]);
    s->hop_type = Py_NewRef(args[2]);
    s->helper = args[3] != Py_None ? Py_NewRef(args[3]) : NULL;
    s->now_ns = virtual_begin_ns;
    /* The gentlest that can happen to a test: requests that do not meet. */
    s->draw.is_serial = s->helper != NULL;
    l->shake = s;
    Py_RETURN_NONE;
}

PyObject *
shake_get(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct loop_shake *s = loop_of(self)->shake;
    char text[SHAKE_TEXT_SIZE];
    if (s == NULL)
        Py_RETURN_NONE;
    shake_print(&s->draw, text);
    return PyUnicode_FromString(text);
}

PyObject *
shake_draw(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct loop_shake *s = loop_of(self)->shake;
    long kind = n == 2 ? PyLong_AsLong(args[0]) : -1;
    long below = kind >= 0 && kind < SHAKE_KINDS ? PyLong_AsLong(args[1]) : -1;
    if (below < 0 || below > INT32_MAX) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError,
                            "_shake_draw() takes a kind's number, and what the result is below");
        return NULL;
    }
    if (s == NULL)
        return PyLong_FromLong(0);
    return PyLong_FromUnsignedLong(
        below == 0 ? shake_chance(&s->draw, (enum shake_kind)kind)
                   : shake_below(&s->draw, (enum shake_kind)kind, (uint32_t)below));
}

PyObject *
shake_wait(PyObject *self, PyObject *flag)
{
    struct loop_shake *s = loop_of(self)->shake;
    if (s != NULL)
        s->waits = flag == Py_True;
    Py_RETURN_NONE;
}

void
shake_clear(struct loop *l)
{
    struct loop_shake *s = l->shake;
    if (s == NULL)
        return;
    l->shake = NULL;
    Py_DECREF(s->group);
    Py_DECREF(s->hop_type);
    Py_XDECREF(s->helper);
    free(s);
}

int
shake_traverse(struct loop *l, visitproc visit, void *arg)
{
    if (l->shake == NULL)
        return 0;
    Py_VISIT(l->shake->group);
    Py_VISIT(l->shake->hop_type);
    Py_VISIT(l->shake->helper);
    return 0;
}

/* --- time ----------------------------------------------------------------------------------------- */

bool
shake_is_virtual(struct loop *l)
{
    return l->shake->helper != NULL;
}

int64_t
shake_now(struct loop *l)
{
    return shake_is_virtual(l) ? l->shake->now_ns : clock_ns();
}

/* Is there nobody who could still make something ready, but the loop's timers? 1, 0, or -1 with an exception set. */
static int
is_alone(struct loop *l)
{
    struct loop_shake *s = l->shake;
    if (s->waits || fds_count(l) > SELF_PIPE || !list_is_empty(&l->sources) ||
        !list_is_empty(&l->io_users) ||
        atomic_load_explicit(&l->expected, memory_order_relaxed) > 0)
        return 0;
    PY_OWNED PyObject *answer = PyObject_CallMethod(s->helper, "is_alone", NULL);
    return answer != NULL ? PyObject_IsTrue(answer) : -1;
}

int
shake_wait_begin(struct loop *l, bool has_work, int64_t *timeout)
{
    struct loop_shake *s = l->shake;
    *timeout = 0;
    if (shake_settle(l) < 0)
        return -1;
    if (has_work || l->ready.count > 0 || l->timers.next_ns <= s->now_ns)
        return 0;
    int alone = is_alone(l);
    if (alone < 0)
        return -1;
    if (alone == 0) {
        *timeout = l->timers.next_ns == INT64_MAX ? -1 : l->timers.next_ns - s->now_ns;
        return 0;
    }
    if (l->timers.next_ns == INT64_MAX) { /* nobody will ever wake it; it raises */
        PY_OWNED PyObject *done = PyObject_CallMethod(s->helper, "stuck", NULL);
        *timeout = -1;
        return done != NULL ? 0 : -1;
    }
    s->now_ns = l->timers.next_ns;
    if (shake_chance(&s->draw, SHAKE_TIMERS))
        s->now_ns += (int64_t)shake_below(&s->draw, SHAKE_TIMERS, LAG_US_MAX) * 1000;
    return 0;
}

void
shake_wait_end(struct loop *l, int64_t waited_ns, bool was_in_vain)
{
    struct loop_shake *s = l->shake;
    s->now_ns += waited_ns;
    if (was_in_vain && l->timers.next_ns != INT64_MAX && s->now_ns < l->timers.next_ns &&
        l->timers.next_ns - s->now_ns < NS_PER_MS)
        s->now_ns = l->timers.next_ns;
}

double
shake_timers_end(struct loop *l)
{
    struct loop_shake *s = l->shake;
    if (shake_is_virtual(l))
        return (double)s->now_ns * 1e-9;
    int64_t now_ns = clock_ns();
    if (s->late_ns <= now_ns && l->timers.next_ns <= now_ns && shake_chance(&s->draw, SHAKE_TIMERS))
        s->late_ns = now_ns + (int64_t)shake_below(&s->draw, SHAKE_TIMERS, LATE_US_MAX) * 1000;
    return s->late_ns <= now_ns ? (double)now_ns * 1e-9 : 0;
}

void
shake_stall(struct loop *l)
{
    struct loop_shake *s = l->shake;
    if (!shake_chance(&s->draw, SHAKE_HOPS) || shake_below(&s->draw, SHAKE_HOPS, STALL_PART) != 0)
        return;
    long us = (long)shake_below(&s->draw, SHAKE_HOPS, STALL_US_MAX);
    const struct timespec time = { .tv_nsec = us * 1000 };
    PyThreadState *state = PyEval_SaveThread();
    nanosleep(&time, NULL);
    PyEval_RestoreThread(state);
}

/* --- order ---------------------------------------------------------------------------------------- */

/* The task whose step it is: borrowed; NULL: it is none. */
static PyObject *
task_of(struct loop *l, PyObject *callback)
{
    PyObject *task = NULL;
    if (PyCFunction_Check(callback)) {
        PyMethodDef *def = ((PyCFunctionObject *)callback)->m_ml;
        if (strcmp(def->ml_name, "task_wakeup") == 0)
            task = PyCFunction_GET_SELF(callback);
    } else {
        const char *name = strrchr(Py_TYPE(callback)->tp_name, '.');
        if (strcmp(name != NULL ? name + 1 : Py_TYPE(callback)->tp_name, "TaskStepMethWrapper") ==
            0) {
            PyObject *self = PyObject_GetAttrString(callback, "__self__");
            Py_XDECREF(self); /* the callback has one of its own */
            task = self;
        }
    }
    return task != NULL && PyObject_TypeCheck(task, (PyTypeObject *)l->state->task_type) ? task
                                                                                         : NULL;
}

/* The group in a handle's context; 0 where there is none. */
static uint64_t
group_of(struct loop *l, PyObject *context)
{
    PY_OWNED PyObject *value = PyObject_CallMethod(context, "get", "O", l->shake->group);
    return value != NULL && PyLong_Check(value) ? PyLong_AsUnsignedLongLongMask(value) : 0;
}

static struct shake_item
item_of(struct loop *l, PyObject *object)
{
    struct shake_item item = { 0 };
    PyTypeObject *type = Py_TYPE(object);
    if (type != l->state->handle_type && type != l->state->timer_type)
        return item;
    struct handle *h = (struct handle *)object;
    if (h->callback == NULL)
        return item; /* cancelled */
    item.group = group_of(l, h->context);
    PyObject *task = task_of(l, h->callback);
    if (task != NULL) {
        item.is_free = true;
        if (shake_has(&l->shake->draw, SHAKE_TASKS))
            item.group = (uintptr_t)task;
    } else if (PyMethod_Check(h->callback)) {
        item.is_free =
            PyObject_TypeCheck(PyMethod_GET_SELF(h->callback), (PyTypeObject *)l->shake->hop_type);
    }
    PyErr_Clear(); /* of what could not be found out */
    return item;
}

size_t
shake_pick_ready(struct loop *l)
{
    struct shake_item items[PICK_MAX];
    size_t n = l->ready.count < PICK_MAX ? l->ready.count : PICK_MAX;
    if (n == 1)
        return 0;
    for (size_t i = 0; i < n; i++)
        items[i] = item_of(l, l->ready.items[(l->ready.head + i) & (l->ready.cap - 1)]);
    return shake_pick(&l->shake->draw, items, n);
}

void
shake_sources(struct loop *l)
{
    struct list rest;
    uint32_t left = 0;
    LIST_FOR_EACH(node, &l->sources_ready)
        left++;
    list_init(&rest);
    list_splice(&rest, &l->sources_ready);
    for (; left > 0; left--) {
        uint32_t skip = shake_chance(&l->shake->draw, SHAKE_ORDER)
                            ? shake_below(&l->shake->draw, SHAKE_ORDER, left)
                            : 0;
        struct list *node = rest.next;
        while (skip-- > 0)
            node = node->next;
        list_del(node);
        list_add_tail(&l->sources_ready, node);
    }
}

struct post *
shake_posts(struct loop *l, struct post *posts)
{
    if (shake_is_virtual(l))
        return posts;
    struct post *now = NULL, **end = &now;
    while (posts != NULL) {
        struct post *next = posts->next;
        if (shake_chance(&l->shake->draw, SHAKE_HOPS)) {
            loop_post_back(l, posts);
        } else {
            *end = posts;
            end = &posts->next;
        }
        posts = next;
    }
    *end = NULL;
    return now;
}

int
shake_settle(struct loop *l)
{
    if (LIKELY(!l->shake->waits))
        return 0;
    PY_OWNED PyObject *done = PyObject_CallMethod(l->shake->helper, "settle", NULL);
    return done != NULL ? 0 : -1;
}
