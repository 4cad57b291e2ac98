/* log_drain.h: the thread of the master that writes the logs.
 *
 * Every process of the server has a ring (base/log_ring.h); this thread empties them all into two files, in the order in which the lines
 * were made. It alone waits for disks, so neither a worker's loop nor the master does. For a pipe or a terminal it does not wait either: a
 * few MiB are kept for a reader that is slow, then lines are dropped, counted, and said.
 *
 *     worker 0 ─ ring ─┐
 *     worker 1 ─ ring ─┼─ merged by time ─┬─ error log (standard error, or log.file)
 *     master ─── ring ─┘                  `─ access log
 *
 * It sleeps on an eventfd, which a process writes to only if the thread has said that it sleeps; after work it looks again for a few
 * milliseconds, so that under load nobody wakes anybody.
 *
 * The functions are the main thread's. fork() is called between log_drain_hold() and log_drain_release(), which keep the thread out of
 * whatever has a lock. */
#ifndef RINGCORN_MASTER_LOG_DRAIN_H
#define RINGCORN_MASTER_LOG_DRAIN_H

#include "base/base.h"

struct log_drain;
struct log_source; /* a process whose lines are written */

/* The process's own lines take this way from here on. NULL: no memory, descriptors or threads. */
struct log_drain *log_drain_start(void);
/* Writes what is left, as far as its readers take it within a moment. The lines of this process go to standard error again. */
void log_drain_stop(struct log_drain *d);

/* Copies of the descriptors, in place of those before; access_fd: -1 = none. */
void log_drain_to(struct log_drain *d, int error_fd, int access_fd);

/* For a process that is about to be forked. who: for the log, "worker"; a literal. fd: as log_ring_new(). NULL: no memory. */
struct log_source *log_drain_add(struct log_drain *d, const char *who, unsigned slot, int *fd);
/* Its process is gone: what it left is written, then the ring is freed. NULL is fine. */
void log_drain_end(struct log_drain *d, struct log_source *source);

void log_drain_hold(struct log_drain *d);
void log_drain_release(struct log_drain *d);
/* In the forked child, which holds: forgets what is the master's, and logs by this source from now on. */
void log_drain_become(struct log_drain *d, const struct log_source *source);

#endif
