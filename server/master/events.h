/* events.h: what an operator is woken for: events.command and events.webhook.
 *
 * An event is an object of JSON in one line:
 *     {"kind":"worker_hung","time":"2026-01-31T12:00:00.123Z","host":"web1","name":"mysite","server_pid":4710,"worker":1,"pid":4711,
 *      "what":"...","details":{...},"suppressed":3}
 * worker and pid are there where it concerns one; suppressed counts those of the kind that were held back by events.interval since the
 * last one that was told.
 *
 * The master only forks: a child executes the command, with the event on its standard input; another posts it (webhook.c). Both have
 * the rights of the workers, none of the master's descriptors, and a time limit. A few run at a time, the others wait; what finds no
 * place is counted as held back. The master's thread. */
#ifndef RINGCORN_MASTER_EVENTS_H
#define RINGCORN_MASTER_EVENTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/slice.h"
#include "conf/conf.h"

struct master;
struct child;
struct events;

/* A member of "details". */
struct event_detail {
    const char *name; /* NULL ends the list */
    const char *text; /* or NULL: n */
    int64_t n;
};
#define EVENT_DETAILS(...) ((const struct event_detail[]){ __VA_ARGS__, { 0 } })

/* Without memory nothing is told, and that is logged. */
void events_open(struct master *m);
/* c: the worker that it is about, or NULL. details: NULL = none. Then what has happened, in a sentence. Returns at once. */
void events_note(struct master *m, enum conf_event kind, const struct child *c,
                 const struct event_detail *details, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* Whether one of that kind would be told now, and not held back. */
bool events_may(const struct master *m, enum conf_event kind);
void events_tick(struct master *m, int64_t now_ns);
int64_t events_next_ns(const struct master *m);
/* A child of the master's that may be one of these. */
void events_reaped(struct master *m, pid_t pid, int status);
/* In a forked child: closes descriptors, no more. */
void events_forget(struct master *m);
/* The end: waits a moment for what is on its way, then ends it. */
void events_close(struct master *m);

/* --- webhook.c: in a child of its own, which it may block ---------------------------------------- */

/* Posts the body. Returns 0, or -1 with why filled in. */
int webhook_post(const char *url, struct slice body, char *why, size_t why_size);

#endif
