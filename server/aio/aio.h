/* aio.h: operations on files for Python code on the loop: what python/ringcorn/aio.py is made of.
 *
 *   op.c      the type _ringcorn.FileOp: one operation, an awaitable
 *   files.c   the type _ringcorn.Files: makes them from Python's arguments
 *   result.c  what an operation gives: bytes, numbers, os.stat_result, names; or an OSError with its file names
 *
 * The life of an operation:
 *
 *     NEW ──first await──> FLIGHT ──completion of the io──> DONE ──result handed out──> TAKEN
 *      │                     └─ its awaiter is cancelled: the io is asked to cancel it, and whatever it comes to is kept for the next await
 *      ├─ a read of what is in the page cache ────────────────> DONE at once, without a turn of the loop
 *      └─ the loop is not ours ──run_in_executor()──> ELSEWHERE ──> DONE
 *
 * In flight it holds a reference to itself: what the kernel reads and writes lives until the completion, whatever becomes of those
 * who wait. An operation that io_close() had to leave behind keeps it for good.
 *
 * Runs on:  the loop's thread with the GIL, but for the io's callback (without) and run() (any thread). */
#ifndef RINGCORN_AIO_H
#define RINGCORN_AIO_H

#include "py/py.h"

/* Adds _ringcorn.Files and _ringcorn.FileOp. 0, or -1 with an exception set. */
int aio_add_types(PyObject *module);

#endif
