/* sync.h: synchronous Python code beside the loop: fixed sets of persistent threads whose job loop
 * is C.
 *
 *   pool.c   one set of threads and its queue: the type _ringcorn.Pool
 *
 * A job is a callable and its arguments; its result comes back as an asyncio future of the loop.
 *
 *     submit() ──> queued ──thread free──> running ──> posted ──loop's phase 3──> future done
 *                     └──────future cancelled──────────┘  (loop_post(): wakes a sleeping loop)
 *
 * A pool starts a thread only when a job finds none idle and fewer than the set's size run, and
 * keeps it until the pool is closed: with it stay its PyThreadState and all that is bound to a
 * thread, such as a database connection. Idle threads are taken last in, first out: the warmest
 * first.
 *
 * A worker has two pools: `sync` for views (sync.threads), `executor` for run_in_executor(None,
 * ...), DNS and files (sync.executor_threads), so that a name look-up never waits behind a view. A
 * stand-alone loop makes its executor on demand.
 *
 * Threads are daemon threading.Thread objects named "<pool>-<n>", so current_thread(),
 * thread-locals and debuggers see what they expect. While idle they wait in a futex without the
 * GIL: they do not hold up the end of the interpreter. */
#ifndef RINGCORN_SYNC_H
#define RINGCORN_SYNC_H

#include "py/py.h"

enum { POOL_QUEUE_MAX = 100 * 1000 }; /* jobs that may wait where the caller sets no bound */

/* Adds _ringcorn.Pool. 0, or -1 with an exception set. */
int sync_add_types(PyObject *module);

/* Queues fn(*args): as Pool.submit(). Returns a new future of the pool's loop; NULL with
 * RuntimeError where the pool is closed, belongs to the parent of a fork, or its queue is full.
 * pool: a _ringcorn.Pool. May run Python (starting a thread). */
PyObject *pool_submit(PyObject *pool, PyObject *fn, PyObject *const *args, Py_ssize_t n);

#endif
