/* tap.h: what a C unit test needs: each check prints one line of TAP, the plan comes last.
 *
 *     int main(void)
 *     {
 *         ok(add(1, 2) == 3, "add: small numbers");
 *         CHECK(add(-1, 1) == 0);
 *         return tap_done();
 *     }
 *
 * tests/tools/run_tests.py counts the lines; a program that dies before its plan is a failure of its own. */
#ifndef RINGCORN_TESTS_TAP_H
#define RINGCORN_TESTS_TAP_H

#include <stdarg.h>
#include <stdio.h>

static int tap_count, tap_failed;

/* One check, named in the style of printf(). Returns cond, so that a test can stop where going on makes no sense. */
__attribute__((format(printf, 2, 3), unused)) static int
ok(int cond, const char *format, ...)
{
    va_list args;
    printf("%sok %d - ", cond ? "" : "not ", ++tap_count);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    /* Flushed at once: what follows may crash, and forked children must not print it again. */
    fflush(stdout);
    tap_failed += !cond;
    return cond;
}

/* A check that names itself by its text and place. */
#define CHECK(cond) ok(!!(cond), "%s (%s:%d)", #cond, __FILE__, __LINE__)

/* A line for the reader; not counted. */
#define diag(...) (printf("# " __VA_ARGS__), putchar('\n'), (void)fflush(stdout))

/* Prints the plan. Returns the exit status: 0 when every check held and there was at least one. */
__attribute__((unused)) static int
tap_done(void)
{
    printf("1..%d\n", tap_count);
    if (tap_failed > 0)
        printf("# %d of %d failed\n", tap_failed, tap_count);
    fflush(stdout);
    return tap_failed > 0 || tap_count == 0;
}

#endif
