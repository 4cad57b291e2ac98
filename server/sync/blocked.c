/* blocked.c: which threads only wait for the loop.
 *
 * A thread whose code waits for the loop (asgiref's run_until_future, AnyIO's from_thread) computes nothing. Its frames are
 * looked at every 5 ms while someone waits; BLOCKED_SAMPLES sightings in a row take its slot. Fewer would hit calls that only
 * pass through there. What it runs for others meanwhile (pool.working_code: asgiref's calls below async_to_sync()) is work.
 * Nobody is looked at while a slot more would help nobody, or every job ends soon: under such a load the loop does without the GIL.
 *
 * Runs on:  the loop's thread; looking, with the GIL. */
#include "sync/private.h"

#include <stdlib.h>

enum { FRAMES_MAX = 8 };

/* A job that has not had its slot for so long is not one that waits. (The slot of a lease that goes from job to job may be older.) */
#define LONG_NS (2 * SAMPLE_NS)

static bool
may_be_blocked(struct crew *c)
{
    return READ(c->blocking_n) > 0 && READ(c->waiting) > 0;
}

static bool
is_among(PyObject *code, PyObject *codes)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(codes); i++) {
        if (PyTuple_GET_ITEM(codes, i) == code)
            return true;
    }
    return false;
}

/* GIL held, and not given away: the thread stays where it is. */
static bool
is_blocked(struct crew *c, PyThreadState *state)
{
    PyObject *frame = (PyObject *)PyThreadState_GetFrame(state);
    bool is_found = false, is_working = false;
    for (int i = 0; i < FRAMES_MAX && frame != NULL && !is_found && !is_working; i++) {
        PyObject *code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame);
        is_found = is_among(code, c->blocking_code);
        is_working = is_among(code, c->working_code);
        Py_DECREF(code);
        PyObject *back = (PyObject *)PyFrame_GetBack((PyFrameObject *)frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return is_found;
}

struct sample {
    struct sync_thread *thread;
    struct sync_job *job;
    PyThreadState *state;
};

/* A thread that is looked at cannot end: it needs the GIL for it. No garbage collection may begin here, for it could run Python. */
void
blocked_sample(struct crew *c)
{
    c->sample_due_ns = clock_ns() + SAMPLE_NS;
    struct sample *samples = calloc(c->slots, sizeof *samples);
    if (samples == NULL)
        return; /* next time */
    size_t n = 0;
    crew_lock(c);
    LIST_FOR_EACH(node, &c->held) {
        struct lease *l = CONTAINER_OF(node, struct lease, held);
        if (l->has_slot && l->running != NULL && l->thread->next == NULL && n < c->slots)
            samples[n++] = (struct sample){ l->thread, l->running, l->thread->state };
    }
    crew_unlock(c);

    int had_gc = PyGC_Disable();
    for (size_t i = 0; i < n; i++) {
        bool is_it = is_blocked(c, samples[i].state);
        crew_lock(c);
        struct lease *l = NULL;
        LIST_FOR_EACH(node, &c->held) {
            struct lease *other = CONTAINER_OF(node, struct lease, held);
            if (other->thread == samples[i].thread && other->running == samples[i].job)
                l = other;
        }
        if (l != NULL && l->has_slot) {
            l->blocked_samples = is_it ? l->blocked_samples + 1 : 0;
            if (l->blocked_samples >= BLOCKED_SAMPLES && crew_is_short(c)) {
                crew_park(c, l);
                crew_dispatch(c);
            }
        }
        crew_unlock(c);
    }
    if (had_gc)
        PyGC_Enable();
    free(samples);
}

/* Lock held. */
static bool
has_run_for_long(struct crew *c, int64_t now)
{
    LIST_FOR_EACH(node, &c->held) {
        struct lease *l = CONTAINER_OF(node, struct lease, held);
        if (l->has_slot && l->running != NULL && now - l->slot_ns >= LONG_NS)
            return true;
    }
    return false;
}

bool
blocked_is_due(struct crew *c)
{
    if (!may_be_blocked(c))
        return false;
    int64_t now = clock_ns();
    if (now < c->sample_due_ns)
        return false;
    crew_lock(c);
    bool is_due = crew_is_short(c) && has_run_for_long(c, now);
    crew_unlock(c);
    if (!is_due)
        c->sample_due_ns = now + SAMPLE_NS;
    return is_due;
}

int64_t
blocked_due_ns(struct crew *c)
{
    return may_be_blocked(c) ? c->sample_due_ns : INT64_MAX;
}
