/* blame.c: what the loop's thread does while it blocks, and whose request that is.
 *
 * Runs on:  its own thread, "ringcorn-blame", which waits for the GIL as long as it must; signals are blocked there.
 * Owns:     the questions; references to the loop and to functions of ringcorn.guard, from start to stop.
 * Always:   a stack is read with the GIL and without running Python, inside the step that the question is about. */
#include "guard/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#include "base/base.h"
#include "base/thread.h"
#include "metrics/metrics.h"

enum {
    QUESTIONS_MAX = 16,
    FRAMES_MAX = 200,
    GIL_WAIT_NS = 50 * 1000 * 1000, /* who keeps it for so long is to blame */
};

static struct {
    pthread_t thread;
    bool is_running;
    pthread_mutex_t lock; /* of what follows, to the empty line */
    pthread_cond_t asked;
    struct guard_question questions[QUESTIONS_MAX];
    unsigned first, n;
    bool must_stop;

    atomic_llong wanted_ns; /* since when it waits for the GIL; 0 = it does not */
    /* With the GIL. */
    PyObject *loop, *blocked, *over, *minute, *place, *current_task; /* new */
    PyObject *words; /* what blocked() has said of the block whose end comes next: new, or NULL */
    struct asgi *asgi;
    PyThreadState *loop_state;
    void *const *gil_holder; /* py_gil_holder() */
    bool is_alerted;         /* the master knows of that block */
} b = { .lock = PTHREAD_MUTEX_INITIALIZER, .asked = PTHREAD_COND_INITIALIZER };

/* --- what is seen ---------------------------------------------------------------------------------- */

/* [(code, line, offset of the instruction)], innermost first: new. Only C runs. */
static PyObject *
stack_of(PyThreadState *state)
{
    PY_OWNED PyObject *stack = PyList_New(0);
    PyFrameObject *frame = stack != NULL ? PyThreadState_GetFrame(state) : NULL; /* new */
    for (int i = 0; frame != NULL; i++) {
        PyFrameObject *back = i < FRAMES_MAX ? PyFrame_GetBack(frame) : NULL;
        PyCodeObject *code = PyFrame_GetCode(frame);
        PY_OWNED PyObject *place =
            Py_BuildValue("Nii", code, PyFrame_GetLineNumber(frame), PyFrame_GetLasti(frame));
        Py_DECREF(frame);
        frame = back;
        if (place == NULL || PyList_Append(stack, place) < 0) {
            Py_XDECREF(frame);
            return NULL;
        }
    }
    return py_take(&stack);
}

/* One of the threads that there are, or NULL. */
static PyThreadState *
living_state(const void *state)
{
    PyThreadState *one = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (one != NULL && one != state)
        one = PyThreadState_Next(one);
    return one;
}

PyObject *
guard_request_of(const struct asgi *asgi, PyObject *task)
{
    /* A request without a task is in its first step, and there is but one. */
    for (const struct list *node = asgi->cycles.next; node != &asgi->cycles; node = node->next) {
        const struct cycle *cycle = CONTAINER_OF(node, struct cycle, link);
        if (cycle->task == NULL || cycle->task == task)
            return PyUnicode_FromString(cycle_label(cycle));
    }
    Py_RETURN_NONE;
}

/* (stack, context or None, ident of the thread): new. Only C runs, so all of it is of one moment. */
static PyObject *
scene_of(PyThreadState *state)
{
    /* up to 3.11 a new tuple may begin a collection, and that runs finalizers */
    int was_enabled = PyGC_Disable();
    PY_OWNED PyObject *stack = stack_of(state);
    if (was_enabled)
        PyGC_Enable();
    if (stack == NULL)
        return NULL;
    PyObject *context = state->context != NULL ? state->context : Py_None;
    return Py_BuildValue("OOk", stack, context, (unsigned long)state->thread_id);
}

/* Another thread has kept the GIL for most of the time, by its state; NULL where that has ended meanwhile, or is not known. */
struct keeper {
    bool is_other;
    PyThreadState *state;
};

static struct keeper
keeper_of(const struct guard_question *q, const void *holder, int64_t waited_ns)
{
    struct keeper k = { .state = living_state(holder) };
    if (holder == b.loop_state || k.state == PyThreadState_Get())
        return (struct keeper){ 0 };
    k.is_other = q->at.wants_gil || waited_ns >= GIL_WAIT_NS;
    return k;
}

/* The master tells the operator, once a block: while it lasts, or at its end where that comes just when it is long enough. */
static void
alert(const struct guard_question *q, int64_t held_ns)
{
    const char *by, *request, *place, *cure;
    if (b.is_alerted || !q->is_serving || held_ns < GUARD_ALERT_NS)
        return;
    b.is_alerted = true;
    if (PyArg_ParseTuple(b.words, "yyyy", &by, &request, &place, &cure))
        metrics_tell_blocked(held_ns, by, request, place, cure);
    else
        PyErr_WriteUnraisable(b.blocked);
}

/* blocked(seconds, level, scene, task, label, wants_gil) -> (by, request, place, cure), or None where it was not worth telling. The scene is of the loop's thread; or, wants_gil, of the one that
 * kept the GIL, whose stack is empty where it may have gone on, and whose ident is 0 where it has ended. */
static void
tell_blocked(const struct guard_question *q, const void *holder, int64_t waited_ns)
{
    struct guard_look now = guard_look();
    bool is_there = guard_is_same(&q->at, &now), is_mine = is_there && !q->at.wants_gil;
    struct keeper keeper = is_mine ? (struct keeper){ 0 } : keeper_of(q, holder, waited_ns);
    if (!is_mine && !keeper.is_other)
        return; /* too late: it has ended, and nothing is known of it */
    int64_t held_ns = is_there ? clock_ns() - q->at.since_ns : q->held_ns + waited_ns;
    PyThreadState *state = is_mine ? b.loop_state : is_there ? keeper.state : NULL;
    PY_OWNED PyObject *scene = NULL;
    PY_OWNED PyObject *task = NULL;
    PY_OWNED PyObject *label = NULL;
    scene =
        state != NULL
            ? scene_of(state)
            : Py_BuildValue("[]Ok", Py_None,
                            keeper.state != NULL ? (unsigned long)keeper.state->thread_id : 0UL);
    task = scene == NULL || !is_mine ? NULL : PyObject_CallOneArg(b.current_task, b.loop);
    label = task == NULL ? NULL : guard_request_of(b.asgi, task);
    PY_OWNED PyObject *done = NULL;
    if (scene != NULL && !PyErr_Occurred())
        done = PyObject_CallFunction(b.blocked, "diOOOi", (double)held_ns / NS_PER_S, (int)q->level,
                                     scene, task != NULL ? task : Py_None,
                                     label != NULL ? label : Py_None, (int)!is_mine);
    if (done == NULL) {
        PyErr_WriteUnraisable(b.blocked);
        return;
    }
    if (done == Py_None)
        return;
    if (b.words == NULL)
        metrics_add(&metrics_here->guard.loop_blocks, 1);
    Py_XSETREF(b.words, py_take(&done));
    alert(q, held_ns);
}

/* Where a step is that takes a while: found at once, told of later. */
struct place {
    const void *of;  /* asgi_step_of() */
    PyObject *scene; /* new, or NULL */
};

/* Only C runs. */
static void
see_place(const struct guard_question *q, struct place *place)
{
    struct guard_look now = guard_look();
    if (!guard_is_same(&q->at, &now))
        return;
    place->of = asgi_step_of(b.asgi, b.loop_state->context);
    Py_XSETREF(place->scene, place->of != NULL ? scene_of(b.loop_state) : NULL);
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(b.place);
}

/* place(scene) -> "file:line" in UTF-8, or None: the application has no part in it. */
static void
note_place(struct place *place)
{
    PY_OWNED PyObject *scene = py_take(&place->scene);
    PY_OWNED PyObject *text = scene != NULL ? PyObject_CallOneArg(b.place, scene) : NULL;
    if (text != NULL && PyBytes_Check(text))
        asgi_place(b.asgi, place->of, PyBytes_AS_STRING(text));
    else if (PyErr_Occurred())
        PyErr_WriteUnraisable(b.place);
}

static void
answer(const struct guard_question *q, const void *holder, int64_t waited_ns)
{
    PyObject *fn = q->what == GUARD_OVER ? b.over : b.minute;
    if (q->what == GUARD_BLOCKED) {
        tell_blocked(q, holder, waited_ns);
        return;
    }
    if (q->what == GUARD_OVER) {
        if (b.words == NULL)
            return;
        alert(q, q->held_ns);
        Py_CLEAR(b.words);
        b.is_alerted = false;
        metrics_set_max(&metrics_here->guard.loop_block_max_ns, (uint64_t)q->held_ns);
    }
    PY_OWNED PyObject *done = PyObject_CallFunction(fn, "d", (double)q->held_ns / NS_PER_S);
    if (done == NULL)
        PyErr_WriteUnraisable(fn);
}

/* --- the thread ------------------------------------------------------------------------------------ */

/* may_wait: until there is one, or until it must stop. */
static bool
next_question(struct guard_question *out, bool may_wait)
{
    pthread_mutex_lock(&b.lock);
    while (may_wait && b.n == 0 && !b.must_stop)
        pthread_cond_wait(&b.asked, &b.lock);
    bool is_one = b.n > 0 && !b.must_stop;
    if (is_one) {
        *out = b.questions[b.first];
        b.first = (b.first + 1) % QUESTIONS_MAX;
        b.n--;
    }
    pthread_mutex_unlock(&b.lock);
    return is_one;
}

static void *
run(void *unused)
{
    struct guard_question q;
    (void)prctl(PR_SET_NAME, "ringcorn-blame");
    while (next_question(&q, true)) {
        /* Before we ask for the GIL: who has it now, or had it last. Compared only, with threads that live then. */
        const void *holder =
            b.gil_holder != NULL ? __atomic_load_n(b.gil_holder, __ATOMIC_RELAXED) : NULL;
        int64_t wanted_ns = clock_ns();
        atomic_store(&b.wanted_ns, wanted_ns);
        PyGILState_STATE gil = PyGILState_Ensure();
        atomic_store(&b.wanted_ns, 0);
        /* Also what was asked while we waited, as the step ends when its thread has the GIL again. What runs Python may give that away, so
         * blocks come first. */
        struct place place = { 0 };
        do {
            if (q.what == GUARD_PLACE)
                see_place(&q, &place);
            else
                answer(&q, holder, clock_ns() - (q.asked_ns > wanted_ns ? q.asked_ns : wanted_ns));
        } while (next_question(&q, false));
        note_place(&place);
        PyGILState_Release(gil);
    }
    return unused;
}

void
blame_ask(const struct guard_question *question)
{
    pthread_mutex_lock(&b.lock);
    if (b.n < QUESTIONS_MAX) {
        struct guard_question *last = &b.questions[(b.first + b.n++) % QUESTIONS_MAX];
        *last = *question;
        last->asked_ns = clock_ns();
        pthread_cond_signal(&b.asked);
    }
    pthread_mutex_unlock(&b.lock);
}

int64_t
blame_waits_ns(int64_t now_ns)
{
    int64_t since_ns = atomic_load(&b.wanted_ns);
    return since_ns != 0 ? now_ns - since_ns : 0;
}

int
blame_start(PyObject *loop, struct asgi *asgi)
{
    PY_OWNED PyObject *module = PyImport_ImportModule("ringcorn.guard.blocks");
    PY_OWNED PyObject *asyncio = module != NULL ? PyImport_ImportModule("asyncio") : NULL;
    if (asyncio != NULL) {
        b.blocked = PyObject_GetAttrString(module, "blocked");
        b.over = PyObject_GetAttrString(module, "over");
        b.minute = PyObject_GetAttrString(module, "minute");
        b.place = PyObject_GetAttrString(module, "place");
        b.current_task = PyObject_GetAttrString(asyncio, "current_task");
    }
    if (b.blocked == NULL || b.over == NULL || b.minute == NULL || b.place == NULL ||
        b.current_task == NULL) {
        PyErr_WriteUnraisable(module);
        return -ENOENT;
    }
    b.loop = Py_NewRef(loop);
    b.asgi = asgi;
    b.loop_state = PyThreadState_Get();
    b.gil_holder = py_gil_holder();
    b.must_stop = b.is_alerted = false;
    b.first = b.n = 0;
    int err = thread_start(&b.thread, 0, run, NULL);
    b.is_running = err == 0;
    return -err;
}

void
blame_stop(void)
{
    if (b.is_running) {
        pthread_mutex_lock(&b.lock);
        b.must_stop = true;
        pthread_cond_signal(&b.asked);
        pthread_mutex_unlock(&b.lock);
        Py_BEGIN_ALLOW_THREADS pthread_join(b.thread, NULL);
        Py_END_ALLOW_THREADS
    }
    b.is_running = false;
    Py_CLEAR(b.loop);
    Py_CLEAR(b.blocked);
    Py_CLEAR(b.over);
    Py_CLEAR(b.minute);
    Py_CLEAR(b.place);
    Py_CLEAR(b.current_task);
    Py_CLEAR(b.words);
}

/* A child of a C library's fork() may not have the GIL: the references stay. */
void
blame_forget(void)
{
    b.is_running = false;
    b.loop = b.blocked = b.over = b.minute = b.place = b.current_task = b.words = NULL;
}
