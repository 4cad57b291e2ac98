/* log.h: the error log, and the way that lines of the access log take too.
 *
 * A line says what happened, to what, and what to do about it:
 *     2026-01-31 12:00:00 +0000 [4711] warning: cannot accept connections: Too many open files
 * or, under log.format json, is an object:
 *     {"time":"2026-01-31T12:00:00.123+00:00","level":"warning","pid":4711,"worker":0,"logger":"ringcorn.error","message":"..."}
 *
 * In a running server a line goes into the process's ring (log_ring.h), which the master empties (master/log_drain.c): nobody waits for a
 * disk or for a reader, and a process that is killed loses none. Without a ring (before the server runs, in a worker whose master has
 * died, in a child that the application forks) it is written at once, by one write(2). Any thread, any time except in a signal handler
 * (log_signal_safe() is for those). */
#ifndef RINGCORN_BASE_LOG_H
#define RINGCORN_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "slice.h"

struct log_ring;

enum log_level {
    LOG_DEBUG,
    LOG_INFO,
    LOG_WARNING,
    LOG_ERROR,
};

enum { LOG_NO_SLOT = -1 };

/* Where lines go without a ring (a descriptor that stays the caller's; standard error at first) and the least level
 * that is written (LOG_INFO at first). */
void log_set_fd(int fd);
int log_fd(void);
void log_set_level(enum log_level level);
bool log_is_on(enum log_level level);
/* slot: the worker's number, or LOG_NO_SLOT. */
void log_set_form(bool is_json, bool is_coloured, int slot);
void log_set_slot(int slot);

/* ring: where lines go from now on; NULL: to the descriptors. wake_fd: an eventfd. Both stay the caller's. Returns what was there: threads
 * may be putting lines into it for a moment yet. */
struct log_ring *log_set_ring(struct log_ring *ring, int wake_fd);
/* In a process that is forked from one with a ring: its own, woken as that one's. Returns what was there. */
struct log_ring *log_change_ring(struct log_ring *ring);
/* A line of the access log, its newline included: into the ring, or to fd. */
void log_access(int fd, int64_t at_ns, const char *p, size_t n);
/* Writes to the descriptors what is left in a ring that nobody else empties any more. access_fd: -1 = none. */
void log_empty_ring(struct log_ring *ring, int access_fd);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* About a request; id: its request_id, or nothing. */
void log_about(enum log_level level, struct slice id, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A line from elsewhere, of any level. Empty parts are left out. */
struct log_entry {
    struct slice level; /* in lower case */
    struct slice logger, message, request_id;
    struct slice exception; /* a traceback: several lines */
    struct slice members;   /* for log.format json: more of the object, as JSON: "guard":{...} */
};
void log_entry(const struct log_entry *entry);

#define log_debug(...) (log_is_on(LOG_DEBUG) ? log_line(LOG_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

/* Writes text and a newline; only async-signal-safe calls. */
void log_signal_safe(const char *text);

/* What the operator did wrong: "ringcorn: <text>" on standard error, without time and pid. In a master that has a ring it goes there, as a
 * reload may find faults too, and must not stop at a reader that does not read; else it is written, briefly. */
void log_operator(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* As much of it as the reader of a blocking descriptor takes within a second. */
void log_write_briefly(int fd, const char *p, size_t n);

#endif
