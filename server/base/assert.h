/* assert.h: checks of our own invariants. ASSERT stays on in release builds: a broken invariant ends the worker with
 * a line that names it, and the master starts another. Bad input is never an assertion: it is an error path. */
#ifndef RINGCORN_BASE_ASSERT_H
#define RINGCORN_BASE_ASSERT_H

_Noreturn void assert_failed(const char *condition, const char *file, int line);

#define ASSERT(condition)                                                                          \
    (__builtin_expect(!!(condition), 1) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))

/* For checks too dear for release builds. */
#ifdef RINGCORN_DEBUG
#define DEBUG_ASSERT(condition) ASSERT(condition)
#else
#define DEBUG_ASSERT(condition) ((void)sizeof(condition))
#endif

#endif
