/* base.h: what every other folder may use and nothing here knows about servers or Python.
 *
 *   slice.h   a borrowed range of bytes            list.h    intrusive doubly linked list
 *   buf.h     a growing byte buffer                clock.h   monotonic time, HTTP dates
 *   log.h     one line to the error log            assert.h  checks that stay on in release builds
 *   live.h    counters of what is alive            owned.h   locals that clean up after themselves
 *   log_ring.h  lines on their way to the log
 *   lookout.h when to look for an answer before sleeping
 */
#ifndef RINGCORN_BASE_H
#define RINGCORN_BASE_H

#include "assert.h"
#include "buf.h"
#include "clock.h"
#include "list.h"
#include "live.h"
#include "log.h"
#include "log_ring.h"
#include "lookout.h"
#include "owned.h"
#include "slice.h"

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
