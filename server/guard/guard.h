/* guard.h: what an application does wrong without any error, named with its request, its file and its line.
 *
 *   watchdog.c  notices that the loop stands, by its heartbeat (metrics/pulse.h), and never waits for the GIL
 *   blame.c     takes the GIL when it can be had, and says what the loop's thread does, while it still does it
 *   ringcorn.guard (Python) has the rest: words, cures, counts, and the guardrails that need no C
 *
 * Two threads a worker. The watchdog sleeps until the step that runs now would be too old; with a loop that waits for work it looks ten
 * times a second. The blamer sleeps until the watchdog asks it. Neither costs a request anything: the heartbeat is there anyway.
 *
 * A stack is right or absent. The blamer reads it with the GIL, by C functions alone, so that no Python runs on any thread meanwhile;
 * and only where the heartbeat tells that the loop is inside the very step that the watchdog saw. Where C code keeps the GIL there is no
 * stack until it lets go, and a line says so.
 *
 * A block is the time of one step (a request's, a callback's, a task's), not of a turn, which may be long because there is much to do. What
 * does not count: the time that the loop's thread was ready to run and got no CPU, or, where it often gets none, waited for the GIL, as
 * whoever has that gets none either; the time that the watchdog itself was not run (SIGSTOP,
 * a suspended machine); everything while a debugger is attached. */
#ifndef RINGCORN_GUARD_GUARD_H
#define RINGCORN_GUARD_GUARD_H

#include "asgi/asgi.h"

/* Starts both threads. block_ns: what is too long. What cannot be had is logged. asgi: outlives guard_stop(). GIL held, the loop's thread. */
void guard_start(PyObject *loop, struct asgi *asgi, int64_t block_ns);
/* Before requests are served, and after, only steps of a second and more are told of: nobody waits for them. The loop's thread. */
void guard_serving(bool is_serving);
/* Ends the threads. GIL held, and given away while it waits. A second call, and one without a start, are no-ops. */
void guard_stop(void);
/* In a child that the application has forked: there are no threads. */
void guard_forget(void);

/* "GET /path" of the request whose own task this is: a new str, or None. GIL held, the loop's thread or while it stands. */
PyObject *guard_request_of(const struct asgi *asgi, PyObject *task);

/* --- private to the folder ---------------------------------------------------------------------------- */

/* Where the loop is. Two looks that are the same saw the same step. */
struct guard_look {
    uint64_t turns;
    int64_t since_ns; /* of the step; of the turn where it wants the GIL */
    bool wants_gil;
    bool is_busy; /* else the loop waits, or is in C for a moment: nothing to watch */
};

enum guard_ask {
    GUARD_BLOCKED, /* and still is */
    GUARD_OVER,    /* what was told of last has ended */
    GUARD_MINUTE,  /* a minute has passed since something was told */
    GUARD_PLACE, /* it takes a while: where is it? Nobody is told, but the figures of its route (asgi_place()) */
};

struct guard_question {
    enum guard_ask what;
    struct guard_look at;
    int64_t held_ns;
    int64_t asked_ns; /* blame_ask() sets it */
    unsigned level;   /* 0: for the first time; 1, 2: after 1 s and 10 s */
    bool is_serving;  /* somebody may wait: guard_serving() */
};

/* A block of this length is an event for the operator too (EVENT_LOOP_BLOCKED), where somebody may wait. */
#define GUARD_ALERT_NS NS_PER_S

struct guard_look guard_look(void);
bool guard_is_same(const struct guard_look *a, const struct guard_look *b);

/* blame.c. Start and stop: GIL held. -errno. */
int blame_start(PyObject *loop, struct asgi *asgi);
void blame_stop(void);
void blame_forget(void);
/* The watchdog. Where too many are unanswered it is dropped. */
void blame_ask(const struct guard_question *question);
/* For how long the question that is worked at has waited for the GIL; 0: it has it, or there is none. */
int64_t blame_waits_ns(int64_t now_ns);

#endif
